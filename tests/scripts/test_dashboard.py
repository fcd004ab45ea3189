"""TensorBoard on a run: every tag has data, and a browser shows it without an error."""

from __future__ import annotations

import re
import struct

import pytest
from PIL import Image

import cifar10
import screenshots

pytestmark = pytest.mark.slow

CLASSES = [str(k) for k in range(10)]
PARTS = ("train", "train_epoch", "validation", "test")
LENGTHS = ("gradient_norm", "weight_norm", "update_to_weight_ratio")
WEIGHTS = ("conv1", "layer3.2.conv2", "fc")
RUN = "digits"


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """Two epochs on the digits, with pictures after both."""
    folder = tmp_path_factory.mktemp("runs")
    options = [
        "--epochs", "2", "--device", "cpu", "--layers", "torch", "--optim", "torch", "--quiet",
        "--pictures-every", "1", "--log-every", "10", "--log-dir", str(folder / RUN),
    ]  # fmt: skip
    assert cifar10.main(options) == 0
    return folder


@pytest.fixture(scope="module")
def address(logs):
    with screenshots.serve(logs) as address:
        yield address


def tags(address: str, plugin: str) -> set[str]:
    return set(screenshots.get(address, f"{plugin}/tags")[RUN])


def test_every_curve_has_points(address):
    found = tags(address, "scalars")
    assert found >= {
        *[f"{part}/{name}" for part in PARTS for name in ("loss", "accuracy")],
        *[f"validation_class/{name}" for name in CLASSES],
        *[f"layer_{what}/{name}.weight" for what in LENGTHS for name in WEIGHTS],
        "learning_rate/weights", "learning_rate/biases and normalizations", "gradient_norm",
        "update_to_weight_ratio", "images_per_second", "data_share", "train_seconds",
    }  # fmt: skip
    for tag in found:
        points = screenshots.get(address, "scalars/scalars", run=RUN, tag=tag)
        steps = [step for _, step, _ in points]
        assert steps == sorted(set(steps)), tag
        assert len(steps) >= (1 if tag.startswith(("test/", "train_seconds")) else 2), tag


def test_every_chart_of_the_layout_has_curves(address):
    layout = screenshots.get(address, "custom_scalars/layout")
    titles = [category["title"] for category in layout["category"]]
    assert titles == [
        "training and validation", "learning rate", "gradients and updates",
        "accuracy of each class", "speed",
    ]  # fmt: skip
    for category in layout["category"]:
        for chart in category["chart"]:
            for tag in chart["multiline"]["tag"]:
                found = screenshots.get(address, "custom_scalars/scalars", tag=tag, run=RUN)
                assert found["regex_valid"]
                curves = found["tag_to_events"]
                assert curves, (chart["title"], tag)
                assert all(curves.values()), (chart["title"], tag)


def test_every_image_is_a_picture(address):
    found = screenshots.get(address, "images/tags")[RUN]
    assert set(found) == {
        "images/augmented_batch", "images/first_layer_filters", "validation/confusion_matrix",
        "validation/mistakes", "test/confusion_matrix", "test/mistakes",
    }  # fmt: skip
    for tag in found:
        for entry in screenshots.get(address, "images/images", run=RUN, tag=tag, sample=0):
            url = f"images/individualImage?{entry['query']}"
            path, _, query = url.partition("?")
            pairs = dict(pair.split("=", 1) for pair in query.split("&"))
            content = screenshots.get(address, path, **pairs)
            assert content.startswith(b"\x89PNG"), tag


def test_every_histogram_and_distribution_has_values(address):
    found = tags(address, "histograms")
    assert found == tags(address, "distributions")
    assert found >= {
        "weights/conv1.weight", "weights/fc.bias", "statistics/bn1.running_mean",
        "statistics/layer3.2.bn2.running_var", "activations/bn1", "activations/layer3.2.relu.2",
    }  # fmt: skip
    for tag in found:
        rows = screenshots.get(address, "histograms/histograms", run=RUN, tag=tag)
        assert len(rows) == 2, tag
        for _, _, bins in rows:
            assert sum(count for _, _, count in bins) >= 1, tag


def test_every_class_has_a_curve_of_precision_and_recall(address):
    found = tags(address, "pr_curves")
    assert found == {
        f"{part}_precision_recall/{name}" for part in ("validation", "test") for name in CLASSES
    }
    for tag in found:
        (curves,) = screenshots.get(address, "pr_curves/pr_curves", run=RUN, tag=tag).values()
        for curve in curves:
            assert len(curve["precision"]) == len(curve["recall"]) > 1
            assert max(curve["recall"]) == 1


def test_options_stand_against_accuracy_and_time(address):
    experiment = screenshots.get(address, "hparams/experiment", {"experimentName": ""})
    metrics = {info["name"]["tag"] for info in experiment["metricInfos"]}
    assert {"test/accuracy", "validation/loss", "train_seconds"} <= metrics
    request = {"allowedStatuses": ["STATUS_SUCCESS"], "sliceSize": 10, "startIndex": 0}
    (group,) = screenshots.get(address, "hparams/session_groups", request)["sessionGroups"]
    assert group["hparams"]["optimizer"] == "adam"
    assert len(group["metricValues"]) == len(metrics)


def test_texts_and_the_graph_are_there(address):
    expected = {"options", "versions", "environment", "test/confusion_matrix"}
    assert {f"{tag}/text_summary" for tag in expected} <= tags(address, "text")
    graph = screenshots.get(address, "graphs/graph", run=RUN, conceptual="false").decode()
    assert len(re.findall(r'op: "Conv(2d|3x3)"', graph)) == 19


def test_projector_has_a_point_and_a_picture_for_every_test_image(address, logs):
    (run,) = screenshots.get(address, "projector/runs")
    (shown,) = screenshots.get(address, "projector/info", run=run)["embeddings"]
    n, width = shown["tensorShape"]
    assert (n, width) == (360, 64)
    where = {"run": run, "name": shown["tensorName"]}
    points = screenshots.get(address, "projector/tensor", **where)
    assert len(struct.unpack(f"{n * width}f", points)) == n * width
    labels = screenshots.get(address, "projector/metadata", **where).decode().splitlines()
    assert len(labels) == 1 + n
    sprite = screenshots.get(address, "projector/sprite_image", **where)
    assert sprite.startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def driver():
    if screenshots.missing():
        pytest.skip(f"not installed: {', '.join(screenshots.missing())}")
    with screenshots.browser() as driver:
        yield driver


@pytest.mark.parametrize("name", screenshots.DASHBOARDS)
def test_dashboard_is_shown_without_an_error(address, driver, name, tmp_path):
    path = tmp_path / f"{name}.png"
    screenshots.take(driver, address, name, path)
    assert screenshots.complaints(driver) == []
    with Image.open(path) as picture:
        assert len(picture.convert("RGB").getcolors(2**24)) > 16  # not an empty page
    assert path.stat().st_size < 300_000


def test_custom_scalars_is_open_with_every_chart_of_its_first_category(address, driver):
    screenshots.open_dashboard(driver, address, "custom-scalars")
    assert screenshots.count(driver, "vz-line-chart2") >= 4
