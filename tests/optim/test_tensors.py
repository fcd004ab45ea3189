"""The vocabulary: every kind of operand does what ``torch.Tensor`` does, for every method used."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scratch_optim.tensors import Functional, Recorder, Tape, TensorList, choose, replay
from scratch_optim.testing.compare import assert_same_bits, epsilons

# Each method of which an equation makes use, with its arguments: x and y are operands, a number
# is a number, or a 0-dim tensor where the table says so.
NUMBER, OPERAND = "number", "operand"
METHODS = {
    "add operand": ("add", (OPERAND,), {}),
    "add alpha": ("add", (OPERAND,), {"alpha": NUMBER}),
    "add_ number": ("add_", (NUMBER,), {}),
    "add_ operand": ("add_", (OPERAND,), {}),
    "add_ alpha": ("add_", (OPERAND,), {"alpha": NUMBER}),
    "sub": ("sub", (OPERAND,), {}),
    "mul number": ("mul", (NUMBER,), {}),
    "mul_ number": ("mul_", (NUMBER,), {}),
    "div_ number": ("div_", (NUMBER,), {}),
    "div number": ("div", (NUMBER,), {}),
    "neg": ("neg", (), {}),
    "sqrt": ("sqrt", (), {}),
    "sqrt_": ("sqrt_", (), {}),
    "lerp_": ("lerp_", (OPERAND, NUMBER), {}),
    "addcmul": ("addcmul", (OPERAND, OPERAND), {"value": NUMBER}),
    "addcmul_": ("addcmul_", (OPERAND, OPERAND), {"value": NUMBER}),
    "addcdiv_": ("addcdiv_", (OPERAND, OPERAND), {"value": NUMBER}),
    "addcdiv_ plain": ("addcdiv_", (OPERAND, OPERAND), {}),
    "mul operand": ("mul", (OPERAND,), {}),
    "div_ operand": ("div_", (OPERAND,), {}),
    "abs": ("abs", (), {}),
    "sign": ("sign", (), {}),
    "square": ("square", (), {}),
    "reciprocal_": ("reciprocal_", (), {}),
    "norm": ("norm", (), {}),
    "clamp_min_": ("clamp_min_", (OPERAND,), {}),
    "copy_": ("copy_", (OPERAND,), {}),
}
LISTLESS = {"addcmul"}
"""Used by no equation with a tensor for a number."""

each_method = pytest.mark.parametrize(
    ("name", "positional", "named"), METHODS.values(), ids=METHODS
)
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


def values(dtype, seed=0, count=3):
    """Tensors of some shapes, positive, so that roots and quotients are numbers."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(5, 3), (), (0,)][:count]
    return [torch.rand(shape, generator=generator, dtype=dtype) + 0.5 for shape in shapes]


def call(operand, name, positional, named, others, number):
    """The method on an operand, with the next of ``others`` where an operand is due."""
    others = iter(others)
    args = [next(others) if kind is OPERAND else number for kind in positional]
    return getattr(operand, name)(*args, **dict.fromkeys(named, number))


def expected(name, positional, named, x, others, number):
    x = x.clone()
    result = call(x, name, positional, named, others, number)
    assert isinstance(result, Tensor)
    return result, x


@each_dtype
@each_method
def test_a_list_does_to_each_what_the_method_does_to_one(name, positional, named, dtype):
    xs, ys, zs = (values(dtype, seed) for seed in range(3))
    wanted = [
        expected(name, positional, named, x, (y, z), 0.3)
        for x, y, z in zip(xs, ys, zs, strict=True)
    ]
    operand = TensorList([x.clone() for x in xs])
    kept = [(y.clone(), z.clone()) for y, z in zip(ys, zs, strict=True)]
    result = call(operand, name, positional, named, (TensorList(ys), TensorList(zs)), 0.3)
    assert (result is operand) == name.endswith("_")
    for got, left, (want, want_left), y, z, old in zip(
        result.tensors, operand.tensors, wanted, ys, zs, kept, strict=True
    ):
        assert_same_bits(got, want, name)
        assert_same_bits(left, want_left, f"what {name} leaves")
        assert_same_bits(y, old[0], "an argument")
        assert_same_bits(z, old[1], "an argument")


@each_dtype
@each_method
def test_the_functional_form_gives_the_same_and_writes_nothing(name, positional, named, dtype):
    x, y, z = (values(dtype, seed)[0] for seed in range(3))
    want, want_left = expected(name, positional, named, x, (y, z), 0.3)
    kept = [t.clone() for t in (x, y, z)]
    operand = Functional(x)
    result = call(operand, name, positional, named, (Functional(y), Functional(z)), 0.3)
    assert (result is operand) == name.endswith("_")
    assert_same_bits(result.value, want, name)
    assert_same_bits(operand.value, want_left, f"what {name} leaves")
    for tensor, old in zip((x, y, z), kept, strict=True):
        assert_same_bits(tensor, old, "an argument")
    if name.endswith("_"):
        assert operand.value is not x


@each_dtype
@each_method
def test_a_tape_replayed_gives_the_same(name, positional, named, dtype):
    x, y, z = (values(dtype, seed)[0] for seed in range(3))
    want, want_left = expected(name, positional, named, x, (y, z), 0.3)
    tape = Tape()
    operands = [tape.operand() for _ in range(3)]
    result = call(operands[0], name, positional, named, operands[1:], 0.3)
    assert isinstance(result, Recorder)
    assert (result is operands[0]) == name.endswith("_")
    functional = [Functional(t) for t in (x, y, z)]
    scalars = [torch.tensor(number, dtype=dtype) for number in tape.scalars]
    changed = replay(tuple(tape.operations), functional, scalars)
    assert changed == ({0} if name.endswith("_") else set())
    # A tensor as a number is multiplied in an operation of its own: two roundings more.
    assert epsilons(functional[result.index].value, want) <= 2
    assert epsilons(functional[0].value, want_left) <= 2


TENSOR_NUMBERS = [
    key for key, (_, positional, named) in METHODS.items() if NUMBER in positional or named
]


@pytest.mark.parametrize("key", TENSOR_NUMBERS)
@each_dtype
def test_a_number_that_is_a_tensor_means_its_value(key, dtype):
    name, positional, named = METHODS[key]
    xs, ys, zs = (values(dtype, seed) for seed in range(3))
    number = torch.tensor(0.3, dtype=dtype)
    wanted = [
        expected(name, positional, named, x, (y, z), number.item())
        for x, y, z in zip(xs, ys, zs, strict=True)
    ]
    functional = [Functional(x) for x in xs]
    results = [
        call(f, name, positional, named, (Functional(y), Functional(z)), number)
        for f, y, z in zip(functional, ys, zs, strict=True)
    ]
    # The number is multiplied in by an operation of its own: two roundings more.
    for result, (want, _) in zip(results, wanted, strict=True):
        assert epsilons(result.value, want) <= 2
    if name in LISTLESS:
        return
    rows = TensorList([x.clone() for x in xs])
    result = call(rows, name, positional, named, (TensorList(ys), TensorList(zs)), number)
    for got, (want, _) in zip(result.tensors, wanted, strict=True):
        assert epsilons(got, want) <= 2


@pytest.mark.parametrize("key", TENSOR_NUMBERS)
def test_the_derivative_by_a_number_that_is_a_tensor_is_right(key):
    name, positional, named = METHODS[key]
    x, y, z = (values(torch.float64, seed)[0].requires_grad_() for seed in range(3))
    number = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def result(x, y, z, number):
        others = (Functional(y), Functional(z))
        # A clone: what the method leaves unused must have a gradient too.
        value = call(Functional(x), name, positional, named, others, number).value
        return value + 0 * (x + y + z)

    assert torch.autograd.gradcheck(result, (x, y, z, number))


FLOATS = st.floats(-1e3, 1e3, width=32)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(FLOATS, FLOATS, FLOATS), min_size=1, max_size=20),
    number=st.floats(-2, 2),
    key=st.sampled_from([k for k in METHODS if "div" not in k and "sqrt" not in k]),
)
def test_any_values_give_the_same_in_every_form(rows, number, key):
    name, positional, named = METHODS[key]
    x, y, z = torch.tensor(rows, dtype=torch.float32).t().contiguous().unbind()
    want, _ = expected(name, positional, named, x, (y, z), number)
    listed = call(
        TensorList([x.clone()]), name, positional, named, (TensorList([y]), TensorList([z])), number
    )
    functional = call(
        Functional(x), name, positional, named, (Functional(y), Functional(z)), number
    )
    assert_same_bits(listed.tensors[0], want, name)
    assert_same_bits(functional.value, want, name)


def test_a_tape_keeps_numbers_apart_from_operations():
    def record(number):
        tape = Tape()
        x, y = tape.operand(), tape.operand()
        x.mul_(number).add_(y.sqrt().div_(number + 1), alpha=number + 2)
        return tape

    a, b = record(0.5), record(7.0)
    assert a.operations == b.operations
    assert a.scalars == [0.5, 1.5, 2.5]
    assert b.scalars == [7.0, 8.0, 9.0]


def test_tapes_of_other_operations_differ():
    def record(act):
        tape = Tape()
        act(tape.operand(), tape.operand())
        return tuple(tape.operations)

    acts = [
        lambda x, y: x.add_(y),
        lambda x, y: y.add_(x),
        lambda x, y: x.add(y),
        lambda x, y: x.add_(2.0),
        lambda x, y: x.add_(y, alpha=2.0),
        lambda x, y: x.sub_(y),
    ]
    assert len({record(act) for act in acts}) == len(acts)


def test_a_chain_on_a_tape_replays_in_order():
    tape = Tape()
    theta, g, m = tape.operand(), tape.operand(), tape.operand()
    m.lerp_(g, 0.25)
    root = g.mul(2.0).sqrt().add_(1.0)
    theta.addcdiv_(m, root, value=-0.5)
    x, y, z = (t[0] for t in (values(torch.float64, seed) for seed in range(3)))
    operands = [Functional(t) for t in (x, y, z)]
    scalars = [torch.tensor(number, dtype=torch.float64) for number in tape.scalars]
    assert replay(tuple(tape.operations), operands, scalars) >= {0, 2}
    new_m = z.lerp(y, 0.25)
    assert epsilons(operands[2].value, new_m) <= 2
    assert epsilons(operands[0].value, x - 0.5 * new_m / ((2 * y).sqrt() + 1)) <= 4
    assert operands[1].value is y


@pytest.mark.parametrize("kind", [TensorList, Functional])
def test_an_unknown_method_is_an_attribute_error(kind):
    operand = kind([torch.ones(1)]) if kind is TensorList else kind(torch.ones(1))
    with pytest.raises(AttributeError):
        operand.no_such_method_(1)


def test_methods_that_torch_has_no_lists_for_are_called_on_each_tensor():
    rows = values(torch.float32)
    masks = [x > 1 for x in rows]
    filled = TensorList([x.clone() for x in rows]).masked_fill_(TensorList(masks), 2.0)
    sums = TensorList(rows).cumsum(dim=-1)
    for x, mask, y, z in zip(rows, masks, filled.tensors, sums.tensors, strict=True):
        assert_same_bits(y, torch.where(mask, 2.0, x), "masked_fill_")
        assert_same_bits(z, x.cumsum(dim=-1), "cumsum")


@pytest.mark.parametrize(
    "a", [0.1, torch.tensor(0.1, dtype=torch.float64)], ids=["number", "tensor"]
)
@pytest.mark.parametrize("on", [True, False])
def test_a_choice_on_a_device_is_that_of_numbers(a, on):
    assert choose(on, a, 0.3) == (a if on else 0.3)
    chosen = choose(torch.tensor(on), a, 0.3)
    assert chosen.dtype == torch.float64  # as numbers are
    assert chosen.item() == (0.1 if on else 0.3)
