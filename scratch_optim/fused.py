"""The fused way: an update equation as one compiled kernel.

An equation run on :class:`~scratch_optim.tensors.Recorder` operands leaves a tape: a list of
operations without numbers, and the numbers of this step. The operations are compiled once by
``torch.compile``'s Inductor (C++ on the CPU, Triton on CUDA) into a kernel that reads and writes
every element once; the numbers are its arguments. A new learning rate, step count or weight decay
therefore compiles nothing; an option that changes the operations (``amsgrad``) gives another tape
and so another kernel. Kernels know no shapes: they see every parameter as a flat row of values,
so one kernel serves every model.

The kernel is called without Dynamo's guards, which take ten times as long as the update of a
bias (12 against 1.2 microseconds on a 2-core EPYC with torch 2.15). What the guards would check
is the key of :func:`kernel`, and the caller's promise that the rows are dense.
"""

from __future__ import annotations

import functools
import types
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
        call: takes the list of arguments that :meth:`bind` prepares, and changes parameters and
            state in place. It reads addresses and sizes; it does not look at shapes.
        scalars_at: where in that list the tape's numbers go, as a float64 vector; None if the
            tape holds none.
        found_inf_at: where ``found_inf`` (0-dim float32) goes; None if not ``skippable``.
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

        def run(numbers: Tensor, found_inf: Tensor, rows: list[list[Tensor]]) -> None:
            values = [number.to(compute) for number in numbers.unbind()]
            for tensors in zip(*rows, strict=True):
                operands = [Functional(x.to(compute)) for x in tensors]
                for index in replay(operations, operands, values):
                    if index < inputs:
                        new = operands[index].value.to(dtype)
                        if skippable:
                            new = torch.where(found_inf == 0, new, tensors[index])
                        tensors[index].copy_(new)

        # Examples of distinct sizes, lest the compiler take two of them for equal; large ones, so
        # that it finds a parallel loop worth while.
        numbers = torch.ones(scalars, dtype=torch.float64, device=device)
        found_inf = torch.ones((), device=device)
        sizes = [2**16 + 64 * i for i in range(width)]
        rows = [[torch.zeros(n, dtype=dtype, device=device) for n in sizes] for _ in range(inputs)]
        compiled, arguments = _compile(run, (numbers, found_inf, rows), threads)
        # Without the bookkeeping for profiler and autotuner, which costs as much as a small call.
        self.call = getattr(compiled, "current_callable", compiled)

        # The compiled graph takes tensors and sizes in an order of its own.
        known = [numbers, found_inf, *[x for row in rows for x in row]]
        places = [x.data_ptr() for x in known] + sizes
        order = [places.index(a if isinstance(a, int) else a.data_ptr()) for a in arguments]
        self.width = width
        self._order = order
        self._padding = torch.zeros(1, dtype=dtype, device=device)
        self.scalars_at = order.index(0) if 0 in order else None
        self.found_inf_at = order.index(1) if 1 in order else None

    def bind(self, rows: Sequence[Sequence[Tensor]]) -> tuple[list[Any], list[int]]:
        """Prepare the arguments for some parameters.

        Args:
            rows: for each operand but the gradient (parameter, state ...) the tensors of up to
                ``width`` parameters, each without gaps in memory.

        Returns:
            The list of arguments, with gaps where the numbers and the gradients go, and where in
            it the gradient of each parameter goes.
        """
        parameters = rows[0]
        padding = [self._padding] * (self.width - len(parameters))
        gaps = [None] * len(parameters)
        pool: list[Any] = [None, None]
        for row in (parameters, gaps, *rows[1:]):
            pool += [*row, *padding]
        pool += [x.numel() for x in (*parameters, *padding)]
        first_gradient = 2 + self.width
        return (
            [pool[i] for i in self._order],
            [self._order.index(first_gradient + i) for i in range(len(parameters))],
        )


kernel = functools.cache(Kernel)
"""``kernel(...)`` is ``Kernel(...)``, compiled once."""


def _compile(
    run: Callable[..., None], example: tuple[Any, ...], threads: int | None
) -> tuple[Callable[[list[Any]], Any], list[Any]]:
    """Compile ``run`` for the dtypes and devices of ``example`` and for any sizes.

    Returns:
        Inductor's compiled graph, free of guards, and the arguments it was given for ``example``.
    """
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner

    first_call: list[Any] = []

    def inner_compile(graph: Any, inputs: Any, **kwargs: Any) -> Any:
        compiled = compile_fx_inner(graph, inputs, **kwargs)

        def call(arguments: list[Any]) -> Any:
            first_call[:] = [compiled, list(arguments)]
            return compiled(arguments)

        call._boxed_call = True  # type: ignore[attr-defined]
        return call

    config: dict[str, Any] = {"size_asserts": False, "alignment_asserts": False}
    if threads is not None:
        config["cpp.threads"] = threads

    def backend(graph: Any, inputs: Any) -> Any:
        return compile_fx(graph, inputs, inner_compile=inner_compile, config_patches=config)

    # Dynamo counts recompilations by code object and gives up after a few: each kernel has its own.
    own = types.FunctionType(
        run.__code__.replace(), run.__globals__, run.__name__, closure=run.__closure__
    )
    with torch.no_grad():
        torch.compile(own, backend=backend, dynamic=True, fullgraph=True)(*example)
    if not first_call:
        raise RuntimeError(
            "fused=True needs torch.compile, which is switched off in this process "
            "(TORCHDYNAMO_DISABLE?); use fused=False"
        )
    compiled, arguments = first_call
    return compiled, arguments
