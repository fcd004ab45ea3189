"""Rank training runs by what they reached, with the uncertainty of each place.

    python scripts/leaderboard.py runs/
    python scripts/leaderboard.py runs/ speedrun.jsonl --target 0.94 --html ranking.html
    python scripts/leaderboard.py runs/ --by default,layers,optim --metric test_loss

Runs are the ``result.json`` below a folder, and the lines of ``*.jsonl`` which hold such results.
Those which differ only in the seed, in where they record and in how they compute (``MAY_CHANGE`` of
training/options.py) form a group; groups are ranked by the mean of the metric, those on other data
(by their checksum) apart. Of runs with a budget of time, the epochs that fitted into it do not tell
them apart. Runs that share all options and the seed are one draw, not two: their mean counts once.
A record found twice, by its times, is one run.
"""

from __future__ import annotations

import argparse
import dataclasses
import html
import itertools
import json
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from parity_pages import escaped
from tables import markdown
from training.errors import UsageError
from training.options import ALWAYS, BY_OPTIMIZER, MAY_CHANGE, NEWER, Config
from training.result import Result
from training.statistics import Summary, p_value_above, summarize, welch

METRICS = tuple(
    field.name
    for field in dataclasses.fields(Result)
    if {"float", "int"} & set(str(field.type).split(" | "))
)
"""Fields of a result that are numbers."""
LOWER_IS_BETTER = ("loss", "error", "seconds", "steps", "epoch", "epochs", "parameters", "bytes")
"""Last words of the names of such metrics."""
LEVEL = 0.05
"""A larger p-value is no difference."""
OPTIONS = tuple(field.name for field in dataclasses.fields(Config))
RECORDS = {
    "data_dir", "log_dir", "checkpoint_dir", "checkpoint_every", "resume", "tensorboard",
    "log_every", "pictures_every", "explain", "quiet", "results", "gap",
}  # fmt: skip
"""Options that change neither the result nor how long it takes."""
NOT_DECIDING = {"seed", "preset"}
"""Options that tell no groups apart either: a preset is a name of options that the run has too."""
UNKNOWN = "unknown"
TAGS = {
    "test_accuracy": "test/accuracy",
    "test_accuracy_tta": "test/accuracy_tta",
    "test_loss": "test/loss",
    "test_calibration_error": "test/calibration_error",
    "test_calibration_error_tta": "test/calibration_error_tta",
    "validation_accuracy": "validation/accuracy",
    "best_validation_accuracy": "validation/best_accuracy",
}
"""In TensorBoard, as training/tensorboard.py has them; of other metrics, the name."""


@dataclass(frozen=True)
class Run:
    """A result as it was read; fields that older files lack may be missing."""

    name: str
    """A relative path, unlike that of any other run."""
    source: str
    """The file, and the line, for messages."""
    record: dict[str, Any]

    def option(self, name: str) -> Any:
        """An option, hashable; ``"unknown"`` if the run does not say."""
        missing = ALWAYS[name] if name in NEWER else UNKNOWN
        return _hashable(self.record["config"].get(name, missing))

    def key(self, name: str) -> Any:
        """An option as it tells groups apart: epochs that were fitted to a budget do not."""
        budget = self.option("budget")
        if name == "epochs" and isinstance(budget, int | float) and budget > 0:
            return "fitted to the budget"
        return self.option(name)

    def number(self, metric: str) -> float:
        """A metric; nan where there is none."""
        value = self.record.get(metric)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return math.nan
        try:
            return float(value)
        except OverflowError:  # JSON has integers of any length
            return math.nan

    def data(self) -> tuple[str, str]:
        """The data set and its checksum."""
        data = self.record.get("data")
        checksum = data.get("checksum", UNKNOWN) if isinstance(data, dict) else UNKNOWN
        return str(self.option("dataset")), str(checksum)

    def surroundings(self) -> dict[str, Any]:
        """What changes the time a run takes, and may change roundings."""
        versions = self.record.get("versions")
        found = {n: self.option(n) for n in OPTIONS if n in MAY_CHANGE and n not in RECORDS}
        if isinstance(versions, dict):
            found |= {n: versions.get(n, UNKNOWN) for n in ("device", "torch", "commit")}
        return found


def _hashable(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_hashable, value))
    return json.dumps(value, sort_keys=True) if isinstance(value, dict) else value


# ------------------------------------------------------------------ reading


def read(paths: Sequence[Path], metric: str = "test_accuracy") -> tuple[list[Run], list[str]]:
    """The runs below folders and in files, and what was left out: where, why, and what to do.

    Args:
        paths: folders, ``.jsonl`` files, or ``.json`` files of one result each.
        metric: what a run must have, as a finite number.

    Raises:
        UsageError: a path is not there, or there is no run.
    """
    runs: list[Run] = []
    problems: list[str] = []
    files: set[Path] = set()
    signs: set[str] = set()
    names: set[str] = set()
    for path in paths:
        for file, name in _files(path):
            if file.resolve() in files:
                continue
            files.add(file.resolve())
            found, wrong = _records(file, name)
            problems += wrong
            for run in found:
                objection = _objection(run, metric, signs)
                if objection:
                    problems.append(f"{run.source}: {objection}")
                    continue
                signs.add(_sign(run))
                runs.append(dataclasses.replace(run, name=_unique(run.name, names)))
                names.add(runs[-1].name)
    if not runs:
        given = " ".join(map(str, paths))
        raise UsageError(
            "\n".join(
                [
                    f"{given}: no finished run is there. Give folders in which scripts/cifar10.py "
                    "left a result.json, or .jsonl files with such a result a line.",
                    *[f"left out: {problem}" for problem in problems],
                ]
            )
        )
    return runs, problems


def _objection(run: Run, metric: str, signs: set[str]) -> str:
    """Why a run is in no ranking, and what to do; empty if it is in one."""
    if not math.isfinite(run.number(metric)):
        said = shown(_hashable(run.record[metric])) if metric in run.record else "missing"
        return (
            f"{metric} is {said}, not a finite number. Choose another --metric, or say of the "
            "ranking that this run is not in it."
        )
    # two runs never take the same time to the last digit; of a run without, one cannot know
    if _sign(run) in signs and math.isfinite(run.number("train_seconds")):
        return "this run is there already, from another place. Keep one of the two."
    return ""


def _sign(run: Run) -> str:
    return json.dumps(run.record, sort_keys=True)


def _unique(name: str, taken: set[str]) -> str:
    """The name, with a number behind it if that is taken."""
    numbered = (f"{name}-{number}" for number in itertools.count(2))
    return next(one for one in itertools.chain([name], numbered) if one not in taken)


def _files(path: Path) -> Iterator[tuple[Path, str]]:
    """The files below a path, each with a name for its runs."""
    if path.is_file():
        yield path, path.resolve().parent.name if path.name == "result.json" else path.stem
    elif path.is_dir():
        for file in sorted([*path.rglob("result.json"), *path.rglob("*.jsonl")]):
            place = file.relative_to(path)
            name = place.parent if file.name == "result.json" else place.with_suffix("")
            yield file, str(name) if name.parts else path.resolve().name
    else:
        raise UsageError(f"{path}: there is no such file or folder. Give one that holds runs.")


def _records(file: Path, name: str) -> tuple[list[Run], list[str]]:
    """The runs of a file, and what is wrong with it."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        return [], [f"{file}: no text in UTF-8 ({error}). Move it out of the folder."]
    except OSError as error:
        return [], [f"{file}: cannot be read ({error}). Allow it, or leave it out."]
    if file.suffix != ".jsonl":
        try:
            return [Run(name, str(file), _record(text))], []
        except ValueError as error:
            return [], [
                f"{file}: {error} Write it anew (--resume of that run does), or move it away."
            ]
    runs, problems = [], []
    for i, line in enumerate(text.split("\n"), start=1):  # splitlines would split in strings too
        if not line.strip():
            continue
        source = f"{file}, line {i}"
        try:
            runs.append(Run(f"{name}-{i}", source, _record(line)))
        except ValueError as error:
            problems.append(f"{source}: {error} Delete the line, or write it anew.")
    if not runs and problems:
        return [], [
            f"{file}: none of its lines is the result of a run ({problems[0]}) Move it out of the "
            "folder, or name the other files one by one."
        ]
    return runs, problems


def _record(text: str) -> dict[str, Any]:
    """A result from JSON.

    Raises:
        ValueError: it is none, in a sentence.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"damaged, no JSON ({error}).") from error
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise ValueError('not the result of a run (no object with a "config").')
    return record


# ------------------------------------------------------------------ ranking


@dataclass(frozen=True)
class Row:
    """A group of runs in its place."""

    rank: int
    what: str
    runs: int
    summary: Summary
    """Of the metric, over independent runs."""
    seconds: float
    """Mean of ``train_seconds``; nan where no run says."""
    rate: float
    """Mean of images per second; likewise."""
    p_target: float
    """One-sided, of a mean better than the target; nan without."""
    p_above: float
    """Two-sided, against the rank above; nan of the first, and where there are too few runs."""
    like_leader: bool
    """Not the first, and not shown to be another."""
    mixed: dict[str, tuple[str, ...]]
    """What runs of this group differ in besides their seed."""


@dataclass(frozen=True)
class Ranking:
    """The groups on one set of data, the best first."""

    dataset: str
    checksum: str
    rows: list[Row]


def is_lower_better(metric: str) -> bool:
    """Whether a small value of the metric is a good one."""
    return metric.removesuffix("_tta").split("_")[-1] in LOWER_IS_BETTER


def _is_share(metric: str) -> bool:
    return "accuracy" in metric.split("_")


def deciding(runs: Sequence[Run]) -> list[str]:
    """The options that decide a result, without the seed: those of ``Config`` first."""
    others = sorted({name for run in runs for name in run.record["config"]} - set(OPTIONS))
    return [name for name in (*OPTIONS, *others) if name not in MAY_CHANGE | NOT_DECIDING]


def grouping(by: str, runs: Sequence[Run]) -> list[str]:
    """The options named by ``--by``, in which ``default`` stands for those that decide a result.

    Raises:
        UsageError: one of them is an option of no run.
    """
    known = {name for run in runs for name in run.record["config"]} | set(OPTIONS)
    found: list[str] = []
    for word in by.split(","):
        name = word.strip().removeprefix("--").replace("-", "_")
        if name != "default" and name not in known:
            raise UsageError(
                f"--by {by}: no run has an option {word!r}. Choose from default, "
                f"{', '.join(sorted(known))}."
            )
        found += deciding(runs) if name == "default" else [name]
    return list(dict.fromkeys(found))


def rank(
    runs: Sequence[Run],
    by: Sequence[str],
    metric: str = "test_accuracy",
    target: float | None = None,
) -> list[Ranking]:
    """Rank groups of runs, a ranking for each set of data.

    Args:
        runs: in any order, each with a finite ``metric``.
        by: options that tell groups apart.
        metric: a field of ``Result``.
        target: what the mean is tested against, in the unit of the metric.
    """
    tables: dict[tuple[str, str], dict[tuple[Any, ...], list[Run]]] = {}
    for run in runs:
        groups = tables.setdefault(run.data(), {})
        groups.setdefault(tuple(run.key(name) for name in by), []).append(run)
    every = deciding(runs)
    rankings = []
    for (dataset, checksum), groups in sorted(tables.items()):
        names = named([dict(zip(by, key, strict=True)) for key in groups])
        rows = _places(list(zip(names, groups.values(), strict=True)), by, every, metric, target)
        rankings.append(Ranking(dataset, checksum, rows))
    return rankings


def _places(
    groups: Sequence[tuple[str, list[Run]]],
    by: Sequence[str],
    every: Sequence[str],
    metric: str,
    target: float | None,
) -> list[Row]:
    sign = -1 if is_lower_better(metric) else 1
    drawn = [(what, runs, draws(runs, every, metric)) for what, runs in groups]
    drawn.sort(key=lambda group: (-sign * summarize(group[2]).mean, group[0]))
    others = [name for name in every if name not in by]
    rows: list[Row] = []
    for i, (what, runs, values) in enumerate(drawn):
        p_target = math.nan
        if target is not None:
            p_target = p_value_above([sign * value for value in values], sign * target)
        # of a single run it is nan, which is no evidence either
        like_leader = i > 0 and not welch(values, drawn[0][2]) <= LEVEL
        rows.append(
            Row(
                rank=i + 1,
                what=what,
                runs=len(runs),
                summary=summarize(values),
                seconds=_mean(runs, "train_seconds"),
                rate=_mean(runs, "images_per_second"),
                p_target=p_target,
                p_above=welch(values, drawn[i - 1][2]) if i else math.nan,
                like_leader=like_leader,
                mixed=_mixed(runs, others),
            )
        )
    return rows


def draws(runs: Sequence[Run], every: Sequence[str], metric: str) -> list[float]:
    """The independent values of a metric: the mean of those runs that share all, and the seed.

    A run that does not say its seed is a draw of its own.

    Args:
        runs: of one group.
        every: the options that decide a result.
        metric: a field of ``Result``.
    """
    found: dict[Any, list[float]] = {}
    for i, run in enumerate(runs):
        seed = run.option("seed")
        key = (i,) if seed == UNKNOWN else (seed, tuple(run.key(name) for name in every))
        found.setdefault(key, []).append(run.number(metric))
    return [statistics.fmean(values) for values in found.values()]


def _mean(runs: Sequence[Run], metric: str) -> float:
    values = [value for run in runs if math.isfinite(value := run.number(metric))]
    return statistics.fmean(values) if values else math.nan


def _mixed(runs: Sequence[Run], options: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What the runs of a group differ in, and their values."""
    every = [{name: run.key(name) for name in options} | run.surroundings() for run in runs]
    names = dict.fromkeys(name for one in every for name in one)
    found = {n: sorted({shown(one.get(n, UNKNOWN)) for one in every}) for n in names}
    return {name: tuple(values) for name, values in found.items() if len(values) > 1}


def named(groups: Sequence[dict[str, Any]]) -> list[str]:
    """A name for each group: the options in which the groups differ.

    What follows from others in all of them, such as the default learning rate of an optimizer, is
    left out.

    Args:
        groups: the same options, with values that are together unlike those of any other group.
    """
    options = list(groups[0])
    if len(groups) == 1:
        used = [name for name in options if name in ("model", "optimizer")] or options
    else:
        used = [name for name in options if len({group[name] for group in groups}) > 1]
        used = [name for name in used if not all(_follows(name, group) for group in groups)]
    return [
        ", ".join(f"{name.replace('_', ' ')} {shown(group[name])}" for name in used)
        for group in groups
    ]


def _follows(name: str, group: dict[str, Any]) -> bool:
    """Whether an option is what ``make_config`` takes for it, given others of the group."""
    if name == "warmup" and {"epochs", "schedule"} <= group.keys():
        epochs = group["epochs"] if isinstance(group["epochs"], int | float) else math.nan
        return bool(group[name] == (0.3 * epochs if group["schedule"] == "onecycle" else 0))
    defaults = BY_OPTIMIZER.get(group.get("optimizer", UNKNOWN))
    if defaults is None or name not in ("lr", "momentum", "nesterov", "weight_decay"):
        return False
    return bool(group[name] == (ALWAYS | defaults).get(name))


def shown(value: Any) -> str:
    """The value of an option, for people."""
    if isinstance(value, tuple):
        return " ".join(map(shown, value)) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "on", False: "off", None: "auto"}[value]
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


# ------------------------------------------------------------------ pages


@dataclass(frozen=True)
class Cell:
    """A cell: what stands there, and what it is sorted by (None: at the end)."""

    text: str
    key: float | str | None


def _number(value: float, form: str) -> Cell:
    if not math.isfinite(value):
        return Cell("-", None)
    return Cell(format(value, form), value)


def columns(metric: str, target: float | None) -> dict[str, str]:
    """The headings of a ranking, each with what it means."""
    share = _is_share(metric)
    title = metric.replace("_", " ") + (", %" if share else "")
    found = {
        "rank": "by the mean; †: cannot be told apart from rank 1 by Welch's t-test "
        f"(p > {LEVEL:g}, or too few runs for a test)",
        "what": "the options in which the groups differ",
        "n": "independent runs (those that share all options and the seed count once)",
        title: "mean over n",
        "±": "half width of the 95 % confidence interval of the mean, by Student's t",
        "SE": "standard error of the mean",
        "train, s": "mean seconds of training steps",
        "images/s": "mean training images a second",
    }
    if target is not None:
        than = "<" if is_lower_better(metric) else ">"
        value = f"{100 * target:g} %" if share else f"{target:g}"
        found[f"p, mean {than} {value}"] = "p-value of the one-sided t-test"
    found["p, rank above"] = (
        "two-sided p-value of Welch's t-test against the rank above; not corrected for the number "
        "of comparisons"
    )
    return found


def cells(ranking: Ranking, metric: str, target: float | None) -> list[list[Cell]]:
    """The rows of a ranking, cell by cell as ``columns`` has them."""
    scale, form = (100, ".3f") if _is_share(metric) else (1, ".5g")
    lines = []
    for row in ranking.rows:
        s = row.summary
        line = [
            Cell(f"{row.rank} †" if row.like_leader else str(row.rank), row.rank),
            Cell(row.what, row.what),
            Cell(str(s.n), s.n),
            *[_number(scale * value, form) for value in (s.mean, s.half_width, s.standard_error)],
            _number(row.seconds, ",.1f"),
            _number(row.rate, ",.0f"),
        ]
        if target is not None:
            line.append(_number(row.p_target, ".2g"))
        lines.append([*line, _number(row.p_above, ".2g")])
    return lines


def heading(ranking: Ranking) -> str:
    """The data of a ranking."""
    return f"{ranking.dataset}, data with checksum {ranking.checksum}"


def remarks(ranking: Ranking) -> list[str]:
    """What a reader must know of single rows."""
    found = []
    for row in ranking.rows:
        if row.mixed:
            differ = "; ".join(f"{name} ({', '.join(v)})" for name, v in row.mixed.items())
            found.append(f"Rank {row.rank} holds runs that differ in more than the seed: {differ}.")
        if row.runs > row.summary.n:
            found.append(
                f"Rank {row.rank} holds {row.runs} runs, {row.summary.n} of them independent: "
                "runs that share all options and the seed count once, with their mean."
            )
    return found


def notes(
    metric: str, target: float | None, rankings: Sequence[Ranking], left_out: int
) -> list[str]:
    """How to read the tables."""
    said = [f"{head}: {meaning}." for head, meaning in columns(metric, target).items()]
    said.append("A dash: not known, or too few runs (one gives no interval, equal ones no test).")
    if len(rankings) > 1:
        said.append("Runs on other data, told by its checksum, are never in one group or ranking.")
    if left_out:
        said.append(f"Left out, for reasons that the script says: {left_out}.")
    return said


def markdown_page(
    rankings: Sequence[Ranking], metric: str, target: float | None, left_out: int = 0
) -> str:
    """The rankings as Markdown.

    Args:
        rankings: of ``rank``.
        metric: that they were made by.
        target: likewise.
        left_out: how many files, lines and runs are in none of them.
    """
    parts = ["# Leaderboard"]
    for ranking in rankings:
        lines = cells(ranking, metric, target)
        parts += [
            f"## {escaped(heading(ranking))}",
            markdown(
                [escaped(name) for name in columns(metric, target)],
                [[escaped(cell.text) for cell in line] for line in lines],
            ),
            *[escaped(remark) for remark in remarks(ranking)],
        ]
    said = [f"- {escaped(note)}" for note in notes(metric, target, rankings, left_out)]
    return "\n\n".join([*parts, "\n".join(said)]) + "\n"


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Leaderboard</title>
<style>
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 2em; max-width: 75em; }}
table {{ border-collapse: collapse; }}
th, td {{ border: 1px solid #ccc; padding: 2px 6px; text-align: right; }}
th:nth-child(2), td:nth-child(2) {{ text-align: left; }}
th {{ cursor: pointer; background: #eee; }}
</style>
<h1>Leaderboard</h1>
<p>Click a heading to sort, again to reverse.</p>
{tables}
<ul>{notes}</ul>
<script>
// text and numbers ascend, what is not known comes last either way
function compare(a, b, direction) {{
  if (a === "" || b === "") return (a === "") - (b === "");
  const numbers = [Number(a), Number(b)];
  const order = numbers.some(isNaN) ? a.localeCompare(b) : numbers[0] - numbers[1];
  return direction * order;
}}
for (const table of document.querySelectorAll("table")) {{
  const body = table.tBodies[0];
  let last = null, direction = 1;
  [...table.tHead.rows[0].cells].forEach((cell, i) => cell.onclick = () => {{
    direction = last === i ? -direction : 1;
    last = i;
    const key = row => row.cells[i].dataset.key;
    body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b), direction)));
  }});
}}
</script>
</html>
"""


def html_page(
    rankings: Sequence[Ranking], metric: str, target: float | None, left_out: int = 0
) -> str:
    """The rankings as a page that needs nothing else, to be sorted; as ``markdown_page``."""
    heads = "".join(
        f'<th title="{html.escape(meaning)}">{html.escape(name)}</th>'
        for name, meaning in columns(metric, target).items()
    )
    tables = []
    for ranking in rankings:
        lines = ["".join(map(_td, line)) for line in cells(ranking, metric, target)]
        body = "\n".join(f"<tr>{line}</tr>" for line in lines)
        tables.append(
            f"<h2>{html.escape(heading(ranking))}</h2>\n<table>\n<thead><tr>{heads}</tr></thead>\n"
            f"<tbody>\n{body}\n</tbody>\n</table>"
        )
        tables += [f"<p>{html.escape(remark)}</p>" for remark in remarks(ranking)]
    said = notes(metric, target, rankings, left_out)
    items = "".join(f"<li>{html.escape(note)}</li>" for note in said)
    return _PAGE.format(tables="\n".join(tables), notes=items)


def _td(cell: Cell) -> str:
    key = "" if cell.key is None else html.escape(str(cell.key))
    return f'<td data-key="{key}">{html.escape(cell.text)}</td>'


# ------------------------------------------------------------------ TensorBoard


def log(runs: Sequence[Run], folder: Path) -> None:
    """Write each run to a folder of its own below ``folder``: options and final metrics.

    Raises:
        UsageError: there are event files already, with which these would be mixed, or nothing can
            be written.
    """
    if any(folder.rglob("events.out.tfevents.*")):
        raise UsageError(
            f"--tensorboard {folder}: it holds event files, of these or other runs. Choose another "
            "folder, or delete this one."
        )
    try:
        for run in runs:
            _log(run, folder / run.name)
    except OSError as error:
        raise UsageError(
            f"--tensorboard {folder}: cannot be written ({error}). Choose another folder."
        ) from error


def _log(run: Run, folder: Path) -> None:
    config = {name: run.option(name) for name in run.record["config"]}
    values = {n: v if isinstance(v, int | float | str) else shown(v) for n, v in config.items()}
    numbers = {TAGS.get(name, name): run.number(name) for name in METRICS}
    metrics = {tag: value for tag, value in numbers.items() if math.isfinite(value)}
    steps = run.number("steps")
    with SummaryWriter(str(folder)) as writer:
        # SummaryWriter.add_hparams would open a second run for these
        for summary in hparams(values, metrics):
            writer._get_file_writer().add_summary(summary)
        for tag, value in metrics.items():
            writer.add_scalar(tag, value, int(steps) if math.isfinite(steps) else 0)


# ------------------------------------------------------------------ command line


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="leaderboard.py",
        description=(__doc__ or "").split("\n")[0],
        epilog="Exit code: 0 done (what was left out is told), 2 something to mend.",
        allow_abbrev=False,
    )
    p.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="folder, searched for result.json and *.jsonl; or such a file",
    )
    p.add_argument(
        "--by",
        default="default",
        metavar="OPTIONS",
        help="options that tell groups apart, with commas between; default stands for those that "
        "decide a result, so that default,layers,optim tells these apart as well, and "
        "model,optimizer puts together what differs in others (default: default)",
    )
    p.add_argument(
        "--metric",
        choices=METRICS,
        default="test_accuracy",
        metavar="NAME",
        help=f"{', '.join(METRICS)} (default: test_accuracy)",
    )
    p.add_argument(
        "--target",
        type=float,
        metavar="VALUE",
        help="test whether means are better than this; accuracies in 0..1 (default: no test)",
    )
    p.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there as well")
    p.add_argument("--html", type=Path, metavar="FILE", help="write a page to be sorted")
    p.add_argument(
        "--tensorboard", type=Path, metavar="DIR", help="write options and metrics of every run"
    )
    return p


def _make(options: argparse.Namespace) -> None:
    metric, target = options.metric, options.target
    if target is not None and not math.isfinite(target):
        raise UsageError(f"--target {target}: give a finite number.")
    if target is not None and _is_share(metric) and not 0 <= target <= 1:
        raise UsageError(f"--target {target:g}: an accuracy is in 0..1; give 0.94 for 94 %.")
    runs, problems = read(options.paths, metric)
    for problem in problems:
        print(f"leaderboard.py: left out: {problem}", file=sys.stderr)
    rankings = rank(runs, grouping(options.by, runs), metric, target)
    text = markdown_page(rankings, metric, target, len(problems))
    print(text, end="")
    pages = {"markdown": text, "html": html_page(rankings, metric, target, len(problems))}
    for name, page in pages.items():
        file = getattr(options, name)
        if file is not None:
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(page, encoding="utf-8")
            except OSError as error:
                raise UsageError(
                    f"--{name} {file}: cannot be written ({error}). Choose another file."
                ) from error
    if options.tensorboard is not None:
        log(runs, options.tensorboard)


def main(argv: Sequence[str] | None = None) -> int:
    """Rank as the command line says; print the tables. Returns the exit code."""
    try:
        _make(parser().parse_args(argv))
    except UsageError as error:
        print(f"leaderboard.py: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
