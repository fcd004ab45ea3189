"""What a step does is counted right, and the parts are those of the step."""

from __future__ import annotations

import json

import pytest
import torch

import step_time
from training.options import make_config


def test_operations_and_bytes_are_those_of_a_product_and_its_relu():
    a, b = torch.randn(3, 5), torch.randn(5, 7)
    with step_time.FlopCounterMode(display=False) as flops, step_time.Traffic() as traffic:
        torch.relu(a @ b).view(7, 3).t()
    assert flops.get_total_flops() == 2 * 3 * 5 * 7
    # a, b and the product; it again and its relu; views are free
    assert traffic.bytes == 4 * ((15 + 35 + 21) + (21 + 21))


def test_the_report_has_both_stacks_the_parts_and_the_floor(tmp_path, capsys):
    out = tmp_path / "step.json"
    argv = ["--batch-size", "32", "--device", "cpu", "--seconds", "0", "--rounds", "2"]
    assert step_time.main([*argv, "--resolutions", "8", "16", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["pixels"] for row in rows] == [8, 16]
    for row in rows:
        assert row["ratio"] > 0
        assert set(row["parts_microseconds"]) == {
            "choose and augment", "normalize and scale", "forward", "backward", "optimizer",
        }  # fmt: skip
        assert 0 < row["floor_flop_microseconds"] < row["microseconds"]
    # four times the pixels: the same of everything but the classifier
    assert rows[1]["flop"] / rows[0]["flop"] == pytest.approx(4, rel=1e-2)
    assert "of that of PyTorch's" in capsys.readouterr().out


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_the_built_in_stack_has_nothing_by_hand_that_torch_has(optimizer):
    config = step_time.built_in(make_config(optimizer=optimizer, device="cpu", log_dir="no/where"))
    assert config.layers == "torch"
    assert config.optim == ("scratch" if optimizer == "muon" else "torch")
