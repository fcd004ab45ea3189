"""Momentum in its classical form: the learning rate goes into the velocity.

Polyak, "Some methods of speeding up the convergence of iteration methods" (1964); Nesterov's form:
Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and momentum in deep
learning" (ICML 2013).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .optimizer import Group, Optimizer, ParamsT
from .tensors import Operand


class Momentum(Optimizer):
    """Gradient descent with Polyak's momentum: the learning rate goes into the velocity.

        g_t     = grad f(theta_{t-1}) + lambda theta_{t-1}   weight decay lambda
        v_t     = gamma v_{t-1} + lr_t g_t                   momentum gamma
        theta_t = theta_{t-1} - v_t                          or, after Nesterov,
        theta_t = theta_{t-1} - (gamma v_t + lr_t g_t)

    Agrees with Polyak, with Sutskever et al. and with ``keras.optimizers.SGD``. Differs from
    :class:`~scratch_optim.sgd.SGD` and from TensorFlow's ``MomentumOptimizer``, which keep
    b_t = gamma b_{t-1} + g_t and step by lr_t b_t. While lr is constant v_t = lr b_t, and both take
    the same steps. After a change of lr what is still under way keeps the speed it was given here,
    and takes the new one there: with gradients g_1, g_2 the second step is

        v_2     = gamma lr_1 g_1 + lr_2 g_2                  and with SGD
        lr_2 b_2 = gamma lr_2 g_1 + lr_2 g_2

    So a learning rate cut by ten is felt after about 1 / (1 - gamma) steps here, and at once with
    SGD.

    Args:
        params: what to optimize, see :class:`~scratch_optim.optimizer.Optimizer`.
        lr: learning rate, per step.
        momentum: gamma.
        weight_decay: lambda, of the L2 penalty lambda/2 |theta|^2.
        nesterov: whether to look ahead along the velocity.
        maximize: climb instead of descend.
        foreach: update lists of parameters; False: one after the other. Default: lists.
        differentiable: let autograd see the step.
        fused: compile the equation into one kernel.

    State: ``velocity``, v, with the shape and dtype of the parameter; not SGD's
    ``momentum_buffer``, b, which is 1 / lr times as large.

    Raises:
        ValueError: an option out of its range; Nesterov without momentum.
    """

    sparse_message = "Momentum does not support sparse gradients"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        momentum: float = 0.9,
        weight_decay: float = 0,
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
        if group["nesterov"] and group["momentum"] <= 0:
            raise ValueError("Nesterov momentum requires a momentum")

    def scalar_state(self, group: Group) -> dict[str, float | Tensor]:
        """Return nothing: steps are not counted."""
        return {}

    def state_names(self, group: Group, p: Tensor) -> tuple[str, ...]:
        """Return the velocity's name."""
        return ("velocity",)

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
        weight_decay: float,
        nesterov: bool,
        **_: Any,
    ) -> None:
        if weight_decay != 0:
            g = g.add(theta, alpha=weight_decay)
        v = state["velocity"].mul_(momentum).add_(g, alpha=lr)
        if nesterov:
            theta.add_(v, alpha=-momentum).add_(g, alpha=-lr)
        else:
            theta.sub_(v)
