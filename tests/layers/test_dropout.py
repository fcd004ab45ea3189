"""The dropout family: bit for bit native on the CPU, generator included."""

import copy
import inspect
import itertools
import math
import pickle
import warnings

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import scratch_layers
from scratch_layers import dropout
from scratch_layers.dropout import DropPath, drop_path, linear_decay

# class, shapes it takes
LAYERS = {
    "Dropout": [(7,), (4, 6, 5), (3, 4, 5, 2)],
    "Dropout1d": [(6, 5), (4, 6, 5)],
    "Dropout2d": [(4, 6), (4, 6, 5), (4, 6, 2, 2, 2), (4, 6, 5, 3)],
    "Dropout3d": [(4, 6, 5), (4, 6, 5, 2), (4, 6, 5, 2, 2)],
    "AlphaDropout": [(7,), (4, 6, 5)],
    "FeatureAlphaDropout": [(4, 6), (4, 6, 5), (4, 6, 5, 2)],
}
CASES = [(name, shape) for name, shapes in LAYERS.items() for shape in shapes]
EACH = [(name, shapes[-1]) for name, shapes in LAYERS.items()]
# torch.equal holds 0 and -0 for equal; the bits do not
BITS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}

pytestmark = pytest.mark.filterwarnings("ignore:dropout[23]d. Received a")


def seeded(f, seed=3):
    """Result or error of f after seeding, and the state of the generator after it."""
    torch.manual_seed(seed)
    try:
        result = f()
    except Exception as error:
        result = (type(error), str(error))
    return result, torch.get_rng_state()


def step(layer, x, d_y):
    x = x.clone().requires_grad_()
    # a copy, since a leaf cannot be overwritten; an input that is not a leaf can
    y = layer(x * 1 if layer.inplace else x)
    y.backward(d_y)
    return y.detach(), x.grad


@pytest.mark.parametrize(("name", "shape"), CASES)
@pytest.mark.parametrize("dtype", BITS)
@pytest.mark.parametrize("inplace", [False, True])
def test_output_gradient_and_generator_are_bit_equal_to_native(name, shape, dtype, inplace):
    x, d_y = torch.randn(2, *shape).to(dtype)
    for p in (0.0, 0.1, 0.3, 0.5, 0.9, 1.0):
        for training in (True, False):
            theirs, mine = (
                seeded(lambda m=m: step(m(p, inplace).train(training), x, d_y))  # noqa: B023
                for m in (getattr(nn, name), getattr(scratch_layers, name))
            )
            assert torch.equal(mine[1], theirs[1])
            assert torch.equal(mine[0][0].view(BITS[dtype]), theirs[0][0].view(BITS[dtype]))
            # the sign of a zero may differ in place: there autograd adds the zero gradient of the
            # values that were overwritten
            assert torch.equal(mine[0][1], theirs[0][1])
            if not inplace:
                assert torch.equal(mine[0][1].view(BITS[dtype]), theirs[0][1].view(BITS[dtype]))


@pytest.mark.parametrize("name", LAYERS)
def test_memory_layouts_are_bit_equal_to_native_in_value_and_stride(name):
    torch.manual_seed(0)
    for x in (
        torch.randn(4, 5, 6, 7).contiguous(memory_format=torch.channels_last),
        torch.randn(4, 6, 7, 5).permute(2, 3, 0, 1),
        torch.randn(4, 5, 6, 14)[..., ::2],
        torch.randn(4, 1, 6, 7).expand(4, 5, 6, 7),
    ):
        if name == "Dropout1d":
            x = x[0]
        theirs, mine = (
            seeded(lambda m=m, x=x: m()(x))[0]
            for m in (getattr(nn, name), getattr(scratch_layers, name))
        )
        assert torch.equal(mine, theirs)
        assert mine.stride() == theirs.stride()


@pytest.mark.parametrize(("name", "shape"), EACH)
def test_infinities_and_nan_travel_as_in_native(name, shape):
    x = torch.full(shape, float("inf"))
    x[0] = float("nan")
    for p in (0.5, 1.0):
        theirs, mine = (
            seeded(lambda m=m, p=p: m(p)(x))[0]
            for m in (getattr(nn, name), getattr(scratch_layers, name))
        )
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    "failing",
    [
        lambda m: m(2),
        lambda m: m(-0.1),
        lambda m: m("a"),
        lambda m: m(float("nan"))(torch.ones(2, 3, 4)),
        lambda m: m(float("nan")).eval()(torch.ones(2, 3, 4)),
        lambda m: m()(torch.ones(2, 3, 4, dtype=torch.int64)),
        lambda m: m()(torch.ones(2, 3, 4, dtype=torch.bool)),
        lambda m: m()(torch.ones(2)) if "Feature" in m.__name__ else m(-1),
        lambda m: m()(torch.ones(2, 3, 4, 5)) if "1d" in m.__name__ else m(-1),
        lambda m: torch.vmap(m())(torch.ones(2, 3, 4, 5)),
        lambda m: m(1.5),
    ],
    ids=range(11),
)
def test_refuses_in_the_words_of_native(name, failing):
    theirs, mine = (
        seeded(lambda m=m: failing(m))[0]
        for m in (getattr(nn, name), getattr(scratch_layers, name))
    )
    assert isinstance(theirs, tuple), "native accepts this: not a case of this test"
    assert mine == theirs


@pytest.mark.parametrize("name", ["Dropout", "Dropout1d", "Dropout2d", "Dropout3d"])
def test_inplace_overwrites_and_is_refused_on_a_leaf(name):
    x = torch.ones(LAYERS[name][-1])
    layer = getattr(scratch_layers, name)(inplace=True)
    assert layer(x) is x
    assert (x == 0).any()
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        layer(x.requires_grad_())


@pytest.mark.parametrize(("name", "dims"), [("Dropout2d", (2, 3)), ("Dropout3d", (3,))])
def test_warns_in_the_words_of_native(name, dims):
    for dim in dims:
        messages = []
        for layers in (nn, scratch_layers):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                getattr(layers, name)()(torch.ones([3] * dim))
            messages.append([str(w.message) for w in caught])
        assert messages[0]
        assert messages[0] == messages[1]


@pytest.mark.parametrize(("name", "shape"), EACH)
def test_gradcheck_gradgradcheck_and_transforms(name, shape):
    layer = getattr(scratch_layers, name)(0.4)
    native = getattr(nn, name)(0.4)
    small = [min(size, 3) for size in shape]
    x = torch.randn(small, dtype=torch.float64, requires_grad=True)

    def f(x):
        torch.manual_seed(0)
        return layer(x)

    assert gradcheck(f, (x,), check_forward_ad=True)
    assert gradgradcheck(f, (x,), check_fwd_over_rev=True)
    xs = torch.randn(3, *shape)
    for transform in (
        lambda m: torch.func.jvp(m, (xs[0],), (xs[1],)),
        lambda m: torch.func.grad(lambda x: m(x).pow(2).sum())(xs[0]),
        lambda m: torch.vmap(m, randomness="same")(xs),
        lambda m: torch.vmap(m, randomness="different")(xs),
    ):
        mine, theirs = (seeded(lambda m=m, t=transform: t(m)) for m in (layer, native))
        torch.testing.assert_close(mine[0], theirs[0])
        assert torch.equal(mine[1], theirs[1])


def test_alpha_dropout_keeps_mean_and_variance():
    torch.manual_seed(0)
    x = torch.randn(1_000_000)
    y = scratch_layers.AlphaDropout(0.3)(x)
    # standard errors of mean and variance of 10^6 values: 1e-3 and 1.4e-3 (normal) ; 5 of them
    assert abs(y.mean()) < 5e-3
    assert abs(y.var() - 1) < 7e-3


def test_mask_takes_one_byte_for_each_value():
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t.nbytes), t)[1], id):
        scratch_layers.Dropout()(torch.randn(1000, requires_grad=True))
    assert sum(saved) == 1000 + 4  # and the scale


@pytest.mark.parametrize(("name", "shape"), EACH)
def test_compiles_exports_copies_and_pickles(name, shape):
    torch._dynamo.reset()
    layer = getattr(scratch_layers, name)(0.25)
    x = torch.randn(shape)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    assert torch.equal(seeded(lambda: compiled(x))[0], seeded(lambda: layer(x))[0])
    for strict in (True, False):
        exported = torch.export.export(layer, (x,), strict=strict).module()
        assert torch.equal(seeded(lambda e=exported: e(x))[0], seeded(lambda: layer(x))[0])
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(other) is type(layer)
        assert repr(other) == repr(layer) == repr(getattr(nn, name)(0.25))


FUNCTIONS = {
    "dropout": "Dropout",
    "dropout1d": "Dropout1d",
    "dropout2d": "Dropout2d",
    "dropout3d": "Dropout3d",
    "alpha_dropout": "AlphaDropout",
    "feature_alpha_dropout": "FeatureAlphaDropout",
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", BITS)
def test_functional_forms_are_bit_equal_to_native(name, dtype):
    ours, theirs = getattr(dropout, name), getattr(nn.functional, name)
    mine, native = inspect.signature(ours), inspect.signature(theirs)
    assert [(p.name, p.default) for p in mine.parameters.values()] == [
        (p.name, p.default) for p in native.parameters.values()
    ]
    for shape in LAYERS[FUNCTIONS[name]]:
        x = torch.randn(shape).to(dtype)
        for p, training, inplace in itertools.product(
            (0.0, 0.3, 1.0), (True, False), (True, False)
        ):
            expected, actual = (
                seeded(lambda f=f: f((given := x.clone()), p, training, inplace).add(given))  # noqa: B023
                for f in (theirs, ours)
            )
            assert torch.equal(actual[0].view(BITS[dtype]), expected[0].view(BITS[dtype]))
            assert torch.equal(actual[1], expected[1])
        expected, actual = (seeded(lambda f=f: f(x))[0] for f in (theirs, ours))  # noqa: B023
        assert torch.equal(actual, expected), "the defaults"
    for failing in (lambda f: f(x, 2.0), lambda f: f(x, math.nan)):
        expected, actual = (seeded(lambda f=f: failing(f))[0] for f in (theirs, ours))  # noqa: B023
        assert actual == expected


@pytest.mark.parametrize("mode", ["row", "batch"])
@pytest.mark.parametrize("dtype", BITS)
def test_drop_path_is_bit_equal_to_torchvision_and_timm(mode, dtype):
    for shape in ((6,), (6, 5), (6, 3, 2, 2), (0, 3)):
        for p, training in itertools.product((0.0, 0.1, 0.5, 1.0), (True, False)):
            others = [torchvision.ops.StochasticDepth(p, mode)]
            if mode == "row":
                others.append(timm.layers.DropPath(p))
            x = torch.randn(shape).to(dtype).requires_grad_()

            def both(layer, x=x):
                y = layer(x)
                return y.detach(), *torch.autograd.grad(y.sum() + x.sum(), x)

            mine = seeded(lambda: both(DropPath(p, mode).train(training)))  # noqa: B023
            for other in others:
                theirs = seeded(lambda: both(other.train(training)))  # noqa: B023
                for a, b in zip(mine[0], theirs[0], strict=True):
                    assert torch.equal(a.view(BITS[dtype]), b.view(BITS[dtype]))
                assert torch.equal(mine[1], theirs[1])


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    torch.manual_seed(0)
    x = torch.ones(10_000, 2, 3)
    y = drop_path(x, 0.3)
    kept = y[:, 0, 0] != 0
    # in one rounding of the scale
    torch.testing.assert_close(y, kept.float().reshape(-1, 1, 1).expand_as(y) / 0.7)
    # standard error sqrt(p (1 - p) / n) = 4.6e-3 ; 5 of them
    assert abs(kept.float().mean() - 0.7) < 2.3e-2
    whole = torch.stack([drop_path(x[:50], 0.5, "batch")[:, 0, 0] for _ in range(20)])
    assert (whole == whole[:, :1]).all()
    assert whole[:, 0].unique().tolist() == [0, 2]
    assert drop_path(x, 0.3, training=False) is x


def test_drop_path_derivatives_refusals_and_repr():
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)

    def f(x):
        torch.manual_seed(0)
        return DropPath(0.4)(x)

    assert gradcheck(f, (x,), check_forward_ad=True)
    assert gradgradcheck(f, (x,))
    for p in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match=f"between 0 and 1, but got {p}"):
            DropPath(p)
    with pytest.raises(ValueError, match="mode has to be either 'batch' or 'row', but got col"):
        DropPath(0.1, "col")
    with pytest.raises(ValueError, match="0-dim input"):
        drop_path(torch.tensor(1.0), 0.5)
    assert drop_path(torch.tensor(1.0), 1.0, "batch") == 0
    assert repr(DropPath(0.25, "batch")) == "DropPath(p=0.25, mode=batch)"
    torch._dynamo.reset()
    compiled = torch.compile(DropPath(0.5), fullgraph=True, backend="aot_eager")
    assert compiled(x).shape == x.shape


def test_linear_decay_rises_to_the_rate_of_the_last_block():
    assert linear_decay(0.5, 5) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert linear_decay(0.5, 0) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_kernels_have_the_bits_of_native(name, dtype):
    """But for alpha dropout in half precision, which rounds once: 1 ulp of the larger summand."""
    exact = "Alpha" not in name or dtype == torch.float32
    for shape in LAYERS[name]:
        x, d_y = torch.randn(2, *shape).to(dtype)
        for p in (0.1, 0.5, 1.0):
            theirs = seeded(lambda: step(getattr(nn, name)(p), x, d_y))  # noqa: B023
            with scratch_layers.compile_kernels():
                mine = seeded(lambda: step(getattr(scratch_layers, name)(p), x, d_y))  # noqa: B023
            assert torch.equal(mine[1], theirs[1])
            for a, b in zip(mine[0], theirs[0], strict=True):
                close = 0 if exact else torch.finfo(dtype).eps * float(b.abs().max() + 2)
                torch.testing.assert_close(a, b, rtol=0, atol=close)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("name", "shape"), EACH)
def test_on_cuda_forward_and_backward_share_one_mask(name, shape):
    x = torch.randn(shape, device="cuda", requires_grad=True)
    layer = getattr(scratch_layers, name)(0.5)
    torch.manual_seed(0)
    layer(x).sum().backward()
    torch.manual_seed(0)
    _, derivative = torch.func.jvp(layer, (x.detach(),), (torch.ones_like(x),))
    assert (x.grad == 0).any()
    assert torch.equal(derivative, x.grad)
