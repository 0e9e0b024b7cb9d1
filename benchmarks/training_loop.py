"""CPU time a step of ``es.fit`` beside the same steps written by hand, and memory over epochs of ragged graphs.

``python -m benchmarks.training_loop [EPOCHS]``. The model is as small as can be (a table and a chain of two labels, words
of 1 to 40 letters), so that what the loop itself costs shows. By hand: select, forward, targets, loss, backward, norm of
the gradient, step of the optimiser.
"""

from __future__ import annotations

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ebmstruct as es
from benchmarks.timing import table

LETTERS, STEPS, BATCH = 26, 200, 16


class Tagger(es.EnergyModel):
    """A table and a chain."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(LETTERS, 2))
        self.transition = nn.Parameter(torch.zeros(2, 2))

    def forward(self, inputs: Any) -> es.FactorGraph:
        """The graph of a batch of words."""
        block = es.Variables.of_lengths("y", es.Discrete(2), [len(x) for x in inputs])
        letters = torch.tensor([k for x in inputs for k in x])
        return es.FactorGraph(
            [block],
            [es.TableFactor(("y",), "letter", self.table[letters]), es.ChainFactor(("y",), "pair", self.transition)],
        )


class Teacher:
    """Parities as labels, without a cost."""

    def encode(self, ys: Sequence[Any], graph: es.FactorGraph, schema: Any) -> es.Assignment:
        """Labels as one tensor."""
        return es.Assignment({"y": torch.tensor([k for y in ys for k in y])})

    def cost(self, graph: es.FactorGraph, target: es.Assignment, schema: Any) -> Sequence[es.Factor]:
        """Nothing."""
        return []


class Pair:
    """A word and its labels."""

    def __init__(self, x: tuple[int, ...]) -> None:
        self.x, self.y = x, tuple(k % 2 for k in x)


def words(count: int) -> list[Pair]:
    """Words of 1 to 40 letters."""
    source = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 41, (count,), generator=source).tolist()
    return [Pair(tuple(torch.randint(LETTERS, (n,), generator=source).tolist())) for n in lengths]


def by_hand(train: list[Pair], loss: es.Loss) -> float:
    """CPU seconds a step of the loop written out."""
    torch.set_num_threads(1)
    model, teacher = Tagger(), Teacher()
    inputs = model.prepare([p.x for p in train])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, foreach=True)
    begin = time.process_time()
    for step in range(STEPS):
        chosen = range(step * BATCH, (step + 1) * BATCH)
        optimizer.zero_grad(set_to_none=True)
        graph = model(inputs.select(chosen))
        target = teacher.encode([train[i].y for i in chosen], graph, None)
        value = loss(graph, target).value.sum()
        (value / BATCH).backward()
        float(torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm())
        float(value.detach())
        optimizer.step()
    return (time.process_time() - begin) / STEPS


def by_fit(train: list[Pair], loss: es.Loss, *, watched: bool = False, **more: Any) -> float:
    """CPU seconds a step of ``es.fit``; watched: with an event listener, a step trace and checkpoints."""
    options = es.TrainingOptions(epochs=1, batch_size=BATCH, lr=0.01, trace_steps=1 if watched else None, **more)
    with tempfile.TemporaryDirectory() as place:
        paths: dict[str, Any] = {"checkpoint": Path(place) / "c", "traces": Path(place)} if watched else {}
        model, begin = Tagger(), time.process_time()
        es.fit(
            model, Teacher(), None, train, loss, options, on_event=(lambda event: None) if watched else None, **paths
        )
        return (time.process_time() - begin) / STEPS


def memory(train: list[Pair], loss: es.Loss, epochs: int) -> list[float]:
    """MiB in use after each tenth of the epochs, with everything that a training may keep."""
    found: list[float] = []
    every = max(1, epochs // 10)

    def on_event(event: es.learning.TrainingEvent) -> None:
        if event.step == event.steps and event.epoch % every == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            found.append(pages * resource.getpagesize() / 2**20)

    options = es.TrainingOptions(epochs=epochs, batch_size=BATCH, lr=0.01, ema=0.99, trace_steps=1)
    with tempfile.TemporaryDirectory() as place:
        paths: dict[str, Any] = {"checkpoint": Path(place) / "c", "traces": Path(place)}
        es.fit(Tagger(), Teacher(), None, train, loss, options, on_event=on_event, **paths)
    return found


def main(arguments: Sequence[str]) -> None:
    """Print medians of seven rounds, and the memory."""
    train = words(STEPS * BATCH)
    for loss in (es.PseudoLikelihood(), es.NegativeLogLikelihood()):
        ways = {
            "by hand": lambda loss=loss: by_hand(train, loss),
            "es.fit": lambda loss=loss: by_fit(train, loss),
            "es.fit, watched at every step": lambda loss=loss: by_fit(train, loss, watched=True),
            "es.fit, ema": lambda loss=loss: by_fit(train, loss, ema=0.99),
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(7):
            for name, way in ways.items():
                times[name].append(way() * 1e3)
        hand = statistics.median(times["by hand"])
        rows = [[name, m := statistics.median(t), m - hand, m / hand] for name, t in times.items()]
        print(table([loss.name, "CPU ms a step", "more than by hand", "ratio"], rows))
        print()
    epochs = int(arguments[0]) if arguments else 50
    used = memory(train[: 20 * BATCH], es.NegativeLogLikelihood(), epochs)
    print(f"memory in MiB over {epochs} epochs: {', '.join(f'{m:.1f}' for m in used)}")


if __name__ == "__main__":
    main(sys.argv[1:])
