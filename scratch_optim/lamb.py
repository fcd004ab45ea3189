"""LAMB: Adam, with steps in proportion to the size of a layer's weights.

You, Li, Reddi, Hseu, Kumar, Bhojanapalli, Song, Demmel, Keutzer and Hsieh, "Large Batch
Optimization for Deep Learning: Training BERT in 76 minutes" (ICLR 2020, arXiv:1904.00962),
algorithm 2.

    g_t     = grad f(theta_{t-1})
    m_t     = beta1 m_{t-1} + (1 - beta1) g_t
    v_t     = beta2 v_{t-1} + (1 - beta2) g_t^2
    r_t     = m_t / (1 - beta1^t) / (sqrt(v_t / (1 - beta2^t)) + eps)
    u_t     = r_t + lambda theta_{t-1}                       weight decay lambda
    theta_t = theta_{t-1} - lr phi(|theta_{t-1}|) / |u_t| u_t

with phi(z) = min(max(z, gamma_l), gamma_u). The norms are those of a whole parameter, a layer's
weight; a step is lr phi(|theta|) long, whatever the gradients are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .lars import LayerWise, trust_ratio
from .optimizer import Group, ParamsT
from .tensors import Operand


class LAMB(LayerWise):
    """LAMB, with phi's bounds and the bias correction as options.

    Agrees with the paper: with its defaults but ``exclude=False``, the equations above to the
    letter. By default biases and the gains of norms are excluded, as is usual: Adam's step without
    decay is theirs.

    Differs from apex and timm in that gradients are not clipped here: call ``clip_grad_norm_``
    before the step. ``timm.optim.Lamb(max_grad_norm=None)`` is this with ``exclude=False`` if its
    ``always_adapt`` or a weight decay is on, and ``exclude=True`` if neither; its ``trust_clip``
    bounds not |theta|, as phi does, but phi(|theta|) / |u|, and is not offered.

    Args:
        params: what to optimize, see :class:`~scratch_optim.optimizer.Optimizer`.
        lr: learning rate, per step; the length of a step, in units of phi(|theta|).
        betas: how much of m and v stays from step to step; in [0, 1).
        eps: added to the root, in units of the gradient.
        weight_decay: lambda.
        bias_correction: whether to divide m and v by 1 - beta^t. The length of a step does not
            depend on it, and its direction but for eps and decay neither; Adam's steps do.
        phi: gamma_l and gamma_u, in units of the norm of a parameter.
        exclude: who gets neither ratio nor weight decay, but Adam's step. None: parameters of at
            most one dimension; True: all; False: none. Most useful as option of a group.
        maximize: climb instead of descend.
        foreach: update lists of parameters; False: one after the other. Default: lists.
        capturable: keep the step count on the device, for CUDA graphs.
        differentiable: let autograd see the step.

    The ratio phi(|theta|) / |u| is 1 where theta or u is zero.

    State: ``step`` (0-dim); ``exp_avg``, m; ``exp_avg_sq``, v; both with the shape and dtype of the
    parameter.

    Raises:
        ValueError: an option out of its range.
    """

    sparse_message = "LAMB does not support sparse gradients"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 1e-2,
        *,
        bias_correction: bool = True,
        phi: tuple[float, float] = (0.0, float("inf")),
        exclude: bool | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "bias_correction": bias_correction,
            "phi": phi,
            "exclude": exclude,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
        }
        super().__init__(params, defaults)

    def check_group(self, group: Group) -> None:
        """Raise if an option is not valid, or phi's bounds are no interval."""
        super().check_group(group)
        low, high = group["phi"]
        if not 0 <= low <= high:
            raise ValueError(
                f"Invalid phi bounds: {low}, {high}; the lower must be at least 0 and at most the "
                "upper"
            )

    def state_names(self, group: Group, p: Tensor) -> tuple[str, ...]:
        """Return the names of m and v."""
        return ("exp_avg", "exp_avg_sq")

    @staticmethod
    def update(  # noqa: D102
        theta: Operand,
        g: Operand,
        state: Mapping[str, Operand],
        t: Any,
        /,
        *,
        kind: bool,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        bias_correction: bool,
        phi: tuple[float, float],
        exclude: bool | None,
        **_: Any,
    ) -> None:
        beta1, beta2 = betas
        c1, c2 = (1 - beta1**t, 1 - beta2**t) if bias_correction else (1.0, 1.0)
        m = state["exp_avg"].lerp_(g, 1 - beta1)
        v = state["exp_avg_sq"].mul_(beta2).addcmul_(g, g, value=1 - beta2)
        root = v.sqrt().div_(c2**0.5).add_(eps)
        if kind if exclude is None else exclude:
            theta.addcdiv_(m, root, value=-(lr / c1))
        else:
            u = theta.mul(weight_decay).addcdiv_(m, root, value=1 / c1)
            w, n = theta.norm(), u.norm()
            ratio = trust_ratio(w.clamp_min(phi[0]).clamp_max_(phi[1]), n, w, n)
            theta.addcmul_(u, ratio, value=-lr)
