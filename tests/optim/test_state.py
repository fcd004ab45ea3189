"""State dicts: exchanged with torch, copied, checked whole before anything changes; hooks."""

import copy
import io
import pickle

import pytest
import torch
from cases import (
    CASES,
    SHAPES,
    Pair,
    assert_same,
    assert_same_bits,
    assert_same_state,
    each,
    each_case,
    each_eager_way,
    each_fused_case,
    gradients,
    parameters,
    set_gradients,
    snapshot,
)
from torch import Tensor
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

import scratch_optim


def trained(case, options=None, steps=3):
    params = parameters()
    optimizer = case.ours(params, **case.typical | (options or {}))
    for grads in gradients()[:steps]:
        set_gradients(params, grads)
        optimizer.step()
    return optimizer, params


def tensors_in(value):
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for x in value.values():
            yield from tensors_in(x)
    elif isinstance(value, (list, tuple)):
        for x in value:
            yield from tensors_in(x)


# ------------------------------------------------------------------ exchange with torch


@pytest.mark.parametrize("direction", ["from torch", "to torch", "back and forth"])
@each_eager_way
@each("options", "options")
def test_a_state_dict_exchanged_with_torch_in_mid_run_continues_bit_for_bit(
    case, options, way, direction
):
    pair = Pair(case, options | way)
    pair.step(7)
    ours, torchs = pair.optimizers
    if direction == "back and forth":
        mine, theirs = copy.deepcopy(ours.state_dict()), copy.deepcopy(torchs.state_dict())
        # torch's dict has no options that its class lacks, and ours has them more.
        torchs.load_state_dict(mine)
        ours.load_state_dict(theirs)
    elif direction == "to torch":
        fresh = case.torchs(pair.params[1], **options | way)
        fresh.load_state_dict(copy.deepcopy(ours.state_dict()))
        pair.optimizers[1] = fresh
    else:
        fresh = case.ours(pair.params[0], **options | way)
        fresh.load_state_dict(torchs.state_dict())
        pair.optimizers[0] = fresh
    pair.check()
    pair.step(8)
    pair.check()


@each_case
def test_the_state_dict_has_the_keys_and_values_of_torchs(case):
    pair = Pair(case)
    pair.step(3)
    ours, torchs = (optimizer.state_dict() for optimizer in pair.optimizers)
    assert ours.keys() == torchs.keys()
    assert ours["state"].keys() == torchs["state"].keys()
    for key, state in torchs["state"].items():
        assert_same_state(ours["state"][key], state, f"parameter {key}")
    for mine, theirs in zip(ours["param_groups"], torchs["param_groups"], strict=True):
        assert mine.keys() - case.extra_arguments.keys() == theirs.keys()
        assert {k: mine[k] for k in theirs if k not in case.reference_way} == {
            k: theirs[k] for k in theirs if k not in case.reference_way
        }


def reload_by_copy(optimizer, params, case):
    fresh = case.ours(params, **case.typical)
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return fresh


def reload_by_file(optimizer, params, case):
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    fresh = case.ours(params, **case.typical)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    return fresh


def reload_by_pickled_dict(optimizer, params, case):
    fresh = case.ours(params, **case.typical)
    fresh.load_state_dict(pickle.loads(pickle.dumps(optimizer.state_dict())))
    return fresh


@pytest.mark.parametrize(
    "reload", [reload_by_copy, reload_by_file, reload_by_pickled_dict], ids=lambda f: f.__name__
)
@each_case
def test_a_reloaded_optimizer_continues_bit_for_bit(case, reload):
    pair = Pair(case)
    pair.step(5)
    pair.optimizers[0] = reload(pair.optimizers[0], pair.params[0], case)
    pair.check()
    pair.step(5)
    pair.check()


@pytest.mark.parametrize("way", ["deepcopy", "pickle", "copy of model and optimizer"])
@each_case
def test_a_copied_optimizer_continues_bit_for_bit_and_leaves_the_original_alone(case, way):
    pair = Pair(case)
    pair.step(5)
    original, params = pair.optimizers[0], pair.params[0]
    before = snapshot(original)
    if way == "pickle":
        twin = pickle.loads(pickle.dumps(original))
    elif way == "deepcopy":
        twin = copy.deepcopy(original)
    else:
        twin, _ = copy.deepcopy((original, params))
    twins = twin.param_groups[0]["params"]
    assert all(p is not q for p, q in zip(params, twins, strict=True))
    pair.optimizers[0], pair.params[0] = twin, twins
    pair.step(5)
    pair.check()
    after = snapshot(original)
    # Their gradients were set by the pair before; parameters, states and groups stay.
    for part in ("groups", "params", "state", "defaults"):
        assert_same(before[part], after[part], part)


@each_fused_case
def test_an_optimizer_with_fused_survives_copies(case):
    for twin in (
        copy.deepcopy(case.ours(parameters(), fused=True)),
        pickle.loads(pickle.dumps(case.ours(parameters(), fused=True))),
    ):
        assert twin._step_supports_amp_scaling
    assert not getattr(copy.deepcopy(case.ours(parameters())), "_step_supports_amp_scaling", False)


# ------------------------------------------------------------------ loading copies


@each_case
def test_loading_shares_no_memory_with_the_dict(case):
    optimizer, _ = trained(case, {"lr": torch.tensor(0.1)})
    saved = optimizer.state_dict()
    fresh = case.ours(parameters(), **case.typical)
    fresh.load_state_dict(saved)
    theirs = {x.untyped_storage().data_ptr() for x in tensors_in(saved) if x.numel()}
    for x in tensors_in(
        [list(fresh.state.values()), [list(g.items()) for g in fresh.param_groups]]
    ):
        if x.numel():
            assert x.untyped_storage().data_ptr() not in theirs


@each_case
def test_training_on_after_loading_leaves_the_dict_and_the_source_as_they_were(case):
    optimizer, _ = trained(case)
    saved = optimizer.state_dict()
    kept, before = copy.deepcopy(saved), snapshot(optimizer)
    params = parameters()
    fresh = case.ours(params, **case.typical)
    fresh.load_state_dict(saved)
    for grads in gradients():
        set_gradients(params, [g.clone() for g in grads])
        fresh.step()
    fresh.param_groups[0]["lr"] = 0.5
    assert_same(saved["state"], kept["state"])
    assert_same(saved["param_groups"], kept["param_groups"])
    assert_same(before["state"], snapshot(optimizer)["state"])


@each_case
def test_loading_its_own_state_dict_changes_nothing(case):
    pair = Pair(case)
    pair.step(4)
    pair.do(lambda optimizer, _: optimizer.load_state_dict(optimizer.state_dict()))
    pair.check()
    pair.step(4)
    pair.check()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@each_case
def test_a_loaded_state_takes_the_dtype_of_its_parameter_and_step_keeps_its_own(case, dtype):
    pair = Pair(case)
    pair.step(4)
    for optimizer, kind in zip(pair.optimizers, (case.ours, case.torchs), strict=True):
        params = parameters(dtype=dtype)
        fresh = kind(params, **case.typical)
        fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        if kind is case.ours:
            mine = [fresh.state[p] for p in params]
        else:
            for a, b in zip(mine, (fresh.state[p] for p in params), strict=True):
                assert_same_state(a, b, str(dtype))


@each_case
def test_extra_keys_of_a_state_dict_are_kept_and_travel_on(case):
    optimizer, params = trained(case)
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][0]["note"] = "kept"
    saved["state"][0]["nested"] = {"row": [torch.ones(2), 1.5], "pair": (torch.zeros(1), None)}
    saved["state"]["global"] = {"temperature": 3, "tensor": torch.ones(2)}
    saved["param_groups"][0] |= {"name": "all", "initial_lr": 0.25, "lr_scale": [1, 2]}
    fresh = case.ours(params, **case.typical)
    fresh.load_state_dict(saved)
    again = fresh.state_dict()
    assert again["state"][0]["note"] == "kept"
    assert_same(again["state"][0]["nested"], saved["state"][0]["nested"])
    assert_same(again["state"]["global"], saved["state"]["global"])
    for key in ("name", "initial_lr", "lr_scale"):
        assert again["param_groups"][0][key] == saved["param_groups"][0][key]
    set_gradients(params, gradients()[0])
    fresh.step()
    assert fresh.state_dict()["state"][0]["note"] == "kept"


@each_case
def test_parameter_names_are_kept_as_torch_keeps_them(case):
    for named_before in (False, True):
        for named_saved in (False, True):
            groups = []
            for kind in (case.ours, case.torchs):

                def build(named, kind=kind):
                    params = parameters(((2,), (3,)))
                    return kind(
                        [(f"{named}{i}", p) for i, p in enumerate(params)] if named else params
                    )

                fresh = build("new" if named_before else "")
                fresh.load_state_dict(build("old" if named_saved else "").state_dict())
                groups.append(fresh.param_groups[0].get("param_names"))
            assert groups[0] == groups[1]


@each_case
def test_a_step_that_is_a_python_number_is_upgraded_as_in_torch(case):
    if "step" not in case.states(case.typical):
        pytest.skip("keeps no step")
    for number in (4, 4.0):
        pair = Pair(case)
        pair.step(4)
        for i, kind in enumerate((case.ours, case.torchs)):
            saved = copy.deepcopy(pair.optimizers[i].state_dict())
            for state in saved["state"].values():
                state["step"] = number
            pair.optimizers[i] = kind(pair.params[i], **case.typical)
            pair.optimizers[i].load_state_dict(saved)
        pair.check()
        pair.step(3)
        pair.check()


@each("older_options", "option")
def test_a_checkpoint_without_a_newer_option_loads_as_in_torch(case, option):
    pair = Pair(case, {"lr": 0.1})
    pair.step(3)
    for optimizer in pair.optimizers:
        saved = copy.deepcopy(optimizer.state_dict())
        saved["param_groups"][0].pop(option)
        optimizer.load_state_dict(saved)
    pair.check()
    ours, torchs = (optimizer.param_groups[0] for optimizer in pair.optimizers)
    if option not in ("foreach", "fused"):  # which say how, and do not change what is computed
        assert ours[option] == torchs[option]
    pair.step(3)
    pair.check()


@each_case
def test_a_checkpoint_without_all_newer_options_at_once_unpickles(case):
    optimizer, params = trained(case, {"lr": 0.1})
    fresh = case.ours.__new__(case.ours)
    state = optimizer.__getstate__()
    for option in case.older_options:
        state["param_groups"][0].pop(option)
    fresh.__setstate__(state)
    set_gradients(params, gradients()[0])
    fresh.step()


# ------------------------------------------------------------------ loads that must fail


def other_optimizers_dict(saved, case):
    other = next(c for c in CASES if c.states(c.typical) != case.states(case.typical))
    return trained(other)[0].state_dict()


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
    if spoil is missing_state_key and "step" not in case.states(case.typical):
        pytest.skip("a parameter without a state is one before its first step")
    optimizer, params = trained(case)
    spoilt = spoil(copy.deepcopy(optimizer.state_dict()), case)
    kept = copy.deepcopy(spoilt)
    before = snapshot(optimizer)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(spoilt)
    assert_same(snapshot(optimizer), before)
    assert_same(spoilt["param_groups"], kept["param_groups"])
    # And it goes on as one that never failed.
    twin, twin_params = trained(case)
    for grads in gradients()[3:6]:
        set_gradients(params, grads)
        set_gradients(twin_params, grads)
        optimizer.step()
        twin.step()
    for p, q in zip(params, twin_params, strict=True):
        assert_same_bits(p, q, str(tuple(p.shape)))


def test_the_messages_on_groups_are_torchs():
    for spoil in (fewer_groups, more_groups, shorter_group, longer_group):
        texts = []
        for kind in (CASES[0].ours, CASES[0].torchs):
            optimizer = kind(parameters())
            saved = spoil(copy.deepcopy(optimizer.state_dict()), CASES[0])
            with pytest.raises(ValueError, match="loaded state dict") as caught:
                optimizer.load_state_dict(saved)
            texts.append(str(caught.value))
        assert texts[0] == texts[1]


# ------------------------------------------------------------------ hooks


def record_hooks(kind, options):
    """Call everything that has hooks, and return what the hooks saw, in order."""
    calls = []
    params = parameters(((2,),))
    optimizer = kind(params, **options)

    def note(name):
        def hook(*args):
            calls.append((name, len(args)))

        return hook

    handles = [
        register_optimizer_step_pre_hook(note("global pre")),
        register_optimizer_step_post_hook(note("global post")),
        optimizer.register_step_pre_hook(note("step pre")),
        optimizer.register_step_post_hook(note("step post")),
        optimizer.register_state_dict_pre_hook(note("state pre")),
        optimizer.register_state_dict_post_hook(note("state post")),
        optimizer.register_state_dict_pre_hook(note("state pre, first"), prepend=True),
        optimizer.register_state_dict_post_hook(note("state post, first"), prepend=True),
        optimizer.register_load_state_dict_pre_hook(note("load pre")),
        optimizer.register_load_state_dict_post_hook(note("load post")),
        optimizer.register_load_state_dict_pre_hook(note("load pre, first"), prepend=True),
        optimizer.register_load_state_dict_post_hook(note("load post, first"), prepend=True),
    ]
    try:
        set_gradients(params, [torch.ones(2)])
        optimizer.step()
        optimizer.load_state_dict(optimizer.state_dict())
    finally:
        for handle in handles:
            handle.remove()
    counted = len(calls)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    assert len(calls) == counted, "a removed hook was called"
    return calls


@each_case
def test_all_hooks_are_called_as_in_torch(case):
    ours = record_hooks(case.ours, case.typical)
    assert ours == record_hooks(case.torchs, case.typical)
    assert len(ours) == 12


@each_case
def test_a_step_pre_hook_may_replace_the_arguments(case):
    params = parameters(((2,),))
    optimizer = case.ours(params)
    optimizer.register_step_pre_hook(lambda opt, args, kwargs: ((opt, lambda: 7.0), {}))
    assert optimizer.step() == 7.0
    optimizer.register_step_pre_hook(lambda *_: "nonsense")
    with pytest.raises(RuntimeError, match="must return None or a tuple"):
        optimizer.step()


@each_case
def test_hooks_of_state_dicts_may_replace_the_dict(case):
    optimizer, _ = trained(case)
    optimizer.register_state_dict_post_hook(lambda opt, saved: {**saved, "version": 3})
    saved = optimizer.state_dict()
    assert saved["version"] == 3

    def rescue(opt, loaded):
        loaded = copy.deepcopy(loaded)
        loaded["param_groups"][0]["lr"] = 0.125
        return loaded

    fresh = case.ours(parameters(), **case.typical)
    fresh.register_load_state_dict_pre_hook(rescue)
    fresh.load_state_dict(saved)
    assert fresh.param_groups[0]["lr"] == 0.125
    assert saved["param_groups"][0]["lr"] != 0.125


@each_case
def test_a_load_pre_hook_that_edits_the_shallow_copy_in_place_is_heeded(case):
    optimizer, _ = trained(case)
    saved = optimizer.state_dict()
    fresh = case.ours(parameters(), **case.typical)

    def rename(opt, loaded):
        loaded["state"] = loaded.pop("old_state")

    fresh.register_load_state_dict_pre_hook(rename)
    old = {"old_state": saved["state"], "param_groups": saved["param_groups"]}
    fresh.load_state_dict(old)
    assert set(old) == {"old_state", "param_groups"}
    assert len(fresh.state) == len(SHAPES)


@each_case
def test_hooks_are_dropped_by_copies_as_in_torch(case):
    for kind in (case.ours, case.torchs):
        optimizer = kind(parameters())
        optimizer.register_step_post_hook(lambda *_: None)
        assert len(copy.deepcopy(optimizer)._optimizer_step_post_hooks) == 0


@pytest.mark.parametrize("default", [torch.float32, torch.float64], ids=str)
@each_case
def test_step_has_the_dtype_that_torch_gives_it(case, default):
    if "step" not in case.states(case.typical):
        pytest.skip("keeps no step")
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        for options in ({}, {"fused": True}):
            if options and not case.torch_fused:
                continue
            dtypes = []
            for kind in (case.torchs, case.ours):
                params = parameters(((2,),), dtype=torch.float32)
                # An empty list of gradients would start no state: one step is needed.
                optimizer = kind(params, lr=0.01, **options)
                set_gradients(params, [torch.ones(2, dtype=torch.float32)])
                optimizer.step()
                step = optimizer.state[params[0]]["step"]
                dtypes.append((step.dtype, step.shape, step.device, step.item()))
            assert dtypes[0] == dtypes[1]
    finally:
        torch.set_default_dtype(before)


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
