"""TensorBoard: every tag is there with the right values, once, also after a run was resumed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from tests.training.test_loop import PowerCutError, at_step, config, power_cut, resumed
from training.checkpoint import load
from training.loop import train
from training.result import Result
from training.tensorboard import Board, confusion, draw_confusion, draw_mistakes

CLASSES = ("class0", "class1", "class2")


def read(folder: Path) -> EventAccumulator:
    kinds = ("scalars", "images", "histograms", "tensors", "compressedHistograms", "audio")
    found = EventAccumulator(str(folder), size_guidance=dict.fromkeys(kinds, 0))
    return found.Reload()


def steps(found: EventAccumulator, tag: str) -> list[int]:
    return [event.step for event in found.Scalars(tag)]


def values(found: EventAccumulator, tag: str) -> list[float]:
    return [event.value for event in found.Scalars(tag)]


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """One run of 3 epochs of 6 steps; its folder, its result, its events."""
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        from tests.training.conftest import TinyNet, tiny_data
        from training import recipes

        patch.setattr("training.loop.load_data", lambda *args: tiny_data())
        patch.setattr(recipes, "build_model", lambda c, k, n: TinyNet(k, n, c.dropout))
        result = train(config(folder, tensorboard=True, log_every=4, pictures_every=2))
    return folder, result, read(folder)


def test_curves_have_a_point_every_log_every_steps_and_epoch(record):
    _, _, found = record
    expected = [4, 6, 8, 12, 16, 18]
    for tag in (
        "train/loss", "train/accuracy", "images_per_second", "gradient_norm",
        "update_to_weight_ratio", "learning_rate/weights",
        "learning_rate/biases and normalizations",
    ):  # fmt: skip
        assert steps(found, tag) == expected, tag
        assert np.isfinite(values(found, tag)).all()
    for tag in ("loss", "accuracy"):
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
    charts = {chart.title: list(chart.multiline.tag) for chart in layout.category[0].chart}
    assert charts == {
        "loss": ["train/loss$", "validation/loss$"],
        "accuracy": ["train/accuracy$", "validation/accuracy$"],
    }


def test_pictures_histograms_and_texts_are_there_at_their_steps(record):
    _, _, found = record
    expected = {
        "images/augmented_batch": [0],
        "validation/confusion_matrix": [12, 18],
        "test/confusion_matrix": [18],
    }
    for tag, at in expected.items():
        assert [event.step for event in found.Images(tag)] == at, tag
    assert {"validation/mistakes", "test/mistakes"} <= set(found.Tags()["images"])
    for name in ("conv.weight", "bn.weight", "bn.bias", "fc.weight", "fc.bias"):
        assert [event.step for event in found.Histograms(f"weights/{name}")] == [12, 18]
    texts = {
        tag: found.Tensors(f"{tag}/text_summary")[-1].tensor_proto.string_val[0].decode()
        for tag in ("options", "versions", "test/confusion_matrix")
    }
    assert "| optimizer | adam |" in texts["options"]
    assert f"| torch | {torch.__version__} |" in texts["versions"]
    assert "| class2 |" in texts["test/confusion_matrix"]


def test_histograms_count_every_weight(record):
    folder, _, found = record
    weights = load(folder / "last.pt")["model"]
    for name in ("conv.weight", "fc.weight"):
        histogram = found.Histograms(f"weights/{name}")[-1].histogram_value
        tensor = weights[name].double()
        assert sum(histogram.bucket) == histogram.num == tensor.numel()
        assert histogram.min == tensor.min().item()
        assert histogram.max == tensor.max().item()
        assert histogram.sum == pytest.approx(tensor.sum().item(), abs=1e-5)
        assert histogram.sum_squares == pytest.approx(tensor.square().sum().item(), rel=1e-5)
        edges = [histogram.min, *histogram.bucket_limit]
        counts, _ = np.histogram(tensor.numpy(), edges)
        # a value on an edge may fall on either side
        assert np.abs(np.array(histogram.bucket) - counts).sum() <= 2


def test_hyperparameters_are_in_the_same_run_with_real_scalars_as_metrics(record):
    folder, _, found = record
    assert not [path for path in folder.rglob("*") if path.is_dir()]  # no second run
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1
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
        if tag != "images_per_second":
            assert values(parts, tag) == values(whole, tag), tag
    for tag in whole.Tags()["histograms"]:
        both = [[e.step for e in found.Histograms(tag)] for found in (parts, whole)]
        assert both[0] == both[1]
    for tag in whole.Tags()["images"]:
        both = [[e.step for e in found.Images(tag)] for found in (parts, whole)]
        assert both[0] == both[1], tag


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
    from tests.training.conftest import TinyNet, tiny_data
    from training import loop, recipes

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
    centre = 84 + 22 + 44 * np.arange(2) - 15  # beside the number
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


def test_a_tensor_of_equal_values_has_a_histogram(tmp_path):
    model = torch.nn.Linear(3, 2)
    torch.nn.init.zeros_(model.bias)
    board = Board(str(tmp_path))
    board.histograms(model, 1)
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
