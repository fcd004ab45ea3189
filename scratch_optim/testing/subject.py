"""What is checked: an optimizer's class, what it is compared with, and what it is fed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from .compare import assert_same, epsilons
from .kit import NotApplicable, circumstances, public_name, skip
from .options import SWITCHES, WAYS, Options, changes_of, derived, parameters_of

SHAPES: tuple[tuple[int, ...], ...] = ((5, 3), (4, 3, 3, 2), (7,), (), (0, 3), (33,), (1, 1))
"""Matrix, convolution, bias, scalar, nothing at all, longer than a vector register, one element."""

HALF = (torch.bfloat16, torch.float16)

REFUSALS = (ValueError, TypeError, RuntimeError, NotImplementedError, AssertionError)
"""Errors by which an optimizer says that it does not take something."""

Equation = Callable[..., Tensor]
"""``f(theta, g, state, t, **options) -> theta``: a step in float64, of one parameter.

``state`` is a dict of its own, empty before the first step, ``t`` counts from 1.
"""

Make = Callable[..., torch.optim.Optimizer]


# ------------------------------------------------------------------ parameters and gradients


@cache
def _numbers(shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    wide = torch.promote_types(dtype, torch.float32)
    return [torch.randn(shape, generator=generator, dtype=wide).to(dtype) for shape in shapes]


def parameters(
    shapes: Sequence[tuple[int, ...]] = SHAPES,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seed: int = 0,
) -> list[Parameter]:
    """New parameters, the same for the same arguments; those of 4 dimensions channels_last."""
    result = []
    for x in _numbers(tuple(shapes), dtype, seed):
        x = x.to(device, copy=True)
        if x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        result.append(Parameter(x))
    return result


@cache
def gradients(
    shapes: tuple[tuple[int, ...], ...] = SHAPES,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    steps: int = 10,
) -> list[list[Tensor]]:
    """Gradients for some steps: of magnitudes 1e-3 to 1e2, one of them zero. Not to be changed."""
    result = []
    for step in range(steps):
        # Powers of ten that come in no order, so that running means rise and fall.
        scale = 0.0 if step == 5 else 10.0 ** ((step * 7) % 6 - 3)
        rows = _numbers(shapes, dtype, 100 + step)
        # Times 0 would leave the sign of what was there.
        result.append([(x * scale if scale else torch.zeros_like(x)).to(device) for x in rows])
    return result


def laid_as(p: Tensor, g: Tensor) -> Tensor:
    """A copy of the gradient that lies in memory as autograd would lay it: as its parameter."""
    return torch.empty_like(p).copy_(g)


# ------------------------------------------------------------------ an equation as an optimizer


class EquationOptimizer(torch.optim.Optimizer):
    """A plain function as an optimizer: the reference for a class that has none.

    Whatever the dtype of the parameters, the equation is computed in float64 (complex128), and
    ``exact`` keeps each parameter as it computed it.
    """

    def __init__(self, params: Any, equation: Equation, **options: Any) -> None:
        self.equation = equation
        super().__init__(params, options)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Compute the equation once for every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            given = {name: value for name, value in group.items() if name != "params"}
            for p in group["params"]:
                if p.grad is None:
                    continue
                wide = torch.promote_types(p.dtype, torch.float64)
                kept = self.state[p]
                kept.setdefault("own", {})
                kept["t"] = kept.get("t", 0) + 1
                theta, g = p.detach().to(wide), p.grad.to(wide)
                p.copy_(self.equation(theta, g, kept["own"], kept["t"], **given))
        return loss


# ------------------------------------------------------------------ the subject


def _is_optimizer(thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, torch.optim.Optimizer)


@dataclass(frozen=True)
class Subject:
    """An optimizer's class with what the checks need to know of it.

    What it takes (shapes, dtypes, ways to run, sparse or dense gradients) is found by trying.

    Attributes:
        cls: the class.
        reference: the class that it must agree with, an :data:`Equation`, or None.
        given: combinations of options to check it with; derived from the signature if None.
        ulps: how far parameters and state may be from those of a reference class, in epsilons of
            the dtype at the largest value; 0 for bits; None for "up to roundings".
        drop_in: whether it must stand in for the reference class: signature, messages, state dict.
        device: where to run.
        like: options under which the reference is run, whatever the way of the subject: for a
            reference whose own ways differ from each other.
    """

    cls: type[torch.optim.Optimizer]
    reference: type[torch.optim.Optimizer] | Equation | None = None
    given: tuple[Options, ...] | None = None
    ulps: float | None = None
    drop_in: bool = False
    device: str = "cpu"
    like: Options = field(default_factory=dict)
    given_typical: Options | None = None

    def __post_init__(self) -> None:
        if not _is_optimizer(self.cls):
            raise TypeError(f"{self.cls!r} is no optimizer's class")
        if isinstance(self.reference, type) and not _is_optimizer(self.reference):
            raise TypeError(f"the reference {self.reference!r} is no optimizer's class")
        if self.reference is not None and not callable(self.reference):
            raise TypeError(
                f"the reference {self.reference!r} is neither an optimizer's class nor an equation"
            )

    @property
    def title(self) -> str:
        """The name of the class."""
        return public_name(self.cls)

    @property
    def against(self) -> str | None:
        """The name of the reference."""
        return None if self.reference is None else public_name(self.reference)

    # -------------------------------------------------------------- what it takes

    @cached_property
    def options(self) -> list[Options]:
        """Combinations of options that compute something different each."""
        return self._derived(pairs=False)

    @cached_property
    def combinations(self) -> list[Options]:
        """These, and all pairs of options: for the checks that compare equations, in float64."""
        return self._derived(pairs=True)

    def _derived(self, pairs: bool) -> list[Options]:
        if self.given is not None:
            return list(self.given)
        others = [self.reference] if isinstance(self.reference, type) else []
        return derived(self.cls, *others, pairs=pairs)

    @cached_property
    def changes(self) -> list[Options]:
        """What to set each option to, other than its default."""
        others = [self.reference] if isinstance(self.reference, type) else []
        return changes_of(self.cls, *others)

    @cached_property
    def typical(self) -> Options:
        """Options that use much of the equation."""
        return self.options[-1] if self.given_typical is None else self.given_typical

    def has(self, option: str) -> bool:
        """Whether the class has an option of that name."""
        return option in parameters_of(self.cls)

    def need(self, *names: str) -> None:
        """Leave a check of options that the class has not."""
        for name in names:
            if not self.has(name):
                skip(f"has no option {name!r}")

    @cached_property
    def ways(self) -> dict[str, Options]:
        """The eager ways to run it, as options."""
        return {n: o for n, o in WAYS.items() if all(self.has(name) for name in o)}

    @cached_property
    def needs_closure(self) -> bool:
        """Whether ``step`` cannot be called without a closure."""
        closure = inspect.signature(self.cls.step).parameters.get("closure")
        return closure is not None and closure.default is closure.empty

    def separable(self, make: Make) -> bool:
        """Whether each parameter is updated by its own gradient alone, as far as 4 steps show."""
        if self.needs_closure:
            return False
        together, apart = (parameters(self.shapes, torch.float64, self.device) for _ in range(2))
        one = make(together, **self.typical)
        many = [make([p], **self.typical) for p in apart]
        for row in gradients(self.shapes, torch.float64, self.device)[:4]:
            grads = [self.as_given(p, g) for p, g in zip(together, row, strict=True)]
            self.take_step(one, together, grads)
            for optimizer, p, g in zip(many, apart, row, strict=True):
                self.take_step(optimizer, [p], [self.as_given(p, g)])
        return all(epsilons(p, q) <= 2.0**16 for p, q in zip(together, apart, strict=True))

    def step_error(
        self,
        make: Make,
        shape: tuple[int, ...] = (5, 3),
        dtype: torch.dtype = torch.float32,
        sparse: bool = False,
    ) -> Exception | None:
        """The error of making an optimizer of one parameter and of its first step, or None."""
        params = parameters((shape,), dtype, self.device)
        g = gradients((shape,), dtype, self.device)[0][0]
        try:
            optimizer = make(params, **self.typical)
            self.take_step(optimizer, params, [g.to_sparse(1) if sparse else laid_as(params[0], g)])
        except Exception as error:  # whatever it raises, it does not take it
            return error
        return None

    @property
    def makes(self) -> list[Make]:
        """What can be made: the optimizer, and its reference if there is one."""
        return [self.make] if self.reference is None else [self.make, self.make_reference]

    @cached_property
    def sparse(self) -> bool:
        """Whether it takes sparse gradients only."""
        dense, sparse = (self.step_error(self.make, sparse=x) for x in (False, True))
        return dense is not None and sparse is None

    @cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Those of :data:`SHAPES` that it takes, and its reference too.

        Raises:
            NotApplicable: there is none; what is wrong then, :func:`takes_every_shape` tells.
        """
        candidates = [shape for shape in SHAPES if shape or not self.sparse]
        taken = tuple(
            shape
            for shape in candidates
            if all(self.step_error(make, shape, sparse=self.sparse) is None for make in self.makes)
        )
        if not taken:
            skip("takes no step at all: see takes_every_shape")
        return taken

    def takes(self, dtype: torch.dtype) -> bool:
        """Whether it takes parameters of a dtype, and its reference too."""
        return all(self.step_error(make, (5, 3), dtype, self.sparse) is None for make in self.makes)

    # -------------------------------------------------------------- to run it

    def take_step(
        self, optimizer: torch.optim.Optimizer, params: list[Any], grads: Sequence[Tensor | None]
    ) -> Any:
        """Set gradients and call ``step``.

        If it needs a closure it gets that of a quadratic with its minimum at ``grads``.
        """
        for p, g in zip(params, grads, strict=True):
            p.grad = g
        if not self.needs_closure:
            return optimizer.step()

        pairs = [(p, g) for p, g in zip(params, grads, strict=True) if g is not None]

        def closure() -> float:
            """A loss whose minimum lies where the gradients say, of curvatures between 1 and 2."""
            loss = 0.0
            for p, target in pairs:
                curvature = 1 + target.abs() / (1 + target.abs())
                p.grad = curvature * (p.detach() - target)
                loss += 0.5 * (p.grad * (p.detach() - target)).sum().item()
            return loss

        return optimizer.step(closure)

    def as_given(self, p: Tensor, g: Tensor) -> Tensor:
        """A gradient as the optimizer takes it: sparse, or laid as autograd would lay it."""
        return g.to_sparse(1) if self.sparse else laid_as(p, g)

    def make(self, params: Any, **options: Any) -> torch.optim.Optimizer:
        """An optimizer of the class."""
        return self.cls(params, **options)

    def make_reference(self, params: Any, **options: Any) -> torch.optim.Optimizer:
        """The reference, as an optimizer of the same options."""
        if isinstance(self.reference, type):
            known = parameters_of(self.reference)
            options = options | self.like
            options = {n: x for n, x in options.items() if n in known or n not in SWITCHES}
            return self.reference(params, **options)
        if self.reference is None:
            skip("has no reference")
        options = {n: x for n, x in options.items() if n not in SWITCHES}
        defaults = {
            name: p.default
            for name, p in parameters_of(self.cls).items()
            if p.default is not p.empty and name not in SWITCHES
        }
        return EquationOptimizer(params, self.reference, **{**defaults, **options})

    def pair(
        self,
        options: Options | None = None,
        shapes: tuple[tuple[int, ...], ...] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Pair:
        """The subject and its reference on equal parameters."""
        return Pair(self, (self.make, self.make_reference), (options, options), shapes, dtype)

    def in_every_way(
        self,
        act: Callable[[Pair], Any],
        options: Options | None = None,
        shapes: tuple[tuple[int, ...], ...] | None = None,
        dtype: torch.dtype = torch.float32,
        **facts: Any,
    ) -> None:
        """Do something to a pair that runs in each of the ways; ``facts`` are told of an error.

        A way in which the reference raises an error is left out.
        """
        options = self.typical if options is None else options
        for way, switch in self.ways.items():
            if dtype in HALF and self.like and switch.get("foreach"):
                continue  # ATen's lists round otherwise than its loops in half precision
            with circumstances(way=way, **facts), suppress(Unjudged):
                act(self.pair(options | switch, shapes, dtype))

    def twins(
        self,
        options: Options,
        others: Options,
        shapes: tuple[tuple[int, ...], ...] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Pair:
        """The subject twice, on equal parameters, with other options."""
        return Pair(self, (self.make, self.make), (options, others), shapes, dtype)


class Unjudged(NotApplicable):
    """Raised where the reference raises an error, and so says nothing."""


class Pair:
    """Two optimizers on equal parameters, doing the same; the first one is judged."""

    def __init__(
        self,
        subject: Subject,
        makes: tuple[Make, Make],
        options: tuple[Options | None, Options | None],
        shapes: tuple[tuple[int, ...], ...] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.subject, self.dtype = subject, dtype
        self.shapes = subject.shapes if shapes is None else shapes
        self.params = [parameters(self.shapes, dtype, subject.device) for _ in range(2)]
        self.makes, self.options = makes, [subject.typical if o is None else o for o in options]
        self.optimizers = self.fresh()
        self.ulps: float | None = subject.ulps
        self.taken = 0
        self.judged = makes[1] == subject.make_reference

    def fresh(self, **changes: Any) -> list[torch.optim.Optimizer]:
        """Two new optimizers of the same parameters, made as the two were but for ``changes``."""
        rows = zip(self.makes, self.params, self.options, strict=True)
        return [make(params, **options | changes) for make, params, options in rows]

    def __iter__(self) -> Iterator[tuple[torch.optim.Optimizer, list[Parameter]]]:
        return iter(zip(self.optimizers, self.params, strict=True))

    def step(
        self,
        steps: int = 1,
        without: Iterable[int] = (),
        laid_out: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        """Let both take steps on the same gradients; the parameters ``without`` have none.

        A gradient is what ``laid_out`` makes of it, of its own for each of the two.

        Raises:
            Unjudged: the reference raises an error, whether the subject does or not.
        """
        rows = gradients(self.shapes, self.dtype, self.subject.device)
        for _ in range(steps):
            errors: list[Exception | None] = [None, None]
            for which, (optimizer, params) in enumerate(self):
                row = enumerate(zip(params, rows[self.taken % len(rows)], strict=True))
                lay = laid_out or self.subject.as_given
                grads = [None if i in without else lay(p, g) for i, (p, g) in row]
                try:
                    self.subject.take_step(optimizer, params, grads)
                except Exception as error:  # whatever it is, the other one is asked too
                    errors[which] = error
            if errors[1] is not None and self.judged:
                raise Unjudged(f"the reference raises {errors[1]!r}") from errors[1]
            for caught in errors:
                if caught is not None:
                    raise caught
            self.taken += 1

    def do(self, change: Callable[[torch.optim.Optimizer, list[Parameter]], Any]) -> None:
        """Do the same to both."""
        for optimizer, params in self:
            change(optimizer, params)

    @property
    def allowed(self) -> float:
        """How many epsilons the two may be apart.

        Two texts of one equation part by roundings. An operation rounds by half an epsilon of its
        result, an equation has about a dozen, a difference of running means may lose four digits:
        in float64 2**16 epsilons are 1.5e-11, where a wrong term shows in the fourth digit or so.
        In other dtypes as many as the operations of a step, four times, for each step.
        """
        if self.ulps is not None:
            return self.ulps
        return 2.0**16 if self.dtype in (torch.float64, torch.complex128) else 48.0 * self.taken

    def check(self) -> None:
        """Parameters must be the same, and states of the same names, up to what is allowed."""
        for i, (p, q) in enumerate(zip(*self.params, strict=True)):
            what = f"parameter {i} {tuple(p.shape)} after {self.taken} steps"
            self.compare(p, q, what)
            states = [o.state.get(x, {}) for o, x in zip(self.optimizers, (p, q), strict=True)]
            mine, other = states
            if self.ulps == 0:
                assert mine.keys() == other.keys(), (
                    f"{what}: the state has {sorted(mine)} where {sorted(other)} is expected"
                )
            elif mine.keys() != other.keys():
                continue  # another library may keep another state
            for name, value in mine.items():
                self.compare(value, other[name], f"{what}, state {name!r}")

    def compare(self, a: Any, b: Any, what: str) -> None:
        """Raise unless the two are as near as is allowed."""
        numbers = [
            isinstance(x, Tensor) and (x.is_floating_point() or x.is_complex()) for x in (a, b)
        ]
        if self.ulps is None and len({isinstance(x, Tensor) for x in (a, b)}) == 2:
            # another library may keep a number where the reference keeps a tensor
            a, b = (torch.as_tensor(x, dtype=torch.float64) for x in (a, b))
            numbers = [True, True]
        if self.ulps == 0 or not all(numbers):
            assert_same(a, b, what)
            return
        apart = epsilons(a, b)
        assert apart <= self.allowed, (
            f"{what}: {apart:.3g} epsilons of {b.dtype} from the reference, where "
            f"{self.allowed:.3g} are allowed"
        )
