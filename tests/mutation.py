"""A package with one mistake put into it: do the checks that it passes find the mistake?

    with broken("scratch_optim", "adam.py", "1 - beta2", "1 - beta1") as wrong:
        assert not check_optimizer(wrong.Adam, torch.optim.Adam, on_fail="stop").ok

R. DeMillo, R. Lipton, F. Sayward, "Hints on Test Data Selection: Help for the Practicing
Programmer", 1978, IEEE Computer 11 (4).
"""

import importlib
import itertools
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

NUMBERS = itertools.count()


def replaced(text: str, old: str, new: str, file: str) -> str:
    """The text with ``old``, which must be in it once, replaced.

    Raises:
        ValueError: it is not there, or more than once: the mistake was made for another text.
    """
    if (count := text.count(old)) != 1:
        raise ValueError(f"{old!r} is {count} times in {file}, where it must be once")
    return text.replace(old, new)


@contextmanager
def replica(package: str, *edits: tuple[str, str, str]) -> Iterator[ModuleType]:
    """Import a copy of a package under another name, without the kit it is checked with.

    Args:
        package: its name.
        edits: for each a file of the package, what stands there once, and what to put there.

    Yields:
        The copy. Its classes can be pickled as long as the block lasts.

    Raises:
        ValueError: an edit that does not fit the text.
    """
    (source,) = map(Path, importlib.import_module(package).__path__)
    name = f"{package}_replica_{next(NUMBERS)}"
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, name)
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("testing", "__pycache__"))
        for file, old, new in edits:
            place = copy / file
            place.write_text(replaced(place.read_text(), old, new, file))
        for place in copy.rglob("*.py"):  # which may import their package by its name
            place.write_text(re.sub(rf"\b{package}\b", name, place.read_text()))
        sys.path.insert(0, folder)
        try:
            yield importlib.import_module(name)
        finally:
            sys.path.remove(folder)
            for imported in [x for x in sys.modules if x == name or x.startswith(f"{name}.")]:
                del sys.modules[imported]


@contextmanager
def broken(package: str, file: str, old: str, new: str) -> Iterator[ModuleType]:
    """A copy of a package in which ``old``, once in ``file``, is replaced by ``new``."""
    with replica(package, (file, old, new)) as module:
        yield module
