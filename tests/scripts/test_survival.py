"""A training that is killed, however and whenever, and started again ends as if nothing had been.

Every training is a process of its own, killed from outside. ``warm.py`` forks them, because what
they import takes longer than what they do.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.training.test_loop import assert_same
from tests.training.test_tensorboard import read, steps, values
from training.checkpoint import load

ROOT = Path(__file__).parents[2]
OPTIONS = [
    "--model", "resnet8", "--layers", "torch", "--dropout", "0.1", "--epochs", "3",
    "--batch-size", "256", "--checkpoint-every", "2", "--log-every", "1", "--pictures-every", "0",
    "--device", "cpu", "--quiet", "--resume", "auto",
]  # fmt: skip
"""15 steps, 5 an epoch."""


class Warm:
    """Starts trainings, one at a time."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(ROOT), str(ROOT / "scripts")])
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("warm.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ
            | {"PYTHONPATH": path}
            | {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")},
        )
        assert self.answer() == "ready"

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def start(self, folder: Path) -> int:
        """Begin, or go on, in a folder; returns the process id."""
        argv = [*OPTIONS, "--log-dir", str(folder)]
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([argv, f"{folder}.txt"]) + "\n")
        self.process.stdin.flush()
        return int(self.answer())

    def end(self) -> int:
        """Wait for it; returns the exit code."""
        return int(self.answer())

    def finish(self, folder: Path) -> None:
        """Go on to the end."""
        self.start(folder)
        assert self.end() == 0, Path(f"{folder}.txt").read_text()


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    found = Warm()
    yield found
    found.process.kill()
    found.process.communicate()


@pytest.fixture(scope="module")
def whole(warm, tmp_path_factory) -> tuple[Path, float]:
    """A training that nothing disturbed, and the seconds it took."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    begun = time.perf_counter()
    warm.finish(folder)
    return folder, time.perf_counter() - begun


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_same_training(folder: Path, whole: Path) -> None:
    """Weights, optimizer, history and results to the last bit, every point of every curve once."""
    for name in ("last.pt", "best.pt"):
        assert_same(load(folder / name), load(whole / name), name)
    results = [json.loads((one / "result.json").read_text()) for one in (folder, whole)]
    for name in ("test_accuracy", "test_loss", "test_calibration_error", "steps", "best_epoch"):
        assert results[0][name] == results[1][name], name
    one, other = read(folder), read(whole)
    for kind in ("scalars", "images", "histograms"):
        assert set(one.Tags()[kind]) == set(other.Tags()[kind])
    for tag in other.Tags()["scalars"]:
        assert steps(one, tag) == steps(other, tag), tag
        if tag not in ("images_per_second", "data_share", "train_seconds"):
            assert values(one, tag) == values(other, tag), tag
    for tag in other.Tags()["images"]:
        assert [e.step for e in one.Images(tag)] == [e.step for e in other.Images(tag)], tag
    for tag in other.Tags()["histograms"]:
        at = [[event.step for event in found.Histograms(tag)] for found in (one, other)]
        assert at[0] == at[1], tag
    assert not list(folder.glob(".*"))


def kill(warm: Warm, folder: Path, wait: Callable[[int], object]) -> bool:
    """Begin or go on, and kill when ``wait``, given the process id, returns; was it in time?"""
    pid = warm.start(folder)
    wait(pid)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    code = warm.end()
    assert code in (-signal.SIGKILL, 0), Path(f"{folder}.txt").read_text()
    return code != 0


def test_killed_while_it_writes_a_checkpoint_and_once_more_it_ends_with_the_same_bits(
    warm, whole, tmp_path
):
    folder = tmp_path / "run"
    drawn = random.Random(0)

    def writing(pid: int) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (folder / f".last.pt.{pid}").exists():
            pass

    for _ in range(20):  # until the kill came before the file had its name
        assert kill(warm, folder, writing)
        left = list(folder.glob(".last.pt.*"))
        if left:
            break
    assert left
    kill(warm, folder, lambda pid: time.sleep(drawn.uniform(0, whole[1])))
    warm.finish(folder)
    assert_same_training(folder, whole[0])


@pytest.mark.slow
def test_killed_at_any_of_twenty_moments_it_ends_with_the_same_bits(warm, whole, tmp_path):
    drawn = random.Random(1)
    kills = 0
    for i in range(60):
        folder = tmp_path / f"run{i}"
        for _ in range(2):  # the second time it goes on already
            moment = drawn.uniform(0, whole[1])
            kills += kill(warm, folder, lambda pid, moment=moment: time.sleep(moment))
        warm.finish(folder)
        assert_same_training(folder, whole[0])
        if kills >= 20:
            break
    assert kills >= 20


def test_sigterm_leaves_a_checkpoint_and_the_same_command_goes_on(warm, whole, tmp_path):
    folder = tmp_path / "run"
    pid = warm.start(folder)
    deadline = time.monotonic() + 60
    while not (folder / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.001)
    os.kill(pid, signal.SIGTERM)
    assert warm.end() == 128 + signal.SIGTERM == 143
    step = load(folder / "last.pt")["progress"]["steps"]
    said = Path(f"{folder}.txt").read_text()
    assert said == (
        f"cifar10.py: interrupted after step {step} of 15. Go on with --resume {folder}\n"
    )
    assert not list(folder.glob(".*"))
    warm.finish(folder)
    assert_same(load(folder / "last.pt"), load(whole[0] / "last.pt"))


def test_a_finished_run_says_so_and_stays_as_it_is(warm, whole):
    folder, _ = whole
    before = contents(folder)
    warm.finish(folder)
    assert "holds a finished run, which stays as it is" in Path(f"{folder}.txt").read_text()
    assert contents(folder) == before
