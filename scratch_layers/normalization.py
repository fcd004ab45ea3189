"""Layer, group and root-mean-square normalization, and the local response normalization.

    J. L. Ba, J. R. Kiros, G. E. Hinton, "Layer Normalization", 2016, arXiv:1607.06450.
    Y. Wu, K. He, "Group Normalization", 2018, arXiv:1803.08494.
    B. Zhang, R. Sennrich, "Root Mean Square Layer Normalization", 2019, arXiv:1910.07467.
    A. Krizhevsky, I. Sutskever, G. E. Hinton, "ImageNet Classification with Deep Convolutional
    Neural Networks", NIPS 2012: local response normalization, section 3.3.

The first three, and instance normalization, are one equation. The input falls into sets of m
values x_i, and each set is normalized by itself:

    μ   = 1/m Σ x_i                     mean; μ = 0 in RMSNorm
    σ²  = 1/m Σ (x_i - μ)²              biased variance; in RMSNorm the mean square
    s   = (σ² + ε)^(-1/2)
    x̂_i = (x_i - μ) s
    y_i = γ_i x̂_i + β_i

They differ in what a set is, and in who shares a γ and β. With x as an array (N, G, K, L), a *set*
is all of K and L, and γ and β are (G, K):

    LayerNorm, RMSNorm      (rows, 1, m, 1)         a row, and γ, β for each place in it
    GroupNorm               (N, G, C/G, H W)        a group of channels, and γ, β for each channel
    InstanceNorm            (N, C, 1, H W)          a channel, and its γ, β

Backward. Let ∂z stand for the derivative of the loss by z, and g_i = γ_i ∂y_i for that by x̂_i. How
x̂ changes with x, ∂x̂_i/∂x_j, follows from ∂μ/∂x_j = 1/m and

    ∂s/∂x_j = -1/2 s³ ∂σ²/∂x_j = -1/2 s³ 2/m (x_j - μ) = -1/m s² x̂_j
    ∂x̂_i/∂x_j = s (δ_ij - 1/m) + (x_i - μ) ∂s/∂x_j = s (δ_ij - 1/m - 1/m x̂_i x̂_j)

This matrix is symmetric: the derivative backward and the one forward are the same map J, which
takes from a vector its mean and its part along x̂ (mean() over the set, the first absent in
RMSNorm):

    (J v)_i = s (v_i - mean(v) - x̂_i mean(v x̂))

    ∂x = J g                ∂γ = Σ ∂y_i x̂_i         ∂β = Σ ∂y_i     (over all that share them)
    ẏ_i = γ_i (J ẋ)_i + γ̇_i x̂_i + β̇_i              for a direction ẋ, γ̇, β̇

The sums over L of ∂y and of ∂y x̂ are the parts of which ∂β and ∂γ, over all N, and mean(g) and
mean(g x̂), over K, are made: one pass over the input for these, a second one for ∂x.

Second derivative. The function returns s and μ next to y, and accepts derivatives *by* them:

    ∂x_i += ∂μ/m - 1/m s² x̂_i ∂s

The backward consists of differentiable operations on ∂y, x, γ, μ and s, so differentiating it
again reaches x through this function once more.

Rounding. Where x is far from zero, (x - μ) cancels, and E[x²] - E[x]² would lose everything. So
the sums are taken over D_i = x_i - K, where K is the mean as rounding left it; what rounding took
away, δ = μ - K, is then the mean of D:

    δ = mean(D)         σ² = mean(D²) - δ²         x̂_i = (D_i - δ) s

(T. Chan, G. Golub, R. LeVeque, "Algorithms for Computing the Sample Variance", The American
Statistician 37, 1983). RMSNorm subtracts nothing, and needs none of it.

Local response normalization divides each value by a power of what the n channels around it hold
at its place. For channel c, with W(c) the channels c - ⌊n/2⌋ ... c + ⌊(n-1)/2⌋ that there are,

    u_c = k + α/n Σ_(j in W(c)) x_j²            y_c = x_c u_c^(-β)

    ∂x_j = ∂y_j u_j^(-β) - 2 α β / n x_j Σ_(c : j in W(c)) ∂y_c x_c u_c^(-β-1)
    ẏ_c  = ẋ_c u_c^(-β) - 2 α β / n x_c u_c^(-β-1) Σ_(j in W(c)) x_j ẋ_j

where j is in W(c) for the c of the mirrored window, j - ⌊(n-1)/2⌋ ... j + ⌊n/2⌋.
"""

import numbers
from collections.abc import Sequence
from math import gcd, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.functional import pad

from scratch_layers import kernels
from scratch_layers.dtypes import (
    accumulate_dtype,
    kind_of,
    not_implemented,
    out_of_autocast,
    sum_dtype,
)
from scratch_layers.function import Function

__all__ = [
    "CrossMapLRN2d",
    "GroupNorm",
    "LayerNorm",
    "LocalResponseNorm",
    "RMSNorm",
    "group_norm",
    "layer_norm",
    "local_response_norm",
    "rms_norm",
]

Layout = tuple[int, int, int, int]
"""The (N, G, K, L) of the docstring of the module."""


def as_sets(X: Tensor, layout: Layout) -> Tensor:
    """X as (N, G, K, L), in the dtype to compute in; a view if X is contiguous or channels_last."""
    channels_last = X.dim() > 3 and X.stride(1) == 1
    x = X if channels_last else X.contiguous()
    return x.to(accumulate_dtype(x)).reshape(layout)


def set_mean(v: Tensor) -> Tensor:
    """The mean over each set of v (N, G, K, L), as (N, G, 1, 1)."""
    return v.sum(3, keepdim=True).sum(2, keepdim=True) / max(v.shape[2] * v.shape[3], 1)


def spread(v: Tensor, layout: Layout, kept: list[Tensor]) -> Tensor:
    """v (N, G, 1, 1) or (N, G, K, 1) for each channel, (N, G, K, 1), if L values share a channel.

    It is a result of the kernel as well, in ``kept``, so that the compiler has to hold it in
    memory. From there the channels of a channels_last x are read like x itself, many at a time;
    otherwise each value would look for the group of its channel.
    """
    N, G, K, L = layout
    if L > 1:
        v = v.expand(N, G, K, 1).contiguous()
        kept.append(v)
    return v


def forward(
    X: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    layout: Layout,
    eps: float,
    centered: bool,
) -> tuple[Tensor, ...]:
    """y, like X, and the statistics [s, μ] (2, N, G, 1, 1), only [s] if not centered.

    y = γ (D - δ) s + β is computed as slope D + offset. What follows y and statistics is `spread`.
    """
    x = as_sets(X, layout)
    kept: list[Tensor] = []
    if not centered:
        s = (set_mean(x * x) + eps).rsqrt()
        y = x * s if gamma is None else x * s * along(x, gamma)
        return y.to(X.dtype).reshape(X.shape), s[None]
    K = set_mean(x)
    D = x - spread(K, layout, kept)
    delta = set_mean(D)
    mu, var = K + delta, set_mean(D * D) - delta * delta
    s = (var + eps).rsqrt()
    slope = s if gamma is None else s * along(x, gamma)
    offset = -delta * slope if beta is None else along(x, beta) - delta * slope
    y = D * spread(slope, layout, kept) + spread(offset, layout, kept)
    # Not torch.stack, which the compiler writes row by row: it would do so in the loop over the
    # rows, and cut that in two between the sums of a row, which is in the cache, and its y.
    first = torch.arange(2, device=s.device).reshape(2, 1, 1, 1, 1) == 0
    return y.to(X.dtype).reshape(X.shape), torch.where(first, s, mu), *kept


def backward(
    d_y: Tensor,
    d_statistics: Tensor | None,
    X: Tensor,
    gamma: Tensor | None,
    statistics: Tensor,
    layout: Layout,
    has_beta: bool,
) -> tuple[Tensor | None, ...]:
    """∂x, ∂γ and ∂β; d_statistics, the derivative by [s, μ] or [s], is zero if it is None.

    ∂x = s g - (x - μ) s mean(g x̂) s - s mean(g). What follows ∂β is `spread`.
    """
    x, d_y = as_sets(X, layout), as_sets(d_y, layout)
    kept: list[Tensor] = []
    centered, m, s = len(statistics) == 2, max(layout[2] * layout[3], 1), statistics[0]
    D = x - spread(statistics[1], layout, kept) if centered else x
    sum_d, sum_dx = d_y.sum(3, keepdim=True), (D * d_y).sum(3, keepdim=True) * s  # (N, G, K, 1)
    d_gamma, d_beta, slope = None, None, s
    if has_beta:
        d_beta = sum_over_samples(sum_d, sum_d.dtype)
    if gamma is not None:
        # native RMSNorm adds ∂γ up better than LayerNorm: 1 epsilon off where that is 8
        d_gamma = sum_over_samples(sum_dx, sum_dx.dtype if centered else sum_dtype(sum_dx))
        sum_d, sum_dx, slope = (v * along(x, gamma) for v in (sum_d, sum_dx, slope))
    mean_g, mean_gx = (v.sum(2, keepdim=True) / m for v in (sum_d, sum_dx))
    if d_statistics is not None:
        mean_gx = mean_gx + d_statistics[0] * s / m
    # D first: the layout of the result is that of x
    d_x = D * spread(-mean_gx * s * s, layout, kept) + d_y * spread(slope, layout, kept)
    if centered:
        by_mu = mean_g * s if d_statistics is None else mean_g * s - d_statistics[1] / m
        d_x = d_x - spread(by_mu, layout, kept)
    return d_x.to(X.dtype).reshape(X.shape), d_gamma, d_beta, *kept


def sum_over_samples(v: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum of v (N, G, K, 1) over N: column by column, so by blocks that stay in the cache.

    The sums of the blocks are added up in ``dtype``; in float64 that takes longer, GroupNorm 1.6
    times as long in all.
    """
    return v.unflatten(0, (-1, gcd(v.shape[0], 32))).sum(1).sum(0, dtype=dtype).to(v.dtype)


def x_hat_of(x: Tensor, statistics: Tensor) -> Tensor:
    """x̂ of x (N, G, K, L)."""
    return (x - statistics[1]) * statistics[0] if len(statistics) == 2 else x * statistics[0]


def along(x: Tensor, v: Tensor) -> Tensor:
    """γ or β, of G K values, in the dtype of x and in a shape to combine with x (N, G, K, L)."""
    return v.to(x.dtype).reshape(1, x.shape[1], x.shape[2], 1)


class NormalizationFunction(Function):
    """The equations as one node: (X, γ, β, layout, ε, centered) to y and the statistics [s, μ].

    It saves x, γ, s and μ, as native does. RMSNorm is not centered, and its statistics are [s].
    """

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, Tensor]:
        """Equations: :func:`forward`."""
        y, statistics, *_ = kernels.run(forward, *inputs)
        # y is a view of what was computed in the shape of the sets, and a view that a node gives
        # beside another output cannot be overwritten, as the ReLU(inplace=True) after it does.
        # This is no view, and no copy.
        return torch.ops.aten._unsafe_view(y, y.shape), statistics

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        """Save what the derivatives need."""
        X, gamma, beta, ctx.layout, _, _ = inputs
        ctx.like_beta = None if beta is None else (beta.shape, beta.dtype)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(X, gamma, output[1])
        ctx.save_for_forward(X, gamma, output[1])

    @staticmethod
    def backward(ctx: Any, d_y: Tensor | None, d_statistics: Tensor | None) -> Any:
        """Equations: :func:`backward`."""
        X, gamma, statistics = ctx.saved_tensors
        d_y = torch.zeros_like(X) if d_y is None else d_y
        d_x, d_gamma, d_beta, *_ = kernels.run(
            backward, d_y, d_statistics, X, gamma, statistics, ctx.layout, ctx.like_beta is not None
        )
        if d_gamma is not None:
            d_gamma = d_gamma.to(gamma.dtype).reshape(gamma.shape)
        if d_beta is not None:
            shape, dtype = ctx.like_beta
            d_beta = d_beta.to(dtype).reshape(shape)
        return d_x, d_gamma, d_beta, None, None, None

    @staticmethod
    def tangent(
        ctx: Any,
        t_x: Tensor | None,
        t_gamma: Tensor | None,
        t_beta: Tensor | None,
        *constants: None,
    ) -> tuple[Tensor, Tensor]:
        """ẏ = γ J ẋ + γ̇ x̂ + β̇, ṡ and μ̇; t_z is the direction ż."""
        X, gamma, statistics = ctx.saved_tensors
        x_hat, s = x_hat_of(as_sets(X, ctx.layout), statistics), statistics[0]
        t = torch.zeros_like(x_hat) if t_x is None else as_sets(t_x, ctx.layout)
        along_x_hat = set_mean(t * x_hat)
        t_statistics = [-s * s * along_x_hat]
        t_y = t - x_hat * along_x_hat
        if len(statistics) == 2:
            t_statistics.append(set_mean(t))
            t_y = t_y - t_statistics[1]
        t_y = t_y * s
        if gamma is not None:
            t_y = t_y * along(t_y, gamma)
        if t_gamma is not None:
            t_y = t_y + x_hat * along(x_hat, t_gamma)
        if t_beta is not None:
            t_y = t_y + along(t_y, t_beta)
        return t_y.to(X.dtype).reshape(X.shape), torch.stack(t_statistics)


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """y = γ (x - μ) / sqrt(σ² + ε) + β over the last dimensions, see :class:`LayerNorm`."""
    layout = _rows("layer_norm", input, normalized_shape, weight=weight, bias=bias)
    input, weight, bias = out_of_autocast(input, weight, bias, device="cuda")
    check_dtypes("LayerNormKernelImpl", input, weight, bias)
    return NormalizationFunction.call(input, weight, bias, layout, eps, True)[0]


def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """y = γ x / sqrt(mean(x²) + ε) over the last dimensions, see :class:`RMSNorm`."""
    layout = _rows("rms_norm", input, normalized_shape, weight=weight)
    check_dtypes("rms_norm", input)
    eps = torch.finfo(accumulate_dtype(input)).eps if eps is None else eps
    return NormalizationFunction.call(input, weight, None, layout, eps, False)[0]


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """y = γ (x - μ) / sqrt(σ² + ε) + β over groups of channels, see :class:`GroupNorm`."""
    if input.dim() < 2:
        raise RuntimeError(
            f"Expected at least 2 dimensions for input tensor but received {input.dim()}"
        )
    N, C, *spatial = input.shape
    L = prod(spatial)
    if num_groups <= 0:
        raise RuntimeError(f"Expected num groups to be greater than 0, got {num_groups}")
    if N * C // num_groups * L == 1:
        size = [N * C // num_groups, num_groups, *spatial]
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {size}"
        )
    shape = list(input.shape)
    if C % num_groups:
        raise RuntimeError(
            "Expected number of channels in input to be divisible by num_groups, but got input of "
            f"shape {shape} and num_groups={num_groups}"
        )
    for name, vector in (("weight", weight), ("bias", bias)):
        if vector is not None and tuple(vector.shape) != (C,):
            raise RuntimeError(
                f"Expected {name} to be a vector of size equal to the number of channels in input, "
                f"but got {name} of shape {list(vector.shape)} and input of shape {shape}"
            )
    for name, count in (("HxW", L), ("number of channels", C)):
        if count == 0:
            raise RuntimeError(f"Expected {name} to be greater than 0, got 0")
    input, weight, bias = out_of_autocast(input, weight, bias, device="cuda")
    check_dtypes("GroupNormKernelImpl", input, weight, bias)
    layout = (N, num_groups, C // num_groups, L)
    return NormalizationFunction.call(input, weight, bias, layout, eps, True)[0]


def _rows(
    name: str, input: Tensor, normalized_shape: Sequence[int], **parameters: Tensor | None
) -> Layout:
    """The layout whose sets are the last dimensions; refuses, as native does, what does not fit."""
    if isinstance(normalized_shape, numbers.Integral):
        raise TypeError(
            f"{name}(): argument 'normalized_shape' (position 2) must be tuple of ints, not int"
        )
    shape, size = list(normalized_shape), list(input.shape)
    if not shape:
        raise RuntimeError(
            "Expected normalized_shape to be at least 1-dimensional, i.e., containing at least one "
            "element, but got normalized_shape = []"
        )
    for which, parameter in parameters.items():
        if parameter is not None and list(parameter.shape) != shape:
            raise RuntimeError(
                f"Expected {which} to be of same shape as normalized_shape, but got {which} of "
                f"shape {list(parameter.shape)} and normalized_shape = {shape}"
            )
    if size[-len(shape) :] != shape:
        leading = "*" if name == "rms_norm" else "*, "
        raise RuntimeError(
            f"Given normalized_shape={shape}, expected input with shape "
            f"[{leading}{', '.join(map(str, shape))}], but got input of size{size}"
        )
    return prod(size[: -len(shape)]), 1, prod(shape), 1


def check_dtypes(kernel: str, input: Tensor, *vectors: Tensor | None) -> None:
    """Refuse dtypes that do not go together, in the words of the native kernel of this name.

    Vectors are of the dtype of the input, or of float32 if that is float16 or bfloat16.
    """
    if not input.is_floating_point():
        raise not_implemented(kernel, input)
    dtypes = [vector.dtype for vector in vectors if vector is not None]
    device = input.device.type.upper()
    if not dtypes or all([dtype == input.dtype for dtype in dtypes]):
        return
    if dtypes[0] == input.dtype or (dtypes[0] == torch.float32 == input.dtype):
        wrong = next(v for v in vectors if v is not None and v.dtype != input.dtype)
        raise RuntimeError(f"expected scalar type {kind_of(input)} but found {kind_of(wrong)}")
    if any([dtype != torch.float32 for dtype in dtypes]):
        raise RuntimeError(f"mixed dtype ({device}): expect parameter to have scalar type of Float")
    if accumulate_dtype(input) == input.dtype:
        raise RuntimeError(f"mixed dtype ({device}): all inputs must share same datatype.")


class LayerNorm(nn.LayerNorm):
    """Layer normalization: y = γ (x - μ) / sqrt(σ² + ε) + β over the last dimensions.

    Args:
        normalized_shape: sizes of the dimensions that are a set; an int for the last one alone.
        eps: ε, added to the variance (in its unit).
        elementwise_affine: learn γ (``weight``), initially 1, and β (``bias``), initially 0, both
            of ``normalized_shape``.
        bias: learn β; without effect unless ``elementwise_affine``.
        device: where the parameters live.
        dtype: their dtype.

    Shape: (*, *normalized_shape) to the same, contiguous.

    Dtypes: float32 and float64 with parameters of the same dtype; float16 and bfloat16 with
    parameters of the same dtype or of float32, computed in float32.

    Raises:
        RuntimeError: the last dimensions are not ``normalized_shape``, dtypes that do not go
            together.
        NotImplementedError: integer or complex input.

    Source: Ba, Kiros and Hinton 2016, arXiv:1607.06450; equations in the docstring of the module.

    Differs from torch: the mean is compensated, so data far from zero lose fewer digits.
    """

    # Inherits from torch's class for identity (isinstance) and signature only, like all classes
    # here: everything that computes or keeps state is overridden.

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        nn.Module.__init__(self)
        self.normalized_shape = as_shape(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        for name, learnt in (("weight", elementwise_affine), ("bias", elementwise_affine and bias)):
            values = torch.empty(self.normalized_shape, device=device, dtype=dtype)
            self.register_parameter(name, Parameter(values) if learnt else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """γ = 1 and β = 0."""
        fill(self.weight, 1)
        fill(self.bias, 0)

    def forward(self, input: Tensor) -> Tensor:
        """(*, *normalized_shape) to the same; see the class."""
        return layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """The arguments of the constructor."""
        return (
            f"{self.normalized_shape}, eps={self.eps}, "
            f"elementwise_affine={self.elementwise_affine}, bias={self.bias is not None}"
        )


class RMSNorm(nn.RMSNorm):
    """Root mean square normalization: y = γ x / sqrt(mean(x²) + ε) over the last dimensions.

    Args:
        normalized_shape: sizes of the dimensions that are a set; an int for the last one alone.
        eps: ε, added to the mean square (in its unit); None is the epsilon of the dtype that is
            computed in: 2^-52 for float64, else 2^-23.
        elementwise_affine: learn γ (``weight``), initially 1, of ``normalized_shape``.
        device: where γ lives.
        dtype: its dtype.

    Shape: (*, *normalized_shape) to the same, contiguous.

    Dtypes: any floating one, with a γ of any; float16 and bfloat16 are computed in float32. The
    result is of the dtype of the input.

    Raises:
        RuntimeError: the last dimensions are not ``normalized_shape``.
        NotImplementedError: integer or complex input.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467; equations in the docstring of the module.

    Differs from torch: complex input is refused; a channels_last input gives a contiguous result;
    a γ of another dtype is rounded to the one that is computed in, without a warning.
    """

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        nn.Module.__init__(self)
        self.normalized_shape = as_shape(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        values = torch.empty(self.normalized_shape, device=device, dtype=dtype)
        self.register_parameter("weight", Parameter(values) if elementwise_affine else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """γ = 1."""
        fill(self.weight, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(*, *normalized_shape) to the same; see the class."""
        return rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        """The arguments of the constructor."""
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"
        )


class GroupNorm(nn.GroupNorm):
    """Group normalization: y = γ (x - μ) / sqrt(σ² + ε) + β over groups of channels of a sample.

    Args:
        num_groups: how many groups G the channels fall into.
        num_channels: number of channels C, a multiple of G.
        eps: ε, added to the variance (in its unit).
        affine: learn γ (``weight``), initially 1, and β (``bias``), initially 0, both (C,).
        device: where the parameters live.
        dtype: their dtype.
        bias: learn β; without effect unless ``affine``.

    Shape: (N, C, *) to the same; channels_last is kept. N may be 0.

    Dtypes: as :class:`LayerNorm`.

    Raises:
        ValueError: C is no multiple of G; a single value in all sets.
        RuntimeError: another number of channels than C, no channels or no values in them, dtypes
            that do not go together.
        NotImplementedError: integer or complex input.

    Source: Wu and He 2018, arXiv:1803.08494; equations in the docstring of the module.

    Differs from torch: the mean is compensated, so data far from zero lose fewer digits; in the
    functional form no groups are a RuntimeError that says so, not a division by zero.
    """

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        nn.Module.__init__(self)
        if num_channels % num_groups != 0:
            raise ValueError(
                f"num_channels ({num_channels}) must be divisible by num_groups ({num_groups})"
            )
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        for name, learnt in (("weight", affine), ("bias", affine and bias)):
            values = torch.empty(num_channels, device=device, dtype=dtype)
            self.register_parameter(name, Parameter(values) if learnt else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """γ = 1 and β = 0."""
        fill(self.weight, 1)
        fill(self.bias, 0)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, *) to the same; see the class."""
        return group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """The arguments of the constructor."""
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )


def as_shape(normalized_shape: int | Sequence[int]) -> tuple[int, ...]:
    """An int is a shape of one dimension."""
    one = isinstance(normalized_shape, numbers.Integral)
    return (normalized_shape,) if one else tuple(normalized_shape)  # type: ignore


@torch.no_grad()
def fill(parameter: Tensor | None, value: float) -> None:
    """Set all values of a parameter, if there is one."""
    if parameter is not None:
        parameter.fill_(value)


def window_sum(v: Tensor, before: int, after: int) -> Tensor:
    """Σ_j v_j of v (N, C, *) over the channels j = c - before ... c + after that there are."""
    C = v.shape[1]
    padded = pad(v, [0, 0] * (v.dim() - 2) + [before, after])
    total = padded.narrow(1, 0, C)
    for i in range(1, before + after + 1):
        total = total + padded.narrow(1, i, C)
    return total


def lrn_forward(
    X: Tensor, before: int, after: int, alpha_n: float, beta: float, k: float
) -> Tensor:
    """y_c = x_c u_c^(-β); alpha_n is α/n."""
    x = X.to(accumulate_dtype(X))
    u = k + alpha_n * window_sum(x * x, before, after)
    return (x * u.pow(-beta)).to(X.dtype)


def lrn_backward(
    d_y: Tensor, X: Tensor, before: int, after: int, alpha_n: float, beta: float, k: float
) -> Tensor:
    """∂x; the window is mirrored in the sum over ∂y."""
    x, d_y = X.to(accumulate_dtype(X)), d_y.to(accumulate_dtype(X))
    u = k + alpha_n * window_sum(x * x, before, after)
    p = u.pow(-beta)
    others = window_sum(d_y * x * p / u, after, before)
    return (p * d_y - 2 * alpha_n * beta * x * others).to(X.dtype)


def lrn_tangent(
    t_x: Tensor, X: Tensor, before: int, after: int, alpha_n: float, beta: float, k: float
) -> Tensor:
    """ẏ."""
    x, t_x = X.to(accumulate_dtype(X)), t_x.to(accumulate_dtype(X))
    u = k + alpha_n * window_sum(x * x, before, after)
    p = u.pow(-beta)
    t_u = 2 * alpha_n * window_sum(x * t_x, before, after)
    return (p * t_x - beta * x * p / u * t_u).to(X.dtype)


class LocalResponseFunction(Function):
    """The equations as one node of the graph: (X, before, after, α/n, β, k) to y. It saves x.

    The window of a channel reaches from ``before`` channels in front of it to ``after`` behind it.
    """

    @staticmethod
    def forward(X: Tensor, *numbers: Any) -> Tensor:
        """Equation: :func:`lrn_forward`."""
        return kernels.run(lrn_forward, X, *numbers)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save x."""
        X, *ctx.numbers = inputs
        ctx.save_for_backward(X)
        ctx.save_for_forward(X)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> Any:
        """Equation: :func:`lrn_backward`."""
        d_x = kernels.run(lrn_backward, d_y, *ctx.saved_tensors, *ctx.numbers)
        return d_x, *[None] * len(ctx.numbers)

    @staticmethod
    def tangent(ctx: Any, t_x: Tensor, *constants: None) -> Tensor:
        """Equation: :func:`lrn_tangent`."""
        return lrn_tangent(t_x, *ctx.saved_tensors, *ctx.numbers)


def local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """y = x (k + α/n Σ x²)^(-β) over n = size channels around, see :class:`LocalResponseNorm`."""
    dim = input.dim()
    if dim < 3:
        raise ValueError(
            f"Expected 3D or higher dimensionality                          input (got {dim} "
            "dimensions)"
        )
    if size <= 0:
        raise RuntimeError(f"kernel size should be greater than zero, but got kH: {size} kW: 1")
    if input.is_complex():
        check_dtypes("avg_pool2d", input)
    if input.numel() == 0:
        return input
    if not input.is_floating_point():
        input = input.to(torch.get_default_dtype())
    (input,) = out_of_autocast(input, device="cuda")
    if input.is_cpu and dim > 3 and torch.is_autocast_enabled("cpu"):
        # natively an avg_pool3d, which the autocast of the CPU computes in float32
        input = input.to(accumulate_dtype(input))
    return LocalResponseFunction.call(input, size // 2, (size - 1) // 2, alpha / size, beta, k)


class LocalResponseNorm(nn.LocalResponseNorm):
    """Local response normalization: y = x (k + α/n Σ x²)^(-β) over the n channels around.

    Args:
        size: number of channels n in a window; of an even n one more lies in front than behind.
        alpha: α, one over the unit of x².
        beta: β.
        k: k.

    Shape: (N, C, *), of at least three dimensions, to the same; memory format is kept.

    Dtypes: any floating one; float16 and bfloat16 are computed in float32. Under autocast the
    result is float32 (on the CPU for four and more dimensions), as that of torch is.

    Raises:
        ValueError: fewer than three dimensions.
        RuntimeError: a window of no channels.
        NotImplementedError: complex input.

    Source: Krizhevsky, Sutskever and Hinton 2012, section 3.3, whose k = 2, n = 5, α = 1e-4,
    β = 0.75 is here k = 2, size = 5, alpha = 5e-4: in the paper the sum is not divided by n.

    Differs from torch: of integers the mean is not rounded down; float16 does not overflow in x².
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        nn.Module.__init__(self)
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, *) to the same; see the class."""
        return local_response_norm(input, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        """The arguments of the constructor."""
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"


class CrossMapLRN2d(nn.CrossMapLRN2d):
    """Local response normalization of (N, C, H, W), as Torch 7 called it.

    As :class:`LocalResponseNorm`, with a window that is symmetric: ⌊(n-1)/2⌋ channels on each side.

    Raises:
        ValueError: not four dimensions.
        NotImplementedError: integer or complex input.

    Differs from torch: this is what the equation says. torch's sliding sum never lets go of
    channel 0, so its result is another from channel ⌊(n-1)/2⌋ + 1 on; its gradient is not that of
    its result as soon as there are two channels (gradcheck fails); and it has no second derivative.
    """

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1) -> None:
        nn.Module.__init__(self)
        self.size = size
        self.alpha = alpha
        self.beta = beta
        self.k = k

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) to the same; see the class."""
        if input.dim() != 4:
            raise ValueError(f"CrossMapLRN2d: Expected input to be 4D, got {input.dim()}D instead.")
        check_dtypes("CrossMapLRN2d", input)
        side = (self.size - 1) // 2
        return LocalResponseFunction.call(
            input, side, side, self.alpha / self.size, self.beta, self.k
        )

    def extra_repr(self) -> str:
        """The arguments of the constructor."""
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
