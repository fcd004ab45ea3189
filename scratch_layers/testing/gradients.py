"""Checks without a reference: the gradient is that of what is computed, in every way to ask."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from scratch_layers.testing.case import Case
from scratch_layers.testing.subject import (
    Subject,
    direction,
    every_case,
    leaves,
    near,
    one_case,
    seeded,
    step,
)
from scratch_optim.testing.compare import assert_same_bits, copied, same_bits
from scratch_optim.testing.kit import circumstances, skip


def _modes(subject: Subject, case: Case) -> tuple[bool, ...]:
    """Training and evaluation, or training alone where evaluation has the same bits."""
    inputs = subject.draw(case, torch.float64)
    results = [
        step(case, subject.make(case, torch.float64).train(mode), inputs) for mode in (True, False)
    ]
    same = all(same_bits(a, b) for a, b in zip(*(found.values() for found in results), strict=True))
    return (True,) if same else (True, False)


def _function(
    subject: Subject, case: Case, training: bool
) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """Output as a function of inputs and parameters, in float64, and where to take it."""
    layer = subject.make(case, torch.float64).train(training)
    inputs = leaves(case, subject.draw(case, torch.float64))
    names = [name for name, _ in layer.named_parameters()]
    buffers = copied(dict(layer.named_buffers()))

    def f(*tensors: Tensor) -> Tensor:
        torch.manual_seed(2)
        given, parameters = tensors[: len(inputs)], tensors[len(inputs) :]
        state = {**dict(zip(names, parameters, strict=True)), **copied(buffers)}
        y: Tensor = torch.func.functional_call(layer, state, given)
        return y

    return f, [*inputs, *layer.parameters()]


@every_case
def gradients_are_right(subject: Subject, case: Case) -> None:
    """In float64 the gradients by inputs and parameters are those that central differences find, in
    training and in evaluation.
    """
    for training in _modes(subject, case):
        f, at = _function(subject, case, training)
        with circumstances(training=training):
            gradcheck(f, at, nondet_tol=1e-12 if case.random else 0.0)


@every_case
def forward_derivatives_are_right(subject: Subject, case: Case) -> None:
    """In float64 the forward-mode derivatives are those that central differences find."""
    for training in _modes(subject, case):
        f, at = _function(subject, case, training)
        with circumstances(training=training):
            gradcheck(f, at, check_forward_ad=True, check_backward_ad=False)


@every_case
def second_derivatives_are_right(subject: Subject, case: Case) -> None:
    """In float64 the derivatives of the gradients are those that central differences find."""
    for training in _modes(subject, case):
        f, at = _function(subject, case, training)
        with circumstances(training=training):
            gradgradcheck(f, at, nondet_tol=1e-12 if case.random else 0.0)


@every_case
def every_parameter_gets_a_gradient(subject: Subject, case: Case) -> None:
    """Every parameter is a leaf that requires a gradient, and gets one of its shape and dtype."""
    layer = subject.make(case)
    inputs = subject.draw(case)
    if not list(layer.parameters()):
        skip("it has no parameters")
    y = seeded(layer, *inputs)
    assert y.requires_grad, "the output does not require a gradient"
    y.backward(direction(y))
    for name, p in layer.named_parameters():
        assert p.is_leaf, f"{name} is no leaf"
        assert p.requires_grad, f"{name} requires no gradient"
        assert p.grad is not None, f"{name} has no gradient"
        kinds = [(tuple(x.shape), x.dtype) for x in (p.grad, p)]
        assert kinds[0] == kinds[1], f"the gradient of {name} is {kinds[0]}, not {kinds[1]}"


@every_case
def the_upstream_gradient_is_kept_and_may_have_any_strides(subject: Subject, case: Case) -> None:
    """The gradient that comes from above is left as it was, and laid out in memory in another way
    gives the same gradients.
    """
    for training in _modes(subject, case):
        layer = subject.make(case, torch.float64).train(training)
        inputs = leaves(case, subject.draw(case, torch.float64))
        by = [inputs[i] for i in case.wrt] + list(layer.parameters())
        y = seeded(layer, *[x * 1 if x.requires_grad else x for x in inputs])
        upstream = direction(y)
        before = copied(upstream)
        expected = torch.autograd.grad(y, by, upstream, retain_graph=True)
        assert_same_bits(upstream, before, "the gradient that came from above, afterwards")
        gaps = torch.stack([upstream, upstream], -1)[..., 0]
        order = list(range(y.dim()))[::-1]
        turned = upstream.permute(order).contiguous().permute(order)
        for laid in (gaps, turned):
            found = torch.autograd.grad(y, by, laid, retain_graph=True)
            for actual, value in zip(found, expected, strict=True):
                near(actual, value, inputs, f"a gradient, from above with strides {laid.stride()}")
        one = torch.ones((), dtype=y.dtype, device=y.device).expand_as(y)
        found = torch.autograd.grad(y, by, one, retain_graph=True)
        for actual, value in zip(found, torch.autograd.grad(y, by, one.clone()), strict=True):
            near(actual, value, inputs, "a gradient, from above the same number everywhere")


@every_case
def a_second_backward_gives_the_same(subject: Subject, case: Case) -> None:
    """A graph that is retained gives the same bits again."""
    for training in _modes(subject, case):
        layer = subject.make(case).train(training)
        inputs = leaves(case, subject.draw(case))
        by = [inputs[i] for i in case.wrt] + list(layer.parameters())
        y = seeded(layer, *[x * 1 if x.requires_grad else x for x in inputs])
        d_y = direction(y)
        first = torch.autograd.grad(y, by, d_y, retain_graph=True)
        for actual, expected in zip(torch.autograd.grad(y, by, d_y), first, strict=True):
            assert_same_bits(actual, expected, "a gradient, the second time")


@one_case
def works_under_torch_func(subject: Subject, case: Case) -> None:
    """torch.func.grad and torch.func.jvp of the layer as a function give its derivatives."""
    layer = subject.make(case, torch.float64)
    inputs = subject.draw(case, torch.float64)
    state = dict(layer.named_parameters())
    d_y = direction(seeded(subject.make(case, torch.float64), *inputs))

    def loss(parameters: Mapping[str, Tensor], *tensors: Tensor) -> Tensor:
        torch.manual_seed(2)
        buffers = {name: b.clone() for name, b in layer.named_buffers()}  # which may be changed
        y = torch.func.functional_call(layer, {**parameters, **buffers}, tensors)
        return (y * d_y).sum()

    by_parameters, by_input = torch.func.grad(loss, (0, 1))(state, *inputs)
    given = leaves(case, inputs)
    plain = torch.autograd.grad(loss(state, *given), [given[0], *layer.parameters()])
    for actual, expected in zip([by_input, *by_parameters.values()], plain, strict=True):
        near(actual, expected, inputs, "a gradient by torch.func.grad")
    # forward against backward: <v, J u> = <J' v, u>
    u = torch.randn_like(inputs[0])
    tangent = torch.func.jvp(lambda x: loss(state, x, *inputs[1:]), (inputs[0],), (u,))[1]
    products = by_input * u
    size = products.abs().sum().clamp(min=1)  # its roundings are those of its terms
    near(tangent / size, products.sum() / size, inputs, "the derivative by torch.func.jvp")


@one_case
def works_under_vmap(subject: Subject, case: Case) -> None:
    """torch.vmap over several inputs gives what the layer gives for each, in evaluation."""
    layer = subject.make(case, torch.float64).eval()
    inputs = subject.draw(case, torch.float64)
    stack = [torch.stack([x, x.flip(0)]) for x in inputs]
    outputs = torch.vmap(layer)(*stack)
    single = torch.stack([layer(*[s[i] for s in stack]) for i in range(2)])
    near(outputs, single, inputs, "the output")
