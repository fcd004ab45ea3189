"""The vocabulary in which every update equation is written.

An equation uses the methods of ``torch.Tensor`` and nothing else::

    m.lerp_(g, 1 - beta1)                         # m <- m + (1 - beta1) (g - m)
    v.mul_(beta2).addcmul_(g, g, value=1 - beta2) # v <- beta2 v + (1 - beta2) g^2
    theta.addcdiv_(m, v.sqrt(), value=-lr)        # theta <- theta - lr m / sqrt(v)

so it runs on anything that knows these methods. Four kinds of operand do:

==================  ========================================  ==========================
operand             what ``x.mul_(a)`` does                   the way it is used for
==================  ========================================  ==========================
``torch.Tensor``    one kernel, one tensor                    for-loop
:class:`TensorList`  ``torch._foreach_mul_`` on many tensors  foreach
:class:`Functional`  ``x.value = x.value.mul(a)``             differentiable, and inside
                                                              the compiled kernel
:class:`Recorder`   writes ``mul_`` and ``a`` on a tape       fused: what to compile, and
                                                              the numbers of this step
==================  ========================================  ==========================

Scalars (``lr``, ``1 - beta2**t``) are Python floats, so they are computed in double precision
whatever the dtype of the parameters. They are 0-dim tensors only where the user made them so
(a tensor ``lr``) or where the step count lives on the device (``capturable``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor

Operand: TypeAlias = Any
"""``Tensor | TensorList | Functional | Recorder``: what an update equation computes with."""


class TensorList:
    """Many tensors of one device and dtype, one ``torch._foreach_*`` call an operation.

    Every method is the foreach operator of its name (``x.lerp_`` is ``torch._foreach_lerp_``), or,
    where torch has none, the method of ``torch.Tensor`` on one tensor after the other; a name that
    ends in an underscore works in place and returns the list itself.

    Args:
        tensors: the tensors; any shapes.
    """

    __slots__ = ("tensors",)

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors

    def __getattr__(self, name: str) -> Callable[..., TensorList]:
        setattr(TensorList, name, _list_method(name))  # made once
        return getattr(self, name)

    # The foreach operators below take their factor as a Python number alone. A factor that is a
    # tensor on the device (capturable) is multiplied into an operand first.

    def add(self, other: Any, *, alpha: float | Tensor = 1) -> TensorList:
        """Self + alpha other, a list or a number."""
        if isinstance(other, Tensor):  # the foreach operator would read it
            return TensorList(_one_by_one("add", self.tensors, other))
        if not isinstance(other, TensorList):
            return TensorList(list(torch._foreach_add(self.tensors, other)))
        if isinstance(alpha, Tensor):
            other, alpha = other.mul(alpha), 1
        return TensorList(list(torch._foreach_add(self.tensors, other.tensors, alpha=alpha)))

    def add_(self, other: Any, *, alpha: float | Tensor = 1) -> TensorList:
        """Self <- self + alpha other, a list or a number."""
        if isinstance(other, Tensor):  # the foreach operator would read it
            _one_by_one("add_", self.tensors, other)
            return self
        if not isinstance(other, TensorList):
            torch._foreach_add_(self.tensors, other)
            return self
        if isinstance(alpha, Tensor):
            other, alpha = other.mul(alpha), 1
        torch._foreach_add_(self.tensors, other.tensors, alpha=alpha)
        return self

    def addcmul_(self, a: TensorList, b: TensorList, *, value: float | Tensor = 1) -> TensorList:
        """Self <- self + value a b."""
        if isinstance(value, Tensor):
            a, value = a.mul(value), 1
        torch._foreach_addcmul_(self.tensors, a.tensors, b.tensors, value)
        return self

    def addcdiv_(self, a: TensorList, b: TensorList, *, value: float | Tensor = 1) -> TensorList:
        """Self <- self + value a / b."""
        if isinstance(value, Tensor):
            b, value = b.div(value), 1
        torch._foreach_addcdiv_(self.tensors, a.tensors, b.tensors, value)
        return self

    def lerp_(self, end: TensorList, weight: float | Tensor) -> TensorList:
        """Self <- self + weight (end - self)."""
        if isinstance(weight, Tensor):
            return self.add_(end.sub(self), alpha=weight)
        torch._foreach_lerp_(self.tensors, end.tensors, weight)
        return self


_TENSOR_OPERAND = frozenset({"mul", "mul_", "div", "div_"})
"""The foreach operators that take a 0-dim tensor for a number."""


def _list_method(name: str) -> Callable[..., TensorList]:
    """Return the method ``name`` of lists."""
    operator = getattr(torch, "_foreach_" + name, None)
    in_place, takes_tensor = name.endswith("_"), name in _TENSOR_OPERAND

    def method(self: TensorList, *args: Any, **kwargs: Any) -> TensorList:
        lists = [a.tensors if isinstance(a, TensorList) else a for a in args]
        if operator and (takes_tensor or not any([isinstance(a, Tensor) for a in lists])):
            result = operator(self.tensors, *lists, **kwargs)
        else:
            result = _one_by_one(name, self.tensors, *lists, **kwargs)
        return self if in_place else TensorList(list(result))

    return method


def _one_by_one(name: str, tensors: list[Tensor], *args: Any, **kwargs: Any) -> list[Tensor]:
    """Call the method ``name`` of each tensor; arguments that are lists have an item for each."""
    rows = [a if isinstance(a, list) else [a] * len(tensors) for a in args]
    method = getattr(Tensor, name)
    return [method(x, *row, **kwargs) for x, *row in zip(tensors, *rows, strict=True)]


class Functional:
    """A tensor whose in-place methods are carried out of place: ``x.mul_(a)`` rebinds ``x.value``.

    Nothing that autograd or a tracer has saved is ever overwritten, so the same equation can be
    differentiated (``differentiable=True``) and compiled (``fused=True``). Scalars may be 0-dim
    tensors, with or without gradients.

    Args:
        value: the tensor to start from; it is never modified.
    """

    __slots__ = ("value",)

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def __getattr__(self, name: str) -> Callable[..., Functional]:
        in_place = name.endswith("_")
        operator = _TENSOR_SCALED.get(name.rstrip("_")) or getattr(torch.Tensor, name.rstrip("_"))

        def method(*args: Any, **kwargs: Any) -> Functional:
            values = [a.value if isinstance(a, Functional) else a for a in args]
            result = operator(self.value, *values, **kwargs)
            if not in_place:
                return Functional(result)
            self.value = result
            return self

        return method


def _add(x: Tensor, y: Any, *, alpha: float | Tensor = 1) -> Tensor:
    return x + alpha * y if isinstance(alpha, Tensor) else x.add(y, alpha=alpha)


def _addcmul(x: Tensor, a: Tensor, b: Tensor, *, value: float | Tensor = 1) -> Tensor:
    if isinstance(value, Tensor):
        return x + value * a * b
    return x.addcmul(a, b, value=value)


def _addcdiv(x: Tensor, a: Tensor, b: Tensor, *, value: float | Tensor = 1) -> Tensor:
    if isinstance(value, Tensor):
        return x + value * a / b
    return x.addcdiv(a, b, value=value)


def _lerp(x: Tensor, end: Tensor, weight: float | Tensor) -> Tensor:
    # lerp wants a tensor weight in its own dtype: https://github.com/pytorch/pytorch/issues/140601
    return x.lerp(end, weight.to(x) if isinstance(weight, Tensor) else weight)


def _copy(x: Tensor, source: Tensor) -> Tensor:
    return source.clone()


_TENSOR_SCALED: dict[str, Callable[..., Tensor]] = {
    "add": _add,
    "addcmul": _addcmul,
    "addcdiv": _addcdiv,
    "lerp": _lerp,
    "copy": _copy,
}


class Tape:
    """What an equation did: its operations, without the numbers, and its numbers.

    Two steps of one optimizer differ in their numbers alone (the learning rate, ``beta**t``), so
    ``operations`` says which kernel must exist and ``scalars`` is what to call it with.
    """

    def __init__(self) -> None:
        self.operations: list[tuple[Any, ...]] = []
        self.scalars: list[float | Tensor] = []
        self.size = 0

    def operand(self) -> Recorder:
        """Return a new operand, an input or the result of an operation."""
        self.size += 1
        return Recorder(self, self.size - 1)

    def encode(self, argument: Any) -> tuple[str, int]:
        """Return the place of ``argument``: ``("operand", i)`` or ``("scalar", j)``."""
        if isinstance(argument, Recorder):
            return ("operand", argument.index)
        self.scalars.append(argument)
        return ("scalar", len(self.scalars) - 1)


class Recorder:
    """An operand that computes nothing and writes every method call on its :class:`Tape`."""

    __slots__ = ("index", "tape")

    def __init__(self, tape: Tape, index: int) -> None:
        self.tape = tape
        self.index = index

    def __getattr__(self, name: str) -> Callable[..., Recorder]:
        return partial(self._record, name)

    def _record(self, name: str, *args: Any, **kwargs: Any) -> Recorder:
        encode = self.tape.encode
        positional = tuple([encode(a) for a in args])
        named = tuple([(key, encode(a)) for key, a in kwargs.items()])
        self.tape.operations.append((name, self.index, positional, named))
        return self if name[-1] == "_" else self.tape.operand()


def replay(
    operations: tuple[tuple[Any, ...], ...], operands: list[Functional], scalars: list[Tensor]
) -> set[int]:
    """Carry out what a :class:`Tape` has recorded.

    Args:
        operations: the tape's operations.
        operands: the inputs, in the order in which the tape handed them out; the results of the
            operations are appended.
        scalars: one 0-dim tensor for each of the tape's scalars.

    Returns:
        The indices of the operands that were changed in place.
    """
    changed: set[int] = set()

    def decode(place: tuple[str, int]) -> Functional | Tensor:
        kind, index = place
        return operands[index] if kind == "operand" else scalars[index]

    for name, target, positional, named in operations:
        method = getattr(operands[target], name)
        result = method(*map(decode, positional), **{key: decode(p) for key, p in named})
        if name.endswith("_"):
            changed.add(target)
        else:
            operands.append(result)
    return changed


def choose(condition: bool | Tensor, a: float | Tensor, b: float | Tensor) -> Any:
    """Return ``a`` if the condition holds, else ``b``: numbers, or 0-dim tensors on a device.

    An equation that has cases chooses its numbers by this, so that its operations, and with them
    its kernel, are the same in all cases.
    """
    if not isinstance(condition, Tensor):
        return a if condition else b
    a, b = (
        x if isinstance(x, Tensor) else torch.full_like(condition, x, dtype=torch.float64)
        for x in (a, b)
    )
    return torch.where(condition, a, b)
