"""BatchNormReLU1d/2d/3d: relu(bn(x) + z) of the three layers, in one node."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

import scratch_layers
from scratch_layers import fusedbatchnorm, kernels
from scratch_layers.fusedbatchnorm import BatchNormReLU1d, BatchNormReLU2d, batch_norm_relu

LAYOUTS = {
    "NC": ("BatchNormReLU1d", (8, 5), torch.contiguous_format),
    "NCL": ("BatchNormReLU1d", (4, 5, 7), torch.contiguous_format),
    "NCHW": ("BatchNormReLU2d", (4, 5, 3, 6), torch.contiguous_format),
    "NHWC": ("BatchNormReLU2d", (4, 5, 3, 6), torch.channels_last),
    "NCDHW": ("BatchNormReLU3d", (3, 5, 2, 3, 4), torch.contiguous_format),
}
OPTIONS = {
    "default": {},
    "cumulative": {"momentum": None},
    "no_affine": {"affine": False},
    "no_bias": {"bias": False},
    "no_tracking": {"track_running_stats": False},
}
WITH_Z = pytest.mark.parametrize("with_z", [True, False], ids=["z", "no_z"])
TRAINING = pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])


class Three(nn.Module):
    """The three layers, in the dtype that they compute in."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x, z=None):
        r = self.norm(x)
        return (r if z is None else r + z).relu()


def pair(name, *args, **options):
    """The three native layers and the one, with the same random γ and β."""
    native = getattr(nn, name.replace("ReLU", ""))(*args, **options)
    with torch.no_grad():
        for parameter in native.parameters():
            parameter.uniform_(-1.5, 1.5)
    ours = getattr(fusedbatchnorm, name)(*args, **options)
    ours.load_state_dict(native.state_dict())
    return Three(native), ours


def drawn(shape, memory_format=torch.contiguous_format, dtype=torch.float64):
    x = torch.randn(shape, dtype=torch.float64).to(dtype)
    return x.contiguous(memory_format=memory_format).requires_grad_()


def step(layer, d_y, *inputs):
    """Output, gradients of inputs and parameters, buffers after one step."""
    leaves = [t.detach().clone().requires_grad_() for t in inputs]
    layer.zero_grad()
    y = layer(*leaves)
    y.backward(d_y)
    return y, [t.grad for t in leaves], [p.grad for p in layer.parameters()], list(layer.buffers())


@WITH_Z
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_equals_the_three_layers(options, layout, with_z):
    name, shape, memory_format = layout
    torch.manual_seed(0)
    three, ours = pair(name, 5, **options, dtype=torch.float64)
    for training in (True, True, False):
        three.train(training), ours.train(training)
        x, z, d_y = (drawn(shape, memory_format) for _ in "xzd")
        inputs = (x, z) if with_z else (x,)
        theirs, mine = step(three, d_y, *inputs), step(ours, d_y, *inputs)
        # float64 sums of up to 72 products of size up to 10
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
        for t in (mine[0], *mine[1]):
            assert t.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "f16"])
@pytest.mark.parametrize("same", [True, False], ids=["own_parameters", "float32_parameters"])
def test_half_precision_is_rounded_once(dtype, same):
    torch.manual_seed(0)
    ours = BatchNormReLU2d(5, dtype=dtype if same else torch.float32)
    exact = Three(nn.BatchNorm2d(5, dtype=torch.float64))
    x, z, d_y = (drawn((6, 5, 4, 4), torch.channels_last, dtype) for _ in "xzd")
    mine, theirs = step(ours, d_y, x, z), step(exact, d_y.double(), x.double(), z.double())
    half = torch.finfo(dtype).eps / 2
    for a, b in zip((mine[0], *mine[1]), (theirs[0], *theirs[1]), strict=True):
        assert a.dtype == dtype
        # one rounding, and what float32 does to 96 values before
        assert ((a.double() - b).abs() <= half * b.abs() + 1e-5).all()


@WITH_Z
@TRAINING
def test_gradcheck_and_gradgradcheck(training, with_z):
    torch.manual_seed(0)
    layer = BatchNormReLU1d(2, dtype=torch.float64)
    layer(drawn((9, 2)))
    layer.train(training)
    x, z, weight, bias = drawn((4, 2, 2)), drawn((4, 2, 2)), drawn(2), drawn(2)

    def f(x, weight, bias, *z):
        state = {"weight": weight, "bias": bias}
        state |= {k: v.clone() for k, v in layer.named_buffers()}
        return torch.func.functional_call(layer, state, (x, *z))

    inputs = (x, weight, bias, z) if with_z else (x, weight, bias)
    y = f(*inputs)
    assert (y > 0).any()
    assert (y == 0).any(), "or it would be without the corner"
    assert gradcheck(f, inputs, check_forward_ad=True)
    assert gradgradcheck(f, inputs, check_fwd_over_rev=True)


def test_torch_func_transforms_equal_the_three_layers():
    torch.manual_seed(0)
    three, ours = pair("BatchNormReLU2d", 3, track_running_stats=False, dtype=torch.float64)
    xs, zs, t_x, t_z = torch.randn(4, 2, 4, 3, 2, 2, dtype=torch.float64)

    def grad(layer):
        return torch.func.grad(lambda x, z: layer(x, z).pow(3).sum(), argnums=(0, 1))

    for transform in (
        lambda layer: torch.vmap(layer)(xs, zs),
        lambda layer: grad(layer)(xs[0], zs[0]),
        lambda layer: torch.vmap(grad(layer))(xs, zs),
        lambda layer: torch.func.jvp(layer, (xs[0], zs[0]), (t_x[0], t_z[0])),
        lambda layer: torch.func.jacrev(grad(layer))(xs[0], zs[0]),
    ):
        torch.testing.assert_close(transform(ours), transform(three))


@WITH_Z
@TRAINING
def test_compiles_as_one_graph_and_exports(training, with_z):
    torch.manual_seed(0)
    torch._dynamo.reset()
    layer = BatchNormReLU2d(3, momentum=None).train(training)
    x, z, d_y = torch.randn(3, 4, 3, 5, 5)
    inputs = (x, z) if with_z else (x,)
    eager = step(copy.deepcopy(layer), d_y, *inputs)
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(step(compiled, d_y, *inputs), eager)
    exported = torch.export.export(copy.deepcopy(layer), inputs).module()
    torch.testing.assert_close(exported(*inputs), eager[0])


@pytest.mark.parametrize("with_z", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_compiled_kernels_agree_with_eager_in_one_kernel_each_way(with_z):
    torch.manual_seed(0)
    kernels._kernels.clear()
    x, z, d_y = (drawn((6, 5, 4, 4), torch.channels_last, torch.float32) for _ in "xzd")
    results = []
    for compiled in (False, True):
        with scratch_layers.compile_kernels(compiled):
            results.append(step(BatchNormReLU2d(5), d_y, *((x, z) if with_z else (x,))))
    assert len(kernels._kernels) == 2
    # another order of the 96 additions of values of about 1
    torch.testing.assert_close(*results, rtol=0, atol=96 * torch.finfo(torch.float32).eps)


def test_saves_no_more_for_the_backward_than_the_three_layers_with_an_inplace_relu():
    norm, relu = nn.BatchNorm2d(3), nn.ReLU(inplace=True)
    saved = []
    for f in (lambda x, z: relu(norm(x) + z), BatchNormReLU2d(3)):
        bytes_of = {}

        def pack(t, bytes_of=bytes_of):
            bytes_of[t.data_ptr()] = t.nbytes
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            kept = f(*torch.randn(2, 4, 3, 2, 2, requires_grad=True))
        saved.append(sum(bytes_of.values()))
    assert saved[1] <= saved[0]
    assert kept.shape == (4, 3, 2, 2)


def test_nan_and_zero_pass_the_relu_as_in_torch():
    three, ours = pair("BatchNormReLU1d", 1, affine=False)
    three.eval(), ours.eval()
    x, d_y = torch.tensor([[0.0], [float("nan")], [-1.0], [1.0]]), torch.ones(4, 1)
    mine, theirs = step(ours, d_y, x, torch.zeros(4, 1)), step(three, d_y, x, torch.zeros(4, 1))
    torch.testing.assert_close(mine, theirs, equal_nan=True)
    assert mine[1][0][0] == 0


def test_an_empty_batch_counts_and_changes_no_statistics():
    layer = BatchNormReLU2d(3)
    x, z = torch.randn(2, 0, 3, 2, 2, requires_grad=True)
    layer(x, z).sum().backward()
    assert layer.running_mean.tolist() == [0.0] * 3
    assert layer.num_batches_tracked == 1


def test_a_z_of_another_shape_or_dtype_is_refused_before_anything_changes():
    layer, x = BatchNormReLU2d(3), torch.randn(4, 3, 2, 2)
    for z in (x[:1], x.double(), x[..., :1]):
        with pytest.raises(ValueError, match="z must be like the input"):
            layer(x, z)
    with pytest.raises(ValueError, match="expected 4D input"):
        layer(x[0], x[0])
    assert layer.num_batches_tracked == 0


def test_functional_form_equals_the_layer():
    torch.manual_seed(0)
    layer = BatchNormReLU2d(3)
    x, z = torch.randn(2, 4, 3, 2, 2)
    mean, var = torch.zeros(3), torch.ones(3)
    y = batch_norm_relu(x, z, mean, var, layer.weight, layer.bias, training=True)
    assert torch.equal(y, layer(x, z))
    assert torch.equal(mean, layer.running_mean)
    assert torch.equal(var, layer.running_var)


def test_is_a_batch_normalization_to_whoever_asks():
    layer = BatchNormReLU2d(3)
    assert isinstance(layer, scratch_layers.BatchNorm2d)
    assert list(layer.state_dict()) == list(nn.BatchNorm2d(3).state_dict())
    assert vars(layer).keys() == vars(nn.BatchNorm2d(3)).keys()
    assert repr(layer) == repr(nn.BatchNorm2d(3)).replace("Norm", "NormReLU")
    averaged = torch.optim.swa_utils.AveragedModel(nn.Sequential(layer))
    torch.optim.swa_utils.update_bn([torch.randn(8, 3, 5, 5) + 3], averaged)
    assert (averaged.module[0].running_mean > 2).all()
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(other) is BatchNormReLU2d
