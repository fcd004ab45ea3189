"""Checks of what holds of every optimizer, whatever it computes. They need no reference.

The contract is that of ``torch.optim.Optimizer``: what a step may touch, what it must skip, how
groups and schedulers steer it, what a state dict carries, and what is refused. Where one of torch's
own classes fails a check, torch has a defect; it is no exception to the rule.
"""

from __future__ import annotations

import copy
import io
import math
import pickle
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import lr_scheduler
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from .compare import assert_same, assert_same_bits, copied, epsilons
from .kit import check, circumstances, skip
from .options import Options, accepted, describe, parameters_of
from .subject import REFUSALS, SHAPES, Make, Subject, gradients, parameters

ROUNDINGS = 2.0**16
"""How many epsilons of float64 two runs of one equation may be apart that group the parameters
otherwise: sums and vector registers may be cut elsewhere, see :attr:`Pair.allowed`."""


class Run:
    """One optimizer on parameters of its own; all runs are fed with the same gradients."""

    def __init__(
        self,
        subject: Subject,
        options: Options | None = None,
        dtype: torch.dtype = torch.float32,
        make: Make | None = None,
    ) -> None:
        self.subject, self.dtype, self.taken = subject, dtype, 0
        self.params = parameters(subject.shapes, dtype, subject.device)
        options = subject.typical if options is None else options
        self.optimizer = (make or subject.make)(self.params, **options)

    def gradients(self, factor: float = 1.0) -> list[Tensor]:
        """The gradients of the next step."""
        rows = gradients(self.subject.shapes, self.dtype, self.subject.device)
        pairs = zip(self.params, rows[self.taken % len(rows)], strict=True)
        return [self.subject.as_given(p, g * factor) for p, g in pairs]

    def step(self, steps: int = 1, without: Iterable[int] = (), factor: float = 1.0) -> None:
        """Take steps; the parameters ``without`` have no gradient."""
        absent = set(without)
        for _ in range(steps):
            row = enumerate(self.gradients(factor))
            grads = [None if i in absent else g for i, g in row]
            self.subject.take_step(self.optimizer, self.params, grads)
            self.taken += 1

    def states(self) -> list[dict[str, Any]]:
        """The states of the parameters."""
        return [self.optimizer.state.get(p, {}) for p in self.params]

    def snapshot(self) -> dict[str, Any]:
        """A copy of what there is to change: parameters, state and groups."""
        groups = self.optimizer.param_groups
        return {
            "parameters": [p.detach().clone() for p in self.params],
            "state": copied(self.states()),
            "groups": [copied({k: v for k, v in g.items() if k != "params"}) for g in groups],
            "of groups": [[id(p) for p in group["params"]] for group in groups],
        }

    def check_unchanged(self, before: dict[str, Any], what: str) -> None:
        """Raise if a snapshot is no longer true."""
        assert_same(self.snapshot(), before, what)


def _check_equal(a: Run, b: Run, what: str) -> None:
    """Parameters and states must have the same bits: they did the same operations."""
    for part, mine, other in (("parameter", a.params, b.params), ("state", a.states(), b.states())):
        for i, (x, y) in enumerate(zip(mine, other, strict=True)):
            assert_same(x, y, f"{what}: {part} {i} {tuple(a.params[i].shape)}")


def _check_alike(a: Run, b: Run, what: str, of: Iterable[int] | None = None) -> None:
    """Parameters must be the same up to roundings."""
    for i in range(len(a.params)) if of is None else of:
        apart = epsilons(a.params[i], b.params[i])
        assert apart <= ROUNDINGS, (
            f"{what}: parameter {i} {tuple(a.params[i].shape)} is {apart:.3g} epsilons of "
            f"{a.dtype} from what it should be, where {ROUNDINGS:.3g} are allowed"
        )


def _each_way(subject: Subject) -> list[Options]:
    """Typical options, in every way to run."""
    return [subject.typical | switch for switch in subject.ways.values()]


def _each(subject: Subject) -> list[Options]:
    """All options as the class runs them, and typical ones in every way."""
    return [*subject.options, *_each_way(subject)]


def _error_of(act: Callable[[], Any]) -> Exception | None:
    """The error by which something is refused, or None; any other error is no refusal."""
    try:
        act()
    except REFUSALS as error:
        return error
    return None


def _must_refuse(act: Callable[[], Any], what: str) -> Exception:
    error = _error_of(act)
    assert error is not None, f"{what} is taken without an error"
    assert str(error), f"{what} is refused, but {type(error).__name__} has no message"
    return error


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for x in value.values():
            yield from _tensors_in(x)
    elif isinstance(value, (list, tuple)):
        for x in value:
            yield from _tensors_in(x)


def _part(indices: Sequence[int], make: Make) -> Make:
    """An optimizer of some of the parameters that it is handed."""
    return lambda params, **options: make([params[i] for i in indices], **options)


def _need_float64(subject: Subject) -> None:
    if not subject.takes(torch.float64):
        skip("does not take float64, in which roundings could be told from errors")


def _need_separable(subject: Subject) -> None:
    if subject.needs_closure:
        skip("evaluates a closure, and updates all parameters as one vector")
    if not subject.separable(subject.make):
        skip("what becomes of a parameter depends on the others")


# ------------------------------------------------------------------ what it takes


@check
def takes_every_shape(subject: Subject) -> None:
    """A parameter of any shape is updated, or refused when the optimizer is made; what the
    reference takes is taken."""
    refusal: Exception | None = None
    taken = 0
    for shape in SHAPES:
        if not shape and subject.sparse:
            continue  # there is no sparse scalar
        params = parameters((shape,), device=subject.device)
        made = _error_of(partial(subject.make, params, **subject.typical))
        error = subject.step_error(subject.make, shape, sparse=subject.sparse)
        if made is None and error is None:
            taken += 1
            continue
        refusal = made or error
        what = f"{type(refusal).__name__}: {refusal}"
        if made is None:
            raise AssertionError(
                f"a parameter of shape {shape} is taken, but its first step fails with {what}"
            ) from error
        if subject.reference is not None:
            other = subject.step_error(subject.make_reference, shape, sparse=subject.sparse)
            assert other is not None, (
                f"a parameter of shape {shape}, which {subject.against} takes, is refused: {what}"
            )
    assert taken, f"no parameter of any shape is taken: {type(refusal).__name__}: {refusal}"


@check
def moves_parameters_and_returns_none(subject: Subject) -> None:
    """A step without a closure returns None, and after five steps every parameter has moved."""
    for options in _each_way(subject):
        with circumstances(options=describe(options)):
            run = Run(subject, options)
            start = run.snapshot()["parameters"]
            run.step(4)
            loss = subject.take_step(run.optimizer, run.params, run.gradients())
            assert loss is None or subject.needs_closure, f"step() returned {loss!r}, not None"
            for i, (p, old) in enumerate(zip(run.params, start, strict=True)):
                assert not p.numel() or not torch.equal(p, old), (
                    f"parameter {i} {tuple(p.shape)} is where it was after 5 steps"
                )


@check
def repeats_itself(subject: Subject) -> None:
    """The same gradients and the same random seed give the same bits."""
    for options in _each_way(subject):
        with circumstances(options=describe(options)):
            runs = []
            for _ in range(2):
                torch.manual_seed(0)
                runs.append(Run(subject, options))
                runs[-1].step(4)
            _check_equal(runs[1], runs[0], "the second time")


@check
def updates_each_parameter_by_itself(subject: Subject) -> None:
    """What becomes of a parameter does not depend on what else the optimizer holds, unless that is
    so of the reference."""
    _need_float64(subject)
    if subject.needs_closure:
        skip("evaluates a closure, and updates all parameters as one vector")
    if subject.separable(subject.make):
        return
    if subject.reference is None or not subject.separable(subject.make_reference):
        skip("what becomes of a parameter depends on the others")
    raise AssertionError(
        "parameters in one optimizer are not updated as by an optimizer each, and by "
        f"{subject.against} they are"
    )


@check
def takes_named_parameters_and_generators(subject: Subject) -> None:
    """Parameters may come with names, which the group keeps and the state dict carries, and from a
    generator."""
    names = [f"layer.{i}" for i in range(len(subject.shapes))]
    plain = Run(subject)
    named = Run(subject, make=lambda ps, **o: subject.make(zip(names, ps, strict=True), **o))
    generated = Run(subject, make=lambda ps, **o: subject.make((p for p in ps), **o))
    for run in (plain, named, generated):
        run.step(3)
    _check_equal(named, plain, "given with names")
    _check_equal(generated, plain, "given by a generator")
    for what, group in (
        ("group", named.optimizer.param_groups[0]),
        ("state dict's group", named.optimizer.state_dict()["param_groups"][0]),
    ):
        kept = group.get("param_names")
        assert kept == names, f"the {what} has param_names {kept!r} where {names!r} is expected"


# ------------------------------------------------------------------ what a step leaves alone


@check
def leaves_gradients_as_they_are(subject: Subject) -> None:
    """After a step each parameter has the same gradient: the same tensor, never written to."""
    for options in subject.options:
        for way, switch in subject.ways.items():
            with circumstances(options=describe(options), way=way):
                run = Run(subject, options | switch)
                for _ in range(3):
                    grads = run.gradients()
                    before = [(g.clone(), g._version) for g in grads]
                    for p, g in zip(run.params, grads, strict=True):
                        p.grad = g
                    run.optimizer.step(*[lambda: 1.0] * subject.needs_closure)
                    run.taken += 1
                    rows = zip(run.params, grads, before, strict=True)
                    for i, (p, g, (old, version)) in enumerate(rows):
                        what = f"the gradient of parameter {i} {tuple(p.shape)}"
                        assert p.grad is g, f"{what} was replaced by another tensor"
                        assert_same_bits(g, old, f"{what} was written to")
                        assert g._version == version, f"{what} was written to, with what it was"


@check
def leaves_random_state_and_grad_mode_as_they_are(subject: Subject) -> None:
    """A step draws no random numbers unless its result depends on them, leaves grad mode as it is,
    and neither parameters nor state become part of a graph."""
    for options in _each_way(subject):
        runs = []
        for seed, enabled in ((0, True), (1, False)):
            with (
                circumstances(options=describe(options), grad_mode=enabled),
                torch.set_grad_enabled(enabled),
            ):
                torch.manual_seed(seed)
                run = Run(subject, options)
                state = torch.get_rng_state()
                run.step(3)
                drawn = not torch.equal(torch.get_rng_state(), state)
                assert torch.is_grad_enabled() is enabled, "a step switched the grad mode"
                for i, p in enumerate(run.params):
                    assert p.requires_grad, f"parameter {i} no longer requires a gradient"
                    assert p.grad_fn is None, f"parameter {i} became part of a graph"
                    for name, x in run.states()[i].items():
                        assert not any(y.requires_grad for y in _tensors_in(x)), (
                            f"state {name!r} of parameter {i} requires a gradient"
                        )
                runs.append(run)
        pairs = zip(*[run.params for run in runs], strict=True)
        assert not drawn or not all(torch.equal(p, q) for p, q in pairs), (
            f"a step changes the random state, and makes no use of it ({describe(options)})"
        )


@check
def leaves_the_callers_options_alone(subject: Subject) -> None:
    """Lists and tensors that were passed stay what they were, later changes to a list of
    parameters are not seen, and a group's options are not the defaults."""
    given = {n: list(x) if isinstance(x, tuple) else x for n, x in subject.typical.items()}
    if _error_of(lambda: subject.make(parameters(subject.shapes), **given)) is not None:
        given = dict(subject.typical)
    if subject.has("lr"):
        as_tensor = given | {"lr": torch.tensor(0.1)}
        if _error_of(lambda: subject.make(parameters(subject.shapes), **as_tensor)) is None:
            given = as_tensor
    kept = copied(given)
    run = Run(subject, given)
    defaults = copied(run.optimizer.defaults)
    run.step(3)
    assert_same(given, kept, "the options that were passed")
    run.params.append(Parameter(torch.ones(2)))
    held = len(run.optimizer.param_groups[0]["params"])
    assert held == len(run.params) - 1, "appending to the list that was passed adds a parameter"
    for name in defaults:
        run.optimizer.param_groups[0][name] = "changed"
    assert_same(run.optimizer.defaults, defaults, "the defaults, after a group's were changed")


@check
def state_does_not_alias_gradients_or_parameters(subject: Subject) -> None:
    """Gradients and parameters changed in place after a step leave the state as it is, and the next
    steps are the same as on fresh tensors."""
    for options in _each(subject):
        with circumstances(options=describe(options)):
            run, fresh = Run(subject, options), Run(subject, options)
            for _ in range(2):
                fresh.step()
                grads = run.gradients()
                subject.take_step(run.optimizer, run.params, grads)
                run.taken += 1
                before = run.snapshot()
                with torch.no_grad():
                    for p, g in zip(run.params, grads, strict=True):
                        (g._values() if g.is_sparse else g).fill_(7.0)
                        p.add_(1.0)
                    changed = run.snapshot()["state"]
                    for p, old in zip(run.params, before["parameters"], strict=True):
                        p.copy_(old)
                what = "the state, after gradients and parameters were changed in place"
                assert_same(changed, before["state"], what)
            _check_equal(run, fresh, "gradients overwritten after each step")


@check
def updates_parameters_in_place(subject: Subject) -> None:
    """A parameter stays the same tensor in the same memory, with its dtype, layout and strides."""
    for options in _each_way(subject):
        for dtype in (torch.float32, torch.bfloat16):
            if dtype != torch.float32 and not subject.takes(dtype):
                continue
            with circumstances(options=describe(options), dtype=dtype):
                run = Run(subject, options, dtype)
                for p in run.params:
                    if p.dim() == 2:
                        p.data = p.data.t().contiguous().t()
                facts = [_facts(p) for p in run.params]
                run.step(3)
                held = [p for group in run.optimizer.param_groups for p in group["params"]]
                for i, (p, q, old) in enumerate(zip(run.params, held, facts, strict=True)):
                    assert p is q, f"parameter {i} was replaced in its group"
                    assert _facts(p) == old, (
                        f"parameter {i} has (address, dtype, shape, strides, device) {_facts(p)}, "
                        f"and had {old}"
                    )


def _facts(p: Tensor) -> tuple[Any, ...]:
    return p.data_ptr(), p.dtype, tuple(p.shape), p.stride(), str(p.device)


# ------------------------------------------------------------------ gradients that come and go


@check
def skips_parameters_without_gradient(subject: Subject) -> None:
    """A parameter without gradient keeps its value and gets no state, and the others are updated as
    if it were not there."""
    _need_float64(subject)
    indices = range(len(subject.shapes))
    absent = [i for i in indices if i % 3 == 1]
    if not absent:
        skip("takes parameters of one shape only")
    present = [i for i in indices if i not in absent]
    for options in _each_way(subject):
        with circumstances(options=describe(options), without=absent):
            run = Run(subject, options, torch.float64)
            start = run.snapshot()
            run.step(4, without=absent)
            for i in absent:
                what = f"parameter {i}, which has no gradient"
                assert_same_bits(run.params[i], start["parameters"][i], what)
                if not subject.needs_closure:
                    assert_same(run.states()[i], start["state"][i], f"the state of {what}")
            if subject.needs_closure:
                continue  # whose sums over all parameters are added up otherwise
            less = Run(subject, options, torch.float64, _part(present, subject.make))
            less.step(4, without=absent)
            _check_alike(run, less, "beside parameters without gradient", of=present)


@check
def counts_the_steps_of_each_parameter(subject: Subject) -> None:
    """A parameter whose first gradient comes late takes its first step then: as if it had an
    optimizer of its own."""
    _need_float64(subject)
    _need_separable(subject)
    last = len(subject.shapes) - 1
    for options in _each_way(subject):
        with circumstances(options=describe(options)):
            run, alone = (
                Run(subject, options, torch.float64, make)
                for make in (None, _part([last], subject.make))
            )
            run.step(3, without=[last])
            alone.taken = 3
            for x in (run, alone):
                x.step(3)
            _check_alike(run, alone, "its first gradient came at the fourth step", of=[last])


@check
def a_step_without_any_gradient_changes_nothing(subject: Subject) -> None:
    """Where no parameter has a gradient, parameters and their state stay as they are, before the
    first step and after some."""
    everything = range(len(subject.shapes))
    for options in _each_way(subject):
        with circumstances(options=describe(options)):
            run = Run(subject, options)
            for steps in (0, 2):
                run.step(steps)
                before = run.snapshot()
                run.step(without=everything)
                after = run.snapshot()
                for part in ("parameters",) if subject.needs_closure else ("parameters", "state"):
                    what = f"the {part} after {steps} steps and one without gradients"
                    assert_same(after[part], before[part], what)


@check
def takes_a_zero_gradient_as_a_step(subject: Subject) -> None:
    """A gradient of zero is not taken for none: parameter or state change as they do by a gradient
    near zero."""
    _need_float64(subject)
    for options in _each_way(subject):
        with circumstances(options=describe(options)):
            changed = []
            for factor in (1e-30, 0.0):
                run = Run(subject, options, torch.float64)
                run.step(2)
                before = run.snapshot()
                run.step(factor=factor)
                after = run.snapshot()
                pairs = [zip(after[k], before[k], strict=True) for k in ("parameters", "state")]
                same = [[_is_same(a, b) for a, b in pair] for pair in pairs]
                changed.append([not (p and state) for p, state in zip(*same, strict=True)])
            for i, (tiny, zero) in enumerate(zip(*changed, strict=True)):
                assert zero or not tiny, (
                    f"neither parameter {i} nor its state changed by a gradient of zero, though "
                    "they do by one of 1e-30"
                )


def _is_same(a: Any, b: Any) -> bool:
    try:
        assert_same(a, b, "")
    except AssertionError:
        return False
    return True


@check
def reads_gradients_accumulated_in_place(subject: Subject) -> None:
    """A gradient that is the same tensor as in the step before, with other numbers in it, is read
    anew."""
    if subject.sparse:
        skip("takes sparse gradients, which are not added to in place")
    for options in _each_way(subject):
        with circumstances(options=describe(options)):
            run, fresh = Run(subject, options), Run(subject, options)
            sums = [torch.zeros_like(p) for p in run.params]
            for _ in range(4):
                for total, g in zip(sums, run.gradients(), strict=True):
                    total.add_(g)
                for x, grads in ((run, sums), (fresh, [g.clone() for g in sums])):
                    subject.take_step(x.optimizer, x.params, grads)
                    x.taken += 1
            _check_equal(run, fresh, "gradients accumulated in place")


# ------------------------------------------------------------------ closures


@check
def calls_the_closure_with_gradients_enabled(subject: Subject) -> None:
    """A closure is called once (where one is required: at least once) with gradients enabled, even
    under ``no_grad``; its loss is returned, and the gradients that it leaves are used."""
    for options in _each_way(subject):
        with circumstances(options=describe(options)):
            run, plain = Run(subject, options), Run(subject, options)
            for _ in range(3):
                grads = run.gradients()
                calls: list[bool] = []
                with torch.no_grad():
                    returned = run.optimizer.step(_closure(run.params, grads, calls))
                run.taken += 1
                assert all(calls), "the closure was called with gradients disabled"
                assert len(calls) == 1 or (calls and subject.needs_closure), (
                    f"the closure was called {len(calls)} times"
                )
                assert returned is not None, "step(closure) returned None, not the loss"
                assert float(returned) == 2.5, f"step(closure) returned {returned}, not the loss"
            if not subject.needs_closure:
                plain.step(3)
                _check_equal(run, plain, "the gradients set by a closure")


def _closure(params: list[Parameter], grads: list[Tensor], calls: list[bool]) -> Any:
    def closure() -> float:
        calls.append(torch.is_grad_enabled())
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        return 2.5

    return closure


@check
def an_error_in_the_closure_changes_nothing(subject: Subject) -> None:
    """An error in the closure passes through, leaves parameters and state as they were, and the
    next steps are as if it had not been."""
    for options in _each_way(subject):
        with circumstances(options=describe(options)):
            run, other = Run(subject, options), Run(subject, options)
            run.step(2)
            other.step(2)
            before = run.snapshot()

            def closure() -> float:
                raise ZeroDivisionError("of the user")

            for _ in range(2):
                try:
                    run.optimizer.step(closure)
                except ZeroDivisionError:
                    continue
                raise AssertionError("step(closure) swallowed an error of the closure")
            run.check_unchanged(before, "after an error in the closure")
            run.step(2)
            other.step(2)
            _check_equal(run, other, "after an error in the closure")


# ------------------------------------------------------------------ groups and their options


@check
def groups_equal_separate_optimizers(subject: Subject) -> None:
    """Parameters in a group with options of its own are updated as by an optimizer with these
    options."""
    _need_float64(subject)
    _need_separable(subject)
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
            one = Run(subject, options, torch.float64, _part(first, subject.make))
            two = Run(subject, alone, torch.float64, _part(second, subject.make))
            for run in (together, one, two):
                run.step(4)
            _check_alike(together, one, "in a group with the defaults", of=first)
            _check_alike(together, two, "in a group with other options", of=second)


@check
def a_group_added_later_starts_then(subject: Subject) -> None:
    """A group added in mid-run is updated as by an optimizer made then, and the others as if
    nothing had been added."""
    _need_float64(subject)
    _need_separable(subject)
    last = len(subject.shapes) - 1
    if not last:
        skip("takes parameters of one shape only")
    others = range(last)
    for options in _each_way(subject):
        with circumstances(options=describe(options)):
            run, old = (
                Run(subject, options, torch.float64, _part(others, subject.make)) for _ in range(2)
            )
            run.step(3, without=[last])
            run.optimizer.add_param_group({"params": [run.params[last]]})
            new = Run(subject, options, torch.float64, _part([last], subject.make))
            new.taken = 3
            run.step(3)
            new.step(3)
            old.step(6)
            _check_alike(run, new, "added in mid-run", of=[last])
            _check_alike(run, old, "beside a group added in mid-run", of=others)


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
        if _error_of(partial(subject.make, parameters(subject.shapes), **base | change)):
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
                _check_equal(run, fresh, "an option changed between two steps")


def _halved(value: Any) -> Any:
    return type(value)(_halved(x) for x in value) if isinstance(value, (tuple, list)) else value / 2


@check
def a_learning_rate_of_zero_moves_nothing(subject: Subject) -> None:
    """Made with a learning rate of zero and no weight decay, it leaves the parameters where they
    are."""
    subject.need("lr")
    still = {n: 0.0 for n in ("lr", "weight_decay") if subject.has(n)}
    for options in _each_way(subject):
        options = options | still
        if not _rate_matters(subject, options):
            skip("reads the learning rate at the first step only, or never")
        if _error_of(partial(subject.make, parameters(subject.shapes), **options)):
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
    for options in _each(subject):
        with circumstances(options=describe(options)):
            up, down = (Run(subject, options | {"maximize": x}) for x in (True, False))
            for _ in range(3):
                up.step()
                down.step(factor=-1.0)
            _check_equal(up, down, "maximize, and the negated gradient")


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
        error = _must_refuse(
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
        _must_refuse(partial(subject.make, [dict(group)], **subject.typical), what)
        _must_refuse(partial(run.optimizer.add_param_group, dict(group)), what)
        run.check_unchanged(before, f"after {what} was refused")


# ------------------------------------------------------------------ state dicts and copies


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
            _check_equal(fresh, run, "loaded")
            run.step(2)
            fresh.step(2)
            _check_equal(fresh, run, "2 steps after it was loaded")


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
            _check_equal(twin, run, "the copy")


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
    addresses = {x.untyped_storage().data_ptr() for x in _tensors_in(saved) if x.numel()}
    for i, state in enumerate(run.states()):
        for name, value in state.items():
            for x in _tensors_in(value):
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
        _must_refuse(partial(run.optimizer.load_state_dict, saved), what)
        run.check_unchanged(before, f"after {what} was refused")


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
            before = spoilt.snapshot()
            error: Exception | None = None
            try:
                spoilt.optimizer.load_state_dict(saved)
            except Exception as caught:  # whatever it raises, it does not take it
                error = caught
            if error is not None:
                assert str(error), f"{what} is refused without a message"
                spoilt.check_unchanged(before, f"after {what} was refused")
            elif spoil == "missing":  # which may be one that a step makes anew
                try:
                    spoilt.step()
                except Exception as late:
                    raise AssertionError(
                        f"{what} is taken, and the next step fails with "
                        f"{type(late).__name__}: {late}"
                    ) from late
            else:
                raise AssertionError(f"{what} is taken without an error")


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


# ------------------------------------------------------------------ the face of an optimizer


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
    _check_equal(double, once, "two steps in one")


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
    for options in _each_way(subject):
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


# ------------------------------------------------------------------ whether it optimizes


def _quadratic(x: Tensor) -> Tensor:
    """Condition 16, the minimum 0 at 0."""
    return (torch.linspace(1, 16, x.numel(), dtype=x.dtype) * x.flatten().square()).sum() / 2


def _rosenbrock(x: Tensor) -> Tensor:
    """Rosenbrock's valley in every pair of numbers, the minimum 0 at 1."""
    a, b = x.flatten()[0::2], x.flatten()[1::2]
    return ((1 - a).square() + 100 * (b - a.square()).square()).sum()


@check
def descends(subject: Subject) -> None:
    """For some learning rate from 1e-4 to 10, 300 steps take a quadratic of condition 16 to a
    tenth, and Rosenbrock's function from 24 to a fifth of it, which is the floor of the valley."""
    shape = (3, 2) if (5, 3) in subject.shapes else (6,)
    if subject.step_error(subject.make, shape, sparse=subject.sparse) is not None:
        skip(f"does not take a parameter of shape {shape}")
    for f, start, fraction in ((_quadratic, (1.0, 1.0), 0.1), (_rosenbrock, (-1.2, 1.0), 0.2)):
        begin = torch.tensor(start, dtype=torch.float64).repeat(3).reshape(shape)
        goal = fraction * f(begin).item()
        rates = [1e-2, 1e-3, 1e-1, 1.0, 1e-4, 10.0] if subject.has("lr") else [None]
        reached = {}
        for lr in rates:
            reached[lr] = _least(subject, f, begin.clone(), lr, goal)
            if reached[lr] <= goal:
                break
        assert min(reached.values()) <= goal, (
            f"{f.__name__[1:]} does not fall from {f(begin):.4g} to {goal:.4g} in 300 steps; the "
            f"least values by the learning rate: {reached}"
        )


def _least(subject: Subject, f: Any, begin: Tensor, lr: float | None, goal: float) -> float:
    """The least value of a function in 300 steps, or the first that is at the goal."""
    options = dict(subject.options[0]) | ({} if lr is None else {"lr": lr})
    if subject.has("weight_decay"):
        options["weight_decay"] = 0.0
    theta = Parameter(begin.to(subject.device))
    optimizer = subject.make([theta], **options)

    def closure() -> Any:
        theta.grad = None
        loss = f(theta)
        loss.backward()
        if subject.sparse and theta.grad is not None:
            theta.grad = theta.grad.to_sparse(1)
        return loss

    least = math.inf
    for _ in range(300):
        loss: Any = optimizer.step(closure)
        value = f(theta.detach()).item() if loss is None else float(loss)
        if math.isfinite(value):
            least = min(least, value)
        if least <= goal or not math.isfinite(value):
            break
    return least


@check
def stays_finite_for_tiny_and_huge_gradients(subject: Subject) -> None:
    """Gradients of any magnitude whose square float32 can hold, 1e-16 to 1e16, make no NaN and no
    infinity in 100 steps."""
    if subject.needs_closure:
        skip("goes where its closure leads it")
    options = dict(subject.options[0])
    for switch in subject.ways.values():
        with circumstances(options=describe(options | switch)):
            run = Run(subject, options | switch)
            for step in range(100):
                exponent = (step * 7) % 33 - 16  # all of them, in no order
                run.step(factor=10.0**exponent)
                for i, p in enumerate(run.params):
                    assert p.isfinite().all(), (
                        f"parameter {i} {tuple(p.shape)} is not finite after {step + 1} steps, the "
                        f"last with a gradient of magnitude 1e{exponent}"
                    )
