"""Parameters cut into blocks, and small ones copied together into rows, give the bits of torch.

The conformance kit knows nothing of blocks and rows: these shapes are at their limits. What else
this library computes otherwise than it looks is here too.
"""

import dataclasses

import pytest
import torch
from cases import CASES, each_case

from scratch_optim.pieces import ROW, SMALL
from scratch_optim.testing.compare import assert_same_bits, same_bits
from scratch_optim.testing.subject import SHAPES, gradients, parameters


@each_case
def test_many_tensors_that_fill_several_blocks_give_the_bits_of_torch(case):
    shapes = ((600, 1000), (5,), (700, 1000), (), (300, 1000), (3, 3))

    def act(pair):
        pair.step(3)
        pair.check()

    case.subject.in_every_way(act, case.typical, shapes)


@each_case
def test_many_small_tensors_give_the_bits_of_torch(case):
    """Those that are copied together into rows, more than one, and at the limit of being small."""
    limit = [(SMALL - 1,), (SMALL,), (SMALL + 1,)]

    def act(pair):
        pair.step(3)
        pair.step(without=[0, 4])
        pair.step(2)
        pair.do(lambda _, params: [setattr(p, "data", p.data.clone()) for p in params])
        pair.step(2)
        pair.check()

    case.subject.in_every_way(act, case.typical, (*limit, *SHAPES, *limit, (2 * ROW,)))


@each_case
def test_state_tensors_are_the_same_objects_from_step_to_step(case):
    pair = case.subject.pair(case.typical)
    pair.step(2)
    optimizer, params = next(iter(pair))
    kept = [dict(optimizer.state[p]) for p in params]
    pair.step()
    for p, old in zip(params, kept, strict=True):
        for name in old:
            assert optimizer.state[p][name] is old[name], name


BETAS = [
    {"betas": (torch.tensor(0.8), torch.tensor(0.99))},
    {"lr": torch.tensor(0.01), "betas": (torch.tensor(0.8), torch.tensor(0.99))},
    {"betas": (torch.tensor([0.8]), torch.tensor([0.99]))},
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", BETAS, ids=["betas", "lr and betas", "one-element betas"])
@pytest.mark.parametrize("case", [c for c in CASES if "Adam" in (c.name, c.name[:-1])], ids=repr)
def test_betas_that_are_tensors_of_another_dtype_count_as_their_numbers(case, options, dtype):
    """Torch rounds beta1 to the dtype of the parameters, in bfloat16 0.999 to 1."""

    def act(pair):
        pair.optimizers[1].param_groups[0]["betas"] = tuple(map(float, options["betas"]))
        pair.step(30)
        pair.check()

    for way in ({"foreach": False}, {}):
        act(case.subject.pair(case.typical | options | way, dtype=dtype))


@each_case
def test_foreach_and_a_tensor_learning_rate_do_what_torch_does(case):
    """Refuse it, or give the bits of torch's lists or of its loop, where the two differ."""

    def run(kind, **way):
        params = parameters()
        try:
            optimizer = kind(params, **case.typical | {"lr": torch.tensor(0.1)} | way)
            for grads in gradients():
                for p, g in zip(params, grads, strict=True):
                    p.grad = g.clone()
                optimizer.step()
        except (ValueError, RuntimeError) as error:
            return type(error), str(error)
        return params

    ours, torchs = (run(kind, foreach=True) for kind in (case.ours, case.torchs))
    assert type(ours) is type(torchs), f"{ours} and {torchs}"
    if isinstance(ours, tuple):
        assert ours == torchs
    elif not all(map(same_bits, ours, torchs)):
        assert all(map(same_bits, ours, run(case.torchs, foreach=False)))


@pytest.mark.parametrize("way", [{"foreach": False}, {}], ids=["loop", "default"])
@each_case
def test_a_tensor_learning_rate_changed_in_place_gives_the_bits_of_torch(case, way):
    lr = torch.tensor(0.1)
    pair = case.subject.pair(case.typical | way | {"lr": lr})
    for value in (0.1, 0.03, 0.2):
        lr.fill_(value)
        pair.step(3)
        pair.check()
    assert_same_bits(lr, torch.tensor(0.2), "the learning rate")


COMPLEX_LOOP = ("NAdam", "RAdam", "ASGD", "Rprop", "Lion", "Momentum", "LARS", "LAMB")
"""The reference of these is the loop. Of the others torch's loop adds a coupled weight decay in
complex arithmetic where its lists do it in real; here every way does it in real."""


@each_case
def test_complex_parameters_give_the_bits_of_torch(case):
    like = {"foreach": case.name not in COMPLEX_LOOP}
    subject = dataclasses.replace(case.subject, like=like)

    def act(pair):
        pair.step(10)
        pair.check()

    for options in subject.options:
        subject.in_every_way(act, options, ((4, 3), (), (0,), (17,)), torch.complex64)


def test_shapes_of_the_suite_cover_what_they_promise():
    params = parameters()
    assert {p.dim() for p in params} >= {0, 1, 2, 4}
    assert any(p.numel() == 0 for p in params)
    assert any(
        p.dim() == 4
        and p.is_contiguous(memory_format=torch.channels_last)
        and not p.is_contiguous()
        for p in params
    )
    assert len(SHAPES) == len(params)
