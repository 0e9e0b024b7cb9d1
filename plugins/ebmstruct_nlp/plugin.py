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
    """``nlp.sparse_chain``, ``nlp.second_order_chain``, ``nlp.semi_markov`` and ``nlp.neural_chain``."""
    return {
        "sparse_chain": "ebmstruct_nlp.sparse_chain:SparseChain",
        "second_order_chain": "ebmstruct_nlp.second_order:SecondOrderChain",
        "semi_markov": "ebmstruct_nlp.semi_markov:SemiMarkov",
        "neural_chain": "ebmstruct_nlp.neural:NeuralChain",
    }
