"""The plugin under the prefix ``multilabel``, whether or not the installation knows it already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ebmstruct.extend.components import Components


@pytest.fixture
def multilabel(install: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, which is the current one, where ``multilabel.classification`` can be named."""
    if "multilabel" not in Components().candidates:
        install("multilabel", "ebmstruct_multilabel.plugin")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work
