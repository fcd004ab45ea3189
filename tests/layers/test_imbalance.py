"""Class weights: against their definitions, and what they are for."""

import math

import pytest
import torch
from torch import nn

from scratch_layers.imbalance import class_weights

COUNTS = [500, 20, 3, 1, 100_000]


def test_inverse_is_the_balanced_of_scikit_learn():
    numpy = pytest.importorskip("numpy")
    compute_class_weight = pytest.importorskip("sklearn.utils.class_weight").compute_class_weight
    y = numpy.repeat(numpy.arange(5), COUNTS)
    theirs = compute_class_weight("balanced", classes=numpy.arange(5), y=y)
    # float32 is the only rounding
    assert class_weights(COUNTS).tolist() == pytest.approx(theirs.tolist(), rel=6e-8)


def test_inverse_gives_each_class_the_same_say():
    torch.manual_seed(0)
    targets = torch.repeat_interleave(torch.arange(3), torch.tensor([50, 7, 2]))
    logits = torch.randn(59, 3)
    weight = class_weights(torch.bincount(targets))
    weighted = nn.CrossEntropyLoss(weight=weight)(logits, targets)
    losses = nn.CrossEntropyLoss(reduction="none")(logits, targets)
    means = torch.stack([losses[targets == c].mean() for c in range(3)])
    # sums of 59 float32 values
    assert float(weighted) == pytest.approx(float(means.mean()), rel=59 * 1.2e-7)
    assert float(weight[targets].sum()) == pytest.approx(59, rel=59 * 1.2e-7)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.9999])
def test_effective_numbers_follow_their_recursion(beta):
    def effective(n):  # E_n = 1 + β E_(n-1)
        E = 0.0
        for _ in range(n):
            E = 1 + beta * E
        return E

    inverse = [1 / effective(n) for n in COUNTS]
    expected = [5 * w / sum(inverse) for w in inverse]
    # 100,000 roundings in float64 stay far below the one in float32
    w = class_weights(COUNTS, "effective", beta=beta)
    assert w.tolist() == pytest.approx(expected, rel=1.2e-7)
    assert float(w.sum()) == pytest.approx(5, rel=6e-7)


def test_effective_lies_between_none_and_inverse():
    assert class_weights(COUNTS, "effective", beta=0.0).tolist() == [1.0] * 5
    inverse = class_weights(COUNTS)
    inverse *= 5 / inverse.sum()
    # 1 - βⁿ = n (1 - β) (1 - (n - 1) (1 - β) / 2 ...): the next term is 1e5 * 1e-14 / 2
    nearly = class_weights(COUNTS, "effective", beta=1 - 1e-14)
    torch.testing.assert_close(nearly, inverse, rtol=1e-6, atol=0)


def test_dtype_is_the_default_and_shares_may_stand_for_counts():
    w = class_weights(torch.tensor([0.25, 0.75], dtype=torch.float16))
    assert w.dtype == torch.float32
    assert w.tolist() == pytest.approx([2, 2 / 3], rel=6e-8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: class_weights([3, 0, 0]), r"but class 1 has 0 \(2 such classes of 3\)"),
        (lambda: class_weights([3, -2]), "class 1 has -2"),
        (lambda: class_weights([math.nan, 1]), "class 0 has nan"),
        (lambda: class_weights([1, math.inf]), "class 1 has inf"),
        (lambda: class_weights([]), r"shape \(K,\), K > 0, but have \(0,\)"),
        (lambda: class_weights(torch.ones(2, 2)), r"but have \(2, 2\)"),
        (lambda: class_weights([1, 2], "balanced"), "but is 'balanced'"),
        (lambda: class_weights([1, 2], "effective", beta=1.0), "but is 1.0"),
        (lambda: class_weights([1, 2], "effective", beta=-0.1), "but is -0.1"),
    ],
    ids=range(9),
)
def test_refuses_with_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()
