"""Serving: what is exported answers as the network that was tested, and a wrong answer is seen."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import cifar10
import serve
from training import data
from training.checkpoint import load, save

pytestmark = pytest.mark.usefixtures("elsewhere")

SMALL = [
    "--model", "mlp", "--hidden", "16", "--batch-size", "100", "--device", "cpu", "--quiet",
    "--no-tensorboard",
]  # fmt: skip
QUICK = ["--requests", "5", "--first", "1"]
GRAPH = ["--ways", "eager", "export"]


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """How fast a busy machine answers is not tested."""
    monkeypatch.setattr(serve, "PROMISE", 1e9)


def test_what_is_served_is_what_was_tested(capsys):
    """With the weights that were: of a mean, and of the best epoch, to which the run went back."""
    options = {
        "ema": ["--epochs", "2", "--average", "ema"],
        "best": ["--epochs", "40", "--patience", "1", "--lr", "0.1", "--schedule", "none"],
    }
    test = data.load("digits", None, 0).test
    for name, given in options.items():
        assert cifar10.main([*SMALL, *given, "--log-dir", name]) == 0
        result = json.loads(Path(name, "result.json").read_text())
        model = serve.trained(name)
        with torch.no_grad():
            logits = model.served(test.images)
        found = (logits.argmax(1) == test.labels).double().mean().item()
        assert found == result["test_accuracy"]
        # float32 sums over 360 images
        loss = torch.nn.functional.cross_entropy(logits, test.labels).item()
        assert loss == pytest.approx(result["test_loss"], rel=1e-5)
    assert result["best_epoch"] < result["epochs"]  # so that the weights are not the last ones

    assert serve.main(["ema", *QUICK, *GRAPH, "--json", "out.json"]) == 0
    out = capsys.readouterr().out
    report = json.loads(Path("out.json").read_text())
    assert set(report["ways"]) == {"eager", "export"}
    assert report["alike"]
    assert "99 % within 1e+09 ms: kept; the answers are the same to rounding" in out
    for row in report["ways"].values():
        assert 0 < row["p50"] <= row["p90"] <= row["p99"]
        assert f"{row['p99']:.3f}" in out

    state = load(Path("ema/last.pt"))
    del state["images"]
    save(Path("old.pt"), state)
    assert serve.main(["old.pt", *QUICK]) == 2
    assert "old.pt was written by an older version" in capsys.readouterr().err


@pytest.mark.parametrize("layers", ["scratch", "torch"])
def test_an_untrained_network_is_served_and_another_answer_is_seen(capsys, monkeypatch, layers):
    argv = ["--dataset", "cifar10", "--model", "mlp", "--layers", layers, *QUICK, *GRAPH]
    assert serve.main(argv) == 0
    with monkeypatch.context() as patch:
        patch.setattr(serve, "PROMISE", 0.0)
        assert serve.main(argv) == 1
    assert "99 % within 0 ms: not kept; the answers are the same" in capsys.readouterr().out
    real = serve.ways

    def mirrored(names, model, out):
        answers = real(names, model, out)
        return answers | {"export": lambda image: answers["export"](image.flip(3))}

    monkeypatch.setattr(serve, "ways", mirrored)
    assert serve.main(argv) == 1
    assert "the answers are NOT the same to rounding" in capsys.readouterr().out


def test_a_percentile_is_the_least_time_within_which_so_many_are():
    for n in (1, 7, 100, 1000):
        times = [float(i) for i in range(n)]
        for p in (50, 90, 99, 100):
            found = serve.percentile(times, p)
            assert sum(t <= found for t in times) >= p / 100 * n
            assert sum(t < found for t in times) < p / 100 * n


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["nowhere"], "no file nowhere"),
        (["--requests", "0"], "--requests 0: give 1 or more"),
        (["--first", "-1"], "--first -1: give 0 or more"),
        (["runs/x", "--lr", "1"], "--lr: runs/x has its own options"),
        (["--out", "model.pt"], "--out model.pt: "),
        (["--dropout", "2"], "--dropout 2.0"),
    ],
)
def test_what_cannot_be_is_refused(capsys, argv, part):
    assert serve.main(argv) == 2
    assert part in capsys.readouterr().err
    assert not list(Path().rglob("*"))


@pytest.mark.slow
@pytest.mark.parametrize("layers", ["scratch", "torch"])
def test_machine_code_answers_alike_from_a_package(layers):
    argv = ["--model", "mlp", "--layers", layers, "--out", "model.pt2", "--json", "out.json"]
    assert serve.main([*argv, *QUICK]) == 0
    assert set(json.loads(Path("out.json").read_text())["ways"]) == set(serve.WAYS)
    image = torch.randint(256, (1, 1, 8, 8), dtype=torch.uint8)
    package = torch._inductor.aoti_load_package("model.pt2")
    model = serve.untrained({"model": "mlp", "layers": layers})
    with torch.no_grad():
        # float32 roundings of sums of 128 terms, through four layers
        torch.testing.assert_close(package(image), model.served(image), rtol=1e-5, atol=1e-5)
