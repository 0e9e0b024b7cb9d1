"""Shared by all tests: plugins that are installed for the length of a test, and the small toy plugin."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a distribution with one entry point (and its module, if source is given) on the path."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    made: list[str] = []

    def make(
        prefix: str, module: str, source: str | None = None, *, name: str | None = None, metadata: str = ""
    ) -> Path:
        name = name or f"ebmstruct-{prefix}"
        info = site / f"{name.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2\n{metadata}")
        (info / "entry_points.txt").write_text(f"[ebmstruct]\n{prefix} = {module}\n")
        if source is not None:
            (site / f"{module}.py").write_text(source)
        made.append(module)
        return site

    yield make
    for module in made:
        if module != "toy_plugin":  # its classes are shared by tests that compare types
            sys.modules.pop(module, None)


@pytest.fixture
def toy(install: Install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The toy plugin, installed under the prefix ``toy``; gives a folder to work in, which is the current one."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "toy"))
    install("toy", "toy_plugin")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work
