"""The fused way: an update equation as one compiled kernel.

An equation run on :class:`~scratch_optim.tensors.Recorder` operands leaves a tape: a list of
operations without numbers, and the numbers of this step. The operations are compiled once by
Inductor, the compiler behind ``torch.compile`` (C++ on the CPU, Triton on CUDA), into a kernel that
reads and writes every element once; the numbers are its arguments. A new learning rate, step count
or weight decay therefore compiles nothing; an option that changes the operations (``amsgrad``)
gives another tape and so another kernel. Kernels know no shapes: they see every parameter as a flat
row of values, so one kernel serves every model.

Dynamo, which would read the Python code and guard the kernel, is left out: its guards take ten
times as long as the update of a bias (12 against 1.2 microseconds on a 2-core EPYC with torch
2.15). What they would check is the key of :func:`kernel`, and the caller's promise that the rows
are dense.
"""

from __future__ import annotations

import functools
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .tensors import Functional, replay

Operations = tuple[tuple[Any, ...], ...]
"""The operations of a :class:`~scratch_optim.tensors.Tape`."""

LARGE = 8192
"""From this many elements on, a tensor is worth a parallel loop of its own.

On two cores a parallel region costs about as much as Adam on 8,192 elements.
"""

WIDTH = 8
"""How many smaller tensors one call updates; each more saves calls and costs 0.4 s to compile."""


class Kernel:
    """What a tape has recorded, compiled for ``width`` parameters of any size.

    Args:
        operations: the tape's operations.
        inputs: how many operands the equation takes: parameter, gradient, state tensors.
        scalars: how many numbers the tape holds.
        dtype: of parameters, gradients and state. float16 and bfloat16 are computed in float32.
        device: decides between C++ and Triton.
        width: how many parameters one call updates.
        skippable: whether everything stays as it is where ``found_inf`` is not 0.
        threads: how many threads share the loop over one parameter (CPU).

    Attributes:
        call: takes a list of arguments, changes parameters and state in place, and empties the
            list. It reads addresses and sizes; it does not look at shapes.
    """

    def __init__(
        self,
        operations: Operations,
        inputs: int,
        scalars: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        width: int,
        skippable: bool,
        threads: int | None,
    ) -> None:
        compute = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype

        def run(numbers: Tensor, found_inf: Tensor, *arguments: Any) -> tuple[()]:
            values = [number.to(compute) for number in numbers.unbind()]
            results = []
            for i in range(width):
                tensors = arguments[i : inputs * width : width]
                operands = [Functional(x.to(compute)) for x in tensors]
                for index in replay(operations, operands, values):
                    if index < inputs:
                        new = operands[index].value.to(dtype)
                        if skippable:
                            new = torch.where(found_inf == 0, new, tensors[index])
                        results.append((tensors[index], new))
            for x, new in results:  # when all is computed, lest a copy be made of what is read
                x.copy_(new)
            return ()

        # Examples of distinct sizes, lest the compiler take two of them for equal; large ones, so
        # that it finds a parallel loop worth while. The sizes are arguments too.
        numbers = torch.ones(scalars, dtype=torch.float64, device=device)
        found_inf = torch.ones((), device=device)
        sizes = [2**16 + 64 * i for i in range(width)]
        rows = [torch.zeros(n, dtype=dtype, device=device) for _ in range(inputs) for n in sizes]
        compiled = _compile(run, (numbers, found_inf, *rows, *sizes), threads)
        # Without the bookkeeping for profiler and autotuner, which costs as much as a small call.
        self.call = getattr(compiled, "current_callable", compiled)
        self.width = width
        self._padding = torch.zeros(1, dtype=dtype, device=device)

    def bind(self, rows: Sequence[Sequence[Tensor]]) -> list[Any]:
        """Prepare the arguments for some parameters.

        Args:
            rows: for each operand but the gradient (parameter, state ...) the tensors of up to
                ``width`` parameters, each without gaps in memory.

        Returns:
            The arguments: the tape's numbers (a float64 vector) and ``found_inf`` (0-dim float32),
            both still None; then ``width`` tensors for each operand, parameter, gradient (still
            None) and states; then the number of elements of each parameter.
        """
        parameters = rows[0]
        padding = [self._padding] * (self.width - len(parameters))
        gaps = [None] * len(parameters)
        arguments: list[Any] = [None, None]
        for row in (parameters, gaps, *rows[1:]):
            arguments += [*row, *padding]
        return arguments + [x.numel() for x in (*parameters, *padding)]


kernel = functools.cache(Kernel)
"""``kernel(...)`` is ``Kernel(...)``, compiled once."""


def _compile(
    run: Callable[..., tuple[()]], example: tuple[Any, ...], threads: int | None
) -> Callable[[list[Any]], Any]:
    """Compile ``run`` for the dtypes and devices of ``example`` and for any sizes.

    Returns:
        Inductor's compiled graph, free of guards; it takes a list of arguments and empties it.
    """
    from torch._guards import TracingContext, tracing
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.decomposition import select_decomp_table
    from torch._inductor.virtualized import V
    from torch.fx.experimental.proxy_tensor import make_fx

    options: dict[str, Any] = {"size_asserts": False, "alignment_asserts": False}
    if threads is not None:
        options["cpp.threads"] = threads
    if example[0].is_cpu and config.cpp.vec_isa_ok is None and _knows_all_instructions():
        options["cpp.vec_isa_ok"] = True
    with torch.no_grad():
        graph = make_fx(run, decomposition_table=select_decomp_table(), tracing_mode="symbolic")(
            *example
        )
    inputs = [node.meta["val"] for node in graph.graph.nodes if node.op == "placeholder"]
    mode = inputs[0].fake_mode
    with tracing(TracingContext(mode)), V.set_fake_mode(mode), config.patch(options):
        return compile_fx_inner(graph, inputs)


@functools.cache
def _knows_all_instructions() -> bool:
    """Whether the C++ compiler is new enough to know the instructions of every processor.

    GCC and Clang know all that Inductor may use from version 12 on. Otherwise Inductor tries them
    one by one, by compiling programs: 6.5 of 12.6 seconds to the first step with an empty cache.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler

    command = [get_cpp_compiler(), "-dumpversion"]
    version = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    major = version.split(".")[0].strip()
    return major.isdigit() and int(major) >= 12
