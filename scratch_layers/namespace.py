"""What a model asks of the namespace it is built from: ``torch.nn`` or ``scratch_layers``."""

from collections.abc import Callable
from typing import Any, Protocol

from torch import nn


class Namespace(Protocol):
    """The layers that every namespace must have: ``torch.nn`` and ``scratch_layers`` do.

    An option may ask for more by name, such as ``fused=True`` for ``BatchNormReLU2d``; see
    :func:`take`.
    """

    @property
    def BatchNorm1d(self) -> Callable[..., nn.Module]:  # noqa: N802
        """Batch normalization over (N, C), called with the number of features."""

    @property
    def BatchNorm2d(self) -> Callable[..., nn.Module]:  # noqa: N802
        """Batch normalization over (N, C, H, W), called with the number of channels."""

    @property
    def Dropout(self) -> Callable[..., nn.Module]:  # noqa: N802
        """Dropout, called with its probability."""

    @property
    def ReLU(self) -> Callable[..., nn.Module]:  # noqa: N802
        """max(x, 0), called with nothing or with ``inplace=True``."""


def take(layers: Namespace, name: str, option: str) -> Callable[..., Any]:
    """The layer of this name, which ``option`` asks for.

    Raises:
        ValueError: ``layers`` has no such layer.
    """
    layer: Callable[..., Any] | None = getattr(layers, name, None)
    if not callable(layer):
        where = getattr(layers, "__name__", layers)
        raise ValueError(
            f"{option} needs {name}, which {where} does not have: take the layers from a namespace "
            "that has it (scratch_layers has the most), or choose another value."
        )
    return layer


def activation(layers: Namespace, choice: str | Callable[[], nn.Module]) -> nn.Module:
    """A new activation: the class of this name in ``layers``, or what the callable returns.

    Raises:
        ValueError: ``layers`` has no class of this name.
    """
    if choice == "ReLU":  # its derivative is a function of y, so it may overwrite x
        return layers.ReLU(inplace=True)
    make = take(layers, choice, f"activation={choice!r}") if isinstance(choice, str) else choice
    module: nn.Module = make()
    return module
