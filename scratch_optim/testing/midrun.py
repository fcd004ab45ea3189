"""Checks of what users do between two steps: done to the subject and to its reference alike.

An optimizer may remember how it updated its parameters the last time. Everything below invalidates
something that it could remember. What the reference does afterwards is the judge.
"""

from __future__ import annotations

import copy
import random
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from .kit import check, skip
from .options import Options, accepted, describe, parameters_of
from .subject import HALF, Pair, Subject, gradients, parameters

Change = Callable[[torch.optim.Optimizer, list[Parameter]], Any]
"""What is done to an optimizer and its parameters."""

SQUARE = ((4, 4), (4, 4), (6,), (3, 2, 2, 2), *[(2, 3)] * 6)
"""Two matrices alike, that may be exchanged and transposed; a vector; a convolution; and so many
small ones that it may be worth updating them together. None is empty: what is remembered of
parameters without memory may be looked at more closely."""


# ------------------------------------------------------------------ how


def _dtype(subject: Subject) -> torch.dtype:
    """Float32 where the bits are compared; otherwise where no rounding can hide an error."""
    exact = subject.ulps is None and subject.takes(torch.float64)
    return torch.float64 if exact else torch.float32


def _in_every_way(
    subject: Subject,
    act: Callable[[Pair], Any],
    options: Options | None = None,
    shapes: tuple[tuple[int, ...], ...] | None = None,
    **facts: Any,
) -> None:
    shapes = _square(subject) if shapes is None else shapes
    subject.in_every_way(act, options, shapes, _dtype(subject), **facts)


def _square(subject: Subject) -> tuple[tuple[int, ...], ...]:
    """Those of ``SQUARE`` that have as many dimensions as a shape that the subject takes."""
    dimensions = {len(shape) for shape in subject.shapes}
    return tuple(shape for shape in SQUARE if len(shape) in dimensions)


def _go_on(pair: Pair, steps: int = 3) -> None:
    """Take the next steps, each checked: an error of one step may be hidden by the next."""
    for _ in range(steps):
        pair.step()
        pair.check()


def _after(*changes: Change, before: int = 3) -> Callable[[Pair], None]:
    """Some steps, then twice each change and steps after it."""

    def act(pair: Pair) -> None:
        pair.step(before)
        pair.check()
        for change in changes * 2:
            pair.do(change)
            _go_on(pair, 2)

    return act


READ_ONCE = {"history_size"}
"""Options that torch.optim.LBFGS takes at its first step, to make lists of that length."""


def _of_one_group(change: Options) -> Change:
    return lambda optimizer, _: optimizer.param_groups[0].update(change)


def _need_apart(subject: Subject) -> None:
    """Leave a check of one parameter's own where a step is one of all of them together."""
    if subject.needs_closure:
        skip("its step is one of all parameters together")


def _need_like_state(subject: Subject) -> None:
    """Leave a check of what is in a state if it is not what the reference keeps."""
    if not isinstance(subject.reference, type):
        skip("has no class as reference")
    _need_apart(subject)
    pair = subject.pair()
    pair.step()
    states = [[o.state.get(p, {}).keys() for p in params] for o, params in pair]
    if states[0] != states[1]:
        skip(f"keeps {sorted(states[0][0])} where the reference keeps {sorted(states[1][0])}")


def _keeps_state_in_groups(subject: Subject) -> bool:
    """Whether a step changes what is in a group, such as a step count."""
    pair = subject.pair()
    optimizer = pair.optimizers[0]
    before = [{k: x for k, x in g.items() if k != "params"} for g in optimizer.param_groups]
    pair.step(2)
    after = [{k: x for k, x in g.items() if k != "params"} for g in optimizer.param_groups]
    return before != after


# ------------------------------------------------------------------ gradients that come and go

PRESENCES: dict[str, list[set[int]]] = {
    "appear one by one": [{0, 1, 2, 3, 4, 5}, {0, 1, 2}, set(), set(), set()],
    "vanish": [set(), {2}, {2, 3}, set(range(len(SQUARE))), set(), set()],
    "alternate": [{0, 2, 4, 6}, {1, 3, 5}, {0, 2, 4, 6}, {1, 3, 5}, set(), set()],
    "one is late": [{1}, {1}, {1}, set(), set(), set()],
    "one never comes": [{0}] * 5,
    "none comes at first": [set(range(len(SQUARE))), set(), set()],
}
"""For each step, which parameters have no gradient."""


@check
def gradients_that_come_and_go_are_followed_as_by_the_reference(subject: Subject) -> None:
    """A parameter without gradient is left alone, with its state and its step count, in any step,
    whether it had one before or not."""
    _need_apart(subject)
    for name, absences in PRESENCES.items():

        def act(pair: Pair, absences: list[set[int]] = absences) -> None:
            for without in absences:
                pair.step(without=without)
                pair.check()

        _in_every_way(subject, act, gradients=name)


@check
def zero_gradients_are_a_step_like_any_other(subject: Subject) -> None:
    """A gradient of zeros is a gradient: momentum and decay go on, as in the reference."""

    def act(pair: Pair) -> None:
        pair.step(2)
        pair.step(2, laid_out=lambda p, g: subject.as_given(p, torch.zeros_like(g)))
        pair.check()
        _go_on(pair)

    _in_every_way(subject, act, shapes=subject.shapes)


@check
def gradients_accumulated_in_place_are_read_anew(subject: Subject) -> None:
    """A step reads the gradients as they are then, also where the tensors are those of the step
    before."""
    if subject.sparse:
        skip("takes sparse gradients only")

    def act(pair: Pair) -> None:
        rows = gradients(pair.shapes, pair.dtype, subject.device)
        for row in rows[1:5]:
            for optimizer, params in pair:
                grads = [
                    g.clone() if p.grad is None else p.grad.add_(g)
                    for p, g in zip(params, row, strict=True)
                ]
                subject.take_step(optimizer, params, grads)
            pair.taken += 1
            pair.check()

    _in_every_way(subject, act)


# ------------------------------------------------------------------ groups


def _late(subject: Subject, pair: Pair, seed: int = 9) -> list[list[Parameter]]:
    """New parameters for both of a pair, which count as its last ones from now on."""
    shapes = subject.shapes[:2]
    pair.shapes = (*pair.shapes, *shapes)
    new = [parameters(shapes, pair.dtype, subject.device, seed) for _ in range(2)]
    pair.params = [[*old, *more] for old, more in zip(pair.params, new, strict=True)]
    return new


@check
def a_group_added_in_mid_run_is_updated_from_then_on(subject: Subject) -> None:
    """Parameters that come in a group of their own begin with a fresh state; the others go on."""
    _need_apart(subject)

    def act(pair: Pair) -> None:
        pair.step(3)
        for optimizer, new in zip(pair.optimizers, _late(subject, pair), strict=True):
            optimizer.add_param_group({"params": new, "lr": 0.2, "name": "late"})
        _go_on(pair)

    subject.need("lr")
    _in_every_way(subject, act)


@check
def parameters_come_into_a_group_and_leave_it(subject: Subject) -> None:
    """Parameters appended to a group's list begin with a fresh state, one removed is left alone."""
    _need_apart(subject)

    def act(pair: Pair) -> None:
        pair.step(2)
        for optimizer, new in zip(pair.optimizers, _late(subject, pair), strict=True):
            optimizer.param_groups[0]["params"].extend(new)
        _go_on(pair)

        def remove_first(optimizer: torch.optim.Optimizer, _: Any) -> None:
            optimizer.state.pop(optimizer.param_groups[0]["params"].pop(0), None)

        pair.do(remove_first)
        pair.params = [params[1:] for params in pair.params]
        pair.shapes = pair.shapes[1:]
        _go_on(pair)

    _in_every_way(subject, act)


def _swap_groups(optimizer: torch.optim.Optimizer, _: Any) -> None:
    a, b = optimizer.param_groups
    a["params"], b["params"] = b["params"], a["params"]


@check
def groups_may_be_reordered_swapped_and_dropped(subject: Subject) -> None:
    """The list of groups may change in any way: a step reads it as it is then."""
    _need_apart(subject)
    subject.need("lr")
    other = {"weight_decay": 0.05} if subject.has("weight_decay") else {}

    def act(pair: Pair) -> None:
        # Two groups: the second half of the parameters leaves the first one.
        def part(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
            optimizer.param_groups[0].update(params=params[:3], lr=0.3)
            optimizer.add_param_group({"params": params[3:], **other})

        changes: list[Change] = [
            part,
            lambda optimizer, _: optimizer.param_groups.reverse(),
            _swap_groups,
            lambda optimizer, _: optimizer.param_groups.pop(),
            # A dict of a group may be replaced by an equal one.
            lambda opt, _: opt.param_groups.__setitem__(0, dict(opt.param_groups[0], lr=0.02)),
        ]
        if len(pair.shapes) < 4:
            skip("takes too few shapes to part them")
        for change in changes:
            pair.do(change)
            _go_on(pair)

    _in_every_way(subject, act)


def _defaults(subject: Subject, options: Options) -> Options:
    known = parameters_of(subject.cls)
    return {n: known[n].default for n in options if known[n].default is not known[n].empty}


@check
def options_changed_in_mid_run_are_read_anew(subject: Subject) -> None:
    """An option of a group that is set to its default between two steps counts from the next step
    on, and again when it is set back; other keys of a group count for nothing."""
    typical = subject.typical
    changes = [_defaults(subject, {name: 0}) for name in typical if name not in READ_ONCE]
    others = [{"name": "tail", "lr_scale": 0.1}]
    for change in [c for c in changes if c and accepted(subject.cls, typical | c)] + others:
        back = {name: typical[name] for name in change if name in typical}
        act = _after(_of_one_group(change), _of_one_group(back))
        _in_every_way(subject, act, shapes=subject.shapes, changed=describe(change))


@check
def options_switched_on_in_mid_run_count_from_then_on(subject: Subject) -> None:
    """An option that is set to other than its default between two steps counts from the next step
    on, and again when it is set back; a state that it needs begins then as at a first step, or with
    zeros where the reference cannot begin one so late."""
    plain = subject.options[0]
    for change in subject.changes:
        if READ_ONCE & change.keys() or not accepted(subject.cls, plain | change):
            continue
        back = _defaults(subject, change) | {n: x for n, x in plain.items() if n in change}

        def act(pair: Pair, change: Options = change, back: Options = back) -> None:
            pair.step(3)
            pair.do(_of_one_group(change))
            if not _begin_late(pair):
                return
            _go_on(pair, 2)
            pair.do(_of_one_group(back))
            _go_on(pair, 2)

        _in_every_way(subject, act, plain, subject.shapes, changed=describe(change))


def _begin_late(pair: Pair) -> bool:
    """Take a step for which a state may be missing; return False if neither can."""
    subject = pair.subject
    kept = copy.deepcopy((pair.optimizers[1], pair.params[1]))
    row = gradients(pair.shapes, pair.dtype, subject.device)[0]

    def step(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
        grads = [subject.as_given(p, g) for p, g in zip(params, row, strict=True)]
        subject.take_step(optimizer, params, grads)

    ours, reference = pair
    try:
        step(*reference)
    except KeyError:
        try:
            step(*ours)
        except KeyError:
            return False
        pair.optimizers[1], pair.params[1] = kept
        for p, q in zip(*pair.params, strict=True):
            state = pair.optimizers[1].state[q]
            names = ours[0].state[p].keys() - state.keys()
            state.update({name: torch.zeros_like(q) for name in names})
        step(*kept)
    else:
        step(*ours)
    pair.taken += 1
    pair.check()
    return True


@check
def the_learning_rate_may_change_at_every_step(subject: Subject) -> None:
    """A learning rate set before each step, as by a scheduler, is the one that the step takes; it
    may become a tensor if one is taken at all."""
    subject.need("lr")
    rates: list[Any] = [0.1 / (1 + i) for i in range(10)]

    def made_with_tensor(params: Any, **options: Any) -> torch.optim.Optimizer:
        return subject.make(params, **options | {"lr": torch.tensor(0.1, device=subject.device)})

    tensors = subject.step_error(made_with_tensor, sparse=subject.sparse) is None

    def act(pair: Pair) -> None:
        lists = any(g.get("foreach") for o in pair.optimizers for g in o.param_groups)
        float64 = torch.float64  # or lr / (1 - beta**t) is rounded to float32 by some
        later = [torch.tensor(x, dtype=float64) for x in (0.07, 0.02) if tensors and not lists]
        for lr in [*rates, *later]:
            pair.do(_of_one_group({"lr": lr}))
            _go_on(pair, 1)

    _in_every_way(subject, act)


@check
def the_way_may_change_in_mid_run(subject: Subject) -> None:
    """``foreach`` of a group set to something else between two steps changes no number."""
    subject.need("foreach")

    def act(pair: Pair) -> None:
        for foreach in (None, True, False, True, None):
            pair.optimizers[0].param_groups[0]["foreach"] = foreach
            _go_on(pair, 2)

    act(subject.pair(shapes=_square(subject), dtype=_dtype(subject)))


# ------------------------------------------------------------------ parameters


def _replaced(p: Tensor) -> None:
    p.data = p.data + 1


def _scaled_in_place(p: Tensor) -> None:
    p.data.mul_(0.5)


def _made_wider_and_back(p: Tensor) -> None:
    dtype = p.dtype
    p.data = p.data.to(torch.complex128 if p.is_complex() else torch.float64)
    p.data = p.data.to(dtype, copy=True)


def _transposed(p: Tensor) -> None:
    # The same memory, read in another order.
    if p.dim() == 2 and p.shape[0] == p.shape[1]:
        p.data = p.data.t()


def _moved_into_a_buffer(p: Tensor) -> None:
    row = p.new_zeros(p.numel() + 3)
    row[2 : 2 + p.numel()] = p.data.reshape(-1)
    p.data = row[2 : 2 + p.numel()].view(p.shape)


def _given_gaps(p: Tensor) -> None:
    row = p.new_zeros(2 * p.numel() + 1)
    view = row[: 2 * p.numel() : 2].view(p.shape)
    view.copy_(p.data)
    p.data = view


def _laid_out_anew(p: Tensor) -> None:
    if p.dim() == 4:
        last = p.is_contiguous(memory_format=torch.channels_last)
        p.data = p.data.contiguous(
            memory_format=torch.contiguous_format if last else torch.channels_last
        )


DATA_CHANGES = {
    "replaced": _replaced,
    "scaled in place": _scaled_in_place,
    "made float64 and back": _made_wider_and_back,
    "transposed": _transposed,
    "moved into a buffer": _moved_into_a_buffer,
    "given gaps": _given_gaps,
    "laid out anew": _laid_out_anew,
}


@check
def data_of_parameters_may_be_replaced_in_mid_run(subject: Subject) -> None:
    """``p.data`` set to other memory, laid out in other ways, scaled or exchanged between two steps
    is what the next step updates."""
    for name, change in DATA_CHANGES.items():
        for which in (slice(None), slice(1)):

            def act(
                optimizer: Any, params: list[Parameter], change: Any = change, which: Any = which
            ) -> None:
                for p in params[which]:
                    change(p)

            some = "all" if which == slice(None) else "the first"
            _in_every_way(subject, _after(act), data=f"{some} {name}")

    def swap(_: Any, params: list[Parameter]) -> None:
        params[0].data, params[1].data = params[1].data, params[0].data

    if len(_square(subject)) > 1 and _square(subject)[0] == _square(subject)[1]:
        _in_every_way(subject, _after(swap), data="swapped")


@check
def parameters_may_change_their_dtype_in_mid_run(subject: Subject) -> None:
    """A model moved to another dtype with its state, as by ``model.to``, goes on in it."""
    _need_apart(subject)
    before = _dtype(subject)
    later = (torch.float64, torch.bfloat16) if before == torch.float32 else (torch.float32,)

    def move(dtype: torch.dtype) -> Change:
        def act(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
            for p in params:
                p.grad = None
                p.data = p.data.to(dtype)
                for name, x in optimizer.state.get(p, {}).items():
                    if isinstance(x, Tensor) and x.dim() and x.is_floating_point():
                        optimizer.state[p][name] = x.to(dtype)

        return act

    # A state without dimensions is a count and keeps its dtype, one of a scalar does not.
    shapes = tuple(shape for shape in subject.shapes if shape)
    for dtype in filter(subject.takes, later):

        def act(pair: Pair, dtype: torch.dtype = dtype) -> None:
            if dtype in HALF and subject.like and pair.optimizers[0].param_groups[0].get("foreach"):
                return  # ATen's lists round otherwise than its loops in half precision
            pair.step(3)
            pair.do(move(dtype))
            pair.dtype = dtype
            _go_on(pair)

        _in_every_way(subject, act, shapes=shapes, dtype_after=dtype)


@check
def a_parameter_may_be_replaced_in_its_group(subject: Subject) -> None:
    """Another parameter object in the place of one, with its state handed on, is updated then."""
    _need_apart(subject)

    def act(pair: Pair) -> None:
        pair.step(3)
        for optimizer, params in pair:
            new = Parameter(params[1].detach().clone())
            if params[1] in optimizer.state:  # one without state has nothing to hand on
                optimizer.state[new] = optimizer.state.pop(params[1])
            optimizer.param_groups[0]["params"][1] = params[1] = new
        _go_on(pair)

    _in_every_way(subject, act)


@check
def a_parameter_given_twice_is_updated_as_by_the_reference(subject: Subject) -> None:
    """A parameter that stands twice in a group gets two updates in each step of the loop."""
    _need_apart(subject)
    if not subject.drop_in:
        skip("a parameter in two places is an error to come: a drop-in replacement is asked only")
    loop = {"foreach": False} if subject.has("foreach") else {}
    pair = subject.pair(subject.typical | loop, dtype=_dtype(subject))
    pair.do(lambda optimizer, params: optimizer.param_groups[0]["params"].append(params[0]))
    _go_on(pair, 6)


# ------------------------------------------------------------------ layouts


def _columns_first(x: Tensor) -> Tensor:
    return x.t().contiguous().t()


def _with_gaps(x: Tensor) -> Tensor:
    return torch.stack([x, x], -1)[..., 0]


def _as_it_is(x: Tensor) -> Tensor:
    return x


LAYOUTS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "parameter transposed": (_columns_first, _as_it_is),
    "gradient transposed": (_as_it_is, _columns_first),
    "both transposed": (_columns_first, _columns_first),
    "parameter with gaps": (_with_gaps, _as_it_is),
    "gradient with gaps": (_as_it_is, _with_gaps),
    "gradient a row of ones": (_as_it_is, lambda x: x[:1].expand_as(x)),
    "gradient one number": (_as_it_is, lambda x: x[:1, :1].expand_as(x)),
    "gradient a view with an offset": (
        _as_it_is,
        lambda x: torch.cat([x.reshape(-1), x.reshape(-1)])[1 : 1 + x.numel()].view(x.shape),
    ),
}
"""How the memory of a parameter, and that of its gradient, is laid out."""


@check
def parameters_and_gradients_may_have_any_strides(subject: Subject) -> None:
    """How parameters and gradients lie in memory changes no number, nor does it matter if the
    gradients of the next step lie otherwise."""
    if subject.sparse:
        skip("takes sparse gradients only")
    shapes = ((4, 6), (5, 5), *[(2, 3)] * 8)  # and some small ones, which may be updated together
    dtypes = [_dtype(subject)]
    if subject.ulps == 0 and subject.takes(torch.bfloat16):
        dtypes.append(torch.bfloat16)
    for name, (of_p, of_g) in LAYOUTS.items():

        def act(pair: Pair, of_p: Any = of_p, of_g: Any = of_g) -> None:

            def lay(_: Any, params: list[Parameter]) -> None:
                for p in params:
                    p.data = of_p(p.data)

            pair.do(lay)
            for step in range(6):
                laid = of_g if step % 3 else _as_it_is
                pair.step(laid_out=lambda p, g, laid=laid: laid(g.clone()))  # type: ignore[misc]
                pair.check()

        for dtype in dtypes:
            subject.in_every_way(act, None, shapes, dtype, layout=name, dtype_=dtype)


# ------------------------------------------------------------------ states


STATE_EDITS = (
    "replaced",
    "scaled in place",
    "transposed",
    "copied",
    "of one only replaced",
    "given other memory",
)


def edit_states(how: str) -> Change:
    """A change of every tensor of a state, in one of the ways of ``STATE_EDITS``."""

    def new(x: Tensor) -> Tensor:
        return torch.full_like(x, 0.25)

    def edit(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
        for i, p in enumerate(params):
            state = optimizer.state[p]
            for name, x in [*state.items()]:
                if not isinstance(x, Tensor) or x.dim() == 0:
                    continue
                if how == "replaced" or (how == "of one only replaced" and i == 1):
                    state[name] = new(x)
                elif how == "scaled in place":
                    x.mul_(0.5)
                elif how == "transposed" and x.dim() == 2 and x.shape[0] == x.shape[1]:
                    state[name] = x.t()
                elif how == "copied":
                    state[name] = x.clone()
                elif how == "given other memory":
                    x.data = x.data.clone()

    return edit


@check
def state_tensors_may_be_edited(subject: Subject) -> None:
    """Tensors of a state that are replaced, scaled or transposed are what the next step uses."""
    _need_like_state(subject)
    for how in STATE_EDITS:
        act = _after(edit_states(how))
        _in_every_way(subject, act, state=how)


State = dict[str, Any]


def _replace_steps(states: list[State], value: float) -> None:
    for state in states:
        old = state["step"]
        state["step"] = torch.full_like(old, value) if isinstance(old, Tensor) else int(value)


def _fill_steps(states: list[State], value: float) -> None:
    for state in states:
        if isinstance(state["step"], Tensor):
            state["step"].fill_(value)
        else:
            state["step"] = int(value)


def _copy_steps(states: list[State]) -> None:
    for state in states:
        state["step"] = copy.deepcopy(state["step"])


STEP_EDITS: dict[str, Callable[[list[State]], None]] = {
    "replaced for all": lambda states: _replace_steps(states, 9),
    "changed in place for all": lambda states: _fill_steps(states, 9),
    "replaced for one": lambda states: _replace_steps(states[1:2], 9),
    "changed in place for one": lambda states: _fill_steps(states[1:2], 9),
    "changed in place for the last": lambda states: _fill_steps(states[-1:], 14),
    "set to zero": lambda states: _fill_steps(states, 0),
    "copied": _copy_steps,
}


@check
def step_counts_may_be_edited(subject: Subject) -> None:
    """A step count that is replaced or changed in place is the one from which the next step
    counts."""
    _need_like_state(subject)
    pair = subject.pair()
    pair.step()
    if any("step" not in pair.optimizers[0].state[p] for p in pair.params[0]):
        skip("counts no steps")
    for name, edit in STEP_EDITS.items():

        def change(
            optimizer: torch.optim.Optimizer, params: list[Parameter], edit: Any = edit
        ) -> None:
            edit([optimizer.state[p] for p in params])

        _in_every_way(subject, _after(change), steps=name)


RESETS: dict[str, Change] = {
    "state.clear()": lambda optimizer, params: optimizer.state.clear(),
    "state = defaultdict(dict)": lambda optimizer, _: setattr(
        optimizer, "state", defaultdict(dict)
    ),
    "del state[p]": lambda optimizer, params: optimizer.state.pop(params[1], None),
    "state[p] = {}": lambda optimizer, params: optimizer.state.__setitem__(params[0], {}),
    "state[p].clear()": lambda optimizer, params: optimizer.state[params[1]].clear(),
    "every other": lambda optimizer, params: [optimizer.state.pop(p, None) for p in params[::2]],
    "all cleared in place": lambda optimizer, params: [optimizer.state[p].clear() for p in params],
}


@check
def states_may_be_reset(subject: Subject) -> None:
    """A parameter whose state is taken away begins anew, as at its first step."""
    _need_apart(subject)
    if _keeps_state_in_groups(subject):
        skip("keeps what it remembers in its groups too")
    for name, reset in RESETS.items():
        _in_every_way(subject, _after(reset, before=4), reset=name)


@check
def states_may_be_exchanged_between_parameters(subject: Subject) -> None:
    """Two parameters whose states are exchanged go on with those."""
    _need_like_state(subject)
    shapes = _square(subject)
    if len(shapes) < 2 or shapes[0] != shapes[1]:
        skip("takes no two parameters alike")

    def exchange(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
        a, b = params[:2]
        optimizer.state[a], optimizer.state[b] = optimizer.state[b], optimizer.state[a]

    def act(pair: Pair) -> None:
        pair.step(2)
        pair.step(2, without=(0,))
        pair.do(exchange)
        _go_on(pair)

    _in_every_way(subject, act, shapes=shapes)


@check
def other_keys_in_a_state_are_left_alone(subject: Subject) -> None:
    """What a user keeps in ``state[p]`` stays there, and changes nothing."""
    _need_apart(subject)

    def add(optimizer: torch.optim.Optimizer, params: list[Parameter]) -> None:
        optimizer.state[params[0]].update(note="mine", mask=torch.ones(2))

    def act(pair: Pair) -> None:
        pair.step(2)
        pair.do(add)
        _go_on(pair)
        state = pair.optimizers[0].state[pair.params[0][0]]
        assert state.get("note") == "mine", "state[p]['note'] did not stay"

    _in_every_way(subject, act)


@check
def two_optimizers_may_share_parameters(subject: Subject) -> None:
    """Two optimizers that take turns on the same parameters each keep a state of their own."""
    subject.need("lr")

    def act(pair: Pair) -> None:
        others = pair.fresh(lr=0.03)
        for _ in range(3):
            pair.step()
            for other, params in zip(others, pair.params, strict=True):
                subject.take_step(other, params, [p.grad for p in params])
            pair.check()

    _in_every_way(subject, act)


@check
def a_loaded_state_is_used_by_the_next_step(subject: Subject) -> None:
    """A state dict of some steps before, loaded in mid-run, is what the next step goes on from."""

    def act(pair: Pair) -> None:
        pair.step(3)
        saved = [copy.deepcopy(optimizer.state_dict()) for optimizer in pair.optimizers]
        pair.step(4)
        for optimizer, state_dict in zip(pair.optimizers, saved, strict=True):
            optimizer.load_state_dict(state_dict)
        _go_on(pair)

    _in_every_way(subject, act)


# ------------------------------------------------------------------ all of it


@check
def all_of_it_at_random(subject: Subject) -> None:
    """A long run in which what is done between two steps is drawn at random."""
    _need_apart(subject)
    states = not _keeps_state_in_groups(subject)

    def act(pair: Pair) -> None:
        chance = random.Random(0)
        index, value = 0, 0.0
        actions: list[Change] = [
            lambda opt, ps: opt.load_state_dict(opt.state_dict()),
            lambda opt, ps: opt.param_groups[0]["params"].reverse(),
            lambda opt, ps: None,
            *[
                lambda opt, ps, name=name: opt.param_groups[0].update({name: value})
                for name in ("lr", "weight_decay")
                if subject.has(name)
            ],
            *[lambda opt, ps, change=change: change(ps[index]) for change in DATA_CHANGES.values()],
        ]
        if states:
            actions += [
                lambda opt, ps: opt.state.pop(ps[index], None),
                lambda opt, ps: opt.state.clear(),
            ]
        size = len(pair.shapes)
        for _ in range(60):
            action, index, value = chance.choice(actions), chance.randrange(size), chance.random()
            pair.do(action)
            pair.step(without=[i for i in range(size) if chance.random() < 0.15])
            pair.check()

    _in_every_way(subject, act)
