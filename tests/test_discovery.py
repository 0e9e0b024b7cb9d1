"""Plugins: found in metadata, imported when named, their faults caught and told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ebmstruct.errors import ConfigError, PluginError
from ebmstruct.extend.components import CORE, Components, UnknownName, options_of
from ebmstruct.extend.discovery import candidates, listing, missing_dependency
from ebmstruct.run.config import parse_config

HEAD = "from ebmstruct.extend import hookimpl\n"
EMPTY = HEAD + "class Thing:\n    name = 'thing'\n@hookimpl\ndef ebmstruct_losses():\n    return {'thing': Thing}\n"


def test_names_come_from_metadata(install, tmp_path: Path) -> None:
    """Listing prefixes imports nothing; asking for one plugin imports that one only."""
    install("one", "plug_one", EMPTY)
    install("two", "plug_two", "raise RuntimeError('never')")
    components = Components()
    assert {"one", "two"} <= set(components.candidates)
    assert "plug_one" not in sys.modules
    assert components.resolve("loss", "one.thing").__name__ == "Thing"
    assert "plug_one" in sys.modules and "plug_two" not in sys.modules


def test_two_distributions_one_prefix(install) -> None:
    """A clash of prefixes names both distributions and the way out; blocking one resolves it."""
    install("same", "plug_a", EMPTY, name="first-dist")
    install("same", "plug_b", EMPTY, name="second-dist")
    with pytest.raises(
        PluginError, match=r"first-dist 1\.2 and second-dist 1\.2; uninstall one.*EBMSTRUCT_PLUGINS_BLOCK"
    ):
        Components().resolve("loss", "same.thing")
    assert len([line for line in listing(candidates()) if line.prefix == "same" and line.fault]) == 2
    blocked = Components({"EBMSTRUCT_PLUGINS_BLOCK": "Second.Dist"})
    assert blocked.resolve("loss", "same.thing").__module__ == "plug_a"


def test_allow_and_block(install) -> None:
    """The allow-list leaves the others out, by prefix or distribution; the block-list wins."""
    install("one", "plug_one", EMPTY)
    install("two", "plug_two", EMPTY)
    assert set(candidates({"EBMSTRUCT_PLUGINS_ALLOW": "one, ebmstruct_two"})) == {"one", "two"}
    assert set(candidates({"EBMSTRUCT_PLUGINS_ALLOW": "one two", "EBMSTRUCT_PLUGINS_BLOCK": "two"})) == {"one"}
    with pytest.raises(UnknownName, match=r"no plugin with the prefix 'two' is installed and allowed \(there: one\)"):
        Components({"EBMSTRUCT_PLUGINS_ALLOW": "one"}).resolve("loss", "two.thing")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("raise RuntimeError('boom')", "cannot be imported: RuntimeError: boom"),
        ("import sys\nsys.exit(3)", "cannot be imported: SystemExit: 3"),
        ("x = (", "cannot be imported: SyntaxError"),
        (
            "import not_there_at_all",
            "needs the package not_there_at_all, which is not installed; do: install not_there",
        ),
        (HEAD + "@hookimpl\ndef ebmstruct_losss():\n    return {}", "a hook that does not exist or does not fit"),
        (HEAD + "@hookimpl\ndef ebmstruct_losses(extra):\n    return {}", "a hook that does not exist or does not fit"),
        ("def ebmstruct_losses():\n    return {}", "looks like a hook but lacks @hookimpl"),
        (HEAD + "@hookimpl\ndef ebmstruct_losses():\n    1 / 0", "its hook ebmstruct_losses failed: ZeroDivisionError"),
        (
            HEAD + "@hookimpl\ndef ebmstruct_losses():\n    return 3",
            "must return a mapping of names to classes or a list",
        ),
        (HEAD + "@hookimpl\ndef ebmstruct_losses():\n    return {'a': 3}", "offers 'a' as 3; legal: a class"),
        (HEAD + "@hookimpl\ndef ebmstruct_losses():\n    return {'other.a': int}", "with 'bad' as only prefix"),
        (HEAD + "@hookimpl\ndef ebmstruct_losses():\n    return [int]", "without a name"),
        (
            HEAD + "@hookimpl\ndef ebmstruct_losses():\n    return {'a': int, 'bad.a': int}",
            "offers the name 'bad.a' twice",
        ),
    ],
)
def test_broken_plugin(install, source: str, said: str) -> None:
    """A broken plugin is listed with its fault, fails what needs it, and disturbs no other."""
    install("bad", "plug_bad", source)
    install("good", "plug_good", EMPTY)
    lines = {line.prefix: line for line in listing(candidates())}
    assert said in (lines["bad"].fault or "") and "ebmstruct-bad" in (lines["bad"].fault or "")
    assert lines["good"].fault is None and lines["good"].offers == {"loss": ("thing",)}
    with pytest.raises(PluginError, match="plugin bad"):
        Components().resolve("loss", "bad.thing")
    assert Components().resolve("loss", "good.thing").__name__ == "Thing"


def test_missing_module(install) -> None:
    """An entry point that points at nothing says so."""
    install("gone", "plug_gone")
    with pytest.raises(PluginError, match="points at plug_gone, which does not exist"):
        Components().resolve("loss", "gone.thing")


def test_missing_extra(install) -> None:
    """A missing optional package names the extra that brings it."""
    metadata = "Provides-Extra: fast\nRequires-Dist: not-there; extra == 'fast'\n"
    install("dep", "plug_dep", "import not_there", metadata=metadata)
    with pytest.raises(PluginError, match=r"needs the package not_there.*pip install 'ebmstruct-dep\[fast\]'"):
        Components().resolve("loss", "dep.thing")
    install("dap", "plug_dap", "import not_there", metadata="Provides-Extra: dap\n")
    with pytest.raises(PluginError, match=r"pip install 'ebmstruct-dap\[dap\]'"):
        Components().resolve("loss", "dap.thing")


def test_missing_package_at_run_time(install) -> None:
    """A package that turns out to be missing only when it is used is looked up in the extras of all plugins."""
    install("dep", "plug_dep", EMPTY, metadata="Provides-Extra: fast\nRequires-Dist: not-there; extra == 'fast'\n")
    told = missing_dependency(ModuleNotFoundError("no", name="not_there.inner"))
    assert str(told).endswith("not installed; do: pip install 'ebmstruct-dep[fast]'")
    told = missing_dependency(ModuleNotFoundError("no", name="unheard_of"))
    assert str(told) == "this command needs the package unheard_of, which is not installed; do: install unheard_of"


def test_lazy_class(install) -> None:
    """A component given as text is imported when it is named, and a wrong text is told then."""
    source = HEAD + "@hookimpl\ndef ebmstruct_losses():\n    return {'a': 'fractions:Fraction', 'b': 'fractions:No'}"
    install("lazy", "plug_lazy", source)
    assert Components().resolve("loss", "lazy.a").__name__ == "Fraction"
    with pytest.raises(PluginError, match="should be at fractions:No, which has no such class"):
        Components().resolve("loss", "lazy.b")


def test_list_of_classes(install) -> None:
    """A list works too: each class carries its name."""
    source = HEAD + "class A:\n    name = 'lst.a'\n@hookimpl\ndef ebmstruct_losses():\n    return [A]"
    install("lst", "plug_lst", source)
    assert Components().resolve("loss", "lst.a").__name__ == "A"


def test_config_tells_plugin_faults_with_their_place(install) -> None:
    """A broken plugin is one fault of the task file among the others."""
    install("bad", "plug_bad", "raise RuntimeError('boom')")
    with pytest.raises(ConfigError) as caught:
        parse_config("task: {name: bad.x}\ntrain: {epochs: x}\n", "t.yaml")
    assert [fault.split(":")[1][:2] for fault in caught.value.faults] == ["1 ", "2 "]
    assert "RuntimeError: boom" in caught.value.faults[0]


def test_core_names_resolve() -> None:
    """Every core name leads to a class with readable options."""
    from ebmstruct.extend.components import CORE

    components = Components()
    for kind, names in CORE.items():
        for name in names:
            cls = components.resolve(kind, name)
            assert getattr(cls, "name", name) == name
            assert all(option.name for option in options_of(cls).values())
    with pytest.raises(UnknownName, match=r"no loss is named 'perceptrn'; there: .*did you mean perceptron\?"):
        components.resolve("loss", "perceptrn")


def test_import_scans_nothing(tmp_path: Path) -> None:
    """Importing ebmstruct and ebmstruct.extend imports no torch, no yaml, and reads no metadata."""
    code = "import sys, ebmstruct, ebmstruct.extend; print([m for m in ('torch', 'yaml', 'numba') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_every_solver_has_a_name_in_task_files() -> None:
    """What the engine knows by name a task file may name too, with its fields as keys."""
    from ebmstruct.inference.solvers import SOLVERS

    components = Components({})
    assert {name: components.resolve("solver", name) for name in CORE["solver"]} == SOLVERS
    assert all(isinstance(options_of(cls), dict) for cls in SOLVERS.values())
