"""Write the tables of README.md and docs/, from the reports in benchmarks/results/.

    python scripts/tables.py           after a benchmark, or a change of an equation
    python scripts/tables.py --check   exit with 1 if a page does not hold what they say

A table stands between ``<!-- table NAME -->`` and ``<!-- end -->``. Equations and the catalogue of
optimizers are taken from the sources likewise: between ``<!-- source scratch_optim.lion.Lion.update
-->`` and ``<!-- end -->`` stands the body of that function.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import math
import pkgutil
import re
import statistics
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

import scratch_optim
from scratch_optim import Adam, Optimizer
from training.statistics import summarize

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def report(name: str) -> dict[str, Any]:
    """Return the report ``name``."""
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return content


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def geometric_mean(values: Iterable[float]) -> float:
    """Return exp(mean(log(values)))."""
    return math.exp(statistics.fmean(math.log(value) for value in values))


def caption(content: dict[str, Any]) -> str:
    """Return what was measured where."""
    where = content["machine"]
    device = where["processor"] if where["device"] == "cpu" else where["device"]
    return (
        f"{device}, {where['threads']} threads, torch {where['torch']}, "
        f"Python {where['python']}, {where['date']}."
    )


WAYS = ("for-loop", "foreach", "fused")


def by_way(rows: Iterable[dict[str, Any]], figure: Callable[[dict[str, Any]], str]) -> str:
    """Return a figure of each way, of rows that differ in the way alone."""
    figures = {row["way"]: figure(row) for row in rows}
    return " / ".join(figures.get(way, "-") for way in WAYS) if figures else ""


def steps(rows: Sequence[dict[str, Any]]) -> str:
    """Return the ratios of steps: a line for each optimizer, a column for each parameter set."""
    sets = list(dict.fromkeys(row["parameters"] for row in rows))
    weighed = "ResNet-18" if "ResNet-18" in sets else sets[0]
    lines = []
    for optimizer in dict.fromkeys(row["optimizer"] for row in rows):
        mine = [row for row in rows if row["optimizer"] == optimizer]
        fused = {row["against"].removeprefix("torch ") for row in mine if row["way"] == "fused"}
        held = [row for row in mine if row["parameters"] == weighed and "peak_bytes" in row]
        lines.append(
            [
                optimizer,
                *[
                    by_way([r for r in mine if r["parameters"] == s], lambda r: f"{r['ratio']:.2f}")
                    for s in sets
                ],
                ", ".join(sorted(fused)) or "-",
                *[
                    by_way(held, lambda r, key=key: f"{r[key] / 2**20:.0f}")  # type: ignore[misc]
                    for key in ("peak_bytes", "peak_bytes_against")
                ],
            ]
        )
    header = ["step of", *sets, "fused against torch's"]
    return markdown([*header, f"MiB, {weighed}", "torch's"], lines)


def means(rows: Sequence[dict[str, Any]]) -> str:
    """Return geometric means over the optimizers that torch has too, for each way."""
    sets = list(dict.fromkeys(row["parameters"] for row in rows))
    own = [row for row in rows if row["against"].removeprefix("torch ") in WAYS]
    ran = {s: {row["optimizer"] for row in own if row["parameters"] == s} for s in sets}
    common = [s for s in sets if ran[s] == set().union(*ran.values())]
    lines = []
    for title, mine in {
        "for-loop against for-loop": [r for r in own if r["way"] == "for-loop"],
        "foreach against foreach": [r for r in own if r["way"] == "foreach"],
        "fused against fused": [
            r for r in own if r["way"] == "fused" and r["against"] == "torch fused"
        ],
        "fused against the fastest way, where torch has no fused": [
            r for r in own if r["way"] == "fused" and r["against"] != "torch fused"
        ],
    }.items():
        if not mine:
            continue
        cells = [[r["ratio"] for r in mine if r["parameters"] == s] for s in sets]
        slower = sum(row["ratio"] > 1 for row in mine)
        worst = max(mine, key=lambda r: r["ratio"])
        lines.append(
            [
                title,
                str(len({r["optimizer"] for r in mine})),
                *[f"{geometric_mean(cell):.2f}" if cell else "" for cell in cells],
                f"**{geometric_mean(r['ratio'] for r in mine if r['parameters'] in common):.2f}**",
                f"{slower} of {len(mine)}",
                f"{worst['ratio']:.2f} ({worst['optimizer']}, {worst['parameters']})",
            ]
        )
    over = "all" if common == sets else " and ".join(common)
    header = ["geometric mean", "optimizers", *sets, over, "above 1", "largest"]
    return markdown(header, lines)


def first_steps(rows: Sequence[dict[str, Any]]) -> str:
    """Return what the fused way takes to start."""
    lines = [
        [
            row["optimizer"],
            *[
                f"{row['cold_' + key]:.1f} / {row[key]:.1f}"
                for key in ("first_step_seconds", "ten_steps_seconds")
            ],
            f"{row['kernels_of_ten_steps']} / {row['kernels']}",
        ]
        for row in rows
    ]
    header = ["fused", "first step, s", "first 10 steps, s"]
    return markdown([*header, f"kernels after 10 / {rows[0]['steps']} steps"], lines)


def helpers(rows: Sequence[dict[str, Any]]) -> str:
    """Return the ratios of what goes with a step."""
    lines = [
        [
            what,
            ", ".join(f"{r['ratio']:.2f} ({r['parameters']})" for r in rows if r["what"] == what),
        ]
        for what in dict.fromkeys(row["what"] for row in rows)
    ]
    return markdown(["", "time, ratio"], lines)


def optimizers(content: dict[str, Any]) -> str:
    """Return the time of a step as a ratio to torch's, its memory, and what goes with it.

    Args:
        content: a report; of its sections, ``rows`` is there always.
    """
    parts = [
        "Time of our step / time of torch's step in the same way, **for-loop / foreach / fused**, "
        "so that 0.50 is half the time. What torch has not in that way, or not at all, stands "
        "beside its fastest way, of that optimizer or of the one named. MiB: what a step holds at "
        "most beyond parameters, gradients and state.",
        steps(content["rows"]),
        means(content["rows"]),
    ]
    if content.get("graphs"):
        parts += ["The step as a captured CUDA graph, `capturable=True`:"]
        parts += [steps(content["graphs"]), means(content["graphs"])]
    if content.get("compile"):
        parts += [
            "Seconds until the fused way runs, in a new process on the parameters of ResNet-18, "
            "without / with what an earlier process left in Inductor's cache; and the kernels "
            "compiled while the learning rate changes with every step:",
            first_steps(content["compile"]),
        ]
    if content.get("helpers"):
        parts += ["What goes with a step:", helpers(content["helpers"])]
    return "\n\n".join([*parts, caption(content)])


def layers(content: dict[str, Any]) -> str:
    """Return forward plus backward of the layers as a ratio to native."""
    rows = content["rows"]
    lines = []
    for family, layer in dict.fromkeys((row["family"], row["layer"]) for row in rows):
        mine = [row for row in rows if (row["family"], row["layer"]) == (family, layer)]
        cells = {
            way: [f"{row['ratio']:.2f}" for row in mine if row["way"] == way]
            for way in ("eager", "compiled")
        }
        shapes = list(dict.fromkeys(row["shape"] for row in mine))
        both = " (both formats)" if len({row["memory_format"] for row in mine}) > 1 else ""
        lines.append([layer, ", ".join(shapes) + both, *[" / ".join(c) for c in cells.values()]])
    families = []
    for family in dict.fromkeys(row["family"] for row in rows):
        mine = [row for row in rows if row["family"] == family]
        found = {way: [r for r in mine if r["way"] == way] for way in ("eager", "compiled")}
        worst = max(found["compiled"], key=lambda row: row["ratio"])
        families.append(
            [
                family,
                f"{geometric_mean(row['ratio'] for row in found['eager']):.2f}",
                f"**{geometric_mean(row['ratio'] for row in found['compiled']):.2f}**",
                f"{worst['ratio']:.2f} ({worst['layer']}, {worst['shape']}, "
                f"{worst['memory_format']})",
            ]
        )
    return "\n\n".join(
        [
            markdown(["geometric mean", "eager", "compiled", "largest, compiled"], families),
            "<details><summary>Every layer</summary>",
            "In both formats: contiguous / channels_last of each shape.",
            markdown(["forward + backward", "shapes", "eager", "compiled"], lines),
            "</details>",
            caption(content),
        ]
    )


def training(content: dict[str, Any]) -> str:
    """Return a whole training step of ResNet-18 beside the built-in stack's."""
    lines = [
        [
            row["stack"],
            f"{row['images_per_second']:.0f}",
            f"{row['against']}: {row['images_per_second_against']:.0f}",
            f"**{row['ratio']:.2f}**",
        ]
        for row in content["rows"]
    ]
    header = ["stack", "images/s", "against, images/s", "time, ratio"]
    return f"{markdown(header, lines)}\n\n{caption(content)}"


def runs() -> str:
    """Return the training runs that were kept: a ``result.json``, or a series as ``.jsonl``."""
    lines = []
    for path in sorted((RESULTS / "runs").glob("*.json*")):
        text = path.read_text()
        series = [json.loads(x) for x in (text.splitlines() if path.suffix == ".jsonl" else [text])]
        run = series[0]
        config, views = run["config"], run.get("test_accuracy_tta") is not None
        lines.append(
            [
                config["dataset"] if config["dataset"] == "digits" else "CIFAR-10 (JPEG q75)",
                (f"{config['preset']}: " if config.get("preset") else "")
                + f"{config['model']}, {config['optimizer']}",
                f"{config['layers']}{', compiled' if config['kernels'] == 'compiled' else ''}"
                f" / {config['optim']}{', fused' if config['fused'] else ''}",
                ", ".join(str(x["config"]["seed"]) for x in series),
                f"{statistics.fmean(x['epochs'] for x in series):.3g}",
                f"**{_accuracy(series, 'test_accuracy')}**"
                + (f" ({_accuracy(series, 'test_accuracy_tta')} by six views)" if views else ""),
                f"{statistics.fmean(x['train_seconds'] for x in series):.0f} s",
                run["versions"]["device"],
            ]
        )
    header = ["data", "model", "layers / optimizer", "seed", "epochs", "test accuracy", "training"]
    return markdown([*header, "on"], lines)


def _accuracy(series: Sequence[dict[str, Any]], name: str) -> str:
    """The mean; of several with the half width of its 95 % interval, in points."""
    found = summarize([run[name] for run in series])
    return f"{found.mean:.2%}" + (f" ± {100 * found.half_width:.2f}" if found.n > 1 else "")


def step_times() -> str:
    """Return where the time of training steps goes, of ``step-*.json``."""
    lines = []
    for path in sorted(RESULTS.glob("step-*.json")):
        report = json.loads(path.read_text())
        config = report["config"]
        for row in report["rows"]:
            total = row["microseconds"]
            shares = [f"{value / total:.0%}" for value in row["parts_microseconds"].values()]
            lines.append(
                [
                    config["preset"] or f"{config['dataset']}, {config['model']}",
                    f"{config['batch_size']} of {row['pixels']}x{row['pixels']}",
                    f"{total / 1e3:.0f} ms",
                    f"**{row['ratio']:.2f}**",
                    *shares,
                    f"{row['floor_flop_microseconds'] / total:.0%}",
                    report["machine"]["processor"],
                ]
            )
    header = [
        "run", "images a step", "step", "by PyTorch's stack", "augment", "prepare", "forward",
        "backward", "optimizer", "floor", "on",
    ]  # fmt: skip
    return markdown(header, lines)


def records() -> str:
    """Return how long recipes take to what accuracy, of ``record-*.json``: means ± their errors."""
    lines = []
    for path in sorted(RESULTS.glob("record-*.json")):
        content = json.loads(path.read_text())
        config, machine, found = content["config"], content["machine"], content["summary"]

        def mean(name: str, factor: float, unit: str, found: Any = found) -> str:
            if name not in found:
                return "-"
            value, error = factor * found[name]["mean"], factor * found[name]["standard_error"]
            return f"{value:.2f} ± {error:.2f} {unit}"

        target, p = content["target"], content.get("p_above_target")
        lines.append(
            [
                config["preset"] or f"{config['dataset']}, {config['model']}",
                str(found["seconds"]["n"]),
                f"**{mean('seconds', 1, 's')}**",
                mean("accuracy", 100, "%"),
                mean("accuracy_tta", 100, "%"),
                "-" if target is None or p is None else f"{target:.0%}, p = {p:.1g}",
                f"{content['cold_seconds']:.0f} s",
                f"{machine['processor']}, {machine['threads']} threads"
                if machine["device"] == "cpu"
                else machine["device"],
            ]
        )
    header = ["run", "runs", "time", "accuracy", "six views", "above", "first run", "on"]
    return markdown(header, lines)


def board() -> str:
    """Return how much of the time of a run TensorBoard takes, of ``board-*.json``."""
    lines = []
    for path in sorted(RESULTS.glob("board-*.json")):
        report = json.loads(path.read_text())
        config = report["config"]
        lines.append(
            [
                config["preset"] or f"{config['dataset']}, {config['model']}",
                f"{report['step_microseconds'] / 1e3:.0f} ms",
                *[f"{row['share']:.2%}" for row in report["rows"]],
                f"**{report['share']:.2%}**",
            ]
        )
    header = ["run", "step", "points", "start", "epochs", "pictures", "end", "all"]
    return markdown(header, lines)


def latencies() -> str:
    """Return how long a request to a trained network takes, of ``serve-*.json``."""
    lines = []
    for path in sorted(RESULTS.glob("serve-*.json")):
        content = json.loads(path.read_text())
        promise = content["promise"]["p99"]
        lines += [
            [
                f"{content['model']}, {content['parameters']:,} parameters",
                name,
                f"{row['p50']:.2f} ms",
                f"**{row['p99']:.2f} ms**",
                f"< {promise:g} ms: {'kept' if row['p99'] < promise else 'missed'}",
                f"{content['machine']['processor']}, {content['machine']['threads']} threads",
            ]
            for name, row in content["ways"].items()
        ]
    return markdown(["network", "way", "p50", "p99", "promise of p99", "on"], lines)


def challenge(content: dict[str, Any]) -> str:
    """Return how the recipes of the digits do, with 95 % intervals over the seeds."""

    def interval(figure: dict[str, float], unit: str) -> str:
        return f"{100 * figure['mean']:.2f} ± {50 * (figure['high'] - figure['low']):.2f}{unit}"

    lines = [
        [
            name,
            f"{recipe['figures']['test_accuracy']['n']}",
            f"**{interval(recipe['figures']['test_accuracy'], ' %')}**",
            interval(recipe["figures"]["train_accuracy"], " %"),
            interval(recipe["figures"]["gap"], " points"),
            f"{recipe['figures']['epochs']['mean']:.0f}",
            f"{recipe['figures']['train_seconds']['mean']:.1f} s",
        ]
        for name, recipe in content["recipes"].items()
    ]
    header = [
        "recipe", "seeds", "test accuracy", "training accuracy", "gap", "epochs", "training",
    ]  # fmt: skip
    return f"{markdown(header, lines)}\n\n{caption(content)}"


def cup(about: str) -> str:
    """Return the ranking of a cup, of ``cup-ABOUT.json`` as scripts/cup.py writes it."""
    content = report(f"cup-{about}")
    lines = [
        [
            f"{row['rank']}{' †' if row['like_leader'] else ''}",
            f"`{row[about]}`",
            f"**{row['test_accuracy']:.2%}** ± {100 * row['half_width']:.2f}",
            f"{row['options']['lr']:.2g}",
            f"{row['options']['weight_decay']:.2g}",
            f"{row['options']['momentum']:.2g}" if row["options"]["momentum"] else "",
            f"{row['train_seconds']:.2f} s",
        ]
        for row in content["rows"]
    ]
    header = [
        "rank", about, "test accuracy", "learning rate", "weight decay", "momentum", "training",
    ]  # fmt: skip
    common = ", ".join(
        f"{name.replace('_', ' ')} {' '.join(value) if isinstance(value, list) else value}"
        for name, value in content["common"].items()
    )
    said = (
        f"{content['trials']} trials each, mean of {content['seeds']} seeds with 95 % interval. "
        f"†: cannot be told from the first (Welch's t-test, p > 0.05). {common}. {caption(content)}"
    )
    return f"{markdown(header, lines)}\n\n{said}"


def explain(content: dict[str, Any]) -> str:
    """Return what it costs to explain an optimizer, and to have explained it."""
    header = [
        "parameters", "optimizer", "way", "a step", "another, never explained", "explained before",
        "not its turn", "a step that is explained", "every 100th",
    ]  # fmt: skip
    lines = [
        [
            row["parameters"],
            row["optimizer"],
            row["way"],
            f"{row['step_microseconds']:.0f} us",
            *[f"{row[name]:.3f}" for name in ("again", "removed", "waiting")],
            f"{row['explained_microseconds'] / 1e3:.1f} ms",
            f"{row['every_100']:.2f}",
        ]
        for row in content["rows"]
    ]
    return f"{markdown(header, lines)}\n\n{caption(content)}"


def body(function: Any) -> str:
    """Return the lines of a function, or of a property, below its signature and docstring."""
    function = function.fget if isinstance(function, property) else function
    source = textwrap.dedent(inspect.getsource(function))
    (definition,) = ast.parse(source).body
    assert isinstance(definition, ast.FunctionDef)
    lines = source.splitlines(keepends=True)
    if ast.get_docstring(definition) is not None:
        end = definition.body[0].end_lineno or 0
    else:  # the signature ends with the first line that ends with a colon
        end = next(i for i, line in enumerate(lines, 1) if line.split("#")[0].rstrip()[-1:] == ":")
    return textwrap.dedent("".join(lines[end:])).lstrip("\n")


def source(name: str) -> str:
    """Return the body of a function, by its full name.

    Its language is called ``py``: what is called ``python`` in a page is run by the tests. The
    comments keep ruff, which formats programs in Markdown, from making other lines of it.
    """
    block = f"```py\n{body(pkgutil.resolve_name(name))}```"
    return f"<!-- fmt: off -->\n{block}\n<!-- fmt: on -->"


def memory() -> str:
    """Return what each optimizer keeps, and what a step of it holds besides."""
    content = report("memory-cpu")
    peaks = [r for r in report("optimizers-cpu")["rows"] if r["parameters"] == "ResNet-18"]
    sets = list(content["averages"][0]["bytes_per_parameter"])
    timed = {row["optimizer"]: row for row in content["rows"] if row["benchmarked"]}
    lines = []
    for row in content["rows"] + content["averages"]:
        options = {k: v for k, v in row["options"].items() if k not in ("lr", "max_iter")}
        text = ", ".join(f"{k}={v}" for k, v in options.items())
        name, theirs = row["optimizer"], row.get("bytes_per_parameter_torch")
        mine = [r for r in peaks if r["optimizer"] == name and timed.get(name) is row]
        lines.append(
            [
                name + (f" ({text})" if text else ""),
                ", ".join(f"`{kept}`" for kept in row.get("state", ())),
                *[f"{row['bytes_per_parameter'][s]:.2f}" for s in sets],
                f"{theirs[sets[0]]:.2f}" if theirs else "",
                by_way(mine, lambda r: f"{r['peak_bytes'] / 2**20:.0f}"),
            ]
        )
    header = ["", "kept", *[f"bytes a parameter, {s}" for s in sets]]
    header += [f"torch's, {sets[0]}", "a step holds at most, MiB, ResNet-18"]
    return f"{markdown(header, lines)}\n\n{caption(content)}"


def adam() -> str:
    """Return Adam's equation, as it stands in its file."""
    return f"```\n{body(Adam.update)}```"


def catalogue() -> str:
    """Return what optimizers there are, each with the sentence its file begins with."""
    lines = []
    for name in sorted(scratch_optim.__all__, key=str.lower):
        kind = getattr(scratch_optim, name)
        if not inspect.isclass(kind) or kind is Optimizer:
            continue
        module = sys.modules[kind.__module__]
        first, _, rest = (module.__doc__ or "").split("\n")[0].partition(": ")
        if first != name:
            rest = (kind.__doc__ or "").split("\n")[0]
        link = f"[{name}](scratch_optim/{Path(module.__file__ or '').name})"
        ways = [
            way
            for way in ("foreach", "fused", "differentiable", "capturable")
            if way in inspect.signature(kind).parameters
        ]
        torchs = "yes" if hasattr(torch.optim, name) else ""
        lines.append([link, rest[:1].upper() + rest[1:], ", ".join(ways), torchs])
    return markdown(["", "", "besides the loop", "in torch"], lines)


LAYER_FILES = (
    *("batchnorm", "fusedbatchnorm", "syncbatchnorm", "normalization", "instancenorm", "dropout"),
    *("variational", "activation", "softmax", "loss", "cross_entropy"),
    *("linear_cross_entropy", "margin_loss", "ctc"),
    *("imbalance", "init", "regularization", "convert", "gradients", "residual", "resnet"),
    *("preresnet", "mlp"),
)
"""The files of ``scratch_layers`` in the order in which one would look for something."""


def layer_catalogue() -> str:
    """Return what layers there are: each file, the sentence it begins with, its names."""
    lines = []
    for file in LAYER_FILES:
        module = importlib.import_module(f"scratch_layers.{file}")
        first = " ".join((module.__doc__ or "").split("\n\n")[0].split())
        names = getattr(module, "__all__", [])
        layers = [name for name in names if _is_layer(getattr(module, name))]
        # of the initializers, without the deprecated names
        public = layers or [name for name in names if f"{name}_" not in names]
        torchs = [n for n in public if hasattr(torch.nn, n) or hasattr(torch.nn.init, n)]
        own = [n for n in public if n not in torchs]
        shown = ", ".join([*torchs, *[f"*{name}*" for name in own]])
        lines.append([f"[{file}](scratch_layers/{file}.py)", first, shown])
    return markdown(["", "", "names; in italics, what torch.nn has not"], lines)


def _is_layer(value: Any) -> bool:
    return inspect.isclass(value) and issubclass(value, torch.nn.Module)


OF: dict[str, Callable[[dict[str, Any]], str]] = {
    "optimizers": optimizers,
    "layers": layers,
    "training": training,
    "explain": explain,
}
"""The tables of each benchmark, from its report."""


def table(name: str) -> str:
    """Return what stands between the markers of that name: ``layers``, ``layers-cuda`` ..."""
    if name in TABLES:
        return TABLES[name]()
    benchmark, _, device = name.partition("-")
    return OF[benchmark](report(f"{benchmark}-{device or 'cpu'}"))


TABLES: dict[str, Callable[[], str]] = {
    "adam": adam,
    "catalogue": catalogue,
    "layer-catalogue": layer_catalogue,
    "runs": runs,
    "steps": step_times,
    "records": records,
    "board": board,
    "memory": memory,
    "challenge": lambda: challenge(report("digits-challenge")),
    "serve": latencies,
    "cup-optimizer": lambda: cup("optimizer"),
    "cup-norm": lambda: cup("norm"),
    "cup-activation": lambda: cup("activation"),
}
"""Those that no benchmark makes."""


MAKERS: dict[str, Callable[[str], str]] = {"table": table, "source": source}
"""What fills in each kind of marker."""


def filled(text: str) -> str:
    """Return ``text`` with its tables filled in."""

    def fill(match: re.Match[str]) -> str:
        kind, name = match.groups()
        return f"<!-- {kind} {name} -->\n{MAKERS[kind](name)}\n<!-- end -->"

    marked = r"<!-- (table|source) ([\w.-]+) -->\n.*?<!-- end -->"
    return re.sub(marked, fill, text, flags=re.DOTALL)


MADE = tuple(ROOT / "docs" / name for name in ("accuracy.md", "parity.md", "experiments.md"))
"""Pages whose tables scripts of their own write."""


def pages() -> list[Path]:
    """Return README.md and the pages of docs/ that are written by hand."""
    return [ROOT / "README.md", *sorted({*(ROOT / "docs").rglob("*.md")} - {*MADE})]


def main() -> int:
    """Write the pages, or compare them."""
    stale = 0
    for page in pages():
        text = page.read_text()
        new = filled(text)
        if new != text:
            stale = 1
            if "--check" not in sys.argv[1:]:
                page.write_text(new)
    return stale if "--check" in sys.argv[1:] else 0


if __name__ == "__main__":
    sys.exit(main())
