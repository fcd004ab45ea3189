"""The defects of torch's own optimizers that the kit knows of are there, and no others."""

import pytest
import torch

from scratch_optim.testing import check_optimizer
from scratch_optim.testing.known import BESIDE_ITSELF, KNOWN

CLASSES = [getattr(torch.optim, title.rpartition(".")[2]) for title in KNOWN]
each_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)


@pytest.fixture(autouse=True)
def two_threads():
    """On one, large sparse gradients are added by other code, without the defect."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_every_optimizer_of_torch_is_known():
    found = [x for x in vars(torch.optim).values() if isinstance(x, type)]
    found = [x for x in found if issubclass(x, torch.optim.Optimizer)]
    assert {*found} == {*CLASSES, torch.optim.Optimizer}


@pytest.mark.skipif(torch.__version__ < "2.15", reason="the list is that of torch 2.15")
@each_class
def test_every_known_defect_is_there(cls):
    known = KNOWN[f"torch.optim.{cls.__name__}"]
    report = check_optimizer(cls, checks=known, expected_failures=known)
    assert {result.check: result.outcome for result in report.results} == dict.fromkeys(
        known, "expected failure"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "against", ["itself", pytest.param("nothing", marks=pytest.mark.exhaustive)]
)
@each_class
def test_there_is_no_defect_but_those_that_are_known(cls, against):
    title = f"torch.optim.{cls.__name__}"
    known = KNOWN[title] | (BESIDE_ITSELF.get(title, {}) if against == "itself" else {})
    check_optimizer(cls, cls if against == "itself" else None, expected_failures=known)
