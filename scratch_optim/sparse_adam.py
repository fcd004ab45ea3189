"""SparseAdam: Adam on the entries that a sparse gradient names, as those of an embedding.

Kingma and Ba, "Adam: A Method for Stochastic Optimization" (ICLR 2015, arXiv:1412.6980), with all
else left as it is: where g is not given, neither theta nor m nor v change (Adam would go on
shrinking m and v, and moving theta along m).

    m_t     = m_{t-1} + (1 - beta1) (g_t - m_{t-1})
    v_t     = v_{t-1} + (1 - beta2) (g_t^2 - v_{t-1})
    theta_t = theta_{t-1} - lr sqrt(1 - beta2^t) / (1 - beta1^t)  m_t / (sqrt(v_t) + eps)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .optimizer import Group, Optimizer, ParamsT
from .tensors import Operand


class SparseAdam(Optimizer):
    """Adam for dense parameters with sparse gradients, such as ``nn.Embedding(sparse=True)``.

    Agrees with ``torch.optim.SparseAdam``: bit for bit, and in its state dicts. Like it, eps is
    added before the root is corrected for its bias, and t counts the steps of the parameter, not
    those of an entry.

    Args:
        params: what to optimize, see :class:`~scratch_optim.optimizer.Optimizer`.
        lr: learning rate, per step.
        betas: how much of m and v stays from step to step; in [0, 1).
        eps: added to the root, in units of the gradient.
        maximize: climb instead of descend.

    State: ``step``, an int; ``exp_avg``, m; ``exp_avg_sq``, v; both dense, with the shape and dtype
    of the parameter.

    Raises:
        ValueError: an option out of its range; a sparse or complex parameter.
    """

    ranges = {  # noqa: RUF012
        "lr": ("Invalid learning rate: {}", math.ulp(0), math.inf),
        "eps": ("Invalid epsilon value: {}", math.ulp(0), math.inf),
    }
    real_view = False
    sparse_entries = True
    captures = False

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        maximize: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "maximize": maximize}
        super().__init__(params, defaults)
        places = [
            ([i, j], p)
            for i, group in enumerate(self.param_groups)
            for j, p in enumerate(group["params"])
        ]
        if sparse := [place for place, p in places if p.is_sparse]:
            raise ValueError(
                f"Sparse params at indices {sparse}: SparseAdam requires dense parameter tensors"
            )
        if complex_ := [place for place, p in places if p.is_complex()]:
            raise ValueError(
                f"Complex params at indices {complex_}: SparseAdam does not support complex "
                "parameters"
            )

    def check_gradient(self, group: Group, p: Tensor, g: Tensor) -> None:
        """Raise if the gradient is dense."""
        if not g.is_sparse:
            raise RuntimeError(
                "SparseAdam does not support dense gradients, please consider Adam instead"
            )

    def state_names(self, group: Group, p: Tensor) -> tuple[str, ...]:
        """Return the names of m and v."""
        return ("exp_avg", "exp_avg_sq")

    def scalar_state(self, group: Group) -> dict[str, float | Tensor]:
        """Return nothing: the step count is an int here, not a 0-dim tensor."""
        return {}

    def kind(self, group: Group, p: Tensor) -> int:
        """Return the step count: parameters with the same one are updated together."""
        return self.state[p]["step"]

    def _signs(self, group: Group, grads: list[Any], by_address: bool) -> list[Any]:
        signs = super()._signs(group, grads, by_address)
        counts = [
            self.state.get(p, {}).get("step", 0)
            for p, g in zip(group["params"], grads, strict=True)
            if g is not None
        ]
        # Of those that are updated together all count alike, unless a count was edited.
        return [*signs, *[count - counts[0] for count in counts]]

    def _start(self, p: Tensor, group: Group) -> bool:
        self.state[p].setdefault("step", 0)
        return super()._start(p, group)

    def _count(self, bucket: Any, options: Mapping[str, Any], found_inf: Tensor | None) -> int:
        states = [self.state[options["params"][i]] for i in bucket.indices]
        for state in states:
            state["step"] += 1
        return states[0]["step"]

    def _check_state(self, key: Any, p: Tensor, group: Group, saved: Mapping[str, Any]) -> None:
        super()._check_state(key, p, group, saved)
        if saved and not isinstance(saved.get("step"), int):
            raise ValueError(
                f"the loaded state of parameter {key} has the step count {saved.get('step')!r}, "
                "but SparseAdam needs an int. Was it saved by another optimizer?"
            )

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
        **_: Any,
    ) -> None:
        beta1, beta2 = betas
        m, v = state["exp_avg"], state["exp_avg_sq"]
        m.add_(g.sub(m).mul_(1 - beta1))
        v.add_(g.square().sub_(v).mul_(1 - beta2))
        size = lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)
        theta.add_(m.div(v.sqrt().add_(eps)).mul_(-size))
