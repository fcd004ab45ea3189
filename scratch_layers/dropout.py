"""Dropout of single values, of whole channels, of whole branches, and its form for SELU networks.

    N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever, R. Salakhutdinov, "Dropout: A Simple Way
    to Prevent Neural Networks from Overfitting", Journal of Machine Learning Research 15, 2014.
    J. Tompson et al., "Efficient Object Localization Using Convolutional Networks", 2014,
    arXiv:1411.4280: one draw for each channel (Dropout1d, 2d, 3d).
    G. Klambauer, T. Unterthiner, A. Mayr, S. Hochreiter, "Self-Normalizing Neural Networks", 2017,
    arXiv:1706.02515: alpha dropout.
    G. Huang, Y. Sun, Z. Liu, D. Sedra, K. Weinberger, "Deep Networks with Stochastic Depth", 2016,
    arXiv:1603.09382: one draw for a residual branch and each sample (DropPath).

Draw k_i ~ Bernoulli(1 - p) for each value (channel, sample), independent of everything else. Then

    dropout         y_i = a k_i x_i,                          a = 1 / (1 - p)
    alpha dropout   y_i = a (k_i x_i - α' (1 - k_i)) + b,     a = ((1 - p) (1 + α'² p))^(-1/2)
                                                              b = a α' p

a keeps the mean of x, E[y_i] = x_i. Alpha dropout sets to -α', where SELU saturates, instead of to
zero; its a and b keep mean 0 and variance 1 of x:

    E[y] = a (0 - α' p) + b = 0
    E[y²] = a² Var(k x - α' (1 - k)) = a² ((1 - p) + α'² p (1 - p)) = 1

All are of the form y_i = a k_i x_i + c_i, where c_i is one number, c₁ = b, for what is kept, and
another, c₀ = b - a α', for what is dropped. Backward:

    ∂x_i = a k_i ∂y_i

so only k is kept, as one byte for each value (native keeps a k in the dtype of x). In evaluation
and for p = 0 the input itself is returned. The draw is native's, in value and in order: with the
same seed the outputs, and the generator afterwards, are equal bit for bit on a CPU.

Stochastic depth drops the branch f of a residual block, x + f(x), for a sample as a whole, so in
training the network is of random depth. The paper keeps f unscaled and multiplies it by 1 - p in
evaluation; with a = 1 / (1 - p) in training, as here, evaluation needs no factor, and the
expectation of the block is the same up to that convention: E[x + a k f] = x + f.
"""

import math
import warnings
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scratch_layers import kernels
from scratch_layers.function import Function

__all__ = [
    "AlphaDropout",
    "DropPath",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "FeatureAlphaDropout",
    "alpha_dropout",
    "drop_path",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "feature_alpha_dropout",
    "linear_decay",
]

ALPHA = 1.7580993408473766  # α' = λ α, with SELU's λ = 1.0507009873554805, α = 1.6732632423543772


def masked(x: Tensor, k: Tensor, a: Tensor) -> Tensor:
    """a k x. Multiplied even where k is zero: 0 times inf or nan is nan, as natively."""
    return x * (k * a)


def masked_with_offset(x: Tensor, k: Tensor, a: Tensor, c_1: Tensor, c_0: Tensor) -> Tensor:
    """a k x + c. (To choose c by a bool would take several times as long, compiled.)"""
    return x * (k * a) + (k * c_1 + (1 - k) * c_0)


def run(text: Any, x: Tensor, k: Tensor, *numbers: Tensor) -> Tensor:
    """A text through the kernel for all shapes where each value has its own k."""
    each = k.shape == x.shape
    y: Tensor = (kernels.run_elementwise if each else kernels.run)(text, x, k, *numbers)
    return y


class DropoutFunction(Function):
    """y = a k x + c as one node of the graph; saves k (uint8, broadcast against x) and a (0-dim).

    Called with (x, k, a), where c is zero, or with (x, k, a, c_1, c_0); a, c_1 and c_0 are 0-dim.
    """

    @staticmethod
    def forward(x: Tensor, k: Tensor, a: Tensor, *c: Tensor) -> Tensor:
        """Equations: :func:`masked` and :func:`masked_with_offset`."""
        return run(masked_with_offset if c else masked, x, k, a, *c)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save what the derivative needs."""
        _, k, a, *c = inputs
        ctx.offsets = len(c)
        ctx.save_for_backward(k, a)
        ctx.save_for_forward(k, a)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> Any:
        """∂x = a k ∂y."""
        return run(masked, d_y, *ctx.saved_tensors), None, None, *[None] * ctx.offsets

    @staticmethod
    def tangent(ctx: Any, t_x: Tensor, *_: None) -> Tensor:
        """ẏ = a k ẋ."""
        return masked(t_x, *ctx.saved_tensors)


def check_probability(p: float) -> None:
    """Refuse what native refuses; nan, which it lets pass at first, in :func:`drop`."""
    if p < 0 or p > 1:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")


def drop(
    x: Tensor,
    p: float,
    training: bool,
    inplace: bool,
    shape: tuple[int, ...] | None = None,
    alpha: float = 0.0,
) -> Tensor:
    """Draw k in a shape (None for that of x), and y = a k x + c; α' is zero but for SELU."""
    if not 0 <= p <= 1:
        raise RuntimeError(f"dropout probability has to be between 0 and 1, but got {p}")
    if not training or p == 0 or x.numel() == 0:
        return x
    numbers: tuple[Tensor, ...]
    if p == 1:  # nothing is drawn
        k, numbers = (zero := x.new_zeros(())), (zero,)
    else:
        # not bool, with which products took 1.6 times as long eagerly and 20 times compiled
        like = torch.empty_like(x, dtype=torch.uint8)
        k = like if shape is None else x.new_empty(shape, dtype=torch.uint8)
        k.bernoulli_(1 - p)
        numbers = scale_and_offsets(x, p, alpha)
    y: Tensor = DropoutFunction.call(x, k, *numbers)
    return x.copy_(y) if inplace else y


def scale_and_offsets(x: Tensor, p: float, alpha: float) -> tuple[Tensor, ...]:
    """a, or a, c₁ and c₀: rounded to the dtype of x step by step, as natively."""
    if not alpha:
        return (x.new_ones(()).div_(1 - p),)
    a = 1 / math.sqrt((alpha * alpha * p + 1) * (1 - p))
    c_1, c_0 = (x.new_full((), k).add(-1).mul_(alpha * a).add_(alpha * a * p) for k in (1, 0))
    return x.new_ones(()).mul_(a), c_1, c_0


def each_channel(input: Tensor, batched: bool = True) -> tuple[int, ...]:
    """(N, C, 1, ...) for a batch (N, C, *), (C, 1, ...) for one sample (C, *)."""
    leading = 2 if batched else 1
    if input.dim() < leading:
        raise RuntimeError("Feature dropout requires at least 2 dimensions in the input")
    return tuple(input.shape[:leading]) + (1,) * (input.dim() - leading)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """:class:`Dropout` as a function."""
    check_probability(p)
    return drop(input, p, training, inplace)


def dropout1d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """:class:`Dropout1d` as a function."""
    check_probability(p)
    dim = input.dim()
    if dim not in (2, 3):
        raise RuntimeError(
            f"dropout1d: Expected 2D or 3D input, but received a {dim}D input. "
            "Note that dropout1d exists to provide channel-wise dropout on inputs with 1 "
            "spatial dimension, a channel dimension, and an optional batch dimension "
            "(i.e. 2D or 3D inputs)."
        )
    return drop(input, p, training, inplace, each_channel(input, batched=dim == 3))


def dropout2d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """:class:`Dropout2d` as a function."""
    check_probability(p)
    dim = input.dim()
    if dim not in (3, 4):
        warnings.warn(_wrong_dimensions("dropout2d", dim, 2, "3D or 4D"), stacklevel=2)
    if dim == 3:
        warnings.warn(
            "dropout2d: Received a 3D input to dropout2d and assuming that channel-wise "
            "1D dropout behavior is desired - input is interpreted as shape (N, C, L), where C "
            "is the channel dim. This behavior will change in a future release to interpret "
            "the input as one without a batch dimension, i.e. shape (C, H, W). To maintain "
            "the 1D channel-wise dropout behavior, please switch to using dropout1d instead.",
            stacklevel=2,
        )
    return drop(input, p, training, inplace, each_channel(input))


def dropout3d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """:class:`Dropout3d` as a function."""
    check_probability(p)
    dim = input.dim()
    if dim not in (4, 5):
        warnings.warn(_wrong_dimensions("dropout3d", dim, 3, "4D or 5D"), stacklevel=2)
    return drop(input, p, training, inplace, each_channel(input, batched=dim == 5))


def _wrong_dimensions(name: str, dim: int, spatial: int, allowed: str) -> str:
    return (
        f"{name}: Received a {dim}-D input to {name}, which is deprecated "
        "and will result in an error in a future release. To retain the behavior "
        "and silence this warning, please use dropout instead. Note that "
        f"{name} exists to provide channel-wise dropout on inputs with {spatial} spatial "
        "dimensions, a channel dimension, and an optional batch dimension "
        f"(i.e. {allowed} inputs)."
    )


def alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    """:class:`AlphaDropout` as a function; in evaluation unless told, and in place if told."""
    check_probability(p)
    return drop(input, p, training, inplace, alpha=ALPHA)


def feature_alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    """:class:`FeatureAlphaDropout` as a function; in evaluation unless told, in place if told."""
    check_probability(p)
    return drop(input, p, training, inplace, each_channel(input), alpha=ALPHA)


class _Dropout(nn.modules.dropout._DropoutNd):
    # Inherits from torch's class for identity (isinstance) and signature only: everything that
    # computes or keeps state is overridden below.

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        nn.Module.__init__(self)
        check_probability(p)
        self.p = p
        self.inplace = inplace

    def extra_repr(self) -> str:
        """The arguments of the constructor."""
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_Dropout, nn.Dropout):
    """In training, zero each value with probability p and multiply the others by 1 / (1 - p).

    Args:
        p: probability that a value becomes zero, in [0, 1].
        inplace: overwrite the input (and return it).

    Shape: any to the same. Dtypes: floating point and complex.

    Raises:
        ValueError: p outside of [0, 1].
        RuntimeError: integer input in training; p is nan; in-place on a leaf that requires grad.

    Source: Srivastava et al. 2014; equations in the docstring of the module.

    Differs from torch: the mask kept for the backward takes one byte for each value; the compiled
    and the CUDA form draw other numbers than torch's fused CUDA kernel does.
    """

    def forward(self, input: Tensor) -> Tensor:
        """See the class."""
        return dropout(input, self.p, self.training, self.inplace)


class Dropout1d(_Dropout, nn.Dropout1d):
    """Dropout of whole channels of (N, C, L) or (C, L); otherwise as :class:`Dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        """See the class."""
        return dropout1d(input, self.p, self.training, self.inplace)


class Dropout2d(_Dropout, nn.Dropout2d):
    """Dropout of whole channels of (N, C, H, W); otherwise as :class:`Dropout`.

    As in torch, three dimensions are taken as (N, C, L), with a warning.
    """

    def forward(self, input: Tensor) -> Tensor:
        """See the class."""
        return dropout2d(input, self.p, self.training, self.inplace)


class Dropout3d(_Dropout, nn.Dropout3d):
    """Dropout of whole channels of (N, C, D, H, W) or (C, D, H, W); else as :class:`Dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        """See the class."""
        return dropout3d(input, self.p, self.training, self.inplace)


class AlphaDropout(_Dropout, nn.AlphaDropout):
    """Dropout to -α' that keeps mean 0 and variance 1, for networks of SELU units.

    Args, shape, dtypes and errors as for :class:`Dropout`; as in torch, ``inplace`` is accepted
    and without effect. Source: Klambauer et al. 2017. Compiled, float16 and bfloat16 are rounded
    once, where eager and torch round before and after c is added.
    """

    def forward(self, input: Tensor) -> Tensor:
        """See the class."""
        return alpha_dropout(input, self.p, self.training)


class FeatureAlphaDropout(_Dropout, nn.FeatureAlphaDropout):
    """Alpha dropout of whole channels of (N, C, *); otherwise as :class:`AlphaDropout`."""

    def forward(self, input: Tensor) -> Tensor:
        """See the class."""
        return feature_alpha_dropout(input, self.p, self.training)


def drop_path(
    input: Tensor, p: float, mode: Literal["row", "batch"] = "row", training: bool = True
) -> Tensor:
    """:class:`DropPath` as a function."""
    if not 0 <= p <= 1:
        raise ValueError(f"drop probability has to be between 0 and 1, but got {p}")
    if mode not in ("row", "batch"):
        raise ValueError(f"mode has to be either 'batch' or 'row', but got {mode}")
    if not training or p == 0:
        return input
    if mode == "row" and input.dim() == 0:
        raise ValueError("mode 'row' drops samples (N, *), but got a 0-dim input: take 'batch'")
    shape = [1] * input.dim()
    if mode == "row":
        shape[0] = input.shape[0]
    # drawn for p = 1 too, as the originals do; the scale of what is never kept does not matter
    k = input.new_empty(shape, dtype=torch.uint8).bernoulli_(1 - p)
    y: Tensor = DropoutFunction.call(input, k, *scale_and_offsets(input, p if p < 1 else 0.0, 0.0))
    return y


class DropPath(nn.Module):
    """Stochastic depth: in training, zero a residual branch with probability p, else scale it.

        y = x + drop_path(f(x))

    Args:
        p: probability that the branch is dropped, in [0, 1]; see :func:`linear_decay`.
        mode: "row" draws for each sample of the batch, "batch" once for all of it.

    Shape: (N, *) to the same ("batch": any). Dtypes: floating point and complex.

    Raises:
        ValueError: p outside of [0, 1] or nan, another mode.
        RuntimeError: integer input in training.

    Source: Huang et al. 2016, arXiv:1603.09382; equations in the docstring of the module.

    Corresponds to: ``torchvision.ops.StochasticDepth(p, mode)`` and, for "row",
    ``timm.layers.DropPath(drop_prob=p)``, whose draws and bits these are. timm's
    ``scale_by_keep=False`` leaves out the factor 1 / (1 - p): multiply by 1 - p for that.
    """

    def __init__(self, p: float = 0.0, mode: Literal["row", "batch"] = "row") -> None:
        super().__init__()
        drop_path(torch.empty(0), p, mode, training=False)  # refuses what it would refuse later
        self.p = p
        self.mode = mode

    def extra_repr(self) -> str:
        """The arguments of the constructor."""
        return f"p={self.p}, mode={self.mode}"

    def forward(self, input: Tensor) -> Tensor:
        """See the class."""
        return drop_path(input, self.p, self.mode, self.training)


def linear_decay(p: float, blocks: int) -> list[float]:
    """p_l = l / L p_L for the blocks l = 1, ..., L, so that the first are the last to be dropped.

    Huang et al. 2016, section 3, equation 4, of the *survival* probabilities 1 - p_l. (timm counts
    from l = 0 to L, in L - 1 steps, so there the first block is never dropped.)

    Args:
        p: p_L, of the last block.
        blocks: L.
    """
    return [block / blocks * p for block in range(1, blocks + 1)]
