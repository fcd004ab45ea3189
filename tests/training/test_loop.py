"""The loop: a run that was stopped, however, ends with the same bits as one that was not."""

from __future__ import annotations

import dataclasses
import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import scratch_layers
from tests.training.conftest import TinyNet
from timed_run import make_trainer
from training import loop, options, recipes
from training.checkpoint import load, save
from training.data import load as load_data
from training.errors import DivergedError, InterruptedRunError, UsageError
from training.loop import permutation, train
from training.options import BY_HAND_ONLY, OPTIMIZERS, SCHEDULES, Config, make_config
from training.presets import PRESETS

pytestmark = pytest.mark.usefixtures("tiny")

STEPS_PER_EPOCH = 6  # 54 images in batches of 8


def config(folder: Path, **given: Any):
    given = {
        "log_dir": str(folder), "epochs": 3, "batch_size": 8, "device": "cpu", "quiet": True,
        "dropout": 0.3, "augment": ("flip", "crop", "cutout"), "tensorboard": False,
        "optimizer": "adam", "optim": "torch", "layers": "torch",
    } | given  # fmt: skip
    return make_config(**given)


def resumed(folder: Path, **given: Any):
    return make_config(resume=str(folder), **given)


def trainer_of(made: Config) -> loop.Trainer:
    """What ``train`` makes before the first step."""
    return make_trainer(made, loop.load_data())


class at_step:  # noqa: N801
    """Does something when the batch of a step, counted from 1, is augmented."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: int, action) -> None:
        self.count, self.step, self.action, self.augment = 0, step, action, loop.augment
        monkeypatch.setattr(loop, "augment", self)

    def __call__(self, *args):
        self.count += 1
        if self.count == self.step:
            self.action()
        return self.augment(*args)


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


class PowerCutError(Exception):
    pass


def power_cut() -> None:
    raise PowerCutError


def assert_same(one: Any, two: Any, where: str = "") -> None:
    """Equal to the last bit, all the way down."""
    assert type(one) is type(two), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, two), where
    elif isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            if key not in ("train_seconds", "config"):
                assert_same(one[key], two[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), where
        for i, (a, b) in enumerate(zip(one, two, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    else:
        assert one == two, where


RECIPES = {
    "sgd": {"optimizer": "sgd", "schedule": "step"},
    "sgd plain": {"optimizer": "sgd", "momentum": 0.0, "schedule": "none"},
    "rmsprop": {"optimizer": "rmsprop", "momentum": 0.5, "schedule": "linear", "warmup": 1.0},
    "adam": {"optimizer": "adam", "schedule": "onecycle", "clip_grad_norm": 0.5},
    "adamw": {"optimizer": "adamw", "schedule": "cosine", "label_smoothing": 0.1},
    "channels last": {"optimizer": "adam", "channels_last": True},
    "bfloat16": {"optimizer": "sgd", "amp": "bf16"},
    "clipped values": {"optimizer": "sgd", "clip_grad_value": 0.01},
    "clipped adaptively": {"optimizer": "sgd", "clip_grad_ratio": 0.01},
    "ema": {"optimizer": "sgd", "average": "ema", "ema_decay": 0.9},
    "swa": {"optimizer": "sgd", "average": "swa"},
    "lookahead": {"optimizer": "adam", "average": "lookahead"},
    "mixed": {"optimizer": "sgd", "mixup": 0.5, "cutmix": 0.5},
    "accumulated": {"optimizer": "sgd", "accumulate": 3},
    "trivial": {"optimizer": "sgd", "augment": ("trivial", "altflip")},
    "imbalanced": {"optimizer": "sgd", "class_weights": "effective", "imbalance": 0.8},
}
RECIPES |= {
    f"schedule {name}": {"optimizer": "sgd", "schedule": name, "warmup": 0.5} for name in SCHEDULES
}
RECIPES |= {f"optimizer {name}": {"optimizer": name} for name in OPTIMIZERS}


@pytest.mark.parametrize(
    ("recipe", "optim"),
    [
        pytest.param(recipe, optim, id=f"{name}-{optim}")
        for name, recipe in RECIPES.items()
        for optim in ("torch", "scratch")
        if optim == "scratch" or recipe["optimizer"] not in BY_HAND_ONLY
    ],
)
def test_resumed_run_ends_with_the_same_bits(tmp_path, monkeypatch, recipe, optim):
    recipe = recipe | {"optim": optim}
    whole = train(config(tmp_path / "whole", **recipe))
    parts = tmp_path / "parts"
    with monkeypatch.context() as patch:  # within the first epoch
        at_step(patch, 3, interrupt)
        with pytest.raises(InterruptedRunError, match="after step 3 of 18"):
            train(config(parts, **recipe))
    with monkeypatch.context() as patch:  # at the end of the second: 12 steps less the 3
        at_step(patch, 9, interrupt)
        with pytest.raises(InterruptedRunError, match="after step 12 of 18"):
            train(resumed(parts))
    last = train(resumed(parts))
    for name in ("last.pt", "best.pt"):
        assert_same(load(tmp_path / "whole" / name), load(parts / name), name)
    for name in ("test_accuracy", "test_loss", "steps", "best_epoch", "test_class_accuracy"):
        assert getattr(whole, name) == getattr(last, name)


def test_run_cut_off_between_checkpoints_repeats_the_rest_bit_for_bit(tmp_path, monkeypatch):
    train(config(tmp_path / "whole", checkpoint_every=4))
    parts = tmp_path / "parts"
    with monkeypatch.context() as patch:
        at_step(patch, 12, power_cut)
        with pytest.raises(PowerCutError):
            train(config(parts, checkpoint_every=4))
    progress = load(parts / "last.pt")["progress"]
    assert (progress["steps"], progress["epoch"], progress["step"]) == (8, 1, 2)
    train(resumed(parts))
    assert_same(load(tmp_path / "whole" / "last.pt"), load(parts / "last.pt"))


def test_every_checkpoint_of_a_run_leads_to_the_same_end(tmp_path, monkeypatch):
    train(config(tmp_path / "whole"))
    for step in (1, 5, 6, 7, 17):
        parts = tmp_path / f"parts{step}"
        with monkeypatch.context() as patch:
            at_step(patch, step, interrupt)
            with pytest.raises(InterruptedRunError):
                train(config(parts))
        train(resumed(parts))
        assert_same(load(tmp_path / "whole" / "last.pt"), load(parts / "last.pt"))


def test_finished_run_resumes_to_the_same_result(tmp_path):
    first = train(config(tmp_path))
    again = train(resumed(tmp_path))
    assert (first.test_loss, first.steps) == (again.test_loss, again.steps)
    assert first.history == again.history


def test_second_interrupt_stops_at_once_and_leaves_a_loadable_checkpoint(tmp_path, monkeypatch):
    def twice() -> None:
        interrupt()
        interrupt()

    with monkeypatch.context() as patch:
        at_step(patch, 9, twice)
        with pytest.raises(KeyboardInterrupt):
            train(config(tmp_path))
    assert load(tmp_path / "last.pt")["progress"]["steps"] == STEPS_PER_EPOCH
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    train(config(tmp_path / "whole"))
    train(resumed(tmp_path))
    assert_same(load(tmp_path / "whole" / "last.pt"), load(tmp_path / "last.pt"))


def test_same_seed_same_bits_and_other_seed_other_bits(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(config(tmp_path / name, seed=seed, epochs=1))
    a, b, c = (load(tmp_path / name / "last.pt")["model"] for name in "abc")
    assert_same(a, b)
    assert not torch.equal(a["fc.weight"], c["fc.weight"])


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name not in BY_HAND_ONLY])
def test_scratch_and_torch_optimizers_train_to_the_same_bits(tmp_path, optimizer):
    for optim in ("scratch", "torch"):
        train(config(tmp_path / optim, optim=optim, optimizer=optimizer, foreach=False))
    scratch, torchs = (load(tmp_path / name / "last.pt") for name in ("scratch", "torch"))
    assert_same(scratch["model"], torchs["model"])


def test_a_run_may_change_from_one_library_to_the_other(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        at_step(patch, 8, interrupt)
        with pytest.raises(InterruptedRunError):
            train(config(tmp_path / "a", optim="torch", foreach=False))
    train(resumed(tmp_path / "a", optim="scratch"))
    train(config(tmp_path / "b", optim="torch", foreach=False))
    assert_same(load(tmp_path / "a/last.pt")["model"], load(tmp_path / "b/last.pt")["model"])


CHOICES = {
    **{name: {"optimizer": name} for name in OPTIMIZERS},
    **{name: {"optimizer": "adam", "schedule": name} for name in SCHEDULES},
    "clip_grad_norm": {"optimizer": "adam", "clip_grad_norm": 0.1},
    "clip_grad_value": {"optimizer": "adam", "clip_grad_value": 0.01},
    "clip_grad_ratio": {"optimizer": "sgd", "clip_grad_ratio": 0.1},
}


@pytest.mark.parametrize("given", CHOICES.values(), ids=CHOICES.keys())
def test_every_choice_lowers_the_loss_on_the_digits(tmp_path, monkeypatch, given):
    monkeypatch.setattr(loop, "load_data", lambda *args: load_data("digits", None, 0, print))
    given = {"optim": "scratch", "dropout": 0.0, "augment": (), "batch_size": 128} | given
    history = train(config(tmp_path, **given)).history
    assert history[-1]["train_loss"] < history[0]["train_loss"]


@pytest.mark.parametrize("name", [n for n, p in PRESETS.items() if p["model"] == "resnet18"])
def test_the_recipes_of_large_networks_take_a_step(name, tmp_path, monkeypatch):
    monkeypatch.undo()  # the network of the recipe
    made = make_config(
        preset=name, dataset="digits", batch_size=8, log_dir=str(tmp_path), device="cpu",
        layers="torch", quiet=True,
    )  # fmt: skip
    trainer = make_trainer(made, load_data("digits", None, 0))
    before = [p.detach().clone() for p in trainer.run.model.parameters()]
    trainer.run.model.train()
    trainer.train_step(trainer.batch(torch.arange(8)), measure=False)
    assert math.isfinite(trainer.read())
    # all of them: the gradient reaches every layer
    for p, old in zip(trainer.run.model.parameters(), before, strict=True):
        assert not torch.equal(p, old)


def test_learning_beats_chance(tmp_path):
    result = train(config(tmp_path, epochs=30, dropout=0.0, augment=(), lr=0.05))
    assert result.test_accuracy > 0.9
    assert result.best_validation_accuracy == max(
        row["validation_accuracy"] for row in result.history
    )


def test_result_file_says_what_was_returned(tmp_path):
    result = train(config(tmp_path))
    assert json.loads((tmp_path / "result.json").read_text()) == dataclasses.asdict(result)
    assert result.steps == 3 * STEPS_PER_EPOCH
    assert result.images_per_second == pytest.approx(result.steps * 8 / result.train_seconds)
    assert result.data["train"] == 54
    assert result.versions["torch"] == torch.__version__
    assert [row["epoch"] for row in result.history] == [1, 2, 3]


def test_best_checkpoint_is_that_of_the_best_epoch(tmp_path):
    result = train(config(tmp_path, epochs=6, optimizer="sgd", lr=0.5, schedule="none"))
    best = load(tmp_path / "best.pt")["progress"]
    top = max(row["validation_accuracy"] for row in result.history)
    latest = max(r["epoch"] for r in result.history if r["validation_accuracy"] == top)
    assert best["epoch"] == best["best_epoch"] == result.best_epoch == latest
    assert best["best_accuracy"] == top


def test_training_metrics_are_those_of_the_batches(tmp_path, monkeypatch):
    """Recomputed from the logits that the loop saw, label smoothing or not."""
    seen = []
    build_loss = loop.recipes.build_loss

    def noting(*args):
        loss = build_loss(*args)
        assert loss.label_smoothing == 0.4
        loss.register_forward_hook(lambda _, args, y: seen.append((args[0].detach(), args[1])))
        return loss

    monkeypatch.setattr(loop.recipes, "build_loss", noting)
    result = train(config(tmp_path, epochs=1, label_smoothing=0.4))
    logits, labels = (torch.cat(part) for part in zip(*seen, strict=True))
    assert len(labels) == 48
    row = result.history[0]
    # float32 means of 8, averaged in another order
    plain = F.cross_entropy(logits, labels).item()
    assert row["train_loss"] == pytest.approx(plain, rel=1e-6)
    assert row["train_accuracy"] == (logits.argmax(1) == labels).double().mean().item()


def test_evaluation_is_repeatable_and_changes_nothing(tmp_path, monkeypatch):
    finish, seen = loop.Trainer.finish_epoch, []

    def note(self):
        state = {k: t.clone() for k, t in self.run.model.state_dict().items()}
        seen.extend(self.evaluate(self.data.test, size).logits for size in (60, 7, 60))
        assert_same(state, dict(self.run.model.state_dict()))
        finish(self)

    monkeypatch.setattr(loop.Trainer, "finish_epoch", note)
    train(config(tmp_path, epochs=1, dropout=0.5))
    whole, parts, again = seen
    assert torch.equal(whole, again)
    # float32, kernels may sum in another order for another batch size
    torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-5)


def test_the_gap_is_to_the_training_images_as_they_are_and_looking_changes_nothing(tmp_path):
    result = train(config(tmp_path / "with", gap=True))
    without = train(config(tmp_path / "without"))
    states = [load(tmp_path / name / "last.pt")["model"] for name in ("with", "without")]
    assert_same(*states)
    assert (without.train_accuracy, without.train_loss, without.gap) == (None, None, None)

    data = loop.load_data()
    net = TinyNet(3, 1, 0.9)  # whose dropout is not to be seen
    net.load_state_dict(states[0])
    with torch.no_grad():
        logits = net.eval()(data.normalized(data.train.images))
    accuracy = (logits.argmax(1) == data.train.labels).double().mean().item()
    loss = F.cross_entropy(logits, data.train.labels).item()
    assert result.train_accuracy == accuracy
    assert result.train_loss == pytest.approx(loss, rel=1e-5)  # float32 sums of 54 images
    assert result.gap == accuracy - result.test_accuracy
    last = result.history[-1]
    assert last["evaluated_train_accuracy"] == accuracy != last["train_accuracy"]
    assert last["evaluated_train_loss"] == result.train_loss
    assert not any("evaluated" in name for name in without.history[-1])


def test_gradient_is_clipped_to_the_given_length(tmp_path, monkeypatch):
    lengths = []
    step = torch.optim.SGD.step

    def note(self, *args, **kwargs):
        gradients = [p.grad for g in self.param_groups for p in g["params"]]
        lengths.append(torch.nn.utils.get_total_norm(gradients).item())
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", note)
    train(config(tmp_path / "a", optimizer="sgd", epochs=1))
    assert max(lengths) > 0.01
    lengths.clear()
    train(config(tmp_path / "b", optimizer="sgd", epochs=1, clip_grad_norm=0.01))
    assert max(lengths) <= 0.01 * (1 + 1e-5)


def clipped(folder: Path, optim: str, **given: Any) -> list[Any]:
    """Of each step: names, weights and gradients as the optimizer meets them."""
    seen, real = [], loop.recipes.build_optimizer

    def build(config, model):
        optimizer = real(config, model)
        named = list(model.named_parameters())
        optimizer.register_step_pre_hook(
            lambda *_: seen.append(
                [(name, p.detach().clone(), p.grad.clone()) for name, p in named]
            )
        )
        return optimizer

    train(config(folder, optimizer="sgd", optim=optim, epochs=1, **given), optimizer=build)
    return seen


@pytest.mark.parametrize("optim", ["torch", "scratch"])
def test_elements_of_the_gradient_are_clipped_to_the_given_size(tmp_path, optim):
    free = clipped(tmp_path / "a", optim)[0]
    bound = clipped(tmp_path / "b", optim, clip_grad_value=0.01)[0]
    assert any((g.abs() > 0.01).any() for _, _, g in free)
    for (_, _, g), (_, _, c) in zip(free, bound, strict=True):
        assert torch.equal(c, g.clamp(-0.01, 0.01))


@pytest.mark.parametrize("optim", ["torch", "scratch"])
def test_filters_are_clipped_to_the_given_ratio_and_the_classifier_is_not(tmp_path, optim):
    free = clipped(tmp_path / "a", optim)[0]
    bound = clipped(tmp_path / "b", optim, clip_grad_ratio=0.01)[0]
    for (name, w, g), (_, _, c) in zip(free, bound, strict=True):
        if name.startswith("fc."):
            assert torch.equal(c, g)
        elif name == "conv.weight":
            ratio = c.flatten(1).norm(dim=1) / w.flatten(1).norm(dim=1)
            assert (g.flatten(1).norm(dim=1) / w.flatten(1).norm(dim=1)).max() > 0.01
            assert ratio.max() <= 0.01 * (1 + 1e-5)  # float32 norms


def test_checkpoint_without_the_newer_options_goes_on(tmp_path, monkeypatch):
    train(config(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        at_step(patch, 8, interrupt)
        with pytest.raises(InterruptedRunError):
            train(config(tmp_path / "old"))
    state = load(tmp_path / "old" / "last.pt")
    for name in options.NEWER:
        del state["config"][name]
    save(tmp_path / "old" / "last.pt", state)
    train(resumed(tmp_path / "old"))
    assert_same(load(tmp_path / "whole" / "last.pt"), load(tmp_path / "old" / "last.pt"))


def test_an_epoch_takes_every_image_at_most_once_and_changes_its_order():
    first, second = permutation(100, 7, 0), permutation(100, 7, 1)
    assert torch.equal(first.sort().values, torch.arange(100))
    assert not torch.equal(first, second)
    assert torch.equal(first, permutation(100, 7, 0))
    assert not torch.equal(first, permutation(100, 8, 0))


# -- the loss, the weights it leads to, and when to stop


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"label_smoothing": 0.1, "class_weights": "inverse"},
        {"mixup": 1.0, "class_weights": "inverse"},
        {"focal": 2.0, "layers": "scratch", "class_weights": "effective"},
    ],
    ids=["plain", "weighted", "mixed", "focal"],
)
def test_the_objective_is_the_mean_of_the_loss_and_parts_of_a_batch_add_up_to_it(tmp_path, given):
    made = config(tmp_path, epochs=1, dropout=0.0, augment=(), **given)
    trainer = trainer_of(made)
    batch = trainer.batch(torch.arange(8))
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    weight = recipes.weights_of_classes(made, trainer.data.train.labels)
    if made.focal:
        mean = scratch_layers.FocalLoss(weight, made.focal)
    else:
        mean = torch.nn.CrossEntropyLoss(weight, label_smoothing=made.label_smoothing)
    expected = mean(logits, batch.labels)
    if batch.others is not None:
        # the weights of labels that are exchanged in pairs have the same sum
        expected = batch.share * expected + (1 - batch.share) * mean(logits, batch.others)
    close = {"rtol": 1e-6, "atol": 0.0}  # float32 sums of eight, in another order
    torch.testing.assert_close(trainer.objective(logits, batch), expected, **close)
    parts = batch.parts(3)
    assert sum(len(part.labels) for part in parts) == 8
    objectives = [
        trainer.objective(rows, part)
        for rows, part in zip(logits.split([3, 3, 2]), parts, strict=True)
    ]
    torch.testing.assert_close(sum(objectives), expected, **close)


def test_gradients_of_parts_add_up_to_that_of_the_batch(tmp_path, monkeypatch):
    """Without batch normalization, whose statistics are those of the part."""
    monkeypatch.setattr(torch.nn, "BatchNorm2d", lambda n: torch.nn.Identity())
    seen = {}
    for count in (1, 3):
        options = {"dropout": 0.0, "augment": (), "accumulate": count}
        seen[count] = clipped(tmp_path / str(count), "torch", **options)
    for one, three in zip(seen[1], seen[3], strict=True):
        for (_, w, g), (_, v, h) in zip(one, three, strict=True):
            torch.testing.assert_close(v, w, rtol=1e-4, atol=1e-6)  # float32, over six steps
            torch.testing.assert_close(h, g, rtol=1e-4, atol=1e-6)


def weights_after_each_step(folder: Path, monkeypatch: pytest.MonkeyPatch, **given: Any) -> tuple:
    """The result, the trainer, and what each step left in the model."""
    seen, trainers, step = [], [], loop.Trainer.train_step

    def note(self, *args, **kwargs):
        step(self, *args, **kwargs)
        seen.append({k: t.clone() for k, t in self.run.model.state_dict().items()})
        trainers.append(self)

    with monkeypatch.context() as patch:
        patch.setattr(loop.Trainer, "train_step", note)
        result = train(config(folder, optimizer="sgd", **given))
    return result, trainers[-1], seen


def test_ema_is_what_is_validated_and_tested_and_the_run_goes_on_from_its_own_weights(
    tmp_path, monkeypatch
):
    given = {"epochs": 2, "dropout": 0.0}
    plain, _, seen = weights_after_each_step(tmp_path / "a", monkeypatch, **given)
    given |= {"average": "ema", "ema_decay": 0.5}
    result, trainer, same = weights_after_each_step(tmp_path / "b", monkeypatch, **given)
    assert_same(seen, same)
    w = tiny_initial(tmp_path / "c")
    expected = {k: t.double() for k, t in w.items()}
    for t, state in enumerate(seen, 1):
        decay = min(0.5, (1 + t) / (10 + t))
        for name in expected:
            expected[name] += (1 - decay) * (state[name].double() - expected[name])
    with trainer.run.average.in_place() as model:
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                # float32, over twelve steps
                torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
    assert trainer.evaluate(trainer.data.test).loss == result.test_loss != plain.test_loss


def tiny_initial(folder: Path) -> dict[str, torch.Tensor]:
    return {k: t.clone() for k, t in trainer_of(config(folder)).run.model.state_dict().items()}


def test_swa_is_the_mean_of_the_last_quarters_epochs_with_statistics_measured_anew(
    tmp_path, monkeypatch
):
    given = {"epochs": 8, "average": "swa", "dropout": 0.0}
    _, trainer, seen = weights_after_each_step(tmp_path, monkeypatch, **given)
    ends = [seen[6 * epoch - 1] for epoch in (7, 8)]
    averages = trainer.run.average.mean.averages
    for name in ("conv.weight", "fc.weight", "fc.bias", "bn.weight", "bn.bias"):
        mean = (ends[0][name] + ends[1][name]) / 2
        torch.testing.assert_close(averages[name], mean, rtol=1e-6, atol=1e-7)  # float32
    x = trainer.prepare(trainer.data.train.images)
    maps = F.conv2d(x, averages["conv.weight"], padding=1)
    # float32; one batch
    torch.testing.assert_close(
        averages["bn.running_mean"], maps.mean((0, 2, 3)), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        averages["bn.running_var"], maps.var((0, 2, 3)), rtol=1e-4, atol=1e-5
    )


def test_lookahead_ends_on_the_slow_weights(tmp_path, monkeypatch):
    given = {"epochs": 2, "average": "lookahead", "dropout": 0.0, "momentum": 0.0}
    _, trainer, seen = weights_after_each_step(tmp_path, monkeypatch, **given)
    assert trainer.run.optimizer.taken == 0
    slow = tiny_initial(tmp_path / "c")["fc.weight"]
    plain = given | {"average": "none"}
    _, _, fast = weights_after_each_step(tmp_path / "d", monkeypatch, **plain)
    assert torch.equal(seen[3]["fc.weight"], fast[3]["fc.weight"])  # four steps of its own
    # and half of the way after the fifth, to the rounding of float32
    half = (slow + fast[4]["fc.weight"]) / 2
    torch.testing.assert_close(seen[4]["fc.weight"], half, rtol=1e-6, atol=1e-7)


def test_a_run_out_of_patience_stops_and_goes_back_to_the_best(tmp_path, monkeypatch):
    accuracies = iter([0.2, 0.6, 0.5, 0.6, 0.1, 0.3, 0.2, 0.9])
    evaluate = loop.Trainer.evaluate

    def rated(self, split, *args, **kwargs):
        measured = evaluate(self, split, *args, **kwargs)
        if split is self.data.validation and not finished:
            return dataclasses.replace(measured, accuracy=next(accuracies))
        return measured

    finished, best = [], []
    back = loop.Trainer.go_back_to_the_best

    def go_back(self):
        finished.append(True)
        back(self)
        best.append({k: t.clone() for k, t in self.run.model.state_dict().items()})

    monkeypatch.setattr(loop.Trainer, "evaluate", rated)
    monkeypatch.setattr(loop.Trainer, "go_back_to_the_best", go_back)
    result = train(config(tmp_path, epochs=8, patience=3, schedule="none"))
    assert [row["epoch"] for row in result.history] == [1, 2, 3, 4, 5, 6, 7]
    assert result.best_epoch == 4  # of equals the later one
    assert_same(best[0], dict(load(tmp_path / "best.pt")["model"]))
    assert not torch.equal(best[0]["fc.weight"], load(tmp_path / "last.pt")["model"]["fc.weight"])
    again = train(resumed(tmp_path))
    assert (again.epochs, again.test_loss) == (7, result.test_loss)


def test_learning_rate_falls_when_the_validation_loss_stays(tmp_path, monkeypatch):
    losses = iter([3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0])
    evaluate, rates = loop.Trainer.evaluate, []

    def rated(self, split, *args, **kwargs):
        measured = evaluate(self, split, *args, **kwargs)
        if split is self.data.validation and len(rates) < 10:
            rates.append(self.run.optimizer.param_groups[0]["lr"])
            return dataclasses.replace(measured, loss=next(losses))
        return measured

    monkeypatch.setattr(loop.Trainer, "evaluate", rated)
    train(config(tmp_path, epochs=10, schedule="plateau", optimizer="sgd", lr=0.1, warmup=1.0))
    assert rates == pytest.approx([0.1] * 8 + [0.01] * 2)


def test_plateau_goes_on_from_its_checkpoint(tmp_path, monkeypatch):
    evaluate = loop.Trainer.evaluate

    def flat(self, *args, **kwargs):
        return dataclasses.replace(evaluate(self, *args, **kwargs), loss=1.0)

    monkeypatch.setattr(loop.Trainer, "evaluate", flat)
    given = {"schedule": "plateau", "optimizer": "sgd", "lr": 0.1, "epochs": 8}
    train(config(tmp_path / "whole", **given))
    with monkeypatch.context() as patch:
        at_step(patch, 20, interrupt)
        with pytest.raises(InterruptedRunError):
            train(config(tmp_path / "parts", **given))
    train(resumed(tmp_path / "parts"))
    whole, parts = (load(tmp_path / name / "last.pt") for name in ("whole", "parts"))
    assert whole["optimizer"]["param_groups"][0]["lr"] == pytest.approx(0.01)
    assert_same(whole, parts)


# -- what goes wrong


def test_nan_loss_stops_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    prepare, calls = loop.Trainer.prepare, []

    def poison(self, images, pixels=None):
        calls.append(self.run.steps)
        images = prepare(self, images, pixels)
        return images * math.nan if self.run.steps == 8 and self.run.model.training else images

    monkeypatch.setattr(loop.Trainer, "prepare", poison)
    with pytest.raises(DivergedError, match=r"training loss is nan at step 9.*last\.pt holds"):
        train(config(tmp_path))
    assert max(calls) <= 11  # read at the end of that epoch at the latest
    state = load(tmp_path / "last.pt")
    assert state["progress"]["steps"] == 6
    assert all(t.isfinite().all() for t in state["model"].values())


def test_lost_weights_never_replace_good_ones(tmp_path, monkeypatch):
    train(config(tmp_path, epochs=1))
    before = (tmp_path / "last.pt").read_bytes()
    save = loop.Trainer.save

    def spoil(self, name):
        with torch.no_grad():
            self.run.model.fc.weight[0, 0] = math.inf
        save(self, name)

    monkeypatch.setattr(loop.Trainer, "save", spoil)
    with pytest.raises(DivergedError, match=r"fc\.weight has values that are not finite"):
        train(config(tmp_path / "new", epochs=1, checkpoint_dir=str(tmp_path / "new")))
    assert not (tmp_path / "new" / "last.pt").exists()
    assert (tmp_path / "last.pt").read_bytes() == before


def test_batch_larger_than_the_training_set_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"--batch-size 55 .* 54 images .* Give 54 or less"):
        train(config(tmp_path / "a", batch_size=55))
    assert not (tmp_path / "a").exists()
    assert train(config(tmp_path / "a", batch_size=54, epochs=1)).steps == 1


def test_checkpoint_of_other_images_is_refused(tmp_path, monkeypatch):
    train(config(tmp_path, epochs=1))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    load_data = loop.load_data
    monkeypatch.setattr(
        loop, "load_data", lambda *a: dataclasses.replace(load_data(*a), checksum="ffffffff")
    )
    with pytest.raises(UsageError, match=r"trained on other images .*0123abcd, not ffffffff"):
        train(resumed(tmp_path))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("amp", ["off", "bf16", "fp16"])
def test_on_cuda_a_run_trains_stops_and_goes_on(tmp_path, monkeypatch, amp):
    with monkeypatch.context() as patch:
        at_step(patch, 8, interrupt)
        with pytest.raises(InterruptedRunError):
            train(config(tmp_path, device="cuda", amp=amp))
    result = train(resumed(tmp_path))
    assert result.steps == 18
    assert load(tmp_path / "last.pt")["random"]["device"] == "cuda"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_cuda_a_step_waits_for_nothing(tmp_path, monkeypatch):
    step = loop.Trainer.train_step

    def strict(self, images, labels, measure):
        torch.cuda.set_sync_debug_mode("error" if self.run.steps > 2 and not measure else "default")
        try:
            step(self, images, labels, measure)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(loop.Trainer, "train_step", strict)
    train(config(tmp_path, device="cuda", optimizer="sgd"))
