"""One random operation of random strength on each image.

    S. G. Müller, F. Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation",
    2021, arXiv:2103.10158: the operations and ranges of its wide space (table 5).

With m drawn evenly from 0..30, u = m / 30 in [0, 1] and a fair sign, the operations are

    geometry    shear by ±0.99 u, move by ±32 u pixels (of 32), rotate by ±135° u
    blending    x <- r + (1 ± 0.99 u) (x - r), with another r for each:
                brightness 0, color the grey image, contrast its mean, sharpness the smoothed image
    tones       keep 8 - round(6 u) bits; invert what is above 255 (1 - u);
                stretch each channel to 0..255; make its histogram even
    nothing

torchvision's ``TrivialAugmentWide`` draws one operation for all images that it is given. Here each
image has its own: every operation is computed for all of them, and each takes what it drew, so that
nothing waits for the device. The results are torchvision's, to the rounding of a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from training.dice import Dice

GREYS = (0.2989, 0.587, 0.114)
"""Shares of red, green and blue in brightness, of ITU-R BT.601."""
LEVELS = 31
"""Strengths that are drawn from."""

GEOMETRIES = ("shear x", "shear y", "move x", "move y", "rotate")


def trivial(images: Tensor, fill: Tensor, dice: Dice) -> Tensor:
    """Augment uint8 (N, C, H, W).

    Args:
        images: the batch; of other than 3 channels color is left as it is.
        fill: the color of what comes in from outside, (C,) or broadcastable to (C, 1, 1).
        dice: of the operations and strengths.
    """
    kind = dice.integers(0, len(OPERATIONS), 1, 1, 1)
    u = dice.integers(0, LEVELS, 1, 1, 1) / (LEVELS - 1)
    sign = 2.0 * dice.integers(0, 2, 1, 1, 1) - 1
    x = images.float()
    y = moved(x, kind, sign * u, fill)
    for i, name in enumerate(OPERATIONS):
        if name in TONES:
            y = torch.where(kind == i, TONES[name](x, u), y)
        elif name in REFERENCES:
            y = torch.where(kind == i, blended(x, REFERENCES[name](x), 1 + 0.99 * sign * u), y)
    return y.to(torch.uint8)


def moved(x: Tensor, kind: Tensor, strength: Tensor, fill: Tensor) -> Tensor:
    """The geometry that each image drew, to the nearest pixel; the others as they are.

    Args:
        x: (N, C, H, W) float.
        kind: number of the operation, (N, 1, 1, 1).
        strength: in [-1, 1], (N, 1, 1, 1).
        fill: see :func:`trivial`.
    """
    height, width = x.shape[2:]
    s = strength.flatten()
    is_ = {name: (kind == OPERATIONS.index(name)).flatten() for name in GEOMETRIES}
    angle = torch.where(is_["rotate"], -math.radians(135) * s, 0)  # rows count downwards
    # where the pixel (column, row), counted from the centre, comes from
    a, b = angle.cos(), angle.sin() + torch.where(is_["shear x"], 0.99 * s, 0)
    c, d = -angle.sin() + torch.where(is_["shear y"], 0.99 * s, 0), angle.cos()
    right = torch.where(is_["move x"], (s * width).trunc(), 0)
    down = torch.where(is_["move y"], (s * height).trunc(), 0)
    row = torch.arange(height, device=x.device).view(1, -1, 1) - (height - 1) / 2
    column = torch.arange(width, device=x.device).view(1, 1, -1) - (width - 1) / 2
    a, b, c, d, right, down = (v.view(-1, 1, 1) for v in (a, b, c, d, right, down))
    from_row = c * column + d * row - down + (height - 1) / 2
    from_column = a * column + b * row - right + (width - 1) / 2
    i, j = from_row.round().long(), from_column.round().long()
    inside = ((i >= 0) & (i < height) & (j >= 0) & (j < width))[:, None]
    source = (i.clamp(0, height - 1) * width + j.clamp(0, width - 1)).view(len(x), 1, -1)
    taken = x.flatten(2).gather(2, source.expand(-1, x.shape[1], -1)).view(x.shape)
    return torch.where(inside, taken, fill.view(-1, 1, 1).to(x.dtype))


def blended(x: Tensor, reference: Tensor, factor: Tensor) -> Tensor:
    """The reference, and ``factor`` times the way from there to the image, cut off at 0 and 255."""
    return (reference + factor * (x - reference)).clamp(0, 255).floor()


def grey(x: Tensor) -> Tensor:
    """Brightness (N, 1, H, W) in whole values; of other than 3 channels the image as it is."""
    if x.shape[1] != 3:
        return x
    return (x * x.new_tensor(GREYS).view(3, 1, 1)).sum(1, keepdim=True).floor()


def smooth(x: Tensor) -> Tensor:
    """The mean of each pixel, counted five times, and its neighbours; the border as it is."""
    channels = x.shape[1]
    kernel = x.new_ones(3, 3)
    kernel[1, 1] = 5
    weight = (kernel / kernel.sum()).expand(channels, 1, 3, 3)
    y = x.clone()
    y[:, :, 1:-1, 1:-1] = F.conv2d(x, weight, groups=channels).round()
    return y


def posterize(x: Tensor, u: Tensor) -> Tensor:
    """Keep the upper 8 - round(6 u) bits."""
    unit = torch.exp2((6 * u).round())
    return (x / unit).floor() * unit


def solarize(x: Tensor, u: Tensor) -> Tensor:
    """Invert what is at least 255 (1 - u)."""
    return torch.where(x >= 255 * (1 - u), 255 - x, x)


def stretch(x: Tensor, u: Tensor) -> Tensor:
    """Each channel so that its least value is 0 and its greatest 255."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    stretched = ((x - low) * (255 / (high - low))).clamp(0, 255).floor()
    return torch.where(high > low, stretched, x)


def equalize(x: Tensor, u: Tensor) -> Tensor:
    """Each channel by the share of its pixels that are darker, so that all values are as frequent.

    With n(v) pixels of value v, the greatest of which is w, and a step of s = (N - n(w)) // 255,
    v becomes (s // 2 + n(0) + ... + n(v - 1)) // s; it stays if s = 0.
    """
    values = x.flatten(2).long()
    counts = values.new_zeros(*values.shape[:2], 256)
    counts.scatter_add_(2, values, torch.ones_like(values))
    last = counts.gather(2, values.amax(2, keepdim=True))
    step = (values.shape[2] - last) // 255
    before = counts.cumsum(2) - counts
    table = ((before + step // 2) // step.clamp(min=1)).clamp(0, 255)
    even = table.gather(2, values).view(x.shape).to(x.dtype)
    return torch.where((step > 0)[..., None], even, x)


REFERENCES: dict[str, Callable[[Tensor], Tensor]] = {
    "brightness": torch.zeros_like,
    "color": grey,
    "contrast": lambda x: grey(x).mean((1, 2, 3), keepdim=True),
    "sharpness": smooth,
}
TONES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "posterize": posterize,
    "solarize": solarize,
    "stretch": stretch,
    "equalize": equalize,
}
OPERATIONS = ("nothing", *GEOMETRIES, *REFERENCES, *TONES)
