"""Budgets of time, parts of epochs, sizes of images, presets, and views at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from training import budget, loop, options
from training.errors import UsageError
from training.loop import Trainer, six_views, train
from training.options import duration, make_config
from training.presets import PRESETS

pytestmark = pytest.mark.usefixtures("tiny")

STEPS_PER_EPOCH = 6  # 54 images in batches of 8


def config(folder: Path, **given: Any):
    given = {
        "log_dir": str(folder), "epochs": 3, "batch_size": 8, "device": "cpu", "quiet": True,
        "dropout": 0.3, "tensorboard": False, "optimizer": "adam",
    } | given  # fmt: skip
    return make_config(**given)


@pytest.mark.parametrize("epochs", [0.1, 0.5, 1.0, 1.5, 2.9])
def test_a_part_of_an_epoch_is_so_many_steps(tmp_path, epochs):
    result = train(config(tmp_path, epochs=epochs))
    assert result.steps == max(1, round(epochs * STEPS_PER_EPOCH))
    assert result.epochs == len(result.history) == -(-result.steps // STEPS_PER_EPOCH)
    assert result.history[-1]["step"] == result.steps


def test_the_sizes_follow_each_other_in_equal_parts(tmp_path, monkeypatch):
    seen: list[int] = []
    prepare = Trainer.prepare

    def spy(self, images, pixels=None):
        found = prepare(self, images, pixels)
        if self.run.model.training:
            seen.append(found.shape[3])
        return found

    monkeypatch.setattr(Trainer, "prepare", spy)
    train(config(tmp_path, resolutions=(8, 10, 12), epochs=2))
    assert seen == [8] * 4 + [10] * 4 + [12] * 4


def test_measuring_leaves_the_run_as_it_would_have_been(tmp_path, monkeypatch):
    plain = train(config(tmp_path / "plain", epochs=2))
    monkeypatch.setattr(budget, "steps_within", lambda seconds, per_step: 2 * STEPS_PER_EPOCH)
    fitted = train(config(tmp_path / "fitted", budget=1.0, epochs=99))
    states = [
        torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("plain", "fitted")
    ]
    for a, b in zip(states[0]["model"].values(), states[1]["model"].values(), strict=True):
        assert torch.equal(a, b)
    assert fitted.config["epochs"] == 2
    assert [row["train_loss"] for row in fitted.history] == [
        row["train_loss"] for row in plain.history
    ]


def test_steps_within_a_budget_take_that_long():
    assert budget.steps_within(10.0, [0.5]) == 20
    steps = budget.steps_within(60.0, [0.1, 0.2, 0.3])
    assert steps / 3 * (0.1 + 0.2 + 0.3) == pytest.approx(60, rel=0.01)
    assert budget.steps_within(0.0, [1.0, 2.0]) == 2


def test_a_resumed_run_keeps_the_epochs_that_were_fitted(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "steps_within", lambda seconds, per_step: 9)
    whole = train(config(tmp_path, budget=1.0))
    again = make_config(resume=str(tmp_path))
    assert again.epochs == whole.config["epochs"] == 9 / STEPS_PER_EPOCH


def test_without_a_holdout_all_images_train_and_none_validates(tmp_path, monkeypatch):
    data = loop.load_data()  # that of the fixture
    empty = loop.Split(data.validation.images[:0], data.validation.labels[:0])
    whole = type(data)(**{**vars(data), "validation": empty})
    monkeypatch.setattr("training.loop.load_data", lambda *args: whole)
    result = train(config(tmp_path, holdout=False))
    assert result.validation_accuracy is None
    assert result.best_validation_accuracy is None
    assert result.best_epoch == result.epochs
    assert "validation_loss" not in result.history[0]


def test_the_weights_of_the_views_add_up_to_one_and_mirrors_count_as_much():
    images = torch.arange(2 * 1 * 4 * 4, dtype=torch.uint8).view(2, 1, 4, 4)
    views = six_views(images)
    assert len(views) == 6
    assert sum(weight for _, weight in views) == 1
    for (view, a), (mirror, b) in zip(views[::2], views[1::2], strict=True):
        assert a == b
        assert view.dtype == images.dtype
        assert torch.equal(view.flip(3), mirror)
    assert torch.equal(views[0][0], images)
    up, down = views[2][0], views[4][0]
    assert torch.equal(up[:, :, 1:, 1:], images[:, :, :-1, :-1])
    assert torch.equal(down[:, :, :-1, :-1], images[:, :, 1:, 1:])


def test_a_network_that_is_blind_to_shifts_and_mirrors_is_tested_alike_by_views(
    tmp_path, monkeypatch
):
    class Blind(nn.Module):
        def __init__(self, config: Any, classes: int, shape: Any) -> None:
            super().__init__()
            self.fc = nn.Linear(1, classes)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x.mean((1, 2, 3), keepdim=True)[:, :, 0, 0] * 0)

    monkeypatch.setattr("training.recipes.build_model", Blind)
    result = train(config(tmp_path, tta=True))
    assert result.test_accuracy_tta == result.test_accuracy
    assert result.tta_seconds > 0


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("1.5h", 5400), ("300", 300)]
)
def test_times_are_read_with_their_units(text, seconds):
    assert duration(text) == seconds


def test_a_preset_gives_what_is_not_given_otherwise(tmp_path):
    made = make_config(preset="cpu5m", log_dir=str(tmp_path), device="cpu")
    fixed = {name: value for name, value in PRESETS["cpu5m"].items() if value != "auto"}
    assert {name: getattr(made, name) for name in fixed} == fixed
    assert {name for name, value in PRESETS["cpu5m"].items() if value == "auto"} == {
        "amp",
        "cuda_graph",
    }
    assert make_config(preset="cpu5m", log_dir=str(tmp_path), model="air94").model == "air94"
    assert make_config(preset="cpu5m", log_dir=str(tmp_path), epochs=2).budget == 0
    other = make_config(preset="air94", log_dir=str(tmp_path), optimizer="sgd", muon_head=True)
    assert other.lr == options.BY_OPTIMIZER["sgd"]["lr"]
    with pytest.raises(UsageError, match=r"--preset air99: choose one of resnet20"):
        make_config(preset="air99", log_dir=str(tmp_path))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_and_is_what_it_says(name, tmp_path):
    given = {"preset": name, "log_dir": str(tmp_path), "device": "cpu"}
    made = make_config(**given)
    for key, value in PRESETS[name].items():
        auto = {("amp", "auto"), ("cuda_graph", "auto")}
        assert getattr(made, key) == value or (key, value) in auto
    # of a run of another length the warm-up is the same share, unless it is given
    shorter = make_config(**given, epochs=made.epochs / 2)
    assert shorter.warmup == pytest.approx(made.warmup / 2)
    assert make_config(**given, warmup=0.25).warmup == 0.25
    assert make_config(**given, warmup=0.25).warmup_steps == 0
    in_steps = make_config(**given, warmup_steps=7)
    assert (in_steps.warmup, in_steps.warmup_steps) == (0.0, 7)
    other = make_config(**given, schedule="none")
    assert (other.lr_floor, other.milestones) == (0.0, (0.5, 0.75))
