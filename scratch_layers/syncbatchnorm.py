"""Batch normalization whose batch is that of all processes of a group.

    S. Ioffe, C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing
    Internal Covariate Shift", 2015, arXiv:1502.03167.
    T. Chan, G. Golub, R. LeVeque, "Algorithms for Computing the Sample Variance", The American
    Statistician 37, 1983.
    C. Peng et al., "MegDet: A Large Mini-Batch Object Detector", 2017, arXiv:1711.07240: batch
    normalization across devices, for tasks with few examples on each.

Process p holds m_p values of a channel, with mean μ_p and biased variance σ²_p. All of them
together have (Chan et al.; exact, whatever the m_p, some of which may be zero)

    m   = Σ_p m_p
    μ   = Σ_p m_p / m  μ_p
    σ²  = Σ_p m_p / m  (σ²_p + (μ_p - μ)²)

The processes exchange (μ_p, σ²_p, m_p), in float64, and each then computes the same m, μ and σ²,
and from them y as :mod:`scratch_layers.batchnorm` does.

Backward. The loss is the sum of what the processes make of their y. All see μ and σ², so the
derivatives by these are the sums of what each process finds for its own values:

    ∂μ   = Σ_p -γ s ∂β_p
    ∂σ²  = Σ_p -1/2 γ s² ∂γ_p
    ∂x_i = γ s ∂y_i  +  ∂σ² 2/m (x_i - μ)  +  ∂μ / m

with the ∂β_p, ∂γ_p and s of batch normalization: one exchange of two numbers for each channel.
∂γ_p and ∂β_p are left as they are, since γ and β are not shared but copied:
``DistributedDataParallel`` averages their gradients along with all others.

Second derivative. The sum over processes is linear, y_p = Σ_q x_q for all p, so its backward is
∂x_q = Σ_p ∂y_p, the same sum, and it is a node of the graph as well (:class:`AllReduce`). What
each process finds as derivative by *its copy* of μ and s is then one more term of ∂μ and ∂σ²,
before these are summed.

Forward derivative: μ̇ and ṡ of batch normalization are sums over the values, hence over processes:

    μ̇ = 1/m Σ_p Σ_i ẋ_i       ṡ = -s³ 1/m Σ_p Σ_i (x_i - μ) ẋ_i
"""

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from scratch_layers import batchnorm, kernels
from scratch_layers.batchnorm import (
    BatchNorm1d,
    BatchNorm2d,
    BatchNorm3d,
    batch_norm,
    each_value,
    sums,
    tangent_of_output,
    tangent_of_statistics,
    track,
)
from scratch_layers.dtypes import accumulate_dtype
from scratch_layers.function import Function

__all__ = ["SyncBatchNorm"]


class AllReduce(Function):
    """The sum of x over the processes of a group, the same in each of them."""

    @staticmethod
    def forward(x: Tensor, group: Any) -> Tensor:
        """y = Σ_p x_p."""
        y = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(y, group=group)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """It is linear: nothing is saved."""
        _, ctx.group = inputs

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> Any:
        """∂x = Σ_p ∂y_p."""
        return AllReduce.call(d_y, ctx.group), None

    @staticmethod
    def tangent(ctx: Any, t_x: Tensor, group: None) -> Tensor:
        """ẏ = Σ_p ẋ_p."""
        return AllReduce.call(t_x, ctx.group)


def of_process(X: Tensor) -> Tensor:
    """(μ_p, σ²_p, m_p) in a row, (2C + 1,)."""
    mu, var = batchnorm.statistics(X.to(accumulate_dtype(X)))
    return torch.cat([mu, var, mu.new_full((1,), X.numel() / X.shape[1])])


def of_group(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """m (1,), and μ and σ² (C,) of all processes together, of their rows (P, 2C + 1)."""
    C = rows.shape[1] // 2
    mu_p, var_p, m_p = rows.split([C, C, 1], dim=1)
    m = m_p.sum(0)
    share = m_p / m.clamp(min=1)
    mu = (share * mu_p).sum(0)
    var = (share * (var_p + (mu_p - mu) ** 2)).sum(0)
    return m, mu, var


def forward(
    X: Tensor, gamma: Tensor | None, beta: Tensor | None, rows: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """y, μ, s, m / (m - 1) σ² and m."""
    m, mu, var = of_group(rows)
    y, mu, s, _ = batchnorm.forward(X, gamma, beta, mu, var, eps)
    unbiased = var * (m / (m - 1).clamp(min=1))
    return y, mu, s, unbiased.to(mu.dtype), m


class SyncBatchNormFunction(Function):
    """The equations as one node of the graph. It saves x, γ, μ, s and m.

    Called with (X, γ, β, ε, group) it returns (y, μ, s, m / (m - 1) σ², m).
    """

    @staticmethod
    def forward(
        X: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float, group: Any
    ) -> tuple[Tensor, ...]:
        """Equations: :func:`of_group`."""
        row = kernels.run(of_process, X)
        rows = row.new_empty(dist.get_world_size(group), len(row))
        dist.all_gather(list(rows), row, group=group)
        return tuple(kernels.run(forward, X, gamma, beta, rows, eps))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Save what the derivatives need."""
        X, gamma, beta, _, ctx.group = inputs
        _, mu, s, unbiased, m = output
        ctx.has_gamma, ctx.has_beta = gamma is not None, beta is not None
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(unbiased, m)
        ctx.save_for_backward(X, gamma, mu, s, m)
        ctx.save_for_forward(X, gamma, mu, s, m)

    @staticmethod
    def backward(
        ctx: Any, d_y: Tensor | None, d_mu: Tensor | None, d_s: Tensor | None, *constants: None
    ) -> Any:
        """∂x, ∂γ_p and ∂β_p."""
        *saved, m = ctx.saved_tensors
        d_y = torch.zeros_like(saved[0]) if d_y is None else d_y
        d_mu, d_var, d_gamma, d_beta = kernels.run(sums, d_y, d_mu, d_s, *saved)
        d_x = None
        if ctx.needs_input_grad[0]:
            d_mu, d_var = AllReduce.call(torch.stack([d_mu, d_var]), ctx.group)
            d_x = kernels.run(each_value, d_y, *saved, d_mu, d_var, m)
        d_gamma, d_beta = d_gamma if ctx.has_gamma else None, d_beta if ctx.has_beta else None
        return d_x, d_gamma, d_beta, None, None

    @staticmethod
    def tangent(
        ctx: Any,
        t_x: Tensor | None,
        t_gamma: Tensor | None,
        t_beta: Tensor | None,
        *constants: None,
    ) -> Any:
        """Equations: last in the docstring of the module."""
        X, gamma, mu, s, m = ctx.saved_tensors
        t_x = torch.zeros_like(X) if t_x is None else t_x
        of_process = tangent_of_statistics(t_x, X, mu, s, m)
        t_mu, t_s = AllReduce.call(torch.stack(of_process), ctx.group)
        t_y = tangent_of_output(t_x, t_gamma, t_beta, t_mu, t_s, X, gamma, mu, s)
        return t_y, t_mu, t_s, None, None


def sync_batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float | Tensor,
    eps: float,
    group: Any,
) -> Tensor:
    """:func:`scratch_layers.batchnorm.batch_norm` in training, with the batch of a group.

    Every process of the group must call it, and the backward as well. Raises what batch_norm does,
    but takes one value per channel: there may be others elsewhere.
    """
    batchnorm.check(input, training, eps, running_mean, running_var, weight=weight, bias=bias)
    X = input.unsqueeze(-1) if input.dim() == 2 else input
    y, mu, _, unbiased, m = SyncBatchNormFunction.call(X, weight, bias, eps, group)
    if running_mean is not None and running_var is not None:
        momentum = momentum * m.clamp(max=1)  # 0 if all are empty; `if m` would wait for the device
        track(running_mean, mu.detach(), momentum)
        track(running_var, unbiased, momentum)
    return y.squeeze(-1) if input.dim() == 2 else y


class SyncBatchNorm(batchnorm._BatchNorm, nn.SyncBatchNorm):
    """Batch normalization of (N, C, *) with the batch of all processes of a group.

    In training, if there is a process group of several processes, μ and σ² are mean and biased
    variance of what all of them got; the batches may differ in size and be empty. Otherwise it is
    :class:`scratch_layers.batchnorm.BatchNorm2d` for inputs of any number of dimensions from two.

    Args:
        num_features: number of channels C.
        eps: as of BatchNorm2d.
        momentum: see there.
        affine: see there.
        track_running_stats: see there.
        process_group: the processes that share a batch; None for all.
        device: see there.
        dtype: see there.
        bias: see there.

    Every process of the group must call the layer, and the backward through it, equally often.

    Raises:
        ValueError: fewer than two dimensions, no channels, and what BatchNorm2d raises; but one
            value per channel is enough where there are several processes.

    Source: the equations in the docstring of the module.

    Differs from torch: works on CPU tensors too (gloo); the second derivative is right; the host
    does not wait for the device to count; if every batch is empty, the running statistics stay.
    ``DistributedDataParallel`` refuses models on the CPU that hold an ``nn.SyncBatchNorm``, which
    this is, so there wrap first and convert the wrapped model.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        process_group: Any = None,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        batchnorm._BatchNorm.__init__(
            self, num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias
        )
        self.process_group = process_group

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (N, C, *) to the same shape, dtype and memory format; see the class."""
        if self.training and dist.is_available() and dist.is_initialized():
            group = self.process_group or dist.group.WORLD
            if dist.get_world_size(group) > 1:
                return self._normalize(partial(sync_batch_norm, group=group), input)
        return self._normalize(batch_norm, input)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() > 1 and input.shape[1] == 0:
            raise ValueError("SyncBatchNorm number of input channels should be non-zero")

    @classmethod
    def convert_sync_batchnorm(cls, module: nn.Module, process_group: Any = None) -> nn.Module:
        """Make every BatchNorm layer of a module a SyncBatchNorm, in place, and return the module.

        A layer stays the object that it is, with its parameters, buffers, hooks, mode, qconfig and
        whatever else it carries, and changes its class. This may be done when optimizers and
        ``DistributedDataParallel`` hold the parameters already.

        Args:
            module: a model or a layer. Converted are BatchNorm1d, 2d and 3d of this library and of
                torch, and torch's SyncBatchNorm.
            process_group: the processes that share a batch; None for all.

        Raises:
            TypeError: there is another subclass of BatchNorm, whose forward may do more than
                normalize (:class:`scratch_layers.fusedbatchnorm.BatchNormReLU2d`), or which has
                not seen its first batch (:class:`scratch_layers.batchnorm.LazyBatchNorm2d`).

        Differs from torch: torch's returns new SyncBatchNorms, which lose the hooks of the layers
        and the ReLU of a BatchNormReLU2d. It makes torch's SyncBatchNorms of ours too
        (https://github.com/pytorch/pytorch/issues/187298); convert those with this one again.
        """
        for name, layer in module.named_modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm) and type(layer) not in KNOWN:
                raise TypeError(
                    f"{name or 'module'} is a {type(layer).__name__}, which may do more than batch "
                    "normalization: replace it by a BatchNorm layer and what follows it (a model "
                    "with fused=True: build it with fused=False), and give a lazy one its first "
                    "batch"
                )
        for layer in module.modules():
            if type(layer) in NORMS:
                vars(layer)["converted_from"] = type(layer)
            if type(layer) in KNOWN:
                layer.__class__ = cls
                layer.process_group = process_group
        return module

    @classmethod
    def revert_sync_batchnorm(cls, module: nn.Module) -> nn.Module:
        """Make every SyncBatchNorm of a module what it was before, in place, and return the module.

        Args:
            module: a model or a layer. What was made as SyncBatchNorm, or by torch's conversion,
                becomes a ``_BatchNorm`` of :mod:`scratch_layers.batchnorm`, which takes (N, C, *)
                as it did.
        """
        for layer in module.modules():
            if type(layer) in (cls, SyncBatchNorm, nn.SyncBatchNorm):
                was = vars(layer).pop("converted_from", batchnorm._BatchNorm)
                layer.__class__ = was
                del layer.process_group
        return module


NORMS = (BatchNorm1d, BatchNorm2d, BatchNorm3d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
KNOWN = (*NORMS, SyncBatchNorm, nn.SyncBatchNorm)
