"""Checks of what scripts rely on beside the numbers: repr, subclasses, hooks, the profiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from .compare import assert_same
from .kit import check, skip
from .runs import Run, check_equal, each_way
from .subject import Subject


@check
def repr_shows_the_options(subject: Subject) -> None:
    """``repr`` names the class and shows every option of every group."""
    optimizer = Run(subject).optimizer
    text = repr(optimizer)
    assert text.startswith(type(optimizer).__name__), f"repr does not begin with the name: {text}"
    for name, value in optimizer.param_groups[0].items():
        assert name == "params" or f"{name}: {value}" in text, f"repr lacks {name}: {value}: {text}"


@check
def a_group_has_all_defaults(subject: Subject) -> None:
    """``defaults`` holds the options, and every group has all of them, its own or the default."""
    typical = subject.typical
    run = Run(subject, make=lambda ps, **o: subject.make([{"params": ps}], **o))
    group = run.optimizer.param_groups[0]
    absent = run.optimizer.defaults.keys() - group.keys()
    assert not absent, f"the group lacks {sorted(absent)}, for which there are defaults"
    for name, value in typical.items():
        if name in group:
            assert_same(_as_tuple(group[name]), _as_tuple(value), f"the group's {name}")


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@check
def a_subclass_may_have_a_step_of_its_own(subject: Subject) -> None:
    """A subclass whose ``step`` calls the inherited one twice takes two steps."""

    class Twice(subject.cls):  # type: ignore[name-defined]
        def step(self, closure: Any = None) -> Any:
            super().step(closure)
            return super().step(closure)

    double = Run(subject, make=Twice)
    once = Run(subject)
    for _ in range(3):
        double.step()
        once.step()
        once.taken -= 1
        once.step()
    check_equal(double, once, "two steps in one")


@check
def calls_hooks(subject: Subject) -> None:
    """Hooks, of one optimizer and of all, are called around a step, around saving and around
    loading, until they are removed; what they return replaces arguments and dicts."""
    run = Run(subject)
    run.step()
    optimizer = run.optimizer
    calls: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_: calls.append(name)

    handles = [
        register_optimizer_step_pre_hook(note("step pre, of all")),
        register_optimizer_step_post_hook(note("step post, of all")),
        optimizer.register_step_pre_hook(note("step pre")),
        optimizer.register_step_post_hook(note("step post")),
        optimizer.register_state_dict_pre_hook(note("state_dict pre")),
        optimizer.register_state_dict_post_hook(note("state_dict post")),
        optimizer.register_load_state_dict_pre_hook(note("load pre")),
        optimizer.register_load_state_dict_post_hook(note("load post")),
    ]
    try:
        run.step()
        _check_hooks_of_a_step(subject, calls)
        calls.clear()
        optimizer.load_state_dict(optimizer.state_dict())
        expected = ["state_dict pre", "state_dict post", "load pre", "load post"]
        assert calls == expected, f"saving and loading called {calls}, not {expected}"
    finally:
        for handle in handles:
            handle.remove()
    calls.clear()
    run.step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert not calls, f"hooks that had been removed were called: {calls}"
    _check_replacements(subject)


def _wrapped_steps(subject: Subject) -> int:
    """How many steps torch has wrapped that call each other: that of a class and, if it calls them,
    those that it inherits. Each calls the hooks, and is seen by the profiler."""
    return sum(hasattr(vars(c).get("step"), "hooked") for c in subject.cls.__mro__)


def _check_hooks_of_a_step(subject: Subject, calls: list[str]) -> None:
    most = _wrapped_steps(subject)
    for name in ("step pre", "step pre, of all", "step post", "step post, of all"):
        count = calls.count(name)
        assert 1 <= count <= most, f"a step called the hook {name!r} {count} times: {calls}"
    first = [name.startswith("step pre") for name in calls]
    assert first[:2] == [True, True], f"a step called its hooks in the order {calls}"


def _check_replacements(subject: Subject) -> None:
    run = Run(subject)
    if not subject.needs_closure:
        handle = run.optimizer.register_step_pre_hook(
            lambda optimizer, args, kwargs: ((optimizer, lambda: 7.0), {})
        )
        returned = run.optimizer.step()
        assert returned == 7.0, f"a step pre-hook's arguments were not used: step gave {returned!r}"
        handle.remove()
    run.step()
    run.optimizer.register_state_dict_post_hook(lambda _, saved: {**saved, "version": 3})
    saved = run.optimizer.state_dict()
    assert saved.get("version") == 3, "the dict that a post-hook of state_dict returned is not used"

    def rename(_: Any, loaded: dict[str, Any]) -> dict[str, Any]:
        group = {**loaded["param_groups"][0], "name": "renamed"}
        return {**loaded, "param_groups": [group]}

    run.optimizer.register_load_state_dict_pre_hook(rename)
    run.optimizer.load_state_dict(saved)
    name = run.optimizer.param_groups[0].get("name")
    assert name == "renamed", "the dict that a pre-hook of load_state_dict returned is not used"


@check
def zero_grad_clears_gradients(subject: Subject) -> None:
    """``zero_grad`` sets gradients to None, or to zeros in place if it is told to."""
    if subject.sparse:
        skip("takes sparse gradients")
    for options in each_way(subject):
        run = Run(subject, options)
        run.step()
        grads = [p.grad for p in run.params]
        run.optimizer.zero_grad(set_to_none=False)
        for i, (p, g) in enumerate(zip(run.params, grads, strict=True)):
            assert p.grad is g, f"the gradient of parameter {i} was replaced, not set to zero"
            assert g is not None
            assert not g.any(), f"the gradient of parameter {i} is not zero"
        run.optimizer.zero_grad()
        assert all(p.grad is None for p in run.params), "zero_grad() left a gradient"


@check
def the_profiler_sees_its_name(subject: Subject) -> None:
    """A step is recorded as ``Optimizer.step#Class.step``, with the name of the class, and
    ``zero_grad`` likewise."""
    run = Run(subject)
    run.step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run.step()
        run.optimizer.zero_grad()
    names = [event.name for event in profile.events()]
    for act, most in (("step", _wrapped_steps(subject)), ("zero_grad", 1)):
        expected = f"Optimizer.{act}#{subject.cls.__name__}.{act}"
        count = names.count(expected)
        assert 1 <= count <= most, f"the profiler saw {expected!r} {count} times"
