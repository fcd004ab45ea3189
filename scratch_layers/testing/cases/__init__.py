"""The kit's own cases: for the layers of torch.nn that scratch_layers has too, by their names.

A family keeps them in a module of its own, in a dictionary ``CASES``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from scratch_layers.testing.case import Case
from scratch_layers.testing.cases import activation, batchnorm, dropout, loss, normalization

FAMILIES: dict[str, dict[str, list[Case]]] = {
    "activation": activation.CASES,
    "normalization": {**batchnorm.CASES, **normalization.CASES},
    "dropout": dropout.CASES,
    "loss": loss.CASES,
}


def _names(cls: type[nn.Module], reference: Any) -> Iterator[str]:
    """What a layer may be known by: its reference, its own name, the layers it inherits from."""
    if isinstance(reference, type):
        yield reference.__name__
    for ancestor in cls.__mro__:
        if ancestor is cls or getattr(nn, ancestor.__name__, None) is ancestor:
            yield ancestor.__name__


def kin(cls: type[nn.Module], reference: Any) -> tuple[str, str | None, Sequence[Case]]:
    """Which layer of torch.nn this is or stands in for, its family and the cases of that layer.

    Its own name, no family and no cases, if it is none that the kit has cases for.
    """
    for name in _names(cls, reference):
        for family, cases in FAMILIES.items():
            if name in cases:
                return name, family, cases[name]
    return cls.__name__, None, ()
