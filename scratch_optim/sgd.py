"""Stochastic gradient descent with momentum.

Robbins and Monro, "A Stochastic Approximation Method" (1951); momentum: Polyak, "Some methods of
speeding up the convergence of iteration methods" (1964); Nesterov's form: Sutskever, Martens, Dahl
and Hinton, "On the importance of initialization and momentum in deep learning" (ICML 2013).

    g_t     = grad f(theta_{t-1}) + lambda theta_{t-1}       weight decay lambda
    b_1     = g_1
    b_t     = mu b_{t-1} + (1 - tau) g_t                     momentum mu, dampening tau
    theta_t = theta_{t-1} - lr b_t                           or, after Nesterov,
    theta_t = theta_{t-1} - lr (g_t + mu b_t)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .optimizer import Group, Optimizer, ParamsT
from .tensors import Operand


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum and Nesterov's form of it.

    Agrees with ``torch.optim.SGD``: bit for bit, and in its state dicts. Like it, differs from
    Polyak and Sutskever et al. in that the learning rate multiplies the velocity, not the gradient
    that goes into it (the same as long as the learning rate does not change), and in that the
    first velocity is the gradient itself, not (1 - tau) times it.

    Args:
        params: what to optimize, see :class:`~scratch_optim.optimizer.Optimizer`.
        lr: learning rate, per step.
        momentum: mu.
        dampening: tau.
        weight_decay: lambda, of the L2 penalty lambda/2 |theta|^2.
        nesterov: whether to look ahead along the velocity.
        maximize: climb instead of descend.
        foreach: update lists of parameters; False: one after the other. Default: lists.
        differentiable: let autograd see the step.
        fused: compile the equation into one kernel.

    State: ``momentum_buffer``, b, with the shape and dtype of the parameter; none if mu is 0.

    Raises:
        ValueError: an option out of its range; Nesterov without momentum or with dampening.
    """

    older_options = {"maximize": False, "nesterov": False}  # noqa: RUF012
    late_state = True
    real_view = False

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        momentum: float = 0,
        dampening: float = 0,
        weight_decay: float | Tensor = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)

    def check_group(self, group: Group) -> None:
        """Raise if an option is not valid, or if Nesterov's form lacks its momentum."""
        super().check_group(group)
        if group["nesterov"] and (group["momentum"] <= 0 or group["dampening"] != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")

    def scalar_state(self, group: Group) -> dict[str, float | Tensor]:
        """Return nothing: steps are not counted."""
        return {}

    def state_names(self, group: Group, p: Tensor) -> tuple[str, ...]:
        """Return the velocity's name, where there is one."""
        return ("momentum_buffer",) if group["momentum"] != 0 else ()

    def new_state(self, p: Tensor, group: Group) -> dict[str, Tensor]:
        """Return room for the velocity, in the layout of the gradient (which may be sparse)."""
        return {"momentum_buffer": torch.zeros_like(p if p.grad is None else p.grad)}

    @staticmethod
    def update(  # noqa: D102
        theta: Operand,
        g: Operand,
        state: Mapping[str, Operand],
        t: Any,
        /,
        *,
        lr: float,
        momentum: float,
        dampening: float,
        weight_decay: float,
        nesterov: bool,
        **_: Any,
    ) -> None:
        if weight_decay != 0:
            g = g.add(theta, alpha=weight_decay)
        if momentum != 0:
            b = state["momentum_buffer"]
            if t == 1:
                b.copy_(g)
            else:
                b.mul_(momentum).add_(g, alpha=1 - dampening)
            g = g.add(b, alpha=momentum) if nesterov else b
        theta.add_(g, alpha=-lr)
