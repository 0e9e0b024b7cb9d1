"""Posteriors of the weights of a Bayesian logistic regression, held against a long run of the no-U-turn sampler.

python benchmarks/posterior.py [--problems simulated breast_cancer red_wine] [--samplers sgld hmc mala] [--seeds 5]

Errors are of the mean, in posterior standard deviations, and of the variance, as a ratio less 1; the largest over all
weights. CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import ebmstruct as es
from ebmstruct.energies import Rows
from ebmstruct.inference.diagnostics import ess_bulk, rank_r_hat
from ebmstruct.learning.posterior import PosteriorOptions, WeightDraws, sample_posterior

BUDGETS: dict[str, dict[str, Any]] = {
    "sgld": {"draws": 8000, "thinning": 2},
    "langevin": {"draws": 8000, "thinning": 2},
    "underdamped_langevin": {"draws": 8000, "thinning": 2},
    "mala": {"draws": 8000, "thinning": 2},
    "hmc": {"draws": 4000},
    "nuts": {"draws": 2000},
}


class Logistic(es.EnergyModel):
    """E(x, y) = -y (weight . x + bias)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(features))
        self.bias = nn.Parameter(torch.zeros(()))

    def prepare(self, xs: object) -> Rows:
        """The rows as one tensor."""
        return Rows.of(xs)  # type: ignore[arg-type]

    def forward(self, inputs: Rows) -> es.FactorGraph:
        """One site of two states a row."""
        score = inputs.features @ self.weight + self.bias
        block = es.Variables.of_lengths("y", es.Discrete(2), torch.ones(len(inputs), dtype=torch.long))
        return es.FactorGraph(
            [block], [es.TableFactor(("y",), "score", torch.stack([torch.zeros_like(score), -score], 1))]
        )


class Labels:
    """Encodes labels 0 and 1."""

    def encode(self, ys: list[int], graph: es.FactorGraph, schema: object) -> es.Assignment:
        """The labels as states."""
        return es.Assignment({"y": torch.tensor(ys)})

    def cost(self, graph: es.FactorGraph, target: es.Assignment, schema: object) -> tuple[es.Factor, ...]:
        """None."""
        return ()


@dataclass(frozen=True)
class Pair:
    """A row and its label."""

    x: Tensor
    y: int


def simulated() -> tuple[Tensor, Tensor]:
    """500 rows of 10 standard normal features, weights standard normal."""
    generator = torch.Generator().manual_seed(0)
    x, weights = torch.randn(500, 10, generator=generator), torch.randn(10, generator=generator)
    return x, (torch.rand(500, generator=generator) < torch.sigmoid(x @ weights)).long()


def breast_cancer() -> tuple[Tensor, Tensor]:
    """569 rows of 30 features, standardised: scikit-learn's copy of the Wisconsin data (Street et al. 1993)."""
    from sklearn.datasets import load_breast_cancer

    found = load_breast_cancer()
    return standardised(torch.from_numpy(found.data)), torch.from_numpy(found.target).long()


def red_wine() -> tuple[Tensor, Tensor]:
    """1599 wines, 11 features, standardised; whether the quality is above 5 (Cortez et al. 2009)."""
    path = Path(os.environ["EBMSTRUCT_DATA"]) / "gen" / "wine_quality_red" / "winequality-red.csv"
    with path.open(encoding="utf-8") as file:
        rows = torch.tensor([[float(v) for v in row] for row in list(csv.reader(file))[1:]], dtype=torch.float64)
    return standardised(rows[:, :-1]), (rows[:, -1] > 5).long()


def standardised(x: Tensor) -> Tensor:
    """Columns of mean 0 and spread 1, float32."""
    return ((x - x.mean(0)) / x.std(0)).float()


PROBLEMS = {"simulated": simulated, "breast_cancer": breast_cancer, "red_wine": red_wine}


def reference(x: Tensor, y: Tensor, draws: int, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Means and standard deviations of weights and, last, bias, by four long chains of NUTS in double precision."""
    columns, labels = torch.cat([x.double(), torch.ones(len(x), 1, dtype=torch.float64)], 1), y.double()

    def energy(w: Tensor, offsets: object) -> Tensor:
        score = w @ columns.T
        return (nn.functional.softplus(score) - score * labels).sum(1) + w.square().sum(1) / (2 * spread**2)

    size = columns.shape[1]
    graph = es.FactorGraph(
        [es.Variables.of_lengths("w", es.Real(size), [1])], [es.BlockFactor(("w",), "posterior", energy)]
    )
    found = es.sample(
        graph,
        es.NUTS(chains=4, warm_up=500, draws=draws),
        num_samples=4 * draws,
        init=es.Assignment({"w": torch.zeros(1, size, dtype=torch.float64)}),
        generator=torch.Generator().manual_seed(99),
    )
    chains = found.by_chain("w")[:, :, 0]
    print(f"  reference: {4 * draws} draws, R-hat <= {float(rank_r_hat(chains).max()):.4f}, "
          f"effective draws >= {float(ess_bulk(chains).min()):.0f}")  # fmt: skip
    return found.values["w"][:, 0].mean(0), found.values["w"][:, 0].std(0)


def errors(draws: WeightDraws, mean: Tensor, spread: Tensor) -> tuple[float, float]:
    """The largest error of a mean, in standard deviations, and of a variance, as a share."""
    of_mean = ((draws.mean - mean) / spread).abs().max()
    return float(of_mean), float((draws.spread.square() / spread.square() - 1).abs().max())


def main() -> None:
    """Print a table for each problem."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--samplers", nargs="+", default=list(BUDGETS), choices=list(BUDGETS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--reference-draws", type=int, default=5000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for problem in given.problems:
        x, y = PROBLEMS[problem]()
        print(f"{problem}: {len(x)} rows, {x.shape[1]} features", flush=True)
        begun = time.process_time()
        mean, spread = reference(x, y, given.reference_draws)
        print(f"  reference took {time.process_time() - begun:.1f} CPU s", flush=True)
        pairs = [Pair(row, label) for row, label in zip(x, y.tolist(), strict=True)]
        for name in given.samplers:
            rows = []
            for seed in range(given.seeds):
                options = PosteriorOptions(name=name, seed=seed, **BUDGETS[name])
                model = Logistic(x.shape[1])
                found = sample_posterior(model, Labels(), None, pairs, es.NegativeLogLikelihood(), options)
                facts = found.facts
                rows.append(
                    (
                        *errors(found, mean, spread),
                        facts["least_effective_draws"],
                        facts["passes"],
                        facts["cpu_seconds"],
                    )
                )
            table = torch.tensor(rows, dtype=torch.float64)
            worst, means = table.amax(0), table.mean(0)
            print(
                f"  {name:<22} mean error {means[0]:.3f} (worst seed {worst[0]:.3f}), variance error "
                f"{100 * means[1]:.1f} % ({100 * worst[1]:.1f} %), effective draws {table[:, 2].min():.0f}, "
                f"passes {means[3]:.0f}, {means[4]:.1f} CPU s",
                flush=True,
            )


if __name__ == "__main__":
    main()
