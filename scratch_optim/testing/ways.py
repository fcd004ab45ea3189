"""Checks of the ways to run one equation: in lists, fused, compiled, differentiated, scaled, ...

Most compare the class with itself, run as a plain loop over ordinary tensors.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import gradcheck

from .compare import assert_same, assert_same_bits, copied, epsilons, same_bits
from .kit import check, circumstances, skip
from .options import Options, describe
from .runs import give_other_memory
from .subject import REFUSALS, Pair, Subject, gradients, parameters

STEPS = 10

PER_STEP = 8.0
"""How many epsilons of the largest value two kernels of one equation may part in a step: they
round in other places, at most sixteen times by half an epsilon."""


def _equal(pair: Pair, steps: int = STEPS) -> None:
    """Let both take steps and compare, after the first and after all."""
    for some in (1, steps - 1):
        pair.step(some)
        pair.check()


def _loop(subject: Subject) -> Options:
    return {"foreach": False} if subject.has("foreach") else {}


# ------------------------------------------------------------------ lists


@check
def lists_equal_the_loop(subject: Subject) -> None:
    """``foreach=True`` computes what ``foreach=False`` computes, in float32 and float64."""
    subject.need("foreach")
    for dtype, all_options in (
        (torch.float64, subject.combinations),
        (torch.float32, subject.options),
    ):
        for options in all_options:
            with circumstances(options=describe(options), dtype=dtype):
                lists, loop = options | {"foreach": True}, options | {"foreach": False}
                _equal(subject.twins(lists, loop, dtype=dtype))


@check
def many_and_large_tensors_equal_the_loop(subject: Subject) -> None:
    """Hundreds of small tensors and one of a million values are updated as each would be alone."""
    if subject.needs_closure:
        skip("its step is one of all parameters together")
    large = ((2**20 + 77,), (260, 33, 3, 3), *subject.shapes)
    many = subject.shapes * 30
    if all(len(shape) == 2 for shape in subject.shapes):
        large = ((260, 99), *subject.shapes)
    for shapes in (large, many):
        pair = subject.twins(subject.typical, subject.typical | _loop(subject), shapes=shapes)
        alone = [subject.make([p], **subject.typical | _loop(subject)) for p in pair.params[1]]
        for row in gradients(shapes, torch.float32, subject.device, steps=3):
            subject.take_step(
                pair.optimizers[0],
                pair.params[0],
                [subject.as_given(p, g) for p, g in zip(pair.params[0], row, strict=True)],
            )
            for optimizer, p, g in zip(alone, pair.params[1], row, strict=True):
                subject.take_step(optimizer, [p], [subject.as_given(p, g)])
        pair.taken = 3
        for i, (p, q) in enumerate(zip(*pair.params, strict=True)):
            pair.compare(p, q, f"parameter {i} {tuple(p.shape)} of {len(shapes)} after 3 steps")


@check
def mixed_dtypes_are_updated_as_if_apart(subject: Subject) -> None:
    """Parameters of several dtypes in one group get what they get in optimizers of their own."""
    dtypes = [d for d in (torch.float32, torch.float64, torch.bfloat16) if subject.takes(d)]
    if subject.needs_closure:
        skip("its step is one of all parameters together")
    if not dtypes:
        skip("takes no step at all: see takes_every_shape")
    for way, switch in subject.ways.items():
        mixed = {d: parameters(((5, 3), (4, 6)), d, subject.device) for d in dtypes}
        apart = {d: parameters(((5, 3), (4, 6)), d, subject.device) for d in dtypes}
        together = [p for d in dtypes for p in mixed[d]]
        one = subject.make(together, **subject.typical | switch)
        each = {d: subject.make(apart[d], **subject.typical | switch) for d in dtypes}
        for step in range(5):
            rows = {d: gradients(((5, 3), (4, 6)), d, subject.device)[step] for d in dtypes}
            given = [
                subject.as_given(p, g)
                for d in dtypes
                for p, g in zip(mixed[d], rows[d], strict=True)
            ]
            subject.take_step(one, together, given)
            for d in dtypes:
                own = [subject.as_given(p, g) for p, g in zip(apart[d], rows[d], strict=True)]
                subject.take_step(each[d], apart[d], own)
        for d in dtypes:
            for p, q in zip(mixed[d], apart[d], strict=True):
                assert_same_bits(p, q, f"a parameter of {d} beside other dtypes ({way})")


# ------------------------------------------------------------------ fused


@check
def fused_equals_the_loop(subject: Subject) -> None:
    """``fused=True`` computes what the loop computes, up to the roundings of another kernel."""
    subject.need("fused")
    options = subject.typical
    # small tensors and a large one may have kernels of their own, each with seconds to compile
    for dtype, shapes in ((torch.float32, subject.shapes), (torch.float64, ((96, 96),))):
        if not subject.takes(dtype):
            continue
        ways = options | {"fused": True}, options | _loop(subject)
        try:
            pair = subject.twins(*ways, dtype=dtype, shapes=shapes)
            pair.step()
        except REFUSALS as error:
            skip(f"refuses fused=True: {error}")
        for steps in (0, STEPS - 1):
            pair.step(steps)
            for p, q in zip(*pair.params, strict=True):
                apart = epsilons(p, q)
                assert apart <= PER_STEP * pair.taken, (
                    f"parameter {tuple(p.shape)} after {pair.taken} steps: {apart:.3g} epsilons of "
                    f"{dtype} from the loop, where {PER_STEP * pair.taken:.3g} are allowed "
                    f"({describe(options)})"
                )


@check
def fused_follows_what_is_given_other_memory(subject: Subject) -> None:
    """State, or parameters, moved to other memory between two steps are what ``fused=True`` reads
    and writes in the next step."""
    subject.need("fused")
    options = subject.typical
    try:
        pair = subject.twins(options | {"fused": True}, options | _loop(subject))
        pair.step(2)
    except REFUSALS as error:
        skip(f"refuses fused=True: {error}")
    for which in ("state", "parameters"):
        for optimizer, params in pair:
            give_other_memory(optimizer, params, which)
        pair.step(2)
        mine, other = (
            [x for p in params for x in (p, *optimizer.state[p].values()) if isinstance(x, Tensor)]
            for optimizer, params in pair
        )
        for x, y in zip(mine, other, strict=True):
            apart = epsilons(x, y.to(x.dtype))
            assert apart <= PER_STEP * pair.taken, (
                f"{which} moved: a tensor {tuple(x.shape)} is {apart:.3g} epsilons from the "
                f"loop's, where {PER_STEP * pair.taken:.3g} are allowed ({describe(options)})"
            )


@check
def fused_leaves_the_gradient_as_it_is(subject: Subject) -> None:
    """``fused=True`` writes to no gradient, and to no state of the random numbers."""
    subject.need("fused")
    params = parameters(subject.shapes, device=subject.device)
    try:
        optimizer = subject.make(params, **subject.typical | {"fused": True})
        for row in gradients(subject.shapes, device=subject.device)[:2]:
            grads = [subject.as_given(p, g) for p, g in zip(params, row, strict=True)]
            before, random = copied(grads), torch.get_rng_state()
            subject.take_step(optimizer, params, grads)
            assert_same(grads, before, "gradients")
            assert torch.equal(torch.get_rng_state(), random), "random numbers were drawn"
    except REFUSALS as error:
        if isinstance(error, AssertionError):
            raise
        skip(f"refuses fused=True: {error}")


# ------------------------------------------------------------------ layouts


def _in_its_order(_: Tensor, g: Tensor) -> Tensor:
    return g.clone()


def _in_other_order(_: Tensor, g: Tensor) -> Tensor:
    """A copy of a matrix that lies in memory column by column."""
    return g.t().clone(memory_format=torch.contiguous_format).t()


def _lay_state_in_other_order(optimizer: torch.optim.Optimizer, params: list[Any]) -> None:
    """Load the state as it would be saved by a model that lies in memory column by column."""
    saved = optimizer.state_dict()
    states = {
        key: {
            name: _in_other_order(x, x) if isinstance(x, Tensor) and x.dim() == 2 else x
            for name, x in state.items()
        }
        for key, state in saved["state"].items()
    }
    optimizer.load_state_dict(copied({**saved, "state": states}))


@check
def gradients_and_state_may_lie_otherwise_than_their_parameters(subject: Subject) -> None:
    """Gradients, or a loaded state, whose elements lie in memory in another order than those of
    their parameters give, in lists and with ``fused=True``, what they give the loop."""
    if subject.needs_closure or subject.sparse:
        skip("takes no dense gradients alone")
    if not subject.has("foreach") and not subject.has("fused"):
        skip("has no way to run but one")
    of_matrices = all(len(shape) == 2 for shape in subject.shapes)  # which may take long
    small: tuple[tuple[int, ...], ...] = ((4, 6),) * 9  # as many as may be updated together
    large = (*small, (260, 99) if of_matrices else (1030, 512))
    ways = {way: (switch, large) for way, switch in subject.ways.items() if way != "for-loop"}
    if subject.has("fused"):
        ways["fused"] = ({"fused": True}, small)
    loop = subject.typical | _loop(subject)
    for way, (switch, shapes) in ways.items():
        for which in ("gradients", "state"):
            with circumstances(way=way, laid_out_by_columns=which):
                try:
                    pair = subject.twins(subject.typical | switch, loop, shapes=shapes)
                    pair.step(2)
                except REFUSALS:
                    continue
                if which == "state":
                    pair.do(_lay_state_in_other_order)
                pair.step(3, laid_out=_in_its_order if which == "state" else _in_other_order)
                for i, (p, q) in enumerate(zip(*pair.params, strict=True)):
                    apart = epsilons(p, q)
                    assert apart <= PER_STEP * pair.taken, (
                        f"parameter {i} {tuple(p.shape)} after {pair.taken} steps: {apart:.3g} "
                        f"epsilons from the loop, where {PER_STEP * pair.taken:.3g} are allowed"
                    )


# ------------------------------------------------------------------ capturable, compiled


@check
def capturable_equals_the_loop(subject: Subject) -> None:
    """``capturable=True``, with its step count on the device, computes what the loop computes."""
    subject.need("capturable")
    if torch.device(subject.device).type == "cpu":
        skip("a CPU captures nothing")
    for name, way in subject.ways.items():
        with circumstances(way=name):
            capturable = subject.typical | way | {"capturable": True}
            pair = subject.twins(capturable, subject.typical | _loop(subject))
            pair.ulps = 48.0 * STEPS  # 1 - beta**t on the device is rounded to the state's dtype
            pair.step(STEPS)
            for p, q in zip(*pair.params, strict=True):
                pair.compare(p, q, f"parameter {tuple(p.shape)} after {STEPS} steps")


@check
def compiled_step_equals_the_eager_one(subject: Subject) -> None:
    """``torch.compile(optimizer.step)`` computes what ``optimizer.step`` computes."""
    if subject.needs_closure:
        skip("its step takes a closure")
    pair = subject.twins(subject.typical, subject.typical)
    torch._dynamo.reset()
    step = torch.compile(pair.optimizers[0].step, backend="eager")
    for row in gradients(subject.shapes, device=subject.device)[:3]:
        for params in pair.params:
            for p, g in zip(params, row, strict=True):
                p.grad = subject.as_given(p, g)
        step()
        pair.optimizers[1].step()
        pair.taken += 1
        for p, q in zip(*pair.params, strict=True):
            what = f"parameter {tuple(p.shape)} after {pair.taken} steps"
            if subject.ulps == 0:
                assert_same_bits(p, q, what)
            else:
                pair.ulps = 48.0 * pair.taken  # it may be traced into other operations
                pair.compare(p, q, what)
    torch._dynamo.reset()


# ------------------------------------------------------------------ differentiable


def _trained(subject: Subject, options: Options, theta: Tensor, steps: int = 3) -> Tensor:
    """A parameter after some steps on a loss that is no polynomial, as a function of its start."""
    theta = theta.clone()
    optimizer = subject.make([theta], **options, differentiable=True)
    for _ in range(steps):
        now = theta.clone()  # the step changes theta in place: the loss must have saved another
        loss = (now.sin() * now + 0.5 * now**2).sum()
        (theta.grad,) = torch.autograd.grad(loss, theta, create_graph=True)
        optimizer.step()
    return theta


@check
def differentiable_step_equals_the_loop(subject: Subject) -> None:
    """``differentiable=True`` computes what the loop computes, and keeps the graph."""
    subject.need("differentiable")
    torch.set_default_dtype(torch.float64)  # torch keeps step in it, and computes 1 - beta**step
    for options in subject.options:
        with circumstances(options=describe(options)):
            pair = subject.twins(options, options | _loop(subject), dtype=torch.float64)
            clones = [p.clone() for p in pair.params[0]]
            optimizer = subject.make(clones, **options, differentiable=True)
            for row in gradients(pair.shapes, torch.float64, subject.device):
                given = [[subject.as_given(p, g) for p, g in zip(ps, row, strict=True)]
                         for ps in (clones, pair.params[1])]  # fmt: skip
                subject.take_step(optimizer, clones, given[0])
                subject.take_step(pair.optimizers[1], pair.params[1], given[1])
            for p, q in zip(clones, pair.params[1], strict=True):
                assert p.requires_grad, "the result of a differentiable step has no graph"
                pair.compare(p, q, f"parameter {tuple(p.shape)} after 10 steps")


def _smooth(subject: Subject) -> list[Options]:
    """The combinations of options with which a run can be compared with differences."""
    # 1/(sqrt(v) + eps) must be smooth on the scale of a difference
    smooth = {"eps": 1e-3} if subject.has("eps") else {}
    # maximize climbs to where the loss bends too much for differences
    return [{**options, **smooth} for options in subject.options if not options.get("maximize")]


@check
def differentiable_step_passes_gradcheck(subject: Subject) -> None:
    """The derivative of three differentiable steps by the parameters is that of differences."""
    subject.need("differentiable")
    torch.set_default_dtype(torch.float64)
    theta = torch.tensor([[0.7, -1.3], [0.4, 0.9]], dtype=torch.float64, requires_grad=True)
    for options in _smooth(subject):
        with circumstances(options=describe(options)):
            assert gradcheck(lambda x, own=options: _trained(subject, own, x), (theta,)), (
                "the derivative differs"
            )


@check
def differentiable_step_passes_gradcheck_by_its_options(subject: Subject) -> None:
    """The derivative of three differentiable steps by the learning rate, or by the weight decay, is
    that of differences, where these may be tensors and have a derivative."""
    subject.need("differentiable")
    torch.set_default_dtype(torch.float64)
    theta = torch.tensor([0.7, -1.3], dtype=torch.float64, requires_grad=True)
    derived = 0
    for options in _smooth(subject):
        for name in filter(subject.has, ("lr", "weight_decay")):
            value = torch.tensor(options.get(name) or 0.1, dtype=torch.float64, requires_grad=True)

            def trained(x: Tensor, name: str = name, options: Options = options) -> Tensor:
                return _trained(subject, {**options, name: x}, theta)

            try:
                result = trained(value).sum()
            except REFUSALS:
                continue  # it may be a number only
            with circumstances(options=describe(options), by=name):
                if torch.autograd.grad(result, value, allow_unused=True)[0] is None:
                    continue  # and whoever asks for it is told so
                derived += 1
                assert gradcheck(trained, (value,), fast_mode=True), "the derivative differs"
    if not derived:
        skip("has no derivative by the learning rate or the weight decay")


# ------------------------------------------------------------------ GradScaler


def _scaled(
    subject: Subject, optimizer: Any, params: list[Any], steps: int, infinite: tuple[int, ...]
) -> None:
    """Steps through a GradScaler; those in ``infinite`` have one infinite gradient."""
    scaler = torch.amp.GradScaler(
        torch.device(subject.device).type, init_scale=1024.0, growth_interval=3
    )
    scaler.scale(torch.ones((), device=subject.device))  # starts it
    for step in range(steps):
        scale = scaler.get_scale()
        row = gradients(subject.shapes, device=subject.device)[step % 10]
        grads = [subject.as_given(p, g * scale) for p, g in zip(params, row, strict=True)]
        if step in infinite:
            values = grads[0]._values() if grads[0].is_sparse else grads[0]
            values[(0,) * values.dim()] = torch.inf
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        before = copied([[p.detach() for p in params], _states(optimizer, params)])
        scaler.step(optimizer)
        scaler.update()
        if step in infinite:
            after = [[p.detach() for p in params], _states(optimizer, params)]
            if not any(before[1]):  # made at the first step, whether it is skipped or not
                before[1] = after[1] = []
            assert_same(after, before, "parameters and states in a skipped step")
            assert scaler.get_scale() == scale / 2, "the scaler did not see the infinity"


def _states(optimizer: torch.optim.Optimizer, params: list[Any]) -> list[dict[str, Any]]:
    return [dict(optimizer.state.get(p, {})) for p in params]


@check
def steps_through_a_gradscaler(subject: Subject) -> None:
    """With ``torch.amp.GradScaler`` a step with an infinite gradient is skipped wholly, and the
    others are those of unscaled gradients."""
    if subject.needs_closure:
        skip("GradScaler takes no closure")
    infinite = (1, 3)
    ways: dict[str, Options] = {"loop": _loop(subject)}
    if subject.has("fused") and subject.step_error(
        lambda params, **o: subject.make(params, **o, fused=True)
    ) is None:  # fmt: skip
        ways["fused"] = {"fused": True}
    for name, way in ways.items():
        with circumstances(way=name):
            pair = subject.twins(subject.typical | way, subject.typical | way)
            _scaled(subject, pair.optimizers[0], pair.params[0], 6, infinite)
            for step in range(6):
                if step not in infinite:
                    row = gradients(pair.shapes, device=subject.device)[step]
                    own = zip(pair.params[1], row, strict=True)
                    subject.take_step(
                        pair.optimizers[1], pair.params[1], [subject.as_given(p, g) for p, g in own]
                    )
            for p, q in zip(*pair.params, strict=True):
                assert_same_bits(p, q, f"parameter {tuple(p.shape)} after 4 of 6 scaled steps")


# ------------------------------------------------------------------ complex numbers


@check
def complex_parameters_are_two_real_ones(subject: Subject) -> None:
    """A complex parameter is updated as the real one of its real and imaginary parts, or refused
    before anything is changed."""
    shapes = tuple(s for s in subject.shapes if len(s) == 2) or subject.shapes
    if all(len(shape) == 2 for shape in subject.shapes):
        skip("takes matrices only")
    refusal: Exception | None = None
    taken = 0
    for options in subject.options:
        for way, switch in subject.ways.items():
            with circumstances(options=describe(options), way=way):
                params = parameters(shapes, torch.complex64, subject.device)
                halves = [
                    torch.nn.Parameter(torch.view_as_real(p.detach()).clone()) for p in params
                ]
                kept = copied([p.detach() for p in params])
                rows = gradients(shapes, torch.complex64, subject.device)[:4]
                given = [subject.as_given(p, g) for p, g in zip(params, rows[0], strict=True)]
                try:
                    subject.take_step(subject.make(params, **options | switch), params, given)
                except Exception as error:  # whatever it raises, it does not take them
                    refusal = error
                    assert_same([p.detach() for p in params], kept, "parameters after a refusal")
                    continue
                taken += 1
                params = [torch.nn.Parameter(p) for p in kept]
                optimizers = [subject.make(x, **options | switch) for x in (params, halves)]
                for row in rows:
                    given = [subject.as_given(p, g) for p, g in zip(params, row, strict=True)]
                    real = [torch.view_as_real(g.to_dense()).clone() for g in given]
                    subject.take_step(optimizers[0], params, given)
                    subject.take_step(optimizers[1], halves, real)
                for p, q in zip(params, halves, strict=True):
                    apart = epsilons(torch.view_as_real(p.detach()), q)
                    assert apart <= PER_STEP * 4, (
                        f"parameter {tuple(p.shape)}: {apart:.3g} epsilons from the real one, "
                        f"where {PER_STEP * 4:.3g} are allowed"
                    )
    if not taken:
        skip(f"takes no complex parameters: {refusal}")


# ------------------------------------------------------------------ sparse gradients

SIZE = (6, 3)


def _sparse(step: int, subject: Subject, dtype: torch.dtype = torch.float32) -> Tensor:
    """An uncoalesced gradient of two rows, of which one is named twice."""
    values = gradients(((3, 3),), dtype, subject.device)[step][0]
    rows = torch.tensor([[step % 6, (2 * step + 1) % 6, step % 6]], device=subject.device)
    return torch.sparse_coo_tensor(rows, values, SIZE, check_invariants=True)


def _sparse_steps(
    subject: Subject, make: Any, options: Options, lay: Any, steps: int = 6
) -> list[torch.nn.Parameter]:
    params = parameters((SIZE,), device=subject.device)
    optimizer = make(params, **options)
    for step in range(steps):
        subject.take_step(optimizer, params, [lay(_sparse(step, subject))])
    return params


def _sparse_options(subject: Subject) -> list[Options]:
    """The combinations with which it takes a sparse gradient.

    Raises:
        NotApplicable: there is none, or it needs a closure, and so a loss and not gradients.
    """
    if subject.needs_closure:
        skip("its step takes a closure")
    taken = []
    for options in subject.options:
        try:
            _sparse_steps(subject, subject.make, options, lambda g: g, steps=1)
        except REFUSALS:
            continue
        taken.append(options)
    return taken or skip("takes no sparse gradients")


@check
def sparse_gradients_are_taken_or_refused_whole(subject: Subject) -> None:
    """A sparse gradient that is refused leaves every parameter and state as it was."""
    if subject.needs_closure:
        skip("its step is one of all parameters together")
    for options in subject.options:
        shapes = (SIZE, SIZE)
        params = parameters(shapes, device=subject.device)
        optimizer = subject.make([{"params": [p]} for p in params], **options)
        dense = gradients(shapes, device=subject.device)[0]
        for p, g in zip(params, dense, strict=True):
            p.grad = _sparse(1, subject) if subject.sparse else subject.as_given(p, g)
        params[1].grad = dense[1].clone() if subject.sparse else _sparse(0, subject)
        before = copied([p.detach() for p in params])
        try:
            subject.take_step(optimizer, params, [p.grad for p in params])
        except REFUSALS as error:
            with circumstances(options=describe(options), refusal=str(error)):
                assert_same([p.detach() for p in params], before, "parameters after a refused step")


@check
def sparse_gradients_are_left_as_they_are(subject: Subject) -> None:
    """After a step a sparse gradient is the same tensor with the same rows and values, neither
    written to nor made dense."""
    for options in _sparse_options(subject):
        with circumstances(options=describe(options)):
            params = parameters((SIZE,), device=subject.device)
            optimizer = subject.make(params, **options)
            for step in range(3):
                g = _sparse(step, subject)
                before = copied([g._indices(), g._values()])
                subject.take_step(optimizer, params, [g])
                assert params[0].grad is g, "the gradient was replaced by another tensor"
                assert_same([g._indices(), g._values()], before, "the gradient's rows and values")


@check
def sparse_gradients_named_twice_are_summed(subject: Subject) -> None:
    """A gradient that names a row twice does what the coalesced one does."""
    for options in _sparse_options(subject):
        with circumstances(options=describe(options)):
            apart, together = (
                _sparse_steps(subject, subject.make, options, lay)
                for lay in (lambda g: g, lambda g: g.coalesce())
            )
            far = epsilons(apart[0], together[0])
            assert far <= 6 * PER_STEP, f"{far:.3g} epsilons from the coalesced gradient's result"


@check
def sparse_gradients_give_what_the_reference_gives(subject: Subject) -> None:
    """Steps on sparse gradients are those of the reference, where it takes them."""
    if not isinstance(subject.reference, type):
        skip("has no class as reference")
    for options in _sparse_options(subject):
        with circumstances(options=describe(options)):
            try:
                theirs = _sparse_steps(subject, subject.make_reference, options, lambda g: g)
            except REFUSALS:
                continue  # it cannot either
            mine = _sparse_steps(subject, subject.make, options, lambda g: g)
            far = epsilons(mine[0], theirs[0])
            # Torch's sparse Adagrad is written as another formula than its dense one: roundings
            # are what is asked for, whatever ``ulps`` says.
            assert far <= 6 * PER_STEP, f"{far:.3g} epsilons from the reference's result"


# ------------------------------------------------------------------ options that are tensors


@check
def a_learning_rate_may_be_a_tensor(subject: Subject) -> None:
    """A 0-dim tensor as learning rate does what the number does, is read anew at every step, and
    stays as it is; or it is refused when the optimizer is made."""
    subject.need("lr")
    if subject.needs_closure:
        skip("its step takes a closure")
    for way, switch in subject.ways.items():
        lr = torch.tensor(0.1, device=subject.device)
        options = subject.typical | switch
        try:
            pair = subject.twins(options | {"lr": lr}, options | {"lr": 0.1})
        except REFUSALS as error:
            if way == "for-loop" or len(subject.ways) == 1:
                skip(f"refuses it: {error}")
            continue
        with circumstances(way=way):
            pair.ulps = None
            pair.step(2)
            pair.check()
            lr.fill_(0.03)
            pair.optimizers[1].param_groups[0]["lr"] = 0.03
            pair.step(3)
            for p, q in zip(*pair.params, strict=True):
                pair.compare(p, q, f"parameter {tuple(p.shape)} after {pair.taken} steps")
            assert lr.item() == torch.tensor(0.03).item(), "the tensor was changed"
            assert not same_bits(pair.params[0][0], parameters(pair.shapes)[0]), "did not move"
