"""Losses: perfect predictions, reductions, and what cross entropy is whatever the logits are."""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Any

import torch
from torch import Tensor

from scratch_layers.testing.case import Case
from scratch_layers.testing.subject import Subject, every_case, leaves, near, one_case
from scratch_optim.testing.kit import check, circumstances, skip

OF_CLASSES = ("CrossEntropyLoss", "NLLLoss")
IGNORED = -100


def _alike(x: Tensor) -> tuple[Tensor, ...]:
    return x, x


def _sure(x: Tensor) -> tuple[Tensor, ...]:
    """Logits that are sure of the class that they belong to."""
    y = torch.arange(len(x), device=x.device) % x.shape[1]
    return 100 * torch.nn.functional.one_hot(y, x.shape[1]).to(x.dtype), y


def _log_sure(x: Tensor) -> tuple[Tensor, ...]:
    logits, y = _sure(x)
    return logits.log_softmax(1), y


def _signs(x: Tensor) -> tuple[Tensor, ...]:
    return 100 * x.sign(), x.sign()


def _classes(x: Tensor) -> tuple[Tensor, ...]:
    t = (x > 0).to(x.dtype)
    return t, t


def _class_logits(x: Tensor) -> tuple[Tensor, ...]:
    return 100 * x.sign(), (x > 0).to(x.dtype)


PERFECT: dict[str, Callable[[Tensor], tuple[Tensor, ...]]] = {
    **dict.fromkeys(("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss"), _alike),
    "BCELoss": _classes,
    **dict.fromkeys(("BCEWithLogitsLoss", "MultiLabelSoftMarginLoss"), _class_logits),
    "KLDivLoss": lambda x: (x.log_softmax(1), x.softmax(1)),
    "CrossEntropyLoss": _sure,
    "NLLLoss": _log_sure,
    "MultiMarginLoss": _sure,
    "SoftMarginLoss": _signs,
    "MarginRankingLoss": lambda x: (100 * x, torch.zeros_like(x), x.sign()),
    "HingeEmbeddingLoss": lambda x: (100.0 * (x < 0), x.sign()),
    "CosineEmbeddingLoss": lambda x: (x, 3 * x, torch.ones_like(x[:, 0])),
    **dict.fromkeys(
        ("TripletMarginLoss", "TripletMarginWithDistanceLoss"), lambda x: (x, x, x + 100)
    ),
}
"""Inputs, made of random numbers (N, C), of which the loss is zero."""


@check
def a_perfect_prediction_costs_nothing(subject: Subject) -> None:
    """Of a prediction that is right, and sure by a margin of 100, the loss is 0, and of none less.

    To 1e-5: TripletMarginLoss and CosineEmbeddingLoss add 1e-6 and 1e-12 to distances.
    """
    if subject.name not in PERFECT:
        skip("its least value is not zero")
    torch.manual_seed(1)
    x = torch.randn(6, 5, dtype=torch.float64, device=subject.device)
    x = x + 0.1 * x.sign()
    layer = subject.cls().to(subject.device)
    perfect = PERFECT[subject.name](x)
    loss = layer(*[t.to(x.dtype) if t.is_floating_point() else t for t in perfect])
    assert abs(loss.item()) <= 1e-5, f"it costs {loss.item():.6g}"
    worse = layer(perfect[0].roll(1, 0), *perfect[1:]).item()
    assert worse >= loss.item(), f"to take one row for another costs less: {worse:.6g}"


def _counted(subject: Subject, case: Case, inputs: list[Tensor], each: Tensor) -> Tensor | float:
    """What the mean divides the sum by."""
    target = inputs[-1]
    arguments = subject.arguments(case)
    if {"weight", "ignore_index"} <= arguments.keys() and not target.is_floating_point():
        ignored = arguments["ignore_index"]
        weight, counts = arguments["weight"], target != (IGNORED if ignored is None else ignored)
        if weight is None:
            return counts.sum()
        return weight.to(each)[torch.where(counts, target, 0)][counts].sum()
    return each.numel()


@every_case
def its_reductions_agree(subject: Subject, case: Case) -> None:
    """ "sum" is the sum of "none", and "mean" times the number (or the weights) of what counts is
    "sum"; the same holds of the gradients.
    """
    if not subject.accepts("reduction"):
        skip("it has no reductions")
    inputs = subject.draw(case, torch.float64)
    found: dict[str, tuple[Tensor, ...]] = {}
    for reduction in ("none", "sum", "mean"):
        layer = subject.make(case, torch.float64, reduction=reduction)
        given = leaves(case, inputs)
        y = layer(*given)
        gradients = torch.autograd.grad(y.sum(), [given[i] for i in case.wrt])
        found[reduction] = (y.detach(), *gradients)
    each = found["none"][0]
    n = _counted(subject, case, inputs, each)
    near(found["sum"][0], each.sum(), inputs, "the sum")
    near(found["mean"][0] * n, found["sum"][0], inputs, f"{n} times the mean")
    for none, sum_, mean in zip(*(found[r][1:] for r in ("none", "sum", "mean")), strict=True):
        near(sum_, none, inputs, "the gradient of the sum")
        near(mean * n, sum_, inputs, f"{n} times the gradient of the mean")


# ------------------------------------------------------------------ cross entropy


def _of_classes(subject: Subject, logits: bool = True) -> tuple[Tensor, Tensor]:
    """Logits (6, 5) and classes."""
    if subject.name not in OF_CLASSES or (logits and subject.name == "NLLLoss"):
        skip("it is no cross entropy")
    torch.manual_seed(1)
    x = torch.randn(6, 5, dtype=torch.float64, device=subject.device)
    y = torch.randint(0, 5, (6,), device=subject.device)
    return (x if logits else x.log_softmax(1)), y


def _loss(subject: Subject, x: Tensor, y: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Value and gradient."""
    x = x.clone().requires_grad_()
    loss = subject.cls(**options).to(subject.device, torch.float64)(x, y)
    return loss.detach(), torch.autograd.grad(loss.sum(), x)[0]


@check
def cross_entropy_of_even_logits_is_log_c(subject: Subject) -> None:
    """C equal logits cost log C whatever the class and the label smoothing; a shift of the logits
    of a row changes nothing.
    """
    x, y = _of_classes(subject)
    for smoothing in (0.0, 0.3):
        even, _ = _loss(subject, torch.ones_like(x), y, label_smoothing=smoothing)
        assert abs(even.item() - log(5)) <= 1e-14, f"equal logits cost {even.item()!r}"
        losses = [
            _loss(subject, z, y, label_smoothing=smoothing)[0] for z in (x, x + x[:, :1] * 10)
        ]
        near(losses[1], losses[0], [x], "the loss of shifted logits")


@every_case
def its_gradient_adds_up_to_zero_in_each_row(subject: Subject, case: Case) -> None:
    """The gradient by the logits of a row adds up to 0, with all options: softmax does not see a
    shift.
    """
    _of_classes(subject)
    inputs = leaves(case, subject.draw(case, torch.float64))
    loss = subject.make(case, torch.float64)(*inputs)
    (d_x,) = torch.autograd.grad(loss.sum(), inputs[0])
    sums = d_x.sum(0 if d_x.dim() == 1 else 1)
    assert sums.abs().max() <= 1e-14, f"the gradients of rows add up to {sums.tolist()}"
    assert d_x.abs().max() > 0, "there is no gradient"


@check
def smoothing_mixes_in_all_classes(subject: Subject) -> None:
    """With label smoothing ε the loss is (1 - ε) times that of the class, plus ε times the mean of
    the losses of all C classes; with weights too, where each class brings its own.
    """
    x, y = _of_classes(subject)
    weights = torch.tensor([0.2, 1.0, 3.0, 0.7, 1.5], dtype=x.dtype, device=x.device)
    for weight in (None, weights):
        options: dict[str, Any] = {"weight": weight, "reduction": "none"}
        plain, d_plain = _loss(subject, x, y, **options)
        classes = [_loss(subject, x, torch.full_like(y, j), **options) for j in range(5)]
        for epsilon in (0.1, 1.0):
            smooth, d_smooth = _loss(subject, x, y, label_smoothing=epsilon, **options)
            mean, d_mean = (torch.stack(values).mean(0) for values in zip(*classes, strict=True))
            near(smooth, (1 - epsilon) * plain + epsilon * mean, [x], f"the loss with {epsilon=}")
            near(d_smooth, (1 - epsilon) * d_plain + epsilon * d_mean, [x], "its gradient")


@check
def what_is_ignored_does_not_count(subject: Subject) -> None:
    """Rows with ignore_index have no value and no gradient; the mean is that of the others."""
    x, y = _of_classes(subject, logits=False)
    smoothings: list[dict[str, float]] = [{}]
    if subject.accepts("label_smoothing"):
        smoothings.append({"label_smoothing": 0.2})
    for smoothing in smoothings:
        for index in (IGNORED, 2):
            target = torch.where(torch.arange(6, device=y.device) % 3 == 0, index, y)
            counts = target != index
            with circumstances(ignore_index=index, options=smoothing):
                each, d_x = _loss(
                    subject, x, target, ignore_index=index, reduction="none", **smoothing
                )
                assert (each[~counts] == 0).all(), f"ignored rows cost {each[~counts].tolist()}"
                assert (d_x[~counts] == 0).all(), "ignored rows have a gradient"
                mean, d_mean = _loss(subject, x, target, ignore_index=index, **smoothing)
                others, d_others = _loss(subject, x[counts], target[counts], **smoothing)
                near(mean, others, [x], "the mean")
                near(d_mean[counts], d_others, [x], "its gradient")


@check
def weights_scale_their_classes(subject: Subject) -> None:
    """The weight of its class multiplies the loss of a row, and the mean is divided by the sum of
    the weights, so that equal weights leave it as it is.
    """
    x, y = _of_classes(subject, logits=False)
    w = torch.tensor([0.2, 1.0, 3.0, 0.7, 1.5], dtype=x.dtype, device=x.device)
    plain, d_plain = _loss(subject, x, y, reduction="none")
    each, d_each = _loss(subject, x, y, weight=w, reduction="none")
    near(each, w[y] * plain, [x], "the loss of each row")
    near(d_each, w[y][:, None] * d_plain, [x], "its gradient")
    mean, d_mean = _loss(subject, x, y, weight=w)
    near(mean, (w[y] * plain).sum() / w[y].sum(), [x], "the mean")
    near(d_mean, d_each / w[y].sum(), [x], "the gradient of the mean")


@one_case
def a_step_against_the_gradient_helps(subject: Subject, case: Case) -> None:
    """A small step against the gradient lowers the loss."""
    inputs = leaves(case, subject.draw(case, torch.float64))
    layer = subject.make(case, torch.float64)
    loss = layer(*inputs).sum()
    (gradient,) = torch.autograd.grad(loss, inputs[0])
    size = gradient.norm()
    if size == 0:
        skip("it is at its minimum")
    after = layer(inputs[0].detach() - 1e-4 * gradient / size, *inputs[1:]).sum()
    expected = -1e-4 * size.item()
    moved = (after - loss).item()
    assert 2 * expected < moved < expected / 2, f"it moves by {moved:.3g}, not {expected:.3g}"
