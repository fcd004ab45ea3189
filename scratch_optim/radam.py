"""RAdam: Adam that waits until the variance of its own scale is small enough to use it.

Liu, Jiang, He, Chen, Liu, Gao and Han, "On the Variance of the Adaptive Learning Rate and Beyond"
(ICLR 2020, arXiv:1908.03265), algorithm 2.

    g_t     = grad f(theta_{t-1}) + lambda theta_{t-1}       or decoupled, as in AdamW
    m_t     = beta1 m_{t-1} + (1 - beta1) g_t
    v_t     = beta2 v_{t-1} + (1 - beta2) g_t^2
    rho_inf = 2 / (1 - beta2) - 1
    rho_t   = rho_inf - 2 t beta2^t / (1 - beta2^t)          length of the average in v_t, in steps
    m^_t    = m_t / (1 - beta1^t)
    if rho_t > 5:
        l_t     = sqrt(1 - beta2^t) / (sqrt(v_t) + eps)
        r_t     = sqrt((rho_t - 4) (rho_t - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho_t))
        theta_t = theta - lr m^_t l_t r_t
    else:                                                    too short: the variance is infinite
        theta_t = theta - lr m^_t
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .optimizer import Group, Optimizer, ParamsT
from .tensors import Operand, choose


class RAdam(Optimizer):
    """Rectified Adam, with weight decay coupled or decoupled.

    Agrees with ``torch.optim.RAdam``: bit for bit with its for-loop, and in its state dicts. Like
    it, differs from the paper in that eps is added to the root, and that the average must be longer
    than 5 steps, not 4.

    Args:
        params: what to optimize, see :class:`~scratch_optim.optimizer.Optimizer`.
        lr: learning rate, per step.
        betas: how much of m and v stays from step to step; in [0, 1).
        eps: added to the root, in units of the gradient.
        weight_decay: lambda.
        decoupled_weight_decay: shrink theta by lr lambda, apart from the gradient.
        foreach: update lists of parameters; False: one after the other. Default: lists.
        maximize: climb instead of descend.
        capturable: keep the step count on the device, for CUDA graphs.
        differentiable: let autograd see the step.
        fused: compile the equation into one kernel. Not an option of torch's class.

    State: ``step`` (0-dim); ``exp_avg``, m; ``exp_avg_sq``, v; both with the shape and dtype of the
    parameter.

    Raises:
        ValueError: an option out of its range.
    """

    older_options = {"maximize": False, "decoupled_weight_decay": False}  # noqa: RUF012
    heavy = True
    sparse_message = "RAdam does not support sparse gradients"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        decoupled_weight_decay: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "decoupled_weight_decay": decoupled_weight_decay,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)

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
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        decoupled_weight_decay: bool,
        **_: Any,
    ) -> None:
        beta1, beta2 = betas
        if weight_decay != 0 and decoupled_weight_decay:
            theta.mul_(1 - lr * weight_decay)
        elif weight_decay != 0:
            g = g.add(theta, alpha=weight_decay)
        m = state["exp_avg"].lerp_(g, 1 - beta1)
        v = state["exp_avg_sq"].mul_(beta2).addcmul_(g, g, value=1 - beta2)
        step = m.div(1 - beta1**t).mul_(lr)
        # Where the average is too short these numbers make l and r 1: the same operations, and so
        # the same kernel, in either case.
        rectified, r = _rectification(t, beta2)
        limit, eps = choose(rectified, math.inf, 0.0), choose(rectified, eps, 1.0)
        correction = choose(rectified, (1 - beta2**t) ** 0.5, 1.0)
        l = v.sqrt().clamp_max_(limit).add_(eps).reciprocal_().mul_(correction)  # noqa: E741
        theta.sub_(step.mul_(l).mul_(choose(rectified, r, 1.0)))


def _rectification(t: Any, beta2: float) -> tuple[Any, Any]:
    """Return whether rho_t is above 5, and r_t, which means something only then."""
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * t * beta2**t / (1 - beta2**t)
    rectified = rho > 5
    if rectified is False:
        return rectified, math.nan
    return rectified, (
        (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)
    ) ** 0.5
