"""Pictures of what a network answers and of what it has learned, uint8, without matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.utils import make_grid

MISTAKES = 64  # shown at most
TILE = 96  # pixels a side of an image among the mistakes
FILTER = 48  # pixels a side of a filter, or near it


def confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """(K, K) int64: how many images of class i (row) are taken for class j (column)."""
    k = logits.shape[1]
    return torch.bincount(labels * k + logits.argmax(1), minlength=k * k).view(k, k)


def draw_confusion(matrix: Tensor, classes: Sequence[str]) -> np.ndarray:
    """Picture, uint8 (height, width, 3), of a (K, K) matrix of counts.

    Darker is a larger share of the row; where the count is 0 nothing is written.
    """
    cell, margin = 28, 68  # ten classes are as wide as TensorBoard shows a picture: 350 pixels
    side = margin + cell * len(classes)
    picture = Image.new("RGB", (side, side), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default()
    shares = (matrix / matrix.sum(1, keepdim=True).clamp(min=1)).tolist()
    counts = matrix.tolist()
    for i, name in enumerate(classes):
        middle = margin + i * cell + cell // 2
        draw.text((margin - 6, middle), name, "black", font, anchor="rm")
        # names of columns stand in two heights, so that long ones do not run into each other
        draw.text((middle, margin - 8 - 14 * (i % 2)), name, "black", font, anchor="ms")
        for j in range(len(classes)):
            x, y, part = margin + j * cell, margin + i * cell, shares[i][j]
            # green on the diagonal, red beside it, both from white
            fade = round(255 * (1 - part))
            color = (fade, 255 - (255 - fade) // 2, fade) if i == j else (255, fade, fade)
            draw.rectangle((x, y, x + cell - 2, y + cell - 2), color, "lightgray")
            if counts[i][j]:
                centre = (x + cell // 2, y + cell // 2)
                ink = "white" if part > 0.5 else "black"
                draw.text(centre, str(counts[i][j]), ink, font, anchor="mm")
    draw.text((6, 10), "row: is, column: taken for", "black", font)
    return np.asarray(picture)


def draw_mistakes(
    logits: Tensor, images: Tensor, labels: Tensor, classes: Sequence[str]
) -> np.ndarray | None:
    """The wrong answers of highest probability with captions, uint8 (height, width, 3).

    None where every answer is right.
    """
    probability, answer = logits.float().softmax(1).max(1)
    wrong = (answer != labels).nonzero().flatten()
    if len(wrong) == 0:
        return None
    wrong = wrong[probability[wrong].argsort(descending=True, stable=True)][:MISTAKES]
    tiles = enlarge(images[wrong], TILE).cpu().permute(0, 2, 3, 1).numpy()
    rows = zip(
        labels[wrong].tolist(), answer[wrong].tolist(), probability[wrong].tolist(), strict=True
    )
    columns, caption = min(8, len(wrong)), 34
    height = -(-len(wrong) // columns)
    picture = Image.new("RGB", (columns * (TILE + 8), height * (TILE + caption)), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default()
    for i, (is_, said, sure) in enumerate(rows):
        x, y = i % columns * (TILE + 8), i // columns * (TILE + caption)
        picture.paste(Image.fromarray(tiles[i]), (x, y))
        draw.text((x + 2, y + TILE + 2), f"is {classes[is_]}", "black", font)
        draw.text((x + 2, y + TILE + 16), f"said {classes[said]} {sure:.0%}", "firebrick", font)
    return np.asarray(picture)


def draw_batch(images: Tensor) -> Tensor:
    """Picture, uint8 (3, height, width), of images uint8 (N, 1 or 3, H, W), eight in a row."""
    return make_grid(enlarge(images, 64))


def draw_filters(weight: Tensor) -> Tensor:
    """Picture, uint8 (3, height, width), of the filters (N, C, h, w), eight in a row.

    Each has a scale of its own, from black, its lowest weight, to the full colour, its highest.
    Three channels are the colours; of any other number the mean is shown, in grey.
    """
    w = weight.detach().float()
    if w.shape[1] != 3:
        w = w.mean(1, keepdim=True)
    low, high = w.amin((1, 2, 3), keepdim=True), w.amax((1, 2, 3), keepdim=True)
    width = torch.where(high > low, high - low, 1.0)
    shade = (255 * (w - low) / width).round().byte()
    return make_grid(enlarge(shade, FILTER), pad_value=128)


def draw_sprite(images: Tensor) -> tuple[np.ndarray, tuple[int, int]]:
    """Images, uint8 (N, 1 or 3, H, W), side by side in a square without gaps.

    Returns:
        The picture, uint8 (height, width, 3); height and width of an image in it.
    """
    tiles = enlarge(images, 32)
    columns = math.isqrt(len(tiles) - 1) + 1
    picture = make_grid(tiles, columns, padding=0).cpu().permute(1, 2, 0).numpy()
    height, width = tiles.shape[2:]
    square = np.zeros((columns * height, columns * width, 3), np.uint8)
    square[: len(picture)] = picture
    return square, (height, width)


def enlarge(images: Tensor, side: int) -> Tensor:
    """uint8 (N, 1 or 3, H, W) -> uint8 (N, 3, side, side) or near it, every pixel a square."""
    factor = max(1, side // images.shape[3])
    enlarged = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    return enlarged.expand(-1, 3, -1, -1)
