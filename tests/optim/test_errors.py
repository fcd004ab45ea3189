"""Invalid input: torch's error where torch has one, and an error where torch should have one."""

import pytest
import torch
from cases import (
    assert_same,
    each,
    each_case,
    gradients,
    parameters,
    set_gradients,
    skip_without,
    snapshot,
)


def caught(act):
    """Type and text of the error that ``act`` raises; None if it raises none."""
    try:
        act()
    except Exception as error:  # whatever it is
        return type(error), str(error)
    return None


@each("error_inputs", "options")
def test_options_that_torch_refuses_are_refused_in_its_words(case, options):
    errors = [
        caught(lambda kind=kind: kind(parameters(), **options)) for kind in (case.torchs, case.ours)
    ]
    assert errors[0] is not None
    assert errors[1] == errors[0]


@each("error_inputs", "options")
def test_options_of_a_group_that_torch_refuses_as_defaults_are_refused_too(case, options):
    expected = caught(lambda: case.ours(parameters(), **options))
    params = parameters()
    assert caught(lambda: case.ours([{"params": params, **options}])) == expected


@each("error_inputs", "options")
def test_a_group_refused_leaves_the_optimizer_as_it_was(case, options):
    optimizer = case.ours(parameters(), **case.typical)
    set_gradients(optimizer.param_groups[0]["params"], gradients()[0])
    optimizer.step()
    before = snapshot(optimizer)
    expected = caught(lambda: case.ours(parameters(), **options))
    new = {"params": parameters(((2,),)), **options}
    if options.get("nesterov") or "foreach" in options or "fused" in options:
        new = {**case.ours(parameters()).defaults, **new}
    given = dict(new)
    assert caught(lambda: optimizer.add_param_group(new)) == expected
    assert_same(snapshot(optimizer), before)
    assert new.keys() == given.keys()


@each("stricter_inputs", "entry")
def test_options_that_torch_wrongly_takes_are_refused_by_name_and_value(case, entry):
    options, message = entry
    error = caught(lambda: case.ours(parameters(), **options))
    assert error is not None
    assert error[0] in (ValueError, RuntimeError)
    assert message in error[1]


@each("stricter_inputs", "entry")
def test_options_that_torch_wrongly_takes_are_refused_in_added_groups(case, entry):
    options, message = entry
    optimizer = case.ours(parameters(), **case.typical)
    set_gradients(optimizer.param_groups[0]["params"], gradients()[0])
    optimizer.step()
    before = snapshot(optimizer)
    error = caught(lambda: optimizer.add_param_group({"params": parameters(((2,),)), **options}))
    assert error is not None
    assert error[0] in (ValueError, RuntimeError)
    assert message in error[1]
    assert_same(snapshot(optimizer), before)


MISSPELT = {
    "learning_rate": "lr",
    "wd": "weight_decay",
    "weight_decy": "weight_decay",
    "weightdecay": "weight_decay",
    "maximise": "maximize",
}


@pytest.mark.parametrize(("key", "meant"), MISSPELT.items(), ids=MISSPELT)
@each_case
def test_an_option_misspelt_in_a_group_is_refused_and_the_right_one_named(case, key, meant):
    wrong = {"params": parameters(((2,),)), key: 0.1}
    optimizer = case.ours(parameters())
    skip_without(case, meant)
    before = snapshot(optimizer)
    for act in (lambda: case.ours([wrong]), lambda: optimizer.add_param_group(wrong)):
        error = caught(act)
        assert error is not None
        assert error[0] is ValueError
        assert repr(key) in error[1]
        assert repr(meant) in error[1]
        assert "0.1" in error[1]
    assert_same(snapshot(optimizer), before)


@pytest.mark.parametrize(
    "key", ["name", "names", "lr_scale", "lr_mult", "initial_lr", "max_lr", "decay", "group_name"]
)
@each_case
def test_keys_that_users_and_schedulers_add_are_not_taken_for_misspellings(case, key):
    optimizer = case.ours([{"params": parameters(), key: 0.1}])
    assert optimizer.param_groups[0][key] == 0.1


@pytest.mark.parametrize("value", ["0.1", None, [0.1], {}], ids=repr)
@each_case
def test_a_learning_rate_that_is_no_number_is_a_type_error(case, value):
    assert caught(lambda: case.ours(parameters(), lr=value))[0] is TypeError


@each_case
def test_an_integer_or_numpy_learning_rate_is_a_number(case):
    import numpy as np

    for lr in (1, np.float64(0.5), np.float32(0.5), True):
        assert case.ours(parameters(), lr=lr).param_groups[0]["lr"] == lr


def leaf(*shape):
    return torch.nn.Parameter(torch.ones(*shape))


BAD_PARAMS = {
    "a tensor": lambda: leaf(2),
    "an empty list": list,
    "numbers": lambda: [1, 2],
    "a group without params": lambda: [{"lr": 0.1}],
    "a set in a group": lambda: [{"params": {leaf(2)}}],
    "not a leaf": lambda: [leaf(2) * 2],
    "a group and a tensor": lambda: [{"params": [leaf(2)]}, leaf(2)],
    "a tensor and a group": lambda: [leaf(2), {"params": [leaf(2)]}],
    "names for some": lambda: [("a", leaf(2)), leaf(3)],
    "None": lambda: None,
    "a parameter in two groups": lambda: (lambda p: [{"params": [p]}, {"params": [p]}])(leaf(2)),
    "names in some groups": lambda: [{"params": [("a", leaf(2))]}, {"params": [leaf(3)]}],
}


@pytest.mark.parametrize("build", BAD_PARAMS.values(), ids=BAD_PARAMS)
@each_case
def test_params_that_torch_refuses_are_refused_in_its_words(case, build):
    errors = [caught(lambda kind=kind: kind(build())) for kind in (case.torchs, case.ours)]
    assert errors[0] is not None
    assert errors[1][0] is errors[0][0]
    if "object at" not in errors[0][1]:
        assert errors[1] == errors[0]


@pytest.mark.parametrize("build", BAD_PARAMS.values(), ids=BAD_PARAMS)
@each_case
def test_a_group_whose_params_torch_refuses_changes_nothing_when_added(case, build):
    optimizer = case.ours(parameters())
    before = snapshot(optimizer)
    for group in ({"params": build()}, build()):
        try:
            optimizer.add_param_group(group)
        except Exception:  # which one, the test above compares
            assert_same(snapshot(optimizer), before)
        else:
            # Not every one of them is invalid as a group.
            optimizer.param_groups.pop()
            before = snapshot(optimizer)


@each_case
def test_a_set_of_parameters_warns_as_in_torch(case):
    for kind in (case.ours, case.torchs):
        with pytest.warns(FutureWarning, match="ordered collections"):
            kind({leaf(2)})


@each_case
def test_duplicates_in_a_group_warn_as_in_torch(case):
    p = leaf(2)
    for kind in (case.ours, case.torchs):
        with pytest.warns(UserWarning, match="duplicate parameters"):
            kind([p, p])


@each_case
def test_non_leaves_are_taken_if_differentiable(case):
    assert caught(lambda: case.ours([leaf(2) * 2], differentiable=True)) is None


@each_case
def test_fused_refuses_integer_parameters_in_torchs_words(case):
    if not case.torch_fused:
        pytest.skip("torch has no fused kernel")

    def act(kind):
        p = torch.ones(2, dtype=torch.int64)
        optimizer = kind([p], fused=True)
        p.grad = torch.ones(2, dtype=torch.int64)
        optimizer.step()

    ours, torchs = caught(lambda: act(case.ours)), caught(lambda: act(case.torchs))
    assert ours is not None
    assert ours[0] is torchs[0]
    # The list of devices is of the machine and of the library.
    assert ours[1].split("supported devices")[0] == torchs[1].split("supported devices")[0]


@each_case
def test_capturable_on_a_device_that_cannot_is_refused_as_in_torch(case):
    skip_without(case, "capturable")

    def act(kind):
        params = parameters(((2,),))
        optimizer = kind(params, capturable=True, foreach=False)
        set_gradients(params, [torch.ones(2)])
        optimizer.step()

    ours, torchs = caught(lambda: act(case.ours)), caught(lambda: act(case.torchs))
    assert ours is not None
    # Torch names the scalars that must be there too; which they are differs from class to class.
    assert ours[0] is torchs[0]
    for text in ("If capturable=True, params", "must be on supported devices: "):
        assert text in ours[1]
        assert text in torchs[1]
