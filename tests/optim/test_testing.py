"""The conformance kit itself: what it reports, what it leaves alone, and what it compares with."""

import json
import math
import subprocess
import sys
import warnings

import pytest
import torch
from mutants import MUTANTS

import scratch_optim
from scratch_optim.testing import (
    CHECKS,
    ConformanceError,
    Subject,
    check_optimizer,
    kit,
    parametrize_with_checks,
)
from scratch_optim.testing.__main__ import main
from scratch_optim.testing.compare import assert_same, copied, epsilons, same_bits
from scratch_optim.testing.kit import check, circumstances, skip
from scratch_optim.testing.options import SWITCHES, VALUES, accepted, derived, parameters_of
from scratch_optim.testing.subject import SHAPES, EquationOptimizer, gradients, parameters

TORCH = [
    x for x in vars(torch.optim).values()
    if isinstance(x, type) and issubclass(x, torch.optim.Optimizer) and x.__name__ != "Optimizer"
]  # fmt: skip
each_of_torch = pytest.mark.parametrize("cls", TORCH, ids=lambda cls: cls.__name__)
QUICK = "equals_reference_in_float64"


# ------------------------------------------------------------------ checks made for these tests


@check
def holds(subject):
    """It holds.

    More about it.
    """


@check
def does_not_hold(subject):
    """It does not."""
    with circumstances(options="lr=0.1"):
        raise AssertionError("1 is not 2\nand never was")


@check
def is_no_question(subject):
    """It is no question."""
    skip("has no wheels")


@check
def crashes(subject):
    """It crashes."""
    raise KeyError("exp_avg")


OWN = [holds, does_not_hold, is_no_question, crashes]
SUBJECT = Subject(torch.optim.SGD, torch.optim.SGD)


def outcomes(report):
    return {result.check: result.outcome for result in report.results}


def test_every_check_is_run_and_its_outcome_reported():
    report = kit.run(OWN, SUBJECT, on_fail="collect")
    assert outcomes(report) == {
        "holds": "passed",
        "does_not_hold": "failed",
        "is_no_question": "not applicable",
        "crashes": "failed",
    }
    assert not report.ok
    assert [result.check for result in report.failures] == ["does_not_hold", "crashes"]
    assert report.summary() == "1 passed, 2 failed, 1 not applicable"
    assert report.versions["torch"] == torch.__version__


def test_the_table_names_subject_reference_time_reasons_and_what_a_failed_check_proves():
    report = kit.run(OWN, SUBJECT, on_fail="collect")
    text = str(report)
    assert text.startswith("torch.optim.SGD against torch.optim.SGD: 1 passed, 2 failed")
    for result in report.results:
        (line,) = [row for row in text.splitlines() if row[4:].startswith(f"{result.check} ")]
        assert f"{result.seconds:6.2f} s" in line
    assert "not applicable: has no wheels" in text
    assert "failed: 1 is not 2" in text
    assert "and never was" in text
    assert "options = lr=0.1" in text
    assert "it proves: It does not." in text
    assert "KeyError: 'exp_avg'" in text
    assert f"raised in {__file__}" in text
    assert "More about it" not in text


def test_a_report_as_json_says_what_the_table_says(tmp_path):
    report = kit.run(OWN, SUBJECT, on_fail="collect")
    report.save(tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text())
    assert read == report.to_dict()
    assert (read["subject"], read["reference"], read["ok"]) == ("torch.optim.SGD",) * 2 + (False,)
    assert [x["outcome"] for x in read["results"]] == [x.outcome for x in report.results]
    assert read["results"][0]["proves"] == "It holds."


def test_raise_runs_all_checks_and_then_raises_with_the_report():
    with pytest.raises(ConformanceError, match="2 failed") as caught:
        kit.run(OWN, SUBJECT)
    assert len(caught.value.report.results) == len(OWN)
    assert kit.run(OWN[:1], SUBJECT).ok


def test_stop_runs_nothing_after_the_first_failure():
    report = kit.run(OWN, SUBJECT, on_fail="stop")
    assert list(outcomes(report)) == ["holds", "does_not_hold"]


def test_another_on_fail_is_refused():
    with pytest.raises(ValueError, match="'raise', 'collect' or 'stop', but is 'ignore'"):
        kit.run(OWN, SUBJECT, on_fail="ignore")


# ------------------------------------------------------------------ expected failures, names


def test_an_expected_failure_is_reported_with_both_reasons_and_is_no_failure():
    report = kit.run(
        OWN, SUBJECT, expected_failures={"does_not_hold": "known", "crashes": "known too"}
    )
    assert report.ok
    assert outcomes(report)["does_not_hold"] == "expected failure"
    (reason,) = [x.reason for x in report.results if x.check == "does_not_hold"]
    assert reason == "known (1 is not 2)"
    assert report.summary() == "1 passed, 2 expected failure, 1 not applicable"


def test_an_expected_failure_that_does_not_come_is_reported_as_such():
    report = kit.run(OWN[:1], SUBJECT, expected_failures={"holds": "it used not to"})
    assert outcomes(report) == {"holds": "passed unexpectedly"}


def test_an_expected_failure_of_what_does_not_apply_does_not_apply():
    report = kit.run([is_no_question], SUBJECT, expected_failures={"is_no_question": "why not"})
    assert outcomes(report) == {"is_no_question": "not applicable"}


@pytest.mark.parametrize("where", ["checks", "expected_failures"])
def test_an_unknown_check_is_refused_and_the_nearest_named(where):
    given = ["equal_reference_in_float64"]
    given = dict.fromkeys(given, "why") if where == "expected_failures" else given
    with pytest.raises(ValueError, match="did you mean 'equals_reference_in_float64'"):
        check_optimizer(torch.optim.SGD, **{where: given})
    with pytest.raises(ValueError, match="there are: holds, does_not_hold"):
        kit.select(OWN, ["xyz"])


def test_chosen_checks_run_in_the_order_in_which_they_are_named():
    report = kit.run(OWN, SUBJECT, names=["is_no_question", "holds"])
    assert list(outcomes(report)) == ["is_no_question", "holds"]


def test_every_check_has_a_name_of_its_own_and_a_sentence():
    assert len({x.name for x in CHECKS}) == len(CHECKS)
    for x in CHECKS:
        assert x.proves[0].isupper() or x.proves.startswith("``"), x.name
        assert x.proves.endswith("."), x.name


def test_a_check_without_a_sentence_is_refused():
    with pytest.raises(TypeError, match="mute needs a docstring"):

        @check
        def mute(subject):
            pass


# ------------------------------------------------------------------ what is left alone


def test_checks_draw_the_same_numbers_and_leave_random_state_and_modes_alone():
    seen = []

    @check
    def rude(subject):
        """It leaves everything changed."""
        seen.append((torch.rand(()).item(), torch.is_grad_enabled(), torch.get_default_dtype()))
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        warnings.warn("of others", stacklevel=1)
        raise AssertionError("and fails")

    torch.manual_seed(7)
    before = torch.get_rng_state()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        kit.run([rude, rude], SUBJECT, on_fail="collect")
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_default_dtype() == torch.float32
    assert seen[0] == seen[1]
    assert seen[0][1:] == (True, torch.float32)


def test_gradients_and_parameters_are_the_same_at_every_call():
    for x, y in zip(parameters(), parameters(), strict=True):
        assert same_bits(x, y)
        assert x.data_ptr() != y.data_ptr() or not x.numel()
    rows = gradients()
    assert [tuple(g.shape) for g in rows[0]] == list(SHAPES)
    assert any(all(not g.any() for g in row) for row in rows), "one is to be zero"
    sizes = [rows[step][0].abs().max().item() for step in range(10) if rows[step][0].any()]
    assert max(sizes) > 1e3 * min(sizes)


# ------------------------------------------------------------------ the command line


def test_the_command_line_returns_0_and_prints_the_report_of_a_class_that_passes(capsys, tmp_path):
    place = tmp_path / "report.json"
    arguments = ["torch.optim:SGD", "--reference", "torch.optim:SGD", "--ulps", "0"]
    assert main([*arguments, "--checks", QUICK, "--json", str(place)]) == 0
    assert capsys.readouterr().out.startswith("torch.optim.SGD against torch.optim.SGD: 1 passed")
    assert json.loads(place.read_text())["ok"]


def test_the_command_line_returns_1_for_a_class_that_fails_unless_that_is_expected(capsys):
    with next(x for x in MUTANTS if x.cls == "SGD" and x.wrong == "climbs").made() as cls:
        place = f"{cls.__module__}:SGD"
        arguments = [place, "--reference", "torch.optim:SGD", "--checks", QUICK]
        assert main(arguments) == 1
        assert "epsilons of torch.float64 from the reference" in capsys.readouterr().out
        assert main([*arguments, "--expect", f"{QUICK}=it climbs"]) == 0
        assert "expected failure: it climbs" in capsys.readouterr().out


def test_processes_that_share_the_checks_report_what_one_does(tmp_path):
    slow = ("fused", "drawn", "gradscaler", "compile", "equal", "gradcheck", "capturable")
    quick = [x.name for x in CHECKS if not any(word in x.name for word in slow)][:40]
    found = []
    for jobs in ("1", "2"):
        place = tmp_path / f"{jobs}.json"
        arguments = ["torch.optim:SGD", "--checks", *quick, "--json", str(place), "--jobs", jobs]
        code = main(arguments)
        results = json.loads(place.read_text())["results"]
        found.append((code, [{k: x for k, x in r.items() if k != "seconds"} for r in results]))
    assert len(found[0][1]) == 40
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["torch.optim:SGD", "--jobs", "0"], "--jobs must be 1 or more, but is 0"),
        (["torch.optim.SGD"], "write it as package.module:Name"),
        (["torch.optim:SDG"], "cannot find 'torch.optim:SDG'"),
        (["torch.optimum:SGD"], "cannot find 'torch.optimum:SGD'"),
        (["torch.optim:SGD", "--reference", "torch.optim:SDG"], "cannot find 'torch.optim:SDG'"),
        (["torch.optim:SGD", "--options", "{lr: 1}"], "--options takes JSON, but got '{lr: 1}'"),
        (["torch.optim:SGD", "--checks", "equals_reference"], "did you mean 'equals_reference"),
        (["torch.optim:SGD", "--expect", QUICK], "NAME=REASON"),
        (["torch.optim:SGD", "--expect", "x=y"], "there is no check 'x'"),
        (["torch.nn:Linear"], "is no optimizer's class"),
        (["torch.optim:lr_scheduler"], "is no optimizer's class"),
    ],
)
def test_the_command_line_exits_with_2_and_says_why_if_the_arguments_make_no_sense(
    arguments, message, capsys
):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert message in capsys.readouterr().err


def test_the_command_line_takes_options_and_switches_as_check_optimizer_does(capsys):
    arguments = ["torch.optim:SGD", "--reference", "torch.optim:SGD", "--checks", QUICK]
    arguments += ["--options", '{"lr": 0.1}', '{"foreach": false}']
    assert main([*arguments, "--reference-loops", "--drop-in"]) == 0
    arguments[-3:] = ["takes_every_shape", "--options", '{"lr": -1.0}']
    assert main(arguments) == 1
    assert "Invalid learning rate: -1.0" in capsys.readouterr().out


def test_the_kit_is_run_as_a_module():
    command = [sys.executable, "-m", "scratch_optim.testing", "torch.optim:SGD", "--checks", QUICK]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "torch.optim.SGD: 1 not applicable" in done.stdout
    assert not done.stderr


# ------------------------------------------------------------------ in pytest

USE = '''
import torch
from scratch_optim.testing import Subject, parametrize_with_checks


class Climbs(torch.optim.SGD):
    """Of SGD, but."""

    def __init__(self, params, lr=1e-3):
        super().__init__(params, lr, maximize=True)


@parametrize_with_checks(
    [Subject(Climbs, torch.optim.SGD), torch.optim.SGD],
    {"test_use.Climbs": {"equals_reference_in_float64": "it climbs"}},
)
def test_conformance(subject, check):
    """A test of ours."""
    check(subject)
'''


def test_in_pytest_a_check_is_a_test_that_fails_skips_or_is_expected_to_fail(tmp_path):
    (tmp_path / "test_use.py").write_text(USE)
    names = "equals_reference_in_float64 or equals_reference_in_float32"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", "-ra", "-k", names]
    done = subprocess.run(
        [*command, "test_use.py"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    for row, outcome in {
        "test_conformance[test_use.Climbs-equals_reference_in_float64]": "XFAIL",
        "test_conformance[test_use.Climbs-equals_reference_in_float32]": "FAILED",
        "test_conformance[torch.optim.SGD-equals_reference_in_float64]": "SKIPPED",
        "test_conformance[torch.optim.SGD-equals_reference_in_float32]": "SKIPPED",
    }.items():
        assert f"{row} {outcome}" in done.stdout, done.stdout
    assert "has no reference" in done.stdout
    assert done.returncode == 1


def test_in_pytest_an_unknown_expected_failure_is_refused():
    with pytest.raises(ValueError, match="there is no check 'x'"):
        parametrize_with_checks([torch.optim.SGD], {"torch.optim.SGD": {"x": "y"}})


# ------------------------------------------------------------------ options


@each_of_torch
def test_every_combination_of_options_is_another_and_is_taken(cls):
    found = derived(cls)
    assert found
    for i, options in enumerate(found):
        assert accepted(cls, options)
        assert options not in found[:i]


@each_of_torch
def test_every_option_that_changes_the_equation_is_in_some_combination(cls):
    known = parameters_of(cls)
    used = {name for options in derived(cls) for name, x in options.items()
            if x != known[name].default}  # fmt: skip
    wanted = {name for name in known if name in VALUES or isinstance(known[name].default, bool)}
    assert used == wanted - set(SWITCHES) | (used - wanted)
    assert "lr" in used


def test_options_are_those_that_the_reference_knows_too():
    for options in derived(scratch_optim.RMSprop, torch.optim.RMSprop):
        assert "eps_inside_root" not in options


def test_an_option_without_a_default_is_always_given():
    class Asks(torch.optim.SGD):
        def __init__(self, params, lr, *, momentum=0):
            super().__init__(params, lr, momentum)

    assert all("lr" in options for options in derived(Asks))


# ------------------------------------------------------------------ how tensors are compared

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0),
        ([1.0, 2.0 + 2**-21], [1.0, 2.0], 2),
        ([1.0 + 2**-20, 8.0], [1.0, 8.0], 1),  # of the largest value
        ([NAN, 1.0], [NAN, 1.0], 0),
        ([NAN, 1.0], [2.0, 1.0], INF),
        ([2.0, 1.0], [NAN, 1.0], INF),
        ([INF, 1.0], [INF, 1.0], 0),
        ([INF, 1.0], [-INF, 1.0], INF),
        ([INF, 1.0], [1.0, 1.0], INF),
        ([INF, 1.0 + 2**-22], [INF, 1.0], 2),
        ([-0.0], [0.0], 0),
        ([], [], 0),
        ([1.0 + 1j, 2.0 + 2**-20 * 1j], [1.0 + 1j, 2.0 + 0j], 4),
    ],
)
def test_a_distance_is_in_epsilons_of_the_largest_value_and_infinite_where_one_is_not_finite(
    a, b, expected
):
    dtype = torch.complex64 if any(isinstance(x, complex) for x in a) else torch.float32
    a, b = torch.tensor(a, dtype=dtype), torch.tensor(b, dtype=dtype)
    assert epsilons(a, b) == expected


def test_a_distance_from_zeros_is_finite_and_not_zero():
    assert 0 < epsilons(torch.tensor([1e-6]), torch.zeros(1)) < math.inf


def test_a_distance_of_other_shapes_or_dtypes_is_an_error():
    with pytest.raises(AssertionError, match=r"torch.float32 \(2,\) and torch.float64 \(2,\)"):
        epsilons(torch.zeros(2), torch.zeros(2, dtype=torch.float64))


def test_bits_tell_zeros_apart_and_not_one_nan_from_another():
    other_nan = torch.tensor([0x7FC00001], dtype=torch.int32).view(torch.float32)
    assert same_bits(torch.tensor([NAN]), other_nan)
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert not same_bits(torch.zeros(2), torch.zeros(2, dtype=torch.float64))
    assert not same_bits(torch.zeros(2), torch.zeros(2, 1))
    assert same_bits(torch.zeros(3, 4).t().contiguous(), torch.zeros(3, 4).t())
    assert same_bits(torch.tensor([1 + 1j]), torch.tensor([1 + 1j]))
    assert not same_bits(torch.tensor([1 + 1j]), torch.tensor([1 - 1j]))
    assert not same_bits(torch.eye(2), torch.eye(2).to_sparse())
    assert same_bits(torch.eye(2).to_sparse(), torch.eye(2).to_sparse())


def test_the_first_difference_in_nested_values_is_named():
    one = {"state": [{"exp_avg": torch.ones(2), "step": 1.0}], "lr": NAN}
    two = copied(one)
    assert_same(one, two, "state dict")
    two["state"][0]["exp_avg"][0] += 1
    with pytest.raises(AssertionError, match=r"state dict\['state'\]\[0\]\['exp_avg'\]: not the"):
        assert_same(one, two, "state dict")
    with pytest.raises(AssertionError, match=r"\['step'\]: 1.0 where 2.0 is expected"):
        assert_same(one["state"], [{**one["state"][0], "step": 2.0}], "state")
    with pytest.raises(AssertionError, match=r"1 where 1\.0 is expected"):
        assert_same(1, 1.0, "step")
    with pytest.raises(AssertionError, match=r"keys \['step'\] differ"):
        assert_same({}, {"step": 1}, "state")
    with pytest.raises(AssertionError, match="1 and 2 elements"):
        assert_same([1], [1, 2], "list")


# ------------------------------------------------------------------ pairs


def test_two_of_a_class_stay_equal_and_two_of_other_options_do_not():
    subject = Subject(torch.optim.Adam, ulps=0)
    same = subject.twins({"lr": 0.1}, {"lr": 0.1})
    same.step(3)
    same.check()
    other = subject.twins({"lr": 0.1}, {"lr": 0.1 + 1e-8})
    other.step(3)
    with pytest.raises(AssertionError, match=r"parameter 0 \(5, 3\) after 3 steps: not the same"):
        other.check()


def test_what_is_allowed_without_ulps_is_far_below_a_wrong_term():
    subject = Subject(torch.optim.Adam)
    pair = subject.twins({"lr": 0.1}, {"lr": 0.1 * (1 + 1e-9)}, dtype=torch.float64)
    pair.step()
    with pytest.raises(AssertionError, match=r"where 6.55e\+04 are allowed"):
        pair.check()


def test_a_difference_in_the_state_alone_is_seen():
    pair = Subject(torch.optim.Adam).twins({}, {})
    pair.step()
    pair.optimizers[0].state[pair.params[0][0]]["exp_avg_sq"] *= 2
    with pytest.raises(AssertionError, match="state 'exp_avg_sq'"):
        pair.check()


# ------------------------------------------------------------------ an equation as reference


def adam(theta, g, state, t, lr, betas, eps, weight_decay, amsgrad, maximize, sign=-1, **_):
    """Kingma and Ba, algorithm 1, with AMSGrad as torch has it."""
    g = (-g if maximize else g) + weight_decay * theta
    m = state["m"] = betas[0] * state.get("m", 0) + (1 - betas[0]) * g
    v = state["v"] = betas[1] * state.get("v", 0) + (1 - betas[1]) * g * g
    if amsgrad:
        v = state["largest"] = torch.maximum(state.get("largest", v), v)
    v = v / (1 - betas[1] ** t)
    return theta + sign * lr * m / (1 - betas[0] ** t) / (v.sqrt() + eps)


NUMBERS = ["equals_reference_in_float64", "equals_reference_in_float32"]


def test_an_equation_is_a_reference():
    own = {n: p for n, p in parameters_of(torch.optim.Adam).items() if n not in SWITCHES}
    options = [x for x in derived(torch.optim.Adam) if "decoupled_weight_decay" not in x]
    assert own
    report = check_optimizer(torch.optim.Adam, adam, options=options, checks=NUMBERS)
    assert report.count("passed") == len(NUMBERS)
    assert report.reference.endswith("test_testing.adam")


@pytest.mark.parametrize("wrong", [{"sign": 1}, {"eps": 0}, {"maximize": True}])
def test_an_equation_with_a_wrong_term_is_no_reference(wrong):
    def equation(theta, g, state, t, **options):
        return adam(theta, g, state, t, **options | wrong)

    report = check_optimizer(
        torch.optim.Adam, equation, options=[{}, {"eps": 0.1}], checks=NUMBERS, on_fail="collect"
    )
    assert not report.ok


def test_an_equation_is_computed_in_float64_whatever_the_parameters():
    seen = []

    def equation(theta, g, state, t, lr):
        seen.append((theta.dtype, g.dtype, t, dict(state)))
        state["calls"] = t
        return theta - lr * g

    params = [torch.nn.Parameter(torch.ones(2, dtype=d)) for d in (torch.bfloat16, torch.complex64)]
    optimizer = EquationOptimizer(params, equation, lr=0.5)
    for _ in range(2):
        for p in params:
            p.grad = torch.ones_like(p)
        assert optimizer.step(lambda: 3.0) == 3.0
    assert seen == [
        (torch.float64, torch.float64, 1, {}),
        (torch.complex128, torch.complex128, 1, {}),
        (torch.float64, torch.float64, 2, {"calls": 1}),
        (torch.complex128, torch.complex128, 2, {"calls": 1}),
    ]
    assert [p.tolist() for p in params] == [[0.0, 0.0]] * 2
    params[0].grad = None
    optimizer.step()
    assert params[0].tolist() == [0.0, 0.0]


# ------------------------------------------------------------------ classes that make no sense


class RefusesToBeMade(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1):
        raise RuntimeError("not today")


class RefusesToStep(torch.optim.SGD):
    def step(self, closure=None):
        raise RuntimeError("not today")


class Crashes(torch.optim.SGD):
    def step(self, closure=None):
        return self.state[next(iter(self.state))]["exp_avg"]


class StandsStill(torch.optim.SGD):
    def step(self, closure=None):
        return None if closure is None else closure()


class HasNoStep(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})


@pytest.mark.parametrize("reference", [torch.optim.SGD, None], ids=["reference", "alone"])
@pytest.mark.parametrize(
    ("cls", "told"),
    [
        (RefusesToBeMade, "RuntimeError: not today"),
        (RefusesToStep, "RuntimeError: not today"),
        (Crashes, "StopIteration"),
        (StandsStill, "is where it was"),
        (HasNoStep, "NotImplementedError"),
    ],
)
def test_a_class_that_takes_no_step_fails_and_the_report_says_how(cls, told, reference):
    report = check_optimizer(cls, reference, options=[{"lr": 0.1}], on_fail="collect")
    assert told in " ".join(result.reason for result in report.failures)


def test_of_a_class_that_takes_no_options_at_all_the_report_says_how_it_refuses():
    report = check_optimizer(RefusesToBeMade, on_fail="collect")
    assert "RuntimeError: not today" in " ".join(result.reason for result in report.failures)


@pytest.mark.parametrize("thing", [torch.nn.Linear, torch.optim.SGD([torch.zeros(1)]), "SGD"])
def test_what_is_no_optimizers_class_is_refused(thing):
    with pytest.raises(TypeError, match="is no optimizer"):
        check_optimizer(thing)


@pytest.mark.parametrize("thing", [torch.nn.Linear, "SGD", torch.optim.SGD([torch.zeros(1)])])
def test_what_is_no_reference_is_refused(thing):
    with pytest.raises(TypeError, match="reference"):
        check_optimizer(torch.optim.SGD, thing)


# ------------------------------------------------------------------ the whole kit


@pytest.mark.slow
def test_the_whole_kit_passes_over_this_librarys_adam_and_prints_its_time(capsys):
    report = check_optimizer(scratch_optim.Adam, torch.optim.Adam, ulps=0, drop_in=True)
    assert len(report.results) == len(CHECKS)
    with capsys.disabled():
        print(f"\n{sum(x.seconds for x in report.results):.1f} s: {report.summary()}")
