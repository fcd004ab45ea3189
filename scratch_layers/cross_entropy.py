"""Cross entropy of logits, the negative log-likelihood, and the focal loss.

Cross entropy. For each row (a sample, or a place of one) of C logits x_j, with the softmax

    p_j = exp(x_j) / S,   S = Σ_k exp(x_k),   log p_j = x_j - log S

a target distribution q_j, and a weight w_j for each class, the loss of the row is

    l = -Σ_j w_j q_j log p_j                                                               (1)

For an index y as target q_j = [j = y]; label smoothing by ε makes q_j to (1 - ε) q_j + ε/C
(C. Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", 2015,
arXiv:1512.00567, section 7). "mean" divides the sum of the rows by Σ w_y, over the rows whose y is
not ``ignore_index``; where the target is a distribution, by the number of rows.

Forward. With m = max_j x_j and a_j = x_j - m ≤ 0 nothing overflows:

    log S - m = log(1 + R),   R = Σ_j exp(a_j) - 1

One of the terms of the sum is exactly 1, and is left out instead of subtracted: so a loss far
smaller than the resolution of numbers near 1, of a confident and right prediction, is exact.

Backward. From ∂log p_k/∂x_j = [j = k] - p_j,

    ∂x_j = ∂l (W p_j - w_j q_j),   W = Σ_k w_k q_k              ∂q_j = -∂l w_j log p_j     (2)

p is computed anew from x, so x and the target are all that is kept, and one pass writes ∂x. (Native
keeps log p, as large as x.)

Forward derivative: l̇ = Σ_j (W p_j - w_j q_j) ẋ_j - Σ_j w_j log p_j q̇_j.

Focal loss (T.-Y. Lin, P. Goyal, R. Girshick, K. He, P. Dollár, "Focal Loss for Dense Object
Detection", 2017, arXiv:1708.02002, equations 4 and 5). With p_y the probability of the right class

    FL = -α_y (1 - p_y)^γ log p_y

is a function of the cross entropy c = -log p_y alone: FL = α_y h(c) with
u = 1 - exp(-c) = 1 - p_y and

    h(c)  = u^γ c
    h'(c) = u^γ + γ u^(γ-1) exp(-c) c = u^γ (1 + γ p_y c/u),     c/u → 1 for c → 0         (3)

u is computed as -expm1(-c), which keeps its digits where p_y is near 1, as c does. With ∂c/∂x_y =
-(1 - p_y) this is the derivative of the paper's appendix B: for the logit x of a binary problem and
t = ±1, ∂FL/∂x = t (1 - p_t)^γ (γ p_t log p_t + p_t - 1).
"""

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from scratch_layers.batchnorm import along
from scratch_layers.criterion import (
    Loss,
    _Loss,
    _WeightedLoss,
    can_look_at,
    check_reduction,
    node,
    pointwise,
    reduce_by,
    refuse_gradient,
    warn,
)
from scratch_layers.dtypes import kind_of, not_implemented, out_of_autocast
from scratch_layers.function import Formula, elementwise
from scratch_layers.loss import OfLogits

__all__ = [
    "CrossEntropyLoss",
    "FocalLoss",
    "NLLLoss",
    "NLLLoss2d",
    "SigmoidFocalLoss",
    "cross_entropy",
    "focal_loss",
    "nll_loss",
    "sigmoid_focal_loss",
]


# The equations, on x (N, C, *), an index y (N, *) or a distribution q (N, C, *), and w (C,)


def weights_of(
    y: Tensor, w: Tensor | None, ignored: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The classes (N, 1, *), 0 where ignored, and their weights w_y (N, *), 0 where ignored."""
    counts = y != ignored
    index = torch.where(counts, y, 0).long()
    if w is None:
        return index.unsqueeze(1), counts.to(dtype)
    w_y = w.to(dtype).index_select(0, index.reshape(-1)).reshape(index.shape)
    return index.unsqueeze(1), torch.where(counts, w_y, 0)


def is_class(index: Tensor, C: int) -> Tensor:
    """[j = y] for the C classes j: (N, 1, *) to (N, C, *)."""
    return along(index, torch.arange(C, device=index.device)) == index


def softmax(x: Tensor) -> Tensor:
    """p."""
    e = torch.exp(x - x.amax(1, keepdim=True))
    return e / e.sum(1, keepdim=True)


def minus_log_softmax(x: Tensor) -> tuple[Tensor, Tensor]:
    """log S - m of shape (N, 1, *), and a_j = x_j - m.

    Where R < 0.3, all terms but the largest have a_j < -1; elsewhere log S needs no care. (a_j = 0
    would always tell the largest. But a compiler may compute x for m in one way and for a in
    another, and then the largest is a rounding away from m.)
    """
    a = x - x.amax(1, keepdim=True)
    e = torch.exp(a)
    one_and_R = e.sum(1, keepdim=True)
    R = torch.where(a < -1, e, 0).sum(1, keepdim=True)
    return torch.where(one_and_R < 1.3, R.log1p(), one_and_R.log()), a


class OfDistribution(Loss):
    """Equations 1 and 2 for q and w (N, C, *), with c_j = w_j ((1 - ε) q_j + ε/C)."""

    over_classes = True

    @staticmethod
    def _c(q: Tensor, w: Tensor | None, epsilon: float) -> Tensor:
        c = (1 - epsilon) * q + epsilon / q.shape[1]
        return c if w is None else w * c

    @classmethod
    def f(cls, x: Tensor, q: Tensor, w: Tensor | None, epsilon: float) -> Tensor:
        """-Σ_j c_j log p_j, with 0 log 0 = 0."""
        log_S, a = minus_log_softmax(x)
        c = cls._c(q, w, epsilon)
        return torch.where(c == 0, 0, c * (log_S - a)).sum(1)

    @classmethod
    def by_input(cls, x: Tensor, q: Tensor, w: Tensor | None, epsilon: float) -> Tensor:
        """W p_j - c_j, W = Σ_k c_k."""
        c = cls._c(q, w, epsilon)
        return c.sum(1, keepdim=True) * softmax(x) - c

    @classmethod
    def by_target(cls, x: Tensor, q: Tensor, w: Tensor | None, epsilon: float) -> Tensor:
        """-(1 - ε) w_j log p_j."""
        log_S, a = minus_log_softmax(x)
        slope = (1 - epsilon) * (log_S - a)
        return slope if w is None else w * slope

    @classmethod
    def by_third(cls, x: Tensor, q: Tensor, w: Tensor | None, epsilon: float) -> Tensor:
        """-((1 - ε) q_j + ε/C) log p_j."""
        log_S, a = minus_log_softmax(x)
        return cls._c(q, None, epsilon) * (log_S - a)


class OfIndex(Loss):
    """Equations 1 and 2 for an index y: (1 - ε) w_y of the price falls to y, ε to all classes."""

    over_classes = True

    @staticmethod
    def f(x: Tensor, y: Tensor, w: Tensor | None, epsilon: float, ignored: int) -> Tensor:
        """-(1 - ε) w_y log p_y - ε/C Σ_j w_j log p_j."""
        index, v = weights_of(y, w, ignored, x.dtype)
        log_S, a = minus_log_softmax(x)
        l = torch.where(v == 0, 0, v * (log_S - a.gather(1, index)).squeeze(1))  # noqa: E741
        if epsilon == 0:
            return l
        all_of_them = log_S - a if w is None else along(x, w) * (log_S - a)
        share = torch.where(y == ignored, 0, epsilon / x.shape[1] * all_of_them.sum(1))
        return (1 - epsilon) * l + share

    @staticmethod
    def by_input(x: Tensor, y: Tensor, w: Tensor | None, epsilon: float, ignored: int) -> Tensor:
        """(1 - ε) w_y (p_j - [j = y]) + ε/C (Σ_k w_k p_j - w_j)."""
        p = softmax(x)
        index, v = weights_of(y, w, ignored, x.dtype)
        slope = v.unsqueeze(1) * torch.where(is_class(index, x.shape[1]), p - 1, p)
        if epsilon == 0:
            return slope
        share = p * x.shape[1] - 1 if w is None else p * w.sum() - along(x, w)
        share = torch.where((y == ignored).unsqueeze(1), 0, epsilon / x.shape[1] * share)
        return (1 - epsilon) * slope + share

    @staticmethod
    def total(x: Tensor, y: Tensor, w: Tensor | None, epsilon: float, ignored: int) -> Tensor:
        """Σ w_y."""
        return weights_of(y, w, ignored, x.dtype)[1].sum()


class OfLikelihood(Loss):
    """-w_y z_y of log-probabilities z and an index y."""

    over_classes = True

    @staticmethod
    def f(z: Tensor, y: Tensor, w: Tensor | None, ignored: int) -> Tensor:
        """-w_y z_y."""
        index, v = weights_of(y, w, ignored, z.dtype)
        return torch.where(v == 0, 0, -v * z.gather(1, index).squeeze(1))

    @staticmethod
    def by_input(z: Tensor, y: Tensor, w: Tensor | None, ignored: int) -> Tensor:
        """-w_y [j = y]."""
        index, v = weights_of(y, w, ignored, z.dtype)
        return torch.where(is_class(index, z.shape[1]), -v.unsqueeze(1), 0)

    @staticmethod
    def total(z: Tensor, y: Tensor, w: Tensor | None, ignored: int) -> Tensor:
        """Σ w_y."""
        return weights_of(y, w, ignored, z.dtype)[1].sum()


class Focal(Formula):
    """Equation 3: h(c) = (1 - exp(-c))^γ c of a cross entropy c ≥ 0."""

    @staticmethod
    def f(c: Tensor, gamma: float) -> Tensor:
        """u^γ c."""
        return (-torch.expm1(-c)) ** gamma * c

    @staticmethod
    def slope(c: Tensor, gamma: float) -> Tensor:
        """u^γ (1 + γ p c/u), where u = 1 - p."""
        u = -torch.expm1(-c)
        ratio = torch.where(u == 0, 1, c / torch.where(u == 0, 1, u))
        return u**gamma * (1 + gamma * torch.exp(-c) * ratio)


class SigmoidFocal(Loss):
    """α t h(s⁻) + (1 - α) (1 - t) h(s⁺), with s± = log(1 + exp(±x)); h is :class:`Focal`."""

    @staticmethod
    def f(x: Tensor, t: Tensor, alpha: float, gamma: float) -> Tensor:
        """-α_t (1 - p_t)^γ log p_t for t of 0 or 1."""
        s_plus, s_minus = OfLogits.softplus(x)
        of_one, of_zero = Focal.f(s_minus, gamma), Focal.f(s_plus, gamma)
        return alpha * t * of_one + (1 - alpha) * (1 - t) * of_zero

    @staticmethod
    def by_input(x: Tensor, t: Tensor, alpha: float, gamma: float) -> Tensor:
        """With ∂s⁺/∂x = σ(x) and ∂s⁻/∂x = -σ(-x)."""
        s_plus, s_minus = OfLogits.softplus(x)
        p, one_minus_p = OfLogits.sigmoid(x)
        of_one = -one_minus_p * Focal.slope(s_minus, gamma)
        of_zero = p * Focal.slope(s_plus, gamma)
        return alpha * t * of_one + (1 - alpha) * (1 - t) * of_zero

    @staticmethod
    def by_target(x: Tensor, t: Tensor, alpha: float, gamma: float) -> Tensor:
        """α h(s⁻) - (1 - α) h(s⁺)."""
        s_plus, s_minus = OfLogits.softplus(x)
        return alpha * Focal.f(s_minus, gamma) - (1 - alpha) * Focal.f(s_plus, gamma)


# The functional forms


def _as_batch(x: Tensor, y: Tensor, w: Tensor | None, ignored: int) -> tuple[Tensor, Tensor]:
    """x as (N, C, *) and y as (N, *); refuses, in torch's words, what does not go together."""
    if x.dim() == 1 and y.dim() <= 1:
        if y.numel() != 1:
            raise ValueError(
                f"For 1D input, 1D target must have size 1, but got target size: {y.shape[0]}"
            )
        x, y = x.unsqueeze(0), y.reshape(1)
    shape = x.shape
    if x.dim() == 0 or y.shape != shape[:1] + shape[2:]:
        _refuse_shapes(list(shape), list(y.shape))
    if y.dtype not in (torch.int64, torch.uint8):
        raise RuntimeError(f"expected target dtype to be Long or Byte, but got {kind_of(y)}")
    if w is not None:
        _check_weight(w, shape[1], x.dtype, spatial=len(shape) > 2)
        refuse_gradient("nll_loss_forward", "weight", w)
    if can_look_at(y) and y.numel() > 0:
        low, high = y.aminmax()
        if low.item() < 0 or high.item() >= shape[1]:
            wrong = y[(y != ignored) & ((y < 0) | (y >= shape[1]))]
            if wrong.numel() > 0:
                raise IndexError(f"Target {wrong[0]} is out of bounds.")
    return x, y


def _refuse_shapes(x: list[int], y: list[int]) -> None:
    if len(x) == 0:
        raise ValueError("Expected 1 or more dimensions (got 0)")
    rows = y[0] if y else 0
    if len(x) > 1 and rows != x[0]:
        raise ValueError(f"Expected input batch_size ({x[0]}) to match target batch_size ({rows}).")
    if len(x) <= 2:
        raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
    if len(x) == 4 and len(y) != 3:
        raise RuntimeError(
            "only batches of spatial targets supported (3D tensors) but got targets of dimension: "
            f"{len(y)}"
        )
    if len(x) == 4:
        raise RuntimeError(f"size mismatch (got input: {x} , target: {y}")
    raise RuntimeError(f"Expected target size {[x[0], *x[2:]]}, got {y}")


def _check_weight(w: Tensor, C: int, dtype: torch.dtype, spatial: bool = False) -> None:
    if w.dim() != 1 or w.shape[0] != C:
        if spatial:
            raise RuntimeError("weight tensor should be defined either for all or no classes")
        raise RuntimeError(
            f"weight tensor should be defined either for all {C} classes or no classes but got "
            f"weight tensor of shape: {list(w.shape)}"
        )
    if w.dtype != dtype:
        expected = kind_of(torch.empty((), dtype=dtype))
        raise RuntimeError(f"expected scalar type {expected} but found {kind_of(w)}")


def of_one_row(l: Tensor, input: Tensor) -> Tensor:  # noqa: E741
    """The losses (N, *), without the N that an input (C,) was given."""
    return l.squeeze(0) if input.dim() == 1 and l.dim() == 1 else l


def formula_for(
    x: Tensor, target: Tensor, w: Tensor | None, ignore_index: int, label_smoothing: float
) -> tuple[type[Loss], tuple[Tensor, Tensor, Tensor | None], tuple[Any, ...]]:
    """What the target asks for, an index or a distribution: the formula, its tensors and numbers.

    Of the logits x (C,) or (N, C, *) only shape and dtype are looked at. They are returned as
    (N, C, *), and the target to match.
    """
    if not 0 <= label_smoothing <= 1:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    if not x.is_floating_point():
        raise not_implemented("cross_entropy", x)
    if target.shape != x.shape:
        x, target = _as_batch(x, target, w, ignore_index)
        return OfIndex, (x, target, w), (float(label_smoothing), ignore_index)
    if not target.is_floating_point():
        raise RuntimeError(
            "Expected floating point type for target with class probabilities, "
            f"got {kind_of(target)}"
        )
    if ignore_index >= 0:
        raise RuntimeError("ignore_index is not supported for floating point target")
    x, target = (t.unsqueeze(0) if t.dim() == 1 else t for t in (x, target))
    dtype = torch.promote_types(x.dtype, target.dtype)
    if w is not None:
        dtype = torch.promote_types(dtype, w.dtype)
        _check_weight(w.to(dtype), x.shape[1], dtype)
    x, target = x.to(dtype), target.to(dtype)
    w = None if w is None else along(x, w).expand(x.shape)
    return OfDistribution, (x, target, w), (float(label_smoothing),)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-Σ_j w_j q_j log softmax(x)_j, see :class:`CrossEntropyLoss`."""
    reduction = check_reduction(size_average, reduce, reduction)
    x, target, w = out_of_autocast(input, target, weight)
    formula, tensors, numbers = formula_for(x, target, w, ignore_index, label_smoothing)
    return of_one_row(node(formula, reduction, *tensors, numbers=numbers), input)


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """-w_y z_y, see :class:`NLLLoss`."""
    reduction = check_reduction(size_average, reduce, reduction)
    if not input.is_floating_point():
        raise not_implemented("nll_loss_out_frame", input)
    z, y, w = out_of_autocast(input, target, weight)
    z, y = _as_batch(z, y, w, ignore_index)
    return of_one_row(node(OfLikelihood, reduction, z, y, w, numbers=(ignore_index,)), input)


def focal_loss(
    input: Tensor,
    target: Tensor,
    alpha: Tensor | None = None,
    gamma: float = 2.0,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """-α_y (1 - p_y)^γ log p_y, see :class:`FocalLoss`."""
    reduction = check_reduction(None, None, reduction)
    _check_gamma(gamma)
    if target.is_floating_point():
        raise ValueError(
            f"focal_loss takes indices of classes, got a target of {target.dtype}; "
            "sigmoid_focal_loss takes 0 and 1 for each class"
        )
    x, alpha = out_of_autocast(input, alpha)
    c = cross_entropy(x, target, ignore_index=ignore_index, reduction="none")
    if alpha is not None:
        _check_weight(alpha, x.shape[0 if x.dim() == 1 else 1], x.dtype)
    _, v = weights_of(target.reshape(-1), alpha, ignore_index, c.dtype)
    l = v.reshape(c.shape) * elementwise(Focal, c, float(gamma))  # noqa: E741
    return reduce_by(reduction, l, v.sum())


def sigmoid_focal_loss(
    input: Tensor,
    target: Tensor,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    reduction: str = "mean",
) -> Tensor:
    """-α_t (1 - p_t)^γ log p_t of independent binary problems, see :class:`SigmoidFocalLoss`."""
    reduction = check_reduction(None, None, reduction)
    _check_gamma(gamma)
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], or None to weigh both alike, got {alpha}")
    if target.size() != input.size():
        raise ValueError(
            f"Target size ({target.size()}) must be the same as input size ({input.size()})"
        )
    input, target = out_of_autocast(input, target)
    # α = 1 - α = 1/2, times 2: no weights
    numbers = (0.5 if alpha is None else float(alpha), float(gamma))
    y = pointwise(SigmoidFocal, reduction, input, target, numbers=numbers)
    return 2 * y if alpha is None else y


def _check_gamma(gamma: float) -> None:
    if not gamma >= 0:
        raise ValueError(f"gamma must be at least 0 (0 is cross entropy), got {gamma}")


# The layers


class CrossEntropyLoss(_WeightedLoss, nn.CrossEntropyLoss):
    """Cross entropy of logits: l = -Σ_j w_j q_j log p_j, p = softmax(x), for each row.

    Args:
        weight: w, one for each class.
        size_average: deprecated, see ``reduction``.
        ignore_index: rows with this index as target count for nothing.
        reduce: deprecated, see ``reduction``.
        reduction: ``"mean"`` (Σ l / Σ w_y over the rows that count; for a distribution as target
            Σ l / number of rows), ``"sum"`` or ``"none"``.
        label_smoothing: ε in [0, 1]: the target becomes (1 - ε) q + ε/C.

    Shape: input (C,), (N, C) or (N, C, d1, ...); target an index of a class for each row, (),
    (N,) or (N, d1, ...), or a distribution over the classes, of the shape of the input. To a
    scalar, or one loss for each row for ``"none"``.

    Dtypes: floating point; indices int64 or uint8. float16 and bfloat16 are computed in float32 and
    rounded once, and so under autocast, where the result is float32.

    Raises:
        ValueError: another number of rows in the target.
        RuntimeError: shapes or dtypes that do not go together; ε outside of [0, 1].
        IndexError: an index that is no class (on the CPU).

    Source: equations 1 and 2 in the docstring of the module.

    Differs from torch: a small loss keeps its digits (native's, of float32 logits, is in steps of
    1.2e-7 near zero, and zero for two logits that are 17 apart); 0 log 0 is 0, also where the
    target is a distribution.
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        _WeightedLoss.__init__(self, weight, size_average, reduce, reduction)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


class NLLLoss(_WeightedLoss, nn.NLLLoss):
    """Negative log-likelihood of log-probabilities z: l = -w_y z_y, for each row.

    Args and shape as for :class:`CrossEntropyLoss`, without label smoothing and with indices as
    target only. After log softmax it is the cross entropy, which :class:`CrossEntropyLoss` computes
    from the logits at once, and more exactly.
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        _WeightedLoss.__init__(self, weight, size_average, reduce, reduction)
        self.ignore_index = ignore_index

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return nll_loss(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
        )


with warnings.catch_warnings():
    # torch warns whoever inherits from it
    warnings.simplefilter("ignore", FutureWarning)

    class NLLLoss2d(NLLLoss, nn.NLLLoss2d):
        """Deprecated name of :class:`NLLLoss`."""

        def __init__(
            self,
            weight: Tensor | None = None,
            size_average: bool | None = None,
            ignore_index: int = -100,
            reduce: bool | None = None,
            reduction: str = "mean",
        ) -> None:
            warn(
                "`NLLLoss2d` has been deprecated. Please use `NLLLoss` instead as a drop-in "
                "replacement and see https://pytorch.org/docs/main/nn.html#torch.nn.NLLLoss for "
                "more details.",
                FutureWarning,
            )
            NLLLoss.__init__(self, weight, size_average, ignore_index, reduce, reduction)


class FocalLoss(_Loss):
    """Focal loss of logits: l = -α_y (1 - p_y)^γ log p_y, p = softmax(x), for each row.

    Rows that are predicted well, of which there are far too many where classes are rare, count
    little: with γ = 2 one with p_y = 0.9 counts 100 times less than in cross entropy. With γ = 0 it
    is :class:`CrossEntropyLoss`, in value and in derivative.

    Args:
        alpha: α, one for each class (``weight`` of the cross entropy); None for 1.
        gamma: γ ≥ 0.
        ignore_index: rows with this index as target count for nothing.
        reduction: ``"mean"`` (Σ l / Σ α_y over the rows that count, as in cross entropy), ``"sum"``
            (the paper divides it by the number of objects) or ``"none"``.

    Shape: input (C,), (N, C) or (N, C, d1, ...); target an index of a class for each row. To a
    scalar, or one loss for each row for ``"none"``.

    Dtypes and errors as for :class:`CrossEntropyLoss`; further

    Raises:
        ValueError: γ < 0; a floating point target.

    Source: Lin et al. 2017, arXiv:1708.02002, equation 5; equation 3 in the docstring of the
    module.
    """

    alpha: Tensor | None

    def __init__(
        self,
        alpha: Tensor | None = None,
        gamma: float = 2.0,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> None:
        _Loss.__init__(self, None, None, reduction)
        _check_gamma(gamma)
        self.register_buffer("alpha", alpha)
        self.gamma = gamma
        self.ignore_index = ignore_index

    def extra_repr(self) -> str:
        """What makes it another loss than the cross entropy."""
        return f"gamma={self.gamma}"

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return focal_loss(input, target, self.alpha, self.gamma, self.ignore_index, self.reduction)


class SigmoidFocalLoss(_Loss):
    """Focal loss of independent binary problems: l = -α_t (1 - p_t)^γ log p_t for each logit.

    p_t is σ(x) for t = 1 and 1 - σ(x) for t = 0; α_t is α for t = 1 and 1 - α for t = 0. A target
    between 0 and 1 takes its share of both: l = t l(t=1) + (1 - t) l(t=0).

    Args:
        alpha: α in [0, 1], the weight of t = 1; None weighs both by 1.
        gamma: γ ≥ 0; 0 is (with α) binary cross entropy.
        reduction: ``"mean"`` (over all values), ``"sum"`` (the paper divides it by the number of
            objects) or ``"none"``.

    Shape: input (*) and target (*), of the same size, to a scalar, or (*) for ``"none"``.

    Raises:
        ValueError: γ < 0; α outside of [0, 1]; input and target of different sizes.

    Source: Lin et al. 2017, arXiv:1708.02002, equation 5, with its best α and γ as defaults.
    """

    def __init__(
        self, alpha: float | None = 0.25, gamma: float = 2.0, reduction: str = "mean"
    ) -> None:
        _Loss.__init__(self, None, None, reduction)
        _check_gamma(gamma)
        self.alpha = alpha
        self.gamma = gamma

    def extra_repr(self) -> str:
        """The exponent and the weight."""
        return f"alpha={self.alpha}, gamma={self.gamma}"

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return sigmoid_focal_loss(input, target, self.alpha, self.gamma, self.reduction)
