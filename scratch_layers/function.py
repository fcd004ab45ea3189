"""A formula with derivatives written by hand, as one node of the graph of autograd.

:class:`Function` is ``torch.autograd.Function`` for whoever asks: write ``forward(*inputs)``,
``setup_context(ctx, inputs, output)`` and ``backward`` as torch documents them, and as ``tangent``
what torch calls ``jvp``. Then

    y = TheFunction.call(*inputs)

runs the form that the moment asks for:

- under ``torch.compile`` and ``torch.export`` the class as it stands: Dynamo refuses a ``jvp``;
- under ``torch.func`` one with ``jvp``, and with the ``setup_context`` that those transforms need;
- otherwise one with ``jvp`` but without ``setup_context``: where there is one, torch inspects the
  signature of ``forward`` on every call, which takes 20 µs, as much as all of a small native layer.

The second derivative comes from the backward, which must consist of differentiable operations on
∂y and on what was saved. What was saved are inputs and outputs of the node, so differentiating the
backward reaches the inputs through this node once more.

:func:`elementwise` makes such a node of a function of one variable, applied to each value:

    y_i = f(x_i)          ∂x_i = ∂y_i f'(x_i)          ẏ_i = ẋ_i f'(x_i)

Here ∂z stands for the derivative of the loss by z, and ż for the change of z in a given direction.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd import forward_ad

from scratch_layers import kernels
from scratch_layers.dtypes import accumulate_dtype

TRACED = torch.__version__ >= "2.14"  # which compares as versions do
"""Whether Dynamo traces a node as it is. In 2.11 (not in 2.14) the derivative is zero where a
forward casts to the dtype that its input has. There the formula is traced without its node, and
autograd differentiates it."""


class Function(torch.autograd.Function):
    """A node whose derivatives are written by hand; see the docstring of the module."""

    generate_vmap_rule = True
    transformable: ClassVar[type["Function"]]
    direct: ClassVar[type["Function"]]
    tangent: ClassVar[Callable[..., Any]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "form_of" in vars(cls):
            return

        def forward(ctx: Any, *inputs: Any) -> Any:
            output = cls.forward(*inputs)
            cls.setup_context(ctx, inputs, output)
            return output

        def form(**members: Callable[..., Any]) -> Any:
            static = {name: staticmethod(member) for name, member in members.items()}
            return type(cls)(cls.__name__, (cls,), {"form_of": cls, **static})  # type: ignore[misc]

        without = torch.autograd.Function.setup_context
        cls.transformable = form(jvp=cls.tangent)
        cls.direct = form(jvp=cls.tangent, forward=forward, setup_context=without)

    @classmethod
    def call(cls, *inputs: Any) -> Any:
        """``forward(*inputs)`` as a node of the graph, if there is one to be made."""
        if torch.compiler.is_compiling():
            # Before 2.15 Dynamo hands a ctx to a forward of any number of arguments where nothing
            # requires a gradient.
            grad = torch.is_grad_enabled() and any(
                [isinstance(x, Tensor) and x.requires_grad for x in inputs]
            )
            return cls.apply(*inputs) if grad and TRACED else cls.forward(*inputs)
        if torch._C._are_functorch_transforms_active():
            return cls.transformable.apply(*inputs)
        return cls.direct.apply(*inputs)


def is_transformed() -> bool:
    """Whether ``torch.func`` or forward differentiation sees what runs now."""
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


class Formula:
    """A function of one variable and its derivative, in the symbols of its paper.

    A subclass writes two static methods of differentiable operations on tensors:

        f(x, *numbers)        the function
        slope(x, *numbers)    its derivative

    With ``saves_output`` the derivative is written in y, ``slope(y, *numbers)``, and y is what is
    kept for the backward: the next layer, which keeps its input, then keeps the same tensor.

    Both see float16 and bfloat16 as float32, and the result is rounded once. Whatever the shape, a
    kernel is compiled once for each dtype. To use it: :func:`elementwise`.
    """

    saves_output: ClassVar[bool] = False
    f: ClassVar[Callable[..., Tensor]]
    slope: ClassVar[Callable[..., Tensor]]


def value(formula: type[Formula], x: Tensor, *numbers: Any) -> Tensor:
    """y = f(x)."""
    return formula.f(x.to(accumulate_dtype(x)), *numbers).to(x.dtype)


def times_slope(formula: type[Formula], saved: Tensor, d: Tensor, *numbers: Any) -> Tensor:
    """∂x = ∂y f'(x), and ẏ = ẋ f'(x): whichever way the derivative goes."""
    dtype = accumulate_dtype(saved)
    slope = formula.slope(saved.to(dtype), *numbers)
    return (d.to(dtype) * slope).to(saved.dtype)


class Elementwise(Function):
    """y_i = f(x_i) as a node of the graph, called with (formula, x, inplace, *numbers)."""

    @staticmethod
    def forward(formula: type[Formula], x: Tensor, inplace: bool, *numbers: Any) -> Tensor:
        """Equation: :func:`value`."""
        return kernels.run_elementwise(value, formula, x, *numbers, out=x if inplace else None)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save x or y."""
        ctx.formula, x, inplace, *ctx.numbers = inputs
        if inplace:
            ctx.mark_dirty(x)
        saved = output if ctx.formula.saves_output else x
        ctx.save_for_backward(saved)
        ctx.save_for_forward(saved)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> Any:
        """Equation: :func:`times_slope`."""
        d_x = kernels.run_elementwise(
            times_slope, ctx.formula, *ctx.saved_tensors, d_y, *ctx.numbers
        )
        return None, d_x, None, *[None] * len(ctx.numbers)

    @staticmethod
    def tangent(ctx: Any, formula: None, t_x: Tensor, *numbers: None) -> Tensor:
        """Equation: :func:`times_slope`."""
        return times_slope(ctx.formula, *ctx.saved_tensors, t_x, *ctx.numbers)


def elementwise(formula: type[Formula], x: Tensor, *numbers: Any, inplace: bool = False) -> Tensor:
    """y = f(x) for each value of x, with the formula's own derivative.

    Args:
        formula: the function and its derivative.
        x: of any shape.
        numbers: what the formula takes beside x.
        inplace: write y over x, and return x. What the backward needs is kept, as in torch: y if
            the formula is content with it, else a copy of x.

    Raises:
        RuntimeError: in-place on a leaf that requires grad, before anything is changed.
    """
    if not inplace:
        return Elementwise.call(formula, x, False, *numbers)
    recorded = x.requires_grad and torch.is_grad_enabled()
    if recorded and x.is_leaf:
        raise RuntimeError(
            "a leaf Variable that requires grad is being used in an in-place operation."
        )
    watched = torch.compiler.is_compiling() or is_transformed()  # where no node may overwrite
    if watched or (recorded and not formula.saves_output):
        return x.copy_(Elementwise.call(formula, x.clone(), False, *numbers))
    if not recorded:
        return kernels.run_elementwise(value, formula, x, *numbers, out=x)
    return Elementwise.call(formula, x, True, *numbers)
