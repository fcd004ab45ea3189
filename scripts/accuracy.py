"""How far every layer, and torch's own beside it, is from the result in float64.

    python scripts/accuracy.py                  all layers, a minute or two; writes docs/accuracy.md

Each layer runs forward and backward on the same inputs in float32 and in bfloat16, native and by
hand, eager and compiled; the reference is the native layer in float64 on the very same numbers.
The error is the largest over all values, in units of the dtype's epsilon times the largest value
of the reference. "No worse than native" grants everybody two of these units, and what the reference
moves when the inputs move by two roundings; errors that differ by less than a hundredth are equal.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import scratch_layers
from benchmark import RESULTS, machine
from layer_samples import FAMILIES, Sample, Shape
from scratch_layers.testing.rounding import KINDS, NUDGES, error, granted, nudged
from tables import caption, markdown

ROOT = Path(__file__).parent.parent
REPORT, PAGE = RESULTS / "accuracy-cpu.json", ROOT / "docs" / "accuracy.md"
WAYS = ("native", "by hand", "compiled")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def results(
    layer: nn.Module, inputs: Sequence[Tensor], move: Callable[..., list[Tensor]] | None = None
) -> list[Tensor]:
    """Return the output, and the gradients by the first input and the parameters.

    Args:
        layer: what to run.
        inputs: what to call it with.
        move: what to do to the inputs, and to the derivative by the output; None leaves them.
    """
    inputs = inputs if move is None else move(inputs)
    x = inputs[0].clone().requires_grad_()
    y = layer(x * 1 if getattr(layer, "inplace", False) else x, *inputs[1:])
    generator = torch.Generator().manual_seed(1)
    d_y = torch.randn(y.shape, generator=generator).bfloat16().to(y.dtype)
    if move is not None:
        (d_y,) = move([d_y])
    return [y, *torch.autograd.grad(y, [x, *layer.parameters()], d_y)]


def measured(sample: Sample, shape: Shape, dtype: torch.dtype, kind: str) -> dict[str, list[float]]:
    """Return the errors of output and gradients, native and by hand, and what is granted."""
    torch.manual_seed(0)
    native = sample.make(nn, shape).to(dtype)
    with torch.no_grad():
        for parameter in native.parameters():
            parameter.uniform_(*sample.parameters)
    exact, ours = sample.make(nn, shape).double(), sample.make(scratch_layers, shape).to(dtype)
    values = list(native.state_dict().values())
    for layer in (exact, ours):
        names = layer.state_dict()
        layer.load_state_dict(dict(zip(names, values, strict=True)))
    x, *others = sample.inputs(shape)
    given = [t.to(dtype) if t.is_floating_point() else t for t in (KINDS[kind](x), *others)]
    wide = [t.double() if t.is_floating_point() else t for t in given]
    truth = results(exact, wide)
    moved = [results(exact, wide, partial(nudged, dtype=dtype, seed=n)) for n in range(NUDGES)]
    found = {"native": results(native, given), "by hand": results(ours, given)}
    with scratch_layers.compile_kernels():
        found["compiled"] = results(ours, given)
    errors = {
        way: [error(r, t) for r, t in zip(tensors, truth, strict=True)]
        for way, tensors in found.items()
    }
    errors["granted"] = [
        granted(t, m, dtype, sample.products(shape))
        for t, m in zip(truth, zip(*moved, strict=True), strict=True)
    ]
    return errors


def measure() -> dict[str, Any]:
    """Return a row for every layer that draws nothing, dtype and kind of input."""
    rows = []
    for family, samples in FAMILIES.items():
        for sample in samples:
            if family == "dropout" or sample.layer == "RReLU":
                continue  # equal in every bit
            kinds = list(KINDS) if sample.scales else ["ordinary"]
            for dtype in DTYPES if sample.half else ["float32"]:
                for kind in kinds:
                    shape = (min(sample.shapes[-1][0], 16), *sample.shapes[-1][1:])
                    found = measured(sample, shape, DTYPES[dtype], kind)
                    row = {"family": family, "layer": sample.name, "dtype": dtype, "input": kind}
                    rows.append({**row, **found})
            print(f"{sample.name}: {rows[-1]['by hand']}", flush=True)
    return {"rows": rows}


def page(content: dict[str, Any]) -> str:
    """Return the report as Markdown: a table for each dtype, a row for each layer."""
    parts = [
        "# Accuracy\n\nMade by `scripts/accuracy.py`: change the script, not this page.",
        (__doc__ or "").split("\n\n")[-1].strip()
        + " Each cell: **native / by hand / by hand, compiled**, the largest of output and"
        " gradients. Layers that draw random numbers are not listed: they are equal bit by bit.",
    ]
    for dtype in DTYPES:
        parts.append(f"## {dtype}")
        mine = [row for row in content["rows"] if row["dtype"] == dtype]
        lines = []
        for layer in dict.fromkeys(row["layer"] for row in mine):
            of_layer = {row["input"]: row for row in mine if row["layer"] == layer}
            cells = [
                " / ".join(f"{max(of_layer[kind][way]):.2g}" for way in WAYS)
                if kind in of_layer
                else ""
                for kind in KINDS
            ]
            lines.append([layer, *cells])
        parts.append(markdown(["", *KINDS], lines))
    return "\n\n".join([*parts, caption(content)]) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write the report and its page; 1 if a layer is further off than the native one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--table", action="store_true", help="make the page from the report that is there"
    )
    if parser.parse_args(argv).table:
        content = json.loads(REPORT.read_text())
    else:
        content = {"machine": machine(torch.device("cpu")), **measure()}
        REPORT.write_text(json.dumps(content, indent=1) + "\n")
    PAGE.write_text(page(content))
    behind = [
        f"{row['layer']}, {row['dtype']}, {row['input']}, {way}: {row[way]}, "
        f"native: {row['native']}, granted: {row['granted']}"
        for row in content["rows"]
        for way in WAYS[1:]
        if any(
            mine > 1.01 * max(allowed)  # maxima of roundings, which meet by luck
            for mine, *allowed in zip(row[way], row["native"], row["granted"], strict=True)
        )
    ]
    print("\n".join(behind) or "no layer is further from float64 than the native one")
    return 1 if behind else 0


if __name__ == "__main__":
    sys.exit(main())
