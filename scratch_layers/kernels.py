"""One text, two speeds: run a layer's equations eagerly, or compiled for the tensors at hand.

The equations of a layer are plain functions of tensors ("texts"), such as ``forward`` and
``backward`` in :mod:`scratch_layers.batchnorm`. Eagerly they can be read and stepped through. With

    scratch_layers.compile_kernels()            # from here on
    with scratch_layers.compile_kernels(): ...  # or in here only

the same texts run as kernels that Inductor, the compiler behind ``torch.compile``, makes of them
(C++ on a CPU, Triton on CUDA). They are traced operation by operation and handed over without
Dynamo, which would read the Python code and guard the kernel: what its guards check is the key of
the dictionary here, and its wrapper takes longer than a small layer.

:func:`run` makes a kernel for every signature: text, shapes, strides, dtypes, devices, constants.
``torch.compile`` would make one for all shapes at the second of them, which was measured at ten
times the time of native batch normalization; and a network has more shapes than its recompile
limit, past which it goes back to eager without a word. Neither is possible here.

:func:`run_elementwise` is for texts that take each value by itself. To them a tensor without gaps
is a row of values, whatever its shape, and one kernel serves them all.
"""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import Parameter

LARGE = 2**14
"""From this many values on, a tensor is worth a loop over several threads."""

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


def run(text: Callable[..., Any], *args: Any) -> Any:
    """``text(*args)``, through a kernel for exactly these arguments if kernels are switched on.

    The arguments are tensors and constants that can be hashed; the text returns a tensor, or a
    tuple of tensors, among them arguments, and None.

    Where somebody watches the single operations (an outer ``torch.compile`` or ``torch.export``,
    autograd in a second derivative, ``torch.func``, a dispatch mode, a tensor subclass, the meta
    device) the text itself runs, so that they see them.
    """
    if _eager(args):
        return text(*args)
    # a kernel is compiled for a number of threads
    key: list[Any] = [text, torch.get_num_threads()]
    for arg in args:
        if isinstance(arg, Tensor):
            key += arg.shape, arg.stride(), arg.dtype, arg.device
        else:
            key.append(arg)
    signature = tuple(key)
    if signature not in _kernels:
        _kernels[signature] = _static(text, args)
    return _kernels[signature](*args)


def run_elementwise(text: Callable[..., Tensor], *args: Any, out: Tensor | None = None) -> Tensor:
    """The same for a text whose result at each place depends on the values at that place alone.

    All tensors are of one shape, but for 0-dim ones, which go with every value; the result is of
    the shape, dtype and layout of the first.

    Args:
        text: the equation.
        args: what it takes.
        out: where to write the result instead of a new tensor; may be one of the arguments.
    """
    if _eager(args):
        y = text(*args)
        return y if out is None else out.copy_(y)
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    x, stride, n = tensors[0], tensors[0].stride(), tensors[0].numel()
    if out is None:
        out = torch.empty_like(x)
    same = all([t.stride() == stride or t.dim() == 0 for t in (*tensors, out)])
    # 32 bits, the index of a Triton kernel, count to 2**31
    if not same or not _has_no_gaps(x) or not 0 < n < 2**31:
        y = run(text, *args)
        return y if out is None else out.copy_(y)
    threads = torch.get_num_threads() if n >= LARGE else 1
    single = x.dim() == 0  # then all of them are
    key = [(arg.dtype, single or arg.dim() > 0) if isinstance(arg, Tensor) else arg for arg in args]
    signature = (text, threads, x.device, out.dtype, *key)
    if signature not in _kernels:
        _kernels[signature] = _of_any_size(text, args, out, threads)
    # it reads addresses and the size, and does not look at shapes
    _kernels[signature]([out, *tensors, n])
    return out


def _eager(args: Sequence[Any]) -> bool:
    """Whether kernels are switched off, or somebody watches the operations."""
    return (
        torch.compiler.is_compiling()
        or not _compiled
        or torch.is_grad_enabled()
        or torch._C._len_torch_dispatch_stack() > 0
        or any([isinstance(arg, Tensor) and _is_watched(arg) for arg in args])
    )


def _is_watched(x: Tensor) -> bool:
    plain = type(x) is Tensor or type(x) is Parameter
    return not plain or x.is_meta or torch._C._functorch.is_functorch_wrapped_tensor(x)


def _has_no_gaps(x: Tensor) -> bool:
    return (
        x.is_contiguous()
        or x.is_contiguous(memory_format=torch.channels_last)
        or x.is_contiguous(memory_format=torch.channels_last_3d)
    )


def _static(text: Callable[..., Any], args: Sequence[Any]) -> Callable[..., Any]:
    """A kernel for arguments like these: takes them and returns what the text would."""
    which = [i for i, arg in enumerate(args) if isinstance(arg, Tensor)]
    one = False
    places: list[int] = []  # of each result among [*computed, *args, None]

    def traced(*tensors: Tensor) -> list[Tensor]:
        nonlocal one
        given = list(args)
        for i, tensor in zip(which, tensors, strict=True):
            given[i] = tensor
        results = text(*given)
        one = isinstance(results, Tensor)
        results = [results] if one else results
        passed = [*tensors, None]
        computed = [r for r in results if not any(r is p for p in passed)]
        ends = [*computed, *given, None]
        places[:] = [next(i for i, end in enumerate(ends) if end is r) for r in results]
        return computed

    # distinct tensors, as the arguments of a later call may be where the first were not
    examples = [
        torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device)
        for t in (args[i] for i in which)
    ]
    small = max((t.numel() for t in examples), default=0) < LARGE
    graph = _compile(traced, examples, "fake", 1 if small else None)

    def kernel(*args: Any) -> Any:
        ends = (*graph([args[i] for i in which]), *args, None)
        return ends[places[0]] if one else [ends[i] for i in places]

    return kernel


def _of_any_size(
    text: Callable[..., Tensor], args: Sequence[Any], out: Tensor, threads: int
) -> Callable[[list[Any]], Any]:
    """A kernel that takes [out, *tensors, number of values] and writes to out."""

    def traced(out: Tensor, *values: Any) -> tuple[()]:
        tensors = iter(values)
        given = [next(tensors) if isinstance(arg, Tensor) else arg for arg in args]
        out.copy_(text(*given))
        return ()

    n = LARGE + 64
    tensors = [out, *[arg for arg in args if isinstance(arg, Tensor)]]
    shapes: list[tuple[int, ...]] = [(n,) if out.dim() == 0 or t.dim() > 0 else () for t in tensors]
    rows = [
        torch.empty(shape, dtype=t.dtype, device=t.device)
        for t, shape in zip(tensors, shapes, strict=True)
    ]
    return _compile(traced, [*rows, n], "symbolic", threads)


def _compile(
    run: Callable[..., Any],
    example: Sequence[Any],
    sizes: Literal["fake", "symbolic"],
    threads: int | None = None,
) -> Callable[[list[Any]], Any]:
    """Inductor's compiled graph, free of guards; it takes a list of arguments and empties it.

    Args:
        run: takes tensors and sizes, returns a list of tensors.
        example: arguments with the dtypes, devices and layouts to come.
        sizes: "fake" for those of the example, "symbolic" for any.
        threads: how many share a loop on the CPU; None for torch's number.
    """
    from torch._guards import TracingContext, tracing
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx_inner, record_original_output_strides
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.virtualized import V
    from torch.fx.experimental.proxy_tensor import make_fx

    options: dict[str, Any] = {"size_asserts": False, "alignment_asserts": False}
    if threads is not None:
        options["cpp.threads"] = threads
    with torch.no_grad():
        graph = make_fx(run, decomposition_table=select_decomp_table(), tracing_mode=sizes)(
            *example
        )
    inputs = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
    # the layouts of the results are those that the text gives them
    (output,) = graph.graph.find_nodes(op="output")
    output.meta["user_visible_output_idxs"] = list(range(len(output.args[0])))
    record_original_output_strides(graph)
    mode = inputs[0].fake_mode
    with tracing(TracingContext(mode)), V.set_fake_mode(mode), config.patch(options):
        compiled = compile_fx_inner(graph, inputs)
    # without its bookkeeping for profiler and autotuner, which costs as much as a small kernel
    return getattr(compiled, "current_callable", compiled)
