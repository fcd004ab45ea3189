"""What the tests of every layer need to know of it: an entry for each way to make and call it.

A family keeps its entries in a module ``cases_<family>`` beside this one, in a list ``CASES``;
``test_contract.py`` runs all of them through the same tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import scratch_layers


def normal(*shape: int) -> Callable[[torch.dtype], tuple[Tensor, ...]]:
    """One input of standard normal values: ``inputs=normal(4, 3)``."""
    return lambda dtype: (torch.randn(shape, dtype=torch.float64).to(dtype),)


def caught(f: Callable[[], Any]) -> tuple[type[Exception], str] | None:
    """The error of a call, or None."""
    try:
        f()
    except Exception as error:
        return type(error), str(error)
    return None


def pair(name: str, *args: Any, **options: Any) -> tuple[nn.Module, nn.Module]:
    """The native layer and the hand-written one with the same random γ and β."""
    native = getattr(nn, name)(*args, **options)
    with torch.no_grad():
        for parameter in native.parameters():
            parameter.uniform_(0.5, 1.5)
    ours = getattr(scratch_layers, name)(*args, **options)
    ours.load_state_dict(native.state_dict())
    return native, ours


@dataclass(frozen=True)
class Case:
    """A layer, how it is made and what it is called with.

    Attributes:
        layer: its name, in scratch_layers and in torch.nn.
        inputs: called with a dtype, it returns the tensors to call the layer with, drawn from the
            global generator (targets of losses and their like in whatever dtype they need). Those
            of a floating dtype are differentiated by if they are the first, or in ``wrt``.
        args: positional arguments of the constructor.
        options: keyword arguments of the constructor.
        wrt: which inputs are differentiated by.
        label: tells apart the cases of one layer.
        has_factory: the constructor takes ``device`` and ``dtype``.
        random: draws random numbers in training.
        half: runs natively in bfloat16 on the CPU.
        scales: may be given shifted, tiny and huge inputs; else ordinary ones only (a probability).
        without: named tests that do not apply, each with the reason.
    """

    layer: str
    inputs: Callable[[torch.dtype], tuple[Tensor, ...]]
    args: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    wrt: tuple[int, ...] = (0,)
    label: str = ""
    has_factory: bool = False
    random: bool = False
    half: bool = True
    scales: bool = True
    without: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The name of a test."""
        return f"{self.layer}-{self.label}" if self.label else self.layer

    def make(self, library: Any = scratch_layers, dtype: torch.dtype = torch.float32) -> nn.Module:
        """The layer of a library, its parameters (if any) drawn from the global generator."""
        layer = getattr(library, self.layer)(*self.args, **self.options).to(dtype)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(torch.empty(parameter.shape).uniform_(0.5, 1.5))
        return layer
