"""The curves show an equation that is another, and go where they are said to go."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest
import torch

import divergence
from scratch_optim.testing import Subject
from scratch_optim.testing.kit import NotApplicable


class SlightlyWrong(torch.optim.Adam):
    def __init__(self, params, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, *, foreach=None):
        super().__init__(params, lr=1.001 * lr, betas=betas, eps=eps, foreach=foreach)


LOOP = {"foreach": False}


def test_equal_equations_part_by_roundings_and_others_by_more():
    right = divergence.curve(Subject(torch.optim.Adam, torch.optim.Adam), LOOP, steps=20)
    wrong = divergence.curve(Subject(SlightlyWrong, torch.optim.Adam), LOOP, steps=20)
    assert len(right) == len(wrong) == 20
    step = 6 * torch.finfo(torch.float32).eps  # a dozen operations, of half an epsilon each
    assert max(right) < 20 * step
    assert wrong[0] > step
    assert wrong[-1] > 20 * step


def test_a_way_that_an_optimizer_refuses_is_left_out():
    with pytest.raises(NotApplicable, match="fused"):
        divergence.curve(
            Subject(torch.optim.Adam, torch.optim.Adam), {"fused": True, "foreach": True}, 1
        )


CURVES = [
    divergence.Curve("Adam", "torch.optim", "for-loop", [1e-7, 1e-6, 1e-3]),
    divergence.Curve("Adam", "scratch_optim", "fused", [0.0, 0.0, 1e-7]),
    divergence.Curve("SGD", "scratch_optim", "foreach", [math.inf, 1.0, 1e-8]),
]


def test_the_picture_has_a_panel_for_each_optimizer_and_a_line_for_each_curve():
    drawn = ElementTree.fromstring(divergence.picture(CURVES))
    names = [x.text for x in drawn.iter() if x.get("font-weight") == "bold"]
    assert names == ["Adam", "SGD"]
    lines = [x for x in drawn.iter() if x.tag.endswith("polyline")]
    assert len(lines) == len(CURVES)
    for line in lines:
        for point in line.get("points").split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= divergence.WIDTH
            assert 0 <= y <= divergence.HEIGHT
    heights = [float(point.split(",")[1]) for point in lines[0].get("points").split()]
    assert heights[0] > heights[-1]  # a larger difference is drawn higher


def test_tensorboard_has_a_run_for_each_package(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    divergence.log(CURVES[:2], tmp_path)
    for curve in CURVES[:2]:
        events = EventAccumulator(str(tmp_path / curve.package)).Reload()
        plain = events.Scalars(f"difference/{curve.of}/{curve.way}")
        assert [x.step for x in plain] == [1, 2, 3]
        assert [x.value for x in plain] == pytest.approx(curve.values)
        logs = [x.value for x in events.Scalars(f"log10_difference/{curve.of}/{curve.way}")]
        assert logs == pytest.approx([math.log10(max(x, divergence.FLOOR)) for x in curve.values])
