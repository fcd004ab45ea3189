"""Checks without a reference: what every layer must be, whatever it computes."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from typing import Any

import torch
from torch import Tensor, nn

from scratch_layers.testing.case import Case
from scratch_layers.testing.parity import LAYOUTS, SIZES, channels_last
from scratch_layers.testing.subject import (
    Subject,
    draw,
    every_case,
    leaves,
    near,
    one_case,
    outcome,
    own,
    refused,
    seeded,
    step,
)
from scratch_optim.testing.compare import assert_same, assert_same_bits, copied
from scratch_optim.testing.kit import circumstances, skip


def _state(layer: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters and buffers."""
    return copied(dict(own(layer)))


def _requires_samples(case: Case, inputs: list[Tensor], y: Tensor) -> int:
    """How many samples the inputs hold; the check is left where they hold none."""
    if not case.samples:
        skip("the first dimension does not count samples")
    sizes = {x.shape[0] if x.dim() > 0 else None for x in [*inputs, y]}
    (size, *others) = sizes
    if others or size is None:
        skip("the output has no value, or row, for each sample")
    return size


# ------------------------------------------------------------------ what is left as it was


@every_case
def keeps_its_inputs(subject: Subject, case: Case) -> None:
    """Forward and backward leave the inputs as they were, in training and in evaluation, unless
    inplace=True.
    """
    if subject.arguments(case).get("inplace"):
        skip("it is told to overwrite its input")
    for training in (True, False):
        layer = subject.make(case).train(training)
        inputs = leaves(case, subject.draw(case))
        before = copied(inputs)
        versions = [x._version for x in inputs]
        y = seeded(layer, *inputs)
        if y.requires_grad:
            y.sum().backward()
        for i, (x, kept, version) in enumerate(zip(inputs, before, versions, strict=True)):
            assert_same_bits(x, kept, f"input {i} afterwards")
            assert x._version == version, f"input {i} was written to ({training=})"


@every_case
def its_output_may_be_overwritten(subject: Subject, case: Case) -> None:
    """What follows may work in place, as ReLU(inplace=True) does: doubling the output in place
    doubles the gradients, or, where the layer keeps its output, backward says that it was changed.
    """
    for training in (True, False):
        layer = subject.make(case).train(training)
        plain, doubled = (leaves(case, subject.draw(case)) for _ in range(2))
        y = seeded(layer, *[x * 1 if x.is_floating_point() else x for x in plain])
        if not y.requires_grad:
            skip("the output has no gradient")
        (2 * y).sum().backward()
        y = seeded(layer, *[x * 1 if x.is_floating_point() else x for x in doubled])
        y.mul_(2)
        try:
            y.sum().backward()
        except RuntimeError as error:
            if "modified by an inplace operation" not in str(error):
                raise
            continue
        for i, (x, twice) in enumerate(zip(plain, doubled, strict=True)):
            if x.grad is not None:
                assert twice.grad is not None, f"input {i} has no gradient"
                # doubling is exact
                assert_same_bits(twice.grad, x.grad, f"the gradient of input {i} ({training=})")


@every_case
def evaluation_changes_nothing(subject: Subject, case: Case) -> None:
    """In evaluation neither parameters, buffers nor the random number generator change, and a
    second call gives the bits of the first.
    """
    layer = subject.make(case)
    seeded(layer, *subject.draw(case, seed=5))
    layer.eval()
    inputs = subject.draw(case)
    before, generator = _state(layer), torch.random.get_rng_state()
    first, second = layer(*inputs), layer(*inputs)
    assert_same_bits(second, first, "the second output")
    assert_same(_state(layer), before, "the state")
    assert torch.equal(torch.random.get_rng_state(), generator), "random numbers were drawn"


@every_case
def forward_leaves_the_parameters(subject: Subject, case: Case) -> None:
    """Forward and backward in training leave the parameters as they were."""
    layer = subject.make(case)
    before = copied(dict(layer.named_parameters()))
    step(case, layer, subject.draw(case))
    assert_same(copied(dict(layer.named_parameters())), before, "the parameters")


@every_case
def a_refused_input_changes_no_state(subject: Subject, case: Case) -> None:
    """A call that raises an error leaves parameters and buffers as they were."""
    asked = 0
    for change in SIZES.values():
        layer = subject.make(case)
        inputs = subject.draw(case)
        before = _state(layer)
        given = outcome(change, inputs[0])
        if not refused(given) and refused(outcome(layer, given, *inputs[1:])):
            asked += 1
            assert_same(_state(layer), before, f"the state, of an input {tuple(given.shape)}")
    if not asked:
        skip("it takes inputs of any size")


@one_case
def the_mode_is_switched_everywhere(subject: Subject, case: Case) -> None:
    """train() and eval() set ``training`` of the layer and of all its children, and return it."""
    layer = subject.make(case)
    assert layer.training, "a new layer is not in training"
    for training in (False, True):
        assert layer.train(training) is layer, "train() does not return the layer"
        flags = [module.training for module in layer.modules()]
        assert flags == [training] * len(flags), f"after train({training}): {flags}"
    assert layer.eval() is layer, "eval() does not return the layer"
    assert not layer.training, "eval() leaves it in training"


@every_case
def requires_no_gradient_where_none_is_wanted(subject: Subject, case: Case) -> None:
    """Under no_grad and inference_mode it gives the same output, without a graph."""
    layer = subject.make(case).eval()
    inputs = leaves(case, subject.draw(case))
    expected = layer(*inputs)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            y = layer(*[x * 1 if x.requires_grad else x for x in inputs])
        assert not y.requires_grad, f"under {mode.__name__} the output requires a gradient"
        assert_same_bits(y, expected, f"the output under {mode.__name__}")


# ------------------------------------------------------------------ samples


@every_case
def samples_do_not_depend_on_each_other(subject: Subject, case: Case) -> None:
    """In evaluation each sample of a batch gives what it gives alone."""
    layer = subject.make(case, torch.float64).eval()
    inputs = subject.draw(case, torch.float64)
    together = layer(*inputs)
    for n in range(_requires_samples(case, inputs, together)):
        alone = layer(*[x[n : n + 1] for x in inputs])
        near(alone, together[n : n + 1], inputs, f"the output of sample {n} alone")


@every_case
def samples_may_be_permuted(subject: Subject, case: Case) -> None:
    """In evaluation the samples in another order give their outputs and gradients in that order."""
    layer = subject.make(case, torch.float64).eval()
    inputs = subject.draw(case, torch.float64)
    expected = step(case, layer, inputs)
    size = _requires_samples(case, inputs, expected["the output"])
    order = torch.arange(size - 1, -1, -1, device=subject.device)
    given = leaves(case, [x[order] for x in inputs])
    y = seeded(layer, *given)
    near(y, expected["the output"][order], inputs, "the output")
    d_y = torch.zeros_like(y)
    d_y[0] = 1  # only by the sample that is the first now
    by = [given[i] for i in case.wrt]
    for i, d_x in zip(case.wrt, torch.autograd.grad(y, by, d_y), strict=True):
        assert (d_x[1:] == 0).all(), f"the output of one sample depends on input {i} of others"


@every_case
def takes_an_empty_batch(subject: Subject, case: Case) -> None:
    """A batch of no samples gives an output and gradients of no samples, zero gradients by the
    parameters, and leaves statistics finite.
    """
    layer = subject.make(case)
    inputs = subject.draw(case)
    shape = seeded(subject.make(case), *inputs).shape
    _requires_samples(case, inputs, torch.empty(shape))
    found = step(case, layer, [x[:0] for x in inputs])
    y = found.pop("the output")
    assert y.shape == (0, *shape[1:]), f"the output has the shape {tuple(y.shape)}"
    for name, value in found.items():
        assert value.isfinite().all(), f"{name} is {value}"
        if name.startswith("the gradient by"):
            assert (value == 0).all(), f"{name} is {value}"


# ------------------------------------------------------------------ layouts and dtypes


@every_case
def the_layout_of_the_inputs_does_not_matter(subject: Subject, case: Case) -> None:
    """Inputs that are strided, transposed, channels_last or begin within their memory give the
    output of contiguous ones.
    """
    inputs = subject.draw(case, torch.float64)
    for training in (True, False):
        for name, laid in LAYOUTS.items():
            if (name == "channels_last" and inputs[0].dim() not in (4, 5)) or name == "expanded":
                continue
            if case.random and training:
                continue  # numbers are drawn in the order of the memory
            with circumstances(layout=name, training=training):
                expected, actual = (
                    seeded(subject.make(case, torch.float64).train(training), *given)
                    for given in (inputs, [laid(x) for x in inputs])
                )
                near(actual, expected, inputs, "the output")


@every_case
def keeps_channels_last(subject: Subject, case: Case) -> None:
    """A channels_last input gives a channels_last output, if that is of the same shape."""
    x, *others = subject.draw(case)
    if x.dim() not in (4, 5):
        skip("channels_last is for inputs of four or five dimensions")
    x = channels_last(x)
    y = seeded(subject.make(case), x, *others)
    if y.shape != x.shape:
        skip("the output has another shape than the input")
    assert y.stride() == x.stride(), f"strides {y.stride()} of an input of {x.stride()}"


@one_case
def is_converted_to_other_dtypes(subject: Subject, case: Case) -> None:
    """.to(dtype), .double(), .half() and .bfloat16() convert parameters and floating buffers, and
    leave buffers of integers; forward then takes and gives that dtype.
    """
    dtypes = {torch.float64: nn.Module.double, torch.bfloat16: nn.Module.bfloat16}
    for dtype, method in [*dtypes.items(), (torch.float16, nn.Module.half)]:
        for layer in (method(subject.make(case)), subject.make(case).to(dtype)):
            found = {x.dtype for _, x in own(layer) if x.is_floating_point()}
            assert found <= {dtype}, f"after converting to {dtype} there is {found}"
        if case.half or dtype == torch.float64:
            y = seeded(layer, *subject.draw(case, dtype))
            assert y.dtype == dtype, f"the output for {dtype} is {y.dtype}"
    before = [x.dtype for _, x in own(subject.make(case)) if not x.is_floating_point()]
    after = [x.dtype for _, x in own(subject.make(case).half()) if not x.is_floating_point()]
    assert before == after, f"buffers of {before} become {after}"


@one_case
def the_constructor_takes_device_and_dtype(subject: Subject, case: Case) -> None:
    """With device and dtype as arguments all parameters and floating buffers are made so."""
    if not (subject.accepts("device") and subject.accepts("dtype")):
        skip("its constructor has no arguments device and dtype")
    layer = subject.new(case, device="meta", dtype=torch.float64)
    for name, x in own(layer):
        assert x.is_meta, f"{name} is on {x.device}, where meta was asked for"
        assert x.dtype == torch.float64 or not x.is_floating_point(), f"{name} is {x.dtype}"


@every_case
def gives_shapes_on_the_meta_device(subject: Subject, case: Case) -> None:
    """Moved to the meta device, where there are no values, it gives the shape and dtype of the
    output all the same.
    """
    inputs = subject.draw(case)
    expected = seeded(subject.make(case), *inputs)
    y = subject.make(case).to("meta")(*[x.to("meta") for x in inputs])
    found = (y.shape, y.dtype, y.is_meta)
    assert found == (expected.shape, expected.dtype, True), f"it gives {found}"


# ------------------------------------------------------------------ state and copies


@one_case
def survives_copies_and_pickles(subject: Subject, case: Case) -> None:
    """A deep copy, and what pickle makes of it, are of its class, have its state in memory of their
    own, and give its output.
    """
    layer = subject.make(case)
    seeded(layer, *subject.draw(case, seed=5))
    twins = {"deepcopy": copy.deepcopy(layer), "pickle": pickle.loads(pickle.dumps(layer))}
    inputs = subject.draw(case)
    state, expected = _state(layer), seeded(layer, *inputs)
    addresses = {x.data_ptr() for _, x in own(layer) if x.numel() > 0}
    for how, twin in twins.items():
        assert type(twin) is type(layer), f"{how} makes a {type(twin).__name__}"
        assert_same(_state(twin), state, f"the state after {how}")
        assert addresses.isdisjoint(x.data_ptr() for _, x in own(twin)), f"{how} shares memory"
        assert_same_bits(seeded(twin, *inputs), expected, f"the output after {how}")


@every_case
def its_state_can_be_saved_and_loaded(subject: Subject, case: Case) -> None:
    """Saved in the middle of training, and loaded with weights_only=True into a new layer, its
    state_dict makes that layer go on as it does, in training and in evaluation.
    """
    layer = subject.make(case)
    seeded(layer, *subject.draw(case, seed=5))
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    torch.manual_seed(6)
    fresh = subject.new(case)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    addresses = {x.data_ptr() for _, x in own(layer) if x.numel() > 0}
    assert addresses.isdisjoint(x.data_ptr() for _, x in own(fresh)), "loading shares memory"
    for training in (False, True):
        inputs = subject.draw(case, seed=7 + training)
        results = [step(case, x.train(training), inputs) for x in (fresh, layer)]
        for (name, actual), expected in zip(results[0].items(), results[1].values(), strict=True):
            assert_same_bits(actual, expected, f"{name} after loading ({training=})")


@one_case
def refuses_a_state_of_others(subject: Subject, case: Case) -> None:
    """load_state_dict(strict=True) names a key that is missing, one that is unexpected, and one of
    another size, whose tensor stays as it was.
    """
    layer = subject.make(case)

    def refusal(key: str, value: Tensor | None) -> str:
        """The words of the error for its state with a key of another value, or without it."""
        state = layer.state_dict()
        if value is None:
            del state[key]
        else:
            state[key] = value
        result = outcome(layer.load_state_dict, state)
        return str(result[1]) if refused(result) else "(there is no error)"

    for name, value in copied(layer.state_dict()).items():
        words = refusal(name, None)
        assert name in words, f"where {name} is missing, the error does not name it: {words}"
        words = refusal(name, torch.zeros(*value.shape, 7))
        assert name in words, f"where {name} is of another size, the error is: {words}"
        assert_same_bits(layer.state_dict()[name], value, name)
    words = refusal("unheard_of", torch.zeros(()))
    assert "unheard_of" in words, f"the error does not name a key that it has not: {words}"


@one_case
def two_layers_share_nothing(subject: Subject, case: Case) -> None:
    """What one layer does and learns leaves another of the same class as it was."""
    first, second = subject.make(case), subject.make(case)
    before = _state(second)
    step(case, first, subject.draw(case))
    with torch.no_grad():
        for _, x in own(first):
            x.add_(1)
    assert_same(_state(second), before, "the state of the other layer")


# ------------------------------------------------------------------ memory


@one_case
def holds_nothing_once_the_graph_is_gone(subject: Subject, case: Case) -> None:
    """Output and graph are freed with their last name, with and without a backward: no cycle of
    references holds them.
    """
    layer = subject.make(case)
    inputs = leaves(case, subject.draw(case))

    def alive(backward: bool) -> Any:
        y = seeded(layer, *[x * 1 if x.requires_grad else x for x in inputs])
        reference = weakref.ref(y)
        if backward:
            y.float().sum().backward()
        return reference

    was = gc.isenabled()
    gc.disable()  # what goes must go by itself, without the collector of cycles
    try:
        for backward in (True, False):
            assert alive(backward)() is None, f"the output is still there ({backward=})"
    finally:
        if was:
            gc.enable()


# ------------------------------------------------------------------ tools of torch


@one_case
def has_a_repr(subject: Subject, case: Case) -> None:
    """Its repr can be made, and names its class."""
    text = repr(subject.make(case))
    assert subject.cls.__name__ in text, f"{text!r} does not name {subject.cls.__name__}"


@one_case
def calls_hooks(subject: Subject, case: Case) -> None:
    """Hooks before and after forward, and around the backward, are called once, with the inputs,
    the output and their gradients.
    """
    layer = subject.make(case)
    called: list[str] = []
    seen: dict[str, Any] = {}

    def note(name: str) -> Any:
        def hook(*args: Any) -> None:
            called.append(name)
            seen[name] = args[1:]

        return hook

    layer.register_forward_pre_hook(note("forward pre"))
    layer.register_forward_hook(note("forward"))
    layer.register_full_backward_pre_hook(note("backward pre"))
    layer.register_full_backward_hook(note("backward"))
    inputs = leaves(case, subject.draw(case))
    y = seeded(layer, *inputs)
    y.backward(torch.ones_like(y))
    expected = ["forward pre", "forward", "backward pre", "backward"]
    assert called == expected, f"{called} are called, where {expected} are expected"
    assert len(seen["forward"][0]) == len(inputs), "the hook of forward does not get the inputs"
    gradients = seen["backward"][0]
    for i in case.wrt:
        gradient = inputs[i].grad
        assert gradient is not None, f"input {i} has no gradient"
        assert_same_bits(gradients[i], gradient, f"the gradient of input {i} in the hook")


def _compiled(layer: nn.Module) -> Any:
    torch._dynamo.reset()
    return torch.compile(layer, fullgraph=True, backend="aot_eager")


@one_case
def compiles_as_one_graph(subject: Subject, case: Case) -> None:
    """torch.compile(fullgraph=True) makes of it what it computes, with the gradients."""
    layer = subject.make(case)
    inputs = subject.draw(case)
    twin = copy.deepcopy(layer)
    expected, actual = step(case, layer, inputs), step(case, _compiled(twin), inputs)
    if case.random:  # drawn in an order of their own
        assert actual["the output"].shape == expected["the output"].shape
        return
    for name, value in zip(actual, expected.values(), strict=True):
        near(actual[name], value, inputs, f"{name}, compiled")


@one_case
def exports(subject: Subject, case: Case) -> None:
    """torch.export makes of it, in evaluation, a program with its output."""
    layer = subject.make(case).eval()
    inputs = draw(case)
    inputs = [x.to(subject.device) for x in inputs]
    program = torch.export.export(layer, tuple(inputs))
    near(program.module()(*inputs), layer(*inputs), inputs, "the output of the program")
