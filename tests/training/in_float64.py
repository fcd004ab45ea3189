"""``scripts/cifar10.py`` in float64, where sums in another order are the same to 16 digits.

    [STOP_AFTER=STEPS] python in_float64.py OPTIONS...

``scripts`` has to be on the path. With ``STOP_AFTER`` it sends itself a Ctrl-C in the step after so
many of this process.
"""

from __future__ import annotations

import os
import signal
import sys

import torch

import cifar10
from training import loop, recipes
from training.data import Data

normalized, build_model, build_loss = Data.normalized, recipes.build_model, recipes.build_loss
Data.normalized = lambda self, images: normalized(self, images).double()
recipes.build_model = lambda *args: build_model(*args).double()
recipes.build_loss = lambda *args: build_loss(*args).double()

steps_left, train_step = int(os.environ.get("STOP_AFTER", "-1")), loop.Trainer.train_step


def step(*args, **kwargs) -> None:
    """A step, with Ctrl-C in it when it is due."""
    global steps_left
    if steps_left == 0:
        signal.raise_signal(signal.SIGINT)
    steps_left -= 1
    train_step(*args, **kwargs)


loop.Trainer.train_step = step

if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(cifar10.main())
