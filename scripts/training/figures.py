"""Charts with matplotlib: the colours, and the few forms that all of them are made of.

The colours are those of M. Okabe, K. Ito, "Color Universal Design", 2008, which people with any of
the common deficiencies of colour vision tell apart; yellow, which is faint on white, is left out.
Whatever colour says is said by the style of the line or the form of the mark too.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from PIL import Image

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
FAINT = "#C8C8C8"
STYLE: dict[Any, Any] = {
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E8E8E8",
    "grid.linewidth": 0.7,
    "legend.fontsize": 7.5,
    "legend.title_fontsize": 7.5,
    "legend.framealpha": 0.6,
    "legend.edgecolor": "none",
    "lines.linewidth": 1.4,
}
"""Of matplotlib, to be in force while a chart is made and while it is written."""
DPI = 110
HIGHEST = 10


@dataclass(frozen=True)
class Line:
    """What several runs say of a quantity, from step to step or from epoch to epoch."""

    label: str
    x: Sequence[float]
    rows: Sequence[Sequence[float]]
    """One for each run, of len(x) values or fewer where a run ended earlier."""
    diverged: Sequence[Sequence[float]] = ()
    """Likewise, of runs that diverged after the last value."""


@dataclass(frozen=True)
class Panel:
    """A chart of lines."""

    title: str
    lines: Sequence[Line]
    x: str
    y: str
    log: bool = False
    behind: Sequence[Line] = field(default=())
    """Lines of other panels, which are drawn in grey, to be compared with."""


def colour(i: int) -> str:
    """That of the i-th line of a chart."""
    return COLOURS[i % len(COLOURS)]


def style(i: int) -> Any:
    """That of the i-th line of a chart: each is another one than the colour's last use had."""
    return STYLES[(i + 2 * (i // len(COLOURS))) % len(STYLES)]


def figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, whose parts make room for each other."""
    return Figure(figsize=(width, height), layout="constrained", dpi=DPI)


def draw_lines(axes: Axes, panel: Panel) -> None:
    """The mean of the runs of each line, in a band from the lowest of them to the highest.

    A mean ends where the first of its runs does. Runs that diverged are in no mean: each is a thin
    line, with a cross at its end, drawn no higher than ``HIGHEST`` times the other runs.
    """
    ended = [v for line in panel.lines for row in line.rows for v in row if math.isfinite(v)]
    ceiling = HIGHEST * max(ended, default=math.inf)
    for line in panel.behind:
        x, mean, _, _ = band(line, panel.log)
        axes.plot(x, mean, color=FAINT, linewidth=0.8, zorder=1)
    for i, line in enumerate(panel.lines):
        x, mean, low, high = band(line, panel.log)
        axes.plot(x, mean, color=colour(i), linestyle=style(i), label=line.label, zorder=3)
        if len(line.rows) > 1:
            axes.fill_between(x, low, high, color=colour(i), alpha=0.12, linewidth=0, zorder=2)
        for values in line.diverged:
            at, row = line.x[: len(values)], np.minimum(values, ceiling)
            axes.plot(at, row, color=colour(i), linestyle=style(i), linewidth=0.8, zorder=3)
            axes.plot(at[-1:], row[-1:], "X", color=colour(i), markersize=7, zorder=4)
    if panel.log:
        axes.set_yscale("log")
        bottom, top = axes.get_ylim()
        if top < 100 * bottom:  # few powers of ten are in sight: 2 and 5 times them are named too
            axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
            for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                set_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)


def band(line: Line, log: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, and the mean (on a logarithmic axis the geometric one), lowest and highest value there."""
    length = min(map(len, line.rows), default=0)
    values = np.array([list(row[:length]) for row in line.rows], dtype=float)
    values = values.reshape(len(line.rows), length)
    x = np.array(line.x[:length], dtype=float)
    if not line.rows:
        return x, x, x, x
    if log:
        values = np.where(values > 0, values, np.nan)  # zero is nowhere on the axis
        mean = np.exp(np.log(values).mean(0))
    else:
        mean = values.mean(0)
    return x, mean, values.min(0), values.max(0)


@dataclass(frozen=True)
class Bar:
    """Two figures of a variant that belong together, each with its standard error."""

    label: str
    left: tuple[float, float] | None
    """None: there are none, and ``note`` says why."""
    right: tuple[float, float] | None
    note: str = ""
    first: bool = False
    """It begins a group."""


def draw_bars(axes: Axes, bars: Sequence[Bar], title: str, x: str, names: tuple[str, str]) -> None:
    """A row for each bar: two marks, and the distance between them."""
    place = 0.0
    places = []
    for i, bar in enumerate(bars):
        place += 1.6 if bar.first and i else 1.0
        places.append(place)
    ends = [end[0] for bar in bars for end in (bar.left, bar.right) if end]
    middle = (min(ends) + max(ends)) / 2 if ends else 0.5
    for bar, y in zip(bars, places, strict=True):
        if bar.left and bar.right:
            axes.plot([bar.left[0], bar.right[0]], [y, y], color=FAINT, linewidth=2.5, zorder=1)
        for end, mark, shade in ((bar.left, "o", COLOURS[0]), (bar.right, "D", COLOURS[1])):
            if end:
                error = end[1] if math.isfinite(end[1]) else 0.0
                axes.errorbar(
                    end[0], y, xerr=error, fmt=mark, color=shade, markersize=4.5, capsize=2,
                    linewidth=1, markerfacecolor=shade if mark == "o" else "white", zorder=3,
                )  # fmt: skip
        if bar.note:
            last = bar.right or bar.left
            shift = 8 if last is None or last[0] <= middle else -8
            axes.annotate(
                bar.note, (middle if last is None else last[0], y), (shift if last else 0, 0),
                textcoords="offset points", fontsize=7, color=COLOURS[1], va="center",
                ha="center" if last is None else "left" if shift > 0 else "right",
            )  # fmt: skip
    axes.set_yticks(places, [bar.label for bar in bars])
    axes.set_ylim(places[-1] + 0.7, places[0] - 0.7)
    axes.grid(visible=False, axis="y")
    axes.set(title=title, xlabel=x)
    marks = [
        axes.plot([], [], "o", color=COLOURS[0], markersize=4.5, label=names[0])[0],
        axes.plot(
            [], [], "D", color=COLOURS[1], markersize=4.5, markerfacecolor="white", label=names[1]
        )[0],
    ]
    axes.legend(  # below the label of the axis, by so many heights of a letter
        handles=marks, loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=3.9, ncols=2,
        frameon=False,
    )  # fmt: skip


def png(draw: Callable[[], Figure]) -> bytes:
    """The figure that ``draw`` makes, as a PNG of 256 colours, a third of the size of all."""
    raw, small = io.BytesIO(), io.BytesIO()
    with rc_context(STYLE):
        draw().savefig(raw, format="png", dpi=DPI)
    picture = Image.open(raw).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(small, format="png", optimize=True)
    return small.getvalue()


def pixels(picture: bytes) -> np.ndarray:
    """A PNG as uint8 (height, width, 3)."""
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))
