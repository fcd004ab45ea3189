"""Adafactor: what the table of cases does not ask for, since its state has shapes of its own."""

import copy

import pytest
import torch
from cases import each_dtype, set_gradients, snapshot
from torch.nn import Parameter

from scratch_optim.adafactor import Adafactor
from scratch_optim.testing.compare import assert_same, assert_same_bits
from scratch_optim.testing.options import describe
from scratch_optim.testing.subject import gradients, parameters

KINDS = (Adafactor, torch.optim.Adafactor)
SHAPES = ((5, 3), (4, 3, 3, 2), (7,), (), (33,), (1, 1), (2, 3, 4), (1, 300), (64, 27))
OPTIONS = [
    {},
    {"lr": 0.3, "weight_decay": 0.1},
    {"lr": 2.0, "beta2_decay": -0.3},
    {"beta2_decay": 0},
    {"maximize": True, "weight_decay": 0.1},
    {"eps": (1e-2, 0.5)},
    {"eps": (0.0, 0.0)},
    {"d": 3.0},
    {"d": float("inf")},
    {"lr": torch.tensor(0.1), "weight_decay": 0.1},
    {"lr": torch.tensor([0.1], dtype=torch.float64)},
    {"foreach": True},
    {"foreach": False},
]
each_options = pytest.mark.parametrize("options", OPTIONS, ids=describe)


def pair(options, dtype=torch.float32, shapes=SHAPES):
    params = [parameters(shapes, dtype) for _ in KINDS]
    as_loop = options | {"foreach": False}  # torch's lists round otherwise than torch's loop
    return [(kind(p, **o), p) for kind, p, o in zip(KINDS, params, (options, as_loop), strict=True)]


def steps(optimizer, params, some, dtype=torch.float32):
    shapes = tuple(tuple(p.shape) for p in params)
    for grads in gradients(shapes, dtype)[some]:
        set_gradients(
            params, [torch.empty_like(p).copy_(g) for p, g in zip(params, grads, strict=True)]
        )
        optimizer.step()


def check(a, b):
    for i, (p, q) in enumerate(zip(a[1], b[1], strict=True)):
        what = f"parameter {i} {tuple(p.shape)}"
        assert_same_bits(p, q, what)
        assert_same(a[0].state[p], b[0].state[q], what)


@each_dtype
@each_options
def test_the_bits_are_those_of_torchs_loop(options, dtype):
    both = pair(options, dtype)
    for optimizer, params in both:
        steps(optimizer, params, slice(None), dtype)
    check(*both)


@each_options
@pytest.mark.parametrize("ours_first", [True, False])
def test_either_goes_on_from_the_state_dict_of_the_other(options, ours_first):
    both = pair(options)
    for optimizer, params in both:
        steps(optimizer, params, slice(4))
    a, b = both if ours_first else both[::-1]
    b[0].load_state_dict(copy.deepcopy(a[0].state_dict()))
    if not ours_first:
        assert b[0] is both[0][0]
    both[1][0].param_groups[0]["foreach"] = False
    for optimizer, params in both:
        steps(optimizer, params, slice(4, None))
    check(*both)


def test_a_matrix_keeps_its_rows_and_columns_only():
    optimizer, params = pair({})[0]
    steps(optimizer, params, slice(1))
    for p in params:
        state = {k: tuple(v.shape) for k, v in optimizer.state[p].items()}
        shape = tuple(p.shape)
        assert state == (
            {"step": (), "row_var": (*shape[:-1], 1), "col_var": (*shape[:-2], 1, shape[-1])}
            if len(shape) > 1
            else {"step": (), "variance": shape}
        )


def test_the_second_moment_of_a_gradient_of_rank_one_is_exact():
    """Then R C / mean(R) is g^2, so that the first step is a sign: as far as float64 rounds."""
    m, n = torch.randn(6, 1, dtype=torch.float64), torch.randn(1, 9, dtype=torch.float64)
    p = Parameter(torch.ones(6, 9, dtype=torch.float64))
    p.grad = m * n
    Adafactor([p], lr=0.25, eps=(1e-12, 1e-3)).step()
    torch.testing.assert_close(p.detach(), 1 - 0.25 * (m * n).sign(), rtol=1e-14, atol=1e-14)


def test_a_step_is_relative_to_the_size_of_the_parameter():
    """Scaled parameters take scaled steps; powers of two, so that nothing is rounded otherwise."""
    moved = []
    for scale in (1.0, 8.0):
        p = Parameter(scale * torch.linspace(1, 2, 12).view(3, 4))
        p.grad = torch.linspace(-1, 1, 12).view(3, 4)
        Adafactor([p]).step()
        moved.append(p.detach() / scale)
    assert_same_bits(*moved, "a parameter")


@pytest.mark.parametrize("d", [1.0, 2.5])
def test_no_update_is_larger_than_the_threshold(d):
    """RMS(step) <= alpha d, and no less once a gradient is much larger than the means."""
    p = Parameter(torch.ones(20, 30, dtype=torch.float64))
    optimizer = Adafactor([p], lr=1e-3, d=d)
    for step in range(8):
        p.grad = torch.full_like(p, 1.0 if step < 7 else 1e4)
        before = p.detach().clone()
        optimizer.step()
    alpha = before.square().mean().sqrt() * 1e-3
    taken = (p.detach() - before).square().mean().sqrt() / alpha
    t = 8 ** (-0.8 / 2)  # |u| = g / sqrt(w g^2) for the g that is all of V
    assert taken == pytest.approx(min(d, 1 / t), rel=1e-6)


def test_each_dtype_has_an_epsilon_of_its_own():
    """Torch takes that of the first parameter of the group for all of them."""
    dtypes = (torch.float64, torch.float32)
    together = [parameters(((4, 3),), dtype)[0] for dtype in dtypes]
    apart = [parameters(((4, 3),), dtype)[0] for dtype in dtypes]
    for optimizer in (Adafactor(together), *(torch.optim.Adafactor([p]) for p in apart)):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.full_like(p, 1e-9)
        optimizer.step()
    for p, q in zip(together, apart, strict=True):
        assert_same_bits(p, q, str(p.dtype))


def test_nothing_is_done_to_an_empty_parameter():
    for shape in ((0,), (0, 3), (3, 0), (2, 0, 3)):
        p = Parameter(torch.zeros(shape))
        p.grad = torch.zeros(shape)
        optimizer = Adafactor([p])
        optimizer.step()
        assert all(x.isfinite().all() for x in optimizer.state[p].values())


@pytest.mark.parametrize(
    "options",
    [
        {"lr": -1},
        {"lr": torch.tensor([0.1, 0.2])},
        {"beta2_decay": 0.1},
        {"eps": (-1e-3, 1e-3)},
        {"eps": (None, -1e-3)},
        {"d": 0.5},
        {"weight_decay": -0.1},
    ],
    ids=describe,
)
def test_options_out_of_range_are_refused_with_torchs_words(options):
    messages = []
    for kind in KINDS:
        with pytest.raises(ValueError) as error:  # noqa: PT011
            kind(parameters(), **options)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr": float("nan")}, "Learning rate should be >= 0 but is: nan"),
        ({"beta2_decay": float("nan")}, "beta2_decay should be <= 0 but is: nan"),
        ({"eps": (float("nan"), 1e-3)}, "epsilon1 should be >= 0 but is: nan"),
        ({"eps": (None, float("inf"))}, "epsilon2 should be >= 0 but is: inf"),
        ({"eps": 1e-8}, "eps must be two numbers"),
        ({"eps": (None, 1e-3, 1)}, "eps must be two numbers"),
        ({"d": float("nan")}, "Clipping threshold d should be >= 1 but is: nan"),
        ({"weight_decay": float("inf")}, "weight_decay should be >= 0 but is: inf"),
    ],
)
def test_what_torch_takes_by_accident_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Adafactor(parameters(), **options)


@pytest.mark.parametrize("bad", ["complex", "sparse"])
def test_complex_parameters_and_sparse_gradients_are_refused_before_anything_changes(bad):
    messages = []
    for kind in KINDS:
        params = [Parameter(torch.ones(3, 2)) for _ in range(2)]
        if bad == "complex":
            params[1] = Parameter(torch.ones(3, 2, dtype=torch.complex64))
        params[0].grad, params[1].grad = (torch.ones_like(p) for p in params)
        if bad == "sparse":
            params[1].grad = torch.ones(3, 2).to_sparse()
        optimizer = kind(params)
        before = snapshot(optimizer)["params"]
        with pytest.raises(RuntimeError) as error:
            optimizer.step()
        messages.append(str(error.value))
        for p, q in zip(params, before, strict=True):
            assert_same_bits(p, q, "a parameter")
    assert messages[0] == messages[1]


def test_a_state_exchanged_between_two_steps_is_seen():
    """Of vectors too, where the first parameter of the group is a matrix."""
    both = pair({}, shapes=((5, 3), (7,)))
    for optimizer, params in both:
        steps(optimizer, params, slice(3))
        for p in params:
            for name in optimizer.state[p].keys() - {"step"}:
                optimizer.state[p][name] = optimizer.state[p][name] * 4
        steps(optimizer, params, slice(3, None))
    check(*both)


def test_a_state_of_another_shape_is_refused():
    a, b = (Adafactor(parameters(((m, 3),))) for m in (4, 5))
    for optimizer, m in ((a, 4), (b, 5)):
        steps(optimizer, optimizer.param_groups[0]["params"], slice(1))
        assert optimizer.state_dict()["state"][0]["row_var"].shape == (m, 1)
    with pytest.raises(ValueError, match=r"'row_var' of parameter 0 has the shape \(5, 1\)"):
        a.load_state_dict(b.state_dict())


def test_it_descends():
    X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Linear(8, 3)
    Y = X @ torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    optimizer = Adafactor(model.parameters(), lr=0.1)

    def loss():
        optimizer.zero_grad()
        value = (model(X) - Y).square().mean()
        value.backward()
        return value

    first = loss().item()
    for _ in range(200):
        optimizer.step(loss)
    assert loss().item() < first / 100
