"""How a layer is made, and what it is called with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Inputs = Callable[[torch.dtype], tuple[Tensor, ...]]


def normal(*shape: int) -> Inputs:
    """One input of standard normal values: ``inputs=normal(4, 3)``."""
    return lambda dtype: (torch.randn(shape, dtype=torch.float64).to(dtype),)


@dataclass(frozen=True)
class Case:
    """How a layer is made, and what it is called with.

    Attributes:
        inputs: called with a dtype, it returns the tensors to call the layer with, drawn from the
            global generator (targets of losses and their like in whatever dtype they need). Those
            of a floating dtype are differentiated by if they are the first, or in ``wrt``.
        args: positional arguments of the constructor.
        options: keyword arguments of the constructor.
        wrt: which inputs are differentiated by.
        label: tells apart the cases of one layer.
        parameters: the range that they are drawn from.
        random: draws random numbers in training.
        half: may be run in bfloat16.
        scales: may be given shifted, tiny and huge inputs; else ordinary ones only (a probability).
        samples: the first dimension of inputs and output counts samples, which in evaluation
            do not depend on each other.
        shapes: further inputs for the same layer, of other shapes: empty, of one value, large.
        without: names of checks that do not apply, each with the reason.
    """

    inputs: Inputs
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    wrt: tuple[int, ...] = (0,)
    label: str = ""
    parameters: tuple[float, float] = (0.5, 1.5)
    random: bool = False
    half: bool = True
    scales: bool = True
    samples: bool = True
    shapes: tuple[Inputs, ...] = ()
    without: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        options = [f"{name}={value!r}" for name, value in self.options.items()]
        arguments = ", ".join([*map(repr, self.args), *options])
        return f"{self.label} ({arguments})" if self.label else f"({arguments})"
