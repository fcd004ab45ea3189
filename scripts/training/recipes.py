"""From the names in the options to the objects of PyTorch: network, optimizer, schedule."""

from __future__ import annotations

import importlib
import inspect
import math
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from training.errors import UsageError
from training.options import Config

CLASS_NAMES = {"sgd": "SGD", "rmsprop": "RMSprop", "adam": "Adam", "adamw": "AdamW"}
GROUPS = ("weights", "biases and normalizations")  # the optimizer's groups, in this order


def build_model(config: Config, num_classes: int, in_channels: int) -> nn.Module:
    """The network, on the CPU; its initial weights come from torch's global generator."""
    import scratch_layers
    from scratch_layers.resnet import MODELS

    if config.layers == "scratch":
        scratch_layers.compile_kernels(config.kernels == "compiled")
    layers = scratch_layers if config.layers == "scratch" else nn
    return MODELS[config.model](
        layers, num_classes=num_classes, in_channels=in_channels, dropout=config.dropout
    )


def build_optimizer(config: Config, model: nn.Module) -> Optimizer:
    """The optimizer over two groups: weights that decay, and vectors (biases, ...) that do not.

    Raises:
        UsageError: the optimizer cannot run as --fused or --foreach ask.
    """
    module = importlib.import_module(
        "scratch_optim" if config.optim == "scratch" else "torch.optim"
    )
    cls = getattr(module, CLASS_NAMES[config.optimizer])
    settings: dict[str, Any] = {"lr": config.lr}
    if config.optimizer in ("sgd", "rmsprop"):
        settings["momentum"] = config.momentum
    if config.optimizer == "sgd":
        settings["nesterov"] = config.nesterov
    for name in ("fused", "foreach"):
        if getattr(config, name) is None:
            continue
        if name not in inspect.signature(cls).parameters:
            raise UsageError(
                f"--{name}: {cls.__module__}.{cls.__name__} has no such way to run. Leave it out, "
                "or use another --optimizer or --optim."
            )
        settings[name] = getattr(config, name)
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    try:
        optimizer: Optimizer = cls(groups, **settings)
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"--optimizer {config.optimizer}: {error}") from error
    return optimizer


def build_schedule(config: Config, optimizer: Optimizer, steps_per_epoch: int) -> LRScheduler:
    """The learning rate as a function of the step; call ``step()`` after every optimizer step.

    One cycle rises and falls along half cosines (L. N. Smith, N. Topin, "Super-Convergence", 2018,
    arXiv:1708.07120), from 1/25 of the peak to 0; every other schedule warms up linearly. It is a
    closed form of the step, so that torch's ``OneCycleLR``, which divides by zero when a phase is
    one step long, and chains of schedulers are not needed.
    """
    total = config.epochs * steps_per_epoch
    warmup = min(round(config.warmup * steps_per_epoch), total - 1)

    def factor(step: int) -> float:
        if step < warmup and config.schedule == "onecycle":
            return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * step / warmup))
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / (total - warmup)
        if config.schedule in ("onecycle", "cosine"):
            return 0.5 * (1 + math.cos(math.pi * done))
        if config.schedule == "linear":
            return 1 - done
        if config.schedule == "step":
            return 0.1 ** sum(step >= total * share for share in (0.5, 0.75))
        return 1.0

    return LambdaLR(optimizer, factor)
