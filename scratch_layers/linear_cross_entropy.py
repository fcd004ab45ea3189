"""Cross entropy of a linear map, with or without its logits in memory.

The head of a network with C classes, on rows x_n of F features, with weights V (C, F) and bias b:

    z_n = V x_n + b,     l_n = the cross entropy of z_n and its target

In matrices, X (N, F) and Z (N, C), Z = X Vᵀ + b. With G_nj = ∂l_n ∂l_n/∂z_nj, equation 2 of
:mod:`scratch_layers.cross_entropy`, the derivatives are

    ∂X = G V            ∂V = Gᵀ X = Σ_n G_n x_nᵀ            ∂b = Gᵀ 1 = Σ_n G_n                (1)

and forward Ż = Ẋ Vᵀ + X V̇ᵀ + ḃ, from which the cross entropy goes on.

Two nodes. :class:`Linear` is (1), and cross entropy is the loss behind it. Z is kept between them.
Where C is a vocabulary, Z and G are larger than all the rest: for 8,192 rows and 128,000 classes
4.2 GB each in float32, where X and V, of 2,048 features, are 67 MB and 1.0 GB.

In chunks. A row of Z is read for the same row of G only, and (1) is a sum over rows. So B rows of Z
are computed at a time, overwritten by their G, added to (1), and forgotten. But ∂y is known to the
backward only.

    "mean", "sum"  G is linear in ∂y, which is one number. The forward pass computes (1) for ∂y = 1,
                   in the three matrix products that it takes with Z kept, and the backward
                   multiplies by ∂y, in place: once. Neither X nor Z is kept.
    "none"         (and where the graph is to be retained.) The forward pass computes l. X is kept,
                   and the backward computes Z anew: a fourth product.

    P.-L. Hsu et al., "Liger Kernel: Efficient Triton Kernels for LLM Training", 2024,
    arXiv:2410.10989: in chunks, with the gradients ahead.
    E. Wijmans, B. Huval, A. Hertzberg, V. Koltun, P. Krähenbühl, "Cut Your Losses in
    Large-Vocabulary Language Models", 2024, arXiv:2411.09009: with the logits computed anew.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from scratch_layers import criterion, kernels
from scratch_layers.criterion import (
    Loss,
    _WeightedLoss,
    check_reduction,
    node,
    reduce_by,
    spread_by,
)
from scratch_layers.cross_entropy import cross_entropy, formula_for, of_one_row
from scratch_layers.dtypes import accumulate_dtype, into_autocast, out_of_autocast
from scratch_layers.function import Function, is_transformed

__all__ = ["LinearCrossEntropyLoss", "LinearCrossEntropyOptions", "linear_cross_entropy"]

# New in torch 2.13; before, there is nothing to be identified with.
_Options: Any = getattr(nn, "LinearCrossEntropyOptions", object)
_Native: Any = getattr(nn, "LinearCrossEntropyLoss", nn.modules.loss._WeightedLoss)


# How large a chunk is


@dataclass(frozen=True)
class LinearCrossEntropyOptions(_Options):
    """How :class:`LinearCrossEntropyLoss` is computed in chunks of rows; torch's own will do too.

    Args:
        allow_retain_graph: several backward passes, and second derivatives: the logits are computed
            anew in each. Else gradients are computed ahead, and used up by one backward.
        batch_chunk_size: B, the rows of a chunk. None: as ``chunking_method`` says, or, if that is
            None, all rows.
        chunking_method: ``"aspect_ratio"``: as many rows as make the logits of a chunk as large as
            the whole input, N F/C, in a power of two; ``"aspect_ratio:k"`` the k-th part of it.
            ``"auto"``: what ``batch_chunk_size`` says, else the aspect ratio, and where F ≥ C no
            more than makes it worth while. None: what ``batch_chunk_size`` says.
        acc_policy: ``"accurate"``, ``"compact"`` or ``"auto"``. On CUDA, "compact" adds up ∂V over
            the chunks in the dtype of the input, else, as everywhere else, in ``acc_dtype``.
            "auto" is "accurate" for half precision on the CPU, else "compact".
        acc_dtype: of logits and sums: that of the input, or float32 where that is half precision.
            None: with ``acc_policy="auto"`` the wider of these, else that of the input.

    Raises:
        ValueError: a value that is none of these.
    """

    allow_retain_graph: bool = False
    batch_chunk_size: int | None = None
    chunking_method: str | None = "auto"
    acc_policy: str = "auto"
    acc_dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        policies, size, method = ("auto", "accurate", "compact"), self.batch_chunk_size, None
        if self.acc_policy not in policies:
            raise ValueError(
                f"invalid acc_policy: {self.acc_policy!r}; expected one of "
                f"{', '.join(map(repr, policies))}"
            )
        if self.chunking_method not in (None, "auto", "aspect_ratio"):
            method, _, parts = self.chunking_method.partition(":")
            if method != "aspect_ratio" or not parts.isdigit() or int(parts) == 0:
                raise ValueError(f"invalid chunking_method: {self.chunking_method!r}")
        if size is not None and not (isinstance(size, int) and size > 0):
            raise ValueError(f"batch_chunk_size must be positive int or None, got {size!r}")
        allowed = (None, torch.float16, torch.bfloat16, torch.float32, torch.float64)
        if self.acc_dtype not in allowed:
            raise ValueError(
                f"acc_dtype must be one of {{{', '.join(map(str, allowed))}}}, "
                f"got {self.acc_dtype!r}. Pass acc_dtype=None to let the op pick automatically."
            )


def is_compact(options: LinearCrossEntropyOptions, x: Tensor) -> bool:
    """What ``acc_policy`` asks for."""
    if options.acc_policy != "auto":
        return options.acc_policy == "compact"
    return x.device.type != "cpu" or x.dtype not in (torch.float16, torch.bfloat16)


def rows_of_chunk(options: LinearCrossEntropyOptions, x: Tensor, C: int, of_index: bool) -> int:
    """B, for x (N, F) and C values of Z in each row.

    Raises:
        ValueError: ``batch_chunk_size`` and ``chunking_method`` are at odds.
    """
    N, F = x.shape
    size, method = options.batch_chunk_size, options.chunking_method
    if method is None or (method == "auto" and size is not None):
        return max(1, N if size is None else min(size, N))
    wanted = -(-N // -(-C // F))  # both rounded up
    rows = min(2 ** (wanted - 1).bit_length() // int(method.partition(":")[2] or 1), N)
    if method == "auto" and is_compact(options, x):
        # with more rows, a chunk and the gradients take more memory than all of Z and of G
        most = N * C // (4 * F) if of_index else N // 2
        rows = max(1, min(rows, 2 ** (max(most, 1).bit_length() - 1)))
    if size is not None and size != rows:
        raise ValueError(
            f"batch_chunk_size (={size}) and chunking_method ('{method}') give different chunk "
            f"sizes ({size} vs {rows}); pass only one."
        )
    return max(1, rows)


# Two nodes


class Linear(Function):
    """Z = X Vᵀ + b as a node, called with X (N, F), V (C, F) and b (C,) or None."""

    @staticmethod
    def forward(x: Tensor, v: Tensor, b: Tensor | None) -> Tensor:
        """Z = X Vᵀ + b."""
        return nn.functional.linear(x, v, b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save X and V."""
        x, v, _ = inputs
        ctx.save_for_backward(x, v)
        ctx.save_for_forward(x, v)

    @staticmethod
    def backward(ctx: Any, d_z: Tensor) -> Any:
        """∂X = ∂Z V, ∂V = ∂Zᵀ X, ∂b = ∂Zᵀ 1."""
        x, v = ctx.saved_tensors
        by_x, by_v, by_b = ctx.needs_input_grad
        return d_z @ v if by_x else None, d_z.T @ x if by_v else None, d_z.sum(0) if by_b else None

    @staticmethod
    def tangent(ctx: Any, t_x: Tensor | None, t_v: Tensor | None, t_b: Tensor | None) -> Tensor:
        """Ż = Ẋ Vᵀ + X V̇ᵀ + ḃ."""
        x, v = ctx.saved_tensors
        t_z = x.new_zeros(x.shape[0], v.shape[0])
        t_z = t_z if t_x is None else t_z + t_x @ v.T
        t_z = t_z if t_v is None else t_z + x @ t_v.T
        return t_z if t_b is None else t_z + t_b


# In chunks

PIECE = 2**16
"""Values of Z that the equations of the loss take at a time: what they make stays in the cache."""


class Plan(NamedTuple):
    """What is to be computed, and how.

    Attributes:
        formula: of the loss of a row.
        numbers: what the formula takes beside tensors.
        reduction: of the rows.
        row: the shape (C, *) of a row of Z.
        rows: B.
        dtype: of Z and G.
        sums: the dtype to add up ∂V in.
        result: the dtype of the loss.
    """

    formula: type[Loss]
    numbers: tuple[Any, ...]
    reduction: str
    row: tuple[int, ...]
    rows: int
    dtype: torch.dtype
    sums: torch.dtype
    result: torch.dtype

    def total(self, x: Tensor, target: Tensor, w: Tensor | None) -> Tensor | int:
        """What the mean divides by."""
        z = torch.empty((), dtype=self.dtype, device=x.device).expand(x.shape[0], *self.row)
        return self.formula.total(z, target, w, *self.numbers)


def parts(length: int, size: int) -> Iterator[slice]:
    """Slices of a size that make up the length; the last one may be shorter."""
    return (slice(start, min(start + size, length)) for start in range(0, length, size))


def multiply(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """out = a b, rounded once, to the dtype of out; autocast leaves it alone."""
    if a.dtype == out.dtype:
        return torch.mm(a, b, out=out)
    if a.dtype.itemsize < out.dtype.itemsize:  # on CUDA
        return torch.mm(a, b, out_dtype=out.dtype, out=out)
    return out.copy_(torch.mm(a, b, out=a.new_empty(out.shape)))


def equations(
    plan: Plan,
    z: Tensor,
    losses: Tensor | None,
    d_l: Tensor | None,
    target: Tensor,
    w: Tensor | None,
) -> None:
    """Write l over the losses, and G over z, as far as they are asked for."""
    for some in parts(len(z), max(1, PIECE // max(1, math.prod(plan.row)))):
        loss, tensors = (plan.formula, "none", plan.numbers), (z[some], target[some], w)
        if losses is not None:
            losses[some] = kernels.run(criterion.forward, *loss, *tensors)
        if d_l is not None:
            (z[some],) = kernels.run(criterion.backward, *loss, (True,), d_l[some], *tensors)


def sweep(
    plan: Plan,
    needed: Sequence[bool],
    losses: Tensor | None,
    d_l: Tensor | None,
    x: Tensor,
    v: Tensor,
    b: Tensor | None,
    target: Tensor,
    w: Tensor | None,
) -> list[Tensor | None]:
    """Write l over the losses (N, *), and return ∂X, ∂V, ∂b for ∂l (N, *), as far as needed."""
    factors = x.dtype if x.is_cuda else plan.dtype
    d_x = torch.empty_like(x) if needed[0] else None
    d_v = torch.zeros_like(v, dtype=plan.sums) if needed[1] else None
    d_b = torch.zeros_like(b, dtype=plan.dtype) if needed[2] and b is not None else None
    factor = v.to(factors)
    chunk = x.new_empty((min(plan.rows, len(x)), len(v)), dtype=plan.dtype)
    for rows in parts(len(x), plan.rows):
        x_rows = x[rows].to(factors)
        z = multiply(x_rows, factor.T, out=chunk[: len(x_rows)])
        if b is not None:
            z += b
        equations(
            plan,
            z.view(len(z), *plan.row),
            None if losses is None else losses[rows],
            None if d_l is None else d_l[rows],
            target[rows],
            w,
        )
        if d_b is not None:
            d_b += z.sum(0)
        g = z.to(factors)
        if d_x is not None:
            multiply(g, factor, out=d_x[rows])
        if d_v is not None and d_v.dtype == factors:
            d_v.addmm_(g.T, x_rows)
        elif d_v is not None:
            d_v += multiply(g.T, x_rows, out=torch.empty_like(d_v))
    sums = zip((d_x, d_v, d_b), (x, v, b), strict=True)
    return [d if d is None or t is None else d.to(t.dtype) for d, t in sums]


class Final(torch.autograd.Function):
    """Passes on gradients that cannot be differentiated, with an error for who tries."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """The gradients, as if they were functions of what stands for the inputs."""
        return gradients

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        """Refuse."""
        raise RuntimeError(
            "linear_cross_entropy computed its gradients ahead and kept nothing to differentiate "
            "them by: pass options=LinearCrossEntropyOptions(allow_retain_graph=True), or None"
        )


class Chunked(torch.autograd.Function):
    """The loss in chunks, called with (plan, ahead, X (N, F), V (C, F), b (C,), target, w).

    A second output, which is empty, stands for the inputs in a second derivative.
    """

    @staticmethod
    def forward(
        ctx: Any,
        plan: Plan,
        ahead: bool,
        x: Tensor,
        v: Tensor,
        b: Tensor | None,
        target: Tensor,
        w: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """The loss; with ``ahead``, for "mean" and "sum", equation 1 for ∂y = 1."""
        needed = [ahead and need for need in ctx.needs_input_grad[2:5]]
        losses = x.new_empty((len(x), *plan.row[1:]), dtype=plan.dtype)
        total, d_l = plan.total(x, target, w), None
        if any(needed):
            d_l = spread_by(plan.reduction, losses.new_ones(()), total).expand_as(losses)
        ctx.gradients = sweep(plan, needed, losses, d_l, x, v, b, target, w)
        ctx.plan, ctx.ahead, inputs = plan, ahead, x.new_empty(0)
        ctx.save_for_backward(*([inputs] if ahead else [x, v, b, target, w]))
        return reduce_by(plan.reduction, losses, total).to(plan.result), inputs

    @staticmethod
    def backward(ctx: Any, d_y: Tensor, _: Tensor) -> Any:
        """What was computed ahead, times ∂y; else equation 1."""
        if ctx.ahead:
            d_tensors, ctx.gradients = ctx.gradients, None
            if d_tensors is None:
                raise RuntimeError(
                    "linear_cross_entropy chunked backward called twice; "
                    "retain_graph=True / double backward are not supported."
                )
            d_tensors = [d if d is None else d.mul_(d_y) for d in d_tensors]
            if torch.is_grad_enabled():
                d_tensors = Final.apply(*ctx.saved_tensors, *d_tensors)
        else:
            follow = differentiable if torch.is_grad_enabled() else anew
            d_tensors = follow(ctx.plan, ctx.needs_input_grad[2:5], d_y, *ctx.saved_tensors)
        return None, None, *d_tensors, None, None


def anew(
    plan: Plan,
    needed: Sequence[bool],
    d_y: Tensor,
    x: Tensor,
    v: Tensor,
    b: Tensor | None,
    target: Tensor,
    w: Tensor | None,
) -> list[Tensor | None]:
    """Equation 1, in chunks."""
    d_l = spread_by(plan.reduction, d_y.to(plan.dtype), plan.total(x, target, w))
    d_l = d_l.expand(len(x), *plan.row[1:])
    return sweep(plan, needed, None, d_l, x, v, b, target, w)


def differentiable(
    plan: Plan,
    needed: Sequence[bool],
    d_y: Tensor,
    x: Tensor,
    v: Tensor,
    b: Tensor | None,
    target: Tensor,
    w: Tensor | None,
) -> list[Tensor | None]:
    """Equation 1 by the two nodes, which have derivatives of their own."""
    z = Linear.call(x, v, b).reshape(-1, *plan.row).to(plan.result)
    y = node(plan.formula, plan.reduction, z, target, w, numbers=plan.numbers)
    wanted = [t for t, need in zip((x, v, b), needed, strict=True) if need and t is not None]
    found = iter(torch.autograd.grad(y, wanted, d_y, create_graph=True))
    return [next(found) if need else None for need in needed]


# The functional form and the layer


def _check_shapes(x: Tensor, v: Tensor, b: Tensor | None) -> None:
    if x.dim() not in (1, 2):
        raise RuntimeError(f"expected input with dimensionality 1 or 2, got {x.dim()}")
    if v.dim() < 2:
        raise RuntimeError(f"expected linear_weight with dimensionality at least 2, got {v.dim()}")
    if x.shape[-1] != v.shape[-1]:
        raise RuntimeError(
            "expected equal input and linear_weight last dimensions (in_features), "
            f"got {x.shape[-1]} and {v.shape[-1]}, respectively"
        )
    row = tuple(v.shape[:-1])
    if b is not None and tuple(b.shape) != row:
        raise RuntimeError(f"expected linear_bias shape {row}, got {tuple(b.shape)}")
    if len(row) > 1 and x.dim() == 1:
        raise RuntimeError(
            f"K-dimensional loss defined by linear_weight shape {tuple(v.shape)} requires batched "
            f"input, (N, {x.shape[0]}), got unbatched input with shape {tuple(x.shape)}"
        )


def _can_be_chunked(z: Tensor, factors: Sequence[Tensor | None], others: Any) -> bool:
    """Whether one dtype and plain reverse derivatives by X, V and b are all that is asked for.

    Args:
        z: of the dtype of the logits.
        factors: X, V and b.
        others: target and class weights.
    """
    if is_transformed() or torch.compiler.is_exporting() or torch._C._get_tracing_state():
        return False
    if torch.compiler.is_compiling() and _Options is object:
        return False  # torch 2.11 compiles the backward to one whose ∂X is zero
    dtypes = {t.dtype for t in factors if t is not None}
    others = [t for t in others if t is not None and t.is_floating_point()]
    return len(dtypes) == 1 and all(t.dtype == z.dtype and not t.requires_grad for t in others)


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Tensor,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: LinearCrossEntropyOptions | None = None,
) -> Tensor:
    """Cross entropy of V x + b, see :class:`LinearCrossEntropyLoss`.

    Args:
        input: x, (F,) or (N, F).
        linear_weight: V, (C, F) or (C, d1, ..., F).
        target: as for the class.
        linear_bias: b, of the shape of V without its last dimension.
        weight: as for the class, as is all that follows.
        reduction: of the losses of the rows.
        ignore_index: of targets.
        label_smoothing: ε.
        options: how to compute in chunks.
    """
    _check_shapes(input, linear_weight, linear_bias)
    row = tuple(linear_weight.shape[:-1])
    shape = (*input.shape[:-1], *row)
    if target.shape == shape and ignore_index is not None:
        raise RuntimeError("ignore_index cannot be specified when target contains probabilities")
    ignored = -100 if ignore_index is None else ignore_index
    x, v, b = into_autocast(
        input if input.dim() == 2 else input.unsqueeze(0),
        linear_weight.flatten(0, -2),
        None if linear_bias is None else linear_bias.flatten(),
    )
    logit, t, w = out_of_autocast(x.new_empty(()), target, weight)
    if options is None or not _can_be_chunked(logit, (x, v, b), (t, w)):
        z = Linear.call(x, v, b).reshape(shape)
        return cross_entropy(z, t, w, None, ignored, None, reduction, label_smoothing)
    reduction = check_reduction(None, None, reduction)
    dtype = options.acc_dtype
    if dtype is None:
        dtype = accumulate_dtype(x) if options.acc_policy == "auto" else x.dtype
    if dtype not in (x.dtype, accumulate_dtype(x)):
        raise RuntimeError(
            "linear_cross_entropy supports float32 acc_dtype with float16/bfloat16 inputs, "
            f"but got {dtype} acc_dtype and {x.dtype} inputs."
        )
    formula, (_, t, w), numbers = formula_for(logit.expand(shape), t, w, ignored, label_smoothing)
    rows = rows_of_chunk(options, x, len(v), not t.is_floating_point())
    sums = x.dtype if x.is_cuda and is_compact(options, x) else dtype
    plan = Plan(formula, numbers, reduction, row, rows, dtype, sums, logit.dtype)
    # a traced backward cannot use up what the forward left
    again = options.allow_retain_graph or reduction == "none" or torch.compiler.is_compiling()
    w = w[:1] if w is not None and w.dim() > 1 else w  # one row stands for all
    ahead = torch.is_grad_enabled() and not again
    y, _ = Chunked.apply(plan, ahead, x, v, b, t, w)
    return of_one_row(y, input)


class LinearCrossEntropyLoss(_WeightedLoss, _Native):
    """Cross entropy of the logits V x + b, of which a layer with many classes keeps too many.

    Args:
        in_features: F.
        num_classes: C.
        out_features: d1, ..., dK: a loss for each of these places, each with its own V and b.
        bias: with b.
        device: of V and b.
        dtype: of V and b.
        reduction: ``"mean"`` (as in :class:`CrossEntropyLoss`), ``"sum"`` or ``"none"``.
        weight: one for each class.
        ignore_index: rows with this index as target count for nothing; None for -100, and for a
            distribution as target.
        label_smoothing: ε in [0, 1]: the target becomes (1 - ε) q + ε/C.
        options: compute in chunks of rows, as these :class:`LinearCrossEntropyOptions` say. None
            keeps the logits.

    Shape: input (F,) or (N, F); target an index of a class, (), (N,) or (N, d1, ..., dK), or a
    distribution over the classes, (C,) or (N, C, d1, ..., dK). To a scalar, or one loss for each
    index for ``"none"``. V and b are those of the attribute ``linear``, a ``torch.nn.Linear`` with
    C d1...dK outputs.

    Dtypes: floating point, the same for input, V and b, or under autocast any; indices int64 or
    uint8. In chunks, logits of float16 and bfloat16 are computed and kept in float32.

    Memory, beside X and V, in values: N C kept, and another N C in the backward, without options.
    In chunks B C, and the gradients: N F + C F from the forward pass on, or, for "none" and with
    ``allow_retain_graph``, in the backward only.

    Raises:
        RuntimeError: shapes that do not go together; ε outside of [0, 1]; as
            :class:`CrossEntropyLoss`. In chunks without ``allow_retain_graph``, a second backward
            pass, or a second derivative.
        ValueError: options that are at odds.

    Source: equation 1 in the docstring of the module.

    Differs from torch: chunks are made for label smoothing, ``out_features``, and distributions
    with ``"none"`` too; ``allow_retain_graph`` gives second derivatives. Under ``torch.func``, in
    forward derivatives, and where target or weight require grad, the logits are kept.
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        reduction: str = "mean",
        weight: Tensor | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: LinearCrossEntropyOptions | None = None,
    ) -> None:
        if weight is not None and weight.shape != (num_classes,):
            raise RuntimeError(
                f"expected weight shape to be {(num_classes,)}, got {tuple(weight.shape)}"
            )
        if label_smoothing < 0 or label_smoothing > 1:
            raise RuntimeError(
                f"expected label_smoothing to be in range [0, 1], got {label_smoothing}"
            )
        _WeightedLoss.__init__(self, weight, None, None, reduction)
        self.num_classes = num_classes
        self.out_features = out_features
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        # torch's module, for its parameters, since the two must be able to take each other's place
        self.linear = nn.Linear(
            in_features,
            math.prod(out_features, start=num_classes),
            bias=bias,
            device=device,
            dtype=dtype,
        )
        self.options = options

    def extra_repr(self) -> str:
        """All options."""
        return (
            f"in_features={self.linear.in_features}, num_classes={self.num_classes}, "
            f"out_features={self.out_features}, bias={self.linear.bias is not None}, "
            f"reduction={self.reduction}, ignore_index={self.ignore_index}, "
            f"label_smoothing={self.label_smoothing}, options={self.options}"
        )

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """See the class."""
        row, v, b = (self.num_classes, *self.out_features), self.linear.weight, self.linear.bias
        return linear_cross_entropy(
            input,
            v.reshape(*row, self.linear.in_features),
            target,
            linear_bias=None if b is None else b.reshape(row),
            weight=self.weight,
            reduction=self.reduction,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            options=self.options,
        )
