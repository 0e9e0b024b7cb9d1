"""Restricted Boltzmann machines on binarised digits: test log likelihood, and annealed importance sampling against log Z.

usage: python -m benchmarks.boltzmann [--hidden 16 128] [--seeds 5] [--out FILE.jsonl]

The digits of scikit-learn at a threshold of 7: 1437 to train on, 360 to test, by the permutation of seed 0. Training is
``es.fit`` with persistent contrastive divergence on one thread, one setting for all seeds, with no look at the test digits.
With 16 hidden units log Z is exact (all states of the hidden units are listed in float64); with 128 it is the
mean of ``annealed_importance_sampling`` over 4 runs, beside its stated error. CPU seconds are those of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor

import ebmstruct as es

EPOCHS, BATCH, CHAINS, RATE = {16: 150, 128: 100}, 60, 3, {16: 0.5, 128: 0.3}
RUNS = 4
"""Of annealed importance sampling."""


@dataclass(frozen=True)
class Digit:
    """A binarised picture (64,); nothing is given."""

    y: Tensor
    x: None = None


class Pictures:
    """What training asks of a task: the visible units of each picture."""

    def encode(self, ys: Any, graph: es.FactorGraph, schema: Any) -> es.Assignment:
        """All visible units are known, no hidden one."""
        return es.Assignment({"v": torch.stack(list(ys)).reshape(-1)})

    def cost(self, graph: es.FactorGraph, target: es.Assignment, schema: Any) -> list[es.Factor]:
        """No output costs more than another."""
        return []


def digits() -> tuple[Tensor, Tensor]:
    """(1437, 64) and (360, 64) long."""
    from sklearn.datasets import load_digits

    x = (load_digits().data > 7).astype(np.int64)
    order = np.random.default_rng(0).permutation(len(x))
    return torch.from_numpy(x[order[:1437]]), torch.from_numpy(x[order[1437:]])


def trained(train: Tensor, hidden: int, seed: int) -> tuple[es.BoltzmannMachine, float]:
    """A machine, and the CPU seconds that its training took."""
    torch.manual_seed(seed)
    model = es.BoltzmannMachine(64, hidden)
    epochs = EPOCHS[hidden]
    loss = es.PersistentContrastiveDivergence(chains=CHAINS, size=CHAINS * BATCH, reinitialise=0.0)
    options = es.TrainingOptions(
        epochs=epochs, batch_size=BATCH, optimizer="sgd", lr=RATE[hidden], schedule="linear", average=epochs // 2,
        keep_best=False, checkpoint_s=None, seed=seed,
    )  # fmt: skip
    began = time.process_time()
    es.fit(model, Pictures(), None, [Digit(row) for row in train], loss, options)
    return model, time.process_time() - began


def exact_log_z(model: es.BoltzmannMachine) -> float:
    """By listing the states of the hidden units."""
    visible, hidden = (t.detach().double() for t in model.biases())
    weight = model.weight.detach().double()[:, 0]
    states = (torch.arange(2**model.hidden)[:, None] >> torch.arange(model.hidden)) & 1
    h = states.double()
    return float((h @ hidden + torch.nn.functional.softplus(h @ weight.T + visible[:, 0]).sum(1)).logsumexp(0))


def log_likelihood(model: es.BoltzmannMachine, rows: Tensor, log_z: float) -> float:
    """The mean of (n, 64) rows, hidden units summed out by the engine."""
    graph = model.graph([None] * len(rows)).condition(es.Assignment({"v": rows.reshape(-1)}))
    with torch.no_grad():
        found = es.marginals(graph, es.BlockGibbs())
    assert found.exact
    return float(found.log_partition.mean()) - log_z


def measured(train: Tensor, test: Tensor, hidden: int, seed: int) -> dict[str, float]:
    """All figures of one training."""
    model, seconds = trained(train, hidden, seed)
    began = time.process_time()
    solver = es.AnnealedImportanceSampling(particles=200, conditional_ess=0.9999, temperatures=2000)
    runs = [
        es.bound_log_partition(model.graph([None]), solver, generator=torch.Generator().manual_seed(run))
        for run in range(RUNS)
    ]
    estimates = [float(found.log_partition) for found in runs]
    ais = (time.process_time() - began) / RUNS
    log_z = exact_log_z(model) if hidden <= 20 else statistics.fmean(estimates)
    return {
        "hidden": hidden, "seed": seed, "train_cpu_s": seconds, "ll_train": log_likelihood(model, train, log_z),
        "ll_test": log_likelihood(model, test, log_z), "log_z": log_z, "ais_cpu_s": ais,
        "ais_off": max(abs(e - log_z) for e in estimates),
        "ais_stated": max(float(found.stats["log_partition_error"]) for found in runs),
        "ais_inside": sum(
            bool(found.stats["log_partition_interval"][0] <= log_z <= found.stats["log_partition_interval"][1])
            for found in runs
        ),
    }  # fmt: skip


def main() -> None:
    """Measure, and print a row a training and the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    train, test = digits()
    for hidden in given.hidden:
        rows = []
        for seed in range(given.seeds):
            rows.append(measured(train, test, hidden, seed))
            print(json.dumps({k: round(v, 3) for k, v in rows[-1].items()}), flush=True)
            if given.out is not None:
                with given.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
        means = {k: round(statistics.fmean(r[k] for r in rows), 3) for k in rows[0] if k != "seed"}
        print("mean", json.dumps(means), flush=True)


if __name__ == "__main__":
    main()
