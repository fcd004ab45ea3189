"""The dropout family: bit for bit native on the CPU, generator included."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import scratch_layers

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
