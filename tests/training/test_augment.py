"""Augmentation: what comes out is made of what went in, and of the generator alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.augment import augment, crop, cutout, flip, mirror

shapes = st.tuples(st.integers(1, 9), st.sampled_from([1, 3]), st.integers(4, 9), st.integers(4, 9))
seeds = st.integers(0, 2**32 - 1)


def generator(seed: int = 0, device: str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def distinct(shape: tuple[int, ...]) -> torch.Tensor:
    """Every pixel another value, so that each can be recognized."""
    return torch.arange(1, 1 + int(np.prod(shape)), dtype=torch.int32).view(shape)


@given(shapes, seeds)
@settings(max_examples=50, deadline=None)
def test_flip_gives_each_image_or_its_mirror_image(shape, seed):
    images = distinct(shape)
    for before, after in zip(images, flip(images, generator(seed)), strict=True):
        assert torch.equal(after, before) or torch.equal(after, before.flip(-1))


def test_flip_mirrors_half_of_the_images():
    images = distinct((4000, 1, 1, 2))
    mirrored = (flip(images, generator())[:, 0, 0, 0] != images[:, 0, 0, 0]).double().mean()
    assert abs(mirrored - 0.5) < 0.032  # 4 standard deviations of a share of 4000


@given(shapes, seeds, st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_crop_is_a_window_of_the_padded_image(shape, seed, padding):
    images = distinct(shape)
    height, width = shape[2:]
    cropped = crop(images, padding, generator(seed))
    assert cropped.shape == images.shape
    edges = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    padded = torch.from_numpy(np.pad(images.numpy(), edges, mode="reflect"))
    for i, after in enumerate(cropped):
        windows = [
            padded[i, :, y : y + height, x : x + width]
            for y in range(2 * padding + 1)
            for x in range(2 * padding + 1)
        ]
        assert any(torch.equal(after, window) for window in windows)


def test_crop_uses_every_window_equally_often():
    images = distinct((1, 1, 8, 8)).expand(9000, 1, 8, 8)
    found = crop(images, 1, generator())
    _, counts = found.flatten(1).unique(dim=0, return_counts=True)
    assert len(counts) == 9
    assert counts.double().sub(1000).abs().max() < 4 * (9000 * 8 / 81) ** 0.5  # 4 deviations


@given(shapes, seeds, st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_cutout_fills_one_square_and_leaves_the_rest(shape, seed, size):
    images = distinct(shape)
    fill = -torch.arange(1, shape[1] + 1)
    for before, after in zip(images, cutout(images, size, fill, generator(seed)), strict=True):
        changed = after != before
        assert torch.equal(after[changed], fill.view(-1, 1, 1).expand(after.shape)[changed].int())
        assert all(torch.equal(channel, changed[0]) for channel in changed)
        rows, columns = changed[0].any(1), changed[0].any(0)
        assert torch.equal(changed[0], rows[:, None] & columns)  # a rectangle ...
        for line in (rows, columns):
            inside = line.nonzero().flatten()
            assert 1 <= len(inside) <= size  # ... of that side, less what is beyond the edge ...
            assert inside[-1] - inside[0] + 1 == len(inside)  # ... without gaps


def test_cutout_is_whole_when_its_centre_is_inside():
    sizes = (cutout(distinct((500, 1, 32, 32)), 16, torch.zeros(1), generator()) == 0).sum(
        (1, 2, 3)
    )
    assert sizes.max() == 16 * 16
    assert sizes.min() >= 8 * 8


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_shape_and_dtype_stay(dtype):
    images = torch.randint(0, 256, (5, 3, 16, 16)).to(dtype)
    out = augment(images, ("flip", "crop", "cutout"), torch.tensor([1.0, 2, 3]), generator())
    assert out.shape == images.shape
    assert out.dtype == dtype


def test_nothing_chosen_changes_nothing_and_draws_nothing():
    images, g = distinct((4, 1, 8, 8)), generator(3)
    state = g.get_state()
    assert augment(images, (), torch.zeros(1), g) is images
    assert torch.equal(g.get_state(), state)


@pytest.mark.parametrize("choice", ["flip", "crop", "cutout"])
def test_the_generator_alone_decides(choice):
    images, fill = distinct((64, 3, 16, 16)), torch.zeros(3)
    torch.manual_seed(0)
    first = augment(images, (choice,), fill, generator(1))
    before = torch.get_rng_state()
    again = augment(images, (choice,), fill, generator(1))
    assert torch.equal(torch.get_rng_state(), before)  # torch's own generator is left alone
    assert torch.equal(first, again)
    assert not torch.equal(first, augment(images, (choice,), fill, generator(2)))
    assert not torch.equal(first, images)


def test_the_images_handed_in_are_not_changed():
    images = distinct((16, 3, 8, 8))
    kept = images.clone()
    augment(images, ("flip", "crop", "cutout"), torch.zeros(3), generator())
    assert torch.equal(images, kept)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_augmentation_waits_for_the_device():
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8, device="cuda")
    g, fill = generator(0, "cuda"), torch.zeros(3, device="cuda")
    augment(images, ("flip", "crop", "cutout"), fill, g)
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = augment(images, ("flip", "crop", "cutout"), fill, g)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert out.device == images.device


@given(shapes, seeds)
@settings(max_examples=50, deadline=None)
def test_any_two_epochs_of_alternating_flips_show_both_sides(shape, seed):
    images = distinct(shape)
    heads = torch.rand(len(images), generator=generator(seed)) < 0.5
    first, second = (mirror(images, heads ^ odd) for odd in (False, True))
    for before, a, b in zip(images, first, second, strict=True):
        assert torch.equal(a, b.flip(-1))
        assert torch.equal(a, before) or torch.equal(b, before)
    with pytest.raises(ValueError, match="due to be mirrored"):
        augment(images, ["altflip"], torch.zeros(shape[1]), generator())


def test_the_padding_of_the_crop_may_be_chosen():
    images = distinct((50, 1, 9, 9))
    for padding in (1, 3):
        found = augment(images, ["crop"], torch.zeros(1), generator(), padding=padding)
        assert torch.equal(found, crop(images, padding, generator()))
