"""Who passes what: the conformance kits over torch's classes, this project's, and those of peers.

    python scripts/parity.py --update                   all (half an hour on 2 cores), and the pages
    python scripts/parity.py --package timm --match "*Lion"    some, printed
    python scripts/parity.py --table                    the pages from the report that is there

``--update`` writes benchmarks/results/parity-cpu.json after each class, docs/parity.md and
docs/parity.html at the end; what was not run is kept as it was in them. A run that was interrupted
goes on with ``--update --missing``. ``peers.py`` says who is compared with whom.

Every class is checked in a process of its own, so that one that hangs or crashes ends no other: the
check in which it crashes has failed, one that takes too long is told, and the next one begins in a
new process.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

import parity_pages
import peers
import reproductions
import scratch_layers.testing
import scratch_optim.testing
from benchmark import RESULTS, machine
from scratch_optim.testing import Check, kit

ROOT = Path(__file__).parent.parent
REPORT = RESULTS / "parity-cpu.json"
PAGES: dict[Path, Callable[[Mapping[str, Any]], str]] = {
    ROOT / "docs" / "parity.md": parity_pages.markdown_page,
    ROOT / "docs" / "parity.html": parity_pages.html_page,
}
OTHER: kit.Outcome = "not applicable"
"""Outcome of a check that says nothing about a class."""

NOT_RUN = "not run"
"""Outcome of a check without an answer."""

START = 120
"""Seconds that a process may take to begin: the first one imports everything."""


class UsageError(Exception):
    """What was asked for makes no sense."""


@dataclass(frozen=True)
class Kit:
    """A conformance kit, and over whom it is run."""

    command: str
    """``python -m`` this checks one class."""
    checks: Sequence[Check]
    packages: Sequence[peers.Package]
    places: Callable[[peers.Package], list[str]]
    """``module:Name`` of the classes of a package."""
    unasked: Callable[[str], str | None]
    make: Callable[[str], Any]
    """The subject at a place."""
    applicable: Callable[[Any], Sequence[Check]]
    """Those of the checks that say anything about a subject."""
    why: Callable[[str], str]


def kits() -> dict[str, Kit]:
    """The kits by what they check."""
    return {
        "optim": Kit(
            "scratch_optim.testing",
            scratch_optim.testing.CHECKS,
            peers.OPTIM,
            peers.optimizers,
            peers.unasked,
            peers.optimizer,
            lambda subject: scratch_optim.testing.CHECKS,
            peers.why,
        ),
        "layers": Kit(
            "scratch_layers.testing",
            scratch_layers.testing.CHECKS,
            peers.LAYERS,
            peers.layers,
            peers.unasked_layer,
            peers.layer,
            scratch_layers.testing.checks_for,
            peers.why_layer,
        ),
    }


@dataclass
class Row:
    """What became of the checks of one class."""

    kit: str
    package: str
    place: str
    title: str
    against: str | None = None
    why: str = ""
    outcomes: dict[str, str] = field(default_factory=dict)
    """By the names of the checks."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Of all that did not pass."""
    shown: list[str] = field(default_factory=list)
    """The failed checks that a program of a few lines shows, see ``reproductions.py``."""
    seconds: float = 0.0

    @property
    def count(self) -> Counter[str]:
        """How many checks ended how."""
        return Counter(self.outcomes.values())


# ------------------------------------------------------------------ in the process of a class


def _begin(target: Callable[..., None], line: Connection, folder: str, *arguments: Any) -> None:
    """Call ``target`` in a process of its own, which says nothing but what it sends."""
    os.setsid()  # so that what it starts (compilers) can be ended with it
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
    void = os.open(os.devnull, os.O_WRONLY)
    os.dup2(void, 1)
    os.dup2(void, 2)
    torch.set_num_threads(1)
    target(line, *arguments)


def _answer(line: Connection, of: str, place: str, names: Sequence[str]) -> None:
    """Run checks; send the name of the reference, the name of each check, each result, None."""
    mine = kits()[of]
    try:
        subject = mine.make(place)
        if of == "optim" and (error := subject.step_error(subject.make)) is not None:
            sparse = subject.step_error(subject.make, sparse=True)
            if sparse is not None:
                raise error
    except Exception as error:  # whatever it is, it is told
        line.send(None)
        line.send(RuntimeError(f"{type(error).__name__}: {error}"))
        line.send(None)
        return
    line.send(_name(subject.reference))
    applicable = {check.name for check in mine.applicable(subject)}
    for check in kit.select(mine.checks, names):
        line.send(check.name)
        if check.name in applicable:
            line.send(kit.ask(check, subject))
        else:
            line.send(kit.ask(kit.Check(check.name, check.proves, _of_another_family), subject))
    line.send(None)


def _of_another_family(subject: Any) -> None:
    kit.skip("is known of another family")


def _name(reference: Any) -> str | None:
    if reference is None:
        return None
    return kit.public_name(reference) if isinstance(reference, type) else "its equation"


# ------------------------------------------------------------------ in the process of the script


class Lost(Exception):  # noqa: N818 - it says what became of a process
    """A process did not answer, or is no more; the message says which.

    Attributes:
        outcome: of the check that it was at. One that takes long may be right.
    """

    def __init__(self, message: str, outcome: str) -> None:
        super().__init__(message)
        self.outcome = outcome


class Worker:
    """A process that checks one class. As a context it is ended at the end, whatever it does."""

    def __init__(self, target: Callable[..., None], *arguments: Any) -> None:
        # a server that has imported everything forks the workers: an import takes 10 seconds
        context = multiprocessing.get_context("forkserver")
        self.line, theirs = context.Pipe()
        # a compiler that is ended leaves half a library, which nobody else must load
        self.cache = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.process = context.Process(
            target=_begin, args=(target, theirs, self.cache.name, *arguments)
        )
        self.process.start()
        self.lost = False
        theirs.close()

    def receive(self, seconds: float) -> Any:
        """What it says next.

        Raises:
            Lost: it says nothing for so many seconds, or has ended.
        """
        try:
            if not self.line.poll(max(seconds, 0)):
                self.lost = True
                raise Lost(f"did not return within {seconds:.0f} s", NOT_RUN)
            said = self.line.recv()
        except (EOFError, ConnectionResetError):
            self.lost = True
            self.process.join()
            code = self.process.exitcode or 0
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            raise Lost(f"the process ended {how}", "failed") from None
        return said

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, error: object, *_: object) -> None:
        if not self.lost and error is None:
            self.process.join(10)
        if self.process.is_alive():
            try:
                os.killpg(self.process.pid or 0, signal.SIGKILL)
            except ProcessLookupError:  # not yet a group of its own
                self.process.kill()
        self.process.join()
        self.line.close()
        self.cache.cleanup()


def prepare(modules: Sequence[str] = ()) -> None:
    """Let the server of processes import what they need before it forks the first one.

    Args:
        modules: more of it.
    """
    # not every version of Python tells the server where this process finds modules
    path = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    multiprocessing.get_context("forkserver").set_forkserver_preload(["parity", *modules])


def conform(
    of: str,
    package: str,
    place: str,
    names: Sequence[str],
    expected: Mapping[str, str],
    limit: float,
    target: Callable[..., None] = _answer,
) -> Row:
    """Run checks over one class, in as many processes as it takes.

    Args:
        of: the kit.
        package: where the class belongs to.
        place: ``module:Name`` of the class.
        names: of the checks.
        expected: reasons by the names of checks that are known to fail.
        limit: seconds for all checks; one may take a quarter of it.
        target: what a process runs.
    """
    row = Row(of, package, place, place.replace(":", "."))
    begin = time.monotonic()
    left = list(names)

    def end(name: str, outcome: str, reason: str) -> None:
        if name in expected and outcome in ("failed", "passed"):
            first = reason.split("\n")[0]
            outcome = {"failed": "expected failure", "passed": "passed unexpectedly"}[outcome]
            reason = f"{expected[name]} ({first})" if first else expected[name]
        row.outcomes[name] = outcome
        if outcome != "passed":
            row.reasons[name] = without_places(reason)
        left.remove(name)

    while left:
        current = None
        started = time.monotonic()
        with Worker(target, of, place, left) as worker:
            try:
                row.against = worker.receive(START)
                begin += time.monotonic() - started  # of the time for checks it takes none
                while (said := worker.receive(_wait(begin, limit))) is not None:
                    if isinstance(said, Exception):
                        for name in list(left):
                            end(name, NOT_RUN, f"cannot be asked: {said}")
                    elif isinstance(said, str):
                        current = said
                    else:
                        end(said.check, said.outcome, said.reason)
            except Lost as lost:
                if left:
                    end(current if current in left else left[0], lost.outcome, str(lost))
        if time.monotonic() - begin > limit:
            for name in list(left):
                end(name, NOT_RUN, f"the checks before it took {limit:.0f} s")
    row.seconds = round(time.monotonic() - begin, 1)
    return row


ROOT_CAUSE = "equals_reference_in_float64"
FOLLOWS = re.compile(r"epsilons (of torch\.(float64|complex128) )?(from the reference|apart)")
"""What a check says whose steps part from the reference's in float64."""


def trace(row: Row) -> None:
    """Count once what has one cause.

    Steps that are not the reference's fail many checks, gradients that are written to some: where
    the plain check of the cause fails, those are expected to fail, and say so. And an error by
    which a package refuses something is no failure, though it is one of the package's own.
    """
    wrong = ("failed", "expected failure")
    for name in [name for name, outcome in row.outcomes.items() if outcome == "failed"]:
        reason = row.reasons[name]
        causes = [c for c, others in peers.CONSEQUENCES.items() if name in others]
        causes += [ROOT_CAUSE] * (name != ROOT_CAUSE and FOLLOWS.search(reason) is not None)
        causes = [cause for cause in causes if row.outcomes.get(cause) in wrong]
        if reason.split(":")[0] in peers.OWN_ERRORS:
            first = reason.split("\n")[0]
            row.outcomes[name], row.reasons[name] = OTHER, f"refuses with its own {first}"
        elif causes:
            first = row.reasons[causes[0]].split("\n")[0]
            row.outcomes[name] = "expected failure"
            row.reasons[name] = f"follows from {causes[0]}: {first}"


def _try(line: Connection, code: str) -> None:
    line.send(reproductions.raises(code))


def shown(row: Row) -> list[str]:
    """The failed checks of a row that a program shows, each tried in a process of its own."""
    found = []
    for check, outcome in row.outcomes.items():
        code = reproductions.program(check, row.place, row.reasons.get(check, ""))
        if outcome != "failed" or code is None:
            continue
        with Worker(_try, code) as worker:
            try:
                if worker.receive(START):
                    found.append(check)
            except Lost as lost:
                if lost.outcome == "failed":
                    found.append(check)
    return found


def _wait(begin: float, limit: float) -> float:
    return min(limit / 4, begin + limit + 1 - time.monotonic())


def without_places(text: str) -> str:
    """A message without the folders of this machine, and without addresses in memory."""
    text = re.sub(r"/\S*/(?:site-packages|dist-packages)/", "", text)
    text = text.replace(f"{ROOT}/", "")
    text = re.sub(r"/\S*/(lib/python[\d.]+/)", r"\1", text)
    text = re.sub(r"/tmp/\S+/", "", text)
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def known() -> list[Mapping[str, Mapping[str, str]]]:
    """Tables of failures that are known: torch's, and what peers document."""
    tables: list[Mapping[str, Mapping[str, str]]] = [
        peers.DOCUMENTED,
        peers.REFERENCE_IS_OFF,
        peers.LAYER_DOCUMENTED,
    ]
    for module in ("scratch_optim.testing.known", "scratch_layers.testing.known"):
        try:
            tables.append(kit.named(f"{module}:KNOWN"))
        except ValueError:
            continue
    return tables


def selected(options: argparse.Namespace) -> list[tuple[str, str, str]]:
    """Kit, package and place of all classes that are asked for.

    Raises:
        UsageError: there are none.
    """
    found = []
    for of, its in kits().items():
        if options.only not in (None, of):
            continue
        for package in its.packages:
            if not package.module.startswith(options.package or ""):
                continue
            if not package.installed:
                print(f"{package.module}: not installed, left out (pip install '.[peers]')")
                continue
            for place in its.places(package):
                if not fnmatch.fnmatch(place.replace(":", "."), options.match):
                    continue
                reason = its.unasked(place)
                if reason is None:
                    found.append((of, package.module, place))
    if not found:
        raise UsageError(
            f"nothing to check: no class of {options.package or 'any package'} matches "
            f"{options.match!r}"
        )
    return found


def run(
    todo: Sequence[tuple[str, str, str]],
    jobs: int,
    limit: float,
    checks: Sequence[str] | None = None,
    keep: Callable[[list[Row]], None] = lambda rows: None,
) -> list[Row]:
    """The rows of some classes, ``jobs`` at a time, each told as it is done.

    Args:
        todo: kit, package and place of each.
        jobs: how many at a time.
        limit: seconds for each.
        checks: names of those to ask, or all.
        keep: is called with all rows so far, after each.
    """
    tables = known()
    telling = threading.Lock()
    done: list[Row] = []

    def one(task: tuple[str, str, str]) -> Row:
        of, package, place = task
        its = kits()[of]
        names = [check.name for check in kit.select(its.checks, checks)]
        row = conform(of, package, place, names, peers.expected(place, tables), limit)
        trace(row)
        row.why, row.shown = its.why(place), shown(row)
        with telling:
            done.append(row)
            print(f"[{len(done)}/{len(todo)}] {told(row)}", flush=True)
            keep(done)
        return row

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, todo))


def told(row: Row) -> str:
    """A row in a line, and a line for each check that failed."""
    against = f" against {row.against}" if row.against else ""
    counts = ", ".join(f"{n} {outcome}" for outcome, n in row.count.items())
    lines = [f"{row.title}{against}: {counts} ({row.seconds:.0f} s)"]
    lines += [
        f"    {name}: {row.reasons[name].splitlines()[0]}"
        for name, outcome in row.outcomes.items()
        if outcome == "failed"
    ]
    return "\n".join(lines)


def content(rows: Iterable[Row], old: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The report: rows without what can be derived from the rest of it.

    A row names the checks that did not pass, by outcome and reason; all others have passed. Those
    that do not apply are numbered as in ``checks``.

    Args:
        rows: new rows.
        old: a report whose other rows are kept.

    Raises:
        UsageError: the old report was made with other versions.
    """
    checks = {of: {check.name: check.proves for check in its.checks} for of, its in kits().items()}
    packages = {p.module: p for its in kits().values() for p in its.packages if p.installed}
    made: dict[str, Any] = {
        "machine": machine(torch.device("cpu")),
        "versions": {name: package.version for name, package in packages.items()},
        "checks": checks,
        "unasked": {
            of: {
                place.replace(":", "."): reason
                for package in its.packages
                if package.installed
                for place in its.places(package)
                if (reason := its.unasked(place)) is not None
            }
            for of, its in kits().items()
        },
        "commands": {of: its.command for of, its in kits().items()},
    }
    new = {row.place: _as_json(row, list(checks[row.kit])) for row in rows}
    kept = {} if old is None else {row["place"]: row for row in old["rows"]}
    if any(place not in new for place in kept) and old is not None:
        for what in ("versions", "checks"):
            if made[what] != old[what]:
                raise UsageError(
                    f"the report at hand was made with other {what}: rows of both make no table; "
                    "run all of them"
                )
    made["rows"] = sorted((kept | new).values(), key=lambda row: row["place"].lower())
    return made


def _as_json(row: Row, checks: Sequence[str]) -> dict[str, Any]:
    whole = asdict(row)
    outcomes, reasons = whole.pop("outcomes"), whole.pop("reasons")
    by_outcome: dict[str, Any] = {}
    for name, outcome in outcomes.items():
        if outcome in (OTHER, NOT_RUN):  # most of all, many for the same reason
            numbers = by_outcome.setdefault(outcome, {}).setdefault(reasons[name], [])
            numbers.append(checks.index(name))
        elif outcome != "passed":
            by_outcome.setdefault(outcome, {})[name] = reasons[name]
    return whole | {"passed": row.count["passed"], **by_outcome}


def write(report: Mapping[str, Any]) -> None:
    """Write the pages of a report."""
    for path, page in PAGES.items():
        path.write_text(page(report))
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1024:.0f} KiB")


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; a mistake ends the program with a message."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", choices=list(kits()), help="one of the kits")
    parser.add_argument("--package", help="one package, as in timm or torch.optim")
    parser.add_argument("--match", default="*", metavar="GLOB", help="classes, as in '*.Adam*'")
    parser.add_argument("--checks", nargs="+", metavar="NAME", help="only these checks")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument(
        "--time-limit",
        type=float,
        default=240,
        metavar="SECONDS",
        help="for the checks of a class, of which one may take a quarter (default: %(default)s)",
    )
    parser.add_argument("--update", action="store_true", help="write the report and the pages")
    parser.add_argument(
        "--missing", action="store_true", help="only classes that the report has not"
    )
    parser.add_argument("--table", action="store_true", help="write the pages of the report only")
    options = parser.parse_args(argv)
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, but is {options.jobs}")
    if options.update and options.checks:
        parser.error("--update needs all checks; leave --checks out")
    if not options.time_limit > 0:
        parser.error(f"--time-limit must be positive, but is {options.time_limit}")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run, print, and write if asked to; 1 if a class of this project failed a check."""
    options = parsed(argv)
    try:
        if options.table:
            write(json.loads(REPORT.read_text()))
            return 0
        todo = selected(options)
        old = json.loads(REPORT.read_text()) if REPORT.exists() else None
        if options.missing and old is not None:
            there = {row["place"] for row in old["rows"]}
            todo = [task for task in todo if task[2] not in there]
        prepare(sorted({package for _, package, _ in todo}))
        if old is not None and {row["place"] for row in old["rows"]} <= {task[2] for task in todo}:
            old = None  # nothing of it is kept

        def keep(rows: list[Row]) -> None:
            if options.update:
                REPORT.write_text(parity_pages.compact(content(rows, old)))

        if options.update:
            content([], old)  # raises an error now, not after an hour
        rows = run(todo, options.jobs, options.time_limit, options.checks, keep)
        if options.update:
            print(f"{REPORT.relative_to(ROOT)}: {REPORT.stat().st_size / 1024:.0f} KiB")
            write(json.loads(REPORT.read_text()))
    except UsageError as error:
        print(f"parity.py: error: {error}", file=sys.stderr)
        return 2
    ours = [row for row in rows if row.package.startswith("scratch_") and row.count["failed"]]
    return 1 if ours else 0


if __name__ == "__main__":
    sys.exit(main())
