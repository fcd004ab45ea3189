"""Recipes: the options arrive where they belong, the schedules are the curves they are named."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from training.errors import UsageError
from training.options import OPTIMIZERS, SCHEDULES, Config, make_config
from training.recipes import build_model, build_optimizer, build_schedule


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


def reference(name: str, total: int, **options) -> list[float]:
    """The same from torch's scheduler of that name."""
    optimizer = torch.optim.SGD([torch.zeros(1)], 1.0)
    schedule = getattr(torch.optim.lr_scheduler, name)(optimizer, **options)
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


def test_warmup_rises_linearly_to_the_peak_and_no_step_is_wasted():
    for name in ("cosine", "linear", "step", "none"):
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


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("optim", ["torch", "scratch"])
def test_options_reach_the_optimizer(optim, name):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    extra = {"momentum": 0.7} if name in ("sgd", "rmsprop") else {}
    made = config(optim=optim, optimizer=name, lr=0.25, weight_decay=0.125, foreach=False, **extra)
    optimizer = build_optimizer(made, model)
    assert type(optimizer).__name__.lower() == name
    assert type(optimizer).__module__.startswith("torch" if optim == "torch" else "scratch_optim")
    weights, others = optimizer.param_groups
    assert weights["lr"] == others["lr"] == 0.25
    assert weights["foreach"] is False
    assert (weights["weight_decay"], others["weight_decay"]) == (0.125, 0.0)
    assert [p.ndim for p in weights["params"]] == [4]
    assert [p.ndim for p in others["params"]] == [1, 1, 1]
    for key, value in extra.items():
        assert weights[key] == value
    if name == "sgd":
        assert weights["nesterov"] is True


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
