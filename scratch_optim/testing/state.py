"""Checks of what a state dict holds: what the reference's holds, so that each loads the other's.

What needs no reference (copies, files, refusals) is checked in ``saved.py``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from .compare import assert_same, copied
from .kit import check, circumstances, skip
from .options import SWITCHES, Options, describe, parameters_of
from .subject import Pair, Subject, gradients, parameters

Make = Callable[..., torch.optim.Optimizer]


def _reference(subject: Subject) -> Any:
    """The reference class; leave a check of what only a replacement of it must do."""
    if not isinstance(subject.reference, type):
        skip("has no class as reference")
    if not subject.drop_in:
        skip("need not stand in for its reference (drop_in=False)")
    return subject.reference


def _extra(subject: Subject) -> set[str]:
    """Options that the reference has not."""
    return parameters_of(subject.cls).keys() - parameters_of(_reference(subject)).keys()


def _exchange(pair: Pair, targets: list[torch.optim.Optimizer]) -> None:
    """Let each of two optimizers load the state dict of the other one of a pair."""
    ours, other = [copy.deepcopy(optimizer.state_dict()) for optimizer in pair.optimizers]
    targets[0].load_state_dict(other)
    targets[1].load_state_dict(ours)
    for group in targets[1].param_groups:
        group.update({k: x for k, x in pair.subject.like.items() if k in group})
    pair.optimizers[:] = targets


@check
def state_dicts_are_exchanged_with_the_reference_in_mid_run(subject: Subject) -> None:
    """Each loads the other's state dict, newly made and in mid-run, and both go on with the same
    numbers, for any options and any way to run."""
    _reference(subject)

    def act(pair: Pair) -> None:
        pair.step(4)
        _exchange(pair, pair.fresh())
        pair.check()
        pair.step(3)
        pair.check()
        _exchange(pair, pair.optimizers)
        pair.check()
        pair.step(3)
        pair.check()

    for options in subject.options:
        with circumstances(options=describe(options)):
            act(subject.pair(options))
    subject.in_every_way(act)


@check
def the_state_dict_is_that_of_the_reference(subject: Subject) -> None:
    """A state dict has the keys and the values of the reference's, and in its groups at most more
    options."""
    _reference(subject)
    pair = subject.pair()
    pair.step(3)
    pair.check()
    ours, other = (optimizer.state_dict() for optimizer in pair.optimizers)
    assert ours.keys() == other.keys(), f"keys {[*ours]} where {[*other]} are expected"
    assert ours["state"].keys() == other["state"].keys(), "states of other parameters"
    for key, state in other["state"].items():
        mine = ours["state"][key]
        assert mine.keys() == state.keys(), (
            f"the state of parameter {key} has {sorted(mine)} where {sorted(state)} is expected"
        )
    for mine, theirs in zip(ours["param_groups"], other["param_groups"], strict=True):
        added = mine.keys() - theirs.keys() - _extra(subject)
        assert not added, f"the group has {sorted(added)} more than the reference's"
        for name, value in theirs.items():
            assert name in mine, f"the group lacks {name!r}"
            if name not in subject.like:
                assert_same(mine[name], value, f"the group's {name!r}")


@check
def a_loaded_state_has_the_dtype_of_its_parameter(subject: Subject) -> None:
    """A state loaded for parameters of another dtype is cast to it, and its step count is not, as
    by the reference."""
    _reference(subject)
    for dtype in (torch.float64, torch.bfloat16):
        if not subject.takes(dtype):
            continue
        with circumstances(dtype=dtype):
            pair, later = subject.pair(), subject.pair(dtype=dtype)
            pair.step(4)
            for fresh, optimizer in zip(later.optimizers, pair.optimizers, strict=True):
                fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            later.taken = pair.taken
            for p, q in zip(*later.params, strict=True):
                mine, other = later.optimizers[0].state[p], later.optimizers[1].state[q]
                for name, value in other.items():
                    # Numbers beside the step count (a product, a rate) torch rounds too.
                    if isinstance(value, Tensor) and (value.dim() or name == "step"):
                        later.compare(mine[name], value, f"the state {name!r} {tuple(p.shape)}")


@check
def step_counts_have_the_dtype_of_the_references(subject: Subject) -> None:
    """``state["step"]`` is a number, or a tensor of that dtype on that device, as in the reference,
    whatever the default dtype, fused or not."""
    known = parameters_of(_reference(subject))
    ways: list[Options] = [{}]
    if subject.has("fused") and "fused" in known:
        ways.append({"fused": True})
    for default in (torch.float32, torch.float64):
        torch.set_default_dtype(default)
        for way in ways:
            with circumstances(default=default, **way):
                pair = subject.pair(subject.typical | way)
                pair.step()
                kinds = [
                    [_kind(optimizer.state[p].get("step")) for p in params]
                    for optimizer, params in pair
                ]
                if kinds[1].count(None) == len(kinds[1]):
                    skip("counts no steps")
                assert kinds[0] == kinds[1], f"{kinds[0][0]} where {kinds[1][0]} is expected"


def _kind(step: Any) -> Any:
    if isinstance(step, Tensor):
        return step.dtype, tuple(step.shape), step.device.type, step.item()
    return None if step is None else (type(step), step)


@check
def a_step_count_that_is_a_python_number_is_taken(subject: Subject) -> None:
    """A state dict of an older version, whose step counts are numbers and no tensors, is taken as
    by the reference."""
    _reference(subject)
    for number in (4, 4.0):
        pair = subject.pair()
        pair.step(4)
        fresh = pair.fresh()
        for i, optimizer in enumerate(pair.optimizers):
            saved = copy.deepcopy(optimizer.state_dict())
            for state in saved["state"].values():
                if not isinstance(state.get("step"), Tensor):
                    skip("has no step counts that are tensors")
                state["step"] = number
            fresh[i].load_state_dict(saved)
        pair.optimizers[:] = fresh
        with circumstances(step=number):
            pair.check()
            pair.step(3)
            pair.check()


def _fills_in(make: Make, subject: Subject, option: str) -> bool:
    """Whether an optimizer gives a value to an option that the state dict it loads lacks."""
    optimizer = make(parameters(subject.shapes, device=subject.device), **subject.options[0])
    saved = optimizer.state_dict()
    saved["param_groups"][0].pop(option)
    try:
        optimizer.load_state_dict(saved)
    except Exception:  # whatever it raises, it does not take it
        return False
    return option in optimizer.param_groups[0]


@check
def a_state_dict_may_lack_options_that_came_later(subject: Subject) -> None:
    """A state dict, and a pickle, from before an option existed are taken where the reference takes
    them, with the value that the reference gives to the option."""
    _reference(subject)
    options = subject.options[0]
    group = subject.make_reference(parameters(subject.shapes), **options).param_groups[0]
    later = [
        name
        for name in group
        if name != "params" and _fills_in(subject.make_reference, subject, name)
    ]
    if not later:
        skip("the reference fills in nothing")
    for name in later:
        with circumstances(lacks=name):
            pair = subject.pair(options)
            pair.step(3)
            for optimizer in pair.optimizers:
                saved = copy.deepcopy(optimizer.state_dict())
                saved["param_groups"][0].pop(name)
                optimizer.load_state_dict(saved)
            mine, other = [optimizer.param_groups[0] for optimizer in pair.optimizers]
            if name not in SWITCHES:  # they say how, and change nothing of what is computed
                assert_same(mine.get(name), other.get(name), f"the group's {name!r}")
            pair.check()
            pair.step(2)
            pair.check()
    pair = subject.pair(options)
    pair.step(3)
    for i, optimizer in enumerate(pair.optimizers):
        unpickled = type(optimizer).__new__(type(optimizer))
        state = optimizer.__getstate__()
        for name in later:
            state["param_groups"][0].pop(name)
        unpickled.__setstate__(state)
        pair.optimizers[i] = unpickled
    with circumstances(pickle_lacks=", ".join(later)):
        pair.step(2)
        pair.check()


@check
def names_of_parameters_are_kept_as_by_the_reference(subject: Subject) -> None:
    """``param_names`` of an optimizer and of the state dict that it loads, if either has names, end
    as they do in the reference."""
    _reference(subject)
    makes = (subject.make, subject.make_reference)

    def built(make: Make, prefix: str) -> torch.optim.Optimizer:
        params = parameters(subject.shapes, device=subject.device)
        named = [(f"{prefix}{i}", p) for i, p in enumerate(params)]
        return make(named if prefix else params, **subject.typical)

    for before in ("", "new"):
        for saved in ("", "old"):
            names = []
            for make in makes:
                optimizer = built(make, before)
                optimizer.load_state_dict(built(make, saved).state_dict())
                groups = optimizer.param_groups, optimizer.state_dict()["param_groups"]
                names.append([group[0].get("param_names") for group in groups])
            assert names[0] == names[1], (
                f"names {names[0][0]} where {names[1][0]} are expected, after a state dict "
                f"{'with' if saved else 'without'} names was loaded"
            )


@check
def other_contents_of_a_state_dict_travel_as_in_the_reference(subject: Subject) -> None:
    """What users add to a state dict, nested or for no parameter at all, is loaded and saved again
    as by the reference."""
    _reference(subject)
    pair = subject.pair()
    pair.step(3)
    again = []
    for fresh, optimizer in zip(pair.fresh(), pair.optimizers, strict=True):
        saved = copy.deepcopy(optimizer.state_dict())
        saved["state"][0]["nested"] = {"row": [torch.ones(2), 1.5], "pair": (torch.zeros(1), None)}
        saved["state"]["global"] = {"temperature": 3, "tensor": torch.ones(2)}
        saved["param_groups"][0].update(name="all", initial_lr=0.25, lr_scale=[1, 2])
        fresh.load_state_dict(saved)
        last = fresh.state_dict()
        keys = ("name", "initial_lr", "lr_scale")
        again.append(
            {
                "state[0]['nested']": last["state"][0].get("nested"),
                "state['global']": last["state"].get("global"),
                **{f"param_groups[0][{k!r}]": last["param_groups"][0].get(k) for k in keys},
            }
        )
    assert_same(again[0], again[1], "a state dict loaded and saved again")


@check
def loading_other_groups_raises_the_error_of_the_reference(subject: Subject) -> None:
    """A state dict with more or fewer groups, or parameters in them, is refused in the reference's
    words."""
    _reference(subject)
    spoilers: dict[str, Callable[[list[Any]], Any]] = {
        "no groups": lambda groups: groups.clear(),
        "a group more": lambda groups: groups.append(copy.deepcopy(groups[0])),
        "a parameter less": lambda groups: groups[0]["params"].pop(),
        "a parameter more": lambda groups: groups[0]["params"].append(99),
    }
    for name, spoil in spoilers.items():
        errors = []
        for optimizer, _ in subject.pair():
            saved = copy.deepcopy(optimizer.state_dict())
            spoil(saved["param_groups"])
            try:
                optimizer.load_state_dict(saved)
            except Exception as error:
                errors.append(f"{type(error).__name__}: {error}")
            else:
                errors.append("no error")
        assert errors[0] == errors[1], f"{name}: {errors[0]} where {errors[1]} is expected"


@check
def a_distributed_checkpoint_has_the_keys_of_the_references(subject: Subject) -> None:
    """``torch.distributed.checkpoint`` makes the same state dict of it as of the reference."""
    _reference(subject)
    if not torch.distributed.is_available() or subject.needs_closure or subject.sparse:
        skip("distributed checkpoints take steps with dense gradients and no closure")
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    pair = subject.pair()
    for steps in (0, 2):
        pair.step(steps)
        ours, other = [
            dict[str, Any](get_optimizer_state_dict(torch.nn.ParameterList(params), optimizer))
            for optimizer, params in pair
        ]
        assert ours.keys() == other.keys()
        assert ours["state"].keys() == other["state"].keys(), "states of other parameters"
        for key, state in other["state"].items():
            mine = ours["state"][key]
            assert mine.keys() == state.keys(), f"{key}: {sorted(mine)}, not {sorted(state)}"


# ------------------------------------------------------------------ hooks


def _hook_calls(subject: Subject, make: Make) -> list[Any]:
    """Call all that has hooks, and return what the hooks saw, in order."""
    calls: list[Any] = []
    params = parameters(subject.shapes, device=subject.device)
    row = gradients(subject.shapes, device=subject.device)[0]
    grads = [subject.as_given(p, g) for p, g in zip(params, row, strict=True)]
    optimizer = make(params, **subject.typical)

    def note(name: str) -> Callable[..., None]:
        return lambda *args: calls.append((name, len(args)))

    handles = [
        register_optimizer_step_pre_hook(note("global pre")),
        register_optimizer_step_post_hook(note("global post")),
        optimizer.register_step_pre_hook(note("step pre")),
        optimizer.register_step_post_hook(note("step post")),
    ]
    for when in ("last", "first"):
        first = when == "first"
        for place in ("state_dict_pre", "state_dict_post", "load_pre", "load_post"):
            full = place.replace("load", "load_state_dict")
            register = getattr(optimizer, f"register_{full}_hook")
            handles.append(register(note(f"{place}, {when}"), prepend=first))
    try:
        subject.take_step(optimizer, params, grads)
        optimizer.load_state_dict(optimizer.state_dict())
        twin = copy.deepcopy(optimizer)  # which has no hooks but those of all
        if not subject.needs_closure:  # a copy of torch.optim.LBFGS takes no step
            subject.take_step(twin, twin.param_groups[0]["params"], grads)
        twin.load_state_dict(twin.state_dict())
    finally:
        for handle in handles:
            handle.remove()
    calls.append("removed")
    subject.take_step(optimizer, params, grads)
    optimizer.load_state_dict(optimizer.state_dict())

    # A hook may edit the dict that it is handed, which is a shallow copy of what was passed.
    def edit(_: Any, loaded: dict[str, Any]) -> None:
        loaded["state"] = loaded.pop("old_state")

    saved = optimizer.state_dict()
    old = {"old_state": saved["state"], "param_groups": saved["param_groups"]}
    optimizer.register_load_state_dict_pre_hook(edit)
    optimizer.load_state_dict(old)
    calls.append((sorted(old), len(optimizer.state)))
    return calls


@check
def hooks_are_called_as_by_the_reference(subject: Subject) -> None:
    """All hooks are called in the order of the reference's, with as many arguments; a copy has
    none of them, and one that edits the dict to be loaded is heeded."""
    _reference(subject)
    ours, other = (_hook_calls(subject, make) for make in (subject.make, subject.make_reference))
    assert_same(copied(ours), copied(other), "calls of hooks")
