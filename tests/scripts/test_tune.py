"""A search tries what the space holds, keeps what it found, and never sees the test images."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import TrialState
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import cifar10
import tune
from training import loop, options, space
from training.data import Split
from training.distributed import World
from training.errors import DivergedError, InterruptedRunError, UsageError
from training.options import OPTIMIZERS, Config, make_config
from training.space import Choice, Range

SCRIPT = Path(tune.__file__)
SMALL = [
    "--epochs", "1", "--batch-size", "646", "--device", "cpu", "--layers", "torch",
    "--optim", "torch",
]  # fmt: skip
ON_CPU = ["--device", "cpu"]


@pytest.fixture(autouse=True)
def alone(elsewhere, monkeypatch):
    """What a test leaves in the working folder is its own, and so are Optuna's messages."""
    monkeypatch.setattr(os, "fsync", lambda file: None)  # 7 ms for each report of an epoch
    before = optuna.logging.get_verbosity()
    yield
    optuna.logging.set_verbosity(before)


class Training:
    """In place of ``train``: an accuracy as a function of the options and the epoch."""

    def __init__(self, accuracy: Callable[[Config, int], float]) -> None:
        self.accuracy, self.configs = accuracy, []

    def __call__(self, config: Config, watch: loop.Watch, testing: bool, world: World) -> Any:
        assert not testing
        self.configs.append(config)
        for epoch in range(1, int(config.epochs) + 1):
            reached = self.accuracy(config, epoch)
            watch({"epoch": epoch, "validation_accuracy": reached})
        return SimpleNamespace(validation_accuracy=reached)


def by_rate(config: Config, epoch: int) -> float:
    """Best at a learning rate of 0.01; more with every epoch, in every run alike."""
    return 0.9 - 0.1 * abs(np.log10(config.lr) + 2) + 0.001 * epoch


def diverging_above(lr: float) -> Callable[[Config, int], float]:
    """``by_rate``, for learning rates that are not too high."""

    def accuracy(config: Config, epoch: int) -> float:
        if config.lr > lr:
            raise DivergedError("diverged: the training loss is nan at step 7. Use a lower --lr.")
        return by_rate(config, epoch)

    return accuracy


@pytest.fixture
def reporting(monkeypatch) -> Training:
    """Trials are over in no time."""
    stands_in = Training(by_rate)
    monkeypatch.setattr(tune, "train", stands_in)
    return stands_in


@pytest.fixture
def training(reporting, monkeypatch) -> Training:
    """And so are reports: without pictures and importances."""
    monkeypatch.setattr(tune, "draw", lambda *given: None)
    monkeypatch.setattr(tune, "importances", lambda study: {})
    return reporting


def storage(where: str = "runs/tune/study.journal") -> optuna.storages.BaseStorage:
    return tune.open_storage(where, must_exist=True)


def study(where: str = "runs/tune/study.journal", name: str = "tune") -> optuna.Study:
    return optuna.load_study(storage=storage(where), study_name=name)


def states(found: optuna.Study) -> list[str]:
    return [trial.state.name for trial in found.trials]


def search(*argv: str) -> int:
    return tune.main([*ON_CPU, *argv])


def refuse(capsys, *argv: str) -> str:
    """Run, expect exit code 2 and nothing written; returns the message."""
    before = {path: path.read_bytes() for path in Path.cwd().rglob("*") if path.is_file()}
    assert search(*argv) == 2
    out, err = capsys.readouterr()
    assert err.startswith("tune.py: error: ")
    assert out == ""
    assert {path: path.read_bytes() for path in Path.cwd().rglob("*") if path.is_file()} == before
    return err


# ------------------------------------------------------------------ the space


@pytest.mark.parametrize(
    ("text", "name", "entry"),
    [
        ("lr=1e-4..1e-1:log", "lr", Range(1e-4, 1e-1, log=True)),
        ("weight-decay=0..0.1", "weight_decay", Range(0.0, 0.1)),
        ("--epochs=5..20", "epochs", Range(5, 20)),
        ("epochs=0.5..2", "epochs", Range(0.5, 2)),
        ("batch_size=16..256:log", "batch_size", Range(16, 256, log=True)),
        ("batch_size=32,64, 128", "batch_size", Choice(("32", "64", "128"))),
        ("lr=1e-3,.01", "lr", Choice(("0.001", "0.01"))),
        ("nesterov=on,off", "nesterov", Choice(("on", "off"))),
        ("augment=none,flip,flip crop", "augment", Choice(("none", "flip", "flip crop"))),
        ("resolutions=20 26 32,24 32", "resolutions", Choice(("20 26 32", "24 32"))),
        ("schedule=cosine,linear", "schedule", Choice(("cosine", "linear"))),
    ],
)
def test_an_entry_is_read_and_its_text_is_read_again_as_the_same(text, name, entry):
    assert space.parse([text]) == {name: entry}
    assert space.parse([f"{name}={entry}"]) == {name: entry}


@pytest.mark.parametrize(
    ("text", "types", "inside"),
    [
        ("epochs=1..3", {int}, {1, 2, 3}),
        ("momentum=0..0.9", {float}, None),
        ("batch_size=32,64", {int}, {32, 64}),
        ("nesterov=on,off", {bool}, {True, False}),
        ("resolutions=24,24 32", {tuple}, {(24,), (24, 32)}),
    ],
)
def test_what_is_drawn_has_the_type_that_the_command_line_gives(text, types, inside):
    ((name, entry),) = space.parse([text]).items()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = {entry.value(name, entry.suggest(study.ask(), name)) for _ in range(30)}
    assert {type(value) for value in drawn} == types
    assert inside is None or drawn == inside


@pytest.mark.parametrize(
    ("entry", "points"),
    [
        (Range(1e-3, 1e-1, log=True), [1e-3, 1e-2, 1e-1]),
        (Range(0.0, 1.0), [0.0, 0.5, 1.0]),
        (Range(4, 64, log=True), [4, 16, 64]),
        (Range(1, 2), [1, 2]),
        (Choice(("a", "b")), ["a", "b"]),
    ],
)
def test_a_grid_has_the_ends_and_the_middle(entry, points):
    assert entry.grid() == points
    assert {type(point) for point in entry.grid()} == {type(point) for point in points}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_usual_space_lies_around_what_the_optimizer_has(optimizer):
    given = {"optimizer": optimizer, "device": "cpu"}
    usual = space.usual(given)
    config = space.check(usual, given)
    has = options.BY_OPTIMIZER[optimizer]
    assert set(usual) == {"lr", "weight_decay", "momentum"} & set(has)
    assert usual["lr"].grid()[1] == pytest.approx(has["lr"], rel=1e-11)  # 12 digits are kept
    for name, entry in usual.items():
        assert has[name] == 0 or entry.low < has[name] < entry.high
        assert getattr(config, name) == entry.low
    assert "lr" not in space.usual(
        given | {"momentum": 0.8, "lr": 0.1}
        if "momentum" in has
        else {"optimizer": "sgd", "lr": 0.1}
    )


def test_the_usual_space_of_a_preset_lies_around_its_own_options():
    usual = space.usual({"preset": "air94", "device": "cpu"})
    assert usual["lr"] == Range(0.024, 2.4, log=True)


IMPOSSIBLE = {
    "lr": ("--space lr", "OPTION=LOW..HIGH"),
    "rate=1..2": ("'rate' is not searched", "weight_decay"),
    "seed=1,2": ("'seed' is not searched",),
    "layers=scratch,torch": ("'layers' is not searched",),
    "lr=a..b": ("lr=a..b", "'a'"),
    "lr=1e-1..1e-4": ("0.1 is not below 0.0001", "lower end first"),
    "lr=nan..1": ("nan is not below 1.0",),
    "lr=1e-4..1e-1:exp": ("'exp'", ":log"),
    "weight_decay=0..1:log": ("0.0 has no logarithm", "above 0"),
    "lr=-1..1": ("--lr -1.0", "above 0"),
    "lr=0.1..inf": ("--lr inf", "finite"),
    "batch_size=0,32": ("--batch-size 0", "1 or more"),
    "batch_size=1.5..3": ("'1.5'",),
    "batch_size=32": ("one value", "--batch-size 32"),
    "batch_size=32,32": ("32 stands there twice",),
    "schedule=cosine,sine": ("'sine'", "cosine"),
    "schedule=cosine..linear": ("schedule is no number", "List"),
    "nesterov=yes,no": ("'yes' is neither on nor off",),
    "augment=flip,flop": ("'flop'",),
    "lr=0.1,0.2 lr=0.1..0.2": ("lr stands there twice",),
    "momentum=0.5..0.9": ("--momentum 0.5", "adam has none"),
    "optimizer=sgd,adam momentum=0.8,0.9": ("optimizer=sgd,adam momentum=0.8,0.9", "adam has none"),
    "clip_grad_norm=0,1 clip_grad_value=0,1": ("clip_grad_norm", "--clip-grad-value"),
    "epochs=1..9 warmup=0.5..5": ("warmup=0.5..5", "less than the 1 epochs"),
    "lr=0.1..0.2 --lr 0.1": ("lr=0.1..0.2", "--lr 0.1 is given too"),
    "lr=0.1..0.2 --no-holdout": ("--no-holdout", "set aside"),
    "lr=0.1..0.2 --log-dir x": ("--log-dir", "Leave it out"),
    "lr=0.1..0.2 --resume x": ("--resume", "Leave it out"),
    "lr=0.1..0.2 --budget 9s": ("--budget 9", "--pruner none"),
    "lr=0.1..0.2 --epochs 0": ("--epochs 0", "above 0"),
    "lr=0.1..0.2 --trials 0": ("--trials 0", "1 or more"),
    "lr=0.1..0.2 --sampler-seed -1": ("--sampler-seed -1", "0 or more"),
    "lr=0.1..0.2 --storage study.db": ("--storage study.db", "sqlite:///FILE"),
    "lr=0.1..0.2 --storage nosql://user:secret@host/x": ("nosql://user:***@host/x", "driver"),
}


@pytest.mark.parametrize("line", IMPOSSIBLE)
def test_what_cannot_be_searched_is_refused_before_anything_is_begun(capsys, training, line):
    entries, *rest = line.split(" --")
    words = ["--space", *(["augment=flip,flop"] if "flop" in line else entries.split())]
    message = refuse(capsys, *words, *" ".join(f"--{one}" for one in rest).split())
    for part in IMPOSSIBLE[line]:
        assert part in message
    assert training.configs == []
    assert "secret" not in message


def test_with_every_usual_option_given_something_else_must_be_searched(capsys, training):
    assert "Add --space" in refuse(capsys, "--lr", "0.1", "--weight-decay", "0")


def test_help_says_what_every_option_defaults_to(capsys):
    with pytest.raises(SystemExit) as stopped:
        tune.main(["--help"])
    assert stopped.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name in ("--space", "--sampler", "--pruner", "--trials", "--storage", "--out", "--lr"):
        assert name in shown
    assert shown.count("(default: tpe)") == 1


def test_the_commands_of_the_readme_are_taken():
    text = (SCRIPT.parents[1] / "README.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("python scripts/tune.py")]
    assert len(lines) == 2
    for line in lines:
        assert tune.parse(shlex.split(line, comments=True)[2:]).space


# ------------------------------------------------------------------ trials


@pytest.mark.parametrize("sampler", tune.SAMPLERS)
def test_every_sampler_finds_the_better_rates_within_the_space(training, capsys, sampler):
    line = ["--space", "lr=1e-4..1:log", "batch_size=32,64", "--epochs", "2"]
    assert search(*line, "--sampler", sampler, "--pruner", "none") == 0
    found = study()
    assert states(found) == ["COMPLETE"] * (6 if sampler == "grid" else tune.TRIALS)
    for config, trial in zip(training.configs, found.trials, strict=True):
        assert 1e-4 <= config.lr <= 1
        assert config.lr == trial.params["lr"]
        assert config.batch_size == int(trial.params["batch_size"])
        assert config.holdout
        assert config.epochs == 2
        assert trial.value == by_rate(config, 2)  # of the last epoch
        assert trial.intermediate_values == {n: by_rate(config, n) for n in (1, 2)}
    if sampler == "grid":
        assert len({(c.lr, c.batch_size) for c in training.configs}) == 6
    assert abs(np.log10(found.best_params["lr"]) + 2) < 0.2


def test_the_same_seed_is_the_same_search_and_another_is_another(training):
    drawn = []
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        assert search("--study", name, "--sampler-seed", seed, "--trials", "12") == 0
        drawn.append([config.lr for config in training.configs])
        training.configs.clear()
    assert drawn[0] != drawn[2]
    # brackets of Hyperband, which choose what TPE learns from, go by the name of the study
    assert drawn[0][:2] == drawn[1][:2]


def test_poor_trials_are_ended_early_and_only_those(training, capsys):
    line = ["--epochs", "9", "--trials", "30", "--sampler", "random"]
    assert search(*line, "--space", "lr=1e-4..1:log") == 0
    found = study()
    ended = [trial for trial in found.trials if trial.state == TrialState.PRUNED]
    complete = [trial for trial in found.trials if trial.state == TrialState.COMPLETE]
    assert len(ended) + len(complete) == 30
    assert len(ended) >= 5
    assert {trial.last_step for trial in ended} <= {1, 3}  # the powers of 3 below the 9 epochs
    assert {trial.last_step for trial in complete} == {9}
    assert max(trial.value for trial in ended) < max(trial.value for trial in complete)
    out = capsys.readouterr().out
    assert f"{len(complete)} trials are complete, {len(ended)} were ended early" in out
    assert search(*line, "--space", "lr=1e-4..1:log", "--pruner", "none", "--study", "all") == 0
    assert states(study("runs/all/study.journal", "all")) == ["COMPLETE"] * 30


def test_a_trial_of_a_single_epoch_is_never_ended_early(training):
    assert search("--epochs", "1", "--trials", "9") == 0
    assert states(study()) == ["COMPLETE"] * 9


def test_a_diverged_trial_is_told_of_and_the_search_goes_on(training, capsys):
    training.accuracy = diverging_above(0.1)
    assert search("--sampler", "grid", "--space", "lr=0.001,0.01,0.2,0.3") == 0
    found = study()
    assert len(found.trials) == 4
    for trial in found.trials:
        reason = trial.user_attrs.get("diverged")
        if float(trial.params["lr"]) > 0.1:
            assert trial.state == TrialState.PRUNED  # which samplers learn from
            assert reason == "diverged: the training loss is nan at step 7"
        else:
            assert trial.state == TrialState.COMPLETE
            assert reason is None
    out = capsys.readouterr().out
    assert "2 were ended early (2 of them diverged)" in out
    assert out.count("diverged: the training loss is nan at step 7") == 4  # at once, and at the end


def test_a_mistake_in_the_options_ends_the_search(training, capsys):
    def refused(config: Config, epoch: int) -> float:
        raise UsageError("--batch-size 5000 is larger than the training set.")

    training.accuracy = refused
    assert search("--trials", "5") == 2
    assert "--batch-size 5000" in capsys.readouterr().err
    assert states(study()) == ["FAIL"]


@pytest.mark.parametrize("sampler", ["tpe", "grid"])
@pytest.mark.parametrize("error", [InterruptedRunError("interrupted"), KeyboardInterrupt()])
def test_ctrl_c_keeps_what_is_finished_and_the_same_command_goes_on(
    training, capsys, sampler, error
):
    def interrupted(config: Config, epoch: int) -> float:
        if len(training.configs) == 3 and epoch == 4:
            raise error
        return by_rate(config, epoch)

    training.accuracy = interrupted
    line = ["--space", "lr=1e-3,1e-2,1e-1,1", "--trials", "4", "--sampler", sampler]
    line += ["--epochs", "9", "--pruner", "none"]
    assert search(*line) == 130
    err = capsys.readouterr().err
    command = err.splitlines()[-1].strip()
    assert states(study()) == ["COMPLETE", "COMPLETE", "FAIL", "WAITING"]

    assert command.startswith("python scripts/tune.py ")
    assert tune.main(shlex.split(command)[2:]) == 0
    found = study()
    trials = found.trials
    assert states(found)[3:] == ["COMPLETE", "COMPLETE"]
    assert trials[3].params == trials[2].params  # what was interrupted is run again
    if sampler == "grid":
        tried = [trial.params["lr"] for trial in trials if trial.state.name != "FAIL"]
        assert sorted(tried) == ["0.001", "0.01", "0.1", "1.0"]


def test_what_is_run_again_is_judged_anew(training):
    def interrupted(config: Config, epoch: int) -> float:
        if epoch == 4:
            raise KeyboardInterrupt
        return by_rate(config, epoch)

    training.accuracy = interrupted
    assert search("--epochs", "9", "--trials", "1") == 130
    failed, queued = study().trials
    assert any(name.startswith("completed_rung_") for name in failed.system_attrs)
    assert not any(name.startswith("completed_rung_") for name in queued.system_attrs)
    assert queued.params == failed.params
    assert queued.intermediate_values == {}


def test_a_study_that_has_its_trials_gets_no_more_and_with_more_asked_for_the_rest(training):
    for asked, ran in ((4, 4), (4, 0), (7, 3)):
        training.configs.clear()
        assert search("--trials", str(asked)) == 0
        assert len(training.configs) == ran
    assert len({trial.params["lr"] for trial in study().trials}) == 7


OTHERS = {
    "--epochs 4": ("--epochs is 3, here 4",),
    "--epochs 3 --lr 0.1": ("--space lr is 0.0003..0.03:log, here absent",),
    "--epochs 3 --optimizer sgd": ("--space lr is 0.0003..0.03:log, here 0.01..1.0:log",),
    "--epochs 3 --space lr=0.1,0.2": ("--space lr is 0.0003..0.03:log, here 0.1,0.2",),
    "": ("--epochs is 3, here 60",),
}


@pytest.mark.parametrize("line", OTHERS)
def test_a_study_does_not_go_on_with_another_space_or_other_options(training, capsys, line):
    begun = ["--epochs", "3", "--trials", "2"]
    assert search(*begun) == 0
    capsys.readouterr()
    message = refuse(capsys, *line.split())
    for part in OTHERS[line]:
        assert part in message
    assert f"python scripts/tune.py --device cpu {' '.join(begun)}\n" in message
    assert "--study NAME" in message
    assert len(training.configs) == 2


def test_options_that_say_what_holds_anyway_and_where_to_compute_are_welcome(training):
    assert search("--epochs", "3", "--trials", "1") == 0
    line = ["--optimizer", "adam", "--seed", "0", "--kernels", "compiled", "--quiet"]
    assert search("--epochs", "3", "--trials", "2", *line) == 0
    assert len(study().trials) == 2


def test_a_preset_that_trains_on_all_images_is_searched_with_a_tenth_set_aside(training, capsys):
    assert search("--preset", "air94", "--trials", "1") == 0
    assert training.configs[0].holdout
    assert "--preset air94 --holdout --lr" in capsys.readouterr().out


# ------------------------------------------------------------------ processes


def run_all(*targets: tuple[Callable[..., Any], tuple[Any, ...]]) -> None:
    """Run functions in processes of their own at once; each must end well."""
    context = multiprocessing.get_context("fork")  # which take the stand-in for train along
    processes = [context.Process(target=call, args=given) for call, given in targets]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    assert [process.exitcode for process in processes] == [0, 0]


def slowly(config: Config, epoch: int) -> float:
    time.sleep(0.02)
    return by_rate(config, epoch)


@pytest.mark.parametrize(
    ("sampler", "where"),
    [
        *[(sampler, "runs/tune/study.journal") for sampler in tune.SAMPLERS],
        pytest.param("random", "sqlite:///study.db", marks=pytest.mark.slow),
    ],
)
def test_two_processes_share_a_study_and_try_nothing_twice(training, sampler, where):
    training.accuracy = slowly
    values = ",".join(f"{rate / 1000}" for rate in range(1, 13))
    text = f"lr={values}" if sampler == "grid" else "lr=1e-4..1:log"
    line = ["--sampler", sampler, "--storage", where, "--trials", "12", "--epochs", "2"]

    def work(name: str) -> None:
        assert search(*line, "--space", text, "--out", name) == 0

    assert search(*line[:-4], "--trials", "1", "--epochs", "2", "--space", text) == 0  # makes it
    run_all((work, ("one",)), (work, ("two",)))
    done = [trial for trial in study(where).trials if trial.state in tune.FINISHED]
    assert len(done) in (12, 13)  # the second may have begun its last before the first ended
    tried = [trial.params["lr"] for trial in done]
    if sampler == "grid":
        assert len(set(tried)) == 12
    else:
        assert len(set(tried)) == len(tried)


@pytest.mark.slow
def test_the_values_of_a_process_that_died_are_tried_again(training, monkeypatch):
    monkeypatch.setattr(tune, "HEARTBEAT", 1)
    monkeypatch.setattr(tune, "SILENCE", 1)
    where = "sqlite:///study.db"
    line = ["--storage", where, "--trials", "2"]
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        begun = tune.open_study(tune.parse([*ON_CPU, *line]))
    dead = begun.ask()
    lr = dead.suggest_float("lr", 3e-4, 3e-2, log=True)
    begun._storage.record_heartbeat(dead._trial_id)
    time.sleep(2.1)  # times in the database are whole seconds
    assert search(*line) == 0
    found = study(where)
    assert states(found)[0] == "FAIL"
    assert [trial.params["lr"] for trial in found.trials].count(lr) == 2
    assert len([trial for trial in found.trials if trial.state in tune.FINISHED]) == 2


def test_under_torchrun_all_processes_train_what_the_first_one_chooses(training, monkeypatch):
    training.accuracy = diverging_above(0.5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def work(rank: int) -> None:
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ.update(address, RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
        line = ["--trials", "12", "--epochs", "9", "--space", "lr=1e-4..10:log"]
        assert search(*line, "--sampler", "random") == 0
        Path(f"rank{rank}.json").write_text(json.dumps([c.lr for c in training.configs]))

    run_all((work, (0,)), (work, (1,)))
    chosen = [json.loads(Path(f"rank{rank}.json").read_text()) for rank in (0, 1)]
    found = study()
    assert chosen[0] == chosen[1] == [trial.params["lr"] for trial in found.trials]
    assert {"COMPLETE", "PRUNED"} == set(states(found))
    assert any("diverged" in trial.user_attrs for trial in found.trials)
    assert any(trial.last_step == 1 for trial in found.trials)


# ------------------------------------------------------------------ report


def options_of(config: Config) -> dict[str, Any]:
    return {name: value for name, value in config.as_json().items() if name != "log_dir"}


def printed_command(out: str) -> list[str]:
    """The arguments for cifar10.py in a report."""
    (line,) = [one for one in out.splitlines() if one.startswith("    python scripts/cifar10.py")]
    return shlex.split(line)[2:]


def test_the_command_in_the_report_has_the_options_of_the_best_trial(training, capsys):
    line = ["--optimizer", "sgd", "--no-nesterov", "--fused-layers", "--trials", "6"]
    entries = [
        "lr=1e-4..1:log",
        "augment=none,crop cutout",
        "epochs=1..3",
        "normalize_weights=on,off",
    ]
    assert search(*line, "--space", *entries) == 0
    best = training.configs[study().best_trial.number]
    config = options.parse(printed_command(capsys.readouterr().out))
    differ = {"log_dir", "checkpoint_dir", "quiet", "tensorboard"}
    for name, value in dataclasses.asdict(config).items():
        if name not in differ:
            assert value == getattr(best, name), name


def test_the_report_alone_runs_nothing_and_says_the_same(training, capsys):
    assert search("--trials", "6", "--epochs", "3") == 0
    first = capsys.readouterr().out
    whole = first[first.index("# tune") :]
    training.configs.clear()
    for line in (["--report"], [*ON_CPU, "--report", "--epochs", "3"]):
        assert tune.main(line) == 0
        # where it computed is not a part of the study
        assert capsys.readouterr().out.replace(" --device cpu", "") == whole.replace(
            " --device cpu", ""
        )
    assert training.configs == []
    assert "--epochs is 3, here 4" in refuse(capsys, "--report", "--epochs", "4")


@pytest.mark.parametrize(
    ("text", "said"), [("{}\nx\n", "line 2: damaged"), ('{"a": 1}\n', "cannot be used")]
)
def test_a_file_that_is_no_journal_is_refused_and_left_as_it_is(training, capsys, text, said):
    Path("other.journal").write_text(text)
    assert said in refuse(capsys, "--storage", "other.journal")


@pytest.mark.parametrize("where", ["none.journal", "sqlite:///none.db"])
def test_a_report_of_nothing_is_refused_and_leaves_nothing(capsys, where):
    assert "no such file" in refuse(capsys, "--report", "--storage", where)
    assert list(Path.cwd().iterdir()) == []


def test_a_report_of_a_study_that_is_not_there_names_those_that_are(training, capsys):
    assert search("--trials", "1") == 0
    capsys.readouterr()
    line = ["--report", "--storage", "runs/tune/study.journal", "--study", "other"]
    assert tune.main(line) == 2
    assert "Choose from tune" in capsys.readouterr().err


def test_the_table_ranks_complete_trials_and_importances_tell_what_matters(reporting, capsys):
    entries = ["lr=1e-4..1:log", "dropout=0..0.5"]  # of which the accuracy depends on one
    assert search("--space", *entries, "--trials", "25", "--pruner", "none") == 0
    out = capsys.readouterr().out
    rows = [line.strip("| ").split(" | ") for line in out.splitlines() if line.startswith("| ")]
    assert rows[0] == ["rank", "trial", "validation accuracy", "lr", "dropout", "epochs", "seconds"]
    places = [row for row in rows if row[0].isdigit()]
    ranked = tune.best_trials(study())
    assert [int(row[1]) for row in places] == [trial.number for trial in ranked[: tune.SHOWN]]
    assert [row[2] for row in places] == [f"{trial.value:.2%}" for trial in ranked[: tune.SHOWN]]
    values = [trial.value for trial in ranked]
    assert values == sorted(values, reverse=True)
    found = tune.importances(study())
    assert sum(found.values()) == pytest.approx(1)
    assert list(found) == ["lr", "dropout"]
    assert ["lr", f"{found['lr']:.2f}"] in rows


def test_equal_accuracies_have_no_importances(reporting, capsys):
    reporting.accuracy = lambda config, epoch: 0.5
    assert search("--trials", "3") == 0
    assert tune.importances(study()) == {}
    assert "Importances need two complete trials" in capsys.readouterr().out
    assert not Path("runs/tune/importances.png").exists()


def test_pictures_are_drawn_of_ranges_and_of_lists(reporting):
    entries = ["lr=1e-4..1:log", "batch_size=32,64", "momentum=0.1..0.9"]
    assert search("--optimizer", "sgd", "--space", *entries, "--trials", "12") == 0
    for name in ("history", "curves", "slices", "importances"):
        with Image.open(f"runs/tune/{name}.png") as picture:
            assert min(picture.size) > 300
            assert len(picture.getcolors(10_000)) > 10


def test_every_trial_stands_in_hparams_with_its_options_and_its_accuracy(training):
    assert search("--epochs", "9", "--trials", "12", "--sampler", "random") == 0
    assert search("--epochs", "9", "--trials", "13", "--sampler", "random") == 0  # no file twice
    files = sorted(Path("runs/tune/tensorboard").rglob("events.out.tfevents.*"))
    trials = study().trials
    assert {trial.state.name for trial in trials} == {"COMPLETE", "PRUNED"}
    assert [file.parent.name for file in files] == [f"trial-{n:04}" for n in range(13)]
    for file, trial in zip(files, trials, strict=True):
        events = EventAccumulator(str(file.parent))
        events.Reload()
        content = events.PluginTagToContent("hparams")
        found = {tag: HParamsPluginData.FromString(data) for tag, data in content.items()}
        start = found["_hparams_/session_start_info"].session_start_info.hparams
        assert start["lr"].number_value == trial.params["lr"]
        assert start["optimizer"].string_value == "adam"
        assert start["augment"].string_value == "crop"
        assert start["state"].string_value == trial.state.name.lower()
        infos = found["_hparams_/experiment"].experiment.metric_infos
        assert [info.name.tag for info in infos] == ["validation/accuracy"]
        curve = events.Scalars("validation/accuracy")
        assert [point.step for point in curve] == sorted(trial.intermediate_values)
        assert curve[-1].value == np.float32(trial.value)


# ------------------------------------------------------------------ real runs


def poisoned(*args: Any) -> Any:
    """The digits, with test images of five channels, on which no network here can run."""
    found = LOAD(*args)
    images = torch.zeros(7, 5, 8, 8, dtype=torch.uint8)
    return dataclasses.replace(found, test=Split(images, torch.zeros(7, dtype=torch.int64)))


LOAD = loop.load_data


def test_a_search_sees_no_test_image_and_its_best_is_reproduced(monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(loop, "load_data", poisoned)
        patch.setattr(tune, "draw", lambda *given: None)
        patch.setattr(tune, "importances", lambda study: {})
        with pytest.raises(RuntimeError):  # what would happen if it did
            loop.train(make_config(epochs=0.1, log_dir="p", layers="torch", quiet=True))
        code = tune.main([*SMALL, "--space", "lr=0.003,0.0001", "--sampler", "grid", "--tta"])
        assert code == 0
    arguments = printed_command(capsys.readouterr().out)
    assert cifar10.main([*arguments, "--log-dir", "again", "--quiet", "--no-tensorboard"]) == 0
    result = json.loads(Path("again/result.json").read_text())
    assert result["validation_accuracy"] == study().best_value
    assert result["test_accuracy_tta"] is not None
    # checkpoints are not kept
    assert {path.name for path in Path("runs/tune").iterdir()} >= {"study.journal", "tensorboard"}
    assert not list(Path("runs").rglob("*.pt"))


def test_a_run_that_is_not_tested_says_so():
    given = {"epochs": 0.1, "layers": "torch", "quiet": True, "tta": True, "device": "cpu"}
    result = loop.train(make_config(**given, log_dir="run"), testing=False)
    assert result.test_accuracy is result.test_loss is result.test_class_accuracy is None
    assert result.test_accuracy_tta is None
    assert result.validation_accuracy is not None


@pytest.mark.slow
def test_torchrun_starts_a_search():
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(SCRIPT)]
    line = [*SMALL, "--space", "lr=0.001,0.01", "--trials", "2"]
    done = subprocess.run([*command, *line], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trial 0: validation accuracy") == 1  # the first process speaks
    assert states(study()) == ["COMPLETE"] * 2
