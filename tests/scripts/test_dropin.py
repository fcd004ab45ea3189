"""A stranger's script runs as ever, by hand, and what it prints is what it printed."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dropin
from training import printed, replace

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "dropin.py"
STRANGERS = Path(__file__).parent / "strangers"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(*argv: str, launch: str | None = None, cwd: Path | None = None):
    """Run dropin.py, or what starts it."""
    start = shlex.split(launch) if launch else [sys.executable]
    return subprocess.run(
        [*start, *argv], capture_output=True, text=True, timeout=600, cwd=cwd, env=ENVIRONMENT
    )


# ------------------------------------------------------------------ one run

SEES = """
import atexit, os, sys
import training  # a name that dropin.py has a package of
print(__name__, __file__, __package__, sys.argv, sys.path[0], training.HERE)
print(sys.modules["__main__"].__dict__ is globals(), sorted(k for k in globals() if k[0] != "_"))
atexit.register(lambda: print(sys.modules["__main__"].__dict__ is globals()))
if sys.argv[1:] == ["leave"]:
    sys.exit(3)
raise ValueError("as asked")
"""


@pytest.mark.parametrize(("form", "argument"), [(["here.py"], "leave"), (["./here.py"], "raise")])
def test_a_script_sees_what_it_sees_without_us_and_ends_as_it_ends(tmp_path, form, argument):
    (tmp_path / "here.py").write_text(SEES)
    (tmp_path / "training.py").write_text("HERE = 7")
    expected = command(*form, argument, cwd=tmp_path)
    found = command(str(SCRIPT), "--quiet", *form, argument, cwd=tmp_path)
    assert "__main__" in expected.stdout
    assert found.stdout == expected.stdout
    assert found.stderr == expected.stderr
    assert found.returncode == expected.returncode == {"leave": 3, "raise": 1}[argument]


def test_a_module_is_run_as_python_runs_it(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "there.py").write_text(
        "import sys\nfrom . import other\n"
        "print(__name__, __file__, __package__, __spec__.name, sys.argv, sys.path[0], other.X)\n"
        "1 / 0\n"
    )
    (package / "other.py").write_text("X = 1")
    expected = command("-m", "package.there", "-m", "--list", cwd=tmp_path)
    found = command(str(SCRIPT), "--quiet", "-m", "package.there", "-m", "--list", cwd=tmp_path)
    assert found.stdout == expected.stdout
    assert found.returncode == expected.returncode == 1
    assert found.stderr.splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert "dropin.py" not in found.stderr
    assert "runpy" not in found.stderr


CHILDREN = """
import sys
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch.optim import Adam

def work(rank, act):
    optimizer = Adam([torch.nn.Parameter(torch.ones(1))])
    act(torch.ones(1))
    print(rank, torch.nn.functional.silu is act, Adam is torch.optim.Adam, flush=True)

if __name__ == "__main__":
    mp.start_processes(work, args=(F.silu,), nprocs=1, start_method=sys.argv[1])
"""


@pytest.mark.parametrize(
    "method", ["fork", *(pytest.param(m, marks=pytest.mark.slow) for m in ("spawn", "forkserver"))]
)
def test_processes_that_the_script_starts_do_as_it_does_and_report(tmp_path, method):
    (tmp_path / "script.py").write_text(CHILDREN)
    done = command(str(SCRIPT), "script.py", method, cwd=tmp_path)
    assert done.stdout == "0 True True\n", done.stderr
    name = {"fork": "Fork", "spawn": "Spawn", "forkserver": "ForkServer"}[method]
    assert f"dropin ({name}Process-1): torch.nn.functional: silu 1\n" in done.stderr
    assert f"dropin ({name}Process-1): torch.optim: Adam 1\n" in done.stderr
    assert "dropin: no name that was replaced was used in this process\n" in done.stderr


@pytest.mark.slow
def test_a_graph_compiled_of_torchs_functions_is_not_taken_for_one_by_hand(tmp_path, monkeypatch):
    (tmp_path / "script.py").write_text(
        "import torch, torch.nn.functional as F\n"
        "f = torch.compile(lambda x: F.leaky_relu(x).sum(), fullgraph=True)\n"
        "f(torch.randn(8, requires_grad=True)).backward()\n"
        "print(torch._dynamo.utils.counters['aot_autograd']['autograd_cache_hit'])\n"
    )
    monkeypatch.setitem(ENVIRONMENT, "TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    hits = [
        command(str(SCRIPT), *only, "script.py", cwd=tmp_path).stdout
        for only in (["--only=nothing"], ["--only=nothing"], [], ["--only=nothing"])
    ]
    assert hits == ["0\n", "1\n", "0\n", "1\n"]


# ------------------------------------------------------------------ the options


def test_the_list_names_every_stand_in(capsys):
    assert dropin.main(["--list"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["torch.optim.Adam", "scratch_optim.Adam"] in rows
    assert ["torch.nn.functional.gelu", "scratch_layers.functional.gelu"] in rows
    assert ["torch.nn.utils.clip_grad_norm_", "scratch_optim.clip_grad.clip_grad_norm_"] in rows
    assert len(rows) == len(replace.stand_ins())
    dropin.main(["--list", "--only", "optim"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert {row[1].partition(".")[0] for row in rows} == {"scratch_optim"}


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("", ("which script", "-m and a module")),
        ("nowhere.py", ("nowhere.py", "give the path")),
        (f"--noise {__file__}", ("--noise", "--compare")),
        (f"--rtol 0.1 {__file__}", ("--rtol", "--compare")),
        (f"--launch torchrun {__file__}", ("--launch", "--compare")),
        (f"--compare --rtol -1 {__file__}", ("--rtol -1.0", "0 or more")),
        (f"--compare --rtol nan {__file__}", ("--rtol nan", "0 or more")),
        (f"--compare --ignore ( {__file__}", ("--ignore (", "regular expression")),
        (f"--seed -1 {__file__}", ("--seed -1", "2**32")),
    ],
)
def test_what_cannot_be_is_refused_with_the_remedy(capsys, line, parts):
    assert dropin.main(line.split()) == 2
    message = capsys.readouterr().err
    assert message.startswith("dropin.py: error: ")
    for part in parts:
        assert part in message


def test_comparing_within_a_launcher_is_refused(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    assert dropin.main(["--compare", __file__]) == 2
    assert "--launch 'torchrun" in capsys.readouterr().err


def test_what_follows_the_script_is_the_scripts():
    options = dropin.parser().parse_args(["--seed", "3", "train.py", "--compare", "--seed", "4"])
    assert options.script == ["train.py", "--compare", "--seed", "4"]
    assert (options.seed, options.compare) == (3, False)
    options = dropin.parser().parse_args(["-m", "package.train", "-m", "x", "--list"])
    assert options.module == ["package.train", "-m", "x", "--list"]


def test_a_seed_seeds_all_three_generators():
    import random

    import numpy

    draws = []
    for _ in range(2):
        dropin.seed_everything(5)
        draws.append((random.random(), numpy.random.rand(), torch.rand(1).item()))
    assert draws[0] == draws[1]


# ------------------------------------------------------------------ two runs


@pytest.mark.parametrize(
    ("by_hand", "flags", "code", "says"),
    [
        ("0.5000", [], 0, "equal as printed"),
        ("0.5100", [], 1, "line 1 (step 1), 0.5000 | 0.5100"),
        ("0.5100", ["--rtol=0.02"], 0, "equal as printed"),
        ("0.5150", ["--noise"], 1, "largest of torch's own: 4.9"),
        ("0.5100", ["--noise"], 0, "largest of torch's own: 3.3"),
        ("no number", ["--noise"], 1, "other words"),
    ],
)
def test_the_verdict_follows_the_tolerance_or_the_noise(
    capsys, monkeypatch, by_hand, flags, code, says
):
    said = iter(["0.5000", by_hand, "0.5000", "0.5030"])
    monkeypatch.setattr(dropin, "lines_of", lambda *_: printed.lines(f"loss {next(said)}\n"))
    assert dropin.main(["--compare", *flags, str(STRANGERS / "plain.py")]) == code
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(("second", "asked"), [("0.5010", False), ("0.7000", True)])
def test_a_script_that_seems_not_to_be_seeded_is_pointed_out(capsys, monkeypatch, second, asked):
    said = iter(["0.5000", "0.5000", second, "0.5000"])
    monkeypatch.setattr(dropin, "lines_of", lambda *_: printed.lines(f"loss {next(said)}\n"))
    dropin.main(["--compare", "--noise", str(STRANGERS / "plain.py")])
    assert ("--seed" in capsys.readouterr().out) == asked


def test_a_script_that_fails_is_shown(tmp_path, capsys):
    script = tmp_path / "script.py"
    script.write_text("raise ValueError('as asked')")
    assert dropin.main(["--compare", str(script)]) == 2
    message = capsys.readouterr().err
    assert "torch's own: the script exited with 1" in message
    assert "ValueError: as asked" in message


DIFFERS = """
import random, sys, numpy, torch
print(random.random(), numpy.random.rand(), torch.rand(1).item())
print("a", 0.125, file=sys.stderr)
print("by hand" if "scratch" in torch.nn.ReLU.forward.__code__.co_filename else "native")
"""


def test_both_runs_are_seeded_alike_and_only_the_one_is_by_hand(tmp_path, capsys):
    script = tmp_path / "script.py"
    script.write_text(DIFFERS)
    assert dropin.main(["--compare", "--stderr", "--seed", "3", str(script)]) == 1
    out = capsys.readouterr().out
    assert "1 of" not in out
    assert "line 2 (step 1), other words: native | by hand" in out


def compared(capsys, stranger: str, *flags: str) -> str:
    """Compare a stranger's script, with the noise; return what is said."""
    code = dropin.main(["--compare", *flags, str(STRANGERS / f"{stranger}.py")])
    out, err = capsys.readouterr()
    print(out)  # for the reader of a failure
    assert code == 0, err
    return out


@pytest.fixture
def one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.usefixtures("one_thread")
def test_a_plain_loop_prints_the_same_numbers(capsys):
    out = compared(capsys, "plain")
    assert "torch.nn: BatchNorm2d 2, Dropout 1\n" in out
    assert "torch.nn.functional: dropout 17, log_softmax 17, nll_loss 17, relu 34\n" in out
    assert "torch.optim: SGD 1, SGD.step 16\n" in out


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("stranger", "used"),
    [
        ("mixed", "torch.nn.utils: clip_grad_norm_ 40"),
        ("compiled", "smooth_l1_loss 16 and compiled"),
        ("with_timm", "torch.optim: AdamW 1, AdamW.step 18"),
    ],
)
def test_a_strangers_numbers_are_as_near_as_torchs_own_are_to_themselves(capsys, stranger, used):
    assert used in compared(capsys, stranger, "--noise")


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_two_processes_print_the_same_numbers_and_the_first_reports(capsys):
    launch = f"{sys.executable} -m torch.distributed.run --standalone --nproc-per-node 2"
    out = compared(capsys, "distributed", "--noise", "--launch", launch)
    assert out.count("dropin: torch.optim: Adam 1, Adam.step 32\n") == 1
