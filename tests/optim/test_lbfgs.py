"""L-BFGS: torch's bits on whole runs, and what holds of the method whatever torch does."""

import copy
import inspect
import io
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from cases import product
from torch import Tensor
from torch.nn import Parameter

from scratch_optim.lbfgs import C1, C2, LBFGS, Point, cubic_minimum, strong_wolfe, two_loops
from scratch_optim.testing.compare import assert_same, assert_same_bits
from scratch_optim.testing.options import describe
from scratch_optim.testing.subject import parameters

KINDS = (torch.optim.LBFGS, LBFGS)
WOLFE = {"line_search_fn": "strong_wolfe"}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """The problems are small: threads would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# ------------------------------------------------------------------ what to minimize


def numbers(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def spd(n, condition=100.0, seed=0):
    """A symmetric positive definite matrix with eigenvalues from 1 to ``condition``."""
    Q, _ = torch.linalg.qr(numbers(n, n, seed=seed))
    return (Q * torch.logspace(0, math.log10(condition), n, dtype=Q.dtype)) @ Q.T


def quadratic(dtype):
    A, b = spd(12).to(dtype), numbers(12, seed=1).to(dtype)
    # Several tensors, of one, two and no dimensions, and one without elements.
    shapes = ((5,), (2, 3), (), (0, 3))
    params = [Parameter(x) for x in (numbers(*s, seed=2 + len(s)).to(dtype) for s in shapes)]

    def loss():
        x = torch.cat([p.reshape(-1) for p in params])
        return x @ A @ x / 2 - b @ x

    return params, loss


def rosenbrock(n):
    def build(dtype):
        x = Parameter(torch.linspace(-1.2, 1.0, n, dtype=dtype))
        return [x], lambda: (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()

    return build


def data(dtype, classes):
    X = numbers(40, 6, seed=3)
    labels = (X @ numbers(6, classes, seed=4) + numbers(40, classes, seed=5)).argmax(1)
    return X.to(dtype), labels


def mlp(dtype):
    X, labels = data(dtype, 3)
    params = [
        Parameter(numbers(*s, seed=6 + i).to(dtype) / 2)
        for i, s in enumerate(((8, 6), (8,), (3, 8), (3,)))
    ]
    W1, b1, W2, b2 = params
    return params, lambda: F.cross_entropy(F.linear(F.linear(X, W1, b1).tanh(), W2, b2), labels)


def logistic(dtype):
    X, labels = data(dtype, 2)
    w, b = Parameter(torch.zeros(6, dtype=dtype)), Parameter(torch.zeros((), dtype=dtype))
    return [w, b], lambda: F.binary_cross_entropy_with_logits(X @ w + b, labels.to(dtype))


def complex_(dtype):
    """Complex parameters among real ones."""
    other = torch.complex64 if dtype is torch.float32 else torch.complex128
    z, x = Parameter(numbers(2, 3, seed=7).to(other)), Parameter(numbers(4, seed=8).to(dtype))
    c = torch.complex(numbers(2, 3, seed=9), numbers(2, 3, seed=10)).to(other)
    return [z, x], lambda: ((z * z - c).abs() ** 2).sum() + (x - z.real.sum()).square().sum()


def sparse(dtype):
    """An embedding whose gradient is sparse, and a parameter that has none."""
    table = Parameter(numbers(7, 2, seed=11).to(dtype))
    unused = Parameter(torch.ones(3, dtype=dtype))
    rows = torch.tensor([1, 4, 4, 6])
    goal = numbers(4, 2, seed=12).to(dtype)

    def loss():
        found = F.embedding(rows, table, sparse=True)
        return ((found - goal) ** 2).sum() + (found**4).sum()

    return [unused, table], loss


def waves(seed, steps_of_loss=0.0):
    """A sum of sines in a bowl: line searches go through every branch.

    With ``steps_of_loss`` the loss is rounded to its multiples, so that values tie.
    """

    def build(dtype):
        a, b, c = numbers(3, 4, 3, seed=seed).to(dtype)
        x = Parameter(3 * numbers(3, seed=seed + 1).to(dtype))

        def loss():
            value = (2 * a * (3 * b * x + c).sin()).sum() + 0.05 * x.square().sum()
            if steps_of_loss:
                value = value + (steps_of_loss * (value / steps_of_loss).round() - value).detach()
            return value

        return [x], loss

    return build


PROBLEMS = {
    "quadratic": quadratic,
    "rosenbrock 2": rosenbrock(2),
    "rosenbrock 10": rosenbrock(10),
    "mlp": mlp,
    "logistic": logistic,
    "complex": complex_,
    "sparse": sparse,
}

OPTIONS = [
    *product(line_search_fn=[None, "strong_wolfe"], history_size=[1, 3, 100]),
    *product(line_search_fn=[None, "strong_wolfe"], lr=[0.01, 0.5], max_iter=[4]),
    *product(line_search_fn=[None, "strong_wolfe"], lr=[0.1], maximize=[True], max_iter=[6]),
    *product(line_search_fn=[None, "strong_wolfe"], max_iter=[1]),
    *product(line_search_fn=[None, "strong_wolfe"], max_eval=[1, 3]),
    *product(line_search_fn=[None, "strong_wolfe"], lr=[torch.tensor(0.3)]),
    *product(line_search_fn=["strong_wolfe"], lr=[torch.tensor([0.3], dtype=torch.float64)]),
    {"lr": 0},
    {"tolerance_grad": 1e-2},
    {"tolerance_change": 1e-2, "lr": 0.1},
    {**WOLFE, "tolerance_grad": 1e-2},
    {**WOLFE, "tolerance_change": 1e-2},
    {**WOLFE, "tolerance_change": 0.5},
    {**WOLFE, "tolerance_grad": -1, "tolerance_change": -1},
]


class Run:
    """An optimizer on a problem, with all that it did, step by step."""

    def __init__(self, kind, build, options=None, dtype=torch.float64):
        self.params, self.loss = build(dtype)
        self.optimizer = kind(self.params, **options or {})
        self.evaluations = 0
        self.trace = []

    def closure(self):
        assert torch.is_grad_enabled()
        self.evaluations += 1
        self.optimizer.zero_grad()
        loss = self.loss()
        loss.backward()
        return loss

    @property
    def state(self):
        return self.optimizer.state[self.params[0]]

    def step(self, steps=1):
        for _ in range(steps):
            loss = self.optimizer.step(self.closure)
            self.trace.append(
                copy.deepcopy(
                    {
                        "loss": loss.detach(),
                        "evaluations": self.evaluations,
                        "params": [p.detach() for p in self.params],
                        "grads": [p.grad for p in self.params],
                        "state": dict(self.state),
                        "states": len(self.optimizer.state),
                    }
                )
            )
        return self


def assert_same_runs(runs):
    theirs, ours = (run.trace for run in runs)
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert_same(a, b, f"step {i}")


# ------------------------------------------------------------------ torch's bits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("options", OPTIONS, ids=describe)
@pytest.mark.parametrize("build", PROBLEMS.values(), ids=PROBLEMS)
def test_a_run_is_torchs_bit_for_bit(build, options, dtype):
    assert_same_runs([Run(kind, build, options, dtype).step(2) for kind in KINDS])


@pytest.mark.parametrize("lr", [1e-3, 0.3, 1, 30])
@pytest.mark.parametrize("rounded", [0.0, 0.125], ids=["smooth", "rounded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_line_searches_on_rough_functions_are_torchs_bit_for_bit(dtype, rounded, lr):
    for seed in range(0, 24, 2):
        build = waves(seed, rounded)
        runs = [
            Run(kind, build, {**WOLFE, "lr": lr, "max_iter": 8}, dtype).step(2) for kind in KINDS
        ]
        assert_same_runs(runs)


def test_half_precision_is_torchs_bit_for_bit():
    for dtype in (torch.bfloat16, torch.float16):
        for options in ({"lr": 0.1}, WOLFE):
            assert_same_runs([Run(k, rosenbrock(10), options, dtype).step(2) for k in KINDS])


def nan_after(evaluations):
    def build(dtype):
        params, loss = rosenbrock(4)(dtype)
        left = [evaluations]

        def spoilt():
            left[0] -= 1
            return loss() * (math.nan if left[0] < 0 else 1)

        return params, spoilt

    return build


def slope_without_end(dtype):
    x = Parameter(torch.ones(3, dtype=dtype))
    return [x], lambda: -x.sum()


def plateau(dtype):
    """A slope where the loss says there is none."""
    x = Parameter(torch.ones(3, dtype=dtype))
    return [x], lambda: (x - x.detach()).sum()


def wall(dtype):
    """Falls from 0 on until a wall before 1: t grows tenfold, and then is too long."""
    x = Parameter(torch.zeros(1, dtype=dtype))
    return [x], lambda: (0.1 * x**2 - x + (20 * (x - 1)).exp()).sum()


def minimum(dtype):
    x = Parameter(torch.zeros(3, dtype=dtype))
    return [x], lambda: x.square().sum()


ENDS = {
    "at a minimum": (minimum, {}, 1),
    "tolerance_grad": (rosenbrock(4), {"tolerance_grad": 1e9}, 1),
    "a slope within tolerance": (rosenbrock(4), {"tolerance_change": 1e9}, 1),
    "tolerance_change of x": (slope_without_end, {"tolerance_change": 0.5}, 2),
    "tolerance_change of f": (plateau, {"tolerance_change": 0.5, "lr": 7}, 2),
    "f unchanged, within no tolerance": (
        plateau,
        {"tolerance_change": 0, "lr": 7, "max_iter": 3},
        3,
    ),
    "max_iter": (slope_without_end, {"max_iter": 3}, 3),
    "max_eval": (slope_without_end, {"max_eval": 4}, 4),
    "no max_eval": (slope_without_end, {"max_eval": 0}, 2),
    "NaN at once": (nan_after(0), {}, None),
    "NaN later": (nan_after(3), {"lr": 1e-3}, None),
    "NaN in the line search": (nan_after(2), WOLFE, None),
    "the limit beyond a minimum": (wall, {**WOLFE, "lr": 0.01, "max_eval": 3}, 4),
    "a line search without end": (slope_without_end, {**WOLFE, "max_eval": 6}, None),
}


@pytest.mark.parametrize(("build", "options", "evaluations"), ENDS.values(), ids=ENDS)
def test_a_step_ends_where_torchs_does(build, options, evaluations):
    runs = [Run(kind, build, options).step() for kind in KINDS]
    assert_same_runs(runs)
    if evaluations is not None:
        assert runs[1].evaluations == evaluations
    assert_same_runs([run.step(2) for run in runs])


@pytest.mark.parametrize("options", [{"lr": 0.5}, WOLFE], ids=describe)
def test_options_changed_between_two_steps_are_heeded_as_in_torch(options):
    changes = [{"lr": 0.2}, {"max_iter": 3}, {"max_eval": 2}, {"maximize": True}, WOLFE]
    runs = [Run(kind, mlp, {**options, "max_iter": 4}).step() for kind in KINDS]
    for change in changes:
        for run in runs:
            run.optimizer.param_groups[0].update(change)
            run.step()
    assert_same_runs(runs)


# ------------------------------------------------------------------ the closure


def test_step_returns_the_closures_first_result_and_leaves_the_gradients_of_its_last():
    returned, left = [], []
    run = Run(LBFGS, rosenbrock(4), {"max_iter": 5})

    def closure():
        returned.append(run.closure())
        left[:] = [p.grad for p in run.params]
        return returned[-1]

    with torch.no_grad():
        assert run.optimizer.step(closure) is returned[0]
    assert len(returned) > 1
    assert all(p.grad is g for p, g in zip(run.params, left, strict=True))
    kept = [g.clone() for g in left]
    run.optimizer.param_groups[0]["maximize"] = True
    run.optimizer.param_groups[0]["max_iter"] = 1
    run.optimizer.step(lambda: 1.0)
    for g, before in zip(left, kept, strict=True):
        assert_same_bits(g, before, "a gradient under maximize")


def test_step_needs_a_closure():
    run = Run(LBFGS, mlp)
    for act in (lambda: run.optimizer.step(), lambda: run.optimizer.step(None)):
        with pytest.raises(TypeError, match="closure"):
            act()
    assert not run.optimizer.state


@pytest.mark.parametrize("options", [{"lr": 0.5}, WOLFE], ids=describe)
@pytest.mark.parametrize("failing", [1, 2, 5, 9])
def test_after_a_closure_that_raised_the_run_goes_on_as_if_nothing_had_happened(failing, options):
    options = {**options, "max_iter": 1, "max_eval": 3}
    whole, broken = (Run(LBFGS, mlp, options) for _ in range(2))
    whole.step(12)
    left = [failing]

    def closure():
        left[0] -= 1
        if left[0] == 0:
            raise InterruptedError
        return broken.closure()

    for _ in range(12):
        try:
            broken.optimizer.step(closure)
        except InterruptedError:
            broken.optimizer.step(closure)
    assert left[0] < 0
    for p, q in zip(broken.params, whole.params, strict=True):
        assert_same_bits(p, q, "a parameter")


def test_a_closure_that_raises_between_two_iterations_leaves_a_state_that_fits():
    broken = Run(LBFGS, mlp, {"max_iter": 6, "lr": 0.5})

    def closure():
        if broken.evaluations == 3:
            broken.evaluations += 1
            raise InterruptedError
        return broken.closure()

    with pytest.raises(InterruptedError):
        broken.optimizer.step(closure)
    assert broken.state["n_iter"] == 3
    y, s = broken.state["old_dirs"][-1], broken.state["old_stps"][-1]
    torch.testing.assert_close(broken.state["ro"][-1], 1 / y.dot(s), rtol=0, atol=0)
    broken.optimizer.step(closure)
    assert len(broken.state["old_dirs"]) == broken.state["n_iter"] - 1 == 8


def test_a_group_without_parameters_calls_the_closure_as_in_torch():
    for kind in KINDS:
        optimizer = kind([{"params": []}])
        assert optimizer.step(lambda: 2.5) == 2.5
        assert not optimizer.state


# ------------------------------------------------------------------ where torch fails


def test_gradients_may_have_any_layout():
    def build(layout):
        def make(dtype):
            w = Parameter(numbers(4, 3, 2, 2, dtype=dtype).contiguous(memory_format=layout))
            x = numbers(2, 3, 5, 5, dtype=dtype, seed=1).contiguous(memory_format=layout)
            return [w], lambda: F.conv2d(x, w).sin().mean() + w.square().sum()

        return make

    for options in ({"lr": 0.5}, WOLFE):
        runs = [
            Run(LBFGS, build(layout), {**options, "max_iter": 4}).step(2)
            for layout in (torch.channels_last, torch.contiguous_format)
        ]
        assert runs[0].params[0].is_contiguous(memory_format=torch.channels_last)
        # The convolution itself may round otherwise in another layout.
        torch.testing.assert_close(runs[0].params[0], runs[1].params[0], rtol=1e-9, atol=1e-9)


def test_lazily_conjugated_gradients_are_read_as_they_are():
    z, w = (Parameter(numbers(3).to(torch.complex128)) for _ in range(2))
    g = torch.complex(numbers(3, seed=1), numbers(3, seed=2))
    for p, lazy in ((z, g.conj()), (w, g.conj().resolve_conj())):
        optimizer = LBFGS([p], max_iter=1)
        p.grad = lazy
        optimizer.step(lambda: 1.0)
    assert_same_bits(z, w, "a parameter")


def test_a_learning_rate_changed_in_place_does_not_change_the_step_taken():
    runs = []
    for lr in (0.5, torch.tensor(0.5, dtype=torch.float64)):
        run = Run(LBFGS, mlp, {"lr": lr, "max_iter": 3}).step(2)
        if isinstance(lr, Tensor):
            lr.fill_(0.25)
        else:
            run.optimizer.param_groups[0]["lr"] = 0.25
        runs.append(run.step(2))
    for p, q in zip(*(run.params for run in runs), strict=True):
        assert_same_bits(p, q, "a parameter")


def test_a_learning_rate_of_zero_moves_nothing():
    for options in ({}, WOLFE):
        for lr in (0, 0.0, torch.tensor(0.0)):
            run = Run(LBFGS, mlp, {"lr": lr, **options})
            before = [p.detach().clone() for p in run.params]
            run.step(2)
            for p, q in zip(run.params, before, strict=True):
                assert_same_bits(p, q, "a parameter")


def test_the_history_grows_and_shrinks_with_its_size():
    run = Run(LBFGS, rosenbrock(10), {**WOLFE, "max_iter": 4, "history_size": 3}).step(3)
    pairs = ("old_dirs", "old_stps", "ro")
    assert [len(run.state[name]) for name in pairs] == [3, 3, 3]
    latest = run.state["old_dirs"]
    for size, expected in ((5, 5), (2, 2)):
        run.optimizer.param_groups[0]["history_size"] = size
        latest = run.state["old_dirs"][-1]
        run.step()
        assert [len(run.state[name]) for name in pairs] == [expected] * 3
        assert len(run.state["al"]) == size
    assert all(x is not latest for x in run.state["old_dirs"])


# ------------------------------------------------------------------ checkpoints


def by_file(saved):
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("options", [{"history_size": 4}, WOLFE], ids=describe)
@pytest.mark.parametrize("build", [mlp, rosenbrock(10), complex_], ids=["mlp", "rosen", "complex"])
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_state_dict_exchanged_with_torch_in_mid_run_continues_bit_for_bit(
    steps, build, options, dtype
):
    options = {**options, "max_iter": 3, "lr": 0.5}
    runs = [Run(kind, build, options, dtype).step(steps) for kind in KINDS]
    saved = [by_file(run.optimizer.state_dict()) for run in runs]
    for run, other in zip(runs, reversed(saved), strict=True):
        run.optimizer = type(run.optimizer)(run.params, lr=9)
        run.optimizer.load_state_dict(other)
        run.step(3)
    assert_same_runs(runs)


def test_the_state_dict_has_the_keys_of_torchs():
    theirs, ours = (Run(kind, mlp, WOLFE).step(2).optimizer.state_dict() for kind in KINDS)
    assert_same(ours, theirs)


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copied_optimizer_continues_bit_for_bit_and_leaves_the_original_alone(twin_of):
    options = {"max_iter": 3, "lr": 0.5}
    run = Run(LBFGS, quadratic, options).step(2)
    before = copy.deepcopy((dict(run.state), [p.data for p in run.params]))
    twin = twin_of(run.optimizer)

    other = Run(LBFGS, quadratic, options)
    for p, q in zip(other.params, twin.param_groups[0]["params"], strict=True):
        p.data = q.data
    fresh = other.optimizer
    fresh.load_state_dict(twin.state_dict())
    other.step(2)
    assert_same((dict(run.state), [p.data for p in run.params]), before)
    run.step(2)
    assert_same(other.trace[-1]["params"], run.trace[-1]["params"])

    # And the twin itself steps.
    params = twin.param_groups[0]["params"]

    def closure():
        for p in params:
            p.grad = p.detach().clone()
        return sum(float(p.detach().square().sum()) for p in params) / 2

    first = closure()
    twin.step(closure)
    assert closure() < first


def trained():
    return Run(LBFGS, mlp, {"max_iter": 4, **WOLFE}).step(2)


def spoilers():
    def state(change):
        return lambda saved: change(saved["state"][0])

    def group(change):
        return lambda saved: change(saved["param_groups"][0])

    return {
        "no d": (state(lambda s: s.pop("d")), r"lacks \['d'\]"),
        "no func_evals": (state(lambda s: s.pop("func_evals")), r"lacks \['func_evals'\]"),
        "a short d": (state(lambda s: s.update(d=s["d"][:-1])), r"'d'.*\(83,\).*\(82,\)"),
        "d of two dimensions": (state(lambda s: s.update(d=s["d"][None])), r"'d'.*\(1, 83\)"),
        "no gradient": (state(lambda s: s.update(prev_flat_grad=None)), "'prev_flat_grad'.*None"),
        "a short y": (state(lambda s: s["old_dirs"].append(s["old_dirs"].pop()[1:])), "old_dirs"),
        "a step that is none": (
            state(lambda s: s["old_stps"].append(s["old_stps"].pop() and None)),
            "old_stps",
        ),
        "unequal lists": (state(lambda s: s["ro"].pop()), "'ro'"),
        "no list": (state(lambda s: s.update(old_stps=s["d"])), "'old_stps'"),
        "a count that is none": (state(lambda s: s.update(n_iter="many")), "'n_iter'.*'many'"),
        "another optimizer's": (state(lambda s: (s.clear(), s.update(step=1))), "func_evals"),
        "no lr": (group(lambda g: g.pop("lr")), "lr"),
        "two groups": (lambda s: s["param_groups"].append(s["param_groups"][0]), "different"),
        "fewer parameters": (group(lambda g: g["params"].pop()), "match the size"),
    }


@pytest.mark.parametrize("name", spoilers())
def test_a_load_that_fails_says_why_and_changes_nothing(name):
    spoil, message = spoilers()[name]
    run, untouched = trained(), trained()
    saved = copy.deepcopy(run.optimizer.state_dict())
    if name == "a step that is none":
        saved["state"][0]["old_stps"][-1] = None
    else:
        spoil(saved)
    with pytest.raises(ValueError, match=message):
        run.optimizer.load_state_dict(saved)
    assert_same(run.optimizer.state_dict(), untouched.optimizer.state_dict())
    run.step(2)
    untouched.step(2)
    assert_same(run.trace, untouched.trace)


def test_loading_shares_no_memory_with_the_dict():
    run = trained()
    saved = run.optimizer.state_dict()
    kept = copy.deepcopy(saved)
    twin = Run(LBFGS, mlp)
    twin.optimizer.load_state_dict(saved)
    twin.step(3)
    assert_same(saved, kept)


def test_a_checkpoint_without_maximize_descends():
    run = trained()
    saved = copy.deepcopy(run.optimizer.state_dict())
    del saved["param_groups"][0]["maximize"]
    run.optimizer.load_state_dict(saved)
    run.step()
    assert run.loss() < run.trace[-1]["loss"]


# ------------------------------------------------------------------ options


def caught(act):
    try:
        act()
    except Exception as error:  # whatever it is
        return type(error), str(error)
    return None


@pytest.mark.parametrize(
    "options", [{"lr": -1}, {"lr": -1e-9}, {"lr": torch.tensor([0.1, 0.2])}], ids=describe
)
def test_options_that_torch_refuses_are_refused_in_its_words(options):
    theirs, ours = (caught(lambda kind=kind: kind(parameters(), **options)) for kind in KINDS)
    assert theirs is not None
    assert ours == theirs


def test_a_second_group_is_refused_in_torchs_words_and_when_added():
    def groups():
        return [{"params": [p]} for p in parameters()]

    theirs, ours = (caught(lambda kind=kind: kind(groups())) for kind in KINDS)
    assert theirs is not None
    assert ours == theirs
    optimizer = LBFGS(parameters())
    assert caught(lambda: optimizer.add_param_group(groups()[0])) == theirs
    assert len(optimizer.param_groups) == 1


STRICTER = [
    ({"lr": math.nan}, ValueError, "learning rate: nan"),
    ({"lr": math.inf}, ValueError, "learning rate: inf"),
    ({"lr": "fast"}, TypeError, "fast"),
    ({"max_iter": 0}, ValueError, "max_iter value: 0"),
    ({"max_iter": math.nan, "max_eval": 9}, ValueError, "max_iter value: nan"),
    ({"max_eval": -1}, ValueError, "max_eval value: -1"),
    ({"max_eval": "9"}, TypeError, "max_eval .*'9'"),
    ({"history_size": 0}, ValueError, "history_size value: 0"),
    ({"history_size": -3}, ValueError, "history_size value: -3"),
    ({"history_size": 2.5}, TypeError, "history_size .*2.5"),
    ({"tolerance_grad": math.nan}, ValueError, "tolerance_grad value: nan"),
    ({"tolerance_change": math.nan}, ValueError, "tolerance_change value: nan"),
    ({"tolerance_change": None}, TypeError, "tolerance_change .*None"),
    ({"line_search_fn": "wolfe"}, RuntimeError, "only 'strong_wolfe' is supported.*'wolfe'"),
]


@pytest.mark.parametrize(
    ("options", "kind", "message"), STRICTER, ids=[describe(o) for o, *_ in STRICTER]
)
def test_options_that_torch_wrongly_takes_are_refused_by_name_and_value(options, kind, message):
    with pytest.raises(kind, match=message):
        LBFGS(parameters(), **options)
    with pytest.raises(kind, match=message):
        LBFGS([{"params": parameters(), **options}])


def test_an_unknown_line_search_set_later_is_refused_before_anything_changes():
    run, untouched = trained(), trained()
    run.optimizer.param_groups[0]["line_search_fn"] = "armijo"
    with pytest.raises(RuntimeError, match=r"only 'strong_wolfe' is supported.*'armijo'"):
        run.step()
    assert run.evaluations == untouched.evaluations
    run.optimizer.param_groups[0]["line_search_fn"] = "strong_wolfe"
    assert_same(run.optimizer.state_dict(), untouched.optimizer.state_dict())


def test_the_signature_and_the_defaults_are_torchs():
    theirs, ours = (inspect.signature(kind).parameters for kind in KINDS)
    assert [p.name for p in theirs.values()] == [p.name for p in ours.values()][: len(theirs)]
    for name, p in theirs.items():
        assert (ours[name].default, ours[name].kind) == (p.default, p.kind)
    assert LBFGS(parameters()).defaults == torch.optim.LBFGS(parameters()).defaults
    assert LBFGS(parameters(), max_iter=7).defaults["max_eval"] == 8


# ------------------------------------------------------------------ the mathematics


@pytest.mark.parametrize("condition", [10.0, 1e3])
def test_on_a_strictly_convex_quadratic_it_converges_to_the_solution(condition):
    A, b = spd(20, condition), numbers(20, seed=1)

    def build(dtype):
        x = Parameter(torch.zeros(20, dtype=dtype))
        return [x], lambda: x @ A @ x / 2 - b @ x

    # A line search sees values alone, which near the minimum are the same where they differ by
    # less than eps |f|: gradients below sqrt(2 eps |f| condition), here 1e-6, are out of its reach.
    tolerance = 2e-6
    options = {**WOLFE, "tolerance_grad": tolerance, "tolerance_change": 0, "max_iter": 200}
    run = Run(LBFGS, build, options).step()
    (x,) = run.params
    assert x.grad.abs().max() <= tolerance
    # |x - x*| = |A^-1 g| <= |g| / smallest eigenvalue, which is 1; |g| <= sqrt(20) max |g_i|.
    assert torch.dist(x.detach(), torch.linalg.solve(A, b)) <= 20**0.5 * tolerance


@pytest.mark.parametrize(
    "build", [quadratic, rosenbrock(2), rosenbrock(10), mlp, logistic, waves(3), waves(8)]
)
@pytest.mark.parametrize("lr", [0.01, 1, 20])
def test_every_accepted_step_satisfies_the_strong_wolfe_conditions(build, lr):
    options = {**WOLFE, "max_iter": 1, "max_eval": 60, "lr": lr, "tolerance_grad": -1}
    run = Run(LBFGS, build, options)

    def here():
        loss = run.closure()
        return loss.item(), torch.cat([p.grad.reshape(-1) for p in run.params])

    checked = 0
    for _ in range(30):
        f0, g0 = here()
        before = run.evaluations
        run.step()
        assert run.evaluations - before < 60, "the limit was reached"
        d, t = run.state["d"], run.state["t"]
        if g0.dot(d) > -1e-8:
            break  # f changes by about what it is rounded by
        f1, g1 = here()
        assert f1 <= f0 + C1 * t * g0.dot(d)
        assert abs(g1.dot(d)) <= C2 * abs(g0.dot(d))
        checked += 1
    assert checked >= 3


def test_the_line_search_finds_a_point_on_a_function_of_one_number():
    """phi of Moré and Thuente (1994), equation 5.1, with beta = 2: flat but for one dip."""
    calls = []

    def phi(t):
        t = torch.as_tensor(t, dtype=torch.float64)
        calls.append(float(t))
        value = -t / (t * t + 2)
        slope = (t * t - 2) / (t * t + 2) ** 2
        return Point(t, float(value), slope, slope[None])

    start, longest = phi(0.0), torch.ones((), dtype=torch.float64)
    for t in (1e-3, 0.1, 1.0, 10.0):
        del calls[:]
        found = strong_wolfe(phi, start, t, longest, limit=30)
        assert found.phi <= start.phi + C1 * found.t * start.slope
        assert abs(found.slope) <= C2 * abs(start.slope)
        assert len(calls) <= 15


@pytest.mark.parametrize("m", [1, 2, 5])
def test_the_two_loops_are_the_dense_bfgs_update(m):
    n = 7
    A, gamma = spd(n, 10.0), 0.3
    S = [numbers(n, seed=20 + i) for i in range(m)]
    Y = [A @ s for s in S]
    rho = [1 / y.dot(s) for s, y in zip(S, Y, strict=True)]
    identity = torch.eye(n, dtype=torch.float64)
    H = gamma * identity  # 7.20, then 7.16 and 7.17 for each pair, from the oldest on
    for s, y, r in zip(S, Y, rho, strict=True):
        V = identity - r * torch.outer(y, s)
        H = V.T @ H @ V + r * torch.outer(s, s)
    columns, alphas = zip(*(two_loops(e.clone(), S, Y, rho, gamma) for e in identity), strict=True)
    # Each of the m updates multiplies the error of some n roundings by |V|^2 <= condition of A.
    bound = n * m * 10 * torch.finfo(torch.float64).eps
    assert torch.linalg.matrix_norm(torch.stack(columns) - H) <= bound * H.norm()
    assert all(len(alpha) == m for alpha in alphas)
    # The secant equation, 6.6: H y = s for the latest pair.
    assert (two_loops(Y[-1].clone(), S, Y, rho, gamma)[0] - S[-1]).norm() <= bound * H.norm() * 10


def test_without_pairs_the_two_loops_are_the_scaling_alone():
    q = numbers(5)
    r, alpha = two_loops(q.clone(), [], [], [], 0.25)
    assert_same_bits(r, q * 0.25, "r")
    assert alpha == []


def test_the_state_of_a_run_keeps_what_the_equations_say():
    run = Run(LBFGS, rosenbrock(10), {**WOLFE, "max_iter": 7, "history_size": 4}).step(2)
    state = run.state
    ys = [y.dot(s) for y, s in zip(state["old_dirs"], state["old_stps"], strict=True)]
    assert all(x > 0 for x in ys)
    assert_same(state["ro"], [1 / x for x in ys])
    y = state["old_dirs"][-1]
    assert_same_bits(state["H_diag"], ys[-1] / y.dot(y), "gamma")
    r, alpha = two_loops(
        -state["prev_flat_grad"], state["old_stps"], state["old_dirs"], state["ro"], state["H_diag"]
    )
    assert_same_bits(state["d"], r, "d")
    assert_same(state["al"], alpha)
    assert state["d"].dot(state["prev_flat_grad"]) < 0


def test_the_cubic_is_interpolated_exactly():
    scalar = lambda x: torch.tensor(x, dtype=torch.float64)  # noqa: E731
    # phi = (t - 3)^2 (t + 1) = t^3 - 5 t^2 + 3 t + 9 is lowest at 3.
    cubic = lambda t: Point(  # noqa: E731
        t, t**3 - 5 * t**2 + 3 * t + 9, scalar(3 * t**2 - 10 * t + 3), scalar(0.0)
    )
    for a, b in ((0.0, 4.0), (4.0, 0.0), (2.0, 7.0), (1.0, 3.5)):
        # Some ten roundings of numbers up to 100 times the result.
        assert abs(cubic_minimum(cubic(a), cubic(b)) - 3) < 1e3 * torch.finfo(torch.float64).eps
    assert cubic_minimum(cubic(1.0), cubic(2.0), (2.5, 2.75)) == 2.75
    assert cubic_minimum(cubic(1.0), cubic(2.0), (3.25, 9.0)) == 3.25
    # Falling all the way, with an inflexion: no minimum.
    falling = [Point(t, p, scalar(-1.0), scalar(0.0)) for t, p in ((0.0, 0.0), (1.0, -0.7))]
    assert cubic_minimum(*falling, (2.0, 4.0)) in (2.0, 3.0)


def test_parameters_without_elements_are_nothing_to_optimize():
    """Torch's class takes the maximum of no numbers, and raises."""
    p = Parameter(torch.zeros(0, 3))
    assert LBFGS([p]).step(lambda: 1.5) == 1.5
