import torch

from .base import Textbook, as_real


class Adagrad(Textbook):
    keeps = ("step", "sum")

    def __init__(self, params, lr=1e-2, lr_decay=0, weight_decay=0, eps=1e-10, *, maximize=False):
        super().__init__(
            params, lr, lr_decay=lr_decay, weight_decay=weight_decay, eps=eps, maximize=maximize
        )

    def update(self, p, g, state, group):
        if not state:
            state["step"] = torch.tensor(0.0)
            state["sum"] = torch.zeros_like(p)
        state["step"] += 1
        t = state["step"].item()
        p, g, s = map(as_real, (p, g, state["sum"]))
        if group["weight_decay"] != 0:
            g = g + group["weight_decay"] * p
        s.add_(g * g)
        lr = group["lr"] / (1 + (t - 1) * group["lr_decay"])
        p.sub_(lr * g / (s.sqrt() + group["eps"]))
