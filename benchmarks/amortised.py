"""Amortised answers against gradient inference on Bibtex label sets: latency, F1, and what the certificate is worth.

usage: EBMSTRUCT_DATA=FOLDER python -m benchmarks.amortised [--seeds 5] [--timed 300]

FOLDER/struct/bibtex holds the ARFF files. For each seed: an MLP is trained by cross-entropy; its scores, held fixed, become
the local part of a structured prediction energy network (Belanger and McCallum 2016), whose global part, a softplus layer
over the labels, is trained by noise-contrastive ranking against draws from the MLP (``Seal`` with weight 0). A constant is
added to every score, tuned on a held-out piece of the training part as a threshold would be, and so is the number of steps
of gradient inference (``MirrorDescent``, argmax rounding): the fewest that reach the best F1. Then a small network, which
reads the scores and begins at the energy made linear, is trained to minimise the finished energy (``Amortisation``), and
the solver ``amortised`` answers with it; its fallback is the same gradient inference; its tolerance and its cheap steps
are chosen on the held-out piece. Latencies are CPU milliseconds an example from features to certified labels, model
included, fallbacks counted: means over the first ``--timed`` test examples. A bare torch loop of gradient steps, which
neither adapts its steps nor certifies anything, stands beside them.
"""

from __future__ import annotations

import argparse
import copy
import functools
import gzip
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn

import ebmstruct as es
from benchmarks.timing import table

WORDS, LABELS = 1836, 159
STEPS = (5, 10, 20, 40, 80, 160)
BIASES = tuple(float(i) for i in range(9))
TOLERANCES = (0.0, 1e-3, 1e-2, 3e-2, 1e-1, math.inf)
CHOICES = (1e-1, 3e-2, 1e-2, 3e-3)
"""Tolerances to choose from: the largest that loses at most 0.1 points of F1 on the held-out piece."""
REFINE = (0, 1, 2, 3)
"""Cheap steps to choose from: at that tolerance the fewest that leave it at most one held-out example in 200."""
TEMPERATURE = 1.0
"""Of the network's training. Scores are log-odds, of unit temperature; towards 0 only labels that are nearly even teach
it, and memorised training inputs have none."""
TURN = 20
"""Batches that one piece of work answers before the next takes its turn."""


def read_part(path: Path) -> tuple[Tensor, Tensor]:
    """(N, 1836) features and (N, 159) labels of a sparse ARFF file of zeros and ones."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().splitlines()
    width = sum(line.startswith("@attribute") for line in lines)
    rows = [line.strip("{}").split(",") for line in lines if line.startswith("{")]
    out = torch.zeros(len(rows), width)
    for i, row in enumerate(rows):
        out[i, [int(entry.split()[0]) for entry in row if entry.strip()]] = 1.0
    return out[:, :-LABELS].contiguous(), out[:, -LABELS:].contiguous()


def example_f1(labels: Tensor, truth: Tensor) -> Tensor:
    """(N,) F1 of each example in points; 100 where both sets are empty."""
    total = labels.sum(1) + truth.sum(1)
    return 100 * torch.where(total > 0, 2 * (labels * truth).sum(1) / total.clamp(min=1), 1.0)


class Rows:
    """Features as prepared inputs."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def __len__(self) -> int:
        return self.x.shape[0]

    def select(self, positions: Sequence[int]) -> Rows:
        """Some rows."""
        return Rows(self.x[torch.as_tensor(positions)])


class LabelScores(nn.Module):
    """A perceptron with one hidden layer: log-odds of labels. Outside training it reads only the words that are there."""

    def __init__(self, hidden: int = 512) -> None:
        super().__init__()
        first = nn.Linear(WORDS, hidden)
        self.words = nn.Parameter(first.weight.detach().T.contiguous())
        self.bias = nn.Parameter(first.bias.detach())
        self.rest = nn.Sequential(nn.ReLU(), nn.Dropout(0.6), nn.Linear(hidden, LABELS))

    def forward(self, inputs: Rows) -> Tensor:
        """(B, 159) log-odds."""
        if self.training:
            first = nn.functional.dropout(inputs.x, 0.2) @ self.words
        else:
            rows, words = inputs.x.nonzero(as_tuple=True)
            offsets = torch.searchsorted(rows, torch.arange(len(inputs)))
            first = nn.functional.embedding_bag(words, self.words, offsets, mode="sum")
        out: Tensor = self.rest(first + self.bias)
        return out


@functools.cache
def label_block(count: int) -> es.Variables:
    """The labels of so many examples; blocks never change, so that batches of one size share theirs."""
    return es.Variables.of_lengths("y", es.Discrete(2), [LABELS] * count)


class LabelEnergy(es.EnergyModel):
    """E(x, y) = -(scores(x) + bias) y + v softplus(W y + b); only W, b and v learn."""

    def __init__(self, scores: LabelScores, hidden: int = 32) -> None:
        super().__init__()
        self.scores = copy.deepcopy(scores).requires_grad_(False)
        self.inner = nn.Linear(LABELS, hidden)
        self.outer = nn.Parameter(0.3 * torch.randn(hidden))
        self.bias = 0.0

    def prepare(self, xs: Sequence[Tensor]) -> Rows:
        return Rows(torch.stack(list(xs)))

    def forward(self, inputs: Rows) -> es.FactorGraph:
        scores = self.scores(inputs) + self.bias
        return es.FactorGraph(
            [label_block(len(inputs))], [es.BlockFactor(("y",), "spen", self.of_weights, (scores,), relaxed=True)]
        )

    def of_weights(self, weights: Tensor, scores: Tensor, offsets: object) -> Tensor:
        """(B,) energies of weights over the two states of each label."""
        on = weights[:, 1].reshape(scores.shape)
        return nn.functional.softplus(self.inner(on)) @ self.outer - (scores * on).sum(1)


class Correction(nn.Module):
    """Log-odds of labels: the scores, less what the global part charges the first label, and a hidden layer."""

    def __init__(self, energy: LabelEnergy, hidden: int = 128) -> None:
        super().__init__()
        with torch.no_grad():
            charge = (energy.outer * energy.inner.bias.sigmoid()) @ energy.inner.weight
        self.charge = nn.Parameter(charge)
        self.first, self.last = nn.Linear(LABELS, hidden), nn.Linear(hidden, LABELS)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, scores: Tensor) -> Tensor:
        """(B, 159) log-odds."""
        own = scores - self.charge
        out: Tensor = own + self.last(self.first(own.sigmoid()).relu())
        return out


@dataclass(frozen=True)
class Labelled:
    """One training example."""

    x: Tensor
    y: Tensor


class Targets:
    """What the training loop asks of a task."""

    def encode(self, ys: Sequence[Any], graph: es.FactorGraph, schema: Any) -> es.Assignment:
        """The labels as states."""
        return es.Assignment({"y": torch.stack(list(ys)).reshape(-1).long()})

    def cost(self, graph: es.FactorGraph, target: es.Assignment, schema: Any) -> Sequence[es.Factor]:
        """None is needed."""
        return ()


@dataclass(frozen=True)
class Split:
    """Features and labels of the parts."""

    train: tuple[Tensor, Tensor]
    held_out: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]

    @property
    def examples(self) -> list[Labelled]:
        """The training part, one by one."""
        return [Labelled(x, y) for x, y in zip(*self.train, strict=True)]


def labels_of(result: es.Result) -> Tensor:
    """(B, 159) zeros and ones."""
    return result.assignment["y"].reshape(-1, LABELS).float()


def descent(steps: int) -> es.MirrorDescent:
    """Gradient inference."""
    return es.MirrorDescent(rounding="argmax", max_iterations=steps)


@torch.no_grad()
def answers(model: es.EnergyModel, x: Tensor, solver: es.Solver) -> es.Result:
    """Certified answers for a whole part."""
    return es.minimize(model(Rows(x)), solver)


def trained_scores(split: Split, epochs: int = 25) -> LabelScores:
    """The MLP, by cross-entropy."""
    scores = LabelScores()
    optimizer = torch.optim.AdamW(scores.parameters(), lr=1e-3)
    x, y = split.train
    for _ in range(epochs):
        scores.train()
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            loss = nn.functional.binary_cross_entropy_with_logits(scores(Rows(x[batch])), y[batch], reduction="none")
            loss.sum(1).mean().backward()
            optimizer.step()
    return scores.eval()


def tuned(model: LabelEnergy, split: Split, steps: int, biases: Sequence[float] = BIASES) -> tuple[float, float]:
    """The best F1 on the held-out piece, and the bias that gives it, which the model keeps."""
    found = []
    for model.bias in biases:
        f1 = float(example_f1(labels_of(answers(model, split.held_out[0], descent(steps))), split.held_out[1]).mean())
        found.append((f1, -model.bias))
    best = max(found)
    model.bias = -best[1]
    return best[0], model.bias


def trained_energy(split: Split, scores: LabelScores, seed: int, epochs: int = 5) -> LabelEnergy:
    """The energy of the epoch that is best on the held-out piece."""
    energy = LabelEnergy(scores)
    model = es.Amortised(energy, copy.deepcopy(scores).requires_grad_(False))
    best, kept = -1.0, copy.deepcopy(energy)
    for epoch in range(epochs):
        options = es.TrainingOptions(batch_size=64, lr=2e-3, weight_decay=1e-2, epochs=1, seed=100 * seed + epoch)
        es.fit(model, Targets(), None, split.examples, es.Seal(samples=20, weight=0.0), options)
        f1, _ = tuned(energy, split, 20)
        if f1 > best and epoch:  # after one epoch labels hardly speak to each other yet
            best, kept = f1, copy.deepcopy(energy)
    tuned(kept.eval(), split, 40, [kept.bias + 0.25 * i for i in range(-2, 3)])
    return kept


def fewest_steps(energy: LabelEnergy, split: Split) -> int:
    """The fewest steps of gradient inference that reach its best F1 on the held-out piece."""
    x, y = split.held_out
    scored = [(float(example_f1(labels_of(answers(energy, x, descent(s))), y).mean()), -s) for s in STEPS]
    return -max(scored)[1]


def amortised(energy: LabelEnergy, split: Split, seed: int, epochs: int = 30) -> es.Amortised:
    """The energy joined to a network that was trained to minimise it on the training inputs."""
    model = es.Amortised(energy, Correction(energy), reads="spen", frozen=True)
    if epochs:
        options = es.TrainingOptions(
            batch_size=64, lr=3e-3, optimizer="adam", schedule="cosine", epochs=epochs, seed=seed
        )
        es.fit(model, Targets(), None, split.examples, es.Amortisation(temperature=TEMPERATURE), options)
    return model.eval()


def certified(model: es.Amortised, split: Split, gradient: es.Solver) -> es.AmortisedInference:
    """The solver of the largest tolerance, and the fewest cheap steps, that holds F1 on the held-out piece."""
    x, y = split.held_out
    wanted = float(_f1(model.energy, x, y, gradient).mean()) - 0.1
    for tolerance in CHOICES:
        for refine in REFINE:
            solver = es.AmortisedInference(tolerance=tolerance, refine=refine, fallback=gradient)
            result = answers(model, x, solver)
            few = float(result.stats["fell_back"].double().mean()) <= 0.005
            if few and float(example_f1(labels_of(result), y).mean()) >= wanted:
                return solver
    return solver


def bare_descent(energy: LabelEnergy, x: Tensor, steps: int) -> Tensor:
    """(B, 159) labels by plain gradient steps on log-odds: torch alone, steps not adapted, nothing certified."""
    inputs = Rows(x)
    scores = energy.scores(inputs) + energy.bias
    odds = torch.zeros_like(scores)
    for _ in range(steps):
        with torch.enable_grad():
            on = odds.sigmoid().requires_grad_(True)
            value = (nn.functional.softplus(energy.inner(on)) @ energy.outer - (scores * on).sum(1)).sum()
            (gradient,) = torch.autograd.grad(value, [on])
        odds = odds - 0.3 * gradient
    return (odds > 0).float()


def latency(work: Sequence[Callable[[Tensor], Any]], x: Tensor, batch: int) -> list[float]:
    """CPU milliseconds an example of each piece of work; they take turns, some batches at a time, on the same inputs."""
    spent = [0.0] * len(work)
    parts = x.split(batch)
    for begin in range(0, len(parts), TURN):
        for i, piece in enumerate(work):
            piece(parts[begin])
            start = time.process_time_ns()
            for part in parts[begin : begin + TURN]:
                piece(part)
            spent[i] += (time.process_time_ns() - start) / 1e6
    return [s / len(x) for s in spent]


def one_seed(seed: int, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], timed: int) -> dict[str, float]:
    """Everything for one seed: numbers by name."""
    torch.manual_seed(seed)
    order = torch.randperm(len(train[0]), generator=torch.Generator().manual_seed(seed))
    held_out, rest = order[: len(order) // 10], order[len(order) // 10 :]
    split = Split((train[0][rest], train[1][rest]), (train[0][held_out], train[1][held_out]), test)
    scores = trained_scores(split)
    energy = trained_energy(split, scores, seed)
    steps = fewest_steps(energy, split)
    untrained, model = amortised(energy, split, seed, epochs=0), amortised(energy, split, seed)
    plain, gradient = LabelEnergy(scores), descent(steps)
    with torch.no_grad():
        plain.outer.zero_()
    tuned(plain.eval(), split, 5, [0.25 * i for i in range(4, 15)])
    quick = certified(model, split, gradient)
    alone = es.AmortisedInference(tolerance=math.inf)
    x, y = split.test
    base = example_f1(labels_of(answers(energy, x, gradient)), y)
    found = {
        "steps": float(steps),
        "bias": energy.bias,
        "tolerance": quick.tolerance,
        "refine": float(quick.refine),
        "mlp_f1": float(_f1(plain, x, y, descent(5)).mean()),
    }
    found["bare_f1"] = float(example_f1(bare_descent(energy, x, steps), y).mean())
    found |= {"gradient_f1": float(base.mean()), "converged_f1": float(_f1(energy, x, y, descent(2000)).mean())}
    for name, joined, solver in (("amortised", model, quick), ("alone", model, alone), ("untrained", untrained, quick)):
        result = answers(joined, x, solver)
        f1 = example_f1(labels_of(result), y)
        found[f"{name}_f1"], found[f"{name}_difference"] = float(f1.mean()), float((f1 - base).mean())
        found[f"{name}_fell_back"] = 100 * float(result.stats["fell_back"].double().mean())
    with torch.no_grad():
        work = [
            lambda part: es.minimize(energy(Rows(part)), gradient),
            lambda part: es.minimize(energy(Rows(part)), descent(2000)),
            lambda part: es.minimize(model(Rows(part)), quick),
            lambda part: model(Rows(part)),
            lambda part: bare_descent(energy, part, steps),
        ]
        for batch in (1, 64):
            names = ("gradient", "converged", "amortised", "network", "bare")
            found |= {f"{n}_ms_{batch}": ms for n, ms in zip(names, latency(work, x[:timed], batch), strict=True)}
            found[f"ratio_{batch}"] = found[f"gradient_ms_{batch}"] / found[f"amortised_ms_{batch}"]
    if seed == 0:
        with torch.no_grad():
            calibration = es.gap_calibration(model(Rows(x)), es.AmortisedInference(fallback=descent(2000)))
        sys.stdout.write(
            f"gaps of the network's answers against converged descent, seed 0\n\n{calibration.table(TOLERANCES)}\n\n"
        )
    return found


def _f1(model: es.EnergyModel, x: Tensor, y: Tensor, solver: es.Solver) -> Tensor:
    return example_f1(labels_of(answers(model, x, solver)), y)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--timed", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(os.environ.get("EBMSTRUCT_DATA", "")) / "struct" / "bibtex"
    if not (folder / "bibtex-train.arff.gz").exists():
        sys.exit(f"{folder} does not hold bibtex-train.arff.gz; set EBMSTRUCT_DATA to the folder of the data")
    train, test = (read_part(folder / f"bibtex-{part}.arff.gz") for part in ("train", "test"))
    rows = []
    for seed in range(options.seeds):
        rows.append(one_seed(seed, train, test, options.timed))
        sys.stdout.write(f"seed {seed}: " + ", ".join(f"{k} {v:.3f}" for k, v in rows[-1].items()) + "\n")
        sys.stdout.flush()
    lines = []
    for name in rows[0]:
        values = [row[name] for row in rows]
        error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        lines.append([name, f"{statistics.mean(values):.3f}", f"{error:.3f}"])
    sys.stdout.write("\n" + table(["figure", "mean", "standard error"], lines) + "\n")


if __name__ == "__main__":
    main()
