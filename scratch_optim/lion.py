"""Lion: the sign of a running mean of the gradient.

Chen, Liang, Huang, Real, Wang, Liu, Pham, Dong, Luong, Hsieh, Lu and Le, "Symbolic Discovery of
Optimization Algorithms" (NeurIPS 2023, arXiv:2302.06675), algorithm 2.

    g_t     = grad f(theta_{t-1})
    c_t     = beta1 m_{t-1} + (1 - beta1) g_t
    theta_t = theta_{t-1} - lr (sign(c_t) + lambda theta_{t-1})      weight decay lambda
    m_t     = beta2 m_{t-1} + (1 - beta2) g_t

Two means of one history: c_t, by which the step is made, weighs the newest gradient more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .optimizer import Group, Optimizer, ParamsT
from .tensors import Operand


class Lion(Optimizer):
    """Lion, EvoLved Sign Momentum, with decoupled weight decay.

    Agrees with the paper. Decays theta before the step, as the authors' code and timm's do: the
    same but for rounding. Ways that round c_t differently (fused, another device) take opposite
    steps where c_t is zero but for rounding.

    Args:
        params: what to optimize, see :class:`~scratch_optim.optimizer.Optimizer`.
        lr: learning rate, per step; what every entry moves, in its own units. The paper advises a
            tenth to a third of AdamW's.
        betas: beta1, of c, and beta2, of m; in [0, 1).
        weight_decay: lambda. The paper advises as much more than AdamW's as lr is less.
        maximize: climb instead of descend.
        foreach: update lists of parameters; False: one after the other. Default: lists.
        differentiable: let autograd see the step, which is constant in the gradient.
        fused: compile the equation into one kernel.

    State: ``exp_avg``, m, with the shape and dtype of the parameter.

    Raises:
        ValueError: an option out of its range.
    """

    sparse_message = "Lion does not support sparse gradients"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)

    def scalar_state(self, group: Group) -> dict[str, float | Tensor]:
        """Return nothing: steps are not counted."""
        return {}

    def state_names(self, group: Group, p: Tensor) -> tuple[str, ...]:
        """Return the name of m."""
        return ("exp_avg",)

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
        weight_decay: float,
        **_: Any,
    ) -> None:
        beta1, beta2 = betas
        m = state["exp_avg"]
        if weight_decay != 0:
            theta.mul_(1 - lr * weight_decay)
        theta.add_(m.lerp(g, 1 - beta1).sign_(), alpha=-lr)
        m.lerp_(g, 1 - beta2)
