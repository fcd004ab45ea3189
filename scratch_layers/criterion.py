"""What all losses share: reductions, the checks of the inputs, and the node of the graph.

A loss is a function l of an input x_i, a target t_i and perhaps more, and a way to make one number
of the n values: y = Σ l_i ("sum"), y = 1/n Σ l_i ("mean"), or none. Its derivatives are

    ∂x_i = ∂y/n ∂l/∂x_i        ∂t_i = ∂y/n ∂l/∂t_i        (1/n for "mean" only)

Here ∂y is one number (for "none" one for each i), so a backward reads x and t once and writes ∂x
once; x and t are all that is kept for it. Where l is piecewise linear, as |x - t|, it is the slope
alone: a byte, which is -1, 0 or 1. The forward derivative is

    ẏ = 1/n Σ (∂l/∂x_i ẋ_i + ∂l/∂t_i ṫ_i)
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from scratch_layers import kernels
from scratch_layers.dtypes import accumulate_dtype, not_implemented, sum_dtype
from scratch_layers.function import Function, is_transformed

# From many values to one


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """A warning for who called the functional form; none while compiling, which forbids them."""
    if not torch.compiler.is_compiling():
        warnings.warn(message, category, stacklevel=4)


def legacy_reduction(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """What the two deprecated switches ask for, with torch's warning; else the reduction."""
    if size_average is None and reduce is None:
        return reduction
    reduction = "none" if reduce is False else "sum" if size_average is False else "mean"
    warn(
        "size_average and reduce args will be deprecated, "
        f"please use reduction='{reduction}' instead."
    )
    return reduction


def check_reduction(
    size_average: bool | None, reduce: bool | None, reduction: str, invalid: str = ""
) -> str:
    """``"none"``, ``"mean"`` or ``"sum"``.

    Raises:
        ValueError: another reduction, in the words ``invalid`` if given.
    """
    reduction = legacy_reduction(size_average, reduce, reduction)
    if reduction == "elementwise_mean":
        warn("reduction='elementwise_mean' is deprecated. Please use reduction='mean' instead.")
        return "mean"
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(invalid or f"{reduction} is not a valid value for reduction")
    return reduction


def reduce_by(reduction: str, l: Tensor, total: Tensor | int) -> Tensor:  # noqa: E741
    """l itself, its sum, or its sum divided by ``total``."""
    if reduction == "none":
        return l
    y = l.sum(dtype=sum_dtype(l))
    return (y if reduction == "sum" else y / total).to(l.dtype)


def spread_by(reduction: str, d_y: Tensor, total: Tensor | int) -> Tensor:
    """∂l of :func:`reduce_by`, in a shape to combine with l; zero where nothing counts."""
    if reduction != "mean":
        return d_y
    return torch.where(total == 0, 0, d_y / total) if isinstance(total, Tensor) else d_y / total


# What all losses ask of their inputs


def can_look_at(x: Tensor) -> bool:
    """Whether the values may be looked at, to refuse bad ones.

    As in torch, on the CPU only: elsewhere it would wait for the device. Not while operations are
    traced or transformed, where there are no values yet.
    """
    return (
        x.device.type == "cpu"
        and type(x) in (Tensor, nn.Parameter, nn.Buffer)
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
        and torch._C._len_torch_dispatch_stack() == 0
    )


def refuse_gradient(function: str, argument: str, x: Tensor) -> None:
    """As in torch, an error instead of a derivative that would be missing in silence."""
    if x.requires_grad and torch.is_grad_enabled():
        raise RuntimeError(
            f"The function '{function}' is not differentiable with respect to argument "
            f"'{argument}'. This input cannot have requires_grad True."
        )


def warn_of_broadcasting(input: Tensor, target: Tensor) -> None:
    """Broadcasting an input against a target is nearly always a mistake."""
    if target.size() != input.size():
        warn(
            f"Using a target size ({target.size()}) that is different to the input size "
            f"({input.size()}). This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size."
        )


# A loss as one node of the graph


class Loss:
    """l of some tensors, and its derivatives by them, for :func:`node`.

    A subclass writes static (or class) methods of differentiable operations on tensors. They are
    called with the tensors and then the numbers of the loss, and see float16 and bfloat16 as
    float32.

        f            l
        by_input     ∂l by the first tensor; where l depends on it, by_target by the second one
                     and by_third by the third
        total        what the mean divides the sum of l by, if not their number

    Each l_i depends on one value of each tensor, which are of one shape; or, ``over_classes``, on a
    row of them, x (N, C, *), with l of shape (N, *).

    A loss is ``piecewise_linear`` if by_input does not change, but for jumps, with the first two
    tensors, and by_target is its negative or None. Then it is computed along with l and kept for
    the backward, in the dtype ``slope_dtype`` (None for that of x), and the tensors are not.
    """

    over_classes: ClassVar[bool] = False
    piecewise_linear: ClassVar[bool] = False
    slope_dtype: ClassVar[torch.dtype | None] = None
    f: ClassVar[Callable[..., Tensor]]
    by_input: ClassVar[Callable[..., Tensor]]
    by_target: ClassVar[Callable[..., Tensor] | None] = None
    by_third: ClassVar[Callable[..., Tensor] | None] = None

    @classmethod
    def total(cls, x: Tensor, *_: Any) -> Tensor | int:
        """The number of l_i."""
        return x.numel() // x.shape[1] if cls.over_classes else x.numel()

    @classmethod
    def slopes(cls) -> tuple[Callable[..., Tensor] | None, ...]:
        """The derivatives, in the order of the tensors."""
        return cls.by_input, cls.by_target, cls.by_third


def widened(tensors: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Those of a floating dtype in the dtype to compute in."""
    return [
        t if t is None or not t.is_floating_point() else t.to(accumulate_dtype(t)) for t in tensors
    ]


def forward(
    formula: type[Loss], reduction: str, numbers: tuple[Any, ...], x: Tensor, *more: Tensor | None
) -> Tensor:
    """y."""
    args = *widened((x, *more)), *numbers
    return reduce_by(reduction, formula.f(*args), formula.total(*args)).to(x.dtype)


def backward(
    formula: type[Loss],
    reduction: str,
    numbers: tuple[Any, ...],
    needed: tuple[bool, ...],
    d_y: Tensor,
    *tensors: Tensor | None,
) -> tuple[Tensor | None, ...]:
    """∂x = ∂y/n ∂l/∂x, for each tensor x that needs it."""
    args = *widened(tensors), *numbers
    d_l = spread_by(reduction, d_y.to(accumulate_dtype(d_y)), formula.total(*args))
    if formula.over_classes and reduction == "none":
        d_l = d_l.unsqueeze(1)
    return tuple(
        (d_l * slope(*args)).to(x.dtype) if need and slope is not None and x is not None else None
        for need, slope, x in zip(needed, formula.slopes(), tensors, strict=False)
    )


def tangent(
    formula: type[Loss],
    reduction: str,
    numbers: tuple[Any, ...],
    directions: Sequence[Tensor | None],
    x: Tensor,
    *more: Tensor | None,
) -> Tensor:
    """ẏ = 1/n Σ (∂l/∂x ẋ + ∂l/∂t ṫ + ...)."""
    args = *widened((x, *more)), *numbers
    t_l = torch.zeros_like(x, dtype=accumulate_dtype(x))
    for slope, t_x in zip(formula.slopes(), directions, strict=False):
        if slope is not None and t_x is not None:
            t_l = t_l + slope(*args) * t_x.to(t_l.dtype)
    t_l = t_l.sum(1) if formula.over_classes else t_l
    return reduce_by(reduction, t_l, formula.total(*args)).to(x.dtype)


class LossFunction(Function):
    """A loss as a node, called with (formula, reduction, numbers, *tensors); saves the tensors.

    Those of a floating dtype are of one dtype.
    """

    @staticmethod
    def forward(
        formula: type[Loss], reduction: str, numbers: tuple[Any, ...], *tensors: Tensor | None
    ) -> Tensor:
        """Equation: :func:`forward`."""
        y: Tensor = kernels.run(forward, formula, reduction, numbers, *tensors)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save the tensors."""
        ctx.loss, tensors = inputs[:3], inputs[3:]
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> Any:
        """Equation: :func:`backward`."""
        needed = tuple(ctx.needs_input_grad[3:])
        d_tensors = kernels.run(backward, *ctx.loss, needed, d_y, *ctx.saved_tensors)
        padding = [None] * (len(needed) - len(d_tensors))
        return None, None, None, *d_tensors, *padding

    @staticmethod
    def tangent(ctx: Any, *directions: Tensor | None) -> Tensor:
        """Equation: :func:`tangent`."""
        formula, reduction, numbers = ctx.loss
        return tangent(formula, reduction, numbers, directions[3:], *ctx.saved_tensors)


def forward_and_slope(
    formula: type[Loss], reduction: str, numbers: tuple[Any, ...], x: Tensor, *more: Tensor | None
) -> tuple[Tensor, Tensor]:
    """y, and ∂l/∂x."""
    slope = formula.by_input(*widened((x, *more)), *numbers)
    y = forward(formula, reduction, numbers, x, *more)
    return y, slope.to(formula.slope_dtype or x.dtype)


def backward_of_slope(
    reduction: str, dtype: torch.dtype, needed: tuple[bool, bool], d_y: Tensor, slope: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """∂x = ∂y/n ∂l/∂x, and ∂t = -∂x."""
    d_l = spread_by(reduction, d_y.to(accumulate_dtype(d_y)), slope.numel())
    d_x = (d_l * slope.to(d_l.dtype)).to(dtype)
    return d_x if needed[0] else None, -d_x if needed[1] else None


class PiecewiseLinearFunction(torch.autograd.Function):
    """A piecewise linear loss as a node that saves its slope; called as :class:`LossFunction`.

    A second output, which is empty, is saved with it. In a second derivative it stands for the
    inputs, which do not change the slope: so they get zeros, and not nothing.
    """

    @staticmethod
    def forward(
        ctx: Any,
        formula: type[Loss],
        reduction: str,
        numbers: tuple[Any, ...],
        *tensors: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Equation: :func:`forward_and_slope`."""
        y, slope = kernels.run(forward_and_slope, formula, reduction, numbers, *tensors)
        inputs = y.new_empty(0)
        ctx.loss = reduction, y.dtype
        ctx.save_for_backward(slope, inputs)
        return y, inputs

    @staticmethod
    def backward(ctx: Any, d_y: Tensor, _: Tensor) -> Any:
        """Equation: :func:`backward_of_slope`."""
        slope, inputs = ctx.saved_tensors
        if torch.is_grad_enabled():
            d_y = d_y + inputs.sum()
        needed = tuple(ctx.needs_input_grad[3:5])
        d_tensors = kernels.run(backward_of_slope, *ctx.loss, needed, d_y, slope)
        return None, None, None, *d_tensors, *[None] * len(ctx.needs_input_grad[5:])


def keeps_slope(formula: type[Loss], tensors: Sequence[Tensor | None]) -> bool:
    """Whether the slope is all that a backward will read: no third tensor is differentiated by."""
    if not formula.piecewise_linear or torch.compiler.is_compiling() or is_transformed():
        return False
    asked = [t is not None and t.requires_grad for t in tensors]
    return torch.is_grad_enabled() and any(asked[:2]) and not any(asked[2:])


def node(
    formula: type[Loss], reduction: str, *tensors: Tensor | None, numbers: tuple[Any, ...] = ()
) -> Tensor:
    """The loss, reduced, as one node of the graph."""
    y: Tensor
    if keeps_slope(formula, tensors):
        y, _ = PiecewiseLinearFunction.apply(formula, reduction, numbers, *tensors)
    else:
        y = LossFunction.call(formula, reduction, numbers, *tensors)
    return y


def pointwise(
    formula: type[Loss], reduction: str, *tensors: Tensor, numbers: tuple[Any, ...] = ()
) -> Tensor:
    """The same, of tensors that are broadcast to one shape and promoted to one dtype."""
    dtype = tensors[0].dtype
    for t in tensors[1:]:
        if t.dtype != dtype:
            dtype = torch.promote_types(dtype, t.dtype)
    if not dtype.is_floating_point:
        raise not_implemented(formula.__name__.lower(), tensors[0])
    if any(t.shape != tensors[0].shape for t in tensors):
        tensors = torch.broadcast_tensors(*tensors)
    return node(formula, reduction, *[t.to(dtype) for t in tensors], numbers=numbers)


class _Loss(nn.modules.loss._Loss):
    # Inherits from torch's class for identity (isinstance) and signature only: everything that
    # computes or keeps state is overridden below.

    def __init__(
        self, size_average: bool | None = None, reduce: bool | None = None, reduction: str = "mean"
    ) -> None:
        nn.Module.__init__(self)
        self.reduction = legacy_reduction(size_average, reduce, reduction)


class _WeightedLoss(_Loss, nn.modules.loss._WeightedLoss):
    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        _Loss.__init__(self, size_average, reduce, reduction)
        self.register_buffer("weight", weight)
