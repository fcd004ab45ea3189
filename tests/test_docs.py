"""What the pages show runs, leads somewhere, and is what code and reports say."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import pkgutil
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import scratch_layers
import scratch_optim
import tables
from scratch_optim.testing import check_optimizer

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {
    path.relative_to(ROOT).as_posix(): path
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
}
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
each_page = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)


def fences(page: Path, *languages: str) -> Iterator[tuple[str, str, int]]:
    """The blocks of a page: language, text, line."""
    text = page.read_text()
    for match in FENCE.finditer(text):
        if not languages or match[2] in languages:
            yield match[2], textwrap.dedent(match[3]), text.count("\n", 0, match.start()) + 2


# The programs of parity.md need the packages of others (tests/scripts/test_parity.py has ours).
RUN = {name: page for name, page in PAGES.items() if any(fences(page, "python"))}
RUN = {name: page for name, page in RUN.items() if page not in tables.MADE}


def prose(page: Path) -> str:
    """A page without its blocks."""
    return FENCE.sub("", page.read_text())


def test_the_tables_and_equations_are_those_of_reports_and_sources() -> None:
    for page in tables.pages():
        text = page.read_text()
        assert tables.filled(text) == text, f"{page}: run scripts/tables.py"


@pytest.mark.parametrize("page", RUN.values(), ids=RUN)
def test_every_block_of_python_runs_and_prints_what_stands_below_it(page: Path) -> None:
    # A page is read from top to bottom: its blocks share their names.
    names: dict[str, Any] = {"__name__": page.stem}
    printed = io.StringIO()
    torch.manual_seed(0)
    for language, text, line in fences(page):
        if language == "python":
            printed = io.StringIO()
            # line numbers of errors are those of the page
            code = compile("\n" * (line - 1) + text, str(page), "exec")
            with contextlib.redirect_stdout(printed):
                exec(code, names)
        elif language == "output":
            assert printed.getvalue() == text, f"{page}:{line}"


def test_the_optimizer_to_begin_with_runs_every_way() -> None:
    names: dict[str, Any] = {}
    blocks = [text for _, text, _ in fences(ROOT / "CONTRIBUTING.md", "python")]
    exec(next(text for text in blocks if "class Sign" in text), names)
    for ways in ({"foreach": False}, {"foreach": True}, {"fused": True}, {"differentiable": True}):
        theta = torch.tensor([1.0, -2.0])
        theta.grad = torch.tensor([0.5, -0.1])
        names["Sign"]([theta], lr=0.1, **ways).step()
        torch.testing.assert_close(theta, torch.tensor([0.9, -1.9]))


@pytest.mark.slow
def test_the_first_optimizer_passes_the_kit_but_for_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = DOCS / "first-optimizer.md"
    # a module that can be imported, or its class could not be pickled
    text = next(text for _, text, _ in fences(page, "python") if "class Sign" in text)
    (tmp_path / "mine_of_the_page.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    mine = importlib.import_module("mine_of_the_page")
    (expected,) = re.findall(r"--expect \"(\w+)=(.+)\"", page.read_text())
    check_optimizer(mine.Sign, mine.sign, expected_failures=dict([expected]))


@each_page
def test_every_link_and_picture_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", prose(page)):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), target


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and mkdocs name them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}


def nav(entries: list[Any]) -> Iterator[str]:
    """The pages that are named."""
    for entry in entries:
        for value in entry.values() if isinstance(entry, dict) else [entry]:
            yield from nav(value) if isinstance(value, list) else [value]


def test_the_navigation_names_every_page_once() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    pages = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    assert sorted(nav(settings["nav"])) == sorted([*pages, "contributing.md"])


def public(package: Any) -> Iterator[tuple[str, Any]]:
    """The public names of a package and of its modules, with what they are."""
    modules = [package]
    for info in pkgutil.iter_modules(package.__path__):
        if not info.name.startswith("_"):
            modules.append(importlib.import_module(f"{package.__name__}.{info.name}"))
    for module in modules:
        for name in getattr(module, "__all__", ()):
            yield f"{module.__name__}.{name}", getattr(module, name)


@pytest.mark.parametrize("package", [scratch_optim, scratch_layers], ids=lambda p: p.__name__)
def test_every_public_name_is_in_the_reference(package: Any) -> None:
    pages = "".join(path.read_text() for path in (DOCS / "reference").glob("*.md"))
    shown = re.findall(r"^::: ([\w.]+)$", pages, flags=re.MULTILINE)
    assert len(shown) == len(set(shown))
    own = package.__name__ + "."
    for name, value in public(package):
        home = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", None)
        if home is None or not home.startswith(own):  # torch's, handed on; or a plain value
            continue
        assert home in shown, f"{name} is of {home}, which no page of docs/reference shows"


OWN_SCRIPTS = {path.stem for path in (ROOT / "scripts").glob("*.py")}
COMMAND = re.compile(r"(?:python3?|torchrun .*?) scripts/(\w+)\.py(.*)")
CIFAR = {"cifar10", "tune", "cup", "step_time", "board_cost", "record"}
"""Scripts that take the options of cifar10.py."""


def commands(page: Path) -> Iterator[tuple[str, list[str]]]:
    """The scripts that the blocks of a page call, with their arguments."""
    for language, text, _ in fences(page):
        if language in ("", "sh", "bash", "console"):
            for line in text.replace("\\\n", " ").splitlines():
                found = COMMAND.search(line.removeprefix("$ "))
                if found:
                    yield found[1], shlex.split(found[2], comments=True)


def options_of(script: str) -> str:
    """Where the options of a script are declared: its own text, and that of what it hands on to."""
    texts = [(ROOT / "scripts" / f"{script}.py").read_text()]
    if script in CIFAR:
        texts.append((ROOT / "scripts" / "training" / "options.py").read_text())
        texts += [(ROOT / "scripts" / f"{name}.py").read_text() for name in ("timed_run", "tune")]
    return "".join(texts)


@each_page
def test_every_command_calls_a_script_that_has_its_options(page: Path) -> None:
    for script, arguments in commands(page):
        assert script in OWN_SCRIPTS, f"scripts/{script}.py"
        if script == "dropin":  # what follows the script's name is the user's own
            arguments = arguments[: next(i for i, a in enumerate(arguments) if a.endswith(".py"))]
        declared = options_of(script)
        for argument in arguments:
            option = argument.partition("=")[0]
            if option.startswith("--"):
                negated = option.replace("--no-", "--", 1)
                assert f'"{option}"' in declared or f'"{negated}"' in declared, (script, option)


def test_every_test_that_a_page_names_exists_and_every_derivation_is_named() -> None:
    named = {name for page in PAGES.values() for name in re.findall(r"`(test_\w+)`", prose(page))}
    files = {path.stem for path in (ROOT / "tests").rglob("*.py")}
    text = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    defined = set(re.findall(r"^def (test_\w+)", text, flags=re.MULTILINE))
    assert named - files <= defined, named - files - defined
    derivations = (ROOT / "tests" / "test_derivations.py").read_text()
    unnamed = set(re.findall(r"^def (test_\w+)", derivations, flags=re.MULTILINE)) - named
    assert not unnamed, "no page says what this proves"


def test_every_target_of_make_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    for name, page in PAGES.items():
        for target in re.findall(r"(?:^|`)make ([\w-]+)", page.read_text(), flags=re.MULTILINE):
            assert target in targets, f"{name}: make {target}"
