"""What the engine adds to the chain kernel: building the graph, choosing, certifying; one thread, float32.

``marginals`` and ``minimize`` may cost 1.3 times the kernel called directly plus 0.2 ms, and building the graph of a
batch must cost less than solving it. The engine gets a graph that was never seen before at each call; the time of
building it is measured apart and taken off.
"""

from __future__ import annotations

from typing import Any

import torch

import ebmstruct as es
from benchmarks.timing import interleaved, table
from ebmstruct.inference.kernels.chains import chain

SHAPES = ((32, 40, 9), (32, 128, 17), (8, 512, 32), (1, 2000, 9))


def measure(batch: int, length: int, states: int) -> list[list[Any]]:
    """One row for marginals and one for minimize."""
    generator = torch.Generator().manual_seed(0)
    emission = torch.randn(batch * length, states, generator=generator)
    transition = torch.randn(states, states, generator=generator)
    ends = torch.randn(2, states, generator=generator)
    lengths = torch.full((batch,), length)

    def build() -> es.FactorGraph:
        block = es.Variables.of_lengths("y", es.Discrete(states), lengths)
        word = es.TableFactor(("y",), "word", emission)
        return es.FactorGraph([block], [word, es.ChainFactor(("y",), "chain", transition, ends[0], ends[1])])

    raw = (emission, transition, ends[0], ends[1], build().variables["y"].offsets)
    found = interleaved(
        {
            "build": build,
            "kernel marginals": lambda: chain.marginals(*raw),
            "marginals": lambda: es.marginals(build()),
            "kernel viterbi": lambda: chain.viterbi(*raw),
            "minimize": lambda: es.minimize(build()),
        }
    )
    rows = []
    for name, kernel in (("marginals", "kernel marginals"), ("minimize", "kernel viterbi")):
        engine, allowed = found[name] - found["build"], 1.3 * found[kernel] + 0.2
        rows.append([(batch, length, states), name, found["build"], found[kernel], engine, allowed, engine <= allowed])
    return rows


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    rows = [row for shape in SHAPES for row in measure(*shape)]
    print(table(["B, T, K", "query", "build ms", "kernel ms", "engine ms", "allowed ms", "within"], rows))


if __name__ == "__main__":
    main()
