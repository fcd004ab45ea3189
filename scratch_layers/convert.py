"""Exchange the layers of a model that exists already for the hand-written ones, and back.

    model = torchvision.models.resnet18()
    print(convert(model))                          # in place; a table of what was exchanged
    ours = convert(model, copy=True).model         # or beside it, with the same parameters
    convert(model, back=True)                      # torch's layers again

A hand-written layer is a subclass of the torch class whose name it bears, and its instances hold
exactly the attributes that torch's hold. An object of the one class is therefore an object of the
other whose methods are the other's, and the whole exchange is one assignment::

    module.__class__ = scratch_layers.BatchNorm2d

The module stays the object that it was. So do its parameters and buffers, its name in state_dict,
its hooks and their handles, its training mode, dtype and device, and every reference to it from
elsewhere: an optimizer, an exponential average, the other place where the model uses it.

The class must be torch's *exactly*. A subclass may compute anything (timm's ``BatchNormAct2d`` is
a BatchNorm2d with an activation behind it), so it is left as it is, and the report says why. Also
left are calls of ``torch.nn.functional`` in somebody's ``forward``: they are no modules.
"""

from collections import Counter
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from types import FunctionType

import torch
from torch import nn

from scratch_layers import (
    activation,
    batchnorm,
    cross_entropy,
    ctc,
    dropout,
    instancenorm,
    linear_cross_entropy,
    loss,
    margin_loss,
    normalization,
    softmax,
    syncbatchnorm,
)

__all__ = ["Conversion", "convert"]

Classes = dict[type[nn.Module], type[nn.Module]]

FAMILIES = (
    activation,
    batchnorm,
    cross_entropy,
    ctc,
    dropout,
    instancenorm,
    linear_cross_entropy,
    loss,
    margin_loss,
    normalization,
    softmax,
    syncbatchnorm,
)

# Every class of the families that bears the name of one of torch.nn's and inherits from it.
COUNTERPARTS: Classes = {
    getattr(nn, name): ours
    for family in FAMILIES
    for name, ours in vars(family).items()
    if isinstance(ours, type)
    and ours.__module__ == family.__name__
    and isinstance(getattr(nn, name, None), type)
    and issubclass(ours, nn.Module)
    and issubclass(ours, getattr(nn, name))
}

CODE = FunctionType, property, classmethod, staticmethod


@dataclass(frozen=True, repr=False)
class Conversion:
    """What :func:`convert` did. Printed, it is a table with one line for each class and reason.

    Attributes:
        model: the model, converted.
        exchanged: from the name of each exchanged module to its class now. The names are those of
            ``model.named_modules()``; that of the model itself is "".
        left: from the name of each other module to the reason why it is as it was. Modules that
            only hold others (and inherit from nothing exchangeable) are not listed.
    """

    model: nn.Module
    exchanged: dict[str, type[nn.Module]]
    left: dict[str, str]

    def __repr__(self) -> str:
        lines = [f"{type(self.model).__name__}: {len(self.exchanged)} modules exchanged"]
        lines += _counts(_full_name(cls) for cls in self.exchanged.values())
        lines += [f"{len(self.left)} left"] if self.left else []
        lines += _counts(self.left.values())
        return "\n".join(lines)


def convert(model: nn.Module, *, back: bool = False, copy: bool = False) -> Conversion:
    """Give every layer of the model that has a hand-written counterpart the class of that one.

    Args:
        model: any module: a model of torchvision, of timm or of your own, or a single layer.
        back: the other way, from the hand-written classes to torch's.
        copy: leave the model alone and convert a copy of it. The copy has *the same* Parameter
            objects, so one optimizer trains both and gradients add up in one place; and it has
            buffers of its own, so that two models that see the same batches do not both move one
            running mean. Hooks are copied as ``copy.deepcopy`` copies them; their handles remain
            with the original.

    Returns:
        The model with a report, as one object: in place there is nothing to be assigned, and
        ``print(convert(model))`` shows what happened.

    Raises:
        TypeError: model is not an nn.Module.
        ValueError: copy=True for a model whose copies do not share parameters (``torch.jit``).

    Convert first and let other tools come after: ``parametrize`` and ``fully_shard`` give a module
    a class of its own, ``torch.jit`` takes its code out of Python, and both are then left.
    ``torch.compile`` may come before or after: it sees the new class and compiles again.
    ``torch.ao.quantization`` looks classes up by name, and wants the model converted back.

    ``nn.TransformerEncoderLayer`` in evaluation without gradients hands the weights of its
    children to one fused kernel and calls none of them, hand-written or not, unless
    ``torch.backends.mha.set_fastpath_enabled(False)`` forbids it.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, but got {_full_name(type(model))}")
    if copy:
        model = copy_around_parameters(model)
    table = {ours: theirs for theirs, ours in COUNTERPARTS.items()} if back else COUNTERPARTS
    exchanged, left = {}, {}
    for name, module in model.named_modules():
        reason = _reason_to_leave(module, table)
        if reason is None:
            module.__class__ = exchanged[name] = table[type(module)]
        elif reason:
            left[name] = reason
    return Conversion(model, exchanged, left)


def _reason_to_leave(module: nn.Module, table: Classes) -> str | None:
    """Why the module is not exchanged: None if it is, "" if nobody would expect that it were."""
    cls = type(module)
    known = next((base for base in cls.__mro__ if base in table), None)
    if isinstance(module, torch.jit.ScriptModule):
        return "compiled by torch.jit: convert before"
    if known is not None and "forward" in vars(module):  # bound to the class that it had then
        return f"{_full_name(cls)} whose forward was replaced on the object"
    if cls is known:
        return None
    if cls in table.values():
        return f"{_full_name(cls)} already"
    if known is not None:
        below = cls.__mro__[: cls.__mro__.index(known)]
        own = {name for c in below for name, value in vars(c).items() if isinstance(value, CODE)}
        with_what = f" with its own {', '.join(sorted(own))}" if own else " by inheritance only"
        return f"{_full_name(cls)} is a {known.__name__}{with_what}"
    is_leaf = next(module.children(), None) is None
    return f"{_full_name(cls)} has no counterpart" if is_leaf else ""


def copy_around_parameters(model: nn.Module) -> nn.Module:
    """A deep copy of everything but the parameters, which are the same objects.

    Raises:
        ValueError: the model copies itself in a way of its own, as those of ``torch.jit`` do.
    """
    result = deepcopy(model, {id(p): p for p in model.parameters()})
    for (name, p), q in zip(model.named_parameters(), result.parameters(), strict=True):
        if p is not q:
            raise ValueError(
                f"{_full_name(type(model))} cannot be copied around its parameters: it copies "
                f"itself, and parameter {name!r} with it, as the modules of torch.jit do"
            )
    return result


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _counts(lines: Iterable[str]) -> list[str]:
    return [f"{count:6} {line}" for line, count in Counter(lines).most_common()]
