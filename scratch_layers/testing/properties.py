"""Checks on drawn options, shapes and values: Hypothesis looks for a failing case, and shrinks it.

The smallest failing case is printed as a program of plain torch. Needs ``hypothesis``; the draws
are the same each time. Values are integers from -4 to 4, so that the values of a set are equal or
apart, and derivatives by them are not made of rounding; for whoever is no drop-in plus 5/16, so
that none lies at a kink, where derivatives are a convention.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from scratch_layers.testing.case import Case
from scratch_layers.testing.parity import agree_on, same_refusal
from scratch_layers.testing.subject import Subject, direction, outcome, refused, step
from scratch_optim.testing.kit import check, public_name, skip

EXAMPLES = 30

Draw = Callable[[Any], Any]


class Source:
    """What is drawn from: numbers, shapes and choices of one example."""

    def __init__(self, draw: Draw, strategies: Any, offset: float) -> None:
        self.draw, self.st, self.offset = draw, strategies, offset

    def size(self, most: int = 3, least: int = 1) -> int:
        """A number of values, channels or classes."""
        return int(self.draw(self.st.integers(least, most)))

    def among(self, *values: Any) -> Any:
        """One of some values; the first is the simplest."""
        return self.draw(self.st.sampled_from(values))

    def numbers(self, *shape: int) -> Tensor:
        """Values."""
        n = math.prod(shape)
        numbers = self.draw(self.st.lists(self.st.integers(-4, 4), min_size=n, max_size=n))
        return torch.tensor(numbers, dtype=torch.float64).reshape(shape) + self.offset

    def classes(self, C: int, *shape: int) -> Tensor:
        """Indices of classes."""
        n = math.prod(shape)
        index = self.draw(self.st.lists(self.st.integers(0, C - 1), min_size=n, max_size=n))
        return torch.tensor(index, dtype=torch.long).reshape(shape)


Example = tuple[tuple[Any, ...], dict[str, Any], list[Tensor]]
"""Positional arguments and options of the constructor, and inputs."""


def _spatial(name: str) -> int:
    return int(name[-2]) if name[-2].isdigit() else 2


def _batch_norm(it: Source, name: str) -> Example:
    C = it.size()
    options = {
        "eps": it.among(1e-5, 0.5),
        "momentum": it.among(0.1, 0.75, None),
        "affine": it.among(True, False),
        "track_running_stats": it.among(True, False),
    }
    spatial = [it.size() for _ in range(_spatial(name))]
    if name == "BatchNorm1d" and it.among(True, False):
        spatial = []
    return (C,), options, [it.numbers(it.size(), C, *spatial)]


def _instance_norm(it: Source, name: str) -> Example:
    C = it.size()
    options = {"eps": it.among(1e-5, 0.5), "affine": it.among(True, False)}
    spatial = [it.size() for _ in range(_spatial(name))]
    return (C,), options, [it.numbers(it.size(), C, *spatial)]


def _layer_norm(it: Source, name: str) -> Example:
    shape = [it.size() for _ in range(it.size(2))]
    options = {"eps": it.among(1e-5, 0.5), "elementwise_affine": it.among(True, False)}
    leading = [it.size() for _ in range(it.size(2, 0))]
    return (tuple(shape),), options, [it.numbers(*leading, *shape)]


def _group_norm(it: Source, name: str) -> Example:
    groups, each = it.size(), it.size(2)
    options = {"eps": it.among(1e-5, 0.5), "affine": it.among(True, False)}
    spatial = [it.size() for _ in range(it.size(2, 0))]
    x = it.numbers(it.size(), groups * each, *spatial)
    return (groups, groups * each), options, [x]


def _dropout(it: Source, name: str) -> Example:
    shape = [it.size() for _ in range(2 + (_spatial(name) if name[-1] == "d" else 1))]
    return (it.among(0.5, 0.0, 1.0, 0.2),), {}, [it.numbers(*shape)]


def _of_classes(it: Source, name: str) -> Example:
    N, C = it.size(), it.size(4)
    options: dict[str, Any] = {
        "reduction": it.among("mean", "sum", "none"),
        "weight": it.among(None, (0.25, 1.0, 3.0, 0.5)),
        "ignore_index": it.among(-100, 0),
    }
    if options["weight"] is not None:
        options["weight"] = torch.tensor(options["weight"][:C], dtype=torch.float64)
    if name == "CrossEntropyLoss":
        options["label_smoothing"] = it.among(0.0, 0.25, 1.0)
    spatial = [it.size() for _ in range(it.size(2, 0))]
    x = it.numbers(N, C, *spatial)
    return (), options, [x, it.classes(C, N, *spatial)]


EXAMPLE: dict[str, Callable[[Source, str], Example]] = {
    **dict.fromkeys(("BatchNorm1d", "BatchNorm2d", "BatchNorm3d"), _batch_norm),
    **{f"InstanceNorm{d}d": _instance_norm for d in (1, 2, 3)},
    **dict.fromkeys(("LayerNorm", "RMSNorm"), _layer_norm),
    "GroupNorm": _group_norm,
    **dict.fromkeys(("Dropout", "Dropout1d", "Dropout2d", "Dropout3d"), _dropout),
    **dict.fromkeys(("AlphaDropout", "FeatureAlphaDropout"), _dropout),
    **dict.fromkeys(("CrossEntropyLoss", "NLLLoss"), _of_classes),
}
"""How the arguments of a layer are drawn; of others the cases are taken, with drawn values."""


def _example(subject: Subject, it: Source) -> tuple[Case, list[Tensor]]:
    if subject.name in EXAMPLE:
        args, options, inputs = EXAMPLE[subject.name](it, subject.name)
        case = replace(subject.cases[0], args=args, options=options, label="drawn")
        return case, [x.to(subject.device) for x in inputs]
    case = it.among(*subject.cases)
    first, *others = subject.draw(case, torch.float64, seed=it.size(9, 0))
    if case.scales:
        first = it.numbers(*first.shape).to(first)
    return case, [first, *others]


def _literal(x: Tensor) -> str:
    values = x.detach().cpu().tolist()
    return f"torch.tensor({values}, dtype={x.dtype})"


def snippet(
    subject: Subject, case: Case, inputs: Sequence[Tensor], training: bool, layer: nn.Module
) -> str:
    """A program of plain torch that makes the layer, calls it and prints output and gradients."""

    def said(value: Any) -> str:
        return _literal(value) if isinstance(value, Tensor) else repr(value)

    options = [f"{name}={said(value)}" for name, value in case.options.items()]
    arguments = ", ".join([*map(said, case.args), *options])
    place, _, name = public_name(subject.cls).rpartition(".")
    lines = ["import torch", f"from {place} import {name}"]
    classes = [name]
    if isinstance(subject.reference, type):
        theirs, _, reference = public_name(subject.reference).rpartition(".")
        lines.append(f"from {theirs} import {reference} as Reference")
        classes.append("Reference")
    lines += ["", f"for cls in ({', '.join(classes)},):"]
    body = [f"layer = cls({arguments}).double().train({training})"]
    if list(layer.parameters()):
        body.append("with torch.no_grad():")
    body += [f"    layer.{name}.copy_({_literal(p)})" for name, p in layer.named_parameters()]
    for i, x in enumerate(inputs):
        leaf = ".requires_grad_()" if i in case.wrt else ""
        body.append(f"x{i} = {_literal(x)}{leaf}")
    body.append("torch.manual_seed(2)")
    body.append(f"y = layer({', '.join(f'x{i}' for i in range(len(inputs)))})")
    y = outcome(layer, *inputs)
    if not refused(y):
        body.append(f"y.backward({_literal(direction(y))})")
    body.append('print(cls.__module__, "output", y)')
    body += [f'print("gradient by input {i}", x{i}.grad)' for i in case.wrt]
    body += [
        f'print("gradient by {name}", layer.{name}.grad)' for name, _ in layer.named_parameters()
    ]
    body += [f'print("buffer {name}", layer.{name})' for name, _ in layer.named_buffers()]
    return "\n".join([*lines, *[f"    {line}" for line in body]])


def _compare(subject: Subject, case: Case, inputs: Sequence[Tensor], training: bool) -> None:
    reference, layer = (x.train(training) for x in subject.pair(case, torch.float64))
    expected = outcome(step, case, reference, inputs)
    if refused(expected):
        if subject.drop_in:
            same_refusal(subject, outcome(step, case, layer, inputs), expected)
        return
    agree_on(subject, case, inputs, training)


@check
def equals_the_reference_on_drawn_cases(subject: Subject) -> None:
    """On options, shapes and values that Hypothesis draws, output and gradients are those of the
    reference; the smallest failing case is printed as a program.
    """
    try:
        import hypothesis
        from hypothesis import strategies
    except ImportError:
        skip("hypothesis is not installed")
    if subject.reference is None:
        skip("there is no reference")
    reasons = [case.without.get("equals_the_reference_on_drawn_cases") for case in subject.cases]
    if all(reasons):
        skip(str(reasons[0]))
    smallest: list[tuple[Case, list[Tensor], bool]] = []

    @hypothesis.settings(
        max_examples=EXAMPLES,
        database=None,
        derandomize=True,
        deadline=None,
        print_blob=False,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategies.data())
    def search(data: Any) -> None:
        it = Source(data.draw, strategies, 0 if subject.drop_in else 5 / 16)
        case, inputs = _example(subject, it)
        training = it.among(True, False)
        if case.random and training and not subject.same_draws:
            return
        smallest[:] = [(case, inputs, training)]  # the last one that is run is the smallest
        _compare(subject, case, inputs, training)

    try:
        search()
    except Exception as error:
        case, inputs, training = smallest[0]
        layer = subject.make(case, torch.float64).train(training)
        program = snippet(subject, case, inputs, training, layer)
        raise AssertionError(f"{error}\n\n{program}") from error
