"""A series: the same training with several seeds, and what that says of the mean.

Every run is complete in a folder of its own, ``LOG_DIR/seed-K``, as if it had been started alone,
to the same bits, and can be gone on with alone. ``LOG_DIR/series.json`` holds the options,
``LOG_DIR/summary.json`` the means. How many seeds there are, and what they are tested against, is
no property of a run: it is in no ``Config`` and no checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from training import options, result
from training.checkpoint import remove_leftovers
from training.distributed import ALONE, World
from training.errors import DivergedError, InterruptedRunError, UsageError
from training.loop import train
from training.options import Config, make_config
from training.statistics import Summary, p_value_above, summarize

SERIES, SUMMARY = "series.json", "summary.json"
REMEDY = "Free some space, or choose another --log-dir."
METRICS = {
    "test_accuracy": "test accuracy, %",
    "test_accuracy_tta": "by six views, %",
    "train_accuracy": "training accuracy, %",
    "gap": "gap, points",
    "train_seconds": "training, s",
}
"""What is summarized, and what a table calls it. Accuracies are in percent there."""
TESTED = ("test_accuracy", "test_accuracy_tta")
"""What is compared with the target."""


@dataclass(frozen=True)
class Series:
    """What is to be trained."""

    config: dict[str, Any]  # the options of the first run, with the folders of the series
    seeds: int
    target: float | None  # of the test accuracy, 0..1

    @property
    def folder(self) -> Path:
        """Where the series is recorded."""
        return Path(self.config["log_dir"])


@dataclass(frozen=True)
class Outcome:
    """What came out of a series."""

    seeds: list[int]  # of the runs that are summarized
    diverged: list[int]  # seeds of those that have no result
    target: float | None
    summaries: dict[str, Summary]  # of each metric
    p_above: dict[str, float]  # of the accuracies: that the mean is above the target; nan: no test

    def as_json(self) -> dict[str, Any]:
        """All of it, in the types of JSON; null is not defined."""
        metrics: dict[str, dict[str, Any]] = {
            name: dataclasses.asdict(summary) for name, summary in self.summaries.items()
        }
        for name, p in self.p_above.items():
            metrics[name]["p_above_target"] = p
        known = {
            name: {key: value if math.isfinite(value) else None for key, value in values.items()}
            for name, values in metrics.items()
        }
        head = {"seeds": self.seeds, "diverged": self.diverged, "target": self.target}
        return head | known

    def table(self) -> str:
        """For people."""
        tests = bool(self.p_above)
        heads = ["", "mean", "95 % interval", "standard error"]
        rows = [[*heads, f"p, mean > {100 * (self.target or 0):g} %"] if tests else heads]
        for name, s in self.summaries.items():
            scale, form = (1, ".2f") if name == "train_seconds" else (100, ".3f")
            interval = " to ".join(_shown(scale * value, form) for value in (s.low, s.high))
            row = [METRICS[name], _shown(scale * s.mean, form)]
            row += [interval if s.n > 1 else "-", _shown(scale * s.standard_error, form)]
            if tests:
                row.append(_shown(self.p_above[name], ".2g") if name in self.p_above else "")
            rows.append(row)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]).rstrip()
            for row in rows
        ]
        if self.diverged:
            count = len(self.seeds) + len(self.diverged)
            lines.append(
                f"{len(self.diverged)} of {count} runs diverged and are in none of these figures: "
                f"seeds {' '.join(map(str, self.diverged))}"
            )
        return "\n".join([f"seeds {' '.join(map(str, self.seeds))}", *lines])


def plan(given: dict[str, Any]) -> Series | None:
    """The series that the options of a command line ask for; None where they ask for a single run.

    Args:
        given: what ``options.parser`` found; ``seeds`` and ``target`` are taken out.

    Raises:
        UsageError: an option, or a combination of options, that cannot be.
    """
    seeds, target = given.pop("seeds", None), given.pop("target", None)
    if seeds is not None and seeds < 1:
        raise UsageError(f"--seeds {seeds}: give a whole number, 1 or more.")
    if target is not None and not 0 <= target <= 1:
        raise UsageError(f"--target {target}: an accuracy is in 0..1; give 0.94 for 94 %.")
    resume = given.get("resume")
    place = given.get("log_dir") if resume in (None, "auto") else resume
    saved = _read(Path(place) / SERIES) if place is not None else None
    if saved and resume is None:
        raise UsageError(
            f"--log-dir {place}: this folder holds a series. Go on with it by --resume, choose "
            "another folder, or delete this one."
        )
    if saved:
        series = _resumed(saved, given, Path(place or ""), seeds, target)
    elif (seeds or 1) == 1:
        if target is not None:
            raise UsageError(
                f"--target {target:g}: a test needs several runs. Give --seeds 2 or more."
            )
        return None
    elif resume not in (None, "auto"):
        raise UsageError(
            f"--resume {resume}: there is no {SERIES} in it, so that it is no series. Leave "
            "--seeds out to go on with a single run, or start a new series without --resume."
        )
    else:
        config = make_config(**given)
        if config.resume:
            raise UsageError(
                f"--seeds {seeds}: {config.checkpoint_dir} holds a single run. Leave --seeds out "
                "to go on with it, or choose another folder."
            )
        if any(Path(config.log_dir).glob("seed-*")):
            raise UsageError(
                f"--log-dir {config.log_dir}: this folder holds runs of another series, which has "
                f"lost its {SERIES}. Choose another folder, or delete this one."
            )
        series = Series(config.as_json(), seeds or 1, target)
    last = series.config["seed"] + series.seeds - 1
    if last >= 2**32:
        raise UsageError(f"--seeds {series.seeds}: the last one is {last}; choose a lower --seed.")
    return series


def _resumed(
    saved: dict[str, Any], given: dict[str, Any], folder: Path, seeds: int | None, target: Any
) -> Series:
    if seeds is not None and seeds < saved["seeds"]:
        raise UsageError(
            f"--seeds {seeds}: {folder} holds a series of {saved['seeds']}, all of which count. "
            f"Give {saved['seeds']} or more, or leave it out."
        )
    if Path(given.get("log_dir", folder)) != folder:
        raise UsageError(
            f"--log-dir {given['log_dir']}: a series goes on where it is, in {folder}. Leave it "
            "out."
        )
    config = options.with_tuples(saved["config"])
    # records and checkpoints that share a folder still do after it was moved
    if config["log_dir"] == config["checkpoint_dir"]:
        config["checkpoint_dir"] = str(folder)
    if config["device"] == "cuda":
        config["device"] = "auto"
    given = options.unchanged(options.with_tuples(given | {"resume": str(folder)}), config)
    return Series(
        config | given | {"log_dir": str(folder), "resume": None},
        saved["seeds"] if seeds is None else seeds,
        saved["target"] if target is None else target,
    )


def _read(file: Path) -> dict[str, Any] | None:
    """What ``run`` wrote; None if there is no such file."""
    try:
        saved = json.loads(file.read_text())
        names = saved["config"].keys() ^ {field.name for field in dataclasses.fields(Config)}
        if saved.keys() != {"config", "seeds", "target"} or names:
            raise ValueError(f"not the options of this version: {' '.join(sorted(names))}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(
            f"{file} is damaged, or of another version of this script ({error}). Go on with every "
            "run alone, by --resume of its folder, or start a new series."
        ) from error
    return dict(saved)


def run(
    series: Series, each: Callable[[dict[str, Any]], object] = print, world: World = ALONE
) -> Outcome:
    """Train what has no result yet, one after the other, and summarize.

    Args:
        series: what to do.
        each: is given the result of every run, as ``result.json`` has it.
        world: the processes that train together, each of which calls this.

    Raises:
        UsageError: as ``train``.
        DivergedError: all of them diverged.
        InterruptedRunError: as ``train``; the runs that ended before remain.
    """
    if world.first:
        remove_leftovers(series.folder)
        result.write_json(series.folder / SERIES, dataclasses.asdict(series), REMEDY)
    first = series.config["seed"]
    records: dict[int, dict[str, Any]] = {}
    diverged = []
    for seed in range(first, first + series.seeds):
        place = {
            name: str(Path(series.config[name]) / f"seed-{seed}")
            for name in ("log_dir", "checkpoint_dir")
        }
        given = series.config | place | {"seed": seed, "resume": "auto"}
        record, config = world.same(partial(_next, given))
        if config is not None:
            try:
                record = dataclasses.asdict(train(config, world=world))
            except DivergedError as error:
                if world.first:
                    print(f"seed {seed}: {error}", file=sys.stderr)
                diverged.append(seed)
                continue
            except InterruptedRunError as error:
                raise InterruptedRunError(
                    f"seed {seed}: {error}, or with the series by --resume {series.folder}",
                    error.number,
                ) from error
        assert record is not None  # it was there, or the training gave it
        records[seed] = record
        each(record)
    if not records:
        raise DivergedError(f"all {series.seeds} runs diverged: there is no mean.")
    outcome = summary(records, diverged, series.target)
    if world.first:
        result.write_json(series.folder / SUMMARY, outcome.as_json(), REMEDY)
    return outcome


def _next(given: dict[str, Any]) -> tuple[dict[str, Any] | None, Config | None]:
    """The result of a run that has ended, or what to train."""
    record = result.load(Path(given["log_dir"]))
    return record, None if record is not None else make_config(**given)


def summary(
    records: dict[int, dict[str, Any]], diverged: Sequence[int], target: float | None
) -> Outcome:
    """Means, with their uncertainty, of the results of each seed."""
    values = {
        name: [record[name] for record in records.values()]
        for name in METRICS
        if all(record.get(name) is not None for record in records.values())
    }
    return Outcome(
        list(records),
        list(diverged),
        target,
        {name: summarize(found) for name, found in values.items()},
        {}
        if target is None
        else {
            name: p_value_above(found, target) for name, found in values.items() if name in TESTED
        },
    )


def _shown(value: float, form: str) -> str:
    return format(value, form) if math.isfinite(value) else "-"
