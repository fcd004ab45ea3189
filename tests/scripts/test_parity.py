"""The table of who passes what says what happened, whatever a class does to its process."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch

import parity
import parity_pages
import peers
import reproductions
from scratch_optim.testing import kit

SUBJECTS = """
import torch

class Right(torch.optim.SGD):
    pass

class Right2(torch.optim.Adagrad):
    pass

class Wrong(torch.optim.SGD):
    def step(self, closure=None):
        rates = [group["lr"] for group in self.param_groups]
        for group in self.param_groups:
            if group["foreach"]:
                group["lr"] = 2 * group["lr"]
        super().step(closure)
        for group, lr in zip(self.param_groups, rates):
            group["lr"] = lr
"""

WORKERS = """
import os, signal, time
from scratch_optim.testing.kit import Result

def passed(name):
    return name, Result(name, "it is so", "passed", "", 0.0)

def tell(line, names, until, then):
    line.send("torch.optim.SGD")
    for name in names:
        said, result = passed(name)
        line.send(said)
        if name == until:
            then()
        line.send(result)
    line.send(None)

def crash(line, of, place, names):
    tell(line, names, "second", lambda: os.kill(os.getpid(), signal.SIGSEGV))

def leave(line, of, place, names):
    tell(line, names, "second", lambda: os._exit(3))

def hang(line, of, place, names):
    tell(line, names, "second", lambda: time.sleep(60))

def hang_always(line, of, place, names):
    tell(line, names, names[0], lambda: time.sleep(60))

def unmakeable(line, of, place, names):
    line.send(None)
    line.send(ValueError("no such thing"))
    line.send(None)
"""


@pytest.fixture
def workers(tmp_path, monkeypatch):
    (tmp_path / "parity_workers.py").write_text(WORKERS)
    (tmp_path / "parity_subjects.py").write_text(SUBJECTS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "")
    parity.prepare()
    import parity_workers

    return parity_workers


NAMES = ("first", "second", "third")


def row(target: Any, limit: float = 40.0, **expected: str) -> parity.Row:
    return parity.conform("optim", "here", "here:It", NAMES, expected, limit, target)


@pytest.mark.parametrize(
    ("how", "reason"),
    [("crash", "the process ended by SIGSEGV"), ("leave", "the process ended with exit code 3")],
)
def test_a_check_that_ends_the_process_has_failed_and_the_next_one_runs(workers, how, reason):
    found = row(getattr(workers, how))
    assert found.outcomes == {"first": "passed", "second": "failed", "third": "passed"}
    assert found.reasons == {"second": reason}
    assert found.against == "torch.optim.SGD"


def test_a_check_that_hangs_is_left_after_a_quarter_of_the_time(workers):
    found = row(workers.hang, limit=20)
    assert found.outcomes == {"first": "passed", "second": "not run", "third": "passed"}
    assert found.reasons == {"second": "did not return within 5 s"}


def test_when_the_time_is_up_the_rest_is_not_run(workers):
    found = parity.conform("optim", "p", "p:X", list("abcdefgh"), {}, 4, workers.hang_always)
    assert set(found.outcomes.values()) == {"not run"}
    reasons = list(found.reasons.values())
    assert reasons[0].startswith("did not return")
    assert reasons[-1] == "the checks before it took 4 s"


def test_what_cannot_be_made_is_not_run(workers):
    found = row(workers.unmakeable)
    assert set(found.outcomes.values()) == {"not run"}
    assert "no such thing" in found.reasons["first"]


def test_expected_failures_are_told_apart_and_so_is_one_that_passes(workers):
    found = row(workers.crash, second="its manual says so", third="it was broken once")
    assert found.outcomes["second"] == "expected failure"
    assert found.reasons["second"] == "its manual says so (the process ended by SIGSEGV)"
    assert found.outcomes["third"] == "passed unexpectedly"


def test_two_right_ones_pass_and_a_wrong_one_fails(workers):
    check = "lists_equal_the_loop"
    for name, outcome in {"Right": "passed", "Right2": "passed", "Wrong": "failed"}.items():
        found = parity.conform("optim", "p", f"parity_subjects:{name}", [check], {}, 120)
        assert found.outcomes == {check: outcome}, found.reasons
    assert "parameter 0" in found.reasons[check]


# ------------------------------------------------------------------ the report and its pages


def rows() -> list[parity.Row]:
    names = [check.name for check in parity.kits()["optim"].checks]
    right = parity.Row("optim", "torch.optim", "torch.optim:SGD", "torch.optim.SGD")
    right.outcomes = dict.fromkeys(names, "passed")
    wrong = parity.Row("optim", "timm.optim", "timm.optim:Lion", "timm.optim.Lion", "its model")
    wrong.outcomes = dict.fromkeys(names, "passed") | {
        names[0]: "failed",
        names[1]: "expected failure",
        names[2]: "not applicable",
        names[3]: "not applicable",
    }
    wrong.reasons = {
        names[0]: "3 where 4 | is <b> expected\noptions = lr",
        names[1]: "as documented",
        names[2]: "no such option",
        names[3]: "no such option",
    }
    return [right, wrong]


@pytest.fixture
def report(monkeypatch):
    # the classes of all packages are not imported to make a table of two
    few = [peers.Package("torch.optim", "torch"), peers.Package("timm.optim", "timm")]
    all_kits = parity.kits()
    few_kits = {"optim": parity.Kit(**{**vars(all_kits["optim"]), "packages": few})}
    few_kits["optim"] = parity.Kit(**{**vars(few_kits["optim"]), "places": lambda _: []})
    monkeypatch.setattr(parity, "kits", lambda: few_kits)
    return parity.content(rows())


def test_the_report_survives_json_and_says_of_every_check_what_became_of_it(report):
    again = json.loads(parity_pages.compact(report))
    assert again == report
    made_rows = sorted(again["rows"], key=lambda made: made["package"])
    for made, row in zip(made_rows, rows()[::-1], strict=True):
        found = parity_pages.outcomes(again, made)
        assert {name: outcome for name, (outcome, _) in found.items()} == row.outcomes
        assert {name: reason for name, (_, reason) in found.items() if reason} == row.reasons
        for outcome in parity_pages.LETTERS:
            assert parity_pages.number(made, outcome) == row.count[outcome]


def test_rows_that_were_not_run_again_are_kept_if_the_versions_are_the_same(report):
    right, wrong = rows()
    wrong.outcomes = dict.fromkeys(wrong.outcomes, "passed")
    merged = parity.content([wrong], report)
    assert [r["title"] for r in merged["rows"]] == ["timm.optim.Lion", "torch.optim.SGD"]
    assert "failed" not in merged["rows"][0]
    old = {**report, "versions": {"torch.optim": "0.1"}}
    with pytest.raises(parity.UsageError, match="other versions"):
        parity.content([wrong], old)
    assert len(parity.content([right, wrong], old)["rows"]) == 2


def test_the_page_tells_who_failed_what_and_how_to_see_it(report):
    text = parity_pages.markdown_page(report)
    failed = next(iter(report["checks"]["optim"]))
    assert "3 where 4 \\| is \\<b\\> expected" in text
    assert f"--match timm.optim.Lion --checks {failed}" in text
    assert "as documented" not in text, "which of a peer the other page tells"
    line = next(line for line in text.splitlines() if line.startswith("| timm.optim |"))
    assert [cell.strip() for cell in line.strip("|").split("|")][1:3] == ["1", "**0**"]
    tables = re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE)
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table


def test_the_html_page_needs_nothing_else_and_holds_every_outcome(report):
    text = parity_pages.html_page(report)
    for word in ("http:", "https:", "src=", "<link", "@import"):
        assert word not in text
    data = json.loads(re.search(r"const data = (.*);\n", text)[1].replace("<\\/", "</"))
    cells = {row["title"]: row["cells"] for row in data[0]["rows"]}
    assert set(cells["torch.optim.SGD"]) == {"+"}
    assert cells["timm.optim.Lion"].startswith("Xx--")
    assert len(cells["timm.optim.Lion"]) == len(data[0]["checks"])


def test_messages_lose_the_folders_of_this_machine():
    torch_file = torch.__file__
    text = parity.without_places(f"raised in {torch_file}:3, f of <X object at 0x7f12ab>")
    assert text == "raised in torch/__init__.py:3, f of <X object>"
    assert parity.without_places(f"{parity.ROOT}/scripts/peers.py") == "scripts/peers.py"


# ------------------------------------------------------------------ programs that show a failure


@pytest.mark.parametrize("check", reproductions.TEMPLATES)
def test_a_program_raises_nothing_where_the_class_is_right(check):
    code = reproductions.program(check, "scratch_optim:Adam", "x\noptions = lr=0.1,amsgrad")
    exec(compile(code, check, "exec"), {})
    assert not reproductions.raises(code)


def test_every_template_is_that_of_a_check():
    names = {check.name for its in parity.kits().values() for check in its.checks}
    unknown = reproductions.TEMPLATES.keys() - names
    assert not unknown, f"there is no check of these names: {unknown}"


@pytest.mark.parametrize(
    ("said", "options"),
    [
        (
            "options = lr=0.1,amsgrad,betas=(0.5,0.6) (foreach)",
            "lr=0.1, amsgrad=True, betas=(0.5,0.6)",
        ),
        ("options = defaults, way = for-loop", ""),
        ("options = eps=0.01, refusal = no, thank you", "eps=0.01"),
        ("dtype = torch.float32", None),
    ],
)
def test_options_are_read_from_the_circumstances_of_a_failure(said, options):
    assert reproductions.options_of(f"what was found\n{said}") == options


def test_only_programs_that_raise_are_shown(workers):
    wrong = parity.Row("optim", "p", "parity_subjects:Wrong", "Wrong")
    wrong.outcomes = {"lists_equal_the_loop": "failed", "repeats_itself": "failed"}
    wrong.reasons = dict.fromkeys(wrong.outcomes, "it differs\noptions = lr=0.1")
    assert parity.shown(wrong) == ["lists_equal_the_loop"]  # it does repeat itself


# ------------------------------------------------------------------ who is compared with whom


def test_a_peer_that_is_not_installed_is_left_out_and_said_so(monkeypatch, capsys):
    absent = peers.Package("no_such_package.optim", "no-such-package")
    some = parity.Kit(**{**vars(parity.kits()["optim"]), "packages": [absent, peers.OPTIM[0]]})
    monkeypatch.setattr(parity, "kits", lambda: {"optim": some})
    found = parity.selected(parity.parsed(["--match", "*.Adam"]))
    assert found == [("optim", "torch.optim", "torch.optim:Adam")]
    assert "no_such_package.optim: not installed" in capsys.readouterr().out
    with pytest.raises(parity.UsageError, match="nothing to check"):
        parity.selected(parity.parsed(["--match", "Nobody"]))


PLACES = [
    *peers.MATCHES,
    *peers.UNMATCHED,
    *peers.MADE_OTHERWISE,
    *peers.LAYER_MATCHES,
]
TITLES = [*peers.DOCUMENTED, *peers.REFERENCE_IS_OFF, *peers.LAYER_DOCUMENTED]


@pytest.mark.parametrize("place", sorted({*PLACES, *[":".join(t.rsplit(".", 1)) for t in TITLES]}))
def test_every_class_that_the_tables_name_exists(place):
    package = place.split(":")[0].split(".")[0]
    if not peers.Package(package, package).installed:
        pytest.skip(f"{package} is not installed (pip install '.[peers]')")
    assert isinstance(kit.named(place), type)


def test_every_check_that_the_tables_name_exists_and_every_reason_is_given():
    names = {check.name for its in parity.kits().values() for check in its.checks}
    for table in (peers.DOCUMENTED, peers.REFERENCE_IS_OFF, peers.LAYER_DOCUMENTED):
        for title, checks in table.items():
            assert checks.keys() <= names, title
            assert all(checks.values()), title


@pytest.mark.parametrize("place", [p for p in peers.MATCHES if p.startswith("timm")])
def test_a_reference_takes_the_options_of_the_peer(place):
    pytest.importorskip("timm")
    subject = peers.optimizer(place)
    assert len(subject.options) > 5
    for options in subject.options:
        for make in subject.makes:
            make([torch.nn.Parameter(torch.ones(2, 2))], **options)


def test_a_default_that_differs_is_passed_to_both():
    pytest.importorskip("timm")
    subject = peers.optimizer("timm.optim:Lars")
    assert subject.against == "scratch_optim.LARS"
    theirs = subject.make_reference([torch.nn.Parameter(torch.ones(2))])
    assert theirs.param_groups[0]["momentum"] == 0  # timm's default, not ours of 0.9
