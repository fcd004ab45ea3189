"""What every layer must be, whatever it computes: torch's by identity, our own by computation.

The layers and what they are called with are the ``CASES`` of the modules ``cases_<family>``.
"""

import copy
import gc
import importlib
import inspect
import pickle
import warnings
import weakref
from pathlib import Path

import pytest
import torch
from layer_case import Case
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.utils._python_dispatch import TorchDispatchMode

import accuracy
import scratch_layers

FAMILIES = sorted(path.stem for path in Path(__file__).parent.glob("cases_*.py"))
CASES: list[Case] = [case for family in FAMILIES for case in importlib.import_module(family).CASES]
FIRST = list({case.layer: case for case in reversed(CASES)}.values())  # one of each layer

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
every_layer = pytest.mark.parametrize("case", FIRST, ids=lambda case: case.id)

# Names of the operators (aten::...) that compute such layers natively; "_backward" follows many.
NATIVE = {
    *("native_batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "_native_batch_norm_legit"),
    *("batch_norm_stats", "batch_norm_elemt", "batch_norm_gather_stats_with_counts"),
    *("_batch_norm_with_update", "native_layer_norm", "native_group_norm", "_fused_rms_norm"),
    *("native_dropout", "avg_pool2d", "avg_pool3d", "renorm"),
    *("relu", "threshold", "hardtanh", "leaky_relu", "_prelu_kernel", "rrelu_with_noise"),
    *("rrelu_with_noise_functional", "elu", "celu", "selu", "gelu", "silu", "mish", "softplus"),
    *("sigmoid", "tanh", "hardswish", "hardsigmoid", "glu", "log_sigmoid_forward"),
    *("log_sigmoid", "softshrink", "hardshrink", "_softmax", "_log_softmax", "_safe_softmax"),
    *("nll_loss_forward", "nll_loss2d_forward", "nll_loss", "nll_loss2d", "mse_loss"),
    *("smooth_l1_loss", "huber_loss", "binary_cross_entropy", "soft_margin_loss"),
    *("binary_cross_entropy_with_logits", "multi_margin_loss", "multilabel_margin_loss_forward"),
    *("multilabel_margin_loss", "_ctc_loss", "_cdist_forward", "kl_div", "cross_entropy_loss"),
}


def native(name):
    name = name.removesuffix("_").removesuffix("_backward").removesuffix("_backward_data")
    return name in NATIVE or name.removesuffix("_double_backward") in NATIVE


class NoNativeKernel(TorchDispatchMode):
    """Fails on every operator that computes such a layer natively."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen += 1
        assert not native(func._schema.name.split("::")[1]), f"native kernel {func}"
        return func(*args, **(kwargs or {}))


def both(case, dtype=torch.float32):
    """The native layer and ours with the same parameters."""
    torch.manual_seed(0)
    theirs = case.make(nn, dtype)
    ours = case.make(scratch_layers, dtype)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def draw(case, dtype=torch.float32, seed=1):
    torch.manual_seed(seed)
    return case.inputs(dtype)


def leaves(case, inputs):
    """The inputs anew, those differentiated by as leaves of a graph."""
    fresh = [x.clone(memory_format=torch.preserve_format) for x in inputs]
    return [x.requires_grad_(i in case.wrt) for i, x in enumerate(fresh)]


def seeded(layer, *inputs):
    torch.manual_seed(2)
    return layer(*inputs)


def step(case, layer, inputs):
    """Output, gradients by inputs and parameters for a fixed direction, and buffers."""
    inputs = leaves(case, inputs)
    y = seeded(layer, *inputs)
    generator = torch.Generator().manual_seed(3)
    # the same in all dtypes, laid out as y
    d_y = torch.empty_like(y).copy_(torch.randn(y.shape, generator=generator).bfloat16())
    by = [inputs[i] for i in case.wrt] + list(layer.parameters())
    gradients = torch.autograd.grad(y, by, d_y)
    return [y.detach(), *gradients, *layer.buffers()]


def bound(dtype, tensors, expected):
    """Each value is a sum of no more products than a case has values, each rounded once or twice.

    4 ulps for what is not a sum; the eight for the roundings of two texts in different order.
    """
    size = max(float(expected.abs().nan_to_num(0, 0, 0).max()) if expected.numel() else 0.0, 1.0)
    values = sum(t.numel() for t in tensors)
    return torch.finfo(dtype).eps * (4 + values / 8) * size


@every_case
def test_outputs_gradients_and_buffers_equal_native(case):
    for dtype in (torch.float64, torch.float32):
        if str(dtype).removeprefix("torch.") in case.without:
            continue
        theirs, ours = both(case, dtype)
        for training in (True, True, False):
            theirs.train(training), ours.train(training)
            inputs = draw(case, dtype, seed=1 + training)
            expected, actual = step(case, theirs, inputs), step(case, ours, inputs)
            for a, e in zip(actual, expected, strict=True):
                torch.testing.assert_close(a, e, rtol=0, atol=bound(dtype, inputs, e))


@every_case
def test_no_less_accurate_than_native_against_float64(case):
    dtypes = [torch.float32, torch.bfloat16] if case.half else [torch.float32]
    for dtype in dtypes:
        for kind in accuracy.KINDS if case.scales else ["ordinary"]:
            theirs, ours = both(case, dtype)
            exact = both(case, torch.float64)[0]
            exact.load_state_dict(theirs.state_dict())
            inputs = list(draw(case, torch.float64))
            inputs[0] = accuracy.KINDS[kind](inputs[0])
            inputs = [x.to(dtype) if x.dtype == torch.float64 else x for x in inputs]
            if case.random:  # the draw is native's, and so is the result
                torch.testing.assert_close(step(case, ours, inputs), step(case, theirs, inputs))
                continue
            wide = [x.double() if x.dtype == dtype else x for x in inputs]
            count = 1 + len(case.wrt) + len(list(ours.parameters()))
            moved = [(exact, accuracy.nudged(wide, dtype, n)) for n in range(accuracy.NUDGES)]
            runs = (ours, inputs), (theirs, inputs), (exact, wide), *moved
            results = [step(case, layer, given)[:count] for layer, given in runs]
            for which, (mine, native_, truth, *others) in enumerate(zip(*results, strict=True)):
                errors = accuracy.error(mine, truth), accuracy.error(native_, truth)
                allowed = max(errors[1], accuracy.granted(truth, others, dtype))
                assert errors[0] <= allowed, (dtype, kind, which)


@every_case
def test_no_native_kernel_is_reached_forward_backward_or_twice(case):
    _, ours = both(case)
    for training in (True, False):
        inputs = leaves(case, draw(case))
        with NoNativeKernel() as mode:
            y = seeded(ours.train(training), *inputs)
            by = [inputs[i] for i in case.wrt] + list(ours.parameters())
            first = torch.autograd.grad(y.sum(), by, create_graph=True)
            again = [g for g in first if g.requires_grad]
            if again:
                torch.autograd.grad(sum(g.sum() for g in again), by, allow_unused=True)
        assert mode.seen > 0 or not training or y is inputs[0]


def test_the_mode_does_catch_native_kernels():
    caught = 0
    for case in FIRST:
        theirs, _ = both(case)
        inputs = leaves(case, draw(case))
        try:
            with NoNativeKernel():
                seeded(theirs, *inputs).sum().backward()
        except AssertionError as error:
            caught += "native kernel" in str(error)
    assert caught > len(FIRST) / 3, "not all: Softsign, say, is made of divisions natively too"


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
def test_no_inherited_method_of_torch_computes_or_keeps_state(case, monkeypatch):
    layer = both(case)[1]
    inputs = draw(case)
    assert replaced_methods(layer, monkeypatch) > 0
    for name in vars(nn.functional).copy():
        if name in vars(scratch_layers.functional):
            monkeypatch.setattr(nn.functional, name, None)
    layer = case.make()
    step(case, layer, inputs)
    step(case, layer.eval(), inputs)
    layer.load_state_dict(layer.state_dict())
    assert repr(layer)
    if hasattr(layer, "reset_parameters"):
        layer.reset_parameters()


@every_layer
def test_signature_repr_attributes_and_state_are_torchs(case):
    ours, theirs = getattr(scratch_layers, case.layer), getattr(nn, case.layer)
    assert issubclass(ours, theirs)
    assert ours.__name__ == theirs.__name__
    mine, native_ = (inspect.signature(c).parameters.values() for c in (ours, theirs))
    assert [(p.name, p.kind, p.default) for p in mine] == [
        (p.name, p.kind, p.default) for p in native_
    ]
    theirs, ours = both(case)
    assert repr(ours) == repr(theirs)
    assert list(vars(ours)) == list(vars(theirs)), "so that one class can become the other"
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for name, value in vars(theirs).items():
        if isinstance(value, (int, float, str, bool, tuple, type(None))):
            assert getattr(ours, name) == value


@every_case
def test_gradcheck_forward_and_backward_once_and_twice(case):
    _, ours = both(case, torch.float64)
    inputs = leaves(case, draw(case, torch.float64))

    def f(*tensors):
        return seeded(ours, *tensors)

    options = {"nondet_tol": 1e-12 if case.random else 0.0}
    assert gradcheck(f, inputs, check_forward_ad="tangent" not in case.without, **options)
    if "gradgradcheck" not in case.without:
        assert gradgradcheck(f, inputs, **options)


@every_layer
def test_transforms_of_torch_func(case):
    if "func" in case.without:
        pytest.skip(case.without["func"])
    _, ours = both(case, torch.float64)
    inputs = draw(case, torch.float64)
    state = dict(ours.named_parameters())

    def loss(parameters, *tensors):
        torch.manual_seed(2)
        buffers = {name: b.clone() for name, b in ours.named_buffers()}  # which may be changed
        y = torch.func.functional_call(ours, {**parameters, **buffers}, tensors)
        return (y * y).sum()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        by_parameters, by_input = torch.func.grad(loss, (0, 1))(state, *inputs)
    expected = leaves(case, inputs)
    y = seeded(ours, *expected)
    leaf = [expected[0], *ours.parameters()]
    plain = torch.autograd.grad((y * y).sum(), leaf)
    torch.testing.assert_close([by_input, *by_parameters.values()], list(plain))
    # forward against backward: <v, J u> = <J' v, u>
    u = torch.randn_like(inputs[0])
    _, tangent = torch.func.jvp(lambda x: loss(state, x, *inputs[1:]), (inputs[0],), (u,))
    torch.testing.assert_close(tangent, (by_input * u).sum())
    if "vmap" in case.without or case.random:
        return
    stack = [torch.stack([x, x.flip(0)]) for x in inputs]
    ours.eval()  # running statistics cannot be updated by several batches at a time, natively too
    outputs = torch.vmap(ours)(*stack)
    single = [ours(*[s[i] for s in stack]) for i in range(2)]
    torch.testing.assert_close(outputs, torch.stack(single))


@every_layer
def test_compiles_as_one_graph_with_its_gradients(case):
    if "compile" in case.without:
        pytest.skip(case.without["compile"])
    _, ours = both(case)
    inputs = draw(case)
    twin = copy.deepcopy(ours)
    torch._dynamo.reset()
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    expected, actual = step(case, ours, inputs), step(case, compiled, inputs)
    if case.random:  # AOT draws in an order of its own
        assert actual[0].shape == expected[0].shape
        return
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=bound(torch.float32, inputs, e))


@every_layer
def test_exports(case):
    if "export" in case.without:
        pytest.skip(case.without["export"])
    _, ours = both(case)
    inputs = draw(case)
    program = torch.export.export(ours.eval(), inputs)
    expected = ours(*inputs)
    close = {"rtol": 0, "atol": bound(torch.float32, inputs, expected)}
    torch.testing.assert_close(program.module()(*inputs), expected, **close)


def outcome(layer, inputs):
    try:
        y = seeded(layer, *inputs)
        y.float().sum().backward()
    except Exception as error:
        return type(error)
    return y.dtype, y.requires_grad


@every_case
def test_autocast_gives_the_dtype_that_native_gives(case):
    for dtype in (torch.float32, torch.bfloat16):
        theirs, ours = both(case)
        inputs = draw(case, dtype)
        with torch.autocast("cpu", torch.bfloat16):
            expected = outcome(theirs, leaves(case, inputs))
            assert outcome(ours, leaves(case, inputs)) == expected, dtype


@every_case
def test_meta_tensors_and_layouts_are_those_of_native(case):
    theirs, ours = both(case)
    inputs = draw(case)
    meta = [x.to("meta") for x in inputs]
    y, expected = ours.to("meta")(*meta), theirs(*inputs)
    assert (y.shape, y.dtype, y.is_meta) == (expected.shape, expected.dtype, True)
    if inputs[0].dim() != 4 or "layout" in case.without:
        return
    theirs, ours = both(case)
    channels_last = [x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
                     for x in inputs]  # fmt: skip
    mine, native_ = step(case, ours, channels_last), step(case, theirs, channels_last)
    assert mine[0].stride() == native_[0].stride()
    if "gradient layout" not in case.without:
        assert mine[1].stride() == native_[1].stride()


def saved_bytes(case, layer, inputs):
    """Bytes of the distinct storages that the graph holds, parameters apart."""
    storages = {}

    def pack(x):
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    inputs = leaves(case, inputs)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        y = seeded(layer, *inputs)
    for parameter in layer.parameters():
        storages.pop(parameter.untyped_storage().data_ptr(), None)
    assert y.requires_grad
    return sum(storages.values())


@every_case
def test_saves_no_more_for_backward_than_native(case):
    if "saved bytes" in case.without:
        pytest.skip(case.without["saved bytes"])
    for training in (True, False):
        theirs, ours = both(case)
        inputs = draw(case)
        mine, native_ = (
            saved_bytes(case, layer.train(training), inputs) for layer in (ours, theirs)
        )
        assert mine <= native_


@every_layer
def test_holds_nothing_once_the_graph_is_gone(case):
    _, ours = both(case)
    inputs = leaves(case, draw(case))
    gc.collect()
    gc.disable()  # what goes must go by itself, without the collector of cycles
    try:
        y = seeded(ours, *inputs)
        alive = weakref.ref(y)
        y.float().sum().backward()
        del y
        assert alive() is None
        y = seeded(ours, *inputs)  # no backward this time
        alive = weakref.ref(y)
        del y
        assert alive() is None
    finally:
        gc.enable()


@every_layer
def test_survives_copies_and_pickles(case):
    _, ours = both(case)
    inputs = draw(case)
    expected = seeded(copy.deepcopy(ours), *inputs)
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert type(twin) is type(ours)
        torch.testing.assert_close(seeded(twin, *inputs), expected, rtol=0, atol=0)


@every_layer
def test_device_and_dtype_of_the_constructor(case):
    if not case.has_factory:
        parameters = inspect.signature(getattr(nn, case.layer)).parameters
        assert "dtype" not in parameters, "a case that does not say has_factory"
        return
    for library in (scratch_layers, nn):
        layer = getattr(library, case.layer)(
            *case.args, **case.options, device="meta", dtype=torch.float64
        )
        tensors = [*layer.parameters(), *layer.buffers()]
        found = {(t.device.type, t.dtype) for t in tensors if t.is_floating_point()}
        assert found <= {("meta", torch.float64)}


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
def test_compiled_kernels_equal_eager(case):
    if case.random:
        pytest.skip("draws its numbers natively; its own tests compare the bits")
    _, ours = both(case)
    inputs = draw(case)
    twin = copy.deepcopy(ours)
    expected = step(case, ours, inputs)
    with scratch_layers.compile_kernels():
        actual = step(case, twin, inputs)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=bound(torch.float32, inputs, e))
