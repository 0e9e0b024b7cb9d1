"""Hashed features of whole segments of a sentence: what its first tokens, 1 to L of them, are as one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ebmstruct.errors import ConfigError
from ebmstruct_nlp.features import FeatureRows, FeatureTemplate

if TYPE_CHECKING:
    from numpy.typing import NDArray

FEATURES: Mapping[str, str] = {
    "text": "the lower-case words of the segment",
    "shapes": "the shapes of its words",
    "ends": "its first and its last word",
    "around": "the words before and after it",
    "around_shapes": "the shapes of its words with the word before",
    "last": "its last word and its length",
}
"""What a feature of a segment looks at, by name."""
_COLUMNS = FeatureTemplate(("word", "shape", "word[-1]", "word[1]"), 30)
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def segment_rows(xs: Sequence[Any], names: Sequence[str], longest: int, buckets_log2: int) -> FeatureRows:
    """Ids (n, L * F) of the segments that begin at each token: F features for each length; 0 past a sentence's end.

    The salt of a feature is a hash of its name. Cost: O(n L F).
    """
    faults = [
        f"segment_features: found {name!r}; legal are {', '.join(FEATURES)}" for name in names if name not in FEATURES
    ]
    if longest < 1:
        faults.append(f"feature_length: found {longest}; at least 1 is needed")
    if not 8 <= buckets_log2 <= 30:
        faults.append(f"segment_buckets_log2: found {buckets_log2}; legal are 8 to 30")
    if faults:
        raise ConfigError(faults)
    found = _COLUMNS.features(xs)
    words, shapes, before, after = found.ids.astype(np.uint64).T
    n = len(words)
    left = np.repeat(found.offsets[1:], np.diff(found.offsets)) - np.arange(n)
    ids = np.zeros((n, longest, len(names)), dtype=np.int32)
    text, pattern = np.zeros(n, dtype=np.uint64), np.zeros(n, dtype=np.uint64)
    for more in range(longest):
        rows = np.nonzero(left > more)[0]
        last = rows + more
        text[rows] = _mixed(text[rows], words[last])
        pattern[rows] = _mixed(pattern[rows], shapes[last])
        length = np.uint64(more + 1)
        values = {
            "text": text[rows],
            "shapes": pattern[rows],
            "ends": _mixed(words[rows], words[last]),
            "around": _mixed(before[rows], after[last]),
            "around_shapes": _mixed(pattern[rows], before[rows]),
            "last": _mixed(words[last], np.full(len(rows), length)),
        }
        for f, name in enumerate(names):
            salt = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
            mixed = _mixed(values[name], np.full(len(rows), salt, dtype=np.uint64))
            ids[rows, more, f] = np.maximum(mixed >> np.uint64(64 - buckets_log2), np.uint64(1)).astype(np.int32)
    return FeatureRows(ids.reshape(n, longest * len(names)), found.offsets)


def _mixed(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A hash of two numbers, the order of which counts; wraps around."""
    x = (a + np.uint64(0x632BE59BD9B4E019)) * _FACTOR ^ (b + np.uint64(0x2545F4914F6CDD1D))
    x = (x ^ (x >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    out: NDArray[np.uint64] = x ^ (x >> np.uint64(32))
    return out
