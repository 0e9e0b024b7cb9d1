"""What is found out before a run writes anything: whether the loss and the sampler take the model's graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ebmstruct.errors import LossRefusal, PluginError, SolverRefusal
from ebmstruct.extend.generative import Generative
from ebmstruct.extend.task import Example
from ebmstruct.run.predictor import Predictor
from ebmstruct.run.spec import RunConfig

if TYPE_CHECKING:
    from ebmstruct.graph import Assignment, FactorGraph


def check_loss(config: RunConfig, predictor: Predictor, example: Example) -> None:
    """LossRefusal where the loss does not take the graph of an example; PluginError where records do not fit the model."""
    import torch

    model = predictor.model.eval()
    with torch.no_grad():
        graph = model.graph([example.x])
        reason = config.loss.refuse(graph, _encoded(config, predictor, example, graph))
    model.train()
    if reason is not None:
        raise LossRefusal(f"{config.place('loss')}: {config.loss.name} cannot be used with these energies: {reason}")


def check_sampler(config: RunConfig, predictor: Predictor) -> None:
    """SolverRefusal where a task draws records and the solver of the task file cannot draw from the model's graph."""
    import torch

    from ebmstruct.inference import Ask, Query, explain

    task, model, schema = predictor.task, predictor.model, predictor.schema
    solver = predictor.solver
    if not isinstance(task, Generative) or solver is None:
        return
    model.eval()
    with torch.no_grad():
        xs = task.inputs({}, 1, schema, torch.Generator().manual_seed(0))
        graph = model.graph(xs)
        fixed = task.evidence(xs, graph, schema)
        graph, query = graph if fixed is None else graph.condition(fixed), Query(Ask.SAMPLE)
        reason = solver.refuse(graph, query)
        other = None if reason is None else explain(graph, query).solver
    model.train()
    if reason is not None:
        raise SolverRefusal(
            f"{config.place('solver')}: {solver.name} cannot draw records from these energies: {reason}; "
            f"name another{'' if other is None else f', such as {other.name}'}"
        )


def _encoded(config: RunConfig, predictor: Predictor, example: Example, graph: FactorGraph) -> Assignment:
    found = predictor.task.encode([example.y], graph, predictor.schema)
    if isinstance(predictor.task, Generative) and not set(found.values) & set(graph.variables):
        raise PluginError(
            f"{config.place('energy')}: the records of {predictor.task.name} have no values for the blocks "
            f"{', '.join(graph.variables)} of these energies; take an energy that is for such records"
        )
    return found
