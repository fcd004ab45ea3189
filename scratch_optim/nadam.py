"""NAdam: Adam that looks ahead along its running mean, as Nesterov's momentum does.

Dozat, "Incorporating Nesterov Momentum into Adam" (ICLR 2016 workshop), algorithm 2.

    g_t     = grad f(theta_{t-1}) + lambda theta_{t-1}       or decoupled, as in AdamW
    mu_t    = beta1 (1 - 0.96^(t psi) / 2)                   momentum, which grows to beta1
    m_t     = beta1 m_{t-1} + (1 - beta1) g_t
    v_t     = beta2 v_{t-1} + (1 - beta2) g_t^2
    r_t     = sqrt(v_t / (1 - beta2^t)) + eps
    theta_t = theta - lr (1 - mu_t)  / (1 - mu_1 ... mu_t)      g_t / r_t
                    - lr  mu_{t+1}   / (1 - mu_1 ... mu_{t+1})  m_t / r_t

The momentum of the next step is applied already in this one: that is the look ahead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .optimizer import Group, Optimizer, ParamsT
from .tensors import Operand


class NAdam(Optimizer):
    """NAdam, with weight decay coupled or decoupled.

    Agrees with ``torch.optim.NAdam``: bit for bit with its for-loop, and in its state dicts.

    Args:
        params: what to optimize, see :class:`~scratch_optim.optimizer.Optimizer`.
        lr: learning rate, per step; about the largest change of a parameter in one step.
        betas: how much of m and v stays from step to step; in [0, 1).
        eps: added to the root, in units of the gradient.
        weight_decay: lambda.
        momentum_decay: psi, per step.
        decoupled_weight_decay: shrink theta by lr lambda, apart from the gradient.
        foreach: update lists of parameters; False: one after the other. Default: lists.
        maximize: climb instead of descend.
        capturable: keep the step count on the device, for CUDA graphs.
        differentiable: let autograd see the step.
        fused: compile the equation into one kernel. Not an option of torch's class.

    State: ``step`` and ``mu_product``, mu_1 ... mu_t (0-dim); ``exp_avg``, m; ``exp_avg_sq``, v;
    both with the shape and dtype of the parameter.

    Raises:
        ValueError: an option out of its range.
    """

    older_options = {"maximize": False, "decoupled_weight_decay": False}  # noqa: RUF012
    sparse_message = "NAdam does not support sparse gradients"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum_decay: float = 4e-3,
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
            "momentum_decay": momentum_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
        }
        super().__init__(params, defaults)

    def state_names(self, group: Group, p: Tensor) -> tuple[str, ...]:
        """Return the names of m and v."""
        return ("exp_avg", "exp_avg_sq")

    def scalar_state(self, group: Group) -> dict[str, float | Tensor]:
        """Return the step count and the product of the momenta."""
        return {"step": 0.0, "mu_product": 1.0}

    @staticmethod
    def advance(  # noqa: D102
        scalars: dict[str, Tensor],
        t: Any,
        /,
        *,
        betas: tuple[float, float],
        momentum_decay: float,
        **_: Any,
    ) -> dict[str, Tensor]:
        scalars["mu_product"].mul_(_mu(t, betas[0], momentum_decay))
        return {name: x[0] for name, x in scalars.items()}

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
        momentum_decay: float,
        decoupled_weight_decay: bool,
        **_: Any,
    ) -> None:
        beta1, beta2 = betas
        if weight_decay != 0 and decoupled_weight_decay:
            theta.mul_(1 - lr * weight_decay)
        elif weight_decay != 0:
            g = g.add(theta, alpha=weight_decay)
        mu, mu_next = (_mu(i, beta1, momentum_decay) for i in (t, t + 1))
        product = state["mu_product"]
        m = state["exp_avg"].lerp_(g, 1 - beta1)
        v = state["exp_avg_sq"].mul_(beta2).addcmul_(g, g, value=1 - beta2)
        r = v.div(1 - beta2**t).sqrt_().add_(eps)
        theta.addcdiv_(g, r, value=-lr * (1 - mu) / (1 - product))
        theta.addcdiv_(m, r, value=-lr * mu_next / (1 - product * mu_next))


def _mu(t: Any, beta1: float, psi: float) -> Any:
    return beta1 * (1 - 0.5 * 0.96 ** (t * psi))
