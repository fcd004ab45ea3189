"""Residual networks for small images, built from a namespace of layers that the caller hands over.

    K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition",
    2015, arXiv:1512.03385.

The block, ``y = relu(F(x) + S(x))`` (see :mod:`scratch_layers.residual`), has two convolutions:

    F = bn(conv3x3(relu(bn(conv3x3(x)))))

and as its shortcut S the identity as long as the shape stays. Where a stage halves the image and
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

``MODELS`` holds these and those of :mod:`scratch_layers.preresnet` by name. The very same network
exists in PyTorch's layers and in the hand-written ones::

    import torch, scratch_layers
    theirs = resnet20(torch.nn)
    ours = resnet20(scratch_layers)
    ours.load_state_dict(theirs.state_dict())
    ours = resnet20(scratch_layers, fused=True)     # and so on: the keys are the same
    ours.load_state_dict(theirs.state_dict())

Normalization, activation and dropout are taken from the namespace; convolutions, the linear layer
and pooling are always torch's. None of the three consumes random numbers when it is built, so one
seed gives the same weights in both.
"""

from collections.abc import Callable, Sequence
from typing import Unpack

import torch.nn.functional as F
from torch import Tensor, nn

from scratch_layers import preresnet
from scratch_layers.namespace import Namespace
from scratch_layers.residual import (
    Options,
    Parts,
    ResidualBlock,
    ResidualOptions,
    Staged,
    conv1x1,
    conv3x3,
    he_init,
    largest,
)

__all__ = [
    "MODELS",
    "ResNet",
    "ResNet9",
    "resnet9",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
]


class PadShortcut(nn.Module):
    """Option A: (N, C, H, W) -> (N, C + extra, H/stride, W/stride), without parameters."""

    def __init__(self, extra_channels: int, stride: int) -> None:
        super().__init__()
        self.extra_channels, self.stride = extra_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """Keep every ``stride``-th pixel and append ``extra_channels`` channels of zeros."""
        x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.extra_channels))


class BasicBlock(ResidualBlock):
    """``relu(F(x) + S(x))`` with two 3x3 convolutions in F.

    The layers are children of the block, with the names that torchvision's BasicBlock gives them;
    so F and S are methods here.
    """

    def __init__(
        self,
        parts: Parts,
        in_channels: int,
        channels: int,
        stride: int,
        option: str,
        drop_path: nn.Module | None,
    ) -> None:
        nn.Module.__init__(self)
        self.conv1 = conv3x3(in_channels, channels, stride)
        self.bn1 = parts.norm_relu(channels)
        self.relu = parts.relu()
        self.conv2 = conv3x3(channels, channels)
        self.bn2 = parts.norm_relu(channels)
        self.downsample: nn.Module | None = None
        self.drop_path = nn.Identity() if drop_path is None else drop_path
        if stride == 1 and in_channels == channels:
            return
        if option == "A":
            self.downsample = PadShortcut(channels - in_channels, stride)
        else:
            self.downsample = nn.Sequential(
                conv1x1(in_channels, channels, stride), parts.layers.BatchNorm2d(channels)
            )

    def body(self, x: Tensor) -> Tensor:
        """F(x) up to its last normalization."""
        return self.conv2(self.relu(self.bn1(self.conv1(x))))

    def shortcut(self, x: Tensor) -> Tensor:
        """S(x)."""
        return x if self.downsample is None else self.downsample(x)

    def merge(self, residual: Tensor, shortcut: Tensor) -> Tensor:
        """relu(F(x) + S(x)), given F(x) up to its last normalization."""
        return self.relu(self.drop_path(self.bn2(residual)) + shortcut)


class FusedBasicBlock(BasicBlock):
    """The same where ``bn2(x, z)`` is ``relu(bn2(x) + z)``, in one pass."""

    def merge(self, residual: Tensor, shortcut: Tensor) -> Tensor:
        """relu(F(x) + S(x)), given F(x) up to its last normalization."""
        return self.bn2(residual, shortcut)


class ResNet(Staged):
    """3x3 stem, stages of basic blocks, mean over the image, dropout, linear classifier.

    Args:
        layers: namespace the layers are taken from.
        blocks: blocks in each stage; every stage but the first begins with stride 2.
        widths: channels of each stage.
        option: shortcut where the shape changes, ``"A"`` or ``"B"``.
        num_classes: length of the logits.
        in_channels: channels of the image.
        dropout: probability that a feature is zeroed before the classifier.
        drop_path: probability that the last block's branch is dropped in training.
        activation: name of a class in ``layers``, or a callable that returns a module.
        fused: normalization, shortcut and ReLU in one pass, by ``layers.BatchNormReLU2d``.

    Shape: (N, in_channels, H, W) -> (N, num_classes). H and W are best divisible by
    ``2 ** (len(blocks) - 1)``; 32x32 and 8x8 both work.

    Raises:
        ValueError: an option asks for a layer that the namespace does not have, or ``fused`` goes
            together with ``drop_path`` or with another activation than ReLU.
    """

    def __init__(
        self,
        layers: Namespace,
        blocks: Sequence[int],
        widths: Sequence[int],
        option: str,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        activation: str | Callable[[], nn.Module] = "ReLU",
        fused: bool = False,
    ) -> None:
        super().__init__()
        if fused and drop_path > 0:
            raise ValueError(
                f"drop_path={drop_path}: with fused=True the last normalization of a branch adds "
                "the shortcut itself, and nothing can be dropped between. Choose one of the two."
            )
        parts = Parts(layers, activation, fused)
        drop_paths = parts.drop_paths(drop_path, sum(blocks))
        basic = FusedBasicBlock if fused else BasicBlock

        def block(before: int, after: int, stride: int) -> BasicBlock:
            return basic(parts, before, after, stride, option, next(drop_paths))

        self.conv1 = conv3x3(in_channels, widths[0])
        self.bn1 = parts.norm_relu(widths[0])
        self.relu = parts.relu()
        self.add_stages(block, widths[0], blocks, widths)
        self.dropout = layers.Dropout(dropout)
        self.fc = nn.Linear(widths[-1], num_classes)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_channels, H, W)."""
        x = self.relu(self.bn1(self.conv1(x)))
        return self.classify(self.run_stages(x))


class ResNet9(nn.Module):
    """The nine-layer network of David Page, "How to Train Your ResNet" (2018, myrtle.ai).

    It reached 94 % on CIFAR-10 in 79 s on one V100, first in DAWNBench at its time::

        prep 64 -> layer1 128, pool, residual -> layer2 256, pool -> layer3 512, pool, residual
                -> max over the image -> linear / 8

    where every unit is ``relu(bn(conv3x3(x)))`` and a residual adds two such units to its input.
    The factor 1/8 on the logits is the source's: it keeps the softmax soft at the large learning
    rates the network is trained with. Shape: (N, in_channels, H, W) -> (N, num_classes), H and W
    at least 8; the last pooling is over whatever is left (4x4 for 32x32 images, as in the source).
    Arguments and errors as for :class:`ResNet`.
    """

    def __init__(
        self,
        layers: Namespace,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        dropout: float = 0.0,
        activation: str | Callable[[], nn.Module] = "ReLU",
        fused: bool = False,
    ) -> None:
        super().__init__()
        parts = Parts(layers, activation, fused)

        def unit(before: int, after: int, *pool: nn.Module) -> nn.Sequential:
            return nn.Sequential(
                conv3x3(before, after), parts.norm_relu(after), parts.relu(), *pool
            )

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
        x = largest(x)
        return self.fc(self.dropout(x)) / 8


def resnet20(layers: Namespace = nn, **options: Unpack[ResidualOptions]) -> ResNet:
    """CIFAR ResNet of 20 layers (He et al. 2015, section 4.2): (N, C, H, W) -> (N, classes)."""
    return ResNet(layers, (3, 3, 3), (16, 32, 64), "A", **options)


def resnet32(layers: Namespace = nn, **options: Unpack[ResidualOptions]) -> ResNet:
    """CIFAR ResNet of 32 layers (He et al. 2015, section 4.2): (N, C, H, W) -> (N, classes)."""
    return ResNet(layers, (5, 5, 5), (16, 32, 64), "A", **options)


def resnet44(layers: Namespace = nn, **options: Unpack[ResidualOptions]) -> ResNet:
    """CIFAR ResNet of 44 layers (He et al. 2015, section 4.2): (N, C, H, W) -> (N, classes)."""
    return ResNet(layers, (7, 7, 7), (16, 32, 64), "A", **options)


def resnet56(layers: Namespace = nn, **options: Unpack[ResidualOptions]) -> ResNet:
    """CIFAR ResNet of 56 layers (He et al. 2015, section 4.2): (N, C, H, W) -> (N, classes)."""
    return ResNet(layers, (9, 9, 9), (16, 32, 64), "A", **options)


def resnet110(layers: Namespace = nn, **options: Unpack[ResidualOptions]) -> ResNet:
    """CIFAR ResNet of 110 layers (He et al. 2015, section 4.2): (N, C, H, W) -> (N, classes)."""
    return ResNet(layers, (18, 18, 18), (16, 32, 64), "A", **options)


def resnet18(layers: Namespace = nn, **options: Unpack[ResidualOptions]) -> ResNet:
    """ResNet-18 with a stem for small images: 3x3, stride 1, no max-pooling.

    The keys of its state_dict are those of ``torchvision.models.resnet18``; every shape agrees
    but ``conv1.weight`` (7x7 there) and, for another number of classes, ``fc``.
    """
    return ResNet(layers, (2, 2, 2, 2), (64, 128, 256, 512), "B", **options)


def resnet9(layers: Namespace = nn, **options: Unpack[Options]) -> ResNet9:
    """The DAWNBench network of David Page, see :class:`ResNet9`."""
    return ResNet9(layers, **options)


MODELS: dict[str, Callable[..., nn.Module]] = {
    build.__name__: build
    for build in (
        resnet9,
        resnet18,
        resnet20,
        resnet32,
        resnet44,
        resnet56,
        resnet110,
        preresnet.preact_resnet18,
        preresnet.preact_resnet20,
        preresnet.preact_resnet32,
        preresnet.preact_resnet44,
        preresnet.preact_resnet56,
        preresnet.preact_resnet110,
        preresnet.preact_resnet164,
        preresnet.preact_resnet1001,
        preresnet.wrn16_4,
        preresnet.wrn16_8,
        preresnet.wrn28_10,
        preresnet.wrn40_4,
    )
}
