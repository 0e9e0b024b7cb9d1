"""First guesses: weights over states, or values, that an energy model's own network proposes for each site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ebmstruct.errors import GraphError
from ebmstruct.graph.assignment import Assignment
from ebmstruct.graph.domains import Discrete
from ebmstruct.graph.factors import indicators
from ebmstruct.graph.variables import Variables

Guess = Mapping[str, Tensor]
"""Block name to weights (n, K) over the states of a discrete block, whose rows sum to 1, or to values (n, d)."""


def check_guess(guess: Guess, variables: Mapping[str, Variables]) -> None:
    """Raise GraphError where a guess names no block of the graph or does not have its shape."""
    for name, given in guess.items():
        if name not in variables:
            raise GraphError(f"a first guess for block {name!r}; the graph's blocks are {list(variables)}")
        block = variables[name]
        if isinstance(block.domain, Discrete):
            wanted: tuple[int, ...] = (block.num_sites, block.discrete.largest)
            fine = tuple(given.shape) == wanted and given.is_floating_point()
        else:
            wanted = (block.num_sites, -1)
            fine = given.dim() == 2 and given.shape[0] == block.num_sites
        if not fine:
            what = "weights over states" if isinstance(block.domain, Discrete) else "values"
            shape = str(wanted).replace("-1", "d")
            raise GraphError(
                f"the first guess for block {name!r} must be {what} of shape {shape}; found {given.dtype} of shape "
                f"{tuple(given.shape)}"
            )


def guess_under(guess: Guess, evidence: Assignment, variables: Mapping[str, Variables]) -> dict[str, Tensor]:
    """The guess as the evidence leaves it: clamped sites have what they are clamped to, others their allowed states.

    Weights of allowed states are divided by their sum; even where they have none. Differentiable in the guess.
    """
    out: dict[str, Tensor] = {}
    for name, given in guess.items():
        allowed = evidence.allowed.get(name)
        if allowed is not None:
            kept = given * allowed
            total = kept.sum(1, keepdim=True)
            count = allowed.sum(1, keepdim=True).clamp(min=1)
            given = torch.where(total > 0, kept / torch.where(total > 0, total, 1.0), allowed.to(kept.dtype) / count)
        if name in evidence.values:
            fixed = indicators(evidence.values[name], variables[name], given.dtype).to(given.dtype)
            known = evidence.known.get(name)
            given = fixed if known is None else torch.where(known[:, None], fixed, given)
        out[name] = given
    return out


def joined_guess(parts: Sequence[Guess | None], variables: Mapping[str, Variables]) -> dict[str, Tensor] | None:
    """The guess of a union: that of its parts one after another; None unless every part guesses the same blocks.

    variables: the union's; a part with fewer states has no weight on those that it lacks.
    """
    first = parts[0]
    if first is None or any(p is None or p.keys() != first.keys() for p in parts):
        return None
    out = {}
    for name in first:
        found = [p[name] for p in parts if p is not None]
        domain = variables[name].domain
        if isinstance(domain, Discrete):
            found = [torch.nn.functional.pad(f, (0, domain.largest - f.shape[1])) for f in found]
        out[name] = torch.cat(found)
    return out
