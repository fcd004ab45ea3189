"""How much of the time of a training run TensorBoard takes.

    python scripts/board_cost.py                                        the default run, on digits
    python scripts/board_cost.py --dataset cifar10 --data-dir DIR ...   any run of cifar10.py

Two trainers of the same run, one with an event file and one without, take turns in one process, in
a new order each round: ``--log-every`` steps and the point of the curves after them. The figure is
the median of the ratios of the rounds. What is written at the end of every epoch, every
``--pictures-every`` epochs and once a run is timed by itself, and its share follows from how often
it comes. The report is printed, and written as JSON where ``--out`` says.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmark import Clock, figures, machine
from training.data import Data
from training.data import load as load_data
from training.errors import UsageError
from training.loop import Trainer, begin
from training.options import Config, parse
from training.result import environment, versions
from training.tensorboard import Board

CALLS = 5  # of what is timed by itself


def make_trainer(config: Config, data: Data, board: Board | None) -> Trainer:
    """A trainer at the beginning of the run."""
    torch.manual_seed(config.seed)
    run, network = begin(config, data)
    return Trainer(config, data, run, board, lambda line: None, network=network)


def stretch(trainer: Trainer) -> Callable[[], None]:
    """As many steps as lie between two points of the curves, and the point."""
    config = trainer.config
    steps = min(config.log_every, trainer.steps_per_epoch)
    order = torch.arange(steps * config.batch_size, device=trainer.device)
    batches = order.split(config.batch_size)

    def run() -> None:
        trainer.run.model.train()
        trainer.clock = time.perf_counter()
        for i, chosen in enumerate(batches):
            measure = trainer.board is not None and i + 1 == steps
            trainer.train_step(trainer.batch(chosen), measure=measure)
        trainer.read()

    return run


def cost(config: Config, data: Data, clock: Clock, folder: Path) -> dict[str, Any]:
    """Time the parts of what a board does, and say how much of the steps' time they take.

    Args:
        config: of the run.
        data: on its device.
        clock: how long to take turns.
        folder: for the event file.
    """
    board = Board(str(folder))
    without, shown = (make_trainer(config, data, b) for b in (None, board))
    times = clock.compare({"board": stretch(shown), "none": stretch(without)})
    points = figures(times, "board", "none")
    step = statistics.median(times["none"]) / min(config.log_every, shown.steps_per_epoch)

    held = data.validation
    measured = shown.evaluate(held) if len(held) else None
    tested = shown.evaluate(data.test)
    row = {"train_loss": 1.0, "train_accuracy": 0.5}
    device = shown.device
    texts = config.as_json(), versions(device), environment(device)

    def start() -> None:
        board.describe(*texts, 0)
        board.graph(shown.run.model)

    def end() -> None:
        shown.show_test(board, tested, shown.figures(tested, None))

    calls: dict[str, tuple[Callable[[], object], float]] = {  # and steps from one to the next
        "start": (start, shown.total_steps),
        "epoch": (lambda: shown.show_epoch(board, row, measured), shown.steps_per_epoch),
        "pictures": (
            lambda: shown.show_pictures(board, measured),
            config.pictures_every * shown.steps_per_epoch or shown.total_steps,
        ),
        "end": (
            lambda: shown.show_test(board, tested, shown.figures(tested, None)),
            shown.total_steps,
        ),
    }
    rows = [{"what": "points", **points, "share": points["ratio"] - 1}]
    for what, (call, steps) in calls.items():

        def written(call: Callable[[], object] = call) -> None:
            call()
            board.flush()

        seconds = statistics.median([clock.once(written) for _ in range(1 + CALLS)][1:])
        share = seconds / (steps * step)
        rows.append({"what": what, "microseconds": 1e6 * seconds, "share": share})
    board.close()
    return {"step_microseconds": 1e6 * step, "rows": rows, "share": sum(r["share"] for r in rows)}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and write the report where ``--out`` says. Returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="All other options are those of cifar10.py.",
        allow_abbrev=False,
    )
    parser.add_argument("--seconds", type=float, default=60, help="of the steps (%(default)s)")
    parser.add_argument("--rounds", type=int, default=11, help="of them, at least (%(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file for the report (default: none)")
    own, rest = parser.parse_known_args(argv)
    try:
        with tempfile.TemporaryDirectory() as folder:
            config = parse([*rest, "--log-dir", folder])
            data = load_data(config.dataset, config.data_dir, config.seed, print, config.holdout)
            device = torch.device(config.device)
            clock = Clock(device, own.seconds, own.rounds)
            report = cost(config, data.to(device), clock, Path(folder))
    except UsageError as error:
        print(f"board_cost.py: error: {error}", file=sys.stderr)
        return 2
    for row in report["rows"]:
        print(f"{row['share']:8.2%}  {row['what']}")
    print(f"{report['share']:8.2%}  of {report['step_microseconds'] / 1e3:.1f} ms a step in all")
    if own.out is not None:
        report = {"benchmark": "board", "machine": machine(device), **report}
        report["config"] = {k: v for k, v in config.as_json().items() if not k.endswith("_dir")}
        own.out.write_text(json.dumps(report, indent=1) + "\n")
        print(f"-> {own.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
