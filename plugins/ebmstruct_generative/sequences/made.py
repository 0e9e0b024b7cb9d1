"""Made sequences: lines of syllables from a hidden Markov chain, so that a task runs without data."""

from __future__ import annotations

import numpy as np

ONSETS = ("b", "d", "k", "l", "m", "n", "r", "s", "t", "v")
NUCLEI = ("a", "e", "i", "o", "u", "ai", "ea")
CODAS = ("", "", "", "l", "n", "r", "s", "th")
COUNTS = {"train": 2000, "dev": 400, "test": 400}


def made_lines(split: str) -> list[str]:
    """Names of one to four syllables; front and back vowels keep together, as in languages with vowel harmony."""
    rng = np.random.default_rng({"train": 1, "dev": 2, "test": 3}[split])
    return [_name(rng) for _ in range(COUNTS[split])]


def _name(rng: np.random.Generator) -> str:
    front = rng.random() < 0.5
    vowels = [v for v in NUCLEI if (v[0] in "ei") == front]
    out = ""
    for _ in range(rng.choice([1, 2, 3, 4], p=[0.1, 0.45, 0.35, 0.1])):
        out += ONSETS[int(rng.beta(1.0, 1.5) * len(ONSETS))] + vowels[rng.integers(len(vowels))]
        if rng.random() < 0.3:
            out += CODAS[rng.integers(len(CODAS))]
    return out
