"""Recipes: the options arrive where they belong, the schedules are the curves they are named."""

from __future__ import annotations

import inspect
import math
import sys

import pytest
import torch
from torch import nn

import scratch_layers
import scratch_optim
from scratch_layers.mlp import mlp
from training.errors import UsageError
from training.options import (
    ACTIVATIONS,
    ALWAYS,
    BY_HAND_ONLY,
    BY_OPTIMIZER,
    CLASS_NAMES,
    HAVE_BETAS,
    HAVE_FLOOR,
    INITS,
    NORMS,
    OPTIMIZERS,
    SCHEDULES,
    Config,
    make_config,
)
from training.presets import PRESETS
from training.recipes import (
    CURVES,
    MLP_INITS,
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


@pytest.mark.parametrize("name", HAVE_FLOOR)
def test_a_floor_leaves_the_beginning_and_the_peak_and_lifts_the_rest_in_proportion(name):
    plain = factors(epochs=10, schedule=name, warmup=2.0)
    lifted = factors(epochs=10, schedule=name, warmup=2.0, lr_floor=0.25)
    assert lifted[:21] == plain[:21]
    # float64, but for the order of operations
    assert lifted[20:] == pytest.approx([0.25 + 0.75 * f for f in plain[20:]], rel=1e-12)


def test_milestones_are_where_step_goes_down():
    seen = factors(epochs=10, schedule="step", milestones=(0.1, 0.5, 0.77))
    expected = [1.0] * 10 + [0.1] * 40 + [0.01] * 27 + [0.001] * 23
    assert seen == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_warmup_may_be_given_in_steps(name):
    in_steps = factors(epochs=10, schedule=name, warmup_steps=20)
    assert in_steps == factors(epochs=10, schedule=name, warmup=2.0)
    with pytest.raises(UsageError, match=r"--warmup-steps 100: the whole run has 100 steps"):
        factors(epochs=10, schedule=name, warmup_steps=100)


def test_betas_reach_the_optimizers_that_have_them():
    for name in OPTIMIZERS:
        cls = getattr(scratch_optim, CLASS_NAMES[name])
        has = "betas" in inspect.signature(cls).parameters
        assert has == (name in HAVE_BETAS)
        if has:
            made = config(optim="scratch", optimizer=name, betas=[0.8, 0.7])
            assert made.betas == (0.8, 0.7)
            groups = build_optimizer(made, nn.Linear(1, 1)).param_groups
            assert [tuple(group["betas"]) for group in groups] == [(0.8, 0.7)] * 2
            own = build_optimizer(config(optim="scratch", optimizer=name), nn.Linear(1, 1))
            default = inspect.signature(cls).parameters["betas"].default
            assert tuple(own.param_groups[0]["betas"]) == tuple(default)


def preset(name: str, steps_per_epoch: int) -> tuple[Config, list[float], torch.optim.Optimizer]:
    """The options, the learning rate of each step, and the optimizer, at its beginning."""
    made = make_config(preset=name, device="cpu", amp="off", log_dir="no/where")
    optimizers = [build_optimizer(made, nn.Linear(2, 2)) for _ in range(2)]
    schedule = build_schedule(made, optimizers[0], steps_per_epoch)
    rates = []
    for _ in range(round(made.epochs * steps_per_epoch)):
        rates.append(optimizers[0].param_groups[0]["lr"])
        optimizers[0].step()
        schedule.step()
    return made, rates, optimizers[1]


def groups_of(optimizer: torch.optim.Optimizer, *names: str) -> list[tuple]:
    return [tuple(group[name] for name in names) for group in optimizer.param_groups]


SAME = {"rel": 1e-12}
"""float64, but for the order of operations."""


def test_imagenet_resnet50_is_sgd_that_falls_to_a_tenth_at_epochs_30_60_and_80():
    made, rates, optimizer = preset("imagenet-resnet50", 3)
    assert type(optimizer) is scratch_optim.SGD
    names = ("lr", "momentum", "nesterov", "weight_decay")
    assert groups_of(optimizer, *names) == [(0.1, 0.9, True, 1e-4), (0.1, 0.9, True, 0.0)]
    expected = [0.1] * 90 + [0.01] * 90 + [0.001] * 60 + [0.0001] * 30
    assert rates == pytest.approx(expected, **SAME)
    assert made.batch_size == 256


def test_bert_is_adam_with_a_hundredth_of_warmup_and_a_straight_line_to_0():
    made, rates, optimizer = preset("bert", 25)
    assert type(optimizer) is scratch_optim.AdamW
    names = ("betas", "weight_decay")
    assert groups_of(optimizer, *names) == [((0.9, 0.999), 0.01), ((0.9, 0.999), 0.0)]
    assert rates[:10] == pytest.approx([1e-4 * (i + 1) / 10 for i in range(10)], **SAME)
    assert rates[10:] == pytest.approx([1e-4 * (1 - i / 990) for i in range(990)], **SAME)
    assert (made.dropout, made.clip_grad_norm, made.activation) == (0.1, 1.0, "GELU")


def test_gpt3_is_adam_clipped_at_1_that_falls_along_a_half_cosine_to_a_tenth():
    made, rates, optimizer = preset("gpt3", 80)
    assert type(optimizer) is scratch_optim.AdamW
    assert groups_of(optimizer, "betas", "weight_decay") == [((0.9, 0.95), 0.1), ((0.9, 0.95), 0.0)]
    assert made.clip_grad_norm == 1.0
    assert rates[:10] == pytest.approx([6e-4 * (i + 1) / 10 for i in range(10)], **SAME)
    assert rates[10] == 6e-4 == max(rates)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[10 + 7990 // 2] == pytest.approx(6e-4 * 0.55, **SAME)  # halfway
    # of 7,990 steps the last is one step above the floor
    assert rates[-1] == pytest.approx(6e-5, rel=1e-6)
    assert rates[-1] > 6e-5


def test_production_is_adamw_with_1000_steps_of_warmup_that_stops_early():
    made, rates, optimizer = preset("production", 20)
    assert type(optimizer) is scratch_optim.AdamW
    assert groups_of(optimizer, "lr", "weight_decay") == [(1e-4, 0.01), (1e-4, 0.0)]
    assert (made.patience, made.clip_grad_norm, made.dropout) == (10, 1.0, 0.1)
    assert rates[:1000] == pytest.approx([1e-4 * (i + 1) / 1000 for i in range(1000)], **SAME)
    expected = reference("CosineAnnealingLR", 1000, T_max=1000)
    # float64; near its end the half cosine is a difference of two numbers that are nearly equal
    assert rates[1000:] == pytest.approx([1e-4 * f for f in expected], rel=1e-9, abs=1e-16)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_may_be_given_for_a_perceptron(name):
    made = make_config(preset=name, model="mlp", device="cpu", log_dir="no/where")
    assert build_model(made, 10, (3, 32, 32))(torch.randn(2, 3, 32, 32)).shape == (2, 10)


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


@pytest.mark.parametrize(("name", "head"), [("resnet20", "fc"), ("mlp", "output")])
def test_adaptive_clipping_and_muon_leave_the_classifier_out(name, head):
    made = config(model=name, optim="scratch", optimizer="muon", muon_head=False)
    model = build_model(made, 10, (1, 8, 8))
    found = {id(p) for p in units(model)}
    left = [name for name, p in model.named_parameters() if id(p) not in found]
    assert left == [f"{head}.weight", f"{head}.bias"]
    *_, last = build_optimizer(made, model).param_groups
    assert not last["use_muon"]
    assert [id(p) for p in last["params"]] == [id(model.get_parameter(f"{head}.weight"))]


def test_a_way_to_run_that_the_optimizer_lacks_is_refused():
    with pytest.raises(UsageError, match=r"--fused: .*RMSprop has no such way to run"):
        build_optimizer(config(optimizer="rmsprop", fused=True), nn.Linear(1, 1))


def test_one_seed_gives_the_same_weights_in_both_stacks():
    states = []
    for layers in ("torch", "scratch"):
        torch.manual_seed(0)
        states.append(build_model(config(layers=layers, dropout=0.1), 10, (1, 8, 8)).state_dict())
    one, two = states
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_layers_come_from_the_library_asked_for():
    import scratch_layers

    for layers, module in (("torch", nn), ("scratch", scratch_layers)):
        made = build_model(config(layers=layers), 10, (1, 8, 8))
        norms = [m for m in made.modules() if isinstance(m, nn.BatchNorm2d)]
        assert {type(m) for m in norms} == {module.BatchNorm2d}


@pytest.mark.parametrize("layers", ["scratch", "torch"])
@pytest.mark.parametrize("norm", NORMS)
def test_normalizations_are_all_of_the_kind_that_is_asked_for(layers, norm):
    model = build_model(config(layers=layers, norm=norm), 10, (1, 8, 8))
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
    model = build_model(config(layers=layers, activation=activation), 10, (1, 8, 8))
    cls = getattr(scratch_layers if layers == "scratch" else nn, activation)
    found = [m for m in model.modules() if "activation" in type(m).__module__]
    assert len(found) >= 10
    assert all(type(m) is cls for m in found)


@pytest.mark.parametrize("layers", ["scratch", "torch"])
@pytest.mark.parametrize(
    ("norm", "kind"), [("batch", "BatchNorm1d"), ("layer", "LayerNorm"), ("none", None)]
)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32)])
def test_a_perceptron_is_built_of_what_is_asked_for(layers, norm, kind, shape):
    module = scratch_layers if layers == "scratch" else nn
    made = config(
        layers=layers, model="mlp", norm=norm, hidden=[24, 16], dropout=0.25, activation="Tanh",
        norm_last=kind is not None,
    )  # fmt: skip
    assert made.hidden == (24, 16)
    model = build_model(made, 7, shape)
    linear = [(m.in_features, m.out_features) for m in model.modules() if isinstance(m, nn.Linear)]
    assert linear == [(math.prod(shape), 24), (24, 16), (16, 7)]
    rest = ["activation", "norm"] if kind else ["activation"]
    for part in model.hidden:
        assert list(part._modules) == ["linear", *rest, "dropout"]
        assert type(part.activation) is module.Tanh
        assert (type(part.dropout), part.dropout.p) == (module.Dropout, 0.25)
        if kind:
            assert type(part.norm) is getattr(module, kind)
    assert model(torch.randn(2, *shape)).shape == (2, 7)


def test_initial_weights_of_a_perceptron_have_the_size_that_their_name_says():
    g, fan_in, fan_out = math.sqrt(2), 256, 512  # ReLU's gain; of the second layer
    expected = {
        "he": g / math.sqrt(fan_in), "glorot": g * math.sqrt(2 / (fan_in + fan_out)),
        "orthogonal": g / math.sqrt(fan_out), "normal1": 1.0, "small": 0.01, "zeros": 0.0,
    }  # fmt: skip
    assert set(expected) == set(INITS) == set(MLP_INITS)
    for name, size in expected.items():
        torch.manual_seed(0)
        made = config(model="mlp", hidden=(fan_in, fan_out), init=name)
        model = build_model(made, 10, (1, 8, 8))
        # 131,072 draws: a standard error of 0.2 %, of which 5 fit into a percent
        second = model.hidden[1].linear
        assert second.weight.square().mean().sqrt().item() == pytest.approx(size, rel=0.01)
        assert second.bias.count_nonzero() == 0
    W = build_model(config(model="mlp", hidden=(32, 32), init="orthogonal"), 10, (1, 8, 8))
    found = torch.linalg.svdvals(W.hidden[1].linear.weight)
    torch.testing.assert_close(found, torch.full((32,), g))


def test_a_perceptron_of_the_command_line_is_the_default_of_the_library():
    assert (ALWAYS["init"], ALWAYS["norm_last"]) == ("he", False)
    states = []
    for build in (
        lambda: build_model(config(model="mlp"), 10, (1, 8, 8)),
        lambda: mlp(in_features=64),
    ):
        torch.manual_seed(0)
        states.append(build().state_dict())
    one, two = states
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_the_bias_lr_is_a_multiple_and_that_of_frozen_biases_is_none():
    made = config(optimizer="sgd", lr=0.5, bias_lr=64.0)
    weights, others = build_optimizer(made, nn.Linear(2, 2)).param_groups
    assert (weights["lr"], others["lr"]) == (0.5, 32.0)
    frozen = build_model(
        config(dataset="cifar10", model="air94", whitening_bias=False), 10, (3, 32, 32)
    )
    learns = [name for name, p in frozen.named_parameters() if p.requires_grad]
    assert not any(name.startswith("whiten") for name in learns)
