"""The rules of the house: who may import whom, and that everything public shows how it is used."""

import ast
from pathlib import Path

import pytest

import numbarnn

ROOT = Path(numbarnn.__file__).parent

# What a room may import, besides what these may import in turn. Nothing here imports upwards.
ARROWS = {
    "simd": [],
    "kernels": ["simd"],
    "cells": ["kernels", "simd"],
    "cuda": ["training"],
    "checks": [],
    "columns": [],
    "limits": [],
    "layer": ["cells", "limits"],
    "torch_weights": [],
    "loop": ["layer"],
    "passes": ["loop"],
    "streaming": ["layer"],
    "recurrent": ["passes", "streaming", "checks", "torch_weights"],
    "parameters": ["limits"],
    "blocks": ["parameters", "recurrent", "kernels"],
    "network": ["blocks"],
    "losses": ["kernels"],
    "optimizers": ["kernels"],
    "schedules": [],
    "validation": [],
    "training": ["network", "losses", "optimizers", "schedules", "validation"],
    "estimators": ["training"],
    "forecasting": ["training", "zones"],
    "datasets": [],
    "plotting": [],
    "tables": ["columns", "zones"],
    "zones": [],
}
# These stand on top: they may import everything, and nobody imports them.
ROOF = {
    "__init__", "__main__", "bench", "cli", "cli_input", "cli_output", "demo", "forecasting_cli", "interop",
    "serialization",
}  # fmt: skip


def allowed(room):
    """Return every room below."""
    below = set(ARROWS[room])
    return below.union(*(allowed(other) for other in below))


def room_of(path):
    """Name of the folder or module directly under the package."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def is_for_types_only(node):
    """Whether this is the block ``if TYPE_CHECKING``, which is never run."""
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imported_names(node, path):
    """Dotted names that an import statement of the module at ``path`` may load."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = []
    if node.level:
        folder = ("numbarnn", *path.relative_to(ROOT).parent.parts)
        base = [*folder[:len(folder) - node.level + 1]]
    base = ".".join(base + ([node.module] if node.module else []))
    return [f"{base}.{alias.name}" for alias in node.names]


def imports(path):
    """Yield (line, room, whether at module level) for each import of another room."""
    def walk(node, top):
        for child in ast.iter_child_nodes(node):
            if is_for_types_only(child):
                continue
            if isinstance(child, ast.Import | ast.ImportFrom):
                for name in imported_names(child, path):
                    package, _, rest = name.partition(".")
                    room = rest.partition(".")[0]
                    is_room = (ROOT / room).is_dir() or (ROOT / f"{room}.py").exists()
                    if package == "numbarnn" and room and is_room and room != room_of(path):
                        yield child.lineno, room, top
            yield from walk(child, top and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    return walk(ast.parse(path.read_text(encoding="utf-8")), True)


MODULES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_imports_upwards(path):
    room = room_of(path)
    assert room in ARROWS or room in ROOF, f"say in ARROWS what {room} may import"
    for line, other, at_module_level in imports(path):
        if other == "cuda" and room not in ROOF:
            assert not at_module_level, f"{path}:{line}: import cuda in the function that asks for it"
        elif room in ARROWS:
            assert other in allowed(room), f"{path}:{line}: {room} may not import {other}"


def test_the_reader_of_imports_sees_every_form(tmp_path, monkeypatch):
    """Each line but the last three imports another room; the reader must see it."""
    source = """
import numbarnn.training
from numbarnn import losses
from numbarnn.cells.base import Cell
from .. import simd
from ..kernels.gemm import product
def f():
    from ..cuda import scan
if TYPE_CHECKING:
    from ..estimators import RNNRegressor
from . import base
import numpy
"""
    rooms = ["training", "losses", "cells", "simd", "kernels", "cuda", "estimators", "network"]
    for room in rooms:
        (tmp_path / f"{room}.py").touch()
    (tmp_path / "forecasting").mkdir()
    path = tmp_path / "forecasting" / "windows.py"
    path.write_text(source)
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    seen = [(room, at_module_level) for _, room, at_module_level in imports(path)]
    assert seen == [(room, room != "cuda") for room in rooms[:6]]


@pytest.mark.parametrize("name", numbarnn.__all__)
def test_everything_public_shows_how_it_is_used(name):
    assert ">>> " in (getattr(numbarnn, name).__doc__ or ""), f"numbarnn.{name} has no example"


def test_public_names_are_listed():
    assert set(numbarnn.__all__) <= set(dir(numbarnn))
    with pytest.raises(AttributeError, match="no_such_name"):
        numbarnn.no_such_name  # noqa: B018
