"""Initial values of weights: how large, so that signals neither die nor explode with depth.

    X. Glorot, Y. Bengio, "Understanding the difficulty of training deep feedforward neural
    networks", AISTATS 2010: `xavier_uniform_`, `xavier_normal_`.
    K. He, X. Zhang, S. Ren, J. Sun, "Delving Deep into Rectifiers: Surpassing Human-Level
    Performance on ImageNet Classification", 2015, arXiv:1502.01852: `kaiming_uniform_`,
    `kaiming_normal_`.
    A. Saxe, J. McClelland, S. Ganguli, "Exact solutions to the nonlinear dynamics of learning in
    deep linear neural networks", ICLR 2014, arXiv:1312.6120; F. Mezzadri, "How to generate random
    matrices from the classical compact groups", Notices of the AMS 54, 2007,
    arXiv:math-ph/0609050: `orthogonal_`.
    J. Martens, "Deep learning via Hessian-free optimization", ICML 2010: `sparse_`.
    S. Zagoruyko, N. Komodakis, "DiracNets: Training Very Deep Neural Networks Without
    Skip-Connections", 2017, arXiv:1706.00388: `dirac_`.
    L. Devroye, "Non-Uniform Random Variate Generation", 1986, section II.3 (rejection):
    `trunc_normal_`.

**The variance of a weight.** A unit sums over its fan_in inputs, y = Σ_j w_j x_j, with weights of
mean 0 and variance σ² drawn independently of each other and of x. All products of different
indices vanish in the mean, so

    E[y²]  = Σ_j E[w_j²] E[x_j²]     = fan_in σ² E[x²]           on the way forward,
    E[∂x²] = Σ_k E[w_k²] E[∂y_k²]    = fan_out σ² E[∂y²]         on the way back,

since ∂x_j = Σ_k w_kj ∂y_k sums over the fan_out units that read x_j. (In a convolution both sums
run over the positions of the kernel too.) Depth raises the factors to a power, so they should be 1:

    fan_in σ² = 1  and  fan_out σ² = 1    cannot both hold;
    Glorot, Bengio (equation 12):   σ² = 2 / (fan_in + fan_out)       their compromise, linear units
    He et al. (equations 10 to 15): σ² = 2 / ((1 + a²) fan)           either one, exactly, with the
                                                                      nonlinearity counted in

He's factor. Behind y stands f(y) = max(y, a y). As y is symmetric about 0, half of its second
moment lies on either side, and the next layer's input has E[f(y)²] = (1/2 + a²/2) E[y²]; the
derivative f' is 1 or a with the same odds, so the way back loses the same factor. Either fan keeps
the whole network in bounds: along the other way the layers' factors fan_out / fan_in telescope.

**The gain** g in σ = g / sqrt(fan) makes up for what the nonlinearity takes: if y ~ N(0, 1) is to
leave the next layer as N(0, 1) again, g² E[f(y)²] = 1, so

    g = E[f(y)²]^(-1/2),    y ~ N(0, 1):

    linear           1
    ReLU             sqrt(2)                 (1/2)^(-1/2)
    leaky ReLU       sqrt(2 / (1 + a²))
    SELU             1                       E[f²] = 1 is what its two constants were solved for
    tanh             1.5925                  E[tanh²] = 0.39429

`calculate_gain` returns torch's numbers, of which three are conventions: tanh is 5/3, with which
E[y²] settles at 1.178, the root of q = 25/9 E[tanh²(sqrt(q) z)], instead of at 1; SELU is 3/4,
found by experiment (ask for 'linear' to get a self-normalizing network); sigmoid is 1, though no
gain helps a function that is 1/2 at 0.

**Uniform or normal.** U(-b, b) has the variance b² / 3, so b = sqrt(3) σ.

**Truncated normal.** N(μ, σ²) given that a ≤ x ≤ b, by rejection. With the share

    p = Φ((b - μ) / σ) - Φ((a - μ) / σ)

of the normal inside, proposals from N(μ, σ²) are accepted once in 1 / p. For a small p (here 0.3)
proposals come from U(a, b) and are accepted with probability φ(x) / max φ, which leaves the density
φ / p on [a, b]:

    log(φ(x) / φ(mode)) = -((x - μ) / σ)² / 2 + ((mode - μ) / σ)² / 2,      mode = min(max(μ, a), b)

The inverse of the distribution function, x = μ + σ sqrt(2) erf⁻¹(2u - 1) with u uniform on
[Φ((a - μ) / σ), Φ((b - μ) / σ)], needs one draw only, but 2u - 1 rounds to the grid of the dtype,
which is coarse where erf⁻¹ is steep: in the tails, and everywhere in half precision. Cut at ±2σ the
deviation that remains is 0.880 σ; nothing corrects for that.

**Orthogonal.** W with orthonormal rows or columns has all singular values 1: it keeps norms, not
only their mean, and so does a product of any number of them. Q of a Gaussian matrix A = QR is one
such, but which one depends on the signs an implementation of QR gives R's diagonal, since
QR = (QΛ)(Λ⁻¹R) for every Λ = diag(±1). With Λ = diag(sign(r_ii)) the factor Λ⁻¹R has a positive
diagonal, which makes the factorization unique; for an orthogonal U the one of UA is then (UQ)R, and
UA is distributed as A, so UQ is distributed as Q: uniformly (Haar).

**Sparse.** Martens gives each unit a fixed number of incoming weights different from zero, so that
its input does not grow with fan_in. As in torch it is the columns that are sparse here.

**Dirac.** W[c, c, center] = 1 makes a convolution with "same" padding the identity.

Everywhere the numbers, and the generator afterwards, are torch's bit for bit.
"""

import functools
import math
import warnings
from collections.abc import Callable
from typing import ParamSpec

import torch
from torch import Generator, Tensor

__all__ = [
    "calculate_gain",
    "constant",
    "constant_",
    "dirac",
    "dirac_",
    "eye",
    "eye_",
    "fan_in_and_fan_out",
    "kaiming_normal",
    "kaiming_normal_",
    "kaiming_uniform",
    "kaiming_uniform_",
    "normal",
    "normal_",
    "ones_",
    "orthogonal",
    "orthogonal_",
    "sparse",
    "sparse_",
    "trunc_normal_",
    "uniform",
    "uniform_",
    "xavier_normal",
    "xavier_normal_",
    "xavier_uniform",
    "xavier_uniform_",
    "zeros_",
]

LINEAR = ("linear", *(f"conv{kind}{d}d" for kind in ("", "_transpose") for d in (1, 2, 3)))


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """Return torch's gain g for a nonlinearity; derivation in the docstring of the module.

    Args:
        nonlinearity: name in ``torch.nn.functional``: a linear map, sigmoid (1), tanh (5/3), relu
            (√2), leaky_relu (√(2 / (1 + a²))) or selu (3/4).
        param: a, the slope of leaky_relu below zero; None is 0.01. Others ignore it.

    Raises:
        ValueError: another nonlinearity; a slope that is not a number.
    """
    if nonlinearity in LINEAR or nonlinearity == "sigmoid":
        return 1
    if nonlinearity == "tanh":
        return 5 / 3
    if nonlinearity == "relu":
        return math.sqrt(2)
    if nonlinearity == "leaky_relu":
        a = 0.01 if param is None else param
        if isinstance(a, bool) or not isinstance(a, int | float):
            raise ValueError(f"negative_slope {a} not a valid number")
        return math.sqrt(2 / (1 + a**2))
    if nonlinearity == "selu":
        return 3 / 4
    raise ValueError(f"Unsupported nonlinearity {nonlinearity}")


def fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    """Return how many inputs a unit sums over, and how many units an input feeds.

    Not public in torch. As there, the groups of a convolution are not known and not counted: its
    inputs feed fan_out / groups units.

    Args:
        tensor: weight (out, in, *kernel) of a linear layer or a convolution.

    Returns:
        in * prod(kernel), out * prod(kernel).

    Raises:
        ValueError: fewer than two dimensions.
    """
    if tensor.dim() < 2:
        raise ValueError(
            "Fan in and fan out can not be computed for tensor with fewer than 2 dimensions"
        )
    positions = math.prod(tensor.shape[2:])
    return tensor.shape[1] * positions, tensor.shape[0] * positions


# All functions below fill the tensor in place, out of sight of autograd, and return it.


@torch.no_grad()
def uniform_(
    tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Draw from U(a, b).

    Args:
        tensor: of any shape; floating point, as for all draws below.
        a: lower bound.
        b: upper bound.
        generator: where the randomness comes from; None is the generator of the device.

    Raises:
        RuntimeError: a > b, or b - a larger than the dtype can hold.
    """
    return tensor.uniform_(a, b, generator=generator)


@torch.no_grad()
def normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Draw from N(mean, std²); tensor and generator as for :func:`uniform_`.

    Raises:
        RuntimeError: std < 0.
    """
    return tensor.normal_(mean, std, generator=generator)


@torch.no_grad()
def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
) -> Tensor:
    """Draw from N(mean, std²), and again whatever fell outside of [a, b].

    a and b are absolute, not multiples of std: the defaults cut at two deviations for std = 1 only.
    Equations in the docstring of the module. The numbers are those of torch since it draws by
    rejection; before, it inverted the distribution function.

    Args:
        tensor: see :func:`uniform_`; the meta device is left alone.
        mean: μ of the normal before it is cut.
        std: its σ.
        a: lower bound.
        b: upper bound.
        generator: see :func:`uniform_`.

    Warns:
        UserWarning: mean lies more than two std outside of [a, b].
    """
    if tensor.is_meta:
        return tensor
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn(
            "mean is more than 2 std from [a, b] in nn.init.trunc_normal_. "
            "The distribution of values may be incorrect.",
            stacklevel=3,
        )
    log_peak = -0.5 * ((min(max(mean, a), b) - mean) / std) ** 2

    def from_normal(x: Tensor) -> tuple[Tensor, Tensor]:
        x.normal_(mean, std, generator=generator)
        return x, (x < a) | (x > b)

    def from_uniform(x: Tensor) -> tuple[Tensor, Tensor]:
        x.uniform_(a, b, generator=generator)
        log_density = (x - mean).div_(std).pow_(2).mul_(-0.5).sub_(log_peak)
        return x, torch.empty_like(x).uniform_(generator=generator).log_() > log_density

    def below(x: float) -> float:  # Φ((x - μ) / σ)
        return (1 + math.erf((x - mean) / std / math.sqrt(2))) / 2

    propose = from_normal if below(b) - below(a) > 0.3 else from_uniform
    _, rejected = propose(tensor)
    while rejected.any():
        x, again = propose(torch.empty_like(tensor))
        tensor.copy_(torch.where(rejected, x, tensor))
        rejected &= again
    return tensor


@torch.no_grad()
def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with one value; any shape and dtype."""
    return tensor.fill_(val)


@torch.no_grad()
def ones_(tensor: Tensor) -> Tensor:
    """Fill with 1; any shape and dtype."""
    return tensor.fill_(1.0)


@torch.no_grad()
def zeros_(tensor: Tensor) -> Tensor:
    """Fill with 0; any shape and dtype."""
    return tensor.zero_()


@torch.no_grad()
def eye_(tensor: Tensor) -> Tensor:
    """Make a matrix (out, in) of any dtype pass on its first min(out, in) inputs.

    Raises:
        ValueError: not two dimensions.
    """
    if tensor.dim() != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    tensor.zero_().diagonal().fill_(1)
    return tensor


@torch.no_grad()
def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """Make a convolution pass on its first channels: W[c, c, center] = 1, in every group.

    Args:
        tensor: weight (out, in / groups, *kernel) with a kernel of one to three dimensions.
        groups: of the convolution.

    Raises:
        ValueError: another number of dimensions; out is not a multiple of groups.
    """
    if tensor.dim() not in (3, 4, 5):
        raise ValueError("Only tensors with 3, 4, or 5 dimensions are supported")
    if tensor.shape[0] % groups != 0:
        raise ValueError("dim 0 must be divisible by groups")
    if tensor.numel() == 0:
        return tensor
    at_center = tensor.zero_()
    for size in tensor.shape[2:]:
        at_center = at_center.select(2, size // 2)  # (out, in / groups) in the end
    for of_group in at_center.split(tensor.shape[0] // groups):
        of_group.diagonal().fill_(1)
    return tensor


def xavier_uniform_(
    tensor: Tensor, gain: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Draw from U(-√3 σ, √3 σ), σ = gain √(2 / (fan_in + fan_out)).

    Args:
        tensor: weight (out, in, *kernel).
        gain: g, from :func:`calculate_gain`.
        generator: see :func:`uniform_`.

    Raises:
        ValueError: fewer than two dimensions.

    Source: Glorot and Bengio 2010, equation 16.
    """
    bound = math.sqrt(3) * (gain * _glorot_std(tensor))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Draw from N(0, σ²), σ = gain √(2 / (fan_in + fan_out)); see :func:`xavier_uniform_`."""
    return normal_(tensor, 0.0, gain * _glorot_std(tensor), generator)


def _glorot_std(tensor: Tensor) -> float:
    return math.sqrt(2.0 / float(sum(fan_in_and_fan_out(tensor))))


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Draw from U(-√3 σ, √3 σ), σ = gain / √fan.

    Args:
        tensor: weight (out, in, *kernel) that is used as x Wᵀ; hand on ``W.T`` for x W.
        a: slope of the leaky ReLU behind the layer, below zero; others ignore it.
        mode: "fan_in" keeps the variance on the way forward, "fan_out" on the way back.
        nonlinearity: what stands behind the layer, see :func:`calculate_gain`.
        generator: see :func:`uniform_`.

    Raises:
        ValueError: fewer than two dimensions, another mode, a nonlinearity without a gain.

    Warns:
        UserWarning: the tensor has no elements; it is returned as it is.

    Source: He et al. 2015, equations 10, 14 and 15.
    """
    if 0 in tensor.shape:
        return _no_elements(tensor)
    bound = math.sqrt(3) * _he_std(tensor, a, mode, nonlinearity)
    return uniform_(tensor, -bound, bound, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Draw from N(0, σ²), σ = gain / √fan; see :func:`kaiming_uniform_`."""
    if 0 in tensor.shape:
        return _no_elements(tensor)
    return normal_(tensor, 0.0, _he_std(tensor, a, mode, nonlinearity), generator)


def _no_elements(tensor: Tensor) -> Tensor:
    warnings.warn("Initializing zero-element tensors is a no-op", stacklevel=3)
    return tensor


def _he_std(tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    mode, modes = mode.lower(), ["fan_in", "fan_out"]
    if mode not in modes:
        raise ValueError(f"Mode {mode} not supported, please use one of {modes}")
    fan = fan_in_and_fan_out(tensor)[modes.index(mode)]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


@torch.no_grad()
def orthogonal_(tensor: Tensor, gain: float = 1, generator: Generator | None = None) -> Tensor:
    """Fill with gain times a matrix of orthonormal rows (wide) or columns (tall), Haar distributed.

    Args:
        tensor: (out, in, *kernel), taken as the matrix (out, in * prod(kernel)). On the meta
            device, and without elements, nothing happens.
        gain: all singular values of the result.
        generator: see :func:`uniform_`.

    Raises:
        ValueError: fewer than two dimensions.

    Differs from torch: float16 and bfloat16 are drawn and factorized in float32 and rounded once,
    complex matrices are made unitary, and any memory layout is filled, where torch raises.

    Source: Saxe et al. 2014; Mezzadri 2007, section 5.
    """
    if tensor.dim() < 2:
        raise ValueError("Only tensors with 2 or more dimensions are supported")
    if tensor.numel() == 0 or tensor.is_meta:
        return tensor
    rows = tensor.shape[0]
    cols = tensor.numel() // rows
    A = tensor.new_empty((rows, cols), dtype=torch.promote_types(tensor.dtype, torch.float32))
    A.normal_(0, 1, generator=generator)
    Q, R = torch.linalg.qr(A.T if rows < cols else A)
    Q *= R.diagonal().sgn()
    W = Q.T if rows < cols else Q
    return tensor.copy_(W.reshape(tensor.shape) * gain)


@torch.no_grad()
def sparse_(
    tensor: Tensor, sparsity: float, std: float = 0.01, generator: Generator | None = None
) -> Tensor:
    """Draw from N(0, std²), then zero the same share of each column, at random.

    Args:
        tensor: (rows, columns); the meta device is left alone.
        sparsity: share of zeros in a column, rounded up to whole values.
        std: deviation of the others.
        generator: of the values, see :func:`uniform_`. As in torch, which of them become zero is
            drawn from the global generator all the same.

    Raises:
        ValueError: not two dimensions.

    Source: Martens 2010.
    """
    if tensor.dim() != 2:
        raise ValueError("Only tensors with 2 dimensions are supported")
    if tensor.is_meta:
        return tensor
    rows, cols = tensor.shape
    zeros = math.ceil(sparsity * rows)
    tensor.normal_(0, std, generator=generator)
    for col in range(cols):
        tensor[torch.randperm(rows)[:zeros], col] = 0
    return tensor


P = ParamSpec("P")


def _deprecated(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """The function under its name of old, without the underscore."""
    new = function.__name__
    old = new.removesuffix("_")

    @functools.wraps(function)
    def alias(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        warnings.warn(
            f"`nn.init.{old}` is now deprecated in favor of `nn.init.{new}`.",
            FutureWarning,
            stacklevel=2,
        )
        return function(*args, **kwargs)

    alias.__name__ = alias.__qualname__ = old
    alias.__doc__ = f"Do what :func:`{new}` does, under the name of old, and warn of it."
    return alias


uniform = _deprecated(uniform_)
normal = _deprecated(normal_)
constant = _deprecated(constant_)
eye = _deprecated(eye_)
dirac = _deprecated(dirac_)
xavier_uniform = _deprecated(xavier_uniform_)
xavier_normal = _deprecated(xavier_normal_)
kaiming_uniform = _deprecated(kaiming_uniform_)
kaiming_normal = _deprecated(kaiming_normal_)
orthogonal = _deprecated(orthogonal_)
sparse = _deprecated(sparse_)
