"""Schedulers: torch's numbers to the last bit, its states, its messages, whatever the user does.

A scheduler is added to the suite by one more entry in :data:`TABLE`.
"""

import copy
import gc
import inspect
import math
import pickle
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.optim.lr_scheduler as theirs
from cases import product
from test_errors import caught

import scratch_optim
import scratch_optim.lr_scheduler as ours

STEPS = 1000
NEW = {"InverseTimeLR", "WarmupCosineLR", "WarmupLinearLR", "WarmupStableDecayLR"}
RATES = (0.1, 0.037, 1e-4)
NAN, INF = float("nan"), float("inf")

# What is tested here calls schedulers without optimizers in between, unless it is about that.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Detected call of:UserWarning"),
    pytest.mark.filterwarnings("ignore:Seems like:UserWarning"),
    pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning"),
    pytest.mark.filterwarnings("ignore:To get the last learning rate:UserWarning"),
]


class Decay:
    """A function that is an object, and so goes into state dicts."""

    def __init__(self, rate):
        self.rate = rate

    def __call__(self, t):
        return self.rate**t


def half(t):
    return 0.5 ** (t // 40)


def up_and_down(t):
    return 1.01 if t % 7 < 3 else 0.98


def metric(t):
    """A loss that falls, stays, rises and falls again."""
    return round(math.exp(-t / 30) + 0.3 * math.sin(t / 11), 2)


@dataclass(frozen=True)
class Entry:
    """A scheduler with options, to be made of the classes of either library."""

    name: str
    make: Callable[[Any, torch.optim.Optimizer], Any]
    options: str

    def __repr__(self) -> str:
        return f"{self.name}({self.options})"


def of(name: str, *option_sets: dict[str, Any]) -> list[Entry]:
    def make(options, library, optimizer):
        return getattr(library, name)(optimizer, **copy.deepcopy(options))

    def text(value):
        if isinstance(value, (list, tuple)):
            return f"[{','.join(map(text, value))}]"
        if callable(value):
            return getattr(value, "__name__", None) or type(value).__name__
        return str(value)

    return [
        Entry(
            name,
            partial(make, options),
            ",".join(f"{k}={text(v)}".replace(" ", "") for k, v in options.items()),
        )
        for options in option_sets
    ]


def built(name: str, text: str, make: Callable[[Any, torch.optim.Optimizer], Any]) -> Entry:
    return Entry(name, make, text)


THREE = [half, Decay(0.99), up_and_down]

CHAINABLE = [
    *of("MultiplicativeLR", {"lr_lambda": up_and_down}),
    *of("StepLR", {"step_size": 3, "gamma": 0.9}),
    *of("MultiStepLR", {"milestones": [2, 9, 9, 30], "gamma": 0.3}),
    *of("ConstantLR", {"factor": 0.3, "total_iters": 7}),
    *of("LinearLR", {"start_factor": 0.1, "end_factor": 0.7, "total_iters": 13}),
    *of("ExponentialLR", {"gamma": 0.97}),
    *of("PolynomialLR", {"total_iters": 31, "power": 1.7}),
    *of("CosineAnnealingLR", {"T_max": 11, "eta_min": 1e-3}),
]

SINGLE = [
    *CHAINABLE,
    *of("LambdaLR", {"lr_lambda": half}, {"lr_lambda": Decay(0.995)}, {"lr_lambda": THREE}),
    *of("MultiplicativeLR", {"lr_lambda": THREE}, {"lr_lambda": lambda t: 1 - 1e-3}),
    *of("StepLR", *product(step_size=[1, 30, 2.5], gamma=[0.1, 0.99, 1, -0.5])),
    *of(
        "MultiStepLR",
        {"milestones": [0, 5, 5, 100]},
        {"milestones": (400, 20, 800.0), "gamma": 2},
        {"milestones": []},
        {"milestones": range(10, 300, 7), "gamma": 0.9},
        {"milestones": [2.5, INF, -3], "gamma": 0.9},
    ),
    *of("ConstantLR", {}, *product(factor=[0.1, 1, 1 / 7], total_iters=[0, 1, 40, 2000])),
    *of(
        "LinearLR",
        {},
        *product(start_factor=[1e-3, 0.3, 1], end_factor=[0, 0.9, 1], total_iters=[0, 1, 300]),
    ),
    *of("ExponentialLR", {"gamma": 0.9}, {"gamma": 0.9997}, {"gamma": 1}, {"gamma": 0}),
    *of("PolynomialLR", {}, *product(total_iters=[0, 1, 77, 2000], power=[0.5, 1, 2, 0])),
    *of("CosineAnnealingLR", *product(T_max=[1, 2, 50, 999, 2.5], eta_min=[0, 1e-3, 0.5])),
    *of(
        "CosineAnnealingWarmRestarts",
        *product(T_0=[1, 10, 333], T_mult=[1, 2, 3], eta_min=[0, 1e-3]),
    ),
    *of(
        "CyclicLR",
        *product(
            base_lr=[1e-3],
            max_lr=[0.3],
            step_size_up=[1, 40.5],
            step_size_down=[None, 0, 12],
            mode=["triangular", "triangular2", "exp_range"],
            gamma=[0.999],
        ),
        *product(
            base_lr=[[0.1, 0.01, 0.02]],
            max_lr=[(0.5, 0.3, 0.01)],
            step_size_up=[20],
            scale_fn=[None, half, Decay(0.99)],
            scale_mode=["cycle", "iterations"],
            base_momentum=[0.7, [0.1, 0.2, 0.3]],
            max_momentum=[0.95],
        ),
        {"base_lr": 0.01, "max_lr": 0.1, "cycle_momentum": False, "mode": "any", "scale_fn": half},
    ),
    *of(
        "OneCycleLR",
        *product(
            max_lr=[0.3],
            total_steps=[7, 990],
            pct_start=[0.0, 0.3, 0.55],
            anneal_strategy=["cos", "linear"],
            three_phase=[False, True],
        ),
        {"max_lr": 0.1, "epochs": 9, "steps_per_epoch": 100, "cycle_momentum": False},
        {
            "max_lr": [0.1, 0.2, 0.3],
            "total_steps": 123,
            "div_factor": 3,
            "final_div_factor": 7.0,
            "base_momentum": [0.1, 0.2, 0.3],
            "max_momentum": (0.8, 0.9, 0.99),
        },
        {"max_lr": 0.1, "total_steps": 1},
    ),
    *of(
        "ReduceLROnPlateau",
        {},
        *product(
            mode=["min", "max"],
            threshold_mode=["rel", "abs"],
            patience=[0, 4],
            cooldown=[0, 6],
            factor=[0.5],
            threshold=[1e-4, 0.05],
        ),
        {"min_lr": [0.01, 0.02, 1e-5], "patience": 2, "factor": 0.3},
        {"eps": 1e-3, "patience": 1},
    ),
]


def _sequential(library, optimizer, names, milestones):
    parts = [
        next(entry for entry in SINGLE if entry.name == name).make(library, optimizer)
        for name in names
    ]
    return library.SequentialLR(optimizer, parts, milestones)


def _chained(library, optimizer, names):
    parts = [
        next(entry for entry in SINGLE if entry.name == name).make(library, optimizer)
        for name in names
    ]
    return library.ChainedScheduler(parts)


def _nested(library, optimizer, first):
    parts = [first(library, optimizer), library.ExponentialLR(optimizer, 0.9)]
    return library.SequentialLR(optimizer, parts, [9])


COMPOSITE = [
    *[
        built(
            "SequentialLR",
            "+".join(names) + f" at {milestones}",
            partial(_sequential, names=names, milestones=milestones),
        )
        for names, milestones in [
            (["LinearLR"], []),
            (["LinearLR", "CosineAnnealingLR"], [13]),
            (["ConstantLR", "ExponentialLR", "StepLR"], [5, 20]),
            (["MultiplicativeLR", "MultiStepLR", "PolynomialLR"], [5, 5]),
            (["LambdaLR", "CosineAnnealingWarmRestarts"], [10]),
            (["LinearLR", "CyclicLR"], [3]),
            (["OneCycleLR", "LambdaLR"], [6]),
            (["ExponentialLR", "ExponentialLR"], [2000]),
        ]
    ],
    *[
        built("ChainedScheduler", "+".join(names), partial(_chained, names=names))
        for names in [
            ["StepLR"],
            ["ConstantLR", "ExponentialLR"],
            ["LambdaLR", "StepLR", "LinearLR"],
            ["CosineAnnealingLR", "MultiStepLR", "MultiplicativeLR", "PolynomialLR"],
        ]
    ],
    built(
        "SequentialLR",
        "of a sequence",
        partial(
            _nested, first=partial(_sequential, names=["LinearLR", "ConstantLR"], milestones=[4])
        ),
    ),
    built(
        "SequentialLR",
        "of a chain",
        partial(_nested, first=partial(_chained, names=["StepLR", "LinearLR"])),
    ),
]

TABLE = SINGLE + COMPOSITE
ONE_EACH = list({entry.name: entry for entry in reversed(TABLE)}.values())
KEPT = [entry for entry in [*CHAINABLE, *ONE_EACH, *COMPOSITE] if "<lambda>" not in repr(entry)]

each_entry = pytest.mark.parametrize("entry", TABLE, ids=repr)
each_kept = pytest.mark.parametrize("entry", KEPT, ids=repr)


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "torch-SGD": lambda groups: torch.optim.SGD(groups, momentum=0.9),
    "scratch-SGD": lambda groups: scratch_optim.SGD(groups, momentum=0.9),
    "scratch-Adam": scratch_optim.Adam,
}
each_optimizer = pytest.mark.parametrize("kind", OPTIMIZERS.values(), ids=OPTIMIZERS)


def optimizer_of(kind=OPTIMIZERS["scratch-SGD"], *, tensor=False, rates=RATES):
    """An optimizer of a group for each learning rate, of which one step has been taken."""
    return kind(
        [
            {
                "params": [torch.nn.Parameter(torch.ones(2))],
                "lr": torch.tensor(lr) if tensor else lr,
            }
            for lr in rates
        ]
    )


# ------------------------------------------------------------------ what is compared


def exact(value: Any) -> Any:
    """A value in a form that is equal only if all bits are."""
    if isinstance(value, torch.Tensor):
        return ("tensor", value.dtype, tuple(value.shape), value.numpy().tobytes())
    if isinstance(value, float):
        return "nan" if value != value else value.hex()
    if isinstance(value, dict):
        return {key: exact(x) for key, x in value.items()}
    if isinstance(value, (list, tuple)):
        return [exact(x) for x in value]
    return value


def plain(value: Any) -> Any:
    return value.item() if isinstance(value, torch.Tensor) else value


def rates_of(optimizer) -> list[Any]:
    """What schedulers change, as numbers, which are equal if their bits are (but for -0 and 0)."""
    return [
        (plain(group["lr"]), group.get("momentum"), group.get("betas"))
        for group in optimizer.param_groups
    ]


def groups_of(optimizer) -> Any:
    """All of the groups, to the last bit."""
    return exact(
        [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    )


def advance(scheduler, t: int) -> None:
    if isinstance(scheduler, theirs.ReduceLROnPlateau):
        scheduler.step(metric(t))
    else:
        scheduler.step()


@dataclass
class Run:
    """A scheduler at work: what it does to the groups, step by step, and how it ends."""

    optimizer: torch.optim.Optimizer
    scheduler: Any
    t: int = 0
    trace: list[Any] = field(default_factory=list)
    error: Any = None

    @classmethod
    def of(cls, entry, library, kind=OPTIMIZERS["scratch-SGD"], **options) -> "Run":
        optimizer = optimizer_of(kind, **options)
        run = cls(optimizer, entry.make(library, optimizer))
        run.note()
        return run

    def note(self) -> None:
        self.trace.append(
            [rates_of(self.optimizer), list(map(plain, self.scheduler.get_last_lr()))]
        )

    def do(self, change: Callable[[Any, Any], Any]) -> None:
        """Let something happen; keep its error."""
        if self.error is None:
            self.error = caught(lambda: change(self.optimizer, self.scheduler))
            self.note()

    def steps(self, count: int) -> "Run":
        for _ in range(count):
            if self.error is None:
                self.error = caught(lambda: advance(self.scheduler, self.t))
                self.note()
                self.t += 1
        return self


def assert_alike(a: Run, b: Run) -> None:
    for i, (x, y) in enumerate(zip(a.trace, b.trace, strict=False)):
        assert x == y, f"event {i}"
    assert (len(a.trace), a.error) == (len(b.trace), b.error)
    assert groups_of(a.optimizer) == groups_of(b.optimizer)
    assert exact(a.scheduler.state_dict()) == exact(b.scheduler.state_dict())


def pair(entry, kind=OPTIMIZERS["scratch-SGD"], **options) -> tuple[Run, Run]:
    return Run.of(entry, ours, kind, **options), Run.of(entry, theirs, kind, **options)


# ------------------------------------------------------------------ parity


@each_entry
def test_it_sets_the_bits_of_torch_in_every_group(entry):
    a, b = pair(entry)
    assert_alike(a.steps(STEPS), b.steps(STEPS))


@each_entry
def test_it_fills_learning_rates_that_are_tensors_as_torch_does(entry):
    a, b = pair(entry, OPTIMIZERS["torch-SGD"], tensor=True)
    held = [group["lr"] for group in a.optimizer.param_groups]
    assert_alike(a.steps(60), b.steps(60))
    for lr, group in zip(held, a.optimizer.param_groups, strict=True):
        assert group["lr"] is lr


def test_a_learning_rate_of_shape_1_stays_one():
    traces = []
    for library in (ours, theirs):
        p = torch.nn.Parameter(torch.ones(2))
        optimizer = torch.optim.SGD([p], lr=torch.tensor([0.1]))
        run = Run(optimizer, library.CosineAnnealingLR(optimizer, 5, eta_min=1e-3)).steps(12)
        traces.append([run.trace, groups_of(optimizer)])
    assert traces[0] == traces[1]


@each_optimizer
@pytest.mark.parametrize("entry", ONE_EACH, ids=repr)
def test_it_drives_every_optimizer_as_torchs_does(entry, kind):
    a, b = pair(entry, kind)
    assert_alike(a.steps(50), b.steps(50))


@each_kept
def test_optimizers_of_torch_and_of_this_library_are_driven_alike(entry):
    a, b = (Run.of(entry, ours, OPTIMIZERS[kind]) for kind in ("scratch-SGD", "torch-SGD"))
    for _ in range(30):
        for run in (a, b):
            for group in run.optimizer.param_groups:
                group["params"][0].grad = torch.full((2,), 0.1)
            run.optimizer.step()
            run.steps(1)
        for x, y in zip(a.optimizer.param_groups, b.optimizer.param_groups, strict=True):
            assert torch.equal(x["params"][0], y["params"][0])
            assert exact(x["lr"]) == exact(y["lr"])


def _halve(optimizer, _):
    for group in optimizer.param_groups[1:]:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].mul_(0.5)
        else:
            group["lr"] *= 0.5


def _new_group(optimizer, _):
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(3))], "lr": 0.02})


def _jump(epoch):
    return lambda optimizer, scheduler: (
        scheduler.step(0.5, epoch)
        if isinstance(scheduler, theirs.ReduceLROnPlateau)
        else scheduler.step(epoch)
    )


def _ask(optimizer, scheduler):
    lrs = scheduler.get_lr()
    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        group["asked"] = lr


EVENTS = {
    "a learning rate changed by hand": [_halve],
    "get_lr called by hand": [_ask],
    "step(epoch)": [_jump(e) for e in (0, 3, 3, 10, 2, 50, 13, 31, 1000, 0)],
    "a learning rate changed between step(epoch)": [_jump(4), _halve, _jump(5), _jump(20)],
}


@pytest.mark.parametrize("events", EVENTS.values(), ids=EVENTS)
@each_entry
def test_what_a_user_does_in_mid_run_leads_where_it_leads_in_torch(entry, events):
    for before in (0, 1, 12) if entry in KEPT else (12,):
        runs = pair(entry, tensor=before == 1)
        for run in runs:
            run.steps(before)
            for event in events:
                run.do(event)
                run.steps(2)
            run.steps(20)
        if entry in COMPOSITE and _ask in events:
            # Torch raises without a word.
            runs[0].error = runs[0].error[0], ""
        assert_alike(*runs)


@pytest.mark.parametrize(
    "epochs", [(0.5, 1.25, 9.99), (10, 11.5, 30, 29.75), (70, 0, 69.5), (1210, 1209)]
)
@pytest.mark.parametrize("T_mult", [1, 2, 3])
def test_warm_restarts_go_to_any_time(epochs, T_mult):
    runs = pair(*of("CosineAnnealingWarmRestarts", {"T_0": 10, "T_mult": T_mult}))
    for run in runs:
        for epoch in epochs:
            run.do(_jump(epoch))
            run.steps(1)
    assert_alike(*runs)


@each_kept
def test_a_group_added_in_mid_run_is_scheduled_or_refused_as_in_torch(entry):
    runs = pair(entry)
    for run in runs:
        run.steps(3)
        run.do(_new_group)
        run.steps(20)
    errors = [run.error for run in runs]
    assert (errors[0] is None) == (errors[1] is None)
    if errors[0] is None:
        assert_alike(*runs)
        return
    assert errors[0][0] is errors[1][0]
    assert "group" in errors[0][1] or errors[0] == errors[1]


def test_after_a_refusal_for_an_added_group_no_group_has_changed():
    run = Run.of(*of("LambdaLR", {"lr_lambda": Decay(0.5)}), ours).steps(2)
    _new_group(run.optimizer, None)
    before = groups_of(run.optimizer)
    with pytest.raises(ValueError, match=r"3 parameter groups, but the optimizer has 4.*base_lrs"):
        run.scheduler.step()
    assert groups_of(run.optimizer) == before


@pytest.mark.parametrize("first", CHAINABLE, ids=repr)
def test_two_on_one_optimizer_chain_as_in_torch(first):
    for second in CHAINABLE:
        traces = [_chain_of(library, first, second) for library in (ours, theirs)]
        assert traces[0] == traces[1], second


def _chain_of(library, first, second):
    optimizer = optimizer_of()
    schedulers = [entry.make(library, optimizer) for entry in (first, second)]
    trace = []
    for _ in range(60):
        for scheduler in schedulers:
            scheduler.step()
            trace.append([rates_of(optimizer), scheduler.get_last_lr()])
    return trace


@pytest.mark.parametrize("first", CHAINABLE, ids=repr)
@pytest.mark.parametrize("kind", ["ChainedScheduler", "SequentialLR"])
def test_schedulers_of_both_libraries_go_together(first, kind):
    for second in CHAINABLE:
        _check_together(first, second, kind)


def _check_together(first, second, kind):
    traces = []
    for outer, a, b in ((ours, theirs, ours), (theirs, ours, theirs), (theirs, theirs, theirs)):
        optimizer = optimizer_of()
        parts = [first.make(a, optimizer), second.make(b, optimizer)]
        if kind == "ChainedScheduler":
            scheduler = outer.ChainedScheduler(parts)
        else:
            scheduler = outer.SequentialLR(optimizer, parts, [7])
        run = Run(optimizer, scheduler).steps(30)
        assert run.error is None
        traces.append(run.trace)
    assert traces[0] == traces[1] == traces[2]


def test_a_sequence_whose_first_milestone_is_0_begins_with_the_second():
    # torch 2.11 let the first set the first learning rates.
    optimizer = optimizer_of()
    parts = [ours.ConstantLR(optimizer, 0.5), ours.ConstantLR(optimizer, 0.25, 2)]
    scheduler = ours.SequentialLR(optimizer, parts, [0])
    assert scheduler.get_last_lr() == [lr * 0.25 for lr in RATES]
    scheduler.step()
    scheduler.step()
    assert scheduler.get_last_lr() == list(RATES)


@pytest.mark.parametrize("kind", ["SequentialLR", "ChainedScheduler"])
def test_a_part_that_cannot_begin_at_a_milestone_says_so(kind):
    optimizer = optimizer_of()
    first, second, third = (ours.StepLR(optimizer, 2) for _ in range(3))
    if kind == "SequentialLR":
        second = ours.SequentialLR(optimizer, [second, third], [3])
    else:
        second = ours.ChainedScheduler([second, third])
    scheduler = ours.SequentialLR(optimizer, [first, second], [2])
    scheduler.step()
    with pytest.raises(NotImplementedError, match=f"{kind} .* cannot begin at a milestone"):
        scheduler.step()


@pytest.mark.parametrize(
    "entry", [entry for entry in COMPOSITE if entry.name == "SequentialLR"], ids=repr
)
def test_undoing_by_hand_is_torchs(entry):
    runs = pair(entry)
    for run in runs:
        run.steps(8)
        run.do(lambda _, scheduler: scheduler.recursive_undo())
        run.steps(8)
        run.do(lambda _, scheduler: scheduler.recursive_undo(scheduler._schedulers[-1]))
        run.steps(8)
    assert_alike(*runs)


# ------------------------------------------------------------------ states


def assert_goes_on(a: Run, b: Run, steps: int = 30) -> None:
    b.t, b.error = a.t, a.error
    a.trace.clear()
    b.trace.clear()
    assert_alike(a.steps(steps), b.steps(steps))


@pytest.mark.parametrize("way", ["to torch", "from torch", "to itself"])
@each_kept
def test_a_run_goes_on_from_the_state_dicts_of_either_library(entry, way):
    for steps, tensor in ((0, False), (1, True), (5, False), (17, True)):
        _check_exchange(entry, way, steps, tensor)


def _check_exchange(entry, way, steps, tensor):
    source = theirs if way == "from torch" else ours
    target = theirs if way == "to torch" else ours
    a = Run.of(entry, source, tensor=tensor).steps(steps)
    saved = copy.deepcopy((a.optimizer.state_dict(), a.scheduler.state_dict()))
    b = Run.of(entry, target, tensor=tensor)
    given = copy.deepcopy(saved[1])
    b.scheduler.load_state_dict(given)
    b.optimizer.load_state_dict(saved[0])
    if target is ours:
        assert exact(given) == exact(saved[1])
    assert exact(a.scheduler.state_dict()) == exact(b.scheduler.state_dict())
    assert_goes_on(a, b)


@each_kept
def test_its_state_has_the_keys_of_torchs_and_can_be_saved(entry, tmp_path):
    a, b = (run.steps(4).scheduler.state_dict() for run in pair(entry))
    assert list(a) != [] or entry.name == "ChainedScheduler"
    assert a.keys() == b.keys()
    assert "optimizer" not in a
    torch.save(a, tmp_path / "state.pt")
    assert exact(torch.load(tmp_path / "state.pt", weights_only=False)) == exact(a)


@pytest.mark.parametrize("library", [ours, theirs], ids=["ours", "torch"])
@pytest.mark.parametrize(
    ("name", "options", "key"),
    [
        ("LambdaLR", {"lr_lambda": [half, Decay(0.9), half]}, "lr_lambdas"),
        ("MultiplicativeLR", {"lr_lambda": [half, Decay(0.9), half]}, "lr_lambdas"),
        ("CyclicLR", {"base_lr": 0.1, "max_lr": 1, "scale_fn": Decay(0.9)}, "_scale_fn_custom"),
        ("CyclicLR", {"base_lr": 0.1, "max_lr": 1, "scale_fn": half}, "_scale_fn_custom"),
    ],
)
def test_functions_are_not_saved_but_objects_are(library, name, options, key):
    expected = {"lr_lambdas": [None, {"rate": 0.9}, None]}.get(
        key, {"rate": 0.9} if isinstance(options.get("scale_fn"), Decay) else None
    )
    scheduler = getattr(library, name)(optimizer_of(), **copy.deepcopy(options))
    state = copy.deepcopy(scheduler.state_dict())
    assert state[key] == expected
    if expected is None:
        return
    fresh = getattr(ours, name)(optimizer_of(), **copy.deepcopy(options))
    changed = [None, {"rate": 0.7}, None] if key == "lr_lambdas" else {"rate": 0.7}
    fresh.load_state_dict({**state, key: changed})
    function = fresh.lr_lambdas[1] if key == "lr_lambdas" else fresh._scale_fn_custom
    assert function.rate == 0.7
    assert isinstance(function, Decay)


@pytest.mark.parametrize("function", [math.exp, partial(pow, 0.9), Decay(0.9).__call__])
def test_any_callable_can_be_saved_and_loaded(function):
    a, b = (ours.LambdaLR(optimizer_of(), function) for _ in range(2))
    a.step()
    b.load_state_dict(a.state_dict())
    assert b.last_epoch == 1
    assert b.lr_lambdas == [function] * 3


@pytest.mark.parametrize(
    ("entry", "key"),
    [(of("LambdaLR", {"lr_lambda": half})[0], "lr_lambdas"), (COMPOSITE[1], "_schedulers")],
    ids=["LambdaLR", "SequentialLR"],
)
def test_a_state_of_another_number_of_parts_is_refused_and_changes_nothing(entry, key):
    scheduler = Run.of(entry, ours).steps(3).scheduler
    before = exact(scheduler.state_dict())
    for parts in ([], scheduler.state_dict()[key] * 2):
        with pytest.raises(ValueError, match=f"state dict has {len(parts)} "):
            scheduler.load_state_dict({**scheduler.state_dict(), "last_epoch": 77, key: parts})
        assert exact(scheduler.state_dict()) == before


@pytest.mark.parametrize(
    "entry", [entry for entry in SINGLE if entry.name != "ReduceLROnPlateau"], ids=repr
)
def test_it_resumes_at_last_epoch_as_torchs_does(entry):
    # The options again, with last_epoch.
    options = copy.deepcopy(entry.make.args[0])
    for last_epoch in (0, 4, 29):
        runs = []
        for library in (ours, theirs):
            run = Run.of(entry, library).steps(min(last_epoch, 6))
            kind = getattr(library, entry.name)
            error = caught(
                lambda kind=kind, run=run, k=last_epoch: setattr(
                    run, "scheduler", kind(run.optimizer, **copy.deepcopy(options), last_epoch=k)
                )
            )
            run.error = error
            run.do(_ask)
            runs.append(run.steps(20))
        assert_alike(*runs)


def test_a_state_of_a_plateau_with_another_mode_brings_its_worst_value():
    for library in (ours, theirs):
        scheduler = library.ReduceLROnPlateau(optimizer_of())
        scheduler.load_state_dict({"mode": "max"})
        assert (scheduler.mode, scheduler.mode_worse) == ("max", -INF)


@each_kept
def test_copies_and_pickles_behave_as_in_torch(entry):
    def through_pickle(pair_):
        return pickle.loads(pickle.dumps(pair_))

    for through in (copy.deepcopy, through_pickle):
        for steps in (0, 5):
            runs = []
            for run in pair(entry):
                run.steps(steps)
                optimizer, scheduler = through((run.optimizer, run.scheduler))
                assert scheduler.optimizer is optimizer
                copied = Run(optimizer, scheduler, run.t)
                with warnings.catch_warnings(record=True) as noted:
                    warnings.simplefilter("always")
                    copied.steps(20)
                copied.trace.append([str(note.message) for note in noted])
                runs.append(copied)
                assert_goes_on(run, Run.of(entry, ours).steps(steps))  # the original still does
            assert_alike(*runs)


def test_get_last_lr_is_no_alias_of_a_tensor_learning_rate():
    run = Run.of(*of("StepLR", {"step_size": 2}), ours, OPTIMIZERS["torch-SGD"], tensor=True)
    before = groups_of(run.optimizer)
    for lr in run.steps(1).scheduler.get_last_lr():
        lr.fill_(7)
    for lr in run.scheduler.base_lrs:
        lr.fill_(7)
    assert groups_of(run.optimizer) == before


# ------------------------------------------------------------------ the face

PARAM = [torch.nn.Parameter(torch.ones(2))]


def _face(kind) -> dict[str, Any]:
    """Names, kinds and defaults of the arguments of all that a user may call."""
    return {
        name: [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]
        for name, function in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_") or name == "__init__"
    }


@pytest.mark.parametrize("name", [*theirs.__all__, "_LRScheduler"])
def test_signatures_are_torchs(name):
    assert _face(getattr(ours, name)) == _face(getattr(theirs, name))
    assert getattr(ours, name).__name__ == name


def test_all_names_of_torch_and_the_new_ones_are_there():
    assert set(ours.__all__) == {*theirs.__all__, *NEW, "EPOCH_DEPRECATION_WARNING", "_LRScheduler"}
    assert all(hasattr(ours, name) for name in ours.__all__)
    assert {entry.name for entry in TABLE} == set(theirs.__all__) - {"LRScheduler"}


@pytest.mark.parametrize("name", sorted({*theirs.__all__, *NEW, "_LRScheduler"}))
def test_nothing_that_computes_or_keeps_state_is_inherited_from_torch(name):
    kind = getattr(ours, name)
    assert issubclass(kind, theirs.LRScheduler)
    for parent in kind.__mro__:
        if not parent.__module__.startswith("torch"):
            continue
        for attribute, value in vars(parent).items():
            if callable(value) or isinstance(value, (property, staticmethod, classmethod)):
                owner = next(c for c in kind.__mro__ if attribute in vars(c))
                assert owner.__module__ == ours.__name__, attribute


def test_relatives_are_torchs():
    for name in theirs.__all__:
        kin = issubclass(getattr(ours, name), ours.LRScheduler)
        assert kin == issubclass(getattr(theirs, name), theirs.LRScheduler)
    # What hands metrics to schedulers asks for this class.
    assert issubclass(ours.ReduceLROnPlateau, theirs.ReduceLROnPlateau)


def test_a_subclass_of_a_user_needs_get_lr_alone():
    def make(library):
        class Root(library.LRScheduler):
            def get_lr(self):
                return [lr / (1 + self.last_epoch) ** 0.5 for lr in self.base_lrs]

        class Closed(Root):
            def _get_closed_form_lr(self):
                return [lr * self.last_epoch for lr in self.base_lrs]

        class Twice(library.StepLR):
            def get_lr(self):
                return [2 * lr for lr in super().get_lr()]

        return [Root, Closed, partial(Twice, step_size=3)]

    for mine, torchs in zip(make(ours), make(theirs), strict=True):
        runs = [
            Run(optimizer, kind(optimizer))
            for kind in (mine, torchs)
            for optimizer in [optimizer_of()]
        ]
        for run in runs:
            run.steps(10).do(_jump(4))
            run.steps(5)
        assert_alike(*runs)


def test_the_base_class_has_no_rates():
    assert caught(lambda: ours.LRScheduler(optimizer_of())) == (NotImplementedError, "")


# ------------------------------------------------------------------ errors


class NoOptimizer:
    pass


def _others(library):
    a, b = optimizer_of(), optimizer_of()
    return a, library.StepLR(a, 1), library.StepLR(b, 1), library.ReduceLROnPlateau(a)


ERRORS: dict[str, Callable[[Any], Any]] = {
    **{
        f"{entry!r} without an optimizer": lambda lib, entry=entry: entry.make(lib, NoOptimizer())
        for entry in ONE_EACH
        if entry.name
        not in ("LambdaLR", "MultiplicativeLR", "SequentialLR", "ChainedScheduler", "CyclicLR")
    },
    **{
        f"{entry!r} resumed": lambda lib, entry=entry: getattr(lib, entry.name)(
            optimizer_of(), **copy.deepcopy(entry.make.args[0]), last_epoch=3
        )
        for entry in [*CHAINABLE, *ONE_EACH]
        if entry in SINGLE and entry.name not in ("ReduceLROnPlateau",)
    },
    "cyclic, no optimizer": lambda lib: lib.CyclicLR(NoOptimizer(), 0.1, 1),
    "lambdas": lambda lib: lib.LambdaLR(optimizer_of(), [half]),
    "lambdas of a product": lambda lib: lib.MultiplicativeLR(optimizer_of(), [half] * 2),
    "no function": lambda lib: lib.MultiplicativeLR(optimizer_of(), 0.5),
    "no functions": lambda lib: lib.MultiplicativeLR(optimizer_of(), [half, half, "x"]),
    "constant 1.1": lambda lib: lib.ConstantLR(optimizer_of(), 1.1),
    "constant -0.1": lambda lib: lib.ConstantLR(optimizer_of(), -0.1),
    "linear from 1.1": lambda lib: lib.LinearLR(optimizer_of(), 1.1),
    "linear from 0": lambda lib: lib.LinearLR(optimizer_of(), 0),
    "linear to 1.1": lambda lib: lib.LinearLR(optimizer_of(), 0.5, 1.1),
    "linear to -1": lambda lib: lib.LinearLR(optimizer_of(), 0.5, -1),
    "T_0 0": lambda lib: lib.CosineAnnealingWarmRestarts(optimizer_of(), 0),
    "T_0 2.5": lambda lib: lib.CosineAnnealingWarmRestarts(optimizer_of(), 2.5),
    "T_mult 0": lambda lib: lib.CosineAnnealingWarmRestarts(optimizer_of(), 2, 0),
    "T_mult 1.5": lambda lib: lib.CosineAnnealingWarmRestarts(optimizer_of(), 2, 1.5),
    "eta_min": lambda lib: lib.CosineAnnealingWarmRestarts(optimizer_of(), 2, eta_min="0"),
    "epoch -1": lambda lib: lib.CosineAnnealingWarmRestarts(optimizer_of(), 2).step(-1),
    "cyclic base_lr": lambda lib: lib.CyclicLR(optimizer_of(), [0.1], 1),
    "cyclic max_lr": lambda lib: lib.CyclicLR(optimizer_of(), 0.1, [1, 2]),
    "cyclic mode": lambda lib: lib.CyclicLR(optimizer_of(), 0.1, 1, mode="square"),
    "cyclic momentum": lambda lib: lib.CyclicLR(torch.optim.Adagrad(PARAM), 0.1, 1),
    "cyclic momentums": lambda lib: lib.CyclicLR(optimizer_of(), 0.1, 1, base_momentum=[1]),
    "one cycle momentum": lambda lib: lib.OneCycleLR(torch.optim.Adagrad(PARAM), 0.1, 9),
    "one cycle momentums": lambda lib: lib.OneCycleLR(optimizer_of(), 1, 9, max_momentum=[1]),
    "one cycle max_lr": lambda lib: lib.OneCycleLR(optimizer_of(), [0.1], 9),
    **{
        f"one cycle {options}": lambda lib, options=options: lib.OneCycleLR(
            optimizer_of(), 0.1, **options
        )
        for options in [
            {},
            {"epochs": 3},
            {"steps_per_epoch": 3},
            {"total_steps": 0},
            {"total_steps": 2.5},
            {"epochs": 0, "steps_per_epoch": 3},
            {"epochs": 2.0, "steps_per_epoch": 3},
            {"epochs": 2, "steps_per_epoch": -3},
            {"epochs": 2, "steps_per_epoch": 3.5},
            {"total_steps": 9, "pct_start": 1.5},
            {"total_steps": 9, "pct_start": -0.1},
            {"total_steps": 9, "pct_start": 1},
            {"total_steps": 9, "anneal_strategy": "square"},
        ]
    },
    "plateau factor": lambda lib: lib.ReduceLROnPlateau(optimizer_of(), factor=1.0),
    "plateau mode": lambda lib: lib.ReduceLROnPlateau(optimizer_of(), mode="mean"),
    "plateau threshold": lambda lib: lib.ReduceLROnPlateau(optimizer_of(), threshold_mode="x"),
    "plateau min_lr": lambda lib: lib.ReduceLROnPlateau(optimizer_of(), min_lr=[0.1]),
    "sequence of none": lambda lib: lib.SequentialLR(optimizer_of(), [], []),
    "sequence of things": lambda lib: lib.SequentialLR(optimizer_of(), [NoOptimizer()], []),
    "milestones": lambda lib: _sequential(lib, optimizer_of(), ["StepLR"], [1]),
    "chain of none": lambda lib: lib.ChainedScheduler([]),
    "chain of things": lambda lib: lib.ChainedScheduler([NoOptimizer()], optimizer_of()),
    "chain of things alone": lambda lib: lib.ChainedScheduler([NoOptimizer()]),
}


@pytest.mark.parametrize("act", ERRORS.values(), ids=ERRORS)
def test_errors_are_torchs(act):
    expected = caught(lambda: act(theirs))
    assert expected is not None
    assert caught(lambda: act(ours)) == expected


def test_a_step_after_the_last_of_one_cycle_is_refused_as_in_torch():
    runs = pair(*of("OneCycleLR", {"max_lr": 0.1, "total_steps": 3}))
    for run in runs:
        run.steps(9)
        assert run.t == 4
    assert_alike(*runs)


@pytest.mark.parametrize("library", [ours, theirs], ids=["ours", "torch"])
def test_parts_of_other_optimizers_or_with_metrics_are_refused(library):
    optimizer, scheduler, foreign, plateau = _others(library)
    for make in (
        lambda parts: ours.SequentialLR(optimizer, parts, [3]),
        lambda parts: ours.ChainedScheduler(parts),
    ):
        with pytest.raises(ValueError, match=r"expects all schedulers to belong .* index 1 has"):
            make([scheduler, foreign])
        with pytest.raises(ValueError, match=r"does not support `ReduceLROnPlateau` .* index 1 in"):
            make([scheduler, plateau])
    for make in (
        lambda lib, *parts: lib.SequentialLR(optimizer, parts, [3]),
        lambda lib, *parts: lib.ChainedScheduler(parts),
    ):
        for wrong in (foreign, plateau):
            errors = [
                caught(lambda m=make, lib=lib, w=wrong: m(lib, scheduler, w))
                for lib in (ours, theirs)
            ]
            assert errors[0] == errors[1] != None  # noqa: E711


@pytest.mark.parametrize(("min_lr", "error"), [([1e-3] * 3, RuntimeError), (1e-3, None)])
def test_one_min_lr_holds_for_an_added_group_and_a_list_is_refused_as_in_torch(min_lr, error):
    runs = pair(*of("ReduceLROnPlateau", {"min_lr": min_lr, "patience": 0}))
    for run in runs:
        run.do(_new_group)
        run.steps(60)
        assert (run.error and run.error[0]) is error
    assert_alike(*runs)


STRICTER: list[tuple[str, dict[str, Any], str]] = [
    ("LambdaLR", {"lr_lambda": 0.5}, "should be a function, but got float"),
    *[("StepLR", {"step_size": x}, f"step_size must be a positive number, but is {x}")
      for x in (0, -3, NAN)],
    ("StepLR", {"step_size": "3"}, "step_size must be a positive number, but is '3'"),
    ("MultiStepLR", {"milestones": "30"}, "a milestone must be a real number, but is '3'"),
    ("MultiStepLR", {"milestones": [1, NAN]}, "a milestone must be a real number, but is nan"),
    ("MultiStepLR", {"milestones": [1, None]}, "a milestone must be a real number, but is None"),
    ("ConstantLR", {"factor": NAN}, "factor must be a finite number, but is nan"),
    ("LinearLR", {"start_factor": NAN}, "start_factor must be a finite number, but is nan"),
    ("LinearLR", {"end_factor": NAN}, "end_factor must be a finite number, but is nan"),
    ("CosineAnnealingLR", {"T_max": 0}, "T_max must be a positive number, but is 0"),
    ("CosineAnnealingLR", {"T_max": -5}, "T_max must be a positive number, but is -5"),
    ("CosineAnnealingLR", {"T_max": 5, "eta_min": NAN}, "eta_min must be a finite number"),
    ("CosineAnnealingWarmRestarts", {"T_0": 5, "eta_min": NAN}, "eta_min must be a finite number"),
    ("PolynomialLR", {"power": NAN}, "power must be a finite number, but is nan"),
    *[(name, {"total_iters": x}, f"total_iters must be a non-negative number, but is {x}")
      for name in ("ConstantLR", "LinearLR", "PolynomialLR") for x in (-1, NAN)],
    *[(name, {"gamma": x, **more}, f"gamma must be a finite number, but is {x}")
      for name, more in (("StepLR", {"step_size": 2}), ("MultiStepLR", {"milestones": [2]}),
                         ("ExponentialLR", {}), ("CyclicLR", {"base_lr": 0.1, "max_lr": 1}))
      for x in (NAN, INF)],
    *[("CyclicLR", {"base_lr": 0.1, "max_lr": 1, **bad}, f"{name} must be a {rule} number, but is")
      for bad in ({"base_lr": NAN}, {"max_lr": [1, 2, NAN]}, {"step_size_up": 0},
                  {"step_size_up": -1}, {"step_size_down": -1}, {"step_size_down": NAN},
                  {"base_momentum": NAN}, {"max_momentum": [0.9, 0.9, NAN]})
      for name in bad
      for rule in [{"step_size_up": "positive", "step_size_down": "non-negative"}.get(
          name, "finite")]],
    *[("OneCycleLR", {"max_lr": 0.1, "total_steps": 9, **bad}, text)
      for bad, text in (({"max_lr": NAN}, "max_lr must be a finite number, but is nan"),
                        ({"pct_start": NAN}, "between 0 and 1 pct_start, but got nan"),
                        ({"div_factor": NAN}, "div_factor must be a finite number, but is nan"),
                        ({"div_factor": 0}, "div_factor must not be 0"),
                        ({"final_div_factor": 0}, "final_div_factor must not be 0"),
                        ({"base_momentum": INF}, "base_momentum must be a finite number"))],
    *[("ReduceLROnPlateau", bad, f"{name} must be a {rule} number, but is nan")
      for bad in ({"factor": NAN}, {"threshold": NAN}, {"min_lr": NAN}, {"min_lr": [0, 0, NAN]},
                  {"eps": NAN})
      for name in bad for rule in ["finite" if name == "factor" else "real"]],
    ("InverseTimeLR", {"decay_rate": -1}, "decay_rate must be a non-negative number, but is -1"),
    ("InverseTimeLR", {"decay_rate": INF}, "decay_rate must be a finite number, but is inf"),
    *[(name, {"warmup_steps": 3, "total_steps": 9, **bad}, text)
      for name in ("WarmupCosineLR", "WarmupLinearLR", "WarmupStableDecayLR")
      for bad, text in (({"warmup_steps": -1}, "warmup_steps must be a non-negative number"),
                        ({"warmup_steps": 10}, "must not be more"),
                        ({"total_steps": 0, "warmup_steps": 0}, "integer total_steps, but got 0"),
                        ({"start_factor": -0.1}, "start_factor must be between 0 and 1"),
                        ({"end_factor": 1.1}, "end_factor must be between 0 and 1, but is 1.1"),
                        ({"end_factor": NAN}, "end_factor must be a finite number"))],
    *[("WarmupStableDecayLR", {"warmup_steps": 3, "decay_steps": 3, "total_steps": 9, **bad}, text)
      for bad, text in (({"decay_steps": 7}, "warmup_steps=3 and decay_steps=7 must not be more"),
                        ({"decay_steps": -1}, "decay_steps must be a non-negative number"),
                        ({"decay_type": "cos"}, "decay_type must be 'linear' or '1-sqrt'"))],
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options", "text"),
    STRICTER,
    ids=[f"{name}-{options}" for name, options, _ in STRICTER],
)
def test_nonsense_is_refused_by_name_and_value_before_anything_changes(name, options, text):
    optimizer = optimizer_of()
    before = groups_of(optimizer)
    if name == "WarmupStableDecayLR":
        options = {"decay_steps": 0, **options}
    error = caught(lambda: getattr(ours, name)(optimizer, **options))
    assert error is not None
    assert error[0] in (ValueError, TypeError)
    assert text in error[1]
    assert groups_of(optimizer) == before
    assert "step" not in vars(optimizer)


@pytest.mark.parametrize("name", ["LambdaLR", "MultiplicativeLR"])
def test_what_is_no_optimizer_is_refused_by_its_type(name):
    error = caught(lambda: getattr(ours, name)(NoOptimizer(), half))
    assert error == (TypeError, "NoOptimizer is not an Optimizer")


@pytest.mark.parametrize(
    ("milestones", "text"),
    [([9, 3], "must be in order, but are"), ([3, NAN], "real number"), (["3", 9], "is '3'")],
)
def test_a_sequence_with_milestones_out_of_order_is_refused(milestones, text):
    optimizer = optimizer_of()
    parts = [ours.ConstantLR(optimizer) for _ in range(3)]
    before = groups_of(optimizer)
    error = caught(lambda: ours.SequentialLR(optimizer, parts, milestones))
    assert error[0] in (ValueError, TypeError)
    assert text in error[1]
    assert groups_of(optimizer) == before


def test_a_nan_is_refused_when_it_comes_and_no_group_has_changed():
    optimizer = optimizer_of()
    functions = [half, half, lambda t: NAN if t == 3 else 0.5]
    scheduler = ours.LambdaLR(optimizer, functions)
    for _ in range(2):
        scheduler.step()
    before = groups_of(optimizer)
    with pytest.raises(ValueError, match=r"LambdaLR computed nan .*param_groups\[2\].*epoch=3"):
        scheduler.step()
    assert groups_of(optimizer) == before


def test_a_constant_of_0_works_until_it_must_be_undone():
    runs = pair(*of("ConstantLR", {"factor": 0, "total_iters": 4}))
    for run in runs:
        run.steps(9)
        assert run.error[0] is ZeroDivisionError
        assert run.t == 4
    assert runs[0].trace == runs[1].trace
    assert "cannot undo factor=0 at t=4" in runs[0].error[1]


@pytest.mark.parametrize(
    ("options", "peak"),
    [
        ({"total_steps": 10, "pct_start": 0.1}, 0),  # torch divides by zero when it is made
        ({"total_steps": 10, "pct_start": 1.0}, 9),  # and here at the last step
        ({"total_steps": 4, "pct_start": 0.25, "three_phase": True}, 0),
    ],
    ids=str,
)
def test_a_phase_of_no_length_is_at_its_end(options, peak):
    optimizer = optimizer_of()
    scheduler = ours.OneCycleLR(optimizer, 0.5, **options)
    lrs = [scheduler.get_last_lr()[0]]
    for _ in range(options["total_steps"]):
        scheduler.step()
        lrs.append(scheduler.get_last_lr()[0])
    assert lrs[peak] == max(lrs) == 0.5
    assert all(math.isfinite(lr) for lr in lrs)


# ------------------------------------------------------------------ warnings


def noted(act) -> list[tuple[type, str]]:
    with warnings.catch_warnings(record=True) as records:
        warnings.simplefilter("always")
        act()
    return [(note.category, str(note.message), note.filename) for note in records]


def _order(library, entry, *, step_first, override=False):
    optimizer = optimizer_of()
    scheduler = entry.make(library, optimizer)
    if step_first:
        optimizer.step()
    if override:
        optimizer.step = type(optimizer).step.__get__(optimizer)
    return noted(lambda: [advance(scheduler, t) for t in range(3)])


@pytest.mark.parametrize("options", product(step_first=[False, True], override=[False, True]))
@pytest.mark.parametrize("entry", ONE_EACH, ids=repr)
def test_it_warns_of_the_wrong_order_when_torch_does_and_of_the_users_line(entry, options):
    mine, torchs = (_order(library, entry, **options) for library in (ours, theirs))
    assert [note[:2] for note in mine] == [note[:2] for note in torchs]
    assert {note[2] for note in mine} <= {__file__}
    watched = entry.name not in ("CosineAnnealingWarmRestarts", "ReduceLROnPlateau")
    assert bool(mine) == (watched and (options["override"] or not options["step_first"]))


@pytest.mark.parametrize("entry", [e for e in ONE_EACH if e in SINGLE], ids=repr)
def test_it_warns_of_get_lr_and_of_epochs_when_torch_does(entry):
    for act in (_ask, _jump(3)):
        notes = []
        for run in pair(entry):
            run.optimizer.step()
            notes.append(
                noted(lambda run=run, act=act: caught(lambda: act(run.optimizer, run.scheduler)))
            )
        assert [note[:2] for note in notes[0]] == [note[:2] for note in notes[1]]
        assert {note[2] for note in notes[0]} <= {__file__}
        silent = {_ask: "ReduceLROnPlateau"}.get(act, "CosineAnnealingWarmRestarts")
        assert bool(notes[0]) == (entry.name != silent)


def test_the_step_of_an_optimizer_is_wrapped_once_and_does_not_keep_it_alive():
    optimizer = optimizer_of()
    ours.StepLR(optimizer, 1)
    wrapped = optimizer.step
    for library in (theirs, ours):
        library.StepLR(optimizer, 1)
        assert optimizer.step is wrapped
    assert wrapped.__name__ == "step"
    optimizer.step()
    assert optimizer._opt_called
    alive = weakref.ref(optimizer)
    gc.disable()  # not even until the next collection
    try:
        del optimizer, wrapped
        assert alive() is None
    finally:
        gc.enable()


def test_a_closure_and_hooks_still_reach_the_optimizer():
    optimizer = optimizer_of()
    ours.StepLR(optimizer, 1)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append("hook"))
    assert optimizer.step(lambda: 5.0) == 5.0
    assert optimizer.step(closure=lambda: 6.0) == 6.0
    assert calls == ["hook", "hook"]


def test_the_flags_of_a_step_are_down_after_an_error():
    def fail(t):
        if t == 2:
            raise KeyError("of the user")
        return 1.0

    scheduler = ours.LambdaLR(optimizer_of(), fail)
    scheduler.step()
    with pytest.raises(KeyError, match="of the user"):
        scheduler.step()
    assert not scheduler._get_lr_called_within_step
    assert not scheduler._is_initial


@pytest.mark.slow
def test_a_compiled_loop_is_not_compiled_anew_for_every_step():
    program = """
import sys, torch
import torch._dynamo as dynamo
import torch.optim.lr_scheduler as theirs
import scratch_optim.lr_scheduler as ours

frames = []
for library in (theirs, ours):
    dynamo.reset()
    dynamo.utils.counters.clear()
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([p], lr=torch.tensor(0.1))
    scheduler = library.LinearLR(optimizer, total_iters=30)

    @torch.compile(backend="eager")
    def train():
        optimizer.step()
        scheduler.step()

    for _ in range(20):
        p.grad = torch.ones(3)
        train()
    frames.append((dynamo.utils.counters["frames"]["total"], scheduler.get_last_lr()))
assert frames[0][1] == frames[1][1], frames
assert frames[1][0] <= frames[0][0] + 2, frames
"""
    subprocess.run([sys.executable, "-c", program], check=True)


# ------------------------------------------------------------------ what torch lacks

NEW_ONES = [
    *of("InverseTimeLR", {"decay_rate": 0.1}, {"decay_rate": 0}, {"decay_rate": 3}),
    *[
        entry
        for name in ("WarmupCosineLR", "WarmupLinearLR")
        for entry in of(
            name,
            *product(warmup_steps=[0, 1, 10], total_steps=[40], start_factor=[0.0, 0.1]),
            *product(warmup_steps=[10], total_steps=[10, 11, 50], end_factor=[0.0, 0.1, 1 / 3]),
            {"warmup_steps": 2.5, "total_steps": 9},
        )
    ],
    *of(
        "WarmupStableDecayLR",
        *product(
            warmup_steps=[0, 7],
            decay_steps=[0, 1, 13],
            total_steps=[20, 50],
            decay_type=["linear", "1-sqrt"],
        ),
        *product(
            warmup_steps=[5],
            decay_steps=[9],
            total_steps=[20],
            decay_type=["linear", "1-sqrt"],
            end_factor=[0.0, 0.1],
            start_factor=[0.3],
        ),
        {"warmup_steps": 1.1, "decay_steps": 2.3, "total_steps": 9, "decay_type": "1-sqrt"},
    ),
]
each_new = pytest.mark.parametrize("entry", NEW_ONES, ids=repr)

EPS = torch.finfo(torch.float64).eps


def formula(entry: Entry, t: float) -> float:
    """The factor at t, written apart from the library, on tensors of float64."""
    o = entry.make.args[0]
    now = torch.tensor(t, dtype=torch.float64)
    if entry.name == "InverseTimeLR":
        return (1 + o["decay_rate"] * now).reciprocal().item()
    W, T = o["warmup_steps"], o["total_steps"]
    a, b = o.get("start_factor", 0.0), o.get("end_factor", 0.0)
    D = o.get("decay_steps", T - W)
    left = ((T - now) / D).clamp(0, 1) if D else (now < T).double()  # 1 on the plateau, 0 at T
    if entry.name == "WarmupCosineLR":
        down = torch.sin(left * math.pi / 2) ** 2
    elif o.get("decay_type") == "1-sqrt":
        down = 1 - (1 - left).sqrt()
    else:
        down = left
    up = torch.lerp(torch.tensor(a, dtype=torch.float64), torch.ones_like(now), now / W if W else 1)
    return (
        up if now < W else torch.lerp(torch.full_like(now, b), torch.ones_like(now), down)
    ).item()


@each_new
def test_a_new_one_is_its_formula(entry):
    optimizer = optimizer_of()
    scheduler = entry.make(ours, optimizer)
    for t in range(70):
        f = formula(entry, t)
        for lr, lr_0 in zip(scheduler.get_last_lr(), RATES, strict=True):
            # Some ten roundings of values of at most 1; the square root of 1 - left, which is
            # rounded itself, adds half of its error over the root: D <= 13 keeps that below 4.
            assert lr == pytest.approx(lr_0 * f, rel=0, abs=lr_0 * 16 * EPS)
        scheduler.step()


@pytest.mark.parametrize("entry", [e for e in NEW_ONES if e.name != "InverseTimeLR"], ids=repr)
def test_a_new_one_starts_peaks_and_ends_exactly_and_has_one_peak(entry):
    o = entry.make.args[0]
    W, T = o["warmup_steps"], o["total_steps"]
    D = o.get("decay_steps", T - W)
    optimizer = optimizer_of(rates=(1.0,))
    scheduler = entry.make(ours, optimizer)
    lrs = [scheduler.get_last_lr()[0]]
    for _ in range(T + 20):
        scheduler.step()
        lrs.append(scheduler.get_last_lr()[0])
    if W > 0:
        assert lrs[0] == o.get("start_factor", 0.0)
    first, last = math.ceil(W), math.floor(T - D)  # of the plateau
    assert all(x < y for x, y in pairwise(lrs[:first]))
    assert set(lrs[first : last + 1]) <= ({1.0} if last < T else {1.0, lrs[T]})
    assert all(x > y for x, y in pairwise(lrs[max(first, last) : T + 1]))
    assert lrs[T:] == [o.get("end_factor", 0.0)] * 21


def test_the_rate_of_inverse_time_has_halved_after_1_over_k_steps():
    optimizer = optimizer_of(rates=(1.0,))
    scheduler = ours.InverseTimeLR(optimizer, 1 / 8)
    lrs = [scheduler.get_last_lr()[0]]
    for _ in range(24):
        scheduler.step()
        lrs.append(scheduler.get_last_lr()[0])
    assert (lrs[0], lrs[8], lrs[24]) == (1.0, 1 / 2, 1 / 4)
    assert all(x > y for x, y in pairwise(lrs))


@each_new
def test_a_new_one_does_with_torch_what_a_lambda_of_its_formula_does(entry):
    """In a sequence, in a chain, at step(epoch), at last_epoch, after a change by hand."""
    o = entry.make.args[0]
    reference = entry.make(ours, optimizer_of())
    twin = of("LambdaLR", {"lr_lambda": reference._f})[0]

    def made(which, library, optimizer, **more):
        if which is twin:
            return library.LambdaLR(optimizer, reference._f, **more)
        return getattr(ours, entry.name)(optimizer, **o, **more)

    for outer in (ours, theirs):
        traces = []
        for which in (entry, twin):
            trace = []
            alone = optimizer_of()
            scheduler = made(which, theirs, alone)
            run = Run(alone, scheduler).steps(5)
            for event in (_halve, _jump(8), _jump(30), _ask):
                run.do(event)
                run.steps(2)
            resumed = made(which, theirs, alone, last_epoch=6)
            trace += [*run.trace, run.error, *Run(alone, resumed).steps(9).trace]

            sequence = optimizer_of()
            parts = [
                outer.ConstantLR(sequence, 0.5, 3),
                made(which, theirs, sequence),
                outer.ExponentialLR(sequence, 0.9),
            ]
            trace += Run(sequence, outer.SequentialLR(sequence, parts, [4, 30])).steps(45).trace

            chain = optimizer_of()
            parts = [made(which, theirs, chain), outer.StepLR(chain, 3, 0.5)]
            trace += Run(chain, outer.ChainedScheduler(parts)).steps(45).trace
            traces.append(trace)
        assert traces[0] == traces[1]


@each_new
def test_a_new_one_goes_on_from_its_state_and_from_a_pickle(entry):
    kind, tensor = OPTIMIZERS["torch-SGD"], "total_steps=50" in repr(entry)
    a = Run.of(entry, ours, kind, tensor=tensor).steps(9)
    b = Run.of(entry, ours, kind, tensor=tensor)
    b.scheduler.load_state_dict(copy.deepcopy(a.scheduler.state_dict()))
    b.optimizer.load_state_dict(copy.deepcopy(a.optimizer.state_dict()))
    c = Run(*pickle.loads(pickle.dumps((a.optimizer, a.scheduler))))
    a.trace.clear()
    b.trace.clear()
    a.steps(45)
    for other in (b, c):
        assert a.trace == other.steps(45).trace
