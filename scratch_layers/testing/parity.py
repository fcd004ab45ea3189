"""Checks with a reference: the layer does what another one does, or what its equation says."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from scratch_layers.testing.case import Case
from scratch_layers.testing.rounding import KINDS, NUDGES, error, granted, nudged
from scratch_layers.testing.subject import (
    Subject,
    direction,
    every_case,
    give_state,
    leaves,
    one_case,
    outcome,
    own,
    refused,
    seeded,
    step,
)
from scratch_optim.testing.compare import assert_same, assert_same_bits, copied
from scratch_optim.testing.kit import circumstances, skip

MODES = (True, True, False)
"""Training, training, evaluation."""


def _compare(
    subject: Subject, case: Case, layers: tuple[nn.Module, nn.Module], inputs: Sequence[Tensor]
) -> None:
    """One step of each; all that the reference has must be equal."""
    reference, layer = layers
    expected, actual = step(case, reference, inputs), step(case, layer, inputs)
    of_class = isinstance(subject.reference, type)
    for name, value in expected.items():
        if name.startswith("the buffer") and not of_class:
            continue  # an equation has no state of its own
        if name not in actual:  # under another name, at the same place
            index = list(expected).index(name)
            name = list(actual)[index]
        subject.agree(actual[name], value, inputs, name)


def _equal_in(subject: Subject, case: Case, dtype: torch.dtype) -> None:
    layers = subject.pair(case, dtype)
    asked = False
    for training in MODES:
        if case.random and training and not subject.same_draws:
            continue
        with circumstances(dtype=dtype, training=training):
            for layer in layers:
                layer.train(training)
            _compare(subject, case, layers, subject.draw(case, dtype, seed=1 + training))
        asked = True
    if not asked:
        skip("it draws random numbers of its own")


@every_case
def equals_the_reference_in_float64(subject: Subject, case: Case) -> None:
    """In float64 outputs, gradients and buffers of two training steps and of evaluation are those
    of the reference.
    """
    _equal_in(subject, case, torch.float64)


@every_case
def equals_the_reference_in_float32(subject: Subject, case: Case) -> None:
    """In float32 outputs, gradients and buffers of two training steps and of evaluation are those
    of the reference.
    """
    if not isinstance(subject.reference, type):
        skip("an equation is compared in float64")
    _equal_in(subject, case, torch.float32)


@every_case
def starts_as_the_reference(subject: Subject, case: Case) -> None:
    """A new layer has the parameters and buffers that a new reference has, in shape and value."""
    if not isinstance(subject.reference, type):
        skip("the reference is no layer")
    states = []
    for cls in (subject.reference, subject.cls):
        torch.manual_seed(4)
        states.append(dict(own(subject.new(case, cls))))
    expected, actual = states
    if subject.drop_in:
        assert list(actual) == list(expected), f"{list(actual)} where {list(expected)} is expected"
    for (name, a), e in zip(actual.items(), expected.values(), strict=True):
        assert_same_bits(a, e, name)


@every_case
def draws_the_references_numbers(subject: Subject, case: Case) -> None:
    """With the same seed it draws the numbers that the reference draws, and leaves the generator in
    the same state.
    """
    if not subject.same_draws:
        skip("only a drop-in, or ulps=0, must draw the same numbers")
    layers = subject.pair(case)
    inputs = subject.draw(case)
    states = []
    for layer in layers:
        seeded(layer.train(), *leaves(case, inputs))
        states.append(torch.random.get_rng_state())
    assert_same(states[1], states[0], "the state of the generator")
    if case.random:
        before = torch.manual_seed(2).get_state()
        assert not torch.equal(states[0], before), "it is said to be random, and draws nothing"


def _no_further_off(
    subject: Subject,
    case: Case,
    inputs: Sequence[Tensor],
    dtype: torch.dtype,
    training: bool = True,
    run: Callable[..., dict[str, Tensor]] = step,
    factor: int = 4,
) -> None:
    """Compare results in ``dtype`` with the reference's in float64.

    They may be as far off as the reference's in ``dtype``, or as roundings of the inputs move them,
    whichever is more. Four times as far is for luck: the roundings of a few values, or of sums in
    another order than the reference's, may cancel in the one and add up in the other.

    Args:
        subject: the layer and its reference.
        case: how they are made.
        inputs: in float64, laid out as they are to be.
        dtype: the dtype.
        training: the mode.
        run: what is done, as :func:`step`.
        factor: how many times as far.
    """
    theirs, ours = subject.pair(case, dtype)
    exact = subject.pair(case, torch.float64)[0]
    give_state(theirs, exact)
    wide = [x.to(dtype).double() if x.dtype == torch.float64 else x for x in inputs]
    moved = [(exact, nudged(wide, dtype, n)) for n in range(NUDGES)]
    given = [x.to(dtype) if x.dtype == torch.float64 else x for x in inputs]
    runs: list[Any] = [(ours, given), (theirs, given), (exact, wide), *moved]
    results = [run(case, layer.train(training), tensors) for layer, tensors in runs]
    for i, (name, mine) in enumerate(results[0].items()):
        if name.startswith("the buffer"):
            break  # which come last
        theirs_, truth, *others = [list(found.values())[i] for found in results[1:]]
        errors = error(mine, truth), error(theirs_, truth)
        allowed = factor * max(errors[1], granted(truth, others, dtype))
        assert errors[0] <= allowed, (
            f"{name} is {errors[0]:.3g} epsilons from that in float64, the reference "
            f"{errors[1]:.3g}; {allowed:.3g} are allowed ({dtype})"
        )


@every_case
def as_exact_as_the_reference(subject: Subject, case: Case) -> None:
    """In float32 and bfloat16, on ordinary, shifted, tiny and huge inputs, it is no further from
    the float64 result than the reference is, or than roundings of the inputs make.
    """
    if case.random:
        skip("it draws random numbers")
    for dtype in (torch.float32, torch.bfloat16) if case.half else (torch.float32,):
        for kind in KINDS if case.scales else ["ordinary"]:
            first, *others = subject.draw(case, torch.float64)
            with circumstances(inputs=kind):
                inputs = [KINDS[kind](first), *others]
                _no_further_off(subject, case, inputs, dtype, factor=1 if subject.drop_in else 4)


def agree_on(
    subject: Subject,
    case: Case,
    inputs: Sequence[Tensor],
    training: bool,
    run: Callable[..., dict[str, Tensor]] = step,
) -> None:
    """Compare one step on float64 inputs of any shape and layout, in float64.

    As :meth:`Subject.agree` does. Where that fails, and neither bits nor epsilons are asked for nor
    random numbers drawn, the derivative by, say, two values that are nearly equal may be
    ill-conditioned, and the reference no more exact: then float32 is judged against float64, with a
    factor of 16, since of many inputs one is the unluckiest.
    """
    reference, layer = (x.train(training) for x in subject.pair(case, torch.float64))
    expected, actual = run(case, reference, inputs), run(case, layer, inputs)
    try:
        for (name, found), value in zip(actual.items(), expected.values(), strict=False):
            subject.agree(found, value, inputs, name)
    except AssertionError:
        if case.random or subject.ulps is not None:
            raise
        _no_further_off(subject, case, inputs, torch.float32, training, run, factor=16)


def _modes(subject: Subject, case: Case) -> tuple[bool, ...]:
    """In which modes the reference's results are its own, too."""
    return (True, False) if subject.same_draws or not case.random else (False,)


@every_case
def equals_the_reference_in_all_shapes(subject: Subject, case: Case) -> None:
    """Of empty inputs, of single values and of large ones it makes what the reference makes, in
    training and in evaluation, or refuses them with the same error.
    """
    if not case.shapes:
        skip("the case has one shape only")
    for inputs_of in case.shapes:
        inputs = subject.draw(replace(case, inputs=inputs_of), torch.float64)
        for training in _modes(subject, case):
            with circumstances(shapes=[tuple(x.shape) for x in inputs], training=training):
                reference, layer = (x.train(training) for x in subject.pair(case, torch.float64))
                expected = outcome(step, case, reference, inputs)
                if refused(expected):
                    same_refusal(subject, outcome(step, case, layer, inputs), expected)
                else:
                    agree_on(subject, case, inputs, training)


def strided(x: Tensor) -> Tensor:
    """The values with a gap after each."""
    return torch.stack([x, x], -1)[..., 0]


def transposed(x: Tensor) -> Tensor:
    """The values, the dimensions in memory in reversed order."""
    order = list(range(x.dim()))[::-1]
    return x.permute(order).contiguous().permute(order)


def channels_last(x: Tensor) -> Tensor:
    """The values, those of all channels beside each other in memory, if it is 4- or 5-dim."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return x.contiguous(memory_format=formats[x.dim()]) if x.dim() in formats else x


def offset(x: Tensor) -> Tensor:
    """The values, not at the beginning of their memory, and not at a multiple of 16 bytes."""
    return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)


def expanded(x: Tensor) -> Tensor:
    """The first sample for all: one place in memory is several values."""
    return x[:1].expand_as(x) if x.dim() > 0 and len(x) > 0 else x


LAYOUTS = {f.__name__: f for f in (strided, transposed, channels_last, offset, expanded)}


def _step_in_place_of(case: Case, layer: nn.Module, inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    """As :func:`step`, of the inputs where they lie: a leaf made anew would be laid out anew."""
    given = [x.detach().requires_grad_(i in case.wrt) for i, x in enumerate(inputs)]
    y = seeded(layer, *given)
    by = {f"the gradient by input {i}": given[i] for i in case.wrt}
    by |= {f"the gradient by {name}": p for name, p in layer.named_parameters()}
    gradients = torch.autograd.grad(y, list(by.values()), direction(y))
    return {"the output": y.detach(), **dict(zip(by, gradients, strict=True))}


@every_case
def equals_the_reference_in_all_layouts(subject: Subject, case: Case) -> None:
    """Inputs that are strided, transposed, channels_last, expanded or begin within their memory
    make what they make of the reference.
    """
    for name, laid in LAYOUTS.items():
        inputs = [laid(x) for x in subject.draw(case, torch.float64)]
        for training in _modes(subject, case):
            with circumstances(layout=name, training=training):
                agree_on(subject, case, inputs, training, _step_in_place_of)


@every_case
def memory_formats_are_the_references(subject: Subject, case: Case) -> None:
    """Of channels_last inputs output and gradient are laid out in memory as the reference's."""
    if not subject.drop_in:
        skip("only a drop-in must lay out its output as the reference does")
    inputs = [channels_last(x) for x in subject.draw(case)]
    if inputs[0].dim() not in (4, 5):
        skip("channels_last is for inputs of four or five dimensions")
    expected, actual = (step(case, layer, inputs) for layer in subject.pair(case))
    for name in list(expected)[:2]:
        strides = actual[name].stride(), expected[name].stride()
        assert strides[0] == strides[1], (
            f"{name} has the strides {strides[0]}, where {strides[1]} are expected"
        )


# ------------------------------------------------------------------ what is refused

SIZES: dict[str, Any] = {
    "without its first dimension": lambda x: x[0],
    "with one more dimension": lambda x: x.unsqueeze(0),
    "with two more dimensions": lambda x: x[None, None],
    "without its last column": lambda x: x[..., :-1],
    "without its last channel": lambda x: x[:, :-1],
    "without its last sample": lambda x: x[:-1],
}
DTYPES = (torch.float64, torch.float16, torch.int64, torch.bool, torch.complex64)


def _wrong_sizes(inputs: Sequence[Tensor]) -> Iterator[tuple[str, list[Tensor]]]:
    """The inputs in sizes that a layer may refuse, with what was changed."""
    for i, x in enumerate(inputs):
        for what, change in SIZES.items():
            y = outcome(change, x)
            if not refused(y) and y.shape != x.shape and y.numel() > 0:
                yield f"input {i} {what}", [*inputs[:i], y, *inputs[i + 1 :]]
    first, *others = inputs
    if first.dim() > 1:
        x = first[:1]
        for d in range(2, x.dim()):
            x = x.narrow(d, 0, 1)
        yield "one value for each channel", [x, *others]
    yield "no input", []
    yield "an input too many", [*inputs, first]


def same_refusal(subject: Subject, actual: Any, expected: Any, words: bool = True) -> None:
    """Compare the outcome of a layer with the error of its reference, in class and words."""
    assert refused(actual), f"it accepts what the reference refuses: {expected[1]}"
    kinds = actual[0].__name__, expected[0].__name__
    assert issubclass(actual[0], expected[0]) or issubclass(expected[0], actual[0]), (
        f"it raises {kinds[0]}: {actual[1]}\nwhere the reference raises {kinds[1]}: {expected[1]}"
    )
    # a TypeError names the class; of operands that do not fit each other, torch's operator speaks
    own_words = expected[0] is not TypeError and "must match the size of tensor" not in expected[1]
    if subject.drop_in and words and own_words:
        assert actual[1] == expected[1], f"it says {actual[1]!r}, the reference {expected[1]!r}"


def _same_answer(subject: Subject, case: Case, inputs: Sequence[Tensor], training: bool) -> Any:
    """The outcomes of reference and layer; if both are outputs, of one shape and dtype."""
    expected, actual = (outcome(layer.train(training), *inputs) for layer in subject.pair(case))
    if not refused(expected) and not refused(actual):
        kinds = [(tuple(y.shape), y.dtype) for y in (actual, expected)]
        assert kinds[0] == kinds[1], f"the output is {kinds[0]}, the reference's {kinds[1]}"
    return expected, actual


@every_case
def refuses_the_sizes_that_the_reference_refuses(subject: Subject, case: Case) -> None:
    """Inputs of wrong dimensions and sizes get an error of the class of the reference's; a drop-in
    uses its words, and accepts what it accepts.
    """
    if not isinstance(subject.reference, type):
        skip("the reference is no layer")
    for training in (True, False):
        for what, inputs in _wrong_sizes(subject.draw(case)):
            with circumstances(inputs=what, training=training):
                expected, actual = _same_answer(subject, case, inputs, training)
                if refused(expected):
                    same_refusal(subject, actual, expected)
                elif subject.drop_in:
                    assert not refused(actual), f"it refuses what the reference takes: {actual[1]}"


@every_case
def takes_the_dtypes_that_the_reference_takes(subject: Subject, case: Case) -> None:
    """Inputs of another dtype than the parameters' give an output of the dtype that the reference's
    has, or an error of the class of the reference's.

    A floating dtype that the reference takes must be taken, and one that it refuses for more than
    want of a kernel refused.
    """
    if not isinstance(subject.reference, type):
        skip("the reference is no layer")
    for training in (True, False):
        given = subject.draw(case)
        for i, x in enumerate(given):
            for dtype in DTYPES:
                inputs = [*given[:i], x.to(dtype), *given[i + 1 :]]
                with circumstances(dtype=f"{dtype} for input {i}", training=training):
                    expected, actual = _same_answer(subject, case, inputs, training)
                    if not (dtype.is_floating_point and x.is_floating_point()):
                        continue
                    if refused(expected) and refused(actual):
                        same_refusal(subject, actual, expected, words=False)
                    elif refused(actual):
                        raise AssertionError(f"it refuses what the reference takes: {actual[1]}")
                    elif refused(expected) and expected[0] is not NotImplementedError:
                        same_refusal(subject, actual, expected)


# ------------------------------------------------------------------ a drop-in


def _drop_in(subject: Subject) -> type[nn.Module]:
    if not subject.drop_in:
        skip("it is no drop-in for the reference")
    assert isinstance(subject.reference, type)
    return subject.reference


@one_case
def has_signature_repr_and_attributes(subject: Subject, case: Case) -> None:
    """It is a subclass of the reference of the same name, with its signature, its repr and exactly
    its attributes, so that one class can become the other.
    """
    theirs = _drop_in(subject)
    assert issubclass(subject.cls, theirs), f"it does not inherit from {subject.against}"
    assert subject.cls.__name__ == theirs.__name__, f"its name is {subject.cls.__name__}"
    parameters = [inspect.signature(c).parameters.values() for c in (subject.cls, theirs)]
    mine, expected = ([(p.name, p.kind, p.default) for p in ps] for ps in parameters)
    assert mine == expected, f"its signature is {inspect.signature(subject.cls)}"
    reference, layer = subject.pair(case)
    assert repr(layer) == repr(reference), f"{layer!r} where {reference!r} is expected"
    names = list(vars(layer)), list(vars(reference))
    assert names[0] == names[1], f"its attributes are {names[0]}, the reference's {names[1]}"
    for name, value in vars(reference).items():
        if isinstance(value, (int, float, str, bool, tuple, type(None))):
            found = getattr(layer, name)
            assert found == value, f"its {name} is {found!r}, where {value!r} is expected"


@every_case
def exchanges_its_state_with_the_reference(subject: Subject, case: Case) -> None:
    """In the middle of training the state of each can be loaded by the other, strictly, and both go
    on alike.
    """
    _drop_in(subject)
    reference, layer = subject.pair(case)
    inputs = [subject.draw(case, seed=seed) for seed in range(4)]
    seeded(reference, *inputs[0])
    layer.load_state_dict(copied(reference.state_dict()))
    _compare(subject, case, (reference, layer), inputs[1])
    reference.load_state_dict(layer.state_dict())
    _compare(subject, case, (reference, layer), inputs[2])
    states = reference.state_dict(), layer.state_dict()
    assert list(states[0]) == list(states[1]), f"its state has the keys {list(states[1])}"
    versions = [state._metadata for state in states]  # type: ignore[attr-defined]
    assert versions[0] == versions[1], f"the metadata of its state are {versions[1]}"
    _compare(subject, case, (reference.eval(), layer.eval()), inputs[3])


def saved_bytes(case: Case, layer: nn.Module, inputs: Sequence[Tensor]) -> int:
    """Bytes of the distinct storages that the graph holds, parameters apart.

    Those that are saved for the backward, and those that a node holds as attributes, which no hook
    sees.
    """
    storages = {}

    def pack(x: Tensor) -> Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    inputs = leaves(case, inputs)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        y = seeded(layer, *inputs)
    nodes = [y.grad_fn] if y.grad_fn is not None else []
    for node in nodes:  # which grows
        for x in tree_leaves(list(getattr(node, "__dict__", {}).values())):
            if isinstance(x, Tensor):
                pack(x)
        nodes += [n for n, _ in node.next_functions if n is not None and n not in nodes]
    for parameter in layer.parameters():
        storages.pop(parameter.untyped_storage().data_ptr(), None)
    assert y.requires_grad, "the output does not require a gradient"
    return sum(storages.values())


@every_case
def saves_no_more(subject: Subject, case: Case) -> None:
    """It keeps no more bytes for the backward than the reference does, parameters apart."""
    _drop_in(subject)
    for training in (True, False):
        inputs = subject.draw(case)
        reference, mine = (
            saved_bytes(case, layer.train(training), inputs) for layer in subject.pair(case)
        )
        assert mine <= reference, f"{mine} bytes, the reference {reference} ({training=})"


@every_case
def autocast_gives_the_references_dtype(subject: Subject, case: Case) -> None:
    """Under autocast the output has the dtype that the reference's has, or the same error."""
    if not isinstance(subject.reference, type):
        skip("the reference is no layer")

    def result(layer: nn.Module, inputs: Sequence[Tensor]) -> Any:
        y = seeded(layer, *leaves(case, inputs))
        y.float().sum().backward()
        return y.dtype, y.requires_grad

    for dtype in (torch.float32, torch.bfloat16):
        inputs = subject.draw(case, dtype)
        with torch.autocast(subject.device.type, torch.bfloat16):
            expected, actual = (outcome(result, layer, inputs) for layer in subject.pair(case))
        if refused(expected):
            expected, actual = expected[0], actual[0] if refused(actual) else actual
        assert actual == expected, f"{actual} where {expected} is expected, of {dtype} inputs"
