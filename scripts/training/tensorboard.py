"""What TensorBoard shows of a run.

=========================  ==================================================================
tab                        content
=========================  ==================================================================
Custom Scalars             training and validation curves in one chart each
Scalars                    train/, validation/, test/: loss and accuracy; test/: calibration_error,
                           and all three of six views; learning_rate/ of each group;
                           gradient_norm; update_to_weight_ratio; images_per_second;
                           validation_class/: accuracy of each class
Histograms                 weights/: every parameter
Images                     a batch as it goes into the network; confusion matrices; the most
                           confident mistakes
Text                       options, versions, confusion matrices as tables
HParams                    options against final accuracies, in the same run
=========================  ==================================================================

Nothing here waits for a device more than a few times a call, however many tensors there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.utils.tensorboard.summary import hparams
from torchvision.utils import make_grid

from training.events import Writer, tags_at

LAYOUT = {
    "training and validation": {
        name: ["Multiline", [f"train/{name}$", f"validation/{name}$"]]
        for name in ("loss", "accuracy")
    }
}
METRICS = (
    "test/accuracy", "test/loss", "test/calibration_error", "validation/accuracy",
    "validation/loss",
)  # fmt: skip
BINS = 64  # of a histogram
MISTAKES = 36  # shown at most
TILE = 96  # pixels a side of an image among the mistakes


class Board:
    """The event file of a run.

    Args:
        log_dir: folder of the run.
        first_step: drop whatever an earlier event file in ``log_dir`` has from this step on, so
            that the curves of a resumed run do not overlap.

    Raises:
        UsageError: also by every method: an event file cannot be written.
    """

    def __init__(self, log_dir: str, first_step: int = 0) -> None:
        self.writer = Writer(log_dir, first_step)
        self.log_dir, self.first_step = log_dir, first_step

    def describe(self, config: Mapping[str, Any], versions: Mapping[str, str], step: int) -> None:
        """Options and versions as text and as hyperparameters, and the layout of the charts."""
        self.writer.add_custom_scalars(LAYOUT)
        self.writer.add_text("options", table(("option", "value"), config.items()), step)
        self.writer.add_text("versions", table(("what", "version"), versions.items()), step)
        values = {
            name: value if isinstance(value, int | float | str) else str(value)
            for name, value in config.items()
        }
        # SummaryWriter.add_hparams would open a second run for these
        experiment, start, _ = hparams(values, dict.fromkeys(METRICS, 0.0))
        self._file_writer().add_summary(experiment)
        self._file_writer().add_summary(start)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One point of each curve."""
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, step)

    def batch(self, images: Tensor, step: int) -> None:
        """uint8 (N, C, H, W) images as they go into the network, 64 at most."""
        self.writer.add_image("images/augmented_batch", make_grid(_enlarge(images[:64], 64)), step)

    def histograms(self, model: nn.Module, step: int) -> None:
        """Every parameter, counted on its device: two waits for all of them."""
        named = [(name, p.detach().float().flatten()) for name, p in model.named_parameters()]
        facts = torch.stack([torch.stack([*p.aminmax(), p.sum(), p.dot(p)]) for _, p in named])
        rows = facts.tolist()
        edges = [_bins(low, high) for low, high, _, _ in rows]
        counts = torch.stack(
            [
                torch.histc(p, BINS, first, last)
                for (_, p), (first, last) in zip(named, edges, strict=True)
            ]
        ).tolist()
        for (name, p), row, (first, last), count in zip(named, rows, edges, counts, strict=True):
            limits = np.linspace(first, last, BINS + 1)[1:].tolist()
            low, high, total, squares = row
            self.writer.add_histogram_raw(
                f"weights/{name}", low, high, p.numel(), total, squares, limits, count, step
            )

    def predictions(
        self,
        part: str,
        logits: Tensor,
        images: Tensor,
        labels: Tensor,
        classes: Sequence[str],
        step: int,
    ) -> None:
        """Confusion matrix, as picture and table, and the most confident mistakes.

        Args:
            part: ``"validation"`` or ``"test"``: the first half of the tags.
            logits: (N, K).
            images: uint8 (N, C, H, W).
            labels: (N,) int64.
        """
        there = self._there(step)
        matrix = confusion(logits, labels).cpu()
        if f"{part}/confusion_matrix" not in there:
            self.writer.add_image(
                f"{part}/confusion_matrix", draw_confusion(matrix, classes), step, dataformats="HWC"
            )
        rows = [(name, *row) for name, row in zip(classes, matrix.tolist(), strict=True)]
        self.writer.add_text(
            f"{part}/confusion_matrix", table(("is \\ taken for", *classes), rows), step
        )
        picture = draw_mistakes(logits, images, labels, classes)
        if picture is not None and f"{part}/mistakes" not in there:
            self.writer.add_image(f"{part}/mistakes", picture, step, dataformats="HWC")

    def finish(self, values: Mapping[str, float], step: int) -> None:
        """The final figures. They are the metrics of the HParams tab too."""
        there = self._there(step)
        self.scalars({tag: value for tag, value in values.items() if tag not in there}, step)
        _, _, end = hparams({}, {})
        self._file_writer().add_summary(end)

    def _there(self, step: int) -> set[str]:
        """What is not to be written twice: of a run that is at its end, and is tested again."""
        return tags_at(self.log_dir, step) if step < self.first_step else set()

    def flush(self) -> None:
        """Put everything so far on disk."""
        self.writer.flush()

    def close(self) -> None:
        """Put everything on disk and close the file."""
        self.writer.close()

    def _file_writer(self) -> Any:
        return self.writer.file_writer


def table(head: Sequence[str], rows: Any) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def confusion(logits: Tensor, labels: Tensor) -> Tensor:
    """(K, K) int64: how many images of class i (row) are taken for class j (column)."""
    k = logits.shape[1]
    return torch.bincount(labels * k + logits.argmax(1), minlength=k * k).view(k, k)


def draw_confusion(matrix: Tensor, classes: Sequence[str]) -> np.ndarray:
    """Picture, uint8 (height, width, 3), of a (K, K) matrix of counts; darker is a larger share."""
    cell, margin = 44, 84
    side = margin + cell * len(classes)
    picture = Image.new("RGB", (side, side), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default()
    share = matrix / matrix.sum(1, keepdim=True).clamp(min=1)
    for i, name in enumerate(classes):
        middle = margin + i * cell + cell // 2
        draw.text((margin - 6, middle), name, "black", font, anchor="rm")
        # names of columns stand in two heights, so that long ones do not run into each other
        draw.text((middle, margin - 8 - 14 * (i % 2)), name, "black", font, anchor="ms")
        for j in range(len(classes)):
            x, y, part = margin + j * cell, margin + i * cell, share[i, j].item()
            # green on the diagonal, red beside it, both from white
            fade = round(255 * (1 - part))
            color = (fade, 255 - (255 - fade) // 2, fade) if i == j else (255, fade, fade)
            draw.rectangle((x, y, x + cell - 2, y + cell - 2), color, "lightgray")
            centre = (x + cell // 2, y + cell // 2)
            ink = "white" if part > 0.5 else "black"
            draw.text(centre, str(int(matrix[i, j])), ink, font, anchor="mm")
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
    tiles = _enlarge(images[wrong], TILE).cpu().permute(0, 2, 3, 1).numpy()
    rows = zip(
        labels[wrong].tolist(), answer[wrong].tolist(), probability[wrong].tolist(), strict=True
    )
    columns, caption = min(6, len(wrong)), 34
    height = -(-len(wrong) // columns)
    picture = Image.new("RGB", (columns * (TILE + 8), height * (TILE + caption)), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default()
    for i, (is_, said, sure) in enumerate(rows):
        x, y = i % columns * (TILE + 8), i // columns * (TILE + caption)
        picture.paste(Image.fromarray(tiles[i]), (x, y))
        draw.text((x + 2, y + TILE + 2), f"is {classes[is_]}", "black", font)
        draw.text((x + 2, y + TILE + 16), f"said {classes[said]} {sure:.0%}", "firebrick", font)
    return np.asarray(picture)


def _enlarge(images: Tensor, side: int) -> Tensor:
    """uint8 (N, 1 or 3, H, W) -> uint8 (N, 3, side, side) or near it, every pixel a square."""
    factor = max(1, side // images.shape[3])
    enlarged = images.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    return enlarged.expand(-1, 3, -1, -1)


def _bins(low: float, high: float) -> tuple[float, float]:
    """A range that is not empty, for a tensor whose values are all the same."""
    return (low, high) if low < high else (low - 0.5, high + 0.5)
