"""Where tagged text comes from: folders of one's own, HKCanCor, and corpora fetched from their homes."""

from __future__ import annotations

from ebmstruct_nlp.downloads import CORPORA, Corpus, RemoteFile, cache_folder, corpus_named
from ebmstruct_nlp.hkcancor import hkcancor_ner, hkcancor_pos
from ebmstruct_nlp.splits import CorpusSplits, find_splits, read_splits, split_paths

__all__ = [
    "CORPORA",
    "Corpus",
    "CorpusSplits",
    "RemoteFile",
    "cache_folder",
    "corpus_named",
    "find_splits",
    "hkcancor_ner",
    "hkcancor_pos",
    "read_splits",
    "split_paths",
]
