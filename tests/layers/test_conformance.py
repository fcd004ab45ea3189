"""Every layer of this library passes the checks that it offers to others."""

import pytest
from torch import nn

import scratch_layers
from scratch_layers.testing import KNOWN, Subject, parametrize_with_checks
from scratch_layers.testing.cases import FAMILIES

LAYERS = [layer for cases in FAMILIES.values() for layer in cases]


@parametrize_with_checks(
    [Subject(getattr(scratch_layers, x), getattr(nn, x), drop_in=True) for x in LAYERS]
)
def test_conformance(subject, check):
    check(subject)


@pytest.mark.slow
@parametrize_with_checks([getattr(nn, layer) for layer in LAYERS], KNOWN)
def test_conformance_of_torchs_own_layers_but_for_known_defects(subject, check):
    check(subject)
