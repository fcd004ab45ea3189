"""Recipes: the options arrive where they belong, the schedules are the curves they are named."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

import scratch_layers
import scratch_optim
from training.errors import UsageError
from training.options import (
    ACTIVATIONS,
    BY_HAND_ONLY,
    BY_OPTIMIZER,
    NORMS,
    OPTIMIZERS,
    SCHEDULES,
    Config,
    make_config,
)
from training.recipes import (
    CLASS_NAMES,
    CURVES,
    build_model,
    build_optimizer,
    build_schedule,
    clipping,
    units,
)


def config(**given) -> Config:
    given = {"device": "cpu", "optim": "torch", "layers": "torch", "log_dir": "no/where"} | given
    return make_config(**given)


def factors(steps_per_epoch: int = 10, **given) -> list[float]:
    """The learning rate of each step, by the peak."""
    made = config(lr=0.5, **given)
    optimizer = build_optimizer(made, nn.Linear(2, 2))
    schedule = build_schedule(made, optimizer, steps_per_epoch)
    seen = []
    for _ in range(made.epochs * steps_per_epoch):
        seen.append(optimizer.param_groups[0]["lr"] / 0.5)
        optimizer.step()
        schedule.step()
    return seen


def reference(name: str, total: int, module=torch.optim.lr_scheduler, **options) -> list[float]:
    """The same from the scheduler of that name, torch's or by hand."""
    optimizer = torch.optim.SGD([torch.zeros(1)], 1.0)
    schedule = getattr(module, name)(optimizer, **options)
    seen = []
    for _ in range(total):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_schedules_are_torchs_of_the_same_name():
    same = {"rel": 1e-12, "abs": 1e-12}  # float64, but for the order of operations
    assert factors(epochs=10, schedule="none") == [1.0] * 100
    expected = reference("CosineAnnealingLR", 100, T_max=100)
    assert factors(epochs=10, schedule="cosine") == pytest.approx(expected, **same)
    expected = reference("LinearLR", 100, start_factor=1.0, end_factor=0.0, total_iters=100)
    assert factors(epochs=10, schedule="linear") == pytest.approx(expected, **same)
    expected = reference("MultiStepLR", 100, milestones=[50, 75], gamma=0.1)
    assert factors(epochs=10, schedule="step") == pytest.approx(expected, **same)


BY_HAND = {  # with 20 steps of warm-up, what follows it in the remaining 80
    "cosine": ("WarmupCosineLR", {"warmup_steps": 0, "total_steps": 80}),
    "onecycle": ("WarmupCosineLR", {"warmup_steps": 0, "total_steps": 80}),
    "linear": ("WarmupLinearLR", {"warmup_steps": 0, "total_steps": 80}),
    "step": ("MultiStepLR", {"milestones": [30, 55]}),
    "wsd": (
        "WarmupStableDecayLR",
        {"warmup_steps": 0, "decay_steps": 16, "total_steps": 80, "decay_type": "1-sqrt"},
    ),
    "inverse-time": ("InverseTimeLR", {"decay_rate": 9 / 80}),
    "none": ("ConstantLR", {"factor": 1.0}),
}


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name != "plateau"])
def test_after_the_warmup_schedules_are_the_classes_of_the_library(name):
    cls, options = BY_HAND[name]
    expected = reference(cls, 80, scratch_optim.lr_scheduler, **options)
    # float64, but for the order of operations; the square root near 0 takes half of the digits
    assert factors(epochs=10, schedule=name, warmup=2.0)[20:] == pytest.approx(expected, abs=1e-8)


ENDS = {  # of 100 steps, 20 of which are the warm-up: the first, the highest, halfway, the last
    "onecycle": (0.04, 1.0, 0.6913, 0.0004),
    "cosine": (0.05, 1.0, 0.6913, 0.0004),
    "linear": (0.05, 1.0, 0.6250, 0.0125),
    "step": (0.05, 1.0, 0.1, 0.01),
    "wsd": (0.05, 1.0, 1.0, 0.0318),
    "inverse-time": (0.05, 1.0, 0.2286, 0.1011),
    "plateau": (0.05, 1.0, 1.0, 1.0),  # as long as nobody says how the validation goes
    "none": (0.05, 1.0, 1.0, 1.0),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_begin_peak_and_end_where_they_say(name):
    seen = factors(epochs=10, schedule=name, warmup=2.0)
    # 1e-4: the table has four decimals
    assert (seen[0], max(seen), seen[50], seen[-1]) == pytest.approx(ENDS[name], abs=1e-4)
    assert seen[20] == 1.0


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_goes_on_from_the_state_of_torchs_lambda(name):
    """Which older checkpoints hold; the numbers must be those of the whole run, bit for bit."""
    made = config(lr=0.5, epochs=10, schedule=name, warmup=2.0)
    whole = [factor * 0.5 for factor in factors(epochs=10, schedule=name, warmup=2.0)]
    for step in (7, 30, 90):
        old = torch.optim.lr_scheduler.LambdaLR(
            torch.optim.SGD([{"params": [torch.zeros(1)]}, {"params": [torch.zeros(1)]}], 0.5),
            lambda t: whole[t] / 0.5,
        )
        for _ in range(step):
            old.optimizer.step()
            old.step()
        optimizer = build_optimizer(made, nn.Linear(2, 2))
        schedule = build_schedule(made, optimizer, 10)
        schedule.load_state_dict(old.state_dict())
        optimizer.step()
        schedule.step()
        assert [g["lr"] for g in optimizer.param_groups] == [whole[step + 1]] * 2


def test_every_name_has_what_it_needs():
    assert set(CURVES) == set(SCHEDULES)
    assert set(CLASS_NAMES) == set(OPTIMIZERS) == set(BY_OPTIMIZER)


def test_warmup_rises_linearly_to_the_peak_and_no_step_is_wasted():
    for name in set(SCHEDULES) - {"onecycle"}:
        seen = factors(epochs=10, schedule=name, warmup=2.0)
        assert seen[:21] == pytest.approx([*[(i + 1) / 20 for i in range(20)], 1.0])


def test_onecycle_is_torchs_but_for_its_end():
    seen = factors(epochs=10, schedule="onecycle")
    assert (seen[0], max(seen), seen.index(max(seen))) == (0.04, 1.0, 30)
    # torch's counts its phases one step shorter
    options = {"max_lr": 1.0, "total_steps": 102, "pct_start": 31 / 102, "final_div_factor": 1e12}
    expected = reference("OneCycleLR", 102, **options)
    assert seen[:31] == pytest.approx(expected[:31])
    assert seen[31:] == pytest.approx(expected[31:100], abs=0.03)
    assert seen[30:] == sorted(seen[30:], reverse=True)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("steps", "epochs", "warmup"), [(1, 1, 0.9), (1, 2, 1.6), (3, 1, 0.5)])
def test_shortest_runs_have_a_schedule(schedule, steps, epochs, warmup):
    seen = factors(steps, epochs=epochs, schedule=schedule, warmup=warmup)
    assert len(seen) == steps * epochs
    assert all(0 < factor <= 1 for factor in seen)


STACKS = [
    (optim, name)
    for optim in ("torch", "scratch")
    for name in OPTIMIZERS
    if optim == "scratch" or name not in BY_HAND_ONLY
]


@pytest.mark.parametrize(("optim", "name"), STACKS)
def test_options_reach_the_optimizer(optim, name):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    has = BY_OPTIMIZER[name]
    extra = {key: value for key, value in {"momentum": 0.7, "nesterov": True}.items() if key in has}
    decay = 0.125 if "weight_decay" in has else 0.0
    made = config(optim=optim, optimizer=name, lr=0.25, weight_decay=decay, foreach=False, **extra)
    optimizer = build_optimizer(made, model)
    assert type(optimizer).__name__.lower() == name
    assert type(optimizer).__module__.startswith("torch" if optim == "torch" else "scratch_optim")
    weights, others = optimizer.param_groups
    assert (weights["lr"], others["lr"]) == (0.25, 3e-3 if name == "muon" else 0.25)
    assert weights["foreach"] is False
    if decay:
        assert (weights["weight_decay"], others["weight_decay"]) == (0.125, 0.0)
    assert [p.ndim for p in weights["params"]] == [4]
    assert [p.ndim for p in others["params"]] == [1, 1, 1]
    for key, value in extra.items():
        assert weights[key] == value


OWN = """
import torch

class Drift(torch.optim.SGD):
    def __init__(self, params, lr=0.5, momentum=0.25):
        super().__init__(params, lr=lr, momentum=momentum)

class Rateless(torch.optim.SGD):
    def __init__(self, params, lr):
        super().__init__(params, lr=lr)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module in the working folder, whose name no other test imports."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_of_recipes.py").write_text(OWN)
    yield "own_of_recipes"
    sys.modules.pop("own_of_recipes", None)


def test_an_optimizer_of_ones_own_has_the_defaults_of_its_signature(own):
    made = make_config(optimizer=f"{own}:Drift", device="cpu")
    assert (made.lr, made.momentum, made.weight_decay, made.nesterov) == (0.5, 0.25, 0.0, False)
    assert "Drift" in made.log_dir
    assert ":" not in made.log_dir
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    optimizer = build_optimizer(
        config(optim="scratch", optimizer=f"{own}:Drift", momentum=0.75), model
    )
    assert type(optimizer).__name__ == "Drift"
    assert [group["momentum"] for group in optimizer.param_groups] == [0.75, 0.75]


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("Drift", {"weight_decay": 0.1}, "--weight-decay 0.1: .*Drift has none"),
        ("Drift", {"nesterov": True}, "--nesterov"),
        ("Drift", {"optim": "torch"}, "--optim torch: PyTorch has no .*Drift"),
        ("Drift", {"fused": True}, "--fused: .*Drift has no such way to run"),
        ("Rateless", {}, "Rateless: its lr needs a number as default"),
        ("Missing", {}, "cannot find .*Missing"),
        ("torch", {}, "torch: <module .*> is no subclass of torch.optim.Optimizer"),
    ],
)
def test_an_optimizer_of_ones_own_that_cannot_be_is_refused(own, name, given, message):
    given = {"optim": "scratch", "optimizer": f"{own}:{name}", **given}
    with pytest.raises(UsageError, match=message):
        build_optimizer(config(**given), nn.Linear(2, 2))


def test_defaults_of_the_nesterov_option():
    for name in OPTIMIZERS:
        assert config(optimizer=name, optim="scratch").nesterov == (name in ("sgd", "muon"))
    assert not config(optimizer="sgd", momentum=0.0).nesterov


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_torch_has_the_optimizers_that_are_not_by_hand_only(name):
    if name in BY_HAND_ONLY:
        with pytest.raises(UsageError, match=f"--optim torch: PyTorch has no {name} .*scratch"):
            config(optim="torch", optimizer=name)
    else:
        assert hasattr(torch.optim, CLASS_NAMES[name])


def test_clipping_comes_from_the_library_asked_for():
    assert clipping(config(optim="scratch")) is scratch_optim.clip_grad
    assert clipping(config(optim="torch")) is torch.nn.utils


def test_adaptive_clipping_leaves_the_classifier_out():
    model = build_model(config(), 10, 1)
    found = {id(p) for p in units(model)}
    left = [name for name, p in model.named_parameters() if id(p) not in found]
    assert left == ["fc.weight", "fc.bias"]


def test_a_way_to_run_that_the_optimizer_lacks_is_refused():
    with pytest.raises(UsageError, match=r"--fused: .*RMSprop has no such way to run"):
        build_optimizer(config(optimizer="rmsprop", fused=True), nn.Linear(1, 1))


def test_one_seed_gives_the_same_weights_in_both_stacks():
    states = []
    for layers in ("torch", "scratch"):
        torch.manual_seed(0)
        states.append(build_model(config(layers=layers, dropout=0.1), 10, 1).state_dict())
    one, two = states
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_layers_come_from_the_library_asked_for():
    import scratch_layers

    for layers, module in (("torch", nn), ("scratch", scratch_layers)):
        made = build_model(config(layers=layers), 10, 1)
        norms = [m for m in made.modules() if isinstance(m, nn.BatchNorm2d)]
        assert {type(m) for m in norms} == {module.BatchNorm2d}


@pytest.mark.parametrize("layers", ["scratch", "torch"])
@pytest.mark.parametrize("norm", NORMS)
def test_normalizations_are_all_of_the_kind_that_is_asked_for(layers, norm):
    model = build_model(config(layers=layers, norm=norm), 10, 1)
    kinds = {"batch": "BatchNorm2d", "instance": "InstanceNorm2d", "none": "Identity"}
    cls = getattr(scratch_layers if layers == "scratch" else nn, kinds.get(norm, "GroupNorm"), None)
    found = [m for name, m in model.named_modules() if name.rpartition(".")[2].startswith("bn")]
    assert len(found) == 19
    assert all(type(m) is (cls or nn.Identity) for m in found)
    if norm == "group":
        assert {m.num_channels // m.num_groups for m in found} == {8}
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.parametrize("layers", ["scratch", "torch"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_all_of_the_kind_that_is_asked_for(layers, activation):
    model = build_model(config(layers=layers, activation=activation), 10, 1)
    cls = getattr(scratch_layers if layers == "scratch" else nn, activation)
    found = [m for m in model.modules() if "activation" in type(m).__module__]
    assert len(found) >= 10
    assert all(type(m) is cls for m in found)


def test_the_bias_lr_is_a_multiple_and_that_of_frozen_biases_is_none():
    made = config(optimizer="sgd", lr=0.5, bias_lr=64.0)
    weights, others = build_optimizer(made, nn.Linear(2, 2)).param_groups
    assert (weights["lr"], others["lr"]) == (0.5, 32.0)
    frozen = build_model(config(dataset="cifar10", model="air94", whitening_bias=False), 10, 3)
    learns = [name for name, p in frozen.named_parameters() if p.requires_grad]
    assert not any(name.startswith("whiten") for name in learns)
