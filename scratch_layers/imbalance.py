"""Weights for the loss when some classes have many more samples than others.

    G. King, L. Zeng, "Logistic Regression in Rare Events Data", Political Analysis 9, 2001:
    weights inverse to the frequency.
    Y. Cui, M. Jia, T.-Y. Lin, Y. Song, S. Belongie, "Class-Balanced Loss Based on Effective Number
    of Samples", CVPR 2019, arXiv:1901.05555.

With n_c of the n samples in class c, of K classes, the weighted loss of the data is

    Σ_i w_(y_i) ℓ_i = Σ_c w_c n_c ℓ̄_c,         ℓ̄_c the mean loss in class c

**Inverse**, w_c = n / (K n_c): every class has the same say, n / K, however rare it is, and the
weights of the samples add up to n as if there were none.

**Effective.** A new sample of a class may lie where others lie already. Let a class have room for N
samples that do not overlap, and let E_n be how much of it n samples cover in the mean. The n-th
falls into what is covered with probability E_(n-1) / N, and else adds 1:

    E_n = E_(n-1) + (1 - E_(n-1) / N) = 1 + β E_(n-1),     β = (N - 1) / N
        = (1 - βⁿ) / (1 - β)

by summing the geometric series. Weights inverse to it, scaled to add up to K (section 4):

    w_c = K (1 - β) / (1 - β^n_c) / Σ_k (1 - β) / (1 - β^n_k)

β = 0 (one sample says all) gives each class weight 1, β -> 1 the inverse frequencies.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["class_weights"]


def class_weights(
    counts: Tensor | Sequence[float], scheme: str = "inverse", *, beta: float = 0.999
) -> Tensor:
    """Return the weight of each class, for ``CrossEntropyLoss(weight=...)``.

        counts = torch.bincount(targets, minlength=num_classes)
        loss = CrossEntropyLoss(weight=class_weights(counts))

    The scale of the weights is without effect on ``CrossEntropyLoss(reduction="mean")``, which
    divides by their sum over the batch.

    Args:
        counts: n_c of each class, (K,), all positive; whole numbers or shares of the data.
        scheme: "inverse", n / (K n_c), scikit-learn's "balanced"; or "effective", Cui's, which
            needs whole numbers.
        beta: β in [0, 1) of the effective number; the paper tries 0.9, 0.99, 0.999 and 0.9999.

    Returns:
        (K,) on the device of the counts, in the default dtype (computed in float64).

    Raises:
        ValueError: counts of another shape; a count that is not positive and finite (no weight
            balances a class without samples: drop it, or give it the count 1); another scheme; β
            outside of [0, 1).

    Source: King and Zeng 2001; Cui et al. 2019, proposition 1 and section 4.
    """
    counts = torch.as_tensor(counts)
    n = counts.to("cpu", torch.float64)  # where every device has float64
    if n.dim() != 1 or not len(n):
        raise ValueError(f"counts must have the shape (K,), K > 0, but have {tuple(n.shape)}")
    wrong = (~(n > 0) | n.isinf()).nonzero().flatten().tolist()
    if wrong:
        raise ValueError(
            f"counts must be positive and finite, but class {wrong[0]} has {n[wrong[0]].item():g} "
            f"({len(wrong)} such classes of {len(n)}): drop classes without samples, or count them "
            "as 1"
        )
    if scheme == "inverse":
        w = n.sum() / (len(n) * n)
    elif scheme == "effective":
        if not 0 <= beta < 1:
            raise ValueError(f"beta must be in [0, 1), but is {beta}")
        # 1 - βⁿ without cancellation for β near 1
        covered = -torch.expm1(n * math.log(beta)) if beta else torch.ones_like(n)
        w = (1 - beta) / covered
        w *= len(n) / w.sum()
    else:
        raise ValueError(f'scheme must be "inverse" or "effective", but is {scheme!r}')
    return w.to(counts.device, torch.get_default_dtype())
