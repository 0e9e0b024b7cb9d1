"""Tagging of text by energy: named entities and parts of speech."""

from ebmstruct_nlp.inputs import Sentence
from ebmstruct_nlp.sparse_chain import SparseChain
from ebmstruct_nlp.task import Ner, Pos

__all__ = ["Ner", "Pos", "Sentence", "SparseChain"]
