"""Optimizers that torch lacks compute what their papers say.

The judge is the paper: each equation once more, in float64, on one parameter after the other,
written from the paper and not from the code (``papers.py``). A second judge is timm, where it has
the same variant.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import papers
import pytest
import torch
from cases import product, set_gradients
from torch import Tensor
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from scratch_optim.lamb import LAMB
from scratch_optim.lars import LARS
from scratch_optim.lion import Lion
from scratch_optim.momentum import Momentum
from scratch_optim.rmsprop import RMSprop
from scratch_optim.sgd import SGD
from scratch_optim.tensors import TensorList
from scratch_optim.testing.compare import assert_same_bits, epsilons
from scratch_optim.testing.options import Options, describe
from scratch_optim.testing.subject import SHAPES, gradients, parameters

STEPS = 50

EPSILONS_A_STEP = 1
"""How far a step may take a parameter from the paper's, in epsilons of its largest value so far.

A step rounds a parameter twice at most (decay and step), each time by half an epsilon. What it adds
is rounded about ten times, but is a fraction of the largest value; the errors in a velocity fade
with its momentum. 50 such steps are 1.1e-14 in float64.
"""

ZERO_PARAMETER, ZERO_GRADIENT, LATE_GRADIENT = len(SHAPES), 0, 1
"""A parameter that begins at zero, one with a gradient of zero, one whose first gradients are."""


@dataclass(frozen=True)
class Paper:
    """An optimizer of this library, its equation, and the options to compare them with."""

    ours: type[torch.optim.Optimizer]
    equation: Callable[..., Any]
    options: list[Options]
    """Combinations that compute something different each."""
    typical: Options
    """One that uses much of the equation."""
    other_group: Options
    """What a second group has otherwise; its learning rate is another one too."""
    errors: list[tuple[Options, str]]
    """Options that are refused, and with what message."""
    fused: bool = False
    """Whether there is a fused way."""
    always: Options = field(default_factory=dict)

    def __repr__(self) -> str:
        return self.ours.__name__


PAPERS = [
    Paper(
        LARS,
        papers.lars,
        options=[
            {},
            *product(
                lr=[2.0], nesterov=[False, True], exclude=[None, False, True], maximize=[False]
            ),
            *product(lr=[2.0], weight_decay=[0, 0.1], clip=[False, True], maximize=[False, True]),
            {"lr": 0.01, "trust_coefficient": 0.5, "clip": True, "eps": 0.1, "exclude": False},
            {"lr": 0.5, "momentum": 0, "weight_decay": 0, "eps": 1e-8},
        ],
        typical={"lr": 2.0, "weight_decay": 0.1, "nesterov": True, "eps": 1e-3, "exclude": False},
        other_group={"weight_decay": 0.02, "momentum": 0.5, "exclude": False},
        errors=[
            ({"trust_coefficient": -1.0}, "Invalid trust_coefficient value: -1.0"),
            ({"trust_coefficient": float("nan")}, "Invalid trust_coefficient value: nan"),
            ({"exclude": ["bias"]}, "Invalid exclude value: ['bias']"),
            ({"momentum": -0.5}, "Invalid momentum value: -0.5"),
            ({"eps": -1e-8}, "Invalid epsilon value: -1e-08"),
            ({"nesterov": True, "momentum": 0}, "Nesterov momentum requires a momentum"),
        ],
    ),
    Paper(
        LAMB,
        papers.lamb,
        options=[
            {},
            *product(
                lr=[0.1],
                bias_correction=[False, True],
                exclude=[None, False, True],
                maximize=[False, True],
            ),
            {"lr": 0.1, "weight_decay": 0},
            {"lr": 0.1, "phi": (0.5, 1.5), "exclude": False},
            {"lr": 0.1, "phi": (0.0, 0.1), "betas": (0.5, 0.6), "eps": 1e-2},
            {"lr": 0.1, "betas": (0.0, 0.0), "weight_decay": 0.5},
        ],
        typical={"lr": 0.1, "weight_decay": 0.1, "phi": (0.5, 1.5), "exclude": False},
        other_group={"weight_decay": 0.3, "betas": (0.7, 0.8), "exclude": False},
        errors=[
            ({"phi": (2.0, 1.0)}, "Invalid phi bounds: 2.0, 1.0"),
            ({"phi": (-1.0, 1.0)}, "Invalid phi bounds: -1.0, 1.0"),
            ({"phi": (float("nan"), 1.0)}, "Invalid phi bounds: nan, 1.0"),
            ({"exclude": "bias"}, "Invalid exclude value: 'bias'"),
            ({"betas": (0.9, 1.0)}, "Invalid beta parameter at index 1: 1.0"),
            ({"eps": -1e-8}, "Invalid epsilon value: -1e-08"),
        ],
    ),
    Paper(
        Lion,
        papers.lion,
        options=[
            {},
            *product(lr=[0.01], weight_decay=[0, 0.1], maximize=[False, True]),
            {"lr": 0.01, "betas": (0.5, 0.6)},
            {"lr": 0.01, "betas": (0.95, 0.4), "weight_decay": 1.0},
            {"lr": 0.01, "betas": (0.0, 0.0)},
        ],
        typical={"lr": 0.01, "weight_decay": 0.1},
        other_group={"weight_decay": 0.3, "betas": (0.7, 0.8)},
        errors=[
            ({"betas": (1.0, 0.9)}, "Invalid beta parameter at index 0: 1.0"),
            ({"betas": (0.9, 0.99, 0.999)}, "betas must be two numbers, but got 3"),
            ({"fused": True, "foreach": True}, "`fused` and `foreach` cannot be `True` together."),
        ],
        fused=True,
    ),
    Paper(
        Momentum,
        papers.momentum,
        options=[
            {},
            *product(
                lr=[0.1], weight_decay=[0, 0.1], nesterov=[False, True], maximize=[False, True]
            ),
            {"momentum": 0},
            {"momentum": 0.99, "nesterov": True},
        ],
        typical={"lr": 0.1, "weight_decay": 0.1, "nesterov": True},
        other_group={"weight_decay": 0.3, "momentum": 0.5},
        errors=[
            ({"momentum": -0.5}, "Invalid momentum value: -0.5"),
            ({"nesterov": True, "momentum": 0}, "Nesterov momentum requires a momentum"),
            ({"fused": True, "differentiable": True}, "`fused` does not support `differentiable`"),
        ],
        fused=True,
    ),
    Paper(
        RMSprop,
        papers.rmsprop_with_eps_inside,
        options=[
            *product(
                momentum=[0, 0.9], centered=[False, True], weight_decay=[0, 0.1], eps=[1e-8, 1e-2]
            ),
            {"alpha": 0.5, "eps": 1.0, "maximize": True},
        ],
        typical={"momentum": 0.9, "centered": True, "weight_decay": 0.1, "eps": 1e-3},
        other_group={"alpha": 0.9, "eps": 0.1, "weight_decay": 0.01},
        errors=[({"eps": -1e-8}, "Invalid epsilon value: -1e-08")],
        fused=True,
        always={"eps_inside_root": True},
    ),
]
COMBINATIONS = [(paper, options) for paper in PAPERS for options in paper.options]

each_paper = pytest.mark.parametrize("paper", PAPERS, ids=repr)
each_combination = pytest.mark.parametrize(
    ("paper", "options"), COMBINATIONS, ids=[f"{p}-{describe(o)}" for p, o in COMBINATIONS]
)
each_precise_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def numbers(dtype: torch.dtype) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Parameters and gradients, exactly the same numbers in float32 and float64."""
    shapes = (*SHAPES, (4, 2))
    thetas = [p.detach().to(dtype) for p in parameters(shapes)]
    thetas[ZERO_PARAMETER].zero_()
    rows = [[g.to(dtype) for g in row] for row in gradients(shapes, steps=STEPS)]
    for step, row in enumerate(rows):
        row[ZERO_GRADIENT].zero_()
        if step < 3:
            row[LATE_GRADIENT].zero_()
    return thetas, rows


def trained(
    paper: Paper, options: Options, dtype: torch.dtype = torch.float64
) -> tuple[list[Tensor], torch.optim.Optimizer]:
    """Parameters after STEPS steps, in two groups, with a learning rate that falls on the way."""
    thetas, rows = numbers(dtype)
    if options.get("differentiable"):
        thetas = [theta.requires_grad_().clone() for theta in thetas]
    default_lr = paper.ours(thetas, **paper.always, **options).defaults["lr"]
    optimizer = paper.ours(
        [
            {"params": thetas[::2]},
            {"params": thetas[1::2], "lr": default_lr / 4, **paper.other_group},
        ],
        **paper.always,
        **options,
    )
    for step, row in enumerate(rows):
        if step == STEPS // 2:
            for group in optimizer.param_groups:
                group["lr"] /= 8
        set_gradients(thetas, [g.clone() for g in row])
        optimizer.step()
    return thetas, optimizer


def by_the_paper(paper: Paper, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The way of each parameter, one row for each step, as the paper's equation takes it."""
    thetas, rows = numbers(torch.float64)
    ways = []
    for i, theta in enumerate(thetas):
        group = optimizer.param_groups[i % 2]  # its learning rate is the one of the second half
        state: dict[str, Any] = {}
        way = []
        for step, row in enumerate(rows):
            lr = group["lr"] * (8 if step < STEPS // 2 else 1)
            theta = paper.equation(theta, row[i], state, step + 1, **group | {"lr": lr})
            way.append(theta)
        ways.append(torch.stack(way))
    return ways


# ------------------------------------------------------------------ the judge


@each_precise_dtype
@each_combination
def test_fifty_steps_are_those_of_the_paper(paper, options, dtype):
    thetas, optimizer = trained(paper, options, dtype)
    for theta, way in zip(thetas, by_the_paper(paper, optimizer), strict=True):
        expected = way[-1].to(dtype)
        assert theta.isfinite().all()
        largest = way.abs().max().item() if way.numel() else 1.0
        assert epsilons(theta, expected, largest) <= EPSILONS_A_STEP * STEPS, tuple(theta.shape)


@each_precise_dtype
@each_combination
def test_lists_give_the_bits_of_the_loop(paper, options, dtype):
    loop, lists = (
        trained(paper, {**options, "foreach": foreach}, dtype)[0] for foreach in (False, True)
    )
    for p, q in zip(loop, lists, strict=True):
        assert_same_bits(q, p, str(tuple(p.shape)))


@each_paper
def test_lists_of_tensors_larger_than_a_block_give_the_bits_of_the_loop(paper):
    """A norm is of a whole parameter, so those of LARS and LAMB must not be cut."""
    shapes = ((600, 1000), (5,), (3, 3), (700, 900), (2, 300, 4))
    results = []
    for foreach in (False, True):
        params = parameters(shapes)
        optimizer = paper.ours(params, foreach=foreach, **paper.always, **paper.typical)
        for grads in gradients(shapes, steps=2):
            set_gradients(params, [g.clone() for g in grads])
            optimizer.step()
        results.append(params)
    for p, q in zip(*results, strict=True):
        assert_same_bits(q, p, str(tuple(p.shape)))


@each_combination
def test_a_differentiable_step_equals_the_loop(paper, options):
    loop, differentiable = (
        trained(paper, {**options, **way})[0]
        for way in ({"foreach": False}, {"differentiable": True})
    )
    for p, q in zip(loop, differentiable, strict=True):
        assert epsilons(q, p) <= EPSILONS_A_STEP * STEPS, tuple(p.shape)


@pytest.mark.slow
@pytest.mark.parametrize("paper", [p for p in PAPERS if p.fused], ids=repr)
def test_the_fused_step_is_that_of_the_paper(paper):
    thetas, optimizer = trained(paper, {**paper.typical, "fused": True}, torch.float32)
    for theta, way in zip(thetas, by_the_paper(paper, optimizer), strict=True):
        expected = way[-1].float()
        largest = way.abs().max().item() if way.numel() else 1.0
        assert epsilons(theta, expected, largest) <= EPSILONS_A_STEP * STEPS, tuple(theta.shape)


@each_paper
def test_a_complex_parameter_is_updated_as_a_real_one_with_a_last_dimension_of_2(paper):
    # Told whom to exclude: a complex vector is a vector, though its real form is a matrix.
    exclude = {"exclude": False} if "exclude" in paper.typical else {}
    options = {**paper.always, **paper.typical, **exclude}
    shapes = ((4, 3), (5,), ())
    numbers = parameters(shapes, torch.complex64), parameters(shapes, torch.complex64)
    complexes = numbers[0]
    reals = [torch.view_as_real(p.detach()).clone() for p in numbers[1]]
    optimizers = [paper.ours(params, **options) for params in (complexes, reals)]
    for grads in gradients(shapes, torch.complex64):
        set_gradients(complexes, [g.clone() for g in grads])
        set_gradients(reals, [torch.view_as_real(g).clone() for g in grads])
        for optimizer in optimizers:
            optimizer.step()
    for p, q in zip(complexes, reals, strict=True):
        assert_same_bits(torch.view_as_real(p), q, str(tuple(p.shape)))


@pytest.mark.parametrize("ours", [LARS, LAMB])
def test_a_complex_vector_is_excluded_as_a_real_one_is(ours):
    results = []
    for exclude in (None, True):
        params = parameters(((5,), ()), torch.complex64)
        optimizer = ours(params, lr=0.1, exclude=exclude)
        for grads in gradients(((5,), ()), torch.complex64):
            set_gradients(params, [g.clone() for g in grads])
            optimizer.step()
        results.append(params)
    for p, q in zip(*results, strict=True):
        assert_same_bits(p, q, str(tuple(p.shape)))


@pytest.mark.parametrize("exclude", [None, False, True])
def test_a_step_count_on_the_device_gives_lamb_the_same_step(exclude):
    """As under ``capturable``: t is a 0-dim float64 tensor and every operand a list."""
    optimizer = LAMB(parameters(), lr=0.1, exclude=exclude, phi=(0.5, 1.5))
    options = {**optimizer.param_groups[0], "kind": False}
    results = []
    for count in (float, lambda t: torch.tensor(t, dtype=torch.float64)):
        theta = TensorList([p.detach() for p in parameters()])
        state = {k: theta.mul(0) for k in ("exp_avg", "exp_avg_sq")}
        for t, grads in enumerate(gradients(), start=1):
            LAMB.update(theta, TensorList(grads), state, count(t), **options)
        results.append(theta.tensors)
    for p, q in zip(*results, strict=True):
        assert epsilons(q, p) <= EPSILONS_A_STEP * 10, tuple(p.shape)


# ------------------------------------------------------------------ what follows from the papers


class NoLook(TorchDispatchMode):
    """Fails where a number is read from a tensor, for which a GPU would have to be waited for."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func is not torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("wrap", [TensorList, lambda tensors: tensors[0]], ids=["lists", "loop"])
@each_paper
def test_no_number_is_read_from_a_tensor_in_a_step(paper, wrap):
    params = [p.detach() for p in parameters()]
    optimizer = paper.ours(params, **paper.always, **paper.typical)
    group = optimizer.param_groups[0]
    state = {
        name: wrap([torch.zeros_like(p) for p in params])
        for name in optimizer.state_names(group, params[0])
    }
    with NoLook():
        paper.ours.update(wrap(params), wrap(gradients()[0]), state, 1.0, **group, kind=False)


@pytest.mark.parametrize(
    ("ours", "options"),
    [
        (LARS, {"eps": 0.0, "weight_decay": 0, "lr": 3.0}),
        (LAMB, {"eps": 0.0, "weight_decay": 0, "lr": 0.1}),
    ],
)
def test_a_layer_wise_step_does_not_depend_on_the_scale_of_the_gradients(ours, options):
    """To the bit, since the scale is a power of two."""
    shapes = ((5, 3), (4, 3, 3, 2))
    results = []
    for scale in (1.0, 2.0**-9, 2.0**11):
        params = parameters(shapes)
        optimizer = ours(params, **options)
        for grads in gradients(shapes)[:5]:
            set_gradients(params, [g * scale for g in grads])
            optimizer.step()
        results.append(params)
    for i, p in enumerate(results[0]):
        assert not torch.equal(p, parameters(shapes)[i])
        assert_same_bits(results[1][i], p, "gradients divided by 512")
        assert_same_bits(results[2][i], p, "gradients times 2048")


@pytest.mark.parametrize(
    ("ours", "options", "length"),
    [
        (LARS, {"lr": 2.0, "weight_decay": 0, "trust_coefficient": 0.01}, lambda norm: 0.02 * norm),
        (LARS, {"lr": 0.01, "clip": True, "trust_coefficient": 1.0}, None),
        (LAMB, {"lr": 0.1}, lambda norm: 0.1 * norm),
        (LAMB, {"lr": 0.1, "phi": (0.0, 0.5)}, lambda norm: 0.1 * 0.5),
        (LAMB, {"lr": 0.1, "phi": (1e3, 1e4)}, lambda norm: 0.1 * 1e3),
    ],
)
def test_a_layer_wise_step_is_as_long_as_the_paper_says(ours, options, length):
    """To the error of two norms of 72 numbers, a difference and few products: 1e-12 in float64."""
    shapes = ((5, 3), (4, 3, 3, 2))
    thetas = parameters(shapes, torch.float64)
    for theta, g in zip(thetas, gradients(shapes, torch.float64)[0], strict=True):
        before = theta.detach().clone()
        theta.grad = g
        ours([theta], **options).step()
        moved = (theta - before).norm().item()
        if length is None:  # no layer learns faster than lr, and this one would
            expected = options["lr"] * (g + 5e-4 * before).norm().item()
        else:
            expected = length(before.norm().item())
        assert moved == pytest.approx(expected, rel=1e-12)


def test_every_entry_moves_by_the_learning_rate_in_a_step_of_lion():
    """Exactly: the learning rate is a power of two, and the entries begin as multiples of it."""
    lr = 2.0**-7
    theta = torch.zeros(200)
    optimizer = Lion([theta], lr=lr)
    for (g,) in gradients(((200,),)):
        before = theta.clone()
        theta.grad = g.clone()
        optimizer.step()
        assert ((theta - before).abs() == lr).all()


@each_paper
def test_a_quadratic_is_descended(paper):
    """f = theta^T A theta / 2 with A of condition 100, to a thousandth and less."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64)).Q
    a = basis * torch.logspace(0, -2, 8, dtype=torch.float64) @ basis.T
    theta = torch.randn(8, 2, generator=generator, dtype=torch.float64)
    lr = {"LARS": 20.0, "LAMB": 0.03, "Lion": 0.01, "Momentum": 0.1, "RMSprop": 0.01}[str(paper)]
    optimizer = paper.ours([theta], lr=lr, weight_decay=0, **paper.always)

    def loss() -> float:
        return 0.5 * (theta * (a @ theta)).sum().item()

    start = loss()
    for _ in range(500):
        theta.grad = a @ theta
        optimizer.step()
    assert loss() < start / 1000


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_takes_sgds_steps_while_the_learning_rate_is_constant(nesterov):
    params = [parameters(dtype=torch.float64) for _ in range(2)]
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "nesterov": nesterov}
    optimizers = [kind(p, **options) for kind, p in zip((Momentum, SGD), params, strict=True)]
    largest = 0.0
    for step in range(STEPS):
        for optimizer, mine in zip(optimizers, params, strict=True):
            set_gradients(mine, [g.clone() for g in gradients(dtype=torch.float64)[step % 10]])
            optimizer.step()
        largest = max(largest, *[p.abs().max().item() for p in params[1] if p.numel()])
    for p, q in zip(*params, strict=True):
        assert epsilons(p, q, largest) <= EPSILONS_A_STEP * STEPS


def test_momentum_and_sgd_part_when_the_learning_rate_changes():
    """Two steps by hand: what is under way keeps the old rate in one, takes the new in the other.

    The gradient is 1 both times, the rate 1 and then 1/2, momentum 1/2: exact numbers.
    """
    moved = {}
    for kind in (Momentum, SGD):
        theta = torch.zeros(())
        theta.grad = torch.ones(())
        optimizer = kind([theta], lr=1.0, momentum=0.5)
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 0.5
        optimizer.step()
        moved[kind] = -theta.item()
    assert moved == {Momentum: 1 + (0.5 * 1 + 0.5), SGD: 1 + 0.5 * (0.5 + 1)}


# ------------------------------------------------------------------ derivatives


@each_combination
def test_derivatives_by_the_parameters_are_right(paper, options):
    # eps 1e-3: the derivative of a root is to be seen by a finite difference.
    options = {**paper.always, **options}
    if "eps" in paper.ours([torch.ones(1)]).defaults:
        options["eps"] = 1e-3

    def result(p0: Tensor) -> Tensor:
        p = p0.clone()
        optimizer = paper.ours([p], **options, differentiable=True)
        for _ in range(3):
            q = p.clone()  # the step changes p in place, so the loss must have saved something else
            loss = (q.sin() * q + 0.5 * q**2).sum()
            (p.grad,) = torch.autograd.grad(loss, p, create_graph=True)
            optimizer.step()
        return p

    p0 = torch.tensor([[0.7, -1.3], [0.4, 2.1]], dtype=torch.float64, requires_grad=True)
    assert gradcheck(result, (p0,))


@pytest.mark.parametrize("zero", ["parameter", "gradient", "both"])
@pytest.mark.parametrize("ours", [LARS, LAMB])
def test_a_norm_of_zero_gives_no_nan_in_a_derivative(ours, zero):
    p0 = torch.zeros(2, 2) if zero != "gradient" else torch.ones(2, 2)
    p0.requires_grad_()
    p = p0.clone()
    optimizer = ours([p], weight_decay=0, differentiable=True)
    p.grad = torch.ones(2, 2) if zero == "parameter" else torch.zeros(2, 2)
    optimizer.step()
    (derivative,) = torch.autograd.grad(p.sum(), p0)
    assert derivative.isfinite().all()


# ------------------------------------------------------------------ options and state


ERRORS = [
    (paper, options, message)
    for paper in PAPERS
    for options, message in (
        *paper.errors,
        ({"lr": -1.0}, "Invalid learning rate: -1.0"),
        ({"weight_decay": -0.5}, "Invalid weight_decay value: -0.5"),
    )
]


@pytest.mark.parametrize(
    ("paper", "options", "message"), ERRORS, ids=[f"{p}-{describe(o)}" for p, o, _ in ERRORS]
)
def test_a_bad_option_is_refused_with_its_value(paper, options, message):
    with pytest.raises((ValueError, RuntimeError)) as caught:
        paper.ours(parameters(), **options)
    assert message in str(caught.value)


@each_paper
def test_a_sparse_gradient_is_refused(paper):
    theta = torch.zeros(6, 3)
    theta.grad = torch.eye(6, 3).to_sparse()
    with pytest.raises(RuntimeError) as caught:
        paper.ours([theta]).step()
    assert str(caught.value) == f"{paper} does not support sparse gradients"


@pytest.mark.parametrize("ours", [LARS, LAMB])
def test_exclusion_can_be_changed_between_two_steps(ours):
    """A matrix excluded from the second step on, a vector not excluded from then on."""
    options = {"lr": 0.1, "weight_decay": 0.1}
    theta, other = (parameters(((5, 3),))[0] for _ in range(2))
    optimizers = [ours([theta], **options), ours([other], **options)]
    for step, (g,) in enumerate(gradients(((5, 3),))[:4]):
        for p, optimizer in zip((theta, other), optimizers, strict=True):
            p.grad = g.clone()
            if step == 2 and p is theta:
                optimizer.param_groups[0]["exclude"] = True
            if step == 2 and p is other:  # the same by a new optimizer that takes over the state
                state = optimizer.state_dict()
                optimizer = ours([other], **options, exclude=True)
                state["param_groups"][0]["exclude"] = True
                optimizer.load_state_dict(state)
                optimizers[1] = optimizer
            optimizer.step()
    assert_same_bits(theta, other, "after the exclusion")
    assert optimizers[0].param_groups[0]["exclude"] is True


@each_paper
def test_training_goes_on_from_a_checkpoint_as_if_nothing_had_been(paper):
    options = {**paper.always, **paper.typical}
    params, copies = parameters(), parameters()
    optimizer, again = paper.ours(params, **options), paper.ours(copies, **options)
    for step, grads in enumerate(gradients()):
        set_gradients(params, [g.clone() for g in grads])
        optimizer.step()
        if step == 4:
            for p, q in zip(params, copies, strict=True):
                q.data.copy_(p)
            again.load_state_dict(optimizer.state_dict())
        if step > 4:
            set_gradients(copies, [g.clone() for g in grads])
            again.step()
    for p, q in zip(params, copies, strict=True):
        assert_same_bits(q, p, str(tuple(p.shape)))


def test_rmsprop_trades_state_dicts_with_torch_in_both_directions():
    params = parameters()
    options = {"momentum": 0.9, "centered": True}
    ours, torchs = RMSprop(params, **options), torch.optim.RMSprop(parameters(), **options)
    set_gradients(params, gradients()[0])
    ours.step()
    torchs.load_state_dict(ours.state_dict())
    inside = RMSprop(params, **options, eps_inside_root=True)
    inside.load_state_dict(torch.optim.RMSprop(params, **options).state_dict())
    assert inside.param_groups[0]["eps_inside_root"] is False
    inside.load_state_dict(ours.state_dict())
    assert inside.param_groups[0]["eps_inside_root"] is False
    assert torchs.state_dict()["state"].keys() == ours.state_dict()["state"].keys()


# ------------------------------------------------------------------ timm, the second judge

_WITHOUT_TIMM = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None,
    reason="compares with timm.optim, and timm is not installed (pip install timm)",
)

_ALL = {"exclude": False}
_NONE = {"exclude": True}

TIMM: list[tuple[type[torch.optim.Optimizer], str, Options, Options, Options]] = [
    # ours, timm's, options of both, of ours, of timm's
    *[
        (LARS, "Lars", both, _ALL, {"always_adapt": True, "eps": 0.0})
        for both in product(lr=[0.5], momentum=[0, 0.9], weight_decay=[0, 0.1], nesterov=[False])
        + product(lr=[0.5], momentum=[0.9], weight_decay=[0, 0.1], nesterov=[True])
    ],
    (LARS, "Lars", {"lr": 0.5, "momentum": 0.9, "eps": 1e-2, "weight_decay": 0.1}, _ALL, {}),
    (
        LARS,
        "Lars",
        {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1},
        {**_ALL, "clip": True, "trust_coefficient": 0.5},
        {"eps": 0.0, "trust_clip": True, "trust_coeff": 0.5},
    ),
    (LARS, "Lars", {"lr": 0.01, "momentum": 0.9, "weight_decay": 0}, _NONE, {}),
    *[
        (LAMB, "Lamb", both, _ALL, {"always_adapt": True, "max_grad_norm": None})
        for both in product(lr=[0.1], weight_decay=[0, 0.1], bias_correction=[False, True])
    ],
    (
        LAMB,
        "Lamb",
        {"lr": 0.1, "betas": (0.5, 0.6), "eps": 1e-2, "weight_decay": 0},
        _NONE,
        {"max_grad_norm": None},
    ),
    *[
        (Lion, "Lion", both, {}, {})
        for both in product(lr=[0.01], weight_decay=[0, 0.1], maximize=[False, True])
    ],
]


@_WITHOUT_TIMM
@pytest.mark.parametrize("foreach", [False, True], ids=["loop", "foreach"])
@pytest.mark.parametrize(
    ("ours", "name", "both", "mine", "timms"),
    TIMM,
    ids=[f"{n}-{describe({**b, **m, **t})}" for _, n, b, m, t in TIMM],
)
def test_timm_takes_the_same_steps(ours, name, both, mine, timms, foreach):
    """Lion to the bit; the others do the operations in another order."""
    import timm.optim

    runs = []
    for kind, options in ((ours, mine), (getattr(timm.optim, name), timms)):
        thetas, rows = numbers(torch.float64)
        optimizer = kind(thetas, **both, **options, foreach=foreach)
        largest = [0.0] * len(thetas)
        for row in rows:
            set_gradients(thetas, [g.clone() for g in row])
            optimizer.step()
            largest = [
                max(x, theta.abs().max().item() if theta.numel() else 1.0)
                for x, theta in zip(largest, thetas, strict=True)
            ]
        runs.append(thetas)
    for p, q, size in zip(*runs, largest, strict=True):
        if ours is Lion:
            assert_same_bits(p, q, str(tuple(p.shape)))
        assert epsilons(p, q, size) <= EPSILONS_A_STEP * STEPS, tuple(p.shape)
