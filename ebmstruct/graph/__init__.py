"""What is asked: variables, factors, and the factor graph that adds them up."""

from ebmstruct.graph.assignment import Assignment
from ebmstruct.graph.chains import ChainFactor
from ebmstruct.graph.domains import Discrete, Domain, Real
from ebmstruct.graph.factor_graph import FactorGraph, union
from ebmstruct.graph.factors import BlockFactor, Factor, ResidualFactor
from ebmstruct.graph.grids import GridFactor, potts_table
from ebmstruct.graph.tables import TableFactor
from ebmstruct.graph.topology import Topology
from ebmstruct.graph.variables import Variables

__all__ = [
    "Assignment",
    "BlockFactor",
    "ChainFactor",
    "Discrete",
    "Domain",
    "Factor",
    "FactorGraph",
    "GridFactor",
    "Real",
    "ResidualFactor",
    "TableFactor",
    "Topology",
    "Variables",
    "potts_table",
    "union",
]
