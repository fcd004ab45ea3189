"""The pages of a conformance report: Markdown to be read, HTML to be sorted and hovered over."""

from __future__ import annotations

import html
import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import reproductions
from tables import caption, markdown

Report = Mapping[str, Any]

KITS = {"optim": "Optimizers", "layers": "Layers"}
FAILED, EXPECTED = "failed", "expected failure"
UNEXPECTED, OTHER, NOT_RUN = "passed unexpectedly", "not applicable", "not run"
LETTERS = {
    "passed": "+",
    FAILED: "X",
    EXPECTED: "x",
    UNEXPECTED: "!",
    OTHER: "-",
    NOT_RUN: "?",
}
"""The outcomes as they stand in a cell."""


def compact(report: Report) -> str:
    """The report as JSON, a line for each class."""
    head = {key: value for key, value in report.items() if key != "rows"}
    rows = ",\n".join(json.dumps(row) for row in report["rows"])
    return f'{json.dumps(head, indent=1)[:-2]},\n "rows": [\n{rows}\n ]\n}}\n'


def outcomes(report: Report, row: Report) -> dict[str, tuple[str, str]]:
    """Of a row, outcome and reason of every check, in the order of the checks."""
    checks = list(report["checks"][row["kit"]])
    found = dict.fromkeys(checks, ("passed", ""))
    for outcome in (FAILED, EXPECTED, UNEXPECTED):
        found |= {name: (outcome, reason) for name, reason in row.get(outcome, {}).items()}
    for outcome in (OTHER, NOT_RUN):
        for reason, numbers in row.get(outcome, {}).items():
            found |= {checks[n]: (outcome, reason) for n in numbers}
    return found


def number(row: Report, outcome: str) -> int:
    """How many checks of a row ended so."""
    if outcome == "passed":
        return int(row["passed"])
    whole = row.get(outcome, {})
    if outcome in (OTHER, NOT_RUN):
        return sum(map(len, whole.values()))
    return len(whole)


def asked(report: Report, of: str) -> list[Report]:
    """The rows of a kit, without those of classes of which nothing could be asked."""
    every = len(report["checks"].get(of, ()))
    rows = [row for row in report["rows"] if row["kit"] == of]
    return [row for row in rows if number(row, NOT_RUN) < every]


def left_out(report: Report, of: str) -> dict[str, str]:
    """Reasons by the names of the classes of which nothing could be asked, or was not tried to."""
    every = len(report["checks"].get(of, ()))
    rows = [row for row in report["rows"] if row["kit"] == of and number(row, NOT_RUN) == every]
    found = {row["title"]: next(iter(row[NOT_RUN])) for row in rows}
    return dict(sorted({**report["unasked"].get(of, {}), **found}.items()))


def command(report: Report, row: Report, check: str) -> str:
    """The command line that asks one class one check, as it was asked."""
    if row["against"] is None:
        words = ["python", "-m", report["commands"][row["kit"]], row["place"], "--checks", check]
    else:
        words = ["python", "scripts/parity.py", "--match", row["title"], "--checks", check]
    return shlex.join(words)


def packages(rows: Iterable[Report]) -> list[str]:
    """The packages of rows, this project's first, torch's then."""
    names = {row["package"] for row in rows}
    return sorted(
        names, key=lambda n: (not n.startswith("scratch_"), not n.startswith("torch."), n)
    )


# ------------------------------------------------------------------ Markdown

INTRODUCTION = """# Who passes what

Made by `scripts/parity.py --update`: change the script, not this page. All of it, class by class
and check by check, with the reason of each failure under the cursor: [parity.html](parity.html), to
be opened from a checkout.

The conformance kits ask of every class what they ask of this project's: does it keep to the
contract of torch.optim and torch.nn, do closed forms hold, and, where there is a class of the same
mathematics, are the numbers the same. Every class is asked with its own defaults and with options
derived from its signature.

How to read it. *Failed*: a check found what its sentence says should not be; whether that matters
is the reader's to say, and a class that fails some may train networks well. What a package inherits
from torch, it fails with torch: the column beside counts the failures of checks that no class of
torch's fails. *Expected*: it fails, and that is documented by the package, or a known defect of
torch. *Not applicable*: the class has not what the check asks about."""

DIVERGENCE = """## How far optimizers part from their reference

In float32, in each of their ways, on the same 200 gradients as the reference in float64; and a
ResNet-20 on digits beside the built-in one. Made by `scripts/divergence.py --picture`.

![Largest difference of the parameters by step](divergence.svg)"""

HEADS = {
    "passed": "passed",
    FAILED: "failed",
    EXPECTED: "expected",
    UNEXPECTED: "passed unexpectedly",
    OTHER: "not applicable",
    NOT_RUN: "not run",
}


def markdown_page(report: Report) -> str:
    """The report as a page for people."""
    parts = [INTRODUCTION, versions(report)]
    for of, title in KITS.items():
        rows = asked(report, of)
        if rows:
            parts += [f"## {title}", summary(rows), *by_check(report, of, rows)]
            parts += examples(report, of, rows)
            parts += ["### Class by class", *by_class(report, of, rows)]
    return "\n\n".join([*parts, DIVERGENCE, caption(dict(report))]) + "\n"


def versions(report: Report) -> str:
    """What was checked, in which versions."""
    found = [f"{name} {version}" for name, version in report["versions"].items()]
    return "Checked: " + ", ".join(found) + "."


def summary(rows: Sequence[Report]) -> str:
    """A line for each package."""
    of_torch = [row for row in rows if row["package"].startswith("torch.")]
    torchs = {c for row in of_torch for outcome in (FAILED, EXPECTED) for c in row.get(outcome, {})}
    lines = []
    for package in packages(rows):
        mine = [row for row in rows if row["package"] == package]
        whole = sum(not number(row, FAILED) for row in mine)
        own = sum(check not in torchs for row in mine for check in row.get(FAILED, {}))
        counts = [sum(number(row, outcome) for row in mine) for outcome in LETTERS]
        passed, failed, *others = [str(n or "") for n in counts]
        begin = [package, str(len(mine)), f"**{whole}**"]
        lines.append([*begin, passed, failed, str(own or ""), *others])
    header = ["package", "classes", "without a failure", "passed", "failed"]
    header += ["failed where torch's do not", *list(HEADS.values())[2:]]
    used = [any(line[i] for line in lines) for i in range(len(header))]
    return markdown(
        [name for name, use in zip(header, used, strict=True) if use],
        [[cell for cell, use in zip(line, used, strict=True) if use] for line in lines],
    )


def by_check(report: Report, of: str, rows: Sequence[Report]) -> Iterator[str]:
    """Which check how many classes of each package fail."""
    names = packages(rows)
    lines = []
    fine = 0
    for check, proves in report["checks"][of].items():
        if not any(check in row.get(outcome, {}) for row in rows for outcome in (FAILED, EXPECTED)):
            fine += 1
            continue
        cells = []
        for package in names:
            found = [outcomes(report, row)[check][0] for row in rows if row["package"] == package]
            failed, asked = found.count(FAILED), sum(x not in (OTHER, NOT_RUN) for x in found)
            known = found.count(EXPECTED)
            cell = f"**{failed}** of {asked}" if failed else f"0 of {asked}" if asked else ""
            cells.append(cell + (f", {known} expected" if known else ""))
        lines.append([f"`{check}`", *cells, sentence(proves)])
    yield (
        f"Of the {len(report['checks'][of])} checks no class fails {fine}. How many fail each of "
        "the others, of those that it applies to:"
    )
    yield markdown(["", *names, "what passing proves"], lines)


def examples(report: Report, of: str, rows: Sequence[Report]) -> Iterator[str]:
    """For each check that somebody fails, a program that shows it, or the command that asks."""
    yield "<details><summary>How to see each failure: an example for every check</summary>"
    for check, proves in report["checks"][of].items():
        failed = [row for row in rows if check in row.get(FAILED, {})]
        if not failed:
            continue
        row = min(failed, key=lambda row: check not in row["shown"])
        reason = row[FAILED][check]
        yield f"**`{check}`**: {sentence(proves)}"
        yield f"{row['title']}: {escaped(reason)}"
        code = reproductions.program(check, row["place"], reason)
        if check in row["shown"] and code:
            yield f"```python\n{code}```"
        else:
            yield f"`{command(report, row, check)}`"
        if len(failed) > 1:
            others = len(failed) - 1
            yield f"{others} other{'s fail' if others > 1 else ' fails'} this check."
    yield "</details>"


def by_class(report: Report, of: str, rows: Sequence[Report]) -> Iterator[str]:
    """The classes of each package, and what each of them fails."""
    for package in packages(rows):
        mine = [row for row in rows if row["package"] == package]
        lines = [
            [
                row["title"].removeprefix(f"{package}."),
                row["against"] or "",
                *[str(number(row, outcome) or "") for outcome in list(LETTERS)[:5]],
                escaped(row["why"]),
            ]
            for row in mine
        ]
        yield f"<details><summary>{package}: {len(mine)} classes</summary>"
        yield markdown(["", "against", *list(HEADS.values())[:5], ""], lines)
        if package.startswith(("scratch_", "torch.")):
            for row in mine:
                yield from failures(report, row)
        out = {t: r for t, r in left_out(report, of).items() if t.startswith(f"{package}.")}
        if out:
            yield "Left out: " + "; ".join(f"{t} ({escaped(r)})" for t, r in out.items()) + "."
        yield "</details>"


def failures(report: Report, row: Report) -> Iterator[str]:
    """What a class fails: the check, and what was found."""
    found = outcomes(report, row)
    lines = []
    for check, (outcome, reason) in found.items():
        first = escaped(reason.split("\n")[0])
        if outcome == FAILED:
            lines.append(f"- `{check}`: {first}")
        elif outcome in (EXPECTED, UNEXPECTED):
            lines.append(f"- {outcome}, `{check}`: {first}")
    if lines:
        yield f"**{row['title']}**"
        yield "\n".join(lines)


def sentence(proves: str) -> str:
    """What a check proves, as its docstring says it, in Markdown."""
    return proves.replace("``", "`").replace("|", "\\|")


def escaped(text: str) -> str:
    """Text as a cell of a Markdown table, or in a list."""
    for special in "\\`*_|<>[]":
        text = text.replace(special, f"\\{special}")
    return " ".join(text.split())


# ------------------------------------------------------------------ HTML

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Who passes what</title>
<style>
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 2em; max-width: 75em; }}
table {{ border-collapse: collapse; font-size: 12px; }}
th, td {{ border: 1px solid #ccc; padding: 0 3px; text-align: center; }}
th:first-child, td:first-child {{ text-align: left; white-space: nowrap; }}
thead th {{ cursor: pointer; background: #fff; position: sticky; top: 0; }}
thead th span {{ writing-mode: vertical-rl; transform: rotate(180deg); }}
.p {{ background: #d8f0d8; }} .f {{ background: #f3a0a0; }} .e, .u {{ background: #f8e0a0; }}
.n {{ color: #aaa; }}
</style>
<h1>Who passes what</h1>
<p>{versions} {caption}
Made by scripts/parity.py; the same to be read: parity.md. Click a heading to sort; the reason of a
cell, and what a check proves, stand under the cursor.
+ passed, X failed, x failed as expected, ! passed unexpectedly, - not applicable, ? not run.</p>
<p><input id="only" placeholder="part of a name" oninput="show()"></p>
<div id="tables"></div>
<script>
const data = {data};
const kinds = {{"+": "p", "X": "f", "x": "e", "!": "u", "-": "n", "?": "n"}};
let sorted = {{}};
function element(tag, text, title, kind) {{
  const made = document.createElement(tag);
  made.textContent = text;
  if (title) made.title = title;
  if (kind) made.className = kind;
  return made;
}}
function key(row, column) {{
  if (column === 0) return row.title.toLowerCase();
  if (column === 1) return -[...row.cells].filter(x => x === "X").length;
  return "Xx!+?-".indexOf(row.cells[column - 2]);
}}
function show() {{
  const place = document.getElementById("tables");
  const part = document.getElementById("only").value.toLowerCase();
  place.replaceChildren();
  for (const kit of data) {{
    place.append(element("h2", kit.title));
    const table = document.createElement("table"), head = table.createTHead().insertRow();
    const heads = [["class", ""], ["failed", "how many"], ...kit.checks];
    heads.forEach(([name, proves], i) => {{
      const cell = element("th", "", proves);
      cell.append(element("span", name));
      cell.onclick = () => {{ sorted[kit.title] = i; show(); }};
      head.append(cell);
    }});
    const column = sorted[kit.title] ?? 0;
    const rows = kit.rows.filter(row => row.title.toLowerCase().includes(part));
    rows.sort((a, b) => key(a, column) < key(b, column) ? -1 : key(a, column) > key(b, column));
    const body = table.createTBody();
    for (const row of rows) {{
      const line = body.insertRow();
      line.append(element("td", row.title, row.against ? "against " + row.against : ""));
      line.append(element("td", -key(row, 1) || ""));
      [...row.cells].forEach((cell, i) => {{
        const reason = row.reasons[i];
        line.append(element("td", cell, kit.reasons[reason] ?? "", kinds[cell]));
      }});
    }}
    place.append(table);
  }}
}}
show();
</script>
</html>
"""


def html_page(report: Report) -> str:
    """The report as a matrix, classes by checks, in a page that needs nothing else."""
    data = []
    for of, title in KITS.items():
        rows = asked(report, of)
        reasons: dict[str, int] = {}
        drawn = []
        for row in rows:
            found = list(outcomes(report, row).values())
            drawn.append(
                {
                    "title": row["title"],
                    "against": row["against"],
                    "cells": "".join(LETTERS[outcome] for outcome, _ in found),
                    "reasons": {
                        i: reasons.setdefault(reason, len(reasons))
                        for i, (_, reason) in enumerate(found)
                        if reason
                    },
                }
            )
        if rows:
            checks = list(report["checks"][of].items())
            data.append({"title": title, "checks": checks, "rows": drawn, "reasons": list(reasons)})
    text = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    return _PAGE.format(
        versions=html.escape(versions(report)),
        caption=html.escape(caption(dict(report))),
        data=text,
    )
