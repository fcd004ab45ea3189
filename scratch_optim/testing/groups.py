"""Checks of groups: their options, the schedulers that steer them, and what is refused."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from functools import partial
from numbers import Real
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import lr_scheduler

from .compare import assert_same, assert_same_bits
from .kit import check, circumstances, skip
from .options import Options, accepted, describe, parameters_of
from .runs import (
    Run,
    check_alike,
    check_equal,
    each,
    each_way,
    error_of,
    must_refuse,
    need_float64,
    need_separable,
    some_of,
)
from .subject import Subject, parameters


@check
def groups_equal_separate_optimizers(subject: Subject) -> None:
    """Parameters in a group with options of its own are updated as by an optimizer with these
    options."""
    need_float64(subject)
    need_separable(subject)
    indices = range(len(subject.shapes))
    first, second = indices[::2], indices[1::2]
    if not second:
        skip("takes parameters of one shape only")
    base = subject.options[0] | ({"lr": 0.1} if subject.has("lr") else {})
    declared = Run(subject, base).optimizer.defaults

    def grouped(params: list[Parameter], change: Options, **options: Any) -> torch.optim.Optimizer:
        one, two = ([params[i] for i in some] for some in (first, second))
        return subject.make([{"params": one}, {"params": two, **change}], **options)

    rows: list[tuple[Options, Options]] = [
        (change, {}) for change in [{"lr": 0.02}, *subject.options]
    ]
    rows += [(subject.typical, switch) for switch in subject.ways.values()]
    for change, switch in rows:
        change = {n: x for n, x in change.items() if n in declared and subject.has(n)}
        options = base | switch
        if not accepted(subject.make, options | change):
            continue
        with circumstances(options=describe(options), of_the_group=describe(change)):
            together = Run(subject, options | {"change": change}, torch.float64, grouped)
            group = together.optimizer.param_groups[1]
            alone = options | {n: x for n, x in group.items() if subject.has(n)}
            one = Run(subject, options, torch.float64, some_of(first, subject.make))
            two = Run(subject, alone, torch.float64, some_of(second, subject.make))
            for run in (together, one, two):
                run.step(4)
            check_alike(together, one, "in a group with the defaults", of=first)
            check_alike(together, two, "in a group with other options", of=second)


@check
def a_group_added_later_starts_then(subject: Subject) -> None:
    """A group added in mid-run is updated as by an optimizer made then, and the others as if
    nothing had been added."""
    need_float64(subject)
    need_separable(subject)
    last = len(subject.shapes) - 1
    if not last:
        skip("takes parameters of one shape only")
    others = range(last)
    for options in each_way(subject):
        with circumstances(options=describe(options)):
            make = some_of(others, subject.make)
            run, old = (Run(subject, options, torch.float64, make) for _ in range(2))
            run.step(3, without=[last])
            run.optimizer.add_param_group({"params": [run.params[last]]})
            new = Run(subject, options, torch.float64, some_of([last], subject.make))
            new.taken = 3
            run.step(3)
            new.step(3)
            old.step(6)
            check_alike(run, new, "added in mid-run", of=[last])
            check_alike(run, old, "beside a group added in mid-run", of=others)


def _numeric(value: Any) -> bool:
    """Whether an option is a number that may be any other, or several: no count, no switch."""
    if isinstance(value, (tuple, list)):
        return all(_numeric(x) for x in value)
    return isinstance(value, float) and value != 0


@check
def reads_options_at_every_step(subject: Subject) -> None:
    """An option changed in its group between two steps has the effect that it has in an optimizer
    made with it that takes over the state."""
    base = dict(subject.typical)
    numbers = {n: x for n, x in Run(subject).optimizer.param_groups[0].items() if n in base}
    changes = [{name: _halved(x)} for name, x in numbers.items() if _numeric(x)]
    for change in changes:
        if error_of(partial(subject.make, parameters(subject.shapes), **base | change)):
            continue
        for switch in subject.ways.values():
            with circumstances(options=describe(base | switch), changed=describe(change)):
                run = Run(subject, base | switch)
                run.step(3)
                saved = copy.deepcopy(run.optimizer.state_dict())
                start = [p.detach().clone() for p in run.params]
                for group in (*run.optimizer.param_groups, *saved["param_groups"]):
                    group.update(change)
                fresh = Run(subject, base | change | switch)
                for p, old in zip(fresh.params, start, strict=True):
                    p.data.copy_(old)
                fresh.optimizer.load_state_dict(saved)
                fresh.taken = run.taken
                run.step(3)
                fresh.step(3)
                check_equal(run, fresh, "an option changed between two steps")


def _halved(value: Any) -> Any:
    return type(value)(_halved(x) for x in value) if isinstance(value, (tuple, list)) else value / 2


@check
def a_learning_rate_of_zero_moves_nothing(subject: Subject) -> None:
    """Made with a learning rate of zero and no weight decay, it leaves the parameters where they
    are."""
    subject.need("lr")
    still = {n: 0.0 for n in ("lr", "weight_decay") if subject.has(n)}
    for options in each_way(subject):
        options = options | still
        if not _rate_matters(subject, options):
            skip("reads the learning rate at the first step only, or never")
        if error_of(partial(subject.make, parameters(subject.shapes), **options)):
            skip("does not take a learning rate of zero")
        with circumstances(options=describe(options)):
            run = Run(subject, options)
            start = run.snapshot()["parameters"]
            run.step(4)
            for i, (p, old) in enumerate(zip(run.params, start, strict=True)):
                assert_same(
                    p.detach() == old,
                    torch.ones_like(old, dtype=torch.bool),
                    f"parameter {i} {tuple(p.shape)} moved with a learning rate of zero",
                )


def _rate_matters(subject: Subject, options: Options) -> bool:
    """Whether a learning rate changed after the first step changes what the next ones do."""
    runs = [Run(subject, options | {"lr": 0.1}) for _ in range(2)]
    for run, lr in zip(runs, (0.1, 0.05), strict=True):
        run.step()
        run.optimizer.param_groups[0]["lr"] = lr
        run.step(2)
    return not all(torch.equal(p, q) for p, q in zip(*[r.params for r in runs], strict=True))


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 7], 0.3),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.95),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, 6),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 10, 2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(
        o, 0.01, 0.1, step_size_up=3, cycle_momentum=_has_momentum(o)
    ),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(
        o, 0.1, total_steps=12, cycle_momentum=_has_momentum(o)
    ),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o,
        [lr_scheduler.LinearLR(o, 0.1, 1.0, 4), lr_scheduler.CosineAnnealingLR(o, 8)],
        milestones=[4],
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.5, 4), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
}
"""Every scheduler of ``torch.optim.lr_scheduler``."""


def _has_momentum(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it has what a cycle changes beside the learning rate."""
    return bool({"momentum", "betas"} & optimizer.defaults.keys())


@check
def follows_every_scheduler(subject: Subject) -> None:
    """Each scheduler of torch sets the learning rate, and momentum or beta1 if it cycles them, and
    the steps are those of the same numbers set by hand."""
    subject.need("lr")
    options = subject.typical | {"lr": 0.1}
    for name, make in SCHEDULERS.items():
        with circumstances(scheduler=name, options=describe(options)):
            run, by_hand = Run(subject, options), Run(subject, options)
            plain = torch.optim.SGD([torch.zeros(1)], lr=0.1)
            group = run.optimizer.param_groups[0]
            schedulers = [make(run.optimizer), make(plain)]
            cycled = set()
            for _ in range(8):
                rate, expected = group["lr"], plain.param_groups[0]["lr"]
                assert rate == expected, f"the learning rate is {rate}, not {expected}"
                for key in ("lr", "momentum", "betas"):
                    if key in group:
                        by_hand.optimizer.param_groups[0][key] = group[key]
                cycled.add((group.get("momentum"), group.get("betas")))
                run.step()
                by_hand.step()
                plain.step()
                for scheduler in schedulers:
                    metric = (1.0,) if name == "ReduceLROnPlateau" else ()
                    scheduler.step(*metric)
            _check_same_parameters(run, by_hand, f"driven by {name}")
            if name in ("CyclicLR", "OneCycleLR") and _has_momentum(run.optimizer):
                assert len(cycled) > 2, "neither momentum nor beta1 were cycled"


def _check_same_parameters(a: Run, b: Run, what: str) -> None:
    for i, (p, q) in enumerate(zip(a.params, b.params, strict=True)):
        assert_same_bits(p, q, f"{what}: parameter {i} {tuple(p.shape)}")


@check
def maximizes_by_the_negated_gradient(subject: Subject) -> None:
    """With ``maximize`` the steps are those of the negated gradients, to the bit."""
    subject.need("maximize")
    if subject.needs_closure:
        skip("evaluates a closure, whose loss would have to be negated too")
    for options in each(subject):
        with circumstances(options=describe(options)):
            up, down = (Run(subject, options | {"maximize": x}) for x in (True, False))
            for _ in range(3):
                up.step()
                down.step(factor=-1.0)
            check_equal(up, down, "maximize, and the negated gradient")


# ------------------------------------------------------------------ what is refused


@check
def refuses_parameters_that_are_none(subject: Subject) -> None:
    """A bare tensor, no parameter at all, something that is no tensor, a tensor that is no leaf and
    a parameter in two groups are refused, and a parameter given twice is warned of."""
    shape = next((s for s in subject.shapes if s), ())

    def leaf() -> Parameter:
        return Parameter(torch.ones(shape, device=subject.device))

    p = leaf()
    bad: dict[str, Any] = {
        "a tensor instead of a list": leaf(),
        "an empty list": [],
        "a list of numbers": [1.0, 2.0],
        "a group without params": [{"lr": 0.1}],
        "a parameter that is no leaf": [leaf() * 2],
        "a parameter in two groups": [{"params": [p]}, {"params": [p]}],
    }
    for what, params in bad.items():
        try:
            subject.make(params, **subject.typical)
        except (TypeError, ValueError, KeyError):
            continue
        if not (subject.needs_closure and isinstance(params, list) and isinstance(params[0], dict)):
            raise AssertionError(f"{what} is taken without an error")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        subject.make([p, p], **subject.typical)
    assert any("duplicate" in str(w.message) for w in caught), (
        "a parameter given twice is taken without a warning"
    )


@check
def a_refused_group_changes_nothing(subject: Subject) -> None:
    """``add_param_group`` refuses what is no group or holds a parameter that it has already, and
    leaves the optimizer as it was."""
    run = Run(subject)
    run.step(2)
    before = run.snapshot()
    shape = next((s for s in subject.shapes if s), ())
    for what, group in {
        "a list": [Parameter(torch.ones(shape))],
        "a group without params": {"lr": 0.1},
        "a set": {"params": {Parameter(torch.ones(shape))}},
        "a group of numbers": {"params": [1.0]},
        "a group of a parameter that it has": {"params": [run.params[0]]},
        "a group that names one of two": {
            "params": [("a", Parameter(torch.ones(shape))), Parameter(torch.ones(shape))]
        },
    }.items():
        try:
            run.optimizer.add_param_group(group)  # type: ignore[arg-type]
        except Exception:  # which one, torch does not promise for all of them
            run.check_unchanged(before, f"after {what} was refused")
        else:
            raise AssertionError(f"{what} is taken without an error")


_NEGATIVE: dict[str, float] = {"lr": -1.0, "eps": -1e-8, "weight_decay": -0.5, "momentum": -0.5}


def _bad(subject: Subject, values: dict[str, float], beta: float) -> list[tuple[Options, float]]:
    """Options with a value that makes no sense, of those that the class has as numbers."""
    found: list[tuple[Options, float]] = []
    for name, parameter in parameters_of(subject.cls).items():
        default = subject.typical.get(name, parameter.default)
        if name in values and isinstance(default, Real):
            found.append(({name: values[name]}, values[name]))
        elif name == "betas" and isinstance(default, (tuple, list)):
            for i in range(len(default)):
                if isinstance(default[i], Real):
                    found.append(({name: (*default[:i], beta, *default[i + 1 :])}, beta))
    if not found:
        skip("has no option whose range is known")
    return found


def _refuses(subject: Subject, values: dict[str, float], beta: float) -> None:
    for change, value in _bad(subject, values, beta):
        error = must_refuse(
            partial(subject.make, parameters(subject.shapes), **subject.typical | change),
            describe(change),
        )
        assert str(value) in str(error), (
            f"{describe(change)} is refused with a message that does not name the value: {error}"
        )


@check
def refuses_options_out_of_range(subject: Subject) -> None:
    """A negative learning rate, eps, weight decay, momentum or beta is refused, and the message
    names the value."""
    _refuses(subject, _NEGATIVE, -0.25)
    if subject.has("betas"):
        _refuses(subject, {}, 1.5)


@check
def refuses_options_that_are_not_finite(subject: Subject) -> None:
    """NaN and infinity are refused as a learning rate, weight decay, eps, momentum or beta, and the
    message names the value."""
    _refuses(subject, dict.fromkeys(_NEGATIVE, math.nan), math.nan)
    _refuses(subject, dict.fromkeys(("lr", "weight_decay"), math.inf), math.inf)


@check
def refuses_bad_options_of_a_group(subject: Subject) -> None:
    """What is refused as an option is refused as the option of a group too, when it is made or
    added, and changes nothing."""
    run = Run(subject)
    run.step(2)
    before = run.snapshot()
    shape = next((s for s in subject.shapes if s), ())
    for change, _ in _bad(subject, _NEGATIVE, -0.25):
        group = {"params": [Parameter(torch.ones(shape))], **change}
        what = f"a group with {describe(change)}"
        must_refuse(partial(subject.make, [dict(group)], **subject.typical), what)
        must_refuse(partial(run.optimizer.add_param_group, dict(group)), what)
        run.check_unchanged(before, f"after {what} was refused")
