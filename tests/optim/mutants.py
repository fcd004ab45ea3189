"""Optimizers with one mistake each: what the conformance kit is worth is how many it finds.

A mistake is a piece of text replaced by another in one of two packages: in ``textbook``, optimizers
as people write them by hand, or in ``scratch_optim`` itself, whose mistakes are those of a library
that runs one equation in several ways.

``python tests/optim/mutants.py`` prints which check finds which of them, with a reference and
without, and which checks find none.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from mutation import broken  # noqa: E402

from scratch_optim.testing import (  # noqa: E402
    CHECKS,
    check_optimizer,
    closed_forms,
    descent,
    face,
    groups,
    manners,
    midrun,
    parity,
    saved,
    state,
    step,
    unusual,
    ways,
)
from scratch_optim.testing.kit import checks_of  # noqa: E402

# For each class of a package, with the file that is changed: what stands there, and what to put
# there instead, by what is wrong with that.
MISTAKES: dict[tuple[str, str, str], dict[str, dict[str, str]]] = {}

# ------------------------------------------------------------------ equations, written by hand

MISTAKES["textbook", "sgd.py", "SGD"] = {
    'p.sub_(group["lr"] * g)': {
        "climbs": 'p.add_(group["lr"] * g)',
        "divides by the learning rate": 'p.sub_(g / group["lr"])',
        "takes half the learning rate": 'p.sub_(group["lr"] / 2 * g)',
        "takes the learning rate it was made with": 'p.sub_(self.defaults["lr"] * g)',
        "takes the first group's learning rate": 'p.sub_(self.param_groups[0]["lr"] * g)',
        "remembers the learning rate of the first step": (
            'p.sub_(group.setdefault("first_lr", group["lr"]) * g)'
        ),
        "scales the gradient in place": 'p.sub_(g.mul_(group["lr"]))',
        "gives the parameter another storage": 'p.data = p.data - group["lr"] * g',
        "changes the parameter behind autograd's back": 'p.data.sub_(group["lr"] * g)',
        "lets a row named twice overwrite itself": """\
if g.is_sparse:
            p[g._indices()[0]] -= group["lr"] * g._values()
        else:
            p.sub_(group["lr"] * g)""",
        "loses what is not contiguous": """\
if g.is_sparse or p.is_contiguous():
            p.sub_(group["lr"] * g)
        else:
            p.reshape(-1).sub_(group["lr"] * g.reshape(-1))""",
        "reads the gradient in the order of memory": """\
if g.is_sparse or not p.is_contiguous():
            p.sub_(group["lr"] * g)
        else:
            p.sub_(group["lr"] * g.as_strided(p.shape, p.stride()))""",
        "takes steps of whole numbers": 'p.sub_((group["lr"] * g).to_dense().sign())',
    },
    'g = g + group["weight_decay"] * p': {
        "decays with the wrong sign": 'g = g - group["weight_decay"] * p',
        "decays twice as much": 'g = g + 2 * group["weight_decay"] * p',
        "decays by the square": 'g = g + group["weight_decay"] * p * p',
        "decays by the sign": 'g = g + group["weight_decay"] * p.sgn()',
        "ignores the decay": "pass",
        "decays apart from the gradient": 'p.mul_(1 - group["lr"] * group["weight_decay"])',
        "decays whatever the learning rate": 'p.mul_(1 - group["weight_decay"])',
        "adds the decay to the gradient in place": 'g.add_(p, alpha=group["weight_decay"])',
        "decays upwards while it climbs": (
            'g = g + (-1 if group["maximize"] else 1) * group["weight_decay"] * p'
        ),
        "decays all groups by the default": 'g = g + self.defaults["weight_decay"] * p',
        "decays by where the parameter began": (
            'g = g + group["weight_decay"] * state.setdefault("start", p.clone())'
        ),
    },
    'if group["weight_decay"] != 0:\n': {
        "decays matrices only": 'if group["weight_decay"] != 0 and p.dim() > 1:\n',
    },
    'state["momentum_buffer"] = g.clone()': {
        "starts the velocity at zero": 'state["momentum_buffer"] = g * 0',
        "dampens the first gradient too": (
            'state["momentum_buffer"] = (1 - group["dampening"]) * g'
        ),
        "keeps the gradient itself as velocity": 'state["momentum_buffer"] = g',
        "keeps one velocity for all": (
            'state["momentum_buffer"] = self.param_groups[0].setdefault("b", g.clone())'
        ),
    },
    'add_((1 - group["dampening"]) * g)': {
        "ignores dampening": "add_(g)",
        "dampens with the wrong sign": 'add_((1 + group["dampening"]) * g)',
        "dampens by the rest": 'add_(group["dampening"] * g)',
        "takes the momentum for that of a mean": 'add_((1 - group["momentum"]) * g)',
    },
    'b.mul_(group["momentum"])': {
        "halves the momentum": 'b.mul_(group["momentum"] / 2)',
        "forgets the velocity": "b.mul_(0)",
        "never slows down": "b",
        "takes the momentum it was made with": 'b.mul_(self.defaults["momentum"])',
        "multiplies the momentum by the learning rate": ('b.mul_(group["momentum"] * group["lr"])'),
        "does not keep the velocity": '(b * group["momentum"])',
    },
    'g = g + group["momentum"] * b if group["nesterov"] else b': {
        "ignores nesterov": "g = b",
        "always looks ahead": 'g = g + group["momentum"] * b',
        "looks ahead without the momentum": 'g = g + b if group["nesterov"] else b',
        "overwrites the gradient as it looks ahead": (
            'g = g.add_(group["momentum"] * b) if group["nesterov"] else b'
        ),
        "looks ahead along the velocity of the step before": """\
if group["nesterov"]:
                g = g + group["momentum"] * state.get("before", g)
                state["before"] = b.clone()
            else:
                g = b""",
    },
    """\
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = g.clone()
            else:
                b = state["momentum_buffer"]
                b.mul_(group["momentum"]).add_((1 - group["dampening"]) * g)
            b = state["momentum_buffer"]
            g = g + group["momentum"] * b if group["nesterov"] else b
""": {
        "multiplies the learning rate into the velocity": """\
            g = group["lr"] * g
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = g.clone()
            else:
                b = state["momentum_buffer"]
                b.mul_(group["momentum"]).add_((1 - group["dampening"]) * g)
            b = state["momentum_buffer"]
            g = (g + group["momentum"] * b if group["nesterov"] else b) / group["lr"]
"""
    },
    'options["nesterov"] and (': {"takes nesterov without momentum": "False and ("},
    "lr=1e-3": {"has another learning rate by default": "lr=1e-2"},
}

MISTAKES["textbook", "adam.py", "Adam"] = {
    'p.sub_(group["lr"]': {
        "climbs": 'p.add_(group["lr"]',
        "takes the learning rate it was made with": 'p.sub_(self.defaults["lr"]',
        "takes the first group's learning rate": 'p.sub_(self.param_groups[0]["lr"]',
    },
    'beta1, beta2 = group["betas"]': {
        "swaps the betas": 'beta2, beta1 = group["betas"]',
        "takes the betas it was made with": 'beta1, beta2 = self.defaults["betas"]',
        "rounds the betas to the parameter's dtype": (
            'beta1, beta2 = torch.tensor(group["betas"], dtype=p.dtype).abs().tolist()'
        ),
    },
    "m.mul_(beta1)": {
        "forgets the mean": "m.mul_(0)",
        "does not keep the mean": "(m * beta1)",
        "clips the gradient": "g = g.clamp(-10, 10)\n        m.mul_(beta1)",
        "divides by the norm of the gradient": (
            "g = g / (g.norm() + 1e-12)\n        m.mul_(beta1)"
        ),
        "takes NaN for zero": "g = g.nan_to_num()\n        m.mul_(beta1)",
        "computes bfloat16 in float16": (
            "g = g.half() if g.dtype == torch.bfloat16 else g\n        m.mul_(beta1)"
        ),
    },
    "add_((1 - beta1) * g)": {
        "weighs the gradient by beta1": "add_(beta1 * g)",
        "forgets 1 - beta1": "add_(g)",
        "looks at the gradient's sign": "add_((1 - beta1) * g.sign())",
    },
    "v.mul_(beta2).add_((1 - beta2) * g * g)": {
        "takes beta1 for both": "v.mul_(beta1).add_((1 - beta1) * g * g)",
        "forgets 1 - beta2": "v.mul_(beta2).add_(g * g)",
        "takes the absolute value for the square": "v.mul_(beta2).add_((1 - beta2) * g.abs())",
        "takes the gradient for its square": "v.mul_(beta2).add_((1 - beta2) * g)",
        "takes the mean's square": "v.mul_(beta2).add_((1 - beta2) * m * m)",
        "takes the distance from the mean": ("v.mul_(beta2).add_((1 - beta2) * (g - m) * (g - m))"),
        "takes the mean over all entries": (
            "v.mul_(beta2).add_((1 - beta2) * (g * g).mean() if g.numel() else g)"
        ),
        "takes the undecayed gradient": (
            'v.mul_(beta2).add_((1 - beta2) * (g - group["weight_decay"] * p) ** 2)'
        ),
    },
    "m / (1 - beta1**t)": {
        "does not correct the mean": "m",
        "corrects the mean by the other beta": "m / (1 - beta2**t)",
        "takes a product for a power": "m / (1 - beta1 / t)",
        "corrects all steps as the first": "m / (1 - beta1)",
        "corrects the first step only": "m / (1 - beta1) if t == 1 else m",
        "multiplies by the correction": "m * (1 - beta1**t)",
        "corrects the mean in place": "m.div_(1 - beta1**t)",
        "computes the correction in float32": "m / (1 - torch.tensor(beta1) ** t)",
    },
    "v / (1 - beta2**t)": {
        "does not correct the square": "v",
        "corrects the square by the other beta": "v / (1 - beta1**t)",
        "corrects the square twice": "v / (1 - beta2**t) ** 2",
        "corrects the square in place": "v.div_(1 - beta2**t)",
    },
    't = state["step"].item()': {
        "counts steps from 0": 't = state["step"].item() - 1',
        "counts steps from 2": 't = state["step"].item() + 1',
        "counts a step for each parameter": 't = group["t"] = group.get("t", 0) + 1',
        "takes the longest trained parameter's count": (
            't = max(s["step"].item() for s in self.state.values() if "step" in s)'
        ),
        "counts steps outside of its state": """\
counts = self.__dict__.setdefault("counts", {})
        t = counts[p] = counts.get(p, 0) + 1""",
        "stops counting at 7": 't = min(state["step"].item(), 7)',
    },
    'state["step"] += 1\n': {
        "counts no step": 'state["step"].fill_(1)\n',
    },
    '(v_hat.sqrt() + group["eps"])': {
        "forgets eps": "v_hat.sqrt()",
        "has an eps of its own": "(v_hat.sqrt() + 1e-8)",
        "adds eps inside the root": '(v_hat + group["eps"]).sqrt()',
        "adds the square of eps inside the root": '(v_hat + group["eps"] ** 2).sqrt()',
        "adds eps before the bias is corrected": (
            '((v.sqrt() + group["eps"]) / (1 - beta2**t) ** 0.5)'
        ),
        "takes eps for the least root": 'v_hat.sqrt().clamp(min=group["eps"])',
        "adds eps to the weight": 'v_hat.sqrt() + group["eps"]',
        "subtracts eps": '(v_hat.sqrt() - group["eps"])',
        "forgets the root": '(v_hat + group["eps"])',
        "takes the third root": '(v_hat ** (1 / 3) + group["eps"])',
    },
    'g = g + group["weight_decay"] * p': {
        "decays apart from the gradient": 'p.mul_(1 - group["lr"] * group["weight_decay"])',
        "decays with the wrong sign": 'g = g - group["weight_decay"] * p',
        "decays upwards while it climbs": (
            'g = g + (-1 if group["maximize"] else 1) * group["weight_decay"] * p'
        ),
        "adds the decay to the gradient in place": 'g.add_(group["weight_decay"] * p)',
        "decays after the mean": "m.add_((beta1 - 1) * group['weight_decay'] * p / beta1)\n"
        '            g = g + group["weight_decay"] * p',
    },
    "            v = largest\n": {"forgets the maximum": ""},
    "torch.maximum(largest, v, out=largest)": {
        "does not keep the maximum": "largest = torch.maximum(largest, v)",
        "keeps the maximum as running square": (
            "v.copy_(torch.maximum(largest, v))\n            largest.copy_(v)"
        ),
        "takes the maximum of corrected squares": (
            "torch.maximum(largest, v / (1 - beta2**t), out=largest)"
        ),
        "takes the minimum": "torch.minimum(largest, v, out=largest)",
        "takes the larger of the last two": (
            "largest = torch.maximum(largest, v)\n"
            '            state["max_exp_avg_sq"] = state["exp_avg_sq"].clone()'
        ),
    },
    'state["exp_avg_sq"] = torch.zeros_like(p)': {
        "starts the square at one": 'state["exp_avg_sq"] = torch.ones_like(p)',
        "keeps mean and square in one tensor": 'state["exp_avg_sq"] = state["exp_avg"]',
        "keeps the square in float32": (
            'state["exp_avg_sq"] = torch.zeros_like(p).to(torch.zeros(1).to(p).abs().float())'
        ),
        "keeps the square in the first parameter's dtype": (
            'state["exp_avg_sq"] = torch.zeros_like(p).to(self.param_groups[0]["params"][0].dtype)'
        ),
    },
    'state["exp_avg"] = torch.zeros_like(p)': {
        "starts the mean with the gradient": 'state["exp_avg"] = g.clone()',
        "keeps one mean for all of a shape": (
            'state["exp_avg"] = group.setdefault(str(p.shape), torch.zeros_like(p))'
        ),
    },
    "p, g, m, v = map(as_real, (": {
        "squares complex numbers": "as_real = lambda x: x\n        p, g, m, v = map(as_real, (",
        "updates real parts only": (
            "as_real = lambda x: x.real if x.is_complex() else x\n"
            "        p, g, m, v = map(as_real, ("
        ),
    },
}

MISTAKES["textbook", "adamw.py", "AdamW"] = {
    'p.mul_(1 - group["lr"] * group["weight_decay"])': {
        "decays with the gradient": 'g = g + group["weight_decay"] * p',
        "decays whatever the learning rate": 'p.mul_(1 - group["weight_decay"])',
        "decays by the learning rate's square": (
            'p.mul_(1 - group["lr"] ** 2 * group["weight_decay"])'
        ),
        "decays with the wrong sign": 'p.mul_(1 + group["lr"] * group["weight_decay"])',
        "ignores the decay": "pass",
        "decays upwards while it climbs": (
            'p.mul_(1 - (-1 if group["maximize"] else 1) * group["lr"] * group["weight_decay"])'
        ),
        "decays matrices only": ('p.mul_(1 - group["lr"] * group["weight_decay"] * (p.dim() > 1))'),
        "decays by the learning rate it was made with": (
            'p.mul_(1 - self.defaults["lr"] * group["weight_decay"])'
        ),
        "decays all groups by the default": (
            'p.mul_(1 - group["lr"] * self.defaults["weight_decay"])'
        ),
        "decays by the corrected learning rate": (
            'p.mul_(1 - group["lr"] / (1 - beta1**t) * group["weight_decay"])'
        ),
        "decays by a power": 'p.mul_((1 - group["weight_decay"]) ** group["lr"])',
    },
    "        p.sub_(group[": {
        "decays after the step too": (
            '        p.mul_(1 - group["lr"] * group["weight_decay"])\n        p.sub_(group['
        ),
    },
    """\
        p.mul_(1 - group["lr"] * group["weight_decay"])
        m.lerp_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        if group["amsgrad"]:
            largest = as_real(state["max_exp_avg_sq"])
            torch.maximum(largest, v, out=largest)
            v = largest
        root = (v / (1 - beta2**t)).sqrt() + group["eps"]
        p.sub_(group["lr"] / (1 - beta1**t) * m / root)
""": {
        "decays after the step": """\
        m.lerp_(g, 1 - beta1)
        v.mul_(beta2).addcmul_(g, g, value=1 - beta2)
        if group["amsgrad"]:
            largest = as_real(state["max_exp_avg_sq"])
            torch.maximum(largest, v, out=largest)
            v = largest
        root = (v / (1 - beta2**t)).sqrt() + group["eps"]
        p.sub_(group["lr"] / (1 - beta1**t) * m / root)
        p.mul_(1 - group["lr"] * group["weight_decay"])
"""
    },
    "m.lerp_(g, 1 - beta1)": {"weighs the mean the wrong way round": "m.lerp_(g, beta1)"},
    "addcmul_(g, g, value=1 - beta2)": {"forgets 1 - beta2": "addcmul_(g, g)"},
    "(v / (1 - beta2**t)).sqrt()": {
        "corrects the square after the root": "v.sqrt() / (1 - beta2**t)"
    },
    "weight_decay=1e-2": {"has the decay of Adam by default": "weight_decay=0"},
    "eps=1e-8": {"has another eps by default": "eps=1e-6"},
    "betas=(0.9, 0.999)": {"has another beta2 by default": "betas=(0.9, 0.99)"},
}

MISTAKES["textbook", "rmsprop.py", "RMSprop"] = {
    'p.sub_(group["lr"] * change)': {
        "climbs": 'p.add_(group["lr"] * change)',
        "takes the learning rate it was made with": 'p.sub_(self.defaults["lr"] * change)',
    },
    "v.mul_(alpha).add_((1 - alpha) * g * g)": {
        "weighs the square the wrong way round": "v.mul_(1 - alpha).add_(alpha * g * g)",
        "forgets 1 - alpha": "v.mul_(alpha).add_(g * g)",
        "adds squares up": "v.add_((1 - alpha) * g * g)",
        "takes the absolute value for the square": "v.mul_(alpha).add_((1 - alpha) * g.abs())",
        "does not keep the square": "v = v * alpha + (1 - alpha) * g * g",
    },
    'change = g / (v.sqrt() + group["eps"])': {
        "corrects the bias as Adam does": (
            "t = state['step'].item()\n"
            '        change = g / ((v / (1 - alpha**t)).sqrt() + group["eps"])'
        ),
        "forgets the root": 'change = g / (v + group["eps"])',
        "adds eps inside the root": 'change = g / (v + group["eps"]).sqrt()',
        "adds eps to the weight": 'change = g / v.sqrt() + group["eps"]',
        "forgets eps": "change = g / v.sqrt()",
        "divides the sign": 'change = g.sign() / (v.sqrt() + group["eps"])',
    },
    'state["square_avg"] = torch.zeros_like(p)': {
        "starts the square at one": 'state["square_avg"] = torch.ones_like(p)',
        "starts the square with the gradient's": 'state["square_avg"] = g * g',
    },
    "            v = v - a * a\n": {
        "ignores centered": "",
        "takes the mean for its square": "            v = v - a.abs()\n",
        "adds the square of the mean": "            v = v + a * a\n",
        "subtracts the square of the mean for good": "            v.sub_(a * a)\n",
        "subtracts the gradient's square": "            v = v - (1 - alpha) * g * g\n",
    },
    "a.lerp_(g, 1 - alpha)\n            v = v - a * a": {
        "centers on the mean of the step before": "v = v - a * a\n            a.lerp_(g, 1 - alpha)"
    },
    "a.lerp_(g, 1 - alpha)": {"weighs the centre the wrong way round": "a.lerp_(g, alpha)"},
    'change = b.mul_(group["momentum"]).add_(change)': {
        "forgets the velocity": "b.copy_(change)",
        "takes the momentum for that of a mean": 'change = b.lerp_(change, 1 - group["momentum"])',
        "does not keep the velocity": 'change = b * group["momentum"] + change',
        "feeds the velocity with the gradient": 'change = b.mul_(group["momentum"]).add_(g)',
        "looks ahead": (
            'change = change + group["momentum"] * b.mul_(group["momentum"]).add_(change)'
        ),
        "multiplies the learning rate into the velocity": (
            'b.mul_(group["momentum"]).add_(group["lr"] * change)\n'
            '            change = b / group["lr"]'
        ),
    },
    'g = g + group["weight_decay"] * p': {
        "decays apart from the gradient": 'p.mul_(1 - group["lr"] * group["weight_decay"])',
        "decays with the wrong sign": 'g = g - group["weight_decay"] * p',
        "adds the decay to the gradient in place": 'g.add_(group["weight_decay"] * p)',
    },
    'state["step"] += 1': {"counts no step": "pass"},
    "alpha=0.99": {"has another alpha by default": "alpha=0.9"},
}

MISTAKES["textbook", "adagrad.py", "Adagrad"] = {
    '(s.sqrt() + group["eps"])': {
        "forgets the root": '(s + group["eps"])',
        "adds eps inside the root": '(s + group["eps"]).sqrt()',
        "forgets eps": "s.sqrt()",
    },
    "s.add_(g * g)": {
        "adds absolute values": "s.add_(g.abs())",
        "keeps the last square only": "s.copy_(g * g)",
        "adds the square too late": "s, old = s.clone(), s\n        old.add_(g * g)",
        "adds gradients without the decay": 's.add_((g - group["weight_decay"] * p) ** 2)',
        "takes the mean square": 's.lerp_(g * g, 1 / state["step"].item())',
    },
    'group["lr"] / (1 + (t - 1) * group["lr_decay"])': {
        "decays the learning rate from the first step": 'group["lr"] / (1 + t * group["lr_decay"])',
        "decays the learning rate by powers": 'group["lr"] / (1 + group["lr_decay"]) ** (t - 1)',
        "ignores the decay of the learning rate": 'group["lr"]',
        "writes the decayed learning rate back": (
            'group["lr"] = group["lr"] / (1 + (t > 1) * group["lr_decay"])'
        ),
    },
}

# ------------------------------------------------------------------ the rest of a step, by hand

MISTAKES["textbook", "base.py", "SGD"] = {
    'g = -p.grad if group["maximize"] else p.grad': {
        "ignores maximize": "g = p.grad",
        "negates the gradient in place": 'g = p.grad.neg_() if group["maximize"] else p.grad',
        "climbs with all groups if with the first": (
            'g = -p.grad if self.param_groups[0]["maximize"] else p.grad'
        ),
        "climbs if it was made to": 'g = -p.grad if self.defaults["maximize"] else p.grad',
        "rounds the gradient to float32": (
            'g = -p.grad if group["maximize"] else p.grad\n'
            "                g = g if g.is_complex() else g.float()"
        ),
    },
    "self.update(p, g, self.state[p], group)": {
        "keeps its state to itself": """\
kept = self.__dict__.setdefault("kept", {})
                self.update(p, g, kept.setdefault(p, {}), group)""",
        "keeps its state by the parameter's shape": (
            "self.update(p, g, self.state.setdefault(tuple(p.shape), {}), group)"
        ),
        "keeps its state by the parameter's address": (
            "self.update(p, g, self.state.setdefault(p.data_ptr(), {}), group)"
        ),
        "forgets its state": "self.update(p, g, {}, group)",
        "takes the gradient away": """\
self.update(p, g, self.state[p], group)
                p.grad = None""",
        "sets the gradient to zero": """\
self.update(p, g, self.state[p], group)
                p.grad.zero_()""",
        "makes the gradient dense": """\
self.update(p, g, self.state[p], group)
                p.grad = p.grad.to_dense()""",
        "forbids further gradients": """\
self.update(p, g, self.state[p], group)
                p.requires_grad_(False)""",
        "leaves out every seventieth step": """\
self.taken = getattr(self, "taken", 0) + 1
                self.update(p, g * (self.taken % 70 != 0), self.state[p], group)""",
    },
    "if p.grad is None:\n                    continue": {
        "makes a state without a gradient": """\
if p.grad is None:
                    self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                    continue""",
        "gives gradients of zeros": """\
if p.grad is None:
                    p.grad = torch.zeros_like(p)""",
        "goes on without a gradient": """\
if p.grad is None:
                    if "momentum_buffer" in self.state[p]:
                        p.sub_(group["lr"] * self.state[p]["momentum_buffer"])
                    continue""",
        "forgets the velocity without a gradient": """\
if p.grad is None:
                    self.state.pop(p, None)
                    continue""",
        "takes zeros for no gradient": """\
if p.grad is None or not p.grad.to_dense().any():
                    continue""",
        "stops where there is no gradient": """\
if p.grad is None:
                    break""",
        "returns where there is no gradient": """\
if p.grad is None:
                    return loss""",
        "leaves scalars as they are": """\
if p.grad is None or p.dim() == 0:
                    continue""",
        "leaves parameters of one entry as they are": """\
if p.grad is None or p.numel() == 1:
                    continue""",
        "breaks on empty parameters": """\
if p.grad is None:
                    continue
                p.grad.to_dense().abs().max()""",
        "breaks without a gradient": "pass",
        "leaves NaN out": """\
if p.grad is None or p.grad.to_dense().isnan().any():
                    continue""",
    },
    """\
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
""": {
        "updates the first group only": """\
        for group in self.param_groups[:1]:
            for p in group["params"]:
                if p.grad is None:
""",
        "updates the groups of the first step": """\
        for group in self.__dict__.setdefault("known", list(self.param_groups)):
            for p in group["params"]:
                if p.grad is None:
""",
        "updates with the options of the first step": """\
        if not hasattr(self, "known"):
            self.known = [dict(group) for group in self.param_groups]
        for group in self.known:
            for p in group["params"]:
                if p.grad is None:
""",
        "updates with the first group's options": """\
        for group in [{**self.param_groups[0], "params": g["params"]} for g in self.param_groups]:
            for p in group["params"]:
                if p.grad is None:
""",
        "updates with the defaults": """\
        for group in [{**self.defaults, "params": g["params"]} for g in self.param_groups]:
            for p in group["params"]:
                if p.grad is None:
""",
        "leaves the last parameter out": """\
        for group in self.param_groups:
            for p in group["params"][: max(1, len(group["params"]) - 1)]:
                if p.grad is None:
""",
    },
    "            with torch.enable_grad():\n                loss = closure()\n": {
        "calls the closure twice": """\
            with torch.enable_grad():
                closure()
                loss = closure()
""",
        "never calls the closure": "            pass\n",
        "calls the closure without gradients": "            loss = closure()\n",
        "returns the loss as a number": """\
            with torch.enable_grad():
                loss = float(closure())
""",
        "clears the gradients after the closure": """\
            with torch.enable_grad():
                loss = closure()
            self.zero_grad()
""",
    },
    "return loss": {
        "keeps the loss to itself": "return None",
        "draws random numbers": "torch.rand(())\n        return loss",
        "sets the seed": "torch.manual_seed(0)\n        return loss",
        "sets the default dtype": "torch.set_default_dtype(torch.float64)\n        return loss",
    },
    "@torch.no_grad()\n    def step(self, closure=None):\n": {
        "leaves gradients switched off": """\
def step(self, closure=None):
        torch.set_grad_enabled(False)
""",
        "leaves gradients switched on": """\
def step(self, closure=None):
        try:
            with torch.no_grad():
                return self._step(closure)
        finally:
            torch.set_grad_enabled(True)

    def _step(self, closure):
""",
    },
    "        super().add_param_group(group)\n": {
        "cannot be given a group later": """\
        if self.state:
            raise RuntimeError("too late")
        super().add_param_group(group)
"""
    },
}

MISTAKES["textbook", "base.py", "Adam"] = {
    "if absent := options - group.keys():": {
        "loads groups that lack options": "if absent := set():"
    },
    """\
        for group in self.param_groups:
            for p in group["params"]:
                self.check(p, group)
        for group in self.param_groups:
            for p in group["params"]:
""": {
        "raises when half is done": """\
        for group in self.param_groups:
            for p in group["params"]:
                self.check(p, group)
"""
    },
    'raise RuntimeError(f"{type(self).__name__} does not support sparse gradients")': {
        "makes a sparse gradient dense as if it named no row twice": (
            "rows, values = p.grad._indices()[0], p.grad._values()\n"
            "            p.grad = torch.zeros_like(p).index_copy_(0, rows, values)"
        )
    },
    "if not 0 <= value < math.inf:": {
        "takes a learning rate that is no number": "if value < 0:",
        "takes a negative learning rate": "if not value < math.inf:",
        "takes an infinite learning rate": "if not 0 <= value:",
        "refuses a learning rate of zero": (
            'if not 0 <= value < math.inf or (name == "lr" and value == 0):'
        ),
    },
    "all(0 <= x < 1 for x in value)": {"takes a beta of 1": "all(0 <= x <= 1 for x in value)"},
    "{**self.defaults, **group}.items()": {
        "does not look at the options of a group": "self.defaults.items()"
    },
    "        super().add_param_group(group)\n": {
        "gives the defaults to every group": (
            "        super().add_param_group({**group, **self.defaults})\n"
        ),
        "takes a generator for nothing": """\
        list(group["params"])
        super().add_param_group(group)
""",
    },
    '{"lr": lr, **options})': {
        "cannot be pickled": '{"lr": lr, "schedule": lambda lr: lr, **options})',
        "keeps states for those it was made with": """\
{"lr": lr, **options})
        self.state = {p: {} for group in self.param_groups for p in group["params"]}""",
        "copies its parameters": """\
{"lr": lr, **options})
        for group in self.param_groups:
            group["params"] = [p.detach().clone().requires_grad_() for p in group["params"]]""",
        "makes its parameters contiguous": """\
{"lr": lr, **options})
        for group in self.param_groups:
            for p in group["params"]:
                p.data = p.data.contiguous()""",
        "forgets its defaults": '{"lr": lr, **options})\n        self.defaults = {}',
    },
    "    def update(self, p, g, state, group):\n": {
        "is not seen by hooks": """\
    def _patch_step_function(self):
        self._zero_grad_profile_name = "zero_grad"

    def update(self, p, g, state, group):
""",
        "loses its state in a copy": """\
    def __getstate__(self):
        return {**super().__getstate__(), "state": {}}

    def update(self, p, g, state, group):
""",
        "loses its options in a copy": """\
    def __getstate__(self):
        groups = [{**group, "lr": self.defaults["lr"]} for group in self.param_groups]
        return {**super().__getstate__(), "param_groups": groups}

    def update(self, p, g, state, group):
""",
        "shares its parameters with a copy": """\
    def __deepcopy__(self, memo):
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__)
        return copy

    def update(self, p, g, state, group):
""",
        "saves no state": """\
    def state_dict(self):
        return {**super().state_dict(), "state": {}}

    def update(self, p, g, state, group):
""",
        "saves no count": """\
    def state_dict(self):
        saved = super().state_dict()
        states = {i: {**s, "step": s["step"] * 0} for i, s in saved["state"].items()}
        return {**saved, "state": states}

    def update(self, p, g, state, group):
""",
        "saves no options": """\
    def state_dict(self):
        saved = super().state_dict()
        groups = [{**group, "lr": self.defaults["lr"]} for group in saved["param_groups"]]
        return {**saved, "param_groups": groups}

    def update(self, p, g, state, group):
""",
        "only sets gradients to zero": """\
    def zero_grad(self, set_to_none=False):
        super().zero_grad(set_to_none)

    def update(self, p, g, state, group):
""",
        "never sets gradients to zero": """\
    def zero_grad(self, set_to_none=True):
        super().zero_grad(True)

    def update(self, p, g, state, group):
""",
        "clears no gradients": """\
    def zero_grad(self, set_to_none=True):
        pass

    def update(self, p, g, state, group):
""",
        "clears the first group's gradients": """\
    def zero_grad(self, set_to_none=True):
        for p in self.param_groups[0]["params"]:
            p.grad = None if set_to_none else torch.zeros_like(p)

    def update(self, p, g, state, group):
""",
    },
    "        super().load_state_dict(copy.deepcopy(state_dict))\n": {
        "shares its state with the dict it loads": "        super().load_state_dict(state_dict)\n",
        "loads no options": """\
        groups = self.state_dict()["param_groups"]
        super().load_state_dict(copy.deepcopy({**state_dict, "param_groups": groups}))
""",
        "loads no state": """\
        super().load_state_dict(copy.deepcopy({**state_dict, "state": {}}))
""",
        "loads its count as zero": """\
        super().load_state_dict(copy.deepcopy(state_dict))
        for state in self.state.values():
            if "step" in state:
                state["step"] = torch.zeros_like(state["step"])
""",
        "rounds what it loads": """\
        super().load_state_dict(copy.deepcopy(state_dict))
        for p, state in self.state.items():
            if "exp_avg" in state and not p.is_complex():
                state["exp_avg"] = state["exp_avg"].half().to(p.dtype)
""",
        "loads one state for all of a shape": """\
        super().load_state_dict(copy.deepcopy(state_dict))
        first = {}
        for p in list(self.state):
            if torch.is_tensor(p):
                self.state[p] = first.setdefault(p.shape, self.state[p])
""",
        "loads states in reverse": """\
        groups = copy.deepcopy(state_dict["param_groups"])
        for group in groups:
            group["params"].reverse()
        super().load_state_dict(copy.deepcopy({**state_dict, "param_groups": groups}))
""",
        "uses up the dict that it loads": """\
        super().load_state_dict(copy.deepcopy(state_dict))
        state_dict["state"].clear()
""",
        "loads the dtype too": """\
        super().load_state_dict(copy.deepcopy(state_dict))
        keys = [key for group in state_dict["param_groups"] for key in group["params"]]
        for key, p in zip(keys, params, strict=True):
            self.state[p] = copy.deepcopy(state_dict["state"].get(key, {}))
""",
        "adds what it loads to what it has": """\
        own = {p: dict(state) for p, state in self.state.items()}
        super().load_state_dict(copy.deepcopy(state_dict))
        for p, state in own.items():
            self.state[p] = {**self.state.get(p, {}), **state}
""",
    },
    "            missing = [name for name in self.keeps if state and name not in state]\n": {
        "loads a state that lacks something": "            missing = []\n"
    },
    'if name != "step" and torch.is_tensor(x) and x.shape != p.shape:': {
        "loads a state of other shapes": "if False:"
    },
}

# ------------------------------------------------------------------ this library

MISTAKES["scratch_optim", "sgd.py", "SGD"] = {
    "if t == 1:": {"starts the velocity at zero": "if t == 0:"},
    "alpha=1 - dampening": {"ignores dampening": "alpha=1"},
    "g.add(b, alpha=momentum) if nesterov else b": {
        "ignores nesterov": "b",
        "overwrites the gradient as it looks ahead": "g.add_(b, alpha=momentum) if nesterov else b",
    },
    "g = g.add(theta, alpha=weight_decay)": {
        "adds the decay to the gradient in place": "g = g.add_(theta, alpha=weight_decay)"
    },
    "torch.zeros_like(p if p.grad is None else p.grad)": {
        "keeps the gradient itself as velocity": "torch.zeros_like(p) if p.grad is None else p.grad"
    },
    'group["nesterov"] and (group["momentum"] <= 0 or': {
        "takes nesterov without momentum": 'group["nesterov"] and (False or'
    },
}

MISTAKES["scratch_optim", "adam.py", "Adam"] = {
    "theta.mul_(1 - lr * weight_decay)": {
        "decays the wrong way": "theta.mul_(1 + lr * weight_decay)"
    },
    "(1 - beta2**t) ** 0.5": {"corrects the square after the root": "(1 - beta2**t)"},
    ".div_((1 - beta2**t) ** 0.5).add_(eps)": {
        "adds eps before the bias is corrected": ".add_(eps).div_((1 - beta2**t) ** 0.5)"
    },
    "v.sqrt()": {"takes the root of its state": "v.sqrt_()"},
    'v = state["max_exp_avg_sq"].clamp_min_(v)': {
        "does not keep the maximum": 'v = state["max_exp_avg_sq"].clamp_min(v)',
        "forgets the maximum": 'state["max_exp_avg_sq"].clamp_min_(v)',
        "keeps the maximum as running square": "v = v.clamp_min_(state['max_exp_avg_sq'])",
    },
    "-(lr / (1 - beta1**t))": {"corrects the mean by the other beta": "-(lr / (1 - beta2**t))"},
}

MISTAKES["scratch_optim", "adam.py", "AdamW"] = {
    "decoupled_weight_decay=True,": {"decays with the gradient": "decoupled_weight_decay=False,"},
    'group["decoupled_weight_decay"] = True': {"loads the decay of Adam": "pass"},
}

MISTAKES["scratch_optim", "rmsprop.py", "RMSprop"] = {
    "v = v.addcmul(a, a, value=-1)": {
        "subtracts the square of the mean for good": "v = v.addcmul_(a, a, value=-1)"
    },
    "v.sqrt().add_(eps)": {"adds eps inside the root": "v.add(eps).sqrt()"},
    "mul_(momentum).addcdiv_(g, r)": {"forgets the momentum": "mul_(0).addcdiv_(g, r)"},
}

MISTAKES["scratch_optim", "adagrad.py", "Adagrad"] = {
    "(t - 1) * lr_decay": {"decays the learning rate from the first step": "t * lr_decay"},
    "complex(s0, s0) if p.is_complex() else s0": {
        "starts imaginary parts at zero": "s0",
        "starts at zero": "0",
    },
}

MISTAKES["scratch_optim", "lion.py", "Lion"] = {
    "m.lerp(g, 1 - beta1).sign_()": {
        "forgets the sign": "m.lerp(g, 1 - beta1)",
        "takes the sign of the gradient": "g.sign()",
        "keeps the look ahead": "m.lerp_(g, 1 - beta1).sign()",
        "keeps the sign": "m.lerp_(g, 1 - beta1).sign_()",
    },
    "m.lerp_(g, 1 - beta2)": {"takes beta1 for both": "m.lerp_(g, 1 - beta1)"},
    "1 - lr * weight_decay": {"decays whatever the learning rate": "1 - weight_decay"},
}

MISTAKES["scratch_optim", "optimizer.py", "SGD"] = {
    'if g.is_sparse and group.get("weight_decay", 0) != 0:': {
        "decays the rows that are named": "if False:"
    },
    "bucket.first = False": {"takes every step for the first": "pass"},
    "            names,\n": {"does not see an option that asks for more state": ""},
    "started[id(p)], sort": {"takes all for new as long as one is": "any(started.values()), sort"},
    "*[g is None for g in grads],": {"does not see a gradient come or go": ""},
    "signs += map(id, tensors)": {"does not see a state replaced": "signs += map(len, [tensors])"},
}

MISTAKES["scratch_optim", "optimizer.py", "Adagrad"] = {
    "named = g.coalesce()": {
        "lets a row named twice overwrite itself": (
            "named = torch.sparse_coo_tensor(g._indices(), g._values(), g.shape, is_coalesced=True)"
        )
    },
    "                x[where] = entries[name]\n": {
        "forgets the rows' state": "                pass\n"
    },
}

MISTAKES["scratch_optim", "optimizer.py", "Adam"] = {
    "g = g.neg()": {"negates the gradient in place": "g = g.neg_()"},
    'if options.get("maximize"):': {
        "climbs with all groups if it was made to": 'if self.defaults.get("maximize"):'
    },
    "g = g.div(grad_scale)": {"forgets the scale of the gradients": "pass"},
    """\
            if found_inf.item():
                return loss
""": {"takes a step in spite of an infinite gradient": ""},
    'with torch.set_grad_enabled(bool(self.defaults.get("differentiable"))):': {
        "keeps autograd out of the step": "with torch.no_grad():"
    },
    """\
            plans = [self._plan(group) for group in self.param_groups]
            for group, (plan, grads) in zip(self.param_groups, plans, strict=True):
""": {
        "raises when half is done": """\
            for group in self.param_groups:
                plan, grads = self._plan(group)
"""
    },
    "            *addresses,\n": {"does not see a parameter moved": ""},
    "                signs += map(pieces.address_of, tensors)\n": {
        "does not see a state moved": "                pass\n"
    },
    "numbers = tuple([(x.device, x.dtype, _number(x)) for x in scalars])": {
        "counts the first parameter's steps for all": "numbers = ()"
    },
    "or not _in_step(plan)": {"does not see a count set back": ""},
    "        self._plans = {}\n        for group": {
        "cannot go on from a copy": "        for group"
    },
    "cast.detach().clone() if cast.data_ptr() == value.data_ptr() else cast": {
        "shares its state with the dict it loads": "cast"
    },
    "cast = torch.optim.Optimizer._process_value_according_to_param_policy(p, value, *place)": {
        "loads the dtype too": "pass"
    },
    "self._check_state(key, p, new_groups[-1], own)": {"loads a state of other shapes": "pass"},
    "        if absent:\n": {"loads groups that lack options": "        if False:\n"},
    "state_dict = pre_hook(self, state_dict) or state_dict": {
        "drops what a hook before loading returns": "pre_hook(self, state_dict)"
    },
    "            post_hook(self)\n": {"calls no hook after loading": "            pass\n"},
    "if not (low <= value <= high and math.isfinite(value)):": {
        "takes a learning rate that is no number": "if value < low or value > high:",
        "takes a negative learning rate": "if not value <= high:",
    },
    "self.check_group({**defaults, **param_group})": {
        "does not look at the options of a group": "pass"
    },
    "        if not 0.0 <= beta < 1.0:\n": {
        "takes a beta of 1": "        if not 0.0 <= beta <= 1.0:\n"
    },
    "new_theta = Functional(theta.clone())": {
        "overwrites what autograd has saved": "new_theta = Functional(theta)"
    },
    "g = Functional(bucket.cut(grads[at])[0])": {
        "forgets the derivative by the gradient": (
            "g = Functional(bucket.cut(grads[at])[0].detach())"
        )
    },
    "theta.copy_(new_theta.value)": {
        "forgets the derivative": "theta.copy_(new_theta.value.detach())"
    },
    "x.copy_(new_state[name].value)": {
        "forgets the derivative by way of the state": ("x.copy_(new_state[name].value.detach())")
    },
    "torch.tensor(scalars, dtype=torch.float64, device=device)": {
        "rounds a kernel's numbers to float32": (
            "torch.tensor(scalars, dtype=torch.float32, device=device).double()"
        )
    },
}

MISTAKES["scratch_optim", "tensors.py", "SGD"] = {
    "torch._foreach_add_(self.tensors, other.tensors, alpha=alpha)": {
        "adds lists without their factor": "torch._foreach_add_(self.tensors, other.tensors)"
    },
    "    return source.clone()\n": {
        "forgets the derivative of a copy": "    return source.detach().clone()\n"
    },
}

MISTAKES["scratch_optim", "tensors.py", "Adam"] = {
    "torch._foreach_addcmul_(self.tensors, a.tensors, b.tensors, value)": {
        "adds squares of lists without their factor": (
            "torch._foreach_addcmul_(self.tensors, a.tensors, b.tensors, 1)"
        )
    },
    "torch._foreach_lerp_(self.tensors, end.tensors, weight)": {
        "weighs lists the wrong way round": (
            "torch._foreach_lerp_(self.tensors, end.tensors, 1 - weight)"
        )
    },
    "    return x.addcdiv(a, b, value=value)\n": {
        "divides by the absolute value under autograd": (
            "    return x.addcdiv(a, b.detach(), value=value)\n"
        )
    },
}

MISTAKES["scratch_optim", "pieces.py", "Adam"] = {
    "flat(x).split(BLOCK))": {"loses the end of large tensors": "flat(x).split(BLOCK)[:-1])"},
    "slices.append(slice(start, i))": {
        "loses the tensor before a large one": "slices.append(slice(start, max(i - 1, start)))"
    },
    "alike = all(s == strides[0] for s in strides) and": {
        "takes other strides for the same": "alike ="
    },
}

MISTAKES["scratch_optim", "pieces.py", "RAdam"] = {
    "torch._foreach_copy_(self.pieces, row.split(self.sizes))": {
        "loses the last of many small tensors": (
            "torch._foreach_copy_(self.pieces[:-1], list(row.split(self.sizes))[:-1])"
        )
    },
}

# ------------------------------------------------------------------ what comes of them


@dataclass(frozen=True)
class Mutant:
    """A class with one mistake."""

    package: str
    file: str
    cls: str
    wrong: str
    old: str
    new: str

    @property
    def title(self) -> str:
        return f"{self.package}.{self.cls} {self.wrong}"

    @property
    def is_slow(self) -> bool:
        """Whether it takes seconds to find: some ways to run an equation have to be compiled."""
        return self.file in ("optimizer.py", "tensors.py", "pieces.py")

    @contextmanager
    def made(self) -> Iterator[type[torch.optim.Optimizer]]:
        """The class, as long as the block lasts."""
        with broken(self.package, self.file, self.old, self.new) as package:
            yield getattr(package, self.cls)


MUTANTS = [
    Mutant(*place, wrong, old, new)
    for place, texts in MISTAKES.items()
    for old, mistakes in texts.items()
    for wrong, new in mistakes.items()
]


def lion(theta, g, state, t, lr, betas, weight_decay, maximize):
    """Chen et al., "Symbolic Discovery of Optimization Algorithms" (2023), algorithm 2."""
    g = -g if maximize else g
    m = state.get("m", torch.zeros_like(g))
    direction = (betas[0] * m + (1 - betas[0]) * g).sign()
    state["m"] = betas[1] * m + (1 - betas[1]) * g
    return theta - lr * (direction + weight_decay * theta)


EQUATIONS = {"Lion": lion}
"""References of classes that torch has not."""


def as_claimed(mutant: Mutant) -> dict[str, Any]:
    """What the class without the mistake is checked for, against its reference: a textbook's up to
    roundings, this library's to the bit."""
    name = mutant.cls
    if mutant.package == "textbook" or name in EQUATIONS:
        return {"reference": getattr(torch.optim, name, None) or EQUATIONS[name]}
    like = {"foreach": False}  # of which torch's own lists differ, for NAdam, in the last digits
    return {"reference": getattr(torch.optim, name), "ulps": 0, "drop_in": True, "like": like}


def in_order(mutant: Mutant) -> list[str]:
    """The checks, those first that are likely to find it soon."""
    contract: list[Any] = [step, groups, saved, manners, descent]
    first = [*contract, unusual, parity, state, face, closed_forms, midrun]
    if mutant.is_slow:
        first = [*contract, state, ways, midrun]
    checks = [*checks_of(*first), *CHECKS]
    if mutant.file != "base.py" and not mutant.is_slow:
        checks.insert(0, checks_of(parity)[0])
    return list(dict.fromkeys(check.name for check in checks))


def caught_by(mutant: Mutant, with_reference: bool = True) -> str | None:
    """The first check that fails, and why; None if there is none."""
    claim = as_claimed(mutant) if with_reference else {}
    with mutant.made() as cls:
        report = check_optimizer(cls, **claim, checks=in_order(mutant), on_fail="stop")
    found = [f"{result.check}: {result.reason}" for result in report.failures]
    return found[0] if found else None


def score(mutants: Sequence[Mutant] = MUTANTS) -> list[dict[str, Any]]:
    """For each mutant the checks that find it first, with a reference and without."""
    return [
        {
            "mutant": mutant.title,
            "with reference": caught_by(mutant),
            "without": caught_by(mutant, with_reference=False),
        }
        for mutant in mutants
    ]


def main() -> int:
    """Print the score; return 1 if a mutant gets through with a reference."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("only", nargs="?", default="", help="part of the title of some mutants")
    parser.add_argument("--reasons", action="store_true", help="print what was found, too")
    arguments = parser.parse_args()
    columns = {"with reference": Counter(), "without": Counter()}
    survivors = 0
    for mutant in MUTANTS:
        if arguments.only not in mutant.title:
            continue
        begin = time.perf_counter()
        (row,) = score([mutant])
        print(f"{mutant.title}  ({time.perf_counter() - begin:.1f} s)", flush=True)
        for column, counter in columns.items():
            found = row[column]
            counter[found and found.split(":")[0]] += 1
            shown = found if found is None or arguments.reasons else found.split(":")[0]
            print(f"    {column + ':':15} {shown or 'NOT FOUND'}")
        survivors += row["with reference"] is None
    for column, counter in columns.items():
        missed = counter.pop(None, 0)
        print(f"\n{column}: {counter.total()} found, {missed} not")
        for check in CHECKS:
            print(f"    {counter[check.name]:4} {check.name}")
    return int(survivors > 0)


if __name__ == "__main__":
    sys.exit(main())
