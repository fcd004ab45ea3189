"""Dropout, of single values or of whole channels, and its form for SELU networks.

    N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever, R. Salakhutdinov, "Dropout: A Simple Way
    to Prevent Neural Networks from Overfitting", Journal of Machine Learning Research 15, 2014.
    J. Tompson et al., "Efficient Object Localization Using Convolutional Networks", 2014,
    arXiv:1411.4280: one draw for each channel (Dropout1d, 2d, 3d).
    G. Klambauer, T. Unterthiner, A. Mayr, S. Hochreiter, "Self-Normalizing Neural Networks", 2017,
    arXiv:1706.02515: alpha dropout.

Draw k_i ~ Bernoulli(1 - p) for each value (or channel), independent of everything else. Then

    dropout         y_i = a k_i x_i,                          a = 1 / (1 - p)
    alpha dropout   y_i = a (k_i x_i - α' (1 - k_i)) + b,     a = ((1 - p) (1 + α'² p))^(-1/2)
                                                              b = a α' p

a keeps the mean of x, E[y_i] = x_i. Alpha dropout sets to -α', where SELU saturates, instead of to
zero; its a and b keep mean 0 and variance 1 of x:

    E[y] = a (0 - α' p) + b = 0
    E[y²] = a² Var(k x - α' (1 - k)) = a² ((1 - p) + α'² p (1 - p)) = 1

All are of the form y_i = a k_i x_i + c_i, where c depends on the draw alone. Backward:

    ∂x_i = a k_i ∂y_i

so only k is kept, as one byte for each value (native keeps a k in the dtype of x). In evaluation
and for p = 0 the input itself is returned. The draw is native's, in value and in order: with the
same seed the outputs, and the generator afterwards, are equal bit for bit on a CPU.
"""

import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from scratch_layers.function import Function

ALPHA = 1.7580993408473766  # α' = λ α, with SELU's λ = 1.0507009873554805, α = 1.6732632423543772


class DropoutFunction(Function):
    """y = x k a + c as one node of the graph; saves k (bool, broadcast against x) and a (0-dim)."""

    @staticmethod
    def forward(x: Tensor, k: Tensor, a: Tensor, c: Tensor | None) -> Tensor:
        """Shape and dtype of x."""
        y = x * k * a
        return y if c is None else y + c

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save what the derivative needs."""
        _, k, a, _ = inputs
        ctx.save_for_backward(k, a)
        ctx.save_for_forward(k, a)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> Any:
        """∂x = ∂y k a."""
        k, a = ctx.saved_tensors
        return d_y * k * a, None, None, None

    @staticmethod
    def tangent(ctx: Any, t_x: Tensor, *_: None) -> Tensor:
        """ẏ = ẋ k a."""
        k, a = ctx.saved_tensors
        return t_x * k * a


class _Dropout(nn.modules.dropout._DropoutNd):
    # Inherits from torch's class for identity (isinstance) and signature only: everything that
    # computes or keeps state is overridden below.

    can_be_inplace = True

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        nn.Module.__init__(self)
        if p < 0 or p > 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        self.p = p
        self.inplace = inplace

    def extra_repr(self) -> str:
        """The arguments of the constructor."""
        return f"p={self.p}, inplace={self.inplace}"

    def _mask_shape(self, input: Tensor) -> tuple[int, ...] | None:
        """Shape of the draw, None for that of the input; refuses a wrong number of dimensions."""
        return None

    def _scale_and_offset(self, k: Tensor, x: Tensor) -> tuple[Tensor, Tensor | None]:
        # rounded to the dtype of x before it meets x, as native does
        return x.new_ones(()).div_(1 - self.p), None

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same shape and dtype; see the class."""
        x, p = input, self.p
        if p < 0 or p > 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        shape = self._mask_shape(x)
        if not 0 <= p <= 1:  # nan, which native lets pass until here
            raise RuntimeError(f"dropout probability has to be between 0 and 1, but got {p}")
        if not self.training or p == 0 or x.numel() == 0:
            return x
        if p == 1:  # nothing is drawn
            k, a, c = x.new_zeros((), dtype=torch.bool), x.new_ones(()), None
        else:
            if shape is None:
                k = torch.empty_like(x, dtype=torch.bool)
            else:
                k = x.new_empty(shape, dtype=torch.bool)
            k.bernoulli_(1 - p)
            a, c = self._scale_and_offset(k, x)
        y = DropoutFunction.call(x, k, a, c)
        return x.copy_(y) if self.inplace and self.can_be_inplace else y


def _each_channel(input: Tensor, batched: bool = True) -> tuple[int, ...]:
    """(N, C, 1, ...) for a batch (N, C, *), (C, 1, ...) for one sample (C, *)."""
    leading = 2 if batched else 1
    if input.dim() < leading:
        raise RuntimeError("Feature dropout requires at least 2 dimensions in the input")
    return tuple(input.shape[:leading]) + (1,) * (input.dim() - leading)


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


class Dropout1d(_Dropout, nn.Dropout1d):
    """Dropout of whole channels of (N, C, L) or (C, L); otherwise as :class:`Dropout`."""

    def _mask_shape(self, input: Tensor) -> tuple[int, ...]:
        dim = input.dim()
        if dim not in (2, 3):
            raise RuntimeError(
                f"dropout1d: Expected 2D or 3D input, but received a {dim}D input. "
                "Note that dropout1d exists to provide channel-wise dropout on inputs with 1 "
                "spatial dimension, a channel dimension, and an optional batch dimension "
                "(i.e. 2D or 3D inputs)."
            )
        return _each_channel(input, batched=dim == 3)


class Dropout2d(_Dropout, nn.Dropout2d):
    """Dropout of whole channels of (N, C, H, W); otherwise as :class:`Dropout`.

    As in torch, three dimensions are taken as (N, C, L), with a warning.
    """

    def _mask_shape(self, input: Tensor) -> tuple[int, ...]:
        dim = input.dim()
        if dim not in (3, 4):
            warnings.warn(_wrong_dimensions("dropout2d", dim, 2, "3D or 4D"), stacklevel=4)
        if dim == 3:
            warnings.warn(
                "dropout2d: Received a 3D input to dropout2d and assuming that channel-wise "
                "1D dropout behavior is desired - input is interpreted as shape (N, C, L), where C "
                "is the channel dim. This behavior will change in a future release to interpret "
                "the input as one without a batch dimension, i.e. shape (C, H, W). To maintain "
                "the 1D channel-wise dropout behavior, please switch to using dropout1d instead.",
                stacklevel=4,
            )
        return _each_channel(input)


class Dropout3d(_Dropout, nn.Dropout3d):
    """Dropout of whole channels of (N, C, D, H, W) or (C, D, H, W); else as :class:`Dropout`."""

    def _mask_shape(self, input: Tensor) -> tuple[int, ...]:
        dim = input.dim()
        if dim not in (4, 5):
            warnings.warn(_wrong_dimensions("dropout3d", dim, 3, "4D or 5D"), stacklevel=4)
        return _each_channel(input, batched=dim == 5)


def _wrong_dimensions(name: str, dim: int, spatial: int, allowed: str) -> str:
    return (
        f"{name}: Received a {dim}-D input to {name}, which is deprecated "
        "and will result in an error in a future release. To retain the behavior "
        "and silence this warning, please use dropout instead. Note that "
        f"{name} exists to provide channel-wise dropout on inputs with {spatial} spatial "
        "dimensions, a channel dimension, and an optional batch dimension "
        f"(i.e. {allowed} inputs)."
    )


class AlphaDropout(_Dropout, nn.AlphaDropout):
    """Dropout to -α' that keeps mean 0 and variance 1, for networks of SELU units.

    Args, shape, dtypes and errors as for :class:`Dropout`; as in torch, ``inplace`` is accepted
    and without effect. Source: Klambauer et al. 2017.
    """

    can_be_inplace = False

    def _scale_and_offset(self, k: Tensor, x: Tensor) -> tuple[Tensor, Tensor | None]:
        a = 1 / math.sqrt((ALPHA * ALPHA * self.p + 1) * (1 - self.p))
        # c = a α' (k - 1) + b, in the dtype and the order of operations that native has
        c = k.to(x.dtype).add(-1).mul_(ALPHA * a).add_(ALPHA * a * self.p)
        return x.new_ones(()).mul_(a), c


class FeatureAlphaDropout(AlphaDropout, nn.FeatureAlphaDropout):
    """Alpha dropout of whole channels of (N, C, *); otherwise as :class:`AlphaDropout`."""

    def _mask_shape(self, input: Tensor) -> tuple[int, ...]:
        return _each_channel(input)
