"""The cost of explaining is measured on optimizers that are in the state that the report says."""

from __future__ import annotations

import json

import torch

import explain_cost
from benchmark import Clock


def test_report_has_a_row_for_every_way(tmp_path, monkeypatch):
    one_layer = explain_cost.SETS["one layer"]
    monkeypatch.setattr(explain_cost, "SETS", {"one layer": one_layer})
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # of this process
    out = tmp_path / "cost.json"
    assert explain_cost.main(["--seconds", "0", "--rounds", "2", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [(row["optimizer"], row["way"]) for row in rows] == [
        (name, way) for name in explain_cost.OPTIMIZERS for way in ("for-loop", "foreach")
    ]
    for row in rows:
        share = (row["explained_microseconds"] / row["step_microseconds"] - 1) / 100
        assert abs(row["every_100"] - 1 - share) < 1e-9
        assert row["explained_microseconds"] > row["step_microseconds"]


def test_contestants_are_what_they_are_called(monkeypatch):
    seen = {}

    class Spy(Clock):
        def compare(self, contestants):
            for name, run in contestants.items():
                (optimizer,) = (cell.cell_contents for cell in run.__closure__)
                seen[name] = len(optimizer._optimizer_step_pre_hooks)
            return super().compare(contestants)

    params = explain_cost.parameters([torch.Size((3,))], torch.device("cpu"))
    explain_cost.measure("SGD", {}, params, Spy(torch.device("cpu"), 0, 1))
    assert seen == {"never": 0, "again": 0, "removed": 0, "waiting": 1}
