"""Rprop: step sizes that grow while a gradient keeps its sign and shrink when it changes.

Riedmiller and Braun, "A Direct Adaptive Method for Faster Backpropagation Learning: The RPROP
Algorithm" (IEEE International Conference on Neural Networks, 1993); in the form without
backtracking: Igel and Huesken, "Improving the Rprop Learning Algorithm" (2000), iRprop-.

    s_t     = sign(g_t g_{t-1})
    Delta_t = eta+ Delta_{t-1}  if s_t > 0                   the same direction: faster
              eta- Delta_{t-1}  if s_t < 0                   a minimum was passed: slower
              Delta_{t-1}       if s_t = 0                   and within [Delta_min, Delta_max]
    g_t     = 0                 if s_t < 0                   no step, and none to compare with next
    theta_t = theta_{t-1} - sign(g_t) Delta_t

For full batches: the signs of small batches are noise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .optimizer import Group, Optimizer, ParamsT
from .tensors import Operand


class Rprop(Optimizer):
    """Resilient backpropagation.

    Agrees with ``torch.optim.Rprop``: bit for bit, and in its state dicts.

    Args:
        params: what to optimize, see :class:`~scratch_optim.optimizer.Optimizer`.
        lr: Delta_0, in units of the parameter. A later change of it changes nothing.
        etas: eta- in (0, 1) and eta+ in (1, inf).
        step_sizes: Delta_min and Delta_max, in units of the parameter.
        capturable: keep the step count on the device, for CUDA graphs.
        foreach: update lists of parameters; False: one after the other. Default: lists.
        maximize: climb instead of descend.
        differentiable: let autograd see the step.
        fused: compile the equation into one kernel. Not an option of torch's class.

    State: ``step`` (0-dim); ``prev``, the gradient of the step before; ``step_size``, Delta; both
    with the shape and dtype of the parameter.

    Raises:
        ValueError: an option out of its range.
    """

    heavy = True
    sparse_message = "Rprop does not support sparse gradients"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50),
        *,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "etas": etas,
            "step_sizes": step_sizes,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "capturable": capturable,
            "fused": fused,
        }
        super().__init__(params, defaults)

    def check_group(self, group: Group) -> None:
        """Raise if an option is not valid, or the step sizes are no interval."""
        super().check_group(group)
        shrink, grow = group["etas"]
        if not 0 < shrink < 1 < grow < float("inf"):
            raise ValueError(f"Invalid eta values: {shrink}, {grow}")
        low, high = group["step_sizes"]
        if not 0 <= low <= high:
            raise ValueError(
                f"Invalid step_sizes: {low}, {high}; the smallest must be at least 0 and at most "
                "the largest"
            )

    def state_names(self, group: Group, p: Tensor) -> tuple[str, ...]:
        """Return the names of the last gradient and of the step sizes."""
        return ("prev", "step_size")

    def new_state(self, p: Tensor, group: Group) -> dict[str, Tensor]:
        """Return a gradient of zero, and lr as step size of either part of a complex parameter."""
        lr = float(group["lr"])
        return {
            "prev": torch.zeros_like(p),
            "step_size": torch.full_like(p, complex(lr, lr) if p.is_complex() else lr),
        }

    @staticmethod
    def update(  # noqa: D102
        theta: Operand,
        g: Operand,
        state: Mapping[str, Operand],
        t: Any,
        /,
        *,
        etas: tuple[float, float],
        step_sizes: tuple[float, float],
        **_: Any,
    ) -> None:
        previous, delta = state["prev"], state["step_size"]
        s = g.mul(previous).sign_()
        grow, shrink, stay = s.gt(0), s.lt(0), s.eq(0)
        s.masked_fill_(grow, etas[1]).masked_fill_(shrink, etas[0]).masked_fill_(stay, 1)
        delta.mul_(s).clamp_min_(step_sizes[0]).clamp_max_(step_sizes[1])
        previous.copy_(g).masked_fill_(shrink, 0)
        theta.addcmul_(s.copy_(previous).sign_(), delta, value=-1)  # s: as room for the result
