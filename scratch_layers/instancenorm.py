"""Instance normalization over (C, L), (C, H, W), (C, D, H, W), or batches of them.

    D. Ulyanov, A. Vedaldi, V. Lempitsky, "Instance Normalization: The Missing Ingredient for Fast
    Stylization", 2016, arXiv:1607.08022.

For each channel of each sample, over its m = H W values x_i (equations 3 to 5 of the paper; γ and
β, one for each channel, are those of batch normalization):

    μ   = 1/m Σ x_i                     σ²  = 1/m Σ (x_i - μ)²
    y_i = γ (x_i - μ) (σ² + ε)^(-1/2) + β

It is group normalization with a group for each channel: the derivation, and the function that
computes it, are in :mod:`scratch_layers.normalization`. What is added here are running statistics,
which average over the N samples of a batch what batch normalization takes over all of it:

    running_mean += momentum (1/N Σ_n μ_n                  - running_mean)
    running_var  += momentum (1/N Σ_n m / (m - 1) σ²_n     - running_var)

σ² is read off the scale s = (σ² + ε)^(-1/2) that the function returns, σ² = s^(-2) - ε. That is
exact to a rounding of σ² + ε, and σ² + ε is all that evaluation, with s of the running variance,
makes use of. Evaluation is batch normalization by constants.
"""

import warnings
from math import prod
from typing import Any

from torch import Tensor, nn

from scratch_layers.batchnorm import BatchNormFunction, _BatchNorm, _LazyBatchNorm, track
from scratch_layers.normalization import NormalizationFunction, check_dtypes

__all__ = [
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LazyInstanceNorm1d",
    "LazyInstanceNorm2d",
    "LazyInstanceNorm3d",
    "instance_norm",
]


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """y = γ (x - μ) / sqrt(σ² + ε) + β for each channel of each sample, see `InstanceNorm2d`.

    Args:
        input: (N, C, *).
        running_mean: (C,); what μ is unless ``use_input_stats``, else moved towards the mean of μ.
        running_var: (C,); the same for σ².
        weight: γ (C,), or None for 1.
        bias: β (C,), or None for 0.
        use_input_stats: μ and σ² are those of the input.
        momentum: weight of the batch in the running statistics.
        eps: ε, added to the variance (in its unit).

    Returns:
        Of the shape and dtype of the input, contiguous.

    Raises:
        As :class:`InstanceNorm2d`.
    """
    spatial = input.shape[2:]
    if use_input_stats and prod(spatial) == 1:
        raise ValueError(
            f"Expected more than 1 spatial element when training, got input size {input.size()}"
        )
    if not use_input_stats and (running_mean is None or running_var is None):
        raise RuntimeError(
            "Expected running_mean and running_var to be defined when use_input_stats is false"
        )
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var must either both be None or neither be None")
    vectors = {
        "running_mean": running_mean,
        "running_var": running_var,
        "weight": weight,
        "bias": bias,
    }
    N, C, m = input.shape[0], input.shape[1], prod(spatial)
    for name, vector in vectors.items():
        if vector is not None and len(vector) != C:
            raise RuntimeError(f"{name} should contain {C} elements not {len(vector)}")
    check_dtypes("batch_norm", input, *vectors.values())
    X = input.contiguous()
    if not use_input_stats:
        y, _ = BatchNormFunction.call(X, weight, bias, running_mean, running_var, eps)
        return y
    y, statistics = NormalizationFunction.call(X, weight, bias, (N, C, 1, m), eps, True)
    if running_mean is not None and running_var is not None and input.numel() > 0:
        s, mu = statistics.detach().reshape(2, N, C)
        var = (s.pow(-2) - eps).clamp_min(0)
        track(running_mean, mu.mean(0), momentum)
        track(running_var, var.mean(0) * (m / (m - 1)), momentum)
    return y


class _InstanceNorm(nn.modules.instancenorm._InstanceNorm):
    # Inherits from torch's class for identity (isinstance) and signature only: everything that
    # computes or keeps state is overridden below. What keeps state is that of batch normalization,
    # borrowed since existing code, which asks for isinstance(m, _BatchNorm), must not find these.

    _dims: tuple[int, int]  # that a sample has, and a batch of them

    reset_running_stats = _BatchNorm.reset_running_stats
    reset_parameters = _BatchNorm.reset_parameters
    extra_repr = _BatchNorm.extra_repr

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        options = {"device": device, "dtype": dtype, "bias": bias}
        _BatchNorm.__init__(
            self,  # type: ignore[arg-type]
            num_features,
            eps,
            momentum,
            affine,
            track_running_stats,
            **options,
        )

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: Any,
        unexpected_keys: Any,
        error_msgs: list[str],
    ) -> None:
        # A state without a version comes from a time when statistics were always kept.
        names = [n for n in ("running_mean", "running_var") if prefix + n in state_dict]
        if local_metadata.get("version", None) is None and not self.track_running_stats and names:
            klass = self.__class__.__name__
            listed = " and ".join(f'"{name}"' for name in names)
            error_msgs.append(
                f"Unexpected running stats buffer(s) {listed} for {klass} with "
                "track_running_stats=False. If state_dict is a checkpoint saved before 0.4.0, this "
                f"may be expected because {klass} does not track running stats by default since "
                "0.4.0. Please remove these keys from state_dict. If the running stats are "
                f"actually needed, instead set track_running_stats=True in {klass} to enable "
                f"them. See the documentation of {klass} for details."
            )
            for name in names:
                state_dict.pop(prefix + name)
        _BatchNorm._load_from_state_dict(
            self,  # type: ignore[arg-type]
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (C, *) or (N, C, *) to the same shape and dtype; see the class."""
        self._check_input_dim(input)
        unbatched = input.dim() == self._dims[0]
        dim = 0 if unbatched else 1
        if input.shape[dim] != self.num_features:
            if self.affine:
                raise ValueError(
                    f"expected input's size at dim={dim} to match num_features"
                    f" ({self.num_features}), but got: {input.shape[dim]}."
                )
            warnings.warn(
                f"input's size at dim={dim} does not match num_features. "
                "You can silence this warning by not passing in num_features, "
                "which is not used because affine=False",
                stacklevel=2,
            )
        y = instance_norm(
            input.unsqueeze(0) if unbatched else input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
        )
        return y.squeeze(0) if unbatched else y

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in self._dims:
            expected = " or ".join(f"{d}D" for d in self._dims)
            raise ValueError(f"expected {expected} input (got {input.dim()}D input)")


class InstanceNorm1d(_InstanceNorm, nn.InstanceNorm1d):
    """Instance normalization of (N, C, L) or (C, L), see :class:`InstanceNorm2d`."""

    _dims = (2, 3)


class InstanceNorm2d(_InstanceNorm, nn.InstanceNorm2d):
    """Instance normalization: y = γ (x - μ) / sqrt(σ² + ε) + β for each channel of each sample.

    With ``track_running_stats``, evaluation takes μ and σ² from the running statistics; otherwise
    they are always those of the input.

    Args:
        num_features: number of channels C.
        eps: ε, added to the variance (in its unit).
        momentum: weight of the newest batch in the running statistics; None keeps them as they are.
        affine: learn γ (``weight``), initially 1, and β (``bias``), initially 0.
        track_running_stats: keep ``running_mean`` and ``running_var`` (and, for the sake of the
            checkpoints, ``num_batches_tracked``, which stays 0).
        device: where parameters and buffers live.
        dtype: their dtype.
        bias: learn β; without effect unless ``affine``.

    Shape: (N, C, H, W) or (C, H, W) to the same, contiguous. N may be 0.

    Dtypes: float32 and float64 with parameters of the same dtype; float16 and bfloat16 with
    parameters of the same dtype or of float32, computed in float32.

    Raises:
        ValueError: wrong number of dimensions, another number of channels than C (a warning
            without ``affine``), one value per channel, only one running statistic is None.
        RuntimeError: dtypes that do not go together, vectors of another length than C.
        NotImplementedError: integer or complex input.

    Source: Ulyanov, Vedaldi and Lempitsky 2016, arXiv:1607.08022.

    Differs from torch: a batch of no samples leaves the running statistics as they are (torch
    makes them nan); wrong lengths of vectors are counted per sample, not N times; the mean is
    compensated, so data far from zero lose fewer digits.
    """

    _dims = (3, 4)


class InstanceNorm3d(_InstanceNorm, nn.InstanceNorm3d):
    """Instance normalization of (N, C, D, H, W) or (C, D, H, W), see :class:`InstanceNorm2d`."""

    _dims = (4, 5)


class _LazyInstanceNorm(_InstanceNorm):
    # The hooks by which the first input gives the layer its size are those of torch's
    # LazyModuleMixin, which know nothing of normalization.

    initialize_parameters = _LazyBatchNorm.initialize_parameters

    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        options = {"device": device, "dtype": dtype, "bias": bias}
        _LazyBatchNorm.__init__(
            self,  # type: ignore[arg-type]
            eps,
            momentum,
            affine,
            track_running_stats,
            **options,
        )

    def reset_parameters(self) -> None:
        """As of the class to become, once there is something to reset."""
        if not self.has_uninitialized_params() and self.num_features != 0:  # type: ignore[operator]
            _BatchNorm.reset_parameters(self)  # type: ignore[arg-type]


class LazyInstanceNorm1d(_LazyInstanceNorm, nn.LazyInstanceNorm1d):
    """An :class:`InstanceNorm1d` that learns its number of channels from the first input."""

    cls_to_become = InstanceNorm1d
    _dims = (2, 3)


class LazyInstanceNorm2d(_LazyInstanceNorm, nn.LazyInstanceNorm2d):
    """An :class:`InstanceNorm2d` that learns its number of channels from the first input."""

    cls_to_become = InstanceNorm2d
    _dims = (3, 4)


class LazyInstanceNorm3d(_LazyInstanceNorm, nn.LazyInstanceNorm3d):
    """An :class:`InstanceNorm3d` that learns its number of channels from the first input."""

    cls_to_become = InstanceNorm3d
    _dims = (4, 5)
