"""What a finished run leaves behind for a reader or a program: ``result.json``."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
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

    test_accuracy: float  # 0..1, of the final weights
    test_loss: float  # cross-entropy in nats an image
    test_class_accuracy: dict[str, float]
    test_accuracy_tta: float | None  # of the mean over six views; None: not asked for
    tta_seconds: float | None  # which that took
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
        text = json.dumps(dataclasses.asdict(self), indent=2) + "\n"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / "result.json", lambda file: file.write(text.encode()))
        except OSError as error:
            raise UsageError(
                f"cannot write {folder / 'result.json'}: {error}. The checkpoint is complete: free "
                "some space, then --resume tests again and writes the result."
            ) from error


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
