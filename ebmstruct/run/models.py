"""From the energies of a checked task file to a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ebmstruct.errors import EbmstructError, PluginError
from ebmstruct.run.spec import EnergyTerm

if TYPE_CHECKING:
    from ebmstruct.energies.model import EnergyModel


def build_model(terms: Sequence[EnergyTerm], schema: Any, *, seed: int) -> EnergyModel:
    """The energy model of a task file with fresh parameters; the seed alone decides them.

    torch's layers draw their first weights from the global generator: it is set aside meanwhile and put back.
    """
    import torch

    from ebmstruct.energies import EnergyModel, SumOfEnergies

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        models = [_built(term, schema) for term in terms]
    for term, model in zip(terms, models, strict=True):
        if not isinstance(model, EnergyModel):
            raise PluginError(f"energy {term.name} is a {type(model).__name__}, which is no EnergyModel")
    weights = [1.0 if term.weight is None else term.weight for term in terms]
    if len(models) == 1 and weights == [1.0]:
        return models[0]
    names = [f"{term.name}.{i}" if _repeated(term, terms) else term.name for i, term in enumerate(terms)]
    return SumOfEnergies(models, weights, names)


def _repeated(term: EnergyTerm, terms: Sequence[EnergyTerm]) -> bool:
    return sum(other.name == term.name for other in terms) > 1


def _built(term: EnergyTerm, schema: Any) -> Any:
    try:
        return term.build(schema)
    except EbmstructError:
        raise
    except AttributeError as error:
        if error.obj is not schema:
            raise _fault(term, error) from error
        raise PluginError(
            f"energy {term.name} does not fit this task: it asks for {error.name!r} of the records, which "
            f"{type(schema).__name__} does not have; take an energy that is for such records"
        ) from error
    except Exception as error:  # a plugin's own fault, or an option that it refuses in its own way
        raise _fault(term, error) from error


def _fault(term: EnergyTerm, error: Exception) -> PluginError:
    return PluginError(f"energy {term.name} could not be built: {type(error).__name__}: {error}")
