"""Multilayer perceptrons, built from a namespace of layers that the caller hands over.

The input is flattened; then follow k hidden layers and a linear one:

    h_0 = x,    z_l = W_l h_(l-1) + b_l,    h_l = dropout(φ(norm(z_l))),    logits = W h_k + b

or, with ``norm_last``, h_l = dropout(norm(φ(z_l))). S. Ioffe and C. Szegedy (2015,
arXiv:1502.03167, section 3.2) normalize z rather than h: a sum of many terms is nearer to a normal
distribution, which mean and variance describe, than what a rectifier leaves of it.

Initialization. How large must W be drawn for z to keep its size from layer to layer? Let the
weights have mean 0 and variance v, independent of h, and b = 0. Then, over the weights,

    Var z_l = Σ_j v E h_j² = fan_in v E h²,      so that Var z_l = 1 asks for v = 1 / (fan_in E h²).

If z_(l-1) is normal of variance 1, as it is if the layer below was drawn in this way (for wide
layers, by the central limit theorem), then E h² = E φ(z)² = 1 / g², where

    g(φ) = (E φ(z)²)^(-1/2),    z ~ N(0, 1)

is the gain of φ: √2 for ReLU, which loses half of the second moment; 1 for the identity. (It is 1
too for the input, which is best standardized, and where a normalization follows φ.) Hence

    he       W ~ N(0, g² / fan_in)               K. He, X. Zhang, S. Ren, J. Sun, "Delving Deep into
                                                 Rectifiers", 2015, arXiv:1502.01852, eq. 10
    glorot   W ~ N(0, 2 g² / (fan_in + fan_out)) X. Glorot, Y. Bengio, "Understanding the Difficulty
                                                 of Training Deep Feedforward Neural Networks",
                                                 AISTATS 2010, eq. 12 (where φ is linear near 0)

Glorot's compromise keeps the gradient, Var ∂h_(l-1) = fan_out v Var ∂z_l, about as well as z; where
all layers have one width the two agree.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx, nn

from scratch_layers import namespace
from scratch_layers.init import normal_, xavier_normal_, zeros_
from scratch_layers.namespace import Namespace, take

__all__ = [
    "MLP",
    "mlp",
]


def gain(layers: Namespace, activation: str | Callable[[], nn.Module]) -> float:
    """g(φ) = (E φ(z)²)^(-1/2) over z ~ N(0, 1), for any activation that works value by value.

    The integral is a sum over a grid of step 1e-3, in float64. A parameter of the activation counts
    with its first value.

    Differs from ``nn.init.calculate_gain``: that is g for relu and leaky_relu, but 5/3 for tanh,
    whose g is 1.593, and it knows neither GELU, SiLU nor any other. (For SELU it has 3/4 instead of
    the g of 1 that is SELU's design.)

    Raises:
        ValueError: ``layers`` has no class of this name.
    """
    with torch.device("cpu"), torch.no_grad():
        z = torch.linspace(-12, 12, 24001, dtype=torch.float64)
        density = torch.exp(-z * z / 2) * (1e-3 / math.sqrt(2 * math.pi))
        phi = namespace.activation(layers, activation).double().eval()
        return float((phi(z.clone()).square() * density).sum().rsqrt())


def he_normal_(W: Tensor, g: float) -> None:
    """Draw W (fan_out, fan_in) from N(0, g² / fan_in)."""
    normal_(W, std=g / math.sqrt(W.shape[1]))


INITS: dict[str, Callable[[Tensor, float], Any]] = {"he": he_normal_, "glorot": xavier_normal_}


@fx.wrap  # one node in a graph that is traced without values: it asks for a shape
def flatten(x: Tensor, features: int) -> Tensor:
    """(N, *) -> (N, features).

    Raises:
        RuntimeError: a sample does not have so many values.
    """
    if x.dim() < 2 or math.prod(x.shape[1:]) != features:
        raise RuntimeError(
            f"expected input (N, *) of {features} values a sample "
            f"(got input size: {tuple(x.shape)})"
        )
    return x.flatten(1)


class MLP(nn.Module):
    """Flatten, k times linear, normalization, activation and dropout, then a linear layer.

    The children are ``hidden.0.linear``, ``hidden.0.norm``, ``hidden.0.activation``,
    ``hidden.0.dropout``, ``hidden.1.linear``, ... and ``output``.

    Args:
        layers: namespace the layers are taken from; ``Linear`` is always torch's.
        sizes: features of the input, of each hidden layer and of the output: k + 2 numbers.
        activation: name of a class in ``layers``, or a callable that returns a module.
        norm: name of a class in ``layers``, or a callable that returns a module; either is called
            with the number of features. None is no normalization.
        norm_last: normalize what the activation gives instead of what it takes.
        dropout: probability that a hidden feature is zeroed.
        bias: whether the hidden layers have one. A batch normalization before the activation
            subtracts it again, and has a β of its own.
        init: ``"he"`` or ``"glorot"``, see the module; or a function that fills a weight (out, in)
            given that and the gain of what feeds it, such as ``nn.init.orthogonal_``. Biases start
            at 0.

    Shape: (N, *) of sizes[0] values a sample -> (N, sizes[-1]).

    Raises:
        ValueError: ``sizes`` are not two or more positive numbers, an option names a layer that the
            namespace does not have, or ``init`` is none of those.
        RuntimeError: in ``forward``, if a sample does not have sizes[0] values.
    """

    def __init__(
        self,
        layers: Namespace,
        sizes: Sequence[int],
        *,
        activation: str | Callable[[], nn.Module] = "ReLU",
        norm: str | Callable[[int], nn.Module] | None = "BatchNorm1d",
        norm_last: bool = False,
        dropout: float = 0.0,
        bias: bool = True,
        init: str | Callable[[Tensor, float], Any] = "he",
    ) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(
                f"sizes={tuple(sizes)}: give the features of input, hidden layers and output, "
                "each 1 or more."
            )
        fill = INITS.get(init) if isinstance(init, str) else init
        if fill is None:
            raise ValueError(
                f"init={init!r}: choose one of {', '.join(INITS)}, or give a function."
            )
        make_norm = take(layers, norm, f"norm={norm!r}") if isinstance(norm, str) else norm

        def unit(fan_in: int, fan_out: int) -> nn.Sequential:
            parts = OrderedDict[str, nn.Module](linear=nn.Linear(fan_in, fan_out, bias=bias))
            if make_norm is not None:
                parts["norm"] = make_norm(fan_out)
            parts["activation"] = namespace.activation(layers, activation)
            if norm_last and make_norm is not None:
                parts.move_to_end("norm")
            parts["dropout"] = layers.Dropout(dropout)
            return nn.Sequential(parts)

        self.sizes = tuple(sizes)
        self.hidden = nn.Sequential(*(unit(a, b) for a, b in pairwise(sizes[:-1])))
        self.output = nn.Linear(sizes[-2], sizes[-1])

        # what a layer is fed with: the input and what a normalization gives have E h² = 1
        g = 1.0 if norm_last and norm is not None else gain(layers, activation)
        g_l = 1.0
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                fill(layer.weight, g_l)
                if layer.bias is not None:
                    zeros_(layer.bias)
                g_l = g

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, sizes[-1]) of samples (N, *)."""
        return self.output(self.hidden(flatten(x, self.sizes[0])))


def mlp(
    layers: Namespace = nn,
    *,
    num_classes: int = 10,
    in_features: int = 3 * 32 * 32,
    hidden: Sequence[int] = (128, 64, 32),
    dropout: float = 0.0,
    **options: Any,
) -> MLP:
    """An :class:`MLP` for images: (N, C, H, W) of ``in_features`` = C H W values -> (N, classes).

    ``options`` are the further arguments of :class:`MLP`.
    """
    return MLP(layers, (in_features, *hidden, num_classes), dropout=dropout, **options)
