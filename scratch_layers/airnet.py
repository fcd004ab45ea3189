"""The network that holds the speed records on CIFAR-10, from a namespace of layers.

    K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024, arXiv:2404.00498.

It is a plain convolutional network in which three things are arranged so that it learns soon:

1. **Whitening.** The first layer, 2x2 over the image and frozen, makes the 3·2·2 = 12 values of a
   patch x uncorrelated and equally large. With the covariance C = E[x x^T] = V Λ V^T of patches of
   training images, its filters are

       w_i = v_i / √(λ_i + ε)          E[(w_i · x) (w_j · x)] = [i = j] λ_i / (λ_i + ε)       (1)

   and their negatives, since GELU lets little of what is negative through (section 3.2).

2. **Identity.** Of every 3x3 convolution the first min(in, out) filters begin as the identity, so
   that the network begins by passing on what it sees (section 3.3).

3. **Frozen gains.** The normalizations have biases, but no gains to learn.

A group is a convolution, a pooling, and more convolutions, each with normalization and GELU:

    x = GELU(bn(pool(conv(x)))),   y = GELU(bn(conv(x)))      [, y = GELU(bn(conv(y)) + x)]   (2)

The part in brackets is there if the depth is 3. The network is whiten -> GELU -> three groups ->
maximum over the image -> linear, times a constant.

======== =============== ===== ========== ====================
builder  widths          depth parameters accuracy of its paper
======== =============== ===== ========== ====================
air94    64, 256, 256    2     1,972,792  94.0 %
air95    128, 384, 384   2     4,606,520  95.0 %
air96    128, 384, 512   3     9,918,776  96.0 %
air_tiny 32, 128, 128    2     498,104    (narrow, for a CPU)
======== =============== ===== ========== ====================

``MODELS`` holds these by name.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scratch_layers.init import dirac_
from scratch_layers.namespace import Namespace
from scratch_layers.namespace import activation as make_activation
from scratch_layers.residual import Options, conv3x3, largest

__all__ = ["MODELS", "AirNet", "air94", "air95", "air96", "air_tiny", "whitening_filters"]

EPSILON = 5e-4
"""ε of equation 1, for images of deviation 1."""


def whitening_filters(images: Tensor, size: int = 2, epsilon: float = EPSILON) -> Tensor:
    """The filters of equation 1, those of the largest λ first.

    Args:
        images: (N, C, H, W), floating point, as the network gets them.
        size: height and width of a patch.
        epsilon: added to each λ; keeps what is hardly there from being blown up.

    Returns:
        float32 (C·size², C, size, size).

    Raises:
        ValueError: ``images`` are smaller than a patch, or none.
    """
    n, channels, height, width = images.shape
    if n == 0 or height < size or width < size:
        raise ValueError(
            f"images of shape {tuple(images.shape)} hold no patch of {size}x{size}: give at least "
            "one image of that size"
        )
    x = F.unfold(images.double(), size).transpose(1, 2).reshape(-1, channels * size**2)
    covariance = x.T @ x / len(x)
    eigenvalues, V = torch.linalg.eigh(covariance)
    w = (V / (eigenvalues + epsilon).sqrt()).T.flip(0)
    return w.reshape(-1, channels, size, size).float()


def pool(x: Tensor) -> Tensor:
    """The largest of every 2x2 values, (N, C, H, W) -> (N, C, H // 2, W // 2); an odd edge is left.

    The values are those of ``MaxPool2d(2)``. Where several are largest they share the gradient,
    which there is the first one's. Of four views Inductor makes vector code for a CPU, of
    ``max_pool2d``'s derivative it does not: with that, forward and backward of ``air_tiny`` (500
    images of 32x32, bfloat16, channels_last, 2 threads of an AMX Xeon, torch 2.15) took 223 ms,
    with this 193 ms. On a GPU the derivative is one kernel.
    """
    if x.is_cuda:
        return F.max_pool2d(x, 2)
    height, width = (n // 2 * 2 for n in x.shape[2:])
    a, b, c, d = (x[:, :, i:height:2, j:width:2] for i in (0, 1) for j in (0, 1))
    return torch.maximum(torch.maximum(a, b), torch.maximum(c, d))


class Pool(nn.Module):
    """:func:`pool` as a layer, which those who look into the network find."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H // 2, W // 2)."""
        return pool(x)


class AirNet(nn.Module):
    """The network above.

    Shape: (N, in_channels, H, W) -> (N, num_classes), H and W at least 9.

    Args:
        layers: namespace to take normalizations, activations and dropout from.
        widths: channels of the three groups.
        depth: convolutions of a group, 2 or 3.
        scale: what the logits are multiplied by, which keeps the softmax soft at first.
        momentum: weight of a batch in the running statistics.
        num_classes: length of the logits.
        in_channels: channels of the image.
        dropout: probability that a feature is zeroed before the linear layer.
        activation: name of a class in ``layers``, or a callable that returns a module.
        fused: is refused: it joins normalizations with ReLU, which is not here.

    Raises:
        ValueError: an option that cannot be.
    """

    def __init__(
        self,
        layers: Namespace = nn,
        widths: Sequence[int] = (64, 256, 256),
        depth: int = 2,
        scale: float = 1 / 9,
        momentum: float = 0.4,
        *,
        num_classes: int = 10,
        in_channels: int = 3,
        dropout: float = 0.0,
        activation: str | Callable[[], nn.Module] = "GELU",
        fused: bool = False,
    ) -> None:
        if fused:
            raise ValueError("fused joins a normalization with ReLU, which AirNet has not")
        if depth not in (2, 3):
            raise ValueError(f"depth must be 2 or 3, but is {depth}")
        super().__init__()
        self.scale = scale
        act = partial(make_activation, layers, activation)
        norm = partial(layers.BatchNorm2d, eps=1e-12, momentum=momentum)
        filters = 2 * in_channels * 2**2
        self.whiten = nn.Conv2d(in_channels, filters, 2)
        self.whiten.weight.requires_grad_(False)
        self.gelu = act()
        pairs = zip((filters, *widths), widths, strict=False)
        self.groups = nn.Sequential(*[Group(norm, act, a, b, depth) for a, b in pairs])
        self.dropout = layers.Dropout(dropout)
        self.fc = nn.Linear(widths[-1], num_classes, bias=False)
        with torch.no_grad():
            self.fc.weight.div_(self.fc.weight.std())

    @torch.no_grad()
    def fit_whitening(self, images: Tensor) -> None:
        """Set the filters of the first layer.

        Args:
            images: (N, C, H, W), some thousand training images, as the network gets them.
        """
        w = whitening_filters(images)
        self.whiten.weight.copy_(torch.cat([w, -w]))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_channels, H, W)."""
        x = self.groups(self.gelu(self.whiten(x)))
        x = largest(x)
        return self.fc(self.dropout(x)) * self.scale


class Group(nn.Module):
    """Equation 2: (N, before, H, W) -> (N, after, H // 2, W // 2)."""

    def __init__(
        self,
        norm: Callable[[int], nn.Module],
        act: Callable[[], nn.Module],
        before: int,
        after: int,
        depth: int,
    ) -> None:
        super().__init__()
        self.pool = Pool()
        self.conv = nn.ModuleList(conv3x3(before if i == 0 else after, after) for i in range(depth))
        self.bn = nn.ModuleList(norm(after) for _ in range(depth))
        self.gelu = act()
        for conv, bn in zip(self.conv, self.bn, strict=True):
            w = conv.get_parameter("weight")
            dirac_(w[: min(w.shape[:2])])
            bn.get_parameter("weight").requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """The next maps."""
        x = self.gelu(self.bn[0](self.pool(self.conv[0](x))))
        y: Tensor = self.gelu(self.bn[1](self.conv[1](x)))
        if len(self.conv) == 3:
            y = self.gelu(self.bn[2](self.conv[2](y)) + x)
        return y


def air94(layers: Namespace = nn, **options: Unpack[Options]) -> AirNet:
    """The network of the 94 % record: (N, C, H, W) -> (N, classes)."""
    return AirNet(layers, (64, 256, 256), **options)


def air95(layers: Namespace = nn, **options: Unpack[Options]) -> AirNet:
    """The network of the 95 % record: (N, C, H, W) -> (N, classes)."""
    return AirNet(layers, (128, 384, 384), **options)


def air96(layers: Namespace = nn, **options: Unpack[Options]) -> AirNet:
    """The network of the 96 % record, of depth 3: (N, C, H, W) -> (N, classes)."""
    return AirNet(layers, (128, 384, 512), depth=3, momentum=0.1, **options)


def air_tiny(layers: Namespace = nn, **options: Unpack[Options]) -> AirNet:
    """Half as wide as that of the 94 % record, for processors: (N, C, H, W) -> (N, classes)."""
    return AirNet(layers, (32, 128, 128), **options)


MODELS: dict[str, Callable[..., nn.Module]] = {
    build.__name__: build for build in (air94, air95, air96, air_tiny)
}
