"""The junction tree on real models: log Z, marginals and least energies against stored answers."""

from __future__ import annotations

import gzip
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ebmstruct.graph import Assignment, Discrete, FactorGraph, TableFactor, Variables
from ebmstruct.inference.engine import log_partition, marginals, minimize
from ebmstruct.inference.result import Status
from ebmstruct.inference.solvers.junction_tree import JunctionTree
from ebmstruct.testing import random_grid

SOLVER = JunctionTree()
DATA = os.environ.get("EBMSTRUCT_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="EBMSTRUCT_DATA does not say where the data are")


def read(name: str) -> tuple[FactorGraph, dict[str, Any]]:
    """A model of the data in the UAI format, with its evidence, and what is known about it."""
    folder = Path(str(DATA)) / "mrf"
    facts = json.loads((folder / "index.json").read_text())["instances"][f"{name}.uai.gz"]
    words = gzip.decompress((folder / f"{name}.uai.gz").read_bytes()).split()
    sites = int(words[1])
    counts = torch.tensor([int(w) for w in words[2 : 2 + sites]])
    at = 3 + sites
    scopes = []
    for _ in range(int(words[2 + sites])):
        arity = int(words[at])
        scopes.append([int(w) for w in words[at + 1 : at + 1 + arity]])
        at += arity + 1
    constant, found = 0.0, dict[int, list[tuple[list[int], np.ndarray]]]()
    for scope in scopes:
        size = int(words[at])
        with np.errstate(divide="ignore"):
            table = -np.log(np.array(words[at + 1 : at + 1 + size], dtype=np.float64))
        at += size + 1
        if scope:
            found.setdefault(len(scope), []).append((scope, table))
        else:
            constant += float(table[0])
    factors = []
    for arity, rows in found.items():
        size = np.array([t.size for _, t in rows])
        index = torch.tensor([s for s, _ in rows]).T.contiguous()
        flat = torch.from_numpy(np.concatenate([t for _, t in rows]))
        starts = torch.from_numpy(np.cumsum(size) - size)
        factors.append(TableFactor(("x",) * arity, f"of_{arity}", flat, index=index, starts=starts))
    block = Variables.of_lengths("x", Discrete(counts), [sites])
    graph = FactorGraph([block], factors, constant=torch.tensor([constant], dtype=torch.float64))
    evidence = folder / f"{name}.uai.evid"
    if evidence.exists():
        given = [int(w) for w in evidence.read_text().split()]
        given = given[1:] if 2 * given[0] + 1 == len(given) else given[2:]
        values, known = torch.zeros(sites, dtype=torch.long), torch.zeros(sites, dtype=torch.bool)
        values[given[::2]], known[given[::2]] = torch.tensor(given[1::2]), True
        graph = graph.condition(Assignment({"x": values}, {"x": known}))
    return graph, facts


QUICK = (
    "protein_sidechain/pdb1not protein_sidechain/pdb1hoe protein_sidechain/pdb2fdn protein_sidechain/pdb2mcm "
    "uai_alchemy/Alchemy_11 uai_csp/CSP_12 uai_grids/Grids_12 uai_pedigree/Pedigree_12 uai_promedas/Promedus_13 "
    "uai_promedas/Promedus_15 uai_relational/relational_3 uai_segmentation/Segmentation_11 uai_segmentation/Segmentation_12"
)


@needs_data
@pytest.mark.parametrize("name", QUICK.split())
def test_real_models(name: str) -> None:
    """log Z and marginals are the stored ones to 1e-9; no bound exceeds a stored energy, and proven ones are met."""
    graph, facts = read(name)
    found = marginals(graph, SOLVER)
    assert float(found.log_partition[0]) == pytest.approx(facts["logz"], abs=1e-9)
    stored = json.loads(gzip.decompress((Path(str(DATA)) / "mrf" / facts["marginals_file"]).read_bytes()))["marginals"]
    free = torch.ones(graph.variables["x"].num_sites, dtype=torch.bool)
    if graph.evidence is not None:
        free = ~graph.evidence.known["x"]
    missing = []
    for site, expected in zip(free.nonzero()[:, 0].tolist(), stored, strict=True):
        row = found.beliefs["x"][site, : len(expected)].tolist()
        if math.isnan(sum(expected)):
            missing.append(site)
        else:
            assert row == pytest.approx(expected, abs=1e-9)
    for site in missing[:: max(1, len(missing) // 5)]:  # where none are stored, clamp the site and compare log Z
        clamped = torch.arange(free.numel()) == site
        fixed = graph.condition(Assignment({"x": torch.zeros(free.numel(), dtype=torch.long)}, {"x": clamped}))
        share = float((log_partition(fixed, SOLVER) - found.log_partition).exp())
        assert float(found.beliefs["x"][site, 0]) == pytest.approx(share, abs=1e-9)
    result = minimize(graph, SOLVER)
    tolerance = 1e-6 * max(1.0, abs(facts["map_energy"]))
    assert result.statuses == [Status.OPTIMAL]
    assert float(result.energy[0]) <= facts["map_energy"] + tolerance
    if facts["map_status"].startswith("optimal"):
        assert float(result.lower_bound[0]) == pytest.approx(facts["map_energy"], abs=tolerance)


@needs_data
@pytest.mark.parametrize("name", ["uai_grids/Grids_15", "uai_grids/Grids_17"])
def test_spin_glasses(name: str) -> None:
    """The 20 x 20 grids are proven, in well under the three seconds that a command may take."""
    graph, facts = read(name)
    minimize(random_grid([(3, 3)], 2, torch.Generator().manual_seed(0)), SOLVER)
    begin = time.process_time()
    result = minimize(graph, SOLVER)
    assert time.process_time() - begin < 3.0
    assert result.statuses == [Status.OPTIMAL]
    assert float(result.energy[0]) == pytest.approx(facts["map_energy"], rel=1e-9)
