"""Checkpoints: everything that changes while a network is trained, in one file.

Written atomically (temporary file, fsync, rename), so that a file of that name is always whole, and
read with ``weights_only=True``, so that opening one runs no code of whoever wrote it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from scratch_optim.lr_scheduler import ReduceLROnPlateau
from training.averaging import Average
from training.distributed import like, whole
from training.errors import UsageError

FORMAT = "scratch-torch checkpoint 1"


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it to ``path``.

    A reader sees the old file or the new one, never a part, also after a crash or on a full disk.

    Raises:
        OSError: the file could not be written; the old one, if any, is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # the rename itself; not every file system can do this
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that ``write_atomically`` had no time to: its process was killed.

    Those of a process that lives are left alone.
    """
    for path in folder.glob(".*"):
        found = re.fullmatch(r"\..+\.(pt|json)\.(\d+)", path.name)
        if found and not _is_another_process(int(found[2])):
            path.unlink(missing_ok=True)


def _is_another_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a state made of tensors, numbers, strings, lists and dicts to ``path``, atomically.

    Raises:
        UsageError: the file cannot be written (folder read-only, disk full, ...).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: torch.save({"format": FORMAT, **state}, file))
    # a full disk surfaces in torch's zip writer as a RuntimeError
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"cannot write the checkpoint {path}: {error}. Free some space or choose another "
            "--checkpoint-dir; checkpoints written before are untouched."
        ) from error


def find(path: str) -> Path:
    """The file that ``--resume PATH`` means: PATH itself, or ``last.pt`` in the folder PATH."""
    found = Path(path)
    if found.is_dir():
        found = found / "last.pt"
    if not found.is_file():
        raise UsageError(
            f"--resume {path}: there is no file {found}. Give a checkpoint, or the folder that "
            "holds last.pt (the --checkpoint-dir of the run to go on with)."
        )
    return found


def load(path: Path) -> dict[str, Any]:
    """Read what ``save`` wrote; tensors land on the CPU.

    Raises:
        UsageError: the file is missing, truncated, or no checkpoint of these scripts.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and I/O each have their own; all mean the same here
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"{path} is damaged, or is not a checkpoint ({reason}). Use another one, such as "
            "best.pt beside last.pt, or start anew without --resume."
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UsageError(
            f"{path} is not a checkpoint of this script (expected the format '{FORMAT}'). "
            "Give the last.pt or best.pt of an earlier run."
        )
    return state


@dataclass
class Run:
    """A training run in progress: the objects that change, and how far it has come."""

    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    scaler: GradScaler
    generator: torch.Generator  # of the augmentation, on the device
    average: Average
    plateau: ReduceLROnPlateau | None = None

    epoch: int = 0  # epochs completed
    step: int = 0  # steps completed in the present epoch
    steps: int = 0  # steps completed in all
    loss_sum: float = 0.0  # over the images of the present epoch
    correct: float = 0.0  # likewise
    best_accuracy: float = -1.0  # on the validation images, 0..1
    best_epoch: int = 0
    train_seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)  # one entry an epoch

    _NUMBERS = (
        "epoch", "step", "steps", "loss_sum", "correct",
        "best_accuracy", "best_epoch", "train_seconds", "history",
    )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, the global random number generators included.

        Tensors that are sharded over processes are put together, for which all of them call this.
        The order of the images needs no entry: it is a function of the seed and the epoch. Python's
        and NumPy's global generators are not used by the training.
        """
        cuda = self.generator.device.type == "cuda"
        return {
            "model": whole(self.model.state_dict()),
            "optimizer": whole(self.optimizer.state_dict()),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": whole(self.average.state_dict()),
            "plateau": self.plateau.state_dict() if self.plateau else {},
            "random": {
                "torch": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state() if cuda else None,
                "augmentation": self.generator.get_state(),
                "device": self.generator.device.type,
            },
            "progress": {name: getattr(self, name) for name in self._NUMBERS},
        }

    def load_state_dict(self, state: dict[str, Any], source: Path) -> None:
        """Continue from ``state``. A state of another model is refused before anything is changed.

        On another kind of device than the saved one, the generators of that device start from the
        seed again, so that the run goes on, but not along the same numbers.

        Raises:
            UsageError: the state is of another model, or lacks something.
        """
        try:
            shapes = {name: tuple(t.shape) for name, t in state["model"].items()}
            random, progress = state["random"], state["progress"]
            numbers = {name: progress[name] for name in self._NUMBERS}
            parts = [state[name] for name in ("optimizer", "scheduler", "scaler")]
        except (KeyError, AttributeError) as error:
            raise UsageError(f"{source} lacks {error}; use another checkpoint.") from error
        own = {name: tuple(t.shape) for name, t in self.model.state_dict().items()}
        for name in sorted(own.keys() | shapes.keys()):
            if own.get(name) != shapes.get(name):
                raise UsageError(
                    f"{source} is of another model: {name} has the shape {shapes.get(name)} there "
                    f"and {own.get(name)} here. Give the --model it was made with."
                )
        self.load_weights(state)
        try:
            self.optimizer.load_state_dict(self._as_here(self._sharded(parts[0])))
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{source} is of another optimizer ({error}). Give the --optimizer it was "
                "made with."
            ) from error
        self.scheduler.load_state_dict(parts[1])
        if self.scaler.is_enabled() and parts[2]:
            self.scaler.load_state_dict(parts[2])
        if self.plateau and state.get("plateau"):
            self.plateau.load_state_dict(state["plateau"])
        torch.set_rng_state(random["torch"])
        if random["device"] == self.generator.device.type:
            self.generator.set_state(random["augmentation"])
            if random["cuda"] is not None:
                torch.cuda.set_rng_state(random["cuda"])
        for name, value in numbers.items():
            setattr(self, name, value)

    def load_weights(self, state: dict[str, Any]) -> None:
        """Set the weights, and their mean, to those of a state of this model."""
        own = self.model.state_dict()
        self.model.load_state_dict({k: like(x, own[k]) for k, x in state["model"].items()})
        if state.get("average"):
            means = {k: like(x, own[k]) for k, x in state["average"]["averages"].items()}
            self.average.load_state_dict(state["average"] | {"averages": means})

    def _as_here(self, state: dict[str, Any]) -> dict[str, Any]:
        """The same for an optimizer whose numbers are on the device or not, as here."""
        own, saved = self.optimizer.param_groups, state["param_groups"]
        if len(own) != len(saved):
            return state  # which is refused
        groups = [
            {name: x for name, x in group.items() if name != "capturable"}
            | {name: x for name, x in here.items() if name == "capturable"}
            for group, here in zip(saved, own, strict=True)
        ]
        return state | {"param_groups": groups}

    def _sharded(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state of an optimizer of whole tensors as the parameters here are sharded."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        entries = {
            i: {name: like(x, parameters[i]) for name, x in entry.items()}
            for i, entry in state["state"].items()
        }
        return state | {"state": entries}
