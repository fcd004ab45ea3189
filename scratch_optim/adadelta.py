"""Adadelta: steps in the units of the parameter, with no learning rate of their own.

Zeiler, "ADADELTA: An Adaptive Learning Rate Method" (2012, arXiv:1212.5701), algorithm 1.

    g_t     = grad f(theta_{t-1}) + lambda theta_{t-1}       weight decay lambda
    v_t     = rho v_{t-1} + (1 - rho) g_t^2                  mean square of the gradients
    delta_t = sqrt(u_{t-1} + eps) / sqrt(v_t + eps) g_t
    u_t     = rho u_{t-1} + (1 - rho) delta_t^2              mean square of the steps
    theta_t = theta_{t-1} - lr delta_t

The ratio of the roots has the unit of theta over that of g, so delta has the unit of theta.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .optimizer import Group, Optimizer, ParamsT
from .tensors import Operand


class Adadelta(Optimizer):
    """Adadelta.

    Agrees with ``torch.optim.Adadelta``: bit for bit, and in its state dicts. Like it, differs
    from the paper in the factor lr, which there is 1.

    Args:
        params: what to optimize, see :class:`~scratch_optim.optimizer.Optimizer`.
        lr: factor of the step; no unit.
        rho: how much of the mean squares stays from step to step; in [0, 1].
        eps: added to the mean squares, inside the roots; it also starts the first steps.
        weight_decay: lambda, of the L2 penalty lambda/2 |theta|^2.
        foreach: update lists of parameters; False: one after the other. Default: lists.
        capturable: keep the step count on the device, for CUDA graphs.
        maximize: climb instead of descend.
        differentiable: let autograd see the step.
        fused: compile the equation into one kernel. Not an option of torch's class.

    State: ``step`` (0-dim); ``square_avg``, v; ``acc_delta``, u; both with the shape and dtype of
    the parameter.

    Raises:
        ValueError: an option out of its range.
    """

    heavy = True
    sparse_message = "Adadelta does not support sparse gradients"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0,
        foreach: bool | None = None,
        *,
        capturable: bool = False,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "rho": rho,
            "eps": eps,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "capturable": capturable,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)

    def state_names(self, group: Group, p: Tensor) -> tuple[str, ...]:
        """Return the names of the two mean squares."""
        return ("square_avg", "acc_delta")

    @staticmethod
    def update(  # noqa: D102
        theta: Operand,
        g: Operand,
        state: Mapping[str, Operand],
        t: Any,
        /,
        *,
        lr: float,
        rho: float,
        eps: float,
        weight_decay: float,
        **_: Any,
    ) -> None:
        if weight_decay != 0:
            g = g.add(theta, alpha=weight_decay)
        v = state["square_avg"].mul_(rho).addcmul_(g, g, value=1 - rho)
        u = state["acc_delta"]
        delta = u.add(eps).sqrt_().div_(v.add(eps).sqrt_()).mul_(g)
        u.mul_(rho).addcmul_(delta, delta, value=1 - rho)
        theta.add_(delta, alpha=-lr)
