"""What TensorBoard shows of a run.

=========================  ==================================================================
tab                        content
=========================  ==================================================================
Custom Scalars             the curves below in charts that belong together: training beside
                           validation, learning rates, gradients and updates, classes, speed
Scalars                    train/, validation/, test/: loss and accuracy; test/: calibration_error,
                           and all three of six views; train_epoch/: their
                           means over an epoch, to be seen beside validation/;
                           train_evaluated/: of the training images as they are, in evaluation
                           mode, with --gap;
                           validation_class/: accuracy of each class;
                           learning_rate/ of each group; gradient_norm and
                           update_to_weight_ratio of all parameters together, and of each
                           weight: layer_gradient_norm/, layer_weight_norm/ and
                           layer_update_to_weight_ratio/;
                           explain/: of each group, what the optimizer's equation does, see
                           scratch_optim/explain.py, and the factor by which gradients were
                           clipped;
                           images_per_second; on a CPU, data_share: how much of the time goes
                           into choosing, augmenting and normalizing images; on CUDA,
                           memory/: of the device, in GiB
Histograms, Distributions  weights/: every parameter; statistics/: the running ones of
                           normalizations; activations/: what normalizations and activations
                           give out
Images                     a batch as it goes into the network; the filters of the first layer;
                           confusion matrices; the most confident mistakes
PR Curves                  precision and recall of each class
Graphs                     the layers and how they are connected
Projector                  what the last layer sees of test images, with their pictures
Text                       options, versions, environment; confusion matrices as tables
HParams                    options against final accuracies and time, in the same run
=========================  ==================================================================

Nothing here waits for a device more than a few times a call, however many tensors there are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from google.protobuf import text_format
from PIL import Image
from tensorboard.compat.proto.attr_value_pb2 import AttrValue
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from torch import Tensor, nn
from torch.utils.tensorboard.summary import histogram_raw, hparams, pr_curve_raw

from training.events import Writer, tags_at, unwritable
from training.pictures import (
    confusion,
    draw_batch,
    draw_confusion,
    draw_filters,
    draw_mistakes,
    draw_sprite,
)
from training.probe import BINS, wiring

METRICS = (
    "test/accuracy", "test/loss", "test/calibration_error", "validation/accuracy",
    "validation/loss", "train_seconds",
)  # fmt: skip
THRESHOLDS = 127  # of a curve of precision and recall: as many as pr_curve_raw takes
EXPLAIN = "explain/[^/]+/"
FOLDER = "projector"  # within that of the run


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

    def describe(
        self,
        config: Mapping[str, Any],
        versions: Mapping[str, str],
        environment: Mapping[str, str],
        step: int,
    ) -> None:
        """What is run, on what, as text and as hyperparameters, and the layout of the charts."""
        self.writer.add_custom_scalars(layout(config))
        self.writer.add_text("options", table(("option", "value"), config.items()), step)
        self.writer.add_text("versions", table(("what", "version"), versions.items()), step)
        rows = environment.items()
        self.writer.add_text("environment", table(("what", "value"), rows), step)
        values = {
            name: value if isinstance(value, int | float | str) else str(value)
            for name, value in config.items()
        }
        metrics = [m for m in METRICS if config["holdout"] or not m.startswith("validation/")]
        # SummaryWriter.add_hparams would open a second run for these
        experiment, start, _ = hparams(values, dict.fromkeys(metrics, 0.0))
        self._file_writer().add_summary(experiment)
        self._file_writer().add_summary(start)

    def graph(self, model: nn.Module) -> None:
        """The layers, and how they are connected."""
        # Not by SummaryWriter.add_graph: torch.jit.trace is deprecated, and looks into the layers
        nodes = [
            NodeDef(
                name=node.name,
                op=node.kind,
                input=node.inputs,
                attr={"settings": AttrValue(s=node.settings.encode())} if node.settings else {},
            )
            for node in wiring(model)
        ]
        graph = GraphDef(node=nodes).SerializeToString()
        self._file_writer().add_event(Event(graph_def=graph))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One point of each curve."""
        self._add([Summary.Value(tag=tag, simple_value=v) for tag, v in values.items()], step)

    def explained(self, values: Mapping[str, float], step: int) -> None:
        """What :func:`scratch_optim.explain.explain` has to say of a step."""
        self.scalars({f"explain/{tag}": value for tag, value in values.items()}, step)

    def batch(self, images: Tensor, step: int) -> None:
        """uint8 (N, C, H, W) images as they go into the network, 64 at most."""
        self.writer.add_image("images/augmented_batch", draw_batch(images[:64]), step)

    def filters(self, model: nn.Module, shape: Sequence[int], step: int) -> None:
        """Those of the first convolution, or what each unit of the first linear layer looks for.

        Args:
            model: the network.
            shape: (C, H, W) of an image, which a linear layer gets flattened.
            step: of the training.
        """
        first = next(m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear))
        weight = first.weight
        if isinstance(first, nn.Linear):
            weight = weight.view(-1, *shape)
        self.writer.add_image("images/first_layer_filters", draw_filters(weight), step)

    def histograms(self, distributions: Mapping[str, Tensor], step: int) -> None:
        """Histograms by tag, each as :func:`training.probe.distribution` has it."""
        values: list[Summary.Value] = []
        rows = torch.stack(list(distributions.values())).tolist()
        for tag, (low, high, total, squares, *counts) in zip(distributions, rows, strict=True):
            if not math.isfinite(high - low):  # edges have to be finite
                continue
            limits = np.linspace(*_range(low, high), BINS + 1)[1:].tolist()
            summary = histogram_raw(tag, low, high, sum(counts), total, squares, limits, counts)
            values += summary.value
        self._add(values, step)

    def predictions(
        self,
        part: str,
        logits: Tensor,
        images: Tensor,
        labels: Tensor,
        classes: Sequence[str],
        step: int,
    ) -> None:
        """Confusion matrix, as picture and table, mistakes, and precision over recall.

        Args:
            part: ``"validation"`` or ``"test"``: the first half of the tags.
            logits: (N, K).
            images: uint8 (N, C, H, W).
            labels: (N,) int64.
            classes: K names.
            step: of the run.
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
        values: list[Summary.Value] = []
        curves = precision_recall(logits, labels).cpu().numpy()
        for name, curve in zip(classes, curves, strict=True):
            values += pr_curve_raw(f"{part}_precision_recall/{name}", *curve).value
        self._add([value for value in values if value.tag not in there], step)

    def embedding(
        self,
        features: Tensor,
        logits: Tensor,
        images: Tensor,
        labels: Tensor,
        classes: Sequence[str],
    ) -> None:
        """Points for the projector, in files beside that of the events.

        Args:
            features: (N, D).
            logits: (N, K).
            images: uint8 (N, C, H, W).
            labels: (N,) int64.
            classes: K names.
        """
        pairs = zip(labels.tolist(), logits.argmax(1).tolist(), strict=True)
        rows = [("is", "taken for"), *[(classes[is_], classes[said]) for is_, said in pairs]]
        columns = [[f"{x:.6g}" for x in row] for row in features.tolist()]
        sprite, side = draw_sprite(images)
        config = ProjectorConfig()
        config.embeddings.add(
            tensor_name="features",
            tensor_path=f"{FOLDER}/features.tsv",
            metadata_path=f"{FOLDER}/labels.tsv",
            sprite={"image_path": f"{FOLDER}/images.png", "single_image_dim": side},
        )
        run = Path(self.writer.log_dir)
        folder = run / FOLDER
        try:
            folder.mkdir(exist_ok=True)
            _write_columns(folder / "features.tsv", columns)
            _write_columns(folder / "labels.tsv", rows)
            Image.fromarray(sprite).save(folder / "images.png")
            (run / "projector_config.pbtxt").write_text(text_format.MessageToString(config))
        except OSError as error:
            raise unwritable(run, error) from error

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

    def _add(self, values: list[Summary.Value], step: int) -> None:
        # one event for all of them: SummaryWriter.add_scalar, and so on, would write one for each
        self._file_writer().add_summary(Summary(value=values), step)

    def _file_writer(self) -> Any:
        return self.writer.file_writer


def layout(config: Mapping[str, Any]) -> dict[str, dict[str, list[Any]]]:
    """The charts of Custom Scalars: category, title, and which tags begin with one of these."""
    parts = ("train", "validation") if config["holdout"] else ("train",)
    evaluated = ("train_evaluated",) if config["gap"] else ()
    epochs = ("train_epoch", *evaluated, *parts[1:])
    charts = {
        "training and validation": {
            "loss": [f"{part}/loss$" for part in parts],
            "accuracy": [f"{part}/accuracy$" for part in parts],
            "loss, mean of an epoch": [f"{part}/loss$" for part in epochs],
            "accuracy, mean of an epoch": [f"{part}/accuracy$" for part in epochs],
        },
        "learning rate": {"of each group": ["learning_rate/"]},
        "gradients and updates": {
            "length of the gradient": ["gradient_norm$"],
            "length of the gradient of each weight": ["layer_gradient_norm/"],
            "length of each weight": ["layer_weight_norm/"],
            "update by weight, in length": ["update_to_weight_ratio$"],
            "update by weight, in length, of each": ["layer_update_to_weight_ratio/"],
        },
        "accuracy of each class": {"validation": ["validation_class/"]},
        "speed": {"images a second": ["images_per_second$"]},
    }
    if config["explain"]:
        charts["what the optimizer does"] = {
            "RMS of gradient, update and weight": [f"{EXPLAIN}(gradient|update|weight)_rms$"],
            "update by weight and by gradient, in length": [f"{EXPLAIN}update_to_"],
            "cosine of update and downhill": [f"{EXPLAIN}cosine$"],
            "in the symbols of the equation": [
                f"{EXPLAIN}(?!(gradient|update|weight)_rms$|update_to_|cosine$)"
            ],
        }
        if config["clip_grad_norm"]:
            charts["what the optimizer does"]["clipping"] = ["explain/clip_factor$"]
    if not config["holdout"]:
        del charts["accuracy of each class"]
    if config["device"] == "cuda":
        charts["speed"]["memory, GiB"] = ["memory/"]
    else:
        charts["speed"]["share of the time for images"] = ["data_share$"]
    return {
        category: {title: ["Multiline", tags] for title, tags in titles.items()}
        for category, titles in charts.items()
    }


def table(head: Sequence[str], rows: Any) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def precision_recall(logits: Tensor, labels: Tensor) -> Tensor:
    """Precision and recall of each class against all others, over the threshold of probability.

    Args:
        logits: (N, K).
        labels: (N,) int64.

    Returns:
        float64 (K, 6, THRESHOLDS): true positives, false positives, true negatives, false
        negatives, precision, recall, where an answer is positive if its probability is i / 126 or
        more. Both are 0 where they are 0 / 0.
    """
    k = logits.shape[1]
    every = torch.arange(k, device=labels.device)
    step = (logits.float().softmax(1) * (THRESHOLDS - 1)).long().clamp(0, THRESHOLDS - 1)
    is_class = labels[:, None] == every
    cell = ((2 * every + is_class) * THRESHOLDS + step).flatten()
    counts = torch.zeros(2 * k * THRESHOLDS, dtype=torch.float64, device=labels.device)
    counts.scatter_add_(0, cell, torch.ones_like(cell, dtype=torch.float64))
    at_least = counts.view(k, 2, THRESHOLDS).flip(2).cumsum(2).flip(2)
    false, true = at_least.unbind(1)
    precision = true / (true + false).clamp(min=1)
    recall = true / true[:, :1].clamp(min=1)
    return torch.stack(
        [true, false, false[:, :1] - false, true[:, :1] - true, precision, recall], 1
    )


def _range(low: float, high: float) -> tuple[float, float]:
    """That of the bins of :func:`training.probe.distribution`."""
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _write_columns(path: Path, rows: Sequence[Sequence[str]]) -> None:
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
