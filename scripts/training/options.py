"""The options of a training run: what they mean, what they default to, what cannot be.

``Config`` is a run's complete description, with nothing left to be decided; ``make_config`` makes
one from the few options that were given, for a program; ``parse`` does so for a command line.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import scratch_optim
from scratch_layers import airnet, resnet
from scratch_layers.mlp import mlp
from training import checkpoint, distributed
from training.augment import CHOICES as AUGMENTATIONS
from training.averaging import KINDS as AVERAGES
from training.errors import UsageError
from training.presets import PRESETS

DATASETS = ("digits", "cifar10")
CLASS_WEIGHTS = ("none", "inverse", "effective")
PERCEPTRONS = {"mlp": mlp}
"""Their input is flattened."""
MODELS = resnet.MODELS | airnet.MODELS | PERCEPTRONS
ACTIVATIONS = (
    "ReLU", "LeakyReLU", "PReLU", "ELU", "SELU", "CELU", "GELU", "SiLU", "Mish", "Hardswish",
    "Softplus", "Tanh", "Sigmoid",
)  # fmt: skip
"""Names of classes in both libraries."""
NORMS = ("batch", "group", "layer", "instance", "none")
INITS = {
    "he": "variance g² / fan_in",
    "glorot": "2 g² / (fan_in + fan_out)",
    "orthogonal": "all singular values g",
    "normal1": "variance 1: signals explode",
    "small": "standard deviation 0.01: they vanish",
    "zeros": "all units of a layer stay the same",
}
"""How the weights of a multilayer perceptron are drawn; g is the gain of the activation."""
SCHEDULES = {
    "onecycle": "",
    "cosine": "to --lr-floor",
    "linear": "to --lr-floor",
    "step": "a tenth at each of --milestones",
    "wsd": "stays, and falls to --lr-floor in the last fifth",
    "inverse-time": "1 / (1 + 9 x), to a tenth",
    "plateau": "a tenth after 5 epochs in which the validation loss has not fallen",
    "none": "",
}

# What is used where nothing is given: always, for the data set, and for the optimizer.
ALWAYS: dict[str, Any] = {
    "data_dir": None, "model": "resnet20", "activation": None, "norm": "batch", "dropout": 0.0,
    "hidden": (128, 64, 32), "norm_last": False, "init": "he",
    "layers": "scratch", "kernels": "eager", "fused_layers": False,
    "optim": "scratch", "fused": None, "foreach": None,
    "weight_decay": 0.0, "l1": 0.0, "max_norm": 0.0, "momentum": 0.0, "nesterov": False,
    "clip_grad_norm": 0.0, "clip_grad_value": 0.0, "clip_grad_ratio": 0.0,
    "schedule": "onecycle", "lr_floor": 0.0, "milestones": (0.5, 0.75), "warmup_steps": 0,
    "betas": (), "label_smoothing": 0.0, "seed": 0,
    "device": "auto", "amp": "off", "compile": False, "channels_last": False, "cuda_graph": False,
    "checkpoint_every": 0, "resume": None, "tensorboard": True, "log_every": 20,
    "explain": 0, "quiet": False,
    "preset": None, "budget": 0.0, "resolutions": (), "padding": 0, "holdout": True, "tta": False,
    "gap": False,
    "normalize_weights": False, "bias_lr": 1.0, "muon_head": True, "auxiliary_lr": 3e-3,
    "ns_steps": 5, "whitening_bias": True,
    "mixup": 0.0, "cutmix": 0.0, "imbalance": 1.0, "class_weights": "none", "focal": 0.0,
    "train_images": 0, "label_noise": 0.0,
    "average": "none", "ema_decay": 0.999, "accumulate": 1, "patience": 0,
    "sync_batchnorm": None, "fsdp": False, "results": None,
}  # fmt: skip
BY_DATASET: dict[str, dict[str, Any]] = {
    "digits": {
        "optimizer": "adam", "epochs": 60, "batch_size": 64, "augment": ("crop",),
        "pictures_every": 20,
    },
    "cifar10": {
        "optimizer": "sgd", "epochs": 30, "batch_size": 128, "augment": ("flip", "crop"),
        "pictures_every": 5,
    },
}  # fmt: skip
# Learning rates. sgd, momentum, asgd: He et al. (2015). adamax: Kingma and Ba (2015). adadelta:
# Zeiler (2012). muon: Jordan et al. (2024). lion: a third of AdamW's, with thrice its decay, after
# Chen et al. (2023). nadam, adagrad, rprop: PyTorch's. Of radam, adafactor, lars, lion and rprop
# the best of two to four that were tried on the digits: 3 epochs, one seed, by test accuracy.
BY_OPTIMIZER: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.1, "weight_decay": 5e-4, "momentum": 0.9, "nesterov": True},
    "momentum": {"lr": 0.1, "weight_decay": 5e-4, "momentum": 0.9, "nesterov": False},
    "asgd": {"lr": 0.1, "weight_decay": 5e-4},
    "rmsprop": {"lr": 1e-3, "weight_decay": 0.0, "momentum": 0.0},
    "adam": {"lr": 3e-3, "weight_decay": 0.0},
    "adamw": {"lr": 3e-3, "weight_decay": 0.05},
    "adamax": {"lr": 2e-3, "weight_decay": 0.0},
    "nadam": {"lr": 2e-3, "weight_decay": 0.0},
    "radam": {"lr": 1e-2, "weight_decay": 0.0},
    "adagrad": {"lr": 1e-2, "weight_decay": 0.0},
    "adadelta": {"lr": 1.0, "weight_decay": 0.0},
    "adafactor": {"lr": 3e-2, "weight_decay": 0.0},
    "rprop": {"lr": 1e-2},
    "lion": {"lr": 1e-3, "weight_decay": 0.15},
    "lars": {"lr": 1.0, "weight_decay": 5e-4, "momentum": 0.9, "nesterov": False},
    "lamb": {"lr": 1e-2, "weight_decay": 0.01},
    "muon": {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.95, "nesterov": True},
}
OPTIMIZERS = tuple(BY_OPTIMIZER)
CLASS_NAMES = {name.lower(): name for name in scratch_optim.__all__ if name.lower() in OPTIMIZERS}
OF_OPTIMIZERS = ("lr", "weight_decay", "momentum", "nesterov")
BY_HAND_ONLY = ("momentum", "lion", "lars", "lamb", "muon")  # torch's Muon takes no convolutions
HAVE_BETAS = ("adam", "adamw", "adamax", "nadam", "radam", "lion", "lamb")
HAVE_FLOOR = ("onecycle", "cosine", "linear", "wsd")
CLIPS = ("clip_grad_norm", "clip_grad_value", "clip_grad_ratio")
NEWER = (
    "clip_grad_value", "clip_grad_ratio", "fused_layers", "preset", "budget", "resolutions",
    "padding", "activation", "norm", "holdout", "tta", "normalize_weights", "bias_lr",
    "muon_head", "auxiliary_lr", "whitening_bias", "mixup", "cutmix", "imbalance",
    "class_weights", "focal", "average", "ema_decay", "accumulate", "patience", "sync_batchnorm",
    "fsdp", "results", "explain", "hidden", "norm_last", "init", "gap", "l1", "max_norm",
    "train_images", "betas", "lr_floor", "milestones", "warmup_steps", "label_noise", "ns_steps",
    "cuda_graph",
)  # fmt: skip
"""Not in older checkpoints, which mean the default."""
TUPLES = ("augment", "resolutions", "hidden", "betas", "milestones")
"""Lists in JSON and in checkpoints."""
OF_CONVOLUTIONS = ("normalize_weights", "channels_last", "resolutions", "whitening_bias")
"""What of a recipe means nothing for a multilayer perceptron."""
INSTEAD = (
    ("epochs", "budget"), ("warmup", "warmup_steps"), ("warmup_steps", "warmup"),
    ("schedule", "milestones"), ("schedule", "lr_floor"),
)  # fmt: skip
"""Who gives the first does not want the second of a recipe."""


@dataclass(frozen=True)
class Config:
    """Everything that decides a training run. Epochs are passes over the training images."""

    preset: str | None  # whose options were taken where none were given
    dataset: str
    data_dir: str | None  # None: data/, downloaded where missing
    holdout: bool  # a tenth of the training images is set aside for validation
    augment: tuple[str, ...]
    padding: int  # pixels of the crop; 0: an eighth of the width
    mixup: float  # α of Beta(α, α), from which the share of an image is drawn; 0: off
    cutmix: float  # likewise
    train_images: int  # so many of those that are not set aside, chosen by the seed; 0: all
    label_noise: float  # share of the training labels that are drawn anew, 0..1
    imbalance: float  # training images of the rarest class by those of the most frequent
    resolutions: tuple[int, ...]  # height and width in equal parts of the run; (): as they are
    tta: bool  # the mean over six views at the end
    gap: bool  # what is trained on is tested too

    model: str
    activation: str | None  # name of its class; None: the model's own
    norm: str  # of NORMS
    dropout: float  # probability, before the classifier; of an mlp after every hidden layer
    hidden: tuple[int, ...]  # units of the layers of an mlp
    norm_last: bool  # an mlp normalizes what its activations give, not what they take
    init: str  # of INITS; of the weights of an mlp
    layers: str  # scratch or torch
    kernels: str  # eager or compiled, of the scratch layers
    fused_layers: bool  # normalization, sum and ReLU in one

    optimizer: str
    optim: str  # scratch or torch
    lr: float  # peak, per step
    momentum: float
    betas: tuple[float, ...]  # β1 and β2 of Adam and its like; (): the optimizer's own
    nesterov: bool
    weight_decay: float
    l1: float  # λ₁ of a penalty λ₁ Σ |w| on the weights that decay; 0: none
    max_norm: float  # longest incoming weights of a unit; 0: any
    normalize_weights: bool  # filters have a mean square length of 1 before every step
    bias_lr: float  # of biases and normalizations, times that of the weights
    muon_head: bool  # the classifier is Muon's; otherwise AdamW's
    auxiliary_lr: float  # of AdamW beside Muon, peak, per step
    ns_steps: int  # Muon's
    whitening_bias: bool  # the biases of the whitening layer learn
    fused: bool | None  # None: as the optimizer decides
    foreach: bool | None
    clip_grad_norm: float  # of all gradients together; 0: off
    clip_grad_value: float  # of each element; 0: off
    clip_grad_ratio: float  # of gradient to weights, of each unit; 0: off

    schedule: str
    lr_floor: float  # where it ends, by the peak
    milestones: tuple[float, ...]  # of step, shares of the run
    warmup: float  # epochs
    warmup_steps: int  # instead; 0: as warmup says
    epochs: float
    budget: float  # seconds of training that the epochs were fitted to; 0: none
    batch_size: int  # images, of all processes together
    accumulate: int  # parts of a batch that are computed one after the other
    average: str  # of weights: none, ema, swa or lookahead
    ema_decay: float  # per step
    patience: int  # epochs without a better validation accuracy, after which to stop; 0: never
    label_smoothing: float
    class_weights: str  # in the loss: none, inverse or effective
    focal: float  # γ of the focal loss; 0: cross-entropy
    seed: int

    device: str  # cpu or cuda
    amp: str  # off, bf16 or fp16
    compile: bool
    cuda_graph: bool  # a step is recorded, and launched at once
    channels_last: bool
    sync_batchnorm: bool | None  # statistics of all processes; None: where they can be
    fsdp: bool  # each process holds a part of weights and state

    log_dir: str
    checkpoint_dir: str
    checkpoint_every: int  # steps; 0: at the end of each epoch only
    resume: str | None  # the file to go on from
    results: str | None  # the file to which the result is added
    tensorboard: bool
    log_every: int  # steps
    pictures_every: int  # epochs
    explain: int  # steps between looks into the optimizer's equation; 0: none
    quiet: bool

    def as_json(self) -> dict[str, Any]:
        """All of it, in the types of JSON."""
        listed = {name: list(getattr(self, name)) for name in TUPLES}
        return dataclasses.asdict(self) | listed


# What a resumed run may do differently: where and how it computes, not what.
MAY_CHANGE = {
    "data_dir", "layers", "kernels", "fused_layers", "optim", "fused", "foreach", "device",
    "compile", "cuda_graph", "channels_last", "sync_batchnorm", "fsdp", "log_dir", "checkpoint_dir",
    "checkpoint_every", "resume", "tensorboard", "log_every", "pictures_every", "explain", "quiet",
    "results", "gap",
}  # fmt: skip


def make_config(**given: Any) -> Config:
    """Complete the options that are given, and check all of them.

    With ``resume`` everything that is not given is taken from the checkpoint. ``resume="auto"`` is
    the ``last.pt`` of ``checkpoint_dir`` (or ``log_dir``) if there is one, and otherwise a new run.

    Raises:
        UsageError: an option, or a combination of options, that cannot be.
    """
    given = with_tuples(given)
    auto = given.get("resume") == "auto"
    if auto:
        given["resume"] = _last(given)
    if given.get("resume"):
        source = checkpoint.find(given["resume"])
        saved = _read_config(source)
        if auto and saved["budget"]:  # they were fitted to it
            given = {key: value for key, value in given.items() if key not in ("epochs", "warmup")}
        given = unchanged(given, saved)
        # records and checkpoints that share a folder still do after it was moved
        here = {"checkpoint_dir": str(source.parent)}
        if saved["log_dir"] == saved["checkpoint_dir"]:
            here["log_dir"] = str(source.parent)
        values = saved | here | given | {"resume": str(source)}
        if values["device"] == "cuda" and "device" not in given:
            values["device"] = "auto"
        if values["cuda_graph"] and "cuda_graph" not in given:
            values["cuda_graph"] = "auto"
    else:
        preset = given.get("preset")
        if preset is not None:
            _one_of("preset", preset, PRESETS)
        recipe = {} if preset is None else PRESETS[preset]
        unwanted = {b for a, b in INSTEAD if a in given and b not in given}
        if given.get("model") in PERCEPTRONS:
            unwanted |= set(OF_CONVOLUTIONS)
        recipe = {key: value for key, value in recipe.items() if key not in unwanted}
        dataset = given.get("dataset", recipe.get("dataset", "digits"))
        _one_of("dataset", dataset, DATASETS)
        usual = recipe.get("optimizer", BY_DATASET[dataset]["optimizer"])
        optimizer = given.get("optimizer", usual)
        own_options = options_of(optimizer)
        if recipe and optimizer != usual:  # its rates are for its own optimizer
            own = {
                "muon_head",
                "auxiliary_lr",
                "ns_steps",
                "bias_lr",
                "betas",
                *(key for options in BY_OPTIMIZER.values() for key in options),
            }
            recipe = {key: value for key, value in recipe.items() if key not in own}
        values = ALWAYS | BY_DATASET[dataset] | own_options | recipe | given
        values |= {"dataset": dataset, "optimizer": optimizer}
        if "nesterov" not in given:
            values["nesterov"] = values["nesterov"] and values["momentum"] > 0
        if "warmup" in recipe and "warmup" not in given:  # the same share of another run
            values["warmup"] = recipe["warmup"] * values["epochs"] / recipe["epochs"]
        elif "warmup" not in given:
            cycle = values["schedule"] == "onecycle" and not values["warmup_steps"]
            values["warmup"] = 0.3 * values["epochs"] if cycle else 0.0
        if "log_dir" not in given:
            stamp = time.strftime("%Y%m%d-%H%M%S")
            name = optimizer.rpartition(":")[2]
            values["log_dir"] = f"runs/{dataset}-{values['model']}-{name}-{stamp}"
        if "checkpoint_dir" not in given:
            values["checkpoint_dir"] = values["log_dir"]
    if values["device"] == "auto":
        values["device"] = "cuda" if torch.cuda.is_available() else "cpu"
    if values["amp"] == "auto":
        values["amp"] = "bf16" if values["device"] == "cuda" or multiplies_bf16() else "off"
    if values["cuda_graph"] == "auto":
        values["cuda_graph"] = why_no_graph(values) is None
    values |= {name: tuple(values[name]) for name in TUPLES}
    config = Config(**values)
    _check(config, again=auto)
    return config


def from_checkpoint(source: Path) -> Config:
    """The options that a checkpoint was made with, as they were.

    Raises:
        UsageError: it cannot be read, or another version of this script wrote it.
    """
    return Config(**_read_config(source))


def with_tuples(given: dict[str, Any]) -> dict[str, Any]:
    """The lists of a command line as ``Config`` has them, in which no augmentation is ``()``."""
    given = given | {name: tuple(given[name]) for name in TUPLES if name in given}
    if "augment" in given:
        given["augment"] = tuple(name for name in given["augment"] if name != "none")
    return given


def unchanged(given: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
    """The given options that a resumed run takes.

    Raises:
        UsageError: one of them is not that of the run, and no resumed run may change it.
    """
    if given.get("amp") == "auto":  # which it was decided to be
        given = {key: value for key, value in given.items() if key != "amp"}
    for name in given.keys() - MAY_CHANGE:
        if given[name] != saved[name]:
            raise UsageError(
                f"--resume {given['resume']}: that run has {_option(name)} "
                f"{_show(saved[name])}, not {_show(given[name])}. Leave {_option(name)} out to "
                "go on with it, or start a new run without --resume."
            )
    return given


def _last(given: dict[str, Any]) -> str | None:
    """What ``resume="auto"`` means."""
    folder = given.get("checkpoint_dir", given.get("log_dir"))
    if folder is None:
        raise UsageError(
            "--resume auto: a folder is needed to look in. Give --log-dir or --checkpoint-dir too."
        )
    last = Path(folder) / "last.pt"
    return str(last) if last.is_file() else None


def _read_config(source: Path) -> dict[str, Any]:
    """The options a checkpoint was made with, as ``Config`` has them."""
    saved = checkpoint.load(source).get("config")
    names = {field.name for field in dataclasses.fields(Config)}
    if isinstance(saved, dict):
        saved = {name: ALWAYS[name] for name in NEWER} | saved
    if not isinstance(saved, dict) or set(saved) != names:
        raise UsageError(
            f"{source} was written by another version of this script (its options differ). "
            "Go on with that version, or start a new run without --resume."
        )
    return saved | {name: tuple(saved[name]) for name in TUPLES}


def multiplies_bf16() -> bool:
    """Whether this processor has instructions that multiply bfloat16.

    oneDNN computes with it on others too: with AVX2 on 2 cores air_tiny took ten times as long as
    with float32.
    """
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def optimizer_class(optimizer: str, optim: str) -> type[torch.optim.Optimizer]:
    """The class that --optimizer and --optim name.

    Raises:
        UsageError: there is none.
    """
    if is_own(optimizer):
        return own_optimizer(optimizer)
    _one_of("optimizer", optimizer, OPTIMIZERS)
    module = scratch_optim if optim == "scratch" else torch.optim
    found: type[torch.optim.Optimizer] = getattr(module, CLASS_NAMES[optimizer])
    return found


def why_no_graph(options: dict[str, Any]) -> str | None:
    """Why a run with these options cannot record its steps as CUDA graphs, and what to do."""
    if options["device"] != "cuda":
        return "there are CUDA graphs on CUDA devices only. Use --device cuda, or leave it out."
    if distributed.processes() > 1:
        return "one process alone records its steps. Start one, or leave it out."
    if options["amp"] == "fp16":
        return (
            "with float16 the host decides in each step whether the optimizer takes it. Use --amp "
            "bf16, or leave it out."
        )
    if options["explain"]:
        return "--explain looks into each step. Leave one of them out."
    cls = optimizer_class(options["optimizer"], options["optim"])
    if not getattr(cls, "captures", "capturable" in inspect.signature(cls).parameters):
        return (
            f"{cls.__module__}.{cls.__name__} has numbers that change with each step on the host. "
            "Use another --optimizer or --optim, or leave it out."
        )
    return None


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def is_own(optimizer: str) -> bool:
    """Whether --optimizer names a class of the user's, as package.module:Class."""
    return ":" in optimizer


def own_optimizer(place: str) -> type[torch.optim.Optimizer]:
    """The class that package.module:Class names; modules are looked for in the working folder too.

    Raises:
        UsageError: nothing is there, or no optimizer.
    """
    from scratch_optim.testing.kit import named  # takes a second

    try:
        found = named(place)
    except ValueError as error:
        raise UsageError(
            f"--optimizer {place}: {error}. Give it as package.module:Class."
        ) from error
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        raise UsageError(
            f"--optimizer {place}: {found!r} is no subclass of torch.optim.Optimizer. Give one as "
            "package.module:Class."
        )
    return found


def options_of(optimizer: str) -> dict[str, Any]:
    """What an optimizer has of lr, weight_decay, momentum and nesterov, and takes for them.

    Those of a class of the user's are the defaults of its signature.

    Raises:
        UsageError: there is no such optimizer, or it has no default for lr.
    """
    if not is_own(optimizer):
        _one_of("optimizer", optimizer, OPTIMIZERS)
        return BY_OPTIMIZER[optimizer]
    known = inspect.signature(own_optimizer(optimizer)).parameters
    has = {name: known[name].default for name in OF_OPTIMIZERS if name in known}
    for name in {"lr", *has}:
        if not isinstance(has.get(name), int | float):
            raise UsageError(
                f"--optimizer {optimizer}: its {name} needs a number as default, which is taken "
                f"where {_option(name)} is not given."
            )
    return has


def _having(name: str) -> list[str]:
    """The optimizers that have an option of this name."""
    return [optimizer for optimizer, values in BY_OPTIMIZER.items() if name in values]


def _listed(name: str) -> str:
    """What the optimizers that have this option take for it."""
    return ", ".join(f"{o} {BY_OPTIMIZER[o][name]:g}" for o in _having(name))


def _show(value: Any) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def _one_of(name: str, value: Any, choices: Iterable[str]) -> None:
    if value not in choices:
        raise UsageError(f"{_option(name)} {value}: choose one of {', '.join(choices)}.")


def _check(c: Config, again: bool) -> None:
    """Refuse what cannot be, naming the value and the remedy.

    Args:
        c: the configuration.
        again: a run that ended before its first checkpoint may begin anew in its folder.
    """
    for name, choices in {
        "model": tuple(MODELS), "layers": ("scratch", "torch"), "optim": ("scratch", "torch"),
        "kernels": ("eager", "compiled"), "schedule": SCHEDULES, "device": ("cpu", "cuda"),
        "amp": ("off", "bf16", "fp16"), "average": AVERAGES, "class_weights": CLASS_WEIGHTS,
        "norm": NORMS, "init": INITS,
    }.items():  # fmt: skip
        _one_of(name, getattr(c, name), choices)
    if c.activation is not None:
        _one_of("activation", c.activation, ACTIVATIONS)
    for choice in c.augment:
        _one_of("augment", choice, ("none", *AUGMENTATIONS))

    def refuse_unless(true: bool, name: str, remedy: str) -> None:
        if not true:
            raise UsageError(f"{_option(name)} {_show(getattr(c, name))}: {remedy}")

    for name in ("lr", "bias_lr", "auxiliary_lr"):
        value = getattr(c, name)
        refuse_unless(value > 0 and math.isfinite(value), name, "give a finite number above 0.")
    amounts = ("weight_decay", "l1", "max_norm", "warmup", "budget", "mixup", "cutmix", "focal")
    for name in (*amounts, *CLIPS):
        value = getattr(c, name)
        refuse_unless(value >= 0 and math.isfinite(value), name, "give a finite number, 0 or more.")
    for name in ("momentum", "dropout", "label_smoothing", "ema_decay", "lr_floor", "label_noise"):
        refuse_unless(0 <= getattr(c, name) < 1, name, "give a number in [0, 1).")
    refuse_unless(0 < c.epochs < 2**20, "epochs", "give a number above 0 and below 2**20.")
    for name in ("batch_size", "log_every", "accumulate", "ns_steps"):
        refuse_unless(getattr(c, name) >= 1, name, "give a whole number, 1 or more.")
    counts = (
        "checkpoint_every", "pictures_every", "explain", "padding", "patience", "warmup_steps",
        "train_images",
    )  # fmt: skip
    for name in counts:
        refuse_unless(getattr(c, name) >= 0, name, "give a whole number, 0 or more.")
    refuse_unless(0 <= c.seed < 2**32, "seed", "give a whole number in [0, 2**32).")
    refuse_unless(
        c.warmup < c.epochs or c.warmup == 0, "warmup", f"give less than the {c.epochs:g} epochs."
    )
    refuse_unless(
        not (c.warmup and c.warmup_steps),
        "warmup_steps",
        f"not together with --warmup {c.warmup:g}. Leave one of them out.",
    )
    for share in c.milestones:
        refuse_unless(0 < share < 1, "milestones", "give shares of the run, between 0 and 1.")
    refuse_unless(
        not c.betas or (len(c.betas) == 2 and all(0 <= beta < 1 for beta in c.betas)),
        "betas",
        "give two numbers in [0, 1).",
    )
    refuse_unless(
        not c.betas or c.optimizer in HAVE_BETAS,
        "betas",
        f"{c.optimizer} has none. Leave it out, or use --optimizer {' or '.join(HAVE_BETAS)}.",
    )
    for size in c.resolutions:
        refuse_unless(8 <= size <= 256, "resolutions", "give heights from 8 to 256 pixels.")
    for units in c.hidden:
        refuse_unless(units >= 1, "hidden", "give the units of each hidden layer, 1 or more.")
    refuse_unless(0 < c.imbalance <= 1, "imbalance", "give a number in (0, 1]; 1 is balanced.")
    refuse_unless(
        c.accumulate <= c.batch_size,
        "accumulate",
        f"give at most --batch-size, {c.batch_size}, whose parts these are.",
    )
    refuse_unless(
        c.focal == 0 or c.layers == "scratch",
        "focal",
        "PyTorch has no focal loss. Use --layers scratch, or leave it out.",
    )
    refuse_unless(
        c.focal == 0 or c.label_smoothing == 0,
        "focal",
        "not together with --label-smoothing. Leave one of them out.",
    )
    for name, asked in (("patience", c.patience > 0), ("schedule", c.schedule == "plateau")):
        refuse_unless(
            c.holdout or not asked,
            name,
            "it goes by the validation images, of which --no-holdout leaves none. Leave one of "
            "them out.",
        )
    refuse_unless(
        c.muon_head or c.optimizer == "muon",
        "muon_head",
        f"{c.optimizer} has no part of Muon. Leave it out, or use --optimizer muon.",
    )
    for name in ("l1", "max_norm"):
        refuse_unless(
            not (getattr(c, name) and c.fsdp),
            name,
            "it needs whole weights, of which --fsdp leaves each process a part. Leave one of them "
            "out.",
        )
    perceptron = c.model in PERCEPTRONS
    only_mlp = "Only --model mlp has it."
    for name, used, remedy in (
        ("bias_lr", c.optimizer != "muon", "Beside muon it is --auxiliary-lr."),
        ("auxiliary_lr", c.optimizer == "muon", "Only --optimizer muon has AdamW beside it."),
        ("ns_steps", c.optimizer == "muon", "Only --optimizer muon orthogonalizes."),
        ("whitening_bias", c.model in airnet.MODELS, f"{c.model} has no whitening layer."),
        ("ema_decay", c.average == "ema", "Only --average ema has a decay."),
        ("lr_floor", c.schedule in HAVE_FLOOR, f"{c.schedule} does not fall to it."),
        ("milestones", c.schedule == "step", "Only --schedule step has them."),
        ("hidden", perceptron, only_mlp),
        ("norm_last", perceptron, only_mlp),
        ("init", perceptron, only_mlp),
        ("norm_last", c.norm != "none", "There is no normalization."),
        ("normalize_weights", not perceptron, f"{c.model} has no convolutions."),
        ("channels_last", not perceptron, f"{c.model} has no convolutions."),
    ):
        fine = used or getattr(c, name) == ALWAYS[name]
        refuse_unless(fine, name, f"it would do nothing. {remedy} Leave it out.")
    if perceptron:
        refuse_unless(
            c.norm in ("batch", "layer", "none"),
            "norm",
            f"{c.model} has features, and no channels with pixels. Use --norm batch, layer or "
            "none, or a resnet.",
        )
        refuse_unless(
            not c.resolutions,
            "resolutions",
            f"{c.model} takes images of one size only. Leave it out, or use a resnet.",
        )
        refuse_unless(
            not c.fused_layers,
            "fused_layers",
            f"{c.model} has no such form. Leave it out, or use a resnet.",
        )
        part = math.ceil(c.batch_size / c.accumulate)
        last = c.batch_size - part * ((c.batch_size - 1) // part)
        refuse_unless(
            c.norm != "batch" or last > 1,
            "batch_size",
            f"in {c.accumulate} part{'s' * (c.accumulate > 1)}, one of which is a single image, "
            "which has no variance. Give another one or another --accumulate, or use --norm "
            "layer.",
        )
    refuse_unless(
        c.model not in airnet.MODELS or c.dataset == "cifar10",
        "model",
        "it needs images of 9x9 pixels, and the digits have 8x8. Use --dataset cifar10, or a "
        "resnet.",
    )
    refuse_unless(
        c.norm == "batch" or (c.model not in airnet.MODELS and not c.fused_layers),
        "norm",
        "an airnet and --fused-layers have batch normalization. Leave one of them out.",
    )
    refuse_unless(
        c.activation in (None, "ReLU") or not c.fused_layers,
        "activation",
        "--fused-layers have ReLU. Leave one of them out.",
    )
    refuse_unless(
        c.model not in airnet.MODELS or not c.fused_layers,
        "fused_layers",
        "they have ReLU, and this network has GELU. Leave it out.",
    )

    refuse_unless(
        c.data_dir is None or c.dataset == "cifar10",
        "data_dir",
        "the digits come with scikit-learn and are not read from a folder. "
        "Add --dataset cifar10 to train on that folder.",
    )
    refuse_unless(
        c.device != "cuda" or torch.cuda.is_available(),
        "device",
        "this PyTorch finds no CUDA device. Use --device cpu, or install a PyTorch with CUDA.",
    )
    refuse_unless(
        c.amp != "fp16" or c.device == "cuda",
        "amp",
        "float16 needs --device cuda. Use --amp bf16 or off on a CPU.",
    )
    why = why_no_graph(dataclasses.asdict(c)) if c.cuda_graph else None
    refuse_unless(why is None, "cuda_graph", why or "")
    has = options_of(c.optimizer)
    refuse_unless(
        c.optim == "scratch" or not (c.optimizer in BY_HAND_ONLY or is_own(c.optimizer)),
        "optim",
        f"PyTorch has no {c.optimizer} for this network. Use --optim scratch, or another "
        "--optimizer.",
    )
    for name in ("momentum", "weight_decay"):
        refuse_unless(
            getattr(c, name) == 0 or name in has,
            name,
            f"{c.optimizer} has none. Leave it out, or use --optimizer "
            f"{' or '.join(_having(name))}.",
        )
    refuse_unless(
        not c.nesterov or ("nesterov" in has and c.momentum > 0),
        "nesterov",
        f"only --optimizer {' or '.join(_having('nesterov'))} with a --momentum above 0 has it. "
        "Leave it out.",
    )
    for name in CLIPS:
        others = [other for other in CLIPS if other != name and getattr(c, other)]
        refuse_unless(
            not (getattr(c, name) and others),
            name,
            f"not together with {' and '.join(map(_option, others))}. Leave one of them out.",
        )
    refuse_unless(
        not (c.fused and c.foreach), "fused", "not together with --foreach. Leave one of them out."
    )
    refuse_unless(
        c.explain == 0 or (c.tensorboard and not c.fsdp),
        "explain",
        "it is shown in TensorBoard, of whole parameters. Leave it out, or --no-tensorboard and "
        "--fsdp.",
    )
    refuse_unless(
        c.kernels == "eager" or c.layers == "scratch",
        "kernels",
        "only the hand-written layers have them. Use --layers scratch, or leave it out.",
    )
    refuse_unless(
        not c.fused_layers or c.layers == "scratch",
        "fused_layers",
        "only the hand-written layers have them. Use --layers scratch, or leave it out.",
    )
    if not c.resume:
        for name, sign in (("checkpoint_dir", "last.pt"), ("log_dir", "result.json")):
            folder = Path(getattr(c, name))
            curves = not again and any(folder.glob("events.out.tfevents.*"))
            used = curves or (folder / sign).exists()
            refuse_unless(
                not used,
                name,
                "this folder holds another run. Go on with it by --resume, choose another folder, "
                "or delete this one.",
            )
    for name in ("checkpoint_dir", "log_dir"):
        folder = Path(getattr(c, name))
        there = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        refuse_unless(there.is_dir(), name, f"{there} is a file. Choose another folder.")


def parse(argv: Sequence[str] | None = None) -> Config:
    """Turn a command line into a ``Config``.

    Raises:
        UsageError: as ``make_config``.
        SystemExit: with 2, after a message, for what is no option or no number; with 0 for --help.
    """
    given = vars(parser().parse_args(argv))
    return make_config(**given)


def number(text: str) -> float:
    """A number, whole if it is. Raises ValueError if it is none."""
    value = float(text)
    return int(value) if value.is_integer() else value


def duration(text: str) -> float:
    """Seconds of a time such as ``90s``, ``5m``, ``1.5h`` or ``300``.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1.0)
    try:
        return float(number) * unit
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time: give seconds, or a number with s, m or h"
        ) from None


def parser() -> argparse.ArgumentParser:
    """The command line. Options that are not given stay absent: ``make_config`` completes them."""
    p = argparse.ArgumentParser(
        prog="cifar10.py",
        description="Train a network on CIFAR-10 or on scikit-learn's digits, with "
        "optimizers and layers written by hand, or with PyTorch's own. Without options: resnet20 "
        "on the digits.",
        epilog="Exit code: 0 done, 1 diverged, 2 something to mend in the options or the data, "
        "130 interrupted by Ctrl-C, 143 by SIGTERM (go on with --resume).",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    switch = argparse.BooleanOptionalAction

    p.add_argument(
        "--preset",
        choices=PRESETS,
        metavar="NAME",
        help=f"a recipe, of which every option may be given otherwise: {', '.join(PRESETS)}; see "
        "training/presets.py (default: none)",
    )

    g = p.add_argument_group("data")
    g.add_argument("--dataset", choices=DATASETS, help="what to learn (default: digits)")
    g.add_argument(
        "--data-dir",
        metavar="DIR",
        help="folder with CIFAR-10: cifar-10-batches-py/, or train/<class>/*.jpg|png and "
        "test/<class>/... (default: data/, downloaded where missing)",
    )
    g.add_argument(
        "--augment",
        nargs="+",
        choices=("none", *AUGMENTATIONS),
        metavar="HOW",
        help="any of flip, altflip (each image is mirrored in every second epoch), crop (with "
        "mirrored padding), cutout (a square of 1/2 of the width); or none (default: crop for "
        "digits, flip crop for cifar10)",
    )
    g.add_argument(
        "--padding",
        type=int,
        metavar="PIXELS",
        help="of the crop; 0 is 1/8 of the width (default: 0)",
    )
    g.add_argument(
        "--mixup",
        type=float,
        metavar="ALPHA",
        help="blend each image with another one, by a share of the distribution Beta(ALPHA, "
        "ALPHA); 0 is off (default: 0)",
    )
    g.add_argument(
        "--cutmix",
        type=float,
        metavar="ALPHA",
        help="paste a box of another image into each, likewise; with --mixup a coin decides for "
        "each batch (default: 0)",
    )
    g.add_argument(
        "--train-images",
        type=int,
        metavar="N",
        help="train on N of the training images only, drawn by the seed with equal shares of each "
        "class; 0 is all (default: 0)",
    )
    g.add_argument(
        "--label-noise",
        type=float,
        metavar="SHARE",
        help="give this share of the training images another label, drawn by the seed: what can "
        "only be learned by heart (default: 0)",
    )
    g.add_argument(
        "--imbalance",
        type=float,
        metavar="RATIO",
        help="keep fewer training images from class to class, of the last one RATIO of those of "
        "the first: a long tail (default: 1, as they are)",
    )
    g.add_argument(
        "--resolutions",
        type=int,
        nargs="+",
        metavar="PIXELS",
        help="height and width to which the images are scaled, in equal parts of the run, such as "
        "20 26 32 (default: as they are)",
    )
    g.add_argument(
        "--holdout",
        action=switch,
        help="set a tenth of the training images aside, for validation; without, all are trained "
        "on (default: yes)",
    )
    g.add_argument(
        "--tta",
        action=switch,
        help="test with the mean of six views too: the image, moved by a pixel in two directions, "
        "and mirrored (default: no)",
    )

    g.add_argument(
        "--gap",
        action=switch,
        help="after every epoch and at the end, test on the training images too, in evaluation "
        "mode and as they are, without augmentation: their accuracy minus that of the test images "
        "is the generalization gap (default: no)",
    )

    g = p.add_argument_group("network")
    g.add_argument(
        "--model", choices=MODELS, metavar="NAME", help=f"{', '.join(MODELS)} (default: resnet20)"
    )
    g.add_argument(
        "--activation",
        choices=ACTIVATIONS,
        metavar="NAME",
        help=f"{', '.join(ACTIVATIONS)} (default: the network's own)",
    )
    g.add_argument(
        "--norm",
        choices=NORMS,
        help="normalization: batch, group (of 8 channels), layer (all channels and pixels of an "
        "image; of an mlp all features), instance, or none (default: batch)",
    )
    g.add_argument(
        "--norm-last",
        action=switch,
        help="let an mlp normalize after the activation (default: no, before it)",
    )
    g.add_argument(
        "--hidden",
        type=int,
        nargs="*",
        metavar="UNITS",
        help="units of each hidden layer of an mlp, whose input is the flattened image; without a "
        "number it is linear (default: 128 64 32)",
    )
    g.add_argument(
        "--init",
        choices=INITS,
        metavar="NAME",
        help="weights of an mlp, whose biases begin at 0; g is the gain of the activation: "
        + ", ".join(f"{name} ({what})" for name, what in INITS.items())
        + " (default: he)",
    )
    g.add_argument(
        "--dropout",
        type=float,
        metavar="P",
        help="probability before the classifier; of an mlp after each hidden layer (default: 0)",
    )
    g.add_argument(
        "--layers",
        choices=("scratch", "torch"),
        help="whose normalizations, activations, dropout and loss: hand-written or PyTorch's "
        "(default: scratch)",
    )
    g.add_argument(
        "--kernels",
        choices=("eager", "compiled"),
        help="how the hand-written layers run (default: eager)",
    )
    g.add_argument(
        "--fused-layers",
        action="store_true",
        help="normalization, sum and ReLU of the hand-written layers in one pass (default: off)",
    )

    g = p.add_argument_group("optimizer")
    g.add_argument(
        "--optimizer",
        metavar="NAME",
        help=f"{', '.join(OPTIMIZERS)}; muon with AdamW for biases and normalizations; or one of "
        "your own, as package.module:Class (default: adam for digits, sgd for cifar10)",
    )
    g.add_argument(
        "--optim",
        choices=("scratch", "torch"),
        help="whose optimizer: hand-written or PyTorch's (default: scratch)",
    )
    g.add_argument(
        "--lr",
        type=float,
        metavar="LR",
        help="highest learning rate, per step; of rprop the first step, whatever the schedule "
        f"(default: {_listed('lr')}; where they are from: training/options.py)",
    )
    g.add_argument(
        "--momentum",
        type=float,
        metavar="M",
        help=f"(default: {_listed('momentum')}; the others have none)",
    )
    g.add_argument(
        "--betas",
        type=float,
        nargs=2,
        metavar=("BETA1", "BETA2"),
        help=f"of {', '.join(HAVE_BETAS)}: what is kept of the means of the gradient and of its "
        "square at each step (default: the optimizer's own)",
    )
    g.add_argument(
        "--nesterov",
        action=switch,
        help=f"of {', '.join(_having('nesterov'))} (default: on where there is momentum, of sgd "
        "and muon)",
    )
    g.add_argument(
        "--weight-decay",
        type=float,
        metavar="WD",
        help="of weights, not of biases and normalizations (default: "
        f"{_listed('weight_decay')}; rprop has none)",
    )
    g.add_argument(
        "--l1",
        type=float,
        metavar="LAMBDA",
        help="add LAMBDA times the sum of the absolute weights to the loss, of the weights that "
        "decay; with the --weight-decay of an optimizer that couples it, an elastic net "
        "(default: 0)",
    )
    g.add_argument(
        "--max-norm",
        type=float,
        metavar="NORM",
        help="after each step, scale the incoming weights of each unit to this length at most; 0 "
        "is off (default: 0)",
    )
    g.add_argument(
        "--bias-lr",
        type=float,
        metavar="FACTOR",
        help="learning rate of biases and normalizations, times that of the weights (default: 1)",
    )
    g.add_argument(
        "--normalize-weights",
        action=switch,
        help="scale the filters of each convolution to a mean square length of 1 before every "
        "step (default: no)",
    )
    g.add_argument(
        "--muon-head",
        action=switch,
        help="muon for the classifier too, instead of AdamW (default: yes)",
    )
    g.add_argument(
        "--auxiliary-lr",
        type=float,
        metavar="LR",
        help="highest learning rate of AdamW beside muon (default: 0.003)",
    )
    g.add_argument(
        "--ns-steps",
        type=int,
        metavar="N",
        help="steps of Newton and Schulz by which muon orthogonalizes (default: 5)",
    )
    g.add_argument(
        "--whitening-bias",
        action=switch,
        help="train the biases of the first layer of an airnet, whose weights are frozen "
        "(default: yes)",
    )
    g.add_argument(
        "--clip-grad-norm",
        type=float,
        metavar="NORM",
        help="longest gradient; 0 is off (default: 0)",
    )
    g.add_argument(
        "--clip-grad-value",
        type=float,
        metavar="VALUE",
        help="largest element of a gradient; 0 is off (default: 0)",
    )
    g.add_argument(
        "--clip-grad-ratio",
        type=float,
        metavar="RATIO",
        help="longest gradient of a filter, by the length of its weights, except in the "
        "classifier: adaptive clipping, of Brock et al. (2021), who use 0.01; 0 is off "
        "(default: 0)",
    )
    g.add_argument(
        "--fused", action=switch, help="one compiled kernel (default: the optimizer decides)"
    )
    g.add_argument(
        "--foreach", action=switch, help="operations on lists of tensors (default: likewise)"
    )

    g = p.add_argument_group("training")
    g.add_argument(
        "--epochs",
        type=number,
        metavar="N",
        help="passes over the training images, also parts of one (default: digits 60, cifar10 30)",
    )
    g.add_argument(
        "--budget",
        type=duration,
        metavar="TIME",
        help="as many epochs as can be trained in this time, as in 90s or 5m; how long a step "
        "takes is measured first (default: none)",
    )
    g.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="images a step (default: digits 64, cifar10 128)",
    )
    g.add_argument(
        "--accumulate",
        type=int,
        metavar="PARTS",
        help="compute the gradient of a batch in so many parts, one after the other, so that less "
        "memory is needed (default: 1)",
    )
    g.add_argument(
        "--average",
        choices=AVERAGES,
        help="validate and test a mean of the weights: exponential over steps, plain over the "
        "epochs of the last quarter (swa), or lookahead, which goes half of the way of every five "
        "steps (default: none)",
    )
    g.add_argument(
        "--ema-decay",
        type=float,
        metavar="D",
        help="share that is kept at each step (default: 0.999)",
    )
    g.add_argument(
        "--patience",
        type=int,
        metavar="EPOCHS",
        help="stop after so many epochs without a better validation accuracy, and go back to the "
        "best; 0 is never (default: 0)",
    )
    g.add_argument(
        "--schedule",
        choices=SCHEDULES,
        metavar="NAME",
        help="learning rate over the steps, x of which are gone after the warm-up: "
        + ", ".join(f"{name} ({what})" if what else name for name, what in SCHEDULES.items())
        + " (default: onecycle)",
    )
    g.add_argument(
        "--warmup",
        type=float,
        metavar="EPOCHS",
        help="rising learning rate (default: onecycle 0.3 of the epochs, otherwise 0)",
    )
    g.add_argument(
        "--warmup-steps",
        type=int,
        metavar="N",
        help="the same in steps; 0 is as --warmup says (default: 0)",
    )
    g.add_argument(
        "--lr-floor",
        type=float,
        metavar="SHARE",
        help=f"of the highest learning rate, where {', '.join(HAVE_FLOOR)} end (default: 0)",
    )
    g.add_argument(
        "--milestones",
        type=float,
        nargs="+",
        metavar="SHARE",
        help="of the epochs, when step goes down to a tenth (default: 0.5 0.75)",
    )
    g.add_argument(
        "--label-smoothing",
        type=float,
        metavar="S",
        help="share of the target spread evenly (default: 0)",
    )
    g.add_argument(
        "--class-weights",
        choices=CLASS_WEIGHTS,
        help="in the loss: by the inverse of the images of a class, or of their effective number "
        "(Cui et al., 2019) (default: none)",
    )
    g.add_argument(
        "--focal",
        type=float,
        metavar="GAMMA",
        help="focal loss, in which images count less the surer the answer is; 0 is cross-entropy "
        "(default: 0)",
    )
    g.add_argument(
        "--seed", type=int, metavar="N", help="of weights, split, order, augmentation (default: 0)"
    )

    g = p.add_argument_group("series")
    g.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help="train N times, with the seeds --seed, --seed + 1, ..., each in a folder of its own "
        "below the --log-dir, and print means with their uncertainty (default: 1)",
    )
    g.add_argument(
        "--target",
        type=float,
        metavar="ACCURACY",
        help="in 0..1: test whether the mean test accuracy is above it (default: no test)",
    )

    g = p.add_argument_group("machine")
    g.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), help="(default: auto, CUDA where there is one)"
    )
    g.add_argument(
        "--amp",
        choices=("off", "auto", "bf16", "fp16"),
        help="16-bit arithmetic; auto is bf16 where the machine multiplies it (default: off)",
    )
    g.add_argument("--compile", action=switch, help="torch.compile the network (default: no)")
    g.add_argument(
        "--cuda-graph",
        action=switch,
        help="record a step as a CUDA graph, and launch all of it at once; the presets air94, "
        "air95 and air96 do where they can (default: no)",
    )
    g.add_argument("--channels-last", action=switch, help="memory format NHWC (default: no)")
    g.add_argument(
        "--sync-batchnorm",
        action=switch,
        help="under torchrun, normalize by the statistics of all processes (default: yes, with "
        "hand-written layers or CUDA)",
    )
    g.add_argument(
        "--fsdp",
        action="store_true",
        help="under torchrun, let each process hold only a part of weights and state, of which "
        "TensorBoard then has no histograms (default: off)",
    )

    g = p.add_argument_group("records")
    g.add_argument(
        "--log-dir",
        metavar="DIR",
        help="for TensorBoard and result.json (default: runs/DATASET-MODEL-OPTIMIZER-TIME)",
    )
    g.add_argument(
        "--checkpoint-dir", metavar="DIR", help="for last.pt and best.pt (default: the --log-dir)"
    )
    g.add_argument(
        "--checkpoint-every",
        type=int,
        metavar="STEPS",
        help="write last.pt also within an epoch; 0 is not (default: 0)",
    )
    g.add_argument(
        "--resume",
        metavar="PATH",
        help="go on from a checkpoint, or from last.pt in a folder, with its options; or with a "
        "series of --seeds; auto: from last.pt in the --checkpoint-dir if there is one, otherwise "
        "begin, so that the same command may be given again after a crash",
    )
    g.add_argument(
        "--results",
        metavar="FILE",
        help="add the result as a line of JSON to this file, which runs may share (default: none)",
    )
    g.add_argument("--tensorboard", action=switch, help="write event files (default: yes)")
    g.add_argument(
        "--log-every", type=int, metavar="STEPS", help="between points of the curves (default: 20)"
    )
    g.add_argument(
        "--pictures-every",
        type=int,
        metavar="EPOCHS",
        help="between histograms, confusion matrices and mistakes; 0: at the end only "
        "(default: digits 20, cifar10 5)",
    )
    g.add_argument(
        "--explain",
        type=int,
        nargs="?",
        const=100,
        metavar="STEPS",
        help="show every so many steps (100 where no number is given) what the optimizer does: "
        "moments, rates, ratios; of PyTorch's own only what parameters and gradients tell; 0 is "
        "not (default: 0)",
    )
    g.add_argument("--quiet", action=switch, help="print the last line only (default: no)")
    return p
