"""``python -m scratch_optim.testing package.module:Class --reference torch.optim:Adam``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from . import CHECKS, kit
from .kit import Check
from .subject import Subject


def _subject(arguments: argparse.Namespace) -> Subject:
    try:
        options = tuple(json.loads(text) for text in arguments.options)
    except json.JSONDecodeError as error:
        raise ValueError(f"--options takes JSON, but got {error.doc!r}: {error}") from error
    return Subject(
        kit.named(arguments.subject),
        kit.named(arguments.reference) if arguments.reference else None,
        options or None,
        arguments.ulps,
        arguments.drop_in,
        arguments.device,
        {"foreach": False} if arguments.reference_loops else {},
    )


def _checks(subject: Subject) -> Sequence[Check]:
    return CHECKS


def main(argv: Sequence[str] | None = None) -> int:
    """Check a class; return 0 if it passes, 1 if not, 2 if the arguments make no sense."""
    parser = kit.argument_parser("python -m scratch_optim.testing", "an optimizer")
    parser.add_argument(
        "--options",
        nargs="+",
        default=[],
        metavar="JSON",
        help="combinations of options, such as '{\"lr\": 0.1}'; default: from the signature",
    )
    parser.add_argument("--ulps", type=float, help="0: to the last bit; default: up to roundings")
    parser.add_argument(
        "--drop-in", action="store_true", help="also check signature, messages and state dicts"
    )
    parser.add_argument(
        "--reference-loops", action="store_true", help="run the reference with foreach=False"
    )
    parser.epilog = "Checks: " + ", ".join(check.name for check in CHECKS)
    return kit.command_line(parser, _checks, _subject, argv)


if __name__ == "__main__":
    from scratch_optim.testing.__main__ import main as by_name  # other processes import it so

    sys.exit(by_name())
