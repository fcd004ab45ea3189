"""What the scripts that time a training run share: its trainer, their command line, the report."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmark import Clock, machine
from training.data import Data
from training.data import load as load_data
from training.errors import UsageError
from training.loop import Trainer, begin
from training.options import Config, parse
from training.tensorboard import Board

Measure = Callable[[Config, Data, Clock, Path], dict[str, Any]]
"""Makes a report, of options, data on their device, a clock, and an empty folder."""


def make_trainer(config: Config, data: Data, board: Board | None = None) -> Trainer:
    """A trainer at the beginning of the run."""
    torch.manual_seed(config.seed)
    run, network = begin(config, data)
    return Trainer(config, data, run, board, lambda line: None, network=network)


def has_folder(out: Path | None) -> None:
    """Tell before anything is measured that a report could not be written.

    Raises:
        UsageError: there is no folder for that file.
    """
    if out is not None and not out.parent.is_dir():
        raise UsageError(f"--out {out}: there is no folder {out.parent}. Make it first.")


def keep(out: Path, name: str, report: dict[str, Any], config: Config) -> None:
    """Write a report to a JSON file, with the machine and the options.

    Args:
        out: the file.
        name: of the benchmark.
        report: in the types of JSON.
        config: whose folders are left out: they are those of this machine.
    """
    options = {k: v for k, v in config.as_json().items() if not k.endswith("_dir")}
    head = {"benchmark": name, "machine": machine(torch.device(config.device))}
    out.write_text(json.dumps({**head, **report, "config": options}, indent=1) + "\n")
    print(f"-> {out}")


def main(
    name: str,
    script: str,
    doc: str,
    measure: Measure,
    show: Callable[[dict[str, Any]], str],
    argv: Sequence[str] | None,
    *,
    seconds: float,
    rounds: int,
) -> int:
    """Measure, print, and write the report where ``--out`` says. Returns the exit code.

    Args:
        name: of the benchmark.
        script: its file.
        doc: of the script; its first line describes it.
        measure: makes the report.
        show: of the report, for people.
        argv: the command line; options that are not known here are those of cifar10.py.
        seconds: how long a comparison takes by default, at least.
        rounds: likewise.
    """
    parser = argparse.ArgumentParser(
        prog=script,
        description=doc.split("\n")[0],
        epilog="All other options are those of cifar10.py.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--seconds", type=float, default=seconds, help="of a comparison, at least (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=rounds, help="of it, at least (%(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file for the report (default: none)")
    own, rest = parser.parse_known_args(argv)
    try:
        has_folder(own.out)
        with tempfile.TemporaryDirectory() as folder:
            config = parse([*rest, "--log-dir", folder])
            data = load_data(config.dataset, config.data_dir, config.seed, print, config.holdout)
            device = torch.device(config.device)
            clock = Clock(device, own.seconds, own.rounds)
            report = measure(config, data.to(device), clock, Path(folder))
    except UsageError as error:
        print(f"{script}: error: {error}", file=sys.stderr)
        return 2
    print(show(report))
    if own.out is not None:
        keep(own.out, name, report, config)
    return 0
