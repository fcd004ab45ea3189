"""Residual networks that normalize and rectify before they convolve, deep ones and wide ones.

    K. He, X. Zhang, S. Ren, J. Sun, "Identity Mappings in Deep Residual Networks",
    2016, arXiv:1603.05027.
    S. Zagoruyko, N. Komodakis, "Wide Residual Networks", 2016, arXiv:1605.07146.

In the block of 2015, y = relu(F(x) + S(x)), the ReLU stands in the way from one block to the next.
With the activation moved into F, before its convolutions,

    x_(l+1) = x_l + F(x_l),     F = conv3x3(relu(bn(conv3x3(relu(bn(x))))))

so that, unrolled from block l to any later block L (equations 4 and 5),

    x_L = x_l + Σ_(i=l)^(L-1) F(x_i)
    ∂x_l = ∂x_L (1 + d/dx_l Σ F(x_i)) :

a part of the gradient goes from every block of a stage to every other without passing a single
weight. Where the shape changes, and in the first block, both ways take the activated input (section
4, and the code of the authors); a last normalization and ReLU follow the last block:

    h = relu(bn(x)),    y = F(h) + S(h),    S = conv1x1 (or the identity, in the first block)

A wide network has k times the channels, and dropout between the two convolutions of a block
(Zagoruyko and Komodakis, sections 2.3 and 2.4). WRN-d-k has d = 6n + 4 layers, n blocks a stage.

================= ========================= ====================== =========
builder           stages (blocks x width)   parameters, 10 classes published
================= ========================= ====================== =========
preact_resnet18   2x64, 2x128, 2x256, 2x512 11,172,170
preact_resnet20   3x16, 3x32, 3x64          272,282
preact_resnet32   5x16, 5x32, 5x64          466,714
preact_resnet44   7x16, 7x32, 7x64          661,146
preact_resnet56   9x16, 9x32, 9x64          855,578
preact_resnet110  18x16, 18x32, 18x64       1,730,522              1.7M
preact_resnet164  18x64, 18x128, 18x256     1,703,258              1.7M
preact_resnet1001 111x64, 111x128, 111x256  10,327,706             10.2M
wrn16_4           2x64, 2x128, 2x256        2,748,890
wrn16_8           2x128, 2x256, 2x512       10,961,370             11.0M
wrn28_10          4x160, 4x320, 4x640       36,479,194             36.5M
wrn40_4           6x64, 6x128, 6x256        8,949,210              8.9M
================= ========================= ====================== =========

The last column is of Zagoruyko and Komodakis, table 5. preact_resnet164 and preact_resnet1001 are
made of bottlenecks (1x1, 3x3, 1x1), whose width is that of their output.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Unpack

from torch import Tensor, nn

from scratch_layers.namespace import Namespace
from scratch_layers.residual import (
    Parts,
    ResidualBlock,
    ResidualOptions,
    Staged,
    conv1x1,
    conv3x3,
    he_init,
)

__all__ = [
    "PreactResNet",
    "preact_resnet18",
    "preact_resnet20",
    "preact_resnet32",
    "preact_resnet44",
    "preact_resnet56",
    "preact_resnet110",
    "preact_resnet164",
    "preact_resnet1001",
    "wide_resnet",
    "wrn16_4",
    "wrn16_8",
    "wrn28_10",
    "wrn40_4",
]


class PreactBlock(ResidualBlock):
    """``h = relu(bn(x))``, then ``F(h) + x``, or ``F(h) + S(h)`` where there is a shortcut S.

    Args:
        parts: where normalization and activation come from.
        in_channels: channels of x.
        body: F without its first normalization and activation.
        shortcut: S; None for x itself.
        drop_path: as in :class:`ResidualBlock`.
    """

    def __init__(
        self,
        parts: Parts,
        in_channels: int,
        body: nn.Module,
        shortcut: nn.Module | None = None,
        drop_path: nn.Module | None = None,
    ) -> None:
        super().__init__(body, shortcut, None, drop_path)
        self.bn = parts.norm_relu(in_channels)
        self.relu = parts.relu()
        self.shares_activation = shortcut is not None

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, channels, H / stride, W / stride)."""
        h = self.relu(self.bn(x))
        shortcut = self.shortcut(h) if self.shares_activation else x
        return self.merge(self.body(h), shortcut)


def basic(
    parts: Parts, in_channels: int, channels: int, stride: int, dropout: float
) -> nn.Sequential:
    """Two 3x3 convolutions, from the activated h on."""
    return nn.Sequential(
        OrderedDict(
            conv1=conv3x3(in_channels, channels, stride),
            bn=parts.norm_relu(channels),
            relu=parts.relu(),
            dropout=parts.layers.Dropout(dropout),
            conv2=conv3x3(channels, channels),
        )
    )


def bottleneck(
    parts: Parts, in_channels: int, channels: int, stride: int, dropout: float
) -> nn.Sequential:
    """1x1 to a quarter of the channels, 3x3, 1x1 back, from the activated h on."""
    inner = channels // 4
    return nn.Sequential(
        OrderedDict(
            conv1=conv1x1(in_channels, inner),
            bn1=parts.norm_relu(inner),
            relu1=parts.relu(),
            conv2=conv3x3(inner, inner, stride),
            bn2=parts.norm_relu(inner),
            relu2=parts.relu(),
            dropout=parts.layers.Dropout(dropout),
            conv3=conv1x1(inner, channels),
        )
    )


class PreactResNet(Staged):
    """3x3 stem, stages of pre-activation blocks, bn and relu, mean, dropout, linear classifier.

    Args:
        layers: namespace the layers are taken from.
        blocks: blocks in each stage; every stage but the first begins with stride 2.
        widths: channels that the blocks of each stage give.
        stem: channels of the first convolution; None for those of the first stage.
        body: what a block computes, :func:`basic` or :func:`bottleneck`.
        block_dropout: probability that a value is zeroed before the last convolution of a block.
        num_classes: length of the logits.
        in_channels: channels of the image.
        dropout: probability that a feature is zeroed before the classifier.
        drop_path: probability that the last block's branch is dropped in training.
        activation: name of a class in ``layers``, or a callable that returns a module.
        fused: normalization and ReLU in one pass, by ``layers.BatchNormReLU2d``.

    Shape: (N, in_channels, H, W) -> (N, num_classes), as :class:`scratch_layers.resnet.ResNet`.

    Raises:
        ValueError: an option asks for a layer that the namespace does not have.
    """

    def __init__(
        self,
        layers: Namespace,
        blocks: Sequence[int],
        widths: Sequence[int],
        stem: int | None = None,
        body: Callable[[Parts, int, int, int, float], nn.Module] = basic,
        *,
        block_dropout: float = 0.0,
        num_classes: int = 10,
        in_channels: int = 3,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        activation: str | Callable[[], nn.Module] = "ReLU",
        fused: bool = False,
    ) -> None:
        super().__init__()
        parts = Parts(layers, activation, fused)
        drop_paths = parts.drop_paths(drop_path, sum(blocks))
        stem = widths[0] if stem is None else stem

        # the first block shares its activation even where its shape stays
        shortcuts: Iterator[nn.Module] = iter([nn.Identity()])

        def block(before: int, after: int, stride: int) -> PreactBlock:
            shortcut = next(shortcuts, None)
            if stride != 1 or before != after:
                shortcut = conv1x1(before, after, stride)
            F = body(parts, before, after, stride, block_dropout)
            return PreactBlock(parts, before, F, shortcut, next(drop_paths))

        self.conv1 = conv3x3(in_channels, stem)
        self.add_stages(block, stem, blocks, widths)
        self.bn = parts.norm_relu(widths[-1])
        self.relu = parts.relu()
        self.dropout = layers.Dropout(dropout)
        self.fc = nn.Linear(widths[-1], num_classes)
        he_init(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_channels, H, W)."""
        x = self.run_stages(self.conv1(x))
        return self.classify(self.relu(self.bn(x)))


def preact_resnet18(layers: Namespace = nn, **options: Unpack[ResidualOptions]) -> PreactResNet:
    """Pre-activation ResNet-18 with a stem for small images, as widely used on CIFAR."""
    return PreactResNet(layers, (2, 2, 2, 2), (64, 128, 256, 512), **options)


def preact_resnet20(layers: Namespace = nn, **options: Unpack[ResidualOptions]) -> PreactResNet:
    """Pre-activation CIFAR ResNet of 20 layers: (N, C, H, W) -> (N, classes)."""
    return PreactResNet(layers, (3, 3, 3), (16, 32, 64), **options)


def preact_resnet32(layers: Namespace = nn, **options: Unpack[ResidualOptions]) -> PreactResNet:
    """Pre-activation CIFAR ResNet of 32 layers: (N, C, H, W) -> (N, classes)."""
    return PreactResNet(layers, (5, 5, 5), (16, 32, 64), **options)


def preact_resnet44(layers: Namespace = nn, **options: Unpack[ResidualOptions]) -> PreactResNet:
    """Pre-activation CIFAR ResNet of 44 layers: (N, C, H, W) -> (N, classes)."""
    return PreactResNet(layers, (7, 7, 7), (16, 32, 64), **options)


def preact_resnet56(layers: Namespace = nn, **options: Unpack[ResidualOptions]) -> PreactResNet:
    """Pre-activation CIFAR ResNet of 56 layers: (N, C, H, W) -> (N, classes)."""
    return PreactResNet(layers, (9, 9, 9), (16, 32, 64), **options)


def preact_resnet110(layers: Namespace = nn, **options: Unpack[ResidualOptions]) -> PreactResNet:
    """Pre-activation CIFAR ResNet of 110 layers: (N, C, H, W) -> (N, classes)."""
    return PreactResNet(layers, (18, 18, 18), (16, 32, 64), **options)


def preact_resnet164(layers: Namespace = nn, **options: Unpack[ResidualOptions]) -> PreactResNet:
    """Pre-activation CIFAR ResNet of 164 layers in bottlenecks: (N, C, H, W) -> (N, classes)."""
    return PreactResNet(layers, (18, 18, 18), (64, 128, 256), 16, bottleneck, **options)


def preact_resnet1001(layers: Namespace = nn, **options: Unpack[ResidualOptions]) -> PreactResNet:
    """Pre-activation CIFAR ResNet of 1001 layers in bottlenecks: (N, C, H, W) -> (N, classes)."""
    return PreactResNet(layers, (111, 111, 111), (64, 128, 256), 16, bottleneck, **options)


def wide_resnet(
    depth: int, k: int, layers: Namespace = nn, **options: Unpack[ResidualOptions]
) -> PreactResNet:
    """WRN-depth-k: (N, C, H, W) -> (N, classes); ``dropout`` is between the convolutions.

    Raises:
        ValueError: the depth is not 6n + 4, or k is not positive.
    """
    n, rest = divmod(depth - 4, 6)
    if rest != 0 or n < 1:
        raise ValueError(f"depth={depth}: a wide ResNet has 6n + 4 layers, such as 16, 28 or 40.")
    if k < 1:
        raise ValueError(f"k={k}: the widening factor is 1 or more.")
    between = options.pop("dropout", 0.0)
    widths = (16 * k, 32 * k, 64 * k)
    return PreactResNet(layers, (n, n, n), widths, 16, block_dropout=between, **options)


def wrn16_4(layers: Namespace = nn, **options: Unpack[ResidualOptions]) -> PreactResNet:
    """WRN-16-4, see :func:`wide_resnet`."""
    return wide_resnet(16, 4, layers, **options)


def wrn16_8(layers: Namespace = nn, **options: Unpack[ResidualOptions]) -> PreactResNet:
    """WRN-16-8, see :func:`wide_resnet`."""
    return wide_resnet(16, 8, layers, **options)


def wrn28_10(layers: Namespace = nn, **options: Unpack[ResidualOptions]) -> PreactResNet:
    """WRN-28-10, see :func:`wide_resnet`."""
    return wide_resnet(28, 10, layers, **options)


def wrn40_4(layers: Namespace = nn, **options: Unpack[ResidualOptions]) -> PreactResNet:
    """WRN-40-4, see :func:`wide_resnet`."""
    return wide_resnet(40, 4, layers, **options)
