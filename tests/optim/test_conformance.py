"""Every optimizer of this library passes the checks that it offers to others."""

import pytest
from cases import PAPERS, SUBJECTS

import scratch_optim
from scratch_optim.testing import check_optimizer, kit, parametrize_with_checks, parity


@parametrize_with_checks(SUBJECTS)
def test_conformance(subject, check):
    check(subject)


@pytest.mark.parametrize("name", PAPERS)
def test_an_optimizer_that_torch_has_not_is_that_of_its_paper(name):
    checks = [check.name for check in kit.checks_of(parity)]
    check_optimizer(getattr(scratch_optim, name), PAPERS[name], checks=checks)
