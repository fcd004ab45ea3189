"""The picture of an explained run is drawn from the run."""

from __future__ import annotations

from PIL import Image

import explain_picture
from tests.training.conftest import TinyNet, tiny_data
from training import recipes


def test_a_run_is_drawn_whatever_its_options(tmp_path, monkeypatch):
    monkeypatch.setattr("training.loop.load_data", lambda *args: tiny_data())
    monkeypatch.setattr(recipes, "build_model", lambda c, k, s: TinyNet(k, s[0], c.dropout))
    drawn = {}
    draw = explain_picture.draw
    monkeypatch.setattr(
        explain_picture, "draw", lambda found, out: (drawn.update(found), draw(found, out))
    )
    out = tmp_path / "picture.png"
    argv = ["--out", str(out), "--epochs", "3", "--batch-size", "16", "--device", "cpu"]
    assert explain_picture.main(argv) == 0
    assert drawn["explain/weights/rate_q50"][0] == list(range(1, 10))  # 54 images
    with Image.open(out) as picture:
        assert picture.size == (1100, 660)
