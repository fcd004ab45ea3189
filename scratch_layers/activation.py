"""Activations: functions of one variable, the two that learn or draw their slope, and GLU.

Each function stands here with its derivative, as a :class:`Formula`: ``f`` and ``slope`` are the
equations of the docstring, and no kernel of torch that is an activation itself is called. Below
them stand the functions of :mod:`torch.nn.functional` and the modules, whose docstrings name the
paper. With ∂z for the derivative of the loss by z, every one of them is differentiated by

    ∂x = ∂y dy/dx

What is kept for the backward is native's choice: x, or y where the derivative is as exact in y
and the next layer keeps y anyway. In place y alone is left; ELU, SELU, CELU and LeakyReLU then
write the derivative in y.

Three things make the text of a formula differ from the line in the paper.

- *No infinity on the way.* A slope is differentiated again, and in that, 0 ∞ would be nan even
  where ``where`` has chosen the other branch. With e^min(x,43) for e^x nothing overflows, nor does
  its square, and σ(x) = e^x / (1 + e^x) is 1 to the last bit of float64 from x = 37 on.
- *No cancellation.* 1 - σ(x) is written 1 / (1 + e^x); tanh x is written with e^2x - 1 as a whole
  (``expm1``), which keeps its digits for small x; x - tanh x is a fraction for small x.
- *nan and the ends of intervals* go the way they go natively.

Dtypes: floating point, and float16 and bfloat16 are computed in float32 and rounded once. Where
native takes integers (relu, relu6, hardtanh, threshold; sigmoid, tanh, softsign and tanhshrink
make floats of them), so do these. Complex numbers, which native takes for sigmoid, tanh, silu,
softsign and tanhshrink, are refused.
"""

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import Parameter

from scratch_layers import kernels
from scratch_layers.dtypes import accumulate_dtype, kind_of, not_implemented, out_of_autocast
from scratch_layers.function import Elementwise, Formula, Function, elementwise

__all__ = [
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "SELU",
    "Hardshrink",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "Mish",
    "PReLU",
    "RReLU",
    "ReLU",
    "ReLU6",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanh",
    "Tanhshrink",
    "Threshold",
    "celu",
    "celu_",
    "elu",
    "elu_",
    "gelu",
    "glu",
    "hardshrink",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "hardtanh_",
    "leaky_relu",
    "leaky_relu_",
    "logsigmoid",
    "mish",
    "prelu",
    "relu",
    "relu6",
    "relu_",
    "rrelu",
    "rrelu_",
    "selu",
    "selu_",
    "sigmoid",
    "silu",
    "softplus",
    "softshrink",
    "softsign",
    "tanh",
    "tanhshrink",
    "threshold",
    "threshold_",
]

SELU_ALPHA = 1.6732632423543772
SELU_SCALE = 1.0507009873554805


# --- the equations --------------------------------------------------------------------------------


def logistic(x: Tensor) -> Tensor:
    """σ(x) = 1 / (1 + e^-x) = e^x / (1 + e^x), finite in all its derivatives."""
    e = x.clamp(max=43).exp()
    return e / (1 + e)


def hyperbolic_tangent(x: Tensor) -> Tensor:
    """tanh x = (e^2x - 1) / (e^2x + 1), exact for small x, finite in all its derivatives."""
    e = (2 * x.clamp(-20, 20)).expm1()
    return e / (e + 2)


class _Sigmoid(Formula):
    """y = 1 / (1 + e^-x)          dy/dx = e^-x / (1 + e^-x)² = y (1 - y)."""

    saves_output = True

    @staticmethod
    def f(x: Tensor) -> Tensor:
        return 1 / (1 + (-x).exp())

    @staticmethod
    def slope(y: Tensor) -> Tensor:
        return y * (1 - y)


class _Tanh(Formula):
    """y = (e^x - e^-x) / (e^x + e^-x)          dy/dx = 1 - y²."""

    saves_output = True

    @staticmethod
    def f(x: Tensor) -> Tensor:
        e = (2 * x.abs().clamp_max(20)).expm1()
        # two forms of one number: near 0 the first keeps the digits of y, near 1 those of 1 - y
        y = torch.where(e < 1, e / (e + 2), 1 - 2 / (e + 2))
        return y.copysign(x)

    @staticmethod
    def slope(y: Tensor) -> Tensor:
        return 1 - y * y


class _ReLU(Formula):
    """y = max(x, 0)          dy/dx = 1 for y > 0, else 0: the sign of y."""

    saves_output = True

    @staticmethod
    def f(x: Tensor) -> Tensor:
        return x.clamp_min(0)

    @staticmethod
    def slope(y: Tensor) -> Tensor:
        return y.sign()


class _Hardtanh(Formula):
    """y = min(max(x, l), u)          dy/dx = 1 for l < x < u, else 0."""

    @staticmethod
    def f(x: Tensor, lower: float, upper: float) -> Tensor:
        return x.clamp(lower, upper)

    @staticmethod
    def slope(x: Tensor, lower: float, upper: float) -> Tensor:
        return (~((x <= lower) | (x >= upper))).to(x.dtype)


class _Threshold(Formula):
    """y = x for x > θ, else v          dy/dx = 1 for x > θ, else 0."""

    @staticmethod
    def f(x: Tensor, theta: float, v: float) -> Tensor:
        return torch.where(x <= theta, v, x)

    @staticmethod
    def slope(x: Tensor, theta: float, v: float) -> Tensor:
        return (~(x <= theta)).to(x.dtype)


class _LeakyReLU(Formula):
    """y = max(x, 0) + a min(x, 0)          dy/dx = p + a (1 - p), p = 1 for x > 0, else 0."""

    @staticmethod
    def f(x: Tensor, a: float) -> Tensor:
        return x.clamp_min(0) + a * x.clamp_max(0)

    @staticmethod
    def slope(x: Tensor, a: float) -> Tensor:
        p = (x > 0).to(x.dtype)
        return p + a * (1 - p)


class _LeakyReLUInPlace(_LeakyReLU):
    """The same in y, which for a ≥ 0 is positive where x is."""

    saves_output = True

    @staticmethod
    def slope(y: Tensor, a: float) -> Tensor:
        if a < 0:
            raise RuntimeError(
                _NEGATIVE_SLOPE.format("leakyReLu")
                + " File an issue at https://github.com/pytorch/pytorch if you do require "
                "supporting in-place leakRelu backward calculation with negative slope"
            )
        return _LeakyReLU.slope(y, a)


class _ELU(Formula):
    """y = λ x for x > 0, else λ α (e^bx - 1)          dy/dx = λ for x > 0, else λ α b e^bx."""

    @staticmethod
    def f(x: Tensor, alpha: float, scale: float, b: float) -> Tensor:
        return scale * torch.where(x <= 0, alpha * (b * x).expm1(), x)

    @staticmethod
    def slope(x: Tensor, alpha: float, scale: float, b: float) -> Tensor:
        e = (b * x.clamp(max=0)).exp()
        return torch.where(x <= 0, scale * alpha * b * e, scale)


class _ELUInPlace(_ELU):
    """The same in y: λ α e^bx = y + λ α for x ≤ 0, which for α ≥ 0 is where y ≤ 0."""

    saves_output = True

    @staticmethod
    def slope(y: Tensor, alpha: float, scale: float, b: float) -> Tensor:
        if alpha < 0:
            raise RuntimeError(_NEGATIVE_SLOPE.format("elu"))
        return torch.where(y <= 0, b * (y + scale * alpha), scale)


_NEGATIVE_SLOPE = (
    "In-place {} backward calculation is triggered with a negative slope which is not supported. "
    "This is caused by calling in-place forward function with a negative slope, please call "
    "out-of-place version instead."
)


class _GELU(Formula):
    """y = x Φ(x)          dy/dx = Φ(x) + x φ(x).

    Φ(x) = (1 + erf(x / sqrt(2))) / 2 is the distribution function of the standard normal, and
    φ(x) = e^(-x²/2) / sqrt(2 π), its derivative, the density.
    """

    @staticmethod
    def f(x: Tensor) -> Tensor:
        return x * (0.5 * (1 + (x * math.sqrt(0.5)).erf()))

    @staticmethod
    def slope(x: Tensor) -> Tensor:
        Phi = 0.5 * (1 + (x * math.sqrt(0.5)).erf())
        phi = (-0.5 * x * x).exp() * (1 / math.sqrt(2 * math.pi))
        return Phi + x * phi


class _GELUTanh(Formula):
    """y = x (1 + tanh u) / 2 = x σ(2u), u = sqrt(2/π) (x + 0.044715 x³).

    dy/dx = σ(2u) + x σ(2u) (1 - σ(2u)) 2 du/dx,     du/dx = sqrt(2/π) (1 + 3 · 0.044715 x²).

    Beyond |x| = 12, where 2u > 142, all is constant or linear: there x³ need not be taken.
    """

    @staticmethod
    def f(x: Tensor) -> Tensor:
        z = x.clamp(-12, 12)
        return x * logistic(2 * math.sqrt(2 / math.pi) * (z + 0.044715 * z * z * z))

    @staticmethod
    def slope(x: Tensor) -> Tensor:
        z = x.clamp(-12, 12)
        two_u = 2 * math.sqrt(2 / math.pi) * (z + 0.044715 * z * z * z)
        d_two_u = 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z * z)
        e = two_u.clamp(max=43).exp()
        one_minus_sigma = 1 / (1 + e)
        return e * one_minus_sigma * (1 + z * one_minus_sigma * d_two_u)


class _SiLU(Formula):
    """y = x σ(x)          dy/dx = σ(x) + x σ(x) (1 - σ(x))."""

    @staticmethod
    def f(x: Tensor) -> Tensor:
        return x / (1 + (-x).exp())

    @staticmethod
    def slope(x: Tensor) -> Tensor:
        z = x.clamp(max=43)
        e = z.exp()
        one_minus_sigma = 1 / (1 + e)
        return e * one_minus_sigma * (1 + z * one_minus_sigma)


class _Mish(Formula):
    """y = x T(x), T(x) = tanh(log(1 + e^x))          dy/dx = T + x dT/dx.

    tanh(log a) = (a² - 1) / (a² + 1), and with a = 1 + e^x and n = a² - 1 = e^x (e^x + 2)

        T = n / (n + 2)          dT/dx = 2 n' / (n + 2)² = 4 e^x (e^x + 1) / (n + 2)²
    """

    @staticmethod
    def f(x: Tensor) -> Tensor:
        e = x.clamp(max=20).exp()
        n = e * (e + 2)
        return x * (n / (n + 2))

    @staticmethod
    def slope(x: Tensor) -> Tensor:
        z = x.clamp(max=20)  # T is 1 to the last bit of float64 there
        e = z.exp()
        r = 1 / (e * (e + 2) + 2)
        return e * r * (e + 2 + 4 * z * (e + 1) * r)


class _Softplus(Formula):
    """y = log(1 + e^βx) / β          dy/dx = σ(βx);          y = x where βx > threshold.

    log(1 + e^z) = max(z, 0) + log(1 + e^-|z|), of which nothing overflows.
    """

    @staticmethod
    def f(x: Tensor, beta: float, threshold: float) -> Tensor:
        z = beta * x
        return torch.where(z > threshold, x, (z.clamp_min(0) + (-z.abs()).exp().log1p()) / beta)

    @staticmethod
    def slope(x: Tensor, beta: float, threshold: float) -> Tensor:
        z = beta * x
        return torch.where(z > threshold, 1.0, logistic(z))


class _LogSigmoid(Formula):
    """y = log σ(x) = -log(1 + e^-x)          dy/dx = 1 - σ(x) = σ(-x)."""

    @staticmethod
    def f(x: Tensor) -> Tensor:
        return x.clamp_max(0) - (-x.abs()).exp().log1p()

    @staticmethod
    def slope(x: Tensor) -> Tensor:
        return logistic(-x)


class _Softsign(Formula):
    """y = x / (1 + |x|)          dy/dx = 1 / (1 + |x|)²."""

    @staticmethod
    def f(x: Tensor) -> Tensor:
        return x / (1 + x.abs())

    @staticmethod
    def slope(x: Tensor) -> Tensor:
        r = 1 / (1 + x.abs())
        return r * r


class _Tanhshrink(Formula):
    """y = x - tanh x          dy/dx = tanh² x.

    For |x| < 1/2 the difference, x³/3 - ..., would keep few digits or none. There

        tanh x = x / (1 + w),     w = x² / (3 + x² / (5 + x² / (7 + ...)))

    (J. H. Lambert, "Mémoire sur quelques propriétés remarquables des quantités transcendentes
    circulaires et logarithmiques", 1761), so that x - tanh x = x w / (1 + w).
    """

    @staticmethod
    def f(x: Tensor) -> Tensor:
        w = x * x / 15  # deep enough for float64
        for k in (13, 11, 9, 7, 5, 3):
            w = x * x / (k + w)
        return torch.where(x.abs() < 0.5, x * w / (1 + w), x - _Tanh.f(x))

    @staticmethod
    def slope(x: Tensor) -> Tensor:
        t = hyperbolic_tangent(x)
        return t * t


class _Softshrink(Formula):
    """y = x - λ for x > λ, x + λ for x < -λ, else 0          dy/dx = 1 for |x| > λ, else 0."""

    @staticmethod
    def f(x: Tensor, lambd: float) -> Tensor:
        return x - x.clamp(-lambd, lambd)

    @staticmethod
    def slope(x: Tensor, lambd: float) -> Tensor:
        return (~(x.abs() <= lambd)).to(x.dtype)


class _Hardshrink(Formula):
    """y = x for |x| > λ, else 0          dy/dx = 1 for |x| > λ, else 0."""

    @staticmethod
    def f(x: Tensor, lambd: float) -> Tensor:
        return torch.where((x >= -lambd) & (x <= lambd), 0.0, x)

    @staticmethod
    def slope(x: Tensor, lambd: float) -> Tensor:
        return (~((x >= -lambd) & (x <= lambd))).to(x.dtype)


class _Hardsigmoid(Formula):
    """y = min(max(x + 3, 0), 6) / 6          dy/dx = 1/6 for |x| < 3, else 0."""

    @staticmethod
    def f(x: Tensor) -> Tensor:
        return (x + 3).clamp(0, 6) / 6

    @staticmethod
    def slope(x: Tensor) -> Tensor:
        return torch.where(x.abs() < 3, x.new_full((), 1 / 6), 0.0)


class _Hardswish(Formula):
    """y = x min(max(x + 3, 0), 6) / 6          dy/dx = 0 for x ≤ -3, x/3 + 1/2, 1 for x ≥ 3."""

    @staticmethod
    def f(x: Tensor) -> Tensor:
        return x * (x + 3).clamp(0, 6) / 6

    @staticmethod
    def slope(x: Tensor) -> Tensor:
        return torch.where(x <= -3, 0.0, torch.where(x < 3, x / 3 + 0.5, 1.0))


class ReLUFunction(Elementwise):
    """The node of :class:`_ReLU`, the commonest of all: in place it overwrites x at once."""

    @staticmethod
    def forward(formula: type[Formula], x: Tensor, inplace: bool, *numbers: Any) -> Tensor:
        """The function max(x, 0), which is all that ``formula`` says."""
        return x.clamp_min_(0) if inplace else x.clamp_min(0)


def prelu_forward(x: Tensor, w: Tensor) -> Tensor:
    """y = x for x > 0, else w x; x (N, C, *), w (C,) or (1,)."""
    x_, w = x.to(accumulate_dtype(x)), _per_channel(w, x)
    return torch.where(x_ > 0, x_, w * x_).to(x.dtype)


def prelu_backward(x: Tensor, w: Tensor, d_y: Tensor) -> tuple[Tensor, Tensor]:
    """∂x = ∂y for x > 0, else w ∂y;          ∂w = Σ ∂y x over the x ≤ 0 of the channel."""
    x_, d_y, w_ = x.to(accumulate_dtype(x)), d_y.to(accumulate_dtype(x)), _per_channel(w, x)
    d_x = torch.where(x_ > 0, d_y, w_ * d_y)
    d_w = torch.where(x_ > 0, 0.0, d_y * x_)
    if x.dim() > 2:  # sample by sample first, the shorter sums
        d_w = d_w.sum(list(range(2, x.dim())))
    d_w = d_w.sum(0) if w.numel() > 1 else d_w.sum()
    return d_x.to(x.dtype), d_w.reshape(w.shape).to(w.dtype)


def _per_channel(w: Tensor, x: Tensor) -> Tensor:
    """w in the dtype to compute in and in a shape to combine with x (N, C, *)."""
    w = w.to(accumulate_dtype(x))
    return w.reshape(-1, *[1] * (x.dim() - 2)) if w.numel() > 1 else w.reshape([1] * x.dim())


class PReLUFunction(Function):
    """The equations of PReLU as one node of the graph. It saves x and w, as native does."""

    @staticmethod
    def forward(x: Tensor, w: Tensor) -> Tensor:
        """Equation: :func:`prelu_forward`."""
        return kernels.run(prelu_forward, x, w)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Save x and w."""
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> Any:
        """Equations: :func:`prelu_backward`."""
        d_x, d_w = kernels.run(prelu_backward, *ctx.saved_tensors, d_y)
        return d_x, d_w

    @staticmethod
    def tangent(ctx: Any, t_x: Tensor | None, t_w: Tensor | None) -> Tensor:
        """ẏ = ẋ for x > 0, else w ẋ + ẇ x."""
        x, w = ctx.saved_tensors
        t_x = torch.zeros_like(x) if t_x is None else t_x
        t_w = torch.zeros_like(w) if t_w is None else t_w
        leak = _per_channel(w, x) * t_x + _per_channel(t_w, x) * x
        return torch.where(x > 0, t_x, leak).to(x.dtype)


def glu_forward(x: Tensor, dim: int) -> Tensor:
    """y = a σ(b), where a and b are the halves of x along dim."""
    a, b = x.to(accumulate_dtype(x)).chunk(2, dim)
    return (a / (1 + (-b).exp())).to(x.dtype)


def glu_backward(x: Tensor, d: Tensor, dim: int) -> Tensor:
    """∂a = ∂y σ(b),     ∂b = ∂y a σ(b) (1 - σ(b))."""
    a, b = x.to(accumulate_dtype(x)).chunk(2, dim)
    d = d.to(a.dtype)
    z = (-b.abs()).exp()  # σ(b) (1 - σ(b)) = z / (1 + z)², of which nothing overflows
    d_a, d_b = d * logistic(b), d * a * (z / (1 + z) / (1 + z))
    return torch.cat([d_a, d_b], dim).to(x.dtype)


class GLUFunction(Function):
    """The equations of GLU as one node of the graph. It saves x, as native does."""

    @staticmethod
    def forward(x: Tensor, dim: int) -> Tensor:
        """Equation: :func:`glu_forward`."""
        return kernels.run(glu_forward, x, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save x."""
        x, ctx.dim = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> Any:
        """Equations: :func:`glu_backward`."""
        return kernels.run(glu_backward, *ctx.saved_tensors, d_y, ctx.dim), None

    @staticmethod
    def tangent(ctx: Any, t_x: Tensor, _: None) -> Tensor:
        """ẏ = ȧ σ(b) + a σ(b) (1 - σ(b)) ḃ."""
        (x,) = ctx.saved_tensors
        a, b = x.to(accumulate_dtype(x)).chunk(2, ctx.dim)
        t_a, t_b = t_x.to(a.dtype).chunk(2, ctx.dim)
        return (logistic(b) * (t_a + a * logistic(-b) * t_b)).to(x.dtype)


# --- torch.nn.functional --------------------------------------------------------------------------


def _real(x: Tensor, kernel: str) -> Tensor:
    """The input, refused in the words of native's kernel unless it is of a floating dtype."""
    if not x.is_floating_point():
        raise not_implemented(kernel, x)
    return x


def _made_real(x: Tensor, kernel: str) -> Tensor:
    """The input, integers made floats; complex numbers are refused."""
    numbers = x.is_floating_point() or x.is_complex()
    return _real(x if numbers else x.to(torch.get_default_dtype()), kernel)


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """y = max(x, 0), see :class:`ReLU`."""
    if input.dtype == torch.bool:
        raise NotImplementedError("Boolean inputs not supported for relu")
    if not inplace:
        return ReLUFunction.call(_ReLU, input, False)
    watched = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    if watched or forward_ad._current_level >= 0 or (input.requires_grad and input.is_leaf):
        return elementwise(_ReLU, input, inplace=True)
    return ReLUFunction.call(_ReLU, input, True)


def hardtanh(
    input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Tensor:
    """y = min(max(x, min_val), max_val), see :class:`Hardtanh`."""
    if min_val > max_val:
        raise ValueError("min_val cannot be greater than max_val")
    if input.dtype == torch.bool:
        raise NotImplementedError("Bool inputs not supported for hardtanh")
    return elementwise(_Hardtanh, input, min_val, max_val, inplace=inplace)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """y = min(max(x, 0), 6), see :class:`ReLU6`."""
    return hardtanh(input, 0.0, 6.0, inplace)


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """y = x where x > threshold, else value, see :class:`Threshold`."""
    if input.dtype == torch.bool or input.is_complex():
        raise not_implemented("threshold_cpu", input)
    return elementwise(_Threshold, input, threshold, value, inplace=inplace)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """y = x where x > 0, else negative_slope x, see :class:`LeakyReLU`."""
    formula = _LeakyReLUInPlace if inplace else _LeakyReLU
    return elementwise(formula, _real(input, "leaky_relu_cpu"), negative_slope, inplace=inplace)


def rrelu(
    input: Tensor,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    """y = x where x > 0, else r x with r drawn from [lower, upper), see :class:`RReLU`."""
    if lower > upper:
        raise RuntimeError("Lower bound should be less than or equal to the upper bound")
    if not training:
        return leaky_relu(input, (lower + upper) / 2, inplace)
    x = _real(input, "rrelu_with_noise_out_cpu").to(accumulate_dtype(input))
    with torch.no_grad():
        r = _draw_slopes(x, lower, upper)
    y = (x * r).to(input.dtype)
    return input.copy_(y) if inplace else y


def _draw_slopes(x: Tensor, lower: float, upper: float) -> Tensor:
    """1 where x > 0, else a number drawn from [lower, upper)."""
    negative = x <= 0
    if x.device.type != "cpu" or torch.compiler.is_compiling() or _is_batched(x):
        return torch.where(negative, torch.empty_like(x).uniform_(lower, upper), 1.0)
    # as native does on the CPU: in float64, in the order of the values, for these alone
    lower, upper = torch.tensor([lower, upper], dtype=x.dtype).tolist()
    draws = torch.rand(int(negative.sum()), dtype=torch.float64).mul_(upper - lower).add_(lower)
    return torch.ones_like(x).masked_scatter_(negative, draws.to(x.dtype))


def _is_batched(x: Tensor) -> bool:
    """Whether x stands for many tensors, under vmap, and counts in it for many numbers."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(x):
        if functorch.is_batchedtensor(x):
            return True
        x = functorch.get_unwrapped(x)
    return False


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """y = x where x > 0, else alpha (e^x - 1), see :class:`ELU`."""
    return _elu(input, alpha, 1.0, 1.0, inplace)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """y = λ x where x > 0, else λ α (e^x - 1), see :class:`SELU`."""
    return _elu(input, SELU_ALPHA, SELU_SCALE, 1.0, inplace)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """y = x where x > 0, else alpha (e^(x/alpha) - 1), see :class:`CELU`."""
    if alpha == 0:
        raise RuntimeError("ZeroDivisionError: alpha cannot be 0 for CELU")
    return _elu(input, alpha, 1.0, 1 / alpha, inplace)


def _elu(input: Tensor, alpha: float, scale: float, b: float, inplace: bool) -> Tensor:
    formula = _ELUInPlace if inplace else _ELU
    return elementwise(formula, _real(input, "elu_cpu"), alpha, scale, b, inplace=inplace)


relu_ = partial(relu, inplace=True)
hardtanh_ = partial(hardtanh, inplace=True)
threshold_ = partial(threshold, inplace=True)
leaky_relu_ = partial(leaky_relu, inplace=True)
rrelu_ = partial(rrelu, inplace=True)
elu_ = partial(elu, inplace=True)
selu_ = partial(selu, inplace=True)
celu_ = partial(celu, inplace=True)


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """y = x where x > 0, else w x, see :class:`PReLU`.

    Args:
        input: (N, C, *), of any shape if there is one weight.
        weight: (C,), (1,) or (), of the dtype of the input.
    """
    device = input.device.type
    # to the lower precision, as native does; the meta device has no autocast
    if device != "meta" and torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        input, weight = (
            t.to(dtype) if t.is_floating_point() and t.dtype != torch.float64 else t
            for t in (input, weight)
        )
    if input.dtype != weight.dtype:
        names = (kind_of(t) for t in (input, weight))
        raise RuntimeError("prelu: Type promoting not supported. Got {} and {}".format(*names))
    if weight.numel() != 1:
        if input.dim() == 0:
            raise RuntimeError("Not allow zero-dim input tensor.")
        channels = input.shape[1] if input.dim() > 1 else 1
        if weight.numel() != channels:
            raise RuntimeError(
                "Mismatch of parameter numbers and input channel size. Found parameter numbers = "
                f"{weight.numel()} and channel size = {channels}."
            )
    if weight.dim() > 1:
        raise RuntimeError(
            f"prelu: Expected `weight` to be a scalar or 1D tensor, but got: ndim = {weight.dim()}"
        )
    return PReLUFunction.call(_real(input, "prelu_cpu"), weight)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """y = a σ(b) for the halves a and b of x along dim, see :class:`GLU`."""
    if input.dim() == 0:
        raise RuntimeError("glu does not support scalars because halving size must be even")
    size = input.size(dim)
    dim %= input.dim()
    if size % 2:
        raise RuntimeError(f"Halving dimension must be even, but dimension {dim} is size {size}")
    return GLUFunction.call(_real(input, "glu_cpu"), dim)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """y = x Φ(x), or with approximate="tanh" its approximation, see :class:`GELU`."""
    if approximate not in ("none", "tanh"):
        raise RuntimeError("approximate argument must be either none or tanh.")
    formula = _GELU if approximate == "none" else _GELUTanh
    return elementwise(formula, _real(input, "GeluKernelImpl"))


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """y = x σ(x), see :class:`SiLU`."""
    return elementwise(_SiLU, _real(input, "silu_cpu"), inplace=inplace)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """y = x tanh(log(1 + e^x)), see :class:`Mish`."""
    return elementwise(_Mish, _real(input, "mish_cpu"), inplace=inplace)


def softplus(input: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    """y = log(1 + e^βx) / β, and x where βx > threshold, see :class:`Softplus`."""
    (x,) = out_of_autocast(_real(input, "softplus_cpu"), device="cuda")
    return elementwise(_Softplus, x, beta, threshold)


def sigmoid(input: Tensor) -> Tensor:
    """y = 1 / (1 + e^-x), see :class:`Sigmoid`."""
    return elementwise(_Sigmoid, _made_real(input, "sigmoid_cpu"))


def tanh(input: Tensor) -> Tensor:
    """y = (e^x - e^-x) / (e^x + e^-x), see :class:`Tanh`."""
    return elementwise(_Tanh, _made_real(input, "tanh_cpu"))


def logsigmoid(input: Tensor) -> Tensor:
    """y = log(1 / (1 + e^-x)), see :class:`LogSigmoid`."""
    return elementwise(_LogSigmoid, _real(input, "log_sigmoid_cpu"))


def softsign(input: Tensor) -> Tensor:
    """y = x / (1 + |x|), see :class:`Softsign`."""
    return elementwise(_Softsign, _made_real(input, "softsign_cpu"))


def tanhshrink(input: Tensor) -> Tensor:
    """y = x - tanh x, see :class:`Tanhshrink`."""
    return elementwise(_Tanhshrink, _made_real(input, "tanhshrink_cpu"))


def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """y = x - λ for x > λ, x + λ for x < -λ, else 0, see :class:`Softshrink`."""
    x = _real(input, "softshrink_check")
    if not 0 <= lambd <= torch.finfo(x.dtype).max:
        kind = kind_of(x)
        raise RuntimeError(
            f"lambda must be in range [0, {torch.finfo(x.dtype).max:g}] for input dtype {kind}, "
            f"but found {lambd:g}"
        )
    return elementwise(_Softshrink, x, lambd)


def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """y = x where |x| > λ, else 0, see :class:`Hardshrink`."""
    return elementwise(_Hardshrink, _real(input, "hardshrink_cpu"), lambd)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """y = min(max(x + 3, 0), 6) / 6, see :class:`Hardsigmoid`."""
    return elementwise(_Hardsigmoid, _real(input, "hardsigmoid_cpu"), inplace=inplace)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """y = x min(max(x + 3, 0), 6) / 6, see :class:`Hardswish`."""
    return elementwise(_Hardswish, _real(input, "hardswish_cpu"), inplace=inplace)


# --- torch.nn -------------------------------------------------------------------------------------


class _Activation(nn.Module):
    # Each class below inherits from torch's class of its name for identity (isinstance) and, where
    # it has no arguments, signature only; everything that computes or keeps state is here.

    _function: ClassVar[Callable[..., Tensor]]
    _arguments: ClassVar[tuple[str, ...]] = ()  # what it takes beside the input: our attributes

    def _keep(self, *values: Any) -> None:
        nn.Module.__init__(self)
        for name, value in zip(self._arguments, values, strict=True):
            setattr(self, name, value)

    def extra_repr(self) -> str:
        """The arguments of the constructor; ``inplace`` if it is set."""
        shown = [name for name in self._arguments if name != "inplace" or self.inplace]
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same shape and dtype, value by value; see the class."""
        return self._function(input, *[getattr(self, name) for name in self._arguments])


class _InPlace(_Activation):
    _arguments = ("inplace",)

    def __init__(self, inplace: bool = False) -> None:
        self._keep(inplace)


class _Alpha(_Activation):
    _arguments = ("alpha", "inplace")

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        self._keep(alpha, inplace)


class _Shrink(_Activation):
    _arguments = ("lambd",)

    def __init__(self, lambd: float = 0.5) -> None:
        self._keep(lambd)

    def extra_repr(self) -> str:
        """λ."""
        return str(self.lambd)


class ReLU(_InPlace, nn.ReLU):
    """y = max(x, 0),     dy/dx = 1 for x > 0, else 0.

    Args:
        inplace: overwrite the input (and return it).

    Shape: any to the same. Dtypes: real, integers too.

    Raises:
        RuntimeError: in-place on a leaf that requires grad.
        NotImplementedError: bool or complex input.

    Source: V. Nair, G. Hinton, "Rectified Linear Units Improve Restricted Boltzmann Machines",
    ICML 2010.

    Differs from torch: ∂x is ∂y times 0 or 1, so that an infinite ∂y gives nan where y is 0.
    """

    _function = staticmethod(relu)


class Hardtanh(_Activation, nn.Hardtanh):
    """y = min(max(x, l), u),     dy/dx = 1 for l < x < u, else 0.

    Args:
        min_val: l, the least value of y.
        max_val: u, the greatest; above l.
        inplace: overwrite the input (and return it).
        min_value: deprecated name of min_val.
        max_value: deprecated name of max_val.

    Shape: any to the same. Dtypes: real, integers too.

    Raises:
        AssertionError: max_val ≤ min_val.
        RuntimeError: in-place on a leaf that requires grad.
        NotImplementedError: bool or complex input.

    Source: R. Collobert, "Large Scale Machine Learning", thesis, Université Paris 6, 2004.
    """

    _function = staticmethod(hardtanh)
    _arguments = ("min_val", "max_val", "inplace")

    def __init__(
        self,
        min_val: float = -1.0,
        max_val: float = 1.0,
        inplace: bool = False,
        min_value: float | None = None,
        max_value: float | None = None,
    ) -> None:
        for name, value in (("min_val", min_value), ("max_val", max_value)):
            if value is not None:
                warnings.warn(
                    f"keyword argument `{name}ue` is deprecated and renamed to `{name}`",
                    FutureWarning,
                    stacklevel=2,
                )
        self._keep(
            min_val if min_value is None else min_value,
            max_val if max_value is None else max_value,
            inplace,
        )
        if self.max_val <= self.min_val:
            raise AssertionError(
                f"max_val ({self.max_val}) must be greater than min_val ({self.min_val})"
            )


class ReLU6(Hardtanh, nn.ReLU6):
    """y = min(max(x, 0), 6),     dy/dx = 1 for 0 < x < 6, else 0.

    Args, shape, dtypes and errors as for :class:`ReLU`.

    Source: A. Krizhevsky, "Convolutional Deep Belief Networks on CIFAR-10", 2010.
    """

    def __init__(self, inplace: bool = False) -> None:
        self._keep(0.0, 6.0, inplace)

    def extra_repr(self) -> str:
        """``inplace`` if it is set."""
        return "inplace=True" if self.inplace else ""


class Threshold(_Activation, nn.Threshold):
    """y = x for x > θ, else v,     dy/dx = 1 for x > θ, else 0.

    Args:
        threshold: θ, in the unit of x.
        value: v, what smaller values become.
        inplace: overwrite the input (and return it).

    Shape, dtypes and errors as for :class:`ReLU`.
    """

    _function = staticmethod(threshold)
    _arguments = ("threshold", "value", "inplace")

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        self._keep(threshold, value, inplace)


class LeakyReLU(_Activation, nn.LeakyReLU):
    """y = x for x > 0, else a x,     dy/dx = 1 for x > 0, else a.

    Args:
        negative_slope: a.
        inplace: overwrite the input (and return it).

    Shape: any to the same. Dtypes: floating point.

    Raises:
        RuntimeError: in-place on a leaf that requires grad, or differentiated with a < 0.
        NotImplementedError: input that is not of a floating dtype.

    Source: A. Maas, A. Hannun, A. Ng, "Rectifier Nonlinearities Improve Neural Network Acoustic
    Models", ICML 2013 workshop on deep learning for audio, speech, and language processing.
    """

    _function = staticmethod(leaky_relu)
    _arguments = ("negative_slope", "inplace")

    def __init__(self, negative_slope: float = 1e-2, inplace: bool = False) -> None:
        self._keep(negative_slope, inplace)


class RReLU(_Activation, nn.RReLU):
    """y = x for x > 0, else r x,     dy/dx = 1 for x > 0, else r.

    In training r ~ U[lower, upper) for each value; in evaluation it is the mean of the two.

    Args:
        lower: least slope.
        upper: greatest slope.
        inplace: overwrite the input (and return it).

    Shape: any to the same. Dtypes: floating point.

    Raises:
        RuntimeError: lower > upper; in-place on a leaf that requires grad.
        NotImplementedError: input that is not of a floating dtype.

    Source: B. Xu, N. Wang, T. Chen, M. Li, "Empirical Evaluation of Rectified Activations in
    Convolutional Network", 2015, arXiv:1505.00853 (there 1/r is drawn).

    Differs from torch: only r is kept for the backward, not x. On the CPU the draw is native's bit
    for bit, generator included; compiled, under torch.func and on CUDA it is another.
    """

    _function = staticmethod(rrelu)
    _arguments = ("lower", "upper", "inplace")

    def __init__(
        self, lower: float = 1.0 / 8, upper: float = 1.0 / 3, inplace: bool = False
    ) -> None:
        self._keep(lower, upper, inplace)

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same shape and dtype, value by value; see the class."""
        return rrelu(input, self.lower, self.upper, self.training, self.inplace)


class PReLU(_Activation, nn.PReLU):
    """y = x for x > 0, else w x, where w is learnt, one for each channel or one for all.

        dy/dx = 1 for x > 0, else w          ∂w = Σ ∂y x     over all x ≤ 0 (of the channel)

    Args:
        num_parameters: C, or 1.
        init: what w begins with.
        device: where w lives.
        dtype: its dtype.

    Shape: (N, C, *) to the same; any if there is one w. Dtypes: floating point, that of w.

    Raises:
        RuntimeError: another number of channels than C, another dtype than that of w.
        NotImplementedError: input that is not of a floating dtype.

    Source: K. He, X. Zhang, S. Ren, J. Sun, "Delving Deep into Rectifiers: Surpassing Human-Level
    Performance on ImageNet Classification", 2015, arXiv:1502.01852, equations 1, 2 and 4.

    Differs from torch: ∂w of half precision is summed in float32.
    """

    _arguments = ("num_parameters",)

    def __init__(
        self, num_parameters: int = 1, init: float = 0.25, device: Any = None, dtype: Any = None
    ) -> None:
        self.num_parameters = num_parameters
        nn.Module.__init__(self)
        self.init = init
        self.weight = Parameter(torch.empty(num_parameters, device=device, dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """w = init."""
        self.weight.fill_(self.init)

    def forward(self, input: Tensor) -> Tensor:
        """Shape (N, C, *) to the same shape and dtype; see the class."""
        return prelu(input, self.weight)


class ELU(_Alpha, nn.ELU):
    """y = x for x > 0, else α (e^x - 1),     dy/dx = 1 for x > 0, else α e^x.

    Args:
        alpha: α, to whose negative y falls as x does.
        inplace: overwrite the input (and return it).

    Shape: any to the same. Dtypes: floating point.

    Raises:
        RuntimeError: in-place on a leaf that requires grad, or differentiated with α < 0.
        NotImplementedError: input that is not of a floating dtype.

    Source: D.-A. Clevert, T. Unterthiner, S. Hochreiter, "Fast and Accurate Deep Network Learning
    by Exponential Linear Units (ELUs)", 2015, arXiv:1511.07289.
    """

    _function = staticmethod(elu)


class CELU(_Alpha, nn.CELU):
    """y = x for x > 0, else α (e^(x/α) - 1),     dy/dx = 1 for x > 0, else e^(x/α).

    The derivative is continuous for every α. Args, shape, dtypes and errors as for :class:`ELU`;
    α = 0 is refused.

    Source: J. Barron, "Continuously Differentiable Exponential Linear Units", 2017,
    arXiv:1704.07483.

    Differs from torch: the derivative in float64 takes 1/α in float64, not in float32.
    """

    _function = staticmethod(celu)


class SELU(_InPlace, nn.SELU):
    """y = λ x for x > 0, else λ α (e^x - 1),     dy/dx = λ for x > 0, else λ α e^x.

    α = 1.6732632423543772 and λ = 1.0507009873554805 make mean 0 and variance 1 a fixed point: for
    x ~ N(0, 1), E[y] = 0 and E[y²] = 1.

    Args:
        inplace: overwrite the input (and return it).

    Shape: any to the same. Dtypes: floating point. Errors as for :class:`ELU`.

    Source: G. Klambauer, T. Unterthiner, A. Mayr, S. Hochreiter, "Self-Normalizing Neural
    Networks", 2017, arXiv:1706.02515, equations 2 and 14.
    """

    _function = staticmethod(selu)


class GELU(_Activation, nn.GELU):
    """y = x Φ(x),     dy/dx = Φ(x) + x φ(x), of the standard normal's distribution Φ and density φ.

    Args:
        approximate: "none"; or "tanh" for Φ(x) ≈ (1 + tanh u) / 2 = σ(2u) with
            u = sqrt(2/π) (x + 0.044715 x³), and the derivative of that.

    Shape: any to the same. Dtypes: floating point.

    Raises:
        RuntimeError: another approximation, at the first call.
        NotImplementedError: input that is not of a floating dtype.

    Source: D. Hendrycks, K. Gimpel, "Gaussian Error Linear Units (GELUs)", 2016, arXiv:1606.08415.

    Differs from torch: y of inf is inf (native: nan on the CPU).
    """

    _function = staticmethod(gelu)
    _arguments = ("approximate",)

    def __init__(self, approximate: str = "none") -> None:
        self._keep(approximate)


class SiLU(_InPlace, nn.SiLU):
    """y = x σ(x),     dy/dx = σ(x) + x σ(x) (1 - σ(x)); also called Swish.

    Args:
        inplace: overwrite the input (and return it).

    Shape: any to the same. Dtypes: floating point.

    Raises:
        RuntimeError: in-place on a leaf that requires grad.
        NotImplementedError: input that is not of a floating dtype.

    Source: S. Elfwing, E. Uchibe, K. Doya, "Sigmoid-Weighted Linear Units for Neural Network
    Function Approximation in Reinforcement Learning", 2017, arXiv:1702.03118; P. Ramachandran,
    B. Zoph, Q. Le, "Searching for Activation Functions", 2017, arXiv:1710.05941.
    """

    _function = staticmethod(silu)


class Mish(_InPlace, nn.Mish):
    """y = x tanh(log(1 + e^x)); the derivative is in :class:`_Mish`.

    Args, shape, dtypes and errors as for :class:`SiLU`.

    Source: D. Misra, "Mish: A Self Regularized Non-Monotonic Activation Function", 2019,
    arXiv:1908.08681.
    """

    _function = staticmethod(mish)


class Hardsigmoid(_InPlace, nn.Hardsigmoid):
    """y = min(max(x + 3, 0), 6) / 6,     dy/dx = 1/6 for |x| < 3, else 0.

    Args, shape, dtypes and errors as for :class:`SiLU`.

    Source: A. Howard et al., "Searching for MobileNetV3", 2019, arXiv:1905.02244, section 5.2.

    Differs from torch: the derivative in float64 is 1/6 in float64, not in float32.
    """

    _function = staticmethod(hardsigmoid)

    def extra_repr(self) -> str:
        """Nothing, as in torch."""
        return ""


class Hardswish(_InPlace, nn.Hardswish):
    """y = x min(max(x + 3, 0), 6) / 6,     dy/dx = x/3 + 1/2 for |x| < 3, else 0 or 1.

    Args, shape, dtypes and errors as for :class:`SiLU`. Source: as for :class:`Hardsigmoid`.
    """

    _function = staticmethod(hardswish)

    def extra_repr(self) -> str:
        """Nothing, as in torch."""
        return ""


class Softplus(_Activation, nn.Softplus):
    """y = log(1 + e^βx) / β,     dy/dx = σ(βx); y = x where βx > threshold.

    Args:
        beta: β, per unit of x.
        threshold: of βx, above which y is x.

    Shape: any to the same. Dtypes: floating point; float32 under CUDA's autocast.

    Raises:
        NotImplementedError: input that is not of a floating dtype.

    Source: C. Dugas, Y. Bengio, F. Bélisle, C. Nadeau, R. Garcia, "Incorporating Second-Order
    Functional Knowledge for Better Option Pricing", NIPS 2000.

    Differs from torch: nothing overflows, however high the threshold.
    """

    _function = staticmethod(softplus)
    _arguments = ("beta", "threshold")

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        self._keep(beta, threshold)


class Sigmoid(_Activation, nn.Sigmoid):
    """y = 1 / (1 + e^-x),     dy/dx = y (1 - y).

    Shape: any to the same. Dtypes: floating point; integers are made floats.

    Raises:
        NotImplementedError: complex input, which torch takes.

    Source: D. Rumelhart, G. Hinton, R. Williams, "Learning Representations by Back-Propagating
    Errors", Nature 323, 1986.
    """

    _function = staticmethod(sigmoid)


class Tanh(_Activation, nn.Tanh):
    """y = (e^x - e^-x) / (e^x + e^-x),     dy/dx = 1 - y².

    Shape, dtypes and errors as for :class:`Sigmoid`.

    Source: Y. LeCun, L. Bottou, G. Orr, K.-R. Müller, "Efficient BackProp", 1998, section 4.4.
    """

    _function = staticmethod(tanh)


class LogSigmoid(_Activation, nn.LogSigmoid):
    """y = log σ(x) = -log(1 + e^-x),     dy/dx = 1 - σ(x).

    Shape: any to the same. Dtypes: floating point.

    Raises:
        NotImplementedError: input that is not of a floating dtype.

    Differs from torch: only x is kept for the backward (native keeps e^-|x| too).
    """

    _function = staticmethod(logsigmoid)


class Softsign(_Activation, nn.Softsign):
    """y = x / (1 + |x|),     dy/dx = 1 / (1 + |x|)².

    Shape, dtypes and errors as for :class:`Sigmoid`.

    Source: X. Glorot, Y. Bengio, "Understanding the Difficulty of Training Deep Feedforward Neural
    Networks", AISTATS 2010.

    Differs from torch: only x is kept for the backward, a third of what native keeps.
    """

    _function = staticmethod(softsign)


class Tanhshrink(_Activation, nn.Tanhshrink):
    """y = x - tanh x,     dy/dx = tanh² x.

    Shape, dtypes and errors as for :class:`Sigmoid`.

    Differs from torch: y keeps its digits for small x, where native's difference loses them.
    """

    _function = staticmethod(tanhshrink)


class Softshrink(_Shrink, nn.Softshrink):
    """y = x - λ for x > λ, x + λ for x < -λ, else 0,     dy/dx = 1 for |x| > λ, else 0.

    Args:
        lambd: λ ≥ 0, in the unit of x.

    Shape: any to the same. Dtypes: floating point.

    Raises:
        RuntimeError: λ < 0, at the first call.
        NotImplementedError: input that is not of a floating dtype.

    Source: D. Donoho, I. Johnstone, "Ideal Spatial Adaptation by Wavelet Shrinkage",
    Biometrika 81, 1994.
    """

    _function = staticmethod(softshrink)


class Hardshrink(_Shrink, nn.Hardshrink):
    """y = x for |x| > λ, else 0,     dy/dx = 1 for |x| > λ, else 0.

    Args, shape, dtypes and source as for :class:`Softshrink`; λ < 0 leaves x as it is.
    """

    _function = staticmethod(hardshrink)


class GLU(_Activation, nn.GLU):
    """y = a σ(b) for the halves a and b of x along a dimension.

        ∂a = ∂y σ(b)          ∂b = ∂y a σ(b) (1 - σ(b))

    Args:
        dim: along which x is halved.

    Shape: (*, 2 M, *) to (*, M, *). Dtypes: floating point.

    Raises:
        RuntimeError: an odd size along dim, or no dimension.
        IndexError: no such dimension.
        NotImplementedError: input that is not of a floating dtype.

    Source: Y. Dauphin, A. Fan, M. Auli, D. Grangier, "Language Modeling with Gated Convolutional
    Networks", 2016, arXiv:1612.08083.
    """

    _function = staticmethod(glu)
    _arguments = ("dim",)

    def __init__(self, dim: int = -1) -> None:
        self._keep(dim)
