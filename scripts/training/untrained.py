"""Experiments without a network: functions, schedules, and optimizers on two parameters.

Each has what :class:`training.comparison.Comparison` has: ``measure`` makes a record in the types
of JSON, and ``table``, ``draw`` and ``scalars`` are made from that.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor, nn

import scratch_layers
import scratch_optim
from scratch_layers import activation
from scratch_optim import lr_scheduler
from scratch_optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    LinearLR,
    LRScheduler,
    SequentialLR,
)
from training.comparison import Asked, Curves, Record
from training.figures import COLOURS, FAINT, Line, Panel, colour, draw_lines, figure, style

Table = tuple[list[str], list[list[str]]]

TWO_INPUTS = {"GLU"}
"""Activations that are no function of one variable."""
ARGUMENTS: dict[str, tuple[Any, ...]] = {"Threshold": (1.0, 0.0)}
"""Of those that have no defaults."""


def functions() -> list[str]:
    """The activations of scratch_layers that are functions of one variable."""
    named = [name for name in activation.__all__ if inspect.isclass(getattr(activation, name))]
    return sorted((name for name in named if name not in TWO_INPUTS), key=str.lower)


@dataclass(frozen=True)
class ActivationFunctions:
    """Every activation beside its derivative, which is that of our own backward pass."""

    name: str
    shows: str

    def measure(self, asked: Asked) -> Record:
        """Values and derivatives at the same points; a random slope has its mean."""
        x = torch.arange(-80, 81, dtype=torch.float64) / 20
        found = {}
        for name in functions():
            module: nn.Module = getattr(scratch_layers, name)(*ARGUMENTS.get(name, ())).double()
            at = x.clone().requires_grad_()
            y = module.eval()(at)
            (slope,) = torch.autograd.grad(y.sum(), at)
            found[name] = {"value": _digits(y), "derivative": _digits(slope)}
        return {"shows": self.shows, "x": x.tolist(), "functions": found}

    def table(self, record: Record) -> Table | None:
        """There is none."""
        return None

    def scalars(self, record: Record) -> Curves:
        """There are none: x is no step."""
        return {}

    def draw(self, record: Record) -> Figure:
        """A small chart of each."""
        columns = 6
        found = record["functions"]
        rows = math.ceil(len(found) / columns)
        drawn = figure(1.75 * columns, 1.55 * rows + 0.3)
        places = drawn.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        x = np.array(record["x"])
        for axes, (name, curves) in zip(places.flat, found.items(), strict=False):
            axes.axhline(0, color=FAINT, linewidth=0.8, zorder=1)
            axes.axvline(0, color=FAINT, linewidth=0.8, zorder=1)
            for i, which in enumerate(("value", "derivative")):
                axes.plot(*_parts(x, curves[which]), color=colour(i), linestyle=style(i))
            axes.set(title=name, xlim=(-4, 4), ylim=(-1.5, 2.5))
        for axes in list(places.flat)[len(found) :]:
            axes.set_axis_off()
        _legend_below(drawn, ["f(x)", "derivative"])
        return drawn


def _parts(x: np.ndarray, y: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Points of a line that is broken where the function jumps."""
    jumps = [i + 1 for i, (a, b) in enumerate(pairwise(y)) if abs(b - a) > 0.25]
    return np.insert(x, jumps, math.nan), np.insert(np.array(y), jumps, math.nan)


STEPS = 100
T = STEPS


def _sequence(optimizer: Any) -> Any:
    parts: list[LRScheduler] = [
        LinearLR(optimizer, 0.1, total_iters=20),
        CosineAnnealingLR(optimizer, 80),
    ]
    return SequentialLR(optimizer, parts, [20])


def _chain(optimizer: Any) -> Any:
    return ChainedScheduler([ConstantLR(optimizer, 0.3, 20), ExponentialLR(optimizer, 0.97)])


SCHEDULES: dict[str, tuple[str, dict[str, Any] | Callable[[Any], Any]]] = {
    "LambdaLR": ("f(t) = 1 / √(1 + t)", {"lr_lambda": lambda t: (1 + t) ** -0.5}),
    "MultiplicativeLR": ("r(t) = 0.95", {"lr_lambda": lambda t: 0.95}),
    "ConstantLR": ("", {"factor": 0.3, "total_iters": 20}),
    "LinearLR": ("", {"start_factor": 0.1, "total_iters": 40}),
    "StepLR": ("", {"step_size": 25, "gamma": 0.4}),
    "MultiStepLR": ("", {"milestones": [50, 75], "gamma": 0.1}),
    "ExponentialLR": ("", {"gamma": 0.96}),
    "PolynomialLR": ("", {"total_iters": T, "power": 2.0}),
    "InverseTimeLR": ("", {"decay_rate": 0.09}),
    "CosineAnnealingLR": ("", {"T_max": T}),
    "CosineAnnealingWarmRestarts": ("", {"T_0": 14, "T_mult": 2}),
    "CyclicLR": ("triangular2", {"base_lr": 0.1, "max_lr": 1.0, "step_size_up": 16,
                                 "mode": "triangular2"}),
    "OneCycleLR": ("", {"max_lr": 1.0, "total_steps": T + 1}),
    "WarmupCosineLR": ("", {"warmup_steps": 20, "total_steps": T}),
    "WarmupLinearLR": ("", {"warmup_steps": 20, "total_steps": T}),
    "WarmupStableDecayLR": ("20 up, 60 stable, 20 down",
                            {"warmup_steps": 20, "decay_steps": 20, "total_steps": T}),
    "SequentialLR": ("LinearLR, then cosine", _sequence),
    "ChainedScheduler": ("ConstantLR times ExponentialLR", _chain),
}  # fmt: skip
"""Each schedule that is a function of the step, what to say of it, and its arguments."""


@dataclass(frozen=True)
class ScheduleCurves:
    """Every schedule of scratch_optim.lr_scheduler that is a function of the step."""

    name: str
    shows: str

    def measure(self, asked: Asked) -> Record:
        """The learning rate before each step, of an optimizer that begins with 1."""
        found = {}
        for name, (said, made) in SCHEDULES.items():
            optimizer = scratch_optim.SGD([torch.zeros(1, requires_grad=True)], 1.0, momentum=0.9)
            if callable(made):
                schedule = made(optimizer)
            else:
                schedule = getattr(lr_scheduler, name)(optimizer, **made)
                said = said or ", ".join(f"{key}={value}" for key, value in made.items())
            rates = [schedule.get_last_lr()[0]]
            for _ in range(STEPS):
                optimizer.step()
                schedule.step()
                rates.append(schedule.get_last_lr()[0])
            found[name] = {"said": said, "rates": _digits(rates)}
        return {"shows": self.shows, "schedules": found}

    def table(self, record: Record) -> Table | None:
        """There is none."""
        return None

    def scalars(self, record: Record) -> Curves:
        """The learning rate of each."""
        return {
            name: {"learning_rate": list(enumerate(found["rates"]))}
            for name, found in record["schedules"].items()
        }

    def draw(self, record: Record) -> Figure:
        """A small chart of each."""
        columns = 6
        found = record["schedules"]
        rows = math.ceil(len(found) / columns)
        drawn = figure(1.85 * columns, 1.6 * rows)
        places = drawn.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes, (name, curve) in zip(places.flat, found.items(), strict=False):
            axes.plot(curve["rates"], color=COLOURS[0], drawstyle="steps-post")
            axes.set_title(f"{name}\n", fontsize=8)
            axes.text(
                0.5, 1.04, curve["said"], transform=axes.transAxes,
                ha="center", fontsize=6, color="#444444",
            )  # fmt: skip
            axes.set(xlim=(0, STEPS), ylim=(0, 1.05))
        for axes in list(places.flat)[len(found) :]:
            axes.set_axis_off()
        drawn.supxlabel("step t", fontsize=8.5)
        drawn.supylabel("learning rate by the first one given", fontsize=8.5)
        return drawn


@dataclass(frozen=True)
class Landscape:
    """A function of two parameters."""

    title: str
    f: Callable[[Any, Any], Any]
    """Of x and y, of any type that adds and multiplies."""
    lowest: float
    minima: Sequence[tuple[float, float]]
    start: tuple[float, float]
    window: tuple[tuple[float, float], tuple[float, float]]
    """Of x and of y, to be drawn."""


LANDSCAPES = (
    Landscape(
        "narrow valley: (x² + 50 y²) / 2",
        lambda x, y: (x * x + 50 * y * y) / 2,
        0.0,
        [(0.0, 0.0)],
        (-4.13, 1.07),
        ((-4.6, 2.6), (-1.5, 1.5)),
    ),
    Landscape(
        "Rosenbrock: (1 - x)² + 100 (y - x²)²",
        lambda x, y: (1 - x) ** 2 + 100 * (y - x * x) ** 2,
        0.0,
        [(1.0, 1.0)],
        (-1.23, 1.07),
        ((-1.8, 1.8), (-0.8, 2.4)),
    ),
    Landscape(
        "saddle: x² / 2 + y⁴ / 4 - y² / 2",
        lambda x, y: x * x / 2 + y**4 / 4 - y * y / 2,
        -0.25,
        [(0.0, -1.0), (0.0, 1.0)],
        (-1.53, 1e-3),
        ((-1.8, 1.2), (-0.6, 1.8)),
    ),
)
WALKERS: dict[str, Callable[[list[Tensor], float], Any]] = {
    "SGD": lambda p, lr: scratch_optim.SGD(p, lr),
    "SGD, momentum 0.9": lambda p, lr: scratch_optim.SGD(p, lr, momentum=0.9),
    "SGD, Nesterov 0.9": lambda p, lr: scratch_optim.SGD(p, lr, momentum=0.9, nesterov=True),
    "Adagrad": lambda p, lr: scratch_optim.Adagrad(p, lr),
    "RMSprop": lambda p, lr: scratch_optim.RMSprop(p, lr),
    "Adam": lambda p, lr: scratch_optim.Adam(p, lr),
    "Lion": lambda p, lr: scratch_optim.Lion(p, lr),
}
RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Learning rates that are tried."""
WALK = 150
"""Steps."""
LAST = 10
"""Values of which the highest counts: a path that swings through the minimum is not there."""


def walk(
    landscape: Landscape, make: Callable[[list[Tensor], float], Any], lr: float
) -> tuple[list[tuple[float, float]], list[float]]:
    """The points that an optimizer comes by, the first among them, and f - lowest there.

    They end where it leaves the window.
    """
    (left, right), (bottom, top) = landscape.window
    p = torch.tensor(landscape.start, dtype=torch.float64, requires_grad=True)
    optimizer = make([p], lr)
    path: list[tuple[float, float]] = []
    values: list[float] = []
    for _ in range(WALK + 1):
        optimizer.zero_grad()
        f = landscape.f(p[0], p[1])
        x, y = p.tolist()
        if not (left <= x <= right and bottom <= y <= top):
            break
        path.append((x, y))
        values.append(f.item() - landscape.lowest)
        f.backward()
        optimizer.step()
    return path, values


@dataclass(frozen=True)
class Landscapes:
    """The ways of optimizers over functions of two parameters.

    Each has the learning rate of ``RATES`` with which the highest of the last values is lowest,
    among those with which it stays in the window.
    """

    name: str
    shows: str

    def measure(self, asked: Asked) -> Record:
        """Walk with every optimizer over every landscape, with every rate."""
        found: Record = {}
        for landscape in LANDSCAPES:
            ways = {}
            for name, make in WALKERS.items():
                tried = {lr: walk(landscape, make, lr) for lr in RATES}
                best = min(RATES, key=lambda lr: _judged(tried[lr][1]))
                path, values = tried[best]
                ways[name] = {
                    "lr": best,
                    "path": [_digits(point) for point in path],
                    "values": _digits(values),
                }
            found[landscape.title] = ways
        return {"shows": self.shows, "landscapes": found}

    def table(self, record: Record) -> Table:
        """The rate of each, and how far above the minimum the last values are at most."""
        titles = [title.split(":")[0] for title in record["landscapes"]]
        head = [
            "",
            *[cell for title in titles for cell in (f"lr, {title}", "f - min f at the end")],
        ]
        rows = []
        for name in WALKERS:
            ways = [found[name] for found in record["landscapes"].values()]
            cells = [(f"{way['lr']:g}", f"{_judged(way['values']):.0e}") for way in ways]
            rows.append([name, *[cell for pair in cells for cell in pair]])
        return head, rows

    def scalars(self, record: Record) -> Curves:
        """f - min f of each."""
        return {
            f"{title.split(':')[0]}/{name}": {"value": list(enumerate(way["values"]))}
            for title, ways in record["landscapes"].items()
            for name, way in ways.items()
        }

    def draw(self, record: Record) -> Figure:
        """Contours with the paths, and the values below them."""
        drawn = figure(3.7 * len(LANDSCAPES), 6.2)
        places = drawn.subplots(2, len(LANDSCAPES), height_ratios=[1.25, 1])
        for landscape, above, below in zip(LANDSCAPES, *places, strict=True):
            ways = record["landscapes"][landscape.title]
            (left, right), (bottom, top) = landscape.window
            x, y = np.meshgrid(np.linspace(left, right, 200), np.linspace(bottom, top, 200))
            height = landscape.f(x, y) - landscape.lowest
            levels = np.geomspace(max(height.min(), 1e-3 * height.max()), height.max(), 14)
            above.contour(x, y, height, levels, colors=FAINT, linewidths=0.7)
            for i, way in enumerate(ways.values()):
                path = np.array(way["path"])
                above.plot(*path.T, color=colour(i), linestyle=style(i), linewidth=1.1)
            above.plot(*landscape.start, "o", color="black", markersize=5, zorder=5)
            for point in landscape.minima:
                above.plot(*point, "*", color="black", markersize=9, zorder=5)
            above.grid(visible=False)
            above.set(
                title=landscape.title.split(":")[0], xlabel="x", ylabel="y",
                xlim=(left, right), ylim=(bottom, top),
            )  # fmt: skip
            lines = []
            for name, way in ways.items():
                recent = [max(way["values"][i : i + LAST]) for i in range(WALK + 2 - LAST)]
                lines.append(Line(name, range(LAST - 1, WALK + 1), [recent]))
            label = f"f - min f, highest of {LAST} steps"
            draw_lines(below, Panel(landscape.title.split(":")[1], lines, "step", label, True))
            below.set_ylim(bottom=1e-10)
        _legend_below(drawn, list(WALKERS))
        return drawn


def _legend_below(drawn: Figure, labels: Sequence[str]) -> None:
    """A legend of the first lines of every chart."""
    lines = [
        Line2D([], [], color=colour(i), linestyle=style(i), label=label)
        for i, label in enumerate(labels)
    ]
    drawn.legend(
        handles=lines, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8.5
    )


def _judged(values: Sequence[float]) -> float:
    """The highest value at the end; infinite where the walk left the window."""
    return max(values[-LAST:]) if len(values) > WALK else math.inf


def _digits(values: Iterable[float] | Tensor) -> list[float]:
    """With five significant digits."""
    listed = values.tolist() if isinstance(values, Tensor) else values
    return [float(f"{value:.5g}") for value in listed]
