"""The cup: one network with each optimizer, normalization or activation, all of them tuned alike.

    python scripts/cup.py optimizer --trials 8 --seeds 10 --epochs 6
    python scripts/cup.py norm --optimizer sgd --dataset cifar10 --data-dir DIR
    python scripts/cup.py activation --report
    python scripts/cup.py optimizer --only adam sgd mine:Sign

Each contestant gets the same number of trials of a search (scripts/tune.py: TPE, judged by the
images that are set aside, nothing ended early), over the learning rate, weight decay and momentum
of its optimizer. With the best options of its search it is trained with the same seeds, and tested.
All other options are those of cifar10.py and hold for all of them.

The results are lines of ``OUT/results.jsonl``; scripts/leaderboard.py makes the ranking, with
confidence intervals and tests. A cup that was interrupted goes on when the same command is given.
``--json FILE`` keeps the ranking, with what was found by the searches and every test accuracy;
scripts/tables.py writes docs/optimizers/index.md and docs/layers/index.md from such files.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import torch

import cifar10
import leaderboard
import tune
from benchmark import machine
from training.distributed import ALONE
from training.errors import InterruptedRunError, UsageError
from training.options import ACTIVATIONS, NORMS, OPTIMIZERS, is_own, own_optimizer
from training.result import flat_json, write_file

CUPS = {"optimizer": OPTIMIZERS, "norm": NORMS, "activation": ACTIVATIONS}
"""Of each option that a cup may be about, the contestants."""
SEARCHED = ("lr", "weight_decay", "momentum")
"""What the searches are over, as far as an optimizer has it."""
REMEDY = "Give the same command with another --json: all results are kept."


def parser() -> argparse.ArgumentParser:
    """The command line, but for the options of cifar10.py."""
    p = argparse.ArgumentParser(
        prog="cup.py",
        description=(__doc__ or "").split("\n")[0],
        epilog="All other options are those of cifar10.py. Exit code: 0 done, 1 a run diverged, 2 "
        "something to mend, 130 interrupted (the same command goes on).",
        allow_abbrev=False,
    )
    p.add_argument("about", choices=CUPS, help="what the contestants differ in")
    p.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        help="these contestants (default: all there are); an optimizer of your own as "
        "package.module:Class",
    )
    p.add_argument("--trials", type=int, default=8, help="of each search (default: %(default)s)")
    p.add_argument("--seeds", type=int, default=10, help="of each training (default: %(default)s)")
    p.add_argument("--out", type=Path, metavar="DIR", help="(default: runs/cup-ABOUT)")
    p.add_argument("--report", action="store_true", help="train nothing, rank what there is")
    p.add_argument(
        "--json", type=Path, metavar="FILE", help="keep the ranking as JSON (default: no)"
    )
    return p


def contest(own: argparse.Namespace, name: str, rest: Sequence[str], results: Path) -> int:
    """Tune and train a contestant. Returns the exit code of cifar10.py.

    Args:
        own: the options of the cup.
        name: of the contestant.
        rest: options of cifar10.py.
        results: file for the lines.

    Raises:
        UsageError: an option, or a combination of options, that cannot be.
        InterruptedRunError, KeyboardInterrupt: Ctrl-C; what is finished is kept.
    """
    folder = own.out / name.replace(":", ".")
    argv = [f"--{own.about}", name, "--trials", str(own.trials), "--pruner", "none", *rest]
    search = tune.parse([*argv, "--study", f"cup-{own.about}-{name}", "--out", str(folder)])
    study = tune.open_study(search)
    print(f"{name}: {own.trials} trials over {', '.join(search.space)}", flush=True)
    tune.optimize(search, study, ALONE)
    if not tune.best_trials(study):
        print(f"{name}: all trials diverged; it is not trained", flush=True)
        return 1
    best = tune.best_arguments(search, study)
    series = ["--seeds", str(own.seeds), "--log-dir", str(folder / "runs"), "--resume", "auto"]
    quiet = ["--quiet", "--no-tensorboard"]
    return cifar10.main([*best, *series, *quiet, "--results", str(results)])


def rank(own: argparse.Namespace, results: Path) -> int:
    """Print the ranking, and write it as Markdown, HTML and JSON. Returns the exit code."""
    pages = ["--markdown", str(own.out / "ranking.md"), "--html", str(own.out / "ranking.html")]
    code = leaderboard.main([str(results), "--by", own.about, *pages])
    if own.json and code == 0:
        write_file(own.json, flat_json(report(own, results)).encode(), REMEDY)
    return code


def report(own: argparse.Namespace, results: Path) -> dict[str, Any]:
    """The ranking, what the searches found, and the accuracies of all seeds.

    Args:
        own: the options of the cup.
        results: its lines.

    Raises:
        UsageError: they are of several data sets.
    """
    runs, _ = leaderboard.read([results])
    ranking, *others = leaderboard.rank(runs, [own.about])
    if others:
        raise UsageError(
            f"{results} has runs on {1 + len(others)} sets of data, of which --json could keep one "
            "only. Give another --out for each."
        )
    rows = []
    for row in ranking.rows:
        name = row.what.removeprefix(f"{own.about} ")
        theirs = [run for run in runs if str(run.option(own.about)) == name]
        rows.append(
            {
                own.about: name,
                "rank": row.rank,
                "like_leader": row.like_leader,
                "options": {option: theirs[0].option(option) for option in SEARCHED},
                "test_accuracy": row.summary.mean,
                "half_width": row.summary.half_width if row.summary.n > 1 else None,
                "train_seconds": row.seconds,
                "test_accuracies": [run.number("test_accuracy") for run in theirs],
            }
        )
    shared = ("dataset", "model", "optimizer", "epochs", "batch_size", "schedule", "augment")
    common = {name: runs[0].option(name) for name in shared if name != own.about}
    return {
        "cup": own.about,
        "machine": machine(torch.device(runs[0].option("device"))),
        "trials": own.trials,
        "seeds": own.seeds,
        "common": common,
        "rows": rows,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Hold a cup. Returns the exit code."""
    own, rest = parser().parse_known_args(argv)
    own.out = own.out or Path("runs", f"cup-{own.about}")
    results = own.out / "results.jsonl"
    code = 0
    try:
        names = own.only or CUPS[own.about]
        for name in names:
            if own.about == "optimizer" and is_own(name):
                own_optimizer(name)  # refuses what is none
            elif name not in CUPS[own.about]:
                raise UsageError(f"--only {name}: choose from {', '.join(CUPS[own.about])}.")
        for option in ("trials", "seeds"):
            if getattr(own, option) < 1:
                raise UsageError(f"--{option} {getattr(own, option)}: give 1 or more.")
        if own.json and own.report:
            raise UsageError(
                f"--json {own.json}: it says how many trials there were, which --report does not "
                "know. Give the command of the cup: what is finished is not done again."
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.logging.set_verbosity(optuna.logging.ERROR)  # trials are told of by tune.py
            for name in () if own.report else names:
                ended = contest(own, name, rest, results)
                if ended not in (0, 1):
                    return ended
                code = max(code, ended)
        return max(code, rank(own, results))
    except UsageError as error:
        print(f"cup.py: error: {error}", file=sys.stderr)
        return 2
    except (InterruptedRunError, KeyboardInterrupt):
        print("cup.py: interrupted. The same command goes on.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
