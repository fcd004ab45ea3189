"""Several processes that train one network, as ``torchrun`` starts them.

Each has all images, takes its part of every batch, and after the step the same weights as the
others. What is drawn is drawn for the whole batch by everyone (:mod:`training.dice`), the parts
together are the batch of one process, and no image is counted twice or padded: the run is that of
one process, up to the rounding of sums in another order.

What shards tensors takes a second to import, and is imported where there are several processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """Who takes part. By default one process, for which everything here does nothing."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0  # on this machine

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    def device(self, kind: str) -> torch.device:
        """This process's device of a kind, ``"cpu"`` or ``"cuda"``."""
        return torch.device(kind, self.local_rank) if kind == "cuda" else torch.device(kind)

    def part(self, n: int) -> Tensor:
        """Positions, out of n, that are this process's: (about n / size,) int64, ascending.

        The position i and its partner n - 1 - i, with which it may be mixed, are in one part.
        """
        i = torch.arange(n)
        return i[torch.minimum(i, n - 1 - i) % self.size == self.rank]

    def total(self, x: Tensor) -> Tensor:
        """The sum of x over all processes, in place."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def greatest(self, value: int, device: torch.device) -> int:
        """The greatest of the values of all processes."""
        if self.size == 1:
            return value
        box = torch.tensor(value, device=device)
        dist.all_reduce(box, dist.ReduceOp.MAX)
        return int(box)

    def like_the_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite them with those of the first process."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def gathered(self, value: T) -> list[T]:
        """The values of all processes, in the order of their ranks."""
        values: list[Any] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def same(self, make: Callable[[], T]) -> T:
        """What ``make`` returns or raises in the first process, in each of them."""
        if self.size == 1:
            return make()
        box: list[Any] = [None, None]
        if self.first:
            try:
                box[0] = make()
            except (Exception, SystemExit) as error:
                box[1] = error
        dist.broadcast_object_list(box)
        if box[1] is not None:
            raise box[1]
        value: T = box[0]
        return value

    def in_turn(self, do: Callable[[], T]) -> T:
        """Let the first process do it before the others, who may then find it done."""
        if self.size > 1 and not self.first:
            dist.barrier()
        done = do()
        if self.size > 1 and self.first:
            dist.barrier()
        return done


ALONE = World()


def shard(model: nn.Module) -> None:
    """Let each process hold a part of every parameter, and fetch the rest when a child runs.

    The model is changed in place, its parameters are replaced.
    """
    from torch.distributed.fsdp import fully_shard

    for child in model.children():
        if next(child.parameters(), None) is not None:
            fully_shard(child)
    fully_shard(model)


def whole(state: T) -> T:
    """The same nest of dicts and lists with whole tensors for sharded ones. For all processes."""
    if not dist.is_initialized():
        return state
    from torch.distributed.tensor import DTensor

    made: T = tree_map(lambda x: x.full_tensor() if isinstance(x, DTensor) else x, state)
    return made


def like(value: Any, own: Any) -> Any:
    """``value``, or if it is a whole tensor and ``own`` a sharded one of its shape, its shards."""
    if not dist.is_initialized():
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    if isinstance(own, DTensor) and isinstance(value, Tensor) and value.shape == own.shape:
        return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)
    return value


@contextmanager
def exchange(network: nn.Module, true: bool) -> Iterator[None]:
    """Within it, whether a backward pass adds up the gradients of all processes."""
    if not dist.is_initialized():
        yield
        return
    from torch.distributed.fsdp import FSDPModule

    if isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(true)
        yield
    elif isinstance(network, DistributedDataParallel) and not true:
        with network.no_sync():
            yield
    else:
        yield


def is_lost(error: RuntimeError) -> bool:
    """Whether an exchange failed because another process has ended."""
    lost = ("Connection closed by peer", "Connection reset by peer")  # of gloo
    return isinstance(error, dist.DistError) or any(words in str(error) for words in lost)


def processes() -> int:
    """How many ``torchrun`` has started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def world() -> Iterator[World]:
    """Join the other processes, if ``torchrun`` has started any, and leave them at the end."""
    size = processes()
    if size == 1:
        yield World()
        return
    here = World(int(os.environ["RANK"]), size, int(os.environ["LOCAL_RANK"]))
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(here.local_rank)
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo")
    try:
        yield here
    finally:
        dist.destroy_process_group()
