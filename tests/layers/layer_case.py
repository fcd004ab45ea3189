"""What tests of single families share: the error of a call, and a pair of layers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import scratch_layers


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
