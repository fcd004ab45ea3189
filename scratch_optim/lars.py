"""LARS: momentum, with a learning rate for each layer in proportion to the size of its weights.

You, Gitman and Ginsburg, "Large Batch Training of Convolutional Networks" (2017, arXiv:1708.03888),
equation 6 and algorithm 1; ``clip``: LARC, of the same authors' group (NVIDIA apex).

    g_t     = grad f(theta_{t-1})
    local_t = eta |theta_{t-1}| / (|g_t| + lambda |theta_{t-1}| + eps)
    v_t     = mu v_{t-1} + lr local_t (g_t + lambda theta_{t-1})
    theta_t = theta_{t-1} - v_t                              or, after Nesterov,
    theta_t = theta_{t-1} - lr local_t (g_t + lambda theta_{t-1}) - mu v_t

The norms are those of a whole parameter, a layer's weight. With lambda and eps 0 a step without
momentum is lr eta |theta| long, however large the gradient: its direction alone counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .optimizer import Group, Optimizer, ParamsT
from .tensors import Operand


def trust_ratio(above: Operand, below: Operand, w: Operand, n: Operand) -> Operand:
    """Return above / below, or 1 where one of the norms w and n is 0.

    There both are 1 before they are divided, so that autograd meets no 0 / 0. By arithmetic, since
    lists have it and have no masks: a factor of 1 and a summand of 0 change no bit.
    """
    on = w.sign().mul_(n.sign())
    off = on.neg().add_(1)
    return above.mul(on).add_(off).div_(below.mul(on).add_(off))


class LayerWise(Optimizer):
    """What LARS and LAMB share: whole parameters, of which some are excluded."""

    elementwise = False

    def check_group(self, group: Group) -> None:
        """Raise if an option is not valid."""
        super().check_group(group)
        if group["exclude"] not in (True, False, None):
            raise ValueError(
                f"Invalid exclude value: {group['exclude']!r}; it must be True, False or None. To "
                "exclude some parameters give them a group of their own with exclude=True"
            )

    def kind(self, group: Group, p: Tensor) -> bool:
        """Return whether ``p`` has at most one dimension, as biases and the gains of norms do."""
        return p.dim() <= 1


class LARS(LayerWise):
    """LARS: stochastic gradient descent with momentum and layer-wise learning rates.

    Agrees with the paper: with its defaults but ``exclude=False``, the equations above to the
    letter. By default biases and the gains of norms are excluded, as is usual: their norms say
    little of how far they may move. A learning rate that falls is the business of a scheduler.

    Differs from apex and timm, as the paper does, in that the learning rate multiplies the
    gradient that goes into the velocity, not the velocity; the same as long as it does not change.
    Where that is so, ``timm.optim.Lars(eps=0)`` is this with ``exclude=False`` if its
    ``always_adapt`` or a weight decay is on, and ``exclude=True`` if neither; its ``trust_clip``
    is ``clip``. Its nesterov is the same.

    Args:
        params: what to optimize, see :class:`~scratch_optim.optimizer.Optimizer`.
        lr: learning rate of all layers, per step.
        momentum: mu.
        weight_decay: lambda, of the L2 penalty lambda/2 |theta|^2.
        nesterov: whether to look ahead along the velocity.
        trust_coefficient: eta, how far a layer may move in a step, in units of its norm.
        eps: added to the norm of the gradient, in its units. The paper has none.
        clip: let no layer learn faster than lr: lr local becomes min(local, lr), which is LARC.
        exclude: who gets neither local rate nor weight decay, but v = mu v + lr g. None: parameters
            of at most one dimension; True: all; False: none. Most useful as option of a group.
        maximize: climb instead of descend.
        foreach: update lists of parameters; False: one after the other. Default: lists.
        differentiable: let autograd see the step.

    The local rate is 1 where theta or its gradient is zero.

    State: ``velocity``, v, with the shape and dtype of the parameter.

    Raises:
        ValueError: an option out of its range; Nesterov without momentum.
    """

    ranges = {  # noqa: RUF012
        "trust_coefficient": ("Invalid trust_coefficient value: {}", 0, float("inf")),
    }
    sparse_message = "LARS does not support sparse gradients"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        nesterov: bool = False,
        trust_coefficient: float = 1e-3,
        eps: float = 0.0,
        *,
        clip: bool = False,
        exclude: bool | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "trust_coefficient": trust_coefficient,
            "eps": eps,
            "clip": clip,
            "exclude": exclude,
            "maximize": maximize,
            "foreach": foreach,
            "differentiable": differentiable,
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
        kind: bool,
        lr: float,
        momentum: float,
        weight_decay: float,
        nesterov: bool,
        trust_coefficient: float,
        eps: float,
        clip: bool,
        exclude: bool | None,
        **_: Any,
    ) -> None:
        if kind if exclude is None else exclude:
            step = g.mul(lr)
        else:
            w, n = theta.norm(), g.norm()
            below = n.add(w, alpha=weight_decay).add_(eps)
            local = trust_ratio(w.mul(trust_coefficient), below.mul(lr) if clip else below, w, n)
            if clip:  # in units of lr, as all that follows
                local.clamp_max_(1)
            step = g.add(theta, alpha=weight_decay).mul_(local.mul_(lr))
        v = state["velocity"].mul_(momentum).add_(step)
        theta.sub_(step.add_(v, alpha=momentum) if nesterov else v)
