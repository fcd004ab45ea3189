"""What the conformance kit is worth: mutants are found, and what has no mistake passes."""

import pytest
import textbook
import torch
from mutants import MUTANTS, Mutant, as_claimed, caught_by, score

import scratch_optim
from scratch_optim.testing import CHECKS, check_optimizer

SAMPLE = 6
"""One mutant in so many is looked for in the default suite, all of them in CI."""


def as_parameter(number, mutant):
    sampled = number % SAMPLE == 0 and not mutant.is_slow
    return pytest.param(mutant, marks=[] if sampled else [pytest.mark.slow], id=mutant.title)


@pytest.mark.parametrize("mutant", [as_parameter(i, mutant) for i, mutant in enumerate(MUTANTS)])
def test_the_kit_finds_every_mutant(mutant):
    assert caught_by(mutant), f"no check fails of {mutant.title}: {mutant.new!r}"


@pytest.mark.slow
@pytest.mark.parametrize("name", textbook.__all__)
def test_the_kit_finds_nothing_wrong_with_the_textbooks(name):
    check_optimizer(getattr(textbook, name), getattr(torch.optim, name))


@pytest.mark.slow
@pytest.mark.parametrize("name", textbook.__all__)
def test_nor_without_a_reference(name):
    check_optimizer(getattr(textbook, name))


@pytest.mark.slow
@pytest.mark.exhaustive  # test_conformance asks the same of the classes themselves
@pytest.mark.parametrize("name", sorted({m.cls for m in MUTANTS if m.package == "scratch_optim"}))
def test_the_kit_finds_nothing_wrong_with_what_the_mutants_of_this_library_are_made_of(name):
    claim = as_claimed(Mutant("scratch_optim", "", name, "", "", ""))
    check_optimizer(getattr(scratch_optim, name), **claim)


def test_a_score_names_the_checks_that_find_a_mutant_with_a_reference_and_without():
    names = tuple(f"{check.name}: " for check in CHECKS)
    climbing = [mutant for mutant in MUTANTS if mutant.title == "textbook.SGD climbs"]
    (row,) = score(climbing)
    assert row["mutant"] == "textbook.SGD climbs"
    assert row["with reference"].startswith(names)
    assert row["without"].startswith(names)


def test_no_two_mutants_are_the_same():
    assert len({mutant.title for mutant in MUTANTS}) == len(MUTANTS)
    assert len({(m.package, m.file, m.cls, m.old, m.new) for m in MUTANTS}) == len(MUTANTS)
