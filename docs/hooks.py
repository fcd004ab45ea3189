"""What mkdocs does beyond its plugins: formulas as MathML, and links to files beside docs/.

The pages are written to be read where they lie, too: formulas between dollar signs, links to
sources as paths. On the site

- a formula becomes MathML, so that no script and no server is needed to draw it. One that
  latex2mathml does not know is a warning, and ``--strict`` makes that an error.
- a file that a page links to and that does not lie in docs/ is copied to source/, so that a link
  leads to the text the site was built from. CONTRIBUTING.md becomes a page.
"""

from __future__ import annotations

import html
import logging
import os
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PAGES = {"CONTRIBUTING.md": "contributing.md"}
"""Files beside docs/ that are pages, and where."""

LINK = re.compile(r"(\]\()(?!https?:|#)([^)#\s]+)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)

log = logging.getLogger("mkdocs.hooks")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files that pages link to."""
    docs = Path(config.docs_dir)
    for name, uri in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / name)))
    wanted = set()
    for page in files.documentation_pages():
        source = Path(page.abs_src_path or "")
        for _, target in LINK.findall(source.read_text()):
            path = (source.parent / target).resolve()
            if path.is_file() and not path.is_relative_to(docs):
                wanted.add(path.relative_to(ROOT).as_posix())
    for name in sorted(wanted - PAGES.keys()):
        files.append(File.generated(config, f"source/{name}.txt", abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links to files beside docs/ lead to where they are on the site."""
    docs, source = Path(config.docs_dir), Path(page.file.abs_src_path or "")
    here = os.path.dirname(page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        path = (source.parent / match[2]).resolve()
        if path.is_relative_to(docs):
            uri = path.relative_to(docs).as_posix()
        elif path.is_file() and path.is_relative_to(ROOT):
            name = path.relative_to(ROOT).as_posix()
            uri = PAGES.get(name, f"source/{name}.txt")
        else:
            return match[0]
        return match[1] + os.path.relpath(uri, here or ".")

    return LINK.sub(moved, markdown)


def on_page_content(html_text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn formulas into MathML."""

    def drawn(match: re.Match[str]) -> str:
        formula = html.unescape(match[2]).strip().replace("{aligned}", "{align*}")
        try:
            mathml = convert(formula, display="block" if match[1] == "div" else "inline")
        except Exception as error:  # of many kinds; all mean that the page is to be mended
            log.warning("%s: %r is no formula: %r", page.file.src_uri, formula, error)
            return match[0]
        if "\\" in mathml:
            log.warning("%s: latex2mathml does not know all of %r", page.file.src_uri, formula)
        return mathml

    return FORMULA.sub(drawn, html_text)
