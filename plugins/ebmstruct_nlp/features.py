"""Hashed features of tokens: what a CRF user writes as a template, computed in bulk per distinct word."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from ebmstruct.errors import ConfigError, DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_TERMS = 3
MAX_SHIFT = 15
COLUMNS: Mapping[str, str] = {
    "one": "always there: a bias",
    "word": "the lower-case form",
    "form": "the form as written",
    "normal": "the lower-case form with every digit as 0",
    **{f"prefix{k}": f"the first {k} characters of the lower-case form, if it has as many" for k in range(1, 6)},
    **{f"suffix{k}": f"the last {k} characters of the lower-case form, if it has as many" for k in range(1, 6)},
    "shape": "X, x, d for upper, lower, digit, other characters as they are; runs cut to two",
    "short_shape": "the same with runs cut to one",
    "case": "one of eleven ways of writing: Initial, UPPER, miXed, 123, a1 ...",
    "flags": "title, upper, digit, has_digit, hyphen, at and hash as one feature",
    "title": "the form is in title case",
    "upper": "the form has upper-case letters and no lower-case ones",
    "digit": "the form is all digits",
    "has_digit": "the form holds a digit",
    "hyphen": "the form holds a hyphen",
    "at": "the form starts with @",
    "hash": "the form starts with #",
    "length": "number of characters, at most 12",
    "type": "kind of the first character: letter case, digit, ideograph, other",
    "frequency": "how often the training text holds the word, in six classes; needs WordStatistics",
    "truecase": "how often the training text writes the word with a capital; needs WordStatistics",
    "run_place": "how far the token is from both ends of its run of capitalised words, at most 3",
    "run_length": "how long that run is, at most 6",
}
"""What a slot may look at, by name."""
COUNTED = ("frequency", "truecase")
PLACES: Mapping[str, int] = {"first": 100, "last": 101, "before": 102, "after": 103}
"""Places of the run of capitalised words that holds the token: its ends, and the tokens on either side of it."""
RUN_TERMS: Mapping[str, int] = {"run_place": 104, "run_length": 105}
_EDGE_COLUMNS = ("word", "form", "case", *COUNTED)


@dataclass(frozen=True)
class FeatureRows:
    """Feature ids of the tokens of B sentences.

    ids: (n, F) int32 in [0, buckets), 0 is "nothing". offsets: (B + 1,) int64, where each sentence starts.
    """

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def select(self, positions: Sequence[int] | NDArray[np.int64]) -> FeatureRows:
        """The rows of some sentences, in the order given; a copy. O(tokens * F)."""
        from ebmstruct_nlp import features_numba as loops

        picked = np.asarray(positions, dtype=np.int64).reshape(-1)
        if picked.size and (picked.min() < -len(self) or picked.max() >= len(self)):
            raise IndexError(f"positions reach {picked.min()}..{picked.max()}, but there are {len(self)} sentences")
        picked = np.where(picked < 0, picked + len(self), picked)
        sizes = self.offsets[picked + 1] - self.offsets[picked]
        ids = np.empty((int(sizes.sum()), self.ids.shape[1]), dtype=np.int32)
        offsets = np.zeros(picked.size + 1, dtype=np.int64)
        loops.gather_rows(self.ids, self.offsets, picked, ids, offsets)
        return FeatureRows(ids, offsets)


@dataclass(frozen=True)
class WordStatistics:
    """How often the training text holds each lower-case word, and how it writes it.

    hashes: (W,) uint64, ascending. counts: (W, 4) int32: all; and, away from the start of a sentence, written in
    lower case, with an initial capital, in capitals.
    """

    hashes: NDArray[np.uint64]
    counts: NDArray[np.int32]

    def of(self, hashes: NDArray[np.uint64]) -> NDArray[np.int32]:
        """Counts (V, 4) of words given by their hashes; zeros for words never seen."""
        if not len(self.hashes):
            return np.zeros((len(hashes), 4), dtype=np.int32)
        place = np.minimum(np.searchsorted(self.hashes, hashes), len(self.hashes) - 1)
        found: NDArray[np.int32] = np.where((self.hashes[place] == hashes)[:, None], self.counts[place], 0)
        return found

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The statistics as signed arrays, which any tensor format can hold."""
        return {"hashes": self.hashes.view(np.int64), "counts": self.counts}

    @staticmethod
    def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> WordStatistics:
        """The inverse of `to_arrays`."""
        hashes = np.ascontiguousarray(arrays["hashes"], dtype=np.int64).view(np.uint64)
        return WordStatistics(hashes, np.ascontiguousarray(arrays["counts"], dtype=np.int32))


@dataclass(frozen=True)
class _Words:
    """The distinct words of a text: columns (V + 2, C), kinds and capitals (V,), and which of them each token is."""

    columns: NDArray[np.uint64]
    kinds: NDArray[np.uint8]
    capitals: NDArray[np.bool_]
    tokens: NDArray[np.int64]
    offsets: NDArray[np.int64]


@dataclass(frozen=True)
class FeatureTemplate:
    """Which features a token has: one column of hashed ids per slot.

    slots: each names a column of `COLUMNS`, of the token itself (``suffix3``) or of one at a distance
    (``word[-1]``) or at a place of the token's run of capitalised words (``word[last]``, see `PLACES`), or joins
    up to three with ``&`` (``word[-1]&case``). A slot is nothing where a term is absent or there is no run;
    beyond the ends of the sentence the columns word, form and case (and the counted ones) hold a mark of the edge.
    buckets_log2: ids are hashes cut to this many bits. The salt of a slot is a hash of its text, so that slots
    may be added or moved without changing the ids of the others.
    """

    slots: tuple[str, ...]
    buckets_log2: int = 20
    _terms: tuple[tuple[tuple[str, int], ...], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        faults: list[str] = []
        if isinstance(self.slots, str) or not self.slots:
            faults.append(f"template: found {self.slots!r}; give a list of slots such as word, suffix3, word[-1]&case")
        if not 8 <= self.buckets_log2 <= 30:
            faults.append(f"buckets_log2: found {self.buckets_log2}; legal are 8 to 30")
        terms = [_parse(slot, faults) for slot in self.slots] if not isinstance(self.slots, str) else []
        if not faults and (twice := [s for i, s in enumerate(terms) if s in terms[:i]]):
            faults.append(f"template: the slot {_spell(twice[0])} is given twice")
        if faults:
            raise ConfigError(faults)
        object.__setattr__(self, "slots", tuple(self.slots))
        object.__setattr__(self, "_terms", tuple(terms))

    @property
    def num_buckets(self) -> int:
        """The number of rows of a weight table for these features."""
        return 1 << self.buckets_log2

    @property
    def counts_words(self) -> bool:
        """Whether a slot needs the statistics of the training text."""
        return any(name in COUNTED for terms in self._terms for name, _ in terms)

    def statistics(self, sentences: Sequence[Sequence[str]]) -> WordStatistics:
        """Count the words of the training text, for the columns frequency and truecase."""
        from ebmstruct_nlp import features_numba as loops

        words = _distinct(sentences)
        hashes, word = np.unique(words.columns[:-2, loops.WORD], return_inverse=True)
        counts = np.zeros((len(hashes), 4), dtype=np.int32)
        np.add.at(counts[:, 0], word[words.tokens], 1)
        inner = np.ones(len(words.tokens), dtype=bool)
        inner[words.offsets[:-1][np.diff(words.offsets) > 0]] = False
        tokens = words.tokens[inner]
        kinds = words.kinds[tokens].astype(np.int64)
        written = kinds != loops.KIND_OTHER
        np.add.at(counts, (word[tokens[written]], 1 + kinds[written]), 1)
        return WordStatistics(hashes, counts)

    def features(
        self, sentences: Sequence[Sequence[str]], statistics: WordStatistics | None = None, *, counted: bool = False
    ) -> FeatureRows:
        """The feature ids of every token.

        statistics: of the training text, for a template that needs them. counted: the sentences are the
        ones that were counted; each word then leaves its own occurrence out, or no training word would ever look rare.
        Cost: O(characters of distinct words + tokens * slots).
        """
        from ebmstruct_nlp import features_numba as loops

        words = _distinct(sentences)
        if self.counts_words:
            if statistics is None:
                raise ConfigError(["template: frequency and truecase need the statistics of the training text"])
            _fill_counted(words, statistics, counted)
        ids = np.empty((len(words.tokens), len(self.slots)), dtype=np.int32)
        shifts, terms, lengths, salts = self._plan
        cut = 64 - self.buckets_log2
        text = (words.tokens, words.offsets, words.columns, words.capitals)
        loops.mix_slots(*text, shifts, terms, lengths, salts, cut, ids)
        return FeatureRows(ids, words.offsets)

    @cached_property
    def _plan(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]:
        """Shifts and terms (F, 3), lengths (F,) and salts (F,) of the slots."""
        from ebmstruct_nlp.features_numba import COLUMNS as ORDER

        shifts = np.zeros((len(self._terms), MAX_TERMS), dtype=np.int64)
        terms = np.zeros_like(shifts)
        for f, slot in enumerate(self._terms):
            for q, (name, shift) in enumerate(slot):
                shifts[f, q], terms[f, q] = shift, 0 if name in RUN_TERMS else ORDER.index(name)
        salts = [hashlib.blake2b(_spell(slot).encode(), digest_size=8).digest() for slot in self._terms]
        lengths = np.array([len(slot) for slot in self._terms], dtype=np.int64)
        return shifts, terms, lengths, np.array([int.from_bytes(s, "little") | 1 for s in salts], dtype=np.uint64)


def _parse(slot: str, faults: list[str]) -> tuple[tuple[str, int], ...]:
    """The (column, distance or place) pairs of a slot; what is wrong with it goes to faults."""
    terms: list[tuple[str, int]] = []
    for part in str(slot).split("&"):
        name, bracket, rest = part.strip().partition("[")
        place = _place(rest.removesuffix("]").strip()) if bracket and rest.endswith("]") else None
        if name not in COLUMNS:
            faults.append(f"template: the slot {slot!r} names {name!r}; legal are {', '.join(COLUMNS)}")
        elif bracket and name in RUN_TERMS:
            faults.append(f"template: the slot {slot!r} asks for {part.strip()!r}; {name} is of the token itself")
        elif bracket and place is None:
            legal = f"[-{MAX_SHIFT}] to [{MAX_SHIFT}], or [{'], ['.join(PLACES)}]"
            faults.append(f"template: the slot {slot!r} has no place in {part.strip()!r}; legal are {legal}")
        else:
            terms.append((name, RUN_TERMS.get(name, place or 0)))
    if len(terms) > MAX_TERMS:
        faults.append(f"template: the slot {slot!r} joins {len(terms)} terms; at most {MAX_TERMS} are legal")
    return tuple(terms)


def _place(text: str) -> int | None:
    """The number of a distance or of a named place; None for anything else."""
    digits = text.removeprefix("-") if text.startswith("-") else text.removeprefix("+")
    if digits.isdecimal() and int(digits) <= MAX_SHIFT:
        return int(text)
    return PLACES.get(text)


def _spell(slot: tuple[tuple[str, int], ...]) -> str:
    """A slot in its one normal spelling."""
    names = {number: name for name, number in PLACES.items()}
    return "&".join(
        name if not shift or name in RUN_TERMS else f"{name}[{names.get(shift, shift)}]" for name, shift in slot
    )


def _distinct(sentences: Sequence[Sequence[str]]) -> _Words:
    """The distinct words of all sentences with their columns, the counted ones left empty."""
    from ebmstruct_nlp import features_numba as loops

    flat = list(chain.from_iterable(sentences))
    place = {word: v for v, word in enumerate(dict.fromkeys(flat))}
    tokens = np.fromiter(map(place.__getitem__, flat), dtype=np.int64, count=len(flat))
    offsets = np.zeros(len(sentences) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, sentences), dtype=np.int64, count=len(sentences)), out=offsets[1:])
    try:
        points, starts, letters = _code_points(list(place))
        low_points, low_starts, low_letters = _code_points([word.lower() for word in place])
    except (TypeError, AttributeError):
        wrong = next(word for word in place if not isinstance(word, str))
        raise DataError(f"a token is {wrong!r} ({type(wrong).__name__}); every token must be a str") from None
    columns = np.zeros((len(place) + 2, len(loops.COLUMNS)), dtype=np.uint64)
    for name in _EDGE_COLUMNS:
        columns[-2, loops.COLUMNS.index(name)] = 2
        columns[-1, loops.COLUMNS.index(name)] = 3
    kinds, capitals = np.empty(len(place), dtype=np.uint8), np.empty(len(place), dtype=np.bool_)
    classes = _classes(letters + low_letters)
    loops.word_columns(points, starts, low_points, low_starts, classes, columns, kinds, capitals)
    return _Words(columns, kinds, capitals, tokens, offsets)


def _code_points(words: list[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64], str]:
    """All words' code points one after another, where each word starts, and the joined text."""
    text = "".join(words)
    starts = np.zeros(len(words) + 1, dtype=np.int64)
    np.cumsum(np.fromiter(map(len, words), dtype=np.int64, count=len(words)), out=starts[1:])
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32), starts, text


def _classes(text: str) -> NDArray[np.uint8]:
    """For each code point up to the largest in the text, what it is, as bits; filled for the text's own."""
    from ebmstruct_nlp import features_numba as loops

    letters = set(text)
    table = np.zeros(ord(max(letters, default="\0")) + 1, dtype=np.uint8)
    for letter in letters:
        bits = loops.UPPER * letter.isupper() | loops.LOWER * letter.islower() | loops.DIGIT * letter.isdigit()
        point = ord(letter)
        ideograph = 0x3400 <= point < 0xA000 or 0xF900 <= point < 0xFB00 or 0x20000 <= point < 0x33000
        table[point] = bits | loops.ALPHA * letter.isalpha() | loops.IDEOGRAPH * ideograph
    return table


def _fill_counted(words: _Words, statistics: WordStatistics, counted: bool) -> None:
    """Fill the columns frequency and truecase of the distinct words."""
    from ebmstruct_nlp import features_numba as loops

    counts = statistics.of(words.columns[:-2, loops.WORD]).astype(np.int64)
    if counted:
        own = np.stack([np.ones_like(words.kinds), *(words.kinds == k for k in range(3))], axis=1)
        counts = np.maximum(counts - own, 0)
    total, lower, title = counts[:, 0], counts[:, 1], counts[:, 2]
    words.columns[:-2, loops.FREQUENCY] = 4 + np.searchsorted([0, 1, 3, 9, 39], total, side="left")
    cased = lower + title
    share = title / np.maximum(cased, 1)
    level = np.select([cased == 0, title == 0, share < 0.1, share < 0.5, share < 0.9, lower > 0], range(6), 6)
    words.columns[:-2, loops.TRUECASE] = 4 + level + 10 * (cased >= 4)
