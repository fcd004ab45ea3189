"""Search for options of scripts/cifar10.py, with Optuna.

    python scripts/tune.py --trials 30 --epochs 20
    python scripts/tune.py --space lr=1e-3..1e-1:log batch_size=32,64,128 --optimizer sgd
    python scripts/tune.py --report

The options of cifar10.py hold for every trial; those of ``--space`` are what is searched
(``training/space.py`` says how they are written). A trial is a run, and what it is judged by is the
validation accuracy of its final weights, not of its best epoch, which would be the best of many
draws. The validation images are the tenth that is set aside; no network of a search sees the test
images. Hyperband (Li et al., 2018, arXiv:1603.06560), in the asynchronous form of Optuna, ends
trials early that are not among the best third after 1, 3, 9, ... epochs.

A search is kept in ``--storage`` and goes on when the same command is given again, there or, at the
same time, in another process or on another machine: all of them share the trials. The draw of a
trial is a function of ``--sampler-seed`` and of its number, so no two processes draw the same. In a
grid a cell may be run twice where a process comes to the last cells while others run them. A trial
that is interrupted is queued and run again; so is that of a process which dies, if the storage is a
database (a journal shows it as running for ever, and another is run in its place). Under torchrun
the first process decides, and all train the same trial.

Afterwards the best trials, the importance of what was searched (fANOVA, Hutter et al., 2014), and
the command that trains with the best options are printed; pictures and the trials in TensorBoard's
HParams are put into ``--out``.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import shlex
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import sqlalchemy
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from optuna.storages import JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from tables import markdown
from training import options, space
from training.distributed import World, world
from training.errors import DivergedError, InterruptedRunError, UsageError
from training.loop import train
from training.options import MAY_CHANGE, Config, make_config
from training.space import Choice, Entry

SAMPLERS = ("tpe", "random", "grid")
PRUNERS = ("hyperband", "none")
TRIALS = 20
DECIDED_HERE = (
    "log_dir", "checkpoint_dir", "checkpoint_every", "resume", "tensorboard", "log_every",
    "pictures_every", "explain",
)  # fmt: skip
"""Options of cifar10.py that a search does not take: of a trial only its figures are kept."""
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
HEARTBEAT = 60
"""Seconds between the signs of life of a trial in a database."""
SILENCE = 300
"""Seconds without one after which a trial counts as dead."""
RETRIES = 3
"""Of a trial whose process died."""
SHOWN = 10
"""Trials in the table."""


def tell(team: World, message: dict[str, Any]) -> dict[str, Any]:
    """What the first process says, in all of them."""
    return team.same(lambda: message)


class EndedError(Exception):
    """The first process ended the search within a trial."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


# ------------------------------------------------------------------ what is asked for


@dataclass(frozen=True)
class Search:
    """A search as the command line describes it, checked."""

    name: str
    storage: str
    out: Path
    sampler: str
    sampler_seed: int
    pruner: str
    trials: int
    given: dict[str, Any]  # options of cifar10.py that hold for every trial
    space: dict[str, Entry]
    first: Config  # with the first value of everything in the space
    command: str  # that goes on with it
    only_report: bool
    unspecific: bool  # neither options nor a space were given

    def decided(self) -> dict[str, Any]:
        """What decides the result of a trial, besides the space."""
        found = deciding(self.first)
        return {name: value for name, value in found.items() if name not in self.space}


def deciding(config: Config) -> dict[str, Any]:
    """The options that decide a result, in the types of JSON."""
    return {name: value for name, value in config.as_json().items() if name not in MAY_CHANGE}


def parser() -> argparse.ArgumentParser:
    """The command line: that of cifar10.py, and that of a search."""
    p = argparse.ArgumentParser(
        prog="tune.py",
        description=(__doc__ or "").split("\n")[0]
        + " Of the options of cifar10.py, all but "
        + ", ".join(map(_option, DECIDED_HERE))
        + " are taken too, and listed below; the epochs of a trial are printed with --no-quiet.",
        epilog="Exit code: 0 done, 2 something to mend, 130 interrupted (the same command goes "
        "on).",
        parents=[options.parser()],
        conflict_handler="resolve",  # both have --help
        allow_abbrev=False,
    )
    g = p.add_argument_group("search")
    g.add_argument(
        "--space",
        nargs="+",
        action="extend",
        metavar="OPTION=VALUES",
        help="what is searched: ranges, such as lr=1e-4..1e-1:log or epochs=5..20, and lists, such "
        "as batch_size=32,64,128 (default: learning rate, weight decay and momentum around what "
        "the optimizer has, as far as they are not given)",
    )
    g.add_argument(
        "--sampler",
        choices=SAMPLERS,
        default="tpe",
        help="how the next trial is chosen; in a grid a range is its two ends and its middle "
        "(default: tpe)",
    )
    g.add_argument(
        "--sampler-seed",
        type=int,
        default=0,
        metavar="N",
        help="another search of the same space, by tpe or at random (default: 0)",
    )
    g.add_argument(
        "--pruner",
        choices=PRUNERS,
        default="hyperband",
        help="which trials are ended early (default: hyperband)",
    )
    g.add_argument(
        "--trials",
        type=int,
        metavar="N",
        help="finished trials that the study is to have in the end, of all processes; each further "
        f"process may add one (default: {TRIALS}; of a grid, all)",
    )
    g.add_argument(
        "--study", default="tune", metavar="NAME", help="name of the search (default: tune)"
    )
    g.add_argument(
        "--storage",
        metavar="WHERE",
        help="FILE.journal, or the URL of a database, such as sqlite:///FILE or postgresql://... "
        "(default: OUT/study.journal)",
    )
    g.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="for pictures and TensorBoard (default: runs/STUDY)",
    )
    g.add_argument("--report", action="store_true", help="run no trial, only report what there is")
    return p


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def parse(argv: Sequence[str]) -> Search:
    """Turn a command line into a search.

    Raises:
        UsageError: an option, or a combination of options, that cannot be.
        SystemExit: from argparse.
    """
    found = vars(parser().parse_args(argv))
    given = {name: value for name, value in found.items() if name in space.KINDS}
    for name in DECIDED_HERE:
        if name in given:
            raise UsageError(f"{_option(name)}: a search has no place for it. Leave it out.")
    if given.get("holdout") is False:
        raise UsageError(
            "--no-holdout: trials are judged by the images that are set aside. Leave it out."
        )
    for name, least in (("trials", 1), ("sampler_seed", 0)):
        if found.get(name) is not None and found[name] < least:
            raise UsageError(f"{_option(name)} {found[name]}: give {least} or more.")
    unspecific = not given and found.get("space") is None
    if "preset" in given:  # which may train on all images
        given["holdout"] = True
    where = space.parse(found["space"]) if found.get("space") else space.usual(given)
    first = space.check(where, given)
    pruner = found["pruner"]
    if first.budget and pruner == "hyperband":
        raise UsageError(
            f"--budget {first.budget:g}: how many epochs a trial will have is not known before it "
            "runs, and Hyperband compares trials by epochs. Add --pruner none, or --epochs."
        )
    out = found.get("out") or Path("runs", found["study"])
    sampler = found["sampler"]
    cells = math.prod(len(entry.grid()) for entry in where.values())
    trials = found.get("trials") or (cells if sampler == "grid" else TRIALS)
    return Search(
        name=found["study"],
        storage=found.get("storage") or str(out / "study.journal"),
        out=out,
        sampler=sampler,
        sampler_seed=found["sampler_seed"],
        pruner=pruner,
        trials=min(trials, cells) if sampler == "grid" else trials,
        given=given,
        space=where,
        first=first,
        command=shlex.join(["python", "scripts/tune.py", *argv]),
        only_report=found["report"],
        unspecific=unspecific,
    )


# ------------------------------------------------------------------ the study


class EachItsOwn(optuna.samplers.BaseSampler):
    """A sampler whose draws for a trial are a function of a seed and of the trial's number.

    Processes that share a study need no seeds of their own, and a search that goes on does not
    begin with the draws that it had begun with.

    Args:
        make: makes the sampler with a given seed.
        seed: of all of them.
    """

    def __init__(self, make: Callable[[int], optuna.samplers.BaseSampler], seed: int) -> None:
        self.make, self.seed, self.sampler = make, seed, make(seed)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Begin anew with the seed of the trial."""
        seed = np.random.SeedSequence([self.seed, trial.number]).generate_state(1)[0]
        self.sampler = self.make(int(seed))
        self.sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> Any:
        """As the sampler does."""
        return self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> Any:
        """As the sampler does."""
        return self.sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """As the sampler does."""
        return self.sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Any
    ) -> None:
        """As the sampler does."""
        self.sampler.after_trial(study, trial, state, values)


def build_sampler(search: Search) -> optuna.samplers.BaseSampler:
    """The sampler that the search asks for."""
    if search.sampler == "grid":
        grid = {name: entry.grid() for name, entry in search.space.items()}
        # its seed numbers the cells, which must have the same numbers in all processes
        return optuna.samplers.GridSampler(grid, seed=0)
    if search.sampler == "random":
        return EachItsOwn(lambda seed: optuna.samplers.RandomSampler(seed), search.sampler_seed)
    return EachItsOwn(
        # a trial that others are running counts as a bad one, so that they do not meet there
        lambda seed: optuna.samplers.TPESampler(seed=seed, constant_liar=True),
        search.sampler_seed,
    )


def build_pruner(search: Search) -> optuna.pruners.BasePruner:
    """The pruner that the search asks for."""
    if search.pruner == "none":
        return optuna.pruners.NopPruner()
    epochs = search.first.epochs
    if "epochs" in search.space:
        entry = search.space["epochs"]
        epochs = max(entry.value("epochs", one) for one in entry.extremes())
    return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=math.ceil(epochs))


def open_storage(where: str, must_exist: bool = False) -> optuna.storages.BaseStorage:
    """A journal file or a database.

    Args:
        where: a path that ends in ``.journal``, or a URL.
        must_exist: do not begin a new one.

    Raises:
        UsageError: it cannot be read or written.
    """
    if "://" not in where and not where.endswith(".journal"):
        raise UsageError(
            f"--storage {where}: give a file whose name ends in .journal, or the URL of a "
            "database, such as sqlite:///FILE."
        )
    shown = where
    try:
        file = where
        if "://" in where:
            url = sqlalchemy.make_url(where)
            shown = url.render_as_string(hide_password=True)
            file = (url.database or "") if url.get_backend_name() == "sqlite" else ""
        if file and not Path(file).exists():
            if must_exist:
                raise UsageError(f"--storage {shown}: there is no such file. Give that of a study.")
            Path(file).parent.mkdir(parents=True, exist_ok=True)
        if "://" not in where:
            _check_journal(Path(where))
            return JournalStorage(JournalFileBackend(where))
        return RDBStorage(
            where,
            heartbeat_interval=HEARTBEAT,
            grace_period=SILENCE,
            heartbeat_stale_trial_callback=lambda study, trial: queue_again(study, trial, RETRIES),
        )
    except (ImportError, OSError, ValueError, KeyError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise UsageError(
            f"--storage {shown}: cannot be used ({error}). Give another file or database, or mend "
            "this one; a database needs its driver."
        ) from error


def _check_journal(file: Path) -> None:
    """Refuse a damaged journal, to which Optuna would append before it notices."""
    if not file.exists():
        return
    with file.open("rb") as lines:
        for i, text in enumerate(lines, start=1):
            try:
                if text.endswith(b"\n"):  # otherwise another process is writing it
                    json.loads(text)
            except ValueError as error:
                raise UsageError(
                    f"--storage {file}, line {i}: damaged ({error}). Delete the line, or choose "
                    "another file."
                ) from error


def open_study(search: Search) -> optuna.Study:
    """The study of a search: that which is there, or a new one.

    Raises:
        UsageError: there is one, of another space or with other options; or there is none to report
            of; or the storage cannot be used.
    """
    storage = open_storage(search.storage, must_exist=search.only_report)
    there = optuna.get_all_study_names(storage)
    if search.only_report and search.name not in there:
        raise UsageError(
            f"--study {search.name}: {search.storage} has none of this name. Choose from "
            f"{', '.join(there) or 'none'}."
        )
    how: dict[str, Any] = {
        "storage": storage,
        "study_name": search.name,
        "sampler": build_sampler(search),
        "pruner": build_pruner(search),
    }
    if search.name in there:
        study = optuna.load_study(**how)
    else:  # or another process has made it in the meantime
        study = optuna.create_study(**how, direction="maximize", load_if_exists=True)
    mine = {
        "space": {name: str(entry) for name, entry in search.space.items()},
        "options": search.decided(),
        "given": {name: _jsonable(value) for name, value in search.given.items()},
        "command": search.command,
    }
    if "command" not in study.user_attrs:
        for name, value in mine.items():
            study.set_user_attr(name, value)
    elif not (search.only_report and search.unspecific):
        for name in ("space", "options"):
            _same(search, name, study.user_attrs, mine[name])
    return study


def _jsonable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _same(search: Search, kind: str, attributes: Mapping[str, Any], mine: Any) -> None:
    theirs = attributes[kind]
    differ = [n for n in sorted(theirs.keys() | mine.keys()) if theirs.get(n) != mine.get(n)]
    if differ:
        name = differ[0]
        has, asked = (space.word(one[name]) if name in one else "absent" for one in (theirs, mine))
        what = f"--space {name}" if kind == "space" else _option(name)
        raise UsageError(
            f"--study {search.name}: in that study {what} is {has}, here {asked}. Go on with it "
            f"by\n    {attributes['command']}\nor begin another by --study NAME."
        )


# ------------------------------------------------------------------ trials


def trial_config(search: Search, chosen: Mapping[str, Any], folder: str) -> Config:
    """The configuration of a trial.

    Args:
        search: whose options hold.
        chosen: of each entry of the space, what was chosen.
        folder: for checkpoints; they are needed no longer than the trial.
    """
    values = {name: search.space[name].value(name, one) for name, one in chosen.items()}
    usual = {"quiet": True, "tensorboard": False, "log_dir": folder}
    return make_config(**usual | search.given | values)


def objective(search: Search, team: World) -> Callable[[optuna.Trial], float]:
    """What Optuna calls with every trial, in the first process."""

    def run(trial: optuna.Trial) -> float:
        chosen = {name: entry.suggest(trial, name) for name, entry in search.space.items()}
        with tempfile.TemporaryDirectory(prefix="trial") as folder:
            tell(team, {"trial": chosen})
            config = trial_config(search, chosen, folder)
            trial.set_user_attr("config", deciding(config))
            last = math.ceil(config.epochs)

            def watch(row: dict[str, float]) -> None:
                trial.report(row["validation_accuracy"], int(row["epoch"]))
                # after its last epoch a trial has cost what it costs
                prune = row["epoch"] < last and trial.should_prune()
                if tell(team, {"prune": prune})["prune"]:
                    raise optuna.TrialPruned

            try:
                reached = train(config, watch, testing=False, world=team).validation_accuracy
            except DivergedError as error:
                # pruned, not failed: a sampler learns from these where not to look
                trial.set_user_attr("diverged", str(error).split(". ")[0])  # without advice
                raise optuna.TrialPruned from error
            except (InterruptedRunError, KeyboardInterrupt):
                queue_again(trial.study, trial.study.trials[trial.number])
                raise
        assert reached is not None  # images are set aside
        return reached

    return run


def queue_again(study: optuna.Study, trial: FrozenTrial, times: int | None = None) -> None:
    """Have the same values tried by the process that is free next.

    Args:
        study: where the trial is from.
        trial: which was not finished.
        times: how often at most; None: always.
    """
    attributes = trial.system_attrs.items()
    # what Hyperband has let pass once it is to judge again
    kept = {name: value for name, value in attributes if not name.startswith("completed_rung_")}
    again = copy.deepcopy(trial)
    again.system_attrs = kept
    RetryHeartbeatStaleTrialCallback(times)(study, again)


def follow(search: Search, team: World) -> int:
    """What the other processes do: train what the first one says. Returns the exit code."""

    def watch(row: dict[str, float]) -> None:
        said = tell(team, {})
        if "end" in said:
            raise EndedError(said["end"])
        if said["prune"]:
            raise optuna.TrialPruned

    while True:
        said = tell(team, {})
        if "end" in said:
            return int(said["end"])
        try:
            # a folder of its own: that of the first process is deleted when it is done
            with tempfile.TemporaryDirectory(prefix="trial") as folder:
                train(
                    trial_config(search, said["trial"], folder),
                    watch,
                    testing=False,
                    world=team,
                )
        except EndedError as error:
            return error.code
        except (optuna.TrialPruned, DivergedError, UsageError, InterruptedRunError):
            continue  # the first process has it too, and says what comes next


def finished(search: Search, study: optuna.Study) -> int:
    """Trials that need not be run again; of a grid, cells."""
    done = study.get_trials(deepcopy=False, states=FINISHED)
    if search.sampler == "grid":
        return len({json.dumps(trial.params, sort_keys=True) for trial in done})
    return len(done)


def optimize(search: Search, study: optuna.Study, team: World) -> None:
    """Run trials until the study has as many as it is to have.

    Raises:
        UsageError: a trial cannot be run as it is.
        InterruptedRunError, KeyboardInterrupt: Ctrl-C. The trial is marked as failed, and its
            values are queued.
    """

    def told(study: optuna.Study, trial: FrozenTrial) -> None:
        print(line(trial, study), flush=True)
        log(search, [trial])

    run = objective(search, team)
    while finished(search, study) < search.trials:
        study.optimize(run, n_trials=1, callbacks=[told])


def line(trial: FrozenTrial, study: optuna.Study) -> str:
    """What is printed of a trial."""
    chosen = ", ".join(f"{name} {shown(value)}" for name, value in trial.params.items())
    best = best_trials(study)
    leader = (
        f"best {accuracy(best[0]):.2%}, trial {best[0].number}" if best else "none complete yet"
    )
    return f"trial {trial.number}: {outcome(trial)} ({chosen}; {leader})"


def outcome(trial: FrozenTrial) -> str:
    """How a trial ended."""
    if trial.state == TrialState.COMPLETE:
        return f"validation accuracy {accuracy(trial):.2%}"
    if "diverged" in trial.user_attrs:
        return str(trial.user_attrs["diverged"])
    if trial.state == TrialState.PRUNED:
        return f"pruned after epoch {trial.last_step} at {trial.value:.2%}"
    return {"FAIL": "interrupted", "RUNNING": "running", "WAITING": "queued"}[trial.state.name]


def shown(value: Any) -> str:
    """A value, for people."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# ------------------------------------------------------------------ report


def searched(study: optuna.Study) -> dict[str, Entry]:
    """The space of a study."""
    return space.parse([f"{name}={text}" for name, text in study.user_attrs["space"].items()])


def best_trials(study: optuna.Study) -> list[FrozenTrial]:
    """The complete trials, the best first; of equals the one that came first."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(done, key=lambda trial: (-accuracy(trial), trial.number))


def accuracy(trial: FrozenTrial) -> float:
    """The validation accuracy of a complete trial, in 0..1."""
    assert trial.value is not None
    return trial.value


def importances(study: optuna.Study) -> dict[str, float]:
    """The share of the variance that each searched option explains, alone; they add up to 1.

    By fANOVA (Hutter, Hoos and Leyton-Brown, "An Efficient Approach for Assessing Hyperparameter
    Importance", ICML 2014), over complete trials. Empty where these are fewer than two, or equal.
    """
    if len({accuracy(trial) for trial in best_trials(study)}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def best_command(search: Search, study: optuna.Study) -> str:
    """The command that trains with the options of the best trial, and tests."""
    return shlex.join(["python", "scripts/cifar10.py", *best_arguments(search, study)])


def best_arguments(search: Search, study: optuna.Study) -> list[str]:
    """The options of the best trial, as cifar10.py takes them."""
    trial = best_trials(study)[0]
    here = {name: value for name, value in search.given.items() if name in MAY_CHANGE}
    values = study.user_attrs["given"] | here
    entries = searched(study)
    values |= {name: entries[name].value(name, one) for name, one in trial.params.items()}
    return [part for name, value in values.items() for part in space.spelled(name, value)]


def report(search: Search, study: optuna.Study, found: Mapping[str, float]) -> str:
    """What came out, in Markdown.

    Args:
        search: in which the command with the best options finds where to compute.
        study: of which it is.
        found: its importances.
    """
    trials = study.get_trials(deepcopy=False)
    counts = {state: sum(t.state == state for t in trials) for state in TrialState}
    diverged = [trial for trial in trials if "diverged" in trial.user_attrs]
    parts = [
        f"# {search.name}",
        f"{counts[TrialState.COMPLETE]} trials are complete, {counts[TrialState.PRUNED]} were "
        f"ended early ({len(diverged)} of them diverged), {counts[TrialState.FAIL]} were "
        f"interrupted, {counts[TrialState.WAITING]} are queued, {counts[TrialState.RUNNING]} are "
        "running.",
    ]
    ranked = best_trials(study)
    if not ranked:
        return "\n\n".join([*parts, "No trial is complete."]) + "\n"
    names = list(study.user_attrs["space"])
    rows = [
        [
            str(rank),
            str(trial.number),
            f"{accuracy(trial):.2%}",
            *(shown(trial.params[name]) for name in names),
            str(trial.last_step),
            f"{trial.duration.total_seconds():.1f}" if trial.duration else "-",
        ]
        for rank, trial in enumerate(ranked[:SHOWN], start=1)
    ]
    head = ["rank", "trial", "validation accuracy", *names, "epochs", "seconds"]
    parts.append(markdown(head, rows))
    if found:
        parts.append(
            markdown(
                ["option", "importance"], [[name, f"{share:.2f}"] for name, share in found.items()]
            )
        )
    else:
        parts.append("Importances need two complete trials of different accuracy.")
    parts += [f"Trial {trial.number}: {trial.user_attrs['diverged']}." for trial in diverged]
    parts.append(
        "The validation accuracies above are those of the best of several, and so too high; the "
        f"test images have not been seen. The best options:\n\n    {best_command(search, study)}"
    )
    return "\n\n".join(parts) + "\n"


# ------------------------------------------------------------------ pictures


def draw(study: optuna.Study, found: Mapping[str, float], folder: Path) -> None:
    """Write the course of the search, curves, importances and slices as PNG.

    Args:
        study: with a complete trial.
        found: its importances; they have no picture where there are none.
        folder: for the files.

    Raises:
        UsageError: they cannot be written.
    """
    figures = {"history": _history(study), "curves": _curves(study), "slices": _slices(study)}
    if found:
        figures["importances"] = _importances(found)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
    except OSError as error:
        raise UsageError(f"--out {folder}: cannot be written ({error}).") from error


def _history(study: optuna.Study) -> Figure:
    """Each complete trial, and the best so far."""
    figure = Figure()
    axes = figure.subplots()
    done = sorted(best_trials(study), key=lambda trial: trial.number)
    numbers = [trial.number for trial in done]
    values = [accuracy(trial) for trial in done]
    axes.plot(numbers, values, "o", label="trial")
    axes.step(numbers, np.maximum.accumulate(values), where="post", label="best so far")
    axes.set(xlabel="trial", ylabel="validation accuracy")
    axes.legend()
    return figure


def _curves(study: optuna.Study) -> Figure:
    """The accuracy of every trial over its epochs; those that were ended early are grey."""
    figure = Figure()
    axes = figure.subplots()
    for trial in study.get_trials(deepcopy=False, states=FINISHED):
        epochs = sorted(trial.intermediate_values)
        color = "lightgrey" if trial.state == TrialState.PRUNED else None
        axes.plot(epochs, [trial.intermediate_values[n] for n in epochs], ".-", color=color)
    axes.set(xlabel="epoch", ylabel="validation accuracy")
    return figure


def _importances(found: Mapping[str, float]) -> Figure:
    figure = Figure()
    axes = figure.subplots()
    axes.barh(list(found)[::-1], list(found.values())[::-1])
    axes.set(xlabel="importance (fANOVA)")
    return figure


def _slices(study: optuna.Study) -> Figure:
    """Accuracy against each searched option."""
    done = best_trials(study)
    entries = searched(study)
    figure = Figure(figsize=(4 * len(entries), 4), layout="constrained")
    places = figure.subplots(1, len(entries), squeeze=False)[0]
    for axes, (name, entry) in zip(places, entries.items(), strict=True):
        chosen = [trial.params[name] for trial in done]
        if isinstance(entry, Choice):
            chosen = [entry.words.index(one) for one in chosen]
            axes.set_xticks(range(len(entry.words)), entry.words)
        else:
            axes.set_xscale("log" if entry.log else "linear")
            axes.set_xlim(entry.low, entry.high)
            axes.xaxis.set_minor_formatter(NullFormatter())
        axes.scatter(chosen, [accuracy(trial) for trial in done], clip_on=False)
        axes.set(xlabel=name, ylabel="validation accuracy")
    return figure


# ------------------------------------------------------------------ TensorBoard


def log(search: Search, trials: Sequence[FrozenTrial]) -> None:
    """Write finished trials that are not there yet, each to a folder of its own.

    Raises:
        UsageError: they cannot be written.
    """
    for trial in trials:
        folder = search.out / "tensorboard" / f"trial-{trial.number:04}"
        if trial.state not in FINISHED or any(folder.glob("events.out.tfevents.*")):
            continue
        try:
            _log(trial, folder)
        except OSError as error:
            raise UsageError(f"--out {search.out}: cannot be written ({error}).") from error


def _log(trial: FrozenTrial, folder: Path) -> None:
    config = trial.user_attrs["config"] | {"state": trial.state.name.lower()}
    values = {
        n: v if isinstance(v, int | float | str) else space.word(v) for n, v in config.items()
    }
    metric = "validation/accuracy"
    with SummaryWriter(str(folder)) as writer:
        # SummaryWriter.add_hparams would open a second run for these
        for summary in hparams(values, {metric: 0.0}):
            writer._get_file_writer().add_summary(summary)
        for epoch, reached in sorted(trial.intermediate_values.items()):
            writer.add_scalar(metric, reached, epoch)


# ------------------------------------------------------------------ command line


def _lead(search: Search, team: World) -> None:
    study = open_study(search)
    if not search.only_report:
        optimize(search, study, team)
    found = importances(study)
    print(report(search, study, found), end="")
    log(search, study.get_trials(deepcopy=False))
    if best_trials(study):
        draw(study, found, search.out)


def main(argv: Sequence[str] | None = None) -> int:
    """Search as the command line says; print a report. Returns the exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    try:
        search = parse(given)
    except UsageError as error:
        print(f"tune.py: error: {error}", file=sys.stderr)
        return 2
    with world() as team, warnings.catch_warnings():
        # the heartbeat, and what queues a trial again
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # trials are told of here
        if not team.first:
            return follow(search, team)
        code = 1
        try:
            _lead(search, team)
            code = 0
        except UsageError as error:
            print(f"tune.py: error: {error}", file=sys.stderr)
            code = 2
        except (InterruptedRunError, KeyboardInterrupt):
            print(
                f"tune.py: interrupted. Finished trials are kept in {search.storage}. Go on "
                f"with\n    {search.command}",
                file=sys.stderr,
            )
            code = 130
        finally:
            tell(team, {"end": code})
        return code


if __name__ == "__main__":
    sys.exit(main())
