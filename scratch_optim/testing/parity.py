"""Checks of numbers: the same gradients give the same parameters and states as the reference."""

from __future__ import annotations

from typing import Any

import torch

from .compare import epsilons
from .kit import check, circumstances, skip
from .options import Options, describe
from .subject import Pair, Subject, gradients

STEPS = 20


def _each(subject: Subject, combinations: list[Options]) -> list[tuple[str, Options]]:
    """Every combination of options in every way to run, with a name."""
    return [
        (f"{describe(options)} ({way})", options | switch)
        for options in combinations
        for way, switch in subject.ways.items()
    ]


def _run(pair: Pair, steps: int = STEPS, **how: Any) -> None:
    """Take steps and compare, early and late: later steps may hide an error of the first ones."""
    for some in (1, 1, steps - 2):
        pair.step(some, **how)
        pair.check()


@check
def equals_reference_in_float64(subject: Subject) -> None:
    """In float64, where no rounding can hide one, no term of the equation differs from the
    reference's, for any two options and any way to run."""
    for name, options in _each(subject, subject.combinations):
        with circumstances(options=name):
            _run(subject.pair(options, dtype=torch.float64))


@check
def equals_reference_in_float32(subject: Subject) -> None:
    """In float32 parameters and state are those of the reference, for any options and any way to
    run."""
    for name, options in _each(subject, subject.options):
        with circumstances(options=name):
            if subject.ulps is not None:
                _run(subject.pair(options))
            else:
                _stay_near(subject, options, torch.float32)


@check
def equals_reference_in_bfloat16(subject: Subject) -> None:
    """In bfloat16 parameters and state are those of the reference, for any options and any way to
    run."""
    if not subject.takes(torch.bfloat16):
        skip("does not take bfloat16")
    for name, options in _each(subject, subject.options):
        if subject.like and options.get("foreach"):
            continue  # in half precision ATen's lists round otherwise than its loops
        with circumstances(options=name):
            if subject.ulps is not None:
                _run(subject.pair(options, dtype=torch.bfloat16))
            else:
                _stay_near(subject, options, torch.bfloat16)


def _stay_near(subject: Subject, options: Options, dtype: torch.dtype) -> None:
    """Compare a result in a narrow dtype with the reference in float64.

    It may be as far from it as four times the reference's own result in that dtype, and 48
    epsilons for each step: an equation has a dozen operations, and the errors of running means add
    up with weights below 1.
    """
    pair = subject.pair(options, dtype=dtype)
    wide = [torch.nn.Parameter(p.detach().double()) for p in pair.params[0]]
    exact = subject.make_reference(wide, **options)
    for step in range(STEPS):
        grads = [g.double() for g in gradients(pair.shapes, dtype, subject.device)[step % 10]]
        subject.take_step(
            exact, wide, [subject.as_given(p, g) for p, g in zip(wide, grads, strict=True)]
        )
        pair.step()
    for i, (p, q, truth) in enumerate(zip(*pair.params, wide, strict=True)):
        truth = truth.detach().to(dtype)
        mine, other = epsilons(p, truth), epsilons(q, truth)
        allowed = 4 * other + 48 * STEPS
        assert mine <= allowed, (
            f"parameter {i} {tuple(p.shape)} after {STEPS} steps: {mine:.3g} epsilons from the "
            f"reference in float64, where {allowed:.3g} are allowed; the reference itself in that "
            f"dtype has {other:.3g}"
        )


@check
def equals_reference_for_complex_parameters(subject: Subject) -> None:
    """Complex parameters and their state are those of the reference, up to the roundings by which
    arithmetic of complex numbers and of their parts differ."""
    if not subject.takes(torch.complex64):
        skip("does not take complex parameters, or its reference does not")
    for name, options in _each(subject, subject.options):
        with circumstances(options=name):
            pair = subject.pair(options, dtype=torch.complex64)
            pair.step(10)
            for p, q in zip(*pair.params, strict=True):
                apart = epsilons(p, q)
                assert apart <= 8 * pair.taken, (
                    f"parameter {tuple(p.shape)} after {pair.taken} steps: {apart:.3g} epsilons "
                    f"from the reference, where {8 * pair.taken} are allowed"
                )


@check
def equals_reference_on_gradients_in_another_layout(subject: Subject) -> None:
    """Contiguous gradients of a channels_last weight, among tensors that lie alike, are read in
    their own order."""
    if subject.sparse:
        skip("takes sparse gradients only")
    for name, options in _each(subject, subject.options):
        with circumstances(options=name):
            pair = subject.pair(options)
            pair.step(5, laid_out=lambda p, g: g.clone())
            pair.check()
