"""Averages of weights: over a training's end (SWA), with a fading memory (EMA), in cycles.

SWA: Izmailov, Podoprikhin, Garipov, Vetrov and Wilson, "Averaging Weights Leads to Wider Optima and
Better Generalization" (UAI 2018, arXiv:1803.05407), algorithm 1; n counts the models averaged so
far. EMA: Polyak and Juditsky, "Acceleration of Stochastic Approximation by Averaging" (1992), with
weights that decay. Lookahead: Zhang, Lucas, Hinton and Ba, "Lookahead Optimizer: k steps forward,
1 step back" (NeurIPS 2019, arXiv:1907.08610), algorithm 1.

    SWA        avg <- avg + (w - avg) / (n + 1)
    EMA        avg <- avg + (1 - d) (w - avg)  =  d avg + (1 - d) w            decay d
    Lookahead  phi <- phi + alpha (theta - phi),  theta <- phi                 every k steps

The learning rate of SWA goes from lr_0, where it was, to swa_lr in T steps, and stays:

    lr_t = a(t/T) swa_lr + (1 - a(t/T)) lr_0                 a(x) = x, or (1 - cos(pi x)) / 2

where lr_0 is not remembered but solved for, from the lr of step t - 1, which others may change.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, Literal, TypeAlias, overload

import torch
from torch import Tensor
from torch.nn import Module
from torch.optim import Optimizer
from torch.utils._foreach_utils import (
    _get_foreach_kernels_supported_devices,
    _group_tensors_by_device_and_dtype,
)

from .lr_scheduler import Rate, _per_group, _Schedule
from .optimizer import StateDict, _eager_only

__all__ = [
    "EMA",
    "SWALR",
    "AveragedModel",
    "Lookahead",
    "get_ema_avg_fn",
    "get_ema_multi_avg_fn",
    "get_swa_avg_fn",
    "get_swa_multi_avg_fn",
    "update_bn",
]

Tensors: TypeAlias = list[Tensor] | tuple[Tensor, ...]
Average: TypeAlias = Callable[[Tensor, Tensor, Tensor | int], Tensor]
MultiAverage: TypeAlias = Callable[[Tensors, Tensors, Tensor | int], None]


# ------------------------------------------------------------------ averaging functions


def get_ema_avg_fn(decay: float = 0.999) -> Average:
    """Return the exponential moving average as an ``avg_fn`` of :class:`AveragedModel`.

    Agrees with ``torch.optim.swa_utils.get_ema_avg_fn`` bit for bit.

    Args:
        decay: d, in [0, 1].

    Raises:
        ValueError: a decay out of its range.
    """
    _check_decay(decay)

    @torch.no_grad()
    def average(averaged: Tensor, current: Tensor, _: Tensor | int) -> Tensor:
        return decay * averaged + (1 - decay) * current

    return average


def get_swa_avg_fn() -> Average:
    """Return the mean as an ``avg_fn`` of :class:`AveragedModel`.

    Agrees with ``torch.optim.swa_utils.get_swa_avg_fn`` bit for bit.
    """

    @torch.no_grad()
    def average(averaged: Tensor, current: Tensor, n: Tensor | int) -> Tensor:
        return averaged + (current - averaged) / (n + 1)

    return average


def get_ema_multi_avg_fn(decay: float = 0.999) -> MultiAverage:
    """Return the exponential moving average as a ``multi_avg_fn`` of :class:`AveragedModel`.

    Agrees with ``torch.optim.swa_utils.get_ema_multi_avg_fn`` bit for bit.

    Args:
        decay: d, in [0, 1].

    Raises:
        ValueError: a decay out of its range.
    """
    return _multi(lambda _: 1 - decay, get_ema_avg_fn(decay))


def get_swa_multi_avg_fn() -> MultiAverage:
    """Return the mean as a ``multi_avg_fn`` of :class:`AveragedModel`.

    Agrees with ``torch.optim.swa_utils.get_swa_multi_avg_fn`` bit for bit. Differs in that integer
    tensors, such as BatchNorm's counter, are averaged as :func:`get_swa_avg_fn` does; torch raises.
    """
    return _multi(lambda n: float(1 / (n + 1)), get_swa_avg_fn())


def _multi(weight: Callable[[Tensor | int], float], average: Average) -> MultiAverage:
    """Make lists move by a weight towards others; integers, which know no lerp, by ``average``."""

    @torch.no_grad()
    def multi_average(averaged: Tensors, current: Tensors, n: Tensor | int) -> None:
        if _is_inexact(averaged[0]):
            torch._foreach_lerp_(averaged, current, weight(n))
        else:
            for a, w in zip(averaged, current, strict=True):
                a.copy_(average(a, w, n))

    return multi_average


# ------------------------------------------------------------------ averages of a model


class AveragedModel(torch.optim.swa_utils.AveragedModel):
    """A copy of a model whose parameters are the average of those it was shown.

    Agrees with ``torch.optim.swa_utils.AveragedModel``, from which it inherits for identity alone:
    bit for bit, and in its state dict (``n_averaged``, ``module.*``). Differs in that a model with
    other parameters or buffers is refused before anything changes, where torch averages as many as
    there are.

    Args:
        model: copied as it is.
        device: where to keep the copy. Default: where the model is.
        avg_fn: makes of an average, a current tensor and n the new average. Default: the mean.
        multi_avg_fn: changes a list of averages in place; likewise.
        use_buffers: average the buffers too. If not, they are copied from the model shown last.

    Raises:
        AssertionError: both ``avg_fn`` and ``multi_avg_fn``.
    """

    def __init__(
        self,
        model: Module,
        device: int | str | torch.device | None = None,
        avg_fn: Average | None = None,
        multi_avg_fn: MultiAverage | None = None,
        use_buffers: bool = False,
    ) -> None:
        Module.__init__(self)
        if avg_fn is not None and multi_avg_fn is not None:
            raise AssertionError("Only one of avg_fn and multi_avg_fn should be provided")
        self.module = deepcopy(model)
        if device is not None:
            self.module = self.module.to(device)
        self.register_buffer("n_averaged", torch.tensor(0, dtype=torch.long, device=device))
        self.avg_fn = avg_fn
        self.multi_avg_fn = multi_avg_fn
        self.use_buffers = use_buffers

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the averaged model returns."""
        return self.module(*args, **kwargs)

    @torch.no_grad()
    def update_parameters(self, model: Module) -> None:
        """Take ``model`` into the average; the first one is copied.

        Args:
            model: of the parameters and buffers of the one copied, in their order; their names
                may differ, as within ``DistributedDataParallel``.

        Raises:
            ValueError: it has others.
        """
        shown = _matched(self.module.parameters(), model.parameters())
        copied = _matched(self.module.buffers(), model.buffers())
        if self.use_buffers:
            shown, copied = shown + copied, []
        if self.n_averaged == 0:
            shown, copied = [], shown + copied
        self._average(shown)
        for averaged, current in copied:
            averaged.copy_(current)
        self.n_averaged += 1

    def _average(self, pairs: list[tuple[Tensor, Tensor]]) -> None:
        if self.avg_fn is not None:
            for averaged, current in pairs:
                n = self.n_averaged.to(averaged.device)
                averaged.copy_(self.avg_fn(averaged, current.to(averaged.device), n))
            return
        averages = [averaged for averaged, _ in pairs]
        for device, (own, new) in _grouped(averages, [w.to(a.device) for a, w in pairs]):
            n = self.n_averaged.to(device)
            if self.multi_avg_fn is not None:
                self.multi_avg_fn(own, new, n)
            elif device.type in _get_foreach_kernels_supported_devices():
                get_swa_multi_avg_fn()(own, new, n)
            else:  # as torch does, which on the CPU takes another formula
                for averaged, current in zip(own, new, strict=True):
                    averaged.copy_(get_swa_avg_fn()(averaged, current, n))


class EMA:
    """The exponential moving average of a model's parameters, kept beside the model.

        d_t = decay, or min(decay, (1 + t) / (10 + t)) in warm-up           t = 1, 2, ...
        avg <- avg + (1 - d_t) (w - avg)

    Call :meth:`update` after each ``optimizer.step()``, and evaluate within :meth:`averaged`::

        ema = EMA(model, decay=0.999)
        ...
        with ema.averaged():
            evaluate(model)

    The average starts as the weights the model has. Agrees bit for bit with ``AveragedModel(model,
    multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=use_buffers)`` that was shown the model at
    once (it copies the first that it is shown), but for integer buffers, which are copied always.
    The warm-up is that of TensorFlow's ``ExponentialMovingAverage``. Differs from timm's
    ``ModelEmaV3`` in that there is no second model. Nothing waits for a GPU, unless the average is
    kept on another device.

    Args:
        model: what to average; it is held, and its tensors are looked up anew at each call.
        decay: d, in [0, 1]; about 1 / (1 - d) steps are remembered.
        warmup: remember fewer steps at first, lest the initial weights last.
        use_buffers: average the floating point buffers too, and keep the others as they were at
            the last update. If not, evaluation uses the buffers the model has.
        device: where to keep the average. Default: where the model is.
        dtype: of the average of real tensors. Default: that of the model; in half precision an
            average with a decay near 1 does not move.

    Attributes:
        averages: the average of each parameter (and buffer) by name, of its shape.
        updates: t.

    Raises:
        ValueError: a decay out of its range.
    """

    def __init__(
        self,
        model: Module,
        decay: float = 0.999,
        *,
        warmup: bool = False,
        use_buffers: bool = False,
        device: int | str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check_decay(decay)
        self.model = model
        self.decay = decay
        self.warmup = warmup
        self.use_buffers = use_buffers
        self.updates = 0
        self.averages = {
            name: w.to(device, dtype if w.is_floating_point() else None, copy=True)
            for name, w in _tensors(model, use_buffers).items()
        }
        self._live: list[Tensor] | None = None  # the weights whose place the average has taken

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights into the average.

        Raises:
            RuntimeError: the model holds the average, not its own weights.
            ValueError: the model's parameters are others than they were.
        """
        self._check_own_weights()
        pairs = self._pairs()
        self.updates += 1
        t = self.updates
        decay = min(self.decay, (1 + t) / (10 + t)) if self.warmup else self.decay
        inexact = [(avg, w) for avg, w in pairs if _is_inexact(avg)]
        averages = [avg for avg, _ in inexact]
        for _, (own, new) in _grouped(averages, [w.to(avg) for avg, w in inexact]):
            torch._foreach_lerp_(own, new, 1 - decay)
        for avg, w in pairs:
            if not _is_inexact(avg):
                avg.copy_(w)

    @torch.no_grad()
    def swap(self) -> None:
        """Write the average into the model in place, or if it is there, put the weights back.

        What was done to the weights in between is lost.
        """
        weights = [w for _, w in self._pairs()]
        if self._live is None:
            self._live = [w.clone() for w in weights]
            _copy(weights, list(self.averages.values()))
        else:
            _copy(weights, self._live)
            self._live = None

    @contextmanager
    def averaged(self) -> Iterator[Module]:
        """Let the model hold the average within a ``with`` block, however the block is left.

        Raises:
            RuntimeError: the model holds it already.
        """
        self._check_own_weights()
        self.swap()
        try:
            yield self.model
        finally:
            self.swap()

    @torch.no_grad()
    def copy_to(self, model: Module) -> None:
        """Write the average into a model of the same parameters, for good.

        Raises:
            ValueError: it has others.
        """
        pairs = _named(self.averages, _tensors(model, self.use_buffers))
        _copy([w for _, w in pairs], [avg for avg, _ in pairs])

    def state_dict(self) -> StateDict:
        """Return all that :meth:`load_state_dict` needs to go on; its tensors are not copied."""
        return {
            "decay": self.decay,
            "warmup": self.warmup,
            "updates": self.updates,
            "averages": dict(self.averages),
        }

    @torch.no_grad()
    def load_state_dict(self, state_dict: StateDict) -> None:
        """Take over what :meth:`state_dict` returned, by copying; decay and warm-up too.

        Raises:
            ValueError: it is incomplete, or of another model. Nothing has been changed then.
            RuntimeError: the model holds the average, not its own weights.
        """
        self._check_own_weights()
        absent = {"decay", "warmup", "updates", "averages"} - state_dict.keys()
        if absent:
            raise ValueError(
                f"the loaded state dict lacks {sorted(absent)}; it has {sorted(state_dict)}. Was "
                "it saved by EMA.state_dict()?"
            )
        _check_decay(state_dict["decay"])
        pairs = _named(self.averages, state_dict["averages"])
        self.decay, self.warmup = state_dict["decay"], state_dict["warmup"]
        self.updates = state_dict["updates"]
        _copy([avg for avg, _ in pairs], [saved for _, saved in pairs])

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Return each average with what it is the average of."""
        return _named(self.averages, _tensors(self.model, self.use_buffers))

    def _check_own_weights(self) -> None:
        if self._live is not None:
            raise RuntimeError(
                "the model holds the average in place of its own weights; leave the block of "
                "averaged(), or call swap(), first"
            )


@torch.no_grad()
def update_bn(
    loader: Iterable[Any], model: Module, device: int | str | torch.device | None = None
) -> None:
    """Compute the statistics of a model's BatchNorm layers anew, as means over all of ``loader``.

    Averaged weights give other activations, so the averages of the statistics do not fit them.
    Agrees with ``torch.optim.swa_utils.update_bn`` bit for bit. Differs in that modes and momenta
    are restored when a batch raises too, and the mode of each module of its own.

    Args:
        loader: batches; of a list or tuple the first entry is taken.
        model: whose layers of torch's ``_BatchNorm`` or its subclasses to change. Without one
            nothing is done.
        device: where to move the batches first.
    """
    momenta: dict[Any, float | None] = {
        module: module.momentum
        for module in model.modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    }
    if not momenta:
        return
    modes = {module: module.training for module in model.modules()}
    for layer in momenta:
        layer.reset_running_stats()
    try:
        model.train()
        for layer in momenta:
            layer.momentum = None  # the mean over all batches
        for batch in loader:
            if isinstance(batch, (list, tuple)):
                batch = batch[0]
            model(batch if device is None else batch.to(device))
    finally:
        for layer, momentum in momenta.items():
            layer.momentum = momentum
        model.train(modes[model])
        for module, training in modes.items():
            module.training = training


# ------------------------------------------------------------------ learning rate


class SWALR(_Schedule, torch.optim.swa_utils.SWALR):
    """Take the learning rate to the constant one of SWA.

    Agrees with ``torch.optim.swa_utils.SWALR``, from which it inherits for identity alone: bit for
    bit, and in its state dict.

    Args:
        optimizer: whose learning rates to set.
        swa_lr: the rate to end with, per step; one for all groups or a list.
        anneal_epochs: T, in calls of :meth:`step`; 0: at once.
        anneal_strategy: "cos" or "linear", a.
        last_epoch: t of the last step taken, -1 if there was none.

    Raises:
        ValueError: an unknown strategy, a negative T, a list of another length than the groups.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        swa_lr: Rate | list[Rate],
        anneal_epochs: int = 10,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        last_epoch: int = -1,
    ) -> None:
        swa_lrs = _per_group("swa_lr", swa_lr, optimizer)
        self._set_anneal_func(anneal_strategy)
        if not isinstance(anneal_epochs, int) or anneal_epochs < 0:
            raise ValueError(f"anneal_epochs must be equal or greater than 0, got {anneal_epochs}")
        self.anneal_epochs = anneal_epochs
        for group, rate in zip(optimizer.param_groups, swa_lrs, strict=True):
            group["swa_lr"] = rate
        super().__init__(optimizer, last_epoch)

    @staticmethod
    def _linear_anneal(t: float) -> float:
        return t

    @staticmethod
    def _cosine_anneal(t: float) -> float:
        return (1 - math.cos(math.pi * t)) / 2

    @staticmethod
    def _get_initial_lr(lr: Rate, swa_lr: Rate, alpha: float) -> Rate:
        """Return lr_0, given the lr of a step and its a; after the last step it is not needed."""
        return swa_lr if alpha == 1 else (lr - alpha * swa_lr) / (1 - alpha)

    def _set_anneal_func(self, anneal_strategy: Literal["cos", "linear"]) -> None:
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"anneal_strategy must be one of 'cos' or 'linear', instead got {anneal_strategy}"
            )
        self._anneal_strategy = anneal_strategy
        self.anneal_func = self._cosine_anneal if anneal_strategy == "cos" else self._linear_anneal

    def _next(self, t: Any) -> list[Rate]:
        # Not last_epoch: a resumed schedule begins anew. Where T = 0 the first step is the last.
        t = max(1, self._step_count - 1) if self.anneal_epochs == 0 else self._step_count - 1
        before, a = (
            self.anneal_func(max(0, min(1, step / max(1, self.anneal_epochs))))
            for step in (t - 1, t)
        )
        rates: list[Rate] = []
        for group in self.optimizer.param_groups:
            lr_0 = self._get_initial_lr(group["lr"], group["swa_lr"], before)
            rates.append(group["swa_lr"] * a + lr_0 * (1 - a))
        return rates

    def state_dict(self) -> StateDict:
        """Return all attributes but the optimizer and a."""
        return {
            key: value
            for key, value in self.__dict__.items()
            if key not in ("optimizer", "anneal_func")
        }

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Take over what :meth:`state_dict` returned, here or in torch.

        Raises:
            ValueError: it names a strategy that is unknown. Nothing has been changed then.
        """
        self._set_anneal_func(state_dict["_anneal_strategy"])
        self.__dict__.update({k: v for k, v in state_dict.items() if k != "anneal_func"})


# ------------------------------------------------------------------ lookahead

_MOMENTA = ("momentum_buffer", "exp_avg")
"""Names of the states that are a momentum, in torch's optimizers and in this library's."""

_HOOKS = (
    "_optimizer_step_pre_hooks",
    "_optimizer_step_post_hooks",
    "_optimizer_state_dict_pre_hooks",
    "_optimizer_state_dict_post_hooks",
    "_optimizer_load_state_dict_pre_hooks",
    "_optimizer_load_state_dict_post_hooks",
)


def _shared(name: str) -> Any:
    """Return a property that is the inner optimizer's attribute of this name."""
    return property(
        lambda self: getattr(self.optimizer, name),
        lambda self, value: setattr(self.optimizer, name, value),
        doc=f"``{name}`` of the inner optimizer.",
    )


class Lookahead(Optimizer):
    """Let any optimizer take k steps, then go a part of the way that they lead.

        theta <- the inner optimizer's step                          fast weights
        phi   <- phi + alpha (theta - phi),  theta <- phi            slow ones, every k steps

    Use it in the place of the inner optimizer, whose groups, options and state it shares: for
    schedulers, for ``zero_grad`` and for ``torch.amp.GradScaler`` (which skips its step when a
    gradient is infinite; such a step is not counted). Between two synchronizations the model holds
    the fast weights. To end a training on the slow ones call ``sync(0)``, or ``sync()`` to move
    them once more. Agrees with the paper's algorithm 1; with ``alpha=1`` with the inner optimizer,
    bit for bit. Buffers, such as BatchNorm's statistics, are not looked after.

    Args:
        optimizer: the inner one, of ``torch.optim``, this library or elsewhere.
        k: how many steps it takes between two synchronizations.
        alpha: how much of the way to go; in (0, 1].
        momentum: what becomes of the inner momentum (``momentum_buffer`` or ``exp_avg``) when theta
            jumps: "keep" it; "reset" it to zero; "pull" it back, as the weights, to a slow one
            that begins at zero. Second moments and step counts are kept.

    State: the inner one's. In the state dict the entry ``lookahead`` is added: the options, the
    steps taken since the last synchronization, and phi for each parameter by its number.

    Raises:
        TypeError: ``optimizer`` is none.
        ValueError: an option out of its range, or ``optimizer`` is another Lookahead.
    """

    optimizer: Optimizer
    k: int
    alpha: float
    momentum: str
    taken: int
    _slow: dict[Tensor, dict[str, Tensor]]

    param_groups = _shared("param_groups")
    state = _shared("state")
    defaults = _shared("defaults")

    def __init__(
        self,
        optimizer: Optimizer,
        k: int = 5,
        alpha: float = 0.5,
        momentum: Literal["keep", "reset", "pull"] = "keep",
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        if isinstance(optimizer, Lookahead):
            raise ValueError("the optimizer is another Lookahead; hand in the one that it wraps")
        options = {"k": k, "alpha": alpha, "momentum": momentum}
        _check_lookahead(k, alpha, momentum)
        # Not the base class's __init__: groups and state are there already.
        self.__setstate__({"optimizer": optimizer, **options, "taken": 0, "_slow": {}})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @_eager_only
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Let the inner optimizer take a step; synchronize if it was the k-th.

        Args:
            closure: evaluates the model anew, calls ``backward`` and returns the loss.

        Returns:
            What the inner optimizer returned.
        """
        with self.taking_a_step():
            return self.optimizer.step() if closure is None else self.optimizer.step(closure)

    @contextmanager
    def taking_a_step(self) -> Iterator[None]:
        """Within it the inner optimizer takes a step by itself; afterwards synchronize if due.

        For a step that is replayed as a CUDA graph, in which nothing is counted::

            with lookahead.taking_a_step():
                graph.replay()  # of lookahead.optimizer.step()
        """
        for p in self._parameters():
            if p.requires_grad and p not in self._slow:
                self._slow[p] = {"weight": p.detach().clone()}
        yield
        self._opt_called = True  # as schedulers note it at step()
        self.taken += 1
        if self.taken >= self.k:
            self.sync()

    @_eager_only
    @torch.no_grad()
    def sync(self, alpha: float | None = None) -> None:
        """Move the slow weights, set the fast ones to them, and begin a new cycle.

        Args:
            alpha: how much of the way to go. Default: as always; 0: undo the steps since the last
                synchronization, so that the model holds the slow weights as they are.
        """
        alpha = self.alpha if alpha is None else alpha
        fast: list[Tensor] = []
        slow: list[Tensor] = []
        for p, own in self._slow.items():
            fast.append(p)
            slow.append(own["weight"])
            for name, b in self._momenta(p):
                if self.momentum == "reset":
                    b.zero_()
                elif self.momentum == "pull":
                    if name not in own:
                        own[name] = torch.zeros_like(b)
                    fast.append(b)
                    slow.append(own[name])
        for _, (theta, phi) in _grouped(fast, slow):
            if alpha != 0:
                torch._foreach_lerp_(phi, theta, alpha)
            _copy(theta, phi)
        self.taken = 0

    @torch.no_grad()
    def reset(self) -> None:
        """Begin anew, as the inner optimizer does; slow weights begin where the model is now.

        Raises:
            AttributeError: the inner optimizer has no ``reset``, as those of ``torch.optim``.
        """
        self.optimizer.reset()  # type: ignore[attr-defined]
        self.taken = 0
        self._slow = {}

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Do as the inner optimizer does."""
        self.optimizer.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the inner optimizer; its slow weights begin as they are at its first step.

        Args:
            param_group: as the inner optimizer takes it.
        """
        self.optimizer.add_param_group(param_group)

    def state_dict(self) -> StateDict:
        """Return the inner optimizer's state dict with an entry ``lookahead`` of its own."""
        for pre_hook in self._optimizer_state_dict_pre_hooks.values():
            pre_hook(self)
        numbers = {p: i for i, p in reversed(list(enumerate(self._parameters())))}
        state_dict = {
            **self.optimizer.state_dict(),
            "lookahead": {
                "k": self.k,
                "alpha": self.alpha,
                "momentum": self.momentum,
                "taken": self.taken,
                "slow": {numbers[p]: dict(own) for p, own in self._slow.items() if p in numbers},
            },
        }
        for post_hook in self._optimizer_state_dict_post_hooks.values():
            state_dict = post_hook(self, state_dict) or state_dict
        return state_dict

    @_eager_only
    def load_state_dict(self, state_dict: StateDict) -> None:
        """Take over what :meth:`state_dict` returned, options too, by copying.

        A state dict of the inner optimizer alone is taken too; a new cycle begins then.

        Args:
            state_dict: the entry ``lookahead`` is checked first, then handed on without it.

        Raises:
            ValueError: it is damaged, or of other parameters. Nothing has been changed then.
        """
        state_dict = state_dict.copy()
        for pre_hook in self._optimizer_load_state_dict_pre_hooks.values():
            state_dict = pre_hook(self, state_dict) or state_dict
        own = state_dict.get("lookahead")
        loaded = {"taken": 0, "_slow": {}} if own is None else self._loaded(own)
        self.optimizer.load_state_dict({k: v for k, v in state_dict.items() if k != "lookahead"})
        self.__dict__.update(loaded)
        for post_hook in self._optimizer_load_state_dict_post_hooks.values():
            post_hook(self)

    def _loaded(self, own: StateDict) -> dict[str, Any]:
        """Return the attributes that the entry of a state dict stands for."""
        absent = {"k", "alpha", "momentum", "taken", "slow"} - own.keys()
        if absent:
            raise ValueError(
                f"the entry 'lookahead' of the loaded state dict lacks {sorted(absent)}; it has "
                f"{sorted(own)}"
            )
        options = {name: own[name] for name in ("k", "alpha", "momentum")}
        _check_lookahead(**options)
        if not isinstance(own["taken"], int) or own["taken"] < 0:
            raise ValueError(f"the loaded count of steps taken is {own['taken']!r}")
        params = self._parameters()
        slow: dict[Tensor, dict[str, Tensor]] = {}
        for i, saved in own["slow"].items():
            if i not in range(len(params)):
                raise ValueError(
                    f"the loaded state dict has slow weights of parameter {i}, but there are "
                    f"{len(params)} parameters"
                )
            p = params[i]
            for name, x in {"weight": None, **saved}.items():
                if not isinstance(x, Tensor) or x.shape != p.shape:
                    raise ValueError(
                        f"the loaded slow {name!r} of parameter {i} must be a tensor of the shape "
                        f"{tuple(p.shape)}, but is "
                        f"{tuple(x.shape) if isinstance(x, Tensor) else repr(x)}"
                    )
            slow[p] = {name: torch.empty_like(p).copy_(x) for name, x in saved.items()}
        return {**options, "taken": own["taken"], "_slow": slow}

    def __getstate__(self) -> dict[str, Any]:
        names = ("optimizer", "k", "alpha", "momentum", "taken", "_slow")
        return {name: self.__dict__[name] for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for name in _HOOKS:
            self.__dict__.setdefault(name, OrderedDict())
        self._patch_step_function()

    def __repr__(self) -> str:
        options = f"k={self.k}, alpha={self.alpha}, momentum={self.momentum!r}"
        return f"{type(self).__name__}({options}) of {self.optimizer!r}"

    def _momenta(self, p: Tensor) -> list[tuple[str, Tensor]]:
        state = self.state.get(p, {})
        return [(name, state[name]) for name in _MOMENTA if state.get(name) is not None]

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]


def _check_lookahead(k: int, alpha: float, momentum: str) -> None:
    if not isinstance(k, int) or k < 1:
        raise ValueError(f"k must be an integer >= 1, but is {k!r}")
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must be in (0, 1], but is {alpha}")
    if momentum not in ("keep", "reset", "pull"):
        raise ValueError(f"momentum must be 'keep', 'reset' or 'pull', but is {momentum!r}")


# ------------------------------------------------------------------ tools


def _check_decay(decay: float) -> None:
    if not 0 <= decay <= 1:
        raise ValueError(
            f"Invalid decay value {decay} provided. Please provide a value in [0,1] range."
        )


def _is_inexact(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def _tensors(model: Module, use_buffers: bool) -> dict[str, Tensor]:
    """Return the parameters, and the buffers if asked for, by name, detached."""
    buffers = model.named_buffers() if use_buffers else ()
    return {name: x.detach() for name, x in (*model.named_parameters(), *buffers)}


def _matched(own: Iterable[Tensor], others: Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return pairs of averages and what is to go into them; raise if they do not go together."""
    own, others = ([x.detach() for x in tensors] for tensors in (own, others))
    if len(own) != len(others):
        raise ValueError(
            f"there are {len(own)} averages, but {len(others)} tensors to go with them"
        )
    for i, (x, y) in enumerate(zip(own, others, strict=True)):
        if x.shape != y.shape:
            raise ValueError(
                f"average {i} has the shape {tuple(x.shape)}, but the tensor for it has "
                f"{tuple(y.shape)}. Is it another model?"
            )
    return list(zip(own, others, strict=True))


def _named(own: dict[str, Tensor], others: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Do as :func:`_matched` does, by name."""
    if own.keys() != others.keys():
        raise ValueError(
            f"the tensors for the averages lack {sorted(own.keys() - others.keys())} and "
            f"have {sorted(others.keys() - own.keys())} in excess. Is it another model?"
        )
    return _matched(own.values(), [others[name] for name in own])


def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    for x, y in zip(targets, sources, strict=True):  # a DTensor knows no _foreach_copy_
        x.copy_(y)


def _grouped(*lists: list[Tensor]) -> Iterator[tuple[torch.device, list[list[Tensor]]]]:
    """Group tensors, and those that go with them, by device and dtype."""
    if lists[0]:
        kinds = _group_tensors_by_device_and_dtype(list(lists))  # type: ignore[arg-type]
        for (device, _), (rows, _) in kinds.items():
            yield device, rows  # type: ignore[misc]
