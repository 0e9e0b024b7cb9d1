"""HKCanCor, the Hong Kong Cantonese Corpus (Luke and Wong 2015; CC BY), from the pycantonese package's own files.

58 transcripts of 49 recordings, 16,162 utterances, 153,656 words with part-of-speech tags by hand.

Named entities are the words with these tags, over characters, joined where words of one type stand side by side
(words, counted in pycantonese 5.0):

    type   tags            with kin=True also
    PER    nr 813          xnr 179
    LOC    ns 699          xns 17, jns 12, Nsg 10
    ORG    nt 127          xnt 65, jnt 22, xjnt 14, NTg 17, JNTg 39
    MISC   nz 296          xnz 88, jnz 27, xjnz 2, NZg 43

A leading x marks a word of another script or language, j an abbreviation, a final g a part of a word. Without kin 1,429
utterances hold an entity, with kin 1,766. Unless kin is asked for, a foreign name such as "Lily" counts as no entity.

Folds: the parts of one recording (005a, 005b) stay together, as they share their speakers. Recordings are
sorted by number and counted from 0; fold k of 1..5 tests on those with count % 5 == k - 1 and
chooses on those with count % 10 == k % 10. Every utterance is tested on in exactly one fold; fold 1 is the fixed split.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from ebmstruct.errors import DataError
from ebmstruct_nlp.formats import ReadReport, TaggedSentence
from ebmstruct_nlp.schemes import BIO, Span
from ebmstruct_nlp.splits import SPLITS, CorpusSplits

log = logging.getLogger(__name__)

FOLDS = 5
ENTITY_TAGS: Mapping[str, str] = {"nr": "PER", "ns": "LOC", "nt": "ORG", "nz": "MISC"}
KIN_TAGS: Mapping[str, str] = {
    **{tag: "PER" for tag in ("nr", "xnr")},
    **{tag: "LOC" for tag in ("ns", "xns", "jns", "Nsg")},
    **{tag: "ORG" for tag in ("nt", "xnt", "jnt", "xjnt", "NTg", "JNTg")},
    **{tag: "MISC" for tag in ("nz", "xnz", "jnz", "xjnz", "NZg")},
}
PUNCTUATION = "PUNCT"
"""The tag given to punctuation marks, which carry none in the corpus."""

_RECORDING = re.compile(r"FC-(R?\d+)")
Word = tuple[str, str]


def hkcancor_ner(*, fold: int = 1, kin: bool = False) -> CorpusSplits:
    """Characters with BIO tags of PER, LOC, ORG, MISC, by split; kin: the wider table at the top of this file.

    The text joins the words, with a blank where two Latin words would run together; white space is no token.
    """
    table = KIN_TAGS if kin else ENTITY_TAGS
    which = f"{len(table)} tags, kin included" if kin else ", ".join(table)
    return _split(f"named entities over characters (from {which})", fold, "bio", table)


def hkcancor_pos(*, fold: int = 1) -> CorpusSplits:
    """Words with the corpus' own tags (112, many of them rare), punctuation as PUNCT, by split."""
    return _split("words and their part-of-speech tags", fold, "plain", None)


def _split(title: str, fold: int, scheme: str, table: Mapping[str, str] | None) -> CorpusSplits:
    """The corpus cut into train, dev and test, each sentence made from its words."""
    files, digest = _utterances()
    sentences: dict[str, list[TaggedSentence]] = {split: [] for split in SPLITS}
    splits = split_of([name for name, _ in files], fold)
    for name, utterances in files:
        split = splits[name]
        for number, words in enumerate(utterances, start=1):
            source = f"hkcancor/{name}:{number}"
            made = _by_word(words, source) if table is None else _by_character(words, table, source)
            sentences[split].append(made)
    form = f"HKCanCor {title}, fold {fold} of {FOLDS}"
    reports = {split: _report(split, listed, form, scheme, digest) for split, listed in sentences.items()}
    for report in reports.values():
        log.info("%s", report.describe())
    return CorpusSplits({split: tuple(listed) for split, listed in sentences.items()}, reports)


def split_of(names: Sequence[str], fold: int) -> dict[str, str]:
    """Conversation file to its split in one fold, by the rule at the top of this file."""
    if not isinstance(fold, int) or isinstance(fold, bool) or not 1 <= fold <= FOLDS:
        raise DataError(f"fold {fold!r} does not exist; legal are 1 to {FOLDS} (1 is the fixed split)")
    recordings = sorted({_recording(name) for name in names})
    place = {recording: count for count, recording in enumerate(recordings)}
    out = {}
    for name in sorted(names):
        count = place[_recording(name)]
        out[name] = "test" if count % FOLDS == fold - 1 else "dev" if count % (2 * FOLDS) == fold else "train"
    return out


def _recording(name: str) -> str:
    """The recording that a transcript belongs to: FC-005a_v2.cha and FC-005b_v2.cha are parts of 005."""
    match = _RECORDING.match(name)
    return match.group(1) if match else name


@lru_cache(maxsize=1)
def _utterances() -> tuple[tuple[tuple[str, tuple[tuple[Word, ...], ...]], ...], str]:
    """(file name, its utterances as (word, tag) pairs) in the order of names, and a hash of all words and tags."""
    try:
        import pycantonese
    except ImportError as fault:
        raise DataError(
            "HKCanCor comes with the package pycantonese, which is not installed; pip install 'ebmstruct[nlp]'"
        ) from fault
    reader: Any = pycantonese.hkcancor()
    files = sorted(
        (Path(path).name, tuple(tuple((w.word, w.pos or PUNCTUATION) for w in words) for words in said if words))
        for path, said in zip(reader.file_paths, reader.tokens(by_utterance=True, by_file=True), strict=True)
    )
    return tuple(files), hashlib.sha256(repr(files).encode()).hexdigest()


def _by_word(words: Sequence[Word], source: str) -> TaggedSentence:
    tokens = tuple(word for word, _ in words)
    text, starts = _joined(tokens)
    offsets = tuple((start, start + len(word)) for start, word in zip(starts, tokens, strict=True))
    return TaggedSentence(tokens, tuple(tag for _, tag in words), text, offsets, source)


def _by_character(words: Sequence[Word], table: Mapping[str, str], source: str) -> TaggedSentence:
    """One token a character; neighbouring words of one type are one span."""
    text, starts = _joined([word for word, _ in words])
    places: list[int] = []
    spans: list[Span] = []
    joins = False
    for (word, tag), start in zip(words, starts, strict=True):
        first = len(places)
        places += [start + index for index, letter in enumerate(word) if not letter.isspace()]
        label = table.get(tag)
        if label and joins and spans[-1][2] == label:
            spans[-1] = (spans[-1][0], len(places), label)
        elif label:
            spans.append((first, len(places), label))
        joins = label is not None
    tokens = tuple(text[place] for place in places)
    return TaggedSentence(
        tokens, BIO.tags(spans, len(tokens)), text, tuple((place, place + 1) for place in places), source
    )


def _joined(words: Sequence[str]) -> tuple[str, list[int]]:
    """The words as running text and where each starts."""
    parts: list[str] = []
    starts = []
    place = 0
    before = ""
    for word in words:
        if before and word and _latin(before[-1]) and _latin(word[0]):
            parts.append(" ")
            place += 1
        starts.append(place)
        parts.append(word)
        place += len(word)
        before = word
    return "".join(parts), starts


def _latin(letter: str) -> bool:
    """Whether a letter or digit belongs to a script that separates words by blanks."""
    return letter.isalnum() and ord(letter) < 0x250


def _report(split: str, sentences: Sequence[TaggedSentence], form: str, scheme: str, digest: str) -> ReadReport:
    labels: Counter[str] = Counter()
    for sentence in sentences:
        if scheme == "plain":
            labels.update(str(tag) for tag in sentence.tags)
        else:
            labels.update(label for _, _, label in BIO.spans(sentence.tags))
    return ReadReport(
        path=f"hkcancor {split}",
        format=form,
        scheme=scheme,
        sentences=len(sentences),
        tokens=sum(len(sentence.tokens) for sentence in sentences),
        labels=dict(sorted(labels.items(), key=lambda item: (-item[1], item[0]))),
        sha256=digest,
    )
