"""Energies, samplers and tasks that do not go together are told before anything is written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ebmstruct.cli import main
from ebmstruct.errors import DataError
from ebmstruct_generative.endings import check_ending

pytest.importorskip("sklearn")


@pytest.mark.parametrize(
    ("task", "energy", "solver", "said"),
    [
        ("table", "mixture", "", "clusters cannot draw records from these energies"),
        ("table", "gaussian_boltzmann", "gibbs", "gibbs cannot draw records .* name another, such as mixed_gibbs"),
        ("table", "boltzmann", "gibbs", "no values for the blocks units"),
        ("table", "hidden_chain", "", "asks for 'symbols' of the records"),
        ("table", "convolutional", "langevin", "of pictures"),
        ("sequences", "denoiser", "annealed_langevin", "asks for 'shape' of the records"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str, energy: str, solver: str, said: str
) -> None:
    """One sentence, and no run folder."""
    data = tmp_path / "rows.csv"
    data.write_text("a,b\n" + "".join(f"{i % 7},{(i * i) % 11}.5\n" for i in range(60)))
    file = tmp_path / "task.yaml"
    file.write_text(
        f"task: {{name: generative.{task}{f', data: {data}' if task == 'table' else ''}}}\n"
        f"energy: {{name: generative.{energy}}}\nloss: {{name: persistent_contrastive_divergence}}\n"
        + (f"solver: {{name: {solver}}}\n" if solver else "")
        + f"output: {tmp_path / 'run'}\n"
    )
    assert main(["--quiet", "run", str(file)]) == 2
    told = capsys.readouterr().err
    assert re.search(said, told) and len(told.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_an_ending_that_promises_another_format_is_told(tmp_path: Path) -> None:
    """A table is not written as JSON lines, and pictures are no CSV file; nothing is drawn and nothing is written."""
    for name, legal in (("a.jsonl", (".csv",)), ("a.csv", (".npz", ".png")), ("a.GZ", (".idx",))):
        with pytest.raises(DataError, match="are not written as"):
            check_ending(tmp_path / name, legal, "a name without an ending")
    for name in ("a.csv", "a", "a.v2", "a.data"):
        check_ending(tmp_path / name, (".csv",), "a name without an ending")
