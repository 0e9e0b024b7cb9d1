"""Tagging of text by energy: named entities and parts of speech."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOME_OF = {
    "NeuralChain": "ebmstruct_nlp.neural",
    "Ner": "ebmstruct_nlp.task",
    "Pos": "ebmstruct_nlp.task",
    "SecondOrderChain": "ebmstruct_nlp.second_order",
    "SemiMarkov": "ebmstruct_nlp.semi_markov",
    "Sentence": "ebmstruct_nlp.inputs",
    "SparseChain": "ebmstruct_nlp.sparse_chain",
}

__all__ = sorted(_HOME_OF)

if TYPE_CHECKING:
    from ebmstruct_nlp.inputs import Sentence as Sentence
    from ebmstruct_nlp.neural import NeuralChain as NeuralChain
    from ebmstruct_nlp.second_order import SecondOrderChain as SecondOrderChain
    from ebmstruct_nlp.semi_markov import SemiMarkov as SemiMarkov
    from ebmstruct_nlp.sparse_chain import SparseChain as SparseChain
    from ebmstruct_nlp.task import Ner as Ner
    from ebmstruct_nlp.task import Pos as Pos


def __getattr__(name: str) -> Any:
    """Names are resolved when they are first used: who only reads corpora does not wait for torch."""
    if name in _HOME_OF:
        value = globals()[name] = getattr(importlib.import_module(_HOME_OF[name]), name)
        return value
    raise AttributeError(f"module 'ebmstruct_nlp' has no attribute {name!r}")
