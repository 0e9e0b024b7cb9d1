"""What this plugin offers, by name; nothing is imported until a task file asks for it."""

from __future__ import annotations

from collections.abc import Mapping

from ebmstruct.extend import hookimpl


@hookimpl
def ebmstruct_tasks() -> Mapping[str, str]:
    """``nlp.ner`` and ``nlp.pos``."""
    return {"ner": "ebmstruct_nlp.task:Ner", "pos": "ebmstruct_nlp.task:Pos"}


@hookimpl
def ebmstruct_energies() -> Mapping[str, str]:
    """``nlp.sparse_chain`` and ``nlp.neural_chain``."""
    return {
        "sparse_chain": "ebmstruct_nlp.sparse_chain:SparseChain",
        "neural_chain": "ebmstruct_nlp.neural:NeuralChain",
    }
