"""A CUDA graph without CUDA: the operations of a function, recorded once and repeated.

As with a CUDA graph, only what reaches the device is repeated: operations on the same memory, with
the numbers of Python as they were. So what would be wrong in a CUDA graph is wrong here: a learning
rate or a step count that is a number of Python stands still, and who reads a tensor (which a
capture forbids) is told so at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T")
READING = {"aten._local_scalar_dense.default", "aten.equal.default", "aten.nonzero.default"}


class Tape(TorchDispatchMode):
    """Within it, operations are carried out and recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []
        self.before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if str(func) in READING:
            raise RuntimeError(f"{func} reads a tensor, which cannot be captured")
        self._keep(func, args, kwargs)
        found = func(*args, **kwargs)
        if not func.is_view:
            self.calls.append((func, args, kwargs, found))
        return found

    def _keep(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep what the operation is going to write over."""
        for i, argument in enumerate(func._schema.arguments):
            written = argument.alias_info is not None and argument.alias_info.is_write
            # which batch_norm changes without saying so
            if not (written or argument.name in ("running_mean", "running_var")):
                continue
            value = args[i] if i < len(args) else kwargs.get(argument.name)
            for x in tree_leaves(value):
                if isinstance(x, Tensor):
                    memory = x.untyped_storage()
                    self.before.setdefault(memory.data_ptr(), (memory, memory.clone()))

    def undo(self) -> None:
        """Set all memory to what it was: a capture only records."""
        for memory, kept in self.before.values():
            memory.copy_(kept)

    def replay(self) -> None:
        """Carry out what is recorded, on the same memory."""
        with torch.no_grad():
            for func, args, kwargs, before in self.calls:
                found = func(*args, **kwargs)
                for old, new in zip(tree_leaves(before), tree_leaves(found), strict=True):
                    if isinstance(old, Tensor) and old is not new:
                        old.copy_(new)


def capture(function: Callable[[], T]) -> tuple[Callable[[], object], T]:
    """Record a function; what it changes is as it was.

    Args:
        function: of no arguments.

    Returns:
        What repeats it, and what it returned, which a repetition changes in place.
    """
    with Tape() as tape:
        result = function()
    tape.undo()
    return tape.replay, result
