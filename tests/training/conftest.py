"""What the tests of the training scripts share."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from training import data, recipes
from training.data import CIFAR10_CLASSES, Data, Split


class TinyNet(nn.Module):
    """Convolution, batch normalization, dropout, classifier: something of each kind of state."""

    def __init__(self, num_classes: int, in_channels: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 4, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(4, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.drop(torch.relu(self.bn(self.conv(x))).mean((2, 3))))


def tiny_data(classes: int = 3, per_class: int = 20, seed: int = 0) -> Data:
    """Images of noise on a class-dependent grey; learnable, and done in a moment."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat(per_class)
    noise = torch.randint(0, 120, (len(labels), 1, 8, 8), generator=generator)
    images = (noise + 60 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    kept, held = data.split_indices(labels, seed)
    train = Split(images[kept], labels[kept])
    mean, std = data.moments(train.images)
    whole = Split(images, labels)
    names = tuple(f"class{i}" for i in range(classes))
    return Data(names, train, Split(images[held], labels[held]), whole, mean, std, "0123abcd")


@pytest.fixture(autouse=True)
def sigint_as_in_a_terminal() -> Iterator[None]:
    """A shell that starts the tests in the background has Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training runs use ``TinyNet`` on ``tiny_data``: 54 images to train, 6 to validate."""
    monkeypatch.setattr("training.loop.load_data", lambda *args: tiny_data())
    monkeypatch.setattr(
        recipes,
        "build_model",
        lambda config, classes, shape: TinyNet(classes, shape[0], config.dropout),
    )


@pytest.fixture
def make_tree(tmp_path: Path) -> Callable[..., Path]:
    """Writes a tree of PNG images in CIFAR-10's layout: random pixels, ``n`` a class and part."""

    def make(n: int = 12, seed: int = 0) -> Path:
        random = np.random.default_rng(seed)
        root = tmp_path / "tree"
        for part in ("train", "test"):
            for name in CIFAR10_CLASSES:
                folder = root / part / name
                folder.mkdir(parents=True)
                for i in range(n):
                    pixels = random.integers(0, 256, (32, 32, 3), np.uint8)
                    Image.fromarray(pixels).save(folder / f"{i:04d}.png")
        return root

    return make
