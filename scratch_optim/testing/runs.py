"""Runs of one optimizer beside each other, and what must hold between them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from .compare import assert_same, copied, epsilons
from .kit import skip
from .options import Options
from .subject import REFUSALS, Make, Subject, gradients, parameters

ROUNDINGS = 2.0**16
"""How many epsilons of float64 two runs of one equation may be apart that group the parameters
otherwise: sums and vector registers may be cut elsewhere, see :attr:`Pair.allowed`."""


class Run:
    """One optimizer on parameters of its own; all runs are fed with the same gradients."""

    def __init__(
        self,
        subject: Subject,
        options: Options | None = None,
        dtype: torch.dtype = torch.float32,
        make: Make | None = None,
    ) -> None:
        self.subject, self.dtype, self.taken = subject, dtype, 0
        self.params = parameters(subject.shapes, dtype, subject.device)
        options = subject.typical if options is None else options
        self.optimizer = (make or subject.make)(self.params, **options)

    def gradients(self, factor: float = 1.0) -> list[Tensor]:
        """The gradients of the next step."""
        rows = gradients(self.subject.shapes, self.dtype, self.subject.device)
        pairs = zip(self.params, rows[self.taken % len(rows)], strict=True)
        return [self.subject.as_given(p, g * factor) for p, g in pairs]

    def step(self, steps: int = 1, without: Iterable[int] = (), factor: float = 1.0) -> None:
        """Take steps; the parameters ``without`` have no gradient."""
        absent = set(without)
        for _ in range(steps):
            row = enumerate(self.gradients(factor))
            grads = [None if i in absent else g for i, g in row]
            self.subject.take_step(self.optimizer, self.params, grads)
            self.taken += 1

    def states(self) -> list[dict[str, Any]]:
        """The states of the parameters."""
        return [self.optimizer.state.get(p, {}) for p in self.params]

    def snapshot(self) -> dict[str, Any]:
        """A copy of what there is to change: parameters, state and groups."""
        groups = self.optimizer.param_groups
        return {
            "parameters": [p.detach().clone() for p in self.params],
            "state": copied(self.states()),
            "groups": [copied({k: v for k, v in g.items() if k != "params"}) for g in groups],
            "of groups": [[id(p) for p in group["params"]] for group in groups],
        }

    def check_unchanged(self, before: dict[str, Any], what: str) -> None:
        """Raise if a snapshot is no longer true."""
        assert_same(self.snapshot(), before, what)


def check_equal(a: Run, b: Run, what: str) -> None:
    """Parameters and states must have the same bits: they did the same operations."""
    for part, mine, other in (("parameter", a.params, b.params), ("state", a.states(), b.states())):
        for i, (x, y) in enumerate(zip(mine, other, strict=True)):
            assert_same(x, y, f"{what}: {part} {i} {tuple(a.params[i].shape)}")


def check_alike(a: Run, b: Run, what: str, of: Iterable[int] | None = None) -> None:
    """Parameters must be the same up to roundings."""
    for i in range(len(a.params)) if of is None else of:
        apart = epsilons(a.params[i], b.params[i])
        assert apart <= ROUNDINGS, (
            f"{what}: parameter {i} {tuple(a.params[i].shape)} is {apart:.3g} epsilons of "
            f"{a.dtype} from what it should be, where {ROUNDINGS:.3g} are allowed"
        )


def each_way(subject: Subject) -> list[Options]:
    """Typical options, in every way to run."""
    return [subject.typical | switch for switch in subject.ways.values()]


def each(subject: Subject) -> list[Options]:
    """All options as the class runs them, and typical ones in every way."""
    return [*subject.options, *each_way(subject)]


def error_of(act: Callable[[], Any]) -> Exception | None:
    """The error by which something is refused, or None; any other error is no refusal."""
    try:
        act()
    except REFUSALS as error:
        return error
    return None


def must_refuse(act: Callable[[], Any], what: str) -> Exception:
    """The error by which ``act`` is refused; raise if it is not."""
    error = error_of(act)
    assert error is not None, f"{what} is taken without an error"
    assert str(error), f"{what} is refused, but {type(error).__name__} has no message"
    return error


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in nested dicts, lists and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for x in value.values():
            yield from tensors_in(x)
    elif isinstance(value, (list, tuple)):
        for x in value:
            yield from tensors_in(x)


def some_of(indices: Sequence[int], make: Make) -> Make:
    """An optimizer of some of the parameters that it is handed."""
    return lambda params, **options: make([params[i] for i in indices], **options)


def need_float64(subject: Subject) -> None:
    """Skip a class that refuses float64."""
    if not subject.takes(torch.float64):
        skip("does not take float64, in which roundings could be told from errors")


def need_separable(subject: Subject) -> None:
    """Skip a class that updates a parameter by what the others are."""
    if subject.needs_closure:
        skip("evaluates a closure, and updates all parameters as one vector")
    if not subject.separable(subject.make):
        skip("what becomes of a parameter depends on the others")


def give_other_memory(
    optimizer: torch.optim.Optimizer, params: Sequence[Parameter], what: str
) -> None:
    """Move parameters, or their state (but for counts), as ``x.data = ...`` does.

    Args:
        optimizer: whose state it is.
        params: the parameters.
        what: ``"parameters"`` or ``"state"``.
    """
    states = [x for p in params for x in optimizer.state.get(p, {}).values()]
    arrays = [x for x in states if type(x) is Tensor and x.dim()]
    for x in arrays if what == "state" else params:
        x.data = x.data.clone()
