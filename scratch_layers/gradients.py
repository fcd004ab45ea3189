"""Is a gradient right? Compare it with differences of the function itself, and say where not.

    report = check_gradients(nn.LayerNorm(4), torch.randn(8, 4, requires_grad=True))
    print(report)              # a table: each tensor, its largest error, where, and both values
    assert report, report      # true if every gradient is right

    Y. Bengio, "Practical Recommendations for Gradient-Based Training of Deep Architectures", 2012,
    arXiv:1206.5533, section 4.1.
    A. Karpathy et al., "CS231n: Convolutional Neural Networks for Visual Recognition", notes on
    gradient checks, https://cs231n.github.io/neural-networks-3/#gradcheck

**Projection.** A gradient is that of a number, and a layer returns tensors. With fixed random
numbers r the loss L = Σ r_i y_i mixes all outputs y_i, so that an error behind any of them changes
the gradient of L. Their plain sum would not do: the outputs of softmax and of batch normalization
have the same sum whatever x is, so that most of their formula would go unchecked.

**Differences.** For a direction v (one entry of a tensor, or all entries at random) let
φ(t) = L(x + t v). By Taylor's formula on both sides of 0

    D(h) = (φ(h) - φ(-h)) / 2h = φ' + h²/6 φ''' + ...                  central difference
    rounding of D(h)           ≈ ε |φ| / h                             ε = 2^-52 in float64

The first error falls with h and the second rises. Their sum is least at h³ = 3 ε |φ| / |φ'''|, so

    h = ε^(1/3) s ≈ 6e-6 s        D(h) - φ' ≈ ε^(2/3) |φ| / s ≈ 4e-11 |φ| / s

is the choice if nothing is known of φ but the scale s of x: here the larger of |x_j| and of the
root mean square of the tensor. (In float32 the error would be 2e-5, too near to that of a mistake,
so everything is computed in float64.) The differences are taken for each output and then summed,
so outputs that v does not reach add no rounding.

**What the differences are worth.** If this h does not confirm the derivative a that autograd has,
others are tried, from 16^3 times larger to 16^3 times smaller. The slopes to the right and to the
left show what D(h), their mean, hides:

    R_i = r_i (y_i(h) - y_i(0)) / h        L_i = r_i (y_i(0) - y_i(-h)) / h

    B(h) = 1/2 Σ |R_i - L_i|       smooth    h/2 Σ |r_i y_i''|, falls with h
                                   rounding  ε |φ| / h, rises as h falls
                                   kink      half of the jump of the derivative, whatever h is
    u(h) = B(h) + |D(h) - D(h')|   h' = 16 h or h / 16, whichever is nearer in D

The h of the least u decides. If a and D(h) differ by more than u, the gradient is wrong. If not, it
is right, provided that u is small; else nothing is decided. That is so at a kink (ReLU at 0, a
tie in max pooling), where there is no derivative and a is as good as any slope in between; it is
reported as undecided. A kink *near* x is no obstacle: a small h does not reach it. Where a small h
moves no output at all, y is constant, or forward computes in float32 somewhere: then u also counts
D(h) h*/h, with the least h* that does move one.

**Relative error.** (|a - D| - u) / max(|a|, |D|, 1e-4 Σ |r_i y_i| / s), with u = 0 for the first h.
The third term, a sum over the outputs that v reaches, is for derivatives that are zero (by a bias
before a normalization), of which D is pure rounding. Correct gradients come out at 1e-7 or less;
the tolerance of 1e-6 leaves room for the rounding of deep networks, and none for mistakes: ε added
to σ instead of σ² in a batch normalization already makes 5e-6.

**What is looked at.** Every entry of a tensor of up to 100; of a larger one 100 at random, and 3
random directions over all, to which every wrong entry contributes. If only these find an error, it
is hunted down: in the half of the entries that makes more of it, in half of that half, and so on.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from scratch_layers.convert import copy_around_parameters

__all__ = ["GradientReport", "check_gradients"]

EPSILON = torch.finfo(torch.float64).eps
STEP = EPSILON ** (1 / 3)
STEPS = [STEP * 16.0**k for k in (3, 2, 1, 0, -1, -2, -3)]
NEGLIGIBLE = 1e-4  # of Σ |r_i y_i| / s: a derivative below this is judged by its absolute error
SMALL = 1e-3  # up to this relative u a gradient that agrees is right
LARGE = 0.1  # up to this relative u a step is asked before one at which nothing moves


@dataclass
class Comparison:
    """A derivative by autograd and by differences.

    Attributes:
        index: of the entry; None for a random direction over all entries. Complex tensors are
            taken as real ones with a last dimension of 2.
        analytic: autograd's.
        numeric: that of the differences.
        error: the relative error, see the docstring of the module.
        decided: False at a kink, or where rounding leaves nothing of the difference.
    """

    index: tuple[int, ...] | None
    analytic: float
    numeric: float
    error: float
    decided: bool = True


@dataclass
class Row:
    """The gradient by one tensor.

    Attributes:
        name: that of the parameter, or "input 0" ("input 1[2]" within lists) by position.
        shape: that of the tensor.
        comparisons: entries first, then directions.
        reached: autograd has a gradient for the tensor, not None.
        tolerance: the relative error that is still right.
    """

    name: str
    shape: tuple[int, ...]
    comparisons: list[Comparison]
    reached: bool
    tolerance: float

    @property
    def worst(self) -> Comparison:
        """The comparison with the largest error; of an entry, if one is wrong."""
        wrong_entries = [c for c in self.wrong if c.index is not None]
        return max(wrong_entries or self.comparisons, key=lambda c: c.error)

    @property
    def wrong(self) -> list[Comparison]:
        """Those whose error is above the tolerance."""
        return [c for c in self.comparisons if c.error > self.tolerance]

    @property
    def undecided(self) -> list[Comparison]:
        """Those that decide nothing."""
        return [c for c in self.comparisons if not c.decided]

    def __bool__(self) -> bool:
        """Nothing is wrong, and something is decided."""
        return not self.wrong and len(self.undecided) < max(len(self.comparisons), 1)

    @property
    def verdict(self) -> str:
        """The result in words."""
        wrong, undecided = self.wrong, self.undecided
        if any(not isfinite(c.analytic) for c in wrong):
            return f"WRONG: autograd has {wrong[0].analytic}"
        if wrong and not self.reached:
            return "WRONG: no gradient reached it"
        if wrong:
            ratios = [c.analytic / c.numeric for c in wrong if c.numeric != 0]
            everywhere = len(ratios) == len(self.comparisons)
            common = everywhere and max(ratios) - min(ratios) <= 1e-2 * abs(ratios[0] - 1)
            by = f", {ratios[0]:.3g} times what it should be" if common else ""
            return f"WRONG in {len(wrong)} of {len(self.comparisons)}{by}"
        if len(undecided) == len(self.comparisons) > 0:
            return "UNDECIDED: kinks, or noise, wherever it was looked at"
        right = "right" if self.reached else "right: it has no influence"
        if not undecided:
            return right
        where = "along a direction" if undecided[0].index is None else f"at {undecided[0].index}"
        return f"{right}, {len(undecided)} undecided (kink or noise {where})"

    def cells(self) -> tuple[str, ...]:
        """The row of the table."""
        entries = sum(c.index is not None for c in self.comparisons)
        directions = len(self.comparisons) - entries
        checked = str(entries) + (f" + {directions} directions" if directions else "")
        if not self.comparisons:
            return self.name, str(self.shape), checked, "", "", "", "", self.verdict
        worst = self.worst
        at = "" if worst.index is None else str(worst.index)
        values = f"{worst.error:.1e}", at, f"{worst.analytic:.8g}", f"{worst.numeric:.8g}"
        return self.name, str(self.shape), checked, *values, self.verdict


@dataclass(repr=False)
class GradientReport:
    """What :func:`check_gradients` found: true if every gradient is right; printed, a table.

    Attributes:
        rows: one for each tensor.
        notes: what else is worth knowing: inputs modified in place, tensors that were left out.
    """

    rows: list[Row]
    notes: list[str]

    def __bool__(self) -> bool:
        return all(self.rows)

    def check(self) -> None:
        """Raise an AssertionError that shows the table unless every gradient is right."""
        if not self:
            raise AssertionError(f"not every gradient is right\n{self}")

    def __repr__(self) -> str:
        head = ("tensor", "shape", "checked", "error", "at", "analytic", "numeric", "")
        table = [head, *(row.cells() for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ("  ".join(map(str.ljust, cells, widths)).rstrip() for cells in table)
        return "\n".join([*lines, *self.notes])


@torch.enable_grad()
def check_gradients(
    function: Callable[..., Any],
    *inputs: Any,
    tolerance: float = 1e-6,
    entries: int = 100,
    directions: int = 3,
    seed: int = 0,
) -> GradientReport:
    """Compare autograd's gradients with central differences in float64.

    Args:
        function: a module, or any function of the inputs. Of a module a float64 copy is taken, and
            a fresh copy of that for every evaluation: its buffers, its training mode and whatever
            else its forward changes remain as they are, and no evaluation sees the last one. Any
            other function is called as it is.
        inputs: what the function is called with: tensors, lists and dictionaries of them, and
            whatever else it takes. Floating point and complex tensors are copied to double
            precision. Gradients are checked by those that require grad.
        tolerance: relative error up to which a gradient is right.
        entries: how many entries of a tensor are compared one by one.
        directions: how many random directions over all entries, if there are more than that.
        seed: of the choices made here, and of the global generators before each evaluation, so a
            layer that draws random numbers draws the same ones. The generators are put back.

    Returns:
        A report that is true if every gradient is right. It takes two evaluations for each entry,
        and fourteen more where those do not agree with autograd.

    Raises:
        ValueError: there is nothing to check; the output holds nan or infinity, is of
            single precision, has no floating point tensor, or is another one at the second call.

    Source: Bengio 2012; derivation of step and tolerance in the docstring of the module.

    Differs from ``torch.autograd.gradcheck``: takes modules, in any precision, with their
    parameters; keeps random layers still; survives kinks; takes samples of large tensors; and
    reports instead of raising.
    """
    problem = _Problem(function, inputs, tolerance, seed)
    rows = [
        Row(
            name,
            tuple(x.shape),
            problem.compare_all(name, entries, directions),
            problem.gradients[name] is not None,
            tolerance,
        )
        for name, x in problem.tensors.items()
    ]
    return GradientReport(rows, problem.notes)


class _Problem:
    """L = Σ r_i y_i as a function of the tensors by which it is to be differentiated."""

    def __init__(
        self, function: Callable[..., Any], inputs: tuple[Any, ...], tolerance: float, seed: int
    ) -> None:
        self.tolerance, self.seed = tolerance, seed
        self.generator = torch.Generator().manual_seed(seed)
        self.function = function
        self.tensors: dict[str, Tensor] = {}
        self.notes: list[str] = []
        if isinstance(function, nn.Module):
            module = self.function = deepcopy(function)._apply(_to_double)
            for name, p in module.named_parameters():
                self._add(name, p)
        self.inputs = pytree.tree_map_only(Tensor, _own, inputs)
        for name, x in _named(self.inputs):
            self._add(name, x)
        if not self.tensors:
            raise ValueError("nothing to check: no parameter and no input requires grad")
        y = self.outputs(self.notes)
        self.y = y.detach()
        self.r = torch.randn(y.shape, generator=self.generator, dtype=y.dtype).to(y.device)
        if not self.y.isfinite().all():
            raise ValueError("the output holds nan or infinity: it has no differences to compare")
        if not torch.allclose(self.outputs().detach(), self.y, rtol=1e-9, atol=1e-12):
            raise ValueError(
                "the output is another one at the second call, though torch's generators were "
                "seeded: it depends on something else that changes"
            )
        loss = (self.r * y).sum()
        tensors = list(self.tensors.values())
        gradients: Sequence[Tensor | None] = [None] * len(tensors)
        if loss.requires_grad:
            gradients = torch.autograd.grad(loss, tensors, allow_unused=True)
        self.gradients = dict(zip(self.tensors, gradients, strict=True))

    def _add(self, name: str, x: Tensor) -> None:
        if x.requires_grad:
            self.tensors[name] = x
        else:
            self.notes.append(f"{name} requires no grad: not checked")

    def outputs(self, notes: list[str] | None = None) -> Tensor:
        """All y_i in one row, from a fresh start: same module, same inputs, same random numbers."""
        function = self.function
        if isinstance(function, nn.Module):
            function = copy_around_parameters(function)
        # not the leaves themselves, which nothing may modify in place
        inputs = pytree.tree_map_only(Tensor, Tensor.clone, self.inputs)
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            torch.manual_seed(self.seed)
            results = pytree.tree_leaves(function(*inputs))
        if notes is not None:
            modified = [name for name, x in _named(inputs) if x._version > 0]
            notes += [f"{name} is modified in place: it was handed a copy" for name in modified]
        ys = [y for y in results if isinstance(y, Tensor) and _is_continuous(y) and y.numel() > 0]
        if not ys:
            raise ValueError("the output has no floating point tensor that could have a gradient")
        for y in ys:
            if y.dtype not in (torch.float64, torch.complex128):
                raise ValueError(
                    f"the output is {y.dtype}, though parameters and inputs are of double "
                    "precision: its differences are all rounding. Let forward keep the dtype"
                )
        return torch.cat([_real(y).reshape(-1).to(ys[0].device) for y in ys])

    def differences(self, x: Tensor, v: Tensor, h: float) -> tuple[float, float, float]:
        """D(h), B(h) and Σ |r_i y_i| over the outputs that v reaches."""
        value = _real(x.detach())  # shares its memory with x
        start = value.clone()
        ys = []
        for sign in (1, -1):
            value.copy_(start + (sign * h) * v)
            ys.append(self.outputs().detach())
        value.copy_(start)
        right, left = self.r * (ys[0] - self.y), self.r * (self.y - ys[1])
        sizes = (self.r * self.y).abs()
        # with the largest, for where none moves: that bounds a derivative by its rounding only
        reached = sizes[ys[0] != ys[1]].sum() + sizes.max()
        slope, bend = (right + left).sum() / (2 * h), (right - left).abs().sum() / (2 * h)
        return slope.item(), bend.item(), reached.item()

    def compare(self, x: Tensor, gradient: Tensor, v: Tensor) -> tuple[float, float, float, bool]:
        """Derivative along v by autograd and by differences, relative error, whether it decides."""
        a = (gradient * v).sum().item()
        D, _, size = self.differences(x, v, STEP)
        if not isfinite(a):
            return a, D, inf, True
        scale = max(abs(a), abs(D), NEGLIGIBLE * size)
        if abs(a - D) <= self.tolerance * scale:
            return a, D, abs(a - D) / scale if scale else 0.0, True
        tried = [self.differences(x, v, h) for h in STEPS]
        moved = [k for k, (D, B, _) in enumerate(tried) if D != 0 or B != 0]
        u = _uncertainties(tried, STEPS[moved[-1]] if 0 < len(moved) < len(tried) else 0.0)
        scales = [max(abs(a), abs(D), NEGLIGIBLE * size) for D, _, size in tried]
        k = min(moved or range(len(tried)), key=u.__getitem__)
        if u[k] > LARGE * scales[k]:  # then y is constant in the small, and not only coarse
            k = min(range(len(tried)), key=u.__getitem__)
        if u[k] == inf:
            return a, D, 0.0, False
        error = max(abs(a - tried[k][0]) - u[k], 0.0) / scales[k]
        return a, tried[k][0], error, error > self.tolerance or u[k] <= SMALL * scales[k]

    def compare_all(self, name: str, entries: int, directions: int) -> list[Comparison]:
        """The entries of a tensor, or a sample of them and directions over all."""
        x, gradient = self.tensors[name], self.gradients[name]
        value = _real(x.detach())
        n = value.numel()
        g = torch.zeros_like(value) if gradient is None else _real(_dense(gradient.detach()))
        size = value.abs()
        s = size.maximum(size.square().mean().sqrt())
        s = torch.where(s > 0, s, 1.0)

        def entry(j: int) -> Comparison:
            v = torch.zeros_like(s)
            index = tuple(int(i) for i in torch.unravel_index(torch.tensor(j), v.shape))
            v[index] = s[index]
            a, D, error, decided = self.compare(x, g, v)
            return Comparison(index, a / v[index].item(), D / v[index].item(), error, decided)

        chosen = list(range(n))
        if n > entries:
            chosen = torch.randperm(n, generator=self.generator)[:entries].tolist()
        infinite = (~g.isfinite()).reshape(-1).nonzero()[:1, 0].tolist()
        comparisons = [entry(j) for j in infinite or chosen]
        if n <= entries or infinite:
            return comparisons
        for _ in range(directions):
            noise = torch.randn(s.shape, generator=self.generator, dtype=s.dtype)
            v = noise.to(s.device) * s
            along = Comparison(None, *self.compare(x, g, v))
            comparisons.append(along)
            if along.error > self.tolerance:
                comparisons.append(entry(self.hunt(x, g, v)))
        return comparisons

    def hunt(self, x: Tensor, g: Tensor, v: Tensor) -> int:
        """The entry that contributes most to an error along v, by halving."""
        where = torch.arange(v.numel(), device=v.device)
        while len(where) > 1:
            halves = where.tensor_split(2)
            errors = []
            for half in halves:
                w = torch.zeros_like(v).reshape(-1)
                w[half] = v.reshape(-1)[half]
                w = w.reshape(v.shape)
                errors.append(abs((g * w).sum().item() - self.differences(x, w, STEP)[0]))
            where = halves[errors.index(max(errors))]
        return int(where)


def _uncertainties(tried: list[tuple[float, float, float]], least: float) -> list[float]:
    """u(h) for each of STEPS, from D, B and size at each; least is h*, if there is one.

    It is infinite where the function is not finite.
    """
    result = []
    for k, (D, B, _) in enumerate(tried):
        gaps = [abs(D - tried[i][0]) for i in (k - 1, k + 1) if 0 <= i < len(tried)]
        u = B + min(g if isfinite(g) else inf for g in gaps) + abs(D) * least / STEPS[k]
        result.append(u if isfinite(u) else inf)
    return result


def _named(inputs: tuple[Any, ...]) -> Iterator[tuple[str, Tensor]]:
    """Floating point and complex tensors among the inputs, by position."""
    for path, x in pytree.tree_leaves_with_path(inputs):
        if isinstance(x, Tensor) and _is_continuous(x):
            position = pytree.keystr(path[:1]).strip("[]")
            yield f"input {position}{pytree.keystr(path[1:])}", x


def _is_continuous(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def _to_double(x: Tensor) -> Tensor:
    if not _is_continuous(x):
        return x
    return x.to(torch.complex128 if x.is_complex() else torch.float64)


def _own(x: Tensor) -> Tensor:
    """A leaf of its own, of double precision."""
    return _to_double(x.detach().clone()).requires_grad_(x.requires_grad)


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x


def _dense(x: Tensor) -> Tensor:
    return x if x.layout == torch.strided else x.to_dense()
