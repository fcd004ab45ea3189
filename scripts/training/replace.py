"""The names of torch stand for what is written by hand: in this process, and in those it starts.

    with replaced() as used:
        torch.optim.Adam              # is scratch_optim.Adam
        torch.nn.functional.dropout   # is scratch_layers.functional.dropout
    print(used)                       # how often each was made or called

**Which names.** Those that a namespace here and the one that it stands in for have in common:
:func:`stand_ins` walks both. Two are left out (:data:`KEPT`).

**Where.** A name of torch is bound in several modules: ``BatchNorm2d`` in ``torch.nn``,
``torch.nn.modules`` and ``torch.nn.modules.batchnorm``. So it is not names that are looked for but
the object, in every module that is loaded, and among the defaults of every function
(``nn.TransformerEncoderLayer(activation=F.relu)``). What is imported later finds the new object.
Left alone are the operators in ``torch`` and ``torch._C``, some of which ``torch.nn.functional``
shows under a name of its own (``torch.prelu``), and these libraries themselves: they inherit from
what they stand in for, so that ``isinstance`` holds for whoever asks with torch's class.

**What torch's own code computes** with these names is by hand too, since there is but one
``F.softmax`` in the process: ``nn.MultiheadAttention`` drops out and takes its softmax by hand,
unless it hands all of it to one operator (``scaled_dot_product_attention``).

**Under which name.** A stand-in goes by the name that it stands for (``__module__`` and
``__qualname__``). So a model that was saved whole can be loaded where there is no such library,
one that was saved there is by hand when it is loaded here, and whoever asks whether a layer is
torch's (``torch.fx``, which does not look inside of those) gets the answer that it always got.

Two things are switched off while layers are replaced:

- TorchScript, as by ``PYTORCH_JIT=0``. It compiles a part of Python in which no derivative can be
  written. What is scripted runs as Python, and by hand.
- The cache of ``torch.compile`` on disk that tells graphs apart by the names of the functions in
  them (AOTAutograd's; Inductor's, by operators, stays). It would take torch's for ours, and later
  ours for torch's.

Out of reach: objects in containers and base classes of classes that exist already, such as the
tables of ``torch.ao.quantization``.
"""

from __future__ import annotations

import functools
import gc
import inspect
import multiprocessing.spawn
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess, current_process
from types import FunctionType, ModuleType
from typing import Any

import torch
import torch._functorch.config
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

import scratch_layers
import scratch_optim

LIBRARIES = {
    "optim": ((scratch_optim, torch.optim), (scratch_optim.clip_grad, nn.utils)),
    "layers": ((scratch_layers, nn),),
}
"""What stands in for what. Modules inside of them that bear the same name are walked too."""

NOTHING = "nothing"
"""Among the choices of what to replace."""

CHOICES = (*LIBRARIES, NOTHING)

KEPT = {
    "Optimizer": "computes nothing; others write optimizers that inherit from it",
    "LRScheduler": "computes nothing; others write schedules that inherit from it",
    "_LRScheduler": "is LRScheduler under its name of old",
}
"""Names that stay torch's, which both their classes and ours inherit from."""

ABSENT = object()


@dataclass(frozen=True)
class StandIn:
    """A name of torch, what it stands for natively, and what it is to stand for."""

    family: str
    """The module of torch that offers it."""
    name: str
    theirs: Any
    ours: Any
    where: str
    """The name here."""


def stand_ins(only: str | None = None) -> list[StandIn]:
    """Return all stand-ins, or those of one library.

    Args:
        only: one of :data:`CHOICES`; None for all.

    Raises:
        ValueError: another choice.
    """
    if only not in (None, *CHOICES):
        raise ValueError(f"only={only!r} is none of {', '.join(CHOICES)}")
    libraries = [LIBRARIES[name] for name in LIBRARIES if only in (None, name)]
    return [found for pairs in libraries for pair in pairs for found in _in_common(*pair)]


def _in_common(ours: ModuleType, theirs: ModuleType) -> Iterator[StandIn]:
    for name in ours.__all__:
        mine, torchs = getattr(ours, name), getattr(theirs, name, None)
        if inspect.ismodule(mine) and inspect.ismodule(torchs):
            yield from _in_common(mine, torchs)
        elif callable(mine) and callable(torchs) and name not in KEPT:
            yield StandIn(theirs.__name__, name, torchs, mine, f"{ours.__name__}.{name}")


class Used:
    """How often each stand-in was used in this process. Printed, a line for each module of torch.

    Attributes:
        counts: of a (module, name), how often the class was made or the function called, and how
            many steps an optimizer took, as "Adam.step".
        compiled: those that torch.compile took into a graph. What runs there is not counted.
        rank: of this process among those of ``torch.distributed``.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.compiled: set[tuple[str, str]] = set()
        self.rank = int(os.environ.get("RANK", 0))

    def note_made(self, key: tuple[str, str]) -> None:
        """Count a class that was made, and see which process this is while there is a group."""
        self.counts[key] += 1
        distributed = torch.distributed
        if distributed.is_available() and distributed.is_initialized():
            self.rank = distributed.get_rank()

    def __str__(self) -> str:
        lines: dict[str, list[str]] = {}
        for family, name in sorted({*self.counts, *self.compiled}):
            how = [str(self.counts[family, name])] if self.counts[family, name] else []
            how += ["compiled"] if (family, name) in self.compiled else []
            lines.setdefault(family, []).append(f"{name} {' and '.join(how)}")
        return "\n".join(f"{family}: {', '.join(names)}" for family, names in lines.items())


@contextmanager
def replaced(
    only: str | None = None, *, kernels: bool = False, fused: bool = False
) -> Iterator[Used]:
    """Let the names of torch stand for the hand-written classes and functions.

    Processes that ``multiprocessing`` starts meanwhile do the same, however they are started, and
    those that used something write to stderr what it was.

    Args:
        only: "optim" or "layers" for the one library alone, "nothing" to leave all as it is.
        kernels: run the layers compiled, see :func:`scratch_layers.compile_kernels`.
        fused: run optimizers fused that have such a way and were given none.

    Raises:
        ValueError: another ``only``; nothing is changed then.
    """
    found = stand_ins(only)
    used = Used()
    options = {"only": only, "kernels": kernels, "fused": fused}
    layers = any(s.family == nn.__name__ for s in found)
    with ExitStack() as stack:
        for binding in [
            *_bindings(found, used, fused),
            *(_in_children(options, used) if found else ()),
            *([(torch.jit._state._enabled, "enabled", False)] if layers else ()),
            *([(torch._functorch.config, "enable_autograd_cache", False)] if layers else ()),
        ]:
            stack.callback(_bind, *_bound(*binding))
            _bind(*binding)
        if kernels:
            stack.enter_context(scratch_layers.compile_kernels())
        made = {s.ours: (s.family, f"{s.name}.step") for s in found if s.family == "torch.optim"}

        def note_step(optimizer: Any, *_: Any) -> None:
            kind = _first(type(optimizer), made)
            if kind is not None:
                used.counts[made[kind]] += 1

        stack.callback(register_optimizer_step_post_hook(note_step).remove)
        yield used


Binding = tuple[Any, str, Any]
"""An object, the name of an attribute, and its value."""


def _bound(owner: Any, name: str, value: Any) -> Binding:
    """The binding that is there now."""
    own = name in vars(owner) if name == "__init__" else True
    return owner, name, getattr(owner, name) if own else ABSENT


def _bind(owner: Any, name: str, value: Any) -> None:
    if value is ABSENT:
        delattr(owner, name)
    else:
        setattr(owner, name, value)


def _bindings(found: Sequence[StandIn], used: Used, fused: bool) -> Iterator[Binding]:
    """Every attribute that is to change."""
    classes = {s.ours: (s.family, s.name) for s in found if isinstance(s.ours, type)}
    new: dict[int, Any] = {}
    for s in found:
        if s.ours in classes:
            new[id(s.theirs)] = s.ours
            yield s.ours, "__init__", _counted_init(s.ours, classes, used, fused)
            yield s.ours, "__module__", s.theirs.__module__
            yield s.ours, "__qualname__", s.theirs.__qualname__
        else:
            new[id(s.theirs)] = _counted(s, used)
    # by type(): isinstance asks objects that answer with a warning, or by importing something
    for module in [m for m in sys.modules.values() if issubclass(type(m), ModuleType)]:
        if not _is_left_alone(module.__name__):
            for name, value in list(vars(module).items()):
                if id(value) in new:
                    yield module, name, new[id(value)]
    for f in [f for f in gc.get_objects() if type(f) is FunctionType]:
        if any(id(value) in new for value in f.__defaults__ or ()):
            yield f, "__defaults__", tuple(new.get(id(v), v) for v in f.__defaults__ or ())
        if any(id(value) in new for value in (f.__kwdefaults__ or {}).values()):
            defaults = f.__kwdefaults__ or {}
            yield f, "__kwdefaults__", {k: new.get(id(v), v) for k, v in defaults.items()}


def _is_left_alone(module: str) -> bool:
    package = module.partition(".")[0]
    by_hand = package in (scratch_layers.__name__, scratch_optim.__name__)
    return by_hand or module in ("torch", "torch._VF") or module.startswith("torch._C")


def _first(kind: type, classes: dict[Any, Any]) -> type | None:
    """The class itself, or that of its bases which comes first, that is among the classes."""
    return next((base for base in kind.__mro__ if base in classes), None)


def _counted_init(
    kind: type, classes: dict[Any, tuple[str, str]], used: Used, fused: bool
) -> Callable[..., None]:
    """The constructor of a class, counting. A class that inherits from another counts as itself."""
    own = vars(kind).get("__init__")
    signature = inspect.signature(kind)
    ways = ("foreach", "fused", "differentiable")
    takes_ways = fused and set(ways) <= signature.parameters.keys()

    @functools.wraps(kind.__init__)  # type: ignore[misc]
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        if _first(type(self), classes) is kind:
            used.note_made(classes[kind])
        if takes_ways and not any(kwargs.get(way) is not None for way in ways):
            kwargs["fused"] = True
        if own is not None:
            own(self, *args, **kwargs)
        else:
            super(kind, self).__init__(*args, **kwargs)  # type: ignore[arg-type]

    return init


def _counted(stand_in: StandIn, used: Used) -> Callable[..., Any]:
    """The function, counting, under the name that it stands for."""
    key, f = (stand_in.family, stand_in.name), stand_in.ours

    def note_compiled() -> None:
        used.compiled.add(key)

    # What torch.compiler.assume_constant_result does, after importing Dynamo: called while a graph
    # is traced, instead of being traced.
    note_compiled._dynamo_marked_constant = True  # type: ignore[attr-defined]

    @functools.wraps(f)
    def counted(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            note_compiled()
        else:
            used.counts[key] += 1
        return f(*args, **kwargs)

    counted.__module__, counted.__qualname__ = key
    counted.__name__ = stand_in.name  # which a functools.partial has not
    return counted


# ------------------------------------------------------------------ processes started meanwhile


def _in_children(options: dict[str, Any], used: Used) -> Iterator[Binding]:
    """A forked process has the stand-ins; a spawned one is told before it imports the script."""
    prepare, run = multiprocessing.spawn.get_preparation_data, BaseProcess.run

    def get_preparation_data(name: str) -> dict[str, Any]:
        return {"dropin": _Message(options), **prepare(name)}

    def run_and_report(self: BaseProcess) -> None:
        used.counts.clear()  # those of the process that forked
        used.compiled.clear()
        try:
            run(self)
        finally:
            report(used, f"dropin ({current_process().name})", silent_if_unused=True)

    yield multiprocessing.spawn, "get_preparation_data", get_preparation_data
    yield BaseProcess, "run", run_and_report


class _Message:
    """Unpickled in another process, it makes the replacement there: see :func:`install`."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options

    def __reduce__(self) -> tuple[Any, ...]:
        # by path, since the other process does not know where to import this module from
        code = f"import runpy; runpy.run_path({__file__!r})['install'](**{self.options!r})"
        return exec, (code, {})


_for_good = ExitStack()


def install(**options: Any) -> None:
    """Make the replacement for the rest of the process; options are those of :func:`replaced`."""
    _for_good.enter_context(replaced(**options))


def report(used: Used, who: str = "dropin", *, silent_if_unused: bool = False) -> None:
    """Write to stderr what was used, if this is the first process of its group."""
    if used.rank != 0 or (silent_if_unused and not str(used)):
        return
    lines = str(used).splitlines() or ["no name that was replaced was used in this process"]
    print("\n".join(f"{who}: {line}" for line in lines), file=sys.stderr, flush=True)
