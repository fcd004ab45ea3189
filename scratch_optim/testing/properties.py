"""Checks over drawn cases: options, shapes, gradients and presences that nobody thought of.

Hypothesis draws a case, and of one that fails looks for the smallest that does. What is reported is
that case as a program in plain torch, to be run as it is. The draws are the same in every run.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from .compare import assert_same_bits, epsilons
from .kit import check, public_name, skip
from .options import SWITCHES, Options, accepted, parameters_of, required
from .subject import EquationOptimizer, Make, Subject

EXAMPLES = 50

SHAPES: tuple[tuple[int, ...], ...] = ((1,), (3,), (2, 2), (), (0, 3), (1, 2, 1, 2), (17,))

MAGNITUDES = (1.0, 0.0, -1.0, 0.1, -3.0, 1e3, -1e-3, 1e-30, 1e-41, 1e15)
"""Gradients to draw beside any: equal, opposite, large, so small that the square vanishes, and
subnormal in float32."""


# ------------------------------------------------------------------ a case


@dataclass(frozen=True)
class Case:
    """A run of an optimizer, small enough to be written down."""

    options: Options
    dtype: torch.dtype
    shapes: tuple[tuple[int, ...], ...]
    theta: tuple[float, ...]
    """Entry i of a parameter is number i of these, from the front again after the last."""
    rows: tuple[tuple[tuple[float, ...] | None, ...], ...]
    """For each step, for each parameter: its gradient likewise, or None."""
    second: Options | None
    """Options of a second group, which has the last parameter; None: there is one group."""
    saved: int = 0
    """After how many steps the state is carried over to a new optimizer."""

    def filled(self, numbers: tuple[float, ...], shape: tuple[int, ...]) -> Tensor:
        """A tensor of the numbers."""
        size = math.prod(shape)
        row = (numbers * (size // len(numbers) + 1))[:size]
        return torch.tensor(row, dtype=torch.float64).reshape(shape).to(self.dtype)

    def parameters(self) -> list[Parameter]:
        """New parameters."""
        return [Parameter(self.filled(self.theta, shape)) for shape in self.shapes]

    def gradients(self, step: int) -> list[Tensor | None]:
        """The gradients of a step, from 0."""
        pairs = zip(self.rows[step], self.shapes, strict=True)
        return [None if row is None else self.filled(row, shape) for row, shape in pairs]

    def groups(self, params: list[Parameter]) -> Any:
        """What an optimizer is made of."""
        if self.second is None:
            return params
        return [{"params": params[:-1]}, {"params": params[-1:], **self.second}]


def _run(
    subject: Subject,
    case: Case,
    make: Make,
    nudged: int = 0,
    carried: bool = False,
) -> list[Parameter]:
    """The parameters after all steps.

    ``nudged`` seeds relative changes of the gradients by an epsilon or so, which show how much a
    rounding matters. ``carried``: after ``case.saved`` steps a new optimizer takes over the state.
    """
    params = case.parameters()
    optimizer = make(case.groups(params), **case.options)
    generator = torch.Generator().manual_seed(nudged)
    for step in range(len(case.rows)):
        if carried and step == case.saved:
            state = copy.deepcopy(optimizer.state_dict())
            params = [Parameter(p.detach().clone()) for p in params]
            optimizer = make(case.groups(params), **case.options)
            optimizer.load_state_dict(state)
        grads = []
        for p, g in zip(params, case.gradients(step), strict=True):
            if g is not None and nudged:
                noise = torch.randint(-1, 2, g.shape, generator=generator).to(g.dtype)
                g = g * (1 + 4 * torch.finfo(g.dtype).eps * noise)
            grads.append(None if g is None else subject.as_given(p, g))
        subject.take_step(optimizer, params, grads)
    return params


# ------------------------------------------------------------------ how cases are drawn


def _strategies() -> Any:
    """Hypothesis's strategies.

    Raises:
        NotApplicable: hypothesis is not installed.
    """
    try:
        import hypothesis.strategies
    except ImportError:
        skip("hypothesis is not installed")
    return hypothesis.strategies


def _values(st: Any, name: str, default: Any) -> Any:
    """What to draw for an option: over its whole range, simple values first. None: its default."""
    unit = st.sampled_from([0.9, 0.5, 0.0, 0.99]) | st.floats(0, 0.999)
    known = {
        "lr": st.sampled_from([1.0, 0.1]) | st.floats(1e-4, 1),
        "momentum": unit,
        "dampening": st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1),
        "weight_decay": st.sampled_from([0.0, 0.5]) | st.floats(1e-4, 0.5),
        "betas": st.tuples(unit, unit),
        "eps": st.sampled_from([1e-8, 1e-3, 1.0]) | st.floats(1e-10, 0.1),
        # v - a² of RMSprop is nothing but roundings where alpha is 0
        "alpha": st.sampled_from([0.9, 0.5, 0.99]) | st.floats(0.1, 0.999),
        "rho": unit,
        "lr_decay": st.sampled_from([0.0, 1.0]) | st.floats(0, 1),
        "initial_accumulator_value": st.sampled_from([0.0, 1.0]) | st.floats(0, 2),
        "momentum_decay": st.floats(0, 1),
        "lambd": st.floats(0, 0.5),
        "t0": st.sampled_from([0.0, 1.0, 3.0]),
        "etas": st.tuples(st.floats(0.1, 0.9), st.floats(1.1, 2)),
        "step_sizes": st.tuples(st.floats(1e-6, 1e-2), st.floats(0.1, 50)),
        "beta2_decay": st.floats(-1, -0.1),
        "d": st.floats(0.1, 2),
        "trust_coefficient": st.floats(1e-3, 1),
        "history_size": st.integers(1, 5),
        "max_iter": st.integers(1, 6),
        "line_search_fn": st.sampled_from([None, "strong_wolfe"]),
    }
    if isinstance(default, bool):
        return st.booleans()
    pair = isinstance(default, tuple) and len(default) == 2
    if name not in known or pair is not (name in _PAIRS):
        return None
    return known[name]


_PAIRS = ("betas", "etas", "step_sizes")

AT_THE_START = ("initial_accumulator_value",)
"""Options of which a second group has none of its own: torch's Adagrad takes that of the class for
every group, a defect that :mod:`~scratch_optim.testing.known` has."""


def _options(subject: Subject, st: Any) -> Any:
    """Dicts of some options, of those that the reference has too."""
    known = parameters_of(subject.cls)
    others = known
    if isinstance(subject.reference, type):
        others = parameters_of(subject.reference)
    drawn = {
        name: strategy
        for name, p in known.items()
        if name in others
        and name not in SWITCHES
        and (strategy := _values(st, name, p.default)) is not None
    }
    base = required(subject.cls)
    drawn_always = {n: drawn.pop(n) for n in ("lr",) if n in drawn}
    return st.fixed_dictionaries(drawn_always, optional=drawn).map(lambda o: base | o)


def _cases(subject: Subject, dtypes: tuple[torch.dtype, ...], tame: bool) -> Any:
    """Cases that the class takes.

    ``tame`` keeps to magnitudes whose squares and products no dtype loses: where results are
    compared up to roundings, one at the edge of what can be held would decide.
    """
    st = _strategies()
    subject.shapes  # noqa: B018 - skips if it takes no step at all
    takes = [
        shape
        for shape in SHAPES
        if (shape or not subject.sparse)
        and all(subject.step_error(m, shape, sparse=subject.sparse) is None for m in subject.makes)
    ]
    if not takes:
        skip(f"takes none of the shapes {SHAPES}")
    bound = 1e3 if tame else 1e6
    usual = [x for x in MAGNITUDES if not tame or x == 0 or 1e-4 < abs(x) <= bound]
    number = st.sampled_from(usual) | st.floats(-bound, bound, width=16 if tame else 32)
    # Of three parameters, as if there always were as many: a strategy is expensive to build.
    numbers = st.lists(number, min_size=1, max_size=3).map(tuple)
    # None is as long a draw as numbers are: of two cases the shorter is taken for the simpler.
    pairs = st.tuples(numbers, st.just(False) if subject.needs_closure else st.booleans())
    gradient = pairs.map(lambda pair: None if pair[1] else pair[0])
    options = _options(subject, st)

    def build(shapes: list[tuple[int, ...]], rows: list[Any], second: Any, **rest: Any) -> Case:
        few = tuple([row[: len(shapes)] for row in rows])
        if len(shapes) == 1 or subject.needs_closure:
            second = None
        if second is not None:
            second = {name: x for name, x in second.items() if name not in AT_THE_START}
        rest["saved"] %= len(few)
        return Case(shapes=tuple(shapes), rows=few, second=second, **rest)

    def valid(case: Case) -> bool:
        whole = case.options | (case.second or {})
        return accepted(subject.cls, case.options) and accepted(subject.cls, whole)

    return st.builds(
        build,
        shapes=st.lists(st.sampled_from(takes), min_size=1, max_size=3),
        rows=st.lists(st.tuples(gradient, gradient, gradient), min_size=1, max_size=5),
        second=st.none() | options,
        options=options,
        dtype=st.sampled_from(dtypes),
        theta=numbers,
        saved=st.integers(0, 4),
    ).filter(valid)


def _search(cases: Any, examine: Callable[[Any], None]) -> None:
    """Let hypothesis look for a case in which ``examine`` fails, the same ones in every run."""
    from hypothesis import HealthCheck, Phase, given, settings

    settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        print_blob=False,
        report_multiple_bugs=False,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )(given(cases)(examine))()


# ------------------------------------------------------------------ what came out, and a program


def _compare(
    mine: list[Parameter], other: list[Parameter], nudged: list[list[Parameter]] | None
) -> None:
    """Raise unless the parameters have the same bits, or are as near as roundings explain.

    ``nudged`` are what gradients that differ by a few epsilons lead to. An equation has a dozen
    roundings a step where a nudge is one: 64 times its effect, and 2**16 epsilons, are allowed.
    """
    for i, (p, q) in enumerate(zip(mine, other, strict=True)):
        if nudged is None:
            assert_same_bits(p, q, f"parameter {i}")
            continue
        apart = epsilons(p, q)
        effect = max(epsilons(x[i], q) for x in nudged)
        allowed = 2.0**16 + 64 * effect
        assert apart <= allowed, (
            f"parameter {i}: {apart:.3g} epsilons apart, where {allowed:.3g} are allowed; gradients"
            f" that differ by 4 epsilons lead {effect:.3g} apart"
        )


def _literal(x: Tensor | None, copies: str = "") -> str:
    """A tensor as an expression that gives exactly it: the digits are those of the double."""
    if x is None:
        return "None"
    return f"torch.tensor({x.detach().double().flatten().tolist()!r}, dtype={x.dtype})" + (
        f".reshape({tuple(x.shape)})" + copies
    )


def _imported(thing: Any, name: str) -> str:
    place, _, own = public_name(thing).rpartition(".")
    if "<locals>" in thing.__qualname__:
        return f"# {name} = {public_name(thing)}: defined in a function, put it here"
    return f"from {place} import {own} as {name}"


def snippet(subject: Subject, case: Case, other: str, carried: bool = False) -> str:
    """A program in plain torch that runs a case and prints what came out beside what should have.

    Args:
        subject: what is checked.
        case: what is run.
        other: how the optimizer is made that gives what is expected, as an expression of
            ``groups`` and ``OPTIONS``.
        carried: whether the state is saved and loaded on the way in the run that is judged.
    """
    needs_equation = subject.reference is not None and not isinstance(subject.reference, type)
    lines = ["import copy", "", "import torch", _imported(subject.cls, "Subject")]
    if subject.reference is not None:
        lines.append(_imported(subject.reference, "Reference"))
    if needs_equation:
        lines.append(_imported(EquationOptimizer, "EquationOptimizer"))
    sparse = ".to_sparse(1)" if subject.sparse else ""
    lines += ["", f"OPTIONS = {case.options!r}", "GRADIENTS = ["]
    for step in range(len(case.rows)):
        lines.append("    [")
        lines += [f"        {_literal(g, sparse)}," for g in case.gradients(step)]
        lines.append("    ],")
    lines += ["]", "", "", "def run(make, saved=None):", "    params = ["]
    lines += [f"        torch.nn.Parameter({_literal(p)})," for p in case.parameters()]
    groups = "params"
    if case.second is not None:
        groups = f"[{{'params': params[:-1]}}, {{'params': params[-1:], **{case.second!r}}}]"
    lines += [
        "    ]",
        f"    optimizer = make({groups})",
        "    for step, grads in enumerate(GRADIENTS):",
        "        if step == saved:",
        "            state = copy.deepcopy(optimizer.state_dict())",
        "            params = [torch.nn.Parameter(p.detach().clone()) for p in params]",
        f"            optimizer = make({groups})",
        "            optimizer.load_state_dict(state)",
        "        for p, g in zip(params, grads):",
        "            p.grad = None if g is None else g.clone()",
        "        optimizer.step()",
        "    return [p.tolist() for p in params]",
        "",
        "",
        f"saved = {case.saved if carried else None}",
        "found = run(lambda groups: Subject(groups, **OPTIONS), saved)",
        f"expected = run(lambda groups: {other})",
        "for i, (a, b) in enumerate(zip(found, expected)):",
        "    print('parameter', i, 'found', a, 'expected', b)",
    ]
    return "\n".join(lines)


def _judge(
    subject: Subject,
    cases: Any,
    examine: Callable[[Case], None],
    program: Callable[[Case], str],
) -> None:
    """Search, and say of the smallest case that fails what is wrong and how to see it."""
    failed: list[Case] = []

    def remember(case: Case) -> None:
        try:
            examine(case)
        except Exception:
            failed.append(case)
            raise

    try:
        _search(cases, remember)
    except Exception as error:
        if not failed:
            raise
        wrong = (
            str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        )
        if subject.needs_closure:
            raise AssertionError(f"{wrong}\nin the case {failed[-1]}") from error
        raise AssertionError(f"{wrong}\nTo see it, run:\n\n{program(failed[-1])}\n") from error


# ------------------------------------------------------------------ the checks


def _dtypes(subject: Subject, bits: bool) -> tuple[torch.dtype, ...]:
    """Where bits are compared any dtype; else the one in which roundings are small."""
    wanted = (torch.float64, torch.float32, torch.bfloat16) if bits else (torch.float64,)
    taken = tuple(dtype for dtype in wanted if subject.takes(dtype))
    if not taken:
        skip("does not take float64, in which roundings could be told from errors")
    return taken


@check
def equals_its_reference_in_drawn_cases(subject: Subject) -> None:
    """For options, shapes, gradients, presences and groups that are drawn at random the parameters
    are the reference's."""
    if subject.reference is None:
        skip("has no reference")
    bits = subject.ulps == 0
    dtypes = _dtypes(subject, bits)

    def examine(case: Case) -> None:
        mine, other = (_run(subject, case, make) for make in subject.makes)
        nudged = None
        if not bits:
            nudged = [_run(subject, case, subject.make_reference, seed) for seed in (1, 2)]
        _compare(mine, other, nudged)

    def program(case: Case) -> str:
        if isinstance(subject.reference, type):
            names = parameters_of(subject.reference)
            like = {n: x for n, x in subject.like.items() if n in names}
            extra = f", **{like!r}" if like else ""
            return snippet(subject, case, f"Reference(groups, **OPTIONS{extra})")
        reference: Any = subject.make_reference(case.parameters(), **case.options)
        options = dict(reference.defaults)
        return snippet(subject, case, f"EquationOptimizer(groups, Reference, **{options!r})")

    _judge(subject, _cases(subject, dtypes, tame=not bits), examine, program)


@check
def every_way_equals_the_loop_in_drawn_cases(subject: Subject) -> None:
    """In drawn cases every way to run gives what the for-loop gives."""
    ways = {name: way for name, way in subject.ways.items() if name != "for-loop"}
    if "for-loop" not in subject.ways:
        skip("has one way to run only")
    bits = subject.ulps == 0 and not subject.like
    dtypes = tuple(x for x in _dtypes(subject, bits) if x != torch.bfloat16)
    found: dict[str, Options] = {}

    def examine(case: Case) -> None:
        loop = replace(case, options=case.options | {"foreach": False})
        expected = _run(subject, loop, subject.make)
        nudged = None if bits else [_run(subject, loop, subject.make, seed) for seed in (1, 2)]
        for way in ways.values():
            found["way"] = way
            _compare(
                _run(subject, replace(case, options=case.options | way), subject.make),
                expected,
                nudged,
            )

    def program(case: Case) -> str:
        case = replace(case, options=case.options | found["way"])
        return snippet(subject, case, "Subject(groups, **OPTIONS | {'foreach': False})")

    _judge(subject, _cases(subject, dtypes, tame=not bits), examine, program)


@check
def continues_from_a_state_dict_in_drawn_cases(subject: Subject) -> None:
    """In drawn cases a new optimizer that takes over the state dict at any step goes on to the
    bit."""
    dtypes = _dtypes(subject, bits=True)

    def examine(case: Case) -> None:
        mine = _run(subject, case, subject.make, carried=True)
        _compare(mine, _run(subject, case, subject.make), None)

    def program(case: Case) -> str:
        return snippet(subject, case, "Subject(groups, **OPTIONS)", carried=True)

    _judge(subject, _cases(subject, dtypes, tame=False), examine, program)
