"""How long a recipe takes to its accuracy: many runs by one clock, as records for speed are held.

    python scripts/record.py --preset air94 --data-dir DIR --runs 50 --target 0.94
    python scripts/record.py --epochs 10 --runs 5 --target 0.9                  on the digits

The network is compiled, and its steps are recorded as CUDA graphs where there is CUDA, in a first
run, whose time is told as that of a cold process. Then the clock runs for each run by itself, from
weights that do not exist yet to answers on the test images:

    in the clock:   initial weights, whitening, augmentation, training, and with --tta six views
    outside of it:  reading the images onto the device, compiling, and the answers without views

Nothing is written, shown or validated while it runs, and the device is read once, at the end. Every
run has another seed; none is left out. Of the accuracies there are the mean with its standard
error, and the p-value of the one-sided t-test against --target.

``--export DIR`` writes the images as ``train.pt`` and ``test.pt``, dicts of uint8 (N, H, W, C) and
labels, which the loaders of the airbench family read: to run its scripts on the same data.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from timed_run import has_folder, keep, make_trainer
from training.data import Data, Split
from training.data import load as load_data
from training.errors import DivergedError, UsageError
from training.loop import Trainer
from training.options import Config, parse
from training.statistics import p_value_above, summarize

TESTED = 2000
"""Test images at a time."""


def wait(device: torch.device) -> None:
    """Until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(trainer: Trainer, seed: int) -> dict[str, float]:
    """One run by the clock: seconds, and accuracies in 0..1.

    Raises:
        DivergedError: a loss is not finite.
    """
    config, test = trainer.config, trainer.data.test
    wait(trainer.device)
    begun = time.perf_counter()
    trainer.restart(seed)
    trainer.fit_unwatched()
    viewed = trainer.logits(test, TESTED, views=True) if config.tta else None
    wait(trainer.device)
    seconds = time.perf_counter() - begun
    losses = torch.stack(trainer.window)[:, 0]
    if not losses.isfinite().all():
        first = int((~losses.isfinite()).nonzero()[0, 0])
        raise DivergedError(f"seed {seed}: the loss is not finite at step {first}. Lower --lr.")
    found = {
        "seed": seed,
        "seconds": seconds,
        "accuracy": right(trainer.logits(test, TESTED), test),
    }
    if viewed is not None:
        found["accuracy_tta"] = right(viewed, test)
    return found


def right(logits: Tensor, split: Split) -> float:
    """The share of images that are answered as they are labelled."""
    return (logits.argmax(1) == split.labels).double().mean().item()


def measure(config: Config, data: Data, runs: int, target: float | None) -> dict[str, Any]:
    """The report of so many runs after a first one.

    Args:
        config: of all; its seed is that of the first run, the others have the next ones.
        data: on the device.
        runs: how many are timed.
        target: accuracy to be above; with six views, by these.
    """
    began = time.perf_counter()
    trainer = make_trainer(config, data)
    cold = timed(trainer, config.seed)
    cold_seconds = time.perf_counter() - began
    found = []
    for i in range(1, runs + 1):
        found.append(timed(trainer, config.seed + i))
        print(line(found[-1]), flush=True)
    columns = {name: [run[name] for run in found] for name in found[0]}
    of = "accuracy_tta" if config.tta else "accuracy"
    report: dict[str, Any] = {
        "steps": trainer.total_steps,
        "epochs": trainer.total_steps / trainer.steps_per_epoch,
        "cuda_graph": config.cuda_graph,
        "cold_seconds": cold_seconds,
        "cold": cold,
        "runs": columns,
        "summary": {
            name: vars(summarize(values)) for name, values in columns.items() if name != "seed"
        },
        "images_per_second": trainer.total_steps
        * config.batch_size
        / summarize(columns["seconds"]).mean,
        "target": target,
    }
    if target is not None:
        p = p_value_above(columns[of], target)
        report["p_above_target"] = p if math.isfinite(p) else None
    return report


def line(run: dict[str, float]) -> str:
    """A run, for people."""
    views = f", {run['accuracy_tta']:.2%} by six views" if "accuracy_tta" in run else ""
    return f"seed {run['seed']}: {run['seconds']:.3f} s, {run['accuracy']:.2%}{views}"


def show(report: dict[str, Any]) -> str:
    """The report, for people."""
    lines = []
    for name, form, factor in (
        ("seconds", "{:.3f} ± {:.3f} s", 1.0),
        ("accuracy", "{:.3f} ± {:.3f} %", 100.0),
        ("accuracy_tta", "{:.3f} ± {:.3f} %, by six views", 100.0),
    ):
        if name in report["summary"]:
            found = report["summary"][name]
            shown = form.format(factor * found["mean"], factor * found["standard_error"])
            lines.append(f"{shown} (mean and standard error of {found['n']} runs)")
    lines.append(
        f"{report['cold_seconds']:.1f} s the first run, with all that is compiled and recorded"
    )
    p = report.get("p_above_target")
    if report["target"] is not None:
        shown = "not to be tested: all runs are alike" if p is None else f"p = {p:.2g}"
        lines.append(f"above {report['target']:.2%}: {shown}")
    return "\n".join(lines)


def export(data: Data, folder: Path) -> None:
    """Write ``train.pt`` and ``test.pt`` for the loaders of the airbench family."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "test"):
        split: Split = getattr(data, name)
        torch.save(
            {
                "images": split.images.permute(0, 2, 3, 1).contiguous(),
                "labels": split.labels,
                "classes": list(data.classes),
            },
            folder / f"{name}.pt",
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print, and write the report where ``--out`` says. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="record.py",
        description=(__doc__ or "").split("\n")[0],
        epilog="All other options are those of cifar10.py.",
        allow_abbrev=False,
    )
    parser.add_argument("--runs", type=int, default=10, help="runs by the clock (%(default)s)")
    parser.add_argument("--target", type=float, help="accuracy to be above, 0 to 1 (default: none)")
    parser.add_argument("--out", type=Path, help="JSON file for the report (default: none)")
    parser.add_argument("--export", type=Path, metavar="DIR", help="write the images, and end")
    own, rest = parser.parse_known_args(argv)
    try:
        if own.runs < 1:
            raise UsageError(f"--runs {own.runs}: give a whole number, 1 or more.")
        if own.target is not None and not 0 < own.target < 1:
            raise UsageError(f"--target {own.target}: give a share, such as 0.94.")
        has_folder(own.out)
        with tempfile.TemporaryDirectory() as folder:
            config = parse([*rest, "--log-dir", folder, "--no-tensorboard", "--quiet"])
        if config.resume or config.budget or config.patience or config.average == "swa":
            raise UsageError(
                "--resume, --budget, --patience and --average swa: a run by the clock goes from "
                "its beginning to the end of --epochs. Leave them out."
            )
        data = load_data(config.dataset, config.data_dir, config.seed, print, config.holdout)
        if own.export is not None:
            export(data, own.export)
            print(f"-> {own.export}")
            return 0
        torch.backends.cudnn.benchmark = True  # all batches have one shape
        report = measure(config, data.to(torch.device(config.device)), own.runs, own.target)
    except UsageError as error:
        print(f"record.py: error: {error}", file=sys.stderr)
        return 2
    except DivergedError as error:
        print(f"record.py: {error}", file=sys.stderr)
        return 1
    print(show(report))
    if own.out is not None:
        keep(own.out, "record", report, config)
    return 0


if __name__ == "__main__":
    sys.exit(main())
