"""``python -m scratch_layers.testing package.module:Class --reference torch.nn:BatchNorm2d``."""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Sequence
from typing import Any

from scratch_layers.testing import CHECKS, Case, Subject, checks_for, normal
from scratch_optim.testing import kit


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text  # "mean"


def _cases(arguments: argparse.Namespace) -> list[Case] | None:
    if arguments.input is None:
        if arguments.args or arguments.options:
            raise ValueError("--args and --options make a case of their own, which needs --input")
        return None
    shape = _value(f"({arguments.input},)")
    if not (isinstance(shape, tuple) and all(isinstance(size, int) for size in shape)):
        raise ValueError(f"--input takes a shape such as 4,3,5,5, but got {arguments.input!r}")
    options = dict(pair.partition("=")[::2] for pair in arguments.options)
    return [
        Case(
            normal(*shape),
            tuple(_value(text) for text in arguments.args),
            {name: _value(text) for name, text in options.items()},
            random=arguments.random,
        )
    ]


def _subject(arguments: argparse.Namespace) -> Subject:
    return Subject(
        kit.named(arguments.subject),
        kit.named(arguments.reference) if arguments.reference else None,
        cases=_cases(arguments),
        ulps=arguments.ulps,
        drop_in=arguments.drop_in,
        device=arguments.device,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Check a class; return 0 if it passes, 1 if not, 2 if the arguments make no sense."""
    parser = kit.argument_parser("python -m scratch_layers.testing", "a layer")
    parser.add_argument(
        "--input", metavar="SHAPE", help="shape of a normal input: 4,3,5,5; default: the kit's"
    )
    parser.add_argument("--args", nargs="+", default=[], help="positional arguments: 3")
    parser.add_argument(
        "--options", nargs="+", default=[], metavar="NAME=VALUE", help="options: eps=0.1"
    )
    parser.add_argument("--random", action="store_true", help="it draws numbers in training")
    parser.add_argument("--ulps", type=float, help="0: to the last bit; default: up to roundings")
    parser.add_argument(
        "--drop-in", action="store_true", help="also check names, words, attributes and states"
    )
    parser.epilog = "Checks, of which each family has its own: " + ", ".join(map(repr, CHECKS))
    return kit.command_line(parser, checks_for, _subject, argv)


if __name__ == "__main__":
    from scratch_layers.testing.__main__ import main as by_name  # other processes import it so

    sys.exit(by_name())
