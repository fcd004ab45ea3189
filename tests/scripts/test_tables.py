"""The tables hold what the reports hold, each figure in its place."""

from __future__ import annotations

import math
from typing import Any

import pytest

import tables

MACHINE = {
    "date": "2000-01-02",
    "torch": "9.9",
    "python": "3.99",
    "processor": "Abacus",
    "threads": 7,
    "device": "cpu",
}


def row(parameters: str, optimizer: str, way: str, against: str, ratio: float) -> dict[str, Any]:
    peak = {"for-loop": 9, "foreach": 2, "fused": 0}
    return {
        "parameters": parameters,
        "optimizer": optimizer,
        "way": way,
        "against": against,
        "ratio": ratio,
        "peak_bytes": peak[way] * 2**20,
        "peak_bytes_against": 43 * 2**20,
    }


ROWS = [
    row("ResNet-20", "Adam", "for-loop", "torch for-loop", 1.01),
    row("ResNet-20", "Adam", "foreach", "torch foreach", 0.5),
    row("ResNet-20", "Adam", "fused", "torch fused", 0.81),
    row("ResNet-18", "Adam", "for-loop", "torch for-loop", 1.21),
    row("ResNet-18", "Adam", "foreach", "torch foreach", 2.0),
    row("ResNet-18", "Adam", "fused", "torch fused", 1.0),
    row("Large", "Adam", "fused", "torch fused", 4.0),
    row("ResNet-20", "Rprop", "foreach", "torch foreach", 0.125),
    row("ResNet-20", "Rprop", "fused", "torch foreach", 0.2),
    row("ResNet-18", "Rprop", "foreach", "torch foreach", 0.5),
    row("ResNet-18", "Rprop", "fused", "torch for-loop", 0.8),
    row("ResNet-20", "Lion", "fused", "torch AdamW fused", 0.01),
    row("ResNet-18", "Lion", "fused", "torch AdamW fused", 0.01),
]


def cells(text: str) -> list[list[str]]:
    """The rows of a Markdown table, without the line below its header."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert {len(line) for line in lines} == {len(lines[0])}
    assert set(lines.pop(1)) == {"---"}
    return lines


def test_steps_have_a_line_for_each_optimizer_and_a_column_for_each_set():
    header, adam, rprop, lion = cells(tables.steps(ROWS))
    assert header[:5] == ["step of", "ResNet-20", "ResNet-18", "Large", "fused against torch's"]
    assert header[5:] == ["MiB, ResNet-18", "torch's"]
    assert adam[:4] == ["Adam", "1.01 / 0.50 / 0.81", "1.21 / 2.00 / 1.00", "- / - / 4.00"]
    assert adam[4:] == ["fused", "9 / 2 / 0", "43 / 43 / 43"]
    assert rprop[:4] == ["Rprop", "- / 0.12 / 0.20", "- / 0.50 / 0.80", ""]
    assert rprop[4:] == ["for-loop, foreach", "- / 2 / 0", "- / 43 / 43"]
    assert lion[0] == "Lion"
    assert lion[4] == "AdamW fused"


def test_means_are_geometric_over_those_that_torch_has_too_and_the_sets_they_share():
    header, loop, foreach, fused, elsewhere = cells(tables.means(ROWS))
    assert header[:5] == ["geometric mean", "optimizers", "ResNet-20", "ResNet-18", "Large"]
    assert header[5:] == ["ResNet-20 and ResNet-18", "above 1", "largest"]
    assert loop[1:6] == ["1", "1.01", "1.21", "", f"**{math.sqrt(1.01 * 1.21):.2f}**"]
    assert loop[6:] == ["2 of 2", "1.21 (Adam, ResNet-18)"]
    assert foreach[1:6] == ["2", "0.25", "1.00", "", "**0.50**"]
    assert foreach[6:] == ["1 of 4", "2.00 (Adam, ResNet-18)"]
    assert fused[1:6] == ["1", "0.81", "1.00", "4.00", "**0.90**"]
    assert fused[6:] == ["1 of 3", "4.00 (Adam, Large)"]
    assert elsewhere[1:6] == ["1", "0.20", "0.80", "", "**0.40**"]
    assert elsewhere[6:] == ["0 of 2", "0.80 (Rprop, ResNet-18)"]


def test_sets_on_which_all_ran_are_called_all():
    assert cells(tables.means(ROWS[:6]))[0][4:] == ["all", "above 1", "largest"]


def test_first_steps_and_helpers_are_shown_if_the_report_has_them():
    first = {
        "optimizer": "Adam",
        "cold_first_step_seconds": 9.04,
        "first_step_seconds": 4.0,
        "cold_ten_steps_seconds": 11.0,
        "ten_steps_seconds": 5.5,
        "kernels_of_ten_steps": 2,
        "kernels": 3,
        "steps": 200,
    }
    helper = {"what": "clip", "ratio": 0.75}
    content = {
        "machine": MACHINE,
        "rows": ROWS,
        "compile": [first],
        "graphs": [{key: value for key, value in r.items() if "peak" not in key} for r in ROWS[:6]],
        "helpers": [{**helper, "parameters": "A"}, {**helper, "parameters": "B"}],
    }
    text = tables.optimizers(content)
    assert "| Adam | 9.0 / 4.0 | 11.0 / 5.5 | 2 / 3 |" in text
    assert "kernels after 10 / 200 steps" in text
    assert "| clip | 0.75 (A), 0.75 (B) |" in text
    assert "captured CUDA graph" in text
    assert text.endswith("Abacus, 7 threads, torch 9.9, Python 3.99, 2000-01-02.")
    alone = tables.optimizers({"machine": MACHINE, "rows": ROWS})
    for part in ("CUDA graph", "Inductor", "goes with"):
        assert part in text
        assert part not in alone


def test_markers_name_the_benchmark_and_the_device(monkeypatch):
    read = []
    monkeypatch.setattr(tables, "report", lambda name: read.append(name) or name)
    monkeypatch.setitem(tables.OF, "layers", lambda content: f"of {content}")
    monkeypatch.setitem(tables.TABLES, "adam", lambda: "equation")
    page = "<!-- table {} -->\nold\n<!-- end -->"
    names = {"layers": "of layers-cpu", "layers-cuda": "of layers-cuda", "adam": "equation"}
    text = "\n".join(["before", *map(page.format, names), "after"])
    filled = tables.filled(text)
    for name, content in names.items():
        assert f"<!-- table {name} -->\n{content}\n<!-- end -->" in filled
    assert filled.startswith("before\n")
    assert filled.endswith("\nafter")
    assert "old" not in filled
    assert tables.filled(filled) == filled
    assert read == ["layers-cpu", "layers-cuda"] * 2
    with pytest.raises(KeyError):
        tables.filled(page.format("nothing"))


def test_each_figure_of_explaining_is_in_its_place():
    ratios = {"again": 1.001, "removed": 1.002, "waiting": 1.003, "every_100": 1.25}
    found = {"step_microseconds": 12.4, "explained_microseconds": 3210.0, **ratios}
    where = {"parameters": "one layer", "optimizer": "SGD", "way": "foreach"}
    text = tables.explain({"machine": MACHINE, "rows": [{**where, **found}]})
    cells = [cell.strip() for cell in text.splitlines()[2].strip("|").split("|")]
    assert cells == [*where.values(), "12 us", "1.001", "1.002", "1.003", "3.2 ms", "1.25"]
    assert "Abacus, 7 threads" in text


def test_a_recipe_of_the_digits_stands_with_its_intervals():
    figure = {"n": 4, "mean": 0.98, "low": 0.97, "high": 0.99}
    names = ("test_accuracy", "train_accuracy", "gap", "epochs", "train_seconds")
    figures = {name: figure | {"mean": 0.5 + i} for i, name in enumerate(names)}
    text = tables.challenge({"machine": MACHINE, "recipes": {"plain": {"figures": figures}}})
    assert cells(text.partition("\n\n")[0])[1] == [
        "plain", "4", "**50.00 ± 1.00 %**", "150.00 ± 1.00 %", "250.00 ± 1.00 points", "4", "4.5 s",
    ]  # fmt: skip


class Example:
    def method(self, x: int) -> int:
        """Say something."""
        # kept
        y = 2 * x
        return y

    @property
    def value(self) -> int:
        return 3


@pytest.mark.parametrize(
    ("function", "lines"),
    [
        (Example.method, ["# kept", "y = 2 * x", "return y"]),
        (Example.value, ["return 3"]),
    ],
)
def test_a_body_is_without_signature_and_docstring(function, lines):
    assert tables.body(function).splitlines() == lines


def test_a_source_is_taken_by_its_name_and_no_test_runs_it():
    page = "<!-- source scratch_optim.lion.Lion.update -->\n<!-- end -->"
    filled = tables.filled(page)
    assert "```py\nbeta1, beta2 = betas\n" in filled
    assert filled.count("theta.add_(m.lerp(g, 1 - beta1).sign_(), alpha=-lr)") == 1
    assert tables.filled(filled) == filled
    with pytest.raises((AttributeError, ImportError)):
        tables.filled(page.replace("lion.Lion", "lion.Tiger"))


def test_memory_shows_the_benchmark_beside_the_options_that_it_had(monkeypatch):
    def kept(name: str, options: dict, benchmarked: bool, **more: Any) -> dict[str, Any]:
        own = {"optimizer": name, "options": options, "benchmarked": benchmarked}
        return {**own, "state": ["v"], "bytes_per_parameter": {"A": 4.0, "B": 8.004}, **more}

    reports = {
        "memory-cpu": {
            "machine": MACHINE,
            "rows": [
                kept("Adam", {}, True, bytes_per_parameter_torch={"A": 12.0, "B": 8.0}),
                kept("Adam", {"amsgrad": True, "lr": 1}, False),
            ],
            "averages": [
                {"optimizer": "EMA", "options": {}, "bytes_per_parameter": {"A": 4, "B": 5}}
            ],
        },
        "optimizers-cpu": {"rows": ROWS},
    }
    monkeypatch.setattr(tables, "report", reports.__getitem__)
    table, _, below = tables.memory().partition("\n\n")
    header, adam, amsgrad, ema = cells(table)
    assert header[2:4] == ["bytes a parameter, A", "bytes a parameter, B"]
    assert adam == ["Adam", "`v`", "4.00", "8.00", "12.00", "9 / 2 / 0"]
    assert amsgrad == ["Adam (amsgrad=True)", "`v`", "4.00", "8.00", "", ""]
    assert ema == ["EMA", "", "4.00", "5.00", "", ""]
    assert below.startswith("Abacus")
