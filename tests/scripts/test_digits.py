"""The challenge: both recipes are trained alike, and what is said of them is what came out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import digits
from training.result import flat_json
from training.statistics import summarize

pytestmark = pytest.mark.usefixtures("elsewhere")

SMALL = [
    "--seeds", "2", "--epochs", "3", "--hidden", "16", "--batch-size", "300", "--device", "cpu",
    "--dropout", "0.2",  # of the regularized one only
    "--layers", "torch", "--optim", "torch", "--log-dir", "runs", "--report", "report.json",
    "--picture", "picture.png",
]  # fmt: skip


def test_both_recipes_are_trained_with_the_same_seeds_and_reported(capsys, monkeypatch):
    assert digits.main(SMALL) == 1  # so short a training does not do it
    out = capsys.readouterr().out
    report = json.loads(Path("report.json").read_text())
    assert set(report["recipes"]) == {"plain", "regularized"}
    for name, recipe in report["recipes"].items():
        results = [
            json.loads(Path(f"runs/{name}/seed-{k}/result.json").read_text()) for k in (0, 1)
        ]
        assert recipe["seeds"] == [0, 1]
        for key, found in recipe["figures"].items():
            values = [result[key] for result in results]
            assert recipe["runs"][key] == values
            summary = summarize(values)
            assert (found["mean"], found["standard_error"]) == (
                summary.mean,
                summary.standard_error,
            )
        gaps = [result["train_accuracy"] - result["test_accuracy"] for result in results]
        assert recipe["runs"]["gap"] == gaps
        assert [len(run) for run in recipe["curves"]["training"]] == [3, 3]
        assert f"{100 * recipe['figures']['test_accuracy']['mean']:.2f}" in out
        assert f"{name} does not have a test accuracy above 97%" in out
        assert recipe["config"]["hidden"] == [16]
        assert recipe["config"]["augment"] == []
    one, two = (report["recipes"][name]["config"] for name in ("plain", "regularized"))
    differ = {key for key in one if one[key] != two[key]}
    assert differ == {"dropout", "weight_decay", "patience"}
    assert (one["dropout"], one["weight_decay"], one["patience"]) == (0.0, 0.0, 0)
    assert two["dropout"] == 0.2
    assert min(two["weight_decay"], two["patience"]) > 0
    assert Image.open("picture.png").size == (1200, 552)

    # the same command trains nothing
    monkeypatch.setattr("training.series.train", None)
    before = Path("report.json").read_text()
    assert digits.main(SMALL) == 1
    assert Path("report.json").read_text() == before


def recipe(accuracy: float, gap: float) -> dict[str, Any]:
    return {"figures": {"test_accuracy": {"mean": accuracy}, "gap": {"mean": gap}}}


def test_the_challenge_is_met_by_both_figures_only():
    assert digits.is_met(recipe(0.9701, 0.0299))
    assert not digits.is_met(recipe(0.97, 0.0299))
    assert not digits.is_met(recipe(0.9701, 0.03))


def test_a_report_is_json_with_a_list_of_numbers_on_a_line():
    report = {"a": [1, -2.5e-3], "b": {"c": [[0.5], [0.25, 1.0]], "d": "x"}, "e": []}
    text = flat_json(report)
    assert json.loads(text) == report
    assert '"a": [ 1, -0.0025 ],' in text


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["--seeds", "1"], "--seeds 1: an interval needs several"),
        (["--report", "no/where.json"], "--report no/where.json: there is no such folder"),
        (["--lr", "-1"], "--lr -1.0"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(capsys, argv, part):
    assert digits.main([*SMALL, *argv]) == 2
    assert part in capsys.readouterr().err
    assert not list(Path().rglob("*"))
