"""The conformance kit finds the mistakes that are put into the layers: its own score."""

import pytest
from layer_mutants import MUTANTS
from mutation import broken, replica
from torch import nn

from scratch_layers.testing import check_module

LAYERS = sorted({mutant.layer for mutant in MUTANTS})
every_mutant = pytest.mark.parametrize("mutant", MUTANTS, ids=str)


def found(mutant, reference=None, drop_in=False):
    """The first check that fails, or None."""
    with broken("scratch_layers", mutant.file, mutant.old, mutant.new) as library:
        cls = getattr(library, mutant.layer)
        report = check_module(cls, reference, drop_in=drop_in, on_fail="stop")
    return next((result.check for result in report.failures), None)


@pytest.mark.slow
@every_mutant
def test_a_mistake_is_found_beside_the_reference(mutant):
    assert found(mutant, getattr(nn, mutant.layer), drop_in=True), f"not found: {mutant.wrong}"


@pytest.mark.slow
@every_mutant
def test_a_mistake_is_found_without_a_reference_unless_only_a_reference_can_tell(mutant):
    assert bool(found(mutant)) == mutant.alone


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS)
def test_a_copy_without_mistakes_passes(layer):
    with replica("scratch_layers") as library:
        check_module(getattr(library, layer), getattr(nn, layer), drop_in=True)
