"""The functions compute what torch's of the same names compute, on lists that the caller keeps."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from cases import product
from torch import Tensor

from scratch_optim import functional
from scratch_optim.testing.compare import assert_same_bits, epsilons
from scratch_optim.testing.options import describe
from scratch_optim.testing.subject import gradients, parameters

if not hasattr(torch.optim, "functional"):
    pytest.skip("torch has torch.optim.functional since 2.15", allow_module_level=True)

SHAPES = ((5, 3), (4, 3), (7, 2))
"""Matrices, which every optimizer takes."""


@dataclass(frozen=True)
class Function:
    """A function of the module, and what to call it with."""

    name: str
    lists: dict[str, Callable[[Tensor], Any]]
    """State, in the order of the arguments: what it is for a parameter before the first step."""
    options: list[dict[str, Any]]
    """Combinations that compute something different each."""
    complex: bool = True
    differentiable: bool = True
    fused: bool = True
    """Whether it has these arguments, or takes such parameters."""
    complex_reference: dict[str, Any] = field(default_factory=lambda: {"foreach": True})
    """The way of torch's to compare with for complex parameters; see ``COMPLEX_LOOP`` in
    test_pieces.py."""
    class_options: dict[str, Any] = field(default_factory=dict)
    """What the class needs to start with the same state."""
    unused: dict[str, list[str]] = field(default_factory=dict)
    """Lists that are made use of under an option only."""

    @property
    def ours(self) -> Callable[..., None]:
        return getattr(functional, self.name)

    @property
    def torchs(self) -> Callable[..., None]:
        return getattr(torch.optim.functional, self.name)

    def __repr__(self) -> str:
        return self.name


zeros = torch.zeros_like


def number(value: float = 0.0) -> Callable[[Tensor], Tensor]:
    return lambda p: torch.tensor(value)


def full(value: float) -> Callable[[Tensor], Tensor]:
    return lambda p: torch.full_like(p, complex(value, value) if p.is_complex() else value)


BETAS = {"beta1": 0.9, "beta2": 0.99}
ADAM = {"exp_avgs": zeros, "exp_avg_sqs": zeros, "max_exp_avg_sqs": zeros, "state_steps": number()}
EACH_WAY = {"weight_decay": [0, 0.1], "maximize": [False, True]}

FUNCTIONS = [
    Function(
        "adadelta",
        {"square_avgs": zeros, "acc_deltas": zeros, "state_steps": number()},
        product(lr=[0.1], rho=[0.9], eps=[1e-6], **EACH_WAY),
        fused=False,
    ),
    Function(
        "adagrad",
        {"state_sums": full(0.1), "state_steps": number()},
        product(lr=[0.1], lr_decay=[0, 0.1], eps=[1e-10], **EACH_WAY),
        class_options={"initial_accumulator_value": 0.1},
    ),
    Function(
        "adam",
        ADAM,
        product(
            lr=[0.1],
            eps=[1e-8],
            amsgrad=[False, True],
            decoupled_weight_decay=[False, True],
            **{k: [v] for k, v in BETAS.items()},
            **EACH_WAY,
        ),
        unused={"amsgrad": ["max_exp_avg_sqs"]},
    ),
    Function(
        "adamw",
        ADAM,
        product(
            lr=[0.1],
            eps=[1e-8],
            amsgrad=[False, True],
            **{k: [v] for k, v in BETAS.items()},
            **EACH_WAY,
        ),
        unused={"amsgrad": ["max_exp_avg_sqs"]},
    ),
    Function(
        "adamax",
        {"exp_avgs": zeros, "exp_infs": zeros, "state_steps": number()},
        product(lr=[0.1], eps=[1e-8], **{k: [v] for k, v in BETAS.items()}, **EACH_WAY),
        fused=False,
    ),
    Function(
        "asgd",
        {"axs": zeros, "mus": number(1.0), "etas": number(0.1), "state_steps": number()},
        product(lr=[0.1], lambd=[1e-2], t0=[2], alpha=[0.75], **EACH_WAY),
        complex_reference={"foreach": False},
        fused=False,
    ),
    Function(
        "nadam",
        {
            "exp_avgs": zeros,
            "exp_avg_sqs": zeros,
            "mu_products": number(1.0),
            "state_steps": number(),
        },
        product(
            lr=[0.1],
            eps=[1e-8],
            momentum_decay=[4e-3],
            decoupled_weight_decay=[False, True],
            **{k: [v] for k, v in BETAS.items()},
            **EACH_WAY,
        ),
        complex_reference={"foreach": False},
        fused=False,
    ),
    Function(
        "radam",
        {"exp_avgs": zeros, "exp_avg_sqs": zeros, "state_steps": number()},
        product(
            lr=[0.1],
            eps=[1e-8],
            beta1=[0.9],
            # rho passes 5 within the steps of a test, and never.
            beta2=[0.99, 0.5],
            decoupled_weight_decay=[False, True],
            **EACH_WAY,
        ),
        complex_reference={"foreach": False},
        fused=False,
    ),
    Function(
        "rmsprop",
        {
            "square_avgs": zeros,
            "grad_avgs": zeros,
            "momentum_buffer_list": zeros,
            "state_steps": number(),
        },
        product(
            lr=[0.1], alpha=[0.9], eps=[1e-8], momentum=[0, 0.9], centered=[False, True], **EACH_WAY
        ),
        fused=False,
        unused={"centered": ["grad_avgs"], "momentum": ["momentum_buffer_list"]},
    ),
    Function(
        "rprop",
        {"prevs": zeros, "step_sizes": full(0.1), "state_steps": number()},
        product(
            step_size_min=[1e-6],
            step_size_max=[50],
            etaminus=[0.5],
            etaplus=[1.2],
            maximize=[False, True],
        ),
        fused=False,
        class_options={"lr": 0.1},
    ),
    Function(
        "adafactor",
        {
            "row_vars": lambda p: torch.zeros_like(p[:, :1]),
            "col_vars": lambda p: torch.zeros_like(p[:1]),
            "variances": lambda p: None,
            "state_steps": number(),
        },
        product(lr=[0.1], beta2_decay=[-0.8], eps1=[1e-7], eps2=[1e-3], d=[1.0], **EACH_WAY),
        complex=False,
        differentiable=False,
        fused=False,
    ),
    Function(
        "muon",
        {"muon_momentum_bufs": zeros},
        product(
            lr=[0.1],
            weight_decay=[0, 0.1],
            momentum=[0.9],
            nesterov=[False, True],
            ns_coefficients=[(3.4445, -4.7750, 2.0315)],
            ns_steps=[5],
            has_complex=[False],
            eps=[1e-7],
            adjust_lr_fn=[None, "match_rms_adamw"],
        ),
        complex=False,
        differentiable=False,
        fused=False,
    ),
    Function(
        "sgd",
        {"momentum_buffer_list": lambda p: None},
        [
            *product(lr=[0.1], momentum=[0, 0.9], dampening=[0.3], nesterov=[False], **EACH_WAY),
            *product(lr=[0.1], momentum=[0.9], dampening=[0], nesterov=[True], **EACH_WAY),
        ],
        differentiable=False,
        unused={"momentum": ["momentum_buffer_list"]},
    ),
]

CLASSES = {name.lower(): x for name, x in vars(functional).items() if isinstance(x, type)}

each_function = pytest.mark.parametrize("function", FUNCTIONS, ids=repr)
each_combination = pytest.mark.parametrize(
    ("function", "options"),
    [(function, options) for function in FUNCTIONS for options in function.options],
    ids=[
        f"{function.name}-{describe(options)}"
        for function in FUNCTIONS
        for options in function.options
    ],
)


class Kept:
    """What a caller of a function keeps: parameters and lists of state."""

    def __init__(self, function: Function, dtype: torch.dtype, shapes=SHAPES) -> None:
        self.function, self.shapes, self.dtype = function, shapes, dtype
        self.params = [p.detach() for p in parameters(shapes, dtype)]
        self.lists = {
            name: [start(p) for p in self.params] for name, start in function.lists.items()
        }
        self.taken = 0

    def step(self, call: Callable[..., None], **options: Any) -> None:
        if call is self.function.torchs:
            complex_way = self.function.complex_reference
            options |= complex_way if self.dtype.is_complex else {"foreach": False}
            if "has_complex" in inspect.signature(call).parameters:
                options["has_complex"] = self.dtype.is_complex
        grads = [g.clone() for g in gradients(self.shapes, self.dtype)[self.taken]]
        call(self.params, grads, *self.lists.values(), **options)
        if call is self.function.torchs:
            self.taken += 1
            return  # SGD's overwrites them
        for g, before in zip(grads, gradients(self.shapes, self.dtype)[self.taken], strict=True):
            assert_same_bits(g, before, "a gradient")
        self.taken += 1


def as_class(function: Function, options: dict[str, Any]) -> dict[str, Any]:
    """The options of the class that mean the same."""
    options = {k: v for k, v in options.items() if k != "has_complex"} | function.class_options
    for option, (first, second) in functional._PAIRS.items():
        if first in options:
            options[option] = (options.pop(first), options.pop(second))
    return options


def check(mine: Kept, torchs: Kept) -> None:
    rows = {"params": (mine.params, torchs.params)}
    rows |= {name: (mine.lists[name], torchs.lists[name]) for name in mine.lists}
    for name, (a, b) in rows.items():
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            if not isinstance(y, Tensor):
                assert x == y, name
            else:
                assert_same_bits(x, y, f"{name}[{i}] after {mine.taken} steps")


# ------------------------------------------------------------------ signatures


@pytest.mark.parametrize("name", torch.optim.functional.__all__)
def test_the_signature_is_torchs(name):
    mine, torchs = (
        [
            (p.name, p.kind, p.default)
            for p in inspect.signature(getattr(module, name)).parameters.values()
        ]
        for module in (functional, torch.optim.functional)
    )
    assert mine == torchs


def test_the_names_are_torchs():
    assert sorted(functional.__all__) == sorted(torch.optim.functional.__all__)
    for name in functional.__all__:
        assert getattr(functional, name).__module__ == "scratch_optim.functional"
        assert getattr(functional, name).__doc__


# ------------------------------------------------------------------ parity


@pytest.mark.parametrize("way", [{}, {"foreach": False}, {"foreach": True}], ids=describe)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64], ids=str)
@each_combination
def test_steps_are_torchs_to_the_last_bit(function, options, dtype, way):
    if dtype.is_complex and not function.complex:
        pytest.skip("torch's takes no complex parameters")
    if function.name == "muon" and way.get("foreach"):
        pytest.skip("torch's takes no lists; products of batches need not be those of matrices")
    mine, torchs = Kept(function, dtype), Kept(function, dtype)
    for _ in range(8):
        mine.step(function.ours, **way, **options)
        torchs.step(function.torchs, **options)
    check(mine, torchs)


@each_function
def test_half_precision_is_torchs_too(function):
    mine, torchs = (Kept(function, torch.bfloat16) for _ in range(2))
    for _ in range(8):
        mine.step(function.ours, **function.options[-1])
        torchs.step(function.torchs, **function.options[-1])
    check(mine, torchs)


@each_function
def test_a_call_can_follow_torchs_and_torchs_follow_a_call(function):
    mine, torchs = (Kept(function, torch.float32) for _ in range(2))
    for step in range(8):
        mine.step(function.ours if step % 2 else function.torchs, **function.options[-1])
        torchs.step(function.torchs, **function.options[-1])
    check(mine, torchs)


@each_function
def test_a_call_is_a_step_of_the_class(function):
    kept = Kept(function, torch.float32)
    for _ in range(3):
        kept.step(function.ours, **function.options[-1])
    params = parameters(SHAPES)
    options = as_class(function, function.options[-1])
    optimizer = CLASSES[function.name](params, **options)
    for step in range(3):
        for p, g in zip(params, gradients(SHAPES)[step], strict=True):
            p.grad = g
        optimizer.step()
    for p, q in zip(kept.params, params, strict=True):
        assert_same_bits(p, q, function.name)


# ------------------------------------------------------------------ what is kept where


@each_combination
def test_lists_of_no_use_may_be_empty(function, options):
    kept, whole = (Kept(function, torch.float32) for _ in range(2))
    for option, names in function.unused.items():
        if not options[option]:
            kept.lists |= {name: [] for name in names}
    for _ in range(3):
        kept.step(function.ours, **options)
        whole.step(function.ours, **options)
    for p, q in zip(kept.params, whole.params, strict=True):
        assert_same_bits(p, q, "a parameter")


@each_function
def test_state_stays_in_the_tensors_that_were_handed_in(function):
    kept = Kept(function, torch.float32)
    kept.step(function.ours, **function.options[-1])
    before = {name: [*values] for name, values in kept.lists.items()}
    kept.step(function.ours, **function.options[-1])
    for name, values in kept.lists.items():
        assert all(x is y for x, y in zip(values, before[name], strict=True)), name


@each_function
@pytest.mark.parametrize("left", [0, 2])
def test_a_list_of_another_length_is_refused_before_anything_changes(function, left):
    options = function.options[-1] | dict.fromkeys(function.unused, 0.5)
    for name in ("grads", *function.lists):
        kept = Kept(function, torch.float32)
        kept.step(function.ours, **options)
        grads = gradients(SHAPES)[0]
        if name == "grads":
            grads = grads[:left]
        elif left == 0 and kept.lists[name][0] is None:
            continue  # made no use of
        else:
            kept.lists[name] = kept.lists[name][:left]
        before = copy.deepcopy(kept)
        with pytest.raises(ValueError, match=f"{name} has {left} entries for 3 parameters"):
            function.ours(kept.params, grads, *kept.lists.values(), **options)
        check(kept, before)


def test_step_counts_must_be_tensors():
    for function in FUNCTIONS:
        if "state_steps" not in function.lists:
            continue
        kept = Kept(function, torch.float32)
        kept.lists["state_steps"] = [0, 0, 0]
        with pytest.raises(RuntimeError, match="must contain a list of singleton tensors"):
            kept.step(function.ours, **function.options[-1])


ADAM_FUNCTION = next(f for f in FUNCTIONS if f.name == "adam")


def test_each_parameter_has_a_step_count_and_numbers_of_its_own():
    mine, torchs = (Kept(ADAM_FUNCTION, torch.float32) for _ in range(2))
    for kept, call in ((mine, ADAM_FUNCTION.ours), (torchs, ADAM_FUNCTION.torchs)):
        kept.lists["state_steps"][1].fill_(7)
        kept.step(call, **ADAM_FUNCTION.options[-1])
        kept.step(call, **ADAM_FUNCTION.options[-1])
    check(mine, torchs)


def test_a_velocity_may_start_late():
    function = next(f for f in FUNCTIONS if f.name == "sgd")
    mine, torchs = (Kept(function, torch.float32) for _ in range(2))
    for kept, call in ((mine, function.ours), (torchs, function.torchs)):
        kept.step(call, **function.options[4])
        kept.lists["momentum_buffer_list"][1] = None
        kept.step(call, **function.options[4])
    check(mine, torchs)


# ------------------------------------------------------------------ scaling and overflow


@pytest.mark.parametrize(
    "way",
    [
        {"foreach": False},
        {"foreach": True},
        pytest.param({"fused": True}, marks=pytest.mark.slow),
    ],
    ids=describe,
)
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "adagrad"])
def test_scaled_gradients_take_the_step_of_unscaled_ones(name, way):
    function = next(f for f in FUNCTIONS if f.name == name)
    options = function.options[-1]
    scaled, plain = (Kept(function, torch.float32) for _ in range(2))
    # By a power of two, so that dividing is exact.
    scale, fine = torch.tensor(1024.0), torch.tensor(0.0)
    for step in range(3):
        grads = gradients(SHAPES)[step]
        lists = scaled.lists.values()
        rows = [g * scale for g in grads]
        function.ours(
            scaled.params, rows, *lists, **options, **way, grad_scale=scale, found_inf=fine
        )
        for row, g in zip(rows, grads, strict=True):
            assert_same_bits(row, g * scale, "a gradient")
        function.ours(plain.params, grads, *plain.lists.values(), **options, **way)
    check(scaled, plain)


@pytest.mark.parametrize(
    "way",
    [
        {"foreach": False},
        {"foreach": True},
        pytest.param({"fused": True}, marks=pytest.mark.slow),
    ],
    ids=describe,
)
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "adagrad"])
def test_an_overflow_leaves_all_as_it_was(name, way):
    function = next(f for f in FUNCTIONS if f.name == name)
    kept, before = (Kept(function, torch.float32) for _ in range(2))
    kept.step(function.ours, found_inf=torch.tensor(1.0), **way, **function.options[-1])
    check(kept, before)


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(f, marks=[] if f.name == "adam" else pytest.mark.slow, id=f.name)
        for f in FUNCTIONS
        if f.fused
    ],
)
def test_the_fused_kernel_takes_the_step_of_the_loop(function):
    mine, loop = (Kept(function, torch.float64) for _ in range(2))
    for _ in range(5):
        mine.step(function.ours, fused=True, **function.options[-1])
        loop.step(function.ours, foreach=False, **function.options[-1])
    for p, q in zip(mine.params, loop.params, strict=True):
        # The compiler contracts products and sums: a rounding or two of an operand a step.
        assert epsilons(p, q) <= 8
    for name in loop.lists:
        for x, y in zip(mine.lists[name], loop.lists[name], strict=True):
            assert epsilons(x, y) <= 8


# ------------------------------------------------------------------ autograd


@pytest.mark.parametrize("function", [f for f in FUNCTIONS if f.differentiable], ids=repr)
def test_a_step_can_be_differentiated_by_its_gradients(function):
    options = function.options[-1]

    g = gradients(SHAPES[:1], torch.float64)[1][0].clone().requires_grad_()
    start = parameters(SHAPES[:1], torch.float64)[0].detach()
    lists = [[make(start)] for make in function.lists.values()]
    p, q = start.clone(), start.clone().requires_grad_().clone()
    optimizer = CLASSES[function.name]([q], **as_class(function, options), differentiable=True)
    for factor in (1.0, 0.5):
        function.ours([p], [g * factor], *lists, differentiable=True, **options)
        q.grad = g * factor
        optimizer.step()
    # That of the class is compared with finite differences in test_differentiable.py.
    mine, classs = (torch.autograd.grad(x.sum(), g)[0] for x in (p, q))
    assert_same_bits(mine, classs, "the derivative")
    assert mine.count_nonzero() or function.name == "rprop"


# ------------------------------------------------------------------ sparse gradients


def test_sparse_adam_is_torchs_and_leaves_its_counts_as_they_are():
    options = {"eps": 1e-8, "beta1": 0.9, "beta2": 0.99, "lr": 0.1, "maximize": True}
    rows = []
    for call in (functional.sparse_adam, torch.optim.functional.sparse_adam):
        params = [p.detach() for p in parameters(SHAPES)]
        state = [[torch.zeros_like(p) for p in params] for _ in range(2)]
        counts = [1, 1, 1]
        for step in range(4):
            grads = [g.clone() for g in gradients(SHAPES)[step]]
            for g in grads:
                g[step % 2 :: 2] = 0
            counts = [step + 1] * 3
            call(params, [g.to_sparse(1) for g in grads], *state, counts, **options)
            assert counts == [step + 1] * 3
        rows.append([*params, *state[0], *state[1]])
    for x, y in zip(*rows, strict=True):
        assert_same_bits(x, y, "a parameter or its state")


@pytest.mark.parametrize("function", [f for f in FUNCTIONS if f.name == "adam"], ids=repr)
def test_a_sparse_gradient_is_refused_before_anything_changes(function):
    kept = Kept(function, torch.float32)
    before = copy.deepcopy(kept)
    grads = [*gradients(SHAPES)[0][:2], gradients(SHAPES)[0][2].to_sparse()]
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        function.ours(kept.params, grads, *kept.lists.values(), **function.options[-1])
    check(kept, before)
