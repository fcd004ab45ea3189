"""Activations: values and slopes as their papers write them, and what they are far from 0."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from scratch_layers.testing.case import Case
from scratch_layers.testing.subject import Subject, every_case
from scratch_optim.testing.kit import skip

POINTS = (-17.0, -6.5, -3.25, -2.0, -1.0, -0.4, -1e-3, 1e-3, 0.4, 1.0, 2.5, 3.25, 6.5, 17.0)
FAR = (1e4, 1e30)
EPS = torch.finfo(torch.float64).eps

A, L = 1.6732632423543772, 1.0507009873554805
"""Alpha and lambda of SELU."""


def sigma(x: float) -> float:
    """The logistic function."""
    return 1 / (1 + math.exp(-x))


def phi(x: float) -> float:
    """Density of the standard normal distribution."""
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def Phi(x: float) -> float:  # noqa: N802
    """Its distribution function."""
    return math.erfc(-x / math.sqrt(2)) / 2


def _gelu(x: float, approximate: str = "none") -> float:
    if approximate == "none":
        return x * Phi(x)
    return x / 2 * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _d_gelu(x: float, approximate: str = "none") -> float:
    if approximate == "none":
        return Phi(x) + x * phi(x)
    u = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    d_u = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
    return (1 + math.tanh(u)) / 2 + x / 2 * d_u / math.cosh(u) ** 2


def _mish(x: float) -> float:
    return x * math.tanh(math.log1p(math.exp(x)))


def _d_mish(x: float) -> float:
    s = math.log1p(math.exp(x))
    return math.tanh(s) + x * sigma(x) / math.cosh(s) ** 2


Function = Callable[..., float]
PAPERS: dict[str, tuple[Function, Function]] = {
    "ReLU": (lambda x: max(x, 0), lambda x: x > 0),
    "ReLU6": (lambda x: min(max(x, 0), 6), lambda x: 0 < x < 6),
    "Hardtanh": (
        lambda x, min_val, max_val: min(max(x, min_val), max_val),
        lambda x, min_val, max_val: min_val < x < max_val,
    ),
    "Threshold": (
        lambda x, threshold, value: x if x > threshold else value,
        lambda x, threshold, value: x > threshold,
    ),
    "LeakyReLU": (
        lambda x, negative_slope: x if x > 0 else negative_slope * x,
        lambda x, negative_slope: 1 if x > 0 else negative_slope,
    ),
    "ELU": (
        lambda x, alpha: x if x > 0 else alpha * math.expm1(x),
        lambda x, alpha: 1 if x > 0 else alpha * math.exp(x),
    ),
    "CELU": (
        lambda x, alpha: x if x > 0 else alpha * math.expm1(x / alpha),
        lambda x, alpha: 1 if x > 0 else math.exp(x / alpha),
    ),
    "SELU": (
        lambda x: L * (x if x > 0 else A * math.expm1(x)),
        lambda x: L * (1 if x > 0 else A * math.exp(x)),
    ),
    "GELU": (_gelu, _d_gelu),
    "SiLU": (lambda x: x * sigma(x), lambda x: sigma(x) * (1 + x * sigma(-x))),
    "Mish": (_mish, _d_mish),
    "Softplus": (
        lambda x, beta, threshold: (
            x if beta * x > threshold else math.log1p(math.exp(beta * x)) / beta
        ),
        lambda x, beta, threshold: 1 if beta * x > threshold else sigma(beta * x),
    ),
    "LogSigmoid": (lambda x: -math.log1p(math.exp(-x)), lambda x: sigma(-x)),
    "Sigmoid": (sigma, lambda x: sigma(x) * sigma(-x)),
    "Tanh": (math.tanh, lambda x: 1 / math.cosh(x) ** 2),
    "Softsign": (lambda x: x / (1 + abs(x)), lambda x: 1 / (1 + abs(x)) ** 2),
    "Tanhshrink": (lambda x: x - math.tanh(x), lambda x: math.tanh(x) ** 2),
    "Softshrink": (
        lambda x, lambd: math.copysign(max(abs(x) - lambd, 0), x),
        lambda x, lambd: abs(x) > lambd,
    ),
    "Hardshrink": (lambda x, lambd: x if abs(x) > lambd else 0, lambda x, lambd: abs(x) > lambd),
    "Hardsigmoid": (lambda x: min(max(x + 3, 0), 6) / 6, lambda x: (abs(x) < 3) / 6),
    "Hardswish": (
        lambda x: x * min(max(x + 3, 0), 6) / 6,
        lambda x: 0 if x < -3 else 1 if x > 3 else x / 3 + 0.5,
    ),
}
"""y(x) and dy/dx, called with x and the arguments of the constructor that they name."""


def _values(subject: Subject, case: Case, x: Tensor) -> tuple[Tensor, Tensor]:
    """Output and slope at the values of x."""
    layer = subject.make(case, x.dtype)
    x = x.clone().requires_grad_()
    y = layer(x)
    return y.detach(), torch.autograd.grad(y.sum(), x)[0]


def _paper(subject: Subject, case: Case) -> tuple[Function, Function]:
    if subject.name not in PAPERS:
        skip("it is not a function of each value alone")
    f, slope = PAPERS[subject.name]
    named = inspect.signature(f).parameters
    arguments = {k: v for k, v in subject.arguments(case).items() if k in named}
    return partial(f, **arguments), partial(slope, **arguments)


@every_case
def has_the_values_of_the_paper(subject: Subject, case: Case) -> None:
    """At 14 points from -17 to 17 value and slope are those of its equation.

    The equations subtract from 1 (y(1 - y), 1 + erf): ten roundings of numbers up to |x|.
    """
    x = torch.tensor(POINTS, dtype=torch.float64, device=subject.device)
    paper = _paper(subject, case)
    for what, actual, f in zip(("value", "slope"), _values(subject, case, x), paper, strict=True):
        for point, found in zip(POINTS, actual.tolist(), strict=True):
            expected = float(f(point))
            assert abs(found - expected) <= 10 * EPS * abs(expected) + 40 * EPS, (
                f"the {what} at {point} is {found!r}, where {expected!r} is expected"
            )


@every_case
def is_finite_far_from_zero(subject: Subject, case: Case) -> None:
    """At ±1e4 and ±1e30, in float32 and float64, value and slope are finite, and the slope is that
    of the paper at ±18.5, from where on all but softsign's are constant to 2e-7.
    """
    _, slope = _paper(subject, case)
    limits = [0.0, 0.0] if subject.name == "Softsign" else [float(slope(s * 18.5)) for s in (-1, 1)]
    for dtype in (torch.float32, torch.float64):
        for size in FAR:
            x = torch.tensor([-size, size], dtype=dtype, device=subject.device)
            y, found = _values(subject, case, x)
            assert y.isfinite().all(), f"the values at ±{size:g} are {y.tolist()} in {dtype}"
            for a, e in zip(found.tolist(), limits, strict=True):
                assert abs(a - e) <= 2e-7 + 4 * torch.finfo(dtype).eps * abs(e), (
                    f"the slopes at ±{size:g} are {found.tolist()} in {dtype}, not {limits}"
                )


@every_case
def sums_to_one(subject: Subject, case: Case) -> None:
    """Softmax is positive and adds up to 1, its logarithm is that of such; equal inputs give equal
    outputs, and a shift of all inputs changes nothing.
    """
    if "max" not in subject.name and subject.name != "Softmin":
        skip("it is no softmax")
    (x,) = subject.draw(case, torch.float64)
    dim = 1
    p = _values(subject, case, x)[0]
    shifted = _values(subject, case, x + 100)[0]
    if subject.name == "LogSoftmax":
        p, shifted = p.exp(), shifted.exp()
    assert (p > 0).all(), "there is a probability that is not positive"
    off = (p.sum(dim) - 1).abs().max().item()
    assert off <= 1e-14, f"the sum is {off:.3g} off 1"
    order = -x if subject.name == "Softmin" else x
    assert torch.equal(p.argsort(dim), order.argsort(dim)), "the order is not that of the inputs"
    # x + 100 rounds x to 100 epsilons
    assert (p - shifted).abs().max() <= 400 * EPS, "a shift of all inputs changes the output"
