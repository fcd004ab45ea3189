"""What a few runs say about all runs: means with their uncertainty, tests, and calibration.

Runs which differ in their seed alone are taken for independent draws of one normal distribution,
whose mean is mu. Of n values x_1 ... x_n (Student, "The probable error of a mean", Biometrika 6,
1908):

    mean            m   = sum x_i / n
    deviation       s   = sqrt(sum (x_i - m)^2 / (n - 1))
    standard error  s_m = s / sqrt(n)
    (m - mu) / s_m is distributed as Student's t with n - 1 degrees of freedom.

A deviation of 0 says that values are rounded (an accuracy is a whole number of images), not that
the next run will be the same: t is then not finite, and no p-value is given. What is not defined is
nan, not None: it stays a float for whoever formats it, and no comparison with it is true, so that
nothing is decided by accident.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Summary:
    """Mean and uncertainty of n values, all in the unit of the values.

    With n = 1 there is no deviation: ``standard_error``, ``low``, ``high`` and ``deviation`` are
    nan.
    """

    n: int
    mean: float
    standard_error: float
    low: float  # of the two-sided confidence interval of the mean
    high: float
    deviation: float  # with n - 1

    @property
    def half_width(self) -> float:
        """Half the confidence interval: mean ± half_width; nan with n = 1."""
        return (self.high - self.low) / 2


def summarize(values: Sequence[float], confidence: float = 0.95) -> Summary:
    """Mean, standard error and Student's two-sided confidence interval of the mean.

        m ± t s / sqrt(n),    t: the (1 + confidence) / 2 quantile of Student's t, n - 1 degrees

    The order of the values has no influence on a bit of it.

    Args:
        values: n >= 1 finite numbers.
        confidence: how often the interval holds the true mean, in (0, 1).

    Raises:
        ValueError: no values, one that is not finite, or such a ``confidence``.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}: give a number between 0 and 1, such as 0.95.")
    n, mean, deviation = _moments(values)
    error = deviation / math.sqrt(n)
    # scipy has no quantile, and says nan, of 0 degrees of freedom
    half = float(_student().ppf((1 + confidence) / 2, n - 1)) * error
    return Summary(n, mean, error, mean - half, mean + half, deviation)


def p_value_above(values: Sequence[float], target: float) -> float:
    """The p-value of the one-sided t-test of "the mean is above the target".

        t = (m - target) / (s / sqrt(n)),    p = P(T >= t),  T Student's t with n - 1 degrees

    p is how often n runs come out this good or better when the true mean is the target (H0: the
    mean is the target or less). This is what a record for speed has to show of its accuracy:
    p < 0.05, say. For "below", change the sign of both.

    Returns:
        p in [0, 1]; nan with n = 1 or values that are all equal.

    Raises:
        ValueError: no values, or a number that is not finite.
    """
    if not math.isfinite(target):
        raise ValueError(f"target {target}: give a finite number.")
    n, mean, deviation = _moments(values)
    if not deviation > 0:
        return math.nan
    return float(_student().sf((mean - target) / (deviation / math.sqrt(n)), n - 1))


def welch(a: Sequence[float], b: Sequence[float]) -> float:
    """The two-sided p-value of "both sets of runs have the same mean", of unequal variances.

        e_a = s_a^2 / n_a,    t = (m_a - m_b) / sqrt(e_a + e_b)
        p = P(|T| >= |t|),    T Student's t with
        nu = (e_a + e_b)^2 / (e_a^2 / (n_a - 1) + e_b^2 / (n_b - 1)) degrees of freedom

    B. L. Welch, "The generalization of 'Student's' problem when several different population
    variances are involved", Biometrika 34, 1947.

    Returns:
        p in [0, 1]; nan where one of the sets is a single run, or both have a deviation of 0.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    (n_a, m_a, s_a), (n_b, m_b, s_b) = _moments(a), _moments(b)
    d_a, d_b = s_a / math.sqrt(n_a), s_b / math.sqrt(n_b)
    error = math.hypot(d_a, d_b)
    if not error > 0:
        return math.nan
    # nu with e_a and e_b divided by their sum, which cancels and cannot underflow
    share_a, share_b = (d_a / error) ** 2, (d_b / error) ** 2
    nu = 1 / (share_a**2 / (n_a - 1) + share_b**2 / (n_b - 1))
    return float(2 * _student().sf(abs(m_a - m_b) / error, nu))


def expected_calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """How far confidence is from accuracy, in the mean over images.

        ECE = sum_m |B_m| / N * |accuracy(B_m) - confidence(B_m)|

    The confidence of an image is the largest of its softmax probabilities; B_m holds the images
    whose confidence lies in ((m - 1) / M, m / M], m = 1 ... M. C. Guo, G. Pleiss, Y. Sun,
    K. Q. Weinberger, "On calibration of modern neural networks", ICML 2017, arXiv 1706.04599,
    eq. 3; 15 bins are theirs. Of few images it is too large: a calibrated network has more than 0,
    because the accuracy of a bin is the mean of a few draws.

    Args:
        logits: (N, K), any floating dtype; computed in float64 on the CPU.
        labels: (N,), integers in [0, K).
        bins: M >= 1.

    Returns:
        ECE in [0, 1].

    Raises:
        ValueError: other shapes, no images, labels that are no classes, logits that are not
            finite, or no bins.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not logits.numel():
        raise ValueError(
            f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)}: give (N, K) and (N,), "
            "with at least one image and one class."
        )
    if bins < 1:
        raise ValueError(f"bins {bins}: give a whole number, 1 or more.")
    logits, labels = logits.detach().cpu().double(), labels.detach().cpu()
    if not logits.isfinite().all():
        raise ValueError("logits hold inf or nan: the network diverged; there is no calibration.")
    if labels.is_floating_point() or labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ValueError(
            f"labels of {labels.dtype} from {labels.min().item()} to {labels.max().item()}: give "
            f"integers in [0, {logits.shape[1]})."
        )
    confidence, answer = logits.softmax(1).max(1)
    edges = torch.arange(1, bins, dtype=torch.float64) / bins
    # |B_m| cancels: what is left of the bin are the sums of its images
    surplus = (answer == labels).double() - confidence
    sums = torch.bincount(torch.bucketize(confidence, edges), weights=surplus, minlength=bins)
    return float(sums.abs().sum() / len(labels))


def _student() -> Any:
    """Student's t. scipy takes longer to import than most commands take to fail."""
    from scipy.stats import t

    return t


def _moments(values: Sequence[float]) -> tuple[int, float, float]:
    """n, mean and deviation, nan of one value; each rounded once."""
    if len(values) == 0:
        raise ValueError("no values: there is nothing to summarize. Give at least one run.")
    for value in values:
        if not math.isfinite(value):
            raise ValueError(
                f"a value is {value}: a mean needs finite numbers. Leave out the runs that "
                "diverged, and say how many they are."
            )
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return len(values), math.fsum(values) / len(values), deviation
