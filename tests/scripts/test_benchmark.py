"""The benchmark compares like with like, and counts what a step holds to the byte."""

from __future__ import annotations

import gc
import json
import weakref

import pytest
import torch

import benchmark
import scratch_optim
import tables

CPU = torch.device("cpu")
FEW = [torch.Size((4, 3, 3, 3)), torch.Size((4,))]
MIB = 2**20


def hold(*sizes: int) -> None:
    """Allocate tensors of these bytes one after the other, each before the last is given up."""
    last = None
    for size in sizes:
        last = torch.empty(size, dtype=torch.uint8)
    del last


@pytest.mark.parametrize(
    ("sizes", "peak"), [((), 0), ((MIB,), 1), ((MIB, MIB, MIB), 2), ((4 * MIB, MIB, MIB, MIB), 5)]
)
def test_peak_memory_is_the_most_held_at_a_time(sizes, peak):
    assert benchmark.peak_memory(lambda: hold(*sizes), CPU) == peak * MIB


def test_peak_memory_counts_from_what_was_there_before():
    kept = [torch.empty(4 * MIB, dtype=torch.uint8)]

    def replace():
        kept.append(torch.empty(MIB, dtype=torch.uint8))
        del kept[0]
        hold(MIB // 2)

    assert benchmark.peak_memory(replace, CPU) == MIB


def test_peak_memory_of_torch_lists_is_the_size_of_the_parameters():
    # Adam on lists makes the square root of the second moment, and nothing beside it.
    params = benchmark.parameters([torch.Size((MIB // 4,))] * 3, CPU)
    step = torch.optim.Adam(params, foreach=True).step
    step()
    assert 3 * MIB <= benchmark.peak_memory(step, CPU) < 3 * MIB + 4096  # and numbers


class Node:
    """Garbage that only the collector frees: it holds itself."""

    def __init__(self):
        self.itself = self


@pytest.mark.parametrize("enabled", [True, False])
def test_no_garbage_is_collected_while_the_clock_runs(enabled):
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        old = weakref.ref(Node())
        with benchmark.no_garbage():
            assert old() is None
            assert not gc.isenabled()
        assert gc.isenabled() == enabled
        with pytest.raises(KeyError), benchmark.no_garbage():
            raise KeyError
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()


def test_contestants_take_turns_and_the_first_rounds_do_not_count():
    calls = []
    clock = benchmark.Clock(CPU, seconds=0, rounds=3)
    names = ["a", "b", "c"]
    times = clock.compare({name: lambda name=name: calls.append(name) for name in names})
    assert {name: len(seconds) for name, seconds in times.items()} == dict.fromkeys(names, 3)
    assert [sorted(calls[i : i + 3]) for i in range(0, 15, 3)] == [names] * 5


def test_figures_are_medians_over_the_rounds():
    times = {"ours": [1.0, 1.0, 9.0], "theirs": [2.0, 4.0, 3.0]}
    found = benchmark.figures(times, "ours", "theirs")
    assert found == {
        "ratio": 0.5,  # of 0.5, 0.25 and 3
        "microseconds": 1e6,
        "microseconds_against": 3e6,
        "rounds": 3,
    }


def test_every_optimizer_is_measured_in_every_way_it_has():
    names = benchmark.known_optimizers()
    assert {"SGD", "RMSprop", "Adam", "AdamW", "Adagrad", "ASGD"} <= set(names)
    assert not {"Optimizer", "SparseAdam"} & set(names)
    for name in names:
        steps = benchmark.contestants(name, FEW, CPU)
        assert {f"scratch {way}" for way in benchmark.ways(getattr(scratch_optim, name))} == {
            key for key in steps if key.startswith("scratch")
        }
        torchs = getattr(torch.optim, benchmark.original(name))
        assert ("torch fused" in steps) == benchmark.takes(torchs, "fused")
    assert "torch fused" not in benchmark.contestants("RMSprop", FEW, CPU)
    assert "scratch fused" in benchmark.contestants("RMSprop", FEW, CPU)


@pytest.mark.parametrize("name", ["SGD", "Adam", "Rprop"])
def test_contestants_work_on_the_same_parameters(name, monkeypatch):
    seen = []
    monkeypatch.setattr(
        benchmark, "step_of", lambda cls, params, options: seen.append(list(map(id, params)))
    )
    assert len(benchmark.contestants(name, FEW, CPU)) == len(seen) >= 5
    assert all(ids == seen[0] for ids in seen)


def seconds(**medians: float) -> dict[str, list[float]]:
    return {name.replace("_", " "): [value] * 3 for name, value in medians.items()}


@pytest.mark.parametrize(
    ("name", "times", "against"),
    [
        ("SGD", seconds(torch_foreach=1, torch_fused=3, scratch_fused=1), "torch fused"),
        ("RMSprop", seconds(torch_foreach=2, torch_loop=1, scratch_fused=1), "torch loop"),
        ("Lion", seconds(torch_foreach=1, torch_fused=3, scratch_fused=1), "torch AdamW foreach"),
    ],
)
def test_what_torch_has_not_stands_beside_its_fastest_way(name, times, against, monkeypatch):
    clock = benchmark.Clock(CPU, 0, 1)
    monkeypatch.setattr(clock, "compare", lambda steps: times)
    ((way, ours, theirs, found),) = benchmark.compared(clock, name, dict.fromkeys(times))
    assert (way, ours) == ("fused", "scratch fused")
    assert benchmark.against(name, theirs) == against
    assert found["ratio"] == times[ours][0] / times[theirs][0]


def test_muon_is_given_the_weights_as_matrices():
    shapes = [torch.Size(s) for s in [(8, 4, 3, 3), (8,), (10, 8), ()]]
    assert benchmark.matrices(shapes) == [(8, 36), (10, 8)]


def test_lbfgs_has_always_far_to_go():
    params = benchmark.parameters([torch.Size((50,))], CPU)
    optimizer = torch.optim.LBFGS
    step = benchmark.step_of(optimizer, params, benchmark.OPTIONS["LBFGS"])
    for _ in range(300):
        step()
    (own,) = step.func.__self__.param_groups[0]["params"]
    assert own.abs().max() > 0.01
    state = step.func.__self__.state[own]
    assert state["n_iter"] == 300
    assert len(state["old_dirs"]) == 10


@pytest.mark.parametrize("clips", [True, False])
def test_clipping_leaves_the_gradients_in_range(clips):
    params = benchmark.parameters(FEW, CPU)
    norm = torch.nn.utils.get_total_norm([p.grad for p in params]).item()
    before = [p.grad.clone() for p in params]
    limit = [norm if clips else 2 * norm]
    run = benchmark.clipping(torch.nn.utils, params, limit, 1 - 1e-5 if clips else 1.0)
    for _ in range(1000):
        run()
    after = torch.nn.utils.get_total_norm([p.grad for p in params]).item()
    # 1000 factors of 1 - 1e-5; each multiplication rounds by half a unit in the last place.
    expected = norm * (1 - 1e-5) ** 1000 if clips else norm
    assert after == pytest.approx(expected, rel=1000 * 2**-24)
    if not clips:
        torch.testing.assert_close([p.grad for p in params], before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["optimisers"], "unknown benchmark 'optimisers'"),
        (["--only", "Adam,Eve"], "--only Eve: unknown; choose from Ad"),
    ],
)
def test_a_mistake_is_named_with_the_choice(argv, message, capsys):
    with pytest.raises(SystemExit) as error:
        benchmark.parsed(argv)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_a_report_that_is_not_whole_replaces_none(tmp_path):
    assert benchmark.parsed([]).out == benchmark.RESULTS
    assert benchmark.parsed(["--quick"]).out is None
    assert benchmark.parsed(["--only", "Adam"]).out is None
    assert benchmark.parsed(["--quick", "--out", str(tmp_path)]).out == tmp_path


@pytest.mark.slow
def test_a_quick_look_ends_in_a_report_and_its_tables(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "put back afterwards")
    argv = ["optimizers", "--quick", "--only", "SGD,RMSprop", "--device", "cpu"]
    benchmark.main([*argv, "--out", str(tmp_path)])
    report = json.loads((tmp_path / "optimizers-cpu.json").read_text())
    assert tables.optimizers(report) in capsys.readouterr().out
    assert {(r["optimizer"], r["parameters"], r["way"]) for r in report["rows"]} == {
        (optimizer, parameters, way)
        for optimizer in ("SGD", "RMSprop")
        for parameters in ("ResNet-20", "ResNet-18")
        for way in tables.WAYS
    }
    assert all(row["ratio"] > 0 and row["peak_bytes"] >= 0 for row in report["rows"])
    (first,) = report["compile"]
    # SGD's first step and those that find a momentum, for small tensors and for large ones.
    assert (first["optimizer"], first["kernels"], first["steps"]) == ("SGD", 4, 200)
    assert first["kernels_of_ten_steps"] == first["kernels"]
    assert 0 < first["first_step_seconds"] < first["cold_first_step_seconds"]
    assert report["graphs"] == []
    assert {row["what"] for row in report["helpers"]} >= {"EMA of the weights"}
