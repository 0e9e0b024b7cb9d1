"""What each solver makes of a dozen real models in a few seconds: the table of docs/solvers.md.

Needs the folder that EBMSTRUCT_DATA names. Usage: ``python -m benchmarks.solver_table [--seconds 3]``. Each cell: how far
the energy is above the best known in per cent, ``*`` where the answer is proven optimal, and the wall seconds inside
``minimize``; kernels are warmed by a first model. A dash: the solver refuses.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

import torch

from benchmarks.timing import table
from ebmstruct.graph import FactorGraph
from ebmstruct.inference import SOLVERS, Budget, Query, Solver, minimize
from ebmstruct.run.formats import Evidence, read_evidence, read_model

MODELS = (
    "protein_sidechain/pdb1a7w",
    "protein_sidechain/pdb1aho",
    "protein_folding/pdb1fmj",
    "uai_segmentation/SegmentationMulti_11",
    "uai_objectdetection/ObjectDetection_11",
    "opengm_geosurf/GeomSurf-7-gm256",
    "uai_grids/Grids_12",
    "uai_grids/Grids_17",
    "uai_grids_map/GridsMAP_24",
    "uai_dbn/DBN_13",
    "uai_pedigree/Pedigree_11",
    "uai_linkage/linkage_14",
    "uai_promedas/Promedus_17",
    "uai_csp/CSP_11",
    "uai_wcsp/wcsp_11",
    "protein_interaction/didNotconverge1",
)
NAMES = ("junction_tree", "dual_ascent", "subgraph_search", "annealing", "icm", "toulbar2", "cp_sat")


def read(folder: Path, name: str) -> FactorGraph:
    """The graph of a model with the evidence beside it."""
    model = read_model(folder / f"{name}.uai.gz")
    evidence = folder / f"{name}.uai.evid"
    return (read_evidence(evidence, model) if evidence.exists() else Evidence()).condition(model)


def cell(graph: FactorGraph, solver: Solver | None, seconds: float, best: float) -> str:
    """One solver's answer about one model."""
    begin = time.monotonic()
    if solver is not None and solver.refuse(graph, Query()) is not None:
        return "–"
    result = minimize(
        graph, solver, budget=Budget(deadline=begin + seconds), generator=torch.Generator().manual_seed(0)
    )
    spent = time.monotonic() - begin
    above = 100 * (float(result.energy) - best) / max(1.0, abs(best))
    said = "none" if above == float("inf") else "0" if abs(above) < 1e-4 else f"{above:+.2g} %"
    return f"{said}{'*' if result.statuses[0].name == 'OPTIMAL' else ''}, {spent:.2g} s"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks.solver_table", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    seconds = parser.parse_args().seconds
    if "EBMSTRUCT_DATA" not in os.environ:
        sys.exit("EBMSTRUCT_DATA does not name a folder of data; this benchmark needs mrf/index.json there")
    folder = Path(os.environ["EBMSTRUCT_DATA"]) / "mrf"
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))["instances"]
    solvers: list[Solver | None] = [None, *(SOLVERS[name]() for name in NAMES)]
    warm = read(folder, "protein_sidechain/pdb1not")
    for solver in solvers:
        cell(warm, solver, 2.0, 20.0)
    rows = []
    for name in MODELS:
        graph, best = read(folder, name), index[f"{name}.uai.gz"]["map_energy"]
        rows.append([name.split("/")[1], *(cell(graph, solver, seconds, best) for solver in solvers)])
        sys.stderr.write(" | ".join(rows[-1]) + "\n")
    print(table(["model", "left to the engine", *NAMES], rows))


if __name__ == "__main__":
    main()
