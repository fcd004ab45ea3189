"""Compiled kernels: the same results, one compilation for each signature, no way back to eager."""

import sys

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

import scratch_layers
from scratch_layers import kernels
from scratch_layers.batchnorm import BatchNormFunction
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


def count_compilations(monkeypatch, *, run_them):
    """The list that grows by a graph with every compilation; without C++ unless they are run."""
    found = []
    compile_ = kernels._compile

    def counted(run, example, sizes, threads=None):
        found.append(run)
        return compile_(run, example, sizes, threads) if run_them else lambda list_: run(*list_)

    monkeypatch.setattr(kernels, "_compile", counted)
    return found


def test_training_a_resnet18_compiles_once_for_each_signature(monkeypatch):
    # as many layers as ever, over more distinct shapes than dynamo's recompile limit
    compilations = count_compilations(monkeypatch, run_them=False)
    torch.manual_seed(0)
    model = resnet18(scratch_layers, in_channels=1)
    with scratch_layers.compile_kernels():
        for size in (8, 16, 8, 16):
            model(torch.randn(3, 1, size, size)).sum().backward()
    norms = [key for key in kernels._kernels if key[0].__module__ == "scratch_layers.batchnorm"]
    # 8: 64x8x8 128x4x4 256x2x2 512x1x1, 16: 64x16x16 128x8x8 256x4x4 512x2x2, each forward and
    # backward
    assert len(norms) == 16
    assert len(kernels._kernels) == len(compilations)
    assert not counters["stats"], "dynamo has no part in it"


def test_an_elementwise_text_compiles_once_for_all_shapes_and_layouts(monkeypatch):
    compilations = count_compilations(monkeypatch, run_them=True)
    torch.manual_seed(0)
    channels_last = torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    with scratch_layers.compile_kernels(), torch.no_grad():
        for x in (torch.randn(7), torch.randn(3, 5), channels_last, torch.randn(())):
            y = kernels.run_elementwise(cube, x, 3)
            torch.testing.assert_close(y, x**3)
            assert y.stride() == x.stride()
            assert not y._is_view(), "a node of the graph may not return a view made inside of it"
        assert len(compilations) == 1
        large = torch.randn(kernels.LARGE)
        torch.testing.assert_close(kernels.run_elementwise(cube, large, 3), large**3)
        kernels.run_elementwise(cube, torch.randn(2 * kernels.LARGE), 3)
        assert len(compilations) == (1 if torch.get_num_threads() == 1 else 2)
        # a 0-dim operand goes with every value
        for x in (torch.randn(7), torch.randn(3, 5)):
            y = kernels.run_elementwise(torch.mul, x, torch.tensor(3.0))
            torch.testing.assert_close(y, x * 3)
        assert len(compilations) == (2 if torch.get_num_threads() == 1 else 3)
        # gaps, an empty tensor and layouts that differ are served, if not by the same kernel
        gaps = torch.randn(6, 4)[:, ::2]
        torch.testing.assert_close(kernels.run_elementwise(cube, gaps, 3), gaps**3)
        assert kernels.run_elementwise(cube, torch.randn(0, 3), 3).shape == (0, 3)
        both = kernels.run_elementwise(torch.add, channels_last, channels_last.contiguous())
        torch.testing.assert_close(both, 2 * channels_last)


def cube(x, n):
    return torch.stack([x] * n).prod(0)


def test_an_elementwise_text_writes_where_it_is_told_even_over_what_it_reads():
    for compiled in (False, True):
        for x in (torch.randn(5, 3), torch.randn(5, 6)[:, ::2]):
            expected = x - 2 * x
            with scratch_layers.compile_kernels(compiled), torch.no_grad():
                assert kernels.run_elementwise(torch.sub, x, 2 * x, out=x) is x
            torch.testing.assert_close(x, expected)


def test_a_kernel_never_recompiles_even_where_dynamo_would():
    layer = scratch_layers.BatchNorm1d(3)
    x = torch.randn(4, 3)
    with scratch_layers.compile_kernels():
        layer(x)
        for rows in range(5, 8):
            layer(torch.randn(rows, 3))
        layer(x)
        with torch.no_grad():
            layer(x)
        with torch.autocast("cpu"):
            layer(x.requires_grad_())
    assert len(kernels._kernels) == 4


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
            y, mu, s, _ = BatchNormFunction.call(*leaves, None, None, 1e-5)
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
