"""Compare what a network can be trained with, one thing at a time, in seconds.

    python scripts/compare.py                          all experiments, on scikit-learn's digits
    python scripts/compare.py optimizers warmup        these
    python scripts/compare.py --list
    python scripts/compare.py activations --dataset cifar10 --data-dir DIR --seeds 3 --epochs 10

An experiment is data (scripts/training/experiments.py): variants of the options of cifar10.py, each
trained with several seeds. It gives a table (training and test accuracy, their gap, seconds, epochs
to a target; mean ± standard error over the seeds), a figure, and curves for TensorBoard, in a
folder of its own under ``--log-dir``, and a record of all of it in ``results.json`` there. Three
experiments need no training.

The images a network is tested on are used once, at the end of each run. Targets are judged by the
validation images. All other options are those of cifar10.py and hold for every variant.

``--update`` also writes the pictures, the record and the tables of docs/experiments.md;
``--markdown`` makes pictures and tables again from the record, without training.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tables import markdown
from training import figures, options
from training.comparison import Asked, Comparison, Record
from training.errors import InterruptedRunError, UsageError
from training.experiments import EXPERIMENTS, Experiment
from training.result import flat_json, write_file
from training.series import REMEDY

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "compare-digits.json"
PICTURES = ROOT / "docs" / "pictures" / "compare"
PAGE = ROOT / "docs" / "experiments.md"


def parser() -> argparse.ArgumentParser:
    """The command line: that of cifar10.py, and what is asked of this script."""
    p = argparse.ArgumentParser(
        prog="compare.py",
        description=(__doc__ or "").split("\n")[0],
        epilog="Exit code: 0 done (a variant that diverges is a result), 2 something to mend, 130 "
        "interrupted; experiments that were finished remain.",
        parents=[options.parser()],
        conflict_handler="resolve",  # --seeds and --target are those below
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    p.add_argument("names", nargs="*", default=[], metavar="EXPERIMENT", help="(default: all)")
    p.add_argument("--list", action="store_true", default=False, help="say what there is")
    p.add_argument(
        "--update",
        action="store_true",
        default=False,
        help="write the record, the pictures and the tables of docs/experiments.md too",
    )
    p.add_argument(
        "--markdown",
        action="store_true",
        default=False,
        help="train nothing: write the pictures and tables of docs/experiments.md, from "
        f"{RESULTS.relative_to(ROOT)}",
    )
    p.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help="train each variant with the seeds 0 ... N - 1 (default: what the experiment has)",
    )
    p.add_argument(
        "--target",
        type=float,
        metavar="ACCURACY",
        help="in 0..1: count the epochs to this validation accuracy (default: likewise)",
    )
    return p


def chosen(names: Sequence[str]) -> list[Experiment]:
    """The experiments of these names; without names all of them.

    Raises:
        UsageError: there is none of that name.
    """
    for name in names:
        if name not in EXPERIMENTS:
            near = difflib.get_close_matches(name, EXPERIMENTS, 1)
            meant = f" Did you mean {near[0]}?" if near else ""
            raise UsageError(
                f"{name}: there is no such experiment.{meant} --list says which there are."
            )
    return [EXPERIMENTS[name] for name in names or EXPERIMENTS]


def read(file: Path) -> dict[str, Record]:
    """The records of a file, by the name of the experiment; of one that is not there none.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        records: dict[str, Record] = json.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read ({error}). Delete it, and run again.") from error
    return records


def keep(file: Path, name: str, record: Record) -> None:
    """Put a record among those of a file, in the order of the experiments."""
    records = read(file) | {name: record}
    ordered = {known: records[known] for known in EXPERIMENTS if known in records}
    write_file(file, flat_json(ordered).encode(), REMEDY)


def aligned(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table for a terminal."""
    lines = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
        for line in lines
    )


def log(folder: Path, experiment: Experiment, record: Record, picture: bytes) -> None:
    """Event files: a run for each variant and seed, and one of the experiment with its figure."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    from training.events import Writer

    for run, tags in experiment.scalars(record).items():
        writer = Writer(str(folder / run), 0)
        for tag, points in tags.items():
            for step, value in points:
                scalar = Summary.Value(tag=tag, simple_value=value)
                writer._get_file_writer().add_summary(Summary(value=[scalar]), step)
        writer.close()
    writer = Writer(str(folder), 0)
    writer.add_image(experiment.name, figures.pixels(picture), 0, dataformats="HWC")
    made = experiment.table(record)
    writer.add_text(experiment.name, f"{experiment.shows}\n\n{markdown(*made) if made else ''}", 0)
    writer.close()


def filled(text: str, records: dict[str, Record]) -> str:
    """A page with the tables of the records between its markers."""

    def fill(found: re.Match[str]) -> str:
        name = found[1]
        made = EXPERIMENTS[name].table(records[name])
        return f"<!-- table {name} -->\n{markdown(*made) if made else ''}\n<!-- end -->"

    known = "|".join(name for name in EXPERIMENTS if name in records)
    return re.sub(rf"<!-- table ({known}) -->\n.*?<!-- end -->", fill, text, flags=re.DOTALL)


def document(names: Iterable[str]) -> None:
    """Draw the pictures of these experiments, and fill in the tables, from the record."""
    records = read(RESULTS)
    for name in names:
        if name not in records:
            raise UsageError(f"{name}: {RESULTS} does not have it. Run it with --update first.")
        picture = figures.png(partial(EXPERIMENTS[name].draw, records[name]))
        write_file(PICTURES / f"{name}.png", picture, REMEDY)
    write_file(PAGE, filled(PAGE.read_text(), records).encode(), REMEDY)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads for the operations within."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run(experiments: Sequence[Experiment], given: dict[str, Any], update: bool) -> None:
    """Do them, one after the other, and write what comes out after each.

    Raises:
        UsageError: an option, or a combination of options, that cannot be; before anything is
            trained.
        InterruptedRunError: as ``train``.
    """
    dataset = given.get("dataset", "digits")
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder = Path(given.pop("log_dir", f"runs/compare-{dataset}-{stamp}"))
    if (folder / "results.json").exists():
        raise UsageError(
            f"--log-dir {folder}: this folder holds other comparisons. Choose another folder, or "
            "delete this one."
        )
    seeds, board = given.pop("seeds", None), given.pop("tensorboard", True)
    if seeds is not None and seeds < 1:
        raise UsageError(f"--seeds {seeds}: give a whole number, 1 or more.")
    target = given.pop("target", None)
    if target is not None and not 0 <= target <= 1:
        raise UsageError(f"--target {target}: an accuracy is in 0..1; give 0.94 for 94 %.")
    if update and (given or seeds or target):
        raise UsageError(
            "--update: the documentation has the experiments as they are. Leave the other options "
            "out."
        )
    asked = Asked(given, seeds, target, lambda line: print(line, flush=True))
    for experiment in experiments:
        if isinstance(experiment, Comparison):
            experiment.configurations(asked)
    for experiment in experiments:
        record = experiment.measure(asked)
        picture = figures.png(partial(experiment.draw, record))
        keep(folder / "results.json", experiment.name, record)
        write_file(folder / f"{experiment.name}.png", picture, REMEDY)
        if board:
            log(folder / experiment.name, experiment, record, picture)
        if update:
            keep(RESULTS, experiment.name, record)
        made = experiment.table(record)
        print(f"\n{experiment.name}: {experiment.shows}\n")
        print(f"{aligned(*made)}\n" if made else "", end="")
        print(f"-> {folder / experiment.name}.png\n", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Do as the command line says. Returns the exit code."""
    given = vars(parser().parse_args(argv))
    names, update = given.pop("names"), given.pop("update")
    listing, documenting = given.pop("list"), given.pop("markdown")
    try:
        experiments = chosen(names)
        if listing:
            rows = [(each.name, each.shows) for each in experiments]
            width = max(len(name) for name, _ in rows)
            print("\n".join(f"{name:{width}}  {shows}" for name, shows in rows))
            return 0
        if not documenting:
            # on the digits a step is too small to be shared out: other threads would only wait
            small = given.get("dataset", "digits") == "digits"
            with threads(1 if small else torch.get_num_threads()):
                run(experiments, given, update)
        if update or documenting:
            document(each.name for each in experiments)
    except UsageError as error:
        print(f"compare.py: error: {error}", file=sys.stderr)
        return 2
    except (InterruptedRunError, KeyboardInterrupt):
        print("compare.py: interrupted. What was finished remains.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
