"""How questions are answered: one file a method, none of which knows another."""

from ebmstruct.inference.solvers.elimination import VariableElimination
from ebmstruct.inference.solvers.exhaustive import Exhaustive

__all__ = ["Exhaustive", "VariableElimination"]
