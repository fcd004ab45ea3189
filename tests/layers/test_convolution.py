"""The weight gradient over images side by side: equation 2 of the module, whatever the sizes."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad

from scratch_layers.convolution import SMALL, Conv3x3, side_by_side, weight_gradient


def tensors(n, c, o, height, width, dtype=torch.float64):
    """What is convolved, and a gradient of what comes out."""
    torch.manual_seed(n + c + o + height + width)
    x = torch.randn(n, c, height, width, dtype=dtype)
    gradient = torch.randn(n, o, height, width, dtype=dtype)
    return [t.contiguous(memory_format=torch.channels_last) for t in (x, gradient)]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_images_stand_side_by_side_with_zeros_between_and_in_place_of_the_missing(count):
    x, _ = tensors(7, 2, 1, 3, 4)
    y = side_by_side(x, count)
    assert y.shape == (-(-7 // count), 2, 3, count * 5)
    assert y.is_contiguous(memory_format=torch.channels_last)
    for i, image in enumerate(x):
        left = i % count * 5
        assert torch.equal(y[i // count, :, :, left : left + 4], image)
    assert y.sum() == pytest.approx(x.sum().item(), abs=1e-12)  # 168 terms of about 1: rounding
    assert torch.equal(y[:, :, :, 4::5], torch.zeros_like(y[:, :, :, 4::5]))


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1, 1), (5, 3, 4, 2, 3), (20, 2, 3, 8, 5), (7, 4, 2, 3, 8)]
)
def test_the_gradient_is_that_of_autograd(shape):
    _, c, o, _, _ = shape
    x, gradient = tensors(*shape)
    W = torch.randn(o, c, 3, 3, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(F.conv2d(x, W, padding=1), W, gradient)
    found = weight_gradient(x, gradient)
    # float64; sums of n·height·width products of about 1, in another order
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)
    torch.library.opcheck(weight_gradient, (x, gradient), test_utils="test_faketensor")
    inputs = (x.requires_grad_(), gradient.requires_grad_())
    assert torch.autograd.gradcheck(weight_gradient, inputs, fast_mode=True)


def both(n, c, o, size, dtype, amp=False):
    """Gradients by x and W, of Conv3x3 and of ``nn.Conv2d`` with its weight in float64."""
    x, gradient = tensors(n, c, o, size, size, dtype)
    torch.manual_seed(1)
    ours = Conv3x3(c, o).to(dtype=torch.float32 if amp else dtype)
    exact = nn.Conv2d(c, o, 3, padding=1, bias=False).double()
    exact.weight.data.copy_(ours.weight.to(torch.bfloat16) if amp else ours.weight)
    found = []
    for model, t in ((ours, x.clone()), (exact, x.double())):
        t.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=amp and model is ours):
            y = model(t)
        y.backward(gradient.to(y.dtype))
        found.append((y.detach(), t.grad, model.weight.grad))
    return found


@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("size", [1, 3, SMALL, SMALL + 1])
def test_in_bfloat16_each_result_is_the_exact_one_rounded(size, amp):
    """Sums are kept in float32 and rounded once, by half an epsilon of bfloat16, which is 2^-8."""
    for found, exact in zip(*both(13, 6, 5, size, torch.bfloat16, amp), strict=True):
        bound = 2**-8 * exact.abs().max()
        assert (found.double() - exact).abs().max() <= bound * (1 + 1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_in_other_dtypes_it_is_bitwise_that_of_torch(dtype):
    x, gradient = tensors(6, 3, 4, 5, 5, dtype)
    ours = Conv3x3(3, 4).to(dtype)
    theirs = nn.Conv2d(3, 4, 3, padding=1, bias=False).to(dtype)
    theirs.load_state_dict(ours.state_dict())
    for model in (ours, theirs):
        model(x).backward(gradient)
    assert torch.equal(ours.weight.grad, theirs.weight.grad)


def test_in_bfloat16_it_is_differentiable_twice():
    x, gradient = tensors(5, 3, 4, 4, 4, torch.bfloat16)
    second = []
    for dtype in (torch.bfloat16, torch.float64):
        torch.manual_seed(1)
        model = Conv3x3(3, 4).bfloat16().to(dtype)
        own = x.to(dtype).requires_grad_()
        (by_W,) = torch.autograd.grad(
            (model(own) * gradient.to(dtype)).sum(), model.weight, create_graph=True
        )
        second.append(torch.autograd.grad(by_W.square().sum(), own)[0].double())
    # three sums of up to 80 products, each rounded: by 2^-8 of their largest values
    assert (second[0] - second[1]).abs().max() <= 3 * 2**-8 * second[1].abs().max()


def test_in_bfloat16_it_has_forward_derivatives_and_transforms():
    x, _ = tensors(5, 3, 4, 4, 4, torch.bfloat16)
    tangent = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).bfloat16()
    model = Conv3x3(3, 4).bfloat16()
    y, t_y = torch.func.jvp(model, (x,), (tangent,))
    # it is linear in x
    assert torch.equal(y, model(x))
    assert torch.equal(t_y, model(tangent))
    with forward_ad.dual_level():
        dual = model(forward_ad.make_dual(x, tangent))
        assert torch.equal(forward_ad.unpack_dual(dual).tangent, t_y)
    each = torch.func.vmap(model)(torch.stack([x, tangent]))
    assert torch.equal(each, torch.stack([y, t_y]))


def test_only_what_is_asked_for_is_differentiated():
    x, gradient = tensors(4, 3, 2, 4, 4, torch.bfloat16)
    model = Conv3x3(3, 2).bfloat16()
    model(x).backward(gradient)
    assert x.grad is None
    frozen = copy.deepcopy(model).requires_grad_(False)
    (by_x,) = torch.autograd.grad(frozen(x.requires_grad_()), x, gradient)
    assert by_x.shape == x.shape


@pytest.mark.slow
def test_compiled_it_is_one_graph_with_the_same_gradients():
    x, gradient = tensors(8, 4, 3, 5, 5, torch.bfloat16)
    model = Conv3x3(4, 3).bfloat16()
    eager = torch.autograd.grad(model(x), model.weight, gradient)
    graph = torch.compile(model, fullgraph=True, dynamic=False)
    compiled = torch.autograd.grad(graph(x), model.weight, gradient)
    assert torch.equal(compiled[0], eager[0])
