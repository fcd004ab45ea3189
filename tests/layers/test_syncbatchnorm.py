"""SyncBatchNorm: several processes with a part of the batch each are one process with all of it.

Two processes on the CPU (gloo) go through the scenarios below, once for all tests; each scenario
compares with native batch normalization of the whole batch, and a test looks up what it said.
"""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
import traceback
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.autograd import forward_ad
from torch.nn.parallel import DistributedDataParallel

import scratch_layers
from scratch_layers import batchnorm
from scratch_layers.fusedbatchnorm import BatchNormReLU2d
from scratch_layers.syncbatchnorm import AllReduce, SyncBatchNorm

SHAPES = {"NC": (6, 5), "NCL": (6, 5, 3), "NCHW": (6, 5, 3, 2), "NCDHW": (6, 5, 2, 2, 3)}
OPTIONS = {
    "default": {},
    "momentum": {"momentum": 0.7},
    "cumulative": {"momentum": None},
    "eps": {"eps": 0.3},
    "no_affine": {"affine": False},
    "no_bias": {"bias": False},
    "no_tracking": {"track_running_stats": False},
}
# how many of the 6 samples the first process gets
FIRST = {"even": 3, "uneven": 1, "empty": 0}
# float64 sums of up to 72 terms of size 1, divided by standard deviations of about 1
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


def native(shape, **options):
    name = f"BatchNorm{max(len(shape) - 2, 1)}d"
    layer = getattr(nn, name)(shape[1], **options, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(0.5, 1.5)
    return layer


def synchronized(layer):
    return SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(layer))


# ------------------------------------------------------------------ in two processes


def part(first, of=6):
    """The samples of this process, if the other has the others."""
    return slice(0, first) if dist.get_rank() == 0 else slice(first, of)


def summed(tensors):
    for t in tensors:
        dist.all_reduce(t)
    return tensors


def gradients(layer):
    return [p.grad.clone() for p in layer.parameters()]


def steps_equal_those_of_one_process(shape, options, first):
    torch.manual_seed(0)
    whole = native(shape, **options)
    ours, mine = synchronized(whole), part(first)
    # in evaluation, processes do not talk: without running statistics each has its own batch
    for training in (True, True, True, False) if whole.track_running_stats else (True,):
        whole.train(training), ours.train(training)
        x, d_y = torch.randn(shape, dtype=torch.float64) * 2 + 3, torch.randn(shape).double()
        x_whole, x_mine = x.clone().requires_grad_(), x[mine].clone().requires_grad_()
        whole.zero_grad(), ours.zero_grad()
        y_whole, y_mine = whole(x_whole), ours(x_mine)
        y_whole.backward(d_y), y_mine.backward(d_y[mine])
        torch.testing.assert_close(y_mine, y_whole[mine], **CLOSE)
        torch.testing.assert_close(x_mine.grad, x_whole.grad[mine], **CLOSE)
        torch.testing.assert_close(summed(gradients(ours)), gradients(whole), **CLOSE)
        torch.testing.assert_close(list(ours.buffers()), list(whole.buffers()), **CLOSE)


def parity(shape):
    for options in OPTIONS.values():
        for first in FIRST.values():
            steps_equal_those_of_one_process(SHAPES[shape], options, first)


def shifted_data_are_as_exact_as_in_one_process():
    torch.manual_seed(0)
    base, d_y = torch.randn(2, 16, 4, 8, 8)
    mine = part(5, of=16)
    for offset in (0.0, 1e2, 1e4):
        x = base + offset
        results = {}
        for name, layer, inputs in (
            ("exact", nn.BatchNorm2d(4).double(), (x.double(), d_y.double())),
            ("native", nn.BatchNorm2d(4), (x, d_y)),
            ("ours", SyncBatchNorm(4), (x[mine], d_y[mine])),
        ):
            leaf = inputs[0].clone().requires_grad_()
            y = layer(leaf)
            y.backward(inputs[1])
            rows = slice(None) if name == "ours" else mine
            results[name] = y[rows].double(), leaf.grad[rows].double()
        for exact, theirs, ours in zip(*results.values(), strict=True):
            # the mean is rounded once, the largest value twice (subtraction, product)
            granted = torch.finfo(torch.float32).eps * (offset / 2 + exact.abs().max())
            error, bound = (ours - exact).abs().max(), (theirs - exact).abs().max()
            assert error <= torch.maximum(bound, granted), (offset, error, bound)


def second_derivative_equals_that_of_one_process():
    torch.manual_seed(0)
    whole = native((6, 5, 2, 2), track_running_stats=False)
    for first in FIRST.values():
        ours, mine = synchronized(whole), part(first)
        x, d_y, v = torch.randn(3, 6, 5, 2, 2, dtype=torch.float64)
        seconds = []
        for layer, rows in ((whole, slice(None)), (ours, mine)):
            leaves = [x[rows].clone().requires_grad_(), d_y[rows].clone().requires_grad_()]
            leaves += layer.parameters()
            y = layer(leaves[0]).pow(2)
            d_x, *d_parameters = torch.autograd.grad(
                y, [leaves[0], *layer.parameters()], leaves[1], create_graph=True
            )
            loss = (d_x * v[rows]).sum()
            # the loss is the sum over processes of theirs, so every term must be one
            loss = loss + sum([d.sum() for d in d_parameters])
            seconds.append(torch.autograd.grad(loss, leaves))
        for theirs, derivative in zip(seconds[0][:2], seconds[1][:2], strict=True):
            torch.testing.assert_close(derivative, theirs[mine], **CLOSE)
        torch.testing.assert_close(summed(list(seconds[1][2:])), list(seconds[0][2:]), **CLOSE)


def forward_derivative_equals_that_of_one_process():
    torch.manual_seed(0)
    whole, mine = native((6, 5, 2, 2), affine=False), part(2)
    x, t = torch.randn(2, 6, 5, 2, 2, dtype=torch.float64)
    tangents = []
    for layer, rows in ((whole, slice(None)), (synchronized(whole), mine)):
        layer.track_running_stats = False
        with forward_ad.dual_level():
            y = layer(forward_ad.make_dual(x[rows], t[rows]))
            tangents.append(forward_ad.unpack_dual(y).tangent)
    torch.testing.assert_close(tangents[1], tangents[0][mine], **CLOSE)


def a_batch_that_is_empty_everywhere_leaves_the_running_statistics():
    layer = SyncBatchNorm(3)
    x = torch.randn(0, 3, 2, 2, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.shape == x.shape
    assert layer.running_mean.tolist() == [0.0] * 3
    assert layer.running_var.tolist() == [1.0] * 3
    assert layer.num_batches_tracked == 1


def one_value_per_channel_and_process_is_enough():
    x = torch.tensor([[1.0, 2.0]]) * (1 if dist.get_rank() == 0 else -1)
    layer = SyncBatchNorm(2, eps=1e-12)
    torch.testing.assert_close(layer(x), x.sign())
    torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * torch.tensor([2.0, 8.0]))


def a_group_of_its_own_makes_a_process_its_own_batch():
    alone = [dist.new_group([rank]) for rank in range(2)][dist.get_rank()]
    torch.manual_seed(dist.get_rank())
    x = torch.randn(4, 3, 2)
    torch.testing.assert_close(SyncBatchNorm(3, process_group=alone)(x), nn.BatchNorm1d(3)(x))


def evaluation_and_an_input_without_gradient_talk_to_nobody():
    layer = SyncBatchNorm(3)
    x = torch.randn(4, 3, 2)
    if dist.get_rank() == 0:  # it would wait for the other one
        layer.eval()(x.requires_grad_()).sum().backward()
    y = layer.train()(x.detach())
    if dist.get_rank() == 0:
        y.sum().backward()
        assert layer.bias.grad.tolist() == [16.0] * 3, "8 of each step"


def half_precision_is_computed_in_float32():
    torch.manual_seed(0)
    x = torch.randn(6, 3, 4, 4)
    for dtype in (torch.bfloat16, torch.float16):
        for parameters in (torch.float32, dtype):
            layer = SyncBatchNorm(3, dtype=parameters)
            leaf = x[part(2)].to(dtype).requires_grad_()
            y = layer(leaf)
            y.sum().backward()
            expected = nn.BatchNorm2d(3)(x.to(dtype).float())[part(2)]
            assert y.dtype == leaf.grad.dtype == dtype
            # one rounding of values up to 4
            torch.testing.assert_close(y.float(), expected, rtol=torch.finfo(dtype).eps, atol=1e-5)


def a_refused_input_changes_nothing():
    layer = SyncBatchNorm(3)
    for x in (torch.ones(3), torch.ones(2, 4), torch.ones(2, 0), torch.ones(2, 3).double()):
        with pytest.raises((ValueError, RuntimeError)):
            layer(x)
    assert layer.num_batches_tracked == 0


class Block(nn.Module):
    def __init__(self, channels, phi):
        super().__init__()
        self.phi = phi
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = scratch_layers.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        return self.phi(self.bn2(self.conv2(self.phi(self.bn1(self.conv1(x))))) + x)


def network(dtype, phi):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        Block(8, phi),
        nn.Flatten(),
        nn.Linear(8 * 36, 10),
        scratch_layers.BatchNorm1d(10),
    ).to(dtype)


def training_with_ddp_equals_training_in_one_process(dtype, phi, bound):
    dtype, phi = getattr(torch, dtype), getattr(torch, phi)
    whole, ours = network(dtype, phi), DistributedDataParallel(network(dtype, phi))
    assert SyncBatchNorm.convert_sync_batchnorm(ours) is ours
    assert sum([isinstance(layer, SyncBatchNorm) for layer in ours.modules()]) == 4
    optimizers = [
        torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9) for model in (whole, ours)
    ]
    for _ in range(20):
        x, target = torch.randn(16, 3, 8, 8, dtype=dtype), torch.randint(10, (16,))
        for model, optimizer, rows in zip(
            (whole, ours), optimizers, (slice(None), part(8, of=16)), strict=True
        ):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), target[rows]).backward()
            optimizer.step()
    distance = max(
        ((a - b).norm() / b.norm()).item()
        for a, b in zip(ours.module.state_dict().values(), whole.state_dict().values(), strict=True)
        if a.is_floating_point()
    )
    assert distance <= bound, distance
    return distance


def ddp_refuses_the_class_on_the_cpu():
    with pytest.raises(ValueError, match="SyncBatchNorm layers only work with GPU modules"):
        DistributedDataParallel(nn.Sequential(SyncBatchNorm(3)))


def compiled_equals_eager():
    torch.manual_seed(0)
    x, d_y = torch.randn(2, 6, 5, 3, 2)
    results = []
    for compiled in (False, True):
        layer, leaf = SyncBatchNorm(5), x[part(2)].clone().requires_grad_()
        with scratch_layers.compile_kernels(compiled):
            y = layer(leaf)
            y.backward(d_y[part(2)])
        results.append((y, leaf.grad, gradients(layer), list(layer.buffers())))
    # another order of the 36 additions of values of about 1
    torch.testing.assert_close(*results, rtol=0, atol=36 * torch.finfo(torch.float32).eps)


SCENARIOS = {
    **{f"parity_{shape}": (parity, shape) for shape in SHAPES},
    **{
        scenario.__name__: (scenario,)
        for scenario in (
            shifted_data_are_as_exact_as_in_one_process,
            second_derivative_equals_that_of_one_process,
            forward_derivative_equals_that_of_one_process,
            a_batch_that_is_empty_everywhere_leaves_the_running_statistics,
            one_value_per_channel_and_process_is_enough,
            a_group_of_its_own_makes_a_process_its_own_batch,
            evaluation_and_an_input_without_gradient_talk_to_nobody,
            half_precision_is_computed_in_float32,
            a_refused_input_changes_nothing,
            ddp_refuses_the_class_on_the_cpu,
        )
    },
    # Rounding in other orders of summation, grown in 20 steps. In float32 with an activation that
    # has no corner: there a rounding decides over a whole term, if once in some dozens of runs.
    "training_f64": (training_with_ddp_equals_training_in_one_process, "float64", "relu", 1e-12),
    "training_f32": (training_with_ddp_equals_training_in_one_process, "float32", "tanh", 1e-5),
}
SLOW = {"compiled_equals_eager": (compiled_equals_eager,)}


def main(rank, directory, scenarios):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        f"file://{directory}/store",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=20 if scenarios is SCENARIOS else 200),
    )
    said = {}
    try:
        for name, (scenario, *args) in scenarios.items():
            said[name] = scenario(*args)
    except BaseException:
        said[name] = traceback.format_exc()
    (directory / f"{rank}.json").write_text(json.dumps(said))
    # a process may be waiting for one that failed: it must see that it is gone
    os._exit(0)


# ------------------------------------------------------------------ the tests


def run_both(directory, which):
    """What the scenarios said in both processes, up to the first that failed, and the output."""
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(directory), which],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        output = "\n".join([process.communicate(timeout=300)[0] for process in processes])
    finally:
        for process in processes:
            process.kill()
    files = [directory / f"{rank}.json" for rank in range(2)]
    return [json.loads(file.read_text()) if file.exists() else {} for file in files], output


def check(results, scenario):
    said, output = results
    errors = [s[scenario] for s in said if isinstance(s.get(scenario), str)]
    assert not errors, "\n".join(errors)
    assert all(scenario in s for s in said), f"not reached: the processes ended before.\n{output}"
    return said[0][scenario]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    return run_both(tmp_path_factory.mktemp("two_processes"), "fast")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_in_two_processes(results, scenario):
    figure = check(results, scenario)
    if figure is not None:
        print(f"{scenario}: {figure:.1e}")


@pytest.mark.slow
def test_compiled_in_two_processes(tmp_path):
    check(run_both(tmp_path, "slow"), "compiled_equals_eager")


# ------------------------------------------------------------------ in one process


def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        scratch_layers.BatchNorm2d(4, eps=0.1, momentum=None),
        nn.BatchNorm2d(4, bias=False),
        nn.Sequential(nn.Flatten(), scratch_layers.BatchNorm1d(36, affine=False)),
        nn.SyncBatchNorm(36),
    )


def test_conversion_keeps_the_layers_and_all_they_carry_and_can_be_undone():
    net = model()
    seen = []
    net[1].register_forward_hook(lambda *_: seen.append(1))
    net[2].eval().qconfig = "some"
    net[3][1].weight_of_mine = 3
    classes = [type(layer) for layer in net.modules()]
    carried = [dict(vars(layer)) for layer in net.modules()]
    parameters, buffers = list(net.parameters()), list(net.buffers())
    before, x = copy.deepcopy(net), torch.randn(6, 3, 5, 5)

    assert SyncBatchNorm.convert_sync_batchnorm(net, "a group") is net
    norms = [net[1], net[2], net[3][1], net[4]]
    assert {type(layer) for layer in norms} == {SyncBatchNorm}
    assert all([layer.process_group == "a group" for layer in norms])
    assert all([a is b for a, b in zip(net.parameters(), parameters, strict=True)])
    assert all([a is b for a, b in zip(net.buffers(), buffers, strict=True)])
    assert (net[2].training, net[2].qconfig, net[3][1].weight_of_mine) == (False, "some", 3)
    # without processes it is batch normalization
    torch.testing.assert_close(net(x), before(x))
    assert seen == [1, 1]
    net.load_state_dict(before.state_dict())
    before[1]._forward_hooks.clear()  # a lambda, which is not pickled
    twice = pickle.loads(pickle.dumps(SyncBatchNorm.convert_sync_batchnorm(before)))
    SyncBatchNorm.convert_sync_batchnorm(twice)

    for back in (net, twice):
        assert SyncBatchNorm.revert_sync_batchnorm(back) is back
        # what a SyncBatchNorm was before is not known
        assert [type(m) for m in back.modules()] == [*classes[:-1], batchnorm._BatchNorm]
    for layer, keys in zip(net.modules(), carried, strict=True):
        assert vars(layer).keys() | {"process_group"} == keys.keys() | {"process_group"}
    torch.testing.assert_close(net[4](torch.ones(2, 36)), torch.zeros(2, 36))


def test_conversion_refuses_what_may_do_more_before_it_changes_anything():
    for layer in (BatchNormReLU2d(4), nn.LazyBatchNorm2d(), batchnorm.LazyBatchNorm2d()):
        net = nn.Sequential(nn.BatchNorm2d(4), nn.Sequential(layer))
        with pytest.raises(TypeError, match=rf"1\.0 is a {type(layer).__name__}"):
            SyncBatchNorm.convert_sync_batchnorm(net)
        assert type(net[0]) is nn.BatchNorm2d
    with pytest.raises(TypeError, match="module is a BatchNormReLU2d"):
        SyncBatchNorm.convert_sync_batchnorm(BatchNormReLU2d(4))


def test_a_single_layer_and_one_in_two_places_are_converted_once():
    layer = scratch_layers.BatchNorm1d(3)
    net = nn.ModuleList([layer, layer])
    SyncBatchNorm.convert_sync_batchnorm(net)
    assert net[0] is net[1] is layer
    assert SyncBatchNorm.revert_sync_batchnorm(layer) is layer
    assert type(layer) is scratch_layers.BatchNorm1d


def test_layers_that_torch_converts_are_torchs_and_can_be_converted_again():
    net = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(scratch_layers.BatchNorm2d(3)))
    assert type(net[0]) is nn.SyncBatchNorm
    assert type(SyncBatchNorm.convert_sync_batchnorm(net)[0]) is SyncBatchNorm


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_without_processes_it_is_batch_normalization(shape, options):
    torch.manual_seed(0)
    theirs = native(shape, **options)
    ours = SyncBatchNorm(5, **options, dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(shape, dtype=torch.float64)
    for training in (True, False):
        torch.testing.assert_close(ours.train(training)(x), theirs.train(training)(x), **CLOSE)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), **CLOSE)


def test_is_torchs_class_to_whoever_asks_and_looks_like_it():
    ours, theirs = SyncBatchNorm(3, momentum=None), nn.SyncBatchNorm(3, momentum=None)
    assert isinstance(ours, nn.SyncBatchNorm)
    assert repr(ours) == repr(theirs)
    assert list(vars(ours)) == list(vars(theirs))
    assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 0, 3), (2, 4), (1, 3)], ids=str)
def test_refuses_in_the_words_of_torch(shape):
    messages = []
    for layer in (SyncBatchNorm(3), nn.SyncBatchNorm(3)):
        with pytest.raises((ValueError, RuntimeError)) as error:
            layer(torch.ones(shape))
        messages.append((error.type, str(error.value)))
    assert messages[0] == messages[1]


def test_the_sum_over_processes_is_its_own_derivative(tmp_path):
    store = f"file://{tmp_path}/store"
    dist.init_process_group("gloo", store, rank=0, world_size=1)
    try:
        x = torch.randn(3, dtype=torch.float64, requires_grad=True)
        f = lambda x: AllReduce.call(x, dist.group.WORLD)  # noqa: E731
        assert torch.autograd.gradcheck(f, x, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(f, x)
        assert (f(x) == x).all()
        assert f(x).data_ptr() != x.data_ptr()
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), SCENARIOS if sys.argv[3] == "fast" else SLOW)
