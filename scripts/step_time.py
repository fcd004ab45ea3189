"""Where the time of a training step goes, beside what the machine could do, and both stacks.

    python scripts/step_time.py                                   the default run, on digits
    python scripts/step_time.py --preset cpu5m --data-dir DIR     any run of cifar10.py

*Stacks*: the step with hand-written layers and optimizer, and that with PyTorch's own, take turns
in one process; the figure is the median of the ratios of the rounds.

*Parts*: choosing and augmenting a batch, preparing it, forward, backward, and the optimizer, each
by itself, the median of several.

*Floor*: the step's multiplications and additions (``torch.utils.flop_counter``) by how many a
product of large matrices does in a second on this machine, in the dtype of the run; and what its
operations read and write, each tensor counted where it is an argument or a result and no operation
is fused with another, by how much a copy of a large tensor moves in a second. A step cannot be
faster than the first; where it is faster than the second, fusing and caches are why.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

import timed_run
from benchmark import Clock, figures
from timed_run import make_trainer
from training.data import Data
from training.loop import AMP, Trainer
from training.options import BY_HAND_ONLY, Config

CALLS = 7  # of a part
MATRIX = 2048  # rows and columns of the product
COPIED = 2**28  # bytes


class Traffic(TorchDispatchMode):
    """Adds up the bytes that operations read and write; views move nothing."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count, and compute."""
        found = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [x for x in tree_leaves((args, kwargs, found)) if isinstance(x, Tensor)]
            self.bytes += sum(x.numel() * x.element_size() for x in tensors)
        return found


def built_in(config: Config) -> Config:
    """The same with PyTorch's layers, and with its optimizer if it has that one."""
    optim = config.optim if config.optimizer in BY_HAND_ONLY else "torch"
    return dataclasses.replace(
        config, layers="torch", kernels="eager", fused_layers=False, optim=optim, focal=0.0
    )


def step(trainer: Trainer, pixels: int) -> Callable[[], None]:
    """A whole step, with the augmentation of its batch."""
    chosen = torch.arange(trainer.config.batch_size, device=trainer.device)

    def run() -> None:
        trainer.run.model.train()
        trainer.train_step(trainer.batch(chosen), measure=False, pixels=pixels)
        trainer.window.clear()

    return run


def parts(trainer: Trainer, clock: Clock, pixels: int) -> dict[str, float]:
    """Median seconds of the parts of a step."""
    chosen = torch.arange(trainer.config.batch_size, device=trainer.device)
    run = trainer.run
    batch = trainer.batch(chosen)
    kept: dict[str, Tensor] = {}

    def prepare() -> None:
        kept["images"] = trainer.prepare(batch.images, pixels)

    def forward() -> None:
        run.optimizer.zero_grad(set_to_none=True)
        with trainer.precision:
            logits = trainer.network(kept["images"])
            kept["loss"] = trainer.objective(logits, batch)

    calls: dict[str, Callable[[], object]] = {
        "choose and augment": lambda: trainer.batch(chosen),
        "normalize and scale": prepare,
        "forward": forward,
        "backward": lambda: run.scaler.scale(kept["loss"]).backward(),
        "optimizer": run.optimizer.step,
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(1 + CALLS):
        for name, call in calls.items():
            times[name].append(clock.once(call))
    return {name: statistics.median(found[1:]) for name, found in times.items()}


def work(config: Config, data: Data, pixels: int) -> tuple[int, int]:
    """Operations on numbers, and bytes read and written, of forward and backward as they stand."""
    trainer = make_trainer(dataclasses.replace(config, compile=False, kernels="eager"), data)
    batch = trainer.batch(torch.arange(config.batch_size, device=trainer.device))
    images = trainer.prepare(batch.images, pixels)
    with FlopCounterMode(display=False) as flops, Traffic() as traffic, trainer.precision:
        trainer.objective(trainer.network(images), batch).backward()
    return flops.get_total_flops(), traffic.bytes


def ability(device: torch.device, dtype: torch.dtype, clock: Clock) -> tuple[float, float]:
    """Operations, and bytes, that the machine does in a second at best."""
    a, b = (torch.randn(MATRIX, MATRIX, device=device).to(dtype) for _ in range(2))
    source = torch.zeros(COPIED // 4, device=device)
    target = torch.empty_like(source)
    product = min(clock.once(lambda: a @ b) for _ in range(CALLS))
    copy = min(clock.once(lambda: target.copy_(source)) for _ in range(CALLS))
    return 2 * MATRIX**3 / product, 2 * COPIED / copy


def measure(config: Config, data: Data, clock: Clock, folder: Path) -> dict[str, Any]:
    """A row for each of the run's sizes of images; nothing is written."""
    ours, theirs = make_trainer(config, data), make_trainer(built_in(config), data)
    flops, bytes_ = ability(ours.device, AMP[config.amp], clock)
    rows = []
    for pixels in ours.sizes:
        times = clock.compare({"scratch": step(ours, pixels), "torch": step(theirs, pixels)})
        did, moved = work(config, data, pixels)
        rows.append(
            {
                "pixels": pixels,
                **figures(times, "scratch", "torch"),
                "parts_microseconds": {
                    name: 1e6 * seconds for name, seconds in parts(ours, clock, pixels).items()
                },
                "flop": did,
                "bytes": moved,
                "floor_flop_microseconds": 1e6 * did / flops,
                "floor_bytes_microseconds": 1e6 * moved / bytes_,
            }
        )
    return {"rows": rows}


def show(report: dict[str, Any]) -> str:
    """The report, for people."""
    return "\n".join(map(show_row, report["rows"]))


def show_row(row: dict[str, Any]) -> str:
    """A row, for people."""
    total = row["microseconds"] / 1e3
    lines = [
        f"{row['pixels']} pixels: {total:.1f} ms a step, {row['ratio']:.3f} of that of PyTorch's "
        f"layers and optimizer ({row['microseconds_against'] / 1e3:.1f} ms), {row['rounds']} rounds"
    ]
    for name, value in row["parts_microseconds"].items():
        lines.append(f"{value / 1e3:10.1f} ms  {name}")
    lines.append(
        f"{row['floor_flop_microseconds'] / 1e3:10.1f} ms  floor of {row['flop'] / 1e9:.1f} GFLOP"
    )
    lines.append(
        f"{row['floor_bytes_microseconds'] / 1e3:10.1f} ms  for the {row['bytes'] / 2**30:.2f} GiB "
        "of operations that are not fused"
    )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and write the report where ``--out`` says. Returns the exit code."""
    script, doc = Path(__file__).name, __doc__ or ""
    return timed_run.main("step", script, doc, measure, show, argv, seconds=30, rounds=7)


if __name__ == "__main__":
    sys.exit(main())
