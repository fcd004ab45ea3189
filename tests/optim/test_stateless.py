"""Other tensors in an optimizer for a while: it works on them, and knows nothing of it after."""

from __future__ import annotations

import copy
from typing import Any

import cases
import pytest
import torch
from cases import each_case, snapshot
from torch import Tensor

import scratch_optim
from scratch_optim.stateless import swap_in_optimizer_params_and_state
from scratch_optim.testing.compare import assert_same, assert_same_bits
from scratch_optim.testing.subject import gradients, parameters

CASES = {case.name: case for case in cases.CASES}
SHAPES = ((5, 3), (7,), ())


def started(case: Any, steps: int = 2, **options: Any) -> tuple[Any, list[Tensor]]:
    params = parameters(SHAPES)
    optimizer = case.ours(params, **case.typical, **options)
    for step in range(steps):
        step_on(optimizer, params, step)
    return optimizer, params


def step_on(optimizer: Any, params: list[Tensor], step: int) -> None:
    for p, g in zip(params, gradients(SHAPES)[step], strict=True):
        p.grad = g.clone()
    optimizer.step()


def other(optimizer: Any, params: list[Tensor]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Other parameters and a state of their own, to swap in."""
    swapped = {str(i): torch.nn.Parameter(p.detach() * 2 + 1) for i, p in enumerate(params)}
    return swapped, copy.deepcopy(optimizer.state_dict())


@each_case
def test_steps_inside_act_on_what_is_swapped_in(case):
    optimizer, params = started(case)
    swapped, state = other(optimizer, params)
    reference = case.ours([p.detach().clone().requires_grad_() for p in swapped.values()])
    reference.load_state_dict(state)
    before = snapshot(optimizer)
    with swap_in_optimizer_params_and_state(optimizer, swapped, state):
        for step in (2, 3, 4):
            step_on(optimizer, list(swapped.values()), step)
    for step in (2, 3, 4):
        step_on(reference, reference.param_groups[0]["params"], step)
    for p, q in zip(swapped.values(), reference.param_groups[0]["params"], strict=True):
        assert_same_bits(p, q, "a parameter swapped in")
    # What a step changes in place is seen in the dict handed in: the step counts too.
    assert_same(state["state"], reference.state_dict()["state"], "the state swapped in")
    assert_same(snapshot(optimizer), before, "the optimizer after")


@each_case
def test_it_goes_on_after_as_if_nothing_had_been(case):
    optimizer, params = started(case)
    twin, twin_params = started(case)
    for step in (2, 3):
        swapped, state = other(optimizer, params)
        with swap_in_optimizer_params_and_state(optimizer, swapped, state):
            step_on(optimizer, list(swapped.values()), step)
        step_on(optimizer, params, step)
        step_on(twin, twin_params, step)
        assert_same([p.detach() for p in params], [p.detach() for p in twin_params], "parameters")
        assert_same(optimizer.state_dict(), twin.state_dict(), "state")


@each_case
def test_the_same_parameters_with_another_state_are_noticed(case):
    optimizer, params = started(case)
    state = copy.deepcopy(optimizer.state_dict())
    before = copy.deepcopy(optimizer.state_dict())
    swapped = {str(i): p for i, p in enumerate(params)}
    with swap_in_optimizer_params_and_state(optimizer, swapped, state):
        step_on(optimizer, params, 2)
    assert_same(optimizer.state_dict(), before, "the state that was swapped out")


@each_case
def test_options_are_those_swapped_in_and_its_own_afterwards(case):
    optimizer, params = started(case)
    swapped, state = other(optimizer, params)
    state["param_groups"][0]["lr"] = 0.0
    group, own = optimizer.param_groups[0], optimizer.param_groups[0]["params"]
    with swap_in_optimizer_params_and_state(optimizer, swapped, state):
        assert optimizer.param_groups[0] is group
        assert group["lr"] == 0.0
        group["lr"] = 5.0
        group["new"] = 1
        optimizer.state[swapped["0"]]["new"] = 1
    assert group["lr"] == case.ours(parameters(SHAPES), **case.typical).param_groups[0]["lr"]
    assert "new" not in group
    assert group["params"] is own
    assert state["param_groups"][0]["lr"] == 0.0
    assert "new" not in state["state"].get(0, {})


def test_an_error_inside_restores_it_too():
    optimizer, params = started(CASES["Adam"])
    before = snapshot(optimizer)
    with (
        pytest.raises(ZeroDivisionError),
        swap_in_optimizer_params_and_state(optimizer, *other(optimizer, params)),
    ):
        raise ZeroDivisionError
    assert_same(snapshot(optimizer), before, "the optimizer after")


def test_torchs_optimizers_can_be_swapped_too():
    params = parameters(SHAPES)
    optimizer = torch.optim.Adam(params)
    step_on(optimizer, params, 0)
    before = snapshot(optimizer)
    swapped, state = other(optimizer, params)
    with swap_in_optimizer_params_and_state(optimizer, swapped, state):
        step_on(optimizer, list(swapped.values()), 1)
    assert state["state"][0]["step"] == 2
    assert_same(snapshot(optimizer), before, "the optimizer after")


# ------------------------------------------------------------------ refusals


def _set(place: list[Any], value: Any):
    def change(swapped: dict[str, Any], state: dict[str, Any]) -> Any:
        inner: Any = state
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
        return swapped, state

    return change


BAD = {
    "no dict": lambda swapped, state: (swapped, [state]),
    "state no dict": _set(["state"], [1]),
    "no state": lambda swapped, state: (swapped, {"param_groups": state["param_groups"]}),
    "keyed by tensors": _set(["state", torch.ones(1)], {}),
    "entry no dict": _set(["state", 0], 3),
    "groups no list": _set(["param_groups"], {}),
    "more groups": lambda swapped, state: (
        swapped,
        {**state, "param_groups": state["param_groups"] * 2},
    ),
    "group no dict": _set(["param_groups", 0], 3),
    "params no list": _set(["param_groups", 0, "params"], None),
    "params no ids": _set(["param_groups", 0, "params"], ["a", "b", "c"]),
    "fewer params": _set(["param_groups", 0, "params"], [0, 1]),
    "more keys": _set(["param_groups", 0, "new"], 1),
    "fewer keys": lambda swapped, state: (
        swapped,
        {
            **state,
            "param_groups": [
                {k: v for k, v in g.items() if k != "lr"} for g in state["param_groups"]
            ],
        },
    ),
    "too few tensors": lambda swapped, state: ({"0": swapped["0"]}, state),
    "extra state": _set(["state", 17], {}),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_bad_input_gets_torchs_message_and_changes_nothing(bad):
    stateless = pytest.importorskip("torch.optim._stateless")
    optimizer, params = started(CASES["Adam"])
    before = snapshot(optimizer)
    messages = []
    for swap in (
        swap_in_optimizer_params_and_state,
        stateless.swap_in_optimizer_params_and_state,
    ):
        swapped, state = bad(*other(optimizer, params))
        with pytest.raises(RuntimeError) as error, swap(optimizer, swapped, state):
            raise AssertionError("swapped in")
        messages.append(str(error.value))
        assert_same(snapshot(optimizer), before, "the optimizer after")
    assert messages[0] == messages[1]


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_an_optimizer_without_state_is_refused(name):
    params = parameters(SHAPES)
    optimizer = getattr(scratch_optim, name)(params)
    if name == "SGD":  # which keeps none, without momentum
        step_on(optimizer, params, 0)
    with (
        pytest.raises(RuntimeError, match="requires initialized optimizer state"),
        swap_in_optimizer_params_and_state(optimizer, *other(optimizer, params)),
    ):
        pass


# ------------------------------------------------------------------ tracing


def traced(lib: Any, name: str, options: dict[str, Any], device: str) -> Any:
    """The graph of a step on FakeTensors, as in the example of torch's docstring."""
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.utils import _pytree as pytree

    params = parameters(SHAPES)
    optimizer = getattr(lib, name)(params, **options)
    step_on(optimizer, params, 0)
    before = snapshot(optimizer)
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def fake(x: Tensor) -> Tensor:
        with mode:
            return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=device)

    swapped = {str(i): fake(p) for i, p in enumerate(params)}
    state = pytree.tree_map_only(Tensor, fake, optimizer.state_dict())
    if device == "cuda":  # which a FakeTensor can be without one
        state["param_groups"][0]["capturable"] = True
    grads = [fake(p.grad) for p in params]

    def step(swapped: Any, state: Any, grads: Any) -> Any:
        for p, g in zip(swapped.values(), grads, strict=True):
            p.grad = g
        with swap_in_optimizer_params_and_state(optimizer, swapped, state):
            optimizer.step()
        return swapped, state

    with mode:
        graph = make_fx(step)(swapped, state, grads)
    assert_same(snapshot(optimizer), before, "the optimizer after")
    step_on(optimizer, params, 1)
    return graph


def operations(graph: Any) -> list[str]:
    return [str(node.target) for node in graph.graph.nodes if "aten" in str(node.target)]


@pytest.mark.parametrize("options", [{"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}])
def test_a_step_of_sgd_is_traced_to_torchs_operations(options):
    mine, torchs = (
        operations(traced(lib, "SGD", options, "cpu")) for lib in (scratch_optim, torch.optim)
    )
    assert mine == torchs
    assert mine


@pytest.mark.parametrize("name", ["Adam", "RMSprop", "Adamax", "NAdam", "ASGD", "Adadelta"])
def test_a_capturable_step_is_traced_with_its_step_count(name):
    graph = traced(scratch_optim, name, {}, "cuda")
    names = operations(graph)
    # Each parameter has been changed, and each step count, which is an input and an output.
    assert names.count("aten.add_.Tensor") >= len(SHAPES)
    assert not [n for n in names if "_local_scalar_dense" in n]
