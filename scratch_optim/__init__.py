"""PyTorch's optimizers by hand: one equation each, every speed.

Put it in the place of ``torch.optim``::

    import scratch_optim as optim

    optimizer = optim.AdamW(model.parameters(), lr=1e-3, fused=True)
"""

from .adam import Adam, AdamW
from .optimizer import Optimizer
from .rmsprop import RMSprop
from .sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSprop"]
