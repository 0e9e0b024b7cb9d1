"""Sets of labels: an energy of each label, and one of all labels together by a network over their weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ebmstruct.energies.inputs import Rows
from ebmstruct.energies.model import EnergyModel
from ebmstruct.graph import BlockFactor, Discrete, FactorGraph, TableFactor, Variables


class LabelNetwork(nn.Module):
    """E(y) = c^T softplus(C y + b): the global energy of a structured prediction energy network.

    Belanger and McCallum 2016; each row of C measures a set of labels, whose presence c rewards or punishes.
    labels: L.  hidden: rows of C.
    """

    def __init__(self, labels: int, hidden: int) -> None:
        super().__init__()
        self.measure = nn.Linear(labels, hidden)
        self.output = nn.Linear(hidden, 1, bias=False)
        self.labels = labels

    def forward(self, weights: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        """(B,) of weights (B L, 2) over absence and presence of each label."""
        y = weights[:, 1].reshape(-1, self.labels).to(self.measure.weight.dtype)
        out: Tensor = self.output(nn.functional.softplus(self.measure(y)))[:, 0]
        return out


class JointNetwork(nn.Module):
    """E(x, y) by a network over features and labels side by side, as deep value networks have it.

    Gygli, Norouzi and Angelova 2017, whose value is the negative of this energy: two layers, softplus between.
    width: of the vectors of x.  labels: L.  hidden: units.
    """

    def __init__(self, width: int, labels: int, hidden: int) -> None:
        super().__init__()
        layers = (nn.Linear(width + labels, hidden), nn.Softplus(), nn.Linear(hidden, hidden), nn.Softplus())
        self.layers = nn.Sequential(*layers, nn.Linear(hidden, 1, bias=False))
        self.labels = labels

    def forward(self, weights: Tensor, h: Tensor, offsets: tuple[Tensor, ...]) -> Tensor:
        """(B,) of weights (B L, 2) and vectors h (B, width)."""
        y = weights[:, 1].reshape(-1, self.labels).to(h.dtype)
        out: Tensor = self.layers(torch.cat([h, y], 1))[:, 0]
        return out


class LabelSetEnergy(EnergyModel):
    """A structured prediction energy network over a set of labels (Belanger and McCallum 2016).

    E(x, y) = sum_l y_l (W h + b)_l + E_all(x, y), y_l in {0, 1}, h = encoder(x).

    width: of h.  labels: L.  encoder: any module from features (B, F) to (B, width); None takes the features.
    joint: ``labels``, E_all = c^T softplus(C y + b), which is `LabelNetwork`; ``both``, a network over h and y, which is
    `JointNetwork`; ``none``: labels are independent.  hidden: units of E_all.
    Every function is smooth and takes weights between 0 and 1 in place of y, so that descents on weights work
    (``mirror_descent``), as do solvers of states on the whole ones.
    An input is a tensor (F,).  Inference: no bound, except with ``none``. Cost of the energy O(L (width + hidden)).
    """

    def __init__(
        self,
        width: int,
        labels: int,
        *,
        encoder: nn.Module | None = None,
        joint: Literal["labels", "both", "none"] = "labels",
        hidden: int = 16,
        block: str = "y",
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.local = nn.Linear(width, labels)
        self.network: LabelNetwork | JointNetwork | None = None
        if joint == "labels":
            self.network = LabelNetwork(labels, hidden)
        elif joint == "both":
            self.network = JointNetwork(width, labels, hidden)
        self.labels, self.block = labels, block

    def prepare(self, xs: Sequence[Any]) -> Rows:
        return Rows.of(xs)

    def forward(self, inputs: Rows) -> FactorGraph:
        x = inputs.to(self.device).features
        h = x if self.encoder is None else self.encoder(x)
        offsets = torch.arange(len(h) + 1, device=h.device) * self.labels
        block = Variables(self.block, Discrete(2), offsets)
        graph = FactorGraph([block], [TableFactor((self.block,), "label", absent_or(self.local(h)))])
        if self.network is None:
            return graph
        given = (h,) if isinstance(self.network, JointNetwork) else ()
        return graph.add(BlockFactor((self.block,), "labels", self.network, given, relaxed=True))


def absent_or(energy: Tensor) -> Tensor:
    """(B L, 2) tables of labels with energies (B, L) where they are present, and 0 where they are not."""
    flat = energy.reshape(-1)
    return torch.stack([torch.zeros_like(flat), flat], 1)
