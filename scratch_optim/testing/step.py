"""Checks of a step: what it takes, what it leaves alone, gradients that come and go, closures.

Like those of :mod:`~scratch_optim.testing.groups`, :mod:`~scratch_optim.testing.saved` and
:mod:`~scratch_optim.testing.manners` they hold of every optimizer, whatever it computes, and need
no reference: they are the contract of ``torch.optim.Optimizer``. Where one of torch's own classes
fails a check, torch has a defect; it is no exception to the rule.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from .compare import assert_same, assert_same_bits, copied
from .kit import check, circumstances, skip
from .options import describe
from .runs import (
    Run,
    check_alike,
    check_equal,
    each,
    each_way,
    error_of,
    need_float64,
    need_separable,
    some_of,
    tensors_in,
)
from .subject import SHAPES, Subject, parameters


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
        made = error_of(partial(subject.make, params, **subject.typical))
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
    for options in each_way(subject):
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
    for options in each_way(subject):
        with circumstances(options=describe(options)):
            runs = []
            for _ in range(2):
                torch.manual_seed(0)
                runs.append(Run(subject, options))
                runs[-1].step(4)
            check_equal(runs[1], runs[0], "the second time")


@check
def updates_each_parameter_by_itself(subject: Subject) -> None:
    """What becomes of a parameter does not depend on what else the optimizer holds, unless that is
    so of the reference."""
    need_float64(subject)
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
    check_equal(named, plain, "given with names")
    check_equal(generated, plain, "given by a generator")
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
    for options in each_way(subject):
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
                        assert not any(y.requires_grad for y in tensors_in(x)), (
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
    if error_of(lambda: subject.make(parameters(subject.shapes), **given)) is not None:
        given = dict(subject.typical)
    if subject.has("lr"):
        as_tensor = given | {"lr": torch.tensor(0.1)}
        if error_of(lambda: subject.make(parameters(subject.shapes), **as_tensor)) is None:
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
    for options in each(subject):
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
            check_equal(run, fresh, "gradients overwritten after each step")


@check
def updates_parameters_in_place(subject: Subject) -> None:
    """A parameter stays the same tensor in the same memory, with its dtype, layout and strides."""
    for options in each_way(subject):
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
    need_float64(subject)
    indices = range(len(subject.shapes))
    absent = [i for i in indices if i % 3 == 1]
    if not absent:
        skip("takes parameters of one shape only")
    present = [i for i in indices if i not in absent]
    for options in each_way(subject):
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
            less = Run(subject, options, torch.float64, some_of(present, subject.make))
            less.step(4, without=absent)
            check_alike(run, less, "beside parameters without gradient", of=present)


@check
def counts_the_steps_of_each_parameter(subject: Subject) -> None:
    """A parameter whose first gradient comes late takes its first step then: as if it had an
    optimizer of its own."""
    need_float64(subject)
    need_separable(subject)
    last = len(subject.shapes) - 1
    for options in each_way(subject):
        with circumstances(options=describe(options)):
            run, alone = (
                Run(subject, options, torch.float64, make)
                for make in (None, some_of([last], subject.make))
            )
            run.step(3, without=[last])
            alone.taken = 3
            for x in (run, alone):
                x.step(3)
            check_alike(run, alone, "its first gradient came at the fourth step", of=[last])


@check
def a_step_without_any_gradient_changes_nothing(subject: Subject) -> None:
    """Where no parameter has a gradient, parameters and their state stay as they are, before the
    first step and after some."""
    everything = range(len(subject.shapes))
    for options in each_way(subject):
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
    need_float64(subject)
    for options in each_way(subject):
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
    for options in each_way(subject):
        with circumstances(options=describe(options)):
            run, fresh = Run(subject, options), Run(subject, options)
            sums = [torch.zeros_like(p) for p in run.params]
            for _ in range(4):
                for total, g in zip(sums, run.gradients(), strict=True):
                    total.add_(g)
                for x, grads in ((run, sums), (fresh, [g.clone() for g in sums])):
                    subject.take_step(x.optimizer, x.params, grads)
                    x.taken += 1
            check_equal(run, fresh, "gradients accumulated in place")


# ------------------------------------------------------------------ closures


@check
def calls_the_closure_with_gradients_enabled(subject: Subject) -> None:
    """A closure is called once (where one is required: at least once) with gradients enabled, even
    under ``no_grad``; its loss is returned, and the gradients that it leaves are used."""
    for options in each_way(subject):
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
                check_equal(run, plain, "the gradients set by a closure")


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
    for options in each_way(subject):
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
            check_equal(run, other, "after an error in the closure")
