"""Comparisons: the same training with one thing varied, with several seeds each.

A :class:`Comparison` is data: which options its variants have, and what is worth looking at. All
that comes out is a record in the types of JSON, from which alone the table, the charts and the
curves for TensorBoard are made, so that they can be made again without training.

A run that diverges is a result. A variant of which some runs diverged has the means of the others,
and says how many they are.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from training import recipes
from training.errors import DivergedError, UsageError
from training.figures import Bar, Line, Panel, draw_bars, draw_lines, figure
from training.loop import train
from training.options import Config, make_config
from training.recipes import MakeOptimizer
from training.result import environment, versions
from training.statistics import Summary, summarize

Record = dict[str, Any]
"""What came out of an experiment, in the types of JSON."""
Curves = dict[str, dict[str, list[tuple[int, float]]]]
"""Of each run of TensorBoard, of each tag: steps and values."""
BASE: dict[str, dict[str, Any]] = {
    "digits": {"model": "mlp", "hidden": (64, 32), "norm": "none", "epochs": 20, "batch_size": 64,
               "optimizer": "adam", "augment": (), "schedule": "none"},
    "cifar10": {"model": "mlp", "hidden": (256, 128), "norm": "none", "epochs": 20,
                "batch_size": 128, "optimizer": "adam", "augment": (), "schedule": "none"},
}  # fmt: skip
"""Options where neither the experiment nor the command line gives others."""
OF_MLP = ("hidden", "norm", "norm_last", "init")
"""Options that are left out for another model, unless they are asked for with it."""
DECIDED_HERE = (
    "log_dir", "checkpoint_dir", "checkpoint_every", "resume", "tensorboard", "log_every",
    "pictures_every", "quiet", "results", "seed", "gap", "holdout",
)  # fmt: skip
"""Options that a run of an experiment cannot have otherwise."""
EPOCH_TAGS = {
    "train_loss": "train_epoch/loss",
    "train_accuracy": "train_epoch/accuracy",
    "evaluated_train_accuracy": "train_evaluated/accuracy",
    "validation_loss": "validation/loss",
    "validation_accuracy": "validation/accuracy",
}
"""What is kept of the history of a run, and the tags of cifar10.py for it."""
STEP_TAGS = ("train/loss", "gradient_norm", "update_to_weight_ratio")
"""What is kept of the points of each step."""
MACHINE = ("processor", "cores", "threads", "device", "memory of the device")
"""What is kept of the environment."""
DIGITS = 4  # significant ones, of the curves in a record


@dataclass(frozen=True)
class Variant:
    """One of what is compared."""

    name: str
    options: dict[str, Any]
    panel: str = ""
    """Title of the chart that shows it."""
    label: str = ""
    """Its name in that chart, if that is another one."""
    optimizer: MakeOptimizer = recipes.build_optimizer


@dataclass(frozen=True)
class Curve:
    """What a chart shows: the name of a column of ``EPOCH_TAGS`` or ``STEP_TAGS``."""

    of: str
    label: str
    log: bool = True
    error: bool = False
    """Of an accuracy a, 100 (1 - a) percent is drawn."""

    @property
    def by_step(self) -> bool:
        """Whether it has a point for each step, not for each epoch."""
        return self.of in STEP_TAGS


TRAINING_LOSS = Curve("train_loss", "training loss")
VALIDATION_ERROR = Curve("validation_accuracy", "validation error, %", error=True)
VALIDATION_LOSS = Curve("validation_loss", "validation loss")
LOSS_OF_STEPS = Curve("train/loss", "training loss of a batch")
GRADIENT_NORM = Curve("gradient_norm", "‖gradient‖")
UPDATE_RATIO = Curve("update_to_weight_ratio", "‖update‖ / ‖weights‖")


@dataclass(frozen=True)
class Asked:
    """What the command line asks for."""

    given: dict[str, Any]  # options of cifar10.py
    seeds: int | None = None  # None: as many as the experiment has
    target: float | None = None  # likewise
    say: Callable[[str], object] = print


@dataclass(frozen=True)
class Comparison:
    """An experiment that trains."""

    name: str
    shows: str
    variants: Sequence[Variant]
    options: dict[str, Any] = field(default_factory=dict)
    on_cifar10: dict[str, Any] = field(default_factory=dict)
    curves: Sequence[Curve] = (TRAINING_LOSS, VALIDATION_ERROR)
    legend: str = ""
    """What the labels are, where they are numbers."""
    seeds: int = 3
    target: float = 0.95
    """Validation accuracy of the digits, 0..1; the epochs to it are counted."""
    target_on_cifar10: float = 0.45

    def configurations(self, asked: Asked) -> list[tuple[Variant, dict[str, Any]]]:
        """The options of each variant; all of them are possible.

        Raises:
            UsageError: an option, or a combination of options, that cannot be.
        """
        given = asked.given
        for name in DECIDED_HERE:
            if name in given:
                raise UsageError(
                    f"--{name.replace('_', '-')}: a comparison decides that. Leave it out."
                )
        varied = {name for variant in self.variants for name in variant.options}
        for name in sorted(varied & given.keys()):
            raise UsageError(
                f"--{name.replace('_', '-')}: the experiment {self.name} compares several. Leave "
                "it out, or choose other experiments."
            )
        dataset = given.get("dataset", "digits")
        own = BASE.get(dataset, {}) | self.options
        if dataset == "cifar10":
            own |= self.on_cifar10
        found = []
        for variant in self.variants:
            options = own | {"dataset": dataset} | given | variant.options
            if options["model"] != "mlp":
                chosen = given | variant.options
                options = {k: v for k, v in options.items() if k not in OF_MLP or k in chosen}
            self._config(options, 0, Path("runs"))  # which raises
            found.append((variant, options))
        return found

    def _config(self, options: dict[str, Any], seed: int, folder: Path) -> Config:
        by_step = any(curve.by_step for curve in self.curves)
        return make_config(
            **options,
            seed=seed,
            gap=True,
            tensorboard=False,
            quiet=True,
            log_every=1 if by_step else 20,
            log_dir=str(folder / f"seed-{seed}"),
        )

    def measure(self, asked: Asked) -> Record:
        """Train every variant with every seed.

        Raises:
            UsageError: an option, or a combination of options, that cannot be; or as ``train``.
            InterruptedRunError: as ``train``.
        """
        begun = time.perf_counter()
        configurations = self.configurations(asked)
        seeds = list(range(asked.seeds or self.seeds))
        target = asked.target
        if target is None:
            on_cifar10 = asked.given.get("dataset") == "cifar10"
            target = self.target_on_cifar10 if on_cifar10 else self.target
        rows = []
        for variant, options in configurations:
            with tempfile.TemporaryDirectory() as folder:
                configs = [self._config(options, seed, Path(folder)) for seed in seeds]
                runs = [self._run(variant, config, target) for config in configs]
            rows.append(
                {
                    "name": variant.name,
                    "panel": variant.panel,
                    "label": variant.label or variant.name,
                    "options": _plain(variant.options),
                    "runs": runs,
                }
            )
            asked.say(f"{self.name}: {variant.name}: {_told(rows[-1])}")
        device = torch.device(configs[0].device)
        shared = configurations[0][1].keys() - {n for v in self.variants for n in v.options}
        return {
            "shows": self.shows,
            "dataset": configs[0].dataset,
            "options": _plain({name: configurations[0][1][name] for name in sorted(shared)}),
            "seeds": seeds,
            "target": target,
            "seconds": round(time.perf_counter() - begun, 1),
            "versions": versions(device),
            "environment": {k: v for k, v in environment(device).items() if k in MACHINE},
            "variants": rows,
        }

    def _run(self, variant: Variant, config: Config, target: float) -> dict[str, Any]:
        """Train once. What is None does not apply."""
        history: list[dict[str, float]] = []
        points: list[dict[str, float]] = []
        each = points.append if config.log_every == 1 else None
        run: dict[str, Any] = {"seed": config.seed, "diverged": None}
        try:
            result = train(config, history.append, points=each, optimizer=variant.optimizer)
        except DivergedError as error:
            run["diverged"] = str(error).split(". ")[0].removeprefix("diverged: ")
        else:
            run |= {
                "train_accuracy": result.train_accuracy,
                "test_accuracy": result.test_accuracy,
                "validation_accuracy": result.validation_accuracy,
                "seconds": result.train_seconds,
                "epochs": result.epochs,
            }
        reached = [row["epoch"] for row in history if row["validation_accuracy"] >= target]
        run["epochs_to_target"] = reached[0] if reached else None
        run["steps"] = [row["step"] for row in history]  # after each epoch
        run["curves"] = {name: [_rounded(row[name]) for row in history] for name in EPOCH_TAGS}
        if points:
            run["curves"] |= {name: [_rounded(row[name]) for row in points] for name in STEP_TAGS}
        return run

    @staticmethod
    def table(record: Record) -> tuple[list[str], list[list[str]]]:
        """Head and rows: accuracies in percent, the gap in points, with standard errors."""
        head = [
            record["dataset"], "training accuracy, %", "test accuracy, %", "gap", "s",
            f"epochs to {100 * record['target']:g} %",
        ]  # fmt: skip
        rows = []
        for variant in record["variants"]:
            runs, gone = _finished(variant), _diverged(variant)
            cells = [variant["name"], *[""] * 5]
            if runs:
                train = [100 * run["train_accuracy"] for run in runs]
                test = [100 * run["test_accuracy"] for run in runs]
                gaps = [a - b for a, b in zip(train, test, strict=True)]
                cells[1:4] = [shown(summarize(values), 1) for values in (train, test, gaps)]
                cells[4] = f"{summarize([run['seconds'] for run in runs]).mean:.2f}"
                reached = [r["epochs_to_target"] for r in runs if r["epochs_to_target"] is not None]
                cells[5] = shown(summarize(reached), 1) if reached else "-"
                if reached and len(reached) < len(runs):
                    cells[5] += f" ({len(reached)} of {len(runs)})"
            if gone:
                cells[2] = ", ".join(filter(None, [cells[2], gone]))
            rows.append(cells)
        return head, rows

    def draw(self, record: Record) -> Figure:
        """Charts of the curves, and the accuracies at the end beside them."""
        panels = [list(self._panels(record, curve)) for curve in self.curves]
        count = len(panels[0])
        if len(panels) == 1:  # one quantity: its panels in one row, or in two
            columns = count if count < 4 else 2
        else:  # a row for each quantity, or, if there is one panel of each, a column
            columns = count if count > 1 else len(panels)
        rows = math.ceil(count * len(panels) / columns)
        bars = self._bars(record)
        right = 2.6 + 0.06 * max(len(bar.label) for bar in bars)
        drawn = figure(3.1 * columns + right, max(2.6 * rows, 0.19 * len(bars) + 1.3))
        places = drawn.add_gridspec(rows, columns + 1, width_ratios=[3.1] * columns + [right])
        for k, of_curve in enumerate(panels):
            first = None
            for j, panel in enumerate(of_curve):
                i = k * count + j
                axes = drawn.add_subplot(places[i // columns, i % columns], sharey=first)
                draw_lines(axes, panel)
                if k:
                    axes.set_title("")  # as above
                else:
                    axes.legend(title=self.legend, ncols=2 if len(panel.lines) > 5 else 1)
                if first is not None and i % columns:  # the scale stands on the left
                    axes.tick_params(which="both", labelleft=False)
                    axes.set_ylabel("")
                first = first or axes
        axes = drawn.add_subplot(places[:, columns])
        title = f"{len(record['seeds'])} seeds, ± standard error"
        draw_bars(axes, bars, title, "accuracy, %", ("training", "test"))
        return drawn

    def _panels(self, record: Record, curve: Curve) -> Iterator[Panel]:
        lines = {
            title: [_line(variant, curve) for variant in group]
            for title, group in groupby(record["variants"], lambda variant: variant["panel"])
        }
        x = "step" if curve.by_step else "epoch"
        for title, own in lines.items():
            behind = [line for other, those in lines.items() if other != title for line in those]
            yield Panel(title, own, x, curve.label, curve.log, behind)

    @staticmethod
    def _bars(record: Record) -> list[Bar]:
        bars = []
        for _, group in groupby(record["variants"], lambda variant: variant["panel"]):
            for i, variant in enumerate(group):
                runs = _finished(variant)
                left, right = (
                    _mean_and_error([100 * run[name] for run in runs]) if runs else None
                    for name in ("train_accuracy", "test_accuracy")
                )
                bars.append(Bar(variant["name"], left, right, _diverged(variant), i == 0))
        return bars

    @staticmethod
    def scalars(record: Record) -> Curves:
        """Of each run, named by variant and seed, what cifar10.py logs by the same tags."""
        found: Curves = {}
        for variant in record["variants"]:
            for run in variant["runs"]:
                steps, curves = run["steps"], run["curves"]
                tags = {
                    tag: list(zip(steps, curves[name], strict=True))
                    for name, tag in EPOCH_TAGS.items()
                }
                tags |= {
                    name: list(enumerate(curves[name], 1)) for name in STEP_TAGS if name in curves
                }
                tags = {
                    tag: [(step, value) for step, value in points if value is not None]
                    for tag, points in tags.items()
                }
                if run["diverged"] is None:
                    tags["test/accuracy"] = [(steps[-1], run["test_accuracy"])]
                found[f"{variant['name']}/seed-{run['seed']}"] = tags
        return found


def shown(summary: Summary, places: int) -> str:
    """Mean ± standard error; of one value there is none."""
    if summary.n == 1:
        return f"{summary.mean:.{places}f}"
    return f"{summary.mean:.{places}f} ± {summary.standard_error:.{places}f}"


def _mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    summary = summarize(values)
    return summary.mean, summary.standard_error


def _finished(variant: Record) -> list[Record]:
    return [run for run in variant["runs"] if run["diverged"] is None]


def _diverged(variant: Record) -> str:
    """Of how many seeds a variant diverged; empty where of none."""
    gone = [run for run in variant["runs"] if run["diverged"] is not None]
    return f"diverged in {len(gone)} of {len(variant['runs'])} seeds" if gone else ""


def _line(variant: Record, curve: Curve) -> Line:
    """What is drawn of a variant."""
    ended: list[list[float]] = []
    diverged: list[list[float]] = []
    for run in variant["runs"]:
        row = [math.nan if value is None else value for value in run["curves"].get(curve.of, [])]
        if curve.error:
            row = [100 * (1 - value) for value in row]
        if row:
            (ended if run["diverged"] is None else diverged).append(row)
    longest = max(map(len, [*ended, *diverged]), default=0)
    return Line(variant["label"], range(1, longest + 1), ended, diverged)


def _told(variant: Record) -> str:
    runs, gone = _finished(variant), _diverged(variant)
    tested = [100 * run["test_accuracy"] for run in runs]
    parts = [f"test accuracy {shown(summarize(tested), 1)} %" if runs else "", gone]
    return ", ".join(filter(None, parts))


def _rounded(value: float) -> float | None:
    """None where it is not finite, for which JSON has no number."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """In the types of JSON."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}
