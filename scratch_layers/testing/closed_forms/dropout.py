"""Dropout: how often, how much, the same mask in both directions.

A rate is judged by W. Hoeffding's inequality (1963): of n independent draws with probability q, the
part k/n that came out differs from q by more than t with probability at most 2 exp(-2 n t²). With t
of :func:`bound` a right layer fails one check for one seed in 10^12; and the seed is fixed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from scratch_layers.testing.subject import Subject, seeded
from scratch_optim.testing.kit import check, skip

ALPHA = 1.7580993408473766
"""Alpha dropout drops to minus this, where SELU saturates: lambda alpha of its paper."""
N, C = 500, 20
OF_CHANNELS = {"Dropout1d": 1, "Dropout2d": 2, "Dropout3d": 3, "FeatureAlphaDropout": 2}
RATES = (0.1, 0.5, 0.8)


def bound(n: int, false_alarm: float = 1e-12) -> float:
    """How far a rate of n draws may be from its probability."""
    return math.sqrt(math.log(2 / false_alarm) / (2 * n))


def _layer(subject: Subject, p: float) -> nn.Module:
    if subject.name == "RReLU" or not subject.accepts("p"):
        skip("its constructor has no argument p")
    return subject.cls(p=p).to(subject.device, torch.float64)


def _input(subject: Subject) -> Tensor:
    """(N, C, *), of values apart from 0, with as many channels as make rates sharp."""
    torch.manual_seed(1)
    spatial = [2] * OF_CHANNELS.get(subject.name, 1)
    x = torch.rand(N, C, *spatial, dtype=torch.float64, device=subject.device) + 1
    return x if subject.name in OF_CHANNELS else x.flatten(1)


def _scale(subject: Subject, p: float) -> tuple[float, float]:
    """a and b of y = a x + b for what is kept."""
    if "Alpha" not in subject.name:
        return 1 / (1 - p), 0.0
    a = ((1 - p) * (1 + ALPHA**2 * p)) ** -0.5
    return a, a * ALPHA * p


def _dropped(subject: Subject, x: Tensor, y: Tensor, p: float) -> Tensor:
    """Which values were dropped; all must be either kept, or dropped, with the right numbers."""
    a, b = _scale(subject, p)
    zero = b - a * ALPHA if "Alpha" in subject.name else 0.0
    kept, dropped = ((y - z).abs() <= 1e-14 for z in (a * x + b, torch.full_like(x, zero)))
    odd = ~(kept | dropped)
    assert not odd.any(), (
        f"with p = {p} an input {x[odd][0].item():.9g} became {y[odd][0].item():.9g}, neither the "
        f"{zero:.9g} of what is dropped nor the {(a * x + b)[odd][0].item():.9g} of what is kept"
    )
    return dropped & ~kept


@check
def rescales_what_it_keeps(subject: Subject) -> None:
    """Every value is dropped, to 0 or the -α' of alpha dropout, or kept and multiplied by exactly
    1 / (1 - p), or by the a, and shifted by the b, that keep mean and variance.
    """
    x = _input(subject)
    for p in RATES:
        _dropped(subject, x, seeded(_layer(subject, p), x), p)


@check
def drops_as_often_as_it_says(subject: Subject) -> None:
    """Values, or channels, are dropped with probability p, each for itself: pairs of neighbours are
    dropped with p², in the sample and across samples (false alarm: 1 in 10^12).
    """
    x = _input(subject)
    for p in RATES:
        dropped = _dropped(subject, x, seeded(_layer(subject, p), x), p)
        if subject.name in OF_CHANNELS:
            dropped = dropped.flatten(2)[:, :, 0]
        pairs = {
            "of values": (dropped, p),
            "of neighbours in a sample": (dropped[:, ::2] & dropped[:, 1::2], p * p),
            "of neighbours in samples": (dropped[::2] & dropped[1::2], p * p),
        }
        for what, (hits, q) in pairs.items():
            rate = hits.double().mean().item()
            assert abs(rate - q) <= bound(hits.numel()), (
                f"a part {rate:.4f} {what} is dropped with p = {p}, where {q:.4f} is expected"
            )


@check
def draws_anew(subject: Subject) -> None:
    """Two calls drop different values."""
    x, layer = _input(subject), _layer(subject, 0.5)
    torch.manual_seed(2)
    first, second = (_dropped(subject, x, layer(x), 0.5) for _ in range(2))
    assert not torch.equal(first, second), "the second call drops what the first did"


@check
def differentiates_by_the_mask_it_drew(subject: Subject) -> None:
    """The gradient is a times that from above where the value was kept, and 0 where dropped."""
    x = _input(subject).requires_grad_()
    for p in RATES:
        y = seeded(_layer(subject, p), x)
        d_y = torch.rand_like(y) + 1
        (d_x,) = torch.autograd.grad(y, x, d_y)
        dropped = _dropped(subject, x.detach(), y.detach(), p)
        expected = torch.where(dropped, 0, _scale(subject, p)[0] * d_y)
        off = (d_x - expected).abs().max().item()
        assert off <= 1e-14, f"with p = {p} the gradient is {off:.3g} off"


@check
def drops_whole_channels(subject: Subject) -> None:
    """All values of a channel of a sample are dropped, or none."""
    if subject.name not in OF_CHANNELS:
        skip("it drops single values")
    x = _input(subject)
    for p in RATES:
        dropped = _dropped(subject, x, seeded(_layer(subject, p), x), p).flatten(2)
        assert (dropped.all(2) == dropped.any(2)).all(), "a channel is dropped in part"


@check
def drops_nothing_or_everything(subject: Subject) -> None:
    """p = 0 gives the input, p = 1 what is dropped everywhere, with a gradient of 0."""
    x = _input(subject)
    assert torch.equal(seeded(_layer(subject, 0.0), x), x), "p = 0 changes the input"
    x.requires_grad_()
    y = seeded(_layer(subject, 1.0), x)
    assert (y == 0).all(), "p = 1 leaves something"
    (d_x,) = torch.autograd.grad(y.sum(), x)
    assert (d_x == 0).all(), "p = 1 has a gradient"


@check
def is_the_identity_in_evaluation(subject: Subject) -> None:
    """In evaluation the output is the input, and the gradient that from above."""
    x = _input(subject).requires_grad_()
    y = _layer(subject, 0.5).eval()(x * 1)
    assert torch.equal(y, x), "evaluation changes the input"
    d_y = torch.rand_like(y)
    assert torch.equal(torch.autograd.grad(y, x, d_y)[0], d_y), "evaluation changes the gradient"


@check
def keeps_the_expectation(subject: Subject) -> None:
    """The mean of the output is that of the input; alpha dropout, of a standard normal input, keeps
    mean 0 and variance 1.

    Within 7 standard deviations of the mean of n independent values (false alarm: 3 in 10^12 for
    a normal distribution); those of a channel count once.
    """
    torch.manual_seed(1)
    draws = N * C
    x = torch.randn(N, C, *[1] * OF_CHANNELS.get(subject.name, 0), dtype=torch.float64)
    x = x.to(subject.device)
    for p in (0.1, 0.5):
        y = seeded(_layer(subject, p), x)
        difference = (y - x).flatten()
        allowed = 7 * difference.std().item() / math.sqrt(draws)
        mean = difference.mean().item()
        assert abs(mean) <= allowed, f"the mean moves by {mean:.4f} with p = {p}"
        if "Alpha" in subject.name:
            squares = (y * y - x * x).flatten()
            allowed = 7 * squares.std().item() / math.sqrt(draws)
            moved = squares.mean().item()
            assert abs(moved) <= allowed, f"the mean square moves by {moved:.4f} with p = {p}"
