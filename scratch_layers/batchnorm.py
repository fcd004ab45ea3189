"""Batch normalization over (N, C), (N, C, L), (N, C, H, W) and (N, C, D, H, W).

    S. Ioffe, C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing
    Internal Covariate Shift", 2015, arXiv:1502.03167.

For each channel, over the m = N * H * W values x_i that a batch holds of it (algorithm 1):

    μ   = 1/m Σ x_i                     mean
    σ²  = 1/m Σ (x_i - μ)²              biased variance
    x̂_i = (x_i - μ) / sqrt(σ² + ε)
    y_i = γ x̂_i + β

Backward. Let ∂z stand for the derivative of the loss by z. The loss sees x_i along three ways: in
the numerator of x̂_i, through σ² and through μ. Writing s = (σ² + ε)^(-1/2) (section 3):

    ∂β    = Σ ∂y_i
    ∂γ    = Σ ∂y_i x̂_i
    ∂x̂_i  = γ ∂y_i
    ∂σ²   = Σ ∂x̂_i (x_i - μ) (-1/2) s³                          = -1/2 γ s² ∂γ
    ∂μ    = Σ ∂x̂_i (-s)  +  ∂σ² (-2/m) Σ (x_i - μ)              = -γ s ∂β
    ∂x_i  = ∂x̂_i s  +  ∂σ² 2/m (x_i - μ)  +  ∂μ / m

The last sum in ∂μ is zero because μ is the mean. The two short forms on the right are what
:func:`backward` computes: two sums over the batch, then one line for every element. Nothing is
dropped; in evaluation, where μ and σ² are constants, ∂x_i = γ s ∂y_i is all that is left.

Second derivative. The function returns μ and s next to y, and accepts derivatives *by* them (the
one is added to ∂μ, the other, times ds/dσ² = -1/2 s³, to ∂σ²). The backward consists of
differentiable operations on ∂y, x, γ, μ and s, so differentiating it again reaches x through this
function once more.

Forward derivative, for a direction ẋ, γ̇, β̇:

    μ̇ = 1/m Σ ẋ_i       ṡ = -1/2 s³ (σ²)˙ = -s³ 1/m Σ (x_i - μ) ẋ_i
    ẏ_i = γ s (ẋ_i - μ̇) + (γ̇ s + γ ṡ) (x_i - μ) + β̇
"""

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter, UninitializedBuffer, UninitializedParameter

from scratch_layers import kernels
from scratch_layers.dtypes import accumulate_dtype, not_implemented, sum_dtype
from scratch_layers.function import Function

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "LazyBatchNorm1d",
    "LazyBatchNorm2d",
    "LazyBatchNorm3d",
    "batch_norm",
]


def statistics(X: Tensor) -> tuple[Tensor, Tensor]:
    """μ and σ², each (C,), of X (N, C, *): two passes, never E[x²] - E[x]², which cancels.

    For *any* numbers K_n, one for each sample, with δ_n = K_n - μ and L values in a sample,

        Σ x_i        = Σ_n (S_n + L K_n)                       S_n = Σ_(i in n) (x_i - K_n)
        Σ (x_i - μ)² = Σ_n (Q_n + 2 δ_n S_n + L δ_n²)          Q_n = Σ_(i in n) (x_i - K_n)²

    So K_n may be the mean of a sample as rounding left it: S_n then holds what rounding took away,
    and gives it back (T. Chan, G. Golub, R. LeVeque, "Algorithms for Computing the Sample
    Variance", The American Statistician 37, 1983). Going sample by sample, the second pass finds
    the values in the cache. The (N, C) sums of the samples are added up in float64.
    """
    L = prod(X.shape[2:])
    wide = sum_dtype(X)
    within_sample = list(range(2, X.dim()))
    per_value = 1 / values(X)
    if L == 1:  # K_n is the value itself, S_n and Q_n are zero
        x = X.flatten(1)
        mu = x.sum(0, dtype=wide) * per_value
        delta = (x - mu).to(X.dtype)
        return mu, (delta * delta).sum(0, dtype=wide) * per_value
    K_n = X.sum(within_sample, keepdim=True) * (1 / max(L, 1))
    D = X - K_n
    S_n, Q_n = D.sum(within_sample), (D * D).sum(within_sample)  # (N, C)
    K_n = K_n.reshape(S_n.shape)
    mu = (S_n + L * K_n.to(wide)).sum(0) * per_value
    delta_n = (K_n - mu).to(X.dtype)
    var = (Q_n + delta_n * (2 * S_n + L * delta_n)).sum(0, dtype=wide) * per_value
    return mu, var


def forward(
    X: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    mu: Tensor | None,
    var: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, μ, s and m / (m - 1) σ²; μ and σ² are those of the batch where none are given."""
    x = X.to(accumulate_dtype(X))
    if mu is None or var is None:
        mu, var = statistics(x)
    m = values(x)
    s = (var + eps).rsqrt()
    unbiased = (var * (m / max(m - 1, 1))).to(x.dtype)
    mu, s = mu.to(x.dtype), s.to(x.dtype)
    y = (x - along(x, mu)) * along(x, s if gamma is None else gamma * s)
    if beta is not None:
        y = y + along(x, beta)
    return y.to(X.dtype), mu, s, unbiased


def backward(
    d_y: Tensor,
    d_mu: Tensor | None,
    d_s: Tensor | None,
    X: Tensor,
    gamma: Tensor | None,
    mu: Tensor,
    s: Tensor,
    of_batch: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """∂x, ∂γ and ∂β; μ and σ² are constants unless of_batch; a d_mu or d_s of None is zero."""
    d_mu, d_var, d_gamma, d_beta = sums(d_y, d_mu, d_s, X, gamma, mu, s)
    d_statistics = (d_mu, d_var, values(X)) if of_batch else ()
    return each_value(d_y, X, gamma, mu, s, *d_statistics), d_gamma, d_beta


def sums(
    d_y: Tensor,
    d_mu: Tensor | None,
    d_s: Tensor | None,
    X: Tensor,
    gamma: Tensor | None,
    mu: Tensor,
    s: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """∂μ, ∂σ², ∂γ and ∂β: the sums over the batch."""
    x, d_y = X.to(accumulate_dtype(X)), d_y.to(accumulate_dtype(X))
    gamma_s = s if gamma is None else gamma * s
    d_beta = channel_sum(d_y)
    d_gamma = channel_sum(d_y * (x - along(x, mu))) * s
    d_mu = -gamma_s * d_beta if d_mu is None else d_mu - gamma_s * d_beta
    d_var = -0.5 * s * gamma_s * d_gamma
    d_var = d_var if d_s is None else d_var - 0.5 * s * s * s * d_s
    dtype = X.dtype if gamma is None else gamma.dtype
    return d_mu, d_var, d_gamma.to(dtype), d_beta.to(dtype)


def each_value(
    d_y: Tensor,
    X: Tensor,
    gamma: Tensor | None,
    mu: Tensor,
    s: Tensor,
    d_mu: Tensor | None = None,
    d_var: Tensor | None = None,
    m: Tensor | int = 1,
) -> Tensor:
    """∂x; without ∂μ and ∂σ², both are constants."""
    x, d_y = X.to(accumulate_dtype(X)), d_y.to(accumulate_dtype(X))
    d_x = d_y * along(x, s if gamma is None else gamma * s)
    if d_mu is not None and d_var is not None:
        d_x = d_x + (x - along(x, mu)) * along(x, d_var * 2 / m) + along(x, d_mu / m)
    return d_x.to(X.dtype)


def tangent(
    t_x: Tensor | None,
    t_gamma: Tensor | None,
    t_beta: Tensor | None,
    X: Tensor,
    gamma: Tensor | None,
    mu: Tensor,
    s: Tensor,
    of_batch: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """ẏ, μ̇ and ṡ, last in the docstring of the module; a t_z of None is a direction ż = 0."""
    t_x = torch.zeros_like(X) if t_x is None else t_x
    t_mu = t_s = torch.zeros_like(s)
    if of_batch:
        t_mu, t_s = tangent_of_statistics(t_x, X, mu, s, values(X))
    return tangent_of_output(t_x, t_gamma, t_beta, t_mu, t_s, X, gamma, mu, s), t_mu, t_s


def tangent_of_statistics(
    t_x: Tensor, X: Tensor, mu: Tensor, s: Tensor, m: Tensor | int
) -> tuple[Tensor, Tensor]:
    """μ̇ and ṡ of m values that share their μ and σ²."""
    x, t_x = X.to(accumulate_dtype(X)), t_x.to(accumulate_dtype(X))
    return channel_sum(t_x) / m, -s * s * s * channel_sum((x - along(x, mu)) * t_x) / m


def tangent_of_output(
    t_x: Tensor,
    t_gamma: Tensor | None,
    t_beta: Tensor | None,
    t_mu: Tensor,
    t_s: Tensor,
    X: Tensor,
    gamma: Tensor | None,
    mu: Tensor,
    s: Tensor,
) -> Tensor:
    """ẏ."""
    x, t_x = X.to(accumulate_dtype(X)), t_x.to(accumulate_dtype(X))
    t_slope = t_s if gamma is None else gamma * t_s
    t_slope = t_slope if t_gamma is None else t_slope + t_gamma * s
    t_y = (t_x - along(x, t_mu)) * along(x, s if gamma is None else gamma * s)
    t_y = t_y + (x - along(x, mu)) * along(x, t_slope)
    return (t_y if t_beta is None else t_y + along(x, t_beta)).to(X.dtype)


def values(X: Tensor) -> int:
    """m, the number of values of each channel; 1 for none, as it is divided by."""
    return max(X.shape[0] * prod(X.shape[2:]), 1)


def along(x: Tensor, v: Tensor) -> Tensor:
    """The per-channel v (C,) in the dtype of x and in a shape to combine with x (N, C, *)."""
    return v.to(x.dtype).reshape(1, -1, *[1] * (x.dim() - 2))


def channel_sum(x: Tensor) -> Tensor:
    """The sum over x (N, C, *) of each channel, (C,): sample by sample as in `statistics`."""
    if prod(x.shape[2:]) == 1:
        return x.flatten(1).sum(0)
    return x.sum(list(range(2, x.dim()))).sum(0)


class BatchNormFunction(Function):
    """The equations as one node of the graph. It saves x, γ, μ and s, as native does.

    Called with (X, γ, β, None, None, ε) it returns (y, μ, s, m / (m - 1) σ²) of the batch; called
    with μ and σ², which are constants then, (y, s). X is (N, C, *) of at least three dimensions.
    """

    @staticmethod
    def forward(
        X: Tensor,
        gamma: Tensor | None,
        beta: Tensor | None,
        mu: Tensor | None,
        var: Tensor | None,
        eps: float,
    ) -> tuple[Tensor, ...]:
        """Equations: :func:`forward`."""
        y, mu_, s, unbiased = kernels.run(forward, X, gamma, beta, mu, var, eps)
        return (y, mu_, s, unbiased) if mu is None else (y, s)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Save what the derivatives need."""
        X, gamma, beta, mu, _, _ = inputs
        ctx.has_gamma, ctx.has_beta, ctx.of_batch = gamma is not None, beta is not None, mu is None
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[-1])
        mu, s = output[1:3] if ctx.of_batch else (mu, output[1])
        ctx.save_for_backward(X, gamma, mu, s)
        ctx.save_for_forward(X, gamma, mu, s)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor | None, *d_statistics: Tensor | None) -> Any:
        """Equations: :func:`backward`."""
        saved = ctx.saved_tensors
        d_y = torch.zeros_like(saved[0]) if d_y is None else d_y
        d_mu, d_s = d_statistics[:2] if ctx.of_batch else (None, None)
        d_x, d_gamma, d_beta = kernels.run(backward, d_y, d_mu, d_s, *saved, ctx.of_batch)
        d_gamma, d_beta = d_gamma if ctx.has_gamma else None, d_beta if ctx.has_beta else None
        return d_x, d_gamma, d_beta, None, None, None

    @staticmethod
    def tangent(
        ctx: Any,
        t_x: Tensor | None,
        t_gamma: Tensor | None,
        t_beta: Tensor | None,
        *constants: None,
    ) -> Any:
        """Equations: :func:`tangent`."""
        X, gamma, mu, s = ctx.saved_tensors
        t_y, t_mu, t_s = tangent(t_x, t_gamma, t_beta, X, gamma, mu, s, ctx.of_batch)
        return (t_y, t_mu, t_s, None) if ctx.of_batch else (t_y, None)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """y = γ (x - μ) / sqrt(σ² + ε) + β for each channel, see :class:`BatchNorm2d`.

    Args:
        input: (N, C, *), of any number of dimensions from two.
        running_mean: (C,); what μ is unless ``training``, else moved towards μ if it is given.
        running_var: (C,); the same for σ².
        weight: γ (C,), or None for 1.
        bias: β (C,), or None for 0.
        training: μ and σ² are those of the batch.
        momentum: weight of the batch in the running statistics.
        eps: ε, added to the variance (in its unit).

    Returns:
        Of the shape, dtype and memory format of the input.

    Raises:
        As :class:`BatchNorm2d`.

    Differs from torch: ``momentum`` may be a tensor, and an input without channels is called that.
    """
    return normalize(
        BatchNormFunction.call,
        input,
        running_mean,
        running_var,
        weight,
        bias,
        training,
        momentum,
        eps,
    )


def normalize(
    node: Callable[..., Any],
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float | Tensor,
    eps: float,
) -> Tensor:
    """What :func:`batch_norm` is around its node, which is called as `BatchNormFunction` is."""
    check(input, training, eps, running_mean, running_var, weight=weight, bias=bias)
    if training and input.shape[0] * prod(input.shape[2:]) == 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {input.size()}"
        )
    X = input.unsqueeze(-1) if input.dim() == 2 else input
    if training:
        y, mu, _, unbiased = node(X, weight, bias, None, None, eps)
        if running_mean is not None and running_var is not None and X.numel() > 0:
            track(running_mean, mu.detach(), momentum)
            track(running_var, unbiased, momentum)
    else:
        y, _ = node(X, weight, bias, running_mean, running_var, eps)
    return y.squeeze(-1) if input.dim() == 2 else y


def track(running: Tensor, new: Tensor, momentum: float | Tensor) -> None:
    """Move a running statistic by this part of the way to the new one."""
    if isinstance(momentum, Tensor):
        momentum = momentum.to(new.dtype)
    if running.dtype == new.dtype:
        running.lerp_(new, momentum)
    else:
        running.copy_(running.to(new.dtype).lerp(new, momentum))


def check(
    input: Tensor,
    training: bool,
    eps: float,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    **parameters: Tensor | None,
) -> None:
    """Refuse what native refuses, in its words, before any state changes."""
    if input.dim() < 2:
        raise ValueError(f"expected at least 2D input (got {input.dim()}D input)")
    if training and eps <= 0.0:
        raise ValueError(f"batch_norm eps must be positive during training, but got {eps}")
    if eps < 0.0:
        raise ValueError(f"batch_norm eps must be non-negative, but got {eps}")
    vectors = {"running_mean": running_mean, "running_var": running_var}
    if training and (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var must either both be None or neither be None")
    for name, running in vectors.items():
        if running is None and not training:
            raise RuntimeError(f"{name} must be defined in evaluation mode")
        if running is not None and running.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                f"batch_norm is not differentiable with respect to argument '{name}'. "
                "This input cannot have requires_grad True."
            )
    if not input.is_floating_point():
        raise not_implemented("batch_norm", input)
    for name, vector in (vectors | parameters).items():
        if vector is None:
            continue
        if len(vector) != input.shape[1]:
            raise RuntimeError(f"{name} should contain {input.shape[1]} elements not {len(vector)}")
        device = input.device.type.upper()
        if vector.dtype == input.dtype:
            continue
        if vector.dtype != torch.float32:
            raise RuntimeError(
                f"mixed dtype ({device}): expect parameter to have scalar type of Float"
            )
        if input.dtype == torch.float64:
            raise RuntimeError(f"mixed dtype ({device}): all inputs must share same datatype.")


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    # Inherits from torch's class for identity (isinstance) and signature only: everything that
    # computes or keeps state is overridden below.

    _dims: tuple[int, ...] = ()  # that the input may have; none: from two

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        nn.Module.__init__(self)
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats

        def vector() -> Tensor:
            return torch.empty(num_features, device=device, dtype=dtype)

        self.register_parameter("weight", Parameter(vector()) if affine else None)
        self.register_parameter("bias", Parameter(vector()) if affine and bias else None)
        count = torch.empty((), device=device, dtype=torch.long)
        self.register_buffer("running_mean", vector() if track_running_stats else None)
        self.register_buffer("running_var", vector() if track_running_stats else None)
        self.register_buffer("num_batches_tracked", count if track_running_stats else None)
        self.reset_parameters()

    @torch.no_grad()
    def reset_running_stats(self) -> None:
        """Mean 0, variance 1, no batch seen."""
        if self.track_running_stats:
            for buffer, start in (
                (self.running_mean, 0),
                (self.running_var, 1),
                (self.num_batches_tracked, 0),
            ):
                assert buffer is not None
                buffer.fill_(start)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """γ = 1, β = 0, and the running statistics as at the start."""
        self.reset_running_stats()
        if self.affine:
            self.weight.fill_(1)
            if self.bias is not None:
                self.bias.fill_(0)

    def extra_repr(self) -> str:
        """The arguments of the constructor."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, "
            f"affine={self.affine}, bias={self.bias is not None}, "
            f"track_running_stats={self.track_running_stats}"
        )

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, *args: Any
    ) -> None:
        # Version 2 added num_batches_tracked; an older state keeps the count of the module.
        version = local_metadata.get("version", None)
        key = prefix + "num_batches_tracked"
        if (version is None or version < 2) and self.track_running_stats and key not in state_dict:
            count = self.num_batches_tracked
            known = count is not None and not count.is_meta
            state_dict[key] = count if known else torch.tensor(0, dtype=torch.long)
        nn.Module._load_from_state_dict(self, state_dict, prefix, local_metadata, *args)

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (N, C, *) to the same shape, dtype and memory format; see the class."""
        return self._normalize(batch_norm, input)

    def _normalize(self, function: Callable[..., Tensor], input: Tensor) -> Tensor:
        """``function``, called as :func:`batch_norm`, in the mode of the module."""
        self._check_input_dim(input)
        mean, var, count = self.running_mean, self.running_var, self.num_batches_tracked
        of_batch = self.training or (mean is None and var is None)
        if self.training and not self.track_running_stats:
            mean = var = count = None
        momentum: float | Tensor = 0.0 if self.momentum is None else self.momentum
        if self.momentum is None and count is not None:
            # the average of all batches so far; a tensor, since torch's float(count) does not
            # compile with fullgraph=True (https://github.com/pytorch/pytorch/issues/194579)
            momentum = (count + 1).to(accumulate_dtype(input)).reciprocal()
        y = function(input, mean, var, self.weight, self.bias, of_batch, momentum, self.eps)
        if self.training and count is not None:
            count.add_(1)
        return y

    def _check_input_dim(self, input: Tensor) -> None:
        if self._dims and input.dim() not in self._dims:
            expected = " or ".join(f"{d}D" for d in self._dims)
            raise ValueError(f"expected {expected} input (got {input.dim()}D input)")


class BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    """Batch normalization of (N, C) or (N, C, L), see :class:`BatchNorm2d`."""

    _dims = (2, 3)


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    """Batch normalization of (N, C, H, W): y = γ (x - μ) / sqrt(σ² + ε) + β for each channel.

    In training, and always where there are no running statistics, μ and σ² are the mean and the
    biased variance of the batch; in evaluation they are the running ones. Each training step moves
    ``running_mean`` and ``running_var`` by ``momentum`` towards the mean and the *unbiased*
    variance of the batch.

    Args:
        num_features: number of channels C.
        eps: ε, added to the variance (in its unit).
        momentum: weight of the newest batch in the running statistics; None weighs all batches
            since the start alike.
        affine: learn γ (``weight``), initially 1, and β (``bias``), initially 0.
        track_running_stats: keep ``running_mean``, ``running_var`` and ``num_batches_tracked``.
        device: where parameters and buffers live.
        dtype: their dtype.
        bias: learn β; without effect unless ``affine``.

    Shape: (N, C, H, W) to the same; memory format and dtype are kept. N may be 0, which leaves
    the running mean and variance as they are.

    Dtypes: float32 and float64 with parameters of the same dtype; float16 and bfloat16 with
    parameters of the same dtype or of float32, computed in float32.

    Raises:
        ValueError: wrong number of dimensions, one value per channel in training, ε ≤ 0 in
            training, only one of the running statistics is None.
        RuntimeError: another number of channels than C, dtypes that do not go together.
        NotImplementedError: integer or complex input.

    Source: Ioffe and Szegedy 2015, arXiv:1502.03167; equations in the docstring of the module.

    Differs from torch: sums are compensated, so the statistics of data far from zero are at
    least as exact; ``momentum=None`` compiles with ``fullgraph=True``; a refused input does not
    count in ``num_batches_tracked``.
    """

    _dims = (4,)


class BatchNorm3d(_BatchNorm, nn.BatchNorm3d):
    """Batch normalization of (N, C, D, H, W), see :class:`BatchNorm2d`."""

    _dims = (5,)


class _LazyBatchNorm(_BatchNorm):
    # Of torch.nn.modules.lazy.LazyModuleMixin, inherited through torch's class of the same name,
    # are used the hooks, which know nothing of normalization.

    has_uninitialized_params: Callable[[], bool]
    _infer_parameters: Callable[..., Any]
    _lazy_load_hook: Callable[..., Any]

    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        _BatchNorm.__init__(self, 0, eps, momentum, affine=False, track_running_stats=False)
        self._load_hook = self._register_load_state_dict_pre_hook(self._lazy_load_hook)
        self._initialize_hook = self.register_forward_pre_hook(
            self._infer_parameters, with_kwargs=True
        )
        self.affine = affine
        self.track_running_stats = track_running_stats

        def vector(kind: Any) -> Any:
            return kind(device=device, dtype=dtype)

        if affine:
            self.weight = vector(UninitializedParameter)
            if bias:
                self.bias = vector(UninitializedParameter)
        if track_running_stats:
            self.running_mean = vector(UninitializedBuffer)
            self.running_var = vector(UninitializedBuffer)
            self.num_batches_tracked = torch.tensor(0, dtype=torch.long, device=device)

    def reset_parameters(self) -> None:
        """As of the class to become, once there is something to reset."""
        if not self.has_uninitialized_params():
            super().reset_parameters()

    def initialize_parameters(self, input: Tensor) -> None:
        """Give everything the length that the channels of the input say."""
        if self.has_uninitialized_params():
            self.num_features = input.shape[1]
            vectors: Any = self.weight, self.bias, self.running_mean, self.running_var
            for vector in vectors:
                if vector is not None:
                    vector.materialize((self.num_features,))
            self.reset_parameters()


class LazyBatchNorm1d(_LazyBatchNorm, nn.LazyBatchNorm1d):
    """A :class:`BatchNorm1d` that learns its number of channels from the first input."""

    cls_to_become = BatchNorm1d
    _dims = (2, 3)


class LazyBatchNorm2d(_LazyBatchNorm, nn.LazyBatchNorm2d):
    """A :class:`BatchNorm2d` that learns its number of channels from the first input."""

    cls_to_become = BatchNorm2d
    _dims = (4,)


class LazyBatchNorm3d(_LazyBatchNorm, nn.LazyBatchNorm3d):
    """A :class:`BatchNorm3d` that learns its number of channels from the first input."""

    cls_to_become = BatchNorm3d
    _dims = (5,)
