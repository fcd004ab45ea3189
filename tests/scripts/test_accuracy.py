"""The error that the accuracy table shows, what it grants, and the samples it is made from."""

import inspect
import math

import pytest
import torch
from torch import nn

import accuracy
import scratch_layers
from layer_samples import FAMILIES

SAMPLES = [sample for samples in FAMILIES.values() for sample in samples]
NOT_MEASURED = {
    "CTCLoss": "its inputs are sequences; test_loss.py compares it with native",
    "CrossMapLRN2d": "torch's own leaves out part of a window",
    "MarginRankingLoss": "MultiMarginLoss and the other margins stand for it",
    "MultiLabelMarginLoss": "its targets are lists of classes",
    "NLLLoss2d": "a deprecated name",
    "SyncBatchNorm": "BatchNorm2d, but for what the processes exchange",
    "TripletMarginWithDistanceLoss": "takes any distance",
}


def test_error_counts_epsilons_of_the_largest_value():
    eps = torch.finfo(torch.float32).eps
    truth = torch.tensor([4.0, 1e-3], dtype=torch.float64)
    assert accuracy.error(truth.float(), torch.tensor([4.0, 1e-3]).double()) == 0
    off = torch.tensor([4.0, 1e-3 + 4 * eps])
    assert accuracy.error(off, truth) == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize(
    ("result", "truth", "right"),
    [
        (math.inf, math.inf, True),
        (math.nan, math.nan, True),
        (math.inf, 1.0, False),
        (math.nan, 1.0, False),
        (1.0, math.nan, False),
        (1.0, math.inf, False),
        (-math.inf, math.inf, False),
    ],
)
def test_what_is_not_finite_is_right_or_infinitely_wrong(result, truth, right):
    found = accuracy.error(torch.tensor([result, 1.0]), torch.tensor([truth, 1.0]))
    assert found == (0 if right else math.inf)


def test_granted_follows_the_condition_of_the_problem():
    x = torch.randn(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1e4
    (moved,) = accuracy.nudged([x], torch.float32, 0)
    well = accuracy.granted(x, [moved], torch.float32)
    badly = accuracy.granted(x - x.mean(), [moved - moved.mean()], torch.float32)
    assert well == pytest.approx(4)  # two roundings of the result, two of the data
    assert 1e3 < badly < 1e5  # what is left of numbers near 1e4 has 1e-4 of their digits


def test_a_naive_variance_would_be_found():
    """E[x²] - E[x]², published more than once, is what the comparison exists for."""
    x = torch.randn(4096, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 1e2
    x = x.float().double()
    (other,) = accuracy.nudged([x], torch.float32, 0)
    truth, moved = x.std(correction=0), other.std(correction=0)
    naive = (x.float().square().mean() - x.float().mean().square()).sqrt()
    allowed = accuracy.granted(truth, [moved], torch.float32)
    assert accuracy.error(naive, truth) > 10 * allowed
    assert accuracy.error(x.float().std(correction=0), truth) <= allowed


def test_every_layer_with_a_counterpart_has_a_sample():
    layers = {
        name
        for name in scratch_layers.__all__
        if inspect.isclass(getattr(scratch_layers, name))
        and issubclass(getattr(scratch_layers, name), nn.Module)
        and hasattr(nn, name)
        and not name.startswith("Lazy")
    }
    sampled = {sample.layer for sample in SAMPLES}
    assert layers - sampled == set(NOT_MEASURED)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_every_sample_runs_in_both_libraries(sample):
    shape = (2, *sample.shapes[0][1:2], *[2 for _ in sample.shapes[0][2:]])
    given = [x.float() if x.is_floating_point() else x for x in sample.inputs(shape)]
    shapes = {
        tuple(t.shape for t in accuracy.results(sample.make(library, shape), given))
        for library in (nn, scratch_layers)
    }
    assert len(shapes) == 1


def test_the_page_shows_every_layer_of_the_report():
    machine = {
        "processor": "P", "device": "cpu", "threads": 2, "torch": "2.15", "python": "3.11",
        "date": "2026-11-21",
    }  # fmt: skip
    row = {"family": "f", "layer": "ReLU", "dtype": "float32", "input": "ordinary"}
    errors = {"native": [0.5, 0.25], "by hand": [0.125], "compiled": [0.0]}
    text = accuracy.page({"machine": machine, "rows": [{**row, **errors}]})
    assert "| ReLU | 0.5 / 0.12 / 0 |" in text
    assert "## float32" in text
