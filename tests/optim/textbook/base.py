"""What is the same in all of them: options, closure, and which parameters take a step."""

import copy
import math

import torch


def as_real(x):
    return torch.view_as_real(x) if x.is_complex() else x


class Textbook(torch.optim.Optimizer):
    keeps = ()  # what a step needs of the state of a parameter that has taken one

    def __init__(self, params, lr, **options):
        super().__init__(params, {"lr": lr, **options})

    def add_param_group(self, group):
        for name, value in {**self.defaults, **group}.items():
            if name in ("lr", "eps", "weight_decay", "momentum", "lr_decay"):
                if not 0 <= value < math.inf:
                    raise ValueError(f"{name} must be a finite number >= 0, but is {value}")
            elif name == "alpha":
                if not 0 <= value <= 1:
                    raise ValueError(f"alpha must lie in [0, 1], but is {value}")
            elif name == "betas" and not (len(value) == 2 and all(0 <= x < 1 for x in value)):
                raise ValueError(f"betas must be two numbers in [0, 1), but are {value}")
        super().add_param_group(group)

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                self.check(p, group)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                g = -p.grad if group["maximize"] else p.grad
                self.update(p, g, self.state[p], group)
        return loss

    def load_state_dict(self, state_dict):
        options = self.defaults.keys() - {"differentiable"}  # which torch adds after a load
        for group in state_dict["param_groups"]:
            if absent := options - group.keys():
                raise ValueError(f"a group lacks {sorted(absent)}")
        params = [p for group in self.param_groups for p in group["params"]]
        keys = [key for group in state_dict["param_groups"] for key in group["params"]]
        for key, p in zip(keys, params, strict=False):  # torch says how they differ in number
            state = state_dict["state"].get(key, {})
            missing = [name for name in self.keeps if state and name not in state]
            if missing:
                raise ValueError(f"the state of parameter {key} lacks {missing}")
            for name, x in state.items():
                if name != "step" and torch.is_tensor(x) and x.shape != p.shape:
                    raise ValueError(
                        f"state {name!r} of parameter {key} has the shape {tuple(x.shape)}, "
                        f"and the parameter {tuple(p.shape)}"
                    )
        super().load_state_dict(copy.deepcopy(state_dict))

    def check(self, p, group):
        if p.grad is not None and p.grad.is_sparse:
            raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")

    def update(self, p, g, state, group):
        raise NotImplementedError
