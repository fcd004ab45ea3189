"""ASGD: stochastic gradient descent that also keeps the average of where it has been.

Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging" (SIAM Journal on
Control and Optimization 30, 1992); the schedules: Bottou, "Stochastic Gradient Descent Tricks"
(2012), and Xu, "Towards Optimal One Pass Large Scale Learning with Averaged Stochastic Gradient
Descent" (2011, arXiv:1107.2490).

    g_t     = grad f(theta_{t-1}) + wd theta_{t-1}           weight decay wd
    theta_t = (1 - lambda eta_{t-1}) theta_{t-1} - eta_{t-1} g_t
    a_t     = a_{t-1} + mu_{t-1} (theta_t - a_{t-1})         the average
    eta_t   = lr / (1 + lambda lr t)^alpha                   eta_0 = lr
    mu_t    = 1 / max(1, t - t0)                             mu_0 = 1: until t0 the average is theta
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .optimizer import Group, Optimizer, ParamsT
from .tensors import Operand, choose


class ASGD(Optimizer):
    """Averaged stochastic gradient descent. The average is in the state, as ``ax``.

    Agrees with ``torch.optim.ASGD``: bit for bit with its for-loop, and in its state dicts. Like
    it, a new learning rate is seen one step late, since eta_t is made at the end of step t.

    Args:
        params: what to optimize, see :class:`~scratch_optim.optimizer.Optimizer`.
        lr: learning rate, per step.
        lambd: lambda, of a decay of theta that falls with eta.
        alpha: exponent of the fall of eta.
        t0: step from which on the average is one.
        weight_decay: wd, of the L2 penalty wd/2 |theta|^2.
        foreach: update lists of parameters; False: one after the other. Default: lists.
        maximize: climb instead of descend.
        differentiable: let autograd see the step.
        capturable: keep the numbers of the state on the device, for CUDA graphs.
        fused: compile the equation into one kernel. Not an option of torch's class.

    State: ``step``, ``eta`` and ``mu`` (0-dim); ``ax``, a, with the shape and dtype of the
    parameter.

    Raises:
        ValueError: an option out of its range.
    """

    ranges = {  # noqa: RUF012
        "lambd": ("Invalid lambd value: {}", 0, float("inf")),
        "alpha": ("Invalid alpha value: {}", 0, float("inf")),
        "t0": ("Invalid t0 value: {}", -float("inf"), float("inf")),
    }
    sparse_message = "ASGD does not support sparse gradients"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        capturable: bool = False,
        *,
        fused: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "lambd": lambd,
            "alpha": alpha,
            "t0": t0,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
            "fused": fused,
        }
        super().__init__(params, defaults)

    def state_names(self, group: Group, p: Tensor) -> tuple[str, ...]:
        """Return the name of the average."""
        return ("ax",)

    def scalar_state(self, group: Group) -> dict[str, float | Tensor]:
        """Return the step count, eta and mu."""
        return {"step": 0.0, "eta": group["lr"], "mu": 1.0}

    @staticmethod
    def advance(  # noqa: D102
        scalars: dict[str, Tensor],
        t: Any,
        /,
        *,
        lr: float,
        lambd: float,
        alpha: float,
        t0: float,
        **_: Any,
    ) -> dict[str, Tensor]:
        before = {name: x[0].clone() for name, x in scalars.items()}
        # Through the default dtype, as torch does: a difference where eta is of another one.
        scalars["eta"].copy_(torch.as_tensor(lr / (1 + lambd * lr * t) ** alpha))
        scalars["mu"].copy_(torch.as_tensor(1 / choose(t - t0 > 1, t - t0, 1)))
        return before

    @staticmethod
    def update(  # noqa: D102
        theta: Operand,
        g: Operand,
        state: Mapping[str, Operand],
        t: Any,
        /,
        *,
        lambd: float,
        weight_decay: float,
        **_: Any,
    ) -> None:
        eta, mu, a = state["eta"], state["mu"], state["ax"]
        if weight_decay != 0:
            g = g.add(theta, alpha=weight_decay)
        theta.mul_(1 - lambd * eta)
        theta.add_(g, alpha=-eta)
        if isinstance(mu, float) and mu == 1:
            a.copy_(theta)
        else:
            a.add_(theta.sub(a).mul_(mu))
