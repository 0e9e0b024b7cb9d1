"""How like two sets of sequences are: runs of symbols, lengths, and what is copied from the training data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

ORDERS = (1, 2, 3)
NAMES = {1: "symbols", 2: "pairs", 3: "triples"}


def overlap(real: Sequence[Sequence[str]], made: Sequence[Sequence[str]], order: int) -> float:
    """1 less the total variation between the shares of runs of ``order`` symbols; ends of sequences count as a symbol."""
    one, other = _runs(real, order), _runs(made, order)
    a, b = sum(one.values()), sum(other.values())
    if not a or not b:
        return 1.0 if a == b else 0.0
    return 1.0 - 0.5 * sum(abs(one[k] / a - other[k] / b) for k in one.keys() | other.keys())


def _runs(rows: Sequence[Sequence[str]], order: int) -> Counter[tuple[str, ...]]:
    found: Counter[tuple[str, ...]] = Counter()
    for row in rows:
        ended = ["", *row, ""] if order > 1 else list(row)
        found.update(tuple(ended[i : i + order]) for i in range(len(ended) - order + 1))
    return found


def sequence_score(
    real: Sequence[Sequence[str]], made: Sequence[Sequence[str]], train: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """``fidelity``, the mean overlap of symbols, pairs and triples; each of these; lengths; the share that is copied."""
    figures = {f"{NAMES[n]}_overlap": overlap(real, made, n) for n in ORDERS}
    seen = {tuple(row) for row in train}
    lengths = overlap([[str(len(r))] for r in real], [[str(len(r))] for r in made], 1)
    return {
        "fidelity": sum(figures.values()) / len(figures),
        **figures,
        "lengths_overlap": lengths,
        "copied": sum(tuple(row) in seen for row in made) / max(1, len(made)),
        "repeated": 1.0 - len({tuple(row) for row in made}) / max(1, len(made)),
    }


MEANINGS = {
    "symbols_overlap": "1 less the total variation of single symbols",
    "pairs_overlap": "the same of neighbours, ends included",
    "triples_overlap": "the same of runs of three",
    "lengths_overlap": "the same of lengths",
    "copied": "share that stands in the training data",
    "repeated": "share that was drawn before",
}


def sequence_figures(
    real: Sequence[Sequence[str]], made: Sequence[Sequence[str]], train: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """The same at length: each beside what training sequences reach in the place of those drawn, and in words."""
    found = sequence_score(real, made, train)
    beside = sequence_score(real, train[: len(made)], train)
    held = sequence_score(train, real, train)
    beside |= {"copied": held["copied"], "repeated": held["repeated"]}
    measures = {
        name: {
            "value": found[name],
            "reference": beside[name],
            "best": beside[name] if name in ("copied", "repeated") else 1.0,
            "meaning": meaning,
        }
        for name, meaning in MEANINGS.items()
    }
    records = {"held_out": len(real), "generated": len(made), "training": len(train)}
    return {"records": records, "measures": measures, "verdicts": _verdicts(found, beside)}


def _verdicts(found: dict[str, Any], beside: dict[str, Any]) -> list[dict[str, str]]:
    out = []
    short = beside["triples_overlap"] - found["triples_overlap"]
    said = f"Runs of three symbols overlap {found['triples_overlap']:.2f} with held-out sequences"
    said += f" (training sequences: {beside['triples_overlap']:.2f}; 1 is the same shares)."
    out.append({"level": "good" if short < 0.05 else "warn" if short < 0.2 else "bad", "text": said})
    more = found["copied"] - beside["copied"]
    said = f"{100 * found['copied']:.0f} % of the generated sequences stand in the training data"
    said += f", as {100 * beside['copied']:.0f} % of the held-out ones do."
    out.append({"level": "bad" if more > 0.2 else "warn" if more > 0.1 else "good", "text": said})
    return out
