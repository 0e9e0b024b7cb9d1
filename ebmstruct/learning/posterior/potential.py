"""The energy of weights: the sum of the losses of all examples and a prior, of all at once or of a minibatch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from ebmstruct.energies import EnergyModel
from ebmstruct.errors import DataError, LossRefusal
from ebmstruct.graph import Assignment, Factor
from ebmstruct.graph.topology import Topology
from ebmstruct.inference import Solver
from ebmstruct.learning.losses import Loss
from ebmstruct.learning.posterior.batches import sharing
from ebmstruct.learning.posterior.options import PosteriorOptions
from ebmstruct.learning.posterior.weights import WeightLayout

PIECE = 1024
"""Examples whose losses are computed at once where all are asked for."""
REMEMBERED = 1 << 25
"""Numbers that may be kept of gradients of minibatches at the centre; beyond, they are computed again."""


@dataclass(eq=False)
class Piece:
    """Some examples that are looked at together. positions: their numbers.

    topology: of its graph, which serves all weights, with all that is derived from it.
    target, cost: once they are known.
    """

    inputs: Any
    positions: list[int]
    topology: Topology | None = None
    target: Assignment | None = None
    cost: Sequence[Factor] = ()


class Potential:
    """U(weights) = sum of losses / temperature + |weights|^2 / (2 prior_spread^2), with its gradient.

    The model is used in evaluation mode, so there is no dropout, and is not changed. A loss that draws noise draws the
    same noise at every call. ``gradients`` counts calls for examples, in passes over all of them.
    Cost: a forward and a backward pass of the model, and the loss' own inference, for each piece of the examples.
    """

    def __init__(
        self,
        model: EnergyModel,
        layout: WeightLayout,
        task: Any,
        schema: Any,
        train: Sequence[Any],
        loss: Loss,
        options: PosteriorOptions,
        solver: Solver | None = None,
    ) -> None:
        if not train:
            raise DataError("there is no example to learn a posterior from; at least one is needed")
        self.model, self.layout, self.task, self.schema = model, layout, task, schema
        self.loss, self.options, self.solver = loss, options, solver
        self.inputs = model.prepare([e.x for e in train])
        self.ys = [e.y for e in train]
        own = dict(model.named_parameters())
        self.types = [(own[name].dtype, own[name].device) for name in layout.names]
        generator = torch.Generator().manual_seed(options.seed)
        self.order = torch.randperm(len(train), generator=generator).tolist()
        self.pieces = self.cut(PIECE)
        self.gradients = 0.0

    def __len__(self) -> int:
        return len(self.ys)

    def cut(self, size: int) -> list[Piece]:
        """All examples in pieces of ``size`` at the most, as equal as can be, in a random order."""
        count = -(-len(self.ys) // size)
        bounds = [i * len(self.ys) // count for i in range(count + 1)]
        parts = [self.order[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
        return [Piece(self.inputs.select(part), part) for part in parts]

    def of_piece(self, weights: Tensor, piece: Piece) -> tuple[float, Tensor]:
        """The sum of the losses of a piece at weights (P,), divided by the temperature, and its gradient (P,) float64."""
        with torch.enable_grad():
            parts = {
                name: part.to(device=device, dtype=dtype).requires_grad_()
                for (name, part), (dtype, device) in zip(self.layout.parts(weights).items(), self.types, strict=True)
            }
            graph = functional_call(self.model, parts, (piece.inputs,))
            graph = sharing(graph, piece.topology)
            piece.topology = graph.topology
            if piece.target is None:
                piece.target = self.task.encode([self.ys[i] for i in piece.positions], graph, self.schema)
                piece.cost = self.task.cost(graph, piece.target, self.schema)
            found = self.loss(
                graph,
                piece.target,
                cost=piece.cost,
                solver=self.solver,
                generator=torch.Generator().manual_seed(self.options.seed),
                examples=piece.positions,
                done=1.0,
            )
            total = found.value.sum() / self.options.temperature
            slopes: tuple[Tensor | None, ...] = (None,) * len(parts)
            if total.requires_grad:
                slopes = torch.autograd.grad(total, list(parts.values()), allow_unused=True)
        self.gradients += len(piece.positions) / len(self.ys)
        return float(total.detach()), self._flat(slopes)

    def _flat(self, slopes: Sequence[Tensor | None]) -> Tensor:
        """(P,) float64: gradients of the parameters, sparse ones filled up, as one vector."""
        out = []
        for slope, size in zip(slopes, self.layout.sizes, strict=True):
            if slope is None:
                out.append(torch.zeros(size, dtype=torch.float64))
            else:
                dense = slope.to_dense() if slope.is_sparse else slope
                out.append(dense.detach().reshape(-1).double().cpu())
        return torch.cat(out)

    def prior(self, weights: Tensor) -> tuple[float, Tensor]:
        """The energy of the prior at weights (P,), and its gradient."""
        precision = self.options.prior_spread**-2
        return 0.5 * precision * float(weights.square().sum()), precision * weights

    def __call__(self, weights: Tensor) -> tuple[float, Tensor]:
        """U at weights (P,) float64, over all examples, and its gradient (P,)."""
        value, slope = self.prior(weights)
        for piece in self.pieces:
            own, gradient = self.of_piece(weights, piece)
            value, slope = value + own, slope + gradient
        return value, slope


class Minibatches:
    """Estimates of U and its gradient, each from one minibatch taken at random; their mean is U.

    control: with it an estimate is U at ``centre`` plus what a minibatch says of the difference, so that the noise
    vanishes near the centre (Baker, Fearnhead, Fox and Nemeth 2019). The minibatches are a fixed division of the
    examples, so their gradients at the centre are computed once, where there is memory for them.
    """

    def __init__(
        self, potential: Potential, centre: Tensor, size: int, generator: torch.Generator, *, control: bool
    ) -> None:
        self.potential, self.centre, self.generator = potential, centre, generator
        self.batches = potential.cut(size)
        self.whole = potential(centre) if control else None
        self.keeps = len(self.batches) * potential.layout.size <= REMEMBERED
        self.known: dict[int, tuple[float, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.batches)

    def __call__(self, weights: Tensor) -> tuple[float, Tensor]:
        """An estimate of U at weights (P,), and one of its gradient."""
        return self.by(int(torch.randint(len(self.batches), (), generator=self.generator)), weights)

    def by(self, number: int, weights: Tensor) -> tuple[float, Tensor]:
        """What minibatch ``number`` says of U at weights (P,), and of its gradient."""
        count = len(self.batches)
        value, slope = self.potential.of_piece(weights, self.batches[number])
        energy, pull = self.potential.prior(weights)
        if self.whole is None:
            return energy + count * value, pull + count * slope
        there, anchor = self._at_centre(number)
        base, push = self.potential.prior(self.centre)
        return (
            energy - base + count * (value - there) + self.whole[0],
            pull - push + count * (slope - anchor) + self.whole[1],
        )

    def _at_centre(self, number: int) -> tuple[float, Tensor]:
        found = self.known.get(number)
        if found is None:
            value, slope = self.potential.of_piece(self.centre, self.batches[number])
            found = value, slope.float() if self.keeps else slope
            if self.keeps:
                self.known[number] = found
        return found


def likelihood_refusal(loss: Loss, *, any_loss: bool) -> str | None:
    """Why exp(-loss) is no likelihood of an output, so that no posterior follows from it; None where it is one."""
    if loss.likelihood or any_loss:
        return None
    return (
        f"{loss.name} is no likelihood, so the weights have no posterior under it; train with negative_log_likelihood, "
        "pseudo_likelihood or bounded_likelihood, or set posterior.any_loss to true for a Gibbs posterior, whose spread "
        "means what the loss makes of it"
    )


def check_likelihood(loss: Loss, options: PosteriorOptions) -> None:
    """LossRefusal where a posterior under this loss was not asked for in so many words."""
    reason = likelihood_refusal(loss, any_loss=options.any_loss)
    if reason is not None:
        raise LossRefusal(f"posterior: {reason}")
