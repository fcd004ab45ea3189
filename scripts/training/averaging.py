"""Which weights a run is judged by: its own, or a mean of those that it has gone through.

* ``ema``: the exponential mean over steps, B. T. Polyak, A. B. Juditsky, "Acceleration of
  Stochastic Approximation by Averaging", 1992, as it is used today, with a warm-up of the decay.
* ``swa``: the plain mean over the ends of the epochs of the last quarter, with statistics of
  normalizations that are measured anew, P. Izmailov et al., "Averaging Weights Leads to Wider
  Optima and Better Generalization", 2018, arXiv:1803.05407.

``lookahead`` averages too, but goes on from the average: it is an optimizer,
:class:`scratch_optim.swa_utils.Lookahead`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from scratch_optim.swa_utils import EMA, update_bn

KINDS = ("none", "ema", "swa", "lookahead")
SWA_BEGINS = 0.75
"""The share of a run after which epochs are averaged."""


class Average:
    """Holds the mean beside the model.

    Args:
        model: whose weights are averaged.
        kind: one of ``KINDS``.
        decay: of ``ema``, per step.
    """

    def __init__(self, model: nn.Module, kind: str, decay: float) -> None:
        self.model, self.kind = model, kind
        self.mean: EMA | None = None
        if kind == "ema":
            self.mean = EMA(model, decay, warmup=True, use_buffers=True)
        elif kind == "swa":
            self.mean = EMA(model, use_buffers=True)

    def after_step(self) -> None:
        """Take the weights that a step made."""
        if self.mean and self.kind == "ema":
            self.mean.update()

    def after_epoch(self, done: float, batches: Iterable[Tensor]) -> None:
        """Take the weights that an epoch ended with.

        Args:
            done: share of the run that is over, 0..1.
            batches: training images as the network takes them, to measure statistics with; not
                looked at if there is no need.
        """
        if self.mean and self.kind == "swa" and done > SWA_BEGINS:
            # the plain mean of n weights is an exponential one whose decay is (n - 1) / n
            self.mean.decay = self.mean.updates / (self.mean.updates + 1)
            self.mean.update()
            with self.mean.averaged() as model:
                update_bn(batches, model)
                buffers = {name: b.clone() for name, b in model.named_buffers()}
            for name, value in buffers.items():
                self.mean.averages[name].copy_(value)

    @contextmanager
    def in_place(self) -> Iterator[nn.Module]:
        """Let the model hold the mean within a ``with`` block, if there is one yet."""
        if self.mean is None or self.mean.updates == 0:
            yield self.model
        else:
            with self.mean.averaged() as model:
                yield model

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` needs."""
        return self.mean.state_dict() if self.mean else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state_dict` returned."""
        if self.mean:
            self.mean.load_state_dict(state)
