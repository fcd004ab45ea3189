"""The layers are torch's by identity and our own by computation."""

import inspect

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import scratch_layers

LAYERS = {
    "BatchNorm1d": ((4, 3), (4, 3, 5)),
    "BatchNorm2d": ((4, 3, 5, 5),),
    "BatchNorm3d": ((4, 3, 2, 5, 5),),
    "Dropout": ((4, 3),),
    "Dropout1d": ((4, 3, 5),),
    "Dropout2d": ((4, 3, 5, 5),),
    "Dropout3d": ((4, 3, 2, 5, 5),),
    "AlphaDropout": ((4, 3),),
    "FeatureAlphaDropout": ((4, 3, 5),),
}
FORBIDDEN = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "dropout")


def make(name, layers=scratch_layers):
    return getattr(layers, name)(*([3] if "Norm" in name else []))


class NoNativeKernel(TorchDispatchMode):
    """Fails on every operator of normalization or dropout that torch brings, backward included."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen += 1
        for word in FORBIDDEN:
            assert word not in func.__name__, f"native kernel {func}"
        return func(*args, **(kwargs or {}))


def passes(name, layers=scratch_layers):
    layer = make(name, layers)
    for shape in LAYERS[name]:
        for training in (True, False):
            x = torch.randn(shape, requires_grad=True)
            layer.train(training)(x).sum().backward()


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", LAYERS)
def test_no_native_kernel_is_reached_forward_or_backward(name, compiled):
    with scratch_layers.compile_kernels(compiled), NoNativeKernel() as mode:
        passes(name)
    assert mode.seen > 0


@pytest.mark.parametrize("name", ["BatchNorm2d", "BatchNorm3d"])
def test_the_mode_does_catch_a_native_kernel(name):
    with pytest.raises(AssertionError, match="native kernel"), NoNativeKernel():
        passes(name, nn)


@pytest.mark.parametrize("name", LAYERS)
def test_no_inherited_method_of_torch_computes_or_keeps_state(name, monkeypatch):
    """Every function that the torch classes between ours and nn.Module define is replaced."""

    def reached(*args, **kwargs):
        raise AssertionError("an inherited method was reached")

    bases = [
        cls
        for cls in getattr(scratch_layers, name).__mro__
        if cls.__module__.startswith("torch.nn.modules.") and cls is not nn.Module
    ]
    bases = bases[: bases.index(nn.Module)] if nn.Module in bases else bases
    assert getattr(nn, name) in bases
    replaced = 0
    for cls in bases:
        for attribute, value in list(vars(cls).items()):
            if inspect.isfunction(value):
                monkeypatch.setattr(cls, attribute, reached)
                replaced += 1
    assert replaced >= 3
    passes(name)
    layer = make(name)
    layer.load_state_dict(layer.state_dict())
    assert repr(layer)
    if "Norm" in name:
        layer.reset_parameters()
        layer.reset_running_stats()
    monkeypatch.undo()
    functional = [f for f in vars(nn.functional) if any(word in f for word in FORBIDDEN)]
    assert len(functional) >= 10
    for attribute in functional:
        monkeypatch.setattr(nn.functional, attribute, reached)
    passes(name)


@pytest.mark.parametrize("name", LAYERS)
def test_is_an_instance_of_the_torch_class_with_its_signature_and_repr(name):
    ours, theirs = getattr(scratch_layers, name), getattr(nn, name)
    assert issubclass(ours, theirs)
    assert ours.__name__ == theirs.__name__
    mine, native = (inspect.signature(c).parameters.values() for c in (ours, theirs))
    assert [(p.name, p.kind, p.default) for p in mine] == [
        (p.name, p.kind, p.default) for p in native
    ]
    assert repr(make(name)) == repr(make(name, nn))


def test_tools_that_ask_for_the_class_find_the_layer():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), scratch_layers.BatchNorm2d(4))
    averaged = torch.optim.swa_utils.AveragedModel(model)
    torch.optim.swa_utils.update_bn([torch.randn(8, 3, 5, 5) + 3], averaged)
    bn = averaged.module[1]
    assert bn.num_batches_tracked == 1
    assert (bn.running_mean != 0).all()
    assert isinstance(nn.SyncBatchNorm.convert_sync_batchnorm(model)[1], nn.SyncBatchNorm)
    functional = torch.func.replace_all_batch_norm_modules_(model)
    assert functional[1].running_mean is None
    assert torch.vmap(functional)(torch.randn(2, 8, 3, 5, 5)).shape == (2, 8, 4, 3, 3)


def test_the_face_names_everything_it_hands_on():
    for name in scratch_layers.__all__:
        assert getattr(scratch_layers, name) is not None
    assert set(LAYERS) <= set(scratch_layers.__all__)
