"""The cost of TensorBoard is measured on the same steps, and all of it is counted."""

from __future__ import annotations

import json

import pytest
import torch

import board_cost
import timed_run
from benchmark import Clock
from tests.training.conftest import TinyNet, tiny_data
from training import recipes
from training.options import make_config


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(timed_run, "load_data", lambda *args: tiny_data())
    monkeypatch.setattr(recipes, "build_model", lambda c, k, s: TinyNet(k, s[0], c.dropout))


def test_report_has_a_share_for_every_part_of_the_run(tiny, tmp_path):
    out = tmp_path / "cost.json"
    argv = ["--seconds", "0", "--rounds", "2", "--out", str(out)]
    argv += ["--batch-size", "8", "--epochs", "4", "--log-every", "3", "--device", "cpu"]
    assert board_cost.main([*argv, "--pictures-every", "2"]) == 0
    report = json.loads(out.read_text())
    rows = {row["what"]: row for row in report["rows"]}
    assert report["share"] == pytest.approx(sum(row["share"] for row in rows.values()))
    assert rows["points"]["share"] == rows["points"]["ratio"] - 1
    # 6 steps an epoch
    for what, steps in {"start": 24, "epoch": 6, "pictures": 12, "end": 24}.items():
        expected = rows[what]["microseconds"] / (steps * report["step_microseconds"])
        assert rows[what]["share"] == pytest.approx(expected)
        assert expected > 0
    assert report["config"]["log_every"] == 3


def test_both_trainers_take_the_same_steps(tiny, tmp_path, monkeypatch):
    trainers = []
    make = board_cost.make_trainer
    monkeypatch.setattr(
        board_cost, "make_trainer", lambda *args: trainers.append(make(*args)) or trainers[-1]
    )
    config = make_config(batch_size=8, log_every=3, device="cpu", log_dir=str(tmp_path))
    cpu = torch.device("cpu")
    board_cost.cost(config, tiny_data(), Clock(cpu, 0, 2), tmp_path / "events")
    without, shown = (t.run for t in trainers)
    assert (trainers[0].board, without.steps) == (None, shown.steps)
    assert without.steps == 3 * (2 + 2)  # two rounds are not counted
    states = without.model.state_dict(), shown.model.state_dict()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_what_cannot_be_is_refused(tiny, capsys):
    assert board_cost.main(["--lr", "-1"]) == 2
    assert "--lr -1.0" in capsys.readouterr().err
