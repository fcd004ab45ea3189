"""What the suite knows of each optimizer, as data, and the tools every test of it uses.

An optimizer is added to the suite by one more :class:`Case` in :data:`CASES`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

import scratch_optim

Options = dict[str, Any]

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.cuda,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ],
    ),
]

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The integers of as many bytes."""

EAGER_WAYS: dict[str, Options] = {
    "loop": {"foreach": False},
    "foreach": {"foreach": True},
    "default": {},
}
"""The ways that must give torch's bits, as options of both libraries."""

SHAPES = ((5, 3), (4, 3, 3, 2), (7,), (), (0, 3), (33,), (1, 1))
"""Matrix, convolution, bias, scalar, nothing at all, longer than a vector register, one element."""


def product(**values: Iterable[Any]) -> list[Options]:
    """All combinations of the values, as dicts of options."""
    return [dict(zip(values, row, strict=True)) for row in itertools.product(*values.values())]


@dataclass(frozen=True)
class Case:
    """An optimizer of this library and the class of torch that it stands in for."""

    name: str
    options: list[Options]
    """Combinations that compute something different each."""
    typical: Options
    """One that uses much of the equation; what tests take that need one."""
    states: Callable[[Options], set[str]]
    """The keys of a parameter's state after a step."""
    fused: list[Options]
    """Combinations whose fused kernels are compiled by the default suite."""
    error_inputs: list[Options]
    """Options that torch refuses; here the same message is expected."""
    stricter_inputs: list[tuple[Options, str]]
    """Options that torch takes or refuses by accident, with a part of the message expected."""
    changes: list[Options]
    """Options of a group that a user may change between two steps."""
    torch_fused: bool = True
    """Whether torch's class has a fused kernel to compare with."""
    reference_way: Options = field(default_factory=dict)
    """How the reference is run whatever the way of ours: as a loop, where torch's lists differ from
    torch's loop, and where torch has no such class and ours as a loop is the reference."""
    complex_reference: Options = field(default_factory=lambda: {"foreach": True})
    """The same for complex parameters. Torch's loop adds a coupled weight decay in complex
    arithmetic where its lists do it in real; here every way does it in real."""
    starts_at_once: bool = False
    """Whether a parameter has its state before its first step."""
    moves_along: bool = True
    """Whether a gradient of zero moves the parameters after others that were not, if typical."""
    extra_arguments: Options = field(default_factory=dict)
    """Keyword-only arguments that torch's class has not, with their defaults."""
    tensor_options: list[Options] = field(default_factory=list)
    """Options as tensors, which torch takes where neither foreach nor fused is asked for."""
    differentiable: dict[str, float] = field(default_factory=dict)
    """Options, with values, by which torch's step can be differentiated."""
    sparse_error: str | None = None
    """What is said to a sparse gradient; None where it is taken."""
    older_options: tuple[str, ...] = ()
    """Options that checkpoints of older versions lack."""

    @property
    def ours(self) -> type[torch.optim.Optimizer]:
        return getattr(scratch_optim, self.name)

    @property
    def original(self) -> bool:
        """Whether torch has this class."""
        return hasattr(torch.optim, self.name)

    @property
    def torchs(self) -> type[torch.optim.Optimizer]:
        """The class to compare with: torch's, or ours if torch has none."""
        return getattr(torch.optim, self.name, self.ours)

    def skip_if_rounded_otherwise(self, dtype: torch.dtype, way: Options) -> None:
        """In half precision ATen's lists and loops round otherwise: skip what compares the two."""
        if dtype == torch.bfloat16 and way.get("foreach") and self.reference_way:
            pytest.skip("lists beside a loop in half precision")

    def __repr__(self) -> str:
        return self.name


def _adam_states(options: Options) -> set[str]:
    largest = {"max_exp_avg_sq"} if options.get("amsgrad") else set()
    return {"step", "exp_avg", "exp_avg_sq"} | largest


def _rmsprop_states(options: Options) -> set[str]:
    return (
        {"step", "square_avg"}
        | ({"momentum_buffer"} if options.get("momentum") else set())
        | ({"grad_avg"} if options.get("centered") else set())
    )


_BETAS = (torch.tensor(0.8), torch.tensor(0.99))

_COMMON_ERRORS: list[Options] = [
    {"lr": -1},
    {"lr": -1e-9},
    {"lr": torch.tensor([0.1, 0.2])},
    {"weight_decay": -0.5},
    {"fused": True, "foreach": True},
    {"fused": True, "differentiable": True},
]

_COMMON_STRICTER: list[tuple[Options, str]] = [
    ({"lr": float("nan")}, "learning rate: nan"),
    ({"lr": float("inf")}, "learning rate: inf"),
    ({"lr": torch.tensor(float("nan"))}, "nan"),
    ({"weight_decay": float("nan")}, "weight_decay value: nan"),
    ({"weight_decay": float("inf")}, "weight_decay value: inf"),
]

_ADAM_ERRORS: list[Options] = [
    *_COMMON_ERRORS,
    {"eps": -1e-8},
    {"betas": (1.0, 0.9)},
    {"betas": (-0.1, 0.9)},
    {"betas": (0.9, 1.0)},
    {"betas": (0.9, -0.1)},
    {"betas": (0.9, torch.tensor(0.99))},
    {"betas": (torch.tensor(0.9), 0.99)},
    {"betas": _BETAS, "foreach": True},
    {"lr": torch.tensor(0.1), "foreach": True},
]

_ADAM_STRICTER = [
    *_COMMON_STRICTER,
    ({"eps": float("nan")}, "epsilon value: nan"),
    ({"betas": (0.9, float("nan"))}, "beta parameter at index 1: nan"),
    ({"betas": (0.9, 0.99, 0.999)}, "betas"),
    ({"betas": (0.9,)}, "betas"),
    ({"betas": (torch.tensor([0.9, 0.8]), torch.tensor(0.99))}, "betas[0] must be 1-element"),
    ({"betas": (torch.tensor(0.9), torch.tensor([0.99, 0.9]))}, "betas[1] must be 1-element"),
]

_ADAM_CHANGES: list[Options] = [
    {"lr": 0.3},
    {"weight_decay": 0.2},
    {"weight_decay": 0},
    {"betas": (0.5, 0.6)},
    {"eps": 1e-2},
    {"maximize": True},
    {"foreach": True},
    {"foreach": False},
    {"lr": torch.tensor(0.07)},
    {"name": "tail", "lr_scale": 0.1},
]

SGD = Case(
    name="SGD",
    options=[
        *product(lr=[0.1], weight_decay=[0, 0.1], maximize=[False, True]),
        *product(
            lr=[0.1],
            momentum=[0.9],
            dampening=[0, 0.3],
            weight_decay=[0, 0.1],
            maximize=[False, True],
        ),
        *product(
            lr=[0.1],
            momentum=[0.9],
            nesterov=[True],
            weight_decay=[0, 0.1],
            maximize=[False, True],
        ),
        {"lr": 0.0, "momentum": 1.5},
        {"lr": 0.1, "dampening": 0.3},
    ],
    typical={"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
    states=lambda options: {"momentum_buffer"} if options.get("momentum") else set(),
    fused=[
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    ],
    error_inputs=[
        *_COMMON_ERRORS,
        {"momentum": -0.5},
        {"nesterov": True},
        {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
    ],
    stricter_inputs=[
        *_COMMON_STRICTER,
        ({"momentum": float("nan")}, "momentum value: nan"),
        ({"dampening": float("nan")}, "dampening value: nan"),
    ],
    changes=[
        {"lr": 0.3},
        {"weight_decay": 0.2},
        {"weight_decay": 0},
        {"momentum": 0.5},
        {"momentum": 0},
        {"dampening": 0.7},
        {"nesterov": True, "dampening": 0},
        {"maximize": True},
        {"foreach": True},
        {"foreach": False},
        {"lr": torch.tensor(0.07)},
        {"name": "tail", "lr_scale": 0.1},
    ],
    tensor_options=[
        {"lr": torch.tensor(0.1)},
        {"lr": torch.tensor([0.1])},
        {"lr": torch.tensor(0.1, dtype=torch.float64)},
    ],
    differentiable={"lr": 0.1, "weight_decay": 0.1},
    older_options=("nesterov", "maximize", "foreach", "differentiable", "fused"),
)

RMSPROP = Case(
    name="RMSprop",
    options=[
        *product(
            momentum=[0, 0.9],
            centered=[False, True],
            weight_decay=[0, 0.1],
            maximize=[False, True],
        ),
        {"alpha": 0.5, "eps": 1e-2, "lr": 0.1},
        {"alpha": 0},
        {"alpha": 1, "eps": 1},
    ],
    typical={"momentum": 0.9, "centered": True, "weight_decay": 0.1, "eps": 1e-3},
    states=_rmsprop_states,
    fused=[{"momentum": 0.9, "centered": True, "weight_decay": 0.1, "eps": 1e-3}],
    torch_fused=False,
    extra_arguments={"fused": None, "eps_inside_root": False},
    error_inputs=[
        {"lr": -1},
        {"lr": torch.tensor([0.1, 0.2])},
        {"weight_decay": -0.5},
        {"eps": -1e-8},
        {"momentum": -0.5},
        {"alpha": -0.1},
    ],
    stricter_inputs=[
        *_COMMON_STRICTER,
        ({"eps": float("nan")}, "epsilon value: nan"),
        ({"alpha": 1.5}, "alpha value: 1.5"),
        ({"alpha": float("nan")}, "alpha value: nan"),
        ({"momentum": float("nan")}, "momentum value: nan"),
        ({"fused": True, "foreach": True}, "fused"),
        ({"fused": True, "differentiable": True}, "fused"),
    ],
    changes=[
        {"lr": 0.3},
        {"weight_decay": 0.2},
        {"weight_decay": 0},
        {"alpha": 0.5},
        {"eps": 1e-2},
        {"momentum": 0.5},
        {"momentum": 0},
        {"centered": False},
        {"maximize": True},
        {"foreach": True},
        {"foreach": False},
        {"lr": torch.tensor(0.07)},
        {"name": "tail", "lr_scale": 0.1},
    ],
    tensor_options=[{"lr": torch.tensor(0.01)}, {"lr": torch.tensor([0.01])}],
    differentiable={"lr": 0.01, "weight_decay": 0.1},
    sparse_error="RMSprop does not support sparse gradients",
    older_options=(
        "momentum",
        "centered",
        "maximize",
        "foreach",
        "differentiable",
        "capturable",
    ),
)

ADAM = Case(
    name="Adam",
    options=[
        *product(lr=[0.01], amsgrad=[False, True], maximize=[False, True]),
        *product(
            lr=[0.01],
            amsgrad=[False, True],
            maximize=[False, True],
            weight_decay=[0.1],
            decoupled_weight_decay=[False, True],
        ),
        {"betas": (0.0, 0.0)},
        {"betas": (0.5, 0.6), "eps": 1e-2, "lr": 0.1},
    ],
    typical={"lr": 0.01, "amsgrad": True, "weight_decay": 0.1},
    states=_adam_states,
    fused=[{"lr": 0.01, "amsgrad": True, "weight_decay": 0.1}, {"lr": 0.01}],
    error_inputs=_ADAM_ERRORS,
    stricter_inputs=_ADAM_STRICTER,
    changes=_ADAM_CHANGES,
    tensor_options=[
        {"lr": torch.tensor(0.01)},
        {"lr": torch.tensor([0.01])},
        {"betas": _BETAS},
        {"lr": torch.tensor(0.01), "betas": _BETAS},
        {"betas": (torch.tensor([0.8]), torch.tensor([0.99]))},
    ],
    differentiable={"lr": 0.01, "weight_decay": 0.1, "beta1": 0.8, "beta2": 0.95},
    sparse_error="Adam does not support sparse gradients, please consider SparseAdam instead",
    older_options=(
        "amsgrad",
        "maximize",
        "foreach",
        "capturable",
        "differentiable",
        "decoupled_weight_decay",
        "fused",
    ),
)

ADAMW = Case(
    name="AdamW",
    options=[
        *product(lr=[0.01], amsgrad=[False, True], maximize=[False, True], weight_decay=[0, 0.1]),
        {},
    ],
    typical={"lr": 0.01, "amsgrad": True, "weight_decay": 0.1},
    states=_adam_states,
    fused=[{"lr": 0.01, "weight_decay": 0.1}],
    error_inputs=_ADAM_ERRORS,
    stricter_inputs=_ADAM_STRICTER,
    changes=_ADAM_CHANGES,
    tensor_options=[
        {"lr": torch.tensor(0.01)},
        {"lr": torch.tensor([0.01])},
        {"lr": torch.tensor(0.01), "betas": _BETAS},
    ],
    differentiable={"lr": 0.01, "weight_decay": 0.1, "beta1": 0.8, "beta2": 0.95},
    sparse_error="Adam does not support sparse gradients, please consider SparseAdam instead",
    older_options=(
        "amsgrad",
        "maximize",
        "foreach",
        "capturable",
        "differentiable",
        "decoupled_weight_decay",
        "fused",
    ),
)

_LOOP: Options = {"foreach": False}

_UNFUSED_ERRORS = [e for e in _COMMON_ERRORS if "fused" not in e]
"""Where torch's class has no ``fused``."""

_UNFUSED_STRICTER = [
    *_COMMON_STRICTER,
    ({"fused": True, "foreach": True}, "fused"),
    ({"fused": True, "differentiable": True}, "fused"),
]

_MOMENT_ERRORS: list[Options] = [
    *_UNFUSED_ERRORS,
    {"eps": -1e-8},
    {"betas": (1.0, 0.9)},
    {"betas": (-0.1, 0.9)},
    {"betas": (0.9, 1.0)},
]

_MOMENT_STRICTER = [
    *_UNFUSED_STRICTER,
    ({"eps": float("nan")}, "epsilon value: nan"),
    ({"betas": (0.9, float("nan"))}, "beta parameter at index 1: nan"),
    ({"betas": (0.9, 0.99, 0.999)}, "betas"),
]

_CHANGES: list[Options] = [
    {"lr": 0.3},
    {"weight_decay": 0.2},
    {"weight_decay": 0},
    {"maximize": True},
    {"foreach": False},
    {"lr": torch.tensor(0.07)},
    {"name": "tail", "lr_scale": 0.1},
]
"""What may change between two steps of any of them."""

_WAYS = ("maximize", "foreach", "capturable", "differentiable")

ADADELTA = Case(
    name="Adadelta",
    options=[
        *product(weight_decay=[0, 0.1], maximize=[False, True]),
        {"lr": 0.1, "rho": 0.5, "eps": 1e-2},
        {"rho": 0},
        {"rho": 1, "eps": 1},
    ],
    typical={"lr": 0.5, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.1},
    states=lambda _: {"step", "square_avg", "acc_delta"},
    fused=[{"lr": 0.5, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.1}],
    torch_fused=False,
    extra_arguments={"fused": None},
    error_inputs=[*_UNFUSED_ERRORS, {"eps": -1e-8}, {"rho": 1.1}, {"rho": -0.1}],
    stricter_inputs=[
        *_UNFUSED_STRICTER,
        ({"eps": float("nan")}, "epsilon value: nan"),
        ({"eps": float("inf")}, "epsilon value: inf"),
    ],
    changes=[*_CHANGES, {"rho": 0.5}, {"eps": 1e-2}],
    tensor_options=[{"lr": torch.tensor(0.5)}, {"lr": torch.tensor([0.5])}],
    differentiable={"lr": 0.5, "weight_decay": 0.1},
    sparse_error="Adadelta does not support sparse gradients",
    older_options=_WAYS,
)

ADAGRAD = Case(
    name="Adagrad",
    options=[
        *product(weight_decay=[0, 0.1], lr_decay=[0, 0.1], maximize=[False, True]),
        {"lr": 0.1, "eps": 1e-2, "initial_accumulator_value": 0.5},
    ],
    typical={"lr": 0.1, "lr_decay": 0.01, "weight_decay": 0.1, "initial_accumulator_value": 0.2},
    states=lambda _: {"step", "sum"},
    starts_at_once=True,
    reference_way=_LOOP,
    fused=[{"lr": 0.1, "lr_decay": 0.01, "weight_decay": 0.1, "initial_accumulator_value": 0.2}],
    error_inputs=[
        *_COMMON_ERRORS,
        {"eps": -1e-10},
        {"lr_decay": -0.5},
        {"initial_accumulator_value": -0.1},
    ],
    stricter_inputs=[
        *_COMMON_STRICTER,
        ({"eps": float("nan")}, "epsilon value: nan"),
        ({"lr_decay": float("nan")}, "lr_decay value: nan"),
        ({"initial_accumulator_value": float("inf")}, "initial_accumulator_value value: inf"),
    ],
    changes=[*_CHANGES, {"lr_decay": 0.5}, {"eps": 1e-2}],
    tensor_options=[{"lr": torch.tensor(0.1)}, {"lr": torch.tensor([0.1])}],
    differentiable={"lr": 0.1, "weight_decay": 0.1},
    older_options=("maximize", "foreach", "differentiable", "fused"),
)

ADAMAX = Case(
    name="Adamax",
    options=[
        *product(lr=[0.01], weight_decay=[0, 0.1], maximize=[False, True]),
        {"betas": (0.5, 0.6), "eps": 1e-2, "lr": 0.1},
        {"betas": (0.0, 0.0)},
    ],
    typical={"lr": 0.01, "betas": (0.8, 0.99), "weight_decay": 0.1},
    states=lambda _: {"step", "exp_avg", "exp_inf"},
    fused=[{"lr": 0.01, "weight_decay": 0.1}],
    torch_fused=False,
    extra_arguments={"fused": None},
    error_inputs=_MOMENT_ERRORS,
    stricter_inputs=_MOMENT_STRICTER,
    changes=[*_CHANGES, {"betas": (0.5, 0.6)}, {"eps": 1e-2}],
    tensor_options=[{"lr": torch.tensor(0.01)}, {"lr": torch.tensor([0.01])}],
    differentiable={"lr": 0.01, "weight_decay": 0.1},
    sparse_error="Adamax does not support sparse gradients",
    older_options=_WAYS,
)

NADAM = Case(
    name="NAdam",
    options=[
        *product(lr=[0.01], maximize=[False, True]),
        *product(lr=[0.01], weight_decay=[0.1], decoupled_weight_decay=[False, True]),
        {"betas": (0.5, 0.6), "eps": 1e-2, "lr": 0.1, "momentum_decay": 0.1},
        {"betas": (0.0, 0.0), "momentum_decay": 0},
    ],
    typical={"lr": 0.01, "weight_decay": 0.1, "momentum_decay": 0.01},
    states=lambda _: {"step", "mu_product", "exp_avg", "exp_avg_sq"},
    fused=[{"lr": 0.01, "weight_decay": 0.1}],
    torch_fused=False,
    reference_way=_LOOP,
    complex_reference=_LOOP,
    extra_arguments={"fused": None},
    error_inputs=[*_MOMENT_ERRORS, {"momentum_decay": -0.2}],
    stricter_inputs=[
        *_MOMENT_STRICTER,
        ({"momentum_decay": float("nan")}, "momentum_decay value: nan"),
    ],
    changes=[*_CHANGES, {"betas": (0.5, 0.6)}, {"momentum_decay": 0.1}],
    tensor_options=[{"lr": torch.tensor(0.01)}, {"lr": torch.tensor([0.01])}],
    differentiable={"lr": 0.01, "weight_decay": 0.1},
    sparse_error="NAdam does not support sparse gradients",
    older_options=(*_WAYS, "decoupled_weight_decay"),
)

RADAM = Case(
    name="RAdam",
    options=[
        *product(lr=[0.01], maximize=[False, True]),
        *product(lr=[0.01], weight_decay=[0.1], decoupled_weight_decay=[False, True]),
        {"betas": (0.5, 0.9), "eps": 1e-2, "lr": 0.1},
        {"betas": (0.5, 0.6)},  # rho_inf = 4: never rectified
        {"betas": (0.0, 0.0)},
    ],
    typical={"lr": 0.01, "betas": (0.8, 0.99), "weight_decay": 0.1},
    states=lambda _: {"step", "exp_avg", "exp_avg_sq"},
    fused=[{"lr": 0.01, "weight_decay": 0.1}],
    torch_fused=False,
    reference_way=_LOOP,
    complex_reference=_LOOP,
    extra_arguments={"fused": None},
    error_inputs=_MOMENT_ERRORS,
    stricter_inputs=_MOMENT_STRICTER,
    changes=[*_CHANGES, {"betas": (0.5, 0.9)}, {"eps": 1e-2}],
    tensor_options=[{"lr": torch.tensor(0.01)}, {"lr": torch.tensor([0.01])}],
    differentiable={"lr": 0.01, "weight_decay": 0.1},
    sparse_error="RAdam does not support sparse gradients",
    older_options=(*_WAYS, "decoupled_weight_decay"),
)

ASGD = Case(
    name="ASGD",
    options=[
        *product(weight_decay=[0, 0.1], maximize=[False, True]),
        {"lr": 0.1, "lambd": 0.1, "alpha": 0.5, "t0": 3},
        {"lr": 0.1, "lambd": 0, "t0": 0},
    ],
    typical={"lr": 0.1, "lambd": 0.01, "alpha": 0.6, "t0": 2, "weight_decay": 0.1},
    states=lambda _: {"step", "eta", "mu", "ax"},
    fused=[{"lr": 0.1, "lambd": 0.01, "alpha": 0.6, "weight_decay": 0.1}],
    torch_fused=False,
    reference_way=_LOOP,
    complex_reference=_LOOP,
    extra_arguments={"fused": None},
    error_inputs=[*_UNFUSED_ERRORS, {"lambd": -0.1}, {"alpha": -0.1}],
    stricter_inputs=[
        *_UNFUSED_STRICTER,
        ({"lambd": float("nan")}, "lambd value: nan"),
        ({"alpha": float("nan")}, "alpha value: nan"),
        ({"t0": float("nan")}, "t0 value: nan"),
    ],
    changes=[*_CHANGES, {"lambd": 0.1}, {"alpha": 1.0}, {"t0": 5}],
    tensor_options=[{"lr": torch.tensor(0.1)}, {"lr": torch.tensor([0.1])}],
    differentiable={"weight_decay": 0.1},
    sparse_error="ASGD does not support sparse gradients",
    older_options=_WAYS,
)

RPROP = Case(
    name="Rprop",
    options=[
        *product(maximize=[False, True]),
        {"lr": 0.1, "etas": (0.3, 1.7), "step_sizes": (1e-3, 0.2)},
    ],
    typical={"lr": 0.05, "etas": (0.4, 1.5), "step_sizes": (1e-3, 0.5)},
    states=lambda _: {"step", "prev", "step_size"},
    fused=[{"lr": 0.05, "etas": (0.4, 1.5), "step_sizes": (1e-3, 0.5)}],
    torch_fused=False,
    moves_along=False,
    complex_reference=_LOOP,
    extra_arguments={"fused": None},
    error_inputs=[
        *(e for e in _UNFUSED_ERRORS if "weight_decay" not in e),
        {"etas": (1.0, 1.2)},
        {"etas": (0.0, 1.2)},
        {"etas": (0.5, 1.0)},
    ],
    stricter_inputs=[
        *(e for e in _UNFUSED_STRICTER if "weight_decay" not in e[0]),
        ({"etas": (0.5, float("inf"))}, "eta values: 0.5, inf"),
        ({"step_sizes": (1.0, 0.5)}, "step_sizes: 1.0, 0.5"),
        ({"step_sizes": (-1.0, 0.5)}, "step_sizes: -1.0, 0.5"),
    ],
    changes=[
        *(c for c in _CHANGES if "weight_decay" not in c),
        {"etas": (0.3, 1.1)},
        {"step_sizes": (0.01, 0.02)},
    ],
    tensor_options=[{"lr": torch.tensor(0.05)}, {"lr": torch.tensor([0.05])}],
    sparse_error="Rprop does not support sparse gradients",
    older_options=_WAYS,
)

# Torch has none of the following: the reference is ours as a loop, which tests/optim/test_papers.py
# compares with the papers.

LION = Case(
    name="Lion",
    options=[
        *product(lr=[0.01], weight_decay=[0, 0.1], maximize=[False, True]),
        {"betas": (0.5, 0.6)},
    ],
    typical={"lr": 0.01, "weight_decay": 0.1},
    states=lambda _: {"exp_avg"},
    fused=[{"lr": 0.01, "weight_decay": 0.1}],
    torch_fused=False,
    reference_way=_LOOP,
    complex_reference=_LOOP,
    error_inputs=[*_COMMON_ERRORS, {"betas": (1.0, 0.9)}, {"betas": (0.9, -0.1)}],
    stricter_inputs=[*_COMMON_STRICTER, ({"betas": (0.9, 0.99, 0.999)}, "betas")],
    changes=[*_CHANGES, {"betas": (0.5, 0.6)}],
    tensor_options=[{"lr": torch.tensor(0.01)}, {"lr": torch.tensor([0.01])}],
    differentiable={"lr": 0.01, "weight_decay": 0.1},
    sparse_error="Lion does not support sparse gradients",
    older_options=("maximize", "foreach", "differentiable", "fused"),
)

MOMENTUM = Case(
    name="Momentum",
    options=[
        *product(lr=[0.1], weight_decay=[0, 0.1], maximize=[False, True]),
        *product(lr=[0.1], weight_decay=[0, 0.1], nesterov=[True]),
        {"lr": 0.1, "momentum": 0},
    ],
    typical={"lr": 0.1, "weight_decay": 0.1, "nesterov": True},
    states=lambda _: {"velocity"},
    fused=[{"lr": 0.1, "weight_decay": 0.1, "nesterov": True}],
    torch_fused=False,
    reference_way=_LOOP,
    complex_reference=_LOOP,
    error_inputs=[*_COMMON_ERRORS, {"momentum": -0.5}, {"nesterov": True, "momentum": 0}],
    stricter_inputs=[*_COMMON_STRICTER, ({"momentum": float("nan")}, "momentum value: nan")],
    changes=[*_CHANGES, {"momentum": 0.5}, {"momentum": 0}, {"nesterov": False}],
    tensor_options=[{"lr": torch.tensor(0.1)}, {"lr": torch.tensor([0.1])}],
    differentiable={"lr": 0.1, "weight_decay": 0.1},
    sparse_error="Momentum does not support sparse gradients",
    older_options=("maximize", "foreach", "differentiable", "fused"),
)

_LAYERWISE_STRICTER = [
    *(e for e in _COMMON_STRICTER if "fused" not in e[0]),
    ({"exclude": ["bias"]}, "exclude value: ['bias']"),
]

LARS = Case(
    name="LARS",
    options=[
        *product(exclude=[None, False], weight_decay=[0, 0.1], maximize=[False, True]),
        {"exclude": False, "clip": True, "lr": 0.01, "eps": 1e-2, "trust_coefficient": 0.1},
        {"exclude": True, "nesterov": True},
        {"nesterov": True, "weight_decay": 0.1},
    ],
    typical={"lr": 2.0, "weight_decay": 0.1, "nesterov": True, "eps": 1e-3, "exclude": False},
    states=lambda _: {"velocity"},
    fused=[],
    torch_fused=False,
    reference_way=_LOOP,
    complex_reference=_LOOP,
    error_inputs=[
        *(e for e in _COMMON_ERRORS if "fused" not in e),
        {"momentum": -0.5},
        {"trust_coefficient": -1.0},
        {"nesterov": True, "momentum": 0},
    ],
    stricter_inputs=_LAYERWISE_STRICTER,
    changes=[
        *_CHANGES,
        {"momentum": 0.5},
        {"trust_coefficient": 0.01},
        {"exclude": True},
        {"exclude": None},
        {"clip": True},
        {"eps": 0.1},
    ],
    tensor_options=[{"lr": torch.tensor(2.0)}, {"lr": torch.tensor([2.0])}],
    differentiable={"lr": 2.0, "weight_decay": 0.1},
    sparse_error="LARS does not support sparse gradients",
    older_options=("maximize", "foreach", "differentiable"),
)

LAMB = Case(
    name="LAMB",
    options=[
        *product(lr=[0.1], exclude=[None, False], weight_decay=[0, 0.1]),
        {"lr": 0.1, "exclude": False, "phi": (0.5, 1.5), "bias_correction": False},
        {"lr": 0.1, "betas": (0.5, 0.6), "eps": 1e-2, "maximize": True},
    ],
    typical={"lr": 0.1, "weight_decay": 0.1, "phi": (0.5, 1.5), "exclude": False},
    states=lambda _: {"step", "exp_avg", "exp_avg_sq"},
    fused=[],
    torch_fused=False,
    reference_way=_LOOP,
    complex_reference=_LOOP,
    error_inputs=[*_MOMENT_ERRORS, {"phi": (2.0, 1.0)}],
    stricter_inputs=[
        *_LAYERWISE_STRICTER,
        ({"eps": float("nan")}, "epsilon value: nan"),
        ({"phi": (float("nan"), 1.0)}, "phi bounds: nan, 1.0"),
    ],
    changes=[
        *_CHANGES,
        {"betas": (0.5, 0.6)},
        {"phi": (0.0, 0.1)},
        {"bias_correction": False},
        {"exclude": None},
    ],
    tensor_options=[{"lr": torch.tensor(0.1)}, {"lr": torch.tensor([0.1])}],
    differentiable={"lr": 0.1, "weight_decay": 0.1},
    sparse_error="LAMB does not support sparse gradients",
    older_options=_WAYS,
)

CASES = [
    SGD,
    RMSPROP,
    ADAM,
    ADAMW,
    ADADELTA,
    ADAGRAD,
    ADAMAX,
    NADAM,
    RADAM,
    ASGD,
    RPROP,
    LION,
    MOMENTUM,
    LARS,
    LAMB,
]


def describe(options: Options) -> str:
    """A name for options in the id of a test."""

    def word(key: str, value: Any) -> str:
        if isinstance(value, Tensor):
            value = f"tensor{tuple(value.shape)}"
        return key if value is True else f"{key}={value}".replace(" ", "")

    return ",".join(word(k, v) for k, v in options.items() if v is not False) or "defaults"


each_case = pytest.mark.parametrize("case", CASES, ids=repr)
each_original = pytest.mark.parametrize("case", [c for c in CASES if c.original], ids=repr)
each_fused_case = pytest.mark.parametrize("case", [c for c in CASES if c.fused], ids=repr)
each_eager_way = pytest.mark.parametrize("way", EAGER_WAYS.values(), ids=EAGER_WAYS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
each_device = pytest.mark.parametrize("device", DEVICES)


def skip_without(case: Case, *options: str) -> None:
    """Skip a test of options that an optimizer has not."""
    for option in options:
        if option not in case.ours([torch.zeros(1)]).defaults:
            pytest.skip(f"has no {option}")


def each(attribute: str, name: str | None = None) -> pytest.MarkDecorator:
    """Parametrize a test by a case and one entry of a list of its."""
    entries = [(case, entry) for case in CASES for entry in getattr(case, attribute)]

    def text(entry: Any) -> str:
        return describe(entry[0] if isinstance(entry, tuple) else entry)

    return pytest.mark.parametrize(
        ("case", name or attribute.rstrip("s")),
        entries,
        ids=[
            f"{case.name}-{entry if isinstance(entry, str) else text(entry)}"
            for case, entry in entries
        ],
    )


# ------------------------------------------------------------------ parameters and gradients


@cache
def _numbers(shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(shape, generator=generator, dtype=torch.promote_types(dtype, torch.float32)).to(
            dtype
        )
        for shape in shapes
    ]


def parameters(
    shapes: tuple[tuple[int, ...], ...] = SHAPES,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
) -> list[torch.nn.Parameter]:
    """New parameters; the same for the same arguments. 4-D ones are channels_last every other."""
    result = []
    for x in _numbers(shapes, dtype, seed):
        x = x.to(device, copy=True)
        if x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        result.append(torch.nn.Parameter(x))
    return result


@cache
def gradients(
    shapes: tuple[tuple[int, ...], ...] = SHAPES,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    steps: int = 10,
) -> list[list[Tensor]]:
    """Gradients for some steps: of magnitudes 1e-3 to 1e2, one of them zero. Not to be changed."""
    result = []
    for step in range(steps):
        # Powers of ten that come in no order, so that running means rise and fall.
        scale = 10.0 ** ((step * 7) % 6 - 3)
        rows = [
            (x * scale).to(device).reshape(x.shape)
            for x in _numbers(shapes, dtype, seed=100 + step)
        ]
        if step == 5:
            rows = [torch.zeros_like(x) for x in rows]
        result.append(rows)
    return result


def set_gradients(params: list[Any], grads: list[Tensor | None]) -> None:
    for p, g in zip(params, grads, strict=True):
        p.grad = g


class Pair:
    """The optimizer of this library and torch's on equal parameters, doing the same."""

    def __init__(
        self,
        case: Case,
        options: Options | None = None,
        shapes: tuple[tuple[int, ...], ...] = SHAPES,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> None:
        options = case.typical if options is None else options
        self.case, self.shapes, self.dtype, self.device = case, shapes, dtype, device
        self.params = [parameters(shapes, dtype, device) for _ in range(2)]
        self.optimizers = [
            kind(params, **options)
            for kind, params in zip((case.ours, case.torchs), self.params, strict=True)
        ]
        self.reference_way = case.reference_way
        self.taken = 0

    def __iter__(self) -> Iterator[tuple[torch.optim.Optimizer, list[torch.nn.Parameter]]]:
        for group in self.optimizers[1].param_groups:
            group.update(self.reference_way)
        return iter(zip(self.optimizers, self.params, strict=True))

    def step(
        self,
        steps: int = 1,
        without: Iterable[int] = (),
        laid_out: Callable[[Tensor, Tensor], Tensor] = lambda p, g: torch.empty_like(p).copy_(g),
    ) -> None:
        """Let both take steps on the same gradients; the parameters ``without`` have none.

        A gradient is what ``laid_out`` makes of it: a copy, since torch's own step() may change
        it, that lies as autograd would lay it, as its parameter.
        """
        rows = gradients(self.shapes, self.dtype, self.device)
        for _ in range(steps):
            for optimizer, params in self:
                grads = [
                    None if i in without else laid_out(p, g)
                    for i, (p, g) in enumerate(
                        zip(params, rows[self.taken % len(rows)], strict=True)
                    )
                ]
                set_gradients(params, grads)
                optimizer.step()
            self.taken += 1

    def do(self, change: Callable[[torch.optim.Optimizer, list[torch.nn.Parameter]], Any]) -> None:
        """Do the same to both."""
        for optimizer, params in self:
            change(optimizer, params)

    def check(self) -> None:
        """Parameters and states must be the same to the last bit."""
        for i, (p, q) in enumerate(zip(*self.params, strict=True)):
            assert_same_bits(p, q, f"parameter {i} {tuple(p.shape)} after {self.taken} steps")
            mine, torchs = (
                opt.state.get(x, {}) for opt, x in zip(self.optimizers, (p, q), strict=True)
            )
            assert_same_state(mine, torchs, f"parameter {i} {tuple(p.shape)} after {self.taken}")


# ------------------------------------------------------------------ comparisons


def as_bits(x: Tensor) -> Tensor:
    if x.is_complex():
        x = torch.view_as_real(x)
    return x.contiguous().view(BITS[x.element_size()])


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same bits, where a NaN is as good as another."""
    a, b = a.detach(), b.detach()
    if a.is_sparse or b.is_sparse:
        return a.is_sparse and b.is_sparse and same_bits(a.to_dense(), b.to_dense())
    if (a.dtype, a.shape, a.device) != (b.dtype, b.shape, b.device):
        return False
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    return bool(((as_bits(a) == as_bits(b)) | (a.isnan() & b.isnan())).all())


def assert_same_bits(a: Tensor, b: Tensor, what: str) -> None:
    if not same_bits(a, b):
        assert (a.dtype, a.shape) == (b.dtype, b.shape), (
            f"{what}: {a.dtype}, {a.shape} and {b.dtype}, {b.shape}"
        )
        difference = (a.detach().to_dense() - b.detach().to_dense()).abs().max()
        raise AssertionError(f"{what}: not the same bits; largest difference {difference:.3g}")


def assert_same_state(a: Any, b: Any, what: str) -> None:
    assert a.keys() == b.keys(), f"{what}: state {set(a)} and {set(b)}"
    for key, value in a.items():
        if isinstance(value, Tensor):
            assert isinstance(b[key], Tensor), f"{what}: {key} is a tensor in one only"
            assert_same_bits(value, b[key], f"{what}, state {key!r}")
        else:
            assert value == b[key], f"{what}, state {key!r}"


def epsilons(a: Tensor, b: Tensor, largest: float | None = None) -> float:
    """Largest difference of two tensors, in epsilons of their dtype at the largest value of ``b``.

    Of the largest and not of each element: a value that is the difference of two large ones has
    the error of the large ones. ``largest`` replaces it where there were larger ones before.
    """
    a, b = a.detach(), b.detach()
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    if same_bits(a, b):
        return 0.0
    unit = torch.finfo(b.dtype).eps
    if b.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
    a, b = a.double(), b.double()
    return (a - b).abs().max().item() / (unit * (largest or b.abs().max().item()))


def snapshot(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A copy of all that makes up an optimizer and its parameters, to compare later."""

    def copy(value: Any) -> Any:
        return value.detach().clone() if isinstance(value, Tensor) else value

    params = [p for group in optimizer.param_groups for p in group["params"]]
    return {
        "groups": [
            {k: copy(v) for k, v in group.items() if k != "params"}
            | {"ids": [*map(id, group["params"])]}
            for group in optimizer.param_groups
        ],
        "params": [copy(p) for p in params],
        "grads": [copy(p.grad) for p in params],
        "state": [{k: copy(v) for k, v in optimizer.state.get(p, {}).items()} for p in params],
        "states": len(optimizer.state),
        "defaults": {k: copy(v) for k, v in optimizer.defaults.items()},
    }


def assert_same(a: Any, b: Any, what: str = "snapshot") -> None:
    """Compare snapshots or parts of them, tensors by their bits."""
    assert type(a) is type(b), f"{what}: {a!r} and {b!r}"
    if isinstance(a, Tensor):
        assert_same_bits(a, b, what)
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), f"{what}: {set(a) ^ set(b)}"
        for key in a:
            assert_same(a[key], b[key], f"{what}[{key!r}]")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), what
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{what}[{i}]")
    else:
        assert a == b or (a != a and b != b), f"{what}: {a!r} and {b!r}"


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
