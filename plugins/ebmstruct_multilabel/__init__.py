"""Sets of labels by energy: multi-label classification of feature rows and short texts."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME_OF = {
    "Classification": "ebmstruct_multilabel.task",
    "Counted": "ebmstruct_multilabel.counted",
    "LabelSchema": "ebmstruct_multilabel.schema",
    "MLP": "ebmstruct_multilabel.mlp",
    "Mixture": "ebmstruct_multilabel.mixture",
    "Pairwise": "ebmstruct_multilabel.pairwise",
    "Row": "ebmstruct_multilabel.rows",
    "SPEN": "ebmstruct_multilabel.spen",
    "ValueNetwork": "ebmstruct_multilabel.value_network",
}

__all__ = sorted(_HOME_OF)

if TYPE_CHECKING:
    from ebmstruct_multilabel.counted import Counted as Counted
    from ebmstruct_multilabel.mixture import Mixture as Mixture
    from ebmstruct_multilabel.mlp import MLP as MLP
    from ebmstruct_multilabel.pairwise import Pairwise as Pairwise
    from ebmstruct_multilabel.rows import Row as Row
    from ebmstruct_multilabel.schema import LabelSchema as LabelSchema
    from ebmstruct_multilabel.spen import SPEN as SPEN
    from ebmstruct_multilabel.task import Classification as Classification
    from ebmstruct_multilabel.value_network import ValueNetwork as ValueNetwork


def __getattr__(name: str) -> Any:
    """Names are resolved when they are first used: who only reads data does not wait for torch."""
    if name in _HOME_OF:
        value = globals()[name] = getattr(importlib.import_module(_HOME_OF[name]), name)
        return value
    raise AttributeError(f"module 'ebmstruct_multilabel' has no attribute {name!r}")
