"""What a task thinks of a relaxed output: weights over states, and points, held against the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from ebmstruct.errors import LossRefusal
from ebmstruct.graph import Assignment, Continuous, Factor, FactorGraph

TaskLoss = Literal["likelihood", "squared", "cost"]
TASK_LOSSES = ("likelihood", "squared", "cost")


def output_loss(
    graph: FactorGraph,
    target: Assignment,
    logs: Mapping[str, Tensor],
    points: Mapping[str, Tensor],
    *,
    kind: TaskLoss,
    scale: float,
    cost: Sequence[Factor],
) -> Tensor:
    """(B,) float64: the loss of an output at the sites that the target knows, differentiable in the output.

    logs: block to (n, K) logarithms of weights over states.  points: block to (n, d).  Blocks in neither do not count.
    kind: "likelihood": minus the sum of the logarithms at the target's states; "squared": half the square distance of
    weights from the target's indicators; "cost": the mean cost under independent draws by the weights. Points count half
    their square distance from the target (``Continuous.local``, in units of ``scale``), except those that a cost looks at
    where the cost is asked.
    Errors: LossRefusal where the cost is asked and there is none.
    """
    if kind == "cost" and not cost:
        raise LossRefusal("task_loss is cost, and the task gives no cost of this target; take likelihood or squared")
    out = torch.zeros(graph.num_instances, dtype=torch.float64)
    costly = {n for f in cost for n in f.scope} if kind == "cost" else set()
    for name, block in graph.variables.items():
        if name in costly or name not in target or (name not in logs and name not in points):
            continue
        known, value = target.known.get(name), target[name]
        if name in points:
            assert isinstance(block.domain, Continuous)
            x = points[name]
            value = value.to(x.dtype)
            if known is not None:  # nothing is said of what stands at unknown sites
                value = torch.where(known[:, None], value, x.detach())
            rows = 0.5 * (block.domain.local(x, value) / scale).square().sum(1)
        else:
            rows = _of_states(logs[name], value, known, squared=kind == "squared")
        if known is not None:
            rows = torch.where(known, rows, 0.0)
        out = out.index_add(0, block.instance, rows.double())
    if not costly:
        return out
    charged = FactorGraph(tuple(graph.variables.values()), tuple(cost), evidence=graph.evidence)
    weights = {n: x.exp() for n, x in logs.items()}
    return out + charged.relaxed_energy({**weights, **points})


def _of_states(logs: Tensor, states: Tensor, known: Tensor | None, *, squared: bool) -> Tensor:
    """(n,) the loss of each site's weights."""
    at = states.clamp(0, logs.shape[1] - 1)
    if squared:
        hot = torch.nn.functional.one_hot(at, logs.shape[1])
        return 0.5 * (logs.exp() - hot).square().sum(1)
    rows = -logs.gather(1, at[:, None])[:, 0]
    return rows if known is None else torch.where(known, rows, 0.0)


def check_output_options(name: str, kind: str, scale: float) -> None:
    """Raise ValueError where a loss of outputs is asked for what does not exist."""
    if kind not in TASK_LOSSES:
        raise ValueError(f"{name}: task_loss {kind!r}; legal are {TASK_LOSSES}")
    if not scale > 0:
        raise ValueError(f"{name}: scale must be positive; found {scale}")
