"""How questions about a graph are answered, and how good each answer is."""

from ebmstruct.inference.certificate import bound
from ebmstruct.inference.engine import Choice, certify, explain, log_partition, marginals, minimize, sample
from ebmstruct.inference.result import (
    Ask,
    Budget,
    Claim,
    Marginals,
    Query,
    Reparametrization,
    Result,
    Samples,
    Status,
)
from ebmstruct.inference.solver import Cost, IterativeMinimizer, Progress, Solver
from ebmstruct.inference.solvers import Exhaustive, VariableElimination

__all__ = [
    "Ask",
    "Budget",
    "Choice",
    "Claim",
    "Cost",
    "Exhaustive",
    "IterativeMinimizer",
    "Marginals",
    "Progress",
    "Query",
    "Reparametrization",
    "Result",
    "Samples",
    "Solver",
    "Status",
    "VariableElimination",
    "bound",
    "certify",
    "explain",
    "log_partition",
    "marginals",
    "minimize",
    "sample",
]
