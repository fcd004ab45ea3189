"""Sharded over processes (FSDP2, DTensor) and through distributed checkpoints, a step is the same.

Two processes on the CPU (gloo) go through the scenarios below, once for all tests: each scenario
is a function of the name of an optimizer, and a test looks up what it said.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))  # also as a script of its own

from cases import CASES, Case, each_case, trained

from scratch_optim.testing.compare import assert_same, assert_same_bits, epsilons
from scratch_optim.testing.subject import gradients

STEPS = 4


EVERY = [
    *CASES,
    Case("Adafactor", {"lr": 0.1, "weight_decay": 0.1}),
    Case("Muon", {"lr": 0.1, "auxiliary": {"lr": 0.01}}),
]
BY_NAME = {case.name: case for case in EVERY}


def model(dtype: torch.dtype = torch.float32) -> nn.Module:
    """A network whose first dimensions do not divide by 2, so that shards differ in size."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.LayerNorm(7), nn.Linear(7, 3)).to(dtype)


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(8, 5, generator=generator), torch.randn(8, 3, generator=generator)


def backward(network: nn.Module, step: int, part: slice = slice(None)) -> None:
    x, y = batch(step)
    network.zero_grad()
    nn.functional.mse_loss(network(x[part]), y[part]).backward()


def train(network: nn.Module, optimizer: Any, steps: range, part: slice = slice(None)) -> None:
    for step in steps:
        backward(network, step, part)
        optimizer.step()


def whole(x: Any) -> Any:
    """All of a tensor that is cut over processes, in each of them."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


# ------------------------------------------------------------------ in two processes


def part() -> slice:
    """The half of a batch that this process sees."""
    return slice(4 * dist.get_rank(), 4 * dist.get_rank() + 4)


def sharded() -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    network = model()
    for layer in network:
        if list(layer.parameters()):
            fully_shard(layer)
    return fully_shard(network)


def in_lockstep(case: Case, steps: int = STEPS, **options: Any) -> tuple[nn.Module, Any, Any]:
    """Train a sharded network, and a whole one on its gradients; compare after each step."""
    network, single = sharded(), model()
    optimizer = case.ours(network.parameters(), **case.typical, **options)
    reference = case.ours(single.parameters(), **case.typical, **options)
    pairs = list(zip(network.parameters(), single.parameters(), strict=True))
    for step in range(steps):
        backward(network, step, part())
        backward(single, step)
        for p, q in pairs:
            # The mean of two halves, whose sums are rounded apart: of 4 and 8 terms.
            assert epsilons(whole(p.grad), q.grad) <= 16
            q.grad = whole(p.grad)
        optimizer.step()
        reference.step()
        for p, q in pairs:
            same(case, whole(p), q, "a parameter")
            for name, value in reference.state[q].items():
                same(case, whole(optimizer.state[p][name]), value, name)
    return network, optimizer, reference


def same(case: Case, a: Any, b: Any, what: str) -> None:
    if case.ours.elementwise or not isinstance(b, Tensor):
        assert_same_bits(a, b, what)
    else:
        # Norms and means are added up by shards; a step takes over their relative error.
        assert epsilons(a, b) <= 16, what


def fsdp(case: Case) -> None:
    network, optimizer, _ = in_lockstep(case)
    for p in network.parameters():
        for name, value in optimizer.state[p].items():
            if isinstance(value, Tensor) and value.shape == p.shape and p.dim():
                assert value.placements == p.placements, name
                assert value.to_local().shape == p.to_local().shape, name


def fsdp_loop(case: Case) -> None:
    if "foreach" in case.ours(model().parameters()).defaults:
        in_lockstep(case, foreach=False)


def fsdp_fused(case: Case) -> None:
    network, single = sharded(), model()
    optimizer = case.ours(network.parameters(), **case.typical, fused=True)
    reference = case.ours(single.parameters(), **case.typical, fused=True)
    for step in range(STEPS):
        backward(network, step, part())
        for p, q in zip(network.parameters(), single.parameters(), strict=True):
            q.grad = whole(p.grad)
        optimizer.step()
        reference.step()
    for p, q in zip(network.parameters(), single.parameters(), strict=True):
        # Where a row starts and ends decides which elements the vectors of the kernel take, and
        # the few left over may be contracted otherwise: a rounding of each operation.
        assert epsilons(whole(p), q) <= 8


def moved(case: Case) -> None:
    """A plan must see that a shard lies elsewhere now, as after ``module.to``."""
    network, optimizer, reference = in_lockstep(case, 2)
    for p in network.parameters():
        p._local_tensor = p._local_tensor.clone()
    backward(network, 0, part())
    single = [q for group in reference.param_groups for q in group["params"]]
    for p, q in zip(network.parameters(), single, strict=True):
        q.grad = whole(p.grad)
    optimizer.step()
    reference.step()
    for p, q in zip(network.parameters(), single, strict=True):
        same(case, whole(p), q, "a parameter")


def cut_otherwise(case: Case) -> None:
    """A gradient that is not cut as its parameter is, and plain parameters beside cut ones."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (2,))
    torch.manual_seed(0)
    values = [torch.randn(6, 4), torch.randn(6, 4), torch.randn(5)]
    places = [[Shard(0)], [Replicate()], None]
    params = [
        nn.Parameter(x.clone() if place is None else distribute_tensor(x, mesh, place))
        for x, place in zip(values, places, strict=True)
    ]
    single = [nn.Parameter(x.clone()) for x in values]
    optimizer = case.ours(params, **case.typical)
    reference = case.ours(single, **case.typical)
    for step in range(4):
        for p, q, place in zip(params, single, places, strict=True):
            q.grad = torch.randn(q.shape, generator=torch.Generator().manual_seed(step))
            there = [Shard(1)] if step % 2 else place
            p.grad = q.grad if place is None else distribute_tensor(q.grad, mesh, there)
        optimizer.step()
        reference.step()
        for p, q in zip(params, single, strict=True):
            same(case, whole(p), q, f"a parameter after {step + 1} steps")


def checkpoint(case: Case, directory: Path) -> None:
    from torch.distributed import checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_state_dict,
        set_state_dict,
    )

    network = sharded()
    optimizer = case.ours(network.parameters(), **case.typical)
    before = [whole(p).clone() for p in network.parameters()]
    start = get_state_dict(network, optimizer)[1]
    assert start["state"]
    for p, old in zip(network.parameters(), before, strict=True):
        assert_same_bits(whole(p), old, "a parameter whose state was started for a checkpoint")
    forms = [StateDictOptions(), StateDictOptions(full_state_dict=True)]
    for options in forms if case.name == "Adam" else forms[:1]:
        network = sharded()
        optimizer = case.ours(network.parameters(), **case.typical)
        train(network, optimizer, range(2), part())
        # Copies: what a state dict holds is the state itself.
        saved = copy.deepcopy(get_state_dict(network, optimizer, options=options))
        train(network, optimizer, range(2, 4), part())

        other = sharded()
        resumed = case.ours(other.parameters(), **case.typical)
        set_state_dict(
            other,
            resumed,
            model_state_dict=saved[0],
            optim_state_dict=saved[1],
            options=options,
        )
        train(other, resumed, range(2, 4), part())
        for p, q in zip(network.parameters(), other.parameters(), strict=True):
            assert_same_bits(whole(q), whole(p), "a parameter")
            mine, theirs = (
                {name: whole(x) for name, x in opt.state[x].items()}
                for opt, x in ((resumed, q), (optimizer, p))
            )
            assert_same(mine, theirs, "a resumed run")

    # For another number of processes to load: the state after 4 steps, and what comes of it.
    parts = dict(zip(("model", "optimizer"), get_state_dict(network, optimizer), strict=True))
    dcp.save(parts, checkpoint_id=directory / "checkpoint" / case.name)
    expected = {
        "params": [whole(p) for p in network.parameters()],
        "state": [
            {name: whole(x) for name, x in optimizer.state[p].items()} for p in network.parameters()
        ],
    }
    if dist.get_rank() == 0:
        torch.save(expected, directory / f"{case.name}.pt")


def zero(case: Case) -> None:
    """Behind DistributedDataParallel and in ZeroRedundancyOptimizer it does as torch's does."""
    from torch.distributed.optim import ZeroRedundancyOptimizer
    from torch.nn.parallel import DistributedDataParallel

    networks = []
    for kind in (case.ours, case.torchs):
        network = DistributedDataParallel(model())
        optimizer = ZeroRedundancyOptimizer(
            network.parameters(), optimizer_class=kind, **case.typical
        )
        train(network, optimizer, range(STEPS), part())
        optimizer.consolidate_state_dict()
        if dist.get_rank() == 0:
            assert len(optimizer.state_dict()["state"]) == 6
        networks.append(network)
    for p, q in zip(*(n.parameters() for n in networks), strict=True):
        assert_same_bits(p, q, "a parameter")


ALL = [case.name for case in EVERY]
SCENARIOS: dict[str, tuple[Callable[..., None], list[str]]] = {
    "fsdp": (fsdp, ALL),
    "fsdp_loop": (fsdp_loop, ["SGD", "Adam"]),
    "moved": (moved, ["SGD", "Adam"]),
    "cut_otherwise": (cut_otherwise, ALL),
    "checkpoint": (checkpoint, ALL),
    "zero": (zero, ["Adam", "SGD"]),
}
SLOW = {"fsdp_fused": (fsdp_fused, ["Adam", "RMSprop", "NAdam", "ASGD", "Lion"])}


def main(rank: int, directory: Path, scenarios: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        f"file://{directory}/store",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=20),
    )
    for name, (scenario, optimizers) in scenarios.items():
        for optimizer in optimizers:
            more = (directory,) if name == "checkpoint" else ()
            said = directory / f"{name} {optimizer} {rank}"
            try:
                scenario(BY_NAME[optimizer], *more)
            except BaseException:
                # The other process may be waiting for this one: it must see that it is gone.
                said.write_text(traceback.format_exc())
                os._exit(1)
            said.touch()
    dist.destroy_process_group()


# ------------------------------------------------------------------ the tests


def run_both(directory: Path, which: str) -> str:
    """Run the scenarios in two processes, up to the first that fails; return what they printed."""
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
        return "\n".join([process.communicate(timeout=300)[0] for process in processes])
    finally:
        for process in processes:
            process.kill()


def check(directory: Path, output: str, scenario: str, name: str) -> None:
    """Raise if a scenario has failed, or was not reached."""
    said = [directory / f"{scenario} {name} {rank}" for rank in range(2)]
    errors = [file.read_text() for file in said if file.exists()]
    assert not any(errors), "\n".join(errors)
    assert len(errors) == 2, f"not reached: the processes ended before.\n{output}"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("two_processes")


@pytest.fixture(scope="module")
def output(directory: Path) -> str:
    return run_both(directory, "SCENARIOS")


@pytest.mark.parametrize(
    ("scenario", "name"),
    [(scenario, name) for scenario, (_, names) in SCENARIOS.items() for name in names],
)
def test_in_two_processes(directory, output, scenario, name):
    check(directory, output, scenario, name)


@pytest.mark.parametrize("name", ALL)
def test_a_checkpoint_of_two_processes_is_loaded_by_one(directory, output, name):
    from torch.distributed import checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    check(directory, output, "checkpoint", name)
    case = BY_NAME[name]
    network = model()
    optimizer = case.ours(network.parameters(), **case.typical)
    parts = dict(zip(("model", "optimizer"), get_state_dict(network, optimizer), strict=True))
    dcp.load(parts, checkpoint_id=directory / "checkpoint" / name)
    set_state_dict(
        network,
        optimizer,
        model_state_dict=parts["model"],
        optim_state_dict=parts["optimizer"],
    )
    expected = torch.load(directory / f"{name}.pt")
    for p, q, state in zip(
        network.parameters(), expected["params"], expected["state"], strict=True
    ):
        assert_same_bits(p, q, "a parameter")
        assert_same(optimizer.state.get(p, {}), state, "a loaded state")


# ------------------------------------------------------------------ in one process


@pytest.mark.parametrize("case", EVERY, ids=repr)
def test_a_state_dict_by_names_resumes_to_the_same_bits(case):
    from torch.distributed.checkpoint.state_dict import (
        get_optimizer_state_dict,
        get_state_dict,
        set_optimizer_state_dict,
        set_state_dict,
    )

    network = model()
    optimizer = case.ours(network.parameters(), **case.typical)
    train(network, optimizer, range(2))
    weights, saved = copy.deepcopy(get_state_dict(network, optimizer))
    assert_same(copy.deepcopy(get_optimizer_state_dict(network, optimizer)), saved)
    train(network, optimizer, range(2, 4))
    for both in (True, False):
        other = model()
        resumed = case.ours(other.parameters(), **case.typical)
        if both:
            set_state_dict(
                other,
                resumed,
                model_state_dict=copy.deepcopy(weights),
                optim_state_dict=copy.deepcopy(saved),
            )
        else:
            other.load_state_dict(weights)
            set_optimizer_state_dict(other, resumed, copy.deepcopy(saved))
        train(other, resumed, range(2, 4))
        for p, q in zip(network.parameters(), other.parameters(), strict=True):
            assert_same_bits(q, p, "a parameter")
            assert_same(resumed.state[q], optimizer.state[p], "a resumed run")


@each_case
def test_starting_the_state_for_a_checkpoint_leaves_the_parameters(case):
    from torch.distributed.checkpoint.state_dict import _init_optim_state

    network = model()
    optimizer = case.ours(network.parameters(), **case.typical)
    before = [p.detach().clone() for p in network.parameters()]
    lr = optimizer.param_groups[0]["lr"]
    _init_optim_state(optimizer)
    for p, old in zip(network.parameters(), before, strict=True):
        assert_same_bits(p, old, "a parameter")
        assert p.grad is None
        stepped = trained(case, gradients()[:1])
        assert set(optimizer.state.get(p, {})) == set(next(iter(stepped.state.values())))
    assert optimizer.param_groups[0]["lr"] == lr


@pytest.mark.slow
def test_compiled_in_two_processes(tmp_path):
    output = run_both(tmp_path, "SLOW")
    for name in SLOW["fsdp_fused"][1]:
        check(tmp_path, output, "fsdp_fused", name)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), globals()[sys.argv[3]])
