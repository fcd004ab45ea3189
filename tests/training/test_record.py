"""The clock of records: every run is a run of its own, and is what a normal run is."""

from __future__ import annotations

import json
import math

import pytest
import torch

import record
from timed_run import make_trainer
from training import loop
from training.options import make_config

pytestmark = pytest.mark.usefixtures("tiny")
GIVEN = {"epochs": 2, "batch_size": 8, "device": "cpu", "quiet": True, "tensorboard": False}


def trainer_of(folder, **given) -> loop.Trainer:
    made = make_config(log_dir=str(folder), **GIVEN | given)
    return make_trainer(made, loop.load_data())


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"average": "lookahead", "optimizer": "sgd"},
        {"average": "ema", "augment": ("altflip", "crop"), "mixup": 0.3},
        {"optimizer": "muon", "normalize_weights": True},
    ],
    ids=str,
)
def test_a_run_that_is_begun_anew_is_that_of_its_seed(tmp_path, given):
    used = trainer_of(tmp_path, **given)
    memory = {name: p.data_ptr() for name, p in used.run.model.named_parameters()}
    states = []
    for seed in (5, 6, 5):
        used.restart(seed)
        used.fit_unwatched()
        states.append({name: x.clone() for name, x in used.run.model.state_dict().items()})
    assert memory == {name: p.data_ptr() for name, p in used.run.model.named_parameters()}
    fresh = trainer_of(tmp_path, seed=5, **given)
    fresh.fit_unwatched()
    for name, x in fresh.run.model.state_dict().items():
        assert torch.equal(states[0][name], x), name
        assert torch.equal(states[2][name], x), name
    assert not torch.equal(states[0]["conv.weight"], states[1]["conv.weight"])


def test_unwatched_training_is_what_the_loop_does(tmp_path):
    watched, unwatched = trainer_of(tmp_path / "a"), trainer_of(tmp_path / "b")
    watched.fit()
    unwatched.fit_unwatched()
    for name, x in watched.run.model.state_dict().items():
        assert torch.equal(x, unwatched.run.model.state_dict()[name]), name


def test_the_report_has_every_run_and_their_mean(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(record, "load_data", loop.load_data)
    out = tmp_path / "report.json"
    argv = ["--epochs", "2", "--batch-size", "8", "--runs", "3", "--target", "0.3", "--tta"]
    assert record.main([*argv, "--device", "cpu", "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["runs"]["seed"] == [1, 2, 3]
    for name in ("seconds", "accuracy", "accuracy_tta"):
        values = report["runs"][name]
        assert math.isclose(report["summary"][name]["mean"], sum(values) / 3)
    assert min(report["cold_seconds"], *report["runs"]["seconds"]) > 0
    printed = capsys.readouterr().out
    assert "mean and standard error of 3 runs" in printed
    assert "above 30.00%" in printed


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--runs", "0"], "--runs 0: give a whole number"),
        (["--target", "94"], "--target 94.0: give a share, such as 0.94"),
        (["--out", "no/where/report.json"], "there is no folder no/where. Make it first"),
        (["--budget", "10s"], "goes from its beginning to the end of --epochs"),
        (["--optim", "torch"], "of scratch_optim is needed to begin anew"),
    ],
)
def test_what_cannot_be_timed_is_told(tmp_path, capsys, monkeypatch, argv, words):
    monkeypatch.setattr(record, "load_data", loop.load_data)
    assert record.main(["--batch-size", "8", "--device", "cpu", *argv]) == 2
    assert words in capsys.readouterr().err


def test_a_loss_that_is_not_finite_is_no_result(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "load_data", loop.load_data)
    argv = ["--batch-size", "8", "--device", "cpu", "--lr", "1e30", "--optimizer", "sgd"]
    assert record.main(argv) == 1
    assert "the loss is not finite at step" in capsys.readouterr().err


def test_images_for_peers_are_those_of_the_data(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "load_data", loop.load_data)
    assert record.main(["--export", str(tmp_path / "peer")]) == 0
    data = loop.load_data()
    for name in ("train", "test"):
        written = torch.load(tmp_path / "peer" / f"{name}.pt", weights_only=True)
        assert written["images"].dtype == torch.uint8
        assert torch.equal(written["images"].permute(0, 3, 1, 2), getattr(data, name).images)
        assert torch.equal(written["labels"], getattr(data, name).labels)
