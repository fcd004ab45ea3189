"""Several processes: together they do what one would do."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import cifar10
from training.checkpoint import load
from training.distributed import World

HERE = Path(__file__).parent
SCRIPT = HERE.parents[1] / "scripts" / "cifar10.py"
IN_FLOAT64 = HERE / "in_float64.py"
# everything whose result could depend on who has which image
OPTIONS = [
    "--device", "cpu", "--epochs", "0.6", "--batch-size", "63", "--model", "resnet20",
    "--optimizer", "sgd", "--lr", "0.01", "--imbalance", "0.9", "--class-weights", "inverse",
    "--mixup", "0.5", "--cutmix", "0.5", "--augment", "flip", "crop", "trivial", "cutout",
    "--label-smoothing", "0.1", "--clip-grad-norm", "1", "--average", "ema", "--quiet",
]  # fmt: skip


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run(
    script: Path, processes: int, *argv: str, kill: Callable[[], bool] | None = None
) -> list[subprocess.CompletedProcess[str]]:
    """As torchrun does, but without its supervisor, whose start takes longer than the run.

    The last process is killed once ``kill`` says so.
    """
    common = os.environ | {
        "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parent),
    }  # fmt: skip
    started = [
        subprocess.Popen(
            [sys.executable, str(script), *argv],
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    if kill:
        deadline = time.monotonic() + 200
        while not kill() and time.monotonic() < deadline:
            time.sleep(0.05)
        started[-1].kill()
    done = []
    for process in started:
        out, err = process.communicate(timeout=300)
        done.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    return done


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Of all weights and statistics, by their length."""
    assert a.keys() == b.keys()
    x, y = (torch.cat([t.double().flatten() for t in state.values()]) for state in (a, b))
    return ((x - y).norm() / x.norm()).item()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one process."""
    folder = tmp_path_factory.mktemp("whole")
    (done,) = run(IN_FLOAT64, 1, *OPTIONS, "--no-tensorboard", "--log-dir", str(folder))
    assert done.returncode == 0, done.stderr
    return folder


def results(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def test_two_processes_end_with_the_weights_of_one(whole, tmp_path):
    first, second = run(IN_FLOAT64, 2, *OPTIONS, "--log-dir", str(tmp_path))
    assert first.returncode == 0, first.stderr
    assert second.returncode == 0, second.stderr
    one, two = load(whole / "last.pt"), load(tmp_path / "last.pt")
    assert one["progress"]["steps"] >= 10
    # float64, whose rounding grows over these steps; in float32 it is 1e-4
    assert distance(one["model"], two["model"]) < 1e-9
    assert distance(one["average"]["averages"], two["average"]["averages"]) < 1e-9
    for name in ("test_accuracy", "validation_accuracy", "test_class_accuracy"):
        assert results(whole)[name] == results(tmp_path)[name]
    row, other = results(whole)["history"][0], results(tmp_path)["history"][0]
    assert row["train_accuracy"] == other["train_accuracy"]
    assert row["train_loss"] == pytest.approx(other["train_loss"], rel=1e-6)  # kept in float32
    # one of them writes and speaks
    assert first.stdout.startswith("test accuracy")
    assert second.stdout == ""
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1


@pytest.mark.slow
def test_what_the_first_process_refuses_ends_all_of_them(tmp_path):
    done = run(SCRIPT, 2, "--lr", "-1", "--log-dir", str(tmp_path / "a"))
    assert [d.returncode for d in done] == [2, 2]
    assert "--lr -1.0" in done[0].stderr
    assert done[1].stderr == ""
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_a_checkpoint_goes_on_with_another_number_of_processes(whole, tmp_path):
    """Of two processes, then one, then three."""
    folder, steps = str(tmp_path), ("--checkpoint-every", "3", "--log-every", "2")
    for processes, interrupted in ((2, True), (1, True), (3, False)):
        argv = [*OPTIONS, *steps, "--log-dir", folder]
        if (tmp_path / "last.pt").exists():
            argv = ["--resume", folder, "--quiet", *steps]
        stop = {"STOP_AFTER": "3"} if interrupted else {}
        with pytest.MonkeyPatch.context() as patch:
            for name, value in stop.items():
                patch.setenv(name, value)
            done = run(IN_FLOAT64, processes, *argv)
        assert done[0].returncode == (130 if interrupted else 0), done[0].stderr
    one, many = load(whole / "last.pt"), load(tmp_path / "last.pt")
    assert distance(one["model"], many["model"]) < 1e-9
    assert results(whole)["test_accuracy"] == results(tmp_path)["test_accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "optimizer",
    ["sgd", *[pytest.param(name, marks=pytest.mark.exhaustive) for name in ("adam", "muon")]],
)
def test_sharded_processes_end_with_the_weights_of_one(tmp_path, optimizer):
    """And go on from each other's checkpoints, sharded or not."""
    options = [*OPTIONS, "--optimizer", optimizer, "--average", "none", "--checkpoint-every", "7"]
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    (done,) = run(IN_FLOAT64, 1, *options, "--log-dir", one)
    assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STOP_AFTER", "8")
        done = run(IN_FLOAT64, 2, *options, "--fsdp", "--log-every", "1", "--log-dir", two)
    assert done[0].returncode == 130, done[0].stderr
    done = run(IN_FLOAT64, 2, "--resume", two, "--fsdp", "--quiet")
    assert done[0].returncode == 0, done[0].stderr
    one, two = (load(tmp_path / name / "last.pt") for name in ("one", "two"))
    # float64; Adam's quotient lets rounding grow most, Muon multiplies in bfloat16
    assert distance(one["model"], two["model"]) < (1e-2 if optimizer == "muon" else 1e-6)
    assert results(tmp_path / "one")["test_accuracy"] == results(tmp_path / "two")["test_accuracy"]


def test_one_process_cannot_be_sharded(tmp_path, capsys):
    assert cifar10.main(["--fsdp", "--device", "cpu", "--log-dir", str(tmp_path / "a")]) == 2
    assert "--fsdp: there is one process only" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
def test_torchrun_starts_it(tmp_path):
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        str(SCRIPT), "--epochs", "1", "--batch-size", "256", "--device", "cpu", "--log-dir",
        str(tmp_path),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test accuracy") == 1
    assert results(tmp_path)["config"]["batch_size"] == 256


@pytest.mark.slow
def test_when_a_process_dies_the_other_says_so_and_the_same_command_goes_on(whole, tmp_path):
    argv = [*OPTIONS, "--checkpoint-every", "2", "--resume", "auto", "--log-dir", str(tmp_path)]
    done = run(IN_FLOAT64, 2, *argv, kill=lambda: (tmp_path / "last.pt").exists())
    assert [d.returncode for d in done] == [1, -signal.SIGKILL]
    assert "another process has ended" in done[0].stderr
    assert "Traceback" not in done[0].stderr
    assert load(tmp_path / "last.pt")["progress"]["steps"] >= 2
    done = run(IN_FLOAT64, 2, *argv)
    assert done[0].returncode == 0, done[0].stderr
    assert distance(load(whole / "last.pt")["model"], load(tmp_path / "last.pt")["model"]) < 1e-9


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("n", [1, 2, 7, 64, 63])
def test_parts_are_the_whole_and_partners_are_together(n, size):
    parts = [World(rank, size).part(n) for rank in range(size)]
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(n))
    for part in parts:
        assert torch.equal(part.flip(0), n - 1 - part)
        assert torch.equal(part, part.sort().values)
    assert max(map(len, parts)) - min(map(len, parts)) <= 2
