"""What a search may choose from: ranges and lists of options of a training run.

An entry is written ``lr=1e-4..1e-1:log`` (a range, here even in the logarithm), ``epochs=5..20``
(of whole numbers, where both ends are), or ``batch_size=32,64,128`` (a list; ``on`` and ``off`` of
a switch; several words for an option that takes several, as in ``augment=none,flip,flip crop``).
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from training.errors import UsageError
from training.options import MAY_CHANGE, TUPLES, Config, make_config, options_of, parser

KINDS = {field.name: str(field.type) for field in dataclasses.fields(Config)}
NOT_SEARCHED = {"preset", "dataset", "holdout", "tta", "seed", "budget"}
"""They change what is measured, or how long, and not how well the options do."""
SEARCHABLE = tuple(name for name in KINDS if name not in MAY_CHANGE | NOT_SEARCHED)
GRID_POINTS = 3
"""Values that stand for a range in a grid: its ends and its middle."""


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; whole numbers if both are."""

    low: float
    high: float
    log: bool = False

    def suggest(self, trial: optuna.Trial, name: str) -> float:
        """The number of a trial."""
        if self._whole():
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)

    def extremes(self) -> list[Any]:
        """The values between which all others lie."""
        return [self.low, self.high]

    def grid(self) -> list[Any]:
        """``GRID_POINTS`` values at equal distances, or as many as there are."""
        to, back = (math.log, math.exp) if self.log else (float, float)
        step = (to(self.high) - to(self.low)) / (GRID_POINTS - 1)
        inner = [_short(back(to(self.low) + i * step)) for i in range(1, GRID_POINTS - 1)]
        points = [self.low, *inner, self.high]
        return list(dict.fromkeys(map(round, points) if self._whole() else points))

    def value(self, name: str, chosen: Any) -> Any:
        """What ``make_config`` takes for a number that was chosen."""
        return chosen

    def _whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def __str__(self) -> str:
        return f"{self.low}..{self.high}{':log' if self.log else ''}"


@dataclass(frozen=True)
class Choice:
    """One of some words, each a value of the option."""

    words: tuple[str, ...]

    def suggest(self, trial: optuna.Trial, name: str) -> str:
        """The word of a trial."""
        return trial.suggest_categorical(name, self.words)

    def extremes(self) -> list[Any]:
        """All of them."""
        return list(self.words)

    def grid(self) -> list[Any]:
        """All of them."""
        return list(self.words)

    def value(self, name: str, chosen: str) -> Any:
        """What ``make_config`` takes for a word that was chosen."""
        return read(name, chosen)

    def __str__(self) -> str:
        return ",".join(self.words)


Entry = Range | Choice
Space = Mapping[str, Entry]


def parse(texts: Sequence[str]) -> dict[str, Entry]:
    """The entries of a space, by the name of the option.

    Raises:
        UsageError: one of them is none.
    """
    space: dict[str, Entry] = {}
    for text in texts:
        name, is_there, right = text.partition("=")
        name = name.strip().removeprefix("--").replace("-", "_")
        if not is_there:
            raise UsageError(
                f"--space {text}: write OPTION=LOW..HIGH, OPTION=LOW..HIGH:log or "
                "OPTION=ONE,OTHER,..."
            )
        if name not in SEARCHABLE:
            raise UsageError(
                f"--space {text}: {name!r} is not searched. Choose from {', '.join(SEARCHABLE)}."
            )
        if name in space:
            raise UsageError(f"--space {text}: {name} stands there twice. Leave one of them out.")
        try:
            space[name] = _range(name, right) if ".." in right else _choice(name, right)
        except UsageError as error:
            raise UsageError(f"--space {text}: {error}") from error
    return space


def _range(name: str, text: str) -> Range:
    ends, _, scale = text.partition(":")
    low, high = (read(name, word) for word in ends.split("..", 1))
    for value in (low, high):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"{name} is no number. List its values, with commas between.")
    if scale not in ("", "log"):
        raise UsageError(f"after the colon stands {scale!r}. Write :log, or nothing.")
    if not low < high:
        raise UsageError(f"{low} is not below {high}. Write the lower end first.")
    if scale and not low > 0:
        raise UsageError(f"{low} has no logarithm. Begin above 0, or leave :log out.")
    return Range(low, high, bool(scale))


def _choice(name: str, text: str) -> Choice:
    words = tuple(word(read(name, part.strip())) for part in text.split(","))
    if len(words) == 1:
        fixed = " ".join(spelled(name, read(name, words[0])))
        raise UsageError(f"one value is no choice. Give {fixed} instead, or further values.")
    twice = next((one for one in words if words.count(one) > 1), None)
    if twice is not None:
        raise UsageError(f"{twice} stands there twice. Leave one of them out.")
    return Choice(words)


def read(name: str, text: str) -> Any:
    """The value that a command line would have for a word, or for several.

    Raises:
        UsageError: it is none for this option.
    """
    if KINDS[name] == "bool":
        if text not in ("on", "off"):
            raise UsageError(f"{text!r} is neither on nor off. Write one of these.")
        return text == "on"
    option = "--" + name.replace("_", "-")
    lines = parser()
    lines.exit_on_error = False
    try:
        found = lines.parse_args(
            [option, *text.split()] if name in TUPLES else [f"{option}={text}"]
        )
    except argparse.ArgumentError as error:
        raise UsageError(f"{error}. Write what {option} takes.") from error
    value = getattr(found, name)
    return tuple(value) if isinstance(value, list) else value


def word(value: Any) -> str:
    """A value as ``read`` takes it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return " ".join(map(str, value))
    return str(value)


def spelled(name: str, value: Any) -> list[str]:
    """The arguments of a command line that give an option this value."""
    option = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [option if value else option.replace("--", "--no-", 1)]
    if name == "augment" and not value:
        return [option, "none"]
    return [option, *(word(value).split() if name in TUPLES else [word(value)])]


def usual(given: Mapping[str, Any]) -> dict[str, Entry]:
    """What is searched where nothing is said: what the optimizer has of the following.

    The learning rate and the weight decay, even in the logarithm, a factor of 10 to both sides of
    what the options give (of a weight decay of 0: of 1e-4); the momentum between 0.5 and 0.99, or
    between 0 and 0.99 where there is none by default. What is given is not searched.

    Args:
        given: options, as for ``make_config``.

    Raises:
        UsageError: as ``make_config``; or nothing is left to search.
    """
    config = make_config(**given)
    has = options_of(config.optimizer)
    space: dict[str, Entry] = {"lr": _around(config.lr)}
    if "weight_decay" in has:
        space["weight_decay"] = _around(config.weight_decay or 1e-4)
    if "momentum" in has:
        space["momentum"] = Range(0.5 if config.momentum else 0.0, 0.99)
    space = {name: entry for name, entry in space.items() if name not in given}
    if not space:
        raise UsageError("every option that is searched by default is given. Add --space.")
    return space


def _around(value: float) -> Range:
    return Range(_short(value / 10), _short(value * 10), log=True)


def _short(value: float) -> float:
    """Without the last digits, in which 0.003 / 10 is not 0.0003."""
    return float(f"{value:.12g}")


def check(space: Space, given: Mapping[str, Any]) -> Config:
    """Refuse a space that holds what a command line could not.

    What is impossible is so for one option, or for two together; so it is enough to look at every
    pair of ends and words, with the first value for the other options.

    Args:
        space: what is searched.
        given: the other options, as for ``make_config``.

    Returns:
        The configuration with the first value of everything.

    Raises:
        UsageError: as ``make_config``; or an option is both searched and given.
    """
    for name in space:
        if name in given:
            raise UsageError(
                f"--space {name}={space[name]}: {' '.join(spelled(name, given[name]))} is given "
                "too. Leave one of them out."
            )
    first = {name: entry.value(name, entry.extremes()[0]) for name, entry in space.items()}
    config = make_config(**{**given, **first})
    for names in itertools.combinations(space, min(2, len(space))):
        for chosen in itertools.product(*(space[name].extremes() for name in names)):
            values = {n: space[n].value(n, one) for n, one in zip(names, chosen, strict=True)}
            try:
                make_config(**{**given, **first, **values})
            except UsageError as error:
                entries = " ".join(f"{name}={space[name]}" for name in names)
                raise UsageError(f"--space {entries}: {error}") from error
    return config
