"""Learning rates as functions of time.

A schedule is a function of the number t of steps taken, mostly a factor f(t) of the learning rate
lr_0 that the group began with. It can be computed in two ways:

    lr_t = lr_0 f(t)                       the closed form
    lr_t = lr_{t-1} f(t) / f(t-1)          the recursion

Both give the same numbers, up to rounding, as long as nobody else changes the learning rate. The
recursion exists for chaining: it asks for the rate of now and multiplies it by how much f has
changed, so that several schedulers, and a user, can work on one optimizer, each leaving standing
what the others did. The closed form exists for ``step(epoch)``, which goes to any t at once.
Schedulers that have a recursion in torch use it here for ``step()``, since it has other bits.

Under every class stand its equations, f(t) first, in the symbols of its arguments. t is
``last_epoch``, and is 0 before the first step of the optimizer. A step is whatever lies between two
calls of ``step()``: an epoch or a batch.
"""

from __future__ import annotations

import math
import os
import sys
import types
import warnings
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, Literal, SupportsFloat, TypeAlias
from weakref import ref

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import EPOCH_DEPRECATION_WARNING

from .optimizer import Group, StateDict, _eager_only

__all__ = [
    "EPOCH_DEPRECATION_WARNING",
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "InverseTimeLR",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
    "WarmupCosineLR",
    "WarmupLinearLR",
    "WarmupStableDecayLR",
    "_LRScheduler",
]

Rate: TypeAlias = float | Tensor

_INSIDE = (os.path.dirname(torch.__file__), __file__)
"""Files whose lines no warning should point at."""

_HOW_TO = "https://pytorch.org/docs/stable/optim.html#how-to-adjust-learning-rate"


class LRScheduler(torch.optim.lr_scheduler.LRScheduler):
    """Base class: keeps t, and writes into the parameter groups what :meth:`get_lr` returns.

    Agrees with ``torch.optim.lr_scheduler.LRScheduler``, from which it inherits for identity alone.
    Differs in that a NaN, or a number of rates that is not that of the groups, is refused before a
    group is changed.

    Args:
        optimizer: whose learning rates to set. A learning rate that is a tensor is filled in place.
        last_epoch: t of the last step taken, -1 if there was none. Otherwise every group must have
            an ``initial_lr``.

    Attributes:
        last_epoch: t.
        base_lrs: lr_0 of each group.

    Raises:
        TypeError: ``optimizer`` is none.
        KeyError: ``last_epoch`` is given and a group has no ``initial_lr``.
    """

    _get_lr_called_within_step = False
    _is_initial = False

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        _check_optimizer(optimizer)
        self.optimizer = optimizer
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch == -1:
                group.setdefault("initial_lr", _copy(group["lr"]))
            elif "initial_lr" not in group:
                raise KeyError(
                    f"param 'initial_lr' is not specified in param_groups[{i}] when resuming "
                    "scheduler with last_epoch >= 0.\nThis typically happens when:\n"
                    "1. You're trying to resume training from a checkpoint but haven't properly "
                    "loaded the optimizer state\n"
                    "2. You're using last_epoch >= 0 for a fresh training run (not recommended)"
                )
        self.base_lrs: list[Rate] = _values(optimizer, "initial_lr")
        self.last_epoch = last_epoch
        _watch_step(optimizer)
        self._initial_step()

    def _initial_step(self) -> None:
        self._step_count = 0
        with _during(self, "_is_initial"):
            self.step()

    def get_lr(self) -> list[Rate]:
        """Return the learning rate of each group at ``last_epoch``; called by :meth:`step`."""
        raise NotImplementedError

    def get_last_lr(self) -> list[Rate]:
        """Return the learning rate of each group that was set last."""
        return self._last_lr

    @_eager_only
    def step(self, epoch: int | None = None) -> None:
        """Advance t by one and set the learning rates; to be called after ``optimizer.step()``.

        Args:
            epoch: t to go to, by the closed form where there is one. Deprecated by torch.
        """
        if self._step_count == 1:
            if not hasattr(self.optimizer.step, "_wrapped_by_lr_sched"):
                _warn(
                    "Seems like `optimizer.step()` has been overridden after learning rate "
                    "scheduler initialization. Please, make sure to call `optimizer.step()` before "
                    f"`lr_scheduler.step()`. See more details at {_HOW_TO}"
                )
            elif not getattr(self.optimizer, "_opt_called", False):
                _warn(
                    "Detected call of `lr_scheduler.step()` before `optimizer.step()`. "
                    "In PyTorch 1.1.0 and later, you should call them in the opposite order: "
                    "`optimizer.step()` before `lr_scheduler.step()`.  Failure to do this will "
                    "result in PyTorch skipping the first value of the learning rate schedule. "
                    f"See more details at {_HOW_TO}"
                )
        self._step_count += 1
        if epoch is not None:
            _warn(EPOCH_DEPRECATION_WARNING)
        self._update_lr(epoch)

    def _update_lr(self, epoch: int | None = None) -> None:
        with _during(self, "_get_lr_called_within_step"):
            compute = self.get_lr
            if epoch is None:
                self.last_epoch += 1
            else:
                self.last_epoch = epoch
                compute = getattr(self, "_get_closed_form_lr", compute)
            lrs = list(compute())
        groups = self.optimizer.param_groups
        if len(lrs) != len(groups):
            raise ValueError(
                f"{type(self).__name__} has learning rates for {len(lrs)} parameter groups, but "
                f"the optimizer has {len(groups)}. If a group was added after the scheduler was "
                "made, make a new scheduler, or append to the scheduler's lists, such as base_lrs"
            )
        for i, lr in enumerate(lrs):
            if not isinstance(lr, Tensor) and lr != lr:
                raise ValueError(
                    f"{type(self).__name__} computed {lr} as the learning rate of "
                    f"param_groups[{i}] at last_epoch={self.last_epoch}; look at its factors, and "
                    "at the learning rate before it"
                )
        for group, lr in zip(groups, lrs, strict=True):
            _set(group, "lr", lr)
        self._last_lr: list[Rate] = _values(self.optimizer, "lr")

    def state_dict(self) -> StateDict:
        """Return all attributes but the optimizer."""
        return {key: value for key, value in self.__dict__.items() if key != "optimizer"}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Take over what :meth:`state_dict` returned, here or in torch."""
        self.__dict__.update(state_dict)


class _LRScheduler(LRScheduler):
    """The base class under its older name."""


# ------------------------------------------------------------------ tools


def _warn(message: str) -> None:
    """Warn of the line that called into this file."""
    frame, level = sys._getframe().f_back, 2
    while frame is not None and frame.f_code.co_filename.startswith(_INSIDE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)


def _check_optimizer(optimizer: Any) -> None:
    if not isinstance(optimizer, Optimizer):
        raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")


_RULES: dict[str, Callable[[float], bool]] = {
    "real": lambda x: x == x,
    "finite": math.isfinite,
    "non-negative": lambda x: x >= 0,
    "positive": lambda x: x > 0,
}


def _number(name: str, value: Any, rule: str = "finite") -> Any:
    """Return the value; raise if it is no number, or none that obeys the rule."""
    if not isinstance(value, SupportsFloat):
        raise TypeError(f"{name} must be a {rule} number, but is {value!r}")
    if not _RULES[rule](float(value)):
        raise ValueError(f"{name} must be a {rule} number, but is {value}")
    return value


def _fraction(name: str, value: Any, torchs_name: str | None = None) -> Any:
    """Return the value; raise if it is no number from 0 to 1."""
    if not 0 <= _number(name, value) <= 1:
        if torchs_name:
            raise ValueError(f"{torchs_name} factor expected to be between 0 and 1.")
        raise ValueError(f"{name} must be between 0 and 1, but is {value}")
    return value


def _count(name: str, value: Any) -> int:
    """Return the value; raise if it is no positive integer."""
    if not isinstance(value, int) or value <= 0:
        raise ValueError(f"Expected positive integer {name}, but got {value}")
    return value


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _values(optimizer: Optimizer, key: str) -> list[Any]:
    """Return ``group[key]`` of each group, tensors copied."""
    return [_copy(group[key]) for group in optimizer.param_groups]


def _per_group(name: str, value: Any, optimizer: Optimizer) -> list[Any]:
    """Return a finite number for each group, of one for all or a list of them."""
    count = len(optimizer.param_groups)
    if not isinstance(value, (list, tuple)):
        value = [value] * count
    elif len(value) != count:
        raise ValueError(
            f"{name} must have the same length as optimizer.param_groups. "
            f"{name} has {len(value)} values, param_groups has {count}."
        )
    return [_copy(_number(name, x)) for x in value]


def _set(group: Group, key: str, value: Rate) -> None:
    """Write into a group; into the tensor that is there, if it is one."""
    if isinstance(group[key], Tensor):
        group[key].fill_(value.squeeze() if isinstance(value, Tensor) else value)
    else:
        group[key] = value


@contextmanager
def _during(scheduler: LRScheduler, flag: str) -> Iterator[None]:
    setattr(scheduler, flag, True)
    try:
        yield
    finally:
        setattr(scheduler, flag, False)


def _watch_step(optimizer: Optimizer) -> None:
    """Let ``optimizer.step`` leave a note that it was called, for the warning about the order."""
    if hasattr(optimizer.step, "_wrapped_by_lr_sched"):
        return
    step, watched = optimizer.step.__func__, ref(optimizer)  # type: ignore[attr-defined]

    @wraps(step)
    def noted(*args: Any, **kwargs: Any) -> Any:
        optimizer: Any = watched()
        optimizer._opt_called = True
        return step.__get__(optimizer, type(optimizer))(*args, **kwargs)

    noted._wrapped_by_lr_sched = True  # type: ignore[attr-defined]
    optimizer.step = noted  # type: ignore[method-assign]


def _saved(fn: Any) -> StateDict | None:
    """Return what of a callable goes into a state dict: its attributes, if it is an object."""
    if isinstance(fn, types.FunctionType) or not hasattr(fn, "__dict__"):
        return None
    return fn.__dict__.copy()


def _cosine(start: Rate, end: Rate, t: float, period: float = 1) -> Rate:
    """Go from ``start`` to ``end``, and back in a second period, along a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * t / period)) / 2


# ------------------------------------------------------------------ what schedules share


class _Schedule(LRScheduler):
    """A schedule with an equation: subclasses write it as :meth:`_next`."""

    def get_lr(self) -> list[Rate]:
        if not self._get_lr_called_within_step:
            _warn(
                "To get the last learning rate computed by the scheduler, "
                "please use `get_last_lr()`."
            )
        return self._next(self.last_epoch)

    def _next(self, t: Any) -> list[Rate]:
        """Return the learning rates at t."""
        raise NotImplementedError


class _Factor(_Schedule):
    """lr_t = lr_0 f(t)."""

    def _f(self, t: Any) -> float:
        """Return f(t)."""
        raise NotImplementedError

    def _next(self, t: Any) -> list[Rate]:
        f = self._f(t)
        return [lr_0 * f for lr_0 in self.base_lrs]


class _Recursion(_Factor):
    """lr_t = lr_{t-1} f(t) / f(t-1), and lr_t = lr_0 f(t) for ``step(epoch)``."""

    def _ratio(self, t: Any) -> float:
        """Return f(t) / f(t-1); 1, which leaves a learning rate as it is, where f stays."""
        raise NotImplementedError

    def _next(self, t: Any) -> list[Rate]:
        ratio = self._ratio(t)
        return [group["lr"] * ratio for group in self.optimizer.param_groups]

    def _get_closed_form_lr(self) -> list[Rate]:
        return super()._next(self.last_epoch)


class _ByFunction(_Schedule):
    """A schedule given by functions of t, one for all groups or one for each."""

    def __init__(
        self,
        optimizer: Optimizer,
        lr_lambda: Callable[[int], float] | list[Callable[[int], float]],
        last_epoch: int = -1,
    ) -> None:
        _check_optimizer(optimizer)
        count = len(optimizer.param_groups)
        self.lr_lambdas: list[Callable[[int], float]]
        if isinstance(lr_lambda, (list, tuple)):
            self.lr_lambdas = list(lr_lambda)
        else:
            self.lr_lambdas = [lr_lambda] * count
        if len(self.lr_lambdas) != count:
            raise ValueError(f"Expected {count} lr_lambdas, but got {len(self.lr_lambdas)}")
        for function in self.lr_lambdas:
            if not callable(function):
                raise TypeError(
                    f"lr_lambda should be a function, but got {type(function).__name__}"
                )
        super().__init__(optimizer, last_epoch)

    def state_dict(self) -> StateDict:
        """Return all attributes but the optimizer; of functions nothing, of objects theirs."""
        return {**super().state_dict(), "lr_lambdas": list(map(_saved, self.lr_lambdas))}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Take over what :meth:`state_dict` returned, here or in torch.

        Raises:
            ValueError: it is of another number of groups; nothing has been changed then.
        """
        saved = state_dict["lr_lambdas"]
        if len(saved) != len(self.lr_lambdas):
            raise ValueError(
                f"the state dict has {len(saved)} lr_lambdas, but the scheduler has "
                f"{len(self.lr_lambdas)}; make it for as many parameter groups as were saved"
            )
        super().load_state_dict({**state_dict, "lr_lambdas": self.lr_lambdas})
        for function, attributes in zip(self.lr_lambdas, saved, strict=True):
            if attributes is not None:
                function.__dict__.update(attributes)


# ------------------------------------------------------------------ factors


class LambdaLR(_ByFunction):
    """Any function of t.

        lr_t = lr_0 f(t)

    Agrees with ``torch.optim.lr_scheduler.LambdaLR``. It sets the rate whatever it was, so it is no
    link of a chain but its beginning.

    Args:
        optimizer: see :class:`LRScheduler`.
        lr_lambda: f, or one for each group.
        last_epoch: see :class:`LRScheduler`.

    Raises:
        ValueError: as many functions as there are groups are wanted.
        TypeError: f cannot be called.
    """

    def _next(self, t: Any) -> list[Rate]:
        return [lr_0 * f(t) for f, lr_0 in zip(self.lr_lambdas, self.base_lrs, strict=False)]


class MultiplicativeLR(_ByFunction):
    """Any recursion.

        lr_t = lr_{t-1} r(t)

    Agrees with ``torch.optim.lr_scheduler.MultiplicativeLR``.

    Args:
        optimizer: see :class:`LRScheduler`.
        lr_lambda: r, or one for each group.
        last_epoch: see :class:`LRScheduler`.

    Raises:
        ValueError: as many functions as there are groups are wanted.
        TypeError: r cannot be called.
    """

    def _next(self, t: Any) -> list[Rate]:
        if self._is_initial:
            return _values(self.optimizer, "lr")
        groups = self.optimizer.param_groups
        return [group["lr"] * r(t) for r, group in zip(self.lr_lambdas, groups, strict=False)]


class StepLR(_Recursion):
    """A factor every so many steps.

        f(t)          = gamma^floor(t / step_size)
        f(t) / f(t-1) = gamma if step_size divides t, else 1

    Agrees with ``torch.optim.lr_scheduler.StepLR``.

    Args:
        optimizer: see :class:`LRScheduler`.
        step_size: steps between two changes.
        gamma: the factor.
        last_epoch: see :class:`LRScheduler`.

    Raises:
        ValueError: ``step_size`` is not positive or ``gamma`` not finite.
    """

    def __init__(
        self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        self.step_size = _number("step_size", step_size, "positive")
        self.gamma = _number("gamma", gamma)
        super().__init__(optimizer, last_epoch)

    def _f(self, t: Any) -> float:
        return self.gamma ** (t // self.step_size)

    def _ratio(self, t: Any) -> float:
        return self.gamma if t != 0 and t % self.step_size == 0 else 1


class MultiStepLR(_Recursion):
    """A factor at each of some steps.

        f(t)          = gamma^(how many milestones are <= t)
        f(t) / f(t-1) = gamma^(how many are t)

    Agrees with ``torch.optim.lr_scheduler.MultiStepLR``.

    Args:
        optimizer: see :class:`LRScheduler`.
        milestones: the steps, in any order; one that stands there twice counts twice, and one that
            is no whole number is passed over by the recursion.
        gamma: the factor.
        last_epoch: see :class:`LRScheduler`.

    Raises:
        ValueError: a milestone is NaN, or ``gamma`` not finite.
        TypeError: a milestone is no number.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        milestones: Iterable[int],
        gamma: float = 0.1,
        last_epoch: int = -1,
    ) -> None:
        self.milestones = Counter(_number("a milestone", x, "real") for x in milestones)
        self.gamma = _number("gamma", gamma)
        super().__init__(optimizer, last_epoch)

    def _f(self, t: Any) -> float:
        return self.gamma ** sum(n for at, n in self.milestones.items() if at <= t)

    def _ratio(self, t: Any) -> float:
        return self.gamma ** self.milestones[t] if t in self.milestones else 1


class ConstantLR(_Recursion):
    """A factor for the first steps.

        f(t)          = factor if t < total_iters, else 1
        f(t) / f(t-1) = factor at t = 0, 1 / factor at t = total_iters, else 1

    Agrees with ``torch.optim.lr_scheduler.ConstantLR``.

    Args:
        optimizer: see :class:`LRScheduler`.
        factor: in [0, 1]; 0 is a factor that the recursion cannot take back.
        total_iters: for how many steps.
        last_epoch: see :class:`LRScheduler`.

    Raises:
        ValueError: an option out of its range.
        ZeroDivisionError: at t = ``total_iters``, if ``factor`` is 0.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        factor: float = 1.0 / 3,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        self.factor = _fraction("factor", factor, "Constant multiplicative")
        self.total_iters = _number("total_iters", total_iters, "non-negative")
        super().__init__(optimizer, last_epoch)

    def _f(self, t: Any) -> float:
        return self.factor if t < self.total_iters else 1.0

    def _ratio(self, t: Any) -> float:
        if t == 0:
            return self.factor
        if t != self.total_iters:
            return 1
        if self.factor == 0:
            raise ZeroDivisionError(
                f"ConstantLR cannot undo factor=0 at t={t}: a learning rate of 0 has forgotten "
                "what it was. Take a small factor, or a LambdaLR"
            )
        return 1.0 / self.factor


class LinearLR(_Recursion):
    """A factor that changes linearly.

        f(t)          = a + (b - a) min(t, T) / T      a = start_factor, b = end_factor
        f(t) / f(t-1) = 1 + (b - a) / (T a + (t - 1) (b - a))  if 0 < t <= T, else 1

    The second is the first, f(t) - f(t-1) = (b - a) / T over f(t-1), multiplied by T above and
    below. Agrees with ``torch.optim.lr_scheduler.LinearLR``.

    Args:
        optimizer: see :class:`LRScheduler`.
        start_factor: a, in (0, 1].
        end_factor: b, in [0, 1].
        total_iters: T, steps from a to b.
        last_epoch: see :class:`LRScheduler`.

    Raises:
        ValueError: an option out of its range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        start_factor: float = 1.0 / 3,
        end_factor: float = 1.0,
        total_iters: int = 5,
        last_epoch: int = -1,
    ) -> None:
        if not 0 < _number("start_factor", start_factor) <= 1:
            raise ValueError(
                "Starting multiplicative factor expected to be greater than 0 and less or equal "
                "to 1."
            )
        self.start_factor = start_factor
        self.end_factor = _fraction("end_factor", end_factor, "Ending multiplicative")
        self.total_iters = _number("total_iters", total_iters, "non-negative")
        super().__init__(optimizer, last_epoch)

    def _f(self, t: Any) -> float:
        a, b, T = self.start_factor, self.end_factor, self.total_iters
        return a + (b - a) * min(T, t) / T

    def _ratio(self, t: Any) -> float:
        a, b, T = self.start_factor, self.end_factor, self.total_iters
        if t == 0:
            return a
        if self._is_initial or t > T:
            return 1
        return 1.0 + (b - a) / (T * a + (t - 1) * (b - a))


class ExponentialLR(_Recursion):
    """A factor every step.

        f(t)          = gamma^t
        f(t) / f(t-1) = gamma

    Agrees with ``torch.optim.lr_scheduler.ExponentialLR``.

    Args:
        optimizer: see :class:`LRScheduler`.
        gamma: the factor.
        last_epoch: see :class:`LRScheduler`.

    Raises:
        ValueError: ``gamma`` is not finite.
    """

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = _number("gamma", gamma)
        super().__init__(optimizer, last_epoch)

    def _f(self, t: Any) -> float:
        return self.gamma**t

    def _ratio(self, t: Any) -> float:
        return 1 if self._is_initial else self.gamma


class PolynomialLR(_Recursion):
    """A power of the time that is left.

        f(t)          = (1 - min(t, T) / T)^power      T = total_iters
        f(t) / f(t-1) = ((1 - t / T) / (1 - (t - 1) / T))^power  if t <= T, else 1

    Agrees with ``torch.optim.lr_scheduler.PolynomialLR``.

    Args:
        optimizer: see :class:`LRScheduler`.
        total_iters: T, steps until the learning rate is 0.
        power: 1 for a straight line.
        last_epoch: see :class:`LRScheduler`.

    Raises:
        ValueError: ``total_iters`` is negative or ``power`` not finite.
    """

    def __init__(
        self, optimizer: Optimizer, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1
    ) -> None:
        self.total_iters = _number("total_iters", total_iters, "non-negative")
        self.power = _number("power", power)
        super().__init__(optimizer, last_epoch)

    def _f(self, t: Any) -> float:
        T = self.total_iters
        return (1.0 - min(T, t) / T) ** self.power

    def _ratio(self, t: Any) -> float:
        T = self.total_iters
        if self._is_initial or t > T:
            return 1
        return ((1.0 - t / T) / (1.0 - (t - 1) / T)) ** self.power


class InverseTimeLR(_Factor):
    """Decay with the inverse of time, the rate of Robbins and Monro for a convex loss.

        f(t) = 1 / (1 + k t)      k = decay_rate

    Robbins and Monro, "A Stochastic Approximation Method" (1951); in this form: Bottou,
    "Stochastic Gradient Descent Tricks" (2012), section 5.2. Torch has no such class. It sets the
    rate whatever it was, as :class:`LambdaLR` does.

    Args:
        optimizer: see :class:`LRScheduler`.
        decay_rate: k, per step; after 1 / k steps the rate has halved.
        last_epoch: see :class:`LRScheduler`.

    Raises:
        ValueError: ``decay_rate`` is negative or not finite.
    """

    def __init__(self, optimizer: Optimizer, decay_rate: float, last_epoch: int = -1) -> None:
        self.decay_rate = _number("decay_rate", _number("decay_rate", decay_rate), "non-negative")
        super().__init__(optimizer, last_epoch)

    def _f(self, t: Any) -> float:
        return 1 / (1 + self.decay_rate * t)


# ------------------------------------------------------------------ up, along and down


class _Warmup(_Factor):
    """Linearly up, along a plateau, and down along a curve c that falls from c(0) = 1 to c(1) = 0.

    f(t) = a + (1 - a) t / W                     for t < W, warmup_steps      a = start_factor
         = 1                                     for t < S, where the fall begins
         = b + (1 - b) c((t - S) / (T - S))      for t < T, total_steps       b = end_factor
         = b                                     from then on
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        total_steps: int,
        start_factor: float = 0.0,
        end_factor: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        self.warmup_steps = _number("warmup_steps", warmup_steps, "non-negative")
        self.total_steps = _count("total_steps", total_steps)
        if warmup_steps > total_steps:
            raise ValueError(
                f"warmup_steps={warmup_steps} must not be more than total_steps={total_steps}"
            )
        self.start_factor = _fraction("start_factor", start_factor)
        self.end_factor = _fraction("end_factor", end_factor)
        super().__init__(optimizer, last_epoch)

    @property
    def _decay_start(self) -> float:
        """S; without a plateau, W."""
        return self.warmup_steps

    def _curve(self, x: float) -> float:
        """Return c(x), for x in [0, 1]."""
        raise NotImplementedError

    def _f(self, t: Any) -> float:
        W, S, T = self.warmup_steps, self._decay_start, self.total_steps
        a, b = self.start_factor, self.end_factor
        if t < W:
            return a + (1 - a) * t / W
        if t < S:
            return 1.0
        return b + (1 - b) * self._curve((t - S) / (T - S)) if t < T else b


class WarmupCosineLR(_Warmup):
    """Linearly up, then down along half a cosine.

        f(t) = a + (1 - a) t / W                                    for t < W
             = b + (1 - b) (1 + cos(pi (t - W) / (T - W))) / 2      for t < T, and b from then on

    The cosine: Loshchilov and Hutter, "SGDR" (ICLR 2017, arXiv:1608.03983); the warm-up: Goyal et
    al., "Accurate, Large Minibatch SGD" (2017, arXiv:1706.02677). Torch has no such class. It sets
    the rate whatever it was, as :class:`LambdaLR` does.

    Args:
        optimizer: see :class:`LRScheduler`. Its learning rate is the highest.
        warmup_steps: W; 0 to begin with the highest.
        total_steps: T.
        start_factor: a; with 0 the first step of the optimizer has no effect.
        end_factor: b.
        last_epoch: see :class:`LRScheduler`.

    Raises:
        ValueError: a factor not in [0, 1], or W > T.
    """

    def _curve(self, x: float) -> float:
        return (1 + math.cos(math.pi * x)) / 2


class WarmupLinearLR(_Warmup):
    """Linearly up, then linearly down.

        f(t) = a + (1 - a) t / W                         for t < W
             = b + (1 - b) (1 - (t - W) / (T - W))       for t < T, and b from then on

    Devlin, Chang, Lee and Toutanova, "BERT" (NAACL 2019, arXiv:1810.04805), appendix A.2. Torch has
    no such class. It sets the rate whatever it was, as :class:`LambdaLR` does.

    Args:
        optimizer: see :class:`WarmupCosineLR`, as for all that follow.
        warmup_steps: W.
        total_steps: T.
        start_factor: a.
        end_factor: b.
        last_epoch: see :class:`LRScheduler`.

    Raises:
        ValueError: a factor not in [0, 1], or W > T.
    """

    def _curve(self, x: float) -> float:
        return 1 - x


class WarmupStableDecayLR(_Warmup):
    """Linearly up, along a plateau, then down: a trapezoid.

        f(t) = a + (1 - a) t / W                         for t < W
             = 1                                         for t < S = T - D
             = b + (1 - b) c((t - S) / D)                for t < T, and b from then on
        c(x) = 1 - x or 1 - sqrt(x)

    Training can go on from the plateau: the end need not be known at the beginning. Zhai et al.,
    "Scaling Vision Transformers" (CVPR 2022, arXiv:2106.04560); Hu et al., "MiniCPM" (2024,
    arXiv:2404.06395); 1 - sqrt: Hägele et al., "Scaling Laws and Compute-Optimal Training Beyond
    Fixed Training Durations" (NeurIPS 2024, arXiv:2405.18392). Torch has no such class. It sets the
    rate whatever it was, as :class:`LambdaLR` does.

    Args:
        optimizer: see :class:`WarmupCosineLR`, as for all that follow.
        warmup_steps: W.
        decay_steps: D; 0 for no decay before T.
        total_steps: T.
        decay_type: c, "linear" or "1-sqrt".
        start_factor: a.
        end_factor: b.
        last_epoch: see :class:`LRScheduler`.

    Raises:
        ValueError: a factor not in [0, 1], or W + D > T, or an unknown ``decay_type``.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        warmup_steps: int,
        decay_steps: int,
        total_steps: int,
        decay_type: Literal["linear", "1-sqrt"] = "linear",
        start_factor: float = 0.0,
        end_factor: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        self.decay_steps = _number("decay_steps", decay_steps, "non-negative")
        if _number("warmup_steps", warmup_steps, "non-negative") + decay_steps > total_steps:
            raise ValueError(
                f"warmup_steps={warmup_steps} and decay_steps={decay_steps} must not be more "
                f"together than total_steps={total_steps}"
            )
        if decay_type not in ("linear", "1-sqrt"):
            raise ValueError(f"decay_type must be 'linear' or '1-sqrt', but is {decay_type!r}")
        self.decay_type = decay_type
        super().__init__(optimizer, warmup_steps, total_steps, start_factor, end_factor, last_epoch)

    @property
    def _decay_start(self) -> float:
        return self.total_steps - self.decay_steps

    def _curve(self, x: float) -> float:
        return 1 - (math.sqrt(x) if self.decay_type == "1-sqrt" else x)


# ------------------------------------------------------------------ cosines


class CosineAnnealingLR(_Schedule):
    """Down along half a cosine, and up again.

        lr_t = m + (lr_0 - m) (1 + cos(pi t / T)) / 2          m = eta_min, T = T_max
        lr_t = m + (lr_{t-1} - m) (1 + cos(pi t / T)) / (1 + cos(pi (t - 1) / T))

    At the bottom, where t - 1 is an odd multiple of T, the recursion would divide by 0, and what
    the closed form rises by is added instead: (lr_0 - m) (1 - cos(pi / T)) / 2.

    Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (ICLR 2017,
    arXiv:1608.03983), equation 5, without restarts. Agrees with
    ``torch.optim.lr_scheduler.CosineAnnealingLR``.

    Args:
        optimizer: see :class:`LRScheduler`.
        T_max: T, steps to the bottom.
        eta_min: m, the lowest learning rate.
        last_epoch: see :class:`LRScheduler`.

    Raises:
        ValueError: ``T_max`` is not positive or ``eta_min`` not finite.
    """

    def __init__(
        self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        self.T_max = _number("T_max", T_max, "positive")
        self.eta_min = _number("eta_min", eta_min)
        super().__init__(optimizer, last_epoch)

    def _next(self, t: Any) -> list[Rate]:
        m, T = self.eta_min, self.T_max
        groups = self.optimizer.param_groups
        if self._is_initial:
            return _values(self.optimizer, "lr")
        if self._step_count == 1 and t > 0:  # resumed at t, and asked before the first step
            return self._get_closed_form_lr()
        if (t - 1 - T) % (2 * T) == 0:
            return [
                group["lr"] + (lr_0 - m) * (1 - math.cos(math.pi / T)) / 2
                for group, lr_0 in zip(groups, self.base_lrs, strict=False)
            ]
        ratio = (1 + math.cos(math.pi * t / T)) / (1 + math.cos(math.pi * (t - 1) / T))
        return [ratio * (group["lr"] - m) + m for group in groups]

    def _get_closed_form_lr(self) -> list[Rate]:
        return [_cosine(lr_0, self.eta_min, self.last_epoch, self.T_max) for lr_0 in self.base_lrs]


class CosineAnnealingWarmRestarts(_Schedule):
    """Down along half a cosine, again and again.

        lr_t = m + (lr_0 - m) (1 + cos(pi T_cur / T_i)) / 2          m = eta_min

    where T_cur is the number of steps since the last restart and T_i = T_0 T_mult^i the length of
    the i-th run. Since the first i runs take T_0 (T_mult^i - 1) / (T_mult - 1) steps together, step
    t belongs to run i = floor(log_{T_mult}(1 + t (T_mult - 1) / T_0)).

    Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts" (ICLR 2017,
    arXiv:1608.03983), equation 5. Agrees with
    ``torch.optim.lr_scheduler.CosineAnnealingWarmRestarts``, even where the logarithm of
    ``step(epoch)`` is rounded down across a restart (T_mult = 3, run 5).

    Args:
        optimizer: see :class:`LRScheduler`.
        T_0: steps of the first run.
        T_mult: how much longer each run is than the one before it.
        eta_min: m, the lowest learning rate.
        last_epoch: see :class:`LRScheduler`.

    Raises:
        ValueError: an option out of its range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        T_0: int,
        T_mult: int = 1,
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        self.T_0 = self.T_i = _count("T_0", T_0)
        if not isinstance(T_mult, int) or T_mult < 1:
            raise ValueError(f"Expected integer T_mult >= 1, but got {T_mult}")
        if not isinstance(eta_min, (float, int)):
            raise ValueError(
                f"Expected float or int eta_min, but got {eta_min} of type {type(eta_min)}"
            )
        self.T_mult = T_mult
        self.eta_min = _number("eta_min", eta_min)
        self.T_cur: float = last_epoch
        super().__init__(optimizer, last_epoch)

    def _next(self, t: Any) -> list[Rate]:
        return [_cosine(lr_0, self.eta_min, self.T_cur, self.T_i) for lr_0 in self.base_lrs]

    @_eager_only
    def step(self, epoch: float | None = None) -> None:
        """Advance t by one and set the learning rates.

        Args:
            epoch: t to go to; may lie between two steps.

        Raises:
            ValueError: ``epoch`` is negative.
        """
        if epoch is None and self.last_epoch < 0:
            epoch = 0
        if epoch is None:
            epoch = self.last_epoch + 1
            self.T_cur += 1
            if self.T_cur >= self.T_i:
                self.T_cur %= self.T_i
                self.T_i *= self.T_mult
        elif not epoch >= 0:
            raise ValueError(f"Expected non-negative epoch, but got {epoch}")
        elif epoch < self.T_0:
            self.T_cur, self.T_i = epoch, self.T_0
        elif self.T_mult == 1:
            self.T_cur = epoch % self.T_0
        else:
            i = int(math.log(epoch / self.T_0 * (self.T_mult - 1) + 1, self.T_mult))
            self.T_cur = epoch - self.T_0 * (self.T_mult**i - 1) / (self.T_mult - 1)
            self.T_i = self.T_0 * self.T_mult**i
        self._update_lr(math.floor(epoch))


# ------------------------------------------------------------------ cycles


class _Cycle(_Schedule):
    """A schedule that moves the momentum, or beta1, against the learning rate."""

    cycle_momentum: bool
    use_beta1: bool

    def _bounds(
        self, optimizer: Optimizer, cycle_momentum: bool, base_momentum: Any, max_momentum: Any
    ) -> tuple[list[float], list[float]]:
        """Check the optimizer; return the lowest and highest momentum of each group, if any."""
        self.cycle_momentum = cycle_momentum
        if not cycle_momentum:
            return [], []
        if not {"momentum", "betas"} & optimizer.defaults.keys():
            raise ValueError(
                "optimizer must support momentum or beta1 with `cycle_momentum` option enabled"
            )
        self.use_beta1 = "betas" in optimizer.defaults
        return (
            _per_group("base_momentum", base_momentum, optimizer),
            _per_group("max_momentum", max_momentum, optimizer),
        )

    def _set_momentum(self, group: Group, value: float) -> None:
        if self.use_beta1:
            group["betas"] = (value, *group["betas"][1:])
        else:
            group["momentum"] = value

    def _start_momentum(
        self, optimizer: Optimizer, base_momentums: list[float], max_momentums: list[float]
    ) -> None:
        groups = optimizer.param_groups
        for group, low, high in zip(groups, base_momentums, max_momentums, strict=False):
            self._set_momentum(group, high)
            group["max_momentum"] = high
            group["base_momentum"] = low


# How high a cycle is, by mode; of the number of the cycle, or of t for the last.
_SCALES: dict[str, Callable[[float, float], float]] = {
    "triangular": lambda gamma, cycle: 1.0,
    "triangular2": lambda gamma, cycle: 1 / 2.0 ** (cycle - 1),
    "exp_range": lambda gamma, t: gamma**t,
}


class CyclicLR(_Cycle):
    """Up and down linearly, again and again.

        lr_t = base_lr + (max_lr - base_lr) h s
        mu_t = max_momentum - (max_momentum - base_momentum) h s
        h    = x / r if x <= r, else (1 - x) / (1 - r)      height in the cycle, 0 to 1 to 0
        x    = t / P - floor(t / P)                         place in the cycle
        P    = step_size_up + step_size_down,  r = step_size_up / P
        s    = 1, 2^-(cycle), gamma^t or scale_fn           scale of the cycle, 1 for the first

    Smith, "Cyclical Learning Rates for Training Neural Networks" (WACV 2017, arXiv:1506.01186).
    Agrees with ``torch.optim.lr_scheduler.CyclicLR``. Differs in that ``scale_fn`` is called once
    a step, and in that loading leaves the state dict as it is.

    Args:
        optimizer: see :class:`LRScheduler`.
        base_lr: the lowest learning rate, or one for each group.
        max_lr: the highest, likewise.
        step_size_up: steps from the lowest to the highest.
        step_size_down: steps back; as many by default.
        mode: "triangular", "triangular2" or "exp_range"; unless there is a ``scale_fn``.
        gamma: for "exp_range".
        scale_fn: s.
        scale_mode: of what ``scale_fn`` is a function: "cycle", counted from 1, or "iterations", t.
        cycle_momentum: whether to move the momentum, or beta1, against the learning rate.
        base_momentum: the lowest, or one for each group.
        max_momentum: the highest, likewise.
        last_epoch: see :class:`LRScheduler`.

    Raises:
        ValueError: an option out of its range, or an optimizer without momentum or betas.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        base_lr: float | list[float],
        max_lr: float | list[float],
        step_size_up: int = 2000,
        step_size_down: int | None = None,
        mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
        gamma: float = 1.0,
        scale_fn: Callable[[float], float] | None = None,
        scale_mode: Literal["cycle", "iterations"] = "cycle",
        cycle_momentum: bool = True,
        base_momentum: float = 0.8,
        max_momentum: float = 0.9,
        last_epoch: int = -1,
    ) -> None:
        _check_optimizer(optimizer)
        base_lrs = _per_group("base_lr", base_lr, optimizer)
        self.max_lrs = _per_group("max_lr", max_lr, optimizer)
        up = down = float(_number("step_size_up", step_size_up, "positive"))
        if step_size_down is not None:
            down = float(_number("step_size_down", step_size_down, "non-negative"))
        self.total_size = up + down
        self.step_ratio = up / self.total_size
        if mode not in _SCALES and scale_fn is None:
            raise ValueError("mode is invalid and scale_fn is None")
        self.mode = mode
        self.gamma = _number("gamma", gamma)
        self._scale_fn_custom = scale_fn
        self.scale_mode = scale_mode
        if scale_fn is None:
            self.scale_mode = "iterations" if mode == "exp_range" else "cycle"
        low, high = self._bounds(optimizer, cycle_momentum, base_momentum, max_momentum)
        if cycle_momentum:
            self.base_momentums, self.max_momentums = low, high
        if last_epoch == -1:
            for group, lr in zip(optimizer.param_groups, base_lrs, strict=True):
                _set(group, "lr", lr)
            self._start_momentum(optimizer, low, high)
        super().__init__(optimizer, last_epoch)
        self.base_lrs = base_lrs

    def scale_fn(self, x: float) -> float:
        """Return the scale of the cycle of number ``x``, or at t = ``x``."""
        if self._scale_fn_custom is not None:
            return self._scale_fn_custom(x)
        return _SCALES[self.mode](self.gamma, x)

    def _next(self, t: Any) -> list[Rate]:
        cycle = math.floor(1 + t / self.total_size)
        x = 1.0 + t / self.total_size - cycle
        r = self.step_ratio
        h = x / r if x <= r else (x - 1) / (r - 1)
        s = self.scale_fn(cycle if self.scale_mode == "cycle" else t)
        if self.cycle_momentum:
            for group, low, high in zip(
                self.optimizer.param_groups, self.base_momentums, self.max_momentums, strict=False
            ):
                self._set_momentum(group, high - (high - low) * h * s)
        return [
            low + (high - low) * h * s
            for low, high in zip(self.base_lrs, self.max_lrs, strict=True)
        ]

    def state_dict(self) -> StateDict:
        """Return all attributes but the optimizer; of a function nothing, of an object its own."""
        return {**super().state_dict(), "_scale_fn_custom": _saved(self._scale_fn_custom)}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Take over what :meth:`state_dict` returned, here or in torch."""
        function = self._scale_fn_custom
        saved = state_dict["_scale_fn_custom"]
        super().load_state_dict({**state_dict, "_scale_fn_custom": function})
        if saved is not None:
            function.__dict__.update(saved)


class OneCycleLR(_Cycle):
    """Up from lr / div_factor, and down to a small part of that.

        lr_t = anneal(p, q, (t - t_p) / (t_q - t_p))      p, q: values at the ends of the phase
        mu_t = likewise
        anneal(p, q, x) = q + (p - q) (1 + cos(pi x)) / 2 or p + (q - p) x

    ======  ====================  ======================  =============================
    phase   until                 learning rate           momentum
    ======  ====================  ======================  =============================
    1       pct_start T - 1       initial_lr to max_lr    max_momentum to base_momentum
    2       T - 1                 max_lr to min_lr        base_momentum to max_momentum
    ======  ====================  ======================  =============================

    with initial_lr = max_lr / div_factor and min_lr = initial_lr / final_div_factor; of three
    phases the second ends at 2 pct_start T - 2 with initial_lr, and in the third the learning rate
    goes from there to min_lr while the momentum stays.

    Smith and Topin, "Super-Convergence: Very Fast Training of Neural Networks Using Large Learning
    Rates" (2018, arXiv:1708.07120). Agrees with ``torch.optim.lr_scheduler.OneCycleLR``. Differs in
    that a phase of no length (such as the first with pct_start T = 1, where torch divides by zero)
    is at its end.

    Args:
        optimizer: see :class:`LRScheduler`.
        max_lr: the highest learning rate, or one for each group.
        total_steps: T.
        epochs: T is ``epochs * steps_per_epoch``, if ``total_steps`` is not given.
        steps_per_epoch: see ``epochs``.
        pct_start: the part of T that goes upward, in [0, 1].
        anneal_strategy: "cos" or "linear".
        cycle_momentum: whether to move the momentum, or beta1, against the learning rate.
        base_momentum: the lowest, or one for each group.
        max_momentum: the highest, likewise.
        div_factor: max_lr / initial_lr.
        final_div_factor: initial_lr / min_lr.
        three_phase: whether to go down in two phases.
        last_epoch: see :class:`LRScheduler`.

    Raises:
        ValueError: an option out of its range, an optimizer without momentum or betas, or a step
            after T.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float | list[float],
        total_steps: int | None = None,
        epochs: int | None = None,
        steps_per_epoch: int | None = None,
        pct_start: float = 0.3,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        cycle_momentum: bool = True,
        base_momentum: float | list[float] = 0.85,
        max_momentum: float | list[float] = 0.95,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        last_epoch: int = -1,
    ) -> None:
        _check_optimizer(optimizer)
        if total_steps is None:
            if epochs is None or steps_per_epoch is None:
                raise ValueError(
                    "You must define either total_steps OR (epochs AND steps_per_epoch)"
                )
            total_steps = _count("epochs", epochs) * _count("steps_per_epoch", steps_per_epoch)
        self.total_steps = _count("total_steps", total_steps)
        if not isinstance(pct_start, float) or not 0 <= pct_start <= 1:
            raise ValueError(f"Expected float between 0 and 1 pct_start, but got {pct_start}")
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}"
            )
        for name, factor in (("div_factor", div_factor), ("final_div_factor", final_div_factor)):
            if _number(name, factor) == 0:
                raise ValueError(f"{name} must not be 0: a learning rate is divided by it")
        max_lrs = _per_group("max_lr", max_lr, optimizer)
        low, high = self._bounds(optimizer, cycle_momentum, base_momentum, max_momentum)

        self._anneal_func_type = anneal_strategy
        top = pct_start * total_steps - 1
        up = _phase(top, "initial_lr", "max_lr", "max_momentum", "base_momentum")
        if three_phase:
            bottom = 2 * pct_start * total_steps - 2
            down = [
                _phase(bottom, "max_lr", "initial_lr", "base_momentum", "max_momentum"),
                _phase(total_steps - 1, "initial_lr", "min_lr", "max_momentum", "max_momentum"),
            ]
        else:
            down = [_phase(total_steps - 1, "max_lr", "min_lr", "base_momentum", "max_momentum")]
        self._schedule_phases = [up, *down]
        if last_epoch == -1:
            for group, lr in zip(optimizer.param_groups, max_lrs, strict=True):
                group["initial_lr"] = lr / div_factor
                group["max_lr"] = lr
                group["min_lr"] = group["initial_lr"] / final_div_factor
            self._start_momentum(optimizer, low, high)
        super().__init__(optimizer, last_epoch)

    def _next(self, t: Any) -> list[Rate]:
        if t > self.total_steps:
            raise ValueError(
                f"Tried to step {t} times. The specified number of total steps is "
                f"{self.total_steps}"
            )
        phases = self._schedule_phases
        i = next((i for i, p in enumerate(phases) if t <= p["end_step"]), len(phases) - 1)
        phase = phases[i]
        start, end = phases[i - 1]["end_step"] if i else 0.0, phase["end_step"]
        x = (t - start) / (end - start) if end != start else 1.0
        lrs = []
        for group in self.optimizer.param_groups:
            lrs.append(self._anneal(group[phase["start_lr"]], group[phase["end_lr"]], x))
            if self.cycle_momentum:
                p, q = group[phase["start_momentum"]], group[phase["end_momentum"]]
                self._set_momentum(group, self._anneal(p, q, x))
        return lrs

    def _anneal(self, p: Any, q: Any, x: float) -> Any:
        return _cosine(p, q, x) if self._anneal_func_type == "cos" else (q - p) * x + p


def _phase(end_step: float, *ends: str) -> dict[str, Any]:
    keys = ("start_lr", "end_lr", "start_momentum", "end_momentum")
    return {"end_step": end_step, **dict(zip(keys, ends, strict=True))}


# ------------------------------------------------------------------ schedulers of schedulers


class _Composite(LRScheduler):
    """A scheduler that has others do its work."""

    _schedulers: Sequence[Any]

    def _check_schedulers(self, schedulers: Sequence[Any], optimizer: Optimizer) -> None:
        name = type(self).__name__
        for i, scheduler in enumerate(schedulers):
            if not hasattr(scheduler, "optimizer"):
                raise TypeError(f"{name} at index {i} should have `optimizer` as its attribute.")
            if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
                raise ValueError(
                    f"{name} does not support `ReduceLROnPlateau` scheduler as it requires "
                    "additional kwargs to be specified when calling `step`, but got one at index "
                    f"{i} in the given schedulers sequence."
                )
            if optimizer != scheduler.optimizer:
                raise ValueError(
                    f"{name} expects all schedulers to belong to the same optimizer, but got "
                    f"scheduler {type(scheduler).__name__} at index {i} has {scheduler.optimizer}, "
                    f"which is different from {type(optimizer).__name__}."
                )

    def get_lr(self) -> list[Rate]:
        """Raise, since the rates are those of the schedulers; asked for at a milestone alone."""
        raise NotImplementedError(
            f"{type(self).__name__} has no learning rates of its own, and cannot begin at a "
            "milestone: make it the first of a SequentialLR, or put its schedulers there"
        )

    def state_dict(self) -> StateDict:
        """Return all attributes but the optimizer, and the states of the schedulers."""
        return {**super().state_dict(), "_schedulers": [s.state_dict() for s in self._schedulers]}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Take over what :meth:`state_dict` returned, here or in torch.

        Raises:
            ValueError: it is of another number of schedulers; nothing has been changed then.
        """
        states = state_dict["_schedulers"]
        if len(states) != len(self._schedulers):
            raise ValueError(
                f"the state dict has {len(states)} schedulers, but {type(self).__name__} has "
                f"{len(self._schedulers)}; make it of as many as were saved"
            )
        super().load_state_dict({**state_dict, "_schedulers": self._schedulers})
        for scheduler, state in zip(self._schedulers, states, strict=True):
            scheduler.load_state_dict(state)


class SequentialLR(_Composite):
    """One scheduler after the other.

        lr_t = lr of schedulers[i] at t - milestones[i - 1],  milestones[i - 1] <= t < milestones[i]

    Agrees with ``torch.optim.lr_scheduler.SequentialLR``, and takes torch's schedulers too.

    Args:
        optimizer: that of all schedulers.
        schedulers: in turn.
        milestones: steps at which the second and those after it begin, in order.
        last_epoch: see :class:`LRScheduler`.

    Raises:
        ValueError: no scheduler, one of another optimizer or one that wants a metric; milestones
            not in order, or not one less than schedulers.
        TypeError: a scheduler without an optimizer, or a milestone that is no number.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedulers: list[LRScheduler],
        milestones: list[int],
        last_epoch: int = -1,
    ) -> None:
        if len(schedulers) < 1:
            raise ValueError(
                f"{type(self).__name__} expects at least one scheduler, but got no scheduler."
            )
        self._check_schedulers(schedulers, optimizer)
        if len(milestones) != len(schedulers) - 1:
            raise ValueError(
                "Sequential Schedulers expects number of schedulers provided to be one more "
                "than the number of milestone points, but got number of schedulers "
                f"{len(schedulers)} and the number of milestones to be equal to {len(milestones)}"
            )
        if sorted(_number("a milestone", x, "real") for x in milestones) != list(milestones):
            raise ValueError(f"milestones must be in order, but are {milestones}")
        self._schedulers = schedulers
        self._milestones = milestones
        self.last_epoch = last_epoch + 1
        self.optimizer = optimizer
        # Each scheduler has taken its first step when it was made. Take them back, and have only
        # the one that begins take its own.
        for group in optimizer.param_groups:
            _set(group, "lr", group["initial_lr"])
        self.recursive_undo()
        first = schedulers[bisect_right(milestones, 0)]
        first._initial_step()
        self._last_lr = first.get_last_lr()

    def recursive_undo(self, sched: Any = None) -> None:
        """Set t of ``sched``, or of those that it consists of, back by one; by default of all."""
        sched = self if sched is None else sched
        if hasattr(sched, "_schedulers"):
            for each in sched._schedulers:
                self.recursive_undo(each)
        elif hasattr(sched, "last_epoch"):
            sched.last_epoch -= 1

    @_eager_only
    def step(self) -> None:  # type: ignore[override]
        """Advance t by one and have the scheduler that is at work step, or begin."""
        self.last_epoch += 1
        i = bisect_right(self._milestones, self.last_epoch)
        scheduler = self._schedulers[i]
        if i > 0 and self._milestones[i - 1] == self.last_epoch:
            scheduler._update_lr(0)
        else:
            scheduler.step()
        self._last_lr = scheduler.get_last_lr()


class ChainedScheduler(_Composite):
    """All schedulers at once, each continuing from what the one before it has set.

        lr_t = lr_0 f_1(t) f_2(t) ...      if all are recursions of a factor

    Agrees with ``torch.optim.lr_scheduler.ChainedScheduler``, and takes torch's schedulers too.

    Args:
        schedulers: in the order of the chain.
        optimizer: that of all schedulers; by default that of the first.

    Raises:
        ValueError: no scheduler, one of another optimizer or one that wants a metric.
        TypeError: a scheduler without an optimizer.
    """

    def __init__(
        self, schedulers: Sequence[LRScheduler], optimizer: Optimizer | None = None
    ) -> None:
        if len(schedulers) < 1:
            raise ValueError(
                f"{type(self).__name__} expects at least one scheduler to be chained, but got no "
                "scheduler."
            )
        optimizer = optimizer or schedulers[0].optimizer
        self._check_schedulers(schedulers, optimizer)
        self._schedulers = schedulers
        self.optimizer = optimizer
        self._last_lr = _values(optimizer, "lr")

    @_eager_only
    def step(self) -> None:  # type: ignore[override]
        """Have each scheduler step."""
        for scheduler in self._schedulers:
            scheduler.step()
        self._last_lr = _values(self.optimizer, "lr")


# ------------------------------------------------------------------ what watches a metric


class ReduceLROnPlateau(LRScheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
    """A factor whenever a metric has stopped to improve.

        lr <- max(factor lr, min_lr)    after more than ``patience`` steps, one after the other, in
                                        which the metric was not better than its best by threshold

    Agrees with ``torch.optim.lr_scheduler.ReduceLROnPlateau``, from which it inherits so that what
    hands a metric to instances of that class hands one to it.

    Args:
        optimizer: see :class:`LRScheduler`.
        mode: "min" or "max": whether a smaller or a larger metric is better.
        factor: less than 1.
        patience: how many steps without improvement to bear.
        threshold: by how much a metric must be better than the best.
        threshold_mode: "rel": times the best; "abs": in units of the metric.
        cooldown: after a change, how many steps not to count.
        min_lr: the lowest learning rate, or one for each group.
        eps: a change of the learning rate that is not larger than this is not made.

    Raises:
        ValueError: an option out of its range.
        TypeError: ``optimizer`` is none.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: Literal["rel", "abs"] = "rel",
        cooldown: int = 0,
        min_lr: list[float] | float = 0,
        eps: float = 1e-8,
    ) -> None:
        if factor >= 1.0:
            raise ValueError("Factor should be < 1.0.")
        _check_optimizer(optimizer)
        count = len(optimizer.param_groups)
        if isinstance(min_lr, (list, tuple)):
            if len(min_lr) != count:
                raise ValueError(f"expected {count} min_lrs, got {len(min_lr)}")
            self.default_min_lr = None
            self.min_lrs = list(min_lr)
        else:
            self.default_min_lr = min_lr
            self.min_lrs = [min_lr] * count
        for lowest in self.min_lrs:
            _number("min_lr", lowest, "real")
        self.factor = _number("factor", factor)
        self.optimizer = optimizer
        self.patience = patience
        self.cooldown = cooldown
        self.eps = _number("eps", eps, "real")
        self.last_epoch = 0
        self._last_lr = _values(optimizer, "lr")
        self._init_is_better(mode, threshold, threshold_mode)
        self._reset()

    def _init_is_better(self, mode: str, threshold: float, threshold_mode: str) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode {mode} is unknown!")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"threshold mode {threshold_mode} is unknown!")
        self.mode_worse = math.inf if mode == "min" else -math.inf
        self.mode = mode
        self.threshold = _number("threshold", threshold, "real")
        self.threshold_mode = threshold_mode

    def _reset(self) -> None:
        self.best = self.mode_worse
        self.cooldown_counter = 0
        self.num_bad_epochs = 0

    @property
    def in_cooldown(self) -> bool:
        """Whether the learning rate was changed less than ``cooldown`` steps ago."""
        return self.cooldown_counter > 0

    def _is_better(self, a: float, best: float) -> bool:
        margin = self.threshold if self.mode == "max" else -self.threshold
        bar = best * (1.0 + margin) if self.threshold_mode == "rel" else best + margin
        return a > bar if self.mode == "max" else a < bar

    @_eager_only
    def step(self, metrics: SupportsFloat, epoch: int | None = None) -> None:  # type: ignore[override]
        """Look at a metric and, if it has not been better for long, reduce the learning rates.

        Args:
            metrics: the metric of this step.
            epoch: the number of this step. Deprecated by torch.

        Raises:
            RuntimeError: groups were added for which there is no ``min_lr``.
        """
        current = float(metrics)
        if epoch is not None:
            _warn(EPOCH_DEPRECATION_WARNING)
        self.last_epoch = self.last_epoch + 1 if epoch is None else epoch
        if self._is_better(current, self.best):
            self.best = current
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1
        if self.in_cooldown:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._reduce_lr(self.last_epoch)
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0
        self._last_lr = _values(self.optimizer, "lr")

    def _reduce_lr(self, epoch: int) -> None:
        groups = self.optimizer.param_groups
        if len(groups) != len(self.min_lrs):
            if self.default_min_lr is None:
                raise RuntimeError(
                    f"The number of param groups in the `optimizer` ({len(groups)}) differs from "
                    f"when `ReduceLROnPlateau` was initialized ({len(self.min_lrs)}), usually due "
                    "to a new param group being added to the optimizer. Please modify the "
                    "`min_lrs` field to match the length of the `optimizer` param groups."
                )
            self.min_lrs = [self.default_min_lr] * len(groups)
        for group, lowest in zip(groups, self.min_lrs, strict=True):
            lr = float(group["lr"])
            reduced = max(lr * self.factor, lowest)
            if lr - reduced > self.eps:
                _set(group, "lr", reduced)

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Take over what :meth:`state_dict` returned, here or in torch."""
        super().load_state_dict(state_dict)
        self._init_is_better(self.mode, self.threshold, self.threshold_mode)
