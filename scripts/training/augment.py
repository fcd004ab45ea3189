"""Augmentation of whole batches, on the device that holds them, without waiting for it.

torchvision's transforms draw one set of numbers for a batch; here every image draws its own, from
a generator that is handed in, and nothing is copied to the host: each function is a few tensor
operations whose shapes do not depend on the random numbers. Every function takes (N, C, H, W) of
any dtype and gives a tensor of the same shape and dtype.

* Flip and padded crop: K. He et al., "Deep Residual Learning for Image Recognition", 2015,
  arXiv:1512.03385, section 4.2. The padding here mirrors the image instead of adding black.
* Cutout: T. DeVries, G. W. Taylor, "Improved Regularization of Convolutional Neural Networks with
  Cutout", 2017, arXiv:1708.04552.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Generator, Tensor

CHOICES = ("flip", "altflip", "crop", "cutout")


def flip(images: Tensor, generator: Generator) -> Tensor:
    """Mirror each image left to right with probability 1/2."""
    heads = torch.rand(len(images), generator=generator, device=images.device) < 0.5
    return mirror(images, heads)


def mirror(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror some images left to right.

    With alternating flips each image is, in every second epoch, so that in any two epochs both of
    its sides are seen: K. Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024,
    arXiv:2404.00498, section 3.6.

    Args:
        images: the batch.
        mirrored: which of them, (N,) bool.
    """
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)


def crop(images: Tensor, padding: int, generator: Generator) -> Tensor:
    """Pad by mirroring (the edge itself is not repeated), then cut H x W out anywhere, per image.

    Args:
        padding: pixels on each side, less than H and W.
    """
    n, channels, height, width = images.shape
    moved = torch.randint(
        -padding, padding + 1, (2, n, 1), generator=generator, device=images.device
    )
    # Where each pixel comes from. Mirroring the index spares the padded copy.
    rows = _mirrored(moved[0] + torch.arange(height, device=images.device), height)
    columns = _mirrored(moved[1] + torch.arange(width, device=images.device), width)
    source = (rows[:, :, None] * width + columns[:, None, :]).view(n, 1, height * width)
    return images.flatten(2).gather(2, source.expand(-1, channels, -1)).view(images.shape)


def _mirrored(index: Tensor, size: int) -> Tensor:
    """..., -2, -1, 0, ..., size-1, size, ... -> ..., 2, 1, 0, ..., size-1, size-2, ..."""
    return (size - 1) - ((size - 1) - index.abs()).abs()


def cutout(images: Tensor, size: int, fill: Tensor, generator: Generator) -> Tensor:
    """Paint a square over each image, centred on any of its pixels, cut off at the edges.

    Args:
        size: side of the square in pixels.
        fill: the colour, (C,) or broadcastable to (C, 1, 1), in the units of ``images``.
    """
    n, _, height, width = images.shape
    draw = torch.rand(2, n, 1, generator=generator, device=images.device)
    top = (draw[0] * height).long() - size // 2
    left = (draw[1] * width).long() - size // 2
    y = torch.arange(height, device=images.device)
    x = torch.arange(width, device=images.device)
    inside_y, inside_x = (top <= y) & (y < top + size), (left <= x) & (x < left + size)
    square = (inside_y[:, :, None] & inside_x[:, None, :])[:, None]
    return torch.where(square, fill.view(-1, 1, 1).to(images.dtype), images)


def augment(
    images: Tensor,
    choices: Collection[str],
    fill: Tensor,
    generator: Generator,
    mirrored: Tensor | None = None,
    padding: int = 0,
) -> Tensor:
    """Apply the ``choices`` out of ``CHOICES``, in that order.

    The padding of the crop is 1/8 of the image's width and the cutout 1/2: 4 and 16 pixels of 32,
    as in the papers, and 1 and 4 of 8.

    Args:
        images: the batch.
        choices: what to apply.
        fill: see :func:`cutout`.
        generator: of all random numbers.
        mirrored: the images that altflip mirrors, which needs it; see :func:`mirror`.
        padding: of the crop, in pixels, instead.
    """
    width = images.shape[3]
    if "flip" in choices:
        images = flip(images, generator)
    if "altflip" in choices:
        if mirrored is None:
            raise ValueError("altflip needs to know which images are due to be mirrored")
        images = mirror(images, mirrored)
    if "crop" in choices:
        images = crop(images, padding or width // 8, generator)
    if "cutout" in choices:
        images = cutout(images, width // 2, fill, generator)
    return images
