"""Compiled kernels: the same results, one compilation for each signature, no way back to eager."""

import sys

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

import scratch_layers
from scratch_layers import kernels
from scratch_layers.batchnorm import Direct
from scratch_layers.resnet import resnet18


@pytest.fixture(autouse=True)
def fresh():
    """Start from no kernel, and leave the switch off."""
    kernels._kernels.clear()
    torch._dynamo.reset()
    counters.clear()
    yield
    scratch_layers.compile_kernels(False)


def step(layer, x, d_y):
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = layer(x)
    y.backward(d_y)
    return y, x.grad, [p.grad for p in layer.parameters()], list(layer.buffers())


@pytest.mark.parametrize(
    ("dtype", "parameter_dtype"),
    [(torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
    ids=["f32", "bf16"],
)
def test_compiled_equals_eager_to_rounding(dtype, parameter_dtype):
    torch.manual_seed(0)
    x, d_y = (
        torch.randn(6, 5, 4, 4, dtype=dtype).contiguous(memory_format=torch.channels_last)
        for _ in range(2)
    )
    results = []
    for compiled in (False, True):
        layer = scratch_layers.BatchNorm2d(5, dtype=parameter_dtype)
        with scratch_layers.compile_kernels(compiled):
            results.append(step(layer, x, d_y))
    assert len(kernels._kernels) == 2
    eps, wide = torch.finfo(dtype).eps, torch.finfo(torch.float32).eps
    # another order of the 96 additions of values of about 1 (float32), and one rounding (dtype)
    torch.testing.assert_close(results[1], results[0], rtol=2 * eps, atol=96 * wide)


def test_switch_is_off_at_first_and_restored_after_with():
    assert not kernels._compiled
    with scratch_layers.compile_kernels():
        assert kernels._compiled
        with scratch_layers.compile_kernels(False):
            assert not kernels._compiled
        assert kernels._compiled
    assert not kernels._compiled
    scratch_layers.compile_kernels()
    assert kernels._compiled


def test_training_a_resnet18_compiles_once_for_each_signature_and_never_falls_back():
    compilations = []

    def count(graph, example_inputs):
        compilations.append(graph)
        return graph.forward

    torch.manual_seed(0)
    # as many layers as ever, over more distinct shapes than dynamo's recompile limit; counting
    # needs no C++, which test_compiled_equals_eager_to_rounding has
    model = resnet18(scratch_layers, in_channels=1)
    compile_ = torch.compile
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch,
            "compile",
            lambda text, backend, **kw: compile_(text, backend=count, **kw),
        )
        with scratch_layers.compile_kernels():
            for size in (8, 16, 8, 16):
                model(torch.randn(3, 1, size, size)).sum().backward()
    # 8: 64x8x8 128x4x4 256x2x2 512x1x1, 16: 64x16x16 128x8x8 256x4x4 512x2x2, each forward and
    # backward
    assert len(kernels._kernels) == len(compilations) == 16
    assert counters["stats"]["unique_graphs"] == 16
    assert not counters["graph_break"]
    assert not counters["unimplemented"]
    assert not counters["recompile_limit"]


def test_a_kernel_never_recompiles_even_where_dynamo_would():
    layer = scratch_layers.BatchNorm1d(3)
    x = torch.randn(4, 3)
    with scratch_layers.compile_kernels():
        layer(x)
        with torch._dynamo.config.patch(recompile_limit=1, fail_on_recompile_limit_hit=True):
            for rows in range(5, 8):
                layer(torch.randn(rows, 3))
            layer(x)
            with torch.no_grad():
                layer(x)
            with torch.autocast("cpu"):
                layer(x.requires_grad_())
    assert len(kernels._kernels) == 4
    assert counters["stats"]["unique_graphs"] == 4


def text(x, y, w):
    return x - 2 * y, None, y, w


def test_a_kernel_tells_apart_what_coincided_when_it_was_compiled():
    x, y = torch.randn(2, 3)
    empty = torch.empty(0, 3)
    with scratch_layers.compile_kernels(), torch.no_grad():
        for args in ((x, x, None), (x, y, None), (empty, empty[:], x), (empty, empty[:], y)):
            results, expected = kernels.run(text, *args), text(*args)
            torch.testing.assert_close(results[0], expected[0], rtol=0, atol=0)
            assert all(a is b for a, b in zip(results[1:], expected[1:], strict=True))
    assert len(kernels._kernels) == 2


def test_a_kernel_is_called_without_dynamo():
    calls = []
    x, layer = torch.randn(4, 3, 2, 2, requires_grad=True), scratch_layers.BatchNorm2d(3)
    with scratch_layers.compile_kernels():
        layer(x).sum().backward()
        sys.setprofile(lambda frame, event, _: event == "call" and calls.append(frame.f_code))
        layer(x).sum().backward()
        sys.setprofile(None)
    files = [code.co_filename for code in calls]
    assert [code.co_name for code in calls].count("kernel") == 2, "one forward, one backward"
    assert not any("eval_frame" in file or "_functorch" in file for file in files)


def test_evaluation_and_derivatives_by_the_statistics_agree_with_eager():
    torch.manual_seed(0)
    x, gamma, beta, d_y = torch.randn(4, 4, 3, 5, dtype=torch.float64).unbind()
    gamma, beta = gamma[0, :, 0].contiguous(), beta[0, :, 0].contiguous()
    layer = scratch_layers.BatchNorm1d(3, dtype=torch.float64).eval()
    results = []
    for compiled in (False, True):
        leaves = [t.clone().requires_grad_() for t in (x, gamma, beta)]
        with scratch_layers.compile_kernels(compiled):
            y, mu, s, _ = Direct.apply(*leaves, None, None, 1e-5)
            all_three = torch.autograd.grad([y, mu, s], leaves, [d_y, beta, gamma], True)
            only_s = torch.autograd.grad(s, leaves[0], gamma)
            results.append((y, mu, s, all_three, only_s, step(layer, x, d_y)))
    torch.testing.assert_close(results[1], results[0])


def test_texts_run_eagerly_where_single_operations_are_watched():
    torch.manual_seed(0)
    layer = scratch_layers.BatchNorm1d(3, track_running_stats=False, dtype=torch.float64)
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)

    def third(layer):  # the second can be had through a compiled backward, the third cannot
        (d_x,) = torch.autograd.grad(layer(x).pow(3).sum(), x, create_graph=True)
        (d_x,) = torch.autograd.grad(d_x.pow(2).sum(), x, create_graph=True)
        return torch.autograd.grad(d_x.pow(2).sum(), x)[0]

    native = nn.BatchNorm1d(3, track_running_stats=False, dtype=torch.float64)
    with scratch_layers.compile_kernels():
        torch.testing.assert_close(torch.vmap(layer)(x.expand(2, 4, 3)), native(x).expand(2, 4, 3))
        assert layer.to("meta")(x.to("meta")).is_meta
        compiled = torch.compile(native.__class__(3), backend="eager", fullgraph=True)
        assert compiled(x.float()).shape == x.shape
        assert not kernels._kernels
        layer = scratch_layers.BatchNorm1d(3, track_running_stats=False, dtype=torch.float64)
        mine = third(layer)
    # native has no third derivative ("batch_norm does not support 3rd+ order derivatives")
    torch.testing.assert_close(mine, third(layer))
