"""NUTS against ebmkit's and blackjax's: effective draws per CPU second, warm-up counted, one thread, float32.

``python -m benchmarks.nuts --peers PYTHON``: PYTHON is the interpreter of an environment with ebmkit, blackjax and jax.
All start at the same points, 64 chains, 50 draws after 50 of warm-up (blackjax is given its step size and has none), trees
of depth 6 at most; the samplers take turns, seed after seed, each run of a peer in a process of its own. ESS and errors
are computed here, alike for all; figures are means over the seeds, their ratio that of the sums.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ebmstruct as es
from benchmarks.densities import CHAINS, DIM, judged, starts, torch_energy
from benchmarks.timing import table
from ebmstruct.inference import NUTS

DRAWS, WARM_UP, DEPTH = 50, 50, 6
OURS, COMPILED = "ebmstruct", "ebmstruct, compiled"


@functools.cache
def graph_of(name: str) -> es.FactorGraph:
    """One instance; made once, so that what is compiled for it is, too."""
    energy = torch_energy(name)
    block = es.Variables.of_lengths("x", es.Real(DIM[name]), [1])
    return es.FactorGraph([block], [es.BlockFactor(("x",), "energy", lambda x, offsets: energy(x))])


def ours(name: str, seed: int, compiled: bool = False, each: int = DRAWS) -> tuple[np.ndarray, dict[str, float]]:
    """Draws (chains, n, d), and CPU seconds of the whole call of ``sample``."""
    graph = graph_of(name)
    init = es.Assignment({"x": torch.tensor(starts(name))[:, None]})
    solver = NUTS(chains=CHAINS, warm_up=WARM_UP, max_depth=DEPTH, compiled=compiled)
    generator = torch.Generator().manual_seed(seed)
    begun = time.process_time()
    found = es.sample(graph, solver, num_samples=CHAINS * each, init=init, generator=generator)
    seconds = time.process_time() - begun
    draws = found.by_chain("x")[:, :, 0].transpose(0, 1).numpy()
    return draws, {"cpu": seconds, "compiling": 0.0, "gradients": found.stats["gradients"] * CHAINS}


def peers(name: str, peer: str, python: str, seed: int) -> tuple[np.ndarray, dict[str, float]]:
    """The same of a peer, in a process of its own."""
    root = Path(__file__).parents[1]
    environment = {
        **os.environ,
        "PYTHONPATH": str(root),
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    }
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "draws.npy"
        command = [python, "-m", "benchmarks.nuts_peer", peer, name, str(seed), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        return np.load(out), json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", default="", help="interpreter of the environment with the peers")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--draws", type=int, default=DRAWS, help="of each of our chains; peers make 50")
    parser.add_argument("targets", nargs="*", default=list(DIM))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    logging.disable(logging.WARNING)
    names = [OURS, COMPILED, *(("ebmkit", "blackjax") if arguments.peers else ())]
    rows: list[list[Any]] = []
    for target in arguments.targets:
        ours(target, 0)
        ours(target, 0, compiled=True)
        found: dict[str, list[tuple[float, float, float, float, float]]] = {name: [] for name in names}
        for seed in range(1, arguments.seeds + 1):
            for name in names:
                mine = name in (OURS, COMPILED)
                if mine:
                    draws, cost = ours(target, seed, name == COMPILED, arguments.draws)
                else:
                    draws, cost = peers(target, name, arguments.peers, seed)
                found[name].append((*judged(target, draws), cost["cpu"], cost["compiling"], cost["gradients"]))
        rates = {name: sum(f[0] for f in runs) / sum(f[2] for f in runs) for name, runs in found.items()}
        for name in names:
            worst, error, cpu, compiling, gradients = np.mean(found[name], 0).tolist()
            ratios = [rates[mine] / rates[name] for mine in (OURS, COMPILED)]
            rows.append([target, name, worst, error, cpu, compiling, gradients / cpu / 1e3, rates[name], *ratios])
    columns = [
        "density",
        "sampler",
        "ESS",
        "error",
        "CPU s",
        "compiling s",
        "1000 gradients/s",
        "ESS/s",
        "ours / it",
        "compiled / it",
    ]
    sys.stdout.write(table(columns, rows) + "\n")


if __name__ == "__main__":
    main()
