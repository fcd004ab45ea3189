"""Event files of TensorBoard, of which no error is lost and whose order is certain.

torch's ``SummaryWriter`` leaves the writing to a thread of tensorboard's. When the disk is full,
that thread ends with a traceback of its own, and the error surfaces in a later call, if at all. And
the files of a run are read in the order of their names, which begin with a second: of a run that is
resumed within a second the order, and with it what is purged, is up to the process ids. Here the
caller writes, and a file has a later second than those that are there.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event, SessionLog, SourceMetadata
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import FileWriter, SummaryWriter

from training.errors import UsageError

SECONDS = 10
"""After which the next event takes those before it along to the file: runs are watched."""


class EventFile:
    """A new event file, with the methods of tensorboard's ``EventFileWriter``.

    Args:
        log_dir: folder of the run.

    Raises:
        UsageError: also by every method: it cannot be written.
    """

    def __init__(self, log_dir: str) -> None:
        self.folder = Path(log_dir)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            there = [path.name for path in self.folder.glob("events.out.tfevents.*")]
            seconds = [int(found[1]) for n in there if (found := re.match(r"\D+(\d+)", n))]
            second = max([int(time.time()), *(s + 1 for s in seconds)])
            name = f"events.out.tfevents.{second:010d}.{socket.gethostname()}.{os.getpid()}.0"
            self.file = open(self.folder / name, "xb")  # noqa: SIM115
        except OSError as error:
            raise self._told(error) from error
        self.records = RecordWriter(self.file)
        self.flushed = 0.0
        source = SourceMetadata(writer="training.events")
        version = "brain.Event:2"
        self.add_event(Event(wall_time=time.time(), file_version=version, source_metadata=source))

    def get_logdir(self) -> str:
        """The folder."""
        return str(self.folder)

    def add_event(self, event: Event) -> None:
        """Write an event; it may stay in memory until ``flush``."""
        try:
            self.records.write(event.SerializeToString())
        except OSError as error:
            raise self._told(error) from error
        if time.monotonic() - self.flushed > SECONDS:
            self.flush()

    def flush(self) -> None:
        """Hand everything to the system, after which it survives this process."""
        if self.file.closed:  # after an error, which was raised
            return
        try:
            self.file.flush()
            self.flushed = time.monotonic()
        except OSError as error:
            raise self._told(error) from error

    def close(self) -> None:
        """Flush, and close the file whether or not that succeeds."""
        try:
            self.file.close()
        except OSError as error:
            raise self._told(error) from error

    def _told(self, error: OSError) -> UsageError:
        if hasattr(self, "file"):
            with contextlib.suppress(OSError):  # it tries once more to write
                self.file.close()
        return unwritable(self.folder, error)


def unwritable(folder: Path, error: OSError) -> UsageError:
    """What to say of files for TensorBoard that cannot be written."""
    return UsageError(
        f"cannot write event files in {folder}: {error}. Free some space, choose another "
        "--log-dir, or leave them out by --no-tensorboard; checkpoints written before are "
        "untouched."
    )


def tags_at(log_dir: str, step: int) -> set[str]:
    """What the event files of a run hold of a step."""
    tags: set[str] = set()
    for path in sorted(Path(log_dir).glob("events.out.tfevents.*")):
        for event in LegacyEventFileLoader(str(path)).Load():
            if event.session_log.status == SessionLog.START and event.step <= step:
                tags.clear()
            if event.step == step:
                tags |= {value.tag for value in event.summary.value}
    return tags


class _FileWriter(FileWriter):
    def __init__(self, log_dir: str) -> None:
        self.event_writer = EventFile(log_dir)


class Writer(SummaryWriter):
    """torch's, writing to an ``EventFile``.

    Args:
        log_dir: folder of the run.
        first_step: whatever earlier event files in ``log_dir`` have from this step on is dropped.
    """

    file_writer: Any
    all_writers: Any

    def __init__(self, log_dir: str, first_step: int) -> None:
        self._first_step = first_step
        super().__init__(log_dir)

    def _get_file_writer(self) -> FileWriter:
        if self.file_writer is None:
            self.file_writer = _FileWriter(self.log_dir)
            self.all_writers = {self.log_dir: self.file_writer}
            start = SessionLog(status=SessionLog.START)
            self.file_writer.add_event(Event(session_log=start), self._first_step)
        return self.file_writer
