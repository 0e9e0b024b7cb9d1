"""Hashed features: the compiled loops against plain Python, edges, statistics, and what is refused."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from ebmstruct.errors import ConfigError, DataError
from ebmstruct_nlp.features import COLUMNS, PLACES, RUN_TERMS, FeatureTemplate, WordStatistics
from ebmstruct_nlp.features_numba import COLUMNS as ORDER
from ebmstruct_nlp.features_numba import RUN_AFTER, RUN_BEFORE, RUN_FIRST, RUN_LAST, RUN_LENGTH, RUN_PLACE
from ebmstruct_nlp.templates import CHARACTERS, PLAIN_CHARACTERS, PLAIN_WORDS, WORDS

SENTENCES = [
    ["Mr.", "O'Neil-Smith", "visited", "NEW", "York", "in", "1999", ",", "@home", "#1"],
    [],
    ["x"],
    ["香", "港", "İstanbul", "ΑΣ", "", "😀a", "\ud800", "mIxed9", "A1"],
]
MASK = (1 << 64) - 1


def mixed(x: int) -> int:
    """The 64-bit mixer, in Python's integers."""
    for _ in range(2):
        x = ((x ^ (x >> 32)) * 0xD6E8FEB86659FD93) & MASK
    return x ^ (x >> 32)


def fnv(symbols: list[int]) -> int:
    """FNV-1a over whole numbers."""
    h = 0xCBF29CE484222325
    for symbol in symbols:
        h = ((h ^ symbol) * 0x100000001B3) & MASK
    return h


def runs(word: str, longest: int) -> list[int]:
    """The shape of a word: 1, 2, 3 for upper, lower, digit, else 16 + code point; runs cut."""
    out: list[int] = []
    for letter in word:
        s = 1 if letter.isupper() else 2 if letter.islower() else 3 if letter.isdigit() else 16 + ord(letter)
        if out[-longest:] != [s] * longest:
            out.append(s)
    return out


def column(word: str, name: str) -> int | None:
    """The value of one column as its description says; None where this oracle does not know the column."""
    low = word.lower()
    points = [ord(c) for c in low]
    if name.startswith(("prefix", "suffix")):
        k = int(name[-1])
        part = points[:k] if name.startswith("prefix") else points[::-1][:k]
        return mixed((fnv(part) + k) & MASK) if len(points) >= k else 0
    plain = {
        "one": 1,
        "word": mixed(fnv(points)),
        "form": mixed(fnv([ord(c) for c in word])),
        "normal": mixed(fnv([48 if c.isdigit() else ord(c) for c in low])),
        "shape": mixed(fnv(runs(word, 2))),
        "short_shape": mixed(fnv(runs(word, 1))),
        "length": mixed(min(len(word), 12) + 1),
        "title": int(word.istitle()),
        "upper": int(word.isupper()),
        "digit": int(word.isdigit()),
        "has_digit": int(any(c.isdigit() for c in word)),
        "hyphen": int("-" in word),
        "at": int(word.startswith("@")),
        "hash": int(word.startswith("#")),
    }
    return plain.get(name)


def slot_id(slot: str, values: list[int], bits: int) -> int:
    """The id of a slot from the values of its terms."""
    if not all(values):
        return 0
    h = int.from_bytes(hashlib.blake2b(slot.encode(), digest_size=8).digest(), "little") | 1
    for q, value in enumerate(values):
        h = (mixed(h ^ value) * 0x9E3779B97F4A7C15 + q) & MASK
    return max(mixed(h) >> (64 - bits), 1)


@pytest.mark.parametrize("name", [n for n in COLUMNS if column("a", n) is not None])
def test_columns_are_what_they_say(name: str) -> None:
    """Every column equals its plain Python definition, also for emoji, lone surrogates and the empty token."""
    rows = FeatureTemplate((name,), buckets_log2=30).features(SENTENCES)
    flat = [w for s in SENTENCES for w in s]
    assert rows.ids[:, 0].tolist() == [slot_id(name, [column(w, name) or 0], 30) for w in flat]


def test_windows_and_conjunctions() -> None:
    """word[-1]&suffix2 mixes both terms in order; beyond the edge `word` is a mark and `suffix2` is nothing."""
    slots = ("word[-1]&suffix2", "suffix2[1]", "word[1]&word&word[-1]")
    rows = FeatureTemplate(slots, buckets_log2=24).features(SENTENCES)
    at = 0
    for sentence in SENTENCES:
        words = [2] + [column(w, "word") for w in sentence] + [3]
        suffixes = [0] + [column(w, "suffix2") for w in sentence] + [0]
        for i in range(1, len(sentence) + 1):
            expected = [[words[i - 1], suffixes[i]], [suffixes[i + 1]], [words[i + 1], words[i], words[i - 1]]]
            assert rows.ids[at].tolist() == [slot_id(s, v, 24) for s, v in zip(slots, expected, strict=True)]
            at += 1
    assert at == len(rows.ids)


@pytest.mark.parametrize("slots", [PLAIN_WORDS, PLAIN_CHARACTERS, WORDS, CHARACTERS], ids=["pw", "pc", "w", "c"])
def test_features_do_not_depend_on_the_batch(slots: tuple[str, ...]) -> None:
    """Ids of a sentence are the same alone, in a batch, and selected from one; all lie in range."""
    template = FeatureTemplate(slots, buckets_log2=18)
    statistics = template.statistics(SENTENCES)
    rows = template.features(SENTENCES, statistics)
    assert len(rows) == len(SENTENCES) and rows.ids.shape == (20, len(slots))
    assert rows.ids.min() >= 0 and rows.ids.max() < template.num_buckets
    for i, sentence in enumerate(SENTENCES):
        alone = template.features([sentence], statistics)
        assert (alone.ids == rows.select([i]).ids).all()
    turned = rows.select([3, -4, 1, 3])
    assert np.diff(turned.offsets).tolist() == [9, 10, 0, 9]
    assert (turned.ids[:9] == rows.ids[-9:]).all() and (turned.ids[9:19] == rows.ids[:10]).all()
    with pytest.raises(IndexError, match="4 sentences"):
        rows.select([4])


def test_ids_never_change() -> None:
    """A saved run depends on these numbers: hashes are part of the file format."""
    rows = FeatureTemplate(("word", "case", "form[-1]&word", "flags", "type"), buckets_log2=20).features([["In", "HK"]])
    assert rows.ids.tolist() == GOLDEN


GOLDEN = [[1021831, 843772, 270129, 341741, 470978], [785725, 504260, 613060, 157146, 470978]]


def test_a_slot_keeps_its_ids_when_others_come_and_go() -> None:
    """The salt of a slot is its text in normal spelling, not its place: " word[+1] & case[0]" is "word[1]&case"."""
    many = FeatureTemplate(("form", "word[1]&case", "shape")).features(SENTENCES)
    one = FeatureTemplate((" word[+1] & case[0]",)).features(SENTENCES)
    assert (many.ids[:, 1] == one.ids[:, 0]).all()


def test_case_separates_the_ways_of_writing() -> None:
    """Ten words written in ten ways have ten values; words written alike share theirs."""
    ways = ["I", "NATO", "London", "McDonald", "iPhone", "dog", "42", "a1", "o'clock", "!?"]
    alike = ["A", "EU", "Paris", "DeGaulle", "eBay", "cat", "7", "1st", "e-mail", "..."]
    ids = FeatureTemplate(("case",)).features([ways, alike]).ids[:, 0]
    assert len(set(ids[:10].tolist())) == 10
    assert (ids[:10] == ids[10:]).all()


def test_statistics_leave_the_own_occurrence_out() -> None:
    """A word seen once in training is a new word there, as a word never seen is in use."""
    train = [["the", "Rare", "cat"], ["the", "cat"], ["The", "cat"]]
    template = FeatureTemplate(("frequency", "truecase"))
    statistics = template.statistics(train)
    trained = template.features(train, statistics, counted=True).ids
    used = template.features([["zebra", "Rare", "cat"]], statistics).ids
    assert (trained[1] == used[0]).all(), "Rare, itself left out, looks like zebra"
    assert used[1, 0] != used[0, 0] and used[1, 1] != used[0, 1], "in use, Rare has been seen once, with a capital"
    place = {h: i for i, h in enumerate(statistics.hashes.tolist())}
    the = statistics.counts[place[column("the", "word")]]
    assert the.tolist() == [3, 0, 0, 0], "sentence starts tell nothing of how a word is written"
    assert statistics.counts[place[column("cat", "word")]].tolist() == [3, 3, 0, 0]
    again = WordStatistics.from_arrays(statistics.to_arrays())
    assert (template.features(train, again).ids == template.features(train, statistics).ids).all()


def test_columns_and_loops_agree_on_names() -> None:
    """Every documented column is computed, of the word or of its run, and every computed one is documented."""
    assert set(COLUMNS) == set(ORDER) | set(RUN_TERMS)
    assert list({**PLACES, **RUN_TERMS}.values()) == [RUN_FIRST, RUN_LAST, RUN_BEFORE, RUN_AFTER, RUN_PLACE, RUN_LENGTH]


def test_places_of_a_run() -> None:
    """In "of New York University in", each capitalised word sees New, University, of and in; the others see nothing."""
    words = ["of", "New", "York", "University", "in", "Rome"]
    slots = ("word[first]", "word[last]", "word[before]", "word[after]&word")
    ids = FeatureTemplate(slots, buckets_log2=24).features([words]).ids
    value = {w: column(w, "word") for w in words}
    for i, (first, last, before, after) in {
        1: ("New", "University", "of", "in"),
        2: ("New", "University", "of", "in"),
        3: ("New", "University", "of", "in"),
        5: ("Rome", "Rome", "in", None),
    }.items():
        seen = [value[first], value[last], value[before]]
        expected = [slot_id(s, [v], 24) for s, v in zip(slots, seen, strict=False)]
        assert ids[i].tolist() == [*expected, slot_id(slots[3], [value[after] if after else 3, value[words[i]]], 24)]
    assert not ids[[0, 4]].any()
    places = FeatureTemplate(("run_place", "run_length"), buckets_log2=24).features([words]).ids
    assert len(set(places[1:4, 0].tolist())) == 3 and len(set(places[1:4, 1].tolist())) == 1
    assert places[5, 1] not in (0, places[1, 1]) and not places[[0, 4]].any()


def test_no_sentences_and_no_tokens() -> None:
    """Nothing in, nothing out."""
    template = FeatureTemplate(WORDS)
    statistics = template.statistics([])
    assert template.features([], statistics).ids.shape == (0, len(WORDS))
    assert template.features([[], []], statistics).offsets.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("slots", "bits", "words"),
    [
        (("wrod",), 20, "names 'wrod'; legal are one, word"),
        (("word[x]",), 20, "legal are [-15] to [15], or [first]"),
        (("word[99]",), 20, "legal are [-15] to [15], or [first]"),
        (("word[1",), 20, "legal are [-15] to [15], or [first]"),
        (("run_place[1]",), 20, "is of the token itself"),
        (("word&form&shape&case",), 20, "joins 4 terms"),
        (("word", "word[0]"), 20, "given twice"),
        ((), 20, "give a list of slots"),
        ("word", 20, "give a list of slots"),
        (("word",), 40, "legal are 8 to 30"),
    ],
)
def test_faults_of_a_template(slots: tuple[str, ...], bits: int, words: str) -> None:
    """A slot that means nothing is refused with what is legal."""
    with pytest.raises(ConfigError, match="template|buckets") as fault:
        FeatureTemplate(slots, buckets_log2=bits)
    assert words in str(fault.value)


def test_all_faults_at_once() -> None:
    """Two bad slots and a bad size are three sentences."""
    with pytest.raises(ConfigError) as fault:
        FeatureTemplate(("wrod", "word[x]"), buckets_log2=2)
    assert len(fault.value.faults) == 3


def test_what_is_no_text_is_refused() -> None:
    """A number among the tokens, and a template whose statistics are missing, are told in a sentence."""
    with pytest.raises(DataError, match=r"a token is 7 \(int\)"):
        FeatureTemplate(("word",)).features([["a", 7]])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="statistics of the training text"):
        FeatureTemplate(("frequency",)).features([["a"]])
