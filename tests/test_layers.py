"""The house: each room imports from the rooms below it only, and each outside library has its one door."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ebmstruct"
ROOMS = (
    "errors",
    "storage",
    "graph",
    "energies|inference",
    "learning",
    "extend",
    "testing",
    "run|help_texts",
    "cli",
    "__main__",
)
"""From the ground up; rooms on one floor do not know each other."""
DOORS = {
    "pluggy": ("extend/",),
    "yaml": ("run/",),
    "networkx": ("inference/structure.py",),
    "torch_geometric": ("energies/graph_network.py",),
    "spacy": (),
    "rich": ("run/",),
    "pytoulbar2": ("inference/outside/",),
    "ortools": ("inference/outside/",),
    "arviz": ("inference/diagnostics/export.py",),
    "qdldl": ("inference/least_squares/sparse_cholesky.py",),
    "torch.utils.tensorboard": ("learning/tensorboard.py",),
    "tensorboard": ("learning/tensorboard.py",),
    "numba": ("inference/kernels/", "energies/sparse_numba.py"),
}
"""Library to the only places of ``ebmstruct/`` that may import it."""
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms.split("|")}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Every module that a file imports, and whether that is for type checking only."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checking = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in checking) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: write imports in full"
            if node.module == "ebmstruct":
                yield from ((f"ebmstruct.{alias.name}", id(node) in checking) for alias in node.names)
            else:
                yield node.module, id(node) in checking


def room_of(module: str) -> str:
    """The room of a module of ours, given by its dotted name."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    """A module imports from its own room and from floors below; types may be named for the checker from anywhere."""
    here = path.relative_to(PACKAGE).with_suffix("").parts[0]
    if here == "__init__":
        return
    for module, checking in imports(path):
        if module.split(".")[0] != "ebmstruct" or checking:
            continue
        there = room_of(module)
        if there not in FLOOR:  # the package's own version and lazy names
            continue
        assert there == here or FLOOR[there] < FLOOR[here], f"{here} must not import {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_each_library_has_one_door(path: Path) -> None:
    """Optional and heavy libraries are imported in the places named for them and nowhere else."""
    place = str(path.relative_to(PACKAGE))
    for module, checking in imports(path):
        parts = module.split(".")
        for library in (".".join(parts[:n]) for n in range(1, len(parts) + 1)):
            if library in DOORS and not checking:
                assert any(place.startswith(door) for door in DOORS[library]), f"{place} must not import {module}"


def test_solvers_do_not_know_each_other() -> None:
    """One file a method: no solver imports another."""
    for path in (PACKAGE / "inference/solvers").glob("*.py"):
        if path.name != "__init__.py":
            assert not [m for m, _ in imports(path) if m.startswith("ebmstruct.inference.solvers")], path


def test_plugins_use_public_rooms() -> None:
    """Our own plugins come in by the same door as anybody's: no plugin imports a private module or the run layer."""
    for path in sorted((ROOT / "plugins").rglob("*.py")):
        for module, checking in imports(path):
            if module.startswith("ebmstruct.") and not checking:
                assert room_of(module) != "run", f"{path.name} must not import {module}"
                assert not any(part.startswith("_") for part in module.split(".")), f"{path.name}: {module} is private"
