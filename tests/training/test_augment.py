"""Augmentation: what comes out is made of what went in, and of the generator alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torchvision.transforms.v2 import functional as TF

from training import trivial
from training.augment import Mix, augment, crop, cutout, draw_mix, flip, mirror
from training.dice import Dice
from training.distributed import World

shapes = st.tuples(st.integers(1, 9), st.sampled_from([1, 3]), st.integers(4, 9), st.integers(4, 9))
seeds = st.integers(0, 2**32 - 1)


def generator(seed: int = 0, device: str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


def dice(images: torch.Tensor, seed: int = 0) -> Dice:
    return Dice(generator(seed), len(images))


def distinct(shape: tuple[int, ...]) -> torch.Tensor:
    """Every pixel another value, so that each can be recognized."""
    return torch.arange(1, 1 + int(np.prod(shape)), dtype=torch.int32).view(shape)


@given(shapes, seeds)
@settings(max_examples=50, deadline=None)
def test_flip_gives_each_image_or_its_mirror_image(shape, seed):
    images = distinct(shape)
    for before, after in zip(images, flip(images, dice(images, seed)), strict=True):
        assert torch.equal(after, before) or torch.equal(after, before.flip(-1))


def test_flip_mirrors_half_of_the_images():
    images = distinct((4000, 1, 1, 2))
    mirrored = (flip(images, dice(images))[:, 0, 0, 0] != images[:, 0, 0, 0]).double().mean()
    assert abs(mirrored - 0.5) < 0.032  # 4 standard deviations of a share of 4000


@given(shapes, seeds, st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_crop_is_a_window_of_the_padded_image(shape, seed, padding):
    images = distinct(shape)
    height, width = shape[2:]
    cropped = crop(images, padding, dice(images, seed))
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
    found = crop(images, 1, dice(images))
    _, counts = found.flatten(1).unique(dim=0, return_counts=True)
    assert len(counts) == 9
    assert counts.double().sub(1000).abs().max() < 4 * (9000 * 8 / 81) ** 0.5  # 4 deviations


@given(shapes, seeds, st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_cutout_fills_one_square_and_leaves_the_rest(shape, seed, size):
    images = distinct(shape)
    fill = -torch.arange(1, shape[1] + 1)
    for before, after in zip(images, cutout(images, size, fill, dice(images, seed)), strict=True):
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
    images = distinct((500, 1, 32, 32))
    sizes = (cutout(images, 16, torch.zeros(1), dice(images)) == 0).sum((1, 2, 3))
    assert sizes.max() == 16 * 16
    assert sizes.min() >= 8 * 8


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16])
def test_shape_and_dtype_stay(dtype):
    images = torch.randint(0, 256, (5, 3, 16, 16)).to(dtype)
    out = augment(images, ("flip", "crop", "cutout"), torch.tensor([1.0, 2, 3]), dice(images))
    assert out.shape == images.shape
    assert out.dtype == dtype


def test_nothing_chosen_changes_nothing_and_draws_nothing():
    images, g = distinct((4, 1, 8, 8)), generator(3)
    state = g.get_state()
    assert augment(images, (), torch.zeros(1), Dice(g, 4)) is images
    assert torch.equal(g.get_state(), state)


@pytest.mark.parametrize("choice", ["flip", "crop", "trivial", "cutout"])
def test_the_generator_alone_decides(choice):
    images = torch.arange(64 * 3 * 16 * 16).remainder(251).view(64, 3, 16, 16).to(torch.uint8)
    fill = torch.zeros(3)
    torch.manual_seed(0)
    first = augment(images, (choice,), fill, dice(images, 1))
    before = torch.get_rng_state()
    again = augment(images, (choice,), fill, dice(images, 1))
    assert torch.equal(torch.get_rng_state(), before)  # torch's own generator is left alone
    assert torch.equal(first, again)
    assert not torch.equal(first, augment(images, (choice,), fill, dice(images, 2)))
    assert not torch.equal(first, images)


def test_the_images_handed_in_are_not_changed():
    images = distinct((16, 3, 8, 8))
    kept = images.clone()
    augment(images, ("flip", "crop", "cutout"), torch.zeros(3), dice(images))
    assert torch.equal(images, kept)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_augmentation_waits_for_the_device():
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8, device="cuda")
    g, fill = Dice(generator(0, "cuda"), 64), torch.zeros(3, device="cuda")
    choices = ("flip", "crop", "trivial", "cutout")
    augment(images, choices, fill, g)
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = augment(images, choices, fill, g)
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
        augment(images, ["altflip"], torch.zeros(shape[1]), dice(images))


def test_the_padding_of_the_crop_may_be_chosen():
    images = distinct((50, 1, 9, 9))
    for padding in (1, 3):
        found = augment(images, ["crop"], torch.zeros(1), dice(images), padding=padding)
        assert torch.equal(found, crop(images, padding, dice(images)))


@pytest.mark.parametrize("choice", ["flip", "crop", "trivial", "cutout"])
@pytest.mark.parametrize("size", [2, 3])
def test_parts_of_a_batch_are_augmented_as_the_whole(choice, size):
    """So that processes that share a batch train on what one process would."""
    images = torch.randint(0, 256, (31, 3, 16, 16), dtype=torch.uint8)
    whole = augment(images, (choice,), torch.zeros(3), dice(images, 1))
    found = torch.zeros_like(whole)
    for rank in range(size):
        part = World(rank, size).part(31)
        own = Dice(generator(1), 31, part)
        found[part] = augment(images[part], (choice,), torch.zeros(3), own)
    assert torch.equal(found, whole)


# -- two images in one


def test_mixup_is_the_blend_of_an_image_and_its_partner():
    images = torch.randint(0, 256, (7, 3, 4, 5), dtype=torch.uint8)
    mixed = Mix(0.3)(images)
    exact = 0.3 * images.double() + 0.7 * images.flip(0).double()
    assert (mixed.double() - exact).abs().max() <= 0.5 + 1e-4  # rounded, from float32


@given(st.floats(0.1, 3), seeds, st.integers(4, 9), st.integers(4, 9))
@settings(max_examples=50, deadline=None)
def test_the_share_of_a_cutmix_is_the_area_that_is_left(alpha, seed, height, width):
    images = torch.stack([torch.zeros(1, height, width), torch.ones(1, height, width)])
    mix = draw_mix(0.0, alpha, (height, width), seed)
    mixed = mix(images)
    for one, partner in zip(mixed, (1, 0), strict=True):
        assert mix.share == pytest.approx(1 - (one == partner).double().mean().item())
    assert torch.equal(mixed.flip(0), 1 - mixed)


def test_shares_are_distributed_as_beta():
    shares = [draw_mix(0.4, 0.0, (8, 8), seed).share for seed in range(5000)]
    # of the Kolmogorov-Smirnov test: one of a thousand sets of seeds would be less likely
    assert stats.kstest(shares, stats.beta(0.4, 0.4).cdf).pvalue > 1e-3
    assert draw_mix(0.0, 0.0, (8, 8), 0) is None


def test_a_coin_decides_between_mixup_and_cutmix():
    cut = sum(draw_mix(1.0, 1.0, (8, 8), seed).box is not None for seed in range(2000))
    assert abs(cut / 2000 - 0.5) < 0.045  # 4 standard deviations


# -- one random operation


def small_tones(n: int = 6) -> torch.Tensor:
    """Images whose histograms have gaps at both ends, so that every operation changes them."""
    noise = torch.randint(0, 256, (n, 3, 32, 32), generator=generator())
    return (0.3 * noise.float().mean(1, keepdim=True) + 0.4 * noise + 20).to(torch.uint8)


def is_near(ours: torch.Tensor, theirs: torch.Tensor, pixels: float) -> None:
    """Equal but for the rounding of a value, in so large a share of the pixels."""
    apart = (ours.double() - theirs.double()).abs()
    assert apart.max() <= 1
    assert (apart > 0).double().mean() <= pixels


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("u", [0.1, 0.4, 1.0])
def test_random_operations_are_torchvisions(u, sign):
    x = small_tones()
    half = trivial.blended
    strength = torch.full((len(x), 1, 1, 1), u)
    factor = 1 + 0.99 * sign * u
    blends = {
        "brightness": TF.adjust_brightness,
        "color": TF.adjust_saturation,
        "contrast": TF.adjust_contrast,
        "sharpness": TF.adjust_sharpness,
    }
    for name, theirs in blends.items():
        ours = half(x.float(), trivial.REFERENCES[name](x.float()), 1 + 0.99 * sign * strength)
        is_near(ours, theirs(x, factor), 0.01)  # float32 before it is cut off
    tones = {
        "posterize": TF.posterize(x, 8 - round(6 * u)),
        "solarize": TF.solarize(x, 255 * (1 - u)),
        "stretch": TF.autocontrast(x),
        "equalize": TF.equalize(x),
    }
    for name, expected in tones.items():
        is_near(trivial.TONES[name](x.float(), strength), expected, 0.01)
    s, degrees = sign * u, math.degrees(math.atan(0.99 * sign * u))
    plain = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    moves = {
        "nothing": {},
        "shear x": {"shear": [degrees, 0.0]},
        "shear y": {"shear": [0.0, degrees]},
        "move x": {"translate": [int(32 * s), 0]},
        "move y": {"translate": [0, int(32 * s)]},
        "rotate": {"angle": -135 * s},  # they count clockwise here
    }
    for name, options in moves.items():
        kind = torch.full((len(x), 1, 1, 1), trivial.OPERATIONS.index(name))
        ours = trivial.moved(x.float(), kind, sign * strength, torch.zeros(3))
        theirs = TF.affine(x, **(plain | options))
        # pixels whose source lies between two, to the rounding of float32
        assert (ours != theirs).double().mean() < 0.01, name


def test_each_image_has_an_operation_of_its_own_and_all_occur():
    x = small_tones(1).expand(2000, -1, -1, -1).contiguous()
    y = trivial.trivial(x, torch.zeros(3), dice(x))
    kinds = dice(x).integers(0, len(trivial.OPERATIONS), 1, 1, 1).flatten()
    assert set(kinds.tolist()) == set(range(len(trivial.OPERATIONS)))
    same = (y == x).flatten(1).all(1)
    assert same[kinds == 0].all()
    # a strength of 0 is one in 31, which leaves most operations without effect
    assert same[kinds != 0].double().mean() < 0.1
