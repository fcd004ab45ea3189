"""How far optimizers part from their reference, step by step: curves, and a picture of them.

    python scripts/divergence.py --log-dir runs/parity     TensorBoard, a run for each package
    python scripts/divergence.py --picture                 writes docs/divergence.svg

Every optimizer runs in float32 in each of its ways, beside its reference in float64 (a for-loop),
on the same 200 gradients. The difference is the largest over all parameters, divided by the largest
parameter. That of two equal texts is a few roundings, 1e-7; an equation that is another leaves that
at the first steps. A second kind of curve is a whole training: a ResNet-20 whose optimizer, or
layers, or both are by hand, beside the built-in ones, all in float32.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import Parameter
from torch.utils.tensorboard import SummaryWriter

import peers
import scratch_layers
import scratch_optim
from scratch_layers.resnet import resnet20
from scratch_optim.testing import Subject
from scratch_optim.testing.kit import NotApplicable
from scratch_optim.testing.subject import gradients, laid_as, parameters
from training.data import load

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "divergence.svg"
STEPS = 200
FLOOR = 1e-12
"""What is drawn of no difference at all, whose logarithm is none."""

WAYS: dict[str, dict[str, Any]] = {
    "for-loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}


SAID = {"Adafactor": {"eps": (1e-7, 1e-3)}}
"""Options by the name of the reference: its default is the epsilon of the dtype, with which float32
and float64 are two equations."""


@dataclass(frozen=True)
class Curve:
    """The difference after each step."""

    of: str
    """The optimizer, or what of a network is by hand."""
    package: str
    way: str
    values: list[float]


def subjects() -> Iterator[tuple[str, str, Subject]]:
    """Name of the reference's class, package and subject of all that have a reference."""
    for package in peers.OPTIM:
        if not package.installed:
            continue
        for place in peers.optimizers(package):
            if peers.unasked(place):
                continue
            subject = peers.optimizer(place)
            if package.module == "torch.optim":
                subject = Subject(subject.cls, subject.cls)
            if place.startswith("scratch_optim:") and subject.reference is None:
                subject = Subject(subject.cls, subject.cls)
            if not isinstance(subject.reference, type) or subject.needs_closure or subject.sparse:
                continue
            yield subject.reference.__name__, package.module, subject


def ways(subject: Subject) -> dict[str, dict[str, Any]]:
    """The ways that a subject has."""
    found = {name: dict(way) for name, way in WAYS.items() if all(map(subject.has, way))}
    return found or {"for-loop": {}}


def curve(subject: Subject, way: dict[str, Any], steps: int = STEPS) -> list[float]:
    """The difference from the reference after each step, in units of the largest parameter.

    Raises:
        NotApplicable: the optimizer does not run in that way.
    """
    rows = gradients(subject.shapes, torch.float32, subject.device, steps)
    mine = parameters(subject.shapes, torch.float32, subject.device)
    exact = [Parameter(p.detach().double()) for p in mine]
    said = SAID.get(getattr(subject.reference, "__name__", ""), {})
    options = {**subject.typical, **said}
    reference = subject.make_reference(exact, **options, **WAYS["for-loop"])
    try:
        optimizer = subject.make(mine, **{**options, **way})
    except (RuntimeError, ValueError) as error:
        raise NotApplicable(str(error)) from error
    found = []
    for row in rows:
        subject.take_step(reference, exact, [g.double() for g in row])
        subject.take_step(optimizer, mine, [laid_as(p, g) for p, g in zip(mine, row, strict=True)])
        found.append(difference(mine, exact))
    return found


def difference(mine: Sequence[torch.Tensor], exact: Sequence[torch.Tensor]) -> float:
    """The largest difference of any two values, divided by the largest value."""
    pairs = [(p.detach().double(), q.detach().double()) for p, q in zip(mine, exact, strict=True)]
    pairs = [(p, q) for p, q in pairs if p.numel()]
    apart = max((p - q).abs().max().item() for p, q in pairs)
    return apart / max(q.abs().max().item() for _, q in pairs)


def of_optimizers(match: str = "") -> Iterator[Curve]:
    """The curves of all optimizers, ways and packages."""
    for name, package, subject in subjects():
        if match not in name:
            continue
        for way, switch in ways(subject).items():
            try:
                yield Curve(name, package, way, curve(subject, switch))
            except NotApplicable as reason:
                print(f"{package} {name}, {way}: left out, {reason}")


STACKS = {
    "optimizer by hand": (nn, scratch_optim),
    "layers by hand": (scratch_layers, torch.optim),
    "both by hand": (scratch_layers, scratch_optim),
}


def of_training(steps: int = 60, batch: int = 32) -> Iterator[Curve]:
    """A ResNet-20 on digits, beside one that is all built in, on the same batches."""
    data = load("digits", None, seed=0).train
    images, labels = data.images.float().div(255).expand(-1, 3, -1, -1), data.labels

    def train(layers: Any, optim: Any, **layout: Any) -> Iterator[list[torch.Tensor]]:
        torch.manual_seed(0)
        model = resnet20(layers).to(**layout)
        optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        generator = torch.Generator().manual_seed(0)
        for _ in range(steps):
            chosen = torch.randint(len(labels), (batch,), generator=generator)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimizer.step()
            yield [p.detach().clone() for p in model.parameters()]

    built_in = list(train(nn, torch.optim))
    runs = {name: train(*stack) for name, stack in STACKS.items()}
    runs["built in, channels_last"] = train(nn, torch.optim, memory_format=torch.channels_last)
    for name, run in runs.items():
        values = [difference(p, q) for p, q in zip(run, built_in, strict=True)]
        yield Curve("ResNet-20 on digits", name, "training", values)


def log(curves: Sequence[Curve], folder: Path) -> None:
    """Write scalars, a run for each package: the difference and its logarithm to base ten."""
    for package in dict.fromkeys(c.package for c in curves):
        with SummaryWriter(str(folder / package.replace(" ", "_"))) as writer:
            for c in curves:
                if c.package != package:
                    continue
                for step, value in enumerate(c.values, start=1):
                    writer.add_scalar(f"difference/{c.of}/{c.way}", value, step)
                    shown = math.log10(max(value, FLOOR))
                    writer.add_scalar(f"log10_difference/{c.of}/{c.way}", shown, step)


# ------------------------------------------------------------------ the picture

COLORS = {
    "torch.optim": "#d62728",
    "scratch_optim": "#1f77b4",
    "timm.optim": "#2ca02c",
    "pytorch_optimizer": "#9467bd",
    "torchao.optim": "#ff7f0e",
    "optimizer by hand": "#1f77b4",
    "layers by hand": "#2ca02c",
    "both by hand": "#9467bd",
    "built in, channels_last": "#d62728",
}
DASHES = {"for-loop": "", "foreach": "6 3", "fused": "2 2", "training": ""}
WIDTH, HEIGHT, MARGIN, COLUMNS = 210, 120, 34, 4
LOWEST, HIGHEST = -10, 0
"""Powers of ten at the ends of the axis."""


def picture(curves: Sequence[Curve]) -> str:
    """The curves as SVG, a panel for each optimizer."""
    panels = list(dict.fromkeys(c.of for c in curves))
    rows = -(-len(panels) // COLUMNS)
    full = (COLUMNS * (WIDTH + MARGIN) + MARGIN, rows * (HEIGHT + MARGIN) + 3 * MARGIN)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {full[0]} {full[1]}" '
        'font-family="sans-serif" font-size="10">',
        f'<rect width="{full[0]}" height="{full[1]}" fill="white"/>',
    ]
    for i, of in enumerate(panels):
        x = MARGIN + i % COLUMNS * (WIDTH + MARGIN)
        y = MARGIN + i // COLUMNS * (HEIGHT + MARGIN)
        parts.append(f'<g transform="translate({x} {y})">')
        parts.append(f'<text x="0" y="-4" font-weight="bold">{of}</text>')
        for power in range(LOWEST, HIGHEST + 1, 2):
            at = _height(10.0**power)
            parts.append(f'<path d="M0 {at}H{WIDTH}" stroke="#ddd"/>')
            parts.append(f'<text x="-4" y="{at + 3:.0f}" text-anchor="end">1e{power}</text>')
        parts += [_line(c) for c in curves if c.of == of]
        parts.append("</g>")
    foot = full[1] - MARGIN
    named = dict.fromkeys(c.package for c in curves)
    for i, package in enumerate(named):
        at = MARGIN + i * (full[0] - 2 * MARGIN) / len(named)
        parts.append(f'<text x="{at:.0f}" y="{foot}" fill="{COLORS[package]}">{package}</text>')
    parts.append(
        f'<text x="{MARGIN}" y="{foot - 16}">largest difference / largest parameter, by step; '
        "solid: for-loop, dashed: foreach, dotted: fused</text>"
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _height(value: float) -> float:
    power = min(max(math.log10(max(value, FLOOR)), LOWEST), HIGHEST)
    return round(HEIGHT * (HIGHEST - power) / (HIGHEST - LOWEST), 1)


def _line(c: Curve) -> str:
    """A polyline through at most 50 points, whatever the number of steps."""
    last = len(c.values) - 1
    chosen = sorted({round(i * last / 49) for i in range(50)})
    points = " ".join(f"{WIDTH * i / last:.0f},{_height(c.values[i])}" for i in chosen)
    return (
        f'<polyline points="{points}" fill="none" stroke="{COLORS[c.package]}" '
        f'stroke-dasharray="{DASHES[c.way]}"><title>{c.package}, {c.way}</title></polyline>'
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Compute the curves; print where they end, log them, draw them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--log-dir", type=Path, help="folder for TensorBoard's event files")
    parser.add_argument("--picture", action="store_true", help=f"write {PICTURE.relative_to(ROOT)}")
    parser.add_argument("--match", default="", help="part of an optimizer's name")
    options = parser.parse_args(argv)
    curves = list(of_optimizers(options.match))
    if not options.match:
        curves += of_training()
    for c in sorted(curves, key=lambda c: (c.of, c.package)):
        print(f"{c.of}, {c.package}, {c.way}: {c.values[0]:.1e} to {c.values[-1]:.1e}")
    if options.log_dir:
        log(curves, options.log_dir)
    if options.picture:
        PICTURE.write_text(picture(curves))
    return 0


if __name__ == "__main__":
    sys.exit(main())
