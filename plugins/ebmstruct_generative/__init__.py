"""Distributions by energy: learn them from rows, pictures or sequences, find what is latent in them, draw new ones."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME_OF = {
    "Clusters": "ebmstruct_generative.tables.clusters",
    "RecordSchema": "ebmstruct_generative.records",
    "Table": "ebmstruct_generative.tables.table",
    "TableMixture": "ebmstruct_generative.tables.mixture",
    "TableSchema": "ebmstruct_generative.tables.schema",
    "TableTask": "ebmstruct_generative.tables.task",
}

__all__ = sorted(_HOME_OF)

if TYPE_CHECKING:
    from ebmstruct_generative.records import RecordSchema as RecordSchema
    from ebmstruct_generative.tables.clusters import Clusters as Clusters
    from ebmstruct_generative.tables.mixture import TableMixture as TableMixture
    from ebmstruct_generative.tables.schema import TableSchema as TableSchema
    from ebmstruct_generative.tables.table import Table as Table
    from ebmstruct_generative.tables.task import TableTask as TableTask


def __getattr__(name: str) -> Any:
    """Names are resolved when they are first used: who only reads data does not wait for torch."""
    if name in _HOME_OF:
        value = globals()[name] = getattr(importlib.import_module(_HOME_OF[name]), name)
        return value
    raise AttributeError(f"module 'ebmstruct_generative' has no attribute {name!r}")
