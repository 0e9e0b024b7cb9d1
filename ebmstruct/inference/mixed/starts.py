"""Where searches of mixed graphs begin: points and states of several starts, the same alone and in a batch."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from ebmstruct.graph import Assignment, FactorGraph
from ebmstruct.inference.latent.starts import random_states, scattered_copies
from ebmstruct.inference.mixed.parts import discrete_blocks
from ebmstruct.inference.sampling.markov import default_generator
from ebmstruct.inference.smooth_energy import open_continuous


def mixed_starts(
    graph: FactorGraph, init: Assignment | None, starts: int, distance: float, generator: Generator | None
) -> dict[str, Tensor]:
    """Block name to (W, n, ...): scattered points, the first at ``init``, and random states, the second at ``init``.

    Each block has randomness of its own, drawn position by position, whatever else is in the graph and the batch.
    """
    seed = int(torch.randint(1 << 40, (), generator=default_generator(generator)))
    discrete = discrete_blocks(graph)
    real = [v.name for v in open_continuous(graph)]
    values: dict[str, Tensor] = {}
    for number, name in enumerate(graph.variables):
        own = Generator().manual_seed(seed + number)
        if name in discrete:
            likely = [init.values] if init is not None and name in init else []
            states = random_states(graph, (name,), likely, starts + 1, own)[name]
            values[name] = states[1:]
            if init is not None and name in init and starts > 1:
                values[name][1] = states[0]
        else:
            part = [name] if name in real else []
            only = None if init is None or name not in init else Assignment({name: init[name]})
            values[name] = scattered_copies(graph, part, only, starts, distance, own)[name]
    return values
