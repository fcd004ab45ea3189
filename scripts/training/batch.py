"""What a process has of the batch of a step."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Augmented images with their labels, of this process."""

    images: Tensor  # uint8 (n, C, H, W), augmented
    labels: Tensor  # (n,) int64
    others: Tensor | None  # labels of what was mixed into the images; None: nothing
    share: Tensor | float  # of the image itself where something was, 0..1
    weight: Tensor | float  # what the sum of the losses of the whole batch is divided by

    def parts(self, count: int) -> list[Batch]:
        """As many as that, or as there are images, in their order."""
        images, labels = self.images.chunk(count), self.labels.chunk(count)
        others = [None] * len(labels) if self.others is None else self.others.chunk(count)
        return [
            Batch(*own, self.share, self.weight) for own in zip(images, labels, others, strict=True)
        ]

    def on_device(self) -> Batch:
        """The same with all that differs between batches of one size in tensors on the device."""
        if self.others is None or isinstance(self.share, Tensor):
            return self
        share = torch.full((), self.share, device=self.images.device)
        return dataclasses.replace(self, share=share)

    def clone(self) -> Batch:
        """A copy in memory of its own."""
        return Batch(*[x.clone() if isinstance(x, Tensor) else x for x in self._values()])

    def copy_(self, other: Batch) -> None:
        """Write another one of the same size, on the device, over this one."""
        for own, new in zip(self._values(), other._values(), strict=True):
            if isinstance(own, Tensor):
                own.copy_(new)

    def _values(self) -> list[Any]:
        return [getattr(self, field.name) for field in dataclasses.fields(self)]
