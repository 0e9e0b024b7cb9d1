"""Latent sub-types against the twin without them: parity of handwritten digits, alone and in sequences.

usage: python -m benchmarks.latent_structure [--seeds 5]

The images are scikit-learn's (1,797 of 8 x 8, 43 writers). A model sees them and must tell odd from even; nobody tells
it which digits there are. With latent sites every label has five sub-types with energies of their own; the twin has one,
so that it is a linear classifier, or a linear chain. In sequences of eight, four in five digits follow from the one before
by a table of which parities alone tell little, so that what helps is to know the digit: transitions are between sub-types.

Latent sites are summed out (hidden CRF: Quattoni et al. 2007; in chains, Morency et al. 2007) or minimised over (latent
structural SVM: Yu and Joachims 2009). First weights are random, or, in the rows "from clusters", those of five k-means
clusters a label. Every row has the same features, optimiser, steps and splits; a third of the images is kept for the test,
another third for each seed. Purity is the share of test images whose digit is the most frequent one of its sub-type; beside
it, of the k-means clusters with the true label given.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn

import ebmstruct as es
from benchmarks.timing import table

LABELS = 2
NEXT = (2, 6, 5, 1, 7, 4, 8, 9, 3, 0)
"""The digit that mostly follows each."""
SURE = 0.8
"""How often it does; else any digit follows."""
LENGTH = 8
SHARPNESS = 3.0
"""Of the energies that clusters give: about the inverse variance of a pixel within a cluster."""
SPREAD = 0.3
"""Of the first weights; sub-types that begin alike stay alike."""


class SubTypes(es.EnergyModel):
    """Sub-types h of labels y: E = sum over sites of w_h . x + b_h, and of transitions between sub-types of neighbours.

    Sub-type h belongs to label h // ``each``; with ``each`` 1 the label is the sub-type, and there is no latent block.
    """

    def __init__(self, features: int, each: int, *, chain: bool, spread: float) -> None:
        super().__init__()
        self.each = each
        states = LABELS * each
        self.weight, self.bias = nn.Parameter(spread * torch.randn(features, states)), nn.Parameter(torch.zeros(states))
        self.transition = nn.Parameter(torch.zeros(states, states)) if chain else None
        owner = torch.arange(states) // each
        self.register_buffer("tie", torch.where(owner[:, None] == torch.arange(LABELS), 0.0, torch.inf))

    def forward(self, inputs: Sequence[Tensor]) -> es.FactorGraph:
        """One instance a sequence of images (n, features)."""
        x = torch.cat(list(inputs))
        lengths = [len(own) for own in inputs]
        name = "y" if self.each == 1 else "h"
        blocks = [es.Variables.of_lengths(name, es.Discrete(LABELS * self.each), lengths)]
        factors: list[es.Factor] = [es.TableFactor((name,), "image", x @ self.weight + self.bias)]
        if self.transition is not None:
            factors.append(es.ChainFactor((name,), "next", self.transition))
        if self.each > 1:
            blocks.append(es.Variables.of_lengths("y", es.Discrete(LABELS), lengths))
            sites = torch.arange(x.shape[0])
            factors.append(es.TableFactor(("h", "y"), "of", self.tie, index=torch.stack([sites, sites])))
        return es.FactorGraph(blocks, factors)


@dataclass(frozen=True)
class Sequenced:
    """x: (n, 64) images.  y: (n,) parities.  digits: (n,) which nobody tells the model."""

    x: Tensor
    y: Tensor
    digits: Tensor


class Parity:
    """Targets and costs for ``fit``: one for each wrong label."""

    def encode(self, ys: Sequence[Tensor], graph: es.FactorGraph, schema: Any) -> es.Assignment:
        """The labels; sub-types stay unknown."""
        return es.Assignment({"y": torch.cat(list(ys))})

    def cost(self, graph: es.FactorGraph, target: es.Assignment, schema: Any) -> list[es.Factor]:
        """One for each wrong label."""
        return [es.TableFactor(("y",), "cost", 1.0 - nn.functional.one_hot(target["y"], LABELS).float())]


def examples(seed: int, *, chain: bool) -> tuple[list[Sequenced], list[Sequenced]]:
    """Training and test sequences, of images that the other part does not have."""
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    x, digits = torch.from_numpy(images).float() / 16.0, torch.from_numpy(digits).long()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    cut = len(x) // 3
    out = []
    for rows in (order[cut:], order[:cut]):
        own_x, own = x[rows], digits[rows]
        groups = _sequences(own, generator) if chain else [torch.tensor([i]) for i in range(len(own))]
        out.append([Sequenced(own_x[g], own[g] % 2, own[g]) for g in groups])
    return out[0], out[1]


def _sequences(digits: Tensor, generator: torch.Generator) -> list[Tensor]:
    """As many sequences as the images fill three times; each image is drawn anew from those of its digit."""
    pools = [(digits == d).nonzero()[:, 0] for d in range(10)]
    out = []
    for _ in range(3 * len(digits) // LENGTH):
        d = int(torch.randint(10, (), generator=generator))
        rows = []
        for _ in range(LENGTH):
            rows.append(int(pools[d][int(torch.randint(len(pools[d]), (), generator=generator))]))
            follows = float(torch.rand((), generator=generator)) < SURE
            d = NEXT[d] if follows else int(torch.randint(10, (), generator=generator))
        out.append(torch.tensor(rows))
    return out


@torch.no_grad()
def start_from(model: SubTypes, centres: Tensor) -> None:
    """Give each sub-type the energy SHARPNESS / 2 * |x - its cluster's centre|^2, up to a constant."""
    model.weight.copy_(-SHARPNESS * centres.T)
    model.bias.copy_(0.5 * SHARPNESS * centres.square().sum(1))


def run(
    seed: int, each: int, loss: es.Loss, *, chain: bool, epochs: int, clusters: bool = False
) -> tuple[float, float, float]:
    """Test accuracy of labels, purity of sub-types and CPU seconds of training."""
    train, test = examples(seed, chain=chain)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SubTypes(train[0].x.shape[1], each, chain=chain, spread=SPREAD)
    begun = time.process_time()
    if clusters:
        start_from(model, centres_of(_flat(train), seed))
    batch = 8 if chain else 64
    options = es.TrainingOptions(epochs=epochs, batch_size=batch, lr=0.02, schedule="linear", seed=seed)
    es.fit(model, Parity(), None, train, loss, options)
    spent = time.process_time() - begun
    graph = model([s.x for s in test])
    summed = isinstance(loss, es.NegativeLogLikelihood) and each > 1
    y = es.minimize(graph, sum_out=("h",) if summed else ()).assignment["y"]
    right = float((y == torch.cat([s.y for s in test])).double().mean())
    if each == 1:
        return right, math.nan, spent
    return right, purity(es.minimize(graph).assignment["h"], torch.cat([s.digits for s in test])), spent


def purity(groups: Tensor, digits: Tensor) -> float:
    """The share of images whose digit is the most frequent one of their group."""
    return sum(int(digits[groups == k].bincount().max()) for k in groups.unique()) / len(groups)


def purity_of_clusters(seed: int, *, chain: bool) -> float:
    """The same of five k-means clusters a label, found in the training images and given the test images' true labels."""
    train, test = (_flat(part) for part in examples(seed, chain=chain))
    far = torch.cdist(test.x, centres_of(train, seed))
    other = torch.arange(LABELS).repeat_interleave(5) != test.y[:, None]
    return purity(far.masked_fill(other, torch.inf).argmin(1), test.digits)


def centres_of(train: Sequenced, seed: int) -> Tensor:
    """(10, features) the centres of five k-means clusters of each label's images."""
    from sklearn.cluster import KMeans

    parts = [KMeans(5, n_init=10, random_state=seed).fit(train.x[train.y == label].numpy()) for label in range(LABELS)]
    return torch.cat([torch.from_numpy(part.cluster_centers_).float() for part in parts])


def _flat(parts: list[Sequenced]) -> Sequenced:
    return Sequenced(*(torch.cat([getattr(s, name) for s in parts]) for name in ("x", "y", "digits")))


def main() -> None:
    """Train every row for every seed and print means, paired gains and purities."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    kinds: dict[str, es.Loss] = {"likelihood": es.NegativeLogLikelihood(), "hinge": es.StructuredHinge()}
    rows = []
    for chain, epochs in ((False, 40), (True, 30)):
        clusters = 100 * sum(purity_of_clusters(s, chain=chain) for s in range(arguments.seeds)) / arguments.seeds
        for name, loss in kinds.items():
            plain = [run(s, 1, loss, chain=chain, epochs=epochs) for s in range(arguments.seeds)]
            for started in (False, True):
                rich = [run(s, 5, loss, chain=chain, epochs=epochs, clusters=started) for s in range(arguments.seeds)]
                what = ["sequences" if chain else "images", name, "clusters" if started else "random"]
                rows.append([*what, *compared(plain, rich), f"{clusters:.1f}"])
    heads = ["data", "loss", "first weights", "twin", "latent", "gain ± s.e.", "purity", "CPU s twin", "CPU s latent"]
    print(table([*heads, "purity of k-means"], rows))


def compared(plain: list[tuple[float, float, float]], rich: list[tuple[float, float, float]]) -> list[str]:
    """Means of both, in per cent, the paired gain with its standard error, purity and CPU seconds."""
    gains = torch.tensor([100 * (b[0] - a[0]) for a, b in zip(plain, rich, strict=True)])
    error = float(gains.std() / math.sqrt(len(gains))) if len(gains) > 1 else math.nan
    (twin, _, slow), (latent, pure, slower) = (torch.tensor(part).mean(0).tolist() for part in (plain, rich))
    gain = f"{float(gains.mean()):+.2f} ± {error:.2f}"
    return [f"{100 * twin:.2f}", f"{100 * latent:.2f}", gain, f"{100 * pure:.1f}", f"{slow:.1f}", f"{slower:.1f}"]


if __name__ == "__main__":
    main()
