"""Checks of state dicts and copies: what they carry, share with nobody, and refuse."""

from __future__ import annotations

import copy
import io
import pickle
from functools import partial
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from .compare import assert_same, copied, epsilons
from .kit import check, circumstances, skip
from .options import describe
from .runs import Run, check_equal, must_refuse, tensors_in
from .subject import Subject


def _by_copy(saved: Any) -> Any:
    return copy.deepcopy(saved)


def _by_file(saved: Any) -> Any:
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def _by_pickle(saved: Any) -> Any:
    return pickle.loads(pickle.dumps(saved))


def _need_importable(subject: Subject) -> None:
    if "<locals>" in subject.cls.__qualname__:
        skip("the class is defined in a function, and cannot be pickled")


@check
def continues_from_a_state_dict(subject: Subject) -> None:
    """A new optimizer that loads a state dict, copied, pickled or read from a file of weights only,
    goes on as the old one would, to the bit; in float64 and bfloat16 too."""
    cases = [(options, torch.float32, _by_copy) for options in subject.options]
    cases += [(subject.typical, torch.float32, carry) for carry in (_by_file, _by_pickle)]
    wide = [x for x in (torch.float64, torch.bfloat16) if subject.takes(x)]
    cases += [(subject.typical, dtype, _by_copy) for dtype in wide]
    for options, dtype, carry in cases:
        with circumstances(options=describe(options), dtype=dtype, by=carry.__name__[4:]):
            run, fresh = (Run(subject, options, dtype) for _ in range(2))
            run.step(3)
            fresh.optimizer.load_state_dict(carry(run.optimizer.state_dict()))
            fresh.taken = run.taken
            for p, q in zip(run.params, fresh.params, strict=True):
                q.data.copy_(p)
            check_equal(fresh, run, "loaded")
            run.step(2)
            fresh.step(2)
            check_equal(fresh, run, "2 steps after it was loaded")


@check
def continues_as_a_copy(subject: Subject) -> None:
    """A deep copy of an optimizer, and one pickled, has parameters of its own, goes on to the bit,
    and leaves the original alone."""
    for way, duplicate in (("copy.deepcopy", copy.deepcopy), ("pickle", _by_pickle)):
        if way == "pickle":
            _need_importable(subject)
        with circumstances(by=way):
            run, twin = Run(subject), Run(subject)
            run.step(3)
            for group in run.optimizer.param_groups:
                if isinstance(group.get("lr"), Real):
                    group["lr"] /= 2  # no longer what it was made with
            twin.optimizer = duplicate(run.optimizer)
            groups = twin.optimizer.param_groups
            twin.params, twin.taken = [p for g in groups for p in g["params"]], run.taken
            before = run.snapshot()
            assert not any(p is q for p, q in zip(run.params, twin.params, strict=True)), (
                "the copy has the parameters of the original"
            )
            twin.step(3)
            run.check_unchanged(before, "the original, after its copy took steps")
            run.step(3)
            check_equal(twin, run, "the copy")


@check
def loading_shares_no_memory_with_the_dict(subject: Subject) -> None:
    """After ``load_state_dict`` nothing of the optimizer lies in the dict's memory, so that
    training on leaves the dict, and the optimizer it came from, as they were."""
    source, run = Run(subject), Run(subject)
    source.step(3)
    saved = source.optimizer.state_dict()
    kept, before = copied(saved), source.snapshot()
    run.optimizer.load_state_dict(saved)
    run.step(3)
    for group in run.optimizer.param_groups:
        for name in group.keys() & {"lr", "weight_decay"}:
            group[name] = 0.5
    assert_same(saved, kept, "the dict, after training on")
    source.check_unchanged(before, "the optimizer whose dict was loaded")
    addresses = {x.untyped_storage().data_ptr() for x in tensors_in(saved) if x.numel()}
    for i, state in enumerate(run.states()):
        for name, value in state.items():
            for x in tensors_in(value):
                assert not x.numel() or x.untyped_storage().data_ptr() not in addresses, (
                    f"state {name!r} of parameter {i} lies in the memory of the dict"
                )


@check
def refuses_a_state_dict_of_other_groups(subject: Subject) -> None:
    """A state dict with another number of groups, or with groups of other sizes, is refused, and
    changes nothing."""
    run = Run(subject)
    run.step(3)
    before = run.snapshot()

    def fewer(groups: list[Any]) -> None:
        groups.clear()

    def more(groups: list[Any]) -> None:
        groups.append(copy.deepcopy(groups[0]))

    def shorter(groups: list[Any]) -> None:
        groups[0]["params"].pop()

    def longer(groups: list[Any]) -> None:
        groups[0]["params"].append(99)

    for spoil in (fewer, more, shorter, longer):
        saved = copy.deepcopy(run.optimizer.state_dict())
        spoil(saved["param_groups"])
        what = f"a state dict with {spoil.__name__} groups or parameters"
        must_refuse(partial(run.optimizer.load_state_dict, saved), what)
        run.check_unchanged(before, f"after {what} was refused")


def _takes(run: Run, saved: Any, what: str) -> bool:
    """Whether a state dict is loaded; if it is refused, with a message, nothing must change."""
    before = run.snapshot()
    refusal: Exception | None = None
    try:
        run.optimizer.load_state_dict(saved)
    except Exception as error:  # whatever it raises, it does not take it
        refusal = error
    if refusal is None:
        return True
    assert str(refusal), f"{what} is refused without a message"
    run.check_unchanged(before, f"after {what} was refused")
    return False


def _must_step(run: Run, what: str) -> None:
    """Raise unless a step can be taken after what was loaded."""
    try:
        run.step()
    except Exception as error:
        raise AssertionError(
            f"{what} is taken, and the next step fails with {type(error).__name__}: {error}"
        ) from error


@check
def refuses_a_state_that_does_not_fit(subject: Subject) -> None:
    """A state of another shape, or one that lacks what the next step needs, is refused when it is
    loaded, and changes nothing."""
    run = Run(subject)
    run.step(3)
    places = [
        (key, name)
        for key, state in run.optimizer.state_dict()["state"].items()
        if isinstance(state, dict)
        for name, x in state.items()
        if isinstance(x, Tensor) and x.dim()
    ]
    if not places:
        skip("keeps no tensors for a parameter")
    for key, name in (places[0], places[-1]):
        for spoil in ("of shape (3, 5, 2)", "missing"):
            what = f"a state {name!r} {spoil} of parameter {key}"
            spoilt = Run(subject)
            spoilt.step(3)
            saved = copy.deepcopy(spoilt.optimizer.state_dict())
            if spoil == "missing":
                del saved["state"][key][name]
            else:
                saved["state"][key][name] = torch.full((3, 5, 2), 0.5)
            if not _takes(spoilt, saved, what):
                continue
            assert spoil == "missing", f"{what} is taken without an error"
            _must_step(spoilt, what)  # which may make it anew


@check
def refuses_groups_that_lack_options(subject: Subject) -> None:
    """A state dict whose groups lack an option is refused when it is loaded, and changes nothing,
    or it is taken and the next step can do without the option."""
    for name in Run(subject).optimizer.defaults:
        run = Run(subject)
        run.step(3)
        saved = copy.deepcopy(run.optimizer.state_dict())
        for group in saved["param_groups"]:
            group.pop(name, None)
        what = f"a state dict without {name!r} in its groups"
        if _takes(run, saved, what):
            _must_step(run, what)


@check
def keeps_other_keys_of_groups_and_states(subject: Subject) -> None:
    """Keys that users and schedulers add to a group or to a state survive steps, state dicts and
    copies."""
    run = Run(subject)
    run.step(2)
    extra = {"name": "head", "lr_scale": 0.5, "initial_lr": 0.25, "layers": [1, 2]}
    run.optimizer.param_groups[0].update(extra)
    run.optimizer.state[run.params[0]]["note"] = 3
    run.step(2)
    fresh = Run(subject)
    fresh.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
    for what, optimizer in (
        ("after a step", run.optimizer),
        ("after it was loaded", fresh.optimizer),
        ("in a copy", copy.deepcopy(run.optimizer)),
    ):
        group = optimizer.param_groups[0]
        assert_same({k: group.get(k) for k in extra}, extra, f"the group's keys {what}")
        note = optimizer.state[group["params"][0]].get("note")
        assert note == 3, f"a number in the state of parameter 0, which was 3, is {note!r} {what}"


@check
def distributed_checkpoints_leave_parameters_as_they_are(subject: Subject) -> None:
    """``get_optimizer_state_dict`` makes a state by steps with a learning rate and gradients of
    zero: parameters and options are as before, and what it saves is taken again."""
    if not torch.distributed.is_available():
        skip("torch was built without distributed")
    if subject.needs_closure or subject.sparse:
        skip("takes no step with dense gradients alone, by which a checkpoint makes the state")
    from torch.distributed.checkpoint.state_dict import (
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    run = Run(subject)
    model = torch.nn.ParameterList(run.params)
    before = run.snapshot()
    get_optimizer_state_dict(model, run.optimizer)
    after = run.snapshot()
    for i, (p, old) in enumerate(zip(run.params, before["parameters"], strict=True)):
        apart = epsilons(p, old)
        assert apart <= 4, f"parameter {i} moved by {apart:.3g} epsilons of its largest value"
    rates = [[group.get("lr") for group in x["groups"]] for x in (before, after)]
    assert rates[1] == rates[0], f"the learning rates are {rates[1]}, and were {rates[0]}"
    run.step(3)
    twin = Run(subject)
    twin.step(3)
    before = run.snapshot()
    saved = copy.deepcopy(get_optimizer_state_dict(model, run.optimizer))
    run.check_unchanged(before, "after a checkpoint in mid-run")
    set_optimizer_state_dict(model, run.optimizer, saved)
    assert_same(run.snapshot()["state"], before["state"], "the state, after it was restored")
