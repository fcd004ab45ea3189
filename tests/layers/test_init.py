"""Initial values: torch's bit for bit, generator included, and the properties they are made for."""

import inspect
import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn.functional import leaky_relu, selu, tanh

from scratch_layers import init

BITS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}
SHAPES = [(), (5,), (3, 4), (40, 3), (3, 40), (6, 6), (4, 6, 3), (12, 2, 3, 3), (4, 5, 2, 3, 1)]
EMPTY = [(0,), (0, 3), (3, 0), (0, 0), (0, 2, 3), (2, 0, 3)]
# name, arguments; each meets every shape, dtype and layout, whether torch accepts that or not
CALLS = [
    ("uniform_", {}),
    ("uniform_", {"a": -0.3, "b": 2.5}),
    ("uniform_", {"a": 1.0, "b": -1.0}),
    ("normal_", {}),
    ("normal_", {"mean": 0.7, "std": 0.02}),
    ("normal_", {"std": -1.0}),
    ("trunc_normal_", {}),
    ("trunc_normal_", {"mean": 0.1, "std": 0.5, "a": -0.2, "b": 0.9}),
    ("trunc_normal_", {"a": 0.0, "b": 0.9}),  # 0.32 of the normal: still normal proposals
    ("trunc_normal_", {"a": 0.0, "b": 0.7}),  # 0.26 of it: uniform proposals from here on
    ("trunc_normal_", {"std": 3.0, "a": -0.1, "b": 0.2}),
    ("trunc_normal_", {"mean": 2.0, "a": 2.5, "b": 4.0}),
    ("trunc_normal_", {"mean": 5.0, "std": 0.5, "a": -1.0, "b": 4.5}),
    ("trunc_normal_", {"mean": 9.0, "a": -1.0, "b": 1.0}),
    ("trunc_normal_", {"std": 0.0}),
    ("trunc_normal_", {"a": 1.0, "b": -1.0}),
    ("constant_", {"val": 0.3}),
    ("ones_", {}),
    ("zeros_", {}),
    ("eye_", {}),
    ("dirac_", {}),
    ("dirac_", {"groups": 2}),
    ("dirac_", {"groups": 4}),
    ("dirac_", {"groups": 0}),
    ("xavier_uniform_", {}),
    ("xavier_uniform_", {"gain": 1.7}),
    ("xavier_normal_", {"gain": 0.3}),
    ("kaiming_uniform_", {}),
    ("kaiming_uniform_", {"a": math.sqrt(5)}),
    ("kaiming_uniform_", {"mode": "FAN_OUT", "nonlinearity": "relu"}),
    ("kaiming_uniform_", {"mode": "fan_avg"}),
    ("kaiming_uniform_", {"nonlinearity": "gelu"}),
    ("kaiming_uniform_", {"a": True}),
    ("kaiming_normal_", {"a": 0.2}),
    ("kaiming_normal_", {"mode": "fan_out", "nonlinearity": "tanh"}),
    ("kaiming_normal_", {"mode": "max"}),
    ("orthogonal_", {}),
    ("orthogonal_", {"gain": 1.3}),
    ("sparse_", {"sparsity": 0.1}),
    ("sparse_", {"sparsity": 0.5, "std": 2.0}),
    ("sparse_", {"sparsity": 1.0}),
]
IDS = ["-".join([name, *(f"{k}={v}" for k, v in options.items())]) for name, options in CALLS]
DRAWS = [
    name
    for name in torch.nn.init.__all__
    if "generator" in str(inspect.signature(getattr(init, name)))
]


def tensors():
    """Each shape in each dtype, and float32 in other layouts."""
    for dtype in BITS:
        for shape in SHAPES + EMPTY:
            yield torch.full(shape, 7.0, dtype=dtype)
    yield torch.full((3, 40), 7.0).T
    yield torch.full((6, 80), 7.0)[::2, ::2]
    yield torch.full((4, 3, 3, 3), 7.0).to(memory_format=torch.channels_last)
    yield nn.Parameter(torch.full((6, 5), 7.0))
    yield torch.empty(4, 3, 3, device="meta")
    yield torch.empty(4, 6, device="meta")


def outcome(module, name, tensor, options, own_generator):
    """Result or error, warnings, and the generators afterwards."""
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(5)
    if own_generator:
        options = {**options, "generator": generator}
    result = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            assert getattr(module, name)(tensor, **options) is tensor
            result = tensor.detach()
        except Exception as error:
            result = type(error), str(error)
    texts = [(w.category, str(w.message)) for w in caught]
    return result, texts, torch.get_rng_state(), generator.get_state()


def copy_of(x):
    y = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device).copy_(x.detach())
    return y.requires_grad_(x.requires_grad)


def beyond_torch(name, x):
    """Where torch raises what it need not: half precision, and layouts that it cannot view."""
    half = x.dtype in (torch.float16, torch.bfloat16)
    layout = x.dim() == 4 and not x.is_contiguous()
    return name == "orthogonal_" and (half or layout) and x.numel() > 0 and x.dim() > 1


@pytest.mark.parametrize(("name", "options"), CALLS, ids=IDS)
def test_values_errors_warnings_and_generator_are_torchs_bit_for_bit(name, options):
    accepted = False
    for x in tensors():
        if beyond_torch(name, x):
            continue
        for own_generator in (False, True) if name in DRAWS else (False,):
            mine, theirs = (
                outcome(module, name, copy_of(x), options, own_generator)
                for module in (init, torch.nn.init)
            )
            assert mine[1] == theirs[1]
            assert torch.equal(mine[2], theirs[2])
            assert torch.equal(mine[3], theirs[3])
            if isinstance(theirs[0], tuple):
                assert mine[0] == theirs[0]
            elif not x.is_meta:
                accepted = True
                assert torch.equal(mine[0].view(BITS[x.dtype]), theirs[0].view(BITS[x.dtype]))
    assert accepted or name != "orthogonal_"


def test_every_public_name_is_there_with_its_signature():
    def parameters(f):
        return [(p.name, p.kind, p.default) for p in inspect.signature(f).parameters.values()]

    assert set(torch.nn.init.__all__) | {"fan_in_and_fan_out"} == set(init.__all__)
    for name in torch.nn.init.__all__:
        # torch's aliases take (*args, **kwargs) and hand them on
        original = name + "_" if name + "_" in init.__all__ else name
        assert parameters(getattr(init, name)) == parameters(getattr(torch.nn.init, original))
        assert getattr(init, name).__name__ == name


@pytest.mark.parametrize("name", [n for n in init.__all__ if n + "_" in init.__all__])
def test_deprecated_name_warns_here_and_does_the_same(name):
    options = {"constant": {"val": 2.0}, "sparse": {"sparsity": 0.5}}.get(name, {})
    x = torch.empty((4, 6, 3) if name == "dirac" else (4, 6))
    results = [outcome(module, name, x.clone(), options, False) for module in (init, torch.nn.init)]
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]
    assert results[0][1][0][0] is FutureWarning
    with pytest.warns(FutureWarning) as record:
        getattr(init, name)(x, **options)
    assert record[0].filename == __file__


@pytest.mark.parametrize(
    "warn",
    [
        lambda: init.trunc_normal_(torch.empty(3), mean=9.0),
        lambda: init.kaiming_uniform_(torch.empty(0, 3)),
        lambda: init.kaiming_normal_(torch.empty(0, 3)),
    ],
    ids=["trunc_normal_", "kaiming_uniform_", "kaiming_normal_"],
)
def test_warnings_name_the_line_that_calls(warn):
    with pytest.warns(UserWarning, match="2 std from|zero-element") as record:
        warn()
    assert record[0].filename == __file__


NONLINEARITIES = [
    *(f"conv{kind}{d}d" for kind in ("", "_transpose") for d in (1, 2, 3)),
    *("linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu", "gelu", ""),
]


@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_gain_is_torchs_in_value_type_and_error(nonlinearity):
    for param in (None, 0, 0.3, 2, -1.0, True, "0.1", torch.tensor(0.1)):
        results = []
        for module in (init, torch.nn.init):
            try:
                gain = module.calculate_gain(nonlinearity, param)
                results.append((type(gain), gain))
            except Exception as error:
                results.append((type(error), str(error)))
        assert results[0] == results[1]


def test_gains_of_the_derivation():
    # E[f(y)²] over N(0, 1) by the trapezoidal rule; its error, and that of float64, is below 1e-9
    # (f² has a kink at 0, which is a grid point)
    y = torch.linspace(-12, 12, 240_001, dtype=torch.float64)
    density = torch.exp(-y * y / 2) / math.sqrt(2 * math.pi)

    def gain(f, q=1.0):
        return float(torch.trapezoid(f(math.sqrt(q) * y) ** 2 * density, y)) ** -0.5

    for a in (0.0, 0.2, 1.0):
        f = lambda y, a=a: leaky_relu(y, a)  # noqa: E731
        assert gain(f) == pytest.approx(init.calculate_gain("leaky_relu", a), rel=1e-8)
    assert gain(lambda y: leaky_relu(y, 0.0)) == pytest.approx(init.calculate_gain("relu"))
    assert gain(selu) == pytest.approx(1, rel=1e-6)  # its constants are float32
    # the figures of the module's docstring, to their last digit
    assert gain(tanh) == pytest.approx(1.5925, abs=5e-5)
    q = 1.1784804903863333
    assert (init.calculate_gain("tanh") / gain(tanh, q)) ** 2 == pytest.approx(q, rel=1e-8)


def test_fans_of_linear_and_convolution():
    assert init.fan_in_and_fan_out(torch.empty(3, 5)) == (5, 3)
    assert init.fan_in_and_fan_out(torch.empty(3, 5, 2, 7)) == (70, 42)


@pytest.mark.parametrize("name", ["kaiming_normal_", "kaiming_uniform_"])
@pytest.mark.parametrize("a", [0.0, 0.3])
@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
def test_variance_survives_depth(name, a, mode):
    torch.manual_seed(0)
    depth, widths = 30, (400, 800)
    x = torch.randn(widths[0], 16)
    x /= x.square().mean(0).sqrt()  # columns of mean square 1
    if mode == "fan_out":  # the same recursion runs backwards, through the transposed weights
        widths = widths[::-1]
        x = x.new_ones(widths[1], 16)
    layers = torch.empty(widths[1], widths[0]), torch.empty(widths[0], widths[1])
    for i in range(depth):
        W = getattr(init, name)(layers[i % 2], a, mode)
        if mode == "fan_in":
            x = leaky_relu(W @ x, a)
            scale = 2 / (1 + a * a)
        else:  # ∂x = f'(y) Wᵀ ∂y, with f' of a sign that is independent of ∂y
            slope = torch.where(torch.rand(W.shape[1], 16) < 0.5, 1.0, a)
            x = slope * (W.T @ x)
            scale = 1
    # A layer of n units multiplies the mean square by 1 + noise of variance c / n, where
    # c = Var(f²)/E[f²]² = 6 (1 + a⁴)/(1 + a²)² - 1 <= 5 for Gaussian y. The logarithms add up: over
    # the 30 layers of 400 and 800 units a deviation of sqrt(15 * 5 / 400 + 15 * 5 / 800) = 0.53,
    # which the mean of 16 columns does not much reduce, since they share W. 4 deviations are a
    # factor of 8; a gain off by 10 percent would come to 1.1^60 = 300.
    mean_square = float(x.square().mean()) * scale
    assert 1 / 8 < mean_square < 8


@pytest.mark.parametrize("name", ["xavier_normal_", "xavier_uniform_"])
def test_glorot_variance(name):
    torch.manual_seed(0)
    W = getattr(init, name)(torch.empty(300, 100, 3, 3), 1.5)
    # relative standard error of the variance of n = 270,000 values: at most sqrt(2 / n) = 2.7e-3
    assert float(W.var()) == pytest.approx(1.5**2 * 2 / ((100 + 300) * 9), rel=1.1e-2)


@pytest.mark.parametrize(
    ("mean", "std", "a", "b"),
    [(0, 1, -2, 2), (0, 3, -0.1, 0.2), (2, 1, 2.5, 4), (1, 2, -1, 9)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_truncated_normal_has_its_distribution(mean, std, a, b, dtype):
    torch.manual_seed(0)
    n = 100_000
    x = init.trunc_normal_(torch.empty(n, dtype=dtype), mean, std, a, b).double()
    # bounds are rounded to the dtype
    assert a - abs(a) * torch.finfo(dtype).eps <= x.min()
    assert x.max() <= b + abs(b) * torch.finfo(dtype).eps
    normal = torch.distributions.Normal(mean, std)
    below, above = normal.cdf(torch.tensor([a, b], dtype=torch.float64))
    values, counts = x.unique(return_counts=True)
    expected = (normal.cdf(values) - below) / (above - below)
    # Kolmogorov-Smirnov at the level 1e-5: sqrt(log(2e5) / 2 / n) = 0.0078; and a value stands for
    # all that was rounded to it, within one spacing, at most eps |x|, times the density
    density = normal.log_prob(values).exp() / (above - below)
    spacing = torch.finfo(dtype).eps * values.abs() * density
    assert ((counts.cumsum(0) / n - expected).abs() < 0.0078 + spacing).all()


@pytest.mark.parametrize("shape", [(7, 7), (30, 8), (8, 30), (6, 3, 3, 3), (40, 2, 3), (1, 5)])
@pytest.mark.parametrize("dtype", [*BITS, torch.complex64])
def test_orthogonal_has_singular_values_of_the_gain(shape, dtype):
    torch.manual_seed(0)
    wide = torch.promote_types(dtype, torch.float32)
    for x in (torch.empty(shape, dtype=dtype), torch.empty(shape, dtype=dtype).transpose(0, -1)):
        W = init.orthogonal_(x, 1.5).flatten(1).to(wide)
        W = W if W.shape[0] >= W.shape[1] else W.mH
        n = W.shape[1]
        # Householder QR loses at most about eps times the size in an inner product; the rounding of
        # half precision costs eps/2 for each factor, so eps for the sum of products that is 1
        tolerance = 1.5**2 * (max(W.shape) * torch.finfo(wide).eps + torch.finfo(dtype).eps)
        assert ((W.mH @ W) - 1.5**2 * torch.eye(n)).abs().max() < tolerance


def test_orthogonal_is_uniformly_distributed():
    torch.manual_seed(0)
    n, draws = 3, 4000
    W = torch.stack([init.orthogonal_(torch.empty(n, n)) for _ in range(draws)])
    # Haar: E[W] = 0 and E[(tr W)²] = 1. LAPACK's Q without the signs has det -1 (or +1) always,
    # and a diagonal of one sign. Standard errors: sqrt(1 / 3 / draws) = 0.0091, and Var((tr W)²)
    # is 2 (as of a normal, from n = 2 on): sqrt(2 / draws) = 0.022; 5 of them
    assert W.mean(0).abs().max() < 0.046
    trace = W.diagonal(dim1=1, dim2=2).sum(1)
    assert abs(trace.square().mean() - 1) < 0.11
    assert abs(torch.linalg.det(W).mean()) < 5 / math.sqrt(draws)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_dirac_convolution_is_the_identity_in_every_group(dims, groups):
    conv = [torch.conv1d, torch.conv2d, torch.conv3d][dims - 1]
    W = init.dirac_(torch.empty(6, 6 // groups, *[3] * dims), groups)
    x = torch.randn(2, 6, *[5] * dims)
    assert torch.equal(conv(x, W, padding=1, groups=groups), x)


def test_sparse_columns_have_their_zeros():
    torch.manual_seed(0)
    W = init.sparse_(torch.empty(50, 20), 0.33)
    assert ((W == 0).sum(0) == 17).all()


def test_autograd_does_not_see_it():
    for name, options in CALLS:
        W = nn.Parameter(torch.ones((4, 4, 3) if name == "dirac_" else (4, 4)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = outcome(init, name, W, options, False)[0]
        assert isinstance(result, tuple) or (W.requires_grad and W.is_leaf)
