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
        _kernels[signature] = _compile(text, *args)
    return _kernels[signature](*args)


def _is_watched(x: Tensor) -> bool:
    plain = type(x) is Tensor or type(x) is Parameter
    return not plain or x.is_meta or torch._C._functorch.is_functorch_wrapped_tensor(x)


def _compile(text: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    """A kernel for arguments like these: the graph that Inductor made, called directly.

    ``torch.compile``'s own way to it takes 12 µs plus 1.2 µs for each tensor even without guards.
    The graph takes and returns tensors in an order of its own, which one call on examples shows.
    They are distinct tensors, as the arguments of a later call may be where the first were not.
    """
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner

    calls: list[tuple[Callable[[list[Any]], Any], list[Any], list[Any]]] = []

    def inner_compile(graph: Any, inputs: Any, **kwargs: Any) -> Any:
        compiled = compile_fx_inner(graph, inputs, **kwargs)

        def call(arguments: list[Any]) -> Any:
            given = list(arguments)  # Inductor empties the list
            returned = compiled(arguments)
            calls.append((compiled, given, returned))
            return returned

        call._boxed_call = True  # type: ignore[attr-defined]
        return call

    def backend(graph: Any, inputs: Any) -> Any:
        config = {"size_asserts": False, "alignment_asserts": False}
        return compile_fx(graph, inputs, inner_compile=inner_compile, config_patches=config)

    assert isinstance(text, FunctionType)
    # Dynamo keeps what it compiled with the code object, so every kernel needs a copy of it
    copy = FunctionType(text.__code__.replace(), text.__globals__, text.__name__, text.__defaults__)
    wrapper = torch.compile(
        copy,
        backend=backend,
        fullgraph=True,
        dynamic=False,
        options={"guard_filter_fn": torch.compiler.skip_all_guards_unsafe},
    )
    examples = [_example(a) if isinstance(a, Tensor) else a for a in args]
    results = wrapper(*examples)
    if len(calls) != 1:  # not compiled at all (TORCHDYNAMO_DISABLE)
        return wrapper
    compiled, given, returned = calls.pop()
    # without its bookkeeping for profiler and autotuner, which costs as much as a small kernel
    graph = getattr(compiled, "current_callable", compiled)
    inputs = [_find(x, examples) for x in given]
    outputs = [_find(x, [*returned, *examples, None]) for x in results]
    if -1 in inputs + outputs:
        return wrapper

    def kernel(*args: Any) -> Any:
        returned = graph([args[i] for i in inputs])
        pool = (*returned, *args, None)
        return [pool[i] for i in outputs]

    return kernel


def _example(x: Tensor) -> Tensor:
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=x.device)


def _find(x: Any, among: list[Any]) -> int:
    """Where the object x itself is among others, -1 if nowhere."""
    return next((i for i, other in enumerate(among) if other is x), -1)
