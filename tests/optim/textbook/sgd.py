from .base import Textbook


class SGD(Textbook):
    def __init__(
        self,
        params,
        lr=1e-3,
        momentum=0,
        dampening=0,
        weight_decay=0,
        nesterov=False,
        *,
        maximize=False,
    ):
        super().__init__(
            params,
            lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            maximize=maximize,
        )

    def add_param_group(self, group):
        options = {**self.defaults, **group}
        if options["nesterov"] and (options["momentum"] == 0 or options["dampening"] != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        super().add_param_group(group)

    def check(self, p, group):
        if group["weight_decay"] != 0 and p.grad is not None and p.grad.is_sparse:
            raise RuntimeError("weight decay changes every row, a sparse gradient names a few")

    def update(self, p, g, state, group):
        if group["weight_decay"] != 0:
            g = g + group["weight_decay"] * p
        if group["momentum"] != 0:
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = g.clone()
            else:
                b = state["momentum_buffer"]
                b.mul_(group["momentum"]).add_((1 - group["dampening"]) * g)
            b = state["momentum_buffer"]
            g = g + group["momentum"] * b if group["nesterov"] else b
        p.sub_(group["lr"] * g)
