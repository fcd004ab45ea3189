"""Losses."""

from typing import Any

import torch
from layer_case import Case
from torch import Tensor

WEIGHT = torch.tensor([0.2, 1.0, 3.0, 0.7, 1.5])
IGNORED = -100


def pair(dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Input and target."""
    x, t = torch.randn(2, 4, 5, dtype=torch.float64)
    return x.to(dtype), t.to(dtype)


def probabilities(dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Two of probabilities, away from 0 and 1 so that finite differences stay inside."""
    x, t = torch.rand(2, 4, 5, dtype=torch.float64) * 0.9 + 0.05
    return x.to(dtype), t.to(dtype)


def logits(dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Logits, and probabilities as targets."""
    return pair(dtype)[0], probabilities(dtype)[1]


def counts(dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Logarithms of rates, and counts."""
    return pair(dtype)[0], (torch.rand(4, 5, dtype=torch.float64) * 5).to(dtype)


def gaussian(dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Means, targets and variances."""
    return *pair(dtype), (torch.rand(4, 5, dtype=torch.float64) + 0.5).to(dtype)


def signs(dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Input, and a target of 1 and -1."""
    x, t = pair(dtype)
    return x, t.sign()


def ranked(dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Two inputs, and a target of 1 and -1."""
    x, t = signs(dtype)
    return x, pair(dtype)[0], t


def two_rows(dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Two inputs (N, D), and a target (N,) of 1 and -1."""
    return *pair(dtype), torch.tensor([1.0, -1.0, -1.0, 1.0]).to(dtype)


def triplet(dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Anchor, positive and negative."""
    return *pair(dtype), pair(dtype)[0]


def lists(dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Scores, and lists of classes closed by -1."""
    y = torch.tensor([[0, 3, -1, 2, 2], [1, 1, 4, -1, 0], [-1, 0, 1, 2, 3], [4, 3, 2, 1, 0]])
    return pair(dtype)[0], y


def classes(*shape: int, ignored: bool = False) -> Any:
    """Logits of a shape (N, C, *) and an index for each row, the first one ignored."""

    def inputs(dtype: torch.dtype) -> tuple[Tensor, ...]:
        y = torch.randint(0, shape[1], (shape[0], *shape[2:]))
        if ignored:
            y[0] = IGNORED
        return torch.randn(shape, dtype=torch.float64).to(dtype), y

    return inputs


def one_row(dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Logits (C,) and an index."""
    return torch.randn(5, dtype=torch.float64).to(dtype), torch.tensor(3)


def distributions(dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Logits, and a distribution over the classes for each row."""
    x, t = torch.randn(2, 4, 5, dtype=torch.float64)
    return x.to(dtype), t.softmax(1).to(dtype)


def each(
    layer: str, inputs: Any, reductions: tuple[str, ...] = ("mean", "none"), **more: Any
) -> list[Case]:
    """A loss with each of the reductions."""
    return [
        Case(layer, inputs, options={"reduction": reduction}, label=reduction, **more)
        for reduction in reductions
    ]


ALL = ("mean", "sum", "none")
BOTH: dict[str, Any] = {"wrt": (0, 1)}
# what the layer before gave, which is there anyway; native makes a new tensor, and keeps that
KEEPS_INPUTS = {
    "without": {"saved bytes": "keeps its inputs, native one or two new tensors made of them"}
}
CASES = [
    *each("MSELoss", pair, ALL, **BOTH),
    *each("L1Loss", pair, **BOTH, **KEEPS_INPUTS),
    *each("SmoothL1Loss", pair, **BOTH),
    Case("SmoothL1Loss", pair, options={"beta": 0.3}, label="beta", **BOTH),
    Case("SmoothL1Loss", pair, options={"beta": 0.0}, label="beta0", **BOTH, **KEEPS_INPUTS),
    *each("HuberLoss", pair, **BOTH),
    Case("HuberLoss", pair, options={"delta": 0.3}, label="delta", **BOTH),
    *each("BCELoss", probabilities, scales=False, **BOTH),
    Case("BCELoss", probabilities, (WEIGHT,), label="weight", scales=False),
    *each("BCEWithLogitsLoss", logits, **BOTH),
    Case(
        "BCEWithLogitsLoss",
        logits,
        options={"weight": WEIGHT, "pos_weight": WEIGHT.flip(0)},
        label="weights",
        **BOTH,
    ),
    *each("KLDivLoss", probabilities, scales=False, **BOTH),
    Case("KLDivLoss", probabilities, options={"reduction": "batchmean"}, label="batchmean", **BOTH),
    Case("KLDivLoss", pair, options={"log_target": True}, label="log_target", **BOTH),
    *each("PoissonNLLLoss", counts, scales=False, **BOTH),
    Case("PoissonNLLLoss", counts, options={"full": True}, label="full", scales=False, **BOTH),
    Case("PoissonNLLLoss", probabilities, options={"log_input": False}, label="rate", scales=False),
    *each("GaussianNLLLoss", gaussian, wrt=(0, 1, 2), scales=False),
    Case(
        "GaussianNLLLoss",
        gaussian,
        options={"full": True},
        label="full",
        scales=False,
        **KEEPS_INPUTS,
    ),
    *each("CrossEntropyLoss", classes(4, 5), ALL),
    Case("CrossEntropyLoss", one_row, label="C"),
    Case("CrossEntropyLoss", classes(2, 5, 3, 4), label="spatial"),
    Case("CrossEntropyLoss", classes(2, 5, 3), label="NCL"),
    *[
        Case("CrossEntropyLoss", inputs, options={**options, "reduction": reduction}, label=label)
        for reduction in ("mean", "none")
        for inputs, options, label in (
            (classes(4, 5), {"weight": WEIGHT}, f"weight-{reduction}"),
            (classes(4, 5, ignored=True), {"weight": WEIGHT}, f"ignored-{reduction}"),
            (
                classes(3, 5, 2, 2, ignored=True),
                {"weight": WEIGHT, "label_smoothing": 0.1},
                f"smoothed-{reduction}",
            ),
        )
    ],
    Case("CrossEntropyLoss", distributions, label="distribution", **BOTH),
    Case(
        "CrossEntropyLoss",
        distributions,
        options={"weight": WEIGHT, "label_smoothing": 0.2, "reduction": "none"},
        label="distribution-weight-smoothed",
        **BOTH,
    ),
    *each("NLLLoss", classes(4, 5)),
    Case(
        "NLLLoss",
        classes(3, 5, 2, 2, ignored=True),
        (WEIGHT,),
        label="spatial",
        without={"layout": "native has no backward for channels_last"},
    ),
    *each("MarginRankingLoss", ranked, wrt=(0, 1), **KEEPS_INPUTS),
    *each("HingeEmbeddingLoss", signs, **KEEPS_INPUTS),
    Case("HingeEmbeddingLoss", signs, options={"margin": 0.3}, label="margin", **KEEPS_INPUTS),
    *each("SoftMarginLoss", signs, scales=False),  # exp overflows natively
    *each("CosineEmbeddingLoss", two_rows, scales=False, wrt=(0, 1)),
    Case("CosineEmbeddingLoss", two_rows, options={"margin": -0.2}, label="margin", scales=False),
    *each("MultiMarginLoss", classes(4, 5), half=False),
    Case(
        "MultiMarginLoss",
        classes(4, 5),
        (2, 0.7, WEIGHT),
        label="weight-p2",
        half=False,
    ),
    *each("MultiLabelMarginLoss", lists, half=False),
    *each("MultiLabelSoftMarginLoss", logits, **BOTH),
    Case("MultiLabelSoftMarginLoss", logits, (WEIGHT,), label="weight"),
    *each("TripletMarginLoss", triplet, wrt=(0, 1, 2)),
    Case("TripletMarginLoss", triplet, options={"p": 1.5, "swap": True}, label="p-swap"),
    *each("TripletMarginWithDistanceLoss", triplet, wrt=(0, 1, 2)),
]
