"""How questions about a graph are answered, and how good each answer is."""

from ebmstruct.inference.certificate import bound, witness_bound
from ebmstruct.inference.engine import Choice, certify, explain, log_partition, marginals, minimize, sample
from ebmstruct.inference.result import (
    Ask,
    Budget,
    Claim,
    EliminationOrder,
    Marginals,
    Query,
    Reparametrization,
    Result,
    Samples,
    Several,
    Status,
)
from ebmstruct.inference.solver import Cost, IterativeMinimizer, Progress, Solver
from ebmstruct.inference.solvers import Exhaustive, VariableElimination
from ebmstruct.inference.table_view import TableView, table_refusal, table_view

__all__ = [
    "Ask",
    "Budget",
    "Choice",
    "Claim",
    "Cost",
    "EliminationOrder",
    "Exhaustive",
    "IterativeMinimizer",
    "Marginals",
    "Progress",
    "Query",
    "Reparametrization",
    "Result",
    "Samples",
    "Several",
    "Solver",
    "Status",
    "TableView",
    "VariableElimination",
    "bound",
    "certify",
    "explain",
    "log_partition",
    "marginals",
    "minimize",
    "sample",
    "table_refusal",
    "table_view",
    "witness_bound",
]
