"""The experiments of scripts/compare.py: what each one varies, and the sentence of what it shows.

The learning rates are those of cifar10.py (``training.options.BY_OPTIMIZER``) unless an experiment
is about what happens at others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from matplotlib.figure import Figure
from torch import nn
from torch.optim import Optimizer

from scratch_layers.regularization import decay_groups
from scratch_optim import Adam
from scratch_optim.tensors import Operand
from training.comparison import (
    GRADIENT_NORM,
    LOSS_OF_STEPS,
    TRAINING_LOSS,
    UPDATE_RATIO,
    VALIDATION_LOSS,
    Asked,
    Comparison,
    Curves,
    Record,
    Variant,
)
from training.options import INITS, SCHEDULES, Config
from training.recipes import build_optimizer
from training.untrained import ActivationFunctions, Landscapes, ScheduleCurves, Table


class Experiment(Protocol):
    """What scripts/compare.py asks of an experiment."""

    @property
    def name(self) -> str:
        """By which it is chosen."""

    @property
    def shows(self) -> str:
        """The sentence of what it shows."""

    def measure(self, asked: Asked) -> Record:
        """Do it."""

    def table(self, record: Record) -> Table | None:
        """Head and rows of the table, if there is one."""

    def draw(self, record: Record) -> Figure:
        """The figure."""

    def scalars(self, record: Record) -> Curves:
        """The curves for TensorBoard."""


class UncorrectedAdam(Adam):
    """Adam whose means are not divided by 1 - beta^t: they begin at 0 and stay too small for long.

        m_t     = beta1 m_{t-1} + (1 - beta1) g_t
        v_t     = beta2 v_{t-1} + (1 - beta2) g_t^2
        theta_t = theta_{t-1} - lr m_t / (sqrt(v_t) + eps)

    The first step is lr (1 - beta1) / sqrt(1 - beta2) long instead of lr: 3.2 times as long for
    beta2 = 0.999, ten times for 0.9999. Kingma and Ba, section 6.4. Weight decay and AMSGrad are
    left out.
    """

    @staticmethod
    def update(  # noqa: D102
        theta: Operand,
        g: Operand,
        state: Any,
        t: Any,
        /,
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        **_: Any,
    ) -> None:
        beta1, beta2 = betas
        m = state["exp_avg"].lerp_(g, 1 - beta1)
        v = state["exp_avg_sq"].mul_(beta2).addcmul_(g, g, value=1 - beta2)
        theta.addcdiv_(m, v.sqrt().add_(eps), value=-lr)


def uncorrected_adam(config: Config, model: nn.Module) -> Optimizer:
    """It, with the learning rate and the betas of the options."""
    beta1, beta2 = config.betas or (0.9, 0.999)
    return UncorrectedAdam(decay_groups(model, 0.0), config.lr, (beta1, beta2))


FAMILIES = {
    "one rate for all": ("sgd", "momentum", "asgd", "lars", "muon"),
    "by the mean square": ("adagrad", "rmsprop", "adadelta", "adafactor"),
    "means of both": ("adam", "adamw", "adamax", "nadam", "radam", "lamb"),
    "by the sign": ("rprop", "lion"),
}
KINDS = {
    "rectifiers": ("ReLU", "LeakyReLU", "PReLU", "ELU", "SELU", "CELU"),
    "smooth": ("GELU", "SiLU", "Mish", "Hardswish", "Softplus"),
    "saturating": ("Tanh", "Sigmoid"),
}
SGD = {"optimizer": "sgd", "weight_decay": 0.0}
SIZES = (16, 64, 256, 1024)
MORE = {"train_images": 2000, "batch_size": 100}
"""What is few of CIFAR-10."""
FEW = {"train_images": 300, "label_noise": 0.3, "batch_size": 30, "epochs": 40,
       "hidden": (128, 64), **SGD, "lr": 0.05}  # fmt: skip


def by(option: str, values: Iterable[Any], panel: str = "", **more: Any) -> list[Variant]:
    """A variant for each value of an option, named after it, with more options if there are any."""
    prefix = f"{panel}, " if panel else ""
    return [
        Variant(f"{prefix}{value}", {option: value, **more}, panel, str(value)) for value in values
    ]


COMPARISONS = [
    Comparison(
        "optimizers",
        "Every optimizer of scratch_optim that takes a batch at a time, each with the learning "
        "rate, momentum and weight decay that cifar10.py has for it.",
        [
            Variant(name, {"optimizer": name}, family)
            for family, names in FAMILIES.items()
            for name in names
        ],
        curves=[TRAINING_LOSS],
    ),
    Comparison(
        "activations",
        "A perceptron of four layers with every activation, its weights drawn with the gain that "
        "belongs to it.",
        [
            Variant(name, {"activation": name}, kind)
            for kind, names in KINDS.items()
            for name in names
        ],
        {"hidden": (64,) * 4, "epochs": 15},
    ),
    Comparison(
        "normalizations",
        "A perceptron of eight layers at a learning rate that needs a normalization, and a ResNet, "
        "whose channels can be normalized in groups and one by one too.",
        [
            *by("norm", ("none", "batch", "layer"), "perceptron", hidden=(64,) * 8, lr=0.1),
            *by("norm", ("none", "batch", "layer", "group", "instance"), "resnet20",
                model="resnet20", lr=0.05),
        ],
        {"epochs": 5, **SGD, "schedule": "cosine"},
    ),
    Comparison(
        "regularizers",
        "What keeps a network from learning by heart 300 images, of which 30 % have a wrong label: "
        "penalties on the weights, bounds, noise, and stopping in time.",
        [
            Variant("none", {}, "penalties and bounds"),
            Variant("L1, 0.006", {"l1": 6e-3}, "penalties and bounds"),
            Variant("L2, 0.05", {"weight_decay": 5e-2}, "penalties and bounds"),
            Variant("elastic net", {"l1": 3e-3, "weight_decay": 2.5e-2}, "penalties and bounds"),
            Variant("max-norm, 0.7", {"max_norm": 0.7}, "penalties and bounds"),
            Variant("dropout, 0.5", {"dropout": 0.5}, "noise, targets, time"),
            Variant("label smoothing, 0.2", {"label_smoothing": 0.2}, "noise, targets, time"),
            Variant("augmentation", {"augment": ("crop",)}, "noise, targets, time"),
            Variant("mixup, 1", {"mixup": 1.0}, "noise, targets, time"),
            Variant("early stopping", {"patience": 10}, "noise, targets, time"),
        ],
        FEW,
        MORE,
        curves=[VALIDATION_LOSS],
        seeds=5,
        target=0.8,
    ),
    Comparison(
        "dropout-rates",
        "How much dropout, on the same images: too little learns the wrong labels, too much learns "
        "nothing.",
        by("dropout", (0.0, 0.1, 0.2, 0.3, 0.5, 0.7)),
        FEW,
        MORE,
        curves=[TRAINING_LOSS, VALIDATION_LOSS],
        legend="dropout",
        seeds=5,
        target=0.8,
    ),
    Comparison(
        "schedules",
        "Every schedule of cifar10.py, all with the same highest learning rate, on small batches, "
        "whose noise a falling rate averages out.",
        by("schedule", SCHEDULES),
        {**SGD, "lr": 0.05, "batch_size": 16, "epochs": 10},
    ),
    Comparison(
        "initializations",
        "Eight layers whose weights are drawn too small, too large, or in proportion to what "
        "feeds them.",
        [
            *by("init", INITS, "Tanh", activation="Tanh"),
            *by("init", INITS, "ReLU", activation="ReLU"),
        ],
        {"hidden": (64,) * 8, **SGD, "lr": 0.02, "epochs": 10},
        curves=[TRAINING_LOSS],
    ),
    Comparison(
        "norm-placement",
        "Normalization before and after the activation.",
        [
            Variant("none", {}),
            *[
                Variant(f"{norm}, {place}", {"norm": norm, "norm_last": last})
                for norm in ("batch", "layer")
                for place, last in (("before", False), ("after", True))
            ],
        ],
        {"hidden": (64,) * 8, **SGD, "lr": 0.05, "epochs": 10},
    ),
    Comparison(
        "bias-correction",
        "The first steps of Adam with and without the correction of its means, whose effect "
        "grows with beta2.",
        [
            Variant(f"beta2 {beta2}, {name}", {"betas": (0.9, beta2)}, f"beta2 = {beta2}", name,
                    make)
            for beta2 in (0.999, 0.9999)
            for name, make in (("corrected", build_optimizer), ("uncorrected", uncorrected_adam))
        ],
        {"lr": 1e-2, "epochs": 4},
        curves=[LOSS_OF_STEPS, UPDATE_RATIO],
    ),
    Comparison(
        "warmup",
        "A learning rate that is too high for the first steps, reached at once and in some epochs.",
        by("warmup", (0, 1, 3, 5)),
        {"hidden": (64,) * 8, "lr": 0.02, "schedule": "cosine", "epochs": 10},
        curves=[LOSS_OF_STEPS, GRADIENT_NORM],
        legend="warm-up, epochs",
        seeds=5,
    ),
    Comparison(
        "clipping",
        "A learning rate at which gradients explode, unless they are clipped.",
        [
            Variant("not clipped", {}),
            Variant("by norm, 1", {"clip_grad_norm": 1.0}),
            Variant("by value, 0.05", {"clip_grad_value": 0.05}),
            Variant("adaptively, 0.05", {"clip_grad_ratio": 0.05}),
        ],
        {"hidden": (64,) * 8, **SGD, "lr": 0.2, "epochs": 6},
        curves=[LOSS_OF_STEPS, GRADIENT_NORM],
    ),
    Comparison(
        "batch-size",
        "Batches of several sizes, with one learning rate, and with one in proportion to the size.",
        [
            *by("batch_size", SIZES, "rate 0.05", lr=0.05),
            *[
                Variant(f"in proportion, {size}", {"batch_size": size, "lr": 0.05 * size / 64},
                        "rate in proportion", str(size))
                for size in SIZES
            ],
        ],
        {**SGD, "epochs": 10},
        curves=[TRAINING_LOSS],
        legend="batch size",
    ),
]  # fmt: skip
PLOTS: list[Experiment] = [
    ActivationFunctions(
        "activation-functions",
        "Every activation of scratch_layers of one variable, and its derivative, as its backward "
        "pass has it.",
    ),
    ScheduleCurves(
        "schedule-curves",
        "Every schedule of scratch_optim.lr_scheduler that is a function of the step.",
    ),
    Landscapes(
        "landscapes",
        "Optimizers on functions of two parameters, each with the learning rate that does best "
        "there.",
    ),
]
EACH: list[Experiment] = [*COMPARISONS, *PLOTS]
EXPERIMENTS = {each.name: each for each in EACH}
