"""Averages of weights, Lookahead and SWALR: torch's bits, closed forms, and exact resumption."""

import copy
import inspect
import io
import math
import pickle
import warnings

import pytest
import torch
from cases import each_device, snapshot
from torch import Tensor, nn
from torch.optim import swa_utils as theirs

import scratch_optim
from scratch_optim import swa_utils as ours
from scratch_optim.testing.compare import assert_same, assert_same_bits, epsilons

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.complex64]

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


class Net(nn.Module):
    """A matrix, a vector, a scalar and nothing; a float, an integer and an unsaved buffer."""

    def __init__(self, dtype=torch.float32, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def numbers(*shape):
            wide = torch.promote_types(dtype, torch.float32)
            return torch.randn(shape, generator=generator, dtype=wide).to(dtype)

        self.weight = nn.Parameter(numbers(5, 3))
        self.inner = nn.ParameterDict({"bias": nn.Parameter(numbers(33))})
        self.scale = nn.Parameter(numbers())
        self.nothing = nn.Parameter(numbers(0, 3))
        self.low = nn.Parameter(torch.randn(7, generator=generator).bfloat16())
        self.register_buffer("mean", numbers(4))
        self.register_buffer("count", torch.tensor([3, 40]))
        self.register_buffer("cache", numbers(2), persistent=False)

    def forward(self, x):
        return x @ self.weight.t() + self.scale


def move(model, seed):
    """Give a model other parameters and buffers."""
    other = dict(named_tensors(Net(model.weight.dtype, seed)))
    with torch.no_grad():
        for name, x in named_tensors(model):
            x.copy_(other[name] if x.is_floating_point() or x.is_complex() else other[name] + seed)


def named_tensors(model):
    return [*model.named_parameters(), *model.named_buffers()]


def tensors(model):
    return [*model.parameters(), *model.buffers()]


def assert_same_tensors(a, b):
    for i, (x, y) in enumerate(zip(tensors(a), tensors(b), strict=True)):
        assert_same_bits(x, y, f"tensor {i} {tuple(x.shape)}")


# ------------------------------------------------------------------ AveragedModel

AVERAGES = {
    "default": lambda module: {},
    "swa": lambda module: {"avg_fn": module.get_swa_avg_fn()},
    "ema": lambda module: {"avg_fn": module.get_ema_avg_fn(0.9)},
    "swa of lists": lambda module: {"multi_avg_fn": module.get_swa_multi_avg_fn()},
    "ema of lists": lambda module: {"multi_avg_fn": module.get_ema_multi_avg_fn(0.9)},
    "own": lambda module: {"avg_fn": lambda avg, w, n: avg * n / (n + 2) + w},
}

each_average = pytest.mark.parametrize("average", AVERAGES.values(), ids=AVERAGES)
each_buffers = pytest.mark.parametrize("use_buffers", [False, True])


@each_device
@each_average
@each_buffers
@each_dtype
def test_an_averaged_model_has_torchs_bits(average, use_buffers, dtype, device):
    model = Net(dtype).to(device)
    lists = average is AVERAGES["swa of lists"] or (
        average is AVERAGES["default"] and device != "cpu"
    )
    if use_buffers and lists:
        del model.count  # torch raises at lists of integers
    pair = [m.AveragedModel(model, use_buffers=use_buffers, **average(m)) for m in (ours, theirs)]
    assert_same_tensors(*pair)
    for seed in range(1, 8):
        move(model, seed)
        for averaged in pair:
            averaged.update_parameters(model)
        assert_same_tensors(*pair)
        assert pair[0].state_dict().keys() == pair[1].state_dict().keys()


def test_the_mean_of_lists_of_integers_is_that_of_single_ones():
    a, b = torch.tensor([10, -7]), torch.tensor([13, 5])
    expected = a.clone().copy_(ours.get_swa_avg_fn()(a, b, torch.tensor(3)))
    ours.get_swa_multi_avg_fn()([a], [b], torch.tensor(3))
    assert_same_bits(a, expected, "mean")


@pytest.mark.parametrize("n", [1, 3, torch.tensor(3)])
@pytest.mark.parametrize("kind", [list, tuple])
@each_dtype
def test_averaging_functions_have_torchs_bits(dtype, kind, n):
    own, new = Net(dtype), Net(dtype, 1)
    for name, arguments in (("swa", ()), ("ema", (0.7,)), ("ema", ())):
        rows = []
        for module in (ours, theirs):
            average = getattr(module, f"get_{name}_avg_fn")(*arguments)
            many = getattr(module, f"get_{name}_multi_avg_fn")(*arguments)
            averages = kind([own.weight.detach().clone(), own.mean.clone()])
            many(averages, kind([new.weight.detach(), new.mean]), n)
            rows.append([*averages, average(own.weight, new.weight, n)])
            assert not rows[-1][-1].requires_grad
        for x, y in zip(*rows, strict=True):
            assert_same_bits(x, y, name)


@each_average
@pytest.mark.parametrize("direction", ["from torch", "to torch"])
def test_averaged_models_exchange_state_dicts_with_torchs_in_mid_run(average, direction):
    model = Net()
    pair = [m.AveragedModel(model, **average(m)) for m in (ours, theirs)]
    for seed in range(1, 4):
        move(model, seed)
        for averaged in pair:
            averaged.update_parameters(model)
    source, target = (pair[1], ours) if direction == "from torch" else (pair[0], theirs)
    fresh = target.AveragedModel(Net(seed=9), **average(target))
    fresh.load_state_dict(source.state_dict())
    fresh.module.cache.copy_(model.cache)
    pair[0 if direction == "from torch" else 1] = fresh
    for seed in range(4, 7):
        move(model, seed)
        for averaged in pair:
            averaged.update_parameters(model)
        assert_same_tensors(*pair)


def test_an_averaged_model_is_a_copy_that_torch_recognizes():
    model = Net()
    averaged = ours.AveragedModel(model)
    assert isinstance(averaged, theirs.AveragedModel)
    assert all(x is not y for x, y in zip(tensors(averaged.module), tensors(model), strict=True))
    assert averaged.n_averaged.dtype == torch.long
    x = torch.randn(2, 3)
    assert_same_bits(averaged(x), model(x), "forward")


@pytest.mark.parametrize("way", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copied_averaged_model_continues_alike_and_alone(way):
    model = Net()
    averaged = ours.AveragedModel(model)
    for seed in (1, 2):
        move(model, seed)
        averaged.update_parameters(model)
    twin, before = way(averaged), copy.deepcopy(averaged.state_dict())
    move(model, 3)
    twin.update_parameters(model)
    assert_same(dict(averaged.state_dict()), dict(before))
    averaged.update_parameters(model)
    assert_same_tensors(averaged, twin)


def test_both_ways_to_average_are_refused_as_torch_refuses_them():
    for module in (ours, theirs):
        with pytest.raises(AssertionError, match="Only one of avg_fn and multi_avg_fn should be"):
            module.AveragedModel(Net(), avg_fn=max, multi_avg_fn=max)


@pytest.mark.parametrize("decay", [-0.1, 1.1, math.nan])
def test_decays_out_of_range_are_refused(decay):
    for make in (
        ours.get_ema_avg_fn,
        ours.get_ema_multi_avg_fn,
        lambda decay: ours.EMA(Net(), decay),
    ):
        with pytest.raises(ValueError, match=rf"^Invalid decay value {decay} provided\. Please"):
            make(decay)


def test_another_model_is_refused_before_anything_changes():
    for wrong in (nn.Linear(3, 5), Net()):
        if isinstance(wrong, Net):
            wrong.mean = torch.zeros(6)
        averaged = ours.AveragedModel(Net())
        before = copy.deepcopy(averaged.state_dict())
        with pytest.raises(ValueError, match="average"):
            averaged.update_parameters(wrong)
        assert_same(dict(averaged.state_dict()), dict(before))


def test_a_wrapped_model_is_averaged_by_order_as_in_torch():
    model = Net()
    averaged = ours.AveragedModel(model)
    averaged.update_parameters(nn.Sequential(model))  # names now begin with "0."
    assert averaged.n_averaged == 1


@pytest.mark.parametrize("name", theirs.__all__)
def test_signatures_are_torchs(name):
    a, b = (inspect.signature(getattr(module, name)) for module in (ours, theirs))
    assert [(p.name, p.default, p.kind) for p in a.parameters.values()] == [
        (p.name, p.default, p.kind) for p in b.parameters.values()
    ]
    assert name in ours.__all__


def test_averaging_inherits_no_computation_from_torch():
    for mine in (ours.AveragedModel, ours.SWALR):
        torchs = theirs.AveragedModel if mine is ours.AveragedModel else theirs.SWALR
        for name in vars(torchs).keys() - {"__module__", "__doc__", "__annotations__"}:
            found = inspect.getattr_static(mine, name)
            assert found is not vars(torchs)[name] or name.startswith("__"), name


# ------------------------------------------------------------------ update_bn


def normalized(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(3, 4),
        nn.BatchNorm1d(4),
        nn.ReLU(),
        nn.BatchNorm1d(4, momentum=0.3),
        nn.Dropout(0.5),
    )


def batches(kind):
    generator = torch.Generator().manual_seed(1)
    for size in (5, 2, 9):
        x = torch.randn(size, 3, generator=generator)
        yield {"tensor": x, "list": [x, 0], "tuple": (x, 0)}[kind]


@pytest.mark.parametrize("kind", ["tensor", "list", "tuple"])
@pytest.mark.parametrize("training", [True, False])
def test_update_bn_has_torchs_bits(kind, training):
    pair = [normalized().train(training) for _ in range(2)]
    for module, model in zip((ours, theirs), pair, strict=True):
        torch.manual_seed(3)
        model(torch.randn(8, 3) * 5)
        module.update_bn(batches(kind), model, device="cpu")
        assert model.training == training
        assert [m.momentum for m in model if isinstance(m, nn.BatchNorm1d)] == [0.1, 0.3]
    assert_same_tensors(*pair)


def test_update_bn_restores_modes_and_momenta_of_their_own_even_after_an_error():
    for loader in (batches("tensor"), [torch.zeros(5, 7)]):
        model = normalized()
        model[3].eval()
        try:
            ours.update_bn(loader, model)
            raised = False
        except RuntimeError:
            raised = True
        assert raised == isinstance(loader, list)
        assert [m.training for m in model] == [True, True, True, False, True]
        assert [model[1].momentum, model[3].momentum] == [0.1, 0.3]


def test_update_bn_does_nothing_without_batch_norm():
    ours.update_bn(iter(lambda: pytest.fail("a batch was taken"), None), nn.Linear(2, 2))


def test_update_bn_finds_the_layers_of_this_project():
    import scratch_layers

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), scratch_layers.BatchNorm1d(4))
    ours.update_bn(batches("tensor"), model)
    assert model[1].num_batches_tracked == 3
    assert model[1].momentum == 0.1


# ------------------------------------------------------------------ SWALR


def two_groups(tensor_lr=False):
    lrs = [torch.tensor(0.5), torch.tensor(0.03)] if tensor_lr else [0.5, 0.03]
    return torch.optim.SGD(
        [{"params": [torch.zeros(2, requires_grad=True)], "lr": lr} for lr in lrs], lr=0.1
    )


def rates(optimizer):
    return [float(group["lr"]) for group in optimizer.param_groups]


@pytest.mark.parametrize("tensor_lr", [False, True])
@pytest.mark.parametrize("swa_lr", [0.05, [0.05, 0.3], (1.0, 0.0)], ids=str)
@pytest.mark.parametrize("strategy", ["cos", "linear"])
@pytest.mark.parametrize("epochs", [0, 1, 10, 250])
def test_swalr_has_torchs_bits_and_exchanges_state_dicts(swa_lr, strategy, epochs, tensor_lr):
    optimizers = [two_groups(tensor_lr) for _ in range(2)]
    pair = [
        module.SWALR(optimizer, swa_lr, epochs, strategy)
        for module, optimizer in zip((ours, theirs), optimizers, strict=True)
    ]
    for step in range(300):
        assert rates(optimizers[0]) == rates(optimizers[1]), step
        if step in (0, 5, 40):
            dicts = [copy.deepcopy(scheduler.state_dict()) for scheduler in pair]
            assert dicts[0] == dicts[1]
            for scheduler, loaded in zip(pair, reversed(dicts), strict=True):
                scheduler.load_state_dict(loaded)
        if step == 7:  # another hand on the learning rate
            for optimizer in optimizers:
                optimizer.param_groups[0]["lr"] *= 0.5
        for optimizer, scheduler in zip(optimizers, pair, strict=True):
            optimizer.step()
            scheduler.step()
    assert isinstance(pair[0], theirs.SWALR)
    assert pair[0].get_last_lr() == pair[1].get_last_lr()


def test_a_loaded_strategy_is_the_one_that_goes_on():
    optimizers = [two_groups() for _ in range(2)]
    a = ours.SWALR(optimizers[0], 0.05, 20, "linear")
    b = ours.SWALR(optimizers[1], 0.05, 3, "cos")
    for _ in range(6):
        optimizers[0].step()
        a.step()
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    b.load_state_dict(pickle.loads(pickle.dumps(a.state_dict())))
    for scheduler, optimizer in zip((a, b), optimizers, strict=True):
        optimizer.step()
        scheduler.step()
    assert rates(optimizers[0]) == rates(optimizers[1])
    before = dict(b.__dict__)
    with pytest.raises(ValueError, match="instead got steps"):
        b.load_state_dict({**a.state_dict(), "_anneal_strategy": "steps"})
    assert b.__dict__ == before


@pytest.mark.parametrize(
    "options",
    [
        {"swa_lr": 0.1, "anneal_strategy": "steps"},
        {"swa_lr": 0.1, "anneal_epochs": -1},
        {"swa_lr": 0.1, "anneal_epochs": 1.5},
        {"swa_lr": [0.1]},
    ],
    ids=str,
)
def test_swalr_refuses_what_torch_refuses_and_leaves_the_groups_alone(options):
    messages = []
    for module in (ours, theirs):
        optimizer = two_groups()
        with pytest.raises(ValueError, match=r".") as error:
            module.SWALR(optimizer, **options)
        messages.append(str(error.value).replace("must by one", "must be one"))  # torch 2.11
        if module is ours:
            assert all("swa_lr" not in group for group in optimizer.param_groups)
    assert messages[0] == messages[1]


def test_swalr_warns_where_get_lr_is_called_by_hand():
    scheduler = ours.SWALR(two_groups(), 0.1)
    with pytest.warns(UserWarning, match="please use `get_last_lr") as record:
        scheduler.get_lr()
    assert record[0].filename == __file__


# ------------------------------------------------------------------ EMA


def test_the_ema_is_the_formula():
    for warmup in (False, True):
        model = Net(torch.float64)
        ema = ours.EMA(model, 0.9, warmup=warmup, use_buffers=True)
        expected = {name: x.detach().clone() for name, x in model.state_dict().items()}
        for t in range(1, 101):
            move(model, t)
            ema.update()
            decay = min(0.9, (1 + t) / (10 + t)) if warmup else 0.9
            for name, x in model.state_dict().items():
                if x.dtype == torch.float64:
                    expected[name] = decay * expected[name] + (1 - decay) * x
            for name in ("weight", "inner.bias", "scale", "mean"):
                # Three roundings a step, of which ten are remembered; in each, of 1 to 4.
                assert epsilons(ema.averages[name], expected[name], largest=1.0) <= 64
        assert torch.equal(ema.averages["count"], model.count)


@each_device
@each_buffers
@each_dtype
def test_the_ema_is_torchs_averaged_model_that_was_shown_the_model_at_once(
    use_buffers, dtype, device
):
    model = Net(dtype).to(device)
    ema = ours.EMA(model, 0.9, use_buffers=use_buffers)
    torchs = theirs.AveragedModel(
        model, multi_avg_fn=theirs.get_ema_multi_avg_fn(0.9), use_buffers=use_buffers
    )
    torchs.update_parameters(model)
    for seed in range(1, 6):
        move(model, seed)
        ema.update()
        torchs.update_parameters(model)
    named = dict(torchs.module.named_parameters())
    if use_buffers:
        named |= {k: v for k, v in torchs.module.named_buffers() if k != "count"}
        assert_same_bits(ema.averages["count"], model.count, "count")
    assert ema.averages.keys() - {"count"} == named.keys()
    for name, x in named.items():
        assert_same_bits(ema.averages[name], x, name)


@each_buffers
def test_a_model_holds_its_average_within_the_block_and_its_weights_after_it(use_buffers):
    model = Net()
    ema = ours.EMA(model, 0.5, use_buffers=use_buffers)
    move(model, 1)
    ema.update()
    own, average = copy.deepcopy(model), copy.deepcopy(ema.averages)
    identity = [*map(id, tensors(model)), *[x.data_ptr() for x in tensors(model)]]

    class SomeError(Exception):
        pass

    for failing in (False, True):
        try:
            with ema.averaged() as held:
                assert held is model
                for name, x in named_tensors(model):
                    if name in average:
                        assert_same_bits(x, average[name], name)
                move(model, 2)  # what is done to the average in the model is undone
                if failing:
                    raise SomeError
        except SomeError:
            assert failing
        if use_buffers:
            assert_same_tensors(model, own)
        for x, y in zip(model.parameters(), own.parameters(), strict=True):
            assert_same_bits(x, y, "parameter")
        assert_same(ema.averages, average)
    assert identity == [*map(id, tensors(model)), *[x.data_ptr() for x in tensors(model)]]
    assert all(p.requires_grad for p in model.parameters())


def test_while_the_model_holds_its_average_it_is_neither_averaged_nor_loaded():
    ema = ours.EMA(Net(), 0.5)
    saved = ema.state_dict()
    with ema.averaged():
        for call in (ema.update, lambda: ema.load_state_dict(saved), ema.averaged().__enter__):
            with pytest.raises(RuntimeError, match="holds the average"):
                call()
        assert ema.updates == 0
    ema.update()


@each_buffers
@pytest.mark.parametrize("warmup", [False, True])
def test_a_resumed_ema_goes_on_bit_for_bit(use_buffers, warmup):
    model = Net()
    ema = ours.EMA(model, 0.9, warmup=warmup, use_buffers=use_buffers)
    for seed in range(1, 5):
        move(model, seed)
        ema.update()
    file = io.BytesIO()
    torch.save(ema.state_dict(), file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    fresh = ours.EMA(model, 0.1, use_buffers=use_buffers)
    fresh.load_state_dict(saved)
    both = [ema, fresh, copy.deepcopy(ema), pickle.loads(pickle.dumps(ema))]
    assert not {x.data_ptr() for x in fresh.averages.values() if x.numel()} & {
        x.data_ptr() for x in saved["averages"].values()
    }
    for seed in range(5, 8):
        for one in both:
            move(one.model, seed)
            one.update()
    for other in both[1:]:
        assert_same(other.state_dict(), ema.state_dict())


def test_a_state_dict_that_does_not_fit_changes_nothing():
    ema = ours.EMA(Net(), 0.5)
    good = copy.deepcopy(ema.state_dict())
    averages = good["averages"]
    for bad, message in (
        ({}, "lacks"),
        ({k: v for k, v in good.items() if k != "updates"}, "updates"),
        ({**good, "decay": 2, "updates": 7}, "decay"),
        ({**good, "updates": 7, "averages": {}}, "lack"),
        ({**good, "updates": 7, "averages": {**averages, "more": averages["scale"]}}, "more"),
        ({**good, "updates": 7, "averages": {**averages, "low": torch.ones(8)}}, "shape"),
    ):
        with pytest.raises(ValueError, match=message):
            ema.load_state_dict(bad)
        assert_same(ema.state_dict(), good)


def test_an_ema_may_be_kept_in_another_dtype():
    model = nn.Linear(4, 4).bfloat16()
    fine = ours.EMA(model, 0.999, dtype=torch.float32)
    own = copy.deepcopy(model)
    with torch.no_grad():
        model.weight.add_(1)
    changed = copy.deepcopy(model)
    fine.update()
    # 0.999 w + 0.001 (w + 1), where w + 1 was rounded to bfloat16.
    expected = own.weight.double().lerp(model.weight.double(), 1 - 0.999).float()
    assert epsilons(fine.averages["weight"], expected) <= 2
    with fine.averaged():
        assert_same_bits(model.weight, expected.bfloat16(), "weight")
    assert_same_bits(model.weight, changed.weight, "weight")


def test_an_ema_can_be_copied_to_another_model():
    model, other = Net(), Net(seed=4)
    ema = ours.EMA(model, 0.5)
    move(model, 1)
    ema.update()
    ema.copy_to(other)
    for name, p in other.named_parameters():
        assert_same_bits(p, ema.averages[name], name)
    with pytest.raises(ValueError, match="lack"):
        ema.copy_to(nn.Linear(2, 2))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nothing_waits_for_the_gpu():
    model = nn.Linear(4, 4).cuda()
    ema = ours.EMA(model, 0.9, warmup=True)
    optimizer = ours.Lookahead(scratch_optim.SGD(model.parameters(), lr=0.1), k=2)
    model.weight.grad = torch.ones_like(model.weight)
    for _ in range(2):
        torch.cuda.set_sync_debug_mode("error")
        try:
            optimizer.step()
            ema.update()
            with ema.averaged():
                pass
        finally:
            torch.cuda.set_sync_debug_mode("default")


# ------------------------------------------------------------------ Lookahead

INNER = {
    "SGD": lambda ps: scratch_optim.SGD(ps, lr=0.1, momentum=0.9),
    "Adam": lambda ps: scratch_optim.Adam(ps, lr=0.05),
    "torch SGD": lambda ps: torch.optim.SGD(ps, lr=0.1, momentum=0.9),
    "torch SGD, plain": lambda ps: torch.optim.SGD(ps, lr=0.1),
    "torch AdamW": lambda ps: torch.optim.AdamW(ps, lr=0.05),
    "torch LBFGS": lambda ps: torch.optim.LBFGS(ps, lr=0.1, max_iter=3),
}

each_inner = pytest.mark.parametrize("inner", INNER.values(), ids=INNER)
each_momentum = pytest.mark.parametrize("momentum", ["keep", "reset", "pull"])


def parameters():
    generator = torch.Generator().manual_seed(0)
    params = [
        torch.randn(shape, generator=generator).requires_grad_()
        for shape in ((4, 3), (5,), (), (2,))
    ]
    params[3].requires_grad_(False)  # in the groups, but frozen
    return params


def train(optimizer, params, steps, start=0):
    """Take steps on a quadratic whose minimum moves; the third parameter rarely has a gradient."""
    for t in range(start, start + steps):

        def closure(t=t):
            optimizer.zero_grad()
            used = params[:2] if t % 4 else params[:3]
            loss = sum(((p - math.sin(t)) ** 2 * (1 + i)).sum() for i, p in enumerate(used))
            loss.backward()
            return loss

        optimizer.step(closure)


def assert_same_parameters(a, b):
    for i, (p, q) in enumerate(zip(a, b, strict=True)):
        assert_same_bits(p, q, f"parameter {i}")


@each_inner
@pytest.mark.parametrize("k", [1, 4])
def test_lookahead_that_goes_all_the_way_is_the_inner_optimizer(inner, k):
    lists = [parameters() for _ in range(2)]
    bare, wrapped = inner(lists[0]), ours.Lookahead(inner(lists[1]), k=k, alpha=1)
    for start in range(0, 15, 5):
        train(bare, lists[0], 5, start)
        train(wrapped, lists[1], 5, start)
        assert_same_parameters(*lists)


@each_momentum
@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("name", ["SGD", "torch SGD", "torch SGD, plain"])
def test_lookahead_is_algorithm_1(name, k, momentum):
    """Against float64: phi and the momentum by hand, with gradients that are given."""
    params = [p for p in parameters() if p.requires_grad]
    optimizer = ours.Lookahead(INNER[name](params), k=k, alpha=0.3, momentum=momentum)
    mu = 0 if "plain" in name else 0.9
    theta = [p.detach().double() for p in params]
    phi, b, psi = [x.clone() for x in theta], [0 * x for x in theta], [0 * x for x in theta]
    for t in range(1, 13):
        for i, p in enumerate(params):
            p.grad = torch.full_like(p, math.sin(t + i))
            b[i] = mu * b[i] + math.sin(t + i)
            theta[i] = theta[i] - 0.1 * b[i]
            if t % k == 0:
                phi[i] = phi[i] + 0.3 * (theta[i] - phi[i])
                theta[i] = phi[i].clone()
                if momentum == "reset":
                    b[i] = 0 * b[i]
                elif momentum == "pull":
                    psi[i] = psi[i] + 0.3 * (b[i] - psi[i])
                    b[i] = psi[i].clone()
        grads = [p.grad.clone() for p in params]
        optimizer.step()
        for p, g in zip(params, grads, strict=True):
            assert_same_bits(p.grad, g, "gradient")
        for p, x in zip(params, theta, strict=True):
            # At most 12 steps of about four roundings, of weights of about 1.
            assert (p.detach().double() - x).abs().max() <= 48 * torch.finfo(torch.float32).eps


def test_with_a_constant_gradient_lookahead_is_a_straight_line():
    """Of n cycles of k steps, alpha k n lr g is gone; and within a cycle the steps are whole."""
    p = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = ours.Lookahead(torch.optim.SGD([p], lr=0.5), k=4, alpha=0.25)
    for t in range(1, 31):
        p.grad = torch.ones_like(p)
        optimizer.step()
        # Every number is a multiple of 1/2, so exact.
        assert (p == -0.5 * (t // 4) - 0.5 * (t % 4)).all()


@pytest.mark.parametrize(("alpha", "expected"), [(0, 8.0), (None, 6.0), (1, 4.0)])
def test_a_training_can_end_on_the_slow_weights(alpha, expected):
    p = torch.tensor(8.0, requires_grad=True)
    optimizer = ours.Lookahead(torch.optim.SGD([p], lr=1.0), k=5, alpha=0.5)
    for _ in range(4):
        p.grad = torch.tensor(1.0)
        optimizer.step()
    assert p == 4
    optimizer.sync(alpha)
    assert p == expected
    optimizer.sync()
    assert p == expected
    for _ in range(4):
        optimizer.step()
    assert p == expected - 4  # a new cycle has begun
    with torch.no_grad():
        p.fill_(math.nan)
    optimizer.sync(0)
    assert p == expected


@each_inner
@each_momentum
@pytest.mark.parametrize("taken", [4, 7, 13])
@pytest.mark.parametrize("way", ["state dict", "file", "deepcopy", "pickle"])
def test_a_resumed_lookahead_goes_on_bit_for_bit_in_mid_cycle(inner, momentum, taken, way):
    params = parameters()
    optimizer = ours.Lookahead(inner(params), k=4, alpha=0.3, momentum=momentum)
    train(optimizer, params, taken)
    if way in ("deepcopy", "pickle") and inner is INNER["torch LBFGS"]:
        pytest.skip("torch's LBFGS loses its parameters in a copy")
    if way == "deepcopy":
        twin = copy.deepcopy(optimizer)
        twins = twin.param_groups[0]["params"]
    elif way == "pickle":
        twin = pickle.loads(pickle.dumps(optimizer))
        twins = twin.param_groups[0]["params"]
    else:
        twins = [p.detach().clone().requires_grad_(p.requires_grad) for p in params]
        twin = ours.Lookahead(inner(twins), k=9, alpha=0.5)
        saved = optimizer.state_dict()
        if way == "file":
            file = io.BytesIO()
            torch.save(saved, file)
            file.seek(0)
            saved = torch.load(file, weights_only=True)
        else:
            saved = copy.deepcopy(saved)
        twin.load_state_dict(saved)
    assert all(p is not q for p, q in zip(params, twins, strict=True))
    train(twin, twins, 9, start=taken)
    before = snapshot(optimizer)
    train(optimizer, params, 9, start=taken)
    assert_same_parameters(params, twins)
    assert_same(optimizer.state_dict()["lookahead"], twin.state_dict()["lookahead"])
    assert not any(torch.equal(p, q) for p, q in zip(before["params"][:2], twins[:2], strict=True))


def test_loading_copies_and_a_bad_state_dict_changes_nothing():
    params = parameters()
    optimizer = ours.Lookahead(INNER["SGD"](params), k=4, momentum="pull")
    train(optimizer, params, 6)
    good = copy.deepcopy(optimizer.state_dict())
    own = good["lookahead"]
    slow = own["slow"]

    def changed(**entries):
        return {**good, "lookahead": {**own, "taken": 3, **entries}}

    short = {**good, "param_groups": []}
    for bad, message in (
        ({**changed(), "param_groups": []}, "parameter groups"),
        (changed(k=0), "k must"),
        (changed(alpha=2), "alpha must"),
        (changed(momentum="lose"), "'lose'"),
        (changed(taken=-1), "-1"),
        (changed(slow={9: slow[0]}), "parameter 9"),
        (changed(slow={0: slow[1]}), "shape"),
        (changed(slow={0: {}}), "weight"),
        ({**good, "lookahead": {"k": 2}}, "lacks"),
        (short, "groups"),
    ):
        before, lookahead = snapshot(optimizer), copy.deepcopy(optimizer.state_dict()["lookahead"])
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(bad)
        assert_same(before, snapshot(optimizer))
        assert_same(lookahead, optimizer.state_dict()["lookahead"])
    optimizer.load_state_dict(good)
    expected = copy.deepcopy(optimizer.state_dict()["lookahead"])
    for x in slow[0].values():
        x.fill_(7)
    assert_same(expected, optimizer.state_dict()["lookahead"])


def test_state_dicts_go_to_and_from_the_inner_optimizer_alone():
    params = parameters()
    optimizer = ours.Lookahead(INNER["torch SGD"](params), k=4)
    train(optimizer, params, 6)
    bare = INNER["torch SGD"](params)
    bare.load_state_dict(optimizer.state_dict())
    assert_same(bare.state_dict()["state"], optimizer.state_dict()["state"])
    optimizer.load_state_dict(bare.state_dict())
    assert optimizer.taken == 0
    p = params[0].detach().clone()
    params[0].grad = torch.ones_like(p)
    optimizer.step()
    optimizer.sync(0)  # the cycle began where the weights were
    assert_same_bits(params[0], p, "weights")


def test_lookahead_shares_groups_options_and_state_with_the_inner_optimizer():
    params = parameters()
    inner = INNER["torch SGD"](params[:2])
    optimizer = ours.Lookahead(inner)
    assert isinstance(optimizer, torch.optim.Optimizer)
    for _ in range(2):
        assert optimizer.param_groups is inner.param_groups
        assert optimizer.state is inner.state
        assert optimizer.defaults is inner.defaults
        inner.load_state_dict(inner.state_dict())  # makes new ones
    optimizer.add_param_group({"params": params[2:3], "lr": 0.7})
    assert inner.param_groups[1]["lr"] == 0.7
    train(optimizer, params, 7)
    optimizer.zero_grad(set_to_none=False)
    assert all((p.grad == 0).all() for p in params[:2])
    optimizer.zero_grad()
    assert all(p.grad is None for p in params)
    assert "Lookahead(k=5, alpha=0.5, momentum='keep') of SGD" in repr(optimizer)
    assert "differentiable" not in ours.Lookahead(torch.optim.LBFGS(parameters())).defaults


def test_parameters_that_join_in_mid_cycle_begin_where_they_are():
    p, q = (torch.zeros((), requires_grad=True) for _ in range(2))
    optimizer = ours.Lookahead(torch.optim.SGD([p], lr=1.0), k=4, alpha=0.5)
    for t in range(4):
        if t == 2:
            optimizer.add_param_group({"params": [q]})
        p.grad = q.grad = torch.ones(())
        optimizer.step()
    assert [p.item(), q.item()] == [-2.0, -1.0]


def test_schedulers_and_hooks_work_on_a_lookahead():
    params = parameters()
    optimizer = ours.Lookahead(INNER["SGD"](params), k=2)
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    optimizer.register_state_dict_pre_hook(lambda opt: calls.append("save"))
    optimizer.register_state_dict_post_hook(lambda opt, saved: {**saved, "more": 1})
    optimizer.register_load_state_dict_pre_hook(lambda opt, saved: calls.append("load"))
    optimizer.register_load_state_dict_post_hook(lambda opt: calls.append("loaded"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for make in (
            lambda opt: torch.optim.lr_scheduler.StepLR(opt, 1, 0.5),
            lambda opt: torch.optim.lr_scheduler.OneCycleLR(opt, 0.1, total_steps=5),
            lambda opt: ours.SWALR(opt, 0.01),
        ):
            scheduler = make(optimizer)
            train(optimizer, params, 1)
            scheduler.step()
    assert calls == ["pre", "post"] * 3
    saved = optimizer.state_dict()
    assert saved["more"] == 1
    optimizer.load_state_dict(saved)
    assert calls[6:] == ["save", "load", "loaded"]


@each_inner
def test_a_grad_scaler_skips_the_step_and_it_is_not_counted(inner):
    params = [p for p in parameters() if p.requires_grad]
    optimizer = ours.Lookahead(inner(params), k=2)
    if isinstance(optimizer.optimizer, torch.optim.LBFGS):
        pytest.skip("needs a closure, which GradScaler does not take")
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for value, taken in ((1.0, 1), (math.inf, 1)):
        optimizer.zero_grad()
        scaler.scale(sum((p * value).sum() for p in params)).backward()
        scaler.step(optimizer)
        scaler.update()
        assert optimizer.taken == taken
    assert all(p.isfinite().all() for p in params)


def test_a_fused_inner_optimizer_is_skipped_too():
    p = torch.ones(3, requires_grad=True)
    optimizer = ours.Lookahead(torch.optim.SGD([p], lr=0.1, fused=True))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale((p * math.inf).sum()).backward()
    scaler.step(optimizer)
    assert optimizer.taken == 0
    assert (p == 1).all()


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"k": 0}, ValueError, "k must be an integer >= 1, but is 0"),
        ({"k": 2.5}, ValueError, "k must .* 2.5"),
        ({"alpha": 0}, ValueError, r"alpha must be in \(0, 1\], but is 0"),
        ({"alpha": 1.5}, ValueError, "alpha .* 1.5"),
        ({"alpha": math.nan}, ValueError, "alpha .* nan"),
        ({"momentum": "lose"}, ValueError, "momentum .* 'lose'"),
        ({"optimizer": 3}, TypeError, "int is not an Optimizer"),
        (
            {"optimizer": ours.Lookahead(INNER["SGD"](parameters()))},
            ValueError,
            "another Lookahead",
        ),
    ],
    ids=str,
)
def test_lookahead_refuses_bad_options(options, kind, message):
    with pytest.raises(kind, match=message):
        ours.Lookahead(**{"optimizer": INNER["SGD"](parameters()), **options})


def test_frozen_parameters_have_no_slow_weights():
    params = parameters()
    optimizer = ours.Lookahead(INNER["SGD"](params))
    train(optimizer, params, 2)
    assert optimizer.state_dict()["lookahead"]["slow"].keys() == {0, 1, 2}
    assert all(isinstance(x["weight"], Tensor) for x in optimizer._slow.values())
