"""Report sections of sequences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ebmstruct.extend import Chart, Evaluation, Section, Table

SHOWN = 24


def sections(evaluation: Evaluation, real: Sequence[str], made: Sequence[str], train: set[str]) -> list[Section]:
    """Sequences side by side, and how their lengths and energies compare."""
    rows = [[a, b, "in the training data" if b in train else "new"] for a, b in zip(real, made, strict=False)][:SHOWN]
    energy = {"held out": list(evaluation.target_energy), "drawn": list(evaluation.energy)}
    lengths = {"held out": [float(len(r)) for r in real], "drawn": [float(len(r)) for r in made]}
    return [
        Table(
            "Held-out and drawn sequences",
            ["held out", "drawn", ""],
            rows,
            "Those of a row have nothing to do with each other.",
        ),
        Chart("Lengths", lengths, (), "letters", "sequences", "histogram"),
        Chart(
            "Energies", energy, (), "energy", "sequences", "histogram", "Where the model fits, both lie in one place."
        ),
    ]


def strip(drawn: Mapping[int, Sequence[str]]) -> list[Section]:
    """What was drawn after some epochs."""
    if not drawn:
        return []
    epochs = sorted(drawn)
    kept = epochs if len(epochs) <= 6 else [epochs[round(i * (len(epochs) - 1) / 5)] for i in range(6)]
    rows = [[drawn[e][i] if i < len(drawn[e]) else "" for e in kept] for i in range(8)]
    return [Table("Drawn while it was trained", [f"epoch {e}" for e in kept], rows)]
