"""One text, two speeds: run a layer's equations eagerly, or compiled for the tensors at hand.

The equations of a layer are plain functions of tensors ("texts"), such as ``forward`` and
``backward`` in :mod:`scratch_layers.batchnorm`. Eagerly they can be read and stepped through. With

    scratch_layers.compile_kernels()            # from here on
    with scratch_layers.compile_kernels(): ...  # or in here only

the same texts run as kernels that ``torch.compile`` makes of them (C++ on a CPU, Triton on CUDA).

Every signature (text, shapes, strides, dtypes, devices, constants) gets a kernel of its own, kept
in a dictionary here. Dynamo's own cache is not used to tell signatures apart, for two reasons: at
the second shape it would make the kernel dynamic, which was measured at ten times the time of
native batch normalization, and a network has more shapes than its recompile limit, past which it
goes back to eager without a word. With ``dynamic=False``, ``fullgraph=True`` and no guards left to
fail, a kernel is compiled once and neither is possible.
"""

from collections.abc import Callable
from types import FunctionType, TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

_compiled = False
_kernels: dict[tuple[Any, ...], Callable[..., Any]] = {}


class compile_kernels:  # noqa: N801, named as what it does, like torch.no_grad
    """Run the layers' equations compiled (``True``) or eagerly (``False``, the state at import).

    Takes effect at once and for the whole process; as a context manager it restores what was
    before. The first pass over a new shape then compiles it, which takes seconds; results agree
    with the eager ones to rounding.
    """

    def __init__(self, enabled: bool = True) -> None:
        global _compiled
        self.before, _compiled = _compiled, enabled

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        global _compiled
        _compiled = self.before


def run(text: Callable[..., Any], *args: Tensor | float | bool | None) -> Any:
    """``text(*args)``, through a kernel for exactly these arguments if kernels are switched on.

    Where somebody watches the single operations (an outer ``torch.compile`` or ``torch.export``,
    autograd in a second derivative, ``torch.func``, a dispatch mode, a tensor subclass, the meta
    device) the text itself runs, so that they see them.
    """
    if torch.compiler.is_compiling() or not _compiled or torch.is_grad_enabled():
        return text(*args)
    # a kernel is compiled for a number of threads
    key: list[Any] = [text, torch.get_num_threads()]
    for arg in args:
        if isinstance(arg, Tensor):
            if _is_watched(arg):
                return text(*args)
            key += arg.shape, arg.stride(), arg.dtype, arg.device
        else:
            key.append(arg)
    signature = tuple(key)
    if torch._C._len_torch_dispatch_stack() > 0:
        return text(*args)
    if signature not in _kernels:
        _kernels[signature] = _compile(text)
    return _kernels[signature](*args)


def _is_watched(x: Tensor) -> bool:
    plain = type(x) is Tensor or type(x) is Parameter
    return not plain or x.is_meta or torch._C._functorch.is_functorch_wrapped_tensor(x)


def _compile(text: Callable[..., Any]) -> Callable[..., Any]:
    assert isinstance(text, FunctionType)
    # Dynamo keeps what it compiled with the code object, so every kernel needs a copy of it
    copy = FunctionType(text.__code__.replace(), text.__globals__, text.__name__, text.__defaults__)
    return torch.compile(
        copy,
        fullgraph=True,
        dynamic=False,
        options={"guard_filter_fn": torch.compiler.skip_all_guards_unsafe},
    )
