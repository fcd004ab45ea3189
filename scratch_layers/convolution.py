"""The 3x3 convolution of the networks here, whose weight gradient is fast on small maps too.

With a map of H x W pixels p in N images, stride 1 and a margin of zeros,

    y[n, o, p] = Σ_c Σ_δ W[o, c, δ] x[n, c, p + δ]                                             (1)

    ∂W[o, c, δ] = Σ_n Σ_p ∂y[n, o, p] x[n, c, p + δ]                                           (2)

Equation 2 is a product of matrices that sums over images and pixels. Processors with units for
products of bfloat16 matrices (AMX) work on tiles of 32 summands, and PyTorch's kernel (oneDNN, in
torch 2.15) fills a tile with pixels of one row of one map. Of a map 3 pixels wide 29 of 32 summands
are empty. But nothing in equation 2 cares whether a pixel is of this image or of the next. So
G images are laid side by side, a column of zeros after each,

    x[1] 0 x[2] 0 ... x[G] 0          ∂y[1] 0 ∂y[2] 0 ... ∂y[G] 0

which is N / G images, G (W + 1) pixels wide, with the same sum: where a neighbor p + δ of an
image's pixel lies beyond its edge, a column of zeros stands in for the margin, and ∂y is 0 in these
columns themselves. :func:`weight_gradient` is equation 2 by this way.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input, conv2d_weight

from scratch_layers.dtypes import into_autocast
from scratch_layers.function import is_transformed

__all__ = ["Conv3x3", "side_by_side", "weight_gradient"]

SMALL = 8
"""The widest map whose images are laid side by side; on wider ones the native kernel is faster."""
WIDTH = 48
"""About how wide they are then."""


def side_by_side(x: Tensor, count: int) -> Tensor:
    """Lay images side by side, a column of zeros after each.

    Args:
        x: (N, C, H, W), any dtype.
        count: G, how many are joined. Images of zeros fill up what is missing in the last join.

    Returns:
        (⌈N / G⌉, C, H, G (W + 1)), channels_last.
    """
    missing = -len(x) % count
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, 1, 0, 0, 0, missing))  # (N, H, W + 1, C)
    x = x.unflatten(0, (-1, count)).transpose(1, 2).flatten(2, 3)  # (N / G, H, G (W + 1), C)
    return x.permute(0, 3, 1, 2)


@torch.library.custom_op("scratch_layers::weight_gradient", mutates_args=())
def weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """Equation 2 for a 3x3 convolution of stride 1 with a margin of one zero.

    An operator of its own, as ``torch.compile`` would lay the images side by side while it computes
    them, pixel by pixel, instead of copying rows.

    Args:
        x: (N, C, H, W), what was convolved; any floating dtype.
        gradient: (N, O, H, W), of what came out; of the same dtype.

    Returns:
        (O, C, 3, 3) of that dtype, channels_last.
    """
    count = max(1, WIDTH // (x.shape[3] + 1))
    shape = (gradient.shape[1], x.shape[1], 3, 3)
    x, gradient = side_by_side(x, count), side_by_side(gradient, count)
    found = conv2d_weight(x, shape, gradient, padding=1)
    return found.contiguous(memory_format=torch.channels_last)


@weight_gradient.register_fake
def _(x: Tensor, gradient: Tensor) -> Tensor:
    found = x.new_empty(gradient.shape[1], x.shape[1], 3, 3)
    return found.contiguous(memory_format=torch.channels_last)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _derivatives(ctx: Any, V: Tensor) -> tuple[Tensor, Tensor]:
    """Those of Σ V ∂W, which is bilinear: by x and by ∂y."""
    x, gradient = ctx.saved_tensors
    return conv2d_input(x.shape, V, gradient, padding=1), F.conv2d(x, V, padding=1)


weight_gradient.register_autograd(_derivatives, setup_context=_keep)


class _Convolution(torch.autograd.Function):
    """Equation 1, with :func:`weight_gradient` as its derivative by W."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, W: Tensor) -> Tensor:
        return F.conv2d(x, W, padding=1)

    setup_context = staticmethod(_keep)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, W = ctx.saved_tensors
        by_x, by_W = ctx.needs_input_grad
        return (
            conv2d_input(x.shape, W, gradient, padding=1) if by_x else None,
            weight_gradient(x, gradient) if by_W else None,
        )


class Conv3x3(nn.Conv2d):
    """A 3x3 convolution of stride 1 without bias: what follows subtracts any bias again.

    In bfloat16 on a processor, maps of up to 8 pixels have their weight gradient taken over images
    side by side (see above); everything else, forward derivatives and ``torch.func`` too, is
    ``nn.Conv2d``. The two differ by the order of the sums.

    Shape: (N, in_channels, H, W) -> (N, out_channels, H, W).

    Args:
        in_channels: C.
        out_channels: O.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        """Equation 1."""
        small = input.dim() == 4 and len(input) > 1 and 0 < input.shape[3] <= SMALL
        if small and input.is_cpu and (torch.compiler.is_compiling() or not is_transformed()):
            x, W = into_autocast(input, self.weight)
            if x.dtype == W.dtype == torch.bfloat16:
                y: Tensor = _Convolution.apply(x, W)
                return y
        return super().forward(input)
