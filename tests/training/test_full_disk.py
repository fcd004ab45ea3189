"""A full disk: one message, and what was written before stays whole.

The disk is a small file system in memory where the tests may mount one. Everywhere, a limit on the
size of files takes its place: the kernel refuses to write in the same places.
"""

from __future__ import annotations

import contextlib
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import cifar10
from tests.training.test_loop import assert_same, at_step
from tests.training.test_tensorboard import read, steps
from training.checkpoint import load

pytestmark = pytest.mark.usefixtures("tiny")

OPTIONS = [
    "--epochs", "3", "--batch-size", "8", "--device", "cpu", "--layers", "torch", "--dropout",
    "0.3", "--log-every", "1", "--pictures-every", "1", "--quiet", "--resume", "auto",
]  # fmt: skip


@pytest.fixture(params=["file system", "limit"])
def disk(request, tmp_path) -> Iterator[tuple[Path, Callable[[], None], Callable[[], None]]]:
    """A folder, what fills it, and what makes room again."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "limit":
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)

        def fill() -> None:
            sizes = [p.stat().st_size for p in folder.rglob("*") if p.is_file()]
            resource.setrlimit(resource.RLIMIT_FSIZE, (max(sizes) // 2, limits[1]))

        def free() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

        yield folder, fill, free
        free()
        return
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    filler = folder / "filler"

    def fill() -> None:
        with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    yield folder, fill, filler.unlink
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("full", ["checkpoints", "curves"])
def test_a_full_disk_ends_in_one_message_and_the_run_goes_on_when_there_is_room(
    tmp_path, monkeypatch, capfd, disk, full
):
    folder, fill, free = disk
    places = {"checkpoints": tmp_path / "checkpoints", "curves": tmp_path / "curves"}
    places[full] = folder / "run"
    argv = [
        *OPTIONS, "--checkpoint-dir", str(places["checkpoints"]), "--log-dir", str(places["curves"])
    ]  # fmt: skip
    argv += ["--no-tensorboard"] if full == "checkpoints" else []
    before: dict[Path, bytes] = {}

    def note_and_fill() -> None:
        before.update({path: path.read_bytes() for path in places["checkpoints"].iterdir()})
        fill()

    with monkeypatch.context() as patch:
        at_step(patch, 8, note_and_fill)  # in the second epoch
        code = cifar10.main(argv)
    free()
    out, err = capfd.readouterr()
    assert code == 2
    assert out == ""
    what = "cannot write the checkpoint" if full == "checkpoints" else "cannot write event files"
    assert err.startswith(f"cifar10.py: error: {what}")
    assert "Free some space" in err
    assert err.count("\n") == 1
    names = {path.name for path in places["checkpoints"].iterdir()} - {"filler"}
    assert names == {path.name for path in before} == {"last.pt", "best.pt"}
    for path, content in before.items():
        assert path.read_bytes() == content
    assert load(places["checkpoints"] / "last.pt")["progress"]["steps"] == 6

    assert cifar10.main(argv) == 0
    assert cifar10.main([*OPTIONS, "--log-dir", str(tmp_path / "whole")]) == 0
    assert_same(load(tmp_path / "whole" / "last.pt"), load(places["checkpoints"] / "last.pt"))
    if full == "curves":
        parts, whole = read(places["curves"]), read(tmp_path / "whole")
        for tag in whole.Tags()["scalars"]:
            assert steps(parts, tag) == steps(whole, tag), tag


def test_a_disk_that_is_full_from_the_start_is_reported(tmp_path, capfd, disk):
    folder, fill, free = disk
    (folder / "something").write_bytes(bytes(2048))
    fill()
    code = cifar10.main([*OPTIONS, "--log-dir", str(folder / "run")])
    free()
    err = capfd.readouterr().err
    assert code == 2
    assert err.startswith("cifar10.py: error: cannot write event files")
    assert err.count("\n") == 1
