"""The networks of the CIFAR-10 records: whitening, identity, frozen gains; alike in any layers."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import scratch_layers
from scratch_layers import airnet, resnet
from scratch_layers.airnet import EPSILON, MODELS, AirNet, whitening_filters
from scratch_layers.residual import largest

SIZES = {"air94": 1_972_792, "air95": 4_606_520, "air96": 9_918_776, "air_tiny": 498_104}


def pictures(n=400, channels=3, size=9):
    """Images whose neighbouring pixels are alike, of mean 0 and deviation 1."""
    torch.manual_seed(0)
    x = torch.randn(n, channels, size, size).cumsum(-1).cumsum(-2)
    return (x - x.mean((0, 2, 3), keepdim=True)) / x.std((0, 2, 3), keepdim=True)


@pytest.mark.parametrize("name", MODELS)
def test_sizes_are_those_of_the_table(name):
    assert sum(p.numel() for p in MODELS[name]().parameters()) == SIZES[name]
    row = next(line for line in airnet.__doc__.splitlines() if line.startswith(f"{name} "))
    assert f"{SIZES[name]:,}" in row


@pytest.mark.parametrize("name", MODELS)
def test_both_namespaces_make_the_same_network(name):
    torch.manual_seed(0)
    theirs = MODELS[name](nn, dropout=0.0).double()
    torch.manual_seed(0)
    ours = MODELS[name](scratch_layers, dropout=0.0).double()
    x = pictures(8).double()
    for a, b in zip(theirs.state_dict().values(), ours.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    found, expected = ours(x), theirs(x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    for loss, model in ((found, ours), (expected, theirs)):
        loss.square().sum().backward()
        frozen = {n for n, p in model.named_parameters() if p.grad is None}
        assert frozen == {n for n, _ in model.named_parameters() if "bn" in n and "weight" in n} | {
            "whiten.weight"
        }
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-8, atol=1e-8)


def test_whitened_patches_are_uncorrelated_and_as_large_as_equation_1_says():
    x = pictures()
    w = whitening_filters(x).double()
    patches = F.conv2d(x.double(), w).permute(0, 2, 3, 1).reshape(-1, len(w))
    covariance = patches.T @ patches / len(patches)
    raw = F.unfold(x.double(), 2).transpose(1, 2).reshape(-1, 12)
    eigenvalues = torch.linalg.eigvalsh(raw.T @ raw / len(raw)).flip(0)
    # the filters are rounded to float32, and a rounding of the smallest is one by 1/√λ
    expected = torch.diag(eigenvalues / (eigenvalues + EPSILON))
    torch.testing.assert_close(covariance, expected, rtol=0, atol=1e-5)


def test_the_first_layer_has_the_filters_and_their_negatives():
    model = AirNet()
    model.fit_whitening(pictures())
    w = model.whiten.weight
    assert not w.requires_grad
    assert torch.equal(w[:12], -w[12:])
    with pytest.raises(ValueError, match=r"\(0, 3, 9, 9\) hold no patch of 2x2"):
        model.fit_whitening(pictures()[:0])


def test_convolutions_begin_by_passing_on_what_they_see():
    group = AirNet(widths=(48, 48, 48)).groups[1]
    x = torch.randn(2, 48, 6, 6)
    for conv in group.conv:
        torch.testing.assert_close(conv(x), x)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="depth must be 2 or 3, but is 1"):
        AirNet(depth=1)
    with pytest.raises(ValueError, match="fused joins"):
        AirNet(fused=True)


def test_the_largest_of_a_map_takes_its_gradient():
    x = torch.randn(3, 4, 5, 5, requires_grad=True)
    y = largest(x)
    assert torch.equal(y, x.amax((2, 3)))
    y.sum().backward()
    assert torch.equal(x.grad.sum((2, 3)), torch.ones(3, 4))
    assert torch.equal((x.grad * x).sum((2, 3)), y)


@pytest.mark.parametrize("shape", [(2, 3, 6, 6), (2, 3, 7, 5)])
def test_pooling_is_that_of_max_pool2d_and_so_is_its_gradient_where_no_two_are_largest(shape):
    x = torch.randn(shape, dtype=torch.float64)
    y = F.max_pool2d(x.requires_grad_(), 2)
    weights = torch.randn_like(y)
    (expected,) = torch.autograd.grad((y * weights).sum(), x)
    (given,) = torch.autograd.grad((airnet.pool(x) * weights).sum(), x)
    assert torch.equal(airnet.pool(x), y)
    assert torch.equal(given, expected)


def test_where_all_four_are_largest_they_share_the_gradient_of_pooling():
    x = torch.ones(1, 1, 2, 2, requires_grad=True)
    airnet.pool(x).sum().backward()
    assert torch.equal(x.grad, torch.full((1, 1, 2, 2), 0.25))


@pytest.mark.slow
@pytest.mark.parametrize("make", [airnet.air_tiny, resnet.resnet9], ids=lambda f: f.__name__)
def test_compiled_in_bfloat16_the_gradients_are_finite(make):
    """Inductor computes what is compared with its maximum twice, once rounded to bfloat16."""
    torch.manual_seed(0)
    model = make(scratch_layers).to(memory_format=torch.channels_last)
    model.compile(dynamic=False)
    x = torch.randn(64, 3, 20, 20).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        loss = F.cross_entropy(model(x), torch.arange(64) % 10)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
