"""What it costs to explain an optimizer, and that it costs nothing when it is not.

    python scripts/explain_cost.py --out benchmarks/results/explain-cpu.json

Four optimizers of the same parameters and gradients take turns in one process, in a new order each
round, each several steps: one that was never explained, another such one, by which to see how far
two that are alike differ, one that was explained and is no more, and one that is explained but
whose turn has not come. The figures are the medians of the ratios of the rounds to the first. What
a step takes that is explained is timed by itself.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import scratch_optim
from benchmark import WAYS, Clock, figures, machine, parameters
from scratch_layers.resnet import resnet20
from scratch_optim.explain import explain

STEPS = 20  # of a turn
CALLS = 11  # of a step that is explained
NEVER = 2**62  # steps

SETS: dict[str, Callable[[], list[torch.Size]]] = {
    "one layer": lambda: [torch.Size((16, 16)), torch.Size((16,))],
    "ResNet-20": lambda: [p.shape for p in resnet20().parameters()],
}
"""Parameters of which a step takes little time, and those of a network."""

OPTIMIZERS: dict[str, dict[str, Any]] = {"SGD": {"momentum": 0.9}, "Adam": {}}


def ignore(values: dict[str, float], step: int) -> None:
    """Take the values."""


def steps(optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """A turn."""

    def run() -> None:
        for _ in range(STEPS):
            optimizer.step()

    return run


def measure(name: str, options: dict[str, Any], params: list[Any], clock: Clock) -> dict[str, Any]:
    """Time an optimizer of these parameters."""

    def make() -> Any:
        return getattr(scratch_optim, name)(params, lr=1e-6, **options)

    never, again, removed, waiting, explained = (make() for _ in range(5))
    handle = explain(removed, ignore, 1)
    removed.step()
    handle.remove()
    explain(waiting, ignore, NEVER)
    explain(explained, ignore, 1)
    contestants = {"never": never, "again": again, "removed": removed, "waiting": waiting}
    times = clock.compare({key: steps(optimizer) for key, optimizer in contestants.items()})
    step = statistics.median(times["never"]) / STEPS
    once = statistics.median([clock.once(explained.step) for _ in range(1 + CALLS)][1:])
    return {
        "step_microseconds": 1e6 * step,
        "rounds": len(times["never"]),
        **{key: figures(times, key, "never")["ratio"] for key in ("again", "removed", "waiting")},
        "explained_microseconds": 1e6 * once,
        "every_100": 1 + (once - step) / (100 * step),
    }


def show(row: dict[str, Any]) -> str:
    """A row, for people."""
    ratios = ", ".join(f"{key} {row[key]:.3f}" for key in ("again", "removed", "waiting"))
    return (
        f"{row['parameters']:10} {row['optimizer']:5} {row['way']:8} "
        f"{row['step_microseconds']:8.0f} us a step: {ratios}; explained "
        f"{row['explained_microseconds'] / 1e3:.1f} ms, every 100th {row['every_100']:.3f}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and write the report where ``--out`` says. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog=Path(__file__).name, description=(__doc__ or "").split("\n")[0], allow_abbrev=False
    )
    parser.add_argument(
        "--seconds", type=float, default=10, help="of a comparison, at least (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=51, help="of it, at least (%(default)s)")
    parser.add_argument("--out", type=Path, help="JSON file for the report (default: none)")
    given = parser.parse_args(argv)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # it is Python's time that is asked for
    device = torch.device("cpu")
    clock = Clock(device, given.seconds, given.rounds)
    rows = []
    for title, shapes in SETS.items():
        params: list[Tensor] = list(parameters(shapes(), device))
        for name, options in OPTIMIZERS.items():
            for way in ("for-loop", "foreach"):
                found = measure(name, options | WAYS[way], params, clock)
                rows.append({"parameters": title, "optimizer": name, "way": way, **found})
                print(show(rows[-1]), flush=True)
    if given.out is not None:
        report = {"benchmark": "explain", "machine": machine(device), "rows": rows}
        given.out.write_text(json.dumps(report, indent=1) + "\n")
        print(f"-> {given.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
