"""Energies taken over from finished runs: their options, their schema and their weights, which stay as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebmstruct import storage
from ebmstruct.errors import ConfigError, EbmstructError, RunFolderError
from ebmstruct.run.folder import CONFIG, MODEL, RunFolder, fill, parse_tensors

if TYPE_CHECKING:
    from torch import Tensor

    from ebmstruct.energies.model import EnergyModel
    from ebmstruct.extend.task import Schema, Task
    from ebmstruct.run.spec import EnergyTerm

OWN = ("name", "weight", "run")
"""Keys of an energy that are not options of its class."""


def taken_options(run: str, name: str) -> dict[str, Any] | None:
    """The options with which a run trained the energy of this name; None where no run is there to be read.

    Errors: ConfigError with the reason, where the run has no such energy or several.
    """
    folder = RunFolder(run)
    if not folder.finished:
        return None
    terms = _terms(folder)
    found = [term for term in terms if term["name"] == name]
    if len(found) != 1:
        have = ", ".join(str(term["name"]) for term in terms)
        how = "no energy" if not found else "several energies"
        raise ConfigError([f"{run} has {how} {name}; its energies are {have}"])
    return {key: value for key, value in found[0].items() if key not in OWN}


def taken_schema(terms: Sequence[EnergyTerm], task: Task) -> Schema | None:
    """The schema of the runs whose energies are taken over; None where there is none.

    Errors: RunFolderError where two runs were fitted to different data.
    """
    found: list[tuple[str, Schema]] = []
    for run in dict.fromkeys(term.run for term in terms if term.run is not None):
        folder = RunFolder(run)
        found.append((run, folder.read_schema(task, folder.manifest())))
    for run, schema in found[1:]:
        if not _equal(schema, found[0][1]):
            raise RunFolderError(
                f"{found[0][0]} and {run} know different labels or other facts of their training data, so their energies "
                "cannot be added; train both on the same training data"
            )
    return found[0][1] if found else None


def take_weights(model: EnergyModel, terms: Sequence[EnergyTerm]) -> None:
    """Fill the parts of a model that are taken over with their runs' weights, and let no training change them."""
    from ebmstruct.energies.model import SumOfEnergies

    parts: Sequence[Any] = list(model.models) if isinstance(model, SumOfEnergies) else [model]
    for part, term in zip(parts, terms, strict=True):
        if term.run is not None:
            folder = RunFolder(term.run)
            fill(part, _weights(folder, term.name), folder.path / MODEL)
            part.requires_grad_(False)
            part.fixed = True
            part.eval()


def _terms(folder: RunFolder) -> list[Mapping[str, Any]]:
    """The energies of a finished run, as its resolved config has them."""
    from ebmstruct.run.config import parse_config

    text = folder.checked(CONFIG, folder.manifest()).decode("utf-8", errors="replace")
    try:
        found = parse_config(text, str(Path(folder.path) / CONFIG)).resolved["energy"]
    except EbmstructError as error:
        raise ConfigError([f"{folder.path} cannot be read: {error}"]) from error
    return list(found) if isinstance(found, list) else [found]


def _weights(folder: RunFolder, name: str) -> dict[str, Tensor]:
    terms = _terms(folder)
    tensors = parse_tensors(folder.checked(MODEL, folder.manifest()), folder.path / MODEL)
    if len(terms) == 1 and terms[0].get("weight", 1.0) == 1.0:
        return tensors
    place = next(i for i, term in enumerate(terms) if term["name"] == name)
    prefix = f"models.{place}."
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _equal(first: Schema, second: Schema) -> bool:
    import torch

    (values, tensors), (others, more) = first.parts(), second.parts()
    same = storage.plain(values) == storage.plain(others) and tensors.keys() == more.keys()
    return same and all(torch.equal(tensor, more[key]) for key, tensor in tensors.items())
