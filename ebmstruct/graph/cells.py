"""Every combination of states at the discrete places of a factor's rows, laid out flat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmstruct.graph.domains import Discrete
from ebmstruct.graph.variables import Variables


@dataclass(frozen=True, eq=False)
class Cells:
    """The entries of the tables that m rows have over their discrete sites, c in all, row-major from the last place on.

    row: (c,) long, the row of each entry.  states: place to (c,) long, its state there.  starts: (m,) long, where each
    row's entries begin.  index: (places, m) long, the sites of each row at its discrete places.
    """

    row: Tensor
    states: dict[int, Tensor]
    starts: Tensor
    index: Tensor


def cells_of(index: Tensor, scope: Sequence[Variables]) -> Cells:
    """The cells of rows that look at the sites ``index`` (arity, m) of the blocks in ``scope``."""
    places = [i for i, v in enumerate(scope) if isinstance(v.domain, Discrete)]
    counts = [scope[i].state_counts[index[i]] for i in places]
    size = torch.ones(index.shape[1], dtype=torch.long, device=index.device)
    for count in counts:
        size = size * count
    starts = size.cumsum(0) - size
    row = torch.repeat_interleave(size)
    code = torch.arange(row.numel(), device=row.device) - starts[row]
    states = {}
    for place, count in zip(reversed(places), reversed(counts), strict=True):
        states[place] = code % count[row]
        code = code // count[row]
    return Cells(row, states, starts, index[places])
