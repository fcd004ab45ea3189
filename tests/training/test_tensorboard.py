"""TensorBoard: every tag is there with the right values, once, also after a run was resumed."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig
from torch.utils.tensorboard.summary import compute_curve

from tests.training.conftest import TinyNet, tiny_data
from tests.training.test_loop import (
    PowerCutError,
    assert_same,
    at_step,
    config,
    power_cut,
    resumed,
)
from training import probe, recipes
from training.checkpoint import load
from training.data import Data, Split
from training.errors import UsageError
from training.loop import spread, train
from training.pictures import (
    MISTAKES,
    confusion,
    draw_confusion,
    draw_filters,
    draw_mistakes,
    draw_sprite,
)
from training.result import Result
from training.tensorboard import THRESHOLDS, Board, precision_recall

CLASSES = ("class0", "class1", "class2")
LAYERS = ("gradient_norm", "weight_norm", "update_to_weight_ratio")


def read(folder: Path) -> EventAccumulator:
    kinds = ("scalars", "images", "histograms", "tensors", "compressedHistograms", "audio")
    found = EventAccumulator(str(folder), size_guidance=dict.fromkeys(kinds, 0))
    return found.Reload()


def without_validation() -> Data:
    data = tiny_data()
    none = Split(data.train.images[:0], data.train.labels[:0])
    return Data(data.classes, data.train, none, data.test, data.mean, data.std, data.checksum)


def steps(found: EventAccumulator, tag: str) -> list[int]:
    return [event.step for event in found.Scalars(tag)]


def values(found: EventAccumulator, tag: str) -> list[float]:
    return [event.value for event in found.Scalars(tag)]


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """One run of 3 epochs of 6 steps; its folder, its result, its events."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.loop.load_data", lambda *args: tiny_data())
        patch.setattr(recipes, "build_model", lambda c, k, s: TinyNet(k, s[0], c.dropout))
        result = train(config(folder, tensorboard=True, log_every=4, pictures_every=2))
    return folder, result, read(folder)


def test_curves_have_a_point_every_log_every_steps_and_epoch(record):
    _, _, found = record
    expected = [4, 6, 8, 12, 16, 18]
    for tag in (
        "train/loss", "train/accuracy", "images_per_second", "gradient_norm",
        "update_to_weight_ratio", "learning_rate/weights", "data_share",
        "learning_rate/biases and normalizations",
        *[f"layer_{what}/{name}.weight" for what in LAYERS for name in ("conv", "fc")],
    ):  # fmt: skip
        assert steps(found, tag) == expected, tag
        assert np.isfinite(values(found, tag)).all()
    for tag in ("loss", "accuracy"):
        assert steps(found, f"train_epoch/{tag}") == [6, 12, 18]
        assert steps(found, f"validation/{tag}") == [6, 12, 18]
    for tag in ("loss", "accuracy", "calibration_error"):
        assert steps(found, f"test/{tag}") == [18]
    for name in CLASSES:
        assert steps(found, f"validation_class/{name}") == [6, 12, 18]


def test_values_are_those_of_the_result(record):
    _, result, found = record
    float32 = {"rel": 1e-6}  # events hold float32
    for i, row in enumerate(result.history):
        for part in ("loss", "accuracy"):
            written = values(found, f"validation/{part}")[i]
            assert written == pytest.approx(row[f"validation_{part}"], **float32)
    for tag in ("loss", "accuracy", "calibration_error"):
        final = getattr(result, f"test_{tag}")
        assert values(found, f"test/{tag}") == pytest.approx([final], **float32)
    assert values(found, "train_seconds") == pytest.approx([result.train_seconds], **float32)
    for i, row in enumerate(result.history):
        for part in ("loss", "accuracy"):
            written = values(found, f"train_epoch/{part}")[i]
            assert written == pytest.approx(row[f"train_{part}"], **float32)
    assert all(0 < share < 1 for share in values(found, "data_share"))
    # points at steps 4 and 6 are means over 4 and 2 steps
    first = values(found, "train/loss")
    assert (4 * first[0] + 2 * first[1]) / 6 == pytest.approx(
        result.history[0]["train_loss"], **float32
    )


def test_learning_rate_is_the_one_the_step_used(record):
    folder, _, found = record
    lrs = values(found, "learning_rate/weights")
    state = load(folder / "last.pt")
    assert 0 < lrs[-1] < min(lrs[:-1])
    # after the last step the schedule has reached its end, which no step has used
    assert state["optimizer"]["param_groups"][0]["lr"] == 0
    peak = 3e-3
    assert max(lrs) <= peak * (1 + 1e-6)


def test_training_and_validation_share_a_chart(record):
    _, _, found = record
    (event,) = found.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout()
    layout.ParseFromString(event.tensor_proto.string_val[0])
    first = layout.category[0]
    assert first.title == "training and validation"
    charts = {chart.title: list(chart.multiline.tag) for chart in first.chart}
    assert charts == {
        "loss": ["train/loss$", "validation/loss$"],
        "accuracy": ["train/accuracy$", "validation/accuracy$"],
        "loss, mean of an epoch": ["train_epoch/loss$", "validation/loss$"],
        "accuracy, mean of an epoch": ["train_epoch/accuracy$", "validation/accuracy$"],
    }


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"holdout": False},
        {"explain": 2, "clip_grad_norm": 0.1, "optim": "scratch"},
        {"explain": 2, "optimizer": "muon", "optim": "scratch"},
    ],
    ids=str,
)
def test_every_chart_has_a_curve_and_every_curve_but_those_of_the_test_a_chart(
    tmp_path, given, monkeypatch
):
    if given.get("holdout") is False:
        monkeypatch.setattr("training.loop.load_data", lambda *args: without_validation())
    train(config(tmp_path, tensorboard=True, log_every=4, epochs=1, **given))
    found = read(tmp_path)
    (event,) = found.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout()
    layout.ParseFromString(event.tensor_proto.string_val[0])
    tags = [
        tag for group in layout.category for chart in group.chart for tag in chart.multiline.tag
    ]
    scalars = found.Tags()["scalars"]
    for tag in tags:
        assert any(re.match(tag, name) for name in scalars), tag
    shown = {name for name in scalars for tag in tags if re.match(tag, name)}
    final = {"test/accuracy", "test/loss", "test/calibration_error", "train_seconds"}
    assert set(scalars) - shown == final


def test_pictures_histograms_and_texts_are_there_at_their_steps(record):
    _, _, found = record
    expected = {
        "images/augmented_batch": [0],
        "images/first_layer_filters": [12, 18],
        "validation/confusion_matrix": [12, 18],
        "test/confusion_matrix": [18],
    }
    for tag, at in expected.items():
        assert [event.step for event in found.Images(tag)] == at, tag
    assert {"validation/mistakes", "test/mistakes"} <= set(found.Tags()["images"])
    assert set(found.Tags()["histograms"]) == {
        "weights/conv.weight", "weights/bn.weight", "weights/bn.bias", "weights/fc.weight",
        "weights/fc.bias", "statistics/bn.running_mean", "statistics/bn.running_var",
        "activations/bn",
    }  # fmt: skip
    for tag in found.Tags()["histograms"]:
        assert [event.step for event in found.Histograms(tag)] == [12, 18]
    for part, at in (("validation", [12, 18]), ("test", [18])):
        for name in CLASSES:
            tag = f"{part}_precision_recall/{name}"
            assert [event.step for event in found.Tensors(tag)] == at
    texts = {
        tag: found.Tensors(f"{tag}/text_summary")[-1].tensor_proto.string_val[0].decode()
        for tag in ("options", "versions", "environment", "test/confusion_matrix")
    }
    assert "| optimizer | adam |" in texts["options"]
    assert f"| torch | {torch.__version__} |" in texts["versions"]
    assert f"| threads | {torch.get_num_threads()} |" in texts["environment"]
    assert "| commit | " in texts["versions"]
    assert "| class2 |" in texts["test/confusion_matrix"]


def test_graph_has_the_layers_in_their_order(record):
    _, _, found = record
    nodes = {node.name: node for node in found.Graph().node}
    assert nodes["conv"].op == "Conv2d"
    assert b"kernel_size=(3, 3)" in nodes["conv"].attr["settings"].s
    path = ["output"]
    while nodes[path[-1]].input:
        path += nodes[path[-1]].input
    assert path == ["output", "fc", "drop", "mean", "relu", "bn", "conv", "x"]


def test_histograms_count_every_weight_and_statistic_and_what_layers_give_out(record):
    folder, _, found = record
    state = load(folder / "last.pt")["model"]
    net, data = TinyNet(3, 1, 0.3).eval(), tiny_data()
    net.load_state_dict(state)
    with torch.no_grad():
        given = net.bn(net.conv(data.normalized(data.validation.images)))
    for tag, tensor in {
        "weights/conv.weight": state["conv.weight"],
        "weights/fc.weight": state["fc.weight"],
        "statistics/bn.running_mean": state["bn.running_mean"],
        "statistics/bn.running_var": state["bn.running_var"],
        "activations/bn": given,
    }.items():
        histogram = found.Histograms(tag)[-1].histogram_value
        tensor = tensor.double().flatten()
        assert sum(histogram.bucket) == histogram.num == tensor.numel()
        assert histogram.min == tensor.min().item()
        assert histogram.max == tensor.max().item()
        assert histogram.sum == pytest.approx(tensor.sum().item(), abs=1e-5)
        assert histogram.sum_squares == pytest.approx(tensor.square().sum().item(), rel=1e-5)
        edges = [histogram.min, *histogram.bucket_limit]
        counts, _ = np.histogram(tensor.numpy(), edges)
        # A value next to an edge, by the float32 in which its part is computed, may fall on either
        # side: eps * 64 parts of each part, so one in some thousand; each is missed and added.
        assert np.abs(np.array(histogram.bucket) - counts).sum() <= 2


def test_hyperparameters_are_in_the_same_run_with_real_scalars_as_metrics(record):
    folder, _, found = record
    (events,) = folder.rglob("events.out.tfevents.*")  # no second run
    assert events.parent == folder
    content = {}
    for tag in ("experiment", "session_start_info", "session_end_info"):
        metadata = found.SummaryMetadata(f"_hparams_/{tag}")
        content[tag] = plugin_data_pb2.HParamsPluginData()
        content[tag].ParseFromString(metadata.plugin_data.content)
    given = content["session_start_info"].session_start_info.hparams
    assert given["lr"].number_value == 3e-3
    assert given["optimizer"].string_value == "adam"
    metrics = {m.name.tag for m in content["experiment"].experiment.metric_infos}
    assert {"test/accuracy", "validation/loss"} <= metrics <= set(found.Tags()["scalars"])


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("average", ["none", "lookahead"])
def test_what_the_optimizer_does_is_shown_and_changes_nothing(tmp_path, average):
    options = {"optim": "scratch", "average": average, "clip_grad_norm": 0.1, "epochs": 2}
    train(config(tmp_path / "shown", tensorboard=True, log_every=5, explain=4, **options))
    train(config(tmp_path / "plain", **options))
    saved = [load(tmp_path / folder / "last.pt") for folder in ("shown", "plain")]
    for name in ("model", "optimizer"):
        assert_same(saved[0][name], saved[1][name], name)
    found = read(tmp_path / "shown")
    for group in ("weights", "biases and normalizations"):
        for name in ("update_rms", "cosine", "m_hat_rms", "rate_q50"):
            assert steps(found, f"explain/{group}/{name}") == [4, 8, 12]
    clipped = values(found, "explain/clip_factor")
    lengths = dict(zip(steps(found, "gradient_norm"), values(found, "gradient_norm"), strict=True))
    assert clipped[-1] == pytest.approx(0.1 / lengths[12], rel=1e-4)  # the norm and 1e-6
    assert clipped[-1] < 1


@pytest.mark.usefixtures("tiny")
def test_of_torchs_optimizer_only_what_parameters_and_gradients_tell_is_shown(tmp_path):
    train(config(tmp_path, tensorboard=True, explain=3, epochs=1))
    shown = {tag for tag in read(tmp_path).Tags()["scalars"] if tag.startswith("explain/weights/")}
    assert shown == {
        f"explain/weights/{name}"
        for name in (
            "weight_rms", "gradient_rms", "update_rms", "update_to_weight", "update_to_gradient",
            "cosine",
        )
    }  # fmt: skip


@pytest.mark.usefixtures("tiny")
def test_a_resumed_run_is_explained_at_the_same_steps(tmp_path, monkeypatch):
    options = {"optim": "scratch", "tensorboard": True, "explain": 4, "checkpoint_every": 5}
    with monkeypatch.context() as patch:
        at_step(patch, 8, power_cut)  # checkpoint of 6, the end of an epoch
        with pytest.raises(PowerCutError):
            train(config(tmp_path, **options))
    train(resumed(tmp_path))
    assert steps(read(tmp_path), "explain/weights/update_rms") == [4, 8, 12, 16]


@pytest.mark.usefixtures("tiny")
def test_resumed_run_has_every_point_once(tmp_path, monkeypatch):
    options = {"tensorboard": True, "log_every": 2, "checkpoint_every": 4, "pictures_every": 1}
    with monkeypatch.context() as patch:
        at_step(patch, 12, power_cut)  # curves until 10, checkpoint of 8
        with pytest.raises(PowerCutError):
            train(config(tmp_path / "parts", **options))
    assert steps(read(tmp_path / "parts"), "train/loss") == [2, 4, 6, 8, 10]
    train(resumed(tmp_path / "parts"))
    train(config(tmp_path / "whole", **options))
    parts, whole = read(tmp_path / "parts"), read(tmp_path / "whole")
    assert parts.Tags()["scalars"] == whole.Tags()["scalars"]
    for tag in whole.Tags()["scalars"]:
        assert steps(parts, tag) == steps(whole, tag), tag
        if tag not in ("images_per_second", "data_share", "train_seconds"):
            assert values(parts, tag) == values(whole, tag), tag
    for tag in whole.Tags()["histograms"]:
        both = [[e.step for e in found.Histograms(tag)] for found in (parts, whole)]
        assert both[0] == both[1]
    for tag in whole.Tags()["images"]:
        both = [[e.step for e in found.Images(tag)] for found in (parts, whole)]
        assert both[0] == both[1], tag
    for name in CLASSES:
        tag = f"validation_precision_recall/{name}"
        both = [[e.step for e in found.Tensors(tag)] for found in (parts, whole)]
        assert both[0] == both[1] == [6, 12, 18], tag


@pytest.mark.usefixtures("tiny")
def test_files_of_a_run_are_read_in_the_order_in_which_they_were_begun(tmp_path):
    for step in range(5):
        board = Board(str(tmp_path), first_step=step)
        board.scalars({"x": float(step)}, step)
        board.scalars({"x": -1.0}, step + 1)  # purged by the next
        board.close()
    assert steps(read(tmp_path), "x") == [0, 1, 2, 3, 4, 5]
    assert values(read(tmp_path), "x") == [0.0, 1.0, 2.0, 3.0, 4.0, -1.0]


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("lost", [0, 1, 500, 8000])
def test_a_run_that_is_tested_again_has_its_final_figures_once(tmp_path, monkeypatch, lost):
    """Also where the end of the event file is lost, which is cut within some figure or other."""
    options = {"tensorboard": True, "log_every": 2, "tta": True}
    train(config(tmp_path / "whole", **options))
    folder = tmp_path / "parts"
    with monkeypatch.context() as patch:
        patch.setattr(Result, "write", lambda *args: power_cut())
        with pytest.raises(PowerCutError):
            train(config(folder, **options))
    (file,) = folder.glob("events.out.tfevents.*")
    file.write_bytes(file.read_bytes()[: file.stat().st_size - lost])
    for _ in range(2):
        train(resumed(folder))
    parts, whole = read(folder), read(tmp_path / "whole")
    for tag in whole.Tags()["scalars"]:
        assert steps(parts, tag) == steps(whole, tag), tag
    for tag in whole.Tags()["images"]:
        assert [e.step for e in parts.Images(tag)] == [e.step for e in whole.Images(tag)], tag


@pytest.mark.usefixtures("tiny")
def test_a_projector_that_cannot_be_written_is_one_message_and_the_checkpoint_is_whole(tmp_path):
    (tmp_path / "projector").write_text("a file where its folder would be")
    with pytest.raises(UsageError, match=r"cannot write event files in .*--no-tensorboard"):
        train(config(tmp_path, tensorboard=True))
    assert load(tmp_path / "last.pt")["progress"]["epoch"] == 3


@pytest.mark.usefixtures("tiny")
def test_curves_are_on_disk_no_later_than_their_checkpoint(tmp_path, monkeypatch):
    from training import checkpoint

    flush, save, order = Board.flush, checkpoint.save, []

    def note_flush(self):
        flush(self)
        order.append("flush")

    def note_save(path, state):
        order.append("save")
        assert steps(read(tmp_path), "train/loss")[-1] == state["progress"]["steps"]
        save(path, state)

    monkeypatch.setattr(Board, "flush", note_flush)
    monkeypatch.setattr(checkpoint, "save", note_save)
    train(config(tmp_path, tensorboard=True, log_every=2, checkpoint_every=4, epochs=1))
    assert order == ["flush", "save"] * 3  # step 4, best and last


@pytest.mark.usefixtures("tiny")
def test_what_is_logged_does_not_change_what_is_learned(tmp_path):
    train(config(tmp_path / "a", tensorboard=True, log_every=1, pictures_every=1))
    train(config(tmp_path / "b", tensorboard=False, log_every=5))
    one, two = (load(tmp_path / name / "last.pt")["model"] for name in "ab")
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_update_ratio_is_the_length_of_the_change_by_that_of_the_weights(tmp_path, monkeypatch):
    from training import loop

    net = TinyNet(3, 1, 0.0)
    monkeypatch.setattr("training.loop.load_data", lambda *args: tiny_data())
    monkeypatch.setattr(recipes, "build_model", lambda *args: net)
    before = [p.detach().double().clone() for p in net.parameters()]
    after = []
    finish = loop.Trainer.finish_epoch

    def note(self):
        after.extend(p.detach().double().clone() for p in net.parameters())
        finish(self)

    monkeypatch.setattr(loop.Trainer, "finish_epoch", note)
    train(config(tmp_path, tensorboard=True, epochs=1, batch_size=54, optimizer="sgd"))

    def length(tensors):
        return sum(t.square().sum() for t in tensors).sqrt().item()

    expected = length([a - b for a, b in zip(after, before, strict=True)]) / length(before)
    # the change is a difference of float32 numbers: it keeps eps/ratio of them
    assert values(read(tmp_path), "update_to_weight_ratio") == pytest.approx([expected], rel=1e-4)


def test_lengths_of_layers_are_those_before_clipping_and_of_the_step(tmp_path, monkeypatch):
    net = TinyNet(3, 1, 0.0)
    monkeypatch.setattr("training.loop.load_data", lambda *args: tiny_data())
    monkeypatch.setattr(recipes, "build_model", lambda *args: net)
    before = {name: p.detach().double().norm().item() for name, p in net.named_parameters()}
    limit = 1e-3
    train(
        config(
            tmp_path, tensorboard=True, epochs=1, batch_size=54, optimizer="sgd", momentum=0.0,
            weight_decay=0.0, clip_grad_norm=limit,
        )
    )  # fmt: skip
    found = read(tmp_path)
    ((lr,), (whole,)) = (values(found, tag) for tag in ("learning_rate/weights", "gradient_norm"))
    assert whole > 2 * limit
    for name in ("conv.weight", "fc.weight"):
        slope, length, ratio = (values(found, f"layer_{what}/{name}")[0] for what in LAYERS)
        assert length == pytest.approx(before[name], rel=1e-6)  # float32
        # theta <- theta - lr g limit / |g|, a difference of float32 numbers, which keeps
        # eps / ratio of its digits; clipping adds 1e-6 to the length
        expected = lr * slope * limit / whole / length
        assert ratio == pytest.approx(expected, rel=1e-2)
    assert not [tag for tag in found.Tags()["scalars"] if re.match("layer_.*(bn|bias)", tag)]


def test_points_of_the_projector_are_what_the_last_layer_is_given(record):
    folder, result, _ = record
    config_ = ProjectorConfig()
    text_format.Parse((folder / "projector_config.pbtxt").read_text(), config_)
    (shown,) = config_.embeddings
    points = torch.from_numpy(np.loadtxt(folder / shown.tensor_path, delimiter="\t")).float()
    head, *rows = (folder / shown.metadata_path).read_text().splitlines()
    test = tiny_data().test
    assert head.split("\t") == ["is", "taken for"]
    labels, answers = zip(*(row.split("\t") for row in rows), strict=True)
    assert list(labels) == [CLASSES[k] for k in test.labels]
    state = load(folder / "last.pt")["model"]
    logits = points @ state["fc.weight"].T + state["fc.bias"]
    assert list(answers) == [CLASSES[k] for k in logits.argmax(1)]
    # the features have six digits
    loss = torch.nn.functional.cross_entropy(logits, test.labels).item()
    assert loss == pytest.approx(result.test_loss, rel=1e-4)
    with Image.open(folder / shown.sprite.image_path) as picture:
        sprite = np.asarray(picture)
    height, width = shown.sprite.single_image_dim
    columns = sprite.shape[1] // width
    for i in (0, columns, len(rows) - 1):
        y, x = i // columns * height, i % columns * width
        tile = sprite[y : y + height : height // 8, x : x + width : width // 8, 0]
        assert (tile == test.images[i, 0].numpy()).all()


@pytest.mark.usefixtures("tiny")
def test_a_finished_run_that_is_resumed_has_one_set_of_points(tmp_path):
    train(config(tmp_path, tensorboard=True, epochs=1))
    before = (tmp_path / "projector_config.pbtxt").read_text()
    train(resumed(tmp_path))
    assert (tmp_path / "projector_config.pbtxt").read_text() == before


def test_precision_and_recall_are_those_of_torch():
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(500, 4, generator=generator)
    logits[0, 0] = 100.0  # a probability of 1
    labels = torch.randint(4, (500,), generator=generator)
    curves = precision_recall(logits, labels).numpy()
    probability = logits.softmax(1).numpy()
    for k in range(4):
        expected = compute_curve(labels.numpy() == k, probability[:, k], THRESHOLDS)
        np.testing.assert_allclose(curves[k], expected, rtol=1e-14)  # one division in float64


def test_a_class_without_images_and_without_answers_has_a_curve_of_zeros():
    curves = precision_recall(torch.tensor([[0.0, -1e9]] * 3), torch.tensor([0, 0, 0]))
    assert curves[1, [0, 3, 5]].count_nonzero() == 0
    assert curves.isfinite().all()


def test_all_histograms_are_read_at_once(tmp_path, monkeypatch):
    reads = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda x: reads.append(x.shape) or tolist(x))
    board = Board(str(tmp_path))
    found = probe.weights_and_statistics(torch.nn.Sequential(*[torch.nn.BatchNorm1d(3)] * 5))
    board.histograms(found, 1)
    board.close()
    assert reads == [(len(found), 4 + probe.BINS)]


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_what_is_not_finite_has_no_histogram_and_ends_no_run(tmp_path, value):
    board = Board(str(tmp_path))
    rows = {"lost": torch.tensor([1.0, value]), "kept": torch.tensor([1.0, 2.0])}
    board.histograms({tag: probe.distribution(x) for tag, x in rows.items()}, 1)
    board.close()
    assert read(tmp_path).Tags()["histograms"] == ["kept"]


# -- the pictures themselves


def test_confusion_counts_rows_as_truth_and_columns_as_answers():
    labels = torch.tensor([0, 0, 1, 2, 2, 2])
    answers = torch.tensor([0, 1, 1, 2, 0, 0])
    logits = torch.nn.functional.one_hot(answers, 3).float()
    assert confusion(logits, labels).tolist() == [[1, 1, 0], [0, 1, 0], [2, 0, 1]]


def test_confusion_picture_is_green_on_the_diagonal_and_red_beside_it():
    picture = draw_confusion(torch.tensor([[5, 0], [5, 0]]), ("a", "b"))
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    centre = 68 + 14 + 28 * np.arange(2) - 9  # beside the number
    right, wrong = picture[centre[0], centre[0]], picture[centre[1], centre[0]]
    empty = picture[centre[0], centre[1]]
    assert right[1] > right[0]
    assert wrong[0] > wrong[1]
    assert (empty == 255).all()


def test_most_confident_mistake_comes_first_and_right_answers_do_not_come():
    images = torch.stack([torch.full((1, 8, 8), v, dtype=torch.uint8) for v in (10, 120, 240)])
    labels = torch.tensor([0, 0, 0])
    logits = torch.tensor([[9.0, 0], [0, 1], [0, 5]])
    picture = draw_mistakes(logits, images, labels, ("a", "b"))
    assert picture is not None
    assert (picture[:96, :96] == 240).all()
    assert (picture[:96, 104:200] == 120).all()
    assert picture.shape[1] == 208
    assert draw_mistakes(logits[:1], images[:1], labels[:1], ("a", "b")) is None


def test_no_more_than_64_mistakes_are_shown_eight_in_a_row():
    n = 70
    images = torch.zeros(n, 3, 32, 32, dtype=torch.uint8)
    logits = torch.tensor([[0.0, 1.0]]).expand(n, -1)
    picture = draw_mistakes(logits, images, torch.zeros(n, dtype=torch.int64), ("a", "b"))
    assert MISTAKES == 64
    assert picture.shape == (8 * (96 + 34), 8 * (96 + 8), 3)


def test_each_filter_has_its_own_scale():
    weight = torch.linspace(-1, 1, 2 * 3 * 9).view(2, 3, 3, 3)
    weight = torch.cat([weight, 1e-3 * weight[:1], torch.full((1, 3, 3, 3), 0.2)])
    picture = draw_filters(weight).permute(1, 2, 0)
    tiles = [picture[2:50, 2 + 50 * i : 50 + 50 * i] for i in range(4)]  # 2 pixels between them
    assert (picture[:2] == 128).all()
    for tile in tiles[:3]:
        assert (tile.min(), tile.max()) == (0, 255)
        assert (tile == tile[0, 0]).all(2).sum() == 16 * 16  # a weight is a square
    assert torch.equal(tiles[0], tiles[2])
    assert (tiles[3] == 0).all()
    assert draw_filters(torch.randn(5, 1, 3, 3)).shape[0] == 3
    grey = draw_filters(torch.randn(5, 7, 3, 3))
    assert torch.equal(grey[0], grey[1])


def test_a_perceptron_is_shown_with_its_first_layer_as_images_and_its_gap(tmp_path, monkeypatch):
    monkeypatch.setattr("training.loop.load_data", lambda *args: tiny_data())
    result = train(
        config(tmp_path, tensorboard=True, epochs=2, model="mlp", hidden=(5, 4), gap=True)
    )
    found = read(tmp_path)
    for name in ("accuracy", "loss"):
        expected = [row[f"evaluated_train_{name}"] for row in result.history]
        # event files hold float32
        assert values(found, f"train_evaluated/{name}") == pytest.approx(expected, rel=1e-7)
    event = found.Images("images/first_layer_filters")[-1]
    shown = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
    weight = load(tmp_path / "last.pt")["model"]["hidden.0.linear.weight"]
    expected = draw_filters(weight.view(5, 1, 8, 8)).permute(1, 2, 0)
    assert np.array_equal(shown, expected.numpy())


@pytest.mark.parametrize(("n", "side"), [(1, 32), (4, 64), (5, 96), (9, 96), (10, 128)])
def test_sprite_is_a_square_with_the_images_row_by_row(n, side):
    images = (10 + torch.arange(n)).to(torch.uint8).view(n, 1, 1, 1).expand(n, 1, 8, 8)
    sprite, tile = draw_sprite(images)
    assert tile == (32, 32)
    assert sprite.shape == (side, side, 3)
    shown = sprite[::32, ::32, 0].flatten()
    assert shown[:n].tolist() == list(range(10, 10 + n))
    assert (shown[n:] == 0).all()


@pytest.mark.parametrize(("n", "count"), [(10, 3), (10, 10), (3, 10), (10_000, 2000)])
def test_positions_are_spread_over_all(n, count):
    found = spread(n, count)
    assert len(found) == min(n, count)
    gaps = found.diff(append=torch.tensor([n]))
    assert found[0] == 0
    assert gaps.max() - gaps.min() <= 1


def test_a_tensor_of_equal_values_has_a_histogram(tmp_path):
    model = torch.nn.Linear(3, 2)
    torch.nn.init.zeros_(model.bias)
    board = Board(str(tmp_path))
    board.histograms(probe.weights_and_statistics(model), 1)
    board.close()
    histogram = read(tmp_path).Histograms("weights/bias")[0].histogram_value
    assert (sum(histogram.bucket), histogram.num) == (2, 2)
    assert (np.diff(histogram.bucket_limit) > 0).all()


@pytest.mark.parametrize("shape", [(70, 3, 32, 32), (5, 1, 8, 8)])
def test_batch_shows_images_of_one_and_three_channels(tmp_path, shape):
    board = Board(str(tmp_path))
    board.batch(torch.randint(0, 256, shape, dtype=torch.uint8), 0)
    board.close()
    assert read(tmp_path).Images("images/augmented_batch")[0].width > 64
