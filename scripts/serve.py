"""Serve a trained network: export it, check that it answers as before, and time single requests.

    python scripts/serve.py runs/digits                            what a run ended with
    python scripts/serve.py runs/digits/last.pt --json latency.json --out model.pt2
    python scripts/serve.py --dataset cifar10 --model resnet18     untrained, for the time alone

A request is one image, uint8 (1, C, H, W), on the CPU; the answer, logits (1, K) in float32. What
is exported holds the normalization of the images too, so that nothing of the training is needed
beside it. Three ways to answer take turns:

    eager       the network as it was trained
    export      the graph that ``torch.export`` took from it, operator by operator
    compiled    that graph as machine code, by AOTInductor, which needs a C++ compiler; a package
                (``--out``) that runs without Python too

Both graphs must answer as the network does: against the network in float64, on 64 images of noise,
their largest error may be ``SLACK`` times that of the network in float32 (the same roundings, in
another order). Each way is warmed up, then asked N times; the times are those at which half, 90 %
and 99 % of the requests were answered.
"""

from __future__ import annotations

import copy
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._inductor.exc import InvalidCxxCompiler

from benchmark import machine
from training import checkpoint, recipes
from training.averaging import Average
from training.errors import UsageError
from training.options import from_checkpoint, make_config
from training.options import parser as options_of_a_run
from training.result import write_json

PROMISE = 50.0
"""Milliseconds within which 99 % of the requests are to be answered."""
SHAPES = {"digits": (1, 8, 8), "cifar10": (3, 32, 32)}
"""(C, H, W) of the images of an untrained network."""
CHECKED = 64  # images
SLACK = 10
"""Largest errors of few answers scatter; that of another network, or of another image, is thousands
of times as large."""
EPSILON = torch.finfo(torch.float32).eps
PERCENTILES = (50, 90, 99)
TURN = 250
"""Requests in a row, so that less than one in a hundred finds the weights of another way in the
cache."""
WAYS = ("eager", "export", "compiled")
Answer = Callable[[Tensor], Tensor]


class Served(nn.Module):
    """The network behind the normalization of its images.

    Args:
        network: of normalized images (N, C, H, W).
        mean: (C, 1, 1), in the units of the pixels.
        std: likewise.

    Shape: uint8 (N, C, H, W) -> logits (N, K).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of uint8 images (N, C, H, W)."""
        return self.network((images.to(self.mean.dtype) - self.mean) / self.std)


@dataclass(frozen=True)
class Model:
    """What is served."""

    name: str
    served: Served
    shape: tuple[int, ...]  # (C, H, W)


def trained(path: str) -> Model:
    """What a run ended with: the weights that it was tested with.

    Args:
        path: a checkpoint, or the folder of a run.

    Raises:
        UsageError: it cannot be read.
    """
    source = checkpoint.find(path)
    config = from_checkpoint(source)
    if Path(path).is_dir() and config.patience:
        source = source.with_name("best.pt")  # to which such a run goes back
    state = checkpoint.load(source)
    if "images" not in state:
        raise UsageError(
            f"{source} was written by an older version of cifar10.py, without the mean of its "
            "images. Train it again."
        )
    images = state["images"]
    network = recipes.build_model(config, len(images["classes"]), images["shape"])
    network.load_state_dict(state["model"])
    average = Average(network, config.average, config.ema_decay)
    average.load_state_dict(state["average"])
    if average.mean and average.mean.updates:
        average.mean.copy_to(network)
    served = Served(network, images["mean"], images["std"])
    return Model(str(source), served.eval(), tuple(images["shape"]))


def untrained(given: dict[str, Any]) -> Model:
    """A network as options of cifar10.py ask for it, before its training.

    Args:
        given: as for ``make_config``.

    Raises:
        UsageError: an option, or a combination of options, that cannot be.
    """
    config = make_config(**given)
    torch.manual_seed(config.seed)
    shape = SHAPES[config.dataset]
    network = recipes.build_model(config, 10, shape)
    middle = torch.full((shape[0], 1, 1), 127.5)
    return Model(f"{config.model}, untrained", Served(network, middle, middle).eval(), shape)


def ways(names: Sequence[str], model: Model, out: Path) -> dict[str, Answer]:
    """What answers a request, (1, C, H, W) uint8.

    Args:
        names: of WAYS.
        model: what is served.
        out: where the package is written.

    Raises:
        UsageError: there is no C++ compiler.
    """
    found: dict[str, Answer] = {"eager": model.served}
    image = torch.zeros(1, *model.shape, dtype=torch.uint8)
    program = torch.export.export(model.served, (image,))
    found["export"] = program.module()
    if "compiled" in names:
        try:
            package = torch._inductor.aoti_compile_and_package(program, package_path=str(out))
        except InvalidCxxCompiler as error:
            raise UsageError(
                "--ways compiled: there is no C++ compiler. Install g++, or leave it out."
            ) from error
        found["compiled"] = torch._inductor.aoti_load_package(package)
    return {name: found[name] for name in names}


def errors(model: Model, answers: dict[str, Answer]) -> dict[str, float]:
    """The largest error of a logit in each way, and in eager, against float64 on images of noise.

    In units of the largest logit.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (CHECKED, *model.shape), dtype=torch.uint8, generator=generator)
    exact = copy.deepcopy(model.served).double()(images)
    largest = exact.abs().max()

    def error(answer: Answer) -> float:
        given = torch.cat([answer(x) for x in images.split(1)])
        return ((given - exact).abs().max() / largest).item()

    return {name: error(answer) for name, answer in ({"eager": model.served} | answers).items()}


def latencies(
    answers: dict[str, Answer], shape: tuple[int, ...], requests: int, warmup: int
) -> dict[str, list[float]]:
    """Milliseconds of each request in each way, ascending. The ways take turns.

    Args:
        answers: the ways.
        shape: (C, H, W) of an image.
        requests: how many, of each.
        warmup: how many before, of each, that do not count.
    """
    image = torch.randint(256, (1, *shape), dtype=torch.uint8)
    found: dict[str, list[float]] = {name: [] for name in answers}
    for counted, count in ((False, warmup), (True, requests)):
        for begun in range(0, count, TURN):
            for name, answer in answers.items():
                for _ in range(min(TURN, count - begun)):
                    start = time.perf_counter_ns()
                    answer(image)
                    if counted:
                        found[name].append((time.perf_counter_ns() - start) / 1e6)
    return {name: sorted(times) for name, times in found.items()}


def percentile(times: Sequence[float], p: float) -> float:
    """The least of ascending times within which p % of them lie."""
    return times[math.ceil(p / 100 * len(times)) - 1]


def show(report: dict[str, Any]) -> str:
    """For people."""
    lines = [
        f"{report['model']}, {report['parameters']:,} parameters, "
        f"{report['requests']:,} requests of one image, {report['machine']['threads']} threads",
        f"{'ms':10}" + "".join(f"{f'p{p}':>10}" for p in PERCENTILES) + f"{'error':>12}",
    ]
    for name, row in report["ways"].items():
        times = "".join(f"{row[f'p{p}']:10.3f}" for p in PERCENTILES)
        lines.append(f"{name:10}{times}{row['error']:12.1e}")
    promise = report["promise"]
    lines.append(
        f"99 % within {promise['p99']:g} ms: {'kept' if promise['kept'] else 'not kept'}; "
        f"the answers are {'the same' if report['alike'] else 'NOT the same'} to rounding"
    )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Export, check, time, print. Returns the exit code."""
    p = options_of_a_run()
    p.prog, p.description = "serve.py", (__doc__ or "").split("\n")[0]
    p.epilog = (
        "Exit code: 0 the answers are the same, and one of the ways keeps the promise of "
        f"{PROMISE:g} ms, 1 not so, 2 something to mend."
    )
    p.add_argument(
        "path",
        nargs="?",
        default=None,
        metavar="PATH",
        help="a checkpoint, or the folder of a run; without it, an untrained network of the "
        "options above",
    )
    g = p.add_argument_group("serving")
    g.add_argument(
        "--ways", nargs="+", choices=WAYS, default=WAYS, help=f"(default: {' '.join(WAYS)})"
    )
    g.add_argument("--requests", type=int, default=1000, help="of each way (default: %(default)s)")
    g.add_argument(
        "--first", type=int, default=100, help="before these, not timed (default: %(default)s)"
    )
    g.add_argument("--json", type=Path, default=None, metavar="FILE", help="(default: none)")
    g.add_argument(
        "--out", type=Path, default=None, metavar="FILE.pt2", help="for the package (default: none)"
    )
    given = vars(p.parse_args(argv))
    path, names, requests, first, json, out = (
        given.pop(name) for name in ("path", "ways", "requests", "first", "json", "out")
    )
    try:
        if requests < 1:
            raise UsageError(f"--requests {requests}: give 1 or more.")
        if first < 0:
            raise UsageError(f"--first {first}: give 0 or more.")
        if out and (out.suffix != ".pt2" or "compiled" not in names):
            raise UsageError(f"--out {out}: a package of --ways compiled, whose name ends in .pt2.")
        if path and given:
            options = " ".join("--" + name.replace("_", "-") for name in given)
            raise UsageError(f"{options}: {path} has its own options. Leave one of them out.")
        model = trained(path) if path else untrained(given)
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            answers = ways(names, model, out or Path(folder, "model.pt2"))
            wrong = errors(model, answers)
            times = latencies(answers, model.shape, requests, first)
        report = {
            "benchmark": "serve",
            "machine": machine(torch.device("cpu")),
            "model": model.name,
            "parameters": sum(w.numel() for w in model.served.parameters()),
            "requests": requests,
            "ways": {
                name: {f"p{q}": percentile(found, q) for q in PERCENTILES} | {"error": wrong[name]}
                for name, found in times.items()
            },
        }
        best = min(row["p99"] for row in report["ways"].values())
        report["promise"] = {"p99": PROMISE, "kept": best < PROMISE}
        report["alike"] = max(wrong.values()) <= SLACK * (wrong["eager"] + EPSILON)
        print(show(report))
        if json:
            write_json(json, report, "Choose another --json.")
    except UsageError as error:
        print(f"serve.py: error: {error}", file=sys.stderr)
        return 2
    return 0 if report["alike"] and report["promise"]["kept"] else 1


if __name__ == "__main__":
    sys.exit(main())
