"""Checks of whether it optimizes: it descends, and stays finite."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from .kit import check, circumstances, skip
from .options import describe
from .runs import Run
from .subject import Subject


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
