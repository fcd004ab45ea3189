"""The cup: every contestant gets the same, and what is done is not done twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import cup

pytestmark = pytest.mark.usefixtures("elsewhere")

SMALL = [
    "--epochs", "1", "--batch-size", "646", "--device", "cpu", "--layers", "torch",
    "--trials", "2", "--seeds", "2",
]  # fmt: skip


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_contestants_have_the_same_trials_and_seeds_and_are_ranked(capsys, monkeypatch):
    argv = ["optimizer", "--only", "sgd", "adam", *SMALL, "--out", "cup"]
    assert cup.main(argv) == 0
    found = lines(Path("cup/results.jsonl"))
    drawn = [(line["config"]["optimizer"], line["config"]["seed"]) for line in found]
    assert drawn == [("sgd", 0), ("sgd", 1), ("adam", 0), ("adam", 1)]
    for name in ("sgd", "adam"):
        # what was best by validation is what is trained
        of_it = [line["config"] for line in found if line["config"]["optimizer"] == name]
        assert len({(c["lr"], c["weight_decay"], c["momentum"]) for c in of_it}) == 1
    out = capsys.readouterr().out
    assert out.count("trial 0:") == out.count("trial 1:") == 2
    ranking = Path("cup/ranking.md").read_text()
    assert "sgd" in ranking
    assert "adam" in ranking
    assert Path("cup/ranking.html").exists()

    # the same command trains nothing
    monkeypatch.setattr("training.series.train", None)
    monkeypatch.setattr("tune.train", None)
    before = Path("cup/results.jsonl").read_bytes()
    assert cup.main([*argv, "--json", "kept/cup.json"]) == 0
    assert Path("cup/results.jsonl").read_bytes() == before

    # a report that cannot be written is one message, and costs nothing else
    assert cup.main([*argv, "--json", "cup"]) == 2
    assert "cannot write cup" in capsys.readouterr().err

    # and the report is of these results
    report = json.loads(Path("kept/cup.json").read_text())
    assert (report["cup"], report["trials"], report["seeds"]) == ("optimizer", 2, 2)
    assert "optimizer" not in report["common"]
    means = [row["test_accuracy"] for row in report["rows"]]
    assert means == sorted(means, reverse=True)
    for row in report["rows"]:
        theirs = [x for x in found if x["config"]["optimizer"] == row["optimizer"]]
        assert row["test_accuracies"] == [x["test_accuracy"] for x in theirs]
        assert row["test_accuracy"] == pytest.approx(sum(row["test_accuracies"]) / 2)  # float64
        assert row["options"] == {name: theirs[0]["config"][name] for name in row["options"]}


def test_an_optimizer_of_ones_own_is_a_contestant(capsys):
    argv = ["optimizer", "--only", "torch.optim:Adadelta", *SMALL, "--seeds", "1", "--out", "cup"]
    assert cup.main(argv) == 0
    assert "2 trials over lr, weight_decay" in capsys.readouterr().out
    (line,) = lines(Path("cup/results.jsonl"))
    assert line["config"]["optimizer"] == "torch.optim:Adadelta"
    assert "torch.optim:Adadelta" in Path("cup/ranking.md").read_text()


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["norm", "--only", "butter"], "--only butter: choose from batch, group"),
        (["optimizer", "--only", "sgd", "nowhere:Sign"], "--optimizer nowhere:Sign: cannot find"),
        (["optimizer", "--trials", "0"], "--trials 0: give 1 or more"),
        (["activation", "--lr", "-1"], "--lr -1.0"),
        (["optimizer", "--report", "--json", "x.json"], "--json x.json: it says how many trials"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(capsys, argv, part):
    assert cup.main(argv) == 2
    assert part in capsys.readouterr().err
    assert not list(Path().rglob("*.jsonl"))
