"""The activations: values of the papers, ends of the number line, errors, in-place, softmax."""

import functools
import inspect
import math
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from scratch_layers import activation, softmax
from scratch_layers.testing.closed_forms import activation as closed_forms
from scratch_layers.testing.closed_forms.activation import Phi, phi

EPS = torch.finfo(torch.float64).eps
INF, NAN = math.inf, math.nan


def named(name):
    return getattr(activation, name, None) or getattr(softmax, name)


# arguments, for the values and slopes of the papers; more cases of the same in the conformance kit
ARGUMENTS = {
    **dict.fromkeys(closed_forms.PAPERS, ((),)),
    "Hardtanh": ((-0.5, 2),),
    "Threshold": ((0.3, 7),),
    "LeakyReLU": ((0.2,),),
    "ELU": ((0.7,),),
    "CELU": ((0.7,),),
    "GELU": ((), ("tanh",)),
    "Softplus": ((2.0, 10.0),),
}


def slope_of_the_paper(name, args):
    """dy/dx as the paper writes it, with the arguments of the constructor."""
    _, slope = closed_forms.PAPERS[name]
    arguments = inspect.signature(getattr(nn, name)).bind(*args)
    arguments.apply_defaults()
    named = inspect.signature(slope).parameters
    return functools.partial(
        slope, **{k: v for k, v in arguments.arguments.items() if k in named and k != "x"}
    )


PAPERS = [
    *[
        (name, args, slope_of_the_paper(name, args))
        for name in ARGUMENTS
        for args in ARGUMENTS[name]
    ],
    ("PReLU", (), lambda x: 1 if x > 0 else 0.25),
]
NAMES = [f"{name}{args or ''}" for name, args, *_ in PAPERS]

every_formula = pytest.mark.parametrize(("name", "args", "slope"), PAPERS, ids=NAMES)
# (name, arguments that follow the input) of what can overwrite its input
INPLACE = [
    *[(name, ()) for name in ("relu", "relu6", "hardtanh", "elu", "selu", "celu", "leaky_relu")],
    *[(name, ()) for name in ("silu", "mish", "hardswish", "hardsigmoid")],
    *[("threshold", (0.1, 20.0)), ("rrelu", ()), ("rrelu", (0.1, 0.3, True))],
]
every_inplace = pytest.mark.parametrize(("name", "args"), INPLACE, ids=str)


def derivatives(f, x, twice=True):
    """f, f' and, unless not twice, f'' at the values of x."""
    x = x.clone().requires_grad_()
    y = f(x)
    (first,) = torch.autograd.grad(y.sum(), x, create_graph=twice)
    second = torch.zeros_like(x)
    if first.requires_grad:
        second = torch.autograd.grad(first.sum(), x, allow_unused=True)[0]
    return y.detach(), first.detach(), torch.zeros_like(x) if second is None else second


@every_formula
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [1e4, 1e30])
def test_far_from_zero_all_is_finite_and_first_and_second_derivative_constant(
    name, args, slope, dtype, size
):
    """Every one of them becomes a line: y = f'x + b, f'' = 0, with b at most 20."""
    x = torch.tensor([-size, size], dtype=dtype)
    y, first, second = derivatives(named(name)(*args).to(dtype), x)
    assert torch.isfinite(torch.stack([y, first, second])).all()
    # the slopes of the paper are constant to 2e-7 from |x| = 18.5 on; softsign's is 1/x², f'' -2/x³
    limits = [0, 0] if name == "Softsign" else [slope(-18.5), slope(18.5)]
    expected = torch.tensor(limits, dtype=dtype)
    torch.testing.assert_close(first, expected, rtol=4 * torch.finfo(dtype).eps, atol=2e-7)
    assert (second.abs() <= (2.1e-12 if name == "Softsign" else 1e-30)).all()
    assert ((y - first * x).abs() <= 21 + 4 * torch.finfo(dtype).eps * (first * x).abs()).all()


@every_formula
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_second_derivative_has_died_out_wherever_the_slope_is_constant(name, args, slope, dtype):
    x = torch.tensor([s * v for v in (25, 35, 39, 41, 45, 60, 79, 81, 90, 200) for s in (1, -1)])
    _, _, second = derivatives(named(name)(*args).to(dtype), x.to(dtype))
    # slopes are differences of numbers up to 1, times |x| = 200 and a few roundings; softsign 2/x³
    assert (second.abs() <= (2e-4 if name == "Softsign" else 200 * 8e-8)).all()


@pytest.mark.parametrize("name", ["Tanh", "Tanhshrink", "Softsign", "SiLU", "GELU", "ELU", "Mish"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_small_numbers_keep_their_digits(name, dtype):
    x = torch.tensor([s * 10.0**-k for k in (2, 4, 8, 20, 30) for s in (1, -1)], dtype=dtype)
    y = named(name)()(x)
    leading = {"Tanh": 1, "Softsign": 1, "ELU": 1, "SiLU": 0.5, "GELU": 0.5, "Mish": 0.6}
    wide = x.double()
    if name == "Tanhshrink":
        truth = wide**3 / 3 - 2 * wide**5 / 15 + 17 * wide**7 / 315 - 62 * wide**9 / 2835
    else:
        truth = leading[name] * wide  # and a term of second order, |x| times the first
    y, truth, near = y.double(), truth, x.abs() < 1e-7
    if name == "Tanhshrink":
        near = truth.abs() > 100 * torch.finfo(dtype).tiny
    # 4 roundings, and for the lines the neglected |x|
    tolerance = 4 * torch.finfo(dtype).eps + (1e-8 if name != "Tanhshrink" else 1e-15)
    assert ((y - truth).abs() <= tolerance * truth.abs())[near].all()
    assert near.sum() >= 4


@every_formula
def test_nan_infinity_and_zero_go_where_they_go_natively(name, args, slope):
    x = torch.tensor([NAN, INF, -INF, -0.0, 0.0, 0.0, 0.0, 0.0])
    if name in ("GELU", "Softshrink", "Hardshrink", "Softsign"):
        # gelu(inf): native's kernels for the CPU say nan, inf · 1 is inf
        x[1:3] = 0
    mine, theirs = named(name)(*args), getattr(nn, name)(*args)
    for a, e in zip(derivatives(mine, x, False), derivatives(theirs, x, False), strict=True):
        if name == "ReLU":  # native's derivative at nan is 1
            a, e = (torch.where(x.isnan(), 0, t) for t in (a, e))
        if name in ("SiLU", "Mish", "GELU", "Hardswish"):
            a, e = (torch.where(x.isinf(), 0, t) for t in (a, e))  # ∞ · 0 and its like
        torch.testing.assert_close(a, e, equal_nan=True)
        if name != "Hardshrink":  # native makes 0 of -0 in some of its kernels
            assert torch.equal(a.signbit()[4:], e.signbit()[4:])


def test_gelu_is_differentiated_without_dropping_the_density():
    x = torch.tensor([1.0], dtype=torch.float64)
    _, first, second = derivatives(activation.gelu, x)
    assert first.item() == pytest.approx(Phi(1) + phi(1), rel=4 * EPS)
    assert abs(first.item() - Phi(1)) > 0.2  # the simplified one
    assert second.item() == pytest.approx(phi(1) * (2 - 1), rel=8 * EPS)


def test_gelu_of_infinity_is_infinity():
    y = activation.gelu(torch.full((16,), INF))
    assert (y == INF).all()


def test_selu_keeps_mean_zero_and_variance_one():
    """∫ selu(x) φ(x) dx = 0 and ∫ selu²(x) φ(x) dx = 1, by the trapezoidal rule."""
    x = torch.linspace(-12, 12, 2_400_001, dtype=torch.float64)
    weight = (-x * x / 2).exp() / math.sqrt(2 * math.pi) * 1e-5
    y = activation.selu(x)
    # the constants have 16 digits; the rule has an error of h² f'/12 at the kink, h = 1e-5
    assert abs((y * weight).sum()) < 1e-10
    assert abs((y * y * weight).sum() - 1) < 1e-10


# --- PReLU, RReLU, GLU ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5,), (), (4, 3), (4, 3, 5), (2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_prelu_sums_the_gradient_of_its_weight_over_all_but_the_channel(shape, channels):
    if channels == 3 and len(shape) < 2:
        pytest.skip("an input of fewer than two dimensions has one channel")
    torch.manual_seed(0)
    m = activation.PReLU(channels).double()
    assert m.weight.tolist() == [0.25] * channels
    x, d_y = torch.randn(2, *shape, dtype=torch.float64)
    m(x).backward(d_y)
    each = d_y * x * (x <= 0)
    others = [d for d in range(x.dim()) if d != 1]
    expected = each.sum(others) if channels == 3 else each.sum().reshape(1)
    torch.testing.assert_close(m.weight.grad, expected, rtol=0, atol=x.numel() * EPS * 10)


def test_prelu_takes_a_weight_without_dimensions():
    w = torch.tensor(0.3, requires_grad=True)
    x = torch.tensor([-2.0, 3.0])
    activation.prelu(x, w).sum().backward()
    assert w.grad.shape == ()
    assert w.grad.item() == -2


def test_prelu_sums_in_float32_for_half_precision():
    x = torch.full((4096, 1), -1.0, dtype=torch.bfloat16)
    m = activation.PReLU(dtype=torch.bfloat16)
    m(x).sum().backward()
    assert m.weight.grad.item() == -4096  # bfloat16 stops counting at 256


def seeded(f):
    torch.manual_seed(3)
    return f(), torch.get_rng_state()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "strided", "empty", "scalar"])
def test_rrelu_draws_what_native_draws(dtype, inplace, layout):
    torch.manual_seed(0)
    x = torch.randn(40, 30).to(dtype)
    x[0, :5] = 0
    x = {"transposed": x.t(), "strided": x[::2, ::3], "empty": x[:0], "scalar": x[0, 0]}.get(
        layout, x
    )
    theirs = seeded(lambda: F.rrelu(x.clone(), 0.1, 0.4, True, inplace))
    mine = seeded(lambda: activation.rrelu(x.clone(), 0.1, 0.4, True, inplace))
    assert torch.equal(mine[0], theirs[0])
    assert torch.equal(mine[1], theirs[1])


def test_rrelu_differentiates_by_the_slopes_it_drew_and_keeps_nothing_else():
    x = torch.randn(1000, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t), t)[1], lambda t: t):
        y = activation.RReLU(0.2, 0.3)(x)
    y.sum().backward()
    assert torch.equal(y, x * x.grad)
    assert (x.grad[x > 0] == 1).all()
    assert ((x.grad >= 0.2) & (x.grad < 0.3))[x <= 0].all()
    assert sum(t.nbytes for t in saved) == 4000
    assert len(set(x.grad[x <= 0].tolist())) > 400


def test_rrelu_draws_under_vmap():
    x = -torch.ones(3, 50)
    different = torch.vmap(activation.RReLU(), randomness="different")(x)
    same = torch.vmap(activation.RReLU(), randomness="same")(x)
    assert not torch.equal(different[0], different[1])
    assert torch.equal(same[0], same[1])


def test_rrelu_of_evaluation_has_the_mean_slope():
    x = torch.tensor([-2.0, 2.0])
    assert activation.RReLU(0.25, 0.75).eval()(x).tolist() == [-1.0, 2.0]


@pytest.mark.parametrize("dim", [0, 1, 2, -1, -3])
def test_glu_halves_along_the_dimension(dim):
    torch.manual_seed(0)
    x = torch.randn(4, 6, 2, dtype=torch.float64)
    a, b = x.chunk(2, dim)
    gate = 1 / (1 + (-b).exp())
    y, first, _ = derivatives(lambda x: activation.glu(x, dim), x)
    # a few roundings, and 1 - σ(b) of the reference
    torch.testing.assert_close(y, a * gate, rtol=4 * EPS, atol=0)
    expected = torch.cat([gate, a * gate * (1 - gate)], dim)
    torch.testing.assert_close(first, expected, rtol=20 * EPS, atol=4 * EPS)


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_glu_is_finite_twice_where_its_gate_is_far_open_or_closed(size):
    x = torch.tensor([[3.0, -size], [3.0, size], [size, size], [size, -size]])
    _, first, second = derivatives(activation.glu, x)
    assert first[:, 0].tolist() == [0, 1, 1, 0]
    assert first[:, 1].tolist() == [0] * 4
    assert torch.isfinite(second).all()


# --- in place -------------------------------------------------------------------------------------


@every_inplace
def test_inplace_overwrites_the_input_with_the_same_values_and_gradients(name, args):
    torch.manual_seed(0)
    start, d_y = torch.randn(2, 4, 7)
    results = []
    for library, inplace in ((activation, True), (activation, False), (F, True)):
        x = start.clone().requires_grad_()
        inner = x * 1
        y, _ = seeded(lambda i=inner, m=library, o=inplace: getattr(m, name)(i, *args, inplace=o))
        assert (y is inner) == inplace
        y.backward(d_y)
        results.append((y.detach(), x.grad))
    for other in results[1:]:
        # a derivative written in y subtracts; 4 roundings of numbers up to 4
        torch.testing.assert_close(results[0], other, rtol=4e-7, atol=1e-6)


@every_inplace
def test_inplace_on_a_leaf_is_refused_before_it_is_changed(name, args):
    x = torch.randn(5, requires_grad=True)
    before = x.detach().clone()
    with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        named(name)(x, *args, inplace=True)
    assert torch.equal(x, before)
    with torch.no_grad():
        y = named(name)(x, *args, inplace=True)
    assert y.data_ptr() == x.data_ptr()
    assert not torch.equal(x, before) or (before > 0).all()


@pytest.mark.parametrize("name", ["relu", "elu", "selu", "celu", "leaky_relu"])
def test_inplace_keeps_the_overwritten_tensor_and_nothing_else(name):
    saved = []
    x = torch.randn(50, requires_grad=True) * 1
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t), t)[1], lambda t: t):
        y = named(name)(x, inplace=True)
    assert [t.data_ptr() for t in saved] == [y.data_ptr()]


@pytest.mark.parametrize("name", ["elu_", "celu_", "leaky_relu_", "rrelu_"])
def test_inplace_with_a_negative_slope_is_refused_in_the_backward_as_natively(name):
    messages = []
    for library in (F, activation):
        x = torch.randn(4, requires_grad=True) * 1
        y = getattr(library, name)(x, *((-1.0,) if name != "rrelu_" else (-0.5, -0.1)))
        with pytest.raises(RuntimeError) as caught:
            y.sum().backward()
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("name", [name for name in activation.__all__ if name.endswith("_")])
def test_underscored_forms_overwrite(name):
    x = torch.linspace(-2, 2, 9)
    args = (0.1, 20.0) if name == "threshold_" else ()
    expected = getattr(F, name)(x.clone(), *args)
    assert named(name)(x, *args) is x
    torch.testing.assert_close(x, expected)


@every_inplace
def test_inplace_under_transforms_of_torch_func(name, args):
    if args[2:]:
        pytest.skip("the two would draw different slopes")
    x, t = torch.randn(2, 5, dtype=torch.float64)
    inplace, plain = (
        lambda x, o=o: named(name)(x * 1, *args, inplace=o).sin().sum() for o in (True, False)
    )
    torch.testing.assert_close(torch.func.grad(inplace)(x), torch.func.grad(plain)(x))
    torch.testing.assert_close(
        torch.func.jvp(inplace, (x,), (t,)), torch.func.jvp(plain, (x,), (t,))
    )


# --- dtypes, shapes, errors -----------------------------------------------------------------------

ONE = [
    *("relu", "relu6", "hardtanh", "elu", "selu", "celu", "leaky_relu", "rrelu", "gelu", "glu"),
    *("logsigmoid", "hardshrink", "softshrink", "tanhshrink", "softsign", "softplus", "sigmoid"),
    *("tanh", "silu", "mish", "hardswish", "hardsigmoid"),
]


def outcome(f):
    try:
        return f()
    except Exception as error:
        return type(error), str(error).split("\n")[0]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8, torch.bool], ids=str)
@pytest.mark.parametrize("name", [*ONE, "threshold"])
def test_integers_are_taken_promoted_or_refused_as_natively(name, dtype):
    if dtype == torch.bool and name in ("tanhshrink", "softsign"):
        pytest.skip("native refuses by accident of an operator, ours makes floats of them")
    if dtype == torch.uint8 and name in ("tanhshrink", "softsign"):
        pytest.skip("native's 1 + |255| is 0")
    if dtype == torch.uint8 and name == "hardtanh" and torch.__version__ < "2.15":
        pytest.skip("native refuses limits of -1 and 1 of what is never negative")
    x = torch.tensor([-5, -1, 0, 1, 2, 5]).to(dtype)
    args = (1, 20) if name == "threshold" else ()
    theirs, mine = (outcome(lambda m=m: getattr(m, name)(x, *args)) for m in (F, activation))
    if isinstance(theirs, torch.Tensor):
        torch.testing.assert_close(mine, theirs)
    else:
        assert mine == theirs


@pytest.mark.parametrize("name", [*ONE, "threshold"])
def test_complex_numbers_are_refused_with_a_name(name):
    args = (1, 20) if name == "threshold" else ()
    with pytest.raises(NotImplementedError, match=r"not implemented for 'ComplexFloat'|complex"):
        named(name)(torch.ones(2, dtype=torch.complex64), *args)


@pytest.mark.parametrize("name", [n for n in ONE if n != "glu"])
def test_scalars_and_empty_tensors_pass(name):
    for x in (torch.tensor(-0.7), torch.empty(0, 4), torch.empty(3, 0)):
        mine, theirs = (derivatives(getattr(m, name), x, False) for m in (activation, F))
        torch.testing.assert_close(mine, theirs)


REFUSED = {
    "prelu channels": lambda m: m.prelu(torch.ones(2, 3, 4), torch.ones(2)),
    "prelu no channel": lambda m: m.prelu(torch.ones(3), torch.ones(3)),
    "prelu scalar": lambda m: m.prelu(torch.tensor(1.0), torch.ones(2)),
    "prelu dims": lambda m: m.prelu(torch.ones(2, 3), torch.ones(1, 1)),
    "prelu double": lambda m: m.prelu(torch.ones(2, 3).double(), torch.ones(1)),
    "prelu int": lambda m: m.prelu(torch.ones(2, 3).int(), torch.ones(1).int()),
    "glu odd": lambda m: m.glu(torch.ones(4, 3)),
    "glu scalar": lambda m: m.glu(torch.tensor(1.0)),
    "glu dim": lambda m: m.glu(torch.ones(4, 3), 2),
    "gelu": lambda m: m.gelu(torch.ones(3), approximate="erf"),
    "softshrink": lambda m: m.softshrink(torch.ones(3), -1),
    "celu": lambda m: m.celu(torch.ones(3), 0.0),
    "rrelu training": lambda m: m.rrelu(torch.ones(3), 0.5, 0.1, True),
    "rrelu evaluation": lambda m: m.rrelu(torch.ones(3), 0.5, 0.1),
    "rrelu int": lambda m: m.rrelu(torch.ones(3).int(), 0.1, 0.5, True),
    "hardtanh": lambda m: m.hardtanh(torch.ones(3), 2, 1),
    "Hardtanh": lambda m: m.Hardtanh(2, 1),
    "Hardtanh equal": lambda m: m.Hardtanh(1.0, 1.0),
    "Softmax dim": lambda m: m.Softmax("1"),
    "LogSoftmax dim": lambda m: m.LogSoftmax(True),
    "Softmax2d": lambda m: m.Softmax2d()(torch.ones(2, 3)),
    "softmax dim": lambda m: m.softmax(torch.ones(2, 3), 2),
    "softmax scalar": lambda m: m.softmax(torch.tensor(2.0), 1),
    "softmax int": lambda m: m.softmax(torch.ones(2, 3).int(), 1),
    "softmax int inner": lambda m: m.softmax(torch.ones(2, 3).int(), 0),
    "log_softmax int": lambda m: m.log_softmax(torch.ones(2, 3).int(), 1),
    "softmax to int": lambda m: m.softmax(torch.ones(2, 3), 0, dtype=torch.int64),
}


class Both:
    """Looks names up in several modules."""

    def __init__(self, *modules):
        self.modules = modules

    def __getattr__(self, name):
        return next(getattr(m, name) for m in self.modules if hasattr(m, name))


@pytest.mark.parametrize("failing", REFUSED.values(), ids=REFUSED)
def test_refuses_in_the_words_of_native(failing):
    theirs, mine = (
        outcome(lambda m=m: failing(m)) for m in (Both(F, nn), Both(activation, softmax))
    )
    assert isinstance(theirs, tuple), "native accepts this: not a case of this test"
    assert mine == theirs


def test_names_and_signatures_of_the_functional_forms_are_torchs():
    names = [n for m in (activation, softmax) for n in m.__all__ if n[0].islower()]
    assert len(names) == 36
    for name in names:
        native, mine = getattr(F, name), named(name)
        if inspect.isfunction(native):
            theirs = inspect.signature(native).parameters.values()
            ours = inspect.signature(mine).parameters.values()
            assert [(p.name, p.default) for p in ours] == [(p.name, p.default) for p in theirs]
    layers = {n for m in (activation, softmax) for n in m.__all__ if n[0].isupper()}
    assert layers == set(nn.modules.activation.__all__) - {"MultiheadAttention"}


def test_deprecated_names_of_hardtanh_still_count_with_a_warning():
    with pytest.warns(FutureWarning, match="`min_value` is deprecated and renamed to `min_val`"):
        assert activation.Hardtanh(min_value=-3).min_val == -3
    with pytest.warns(FutureWarning, match="`max_value` is deprecated and renamed to `max_val`"):
        assert activation.Hardtanh(max_value=3).max_val == 3


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", [name for name in activation.__all__ if name[0].isupper()])
def test_reprs_with_every_option_are_torchs(name, inplace):
    args = {"Threshold": (0.1, 20.0), "PReLU": (3,), "GLU": (1,), "GELU": ("tanh",)}.get(name, ())
    takes = "inplace" in inspect.signature(getattr(nn, name)).parameters
    options = {"inplace": True} if inplace and takes else {}
    assert repr(named(name)(*args, **options)) == repr(getattr(nn, name)(*args, **options))


def test_softplus_does_not_overflow_however_high_its_threshold():
    x = torch.tensor([1e4, -1e4, 100.0])
    y, first, second = derivatives(lambda x: activation.softplus(x, 1, 1e6), x)
    assert y.tolist() == [1e4, 0, 100]
    assert first.tolist() == [1, 0, 1]
    assert torch.isfinite(second).all()


# --- softmax --------------------------------------------------------------------------------------

FAMILY = ("softmax", "log_softmax", "softmin")


def test_softmax_is_the_equation_of_its_docstring():
    x = torch.randn(4, 5, dtype=torch.float64)
    e = x.exp()
    expected = e / e.sum(1, keepdim=True)
    # 5 terms of the sum, a division, a logarithm
    close = {"rtol": 10 * EPS, "atol": 10 * EPS}
    torch.testing.assert_close(softmax.softmax(x, 1), expected, **close)
    torch.testing.assert_close(softmax.softmin(-x, 1), expected, **close)
    torch.testing.assert_close(softmax.log_softmax(x, 1), expected.log(), **close)
    jacobian = torch.func.jacrev(lambda v: softmax.softmax(v, 0))(x[0])
    y = expected[0]
    torch.testing.assert_close(jacobian, y.diag() - y.outer(y), **close)
    jacobian = torch.func.jacfwd(lambda v: softmax.log_softmax(v, 0))(x[0])
    torch.testing.assert_close(jacobian, torch.eye(5, dtype=x.dtype) - y, **close)


@pytest.mark.parametrize("name", FAMILY)
def test_softmax_does_not_change_when_all_inputs_move(name):
    x = torch.randn(4, 5).mul(64).round() / 64  # so that x + 1e4 is exact in float32
    for shift in (1e4, -1e4):
        assert torch.equal(named(name)(x + shift, 1), named(name)(x, 1))


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_softmax_takes_huge_masked_empty_and_scalar_inputs_as_native_does(name, dtype):
    rows = [[1e4, -1e4, 0.0], [-INF, 1.0, 2.0], [-INF] * 3, [INF, 1.0, 2.0], [NAN, 1.0, 2.0]]
    for x in (
        *torch.tensor(rows, dtype=dtype),
        torch.empty(0, 4, dtype=dtype),
        torch.empty(3, 0, dtype=dtype),
        torch.tensor(2.0, dtype=dtype),
    ):
        for dim in range(-x.dim() or -1, x.dim() or 1):
            mine, theirs = (
                derivatives(lambda x, m=m, d=dim: getattr(m, name)(x, d), x, False)
                for m in (softmax, F)
            )
            torch.testing.assert_close(mine, theirs, equal_nan=True)


@pytest.mark.parametrize("name", FAMILY)
def test_softmax_second_derivative_is_finite_for_huge_inputs(name):
    x = torch.tensor([[1e4, -1e4, 3.0, 9.999e3]])
    weight = torch.randn(1, 4)
    for t in derivatives(lambda x: named(name)(x, 1) * weight, x):
        assert torch.isfinite(t).all()


@pytest.mark.parametrize("name", FAMILY)
def test_softmax_converts_to_dtype_before_it_computes(name):
    x = torch.randn(4, 5)
    for given in (x.bfloat16(), (x * 3).long()):
        theirs, mine = (getattr(m, name)(given, 1, dtype=torch.float64) for m in (F, softmax))
        assert mine.dtype == torch.float64
        torch.testing.assert_close(mine, theirs)
    half = x.bfloat16().requires_grad_()
    named(name)(half, 1, dtype=torch.float32)[:, 0].sum().backward()
    assert half.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("name", ["Softmax", "Softmin", "LogSoftmax"])
@pytest.mark.parametrize("dims", range(5))
def test_implicit_dimension_is_native_s_with_its_warning(name, dims):
    x = torch.randn([3] * dims)
    seen = []
    for library in (nn, softmax):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            seen.append(
                (getattr(library, name)()(x), [(str(w.message), w.filename) for w in caught])
            )
    torch.testing.assert_close(seen[0][0], seen[1][0])
    assert seen[0][1] == seen[1][1]
    assert len(seen[0][1]) == 1


def test_softmax2d_is_softmax_over_channels():
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(softmax.Softmax2d()(x), softmax.softmax(x, 1))
    assert torch.equal(softmax.Softmax2d()(x[0]), softmax.softmax(x[0], 0))


def test_softmax_from_before_it_had_a_dimension_loads():
    for name in ("Softmax", "LogSoftmax", "Softmin"):
        old = getattr(softmax, name)(1)
        del old.dim
        assert pickle.loads(pickle.dumps(old)).dim is None


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_gumbel_softmax_draws_what_native_draws(hard, dim):
    logits = torch.randn(6, 5)
    results = []
    for library in (F, softmax):
        x = logits.clone().requires_grad_()
        y, state = seeded(lambda f=library.gumbel_softmax, x=x: f(x, 0.7, hard, dim=dim))
        (y * torch.arange(5)).sum().backward()
        results.append((y.detach(), x.grad, state))
    torch.testing.assert_close(results[0][:2], results[1][:2])
    assert torch.equal(results[0][2], results[1][2])
    if hard:
        assert torch.equal(results[1][0].sum(dim), torch.ones_like(results[1][0].sum(dim)))


def test_gumbel_softmax_draws_each_class_as_often_as_softmax_says():
    torch.manual_seed(0)
    logits = torch.tensor([0.0, 1.0, -1.0])
    n = 20_000
    drawn = softmax.gumbel_softmax(logits.expand(n, 3), hard=True).mean(0)
    # four standard errors of a frequency, at most sqrt(1/4/n)
    assert (drawn - softmax.softmax(logits, 0)).abs().max() < 4 * 0.5 / math.sqrt(n)
    with pytest.warns(UserWarning, match="`eps` parameter is deprecated and has no effect"):
        softmax.gumbel_softmax(logits, eps=1e-5)
