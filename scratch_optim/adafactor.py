"""Adafactor: the second moment of a matrix kept as the means of its rows and of its columns.

Shazeer and Stern, "Adafactor: Adaptive Learning Rates with Sublinear Memory Cost" (ICML 2018,
arXiv:1804.04235), algorithms 4 to 6.

    rho_t   = min(lr, 1 / sqrt(t))                           relative step
    alpha_t = max(eps2, RMS(theta_{t-1})) rho_t              in units of the parameter
    theta   = theta_{t-1} - lr lambda theta_{t-1}            weight decay lambda
    w_t     = t^tau                                          1 - beta2_t, tau < 0
    R_t     = R_{t-1} + w_t (mean of g_t^2 over a row    - R_{t-1})
    C_t     = C_{t-1} + w_t (mean of g_t^2 over a column - C_{t-1})
    V_t     = R_t C_t / mean(R_t)                            matrices: rank one
    V_t     = V_{t-1} + w_t (g_t^2 - V_{t-1})                vectors and scalars
    u_t     = g_t / max(sqrt(V_t), eps1)
    theta_t = theta - alpha_t u_t / max(1, RMS(u_t) / d)     no update larger than d

Why this product: of all V of rank one it has the row and column means of g^2, and the least
divergence (Kullback and Leibler's) from it, section 3. A tensor of more than two dimensions counts
as a stack of matrices, of its last two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from . import pieces
from .optimizer import Group, Optimizer, ParamsT


class Adafactor(Optimizer):
    """Adafactor: of a matrix of m by n it keeps m + n numbers.

    Agrees with ``torch.optim.Adafactor``: bit for bit with its for-loop, and in its state dicts.
    Like it, differs from the paper in that ``lr`` caps the relative step (the paper's cap is 0.01),
    in that eps1 bounds the root from below (the paper adds it to g^2), and in keeping means where
    the paper keeps sums. Differs from torch in that an empty parameter is left alone, where torch
    divides by zero, and in that each parameter's dtype sets its eps1, where torch takes that of the
    first in the group for all.

    Args:
        params: what to optimize, see :class:`~scratch_optim.optimizer.Optimizer`.
        lr: largest relative step, per step; and the factor of the weight decay.
        beta2_decay: tau, at most 0; how soon the means of g^2 grow long.
        eps: eps1, the least root, in units of the gradient (None: the dtype's epsilon), and eps2,
            the least RMS that a parameter counts as having, in its own units.
        d: the largest RMS of an update before it is scaled; ``math.inf``: any.
        weight_decay: lambda.
        foreach: has no effect: what is updated is always one parameter, as in torch's for-loop,
            which takes the least memory.
        maximize: climb instead of descend.

    State: ``step`` (0-dim); ``row_var``, R, of shape (..., m, 1) and ``col_var``, C, (..., 1, n)
    for a parameter of shape (..., m, n); ``variance``, V, for one of fewer dimensions; all with
    the dtype of the parameter.

    Raises:
        ValueError: an option out of its range.
    """

    ranges = {  # noqa: RUF012
        "lr": ("Learning rate should be >= 0 but is: {}", 0, math.inf),
        "beta2_decay": ("beta2_decay should be <= 0 but is: {}", -math.inf, 0),
        "eps1": ("epsilon1 should be >= 0 but is: {}", 0, math.inf),
        "eps2": ("epsilon2 should be >= 0 but is: {}", 0, math.inf),
        "d": ("Clipping threshold d should be >= 1 but is: {}", 1, math.inf),
        "weight_decay": ("weight_decay should be >= 0 but is: {}", 0, math.inf),
    }
    elementwise = False
    takes_lists = False
    captures = False
    sparse_message = "Adafactor does not support sparse gradients"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "beta2_decay": beta2_decay,
            "eps": eps,
            "d": d,
            "weight_decay": weight_decay,
            "foreach": foreach,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check_group(self, group: Group) -> None:
        """Raise if an option is not valid."""
        checked = {name: value for name, value in group.items() if name != "eps"}
        if not isinstance(group["eps"], (tuple, list)) or len(group["eps"]) != 2:
            raise ValueError(f"eps must be two numbers, eps1 and eps2, but is: {group['eps']}")
        eps1, eps2 = group["eps"]
        checked |= {"eps2": eps2} if eps1 is None else {"eps1": eps1, "eps2": eps2}
        if group["d"] == math.inf:  # a threshold that nothing reaches
            del checked["d"]
        super().check_group(checked)

    def check_gradient(self, group: Group, p: Tensor, g: Tensor) -> None:
        """Raise if the parameter is complex or its gradient sparse."""
        if p.is_complex():
            raise RuntimeError("Adafactor does not support complex parameters")
        super().check_gradient(group, p, g)

    def state_names(self, group: Group, p: Tensor) -> tuple[str, ...]:
        """Return the names of R and C, or of V."""
        return ("row_var", "col_var") if p.dim() > 1 else ("variance",)

    def state_shape(self, name: str, p: Tensor) -> tuple[int, ...]:
        """Return the shape of the parameter, with 1 where a mean is taken."""
        shape = list(p.shape)
        if name != "variance":
            shape[{"row_var": -1, "col_var": -2}[name]] = 1
        return tuple(shape)

    def new_state(self, p: Tensor, group: Group) -> dict[str, Tensor]:
        """Return means of nothing yet."""
        return {name: p.new_zeros(self.state_shape(name, p)) for name in self.state_names(group, p)}

    @staticmethod
    def update(  # noqa: D102
        theta: Tensor,
        g: Tensor,
        state: Mapping[str, Tensor],
        t: float,
        /,
        *,
        lr: float,
        beta2_decay: float,
        eps: tuple[float | None, float],
        d: float,
        weight_decay: float,
        **_: Any,
    ) -> None:
        if theta.numel() == 0:
            return
        eps1 = torch.finfo(theta.dtype).eps if eps[0] is None else eps[0]
        alpha = max(eps[1], _rms(theta)) * min(lr, 1 / t**0.5)
        w = t**beta2_decay
        if weight_decay != 0:
            theta.mul_(1 - lr * weight_decay)
        if theta.dim() > 1:
            R = state["row_var"].lerp_(_mean_square(g, -1), w)
            C = state["col_var"].lerp_(_mean_square(g, -2), w)
            V = R.mul(C).div_(R.mean(-2, keepdim=True).clamp(min=eps1))
        else:
            V = state["variance"].lerp_(g.square(), w).clone()
        u = V.clamp_(min=eps1**2).rsqrt_().mul_(g)
        theta.add_(u, alpha=-alpha / max(1.0, _rms(u, d)))


def _rms(x: Tensor, unit: float = 1.0) -> float:
    """Return the root mean square of the elements, in units of ``unit``."""
    return pieces.gathered(x.norm(2)).item() / (x.numel() ** 0.5 * unit)


def _mean_square(x: Tensor, dim: int) -> Tensor:
    """Return the mean of the squares over a dimension, by a norm: it needs no copy of x."""
    # Out of place, here and of the mean of R: of what is cut over processes these are parts yet.
    return torch.linalg.vector_norm(x, dim=dim, keepdim=True).square().div(x.size(dim))
