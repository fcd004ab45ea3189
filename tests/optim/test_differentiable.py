"""differentiable=True: derivatives by the options, and those that torch has."""

import pytest
import torch
from cases import CASES, default_dtype, each_case, set_gradients
from torch.autograd import gradcheck

from scratch_optim.testing.compare import assert_same_bits
from scratch_optim.testing.subject import gradients, parameters


def train(kind, case, options, p0, others, steps):
    """A parameter after some steps on a loss that is no polynomial, as a function of everything."""
    options = dict(options)
    names = list(case.differentiable)
    values = dict(zip(names, others, strict=True))
    if "beta1" in values:
        options["betas"] = (values.pop("beta1"), values.pop("beta2"))
    options |= values
    p = p0.clone()
    optimizer = kind([p], **options, differentiable=True)
    for _ in range(steps):
        q = p.clone()  # the step changes p in place, so the loss must have saved something else
        loss = (q.sin() * q + 0.5 * q**2).sum() + 0.1 * q.prod() ** 2
        (p.grad,) = torch.autograd.grad(loss, p, create_graph=True)
        optimizer.step()
    return p


@each_case
def test_derivatives_by_the_options_are_right(case):
    """By lr, weight decay and, of Adam, the betas, all at once, through three steps."""
    p0 = torch.tensor([0.7, -1.3, 0.4], dtype=torch.float64, requires_grad=True)
    others = [
        torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for value in case.differentiable.values()
    ]
    options = {"eps": 1e-3} if "eps" in case.ours([torch.ones(1)]).defaults else {}
    assert gradcheck(
        lambda p, *values: train(case.ours, case, options, p, values, steps=3), (p0, *others)
    )


@pytest.mark.parametrize("case", [c for c in CASES if "lr" in c.differentiable], ids=repr)
def test_derivatives_equal_torchs_where_torch_has_them(case):
    with default_dtype(torch.float64):
        results = []
        for kind in (case.ours, case.torchs):
            p0 = torch.tensor([0.7, -1.3, 0.4], requires_grad=True)
            lr = torch.tensor(case.differentiable["lr"], requires_grad=True)
            p = p0.clone()
            optimizer = kind([p], lr=lr, differentiable=True)
            for _ in range(4):
                q = p.clone()
                (p.grad,) = torch.autograd.grad((q.sin() * q).sum(), p, create_graph=True)
                try:
                    optimizer.step()
                except TypeError as error:
                    assert kind is case.torchs
                    pytest.skip(f"torch cannot: {error}")
            try:
                results.append(torch.autograd.grad(p.sum(), (p0, lr)))
            except RuntimeError as error:
                assert kind is case.torchs
                pytest.skip(f"torch cannot: {error}")
    # One derivative of a step sums a few products of the values above: 16 epsilons a step.
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=4 * 16 * torch.finfo(torch.float64).eps, atol=1e-14)


@pytest.mark.parametrize("case", [c for c in CASES if "lr" in c.differentiable], ids=repr)
def test_a_tensor_learning_rate_can_be_learned(case):
    """Gradient descent on the learning rate lowers the loss after training."""
    log_lr = torch.tensor(-4.0, dtype=torch.float64, requires_grad=True)
    losses = []
    for _ in range(5):
        p = torch.tensor([1.0, -2.0], dtype=torch.float64).requires_grad_().clone()
        optimizer = case.ours([p], lr=log_lr.exp(), differentiable=True)
        for _ in range(3):
            (p.grad,) = torch.autograd.grad((p.clone() ** 2).sum(), p, create_graph=True)
            optimizer.step()
        loss = (p**2).sum()
        losses.append(loss.item())
        (g,) = torch.autograd.grad(loss, log_lr)
        log_lr = (log_lr - 0.5 * g.sign()).detach().requires_grad_()
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


@each_case
def test_a_differentiable_step_leaves_the_gradient_as_it_is(case):
    leaves = parameters(dtype=torch.float64)
    clones = [p.clone() for p in leaves]
    optimizer = case.ours(clones, **case.typical, differentiable=True)
    for grads in gradients(dtype=torch.float64)[:3]:
        given = [g.clone().requires_grad_() for g in grads]
        set_gradients(clones, given)
        optimizer.step()
        for g, old in zip(given, grads, strict=True):
            assert g._version == 0
            assert_same_bits(g, old, "a gradient")
