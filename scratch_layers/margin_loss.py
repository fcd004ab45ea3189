"""Losses that ask for a margin, and are zero, or nearly, where it is kept.

With (z)₊ = max(z, 0), whose derivative is [z > 0]; t = ±1 says which of two cases is meant:

    ranking            l = (-t (x₁ - x₂) + m)₊
    hinge embedding    l = x for t = 1, (m - x)₊ for t = -1, of a distance x
    soft margin        l = log(1 + exp(-t x))                        ∂l/∂x = -t σ(-t x)
    cosine embedding   l = 1 - c for t = 1, (c - m)₊ for t = -1
                       c = ⟨x, y⟩ / (|x| |y|)                        ∂c/∂x = y/(|x| |y|) - c x/|x|²
    triplet            l = (d(a, p) - d(a, n) + m)₊, of an anchor, a positive and a negative

and over the C scores x_j of a row, of which one, y, or several, Y, are to be the highest:

    multi-margin       l = w_y/C Σ_(j≠y) (m - x_y + x_j)₊^p
                       ∂l/∂x_j = w_y/C p (...)₊^(p-1) for j ≠ y;  ∂l/∂x_y = -Σ of these
    of several         l = 1/C Σ_(k∈Y) Σ_(j∉Y) (1 - x_k + x_j)₊
    soft, of several   l = 1/C Σ_j binary cross entropy of σ(x_j) and t_j

    R. Hadsell, S. Chopra, Y. LeCun, "Dimensionality Reduction by Learning an Invariant Mapping",
    CVPR 2006: hinge embedding.
    V. Balntas, E. Riba, D. Ponsa, K. Mikolajczyk, "Learning Local Feature Descriptors with Triplets
    and Shallow Convolutional Neural Networks", BMVC 2016: triplet, and its swap.
    K. Crammer, Y. Singer, "On the Algorithmic Implementation of Multiclass Kernel-based Vector
    Machines", Journal of Machine Learning Research 2, 2001: multi-margin.

How such a loss becomes a node of the graph is in :mod:`scratch_layers.criterion`.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from scratch_layers.criterion import (
    Loss,
    _Loss,
    _WeightedLoss,
    can_look_at,
    check_reduction,
    legacy_reduction,
    node,
    pointwise,
    reduce_by,
    refuse_gradient,
)
from scratch_layers.cross_entropy import is_class
from scratch_layers.dtypes import kind_of, not_implemented, out_of_autocast
from scratch_layers.loss import OfLogits

__all__ = [
    "CosineEmbeddingLoss",
    "HingeEmbeddingLoss",
    "MarginRankingLoss",
    "MultiLabelMarginLoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "SoftMarginLoss",
    "TripletMarginLoss",
    "TripletMarginWithDistanceLoss",
    "cosine_embedding_loss",
    "hinge_embedding_loss",
    "margin_ranking_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "soft_margin_loss",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
]


class Ranking(Loss):
    """(-t (x₁ - x₂) + m)₊ of x₁, x₂ and t."""

    piecewise_linear = True

    @staticmethod
    def _z(x1: Tensor, x2: Tensor, t: Tensor, margin: float) -> Tensor:
        return margin - t * (x1 - x2)

    @classmethod
    def f(cls, x1: Tensor, x2: Tensor, t: Tensor, margin: float) -> Tensor:
        return cls._z(x1, x2, t, margin).clamp(min=0)

    @classmethod
    def by_input(cls, x1: Tensor, x2: Tensor, t: Tensor, margin: float) -> Tensor:
        return torch.where(cls._z(x1, x2, t, margin) > 0, -t, 0)

    @classmethod
    def by_target(cls, x1: Tensor, x2: Tensor, t: Tensor, margin: float) -> Tensor:
        return -cls.by_input(x1, x2, t, margin)

    @classmethod
    def by_third(cls, x1: Tensor, x2: Tensor, t: Tensor, margin: float) -> Tensor:
        return torch.where(cls._z(x1, x2, t, margin) > 0, x2 - x1, 0)


class HingeEmbedding(Loss):
    """x for t = 1, (m - x)₊ for t = -1; as in torch, the sum of both for other t."""

    piecewise_linear = True
    slope_dtype = torch.int8

    @staticmethod
    def f(x: Tensor, t: Tensor, margin: float) -> Tensor:
        return torch.where(t != -1, x, 0) + torch.where(t != 1, (margin - x).clamp(min=0), 0)

    @staticmethod
    def by_input(x: Tensor, t: Tensor, margin: float) -> Tensor:
        return (t != -1).to(x.dtype) - ((t != 1) & (margin - x > 0)).to(x.dtype)


class SoftMargin(Loss):
    """log(1 + exp(-t x)), without overflow."""

    @staticmethod
    def f(x: Tensor, t: Tensor) -> Tensor:
        return OfLogits.softplus(t * x)[1]

    @staticmethod
    def by_input(x: Tensor, t: Tensor) -> Tensor:
        return -t * OfLogits.sigmoid(t * x)[1]

    @staticmethod
    def by_target(x: Tensor, t: Tensor) -> Tensor:
        return -x * OfLogits.sigmoid(t * x)[1]


class CosineEmbedding(Loss):
    """1 - c for t = 1, (c - m)₊ for t = -1, of x (N, D), y (N, D) and t (N,)."""

    over_classes = True
    EPSILON = 1e-12  # added to |x|² and |y|², as in torch

    @classmethod
    def _cosine(cls, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        xx = (x * x).sum(1) + cls.EPSILON
        lengths = torch.sqrt(xx * ((y * y).sum(1) + cls.EPSILON))
        return (x * y).sum(1) / lengths, lengths, xx

    @classmethod
    def f(cls, x: Tensor, y: Tensor, t: Tensor, margin: float) -> Tensor:
        c, _, _ = cls._cosine(x, y)
        return torch.where(t == 1, 1 - c, 0) + torch.where(t == -1, (c - margin).clamp(min=0), 0)

    @classmethod
    def by_input(cls, x: Tensor, y: Tensor, t: Tensor, margin: float) -> Tensor:
        c, lengths, xx = cls._cosine(x, y)
        by_c = ((t == -1) & (c - margin > 0)).to(x.dtype) - (t == 1).to(x.dtype)
        return (by_c / lengths).unsqueeze(1) * y - (by_c * c / xx).unsqueeze(1) * x

    @classmethod
    def by_target(cls, x: Tensor, y: Tensor, t: Tensor, margin: float) -> Tensor:
        return cls.by_input(y, x, t, margin)


class MultiMargin(Loss):
    """w_y/C Σ_(j≠y) (m - x_y + x_j)₊^p of x (N, C), y (N,) and w (C,)."""

    over_classes = True

    @staticmethod
    def _pieces(
        x: Tensor, y: Tensor, w: Tensor | None, margin: float
    ) -> tuple[Tensor, Tensor, Tensor | float]:
        """(m - x_y + x_j)₊, zero for j = y; [j = y]; and w_y/C (N, 1)."""
        index, C = y.unsqueeze(1), x.shape[1]
        own = is_class(index, C)
        z = (margin - x.gather(1, index) + x).clamp(min=0)
        share = 1 / C if w is None else w.index_select(0, y).unsqueeze(1) / C
        return torch.where(own, 0, z), own, share

    @classmethod
    def f(cls, x: Tensor, y: Tensor, w: Tensor | None, p: int, margin: float) -> Tensor:
        z, _, share = cls._pieces(x, y, w, margin)
        return (share * (z if p == 1 else z * z)).sum(1)

    @classmethod
    def by_input(cls, x: Tensor, y: Tensor, w: Tensor | None, p: int, margin: float) -> Tensor:
        z, own, share = cls._pieces(x, y, w, margin)
        slope = share * ((z > 0).to(x.dtype) if p == 1 else 2 * z)
        return torch.where(own, -slope.sum(1, keepdim=True), slope)


class MultiLabelMargin(Loss):
    """1/C Σ_(k∈Y) Σ_(j∉Y) (1 - x_k + x_j)₊ of x (N, C) and y (N, C): Y, closed by the first -1."""

    over_classes = True

    @staticmethod
    def _pairs(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """1 - x_k + x_j, and 1/C times how often k is in Y and j is not, both (N, k, j)."""
        listed = (y < 0).cumsum(1) == 0
        often = torch.zeros_like(x).scatter_add(1, y.clamp(min=0), listed.to(x.dtype))
        z = 1 - x.unsqueeze(2) + x.unsqueeze(1)
        return z, often.unsqueeze(2) * (often == 0).to(x.dtype).unsqueeze(1) / x.shape[1]

    @classmethod
    def f(cls, x: Tensor, y: Tensor) -> Tensor:
        z, share = cls._pairs(x, y)
        return (share * z.clamp(min=0)).sum((1, 2))

    @classmethod
    def by_input(cls, x: Tensor, y: Tensor) -> Tensor:
        z, share = cls._pairs(x, y)
        slope = torch.where(z > 0, share, 0)
        return slope.sum(1) - slope.sum(2)


# The functional forms


def margin_ranking_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """(-t (x₁ - x₂) + m)₊, see :class:`MarginRankingLoss`."""
    reduction = check_reduction(size_average, reduce, reduction)
    if input1.dim() != input2.dim() or input1.dim() != target.dim():
        raise RuntimeError(
            "margin_ranking_loss : All input tensors should have same dimension but got sizes: "
            f"input1: {input1.size()}, input2: {input2.size()}, target: {target.size()} "
        )
    tensors = out_of_autocast(input1, input2, target)
    return pointwise(Ranking, reduction, *tensors, numbers=(margin,))


def hinge_embedding_loss(
    input: Tensor,
    target: Tensor,
    margin: float = 1.0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """x or (m - x)₊, see :class:`HingeEmbeddingLoss`."""
    reduction = check_reduction(size_average, reduce, reduction)
    input, target = out_of_autocast(input, target)
    y = pointwise(HingeEmbedding, reduction, input, target.detach(), numbers=(margin,))
    return y.to(input.dtype)


def soft_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """log(1 + exp(-t x)), see :class:`SoftMarginLoss`."""
    reduction = check_reduction(size_average, reduce, reduction)
    input, target = out_of_autocast(input, target)
    return pointwise(SoftMargin, reduction, input, target).to(input.dtype)


def cosine_embedding_loss(
    input1: Tensor,
    input2: Tensor,
    target: Tensor,
    margin: float = 0,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """1 - cos or (cos - m)₊, see :class:`CosineEmbeddingLoss`."""
    reduction = check_reduction(size_average, reduce, reduction)
    if target.dim() > 1:
        raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
    expected = target.dim() + 1
    if input1.dim() != expected or input2.dim() != expected:
        raise RuntimeError(
            f"{target.dim()}D target tensor expects {expected}D input tensors, but found inputs "
            f"with sizes {list(input1.size())} and {list(input2.size())}."
        )
    x, y, target = out_of_autocast(input1, input2, target)
    dtype = torch.promote_types(x.dtype, y.dtype)
    x, y = torch.broadcast_tensors(x.to(dtype), y.to(dtype))
    if target.dim() == 0:
        x, y = x.unsqueeze(0), y.unsqueeze(0)
    t = target.detach().expand(x.shape[0])
    l = node(CosineEmbedding, reduction, x, y, t, numbers=(margin,))  # noqa: E741
    return l.squeeze(0) if target.dim() == 0 and l.dim() == 1 else l


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """w_y/C Σ_(j≠y) (m - x_y + x_j)₊^p, see :class:`MultiMarginLoss`."""
    reduction = check_reduction(size_average, reduce, reduction)
    if p != 1 and p != 2:
        raise ValueError("only p == 1 and p == 2 supported")
    if weight is not None and weight.dim() != 1:
        raise ValueError("weight must be one-dimensional")
    _check_rows(input)
    x, w = out_of_autocast(input, weight)
    x = x.reshape(-1, x.shape[-1] if x.dim() > 0 else 1)
    if target.dim() > 1 or target.numel() != x.shape[0]:
        raise RuntimeError(
            "multi_margin_loss: target tensor should be 1-D with size equal to the number of input "
            f"samples (batch size). Expected target size [{x.shape[0]}], but got "
            f"{list(target.size())}. Input has shape {list(input.size())}."
        )
    if w is not None and w.shape[0] != x.shape[1]:
        raise RuntimeError(
            f"inconsistent weight size, expected {x.shape[1]} but got {list(w.size())}"
        )
    if w is not None and w.dtype != x.dtype:
        raise RuntimeError(f"expected scalar type {kind_of(x)} but found {kind_of(w)}")
    if w is not None:
        refuse_gradient("multi_margin_loss", "weight", w)
    _check_classes(target, 0, x.shape[1], "target out of range")
    y = target.reshape(-1)
    l = node(MultiMargin, reduction, x, y, w, numbers=(p, margin))  # noqa: E741
    return l.reshape(target.shape) if reduction == "none" else l


def multilabel_margin_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """1/C Σ_(k∈Y) Σ_(j∉Y) (1 - x_k + x_j)₊, see :class:`MultiLabelMarginLoss`."""
    reduction = check_reduction(size_average, reduce, reduction)
    _check_rows(input)
    if target.size() != input.size():
        raise RuntimeError(
            f"inconsistent target size: {list(target.size())} for input of size: "
            f"{list(input.size())}"
        )
    (x,) = out_of_autocast(input)
    x = x.reshape(-1, x.shape[-1] if x.dim() > 0 else 1)
    _check_classes(target, -1, x.shape[1], "argument #2 'target' is out of range")
    l = node(MultiLabelMargin, reduction, x, target.reshape(x.shape))  # noqa: E741
    return l.reshape(input.shape[:-1]) if reduction == "none" else l


def _check_rows(x: Tensor) -> None:
    if x.dim() > 2 or (x.dim() > 0 and x.shape[-1] == 0):
        raise RuntimeError(
            "Expected non-empty vector or matrix with optional 0-dim batch size, but got: "
            f"{list(x.size())}"
        )
    if not x.is_floating_point():
        raise not_implemented("margin_loss", x)


def _check_classes(y: Tensor, least: int, C: int, error: str) -> None:
    if y.dtype != torch.int64:
        raise RuntimeError(f"expected scalar type Long but found {kind_of(y)}")
    if y.numel() > 0 and can_look_at(y):
        low, high = y.aminmax()
        if low < least or high >= C:
            raise RuntimeError(error)


def multilabel_soft_margin_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """1/C Σ_j binary cross entropy of σ(x_j), see :class:`MultiLabelSoftMarginLoss`."""
    reduction = legacy_reduction(size_average, reduce, reduction)
    reduction = check_reduction(None, None, reduction, f"{reduction} is not valid")
    l = pointwise(OfLogits, "none", input, target)  # noqa: E741
    l = l if weight is None else l * weight  # noqa: E741
    l = l.sum(-1) / input.size(-1)  # noqa: E741
    return reduce_by(reduction, l, l.numel())


def distance(x: Tensor, y: Tensor, p: float = 2.0, eps: float = 1e-6) -> Tensor:
    """(Σ |x_i - y_i + ε|^p)^(1/p) over the last dimension."""
    return torch.linalg.vector_norm(x - y + eps, p, -1)


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    """(d(a, p) - d(a, n) + m)₊ of a distance d of norm p, see :class:`TripletMarginLoss`."""
    reduction = check_reduction(size_average, reduce, reduction)
    anchor, positive, negative = out_of_autocast(anchor, positive, negative)
    return triplet_margin_with_distance_loss(
        anchor,
        positive,
        negative,
        distance_function=lambda x, y: distance(x, y, p, eps),
        margin=margin,
        swap=swap,
        reduction=reduction,
    )


def triplet_margin_with_distance_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """(d(a, p) - d(a, n) + m)₊ of any distance, see :class:`TripletMarginWithDistanceLoss`."""
    reduction = check_reduction(None, None, reduction)
    if margin <= 0:
        raise ValueError(f"margin must be greater than 0, got {margin}")
    if not anchor.ndim == positive.ndim == negative.ndim:
        raise RuntimeError(
            "The anchor, positive, and negative tensors are expected to have the same number of "
            f"dimensions, but got: anchor {anchor.ndim}D, positive {positive.ndim}D, and negative "
            f"{negative.ndim}D inputs"
        )
    d = distance_function or distance
    to_negative = d(anchor, negative)
    if swap:
        to_negative = torch.minimum(to_negative, d(positive, negative))
    l = (margin + d(anchor, positive) - to_negative).clamp(min=0)  # noqa: E741
    return reduce_by(reduction, l, l.numel())


# The layers


class MarginRankingLoss(_Loss, nn.MarginRankingLoss):
    """x₁ should be above x₂ for t = 1, below for t = -1: l = (-t (x₁ - x₂) + m)₊.

    Args:
        margin: m, by how much, in the unit of x.
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``"mean"`` (over all values), ``"sum"`` or ``"none"``.

    Shape: three tensors of as many dimensions, broadcast, to a scalar, or (*) for ``"none"``.

    Raises:
        RuntimeError: another number of dimensions.
    """

    def __init__(
        self,
        margin: float = 0.0,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        _Loss.__init__(self, size_average, reduce, reduction)
        self.margin = margin

    def forward(self, input1: Tensor, input2: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return margin_ranking_loss(
            input1, input2, target, margin=self.margin, reduction=self.reduction
        )


class HingeEmbeddingLoss(_Loss, nn.HingeEmbeddingLoss):
    """A distance x should be small for t = 1, above m for t = -1: l = x or (m - x)₊.

    Args:
        margin: m, in the unit of x.
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``"mean"`` (over all values), ``"sum"`` or ``"none"``.

    Shape: input and target, broadcast, to a scalar, or (*) for ``"none"``.

    Source: Hadsell et al. 2006, with x itself in the place of its square.
    """

    def __init__(
        self,
        margin: float = 1.0,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        _Loss.__init__(self, size_average, reduce, reduction)
        self.margin = margin

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return hinge_embedding_loss(input, target, margin=self.margin, reduction=self.reduction)


class SoftMarginLoss(_Loss, nn.SoftMarginLoss):
    """x should have the sign of t = ±1: l = log(1 + exp(-t x)), the logistic loss.

    Args:
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``"mean"`` (over all values), ``"sum"`` or ``"none"``.

    Shape: input and target, broadcast, to a scalar, or (*) for ``"none"``.

    Differs from torch: exp does not overflow, so that l = -t x where native has inf and its
    gradient nan; the target may require grad.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return soft_margin_loss(input, target, reduction=self.reduction)


class CosineEmbeddingLoss(_Loss, nn.CosineEmbeddingLoss):
    """The cosine c of x and y should be 1 for t = 1, below m for t = -1: l = 1 - c or (c - m)₊.

    Args:
        margin: m, in [-1, 1].
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``"mean"`` (over the rows), ``"sum"`` or ``"none"``.

    Shape: two inputs (N, D) and a target (N,), or (D,), (D,) and (); to a scalar, or (N,) or ()
    for ``"none"``.

    Raises:
        RuntimeError: numbers of dimensions that do not go together.
    """

    def __init__(
        self,
        margin: float = 0.0,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        _Loss.__init__(self, size_average, reduce, reduction)
        self.margin = margin

    def forward(self, input1: Tensor, input2: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return cosine_embedding_loss(
            input1, input2, target, margin=self.margin, reduction=self.reduction
        )


class MultiMarginLoss(_WeightedLoss, nn.MultiMarginLoss):
    """The score of class y should be above all others: l = w_y/C Σ_(j≠y) (m - x_y + x_j)₊^p.

    Args:
        p: 1 or 2.
        margin: m, by how much, in the unit of x.
        weight: w, one for each class.
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``"mean"`` (over the rows), ``"sum"`` or ``"none"``.

    Shape: input (N, C) or (C,), target (N,) or (), int64; to a scalar, or the shape of the target
    for ``"none"``.

    Raises:
        ValueError: another p; weights of another number of dimensions than one.
        RuntimeError: shapes that do not go together, an index that is no class (on the CPU).

    Source: Crammer and Singer 2001, but with the sum over j in the place of the maximum.

    Differs from torch: has second and forward derivatives, and takes float16 and bfloat16.
    """

    def __init__(
        self,
        p: int = 1,
        margin: float = 1.0,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        _WeightedLoss.__init__(self, weight, size_average, reduce, reduction)
        if p != 1 and p != 2:
            raise ValueError("only p == 1 and p == 2 supported")
        if weight is not None and weight.dim() != 1:
            raise ValueError(
                "MultiMarginLoss: expected weight to be None or 1D tensor, "
                f"got {weight.dim()}D instead"
            )
        self.p = p
        self.margin = margin

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return multi_margin_loss(
            input,
            target,
            p=self.p,
            margin=self.margin,
            weight=self.weight,
            reduction=self.reduction,
        )


class MultiLabelMarginLoss(_Loss, nn.MultiLabelMarginLoss):
    """The scores of the classes Y should be above all others by 1.

    l = 1/C Σ_(k∈Y) Σ_(j∉Y) (1 - x_k + x_j)₊

    Args:
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``"mean"`` (over the rows), ``"sum"`` or ``"none"``.

    Shape: input and target (N, C) or (C,), to a scalar, or (N,) or () for ``"none"``. A row of the
    target (int64) lists the classes Y; the first -1 closes the list.

    Raises:
        RuntimeError: shapes that differ, an index that is no class (on the CPU).

    Differs from torch: has second and forward derivatives, and takes float16 and bfloat16; the
    pairs of classes, (N, C, C), are held in memory unless kernels are compiled.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return multilabel_margin_loss(input, target, reduction=self.reduction)


class MultiLabelSoftMarginLoss(_WeightedLoss, nn.MultiLabelSoftMarginLoss):
    """Binary cross entropy of σ(x_j) and t_j, with weights, averaged over the C classes.

    Args:
        weight: w, one for each class.
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``"mean"`` (over the rows), ``"sum"`` or ``"none"``.

    Shape: input and target (N, C), to a scalar, or (N,) for ``"none"``.
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        return multilabel_soft_margin_loss(
            input, target, weight=self.weight, reduction=self.reduction
        )


class TripletMarginLoss(_Loss, nn.TripletMarginLoss):
    """An anchor should be nearer to a positive than to a negative: l = (d(a, p) - d(a, n) + m)₊.

    The distance is d(x, y) = (Σ |x_i - y_i + ε|^p)^(1/p), over the last dimension.

    Args:
        margin: m > 0, in the unit of x.
        p: the exponent of the norm.
        eps: ε, keeps the derivative finite where x = y.
        swap: take d(p, n) for d(a, n) where it is smaller.
        size_average: deprecated, see ``reduction``.
        reduce: deprecated, see ``reduction``.
        reduction: ``"mean"`` (over the rows), ``"sum"`` or ``"none"``.

    Shape: three tensors (N, D) or (D,), to a scalar, or (N,) or () for ``"none"``.

    Raises:
        ValueError: m ≤ 0.
        RuntimeError: another number of dimensions.

    Source: Balntas et al. 2016.
    """

    def __init__(
        self,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
    ) -> None:
        _Loss.__init__(self, size_average, reduce, reduction)
        if margin <= 0:
            raise ValueError(
                f"TripletMarginLoss: expected margin to be greater than 0, got {margin} instead"
            )
        self.margin = margin
        self.p = p
        self.eps = eps
        self.swap = swap

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """See the class."""
        return triplet_margin_loss(
            anchor,
            positive,
            negative,
            margin=self.margin,
            p=self.p,
            eps=self.eps,
            swap=self.swap,
            reduction=self.reduction,
        )


class TripletMarginWithDistanceLoss(_Loss, nn.TripletMarginWithDistanceLoss):
    """:class:`TripletMarginLoss` of any distance.

    Args:
        distance_function: called with two of the tensors; None for the Euclidean distance.
        margin: m > 0, in the unit of the distance.
        swap: take d(p, n) for d(a, n) where it is smaller.
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Raises:
        ValueError: m ≤ 0.
        RuntimeError: another number of dimensions.
    """

    def __init__(
        self,
        *,
        distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
        margin: float = 1.0,
        swap: bool = False,
        reduction: str = "mean",
    ) -> None:
        _Loss.__init__(self, None, None, reduction)
        if margin <= 0:
            raise ValueError(
                "TripletMarginWithDistanceLoss: expected margin to be greater than 0, "
                f"got {margin} instead"
            )
        # torch's module, since the two must be able to take each other's place
        self.distance_function = distance_function or nn.PairwiseDistance()
        self.margin = margin
        self.swap = swap

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """See the class."""
        return triplet_margin_with_distance_loss(
            anchor,
            positive,
            negative,
            distance_function=self.distance_function,
            margin=self.margin,
            swap=self.swap,
            reduction=self.reduction,
        )
