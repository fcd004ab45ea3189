"""Normalizations: mean 0 and variance 1 of each set, whatever it was, and what is remembered.

A set is the values that share a mean: those of a channel over the batch, of a row, of a group of
channels of a sample, of a channel of a sample. RMSNorm has sets, but no means.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from scratch_layers.testing.case import Case
from scratch_layers.testing.subject import Subject, every_case, leaves, near, one_case
from scratch_optim.testing.kit import skip

Sets = Callable[[Tensor, dict[str, Any]], Tensor]


def _channels(x: Tensor, _: dict[str, Any]) -> Tensor:
    return x.transpose(0, 1).flatten(1)


def _rows(x: Tensor, arguments: dict[str, Any]) -> Tensor:
    shape = arguments["normalized_shape"]
    return x.reshape(-1, shape if isinstance(shape, int) else prod(shape))


def _groups(x: Tensor, arguments: dict[str, Any]) -> Tensor:
    return x.reshape(len(x) * arguments["num_groups"], -1)


def _instances(dimensions: int) -> Sets:
    return lambda x, _: x.flatten(0, -1 - dimensions).flatten(1)


SETS: dict[str, Sets] = {
    **dict.fromkeys(("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "SyncBatchNorm"), _channels),
    **{f"InstanceNorm{d}d": _instances(d) for d in (1, 2, 3)},
    **dict.fromkeys(("LayerNorm", "RMSNorm"), _rows),
    "GroupNorm": _groups,
}
"""How to reshape an input to (sets, values of a set)."""


@dataclass
class Plain:
    """A layer in float64 with γ = 1 and β = 0, and what is known of it."""

    layer: nn.Module
    x: Tensor
    """An input of mean 3 and standard deviation 2."""
    eps: float
    sets: Callable[[Tensor], Tensor]

    def variance(self, x: Tensor) -> Tensor:
        """What ε is added to, for each set: the biased variance, or the mean square."""
        x = self.sets(x)
        centred = x - x.mean(1, keepdim=True) if self.centres else x
        return (centred * centred).mean(1)

    centres: bool = True


def _plain(subject: Subject, case: Case, **more: Any) -> Plain:
    if subject.name not in SETS:
        skip("which values share a mean is not known")
    layer = subject.make(case, torch.float64, **more)
    with torch.no_grad():
        for name, p in layer.named_parameters():
            p.fill_(0.0 if name == "bias" else 1.0)
    (x,) = subject.draw(case, torch.float64)
    arguments = subject.arguments(case)
    eps = arguments.get("eps")
    return Plain(
        layer,
        2 * x + 3,
        torch.finfo(x.dtype).eps if eps is None else eps,
        lambda y: SETS[subject.name](y, arguments),
        subject.name != "RMSNorm",
    )


@every_case
def makes_mean_zero_and_variance_one(subject: Subject, case: Case) -> None:
    """In training each set gets the mean 0 and the biased variance σ²/(σ² + ε): ε under the root,
    the variance divided by the number of values.
    """
    it = _plain(subject, case)
    y = it.layer(it.x)
    if it.centres:
        mean = it.sets(y).mean(1)
        near(mean, torch.zeros_like(mean), [it.x], "the mean of the sets of outputs")
    before = it.variance(it.x)
    near(it.variance(y), before / (before + it.eps), [it.x], "the variance of the outputs")


@every_case
def does_not_see_shift_and_scale(subject: Subject, case: Case) -> None:
    """a x + b with a > 0 gives the output of x, up to ε/σ² of it; without a mean, a x."""
    it = _plain(subject, case)
    x = 1e4 * it.x
    b = 1e4 if it.centres else 0.0
    actual, expected = (_plain(subject, case).layer(z) for z in (3 * x + b, x))
    largest = float(expected.detach().abs().max())
    allowed = largest * it.eps / float(it.variance(x).min()) + 1e-12
    off = float((actual - expected).detach().abs().max())
    assert off <= allowed, f"the output of 3 x + {b:g} is {off:.3g} off that of x"


@every_case
def its_gradient_has_no_part_along_shift_and_scale(subject: Subject, case: Case) -> None:
    """Since the output does not change with shift and scale, the gradient of each set is orthogonal
    to (1, ..., 1) and, up to ε/σ², to the output.
    """
    it = _plain(subject, case)
    x = (1e3 * it.x).requires_grad_()
    y = it.layer(x)
    d_y = torch.randn_like(y)
    (d_x,) = torch.autograd.grad(y, x, d_y)
    sizes = it.sets(d_x).abs().sum(1)
    allowed = sizes * (1e-12 + it.eps / it.variance(x.detach()))
    assert (sizes > 0).all(), "there is no gradient"
    if it.centres:
        along = it.sets(d_x).sum(1).abs()
        # a sum of a channel whose terms are as large as the derivatives by the outputs
        rounding = 1e-13 * it.sets(d_y).abs().sum(1) / it.variance(x.detach()).sqrt()
        assert (along <= allowed + rounding).all(), f"the gradients of sets add up to {along}"
    along = (it.sets(d_x) * it.sets(y.detach())).sum(1).abs()
    size = (
        it.sets(d_y).abs().sum(1) / it.variance(x.detach()).sqrt() * float(y.detach().abs().max())
    )
    allowed = size * (1e-13 + it.eps / it.variance(x.detach()))
    assert (along <= allowed).all(), f"along the output the gradients of sets are {along}"


@every_case
def gain_and_bias_are_applied_last(subject: Subject, case: Case) -> None:
    """The output is γ x̂ + β, so the gradient by β is the sum of that by the output, and by γ its
    sum weighted by x̂, which is the output for γ = 1 and β = 0.
    """
    it = _plain(subject, case)
    layer = subject.make(case, torch.float64)
    parameters = dict(layer.named_parameters())
    if not parameters or not parameters.keys() <= {"weight", "bias"}:
        skip("it has no weight and bias")
    normalized = it.layer(it.x).detach()
    y = layer(it.x)

    def along(p: Tensor) -> Tensor:
        """In a shape to combine with the output: by row, or by channel."""
        return p if subject.name in ("LayerNorm", "RMSNorm") else _by_channel(p, it.x)

    expected = normalized * along(parameters["weight"])
    if "bias" in parameters:
        expected = expected + along(parameters["bias"])
    near(y, expected, [it.x], "the output")
    d_y = torch.randn_like(y)
    for name, factor in {"weight": normalized, "bias": torch.ones_like(normalized)}.items():
        if name in parameters:
            p = parameters[name]
            (actual,) = torch.autograd.grad(y, p, d_y, retain_graph=True)
            sum_ = (d_y * factor).sum_to_size(along(p).shape).reshape(p.shape)
            near(actual, sum_, [it.x], f"the gradient by {name}")


def _by_channel(p: Tensor, x: Tensor) -> Tensor:
    channel = x.dim() - 1 if x.dim() == 2 else 1
    return p.reshape([-1 if d == channel else 1 for d in range(x.dim())])


@every_case
def evaluation_is_linear_in_the_input(subject: Subject, case: Case) -> None:
    """With running statistics the output in evaluation is (x - μ) / sqrt(σ² + ε), of the running
    mean and variance alone, and differentiates as that.
    """
    it = _plain(subject, case)
    buffers = dict(it.layer.named_buffers())
    if not {"running_mean", "running_var"} <= buffers.keys():
        skip("it keeps no running statistics")
    with torch.no_grad():
        mean = buffers["running_mean"].normal_()
        var = buffers["running_var"].uniform_(0.5, 2)
    it.layer.eval()
    (x,) = leaves(case, [it.x])
    y = it.layer(x)
    s = _by_channel((var + it.eps).rsqrt(), x)
    near(y, (x - _by_channel(mean, x)) * s, [x], "the output")
    d_y = torch.randn_like(y)
    near(torch.autograd.grad(y, x, d_y)[0], d_y * s, [x], "the gradient")


@one_case
def remembers_the_batches(subject: Subject, case: Case) -> None:
    """After n steps the running mean is (1 - a)^n 0 + Σ a (1 - a)^(n - k) μ_k, with momentum a, or
    the mean of the μ_k for None; the running variance the same, from 1, of the unbiased variances
    of the batches. n is counted.
    """
    names = {"running_mean", "running_var"}
    arguments = subject.arguments(case)
    if not (subject.accepts("momentum") and subject.accepts("track_running_stats")):
        skip("it keeps no running statistics")
    steps = 3
    for momentum in (arguments["momentum"], 0.3, None):
        if momentum is None and subject.name.startswith("Instance"):
            continue  # it has no cumulative average
        it = _plain(subject, case, momentum=momentum, track_running_stats=True)
        assert names <= dict(it.layer.named_buffers()).keys(), f"it has no {names}"
        expected: dict[str, Any] = {"running_mean": 0.0, "running_var": 1.0}
        for k in range(steps):
            (x,) = subject.draw(case, torch.float64, seed=10 + k)
            x = (k + 1) * x + k
            it.layer(x)
            a = 1 / (k + 1) if momentum is None else momentum
            values = it.sets(x)
            batch = {"running_mean": values.mean(1), "running_var": values.var(1, unbiased=True)}
            for name, of_sets in batch.items():
                new = of_sets.reshape(-1, len(getattr(it.layer, name))).mean(0)
                expected[name] = (1 - a) * expected[name] + a * new
        for name, value in expected.items():
            near(getattr(it.layer, name), value, [x], f"{name} with {momentum=}")
        if not subject.name.startswith("Instance"):  # torch's has a counter that does not count
            count = it.layer.num_batches_tracked
            assert count == steps, f"{count} batches are counted after {steps}"
