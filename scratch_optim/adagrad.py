"""Adagrad: every entry has a learning rate of its own, which falls with what it has moved.

Duchi, Hazan and Singer, "Adaptive Subgradient Methods for Online Learning and Stochastic
Optimization" (JMLR 12, 2011), the diagonal case of equation 1.

    g_t     = grad f(theta_{t-1}) + lambda theta_{t-1}       weight decay lambda
    s_t     = s_{t-1} + g_t^2                                sum of squares
    lr_t    = lr / (1 + (t - 1) eta)                         decay of the learning rate, eta
    theta_t = theta_{t-1} - lr_t g_t / (sqrt(s_t) + eps)

A sparse gradient changes the entries that it names, in theta and in s: for all others g is zero,
and the equation changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .optimizer import Group, Optimizer, ParamsT
from .tensors import Operand


class Adagrad(Optimizer):
    """Adagrad, for dense and sparse gradients.

    Agrees with ``torch.optim.Adagrad``: bit for bit with dense gradients, and in its state dicts.
    Torch writes the sparse step as another formula; they part by roundings, at most 2 epsilons of
    an entry in a step.

    Args:
        params: what to optimize, see :class:`~scratch_optim.optimizer.Optimizer`.
        lr: learning rate, per step.
        lr_decay: eta, per step.
        weight_decay: lambda, of the L2 penalty lambda/2 |theta|^2; 0 for sparse gradients.
        initial_accumulator_value: s_0.
        eps: added to the root, in units of the gradient.
        foreach: update lists of parameters; False: one after the other. Default: lists.
        maximize: climb instead of descend.
        differentiable: let autograd see the step.
        fused: compile the equation into one kernel.

    State, there from the beginning: ``step`` (0-dim); ``sum``, s, with the shape and dtype of the
    parameter.

    Raises:
        ValueError: an option out of its range.
    """

    sparse_entries = True

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0,
        weight_decay: float = 0,
        initial_accumulator_value: float = 0,
        eps: float = 1e-10,
        foreach: bool | None = None,
        *,
        maximize: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)
        for group in self.param_groups:
            for p in group["params"]:
                self._start(p, group)

    def share_memory(self) -> None:
        """Move the sums into memory that processes can share."""
        for state in self.state.values():
            state["sum"].share_memory_()

    def state_names(self, group: Group, p: Tensor) -> tuple[str, ...]:
        """Return the name of the sum of squares."""
        return ("sum",)

    def new_state(self, p: Tensor, group: Group) -> dict[str, Tensor]:
        """Return the sum of squares to begin with; of both parts of a complex parameter."""
        s0 = group["initial_accumulator_value"]
        return {"sum": torch.full_like(p, complex(s0, s0) if p.is_complex() else s0)}

    @staticmethod
    def update(  # noqa: D102
        theta: Operand,
        g: Operand,
        state: Mapping[str, Operand],
        t: Any,
        /,
        *,
        lr: float,
        lr_decay: float,
        weight_decay: float,
        eps: float,
        **_: Any,
    ) -> None:
        if weight_decay != 0:
            g = g.add(theta, alpha=weight_decay)
        s = state["sum"].addcmul_(g, g, value=1)
        theta.addcdiv_(g, s.sqrt().add_(eps), value=-(lr / (1 + (t - 1) * lr_decay)))
