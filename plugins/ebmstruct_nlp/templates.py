"""Feature templates by name: what goes for most texts, and the plain ones that comparisons use."""

from __future__ import annotations

_AFFIXES = tuple(f"{kind}{k}" for kind in ("prefix", "suffix") for k in range(1, 5))

PLAIN_WORDS = (
    *("one", "word", "form", "shape", *_AFFIXES),
    *("title", "upper", "digit", "has_digit", "hyphen", "at", "hash"),
    *("word[-2]", "shape[-2]", "word[-1]", "shape[-1]", "suffix3[-1]", "title[-1]"),
    *("word[1]", "shape[1]", "suffix3[1]", "title[1]", "word[2]", "shape[2]", "word[-1]&word"),
)
"""The usual template of a CRF: form, affixes, shape and flags, a window of two words, one bigram."""

PLAIN_CHARACTERS = (
    *("one", "form", "form[-2]", "form[-1]", "form[1]", "form[2]", "type", "type[-1]", "type[1]"),
    *("form[-1]&form", "form&form[1]", "form[-2]&form[-1]", "form[1]&form[2]", "form[-1]&form[1]"),
)
"""The usual template over characters: a window of two on either side and its bigrams."""

WORDS = (
    *("one", "word", "form", "shape", "short_shape", "case", "flags", *_AFFIXES),
    *("word[-2]", "word[-1]", "word[1]", "word[2]", "shape[-2]", "shape[-1]", "shape[1]", "shape[2]"),
    *("case[-1]", "case[1]", "suffix3[-1]", "suffix3[1]", "prefix3[-1]", "prefix3[1]", "suffix2[-1]", "suffix2[1]"),
    *("word[-1]&word", "word&word[1]", "word[-2]&word[-1]", "word[1]&word[2]", "word[-1]&word[1]"),
    *("case[-1]&case", "case&case[1]", "case[-1]&case&case[1]", "case[-2]&case[-1]&case", "case&case[1]&case[2]"),
    *("word[-1]&case", "case&word[1]", "word[-1]&case&word[1]", "case[-1]&word", "word&case[1]"),
    *("frequency", "frequency&case", "truecase", "truecase&case"),
    *("word[first]", "word[last]", "word[before]", "word[after]", "run_place", "run_length"),
)
"""A rich template for texts with upper and lower case, with the statistics of the training text."""

CHARACTERS = PLAIN_CHARACTERS
