"""Langevin, MALA and HMC against bare loops of the same steps, as they are and compiled, and against blackjax's HMC.

``python -m benchmarks.samplers [--peers PYTHON]``: 64 chains, float32, one thread, every draw kept. The bare loops are
what one writes by hand in torch: a gradient, an update, a copy into the record. All pieces take turns in one process;
figures are medians of the ratio to the bare loop of the same turn. PYTHON is the interpreter of an environment with
blackjax and jax, which runs in a process of its own between ours; then ESS per CPU second are compared.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ebmstruct as es
from benchmarks.densities import DIM, STEP, judged, starts, torch_energy
from benchmarks.timing import table

STEPS, TRAJECTORIES, LEAPFROG, DRAWS = 400, 40, 10, 200
ULA = {"gauss100": 0.002, "mix8": 0.02, "ring": 0.005, "mlp16": 0.02}
MALA = {"gauss100": 0.004, "mix8": 0.10, "ring": 0.03, "mlp16": 0.10}
Energy = Callable[[Tensor], Tensor]


def gradient(energy: Energy, x: Tensor) -> tuple[Tensor, Tensor]:
    """Energies and their gradient, as one writes it."""
    x = x.detach().requires_grad_(True)
    e = energy(x)
    return e.detach(), torch.autograd.grad(e.sum(), x)[0]


def bare_ula(energy: Energy, x: Tensor, step: float, count: int) -> Tensor:
    """Langevin steps by hand."""
    scale, out = math.sqrt(2 * step), torch.empty(count, *x.shape)
    for i in range(count):
        x = x - step * gradient(energy, x)[1] + scale * torch.randn_like(x)
        out[i] = x
    return out


def bare_mala(energy: Energy, x: Tensor, step: float, count: int) -> Tensor:
    """Adjusted Langevin steps by hand."""
    scale, out = math.sqrt(2 * step), torch.empty(count, *x.shape)
    e, g = gradient(energy, x)
    for i in range(count):
        z = torch.randn_like(x)
        y = x - step * g + scale * z
        new_e, new_g = gradient(energy, y)
        back = ((x - y + step * new_g) ** 2).sum(-1) / (4 * step)
        taken = torch.rand_like(e).log() < e - new_e + 0.5 * (z * z).sum(-1) - back
        where = taken.unsqueeze(-1)
        x, g, e = torch.where(where, y, x), torch.where(where, new_g, g), torch.where(taken, new_e, e)
        out[i] = x
    return out


def bare_hmc(energy: Energy, x: Tensor, step: float, count: int) -> Tensor:
    """Hamiltonian trajectories by hand."""
    out = torch.empty(count, *x.shape)
    e, g = gradient(energy, x)
    for i in range(count):
        p = torch.randn_like(x)
        before = e + 0.5 * (p * p).sum(-1)
        y, new_e, new_g = x, e, g
        p = p - 0.5 * step * g
        for j in range(LEAPFROG):
            y = y + step * p
            new_e, new_g = gradient(energy, y)
            p = p - (0.5 if j == LEAPFROG - 1 else 1.0) * step * new_g
        taken = torch.rand_like(e).log() < before - new_e - 0.5 * (p * p).sum(-1)
        where = taken.unsqueeze(-1)
        x, g, e = torch.where(where, y, x), torch.where(where, new_g, g), torch.where(taken, new_e, e)
        out[i] = x
    return out


def graph_of(energy: Energy, dim: int, chains: int) -> es.FactorGraph:
    """One instance a chain."""
    block = es.Variables.of_lengths("x", es.Real(dim), [1] * chains)
    return es.FactorGraph([block], [es.BlockFactor(("x",), "energy", lambda x, offsets: energy(x))])


def overheads(name: str, rounds: int) -> list[list[Any]]:
    """Rows: sampler, how, microseconds a gradient, ratio to the bare loop."""
    energy, x = torch_energy(name), torch.tensor(starts(name))
    graph, init = graph_of(energy, DIM[name], x.shape[0]), es.Assignment({"x": torch.tensor(starts(name))})
    generator, kept = torch.Generator().manual_seed(0), {"chains": 1, "burn_in": 0, "thinning": 1}
    settings: dict[str, tuple[Any, dict[str, Any], Callable[..., Tensor], int, int]] = {
        "ULA": (es.Langevin, {"step_size": ULA[name]}, bare_ula, STEPS, 1),
        "MALA": (es.MALA, {"step_size": MALA[name]}, bare_mala, STEPS, 1),
        "HMC": (es.HMC, {"step_size": STEP[name], "leapfrog_steps": LEAPFROG}, bare_hmc, TRAJECTORIES, LEAPFROG),
    }
    pieces: dict[tuple[str, str], tuple[Callable[[], Any], int]] = {}
    first = {}
    for sampler, (cls, options, bare, count, each) in settings.items():
        pieces[sampler, "bare"] = (lambda f=bare, s=options["step_size"], n=count: f(energy, x, s, n)), count * each  # type: ignore[misc]
        for how in ("eager", "compiled"):
            solver = cls(**options, **kept, compiled=how == "compiled")
            call = lambda s=solver, n=count: es.sample(graph, s, num_samples=n, init=init, generator=generator)  # noqa: E731
            pieces[sampler, how] = call, count * each
            begun = time.perf_counter()
            call()
            first[sampler, how] = time.perf_counter() - begun
    times: dict[tuple[str, str], list[float]] = {key: [] for key in pieces}
    for turn in range(rounds + 1):
        for key, (piece, _) in pieces.items():
            begun = time.process_time()
            piece()
            if turn:
                times[key].append(time.process_time() - begun)
    rows = []
    for (sampler, how), taken in times.items():
        ratio = statistics.median(a / b for a, b in zip(taken, times[sampler, "bare"], strict=True))
        micro = 1e6 * statistics.median(taken) / pieces[sampler, how][1]
        rows.append([name, sampler, how, micro, ratio, first.get((sampler, how), "")])
    return rows


def effective(name: str, python: str, seeds: int) -> list[list[Any]]:
    """Rows: HMC as it is, compiled, and blackjax's: ESS, error, CPU seconds, ESS a CPU second and its ratio."""
    graph, init = graph_of(torch_energy(name), DIM[name], 64), es.Assignment({"x": torch.tensor(starts(name))})
    found: dict[str, list[tuple[float, float, float]]] = {"eager": [], "compiled": [], "blackjax": []}
    for seed in range(seeds + 1):
        for how in ("eager", "compiled"):
            solver = es.HMC(STEP[name], LEAPFROG, chains=1, burn_in=0, compiled=how == "compiled")
            generator = torch.Generator().manual_seed(seed)
            begun = time.process_time()
            draws = es.sample(graph, solver, num_samples=DRAWS, init=init, generator=generator).values["x"]
            seconds = time.process_time() - begun
            if seed:  # the first compiles, or loads
                found[how].append((*judged(name, draws.transpose(0, 1).numpy()), seconds))
        if seed:
            found["blackjax"].append(peer(name, python, seed))
    rates = {k: sum(f[0] for f in v) / sum(f[2] for f in v) for k, v in found.items()}
    return [
        [name, how, *np.mean(runs, 0).tolist(), rates[how], rates[how] / rates["blackjax"]]
        for how, runs in found.items()
    ]


def peer(name: str, python: str, seed: int) -> tuple[float, float, float]:
    """ESS, error and CPU seconds of one run of blackjax."""
    flags = {**os.environ, "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "draws.npy"
        command = [python, str(Path(__file__).with_name("hmc_peer.py")), name, str(seed), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=flags)
        draws = np.load(out)
    return (*judged(name, draws), json.loads(done.stdout.splitlines()[-1])["cpu"])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers", default="", help="interpreter of an environment with blackjax and jax")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("targets", nargs="*", default=["gauss100", "mlp16"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
    logging.disable(logging.WARNING)
    rows = [row for name in arguments.targets for row in overheads(name, arguments.rounds)]
    columns = ["target", "sampler", "how", "µs a gradient", "ratio to bare", "first call, s"]
    sys.stdout.write(table(columns, rows) + "\n")
    if arguments.peers:
        rows = [row for name in arguments.targets for row in effective(name, arguments.peers, arguments.seeds)]
        columns = ["target", "HMC", "ESS", "error", "CPU s", "ESS / CPU s", "ratio to blackjax"]
        sys.stdout.write("\n" + table(columns, rows) + "\n")


if __name__ == "__main__":
    main()
