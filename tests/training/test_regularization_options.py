"""--l1, --max-norm and --train-images do what they say, however a batch is computed."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from training.data import Data, few, load
from training.errors import UsageError
from training.loop import Trainer, begin
from training.options import make_config


@cache
def digits() -> Data:
    return load("digits", None, 0)


def trained(tmp_path: Path, steps: int = 1, **options) -> tuple[dict, dict]:
    """The parameters before and after some steps, by name."""
    usual = {"model": "mlp", "hidden": (8,), "norm": "none", "optimizer": "sgd", "lr": 0.5,
             "momentum": 0.0, "weight_decay": 0.0, "device": "cpu", "schedule": "none"}  # fmt: skip
    config = make_config(**(usual | options), log_dir=str(tmp_path))
    torch.manual_seed(0)
    run, _ = begin(config, digits())
    trainer = Trainer(config, digits(), run, None, lambda line: None)
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    for _ in range(steps):
        trainer.train_step(trainer.batch(torch.arange(64)), measure=False)
    return before, dict(run.model.named_parameters())


@pytest.mark.parametrize("accumulate", [1, 3])
def test_l1_pulls_every_weight_by_its_strength_and_leaves_biases_alone(tmp_path, accumulate):
    before, plain = trained(tmp_path, accumulate=accumulate, augment=())
    _, pulled = trained(tmp_path, accumulate=accumulate, augment=(), l1=0.01)
    for name, w in before.items():
        expected = plain[name] - (0.5 * 0.01 * w.sign() if w.dim() > 1 else 0)
        # a sum of some terms below 1, in float32
        torch.testing.assert_close(pulled[name], expected, rtol=0, atol=1e-6)


def test_max_norm_bounds_the_incoming_weights_of_each_unit_after_every_step(tmp_path):
    _, free = trained(tmp_path, steps=3)
    _, bound = trained(tmp_path, steps=3, max_norm=0.7)
    for name, w in bound.items():
        if w.dim() > 1:
            assert free[name].norm(dim=1).max() > 0.7
            assert w.norm(dim=1).max() < 0.7 * (1 + 1e-6)  # rounded in float32


def test_few_images_are_drawn_by_the_seed_with_equal_shares_of_each_class():
    data = load("digits", None, 0, images=100)
    assert len(data.train) == 100
    counts = torch.bincount(data.train.labels)
    assert counts.min() >= 9
    assert counts.max() <= 11
    assert torch.equal(data.test.images, digits().test.images)
    assert torch.equal(data.validation.images, digits().validation.images)
    assert not torch.equal(few(digits().train.labels, 100, 0), few(digits().train.labels, 100, 1))


def test_wrong_labels_are_a_share_of_the_training_labels_and_of_no_others():
    data = load("digits", None, 0, label_noise=0.3)
    wrong = (data.train.labels != digits().train.labels).sum()
    assert wrong == round(0.3 * len(digits().train))
    assert data.train.labels.max() < 10
    assert torch.equal(data.train.images, digits().train.images)
    for part in ("validation", "test"):
        assert torch.equal(getattr(data, part).labels, getattr(digits(), part).labels)


@pytest.mark.parametrize(("count", "part"), [(1293, "Give fewer"), (5, "Give more")])
def test_a_number_of_images_that_cannot_be_is_refused(count, part):
    with pytest.raises(UsageError, match=part):
        load("digits", None, 0, images=count)


@pytest.mark.parametrize("option", ["l1", "max_norm"])
def test_sharded_weights_have_no_penalty_and_no_bound(option, tmp_path):
    with pytest.raises(UsageError, match="leaves each process a part"):
        make_config(**{option: 0.1}, fsdp=True, log_dir=str(tmp_path))
