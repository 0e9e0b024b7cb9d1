"""The form of the code: names that resolve, docstrings, documented hooks, short files, light imports, no prints."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ebmstruct
from ebmstruct.extend import hookspecs
from ebmstruct.extend.discovery import KINDS
from ebmstruct.run.config import load_config

ROOT = Path(__file__).parents[1]
FILES = sorted(p for room in ("ebmstruct", "plugins") for p in (ROOT / room).rglob("*.py"))
MAX_LINES = 400
Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def relative(path: Path) -> str:
    """A file's name in test reports."""
    return str(path.relative_to(ROOT))


TREES = {relative(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def public(body: list[ast.stmt]) -> Iterator[Definition]:
    """The classes and functions of a body whose names do not begin with an underscore."""
    for node in body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield node


def inherited() -> dict[str, set[str]]:
    """Class name to the names of the methods to which it gives a docstring, its bases' included; namesakes count as one."""
    own: dict[str, set[str]] = {}
    bases: dict[str, list[str]] = {}
    for tree in TREES.values():
        for cls in (node for node in tree.body if isinstance(node, ast.ClassDef)):
            own.setdefault(cls.name, set()).update(n.name for n in public(cls.body) if ast.get_docstring(n))
            named = [ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in cls.bases]
            bases.setdefault(cls.name, []).extend(name for name in named if name != cls.name)

    def all_of(name: str) -> set[str]:
        return own.get(name, set()).union(*(all_of(base) for base in bases.get(name, ())))

    return {name: all_of(name) for name in own}


TOLD = inherited()
INTERNAL = ("_ops.py", "_autograd.py", "_plan_torch.py", "simd_numba.py", "simd_exp_numba.py")
"""Inner parts of kernels: their functions are told by the function of ``chain.py`` or ``forest.py`` that they serve."""
KNOWN_BY_FORM = {"select", "forward", "extra_repr"}
"""Methods of protocols and of torch modules, whose meaning is told where the protocol is."""


def test_public_names() -> None:
    """Every name in ebmstruct.__all__ resolves, is listed by dir, and has a docstring of its own."""
    assert ebmstruct.__all__ == dir(ebmstruct) and len(set(ebmstruct.__all__)) == len(ebmstruct.__all__)
    for name in ebmstruct.__all__:
        value = getattr(ebmstruct, name)
        if name != "__version__":
            assert value.__doc__, name
            assert not value.__doc__.startswith(f"{name}("), f"{name}: that is the signature of a dataclass"
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = ebmstruct.no_such_name


@pytest.mark.parametrize("name", TREES)
def test_docstrings(name: str) -> None:
    """Every module, public class and public function has a docstring; so have methods, unless a base tells theirs.

    Of the inner parts of kernels only the module must have one.
    """
    tree = TREES[name]
    assert ast.get_docstring(tree), f"{name} has no docstring"
    if "inference/kernels/" in name and name.endswith(INTERNAL):
        return
    for node in public(tree.body):
        assert ast.get_docstring(node), f"{name}:{node.lineno} {node.name} has no docstring"
        if isinstance(node, ast.ClassDef) and "Protocol" not in {ast.unparse(base) for base in node.bases}:
            for method in public(node.body):
                told = method.name in TOLD[node.name] or method.name in KNOWN_BY_FORM
                assert told or is_setter(method), f"{name}:{method.lineno} {node.name}.{method.name} has no docstring"


def is_setter(node: Definition) -> bool:
    """Whether a function is decorated as overload or setter, whose meaning is told by its twin."""
    return any(ast.unparse(d).endswith(("overload", ".setter")) for d in node.decorator_list)


@pytest.mark.parametrize("name", TREES)
def test_no_print(name: str) -> None:
    """Nothing is printed by the library: it logs, and the command writes to its streams."""
    calls = (node for node in ast.walk(TREES[name]) if isinstance(node, ast.Call))
    lines = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert not lines, f"{name} prints at lines {lines}"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_short_files(path: Path) -> None:
    """No module is longer than 400 lines: one that grows so long answers more than one question."""
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


def test_hooks_are_documented() -> None:
    """Every hook has a docstring, a heading of its own in docs/plugins.md, and a kind by which it is listed."""
    hooks = {name: value for name, value in vars(hookspecs).items() if name.startswith("ebmstruct_")}
    assert set(hooks) == set(KINDS.values())
    page = (ROOT / "docs/plugins.md").read_text(encoding="utf-8").splitlines()
    for name, hook in hooks.items():
        assert hook.__doc__ and f"### {name}" in page, name


def modules_after(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has imported after running some code."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "plugins")])
    source = f"{code}\nimport sys\nsys.stderr.write('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", source],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    return {line.partition(".")[0] for line in done.stderr.splitlines()}


HEAVY = {"torch", "numba", "numpy", "scipy", "networkx", "pluggy", "yaml", "rich", "spacy", "ebmstruct_nlp"}


def test_import_is_light() -> None:
    """``import ebmstruct`` imports neither torch nor any other heavy library, and looks for no plugin."""
    assert not modules_after("import ebmstruct") & HEAVY


def test_help_is_light() -> None:
    """``ebmstruct --help``, and the help of every command, come without torch and without plugins."""
    for command in ("", "run", "evaluate", "predict", "solve", "verify", "explain", "warm", "plugins"):
        arguments = [*command.split(), "--help"]
        code = f"from ebmstruct.cli import main\ntry: main({arguments})\nexcept SystemExit: pass"
        assert not modules_after(code) & HEAVY, command


def test_extend_leaves_torch_alone() -> None:
    """What a plugin's hook module needs (``hookimpl``, ``Task``) comes without torch, so that listing plugins is quick."""
    assert "torch" not in modules_after("from ebmstruct.extend import Task, hookimpl")


@pytest.mark.parametrize("path", sorted((ROOT / "tasks").glob("*.yaml")), ids=lambda p: p.name)
def test_tasks_parse(path: Path) -> None:
    """Every task file that is shipped is without fault, writes below runs/, and says in a comment how to run it."""
    config = load_config(path)
    assert config.output == Path("runs") / path.stem
    assert f"ebmstruct run tasks/{path.name}" in path.read_text(encoding="utf-8")
