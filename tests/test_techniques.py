"""docs/techniques.md names what there is: every name, derivation and experiment of its tables."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from markdown.extensions.toc import slugify
from torch import nn

import scratch_layers
import scratch_optim
from scratch_layers import init
from scratch_optim import clip_grad, lr_scheduler
from training.options import MODELS

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "techniques.md"
LINK = re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)")
COMMAND = re.compile(r"`python scripts/([^`]+)`")


class Row(NamedTuple):
    """A technique."""

    technique: str
    names: str
    derivation: str
    experiment: str


def rows() -> list[Row]:
    """The rows of all tables, without heads."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [Row(*c) for c in cells if c[0] not in ("technique", "---")]


ROWS = rows()
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.technique)


@each_row
def test_every_name_imports_from_the_file_that_it_leads_to(row: Row) -> None:
    found = LINK.findall(row.names)
    assert found
    assert LINK.sub("", row.names).strip(", ") == ""  # nothing but names with their files
    for name, path in found:
        thing = pkgutil.resolve_name(name.strip("`"))
        module = thing if inspect.ismodule(thing) else importlib.import_module(thing.__module__)
        assert Path(module.__file__ or "").samefile(PAGE.parent / path), name


@each_row
def test_every_derivation_is_a_heading_of_its_page(row: Row) -> None:
    ((_, target),) = LINK.findall(row.derivation)
    path, _, anchor = target.partition("#")
    page = (PAGE.parent / path).read_text()
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page, flags=re.DOTALL), re.M)
    assert anchor in {slugify(heading, "-") for heading in headings}, target


@each_row
def test_every_experiment_is_one_that_its_script_has(row: Row) -> None:
    commands = COMMAND.findall(row.experiment)
    figures = [path for _, path in LINK.findall(row.experiment)]
    assert commands or row.experiment == "the blocks of that page"
    compared = [words[1] for words in map(shlex.split, commands) if words[0] == "compare.py"]
    assert figures == [f"pictures/compare/{name}.png" for name in compared]
    for command in commands:
        script, *arguments = shlex.split(command)
        text = (ROOT / "scripts" / script).read_text()
        if script == "compare.py":
            assert set(arguments) <= set(importlib.import_module("compare").EXPERIMENTS), command
        if script in ("cifar10.py", "tune.py", "cup.py"):
            text += (ROOT / "scripts" / "training" / "options.py").read_text()
        for option in (a for a in arguments if a.startswith("--")):
            assert f'"{option}"' in text, command
        if "--model" in arguments:
            assert arguments[arguments.index("--model") + 1] in MODELS, command


def public() -> set[str]:
    """Every public optimizer, schedule, clip, layer, initializer and penalty."""
    layers = {name: getattr(scratch_layers, name) for name in scratch_layers.__all__}
    found = {
        f"scratch_layers.{name}"
        for name, thing in layers.items()
        if (inspect.isclass(thing) and issubclass(thing, nn.Module)) or inspect.isfunction(thing)
    }
    optimizers = {name: getattr(scratch_optim, name) for name in scratch_optim.__all__}
    found |= {
        f"scratch_optim.{name}"
        for name, thing in optimizers.items()
        if inspect.isclass(thing) and issubclass(thing, torch.optim.Optimizer)
    }
    bases = {"LRScheduler", "_LRScheduler"}
    found |= {
        f"scratch_optim.lr_scheduler.{name}"
        for name in set(lr_scheduler.__all__) - bases
        if inspect.isclass(getattr(lr_scheduler, name))
    }
    by_hand = {"clip_grad_norm", "get_total_norm", "clip_grads_with_norm_"}  # old, and parts
    found |= {f"scratch_optim.clip_grad.{name}" for name in set(clip_grad.__all__) - by_hand}
    return found | {f"scratch_layers.init.{n}" for n in init.__all__ if n.endswith("_")}


def test_no_public_optimizer_schedule_layer_or_initializer_is_left_out() -> None:
    named = {name.strip("`") for row in ROWS for name, _ in LINK.findall(row.names)}
    assert public() - named == set()


def test_every_test_that_a_page_names_exists() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    defined = set(re.findall(r"def (test_\w+)\(", tests))
    for page in (ROOT / "docs").rglob("*.md"):
        named = set(re.findall(r"`(test_\w+)`", page.read_text()))
        assert named <= defined, page
