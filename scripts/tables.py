"""Write the tables of README.md, from the reports in benchmarks/results/.

    python scripts/tables.py           after a benchmark
    python scripts/tables.py --check   exit with 1 if README.md does not hold what they say

Adam's equation is copied from its file likewise. A table stands between ``<!-- table NAME -->``
and ``<!-- end -->``.
"""

from __future__ import annotations

import inspect
import json
import math
import re
import statistics
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from scratch_optim import Adam

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


def optimizers() -> str:
    """Return the time of a step as a ratio to torch's, and the memory it takes."""
    content = report("optimizers-cpu")
    sets = list(dict.fromkeys(row["parameters"] for row in content["rows"]))
    ways = list(dict.fromkeys((row["optimizer"], row["way"]) for row in content["rows"]))
    lines = []
    for optimizer, way in ways:
        rows = [r for r in content["rows"] if (r["optimizer"], r["way"]) == (optimizer, way)]
        ratios = {row["parameters"]: row["ratio"] for row in rows}
        against = sorted({row["against"].removeprefix("torch ") for row in rows})
        held = max(row["peak_bytes"] for row in rows) / 2**20
        theirs = max(row["peak_bytes_against"] for row in rows) / 2**20
        lines.append(
            [
                f"{optimizer}, {way}",
                ", ".join(against),
                *[f"{ratios[name]:.2f}" for name in sets],
                f"**{geometric_mean(ratios.values()):.2f}**",
                f"{held:.0f} / {theirs:.0f}",
            ]
        )
    header = ["step of", "against torch's", *sets, "mean", "peak MiB, ours / torch's"]
    return f"{markdown(header, lines)}\n\n{caption(content)}"


def layers() -> str:
    """Return forward plus backward of the layers as a ratio to native."""
    content = report("layers-cpu")
    rows = content["rows"]
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    lines = []
    for layer, way in dict.fromkeys((row["layer"], row["way"]) for row in rows):
        mine = [row for row in rows if (row["layer"], row["way"]) == (layer, way)]
        cells = [
            " / ".join(f"{row['ratio']:.2f}" for row in mine if row["shape"] == shape)
            for shape in shapes
        ]
        mean = geometric_mean(row["ratio"] for row in mine)
        lines.append([f"{layer}, {way}", *cells, f"**{mean:.2f}**"])
    header = ["forward + backward", *shapes, "mean"]
    return f"{markdown(header, lines)}\n\n{caption(content)}"


def training() -> str:
    """Return a whole training step of ResNet-18 beside the built-in stack's."""
    content = report("training-cpu")
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
    """Return the training runs whose ``result.json`` was kept."""
    lines = []
    for path in sorted((RESULTS / "runs").glob("*.json")):
        run = json.loads(path.read_text())
        config = run["config"]
        lines.append(
            [
                config["dataset"] if config["dataset"] == "digits" else "CIFAR-10 (JPEG q75)",
                f"{config['model']}, {config['optimizer']}",
                f"{config['layers']}{', compiled' if config['kernels'] == 'compiled' else ''}"
                f" / {config['optim']}{', fused' if config['fused'] else ''}",
                str(config["seed"]),
                str(run["epochs"]),
                f"**{run['test_accuracy']:.2%}**",
                f"{run['train_seconds']:.0f} s",
                run["versions"]["device"],
            ]
        )
    header = ["data", "model", "layers / optimizer", "seed", "epochs", "test accuracy", "training"]
    return markdown([*header, "on"], lines)


def adam() -> str:
    """Return Adam's equation, as it stands in its file."""
    source = textwrap.dedent(inspect.getsource(Adam.update)).split(") -> None:\n")[1]
    return f"```\n{textwrap.dedent(source)}```"


TABLES: dict[str, Callable[[], str]] = {
    "adam": adam,
    "optimizers": optimizers,
    "layers": layers,
    "training": training,
    "runs": runs,
}


def filled(text: str) -> str:
    """Return ``text`` with its tables filled in."""

    def table(match: re.Match[str]) -> str:
        return f"<!-- table {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table (\w+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def main() -> int:
    """Write README.md, or compare it."""
    readme = ROOT / "README.md"
    text = readme.read_text()
    if "--check" in sys.argv[1:]:
        return int(text != filled(text))
    readme.write_text(filled(text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
