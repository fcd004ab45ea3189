"""Exchanging the layers of models that exist: the same model, computed by hand."""

import inspect
import io
import pickle
import re
from copy import deepcopy

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

import scratch_layers
from scratch_layers.convert import COUNTERPARTS, Conversion, convert

# Models of torchvision with the smallest image that they take. Where no size below 224 is taken
# (windows, position embeddings) it is an option of the builder.
TORCHVISION = {
    "alexnet": (64, {}),
    "vgg11_bn": (32, {}),
    "resnet18": (32, {}),
    "resnext50_32x4d": (32, {}),
    "densenet121": (32, {}),
    "mobilenet_v2": (32, {}),
    "mobilenet_v3_small": (32, {}),
    "efficientnet_b0": (32, {}),
    "shufflenet_v2_x0_5": (32, {}),
    "squeezenet1_1": (32, {}),
    "googlenet": (64, {"aux_logits": False, "init_weights": False}),
    "inception_v3": (96, {"aux_logits": False, "init_weights": False}),
    "mnasnet0_5": (32, {}),
    "regnet_y_400mf": (32, {}),
    "convnext_tiny": (32, {}),
    "vit_b_16": (32, {"image_size": 32}),
    "swin_t": (32, {}),
    "maxvit_t": (224, {}),
}
TIMM = {
    "resnet10t": (32, {}),
    "mobilenetv3_small_050": (32, {}),
    "efficientnet_lite0": (32, {}),
    "regnetx_002": (32, {}),
    "convnext_atto": (32, {}),
    "vit_tiny_patch16_224": (32, {"img_size": 32}),
    "levit_128s": (224, {}),
    "poolformer_s12": (32, {}),
    "mixer_s32_224": (64, {"img_size": 64}),
    "gmixer_12_224": (32, {"img_size": 32}),
    "resmlp_12_224": (32, {"img_size": 32}),
    "selecsls42": (32, {}),
}
QUICK = ("resnet18", "shufflenet_v2_x0_5", "vit_tiny_patch16_224")
ZOO = [
    pytest.param(
        build,
        name,
        size,
        options,
        marks=[] if name in QUICK else [pytest.mark.slow, pytest.mark.exhaustive],
        id=name,
    )
    for build, table in ((torchvision.models.get_model, TORCHVISION), (timm.create_model, TIMM))
    for name, (size, options) in table.items()
]


def classes(model):
    return {name: type(module) for name, module in model.named_modules()}


def seeded(model, x):
    """Outputs, and the gradient by x of their sum against fixed random numbers."""
    x = x.clone().requires_grad_()
    torch.manual_seed(1)
    ys = pytree.tree_leaves(model(x))
    loss = sum((y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum() for y in ys)
    return [y.detach() for y in ys] + list(torch.autograd.grad(loss, x))


def assert_within(mine, theirs, relative):
    for a, b in zip(mine, theirs, strict=True):
        assert a.dtype == b.dtype
        assert (a - b).abs().max() <= relative * b.abs().max()


@pytest.mark.parametrize(("build", "name", "size", "options"), ZOO)
def test_a_model_of_the_zoo_computes_the_same(build, name, size, options):
    torch.manual_seed(0)
    model = build(name, num_classes=10, **options).double()
    before, keys = classes(model), list(model.state_dict())
    report = convert(model, copy=True)
    ours = report.model
    x = torch.randn(4, 3, size, size, dtype=torch.float64)

    assert classes(model) == before
    assert list(ours.state_dict()) == keys
    assert all(a is b for a, b in zip(model.parameters(), ours.parameters(), strict=True))
    assert set(report.exchanged) == {n for n, cls in before.items() if cls in COUNTERPARTS}
    assert {n: COUNTERPARTS[before[n]] for n in report.exchanged} == report.exchanged
    assert not set(report.exchanged) & set(report.left)
    assert set(report.exchanged) | set(report.left) >= {
        n for n, module in model.named_modules() if not list(module.children())
    }

    # Training first, so that evaluation has statistics of its own. Rounding, 1e-16, is enlarged
    # by every normalization over few values; 1e-9 leaves it 7 digits, and mistakes none.
    # (The backward of torch's hardsigmoid has 1/6 in float32 in every dtype: 3e-8 for each.)
    relative = 1e-6 if nn.Hardsigmoid in before.values() else 1e-9
    for training in (True, False):
        model.train(training), ours.train(training)
        assert_within(seeded(ours, x), seeded(model, x), relative)
        torch.testing.assert_close(ours.state_dict(), model.state_dict(), rtol=1e-9, atol=1e-9)

    # In float32 ours may err as native does: 4 times as much as it, and by 4 roundings. Of a value
    # nearer to a kink than its rounding (of ReLU, of a maximum) either side is right, and the
    # gradient then is another one: so it is enough for one of three inputs, drawn anew.
    draws = [x, *torch.randn(2, *x.shape, dtype=torch.float64)]
    exact = [seeded(model, drawn) for drawn in draws]
    model.float(), ours.float()
    errors = []
    for drawn, wanted in zip(draws, exact, strict=True):
        theirs, mine = (seeded(m, drawn.float()) for m in (model, ours))
        errors.append(
            max(
                (a - c).abs().max()
                / ((b - c).abs().max() + torch.finfo(torch.float32).eps * c.abs().max())
                for a, b, c in zip(mine, theirs, wanted, strict=True)
            )
        )
        if errors[-1] <= 4:
            break
    assert min(errors) <= 4, errors

    convert(ours, back=True)
    assert classes(ours) == before


# ------------------------------------------------------------------------ the table of classes


def test_the_counterparts_are_all_modules_that_the_face_shares_with_torch():
    shared = {name for name in scratch_layers.__all__ if isinstance(getattr(nn, name, None), type)}
    shared = {name for name in shared if issubclass(getattr(nn, name), nn.Module)}
    assert {cls.__name__ for cls in COUNTERPARTS} >= shared
    for theirs, ours in COUNTERPARTS.items():
        assert theirs is getattr(nn, theirs.__name__)
        assert ours.__name__ == theirs.__name__
        assert ours.__module__.startswith("scratch_layers.")
        assert issubclass(ours, theirs)
    assert len(set(COUNTERPARTS.values())) == len(COUNTERPARTS)


@pytest.mark.filterwarnings("ignore:`NLLLoss2d` has been deprecated:FutureWarning")
@pytest.mark.parametrize("theirs", COUNTERPARTS, ids=lambda cls: cls.__name__)
def test_instances_of_both_classes_have_the_same_attributes(theirs):
    required = [
        4
        for p in inspect.signature(theirs).parameters.values()
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    native, ours = theirs(*required), COUNTERPARTS[theirs](*required)
    assert set(vars(native)) == set(vars(ours))
    assert [n for n, _ in native.named_parameters()] == [n for n, _ in ours.named_parameters()]
    assert [n for n, _ in native.named_buffers()] == [n for n, _ in ours.named_buffers()]
    assert set(native._non_persistent_buffers_set) == set(ours._non_persistent_buffers_set)
    convert(native)
    assert type(native) is type(ours)
    assert repr(native) == repr(ours)


# ------------------------------------------------------------------------ what is kept


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Dropout(0.5)))


def test_in_place_everything_remains_the_object_that_it_was():
    model = small().double().eval()
    model[1].weight.requires_grad_(False)
    model.elsewhere = [model[1]]
    seen = []
    handle = model[1].register_forward_hook(lambda module, args, y: seen.append(module))
    modules = list(model.modules())
    tensors = [*model.parameters(), *model.buffers()]
    attributes = {name: dict(vars(m)) for name, m in model.named_modules()}

    report = convert(model)

    assert report.model is model
    assert list(report.exchanged) == ["1", "2.0"]
    assert type(model[1]) is scratch_layers.BatchNorm2d
    assert type(model[2][0]) is scratch_layers.Dropout
    assert all(a is b for a, b in zip(modules, model.modules(), strict=True))
    assert all(
        a is b for a, b in zip(tensors, [*model.parameters(), *model.buffers()], strict=True)
    )
    assert attributes == {name: dict(vars(m)) for name, m in model.named_modules()}
    assert model.elsewhere[0] is model[1]
    model(torch.ones(1, 3, 5, 5, dtype=torch.float64))
    assert seen == [model[1]]
    handle.remove()
    model(torch.ones(1, 3, 5, 5, dtype=torch.float64))
    assert len(seen) == 1


def test_training_goes_on_where_it_was_with_the_same_optimizer():
    x = torch.randn(5, 8, 3, 6, 6, dtype=torch.float64)
    results = []
    for exchange in (False, True):
        model = small().double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for i in range(4):
            if exchange and i in (1, 3):
                convert(model, back=i == 3)
            torch.manual_seed(i)
            optimizer.zero_grad()
            model(x[i]).square().mean().backward()
            optimizer.step()
        results.append(model.state_dict())
    # 4 steps of sums over 128 values: 4 * 128 roundings
    bound = 512 * torch.finfo(torch.float64).eps
    torch.testing.assert_close(*results, rtol=bound, atol=bound)


def test_a_copy_has_the_parameters_of_the_model_and_buffers_of_its_own():
    model = small()
    seen = []
    model[1].register_forward_hook(lambda module, args, y: seen.append(type(module)))
    ours = convert(model, copy=True).model
    assert type(model[1]) is nn.BatchNorm2d
    assert type(ours[1]) is scratch_layers.BatchNorm2d
    assert all(a is b for a, b in zip(model.parameters(), ours.parameters(), strict=True))
    ours(torch.randn(4, 3, 5, 5)).sum().backward()
    assert seen == [scratch_layers.BatchNorm2d]
    assert model[1].weight.grad is ours[1].weight.grad is not None
    assert (ours[1].num_batches_tracked, model[1].num_batches_tracked) == (1, 0)
    assert not torch.equal(ours[1].running_mean, model[1].running_mean)


def test_tied_parameters_and_a_module_in_two_places_remain_so():
    norm = nn.BatchNorm1d(3)
    model = nn.ModuleDict({"a": norm, "b": nn.Sequential(norm), "c": nn.BatchNorm1d(3)})
    model["c"].weight = norm.weight
    for copy in (True, False):
        report = convert(model, copy=copy)
        ours = report.model
        assert list(report.exchanged) == ["a", "c"]
        assert ours["a"] is ours["b"][0]
        assert ours["c"].weight is ours["a"].weight is norm.weight


@pytest.mark.parametrize("theirs", [nn.BatchNorm2d, nn.Dropout], ids=lambda cls: cls.__name__)
def test_the_model_itself_may_be_such_a_layer(theirs):
    layer = theirs(3) if "Norm" in theirs.__name__ else theirs()
    assert convert(layer).exchanged == {"": getattr(scratch_layers, theirs.__name__)}
    assert type(layer) is getattr(scratch_layers, theirs.__name__)
    assert convert(layer, back=True).exchanged == {"": theirs}
    assert type(layer) is theirs


def test_a_converted_model_copies_pickles_and_loads():
    model = convert(small()).model
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    for other in (
        deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(file, weights_only=False),
    ):
        assert classes(other) == classes(model)
        fresh = small()
        fresh.load_state_dict(other.state_dict())
        torch.testing.assert_close(fresh.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_converting_again_changes_nothing_and_says_so():
    model = small()
    convert(model)
    before = classes(model)
    report = convert(model)
    assert report.exchanged == {}
    assert report.left["1"] == "scratch_layers.batchnorm.BatchNorm2d already"
    assert classes(model) == before


# ------------------------------------------------------------------------ what is left, and why


class Own(nn.BatchNorm2d):
    def forward(self, input):
        return super().forward(input) * 2


class Empty(nn.Dropout):
    pass


def parametrized():
    layer = nn.BatchNorm2d(3)
    parametrize.register_parametrization(layer, "weight", nn.Flatten(0))
    return layer


def replaced():
    layer = nn.BatchNorm2d(3)
    layer.forward = lambda x, native=layer.forward: native(x) + 1
    return layer


def scripted():
    return torch.jit.script(nn.BatchNorm2d(3))


LEFT = {
    "own forward": (lambda: Own(3), r"test_convert\.Own is a BatchNorm2d with its own forward$"),
    "no code": (Empty, r"test_convert\.Empty is a Dropout by inheritance only$"),
    "timm": (
        lambda: timm.layers.BatchNormAct2d(3),
        r"timm\.layers\.norm_act\.BatchNormAct2d is a BatchNorm2d with its own __init__, forward$",
    ),
    "torchvision": (
        lambda: torchvision.ops.FrozenBatchNorm2d(3),
        r"torchvision\.ops\.misc\.FrozenBatchNorm2d has no counterpart$",
    ),
    "quantized": (
        torch.ao.nn.quantized.Dropout,
        r"quantized\..*Dropout is a Dropout with its own ",
    ),
    "parametrized": (
        parametrized,
        r"ParametrizedBatchNorm2d is a BatchNorm2d with its own .*weight",
    ),
    "replaced": (replaced, r"BatchNorm2d whose forward was replaced on the object$"),
    "scripted": (scripted, r"compiled by torch\.jit: convert before$"),
    "other": (lambda: nn.Bilinear(2, 2, 2), r"torch\.nn\..*\.Bilinear has no counterpart$"),
}


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
@pytest.mark.parametrize(("make", "reason"), LEFT.values(), ids=LEFT)
def test_is_left_with_the_reason(make, reason):
    layer = make()
    before = type(layer)
    report = convert(layer)
    assert type(layer) is before
    assert "" not in report.exchanged
    assert re.search(reason, report.left[""])


def test_back_leaves_a_subclass_of_ours_and_what_was_never_exchanged():
    class Mine(scratch_layers.Dropout):
        def forward(self, input):
            return input

    model = nn.Sequential(Mine(), scratch_layers.Dropout(), nn.Dropout(), nn.Bilinear(2, 2, 2))
    report = convert(model, back=True)
    assert list(report.exchanged) == ["1"]
    assert list(report.left) == ["0", "2", "3"]
    assert report.left["0"].endswith("Mine is a Dropout with its own forward")
    assert report.left["2"].endswith("Dropout already")
    assert type(model[0]) is Mine


def test_a_lazy_layer_becomes_a_hand_written_one_with_its_first_input():
    model = nn.Sequential(nn.LazyBatchNorm2d())
    convert(model)
    model(torch.randn(4, 3, 2, 2))
    assert type(model[0]) is scratch_layers.BatchNorm2d
    assert model[0].num_batches_tracked == 1
    assert not model[0]._forward_pre_hooks


def test_refuses_what_is_no_module():
    with pytest.raises(TypeError, match=r"must be an nn\.Module, but got builtins\.list"):
        convert([nn.Dropout()])
    with pytest.raises(TypeError, match=r"must be an nn\.Module, but got builtins\.type"):
        convert(nn.Dropout)


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_refuses_to_copy_what_would_not_share_its_parameters():
    model = nn.Sequential(nn.BatchNorm2d(3), scripted())
    with pytest.raises(ValueError, match=r"cannot be copied around its parameters.*'1\.weight'"):
        convert(model, copy=True)
    assert type(model[0]) is nn.BatchNorm2d


def test_printed_it_is_a_table_of_counts():
    model = nn.Sequential(small(), small(), Own(4))
    assert repr(convert(model)).splitlines() == [
        "Sequential: 4 modules exchanged",
        "     2 scratch_layers.batchnorm.BatchNorm2d",
        "     2 scratch_layers.dropout.Dropout",
        "3 left",
        "     2 torch.nn.modules.conv.Conv2d has no counterpart",
        f"     1 {__name__}.Own is a BatchNorm2d with its own forward",
    ]
    assert isinstance(convert(model), Conversion)


# ------------------------------------------------------------------------ other tools


@pytest.mark.parametrize("method", [False, True], ids=["torch.compile", "Module.compile"])
def test_a_compiled_model_compiles_again_with_the_new_classes(method):
    torch._dynamo.reset()
    graphs, native = [], []

    def backend(graph, inputs):
        graphs.append(graph)
        is_native = any(node.target is nn.functional.batch_norm for node in graph.graph.nodes)

        def run(*args):
            native.append(is_native)
            return graph.forward(*args)

        return run

    model = compiled = small()
    if method:
        model.compile(backend=backend)
    else:
        compiled = torch.compile(model, backend=backend)
    x = torch.randn(4, 3, 5, 5)
    compiled(x)
    convert(compiled)
    compiled(x)
    convert(compiled, back=True)
    compiled(x)
    assert native == [True, False, True]
    assert len(graphs) == 2  # the first one was kept


def test_modules_within_graphs_of_fx_are_exchanged():
    model = torch.fx.symbolic_trace(small()).eval()
    x = torch.randn(2, 3, 5, 5)
    y = model(x)
    assert list(convert(model).exchanged) == ["1", "2.0"]
    # x̂ γ + β in another order: a few roundings of values of order 1 to 4
    torch.testing.assert_close(model(x), y)


def test_a_sharded_model_is_exchanged_where_fully_shard_left_the_class_alone():
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        mesh = torch.distributed.init_device_mesh("cpu", (1,))
        model = small()
        fully_shard(model[1], mesh=mesh)
        model = fully_shard(model, mesh=mesh)
        report = convert(model)
        assert list(report.exchanged) == ["2.0"]
        assert "FSDPBatchNorm2d is a BatchNorm2d" in report.left["1"]
        assert model(torch.randn(2, 3, 5, 5)).shape == (2, 4, 3, 3)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("norm_first", [False, True], ids=["post", "pre"])
@pytest.mark.parametrize("fastpath", [True, False], ids=["fast", "slow"])
def test_transformer_layers_and_their_fast_path_keep_working(fastpath, norm_first):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
    model = nn.TransformerEncoder(
        layer, 2, norm=nn.LayerNorm(8), enable_nested_tensor=not norm_first
    )
    model = model.double()
    ours = convert(model, copy=True)
    assert len(ours.exchanged) >= 2 * 3  # the dropouts
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[0, 3:] = True
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fastpath)
    try:
        for training in (True, False):
            model.train(training), ours.model.train(training)
            assert_within(seeded(ours.model, x), seeded(model, x), 1e-12)
        for inference in (torch.no_grad, torch.inference_mode):
            with inference():
                theirs, mine = (m(x, src_key_padding_mask=padding) for m in (model, ours.model))
                assert_within([mine], [theirs], 1e-12)
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
