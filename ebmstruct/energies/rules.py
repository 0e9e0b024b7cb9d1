"""Rules written by hand, which join the energies of other models without any training."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from ebmstruct.energies.model import Additions
from ebmstruct.errors import GraphError
from ebmstruct.graph import ChainFactor, Discrete, Factor, FactorGraph, TableFactor, Variables

Names = tuple[tuple[str, str], ...]
DEAREST = 1e30
"""The largest price of a breach, short of forbidding it."""
ON = 1
"""The state of a named site that a rule about it means: labels of a set are off (0) or on (1)."""


class Rules(Additions):
    """Which states may not be taken, may not follow each other, may not go together, or need one another.

    It has no parameters and no variables of its own: it adds factors over a discrete block of the energies that it is
    listed with. The names are those of the task's schema: of the block's states (``Schema.state_names``; tags of a
    chain), or of its sites (``Schema.site_names``; labels of a set). A ``*`` in a name stands for any letters.

    block: which block; the only discrete one, if left out.
    forbid: states that no site may take, or sites that may not be on.
    forbid_next: pairs (earlier, later) of states that may not be neighbours in an instance.
    exclude: pairs of sites that may not both be on.  implies: pairs of sites of which the second is on if the first is.
    cost: what each breach costs; infinite, so that no answer breaks a rule, if left out.

    Each rule becomes tables, so chains stay chains and every solver of tables keeps its proofs; pairs of sites that were
    not joined before make a graph denser. Cost: one table of K x K, and one of 2 x 2 for each pair and instance.
    """

    def __init__(
        self,
        schema: Any,
        *,
        block: str | None = None,
        forbid: tuple[str, ...] = (),
        forbid_next: Names = (),
        exclude: Names = (),
        implies: Names = (),
        cost: float | None = None,
    ) -> None:
        super().__init__()
        if cost is not None and not 0 < cost <= DEAREST:
            raise ValueError(
                f"cost must be above 0 and at most {DEAREST:g}, or left out where a rule may never be broken; found {cost}"
            )
        if not (forbid or forbid_next or exclude or implies):
            raise ValueError("there is no rule; give forbid, forbid_next, exclude or implies")
        self.schema, self.block = schema, block
        self.forbid, self.forbid_next, self.exclude, self.implies = forbid, forbid_next, exclude, implies
        self.price = float("inf") if cost is None else float(cost)

    def factors(self, graph: FactorGraph) -> list[Factor]:
        """The factors that these rules add to a graph; GraphError where a name is not one of its block's."""
        block = self._block(graph)
        states, sites = self._names("state_names", block.name), self._names("site_names", block.name)
        out: list[Factor] = []
        if self.forbid and not sites:
            out.append(TableFactor((block.name,), "forbid", self._forbidden_states(block, states)))
        if self.forbid and sites:
            out.append(self._forbidden_sites(block, sites))
        if self.forbid_next:
            table = torch.zeros(len(states), len(states))
            for earlier, later in self.forbid_next:
                for i in self._matching(earlier, states, block, "state"):
                    table[i, self._matching(later, states, block, "state")] = self.price
            out.append(ChainFactor((block.name,), "forbid_next", table.to(block.offsets.device)))
        for label, pairs, second in (("exclude", self.exclude, ON), ("implies", self.implies, 1 - ON)):
            if pairs:
                out.append(self._pair_tables(label, block, sites, pairs, second))
        return out

    def _block(self, graph: FactorGraph) -> Variables:
        discrete = [n for n, v in graph.variables.items() if isinstance(v.domain, Discrete)]
        name = self.block if self.block is not None else discrete[0] if len(discrete) == 1 else None
        if name not in discrete:
            raise GraphError(f"rules: block {self.block!r} was asked for; the graph's discrete blocks are {discrete}")
        return graph.variables[name]

    def _names(self, method: str, block: str) -> Sequence[str]:
        return tuple(getattr(self.schema, method, lambda block: ())(block))

    def _matching(self, pattern: str, names: Sequence[str], block: Variables, what: str) -> list[int]:
        found = [i for i, name in enumerate(names) if fnmatchcase(name, pattern)]
        if not found:
            legal = ", ".join(names[:20]) + (" ..." if len(names) > 20 else "") if names else "none that has a name"
            raise GraphError(f"rules: {pattern!r} names no {what} of block {block.name!r}; there: {legal}")
        return found

    def _forbidden_states(self, block: Variables, states: Sequence[str]) -> Tensor:
        row = torch.zeros(len(states), device=block.offsets.device)
        for name in self.forbid:
            row[self._matching(name, states, block, "state")] = self.price
        return row

    def _forbidden_sites(self, block: Variables, sites: Sequence[str]) -> TableFactor:
        places = list(dict.fromkeys(i for name in self.forbid for i in self._matching(name, sites, block, "site")))
        index = self._sites(block, sites, torch.tensor([places]))
        table = torch.zeros(2, device=index.device)
        table[ON] = self.price
        return TableFactor((block.name,), "forbid", table, index=index)

    def _pair_tables(
        self, label: str, block: Variables, sites: Sequence[str], pairs: Names, second: int
    ) -> TableFactor:
        rows: dict[tuple[int, int], None] = {}  # each pair once, however many patterns mean it
        for first, other in pairs:
            for i in self._matching(first, sites, block, "site"):
                for j in self._matching(other, sites, block, "site"):
                    if i != j:
                        rows[(min(i, j), max(i, j)) if second == ON else (i, j)] = None
        index = self._sites(block, sites, torch.tensor(list(rows)).reshape(-1, 2).T)
        table = torch.zeros(2, 2, device=index.device)
        table[ON, second] = self.price
        return TableFactor((block.name, block.name), label, table, index=index)

    def _sites(self, block: Variables, sites: Sequence[str], places: Tensor) -> Tensor:
        """(arity, B * rows) long: places in an instance as sites of the block."""
        if block.num_instances and bool((block.lengths != len(sites)).any()):
            raise GraphError(f"rules: every instance of block {block.name!r} must have the {len(sites)} named sites")
        first = block.offsets[:-1]
        return (first[None, :, None] + places.to(first.device)[:, None, :]).reshape(places.shape[0], -1)
