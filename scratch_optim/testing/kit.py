"""What a conformance kit is, whatever it checks: named checks, what became of each, a report.

A :class:`Check` is a function of a subject that raises where the subject is wrong; the first
sentence of its docstring says what passing it proves. :func:`run` runs some of them over one
subject, and :class:`Report` says what became of them, as a table for people and JSON for machines.
The kits of optimizers and of layers are both made of this.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import inspect
import json
import multiprocessing
import os
import platform
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol

import torch

Outcome = Literal["passed", "failed", "expected failure", "passed unexpectedly", "not applicable"]


class Subject(Protocol):
    """What is checked, and how: an optimizer or a layer with its reference."""

    @property
    def title(self) -> str:
        """Its name, in reports and in the ids of tests."""

    @property
    def against(self) -> str | None:
        """The name of its reference, if it has one."""


class NotApplicable(Exception):  # noqa: N818 - it is no error
    """Raised by a check that says nothing about this subject; its message is the reason."""


def skip(reason: str) -> NoReturn:
    """Leave a check: it does not apply, for this reason."""
    raise NotApplicable(reason)


class ConformanceError(AssertionError):
    """Some checks failed. ``report`` has all that became of all."""

    def __init__(self, report: Report) -> None:
        super().__init__(str(report))
        self.report = report


@dataclass(frozen=True)
class Check:
    """One question to a subject."""

    name: str
    proves: str
    """What holds of a subject that passes: a sentence."""
    ask: Callable[[Any], None]
    """Raises an error where it does not hold, :class:`NotApplicable` where it is no question."""

    def __call__(self, subject: Any) -> None:
        """Ask it; return if all is well."""
        self.ask(subject)

    def __repr__(self) -> str:
        return self.name


def check(ask: Callable[[Any], None]) -> Check:
    """Make a check of a function, named as it is, which proves what its docstring begins with.

    Raises:
        TypeError: it has no docstring.
    """
    if not ask.__doc__:
        raise TypeError(f"the check {ask.__name__} needs a docstring that says what it proves")
    sentence = " ".join(inspect.cleandoc(ask.__doc__).split("\n\n")[0].split())
    return Check(ask.__name__, sentence, ask)


def checks_of(*modules: Any) -> list[Check]:
    """The checks that some modules define, in the order of their lines."""
    return [x for module in modules for x in vars(module).values() if isinstance(x, Check)]


@dataclass(frozen=True)
class Result:
    """What became of one check."""

    check: str
    proves: str
    outcome: Outcome
    reason: str
    """Of a failure what was found; of a check that does not apply, or whose failure was expected,
    why."""
    seconds: float

    @property
    def failed(self) -> bool:
        """Whether it speaks against the subject."""
        return self.outcome == "failed"


def versions() -> dict[str, str]:
    """What a report was made with."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    return {"torch": torch.__version__, "python": platform.python_version(), "device": device}


@dataclass(frozen=True)
class Report:
    """What became of the checks of a subject. As a string: a table."""

    subject: str
    reference: str | None
    results: list[Result]
    versions: dict[str, str] = field(default_factory=versions)

    @property
    def ok(self) -> bool:
        """Whether no check failed but those that were expected to."""
        return not self.failures

    @property
    def failures(self) -> list[Result]:
        """The checks that failed, and were not expected to."""
        return [result for result in self.results if result.failed]

    def count(self, outcome: Outcome) -> int:
        """How many checks ended so."""
        return sum(result.outcome == outcome for result in self.results)

    def to_dict(self) -> dict[str, Any]:
        """The report as what JSON can hold."""
        return {**asdict(self), "ok": self.ok}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n")

    def __str__(self) -> str:
        width = max([len(result.check) for result in self.results], default=0)
        title = self.subject + (f" against {self.reference}" if self.reference else "")
        lines = [f"{title}: {self.summary()}", ""]
        for result in self.results:
            line = f"  {_MARKS[result.outcome]} {result.check:{width}}  {result.seconds:6.2f} s"
            if result.outcome == "passed":
                lines.append(line)
                continue
            first, *more = result.reason.splitlines() or [""]
            lines.append(f"{line}  {result.outcome}: {first}")
            if result.failed:
                lines += [f"      {row}" for row in (f"it proves: {result.proves}", *more)]
        return "\n".join(lines)

    def summary(self) -> str:
        """How many checks ended how, in words."""
        return ", ".join(f"{n} {mark}" for mark in _MARKS if (n := self.count(mark)))


_MARKS: dict[Outcome, str] = {
    "passed": "+",
    "failed": "X",
    "expected failure": "x",
    "passed unexpectedly": "!",
    "not applicable": "-",
}


@contextmanager
def undisturbed(seed: int = 0) -> Iterator[None]:
    """Let a check draw the same numbers always, and leave the caller's settings as they were."""
    dtype, enabled = torch.get_default_dtype(), torch.is_grad_enabled()
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of others' code; a check that wants them records them
        torch.manual_seed(seed)
        torch.set_grad_enabled(True)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            torch.set_grad_enabled(enabled)


def ask(check: Check, subject: Subject, expected: str | None = None) -> Result:
    """Run one check.

    Args:
        check: the check.
        subject: what is checked.
        expected: why it is expected to fail, if it is.
    """
    begin = time.perf_counter()
    outcome: Outcome = "passed" if expected is None else "passed unexpectedly"
    reason = expected or ""
    try:
        with undisturbed():
            check(subject)
    except NotApplicable as why:
        outcome, reason = "not applicable", str(why)
    except Exception as error:  # any error of the code that is checked is what we are here for
        outcome, reason = "failed", _describe(error)
        if expected is not None:
            outcome, reason = "expected failure", f"{expected} ({reason.splitlines()[0]})"
    return Result(check.name, check.proves, outcome, reason, time.perf_counter() - begin)


def _describe(error: Exception) -> str:
    """The message of a check; of any other error also where it came from."""
    notes = getattr(error, "__notes__", [])
    if isinstance(error, AssertionError) and str(error):
        return "\n".join([str(error), *notes])
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{type(error).__name__}: {error}"
    return "\n".join([text, f"raised in {place.filename}:{place.lineno}, {place.name}", *notes])


@contextmanager
def circumstances(**facts: Any) -> Iterator[None]:
    """Say of an error in this block in what circumstances it came: ``options``, ``dtype``, ..."""
    try:
        yield
    except NotApplicable:
        raise
    except Exception as error:
        error.add_note(", ".join(f"{name} = {fact}" for name, fact in facts.items()))
        raise


def select(checks: Sequence[Check], names: Iterable[str] | None) -> list[Check]:
    """Those of some names, or all.

    Raises:
        ValueError: a name that none of them has.
    """
    if names is None:
        return list(checks)
    by_name = {check.name: check for check in checks}
    names = list(names)
    for name in names:
        if name not in by_name:
            close = difflib.get_close_matches(name, by_name, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(by_name)}"
            raise ValueError(f"there is no check {name!r}; {hint}")
    return [by_name[name] for name in names]


def run(
    checks: Sequence[Check],
    subject: Subject,
    *,
    names: Iterable[str] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    on_fail: Literal["raise", "collect", "stop"] = "raise",
) -> Report:
    """Run checks over a subject.

    Args:
        checks: all there are.
        subject: what is checked.
        names: which of them to run; all if None.
        expected_failures: reasons by the names of the checks that are known to fail.
        on_fail: ``"raise"`` runs all, then raises if any failed; ``"collect"`` only reports;
            ``"stop"`` only reports, and runs none after the first that failed.

    Raises:
        ConformanceError: a check failed that was not expected to (``on_fail="raise"``).
        ValueError: the name of a check that does not exist, or another ``on_fail``.
    """
    if on_fail not in ("raise", "collect", "stop"):
        raise ValueError(f"on_fail must be 'raise', 'collect' or 'stop', but is {on_fail!r}")
    expected = dict(expected_failures or {})
    select(checks, expected)
    results: list[Result] = []
    for check in select(checks, names):
        results.append(ask(check, subject, expected.get(check.name)))
        if on_fail == "stop" and results[-1].failed:
            break
    report = Report(subject.title, subject.against, results)
    if on_fail == "raise" and not report.ok:
        raise ConformanceError(report)
    return report


Checks = Sequence[Check] | Callable[[Any], Sequence[Check]]
"""Checks, or a function that says which there are for a subject."""


def checks_for(subject: Subject, checks: Checks) -> Sequence[Check]:
    """Those of some checks that there are for a subject."""
    return checks(subject) if callable(checks) else checks


def parametrize(
    checks: Checks,
    subjects: Iterable[tuple[Subject, Mapping[str, str]]],
) -> Any:
    """Make a decorator for pytest: a test ``(subject, check)`` for each check of each subject.

    Expected failures become ``xfail``; a check that does not apply, a skipped test.
    """
    import pytest

    rows = []
    for subject, expected in subjects:
        own = checks_for(subject, checks)
        select(own, expected)
        for check in own:
            reason = expected.get(check.name)
            marks = [] if reason is None else [pytest.mark.xfail(reason=reason)]
            rows.append(
                pytest.param(subject, check, marks=marks, id=f"{subject.title}-{check.name}")
            )

    def decorate(test: Callable[[Any, Check], None]) -> Any:
        def conformance(subject: Any, check: Check) -> None:
            try:
                with undisturbed():
                    test(subject, check)
            except NotApplicable as reason:
                pytest.skip(str(reason))

        conformance.__name__, conformance.__doc__ = test.__name__, test.__doc__
        conformance.__module__ = test.__module__
        return pytest.mark.parametrize(("subject", "check"), rows)(conformance)

    return decorate


def public_name(thing: Any) -> str:
    """The name under which a class or a function is imported: ``torch.optim.Adam``."""
    name: str | None = getattr(thing, "__name__", None)
    if name is None:
        return repr(thing)
    parts = thing.__module__.split(".")
    for length in range(1, len(parts)):
        package = ".".join(parts[:length])
        if getattr(sys.modules.get(package), name, None) is thing:
            return f"{package}.{name}"
    return f"{thing.__module__}.{thing.__qualname__}"


# ------------------------------------------------------------------ the command line


def named(place: str) -> Any:
    """What ``"package.module:name"`` names.

    Raises:
        ValueError: nothing is there.
    """
    module, colon, name = place.partition(":")
    if not colon:
        raise ValueError(f"{place!r} names no object; write it as package.module:Name")
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"cannot find {place!r}: {error}") from error
    finally:
        sys.path.remove(os.getcwd())
    return found


def argument_parser(prog: str, what: str) -> argparse.ArgumentParser:
    """The arguments that the command lines of all kits take."""
    parser = argparse.ArgumentParser(prog=prog, description=f"Check {what} for conformance.")
    parser.add_argument("subject", help=f"{what} to check, as package.module:Class")
    parser.add_argument("--reference", help="what to compare it with, as package.module:Class")
    parser.add_argument("--device", default="cpu", help="where to run (default: cpu)")
    parser.add_argument("--checks", nargs="+", metavar="NAME", help="only these checks")
    parser.add_argument(
        "--expect",
        nargs="+",
        default=[],
        metavar="NAME=REASON",
        help="checks that are known to fail",
    )
    parser.add_argument("--json", type=Path, help="write the report there")
    parser.add_argument(
        "--jobs",
        type=int,
        default=min(torch.get_num_threads(), 4),
        metavar="N",
        help="processes that share the checks (default: as many as torch has threads, at most 4; "
        "one for a few checks)",
    )
    return parser


def _expectation(text: str) -> tuple[str, str]:
    name, equals, reason = text.partition("=")
    if not equals:
        raise ValueError(f"--expect takes NAME=REASON, but got {text!r}")
    return name, reason


def command_line(
    parser: argparse.ArgumentParser,
    checks: Callable[[Any], Sequence[Check]],
    make: Callable[[argparse.Namespace], Subject],
    argv: Sequence[str] | None = None,
) -> int:
    """Run a kit from the command line; return the exit code.

    It is 0 if all is well, 1 if a check failed, and 2 if the arguments make no sense.

    Args:
        parser: of all arguments.
        checks: says which there are for a subject.
        make: the subject, of the arguments. Both are functions of modules, which another process
            can import.
        argv: the arguments; those of the process if None.
    """
    arguments = parser.parse_args(argv)
    try:
        if arguments.jobs < 1:
            raise ValueError(f"--jobs must be 1 or more, but is {arguments.jobs}")
        expected = dict(_expectation(pair) for pair in arguments.expect)
        subject = make(arguments)
        there = checks(subject)
        names = [check.name for check in select(there, arguments.checks)]
        # a process takes seconds to start, most checks less than one
        jobs = min(arguments.jobs, 1 + len(names) // 32)
        if jobs == 1:
            report = run(there, subject, names=names, expected_failures=expected, on_fail="collect")
        else:
            select(there, expected)
            context = (make, checks, arguments, expected, jobs)
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(jobs, spawn, _begin, context) as pool:
                report = Report(subject.title, subject.against, list(pool.map(_ask, names)))
    except (ValueError, TypeError) as error:
        parser.error(str(error))
    except BrokenProcessPool:
        print("a check has ended its process; --jobs 1 asks them one by one", file=sys.stderr)
        return 1
    print(report)
    if arguments.json:
        report.save(arguments.json)
    return 0 if report.ok else 1


_present: tuple[Subject, dict[str, Check], dict[str, str]]
"""In a process that shares the checks: the subject, its checks by name, what is expected."""


def _begin(
    make: Callable[[argparse.Namespace], Subject],
    checks: Callable[[Any], Sequence[Check]],
    arguments: argparse.Namespace,
    expected: dict[str, str],
    jobs: int,
) -> None:
    """Make the subject in this process, one of several that share the threads."""
    global _present
    torch.set_num_threads(max(1, torch.get_num_threads() // jobs))
    subject = make(arguments)
    _present = subject, {check.name: check for check in checks(subject)}, expected


def _ask(name: str) -> Result:
    subject, checks, expected = _present
    return ask(checks[name], subject, expected.get(name))
