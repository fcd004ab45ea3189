"""What is seen in a network is what is there, in every network, and looking changes nothing."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import scratch_layers
from scratch_layers import airnet, resnet
from scratch_layers.mlp import mlp
from tests.training.conftest import TinyNet
from training import probe

MODELS = resnet.MODELS | airnet.MODELS
SMALL = ("resnet9", "resnet20", "preact_resnet20", "air_tiny")
IMAGES = torch.linspace(-1, 1, 2 * 3 * 12 * 12).view(2, 3, 12, 12)


class Operations(TorchDispatchMode):
    """Notes the names of the operations."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_distribution_is_that_of_numpy(dtype):
    x = torch.randn(7, 11, 13, generator=torch.Generator().manual_seed(0)).to(dtype)
    low, high, total, squares, *counts = probe.distribution(x).tolist()
    flat = x.double().flatten().numpy()
    assert (low, high) == (flat.min(), flat.max())
    # float32 squares, each half an eps off, added in float64
    assert total == pytest.approx(flat.sum(), rel=1e-12)
    assert squares == pytest.approx((flat**2).sum(), rel=6e-8)
    expected, _ = np.histogram(flat, probe.BINS, (low, high))
    assert sum(counts) == x.numel()
    # the part is computed in float32: a value within 64 eps of an edge may fall on either side
    assert np.abs(expected - counts).sum() <= 2


@pytest.mark.parametrize("name", SMALL)
def test_both_stacks_have_the_same_activations_and_the_same_wiring(name):
    seen = []
    for layers in (nn, scratch_layers):
        torch.manual_seed(0)
        model = MODELS[name](layers).eval()
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("error")
            found = probe.activations(model, IMAGES)
            nodes = probe.wiring(model)
        seen.append((found, [node[:3] for node in nodes]))
    (native, wired), (by_hand, wired_by_hand) = seen
    assert wired == wired_by_hand
    assert list(native) == list(by_hand)
    for tag in native:  # float32 roundings through the depth of the network
        torch.testing.assert_close(native[tag][:4], by_hand[tag][:4], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", SMALL)
def test_wiring_names_every_layer_that_is_called_and_every_operation_once(name):
    model = MODELS[name](nn).eval()
    nodes = probe.wiring(model)
    names = [node.name for node in nodes]
    assert len(set(names)) == len(names)
    called = set()
    for path, layer in model.named_modules():
        if not list(layer.children()):
            layer.register_forward_hook(lambda *_, path=path: called.add(path.replace(".", "/")))
    model(IMAGES)
    assert {"fc", "dropout"} < called <= set(names)
    for i, node in enumerate(nodes):
        assert set(node.inputs) <= set(names[:i])
    assert all(node.inputs for node in nodes[1:])


def test_a_perceptron_is_wired_without_a_look_at_its_input():
    model = mlp(in_features=48, hidden=(8, 4)).eval()
    paths = [f"hidden/{i}/{part}" for i in (0, 1) for part in model.hidden[0]._modules]
    names = [node.name for node in probe.wiring(model)]
    assert names == ["x", "flatten", *paths, "output", "output_2"]


def test_a_layer_that_is_called_again_has_an_entry_for_each_call():
    found = probe.activations(resnet.resnet20().eval(), IMAGES)
    assert {"activations/layer1.0.relu", "activations/layer1.0.relu.2"} <= set(found)
    assert len(found) == 19 + 19  # normalizations and ReLUs of 20 layers but the last


@pytest.mark.parametrize("name", SMALL)
def test_features_are_what_the_classifier_is_given(name):
    model = MODELS[name](nn).eval()
    with torch.no_grad():
        scale = {"resnet9": 1 / 8, "air_tiny": 1 / 9}.get(name, 1.0)  # of the logits
        logits = scale * model.fc(probe.features(model, IMAGES))
        # one more rounding, of float32
        torch.testing.assert_close(logits, model(IMAGES), rtol=1e-6, atol=1e-7)


def test_a_compiled_network_is_looked_into_and_not_compiled_again():
    model = TinyNet(3, 3, 0.0).eval()
    expected = probe.activations(model, IMAGES), probe.features(model, IMAGES)
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    model.compile(backend=backend)
    with torch.no_grad():
        model(IMAGES)
        before = len(compiled)
        assert list(expected[0]) == list(probe.activations(model, IMAGES)) == ["activations/bn"]
        assert torch.equal(expected[1], probe.features(model, IMAGES))
        probe.wiring(model)
        model(IMAGES)
    assert len(compiled) == before > 0


def test_looking_leaves_nothing_behind():
    model = resnet.resnet20().eval()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    with torch.no_grad():
        probe.activations(model, IMAGES)
        probe.features(model, IMAGES)
        probe.weights_and_statistics(model)
    probe.wiring(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[key], x) for key, x in model.state_dict().items())
    hooks = [(m._forward_hooks, m._forward_pre_hooks) for m in model.modules()]
    assert not any(a or b for a, b in hooks)


def test_nothing_waits_for_the_device():
    model = resnet.resnet20().eval()
    parameters = [p.detach() for p in model.parameters()]
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    with torch.no_grad(), Operations() as seen:
        probe.activations(model, IMAGES)
        probe.features(model, IMAGES)
        probe.weights_and_statistics(model)
        probe.lengths_of_layers(model, probe.lengths(parameters), parameters, parameters)
    # what needs a value, or a size that depends on values, on the host
    waiting = {"_local_scalar_dense", "nonzero", "bincount", "histc", "unique", "is_nonzero"}
    assert "scatter_add_" in seen.names
    assert not waiting & seen.names
