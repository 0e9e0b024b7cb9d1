"""Structured prediction by energy minimisation.

Public names are resolved when they are first used, so that importing ebmstruct is quick and the command's help
does not wait for torch. Plugins are never looked for by an import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "ebmstruct.errors": (
        "ConfigError",
        "DataError",
        "EbmstructError",
        "GraphError",
        "InferenceFailed",
        "PluginError",
        "RunFolderError",
        "SolverRefusal",
        "TrainingDiverged",
    ),
    "ebmstruct.graph": (
        "Assignment",
        "BlockFactor",
        "ChainFactor",
        "Discrete",
        "Factor",
        "FactorGraph",
        "Real",
        "ResidualFactor",
        "TableFactor",
        "Variables",
        "union",
    ),
    "ebmstruct.inference": (
        "Budget",
        "Exhaustive",
        "Marginals",
        "Query",
        "Result",
        "Samples",
        "Solver",
        "Status",
        "VariableElimination",
        "explain",
        "log_partition",
        "marginals",
        "minimize",
        "sample",
    ),
    "ebmstruct.energies": ("EnergyModel", "SumOfEnergies"),
    "ebmstruct.learning": (
        "Loss",
        "NegativeLogLikelihood",
        "Perceptron",
        "PseudoLikelihood",
        "SoftmaxMargin",
        "StructuredHinge",
        "TrainingOptions",
        "TrainingTrace",
        "fit",
    ),
    "ebmstruct.extend": ("Example", "Schema", "Task", "hookimpl"),
    "ebmstruct.run": ("Predictor", "load"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME_OF, "__version__"])

if TYPE_CHECKING:
    from ebmstruct.energies import EnergyModel, SumOfEnergies
    from ebmstruct.errors import (
        ConfigError,
        DataError,
        EbmstructError,
        GraphError,
        InferenceFailed,
        PluginError,
        RunFolderError,
        SolverRefusal,
        TrainingDiverged,
    )
    from ebmstruct.extend import Example, Schema, Task, hookimpl
    from ebmstruct.graph import (
        Assignment,
        BlockFactor,
        ChainFactor,
        Discrete,
        Factor,
        FactorGraph,
        Real,
        ResidualFactor,
        TableFactor,
        Variables,
        union,
    )
    from ebmstruct.inference import (
        Budget,
        Exhaustive,
        Marginals,
        Query,
        Result,
        Samples,
        Solver,
        Status,
        VariableElimination,
        explain,
        log_partition,
        marginals,
        minimize,
        sample,
    )
    from ebmstruct.learning import (
        Loss,
        NegativeLogLikelihood,
        Perceptron,
        PseudoLikelihood,
        SoftmaxMargin,
        StructuredHinge,
        TrainingOptions,
        TrainingTrace,
        fit,
    )
    from ebmstruct.run import Predictor, load


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = globals()[name] = getattr(importlib.import_module(_HOME_OF[name]), name)
        return value
    raise AttributeError(f"module 'ebmstruct' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
