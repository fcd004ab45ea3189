"""The models: the same network in both namespaces, with the published sizes and names."""

import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import scratch_layers
from scratch_layers import preresnet, resnet
from scratch_layers.preresnet import PreactBlock, PreactResNet, wide_resnet
from scratch_layers.residual import Parts, ResidualBlock
from scratch_layers.resnet import MODELS, BasicBlock, ResNet

# in millions, as printed. He et al. 2015, table 6: resnet20 ... resnet110; Zagoruyko and Komodakis
# 2016, table 5: the others. (There preact_resnet1001 has 10.2, but the network described has 10.3.)
PUBLISHED = {
    "resnet20": "0.27",
    "resnet32": "0.46",
    "resnet44": "0.66",
    "resnet56": "0.85",
    "resnet110": "1.7",
    "preact_resnet110": "1.7",
    "preact_resnet164": "1.7",
    "wrn16_8": "11.0",
    "wrn28_10": "36.5",
    "wrn40_4": "8.9",
}
# of every kind one: basic blocks with either shortcut, ResNet9, pre-activation, bottleneck, wide
KINDS = ("resnet20", "resnet18", "resnet9", "preact_resnet20", "preact_resnet164", "wrn16_4")
HUGE = ("preact_resnet1001", "wrn28_10")  # differ from others in numbers only


def count(name):
    with torch.device("meta"):
        return sum(p.numel() for p in MODELS[name]().parameters())


class BatchNormReLU2d(nn.BatchNorm2d):
    def forward(self, x, z=None):
        x = super().forward(x)
        return (x if z is None else x + z).relu()


class DropAll(nn.Module):
    """A DropPath that drops every branch, and remembers its probability."""

    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, x):
        return 0 * x


class OwnBatchNorm2d(nn.BatchNorm2d):
    pass


class OwnReLU(nn.ReLU):
    pass


class OwnDropout(nn.Dropout):
    pass


# a namespace that has nothing but what the models may take, each a class of its own
OWN = SimpleNamespace(
    BatchNorm2d=OwnBatchNorm2d,
    BatchNormReLU2d=BatchNormReLU2d,
    ReLU=OwnReLU,
    Dropout=OwnDropout,
    DropPath=DropAll,
)


@pytest.mark.parametrize(("name", "millions"), PUBLISHED.items())
def test_parameter_count_is_that_of_the_paper(name, millions):
    digits = len(millions.partition(".")[2])
    assert f"{count(name) / 1e6:.{digits}f}" == millions


@pytest.mark.parametrize("name", MODELS)
def test_parameter_count_is_that_of_the_documentation(name):
    tables = resnet.__doc__ + preresnet.__doc__
    row = re.search(rf"^{name} .* (\d+(,\d{{3}})+)( |$)", tables, re.MULTILINE)
    assert int(row[1].replace(",", "")) == count(name)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in HUGE])
def test_one_seed_gives_the_same_weights_in_both_namespaces(name):
    states, generators = [], []
    for layers in (nn, scratch_layers):
        torch.manual_seed(1)
        states.append(MODELS[name](layers, dropout=0.1).state_dict())
        generators.append(torch.get_rng_state())
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True))
    assert torch.equal(*generators)


def run(model, x):
    """Logits, and the gradients of every parameter."""
    torch.manual_seed(2)  # of the dropout
    y = model(x)
    y.logsumexp(1).sum().backward()
    return y, [p.grad for p in model.parameters()]


@pytest.mark.parametrize(
    ("name", "channels", "size"),
    [
        ("resnet20", 3, 32),
        ("resnet20", 1, 8),
        ("resnet9", 3, 16),
        ("resnet18", 1, 8),
        ("preact_resnet20", 3, 32),
        ("preact_resnet18", 1, 8),
        ("preact_resnet164", 3, 8),
        ("wrn16_4", 3, 8),
    ],
)
def test_both_namespaces_compute_the_same_loss_and_gradients(name, channels, size):
    torch.manual_seed(0)
    theirs = MODELS[name](nn, in_channels=channels, num_classes=7, dropout=0.5).double()
    ours = MODELS[name](scratch_layers, in_channels=channels, num_classes=7, dropout=0.5).double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(4, channels, size, size, dtype=torch.float64)
    results = [run(model, x) for model in (theirs, ours)]
    assert results[1][0].shape == (4, 7)
    # rounding of 1e-16 grows through up to 164 layers, most in those that normalize few values
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(theirs.eval()(x), ours.eval()(x))


def bn(name):
    kept = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return [f"{name}.{key}" for key in kept]


@pytest.mark.parametrize(
    ("name", "stages", "depth", "downsampled"),
    [("resnet20", 3, 3, False), ("resnet18", 4, 2, True)],
)
def test_keys_of_checkpoints_stay_what_they_are(name, stages, depth, downsampled):
    keys = ["conv1.weight", *bn("bn1")]
    for stage in range(1, stages + 1):
        for block in range(depth):
            for i in (1, 2):
                keys.append(f"layer{stage}.{block}.conv{i}.weight")
                keys += bn(f"layer{stage}.{block}.bn{i}")
            if downsampled and stage > 1 and block == 0:
                keys.append(f"layer{stage}.0.downsample.0.weight")
                keys += bn(f"layer{stage}.0.downsample.1")
    assert list(MODELS[name]().state_dict()) == [*keys, "fc.weight", "fc.bias"]
    assert isinstance(MODELS[name]().get_submodule("layer1.0.relu"), nn.ReLU)


def test_keys_of_resnet9_stay_what_they_are():
    names = ["prep", "layer1", "residual1.0", "residual1.1", "layer2", "layer3"]
    names += ["residual3.0", "residual3.1"]
    keys = [key for name in names for key in (f"{name}.0.weight", *bn(f"{name}.1"))]
    assert sorted(MODELS["resnet9"]().state_dict()) == sorted([*keys, "fc.weight"])


def test_resnet18_has_the_keys_of_torchvision():
    torchvision = pytest.importorskip("torchvision")
    published = torchvision.models.resnet18(num_classes=10).state_dict()
    state = MODELS["resnet18"]().state_dict()
    assert list(state) == list(published)
    different = [k for k in state if state[k].shape != published[k].shape]
    assert different == ["conv1.weight"]


def test_resnet18_computes_what_torchvision_computes():
    torchvision = pytest.importorskip("torchvision")
    theirs, ours = torchvision.models.resnet18(num_classes=10), MODELS["resnet18"](scratch_layers)
    theirs.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = nn.Identity()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    # rounding of 1e-16 through 18 layers, the last of which normalize 16 values each
    results = [run(model.double(), x) for model in (ours, theirs)]
    torch.testing.assert_close(*results, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "layer"),
    [("resnet18", "layer4.0.conv1"), ("preact_resnet18", "layer4.0.body.conv1")],
)
def test_convolutions_are_drawn_with_the_variance_of_he(name, layer):
    torch.manual_seed(0)
    weight = MODELS[name]().get_submodule(layer).weight
    # 2 / fan_out; the standard error over n = 1.2e6 values is sqrt(2 / n) = 1.3e-3 of it
    assert abs(weight.var() * 512 * 9 / 2 - 1) < 5e-3


@pytest.mark.parametrize("name", KINDS)
def test_every_normalization_activation_and_dropout_is_of_the_namespace(name):
    for fused in (False, True):
        model = MODELS[name](OWN, fused=fused)
        kinds = {type(m) for m in model.modules()}
        assert kinds & {nn.BatchNorm2d, nn.ReLU, nn.Dropout} == set()
        assert OwnDropout in kinds
        assert (BatchNormReLU2d in kinds) == fused
        assert (OwnReLU in kinds) != fused


# --- the block


def test_a_residual_block_is_its_equation_around_any_module():
    F, S, D = nn.Linear(3, 5), nn.Linear(3, 5, bias=False), nn.Linear(5, 5)
    x = torch.randn(4, 3)
    y = ResidualBlock(F, S, nn.Tanh(), D)(x)
    torch.testing.assert_close(y, torch.tanh(D(F(x)) + S(x)), rtol=0, atol=0)
    F = nn.Linear(3, 3)
    torch.testing.assert_close(ResidualBlock(F)(x), F(x) + x, rtol=0, atol=0)


def blocks_with_identity():
    torch.manual_seed(0)
    parts = Parts(scratch_layers, "ReLU", False)
    body = preresnet.basic(parts, 4, 4, 1, 0.0)
    linear = nn.Conv2d(4, 4, 3, padding=1)
    return {"preactivation": PreactBlock(parts, 4, body), "plain": ResidualBlock(linear)}


@pytest.mark.parametrize("kind", blocks_with_identity())
def test_the_gradient_passes_a_block_unchanged_beside_that_of_its_branch(kind):
    block = blocks_with_identity()[kind].double()
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    d_y = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    y = block(x)
    (d_x,) = torch.autograd.grad(y, x, d_y)
    # F alone: the same block less its input, whose gradient is -d_y
    (of_branch,) = torch.autograd.grad(block(x) - x.detach(), x, d_y)
    torch.testing.assert_close(d_x, of_branch)
    (of_F,) = torch.autograd.grad(branch(block, x), x, d_y)
    # one sum of two terms, in either order
    torch.testing.assert_close(d_x, d_y + of_F, rtol=1e-14, atol=1e-14)
    assert of_F.abs().max() > 1e-3


def branch(block, x):
    h = block.relu(block.bn(x)) if isinstance(block, PreactBlock) else x
    return block.body(h)


def test_without_their_branches_the_blocks_of_a_preactivation_stage_are_the_identity():
    model = PreactResNet(scratch_layers, (3, 2), (4, 8))
    for name, weight in model.named_parameters():
        if name.endswith("body.conv2.weight"):
            nn.init.zeros_(weight)
    x = torch.randn(2, 4, 8, 8)
    first, *others = model.layer1
    # the first block shares its activation; nothing stands in the way of the others
    assert torch.equal(first(x), torch.relu(first.bn(x)))
    for block in others:
        assert torch.equal(block(x), x)
    h = torch.relu(model.layer2[0].bn(x))
    assert torch.equal(model.layer2[0](x), model.layer2[0].shortcut(h))
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(model.layer2[1](x), x)


def test_the_last_normalization_and_relu_of_a_preactivation_network_come_before_the_mean():
    model = PreactResNet(nn, (1, 1), (4, 8)).eval()
    seen = []
    model.fc.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.randn(2, 3, 8, 8)
    model(x)
    z = model.layer2(model.layer1(model.conv1(x)))
    nn.init.constant_(model.bn.bias, -0.5)
    model(x)
    assert not torch.equal(seen[0], seen[1])
    torch.testing.assert_close(seen[1], torch.relu(model.bn(z)).mean((2, 3)))


# --- stochastic depth


@pytest.mark.parametrize("name", ["resnet20", "preact_resnet20", "wrn16_4"])
def test_stochastic_depth_drops_the_branch_alone_and_more_often_the_later_the_block(name):
    model = MODELS[name](OWN, drop_path=0.3)
    drops = [m.p for m in model.modules() if isinstance(m, DropAll)]
    L = 6 if name == "wrn16_4" else 9
    assert drops == pytest.approx([0.3 * block / L for block in range(1, L + 1)])
    x = torch.randn(2, 16, 8, 8)
    block = model.layer1[0]
    h = torch.relu(block.bn(x)) if isinstance(block, PreactBlock) else x
    expected = block.shortcut(h)
    assert torch.equal(block(x), expected.relu() if isinstance(block, BasicBlock) else expected)


# --- fused normalization, addition and ReLU


@pytest.mark.parametrize(
    ("name", "layers"),
    [*((name, OWN) for name in KINDS), ("resnet20", scratch_layers), ("wrn16_4", scratch_layers)],
    ids=[*KINDS, "resnet20-scratch_layers", "wrn16_4-scratch_layers"],
)
def test_fused_equals_unfused(name, layers):
    torch.manual_seed(0)
    plain, fused = (MODELS[name](layers, dropout=0.3, fused=f).double() for f in (False, True))
    assert list(plain.state_dict()) == list(fused.state_dict())
    # β and γ off their start, so that none may be forgotten
    for p in plain.parameters():
        p.data += 0.1 * torch.randn_like(p)
    fused.load_state_dict(plain.state_dict())
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    # the same operations in the same order
    torch.testing.assert_close(run(fused, x), run(plain, x), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(fused.state_dict(), plain.state_dict(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(fused.eval()(x), plain.eval()(x), rtol=1e-12, atol=1e-12)


def test_in_a_fused_basic_block_the_second_normalization_takes_the_shortcut():
    calls = []

    class Spy(BatchNormReLU2d):
        def forward(self, x, z=None):
            calls.append(z is not None)
            return super().forward(x, z)

    model = MODELS["resnet18"](SimpleNamespace(**vars(OWN) | {"BatchNormReLU2d": Spy}), fused=True)
    model(torch.randn(2, 3, 8, 8))
    assert calls == [False, *[False, True] * 8]
    assert type(model.get_submodule("layer2.0.downsample.1")) is OwnBatchNorm2d


# --- choices


def test_the_activation_is_what_the_caller_chooses():
    x = torch.randn(2, 3, 8, 8)
    for choice, cls in (("SiLU", nn.SiLU), (lambda: nn.LeakyReLU(0.2), nn.LeakyReLU)):
        for name in ("resnet20", "resnet9", "preact_resnet20"):
            model = MODELS[name](nn, activation=choice)
            kinds = {type(m) for m in model.modules()}
            assert cls in kinds
            assert nn.ReLU not in kinds
        assert torch.isfinite(model(x)).all()


@pytest.mark.parametrize("name", ["resnet20", "resnet9", "preact_resnet20", "wrn16_4"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fused": True}, ("fused=True", "BatchNormReLU2d", "torch.nn", "scratch_layers")),
        ({"activation": "Relu"}, ("activation='Relu'", "torch.nn")),
        ({"activation": "SiLU", "fused": True}, ("SiLU", "fused")),
        ({"drop_path": 0.2}, ("drop_path=0.2", "DropPath", "torch.nn")),
        ({"drop_path": 1.0}, ("drop_path=1.0", "[0, 1)")),
        ({"drop_path": -0.1}, ("drop_path=-0.1", "[0, 1)")),
    ],
    ids=[
        "fused",
        "activation",
        "activation-fused",
        "drop_path",
        "drop_path-1",
        "drop_path-negative",
    ],
)
def test_what_the_namespace_cannot_give_is_refused_by_name(name, options, words):
    error = TypeError if name == "resnet9" and "drop_path" in options else ValueError
    with pytest.raises(error) as caught:
        MODELS[name](nn, **options)
    if error is ValueError:
        assert all(word in str(caught.value) for word in words)


def test_stochastic_depth_and_fused_blocks_exclude_each_other_where_the_sum_is_in_the_norm():
    with pytest.raises(ValueError, match=r"drop_path=0\.2.*fused=True"):
        MODELS["resnet20"](OWN, fused=True, drop_path=0.2)
    assert MODELS["preact_resnet20"](OWN, fused=True, drop_path=0.2) is not None


def test_dropout_of_a_wide_network_is_between_the_convolutions():
    model = MODELS["wrn16_4"](dropout=0.3)
    assert model.dropout.p == 0
    for block in (m for m in model.modules() if isinstance(m, PreactBlock)):
        assert list(block.body._modules) == ["conv1", "bn", "relu", "dropout", "conv2"]
        assert block.body.dropout.p == 0.3
    assert MODELS["preact_resnet20"](dropout=0.3).dropout.p == 0.3


@pytest.mark.parametrize(
    ("depth", "k", "word"), [(17, 4, "depth=17"), (4, 4, "6n"), (16, 0, "k=0")]
)
def test_a_wide_network_of_impossible_size_is_refused(depth, k, word):
    with pytest.raises(ValueError, match=word):
        wide_resnet(depth, k)


SMALL = {
    "basic": lambda **o: ResNet(scratch_layers, (1, 1), (4, 8), "B", dropout=0.1, **o),
    "fused": lambda **o: ResNet(OWN, (1, 1), (4, 8), "A", fused=True, **o),
    "preactivation": lambda **o: PreactResNet(scratch_layers, (2, 1), (4, 8), **o),
    "bottleneck": lambda **o: PreactResNet(OWN, (1, 1), (8, 16), 4, preresnet.bottleneck, **o),
}


@pytest.mark.parametrize("kind", SMALL)
def test_a_model_is_traced_as_one_graph(kind):
    torch.manual_seed(0)
    model = SMALL[kind]().double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    expected = run(model, x)
    model.zero_grad()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    # the same operations, in the same order
    torch.testing.assert_close(run(compiled, x), expected, rtol=1e-12, atol=1e-12)
