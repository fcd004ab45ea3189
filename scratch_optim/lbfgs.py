"""L-BFGS: Newton's method with a Hessian made from the last few steps and changes of the gradient.

Liu and Nocedal, "On the limited memory BFGS method for large scale optimization" (Mathematical
Programming 45, 1989); Nocedal and Wright, "Numerical Optimization" (2nd ed., 2006): algorithms 7.4
and 7.5, and for the line search 3.5 and 3.6 and equation 3.59. With x all parameters in a row,
g = grad f(x), and the last m pairs of

    s_k = x_{k+1} - x_k = t_k d_k,    y_k = g_{k+1} - g_k                                   (7.18)

    d_k     = -H_k g_k                                          two loops over the pairs, never H_k
    x_{k+1} = x_k + t_k d_k                                     t_k = lr, or by a line search

    H_{k+1} = V_k^T H_k V_k + rho_k s_k s_k^T                                               (7.16)
    V_k     = I - rho_k y_k s_k^T,    rho_k = 1 / y_k^T s_k                                 (7.17)
    H_k^0   = gamma_k I,    gamma_k = s_{k-1}^T y_{k-1} / y_{k-1}^T y_{k-1}                 (7.20)

H_k is the H_k^0 of the latest pair, updated by the pairs that are kept, from the oldest on. It is
positive definite, and d_k so a direction of descent, if all y^T s > 0; a pair without is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from .optimizer import Group, Optimizer, ParamsT

Scalar: TypeAlias = Any
"""A float or a 0-dim tensor: a step length is the one or the other by where it comes from."""

C1, C2 = 1e-4, 0.9
"""Of the Wolfe conditions, as Nocedal and Wright recommend for quasi-Newton directions."""

CURVATURE = 1e-10
"""Pairs of a smaller y^T s are left out; torch's."""

NARROW = 1e-9
"""How much of x a line search may leave open; torch's, whatever ``tolerance_change`` is."""

_VALID: dict[str, tuple[type[Any], float, str]] = {
    "max_iter": (Real, 1, "a number, at least 1"),
    "max_eval": (Real, 0, "a number, at least 0"),
    "history_size": (Integral, 1, "an integer, at least 1"),
    "tolerance_grad": (Real, -math.inf, "a number; a negative one is never met"),
    "tolerance_change": (Real, -math.inf, "a number; a negative one is never met"),
}

_MEMORY = ("d", "t", "old_dirs", "old_stps", "ro", "H_diag", "prev_flat_grad", "prev_loss")


class Point(NamedTuple):
    """A point on a line x + t d, and f there."""

    t: Scalar
    phi: float
    """phi(t) = f(x + t d)."""
    slope: Tensor
    """phi'(t) = g^T d, 0-dim."""
    g: Tensor
    """grad f(x + t d), 1-D."""


class LBFGS(Optimizer):
    """Limited-memory BFGS, with fixed steps or a line search for the strong Wolfe conditions.

    Agrees with ``torch.optim.LBFGS``: bit for bit, in its state dicts, and in how often it
    evaluates the closure. Like it, differs from algorithm 7.5 in that a step is up to ``max_iter``
    iterations; in that without a line search t = lr, the Wolfe conditions unchecked; and in that
    the first direction is -g, and its first t at most 1 / |g|_1. Differs from torch in that

    - bad options are refused at once, not in a later iteration, and a second group when added;
    - copies (``copy.deepcopy``, ``pickle``) can go on, and a closure that raises leaves state and
      parameters that fit each other;
    - gradients may have any strides and be lazily conjugated, ``history_size`` may change between
      two steps, and a line search may have ``lr=0``, which moves nothing;
    - a tensor ``lr`` changed in place, as schedulers do, does not change the step already taken.

    All parameters must be on one device. Complex ones are taken as real and imaginary parts. A
    parameter without gradient counts as one whose gradient is zero; a sparse gradient is made
    dense. With N real numbers in the parameters, the pairs take 2 ``history_size`` N.

    Args:
        params: what to optimize, one group, see :class:`~scratch_optim.optimizer.Optimizer`.
        lr: t, or where the line search begins; 1 is the step of Newton's method.
        max_iter: most iterations in a step.
        max_eval: evaluations of the closure in a step after which no iteration begins; default:
            5/4 max_iter. The line search stops there too, though it ends what it has begun.
        tolerance_grad: end the step when no element of g is larger.
        tolerance_change: end the step when no element of t d, or the change of f, is larger.
        history_size: m, how many pairs are kept.
        line_search_fn: None or "strong_wolfe".
        maximize: climb instead of descend.

    State, of the first parameter: ``func_evals`` and ``n_iter``, how many there were in all; the
    last ``d``, ``t`` and, where d was computed, ``prev_flat_grad`` and ``prev_loss``, which is f;
    the lists ``old_dirs``, y, ``old_stps``, s, and ``ro``, rho; ``H_diag``, gamma; ``al``, the
    alpha of the two loops, filled up with None. d, g, y and s are 1-D, of N elements.

    Raises:
        ValueError: an option out of its range; more than one parameter group.
        TypeError: an option that is no number, or ``history_size`` no integer.
        RuntimeError: a line search that does not exist.
    """

    captures = False

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
        *,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "max_iter": max_iter,
            "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
            "history_size": history_size,
            "line_search_fn": line_search_fn,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def check_group(self, group: Group) -> None:
        """Raise if an option is not valid."""
        super().check_group(group)
        for name, (kind, least, remedy) in _VALID.items():
            value = group[name]
            if not isinstance(value, kind):
                raise TypeError(f"{name} must be {remedy}, but is {value!r}")
            if not value >= least:
                raise ValueError(f"Invalid {name} value: {value}; it must be {remedy}")
        _check_line_search(group["line_search_fn"])

    def add_param_group(self, param_group: Group) -> None:
        """Add the group of parameters.

        Raises:
            ValueError: there is one already: g^T d and y^T s are of all parameters together.
        """
        super().add_param_group(param_group)  # which tells of what is no group
        if len(self.param_groups) > 1:
            self.param_groups.pop()
            raise ValueError("LBFGS doesn't support per-parameter options (parameter groups)")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any]) -> Any:  # type: ignore[override]
        """Take up to ``max_iter`` iterations of algorithm 7.5; the gradients stay as they are.

        Args:
            closure: clears the gradients, evaluates the model anew, calls ``backward`` and returns
                the loss, a float or a tensor of one element.

        Returns:
            What the closure returned when it was called first: the loss before the step.

        Raises:
            TypeError: ``closure`` is none.
            RuntimeError: a line search that does not exist.
        """
        if not callable(closure):
            raise TypeError(
                "LBFGS evaluates the model several times a step: step() needs a closure that "
                f"returns the loss, but got {closure!r}"
            )
        (group,) = self.param_groups
        lr, m, max_iter = group["lr"], group["history_size"], group["max_iter"]
        tolerance_grad, tolerance_change = group["tolerance_grad"], group["tolerance_change"]
        search = group["line_search_fn"]
        _check_line_search(search)
        if isinstance(lr, Tensor):
            lr = lr.squeeze().clone()  # kept as t, while the group's may change in place
        f = _Objective(group["params"], closure, group["maximize"])
        loss = f.closure()
        if not any(f.sizes):
            return loss

        phi, g = f.value(loss), f.gradient()
        state = self.state[group["params"][0]]
        k, evaluated = state.get("n_iter", 0), state.get("func_evals", 0)
        state.update(n_iter=k, func_evals=evaluated + 1)
        done = bool(g.abs().max() <= tolerance_grad)
        Y, S, rho, gamma = (state.get(name) for name in ("old_dirs", "old_stps", "ro", "H_diag"))
        if k > 0 and not done:
            g_last, s = state["prev_flat_grad"], state["d"].mul(state["t"])
        iterations = 0
        while iterations < max_iter and not done:
            iterations, k = iterations + 1, k + 1
            if k == 1:
                Y, S, rho, gamma, d = [], [], [], 1, g.neg()
                t = min(1.0, 1.0 / g.abs().sum()) * lr
            else:
                y = g.sub(g_last)
                ys = y.dot(s)
                if ys > CURVATURE:
                    Y, S, rho = [*Y, y][-m:], [*S, s][-m:], [*rho, 1.0 / ys][-m:]
                    gamma = ys / y.dot(y)
                d, alpha = two_loops(g.neg(), S, Y, rho, gamma)
                state["al"] = alpha + [None] * (m - len(alpha))
                t = lr
            g_last, phi_last = g, phi

            slope = g.dot(d)
            done = bool(slope > -tolerance_change)
            if not done:
                if search and t != 0:
                    start, limit = Point(0, phi, slope, g), group["max_eval"] - f.evaluations
                    t, phi, _, g = strong_wolfe(f.along(d), start, t, d.abs().max(), limit)
                f.move(t, d)
            # Here, so that it fits the parameters even if the closure raises below.
            state.update(zip(_MEMORY, (d, t, Y, S, rho, gamma, g_last, phi_last), strict=True))
            state.update(n_iter=k, func_evals=evaluated + f.evaluations)
            if done or iterations == max_iter:
                break
            if not search:
                phi, g = f.value(f.closure()), f.gradient()
                state["func_evals"] += 1
            s = d.mul(t)
            done = (
                f.evaluations >= group["max_eval"]
                or bool(g.abs().max() <= tolerance_grad)
                or bool(s.abs().max() <= tolerance_change)
                or abs(phi - phi_last) < tolerance_change
            )
        return loss

    def _check_state(self, key: Any, p: Tensor, group: Group, saved: Mapping[str, Any]) -> None:
        """Raise if ``saved`` cannot be the state of ``p`` in ``group``."""
        if p is not group["params"][0] or not saved:
            return
        needed = {"func_evals", "n_iter", *(_MEMORY if saved.get("n_iter") else ())}
        if needed - saved.keys():
            raise ValueError(
                f"the loaded state of parameter {key} lacks {sorted(needed - saved.keys())}, which "
                f"LBFGS needs; it has {sorted(saved)}. Was it saved by another optimizer?"
            )
        for name in ("func_evals", "n_iter"):
            if not isinstance(saved[name], Integral):
                raise ValueError(f"the loaded state {name!r} is no integer but {saved[name]!r}")
        if not saved["n_iter"]:
            return
        lists = [saved[name] for name in ("old_dirs", "old_stps", "ro")]
        if not all(isinstance(x, list) for x in lists) or len({*map(len, lists)}) > 1:
            raise ValueError(
                "the loaded states 'old_dirs', 'old_stps' and 'ro' are no lists of the same "
                "length; the state dict is damaged"
            )
        size = sum(x.numel() for x in _real(group["params"]))
        for name in ("d", "prev_flat_grad", "old_dirs", "old_stps"):
            for x in saved[name] if isinstance(saved[name], list) else [saved[name]]:
                if not isinstance(x, Tensor) or x.shape != (size,):
                    found = tuple(x.shape) if isinstance(x, Tensor) else repr(x)
                    raise ValueError(
                        f"the loaded state {name!r} must have the shape {(size,)}, that of all "
                        f"parameters in a row, but is {found}. Is it another model?"
                    )


class _Objective:
    """f as a function of all parameters in a row.

    Args:
        params: the parameters; they are where f is evaluated.
        closure: evaluates f and its gradient there.
        maximize: whether f is the negative of what the closure returns.
    """

    def __init__(self, params: list[Tensor], closure: Callable[[], Any], maximize: bool) -> None:
        self.params, self.theta = params, _real(params)
        self.sizes = [x.numel() for x in self.theta]
        self._closure, self.maximize = closure, maximize
        self.evaluations = 0

    def closure(self) -> Any:
        """Evaluate; return what the user's closure returns."""
        self.evaluations += 1
        with torch.enable_grad():
            return self._closure()

    def value(self, loss: Any) -> float:
        """Return f, of what the closure returned."""
        return -float(loss) if self.maximize else float(loss)

    def gradient(self) -> Tensor:
        """Return the gradient that the closure left, a new 1-D tensor."""
        rows = []
        for p, x in zip(self.params, self.theta, strict=True):
            g = p.grad
            if g is None:
                rows.append(x.new_zeros(x.numel()))
                continue
            if g.is_sparse:
                g = g.to_dense()
            if g.is_complex():
                g = torch.view_as_real(g.resolve_conj())
            rows.append(g.reshape(-1))
        flat = torch.cat(rows)
        return flat.neg_() if self.maximize else flat

    def move(self, t: Scalar, d: Tensor) -> None:
        """Add t d to the parameters."""
        pieces = [u.view_as(x) for u, x in zip(d.split(self.sizes), self.theta, strict=True)]
        torch._foreach_add_(self.theta, pieces, alpha=t)

    def along(self, d: Tensor) -> Callable[[Scalar], Point]:
        """Return phi(t) = f(x + t d), which leaves the parameters at x, where they are now."""
        x = [u.clone(memory_format=torch.contiguous_format) for u in self.theta]

        def phi(t: Scalar) -> Point:
            self.move(t, d)
            try:
                value, g = self.value(self.closure()), self.gradient()
            finally:
                torch._foreach_copy_(self.theta, x)
            return Point(t, value, g.dot(d), g)

        return phi


def two_loops(
    q: Tensor, S: list[Tensor], Y: list[Tensor], rho: list[Tensor], gamma: Scalar
) -> tuple[Tensor, list[Tensor]]:
    """Return r = H q, where H is the inverse Hessian that the pairs make, and the alphas.

    Algorithm 7.4 of Nocedal and Wright, which takes q = g; with q = -g it gives the direction d::

        for i = k-1, ..., k-m:    alpha_i = rho_i s_i^T q,    q <- q - alpha_i y_i
        r = H^0 q = gamma q
        for i = k-m, ..., k-1:    beta = rho_i y_i^T r,       r <- r + (alpha_i - beta) s_i

    Args:
        q: 1-D; overwritten.
        S: the s_i, from the oldest on, each of the shape of q.
        Y: the y_i.
        rho: the 1 / y_i^T s_i, 0-dim.
        gamma: of H^0 = gamma I.
    """
    alpha = []
    for s, y, rho_i in zip(reversed(S), reversed(Y), reversed(rho), strict=True):
        alpha.append(s.dot(q) * rho_i)
        q.add_(y, alpha=-alpha[-1].item())
    alpha.reverse()
    r = q.mul(gamma)
    for s, y, rho_i, alpha_i in zip(S, Y, rho, alpha, strict=True):
        beta = y.dot(r) * rho_i
        r.add_(s, alpha=(alpha_i - beta).item())
    return r, alpha


def strong_wolfe(
    phi: Callable[[Scalar], Point],
    start: Point,
    t: Scalar,
    longest: Tensor,
    limit: float,
) -> Point:
    """Return a point that satisfies the strong Wolfe conditions, or the best found on the way.

    Algorithm 3.5 of Nocedal and Wright: try longer and longer t, until the conditions hold, ::

        phi(t) <= phi(0) + c1 t phi'(0)        |phi'(t)| <= -c2 phi'(0)                  (3.7)

    or until the last two t are known to have such a point between them: because phi(t) is above
    the first condition's line, or no lower than before, or phi'(t) >= 0. Algorithm 3.6 then finds
    it. The next t is where the cubic through the last two is lowest, in [1.01 t, 10 t] about.
    Differs from the book, as torch does, in that "no lower than before" counts from the third t.

    Args:
        phi: the function; only defined for t >= 0.
        start: phi at 0; its slope is negative.
        t: where to begin.
        longest: the largest |d_i|, by which differences of t become those of x.
        limit: how often phi may be evaluated after the first time.
    """
    last, point = start, phi(t)
    tried = 0
    while tried < limit:
        if _is_high(point, start) or (tried > 1 and point.phi >= last.phi):
            break
        if _is_flat(point, start):
            return point
        if point.slope >= 0:
            break
        t = point.t
        t_next = cubic_minimum(last, point, (t + 0.01 * (t - last.t), t * 10))
        last, point = point, phi(t_next)
        tried += 1
    else:
        last = start
    return _zoom(phi, start, [last, point], longest, limit - tried)


def _zoom(
    phi: Callable[[Scalar], Point],
    start: Point,
    bracket: list[Point],
    longest: Tensor,
    limit: float,
) -> Point:
    """Return a point between the two of ``bracket`` that satisfies the strong Wolfe conditions.

    Algorithm 3.6 of Nocedal and Wright. One end of the bracket is low: the lowest so far, from
    where phi falls into the bracket. Where the limit or the bracket's width ends the search, the
    low end is returned. Differs from the book, as torch does, in that the low end of the bracket
    handed in may violate the first condition, so that a first t much too long may end there.
    """
    low, crept = _lower(bracket), False
    while limit > 0 and not abs(bracket[1].t - bracket[0].t) * longest < NARROW:
        limit -= 1
        t, crept = _trial(bracket[0], bracket[1], crept)
        point, high = phi(t), 1 - low
        if _is_high(point, start) or point.phi >= bracket[low].phi:
            bracket[high] = point
            low = _lower(bracket)
            continue
        if _is_flat(point, start):
            return point
        if point.slope * (bracket[high].t - bracket[low].t) >= 0:
            bracket[high] = bracket[low]
        bracket[low] = point
    return bracket[low]


def _is_high(point: Point, start: Point) -> bool:
    return bool(point.phi > start.phi + C1 * point.t * start.slope)


def _is_flat(point: Point, start: Point) -> bool:
    return bool(abs(point.slope) <= -C2 * start.slope)


def _lower(bracket: list[Point]) -> int:
    return 0 if bracket[0].phi <= bracket[1].phi else 1


def _trial(a: Point, b: Point, crept: bool) -> tuple[Scalar, bool]:
    """Return the next t to try between a and b, and whether it creeps along an end of them.

    It may come within a tenth of the bracket to an end once, but not twice in a row.
    """
    t, least, most = cubic_minimum(a, b), min(a.t, b.t), max(a.t, b.t)
    margin = 0.1 * (most - least)
    if not min(most - t, t - least) < margin:
        return t, False
    if not (crept or t >= most or t <= least):
        return t, True
    return (most - margin if abs(t - most) < abs(t - least) else least + margin), False


def cubic_minimum(a: Point, b: Point, bounds: tuple[Scalar, Scalar] | None = None) -> Scalar:
    """Return where the cubic with the values and slopes of phi at a and b is lowest.

    Equation 3.59 of Nocedal and Wright, for a.t <= b.t::

        d1 = phi'(a) + phi'(b) - 3 (phi(a) - phi(b)) / (a - b)
        d2 = sqrt(d1^2 - phi'(a) phi'(b))
        t  = b - (b - a) (phi'(b) + d2 - d1) / (phi'(b) - phi'(a) + 2 d2)

    Args:
        a: a point.
        b: another; either may be the left one.
        bounds: what t is clamped to, and the middle of which is returned where the cubic has no
            minimum; default: a and b.
    """
    if not a.t <= b.t:
        a, b = b, a
    least, most = bounds or (a.t, b.t)
    d1 = a.slope + b.slope - 3 * (a.phi - b.phi) / (a.t - b.t)
    square = d1**2 - a.slope * b.slope
    if not square >= 0:
        return (least + most) / 2.0
    d2 = square.sqrt()
    t = b.t - (b.t - a.t) * ((b.slope + d2 - d1) / (b.slope - a.slope + 2 * d2))
    return min(max(t, least), most)


def _real(params: list[Tensor]) -> list[Tensor]:
    """Return the parameters, complex ones as views with a last dimension of 2."""
    return [torch.view_as_real(p) if p.is_complex() else p for p in params]


def _check_line_search(name: Any) -> None:
    if name not in (None, "strong_wolfe"):
        raise RuntimeError(
            "only 'strong_wolfe' is supported, or None for steps of a fixed length, but "
            f"line_search_fn is {name!r}"
        )
