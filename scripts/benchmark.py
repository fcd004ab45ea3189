"""How long the hand-written stack takes, beside the built-in one in the same process.

    python scripts/benchmark.py                      everything, about 15 minutes on 2 cores
    python scripts/benchmark.py optimizers --quick   a first look

Machines are shared and their clocks change, so no time is compared with a time of another minute.
All contestants of a comparison take turns, in a new order each round; the figure is the median of
the ratios of the rounds. Optimizers work on the same parameters and gradients. A report is written
as JSON, with the versions and the machine, and as a table on the screen.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or the profiler tells of itself

import torch
from torch import Tensor, nn

import scratch_layers
import scratch_optim
from scratch_layers.resnet import resnet18, resnet20

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"

OPTIMIZERS: dict[str, dict[str, Any]] = {
    "SGD": {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4},
    "RMSprop": {"lr": 1e-3},
    "Adam": {"lr": 1e-3},
    "AdamW": {"lr": 1e-3},
}
WAYS: dict[str, dict[str, bool]] = {
    "for-loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
SHAPES = [(64, 32), (128, 16), (256, 8), (512, 4)]  # channels, height and width


class Clock:
    """Times contestants in turn.

    Args:
        device: is waited for around each run.
        seconds: how long a comparison may take, at least.
        rounds: how many rounds it takes, at least.
    """

    def __init__(self, device: torch.device, seconds: float, rounds: int) -> None:
        self.device, self.seconds, self.rounds = device, seconds, rounds

    def once(self, run: Callable[[], Any]) -> float:
        """Return the seconds that one run takes."""
        self._wait()
        start = time.perf_counter()
        run()
        self._wait()
        return time.perf_counter() - start

    def compare(self, contestants: dict[str, Callable[[], Any]]) -> dict[str, list[float]]:
        """Return the seconds of each contestant in each round, after two rounds not counted."""
        times: dict[str, list[float]] = {name: [] for name in contestants}
        order = list(contestants)
        started, done = time.perf_counter(), -2
        while done < self.rounds or time.perf_counter() - started < self.seconds:
            random.shuffle(order)
            for name in order:
                seconds = self.once(contestants[name])
                if done >= 0:
                    times[name].append(seconds)
            done += 1
        return times

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def median_ratio(times: dict[str, list[float]], ours: str, theirs: str) -> float:
    """Return the median over the rounds of ours / theirs."""
    return statistics.median(a / b for a, b in zip(times[ours], times[theirs], strict=True))


def peak_memory(run: Callable[[], Any], device: torch.device) -> int:
    """Return how many bytes ``run`` held at most beyond what was there before."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        run()
    held = peak = 0
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def parameter_sets() -> dict[str, list[torch.Size]]:
    """Return the shapes of the parameters to benchmark optimizers on."""
    return {
        "ResNet-20": [p.shape for p in resnet20().parameters()],
        "ResNet-18": [p.shape for p in resnet18().parameters()],
        "4 x 4096x4096": [torch.Size((4096, 4096))] * 4,
    }


def benchmark_optimizers(clock: Clock) -> list[dict[str, Any]]:
    """Compare a step of each optimizer, in each way, with torch's ways."""
    rows = []
    for title, shapes in parameter_sets().items():
        for name, options in OPTIMIZERS.items():
            params = [nn.Parameter(torch.randn(shape, device=clock.device)) for shape in shapes]
            for p in params:
                p.grad = 0.1 * torch.randn_like(p)
            steps: dict[str, Callable[[], Any]] = {}
            for library, module in {"torch": torch.optim, "scratch": scratch_optim}.items():
                for way, how in WAYS.items():
                    if (library, name, way) != ("torch", "RMSprop", "fused"):
                        optimizer = getattr(module, name)(params, **options, **how)
                        steps[f"{library} {way}"] = optimizer.step
            first = {key: clock.once(step) for key, step in steps.items()}
            times = clock.compare(steps)
            memory = {key: peak_memory(step, clock.device) for key, step in steps.items()}
            fastest = min(
                (key for key in times if key.startswith("torch")),
                key=lambda key: statistics.median(times[key]),
            )
            for way in WAYS:
                ours, theirs = f"scratch {way}", f"torch {way}"
                theirs = theirs if theirs in times else fastest
                rows.append(
                    {
                        "parameters": title,
                        "optimizer": name,
                        "way": way,
                        "against": theirs,
                        "ratio": median_ratio(times, ours, theirs),
                        "microseconds": 1e6 * statistics.median(times[ours]),
                        "microseconds_against": 1e6 * statistics.median(times[theirs]),
                        "rounds": len(times[ours]),
                        "peak_bytes": memory[ours],
                        "peak_bytes_against": memory[theirs],
                        "first_step_seconds": first[ours],
                    }
                )
                print_row(rows[-1], "parameters", "optimizer", "way")
    return rows


def forward_backward(layer: nn.Module, x: Tensor, d_y: Tensor) -> Callable[[], None]:
    """Return a pass through ``layer`` and back that keeps nothing."""

    def run() -> None:
        x.grad = None
        layer.zero_grad()
        layer(x).backward(d_y)

    return run


def benchmark_layers(clock: Clock) -> list[dict[str, Any]]:
    """Compare forward and backward of the layers with native ones, float32, batch 128."""
    rows = []
    layers: dict[str, Callable[[Any, int], nn.Module]] = {
        "BatchNorm2d": lambda library, channels: library.BatchNorm2d(channels),
        "Dropout": lambda library, channels: library.Dropout(0.5),
    }
    for name, make in layers.items():
        for channels, size in SHAPES:
            for memory_format in (torch.contiguous_format, torch.channels_last):
                shape = (128, channels, size, size)
                x = torch.randn(shape, device=clock.device).to(memory_format=memory_format)
                d_y = torch.randn_like(x)
                x.requires_grad_()
                native = forward_backward(make(nn, channels).to(clock.device), x, d_y)
                by_hand = forward_backward(make(scratch_layers, channels).to(clock.device), x, d_y)

                def compiled(run: Callable[[], None] = by_hand) -> None:
                    with scratch_layers.compile_kernels():
                        run()

                first = clock.once(compiled)
                # Not all three at once: what one leaves in the allocator, the next one meets.
                ways = {"eager": by_hand, "compiled": compiled}
                if name == "Dropout":  # which draws native's numbers, and so is not compiled
                    del ways["compiled"]
                for way, run in ways.items():
                    times = clock.compare({"native": native, way: run})
                    rows.append(
                        {
                            "layer": name,
                            "shape": f"{channels}x{size}x{size}",
                            "memory_format": str(memory_format).removeprefix("torch."),
                            "way": way,
                            "ratio": median_ratio(times, way, "native"),
                            "microseconds": 1e6 * statistics.median(times[way]),
                            "microseconds_against": 1e6 * statistics.median(times["native"]),
                            "rounds": len(times[way]),
                            "first_pass_seconds": first if way == "compiled" else None,
                        }
                    )
                    print_row(rows[-1], "layer", "shape", "memory_format", "way")
    return rows


def training_step(
    libraries: tuple[Any, Any], *, fused: bool | None, batch: int, device: Any
) -> Any:
    """Return a training step of ResNet-18 on random images."""
    layers, optim = libraries
    torch.manual_seed(0)
    model = resnet18(layers).to(device)
    optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, fused=fused)
    images = torch.randn(batch, 3, 32, 32, device=device)
    labels = torch.randint(10, (batch,), device=device)

    def run() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return run


def benchmark_training(clock: Clock, batch: int) -> list[dict[str, Any]]:
    """Compare a whole training step of ResNet-18, SGD with momentum."""
    ours, theirs = (scratch_layers, scratch_optim), (nn, torch.optim)
    eager = training_step(ours, fused=None, batch=batch, device=clock.device)
    fast = training_step(ours, fused=True, batch=batch, device=clock.device)

    def compiled() -> None:
        with scratch_layers.compile_kernels():
            fast()

    runs: dict[str, Callable[[], Any]] = {
        "built-in": training_step(theirs, fused=None, batch=batch, device=clock.device),
        "built-in, fused": training_step(theirs, fused=True, batch=batch, device=clock.device),
        "by hand": eager,
        "by hand, fused and compiled": compiled,
    }
    first = {name: clock.once(run) for name, run in runs.items()}
    times = clock.compare(runs)
    rows = []
    for name, against in {
        "by hand": "built-in",
        "by hand, fused and compiled": "built-in, fused",
    }.items():
        rows.append(
            {
                "stack": name,
                "against": against,
                "batch": batch,
                "ratio": median_ratio(times, name, against),
                "images_per_second": batch / statistics.median(times[name]),
                "images_per_second_against": batch / statistics.median(times[against]),
                "rounds": len(times[name]),
                "first_step_seconds": first[name],
            }
        )
        print_row(rows[-1], "stack")
    return rows


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


def main() -> None:
    """Run the benchmarks named on the command line and write their reports."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "what",
        nargs="*",
        metavar="optimizers | layers | training",
        help="what to measure (default: all three)",
    )
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=64, help="of the training step (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the time, less certain")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the JSON reports")
    arguments = parser.parse_args()
    known = ["optimizers", "layers", "training"]
    for what in arguments.what:
        if what not in known:
            parser.error(f"unknown benchmark {what!r}; choose from {', '.join(known)}")

    device = torch.device(arguments.device)
    clock = Clock(device, *((0.5, 5) if arguments.quick else (5.0, 15)))
    benchmarks: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "optimizers": lambda: benchmark_optimizers(clock),
        "layers": lambda: benchmark_layers(clock),
        "training": lambda: benchmark_training(clock, arguments.batch),
    }
    # A cache of its own, so that the time of the first step is that of a cold start.
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        for what in arguments.what or known:
            report = {"benchmark": what, "machine": machine(device), "rows": benchmarks[what]()}
            arguments.out.mkdir(parents=True, exist_ok=True)
            path = arguments.out / f"{what}-{device.type}.json"
            path.write_text(json.dumps(report, indent=1) + "\n")
            print(f"-> {path}")


if __name__ == "__main__":
    main()
