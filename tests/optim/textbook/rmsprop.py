import torch

from .base import Textbook, as_real


class RMSprop(Textbook):
    keeps = ("step", "square_avg")

    def __init__(
        self,
        params,
        lr=1e-2,
        alpha=0.99,
        eps=1e-8,
        weight_decay=0,
        momentum=0,
        centered=False,
        maximize=False,
    ):
        super().__init__(
            params,
            lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
            maximize=maximize,
        )

    def update(self, p, g, state, group):
        if not state:
            state["step"] = torch.tensor(0.0)
            state["square_avg"] = torch.zeros_like(p)
        if group["momentum"] > 0 and "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(p)
        if group["centered"] and "grad_avg" not in state:
            state["grad_avg"] = torch.zeros_like(p)
        alpha = group["alpha"]
        state["step"] += 1
        p, g, v = map(as_real, (p, g, state["square_avg"]))
        if group["weight_decay"] != 0:
            g = g + group["weight_decay"] * p
        v.mul_(alpha).add_((1 - alpha) * g * g)
        if group["centered"]:
            a = as_real(state["grad_avg"])
            a.lerp_(g, 1 - alpha)
            v = v - a * a
        change = g / (v.sqrt() + group["eps"])
        if group["momentum"] > 0:
            b = as_real(state["momentum_buffer"])
            change = b.mul_(group["momentum"]).add_(change)
        p.sub_(group["lr"] * change)
