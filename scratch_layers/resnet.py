"""Residual networks for small images, built from a namespace of layers that the caller hands over.

    K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition",
    2015, arXiv:1512.03385.

A plain layer learns ``y = F(x)``. A residual block learns what to *add* to its input:

    y = relu(F(x) + S(x)),      F = bn(conv3x3(relu(bn(conv3x3(x)))))

where the shortcut S is the identity as long as the shape stays. Where a stage halves the image and
widens the channels, S is one of

    option A   every second pixel, zeros for the new channels: no parameters   (resnet20 ... 110)
    option B   a 1x1 convolution of stride 2 followed by batch normalization   (resnet18)

========== ============================= ===================== ====================
builder    stages (blocks x width)       parameters, 10 classes He et al., section
========== ============================= ===================== ====================
resnet20   3x16, 3x32, 3x64              269,722               4.2 (n = 3)
resnet32   5x16, 5x32, 5x64              464,154               4.2 (n = 5)
resnet44   7x16, 7x32, 7x64              658,586               4.2 (n = 7)
resnet56   9x16, 9x32, 9x64              853,018               4.2 (n = 9)
resnet110  18x16, 18x32, 18x64           1,727,962             4.2 (n = 18)
resnet18   2x64, 2x128, 2x256, 2x512     11,173,962            table 1, CIFAR stem
resnet9    see :class:`ResNet9`          6,573,120             D. Page, 2018
========== ============================= ===================== ====================

The very same network exists in PyTorch's layers and in the hand-written ones::

    import torch, scratch_layers
    theirs = resnet20(torch.nn)
    ours = resnet20(scratch_layers)
    ours.load_state_dict(theirs.state_dict())

Only ``BatchNorm2d`` and ``Dropout`` are taken from the namespace; convolutions, the linear layer,
ReLU and pooling are always torch's. Neither of the two consumes random numbers when it is built, so
one seed gives the same weights in both.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor, nn


class Namespace(Protocol):
    """What a builder needs from ``layers``: ``torch.nn`` has it, ``scratch_layers`` has it."""

    @property
    def BatchNorm2d(self) -> Callable[..., nn.Module]:  # noqa: N802
        """Batch normalization over (N, C, H, W), called with the number of channels."""

    @property
    def Dropout(self) -> Callable[..., nn.Module]:  # noqa: N802
        """Dropout, called with its probability."""


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias: the normalization after it subtracts any bias again."""
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


class PadShortcut(nn.Module):
    """Option A: (N, C, H, W) -> (N, C + extra, H/stride, W/stride), without parameters."""

    def __init__(self, extra_channels: int, stride: int) -> None:
        super().__init__()
        self.extra_channels, self.stride = extra_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """Keep every ``stride``-th pixel and append ``extra_channels`` channels of zeros."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.extra_channels))


class BasicBlock(nn.Module):
    """``relu(F(x) + S(x))`` with two 3x3 convolutions in F; names as torchvision's BasicBlock."""

    def __init__(
        self, layers: Namespace, in_channels: int, channels: int, stride: int, option: str
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn1 = layers.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = layers.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride == 1 and in_channels == channels:
            return
        if option == "A":
            self.downsample = PadShortcut(channels - in_channels, stride)
        else:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False),
                layers.BatchNorm2d(channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, channels, H/stride, W/stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        return self.relu(x + shortcut)


class ResNet(nn.Module):
    """3x3 stem, stages of basic blocks, mean over the image, dropout, linear classifier.

    Args:
        layers: namespace of ``BatchNorm2d`` and ``Dropout``.
        blocks: blocks in each stage; every stage but the first begins with stride 2.
        widths: channels of each stage.
        option: shortcut where the shape changes, ``"A"`` or ``"B"``.
        num_classes: length of the logits.
        in_channels: channels of the image.
        dropout: probability that a feature is zeroed before the classifier.

    Shape: (N, in_channels, H, W) -> (N, num_classes). H and W are best divisible by
    ``2 ** (len(blocks) - 1)``; 32x32 and 8x8 both work.
    """

    def __init__(
        self,
        layers: Namespace,
        blocks: Sequence[int],
        widths: Sequence[int],
        option: str,
        *,
        num_classes: int,
        in_channels: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.conv1 = conv3x3(in_channels, widths[0])
        self.bn1 = layers.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        before = widths[0]
        self.stages: list[str] = []
        for stage, (depth, width) in enumerate(zip(blocks, widths, strict=True), start=1):
            first = BasicBlock(layers, before, width, 1 if stage == 1 else 2, option)
            rest = [BasicBlock(layers, width, width, 1, option) for _ in range(depth - 1)]
            # torchvision's names: layer1, layer2, ...
            self.add_module(f"layer{stage}", nn.Sequential(first, *rest))
            self.stages.append(f"layer{stage}")
            before = width
        self.dropout = layers.Dropout(dropout)
        self.fc = nn.Linear(before, num_classes)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_channels, H, W)."""
        x = self.relu(self.bn1(self.conv1(x)))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        x = x.mean(dim=(2, 3))
        return self.fc(self.dropout(x))


class ResNet9(nn.Module):
    """The nine-layer network of David Page, "How to Train Your ResNet" (2018, myrtle.ai).

    It reached 94 % on CIFAR-10 in 79 s on one V100, first in DAWNBench at its time::

        prep 64 -> layer1 128, pool, residual -> layer2 256, pool -> layer3 512, pool, residual
                -> max over the image -> linear / 8

    where every unit is ``relu(bn(conv3x3(x)))`` and a residual adds two such units to its input.
    The factor 1/8 on the logits is the source's: it keeps the softmax soft at the large learning
    rates the network is trained with. Shape: (N, in_channels, H, W) -> (N, num_classes), H and W
    at least 8; the last pooling is over whatever is left (4x4 for 32x32 images, as in the source).
    """

    def __init__(
        self, layers: Namespace, *, num_classes: int, in_channels: int, dropout: float
    ) -> None:
        super().__init__()

        def unit(before: int, after: int, *pool: nn.Module) -> nn.Sequential:
            bn = layers.BatchNorm2d(after)
            return nn.Sequential(conv3x3(before, after), bn, nn.ReLU(inplace=True), *pool)

        self.prep = unit(in_channels, 64)
        self.layer1 = unit(64, 128, nn.MaxPool2d(2))
        self.residual1 = nn.Sequential(unit(128, 128), unit(128, 128))
        self.layer2 = unit(128, 256, nn.MaxPool2d(2))
        self.layer3 = unit(256, 512, nn.MaxPool2d(2))
        self.residual3 = nn.Sequential(unit(512, 512), unit(512, 512))
        self.dropout = layers.Dropout(dropout)
        self.fc = nn.Linear(512, num_classes, bias=False)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_channels, H, W)."""
        x = self.layer1(self.prep(x))
        x = x + self.residual1(x)
        x = self.layer3(self.layer2(x))
        x = x + self.residual3(x)
        x = x.amax(dim=(2, 3))
        return self.fc(self.dropout(x)) / 8


def he_init(model: nn.Module) -> None:
    """Draw each convolution from N(0, 2 / fan_out), fan_out = out_channels * kernel area.

    K. He, X. Zhang, S. Ren, J. Sun, "Delving Deep into Rectifiers", 2015, arXiv:1502.01852: with
    this variance the gradient keeps its size through a stack of convolution and ReLU (equation 14).
    The linear layer keeps torch's default.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _cifar(n: int, layers: Namespace, num_classes: int, in_channels: int, dropout: float) -> ResNet:
    """He et al. section 4.2: 6n + 2 layers in three stages of n blocks."""
    return ResNet(
        layers,
        (n, n, n),
        (16, 32, 64),
        "A",
        num_classes=num_classes,
        in_channels=in_channels,
        dropout=dropout,
    )


def resnet20(
    layers: Namespace = nn, *, num_classes: int = 10, in_channels: int = 3, dropout: float = 0.0
) -> ResNet:
    """CIFAR ResNet of 20 layers (He et al. 2015, section 4.2): (N, C, H, W) -> (N, classes)."""
    return _cifar(3, layers, num_classes, in_channels, dropout)


def resnet32(
    layers: Namespace = nn, *, num_classes: int = 10, in_channels: int = 3, dropout: float = 0.0
) -> ResNet:
    """CIFAR ResNet of 32 layers (He et al. 2015, section 4.2): (N, C, H, W) -> (N, classes)."""
    return _cifar(5, layers, num_classes, in_channels, dropout)


def resnet44(
    layers: Namespace = nn, *, num_classes: int = 10, in_channels: int = 3, dropout: float = 0.0
) -> ResNet:
    """CIFAR ResNet of 44 layers (He et al. 2015, section 4.2): (N, C, H, W) -> (N, classes)."""
    return _cifar(7, layers, num_classes, in_channels, dropout)


def resnet56(
    layers: Namespace = nn, *, num_classes: int = 10, in_channels: int = 3, dropout: float = 0.0
) -> ResNet:
    """CIFAR ResNet of 56 layers (He et al. 2015, section 4.2): (N, C, H, W) -> (N, classes)."""
    return _cifar(9, layers, num_classes, in_channels, dropout)


def resnet110(
    layers: Namespace = nn, *, num_classes: int = 10, in_channels: int = 3, dropout: float = 0.0
) -> ResNet:
    """CIFAR ResNet of 110 layers (He et al. 2015, section 4.2): (N, C, H, W) -> (N, classes)."""
    return _cifar(18, layers, num_classes, in_channels, dropout)


def resnet18(
    layers: Namespace = nn, *, num_classes: int = 10, in_channels: int = 3, dropout: float = 0.0
) -> ResNet:
    """ResNet-18 with a stem for small images: 3x3, stride 1, no max-pooling.

    The keys of its state_dict are those of ``torchvision.models.resnet18``; every shape agrees
    but ``conv1.weight`` (7x7 there) and, for another number of classes, ``fc``.
    """
    return ResNet(
        layers,
        (2, 2, 2, 2),
        (64, 128, 256, 512),
        "B",
        num_classes=num_classes,
        in_channels=in_channels,
        dropout=dropout,
    )


def resnet9(
    layers: Namespace = nn, *, num_classes: int = 10, in_channels: int = 3, dropout: float = 0.0
) -> ResNet9:
    """The DAWNBench network of David Page, see :class:`ResNet9`."""
    return ResNet9(layers, num_classes=num_classes, in_channels=in_channels, dropout=dropout)


MODELS: dict[str, Callable[..., nn.Module]] = {
    "resnet9": resnet9,
    "resnet18": resnet18,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet44": resnet44,
    "resnet56": resnet56,
    "resnet110": resnet110,
}
