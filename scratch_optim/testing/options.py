"""Options to check an optimizer with, derived from its signature where none are given."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any

import torch

Options = dict[str, Any]

WAYS: dict[str, Options] = {
    "for-loop": {"foreach": False},
    "foreach": {"foreach": True},
    "default": {},
}
"""Ways to run the same equation that must give the same numbers, as options."""

SWITCHES = ("foreach", "fused", "capturable", "differentiable")
"""Options that say how to run, not what to compute."""

VALUES: dict[str, Options] = {
    "lr": {"lr": 0.1},
    "momentum": {"momentum": 0.9},
    "dampening": {"momentum": 0.9, "dampening": 0.3},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "weight_decay": {"weight_decay": 0.1},
    "decoupled_weight_decay": {"weight_decay": 0.1, "decoupled_weight_decay": True},
    "betas": {"betas": (0.5, 0.6)},
    "eps": {"eps": 1e-2},
    "amsgrad": {"amsgrad": True},
    "maximize": {"maximize": True},
    "alpha": {"alpha": 0.5},
    "centered": {"centered": True},
    "rho": {"rho": 0.5},
    "lr_decay": {"lr_decay": 0.1},
    "initial_accumulator_value": {"initial_accumulator_value": 0.5},
    "momentum_decay": {"momentum_decay": 0.1},
    "lambd": {"lambd": 0.1},
    "t0": {"t0": 3.0},
    "etas": {"etas": (0.4, 1.3)},
    "step_sizes": {"step_sizes": (1e-3, 0.05)},
    "beta2_decay": {"beta2_decay": -0.5},
    "d": {"d": 2.0},
    "trust_coefficient": {"trust_coefficient": 0.1},
    "exclude": {"exclude": False},
    "phi": {"phi": (0.5, 1.5)},
    "bias_correction": {"bias_correction": False},
    "history_size": {"history_size": 3},
    "max_iter": {"max_iter": 4},
    "line_search_fn": {"line_search_fn": "strong_wolfe"},
    "ns_steps": {"ns_steps": 3},
    "adjust_lr_fn": {"adjust_lr_fn": "match_rms_adamw"},
}
"""What to set an option to, other than its default, with what it needs beside it."""


def parameters_of(make: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The options that a class or a function takes by name, beside the first argument.

    Those behind ``**`` are not known, and not among them.
    """
    parameters = list(inspect.signature(make).parameters.values())[1:]
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name: p for p in parameters if p.kind in kinds}


def required(make: Callable[..., Any]) -> Options:
    """The options that have no default, with values; of those whose meaning is known."""
    return {
        name: VALUES[name][name]
        for name, parameter in parameters_of(make).items()
        if parameter.default is parameter.empty and name in VALUES
    }


def accepted(make: Callable[..., Any], options: Options) -> bool:
    """Whether an optimizer can be made with these options."""
    try:
        make([torch.nn.Parameter(torch.ones(2, 2))], **options)
    except Exception:  # whatever it raises, it does not take them
        return False
    return True


def _other(default: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(default, bool):
        return not default
    if isinstance(default, tuple):
        return tuple(_other(x) for x in default)
    return default / 2 if isinstance(default, (int, float)) else default


def _change(name: str, default: Any) -> Options:
    """What :data:`VALUES` sets an option to, or, where that is its default or of another kind than
    its default, another value."""
    change = VALUES.get(name, {name: default})
    lengths = [len(x) if isinstance(x, tuple) else None for x in (change[name], default)]
    same_kind = lengths[0] == lengths[1]  # some take three betas
    return change if same_kind and change[name] != default else {name: _other(default)}


def changes_of(make: Callable[..., Any], *others: Callable[..., Any]) -> list[Options]:
    """What to set each option to, other than its default, that :data:`VALUES` knows or that is a
    switch between two values, and that ``others`` (a reference) know too."""
    known = parameters_of(make)
    names = [n for n in known if all(n in parameters_of(other) for other in others)]
    changes = [
        _change(name, known[name].default)
        for name in names
        if name not in SWITCHES and (name in VALUES or isinstance(known[name].default, bool))
    ]
    return [
        change
        for change in changes
        if change.keys() <= {*names} and any(known[n].default != change[n] for n in change)
    ]


def derived(
    make: Callable[..., Any], *others: Callable[..., Any], pairs: bool = False
) -> list[Options]:
    """Combinations of options that compute something different each.

    The defaults; each option that :func:`changes_of` knows set to something else; and all
    together, as far as ``make`` takes them.

    Args:
        make: the optimizer's class.
        others: what must know the options too (a reference).
        pairs: all pairs of changes too.
    """
    changes = changes_of(make, *others)
    base = required(make)
    couples = [{**a, **b} for a, b in itertools.combinations(changes, 2)] if pairs else []
    together: Options = {}
    for change in changes:
        if accepted(make, base | together | change):
            together |= change
    found: list[Options] = []
    for options in ({}, *changes, *couples, together):
        whole = base | options
        if whole not in found and accepted(make, whole):
            found.append(whole)
    return found or [base]  # which it refuses: a check will say how


def describe(options: Options) -> str:
    """Options in a few words."""
    words = []
    for key, value in options.items():
        if isinstance(value, torch.Tensor):
            value = f"tensor{tuple(value.shape)}"
        words.append(key if value is True else f"{key}={value}".replace(" ", ""))
    return ",".join(words) or "defaults"
