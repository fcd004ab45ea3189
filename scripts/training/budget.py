"""How many steps fit into a budget of time."""

from __future__ import annotations

import copy
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from training.loop import Trainer

WARM_UP, TIMED = 2, 5
"""Steps at each size that are taken before the clock runs, and that are timed."""


def seconds_per_step(trainer: Trainer) -> list[float]:
    """The median time of a step at each of the run's sizes, its augmentation included.

    The steps are real ones, on training images, and compile what is to be compiled; what they
    change (weights, state, random numbers) is put back.
    """
    run, size = trainer.run, trainer.config.batch_size
    before = copy.deepcopy(run.state_dict())
    chosen = torch.arange(size, device=trainer.device)
    found = []
    for pixels in trainer.sizes:
        times = []
        for _ in range(WARM_UP + TIMED):
            begin = time.perf_counter()
            trainer.train_step(trainer.batch(chosen), measure=False, pixels=pixels)
            if trainer.device.type == "cuda":
                torch.cuda.synchronize(trainer.device)
            times.append(time.perf_counter() - begin)
        found.append(statistics.median(times[WARM_UP:]))
    trainer.window = []
    run.optimizer.zero_grad(set_to_none=True)
    run.load_state_dict(before, Path("the state before the run"))
    return found


def steps_within(seconds: float, per_step: list[float]) -> int:
    """The steps that take so many seconds, in parts of equal numbers of steps; at least one a part.

    Args:
        seconds: the budget.
        per_step: seconds of a step in each of the parts.
    """
    return max(len(per_step), int(seconds / statistics.mean(per_step)))
