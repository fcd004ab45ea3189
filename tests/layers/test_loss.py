"""What is particular to losses: extreme values, closed forms, options, errors and warnings."""

import itertools
import math
import warnings
import weakref

import pytest
import torch
import torch.nn.functional as native
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import scratch_layers
from scratch_layers import cross_entropy as ce
from scratch_layers import ctc, loss
from scratch_layers import margin_loss as margin
from scratch_layers.criterion import node

INF, NAN = float("inf"), float("nan")
EPS = torch.finfo(torch.float32).eps
OURS = {
    name: getattr(module, name)
    for module in (loss, ce, margin, ctc)
    for name in module.__all__
    if name[0].islower()
}


def outcome(function, *args, **options):
    """The result and the gradient of its sum by the first argument, or the error; and warnings."""
    x = args[0].detach().clone()
    x = x.requires_grad_() if x.is_floating_point() else x
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            y = function(x, *args[1:], **options)
        except Exception as error:
            return (type(error), str(error)), [str(w.message) for w in caught]
        d_x = torch.autograd.grad(y.sum(), x)[0] if y.requires_grad else None
    return (y.detach(), d_x), [str(w.message) for w in caught]


def same(name, *args, ulps=8, **options):
    """Asserts that the functional form does what native does, and returns what that is."""
    theirs, their_warnings = outcome(getattr(native, name), *args, **options)
    mine, my_warnings = outcome(OURS[name], *args, **options)
    assert my_warnings == their_warnings
    if isinstance(theirs[0], type):
        assert mine == theirs
        return theirs
    for a, b in zip(mine, theirs, strict=True):
        if b is None:
            assert a is None
            continue
        assert a.dtype == b.dtype
        # each value is a handful of operations, each rounded once
        # ... at the least in the dtype of the input, which native does not always promote first
        tolerance = ulps * max(torch.finfo(d).eps for d in (b.dtype, args[0].dtype))
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)
    return theirs


X = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.0, -0.5], [0.0, 0.0, 0.0], [3.0, 1.0, -2.0]])
Y = torch.tensor([2, 0, 1, 0])
T = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.25, 0.5, 0.75]])
P = torch.tensor([[0.0, 1.0, 0.5], [1.0, 0.0, 0.25], [0.1, 0.9, 1.0], [0.3, 0.6, 0.0]])
SIGNS = 2.0 * (T > 0.5) - 1
WEIGHT = torch.tensor([0.5, 2.0, 1.0])
Q = X.softmax(1).flip(0)


# What native does, error texts and warnings included

AGREE = [
    ("mse_loss", (X, T[:1]), {}),
    ("mse_loss", (X, T[0, 0]), {"reduction": "none"}),
    ("mse_loss", (X, T.double()), {}),
    ("mse_loss", (X, Y[:, None]), {}),
    ("mse_loss", (X[:0], T[:0]), {}),
    ("mse_loss", (X, T[:, :2]), {}),
    ("mse_loss", (X, T), {"reduction": "foo"}),
    ("mse_loss", (X, T), {"reduction": "elementwise_mean"}),
    ("mse_loss", (X, T), {"size_average": False}),
    ("mse_loss", (X, T), {"reduce": False, "size_average": True}),
    ("mse_loss", (X, T), {"weight": T + 1}),
    ("mse_loss", (X, T), {"weight": T + 1, "reduction": "sum"}),
    ("mse_loss", (X, T), {"weight": T + 1, "reduction": "none"}),
    ("mse_loss", (X, T), {"weight": T + 1, "reduction": "foo"}),
    ("mse_loss", (X, T), {"weight": WEIGHT}),
    ("l1_loss", (X, X.flip(0)), {"weight": T + 1}),
    ("l1_loss", (X, X), {"reduction": "none"}),
    ("smooth_l1_loss", (X, T), {"beta": -1}),
    ("smooth_l1_loss", (X, T), {"beta": 0}),
    ("smooth_l1_loss", (X, T), {"beta": 0.5}),
    ("smooth_l1_loss", (X, T), {"beta": 2}),
    ("huber_loss", (X, T), {"delta": 0}),
    ("huber_loss", (X, T), {"delta": 0.5}),
    ("huber_loss", (X, T), {"delta": 2, "weight": T + 1}),
    ("binary_cross_entropy", (P, T), {"reduction": "none", "ulps": 16}),
    ("binary_cross_entropy", (P, T), {"weight": WEIGHT}),
    ("binary_cross_entropy", (P, T), {"weight": torch.ones(2, 4, 3)}),
    ("binary_cross_entropy", (X, T), {}),
    ("binary_cross_entropy", (P * NAN, T), {}),
    ("binary_cross_entropy", (P, X), {}),
    ("binary_cross_entropy", (P, T[:1]), {}),
    ("binary_cross_entropy", (P, T.double()), {}),
    ("binary_cross_entropy_with_logits", (X, T), {"pos_weight": WEIGHT, "weight": T + 1}),
    ("binary_cross_entropy_with_logits", (X, T.double()), {}),
    ("binary_cross_entropy_with_logits", (X, T), {"weight": torch.ones(2, 4, 3)}),
    ("binary_cross_entropy_with_logits", (X, T[:1]), {}),
    ("binary_cross_entropy_with_logits", (X, T), {"size_average": False}),
    ("kl_div", (X, Q), {}),
    ("kl_div", (X, P), {"reduction": "batchmean"}),
    ("kl_div", (X, Y[:, None]), {"reduction": "sum"}),
    ("kl_div", (X, X), {"log_target": True, "reduction": "sum"}),
    ("poisson_nll_loss", (X, 4 * P), {"full": True, "reduction": "none"}),
    ("poisson_nll_loss", (P, 4 * P), {"log_input": False, "full": True}),
    ("poisson_nll_loss", (X, P), {"reduction": "foo"}),
    ("gaussian_nll_loss", (X, T, P), {}),
    ("gaussian_nll_loss", (X, T, P[:, 0]), {"full": True}),
    ("gaussian_nll_loss", (X, T, P[:, :1]), {"reduction": "sum"}),
    ("gaussian_nll_loss", (X, T, 2.0), {"reduction": "none"}),
    ("gaussian_nll_loss", (X, T, -2.0), {}),
    ("gaussian_nll_loss", (X, T, X), {}),
    ("gaussian_nll_loss", (X, T, P[:, :2]), {}),
    ("gaussian_nll_loss", (X, T, P), {"reduction": "foo"}),
    ("cross_entropy", (X, Y[:2]), {}),
    ("cross_entropy", (X, Y[:, None]), {}),
    ("cross_entropy", (X, Y.int()), {}),
    ("cross_entropy", (X, Y.float()), {}),
    ("cross_entropy", (X, Y.byte()), {}),
    ("cross_entropy", (X, Y + 1), {}),
    ("cross_entropy", (X, Y - 1), {}),
    ("cross_entropy", (X, Y - 1), {"ignore_index": -1}),
    ("cross_entropy", (X, Y), {"ignore_index": 1, "weight": WEIGHT, "label_smoothing": 0.3}),
    ("cross_entropy", (X, Y), {"weight": WEIGHT.double()}),
    ("cross_entropy", (X, Y), {"weight": T[0, :2]}),
    ("cross_entropy", (X, Y), {"weight": WEIGHT.clone().requires_grad_()}),
    ("cross_entropy", (X, Y), {"label_smoothing": 1.5}),
    ("cross_entropy", (X, Y), {"label_smoothing": 1.0}),
    ("cross_entropy", (X[0], Y[0]), {"reduction": "none"}),
    ("cross_entropy", (X[0], Y[:2]), {}),
    ("cross_entropy", (X[:0], Y[:0]), {}),
    ("cross_entropy", (X[:0], Y[:0]), {"reduction": "sum"}),
    ("cross_entropy", (X, torch.full_like(Y, -100)), {"label_smoothing": 0.1}),
    ("cross_entropy", (X, Q), {"ignore_index": 1}),
    ("cross_entropy", (X, Q.double()), {"weight": WEIGHT, "label_smoothing": 0.2}),
    ("cross_entropy", (X, Q), {"reduction": "none"}),
    ("cross_entropy", (X, torch.ones(4, 3, dtype=torch.long)), {}),
    ("cross_entropy", (X[0], Q[0]), {"reduction": "none"}),
    ("cross_entropy", (X[None], Y[None]), {}),
    ("cross_entropy", (X[None], Y[None, :3]), {"size_average": False}),
    ("cross_entropy", (X[None, None], Y[None]), {}),
    ("cross_entropy", (X[None, None], Y[None, None, :3]), {}),
    ("nll_loss", (X, Y), {"weight": WEIGHT, "ignore_index": 2, "reduction": "none"}),
    ("nll_loss", (X, Y + 3), {}),
    ("nll_loss", (X[0, 0], Y[0]), {}),
    ("nll_loss", (X[0], Y[0]), {"reduction": "none"}),
    ("hinge_embedding_loss", (X, SIGNS), {"margin": 1.5}),  # 1.5 is among the inputs: a tie
    ("hinge_embedding_loss", (X, T), {"reduction": "none"}),
    ("hinge_embedding_loss", (X, SIGNS.long()), {}),
    ("soft_margin_loss", (X, SIGNS.long()), {}),
    ("soft_margin_loss", (X, T.double()), {"reduction": "none"}),
    ("margin_ranking_loss", (X, X.flip(0), SIGNS), {"margin": 1.0}),
    ("margin_ranking_loss", (X, X, SIGNS), {}),  # ties
    ("margin_ranking_loss", (X, X[0], SIGNS), {}),
    ("cosine_embedding_loss", (X, X.flip(0), SIGNS[:, 0]), {"margin": 0.2, "ulps": 32}),
    ("cosine_embedding_loss", (X[0], X[1], SIGNS[0, 0]), {"reduction": "none"}),
    ("cosine_embedding_loss", (X * 0, X, SIGNS[:, 0]), {"reduction": "none"}),
    ("cosine_embedding_loss", (X, X, SIGNS), {}),
    ("cosine_embedding_loss", (X[0], X[0], SIGNS[:, 0]), {}),
    ("multi_margin_loss", (X, Y), {"weight": WEIGHT, "p": 2}),
    ("multi_margin_loss", (X, Y), {"margin": 1.5, "reduction": "none"}),  # a tie
    ("multi_margin_loss", (X[0], Y[0]), {"reduction": "none"}),
    ("multi_margin_loss", (X[0], Y[:1]), {"reduction": "none"}),
    ("multi_margin_loss", (X, Y[:2]), {}),
    ("multi_margin_loss", (X, Y + 1), {}),
    ("multi_margin_loss", (X, Y), {"p": 3}),
    ("multi_margin_loss", (X, Y), {"weight": T}),
    ("multi_margin_loss", (X, Y), {"weight": WEIGHT.double()}),
    ("multi_margin_loss", (X, Y.int()), {}),
    ("multi_margin_loss", (X, Y), {"weight": WEIGHT.clone().requires_grad_()}),
    ("multi_margin_loss", (X[None], Y), {}),
    ("multilabel_margin_loss", (X, torch.tensor([[0, 2, -1]] * 4)), {"reduction": "none"}),
    ("multilabel_margin_loss", (X, torch.tensor([[2, 2, -1]] * 4)), {"reduction": "none"}),
    ("multilabel_margin_loss", (X[0], torch.tensor([1, -1, 2])), {"reduction": "none"}),
    ("multilabel_margin_loss", (X[0], torch.tensor([1, 3, 2])), {}),
    ("multilabel_margin_loss", (X[0], torch.tensor([1, -2, 2])), {}),
    ("multilabel_margin_loss", (X, torch.tensor([1, -1, 2])), {}),
    ("multilabel_soft_margin_loss", (X, T), {"weight": WEIGHT}),
    ("multilabel_soft_margin_loss", (X, T), {"reduction": "foo"}),
    ("triplet_margin_loss", (X, X + 1, X.flip(0)), {"p": 1.5, "swap": True, "ulps": 32}),
    ("triplet_margin_loss", (X, X, X), {"reduction": "none"}),
    ("triplet_margin_loss", (X, X[0], X), {}),
    ("triplet_margin_loss", (X, X, X), {"margin": -1}),
    ("triplet_margin_with_distance_loss", (X, X + 1, X.flip(0)), {"swap": True}),
    ("triplet_margin_with_distance_loss", (X, X, X), {"reduction": "foo"}),
]


@pytest.mark.parametrize(
    ("name", "args", "options"), AGREE, ids=[f"{a[0]}-{i}" for i, a in enumerate(AGREE)]
)
def test_values_gradients_errors_and_warnings_are_those_of_native(name, args, options):
    same(name, *args, **options)


def test_the_table_holds_results_and_errors():
    found = [outcome(getattr(native, n), *a, **{k: v for k, v in o.items() if k != "ulps"})
             for n, a, o in AGREE]  # fmt: skip
    errors = sum(isinstance(result[0], type) for result, _ in found)
    assert len(found) / 4 < errors < len(found) / 2


# Cross entropy


@pytest.mark.parametrize("gap", [5.0, 10.0, 20.0, 40.0, 80.0])
def test_a_tiny_cross_entropy_keeps_its_digits(gap):
    x = torch.tensor([[gap, 0.0, -1.0, 0.5]])
    exact = native.cross_entropy(x.double(), torch.tensor([0])).item()
    if gap > 30:  # where float64 has lost digits too: log(1 + R) = R
        exact = sum(math.exp(v - gap) for v in (0.0, -1.0, 0.5))
    got = ce.cross_entropy(x, torch.tensor([0])).item()
    # exp of a number of the size of the gap has its rounding times the gap
    assert abs(got / exact - 1) < EPS * (4 + gap)


def test_cross_entropy_of_logits_that_a_compiler_computes_twice_is_that_of_eager():
    """Inductor inlines what makes the logits into each of its loops, with vectors in one and not in
    another, so that the largest of them may differ from itself by a rounding."""

    def price(x, y):
        logits = scratch_layers.functional.leaky_relu(native.gelu(x))
        return scratch_layers.functional.cross_entropy(logits, y)

    torch.manual_seed(0)
    x, y = torch.randn(2, 3), torch.tensor([0, 2])
    compiled = torch.compile(price, fullgraph=True)(x, y)
    torch.testing.assert_close(compiled, price(x, y), rtol=8 * EPS, atol=0)


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_cross_entropy_of_extreme_logits_is_finite_and_that_of_float64(shift, scale):
    x = (X * scale + shift).requires_grad_()
    for target in (Y, Q):
        wide = x.detach().double().requires_grad_()
        exact = native.cross_entropy(wide, target.double() if target is Q else target)
        y = ce.cross_entropy(x, target)
        # x - max is rounded to the resolution of the largest logit, once for each logit
        tolerance = 4 * EPS * float(exact.detach().abs() + 1)
        torch.testing.assert_close(y.double(), exact, rtol=0, atol=tolerance)
        (d_x,), (d,) = torch.autograd.grad(y, x), torch.autograd.grad(exact, wide)
        torch.testing.assert_close(d_x.double(), d, rtol=0, atol=4 * EPS)


def test_masked_logits_have_no_share_and_no_gradient():
    x = X.clone()
    x[:, 1] = -INF
    x.requires_grad_()
    y = torch.tensor([2, 0, 2, 0])
    result = ce.cross_entropy(x, y)
    torch.testing.assert_close(result, native.cross_entropy(x, y), rtol=4 * EPS, atol=0)
    (d_x,) = torch.autograd.grad(result, x)
    assert (d_x[:, 1] == 0).all()
    assert d_x.isfinite().all()
    # the same as a distribution, where native has 0 * inf = nan
    q = torch.nn.functional.one_hot(y, 3).float()
    torch.testing.assert_close(ce.cross_entropy(x, q), result, rtol=4 * EPS, atol=0)
    assert native.cross_entropy(x, q).isnan()


def test_ignored_rows_count_for_nothing_whatever_they_hold():
    x, y = torch.cat([X, torch.full((1, 3), NAN)]), torch.cat([Y, torch.tensor([-100])])
    for options in ({}, {"weight": WEIGHT}, {"label_smoothing": 0.1}):
        for reduction in ("mean", "sum"):
            whole = ce.cross_entropy(x, y, reduction=reduction, **options)
            torch.testing.assert_close(
                whole, ce.cross_entropy(X, Y, reduction=reduction, **options)
            )
    assert ce.cross_entropy(X, torch.full_like(Y, -100)).isnan(), "0 / 0, as native"


def test_smoothing_is_a_distribution_and_an_index_one_that_is_certain():
    one_hot = torch.nn.functional.one_hot(Y, 3).to(X.dtype)
    for epsilon in (0.0, 0.1, 1.0):
        q = (1 - epsilon) * one_hot + epsilon / 3
        results = [
            ce.cross_entropy(X, Y, label_smoothing=epsilon, reduction="none"),
            ce.cross_entropy(X, one_hot, label_smoothing=epsilon, reduction="none"),
            ce.cross_entropy(X, q, reduction="none"),
        ]
        for result in results[1:]:
            torch.testing.assert_close(result, results[0], rtol=8 * EPS, atol=8 * EPS)


def test_derivative_by_a_distribution_knows_smoothing_and_weights():
    x, q, w = X.double().requires_grad_(), Q.double().requires_grad_(), WEIGHT.double()
    w.requires_grad_()
    for options in ({}, {"reduction": "none"}):

        def f(x, q, w, options=options):
            return ce.cross_entropy(x, q, w, label_smoothing=0.4, **options)

        assert gradcheck(f, (x, q, w), check_forward_ad=True)
        assert gradgradcheck(f, (x, q, w))


def test_weights_repeat_examples():
    # an integer weight is as many copies of the examples of its class
    w = torch.tensor([3.0, 1.0, 2.0])
    copies = torch.repeat_interleave(torch.arange(4), w[Y].long())
    result = ce.cross_entropy(X, Y, weight=w)
    torch.testing.assert_close(result, ce.cross_entropy(X[copies], Y[copies]))


def test_nll_of_log_softmax_is_the_cross_entropy():
    for options in ({}, {"weight": WEIGHT, "ignore_index": 0}, {"reduction": "none"}):
        z = X - X.logsumexp(1, keepdim=True)
        torch.testing.assert_close(ce.nll_loss(z, Y, **options), ce.cross_entropy(X, Y, **options))


def test_nll_loss_2d_warns_and_is_nll_loss():
    with pytest.warns(FutureWarning, match="`NLLLoss2d` has been deprecated"):
        layer = ce.NLLLoss2d(WEIGHT)
    assert isinstance(layer, nn.NLLLoss2d)
    torch.testing.assert_close(layer(X, Y), nn.NLLLoss(WEIGHT)(X, Y))


# Focal loss


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("alpha", [None, WEIGHT], ids=["plain", "alpha"])
def test_focal_loss_without_focus_is_cross_entropy(reduction, alpha):
    y = Y.clone()
    y[1] = -100
    x = X.clone().requires_grad_()
    ours = ce.FocalLoss(alpha, gamma=0.0, reduction=reduction)(x, y)
    theirs = native.cross_entropy(x, y, weight=alpha, reduction=reduction)
    torch.testing.assert_close(ours, theirs, rtol=8 * EPS, atol=8 * EPS)
    gradients = [torch.autograd.grad(v.sum(), x)[0] for v in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=8 * EPS, atol=8 * EPS)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_derivative_is_that_of_the_papers_appendix(gamma):
    x = torch.linspace(-8, 8, 33, dtype=torch.float64, requires_grad=True)
    for t in (0.0, 1.0):
        y = ce.sigmoid_focal_loss(x, torch.full_like(x, t), None, gamma, reduction="sum")
        sign = 2 * t - 1
        p = torch.sigmoid(sign * x.detach())
        expected = sign * (1 - p) ** gamma * (gamma * p * p.log() + p - 1)
        (d_x,) = torch.autograd.grad(y, x)
        # 1 - p of the paper's form loses up to p / (1 - p) = exp(8) roundings
        torch.testing.assert_close(d_x, expected, rtol=1e-12, atol=1e-15)
        value = -((1 - p) ** gamma * p.log()).sum()
        torch.testing.assert_close(y.detach(), value, rtol=1e-12, atol=0)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_two_classes_of_focal_loss_are_one_logit_of_the_sigmoid_form(gamma):
    x, t = X[:, 0], T[:, 0].round()
    two = ce.focal_loss(torch.stack([torch.zeros_like(x), x], 1), t.long(), gamma=gamma)
    torch.testing.assert_close(two, ce.sigmoid_focal_loss(x, t, None, gamma))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_loss_is_stable_where_the_probability_is_near_0_or_1(gamma):
    # 12: (exp(-12))^6 is still a normal number of float32
    for gap in (1e-3, 1.0, 12.0, 100.0, 1e4):
        for sign in (1, -1):
            x = torch.tensor([[sign * gap, 0.0]], requires_grad=True)
            y = ce.focal_loss(x, torch.tensor([0]), gamma=gamma)
            (d_x,) = torch.autograd.grad(y, x)
            assert y.isfinite()
            assert d_x.isfinite().all()
            if gap > 12:
                continue
            wide = x.detach().double().requires_grad_()
            c = torch.nn.functional.softplus(wide[:, 1] - wide[:, 0])
            exact = ((-torch.expm1(-c)) ** gamma * c).mean()
            (d,) = torch.autograd.grad(exact, wide)
            # the power multiplies the relative rounding of u by γ, exp that of x by the gap
            tolerance = EPS * (4 + gamma) * (4 + gap)
            torch.testing.assert_close(y.double(), exact, rtol=tolerance, atol=0)
            torch.testing.assert_close(d_x.double(), d, rtol=0, atol=tolerance * max(1, gamma))
            z = x.detach()[:, 0].requires_grad_()
            y = ce.sigmoid_focal_loss(z, torch.ones(1), None, gamma)
            torch.testing.assert_close(y.double(), exact, rtol=tolerance, atol=0)


def test_focal_loss_plays_down_the_easy_as_the_paper_says():
    # section 3.2: with γ = 2 an example of p = 0.9 has 100 times less loss than in cross entropy
    x = torch.tensor([[math.log(9.0), 0.0]], dtype=torch.float64)
    y = torch.tensor([0])
    ratio = ce.cross_entropy(x, y) / ce.focal_loss(x, y, gamma=2.0)
    torch.testing.assert_close(ratio, torch.tensor(100.0, dtype=torch.float64))


def test_focal_loss_derivatives_once_twice_and_forward():
    x = X.double().requires_grad_()
    t = T.double().requires_grad_()
    alpha = WEIGHT.double()
    for gamma in (0.0, 1.0, 2.0, 2.5):
        assert gradcheck(lambda x: ce.focal_loss(x, Y, alpha, gamma), x, check_forward_ad=True)  # noqa: B023
        assert gradgradcheck(lambda x: ce.focal_loss(x, Y, alpha, gamma), x)  # noqa: B023
        f = lambda x, t: ce.sigmoid_focal_loss(x, t, 0.3, gamma)  # noqa: B023, E731
        assert gradcheck(f, (x, t), check_forward_ad=True)
        assert gradgradcheck(f, (x, t))


def test_focal_modules_keep_their_options_and_refuse_bad_ones():
    layer = ce.FocalLoss(WEIGHT, 1.5, ignore_index=1, reduction="sum")
    assert list(layer.state_dict()) == ["alpha"]
    assert repr(layer) == "FocalLoss(gamma=1.5)"
    torch.testing.assert_close(layer(X, Y), ce.focal_loss(X, Y, WEIGHT, 1.5, 1, "sum"))
    for shape in ((3,), (4, 3, 2), (2, 3, 2, 5)):
        torch.manual_seed(0)
        x, y = torch.randn(shape), torch.randint(0, 3, (*shape[:1], *shape[2:])[len(shape) == 1 :])
        got = ce.focal_loss(x, y, WEIGHT, 0.0, reduction="none")
        torch.testing.assert_close(got, ce.cross_entropy(x, y, WEIGHT, reduction="none"))
    layer = ce.SigmoidFocalLoss(0.3, 1.5, "sum")
    assert repr(layer) == "SigmoidFocalLoss(alpha=0.3, gamma=1.5)"
    torch.testing.assert_close(layer(X, T), ce.sigmoid_focal_loss(X, T, 0.3, 1.5, "sum"))
    plain = native.binary_cross_entropy_with_logits(X, T, reduction="none")
    weight = 0.3 * T + 0.7 * (1 - T)
    hard = T.round() == T  # elsewhere α takes its share of both terms
    got = ce.sigmoid_focal_loss(X, T, 0.3, 0.0, "none")
    torch.testing.assert_close(got[hard], (weight * plain)[hard], rtol=8 * EPS, atol=8 * EPS)
    for failing, text in (
        (lambda: ce.FocalLoss(gamma=-1), "gamma must be at least 0"),
        (lambda: ce.SigmoidFocalLoss(gamma=NAN), "gamma must be at least 0"),
        (lambda: ce.sigmoid_focal_loss(X, T, alpha=2), "alpha must be in"),
        (lambda: ce.sigmoid_focal_loss(X, T[:1]), "must be the same as input size"),
        (lambda: ce.focal_loss(X, Q), "takes indices of classes"),
        (lambda: ce.focal_loss(X, Y, alpha=T), "weight tensor should be defined"),
        (lambda: ce.focal_loss(X, Y, alpha=WEIGHT[:2]), "weight tensor should be defined"),
    ):
        with pytest.raises((ValueError, RuntimeError), match=text):
            failing()


# Losses value by value


def test_binary_cross_entropy_of_logits_keeps_its_digits():
    x = torch.tensor([0.0, 1.0, 10.0, 30.0, 60.0])
    for sign, t in ((1, torch.ones(5)), (-1, torch.zeros(5))):
        got = loss.binary_cross_entropy_with_logits(sign * x, t, reduction="none")
        exact = torch.log1p(torch.exp(-x.double()))
        torch.testing.assert_close(got.double(), exact, rtol=4 * EPS, atol=0)
        z = (sign * x).requires_grad_()
        total = loss.binary_cross_entropy_with_logits(z, t, reduction="sum")
        (d,) = torch.autograd.grad(total, z)
        exact = -sign * torch.sigmoid(-x.double())
        torch.testing.assert_close(d.double(), exact, rtol=4 * EPS, atol=0)


def test_second_derivative_at_a_logit_of_zero_is_a_quarter():
    # where |x| has a kink, and its derivative would be taken for zero
    for f in (
        lambda x: loss.binary_cross_entropy_with_logits(x, torch.ones(1, dtype=x.dtype)),
        lambda x: margin.soft_margin_loss(x, torch.ones(1, dtype=x.dtype)),
    ):
        x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        (d,) = torch.autograd.grad(f(x), x, create_graph=True)
        (dd,) = torch.autograd.grad(d, x)
        assert (d.item(), dd.item()) == (-0.5, 0.25)
    x, t = (torch.full((1,), v, dtype=torch.float64, requires_grad=True) for v in (0.0, 0.5))
    y = loss.binary_cross_entropy_with_logits(x, t, pos_weight=torch.full_like(x, 3.0))
    (d_t,) = torch.autograd.grad(y, t, create_graph=True)
    # ∂/∂x (π s⁻ - s⁺) = -π/2 - 1/2
    assert torch.autograd.grad(d_t, x)[0].item() == -2.0


def test_weights_of_binary_losses_have_gradients():
    w = WEIGHT.double().requires_grad_()
    x, t = X.double(), T.double()
    with_logits = loss.binary_cross_entropy_with_logits
    assert gradcheck(lambda w: with_logits(x, t, weight=w), w)
    assert gradcheck(lambda w: with_logits(x, t, pos_weight=w), w)
    p = x.sigmoid()
    assert gradcheck(lambda w: loss.binary_cross_entropy(p, t, weight=w), w)


def test_gaussian_loss_is_the_density_and_knows_its_variance():
    x, t, v = X.double(), T.double(), (P + 0.5).double()
    density = torch.distributions.Normal(x, v.sqrt()).log_prob(t)
    got = loss.gaussian_nll_loss(x, t, v, full=True, reduction="none")
    torch.testing.assert_close(got, -density)
    tensors = [z.clone().requires_grad_() for z in (x, t, v)]
    assert gradcheck(loss.gaussian_nll_loss, tensors, check_forward_ad=True)
    # below ε it can grow again, as natively
    small = torch.full_like(v, 1e-9).requires_grad_()
    results = [
        torch.autograd.grad(f(x, t, small, eps=1e-3), small)[0]
        for f in (loss.gaussian_nll_loss, native.gaussian_nll_loss)
    ]
    torch.testing.assert_close(*results)


def test_soft_margin_does_not_overflow():
    x = torch.tensor([-1e4, -100.0, 0.0, 1e4], requires_grad=True)
    y = margin.soft_margin_loss(x, torch.ones(4), reduction="none")
    torch.testing.assert_close(y.detach(), torch.tensor([1e4, 100.0, math.log(2.0), 0.0]))
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [-1.0, -1.0, -0.5, 0.0]
    assert native.soft_margin_loss(x, torch.ones(4)).isinf()


PIECEWISE_LINEAR = [
    (loss.l1_loss, 2, 1),
    (lambda x, t, **more: loss.smooth_l1_loss(x, t, beta=0.0, **more), 2, 1),
    (lambda x, t, **more: margin.hinge_embedding_loss(x, t.sign(), **more), 1, 1),
    (lambda x, t, **more: margin.margin_ranking_loss(x, t, SIGNS.to(x.dtype), **more), 2, 8),
]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("i", range(len(PIECEWISE_LINEAR)))
def test_a_piecewise_linear_loss_keeps_its_slope_alone(i, reduction):
    f, operands, size = PIECEWISE_LINEAR[i]
    x, t = (z.double().requires_grad_(n < operands) for n, z in enumerate((X, Q)))
    inputs = x * 1, t * 1
    alive = [weakref.ref(z) for z in inputs]
    y = f(*inputs, reduction=reduction)
    (kept,) = [saved for saved in y.grad_fn.saved_tensors if saved.numel() > 0]
    assert (kept.numel(), kept.element_size()) == (X.numel(), size)
    del inputs
    assert [a() for a in alive] == [None, None]
    leaves = (x, t)[:operands]
    first, second = (
        torch.autograd.grad(y.sum(), leaves, retain_graph=again) for again in (True, False)
    )
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


def test_a_target_of_margin_ranking_that_requires_grad_has_its_mixed_derivatives():
    x, z, t = (v.double().requires_grad_() for v in (X, Q, T + 0.5))

    def f(x, z, t):
        return margin.margin_ranking_loss(x, z, t, margin=0.3)

    assert gradcheck(f, (x, z, t), check_forward_ad=True)
    assert gradgradcheck(f, (x, z, t))


@pytest.mark.parametrize("i", range(len(PIECEWISE_LINEAR)))
def test_the_second_derivative_of_a_piecewise_linear_loss_is_zero_and_not_missing(i):
    f, operands, _ = PIECEWISE_LINEAR[i]
    wild = X.double()
    wild[0, 0], wild[1, 1] = INF, NAN
    x, t = (z.requires_grad_(n < operands) for n, z in enumerate((wild, Q.double())))
    leaves = (x, t)[:operands]
    first = torch.autograd.grad(f(x, t, reduction="mean"), leaves, create_graph=True)
    second = torch.autograd.grad(sum(d.sum() for d in first), leaves)
    for leaf, d in zip(leaves, second, strict=True):
        assert torch.equal(d, torch.zeros_like(leaf))


def test_infinite_and_undefined_differences_travel_as_in_native():
    x, t = torch.tensor([INF, -INF, NAN, 1e30, 1.0]), torch.tensor([0.0, 1.0, 2.0, -1e30, NAN])
    for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"):
        same(name, x, t, reduction="none")


def test_divergence_of_a_distribution_that_has_zeros():
    t = torch.tensor([[0.0, 0.25, 0.75]])
    x = torch.tensor([[0.2, 0.3, 0.5]]).log()
    expected = 0.25 * math.log(0.25 / 0.3) + 0.75 * math.log(0.75 / 0.5)
    got = loss.kl_div(x, t, reduction="batchmean").item()
    assert abs(got - expected) < 4 * EPS


def test_means_of_a_million_values_are_as_exact_as_native_ones():
    torch.manual_seed(0)
    x, t = torch.randn(2, 1_000_000)
    for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "binary_cross_entropy_with_logits"):
        target = t.sigmoid() if name.startswith("binary") else t
        exact = getattr(native, name)(x.double(), target.double())
        got = OURS[name](x, target).double()
        # pairwise summation: log2(10^6) = 20 roundings, of random signs
        assert abs(got / exact - 1) < 4 * EPS


def test_gradient_of_a_mean_is_not_spread_out_before_it_is_used():
    # ∂y is one number: the backward takes it as it is, and makes ∂x only
    x = torch.randn(4, 5, requires_grad=True)
    y = node(loss.Squared, "mean", x, torch.zeros(4, 5))
    seen = []
    y.register_hook(lambda g: seen.append(g.shape))
    y.backward()
    assert seen == [()]
    torch.testing.assert_close(x.grad, 2 * x.detach() / 20)


def test_deprecated_switches_of_the_modules_warn_and_choose():
    for size_average, reduce in itertools.product((None, True, False), repeat=2):
        made = []
        for library in (nn, scratch_layers):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                layer = library.CrossEntropyLoss(None, size_average, -100, reduce)
            made.append((layer.reduction, [str(w.message) for w in caught]))
        assert made[0] == made[1]


def test_modules_refuse_in_the_words_of_native():
    for failing in (
        lambda library: library.HuberLoss(delta="a"),
        lambda library: library.MultiMarginLoss(p=3),
        lambda library: library.MultiMarginLoss(weight=T),
        lambda library: library.TripletMarginLoss(margin=0.0),
        lambda library: library.TripletMarginWithDistanceLoss(margin=-1.0),
    ):
        errors = []
        for library in (nn, scratch_layers):
            with pytest.raises((TypeError, ValueError)) as caught:
                failing(library)
            errors.append((caught.type, str(caught.value)))
        assert errors[0] == errors[1]


# Connectionist temporal classification

LABELS = torch.tensor([[1, 2, 2, 4], [3, 3, 5, 0], [5, 1, 0, 0], [0, 0, 0, 0]])
TIMES, LENGTHS = torch.tensor([9, 7, 4, 5]), torch.tensor([4, 3, 2, 0])


def log_probs(dtype=torch.float64):
    torch.manual_seed(0)
    return torch.randn(9, 4, 6, dtype=dtype)


def all_paths(log_y, label):
    """-log p(l) by the sum over all paths, collapsed as the paper says."""
    T, C = log_y.shape
    total = 0.0
    for path in itertools.product(range(C), repeat=T):
        merged = [k for k, _ in itertools.groupby(path)]
        if [k for k in merged if k != 0] == label:
            total += math.exp(sum(log_y[t, k].item() for t, k in enumerate(path)))
    return -math.log(total)


def test_ctc_is_the_sum_over_all_paths():
    log_y = log_probs()[:5, 0, :3].log_softmax(1)
    for label in ([1, 2], [1, 1], [2], [], [1, 2, 1]):
        got = ctc.ctc_loss(log_y, torch.tensor(label), torch.tensor(5), torch.tensor(len(label)))
        assert abs(got.item() * max(len(label), 1) - all_paths(log_y, label)) < 1e-12


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("times", [TIMES, torch.tensor([9, 3, 1, 0])], ids=["long", "short"])
def test_ctc_and_its_gradient_through_log_softmax_are_native_ones(reduction, times):
    chained = torch.cat([row[:n] for row, n in zip(LABELS, LENGTHS, strict=True)])
    for targets, zero in itertools.product((LABELS, chained), (False, True)):
        results = []
        for function in (ctc.ctc_loss, native.ctc_loss):
            x = log_probs().requires_grad_()
            y = function(x.log_softmax(2), targets, times, LENGTHS, 0, reduction, zero)
            results.append((y.detach(), torch.autograd.grad(y.sum(), x)[0]))
        torch.testing.assert_close(results[0][0], results[1][0])
        if zero or times is TIMES:  # else nan, for all or for some
            torch.testing.assert_close(results[0][1], results[1][1])


def test_ctc_derivatives_once_twice_and_forward():
    x = log_probs().log_softmax(2).requires_grad_()

    def f(x):
        return ctc.CTCLoss()(x, LABELS, TIMES, LENGTHS)

    assert gradcheck(f, x, check_forward_ad=True)
    assert gradgradcheck(f, x)


def test_ctc_refuses_in_the_words_of_native():
    x = log_probs(torch.float32).log_softmax(2)
    for args in (
        (LABELS, TIMES[:1], LENGTHS),
        (LABELS, TIMES, LENGTHS[:1]),
        (LABELS, TIMES + 3, LENGTHS),
        (LABELS, TIMES, LENGTHS + 1),
        (LABELS, TIMES, LENGTHS - 1),
        (torch.tensor([1, 2]), TIMES, LENGTHS),
        (LABELS, TIMES, LENGTHS, 6),
        (LABELS, TIMES.float(), LENGTHS),
    ):
        mine, theirs = outcome(ctc.ctc_loss, x, *args), outcome(native.ctc_loss, x, *args)
        assert isinstance(theirs[0][0], type)
        assert mine == theirs
