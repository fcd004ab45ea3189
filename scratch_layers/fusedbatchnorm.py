"""Batch normalization, an optional shortcut and ReLU in one pass: relu(bn(x) + z).

    S. Ioffe, C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing
    Internal Covariate Shift", 2015, arXiv:1502.03167.
    K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", 2015,
    arXiv:1512.03385, figure 2: what stands at the end of a residual block.

With x̂ as in :mod:`scratch_layers.batchnorm`,

    r_i = γ x̂_i + β + z_i
    y_i = max(r_i, 0)

Once the statistics are known, each of these reads and writes memory for a few operations in
between; three layers do so three times. Here r exists for one value at a time.

Backward. The maximum hands on what comes through it, the sum hands it to both of its terms, and
what remains is the backward of batch normalization, with ∂r in the place of its ∂y:

    ∂r_i = ∂y_i [y_i > 0]
    ∂z_i = ∂r_i
    ∂β   = Σ ∂r_i,   ∂γ = Σ ∂r_i x̂_i,   ...

y_i > 0 where r_i > 0, so y is what the mask is read from, and r is not kept. The layer behind,
which keeps its input, keeps the same tensor; and x is kept as by batch normalization. In bytes,
that is what the three layers keep if the ReLU overwrites its input.

Forward derivative: ẏ_i = (ẏ_i of batch normalization + ż_i) [y_i > 0].
"""

from typing import Any

import torch
from torch import Tensor

from scratch_layers import batchnorm, kernels
from scratch_layers.batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from scratch_layers.dtypes import accumulate_dtype
from scratch_layers.function import Function

__all__ = ["BatchNormReLU1d", "BatchNormReLU2d", "BatchNormReLU3d", "batch_norm_relu"]


def forward(
    X: Tensor,
    z: Tensor | None,
    gamma: Tensor | None,
    beta: Tensor | None,
    mu: Tensor | None,
    var: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, and the μ, s and m / (m - 1) σ² of :func:`scratch_layers.batchnorm.forward`."""
    x = X.to(accumulate_dtype(X))
    r, mu, s, unbiased = batchnorm.forward(x, gamma, beta, mu, var, eps)
    r = r if z is None else r + z
    return r.clamp(min=0).to(X.dtype), mu, s, unbiased


def backward(
    d_y: Tensor,
    d_mu: Tensor | None,
    d_s: Tensor | None,
    X: Tensor,
    y: Tensor,
    gamma: Tensor | None,
    mu: Tensor,
    s: Tensor,
    of_batch: bool,
    has_z: bool,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """∂x, ∂z, ∂γ and ∂β; without z, ∂r need not be written to memory."""
    d_r = through_relu(d_y, y)
    d_x, d_gamma, d_beta = batchnorm.backward(d_r, d_mu, d_s, X, gamma, mu, s, of_batch)
    return d_x, d_r if has_z else None, d_gamma, d_beta


def through_relu(d: Tensor, y: Tensor) -> Tensor:
    """∂r of ∂y, and ẏ of ṙ; as in torch, a y of nan lets pass."""
    return torch.where(y <= 0, 0, d)


class BatchNormReLUFunction(Function):
    """The equations as one node of the graph. It saves x, y, γ, μ and s.

    Called as `BatchNormFunction` with z after X, it returns what that does.
    """

    @staticmethod
    def forward(
        X: Tensor,
        z: Tensor | None,
        gamma: Tensor | None,
        beta: Tensor | None,
        mu: Tensor | None,
        var: Tensor | None,
        eps: float,
    ) -> tuple[Tensor, ...]:
        """Equations: :func:`forward`."""
        y, mu_, s, unbiased = kernels.run(forward, X, z, gamma, beta, mu, var, eps)
        return (y, mu_, s, unbiased) if mu is None else (y, s)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Save what the derivatives need."""
        X, z, gamma, beta, mu, _, _ = inputs
        ctx.has_gamma, ctx.has_beta = gamma is not None, beta is not None
        ctx.has_z, ctx.of_batch = z is not None, mu is None
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(output[-1])
        y, mu, s = output[:3] if ctx.of_batch else (output[0], mu, output[1])
        ctx.save_for_backward(X, y, gamma, mu, s)
        ctx.save_for_forward(X, y, gamma, mu, s)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor | None, *d_statistics: Tensor | None) -> Any:
        """Equations: :func:`backward`."""
        saved = ctx.saved_tensors
        d_y = torch.zeros_like(saved[0]) if d_y is None else d_y
        d_mu, d_s = d_statistics[:2] if ctx.of_batch else (None, None)
        d_x, d_z, d_gamma, d_beta = kernels.run(
            backward, d_y, d_mu, d_s, *saved, ctx.of_batch, ctx.has_z
        )
        d_gamma, d_beta = d_gamma if ctx.has_gamma else None, d_beta if ctx.has_beta else None
        return d_x, d_z, d_gamma, d_beta, None, None, None

    @staticmethod
    def tangent(
        ctx: Any,
        t_x: Tensor | None,
        t_z: Tensor | None,
        t_gamma: Tensor | None,
        t_beta: Tensor | None,
        *constants: None,
    ) -> Any:
        """Equation: last in the docstring of the module."""
        X, y, gamma, mu, s = ctx.saved_tensors
        t_r, t_mu, t_s = batchnorm.tangent(t_x, t_gamma, t_beta, X, gamma, mu, s, ctx.of_batch)
        t_y = through_relu(t_r if t_z is None else t_r + t_z, y)
        return (t_y, t_mu, t_s, None) if ctx.of_batch else (t_y, None)


def batch_norm_relu(
    input: Tensor,
    z: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """relu(batch_norm(input, ...) + z), see :class:`BatchNormReLU2d`.

    Args:
        input: as of :func:`scratch_layers.batchnorm.batch_norm`.
        z: the shortcut, of the shape and dtype of the input, or None for 0.
        running_mean: as of batch_norm, and so all that follow.
        running_var: see there.
        weight: see there.
        bias: see there.
        training: see there.
        momentum: see there.
        eps: see there.

    Returns:
        Of the shape, dtype and memory format of the input.

    Raises:
        ValueError: z is of another shape or dtype than the input.
        And as batch_norm.
    """
    if z is not None and (z.shape != input.shape or z.dtype != input.dtype):
        raise ValueError(
            f"z must be like the input, {tuple(input.shape)} of {input.dtype}, "
            f"but is {tuple(z.shape)} of {z.dtype}"
        )

    def node(X: Tensor, *others: Any) -> Any:
        return BatchNormReLUFunction.call(X, None if z is None else z.reshape(X.shape), *others)

    statistics = running_mean, running_var
    return batchnorm.normalize(node, input, *statistics, weight, bias, training, momentum, eps)


class _BatchNormReLU(batchnorm._BatchNorm):
    def forward(self, input: Tensor, z: Tensor | None = None) -> Tensor:
        """relu(bn(input) + z), in all of the shape of the input; see the class."""

        def function(input: Tensor, *others: Any) -> Tensor:
            return batch_norm_relu(input, z, *others)

        return self._normalize(function, input)


class BatchNormReLU1d(_BatchNormReLU, BatchNorm1d):
    """relu(bn(x) + z) of (N, C) or (N, C, L), see :class:`BatchNormReLU2d`."""


class BatchNormReLU2d(_BatchNormReLU, BatchNorm2d):
    """Batch normalization, shortcut and ReLU of (N, C, H, W): y = max(γ x̂ + β + z, 0).

    In the place of three layers of a residual block::

        norm = BatchNormReLU2d(channels)
        y = norm(x)             # relu(bn(x))
        y = norm(x, shortcut)   # relu(bn(x) + shortcut)

    Arguments of the constructor, parameters, buffers and state_dict are those of
    :class:`scratch_layers.batchnorm.BatchNorm2d`; so are shapes, dtypes and errors.

    It is a BatchNorm2d for whoever asks, as ``swa_utils.update_bn`` and filters of weight decay
    do. Tools that put batch normalization alone in the place of such layers lose the ReLU:
    ``nn.SyncBatchNorm.convert_sync_batchnorm`` of torch does so without a word, that of
    :class:`scratch_layers.syncbatchnorm.SyncBatchNorm` refuses. Build the model of the three
    layers for them; it loads the same checkpoints.

    Raises:
        ValueError: z is of another shape or dtype than x, and what BatchNorm2d raises.

    Source: the equations in the docstring of the module. There is no such layer in torch.nn;
    ``torch.nn.intrinsic.BNReLU2d`` holds the two layers one after the other.
    """


class BatchNormReLU3d(_BatchNormReLU, BatchNorm3d):
    """relu(bn(x) + z) of (N, C, D, H, W), see :class:`BatchNormReLU2d`."""
