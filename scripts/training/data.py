"""The data sets: read once, kept in memory as uint8, split the same way for the same seed.

``digits`` are the 1,797 hand-written digits of 8x8 pixels that scikit-learn carries (the test part
of E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI, 1998). They come
without a test set, so a fifth of them is set aside, the same fifth whatever the seed.

``cifar10`` are the 60,000 images of A. Krizhevsky, "Learning Multiple Layers of Features from Tiny
Images", 2009, either in torchvision's files, whose checksums are verified, or as a tree of image
files, ``train/<class>/*.png`` and ``test/<class>/*.png``.

A tenth of the training images, chosen by the seed and stratified by class, is the validation set.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from training.checkpoint import remove_leftovers, write_atomically
from training.errors import UsageError

CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer",
    "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
CIFAR10_SIZE = 32  # pixels
VALIDATION_SHARE = 0.1
SUFFIXES = (".jpg", ".jpeg", ".png")
DOWNLOAD_FOLDER = Path("data")


@dataclass(frozen=True)
class Split:
    """Some images with their labels."""

    images: Tensor  # (N, C, H, W) uint8
    labels: Tensor  # (N,) int64

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Split:
        """The same on ``device``."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Data:
    """A data set, ready to train on."""

    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    mean: Tensor  # (C, 1, 1) float32, of the training images, in the units of the pixels (0..255)
    std: Tensor  # likewise; 1 for a channel that does not vary
    checksum: str  # of all images and labels; tells two data sets apart

    def normalized(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) -> float32 of the training images' mean 0 and deviation 1."""
        return (images.float() - self.mean) / self.std

    def to(self, device: torch.device) -> Data:
        """The same on ``device``."""
        return Data(
            self.classes,
            self.train.to(device),
            self.validation.to(device),
            self.test.to(device),
            self.mean.to(device),
            self.std.to(device),
            self.checksum,
        )


def load(
    dataset: str,
    data_dir: str | None,
    seed: int,
    say: Callable[[str], object] = print,
    holdout: bool = True,
    imbalance: float = 1.0,
    images: int = 0,
    label_noise: float = 0.0,
) -> Data:
    """Read ``"digits"`` or ``"cifar10"`` and split it.

    Args:
        dataset: which one.
        data_dir: folder of ``cifar10``; None reads ``data/``, and downloads into it if needed.
        seed: chooses the validation images.
        say: is told what takes long.
        holdout: set validation images aside; otherwise there are none, and all train.
        imbalance: see :func:`long_tail`. Validation and test images stay as they are.
        images: train on so many of the images only, see :func:`few`; 0: on all.
        label_noise: see :func:`with_noise`. Validation and test labels stay as they are.

    Raises:
        UsageError: the data are missing or damaged, or leave a class without images.
    """
    if dataset == "digits":
        classes = tuple("0123456789")
        train, test = _digits()
    else:
        classes = CIFAR10_CLASSES
        train, test = _cifar10(data_dir, say)
    if holdout:
        kept, held = split_indices(train.labels, seed)
    else:
        kept, held = torch.arange(len(train.labels)), torch.arange(0)
    if imbalance < 1:
        kept = kept[long_tail(train.labels[kept], imbalance, len(classes))]
    if images:
        kept = kept[few(train.labels[kept], images, seed)]
    labels = train.labels[kept]
    if label_noise:
        labels = with_noise(labels, label_noise, len(classes), seed)
    training = Split(train.images[kept], labels)
    mean, std = moments(training.images)
    checksum = _checksum(train, test)
    validation = Split(train.images[held], train.labels[held])
    return Data(classes, training, validation, test, mean, std, checksum)


def split_indices(labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Positions (int64, ascending) of the training and of the validation images.

    Each class gives a tenth of its images, rounded so that the total is a tenth.

    Raises:
        UsageError: there are too few images for that.
    """
    from sklearn.model_selection import train_test_split

    try:
        kept, held = train_test_split(
            np.arange(len(labels)),
            test_size=VALIDATION_SHARE,
            stratify=labels.numpy(),
            random_state=seed,
        )
    except ValueError as error:
        raise UsageError(
            f"{len(labels)} training images are too few to set a tenth of each class aside for "
            f"validation ({error}). Provide at least 10 images a class."
        ) from error
    return torch.from_numpy(np.sort(kept)), torch.from_numpy(np.sort(held))


def long_tail(labels: Tensor, imbalance: float, classes: int) -> Tensor:
    """Positions of images that are kept, int64, ascending: the first ones of each class.

    Of K classes k = 0 ... K - 1 with n images each, the k-th keeps n ρ^(k / (K - 1)). Y. Cui et
    al., "Class-Balanced Loss Based on Effective Number of Samples", 2019, arXiv:1901.05555, section
    5.1.

    Args:
        labels: (N,) int64.
        imbalance: ρ in (0, 1].
        classes: K.

    Raises:
        UsageError: a class would be left without images.
    """
    kept = []
    for k in range(classes):
        own = (labels == k).nonzero().flatten()
        n = int(len(own) * imbalance ** (k / max(1, classes - 1)))
        if n == 0:
            raise UsageError(
                f"--imbalance {imbalance:g} leaves none of the {len(own)} training images of class "
                f"{k}. Give a larger ratio."
            )
        kept.append(own[:n])
    return torch.cat(kept).sort().values


def few(labels: Tensor, count: int, seed: int) -> Tensor:
    """Positions of images that are kept, int64, ascending: of each class its share.

    Args:
        labels: (N,) int64.
        count: how many, less than N.
        seed: chooses them.

    Raises:
        UsageError: there are no more than ``count``, or a class would be left without images.
    """
    from sklearn.model_selection import train_test_split

    if count >= len(labels):
        raise UsageError(
            f"--train-images {count}: there are {len(labels)}. Give fewer, or leave it out."
        )
    try:
        kept, _ = train_test_split(
            np.arange(len(labels)), train_size=count, stratify=labels.numpy(), random_state=seed
        )
    except ValueError as error:
        raise UsageError(
            f"--train-images {count} leaves a class without images ({error}). Give more."
        ) from error
    return torch.from_numpy(np.sort(kept))


def with_noise(labels: Tensor, share: float, classes: int, seed: int) -> Tensor:
    """The labels, of which a share, rounded, is exchanged for any of the others.

    C. Zhang et al., "Understanding Deep Learning Requires Rethinking Generalization", ICLR 2017,
    arXiv:1611.03530: a network can learn such labels too, which is learning by heart.

    Args:
        labels: (N,) int64.
        share: 0..1.
        classes: K.
        seed: chooses the images and their labels.
    """
    dice = torch.Generator().manual_seed(seed)
    changed = torch.randperm(len(labels), generator=dice)[: round(share * len(labels))]
    moved = torch.randint(1, classes, (len(changed),), generator=dice)
    noisy = labels.clone()
    noisy[changed] = (labels[changed] + moved) % classes
    return noisy


def moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel of uint8 (N, C, H, W), each (C, 1, 1) float32.

    Exact: computed from the counts of the 256 values, in integers and float64.
    """
    values = torch.arange(256, dtype=torch.float64)
    means, stds = [], []
    for channel in images.unbind(1):
        counts = torch.bincount(channel.reshape(-1), minlength=256).double()
        share = counts / counts.sum()
        mean = (share * values).sum()
        std = (share * (values - mean) ** 2).sum().sqrt()
        means.append(mean)
        stds.append(std if std > 0 else torch.ones_like(std))
    return torch.stack(means).float().view(-1, 1, 1), torch.stack(stds).float().view(-1, 1, 1)


def _checksum(*splits: Split) -> str:
    crc = 0
    for split in splits:
        for tensor in (split.images, split.labels):
            crc = zlib.crc32(tensor.numpy().tobytes(), crc)
    return f"{crc:08x}"


def _digits() -> tuple[Split, Split]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    images = torch.from_numpy(np.rint(bunch.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    rest, tested = train_test_split(
        np.arange(len(labels)), test_size=0.2, stratify=bunch.target, random_state=0
    )
    return Split(images[rest], labels[rest]), Split(images[tested], labels[tested])


def _cifar10(data_dir: str | None, say: Callable[[str], object]) -> tuple[Split, Split]:
    root = DOWNLOAD_FOLDER if data_dir is None else Path(data_dir)
    if data_dir is not None and not root.is_dir():
        raise UsageError(
            f"--data-dir {data_dir}: there is no such folder. Correct the path, or leave "
            f"--data-dir out to download CIFAR-10 into {DOWNLOAD_FOLDER}/."
        )
    if (root / "cifar-10-batches-py").is_dir():
        return _read_batches(root, download=False)
    if (root / "train").is_dir():
        return read_tree(root, say)
    if data_dir is None:
        say(f"downloading CIFAR-10 (170 MB) into {root}/")
        return _read_batches(root, download=True)
    raise UsageError(
        f"--data-dir {data_dir}: found neither cifar-10-batches-py/ (torchvision's files) nor "
        "train/<class>/*.jpg or *.png in it. Give the folder that contains one of them, or leave "
        f"--data-dir out to download CIFAR-10 into {DOWNLOAD_FOLDER}/."
    )


def _read_batches(root: Path, download: bool) -> tuple[Split, Split]:
    """torchvision's files. Their checksums are verified before they are unpickled."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    if not download:
        folder = root / CIFAR10.base_folder
        files = [*CIFAR10.train_list, *CIFAR10.test_list]
        for name, md5 in [*files, [CIFAR10.meta["filename"], CIFAR10.meta["md5"]]]:
            if not (folder / name).is_file():
                problem = "is missing"
            elif not check_integrity(str(folder / name), md5):
                problem = f"is damaged (its MD5 is not {md5})"
            else:
                continue
            raise UsageError(
                f"{folder / name} {problem}. Unpack {CIFAR10.filename} again, or delete {folder} "
                "and leave --data-dir out to download it."
            )
    parts = []
    for train in (True, False):
        try:
            source = CIFAR10(str(root), train=train, download=download and train)
        # a refused connection is an OSError, a wrong checksum a RuntimeError, a torn archive either
        except (OSError, RuntimeError, EOFError) as error:
            raise UsageError(
                f"could not download CIFAR-10 into {root}/: {error}. Fetch {CIFAR10.url} yourself, "
                "unpack it, and give the folder that holds cifar-10-batches-py as --data-dir; or "
                "use --dataset digits, which needs no download."
            ) from error
        images = torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous()
        parts.append(Split(images, torch.tensor(source.targets)))
    return parts[0], parts[1]


def read_tree(root: Path, say: Callable[[str], object] = print) -> tuple[Split, Split]:
    """Training and test images from ``root/{train,test}/<class>/*.{jpg,jpeg,png}``.

    The decoded images are cached in ``root/.cache`` or, where that cannot be written, in
    ``~/.cache/scratch-torch``, under a name made from the path, size and time of change of every
    file, so that a changed folder is decoded again.

    Raises:
        UsageError: a class folder is missing, unknown or empty, an image unreadable or not 32x32.
    """
    files = {part: _list_images(root / part) for part in ("train", "test")}
    key = hashlib.sha256()
    for path in (path for part in files.values() for path, _ in part):
        status = path.stat()
        entry = f"{path.relative_to(root)}\0{status.st_size}\0{status.st_mtime_ns}\n"
        key.update(entry.encode())
    name = f"cifar10-{key.hexdigest()[:16]}.pt"
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scratch-torch"
    folders = [root / ".cache", home]

    for folder in folders:
        cached = _read_cache(folder / name)
        if cached is not None:
            return cached
    count = sum(map(len, files.values()))
    say(f"decoding {count:,} images in {root}; a cache will spare it next time")
    train, test = (_decode(files[part], part) for part in ("train", "test"))
    parts = {"train": train, "test": test}
    state: dict[str, object] = {"checksum": _checksum(train, test)}
    for part, split in parts.items():
        state |= {f"{part}_images": split.images, f"{part}_labels": split.labels}
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)
            write_atomically(folder / name, lambda file: torch.save(state, file))
        except (OSError, RuntimeError):  # read-only or full: the next place, or none, will do
            continue
        if folder == folders[0]:
            for stale in folder.glob("cifar10-*.pt"):
                if stale.name != name:
                    stale.unlink(missing_ok=True)
        break
    return train, test


def _list_images(folder: Path) -> list[tuple[Path, int]]:
    """All image files of one part with their labels, in the order of their names."""
    if not folder.is_dir():
        raise UsageError(
            f"{folder} is missing: the tree needs both train/<class>/ and test/<class>/."
        )
    found = {entry.name for entry in folder.iterdir() if entry.is_dir()}
    missing = [name for name in CIFAR10_CLASSES if name not in found]
    unknown = sorted(found - set(CIFAR10_CLASSES))
    if missing or unknown:
        problems = [f"unknown class folders: {', '.join(unknown)}"] if unknown else []
        problems += [f"missing class folders: {', '.join(missing)}"] if missing else []
        raise UsageError(
            f"{folder}: {'; '.join(problems)}. It must hold exactly the ten folders "
            f"{', '.join(CIFAR10_CLASSES)}."
        )
    files = []
    for label, name in enumerate(CIFAR10_CLASSES):
        paths = [p for p in (folder / name).iterdir() if p.suffix.lower() in SUFFIXES]
        if not paths:
            raise UsageError(
                f"{folder / name} holds no image ({', '.join(SUFFIXES)}). Add some, or unpack the "
                "data set again."
            )
        files += [(path, label) for path in sorted(paths)]
    return files


def _decode(files: list[tuple[Path, int]], part: str) -> Split:
    images = np.empty((len(files), CIFAR10_SIZE, CIFAR10_SIZE, 3), np.uint8)

    def decode(position: int) -> None:
        path = files[position][0]
        try:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
        # Pillow raises OSError for most damage, SyntaxError and ValueError for some
        except (OSError, SyntaxError, ValueError) as error:
            raise UsageError(
                f"{path} cannot be read as an image ({error}). Replace the file, or delete it to "
                "go on without that image."
            ) from error
        if pixels.shape != images.shape[1:]:
            height, width = pixels.shape[:2]
            raise UsageError(
                f"{path} is {width}x{height} pixels; CIFAR-10 images are "
                f"{CIFAR10_SIZE}x{CIFAR10_SIZE}. Resize or remove it."
            )
        images[position] = pixels

    # Pillow decodes without holding the interpreter's lock. tqdm is silent off a terminal.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            work = pool.map(decode, range(len(files)))
            for _ in tqdm(work, part, len(files), leave=False, disable=None, unit="image"):
                pass
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    labels = torch.tensor([label for _, label in files])
    return Split(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), labels)


def _read_cache(path: Path) -> tuple[Split, Split] | None:
    """What ``read_tree`` wrote; None if there is nothing, or something damaged, which is redone."""
    if not path.is_file():
        return None
    try:
        state = torch.load(path, weights_only=True)
        train, test = (
            Split(state[f"{part}_images"], state[f"{part}_labels"]) for part in ("train", "test")
        )
        intact = state["checksum"] == _checksum(train, test)
    except Exception:  # zip, pickle and I/O each have their own; the remedy is the same
        return None
    return (train, test) if intact else None
