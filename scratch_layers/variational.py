"""Dropout as inference: uncertainty from dropout at test time, and dropout whose rate is learned.

    Y. Gal, Z. Ghahramani, "Dropout as a Bayesian Approximation: Representing Model Uncertainty in
    Deep Learning", 2016, arXiv:1506.02142.
    N. Houlsby, F. Huszár, Z. Ghahramani, M. Lengyel, "Bayesian Active Learning for Classification
    and Preference Learning", 2011, arXiv:1112.5745: the mutual information (BALD).
    D. Kingma, T. Salimans, M. Welling, "Variational Dropout and the Local Reparameterization
    Trick", 2015, arXiv:1506.02557.
    D. Molchanov, A. Ashukha, D. Vetrov, "Variational Dropout Sparsifies Deep Neural Networks",
    2017, arXiv:1701.05369.

**Monte-Carlo dropout.** A network with dropout left on is a draw w ~ q(w) of its weights. Over T
passes y_t = f(x; w_t), the prediction and its variance are (Gal and Ghahramani, equations 6, 8)

    E[y] ≈ 1/T Σ y_t         Var[y] ≈ 1/τ + 1/T Σ y_t² - E[y]²           1/τ: noise of the data

For classes, with p_t = softmax(y_t) and p̄ = 1/T Σ p_t, uncertainty splits in two:

    H[p̄]  =  1/T Σ H[p_t]  +  I                                         H[p] = -Σ_c p_c log p_c

the first part is noise of the data, which every draw of the network sees; I, the mutual information
between prediction and weights, is disagreement of the draws, which more data would settle.

**Gaussian dropout.** Multiply by noise of mean 1 and the variance of dropout's a k,

    y = x (1 + sqrt(α) ε),    ε ~ N(0, 1),    α = p / (1 - p)

The draw ε does not depend on α, so the derivative passes through it, and the rate can be learned:

    ∂y/∂x = 1 + sqrt(α) ε         ∂y/∂(log α) = 1/2 x sqrt(α) ε

**A posterior for each weight.** q(w) = N(θ, σ²) with σ² = α θ²: the noise 1 + sqrt(α) ε on θ. Learn
θ and log σ² by maximizing the evidence lower bound, for N examples of which a batch holds M:

    loss = -1/M Σ log p(y_m | x_m, w)  +  1/N KL(q(w) || p(w))

Learning log σ² in place of α is *additive* noise (Molchanov et al., section 4): in
w = θ (1 + sqrt(α) ε) the derivative ∂w/∂θ = 1 + sqrt(α) ε is the noisier the larger α is, in
w = θ + σ ε it is ∂w/∂θ = 1, and large α become reachable.

**Local reparameterization** (Kingma et al., section 2). A sum b = Σ_i x_i w_i of independent
normal weights is itself normal, so draw it and not the weights:

    γ = Σ x_i θ_i          δ = Σ x_i² σ_i²          b = γ + sqrt(δ) ε,    ε ~ N(0, 1)

One draw for each output and example, where one draw of the weights would be shared by a batch: that
leaves the covariance of the examples' gradients zero, so their noise averages out as 1/M. Backward:

    ∂θ_i = x_i ∂b        ∂(log σ_i²) = x_i² σ_i² ε / (2 sqrt(δ)) ∂b

**KL.** For the prior under which log|w| is uniform, KL depends on α alone (Kingma, appendix C):

    KL(α) = -1/2 log α + E_{ε ~ N(0, 1)} log|1 + sqrt(α) ε| - C

As α grows the second term tends to 1/2 log α + E log|ε|, and E log|ε| = -(γ_E + log 2) / 2 with
Euler's γ_E; so with C = -(γ_E + log 2) / 2 the KL falls to 0: a weight that is noise alone costs
nothing. There is no elementary closed form. Approximations: :func:`kl_log_uniform` (Molchanov) for
all α, :func:`kl_polynomial` (Kingma) for α ≤ 1. What the data do not hold is driven to large α, and
a weight whose log α passes 3 (that is, p > 0.95) is left out in evaluation: sparsity.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter

from scratch_layers.dropout import DropPath
from scratch_layers.dtypes import accumulate_dtype

__all__ = [
    "STOCHASTIC",
    "GaussianDropout",
    "VariationalDropoutConv2d",
    "VariationalDropoutLinear",
    "classification",
    "kl_divergence",
    "kl_log_uniform",
    "kl_polynomial",
    "mc_dropout",
    "monte_carlo",
    "regression",
    "sparsity",
]


def kl_log_uniform(log_alpha: Tensor) -> Tensor:
    """KL(α) of a weight from the log-uniform prior, for all α (Molchanov et al., equation 14).

        -KL ≈ k1 σ(k2 + k3 log α) - 1/2 log(1 + 1/α) - k1

    With 1 - σ(z) = exp(-log(1 + e^z)), and log(1 + e^z) = logaddexp(z, 0) which does not overflow:

        KL ≈ k1 exp(-logaddexp(k2 + k3 log α, 0)) + 1/2 logaddexp(-log α, 0)

    Within 0.009 of the exact value (their figure 1). Elementwise, shape and dtype of ``log_alpha``.
    """
    k1, k2, k3 = 0.63576, 1.87320, 1.48695
    zero = log_alpha.new_zeros(())
    inverse = torch.logaddexp(-log_alpha, zero)  # log(1 + 1/α)
    return k1 * torch.exp(-torch.logaddexp(k2 + k3 * log_alpha, zero)) + 0.5 * inverse


def kl_polynomial(log_alpha: Tensor) -> Tensor:
    """KL(α) for α ≤ 1, (Kingma et al., appendix C): a polynomial of third degree.

        -KL ≈ 1/2 log α + c1 α + c2 α² + c3 α³ + C

    C as in the docstring of the module, so that values compare with :func:`kl_log_uniform`. Within
    0.041 of the exact value there (by quadrature), while for α > 1 the cubic term takes over and it
    means nothing. Elementwise.
    """
    c1, c2, c3 = 1.16145124, -1.50204118, 0.58629921
    alpha = log_alpha.exp()
    constant = -0.5 * (0.5772156649015329 + math.log(2))
    return -(0.5 * log_alpha + alpha * (c1 + alpha * (c2 + alpha * c3)) + constant)


class GaussianDropout(nn.Module):
    """In training, y = x (1 + sqrt(α) ε): dropout's mean and variance, as normal noise.

    Args:
        p: the rate of the dropout whose variance α = p / (1 - p) the noise has, in [0, 1).
        learned: learn ``log_alpha``, starting from p. Add :func:`kl_divergence` to the loss.
        shape: of ``log_alpha``, broadcast against the input: () for one rate, (C,) for one for each
            last feature, (C, 1, 1) for one for each channel of (N, C, H, W).

    Shape: any to the same. Dtypes: floating point; float16 and bfloat16 are computed in float32.

    Raises:
        ValueError: p outside of [0, 1) or nan, p = 0 for a rate to be learned.

    Source: Srivastava et al. 2014, section 10; Kingma et al. 2015, section 3 (noise on the input
    of a layer, drawn once for all its outputs). The KL is one term for each rate: a rate
    that n features share has n times that. Kingma et al. hold α ≤ 1, where their polynomial is
    valid; here the KL is that for all α, and α is free.
    """

    log_alpha: Tensor

    def __init__(
        self,
        p: float = 0.5,
        learned: bool = False,
        shape: tuple[int, ...] = (),
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"p has to be in [0, 1), as alpha = p / (1 - p), but got {p}")
        if learned and p == 0:
            raise ValueError("a rate learned from p=0 stays there: begin with a small p > 0")
        start = math.log(p / (1 - p)) if p > 0 else -math.inf
        log_alpha = torch.full(shape, start, device=device, dtype=dtype)
        self.learned = learned
        if learned:
            self.log_alpha = Parameter(log_alpha)
        else:
            self.register_buffer("log_alpha", log_alpha)

    def extra_repr(self) -> str:
        """The kind of rate; its value is in ``log_alpha``."""
        return f"learned={self.learned}, shape={tuple(self.log_alpha.shape)}"

    def forward(self, input: Tensor) -> Tensor:
        """See the class."""
        if not self.training:
            return input
        dtype = accumulate_dtype(input)
        sqrt_alpha = torch.exp(0.5 * self.log_alpha.to(dtype))
        return (input * (1 + sqrt_alpha * torch.randn_like(input, dtype=dtype))).to(input.dtype)


class _VariationalDropout(nn.Module):
    """What the layers with a posterior N(θ, σ²) for each weight share; θ is ``weight``."""

    weight: Tensor
    log_sigma2: Parameter
    threshold: float

    def _begin(self, threshold: float) -> None:
        self.log_sigma2 = Parameter(torch.full_like(self.weight, -10.0))
        self.threshold = threshold

    @property
    def log_alpha(self) -> Tensor:
        """log α = log σ² - log θ², of the shape of the weight; large where θ is zero."""
        tiny = torch.finfo(self.weight.dtype).tiny
        return self.log_sigma2 - 2 * self.weight.abs().clamp_min(tiny).log()

    @property
    def kept(self) -> Tensor:
        """Which weights evaluation uses: those with log α below the threshold (bool)."""
        return self.log_alpha < self.threshold

    def _sum(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Σ x_i w_i + b, the linear map of the layer."""
        raise NotImplementedError

    def forward(self, input: Tensor) -> Tensor:
        """A draw by local reparameterization; in evaluation, the mean of what is kept."""
        bias: Any = self.bias
        if not self.training:
            return self._sum(input, self.weight * self.kept, bias)
        gamma = self._sum(input, self.weight, bias)
        delta = self._sum(input * input, self.log_sigma2.exp(), None)
        # at zero (an input of zeros) the root has no derivative: there is no noise to pass it to
        sqrt_delta = delta.clamp_min(torch.finfo(delta.dtype).tiny).sqrt()
        return gamma + sqrt_delta * torch.randn_like(gamma)


class VariationalDropoutLinear(_VariationalDropout, nn.Linear):
    """A linear layer with a posterior N(θ, σ²) for each weight, which it learns to leave out.

    ``weight`` is θ, of shape (out, in), and ``log_sigma2`` log σ², -10 at the start; the bias is a
    number. Loss: the mean over the batch plus ``kl_divergence(model) / N`` for N examples; in the
    first epochs multiply the latter by a factor that rises from 0 to 1, else all weights may be
    dropped before any has learned something (Molchanov et al., "warm-up").

    Args:
        in_features: size of an input.
        out_features: size of an output.
        bias: learn a bias.
        device: where the parameters live.
        dtype: their dtype.
        threshold: evaluation leaves out weights of log α from here on.

    Shape: (*, in) to (*, out).

    Source: Molchanov et al. 2017, equations in the docstring of the module.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        threshold: float = 3.0,
    ) -> None:
        nn.Linear.__init__(self, in_features, out_features, bias, device, dtype)
        self._begin(threshold)

    def _sum(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)


class VariationalDropoutConv2d(_VariationalDropout, nn.Conv2d):
    """The same for a convolution; arguments and shapes are those of ``torch.nn.Conv2d``.

    The outputs at different places share weights and are therefore correlated, which local
    reparameterization, one ε for each, leaves out of account; mean and variance are exact
    (Molchanov et al., section 4).
    """

    def __init__(self, *args: Any, threshold: float = 3.0, **options: Any) -> None:
        nn.Conv2d.__init__(self, *args, **options)
        self._begin(threshold)

    def _sum(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return self._conv_forward(x, weight, bias)


def kl_divergence(model: nn.Module) -> Tensor:
    """Σ KL(α) over all weights and learned rates of a model, 0-dim; divide by the examples N.

    Source: :func:`kl_log_uniform`. Zero for a model that has none.
    """
    terms = [
        kl_log_uniform(module.log_alpha).sum()
        for module in model.modules()
        if isinstance(module, _VariationalDropout)
        or (isinstance(module, GaussianDropout) and module.learned)
    ]
    return torch.stack(terms).sum() if terms else torch.zeros(())


@torch.no_grad()
def sparsity(model: nn.Module) -> float:
    """The share of weights that evaluation leaves out, of those with a posterior of their own.

    Raises:
        ValueError: no layer of the model has such weights.
    """
    layers = [module for module in model.modules() if isinstance(module, _VariationalDropout)]
    if not layers:
        raise ValueError(f"no layer of {type(model).__name__} has a posterior for each weight")
    kept = sum(int(layer.kept.sum()) for layer in layers)
    return 1 - kept / sum(layer.weight.numel() for layer in layers)


STOCHASTIC: tuple[type[nn.Module], ...] = (
    nn.modules.dropout._DropoutNd,
    DropPath,
    GaussianDropout,
    _VariationalDropout,
    nn.RNNBase,
    nn.MultiheadAttention,
    nn.TransformerEncoderLayer,
)
"""Layers of which training mode means no more than that they draw.

Every dropout of torch and of this library, and torch's layers that do dropout inside themselves. An
encoder layer of a transformer is one for its fast path in evaluation, which passes over its own
dropout layers whatever their mode.
"""


@contextmanager
def mc_dropout(
    model: nn.Module, kinds: tuple[type[nn.Module], ...] = STOCHASTIC
) -> Iterator[nn.Module]:
    """Put the layers that draw into training mode and all others into evaluation, for a while.

    Batch normalization thus uses its running statistics and does not move them. Afterwards every
    module is in the mode in which it was.

    Args:
        model: of any mode.
        kinds: which layers draw; ``(nn.Dropout,)`` for those alone, ``(*STOCHASTIC, Other)`` to
            add a class of another library.

    Raises:
        ValueError: the model has no such layer, so that all its predictions would be equal.
    """
    modes = {module: module.training for module in model.modules()}
    if not any(isinstance(module, kinds) for module in modes):
        names = ", ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{type(model).__name__} has no layer that draws: none of {names}")
    try:
        for module in modes:
            module.training = isinstance(module, kinds)
        yield model
    finally:
        for module, training in modes.items():
            module.training = training


def monte_carlo(
    model: nn.Module,
    x: Tensor,
    samples: int = 32,
    *,
    chunk: int = 1,
    kinds: tuple[type[nn.Module], ...] = STOCHASTIC,
    grad: bool = False,
) -> Tensor:
    """T outputs of a model for x, (T, N, *), each for a draw of its dropout.

        prediction = classification(monte_carlo(model, x, samples=50))

    Args:
        model: takes (N, *) and returns (N, *); any mode, which is restored.
        x: (N, *).
        samples: T.
        chunk: so many draws in one pass, as a batch of chunk * N: fewer, larger passes. The draws
            of a chunk are independent where a layer draws for each example (not so
            ``DropPath(mode="batch")``, nor dropout of what the examples share).
        kinds: which layers draw, see :func:`mc_dropout`.
        grad: record the passes for a backward.

    Raises:
        ValueError: no layer draws; samples or chunk below 1.

    Source: Gal and Ghahramani 2016.
    """
    if samples < 1 or chunk < 1:
        raise ValueError(f"samples={samples} and chunk={chunk} have to be at least 1")
    outputs = []
    with mc_dropout(model, kinds), torch.set_grad_enabled(grad):
        for done in range(0, samples, chunk):
            draws = min(chunk, samples - done)
            y = model(x.expand(draws, *x.shape).flatten(0, 1))
            outputs.append(y.unflatten(0, (draws, x.shape[0])))
    return torch.cat(outputs)


class Regression(NamedTuple):
    """What T draws say of a number, each (N, *)."""

    mean: Tensor
    variance: Tensor


class Classification(NamedTuple):
    """What T draws say of a class: ``mean`` and ``variance`` of the probabilities, (N, C, *).

    ``entropy`` H[p̄] and ``mutual_information`` I of each example, (N, *), in nats.
    """

    mean: Tensor
    variance: Tensor
    entropy: Tensor
    mutual_information: Tensor


def regression(outputs: Tensor, noise: float = 0.0) -> Regression:
    """E[y] and Var[y] from outputs (T, N, *); float16 and bfloat16 are summed in float32.

    Args:
        outputs: of :func:`monte_carlo`.
        noise: 1/τ, the variance of the data around the network; for weight decay λ (per example,
            with N of them), length-scale l and dropout p it is 2 N λ / ((1 - p) l²) (section 4).
    """
    y = outputs.to(accumulate_dtype(outputs))
    return Regression(y.mean(0), y.var(0, correction=0) + noise)


def classification(logits: Tensor, dim: int = 1) -> Classification:
    """p̄, its variance, H[p̄] and I = H[p̄] - 1/T Σ H[p_t], from logits (T, N, C, *).

    Args:
        logits: of :func:`monte_carlo`.
        dim: of the classes in one output (N, C, *); -1 for the last.
    """
    z = logits.to(accumulate_dtype(logits))
    dim = dim if dim < 0 else dim + 1
    p = (z - z.logsumexp(dim, keepdim=True)).exp()
    mean = p.mean(0)
    in_output = dim if dim < 0 else dim - 1
    # entr(p) = -p log p, and 0 at p = 0
    entropy = torch.special.entr(mean).sum(in_output)
    of_data = torch.special.entr(p).sum(dim).mean(0)
    # not negative (Jensen) but for rounding
    information = (entropy - of_data).clamp_min(0)
    return Classification(mean, p.var(0, correction=0), entropy, information)
