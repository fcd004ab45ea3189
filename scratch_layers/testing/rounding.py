"""How far a result is from the exact one, and how far off is nobody's fault."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    "ordinary": lambda x: x,
    "x + 1e2": lambda x: x + 1e2,
    "x + 1e4": lambda x: x + 1e4,
    "1e-4 x": lambda x: x * 1e-4,
    "1e4 x": lambda x: x * 1e4,
}
"""What is made of an ordinary first input, of mean 0 and variance 1."""

NUDGES = 4
"""In how many ways the inputs are moved, to see how far the exact result moves."""

EPS64 = torch.finfo(torch.float64).eps


def error(result: Tensor, truth: Tensor) -> float:
    """Return the largest error, in epsilons of the dtype of ``result`` times the largest value.

    Equal infinities and nans are right; a value that is not finite where the truth is, or the
    other way round, is infinitely wrong.
    """
    mine, truth = result.detach().double(), truth.detach().double()
    same = (mine == truth) | (mine.isnan() & truth.isnan())
    wrong = torch.where(same, 0.0, (mine - truth).abs()).nan_to_num(math.inf, math.inf)
    if wrong.numel() == 0 or wrong.max() == 0:
        return 0.0
    # what overflows the dtype is infinite in it, rightly
    largest = truth.abs().nan_to_num(0, 0, 0).max().clamp(max=torch.finfo(result.dtype).max)
    return float(wrong.max() / largest.clamp(min=1e-300)) / torch.finfo(result.dtype).eps


def nudged(inputs: Sequence[Tensor], dtype: torch.dtype, seed: int) -> list[Tensor]:
    """Return the inputs moved towards zero by two roundings of ``dtype`` each, or by none."""
    generator = torch.Generator().manual_seed(seed)
    eps = torch.finfo(dtype).eps
    return [
        x * (1 - 2 * eps * torch.randint(2, x.shape, generator=generator).to(x.device))
        if x.is_floating_point()
        else x
        for x in inputs
    ]


def granted(truth: Tensor, moved: Sequence[Tensor], dtype: torch.dtype, products: int = 3) -> float:
    """Return the error that is nobody's merit or fault, in the unit of :func:`error`.

    Args:
        truth: the exact result.
        moved: exact results of inputs that were nudged, each in another way.
        dtype: of the results that are compared with it.
        products: of how many products a value is the sum.

    A derivative is a sum of up to three products: four roundings of half an epsilon, which make two
    at the most; those of a matrix product, of many more, add up like the steps of a random walk, to
    the square root of their number. And the data themselves are known to a rounding, as is the mean
    that is subtracted from them: what moves the exact result as far as that is not an error of
    whoever computes it. (A mean of 1e4 is 5e-4 off in float32, and native is off by that too, or by
    less where it has luck.)
    """
    furthest = max(error(result.to(torch.float64), truth) for result in moved)
    return math.sqrt(products + 1) + furthest * EPS64 / torch.finfo(dtype).eps


def sums(inputs: Sequence[Tensor]) -> float:
    """Return how many epsilons two ways to compute the same may differ, in the same dtype.

    Each value is a sum of no more products than there are values, each rounded once or twice; the
    eighth of their number is for the roundings of two texts in different order, 4 is for what is
    not a sum. It holds of values up to 1, and of larger ones in epsilons of the largest.
    """
    return 4 + sum(x.numel() for x in inputs) / 8
