"""How long the hand-written stack takes, beside the built-in one in the same process.

    python scripts/benchmark.py                             everything, about 20 minutes on 2 cores
    python scripts/benchmark.py optimizers --only Adam,SGD  some of the optimizers
    python scripts/benchmark.py optimizers --quick          a first look

Machines are shared and their clocks change, so no time is compared with a time of another minute.
All contestants of a comparison take turns, in a new order each round; the figure is the median of
the ratios of the rounds. Optimizers work on the same parameters and gradients. A report is shown as
tables and written as JSON, with the versions and the machine; what ``--only`` or ``--quick``
leaves incomplete is written only where ``--out`` says.
"""

from __future__ import annotations

import argparse
import gc
import inspect
import json
import math
import multiprocessing
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler tells of itself

import torch
from torch import Tensor, nn

import scratch_layers
import scratch_optim
import scratch_optim.clip_grad
import scratch_optim.fused
import scratch_optim.swa_utils
import tables
from layer_samples import FAMILIES, Sample, Shape, alike
from scratch_layers.resnet import resnet18, resnet20

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"

Report: TypeAlias = dict[str, list[dict[str, Any]]]
"""The sections of a report: rows of figures."""

OPTIONS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4},
    # An iteration a step, so that no tolerance ends it; small, so that it has always far to go.
    "LBFGS": {"lr": 1e-3, "max_iter": 1, "history_size": 10},
}
"""Options of optimizers whose defaults are not what one uses."""

LIKE = {"LAMB": "AdamW", "LARS": "SGD", "Lion": "AdamW", "Momentum": "SGD"}
"""What to put beside those that torch has not, for orientation: what one would use instead."""

WAYS: dict[str, dict[str, bool]] = {
    "for-loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
LARGE = "4 x 4096x4096"
FIRST_STEPS = ("SGD", "Adam", "RAdam", "Rprop")
"""Of which the time to the first fused step is taken: short equations and long ones."""

LARGE_ON_CPU = ("SGD", "RMSprop", "Adam", "AdamW")
"""The optimizers to run on it on a CPU: one step in one way takes up to half a second."""


@contextmanager
def no_garbage() -> Iterator[None]:
    """Collect garbage before, and none within: it would be the time and memory of another."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Clock:
    """Times contestants in turn.

    Args:
        device: where the work is done; on CUDA its own clock times it.
        seconds: how long a comparison may take, at least.
        rounds: how many rounds it takes, at least.
    """

    def __init__(self, device: torch.device, seconds: float, rounds: int) -> None:
        self.device, self.seconds, self.rounds = device, seconds, rounds

    def once(self, run: Callable[[], Any]) -> float:
        """Return the seconds that one run takes, from its first line to its last result."""
        if self.device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize(self.device)
            begin.record()
            run()
            end.record()
            end.synchronize()
            return begin.elapsed_time(end) / 1e3
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    def compare(self, contestants: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
        """Return the seconds of each contestant in each round, after two rounds not counted."""
        times: dict[str, list[float]] = {name: [] for name in contestants}
        order = list(contestants)
        with no_garbage():
            started, done = time.perf_counter(), -2
            while done < self.rounds or time.perf_counter() - started < self.seconds:
                random.shuffle(order)
                for name in order:
                    seconds = self.once(contestants[name])
                    if done >= 0:
                        times[name].append(seconds)
                done += 1
        return times


def figures(times: dict[str, list[float]], ours: str, theirs: str) -> dict[str, float]:
    """Return the median of ours / theirs over the rounds, and the medians of both."""
    ratios = [a / b for a, b in zip(times[ours], times[theirs], strict=True)]
    return {
        "ratio": statistics.median(ratios),
        "microseconds": 1e6 * statistics.median(times[ours]),
        "microseconds_against": 1e6 * statistics.median(times[theirs]),
        "rounds": len(ratios),
    }


def peak_memory(run: Callable[[], Any], device: torch.device) -> int:
    """Return how many bytes ``run`` held at most beyond what was there before.

    It is run twice, and the second time counts.
    """
    with no_garbage():
        if device.type == "cuda":
            run()
            torch.cuda.synchronize(device)
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            run()
            torch.cuda.synchronize(device)
            return torch.cuda.max_memory_allocated(device) - before
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as profile:
            run()  # what this leaves the next run may free; of older memory no event would tell
            with torch.profiler.record_function("measured"):
                run()
    events = profile.profiler.kineto_results.events()
    (begin,) = [e.start_ns() for e in events if e.name() == "measured"]
    memory = [e for e in events if e.name() == "[memory]" and e.start_ns() >= begin]
    held = peak = 0
    for event in sorted(memory, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def parameter_sets() -> dict[str, list[torch.Size]]:
    """Return the shapes of the parameters to benchmark optimizers on."""
    return {
        "ResNet-20": [p.shape for p in resnet20().parameters()],
        "ResNet-18": [p.shape for p in resnet18().parameters()],
        LARGE: [torch.Size((4096, 4096))] * 4,
    }


def parameters(shapes: Sequence[torch.Size], device: torch.device) -> list[nn.Parameter]:
    """Return parameters of these shapes, with gradients."""
    params = [nn.Parameter(torch.randn(shape, device=device)) for shape in shapes]
    for p in params:
        p.grad = 0.1 * torch.randn_like(p)
    return params


def known_optimizers() -> list[str]:
    """Return the names of the optimizers of ``scratch_optim`` that take dense gradients."""
    names = [
        name
        for name in set(scratch_optim.__all__) - {"Optimizer", "SparseAdam"}
        if inspect.isclass(value := getattr(scratch_optim, name))
        and issubclass(value, torch.optim.Optimizer)
        and takes(value, "params")  # Lookahead takes another optimizer
    ]
    return sorted(names, key=str.lower)


def original(name: str) -> str:
    """Return the name of the optimizer of ``torch.optim`` to compare with."""
    return name if hasattr(torch.optim, name) else LIKE.get(name, "AdamW")


def takes(optimizer: type, option: str) -> bool:
    """Whether the class has this option."""
    return option in inspect.signature(optimizer).parameters


def ways(optimizer: type) -> dict[str, dict[str, bool]]:
    """Return the ways in which the class runs, with the options that ask for them."""
    known = {way: how for way, how in WAYS.items() if takes(optimizer, *how)}
    return known or {"for-loop": {}}


def matrices(shapes: Sequence[torch.Size]) -> list[torch.Size]:
    """Return the shapes of weights as matrices, for Muon, which takes nothing else."""
    return [torch.Size((s[0], math.prod(s[1:]))) for s in shapes if len(s) >= 2]


def step_of(
    cls: type[torch.optim.Optimizer], params: list[nn.Parameter], options: dict[str, Any]
) -> Callable[[], Any]:
    """Return a step of an optimizer, without arguments."""
    if cls.__name__ != "LBFGS":
        return cls(params, **options).step
    # It looks at how the gradient changes from step to step, so this one has parameters of its own
    # and a function to minimize: half the sum of c theta^2.
    own = [nn.Parameter(p.detach().clone()) for p in params]
    curvatures = [torch.linspace(1e-3, 1, p.numel(), device=p.device).view_as(p) for p in own]
    for p in own:
        p.grad = torch.empty_like(p)

    def closure() -> float:
        for p, c in zip(own, curvatures, strict=True):
            torch.mul(p.detach(), c, out=p.grad)
        return 0.0

    return partial(cls(own, **options).step, closure)


def contestants(
    name: str, shapes: Sequence[torch.Size], device: torch.device
) -> dict[str, Callable[[], Any]]:
    """Return a step of an optimizer in each way of both libraries, of the same parameters."""
    theirs, ours = getattr(torch.optim, original(name)), getattr(scratch_optim, name)
    params = parameters(matrices(shapes) if name == "Muon" else shapes, device)
    return {
        f"{library} {way}": step_of(cls, params, {**OPTIONS.get(cls.__name__, {}), **how})
        for library, cls in (("torch", theirs), ("scratch", ours))
        for way, how in ways(cls).items()
    }


REPLAYS = 10
"""How often a captured step is replayed at a time: one takes as long as the events around it."""

SETTLED = 8
"""After so many steps no equation is new: RAdam's changes at its sixth."""


def captured(step: Callable[[], Any]) -> Callable[[], Any]:
    """Return replays of the CUDA graph of a step."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(SETTLED):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()

    def run(_held: Any = step) -> None:  # the graph itself holds no memory that it works on
        for _ in range(REPLAYS):
            graph.replay()

    return run


def graphs(
    name: str, shapes: Sequence[torch.Size], device: torch.device
) -> dict[str, Callable[[], Any]]:
    """Return captured steps, ``capturable``, where both libraries have that option."""
    theirs, ours = getattr(torch.optim, original(name)), getattr(scratch_optim, name)
    if not (takes(theirs, "capturable") and takes(ours, "capturable")):
        return {}
    params = parameters(shapes, device)
    return {
        f"{library} {way}": captured(
            step_of(cls, params, {**OPTIONS.get(cls.__name__, {}), **how, "capturable": True})
        )
        for library, cls in (("torch", theirs), ("scratch", ours))
        for way, how in ways(cls).items()
        if way != "for-loop"
    }


def compared(
    clock: Clock, name: str, steps: dict[str, Callable[[], Any]]
) -> Iterator[tuple[str, str, str, dict[str, float]]]:
    """Time steps in turn; yield each of our ways, its contestant, torch's, and the figures."""
    times = clock.compare(steps)
    fastest = min(
        (key for key in times if key.startswith("torch")),
        key=lambda key: statistics.median(times[key]),
    )
    for ours in steps:
        library, way = ours.split(" ", 1)
        if library == "scratch":
            same = original(name) == name and f"torch {way}" in steps
            theirs = f"torch {way}" if same else fastest
            yield way, ours, theirs, figures(times, ours, theirs)


def against(name: str, theirs: str) -> str:
    """Return torch's contestant, named in full if it is no optimizer of the same name."""
    if original(name) == name:
        return theirs
    library, way = theirs.split(" ", 1)
    return f"{library} {original(name)} {way}"


def first_steps(name: str, device: str, steps: int) -> dict[str, float]:
    """Time the first fused steps of a process, on ResNet-18's parameters; to be run in a new one.

    The learning rate changes with every step.

    Returns:
        ``first_step_seconds``; ``ten_steps_seconds``, which holds what is compiled later, such as
        the step of SGD that finds a momentum; and how many kernels have been compiled in the first
        ten steps and in all.
    """
    optimizer = getattr(scratch_optim, name)(
        parameters(parameter_sets()["ResNet-18"], torch.device(device)),
        **OPTIONS.get(name, {}),
        fused=True,
    )
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    clock = Clock(torch.device(device), 0, 0)
    seconds, kernels = [], []
    for _ in range(steps):
        seconds.append(clock.once(optimizer.step))
        kernels.append(scratch_optim.fused.kernel.cache_info().misses)
        schedule.step()
    return {
        "first_step_seconds": seconds[0],
        "ten_steps_seconds": sum(seconds[:10]),
        "kernels_of_ten_steps": kernels[:10][-1],
        "kernels": kernels[-1],
        "steps": steps,
    }


def benchmark_first_steps(name: str, device: torch.device, cache: str) -> dict[str, Any]:
    """Time the first fused steps in two new processes: without and with Inductor's cache."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
    found = []
    for steps in (10, 200):
        # spawn: a process of its own, which has imported nothing yet.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as process:
            found.append(process.submit(first_steps, name, str(device), steps).result())
    cold, warm = found
    print(
        f"{cold['first_step_seconds']:5.1f} s  {name}, first fused step; "
        f"{warm['first_step_seconds']:.1f} s when cached",
        flush=True,
    )
    return {
        "optimizer": name,
        **warm,
        **{f"cold_{key}": value for key, value in cold.items() if key.endswith("seconds")},
    }


def benchmark_steps(
    clock: Clock, name: str, title: str, shapes: Sequence[torch.Size]
) -> list[dict[str, Any]]:
    """Compare the time and memory of a step of an optimizer in each way."""
    steps = contestants(name, shapes, clock.device)
    rows = []
    for way, ours, theirs, found in compared(clock, name, steps):
        rows.append(
            {
                "parameters": title,
                "optimizer": name,
                "way": way,
                "against": against(name, theirs),
                **found,
                "peak_bytes": peak_memory(steps[ours], clock.device),
                "peak_bytes_against": peak_memory(steps[theirs], clock.device),
            }
        )
        print_row(rows[-1], "parameters", "optimizer", "way")
    return rows


def benchmark_graphs(
    clock: Clock, name: str, title: str, shapes: Sequence[torch.Size]
) -> list[dict[str, Any]]:
    """Compare the time of a captured step of an optimizer in each way."""
    steps = graphs(name, shapes, clock.device)
    rows: list[dict[str, Any]] = []
    for way, _, theirs, found in compared(clock, name, steps) if steps else ():
        for key in ("microseconds", "microseconds_against"):
            found[key] /= REPLAYS
        row = {"parameters": title, "optimizer": name, "way": way, "against": against(name, theirs)}
        rows.append({**row, **found})
        print_row(rows[-1], "parameters", "optimizer", "way")
    return rows


def benchmark_optimizers(clock: Clock, names: Sequence[str], *, quick: bool) -> Report:
    """Compare steps of optimizers, in each way, with torch's ways.

    Args:
        clock: how long and where.
        names: of the optimizers.
        quick: without the largest parameters, and first steps of the first of the named few only.
    """
    report: Report = {"rows": [], "compile": [], "graphs": [], "helpers": []}
    on_cuda = clock.device.type == "cuda"
    sets = parameter_sets()
    for name in names:
        with tempfile.TemporaryDirectory() as cache:  # of its own, and so cold
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
            fused = "fused" in ways(getattr(scratch_optim, name))
            if fused and name in (FIRST_STEPS[:1] if quick else FIRST_STEPS):
                report["compile"].append(benchmark_first_steps(name, clock.device, cache))
            for step in contestants(name, sets["ResNet-20"], clock.device).values():
                for _ in range(SETTLED):  # compiles for all sets: kernels know no shapes
                    step()
            for title, shapes in sets.items():
                if title != LARGE or (not quick and (on_cuda or name in LARGE_ON_CPU)):
                    report["rows"] += benchmark_steps(clock, name, title, shapes)
                    if on_cuda:
                        report["graphs"] += benchmark_graphs(clock, name, title, shapes)
    report["helpers"] = benchmark_helpers(clock)
    return report


def clipping(
    module: Any, params: list[nn.Parameter], limit: list[float], factor: float
) -> Callable[[], Any]:
    """Return a call of ``clip_grad_norm_`` that multiplies ``limit`` by ``factor`` first."""

    def run() -> None:
        limit[0] *= factor
        module.clip_grad_norm_(params, limit[0])

    return run


def benchmark_helpers(clock: Clock) -> list[dict[str, Any]]:
    """Compare what goes with a step: clipping, averages, and the one optimizer of sparse rows."""
    rows: list[dict[str, Any]] = []

    def row(what: str, title: str, ours: Callable[[], Any], theirs: Callable[[], Any]) -> None:
        times = clock.compare({"scratch": ours, "torch": theirs})
        rows.append({"what": what, "parameters": title, **figures(times, "scratch", "torch")})
        print_row(rows[-1], "parameters", "what")

    device = clock.device
    for title, make in {"ResNet-20": resnet20, "ResNet-18": resnet18}.items():
        model = make().to(device)
        params = parameters([p.shape for p in model.parameters()], device)
        norm = nn.utils.get_total_norm([p.grad for p in params if p.grad is not None]).item()
        # A limit that sinks by a hair's breadth clips each time, and leaves the gradients in range.
        for what, limit, factor in (
            ("clip_grad_norm_ below the limit", [2 * norm], 1.0),
            ("clip_grad_norm_ above the limit", [norm], 1 - 1e-5),
        ):
            libraries = (scratch_optim.clip_grad, nn.utils)
            row(what, title, *[clipping(m, params, limit, factor) for m in libraries])
        averages = [
            m.AveragedModel(model, multi_avg_fn=m.get_ema_multi_avg_fn(0.999))
            for m in (scratch_optim.swa_utils, torch.optim.swa_utils)
        ]
        row("EMA of the weights", title, *[partial(a.update_parameters, model) for a in averages])
    embedding = nn.Parameter(torch.randn(100_000, 64, device=device))
    named = torch.randperm(len(embedding), device=device)[:1024]
    values = torch.randn(len(named), 64, device=device)
    embedding.grad = torch.sparse_coo_tensor(
        named[None], values, embedding.shape, check_invariants=False
    )
    adams = [module.SparseAdam([embedding]).step for module in (scratch_optim, torch.optim)]
    row("step of SparseAdam", "1024 rows of 100000x64", *adams)
    return rows


def forward_backward(layer: nn.Module, inputs: Sequence[Tensor], d_y: Tensor) -> Callable[[], None]:
    """Return a pass through ``layer`` and back that keeps nothing."""
    by = [x for x in (*inputs, *layer.parameters()) if x.requires_grad]
    # what overwrites its input may not overwrite a leaf
    enter = torch.clone if getattr(layer, "inplace", False) else lambda x: x

    def run() -> None:
        for x in by:
            x.grad = None
        layer(enter(inputs[0]), *inputs[1:]).backward(d_y)

    return run


def layouts(sample: Sample, shape: Shape) -> list[torch.memory_format]:
    """Return the memory formats in which to measure."""
    return [torch.contiguous_format] + [torch.channels_last] * sample.channels_last


def benchmark_layer(
    clock: Clock, sample: Sample, shape: Shape, memory_format: torch.memory_format
) -> Iterator[dict[str, Any]]:
    """Compare forward and backward of a layer with the native one, eager and compiled, float32."""
    given = [
        x.to(clock.device, torch.float32 if x.is_floating_point() else x.dtype)
        for x in sample.inputs(shape)
    ]
    inputs = [x.to(memory_format=memory_format) if x.dim() == 4 else x for x in given]
    operands = 2 if sample.others is alike and sample.built_in else 1
    for x in inputs[:operands]:
        x.requires_grad_()
    layers = [sample.make(library, shape).to(clock.device) for library in (nn, scratch_layers)]
    d_y = torch.randn_like(layers[0](inputs[0] * 1, *inputs[1:]))
    native, by_hand = (forward_backward(layer, inputs, d_y) for layer in layers)

    compiled = with_kernels(by_hand)
    first = clock.once(compiled)
    # Not all three at once: what one leaves in the allocator, the next one meets.
    for way, run in {"eager": by_hand, "compiled": compiled}.items():
        times = clock.compare({"native": native, way: run})
        yield {
            "layer": sample.name,
            "shape": "x".join(map(str, shape)),
            "memory_format": str(memory_format).removeprefix("torch."),
            "way": way,
            **figures(times, way, "native"),
            "first_pass_seconds": first if way == "compiled" else None,
        }


def known_layers() -> list[str]:
    """Return the names of the layers that there are samples of."""
    return list(dict.fromkeys(s.layer for samples in FAMILIES.values() for s in samples))


def benchmark_layers(clock: Clock, names: Sequence[str]) -> Report:
    """Compare forward and backward of layers with native ones, float32.

    Args:
        clock: how long and where.
        names: of the layers.
    """
    rows = []
    for family, samples in FAMILIES.items():
        for sample in samples:
            if sample.layer not in names:
                continue
            for shape in sample.shapes:
                for memory_format in layouts(sample, shape):
                    for row in benchmark_layer(clock, sample, shape, memory_format):
                        rows.append({"family": family, **row})
                        print_row(rows[-1], "layer", "shape", "memory_format", "way")
    return {"rows": rows}


def training_step(
    libraries: tuple[Any, Any],
    *,
    fused: bool | None,
    batch: int,
    device: Any,
    compiled: bool = False,
    fused_layers: bool = False,
) -> Any:
    """Return a training step of ResNet-18 on random images."""
    layers, optim = libraries
    torch.manual_seed(0)
    model = resnet18(layers, fused=fused_layers).to(device)
    forward = torch.compile(model) if compiled else model
    loss = layers.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=fused)
    images = torch.randn(batch, 3, 32, 32, device=device)
    labels = torch.randint(10, (batch,), device=device)

    def run() -> None:
        optimizer.zero_grad()
        loss(forward(images), labels).backward()
        optimizer.step()

    return run


def with_kernels(run: Callable[[], None]) -> Callable[[], None]:
    """Return ``run`` with compiled kernels."""

    def compiled() -> None:
        with scratch_layers.compile_kernels():
            run()

    return compiled


def benchmark_training(clock: Clock, batch: int) -> Report:
    """Compare a whole training step of ResNet-18, SGD with momentum."""
    ours, theirs = (scratch_layers, scratch_optim), (nn, torch.optim)
    step = partial(training_step, batch=batch, device=clock.device)
    runs: dict[str, Callable[[], Any]] = {
        "built-in": step(theirs, fused=None),
        "by hand": step(ours, fused=None),
        "by hand, kernels": with_kernels(step(ours, fused=None)),
        "built-in, fused": step(theirs, fused=True),
        "by hand, kernels, fused": with_kernels(step(ours, fused=True, fused_layers=True)),
        "built-in, torch.compile": step(theirs, fused=True, compiled=True),
        "by hand, torch.compile": step(ours, fused=True, compiled=True),
    }
    rows = []
    for name, against in {
        "by hand": "built-in",
        "by hand, kernels": "built-in",
        "by hand, kernels, fused": "built-in, fused",
        "by hand, torch.compile": "built-in, torch.compile",
    }.items():
        first = clock.once(runs[name])
        clock.once(runs[against])
        # Not all at once: what one leaves in the allocator, the next one meets.
        times = clock.compare({name: runs[name], against: runs[against]})
        rows.append(
            {
                "stack": name,
                "against": against,
                "batch": batch,
                **figures(times, name, against),
                "images_per_second": batch / statistics.median(times[name]),
                "images_per_second_against": batch / statistics.median(times[against]),
                "first_step_seconds": first,
            }
        )
        print_row(rows[-1], "stack")
    return {"rows": rows}


def print_row(row: dict[str, Any], *names: str) -> None:
    """Print the ratio of one comparison."""
    print(f"{row['ratio']:6.2f}  " + "  ".join(str(row[name]) for name in names), flush=True)


def machine(device: torch.device) -> dict[str, Any]:
    """Return what ran the benchmark."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        processor = names[0].split(":")[1].strip() if names else processor
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": processor,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


def parsed(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; a mistake ends the program with a message."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    known = list(tables.OF)
    parser.add_argument(
        "what",
        nargs="*",
        metavar=" | ".join(known),
        help="what to measure (default: all of it)",
    )
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default=default, help="default: %(default)s"
    )
    parser.add_argument("--batch", type=int, default=64, help="of the training step (%(default)s)")
    parser.add_argument(
        "--only", metavar="NAMES", help="optimizers or layers to measure, as in Adam,SGD"
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the time, less certain")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for the JSON reports (default: benchmarks/results; none if the report is not "
        "whole, with --only or --quick)",
    )
    arguments = parser.parse_args(argv)
    for what in arguments.what:
        if what not in known:
            parser.error(f"unknown benchmark {what!r}; choose from {', '.join(known)}")
    arguments.what = arguments.what or known
    known_names = [*known_optimizers(), *known_layers()]
    whole = not (arguments.only or arguments.quick)
    arguments.only = arguments.only.split(",") if arguments.only else known_names
    for name in arguments.only:
        if name not in known_names:
            parser.error(f"--only {name}: unknown; choose from {', '.join(known_names)}")
    if whole and arguments.out is None:
        arguments.out = RESULTS
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmarks named on the command line, show and write their reports."""
    arguments = parsed(argv)
    device, quick = torch.device(arguments.device), arguments.quick
    benchmarks: dict[str, Callable[[], Report]] = {
        "optimizers": lambda: benchmark_optimizers(
            short, [name for name in known_optimizers() if name in arguments.only], quick=quick
        ),
        "layers": lambda: benchmark_layers(short, arguments.only),
        "training": lambda: benchmark_training(clock, arguments.batch),
    }
    short = Clock(device, *((0.2, 5) if quick else (1.2, 11)))
    clock = Clock(device, *((0.5, 5) if quick else (5.0, 15)))
    # A cache of its own, so that the time of the first step is that of a cold start.
    with tempfile.TemporaryDirectory() as cache:
        for what in arguments.what:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
            report = {"benchmark": what, "machine": machine(device), **benchmarks[what]()}
            print(f"\n{tables.OF[what](report)}\n")
            if arguments.out is not None:
                arguments.out.mkdir(parents=True, exist_ok=True)
                path = arguments.out / f"{what}-{device.type}.json"
                path.write_text(json.dumps(report, indent=1) + "\n")
                print(f"-> {path}")


if __name__ == "__main__":
    main()
