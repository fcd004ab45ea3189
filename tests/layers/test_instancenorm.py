"""InstanceNorm1d/2d/3d and their lazy forms: running statistics, refusals, materialization."""

import copy
import inspect
import pickle

import pytest
import torch
from layer_case import caught, pair
from torch import nn

from scratch_layers import instancenorm

F = nn.functional
EPS = torch.finfo(torch.float32).eps
SHAPES = {
    "InstanceNorm1d": (3, 4, 6),
    "InstanceNorm2d": (3, 4, 2, 3),
    "InstanceNorm3d": (3, 4, 2, 2, 2),
}
every_layer = pytest.mark.parametrize(("name", "shape"), SHAPES.items(), ids=SHAPES)


@every_layer
def test_is_the_equation_of_the_paper_batched_or_not(name, shape):
    torch.manual_seed(0)
    layer = pair(name, 4, affine=True)[1]
    x = torch.randn(shape) * 3 + 100
    rows = x.double().flatten(2)
    x_hat = (rows - rows.mean(2, keepdim=True)) / (
        rows.var(2, correction=0, keepdim=True) + 1e-5
    ).sqrt()
    expected = (x_hat * layer.weight.double()[:, None] + layer.bias.double()[:, None]).reshape(
        shape
    )
    # x̂ is below sqrt(8), γ and β below 1.5; mean, difference, scale and affine round once each
    torch.testing.assert_close(layer(x).double(), expected, rtol=0, atol=8 * EPS * 3)
    torch.testing.assert_close(layer(x[1]), layer(x)[1], rtol=0, atol=8 * EPS)
    assert layer(x[1]).shape == shape[1:]


@every_layer
@pytest.mark.parametrize("momentum", [0.1, 0.7, None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_running_statistics_are_means_over_the_batch(name, shape, momentum, dtype):
    torch.manual_seed(0)
    native, ours = pair(name, 4, momentum=momentum, track_running_stats=True, dtype=dtype)
    for scale in (1.0, 10.0):
        x = (torch.randn(shape) * scale + 3).to(dtype)
        before = copy.deepcopy(ours.state_dict())
        native(x), ours(x)
        rows = x.double().flatten(2)
        new = {"running_mean": rows.mean(2).mean(0), "running_var": rows.var(2).mean(0)}
        for key, value in new.items():
            expected = before[key].double().lerp(value, momentum or 0.0)
            # rounded once to the dtype of the buffer, from float32 at least
            close = {
                "rtol": torch.finfo(dtype).eps + 8 * EPS * (dtype != torch.float64),
                "atol": 1e-13,
            }
            close["atol"] = 1e-13 if dtype == torch.float64 else 4 * EPS
            torch.testing.assert_close(ours.state_dict()[key].double(), expected, **close)
        assert ours.num_batches_tracked == native.num_batches_tracked == 0
    # native rounds each sample's statistics to the dtype before it takes the mean of them
    close = {"rtol": 4 * torch.finfo(dtype).eps, "atol": 4 * torch.finfo(dtype).eps}
    torch.testing.assert_close(ours.state_dict(), native.state_dict(), **close)
    ours.load_state_dict(native.state_dict())
    ours.eval(), native.eval()
    before = copy.deepcopy(ours.state_dict())
    torch.testing.assert_close(ours(x), native(x), **{k: 8 * v for k, v in close.items()})
    torch.testing.assert_close(ours.state_dict(), before, rtol=0, atol=0)


def test_variance_far_below_eps_is_tracked_to_a_rounding_of_eps():
    layer = instancenorm.InstanceNorm1d(1, eps=1e-3, momentum=1.0, track_running_stats=True)
    x = torch.randn(2, 1, 50, dtype=torch.float64).mul(1e-5).float()
    layer(x)
    expected = x.double().var(2).mean(0)
    # σ² = s^(-2) - ε: two roundings of ε
    torch.testing.assert_close(layer.running_var.double(), expected, rtol=0, atol=4 * EPS * 1e-3)
    for eps in (1e-1, 3e-3, 7e-4, 1e-5):
        layer.eps = eps
        layer(torch.zeros(2, 1, 50))
        assert 0 <= layer.running_var <= 4 * EPS * eps


def test_empty_batch_leaves_the_running_statistics():
    layer = instancenorm.InstanceNorm2d(3, affine=True, track_running_stats=True)
    x = torch.randn(0, 3, 2, 2, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.shape == x.shape
    assert layer.weight.grad.tolist() == [0.0] * 3
    assert layer.running_mean.tolist() == [0.0] * 3
    assert layer.running_var.tolist() == [1.0] * 3


def test_gradients_do_not_reach_through_the_running_statistics():
    layer = instancenorm.InstanceNorm1d(2, track_running_stats=True)
    x = torch.randn(2, 2, 5, requires_grad=True)
    layer(x).sum().backward()
    assert not layer.running_mean.requires_grad
    assert not layer.running_var.requires_grad


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_tracks_nothing_and_reads_what_there_is(training):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4)
    native, ours = pair("InstanceNorm1d", 3)  # no statistics: those of the input, always
    torch.testing.assert_close(ours.train(training)(x), native.train(training)(x))
    mean, var = torch.randn(3), torch.rand(3)
    args = (mean, var, torch.rand(3), torch.rand(3), False, 0.1, 1e-3)
    mine = instancenorm.instance_norm(x, *args)
    torch.testing.assert_close(mine, F.instance_norm(x, *args))
    mine = instancenorm.instance_norm(torch.ones(2, 3, 1), *args)  # a single value will do
    torch.testing.assert_close(mine, F.instance_norm(torch.ones(2, 3, 1), *args))


def test_wrong_number_of_channels_is_a_warning_without_and_an_error_with_parameters():
    for affine in (False, True):
        for shape, dim in (((2, 3, 5), 1), ((3, 5), 0)):
            for library in (nn, instancenorm):
                layer = library.InstanceNorm1d(4, affine=affine)
                if affine:
                    text = rf"size at dim={dim} to match num_features \(4\), but got: 3\."
                    with pytest.raises(ValueError, match=text):
                        layer(torch.randn(shape))
                else:
                    with pytest.warns(UserWarning, match=f"size at dim={dim} does not match"):
                        assert layer(torch.randn(shape)).shape == shape


ones = torch.ones
REFUSED = {
    "one_value": lambda F, nn: F.instance_norm(ones(2, 3, 1)),
    "one_value_2d": lambda F, nn: F.instance_norm(ones(2, 3)),
    "one_value_module": lambda F, nn: nn.InstanceNorm2d(3)(ones(2, 3, 1, 1)),
    "1d": lambda F, nn: nn.InstanceNorm1d(3)(ones(3)),
    "2d": lambda F, nn: nn.InstanceNorm2d(3)(ones(3, 2)),
    "3d": lambda F, nn: nn.InstanceNorm3d(3)(ones(3, 2, 2)),
    "only_a_mean": lambda F, nn: F.instance_norm(ones(2, 3, 4), ones(3)),
    "evaluation_without_mean": lambda F, nn: F.instance_norm(ones(2, 3, 4), use_input_stats=False),
    "evaluation_without_var": lambda F, nn: F.instance_norm(
        ones(2, 3, 4), ones(3), use_input_stats=False
    ),
    "int64": lambda F, nn: F.instance_norm(ones(2, 3, 4).long()),
    "bool": lambda F, nn: F.instance_norm(ones(2, 3, 4).bool()),
    "complex": lambda F, nn: F.instance_norm(ones(2, 3, 4).cfloat()),
    "float64_in_float32": lambda F, nn: nn.InstanceNorm1d(3, affine=True)(ones(2, 3, 4).double()),
    "float32_in_bfloat16": lambda F, nn: nn.InstanceNorm1d(
        3, affine=True, track_running_stats=True, dtype=torch.bfloat16
    )(ones(2, 3, 4)),
    "half_in_bfloat16": lambda F, nn: nn.InstanceNorm1d(3, affine=True, dtype=torch.bfloat16)(
        ones(2, 3, 4).half()
    ),
}


@pytest.mark.parametrize("failing", REFUSED.values(), ids=REFUSED)
def test_refuses_in_the_words_of_native(failing):
    native = caught(lambda: failing(F, nn))
    assert native is not None
    assert caught(lambda: failing(instancenorm, instancenorm)) == native


def test_vectors_of_another_length_are_refused_before_anything_changes():
    mean, var = torch.zeros(3), torch.ones(3)
    with pytest.raises(RuntimeError, match="weight should contain 3 elements not 4"):
        instancenorm.instance_norm(ones(2, 3, 4), mean, var, weight=ones(4))
    assert (mean.tolist(), var.tolist()) == ([0.0] * 3, [1.0] * 3)


def test_states_of_old_versions_load_as_natively():
    texts = []
    for layer in pair("InstanceNorm1d", 3):
        tracking = type(layer)(3, track_running_stats=True)
        state = tracking.state_dict()
        state._metadata[""]["version"] = None
        with pytest.raises(RuntimeError, match="Unexpected running stats") as error:
            layer.load_state_dict(state)
        texts.append(str(error.value))
        state = tracking.state_dict()
        del state["num_batches_tracked"]
        with pytest.raises(RuntimeError, match=r'Missing key.*"num_batches_tracked"'):
            tracking.load_state_dict(state)
        state._metadata[""]["version"] = 1
        tracking.load_state_dict(state)
    assert texts[0] == texts[1]


def test_is_no_batch_norm_for_those_who_ask():
    layer = instancenorm.InstanceNorm2d(3)
    assert isinstance(layer, nn.InstanceNorm2d)
    assert not isinstance(layer, nn.modules.batchnorm._BatchNorm)


def test_signatures_are_torchs():
    for name in instancenorm.__all__:
        theirs = getattr(F, name, None) or getattr(nn, name)
        mine, native = (
            inspect.signature(f).parameters.values() for f in (getattr(instancenorm, name), theirs)
        )
        assert [(p.name, p.kind, p.default) for p in mine] == [
            (p.name, p.kind, p.default) for p in native
        ]


# --- lazy -----------------------------------------------------------------------------------------


@every_layer
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"bias": False}], ids=str)
def test_lazy_layer_becomes_ours_with_the_first_input(name, shape, options):
    torch.manual_seed(0)
    x = torch.randn(shape)
    layers = [getattr(library, "Lazy" + name)(**options) for library in (nn, instancenorm)]
    native, ours = layers
    assert isinstance(ours, type(native))
    assert ours.cls_to_become is getattr(instancenorm, name)
    assert repr(ours) == repr(native)
    assert list(vars(ours)) == list(vars(native))
    assert list(ours.state_dict()) == list(native.state_dict())
    assert ours.has_uninitialized_params()
    for _ in range(2):
        torch.testing.assert_close(ours(x), native(x))
    assert type(ours) is getattr(instancenorm, name)
    assert list(vars(ours)) == list(vars(native))
    assert repr(ours) == repr(native)
    torch.testing.assert_close(ours.state_dict(), native.state_dict())


def test_lazy_layer_takes_its_size_from_a_state():
    full = instancenorm.InstanceNorm1d(5, affine=True, track_running_stats=True)
    x = torch.randn(2, 5, 4)
    full(x)
    outcomes = []
    for library in (nn, instancenorm):
        lazy = library.LazyInstanceNorm1d()
        lazy.load_state_dict(full.state_dict())
        assert not lazy.has_uninitialized_params()
        torch.testing.assert_close(lazy.state_dict(), full.state_dict())
        # num_features stays 0, natively too, of which the layer complains
        outcomes.append(caught(lambda lazy=lazy: lazy(x)))
    assert outcomes[0] == outcomes[1]
    copied = pickle.loads(pickle.dumps(instancenorm.LazyInstanceNorm1d()))
    assert copied(x).shape == x.shape


def test_lazy_layer_refuses_a_wrong_input_and_stays_lazy_in_dtype():
    for library in (nn, instancenorm):
        layer = library.LazyInstanceNorm2d(dtype=torch.float64)
        layer(torch.randn(2, 3, 2, 2, dtype=torch.float64))
        assert {t.dtype for t in (layer.weight, layer.running_var)} == {torch.float64}
        assert caught(lambda library=library: library.LazyInstanceNorm2d()(torch.randn(3, 2)))[
            0
        ] is (ValueError)
