"""An energy model joined to an inference network, which proposes the answer that the energy would give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from ebmstruct.energies.model import EnergyModel, Inputs
from ebmstruct.errors import GraphError
from ebmstruct.graph import Discrete, Factor, FactorGraph, TableFactor, Variables


class Amortised(EnergyModel):
    """The graphs of an energy model, each with the first guess of an inference network (Tu and Gimpel 2018).

    energy: the energy model; its parameters and the network's are both parameters of this one.
    network: any torch module that takes the energy's prepared inputs and gives what it thinks of each site, as a mapping
    from block to scores, or as the scores of the graph's only open block: logits (n, K) over the states of a discrete
    block, log-odds (n,) of state 1 where there are two, or values (n, d); any shape with as many entries will do, such
    as (B, L) for L labels an instance. Or the label of a factor of tables over single sites of the energy itself: the
    guess is then what that factor alone would say, at no cost. A network may share modules with the energy.
    reads: the label of a factor of the energy whose values the network takes in place of the inputs, so that features
    are computed once. Where the energy knows the inputs by these values only, the network need not know more either.
    frozen: the energy was trained before: it stays in evaluation mode, and nothing reaches its parameters.

    The guess is ``FactorGraph.guess``: weights over states, the softmax of the logits over those that a site has. Losses
    that know of it (``InferenceNetwork``, ``Seal``, ``Amortisation``) train the network; others leave it alone, so that
    the energy can be trained first. The solver ``amortised`` answers by it.
    """

    def __init__(
        self, energy: EnergyModel, network: nn.Module | str, *, reads: str | None = None, frozen: bool = False
    ) -> None:
        super().__init__()
        self.energy = energy
        self.network = network
        self.reads = reads
        self.frozen = frozen

    def train(self, mode: bool = True) -> Self:
        """Set the training mode of both parts; a frozen energy stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.energy.eval()
        return self

    def prepare(self, xs: Sequence[Any]) -> Inputs:
        return self.energy.prepare(xs)

    def forward(self, inputs: Any) -> FactorGraph:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            graph: FactorGraph = self.energy(inputs)
        if isinstance(self.network, str):
            return graph.with_guess(_guess_of_factor(graph, self.network))
        found = self.network(inputs) if self.reads is None else self.network(*_values(_labelled(graph, self.reads)))
        if not isinstance(found, Mapping):
            if len(graph.variables) != 1:
                raise GraphError(
                    f"the inference network gave one tensor for {len(graph.variables)} blocks; a mapping from block to "
                    f"scores is needed, for {list(graph.variables)}"
                )
            found = {next(iter(graph.variables)): found}
        unknown = [n for n in found if n not in graph.variables]
        if unknown:
            raise GraphError(f"the inference network guesses blocks {unknown}; the graph has {list(graph.variables)}")
        return graph.with_guess({n: _guess_of_scores(graph.variables[n], s) for n, s in found.items()})


def _guess_of_scores(block: Variables, scores: Tensor) -> Tensor:
    """(n, K) weights or (n, d) values of a block, by a network's scores of whatever shape."""
    if not isinstance(block.domain, Discrete):
        return scores.reshape(block.num_sites, -1)
    states = block.discrete.largest
    if scores.numel() == block.num_sites * states:
        logits = scores.reshape(block.num_sites, states)
    elif states == 2 and scores.numel() == block.num_sites:
        odds = scores.reshape(-1)
        if block.discrete.uniform:  # far quicker than a softmax over two entries
            return torch.stack([(-odds).sigmoid(), odds.sigmoid()], 1)
        logits = torch.stack([torch.zeros_like(odds), odds], 1)
    else:
        raise GraphError(
            f"the inference network gave scores of shape {tuple(scores.shape)} for block {block.name!r}, which has "
            f"{block.num_sites} sites of {states} states; one for each state of each site is needed"
        )
    if not block.discrete.uniform:
        missing = torch.arange(states, device=logits.device) >= block.state_counts[:, None]
        logits = logits.masked_fill(missing, -torch.inf)
    return logits.softmax(1)


def _labelled(graph: FactorGraph, label: str) -> Factor:
    """The factor of that label."""
    for factor in graph.factors:
        if factor.label == label:
            return factor
    raise GraphError(f"no factor is labelled {label!r}; the labels are {[f.label for f in graph.factors]}")


def _values(factor: Factor) -> list[Tensor]:
    """The value tensors of a factor, those of a function among them one by one."""
    held: tuple[Any, ...] = factor.values()
    return [t for v in held for t in (v if isinstance(v, tuple) else (v,)) if t is not None]


def _guess_of_factor(graph: FactorGraph, label: str) -> dict[str, Tensor]:
    """The softmax of the negative tables of a factor over single sites."""
    factor = _labelled(graph, label)
    if not isinstance(factor, TableFactor) or factor.arity != 1:
        raise GraphError(f"factor {label!r} makes no guess: a TableFactor over single sites is needed")
    (block,) = graph.scope(factor)
    sites = torch.zeros(block.num_sites, dtype=torch.long, device=block.offsets.device)
    energies = factor.conditionals(block.name, [sites], [block])
    if energies.dim() == 2 and energies.shape[0] != block.num_sites:
        energies = energies.expand(block.num_sites, -1)
    return {block.name: _guess_of_scores(block, -energies)}
