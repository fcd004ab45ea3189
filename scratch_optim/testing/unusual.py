"""Checks of what seldom happens: odd options, gradients that are not finite, graphs that outlive a
step."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .compare import assert_same, copied
from .kit import check, circumstances, skip
from .options import Options, describe
from .runs import give_other_memory
from .subject import REFUSALS, Make, Subject, gradients, laid_as, parameters

ODD = (-1.0, 1.0, 1.5, 2.0, math.nan, math.inf, "much", None)
"""Values that one option or another does not take."""


def _error_of_making(make: Make, options: Options) -> Exception | None:
    try:
        make(parameters(((5, 3),)), **options)
    except Exception as error:  # whatever it raises, it does not take them
        return error
    return None


def _odd(value: Any) -> Iterable[Any]:
    """Odd values for an option: for a number, and for each of several numbers."""
    if isinstance(value, (tuple, list)):
        for i in range(len(value)):
            for odd in ODD:
                yield (*value[:i], odd, *value[i + 1 :])
        yield value[:-1]
        yield (*value, value[-1])
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from ODD


@check
def refuses_what_the_reference_refuses(subject: Subject) -> None:
    """Every value of an option, odd or out of range, with which the reference cannot be made is
    refused."""
    if not isinstance(subject.reference, type):
        skip("has no class as reference")
    optimizer = subject.make(parameters(((5, 3),)), **subject.typical)
    for name, value in optimizer.defaults.items():
        if not subject.has(name):
            continue
        for odd in _odd(value):
            options = subject.typical | {name: odd}
            theirs = _error_of_making(subject.make_reference, options)
            assert theirs is None or _error_of_making(subject.make, options), (
                f"{name}={odd!r} is taken, which {subject.against} refuses: {theirs}"
            )


@check
def takes_zero_where_the_reference_does(subject: Subject) -> None:
    """An option that is no count may be zero, a learning rate too, if that of the reference may."""
    if not isinstance(subject.reference, type):
        skip("has no class as reference")
    optimizer = subject.make(parameters(((5, 3),)), **subject.typical)
    for name, value in optimizer.defaults.items():
        if not subject.has(name) or not isinstance(value, float):
            continue
        options = subject.typical | {name: 0.0}
        mine = _error_of_making(subject.make, options)
        assert mine is None or _error_of_making(subject.make_reference, options), (
            f"{name}=0.0 is refused, which {subject.against} takes: {mine}"
        )


@check
def leaves_parameters_as_they_are_when_it_is_made(subject: Subject) -> None:
    """Making an optimizer, and adding a group to it, changes no parameter and no gradient, neither
    values nor memory."""
    params = parameters(subject.shapes, device=subject.device)
    row = gradients(subject.shapes, device=subject.device)[0]
    for p, g in zip(params, row, strict=True):
        p.grad = subject.as_given(p, g)

    def facts() -> list[Any]:
        return [
            (copied(p), p.data_ptr(), p.stride(), p.requires_grad, id(p.grad), copied(p.grad))
            for p in params
        ]

    before = facts()
    first = len(params) if subject.needs_closure else max(1, len(params) - 1)
    optimizer = subject.make(params[:first], **subject.typical)
    if params[first:]:
        optimizer.add_param_group({"params": params[first:]})
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert list(map(id, held)) == list(map(id, params)), "it holds other tensors than it was given"
    names = ("values", "address", "strides", "requires_grad", "id of grad", "grad")
    for i, (now, then) in enumerate(zip(facts(), before, strict=True)):
        for name, x, y in zip(names, now, then, strict=True):
            assert_same(x, y, f"parameter {i} {subject.shapes[i]}: {name}")


@check
def takes_the_parameters_of_a_group_from_any_iterable(subject: Subject) -> None:
    """A group's parameters may be a tensor, a tuple or a generator, when the optimizer is made and
    when the group is added."""
    if subject.needs_closure:
        skip("takes one group only")
    params = parameters(subject.shapes, device=subject.device)
    for first, later in (
        ((p for p in params), (p for p in parameters(subject.shapes, seed=1))),
        (tuple(params), tuple(parameters(subject.shapes, seed=1))),
        (params[0], parameters(subject.shapes, seed=1)[0]),
    ):
        optimizer = subject.make([{"params": first}], **subject.typical)
        optimizer.add_param_group({"params": later})
        expected = 1 if isinstance(first, Tensor) else len(params)
        for group in optimizer.param_groups:
            held = len(group["params"])
            assert held == expected, (
                f"a {type(first).__name__} of {expected} parameters became a group of {held}"
            )


@check
def a_state_loaded_for_another_dtype_becomes_that_of_the_parameters(subject: Subject) -> None:
    """The state of float32 parameters, loaded for those of float64, does not stay in float32, but
    where it is always kept in it."""
    if not subject.takes(torch.float64):
        skip("does not take float64")
    kinds = (torch.float32, torch.float64)
    params = {dtype: parameters(subject.shapes, dtype, subject.device) for dtype in kinds}
    made = {dtype: subject.make(params[dtype], **subject.typical) for dtype in kinds}

    def step(dtype: torch.dtype) -> None:
        row = gradients(subject.shapes, dtype, subject.device)[0]
        pairs = zip(params[dtype], row, strict=True)
        subject.take_step(made[dtype], params[dtype], [subject.as_given(p, g) for p, g in pairs])

    def dtypes() -> list[dict[str, torch.dtype]]:
        states = [made[torch.float64].state.get(p, {}) for p in params[torch.float64]]
        return [
            {n: x.dtype for n, x in s.items() if isinstance(x, Tensor) and x.dim()} for s in states
        ]

    for dtype in kinds:
        step(dtype)
    own = dtypes()
    made[torch.float64].load_state_dict(copy.deepcopy(made[torch.float32].state_dict()))
    loaded = dtypes()
    step(torch.float64)
    for what, found in (("loaded", loaded), ("after a step", dtypes())):
        for i, (mine, then) in enumerate(zip(found, own, strict=True)):
            for name in mine.keys() & then.keys():
                assert mine[name] in (then[name], torch.float64), (
                    f"state {name!r} of parameter {i}, of float64, is {mine[name]} {what}, where "
                    f"it was {then[name]}"
                )


@check
def a_first_gradient_of_zeros_leaves_parameters_finite(subject: Subject) -> None:
    """Zeros as the first gradients, as of a layer not reached yet, are divided by nothing that is
    zero."""
    for options in subject.options:
        for way, switch in subject.ways.items():
            with circumstances(options=describe(options), way=way):
                params = parameters(subject.shapes, device=subject.device)
                optimizer = subject.make(params, **options | switch)
                rows = gradients(subject.shapes, device=subject.device)
                for row in ([g * 0 for g in rows[0]], rows[1]):
                    grads = [subject.as_given(p, g) for p, g in zip(params, row, strict=True)]
                    subject.take_step(optimizer, params, grads)
                    for i, p in enumerate(params):
                        bad = int((~p.isfinite()).sum())
                        assert not bad, (
                            f"{bad} entries of parameter {i} {tuple(p.shape)} are not finite after "
                            "a first gradient of zeros"
                        )


@check
def treats_nan_and_infinity_as_the_reference_does(subject: Subject) -> None:
    """A NaN or an infinity in a gradient makes those entries not finite that it makes so in the
    reference, and leaves the others as the reference leaves them."""
    infinite = (1, 2)
    if subject.needs_closure:
        skip("its step takes a closure")
    if not subject.takes(torch.float64):
        skip("does not take float64, in which nothing overflows")

    def spoilt(p: Tensor, g: Tensor) -> Tensor:
        g = g.clone()
        if g.numel() > 2:
            g.view(-1)[:3] = torch.tensor([torch.nan, torch.inf, -torch.inf], dtype=g.dtype)
        return subject.as_given(p, g)

    for options in (subject.options[0], subject.typical):
        for way, switch in subject.ways.items():
            with circumstances(options=describe(options), way=way):
                pair = subject.pair(options | switch, dtype=torch.float64)
                pair.step()
                pair.step(laid_out=spoilt)
                pair.step(2)
                for i, (p, q) in enumerate(zip(*pair.params, strict=True)):
                    what = (
                        f"parameter {i} {tuple(p.shape)}, 2 steps after a gradient of NaN and inf"
                    )
                    assert torch.equal(p.isfinite(), q.isfinite()), (
                        f"{what}: {int(p.isfinite().sum())} entries are finite, and "
                        f"{int(q.isfinite().sum())} of the reference's"
                    )
                    # An infinity becomes a NaN in one order of operations and none in another
                    # (a + w (b - a) is not (1 - w) a + w b), and the sign of a NaN is zero.
                    mine, other = (x.detach().nan_to_num(0, 0, 0).reshape(-1) for x in (p, q))
                    sure = [i for i in range(p.numel()) if i not in infinite or p.numel() <= 2]
                    pair.compare(mine[sure], other[sure], what)


@check
def gradients_may_lie_in_memory_as_they_like(subject: Subject) -> None:
    """A gradient that lies in memory otherwise than its parameter is read in its own order."""
    if subject.sparse:
        skip("takes sparse gradients only")
    if subject.needs_closure:
        skip("its step takes a closure")

    def turned(p: Tensor, g: Tensor) -> Tensor:
        """With the dimensions in reverse order in memory, and gaps between the elements."""
        wide = torch.stack([g, g.new_full(g.shape, 7.0)], dim=-1)
        order = [*range(g.dim())][::-1]
        return wide.permute(*order, -1).contiguous().permute(*order, -1)[..., 0]

    for way, switch in subject.ways.items():
        with circumstances(way=way):
            options = subject.typical | switch
            pair = subject.twins(options, options)
            pair.ulps = None  # they may be added up in another order
            for _ in range(3):
                row = gradients(pair.shapes, device=subject.device)[pair.taken]
                for (optimizer, params), lay in zip(pair, (turned, laid_as), strict=True):
                    grads = [lay(p, g) for p, g in zip(params, row, strict=True)]
                    subject.take_step(optimizer, params, grads)
                pair.taken += 1
                pair.check()


@check
def memory_of_large_and_complex_parameters_may_be_moved(subject: Subject) -> None:
    """Parameters and state (but for counts) that are given other memory between two steps, as by
    ``p.data = ...``, are updated where they are then, also those that a list may cut into views."""
    if subject.needs_closure:
        skip("its step is one of all parameters together")
    matrices = all(len(shape) == 2 for shape in subject.shapes)
    cases = [(torch.float32, ((260, 99),) if matrices else ((5, 3), (2**19 + 77,)))]
    if subject.takes(torch.complex64):
        cases.append((torch.complex64, ((5, 3),)))
    for dtype, shapes in cases:
        for way, switch in subject.ways.items():
            options = subject.typical | switch
            pair = subject.twins(options, options, shapes, dtype)
            pair.step(2)
            for moved in ("parameters", "state"):
                with circumstances(way=way, dtype=dtype, moved=moved):
                    give_other_memory(pair.optimizers[0], pair.params[0], moved)
                    pair.step()
                    pair.check()


@check
def autograd_sees_the_step(subject: Subject) -> None:
    """A graph that has saved a parameter before a step refuses to go backward after it: what it
    would compute are gradients of neither."""
    ways: dict[str, Options] = dict(subject.ways)
    if subject.has("fused"):
        ways["fused"] = {"fused": True}
    for way, switch in ways.items():
        params = parameters(subject.shapes, device=subject.device)
        before = [p.detach().clone() for p in params]
        row = gradients(subject.shapes, device=subject.device)[0]
        try:
            optimizer = subject.make(params, **subject.typical | switch)
            grads = [subject.as_given(p, g) for p, g in zip(params, row, strict=True)]
            graphs = [(p * p).sum() for p in params]
            subject.take_step(optimizer, params, grads)
        except REFUSALS:
            if way != "fused":
                raise
            continue  # which not all classes take that have the option
        with circumstances(way=way):
            for i, (p, old, graph) in enumerate(zip(params, before, graphs, strict=True)):
                if not torch.equal(p, old):
                    assert _refuses_backward(graph), (
                        f"parameter {i} {tuple(p.shape)} was changed behind autograd's back: a "
                        "backward through a graph made before the step gives wrong gradients "
                        "without an error. Was it changed by way of .data, or by a kernel that "
                        "does not count versions (torch.autograd.graph.increment_version)?"
                    )


def _refuses_backward(graph: Tensor) -> bool:
    try:
        graph.backward()
    except RuntimeError as error:
        return "modified by an inplace operation" in str(error)
    return False
