"""Docstrings as mkdocstrings renders them: references of Sphinx as links, tables as they stand."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|data|mod|attr):`~?([\w.]+)`")
TABLE = re.compile(r"^(=+(?: +=+)+)$.*?^\1$(?=\n\s*\n|\s*\Z)", re.MULTILINE | re.DOTALL)


class References(griffe.Extension):
    """Turns roles, which Sphinx knows, into links of Markdown."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of ``obj``."""
        if obj.docstring is None:
            return

        def link(match: re.Match[str]) -> str:
            name = match[1]
            try:
                path = obj.resolve(name) if not name.startswith("scratch_") else name
            except griffe.NameResolutionError:
                path = None
            shown = f"`{name.rpartition('.')[2]}`"
            return shown if path is None else f"[{shown}][{path}]"

        text = ROLE.sub(link, obj.docstring.value)
        obj.docstring.value = TABLE.sub(r"```text\n\g<0>\n```", text)
