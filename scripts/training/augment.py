"""Augmentation of whole batches, on the device that holds them, without waiting for it.

torchvision's transforms draw one set of numbers for a batch; here every image draws its own, from
a generator that is handed in, and nothing is copied to the host: each function is a few tensor
operations whose shapes do not depend on the random numbers. Every function takes (N, C, H, W) of
any dtype (``trivial``: uint8) and gives a tensor of the same shape and dtype.

* Flip and padded crop: K. He et al., "Deep Residual Learning for Image Recognition", 2015,
  arXiv:1512.03385, section 4.2. The padding here mirrors the image instead of adding black.
* Cutout: T. DeVries, G. W. Taylor, "Improved Regularization of Convolutional Neural Networks with
  Cutout", 2017, arXiv:1708.04552.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from training.dice import Dice
from training.trivial import trivial

CHOICES = ("flip", "altflip", "crop", "trivial", "cutout")


def flip(images: Tensor, dice: Dice) -> Tensor:
    """Mirror each image left to right with probability 1/2."""
    return mirror(images, dice.uniform() < 0.5)


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


def crop(images: Tensor, padding: int, dice: Dice) -> Tensor:
    """Pad by mirroring (the edge itself is not repeated), then cut H x W out anywhere, per image.

    Args:
        padding: pixels on each side, less than H and W.
    """
    n, channels, height, width = images.shape
    moved = dice.integers(-padding, padding + 1, 2, 1).unbind(1)
    # Where each pixel comes from. Mirroring the index spares the padded copy.
    rows = _mirrored(moved[0] + torch.arange(height, device=images.device), height)
    columns = _mirrored(moved[1] + torch.arange(width, device=images.device), width)
    source = (rows[:, :, None] * width + columns[:, None, :]).view(n, 1, height * width)
    return images.flatten(2).gather(2, source.expand(-1, channels, -1)).view(images.shape)


def _mirrored(index: Tensor, size: int) -> Tensor:
    """..., -2, -1, 0, ..., size-1, size, ... -> ..., 2, 1, 0, ..., size-1, size-2, ..."""
    return (size - 1) - ((size - 1) - index.abs()).abs()


def cutout(images: Tensor, size: int, fill: Tensor, dice: Dice) -> Tensor:
    """Paint a square over each image, centred on any of its pixels, cut off at the edges.

    Args:
        size: side of the square in pixels.
        fill: the colour, (C,) or broadcastable to (C, 1, 1), in the units of ``images``.
    """
    height, width = images.shape[2:]
    draw = dice.uniform(2, 1).unbind(1)
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
    dice: Dice,
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
        dice: of all random numbers.
        mirrored: the images that altflip mirrors, which needs it; see :func:`mirror`.
        padding: of the crop, in pixels, instead.
    """
    width = images.shape[3]
    if "flip" in choices:
        images = flip(images, dice)
    if "altflip" in choices:
        if mirrored is None:
            raise ValueError("altflip needs to know which images are due to be mirrored")
        images = mirror(images, mirrored)
    if "crop" in choices:
        images = crop(images, padding or width // 8, dice)
    if "trivial" in choices:
        images = trivial(images, fill, dice)
    if "cutout" in choices:
        images = cutout(images, width // 2, fill, dice)
    return images


@dataclass(frozen=True)
class Mix:
    """How each image of a batch is joined with its partner, the one as far from the other end.

    ::

        mixup    x_i <- share x_i + (1 - share) x_(N+1-i)
        CutMix   x_i <- x_(N+1-i) within the box, whose area is 1 - share

    The loss is joined by the same shares. One draw a batch, as the papers' own code has it.
    """

    share: float  # of the image itself, 0..1
    box: tuple[int, int, int, int] | None = None  # top, bottom, left, right in pixels; None: mixup

    def __call__(self, images: Tensor) -> Tensor:
        """Mixed images of the same shape and dtype, rounded to whole values of uint8.

        Args:
            images: (N, C, H, W).
        """
        partners = images.flip(0)
        if self.box is None:
            mixed = torch.lerp(partners.float(), images.float(), self.share)
            return (mixed.round_() if not images.is_floating_point() else mixed).to(images.dtype)
        top, bottom, left, right = self.box
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
        return mixed


def draw_mix(mixup: float, cutmix: float, size: tuple[int, int], seed: int) -> Mix | None:
    """The mix of one batch: its share is distributed as Beta(α, α).

    It is drawn on the host, so that nothing waits for the device.

    Args:
        mixup: α; 0: none.
        cutmix: likewise. If both are above 0, a coin decides.
        size: height and width of the images.
        seed: of this batch.
    """
    if not (mixup or cutmix):
        return None
    draw = random.Random(seed)
    cut = cutmix > 0 and (mixup == 0 or draw.random() < 0.5)
    alpha = cutmix if cut else mixup
    share = draw.betavariate(alpha, alpha)
    if not cut:
        return Mix(share)
    # a box of the images' shape around any pixel, cut off at the edges, which adds to the share
    bounds = []
    for length in size:
        half = length * math.sqrt(1 - share) / 2
        middle = draw.random() * length
        bounds += [max(0, round(middle - half)), min(length, round(middle + half))]
    top, bottom, left, right = bounds
    area = (bottom - top) * (right - left)
    return Mix(1 - area / (size[0] * size[1]), (top, bottom, left, right))
