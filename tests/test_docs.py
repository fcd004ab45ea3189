"""README.md says what the reports say, and what it shows runs."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

import tables

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = README + (ROOT / "CONTRIBUTING.md").read_text()
BLOCKS = [textwrap.dedent(b) for b in re.findall(r"```python\n(.*?)```", PAGES, flags=re.DOTALL)]


def test_the_tables_are_those_of_the_reports() -> None:
    assert tables.filled(README) == README, "run scripts/tables.py"


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_of_python_runs(block: str) -> None:
    exec(compile(block, "page", "exec"), {})


def test_the_optimizer_to_begin_with_runs_every_way() -> None:
    names: dict[str, Any] = {}
    exec(next(block for block in BLOCKS if "class Sign" in block), names)
    for ways in ({"foreach": False}, {"foreach": True}, {"fused": True}, {"differentiable": True}):
        theta = torch.tensor([1.0, -2.0])
        theta.grad = torch.tensor([0.5, -0.1])
        names["Sign"]([theta], lr=0.1, **ways).step()
        torch.testing.assert_close(theta, torch.tensor([0.9, -1.9]))


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http)([^)#]+)\)", PAGES))
def test_every_link_leads_somewhere(target: str) -> None:
    assert (ROOT / target).exists()
