"""What the equation does: moments, rates, ratios, step by step, to TensorBoard or any function.

    handle = explain(optimizer, to_tensorboard(SummaryWriter("runs/a")), every=100)
    ...                                                     train as ever
    handle.remove()                                         and nothing of it is left

Every so many steps, by torch's hooks around ``step``, two things are looked at.

*The step itself*, of any optimizer, torch's too, from the parameters before and after it. With
d = theta_t - theta_{t-1}, g the gradient of what is minimized, and RMS the root mean square over
the elements of a group (complex ones count as two):

=======================  ===========================================================
``weight_rms``           RMS(theta_{t-1})
``gradient_rms``         RMS(g_t)
``update_rms``           RMS(d)
``update_to_weight``     |d| / |theta_{t-1}|
``update_to_gradient``   |d| / |g_t|: the learning rate with which plain gradient
                         descent would take a step of this length
``cosine``               -d^T g_t / (|d| |g_t|): 1 where the step goes down the
                         gradient, below 0 where momentum carries it up
``decay_share``          |d - d'| / |d|, where d' is the step without this step's
                         weight decay, both in float64; of the optimizers of this
                         library, where ``weight_decay`` is not 0
=======================  ===========================================================

*The equation*, of the optimizers of this library and those written like them: it is run once more
for each parameter, as a for-loop on copies of parameter, gradient and state, and what it calls m,
v, root, ... is read from its own local variables (:func:`trial`). So nothing is written twice, an
optimizer that nobody has thought of is explained too, and nothing that is trained is touched. What
is derived from these names, such as m^_t = m_t / (1 - beta1^t), is said by :data:`QUANTITIES`.

==============================  ==================================================
Adam, AdamW, LAMB, SparseAdam   ``m_hat_rms``, ``v_hat_rms``, ``rate``
NAdam                           the same; m_hat is what its two summands make
RAdam                           the same, and ``rectification``: r_t, 0 until it rectifies
Adamax                          ``m_hat_rms``, ``u_rms``, ``rate``
RMSprop, Adagrad                ``v_rms``, with momentum ``b_rms``; ``s_rms``; ``rate``
LARS, LAMB                      ``trust_ratio``: the local rate of a layer, where it has one
Adafactor                       ``alpha``, ``clip_factor``: 1 / max(1, RMS(u) / d); ``u_rms``
Rprop                           ``step_size``; ``grow_share`` and ``shrink_share`` of elements
Muon                            ``u_rms``, ``o_rms``, ``singular_value``: of o, all 1 if it is
                                orthogonal; for what AdamW updates, what AdamW has
ASGD                            ``eta``, ``mu``, ``a_rms``
all others                      the RMS of every tensor that the equation gives a name
==============================  ==================================================

``rate`` is the factor of each element between m_hat (or the gradient, where there is no m_hat) and
its change, lr / (sqrt(v_hat) + eps) for Adam. Rates, step sizes, singular values and trust ratios
are shown by ``_min``, ``_q05``, ``_q50``, ``_q95`` and ``_max``, which are elements of the group
(or singular values, or layers of it); of more than 2**20 elements every k-th. Without an equation
(LBFGS, torch's optimizers, a class with a ``step`` of its own) there is only the first table, but
for its last row.
"""

from __future__ import annotations

import copy
import inspect
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import CodeType, FrameType
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from .adafactor import Adafactor, _rms
from .adagrad import Adagrad
from .adam import Adam
from .adamax import Adamax
from .asgd import ASGD
from .lamb import LAMB
from .lars import LARS
from .muon import Muon
from .nadam import NAdam
from .optimizer import _WAYS, Group, Optimizer
from .radam import RAdam
from .rmsprop import RMSprop
from .rprop import Rprop
from .sparse_adam import SparseAdam
from .swa_utils import Lookahead
from .tensors import choose

__all__ = ["QUANTITIES", "Explanation", "Quantiles", "explain", "to_tensorboard"]

Write: TypeAlias = Callable[[dict[str, float], int], object]
"""Takes values by tag, ``GROUP/QUANTITY`` or ``GROUP/PARAMETER/QUANTITY``, and the step."""

Quantities: TypeAlias = Callable[..., Mapping[str, Any]]
"""Takes the local variables of an equation at its end, by name, tensors in float64; returns by name
tensors, whose RMS is shown (of bools, the share that is true), numbers, and :class:`Quantiles`."""

SAMPLE = 2**20
"""Elements of a group from which quantiles are taken, about, where it has more."""

POINTS = {"min": 0.0, "q05": 0.05, "q50": 0.5, "q95": 0.95, "max": 1.0}
"""Suffixes of the quantiles."""


@dataclass(frozen=True)
class Quantiles:
    """Values of which the smallest, the largest and quantiles are to be shown."""

    values: Tensor | float


def explain(
    optimizer: torch.optim.Optimizer,
    write: Write,
    every: int = 100,
    *,
    groups: Sequence[str] | None = None,
    parameters: Iterable[tuple[str, Tensor]] = (),
    quantities: Quantities | None = None,
    taken: int = 0,
) -> Explanation:
    """Tell, every so many steps, what the steps of an optimizer do.

    Training goes on with the same bits: gradients, state, random numbers and the optimizer's own
    plans are only read. A step that is explained takes several times as long; others, the call of
    an empty function. What is trained through a closure is looked at when the closure has run, for
    LBFGS, when it has run first. Steps that ``GradScaler`` skips are not explained, nor are those
    while a CUDA graph is captured, of which a replay calls no hooks. A :class:`Lookahead` is
    explained by the optimizer that it wraps. Copies of the optimizer are not explained.

    A hook that changes gradients and is registered later is not seen.

    Args:
        optimizer: one of this library or of torch's, or any that derives from them.
        write: is given the values and the number of the step, see :data:`Write`. Values that are
            not defined, as |d| / |theta| where both are 0, are nan.
        every: explain the steps whose number is a multiple of this.
        groups: names for the parameter groups. Default: what a group has under ``"name"``, or its
            number.
        parameters: pairs of name and parameter that are explained one by one too, such as
            ``model.named_parameters()``.
        quantities: what to derive from the names in the equation, in place of what
            :data:`QUANTITIES` has for the class.
        taken: steps taken before, where training goes on.

    Returns:
        A handle, by which to end it; a context manager too.

    Raises:
        TypeError: ``optimizer`` is none, or ``write`` no function.
        ValueError: ``every`` is not a whole number above 0, there are not as many names as groups,
            or a parameter is cut over processes.
    """
    if isinstance(optimizer, Lookahead):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"explain needs an optimizer, but got {type(optimizer).__name__}")
    if not callable(write):
        raise TypeError(
            f"explain needs a function to give the values to, but got {type(write).__name__}; for "
            "a SummaryWriter hand in to_tensorboard(writer)"
        )
    if not isinstance(every, int) or every < 1:
        raise ValueError(f"every must be a whole number of steps, 1 or more, but is {every!r}")
    if groups is not None and len(groups) != len(optimizer.param_groups):
        raise ValueError(
            f"there are {len(groups)} names {list(groups)} for {len(optimizer.param_groups)} "
            "parameter groups; give one for each"
        )
    for group in optimizer.param_groups:
        for p in group["params"]:
            _check_kind(p)
    names = {p: name for name, p in parameters}
    return Explanation(optimizer, write, every, groups or (), names, quantities, taken)


def to_tensorboard(writer: Any, prefix: str = "explain") -> Write:
    """Return a function for :func:`explain` that writes scalars ``prefix/GROUP/QUANTITY``.

    Args:
        writer: a ``SummaryWriter`` of torch or tensorboardX, or what else has ``add_scalar(tag,
            value, step)``.
        prefix: of the tags.

    Raises:
        TypeError: ``writer`` has no ``add_scalar``.
    """
    if not hasattr(writer, "add_scalar"):
        raise TypeError(
            f"to_tensorboard needs a SummaryWriter, but {type(writer).__name__} has no add_scalar"
        )

    def write(values: dict[str, float], step: int) -> None:
        for tag, value in values.items():
            writer.add_scalar(f"{prefix}/{tag}", value, step)

    return write


class Explanation:
    """What :func:`explain` returns: the hooks, and what they have seen of the present step."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        write: Write,
        every: int,
        groups: Sequence[str],
        parameters: dict[Tensor, str],
        quantities: Quantities | None,
        taken: int,
    ) -> None:
        self.write, self.every, self.groups = write, every, groups
        self.parameters, self.quantities, self.taken = parameters, quantities, taken
        self._seen: list[_Seen] = []
        self._notes: dict[str, Any] = {}
        self._hooks = (
            optimizer.register_step_pre_hook(self._before),
            optimizer.register_step_post_hook(self._after),
        )

    def note(self, **values: float | Tensor) -> None:
        """Add numbers of the coming step that the optimizer cannot know; tensors of one element.

        Such as the factor by which gradients have been clipped::

            norm = clip_grad_norm_(model.parameters(), 1.0)
            handle.note(clip_factor=clip_factor(1.0, norm))
            optimizer.step()
        """
        self._notes.update(values)

    def remove(self) -> None:
        """End it: the optimizer is as if it had never been explained."""
        for hook in self._hooks:
            hook.remove()
        self._seen, self._notes, self.parameters = [], {}, {}

    def __enter__(self) -> Explanation:
        return self

    def __exit__(self, *error: object) -> None:
        self.remove()

    def _before(
        self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any
    ) -> tuple[Any, Any] | None:
        self.taken += 1
        self._seen = []
        if self.taken % self.every:
            return None
        _, closure = (*args, kwargs.get("closure"))[:2]
        if closure is None:
            self._look(optimizer)
            return None

        def evaluated() -> Any:
            loss = closure()
            if not self._seen:
                self._look(optimizer)
            return loss

        rest = {key: value for key, value in kwargs.items() if key != "closure"}
        return (args[0], evaluated), rest

    @torch.no_grad()
    def _look(self, optimizer: torch.optim.Optimizer) -> None:
        """Keep what the step is about to overwrite, and what the equation says of it."""
        found_inf = getattr(optimizer, "found_inf", None)  # set by GradScaler
        if _is_capturing() or (found_inf is not None and found_inf.item()):
            return
        for number, group in enumerate(optimizer.param_groups):
            updated = [p for p in group["params"] if p.grad is not None and p.numel()]
            stride = math.ceil(sum(p.numel() for p in updated) / SAMPLE)
            for p in updated:
                _check_kind(p)
                own: dict[str, _Mean | Tensor] = {}
                if isinstance(optimizer, Optimizer) and has_equation(optimizer):
                    own = _inside(optimizer, group, p, self.quantities, stride)
                g = _gradient(optimizer, group, p)
                self._seen.append(_Seen(number, p, _real(p.detach()).clone(), g, own))

    def _after(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        if self._seen:
            self.write(self._told(optimizer), self.taken)
            self._seen = []
        self._notes = {}

    @torch.no_grad()
    def _told(self, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """Return what there is to say of the step that was taken."""
        values = dict(self._notes)
        for number, group in enumerate(optimizer.param_groups):
            name = str(group.get("name", number))
            if number < len(self.groups):
                name = self.groups[number]
            of = [x for x in self._seen if x.group == number]
            if of:
                values |= {f"{name}/{key}": x for key, x in _summary(of).items()}
            for x in of:
                if x.p in self.parameters:
                    place = f"{name}/{self.parameters[x.p]}"
                    values |= {f"{place}/{key}": y for key, y in _summary([x]).items()}
        return _fetched(values)


# ------------------------------------------------------------------ the equation once more


class Trial(NamedTuple):
    """A step that was taken on copies."""

    theta: Tensor
    """The parameter after it."""
    names: dict[str, Any]
    """The local variables of the equation when it had ended; empty if it changed nothing."""
    assigned: frozenset[str]
    """Those of them that are no arguments."""


class _Watched(Tensor):
    """A parameter that remembers who changed it: the frame of the equation."""

    frame: FrameType | None = None

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = func.__name__
        if name.endswith("_") and not name.startswith("__") and isinstance(args[0], _Watched):
            args[0].frame = sys._getframe(1)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


class _Twin:
    """An optimizer that has other parameters than the original, and all else from it.

    Not by a copy of ``vars(original)``: CPython keeps the attributes of an object in a quicker form
    until somebody asks for their dict, and a step of a small model takes 2 % longer after that.
    """

    original: Optimizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.original, name)


@cache
def _twin_of(cls: type[Any]) -> type[Any]:
    return type(cls.__name__, (_Twin, cls), {})


def has_equation(optimizer: Optimizer) -> bool:
    """Whether a step is what :class:`Optimizer` makes of an equation."""
    cls = type(optimizer)
    own_step = inspect.unwrap(cls.step) is not inspect.unwrap(Optimizer.step)
    return cls.update is not Optimizer.update and not own_step


@torch.no_grad()
def trial(
    optimizer: Optimizer, group: Group, p: Tensor, *, wide: bool = False, **changes: Any
) -> Trial:
    """Take the coming step of one parameter, as a for-loop, on copies.

    The optimizer takes it itself, or rather a twin that has another parameter, state and plan: so
    that step counts, sparse and complex gradients, and what a subclass does, are its own ways.

    Args:
        optimizer: one with an equation.
        group: one of its groups.
        p: a parameter of the group, with a gradient.
        wide: compute in float64, or complex128.
        changes: options other than those of the group.

    Raises:
        RuntimeError: the gradient is of a kind that the optimizer does not take.
    """
    theta = _copied(p, wide)
    theta.grad = None if p.grad is None else _copied(p.grad, wide)
    state = optimizer.state.get(p, {})
    kind: Any = type(optimizer)
    twin: Any = object.__new__(_twin_of(kind))
    twin.original = optimizer
    twin.param_groups = [{**group, **dict.fromkeys(_WAYS, False), **changes, "params": [theta]}]
    twin.state = defaultdict(dict, {theta: {name: _copied(x, wide) for name, x in state.items()}})
    twin._plans = {}
    names: dict[str, Any] = {}
    arguments: set[str] = set()

    def update(theta: Tensor, *operands: Any, **options: Any) -> None:
        watched = theta.as_subclass(_Watched)
        optimizer.update(watched, *operands, **options)
        frame, watched.frame = watched.frame, None
        if frame is not None:
            names.update(frame.f_locals)
            arguments.update(_arguments(frame.f_code))

    twin.update = update
    plan, grads = twin._plan(twin.param_groups[0])
    twin._carry_out(plan, grads, twin.param_groups[0], None)
    return Trial(theta, names, frozenset(names.keys() - arguments))


def _arguments(code: CodeType) -> tuple[str, ...]:
    variadic = (inspect.CO_VARARGS, inspect.CO_VARKEYWORDS)
    count = code.co_argcount + code.co_kwonlyargcount
    return code.co_varnames[: count + sum(bool(code.co_flags & flag) for flag in variadic)]


def _inside(
    optimizer: Optimizer, group: Group, p: Tensor, quantities: Quantities | None, stride: int
) -> dict[str, _Mean | Tensor]:
    """Return what the equation says of a parameter, reduced to what its group needs of it."""
    tried = trial(optimizer, group, p)
    names = {name: _wide(x) for name, x in tried.names.items()}
    if quantities is None:
        cls = next((kind for kind in type(optimizer).__mro__ if kind in QUANTITIES), None)
        quantities = QUANTITIES[cls] if cls is not None else None
    if not names:
        found: Mapping[str, Any] = {}
    elif quantities is not None:
        found = quantities(**names)
    else:
        found = {n: names[n] for n in sorted(tried.assigned) if isinstance(names[n], Tensor)}
    result = dict(_reduced(name, x, p, stride) for name, x in found.items())
    if group.get("weight_decay"):
        before = _wide(p)
        whole = _wide(trial(optimizer, group, p, wide=True).theta)
        without = _wide(trial(optimizer, group, p, wide=True, weight_decay=0).theta)
        owed, all_of_it = _square(whole - without), _square(whole - before)
        result["decay_share"] = _Mean(owed, all_of_it, root=True)
    return result


# ------------------------------------------------------------------ what is derived of the names


def _adam(*, t: Any, m: Tensor, v: Tensor, root: Tensor, lr: Any, **x: Any) -> dict[str, Any]:
    m_hat, v_hat = m / (1 - x["beta1"] ** t), v / (1 - x["beta2"] ** t)
    return {"m_hat": m_hat, "v_hat": v_hat, "rate": Quantiles(lr / root)}


def _sparse_adam(*, t: Any, m: Tensor, v: Tensor, lr: Any, eps: float, **x: Any) -> dict[str, Any]:
    c1, c2 = 1 - x["beta1"] ** t, 1 - x["beta2"] ** t
    rate = lr * c2**0.5 / (v.sqrt() + eps)
    return {"m_hat": m / c1, "v_hat": v / c2, "rate": Quantiles(rate)}


def _nadam(*, t: Any, g: Tensor, m: Tensor, v: Tensor, lr: Any, **x: Any) -> dict[str, Any]:
    mu, mu_next, product = x["mu"], x["mu_next"], x["product"]
    m_hat = g * (1 - mu) / (1 - product) + m * mu_next / (1 - product * mu_next)
    return {"m_hat": m_hat, "v_hat": v / (1 - x["beta2"] ** t), "rate": Quantiles(lr / x["r"])}


def _radam(*, t: Any, m: Tensor, v: Tensor, lr: Any, **x: Any) -> dict[str, Any]:
    rectified, r = x["rectified"], x["r"]
    return {
        "m_hat": m / (1 - x["beta1"] ** t),
        "v_hat": v / (1 - x["beta2"] ** t),
        "rectification": choose(rectified, r, 0.0),
        "rate": Quantiles(lr * x["l"] * choose(rectified, r, 1.0)),
    }


def _adamax(*, t: Any, m: Tensor, u: Tensor, lr: Any, beta1: Any, **_: Any) -> dict[str, Any]:
    return {"m_hat": m / (1 - beta1**t), "u": u, "rate": Quantiles(lr / u)}


def _rmsprop(*, v: Tensor, r: Tensor, lr: Any, **x: Any) -> dict[str, Any]:
    velocity = {"b": x["b"]} if "b" in x else {}
    return {"v": v, **velocity, "rate": Quantiles(lr / r)}


def _adagrad(*, t: Any, s: Tensor, lr: Any, lr_decay: float, eps: float, **_: Any) -> Any:
    return {"s": s, "rate": Quantiles(lr / (1 + (t - 1) * lr_decay) / (s.sqrt() + eps))}


def _lars(*, v: Tensor, lr: Any, **x: Any) -> dict[str, Any]:
    # the equation leaves lr local under the name of local
    return {"v": v, **({"trust_ratio": Quantiles(x["local"] / lr)} if "local" in x else {})}


def _lamb(*, m: Tensor, v: Tensor, root: Tensor, lr: Any, **x: Any) -> dict[str, Any]:
    moments = {"m_hat": m / x["c1"], "v_hat": v / x["c2"]}
    if "ratio" not in x:
        return {**moments, "rate": Quantiles(lr / root)}
    ratio = x["ratio"]
    return {**moments, "trust_ratio": Quantiles(ratio), "rate": Quantiles(lr * ratio / root)}


def _adafactor(*, u: Tensor, alpha: float, d: float, **_: Any) -> dict[str, Any]:
    return {"u": u, "alpha": alpha, "clip_factor": Quantiles(1 / max(1.0, _rms(u, d)))}


def _rprop(*, delta: Tensor, grow: Tensor, shrink: Tensor, **_: Any) -> dict[str, Any]:
    return {"step_size": Quantiles(delta), "grow": grow, "shrink": shrink}


def _muon(**x: Any) -> Mapping[str, Any]:
    if "o" not in x:
        return _adam(**x)
    o = x["o"].flatten(1)
    o = o if o.size(0) <= o.size(1) else o.mT
    # of o o^T: a fifteenth of the time of svdvals for 512 by 4608
    s = torch.linalg.eigvalsh(o @ o.mT).clamp_min(0).sqrt()
    return {"u": x["u"], "o": x["o"], "singular_value": Quantiles(s)}


def _asgd(*, eta: float, mu: float, a: Tensor, **_: Any) -> dict[str, Any]:
    return {"eta": eta, "mu": mu, "a": a}


QUANTITIES: dict[type[Optimizer], Quantities] = {
    Adam: _adam,
    SparseAdam: _sparse_adam,
    NAdam: _nadam,
    RAdam: _radam,
    Adamax: _adamax,
    RMSprop: _rmsprop,
    Adagrad: _adagrad,
    LARS: _lars,
    LAMB: _lamb,
    Adafactor: _adafactor,
    Rprop: _rprop,
    Muon: _muon,
    ASGD: _asgd,
}
"""What to derive from the names in the equation of a class and of those that inherit from it. Of
classes that are not here every tensor is shown that the equation gives a name."""


# ------------------------------------------------------------------ summaries


@dataclass(frozen=True)
class _Mean:
    """A sum by another, or the root of that: of numbers by their count, their mean."""

    total: Tensor
    """0-dim."""
    count: Tensor | int
    root: bool = False


@dataclass(frozen=True)
class _Seen:
    """What is known of a parameter before its step."""

    group: int
    p: Tensor
    before: Tensor
    """Its value then."""
    g: Tensor
    """Its gradient: dense, unscaled, of what is minimized."""
    own: dict[str, _Mean | Tensor]
    """What the equation says; the values for quantiles as vectors."""


def _reduced(name: str, x: Any, p: Tensor, stride: int) -> tuple[str, _Mean | Tensor]:
    """Return a quantity under its full name, as the sum or the sample that its group needs."""
    if isinstance(x, Quantiles):
        values = torch.as_tensor(x.values, dtype=_dtype(p), device=p.device).flatten()
        whole = values.numel() != _real(p).numel()  # not of the elements, but of layers and such
        return name, values if whole else values[::stride]
    if not isinstance(x, Tensor):
        return name, _Mean(torch.tensor(float(x), dtype=_dtype(p), device=p.device), 1)
    if x.dtype == torch.bool:
        return f"{name}_share", _Mean(x.sum().to(_dtype(x)), x.numel())
    return f"{name}_rms", _Mean(_square(x), x.numel(), root=True)


def _summary(seen: list[_Seen]) -> dict[str, Tensor]:
    """Return the values of some parameters together: 0-dim, on the device of the first."""
    device, n = seen[0].before.device, sum(x.before.numel() for x in seen)
    sums = torch.stack([_sums(x).to(device) for x in seen]).sum(0)
    weight, gradient, change, along = sums.unbind()
    values = {
        "weight_rms": (weight / n).sqrt(),
        "gradient_rms": (gradient / n).sqrt(),
        "update_rms": (change / n).sqrt(),
        "update_to_weight": (change / weight).sqrt(),
        "update_to_gradient": (change / gradient).sqrt(),
        "cosine": -along / change.sqrt() / gradient.sqrt(),
    }
    for name in dict.fromkeys(name for x in seen for name in x.own):
        parts = [x.own[name] for x in seen if name in x.own]
        means = [part for part in parts if isinstance(part, _Mean)]
        samples = [part.to(device) for part in parts if isinstance(part, Tensor)]
        if means:
            total, count = (
                sum(torch.as_tensor(x, device=device) for x in row)
                for row in zip(*[(part.total, part.count) for part in means], strict=True)
            )
            mean = torch.as_tensor(total / count)
            values[name] = mean.sqrt() if means[0].root else mean
        else:
            ordered = torch.cat(samples).sort().values
            for suffix, q in POINTS.items():
                values[f"{name}_{suffix}"] = ordered[round(q * (len(ordered) - 1))]
    return values


def _sums(x: _Seen) -> Tensor:
    """Return the squares of parameter, gradient and change, and the last two's product, (4,)."""
    before, g, after = (_wide(y).flatten() for y in (x.before, x.g, _real(x.p.detach())))
    change = after - before
    return torch.stack([_square(before), _square(g), _square(change), change.dot(g)])


def _fetched(values: Mapping[str, float | Tensor]) -> dict[str, float]:
    """Return the values as numbers, waiting for each device once."""
    tags: defaultdict[torch.device, list[str]] = defaultdict(list)
    for tag, x in values.items():
        if isinstance(x, Tensor):
            tags[x.device].append(tag)
    found: dict[str, float] = {}
    for of in tags.values():
        row = torch.stack([_wide(x).reshape(()) for x in map(values.__getitem__, of)])
        found |= dict(zip(of, row.tolist(), strict=True))
    return {tag: found[tag] if tag in found else float(x) for tag, x in values.items()}


# ------------------------------------------------------------------ tensors


def _gradient(optimizer: torch.optim.Optimizer, group: Group, p: Tensor) -> Tensor:
    """Return a copy of the gradient of what is minimized, dense, without GradScaler's factor."""
    assert p.grad is not None
    g = p.grad.detach()
    g = _real(g.to_dense() if g.is_sparse else g).clone()
    scale = getattr(optimizer, "grad_scale", None)
    if scale is not None:
        g = _wide(g) / scale.to(g.device)
    return g.neg_() if group.get("maximize") else g


def _check_kind(p: Tensor) -> None:
    if type(p) not in (Tensor, torch.nn.Parameter) and not is_lazy(p):
        raise ValueError(
            f"explain does not support parameters of type {type(p).__name__}, such as those that "
            "are cut over several processes: explain the training in one process, or with "
            "DistributedDataParallel, whose parameters are whole"
        )


def _is_capturing() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def _dtype(x: Tensor) -> torch.dtype:
    """Return the dtype to sum in: MPS devices have no float64."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def _copied(x: Any, wide: bool) -> Any:
    """Return a copy; of numbers with a fraction, if asked for, in float64 or complex128."""
    if not isinstance(x, Tensor):
        return copy.deepcopy(x)
    if wide and (x.is_floating_point() or x.is_complex()):
        return x.detach().to(torch.promote_types(x.dtype, _dtype(x)), copy=True)
    return x.detach().clone()


def _real(x: Tensor) -> Tensor:
    """Return a complex tensor as a real one with a last dimension of 2."""
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def _wide(x: Any) -> Any:
    """Return a tensor as dense, real and float64; bools, and what is no tensor, as they are."""
    if not isinstance(x, Tensor) or x.dtype == torch.bool:
        return x
    x = x.detach()
    return _real(x.to_dense() if x.is_sparse else x).to(_dtype(x))


def _square(x: Tensor) -> Tensor:
    """Return the sum of the squares."""
    return torch.linalg.vector_norm(x, dtype=_dtype(x)).square()
