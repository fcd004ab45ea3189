"""Dropout as inference: uncertainty of Monte-Carlo passes, learned rates, and what is left out."""

import math
from itertools import pairwise

import pytest
import torch
from scipy import integrate, stats
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import scratch_layers.variational as v
from scratch_layers import BatchNorm1d, Dropout
from scratch_layers.dropout import DropPath

LAYERS = {
    "linear": (lambda: v.VariationalDropoutLinear(5, 3, dtype=torch.float64), (4, 5)),
    "no bias": (lambda: v.VariationalDropoutLinear(5, 3, False, dtype=torch.float64), (2, 4, 5)),
    "conv": (
        lambda: v.VariationalDropoutConv2d(2, 3, 3, 2, padding=1, dtype=torch.float64),
        (2, 2, 5, 5),
    ),
    "reflect": (
        lambda: v.VariationalDropoutConv2d(
            2, 2, 3, padding=1, groups=2, padding_mode="reflect", dtype=torch.float64
        ),
        (2, 2, 4, 4),
    ),
}
GAUSSIAN = {
    "fixed": lambda: v.GaussianDropout(0.3, dtype=torch.float64),
    "learned": lambda: v.GaussianDropout(0.3, True, (5,), dtype=torch.float64),
}
every_layer = pytest.mark.parametrize(("make", "shape"), LAYERS.values(), ids=list(LAYERS))


def wide(make):
    """The layer with variances large enough to matter."""
    torch.manual_seed(0)
    layer = make()
    with torch.no_grad():
        layer.log_sigma2.uniform_(-3, 0)
    return layer


def exact_kl(log_alpha):
    """KL(α) by quadrature, from its definition in the docstring of the module."""
    s = math.exp(0.5 * log_alpha)
    pole = -1 / s

    def f(e):
        return stats.norm.pdf(e) * math.log(abs(1 + s * e)) if e != pole else 0.0

    # the logarithm can be integrated across its pole if the interval ends there
    points = sorted({-9.0, 9.0, *([pole] if abs(pole) < 9 else [])})
    pieces = pairwise(points)
    mean = sum(integrate.quad(f, a, b, limit=200)[0] for a, b in pieces)
    return -0.5 * log_alpha + mean + 0.5 * (0.5772156649015329 + math.log(2))


def test_kl_is_the_integral_within_what_the_papers_state():
    for log_alpha in [-8, -6, -4, -3, -2, -1.5, -1, -0.5, 0, 0.5, 1, 2, 3, 4, 6, 8]:
        exact = exact_kl(log_alpha)
        z = torch.tensor(float(log_alpha), dtype=torch.float64)
        # Molchanov et al., figure 1: no further than 0.009 on the full range
        assert abs(v.kl_log_uniform(z) - exact) < 0.009
        if log_alpha <= 0:  # α ≤ 1; the paper states no figure; measured: 0.041 at most
            assert abs(v.kl_polynomial(z) - exact) < 0.045


def test_kl_falls_and_has_finite_derivatives_at_any_rate():
    for dtype in (torch.float32, torch.float64):
        z = torch.linspace(-200, 200, 801, dtype=dtype, requires_grad=True)
        kl = v.kl_log_uniform(z)
        (slope,) = torch.autograd.grad(kl.sum(), z)
        assert kl.isfinite().all()
        assert slope.isfinite().all()
        assert (slope <= 0).all()
        assert (kl >= 0).all()
        # 1/2 |log α| + C at the left end, nothing at the right
        torch.testing.assert_close(kl[0], kl.new_tensor(100 + 0.63576), rtol=1e-4, atol=0)
        assert float(kl[-1].detach()) == pytest.approx(0, abs=1e-30)


@every_layer
def test_local_reparameterization_has_the_moments_of_drawn_weights(make, shape):
    layer = wide(make)
    x = torch.randn(shape, dtype=torch.float64)
    T = 2000
    torch.manual_seed(1)
    with torch.no_grad():
        local = torch.stack([layer(x) for _ in range(T)])
        theta, sigma = layer.weight.clone(), (0.5 * layer.log_sigma2).exp()
        drawn = torch.stack(
            [layer._sum(x, theta + sigma * torch.randn_like(sigma), layer.bias) for _ in range(T)]
        )
    std = drawn.std(0)
    # standard errors of the difference of two means and of two log-deviations; 5 of them
    assert ((local.mean(0) - drawn.mean(0)).abs() < 5 * std * math.sqrt(2 / T)).all()
    assert ((local.std(0) / std).log().abs() < 5 * math.sqrt(1 / T)).all()


@every_layer
def test_every_example_has_noise_of_its_own(make, shape):
    layer = wide(make)
    x = torch.randn(1, *shape[1:], dtype=torch.float64).expand(shape)
    y = layer(x).detach()
    assert (y[0] != y[1]).all()
    mean = layer.eval()(x)
    torch.testing.assert_close(mean[0], mean[1])


@every_layer
def test_gradcheck_of_the_layers_with_fixed_noise(make, shape):
    layer = wide(make)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    names = dict(layer.named_parameters())

    def f(x, *values):
        torch.manual_seed(0)
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert gradcheck(f, (x, *names.values()), check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(f, (x, *names.values()), fast_mode=True)


@pytest.mark.parametrize("make", GAUSSIAN.values(), ids=list(GAUSSIAN))
def test_gaussian_dropout_has_the_moments_of_dropout(make):
    layer, native = make(), nn.Dropout(0.3)
    torch.manual_seed(0)
    x = torch.tensor([1.0, -2.0, 3.0, 0.5, 10.0], dtype=torch.float64).expand(100_000, 5)
    with torch.no_grad():
        mine, theirs = layer(x), native(x)
    # 10^5 draws: relative standard error of the mean sqrt(α) / 316 = 2e-3, of the variance 5e-3
    # (normal) and 4e-3 (two values); 5 of them
    torch.testing.assert_close(mine.mean(0), x[0], rtol=1e-2, atol=0)
    torch.testing.assert_close(mine.var(0), theirs.var(0), rtol=3.5e-2, atol=0)
    assert layer.eval()(x) is x


def test_gaussian_dropout_passes_derivatives_to_the_rate_as_derived():
    layer = v.GaussianDropout(0.3, True, (5,), dtype=torch.float64)
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(0)
    y = layer(x)
    torch.manual_seed(0)
    epsilon = torch.randn(4, 5, dtype=torch.float64)
    sqrt_alpha = math.sqrt(0.3 / 0.7)
    d_x, d_log_alpha = torch.autograd.grad(y.sum(), (x, layer.log_alpha))
    torch.testing.assert_close(d_x, 1 + sqrt_alpha * epsilon)
    torch.testing.assert_close(d_log_alpha, (0.5 * x * sqrt_alpha * epsilon).sum(0).detach())

    def f(x, log_alpha):
        torch.manual_seed(0)
        return torch.func.functional_call(layer, {"log_alpha": log_alpha}, (x,))

    assert gradcheck(f, (x, layer.log_alpha), check_forward_ad=True)
    assert gradgradcheck(f, (x, layer.log_alpha))


def test_gaussian_dropout_rates_and_refusals():
    x = torch.randn(6, 5)
    assert torch.equal(v.GaussianDropout(0.0)(x), x)
    assert not list(v.GaussianDropout(0.4).parameters())
    assert v.GaussianDropout(0.5)(x.bfloat16()).dtype == torch.bfloat16
    for p in (1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"p has to be in \[0, 1\)"):
            v.GaussianDropout(p)
    with pytest.raises(ValueError, match="p=0"):
        v.GaussianDropout(0.0, learned=True)


def test_inputs_and_weights_of_zero_have_finite_gradients():
    layer = v.VariationalDropoutLinear(3, 2)
    with torch.no_grad():
        layer.weight[0] = 0
    layer(torch.zeros(4, 3)).sum().backward()
    v.kl_divergence(layer).backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("kind", ["linear", "gaussian"])
def test_irrelevant_inputs_are_dropped_and_relevant_ones_stay(kind):
    """y = 2 x_0 - 3 x_1 + noise, of 6 inputs, with the evidence lower bound as the loss."""
    torch.manual_seed(0)
    N, relevant = 64, torch.tensor([True, True, False, False, False, False])
    x = torch.linalg.qr(torch.randn(N, 6))[0] * math.sqrt(N)  # uncorrelated, variance 1
    noise = torch.randn(N)
    noise = noise - x @ (x.T @ noise) / N  # no relevance by accident
    y = 2 * x[:, 0] - 3 * x[:, 1] + 0.3 * noise
    if kind == "linear":
        model = nn.Sequential(v.VariationalDropoutLinear(6, 1, bias=False, threshold=0.0))
    else:
        model = nn.Sequential(v.GaussianDropout(0.2, True, (6,)), nn.Linear(6, 1, bias=False))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for step in range(600):
        # -log p for known noise; the KL warms up
        nll = (model(x).squeeze(1) - y).square().mean() / (2 * 0.3**2)
        loss = nll + min(1.0, step / 100) * v.kl_divergence(model) / N
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    log_alpha = model[0].log_alpha.flatten()
    assert (log_alpha[relevant] < -3).all()
    if kind == "linear":
        assert (log_alpha[~relevant] > 1).all()  # p > 0.73, and rising
        assert v.sparsity(model) == pytest.approx(4 / 6)
        model.eval()
        blind = model(x * relevant)
        assert torch.equal(model(x), blind), "what is left out has no effect"
        assert (blind.squeeze(1) - y).square().mean() < 1.2 * 0.3**2
    else:
        assert (log_alpha[~relevant] > log_alpha[relevant].max() + 2).all()


def test_kl_and_sparsity_count_every_layer_once():
    conv = v.VariationalDropoutConv2d(2, 3, 3)
    linear = v.VariationalDropoutLinear(5, 4)
    rate = v.GaussianDropout(0.2, True, (5,))
    model = nn.Sequential(conv, nn.Sequential(rate, linear, v.GaussianDropout(0.5)), linear)
    parts = [v.kl_log_uniform(m.log_alpha).sum() for m in (conv, rate, linear)]
    torch.testing.assert_close(v.kl_divergence(model), sum(parts))
    assert v.kl_divergence(nn.Linear(2, 2)) == 0
    with torch.no_grad():
        linear.weight.fill_(1.0)
        conv.weight.fill_(1.0)
        linear.log_sigma2[:2].fill_(5.0)
    assert v.sparsity(model) == pytest.approx(10 / (20 + 54))
    with pytest.raises(ValueError, match="posterior"):
        v.sparsity(nn.Linear(2, 2))


def test_weights_of_torchs_layers_load_and_states_carry_the_variances():
    torch.manual_seed(0)
    native, ours = nn.Linear(5, 3), v.VariationalDropoutLinear(5, 3)
    missing, unexpected = ours.load_state_dict(native.state_dict(), strict=False)
    assert (missing, unexpected) == (["log_sigma2"], [])
    x = torch.randn(4, 5)
    assert torch.equal(ours.eval()(x), native(x))
    assert isinstance(ours, nn.Linear)
    assert set(v.GaussianDropout().state_dict()) == {"log_alpha"}


@pytest.mark.parametrize("name", ["linear", "conv", "gaussian"])
def test_compiles_as_one_graph(name):
    torch._dynamo.reset()
    layer, shape = LAYERS[name] if name in LAYERS else (GAUSSIAN["learned"], (4, 5))
    layer = layer()
    x = torch.randn(shape, dtype=torch.float64)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    compiled(x).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    layer.eval()
    torch.testing.assert_close(compiled(x), layer(x))


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 16), BatchNorm1d(16), nn.Dropout(0.5), nn.Linear(16, 16), Dropout(0.2),
        DropPath(0.1), v.GaussianDropout(0.1), v.VariationalDropoutLinear(16, 3),
    )  # fmt: skip


def test_mc_dropout_turns_on_what_draws_and_restores_every_mode_exactly():
    model = network()
    model.eval()
    model[1].train()  # a mixture of modes
    model[4].train()
    before = [m.training for m in model.modules()]
    draws = {2, 4, 5, 6, 7}
    with v.mc_dropout(model) as same:
        assert same is model
        assert [m.training for m in model] == [i in draws for i in range(8)]
    assert [m.training for m in model.modules()] == before
    with v.mc_dropout(model, (nn.Dropout,)):
        assert [m.training for m in model] == [i in {2, 4} for i in range(8)]
    with pytest.raises(RuntimeError, match="inside"), v.mc_dropout(model):
        raise RuntimeError("inside")
    assert [m.training for m in model.modules()] == before
    with pytest.raises(ValueError, match="no layer that draws"), v.mc_dropout(nn.Linear(2, 2)):
        pass


def test_monte_carlo_leaves_the_model_as_it_was_and_records_no_graph_unless_told():
    model = network()
    state = {name: t.clone() for name, t in model.state_dict().items()}
    x = torch.randn(6, 4)
    y = v.monte_carlo(model, x, 7, chunk=3)
    assert y.shape == (7, 6, 3)
    assert not y.requires_grad
    assert v.monte_carlo(model, x, 2, grad=True).requires_grad
    assert all(m.training for m in model.modules())
    for name, t in model.state_dict().items():
        assert torch.equal(t, state[name]), name
    for samples, chunk in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match="at least 1"):
            v.monte_carlo(model, x, samples, chunk=chunk)


def test_chunks_have_the_moments_of_single_passes_and_keep_examples_apart():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 2))
    x = torch.randn(3, 4)
    torch.manual_seed(0)
    one, many = (v.monte_carlo(model, x, 4000, chunk=chunk) for chunk in (50, 2000))
    # 5 standard errors of a difference of means; of deviations, as in the test above
    std = one.std(0)
    assert ((one.mean(0) - many.mean(0)).abs() < 5 * std * math.sqrt(2 / 4000)).all()
    assert ((one.std(0) / many.std(0)).log().abs() < 5 * math.sqrt(1 / 4000)).all()
    # the closed form: the mean is that of evaluation, the variance Σ w² x² p / (1 - p)
    model.eval()
    exact = (model[1].weight.square() @ x.square().T).T.sqrt()
    assert ((many.mean(0) - model(x)).abs() < 5 * std / math.sqrt(4000)).all()
    assert ((many.std(0) / exact).log().abs() < 5 * math.sqrt(1 / 4000)).all()


@pytest.mark.parametrize("layer", ["transformer", "lstm", "attention"])
def test_dropout_inside_of_torchs_layers_draws_too(layer):
    class Attention(nn.MultiheadAttention):
        def forward(self, x):
            return super().forward(x, x, x)[0]

    class LSTM(nn.LSTM):
        def forward(self, x):
            return super().forward(x)[0]

    model = {
        "transformer": lambda: nn.TransformerEncoderLayer(8, 2, 16, 0.5, batch_first=True),
        "lstm": lambda: LSTM(8, 8, 2, dropout=0.5, batch_first=True),
        "attention": lambda: Attention(8, 2, 0.5, batch_first=True),
    }[layer]().eval()
    y = v.monte_carlo(model, torch.randn(2, 3, 8), 8)
    assert (y.var(0).amax((1, 2)) > 0).all()


def test_regression_moments():
    y = torch.randn(10, 4, 2)
    mean, variance = v.regression(y, noise=0.25)
    torch.testing.assert_close(mean, y.mean(0))
    torch.testing.assert_close(variance, (y * y).mean(0) - y.mean(0) ** 2 + 0.25)
    assert v.regression(y.bfloat16()).mean.dtype == torch.float32


def test_entropy_splits_into_noise_and_disagreement():
    sure, other, unsure = [50.0, -50, -50], [-50.0, 50, -50], [0.0, 0, 0]
    # examples: draws agree and are sure, draws agree to be unsure, sure draws disagree
    logits = torch.tensor([[sure, unsure, sure], [sure, unsure, other]])
    result = v.classification(logits)
    expected = torch.tensor([0, math.log(3), math.log(2)])
    torch.testing.assert_close(result.entropy, expected)
    torch.testing.assert_close(result.mutual_information, torch.tensor([0, 0, math.log(2)]))
    torch.testing.assert_close(result.mean[2], torch.tensor([0.5, 0.5, 0]))
    torch.testing.assert_close(result.variance[2], torch.tensor([0.25, 0.25, 0]))
    moved = v.classification(logits.movedim(2, 1), dim=0)
    torch.testing.assert_close(moved.entropy, expected)
    torch.testing.assert_close(v.classification(logits, dim=-1).entropy, expected)


def test_mutual_information_is_the_mean_divergence_from_the_mean():
    torch.manual_seed(0)
    logits = torch.randn(20, 5, 4, 3, dtype=torch.float64)
    p = torch.softmax(logits, 2)
    mean = p.mean(0)
    divergence = (p * (p / mean).log()).sum(2).mean(0)  # I = 1/T Σ KL(p_t || p̄)
    torch.testing.assert_close(v.classification(logits).mutual_information, divergence)
    same = v.classification(logits[:1].expand(8, 5, 4, 3)).mutual_information
    assert (same >= 0).all()
    masked = v.classification(torch.tensor([[[0.0, -math.inf]], [[0.0, 1.0]]]))
    assert masked.entropy.isfinite().all()
