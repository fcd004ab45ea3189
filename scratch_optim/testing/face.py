"""Checks of the face: signature, groups, messages, and the parts of torch that see an optimizer.

Most are asked only of a class that must stand in for its reference (``drop_in``). What needs no
reference is checked in ``groups.py`` and ``manners.py``.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from .compare import assert_same
from .groups import SCHEDULERS
from .kit import check, circumstances, skip
from .midrun import _after, _dtype
from .options import Options, describe, parameters_of, required
from .state import Make, _extra, _reference
from .subject import Pair, Subject, gradients, parameters


def _originals(subject: Subject) -> tuple[Make, Make]:
    """What makes the subject and its reference as they are, whatever ``like`` says."""
    return subject.make, _reference(subject)


def _parameters(subject: Subject) -> list[Parameter]:
    return parameters(subject.shapes, device=subject.device)


def _error_of(act: Callable[[], Any]) -> Exception | None:
    try:
        act()
    except Exception as error:  # which one is what is compared
        return error
    return None


def _said(error: Exception | None) -> str:
    return "no error" if error is None else f"{type(error).__name__}: {error}"


# ------------------------------------------------------------------ the signature


@check
def the_signature_begins_as_the_references(subject: Subject) -> None:
    """The arguments are those of the reference, in its order, of its kinds and with its defaults;
    more may only be keywords with a default, wherever they stand."""
    _reference(subject)
    ours, other = (
        [p.replace(annotation=p.empty) for p in inspect.signature(make).parameters.values()]
        for make in (subject.cls, _reference(subject))
    )
    extra = _extra(subject)
    mine = [str(p) for p in ours if p.name not in extra]
    assert mine == [str(p) for p in other], f"{mine} where {[str(p) for p in other]} is expected"
    kinds = [(p.name, p.kind) for p in ours if p.name not in extra]
    assert kinds == [(p.name, p.kind) for p in other], "arguments of other kinds"
    for p in ours:
        if p.name in extra:
            assert p.kind is p.KEYWORD_ONLY, f"{p.name} may be given by position"
            assert p.default is not p.empty, f"{p.name} has no default"


@check
def step_and_zero_grad_have_the_signatures_of_the_references(subject: Subject) -> None:
    """``step``, ``zero_grad``, ``add_param_group`` and ``load_state_dict`` take the arguments of
    the reference's, with its defaults."""
    _reference(subject)
    for name in ("step", "zero_grad", "add_param_group", "load_state_dict", "state_dict"):
        ours, other = (
            [(p.name, p.default) for p in inspect.signature(getattr(c, name)).parameters.values()]
            for c in (subject.cls, _reference(subject))
        )
        assert ours == other, f"{name} takes {ours} where {other} is expected"


@check
def options_may_be_given_by_position(subject: Subject) -> None:
    """Options by position are those that the reference takes them for."""
    reference = _reference(subject)
    known = parameters_of(reference).values()
    values = [
        required(subject.cls).get(p.name, p.default)
        for p in known
        if p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    # Each another number than the default, if it may be, so that two that change places show.
    for step in (-1 / 16, 1 / 16, 0.0):
        given = [x * (1 + i * step) if isinstance(x, float) else x for i, x in enumerate(values)]
        if _error_of(lambda given=given: reference(_parameters(subject), *given)) is None:  # type: ignore[misc]
            break
    makes: list[Any] = [subject.cls, reference]
    optimizers = [make(_parameters(subject), *given) for make in makes]
    for name, value in optimizers[1].defaults.items():
        assert_same(optimizers[0].defaults.get(name), value, f"the option {name!r}")


@check
def it_is_an_optimizer_of_torch(subject: Subject) -> None:
    """It is a ``torch.optim.Optimizer``, as other libraries ask before they take one, and its state
    is a ``defaultdict`` of dicts."""
    optimizer = subject.make(_parameters(subject), **subject.typical)
    assert isinstance(optimizer, torch.optim.Optimizer), f"{subject.cls} is none"
    factory = getattr(optimizer.state, "default_factory", None)
    assert factory is dict, f"the state's default_factory is {factory}"
    if subject.drop_in and isinstance(subject.reference, type):
        names = subject.cls.__name__, subject.reference.__name__
        assert names[0] == names[1], f"it is called {names[0]}, not {names[1]}"


@check
def repr_is_that_of_the_reference(subject: Subject) -> None:
    """``repr`` is the reference's, but for options that the reference has not."""
    _reference(subject)
    for options in (required(subject.cls), subject.typical):
        lines = [
            repr(make(_parameters(subject), **options)).splitlines() for make in _originals(subject)
        ]
        extra = tuple(f"    {name}:" for name in _extra(subject))
        mine = [line for line in lines[0] if not line.startswith(extra)] if extra else lines[0]
        assert mine == lines[1], "\n".join(["repr is", *mine, "where this is expected", *lines[1]])


@check
def defaults_and_groups_have_the_options_of_the_references(subject: Subject) -> None:
    """``defaults`` and groups hold the reference's options in its order; a group without an option
    has the default, also one that is added later."""
    _reference(subject)
    extra = _extra(subject)
    optimizers = []
    for make in _originals(subject):
        first, *rest = _parameters(subject)
        groups: list[Any] = [{"params": first}]
        if not subject.needs_closure:  # which takes one group only
            groups[0]["lr"] = 0.5
            groups.append({"params": rest[:1]})
        optimizer = make(groups, **required(subject.cls))
        if not subject.needs_closure:
            optimizer.add_param_group({"params": iter(rest[1:]), "name": "late"})
        optimizers.append(optimizer)
    ours, other = optimizers
    pairs = zip(
        [ours.defaults, *ours.param_groups], [other.defaults, *other.param_groups], strict=True
    )
    for i, (mine, theirs) in enumerate(pairs):
        what = f"group {i - 1}" if i else "defaults"
        names = [name for name in mine if name not in extra]
        assert sorted(names) == sorted(theirs), f"{what}: {names} where {[*theirs]} is expected"
        assert i or names == [*theirs], f"defaults come as {names} where {[*theirs]} is expected"
        for name in theirs.keys() - {"params"}:
            assert_same(mine[name], theirs[name], f"{what}: {name!r}")
        assert len(mine.get("params", ())) == len(theirs.get("params", ())), what


# ------------------------------------------------------------------ what is refused

_BETAS = (torch.tensor(0.8), torch.tensor(0.99))

_RATES: list[Any] = [-1, -1e-9, 0.0, torch.tensor([0.1, 0.2]), "0.1", None, [0.1], {}]

BAD_OPTIONS: list[Options] = [
    *[{"lr": x} for x in _RATES],
    {"lr": torch.tensor(0.1), "foreach": True},
    *[{"weight_decay": x} for x in (-0.5, -1e-9)],
    *[{"eps": x} for x in (-1e-8, -1e-10, 0.0, (-1e-3, 1e-3), (None, -1e-3))],
    *[{"betas": x} for x in ((1.0, 0.9), (-0.1, 0.9), (0.9, 1.0), (0.9, -0.1))],
    *[{"betas": x} for x in ((0.9, _BETAS[1]), (_BETAS[0], 0.99))],
    {"betas": _BETAS, "foreach": True},
    {"momentum": -0.5},
    {"nesterov": True},
    {"nesterov": True, "momentum": 0},
    {"nesterov": True, "momentum": 0.9, "dampening": 0.1},
    {"alpha": -0.1},
    *[{"rho": x} for x in (1.1, -0.1)],
    {"lr_decay": -0.5},
    {"momentum_decay": -0.2},
    {"initial_accumulator_value": -0.1},
    {"lambd": -0.1},
    *[{"etas": x} for x in ((1.0, 1.2), (0.0, 1.2), (0.5, 1.0))],
    {"beta2_decay": 0.1},
    {"d": 0.5},
    {"trust_coefficient": -1.0},
    {"phi": (2.0, 1.0)},
    {"fused": True, "foreach": True},
    {"fused": True, "differentiable": True},
    {"ns_steps": 100},
    {"ns_coefficients": (1.0, 2.0)},
    {"adjust_lr_fn": "none"},
]
"""Options that some optimizer refuses."""


@check
def options_are_refused_in_the_references_words(subject: Subject) -> None:
    """Options that the reference refuses, when it is made or in the first step, raise the same
    error with the same message; those on which it stumbles are refused too."""
    _reference(subject)
    known = parameters_of(subject.cls).keys() - _extra(subject)
    for options in BAD_OPTIONS:
        if not options.keys() <= known:
            continue
        ours, other = (
            _made_with(subject, make, required(subject.cls) | options)
            for make in _originals(subject)
        )
        with circumstances(options=describe(options)):
            if other is not None and not _stumbled(other):
                assert _said(ours) == _said(other), (
                    f"{_said(ours)} where {_said(other)} is expected"
                )
            elif isinstance(other, TypeError) and not isinstance(options.get("betas"), tuple):
                assert isinstance(ours, (TypeError, ValueError)), (
                    f"{_said(ours)} where {_said(other)} is expected"
                )


def _made_with(subject: Subject, make: Make, options: Options) -> Exception | None:
    return subject.step_error(
        lambda params, **_: make(params, **options), subject.shapes[0], sparse=subject.sparse
    )


def _stumbled(error: Exception) -> bool:
    """Whether an error comes from within an operation, and was not raised by a check."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    line = None if place is None else inspect.getframeinfo(place).code_context
    return line is None or "raise" not in line[0]


def _bad_params(leaf: Callable[[], Parameter]) -> dict[str, Callable[[], Any]]:
    def in_two_groups() -> Any:
        p = leaf()
        return [{"params": [p]}, {"params": [p]}]

    return {
        "a tensor": leaf,
        "an empty list": list,
        "numbers": lambda: [1, 2],
        "a group without params": lambda: [{"lr": 0.1}],
        "a set in a group": lambda: [{"params": {leaf()}}],
        "not a leaf": lambda: [leaf() * 2],
        "a group and a tensor": lambda: [{"params": [leaf()]}, leaf()],
        "a tensor and a group": lambda: [leaf(), {"params": [leaf()]}],
        "names for some": lambda: [("a", leaf()), leaf()],
        "None": lambda: None,
        "a parameter in two groups": in_two_groups,
        "names in some groups": lambda: [{"params": [("a", leaf())]}, {"params": [leaf()]}],
        "a set": lambda: {leaf()},
        "a parameter twice": lambda: (lambda p: [p, p])(leaf()),
    }


@check
def parameters_are_refused_in_the_references_words(subject: Subject) -> None:
    """Parameters that the reference refuses, or warns of, get the same error, message and
    warning."""
    _reference(subject)
    base = required(subject.cls)

    def leaf() -> Parameter:
        return parameters(subject.shapes[:1], device=subject.device)[0]

    for name, build in _bad_params(leaf).items():
        errors, warned = [], []
        for make in _originals(subject):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                errors.append(_error_of(lambda m=make, b=build: m(b(), **base)))  # type: ignore[misc]
            warned.append([(w.category.__name__, str(w.message)) for w in caught])
        with circumstances(params=name):
            ours, other = errors
            assert type(ours) is type(other), f"{_said(ours)} where {_said(other)} is expected"
            if " at 0x" not in str(other):
                assert str(ours) == str(other), f"{_said(ours)} where {_said(other)} is expected"
            assert warned[0] == warned[1], f"warnings {warned[0]} where {warned[1]} are expected"


@check
def non_leaves_are_taken_if_differentiable(subject: Subject) -> None:
    """A tensor that is no leaf is taken with ``differentiable=True``, if the reference takes it."""
    _reference(subject)
    subject.need("differentiable")
    errors = [
        _error_of(
            lambda make=make: make(  # type: ignore[misc]
                [p * 2 for p in _parameters(subject)],
                **required(subject.cls),
                differentiable=True,
            )
        )
        for make in _originals(subject)
    ]
    assert errors[0] is None or errors[1] is not None, _said(errors[0])


def _begins_as(ours: Exception | None, other: Exception | None) -> bool:
    """Whether two errors are of a type and their messages begin with the same twenty letters.

    What follows may name the devices of the machine, or what is kept on them.
    """
    return type(ours) is type(other) and str(ours)[:20] == str(other)[:20]


@check
def a_way_that_cannot_be_gone_is_refused_as_by_the_reference(subject: Subject) -> None:
    """``capturable`` on a device that captures nothing, and ``fused`` with integers, are refused at
    the first step, with the reference's error."""
    known = parameters_of(_reference(subject))
    device = subject.device
    p = torch.ones(2, 3, dtype=torch.int64, device=device)
    cases: list[tuple[Options, Tensor]] = [
        ({"capturable": True, "foreach": False}, parameters(subject.shapes[:1], device=device)[0]),
        ({"fused": True}, p),
    ]
    asked = False
    for options, theta in cases:
        if not all(name in known and subject.has(name) for name in options):
            continue
        asked = True
        errors = []
        for make in _originals(subject):
            theta.grad = torch.ones_like(theta)
            errors.append(_error_of(lambda m=make, o=options, t=theta: m([t], **o).step()))  # type: ignore[misc]
        if errors[1] is not None:
            assert _begins_as(*errors), (
                f"{describe(options)}: {_said(errors[0])} where {_said(errors[1])} is expected"
            )
    if not asked:
        skip("has neither capturable nor fused")


@check
def gradients_are_refused_in_the_references_words(subject: Subject) -> None:
    """Sparse, dense and complex gradients that the reference refuses are refused with the same
    error and message."""
    _reference(subject)
    if subject.needs_closure:
        skip("its step takes a closure")
    shape = next((s for s in subject.shapes if len(s) == 2), subject.shapes[0])
    for sparse in (True, False):
        for dtype in (torch.float32, torch.complex64):
            for options in (required(subject.cls), subject.typical):
                ours, other = (
                    subject.step_error(
                        lambda params, make=make, options=options, **_: make(params, **options),
                        shape,
                        dtype,
                        sparse,
                    )
                    for make in _originals(subject)
                )
                if other is None or _stumbled(other):
                    continue
                with circumstances(options=describe(options), sparse=sparse, dtype=dtype):
                    assert _said(ours) == _said(other), (
                        f"{_said(ours)} where {_said(other)} is expected"
                    )


# ------------------------------------------------------------------ options that are tensors


@check
def options_that_are_tensors_do_what_they_do_in_the_reference(subject: Subject) -> None:
    """A learning rate or betas as tensors, of one dimension or none, give the reference's numbers
    in every way and dtype, are left as they are, and are refused where the reference refuses
    them."""
    _reference(subject)
    if subject.needs_closure:
        skip("its step takes a closure")
    lr = subject.typical.get("lr", 0.1)
    betas = (torch.tensor(0.8), torch.tensor(0.99))
    known = parameters_of(_reference(subject))
    cases: list[Options] = [
        {"lr": torch.tensor(lr)},
        {"lr": torch.tensor([lr])},
        {"lr": torch.tensor(lr, dtype=torch.float64)},
        {"betas": betas},
        {"lr": torch.tensor(lr), "betas": betas},
        {"betas": (torch.tensor([0.8]), torch.tensor([0.99]))},
    ]
    dtypes = [d for d in (torch.float32, torch.float64, torch.bfloat16) if subject.takes(d)]
    if subject.sparse:  # torch's sparse steps round such a learning rate to the parameters' dtype
        dtypes.remove(torch.bfloat16)
    for options in cases:
        if not all(n in known and "Tensor" in str(known[n].annotation) for n in options):
            continue  # it does not say that it takes one
        for dtype in dtypes:
            if dtype != torch.float32 and "betas" in options:
                continue  # torch computes with them in the dtype of the parameters, or of theirs

            def act(pair: Pair, options: Options = options) -> None:
                kept = {n: [x.clone() for x in _flat(options[n])] for n in options}
                pair.step(6)
                pair.check()
                for name, value in options.items():
                    for x, old in zip(_flat(value), kept[name], strict=True):
                        assert_same(x, old, f"{name} after a step")
                if "lr" in options:
                    given = pair.optimizers[0].param_groups[0]["lr"]
                    assert given is options["lr"], "lr is no longer the tensor that was given"

            for way, switch in subject.ways.items():
                if switch.get("foreach"):
                    continue
                with circumstances(options=describe(options), way=way, dtype=dtype):
                    whole = subject.typical | options | switch
                    refused = [
                        subject.step_error(
                            lambda params, m=make, **_: m(params, **whole),  # noqa: B023
                            subject.shapes[0],
                            dtype,
                            subject.sparse,
                        )
                        for make in (subject.make, subject.make_reference)
                    ]
                    if refused[1] is not None:
                        continue
                    assert refused[0] is None, _said(refused[0])
                    act(subject.pair(whole, dtype=dtype))


def _flat(value: Any) -> list[Tensor]:
    return list(value) if isinstance(value, tuple) else [value]


# ------------------------------------------------------------------ what else sees an optimizer


@check
def schedulers_change_a_tensor_as_in_the_reference(subject: Subject) -> None:
    """Every scheduler of torch, driving a learning rate that is a tensor, gives the numbers of the
    reference, and the same options in its group."""
    _reference(subject)
    subject.need("lr")
    for name, schedule in SCHEDULERS.items():
        with circumstances(scheduler=name):
            pair = subject.pair()
            for i in range(2):
                # A tensor each: a scheduler changes it in place.
                lr = torch.tensor(0.1, device=subject.device)
                try:
                    pair.optimizers[i] = pair.fresh(lr=lr)[i]
                except (ValueError, TypeError) as error:
                    skip(f"does not take a tensor as learning rate: {error}")
            schedulers = [schedule(optimizer) for optimizer in pair.optimizers]
            for _ in range(10):
                pair.step()
                for scheduler in schedulers:
                    scheduler.step(*[1.0] * (name == "ReduceLROnPlateau"))
                ours, other = (optimizer.param_groups[0] for optimizer in pair.optimizers)
                for key in ("lr", "momentum", "betas", "initial_lr", "max_lr"):
                    assert_same(ours.get(key), other.get(key), f"the group's {key!r}")
            pair.check()


@check
def clipping_and_averaging_work_beside_it(subject: Subject) -> None:
    """``clip_grad_norm_`` before and ``AveragedModel`` after each step give what they give with the
    reference."""
    if subject.sparse:
        skip("takes sparse gradients only")
    pair = subject.pair(dtype=_dtype(subject))
    lists = [torch.nn.ParameterList(params) for params in pair.params]
    averages = [torch.optim.swa_utils.AveragedModel(x) for x in lists]
    for row in gradients(pair.shapes, pair.dtype, subject.device)[:5]:
        for (optimizer, params), own, average in zip(pair, lists, averages, strict=True):
            grads = [subject.as_given(p, g) for p, g in zip(params, row, strict=True)]
            for p, g in zip(params, grads, strict=True):
                p.grad = g
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            subject.take_step(optimizer, params, [p.grad for p in params])
            average.update_parameters(own)
        pair.taken += 1
    pair.check()
    for p, q in zip(averages[0].parameters(), averages[1].parameters(), strict=True):
        pair.compare(p, q, f"the average of the parameter {tuple(p.shape)}")


class _Named(Tensor):
    """A subclass that does nothing of its own."""


@check
def a_parameter_may_be_of_a_subclass_of_tensor(subject: Subject) -> None:
    """Parameters of a subclass of ``torch.Tensor`` are updated as others are, and stay of it."""

    def act(pair: Pair) -> None:
        for optimizer, params in pair:
            group = optimizer.param_groups[0]
            params[:] = [Parameter(p.detach().clone().as_subclass(_Named)) for p in params]
            group["params"] = [*params]
        pair.step(4)
        for i, (p, q) in enumerate(zip(*pair.params, strict=True)):
            assert isinstance(p, _Named), f"parameter {i} is of the class {type(p).__name__} now"
            plain = [x.detach().as_subclass(Tensor) for x in (p, q)]
            pair.compare(plain[0], plain[1], f"parameter {i} {tuple(p.shape)} of a subclass")

    if subject.needs_closure:
        skip("its parameters cannot be replaced")
    subject.in_every_way(act, dtype=_dtype(subject))


@check
def an_error_in_the_closure_is_passed_on_as_in_the_reference(subject: Subject) -> None:
    """A closure is evaluated as often as by the reference, its loss is returned, and both go on
    alike after it raised an error."""

    def fail() -> Any:
        raise KeyError("of the user")

    def raise_and_go_on(optimizer: torch.optim.Optimizer, _: Any) -> None:
        error = _error_of(lambda: optimizer.step(fail))
        assert isinstance(error, KeyError), f"{_said(error)} where the closure raises a KeyError"

    subject.in_every_way(_after(raise_and_go_on), dtype=_dtype(subject))
    results: list[Any] = []
    pair = subject.pair(dtype=_dtype(subject))
    for optimizer, params in pair:
        calls: list[int] = []

        def closure(optimizer: Any = optimizer, params: Any = params, calls: Any = calls) -> Any:
            calls.append(1)
            optimizer.zero_grad()
            loss: Any = sum([(p**2).sum() for p in params], torch.zeros((), dtype=pair.dtype))
            loss.backward()
            if subject.sparse:
                for p in params:
                    p.grad = p.grad.to_sparse(1)
            return loss

        with torch.no_grad():
            returned: list[Any] = [optimizer.step(closure) for _ in range(4)]
            losses = [x.detach() for x in returned]
        results.append((losses, len(calls)))
    pair.taken = 4
    assert results[0][1] == results[1][1], (
        f"4 steps evaluated the closure {results[0][1]} times, those of the reference "
        f"{results[1][1]} times"
    )
    for a, b in zip(results[0][0], results[1][0], strict=True):
        pair.compare(a, b, "the loss that a step returned")
    pair.check()
