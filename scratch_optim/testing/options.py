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
    "d": {"d": 0.5},
    "trust_coefficient": {"trust_coefficient": 0.1},
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
    except (ValueError, TypeError, RuntimeError, NotImplementedError):
        return False
    return True


def derived(make: Callable[..., Any], *others: Callable[..., Any]) -> list[Options]:
    """Combinations of options that compute something different each.

    The defaults; each option that :data:`VALUES` knows, or that is a switch between two values,
    set to something else; all pairs of these; and all together, as far as ``make`` takes them.

    Args:
        make: the optimizer's class.
        others: what must know the options too (a reference).
    """
    known = parameters_of(make)
    for other in others:
        known = {name: known[name] for name in known.keys() & parameters_of(other).keys()}
    changes = [
        VALUES.get(name, {name: not parameter.default})
        for name, parameter in parameters_of(make).items()
        if name in known
        and name not in SWITCHES
        and (name in VALUES or isinstance(parameter.default, bool))
    ]
    changes = [c for c in changes if any(known[n].default != c[n] for n in c if n in known)]
    base = required(make)
    pairs = [{**a, **b} for a, b in itertools.combinations(changes, 2)]
    together: Options = {}
    for change in changes:
        if change.keys() <= known.keys() and accepted(make, base | together | change):
            together |= change
    found: list[Options] = []
    for options in ({}, *changes, *pairs, together):
        whole = base | options
        if whole.keys() <= known.keys() and whole not in found and accepted(make, whole):
            found.append(whole)
    return found


def describe(options: Options) -> str:
    """Options in a few words."""
    words = []
    for key, value in options.items():
        if isinstance(value, torch.Tensor):
            value = f"tensor{tuple(value.shape)}"
        words.append(key if value is True else f"{key}={value}".replace(" ", ""))
    return ",".join(words) or "defaults"
