"""The multilayer perceptron: signal kept through depth, options, errors, either namespace."""

import math
from collections import OrderedDict
from itertools import pairwise

import pytest
import torch
from torch import nn

import scratch_layers
from scratch_layers.mlp import MLP, gain, mlp

SIZES = (12, 16, 8, 5)


@pytest.mark.parametrize("norm_last", [False, True])
@pytest.mark.parametrize("norm", ["BatchNorm1d", None])
def test_it_is_linear_norm_activation_dropout_over_and_over_and_a_linear_layer(norm, norm_last):
    torch.manual_seed(0)
    model = MLP(nn, SIZES, activation="Tanh", norm=norm, norm_last=norm_last, dropout=0.5)
    # γ and β off their start
    for p in model.parameters():
        p.data += 0.1 * torch.randn_like(p)
    order = ["norm"] if norm else []
    order = ["linear", "activation", *order] if norm_last else ["linear", *order, "activation"]
    x = torch.randn(6, 3, 2, 2)
    h = x.reshape(6, 12)
    torch.manual_seed(1)
    y = model(x)
    torch.manual_seed(1)
    for unit in model.hidden:
        assert list(unit._modules) == [*order, "dropout"]
        for name in order:
            h = torch.tanh(h) if name == "activation" else unit.get_submodule(name)(h)
        h = nn.functional.dropout(h, 0.5)
    assert y.shape == (6, 5)
    torch.testing.assert_close(y, model.output(h))
    assert [(m.in_features, m.out_features) for m in linear_layers(model)] == [*pairwise(SIZES)]


def linear_layers(model):
    return [m for m in model.modules() if isinstance(m, nn.Linear)]


def test_without_hidden_layers_it_is_linear():
    model = MLP(nn, (4, 3))
    assert list(model.state_dict()) == ["output.weight", "output.bias"]
    x = torch.randn(2, 4)
    assert torch.equal(model(x), nn.functional.linear(x, model.output.weight))


def test_options_are_names_in_the_namespace_or_callables():
    model = MLP(nn, SIZES, activation=lambda: nn.LeakyReLU(0.3), norm=nn.LayerNorm, bias=False)
    unit = model.hidden[0]
    assert type(unit.norm) is nn.LayerNorm
    assert unit.activation.negative_slope == 0.3
    assert unit.linear.bias is None
    assert model.output.bias is not None
    # a module of its own for every layer: one may have parameters
    assert model.hidden[0].activation is not model.hidden[1].activation
    assert type(MLP(nn, SIZES, norm="LayerNorm", activation="GELU").hidden[1].norm) is nn.LayerNorm
    ours = MLP(scratch_layers, SIZES).hidden[0]
    assert type(ours.norm) is scratch_layers.BatchNorm1d
    assert type(ours.dropout) is scratch_layers.Dropout
    assert type(ours.activation) is scratch_layers.ReLU


def test_the_builder_flattens_images_into_128_64_32():
    model = mlp(in_features=48, num_classes=7, dropout=0.2, activation="GELU")
    assert [m.out_features for m in linear_layers(model)] == [128, 64, 32, 7]
    assert [m.p for m in model.modules() if isinstance(m, nn.Dropout)] == [0.2] * 3
    assert sum(isinstance(m, nn.BatchNorm1d) for m in model.modules()) == 3
    assert model(torch.randn(2, 3, 4, 4)).shape == (2, 7)
    assert mlp()(torch.randn(2, 3, 32, 32)).shape == (2, 10)


# --- initialization

# E φ(z)² in closed form over z ~ N(0, 1); SELU is made for 1
GAINS = {
    "ReLU": math.sqrt(2),
    "LeakyReLU": math.sqrt(2 / (1 + 0.01**2)),
    "PReLU": math.sqrt(2 / (1 + 0.25**2)),
    "Identity": 1.0,
    "SELU": 1.0,
}


@pytest.mark.parametrize(("name", "expected"), GAINS.items())
def test_the_gain_is_that_of_the_closed_form(name, expected):
    # the sum's error is below 1e-12; the constants of SELU are given to 16 digits
    assert gain(nn, name) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["Tanh", "GELU", "SiLU", "Sigmoid", "ELU"])
def test_the_gain_is_that_of_a_sample(name):
    z = torch.randn(10**6, generator=torch.Generator().manual_seed(0))
    second = getattr(nn, name)()(z).double().square()
    # g = (E h²)^(-1/2), so its relative standard error is half of that of the mean
    error = 0.5 * second.std() / second.mean() / 1e3
    assert abs(gain(nn, name) * second.mean().sqrt() - 1) < 4 * error


@pytest.mark.parametrize("init", ["he", "glorot", nn.init.orthogonal_], ids=["he", "glorot", "own"])
@pytest.mark.parametrize("activation", ["ReLU", "Tanh", "GELU", "LeakyReLU", "Sigmoid"])
def test_variance_is_kept_through_depth_at_initialization(activation, init):
    # Over the weights, the log of the mean square is a random walk. For ReLU its step has variance
    # (E (2 relu(z)²)² - 1) / width = 5 / width: 0.07 a layer, 0.2 after 8.
    torch.manual_seed(0)
    width, depth = 1024, 8
    model = MLP(nn, [width] * (depth + 1), activation=activation, norm=None, init=init)
    x = torch.randn(64, width)
    z = []
    for layer in linear_layers(model):
        layer.register_forward_hook(lambda _, args, y: z.append(y.square().mean()))
    with torch.no_grad():
        model(x)
    assert len(z) == depth
    assert 0.6 < z[-1] < 1.6
    assert z[0] == pytest.approx(1, abs=0.05)  # no activation before it: gain 1


@pytest.mark.parametrize("init", ["he", "glorot"])
@pytest.mark.parametrize("norm_last", [False, True])
def test_weights_have_the_variance_of_he_or_of_glorot(init, norm_last):
    torch.manual_seed(0)
    sizes = (400, 300, 600, 200)
    model = MLP(nn, sizes, init=init, norm_last=norm_last)
    for i, layer in enumerate(linear_layers(model)):
        fan_in, fan_out = sizes[i : i + 2]
        v = 1 / fan_in if init == "he" else 2 / (fan_in + fan_out)
        v *= 1 if norm_last or i == 0 else 2
        # standard error of a variance over n values: sqrt(2 / n), n >= 120,000
        assert abs(layer.weight.var() / v - 1) < 4 * math.sqrt(2 / layer.weight.numel())
        assert not layer.bias.any()


# --- either namespace


@pytest.mark.parametrize("norm_last", [False, True])
def test_both_namespaces_have_the_same_weights_loss_and_gradients(norm_last):
    x = torch.randn(8, 3, 4, 4, dtype=torch.float64)
    results, states = [], []
    for layers in (nn, scratch_layers):
        torch.manual_seed(1)
        model = mlp(layers, in_features=48, dropout=0.3, norm_last=norm_last)
        states.append(OrderedDict((k, v.clone()) for k, v in model.state_dict().items()))
        y = model.double()(x)
        y.logsumexp(1).sum().backward()
        results.append((y, [p.grad for p in model.parameters()]))
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    # four layers of sums of at most 128 terms, each good to 1e-16
    torch.testing.assert_close(results[1], results[0], rtol=1e-11, atol=1e-12)


def test_keys_of_checkpoints_stay_what_they_are():
    kept = ["weight", "bias"]
    bn = [*kept, "running_mean", "running_var", "num_batches_tracked"]
    keys = [
        f"hidden.{i}.{name}.{key}"
        for i in range(3)
        for name, keys in (("linear", kept), ("norm", bn))
        for key in keys
    ]
    assert list(mlp().state_dict()) == [*keys, "output.weight", "output.bias"]


def test_the_model_is_traced_as_one_graph():
    model = mlp(scratch_layers, in_features=12).double()
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    # the same operations, in the same order
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-12, atol=1e-12)


# --- errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"sizes": (4,)}, ("sizes=(4,)", "1 or more")),
        ({"sizes": ()}, ("sizes=()",)),
        ({"sizes": (4, 0, 2)}, ("sizes=(4, 0, 2)",)),
        ({"activation": "relu"}, ("activation='relu'", "torch.nn")),
        ({"norm": "BatchNorm"}, ("norm='BatchNorm'", "torch.nn")),
        ({"init": "xavier"}, ("init='xavier'", "he, glorot")),
    ],
    ids=["one-size", "no-size", "size-0", "activation", "norm", "init"],
)
def test_what_cannot_be_is_refused_with_the_value_and_the_remedy(arguments, words):
    with pytest.raises(ValueError, match="=") as caught:
        MLP(nn, **{"sizes": SIZES} | arguments)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("shape", [(2, 11), (12,), (2, 3, 5), (2, 12, 2)], ids=str)
def test_input_of_another_size_is_refused_with_both_sizes(shape):
    with pytest.raises(RuntimeError, match="12 values a sample") as caught:
        MLP(nn, SIZES)(torch.randn(shape))
    assert str(shape) in str(caught.value)


def test_an_empty_batch_gives_an_empty_batch_of_logits():
    assert MLP(nn, SIZES).eval()(torch.randn(0, 12)).shape == (0, 5)
