"""Compiled loops of the hashed features: columns of distinct words, and slots mixed over a window.

Hashes are 64-bit FNV-1a over code points, finished by a xor-multiply mixer; they do not depend on the process,
the machine or the order of the words. Nothing here is public; `features.py` is the door.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

U = np.uint64
FNV_BASIS = U(0xCBF29CE484222325)
FNV_PRIME = U(0x100000001B3)
MIX = U(0xD6E8FEB86659FD93)
GOLDEN = U(0x9E3779B97F4A7C15)

UPPER, LOWER, DIGIT, ALPHA, IDEOGRAPH = 1, 2, 4, 8, 16
AFFIXES = 5

# Columns of a word, in the order of the array that `word_columns` fills; zero means "absent".
COLUMNS = (
    *("one", "word", "form", "normal", "shape", "short_shape", "case", "flags", "length", "type"),
    *("title", "upper", "digit", "has_digit", "hyphen", "at", "hash", "frequency", "truecase"),
    *(f"prefix{k}" for k in range(1, AFFIXES + 1)),
    *(f"suffix{k}" for k in range(1, AFFIXES + 1)),
)
(
    ONE, WORD, FORM, NORMAL, SHAPE, SHORT, CASE, FLAGS, LENGTH, TYPE,
    TITLE, UPPERCASE, ALL_DIGITS, HAS_DIGIT, HYPHEN, AT, HASH, FREQUENCY, TRUECASE,
) = range(19)  # fmt: skip
PREFIX = 19
SUFFIX = PREFIX + AFFIXES
# Places that a term may name instead of a distance: around the run of capitalised words that holds the token.
RUN_FIRST, RUN_LAST, RUN_BEFORE, RUN_AFTER, RUN_PLACE, RUN_LENGTH = range(100, 106)
# How a form is written, for the counts of the training text.
KIND_LOWER, KIND_TITLE, KIND_UPPER, KIND_OTHER = 0, 1, 2, 3


def compiled(function: Callable[..., Any]) -> Any:
    """The loop compiled, and cached on disk unless no cache folder can be written."""
    try:
        return numba.njit(cache=True, nogil=True)(function)
    except RuntimeError:
        return numba.njit(nogil=True)(function)


@compiled
def mix(x):
    """A bijection of 64 bits in which every input bit reaches every output bit."""
    x ^= x >> U(32)
    x *= MIX
    x ^= x >> U(32)
    x *= MIX
    x ^= x >> U(32)
    return x


@compiled
def _lowered(points, classes, row):
    """Fill the columns that look at the lower-case form; points: code points of one word."""
    h, normal = FNV_BASIS, FNV_BASIS
    for j in range(points.size):
        h = (h ^ U(points[j])) * FNV_PRIME
        normal = (normal ^ U(48 if classes[points[j]] & DIGIT else points[j])) * FNV_PRIME
        if j < AFFIXES:
            row[PREFIX + j] = mix(h + U(j + 1))
    row[WORD] = mix(h)
    row[NORMAL] = mix(normal)
    h = FNV_BASIS
    for j in range(min(AFFIXES, points.size)):
        h = (h ^ U(points[points.size - 1 - j])) * FNV_PRIME
        row[SUFFIX + j] = mix(h + U(j + 1))


@compiled
def _written(points, classes, row):
    """Fill form and shapes; return (upper, lower, digits, titlecase) as Python's str methods see the word."""
    h, shape, short = FNV_BASIS, FNV_BASIS, FNV_BASIS
    last, before = -1, -1
    upper, lower, digits = 0, 0, 0
    title, after_cased = True, False
    for j in range(points.size):
        c = classes[points[j]]
        h = (h ^ U(points[j])) * FNV_PRIME
        if c & UPPER:
            symbol = 1
            upper += 1
            title = title and not after_cased
        elif c & LOWER:
            symbol = 2
            lower += 1
            title = title and after_cased
        else:
            symbol = 3 if c & DIGIT else 16 + points[j]
            digits += 1 if c & DIGIT else 0
        after_cased = symbol <= 2
        if not (symbol == last and symbol == before):
            shape = (shape ^ U(symbol)) * FNV_PRIME
        if symbol != last:
            short = (short ^ U(symbol)) * FNV_PRIME
        before, last = last, symbol
    row[FORM], row[SHAPE], row[SHORT] = mix(h), mix(shape), mix(short)
    return upper, lower, digits, title and upper + lower > 0


@compiled
def _case_class(n, upper, lower, digits, title, first):
    """One of eleven ways to write a word: a coarse shape that says nothing about its length."""
    if n > 0 and upper == n:
        return 1 if n == 1 else 2
    if title:
        return 3
    if upper and lower:
        return 4 if first & UPPER else 5
    if lower == n:
        return 6
    if digits == n:
        return 7
    if digits:
        return 8
    return 9 if lower else 10


@compiled
def word_columns(points, offsets, low_points, low_offsets, classes, columns, kinds, capitals):
    """Fill columns (V, C) uint64, kinds (V,) uint8 and capitals (V,) bool for V words given as flat code points."""
    for v in range(offsets.size - 1):
        row = columns[v]
        word = points[offsets[v] : offsets[v + 1]]
        n = word.size
        _lowered(low_points[low_offsets[v] : low_offsets[v + 1]], classes, row)
        upper, lower, digits, title = _written(word, classes, row)
        first = classes[word[0]] if n else 0
        start = word[0] if n else 0
        hyphen = False
        for j in range(n):
            hyphen = hyphen or word[j] == 45
        row[ONE] = 1
        row[CASE] = mix(U(_case_class(n, upper, lower, digits, title, first) + 1))
        row[LENGTH] = mix(U(min(n, 12) + 1))
        row[TYPE] = mix(U(first + 1))
        row[TITLE] = title
        row[UPPERCASE] = upper > 0 and lower == 0
        row[ALL_DIGITS] = n > 0 and digits == n
        row[HAS_DIGIT] = digits > 0
        row[HYPHEN] = hyphen
        row[AT] = start == 64
        row[HASH] = start == 35
        flags = U(1)
        for k in range(TITLE, HASH + 1):
            flags = U(2) * flags + row[k]
        row[FLAGS] = mix(flags)
        capitals[v] = first & UPPER != 0
        if lower and not upper:
            kinds[v] = KIND_LOWER
        elif upper and not lower and n > 1:
            kinds[v] = KIND_UPPER
        else:
            kinds[v] = KIND_TITLE if first & UPPER else KIND_OTHER


@compiled
def _in_run(code, i, begin, end):
    """The position that a place around the run [begin, end) of token i stands for."""
    if code == RUN_FIRST:
        return begin
    if code == RUN_LAST:
        return end - 1
    return begin - 1 if code == RUN_BEFORE else end


@compiled
def _term(code, i, low, high, begin, end, words, columns, term, before, after):
    """The value of one term of a slot for token i of the sentence [low, high); 0 where it is absent."""
    if code == RUN_PLACE:
        return U(1 + 4 * min(i - begin, 3) + min(end - 1 - i, 3))
    if code == RUN_LENGTH:
        return U(1 + min(end - begin, 6))
    j = i + code if code < RUN_FIRST else _in_run(code, i, begin, end)
    return columns[before if j < low else after if j >= high else words[j], term]


@compiled
def mix_slots(words, offsets, columns, capitals, shifts, terms, lengths, salts, drop_bits, ids):
    """Fill ids (n, F) int32: slot f of a token hashes the columns it names around that token; 0 is "nothing".

    words: (n,) row of `columns` of each token; the last two rows of `columns` are the edges before and after.
    shifts, terms: (F, 3) offset and column of each term; lengths: (F,) terms in use; salts: (F,).
    """
    before, after = columns.shape[0] - 2, columns.shape[0] - 1
    for b in range(offsets.size - 1):
        low, high = offsets[b], offsets[b + 1]
        begin, end = low, low
        for i in range(low, high):
            if i >= end:
                begin, end = i, i
                while end < high and capitals[words[end]]:
                    end += 1
            inside = end > i
            for f in range(lengths.size):
                h = salts[f]
                for q in range(lengths[f]):
                    code = shifts[f, q]
                    if code < RUN_FIRST or inside:
                        x = _term(code, i, low, high, begin, end, words, columns, terms[f, q], before, after)
                    else:
                        x = U(0)
                    if x == 0:
                        h = U(0)
                        break
                    h = mix(h ^ x) * GOLDEN + U(q)
                ids[i, f] = 0 if h == 0 else max(np.int64(mix(h) >> U(drop_bits)), 1)


@compiled
def gather_rows(ids, offsets, picked, out_ids, out_offsets):
    """Copy the rows of the picked sentences, one after another."""
    at = 0
    for p in range(picked.size):
        for i in range(offsets[picked[p]], offsets[picked[p] + 1]):
            out_ids[at] = ids[i]
            at += 1
        out_offsets[p + 1] = at
