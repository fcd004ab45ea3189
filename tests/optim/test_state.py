"""State dicts that must be refused, with what is said then, and what loading adds to a group.

That they are exchanged with torch, copied and carried by files is checked by the conformance kit.
"""

import copy

import pytest
import torch
from cases import CASES, each_case, set_gradients, snapshot, trained

import scratch_optim
from scratch_optim.testing.compare import assert_same, assert_same_bits
from scratch_optim.testing.subject import SHAPES, gradients, parameters


def kept_by(case):
    return set(trained(case, gradients()[:1]).state_dict()["state"][0])


def other_optimizers_dict(saved, case):
    other = next(c for c in CASES if kept_by(c) != kept_by(case))
    return trained(other, gradients()[:3]).state_dict()


def fewer_groups(saved, case):
    saved["param_groups"] = []
    return saved


def more_groups(saved, case):
    saved["param_groups"].append(copy.deepcopy(saved["param_groups"][0]))
    return saved


def shorter_group(saved, case):
    saved["param_groups"][0]["params"].pop()
    return saved


def longer_group(saved, case):
    saved["param_groups"][0]["params"].append(99)
    return saved


def missing_state_key(saved, case):
    saved["state"][3].pop(sorted(saved["state"][3])[0])
    return saved


def wrong_shape(saved, case):
    state = saved["state"][0]
    name = next(k for k in sorted(state) if k != "step")
    state[name] = torch.zeros(3, 5)
    return saved


def wrong_shape_of_the_same_size(saved, case):
    state = saved["state"][0]
    name = next(k for k in sorted(state) if k != "step")
    state[name] = state[name].reshape(-1)
    return saved


def wrong_shape_of_the_last(saved, case):
    state = saved["state"][len(SHAPES) - 1]
    name = next(k for k in sorted(state) if k != "step")
    state[name] = torch.zeros(2, 2)
    return saved


def missing_group_key(saved, case):
    saved["param_groups"][0].pop("lr")
    return saved


def no_tensor(saved, case):
    state = saved["state"][0]
    name = next(k for k in sorted(state) if k != "step")
    state[name] = "not a tensor"
    return saved


SPOILERS = [
    (other_optimizers_dict, r"lacks"),
    (fewer_groups, r"different number of parameter groups"),
    (more_groups, r"different number of parameter groups"),
    (shorter_group, r"doesn't match the size of optimizer's group"),
    (longer_group, r"doesn't match the size of optimizer's group"),
    (missing_state_key, r"lacks"),
    (wrong_shape, r"parameter 0 .*\(3, 5\).*\(5, 3\)"),
    (wrong_shape_of_the_same_size, r"parameter 0 .*\(15,\).*\(5, 3\)"),
    (wrong_shape_of_the_last, r"\(2, 2\).*\(1, 1\)"),
    (missing_group_key, r"lr"),
    (no_tensor, r"parameter 0"),
]


@pytest.mark.parametrize(("spoil", "message"), SPOILERS, ids=[f.__name__ for f, _ in SPOILERS])
@each_case
def test_a_load_that_fails_says_why_and_changes_nothing(case, spoil, message):
    optimizer = trained(case, gradients()[:3])
    if spoil is missing_state_key and "step" not in kept_by(case):
        pytest.skip("a parameter without a state is one before its first step")
    spoilt = spoil(copy.deepcopy(optimizer.state_dict()), case)
    kept = copy.deepcopy(spoilt)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(spoilt)
    assert_same(snapshot(optimizer), before)
    assert_same(spoilt["param_groups"], kept["param_groups"])
    # And it goes on as one that never failed.
    twin = trained(case, gradients()[:3])
    params, twin_params = (o.param_groups[0]["params"] for o in (optimizer, twin))
    for grads in gradients()[3:6]:
        set_gradients(params, grads)
        set_gradients(twin_params, grads)
        optimizer.step()
        twin.step()
    for p, q in zip(params, twin_params, strict=True):
        assert_same_bits(p, q, str(tuple(p.shape)))


@pytest.mark.parametrize(
    "kind", [*[case.ours for case in CASES], scratch_optim.Adafactor, scratch_optim.Muon]
)
def test_loading_and_copying_give_a_group_no_option_that_it_had_not(kind):
    optimizer = kind(parameters(((3, 2),)))
    before = set(optimizer.param_groups[0])
    for _ in range(2):
        optimizer.load_state_dict(optimizer.state_dict())
        assert set(optimizer.param_groups[0]) == before
    assert set(copy.deepcopy(optimizer).param_groups[0]) == before
