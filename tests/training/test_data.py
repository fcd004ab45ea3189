"""Data: what is read is what is there, damage is named, the cache notices changes."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import CIFAR10

from training import data
from training.data import CIFAR10_CLASSES, read_tree, split_indices
from training.errors import UsageError


def quiet(line: str) -> None:
    """Says nothing."""


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    """No test reads or writes the cache of the user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))


# -- the split


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_split_is_disjoint_complete_and_stratified(seed):
    labels = torch.arange(10).repeat_interleave(50)
    kept, held = split_indices(labels, seed)
    assert torch.equal(torch.cat([kept, held]).sort().values, torch.arange(500))
    assert torch.equal(labels[held].bincount(), torch.full((10,), 5))


def test_split_is_a_function_of_the_seed():
    labels = torch.arange(10).repeat(50)
    assert torch.equal(split_indices(labels, 1)[1], split_indices(labels, 1)[1])
    assert not torch.equal(split_indices(labels, 1)[1], split_indices(labels, 2)[1])


def test_split_refuses_too_few_images():
    with pytest.raises(UsageError, match="10 training images are too few"):
        split_indices(torch.arange(10), 0)


def test_moments_are_those_of_float64():
    images = torch.randint(0, 256, (30, 3, 7, 5), dtype=torch.uint8)
    mean, std = data.moments(images)
    exact = images.double().transpose(0, 1).flatten(1)
    # one rounding to float32
    torch.testing.assert_close(mean.flatten().double(), exact.mean(1), rtol=6e-8, atol=0)
    deviation = exact.std(1, correction=0)
    torch.testing.assert_close(std.flatten().double(), deviation, rtol=6e-8, atol=0)


def test_a_constant_channel_has_deviation_one():
    assert data.moments(torch.full((2, 1, 4, 4), 7, dtype=torch.uint8))[1].item() == 1


# -- digits


def test_digits_keep_their_test_set_whatever_the_seed():
    one, two = data.load("digits", None, 0, quiet), data.load("digits", None, 1, quiet)
    assert torch.equal(one.test.images, two.test.images)
    assert not torch.equal(one.validation.images, two.validation.images)
    assert one.checksum == two.checksum
    assert [len(s) for s in (one.train, one.validation, one.test)] == [1293, 144, 360]


def test_digits_are_all_of_scikit_learns_pixels():
    from sklearn.datasets import load_digits

    read = data.load("digits", None, 0, quiet)
    parts = [read.train, read.validation, read.test]
    ours = torch.cat([s.images.flatten(1) for s in parts]).double() * 16 / 255
    rows = {
        (*map(round, row), label)
        for row, label in zip(
            ours.tolist(), torch.cat([s.labels for s in parts]).tolist(), strict=True
        )
    }
    assert read.train.images.max() == 255  # white is white
    bunch = load_digits()
    assert rows == {
        (*map(int, row), label)
        for row, label in zip(bunch.data, bunch.target.tolist(), strict=True)
    }


# -- a tree of files


def test_tree_gives_every_pixel_with_its_label(make_tree):
    root = make_tree(3)
    train, test = read_tree(root, quiet)
    for split, part in ((train, "train"), (test, "test")):
        assert split.images.shape == (30, 3, 32, 32)
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        for i in range(30):
            path = root / part / CIFAR10_CLASSES[split.labels[i]] / f"{i % 3:04d}.png"
            pixels = torch.from_numpy(np.asarray(Image.open(path)).copy())
            assert torch.equal(split.images[i].permute(1, 2, 0), pixels)


def test_tree_reads_jpeg_and_grey_images(make_tree):
    root = make_tree(1)
    picture = Image.new("L", (32, 32), 77)
    picture.save(root / "test" / "cat" / "0000.png")
    picture.save(root / "test" / "dog" / "0001.JPG")
    _, test = read_tree(root, quiet)
    assert len(test) == 11
    assert (test.images[test.labels == 3] == 77).all()
    assert (test.images[test.labels == 5][1] == 77).all()


def test_load_splits_the_tree(make_tree):
    read = data.load("cifar10", str(make_tree(10)), 0, quiet)
    assert [len(s) for s in (read.train, read.validation, read.test)] == [90, 10, 100]
    assert read.classes == CIFAR10_CLASSES


def test_second_reading_opens_no_image(make_tree, monkeypatch):
    root = make_tree(2)
    first = read_tree(root, quiet)
    monkeypatch.setattr(data, "_decode", None)
    second = read_tree(root, quiet)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.labels, b.labels)
    assert len(list((root / ".cache").iterdir())) == 1  # and nothing temporary is left


def test_changed_tree_is_read_again_and_the_old_cache_removed(make_tree):
    root = make_tree(2)
    read_tree(root, quiet)
    changed = root / "train" / "frog" / "0001.png"
    Image.new("RGB", (32, 32), (1, 2, 3)).save(changed)
    train, _ = read_tree(root, quiet)
    assert torch.equal(
        train.images[13], torch.tensor([1, 2, 3], dtype=torch.uint8).view(3, 1, 1).expand(3, 32, 32)
    )
    (root / "train" / "frog" / "0000.png").unlink()
    assert len(read_tree(root, quiet)[0]) == 19
    assert len(list((root / ".cache").iterdir())) == 1


@pytest.mark.parametrize("change", ["time", "size"])
def test_a_change_of_time_or_size_alone_is_noticed(make_tree, change):
    root = make_tree(1)
    path = root / "train" / "ship" / "0000.png"
    read_tree(root, quiet)
    cache = next((root / ".cache").iterdir())
    status = path.stat()
    if change == "size":
        path.write_bytes(path.read_bytes() + b"beyond the end of the image")
    moved = status.st_mtime_ns + (change == "time")
    os.utime(path, ns=(status.st_atime_ns, moved))
    read_tree(root, quiet)
    assert next((root / ".cache").iterdir()) != cache


@pytest.mark.parametrize("damage", ["truncated", "garbage", "flipped byte"])
def test_damaged_cache_is_made_again(make_tree, damage):
    root = make_tree(1)
    first = read_tree(root, quiet)
    cache = next((root / ".cache").iterdir())
    content = bytearray(cache.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "garbage":
        content = bytearray(b"not a cache")
    else:
        where = content.find(first[0].images.numpy().tobytes()[:64])
        assert where > 0
        content[where] ^= 255
    cache.write_bytes(content)
    assert torch.equal(read_tree(root, quiet)[0].images, first[0].images)
    assert torch.load(cache, weights_only=True)["checksum"]


def test_cache_goes_home_where_the_data_are_read_only(make_tree, tmp_path, monkeypatch):
    root = make_tree(1)
    (root / ".cache").write_text("a file where the folder should be")
    read_tree(root, quiet)
    assert len(list((tmp_path / "home" / "scratch-torch").iterdir())) == 1
    monkeypatch.setattr(data, "_decode", None)
    read_tree(root, quiet)


def test_without_any_place_for_a_cache_the_data_are_read_all_the_same(make_tree, tmp_path):
    root = make_tree(1)
    (root / ".cache").write_text("")
    (tmp_path / "home").write_text("")
    assert len(read_tree(root, quiet)[0]) == 10


# -- torchvision's files


def write_batches(root: Path, monkeypatch) -> tuple[np.ndarray, list[int]]:
    """torchvision's files of random images, and torchvision told to expect their checksums."""
    random = np.random.default_rng(0)
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    pixels = random.integers(0, 256, (6, 40, 3072), np.uint8)
    labels = [list(range(10)) * 4 for _ in names]
    lists = []
    for name, block, targets in zip(names, pixels, labels, strict=True):
        content = pickle.dumps({"data": block, "labels": targets})
        (folder / name).write_bytes(content)
        lists.append([name, hashlib.md5(content).hexdigest()])
    content = pickle.dumps({"label_names": list(CIFAR10_CLASSES)})
    (folder / "batches.meta").write_bytes(content)
    meta = {
        "filename": "batches.meta",
        "key": "label_names",
        "md5": hashlib.md5(content).hexdigest(),
    }
    monkeypatch.setattr(CIFAR10, "train_list", lists[:5])
    monkeypatch.setattr(CIFAR10, "test_list", lists[5:])
    monkeypatch.setattr(CIFAR10, "meta", meta)
    return pixels, labels[5]


def test_torchvision_files_give_every_pixel(tmp_path, monkeypatch):
    pixels, labels = write_batches(tmp_path, monkeypatch)
    read = data.load("cifar10", str(tmp_path), 0, quiet)
    assert torch.equal(read.test.images, torch.from_numpy(pixels[5]).view(40, 3, 32, 32))
    assert read.test.labels.tolist() == labels
    kept, held = split_indices(torch.arange(10).repeat(20), 0)
    every = torch.from_numpy(pixels[:5]).reshape(200, 3, 32, 32)
    assert torch.equal(read.train.images, every[kept])
    assert torch.equal(read.validation.images, every[held])


def test_default_folder_is_used_without_a_download(tmp_path, monkeypatch):
    write_batches(tmp_path / "data", monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert len(data.load("cifar10", None, 0, quiet).test) == 40


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
def test_damaged_and_missing_batches_are_named_before_they_are_unpickled(
    tmp_path, monkeypatch, name
):
    write_batches(tmp_path, monkeypatch)
    path = tmp_path / "cifar-10-batches-py" / name
    path.write_bytes(b"cos\nsystem\n(S'exit 3'\ntR.")  # would run a command if it were unpickled
    with pytest.raises(
        UsageError, match=rf"{name} is damaged .*Unpack cifar-10-python.tar.gz again"
    ):
        data.load("cifar10", str(tmp_path), 0, quiet)
    path.unlink()
    with pytest.raises(UsageError, match=rf"{name} is missing"):
        data.load("cifar10", str(tmp_path), 0, quiet)


def test_failed_download_names_the_address_and_the_way_round(tmp_path, monkeypatch):
    def refuse(self):
        raise OSError("connection refused")

    monkeypatch.setattr(CIFAR10, "download", refuse)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"connection refused.*cs\.toronto\.edu.*--data-dir"):
        data.load("cifar10", None, 0, quiet)


# -- damage in a tree


def break_tree(root: Path, how: str) -> str:
    """Break the tree; returns what the message must say."""
    cat = root / "train" / "cat"
    if how == "no folder":
        return break_nothing(root / "elsewhere")
    if how == "empty folder":
        os.rename(root / "train", root / "other")
        return "found neither cifar-10-batches-py/"
    if how == "no test":
        os.rename(root / "test", root / "other")
        return "test is missing"
    if how == "unknown class":
        os.rename(cat, root / "train" / "kitten")
        return "unknown class folders: kitten; missing class folders: cat"
    if how == "extra class":
        (root / "train" / "zebra").mkdir()
        return "unknown class folders: zebra. It must hold exactly"
    if how == "missing class":
        os.rename(cat, root / "cat")
        return "missing class folders: cat"
    if how == "class without images":
        (cat / "0000.png").unlink()
        return "holds no image"
    if how == "wrong size":
        Image.new("RGB", (28, 30)).save(cat / "0000.png")
        return r"cat/0000.png is 28x30 pixels; CIFAR-10 images are 32x32"
    if how == "truncated image":
        content = (cat / "0000.png").read_bytes()
        (cat / "0000.png").write_bytes(content[: len(content) // 2])
        return r"cat/0000.png cannot be read as an image"
    (cat / "0000.png").write_text("no image")
    return r"cat/0000.png cannot be read as an image"


def break_nothing(path: Path) -> str:
    return f"--data-dir {path}: there is no such folder"


@pytest.mark.parametrize(
    "how",
    [
        "no folder", "empty folder", "no test", "unknown class", "extra class", "missing class",
        "class without images", "wrong size", "truncated image", "not an image",
    ],
)  # fmt: skip
def test_damaged_tree_is_refused_by_name_and_leaves_no_cache(make_tree, how):
    root = make_tree(1)
    says = break_tree(root, how)
    where = root / "elsewhere" if how == "no folder" else root
    with pytest.raises(UsageError, match=says):
        data.load("cifar10", str(where), 0, quiet)
    assert not (root / ".cache").exists()
