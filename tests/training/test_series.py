"""A series: runs are as they would be alone, results count once, and lines are never lost."""

from __future__ import annotations

import dataclasses
import json
import math
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.training.test_loop import assert_same, at_step, config, interrupt
from training import loop, series
from training.checkpoint import load
from training.errors import DivergedError, InterruptedRunError, UsageError
from training.loop import train
from training.options import make_config
from training.result import Result
from training.series import plan, run
from training.statistics import p_value_above, summarize

pytestmark = pytest.mark.usefixtures("tiny")


def given(folder: Path, **more: Any) -> dict[str, Any]:
    """Options as a command line gives them: 2 epochs of 6 steps."""
    return {
        "log_dir": str(folder), "epochs": 2, "batch_size": 8, "device": "cpu", "quiet": True,
        "tensorboard": False, "layers": "torch", "optim": "torch", "seeds": 3,
    } | more  # fmt: skip


def nothing(record: dict[str, Any]) -> None:
    pass


def planned(**options: Any) -> series.Series:
    found = plan(options)
    assert found is not None
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def result_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def test_every_run_of_a_series_has_the_bits_of_one_that_was_started_alone(tmp_path):
    run(planned(**given(tmp_path / "series", seed=5, dropout=0.3)), nothing)
    for seed in (5, 6, 7):
        alone = given(tmp_path / f"alone{seed}", seed=seed, dropout=0.3)
        del alone["seeds"]
        train(make_config(**alone))
        for name in ("last.pt", "best.pt"):
            ours = load(tmp_path / "series" / f"seed-{seed}" / name)
            assert_same(ours, load(tmp_path / f"alone{seed}" / name))
            assert ours["config"].keys() == load(tmp_path / f"alone{seed}" / name)["config"].keys()


def test_summary_is_that_of_the_result_files(tmp_path):
    outcome = run(planned(**given(tmp_path, target=0.3, tta=True, gap=True, epochs=4)), nothing)
    saved = json.loads((tmp_path / "summary.json").read_text())
    assert saved["seeds"] == outcome.seeds == [0, 1, 2]
    assert saved["diverged"] == []
    records = [result_of(tmp_path / f"seed-{seed}") for seed in range(3)]
    for name in series.METRICS:
        values = [record[name] for record in records]
        expected = dataclasses.asdict(summarize(values))
        assert expected["deviation"] > 0
        if name.startswith("test_"):
            expected["p_above_target"] = p_value_above(values, 0.3)
        assert saved[name] == expected
    table = outcome.table()
    assert f"{100 * saved['test_accuracy']['mean']:.3f}" in table
    assert "p, mean > 30 %" in table
    for name in series.METRICS.values():
        assert name in table


def test_what_is_not_defined_is_null_and_a_dash(tmp_path):
    records = {seed: {"test_accuracy": 0.5, "test_accuracy_tta": None, "train_seconds": 1.0}
               for seed in (0, 1)}  # fmt: skip
    same = series.summary(records, [], 0.4)
    assert same.as_json()["test_accuracy"]["p_above_target"] is None
    assert "test_accuracy_tta" not in same.as_json()
    one = series.summary({0: records[0]}, [1], None)
    assert one.as_json()["test_accuracy"]["standard_error"] is None
    assert json.loads(json.dumps(one.as_json(), allow_nan=False))["diverged"] == [1]
    assert "nan" not in same.table() + one.table()
    assert "1 of 2 runs diverged" in one.table()


@pytest.mark.parametrize("again", ["resume", "auto"])
def test_an_interrupted_series_keeps_what_is_done_and_goes_on(tmp_path, monkeypatch, again):
    run(planned(**given(tmp_path / "whole", dropout=0.3)), nothing)
    parts = tmp_path / "parts"
    with monkeypatch.context() as patch:
        at_step(patch, 12 + 4, interrupt)
        with pytest.raises(InterruptedRunError, match=rf"seed 1: .*step 4 of 12.*--resume {parts}"):
            run(planned(**given(parts, dropout=0.3, resume="auto")), nothing)
    assert not (parts / "seed-2").exists()
    assert not (parts / "summary.json").exists()
    kept = files(parts / "seed-0")
    seen: list[dict[str, Any]] = []
    with monkeypatch.context() as patch:
        counted = at_step(patch, 0, interrupt)
        if again == "resume":
            run(planned(resume=str(parts)), seen.append)
        else:
            run(planned(**given(parts, dropout=0.3, resume="auto")), seen.append)
    assert counted.count == 8 + 12  # the rest of the second and the third, nothing of the first
    assert files(parts / "seed-0") == kept
    assert [record["config"]["seed"] for record in seen] == [0, 1, 2]
    for seed in range(3):
        one, two = (tmp_path / name / f"seed-{seed}" for name in ("whole", "parts"))
        assert_same(load(one / "last.pt"), load(two / "last.pt"))
        assert result_of(one)["test_loss"] == result_of(two)["test_loss"]
    assert json.loads((parts / "summary.json").read_text())["seeds"] == [0, 1, 2]


def test_a_run_of_a_series_goes_on_alone(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        at_step(patch, 12 + 4, interrupt)
        with pytest.raises(InterruptedRunError):
            run(planned(**given(tmp_path)), nothing)
    assert train(make_config(resume=str(tmp_path / "seed-1"))).steps == 12
    assert run(planned(resume=str(tmp_path)), nothing).seeds == [0, 1, 2]


def test_a_series_can_be_made_longer_and_moved_but_not_shorter(tmp_path):
    run(planned(**given(tmp_path / "a", seeds=2)), nothing)
    (tmp_path / "a").rename(tmp_path / "b")
    kept = files(tmp_path / "b" / "seed-1")
    outcome = run(planned(resume=str(tmp_path / "b"), seeds=3, target=0.1), nothing)
    assert outcome.seeds == [0, 1, 2]
    assert outcome.p_above.keys() == {"test_accuracy"}
    assert files(tmp_path / "b" / "seed-1") == kept
    assert not (tmp_path / "a").exists()
    with pytest.raises(UsageError, match=r"--seeds 2: .* holds a series of 3, all of which count"):
        plan({"resume": str(tmp_path / "b"), "seeds": 2})


def test_a_run_that_diverges_is_told_and_does_not_end_the_series(tmp_path, monkeypatch, capsys):
    real = series.train

    def train_but_one(config, **others):
        if config.seed == 1:
            raise DivergedError("diverged: the loss")
        return real(config, **others)

    monkeypatch.setattr(series, "train", train_but_one)
    outcome = run(planned(**given(tmp_path)), nothing)
    assert (outcome.seeds, outcome.diverged) == ([0, 2], [1])
    assert "seed 1: diverged" in capsys.readouterr().err
    assert json.loads((tmp_path / "summary.json").read_text())["diverged"] == [1]

    monkeypatch.setattr(
        series, "train", lambda config, **others: real(config) and train_but_one(config, **others)
    )
    with pytest.raises(DivergedError, match="all 1 runs"):
        run(dataclasses.replace(planned(**given(tmp_path / "b", seed=1)), seeds=1), nothing)


REFUSED = {
    "no runs": ({"seeds": 0}, "--seeds 0: give a whole number"),
    "a percentage": ({"target": 94.0}, r"--target 94.0: .*0\.94 for 94 %"),
    "a test of one run": ({"seeds": 1, "target": 0.9}, "--target 0.9: a test needs several runs"),
    "seeds out of range": ({"seed": 2**32 - 2}, "--seeds 3: the last one is 4294967296"),
    "no such series": ({"resume": "nowhere"}, "--resume nowhere: there is no series.json"),
    "auto, but where": ({"resume": "auto", "log_dir": None}, "--resume auto: a folder is needed"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused(tmp_path, case):
    more, message = REFUSED[case]
    options = {k: v for k, v in (given(tmp_path / "a") | more).items() if v is not None}
    with pytest.raises(UsageError, match=message):
        plan(options)
    assert not list(tmp_path.iterdir())


def test_another_run_or_series_in_the_folder_is_refused_and_left_alone(tmp_path):
    run(planned(**given(tmp_path / "series", seeds=2)), nothing)
    train(config(tmp_path / "single", epochs=1))
    before = files(tmp_path)
    options = given(tmp_path / "series", seeds=2)
    cases = {
        r"holds a series\. Go on with it by --resume": options,
        "--log-dir .*series: this folder holds a series": options | {"seeds": 1},
        "that run has --lr 0.003, not 0.5": options | {"resume": "auto", "lr": 0.5},
        "that run has --augment crop, not none": {
            "resume": str(tmp_path / "series"), "augment": ["none"],
        },
        "a series goes on where it is": {
            "resume": str(tmp_path / "series"), "log_dir": str(tmp_path / "c"),
        },
        "this folder holds another run": given(tmp_path / "single"),
        "holds a single run. Leave --seeds out": given(
            tmp_path / "single", resume="auto", epochs=1, dropout=0.3, optimizer="adam",
            augment=["flip", "crop", "cutout"],
        ),
    }  # fmt: skip
    for message, case in cases.items():
        with pytest.raises(UsageError, match=message):
            plan(dict(case))
    assert files(tmp_path) == before
    (tmp_path / "series" / "series.json").write_text("{}")
    with pytest.raises(UsageError, match=r"series\.json is damaged, or of another version"):
        plan({"resume": str(tmp_path / "series")})
    (tmp_path / "series" / "series.json").unlink()
    with pytest.raises(UsageError, match="runs of another series, which has lost"):
        plan(dict(options))


# -- results of many runs in one file


def result(**values: Any) -> Result:
    return Result(**{field.name: values.get(field.name) for field in dataclasses.fields(Result)})


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_results_of_runs_are_the_lines_of_a_file(tmp_path):
    file = tmp_path / "some" / "results.jsonl"
    run(planned(**given(tmp_path / "a", results=str(file))), nothing)
    assert lines(file) == [result_of(tmp_path / "a" / f"seed-{seed}") for seed in range(3)]


def test_a_run_that_is_tested_again_has_one_line(tmp_path):
    file = tmp_path / "results.jsonl"
    train(config(tmp_path / "a", epochs=1, results=str(file)))
    train(config(tmp_path / "b", epochs=1, results=str(file)))
    train(make_config(resume=str(tmp_path / "a")))
    assert len(lines(file)) == 2
    assert lines(file)[1] == result_of(tmp_path / "b")


def test_lines_that_many_write_at_a_time_are_whole_and_there_once(tmp_path):
    file = tmp_path / "results.jsonl"
    runs = [result(train_seconds=float(i), history=[{"x": i}] * 2000) for i in range(12)]
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda one: one.append(file), runs * 3))
    assert sorted(line["train_seconds"] for line in lines(file)) == [float(i) for i in range(12)]


def test_a_torn_line_stays_and_the_next_begins_below_it(tmp_path):
    file = tmp_path / "results.jsonl"
    result(train_seconds=1.0).append(file)
    whole = file.read_bytes()
    file.write_bytes(whole + whole[: len(whole) // 2])
    result(train_seconds=2.0).append(file)
    first, torn, second = file.read_bytes().splitlines(keepends=True)
    assert first == whole
    assert torn == whole[: len(whole) // 2] + b"\n"
    assert json.loads(second)["train_seconds"] == 2.0


def test_a_line_for_which_there_is_no_room_leaves_the_file_as_it_was(tmp_path):
    """The kernel writes the part of the line that fits, then refuses."""
    file = tmp_path / "results.jsonl"
    result(train_seconds=1.0).append(file)
    before = file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
    try:
        with pytest.raises(UsageError, match=r"--results .*results\.jsonl: cannot be written"):
            result(train_seconds=2.0).append(file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read_bytes() == before


# -- calibration


@pytest.mark.parametrize("tta", [False, True])
def test_calibration_error_is_that_of_the_logits_with_and_without_views(tmp_path, monkeypatch, tta):
    evaluate, seen = loop.Trainer.evaluate, []

    def note(self, split, *args, **kwargs):
        found = evaluate(self, split, *args, **kwargs)
        if split is self.data.test:
            seen.append((found.logits, split.labels))
        return found

    monkeypatch.setattr(loop.Trainer, "evaluate", note)
    found = train(config(tmp_path, epochs=1, tta=tta))
    # one bin for all: |accuracy - confidence| is the least that any bins can give
    floors = []
    for logits, labels in seen:
        confidence, answer = logits.double().softmax(1).max(1)
        right = (answer == labels).double()
        assert (right.mean() - confidence.mean()).abs() > 0
        bins = (confidence * 15).ceil().clamp(1, 15)
        gaps = [(right - confidence)[bins == m].sum().abs() for m in range(1, 16)]
        floors.append(float(sum(gaps)) / len(labels))
    errors = [found.test_calibration_error, found.test_calibration_error_tta][: 1 + tta]
    assert errors == pytest.approx(floors, rel=1e-12)  # sums of 60 float64 in another order
    if tta:
        logits, labels = seen[1]
        right = (logits.argmax(1) == labels).double()
        assert found.test_class_accuracy_tta == {
            f"class{k}": right[labels == k].mean().item() for k in range(3)
        }
    else:
        assert found.test_calibration_error_tta is found.test_class_accuracy_tta is None


def test_answers_that_are_not_finite_are_a_divergence_not_a_figure(tmp_path, monkeypatch):
    prepare = loop.Trainer.prepare
    monkeypatch.setattr(
        loop.Trainer,
        "prepare",
        lambda self, x, pixels=None: (
            prepare(self, x, pixels) * (math.inf if len(x) == len(self.data.test) else 1)
        ),
    )
    with pytest.raises(DivergedError, match="logits of the test images are not finite"):
        train(config(tmp_path, epochs=1, holdout=False))
    assert not (tmp_path / "result.json").exists()
