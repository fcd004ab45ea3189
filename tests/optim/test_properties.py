"""A drawn case that fails is reported as a program in plain torch that shows what is wrong."""

import contextlib
import io
import re
import subprocess
import sys

import pytest
import torch

from scratch_optim.testing import Subject, kit, properties
from scratch_optim.testing.compare import assert_same_bits

BROKEN = '''
import torch


class HalfDecay(torch.optim.SGD):
    """Decays weights by half of what it is told."""

    def step(self, closure=None):
        kept = [group["weight_decay"] for group in self.param_groups]
        for group in self.param_groups:
            group["weight_decay"] /= 2
        super().step(closure)
        for group, decay in zip(self.param_groups, kept):
            group["weight_decay"] = decay


class OtherLists(torch.optim.Adam):
    """Steps twice as far on lists."""

    def step(self, closure=None):
        before = [p.detach().clone() for g in self.param_groups for p in g["params"]]
        super().step(closure)
        for group in self.param_groups:
            if group["foreach"]:
                for p in group["params"]:
                    if p.grad is not None:
                        p.data.add_(p.data - before[0].reshape(-1)[:1].sum())


class Forgetful(torch.optim.SGD):
    """Has its momentum somewhere else than in its state."""

    def step(self, closure=None):
        self.moved = getattr(self, "moved", 0) + 1
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.data.add_(p.grad, alpha=-group["lr"] * self.moved)


class TwiceAsSparse(torch.optim.SparseAdam):
    """Steps twice with each gradient."""

    def step(self, closure=None):
        super().step(closure)
        super().step(closure)


def descent(theta, g, state, t, *, lr, weight_decay, **_):
    return theta - lr * (g + weight_decay * theta)
'''


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """A module of optimizers that are wrong, which a program can import from there."""
    (tmp_path / "broken.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    import broken

    return broken


def failure(check, subject):
    result = kit.ask(check, subject)
    assert result.outcome == "failed", result
    return result.reason


def program_of(reason):
    return reason.split("To see it, run:\n\n", 1)[1]


def run(program):
    """What the program prints: for each parameter what was found and what was expected."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(program, {"__name__": "__main__"})
    return rows_of(printed.getvalue())


def rows_of(printed):
    return [
        re.fullmatch(r"parameter \d+ found (.*) expected (.*)", line).groups()
        for line in printed.splitlines()
    ]


CASES = {
    "another class": (
        properties.equals_its_reference_in_drawn_cases,
        lambda m: Subject(m.HalfDecay, torch.optim.SGD),
    ),
    "another class, to the bit": (
        properties.equals_its_reference_in_drawn_cases,
        lambda m: Subject(m.HalfDecay, torch.optim.SGD, ulps=0),
    ),
    "an equation": (
        properties.equals_its_reference_in_drawn_cases,
        lambda m: Subject(
            m.HalfDecay, m.descent, given=({"lr": 0.1}, {"lr": 0.1, "weight_decay": 0.1})
        ),
    ),
    "sparse gradients": (
        properties.equals_its_reference_in_drawn_cases,
        lambda m: Subject(m.TwiceAsSparse, torch.optim.SparseAdam),
    ),
    "its own loop": (
        properties.every_way_equals_the_loop_in_drawn_cases,
        lambda m: Subject(m.OtherLists),
    ),
    "a state carried over": (
        properties.continues_from_a_state_dict_in_drawn_cases,
        lambda m: Subject(m.Forgetful),
    ),
}


@pytest.mark.parametrize(("check", "make"), CASES.values(), ids=CASES)
def test_a_failure_carries_a_program_that_shows_it(check, make, broken):
    rows = run(program_of(failure(check, make(broken))))
    assert rows
    assert any(found != expected for found, expected in rows)


def test_the_program_is_small_and_needs_nothing_but_torch(broken, tmp_path):
    """At most two steps of at most two parameters, and of the options what the fault needs.

    How far hypothesis shrinks depends on what it draws first, and that on what else is imported.
    """
    program = program_of(failure(*_half_decay(broken)))
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    rows = rows_of(done.stdout)
    assert any(found != expected for found, expected in rows)
    assert "scratch_optim" not in program
    assert len(rows) <= 2
    assert program.count("        torch.tensor(") + program.count("        None,") <= 4
    assert "weight_decay" in program


def test_the_same_case_is_found_again(broken):
    assert failure(*_half_decay(broken)) == failure(*_half_decay(broken))


def _half_decay(broken):
    check = properties.equals_its_reference_in_drawn_cases
    return check, Subject(broken.HalfDecay, torch.optim.SGD, ulps=0)


@pytest.mark.parametrize("check", kit.checks_of(properties), ids=repr)
def test_without_hypothesis_the_checks_do_not_apply(check, monkeypatch):
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    monkeypatch.setitem(sys.modules, "hypothesis.strategies", None)
    result = kit.ask(check, Subject(torch.optim.SGD, torch.optim.SGD))
    assert (result.outcome, result.reason) == ("not applicable", "hypothesis is not installed")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_literals_are_exact(dtype):
    numbers = (0.1, -1e-41, 1 / 3, 3e38, 5e-324, -0.0)
    for shape in ((6,), (), (0, 3), (2, 3)):
        case = properties.Case({}, dtype, (shape,), numbers, ((numbers,),), None)
        (p,) = case.parameters()
        again = eval(properties._literal(p))
        assert again.dtype == dtype
        assert again.shape == p.shape
        assert_same_bits(again, p, str(shape))


def test_a_second_group_has_no_start_of_its_own_which_torchs_adagrad_would_not_heed():
    hypothesis = pytest.importorskip("hypothesis")
    subject = Subject(torch.optim.Adagrad, torch.optim.Adagrad)
    seen = []

    @hypothesis.settings(max_examples=50, database=None, derandomize=True)
    @hypothesis.given(properties._cases(subject, (torch.float64,), tame=False))
    def look(case):
        seen.append(case.second or {})
        assert "initial_accumulator_value" not in seen[-1]

    look()
    assert any(seen)
