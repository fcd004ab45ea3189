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

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import timed_run
from benchmark import Clock, figures
from timed_run import make_trainer
from training.data import Data
from training.loop import Trainer
from training.options import Config
from training.result import environment, versions
from training.tensorboard import Board

CALLS = 5  # of what is timed by itself


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
        "end": (end, shown.total_steps),
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


def show(report: dict[str, Any]) -> str:
    """The report, for people."""
    lines = [f"{row['share']:8.2%}  {row['what']}" for row in report["rows"]]
    step = report["step_microseconds"] / 1e3
    return "\n".join([*lines, f"{report['share']:8.2%}  of {step:.1f} ms a step in all"])


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and write the report where ``--out`` says. Returns the exit code."""
    script, doc = Path(__file__).name, __doc__ or ""
    return timed_run.main("board", script, doc, cost, show, argv, seconds=60, rounds=11)


if __name__ == "__main__":
    sys.exit(main())
