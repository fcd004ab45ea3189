"""How many bytes an optimizer keeps for each parameter: measured, of ours and of torch's.

    python scripts/memory.py        a few seconds; writes benchmarks/results/memory-cpu.json

After a step (L-BFGS: after as many as its history is long) the tensors of the state dict are
counted, each storage once. Parameters and gradients, 4 bytes each in float32, come on top.
``scripts/tables.py`` makes the table of docs/optimizers/index.md of it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import scratch_optim
from benchmark import OPTIONS, RESULTS, machine
from scratch_layers.resnet import resnet20
from scratch_optim.swa_utils import EMA, AveragedModel, Lookahead

REPORT = RESULTS / "memory-cpu.json"
HISTORY = 10
"""Of L-BFGS; its default, 100, would fill the memory of a small machine."""

VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("SGD", {}),
    ("SGD", {"momentum": 0.9}),
    ("Momentum", {}),
    ("ASGD", {}),
    ("Adagrad", {}),
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.9}),
    ("RMSprop", {"momentum": 0.9, "centered": True}),
    ("Adadelta", {}),
    ("Adam", {}),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {}),
    ("Adamax", {}),
    ("NAdam", {}),
    ("RAdam", {}),
    ("SparseAdam", {}),
    ("Adafactor", {}),
    ("Lion", {}),
    ("Rprop", {}),
    ("LARS", {}),
    ("LAMB", {}),
    ("Muon", {"auxiliary": {"lr": 1e-3}}),
    ("LBFGS", {"history_size": HISTORY, "max_iter": 1, "lr": 0.1}),
)
"""Each optimizer, with the options that change what it keeps."""


def models() -> dict[str, nn.Module]:
    """Return what is optimized: convolutions, and matrices."""
    matrices = [nn.Linear(1024, 1024, bias=False) for _ in range(4)]
    return {"ResNet-20": resnet20(), "4 x 1024x1024": nn.Sequential(*matrices)}


def tensors(x: Any) -> Iterator[Tensor]:
    """Yield all tensors in nested dicts, lists and tuples."""
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, dict | list | tuple):
        for value in x.values() if isinstance(x, dict) else x:
            yield from tensors(value)


def held(state: Any) -> int:
    """Return the bytes of the storages of all tensors in ``state``, each once."""
    storages = (x.untyped_storage() for x in tensors(state))
    return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


def step(optimizer: Any, params: Sequence[nn.Parameter], count: int = 1) -> Any:
    """Return the optimizer after ``count`` steps down f = |theta|^2 / 2."""

    def closure() -> Tensor:
        for p in params:
            g = p.detach().clone()
            p.grad = g.to_sparse(1) if type(optimizer).__name__ == "SparseAdam" else g
        return sum((p.detach().square().sum() / 2 for p in params), start=torch.zeros(()))

    for _ in range(count):
        optimizer.step(closure)
    return optimizer


def measured(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return what an optimizer keeps, and what torch's of that name does, if there is one."""
    row: dict[str, Any] = {"optimizer": name, "options": options, "state": []}
    # whether the benchmark's figures are those of these options
    changes = {option: value for option, value in options.items() if option != "lr"}
    row["benchmarked"] = changes.items() <= OPTIONS.get(name, {}).items()
    for library, key in ((scratch_optim, ""), (torch.optim, "_torch")):
        kind = getattr(library, name, None)
        if kind is None or (key and "auxiliary" in options):  # torch's Muon takes matrices only
            continue
        row["bytes_per_parameter" + key] = {}
        for title, model in models().items():
            params = list(model.parameters())
            steps = HISTORY + 2 if name == "LBFGS" else 1
            state = step(kind(params, **options), params, steps).state_dict()["state"]
            count = sum(p.numel() for p in params)
            row["bytes_per_parameter" + key][title] = held(state) / count
            if not key:
                kept = [n for s in state.values() for n, x in s.items() if any_dims(x)]
                row["state"] = list(dict.fromkeys([*row["state"], *kept]))
    return row


def any_dims(x: Any) -> bool:
    """Return whether ``x`` holds a tensor that is more than a number."""
    return any(tensor.dim() for tensor in tensors(x))


def averages() -> list[dict[str, Any]]:
    """Return what averages of weights keep besides the optimizer's state."""
    rows = []
    for name in ("EMA", "AveragedModel", "Lookahead"):
        row: dict[str, Any] = {"optimizer": name, "options": {}, "bytes_per_parameter": {}}
        for title, model in models().items():
            params = list(model.parameters())
            if name == "Lookahead":
                kept: Any = step(Lookahead(scratch_optim.SGD(params)), params)
            else:
                kept = {"EMA": EMA, "AveragedModel": AveragedModel}[name](model)
            count = sum(p.numel() for p in params)
            row["bytes_per_parameter"][title] = held(kept.state_dict()) / count
        rows.append(row)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, show and write the report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=REPORT, help="(default: %(default)s)")
    out = parser.parse_args(argv).out
    torch.manual_seed(0)
    rows, means = [measured(name, options) for name, options in VARIANTS], averages()
    report = {"machine": machine(torch.device("cpu")), "rows": rows, "averages": means}
    for row in rows + means:
        print(row["optimizer"], row["options"], row["bytes_per_parameter"], flush=True)
    out.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
