"""Losses that compare an input and a target value by value.

Most look at the difference r = x - t alone: ∂l/∂x = l'(r), ∂l/∂t = -l'(r).

    squared      l = r²                                              l' = 2r
    absolute     l = |r|                                             l' = sign(r)
    smooth L1    l = r²/2β where |r| < β, else |r| - β/2             l' = r/β cut off at ±1
    Huber        l = r²/2  where |r| ≤ δ, else δ(|r| - δ/2)          l' = r cut off at ±δ

    P. Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical Statistics 35,
    1964.
    R. Girshick, "Fast R-CNN", 2015, arXiv:1504.08083, equation 3: smooth L1.

The others are negative logarithms of a probability, l = -log P(t | x).

    binary       l = -t log x - (1 - t) log(1 - x)                   ∂l/∂x = (x - t) / (x (1 - x))
    of logits    the same of σ(x):                                   ∂l/∂x = σ(x) - t
                 l = t s⁻ + (1 - t) s⁺,    s± = log(1 + exp(±x)) = max(±x, 0) + log(1 + exp(-|x|))
    Poisson      l = exp(x) - t x  (+ log t!)                        ∂l/∂x = exp(x) - t
    Gaussian     l = 1/2 (log v + r²/v)  (+ 1/2 log 2π), r = x - t   ∂l/∂x = r/v
                                                                     ∂l/∂v = 1/2 (1/v - r²/v²)
    Kullback-Leibler divergence, of log-probabilities x
                 l = t (log t - x)                                   ∂l/∂x = -t

The form with s± has only positive terms, and so has its derivative, (1 - t) σ(x) - t σ(-x). Shorter
forms, such as max(x, 0) - x t + log(1 + exp(-|x|)), subtract numbers of the size of x: where the
prediction is confident and right, nothing but rounding is left of the loss.

How such a loss becomes a node of the graph is in :mod:`scratch_layers.criterion`.
"""

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from scratch_layers.criterion import (
    Loss,
    _Loss,
    _WeightedLoss,
    can_look_at,
    check_reduction,
    legacy_reduction,
    pointwise,
    reduce_by,
    warn,
    warn_of_broadcasting,
)
from scratch_layers.dtypes import kind_of, out_of_autocast

__all__ = [
    "BCELoss",
    "BCEWithLogitsLoss",
    "GaussianNLLLoss",
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "MSELoss",
    "PoissonNLLLoss",
    "SmoothL1Loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "gaussian_nll_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "mse_loss",
    "poisson_nll_loss",
    "smooth_l1_loss",
]


# Losses of the difference


class OfDifference(Loss):
    """l of r = x - t: a subclass writes ``of(r, *numbers)`` and its derivative ``slope``."""

    of: ClassVar[Callable[..., Tensor]]
    slope: ClassVar[Callable[..., Tensor]]

    @classmethod
    def f(cls, x: Tensor, t: Tensor, *numbers: float) -> Tensor:
        """l(x - t)."""
        return cls.of(x - t, *numbers)

    @classmethod
    def by_input(cls, x: Tensor, t: Tensor, *numbers: float) -> Tensor:
        """l'(x - t)."""
        return cls.slope(x - t, *numbers)

    @classmethod
    def by_target(cls, x: Tensor, t: Tensor, *numbers: float) -> Tensor:
        """-l'(x - t)."""
        return -cls.slope(x - t, *numbers)


class Squared(OfDifference):
    """r²."""

    @staticmethod
    def of(r: Tensor) -> Tensor:
        return r * r

    @staticmethod
    def slope(r: Tensor) -> Tensor:
        return 2 * r


class Absolute(OfDifference):
    """|r|; the slope at zero is zero."""

    piecewise_linear = True
    slope_dtype = torch.int8

    @staticmethod
    def of(r: Tensor) -> Tensor:
        return r.abs()

    @staticmethod
    def slope(r: Tensor) -> Tensor:
        return r.sign()


class SmoothL1(OfDifference):
    """r²/2β where |r| < β, else |r| - β/2; β > 0."""

    @staticmethod
    def of(r: Tensor, beta: float) -> Tensor:
        size = r.abs()
        return torch.where(size < beta, (0.5 / beta) * size * size, size - 0.5 * beta)

    @staticmethod
    def slope(r: Tensor, beta: float) -> Tensor:
        return (r / beta).clamp(-1, 1)


class Huber(OfDifference):
    """r²/2 where |r| ≤ δ, else δ (|r| - δ/2)."""

    @staticmethod
    def of(r: Tensor, delta: float) -> Tensor:
        size = r.abs()
        return torch.where(size <= delta, 0.5 * size * size, delta * (size - 0.5 * delta))

    @staticmethod
    def slope(r: Tensor, delta: float) -> Tensor:
        return r.clamp(-delta, delta)


def _weighted(
    formula: type[Loss],
    reduction: str,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    numbers: tuple[Any, ...] = (),
    mean_of_weights: bool = True,
) -> Tensor:
    """The loss, each value times its weight; "mean" divides by Σ weights, if mean_of_weights."""
    if weight is None:
        reduction = check_reduction(None, None, reduction)
        return pointwise(formula, reduction, input, target, numbers=numbers)
    if weight.size() != input.size():
        raise ValueError("Weights and input must have the same size.")
    invalid = f"Invalid reduction mode: {reduction}. Expected one of 'none', 'mean', 'sum'."
    reduction = check_reduction(None, None, reduction, invalid)
    l = weight * pointwise(formula, "none", input, target, numbers=numbers)  # noqa: E741
    return reduce_by(reduction, l, weight.sum() if mean_of_weights else l.numel())


def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """(x - t)², see :class:`MSELoss`; with weights w of the same size, w (x - t)² and 1/Σw."""
    warn_of_broadcasting(input, target)
    reduction = legacy_reduction(size_average, reduce, reduction)
    input, target, weight = out_of_autocast(input, target, weight)
    return _weighted(Squared, reduction, input, target, weight)


def l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """|x - t|, see :class:`L1Loss`; with weights w of the same size, w |x - t| and 1/Σw."""
    warn_of_broadcasting(input, target)
    reduction = legacy_reduction(size_average, reduce, reduction)
    input, target, weight = out_of_autocast(input, target, weight)
    return _weighted(Absolute, reduction, input, target, weight)


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """Quadratic below β, linear above, see :class:`SmoothL1Loss`."""
    warn_of_broadcasting(input, target)
    reduction = check_reduction(size_average, reduce, reduction)
    if beta < 0:
        raise RuntimeError("smooth_l1_loss does not support negative values for beta.")
    input, target = out_of_autocast(input, target)
    if beta == 0:
        return pointwise(Absolute, reduction, input, target)
    return pointwise(SmoothL1, reduction, input, target, numbers=(beta,))


def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """Quadratic up to δ, linear above, see :class:`HuberLoss`; w of the same size multiply it."""
    warn_of_broadcasting(input, target)
    if delta <= 0:
        raise RuntimeError("huber_loss does not support non-positive values for delta.")
    input, target, weight = out_of_autocast(input, target, weight)
    y = _weighted(Huber, reduction, input, target, weight, (delta,), mean_of_weights=False)
    return y.to(input.dtype) if weight is None else y


class MSELoss(_Loss, nn.MSELoss):
    """Squared error: l = (x - t)².

    Args:
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``"mean"`` (over all values), ``"sum"`` or ``"none"``.

    Shape: input (*) and target (*) to a scalar, or (*) for ``"none"``. Other sizes are broadcast,
    with a warning.

    Dtypes: floating point; an integer target is promoted. float16 and bfloat16 are computed in
    float32 and rounded once, and so under autocast, where the result is float32.

    Raises:
        ValueError: an unknown reduction.
        NotImplementedError: integer input and target.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return mse_loss(input, target, reduction=self.reduction)


class L1Loss(_Loss, nn.L1Loss):
    """Absolute error: l = |x - t|; otherwise as :class:`MSELoss`.

    Differs from torch: floating point only.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return l1_loss(input, target, reduction=self.reduction)


class SmoothL1Loss(_Loss, nn.SmoothL1Loss):
    """Smooth L1: l = r²/2β where |r| < β, else |r| - β/2, with r = x - t.

    Args:
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``"mean"`` (over all values), ``"sum"`` or ``"none"``.
        beta: where the square ends and the line begins, in the unit of x; 0 gives |r|.

    Shape and dtypes as for :class:`MSELoss`.

    Raises:
        RuntimeError: β < 0.

    Source: Girshick 2015, arXiv:1504.08083, equation 3.
    """

    def __init__(
        self,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        beta: float = 1.0,
    ) -> None:
        _Loss.__init__(self, size_average, reduce, reduction)
        self.beta = beta

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return smooth_l1_loss(input, target, reduction=self.reduction, beta=self.beta)


class HuberLoss(_Loss, nn.HuberLoss):
    """Huber's loss: l = r²/2 where |r| ≤ δ, else δ (|r| - δ/2), with r = x - t.

    Args:
        reduction: ``"mean"`` (over all values), ``"sum"`` or ``"none"``.
        delta: where the square ends and the line begins, in the unit of x.

    Shape and dtypes as for :class:`MSELoss`.

    Raises:
        TypeError: δ is no number.
        RuntimeError: δ ≤ 0.

    Source: Huber 1964.
    """

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        if not isinstance(delta, (float, int)):
            raise TypeError(f"delta must be a float or int, got: {type(delta)}")
        _Loss.__init__(self, None, None, reduction)
        self.delta = delta

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return huber_loss(input, target, reduction=self.reduction, delta=self.delta)


# Negative logarithms of probabilities


class BinaryCrossEntropy(Loss):
    """-t log x - (1 - t) log(1 - x), the logarithms no less than -100."""

    @staticmethod
    def f(x: Tensor, t: Tensor) -> Tensor:
        return (t - 1) * torch.log1p(-x).clamp(min=-100) - t * x.log().clamp(min=-100)

    @staticmethod
    def by_input(x: Tensor, t: Tensor) -> Tensor:
        return (x - t) / ((1 - x) * x).clamp(min=1e-12)

    @staticmethod
    def by_target(x: Tensor, t: Tensor) -> Tensor:
        return torch.log1p(-x).clamp(min=-100) - x.log().clamp(min=-100)


class OfLogits(Loss):
    """π t s⁻ + (1 - t) s⁺, with s± = log(1 + exp(±x)); π, the weight of t = 1, may be left out."""

    @staticmethod
    def softplus(x: Tensor) -> tuple[Tensor, Tensor]:
        """s⁺ and s⁻, of exp(-|x|), which cannot overflow."""
        positive, a = magnitude(x)
        log_1_e = torch.log1p(torch.exp(-a))
        return torch.where(positive, a, 0) + log_1_e, torch.where(positive, 0, a) + log_1_e

    @staticmethod
    def sigmoid(x: Tensor) -> tuple[Tensor, Tensor]:
        """σ(x) = ∂s⁺/∂x and σ(-x) = -∂s⁻/∂x, neither as 1 less the other."""
        positive, a = magnitude(x)
        e = torch.exp(-a)
        large = 1 / (1 + e)
        small = e * large
        return torch.where(positive, large, small), torch.where(positive, small, large)

    @classmethod
    def f(cls, x: Tensor, t: Tensor, pi: Tensor | None = None) -> Tensor:
        s_plus, s_minus = cls.softplus(x)
        return (t if pi is None else pi * t) * s_minus + (1 - t) * s_plus

    @classmethod
    def by_input(cls, x: Tensor, t: Tensor, pi: Tensor | None = None) -> Tensor:
        p, one_minus_p = cls.sigmoid(x)
        return (1 - t) * p - (t if pi is None else pi * t) * one_minus_p

    @classmethod
    def by_target(cls, x: Tensor, t: Tensor, pi: Tensor | None = None) -> Tensor:
        if pi is None:  # s⁻ - s⁺ = -x
            return -x
        s_plus, s_minus = cls.softplus(x)
        return pi * s_minus - s_plus

    @classmethod
    def by_third(cls, x: Tensor, t: Tensor, pi: Tensor) -> Tensor:
        return t * cls.softplus(x)[1]


def magnitude(x: Tensor) -> tuple[Tensor, Tensor]:
    """Where x ≥ 0, and |x| with the derivative 1 at zero (`abs` has 0, wrong for s± and σ)."""
    positive = x >= 0
    return positive, torch.where(positive, x, -x)


class Poisson(Loss):
    """exp(x) - t x, or of the rate itself, x - t log(x + ε); with or without log t!.

    log t! by Stirling's formula, t log t - t + 1/2 log(2π t), where t > 1, else 0.
    """

    @staticmethod
    def f(x: Tensor, t: Tensor, log_input: bool, full: bool, eps: float) -> Tensor:
        y = torch.exp(x) - t * x if log_input else x - t * torch.log(x + eps)
        if full:
            stirling = t * t.log() - t + 0.5 * torch.log(2 * math.pi * t)
            y = y + torch.where(t > 1, stirling, 0)
        return y

    @staticmethod
    def by_input(x: Tensor, t: Tensor, log_input: bool, full: bool, eps: float) -> Tensor:
        return torch.exp(x) - t if log_input else 1 - t / (x + eps)

    @staticmethod
    def by_target(x: Tensor, t: Tensor, log_input: bool, full: bool, eps: float) -> Tensor:
        slope = -x if log_input else -torch.log(x + eps)
        if full:
            above = torch.where(t > 1, t, 1)
            slope = slope + torch.where(t > 1, above.log() + 0.5 / above, 0)
        return slope


class Gaussian(Loss):
    """1/2 (log v + r²/v) of r and v, with or without 1/2 log 2π; v is no less than ε.

    As in torch, a variance below ε has the derivative at ε, so that it can grow again.
    """

    @staticmethod
    def f(r: Tensor, v: Tensor, full: bool, eps: float) -> Tensor:
        v = v.clamp(min=eps)
        y = 0.5 * (v.log() + r * r / v)
        return y + 0.5 * math.log(2 * math.pi) if full else y

    @staticmethod
    def by_input(r: Tensor, v: Tensor, full: bool, eps: float) -> Tensor:
        return r / v.clamp(min=eps)

    @staticmethod
    def by_target(r: Tensor, v: Tensor, full: bool, eps: float) -> Tensor:
        v = v.clamp(min=eps)
        z = r / v
        return 0.5 * (1 / v - z * z)


class KullbackLeibler(Loss):
    """t (log t - x), with 0 log 0 = 0."""

    @staticmethod
    def f(x: Tensor, t: Tensor) -> Tensor:
        return torch.where(t == 0, 0, t * t.log()) - t * x

    @staticmethod
    def by_input(x: Tensor, t: Tensor) -> Tensor:
        return -t

    @staticmethod
    def by_target(x: Tensor, t: Tensor) -> Tensor:
        return t.log() + 1 - x


class KullbackLeiblerOfLogs(Loss):
    """exp(t) (t - x): the target is given as log-probabilities too."""

    @staticmethod
    def f(x: Tensor, t: Tensor) -> Tensor:
        return t.exp() * (t - x)

    @staticmethod
    def by_input(x: Tensor, t: Tensor) -> Tensor:
        return -t.exp()

    @staticmethod
    def by_target(x: Tensor, t: Tensor) -> Tensor:
        return t.exp() * (t - x + 1)


def _times_weight(
    formula: type[Loss], reduction: str, tensors: tuple[Tensor, ...], weight: Tensor | None
) -> Tensor:
    """The loss, each value times a weight that is broadcast; "mean" divides by their number."""
    if weight is None:
        return pointwise(formula, reduction, *tensors)
    l = pointwise(formula, "none", *tensors)  # noqa: E741
    weighted = (l * weight).to(l.dtype)
    if weighted.shape != l.shape:
        raise RuntimeError(
            f"output with shape {list(l.shape)} doesn't match the broadcast shape "
            f"{list(weighted.shape)}"
        )
    return reduce_by(reduction, weighted, weighted.numel())


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """-t log x - (1 - t) log(1 - x), see :class:`BCELoss`."""
    reduction = check_reduction(size_average, reduce, reduction)
    if target.size() != input.size():
        raise ValueError(
            f"Using a target size ({target.size()}) that is different to the input size "
            f"({input.size()}) is deprecated. Please ensure they have the same size."
        )
    if input.is_cuda and torch.is_autocast_enabled("cuda"):
        raise RuntimeError(
            "torch.nn.functional.binary_cross_entropy and torch.nn.BCELoss are unsafe to autocast."
            "\nMany models use a sigmoid layer right before the binary cross entropy layer."
            "\nIn this case, combine the two layers using "
            "torch.nn.functional.binary_cross_entropy_with_logits\nor torch.nn.BCEWithLogitsLoss.  "
            "binary_cross_entropy_with_logits and BCEWithLogits are\nsafe to autocast."
        )
    input, target, weight = out_of_autocast(input, target, weight)
    if input.is_floating_point() and target.dtype != input.dtype:
        raise RuntimeError(f"Found dtype {kind_of(target)} but expected {kind_of(input)}")
    for name, x in (("input", input), ("target", target)):
        if x.numel() > 0 and can_look_at(x):
            low, high = x.detach().aminmax()
            if not (low >= 0 and high <= 1):
                raise RuntimeError(f"all elements of {name} should be between 0 and 1")
    return _times_weight(BinaryCrossEntropy, reduction, (input, target), weight)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Binary cross entropy of σ(x), see :class:`BCEWithLogitsLoss`."""
    reduction = check_reduction(size_average, reduce, reduction)
    if target.size() != input.size():
        raise ValueError(
            f"Target size ({target.size()}) must be the same as input size ({input.size()})"
        )
    input, target, weight, pos_weight = out_of_autocast(input, target, weight, pos_weight)
    tensors = (input, target) if pos_weight is None else (input, target, pos_weight)
    y = _times_weight(OfLogits, reduction, tensors, weight)
    return y.to(target.dtype)


def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    size_average: bool | None = None,
    eps: float = 1e-8,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """-log of Poisson's probability of the count t, see :class:`PoissonNLLLoss`."""
    reduction = check_reduction(size_average, reduce, reduction)
    input, target = out_of_autocast(input, target)
    return pointwise(Poisson, reduction, input, target, numbers=(log_input, full, eps))


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """-log of the density of t from mean x and variance v, see :class:`GaussianNLLLoss`."""
    v = var if isinstance(var, Tensor) else input.new_full((), var)
    # a number is known, a tensor on a device would have to be waited for
    if (not isinstance(var, Tensor) and var < 0) or (can_look_at(v) and bool((v < 0).any())):
        raise ValueError("var has negative entry/entries")
    if isinstance(var, Tensor) and v.size() != input.size():
        one_differs = input.ndim == v.ndim and (
            sum(b for a, b in zip(input.size(), v.size(), strict=True) if a != b) == 1
        )
        if input.size()[:-1] == v.size():
            v = v.unsqueeze(-1)
        elif not one_differs:
            raise ValueError("var is of incorrect size")
    reduction = check_reduction(None, None, reduction, f"{reduction} is not valid")
    # the difference is kept for the backward, where x and t would be two tensors
    return pointwise(Gaussian, reduction, input - target, v, numbers=(full, eps))


def kl_div(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Tensor:
    """t (log t - x) of log-probabilities x, see :class:`KLDivLoss`."""
    if size_average is None and reduce is None and reduction == "mean":
        warn(
            "reduction: 'mean' divides the total loss by both the batch size and the support size."
            "'batchmean' divides only by the batch size, and aligns with the KL div math "
            "definition.'mean' will be changed to behave the same as 'batchmean' in the next major "
            "release."
        )
    by_batch = reduction == "batchmean"
    reduction = check_reduction(size_average, reduce, "sum" if by_batch else reduction)
    input, target = out_of_autocast(input, target)
    if not (input.is_floating_point() and target.is_floating_point()):
        raise RuntimeError("kl_div: Integral inputs not supported.")
    formula = KullbackLeiblerOfLogs if log_target else KullbackLeibler
    y = pointwise(formula, reduction, input, target)
    return y / input.size(0) if by_batch and input.dim() > 0 else y


class BCELoss(_WeightedLoss, nn.BCELoss):
    """Binary cross entropy of probabilities: l = -t log x - (1 - t) log(1 - x).

    Args:
        weight: factors of the losses, of a shape that broadcasts against them.
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``"mean"`` (over all values), ``"sum"`` or ``"none"``.

    Shape: input (*) and target (*), of the same size, to a scalar, or (*) for ``"none"``.

    Dtypes: floating point, the same for both. Under autocast float32 on the CPU, and refused on
    CUDA: use :class:`BCEWithLogitsLoss`.

    As in torch, logarithms below -100 are taken for -100, so that l is finite.

    Raises:
        ValueError: input and target of different sizes.
        RuntimeError: of different dtypes; outside of [0, 1] (on the CPU).

    Differs from torch: ``weight`` may require grad.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return binary_cross_entropy(input, target, self.weight, reduction=self.reduction)


class BCEWithLogitsLoss(_Loss, nn.BCEWithLogitsLoss):
    """Binary cross entropy of σ(x): l = π t log(1 + exp(-x)) + (1 - t) log(1 + exp(x)).

    Args:
        weight: factors of the losses, of a shape that broadcasts against them.
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``"mean"`` (over all values), ``"sum"`` or ``"none"``.
        pos_weight: π, the weight of positive examples, broadcast against the input: one for each
            class, for an input (N, C). π = negatives / positives makes the two count alike.

    Shape: input (*) and target (*), of the same size, to a scalar, or (*) for ``"none"``.

    Dtypes: floating point; the result has that of the target, and is float32 under autocast.

    Raises:
        ValueError: input and target of different sizes.

    Differs from torch: the loss keeps its digits where x is large and t is right, which native
    rounds to zero; ``weight`` and ``pos_weight`` may require grad.
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
    ) -> None:
        _Loss.__init__(self, size_average, reduce, reduction)
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return binary_cross_entropy_with_logits(
            input, target, self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )


class PoissonNLLLoss(_Loss, nn.PoissonNLLLoss):
    """-log P(t) of a count t from Poisson's distribution: l = λ - t log λ (+ log t!).

    Args:
        log_input: the input is x = log λ, and l = exp(x) - t x; else it is λ.
        full: add log t!, by Stirling's formula where t > 1.
        size_average: deprecated, see ``reduction``.
        eps: ε in log(λ + ε), if not ``log_input``.
        reduce: deprecated, see ``reduction``.
        reduction: ``"mean"`` (over all values), ``"sum"`` or ``"none"``.

    Shape: input and target, broadcast, to a scalar, or to (*) for ``"none"``.
    """

    def __init__(
        self,
        log_input: bool = True,
        full: bool = False,
        size_average: bool | None = None,
        eps: float = 1e-8,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        _Loss.__init__(self, size_average, reduce, reduction)
        self.log_input = log_input
        self.full = full
        self.eps = eps

    def forward(self, log_input: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return poisson_nll_loss(
            log_input,
            target,
            log_input=self.log_input,
            full=self.full,
            eps=self.eps,
            reduction=self.reduction,
        )


class GaussianNLLLoss(_Loss, nn.GaussianNLLLoss):
    """-log of the density of t: l = 1/2 (log v + (x - t)²/v) (+ 1/2 log 2π).

    Args:
        full: add 1/2 log 2π.
        eps: the least variance v, in its unit; smaller ones are taken for it.
        reduction: ``"mean"`` (over all values), ``"sum"`` or ``"none"``.

    Shape: input and target (*), var (*), or (*) without its last dimension or with one dimension
    of size 1, or a number; to a scalar, or (*) for ``"none"``.

    Raises:
        ValueError: a negative variance (looked for on the CPU), or one of another size.

    Source: D. Nix, A. Weigend, "Estimating the mean and variance of the target probability
    distribution", Proceedings of ICNN 1994.
    """

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> None:
        _Loss.__init__(self, None, None, reduction)
        self.full = full
        self.eps = eps

    def forward(self, input: Tensor, target: Tensor, var: Tensor | float) -> Tensor:
        """See the class."""
        return gaussian_nll_loss(
            input, target, var, full=self.full, eps=self.eps, reduction=self.reduction
        )


class KLDivLoss(_Loss, nn.KLDivLoss):
    """Kullback-Leibler divergence of P = t from Q = exp(x): l = t (log t - x).

    Args:
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``"batchmean"`` (the sum over the size of the first dimension, which is the
            divergence), ``"mean"`` (over all values), ``"sum"`` or ``"none"``.
        log_target: the target is log t: l = exp(t) (t - x).

    Shape: input and target, broadcast, to a scalar, or to (*) for ``"none"``.

    Raises:
        RuntimeError: integer input or target.

    Source: S. Kullback, R. Leibler, "On Information and Sufficiency", Annals of Mathematical
    Statistics 22, 1951.
    """

    def __init__(
        self,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        log_target: bool = False,
    ) -> None:
        _Loss.__init__(self, size_average, reduce, reduction)
        self.log_target = log_target

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return kl_div(input, target, reduction=self.reduction, log_target=self.log_target)
