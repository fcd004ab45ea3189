"""Draw what Adam's equation does in a short run on the digits, from the run's own event file.

    python scripts/explain_picture.py --out docs/pictures/explain.png

The run is one of cifar10.py with ``--explain 1``: the learning rate warms up and falls. Other
options are handed on to it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.loop import train
from training.options import parse

RUN = ["--epochs", "8", "--warmup", "2", "--schedule", "cosine", "--explain", "1", "--quiet"]
RUN += ["--log-every", "1", "--clip-grad-norm", "2"]
GROUP = "weights"


def curves(folder: str) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values by tag."""
    found = EventAccumulator(folder, size_guidance={"scalars": 0}).Reload()
    return {
        tag: ([e.step for e in found.Scalars(tag)], [e.value for e in found.Scalars(tag)])
        for tag in found.Tags()["scalars"]
    }


def draw(found: dict[str, tuple[list[int], list[float]]], out: Path) -> None:
    """Write the picture."""
    own = {tag.removeprefix(f"explain/{GROUP}/"): xy for tag, xy in found.items()}
    figure, axes = plt.subplots(2, 2, figsize=(10, 6), sharex=True, layout="constrained")
    (rate, size), (moment, direction) = axes

    x, _ = own["rate_q50"]
    rate.fill_between(x, own["rate_q05"][1], own["rate_q95"][1], alpha=0.25, label="5 % to 95 %")
    rate.plot(*own["rate_q50"], label="median")
    rate.plot(*own[f"learning_rate/{GROUP}"], color="black", linewidth=1, label="lr")
    rate.set(yscale="log", title="rate of an element: lr / (√v̂ + eps)")

    size.plot(*own["update_rms"], label="RMS of the update")
    size.plot(*own[f"learning_rate/{GROUP}"], color="black", linewidth=1, label="lr")
    size.set(yscale="log", title="how far an element moves in a step")

    moment.plot(*own["gradient_rms"], linewidth=0.8, alpha=0.6, label="RMS of g")
    moment.plot(*own["m_hat_rms"], label="RMS of m̂")
    moment.set(ylim=(0, None), title="gradient and its mean", xlabel="step")

    direction.plot(*own["cosine"], linewidth=0.8, label="cosine of update and -g")
    direction.plot(*own["explain/clip_factor"], linewidth=0.8, label="clip factor")
    direction.set(title="down the gradient, and how much of it", xlabel="step", ylim=(-0.1, 1.05))

    for axis in axes.flat:
        axis.legend(frameon=False, fontsize="small")
        axis.grid(alpha=0.3)
    figure.savefig(out, dpi=110, metadata={"Software": None})


def main(argv: Sequence[str] | None = None) -> int:
    """Train, draw. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog=Path(__file__).name, description=(__doc__ or "").split("\n")[0], allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, required=True, help="PNG file")
    own, rest = parser.parse_known_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        train(parse([*RUN, *rest, "--log-dir", folder]))
        draw(curves(folder), own.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
