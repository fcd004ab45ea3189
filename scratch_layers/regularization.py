"""Keeping weights small: penalties in the loss, decay in the optimizer, and a bound on norms.

    R. Tibshirani, "Regression Shrinkage and Selection via the Lasso", Journal of the Royal
    Statistical Society B 58, 1996: the L1 penalty.
    A. Hoerl, R. Kennard, "Ridge Regression: Biased Estimation for Nonorthogonal Problems",
    Technometrics 12, 1970; A. Krogh, J. Hertz, "A Simple Weight Decay Can Improve Generalization",
    NIPS 1991: the L2 penalty, and that it makes weights decay.
    H. Zou, T. Hastie, "Regularization and Variable Selection via the Elastic Net", Journal of the
    Royal Statistical Society B 67, 2005: both.
    I. Loshchilov, F. Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv:1711.05101.
    N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever, R. Salakhutdinov, "Dropout: A Simple Way
    to Prevent Neural Networks from Overfitting", Journal of Machine Learning Research 15, 2014,
    section 5.1: max-norm.

Over all chosen weights w_i, the penalties and their derivatives are

    L1            R(w) = Σ |w_i|                         ∂R/∂w_i = sign(w_i),     0 at w_i = 0
    L2            R(w) = 1/2 Σ w_i²                      ∂R/∂w_i = w_i
    elastic net   R(w) = λ₁ Σ |w_i| + λ₂/2 Σ w_i²        ∂R/∂w_i = λ₁ sign(w_i) + λ₂ w_i

L1 pulls with the same force however small a weight is, so weights that the loss does not hold reach
zero; at zero every number in [-1, 1] is a subgradient, and 0 is the one that leaves a zero weight
alone. (A step of gradient descent takes a weight that the loss leaves alone over zero, by up to
lr λ₁: weights become small, not exactly 0.) L2 pulls in proportion to the weight and shrinks all
alike.

**An L2 penalty is weight decay, with the half.** The derivative of loss + λ/2 Σ w² is g + λ w, what
torch's SGD, Adam, RMSprop, ... compute for ``weight_decay=λ``:

    loss + λ * l2_penalty(w)    <->    weight_decay=λ

Written without the half, a penalty λ Σ w² is ``weight_decay=2λ``. For plain SGD both are a decay,

    w - lr (g + λ w) = (1 - lr λ) w - lr g

**But for an adaptive optimizer a penalty is no decay.** Adam divides by the root of the mean square
v of what it is given. With the penalty in the gradient (coupled) the step is about

    - lr (m + λ w) / sqrt(v)

so a weight is pulled by λ / sqrt(v): the less, the larger its gradients are, and where the penalty
dominates, the strength λ cancels altogether, as v ≈ λ² w². Decoupled decay (AdamW) multiplies the
weight by 1 - lr λ, whatever its gradients, and that is an L2 penalty of no fixed loss (Loshchilov
and Hutter, proposition 2; with fixed preconditioner M it would be λ/2 Σ w_i² / M_i, proposition 3).
So with AdamW use its ``weight_decay``, not a penalty.

**What decays.** Biases and the gains of normalizations are few, and do not make a function steep by
being large; and a weight in front of a normalization has no scale of its own: there, decay only
sets the effective learning rate. Common practice lets only the weights decay: `decay_groups`.

**Max-norm** puts the incoming weights w of each unit back into a ball after the step:

    w = w min(1, c / |w|)

the point of the ball that is nearest to w (for the 2-norm). Unlike a penalty it leaves weights
inside the ball alone, and keeps them from exploding at any learning rate.
"""

from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

__all__ = ["decay_groups", "elastic_net_penalty", "l1_penalty", "l2_penalty", "max_norm_"]

Weights: TypeAlias = Tensor | Iterable[Tensor] | nn.Module
"""A model stands for those of its parameters that decay in :func:`decay_groups`."""

NORMALIZATIONS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def l1_penalty(parameters: Weights) -> Tensor:
    """Return Σ |w|, to be multiplied by a strength λ and added to the loss.

    Computed by summing, not as a norm: `sum` adds pairwise, while torch's float32 norms on a CPU
    add one value after the other. Of 2,359,296 normal values, as many as the largest weight of a
    ResNet-18 has, the sum is wrong by 6e-8 of the result and the norm by 4e-4 (torch 2.15).

    Args:
        parameters: the tensors to penalize, of any shapes, dtypes and devices; or a model, whose
            decaying weights are meant (see :func:`decay_groups`: no biases, no normalizations,
            nothing frozen).

    Returns:
        0-dim, on the device of the first tensor, in the widest of the dtypes, at least float32; in
        the unit of the weights. Differentiable any number of times, the derivative 0 at w = 0.

    Raises:
        ValueError: there are no tensors.

    Source: Tibshirani 1996.
    """
    return _total(lambda w: w.abs().sum(), parameters)


def l2_penalty(parameters: Weights) -> Tensor:
    """Return 1/2 Σ w², to be multiplied by a strength λ and added to the loss.

    The half makes λ the optimizer's ``weight_decay=λ`` (SGD, and Adam, but not AdamW; see the
    docstring of the module).

    Args:
        parameters: see :func:`l1_penalty`.

    Returns:
        As :func:`l1_penalty`, in the square of the unit of the weights.

    Raises:
        ValueError: there are no tensors.

    Source: Hoerl and Kennard 1970; Krogh and Hertz 1991.
    """
    return _total(lambda w: w.square().sum() / 2, parameters)


def elastic_net_penalty(parameters: Weights, *, l1: float, l2: float) -> Tensor:
    """Return λ₁ Σ |w| + λ₂/2 Σ w², to be added to the loss.

    Args:
        parameters: see :func:`l1_penalty`.
        l1: λ₁ ≥ 0.
        l2: λ₂ ≥ 0, in the meaning of ``weight_decay``: half of it is Zou and Hastie's λ₂.

    Returns:
        As :func:`l1_penalty`.

    Raises:
        ValueError: a negative strength; there are no tensors.

    Source: Zou and Hastie 2005, section 2.
    """
    for name, value in {"l1": l1, "l2": l2}.items():
        if not value >= 0:
            raise ValueError(f"{name} must be a number >= 0, but is {value}")
    W = _as_list(parameters)
    return l1 * l1_penalty(W) + l2 * l2_penalty(W)


def _total(of: Callable[[Tensor], Tensor], parameters: Weights) -> Tensor:
    """The sum of a term of each tensor, computed in float32 or wider."""
    W = _as_list(parameters)
    if not W:
        raise ValueError(
            "there are no parameters to penalize: a generator can be read only once, and a model "
            "stands for its decaying parameters only"
        )
    terms = [of(w.to(torch.promote_types(w.dtype, torch.float32))) for w in W]
    return torch.stack([term.to(W[0].device) for term in terms]).sum()


def _as_list(parameters: Weights) -> list[Tensor]:
    if isinstance(parameters, nn.Module):
        return list(_split(parameters, ())[0].values())
    return [parameters] if isinstance(parameters, Tensor) else list(parameters)


def decay_groups(
    model: nn.Module,
    weight_decay: float,
    no_decay: str | Iterable[str] = (),
    *,
    named: bool = False,
) -> list[dict[str, Any]]:
    """Split the parameters of a model into a group that decays and one that does not.

        optimizer = AdamW(decay_groups(model, 0.05), lr=1e-3)

    These do not decay:

    - parameters of fewer than two dimensions: biases, gains, the slopes of PReLU, scales;
    - parameters of normalizations (what is an instance of torch's batch, instance, layer, group or
      RMS normalization), whatever their shape;
    - parameters with the word "bias" in their own name, such as ``bias_k`` of attention or
      ``relative_position_bias_table``, whatever their shape;
    - those whose full name matches a pattern of ``no_decay``.

    Args:
        model: any; the order is that of ``model.parameters()`` within a group.
        weight_decay: λ of the first group.
        no_decay: shell patterns (`fnmatch.fnmatchcase`) for names such as ``blocks.0.attn.weight``;
            ``"*.gamma"``, or the set that ``model.no_weight_decay()`` of a timm model returns. One
            that matches nothing is without effect, since such lists serve several models.
        named: hand the optimizer (name, parameter) pairs, so that its state_dict has names.

    Returns:
        ``[{"params": [...], "weight_decay": λ}, {"params": [...], "weight_decay": 0.0}]``, without
        a group that would be empty, which torch refuses beside one with names. A parameter that
        several modules share appears once, under its first name, and does not decay if any of its
        places says so. Frozen parameters (``requires_grad`` is False) are left out, as the usual
        ``[p for p in model.parameters() if p.requires_grad]`` does; one that thaws later needs an
        ``optimizer.add_param_group``.
    """
    patterns = [no_decay] if isinstance(no_decay, str) else list(no_decay)
    groups = zip(_split(model, patterns), (weight_decay, 0.0), strict=True)
    return [
        {"params": list(members.items() if named else members.values()), "weight_decay": decay}
        for members, decay in groups
        if members
    ]


def _split(
    model: nn.Module, no_decay: Iterable[str]
) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """Trainable parameters by name: those that decay, those that do not."""
    first_names: dict[nn.Parameter, str] = {}
    exempt: set[nn.Parameter] = set()
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name, p in module.named_parameters(prefix, recurse=False, remove_duplicate=False):
            if not p.requires_grad:
                continue
            first_names.setdefault(p, name)
            if (
                p.dim() < 2
                or isinstance(module, NORMALIZATIONS)
                or "bias" in name.rpartition(".")[2].split("_")
                or any(fnmatchcase(name, pattern) for pattern in no_decay)
            ):
                exempt.add(p)
    return (
        {name: p for p, name in first_names.items() if p not in exempt},
        {name: p for p, name in first_names.items() if p in exempt},
    )


@torch.no_grad()
def max_norm_(parameters: Weights, limit: float, dim: int = 0, p: float = 2.0) -> None:
    """Scale the incoming weights of each unit, in place, so that their norm is at most ``limit``.

        optimizer.step()
        max_norm_(model, 3.0)

    Args:
        parameters: see :func:`l1_penalty`. Tensors of fewer than two dimensions (biases, gains) are
            not the incoming weights of units, and are passed over.
        limit: c, positive, in the unit of the weights. The paper found 3 to 4 good.
        dim: which dimension counts the units: 0 for linear layers, convolutions and embeddings, 1
            for transposed convolutions. The norm runs over all others.
        p: order of the norm, at least 1; ``inf`` for the largest absolute value.

    Raises:
        ValueError: ``limit`` or ``p`` is out of its range.
        IndexError: a tensor has no such dimension. All are then as they were.

    Units inside of the ball keep their bits; norms of half precision are taken in float32.

    Differs from ``torch.renorm``: in place on lists, and c / |w| instead of c / (|w| + 1e-7), which
    leaves |w| below c by 1e-7 / |w| of it.

    Source: Srivastava et al. 2014, section 5.1.
    """
    if not limit > 0:
        raise ValueError(f"limit must be a number > 0, but is {limit}")
    if not p >= 1:
        raise ValueError(f"p must be a number >= 1, but is {p}")
    W = [w for w in _as_list(parameters) if w.dim() >= 2 and w.numel() > 0]
    for w in W:
        if not -w.dim() <= dim < w.dim():
            raise IndexError(f"dim {dim} is not a dimension of a tensor of shape {tuple(w.shape)}")
    for w in W:
        others = [d for d in range(w.dim()) if d != dim % w.dim()]
        wide = torch.promote_types(w.dtype, torch.float32)
        norm = torch.linalg.vector_norm(w, p, others, keepdim=True, dtype=wide)
        w.mul_((limit / norm).clamp(max=1))
