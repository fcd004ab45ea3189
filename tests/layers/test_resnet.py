"""The models: the same network in both namespaces, with the published sizes and names."""

import pytest
import torch
from torch import nn

import scratch_layers
from scratch_layers.resnet import MODELS

# He et al. 2015, table 6, in millions: resnet20 ... resnet110
PUBLISHED = {
    "resnet20": 0.27,
    "resnet32": 0.46,
    "resnet44": 0.66,
    "resnet56": 0.85,
    "resnet110": 1.7,
}


@pytest.mark.parametrize(("name", "millions"), PUBLISHED.items())
def test_parameter_count_is_that_of_the_paper(name, millions):
    count = sum(p.numel() for p in MODELS[name]().parameters())
    digits = 1 if name == "resnet110" else 2
    assert round(count / 1e6, digits) == millions


@pytest.mark.parametrize("name", MODELS)
def test_one_seed_gives_the_same_weights_in_both_namespaces(name):
    states, generators = [], []
    for layers in (nn, scratch_layers):
        torch.manual_seed(1)
        states.append(MODELS[name](layers, dropout=0.1).state_dict())
        generators.append(torch.get_rng_state())
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True))
    assert torch.equal(*generators)


@pytest.mark.parametrize(
    ("name", "channels", "size"),
    [("resnet20", 3, 32), ("resnet20", 1, 8), ("resnet9", 3, 16), ("resnet18", 1, 8)],
)
def test_both_namespaces_compute_the_same_loss_and_gradients(name, channels, size):
    torch.manual_seed(0)
    theirs = MODELS[name](nn, in_channels=channels, num_classes=7, dropout=0.5).double()
    ours = MODELS[name](scratch_layers, in_channels=channels, num_classes=7, dropout=0.5).double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(4, channels, size, size, dtype=torch.float64)
    gradients = []
    for model in (theirs, ours):
        torch.manual_seed(2)  # of the dropout
        y = model(x)
        assert y.shape == (4, 7)
        y.logsumexp(1).sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-9)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(theirs.eval()(x), ours.eval()(x))


def test_resnet18_has_the_keys_of_torchvision():
    torchvision = pytest.importorskip("torchvision")
    published = torchvision.models.resnet18(num_classes=10).state_dict()
    state = MODELS["resnet18"]().state_dict()
    assert list(state) == list(published)
    different = [k for k in state if state[k].shape != published[k].shape]
    assert different == ["conv1.weight"]


def test_convolutions_are_drawn_with_the_variance_of_he():
    torch.manual_seed(0)
    weight = MODELS["resnet18"]().get_submodule("layer4.0.conv1").weight
    # 2 / fan_out; the standard error over n = 1.2e6 values is sqrt(2 / n) = 1.3e-3 of it
    assert abs(weight.var() * 512 * 9 / 2 - 1) < 5e-3
