"""Softmax and its family: positive numbers that sum to one, along one dimension.

    J. Bridle, "Probabilistic Interpretation of Feedforward Classification Network Outputs, with
    Relationships to Statistical Pattern Recognition", Neurocomputing, NATO ASI Series 68, 1990.
    E. Jang, S. Gu, B. Poole, "Categorical Reparameterization with Gumbel-Softmax", 2016,
    arXiv:1611.01144: :func:`gumbel_softmax`.

Along a dimension, with M = max x_j, which cancels out and keeps e^x from overflowing:

    softmax        y_i = e^(x_i - M) / S,                S = Σ_j e^(x_j - M)
    log softmax    y_i = (x_i - M) - log S

Since dS/dx_j = e^(x_j - M) and with δ_ij = 1 for i = j, else 0,

    softmax        dy_i/dx_j = y_i (δ_ij - y_j)          ∂x_j = y_j (∂y_j - Σ_i ∂y_i y_i)
    log softmax    dy_i/dx_j = δ_ij - e^y_j              ∂x_j = ∂y_j - e^y_j Σ_i ∂y_i

Forward derivative: the matrix of softmax is symmetric, so ẏ is to ẋ as ∂x to ∂y; for log softmax

    ẏ_i = ẋ_i - Σ_j e^y_j ẋ_j

Both keep y alone. The second derivative reaches x through y, which is the output of this node.
"""

import warnings
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from scratch_layers import kernels
from scratch_layers.dtypes import accumulate_dtype, not_implemented, out_of_autocast
from scratch_layers.function import Function

__all__ = [
    "LogSoftmax",
    "Softmax",
    "Softmax2d",
    "Softmin",
    "gumbel_softmax",
    "log_softmax",
    "softmax",
    "softmin",
]


def forward(X: Tensor, dim: int, log: bool) -> Tensor:
    """y along dim: of softmax, or of log softmax."""
    x = X.to(accumulate_dtype(X))
    if x.numel() == 0:  # no value has no maximum
        return torch.empty_like(X)
    z = x - x.amax(dim, keepdim=True)
    e = z.exp()
    S = e.sum(dim, keepdim=True)
    y = z - S.log() if log else e / S
    return y.to(X.dtype)


def backward(Y: Tensor, d_y: Tensor, dim: int, log: bool) -> Tensor:
    """∂x along dim, from y and ∂y."""
    y, d_y = Y.to(accumulate_dtype(Y)), d_y.to(accumulate_dtype(Y))
    if log:
        d_x = d_y - y.exp() * d_y.sum(dim, keepdim=True)
    else:
        d_x = y * (d_y - (d_y * y).sum(dim, keepdim=True))
    return d_x.to(Y.dtype)


class SoftmaxFunction(Function):
    """The equations as one node of the graph, called with (x, dim, log). It saves y."""

    @staticmethod
    def forward(X: Tensor, dim: int, log: bool) -> Tensor:
        """Equations: :func:`forward`."""
        return kernels.run(forward, X, dim, log)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Save y."""
        _, ctx.dim, ctx.log = inputs
        ctx.save_for_backward(output)
        ctx.save_for_forward(output)

    @staticmethod
    def backward(ctx: Any, d_y: Tensor) -> Any:
        """Equations: :func:`backward`."""
        return kernels.run(backward, *ctx.saved_tensors, d_y, ctx.dim, ctx.log), None, None

    @staticmethod
    def tangent(ctx: Any, t_x: Tensor, *_: None) -> Tensor:
        """ẏ: for softmax as ∂x from ∂y; for log softmax ẋ_i - Σ_j e^y_j ẋ_j."""
        (Y,) = ctx.saved_tensors
        if not ctx.log:
            return backward(Y, t_x, ctx.dim, False)
        y, t_x = Y.to(accumulate_dtype(Y)), t_x.to(accumulate_dtype(Y))
        return (t_x - (y.exp() * t_x).sum(ctx.dim, keepdim=True)).to(Y.dtype)


def softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Tensor:
    """y_i = e^x_i / Σ_j e^x_j along dim, see :class:`Softmax`.

    Args:
        input: of any shape.
        dim: along which the values sum to one; None chooses one, with a warning.
        dtype: what the input is converted to before anything is computed, and that of the result.
    """
    dim = _implicit_dim("softmax", input, _stacklevel) if dim is None else dim
    return _along(input, dim, dtype, False)


def softmin(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Tensor:
    """y_i = e^-x_i / Σ_j e^-x_j along dim, see :class:`Softmin`; arguments as of softmax."""
    dim = _implicit_dim("softmin", input, _stacklevel) if dim is None else dim
    return _along(-input, dim, dtype, False)


def log_softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Tensor:
    """y_i = x_i - log Σ_j e^x_j along dim, see :class:`LogSoftmax`; arguments as of softmax."""
    dim = _implicit_dim("log_softmax", input, _stacklevel) if dim is None else dim
    return _along(input, dim, dtype, True)


def _along(x: Tensor, dim: int, dtype: torch.dtype | None, log: bool) -> Tensor:
    (x,) = out_of_autocast(x, device="cuda") if dtype is None else (x.to(dtype),)
    if not x.is_floating_point():
        last = "lastdim_" if dim in (-1, x.dim() - 1) else ""
        raise not_implemented(f"{'log_' if log else ''}softmax_{last}kernel_impl", x)
    return SoftmaxFunction.call(x, dim, log)


def _implicit_dim(name: str, x: Tensor, stacklevel: int) -> int:
    warnings.warn(
        f"Implicit dimension choice for {name} has been deprecated. "
        "Change the call to include dim=X as an argument.",
        stacklevel=stacklevel,
    )
    return 0 if x.dim() in (0, 1, 3) else 1


def gumbel_softmax(
    logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1
) -> Tensor:
    """A draw from the categorical distribution of the logits, differentiable by them.

    With G_i = -log E_i, E_i ~ Exp(1), which are Gumbel distributed, argmax_i (x_i + G_i) is a draw
    from softmax(x) (equation 1 of the paper); its soft form is (equation 2)

        y = softmax((x + G) / τ)

    Args:
        logits: x, of any shape.
        tau: τ > 0, temperature: near 0 the draw is nearly one-hot, for large τ uniform.
        hard: return the one-hot vector of the greatest y, with the derivative of y ("straight
            through").
        eps: without effect, as in torch.
        dim: along which is drawn.

    Source: Jang, Gu and Poole 2016. The draw is native's, in value and in order.
    """
    if eps != 1e-10:
        warnings.warn("`eps` parameter is deprecated and has no effect.", stacklevel=2)
    E = torch.empty_like(logits, memory_format=torch.legacy_contiguous_format).exponential_()
    y = softmax((logits - E.log()) / tau, dim)
    if not hard:
        return y
    one_hot = torch.zeros_like(y).scatter_(dim, y.argmax(dim, keepdim=True), 1.0)
    return one_hot - y.detach() + y


class _AlongDim(nn.Module):
    # Each class below inherits from torch's class of its name for identity (isinstance) only;
    # everything that computes or keeps state is here.

    _function: ClassVar[Callable[..., Tensor]]

    def __init__(self, dim: int | None = None) -> None:
        if dim is not None and (not isinstance(dim, int) or isinstance(dim, bool)):
            raise TypeError(f"dim must be an int or None, got {type(dim)}")
        nn.Module.__init__(self)
        self.dim = dim

    def __setstate__(self, state: dict[str, Any]) -> None:
        nn.Module.__setstate__(self, state)
        if not hasattr(self, "dim"):
            self.dim = None

    def extra_repr(self) -> str:
        """The arguments of the constructor."""
        return f"dim={self.dim}"

    def forward(self, input: Tensor) -> Tensor:
        """Any shape to the same shape and dtype; see the class."""
        return self._function(input, self.dim, _stacklevel=5)


class Softmax(_AlongDim, nn.Softmax):
    """y_i = e^x_i / Σ_j e^x_j,     ∂x_j = y_j (∂y_j - Σ_i ∂y_i y_i).

    Args:
        dim: along which the values sum to one; None, deprecated, is 0 for 0, 1 or 3 dimensions,
            else 1.

    Shape: any to the same. Dtypes: floating point; float32 under CUDA's autocast.

    Raises:
        TypeError: dim is not an int.
        IndexError: no such dimension.
        NotImplementedError: input that is not of a floating dtype.

    Source: Bridle 1990; derivation in the docstring of the module.
    """

    _function = staticmethod(softmax)


class Softmin(_AlongDim, nn.Softmin):
    """y_i = e^-x_i / Σ_j e^-x_j: softmax of -x. Otherwise as :class:`Softmax`."""

    _function = staticmethod(softmin)


class LogSoftmax(_AlongDim, nn.LogSoftmax):
    """y_i = x_i - log Σ_j e^x_j,     ∂x_j = ∂y_j - e^y_j Σ_i ∂y_i; else as :class:`Softmax`."""

    _function = staticmethod(log_softmax)


class Softmax2d(nn.Softmax2d):
    """Softmax over the channels of (N, C, H, W) or (C, H, W), at each place.

    Raises:
        ValueError: input of another number of dimensions.

    Otherwise as :class:`Softmax`.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) or (C, H, W) to the same; see the class."""
        if input.dim() not in (3, 4):
            raise ValueError(
                f"Softmax2d: expected input to be 3D or 4D, got {input.dim()}D instead"
            )
        return softmax(input, -3)
