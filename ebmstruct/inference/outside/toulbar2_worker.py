"""Run as a program: hand one problem to toulbar2, which prints its solutions and bounds as it finds them."""

from __future__ import annotations

import sys

import numpy as np


def main(path: str) -> None:
    """Read the arrays of ``IntegerProblem.arrays`` from ``path`` and solve."""
    import pytoulbar2  # type: ignore[import-untyped, import-not-found, unused-ignore]

    given = np.load(path, allow_pickle=False)
    options = {k: int(given[k]) for k in ("vac", "vns", "rasps", "seed")}
    vns = -4 if options["vns"] else None
    network = pytoulbar2.CFN(
        ubinit=int(given["below"]), resolution=0, vac=options["vac"], vns=vns, seed=options["seed"], verbose=0
    )
    network.Option.useRASPS = options["rasps"]
    states = given["num_states"]
    for i, count in enumerate(states.tolist()):
        network.AddVariable(f"x{i}", range(count))
    scope_ptr, scope, cost_ptr = (given[k].tolist() for k in ("scope_ptr", "scope", "cost_ptr"))
    costs = given["costs"].astype(np.float64)
    costs[costs < 0] = np.inf
    for f in range(len(scope_ptr) - 1):
        network.AddFunction(scope[scope_ptr[f] : scope_ptr[f + 1]], costs[cost_ptr[f] : cost_ptr[f + 1]].tolist())
    if given["has_first"]:
        for i, state in enumerate(given["first"].tolist()):
            network.CFN.wcsp.setBestValue(i, state)
    # the time limit is for the case that nobody is left to end this process
    network.Solve(showSolutions=1, timeLimit=int(given["seconds"]) + 2 if given["seconds"] else 0)
    sys.stdout.write("ended\n")


if __name__ == "__main__":
    main(sys.argv[1])
