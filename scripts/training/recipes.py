"""From the names in the options to the objects of PyTorch: network, optimizer, schedule."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

import scratch_layers
import scratch_optim
from scratch_layers.airnet import AirNet
from scratch_layers.imbalance import class_weights
from scratch_layers.init import normal_, orthogonal_, zeros_
from scratch_layers.regularization import decay_groups
from scratch_optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau
from scratch_optim.swa_utils import Lookahead
from training import distributed
from training.data import Data
from training.distributed import World
from training.errors import UsageError
from training.options import (
    MODELS,
    PERCEPTRONS,
    Config,
    multiplies_bf16,
    optimizer_class,
)

MakeOptimizer = Callable[[Config, nn.Module], Optimizer]
GROUPS = ("weights", "biases and normalizations")  # the optimizer's groups, in this order
WHITENED = 5000
"""Training images whose patches the first layer of an ``AirNet`` makes uncorrelated."""


def _half_cosine(x: float, y: float, config: Config) -> float:
    return 0.5 * (1 + math.cos(math.pi * x))  # WarmupCosineLR


# What is left of the highest learning rate when the share x of the steps after the warm-up, and y
# of all steps, are gone; the classes of scratch_optim.lr_scheduler that are the same.
CURVES: dict[str, Callable[[float, float, Config], float]] = {
    "onecycle": _half_cosine,
    "cosine": _half_cosine,
    "linear": lambda x, y, config: 1 - x,  # WarmupLinearLR
    "step": lambda x, y, config: 0.1 ** sum(y >= m for m in config.milestones),  # MultiStepLR
    "wsd": lambda x, y, config: 1 - math.sqrt(max(0.0, 5 * x - 4)),  # WarmupStableDecayLR, 1-sqrt
    "inverse-time": lambda x, y, config: 1 / (1 + 9 * x),  # InverseTimeLR
    "plateau": lambda x, y, config: 1.0,  # until build_plateau takes over
    "none": lambda x, y, config: 1.0,
}


NORMALIZATIONS: dict[str, Callable[[Any, int], nn.Module]] = {
    "group": lambda layers, c: layers.GroupNorm(c // math.gcd(c, 8), c),
    "layer": lambda layers, c: layers.GroupNorm(1, c),
    "instance": lambda layers, c: layers.InstanceNorm2d(c, affine=True),
    "none": lambda layers, c: nn.Identity(),
}
"""What stands for batch normalization, of a namespace and for so many channels."""


class Normalized:
    """A namespace of layers whose batch normalization is something else.

    Args:
        layers: the namespace.
        norm: makes that, of the namespace and a number of channels.
    """

    def __init__(self, layers: ModuleType, norm: Callable[[Any, int], nn.Module]) -> None:
        self.layers, self.norm = layers, norm

    def BatchNorm2d(self, channels: int) -> nn.Module:  # noqa: N802
        """What stands for it."""
        return self.norm(self.layers, channels)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.layers, name)


MLP_NORMALIZATIONS = {"batch": "BatchNorm1d", "layer": "LayerNorm", "none": None}
"""The same for the features of a multilayer perceptron."""

MLP_INITS: dict[str, str | Callable[[Tensor, float], Any]] = {
    "he": "he",
    "glorot": "glorot",
    "orthogonal": orthogonal_,
    "normal1": lambda W, g: normal_(W, std=1.0),
    "small": lambda W, g: normal_(W, std=0.01),
    "zeros": lambda W, g: zeros_(W),
}
"""How a weight W (out, in) is drawn if what feeds it has the gain g; see scratch_layers.mlp."""


def build_model(config: Config, num_classes: int, shape: Sequence[int]) -> nn.Module:
    """The network, on the CPU; its initial weights come from torch's global generator.

    Args:
        config: which one.
        num_classes: logits.
        shape: (C, H, W) of an image.
    """
    if config.layers == "scratch":
        scratch_layers.compile_kernels(config.kernels == "compiled")
    layers, norm = _layers(config), NORMALIZATIONS.get(config.norm)
    common: dict[str, Any] = {"num_classes": num_classes, "dropout": config.dropout}
    if config.activation is not None:
        common["activation"] = config.activation
    if config.model in PERCEPTRONS:
        return PERCEPTRONS[config.model](
            layers,
            **common,
            in_features=math.prod(shape),
            hidden=config.hidden,
            norm=MLP_NORMALIZATIONS[config.norm],
            norm_last=config.norm_last,
            init=MLP_INITS[config.init],
        )
    model = MODELS[config.model](
        layers if norm is None else Normalized(layers, norm),
        **common,
        in_channels=shape[0],
        fused=config.fused_layers,
    )
    if not config.whitening_bias:
        model.get_parameter("whiten.bias").requires_grad_(False)
    return model


def distribute(config: Config, model: nn.Module, world: World) -> nn.Module:
    """What to call in place of the model, so that all processes train it.

    Its parameters are replaced with --fsdp; otherwise they and the buffers stay the same objects.

    Raises:
        UsageError: --sync-batchnorm or --fsdp cannot be.
    """
    if world.size == 1:
        if config.fsdp:
            raise UsageError(
                "--fsdp: there is one process only, which holds everything. Start several by "
                "torchrun, or leave it out."
            )
        return model
    if config.fsdp:
        _synchronize(config, model)
        distributed.shard(model)
        return model
    device = next(model.parameters()).device
    ids = [device.index] if device.type == "cuda" else None
    network = DistributedDataParallel(model, device_ids=ids)
    # DistributedDataParallel refuses a SyncBatchNorm on a CPU, but does not notice it later
    _synchronize(config, model)
    return network


def _synchronize(config: Config, model: nn.Module) -> None:
    """Let batch normalizations take the statistics of all processes, where --sync-batchnorm says.

    PyTorch's own can do so on CUDA devices only.
    """
    can = config.layers == "scratch" or config.device == "cuda"
    wanted = can if config.sync_batchnorm is None else config.sync_batchnorm
    if not can and wanted:
        raise UsageError(
            "--sync-batchnorm: PyTorch's own works on CUDA devices only. Use --layers scratch, or "
            "--no-sync-batchnorm."
        )
    if wanted:
        _layers(config).SyncBatchNorm.convert_sync_batchnorm(model)


def group_names(optimizer: Optimizer) -> tuple[str, ...]:
    """What the groups of ``build_optimizer`` are called, in their order."""
    return GROUPS if len(optimizer.param_groups) == 2 else (*GROUPS, "classifier")


def classifier(model: nn.Module) -> nn.Linear:
    """The last linear layer."""
    return [m for m in model.modules() if isinstance(m, nn.Linear)][-1]


def fit_to_images(model: nn.Module, data: Data) -> None:
    """Set what a network takes from the training images before it is trained.

    Args:
        model: the network.
        data: on the same device.
    """
    if isinstance(model, AirNet):
        model.fit_whitening(data.normalized(data.train.images[:WHITENED]))


def filters(model: nn.Module) -> list[Tensor]:
    """The weights of the convolutions that learn."""
    found = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]
    return [w for w in found if w.requires_grad]


def weights(model: nn.Module) -> list[Tensor]:
    """Those that decay: no biases, no normalizations, nothing frozen."""
    found: list[Tensor] = decay_groups(model, 1.0)[0]["params"]
    return found


@torch.no_grad()
def normalize(weights: list[Tensor]) -> None:
    """Scale each weight to the Frobenius norm √out: its filters have a mean square length of 1.

    What is normalized after them does not depend on their length, but the angle by which a step
    turns them does: it stays what the learning rate says.
    """
    for w, norm in zip(weights, torch._foreach_norm(weights), strict=True):
        w.mul_(math.sqrt(len(w)) / norm)


def build_loss(config: Config, weight: Tensor | None) -> nn.Module:
    """The loss to train with, of logits (N, K) and labels (N,): a sum over N.

    Its mean is the sum by that of the weights of the labels, or by N without weights.

    Args:
        config: which one.
        weight: of each class, (K,), see :func:`weights_of_classes`.
    """
    loss: nn.Module
    if config.focal:
        loss = scratch_layers.FocalLoss(weight, config.focal, reduction="sum")
    else:
        loss = _layers(config).CrossEntropyLoss(
            weight, label_smoothing=config.label_smoothing, reduction="sum"
        )
    return loss


def weights_of_classes(config: Config, labels: Tensor) -> Tensor | None:
    """--class-weights (K,) for training images of these labels; None: all the same."""
    if config.class_weights == "none":
        return None
    return class_weights(torch.bincount(labels), config.class_weights)


def _layers(config: Config) -> ModuleType:
    return scratch_layers if config.layers == "scratch" else nn


def build_optimizer(config: Config, model: nn.Module) -> Optimizer:
    """The optimizer over two groups: weights that decay, and vectors (biases, ...) that do not.

    Raises:
        UsageError: the optimizer cannot run as --fused or --foreach ask.
    """
    cls: Any = optimizer_class(config.optimizer, config.optim)
    known = inspect.signature(cls).parameters
    settings: dict[str, Any] = {"lr": config.lr}
    if config.optimizer == "muon":
        settings["ns_steps"] = config.ns_steps
        settings["auxiliary"] = {"lr": config.auxiliary_lr, "weight_decay": 0.0}
        if config.device == "cpu" and not multiplies_bf16():
            settings["ns_dtype"] = torch.float32
    for name in ("momentum", "nesterov"):
        if name in known:
            settings[name] = getattr(config, name)
    for name in ("fused", "foreach"):
        if getattr(config, name) is None:
            continue
        if name not in known:
            raise UsageError(
                f"--{name}: {cls.__module__}.{cls.__name__} has no such way to run. Leave it out, "
                "or use another --optimizer or --optim."
            )
        settings[name] = getattr(config, name)
    if config.betas:
        settings["betas"] = config.betas
    groups = decay_groups(model, config.weight_decay)
    if not config.muon_head:
        head = classifier(model).weight
        groups[0]["params"] = [p for p in groups[0]["params"] if p is not head]
        groups.append({"params": [head], "use_muon": False})
    if config.bias_lr != 1:
        groups[1]["lr"] = config.lr * config.bias_lr
    if config.cuda_graph:
        for group in groups:
            group["capturable"] = True
    if "weight_decay" not in known:
        for group in groups:
            del group["weight_decay"]
    try:
        optimizer: Optimizer = cls(groups, **settings)
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"--optimizer {config.optimizer}: {error}") from error
    return Lookahead(optimizer) if config.average == "lookahead" else optimizer


def total_steps(config: Config, steps_per_epoch: int) -> int:
    """The steps of the whole run; of a part of an epoch at the end, too."""
    return max(1, round(config.epochs * steps_per_epoch))


def warmup_steps(config: Config, steps_per_epoch: int) -> int:
    """The steps in which the learning rate rises, fewer than those of the whole run.

    Raises:
        UsageError: --warmup-steps are not.
    """
    total = total_steps(config, steps_per_epoch)
    if config.warmup_steps >= total:
        raise UsageError(
            f"--warmup-steps {config.warmup_steps}: the whole run has {total} steps, "
            f"{steps_per_epoch} an epoch. Give fewer, or more --epochs."
        )
    return config.warmup_steps or min(round(config.warmup * steps_per_epoch), total - 1)


def build_schedule(config: Config, optimizer: Optimizer, steps_per_epoch: int) -> LRScheduler:
    """The learning rate as a function of the step; call ``step()`` after every optimizer step.

    One cycle rises and falls along half cosines (L. N. Smith, N. Topin, "Super-Convergence", 2018,
    arXiv:1708.07120), from 1/25 of the peak to --lr-floor; every other schedule warms up linearly,
    and its first step is the first of the ramp (the classes named beside ``CURVES`` begin theirs at
    0, so that a step is wasted, or repeat it). It is a closed form of the step, so that
    ``OneCycleLR``, which divides by zero when a phase is one step long, and chains of schedulers
    are not needed, and so that a run may go on from a checkpoint with either library's optimizer.

    Raises:
        UsageError: as ``warmup_steps``.
    """
    total = total_steps(config, steps_per_epoch)
    warmup, floor = warmup_steps(config, steps_per_epoch), config.lr_floor

    def factor(step: int) -> float:
        if step < warmup and config.schedule == "onecycle":
            return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * step / warmup))
        if step < warmup:
            return (step + 1) / warmup
        x, y = (step - warmup) / (total - warmup), step / total
        return floor + (1 - floor) * CURVES[config.schedule](x, y, config)

    return LambdaLR(optimizer, factor)


def build_plateau(config: Config, optimizer: Optimizer) -> ReduceLROnPlateau | None:
    """What lowers the learning rate when the validation loss stays; to be told it each epoch."""
    if config.schedule != "plateau":
        return None
    return ReduceLROnPlateau(optimizer, factor=0.1, patience=5)


def clipping(config: Config) -> ModuleType:
    """Where the norms of gradients, and the functions that clip them, come from."""
    return scratch_optim.clip_grad if config.optim == "scratch" else torch.nn.utils


def units(model: nn.Module) -> list[nn.Parameter]:
    """The parameters whose gradients adaptive clipping clips: all but the classifier's."""
    head = classifier(model)
    layers = [m for m in model.modules() if m is not head]
    return [p for layer in layers for p in layer.parameters(recurse=False)]
