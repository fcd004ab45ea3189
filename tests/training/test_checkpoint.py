"""Checkpoints: a file is whole or as it was before, and opening one runs nobody's code."""

from __future__ import annotations

import os
import pickle
import subprocess
from pathlib import Path

import pytest
import torch

from training import checkpoint
from training.averaging import Average
from training.checkpoint import Run, find, load, remove_leftovers, save, write_atomically
from training.errors import UsageError


def make_run(width: int = 3, cls: type[torch.optim.Optimizer] = torch.optim.Adam) -> Run:
    model = torch.nn.Linear(2, width)
    optimizer = cls(model.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (step + 1))
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    scheduler.step()
    generator, average = torch.Generator().manual_seed(1), Average(model, "ema", 0.9)
    return Run(model, optimizer, scheduler, scaler, generator, average)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def fail(*args: object) -> None:
    raise OSError(28, "No space left on device")


def write_half_then_fail(file) -> None:
    file.write(b"half")
    fail()


@pytest.mark.parametrize("where", ["writing", "fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, where):
    path = tmp_path / "last.pt"
    write_atomically(path, lambda file: file.write(b"old"))
    writer = write_half_then_fail if where == "writing" else lambda file: file.write(b"new")
    if where != "writing":
        monkeypatch.setattr(os, where, fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, writer)
    assert files(tmp_path) == {"last.pt": b"old"}


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    gone = [f".last.pt.{ended.pid}", f".result.json.{os.getpid()}", f".best.pt.{10**30}"]
    kept = [f".last.pt.{os.getppid()}", "last.pt", f".notes.txt.{ended.pid}", ".last.pt.x", ".git"]
    for name in (*gone, *kept):
        (tmp_path / name).write_bytes(b"")
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(kept)
    remove_leftovers(tmp_path / "nowhere")


def test_the_content_is_on_disk_before_the_name_points_to_it(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor: int) -> None:
        order.append(("fsync", os.fstat(descriptor).st_size))
        fsync(descriptor)

    def note_replace(source: Path, target: Path) -> None:
        order.append(("replace", Path(source).stat().st_size))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_atomically(tmp_path / "last.pt", lambda file: file.write(b"12345"))
    assert order[:2] == [("fsync", 5), ("replace", 5)]
    assert order[2][0] == "fsync"  # of the folder


def test_a_full_disk_is_reported_with_the_remedy(tmp_path, monkeypatch):
    save(tmp_path / "last.pt", {"a": 1})
    before = files(tmp_path)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(UsageError, match=r"No space left.*Free some space.*untouched"):
        save(tmp_path / "last.pt", {"a": 2})
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "cls", [torch.optim.SGD, torch.optim.RMSprop, torch.optim.Adam, torch.optim.AdamW]
)
def test_a_state_survives_the_file_bit_for_bit(tmp_path, cls):
    run = make_run(cls=cls)
    run.epoch, run.best_accuracy, run.history = 3, 0.1 + 0.2, [{"epoch": 1, "loss": 1 / 3}]
    torch.rand(3), torch.rand(3, generator=run.generator)
    save(tmp_path / "last.pt", run.state_dict())  # load() below uses weights_only=True
    expected = torch.rand(5), torch.rand(5, generator=run.generator)

    other = make_run(cls=cls)
    with torch.no_grad():
        other.model.weight.zero_()
    state = load(tmp_path / "last.pt")
    other.load_state_dict(state, tmp_path / "last.pt")
    assert torch.equal(torch.rand(5), expected[0])
    assert torch.equal(torch.rand(5, generator=other.generator), expected[1])
    torch.testing.assert_close(other.model.state_dict(), run.model.state_dict(), rtol=0, atol=0)
    for mine, theirs in zip(
        other.optimizer.state.values(), run.optimizer.state.values(), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    assert other.optimizer.param_groups[0]["lr"] == run.optimizer.param_groups[0]["lr"]
    assert other.scheduler.last_epoch == 1
    assert (other.epoch, other.best_accuracy, other.history) == (
        3, 0.1 + 0.2, [{"epoch": 1, "loss": 1 / 3}],
    )  # fmt: skip


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused_with_the_remedy(tmp_path, share):
    path = tmp_path / "last.pt"
    save(path, make_run().state_dict())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UsageError, match=r"last\.pt is damaged.*best\.pt"):
        load(path)


class Malice:
    def __reduce__(self):
        return os.mkdir, (os.environ["MALICE"],)


def test_opening_a_file_runs_none_of_its_code(tmp_path, monkeypatch):
    monkeypatch.setenv("MALICE", str(tmp_path / "done"))
    torch.save({"format": checkpoint.FORMAT, "model": Malice()}, tmp_path / "zip.pt")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(Malice()))
    for name in ("zip.pt", "pickle.pt"):
        with pytest.raises(UsageError, match="damaged, or is not a checkpoint"):
            load(tmp_path / name)
    assert not (tmp_path / "done").exists()


def test_a_file_of_weights_alone_is_no_checkpoint(tmp_path):
    torch.save({"weight": torch.ones(2)}, tmp_path / "w.pt")
    with pytest.raises(UsageError, match="is not a checkpoint of this script"):
        load(tmp_path / "w.pt")


def test_find_takes_a_file_or_its_folder_and_names_what_is_missing(tmp_path):
    with pytest.raises(UsageError, match=r"there is no file .*last\.pt"):
        find(str(tmp_path))
    save(tmp_path / "last.pt", {})
    assert find(str(tmp_path)) == find(str(tmp_path / "last.pt")) == tmp_path / "last.pt"


@pytest.mark.parametrize("what", ["model", "optimizer", "progress"])
def test_a_state_that_does_not_fit_changes_nothing(tmp_path, what):
    state = make_run(width=4 if what == "model" else 3).state_dict()
    if what != "model":
        del state[what]
    run = make_run()
    weight, random = run.model.weight.detach().clone(), torch.get_rng_state()
    with pytest.raises(UsageError, match="is of another model" if what == "model" else "lacks"):
        run.load_state_dict(state, tmp_path / "last.pt")
    assert torch.equal(run.model.weight, weight)
    assert torch.equal(torch.get_rng_state(), random)
    assert run.epoch == 0
