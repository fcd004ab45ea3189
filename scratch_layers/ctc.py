"""Connectionist temporal classification: the loss of a sequence whose alignment is not known.

    A. Graves, S. Fernández, F. Gomez, J. Schmidhuber, "Connectionist Temporal Classification:
    Labelling Unsegmented Sequence Data with Recurrent Neural Networks", ICML 2006.

At each of T times a network gives probabilities y_t(k) of C classes, of which one is the blank. A
path π_1 ... π_T becomes a labelling when repeated labels, and then blanks, are dropped. The loss of
the labelling l_1 ... l_S is -log p(l), with p(l) = Σ Π_t y_t(π_t) over all paths that become it.

Such a path walks, one step for each t, along z = (blank, l_1, blank, l_2, ..., l_S, blank) of
length 2S + 1: it stays, goes on by one, or by two over a blank between different labels. With
α_t(s) the probability of all beginnings that are at s at time t (section 4.1),

    α_t(s) = a_t(s) y_t(z_s),    a_t(s) = α_(t-1)(s) + α_(t-1)(s-1) [+ α_(t-1)(s-2) if z_s may be
    a_1(s) = [s ≤ 2]                                                   reached over a blank]
    p(l)   = α_T(2S+1) + α_T(2S)

Read backwards the problem is the same one: with b_t(s) the probability of all endings that leave s
at time t, b is a of the reversed sequence, and α_t(s) b_t(s) that of all paths through s at t. As
each of them has the factor y_t(z_s),

    ∂ log p(l) / ∂ log y_t(k) = Σ_(s: z_s = k) γ_t(s),    γ_t(s) = α_t(s) b_t(s) / p(l)

γ is the probability to be at s at time t, given l. All this is computed of logarithms. Forward
derivative: the change of -log p(l) is -Σ_t Σ_s γ_t(s) (log y_t(z_s))˙.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scratch_layers.criterion import (
    _Loss,
    can_look_at,
    check_reduction,
    reduce_by,
)
from scratch_layers.dtypes import accumulate_dtype, out_of_autocast
from scratch_layers.function import Function

__all__ = ["CTCLoss", "ctc_loss"]

INFINITY = float("inf")


def log_add(*terms: Tensor) -> Tensor:
    """log Σ exp of the terms, which may all be -∞."""
    largest = torch.stack(terms).amax(0)
    none = largest == -INFINITY
    shift = torch.where(none, 0, largest)
    total = sum(((t - shift).exp() for t in terms), torch.zeros_like(shift))
    return torch.where(none, -INFINITY, shift + torch.where(none, 1, total).log())


def walk(log_y: Tensor, over: Tensor) -> Tensor:
    """log a_t(s), (T, N, 2S + 1), of log y_t(z_s) and where s may be reached over a blank."""
    start = torch.arange(log_y.shape[2], device=log_y.device) < 2
    log_a = [torch.where(start, torch.zeros_like(log_y[0]), -INFINITY)]
    nothing = torch.full_like(log_y[0, :, :2], -INFINITY)
    for log_y_t in log_y[:-1]:
        stay = log_a[-1] + log_y_t
        two = torch.cat((nothing, stay), 1)[:, : stay.shape[1]]
        one = torch.cat((nothing[:, :1], stay), 1)[:, : stay.shape[1]]
        log_a.append(log_add(stay, one, torch.where(over, two, -INFINITY)))
    return torch.stack(log_a)


def over_blank(z: Tensor, blank: int) -> Tensor:
    """Where z (N, 2S + 1) is a label, and another one than the label before."""
    before = torch.nn.functional.pad(z, (2, 0), value=blank)[:, : z.shape[1]]
    return (z != blank) & (z != before)


def reverse(x: Tensor, T: Tensor, S: Tensor) -> Tensor:
    """x (time, N, 2S + 1), of which T and 2S + 1 count, read from its end in both."""
    t = (T - 1 - torch.arange(x.shape[0], device=x.device).unsqueeze(1)).clamp(min=0)  # (time, N)
    s = (2 * S.unsqueeze(1) - torch.arange(x.shape[2], device=x.device)).clamp(min=0)  # (N, s)
    n = torch.arange(x.shape[1], device=x.device)
    return x[t.unsqueeze(2), n.reshape(1, -1, 1), s.unsqueeze(0)]


def losses(log_y: Tensor, z: Tensor, T: Tensor, S: Tensor, blank: int) -> tuple[Tensor, Tensor]:
    """-log p(l), (N,), and log α, (T, N, 2S + 1), of log y_t(z_s) of the same shape."""
    log_alpha = walk(log_y, over_blank(z, blank)) + log_y
    n = torch.arange(z.shape[0], device=z.device)
    last = log_alpha[(T - 1).clamp(min=0), n]  # (N, 2S + 1)
    end = last.gather(1, 2 * S.unsqueeze(1)).squeeze(1)
    label = last.gather(1, (2 * S - 1).clamp(min=0).unsqueeze(1)).squeeze(1)
    log_p = log_add(end, torch.where(S == 0, -INFINITY, label))
    # nothing is said in no time for certain, and anything else is impossible
    log_p = torch.where(T == 0, torch.where(S == 0, 0.0, -INFINITY), log_p)
    return -log_p, log_alpha


def posterior(log_y: Tensor, z: Tensor, T: Tensor, S: Tensor, blank: int) -> Tensor:
    """γ_t(s), (T, N, 2S + 1), zero outside of the T and 2S + 1 that count."""
    loss, log_alpha = losses(log_y, z, T, S, blank)
    z_reversed = reverse(z.unsqueeze(0), torch.ones_like(T), S).squeeze(0)
    log_b = reverse(walk(reverse(log_y, T, S), over_blank(z_reversed, blank)), T, S)
    t = torch.arange(log_y.shape[0], device=z.device).reshape(-1, 1, 1)
    s = torch.arange(log_y.shape[2], device=z.device)
    counts = (t < T.unsqueeze(1)) & (s <= 2 * S.unsqueeze(1))
    return torch.where(counts, (log_alpha + log_b + loss.unsqueeze(1)).exp(), 0)


def labels(log_probs: Tensor, z: Tensor) -> Tensor:
    """log y_t(z_s), (T, N, 2S + 1)."""
    wide = log_probs.to(accumulate_dtype(log_probs))
    return wide.gather(2, z.expand(log_probs.shape[0], -1, -1))


class CTCFunction(Function):
    """-log p(l), (N,), as one node, called with (log_probs, z, T, S, blank); saves the tensors.

    log_probs is (T, N, C), z (N, 2S + 1), T and S (N,). The walk over the times is not compiled.
    """

    @staticmethod
    def forward(log_probs: Tensor, z: Tensor, T: Tensor, S: Tensor, blank: int) -> Tensor:
        """Equation: :func:`losses`."""
        return losses(labels(log_probs, z), z, T, S, blank)[0].to(log_probs.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save the tensors."""
        *tensors, ctx.blank = inputs
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> Any:
        """∂ log y_t(k) = -∂y Σ_(s: z_s = k) γ_t(s)."""
        log_probs, z, T, S = ctx.saved_tensors
        gamma = posterior(labels(log_probs, z), z, T, S, ctx.blank)
        # a factor of zero is zero, also where l is impossible
        d_y = d_y.to(gamma.dtype).unsqueeze(1)
        d_z = torch.where(d_y == 0, 0, -d_y * gamma)
        none = torch.zeros_like(log_probs, dtype=gamma.dtype)
        d_x = none.scatter_add(2, z.expand(gamma.shape), d_z)
        return d_x.to(log_probs.dtype), None, None, None, None

    @staticmethod
    def tangent(ctx: Any, t_x: Tensor, *_: None) -> Tensor:
        """-Σ γ_t(s) (log y_t(z_s))˙."""
        log_probs, z, T, S = ctx.saved_tensors
        gamma = posterior(labels(log_probs, z), z, T, S, ctx.blank)
        return -(gamma * labels(t_x, z)).sum((0, 2)).to(log_probs.dtype)


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Tensor | Sequence[int],
    target_lengths: Tensor | Sequence[int],
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """-log of the probability of a labelling, see :class:`CTCLoss`."""
    reduction = check_reduction(None, None, reduction)
    (x,) = out_of_autocast(log_probs)
    x = x if x.dim() == 3 else x.unsqueeze(1)
    T, S = (
        torch.as_tensor(length, device=x.device).reshape(-1)
        for length in (input_lengths, target_lengths)
    )
    _check(x, targets, T, S, blank)
    T, S, l = T.long(), S.long(), targets.long()  # noqa: E741
    if targets.dim() < 2 and log_probs.dim() == 3:  # one after the other
        longest = int(S.max()) if S.numel() > 0 else 0
        place = (S.cumsum(0) - S).unsqueeze(1) + torch.arange(longest, device=x.device)
        l = torch.cat((l, l.new_full((longest,), blank)))[place]  # noqa: E741
    l = l.reshape(x.shape[1], -1)  # noqa: E741
    # what fills up the rows must be classes too
    filled = torch.arange(l.shape[1], device=x.device) < S.unsqueeze(1)
    l = torch.where(filled, l, blank)  # noqa: E741
    between = torch.full_like(l, blank)
    z = torch.stack((between, l), 2).flatten(1)
    z = torch.nn.functional.pad(z, (0, 1), value=blank)
    y: Tensor = CTCFunction.call(x, z, T, S, blank)
    if zero_infinity:
        y = torch.where(y == INFINITY, 0, y)
    if reduction == "mean":
        y = y / S.clamp(min=1)
    y = reduce_by(reduction, y, y.numel())
    return y.squeeze(0) if log_probs.dim() == 2 and reduction == "none" else y


def _check(x: Tensor, targets: Tensor, T: Tensor, S: Tensor, blank: int) -> None:
    times, N, C = x.shape
    if not 0 <= blank < C:
        raise RuntimeError("blank must be in label range")
    for name, length in (("input_lengths", T), ("target_lengths", S)):
        if length.is_floating_point():
            raise RuntimeError(f"{name} must be integral")
        if length.shape[0] != N:
            raise RuntimeError(f"{name} must be of size batch_size")
    if N == 0 or not can_look_at(T) or not can_look_at(S):
        return
    where = "(while checking arguments for ctc_loss_allocate_outputs)"
    if T.max() > times:
        raise RuntimeError(
            f"Expected input_lengths to have value at most {times}, but got value {int(T.max())} "
            f"{where}"
        )
    for name, length in (("input_lengths", T), ("target_lengths", S)):
        if length.min() < 0:
            raise RuntimeError(
                f"Expected {name} to have value at least 0, but got value {int(length.min())} "
                f"{where}"
            )
    if targets.dim() == 2 and targets.shape[1] < S.max():
        raise RuntimeError(
            f"Expected tensor to have size at least {int(S.max())} at dimension 1, but got size "
            f"{targets.shape[1]} for argument #2 'targets' {where}"
        )
    if targets.dim() < 2 and targets.numel() != S.sum():
        raise RuntimeError(
            f"Expected tensor to have size {int(S.sum())} at dimension 0, but got size "
            f"{targets.numel()} for argument #2 'targets' {where}"
        )


class CTCLoss(_Loss, nn.CTCLoss):
    """Connectionist temporal classification: -log p(l) of a labelling l, over all alignments.

    Args:
        blank: the class of the blank.
        reduction: ``"mean"`` (over the batch, of the losses divided by the lengths of their
            targets), ``"sum"`` or ``"none"``.
        zero_infinity: take losses of +∞, of targets that are too long for their input, and their
            derivatives for zero.

    Shape: log-probabilities (T, N, C) or (T, C); targets (N, S), or one after the other (Σ S,);
    lengths of the inputs and of the targets (N,) or (); to a scalar, or (N,) for ``"none"``.

    Dtypes: floating point; integers for targets and lengths.

    Raises:
        RuntimeError: lengths that do not go together, a blank that is no class.

    Source: Graves et al. 2006; equations in the docstring of the module.

    Differs from torch: the derivative by the log-probabilities is that derivative, where native
    adds their exponentials; log softmax, which comes before, has the same gradient from both.
    There are second and forward derivatives. The walk over the times is a loop of T steps of
    Python, also where kernels are compiled.
    """

    def __init__(
        self, blank: int = 0, reduction: str = "mean", zero_infinity: bool = False
    ) -> None:
        _Loss.__init__(self, None, None, reduction)
        self.blank = blank
        self.zero_infinity = zero_infinity

    def forward(
        self,
        log_probs: Tensor,
        targets: Tensor,
        input_lengths: Tensor | Sequence[int],
        target_lengths: Tensor | Sequence[int],
    ) -> Tensor:
        """See the class."""
        return ctc_loss(
            log_probs,
            targets,
            input_lengths,
            target_lengths,
            self.blank,
            self.reduction,
            self.zero_infinity,
        )
