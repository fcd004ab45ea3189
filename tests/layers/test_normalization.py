"""LayerNorm, RMSNorm, GroupNorm and the local response norms: what is particular to them."""

import inspect
import math

import pytest
import torch
from layer_case import caught
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import scratch_layers
from scratch_layers import normalization

F = nn.functional
MIXED = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
EPS = torch.finfo(torch.float32).eps

# each layer as (name, arguments, shape of the input); a set holds 12 values
LAYERS = {
    "layer": ("LayerNorm", (12,), (5, 12)),
    "rms": ("RMSNorm", (12,), (5, 12)),
    "group": ("GroupNorm", (2, 6), (3, 6, 2, 2)),
}
every_layer = pytest.mark.parametrize(("name", "args", "shape"), LAYERS.values(), ids=LAYERS)


def exact(name, args, x, weight=None, bias=None):
    """The equation in float64, by the definition: sets as rows, mean, variance, quotient."""
    x = x.detach().double()
    sets = x.reshape(x.shape[0] * (args[0] if name == "GroupNorm" else 1), -1)
    mu = 0 if name == "RMSNorm" else sets.mean(1, keepdim=True)
    eps = EPS if name == "RMSNorm" else 1e-5
    y = ((sets - mu) / ((sets - mu).square().mean(1, keepdim=True) + eps).sqrt()).reshape(x.shape)
    along = (1, -1) + (1,) * (x.dim() - 2)
    y = y if weight is None else y * weight.double().reshape(along)
    return y if bias is None else y + bias.double().reshape(along)


@every_layer
def test_is_the_equation_of_the_paper(name, args, shape):
    torch.manual_seed(0)
    layer = getattr(normalization, name)(*args)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    x = torch.randn(shape) * 3 + 2
    expected = exact(name, args, x, layer.weight, getattr(layer, "bias", None))
    # x̂ is below sqrt(12), γ and β below 1.5; mean, difference, scale and affine round once each
    torch.testing.assert_close(layer(x).double(), expected, rtol=0, atol=8 * EPS * math.sqrt(12))


@every_layer
def test_output_of_each_set_has_mean_0_and_mean_square_1(name, args, shape):
    torch.manual_seed(0)
    layer = getattr(normalization, name)(*args)
    for scale, shift in ((1.0, 0.0), (1e4, 0.0), (1.0, 1e4)):
        y = layer(torch.randn(shape) * scale + shift).detach().double().reshape(-1, 12)
        if name == "RMSNorm":
            shift = 0.0
        else:
            # the input itself is rounded before the layer sees it; the mean of y is not
            assert y.mean(1).abs().max() < 16 * EPS
        # ε = 1e-5 against a variance of at least 0.1
        torch.testing.assert_close(
            y.square().mean(1), torch.ones(len(y)).double(), atol=2e-4, rtol=0
        )


@every_layer
@pytest.mark.parametrize("value", [1e10, 1.1, -3e-20, 0.0])
def test_constant_input_gives_zero_or_one(name, args, shape, value):
    y = getattr(normalization, name)(*args)(torch.full(shape, value))
    if name != "RMSNorm":
        # the mean of equal numbers is that number, to a rounding, which the compensation removes
        assert y.abs().max() <= abs(value) * EPS / math.sqrt(1e-5)
        assert y.isfinite().all()
    else:
        one = value / math.sqrt(value**2 + EPS)
        torch.testing.assert_close(y, torch.full(shape, one), rtol=4 * EPS, atol=0)


@every_layer
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_value_that_is_not_finite_spoils_its_own_set_as_in_native(name, args, shape, value):
    x = torch.randn(shape)
    x.view(-1)[3] = value
    mine, theirs = getattr(normalization, name)(*args)(x), getattr(nn, name)(*args)(x)
    assert torch.equal(mine.isfinite(), theirs.isfinite())
    assert mine.isfinite().any()


@every_layer
def test_a_set_sees_nothing_of_the_others(name, args, shape):
    torch.manual_seed(0)
    layer = getattr(normalization, name)(*args)
    x = torch.randn(shape, requires_grad=True)
    y = layer(x).reshape(-1, 12)
    (d_x,) = torch.autograd.grad(y[1].square().sum() + y[1, 0], x)
    touched = d_x.reshape(-1, 12).abs().amax(1) > 0
    assert touched.tolist() == [i == 1 for i in range(len(touched))]


@pytest.mark.parametrize("bias", [True, False])
def test_layer_norm_of_shifted_data_gives_back_what_rounding_of_the_mean_took(bias):
    torch.manual_seed(0)
    # 1 + a few steps of the last digit: the mean falls between two float32, and is lost in rounding
    steps = torch.randint(-3, 4, (6, 31))
    x = 2**20 * (1 + steps * EPS)
    layer = normalization.LayerNorm(31, bias=bias)
    expected = exact("LayerNorm", (31,), x)
    # without δ the error is half a step, 0.06, against a standard deviation of 2 steps
    torch.testing.assert_close(layer(x).double(), expected, rtol=0, atol=16 * EPS)


def test_group_norm_is_layer_norm_and_instance_norm_at_its_ends():
    torch.manual_seed(0)
    x = torch.randn(3, 4, 2, 5, dtype=torch.float64)
    one = normalization.group_norm(x, 1)
    torch.testing.assert_close(one, normalization.layer_norm(x, x.shape[1:]))
    each = normalization.group_norm(x, 4)
    torch.testing.assert_close(each, normalization.layer_norm(x, x.shape[2:]))


def test_rms_norm_of_centered_rows_is_layer_norm():
    torch.manual_seed(0)
    x = torch.randn(3, 8, dtype=torch.float64)
    x = x - x.mean(1, keepdim=True)
    layer = normalization.layer_norm(x, (8,), eps=1e-6)
    torch.testing.assert_close(normalization.rms_norm(x, (8,), eps=1e-6), layer)


@pytest.mark.parametrize("dtype", MIXED)
def test_rms_norm_without_eps_takes_that_of_the_dtype_computed_in(dtype):
    x = torch.full((1, 4), 1e-4, dtype=dtype)
    eps = torch.finfo(torch.float64 if dtype == torch.float64 else torch.float32).eps
    expected = 1 / math.sqrt(1 + eps / x[0, 0].item() ** 2)
    y = normalization.rms_norm(x, (4,))
    assert y.dtype == dtype
    # a quotient and a root, rounded once to the dtype
    torch.testing.assert_close(
        y, torch.full_like(x, expected), rtol=2 * torch.finfo(dtype).eps, atol=0
    )
    torch.testing.assert_close(y, F.rms_norm(x, (4,)), rtol=2 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("dtype", MIXED)
def test_rms_norm_takes_a_weight_of_any_dtype(dtype):
    for parameter in MIXED:
        weight = torch.tensor([1.0, 2.0, 0.5], dtype=parameter, requires_grad=True)
        x = torch.tensor([[1.0, 2.0, -3.0]], dtype=dtype, requires_grad=True)
        y = normalization.rms_norm(x, (3,), weight)
        y.sum().backward()
        assert (y.dtype, x.grad.dtype, weight.grad.dtype) == (dtype, dtype, parameter)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_with_float32_parameters_is_rounded_once(dtype, memory_format):
    torch.manual_seed(0)
    x = torch.randn(4, 6, 3, 2).to(dtype).contiguous(memory_format=memory_format)
    layer = normalization.GroupNorm(2, 6)
    y = layer(x)
    assert y.dtype == dtype
    assert y.is_contiguous(memory_format=memory_format)
    # the float32 result is a few of its epsilons away, which may tip a tie: one of the half dtype
    torch.testing.assert_close(y, layer(x.float()).to(dtype), rtol=torch.finfo(dtype).eps, atol=0)


def test_layouts_are_those_of_native():
    last, last_3d = torch.channels_last, torch.channels_last_3d
    for shape, memory_format in (((2, 4, 3, 5), last), ((2, 4, 3, 2, 2), last_3d)):
        for expand in (False, True):
            x = torch.randn(shape).contiguous(memory_format=memory_format).requires_grad_()
            d_y = torch.randn(shape[:2] + (1,) * (len(shape) - 2)).expand(shape)
            d_y = d_y if expand else d_y.contiguous(memory_format=memory_format)
            for library in (nn.functional, normalization):
                y = library.group_norm(x, 2)
                assert y.is_contiguous(memory_format=memory_format)
                (d_x,) = torch.autograd.grad(y, x, d_y)
                assert d_x.is_contiguous(memory_format=memory_format)
    x = torch.randn(4, 2, 6).transpose(0, 1)
    assert normalization.group_norm(x, 2).is_contiguous()
    assert normalization.layer_norm(x, (6,)).is_contiguous()
    assert normalization.rms_norm(x, (6,)).is_contiguous()


@pytest.mark.parametrize("shape", [(0, 4), (3, 0)], ids=["no_rows", "no_values"])
def test_empty_input_gives_empty_output_and_zero_gradients(shape):
    for name in ("LayerNorm", "RMSNorm"):
        layer = getattr(normalization, name)(shape[1])
        x = torch.randn(shape, requires_grad=True)
        layer(x).sum().backward()
        assert x.grad.shape == shape
        for parameter in layer.parameters():
            assert parameter.grad.tolist() == [0.0] * shape[1]


def test_empty_batch_in_group_norm():
    layer = normalization.GroupNorm(2, 4)
    x = torch.randn(0, 4, 3, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.shape == x.shape
    assert layer.weight.grad.tolist() == [0.0] * 4


def test_bias_without_weight_and_weight_without_bias():
    torch.manual_seed(0)
    x = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    v = torch.rand(4, dtype=torch.float64, requires_grad=True)
    row = torch.rand(5, dtype=torch.float64, requires_grad=True)
    for f in (
        lambda library, p, r: library.group_norm(x, 2, None, p),
        lambda library, p, r: library.group_norm(x, 2, p, None),
        lambda library, p, r: library.layer_norm(x, (5,), None, r),
        lambda library, p, r: library.layer_norm(x, (5,), r, None),
    ):
        mine, theirs = f(normalization, v, row), f(F, v, row)
        torch.testing.assert_close(mine, theirs)
        leaves = (
            [x, v] if mine.grad_fn is not None and "group" in inspect.getsource(f) else [x, row]
        )
        grads = [
            torch.autograd.grad(y.pow(3).sum(), leaves, allow_unused=True) for y in (mine, theirs)
        ]
        for a, b in zip(*grads, strict=True):
            torch.testing.assert_close(a, b)


@every_layer
def test_second_derivative_by_the_parameters_too(name, args, shape):
    torch.manual_seed(0)
    layer = getattr(normalization, name)(*args, dtype=torch.float64)
    x = torch.randn(2, *shape[1:], dtype=torch.float64, requires_grad=True)
    parameters = {k: torch.rand_like(p).requires_grad_() for k, p in layer.named_parameters()}

    def f(x, *values):
        return torch.func.functional_call(layer, dict(zip(parameters, values, strict=True)), (x,))

    assert gradcheck(f, (x, *parameters.values()), check_forward_ad=True)
    assert gradgradcheck(f, (x, *parameters.values()), check_fwd_over_rev=True)


def test_transforms_compose_as_the_native_ones_do():
    torch.manual_seed(0)
    xs, direction = torch.randn(2, 3, 2, 4, 3, dtype=torch.float64)

    def loss(library):
        return lambda x: library.group_norm(x, 2).pow(3).sum()

    for transform in (
        lambda f: torch.vmap(torch.func.grad(f))(xs),
        lambda f: torch.func.jacrev(torch.func.jacrev(f))(xs[0]),
        lambda f: torch.vmap(lambda x, t: torch.func.jvp(f, (x,), (t,)))(xs, direction),
    ):
        torch.testing.assert_close(transform(loss(normalization)), transform(loss(F)))
    torch.testing.assert_close(
        torch.func.jacfwd(torch.func.jacrev(loss(normalization)))(xs[0]),
        torch.func.jacrev(torch.func.jacrev(loss(F)))(xs[0]),
    )


# --- local response normalization ---------------------------------------------------------------


def response(x, before, after, alpha_n, beta, k):
    """The equation, channel by channel, in float64."""
    x = x.double()
    channels = []
    for c in range(x.shape[1]):
        window = x[:, max(c - before, 0) : c + after + 1]
        channels.append(x[:, c] / (k + alpha_n * window.square().sum(1)) ** beta)
    return torch.stack(channels, 1)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 6, 2, 3), (1, 3, 2, 2, 2)])
def test_local_response_is_the_equation_and_native(shape, size):
    torch.manual_seed(0)
    x = torch.randn(shape)
    layer = normalization.LocalResponseNorm(size, 2.0, 0.6, 1.5)
    expected = response(x, size // 2, (size - 1) // 2, 2.0 / size, 0.6, 1.5)
    # at most 9 squares, a power and a product
    torch.testing.assert_close(layer(x).double(), expected, rtol=16 * EPS, atol=0)
    native = nn.LocalResponseNorm(size, 2.0, 0.6, 1.5)(x)
    torch.testing.assert_close(layer(x), native, rtol=16 * EPS, atol=0)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", ["LocalResponseNorm", "CrossMapLRN2d"])
def test_local_response_gradcheck(name, size):
    torch.manual_seed(0)
    layer = getattr(normalization, name)(size, 1.5, 0.75, 0.5)
    x = torch.randn(2, 4, 2, 1, dtype=torch.float64, requires_grad=True)
    assert gradcheck(layer, (x,), check_forward_ad=True)
    assert gradgradcheck(layer, (x,), check_fwd_over_rev=True)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_cross_map_is_the_equation_with_a_symmetric_window(size):
    torch.manual_seed(0)
    x = torch.randn(2, 7, 2, 3)
    side = (size - 1) // 2
    expected = response(x, side, side, 1.5 / size, 0.75, 1)
    y = normalization.CrossMapLRN2d(size, 1.5)(x)
    torch.testing.assert_close(y.double(), expected, rtol=16 * EPS, atol=0)
    # torch agrees as long as channel 0 is in the window, and then no longer
    native = nn.CrossMapLRN2d(size, 1.5)(x)
    torch.testing.assert_close(y[:, : side + 1], native[:, : side + 1], rtol=16 * EPS, atol=0)
    assert not torch.allclose(y[:, side + 1 :], native[:, side + 1 :], rtol=1e-3)


def test_local_response_of_integers_halves_and_nothing():
    x = torch.arange(-6, 6).reshape(1, 4, 3)
    y = normalization.local_response_norm(x, 3, 1.0)
    torch.testing.assert_close(y, normalization.local_response_norm(x.float(), 3, 1.0))
    big = torch.full((1, 3, 2), 1e3, dtype=torch.float16)
    # x² is 1e6, beyond float16, and the result is not
    expected = 1e3 / (1 + 1e-4 / 3 * 1e6 * torch.tensor([2.0, 3.0, 2.0])) ** 0.75
    y = normalization.local_response_norm(big, 3)
    close = {"rtol": torch.finfo(torch.float16).eps, "atol": 0.0}
    torch.testing.assert_close(y[0, :, 0], expected.half(), **close)
    empty = torch.randn(0, 3, 2)
    assert normalization.local_response_norm(empty, 3) is empty


def test_autocast_computes_local_response_in_float32_as_native():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for shape in ((2, 3, 4), (2, 3, 4, 5), (1, 3, 2, 2, 2)):
            for dtype in (torch.float32, torch.bfloat16):
                x = torch.randn(shape).to(dtype)
                mine = normalization.local_response_norm(x, 3).dtype
                assert mine == F.local_response_norm(x, 3).dtype


# --- construction and refusals ------------------------------------------------------------------


def test_normalized_shape_is_an_int_or_a_sequence():
    for shape, expected in ((4, (4,)), ([3, 4], (3, 4)), (torch.Size([4]), (4,))):
        for name in ("LayerNorm", "RMSNorm"):
            mine, theirs = getattr(normalization, name)(shape), getattr(nn, name)(shape)
            assert mine.normalized_shape == theirs.normalized_shape == expected
            assert repr(mine) == repr(theirs)
            assert mine.weight.shape == theirs.weight.shape


@pytest.mark.parametrize("name", ["LayerNorm", "GroupNorm"])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_options_give_the_parameters_that_native_has(name, affine, bias):
    args = (4,) if name == "LayerNorm" else (2, 4)
    option = "elementwise_affine" if name == "LayerNorm" else "affine"
    layers = [
        getattr(library, name)(*args, **{option: affine}, bias=bias)
        for library in (normalization, nn)
    ]
    for mine, theirs in zip(*[layer._parameters.items() for layer in layers], strict=True):
        assert mine[0] == theirs[0]
        assert (mine[1] is None) == (theirs[1] is None)
        if mine[1] is not None:
            assert torch.equal(mine[1], theirs[1])
    assert repr(layers[0]) == repr(layers[1])


def x(*shape, dtype=torch.float32):
    return torch.ones(shape, dtype=dtype)


REFUSED = {
    "layer/no_shape": lambda F: F.layer_norm(x(2, 3, 4), []),
    "layer/int_shape": lambda F: F.layer_norm(x(2, 3, 4), 4),
    "layer/other_shape": lambda F: F.layer_norm(x(2, 3, 4), [5]),
    "layer/longer_shape": lambda F: F.layer_norm(x(3, 4), (2, 3, 4)),
    "layer/weight": lambda F: F.layer_norm(x(2, 3, 4), (4,), x(5)),
    "layer/bias": lambda F: F.layer_norm(x(2, 3, 4), (4,), x(4), x(5)),
    "layer/flat_weight": lambda F: F.layer_norm(x(2, 3, 4), (3, 4), x(12)),
    "rms/no_shape": lambda F: F.rms_norm(x(2, 3, 4), []),
    "rms/int_shape": lambda F: F.rms_norm(x(2, 3, 4), 4),
    "rms/weight": lambda F: F.rms_norm(x(2, 3, 4), (4,), x(5)),
    "group/indivisible": lambda F: F.group_norm(x(2, 3, 4), 2),
    "group/negative": lambda F: F.group_norm(x(2, 3, 4), -1),
    "group/1d": lambda F: F.group_norm(x(3), 3),
    "group/0d": lambda F: F.group_norm(x(), 3),
    "group/one_value": lambda F: F.group_norm(x(1, 3), 3),
    "group/one_value_4d": lambda F: F.group_norm(x(1, 3, 1, 1), 3),
    "group/weight": lambda F: F.group_norm(x(2, 3, 4), 3, x(4)),
    "group/weight_2d": lambda F: F.group_norm(x(2, 3, 4), 3, x(3, 1)),
    "group/bias": lambda F: F.group_norm(x(2, 3, 4), 3, x(3), x(4)),
    "group/no_values": lambda F: F.group_norm(x(2, 3, 0), 3),
    "group/no_channels": lambda F: F.group_norm(x(2, 0, 4), 3),
    "lrn/2d": lambda F: F.local_response_norm(x(3, 2), 5),
    "lrn/no_window": lambda F: F.local_response_norm(x(2, 3, 4), 0),
    "lrn/complex": lambda F: F.local_response_norm(x(2, 3, 4, dtype=torch.complex64), 3),
    **{
        f"{kind}/{str(dtype).removeprefix('torch.')}": lambda F, f=f, dtype=dtype: f(
            F, x(2, 3, 4, dtype=dtype)
        )
        for dtype in (torch.int64, torch.bool, torch.complex64)
        for kind, f in {
            "layer": lambda F, t: F.layer_norm(t, (4,)),
            "group": lambda F, t: F.group_norm(t, 3),
            **({} if dtype == torch.complex64 else {"rms": lambda F, t: F.rms_norm(t, (4,))}),
        }.items()
    },
}


@pytest.mark.parametrize("failing", REFUSED.values(), ids=REFUSED)
def test_refuses_in_the_words_of_native(failing):
    assert caught(lambda: failing(F)) is not None
    assert caught(lambda: failing(normalization)) == caught(lambda: failing(F))


@pytest.mark.parametrize("bias", MIXED, ids=str)
@pytest.mark.parametrize("weight", MIXED, ids=str)
@pytest.mark.parametrize("dtype", MIXED, ids=str)
def test_dtypes_go_together_where_they_do_natively(dtype, weight, bias):
    def outcome(f):
        try:
            return f().dtype
        except RuntimeError as error:
            return str(error)

    w, b, given = x(4, dtype=weight), x(4, dtype=bias), x(2, 4, 4, dtype=dtype)
    for call in (
        lambda F: F.layer_norm(given, (4,), w, b),
        lambda F: F.layer_norm(given, (4,), w),
        lambda F: F.layer_norm(given, (4,), None, b),
        lambda F: F.group_norm(given, 2, w, b),
    ):
        assert outcome(lambda call=call: call(normalization)) == outcome(lambda call=call: call(F))


def test_group_norm_refuses_channels_that_do_not_divide_when_made():
    for library in (nn, normalization):
        with pytest.raises(ValueError, match=r"num_channels \(6\) must be divisible by num_groups"):
            library.GroupNorm(4, 6)
    with pytest.raises(RuntimeError, match="num groups to be greater than 0, got 0"):
        normalization.group_norm(x(2, 3, 4), 0)
    with pytest.raises(ValueError, match="CrossMapLRN2d: Expected input to be 4D, got 3D instead"):
        normalization.CrossMapLRN2d(3)(x(2, 3, 4))


def test_signatures_of_the_functions_are_torchs():
    for name in ("layer_norm", "rms_norm", "group_norm", "local_response_norm"):
        mine, theirs = (
            inspect.signature(getattr(library, name)).parameters.values()
            for library in (normalization, F)
        )
        assert [(p.name, p.default) for p in mine] == [(p.name, p.default) for p in theirs]


@pytest.mark.slow
@every_layer
def test_compiled_is_the_equation_too(name, args, shape):
    torch.manual_seed(0)
    layer = getattr(normalization, name)(*args)
    given = torch.randn(shape) + 100
    with scratch_layers.compile_kernels():
        y = layer(given)
    torch.testing.assert_close(y.double(), exact(name, args, given), rtol=0, atol=16 * EPS)
