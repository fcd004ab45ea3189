"""Steps of the training recorded once as CUDA graphs and replayed: one launch in place of hundreds.

A step of a small network is over on the device before the host has launched its kernels one by one.
A CUDA graph launches all of them at once; it repeats what it recorded, on the same memory and with
the same numbers. So what changes from step to step is put where it was when the step was recorded:
the batch, and the learning rates, which are tensors while the optimizer computes. Everything else
that changes (weights, state, statistics, random numbers) is on the device anyway.

The first steps are taken as usual, since compiling, choosing algorithms and making the optimizer's
state cannot be recorded.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from training.batch import Batch

Compute = Callable[..., Tensor]
"""Of a batch, pixels, and whatever else."""

SETTLED = 3
"""Steps of each kind that are taken before one is recorded."""


class Rates:
    """The learning rates of an optimizer, as numbers and as tensors on the device.

    Schedules and checkpoints see numbers, the optimizer's equation tensors.
    """

    def __init__(self, optimizer: Optimizer, device: torch.device) -> None:
        self.optimizer = optimizer
        self.tensors = [torch.zeros((), device=device) for _ in optimizer.param_groups]

    @contextmanager
    def on_device(self) -> Iterator[None]:
        """Within it, every group's ``lr`` is a tensor of its present value."""
        groups = self.optimizer.param_groups
        numbers = [group["lr"] for group in groups]
        self.update()
        for group, tensor in zip(groups, self.tensors, strict=True):
            group["lr"] = tensor
        try:
            yield
        finally:
            for group, number in zip(groups, numbers, strict=True):
                group["lr"] = number

    def update(self) -> None:
        """Write the present numbers into the tensors; the host does not wait."""
        for group, tensor in zip(self.optimizer.param_groups, self.tensors, strict=True):
            tensor.fill_(group["lr"])


@dataclasses.dataclass
class Recorded:
    """A step on the device: to be repeated after its batch is put in place."""

    batch: Batch
    replay: Callable[[], object]
    result: Tensor


class Graphs:
    """Takes steps, by replaying what it recorded as soon as it can.

    Args:
        compute: a step, of a batch and the height and width its images are scaled to, and maybe
            more: what it changes and returns is on the device, as is what differs between steps.
        rates: of the optimizer that ``compute`` lets step.
    """

    def __init__(self, compute: Compute, rates: Rates) -> None:
        self.compute, self.rates, self.capture = compute, rates, Recorder()
        self.taken: Counter[Hashable] = Counter()
        self.recorded: dict[Hashable, Recorded] = {}

    def __call__(self, batch: Batch, pixels: int) -> Tensor:
        """Take a step; what ``compute`` returns."""
        batch = batch.on_device()
        kind = (pixels, batch.images.shape, batch.others is None)
        if kind not in self.recorded:
            if self.taken[kind] < SETTLED:
                self.taken[kind] += 1
                return self.as_usual(batch, pixels)
            kept = batch.clone()
            with self.rates.on_device():
                replay, result = self.capture(lambda: self.compute(kept, pixels))
            self.recorded[kind] = Recorded(kept, replay, result)
        step = self.recorded[kind]
        step.batch.copy_(batch)
        self.rates.update()
        step.replay()
        return step.result.clone()  # the next replay writes over it

    def as_usual(self, batch: Batch, *options: Any) -> Tensor:
        """Take a step whose operations are launched one by one, but with the same bits."""
        with self.rates.on_device():
            return self.compute(batch.on_device(), *options)


class Recorder:
    """Records functions as CUDA graphs that share their memory: they never run at once."""

    def __init__(self) -> None:
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], Tensor]) -> tuple[Callable[[], object], Tensor]:
        """What replays it, and its result, which every replay writes anew."""
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            result = function()
        return graph.replay, result
