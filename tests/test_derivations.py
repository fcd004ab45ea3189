"""The mathematics of docs/optimizers/: every claim that a page makes, checked by algebra.

The equations of the library are written with the methods of tensors, and compute with whatever has
these. Handed :class:`Symbol`, they give expressions of sympy: what is compared with the derivation
is the code itself. Where two expressions are compared by numbers, these are rational and computed
to 30 digits, so that a difference of 1e-25 is no rounding.
"""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import Any

import pytest
import sympy as sp
import torch

import scratch_optim as optim
from scratch_optim import lr_scheduler, muon, radam
from scratch_optim.lbfgs import Point, cubic_minimum, two_loops

lr, mu, h, lam, eps, b1, b2, z, s, theta0 = sp.symbols(
    "lr mu h lambda epsilon beta1 beta2 z s theta0", positive=True
)
DIGITS = 30
BETAS = (0.9, 0.999)


class Symbol:
    """What an equation is run on: has methods of tensors, holds an expression."""

    def __init__(self, value: Any) -> None:
        self.value = sp.sympify(value)

    def _in_place(self, value: Any) -> Symbol:
        self.value = value
        return self

    def add(self, x: Any, alpha: Any = 1) -> Symbol:
        return Symbol(self.value + alpha * plain(x))

    def mul(self, x: Any) -> Symbol:
        return Symbol(self.value * plain(x))

    def div(self, x: Any) -> Symbol:
        return Symbol(self.value / plain(x))

    def sqrt(self) -> Symbol:
        return Symbol(sp.sqrt(self.value))

    def abs(self) -> Symbol:
        return Symbol(sp.Abs(self.value))

    def lerp(self, x: Any, weight: Any) -> Symbol:
        return Symbol(self.value + weight * (plain(x) - self.value))

    def addcmul(self, x: Any, y: Any, value: Any = 1) -> Symbol:
        return Symbol(self.value + value * plain(x) * plain(y))

    def addcdiv(self, x: Any, y: Any, value: Any = 1) -> Symbol:
        return Symbol(self.value + value * plain(x) / plain(y))

    def clamp_min(self, x: Any) -> Symbol:
        return Symbol(sp.Max(self.value, plain(x)))

    def copy(self, x: Any) -> Symbol:
        return Symbol(plain(x))

    def sub(self, x: Any) -> Symbol:
        return Symbol(self.value - plain(x))

    def __getattr__(self, name: str) -> Any:
        if not name.endswith("_") or name.startswith("__"):
            raise AttributeError(name)
        method = getattr(self, name[:-1])
        return lambda *args, **options: self._in_place(method(*args, **options).value)


def plain(x: Any) -> Any:
    return x.value if isinstance(x, Symbol) else x


def run(kind: Any, gradients: list[Any], **options: Any) -> list[Any]:
    """What theta is after each step of an optimizer's equation, from theta0."""
    made = kind([torch.zeros(1)], **{k: v for k, v in options.items() if isinstance(v, bool)})
    group = {**made.param_groups[0], **options}
    names = made.state_names({**group, "momentum": 1}, torch.zeros(1))
    state: dict[str, Any] = {name: Symbol(0) for name in names}
    theta, path = Symbol(theta0), []
    for t, g in enumerate(gradients, 1):
        kind.update(theta, Symbol(g), state, t, **{k: v for k, v in group.items() if k != "params"})
        path.append(theta.value)
    return path


def same(a: Any, b: Any) -> bool:
    """Whether two expressions are equal at random rational values of their symbols."""
    draw = random.Random(0)
    a, b = (sp.nsimplify(x, rational=True) for x in (a, b))  # the 0.5 of a root is 1/2
    symbols = sorted(a.free_symbols | b.free_symbols, key=str)
    for _ in range(3):
        at = {x: sp.Rational(draw.randint(10, 90), 100) for x in symbols}
        left, right = (sp.N(x.subs(at), DIGITS) for x in (a, b))
        if abs(left - right) > sp.Float(10) ** -25 * max(1, abs(left)):
            return False
    return True


def gradients(n: int) -> list[sp.Symbol]:
    return list(sp.symbols(f"g1:{n + 1}", real=True))


# ------------------------------------------------------------------ descent and momentum


def test_the_best_rate_on_a_parabola_shrinks_both_ends_alike():
    low, high = sp.symbols("h_min h_max", positive=True)
    best, kappa = 2 / (low + high), high / low
    shrink = (kappa - 1) / (kappa + 1)
    assert sp.simplify((1 - best * low) - shrink) == 0
    assert sp.simplify((1 - best * high) + shrink) == 0
    # any other rate is worse at one of the ends
    at = {low: 1, high: 7}
    for rate in (best * sp.Rational(9, 10), best * sp.Rational(11, 10)):
        ends = [abs((1 - rate * x).subs(at)) for x in (low, high)]
        assert max(ends) > shrink.subs(at)


def test_momentum_is_a_geometric_series():
    g = gradients(4)
    options = {"lr": lr, "momentum": mu}
    path = run(optim.SGD, g, **options)
    b = [sum(mu ** (t - i) * g[i] for i in range(t + 1)) for t in range(4)]
    for t in range(4):
        before = path[t - 1] if t else theta0
        assert sp.expand(path[t] - before + lr * b[t]) == 0
    # of equal gradients
    constant = run(optim.SGD, [z] * 4, **options)
    last = (constant[3] - constant[2]) / -lr
    assert sp.simplify(last - z * (1 - mu**4) / (1 - mu)) == 0
    # of gradients that change their sign: z / (1 + mu) in the end
    swinging = sum((-1) ** k * mu**k for k in range(40)).subs(mu, sp.Rational(1, 2))
    assert abs(swinging - sp.Rational(2, 3)) < sp.Rational(1, 2) ** 39


def test_with_momentum_all_curvatures_of_a_range_shrink_by_the_root_of_mu():
    polynomial = z**2 - (1 + mu - lr * h) * z + mu
    # it is the recursion's
    a, b = sp.symbols("a b")
    path = [a, b]  # theta_0, theta_1, with b_1 = (a - b) / lr
    velocity = mu * (a - b) / lr + h * b
    after = b - lr * velocity
    recursion = (1 + mu - lr * h) * b - mu * path[0]
    assert sp.expand(after - recursion) == 0
    # complex roots have the product mu, so each the modulus sqrt(mu)
    discriminant = sp.discriminant(polynomial, z)
    for end in ((1 - sp.sqrt(mu)) ** 2, (1 + sp.sqrt(mu)) ** 2):
        assert sp.simplify(discriminant.subs(h, end / lr)) == 0
    at = {mu: sp.Rational(4, 9), lr: 1}
    for curvature in (sp.Rational(1, 5), 1, sp.Rational(26, 10)):  # (1/9, 25/9)
        for root in sp.Poly(polynomial.subs(at).subs(h, curvature), z).nroots(n=DIGITS):
            assert abs(abs(root) - sp.Rational(2, 3)) < 1e-20
    outside = sp.Poly(polynomial.subs(at).subs(h, 3), z).nroots(n=DIGITS)
    assert max(map(abs, outside)) > sp.Rational(2, 3)
    # the ends at h_min and h_max
    kappa = sp.Symbol("kappa", positive=True)
    root = (sp.sqrt(kappa) - 1) / (sp.sqrt(kappa) + 1)
    assert sp.simplify(((1 + root) / (1 - root)) ** 2 - kappa) == 0


def test_nesterov_in_shifted_parameters_is_torchs_form():
    f = sp.Function("gradient")
    phi, v = theta0, sp.Integer(0)
    theta = Symbol(theta0)
    state = {"momentum_buffer": Symbol(0)}
    options = {"lr": lr, "momentum": mu, "dampening": 0, "weight_decay": 0, "nesterov": True}
    for t in (1, 2, 3):
        v = mu * v - lr * f(sp.expand(phi + mu * v))
        phi = sp.expand(phi + v)
        optim.SGD.update(theta, Symbol(f(sp.expand(theta.value))), state, t, **options)
        assert sp.expand(theta.value - (phi + mu * v)) == 0


# ------------------------------------------------------------------ adaptive


def test_bias_correction_makes_the_weights_sum_to_one():
    t, i = sp.symbols("t i", integer=True, positive=True)
    total = sp.summation((1 - b2) * b2 ** (t - i), (i, 1, t)).subs(b2, sp.Rational(3, 4))
    assert sp.simplify(total - (1 - sp.Rational(3, 4) ** t)) == 0
    # the code's step is that of the corrected means, with eps after the correction
    g = gradients(3)
    path = run(optim.Adam, g, lr=lr, betas=(b1, b2), eps=eps)
    for t in (1, 2, 3):
        before = path[t - 2] if t > 1 else theta0
        m, v = (
            (1 - b) * sum(b ** (t - i) * g[i - 1] ** p for i in range(1, t + 1)) / (1 - b**t)
            for b, p in ((b1, 1), (b2, 2))
        )
        assert same(before - path[t - 1], lr * m / (sp.sqrt(v) + eps))
    # without it the first step would be sqrt(1000) / 10 as long
    assert math.isclose((1 - BETAS[0]) / math.sqrt(1 - BETAS[1]), 3.1623, rel_tol=1e-4)


def ratio(history: list[Fraction], first: Fraction, second: Fraction) -> float:
    """|m^| / sqrt(v^), of gradients from the newest on."""
    t = len(history)
    m = (1 - first) * sum(first**k * g for k, g in enumerate(history)) / (1 - first**t)
    v = (1 - second) * sum(second**k * g * g for k, g in enumerate(history)) / (1 - second**t)
    return float(abs(m)) / math.sqrt(v)


def test_adam_steps_at_most_so_far():
    first, second = Fraction(9, 10), Fraction(999, 1000)

    def bound(t: int) -> float:
        series = sum((first**2 / second) ** k for k in range(t))
        corrections = math.sqrt(1 - second**t) / float(1 - first**t)
        return float(1 - first) / math.sqrt(1 - second) * math.sqrt(series) * corrections

    draw = random.Random(0)
    for t in (1, 2, 5, 40):
        extreme = [(first / second) ** k for k in range(t)]
        assert math.isclose(ratio(extreme, first, second), bound(t), rel_tol=1e-12)
        for _ in range(20):
            drawn = [Fraction(draw.randint(-9, 9) or 1) for _ in range(t)]
            assert ratio(drawn, first, second) <= bound(t) * (1 + 1e-12)
        assert math.isclose(ratio([Fraction(3)] * t, first, second), 1, rel_tol=1e-12)
    limit = (1 - first) / (1 - first**2 / second) ** Fraction(1, 2) / math.sqrt(1 - second)
    assert math.isclose(limit, 7.27, abs_tol=0.005)
    # after nothing but zeros, for long
    theta = torch.zeros(1, dtype=torch.float64)
    optimizer = optim.Adam([theta], lr=1.0, eps=1e-300)
    for g in [0.0] * 9_000 + [1.0]:
        theta.grad = torch.tensor([g], dtype=torch.float64)
        optimizer.step()
    assert math.isclose(theta.item(), -3.16, abs_tol=0.005)


def test_adamax_steps_at_most_so_far():
    first, second = 0.9, 0.999
    draw = random.Random(0)

    def bound(t: int) -> float:
        series = sum((first / second) ** k for k in range(t))
        return (1 - first) / (1 - first**t) * series

    for t in (1, 2, 5, 40):
        extreme = [second**-k for k in range(t)]  # from the newest on
        for history in (extreme, *[[draw.uniform(-1, 1) for _ in range(t)] for _ in range(20)]):
            theta = torch.zeros(1, dtype=torch.float64)
            optimizer = optim.Adamax([theta], lr=1.0, betas=(first, second), eps=0.0)
            for g in reversed(history):
                before = theta.item()
                theta.grad = torch.tensor([g], dtype=torch.float64)
                optimizer.step()
            step = abs(theta.item() - before)
            assert step <= bound(t) * (1 + 1e-9)
            if history is extreme:
                assert math.isclose(step, bound(t), rel_tol=1e-9)
    assert max(bound(t) for t in range(1, 400)) < 1.01


def test_decoupled_decay_and_random_steps_balance():
    r, square = sp.symbols("r square", positive=True)
    rest = sp.solve(sp.Eq(square, (1 - lr * lam) ** 2 * square + lr**2 * r**2), square)[0]
    assert sp.simplify(sp.limit(rest / lr, lr, 0) - r**2 / (2 * lam)) == 0
    # the code shrinks by this factor, whatever the gradient
    (alone,) = run(optim.AdamW, [z], lr=lr, betas=(b1, b2), eps=eps, weight_decay=0)
    (decayed,) = run(optim.AdamW, [z], lr=lr, betas=(b1, b2), eps=eps, weight_decay=lam)
    assert same(decayed - alone, -lr * lam * theta0)


def test_radams_rho_is_the_length_of_the_mean_with_the_same_centre():
    n, rho = sp.symbols("n rho", positive=True)
    for t in (1, 2, 6, 30):
        weights = [b2**k for k in range(t)]  # from the newest on
        centre = sum((k + 1) * w for k, w in enumerate(weights)) / sum(weights)
        (length,) = sp.solve(sp.Eq((rho + 1) / 2, n), rho)
        expected = 2 / (1 - b2) - 1 - 2 * t * b2**t / (1 - b2**t)
        assert same(length.subs(n, centre), expected)
    # the code begins to rectify in the sixth step
    assert [radam._rectification(t, 0.999)[0] for t in (4, 5, 6, 7)] == [False, False, True, True]


def test_radams_factor_is_the_ratio_of_the_variances():
    x = sp.Symbol("x", positive=True)
    k = sp.Integer(9)  # degrees of freedom; x is chi-squared
    density = x ** (k / 2 - 1) * sp.exp(-x / 2) / (2 ** (k / 2) * sp.gamma(k / 2))
    mean, square = (
        sp.integrate((k / x) ** p * density, (x, 0, sp.oo)) for p in (1, 2)
    )  # of 1 / v^, sigma = 1
    assert sp.simplify(mean - k / (k - 2)) == 0
    variance = sp.simplify(square - mean**2)
    assert sp.simplify(variance - 2 * k**2 / ((k - 2) ** 2 * (k - 4))) == 0

    def of_root(rho: Any) -> Any:
        return rho / (2 * (rho - 2) * (rho - 4))

    assert sp.simplify(variance / (4 * mean) - of_root(k)) == 0
    for t in (6, 50, 4000):
        rho_inf = 2 / (1 - 0.999) - 1
        rho_t = rho_inf - 2 * t * 0.999**t / (1 - 0.999**t)
        _, r = radam._rectification(t, 0.999)
        assert math.isclose(r, math.sqrt(of_root(rho_inf) / of_root(rho_t)), rel_tol=1e-9)


def test_adafactors_product_has_the_sums_of_rows_and_columns():
    G = sp.Matrix(2, 3, sp.symbols("a:6", positive=True))
    R = [sum(G.row(i)) / 3 for i in range(2)]
    C = [sum(G.col(j)) / 2 for j in range(3)]
    V = sp.Matrix(2, 3, lambda i, j: R[i] * C[j] / (sum(R) / 2))
    for i in range(2):
        assert sp.simplify(sum(V.row(i)) - sum(G.row(i))) == 0
    for j in range(3):
        assert sp.simplify(sum(V.col(j)) - sum(G.col(j))) == 0
    # and it is where the divergence of all r c^T is stationary
    r, c = sp.symbols("r:2", positive=True), sp.symbols("c:3", positive=True)
    pairs = [(i, j) for i in range(2) for j in range(3)]
    divergence = sum(
        G[i, j] * sp.log(G[i, j] / (r[i] * c[j])) - G[i, j] + r[i] * c[j] for i, j in pairs
    )
    at = {r[i]: R[i] for i in range(2)} | {c[j]: C[j] / (sum(R) / 2) for j in range(3)}
    for variable in (*r, *c):
        assert sp.simplify(sp.diff(divergence, variable).subs(at)) == 0
    # the code's first step, whose weight is 1: g over the root of V, scaled down to d = 1
    g = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 7.0]], dtype=torch.float64)
    theta = torch.ones(2, 3, dtype=torch.float64)
    theta.grad = g
    optim.Adafactor([theta], lr=0.5, d=math.inf).step()
    at_g = dict(zip(sorted(G.free_symbols, key=str), g.square().flatten().tolist(), strict=True))
    expected = torch.tensor([[float(V[i, j].subs(at_g)) for j in range(3)] for i in range(2)])
    torch.testing.assert_close((1 - theta) / 0.5, g / expected.double().sqrt(), rtol=1e-6, atol=0)


# ------------------------------------------------------------------ signs, layers, matrices


def test_lions_two_means_are_one_with_the_newest_weighed_more():
    g = gradients(4)
    m: Any = sp.Integer(0)
    for step in g[:3]:
        m = b2 * m + (1 - b2) * step
    c = b1 * m + (1 - b1) * g[3]
    written_out = (1 - b1) * g[3] + b1 * (1 - b2) * sum(b2 ** (2 - i) * g[i] for i in range(3))
    assert sp.expand(c - written_out) == 0
    # the code: its sign decides
    theta = torch.zeros(1, dtype=torch.float64)
    optimizer = optim.Lion([theta], lr=1.0, betas=(0.9, 0.99))
    for value in (1.0, -0.2):
        theta.grad = torch.tensor([value], dtype=torch.float64)
        optimizer.step()
    assert 0.1 * -0.2 + 0.9 * 0.01 * 1.0 < 0
    assert theta.item() == -1.0 + 1.0


def test_newton_schulz_polynomial_is_newtons_method():
    F = s**-2 - 1
    p = sp.expand(s - F / sp.diff(F, s))
    assert sp.expand(p - (3 * s - s**3) / 2) == 0
    t = sp.Symbol("t", real=True)
    assert set(sp.solve((3 * t - t**3) / 2 - t, t)) == {-1, 0, 1}
    assert sp.diff(p, s).subs(s, 0) == sp.Rational(3, 2)
    assert sp.diff(p, s).subs(s, 1) == 0
    assert sp.expand(1 - p - (1 - s) ** 2 * (2 + s) / 2) == 0


def test_newton_schulz_converges_on_the_whole_interval():
    # the error's factor (1 - s) (2 + s) / 2 is below 1 for s in (0, 1]
    factor = (1 - s) * (2 + s) / 2
    assert sp.simplify(1 - factor - s * (s + 1) / 2) == 0
    small, steps = 0.001, 0
    while small < 0.9:
        small, steps = (3 * small - small**3) / 2, steps + 1
    assert steps == 18
    # the code applies the polynomial to singular values alone
    x = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    U, S, W = torch.linalg.svd(x, full_matrices=False)
    S = S / S.norm()
    a, b, c = coefficients = (1.25, -0.75, 0.5)
    expected = U @ torch.diag(a * S + b * S**3 + c * S**5) @ W
    found = muon.newton_schulz(x, steps=1, coefficients=coefficients)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_muons_polynomial_has_no_attracting_fixed_point_and_stays_near_one():
    a, b, c = 3.4445, -4.7750, 2.0315
    assert muon.newton_schulz.__defaults__[1] == (a, b, c)

    def p(x: float) -> float:
        return a * x + b * x**3 + c * x**5

    assert math.isclose(p(1), 0.701, abs_tol=1e-9)
    squares = sorted(sp.Poly(c * z**2 + b * z + a - 1, z).nroots())
    points = [math.sqrt(x) for x in squares]
    assert [round(x, 3) for x in points] == [0.868, 1.264]
    slopes = [a + 3 * b * x**2 + 5 * c * x**4 for x in points]
    assert slopes[0] < -1
    assert slopes[1] > 1
    assert math.isclose(a**5, 485, abs_tol=0.5)
    values = [0.002 + 0.998 * i / 20_000 for i in range(20_001)]
    for step in range(60):
        values = [p(x) for x in values]
        if step == 4:
            assert min(values) > 0.68
            assert max(values) < 1.21
    assert min(values) > 0.68
    assert max(values) < 1.14


# ------------------------------------------------------------------ L-BFGS


def rational(*shape: int) -> sp.Matrix:
    return sp.Matrix(*shape, lambda *_: sp.Rational(RANDOM.randint(-9, 9), RANDOM.randint(1, 9)))


RANDOM = random.Random(1)


def bfgs(H: sp.Matrix, x: sp.Matrix, y: sp.Matrix) -> sp.Matrix:
    rho = 1 / (y.T * x)[0]
    V = sp.eye(len(x)) - rho * y * x.T
    return V.T * H * V + rho * x * x.T


def test_the_bfgs_update_satisfies_the_secant_equation():
    B = rational(3, 3)
    H = B.T * B + sp.eye(3)
    x, y = rational(3, 1), rational(3, 1)
    after = bfgs(H, x, y if (y.T * x)[0] > 0 else -y)
    assert after * (y if (y.T * x)[0] > 0 else -y) == x
    assert after == after.T
    assert after.is_positive_definite
    assert not bfgs(H, x, -y if (y.T * x)[0] > 0 else y).is_positive_definite


def test_the_two_loops_are_the_matrix():
    pairs = []
    while len(pairs) < 3:
        x, y = rational(4, 1), rational(4, 1)
        if (y.T * x)[0] > 0:
            pairs.append((x, y))
    gamma, q = sp.Rational(2, 3), rational(4, 1)
    H = gamma * sp.eye(4)
    for x, y in pairs:
        H = bfgs(H, x, y)
    S, Y = ([tensor(pair[i]) for pair in pairs] for i in (0, 1))
    rho = [1 / y.dot(x) for x, y in zip(S, Y, strict=True)]
    r, _ = two_loops(tensor(q), S, Y, rho, float(gamma))
    torch.testing.assert_close(r, tensor(H * q), rtol=1e-10, atol=1e-10)


def tensor(x: sp.Matrix) -> torch.Tensor:
    return torch.tensor([float(value) for value in x], dtype=torch.float64)


def test_the_cubics_minimum():
    t = sp.Symbol("t")
    cubic = t**3 - 2 * t**2 - t + 5
    lowest = max(sp.solve(sp.diff(cubic, t), t))
    assert sp.diff(cubic, t, 2).subs(t, lowest) > 0

    def point(at: float) -> Point:
        slope = torch.tensor(float(sp.diff(cubic, t).subs(t, at)), dtype=torch.float64)
        return Point(at, float(cubic.subs(t, at)), slope, slope)

    found = cubic_minimum(point(0.0), point(3.0))
    assert math.isclose(float(found), float(lowest), rel_tol=1e-12)


# ------------------------------------------------------------------ schedules


def sgd() -> torch.optim.Optimizer:
    return optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)


SCHEDULES: dict[str, tuple[dict[str, Any], Any]] = {
    "StepLR": ({"step_size": 3, "gamma": 0.5}, lambda t: 0.5 ** (t // 3)),
    "MultiStepLR": (
        {"milestones": [2, 5], "gamma": 0.5},
        lambda t: 0.5 ** ((t >= 2) + (t >= 5)),
    ),
    "ConstantLR": ({"factor": 0.25, "total_iters": 4}, lambda t: 0.25 if t < 4 else 1.0),
    "LinearLR": (
        {"start_factor": 0.25, "end_factor": 0.75, "total_iters": 6},
        lambda t: 0.25 + 0.5 * min(t, 6) / 6,
    ),
    "ExponentialLR": ({"gamma": 0.75}, lambda t: 0.75**t),
    "PolynomialLR": ({"total_iters": 10, "power": 2}, lambda t: (1 - min(t, 10) / 10) ** 2),
    "CosineAnnealingLR": ({"T_max": 12}, lambda t: (1 + math.cos(math.pi * t / 12)) / 2),
    "InverseTimeLR": ({"decay_rate": 0.5}, lambda t: 1 / (1 + 0.5 * t)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_recursion_of_a_schedule_is_the_ratio_of_its_closed_form(name):
    options, f = SCHEDULES[name]
    optimizer = sgd()
    schedule = getattr(lr_scheduler, name)(optimizer, **options)
    for t in range(12):
        rate = optimizer.param_groups[0]["lr"]
        assert math.isclose(rate, f(t), rel_tol=1e-12, abs_tol=1e-15), t
        optimizer.step()
        schedule.step()
    # and LinearLR's, by algebra
    a, b, T, t = sp.symbols("a b T t", positive=True)
    linear = a + (b - a) * t / T
    quotient = linear / linear.subs(t, t - 1)
    assert sp.simplify(quotient - 1 - (b - a) / (T * a + (t - 1) * (b - a))) == 0


def test_the_cosines_recursion():
    m, t, T, lr0 = sp.symbols("m t T lr0", positive=True)
    closed = m + (lr0 - m) * (1 + sp.cos(sp.pi * t / T)) / 2
    before = closed.subs(t, t - 1)
    quotient = (1 + sp.cos(sp.pi * t / T)) / (1 + sp.cos(sp.pi * (t - 1) / T))
    assert same(m + (before - m) * quotient, closed)
    # at the bottom, t - 1 = T, the quotient is not defined, and the difference is added
    rise = (lr0 - m) * (1 - sp.cos(sp.pi / T)) / 2
    assert sp.simplify(closed.subs(t, T + 1) - closed.subs(t, T) - rise) == 0


def test_the_noise_at_rest():
    square, sigma = sp.symbols("square sigma", positive=True)
    rest = sp.solve(sp.Eq(square, (1 - lr * h) ** 2 * square + lr**2 * sigma**2), square)
    assert [sp.simplify(x - lr * sigma**2 / (h * (2 - lr * h))) for x in rest] == [0]


@pytest.mark.parametrize("curve", ["linear", "1-sqrt"])
def test_wsd_is_continuous_and_a_trapezoid_has_the_area_it_should(curve):
    W, D, T, a, b = 100, 200, 1000, 0.1, 0.05
    optimizer = sgd()
    schedule = lr_scheduler.WarmupStableDecayLR(optimizer, W, D, T, curve, a, b)
    f = [schedule._f(t) for t in range(T + 2)]
    assert (f[0], f[W], f[T - D], f[T], f[T + 1]) == pytest.approx((a, 1, 1, b, b))
    # no jump: the steepest is the first step of the fall, sqrt(1 / D) of 1 - sqrt
    steepest = (1 - b) * (math.sqrt(1 / D) if curve == "1-sqrt" else 1 / D)
    assert max(abs(x - y) for x, y in zip(f[W:], f[W + 1 :], strict=False)) <= steepest * 1.001
    mean_of_fall = b + (1 - b) * (1 / 3 if curve == "1-sqrt" else 1 / 2)  # integral of c
    area = W * (a + 1) / 2 + (T - D - W) + D * mean_of_fall
    assert sum(f[:T]) == pytest.approx(area, abs=1)  # a sum of steps, each at most 1 high


# ------------------------------------------------------------------ averages


def test_the_weights_of_an_ema():
    d = sp.Symbol("d", positive=True)
    w = sp.symbols("w0:5")
    mean: Any = w[0]
    for x in w[1:]:
        mean = mean + (1 - d) * (x - mean)
    assert (
        sp.expand(mean - d**4 * w[0] - (1 - d) * sum(d ** (4 - i) * w[i] for i in range(1, 5))) == 0
    )
    # the code
    model = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    values = [1.0, -2.0, 0.5, 3.0, 4.0]
    with torch.no_grad():
        model.weight.fill_(values[0])
        ema = optim.swa_utils.EMA(model, decay=0.75)
        for value in values[1:]:
            model.weight.fill_(value)
            ema.update()
    expected = float(mean.subs(d, sp.Rational(3, 4)).subs(dict(zip(w, values, strict=True))))
    assert math.isclose(ema.averages["weight"].item(), expected, rel_tol=1e-12)


def test_the_variance_of_an_ema():
    d = sp.Rational(7, 8)
    k = sp.Symbol("k", integer=True, nonnegative=True)
    variance = (1 - d) ** 2 * sp.summation(d ** (2 * k), (k, 0, sp.oo))
    assert variance == (1 - d) / (1 + d)


def test_the_warm_up_of_an_ema_forgets_its_start():
    kept = sp.Integer(1)
    for i in range(1, 31):
        kept *= sp.Rational(1 + i, 10 + i)
        assert kept == sp.factorial(10) * sp.factorial(i + 1) / sp.factorial(i + 10)
    # the code, of a weight that was 1 and is 0 from then on
    model = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.fill_(1.0)
        ema = optim.swa_utils.EMA(model, decay=0.999, warmup=True)
        model.weight.zero_()
        for _ in range(30):
            ema.update()
    assert math.isclose(ema.averages["weight"].item(), float(kept), rel_tol=1e-9)


def test_lookahead_damps_what_swings():
    alpha, k, rate = 0.5, 5, 1.9
    for curvature, expected in ((1.0, 1 - alpha + alpha * (1 - rate) ** k), (0.01, None)):
        theta = torch.ones(1, dtype=torch.float64, requires_grad=True)
        optimizer = optim.swa_utils.Lookahead(optim.SGD([theta], lr=rate), k=k, alpha=alpha)
        for _ in range(k):
            theta.grad = curvature * theta.detach().clone()
            optimizer.step()
        q = (1 - rate * curvature) ** k
        assert math.isclose(theta.item(), 1 - alpha + alpha * q, rel_tol=1e-12)
        if expected is not None:  # q = -0.59 has become 0.2
            assert abs(expected) < 0.4 * abs(q)
