"""Random numbers for the images of a batch, some of which are another process's."""

from __future__ import annotations

import torch
from torch import Generator, Tensor


class Dice:
    """One draw an image, from a generator on the device of the images.

    What an image draws depends on the generator and on its place in the whole batch, and on nothing
    else: processes that share a batch draw for all of it, and augment each image as one process
    would.

    Args:
        generator: of the random numbers; moves on by those of the whole batch.
        size: images of the whole batch.
        part: positions of the images that are here, (n,) int64; None: all of them.
    """

    def __init__(self, generator: Generator, size: int, part: Tensor | None = None) -> None:
        self.generator, self.size, self.part = generator, size, part

    def uniform(self, *shape: int) -> Tensor:
        """Float32 in [0, 1), (n, *shape)."""
        device = self.generator.device
        return self._here(torch.rand(self.size, *shape, generator=self.generator, device=device))

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """Int64 in [low, high), (n, *shape)."""
        device = self.generator.device
        drawn = torch.randint(
            low, high, (self.size, *shape), generator=self.generator, device=device
        )
        return self._here(drawn)

    def _here(self, drawn: Tensor) -> Tensor:
        return drawn if self.part is None else drawn[self.part]
