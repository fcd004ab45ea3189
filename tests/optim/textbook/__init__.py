"""Optimizers as people write them by hand: one parameter after the other, one line a formula.

They are right, and are here to be made wrong: what is a mistake in them is a mistake of those who
will use the kit.
"""

from .adagrad import Adagrad
from .adam import Adam
from .adamw import AdamW
from .rmsprop import RMSprop
from .sgd import SGD

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "RMSprop"]
