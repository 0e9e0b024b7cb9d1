"""Energies of outputs where some sites are latent: the least over their completions, or the free energy of these."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference import Ask, Query, Solver, log_partition, minimize

LatentSites = Literal["minimise", "sum_out"]
"""What becomes of sites that a target does not know."""
LATENT_SITES = ("minimise", "sum_out")


def check_latent_sites(name: str, latent_sites: str, temperature: float) -> None:
    """Raise ValueError where a loss is asked for a treatment of latent sites that does not exist."""
    if latent_sites not in LATENT_SITES:
        raise ValueError(f"{name}: latent_sites {latent_sites!r}; legal are {LATENT_SITES}")
    if not temperature > 0:
        raise ValueError(f"{name}: temperature must be positive; found {temperature}")


def known_sites(graph: FactorGraph, target: Assignment, block: str) -> Tensor:
    """(n,) bool: the sites of a block that a target knows."""
    owner = graph.variables[block]
    if block not in target:
        return torch.zeros(owner.num_sites, dtype=torch.bool, device=owner.offsets.device)
    known = target.known.get(block)
    return torch.ones(owner.num_sites, dtype=torch.bool, device=owner.offsets.device) if known is None else known


def latent_blocks(graph: FactorGraph, target: Assignment) -> tuple[str, ...]:
    """The blocks with sites of which a target knows none."""
    out = []
    for name, block in graph.variables.items():
        known = target.known.get(name)
        if block.num_sites and (name not in target or (known is not None and not bool(known.any()))):
            out.append(name)
    return tuple(out)


def sum_out_refusal(graph: FactorGraph, target: Assignment) -> str | None:
    """Why latent sites cannot be summed out of a minimum, in a sentence; None where they can.

    A query sums whole blocks out, so a block must be known or unknown as a whole.
    """
    for name in graph.variables:
        known = known_sites(graph, target, name)
        if bool(known.any()) and not bool(known.all()):
            return (
                f"block {name!r} is known at some sites only, and latent_sites: sum_out sums whole blocks; put what is "
                "latent into a block of its own, or take latent_sites: minimise"
            )
    return None


def taking(solver: Solver | None, graph: FactorGraph, query: Query) -> Solver | None:
    """The named solver where it takes a query about the sites that are left, else None: the engine's own choice.

    A solver that is named for the whole question often has nothing to say about the part of it that clamped outputs leave.
    """
    if solver is None or solver.refuse(graph, query) is not None:
        return None
    if query.ask is Ask.LOG_PARTITION and type(solver).log_partition is Solver.log_partition:
        return None
    return solver


def completed(
    graph: FactorGraph,
    outputs: Assignment,
    solver: Solver | None,
    latent_sites: LatentSites = "minimise",
    temperature: float = 1.0,
) -> tuple[Tensor, Assignment]:
    """(B,) the energy of outputs: least over their completions, or -T log of the sum of exp(-E / T) over these.

    Differentiable; where every site is known it is the energy itself. Beside it the completion of least energy, or the
    outputs as they are where the rest is summed out.
    """
    if outputs.complete(graph.topology.names):
        return graph.energy(outputs), outputs
    left = graph.condition(outputs)
    if latent_sites == "minimise":
        found = minimize(left, taking(solver, left, Query())).assignment
        return graph.energy(found), found
    query = Query(Ask.LOG_PARTITION, temperature=temperature)
    return -temperature * log_partition(left, taking(solver, left, query), temperature=temperature), outputs


def lowest(
    graph: FactorGraph,
    target: Assignment,
    solver: Solver | None,
    latent_sites: LatentSites = "minimise",
    temperature: float = 1.0,
) -> tuple[Tensor, Assignment]:
    """(B,) the least energy over outputs, latent sites minimised over or summed out, and the assignment that has it.

    Differentiable at that assignment (Danskin's theorem): the gradient of the minimum where the solver is exact, else a
    subgradient of no more than the energy that it found.
    """
    blocks = latent_blocks(graph, target) if latent_sites == "sum_out" else ()
    if not blocks:
        found = minimize(graph, solver).assignment
        return graph.energy(found), found
    if len(blocks) == sum(v.num_sites > 0 for v in graph.variables.values()):
        return completed(graph, Assignment({}), solver, latent_sites, temperature)
    found = minimize(graph, solver, sum_out=blocks, temperature=temperature).assignment
    outputs = Assignment({n: v for n, v in found.items() if n not in blocks})
    return completed(graph, outputs, solver, latent_sites, temperature)
