"""How parameters lie in memory, and the pieces in which they are updated.

An equation that is computed element by element may be computed on any pieces of the parameters,
so the base class is free to choose those that a processor likes: on the CPU large tensors are cut
into blocks that stay in the cache from the first operation of the equation to the last, and small
ones are copied together into rows, since calling an operation costs more than computing it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

from . import fused

Cut: TypeAlias = Callable[[list[Tensor]], list[Tensor]]
"""Makes pieces of tensors, one for each parameter. Which tensor a piece is of depends on the sizes
alone, so that parameters, gradients and states are cut alike."""

Share: TypeAlias = Callable[[list[int]], list[slice]]
"""Says which pieces, of the sizes given, are updated together."""

BLOCK = 2**19
"""Elements in a block of the foreach way on the CPU: 2 MiB an operand in float32. Of the blocks
tried (2**16 to 2**20 on 2 cores with 1 MiB of second-level and 32 MiB of third-level cache) smaller
ones spend their time on starting parallel loops, and larger ones gain nothing more."""

ROW = 2**15
"""Elements in a row of small tensors: as many as ATen computes without starting a parallel loop."""

SMALL = 2**14
"""Tensors of fewer elements are small: to copy them there and back takes less than the calls."""

FEW = 8
"""Fewer small tensors than these are not worth a row."""


# ------------------------------------------------------------------ layouts


def layout_of(tensors: list[Any]) -> str:
    """Return how a parameter, its gradient and its state lie in memory.

    "dense": all fill a piece without gaps, with their elements in the same order, and so can be
    read as 1-D. "strided": lists of them can be operated on. "sparse": the gradient is. "": one
    after the other.
    """
    p = tensors[0]
    if tensors[1].is_sparse:
        return "sparse"
    if any(type(x) not in (Tensor, torch.nn.Parameter) or x.is_sparse for x in tensors):
        return ""
    # The stride of a dimension of one element means nothing.
    strides = [[s for s, n in zip(x.stride(), x.shape, strict=True) if n > 1] for x in tensors]
    expected = 1
    for stride, size in sorted(zip(strides[0], [n for n in p.shape if n > 1], strict=True)):
        if stride != expected:
            return "strided"
        expected *= size
    kinds = [(x.dtype, x.device, x.shape) for x in tensors]
    alike = all(s == strides[0] for s in strides) and all(kind == kinds[0] for kind in kinds)
    return "dense" if alike else "strided"


def stride_of(x: Tensor) -> tuple[int, ...] | None:
    """Return the stride, if there is one."""
    return x.stride() if x.layout == torch.strided else None


def address_of(x: Any) -> int | None:
    """Return where the values are, if in one place."""
    return x.data_ptr() if isinstance(x, Tensor) and x.layout == torch.strided else None


def is_half(x: Tensor) -> bool:
    """Whether the tensor is of half precision."""
    return x.dtype in (torch.float16, torch.bfloat16)


# ------------------------------------------------------------------ tensors cut over processes


def are_shards(tensors: list[Any]) -> bool:
    """Whether all are cut over several processes, and in the same way: DTensors, as of FSDP."""
    cuts = [(x.device_mesh, x.placements) if hasattr(x, "to_local") else None for x in tensors]
    return cuts[0] is not None and all(cut == cuts[0] for cut in cuts)


def shards(tensors: list[Any]) -> list[Tensor]:
    """Return the pieces of such tensors that lie in this process."""
    return [x.to_local() for x in tensors]


def gathered(x: Any) -> Any:
    """Return a tensor that is cut over processes as one that all have whole; others as they are."""
    if not hasattr(x, "to_local"):
        return x
    from torch.distributed.tensor import Replicate  # not there in every build of torch

    return x.redistribute(placements=[Replicate()] * x.device_mesh.ndim)


def sign_of_shard(x: Any) -> Any:
    """Return by what to see that a tensor is still cut in the same way and its piece in place."""
    if not hasattr(x, "to_local"):
        return None
    shard = x.to_local()
    return x.device_mesh, x.placements, shard.data_ptr(), shard.dtype, shard.stride()


# ------------------------------------------------------------------ how tensors are cut ...


def whole(tensors: list[Tensor]) -> list[Tensor]:
    """Cut nothing."""
    return tensors


def split(tensors: list[Tensor]) -> list[Tensor]:
    """Cut dense tensors of more than a block."""
    if all([x.numel() <= BLOCK for x in tensors]):
        return tensors
    return [
        piece for x in tensors for piece in ([x] if x.numel() <= BLOCK else flat(x).split(BLOCK))
    ]


def real(cut: Cut) -> Cut:
    """Cut complex tensors as real ones with a last dimension of 2."""
    return lambda tensors: cut([torch.view_as_real(x) for x in tensors])


def local(cut: Cut) -> Cut:
    """Cut the shards of this process."""
    return lambda tensors: cut(shards(tensors))


def flat(x: Tensor) -> Tensor:
    """Return a dense tensor as 1-D, in the order of memory."""
    return x.view(-1) if x.is_contiguous() else x.as_strided((x.numel(),), (1,))


# ------------------------------------------------------------------ ... and shared out


def each(sizes: list[int]) -> list[slice]:
    """Each alone."""
    return [slice(i, i + 1) for i in range(len(sizes))]


def all_together(sizes: list[int]) -> list[slice]:
    """All at once."""
    return [slice(0, len(sizes))]


def by_block(sizes: list[int], start: int = 0, block: int = BLOCK) -> list[slice]:
    """As many, from ``start`` on, as make up a block."""
    slices, total = [], 0
    for i, size in enumerate(sizes[start:], start):
        if total and total + size > block:
            slices.append(slice(start, i))
            start, total = i, 0
        total += size
    return [*slices, slice(start, len(sizes))] if start < len(sizes) else slices


def by_row(sizes: list[int]) -> list[slice]:
    """Small ones, which come first, as many as make up a row; the others in four blocks or more."""
    small = count_small(sizes)
    block = min(BLOCK, max(ROW, sum(sizes) // 4))
    return by_block(sizes[:small], block=ROW) + by_block(sizes, small, block)


def count_small(sizes: list[int]) -> int:
    """Return how many come first that are small, if they are more than a few."""
    small = next((i for i, size in enumerate(sizes) if size >= SMALL), len(sizes))
    return small if small >= FEW else 0


def by_kernel(sizes: list[int]) -> list[slice]:
    """Each large one alone, and small ones, which come first, as many as a kernel takes."""
    small = next((i for i, size in enumerate(sizes) if size >= fused.LARGE), len(sizes))
    together = [slice(i, min(i + fused.WIDTH, small)) for i in range(0, small, fused.WIDTH)]
    return together + [slice(i, i + 1) for i in range(small, len(sizes))]


# ------------------------------------------------------------------ operands made of pieces


def alone(pieces: list[Tensor]) -> Tensor:
    """Return the only one."""
    return pieces[0]


class Row:
    """Small dense tensors that are computed with as one: copied together before, back after.

    Args:
        tensors: of one dtype and device.
    """

    __slots__ = ("pieces", "sizes")

    def __init__(self, tensors: list[Tensor]) -> None:
        self.pieces = list(map(flat, tensors))
        self.sizes = [x.numel() for x in tensors]

    def read(self) -> Tensor:
        """Return a copy of all, one after the other."""
        return torch.cat(self.pieces)

    def write(self, row: Tensor) -> None:
        """Copy such a row back."""
        torch._foreach_copy_(self.pieces, row.split(self.sizes))
