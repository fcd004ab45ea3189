"""What users do between two steps, done to this library and to torch: the bits stay equal.

An optimizer here remembers how it updated its parameters the last time. Everything below
invalidates some of what it remembers. What torch's class does afterwards is the reference.
"""

from collections import defaultdict

import pytest
import torch
from cases import (
    SHAPES,
    Pair,
    assert_same_bits,
    describe,
    each,
    each_case,
    each_eager_way,
    gradients,
    parameters,
    set_gradients,
    skip_without,
)

import scratch_optim
from scratch_optim.pieces import FEW

SQUARE = ((4, 4), (4, 4), (6,), (3, 2, 2, 2))


def continue_equal(pair, steps=3):
    """The next steps, each checked: an error of one step may be hidden by the next."""
    pair.check()
    for _ in range(steps):
        pair.step()
        pair.check()


# ------------------------------------------------------------------ gradients that come and go

PRESENCES = {
    "appear one by one": [(0, 1, 2, 3, 4, 5), (0, 1, 2), (), (), ()],
    "vanish": [(), (2,), (2, 3), (0, 1, 2, 3, 4, 5, 6), ()],
    "alternate": [(0, 2, 4, 6), (1, 3, 5), (0, 2, 4, 6), (1, 3, 5), ()],
    "one is late": [(1,), (1,), (1,), (), ()],
    "never": [(3,), (3,), (3,), (3,), (3,)],
}


@pytest.mark.parametrize("absent", PRESENCES.values(), ids=PRESENCES)
@each_eager_way
@each_case
def test_parameters_without_gradient_are_skipped_as_in_torch(case, way, absent):
    pair = Pair(case, case.typical | way)
    for without in absent:
        pair.step(without=without)
        pair.check()
    continue_equal(pair)


@each_eager_way
@each_case
def test_a_parameter_that_never_has_a_gradient_gets_no_state(case, way):
    pair = Pair(case, case.typical | way)
    pair.step(3, without=(2, 4))
    for optimizer, params in pair:
        for i in (2, 4):
            assert bool(optimizer.state.get(params[i])) is case.starts_at_once
            assert_same_bits(params[i], parameters()[i], "a parameter without gradient")


@each_eager_way
@each_case
def test_a_step_without_any_gradient_changes_nothing(case, way):
    pair = Pair(case, case.typical | way)
    for steps in (0, 2):
        pair.step(steps)
        for optimizer, params in pair:
            before = [p.detach().clone() for p in params]
            optimizer.zero_grad()
            optimizer.step()
            for p, old in zip(params, before, strict=True):
                assert_same_bits(p, old, "a parameter without gradient")
        continue_equal(pair)


@each_eager_way
@each_case
def test_zero_gradients_are_a_step_like_any_other(case, way):
    pair = Pair(case, case.typical | way)
    pair.step(2)
    for optimizer, params in pair:
        before = params[0].detach().clone()
        optimizer.zero_grad(set_to_none=False)
        optimizer.step()
        # Momentum and decay go on.
        assert torch.equal(params[0], before) is not case.moves_along
    continue_equal(pair)


@pytest.mark.parametrize("foreach", [None, False, True])
@pytest.mark.parametrize("to_none", [True, False])
@each_case
def test_zero_grad_does_what_torchs_does(case, to_none, foreach):
    pair = Pair(case, {"foreach": foreach})
    pair.step()
    for optimizer, params in pair:
        optimizer.zero_grad(set_to_none=to_none)
        for p in params:
            assert (p.grad is None) if to_none else not p.grad.any()


@each_eager_way
@each_case
def test_gradients_accumulated_in_place_are_read_anew(case, way):
    pair = Pair(case, case.typical | way)
    for _ in range(4):
        for i, (optimizer, params) in enumerate(pair):
            for p, g in zip(params, gradients()[pair.taken + 1], strict=True):
                p.grad = g.clone() if p.grad is None else p.grad.add_(g)
            optimizer.step()
            assert i in (0, 1)
        pair.taken += 1
        pair.check()


# ------------------------------------------------------------------ groups


@each_eager_way
@each_case
def test_a_group_added_in_mid_run(case, way):
    pair = Pair(case, case.typical | way)
    pair.step(3)
    more = ((3, 3), (5,))
    for i, (optimizer, params) in enumerate(pair):
        new = parameters(more, seed=9)
        optimizer.add_param_group({"params": new, "lr": 0.2, "name": "late"})
        pair.params[i] = [*params, *new]
    pair.shapes = (*SHAPES, *more)
    continue_equal(pair)


@each_eager_way
@each_case
def test_parameters_appended_to_and_removed_from_a_group(case, way):
    pair = Pair(case, case.typical | way)
    pair.step(2)
    for i, (optimizer, params) in enumerate(pair):
        new = parameters(((5,),), seed=9)
        optimizer.param_groups[0]["params"].extend(new)
        pair.params[i] = [*params, *new]
    pair.shapes = (*SHAPES, (5,))
    continue_equal(pair)
    for i, (optimizer, params) in enumerate(pair):
        gone = optimizer.param_groups[0]["params"].pop(0)
        optimizer.state.pop(gone)
        pair.params[i] = params[1:]
    pair.shapes = (*SHAPES[1:], (5,))
    continue_equal(pair)


@each_eager_way
@each_case
def test_groups_reordered_swapped_and_dropped(case, way):
    pair = Pair(case, case.typical | way)
    for i, kind in enumerate((case.ours, case.torchs)):
        params = pair.params[i]
        pair.optimizers[i] = kind(
            [{"params": params[:3], "lr": 0.3}, {"params": params[3:], "weight_decay": 0.05}],
            **case.typical | way,
        )
    continue_equal(pair)
    pair.do(lambda optimizer, _: optimizer.param_groups.reverse())
    continue_equal(pair)

    def swap(optimizer, _):
        a, b = optimizer.param_groups
        a["params"], b["params"] = b["params"], a["params"]

    pair.do(swap)
    continue_equal(pair)
    pair.do(lambda optimizer, _: optimizer.param_groups.pop())
    continue_equal(pair)
    # A dict of a group may be replaced by an equal one.
    pair.do(lambda opt, _: opt.param_groups.__setitem__(0, dict(opt.param_groups[0], lr=0.02)))
    continue_equal(pair)


@each_eager_way
@each("changes", "change")
def test_options_of_a_group_changed_in_mid_run(case, change, way):
    pair = Pair(case, case.typical | way)
    if isinstance(change.get("lr"), torch.Tensor) and way.get("foreach"):
        pytest.skip("not a tensor and foreach")
    pair.step(3)
    pair.do(lambda optimizer, _: optimizer.param_groups[0].update(change))
    continue_equal(pair)


@each_eager_way
@each("changes", "change")
def test_options_of_a_group_changed_and_changed_back(case, change, way):
    pair = Pair(case, case.typical | way)
    if isinstance(change.get("lr"), torch.Tensor) and way.get("foreach"):
        pytest.skip("not a tensor and foreach")
    old = {
        k: pair.optimizers[0].param_groups[0][k]
        for k in change
        if k in case.ours([torch.zeros(1)]).defaults
    }
    pair.step(3)
    pair.do(lambda optimizer, _: optimizer.param_groups[0].update(change))
    pair.step(2)
    pair.do(lambda optimizer, _: optimizer.param_groups[0].update(old))
    continue_equal(pair)


@each_eager_way
@each_case
def test_weight_decay_switched_on_in_mid_run(case, way):
    skip_without(case, "weight_decay")
    pair = Pair(case, case.typical | way | {"weight_decay": 0})
    pair.step(3)
    pair.do(lambda optimizer, _: optimizer.param_groups[0].update(weight_decay=0.1))
    continue_equal(pair)


@each_eager_way
@each_case
def test_the_learning_rate_changed_at_every_step(case, way):
    pair = Pair(case, case.typical | way)
    for i in range(20):
        pair.do(lambda optimizer, _, lr=0.1 / (1 + i): optimizer.param_groups[0].update(lr=lr))
        pair.step()
        pair.check()


LATE_STATES = [
    ("SGD", {"lr": 0.1}, {"momentum": 0.9}),
    ("SGD", {"lr": 0.1}, {"momentum": 0.9, "nesterov": True}),
    ("RMSprop", {}, {"momentum": 0.9}),
    ("RMSprop", {}, {"centered": True}),
    ("Adam", {}, {"amsgrad": True}),
    ("AdamW", {}, {"amsgrad": True}),
]


@each_eager_way
@pytest.mark.parametrize(
    ("name", "options", "change"),
    LATE_STATES,
    ids=[f"{name}-{describe(change)}" for name, _, change in LATE_STATES],
)
def test_an_option_that_needs_one_more_state_switched_on_in_mid_run(name, options, change, way):
    """Equal to torch where torch can; torch's KeyError elsewhere is no model: it starts at 0."""
    import cases

    case = next(c for c in cases.CASES if c.name == name)
    pair = Pair(case, options | way)
    pair.step(3)
    pair.do(lambda optimizer, _: optimizer.param_groups[0].update(change))
    try:
        rows = gradients()[0]
        set_gradients(pair.params[1], [g.clone() for g in rows])
        pair.optimizers[1].step()
    except KeyError:
        # torch cannot: give it the zeros that ours starts from, and it must go the same way.
        missing = case.states(options | change) - case.states(options)
        pair = Pair(case, options | way)
        pair.step(3)
        pair.do(lambda optimizer, _: optimizer.param_groups[0].update(change))
        torchs, params = pair.optimizers[1], pair.params[1]
        for p in params:
            for key in missing:
                torchs.state[p][key] = torch.zeros_like(p)
        pair.step()
        pair.check()
    else:
        set_gradients(pair.params[0], [g.clone() for g in rows])
        pair.optimizers[0].step()
        pair.check()
    continue_equal(pair)


@each_case
def test_ways_switched_in_mid_run(case):
    pair = Pair(case, case.typical)
    for foreach in (None, True, False, True, None):
        pair.do(lambda optimizer, _, f=foreach: optimizer.param_groups[0].update(foreach=f))
        continue_equal(pair, 2)


# ------------------------------------------------------------------ parameters


def replaced(p):
    p.data = p.data + 1


def scaled_in_place(p):
    p.data.mul_(0.5)


def made_double_and_back(p):
    p.data = p.data.double()
    p.data = p.data.float()


def transposed(p):
    # The same memory, read in another order.
    p.data = p.data.t()


def moved_into_a_buffer(p):
    row = torch.zeros(p.numel() + 3)
    row[2 : 2 + p.numel()] = p.data.reshape(-1)
    p.data = row[2 : 2 + p.numel()].view(p.shape)


def made_strided(p):
    row = torch.zeros(2 * p.numel() + 1)
    view = row[: 2 * p.numel() : 2].view(p.shape)
    view.copy_(p.data)
    p.data = view


def expanded_layout(p):
    p.data = p.data.contiguous(memory_format=torch.channels_last)


PARAMETER_CHANGES = [
    (replaced, range(4)),
    (scaled_in_place, range(4)),
    (made_double_and_back, range(4)),
    (transposed, (0,)),
    (transposed, (0, 1)),
    (moved_into_a_buffer, range(4)),
    (moved_into_a_buffer, (2,)),
    (made_strided, (0, 3)),
    (made_strided, range(4)),
    (expanded_layout, (3,)),
]


@each_eager_way
@pytest.mark.parametrize(
    ("change", "which"),
    PARAMETER_CHANGES,
    ids=[f"{f.__name__}-{len(which)}" for f, which in PARAMETER_CHANGES],
)
@each_case
def test_the_data_of_parameters_replaced_in_mid_run(case, change, which, way):
    pair = Pair(case, case.typical | way, shapes=SQUARE)
    pair.step(3)
    for _ in range(2):
        pair.do(lambda _, params: [change(params[i]) for i in which])
        continue_equal(pair, 2)


@each_case
def test_two_parameters_whose_data_is_swapped(case):
    pair = Pair(case, case.typical, shapes=SQUARE)
    pair.step(3)

    def swap(_, params):
        params[0].data, params[1].data = params[1].data, params[0].data

    pair.do(swap)
    continue_equal(pair)


@each_case
def test_a_model_moved_to_another_dtype_in_mid_run(case):
    for dtype in (torch.float64, torch.bfloat16):
        results = []
        for kind in (case.ours, case.torchs):
            model = torch.nn.Linear(4, 4)
            torch.manual_seed(0)
            torch.nn.init.normal_(model.weight)
            torch.nn.init.normal_(model.bias)
            optimizer = kind(model.parameters(), **case.typical, foreach=False)
            for step in range(6):
                if step == 3:
                    model.to(dtype)
                    for p in model.parameters():
                        state = optimizer.state[p]
                        for key in state:
                            if key != "step":
                                state[key] = state[key].to(dtype)
                for p, g in zip(model.parameters(), gradients(((4, 4), (4,)))[step], strict=True):
                    p.grad = g.to(p.dtype)
                optimizer.step()
            results.append(list(model.parameters()))
        for p, q in zip(*results, strict=True):
            assert_same_bits(p, q, f"{dtype} {tuple(p.shape)}")


@each_eager_way
@each_case
def test_a_parameter_object_replaced_in_its_group(case, way):
    pair = Pair(case, case.typical | way)
    pair.step(3)
    for i, (optimizer, params) in enumerate(pair):
        new = torch.nn.Parameter(params[1].detach().clone())
        optimizer.state[new] = optimizer.state.pop(params[1])
        optimizer.param_groups[0]["params"][1] = new
        pair.params[i] = [params[0], new, *params[2:]]
    continue_equal(pair)


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
@each_case
def test_a_parameter_given_twice_is_updated_as_in_torchs_loop(case):
    results = []
    for kind in (case.ours, case.torchs):
        params = parameters(((3, 2), (4,)))
        optimizer = kind([params[0], params[1], params[0]], **case.typical, foreach=False)
        for grads in gradients(((3, 2), (4,))):
            set_gradients(params, [g.clone() for g in grads])
            optimizer.step()
        results.append((params, [optimizer.state[p] for p in params]))
    for p, q in zip(results[0][0], results[1][0], strict=True):
        assert_same_bits(p, q, str(tuple(p.shape)))
    for a, b in zip(results[0][1], results[1][1], strict=True):
        for key in a:
            assert_same_bits(a[key], b[key], key)


# ------------------------------------------------------------------ layouts

LAYOUTS = {
    "parameter transposed": (lambda x: x.t().contiguous().t(), lambda x: x),
    "gradient transposed": (lambda x: x, lambda x: x.t().contiguous().t()),
    "both transposed": (lambda x: x.t().contiguous().t(),) * 2,
    "parameter with gaps": (lambda x: torch.stack([x, x], -1)[..., 0], lambda x: x),
    "gradient with gaps": (lambda x: x, lambda x: torch.stack([x, x], -1)[..., 0]),
    "gradient a row of ones": (lambda x: x, lambda x: x[:1].expand_as(x)),
    "gradient one number": (lambda x: x, lambda x: x[:1, :1].expand_as(x)),
    "gradient a view with an offset": (
        lambda x: x,
        lambda x: torch.cat([x.reshape(-1), x.reshape(-1)])[1 : 1 + x.numel()].view(x.shape),
    ),
}


@each_eager_way
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@each_case
def test_parameters_and_gradients_of_any_strides(case, dtype, layout, way):
    case.skip_if_rounded_otherwise(dtype, way)
    of_p, of_g = layout
    shapes = ((4, 6), (5, 5), *[(2, 3)] * FEW)  # enough for a row of small ones
    pair = Pair(case, case.typical | way, shapes=shapes, dtype=dtype)
    pair.do(lambda _, params: [setattr(p, "data", of_p(p.data)) for p in params])
    for step in range(6):
        for optimizer, params in pair:
            grads = [g.clone() for g in gradients(shapes, dtype)[step]]
            # The layout comes and goes, so that what fitted the step before does not fit.
            set_gradients(params, [of_g(g) if step % 3 else g for g in grads])
            optimizer.step()
        pair.check()


# ------------------------------------------------------------------ states


@each_eager_way
@pytest.mark.parametrize("how", ["replaced", "in place", "transposed", "copied", "of one only"])
@each_case
def test_state_tensors_edited_by_the_user(case, how, way):
    pair = Pair(case, case.typical | way, shapes=SQUARE)
    pair.step(3)

    def edit(optimizer, params):
        for i, p in enumerate(params):
            state = optimizer.state[p]
            for name in [name for name, x in state.items() if x.dim()]:
                if how == "replaced":
                    state[name] = torch.full_like(p, 0.25)
                elif how == "in place":
                    state[name].mul_(0.5)
                elif how == "transposed" and p.dim() == 2:
                    state[name] = state[name].t()
                elif how == "copied":
                    state[name] = state[name].clone()
                elif how == "of one only" and i == 1:
                    state[name] = torch.full_like(p, 0.25)

    for _ in range(2):
        pair.do(edit)
        continue_equal(pair, 2)


STEP_EDITS = {
    "replaced for all": lambda states: [s.update(step=torch.tensor(9.0)) for s in states],
    "in place for all": lambda states: [s["step"].fill_(9) for s in states],
    "replaced for one": lambda states: states[1].update(step=torch.tensor(9.0)),
    "in place for one": lambda states: states[1]["step"].fill_(9),
    "in place for the last": lambda states: states[-1]["step"].add_(5),
    "zeroed": lambda states: [s["step"].zero_() for s in states],
    "one tensor for all": lambda states: [s.update(step=s["step"].clone()) for s in states],
}


@each_eager_way
@pytest.mark.parametrize("edit", STEP_EDITS.values(), ids=STEP_EDITS)
@each_case
def test_step_counts_edited_by_the_user(case, edit, way):
    if "step" not in case.states(case.typical):
        pytest.skip("keeps no step")
    pair = Pair(case, case.typical | way)
    pair.step(3)
    for _ in range(2):
        pair.do(lambda optimizer, params: edit([optimizer.state[p] for p in params]))
        continue_equal(pair, 2)


RESETS = {
    "state.clear()": lambda optimizer, params: optimizer.state.clear(),
    "state = defaultdict(dict)": lambda optimizer, _: setattr(
        optimizer, "state", defaultdict(dict)
    ),
    "del state[p]": lambda optimizer, params: optimizer.state.__delitem__(params[1]),
    "state[p] = {}": lambda optimizer, params: optimizer.state.__setitem__(params[0], {}),
    "state[p].clear()": lambda optimizer, params: optimizer.state[params[2]].clear(),
    "every other": lambda optimizer, params: [optimizer.state.pop(p) for p in params[::2]],
    "all cleared in place": lambda optimizer, params: [optimizer.state[p].clear() for p in params],
}


@each_eager_way
@pytest.mark.parametrize("reset", RESETS.values(), ids=RESETS)
@each_case
def test_states_reset_by_the_user(case, reset, way):
    pair = Pair(case, case.typical | way)
    pair.step(4)
    for _ in range(2):
        pair.do(reset)
        continue_equal(pair, 2)


@each_case
def test_states_exchanged_between_two_parameters(case):
    pair = Pair(case, case.typical, shapes=SQUARE)
    pair.step(2)
    pair.step(2, without=(0,))

    def exchange(optimizer, params):
        a, b = params[:2]
        optimizer.state[a], optimizer.state[b] = optimizer.state[b], optimizer.state[a]

    pair.do(exchange)
    continue_equal(pair)


@each_case
def test_extra_keys_in_a_state_are_left_alone(case):
    pair = Pair(case)
    pair.step(2)
    pair.do(lambda opt, params: opt.state[params[0]].update(note="mine", mask=torch.ones(2)))
    continue_equal(pair)


@each_case
def test_two_optimizers_on_the_same_parameters(case):
    pair = Pair(case)
    others = [
        kind(params, **case.typical | {"lr": 0.03})
        for kind, params in zip((case.ours, case.torchs), pair.params, strict=True)
    ]
    for _ in range(3):
        pair.step()
        for other in others:
            other.step()
        pair.check()


@each_case
def test_a_loaded_state_is_used_by_the_very_next_step(case):
    pair = Pair(case)
    pair.step(3)
    import copy

    saved = [copy.deepcopy(optimizer.state_dict()) for optimizer in pair.optimizers]
    pair.step(4)
    for optimizer, state_dict in zip(pair.optimizers, saved, strict=True):
        optimizer.load_state_dict(state_dict)
    continue_equal(pair)


@each_eager_way
@each_case
def test_all_of_it_at_random(case, way):
    """A long run of random changes, each on both; 60 steps, checked after each."""
    import random

    chance = random.Random(case.name)
    pair = Pair(case, case.typical | way, shapes=SQUARE)
    actions = [
        lambda opt, ps: opt.param_groups[0].update(lr=chance_value),
        lambda opt, ps: opt.state.pop(ps[index], None),
        lambda opt, ps: opt.state.clear(),
        lambda opt, ps: replaced(ps[index]),
        lambda opt, ps: made_strided(ps[index]),
        lambda opt, ps: moved_into_a_buffer(ps[index]),
        lambda opt, ps: transposed(ps[index % 2]),
        lambda opt, ps: opt.param_groups[0].update(weight_decay=chance_value),
        lambda opt, ps: opt.load_state_dict(opt.state_dict()),
        lambda opt, ps: opt.param_groups[0]["params"].reverse(),
        lambda opt, ps: None,
    ]
    for _ in range(60):
        action, index, chance_value = chance.choice(actions), chance.randrange(4), chance.random()
        pair.do(action)
        pair.step(without=[i for i in range(4) if chance.random() < 0.15])
        pair.check()


# ------------------------------------------------------------------ purity


@each_eager_way
@each("options", "options")
def test_a_step_leaves_the_gradients_as_they_are(case, options, way):
    params = parameters()
    optimizer = case.ours(params, **options | way)
    for grads in gradients():
        set_gradients(params, grads)
        before = [(g.clone(), g._version, g.data_ptr()) for g in grads]
        optimizer.step()
        for p, g, (old, version, address) in zip(params, grads, before, strict=True):
            assert p.grad is g
            assert g._version == version, "written to"
            assert g.data_ptr() == address
            assert_same_bits(g, old, "a gradient")


@each_eager_way
@each_case
def test_a_step_leaves_the_random_state_and_the_modes_as_they_are(case, way):
    params = parameters()
    optimizer = case.ours(params, **case.typical | way)
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            state = torch.get_rng_state()
            set_gradients(params, gradients()[0])
            optimizer.step()
            assert torch.equal(torch.get_rng_state(), state)
            assert torch.is_grad_enabled() is enabled
    for p in params:
        assert p.requires_grad
        assert p.grad_fn is None
        assert all(not x.requires_grad for x in optimizer.state[p].values())


@each_case
def test_state_tensors_are_the_same_objects_from_step_to_step(case):
    params = parameters()
    optimizer = case.ours(params, **case.typical)
    set_gradients(params, gradients()[0])
    optimizer.step()
    optimizer.step()
    kept = [dict(optimizer.state[p]) for p in params]
    optimizer.step()
    for p, old in zip(params, kept, strict=True):
        for name in old:
            assert optimizer.state[p][name] is old[name], name


@each_case
def test_the_options_a_caller_passed_stay_the_callers(case):
    groups = [{"params": parameters(), "lr": 0.1}]
    optimizer = case.ours(groups, **case.typical)
    defaults = dict(optimizer.defaults)
    set_gradients(groups[0]["params"], gradients()[0])
    optimizer.step()
    optimizer.param_groups[0]["lr"] = 7.0
    assert optimizer.defaults == defaults


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_a_gradient_laid_out_anew_is_noticed_beside_a_sparse_one():
    def run(**way):
        table, weight = parameters(((5, 2), (4, 6)))
        optimizer = scratch_optim.SGD([table, weight], lr=0.1, momentum=0.9, **way)
        for step in range(4):
            table.grad = torch.ones(5, 2).to_sparse(1)
            g = torch.arange(24.0).view(4, 6) - step
            weight.grad = g if step < 2 else g.t().contiguous().t()
            optimizer.step()
        return weight

    torch.testing.assert_close(run(fused=True), run(foreach=False))
