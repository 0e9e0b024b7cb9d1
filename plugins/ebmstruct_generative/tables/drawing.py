"""Draws and completions that obey the rules: what breaks one is drawn again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ebmstruct import Assignment, FactorGraph, Solver, sample
from ebmstruct.errors import DataError, SolverRefusal
from ebmstruct.inference import Result, Status
from ebmstruct_generative.tables.layout import decoded
from ebmstruct_generative.tables.rules import broken, rule_factor, told
from ebmstruct_generative.tables.schema import TableSchema

CANDIDATES = 200
"""Completions that are drawn for a row whose least energy breaks a rule."""


def obeying(
    graph: FactorGraph, schema: TableSchema, draw: Callable[[FactorGraph], Assignment], tries: int
) -> Assignment:
    """Values of the graph, drawn again and again in those instances whose rows break a rule or leave a range.

    Errors: DataError where some still do after ``tries`` draws: the rules leave nothing, or next to nothing.
    Cost: the draws; their mean number is one over the probability of the rules.
    """
    hard = rule_factor(graph, schema)
    values = dict(draw(graph).values)
    for _ in range(tries):
        wrong = _wrong(values, graph, schema)
        if not wrong.numel():
            return Assignment(values)
        again = draw(graph.select(wrong))
        for name, block in graph.variables.items():
            values[name] = values[name].index_copy(0, block.sites_of(wrong), again[name].to(values[name].dtype))
    wrong = _wrong(values, graph, schema)
    if not wrong.numel():
        return Assignment(values)
    table = decoded(values, graph.num_instances, schema).take(wrong.numpy())
    which = [sentence.partition(": ")[0] for sentence in told(table, schema)]
    blamed = ", ".join(which) if which else "a range"
    raise DataError(
        f"{wrong.numel():,} of {graph.num_instances:,} rows still break {blamed} after {tries} tries ({hard.label}): with "
        "what is given the model hardly has a row that obeys; loosen the rule or what is given, or raise task.tries"
    )


def _wrong(values: dict[str, Tensor], graph: FactorGraph, schema: TableSchema) -> Tensor:
    """(w,) long: the instances whose rows break a rule or leave a range."""
    return torch.from_numpy(broken(decoded(values, graph.num_instances, schema), schema)).nonzero()[:, 0]


def completed(graph: FactorGraph, schema: TableSchema, least: Result, solver: Solver | None) -> Result:
    """A result in which completions that break a rule are replaced by the best that obey, of CANDIDATES that are drawn.

    Instances for which none obeys end INFEASIBLE.
    """
    values = dict(least.assignment.values)
    wrong = _wrong(values, graph, schema)
    if not wrong.numel():
        return least
    part = graph.select(wrong)
    hard = part.add(rule_factor(part, schema))
    generator = torch.Generator().manual_seed(0)
    try:
        drawn = sample(part, solver, num_samples=CANDIDATES, generator=generator, quiet=True).values
    except SolverRefusal:
        drawn = {name: v[None] for name, v in part.complete(_selected(values, graph, wrong)).items()}
    count = len(next(iter(drawn.values())))
    energy = torch.stack([hard.energy({n: v[s] for n, v in drawn.items()}).double() for s in range(count)])
    best, which = energy.min(0)
    for name, block in graph.variables.items():
        own = part.variables[name]
        chosen = drawn[name][which[own.instance], torch.arange(own.num_sites)]
        values[name] = values[name].index_copy(0, block.sites_of(wrong), chosen.to(values[name].dtype))
    status = least.status.index_copy(
        0, wrong, torch.where(best.isfinite(), int(Status.CONVERGED), int(Status.INFEASIBLE))
    )
    total = least.energy.index_copy(0, wrong, best.to(least.energy.dtype))
    return replace(least, assignment=Assignment(values), energy=total, status=status)


def _selected(values: dict[str, Tensor], graph: FactorGraph, instances: Tensor) -> dict[str, Tensor]:
    return {name: values[name][block.sites_of(instances)] for name, block in graph.variables.items()}
