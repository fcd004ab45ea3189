"""The face: signatures, repr, groups, identity, and the parts of torch that use an optimizer."""

import copy
import inspect

import pytest
import torch
from cases import (
    CASES,
    Pair,
    assert_same_bits,
    each_case,
    each_eager_way,
    each_original,
    gradients,
    parameters,
    set_gradients,
)
from torch.optim import lr_scheduler

import scratch_optim


@each_case
def test_the_signature_is_torchs_with_at_most_more_keywords(case):
    ours = dict(inspect.signature(case.ours).parameters)
    torchs = dict(inspect.signature(case.torchs).parameters)
    extra = ours.keys() - torchs.keys()
    assert {name: ours[name].default for name in extra} == case.extra_arguments
    assert all(ours[name].kind is inspect.Parameter.KEYWORD_ONLY for name in extra)
    mine = [(p.name, p.kind, p.default) for p in ours.values() if p.name not in extra]
    assert mine == [(p.name, p.kind, p.default) for p in torchs.values()]


@each_case
def test_step_has_the_signature_of_torchs(case):
    assert list(inspect.signature(case.ours.step).parameters) == ["self", "closure"]
    assert inspect.signature(case.ours.step).parameters["closure"].default is None


@each_case
def test_options_may_be_given_by_position_as_in_torch(case):
    values = [
        p.default
        for p in inspect.signature(case.torchs).parameters.values()
        if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "params"
    ]
    ours, torchs = (kind(parameters(), *values) for kind in (case.ours, case.torchs))
    assert {k: ours.defaults[k] for k in torchs.defaults} == torchs.defaults


@each_case
def test_repr_is_torchs(case):
    for options in ({}, case.typical):
        pair = Pair(case, options)
        lines = [repr(optimizer).splitlines() for optimizer in pair.optimizers]
        extra = [f"    {name}: {value}" for name, value in case.extra_arguments.items()]
        assert [line for line in lines[0] if line not in extra] == [
            line for line in lines[1] if line not in extra
        ]


@each_case
def test_defaults_and_group_keys_come_in_the_order_of_torchs(case):
    ours, torchs = Pair(case, {}).optimizers
    for mine, theirs in (
        (ours.defaults, torchs.defaults),
        (ours.param_groups[0], torchs.param_groups[0]),
    ):
        assert [k for k in mine if k not in case.extra_arguments] == list(theirs)
        assert all(mine[k] == theirs[k] for k in theirs if k != "params")


@each_original
def test_it_is_an_optimizer_of_torch(case):
    optimizer = case.ours(parameters())
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert not isinstance(optimizer, case.torchs)
    assert case.ours.__name__ == case.torchs.__name__
    assert optimizer.state.default_factory is dict


def test_classes_are_related_as_in_torch():
    for a in CASES:
        for b in CASES:
            assert issubclass(a.ours, b.ours) == issubclass(a.torchs, b.torchs)


def test_everything_in_all_exists():
    assert {case.name for case in CASES} <= set(scratch_optim.__all__)
    for name in scratch_optim.__all__:
        assert hasattr(scratch_optim, name)


@each_case
def test_other_keys_of_a_group_are_kept(case):
    params = parameters()
    optimizer = case.ours(
        [
            {"params": params[:2], "name": "head", "lr_scale": 0.5, "initial_lr": 0.1},
            {"params": params[2:], "layers": [1, 2], "no_decay": True},
        ],
        **case.typical,
    )
    set_gradients(params, gradients()[0])
    optimizer.step()
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    first, second = copy.deepcopy(optimizer).param_groups
    assert (first["name"], first["lr_scale"], first["initial_lr"]) == ("head", 0.5, 0.1)
    assert (second["layers"], second["no_decay"]) == ([1, 2], True)


@each_case
def test_groups_fall_back_on_the_defaults_as_in_torch(case):
    groups = []
    for kind in (case.ours, case.torchs):
        params = parameters(((2,), (3,)))
        optimizer = kind([{"params": params[0], "lr": 0.5}, {"params": [params[1]]}])
        optimizer.add_param_group({"params": parameters(((4,),)), "weight_decay": 0.25})
        groups.append(
            [
                {k: v for k, v in g.items() if k not in case.extra_arguments and k != "params"}
                | {"count": len(g["params"])}
                for g in optimizer.param_groups
            ]
        )
    assert groups[0] == groups[1]


@each_case
def test_named_parameters_are_taken_as_torch_takes_them(case):
    model = torch.nn.Linear(2, 2)
    for kind in (case.ours, case.torchs):
        optimizer = kind(model.named_parameters())
        assert optimizer.param_groups[0]["param_names"] == ["weight", "bias"]
        assert optimizer.state_dict()["param_groups"][0]["param_names"] == ["weight", "bias"]


@each_case
def test_parameters_may_come_from_a_generator(case):
    params = parameters()
    optimizer = case.ours(p for p in params)
    assert all(p is q for p, q in zip(optimizer.param_groups[0]["params"], params, strict=True))


@each_case
def test_a_subclass_with_its_own_step_works(case):
    class Twice(case.ours):
        def step(self, closure=None):
            super().step(closure)
            return super().step(closure)

    params, twice = parameters(), parameters()
    once, double = case.ours(params, **case.typical), Twice(twice, **case.typical)
    for grads in gradients()[:3]:
        set_gradients(params, grads)
        set_gradients(twice, grads)
        once.step()
        once.step()
        double.step()
    for p, q in zip(params, twice, strict=True):
        assert_same_bits(p, q, str(tuple(p.shape)))


@each_case
def test_a_parameter_may_be_a_tensor_subclass(case):
    class Named(torch.Tensor):
        pass

    results = []
    for kind in (case.ours, case.torchs):
        params = [torch.nn.Parameter(p.detach().clone().as_subclass(Named)) for p in parameters()]
        optimizer = kind(params, **case.typical)
        for grads in gradients()[:4]:
            set_gradients(params, [g.clone() for g in grads])
            optimizer.step()
        results.append([p.detach().as_subclass(torch.Tensor) for p in params])
    for p, q in zip(*results, strict=True):
        assert_same_bits(p, q, str(tuple(p.shape)))


# ------------------------------------------------------------------ closures, profiler


@each_eager_way
@each_case
def test_a_closure_is_evaluated_once_with_gradients_and_its_loss_returned(case, way):
    pair = Pair(case, case.typical | way, shapes=((3,), (2, 2)))
    losses = []
    for optimizer, params in pair:
        calls = []

        def closure(optimizer=optimizer, params=params, calls=calls):
            assert torch.is_grad_enabled()
            calls.append(1)
            optimizer.zero_grad()
            loss = sum((p**2).sum() for p in params)
            loss.backward()
            return loss

        with torch.no_grad():
            losses.append([optimizer.step(closure).item() for _ in range(5)])
        assert len(calls) == 5
        assert optimizer.step() is None
    assert losses[0] == losses[1]
    pair.check()


@each_case
def test_an_error_in_the_closure_passes_through_and_changes_nothing(case):
    pair = Pair(case)
    pair.step(2)

    def closure():
        raise KeyError("of the user")

    for optimizer, _ in pair:
        with pytest.raises(KeyError, match="of the user"):
            optimizer.step(closure)
    pair.check()
    pair.step(2)
    pair.check()


@each_case
def test_the_profiler_sees_the_names_that_torch_gives(case):
    params = parameters(((2,),))
    optimizer = case.ours(params)
    set_gradients(params, [torch.ones(2)])
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        optimizer.step()
        optimizer.zero_grad()
    names = [event.name for event in profile.events()]
    assert names.count(f"Optimizer.step#{case.name}.step") == 1
    assert names.count(f"Optimizer.zero_grad#{case.name}.zero_grad") == 1


# ------------------------------------------------------------------ schedulers

SCHEDULERS = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 7], 0.3),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.95),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, 6),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 10, 2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(
        o, 0.01, 0.1, step_size_up=3, cycle_momentum="momentum" in o.defaults
    ),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=16),
    "OneCycleLR without momentum": lambda o: lr_scheduler.OneCycleLR(
        o, 0.1, total_steps=16, cycle_momentum=False
    ),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o,
        [lr_scheduler.LinearLR(o, 0.1, 1.0, 4), lr_scheduler.CosineAnnealingLR(o, 8)],
        milestones=[4],
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.5, 4), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
}


@pytest.mark.parametrize("lr", [0.1, "tensor"], ids=str)
@pytest.mark.parametrize("schedule", SCHEDULERS.values(), ids=SCHEDULERS)
@each_case
def test_schedulers_of_torch_drive_it_bit_for_bit(case, schedule, lr):
    defaults = case.ours([torch.zeros(1)]).defaults
    if schedule is SCHEDULERS["OneCycleLR"] and not {"momentum", "betas"} & defaults.keys():
        pytest.skip("has no momentum to cycle")
    value = 0.1 if lr == 0.1 else None
    pair = Pair(case, case.typical | {"lr": 0.1})
    for i, kind in enumerate((case.ours, case.torchs)):
        # A tensor each: a scheduler changes it in place.
        options = case.typical | {"lr": value or torch.tensor(0.1)}
        pair.optimizers[i] = kind(pair.params[i], **options)
    schedulers = [schedule(optimizer) for optimizer in pair.optimizers]
    for _ in range(15):
        pair.step()
        for scheduler in schedulers:
            if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
                scheduler.step(1.0)
            else:
                scheduler.step()
        pair.check()
        ours, torchs = (optimizer.param_groups[0] for optimizer in pair.optimizers)
        for key in ("lr", "momentum", "betas", "initial_lr", "max_lr"):
            assert ours.get(key) == torchs.get(key), key


@each_case
def test_one_cycle_changes_momentum_or_beta1(case):
    if not {"momentum", "betas"} & case.ours(parameters()).defaults.keys():
        pytest.skip("has neither")
    optimizer = case.ours(parameters(), **case.typical)
    key = "momentum" if "momentum" in optimizer.defaults else "betas"
    scheduler = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=10)
    values = set()
    for _ in range(5):
        optimizer.step()
        scheduler.step()
        values.add(optimizer.param_groups[0][key])
    assert len(values) > 2


@each_case
def test_averaging_and_clipping_of_torch_work_beside_it(case):
    pair = Pair(case)
    averages = [torch.optim.swa_utils.AveragedModel(torch.nn.ParameterList(p)) for p in pair.params]
    for step in range(5):
        for (optimizer, params), average in zip(pair, averages, strict=True):
            set_gradients(params, [g.clone() for g in gradients()[step]])
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            optimizer.step()
            average.update_parameters(torch.nn.ParameterList(params))
    pair.check()
    for p, q in zip(averages[0].parameters(), averages[1].parameters(), strict=True):
        assert_same_bits(p, q, "an average")


# ------------------------------------------------------------------ distributed checkpoint


@each_case
def test_distributed_checkpoints_can_start_its_state_and_parameters_stay(case):
    from torch.distributed.checkpoint.state_dict import (
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    dicts = []
    for kind in (case.ours, case.torchs):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        optimizer = kind(model.parameters(), **case.typical)
        before = [p.detach().clone() for p in model.parameters()]
        saved = get_optimizer_state_dict(model, optimizer)
        for p, old in zip(model.parameters(), before, strict=True):
            assert_same_bits(p, old, "a parameter after a checkpoint")
        model(torch.randn(5, 3)).sum().backward()
        optimizer.step()
        saved = get_optimizer_state_dict(model, optimizer)
        set_optimizer_state_dict(model, optimizer, saved)
        optimizer.step()
        dicts.append(saved)
    assert dicts[0].keys() == dicts[1].keys()
    assert dicts[0]["state"].keys() == dicts[1]["state"].keys()
    for key, state in dicts[1]["state"].items():
        assert dicts[0]["state"][key].keys() == state.keys()
