"""Adamax: Adam with the largest gradient of late in place of the root mean square.

Kingma and Ba, "Adam: A Method for Stochastic Optimization" (ICLR 2015, arXiv:1412.6980), algorithm
2: the limit of Adam as the exponent 2 of its norm goes to infinity.

    g_t     = grad f(theta_{t-1}) + lambda theta_{t-1}       weight decay lambda
    m_t     = beta1 m_{t-1} + (1 - beta1) g_t
    u_t     = max(beta2 u_{t-1}, |g_t| + eps)
    theta_t = theta_{t-1} - lr / (1 - beta1^t)  m_t / u_t

A maximum that starts at zero has no bias, so only m is corrected.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .optimizer import Group, Optimizer, ParamsT
from .tensors import Operand


class Adamax(Optimizer):
    """Adamax.

    Agrees with ``torch.optim.Adamax``: bit for bit, and in its state dicts. Like it, differs from
    the paper in the eps, which keeps a gradient that was always zero from dividing by zero.

    Args:
        params: what to optimize, see :class:`~scratch_optim.optimizer.Optimizer`.
        lr: learning rate, per step; about the largest change of a parameter in one step.
        betas: how much of m and u stays from step to step; in [0, 1).
        eps: added to the absolute gradient, in units of the gradient.
        weight_decay: lambda, of the L2 penalty lambda/2 |theta|^2.
        foreach: update lists of parameters; False: one after the other. Default: lists.
        maximize: climb instead of descend.
        differentiable: let autograd see the step.
        capturable: keep the step count on the device, for CUDA graphs.
        fused: compile the equation into one kernel. Not an option of torch's class.

    State: ``step`` (0-dim); ``exp_avg``, m; ``exp_inf``, u; both with the shape and dtype of the
    parameter.

    Raises:
        ValueError: an option out of its range.
    """

    sparse_message = "Adamax does not support sparse gradients"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        fused: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
            "fused": fused,
        }
        super().__init__(params, defaults)

    def state_names(self, group: Group, p: Tensor) -> tuple[str, ...]:
        """Return the names of m and u."""
        return ("exp_avg", "exp_inf")

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
        **_: Any,
    ) -> None:
        beta1, beta2 = betas
        if weight_decay != 0:
            g = g.add(theta, alpha=weight_decay)
        m = state["exp_avg"].lerp_(g, 1 - beta1)
        u = state["exp_inf"].mul_(beta2).clamp_min_(g.abs().add_(eps))
        theta.addcdiv_(m, u, value=-(lr / (1 - beta1**t)))
