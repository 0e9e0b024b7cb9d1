"""What this plugin offers, by name; nothing is imported until a task file asks for it."""

from __future__ import annotations

from collections.abc import Mapping

from ebmstruct.extend import hookimpl


@hookimpl
def ebmstruct_tasks() -> Mapping[str, str]:
    """Tables, pictures, patches and sequences."""
    return {"table": "ebmstruct_generative.tables.task:TableTask"}


@hookimpl
def ebmstruct_energies() -> Mapping[str, str]:
    """Energies of records."""
    return {
        "denoiser": "ebmstruct_generative.denoiser:Denoiser",
        "mixture": "ebmstruct_generative.mixture:Mixture",
        "table_mixture": "ebmstruct_generative.tables.mixture:TableMixture",
    }


@hookimpl
def ebmstruct_solvers() -> Mapping[str, str]:
    """Solvers of those energies."""
    return {"clusters": "ebmstruct_generative.tables.clusters:Clusters"}
