"""What a finished run leaves behind for a reader or a program.

That is ``result.json`` in its folder and, where it is asked for, the same as a line of a file which
many runs share.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import importlib.metadata
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from training.checkpoint import write_atomically
from training.errors import UsageError

VARIABLES = ("CUBLAS_", "CUDA_", "CUDNN_", "KMP_", "MKL_", "NCCL_", "OMP_", "PYTORCH_", "TORCH")
"""How variables of the environment begin that change how torch computes."""


@dataclass(frozen=True)
class Result:
    """What came out of a run."""

    test_accuracy: float | None  # 0..1, of the final weights; None: not tested
    test_loss: float | None  # cross-entropy in nats an image
    test_class_accuracy: dict[str, float] | None
    test_calibration_error: float | None  # 0..1, see statistics.expected_calibration_error
    test_accuracy_tta: float | None  # of the mean over six views; None: not asked for
    test_class_accuracy_tta: dict[str, float] | None  # likewise
    test_calibration_error_tta: float | None  # likewise
    tta_seconds: float | None  # which that took
    train_accuracy: float | None  # likewise, of the training images as they are; None: no --gap
    train_loss: float | None
    gap: float | None  # accuracy of training minus that of test images
    validation_accuracy: float | None  # of the final weights; None: no images are set aside
    best_validation_accuracy: float | None
    best_epoch: int
    epochs: int  # begun
    steps: int
    parameters: int
    train_seconds: float  # training steps; without validation, pictures and checkpoints
    total_seconds: float  # of this process, from the options to the test accuracy
    images_per_second: float  # training images by train_seconds
    history: list[dict[str, float]]  # one entry an epoch
    config: dict[str, Any]
    versions: dict[str, str]
    data: dict[str, Any]  # numbers of images and the checksum

    def write(self, folder: Path) -> None:
        """Write ``folder/result.json``, atomically.

        Raises:
            UsageError: it cannot be written.
        """
        remedy = (
            "The checkpoint is complete: free some space, then --resume tests again and writes the "
            "result."
        )
        write_json(folder / "result.json", dataclasses.asdict(self), remedy)

    def append(self, file: Path) -> None:
        """Add the result to ``file`` as a line of JSON, unless this run is there already.

        Any number of processes may do so at a time. A line that an earlier one has left incomplete
        stays as it is, and this one begins below it.

        Raises:
            UsageError: it cannot be written; the file is as it was.
        """
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                with open(descriptor, "rb", closefd=False) as reader:
                    there = reader.read()
                if any(map(self._is_this_run, there.split(b"\n"))):
                    return
                below = b"\n" if there and not there.endswith(b"\n") else b""
                line = below + json.dumps(dataclasses.asdict(self)).encode() + b"\n"
                try:
                    if os.write(descriptor, line) < len(line):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                except OSError:
                    os.ftruncate(descriptor, len(there))
                    raise
            finally:
                os.close(descriptor)  # which unlocks it
        except OSError as error:
            raise UsageError(
                f"--results {file}: cannot be written ({error}). The checkpoint is complete: free "
                "some space or choose another file, then --resume tests again and writes the "
                "result."
            ) from error

    def _is_this_run(self, line: bytes) -> bool:
        """A run that is resumed at its end has the same times of training to the last digit."""
        try:
            record = json.loads(line)
        except ValueError:
            return False
        return isinstance(record, dict) and all(
            record.get(name) == getattr(self, name) for name in ("train_seconds", "history")
        )


def write_json(file: Path, content: dict[str, Any], remedy: str) -> None:
    """Write ``content`` to ``file``, atomically, for people too.

    Args:
        file: may be in a folder that is not there yet.
        content: in the types of JSON.
        remedy: what to do if it cannot be written.

    Raises:
        UsageError: it cannot be written.
    """
    write_file(file, json.dumps(content, indent=2).encode() + b"\n", remedy)


def write_file(file: Path, content: bytes, remedy: str) -> None:
    """The same for what is no JSON, or has another form."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda opened: opened.write(content))
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error}. {remedy}") from error


def flat_json(content: dict[str, Any]) -> str:
    """``content`` as JSON in which a list of numbers is a line, not one for each.

    Raises:
        ValueError: a number is not finite, for which JSON has no word.
    """
    text = json.dumps(content, indent=1, allow_nan=False)
    return re.sub(r'\[[^][{}"]+\]', lambda found: " ".join(found[0].split()), text) + "\n"


def load(folder: Path) -> dict[str, Any] | None:
    """What ``folder/result.json`` holds; None where there is none, so that no run has ended there.

    Raises:
        UsageError: it cannot be read.
    """
    file = folder / "result.json"
    try:
        record = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{file} cannot be read ({error}). Delete it, and --resume tests again and writes it."
        ) from error
    if not isinstance(record, dict) or "test_accuracy" not in record:
        raise UsageError(f"{file} is not the result of a run. Move it elsewhere.")
    return record


def versions(device: torch.device) -> dict[str, str]:
    """Software, device and commit: what a reader needs to repeat the run."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in ("scratch-torch", "torch", "torchvision", "numpy", "scikit-learn", "tensorboard"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    found["torch"] = str(torch.__version__)  # with the build, such as +cpu
    if device.type == "cuda":
        found["device"] = torch.cuda.get_device_name(device)
        found["cuda"] = str(torch.version.cuda)
        found["cudnn"] = str(torch.backends.cudnn.version())
    else:
        found["device"] = f"{platform.machine()}, threads: {torch.get_num_threads()}"
        found["cpu capability"] = torch.backends.cpu.get_cpu_capability()
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
        found["commit"] = answer.stdout.strip() or "unknown"
    except (OSError, subprocess.SubprocessError):
        found["commit"] = "unknown"
    return found


def environment(device: torch.device) -> dict[str, str]:
    """Command, machine and variables: what else a reader needs to repeat the time of the run."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    found = {
        "command": shlex.join(sys.argv),
        "processor": names[0] if names else platform.processor() or "unknown",
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["device"] = properties.name
        found["memory of the device"] = f"{properties.total_memory / 2**30:.1f} GiB"
    chosen = [name for name in sorted(os.environ) if name.startswith(VARIABLES)]
    return found | {name: os.environ[name] for name in chosen}
