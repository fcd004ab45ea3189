"""A comparison says what its runs say: in its table, its figures and its curves."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

import compare
import scratch_optim
from scratch_optim import lr_scheduler
from training import comparison, experiments, untrained
from training.comparison import LOSS_OF_STEPS, TRAINING_LOSS, Asked, Comparison, Curve, Variant
from training.errors import UsageError
from training.experiments import COMPARISONS, EXPERIMENTS, UncorrectedAdam
from training.figures import Panel, draw_lines
from training.options import ACTIVATIONS, OPTIMIZERS, SCHEDULES

pytestmark = pytest.mark.usefixtures("elsewhere")

TINY = Comparison(
    "tiny",
    "Two variants, one of which cannot but diverge.",
    [
        Variant("good", {"lr": 0.05}),
        Variant("far too fast", {"lr": 1e30}),
    ],
    {"hidden": (16,), "optimizer": "sgd", "weight_decay": 0.0, "epochs": 2, "batch_size": 128},
    curves=[TRAINING_LOSS, LOSS_OF_STEPS],
    seeds=2,
    target=0.3,
)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Comparison:
    monkeypatch.setitem(EXPERIMENTS, TINY.name, TINY)
    return TINY


def test_table_record_figure_and_curves_say_what_the_runs_did(tiny, capsys):
    assert compare.main(["tiny", "--log-dir", "out"]) == 0  # a divergence is a result
    record = json.loads(Path("out/results.json").read_text())["tiny"]
    good, fast = record["variants"]
    assert [run["seed"] for run in good["runs"]] == [0, 1]
    assert all("loss" in run["diverged"] or "finite" in run["diverged"] for run in fast["runs"])
    assert record["versions"]["torch"] == torch.__version__
    assert record["environment"]["threads"] == "1"

    told = capsys.readouterr().out
    assert "diverged in 2 of 2 seeds" in told
    row = next(line for line in told.splitlines() if line.startswith("good  "))
    tests = [100 * run["test_accuracy"] for run in good["runs"]]
    gaps = [100 * (run["train_accuracy"] - run["test_accuracy"]) for run in good["runs"]]
    for values in (tests, gaps):
        error = statistics.stdev(values) / math.sqrt(2)
        assert f"{statistics.mean(values):.1f} ± {error:.1f}" in row

    assert_is_drawn(Path("out/tiny.png"))
    run = good["runs"][1]
    events = EventAccumulator("out/tiny/good/seed-1").Reload()
    losses = [(point.step, point.value) for point in events.Scalars("train_epoch/loss")]
    assert [step for step, _ in losses] == run["steps"] == [10, 20]
    assert [value for _, value in losses] == pytest.approx(run["curves"]["train_loss"])
    assert len(events.Scalars("train/loss")) == 20
    assert EventAccumulator("out/tiny").Reload().Images("tiny")


def assert_is_drawn(path: Path) -> None:
    pixels = np.asarray(Image.open(path).convert("L"))
    inked = (pixels < 128).mean()
    assert 0.001 < inked < 0.5, f"{inked:.2%} of {path} is dark"


def run(seed: int, **values: Any) -> dict[str, Any]:
    curves = {"train_loss": [2.0, 1.0], "validation_accuracy": [0.5, 0.9]}
    return {"seed": seed, "diverged": None, "steps": [1, 2], "curves": curves, **values}


def fine(seed: int, train: float, test: float, reached: int | None) -> dict[str, Any]:
    return run(
        seed, train_accuracy=train, test_accuracy=test, seconds=1.0, epochs_to_target=reached
    )


def test_the_table_has_the_means_of_the_seeds_that_did_not_diverge_and_counts_the_others():
    runs = [fine(0, 0.99, 0.96, 3), fine(1, 0.97, 0.92, None), run(2, diverged="loss nan")]
    variant = {"name": "one", "label": "one", "panel": "", "runs": runs}
    record = {"dataset": "digits", "target": 0.95, "seeds": [0, 1, 2], "variants": [variant]}
    head, [row] = Comparison.table(record)
    assert head[-1] == "epochs to 95 %"
    cells = ["one", "98.0 ± 1.0", "94.0 ± 2.0, diverged in 1 of 3 seeds", "4.0 ± 1.0", "1.00"]
    assert row == [*cells, "3.0 (1 of 2)"]


def test_runs_that_diverged_are_in_no_mean_and_end_in_a_cross():
    variant = {"label": "a", "runs": [fine(0, 1.0, 1.0, 1), run(1, diverged="x")]}
    variant["runs"][1]["curves"] = {"validation_accuracy": [0.2]}
    error = Curve("validation_accuracy", "error, %", error=True)
    axes = Figure().subplots()
    line = comparison._line(variant, error)
    draw_lines(axes, Panel("", [line], "epoch", "error, %", log=True))
    mean, gone, cross = axes.lines
    assert mean.get_ydata() == pytest.approx([50, 10])
    assert gone.get_ydata() == pytest.approx([80])
    assert cross.get_marker() == "X"
    assert {line.get_color() for line in axes.lines} == {mean.get_color()}


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["optimisers"], "Did you mean optimizers?"),
        (["butter"], "butter: there is no such experiment"),
        (["optimizers", "--optimizer", "sgd"], "--optimizer: the experiment optimizers compares"),
        (["optimizers", "--seed", "1"], "--seed: a comparison decides that"),
        (["optimizers", "--seeds", "0"], "--seeds 0: give a whole number"),
        (["optimizers", "--lr", "-1"], "--lr -1"),
        (["optimizers", "--seeds", "9", "--update"], "--update: the documentation has"),
        (["optimizers", "--model", "resnet20", "--hidden", "8"], "--hidden 8: it would do nothing"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(argv, part, capsys, monkeypatch):
    monkeypatch.setattr("training.comparison.train", None)
    assert compare.main(argv) == 2
    assert part in capsys.readouterr().err
    assert not list(Path().rglob("*"))


def test_a_folder_that_holds_comparisons_is_left_alone(tiny, capsys):
    Path("out").mkdir()
    Path("out/results.json").write_text("{}")
    assert compare.main(["tiny", "--log-dir", "out"]) == 2
    assert "this folder holds other comparisons" in capsys.readouterr().err


@pytest.mark.parametrize("dataset", ["digits", "cifar10"])
@pytest.mark.parametrize("comparison", COMPARISONS, ids=lambda each: each.name)
def test_every_variant_is_possible(comparison, dataset):
    found = comparison.configurations(Asked({"dataset": dataset}))
    assert len({variant.name for variant, _ in found}) == len(comparison.variants)


def test_another_model_takes_the_place_of_the_perceptron():
    given = {"model": "resnet20", "epochs": 1}
    for _, options in EXPERIMENTS["optimizers"].configurations(Asked(given)):
        assert options["model"] == "resnet20"
        assert "hidden" not in options
    with pytest.raises(UsageError, match="init"):
        EXPERIMENTS["initializations"].configurations(Asked(given))


def test_nothing_that_there_is_is_left_out():
    def names(experiment: str) -> set[str]:
        return {variant.name for variant in EXPERIMENTS[experiment].variants}

    assert names("optimizers") == set(OPTIMIZERS)
    assert names("activations") == set(ACTIVATIONS)
    assert names("schedules") == set(SCHEDULES)
    # the two base classes, and the one that watches a metric
    others = {"LRScheduler", "_LRScheduler", "ReduceLROnPlateau", "EPOCH_DEPRECATION_WARNING"}
    assert untrained.SCHEDULES.keys() == set(lr_scheduler.__all__) - others


@pytest.mark.parametrize("name", ["activation-functions", "schedule-curves"])
def test_what_needs_no_training_is_drawn(name):
    assert compare.main([name, "--log-dir", "out"]) == 0
    assert_is_drawn(Path(f"out/{name}.png"))


def test_schedules_are_those_of_their_equations():
    found = EXPERIMENTS["schedule-curves"].measure(Asked({}))["schedules"]
    rates = {name: curve["rates"] for name, curve in found.items()}
    t = np.arange(untrained.STEPS + 1)
    for name, expected in {
        "ExponentialLR": 0.96**t,
        "InverseTimeLR": 1 / (1 + 0.09 * t),
        "CosineAnnealingLR": (1 + np.cos(np.pi * t / 100)) / 2,
        "StepLR": 0.4 ** (t // 25),
    }.items():
        # five significant digits are kept; near 0 the recursion has rounding errors
        assert rates[name] == pytest.approx(expected, rel=5e-5, abs=1e-9)


def test_derivatives_are_those_of_the_functions():
    record = EXPERIMENTS["activation-functions"].measure(Asked({}))
    for name, curves in record["functions"].items():
        y, slope = np.array(curves["value"]), np.array(curves["derivative"])
        # the mean of two neighbours' slopes is a difference, but for h² / 12 of the third
        # derivative, which is below 10 here, for the rounding of two values below 10 to five
        # digits, and for the intervals at kinks and jumps
        h = 0.05
        bound = h**2 * 10 / 12 + 2 * 5e-5 / h + 1e-4
        wrong = abs(np.diff(y) / h - (slope[1:] + slope[:-1]) / 2) > bound
        assert wrong.sum() <= 4, name


def test_walks_begin_at_the_start_and_end_lower_and_a_saddle_is_left(monkeypatch):
    monkeypatch.setattr(untrained, "RATES", (0.002, 0.01, 0.1))
    monkeypatch.setattr(
        untrained, "WALKERS", {name: untrained.WALKERS[name] for name in ("SGD", "Adam")}
    )
    monkeypatch.setattr(untrained, "WALK", 60)
    record = EXPERIMENTS["landscapes"].measure(Asked({}))
    for landscape in untrained.LANDSCAPES:
        for way in record["landscapes"][landscape.title].values():
            assert way["path"][0] == list(landscape.start)
            for point, value in zip(way["path"], way["values"], strict=True):
                # rounded to five digits, where f rises by 400 a unit at most: 400 times 1e-5
                here = landscape.f(*point) - landscape.lowest
                assert value == pytest.approx(here, rel=5e-3, abs=4e-3)
            assert way["values"][-1] < way["values"][0]
    _, rows = EXPERIMENTS["landscapes"].table(record)
    assert [row[0] for row in rows] == ["SGD", "Adam"]


def test_uncorrected_adam_is_adam_without_the_corrections():
    torch.manual_seed(0)
    start = torch.randn(5, dtype=torch.float64)
    gradients = torch.randn(4, 5, dtype=torch.float64)
    lr, beta1, beta2, eps = 0.1, 0.9, 0.999, 1e-8

    theta, m, v = start.clone(), torch.zeros(5).double(), torch.zeros(5).double()
    for g in gradients:
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        theta = theta - lr * m / (v.sqrt() + eps)

    def after(cls: type, steps: int) -> torch.Tensor:
        p = nn.Parameter(start.clone())
        optimizer = cls([p], lr, (beta1, beta2), eps)
        for g in gradients[:steps]:
            p.grad = g.clone()
            optimizer.step()
        return p.detach()

    # a dozen roundings of float64
    torch.testing.assert_close(after(UncorrectedAdam, 4), theta, rtol=1e-14, atol=1e-14)
    moved = (after(UncorrectedAdam, 1) - start) / (after(scratch_optim.Adam, 1) - start)
    factor = torch.full_like(moved, (1 - beta1) / (1 - beta2) ** 0.5)
    torch.testing.assert_close(moved, factor, rtol=1e-4, atol=0)  # eps by sqrt(v)


def test_the_comparison_without_correction_trains_by_it():
    corrected, uncorrected = EXPERIMENTS["bias-correction"].variants[:2]
    assert corrected.options == uncorrected.options
    assert uncorrected.optimizer is experiments.uncorrected_adam


def test_the_documentation_shows_what_the_record_says():
    records = compare.read(compare.RESULTS)
    text = compare.PAGE.read_text()
    assert records.keys() == EXPERIMENTS.keys()
    assert compare.filled(text, records) == text
    for name in EXPERIMENTS:
        assert f"pictures/compare/{name}.png" in text
        picture = compare.PICTURES / f"{name}.png"
        assert picture.stat().st_size < 150_000
        assert_is_drawn(picture)
