"""How tensors, and what is made of tensors, are compared: by their bits, or in epsilons."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The integers of as many bytes."""


def _as_bits(x: Tensor) -> Tensor:
    return x.contiguous().view(BITS[x.element_size()])


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same bits, where a NaN is as good as another."""
    a, b = a.detach(), b.detach()
    if a.is_sparse or b.is_sparse:
        return a.is_sparse and b.is_sparse and same_bits(a.to_dense(), b.to_dense())
    if (a.dtype, a.shape, a.device) != (b.dtype, b.shape, b.device):
        return False
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    return bool(((_as_bits(a) == _as_bits(b)) | (a.isnan() & b.isnan())).all())


def assert_same_bits(a: Tensor, b: Tensor, what: str) -> None:
    """Raise an AssertionError unless ``a`` has the dtype, shape and bits of ``b``."""
    if same_bits(a, b):
        return
    kinds = [f"{x.dtype} {tuple(x.shape)} on {x.device}" for x in (a, b)]
    assert kinds[0] == kinds[1], f"{what}: {kinds[0]} where {kinds[1]} is expected"
    if not (a.is_floating_point() or a.is_complex()):
        raise AssertionError(f"{what}: {int((a != b).sum())} of {a.numel()} values differ")
    difference = epsilons(a.detach().to_dense(), b.detach().to_dense())
    raise AssertionError(
        f"{what}: not the same bits; the largest difference is {difference:.3g} epsilons of the "
        "largest value"
    )


def epsilons(a: Tensor, b: Tensor, largest: float | None = None) -> float:
    """Largest difference of two tensors, in epsilons of their dtype at the largest value of ``b``.

    Of the largest and not of each element: a value that is the difference of two large ones has
    the error of the large ones. ``largest`` replaces it where there were larger ones before.

    Returns:
        inf where one has a NaN or an infinity that the other has not.
    """
    a, b = a.detach(), b.detach()
    assert (a.dtype, a.shape) == (b.dtype, b.shape), (
        f"{a.dtype} {tuple(a.shape)} and {b.dtype} {tuple(b.shape)}"
    )
    if a.numel() == 0 or same_bits(a, b):
        return 0.0
    unit = torch.finfo(b.dtype).eps
    if b.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    a, b = a.double(), b.double()
    differences = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, (a - b).abs())
    size = largest or b.nan_to_num(0, 0, 0).abs().max().item()
    return differences.nan_to_num(nan=torch.inf).max().item() / (unit * max(size, unit))


def copied(value: Any) -> Any:
    """A copy that shares no memory, of tensors and of what holds them."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: copied(x) for key, x in value.items()}
    if isinstance(value, (list, tuple, deque)):
        return type(value)(copied(x) for x in value)
    return value


def assert_same(a: Any, b: Any, what: str = "it") -> None:
    """Raise an AssertionError unless ``a`` equals ``b``, tensors by their bits."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        assert_same_bits(a, b, what)
    elif isinstance(a, dict) and isinstance(b, dict):
        assert a.keys() == b.keys(), f"{what}: keys {sorted(map(str, a.keys() ^ b.keys()))} differ"
        for key in a:
            assert_same(a[key], b[key], f"{what}[{key!r}]")
    elif isinstance(a, (list, tuple, deque)) and isinstance(b, (list, tuple, deque)):
        assert len(a) == len(b), f"{what}: {len(a)} and {len(b)} elements"
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{what}[{i}]")
    elif type(a) is type(b) and type(a).__eq__ is object.__eq__ and hasattr(a, "__dict__"):
        assert_same(vars(a), vars(b), what)  # an object that can only be compared by what it holds
    else:
        same = type(a) is type(b) and (a == b or (a != a and b != b))
        assert same, f"{what}: {a!r} where {b!r} is expected"
