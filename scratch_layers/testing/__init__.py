"""A conformance kit for layers: is this class right, and does it keep to the contract?

::

    from scratch_layers.testing import Case, check_module, normal, parametrize_with_checks

    check_module(MyBatchNorm2d, nn.BatchNorm2d)            # raises, and says what is wrong
    check_module(MyBatchNorm2d, nn.BatchNorm2d, drop_in=True)      # also names, words, state_dicts
    print(check_module(MyBatchNorm2d, on_fail="collect"))          # without a reference

    def swish(x, beta):                                    # with the equation as reference
        return x * torch.sigmoid(beta * x)

    check_module(Swish, swish, cases=[Case(normal(4, 3), options={"beta": 1.5})])

    @parametrize_with_checks([Subject(MyBatchNorm2d, nn.BatchNorm2d)])    # in pytest: a test each
    def test_conformance(subject, check):
        check(subject)

or ``python -m scratch_layers.testing my.package:MyBatchNorm2d --reference torch.nn:BatchNorm2d``.

Where to read what is checked: :mod:`~scratch_layers.testing.parity` with a reference,
:mod:`~scratch_layers.testing.contract` and :mod:`~scratch_layers.testing.gradients` without one,
:mod:`~scratch_layers.testing.closed_forms` for what is known of a family,
:mod:`~scratch_layers.testing.properties` on drawn inputs and options.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from torch import nn

from scratch_layers.testing import contract, gradients, parity, properties
from scratch_layers.testing.case import Case, normal
from scratch_layers.testing.closed_forms import activation, dropout, loss, normalization
from scratch_layers.testing.known import KNOWN
from scratch_layers.testing.subject import Reference, Subject
from scratch_optim.testing import kit
from scratch_optim.testing.kit import Check, ConformanceError, NotApplicable, Report, Result

__all__ = [
    "CHECKS",
    "KNOWN",
    "Case",
    "Check",
    "ConformanceError",
    "NotApplicable",
    "Report",
    "Result",
    "Subject",
    "check_module",
    "checks_for",
    "normal",
    "parametrize_with_checks",
]

FORMS = {
    "activation": kit.checks_of(activation),
    "normalization": kit.checks_of(normalization),
    "dropout": kit.checks_of(dropout),
    "loss": kit.checks_of(loss),
}
"""The closed forms of each family."""

CHECKS: list[Check] = [
    *kit.checks_of(parity),
    *(check for checks in FORMS.values() for check in checks),
    *kit.checks_of(properties),
    *kit.checks_of(gradients, contract),
]
"""All checks, in the order in which they run."""


def checks_for(subject: Subject) -> list[Check]:
    """Those that say anything about a subject: of the closed forms those of its family only."""
    others = {
        check.name
        for family, checks in FORMS.items()
        if family != subject.family
        for check in checks
    }
    return [check for check in CHECKS if check.name not in others]


def check_module(
    cls: type[nn.Module],
    reference: Reference | None = None,
    *,
    cases: Sequence[Case] | None = None,
    ulps: float | None = None,
    drop_in: bool = False,
    device: str = "cpu",
    checks: Iterable[str] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    on_fail: Literal["raise", "collect", "stop"] = "raise",
) -> Report:
    """Check a layer's class.

    Args:
        cls: the class.
        reference: what it must agree with: a class such as ``torch.nn.BatchNorm2d`` that takes the
            same arguments, or the equation, ``f(*inputs, **parameters_and_options) -> output``,
            which is differentiated by autograd. None: what holds of every layer is checked, and
            what is known of its family.
        cases: how to make it and what to call it with; None for the kit's own, see
            :class:`Subject`.
        ulps: how far from the reference it may be, in epsilons of the dtype at the largest value:
            0 means to the last bit, None up to roundings.
        drop_in: also check what makes it stand in for the reference class: signature, attributes,
            messages, random numbers, bytes kept, state dicts exchanged in the middle of training.
        device: where to run.
        checks: the names of those to run; all if None.
        expected_failures: reasons by the names of checks that are known to fail.
        on_fail: ``"raise"``, ``"collect"`` (only report), or ``"stop"`` at the first failure.

    Returns:
        What became of every check; as a string, a table.

    Raises:
        ConformanceError: a check failed that was not expected to (``on_fail="raise"``).
        ValueError: there is no check of such a name; nobody says how to make the layer.
        TypeError: ``cls`` is no class of modules.
    """
    subject = Subject(cls, reference, cases=cases, ulps=ulps, drop_in=drop_in, device=device)
    return kit.run(
        checks_for(subject),
        subject,
        names=checks,
        expected_failures=expected_failures,
        on_fail=on_fail,
    )


def parametrize_with_checks(
    subjects: Iterable[type[nn.Module] | Subject],
    expected_failures: Mapping[str, Mapping[str, str]] | None = None,
) -> Any:
    """Decorate a test ``(subject, check)`` so that pytest runs it for each check of each subject.

    Args:
        subjects: classes, or :class:`Subject` s where there is more to say than the class.
        expected_failures: for the title of a subject (``package.module.Class``), reasons by the
            names of checks that are known to fail.
    """
    all_ = [x if isinstance(x, Subject) else Subject(x) for x in subjects]
    known = expected_failures or {}
    return kit.parametrize(checks_for, [(s, known.get(s.title, {})) for s in all_])
