"""Gradient clipping: by the norm of all gradients, by value, and by the weights they belong to.

By norm: Pascanu, Mikolov and Bengio, "On the difficulty of training recurrent neural networks"
(ICML 2013, arXiv:1211.5063), algorithm 1, with a coefficient that is clamped instead of asked for:

    |g|_p = ( sum_i |g_i|_p^p )^(1/p)                        the p-norm of all gradients as one
    g     = g min(1, max_norm / (|g|_p + 1e-6))

By value: g = min(max(g, -c), c), element by element.

Adaptive: Brock, De, Smith and Simonyan, "High-Performance Large-Scale Image Recognition Without
Normalization" (ICML 2021, arXiv:2102.06171), equation 3, for each unit i (a row of a linear layer,
a filter of a convolution, the whole of a bias or gain):

    |W_i|* = max(|W_i|, eps)
    G_i    = lambda |W_i|* / |G_i| G_i      if |G_i| / |W_i|* > lambda, else G_i
           = G_i min(1, lambda |W_i|* / |G_i|)

The coefficients stay tensors on the device of the gradients: nothing waits for a GPU.
"""

from __future__ import annotations

import math
import types
import warnings
from collections.abc import Iterable
from typing import TypeAlias

import torch
from torch import Tensor
from torch.utils._foreach_utils import (
    _device_has_foreach_support,
    _group_tensors_by_device_and_dtype,
    _has_foreach_support,
)
from typing_extensions import deprecated

__all__ = [
    "adaptive_clip_grad_",
    "clip_factor",
    "clip_grad_norm",
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "get_total_norm",
]

Tensors: TypeAlias = Tensor | Iterable[Tensor]

LARGE = 2**14
"""Elements from which clamping a tensor alone, in one pass, is quicker on the CPU than as one of a
list, in two. In microseconds a tensor on 2 cores in float32: 1.84 and 1.52 with 2**13 elements,
2.25 and 2.35 with 2**14, 4.94 and 7.37 with 2**16."""


@torch.no_grad()
def clip_grad_norm_(
    parameters: Tensors,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale all gradients, in place and alike, so that their norm is at most ``max_norm``.

    Agrees with ``torch.nn.utils.clip_grad_norm_`` bit for bit. Differs in that a negative or nan
    ``max_norm`` is refused, and in that gradients on the CPU that need no clipping are not
    multiplied by 1 (seen only under ``torch.set_flush_denormal``, where that has an effect).

    Args:
        parameters: those whose gradients to scale; any shapes, dtypes and devices. Those without
            a gradient are passed over.
        max_norm: in units of the gradients; ``inf`` to measure only.
        norm_type: p; ``inf`` for the largest absolute value.
        error_if_nonfinite: raise if the norm is nan or infinite; this waits for the device.
        foreach: use lists. Default: where they are supported.

    Returns:
        The norm before clipping: 0-dim, on the device of the first gradient.

    Raises:
        RuntimeError: a norm that is not finite, or ``foreach`` on a device without lists. The
            gradients are then as they were.
        ValueError: ``max_norm`` is negative or nan.
    """
    max_norm = _bound("max_norm", max_norm)
    from_generator = isinstance(parameters, types.GeneratorType)
    parameters = _as_list(parameters)
    if from_generator and not parameters:
        warnings.warn(
            "`parameters` is an empty generator, no gradient clipping will occur.", stacklevel=3
        )
    grads = _gradients(parameters)
    groups = _grouped(foreach, grads)
    total_norm = _total_norm(grads, groups, norm_type, error_if_nonfinite)
    _scale(groups, max_norm, total_norm)
    return total_norm


@deprecated(
    "`torch.nn.utils.clip_grad_norm` is now deprecated "
    "in favor of `torch.nn.utils.clip_grad_norm_`.",
    category=FutureWarning,
)
def clip_grad_norm(
    parameters: Tensors,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Do what :func:`clip_grad_norm_` does, under the name of old, and warn of it.

    Agrees with ``torch.nn.utils.clip_grad_norm``.

    Args:
        parameters: see :func:`clip_grad_norm_`, as for all that follow.
        max_norm: see :func:`clip_grad_norm_`.
        norm_type: see :func:`clip_grad_norm_`.
        error_if_nonfinite: see :func:`clip_grad_norm_`.
        foreach: see :func:`clip_grad_norm_`.

    Returns:
        The norm before clipping.
    """
    return clip_grad_norm_(parameters, max_norm, norm_type, error_if_nonfinite, foreach)


@torch.no_grad()
def get_total_norm(
    tensors: Tensors,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Return the norm of all tensors as one vector.

    Agrees with ``torch.nn.utils.get_total_norm`` bit for bit.

    Args:
        tensors: gradients, for instance (not parameters); any shapes, dtypes and devices.
        norm_type: p; ``inf`` for the largest absolute value.
        error_if_nonfinite: raise if the norm is nan or infinite; this waits for the device.
        foreach: use lists. Default: where they are supported.

    Returns:
        0-dim, on the device of the first tensor; 0 if there are none.

    Raises:
        RuntimeError: a norm that is not finite, or ``foreach`` on a device without lists.
    """
    tensors = _as_list(tensors)
    return _total_norm(tensors, _grouped(foreach, tensors), norm_type, error_if_nonfinite)


@torch.no_grad()
def clip_grads_with_norm_(
    parameters: Tensors, max_norm: float, total_norm: Tensor, foreach: bool | None = None
) -> None:
    """Scale gradients by min(1, max_norm / (total_norm + 1e-6)), in place.

    For a norm that is not that of these gradients alone, such as that of several ranks. Agrees
    with ``torch.nn.utils.clip_grads_with_norm_`` as :func:`clip_grad_norm_` does with its own.

    Args:
        parameters: those whose gradients to scale.
        max_norm: in units of the gradients.
        total_norm: what :func:`get_total_norm` returned; 0-dim.
        foreach: use lists. Default: where they are supported.

    Raises:
        RuntimeError: ``foreach`` on a device without lists.
        ValueError: ``max_norm`` is negative or nan.
    """
    max_norm = _bound("max_norm", max_norm)
    _scale(_grouped(foreach, _gradients(parameters)), max_norm, total_norm)


def clip_factor(max_norm: float, total_norm: Tensor) -> Tensor:
    """Return min(1, max_norm / (total_norm + 1e-6)), by which clipping by norm multiplies.

    Args:
        max_norm: what was handed to :func:`clip_grad_norm_`.
        total_norm: what it returned; 0-dim.
    """
    return torch.clamp(max_norm / (total_norm + 1e-6), max=1.0)


@torch.no_grad()
def clip_grad_value_(parameters: Tensors, clip_value: float, foreach: bool | None = None) -> None:
    """Clamp every element of the gradients to [-clip_value, clip_value], in place.

    Agrees with ``torch.nn.utils.clip_grad_value_`` bit for bit. Differs in that a negative or nan
    ``clip_value`` is refused, where torch sets all elements to it.

    Args:
        parameters: those whose gradients to clamp; those without one are passed over.
        clip_value: in units of the gradients.
        foreach: use lists. Default: where they are supported.

    Raises:
        RuntimeError: ``foreach`` on a device without lists.
        ValueError: ``clip_value`` is negative or nan.
    """
    clip_value = _bound("clip_value", clip_value)
    for device, (grads,), lists in _grouped(foreach, _gradients(parameters)):
        # A list is clamped in two passes, a tensor in one.
        apart = [g for g in grads if g.numel() >= LARGE] if device.type == "cpu" else []
        together = [g for g in grads if g.numel() < LARGE] if apart else grads
        if not lists:
            apart, together = grads, []
        for g in apart:
            g.clamp_(-clip_value, clip_value)
        if together:
            torch._foreach_clamp_min_(together, -clip_value)
            torch._foreach_clamp_max_(together, clip_value)


@torch.no_grad()
def adaptive_clip_grad_(
    parameters: Tensors,
    clip_factor: float = 0.01,
    eps: float = 1e-3,
    norm_type: float = 2.0,
    foreach: bool | None = None,
) -> None:
    """Scale the gradient of each unit to at most ``clip_factor`` times the norm of its weights.

    A unit is what leads to one output: ``W[i]`` of a weight of two or more dimensions (a row of a
    linear layer, a filter of a convolution), and the whole of a tensor of less (a bias, a gain).
    The paper leaves the last linear layer out: do not pass its parameters.

    Agrees with the paper's equation 3, and where it clips with timm's ``adaptive_clip_grad`` up to
    rounding. Differs from both timm and DeepMind's code in that norms of half precision tensors
    are taken in float32, and that a unit's gradient is divided by its norm only, not by
    max(norm, 1e-6): the coefficient is min(1, .), so there is nothing to guard. DeepMind's code
    finds units in the layouts of JAX (the output last) and takes a matrix of one row or one
    column as one unit; here, as in timm, a column has a unit for each row. The weight of a
    transposed convolution has the input first, and that is then taken as the unit.

    Args:
        parameters: those whose gradients to scale; any shapes and dtypes. Those without a gradient
            are passed over.
        clip_factor: lambda, the largest ratio of the two norms; positive.
        eps: the least norm that a unit of weights is taken to have, in units of the weights;
            positive, or zero weights would never move.
        norm_type: p; ``inf`` for the largest absolute value.
        foreach: use lists. Default: where they are supported.

    Raises:
        ValueError: ``clip_factor`` or ``eps`` is not positive and finite.
        RuntimeError: a gradient is sparse, or ``foreach`` on a device without lists. The gradients
            are then as they were.
    """
    for name, value in {"clip_factor": clip_factor, "eps": eps}.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be positive and finite, but is {value}")
    weights, grads = [], []
    for p in _as_list(parameters):
        if p.grad is None or not p.grad.numel():
            continue
        if p.grad.layout != torch.strided:
            raise RuntimeError(
                f"adaptive_clip_grad_ does not support gradients of layout {p.grad.layout}: make "
                "them dense, or leave their parameters out"
            )
        weights.append(p)
        grads.append(p.grad)
    for _, (members, own), lists in _grouped(foreach, grads, weights):
        norms, bounds = (_unit_norms(tensors, norm_type) for tensors in (members, own))
        if lists:
            bounds = list(torch._foreach_clamp_min(bounds, eps))  # in place no DTensor takes it
            torch._foreach_mul_(bounds, clip_factor)
            torch._foreach_div_(bounds, norms)
            torch._foreach_clamp_max_(bounds, 1.0)
            torch._foreach_mul_(members, bounds)
        else:
            for g, norm, bound in zip(members, norms, bounds, strict=True):
                g.mul_(bound.clamp_min(eps).mul(clip_factor).div(norm).clamp_max(1.0))


# What the functions above are made of.


def _as_list(tensors: Tensors) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


def _gradients(parameters: Tensors) -> list[Tensor]:
    grads = [p.grad for p in _as_list(parameters)]
    return [g for g in grads if g is not None]


def _bound(name: str, value: float) -> float:
    value = float(value)
    if not value >= 0:
        raise ValueError(f"{name} must be a number >= 0, but is {value}")
    return value


Group: TypeAlias = tuple[torch.device, list[list[Tensor]], bool]
"""Tensors of one device and dtype, those that go with them, and whether to take them as lists."""


def _grouped(foreach: bool | None, tensors: list[Tensor], *others: list[Tensor]) -> list[Group]:
    """Group tensors by device and dtype, in torch's order, on which the bits of a norm depend."""
    if not tensors:
        return []
    groups: list[Group] = []
    kinds = _group_tensors_by_device_and_dtype([tensors, *others])  # type: ignore[list-item]
    for (device, _), (rows, _) in kinds.items():
        if foreach and not _device_has_foreach_support(device):
            raise RuntimeError(
                f"foreach=True was passed, but can't use the foreach API on {device.type} tensors"
            )
        lists = _has_foreach_support(rows[0], device) if foreach is None else foreach  # type: ignore[arg-type]
        groups.append((device, rows, lists))  # type: ignore[arg-type]
    return groups


def _total_norm(
    tensors: list[Tensor], groups: list[Group], norm_type: float, error_if_nonfinite: bool
) -> Tensor:
    p = float(norm_type)
    if not tensors:
        return torch.tensor(0.0)
    to = tensors[0].device
    norms: list[Tensor] = []
    for device, (members,), lists in groups:
        norm = torch._foreach_norm if lists else _each_norm
        own = norm(members, p)
        norms += own if device == to else [x.to(to) for x in own]
    total = torch.linalg.vector_norm(torch.stack(norms), p)
    if error_if_nonfinite and torch.logical_or(total.isnan(), total.isinf()):
        raise RuntimeError(
            f"The total norm of order {p} for gradients from "
            "`parameters` is non-finite, so it cannot be clipped. To disable "
            "this error and scale the gradients by the non-finite norm anyway, "
            "set `error_if_nonfinite=False`"
        )
    return total


def _each_norm(tensors: list[Tensor], p: float) -> list[Tensor]:
    return [torch.linalg.vector_norm(x, p) for x in tensors]


def _scale(groups: list[Group], max_norm: float, total_norm: Tensor) -> None:
    coefficient = clip_factor(max_norm, total_norm)
    if _at_hand(coefficient) and coefficient.item() == 1:
        return
    for device, (grads,), lists in groups:
        here = coefficient.to(device)
        if lists:
            torch._foreach_mul_(grads, here)
        else:
            for g in grads:
                g.mul_(here)


def _at_hand(x: Tensor) -> bool:
    """Whether the value of ``x`` can be asked for without waiting, and without breaking a trace."""
    return (
        type(x) is Tensor
        and x.is_cpu
        and x.dim() == 0
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    )


def _unit_norms(tensors: list[Tensor], p: float) -> list[Tensor]:
    """Return the norm of each unit, in float32 or better, in a shape that broadcasts."""
    return [
        torch.linalg.vector_norm(
            x.detach(),
            p,
            dim=tuple(range(1, x.dim())) or None,
            keepdim=True,
            dtype=torch.promote_types(x.dtype, torch.float32),
        )
        for x in tensors
    ]
