"""The derivations of the layers, checked by computer algebra.

The texts of the layers (``forward``, ``backward``, ``slope``, ...) are run on symbols as they
stand, and what they write down is compared with the derivative that sympy finds. Where roots
or exponentials can be substituted away both are equal as fractions of polynomials, exactly; the
activations are compared at points, with 30 digits. docs/layers/ shows the derivations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import sympy as sp
import torch

from scratch_layers import (
    activation,
    batchnorm,
    cross_entropy,
    dropout,
    init,
    normalization,
    regularization,
    softmax,
    syncbatchnorm,
    variational,
)
from scratch_layers.cross_entropy import Focal
from scratch_layers.function import Formula
from scratch_optim import SGD


class Symbolic:
    """An array of expressions with as much of a tensor's face as those texts look at."""

    dtype = torch.float64
    device = torch.device("cpu")

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values, dtype=object)

    @classmethod
    def of(cls, value: Any) -> Any:
        """A tensor or a number, in exact arithmetic."""
        if isinstance(value, torch.Tensor):
            return cls(np.frompyfunc(sp.sympify, 1, 1)(value.numpy().astype(object)))
        return sp.Rational(value) if isinstance(value, float) else value

    @classmethod
    def __torch_function__(
        cls, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        # torch.exp(x) with x of this class, or tensor * x
        return getattr(cls, function.__name__)(*map(cls.of, args), **(kwargs or {}))

    def _each(self, function: Any, *others: Any) -> Symbolic:
        others = [cls_of(other) for other in others]
        return Symbolic(np.frompyfunc(function, 1 + len(others), 1)(self.values, *others))

    # shapes

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def dim(self) -> int:
        return self.values.ndim

    def stride(self, dim: int) -> int:
        return int(np.prod(self.shape[dim + 1 :]))

    def contiguous(self) -> Symbolic:
        return self

    def to(self, dtype: torch.dtype) -> Symbolic:
        """The same; of conditions, 1 and 0."""
        return self._each(lambda v: sp.Piecewise((1, v), (0, True)) if _is_condition(v) else v)

    def reshape(self, *shape: Any) -> Symbolic:
        return Symbolic(self.values.reshape(shape[0] if isinstance(shape[0], tuple) else shape))

    def flatten(self, start: int) -> Symbolic:
        return self.reshape(*self.shape[:start], -1)

    def unflatten(self, dim: int, sizes: tuple[int, ...]) -> Symbolic:
        return self.reshape(*self.shape[:dim], *sizes, *self.shape[dim + 1 :])

    def squeeze(self, dim: int) -> Symbolic:
        return Symbolic(self.values.squeeze(dim))

    def unsqueeze(self, dim: int) -> Symbolic:
        return Symbolic(np.expand_dims(self.values, dim))

    def expand(self, *shape: int) -> Symbolic:
        return Symbolic(np.broadcast_to(self.values, shape))

    def split(self, sizes: list[int], dim: int) -> list[Symbolic]:
        return [Symbolic(v) for v in np.split(self.values, np.cumsum(sizes)[:-1], dim)]

    def index_select(self, dim: int, index: torch.Tensor) -> Symbolic:
        return Symbolic(np.take(self.values, index.numpy(), dim))

    def __getitem__(self, index: Any) -> Symbolic:
        return Symbolic(self.values[index])

    def __len__(self) -> int:
        return len(self.values)

    # sums

    def sum(self, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Symbolic:
        axis = tuple(dim) if isinstance(dim, list) else dim
        return Symbolic(self.values.sum(axis, keepdims=keepdim))

    def amax(self, dim: int, keepdim: bool = False) -> Symbolic:
        """A number M of which nothing is known: whoever subtracts it must not depend on it."""
        shape = self.values.sum(dim, keepdims=keepdim).shape
        return Symbolic(np.full(shape, sp.Symbol("M", real=True), dtype=object))

    # functions

    def where(self, a: Any, b: Any) -> Symbolic:
        def choose(condition: Any, a: Any, b: Any) -> Any:
            return sp.Piecewise((sp.sympify(a), condition), (sp.sympify(b), True))

        return self._each(choose, a, b)

    def clamp(self, min: Any = None, max: Any = None) -> Symbolic:
        x = self if min is None else self._each(sp.Max, min)
        return x if max is None else x._each(sp.Min, max)

    def clamp_min(self, bound: float) -> Symbolic:
        return self.clamp(min=bound)

    def clamp_max(self, bound: float) -> Symbolic:
        return self.clamp(max=bound)

    def new_full(self, shape: tuple[int, ...], value: float) -> Symbolic:
        return Symbolic(np.full(shape, sp.Rational(value), dtype=object))

    def copysign(self, other: Symbolic) -> Symbolic:
        return self._each(lambda a, b: sp.Abs(a) * sp.sign(b), other)

    def expm1(self) -> Symbolic:
        return self._each(lambda v: sp.exp(v) - 1)

    def log1p(self) -> Symbolic:
        return self._each(lambda v: sp.log(1 + v))

    def rsqrt(self) -> Symbolic:
        return self._each(lambda v: 1 / sp.sqrt(v))

    def exp(self) -> Symbolic:
        return self._each(sp.exp)

    def log(self) -> Symbolic:
        return self._each(sp.log)

    def erf(self) -> Symbolic:
        return self._each(sp.erf)

    def abs(self) -> Symbolic:
        return self._each(sp.Abs)

    def sign(self) -> Symbolic:
        return self._each(sp.sign)

    # operators

    def __neg__(self) -> Symbolic:
        return Symbolic(-self.values)

    def __add__(self, other: Any) -> Symbolic:
        return self._each(lambda a, b: a + b, other)

    def __mul__(self, other: Any) -> Symbolic:
        return self._each(lambda a, b: a * b, other)

    def __sub__(self, other: Any) -> Symbolic:
        return self._each(lambda a, b: a - b, other)

    def __rsub__(self, other: Any) -> Symbolic:
        return self._each(lambda a, b: b - a, other)

    def __truediv__(self, other: Any) -> Symbolic:
        return self._each(lambda a, b: a / b, other)

    def __rtruediv__(self, other: Any) -> Symbolic:
        return self._each(lambda a, b: b / a, other)

    def __pow__(self, other: Any) -> Symbolic:
        return self._each(lambda a, b: a**b, other)

    def __eq__(self, other: Any) -> Symbolic:  # type: ignore[override]
        return self._each(sp.Eq, other)

    def __lt__(self, other: Any) -> Symbolic:
        return self._each(sp.Lt, other)

    def __le__(self, other: Any) -> Symbolic:
        return self._each(sp.Le, other)

    def __gt__(self, other: Any) -> Symbolic:
        return self._each(sp.Gt, other)

    def __ge__(self, other: Any) -> Symbolic:
        return self._each(sp.Ge, other)

    def __and__(self, other: Any) -> Symbolic:
        return self._each(sp.And, other)

    def __or__(self, other: Any) -> Symbolic:
        return self._each(sp.Or, other)

    def __invert__(self) -> Symbolic:
        return self._each(sp.Not)

    __radd__, __rmul__, mul = __add__, __mul__, __mul__
    __hash__ = object.__hash__


def cls_of(value: Any) -> Any:
    """An operand of numpy's."""
    value = Symbolic.of(value)
    return value.values if isinstance(value, Symbolic) else value


def _is_condition(value: Any) -> bool:
    return isinstance(value, bool | sp.logic.boolalg.Boolean) and not isinstance(value, sp.Symbol)


def symbols(name: str, *shape: int) -> Symbolic:
    """Real unknowns name0, name1, ... in a shape."""
    count = int(np.prod(shape))
    values = np.array([sp.Symbol(f"{name}{i}", real=True) for i in range(count)], dtype=object)
    return Symbolic(values.reshape(shape))


# --- batch normalization --------------------------------------------------------------------------

EPS, GAMMA, BETA, R = sp.symbols("epsilon gamma beta r", positive=True)


def rational(expression: Any, var: Any) -> Any:
    """The expression in r = (σ² + ε)^(-1/2) in place of ε: no root is left, only fractions."""
    expression = sp.sympify(expression).subs(EPS, R**-2 - var)
    return expression.replace(
        lambda e: e.is_Pow and not e.exp.is_Integer, lambda e: sp.expand(e.base) ** e.exp
    )


def assert_same(ours: Any, derivative: Any, var: Any) -> None:
    """Both are the same function, exactly."""
    assert sp.expand(rational(ours, var) - rational(derivative, var)) == 0


@dataclass
class Normalized:
    """Values x of one set, the textbook's y of them, and a loss that sees each y by itself."""

    x: list[sp.Symbol]
    gammas: list[Any]
    d_y: list[sp.Symbol]
    centered: bool

    def __post_init__(self) -> None:
        m = len(self.x)
        self.mu = sum(self.x) / m if self.centered else sp.Integer(0)
        self.var = sum((x - self.mu) ** 2 for x in self.x) / m
        self.s = 1 / sp.sqrt(self.var + EPS)
        self.x_hat = [(x - self.mu) * self.s for x in self.x]
        self.y = [g * x_hat + BETA for g, x_hat in zip(self.gammas, self.x_hat, strict=True)]
        self.loss = sum(d * y for d, y in zip(self.d_y, self.y, strict=True))


def batch(N: int, L: int) -> tuple[Symbolic, Symbolic, Normalized]:
    """X and ∂y (N, 1, L), and what the textbook makes of them."""
    X, d_y = symbols("x", N, 1, L), symbols("d", N, 1, L)
    values = list(X.values.flat), [GAMMA] * (N * L), list(d_y.values.flat)
    return X, d_y, Normalized(*values, centered=True)


@pytest.mark.parametrize(("N", "L"), [(2, 1), (4, 1), (1, 2), (2, 2)])
def test_the_forward_of_batch_normalization_is_the_equation_of_the_paper(N: int, L: int) -> None:
    X, _, of = batch(N, L)
    y, mu, s, unbiased = batchnorm.forward(X, Symbolic([GAMMA]), Symbolic([BETA]), None, None, EPS)
    m = N * L
    for ours, textbook in zip(y.values.flat, of.y, strict=True):
        assert_same(ours, textbook, of.var)
    assert_same(mu.values[0], of.mu, of.var)
    assert_same(s.values[0], of.s, of.var)
    factor = sp.Rational(m / (m - 1))  # as a double
    assert_same(unbiased.values[0], factor * of.var, of.var)


@pytest.mark.parametrize(("N", "L"), [(2, 1), (4, 1), (1, 2), (2, 2)])
def test_the_backward_of_batch_normalization_is_the_derivative_of_its_forward(
    N: int, L: int
) -> None:
    X, d_y, of = batch(N, L)
    statistics = Symbolic([of.mu]), Symbolic([of.s])
    ours = batchnorm.backward(d_y, None, None, X, Symbolic([GAMMA]), *statistics, True)
    d_x, d_gamma, d_beta = ours
    for value, x in zip(d_x.values.flat, of.x, strict=True):
        assert_same(value, sp.diff(of.loss, x), of.var)
    assert_same(d_gamma.values[0], sp.diff(of.loss, GAMMA), of.var)
    assert_same(d_beta.values[0], sp.diff(of.loss, BETA), of.var)


def test_batch_normalization_passes_on_derivatives_by_its_mean_and_scale() -> None:
    X, d_y, of = batch(2, 2)
    d_mu, d_s = sp.symbols("d_mu d_s")
    loss = of.loss + d_mu * of.mu + d_s * of.s
    of_statistics = Symbolic([d_mu]), Symbolic([d_s])
    statistics = Symbolic([of.mu]), Symbolic([of.s])
    d_x, _, _ = batchnorm.backward(d_y, *of_statistics, X, Symbolic([GAMMA]), *statistics, True)
    for value, x in zip(d_x.values.flat, of.x, strict=True):
        assert_same(value, sp.diff(loss, x), of.var)


class Rounded(Symbolic):
    """A tensor of which the sums are any numbers at all, as if rounding had left nothing right."""

    def to(self, dtype: torch.dtype) -> Symbolic:
        return self

    def reshape(self, *shape: Any) -> Symbolic:
        return Rounded(super().reshape(*shape).values)

    def sum(self, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Symbolic:
        return symbols("K", *super().sum(dim, keepdim, dtype).shape)


def test_statistics_are_exact_however_the_first_means_were_rounded() -> None:
    X, _, of = batch(2, 2)
    mu, var = batchnorm.statistics(Rounded(X.values))
    assert sp.expand(mu.values[0] - of.mu) == 0
    assert sp.expand(var.values[0] - of.var) == 0

    layout, gamma, beta = (1, 1, 4, 1), Symbolic([GAMMA] * 4), Symbolic([BETA] * 4)
    X = Rounded(X.values.reshape(layout))
    y, statistics, *_ = normalization.forward(X, gamma, beta, layout, EPS, True)
    for ours, textbook in zip(y.values.flat, of.y, strict=True):
        assert_same(ours, textbook, of.var)
    for ours, textbook in zip(statistics.values.flat, (of.s, of.mu), strict=True):
        assert_same(ours, textbook, of.var)


@pytest.mark.parametrize("dropped", ["d_mu", "d_var"])
def test_without_the_way_through_mean_or_variance_it_is_another_function(dropped: str) -> None:
    X, d_y, of = batch(2, 2)
    gamma, mu, s = Symbolic([GAMMA]), Symbolic([of.mu]), Symbolic([of.s])
    d_mu, d_var, _, _ = batchnorm.sums(d_y, None, None, X, gamma, mu, s)
    ways = {"d_mu": d_mu, "d_var": d_var} | {dropped: Symbolic([sp.Integer(0)])}
    d_x = batchnorm.each_value(d_y, X, gamma, mu, s, **ways, m=4)
    value = d_x.values.flat[0]
    with pytest.raises(AssertionError):
        assert_same(value, sp.diff(of.loss, of.x[0]), of.var)


def test_the_statistics_of_a_group_of_processes_are_those_of_all_their_values() -> None:
    a, b = symbols("a", 2), symbols("b", 3)

    def row(x: Symbolic) -> list[Any]:
        mu = sum(x.values) / len(x)
        return [mu, sum((v - mu) ** 2 for v in x.values) / len(x), sp.Integer(len(x))]

    m, mu, var = syncbatchnorm.of_group(Symbolic([row(a), row(b)]))
    values = [*a.values, *b.values]
    mean = sum(values) / 5
    assert m.values[0] == 5
    assert sp.expand(mu.values[0] - mean) == 0
    assert sp.expand(var.values[0] - sum((v - mean) ** 2 for v in values) / 5) == 0


@pytest.mark.parametrize("m", [2, 3, 4])
def test_the_variance_over_m_minus_1_is_the_one_without_bias(m: int) -> None:
    x = sp.symbols(f"x:{m}")
    mu, sigma2 = sp.symbols("mu sigma2")
    mean = sum(x) / m
    moments = {v: [1, mu, sigma2 + mu**2] for v in x}
    biased = expectation(sum((v - mean) ** 2 for v in x) / m, moments)
    assert sp.expand(biased - sigma2 * sp.Rational(m - 1, m)) == 0
    assert sp.expand(biased * m / (m - 1) - sigma2) == 0


# --- layer, group and root-mean-square normalization ----------------------------------------------


@pytest.mark.parametrize("centered", [True, False], ids=["LayerNorm", "RMSNorm"])
@pytest.mark.parametrize(
    "layout", [(1, 1, 4, 1), (1, 1, 2, 2), (1, 1, 1, 4)], ids=["rows", "groups", "channels"]
)
def test_the_backward_of_the_other_normalizations_is_the_derivative_of_their_forward(
    layout: tuple[int, int, int, int], centered: bool
) -> None:
    _, _, K, L = layout
    X, d_y = symbols("x", *layout), symbols("d", *layout)
    gamma = symbols("gamma", K)
    values = list(X.values.flat), list(np.repeat(gamma.values, L)), list(d_y.values.flat)
    of = Normalized(*values, centered=centered)
    beta = Symbolic([BETA] * K) if centered else None

    y, statistics, *_ = normalization.forward(X, gamma, beta, layout, EPS, centered)
    for ours, textbook in zip(y.values.flat, of.y, strict=True):
        assert_same(ours, textbook if centered else textbook - BETA, of.var)
    textbooks = [of.s, of.mu] if centered else [of.s]
    for ours, textbook in zip(statistics.values.flat, textbooks, strict=True):
        assert_same(ours, textbook, of.var)

    saved = Symbolic(np.array(textbooks, dtype=object).reshape(-1, 1, 1, 1, 1))
    ours = normalization.backward(d_y, None, X, gamma, saved, layout, centered)
    d_x, d_gamma, d_beta, *_ = ours
    for value, x in zip(d_x.values.flat, of.x, strict=True):
        assert_same(value, sp.diff(of.loss, x), of.var)
    for value, g in zip(d_gamma.values.flat, gamma.values, strict=True):
        assert_same(value, sp.diff(of.loss, g), of.var)
    if centered:
        assert_same(sum(d_beta.values.flat), sp.diff(of.loss, BETA), of.var)


# --- losses ---------------------------------------------------------------------------------------


def in_odds(expression: Any, logits: Any) -> Any:
    """The expression with log u_j for x_j and log c for the maximum: no exponential is left."""
    odds = {x: sp.log(sp.Symbol(f"u_{x}", positive=True)) for x in logits}
    maximum = {sp.Symbol("M", real=True): sp.log(sp.Symbol("c", positive=True))}
    return sp.sympify(expression).subs(odds | maximum)


def cross_entropy_of(x: Any, q: Any) -> Any:
    """-Σ_j q_j log softmax(x)_j."""
    log_S = sp.log(sum(sp.exp(v) for v in x))
    return -sum(q_j * (x_j - log_S) for q_j, x_j in zip(q, x, strict=True))


def assert_is_gradient(slopes: Any, loss: Any, by: Any) -> None:
    for slope, x in zip(slopes, by, strict=True):
        assert sp.cancel(in_odds(slope - sp.diff(loss, x), by)) == 0


def test_the_derivative_of_softmax_and_cross_entropy_is_softmax_minus_target() -> None:
    x = symbols("x", 1, 3)
    logits = x.values[0]
    S = sum(sp.exp(v) for v in logits)
    for y in range(3):
        slopes = cross_entropy.OfIndex.by_input(x, torch.tensor([y]), None, 0, -100).values[0]
        loss = cross_entropy_of(logits, [int(j == y) for j in range(3)])
        assert_is_gradient(slopes, loss, logits)
        for j, slope in enumerate(slopes):
            assert sp.cancel(in_odds(slope - (sp.exp(logits[j]) / S - int(j == y)), logits)) == 0


def test_so_is_that_with_label_smoothing_and_weights_of_classes() -> None:
    x, w = symbols("x", 1, 3), symbols("w", 3)
    smoothing, logits = sp.Symbol("epsilon"), x.values[0]
    slopes = cross_entropy.OfIndex.by_input(x, torch.tensor([1]), w, smoothing, -100).values[0]
    q = [(1 - smoothing) * int(j == 1) + smoothing / 3 for j in range(3)]
    weighted = [q_j * w_j for q_j, w_j in zip(q, w.values, strict=True)]
    assert_is_gradient(slopes, cross_entropy_of(logits, weighted), logits)


def test_so_is_that_of_a_distribution_as_target_by_both() -> None:
    x, q = symbols("x", 1, 3), symbols("q", 1, 3)
    logits = x.values[0]
    slopes = cross_entropy.OfDistribution.by_input(x, q, None, 0).values[0]
    assert_is_gradient(slopes, cross_entropy_of(logits, q.values[0]), logits)


@pytest.mark.parametrize("log", [False, True], ids=["softmax", "log softmax"])
def test_the_backward_of_softmax_is_its_derivative(log: bool) -> None:
    x, d = symbols("x", 3), symbols("d", 3)
    S = sum(sp.exp(v) for v in x.values)
    y = [sp.exp(v) / S for v in x.values]
    y = [sp.log(v) for v in y] if log else y
    loss = sum(d_i * y_i for d_i, y_i in zip(d.values, y, strict=True))
    ours = softmax.backward(Symbolic(y), d, 0, log)
    assert_is_gradient(ours.values, loss, x.values)


@pytest.mark.parametrize("gamma", [sp.Integer(0), sp.Rational(1, 2), sp.Integer(2)])
def test_the_slope_of_the_focal_loss_is_its_derivative(gamma: Any) -> None:
    c = sp.Symbol("c", positive=True)
    f, slope = (of(Symbolic(c), gamma).values.item() for of in (Focal.f, Focal.slope))
    p = sp.exp(-c)
    assert sp.simplify(f - (1 - p) ** gamma * c) == 0
    assert_agree(slope, sp.diff(f, c), c, (sp.Rational(1, 7), sp.Rational(3, 2), sp.Integer(5)))


# --- activations ----------------------------------------------------------------------------------

X = sp.Symbol("x", real=True)
POINTS = tuple(sp.Rational(n, 10) for n in (-71, -27, -13, -4, 3, 11, 26, 73))
"""On both sides of every kink of the formulas below, and on none of them."""
DIGITS, CONSTANTS = 30, sp.Float(4 * 2.0**-52)
"""Digits to compute with. The constants of a text are doubles, up to four of them in a product,
each rounded by half an epsilon: an epsilon of the value at most, and of a slope that is a
difference a little more."""

FORMULAS: dict[str, tuple[Any, ...]] = {
    "Sigmoid": (), "Tanh": (), "ReLU": (), "Hardtanh": (-1, 1), "Threshold": (sp.Rational(1, 5), 2),
    "LeakyReLU": (sp.Rational(1, 100),), "ELU": (sp.Rational(3, 2), 1, 1), "GELU": (),
    "GELUTanh": (), "SiLU": (), "Mish": (), "Softplus": (2, 20), "LogSigmoid": (), "Softsign": (),
    "Tanhshrink": (), "Softshrink": (sp.Rational(1, 2),), "Hardshrink": (sp.Rational(1, 2),),
    "Hardsigmoid": (), "Hardswish": (),
}  # fmt: skip
"""The formulas of activation.py, with numbers for what they take beside x."""


def assert_agree(ours: Any, derivative: Any, x: sp.Symbol, points: tuple[Any, ...]) -> None:
    """Both are the same at all points, to the rounding of the constants."""
    for point in points:
        a, b = (sp.sympify(e).subs(x, point).evalf(DIGITS) for e in (ours, derivative))
        assert abs(a - b) <= CONSTANTS * max(1, abs(b)), (point, a, b)


def test_every_formula_is_looked_at() -> None:
    formulas = {name for name, of in vars(activation).items() if is_formula(of)}
    in_place = {"_ELUInPlace", "_LeakyReLUInPlace"}  # the same functions, with slopes in y
    assert {f"_{name}" for name in FORMULAS} == formulas - in_place


def is_formula(of: Any) -> bool:
    return isinstance(of, type) and issubclass(of, Formula) and of is not Formula


@pytest.mark.parametrize("name", FORMULAS)
def test_the_slope_of_an_activation_is_the_derivative_of_its_function(name: str) -> None:
    formula, numbers = getattr(activation, f"_{name}"), FORMULAS[name]
    y = formula.f(Symbolic(X), *numbers)
    slope = formula.slope(y if formula.saves_output else Symbolic(X), *numbers)
    assert_agree(slope.values.item(), sp.diff(y.values.item(), X), X, POINTS)


def test_gelu_and_its_approximation_are_what_the_paper_says() -> None:
    ours = activation._GELU.f(Symbolic(X)).values.item()
    assert_agree(ours, X * (1 + sp.erf(X / sp.sqrt(2))) / 2, X, POINTS)
    ours = activation._GELUTanh.f(Symbolic(X)).values.item()
    u = sp.sqrt(2 / sp.pi) * (X + sp.Rational(44715, 10**6) * X**3)
    assert_agree(ours, X * (1 + sp.tanh(u)) / 2, X, POINTS)


def test_the_derivative_of_gelu_needs_the_density() -> None:
    y = activation._GELU.f(Symbolic(X)).values.item()
    Phi = (1 + sp.erf(X / sp.sqrt(2))) / 2
    with pytest.raises(AssertionError):
        assert_agree(Phi, sp.diff(y, X), X, POINTS)


Z = sp.Symbol("z", positive=True)
DENSITY = sp.exp(-(Z**2) / 2) / sp.sqrt(2 * sp.pi)


def second_moment(of: Callable[[Any], Any], power: int = 2) -> Any:
    """E[f(z)^power] over z ~ N(0, 1), exactly: the integral over z > 0 of both signs."""
    both = sp.expand((of(Z) ** power + of(-Z) ** power) * DENSITY)
    return sp.simplify(sum(sp.integrate(term, (Z, 0, sp.oo)) for term in sp.Add.make_args(both)))


def test_the_constants_of_selu_are_the_solution_of_its_two_equations() -> None:
    alpha, scale = sp.symbols("alpha lambda", positive=True)

    def selu(z: Any) -> Any:
        return activation._ELU.f(Symbolic(z), alpha, scale, 1).values.item()

    mean, square = second_moment(selu, 1), second_moment(selu)
    (a,) = sp.solve(sp.cancel(mean / scale), alpha)
    l2 = 1 / sp.cancel(square / scale**2).subs(alpha, a)
    # correctly rounded doubles
    assert float(a.evalf(DIGITS)) == activation.SELU_ALPHA
    assert float(sp.sqrt(l2).evalf(DIGITS)) == activation.SELU_SCALE
    # torch's constant, which is that of native: the double before the nearest one
    assert abs(dropout.ALPHA - float((a * sp.sqrt(l2)).evalf(DIGITS))) <= 2.0**-52


# --- dropout --------------------------------------------------------------------------------------


def expectation(polynomial: Any, moments: dict[Any, Any]) -> Any:
    """E of a polynomial in independent variables, of which ``moments[v][n]`` is E[vⁿ]."""
    variables = list(moments)
    terms = sp.Poly(sp.expand(polynomial), *variables).terms()
    return sum(
        c * sp.prod(moments[v][n] for v, n in zip(variables, powers, strict=True))
        for powers, c in terms
    )


P = sp.Symbol("p", positive=True)


def test_dropout_keeps_the_mean_and_adds_p_over_1_minus_p_x_squared() -> None:
    x, k = sp.symbols("x k")
    y = dropout.masked(x, k, 1 / (1 - P))
    moments = {k: [1, 1 - P, 1 - P]}
    mean = expectation(y, moments)
    assert sp.cancel(mean - x) == 0
    assert sp.cancel(expectation(y**2, moments) - mean**2 - P / (1 - P) * x**2) == 0


def test_alpha_dropout_keeps_mean_0_and_variance_1() -> None:
    x, k, alpha = sp.symbols("x k alpha")
    a = 1 / sp.sqrt((1 - P) * (1 + alpha**2 * P))
    b = a * alpha * P
    y = dropout.masked_with_offset(x, k, a, b, b - a * alpha)
    moments = {k: [1, 1 - P, 1 - P], x: [1, 0, 1]}
    assert sp.simplify(expectation(y, moments)) == 0
    assert sp.simplify(expectation(y**2, moments) - 1) == 0


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("alpha", [0.0, dropout.ALPHA])
def test_the_numbers_of_dropout_are_those_of_its_equations(p: float, alpha: float) -> None:
    q, exact = sp.Rational(p), sp.Rational(alpha)
    a = 1 / sp.sqrt((1 - q) * (1 + exact**2 * q)) if alpha else 1 / (1 - q)
    b = a * exact * q
    ours = dropout.scale_and_offsets(torch.zeros((), dtype=torch.float64), p, alpha)
    textbook = [a, b, b - a * exact][: len(ours)]
    for number, expected in zip(ours, textbook, strict=True):
        # up to six roundings of half an epsilon each, of numbers up to α' a
        bound = 3 * 2.0**-52 * float(a) * max(1, alpha)
        assert abs(sp.Rational(number.item()) - expected).evalf(DIGITS) <= bound


def test_the_noise_of_gaussian_dropout_has_the_variance_of_dropout() -> None:
    k = sp.Symbol("k")
    y = dropout.masked(sp.Integer(1), k, 1 / (1 - P))
    moments = {k: [1, 1 - P, 1 - P]}
    of_dropout = expectation(y**2, moments) - 1
    alpha = variational.GaussianDropout(0.3).log_alpha.double().exp().item()
    # log α is kept in float32, of size 0.85
    assert abs(of_dropout.subs(P, sp.Rational(3, 10)) / alpha - 1) < 2.0**-23


# --- initialization -------------------------------------------------------------------------------


@pytest.mark.parametrize("fan_in", [1, 2, 3])
def test_the_second_moment_of_a_sum_is_fan_in_times_that_of_a_product(fan_in: int) -> None:
    w, x = sp.symbols(f"w:{fan_in}"), sp.symbols(f"x:{fan_in}")
    sigma2, mean_x, square_x = sp.symbols("sigma2 mean_x square_x")
    moments = {v: [1, 0, sigma2] for v in w} | {v: [1, mean_x, square_x] for v in x}
    y = sum(a * b for a, b in zip(w, x, strict=True))
    assert sp.expand(expectation(y**2, moments) - fan_in * sigma2 * square_x) == 0


def leaky_relu(a: Any) -> Callable[[Any], Any]:
    return lambda z: activation._LeakyReLU.f(Symbolic(z), a).values.item()


@pytest.mark.parametrize("a", [sp.Integer(0), sp.Rational(1, 4), sp.Integer(1)])
def test_the_gain_of_he_makes_up_for_what_the_rectifier_takes(a: Any) -> None:
    moment = second_moment(leaky_relu(a))
    assert sp.simplify(moment - (1 + a**2) / 2) == 0
    gain = init.calculate_gain("leaky_relu", float(a))
    assert gain**2 * float(moment) == pytest.approx(1, rel=2 * 2.0**-52)  # two roundings
    W = torch.empty(6, 5, 3, 3)
    for mode, fan in (("fan_in", 45), ("fan_out", 54)):
        variance = init._he_std(W, float(a), mode, "leaky_relu") ** 2
        assert fan * variance * float(moment) == pytest.approx(1, rel=4 * 2.0**-52)


# --- regularization -------------------------------------------------------------------------------


def test_stopping_early_is_an_l2_penalty_to_first_order() -> None:
    h, tau = sp.symbols("h tau", positive=True)
    T = sp.Symbol("T", positive=True, integer=True)
    stopped = sp.limit(1 - (1 - h * tau / T) ** T, T, sp.oo)  # T steps of lr τ / T
    penalized = h / (h + 1 / tau)  # the minimum with λ = 1 / (lr T)
    assert sp.simplify(stopped - (1 - sp.exp(-h * tau))) == 0
    first, second = (sp.series(e, h, 0, 3).removeO() for e in (stopped, penalized))
    assert first.coeff(h, 1) == second.coeff(h, 1) == tau
    assert first.coeff(h, 2) != second.coeff(h, 2)


def test_gradient_descent_on_a_quadratic_goes_where_that_says() -> None:
    H, target = torch.tensor([0.1, 1.0, 3.0]).double(), torch.tensor([2.0, -1.0, 0.5]).double()
    lr, T, decay = 0.05, 40, 0.7

    def descend(steps: int, weight_decay: float) -> torch.Tensor:
        theta = torch.zeros_like(target)
        optimizer = SGD([theta], lr=lr, weight_decay=weight_decay)
        for _ in range(steps):
            theta.grad = H * (theta - target)
            optimizer.step()
        return theta

    # rounding: an epsilon a step; what is left of the way after 1,000 steps: (1 - 0.05 * 0.8)^1000
    close = {"rtol": 1e-13, "atol": 0}
    torch.testing.assert_close(descend(T, 0), (1 - (1 - lr * H) ** T) * target, **close)
    torch.testing.assert_close(descend(1000, decay), H / (H + decay) * target, **close)


def test_the_penalties_are_the_logarithms_of_their_priors() -> None:
    w, strength = sp.Symbol("w", real=True), sp.Symbol("lambda", positive=True)
    gaussian = sp.sqrt(strength / (2 * sp.pi)) * sp.exp(-strength * w**2 / 2)
    laplace = strength / 2 * sp.exp(-strength * sp.Abs(w))
    value = torch.tensor([-1.5], dtype=torch.float64)
    for prior, penalty in (
        (gaussian, regularization.l2_penalty),
        (laplace, regularization.l1_penalty),
    ):
        at = {strength: sp.Rational(1, 3)}
        difference = -sp.log(prior) + sp.log(prior.subs(w, 0))
        ours = float(penalty(value)) / 3
        assert ours == pytest.approx(float(difference.subs(at).subs(w, -1.5)), rel=4 * 2.0**-52)
