"""The command ``warm``: small problems of every kind, so that whatever solving compiles is compiled and cached."""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ebmstruct.errors import SolverRefusal
from ebmstruct.graph import FactorGraph
from ebmstruct.inference import engine
from ebmstruct.inference.result import Ask, Budget
from ebmstruct.inference.solver import Solver
from ebmstruct.inference.solvers import SOLVERS
from ebmstruct.run.elapsed import Elapsed
from ebmstruct.run.formats import Model, read_model, write_model
from ebmstruct.testing import random_chain, random_forest, random_graph, random_grid, random_segments

logger = logging.getLogger("ebmstruct.warm")

OUTSIDE = ("toulbar2", "cp_sat")
"""Solvers of outside packages: nothing of theirs is compiled here."""
STEPS = 30
"""How many steps a solver that works in steps may take on each problem."""
ON_GRIDS = ("graph_cut", "roof_duality", "dual_ascent", "alpha_expansion", "subgraph_search")
"""Solvers with kernels for grids as such, which depend on the pair table and the type of the numbers."""


def warm(arguments: argparse.Namespace) -> None:
    """Ask every solver every question about small problems; one line a solver."""
    from ebmstruct.inference.kernels.compiler import compilations

    quiet = getattr(arguments, "quiet", False)
    with Elapsed("compiling", arguments.started, quiet=quiet), tempfile.TemporaryDirectory() as folder:
        small, grids = _small_problems(Path(folder)), _grid_problems(Path(folder))
        solvers: list[tuple[str, Solver | None]] = [(n, c()) for n, c in SOLVERS.items() if n not in OUTSIDE]
        for name, solver in [*solvers, ("the engine's choice", None)]:
            before, begun = compilations.count, time.monotonic()
            for problem in small + (grids if solver is None or name in ON_GRIDS else []):
                _ask_everything(problem, solver)
            made, seconds = compilations.count - before, time.monotonic() - begun
            logger.info("%-22s %5.1f s, %s", name, seconds, f"{made} compiled" if made else "nothing to compile")


def _small_problems(folder: Path) -> list[FactorGraph]:
    """Chains, forests, pairs on cycles, rows of three, a grid, segments; and what model files make of them."""
    draw = torch.Generator().manual_seed(0)
    made = [
        random_chain([9], 3, draw, forbid=0.1),
        random_forest([9], 3, draw),
        random_forest([9], 3, draw, shared=True),
    ]
    for arities in ((2,), (2, 3)):
        for most, forbid in ((2, 0.0), (3, 0.1)):
            made.append(random_graph([7], most, draw, arities=arities, rows=10, forbid=forbid))
    read = []
    for graph in made:
        write_model(folder / "model.uai", Model(graph, "markov"))
        read.append(read_model(folder / "model.uai").graph)
    return [*made, *read, random_grid([(3, 4), (2, 2)], 3, draw), random_segments([9], 3, 3, draw)]


def _grid_problems(folder: Path) -> list[FactorGraph]:
    """Grids of pixels with two states and more, Potts or another table, of whole numbers (float32) and of others."""
    draw = np.random.default_rng(0)
    graphs = []
    for height, width, states in ((9, 8, 2), (9, 8, 3), (5, 6, 8)):
        unary = draw.integers(0, 50, (height, width, states)).astype(np.float64)
        wide = draw.integers(1, 20, (height, width - 1)).astype(np.float64)
        tall = draw.integers(1, 20, (height - 1, width)).astype(np.float64)
        distance = np.abs(np.subtract.outer(np.arange(states), np.arange(states))).astype(np.float64)
        for scale in (1.0, 0.37):
            weights: list[dict[str, Any]] = [{"wh": wide, "wv": tall}]
            for table in (distance, np.minimum(distance, 2), distance**2, draw.random((states, states))):
                weights.append({"w_right": wide, "w_down": tall, "V": table})
            for arrays in weights:
                np.savez(folder / "grid.npz", unary=unary * scale, **arrays)
                graphs.append(read_model(folder / "grid.npz").graph)
    return graphs


def _ask_everything(graph: FactorGraph, solver: Solver | None) -> None:
    """Every question, refusals aside."""
    budget = Budget(max_steps=STEPS)
    for ask in Ask:
        try:
            if ask is Ask.MINIMIZE:
                engine.minimize(graph, solver, budget=budget)
            elif ask is Ask.MARGINALS:
                engine.marginals(graph, solver, budget=budget)
            elif ask is Ask.SAMPLE:
                engine.sample(graph, solver, num_samples=2, budget=budget)
            else:
                engine.bound_log_partition(graph, solver, budget=budget)
        except SolverRefusal:
            continue
