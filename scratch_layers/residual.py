"""The residual block, and what the residual networks here are built of.

    K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition",
    2015, arXiv:1512.03385.

A plain layer learns ``y = F(x)``. A residual block learns what to *add* to its input:

    y = φ(F(x) + S(x))

with a shortcut S, the identity as long as the shape stays, and an activation φ (ReLU in 2015, the
identity in 2016, see :mod:`scratch_layers.preresnet`). Where φ and S are the identity,

    ∂x = ∂y + (dF/dx)ᵀ ∂y,

so the gradient reaches every block below undiminished, whatever F does to its own part.

Stochastic depth (G. Huang, Y. Sun, Z. Liu, D. Sedra, K. Weinberger, "Deep Networks with Stochastic
Depth", 2016, arXiv:1603.09382) drops F, not S, in training: with probability p_l in block l of L,

    y = φ(b F(x) + S(x)),    b ∈ {0, 1 / (1 - p_l)},    E b = 1,    p_l = l / L  p_L

where p_l grows linearly with depth (equation 4), as the early features serve all later blocks.
Huang et al. have b ∈ {0, 1} and multiply F by 1 - p_l in evaluation; here evaluation is left as
it is, as with dropout.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

from torch import Tensor, nn

from scratch_layers import init
from scratch_layers.convolution import Conv3x3
from scratch_layers.dropout import linear_decay
from scratch_layers.namespace import Namespace, activation, take

__all__ = [
    "ResidualBlock",
]


class ResidualBlock(nn.Module):
    """``y = activation(drop_path(body(x)) + shortcut(x))``, around any module.

    Args:
        body: F, any module. It must not change its input in place: the shortcut needs it too.
        shortcut: S, which must give the shape that F gives; None is the identity.
        activation: φ; None is the identity.
        drop_path: what the branch F goes through before the sum, such as
            ``scratch_layers.DropPath(p)``, which drops it sample by sample; None is nothing.

    Shape: that of F(x) + S(x).
    """

    body: Callable[[Tensor], Tensor]
    shortcut: Callable[[Tensor], Tensor]
    activation: Callable[[Tensor], Tensor]
    drop_path: Callable[[Tensor], Tensor]

    def __init__(
        self,
        body: nn.Module,
        shortcut: nn.Module | None = None,
        activation: nn.Module | None = None,
        drop_path: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.body = body
        self.shortcut = nn.Identity() if shortcut is None else shortcut
        self.activation = nn.Identity() if activation is None else activation
        self.drop_path = nn.Identity() if drop_path is None else drop_path

    def forward(self, x: Tensor) -> Tensor:
        """φ(F(x) + S(x))."""
        shortcut = self.shortcut(x)
        return self.merge(self.body(x), shortcut)

    def merge(self, residual: Tensor, shortcut: Tensor) -> Tensor:
        """What becomes of F(x) and S(x)."""
        return self.activation(self.drop_path(residual) + shortcut)


class Options(TypedDict, total=False):
    """Keyword arguments of every image model, each optional.

    num_classes: length of the logits (10).
    in_channels: channels of the image (3).
    dropout: probability that a feature is zeroed, before the classifier unless the model says
        otherwise (0).
    activation: name of a class in the namespace, or a callable that returns a module ("ReLU").
        A module is used wherever its block says ``relu``.
    fused: one pass for a normalization, the ReLU after it and a shortcut between the two, by
        ``BatchNormReLU2d`` of the namespace, with the same state_dict (False).
    """

    num_classes: int
    in_channels: int
    dropout: float
    activation: str | Callable[[], nn.Module]
    fused: bool


class ResidualOptions(Options, total=False):
    """Those of the models made of residual blocks.

    drop_path: p_L, the probability that the last block's branch is dropped in training (0).
    """

    drop_path: float


@dataclass(frozen=True)
class Parts:
    """How the blocks of a network come by their layers: the namespace and what the caller chose.

    ``relu(norm_relu(x))`` normalizes and rectifies. Where the two are fused, ``norm_relu`` does
    both, and what stands in the place of ``relu`` does nothing.

    Raises:
        ValueError: fused, and the activation is not ReLU or ``layers`` has no ``BatchNormReLU2d``.
    """

    layers: Namespace
    activation: str | Callable[[], nn.Module]
    fused: bool

    def __post_init__(self) -> None:
        if self.fused and self.activation != "ReLU":
            raise ValueError(
                f"fused=True is a normalization with ReLU, not with activation={self.activation!r}:"
                " choose 'ReLU' or fused=False."
            )
        if self.fused:
            take(self.layers, "BatchNormReLU2d", "fused=True")

    def norm_relu(self, channels: int) -> nn.Module:
        """A normalization that :meth:`relu` follows."""
        name = "BatchNormReLU2d" if self.fused else "BatchNorm2d"
        module: nn.Module = getattr(self.layers, name)(channels)
        return module

    def relu(self) -> nn.Module:
        """The activation after :meth:`norm_relu`."""
        return nn.Identity() if self.fused else activation(self.layers, self.activation)

    def drop_paths(self, p: float, blocks: int) -> Iterator[nn.Module | None]:
        """Stochastic depth for each of so many blocks, p_l = l / L p; None where nothing drops.

        Raises:
            ValueError: ``layers`` has no ``DropPath``, or p is not in [0, 1).
        """
        if not 0 <= p < 1:
            raise ValueError(f"drop_path={p}: give a probability in [0, 1).")
        if p == 0:
            return iter([None] * blocks)
        drop_path = take(self.layers, "DropPath", f"drop_path={p}")
        return map(drop_path, linear_decay(p, blocks))


class Staged(nn.Module):
    """Stages of blocks named as torchvision names them, and the classifier on the mean over H, W.

    Every stage but the first begins with stride 2.
    """

    dropout: nn.Module
    fc: nn.Module

    def add_stages(
        self,
        block: Callable[[int, int, int], nn.Module],
        in_channels: int,
        blocks: Sequence[int],
        widths: Sequence[int],
    ) -> None:
        """Register layer1, layer2, ...: so many ``block(in_channels, channels, stride)`` each."""
        self.stages: list[str] = []
        for stage, (depth, width) in enumerate(zip(blocks, widths, strict=True), start=1):
            first = block(in_channels, width, 1 if stage == 1 else 2)
            rest = [block(width, width, 1) for _ in range(depth - 1)]
            self.add_module(f"layer{stage}", nn.Sequential(first, *rest))
            self.stages.append(f"layer{stage}")
            in_channels = width

    def run_stages(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, widths[-1], H / 2^s, W / 2^s), s = len(widths) - 1."""
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return x

    def classify(self, x: Tensor) -> Tensor:
        """(N, widths[-1], H, W) -> (N, num_classes)."""
        return self.fc(self.dropout(x.mean(dim=(2, 3))))


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias: the normalization after it subtracts any bias again."""
    if stride == 1:
        return Conv3x3(in_channels, out_channels)
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)


def conv1x1(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 1x1 convolution without bias."""
    return nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)


def largest(x: Tensor) -> Tensor:
    """The maximum over each image, (N, C, H, W) -> (N, C).

    Its gradient goes to where the maximum was found. (That of ``amax`` asks where x equals it: a
    compiler that computes x again, with other roundings, finds no such place and divides by zero.)
    """
    return x.flatten(2).max(dim=2).values


def he_init(model: nn.Module) -> None:
    """Draw each convolution from N(0, 2 / fan_out), fan_out = out_channels * kernel area.

    K. He, X. Zhang, S. Ren, J. Sun, "Delving Deep into Rectifiers", 2015, arXiv:1502.01852: with
    this variance the gradient keeps its size through a stack of convolution and ReLU (equation 14).
    The linear layer keeps torch's default.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
