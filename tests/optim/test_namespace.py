"""The face of the library: all of torch's names, by hand, with torch's signatures, and small."""

from __future__ import annotations

import ast
import importlib
import inspect
import io
import tokenize
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from cases import CASES, set_gradients
from torch.optim import lr_scheduler, swa_utils

import scratch_optim
from scratch_optim.optimizer import Optimizer
from scratch_optim.testing.subject import gradients, parameters

PACKAGE = Path(scratch_optim.__file__).parent

MODULES = {
    "": torch.optim,
    "lr_scheduler": lr_scheduler,
    "swa_utils": swa_utils,
    "clip_grad": torch.nn.utils.clip_grad,
}
"""Where torch keeps the names that a module of this library is to have."""

if hasattr(torch.optim, "functional"):  # since torch 2.15
    MODULES["functional"] = torch.optim.functional

SUBMODULES = ("lr_scheduler", "swa_utils", "functional", "clip_grad")
"""Attributes of the package, as ``torch.optim.lr_scheduler`` is one."""

BOOKKEEPING = {
    "__repr__": "prints the groups",
    "__getstate__": "what copy and pickle keep",
    "_cuda_graph_capture_health_check": "an older name that warns and calls the newer",
    "_optimizer_step_code": "a mark for the profiler",
    "_patch_step_function": "wraps step, once a class, in the profiler's record and the hooks",
    "_process_value_according_to_param_policy": "casts what is loaded to a parameter's dtype",
    "_group_tensors_by_device_and_dtype": "sorts tensors; not called here",
    "profile_hook_step": "the wrapper of step",
    "register_step_pre_hook": "keeps a hook",
    "register_step_post_hook": "keeps a hook",
    "register_state_dict_pre_hook": "keeps a hook",
    "register_state_dict_post_hook": "keeps a hook",
    "register_load_state_dict_pre_hook": "keeps a hook",
    "register_load_state_dict_post_hook": "keeps a hook",
    "state_dict": "numbers the parameters and hands out groups and state as they are",
    "zero_grad": "forgets the gradients",
}
"""What ``scratch_optim.Optimizer`` inherits from torch's: it computes no update."""


def public(module: ModuleType) -> list[str]:
    """The names that a module of torch offers: those listed, and what it defines."""
    listed = set(getattr(module, "__all__", ()))
    defined = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and getattr(value, "__module__", None) == module.__name__
        and (inspect.isclass(value) or inspect.isfunction(value))
    }
    return sorted(
        name
        for name in listed | defined
        if not inspect.ismodule(getattr(module, name)) and name not in TYPES
    )


TYPES = {"ParamsT", "PARAM_SCALE", "R", "T"}
"""Aliases for annotations."""


def ours(module: str) -> Any:
    return importlib.import_module("scratch_optim" + (f".{module}" if module else ""))


NAMES = [(module, name) for module, torchs in MODULES.items() for name in public(torchs)]
CLASSES = [
    (module, name) for module, name in NAMES if inspect.isclass(getattr(MODULES[module], name))
]
each_name = pytest.mark.parametrize(("module", "name"), NAMES)
each_class = pytest.mark.parametrize(("module", "name"), CLASSES)


@each_name
def test_every_name_of_torch_is_there_and_is_ours(module, name):
    value = getattr(ours(module), name)
    assert value.__module__.startswith("scratch_optim")
    assert value is not getattr(MODULES[module], name)


@pytest.mark.parametrize("name", SUBMODULES)
def test_the_submodules_are_attributes_of_the_package(name):
    assert inspect.ismodule(getattr(scratch_optim, name))


@pytest.mark.parametrize("module", MODULES)
def test_what_is_listed_is_there(module):
    for name in ours(module).__all__:
        assert hasattr(ours(module), name)
    assert set(getattr(MODULES[module], "__all__", ())) - TYPES <= set(ours(module).__all__)


@each_class
def test_a_class_passes_for_torchs(module, name):
    torchs, mine = getattr(MODULES[module], name), getattr(ours(module), name)
    for base in (torch.optim.Optimizer, lr_scheduler.LRScheduler, torch.nn.Module):
        if issubclass(torchs, base):
            assert issubclass(mine, base)


def described(parameters: list[inspect.Parameter]) -> list[tuple[str, Any, Any]]:
    return [(p.name, p.kind, p.default) for p in parameters]


@each_name
def test_a_signature_begins_with_torchs(module, name):
    torchs, mine = (
        list(inspect.signature(getattr(space, name)).parameters.values())
        for space in (MODULES[module], ours(module))
    )
    named = [p for p in torchs if p.kind is not p.VAR_KEYWORD]
    in_order = [p for p in named if p.kind is not p.KEYWORD_ONLY]
    assert described(mine[: len(in_order)]) == described(in_order)
    by_name = {p.name: p for p in mine}
    for p in named[len(in_order) :]:
        assert described([by_name[p.name]]) == described([p])
    for p in mine:
        if p.name not in {q.name for q in torchs}:
            assert p.kind is p.KEYWORD_ONLY or p.kind is p.VAR_KEYWORD
            assert p.default is not p.empty or p.kind is p.VAR_KEYWORD


def methods(kind: type) -> list[str]:
    """What a class defines itself to be called."""
    return [
        name
        for name, value in vars(kind).items()
        if inspect.isfunction(value) or isinstance(value, (staticmethod, classmethod, property))
    ]


@each_class
def test_no_method_of_torch_is_inherited_but_bookkeeping(module, name):
    mine = getattr(ours(module), name)
    for base in mine.__mro__:
        if not base.__module__.startswith(("torch.optim", "torch.nn.utils")):
            continue
        for method in methods(base):
            owner = next(k for k in mine.__mro__ if method in vars(k))
            if owner.__module__.startswith("scratch_optim"):
                continue
            assert base is torch.optim.Optimizer, f"{name}.{method} is that of {owner}"
            assert method in BOOKKEEPING, f"{name}.{method} is that of {owner}"


def test_the_exceptions_are_still_ones():
    for method in BOOKKEEPING:
        assert method not in vars(Optimizer) or method == "__getstate__", method


# ------------------------------------------------------------------ nothing of torch's computes


COMPUTING = ("_single_tensor_", "_multi_tensor_", "_fused_")


def torch_optim_functions() -> list[tuple[ModuleType, str]]:
    """The functions in torch.optim that compute a step."""
    found = []
    for file in sorted(Path(torch.optim.__file__).parent.glob("*.py")):
        module = importlib.import_module(
            f"torch.optim.{file.stem}" if file.stem != "__init__" else "torch.optim"
        )
        for name, value in vars(module).items():
            own = getattr(value, "__module__", "") == module.__name__
            computes = name.startswith(COMPUTING) or name in scratch_optim.functional.__all__
            if inspect.isfunction(value) and own and computes:
                found.append((module, name))
    return found


@pytest.mark.parametrize("way", [{}, {"foreach": False}], ids=["default", "loop"])
@pytest.mark.parametrize("case", CASES, ids=repr)
def test_a_step_reaches_none_of_torchs_computing_functions(case, way, monkeypatch):
    def reached(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a computing function of torch.optim was reached")

    functions = torch_optim_functions()
    assert len(functions) > 30
    for module, name in functions:
        monkeypatch.setattr(module, name, reached)
    params = parameters()
    optimizer = case.ours(params, **case.typical, **way)
    for step in range(2):
        set_gradients(params, [g.clone() for g in gradients()[step]])
        optimizer.step()


def test_the_guard_of_the_test_above_is_reached_by_torchs(monkeypatch):
    for module, name in torch_optim_functions():
        monkeypatch.setattr(module, name, lambda *args, **kwargs: 1 / 0)
    params = parameters()
    set_gradients(params, gradients()[0])
    for name in ("SGD", "Adam", "ASGD"):
        with pytest.raises(ZeroDivisionError):
            getattr(torch.optim, name)(params).step()


@pytest.mark.parametrize("file", sorted(PACKAGE.glob("*.py")), ids=lambda file: file.name)
def test_no_source_names_what_computes_in_torch(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch.optim"):
            assert node.module != "torch.optim._functional"
            assert not {alias.name for alias in node.names} & set(scratch_optim.functional.__all__)
        names = [
            *([node.attr] if isinstance(node, ast.Attribute) else []),
            *([node.id] if isinstance(node, ast.Name) else []),
            *([a.name for a in node.names] if isinstance(node, ast.ImportFrom) else []),
        ]
        assert not [name for name in names if name.startswith(COMPUTING)], file.name


# ------------------------------------------------------------------ size


def source_lines(file: Path) -> int:
    """Lines with code: without blanks, comments and docstrings."""
    text = file.read_text()
    lines: set[int] = set()
    ignored = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (*ignored, tokenize.ENDMARKER):
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        # Docstrings, also those of attributes: expressions that are a text and nothing else.
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            lines.difference_update(range(node.lineno, (node.end_lineno or 0) + 1))
    return len(lines)


RUNNERS = ("optimizer.py", "pieces.py", "tensors.py", "fused.py")


def test_all_of_torchs_optimizers_fit_in_1500_lines():
    """Their files, as torch's are counted: 6,582 in torch 2.15, and 699 of its optimizer.py."""
    kinds = [
        getattr(scratch_optim, name)
        for module, name in CLASSES
        if not module and issubclass(getattr(torch.optim, name), torch.optim.Optimizer)
    ]
    files = {Path(inspect.getfile(kind)).name for kind in kinds} - set(RUNNERS)
    sizes = {file: source_lines(PACKAGE / file) for file in sorted(files)}
    print(
        *[f"{size:5} {file}" for file, size in sizes.items()],
        f"{sum(sizes.values()):5} in all, and what runs them:",
        *[f"{source_lines(PACKAGE / file):5} {file}" for file in RUNNERS],
        sep="\n",
    )
    assert len(kinds) == 16  # 15, and the base class
    assert sum(sizes.values()) < 1500


def test_classes_are_related_as_in_torch():
    for a in CASES:
        for b in CASES:
            assert issubclass(a.ours, b.ours) == issubclass(a.torchs, b.torchs)


@pytest.mark.parametrize("case", [c for c in CASES if c.ours is not c.torchs], ids=repr)
def test_a_class_does_not_inherit_from_the_one_it_stands_in_for(case):
    assert not issubclass(case.ours, case.torchs)
