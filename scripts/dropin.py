"""Run a training script with torch's optimizers and layers replaced by the hand-written ones.

    python scripts/dropin.py train.py --lr 0.1              # python train.py --lr 0.1
    python scripts/dropin.py -m package.train --lr 0.1      # python -m package.train --lr 0.1
    torchrun --nproc-per-node 2 scripts/dropin.py train.py  # torchrun --nproc-per-node 2 train.py

The script is not changed and sees itself run as ever: its name is ``__main__``, ``sys.argv`` and
``sys.path[0]`` are its own, its exit code and exceptions are those of the command. At the end a
few lines on stderr say what was used. What is replaced, and where: ``--list``, and the docstring of
``scripts/training/replace.py``.

    python scripts/dropin.py --compare --noise train.py --lr 0.1

runs it with torch's own and by hand, and compares the numbers that it prints to stdout. Rounding
differs, and training makes much of little, so with ``--noise`` torch's own run twice more with
other instructions and another number of threads, which changes nothing but rounding: what they then
differ by from each other is what a difference may be (CPU only). Where a script draws random
numbers it must seed itself, or be given ``--seed``. ``--launch 'torchrun ...'`` compares runs of
several processes. Exits with 0 if all numbers are equal as printed, or within ``--rtol``, or not
much further apart than torch's own runs (:data:`NOISE_FACTOR`); else with 1. Which numbers are
compared, and how: ``scripts/training/printed.py``.

A difference of a per cent may still be rounding: where the input of a ReLU crosses zero in one run
and not in another, a gradient changes by much more than a rounding. Then other seeds say more.
"""

from __future__ import annotations

import argparse
import functools
import os
import random
import re
import runpy
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import torch

from training import printed, replace
from training.errors import UsageError

NOISE = {
    "other threads, AVX2, fused multiply-add": {
        "OMP_NUM_THREADS": "1" if torch.get_num_threads() > 1 else "2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "TORCHINDUCTOR_CPP_ENABLE_FLOATING_POINT_CONTRACT_FLAG": "fast",
    },
    "SSE 4.1": {"ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"},
}
"""Environments in which torch computes the same in another order, or with other roundings: they
reach convolutions, products of matrices, sums, and what Inductor compiles. ATEN_CPU_CAPABILITY
would reach the rest, but changes how random numbers are made, and code that Inductor compiles for
avx2 was seen to crash where there is AVX-512."""

NOISE_FACTOR = 4.0
"""By how much the largest difference may exceed that among torch's own runs. What a rounding grows
to in training depends on where it falls, and three runs are few: over ten seeds of
``tests/scripts/strangers/mixed.py`` torch's own runs alone were 1.1e-3 to 3.9e-3 apart."""

SUDDEN = 0.01
"""A first difference among torch's own runs that is larger than this is rarely one of rounding."""


def parser() -> argparse.ArgumentParser:
    """The options; what follows the script's name belongs to the script."""
    described = (__doc__ or "").split("\n\n")[0]
    p = argparse.ArgumentParser(
        prog="dropin.py",
        description=described,
        usage="dropin.py [options] (TRAIN.PY | -m MODULE) [ARGS ...]",
        allow_abbrev=False,
    )
    rest = argparse.REMAINDER
    p.add_argument("script", metavar="TRAIN.PY", nargs=rest, help="the script and its arguments")
    p.add_argument("-m", dest="module", metavar="MODULE", nargs=rest, help="a module instead")
    p.add_argument("--only", choices=replace.CHOICES, help="replace these alone (default: all)")
    p.add_argument(
        "--compile-kernels", action="store_true", help="run the layers' equations compiled"
    )
    p.add_argument(
        "--fused",
        action="store_true",
        help="run optimizers fused where they can be and the script asks for no way",
    )
    p.add_argument("--seed", type=int, help="seed random, numpy and torch before the script")
    p.add_argument(
        "--eager-random",
        action="store_true",
        help="let compiled models draw the random numbers that eager ones draw (--compare does)",
    )
    p.add_argument("--quiet", action="store_true", help="do not say what was used")
    p.add_argument("--list", action="store_true", help="print what is replaced by what, and exit")
    p.add_argument("--compare", action="store_true", help="run with torch's own as well, compare")
    p.add_argument(
        "--noise", action="store_true", help="and compare torch's own with themselves (--compare)"
    )
    p.add_argument(
        "--rtol", type=float, default=0.0, help="relative difference allowed (default: as printed)"
    )
    p.add_argument(
        "--ignore",
        metavar="REGEX",
        action="append",
        default=[],
        help="take this out of what was printed, besides durations and dates; repeatable",
    )
    p.add_argument("--stderr", action="store_true", help="compare what goes to stderr as well")
    p.add_argument(
        "--launch",
        metavar="COMMAND",
        help="what starts the runs to compare, such as 'torchrun --standalone --nproc-per-node 2'",
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run, compare or list; returns the exit code."""
    options = parser().parse_args(argv)
    try:
        check(options)
        if options.list:
            print("\n".join(table(options.only)))
            return 0
        if options.compare:
            return compare(options)
    except UsageError as error:
        print(f"dropin.py: error: {error}", file=sys.stderr)
        return 2
    run(options)
    return 0


def check(options: argparse.Namespace) -> None:
    """Refuse what cannot be.

    Raises:
        UsageError: with the option and the remedy.
    """
    command = options.module or options.script
    if not command and not options.list:
        raise UsageError("which script? Give its path, or -m and a module, behind the options")
    if options.script and not options.module and not Path(options.script[0]).is_file():
        raise UsageError(f"no file {options.script[0]}: give the path of the script")
    for name in ("noise", "rtol", "ignore", "stderr", "launch"):
        if getattr(options, name) and not options.compare:
            raise UsageError(f"--{name} says how to compare: give --compare with it")
    if not options.rtol >= 0:
        raise UsageError(f"--rtol {options.rtol} must be 0 or more")
    for pattern in options.ignore:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UsageError(f"--ignore {pattern} is no regular expression: {error}") from error
    if options.seed is not None and not 0 <= options.seed < 2**32:
        raise UsageError(f"--seed {options.seed} must be at least 0 and below 2**32")
    if options.compare and "RANK" in os.environ:
        raise UsageError(
            "--compare starts the processes itself: run it without torchrun, and hand that on as "
            "--launch 'torchrun ...'"
        )


def table(only: str | None) -> list[str]:
    """What stands for what, a line each."""
    rows = [(f"{s.family}.{s.name}", s.where) for s in replace.stand_ins(only)]
    width = max((len(theirs) for theirs, _ in rows), default=0)
    return [f"{theirs:{width}}  {ours}" for theirs, ours in rows]


# ------------------------------------------------------------------ one run


def run(options: argparse.Namespace) -> None:
    """Run the script in this process, which is left to it."""
    if options.seed is not None:
        seed_everything(options.seed)
    if options.eager_random:
        torch.compile = drawing_as_eager(torch.compile)
    for name in [n for n in sys.modules if n.partition(".")[0] == "training"]:
        del sys.modules[name]  # the script may have a package of that name
    with replace.replaced(
        options.only, kernels=options.compile_kernels, fused=options.fused
    ) as used:
        try:
            if options.module:
                sys.argv, sys.path[0] = list(options.module), os.getcwd()
                runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
            else:
                sys.argv = list(options.script)
                sys.path[0] = os.path.dirname(os.path.realpath(sys.argv[0]))
                execute(os.path.join(os.getcwd(), sys.argv[0]))
        except BaseException:
            sys.excepthook = functools.partial(from_the_script_on, sys.excepthook)
            raise
        finally:
            if not options.quiet:
                replace.report(used)


def execute(path: str) -> None:
    """Run a file as the main module, and leave it that, for what runs when the process ends.

    As ``runpy.run_path``, which puts the main module that was there back, and writes the path into
    ``sys.argv[0]``.
    """
    code = compile(Path(path).read_bytes(), path, "exec")
    main = sys.modules["__main__"] = ModuleType("__main__")
    main.__file__ = path
    exec(code, vars(main))


def seed_everything(seed: int) -> None:
    """Seed the generators that scripts draw from."""
    random.seed(seed)
    torch.manual_seed(seed)
    if find_spec("numpy") is not None:
        import numpy

        numpy.random.seed(seed)


def drawing_as_eager(compile: Any) -> Any:
    """``torch.compile`` that draws the same random numbers as what it compiles."""

    @functools.wraps(compile)
    def compiling(*args: Any, **kwargs: Any) -> Any:
        from torch._inductor import config  # not before it is needed: it takes a second or two

        config.fallback_random = True
        return compile(*args, **kwargs)

    return compiling


def from_the_script_on(
    hook: Any, kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Report an error of the script without the calls that led to the script."""
    runners = (run.__code__.co_filename, runpy.run_module.__code__.co_filename)
    while trace is not None and trace.tb_frame.f_code.co_filename in runners:
        trace = trace.tb_next
    hook(kind, error.with_traceback(trace), trace)


# ------------------------------------------------------------------ two runs


def compare(options: argparse.Namespace) -> int:
    """Run the script both ways and say how what it printed differs."""
    native = lines_of(options, "torch's own", replace.NOTHING)
    by_hand = lines_of(options, "by hand", options.only)
    apart = printed.compare(native, by_hand, options.rtol)
    if not options.noise:
        print(f"torch's own and by hand: {apart}")
        return int(apart.first is not None)
    runs = [native]
    for what, environment in NOISE.items():
        runs.append(lines_of(options, f"torch's own, {what}", replace.NOTHING, environment))
    noise = printed.widest([printed.compare(a, b, options.rtol) for a, b in combinations(runs, 2)])
    print(f"torch's own and by hand: {apart}\ntorch's own {len(runs)} runs: {noise}")
    if noise.first and noise.first.pair and printed.relative_difference(*noise.first.pair) > SUDDEN:
        print("torch's own part all at once: does the script seed all that it draws? --seed does")
    floor = max(noise.largest, torch.finfo(torch.float32).eps)  # what a printed loss is known to
    print(f"largest by hand / largest of torch's own: {apart.largest / floor:.2g}")
    within = apart.words is None and apart.largest <= NOISE_FACTOR * floor
    return int(apart.first is not None and not within)


def lines_of(
    options: argparse.Namespace,
    what: str,
    only: str | None,
    environment: dict[str, str] | None = None,
) -> list[printed.Line]:
    """Run the script in a process of its own and return what it printed.

    Raises:
        UsageError: it failed.
    """
    flags = ["--eager-random"]
    flags += [f"--only={only}"] if only else []
    flags += [f"--seed={options.seed}"] if options.seed is not None else []
    if only == replace.NOTHING:
        flags += ["--quiet"]
    else:
        flags += ["--compile-kernels"] if options.compile_kernels else []
        flags += ["--fused"] if options.fused else []
    script = ["-m", *options.module] if options.module else options.script
    launch = shlex.split(options.launch) if options.launch else [sys.executable]
    command = [*launch, str(Path(__file__).resolve()), *flags, *script]
    started = time.perf_counter()
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "0", **(environment or {})},
    )
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise UsageError(
            f"{what}: the script exited with {done.returncode}, here is how it ran and what it "
            f"wrote to stderr:\n{shlex.join(command)}\n{done.stderr}"
        )
    said = [line for line in done.stderr.splitlines() if line.startswith("dropin")]
    print(f"{what}: {seconds:.1f} s", *said, sep="\n  ", flush=True)
    text = done.stdout
    if options.stderr:
        text += "".join(f"{line}\n" for line in done.stderr.splitlines() if line not in said)
    return printed.lines(text, options.ignore)


if __name__ == "__main__":
    sys.exit(main())
