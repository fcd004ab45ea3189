"""Which dtype a layer computes in, and how torch names those that it refuses."""

from typing import Any

import torch
from torch import Tensor


def accumulate_dtype(x: Tensor) -> torch.dtype:
    """The dtype to compute in: float32 for float16 and bfloat16, else that of x."""
    return torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype


def sum_dtype(x: Tensor) -> torch.dtype:
    """The dtype to add up many values in: float64, which MPS alone does not have.

    A compiled kernel adds one value after the other; in float32 the mean of 131,072 nearly equal
    losses was 152 epsilons off.
    """
    return torch.float64 if x.device.type != "mps" else x.dtype


def out_of_autocast(*tensors: Tensor | None, device: str | None = None) -> list[Any]:
    """The tensors; under autocast, float32 for those of half precision.

    For layers that torch's lists of autocast have compute in float32.

    Args:
        tensors: on one device.
        device: the only one whose list says so; None if all do.
    """
    on = next(t.device.type for t in tensors if t is not None)
    if device not in (None, on) or on == "meta" or not torch.is_autocast_enabled(on):
        return list(tensors)
    half = (torch.float16, torch.bfloat16)
    return [t.float() if t is not None and t.dtype in half else t for t in tensors]


def into_autocast(*tensors: Tensor | None) -> list[Any]:
    """The tensors; under autocast, those of a floating dtype in its dtype, float64 excepted.

    For matrix products, which torch's lists of autocast compute in half precision.
    """
    on = next(t.device.type for t in tensors if t is not None)
    if on == "meta" or not torch.is_autocast_enabled(on):
        return list(tensors)
    dtype, kept = torch.get_autocast_dtype(on), torch.float64
    return [
        t.to(dtype) if t is not None and t.is_floating_point() and t.dtype != kept else t
        for t in tensors
    ]


def kind_of(x: Tensor) -> str:
    """The dtype as torch's errors name it: ``Float``, ``Long``, ..."""
    return x.type().split(".")[-1].removesuffix("Tensor")


def not_implemented(kernel: str, x: Tensor) -> NotImplementedError:
    """The error of a native kernel for a dtype that it does not take."""
    return NotImplementedError(f"\"{kernel}\" not implemented for '{kind_of(x)}'")
