"""The optimizers of this library, what judges each, and what many tests need of them.

An optimizer is added to the suite by one more :class:`Case` in :data:`CASES`, or by a subject in
:data:`SUBJECTS` if its state has other shapes than its parameter.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import papers
import pytest
import torch
from torch import Tensor

import scratch_optim
from scratch_optim.testing import Subject
from scratch_optim.testing.compare import copied
from scratch_optim.testing.options import Options, describe
from scratch_optim.testing.subject import parameters

LOOP: Options = {"foreach": False}

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}

EAGER_WAYS: dict[str, Options] = {"loop": LOOP, "foreach": {"foreach": True}, "default": {}}


def product(**values: Iterable[Any]) -> list[Options]:
    """All combinations of the values, as dicts of options."""
    return [dict(zip(values, row, strict=True)) for row in itertools.product(*values.values())]


@dataclass(frozen=True)
class Case:
    """An optimizer whose state has the shapes of its parameters."""

    name: str
    typical: Options
    """Options that use much of the equation."""
    fused: list[Options] = field(default_factory=list)
    """Combinations whose fused kernels are compiled by the default suite."""
    torch_fused: bool = False
    """Whether torch's class has a fused kernel to compare with."""
    differentiable: dict[str, float] = field(default_factory=dict)
    """Options, with values, by which torch's step can be differentiated."""
    like: Options = field(default_factory=dict)
    """How the reference is run whatever the way of ours: as a loop, where torch's lists differ from
    torch's loop, and where torch has no such class and ours as a loop is the reference."""

    @property
    def ours(self) -> type[torch.optim.Optimizer]:
        return getattr(scratch_optim, self.name)

    @property
    def torchs(self) -> type[torch.optim.Optimizer]:
        """The class to compare with: torch's, or ours if torch has none."""
        return getattr(torch.optim, self.name, self.ours)

    @property
    def subject(self) -> Subject:
        """What the conformance kit checks: to the last bit, and as a replacement."""
        return Subject(self.ours, self.torchs, ulps=0, drop_in=True, like=self.like)

    def __repr__(self) -> str:
        return self.name


_LR: dict[str, float] = {"lr": 0.01, "weight_decay": 0.1}
_BETAS: dict[str, float] = {"beta1": 0.8, "beta2": 0.95}

SGD = Case(
    "SGD",
    {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
    fused=[
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    ],
    torch_fused=True,
    differentiable=_LR | {"lr": 0.1},
)
ADAM = Case(
    "Adam",
    {"lr": 0.01, "amsgrad": True, "weight_decay": 0.1},
    fused=[{"lr": 0.01, "amsgrad": True, "weight_decay": 0.1}, {"lr": 0.01}],
    torch_fused=True,
    differentiable=_LR | _BETAS,
)
ADAMW = Case(
    "AdamW",
    {"lr": 0.01, "amsgrad": True, "weight_decay": 0.1},
    fused=[{"lr": 0.01, "weight_decay": 0.1}],
    torch_fused=True,
    differentiable=_LR | _BETAS,
)
RMSPROP_OPTIONS = {"momentum": 0.9, "centered": True, "weight_decay": 0.1, "eps": 1e-3}
ADADELTA_OPTIONS = {"lr": 0.5, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.1}
ADAGRAD_OPTIONS = {
    "lr": 0.1,
    "lr_decay": 0.01,
    "weight_decay": 0.1,
    "initial_accumulator_value": 0.2,
}
RPROP_OPTIONS = {"lr": 0.05, "etas": (0.4, 1.5), "step_sizes": (1e-3, 0.5)}
MOMENTUM_OPTIONS = {"lr": 0.1, "weight_decay": 0.1, "nesterov": True}

CASES = [
    SGD,
    Case("RMSprop", RMSPROP_OPTIONS, [RMSPROP_OPTIONS], differentiable=_LR),
    ADAM,
    ADAMW,
    Case("Adadelta", ADADELTA_OPTIONS, [ADADELTA_OPTIONS], differentiable=_LR | {"lr": 0.5}),
    Case(
        "Adagrad",
        ADAGRAD_OPTIONS,
        [ADAGRAD_OPTIONS],
        torch_fused=True,
        differentiable=_LR | {"lr": 0.1},
        like=LOOP,
    ),
    Case(
        "Adamax",
        {"lr": 0.01, "betas": (0.8, 0.99), "weight_decay": 0.1},
        [{"lr": 0.01, "weight_decay": 0.1}],
        differentiable=_LR,
    ),
    Case(
        "NAdam",
        {"lr": 0.01, "weight_decay": 0.1, "momentum_decay": 0.01},
        [{"lr": 0.01, "weight_decay": 0.1}],
        differentiable=_LR,
        like=LOOP,
    ),
    Case(
        "RAdam",
        {"lr": 0.01, "betas": (0.8, 0.99), "weight_decay": 0.1},
        [{"lr": 0.01, "weight_decay": 0.1}],
        differentiable=_LR,
        like=LOOP,
    ),
    Case(
        "ASGD",
        {"lr": 0.1, "lambd": 0.01, "alpha": 0.6, "t0": 2, "weight_decay": 0.1},
        [{"lr": 0.1, "lambd": 0.01, "alpha": 0.6, "weight_decay": 0.1}],
        differentiable={"weight_decay": 0.1},
        like=LOOP,
    ),
    Case("Rprop", RPROP_OPTIONS, [RPROP_OPTIONS]),
    # Torch has none of the following: test_conformance.py compares them with their papers too.
    Case("Lion", {**_LR}, [{**_LR}], differentiable=_LR, like=LOOP),
    Case("Momentum", MOMENTUM_OPTIONS, [MOMENTUM_OPTIONS], differentiable=_LR, like=LOOP),
    Case(
        "LARS",
        {"lr": 2.0, "weight_decay": 0.1, "nesterov": True, "eps": 1e-3, "exclude": False},
        differentiable=_LR | {"lr": 2.0},
        like=LOOP,
    ),
    Case(
        "LAMB",
        {"lr": 0.1, "weight_decay": 0.1, "phi": (0.5, 1.5), "exclude": False},
        differentiable=_LR | {"lr": 0.1},
        like=LOOP,
    ),
]

PAPERS = {
    "LARS": papers.lars,
    "LAMB": papers.lamb,
    "Lion": papers.lion,
    "Momentum": papers.momentum,
}
"""The equations of those that torch has not."""

SUBJECTS = [
    *[case.subject for case in CASES],
    *[
        Case(name, {}, like=like).subject
        for name, like in {"Adafactor": LOOP, "Muon": LOOP, "LBFGS": {}, "SparseAdam": {}}.items()
    ],
]

each_case = pytest.mark.parametrize("case", CASES, ids=repr)
each_fused_case = pytest.mark.parametrize("case", [c for c in CASES if c.fused], ids=repr)
each_eager_way = pytest.mark.parametrize("way", EAGER_WAYS.values(), ids=EAGER_WAYS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
each_device = pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.cuda,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
            ],
        ),
    ],
)


def names(entries: Iterable[tuple[Case, Options]]) -> list[str]:
    """Ids of tests."""
    return [f"{case.name}-{describe(options)}" for case, options in entries]


def set_gradients(params: list[Any], grads: Iterable[Tensor | None]) -> None:
    for p, g in zip(params, grads, strict=True):
        p.grad = g


def trained(case: Case, rows: Iterable[list[Tensor]], **options: Any) -> torch.optim.Optimizer:
    """Ours with its typical options after steps on these gradients."""
    params = parameters()
    optimizer = case.ours(params, **case.typical | options)
    for grads in rows:
        set_gradients(params, grads)
        optimizer.step()
    return optimizer


def snapshot(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A copy of all that makes up an optimizer and its parameters, to compare later."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return copied(
        {
            "groups": [
                group | {"params": [*map(id, group["params"])]} for group in optimizer.param_groups
            ],
            "params": params,
            "grads": [p.grad for p in params],
            "state": [dict(optimizer.state.get(p, {})) for p in params],
            "states": len(optimizer.state),
            "defaults": optimizer.defaults,
        }
    )


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
