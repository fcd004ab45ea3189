"""Muon: momentum whose matrix is made orthogonal before it is applied.

Jordan, Jin, Boza, You, Cesista, Newhouse and Bernstein, "Muon: An optimizer for hidden layers in
neural networks" (2024, https://kellerjordan.github.io/posts/muon/); the learning rates by shape:
that post; Liu et al., "Muon is Scalable for LLM Training" (2025, arXiv:2502.16982), equation 4; and
Bernstein, "Deriving Muon" (2025, https://jeremybernste.in/writing/deriving-muon).

    g_t     = grad f(theta_{t-1})                            a matrix of m by n
    B_t     = mu B_{t-1} + (1 - mu) g_t                      momentum mu
    u_t     = B_t, or  mu B_t + (1 - mu) g_t                 Nesterov: B as of the next step
    o_t     = U W^T  where  u_t = U S W^T                    about so, see newton_schulz
    theta   = theta_{t-1} - lr lambda theta_{t-1}            weight decay lambda, decoupled
    theta_t = theta - lr s(m, n) o_t                         s: see SCALES

Why orthogonal: of all matrices of spectral norm 1, U W^T has the largest inner product with u. So
it is the steepest descent where the length of a step is measured by what it does to the outputs of
a linear layer (and in it no direction is drowned by the few that dominate u).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from . import pieces
from .adam import AdamW
from .optimizer import Group, Optimizer, ParamsT
from .tensors import Operand, TensorList

Coefficients = tuple[float, float, float]

SCALES: dict[str | None, Callable[[int, int], float]] = {
    "original": lambda m, n: math.sqrt(max(1, m / n)),
    "match_rms_adamw": lambda m, n: 0.2 * math.sqrt(max(m, n)),
    "spectral_unclamped": lambda m, n: math.sqrt(m / n),
}
"""s(m, n), by ``adjust_lr_fn``: Jordan et al.'s; Liu et al.'s, by which the elements of an update
have the root mean square 0.2, as AdamW's have about; Bernstein's."""
SCALES[None] = SCALES["original"]


def newton_schulz(
    x: Tensor,
    steps: int = 5,
    coefficients: Coefficients = (3.4445, -4.7750, 2.0315),
    eps: float = 1e-7,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return about the orthogonal matrix that is nearest to ``x``, by products of matrices alone.

    With ``x = U S W^T`` and the odd polynomial ``p(s) = a s + b s^3 + c s^5``,

        (a I + b X X^T + c (X X^T)^2) X  =  U p(S) W^T

    so each step applies ``p`` to every singular value and leaves U and W as they are. Divided by
    its Frobenius norm first, ``x`` has them all in [0, 1].

    Newton and Schulz's own ``p(s) = (3 s - s^3) / 2`` converges to 1, but multiplies small values
    by 1.5 only. The quintic's default coefficients give up the limit for speed: they multiply
    small values by 3.4445 a step, 485 in five, and do not settle at 1 but go on moving within
    [0.68, 1.14]; after 5 steps all that began above 0.002 are within [0.68, 1.21]. An update is
    as good with such values as with ones.

    Args:
        x: of shape (..., m, n), of any floating point dtype.
        steps: how often ``p`` is applied.
        coefficients: a, b, c.
        eps: the least Frobenius norm to divide by.
        dtype: in which all is computed. Default: that of ``x``.

    Returns:
        A new tensor of the shape of ``x``.
    """
    if x.dim() > 3:
        return newton_schulz(x.flatten(0, -3), steps, coefficients, eps, dtype).view(x.shape)
    a, b, c = coefficients
    addmm = torch.addmm if x.dim() == 2 else torch.baddbmm
    X = x.to(dtype or x.dtype, copy=True)
    tall = x.size(-2) > x.size(-1)
    if tall:  # X X^T is then the smaller of the two products
        X = X.mT
    X.div_(torch.linalg.vector_norm(X, dim=(-2, -1), keepdim=True).clamp(min=eps))
    for _ in range(steps):
        A = X @ X.mT
        B = addmm(A, A, A, beta=b, alpha=c)  # b A + c A^2
        X = addmm(X, B, X, beta=a)  # a X + B X
    return X.mT if tall else X


class Muon(Optimizer):
    """Muon, for matrices and the weights of convolutions, with AdamW for the other parameters.

    Agrees with ``torch.optim.Muon``: bit for bit, and in its state dicts. Beyond it:

    - A weight of three to five dimensions (out, in, ...) is updated as the matrix (out, in ...).
    - ``auxiliary`` names the options of an :class:`~scratch_optim.AdamW` that updates what has
      fewer than two dimensions. Each group of parameters is then taken as two: first its
      matrices, then the others, both in the order given. That is the order of ``param_groups`` and
      of ``state_dict()``; a group is not split that would leave one of the two empty.
    - A group with ``"use_muon": False`` is AdamW's whatever the shapes (embeddings, the last
      layer), one with ``True`` is Muon's and not split. Its options are those of AdamW; their
      defaults are those of ``auxiliary``.

    Each group has a learning rate of its own, so schedulers see AdamW's as they see Muon's.

    Args:
        params: what to optimize, see :class:`~scratch_optim.optimizer.Optimizer`.
        lr: learning rate, per step; the spectral norm of a step, up to the scale of the shape.
        weight_decay: lambda.
        momentum: mu.
        nesterov: look ahead along the momentum.
        ns_coefficients: see :func:`newton_schulz`.
        eps: see :func:`newton_schulz`.
        ns_steps: see :func:`newton_schulz`; below 100.
        adjust_lr_fn: a key of :data:`SCALES`.
        foreach: make matrices of equal shape orthogonal together, on the CPU as many as have 2**19
            elements. That is quicker for small ones, but rounds otherwise: products of batches and
            of single matrices need not agree in bfloat16. Default: one after the other.
        auxiliary: options of AdamW, such as ``{"lr": 1e-3}``, for what is no matrix.
        ns_dtype: in which matrices are made orthogonal. Default: bfloat16, as torch has it. A
            processor that does not multiply it is quicker in float32: with AVX2 on 2 cores, 16 ms
            a step instead of 425 for six 3x3 convolutions of 24 to 128 channels.

    State: ``momentum_buffer``, B, with the shape and dtype of the parameter; where AdamW updates,
    what that keeps.

    Raises:
        ValueError: an option out of its range; a parameter of fewer than two dimensions without
            ``auxiliary``.
    """

    older_options = {}  # noqa: RUF012
    ranges = {  # noqa: RUF012
        "lr": ("Learning rate should be >= 0 but is: {}", 0, math.inf),
        "momentum": ("momentum should be >= 0 but is: {}", 0, math.inf),
        "weight_decay": ("weight decay should be >= 0 but is: {}", 0, math.inf),
        "ns_steps": ("ns_steps should be >= 0 but is: {}", 0, math.inf),
    }
    elementwise = False
    lists_by_default = False
    sparse_message = "Muon does not support sparse gradients"

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: Coefficients = (3.4445, -4.7750, 2.0315),
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        foreach: bool | None = None,
        auxiliary: Group | None = None,
        ns_dtype: torch.dtype | None = None,
    ) -> None:
        self.auxiliary = auxiliary
        if auxiliary is not None:
            AdamW([torch.empty(0)], **auxiliary)  # refuses what it does not know
        defaults: dict[str, Any] = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
            "ns_coefficients": ns_coefficients,
            "eps": eps,
            "ns_steps": ns_steps,
            "adjust_lr_fn": adjust_lr_fn,
            "foreach": foreach,
        }
        if ns_dtype is not None:  # or groups are those of torch's
            defaults["ns_dtype"] = ns_dtype
        super().__init__(params, defaults)

    def __getstate__(self) -> dict[str, Any]:
        """Return what ``copy`` and ``pickle`` keep."""
        return {**super().__getstate__(), "auxiliary": self.auxiliary}

    # ------------------------------------------------------------------ groups

    def group_defaults(self, group: Group) -> Group:
        """Return the options of Muon or, where it is to update the group, of AdamW."""
        if _is_muons(group):
            return self.defaults
        return {**_adamw().defaults, **(self.auxiliary or {}), "use_muon": False}

    def check_group(self, group: Group) -> None:
        """Raise if an option is not valid."""
        if not _is_muons(group):
            _adamw().check_group(group)
            if group["differentiable"]:
                raise ValueError("Muon does not support differentiable for the parameters of AdamW")
            return
        super().check_group(group)
        if group["adjust_lr_fn"] not in SCALES:
            raise ValueError(
                f"Adjust learning rate function {group['adjust_lr_fn']} is not supported"
            )
        if group["ns_steps"] >= 100:
            raise ValueError("Number of steps must be less than 100 for computational efficiency")
        if len(group["ns_coefficients"]) != 3:
            raise ValueError("Coefficients must be a tuple of exactly 3 values")
        dtype = group.get("ns_dtype", torch.bfloat16)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ValueError(f"ns_dtype should be a floating point dtype but is: {dtype}")

    def add_param_group(self, param_group: Group) -> None:
        """Add a group of parameters with options of its own; with ``auxiliary``, maybe two.

        Args:
            param_group: ``{"params": tensors or (name, tensor) pairs, option: value, ...}``. If it
                is split its options are for the matrices.

        Raises:
            ValueError: as the class says; the optimizer is then as it was.
            TypeError: likewise.
        """
        before = len(self.param_groups)
        try:
            for part in self._parts(param_group):
                self._add(part)
        except BaseException:
            del self.param_groups[before:]
            raise

    def _parts(self, group: Group) -> list[Group]:
        """Return the group, or one of its matrices and one of what else there is."""
        if not isinstance(group, dict) or isinstance(group["params"], set):
            return [group]  # refused in what follows
        params = [group["params"]] if isinstance(group["params"], Tensor) else [*group["params"]]
        if self.auxiliary is None or "use_muon" in group:
            return [{**group, "params": params}]
        matrices = [x for x in params if _dim(x) >= 2]
        others = [x for x in params if _dim(x) < 2]
        rest = {key: value for key, value in group.items() if key not in self.defaults}
        parts = [{**group, "params": matrices}] if matrices or not others else []
        return parts + ([{**rest, "params": others, "use_muon": False}] if others else [])

    def _add(self, part: Group) -> None:
        if isinstance(part, dict):
            part = {**self.group_defaults(part), **part}
        super().add_param_group(part)
        group = self.param_groups[-1]
        if not _is_muons(group):
            for name in self.defaults.keys() - self.group_defaults(group).keys():
                del group[name]
            return
        for p in group["params"]:
            if p.dim() < 2:
                raise ValueError(
                    "Muon only supports 2D parameters whereas we found a parameter with size: "
                    f"{p.size()}"
                )

    def _loaded_group(self, number: int, group: Group, saved: Group) -> Group:
        if _is_muons(saved) != _is_muons(group):
            raise ValueError(
                f"parameter group {number} of the loaded state dict has use_muon="
                f"{_is_muons(saved)}, but that of this optimizer has use_muon={_is_muons(group)}"
            )
        # where it is computed best is a matter of this machine, not of the saved one
        saved = {name: value for name, value in saved.items() if name != "ns_dtype"}
        if "ns_dtype" in group:
            saved["ns_dtype"] = group["ns_dtype"]
        return super()._loaded_group(number, group, saved)

    # ------------------------------------------------------------------ state and step

    def check_gradient(self, group: Group, p: Tensor, g: Tensor) -> None:
        """Raise if the parameter is complex or its gradient sparse."""
        if not _is_muons(group):
            return _adamw().check_gradient(group, p, g)
        if p.is_complex():
            raise RuntimeError("Muon does not support complex parameters")
        super().check_gradient(group, p, g)

    def state_names(self, group: Group, p: Tensor) -> tuple[str, ...]:
        """Return the name of the momentum, or those of AdamW."""
        return ("momentum_buffer",) if _is_muons(group) else _adamw().state_names(group, p)

    def scalar_state(self, group: Group) -> dict[str, float | Tensor]:
        """Return nothing, since Muon's step is the same at all times, or what AdamW counts."""
        return {} if _is_muons(group) else _adamw().scalar_state(group)

    def kind(self, group: Group, p: Tensor) -> Hashable:
        """Return the shape (m, n) of the matrix that the parameter is; None if it is AdamW's."""
        return (p.size(0), math.prod(p.shape[1:])) if _is_muons(group) else None

    @staticmethod
    def update(  # noqa: D102
        theta: Operand,
        g: Operand,
        state: Mapping[str, Operand],
        t: Any,
        /,
        **options: Any,
    ) -> None:
        equation = _muon if options["kind"] else AdamW.update
        equation(theta, g, state, t, **options)


def _muon(
    theta: Operand,
    g: Operand,
    state: Mapping[str, Operand],
    t: Any,
    /,
    *,
    kind: tuple[int, int],
    lr: float,
    weight_decay: float,
    momentum: float,
    nesterov: bool,
    ns_coefficients: Coefficients,
    eps: float,
    ns_steps: int,
    adjust_lr_fn: str | None,
    foreach: bool | None,
    ns_dtype: torch.dtype = torch.bfloat16,
    **_: Any,
) -> None:
    if 0 in kind:
        return
    u = state["momentum_buffer"].lerp_(g, 1 - momentum)
    if nesterov:
        u = g.lerp(u, momentum)
    orthogonal = partial(newton_schulz, steps=ns_steps, coefficients=ns_coefficients, eps=eps)
    o = _orthogonal(u, bool(foreach), orthogonal, ns_dtype)
    if weight_decay != 0:
        theta.mul_(1 - lr * weight_decay)
    theta.add_(o, alpha=-(lr * SCALES[adjust_lr_fn](*kind)))


def _orthogonal(
    u: Operand, batched: bool, orthogonal: Callable[..., Tensor], dtype: torch.dtype
) -> Operand:
    """Return each tensor as an orthogonal matrix of (out, in ...), in its own shape."""
    if isinstance(u, Tensor):
        matrix = pieces.gathered(u).flatten(1)  # once, not in each product
        return orthogonal(matrix, dtype=dtype).reshape(u.shape)
    if not batched or len(u.tensors) == 1:
        return TensorList([_orthogonal(x, False, orthogonal, dtype) for x in u.tensors])
    matrices = torch.stack([x.to(dtype).flatten(1) for x in u.tensors])
    results = orthogonal(matrices).unbind()
    return TensorList([o.view(x.shape) for o, x in zip(results, u.tensors, strict=True)])


def _dim(x: Any) -> int:
    """Return the number of dimensions of a tensor or a (name, tensor) pair; 2 of anything else."""
    tensor = x[1] if isinstance(x, tuple) and len(x) == 2 else x
    return tensor.dim() if isinstance(tensor, Tensor) else 2


def _is_muons(group: Group) -> bool:
    return bool(group.get("use_muon", True))


@cache
def _adamw() -> AdamW:
    """Return an AdamW, to ask for its defaults, checks and names."""
    return AdamW([torch.empty(0)])
