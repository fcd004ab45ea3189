"""BatchNorm1d/2d/3d: equal to native where native is exact, and no worse against float64."""

import copy
import pickle
import warnings

import pytest
import torch
from layer_case import caught, pair
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional

import scratch_layers

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.cuda,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ],
    ),
]
OPTIONS = {
    "default": {},
    "momentum": {"momentum": 0.7},
    "cumulative": {"momentum": None},
    "eps": {"eps": 0.3},
    "no_affine": {"affine": False},
    "no_bias": {"bias": False},
    "no_tracking": {"track_running_stats": False},
}
LAYOUTS = {
    "NC": ("BatchNorm1d", (8, 5), torch.contiguous_format),
    "NCL": ("BatchNorm1d", (4, 5, 7), torch.contiguous_format),
    "NCHW": ("BatchNorm2d", (4, 5, 3, 6), torch.contiguous_format),
    "NHWC": ("BatchNorm2d", (4, 5, 3, 6), torch.channels_last),
    "NCDHW": ("BatchNorm3d", (3, 5, 2, 3, 4), torch.contiguous_format),
    "NDHWC": ("BatchNorm3d", (3, 5, 2, 3, 4), torch.channels_last_3d),
}
# (input, parameters); epsilon is that of the dtype the result is rounded to
DTYPES = {
    "f64": (torch.float64, torch.float64),
    "f32": (torch.float32, torch.float32),
    "bf16": (torch.bfloat16, torch.bfloat16),
    "bf16/f32": (torch.bfloat16, torch.float32),
    "f16/f32": (torch.float16, torch.float32),
}


def step(layer, x, d_y):
    """Output, gradient of the input and of the parameters, buffers after one step."""
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    for parameter in layer.parameters():
        parameter.grad = None
    y = layer(x)
    y.backward(d_y)
    return y, x.grad, [p.grad for p in layer.parameters()], list(layer.buffers())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtypes", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_forward_backward_and_running_statistics_equal_native(options, layout, dtypes, device):
    name, shape, memory_format = layout
    dtype, parameter_dtype = dtypes
    torch.manual_seed(0)
    native, ours = pair(name, 5, **options, dtype=parameter_dtype, device=device)
    # Both sum in float32 at least, up to 72 products of size up to about 30 (in a channels_last
    # layout native also cancels Σ x dy against μ Σ dy), and round once to the dtype. With bfloat16
    # parameters native rounds μ, up to 4, and s to bfloat16 on the way: the sums carry that error.
    wide = torch.finfo(torch.promote_types(parameter_dtype, torch.float32)).eps
    rounded = 16 * torch.finfo(parameter_dtype).eps if parameter_dtype == torch.bfloat16 else 0.0
    close = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 72 * 4 * wide + rounded}
    for training in (True, True, False):
        native.train(training), ours.train(training)
        x = (torch.randn(shape) * 2 + 3).to(device, dtype).contiguous(memory_format=memory_format)
        d_y = torch.randn(shape).to(device, dtype).contiguous(memory_format=memory_format)
        theirs, mine = step(native, x, d_y), step(ours, x, d_y)
        torch.testing.assert_close(mine, theirs, check_stride=False, **close)
        assert mine[0].dtype == dtype
        assert mine[0].is_contiguous(memory_format=memory_format)
        assert mine[1].is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_no_less_accurate_than_native_against_float64(compiled, memory_format):
    torch.manual_seed(0)
    base = torch.randn(32, 8, 16, 16)
    d_y = torch.randn(32, 8, 16, 16).contiguous(memory_format=memory_format)
    for offset in (0.0, 1e2, 1e4):
        x = (base + offset).contiguous(memory_format=memory_format)
        exact = step(nn.BatchNorm2d(8, dtype=torch.float64), x.double(), d_y.double())
        theirs = step(nn.BatchNorm2d(8), x, d_y)
        with scratch_layers.compile_kernels(compiled):
            mine = step(scratch_layers.BatchNorm2d(8), x, d_y)

        for i in (0, 1):
            error = [(result[i].double() - exact[i]).abs().max() for result in (mine, theirs)]
            # two roundings of the largest value (subtraction, product), 2 * eps / 2 * max,
            # are granted to either: where native has luck, that is all that separates them
            granted = torch.finfo(torch.float32).eps * exact[i].abs().max()
            assert error[0] <= torch.maximum(error[1], granted), (offset, i, error)


@pytest.mark.parametrize("value", [1e10, 1.1, -3e-20])
def test_constant_input_gives_beta_exactly_enough(value):
    layer = scratch_layers.BatchNorm2d(3)
    x = torch.full((16, 3, 7, 5), value)
    # the mean of equal numbers is that number, to rounding of the mean: |x - μ| <= ulp(x)
    bound = abs(value) * torch.finfo(torch.float32).eps / layer.eps**0.5
    assert layer(x).abs().max() <= bound
    assert layer.running_var.isfinite().all()
    assert (layer.running_var >= 0).all()


@pytest.mark.parametrize("training", [True, False])
def test_gradcheck_and_gradgradcheck(training):
    torch.manual_seed(0)
    layer = scratch_layers.BatchNorm1d(2, dtype=torch.float64)
    layer(torch.randn(9, 2, dtype=torch.float64))
    layer.train(training)
    x = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.rand(2, dtype=torch.float64, requires_grad=True) for _ in "γβ")

    def f(x, weight, bias):
        state = {"weight": weight, "bias": bias}
        state |= {k: v.clone() for k, v in layer.named_buffers()}
        return torch.func.functional_call(layer, state, (x,))

    assert gradcheck(f, (x, weight, bias), check_forward_ad=True)
    assert gradgradcheck(f, (x, weight, bias), check_fwd_over_rev=True)


def test_torch_func_transforms_equal_native():
    torch.manual_seed(0)
    native, ours = pair("BatchNorm2d", 3, track_running_stats=False, dtype=torch.float64)
    xs, direction = torch.randn(2, 5, 4, 3, 2, 2, dtype=torch.float64)

    def loss(layer):
        return lambda x: layer(x).pow(3).sum()

    second = torch.func.jacrev(torch.func.jacrev(loss(native)))(xs[0])
    # Not by the native of the same transform: its jacrev(jacfwd) is wrong in torch 2.15.
    # jacfwd(jacfwd) is left out: torch gives zeros for the jvp of any Function's jvp.
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        mine = transform(torch.func.jacrev(loss(ours)))(xs[0])
        torch.testing.assert_close(mine, second)
    torch.testing.assert_close(torch.func.jacrev(torch.func.jacfwd(loss(ours)))(xs[0]), second)
    for transform in (
        lambda layer: torch.vmap(layer)(xs),
        lambda layer: torch.vmap(torch.func.grad(loss(layer)))(xs),
        lambda layer: torch.func.jvp(layer, (xs[0],), (direction[0],)),
        lambda layer: torch.vmap(lambda x, t: torch.func.jvp(layer, (x,), (t,)))(xs, direction),
    ):
        torch.testing.assert_close(transform(ours), transform(native))


def test_vmap_over_running_statistics_is_refused_as_by_native():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for layer in pair("BatchNorm2d", 3):
            with pytest.raises(RuntimeError):
                torch.vmap(layer)(torch.randn(2, 4, 3, 2, 2))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_compiles_as_one_graph_and_exports(momentum, training):
    torch.manual_seed(0)
    torch._dynamo.reset()
    layer = scratch_layers.BatchNorm2d(3, momentum=momentum).train(training)
    x, d_y = torch.randn(2, 4, 3, 5, 5)
    eager = step(copy.deepcopy(layer), x, d_y)
    # aot_eager: the tracing is the property, the C++ of Inductor is test_kernels.py's
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(step(compiled, x, d_y), eager)
    for strict in (True, False):
        exported = torch.export.export(copy.deepcopy(layer), (x,), strict=strict).module()
        torch.testing.assert_close(exported(x), eager[0])


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_state_dict_moves_both_ways_in_the_middle_of_training(options):
    torch.manual_seed(0)
    native, ours = pair("BatchNorm2d", 3, **options)
    x = torch.randn(6, 4, 3, 2, 2)
    native(x[0])
    ours.load_state_dict(native.state_dict())
    ours(x[1]), native(x[1])
    native.load_state_dict(ours.state_dict())
    ours(x[2]), native(x[2])
    assert list(ours.state_dict()) == list(native.state_dict())
    assert ours.state_dict()._metadata == native.state_dict()._metadata
    torch.testing.assert_close(ours.state_dict(), native.state_dict())


def test_state_of_version_1_keeps_the_count_and_of_version_2_needs_it():
    for layer in pair("BatchNorm2d", 3):
        layer(torch.randn(4, 3, 2, 2))
        state = layer.state_dict()
        del state["num_batches_tracked"]
        with pytest.raises(RuntimeError, match=r'Missing key.*"num_batches_tracked"'):
            layer.load_state_dict(state)
        state._metadata[""]["version"] = 1
        layer.load_state_dict(state)
        assert layer.num_batches_tracked == 1


def test_the_average_of_all_batches_is_kept_in_the_precision_of_the_layer():
    # the third weight, 1/3, is the first that is no float32
    for layer in pair("BatchNorm1d", 2, momentum=None, dtype=torch.float64):
        x = torch.arange(24.0, dtype=torch.float64).reshape(3, 4, 2) ** 2
        for batch in x:
            layer(batch)
        torch.testing.assert_close(layer.running_mean, x.mean((0, 1)), rtol=1e-15, atol=0)


def test_statistics_that_are_no_longer_tracked_stay_and_are_used_in_evaluation():
    for layer in pair("BatchNorm1d", 2):
        layer(torch.randn(5, 2))
        before = copy.deepcopy(list(layer.buffers()))
        layer.track_running_stats = False
        layer(torch.randn(5, 2))
        torch.testing.assert_close(list(layer.buffers()), before, rtol=0, atol=0)
        layer.eval()
        x = torch.zeros(1, 2)
        normalized = (x - layer.running_mean) / (layer.running_var + layer.eps).sqrt()
        torch.testing.assert_close(layer(x), normalized * layer.weight + layer.bias)


def test_empty_batch_counts_and_changes_no_statistics():
    for layer in pair("BatchNorm2d", 3):
        x = torch.randn(0, 3, 2, 2, requires_grad=True)
        layer(x).sum().backward()
        assert x.grad.shape == x.shape
        assert layer.weight.grad.tolist() == layer.bias.grad.tolist() == [0.0] * 3
        assert layer.running_mean.tolist() == [0.0] * 3
        assert layer.running_var.tolist() == [1.0] * 3
        assert layer.num_batches_tracked == 1


def without_mean(layers):
    layer = layers.BatchNorm2d(3)
    layer.running_mean = None
    layer(torch.ones(2, 3, 2, 2))


def of_dtypes(parameter, x, training):
    def f(layers):
        layers.BatchNorm2d(3, dtype=parameter).train(training)(torch.ones(2, 3, 2, 2).to(x))

    return f


ERRORS = [
    lambda layers: layers.BatchNorm1d(3)(torch.ones(2, 3, 2, 2)),
    lambda layers: layers.BatchNorm2d(3)(torch.ones(2, 3)),
    lambda layers: layers.BatchNorm3d(3)(torch.ones(2, 3)),
    lambda layers: layers.BatchNorm2d(3)(torch.ones(1, 3, 1, 1)),
    lambda layers: layers.BatchNorm1d(3)(torch.ones(1, 3)),
    lambda layers: layers.BatchNorm2d(4)(torch.ones(2, 3, 2, 2)),
    lambda layers: layers.BatchNorm2d(4).eval()(torch.ones(2, 3, 2, 2)),
    lambda layers: layers.BatchNorm2d(4, affine=False)(torch.ones(2, 3, 2, 2)),
    lambda layers: layers.BatchNorm2d(4, track_running_stats=False)(torch.ones(2, 3, 2, 2)),
    lambda layers: layers.BatchNorm2d(3, eps=0)(torch.ones(2, 3, 2, 2)),
    lambda layers: layers.BatchNorm2d(3, eps=-1.0).eval()(torch.ones(2, 3, 2, 2)),
    lambda layers: layers.BatchNorm2d(-1),
    lambda layers: layers.BatchNorm2d(3, 1e-5, 0.1, True, True, None, None, True),
    without_mean,
    *(
        of_dtypes(parameter, x, training)
        for training in (True, False)
        for parameter in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
        for x in (torch.float32, torch.float64, torch.int64, torch.bool, torch.complex64)
        if parameter != x
    ),
]


@pytest.mark.parametrize("failing", ERRORS, ids=range(len(ERRORS)))
def test_refuses_in_the_words_of_native(failing):
    def in_words(layers):
        error = caught(lambda: failing(layers))
        # the class that a TypeError names differs, and nothing else
        return error and (error[0], error[1].replace("_NormBase", "_BatchNorm"))

    assert in_words(nn) is not None
    assert in_words(scratch_layers) == in_words(nn)


FUNCTIONAL = {
    "training": {"training": True},
    "momentum": {"training": True, "momentum": 0.7},
    "evaluation": {},
    "eps": {"eps": 0.3},
}


@pytest.mark.parametrize("options", FUNCTIONAL.values(), ids=FUNCTIONAL)
@pytest.mark.parametrize("shape", [(8, 5), (4, 5, 7), (3, 5, 2, 1, 2, 3), (0, 5, 2)], ids=str)
@pytest.mark.parametrize("affine", [True, False])
def test_functional_form_equals_native(affine, shape, options):
    results = []
    for library in (functional, scratch_layers.batchnorm):
        torch.manual_seed(0)
        x = (torch.randn(shape, dtype=torch.float64) + 1).requires_grad_()
        weight, bias, mean, var = (torch.rand(5, dtype=torch.float64) + 0.5 for _ in range(4))
        parameters = (weight, bias) if affine else ()
        y = library.batch_norm(x, mean, var, *parameters, **options)
        y.pow(3).sum().backward()
        results.append((y, x.grad, mean, var))
    torch.testing.assert_close(*results)


FUNCTIONAL_ERRORS = [
    lambda f, x, v: f(x, None, None),
    lambda f, x, v: f(x, v, None),
    lambda f, x, v: f(x, None, v),
    lambda f, x, v: f(x, v, None, training=True),
    lambda f, x, v: f(x, v[:1], v, training=True),
    lambda f, x, v: f(x, v, v, v[:2]),
    lambda f, x, v: f(x, v, v, v.double()),
    lambda f, x, v: f(x, None, None, training=True, eps=0.0),
    lambda f, x, v: f(x, v, v, eps=-1.0),
    lambda f, x, v: f(x[:1], v, v, training=True),
]


@pytest.mark.parametrize("failing", FUNCTIONAL_ERRORS, ids=range(len(FUNCTIONAL_ERRORS)))
def test_functional_form_refuses_in_the_words_of_native(failing):
    x, v = torch.randn(4, 3), torch.ones(3)
    theirs, ours = (
        caught(lambda f=f: failing(f.batch_norm, x, v))
        for f in (functional, scratch_layers.batchnorm)
    )
    assert ours == theirs
    assert ours is not None
    assert v.tolist() == [1.0] * 3


def test_functional_form_refuses_to_differentiate_by_the_running_statistics_as_native_does():
    x, v, w = torch.randn(4, 3), torch.ones(3), torch.ones(3, requires_grad=True)
    for f in (functional.batch_norm, scratch_layers.batchnorm.batch_norm):
        for training in (True, False):
            with pytest.raises(RuntimeError, match="'running_mean'"):
                f(x, w, v, training=training)
    with pytest.raises(ValueError, match=r"expected at least 2D input \(got 1D input\)"):
        scratch_layers.batchnorm.batch_norm(x[0], v, v)


LAZY = {
    "LazyBatchNorm1d": [(4, 5), (4, 5, 2)],
    "LazyBatchNorm2d": [(4, 5, 2, 2)],
    "LazyBatchNorm3d": [(4, 5, 2, 2, 1)],
}
LAZY_OPTIONS = {
    **{name: options for name, options in OPTIONS.items() if name != "eps"},
    "nothing": {"affine": False, "track_running_stats": False},
    "float64": {"dtype": torch.float64},
}


@pytest.mark.parametrize("options", LAZY_OPTIONS.values(), ids=LAZY_OPTIONS)
@pytest.mark.parametrize("name", LAZY)
def test_a_lazy_layer_becomes_what_natives_becomes(name, options):
    torch.manual_seed(0)
    for shape in LAZY[name]:
        theirs, ours = (
            getattr(layers, name)(**options) for layers in (nn, scratch_layers.batchnorm)
        )
        x = torch.randn(shape, dtype=options.get("dtype"))
        for _ in range(2):  # before and after
            assert repr(ours) == repr(theirs)
            for keep in (vars, nn.Module.state_dict):
                assert list(keep(ours)) == list(keep(theirs))
            torch.testing.assert_close(ours(x), theirs(x))
        assert type(ours) is getattr(scratch_layers, name.removeprefix("Lazy"))
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_states_of_lazy_layers_are_loaded_before_and_after_the_first_batch():
    x = torch.randn(4, 5, 2, 2)
    seen, lazy = scratch_layers.BatchNorm2d(5), scratch_layers.batchnorm.LazyBatchNorm2d()
    seen(x)
    lazy.load_state_dict(seen.state_dict())
    torch.testing.assert_close(lazy.eval()(x), seen.eval()(x))
    assert type(lazy) is scratch_layers.BatchNorm2d
    # one that has seen nothing into one that has seen nothing, ours and native
    for a, b in ((nn, scratch_layers.batchnorm), (scratch_layers.batchnorm, nn)):
        a.LazyBatchNorm2d().load_state_dict(b.LazyBatchNorm2d().state_dict())
    with pytest.raises(ValueError, match="expected 4D input"):
        scratch_layers.batchnorm.LazyBatchNorm2d()(x[0])


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_lazy_layer_is_natives_to_whoever_asks(dims):
    layer = getattr(scratch_layers.batchnorm, f"LazyBatchNorm{dims}d")()
    assert isinstance(layer, getattr(nn, f"LazyBatchNorm{dims}d"))
    assert layer.has_uninitialized_params()
    copied = pickle.loads(pickle.dumps(layer))
    copied(torch.randn(4, 5, *[2] * dims))
    assert (type(copied).__name__, copied.num_features) == (f"BatchNorm{dims}d", 5)
    assert layer.has_uninitialized_params()
