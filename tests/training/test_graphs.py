"""Steps that are replayed are those that are not; what records them is tests/tape.py."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from tests import tape
from timed_run import make_trainer
from training import graphs, loop
from training.errors import UsageError
from training.options import Config, make_config, why_no_graph

pytestmark = pytest.mark.usefixtures("tiny")

STEPS = 12

WAYS = {
    "plain": {},
    "two sizes, mixed": {"resolutions": (8, 12), "mixup": 0.4, "cutmix": 1.0},
    "in parts": {"accumulate": 2},
    "weighted": {"class_weights": "inverse", "clip_grad_norm": 0.5, "label_smoothing": 0.1},
    "clipped by value": {"clip_grad_value": 0.01},
    "clipped by unit": {"clip_grad_ratio": 0.01},
    "regularized": {"l1": 1e-4, "max_norm": 1.0},
    "averaged": {"average": "ema"},
    "lookahead": {"average": "lookahead"},
    "normalized": {"normalize_weights": True},
    "muon": {"optimizer": "muon", "normalize_weights": True, "muon_head": False},
    "sgd": {"optimizer": "sgd", "lr": 0.05},
    "lars": {"optimizer": "lars"},
}


@pytest.fixture
def processors_capture(monkeypatch):
    """The tape in the place of CUDA; and what optimizers refuse to capture on a processor."""
    monkeypatch.setattr(graphs, "Recorder", lambda: tape.capture)
    monkeypatch.setattr(
        "scratch_optim.optimizer._get_capturable_supported_devices", lambda *_, **__: ["cpu"]
    )
    # on a processor a norm is at hand, and where nothing is to be clipped nothing is done
    monkeypatch.setattr("scratch_optim.clip_grad._at_hand", lambda x: False)


def config(folder: Path, **given) -> Config:
    given = {
        "log_dir": str(folder), "epochs": 3, "batch_size": 8, "device": "cpu", "quiet": True,
        "augment": ("flip", "crop"), "tensorboard": False, "optimizer": "adam",
    } | given  # fmt: skip
    return make_config(**given)


def trained(made: Config, graph: bool) -> loop.Trainer:
    """After some steps, every fifth of which is measured."""
    trainer = make_trainer(dataclasses.replace(made, cuda_graph=graph), loop.load_data())
    trainer.run.model.train()
    order = torch.arange(made.batch_size)
    for i in range(STEPS):
        trainer.train_step(trainer.batch((order + 3 * i) % 54), measure=i % 5 == 4)
    return trainer


def state(trainer: loop.Trainer) -> list[torch.Tensor]:
    """Weights, statistics, what the optimizer keeps, and what was counted."""
    kept = trainer.run.optimizer.state.values()
    return [
        *trainer.run.model.state_dict().values(),
        *[x for entry in kept for x in entry.values()],
        *trainer.window,
    ]


@pytest.mark.usefixtures("processors_capture")
@pytest.mark.parametrize("way", WAYS)
def test_replayed_steps_are_bit_for_bit_those_that_are_launched_one_by_one(
    tmp_path, monkeypatch, way
):
    made = config(tmp_path, **WAYS[way])
    replayed = trained(made, True)
    assert replayed.graphs.recorded  # or nothing was
    monkeypatch.setattr(graphs, "SETTLED", STEPS)
    for a, b in zip(state(replayed), state(trained(made, True)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.usefixtures("processors_capture")
@pytest.mark.parametrize("way", sorted({*WAYS} - {"muon"}))
def test_replayed_steps_train_as_those_without_graphs(tmp_path, way):
    """Up to rounding: a rate that is a tensor is multiplied apart, by one more float32 product.

    Not of Muon: in bfloat16 a difference in the last bit of its input is one of 2**-8 in its step.
    """
    made = config(tmp_path, **WAYS[way])
    one, other = trained(made, False), trained(made, True)
    torch.testing.assert_close(
        other.run.model.state_dict(), one.run.model.state_dict(), rtol=2e-5, atol=1e-6
    )
    assert one.run.scheduler.get_last_lr() == other.run.scheduler.get_last_lr()
    assert all(isinstance(group["lr"], float) for group in other.run.optimizer.param_groups)
    assert one.measures.keys() == other.measures.keys()


@pytest.mark.usefixtures("processors_capture")
@pytest.mark.parametrize("graph", [True, False])
def test_a_run_goes_on_with_graphs_or_without(tmp_path, graph):
    """What is saved says nothing of where the numbers of the optimizer were."""
    made = config(tmp_path)
    before = trained(made, not graph)
    after = make_trainer(dataclasses.replace(made, cuda_graph=graph), loop.load_data())
    after.run.load_state_dict(before.run.state_dict(), tmp_path)
    assert [g["capturable"] for g in after.run.optimizer.param_groups] == [graph] * 2
    for trainer in (before, after):
        trainer.train_step(trainer.batch(torch.arange(8)), measure=False)
    torch.testing.assert_close(
        after.run.model.state_dict(), before.run.model.state_dict(), rtol=2e-5, atol=1e-6
    )


def test_what_cannot_be_recorded_is_told_with_the_remedy(monkeypatch):
    fine = {"device": "cuda", "amp": "bf16", "explain": 0, "optimizer": "muon", "optim": "scratch"}
    assert why_no_graph(fine) is None
    for other, words in (
        ({"device": "cpu"}, "CUDA devices only"),
        ({"amp": "fp16"}, "--amp bf16"),
        ({"explain": 5}, "--explain looks into each step"),
        ({"optimizer": "adafactor"}, "Adafactor has numbers that change with each step"),
        ({"optimizer": "sgd", "optim": "torch"}, "SGD has numbers that change with each step"),
    ):
        assert words in why_no_graph(fine | other)
    assert why_no_graph(fine | {"optimizer": "adam", "optim": "torch"}) is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "one process alone" in why_no_graph(fine)


def test_graphs_are_for_cuda_and_a_preset_takes_them_there(tmp_path):
    with pytest.raises(UsageError, match="--cuda-graph True: there are CUDA graphs on CUDA"):
        config(tmp_path, cuda_graph=True)
    if not torch.cuda.is_available():
        made = make_config(preset="air94", device="cpu", log_dir=str(tmp_path))
        assert made.cuda_graph is False


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("way", ["plain", "muon", "lookahead", "two sizes, mixed"])
def test_cuda_replays_what_it_recorded(tmp_path, monkeypatch, way):
    made = config(tmp_path, device="cuda", dropout=0.0, **WAYS[way])
    replayed = trained(made, True)
    assert replayed.graphs.recorded
    monkeypatch.setattr(graphs, "SETTLED", STEPS)
    for a, b in zip(state(replayed), state(trained(made, True)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)  # atomic sums have no order
