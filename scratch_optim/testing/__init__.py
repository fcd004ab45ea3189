"""A conformance kit for optimizers: is this class right, and does it keep to the contract?

::

    from scratch_optim.testing import check_optimizer

    check_optimizer(MyAdam, torch.optim.Adam)       # raises, and says what is wrong
    print(check_optimizer(MyAdam, on_fail="collect"))  # without a reference: contract, closed forms

    @parametrize_with_checks([MyAdam])              # in pytest: a test for each check
    def test_conformance(subject, check):
        check(subject)

or ``python -m scratch_optim.testing my.package:MyAdam --reference torch.optim:Adam``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch

from . import (
    closed_forms,
    descent,
    face,
    groups,
    kit,
    manners,
    midrun,
    parity,
    properties,
    saved,
    state,
    step,
    unusual,
    ways,
)
from .kit import Check, ConformanceError, NotApplicable, Report, Result
from .subject import Equation, Subject

__all__ = [
    "CHECKS",
    "Check",
    "ConformanceError",
    "NotApplicable",
    "Report",
    "Result",
    "Subject",
    "check_optimizer",
    "parametrize_with_checks",
]

CHECKS: list[Check] = kit.checks_of(
    parity,
    step,
    groups,
    saved,
    manners,
    descent,
    closed_forms,
    ways,
    midrun,
    state,
    face,
    unusual,
    properties,
)
"""All checks, in the order in which they run."""


def check_optimizer(
    cls: type[torch.optim.Optimizer],
    reference: type[torch.optim.Optimizer] | Equation | None = None,
    *,
    options: Sequence[dict[str, Any]] | None = None,
    ulps: float | None = None,
    drop_in: bool = False,
    like: dict[str, Any] | None = None,
    device: str = "cpu",
    checks: Iterable[str] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    on_fail: Literal["raise", "collect", "stop"] = "raise",
) -> Report:
    """Check an optimizer's class.

    What it takes (shapes, dtypes, ways to run, sparse or dense gradients, a closure) is found by
    trying it. A check of what it has not is reported as not applicable.

    Args:
        cls: the class.
        reference: what it must agree with: a class such as ``torch.optim.Adam``, or the equation
            of one step, ``f(theta, g, state, t, **options) -> theta`` in float64, where ``state``
            is a dict of its own, empty before the first step, and ``t`` counts from 1. None: only
            what holds of every optimizer is checked, and closed forms.
        options: combinations of options to check; if None they are derived from the signature.
        ulps: how far from a reference class it may be, in epsilons of the dtype at the largest
            value of a tensor: 0 means to the last bit, None up to roundings.
        drop_in: also check what makes it stand in for the reference class: signature, messages,
            names of the state, state dicts exchanged in mid-run.
        like: options of the reference whatever those of ``cls``, ``{"foreach": False}`` for a
            reference whose own ways differ.
        device: where to run.
        checks: the names of those to run; all if None.
        expected_failures: reasons by the names of checks that are known to fail.
        on_fail: ``"raise"``, ``"collect"`` (only report), or ``"stop"`` at the first failure.

    Returns:
        What became of every check; as a string, a table.

    Raises:
        ConformanceError: a check failed that was not expected to (``on_fail="raise"``).
        ValueError: there is no check of such a name.
        TypeError: ``cls`` is no optimizer's class, or ``reference`` neither that nor an equation.
    """
    given = None if options is None else tuple(options)
    subject = Subject(cls, reference, given, ulps, drop_in, device, like or {})
    return kit.run(
        CHECKS, subject, names=checks, expected_failures=expected_failures, on_fail=on_fail
    )


def parametrize_with_checks(
    subjects: Iterable[type[torch.optim.Optimizer] | Subject],
    expected_failures: Mapping[str, Mapping[str, str]] | None = None,
) -> Any:
    """Decorate a test ``(subject, check)`` so that pytest runs it for each check of each subject.

    Args:
        subjects: classes, or :class:`Subject` s where there is more to say than the class.
        expected_failures: for the title of a subject (``package.Class``), reasons by the names of
            checks that are known to fail.
    """
    all_ = [x if isinstance(x, Subject) else Subject(x) for x in subjects]
    known = expected_failures or {}
    return kit.parametrize(CHECKS, [(s, known.get(s.title, {})) for s in all_])
