"""What an optimizer keeps is counted once, and all of it."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import memory
import scratch_optim


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(memory, "models", lambda: {"small": nn.Linear(8, 4)})


def test_a_storage_is_counted_once_wherever_it_is_nested():
    x = torch.zeros(10)
    assert memory.held({"a": [x, x[:5]], "b": {"c": (x.view(2, 5), 3, None)}}) == 40
    assert memory.held({"a": x, "b": torch.zeros(2, dtype=torch.float64)}) == 56


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("name", "options"), memory.VARIANTS, ids=str)
def test_ours_keeps_what_torchs_keeps_and_what_its_names_say(name, options):
    row = memory.measured(name, options)
    ours = round(36 * row["bytes_per_parameter"]["small"])
    if "bytes_per_parameter_torch" in row:
        assert row["bytes_per_parameter_torch"] == row["bytes_per_parameter"]
    if name not in ("Adafactor", "LBFGS", "Muon"):  # which keep other shapes, lists, and a mixture
        # numbers beside the tensors: three of 4 bytes (ASGD) for each of the 2 parameters at most
        assert 0 <= ours - 4 * 36 * len(row["state"]) <= 3 * 4 * 2


def test_every_optimizer_has_a_row_and_the_benchmark_names_one_of_each():
    names = {name for name, _ in memory.VARIANTS}
    known = {n for n in scratch_optim.__all__ if isinstance(getattr(scratch_optim, n), type)}
    assert names == known - {"Optimizer"}


@pytest.mark.usefixtures("small")
def test_averages_keep_a_copy_of_the_weights():
    rows = {row["optimizer"]: row["bytes_per_parameter"]["small"] for row in memory.averages()}
    # AveragedModel has a counter of 8 bytes
    assert rows == {"EMA": 4, "AveragedModel": 4 + 8 / 36, "Lookahead": 4}


@pytest.mark.usefixtures("small")
def test_the_report_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory, "VARIANTS", memory.VARIANTS[:2])
    assert memory.main(["--out", str(tmp_path / "memory.json")]) == 0
    report = json.loads((tmp_path / "memory.json").read_text())
    assert [row["benchmarked"] for row in report["rows"]] == [True, True]
    assert report["machine"]["device"] == "cpu"
    assert "SGD {'momentum': 0.9} {'small': 4.0}" in capsys.readouterr().out
