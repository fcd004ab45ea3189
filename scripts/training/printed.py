"""What two runs of a script printed, number by number.

Lines are compared in order. Each is split into its words and its numbers; ``acc1`` and ``2.14.1``
are words. What says nothing of the computation is taken out first:

- durations, rates and sizes: a number before s, ms, min, h, it/s, img/s, s/batch, MB and the like,
  and the one, or the two as in ``0.5 (0.4)``, after time, eta, elapsed, took, duration, speed,
  throughput, data, mem, memory, img/s, ms/batch and the like;
- dates (2026-11-24) and clocks (13:05, 0:00:07.5);
- the names of nodes of the graph (``grad_fn=<NllLossBackward0>``) and addresses (0x7f...);
- warnings of Python with their line of source;
- what the caller says.

Two numbers are equal as printed if they differ by at most one unit of their last digit, which is
what rounding to that digit can make of any difference. Whole numbers, and those of fewer than
three significant digits, of which a unit is much, must be the same.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

_NUMBER = r"[-+]?(?:\d+(?:\.\d+|\.(?=[eE]))?|\.\d+)(?:[eE][-+]?\d+)?"
NUMBER = re.compile(rf"(?<![\w.])(?:{_NUMBER}|[-+]?nan|[-+]?inf)(?!\w|\.\w)")

_TIME = r"(?:s|secs?|seconds?|ms|us|µs|μs|ns|mins?|minutes?|h|hours?)"
_NAMES = r"time|eta|elapsed|took|duration|speed|throughput|data|mem|memory"
_CLOCK = r"\d+:\d\d(?::\d\d)?(?:[.,]\d+)?"
TAKEN_OUT = re.compile(
    rf"""
      ^.*\b\w*Warning:.*(?:\n[ ]+.*)?                                      # warnings
    | \b\d{{4}}-\d\d-\d\d(?:[T ]{_CLOCK})?                                  # dates
    | (?<![\w.]){_CLOCK}(?!\w)                                             # clocks
    | \bgrad_fn=<\w+>  |  \b0x[0-9a-fA-F]+                                 # nodes, addresses
    | \b(?:{_NAMES}|{_TIME}/\w+|\w+/{_TIME})\b\s*[:=]?\s*(?:{_CLOCK}|{_NUMBER})
        (?:\s*(?:\w+/)?{_TIME}\b)?(?:\s*\(\s*{_NUMBER}\s*\))?                   # named
    | (?<![\w.]){_NUMBER}\s*(?:\w*/{_TIME}|{_TIME}(?:/\w+)?|[KMGT]i?B)\b
        (?!\s*[:=])                                                         # with a unit
    """,
    re.VERBOSE | re.MULTILINE | re.IGNORECASE,
)


@dataclass(frozen=True)
class Line:
    """A line that a run printed."""

    number: int
    """In what the run printed, from 1."""
    text: str
    words: str
    """The line without its numbers."""
    numbers: tuple[str, ...]


def lines(text: str, ignore: Sequence[str] = ()) -> list[Line]:
    """Return the lines of a text that have words or numbers.

    Args:
        text: what a run printed.
        ignore: regular expressions of what else to take out.
    """

    def blank(match: re.Match[str]) -> str:
        return " ~ " + "\n" * match[0].count("\n")

    text = text.replace("\r\n", "\n").replace("\r", "\n")  # a progress bar overwrites its line
    reduced = TAKEN_OUT.sub(blank, text)
    for pattern in ignore:
        reduced = re.sub(pattern, blank, reduced, flags=re.MULTILINE)
    found = []
    pairs = zip(text.split("\n"), reduced.split("\n"), strict=True)
    for n, (full, line) in enumerate(pairs, 1):
        words = " ".join(NUMBER.sub(" # ", line).split())
        if words.strip("~ "):
            found.append(Line(n, full.strip(), words, tuple(NUMBER.findall(line))))
    return found


@dataclass(frozen=True)
class Place:
    """Where two runs differ."""

    theirs: Line | None
    """None if that run has printed all its lines."""
    ours: Line | None
    step: int
    """How many lines there were with the same words, this one included."""
    pair: tuple[str, str] | None = None
    """The two numbers; None if words differ."""

    def __str__(self) -> str:
        line = self.theirs or self.ours
        where = f"line {line.number if line else 0} (step {self.step})"
        if self.pair is not None:
            return f"{where}, {self.pair[0]} | {self.pair[1]}: {line.text if line else ''}"
        texts = [x.text if x else "(no line)" for x in (self.theirs, self.ours)]
        return f"{where}, other words: {' | '.join(texts)}"


@dataclass(frozen=True)
class Comparison:
    """How far apart two runs are.

    Attributes:
        numbers: how many were compared: up to the first line with other words.
        differing: how many of them are not equal.
        first: the first difference, None if there is none.
        largest: the largest |a - b| / max(|a|, |b|) of those that differ; 0 if none does.
        largest_at: where that is.
        words: where words differ, or lines are missing.
    """

    numbers: int
    differing: int
    first: Place | None
    largest: float
    largest_at: Place | None
    words: Place | None

    def __str__(self) -> str:
        if self.first is None:
            return f"equal as printed, all {self.numbers} numbers"
        parts = [f"{self.differing} of {self.numbers} numbers differ", f"first: {self.first}"]
        if self.largest_at is not None:
            parts += [f"largest relative difference {self.largest:.2g}: {self.largest_at}"]
        if self.words is not None and self.words != self.first:
            parts += [f"compared up to {self.words}"]
        return "\n    ".join(parts)


def compare(theirs: Sequence[Line], ours: Sequence[Line], rtol: float = 0.0) -> Comparison:
    """Compare what two runs printed, up to the first line with other words.

    Args:
        theirs: lines of the one run.
        ours: lines of the other.
        rtol: how far apart numbers may be relative to the larger one, if further than as printed.
    """
    numbers = differing = 0
    largest = 0.0
    first = largest_at = words = None
    seen: dict[str, int] = {}
    for i in range(max(len(theirs), len(ours))):
        a, b = (run[i] if i < len(run) else None for run in (theirs, ours))
        form = (a or b or theirs[0]).words
        seen[form] = seen.get(form, 0) + 1
        if a is None or b is None or a.words != b.words:
            words = Place(a, b, seen[form])
            break
        for pair in zip(a.numbers, b.numbers, strict=True):
            numbers += 1
            distance = relative_difference(*pair)
            if distance <= rtol or equal_as_printed(*pair):
                continue
            differing += 1
            place = Place(a, b, seen[form], pair)
            first = first or place
            if distance > largest:
                largest, largest_at = distance, place
    return Comparison(numbers, differing, first or words, largest, largest_at, words)


def widest(comparisons: Sequence[Comparison]) -> Comparison:
    """Return what is the furthest apart, and the earliest, of some comparisons."""

    def early(comparison: Comparison) -> float:
        place = comparison.first
        line = (place.theirs or place.ours) if place else None
        return line.number if line else math.inf

    first, far = min(comparisons, key=early), max(comparisons, key=lambda c: c.largest)
    most = max(comparisons, key=lambda c: c.differing)
    words = next((c.words for c in comparisons if c.words), None)
    return Comparison(most.numbers, most.differing, first.first, far.largest, far.largest_at, words)


def relative_difference(a: str, b: str) -> float:
    """Return |a - b| / max(|a|, |b|): 0 for two nan, infinite if one number is not finite."""
    x, y = float(a), float(b)
    if x == y or (math.isnan(x) and math.isnan(y)):
        return 0.0
    if not (math.isfinite(x) and math.isfinite(y)):
        return math.inf
    return abs(x - y) / max(abs(x), abs(y))


def equal_as_printed(a: str, b: str) -> bool:
    """Whether two numbers differ by no more than the digits printed allow; see the module."""
    if a == b or relative_difference(a, b) == 0:
        return True
    if not math.isfinite(float(a)) or not math.isfinite(float(b)):
        return False
    x, y = Decimal(a), Decimal(b)
    unit = Decimal(1).scaleb(max(int(x.as_tuple().exponent), int(y.as_tuple().exponent)))
    digits = min(len(number.as_tuple().digits) for number in (x, y))
    whole = not any(mark in a + b for mark in ".eE")
    return abs(x - y) <= unit and digits >= 3 and not whole
