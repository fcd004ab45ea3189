"""Losses."""

from typing import Any

import torch
from torch import Tensor, nn

from scratch_layers.testing.case import Case, Inputs

WEIGHT = torch.tensor([0.2, 1.0, 3.0, 0.7, 1.5])
IGNORED = -100


def pairs(*shape: int) -> Inputs:
    """Input and target of a shape."""

    def inputs(dtype: torch.dtype) -> tuple[Tensor, ...]:
        x, t = torch.randn(2, *shape, dtype=torch.float64)
        return x.to(dtype), t.to(dtype)

    return inputs


pair = pairs(4, 5)
SHAPES = (pairs(), pairs(0), pairs(1), pairs(65, 33))


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


def classes(*shape: int, ignored: int | None = None) -> Inputs:
    """Logits of a shape (N, C, *) and an index for each row, the first one ignored."""

    def inputs(dtype: torch.dtype) -> tuple[Tensor, ...]:
        y = torch.randint(0, shape[1], (shape[0], *shape[2:]))
        if ignored is not None:
            y[0] = ignored
        return torch.randn(shape, dtype=torch.float64).to(dtype), y

    return inputs


def features(*places: int, ignored: int | None = None) -> Inputs:
    """Rows of 6 features, and an index of one of 5 classes for each place of a row."""

    def inputs(dtype: torch.dtype) -> tuple[Tensor, ...]:
        y = torch.randint(0, 5, (4, *places))
        if ignored is not None:
            y[0] = ignored
        return torch.randn(4, 6, dtype=torch.float64).to(dtype), y

    return inputs


def features_and_distributions(dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Rows of 6 features, and a distribution over 5 classes for each."""
    q = torch.randn(4, 5, dtype=torch.float64).softmax(1)
    return torch.randn(4, 6, dtype=torch.float64).to(dtype), q.to(dtype)


def features_of_one_row(dtype: torch.dtype) -> tuple[Tensor, ...]:
    """6 features, and an index."""
    return torch.randn(6, dtype=torch.float64).to(dtype), torch.tensor(3)


def one_row(dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Logits (C,) and an index."""
    return torch.randn(5, dtype=torch.float64).to(dtype), torch.tensor(3)


def distributions(dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Logits, and a distribution over the classes for each row."""
    x, t = torch.randn(2, 4, 5, dtype=torch.float64)
    return x.to(dtype), t.softmax(1).to(dtype)


def each(inputs: Inputs, reductions: tuple[str, ...] = ("mean", "none"), **more: Any) -> list[Case]:
    """A loss with each of the reductions."""
    return [
        Case(inputs, options={"reduction": reduction}, label=reduction, **more)
        for reduction in reductions
    ]


ALL = ("mean", "sum", "none")
BOTH: dict[str, Any] = {"wrt": (0, 1)}

LINEAR = [
    # logits of shifted or huge rows are so far apart that a loss is 0 in float64 too, in torch
    Case(inputs, (6, 5), options, wrt, label, parameters=(-0.4, 0.4), scales=False)
    for inputs, options, wrt, label in (
        (features(), {"bias": True}, (0,), "mean"),
        (features(), {"reduction": "none"}, (0,), "none"),
        (features(ignored=IGNORED), {"weight": WEIGHT, "reduction": "sum"}, (0,), "weight"),
        (features(), {"label_smoothing": 0.1, "bias": True}, (0,), "smoothed"),
        (features(2, 3), {"out_features": (2, 3), "bias": True}, (0,), "places"),
        (features_and_distributions, {"weight": WEIGHT}, (0, 1), "distribution"),
        (features_of_one_row, {}, (0,), "F"),
    )
]
CASES: dict[str, list[Case]] = {
    "MSELoss": each(pair, ALL, shapes=SHAPES, **BOTH),
    "L1Loss": each(pair, shapes=SHAPES, **BOTH),
    "SmoothL1Loss": [
        *each(pair, shapes=SHAPES, **BOTH),
        Case(pair, options={"beta": 0.3}, label="beta", **BOTH),
        Case(pair, options={"beta": 0.0}, label="beta 0", **BOTH),
    ],
    "HuberLoss": [
        *each(pair, shapes=SHAPES, **BOTH),
        Case(pair, options={"delta": 0.3}, label="delta", **BOTH),
    ],
    "BCELoss": [
        *each(probabilities, scales=False, **BOTH),
        Case(probabilities, (WEIGHT,), label="weight", scales=False),
    ],
    "BCEWithLogitsLoss": [
        *each(logits, **BOTH),
        Case(
            logits,
            options={"weight": WEIGHT, "pos_weight": WEIGHT.flip(0)},
            label="weights",
            **BOTH,
        ),
    ],
    "KLDivLoss": [
        *each(probabilities, scales=False, **BOTH),
        Case(probabilities, options={"reduction": "batchmean"}, label="batchmean", **BOTH),
        Case(pair, options={"log_target": True}, label="log_target", **BOTH),
    ],
    "PoissonNLLLoss": [
        *each(counts, scales=False, **BOTH),
        Case(counts, options={"full": True}, label="full", scales=False, **BOTH),
        Case(probabilities, options={"log_input": False}, label="rate", scales=False),
    ],
    "GaussianNLLLoss": [
        *each(gaussian, wrt=(0, 1, 2), scales=False),
        Case(gaussian, options={"full": True}, label="full", scales=False),
    ],
    "CrossEntropyLoss": [
        *each(classes(4, 5), ALL, shapes=(classes(0, 5), classes(1, 1), classes(65, 33))),
        Case(one_row, label="C"),
        Case(classes(2, 5, 3, 4), label="spatial", shapes=(classes(2, 5, 0, 4),)),
        Case(classes(2, 5, 3), label="NCL"),
        *[
            Case(inputs, options={**options, "reduction": reduction}, label=f"{label}, {reduction}")
            for reduction in ("mean", "none")
            for inputs, options, label in (
                (classes(4, 5), {"weight": WEIGHT}, "weight"),
                (classes(4, 5, ignored=IGNORED), {"weight": WEIGHT}, "ignored"),
                (
                    classes(3, 5, 2, 2, ignored=IGNORED),
                    {"weight": WEIGHT, "label_smoothing": 0.1},
                    "smoothed",
                ),
            )
        ],
        Case(classes(4, 5, ignored=2), options={"ignore_index": 2}, label="2 ignored"),
        Case(distributions, label="distribution", **BOTH),
        Case(
            distributions,
            options={"weight": WEIGHT, "label_smoothing": 0.2, "reduction": "none"},
            label="distribution, weight, smoothed",
            **BOTH,
        ),
    ],
    "NLLLoss": [
        *each(classes(4, 5), shapes=(classes(0, 5), classes(1, 1), classes(65, 33))),
        Case(
            classes(3, 5, 2, 2, ignored=IGNORED),
            (WEIGHT,),
            label="spatial",
            without=dict.fromkeys(
                ("memory_formats_are_the_references", "equals_the_reference_in_all_layouts"),
                "torch has no backward for channels_last",
            ),
        ),
    ],
    "MarginRankingLoss": each(ranked, wrt=(0, 1)),
    "HingeEmbeddingLoss": [
        *each(signs),
        Case(signs, options={"margin": 0.3}, label="margin"),
    ],
    "SoftMarginLoss": each(
        signs,
        scales=False,  # exp overflows in torch
        without={
            "refuses_the_sizes_that_the_reference_refuses": "it broadcasts input and target, torch "
            "the target only"
        },
    ),
    "CosineEmbeddingLoss": [
        *each(two_rows, scales=False, wrt=(0, 1)),
        Case(two_rows, options={"margin": -0.2}, label="margin", scales=False),
    ],
    "MultiMarginLoss": [
        *each(classes(4, 5), half=False),
        Case(classes(4, 5), (2, 0.7, WEIGHT), label="weight, p = 2", half=False),
    ],
    "MultiLabelMarginLoss": each(lists, half=False),
    "MultiLabelSoftMarginLoss": [
        *each(
            logits,
            **BOTH,
            without={
                "refuses_the_sizes_that_the_reference_refuses": "of an input that is broadcast "
                "to the target torch sums over samples"
            },
        ),
        Case(logits, (WEIGHT,), label="weight"),
    ],
    "TripletMarginLoss": [
        *each(triplet, wrt=(0, 1, 2)),
        Case(triplet, options={"p": 1.5, "swap": True}, label="p, swap"),
    ],
    "TripletMarginWithDistanceLoss": each(triplet, wrt=(0, 1, 2)),
}
if hasattr(nn, "LinearCrossEntropyLoss"):  # new in torch 2.13
    CASES["LinearCrossEntropyLoss"] = LINEAR
