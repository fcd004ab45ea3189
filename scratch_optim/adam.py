"""Adam: the running mean of the gradient over the root of its running mean square.

Kingma and Ba, "Adam: A Method for Stochastic Optimization" (ICLR 2015, arXiv:1412.6980), in the
form that ends section 2 and moves the bias corrections to the scalars; AMSGrad: Reddi, Kale and
Kumar, "On the Convergence of Adam and Beyond" (ICLR 2018); AdamW: Loshchilov and Hutter, "Decoupled
Weight Decay Regularization" (ICLR 2019, arXiv:1711.05101), algorithm 2.

    g_t     = grad f(theta_{t-1}) + lambda theta_{t-1}       Adam:  the decay is a part of g
    theta   = theta_{t-1} - lr lambda theta_{t-1}            AdamW: the decay is apart from g
    m_t     = beta1 m_{t-1} + (1 - beta1) g_t
    v_t     = beta2 v_{t-1} + (1 - beta2) g_t^2              AMSGrad: its maximum so far, below
    theta_t = theta - lr  m_t / (1 - beta1^t)  /  (sqrt(v_t / (1 - beta2^t)) + eps)

Why the corrections: with m_0 = 0, m_t = (1 - beta1) sum_i beta1^(t-i) g_i, whose weights sum to
1 - beta1^t. Dividing by that sum makes m_t a mean, and v_t likewise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .optimizer import Group, Optimizer, ParamsT
from .tensors import Operand


class Adam(Optimizer):
    """Adam, with AMSGrad and decoupled weight decay as options.

    Agrees with ``torch.optim.Adam``: bit for bit, and in its state dicts. Like it, differs from
    AMSGrad's paper in that the bias of the maximum is corrected too. Differs from torch under
    ``capturable`` and ``differentiable``, where torch computes ``1 - beta2**t`` in float32 and
    loses up to five digits in the first steps.

    Args:
        params: what to optimize, see :class:`~scratch_optim.optimizer.Optimizer`.
        lr: learning rate, per step; about the largest change of a parameter in one step.
        betas: how much of m and v stays from step to step; in [0, 1).
        eps: added to the root, in units of the gradient.
        weight_decay: lambda.
        amsgrad: never let v shrink.
        foreach: update lists of parameters; False: one after the other. Default: lists.
        maximize: climb instead of descend.
        capturable: keep the step count on the device, for CUDA graphs.
        differentiable: let autograd see the step.
        fused: compile the equation into one kernel.
        decoupled_weight_decay: decay as in :class:`AdamW`.

    State: ``step`` (0-dim); ``exp_avg``, m; ``exp_avg_sq``, v; ``max_exp_avg_sq``, the largest v
    so far, if amsgrad; the last three with the shape and dtype of the parameter.

    Raises:
        ValueError: an option out of its range.
    """

    older_options = {  # noqa: RUF012
        "maximize": False,
        "amsgrad": False,
        "decoupled_weight_decay": False,
    }
    sparse_message = "Adam does not support sparse gradients, please consider SparseAdam instead"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "maximize": maximize,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "fused": fused,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults)

    def check_group(self, group: Group) -> None:
        """Raise if an option is not valid, or a tensor where lists of parameters take none."""
        super().check_group(group)
        kinds = {isinstance(beta, Tensor) or type(beta) for beta in group["betas"]}
        if kinds not in ({True}, {float}):
            raise ValueError("betas must be either both floats or both Tensors")
        if group["foreach"] and not group["capturable"]:
            betas = {f"betas[{i}]": beta for i, beta in enumerate(group["betas"])}
            for name, value in {"lr": group["lr"], **betas}.items():
                if isinstance(value, Tensor):
                    raise ValueError(
                        f"{name} as a Tensor is not supported for capturable=False and foreach=True"
                    )

    def state_names(self, group: Group, p: Tensor) -> tuple[str, ...]:
        """Return the names of m, v and, for AMSGrad, the largest v."""
        return ("exp_avg", "exp_avg_sq", *(("max_exp_avg_sq",) if group["amsgrad"] else ()))

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
        amsgrad: bool,
        decoupled_weight_decay: bool,
        **_: Any,
    ) -> None:
        beta1, beta2 = betas
        if weight_decay != 0 and decoupled_weight_decay:
            theta.mul_(1 - lr * weight_decay)
        elif weight_decay != 0:
            g = g.add(theta, alpha=weight_decay)
        m = state["exp_avg"].lerp_(g, 1 - beta1)
        v = state["exp_avg_sq"].mul_(beta2).addcmul_(g, g, value=1 - beta2)
        if amsgrad:
            v = state["max_exp_avg_sq"].clamp_min_(v)
        root = v.sqrt().div_((1 - beta2**t) ** 0.5).add_(eps)
        theta.addcdiv_(m, root, value=-(lr / (1 - beta1**t)))


class AdamW(Adam):
    """Adam with decoupled weight decay: theta shrinks by lr lambda a step, whatever its gradient.

    Agrees with ``torch.optim.AdamW``: bit for bit, and in its state dicts. Like it, differs from
    the paper in that the decay is multiplied by the learning rate itself, not by its schedule
    alone.

    Args:
        params: what to optimize, see :class:`~scratch_optim.optimizer.Optimizer`.
        lr: see :class:`Adam`, as for all that follow.
        betas: see :class:`Adam`.
        eps: see :class:`Adam`.
        weight_decay: lambda.
        amsgrad: see :class:`Adam`.
        maximize: see :class:`Adam`.
        foreach: see :class:`Adam`.
        capturable: see :class:`Adam`.
        differentiable: see :class:`Adam`.
        fused: see :class:`Adam`.

    Raises:
        ValueError: an option out of its range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=True,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a state; the decay stays decoupled whatever the state says."""
        super().__setstate__(state)
        for group in self.param_groups:
            group["decoupled_weight_decay"] = True
