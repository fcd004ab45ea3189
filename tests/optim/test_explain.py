"""What is told of a step is true of it, and training knows nothing of it."""

from __future__ import annotations

import ast
import copy
import gc
import math
import pickle
import re
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import CASES, SUBJECTS, each_case, each_fused_case, set_gradients, snapshot
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_

import scratch_optim
from scratch_optim import explain as module
from scratch_optim.clip_grad import clip_factor
from scratch_optim.explain import Quantiles, explain, to_tensorboard, trial
from scratch_optim.swa_utils import Lookahead
from scratch_optim.testing.compare import assert_same
from scratch_optim.testing.subject import Subject, gradients, laid_as, parameters

EPS = torch.finfo(torch.float64).eps
FEW = 16 * EPS
"""Of values that a dozen operations in float64 lead to, each of which rounds by half an epsilon."""

GENERIC = {
    "weight_rms", "gradient_rms", "update_rms", "update_to_weight", "update_to_gradient", "cosine",
}  # fmt: skip
"""What is told of any step."""

POINTS = ("min", "q05", "q50", "q95", "max")

OWN: dict[str, set[str]] = {
    "SGD": {"b_rms", "decay_share"},
    "Adam": {"m_hat_rms", "v_hat_rms", "rate", "decay_share"},
    "AdamW": {"m_hat_rms", "v_hat_rms", "rate", "decay_share"},
    "NAdam": {"m_hat_rms", "v_hat_rms", "rate", "decay_share"},
    "RAdam": {"m_hat_rms", "v_hat_rms", "rate", "rectification", "decay_share"},
    "Adamax": {"m_hat_rms", "u_rms", "rate", "decay_share"},
    "RMSprop": {"v_rms", "b_rms", "rate", "decay_share"},
    "Adagrad": {"s_rms", "rate", "decay_share"},
    "Adadelta": {"delta_rms", "u_rms", "v_rms", "decay_share"},
    "ASGD": {"eta", "mu", "a_rms", "decay_share"},
    "Rprop": {"step_size", "grow_share", "shrink_share"},
    "Lion": {"m_rms", "decay_share"},
    "Momentum": {"v_rms", "decay_share"},
    "LARS": {"v_rms", "trust_ratio", "decay_share"},
    "LAMB": {"m_hat_rms", "v_hat_rms", "rate", "trust_ratio", "decay_share"},
}
"""What is told of the equation of each of :data:`CASES` with its typical options; without the
suffixes of quantiles."""

each_subject = pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.title)


def told(optimizer: Any, *args: Any, **kwargs: Any) -> list[dict[str, float]]:
    """Explain every step; return where the values will be."""
    found: list[dict[str, float]] = []
    explain(optimizer, lambda values, step: found.append(values), 1, *args, **kwargs)
    return found


def one(theta: list[float], g: list[float], make: Callable[..., Any], **options: Any) -> Any:
    """What is told of the first step of a parameter in float64, without the name of the group."""
    p = Parameter(torch.tensor(theta, dtype=torch.float64))
    p.grad = torch.tensor(g, dtype=torch.float64)
    optimizer = make([p], **options)
    found = told(optimizer)
    optimizer.step()
    return {tag.removeprefix("0/"): value for tag, value in found[0].items()}


def nearly(value: float, tolerance: float = FEW) -> Any:
    return pytest.approx(value, rel=tolerance, abs=0)


def rms(x: Tensor) -> float:
    return x.double().square().mean().sqrt().item()


def without_suffixes(tags: Any) -> set[str]:
    """The quantities of group 0."""
    names = {tag.removeprefix("0/") for tag in tags}
    spread = {name.removesuffix("_min") for name in names if name.endswith("_min")}
    assert {f"{name}_{point}" for name in spread for point in POINTS} <= names
    return {n for n in names if n.rsplit("_", 1)[0] not in spread} | spread


# ------------------------------------------------------------------ training knows nothing of it


def train_both(pair: Any, every: int = 2) -> list[int]:
    """Explain the first of two optimizers, let both take steps; return which were explained."""
    steps: list[int] = []
    explain(pair.optimizers[0], lambda values, step: steps.append(step), every)
    drawn = torch.get_rng_state()
    pair.step(5)
    pair.check()
    assert torch.equal(torch.get_rng_state(), drawn)
    pair.step(2, without=[1])  # another plan
    pair.check()
    for p, q in zip(*pair.params, strict=True):
        assert_same(p.grad, q.grad, "the gradient")
    return steps


@each_subject
def test_training_has_the_same_bits_when_it_is_explained(subject: Subject) -> None:
    for way in subject.ways.values():
        pair = subject.twins(subject.typical | way, subject.typical | way)
        assert train_both(pair) == [2, 4, 6]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64], ids=str)
@each_case
def test_training_in_other_dtypes_has_the_same_bits(case: Any, dtype: torch.dtype) -> None:
    subject = case.subject
    if not subject.takes(dtype):
        pytest.skip(f"does not take {dtype}")
    assert train_both(subject.twins(case.typical, case.typical, dtype=dtype)) == [2, 4, 6]


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.name in ("Adam", "SGD")], ids=lambda case: case.name
)
def test_the_fused_kernel_goes_on_with_the_same_bits(case: Any) -> None:
    options = case.fused[0] | {"fused": True}
    assert train_both(case.subject.twins(options, options)) == [2, 4, 6]


@pytest.mark.slow
@each_fused_case
def test_every_fused_kernel_goes_on_with_the_same_bits(case: Any) -> None:
    for options in case.fused:
        given = options | {"fused": True}
        assert train_both(case.subject.twins(given, given)) == [2, 4, 6]


@each_case
def test_plans_state_and_groups_are_only_read(case: Any) -> None:
    params = parameters()
    optimizer = case.ours(params, **case.typical)
    explain(optimizer, lambda values, step: None, 1)
    (look,) = optimizer._optimizer_step_pre_hooks.values()
    for row in gradients()[:2]:
        set_gradients(params, map(laid_as, params, row))
        before, plans = snapshot(optimizer), dict(optimizer._plans)
        look(optimizer, (optimizer,), {})
        assert_same(snapshot(optimizer), before, "what makes up the optimizer")
        assert optimizer._plans.keys() == plans.keys()
        assert all(optimizer._plans[key] is plan for key, plan in plans.items())
        optimizer.step()


def test_nothing_is_left_of_it_when_it_has_ended() -> None:
    params = parameters()
    optimizer = scratch_optim.Adam(params)
    before = {name: copy.copy(value) for name, value in vars(optimizer).items()}
    hooks = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
    assert not any(before[name] for name in hooks)

    def write(values: dict[str, float], step: int) -> None:
        """Nothing."""

    gone = [weakref.ref(write)]
    with explain(optimizer, write, 1) as handle:
        set_gradients(params, map(laid_as, params, gradients()[0]))
        optimizer._optimizer_step_pre_hooks[handle._hooks[0].id](optimizer, (optimizer,), {})
        gone += [weakref.ref(x.before) for x in handle._seen]
        assert len(gone) > 5
    assert vars(optimizer).keys() == before.keys()
    assert not any(vars(optimizer)[name] for name in hooks)
    del write, handle
    gc.collect()
    assert not [ref for ref in gone if ref() is not None]


def test_the_handle_does_not_keep_the_optimizer() -> None:
    optimizer = scratch_optim.SGD(parameters())
    handle = explain(optimizer, lambda values, step: None)
    gone = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert gone() is None
    handle.remove()


def test_copies_and_checkpoints_are_those_of_an_optimizer_that_is_not_explained() -> None:
    params = parameters()
    optimizer = scratch_optim.Adam(params)
    found = told(optimizer)
    set_gradients(params, map(laid_as, params, gradients()[0]))
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        own = twin.param_groups[0]["params"]
        set_gradients(own, map(laid_as, own, gradients()[0]))
        twin.step()
        assert len(found) == 1
    optimizer.load_state_dict(saved)
    optimizer.step()
    assert len(found) == 2


def test_a_differentiable_step_goes_on_with_the_same_derivative() -> None:
    both = []
    for explained in (False, True):
        lr = torch.tensor(0.1, dtype=torch.float64)
        p = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True).clone()
        optimizer = scratch_optim.Adam([p], lr=lr, differentiable=True)
        found = told(optimizer) if explained else []
        lr.requires_grad_()
        for _ in range(3):
            p.grad = 2 * p.detach() + lr
            optimizer.step()
        p.sum().backward()
        assert len(found) == 3 * explained
        both.append((p.detach(), lr.grad))
    assert_same(both[0], both[1], "the parameter and the derivative by lr")


# ------------------------------------------------------------------ the trial is the step


def equal_to_the_step(optimizer: Any, params: list[Any], rows: Any) -> None:
    """Before each step, try it for every parameter; after it, compare bits."""
    group = optimizer.param_groups[0]
    for row in rows:
        set_gradients(params, row)
        tried = [trial(optimizer, group, p).theta for p in params]
        optimizer.step()
        for p, theta in zip(params, tried, strict=True):
            assert_same(theta, p.detach(), f"parameter {tuple(p.shape)}")


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64], ids=str
)
@each_case
def test_what_is_explained_is_the_step_that_is_taken(case: Any, dtype: torch.dtype) -> None:
    subject = case.subject
    if not subject.takes(dtype):
        pytest.skip(f"does not take {dtype}")
    params = parameters(dtype=dtype)
    optimizer = case.ours(params, **case.typical, foreach=False)
    rows = gradients(dtype=dtype)[:4]
    equal_to_the_step(optimizer, params, [map(laid_as, params, row) for row in rows])


@pytest.mark.parametrize("name", ["Muon", "Adafactor", "SparseAdam"])
def test_what_is_explained_is_the_step_of_those_of_other_shapes(name: str) -> None:
    subject = next(s for s in SUBJECTS if s.title.endswith(f".{name}"))
    params = parameters(subject.shapes)
    optimizer = subject.make(params, **subject.typical)
    rows = gradients(subject.shapes)[:4]
    equal_to_the_step(optimizer, params, [map(subject.as_given, params, row) for row in rows])


# ------------------------------------------------------------------ what is told of any step


def test_generic_values_are_those_of_a_calculation_by_hand() -> None:
    """d = -(0.1, 0.2), theta = (3, 4), g = (1, 2)."""
    values = one([3.0, 4.0], [1.0, 2.0], scratch_optim.SGD, lr=0.1)
    expected = {
        "weight_rms": 5 / math.sqrt(2),
        "gradient_rms": math.sqrt(5 / 2),
        "update_rms": 0.1 * math.sqrt(5 / 2),
        "update_to_weight": 0.1 * math.sqrt(5) / 5,
        "update_to_gradient": 0.1,
        "cosine": 1.0,
    }
    # d is what is left of a difference of numbers 40 times as large
    assert values == {name: nearly(value, 64 * EPS) for name, value in expected.items()}


def test_a_group_is_one_vector_and_its_parameters_are_told_of_where_asked() -> None:
    a, b, c = (torch.tensor(x, dtype=torch.float64) for x in ([3.0, 4.0], 12.0, [1.0]))
    for p, g in ((a, [1.0, -1.0]), (b, 2.0), (c, [7.0])):
        p.grad = torch.tensor(g, dtype=torch.float64)
    optimizer = scratch_optim.SGD([{"params": [a, b]}, {"params": [c], "name": "last"}], lr=0.5)
    named = [("b", b), ("elsewhere", torch.zeros(1))]
    found = told(optimizer, parameters=named, groups=None)
    optimizer.step()
    (values,) = found
    assert {tag.rsplit("/", 1)[0] for tag in values} == {"0", "0/b", "last"}
    assert values["0/weight_rms"] == nearly(13 / math.sqrt(3))
    assert values["0/gradient_rms"] == nearly(math.sqrt(2))
    assert values["0/b/weight_rms"] == 12
    assert values["0/b/update_rms"] == 1
    assert values["last/update_rms"] == 3.5
    assert list(told_names(optimizer, ["x", "y"])) == ["x", "y"]


def told_names(optimizer: Any, groups: list[str]) -> dict[str, None]:
    found = told(optimizer, groups=groups)
    optimizer.step()
    return dict.fromkeys(tag.split("/")[0] for tag in found[0])


def test_momentum_that_goes_up_the_gradient_has_a_negative_cosine() -> None:
    p = torch.tensor([0.0, 0.0], dtype=torch.float64)
    optimizer = scratch_optim.SGD([p], lr=0.1, momentum=0.9)
    found = told(optimizer)
    for g in ([1.0, 0.0], [-0.5, 0.0]):  # the second velocity is 0.9 - 0.5
        p.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
    assert [values["0/cosine"] for values in found] == [nearly(1.0), nearly(-1.0)]
    assert found[1]["0/b_rms"] == nearly(0.4 / math.sqrt(2))


def test_maximize_turns_the_gradient() -> None:
    values = one([3.0, 4.0], [1.0, 2.0], scratch_optim.SGD, lr=0.1, maximize=True)
    assert values["cosine"] == nearly(1.0)


def test_coupled_decay_has_the_share_of_its_part_of_the_gradient() -> None:
    """d = -lr (g + lambda theta), so the share is lambda |theta| / |g + lambda theta|."""
    values = one([3.0, 4.0], [1.0, 2.0], scratch_optim.SGD, lr=1e-4, weight_decay=0.5)
    # of changes of 1e-4 of theta, of which 4 digits are lost
    assert values["decay_share"] == nearly(2.5 / math.hypot(2.5, 4.0), 1e5 * EPS)


def test_decoupled_decay_has_the_share_of_its_own_change() -> None:
    """The other change is lr sign(g) at the first step, but for eps."""
    values = one([3.0, 4.0], [1.0, 2.0], scratch_optim.AdamW, lr=1e-3, weight_decay=0.1, eps=0.0)
    assert values["decay_share"] == nearly(0.5 / math.hypot(1.3, 1.4), 1e5 * EPS)


def test_a_decay_below_the_resolution_of_its_parameter_has_its_share_too() -> None:
    p = torch.tensor([3.0, 4.0])
    p.grad = torch.tensor([1.0, 2.0])
    optimizer = scratch_optim.SGD([p], lr=1e-8, weight_decay=0.5)
    found = told(optimizer)
    optimizer.step()
    assert found[0]["0/update_rms"] == 0  # in float32
    # 8 of 16 digits are lost
    assert found[0]["0/decay_share"] == nearly(2.5 / math.hypot(2.5, 4.0), 1e9 * EPS)


def test_where_nothing_moves_ratios_are_undefined_or_zero() -> None:
    values = one([0.0], [0.0], scratch_optim.SGD, lr=0.1)
    assert values["update_rms"] == values["gradient_rms"] == 0
    assert all(math.isnan(values[name]) for name in ("update_to_weight", "cosine"))


@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop", "Adagrad"])
def test_of_torchs_optimizers_the_same_is_told_but_for_the_equation(name: str) -> None:
    both = []
    for space in (torch.optim, scratch_optim):
        params = parameters(dtype=torch.float64)
        optimizer = getattr(space, name)(params, lr=0.01, weight_decay=0.1, foreach=False)
        found = told(optimizer)
        for row in gradients(dtype=torch.float64)[:3]:
            set_gradients(params, map(laid_as, params, row))
            optimizer.step()
        both.append(found)
    for theirs, ours in zip(*both, strict=True):
        assert without_suffixes(theirs) == GENERIC
        assert theirs == {tag: ours[tag] for tag in theirs}


def test_of_lbfgs_the_whole_step_is_told_and_the_gradient_where_it_began() -> None:
    p = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    optimizer = scratch_optim.LBFGS([p], lr=1.0, max_iter=4)
    found = told(optimizer)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert without_suffixes(found[0]) == GENERIC
    assert found[0]["0/gradient_rms"] == nearly(math.sqrt(10))
    change = p.detach() - torch.tensor([1.0, 2.0])
    assert found[0]["0/update_rms"] == nearly(rms(change))


@pytest.mark.parametrize("keyword", [True, False])
def test_a_closure_is_looked_at_when_it_has_run(keyword: bool) -> None:
    p = torch.tensor([1.0, 2.0], dtype=torch.float64)
    optimizer = scratch_optim.Adam([p])
    found, calls = told(optimizer), []

    def closure() -> float:
        calls.append(torch.is_grad_enabled())
        p.grad = torch.tensor([3.0, 4.0], dtype=torch.float64)
        return 7.0

    result = optimizer.step(closure=closure) if keyword else optimizer.step(closure)
    assert (result, calls) == (7.0, [True])
    assert found[0]["0/gradient_rms"] == nearly(5 / math.sqrt(2))
    assert found[0]["0/m_hat_rms"] == nearly(5 / math.sqrt(2))


def test_only_multiples_of_every_are_explained_and_steps_are_counted_on() -> None:
    p = torch.ones(2)
    p.grad = torch.ones(2)
    optimizer = scratch_optim.SGD([p])
    steps: list[int] = []
    explain(optimizer, lambda values, step: steps.append(step), 3, taken=4)
    for _ in range(6):
        optimizer.step()
    assert steps == [6, 9]


def test_a_step_without_gradients_is_not_told_of() -> None:
    optimizer = scratch_optim.SGD([torch.ones(2)])
    found = told(optimizer)
    optimizer.step()
    assert found == []


# ------------------------------------------------------------------ what is told of equations


@each_case
def test_the_quantities_of_every_equation_are_there(case: Any) -> None:
    params = parameters()
    optimizer = case.ours(params, **case.typical)
    found = told(optimizer)
    for row in gradients()[:2]:
        set_gradients(params, map(laid_as, params, row))
        optimizer.step()
    for values in found:
        assert without_suffixes(values) == GENERIC | OWN[case.name]
        assert all(math.isfinite(value) for value in values.values())


@pytest.mark.parametrize("name", ["Adam", "AdamW", "LAMB", "RAdam", "Adamax"])
def test_corrected_moments_of_a_constant_gradient_are_the_gradient(name: str) -> None:
    """m_t = (1 - beta1^t) g and v_t = (1 - beta2^t) g^2, at every step.

    1 - beta2^t is as small as 1 - beta2 = 1e-3, so its rounding counts 1000 times.
    """
    g = torch.tensor([1.0, -2.0, 0.3], dtype=torch.float64)
    p = torch.zeros(3, dtype=torch.float64)
    optimizer = getattr(scratch_optim, name)([p], weight_decay=0)
    found = told(optimizer)
    for _ in range(20):
        p.grad = g.clone()
        optimizer.step()
    for values in found:
        assert values["0/m_hat_rms"] == nearly(rms(g), 2000 * EPS)
        if name == "Adamax":  # u_t = |g|, and eps
            assert values["0/u_rms"] == nearly(rms(g.abs() + 1e-8))
        else:
            assert values["0/v_hat_rms"] == nearly(rms(g * g), 2000 * EPS)


def test_the_moment_of_nadam_is_what_its_step_is_made_of() -> None:
    """d = -rate m_hat, for one element."""
    p = torch.tensor([1.0], dtype=torch.float64)
    optimizer = scratch_optim.NAdam([p], lr=0.1)
    found = told(optimizer)
    for g in (1.0, 0.5, -3.0):
        p.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
    for values in found:
        step = values["0/rate_q50"] * values["0/m_hat_rms"]
        assert values["0/update_rms"] == nearly(step, 256 * EPS)  # a small difference of thetas


def test_rates_of_adam_are_lr_over_the_root() -> None:
    """At the first step v_hat = g^2, so the rate is lr / (|g| + eps)."""
    g = [4.0**-k for k in range(21)]
    values = one([0.0] * 21, g, scratch_optim.Adam, lr=0.1, eps=1e-3)
    rates = sorted(0.1 / (x + 1e-3) for x in g)
    for point, at in zip(POINTS, (0, 1, 10, 19, 20), strict=True):
        assert values[f"rate_{point}"] == nearly(rates[at], 2000 * EPS)


@pytest.mark.parametrize(
    ("make", "options", "rate"),
    [
        (scratch_optim.RMSprop, {"alpha": 0.75, "eps": 0.5}, 0.1 / (0.5 * 2 + 0.5)),
        (scratch_optim.Adagrad, {"eps": 0.5}, 0.1 / (2 + 0.5)),
        (scratch_optim.Adamax, {"eps": 0.5}, 0.1 / 2.5),
        (scratch_optim.RAdam, {}, 0.1),  # too early to rectify
        (scratch_optim.LAMB, {"eps": 0.5, "exclude": True}, 0.1 / 2.5),
        (scratch_optim.NAdam, {"eps": 0.5}, 0.1 / 2.5),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_rates_of_others_are_those_of_their_equations(make: Any, options: Any, rate: float) -> None:
    values = one([1.0], [2.0], make, lr=0.1, **options)
    assert values["rate_q50"] == nearly(rate, 2000 * EPS)


def test_rectification_is_that_of_the_paper() -> None:
    p = torch.ones(1, dtype=torch.float64)
    optimizer = scratch_optim.RAdam([p], betas=(0.9, 0.9))
    found = told(optimizer)
    for _ in range(9):
        p.grad = torch.ones(1, dtype=torch.float64)
        optimizer.step()
    inf = 2 / (1 - 0.9) - 1
    for t, values in enumerate(found, 1):
        rho = inf - 2 * t * 0.9**t / (1 - 0.9**t)
        r = 0.0
        if rho > 5:
            r = math.sqrt((rho - 4) * (rho - 2) * inf / ((inf - 4) * (inf - 2) * rho))
        assert values["0/rectification"] == nearly(r, 256 * EPS)  # rho is a difference
    assert 0 < found[-1]["0/rectification"] < 1
    assert found[0]["0/rectification"] == 0


@pytest.mark.parametrize("clip", [False, True])
def test_trust_ratio_of_lars_is_the_ratio_of_norms(clip: bool) -> None:
    """|theta| = 5, |g| = 13: eta 5 / (13 + 0.1 5); with clip, in units of lr and at most 1."""
    options = {"lr": 0.5, "weight_decay": 0.1, "trust_coefficient": 0.3, "exclude": False}
    values = one([3.0, 4.0], [5.0, 12.0], scratch_optim.LARS, clip=clip, **options)
    ratio = 0.3 * 5 / 13.5 / (0.5 if clip else 1)
    assert [values[f"trust_ratio_{point}"] for point in POINTS] == [nearly(ratio)] * 5


def test_trust_ratio_of_lamb_is_the_ratio_of_norms() -> None:
    """At the first step u = sign(g) + lambda theta = (1.3, -0.6), without eps."""
    options = {"lr": 0.1, "weight_decay": 0.1, "eps": 0.0, "exclude": False}
    values = one([3.0, 4.0], [5.0, -12.0], scratch_optim.LAMB, **options)
    assert values["trust_ratio_q50"] == nearly(5 / math.hypot(1.3, -0.6), 2000 * EPS)


def test_excluded_layers_have_no_trust_ratio() -> None:
    for make in (scratch_optim.LARS, scratch_optim.LAMB):
        assert "trust_ratio_q50" not in one([3.0, 4.0], [5.0, 12.0], make)


def test_clip_factor_of_adafactor_is_that_of_the_step() -> None:
    """d = -alpha clip u."""
    p = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    optimizer = scratch_optim.Adafactor([p], lr=0.1)
    found = told(optimizer)
    for g in ([[1.0, 0.0], [0.0, 3.0]], [[9.0, 9.0], [8.0, 9.0]]):
        p.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
    for values in found:
        step = values["0/alpha"] * values["0/clip_factor_q50"] * values["0/u_rms"]
        assert values["0/update_rms"] == nearly(step, 256 * EPS)
    assert found[1]["0/clip_factor_q50"] < 1


def test_step_sizes_of_rprop_are_those_of_its_state() -> None:
    p = torch.zeros(4, dtype=torch.float64)
    optimizer = scratch_optim.Rprop([p], lr=0.1)
    found = told(optimizer)
    for g in ([1.0, 1.0, 1.0, 0.0], [1.0, 1.0, -1.0, 1.0]):
        p.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
    assert found[1]["0/grow_share"] == 0.5
    assert found[1]["0/shrink_share"] == 0.25
    assert found[1]["0/step_size_min"] == nearly(0.05)
    assert found[1]["0/step_size_max"] == nearly(0.12)


def test_singular_values_of_muon_are_those_of_its_step() -> None:
    p = Parameter(torch.zeros(6, 2, 2, dtype=torch.float64))
    optimizer = scratch_optim.Muon([p], lr=1.0, weight_decay=0, ns_dtype=torch.float64)
    found = told(optimizer)
    p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    optimizer.step()
    s = torch.linalg.svdvals(p.detach().flatten(1)) / math.sqrt(6 / 4)
    assert found[0]["0/singular_value_max"] == nearly(s.max().item(), 64 * EPS)
    assert found[0]["0/singular_value_min"] == nearly(s.min().item(), 64 * EPS)


def test_of_two_equations_in_one_optimizer_each_is_explained() -> None:
    w, b = Parameter(torch.ones(2, 3)), Parameter(torch.ones(2))
    for p in (w, b):
        p.grad = torch.ones_like(p)
    optimizer = scratch_optim.Muon([w, b], auxiliary={})
    found = told(optimizer)
    optimizer.step()
    assert "0/singular_value_q50" in found[0]
    assert found[0]["1/m_hat_rms"] == pytest.approx(1, rel=1e-5)  # in float32


def test_of_a_sparse_gradient_the_entries_that_it_names_are_explained() -> None:
    p = torch.zeros(4, 2, dtype=torch.float64)
    p.grad = torch.sparse_coo_tensor([[1, 3]], torch.full((2, 2), 2.0, dtype=torch.float64), (4, 2))
    optimizer = scratch_optim.SparseAdam([p])
    found = told(optimizer)
    optimizer.step()
    assert found[0]["0/m_hat_rms"] == nearly(2, 2000 * EPS)  # of the entries
    assert found[0]["0/gradient_rms"] == nearly(math.sqrt(2))  # of all
    p.grad = torch.sparse_coo_tensor(torch.empty(1, 0), torch.empty(0, 2), (4, 2)).double()
    optimizer.step()
    assert without_suffixes(found[1]) == GENERIC  # it names none


def test_complex_parameters_count_as_their_parts() -> None:
    z = torch.tensor([3 + 4j], dtype=torch.complex128)
    z.grad = torch.tensor([1 - 2j], dtype=torch.complex128)
    optimizer = scratch_optim.Adam([z])
    found = told(optimizer)
    optimizer.step()
    assert found[0]["0/weight_rms"] == nearly(5 / math.sqrt(2))
    assert found[0]["0/m_hat_rms"] == nearly(math.sqrt(5 / 2))


def test_tensors_as_options_are_taken() -> None:
    betas = (torch.tensor(0.9), torch.tensor(0.999))
    p = torch.ones(3)
    p.grad = torch.ones(3)
    optimizer = scratch_optim.Adam([p], lr=torch.tensor(0.1), betas=betas)
    found = told(optimizer)
    optimizer.step()
    # of betas in float32, 1 - beta2 has 13 bits
    assert found[0]["0/v_hat_rms"] == pytest.approx(1, rel=2**-13)


def test_quantiles_of_many_elements_are_elements(monkeypatch) -> None:
    monkeypatch.setattr(module, "SAMPLE", 8)
    g = [2.0**k for k in range(100)]
    values = one([0.0] * 100, g, scratch_optim.Adam, lr=1.0, eps=0.0)
    rates = [1 / x for x in g]
    for point in POINTS:
        assert min(abs(values[f"rate_{point}"] / rate - 1) for rate in rates) < 2000 * EPS
    assert values["rate_max"] / values["rate_min"] > 2.0**80


class Cubed(scratch_optim.Optimizer):
    """theta <- theta - lr g^3: an optimizer of somebody else."""

    def __init__(self, params: Any, lr: float = 0.5) -> None:
        super().__init__(params, {"lr": lr})

    def state_names(self, group: Any, p: Tensor) -> tuple[str, ...]:
        return ("largest",)

    @staticmethod
    def update(theta: Any, g: Any, state: Any, t: Any, /, *, lr: float, **_: Any) -> None:
        largest = state["largest"].clamp_min_(g.abs())
        cube = g.mul(g).mul_(g)
        assert largest is not cube
        theta.add_(cube, alpha=-lr)


class Halved(Cubed):
    """One that hands its operands on, with another gradient."""

    @staticmethod
    def update(theta: Any, g: Any, state: Any, t: Any, /, **options: Any) -> None:
        half = g.mul(0.5)
        Cubed.update(theta, half, state, t, **options)


class Stepping(scratch_optim.Adam):
    """One that does something of its own before a step: its equation is not the whole of it."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.mul_(2)
        return super().step(closure)


def test_an_optimizer_that_nobody_has_thought_of_is_explained_by_its_own_names() -> None:
    values = one([1.0, 1.0], [2.0, -2.0], Cubed)
    assert values.keys() == GENERIC | {"cube_rms", "largest_rms"}
    assert (values["cube_rms"], values["largest_rms"]) == (8, 2)
    assert values["update_rms"] == 4


def test_names_are_those_of_the_equation_that_changes_the_parameter() -> None:
    values = one([1.0, 1.0], [2.0, -2.0], Halved)
    assert (values["cube_rms"], values["update_rms"]) == (1, 0.5)


def test_where_the_equation_is_not_the_whole_step_it_is_not_explained() -> None:
    assert one([1.0, 1.0], [2.0, -2.0], Stepping).keys() == GENERIC


def test_what_is_derived_can_be_said_by_the_caller() -> None:
    p = torch.tensor([1.0, 1.0], dtype=torch.float64)
    p.grad = torch.tensor([2.0, -2.0], dtype=torch.float64)
    optimizer = Cubed([p])

    def quantities(*, cube: Tensor, t: float, lr: float, **_: Any) -> dict[str, Any]:
        return {"step": Quantiles(lr * cube), "rising": cube > 0, "t": t}

    found = told(optimizer, quantities=quantities)
    optimizer.step()
    assert (found[0]["0/step_min"], found[0]["0/step_max"]) == (-4, 4)
    assert (found[0]["0/rising_share"], found[0]["0/t"]) == (0.5, 1)


# ------------------------------------------------------------------ in a training loop


def test_lookahead_is_explained_by_what_it_wraps() -> None:
    p = Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))
    p.grad = torch.ones(2, dtype=torch.float64)
    optimizer = Lookahead(scratch_optim.SGD([p], lr=0.1), k=1)
    found = told(optimizer)
    optimizer.step()
    assert found[0]["0/update_rms"] == nearly(0.1, 64 * EPS)  # a difference of larger numbers
    assert p.tolist() == [nearly(0.95), nearly(1.95)]  # half of the way


def scaled_steps(losses: list[float]) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """What is told of steps of a fused optimizer, plain and with GradScaler."""
    both = []
    for scale in (1.0, 1024.0):
        p = torch.tensor([1.0, 2.0], requires_grad=True)
        optimizer = scratch_optim.SGD([p], lr=0.1, momentum=0.9, fused=True)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        found = told(optimizer)
        for loss in losses:
            optimizer.zero_grad()
            scaler.scale((loss * p).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
        both.append(found)
    return both[0], both[1]


def test_scaled_gradients_are_told_of_as_they_are_and_skipped_steps_not_at_all() -> None:
    plain, scaled = scaled_steps([1.0, float("inf"), 2.0])
    assert len(plain) == len(scaled) == 2
    assert scaled == plain  # powers of two
    assert plain[1]["0/gradient_rms"] == 2


def test_numbers_of_the_loop_go_with_the_step_they_are_of() -> None:
    p = torch.ones(4, requires_grad=True)
    optimizer = scratch_optim.SGD([p], lr=0.1)
    found: list[dict[str, float]] = []
    handle = explain(optimizer, lambda values, step: found.append(values), 2)
    for loss in (1.0, 4.0, 1.0, 0.1):
        optimizer.zero_grad()
        (loss * p).sum().backward()
        if loss != 0.1:
            norm = clip_grad_norm_([p], 1.0)
            handle.note(clip_factor=clip_factor(1.0, norm), norm=norm.item())
        optimizer.step()
    assert found[0]["clip_factor"] == pytest.approx(1 / 8, rel=1e-6)  # float32, and torch's 1e-6
    assert found[0]["norm"] == 8
    assert "clip_factor" not in found[1]


def test_tensorboard_gets_a_scalar_for_each_value() -> None:
    class Writer:
        def __init__(self) -> None:
            self.points: dict[tuple[str, int], float] = {}

        def add_scalar(self, tag: str, value: float, step: int) -> None:
            self.points[tag, step] = value

    writer = Writer()
    p = torch.ones(2)
    p.grad = torch.ones(2)
    optimizer = scratch_optim.SGD([{"params": [p], "name": "weights"}], lr=0.5)
    explain(optimizer, to_tensorboard(writer), 1)
    optimizer.step()
    assert writer.points["explain/weights/update_rms", 1] == 0.5
    assert {tag for tag, _ in writer.points} == {f"explain/weights/{name}" for name in GENERIC}


def test_a_gradient_that_is_refused_is_refused_as_ever_and_changes_nothing() -> None:
    p = torch.ones(2)
    p.grad = torch.ones(2).to_sparse()
    optimizer = scratch_optim.Adam([p])
    found = told(optimizer)
    with pytest.raises(RuntimeError, match="please consider SparseAdam"):
        optimizer.step()
    assert torch.equal(p, torch.ones(2))
    p.grad = torch.ones(2)
    optimizer.step()
    assert len(found) == 1


def test_of_a_step_that_failed_nothing_is_told_later() -> None:
    p = torch.ones(2)
    p.grad = torch.ones(2)
    optimizer = scratch_optim.SGD([p])
    steps: list[int] = []
    handle = explain(optimizer, lambda values, step: steps.append(step), 2)
    optimizer.step()
    failing = optimizer.register_step_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        optimizer.step()
    failing.remove()
    optimizer.step()
    assert steps == []
    optimizer.step()
    assert steps == [4]
    assert not handle._seen  # nor copies kept


class Cut(Tensor):
    """In the place of a DTensor."""


BAD: dict[str, tuple[type[Exception], str, Callable[[], Any]]] = {
    "no optimizer": (TypeError, "Linear", lambda: explain(torch.nn.Linear(1, 1), print)),  # type: ignore[arg-type]
    "no function": (TypeError, "to_tensorboard", lambda: explain(made(), object())),  # type: ignore[arg-type]
    "every": (ValueError, "1 or more, but is 0", lambda: explain(made(), print, 0)),
    "groups": (ValueError, "2 names", lambda: explain(made(), print, groups=("a", "b"))),
    "cut": (ValueError, "type Cut.*one process", lambda: explain(made(Cut), print)),
    "no writer": (TypeError, "add_scalar", lambda: to_tensorboard(print)),
}


def made(kind: type[Tensor] = Tensor) -> Any:
    return scratch_optim.SGD([torch.ones(2).as_subclass(kind)])


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_explained_is_refused_with_the_remedy(what: str) -> None:
    error, message, call = BAD[what]
    with pytest.raises(error, match=message):
        call()


def test_the_page_shows_what_its_example_prints(capsys) -> None:
    """Within one unit of the last of two digits."""
    page = (Path(__file__).parents[2] / "docs" / "explain.md").read_text()
    blocks = [match[1] for match in re.finditer(r"```\w*\n(.*?)```", page, flags=re.DOTALL)]
    exec(compile(blocks[0], "page", "exec"), {})
    lines = [line.split(" ", 1) for line in capsys.readouterr().out.splitlines()]
    assert [step for step, _ in lines] == ["10", "20", "30"]
    step, shown = " ".join(blocks[1].split()).split(" ", 1)
    assert step == "30"
    assert ast.literal_eval(shown) == pytest.approx(ast.literal_eval(lines[-1][1]), rel=0.1)
