"""The layers at the sizes that they have in networks, for what measures them all.

``FAMILIES`` names for each family the layers and what to call them with. It is data: the benchmark
times every sample, ``accuracy.py`` compares every sample with float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from scratch_layers import LinearCrossEntropyOptions

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Sample:
    """A layer and what it is called with.

    Attributes:
        layer: its name in scratch_layers, and in torch.nn unless ``built_in`` says otherwise.
        shapes: of the first input.
        args: of the constructor, from the shape.
        options: of the constructor.
        others: what follows the first input, drawn from a generator: other operands, targets.
        first: makes the first input what the layer asks for, as a probability.
        parameters: the range that accuracy.py draws them from.
        products: of how many products a value of a gradient is the sum, from the shape.
        label: tells apart the samples of one layer.
        channels_last: measured in that memory format too.
        scales: may be given shifted, tiny and huge inputs; not probabilities, nor where the native
            layer overflows in float64 too.
        half: runs natively in bfloat16 on the CPU.
        built_in: what to compare with, from the shape, where torch.nn has no such layer.
    """

    layer: str
    shapes: tuple[Shape, ...]
    args: Callable[[Shape], tuple[Any, ...]] = lambda shape: ()
    options: dict[str, Any] = field(default_factory=dict)
    others: Callable[[Shape, torch.Generator], tuple[Tensor, ...]] = lambda shape, generator: ()
    first: Callable[[Tensor], Tensor] | None = None
    parameters: tuple[float, float] = (0.5, 1.5)
    products: Callable[[Shape], int] = lambda shape: 3
    label: str = ""
    channels_last: bool = False
    scales: bool = True
    half: bool = True
    built_in: Callable[[Shape], nn.Module] | None = None

    @property
    def name(self) -> str:
        """The layer with its label."""
        return f"{self.layer} {self.label}".strip()

    def make(self, library: Any, shape: Shape) -> nn.Module:
        """Return the layer of ``library`` for inputs of that shape, float32, in training."""
        if library is nn and self.built_in is not None:
            return self.built_in(shape)
        layer: nn.Module = getattr(library, self.layer)(*self.args(shape), **self.options)
        return layer

    def inputs(self, shape: Shape, seed: int = 0) -> tuple[Tensor, ...]:
        """Return the inputs, those of floating point in float64."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(shape, dtype=torch.float64, generator=generator)
        return self.first(x) if self.first else x, *self.others(shape, generator)


class NormAddReLU(nn.Module):
    """relu(bn(x) + z) in the three built-in layers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Relu(bn(x) + z)."""
        y: Tensor = self.relu(self.bn(x) + z)
        return y


def channels(shape: Shape) -> tuple[int]:
    """Return the argument of normalizations by channel."""
    return (shape[1],)


def width(shape: Shape) -> tuple[int]:
    """Return the argument of normalizations of rows."""
    return (shape[-1],)


def alike(shape: Shape, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Return an operand like the first."""
    return (torch.randn(shape, dtype=torch.float64, generator=generator),)


def one(shape: Shape, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Return targets in (0, 1)."""
    return (torch.rand(shape, dtype=torch.float64, generator=generator),)


def positive(shape: Shape, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Return counts and variances."""
    return (torch.rand(shape, dtype=torch.float64, generator=generator) * 3 + 0.5,)


def signs(shape: Shape, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Return targets of -1 and 1."""
    return (torch.randint(2, shape, generator=generator).double() * 2 - 1,)


def classes(shape: Shape, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Return the number of a class for each place."""
    return (torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator),)


def words(shape: Shape, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Return the number of one of 16 times as many classes as features for each row."""
    return (torch.randint(16 * shape[1], shape[:1], generator=generator),)


def mixture(shape: Shape, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Return a distribution over the classes for each place."""
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    return (x.softmax(1),)


def several(shape: Shape, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Return 0 or 1 for each class."""
    return (torch.randint(2, shape, generator=generator).double(),)


def mean_and_variance(shape: Shape, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Return what follows the input of GaussianNLLLoss."""
    return (*alike(shape, generator), *positive(shape, generator))


def two_and_signs(shape: Shape, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Return a second operand, and -1 or 1 for each row."""
    return (*alike(shape, generator), *signs(shape[:1], generator))


def two_more(shape: Shape, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Return a positive and a negative example."""
    return (*alike(shape, generator), *alike(shape, generator))


STAGES = ((128, 64, 32, 32), (128, 128, 16, 16), (128, 256, 8, 8), (128, 512, 4, 4))
MAPS = ((128, 64, 32, 32), (128, 512, 4, 4))
TOKENS = ((4096, 768), (128, 197, 384))
LOGITS = ((4096, 1000), (512, 100))
PAIRS = ((1000, 1000),)
SCORES = ((512, 100),)

FAMILIES: dict[str, list[Sample]] = {
    "normalization": [
        Sample("BatchNorm1d", ((4096, 512),), channels),
        Sample("BatchNorm2d", STAGES, channels, channels_last=True),
        Sample("BatchNorm3d", ((16, 32, 8, 16, 16),), channels),
        Sample("LayerNorm", TOKENS, width),
        Sample("RMSNorm", TOKENS, width, options={"eps": 1e-6}),  # None depends on the dtype
        Sample("GroupNorm", MAPS, lambda s: (32, s[1]), channels_last=True),
        Sample("InstanceNorm1d", ((64, 256, 128),), channels),
        Sample("InstanceNorm2d", ((32, 64, 32, 32),), channels),
        Sample("InstanceNorm3d", ((8, 32, 8, 16, 16),), channels),
        Sample("LocalResponseNorm", ((32, 64, 16, 16),), lambda s: (5,), half=False),
    ],
    "normalization, ReLU and addition": [
        Sample(
            "BatchNormReLU2d",
            STAGES,
            channels,
            others=alike,
            channels_last=True,
            built_in=lambda shape: NormAddReLU(shape[1]),
        ),
    ],
    "dropout": [
        Sample("Dropout", MAPS),
        Sample("Dropout1d", ((128, 512, 128),)),
        Sample("Dropout2d", MAPS[:1]),
        Sample("Dropout3d", ((16, 32, 8, 16, 16),)),
        Sample("AlphaDropout", MAPS[1:]),
        Sample("FeatureAlphaDropout", MAPS[1:]),
    ],
    "activation": [
        *[
            Sample(layer, MAPS)
            for layer in (
                *("ReLU", "ReLU6", "LeakyReLU", "PReLU", "ELU", "CELU", "SELU", "GELU", "SiLU"),
                *("Mish", "Sigmoid", "Tanh", "Softplus", "Softsign", "LogSigmoid", "Tanhshrink"),
                *("Hardtanh", "Hardsigmoid", "Hardswish", "Softshrink", "Hardshrink", "RReLU"),
            )
        ],
        Sample("GELU", MAPS, options={"approximate": "tanh"}, label="tanh"),
        Sample("ReLU", MAPS, options={"inplace": True}, label="in place"),
        Sample("Threshold", MAPS, lambda s: (0.1, 20.0)),
        Sample("GLU", MAPS, lambda s: (1,)),
        *[Sample(layer, LOGITS, lambda s: (1,)) for layer in ("Softmax", "LogSoftmax", "Softmin")],
        Sample("Softmax2d", MAPS[1:]),
    ],
    "loss": [
        Sample("CrossEntropyLoss", (*LOGITS, (8, 21, 128, 128)), others=classes),
        Sample(
            "CrossEntropyLoss",
            LOGITS,
            options={"label_smoothing": 0.1},
            others=classes,
            label="smoothed",
        ),
        Sample("CrossEntropyLoss", LOGITS, others=mixture, label="soft targets"),
        *[
            Sample(
                "LinearCrossEntropyLoss",
                ((512, 256), (512, 32)),
                lambda s: (s[1], 16 * s[1]),
                options={"options": options},
                others=words,
                parameters=(-0.1, 0.1),
                products=lambda s: 16 * s[1],
                label=label,
                scales=False,
            )
            for label, options in (("", None), ("in chunks", LinearCrossEntropyOptions()))
            if hasattr(nn, "LinearCrossEntropyLoss")  # new in torch 2.13
        ],
        Sample("NLLLoss", LOGITS, others=classes, first=lambda x: x.log_softmax(1), scales=False),
        Sample("MSELoss", PAIRS, others=alike),
        Sample("L1Loss", PAIRS, others=alike),
        Sample("SmoothL1Loss", PAIRS, others=alike),
        Sample("HuberLoss", PAIRS, others=alike),
        Sample("BCELoss", PAIRS, others=one, first=torch.sigmoid, scales=False),
        Sample("BCEWithLogitsLoss", PAIRS, others=one),
        Sample("KLDivLoss", PAIRS, others=mixture, first=lambda x: x.log_softmax(1), scales=False),
        Sample("PoissonNLLLoss", PAIRS, others=positive, scales=False),
        Sample("GaussianNLLLoss", PAIRS, others=mean_and_variance),
        Sample("HingeEmbeddingLoss", PAIRS, others=signs),
        Sample("SoftMarginLoss", PAIRS, others=signs, scales=False),
        Sample("MultiLabelSoftMarginLoss", SCORES, others=several),
        Sample("MultiMarginLoss", SCORES, others=classes, half=False),
        Sample("CosineEmbeddingLoss", SCORES, others=two_and_signs),
        Sample("TripletMarginLoss", SCORES, others=two_more),
    ],
}
