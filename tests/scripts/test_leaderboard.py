"""Uncertainty is what scipy and closed forms say it is; the ranking tells what runs hold."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import leaderboard
from training import options
from training.result import Result
from training.statistics import (
    Summary,
    expected_calibration_error,
    p_value_above,
    summarize,
    welch,
)

RTOL = 1e-9
"""Of sums in another order (some 1e-15) through quantiles of t, which double that of digits."""
EPS = np.finfo(float).eps

A = [0.9401, 0.9387, 0.9415, 0.9399, 0.9420]
B = [0.9380, 0.9391, 0.9372]
FAR = [0.80, 0.81, 0.802]


def nearly(value: float) -> Any:
    return pytest.approx(value, rel=RTOL, abs=0)


# ------------------------------------------------------------------ statistics


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("values", [A, B, [3.0, -1e3]])
def test_a_summary_is_scipys(values, confidence):
    found = summarize(values, confidence)
    interval = stats.ttest_1samp(values, 0).confidence_interval(confidence)
    assert found.n == len(values)
    assert found.mean == nearly(np.mean(values))
    assert found.deviation == nearly(np.std(values, ddof=1))
    assert found.standard_error == nearly(stats.sem(values))
    assert (found.low, found.high) == (nearly(interval.low), nearly(interval.high))
    assert found.half_width == nearly((interval.high - interval.low) / 2)


def test_the_interval_of_two_values_is_that_of_cauchys_distribution():
    found = summarize([1.0, 4.0], 0.95)
    assert (found.mean, found.standard_error) == (2.5, nearly(1.5))
    assert found.half_width == nearly(1.5 * math.tan(0.95 * math.pi / 2))
    t = (2.5 - 2.0) / 1.5
    assert p_value_above([1.0, 4.0], 2.0) == nearly(0.5 - math.atan(t) / math.pi)


def test_the_order_of_values_changes_no_bit():
    values = [1e16, 1.0, -1e16, 0.1, 0.3]
    ways = list(itertools.permutations(values))
    assert len({summarize(way) for way in ways}) == 1
    assert len({p_value_above(way, 0.5) for way in ways}) == 1
    assert len({welch(way, A) for way in ways}) == 1


@pytest.mark.parametrize("scale", [2.0**-600, 2.0**-3, 2.0**400])
def test_results_scale_with_their_unit_and_p_values_have_none(scale):
    scaled = [scale * x for x in A]
    for one, other in zip(
        dataclasses.astuple(summarize(A))[1:],
        dataclasses.astuple(summarize(scaled))[1:],
        strict=True,
    ):
        assert other == nearly(scale * one)
    assert p_value_above(scaled, scale * 0.94) == nearly(p_value_above(A, 0.94))
    assert welch(scaled, [scale * x for x in B]) == nearly(welch(A, B))


def test_the_interval_holds_the_true_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    draws, inside, below = 2000, 0, 0
    for _ in range(draws):
        values = rng.normal(3.0, 2.0, 4).tolist()
        found = summarize(values, 0.8)
        inside += found.low <= 3.0 <= found.high
        below += p_value_above(values, 3.0) < 0.1
    # four deviations of a binomial count
    assert abs(inside - 0.8 * draws) < 4 * math.sqrt(draws * 0.8 * 0.2)
    assert abs(below - 0.1 * draws) < 4 * math.sqrt(draws * 0.1 * 0.9)


@pytest.mark.parametrize("target", [0.93, 0.94, 0.9404, 0.95])
def test_the_test_against_a_target_is_scipys_and_its_mirror_the_rest(target):
    expected = stats.ttest_1samp(A, target, alternative="greater").pvalue
    assert p_value_above(A, target) == nearly(expected)
    mirrored = p_value_above([-x for x in A], -target)
    assert p_value_above(A, target) + mirrored == nearly(1.0)


def test_the_mean_itself_as_target_is_a_coin():
    assert p_value_above([1.0, 2.0, 3.0], 2.0) == 0.5


@pytest.mark.filterwarnings("ignore:Precision loss")  # scipy's, of a set with deviation 0
@pytest.mark.parametrize(("a", "b"), [(A, B), (A, FAR), (B, [0.9, 0.9, 0.9]), (A, [1.0, 5e4])])
def test_welch_is_scipys_and_symmetric(a, b):
    assert welch(a, b) == nearly(stats.ttest_ind(a, b, equal_var=False).pvalue)
    assert welch(b, a) == welch(a, b)


def test_welch_finds_no_difference_of_a_set_from_itself():
    assert welch(A, A) == 1


def test_one_run_has_a_mean_and_no_uncertainty():
    found = summarize([0.9])
    assert (found.n, found.mean) == (1, 0.9)
    for value in (found.deviation, found.standard_error, found.low, found.high, found.half_width):
        assert math.isnan(value)
    assert math.isnan(p_value_above([0.9], 0.1))
    for pair in (([0.9], A), (A, [0.9]), ([0.9], [0.9])):
        assert math.isnan(welch(*pair))


def test_equal_values_give_no_p_value():
    equal = [0.1 + 0.2] * 3
    assert summarize(equal).deviation == 0
    assert math.isnan(p_value_above(equal, 0.1))
    assert math.isnan(welch(equal, [0.7, 0.7]))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: summarize([]), "at least one run"),
        (lambda: p_value_above([], 0.9), "at least one run"),
        (lambda: welch(A, []), "at least one run"),
        (lambda: summarize([0.9, math.nan]), "nan"),
        (lambda: welch([math.inf], A), "inf"),
        (lambda: p_value_above(A, math.nan), "target nan"),
        (lambda: summarize(A, 95), "confidence 95"),
    ],
)
def test_what_has_no_mean_is_refused_by_value(call, named):
    with pytest.raises(ValueError, match=named):
        call()


def predictor(*confident: tuple[float, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of two classes: (confidence, images, how many of them are right)."""
    logits, labels = [], []
    for confidence, images, right in confident:
        logits += [[math.log(confidence / (1 - confidence)), 0.0]] * images
        labels += [0] * right + [1] * (images - right)
    return torch.tensor(logits, dtype=torch.float64), torch.tensor(labels)


@pytest.mark.parametrize("bins", [1, 5, 15, 100])
def test_a_calibrated_predictor_has_no_calibration_error(bins):
    logits, labels = predictor((0.6, 10, 6), (0.75, 8, 6), (0.9, 20, 18))
    # sums of 38 terms below 1
    assert expected_calibration_error(logits, labels, bins) < 38 * EPS


@pytest.mark.parametrize("right", [0, 3, 10])
def test_a_predictor_that_is_always_sure_errs_by_its_error_rate(right):
    logits = torch.tensor([[1000.0, 0.0, 0.0]] * 10)
    labels = torch.tensor([0] * right + [2] * (10 - right))
    assert expected_calibration_error(logits, labels) == pytest.approx(1 - right / 10, abs=EPS)


def test_calibration_error_is_the_formula_bin_by_bin():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(500, 4, generator=generator) * 2
    labels = torch.randint(4, (500,), generator=generator)
    probability = torch.softmax(logits.double(), 1).numpy()
    confidence, right = probability.max(1), probability.argmax(1) == labels.numpy()
    expected = 0.0
    for m in range(1, 8):
        inside = (confidence > (m - 1) / 7) & (confidence <= m / 7)
        if inside.any():
            gap = abs(right[inside].mean() - confidence[inside].mean())
            expected += inside.sum() / 500 * gap
    assert expected_calibration_error(logits, labels, 7) == nearly(expected)
    order = torch.randperm(500, generator=generator)
    shuffled = expected_calibration_error(logits[order] + 3, labels[order], 7)
    assert shuffled == pytest.approx(expected, rel=1e-6)  # the 3 is added in float32


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    # a confidence of 1/4, wrong, and one of nearly 1/2, right: in one bin they would cancel
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [math.log(2.9), 0.0, 0.0, 0.0]])
    above = 2.9 / 5.9
    expected = (0.25 + (1 - above)) / 2
    labels = torch.tensor([3, 0])
    assert expected_calibration_error(logits, labels, 4) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("logits", "labels", "bins", "named"),
    [
        (torch.zeros(3), torch.zeros(3).long(), 15, r"\(3,\)"),
        (torch.zeros(3, 2), torch.zeros(2).long(), 15, r"\(3, 2\).*\(2,\)"),
        (torch.zeros(0, 2), torch.zeros(0).long(), 15, "at least one image"),
        (torch.zeros(1, 2), torch.tensor([2]), 15, "to 2"),
        (torch.zeros(1, 2), torch.tensor([-1]), 15, "from -1"),
        (torch.zeros(1, 2), torch.zeros(1), 15, "float32"),
        (torch.tensor([[math.nan, 0]]), torch.tensor([0]), 15, "diverged"),
        (torch.zeros(1, 2), torch.tensor([0]), 0, "bins 0"),
    ],
)
def test_what_has_no_calibration_error_is_refused_by_value(logits, labels, bins, named):
    with pytest.raises(ValueError, match=named):
        expected_calibration_error(logits, labels, bins)


# ------------------------------------------------------------------ made-up runs

TIMES = itertools.count(1)


def result(accuracy: float, seed: int | None, data: str = "0123abcd", **config: Any) -> Result:
    """A result with the default options of Adam on the digits, and those given."""
    optimizer = config.get("optimizer", "adam")
    defaults = options.ALWAYS | options.BY_DATASET["digits"] | options.BY_OPTIMIZER[optimizer]
    known = {field.name for field in dataclasses.fields(options.Config)}
    settings = {name: value for name, value in defaults.items() if name in known}
    settings |= {"dataset": "digits", "warmup": 18.0, "device": "cpu", "log_dir": f"runs/{seed}"}
    settings |= {"optimizer": optimizer, "seed": seed, **config}
    if seed is None:
        del settings["seed"]
    values: dict[str, Any] = {
        "test_accuracy": accuracy,
        "test_loss": 1 - accuracy,
        "test_class_accuracy": {"0": accuracy},
        "validation_accuracy": accuracy / 2,
        "best_validation_accuracy": accuracy / 2,
        "best_epoch": 1,
        "epochs": 2,
        "steps": 40,
        "parameters": 1000,
        "train_seconds": 100 + next(TIMES) / 1024,
        "total_seconds": 200.0,
        "images_per_second": 1234.0,
        "history": [],
        "config": settings,
        "versions": {"torch": "9.9", "device": "Abacus", "commit": "c0ffee"},
        "data": {"train": 10, "validation": 2, "test": 4, "checksum": data},
    }
    # fields that this test does not know are None, as those are which were not asked for
    return Result(**{f.name: values.get(f.name) for f in dataclasses.fields(Result)})


def results(accuracies: list[float], **config: Any) -> list[Result]:
    return [result(accuracy, seed, **config) for seed, accuracy in enumerate(accuracies)]


def write(folder: Path, *runs: Result) -> None:
    for i, run in enumerate(runs):
        run.write(folder / f"run{i}")


def lines(path: Path, *runs: Result | dict[str, Any]) -> Path:
    records = [dataclasses.asdict(run) if isinstance(run, Result) else run for run in runs]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def ranked(
    *runs: Result, by: str = "default", metric: str = "test_accuracy", target: float | None = None
) -> list[leaderboard.Ranking]:
    read = [leaderboard.Run(f"{i}", f"{i}", dataclasses.asdict(run)) for i, run in enumerate(runs)]
    return leaderboard.rank(read, leaderboard.grouping(by, read), metric, target)


def rows(*runs: Result, **asked: Any) -> list[leaderboard.Row]:
    (ranking,) = ranked(*runs, **asked)
    return ranking.rows


def table(text: str) -> list[list[str]]:
    """The cells of the tables of a page, without headers."""
    found = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [
        [cell.strip() for cell in row] for row in found if row[0].strip() not in ("rank", "---")
    ]


# ------------------------------------------------------------------ ranking


def test_groups_stand_by_their_mean_with_the_figures_of_their_runs():
    best, near, far = rows(
        *results(FAR, optimizer="sgd"),
        *results(B, optimizer="lamb"),
        *results(A, optimizer="adam"),
        target=0.939,
    )
    assert [row.rank for row in (best, near, far)] == [1, 2, 3]
    assert [row.what for row in (best, near, far)] == [
        "optimizer adam",
        "optimizer lamb",
        "optimizer sgd",
    ]
    for row, values in ((best, A), (near, B), (far, FAR)):
        assert row.summary == summarize(values)
        assert row.p_target == p_value_above(values, 0.939)
        assert row.runs == len(values)
        assert row.rate == 1234
        assert 100 < row.seconds < 101
    assert math.isnan(best.p_above)
    assert near.p_above == welch(A, B)
    assert far.p_above == welch(B, FAR)


def test_only_groups_that_cannot_be_told_from_the_leader_are_marked():
    assert welch(A, B) < leaderboard.LEVEL < welch(A, [x - 1e-4 for x in A])
    found = rows(
        *results(A, model="resnet20"),
        *results([x - 1e-4 for x in A], model="resnet18"),
        *results(B, model="resnet34"),
        *results([0.5], model="resnet50"),
    )
    # a single run proves nothing
    assert [row.like_leader for row in found] == [False, True, False, True]
    alone = rows(*results([0.99], model="resnet18"), *results(A))
    assert [row.like_leader for row in alone] == [False, True]
    assert math.isnan(alone[1].p_above)


def test_the_order_of_runs_changes_no_character():
    runs = [
        *results(A),
        *results(B, layers="torch"),
        *results(B, lr=0.1),
        *results(B, lr=0.2),  # of the same mean
        *results(FAR, data="ffffffff"),
        result(0.9, None),
    ]
    pages = set()
    for seed in range(8):
        random.Random(seed).shuffle(runs)
        found = ranked(*runs, target=0.9)
        for page in (leaderboard.markdown_page, leaderboard.html_page):
            pages.add(page(found, "test_accuracy", 0.9))
    assert len(pages) == 2


def test_of_a_loss_the_smallest_is_best_and_the_target_lies_above():
    found = rows(*results(FAR, optimizer="sgd"), *results(A), metric="test_loss", target=0.0605)
    assert [row.what for row in found] == ["optimizer adam", "optimizer sgd"]
    losses = [1 - x for x in A]
    expected = stats.ttest_1samp(losses, 0.0605, alternative="less").pvalue
    assert found[0].p_target == nearly(expected)
    assert found[1].p_target > 0.99


@pytest.mark.parametrize("name", sorted(options.MAY_CHANGE | {"seed", "preset"}))
def test_what_does_not_decide_a_result_makes_no_group_of_its_own(name):
    a, b = result(0.9, 0), result(0.8, 1)
    b.config[name] = "other"
    (row,) = rows(a, b)
    assert (row.runs, row.summary.mean) == (2, nearly(0.85))


@pytest.mark.parametrize(
    "name",
    sorted(
        {field.name for field in dataclasses.fields(options.Config)}
        - options.MAY_CHANGE
        - {"seed", "preset", "dataset"}
    ),
)
def test_every_other_option_makes_one_and_names_it(name):
    a, b = result(0.9, 0), result(0.8, 0)
    a.config[name], b.config[name] = 1.5, 2.5
    first, second = rows(a, b)
    shown = name.replace("_", " ")
    assert first.what == f"{shown} 1.5"
    assert second.what == f"{shown} 2.5"


def test_what_computes_a_run_tells_groups_apart_when_asked_for():
    runs = [*results(A, layers="scratch", optim="scratch"), *results(B, layers="torch")]
    for by in ("default,layers", "layers", "--layers"):
        assert [row.what for row in rows(*runs, by=by)] == ["layers scratch", "layers torch"]
    assert len(rows(*runs, by="default,optim")) == 1


def test_groups_put_together_by_hand_say_what_they_mix():
    runs = [*results(A, lr=0.1), *results(B, lr=0.2, optim="torch")]
    (row,) = rows(*runs, by="model")
    assert row.mixed == {"lr": ("0.1", "0.2"), "optim": ("scratch", "torch")}
    assert row.what == "model resnet20"
    assert row.summary == summarize(A + B)  # the same seed at another rate is another draw
    text = leaderboard.markdown_page(ranked(*runs, by="model"), "test_accuracy", None)
    assert "lr (0.1, 0.2); optim (scratch, torch)" in text
    assert not any(row.mixed for row in rows(*runs, by="default,optim"))


def test_what_follows_from_an_optimizer_is_not_said_and_what_does_not_is():
    names = [row.what for row in rows(*results(A), *results(B, optimizer="sgd"))]
    assert names == ["optimizer adam", "optimizer sgd"]
    names = [row.what for row in rows(*results(A), *results(B, optimizer="sgd", lr=0.3))]
    assert names == ["optimizer adam, lr 0.003", "optimizer sgd, lr 0.3"]
    names = [row.what for row in rows(*results(A), *results(B, epochs=10, warmup=3.0))]
    assert names == ["epochs 60", "epochs 10"]
    names = [row.what for row in rows(*results(A), *results(B, epochs=10, warmup=4.0))]
    assert names == ["warmup 18, epochs 60", "warmup 4, epochs 10"]


def test_epochs_that_were_fitted_to_a_budget_make_no_groups():
    fitted = [result(x, i, budget=60.0, epochs=7 + x) for i, x in enumerate(A)]
    given = [result(x, i, budget=0.0, epochs=7 + x) for i, x in enumerate(A)]
    (row,) = rows(*fitted)
    assert row.summary == summarize(A)
    assert not row.mixed
    assert len(rows(*given)) == len(A)


def test_runs_on_other_data_are_never_put_together_whatever_is_asked():
    runs = [*results(A), *results(B, data="ffffffff"), *results(FAR, dataset="cifar10")]
    for by in ("default", "model", "layers"):
        found = ranked(*runs, by=by)
        assert [(r.dataset, r.checksum) for r in found] == [
            ("cifar10", "0123abcd"),
            ("digits", "0123abcd"),
            ("digits", "ffffffff"),
        ]
        assert [r.rows[0].summary for r in found] == [summarize(x) for x in (FAR, A, B)]
        text = leaderboard.markdown_page(found, "test_accuracy", None)
        assert "data with checksum ffffffff" in text
        assert "Runs on other data" in text


def test_runs_of_one_seed_count_once_and_it_is_said():
    runs = [*results(A), result(A[0] + 0.02, 0, layers="torch")]
    (row,) = rows(*runs)
    assert row.summary.mean == nearly(np.mean([A[0] + 0.01, *A[1:]]))
    assert (row.runs, row.summary.n) == (6, 5)
    text = leaderboard.markdown_page(ranked(*runs), "test_accuracy", None)
    assert "6 runs, 5 of them independent" in text
    (row,) = rows(*[result(accuracy, None) for accuracy in (0.9, 0.9, 0.8)])
    assert row.summary == summarize([0.9, 0.9, 0.8])  # who says no seed is a draw of its own


# ------------------------------------------------------------------ reading


def test_folders_and_lines_hold_the_same_runs(tmp_path, capsys):
    runs = [*results(A), *results(B, optimizer="sgd")]
    write(tmp_path / "runs", *runs[:4])
    lines(tmp_path / "runs" / "more.jsonl", *runs[4:])
    whole = lines(tmp_path / "whole.jsonl", *runs)
    assert leaderboard.main([str(tmp_path / "runs")]) == 0
    one = capsys.readouterr()
    assert leaderboard.main([str(whole)]) == 0
    other = capsys.readouterr()
    assert one.out == other.out
    assert one.err == other.err == ""
    assert [row[1] for row in table(one.out)] == ["optimizer adam", "optimizer sgd"]
    assert [row[2] for row in table(one.out)] == ["5", "3"]


def test_a_run_found_twice_is_one_run(tmp_path, capsys):
    runs = results(A)
    write(tmp_path, *runs)
    (tmp_path / "copy").mkdir()
    copy = lines(tmp_path / "copy" / "log.jsonl", *runs[:2])
    # the same file by two paths needs no word, a copy does
    found, problems = leaderboard.read([tmp_path, tmp_path / "run0", tmp_path])
    assert len(found) == len(A)
    assert len(problems) == 2
    assert len({run.name for run in found}) == len(A)
    assert all("there already" in problem for problem in problems)
    # of what has no times nobody knows whether it is a copy
    short = {"test_accuracy": 0.94, "config": {}}
    found, problems = leaderboard.read([lines(copy, short, short)])
    assert (len(found), problems) == (2, [])


def test_names_of_runs_are_unlike_wherever_they_come_from(tmp_path):
    write(tmp_path / "a", *results(A[:2]))
    write(tmp_path / "b", *results(B[:2]))
    write(tmp_path / "c" / "run0-2", result(0.9, 9))
    found, _ = leaderboard.read([tmp_path / "c" / "run0-2", tmp_path / "a", tmp_path / "b"])
    assert len(found) == len({run.name for run in found}) == 5


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"test_accuracy": 0.9, "con', "damaged"),
        (b"", "damaged"),
        (b"[" * 100_000, "damaged"),
        (b"\xff\xfe", "UTF-8"),
        (b"[1, 2]", "not the result of a run"),
        (b'{"test_accuracy": 0.9}', "not the result of a run"),
        (b'{"test_accuracy": NaN, "config": {}}', "test_accuracy is nan"),
        (b'{"test_accuracy": null, "config": {}}', "test_accuracy is"),
        (b'{"test_accuracy": true, "config": {}}', "test_accuracy is on"),
        (b'{"test_accuracy": 1' + b"0" * 400 + b', "config": {}}', "test_accuracy is 1000"),
        (b'{"config": {}}', "test_accuracy is missing"),
    ],
)
def test_what_is_no_result_is_told_with_its_place_and_counted(tmp_path, capsys, content, said):
    write(tmp_path, *results(A))
    bad = tmp_path / "bad" / "result.json"
    bad.parent.mkdir()
    bad.write_bytes(content)
    log = tmp_path / "log.jsonl"
    log.write_bytes(json.dumps(dataclasses.asdict(result(0.9, 77))).encode() + b"\n\n")
    assert leaderboard.main([str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert str(bad) in err
    assert said in err
    assert err.count("\n") == 1
    assert "Left out, for reasons that the script says: 1." in out
    assert table(out)[0][2] == "6"
    # the same, as a line among others
    if b"\xff" not in content and content:
        with log.open("ab") as file:
            file.write(content + b"\n")
        bad.unlink()
        assert leaderboard.main([str(tmp_path)]) == 0
        out, err = capsys.readouterr()
        assert f"{log}, line 3: " in err
        assert said in err
        assert "says: 1." in out


def test_lines_of_something_else_are_told_once(tmp_path, capsys):
    write(tmp_path, *results(A))
    lines(tmp_path / "other.jsonl", *[{"event": i} for i in range(50)])
    assert leaderboard.main([str(tmp_path)]) == 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "other.jsonl: none of its lines" in err


def test_a_result_of_an_older_version_is_ranked_with_dashes(tmp_path, capsys):
    config = {"model": "resnet20", "optimizer": "adam", "seed": 0}
    old = lines(tmp_path / "old.jsonl", {"test_accuracy": 0.9, "config": config})
    assert leaderboard.main([str(old)]) == 0
    (row,) = table(capsys.readouterr().out)
    assert row == ["1", "model resnet20, optimizer adam", "1", "90.000", *["-"] * 5]


def test_options_younger_than_a_file_mean_their_default():
    old, new = result(0.9, 0), result(0.8, 1)
    for name in options.NEWER:
        old.config.pop(name, None)
    assert len(rows(old, new)) == 1


# ------------------------------------------------------------------ pages


class Page(HTMLParser):
    """What a page refers to, and the cells of its rows."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.rows: list[list[str]] = []
        self.keys: list[list[str | None]] = []
        self.cell = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "tr":
            self.rows.append([])
            self.keys.append([])
        self.cell = tag in ("td", "th")
        if self.cell:
            self.rows[-1].append("")
            self.keys[-1].append(dict(attrs).get("data-key"))

    def handle_endtag(self, tag):
        self.cell = False

    def handle_data(self, data):
        if self.cell:
            self.rows[-1][-1] += data


HOSTILE = "<img src=x onerror=alert(1)>|{0}\"'&"


def test_the_page_refers_to_nothing_and_says_what_the_markdown_says(tmp_path, capsys):
    write(tmp_path / "runs", *results(A), *results(B, model=HOSTILE), result(0.9, 0, data="ffff"))
    html, md = tmp_path / "deep" / "page.html", tmp_path / "page.md"
    command = [str(tmp_path / "runs"), "--html", str(html), "--markdown", str(md)]
    assert leaderboard.main([*command, "--target", "0.939"]) == 0
    text = html.read_text(encoding="utf-8")
    page = Page(text)
    assert not {name for name, _ in page.attributes} & {"src", "href", "srcset", "action", "style"}
    assert not {"link", "img", "iframe", "base", "object"} & set(page.tags)
    for word in ("http", "url(", "import", "fetch", "//cdn"):
        assert word not in text
    assert md.read_text(encoding="utf-8") == capsys.readouterr().out
    found = ranked(
        *results(A), *results(B, model=HOSTILE), result(0.9, 0, data="ffff"), target=0.939
    )
    expected = [
        [cell.text for cell in line]
        for ranking in found
        for line in leaderboard.cells(ranking, "test_accuracy", 0.939)
    ]
    body = [row for row in page.rows if row[0] != "rank"]
    assert [row[:6] for row in body] == [row[:6] for row in expected]
    assert f"model {HOSTILE}" in [row[1] for row in body]
    heads = [row for row in page.rows if row[0] == "rank"]
    assert len(heads) == len(found) == 2
    assert "p, mean > 93.9 %" in heads[0]
    assert {len(row) for row in page.rows} == {len(heads[0])}


def test_cells_are_sorted_by_numbers_not_by_what_is_shown():
    found = ranked(*results(A), *results([0.5], model="resnet18"))
    page = Page(leaderboard.html_page(found, "test_accuracy", None))
    head, first, second = page.rows
    keys = page.keys
    at = head.index("train, s")
    assert float(keys[1][at]) == found[0].rows[0].seconds
    assert float(keys[1][3]) == 100 * found[0].rows[0].summary.mean
    assert first[3] == f"{100 * np.mean(A):.3f}"
    assert (second[0], keys[2][0]) == ("2 †", "2")
    assert (second[4], keys[2][4]) == ("-", "")


def test_the_markdown_has_as_many_cells_in_every_row():
    found = ranked(*results(A), *results(B, model=HOSTILE))
    text = leaderboard.markdown_page(found, "test_accuracy", None)
    drawn = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert len(drawn) == 4
    assert len({line.count("|") for line in drawn}) == 1


# ------------------------------------------------------------------ TensorBoard


def test_every_run_stands_in_tensorboard_with_options_and_metrics(tmp_path):
    runs = [*results(A[:2]), *results(B[:1], optimizer="sgd", augment=("flip", "crop"))]
    write(tmp_path / "runs", *runs)
    board = tmp_path / "board"
    assert leaderboard.main([str(tmp_path / "runs"), "--tensorboard", str(board)]) == 0
    files = sorted(board.rglob("events.out.tfevents.*"))
    assert [file.parent.relative_to(board) for file in files] == [Path(f"run{i}") for i in range(3)]
    for file, run in zip(files, runs, strict=True):
        events = EventAccumulator(str(file.parent))
        events.Reload()
        content = events.PluginTagToContent("hparams")
        found = {tag: HParamsPluginData.FromString(data) for tag, data in content.items()}
        assert len(found) == 3
        start = found["_hparams_/session_start_info"].session_start_info.hparams
        assert start["optimizer"].string_value == run.config["optimizer"]
        assert start["lr"].number_value == run.config["lr"]
        assert start["seed"].number_value == run.config["seed"]
        assert start["augment"].string_value == " ".join(run.config["augment"])
        assert set(start) == set(run.config)
        infos = found["_hparams_/experiment"].experiment.metric_infos
        tags = {info.name.tag for info in infos}
        assert tags == set(events.Tags()["scalars"])
        assert {"test/accuracy", "test/loss", "train_seconds", "images_per_second"} <= tags
        (accuracy,) = events.Scalars("test/accuracy")
        assert accuracy.value == np.float32(run.test_accuracy)
        assert accuracy.step == run.steps


def test_event_files_that_are_there_are_not_mixed_with_others(tmp_path, capsys):
    write(tmp_path / "runs", *results(A[:1]))
    command = [str(tmp_path / "runs"), "--tensorboard", str(tmp_path / "board")]
    assert leaderboard.main(command) == 0
    before = sorted(tmp_path.rglob("*"))
    assert leaderboard.main(command) == 2
    assert "it holds event files" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


# ------------------------------------------------------------------ command line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere"], "nowhere: there is no such"),
        (["empty"], "no finished run"),
        (["bad"], "damaged"),
        (["runs", "--by", "model,nothing"], "'nothing'"),
        (["runs", "--target", "94"], "0.94 for 94 %"),
        (["runs", "--target", "nan", "--metric", "test_loss"], "--target nan"),
        (["runs", "--html", "runs"], "--html runs: cannot be written"),
        (["runs", "--markdown", "file/below"], "--markdown file/below: cannot be written"),
        (["runs", "--tensorboard", "file"], "--tensorboard file: cannot be written"),
    ],
)
def test_what_can_be_mended_is_said_and_the_exit_code_is_2(
    tmp_path, monkeypatch, capsys, arguments, said
):
    monkeypatch.chdir(tmp_path)
    write(Path("runs"), *results(A))
    Path("empty").mkdir()
    Path("bad").mkdir()
    Path("bad", "result.json").write_text("{")
    Path("file").write_text("")
    assert leaderboard.main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("leaderboard.py: error: ")
    assert said in err


def test_an_unknown_metric_is_refused_and_every_number_of_a_result_is_one(capsys):
    with pytest.raises(SystemExit) as stopped:
        leaderboard.main(["runs", "--metric", "nothing"])
    assert stopped.value.code == 2
    assert {"test_accuracy", "test_loss", "train_seconds", "steps"} <= set(leaderboard.METRICS)
    assert not {"config", "history", "data", "test_class_accuracy"} & set(leaderboard.METRICS)
    assert isinstance(rows(*results(A), metric="train_seconds")[0].summary, Summary)
