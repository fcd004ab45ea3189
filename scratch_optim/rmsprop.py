"""RMSprop: the gradient over the root of its running mean square.

Tieleman and Hinton, "Lecture 6.5: rmsprop", COURSERA: Neural Networks for Machine Learning (2012);
centered: Graves, "Generating Sequences With Recurrent Neural Networks" (2013, arXiv:1308.0850),
equations 38 to 45.

    g_t     = grad f(theta_{t-1}) + lambda theta_{t-1}       weight decay lambda
    v_t     = alpha v_{t-1} + (1 - alpha) g_t^2              mean square
    a_t     = alpha a_{t-1} + (1 - alpha) g_t                mean, if centered
    r_t     = sqrt(v_t - a_t^2) + eps                        (a_t = 0 if not centered), or, with
    r_t     = sqrt(v_t - a_t^2 + eps)                        eps inside the root
    b_t     = mu b_{t-1} + g_t / r_t                         momentum mu
    theta_t = theta_{t-1} - lr b_t
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .optimizer import Group, Optimizer, ParamsT
from .tensors import Operand


class RMSprop(Optimizer):
    """RMSprop, with momentum, plain or centered.

    Agrees with ``torch.optim.RMSprop``: bit for bit, and in its state dicts. By default differs
    from Graves, TensorFlow and Keras, which add eps inside the root: ``eps_inside_root=True`` is
    their form, but that with momentum the last two put lr into b, as
    :class:`~scratch_optim.momentum.Momentum` does (the same as long as lr does not change).

    Args:
        params: what to optimize, see :class:`~scratch_optim.optimizer.Optimizer`.
        lr: learning rate, per step.
        alpha: how much of the mean square stays from step to step; in [0, 1].
        eps: added to the root, in units of the gradient; inside it, in units of its square.
        weight_decay: lambda, of the L2 penalty lambda/2 |theta|^2.
        momentum: mu.
        centered: divide by the standard deviation instead of the root mean square.
        capturable: keep the step count on the device, for CUDA graphs.
        foreach: update lists of parameters; False: one after the other. Default: lists.
        maximize: climb instead of descend.
        differentiable: let autograd see the step.
        fused: compile the equation into one kernel. Not an option of torch's class.
        eps_inside_root: add eps to the mean square, not to its root. Not an option of torch's
            class; its state dicts count as without.

    State: ``step`` (0-dim); ``square_avg``, v; ``grad_avg``, a, if centered; ``momentum_buffer``,
    b, if mu > 0; the last three with the shape and dtype of the parameter.

    Raises:
        ValueError: an option out of its range.
    """

    older_options = {  # noqa: RUF012
        "maximize": False,
        "momentum": 0,
        "centered": False,
        "eps_inside_root": False,
    }
    sparse_message = "RMSprop does not support sparse gradients"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0,
        momentum: float = 0,
        centered: bool = False,
        capturable: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        differentiable: bool = False,
        *,
        fused: bool | None = None,
        eps_inside_root: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "alpha": alpha,
            "eps": eps,
            "centered": centered,
            "weight_decay": weight_decay,
            "capturable": capturable,
            "foreach": foreach,
            "maximize": maximize,
            "differentiable": differentiable,
            "fused": fused,
            "eps_inside_root": eps_inside_root,
        }
        super().__init__(params, defaults)

    def state_names(self, group: Group, p: Tensor) -> tuple[str, ...]:
        """Return the mean square's name, and those of velocity and mean where there are any."""
        momentum = ("momentum_buffer",) if group["momentum"] > 0 else ()
        return ("square_avg", *momentum, *(("grad_avg",) if group["centered"] else ()))

    @staticmethod
    def update(  # noqa: D102
        theta: Operand,
        g: Operand,
        state: Mapping[str, Operand],
        t: Any,
        /,
        *,
        lr: float,
        alpha: float,
        eps: float,
        weight_decay: float,
        momentum: float,
        centered: bool,
        eps_inside_root: bool,
        **_: Any,
    ) -> None:
        if weight_decay != 0:
            g = g.add(theta, alpha=weight_decay)
        v = state["square_avg"].mul_(alpha).addcmul_(g, g, value=1 - alpha)
        if centered:
            a = state["grad_avg"].lerp_(g, 1 - alpha)
            v = v.addcmul(a, a, value=-1)
        r = v.add(eps).sqrt_() if eps_inside_root else v.sqrt().add_(eps)
        if momentum > 0:
            b = state["momentum_buffer"].mul_(momentum).addcdiv_(g, r)
            theta.add_(b, alpha=-lr)
        else:
            theta.addcdiv_(g, r, value=-lr)
