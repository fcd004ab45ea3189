"""Our layers compute by our own equations: no native kernel and no inherited method is reached.

What every layer must be besides, whoever wrote it, is asked by ``test_conformance.py``.
"""

import copy
import inspect

import pytest
import torch
from native_kernels import NoNativeKernel
from torch import nn

import scratch_layers
from scratch_layers.testing import Subject
from scratch_layers.testing.cases import FAMILIES
from scratch_layers.testing.subject import leaves, near, seeded, step

LAYERS = [
    Subject(getattr(scratch_layers, layer), getattr(nn, layer))
    for cases in FAMILIES.values()
    for layer in cases
]
every_case = pytest.mark.parametrize(
    ("subject", "case"),
    [(subject, case) for subject in LAYERS for case in subject.cases],
    ids=lambda x: x.name if isinstance(x, Subject) else x.label or "-",
)
every_layer = pytest.mark.parametrize("subject", LAYERS, ids=lambda subject: subject.name)


@every_case
def test_no_native_kernel_is_reached_forward_backward_or_twice(subject, case):
    layer = subject.make(case)
    for training in (True, False):
        inputs = leaves(case, subject.draw(case))
        with NoNativeKernel() as mode:
            y = seeded(layer.train(training), *inputs)
            by = [inputs[i] for i in case.wrt] + list(layer.parameters())
            first = torch.autograd.grad(y.sum(), by, create_graph=True)
            again = [g for g in first if g.requires_grad]
            if again:
                torch.autograd.grad(sum(g.sum() for g in again), by, allow_unused=True)
        assert mode.seen > 0 or not training or y is inputs[0]


def test_the_mode_does_catch_native_kernels():
    caught = 0
    for subject in LAYERS:
        case = subject.cases[0]
        theirs, _ = subject.pair(case)
        inputs = leaves(case, subject.draw(case))
        try:
            with NoNativeKernel():
                seeded(theirs, *inputs).sum().backward()
        except AssertionError as error:
            caught += "native kernel" in str(error)
    assert caught > len(LAYERS) / 3, "not all: Softsign, say, is made of divisions natively too"


def replaced_methods(layer, monkeypatch):
    """Replace every function of the torch classes between ours and nn.Module by one that fails."""

    def reached(*args, **kwargs):
        raise AssertionError("an inherited method was reached")

    count = 0
    for cls in type(layer).__mro__:
        if not cls.__module__.startswith("torch.nn.modules.") or cls is nn.Module:
            continue
        if issubclass(cls, nn.modules.lazy.LazyModuleMixin):
            continue
        for attribute, value in list(vars(cls).items()):
            if inspect.isfunction(value):
                monkeypatch.setattr(cls, attribute, reached)
                count += 1
    return count


@every_layer
def test_no_inherited_method_of_torch_computes_or_keeps_state(subject, monkeypatch):
    case = subject.cases[0]
    inputs = subject.draw(case)
    assert replaced_methods(subject.make(case), monkeypatch) > 0
    for name in vars(nn.functional).copy():
        if name in vars(scratch_layers.functional):
            monkeypatch.setattr(nn.functional, name, None)
    layer = subject.make(case)
    step(case, layer, inputs)
    step(case, layer.eval(), inputs)
    layer.load_state_dict(layer.state_dict())
    assert repr(layer)
    if hasattr(layer, "reset_parameters"):
        layer.reset_parameters()


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


@pytest.mark.slow
@every_case
def test_compiled_kernels_equal_eager(subject, case):
    if case.random:
        pytest.skip("draws its numbers natively; its own tests compare the bits")
    layer = subject.make(case)
    inputs = subject.draw(case)
    twin = copy.deepcopy(layer)
    expected = step(case, layer, inputs)
    with scratch_layers.compile_kernels():
        actual = step(case, twin, inputs)
    for name, value in expected.items():
        near(actual[name], value, inputs, name)
