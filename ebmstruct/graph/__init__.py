"""What is asked: variables, factors, and the factor graph that adds them up."""

from ebmstruct.graph.assignment import Assignment
from ebmstruct.graph.bilinear import BilinearFactor
from ebmstruct.graph.chains import ChainFactor
from ebmstruct.graph.continuous import Continuous, Real
from ebmstruct.graph.counts import CountFactor
from ebmstruct.graph.domains import Discrete, Domain
from ebmstruct.graph.factor_graph import FactorGraph, union
from ebmstruct.graph.factors import BlockFactor, Factor, Slope
from ebmstruct.graph.function_tables import FunctionTableFactor
from ebmstruct.graph.gaussians import GaussianFactor
from ebmstruct.graph.grids import GridFactor, potts_table
from ebmstruct.graph.manifolds import SE2, SE3, SO2, SO3
from ebmstruct.graph.noise import NoiseLevel, at_noise, noise_block, noise_levels
from ebmstruct.graph.residuals import ResidualFactor
from ebmstruct.graph.robust import Cauchy, GemanMcClure, Huber, RobustLoss, Tukey
from ebmstruct.graph.segments import SegmentFactor
from ebmstruct.graph.tables import TableFactor
from ebmstruct.graph.tabulation import tabulate
from ebmstruct.graph.topology import Topology
from ebmstruct.graph.variables import Variables

__all__ = [
    "SE2",
    "SE3",
    "SO2",
    "SO3",
    "Assignment",
    "BilinearFactor",
    "BlockFactor",
    "Cauchy",
    "ChainFactor",
    "Continuous",
    "CountFactor",
    "Discrete",
    "Domain",
    "Factor",
    "FactorGraph",
    "FunctionTableFactor",
    "GaussianFactor",
    "GemanMcClure",
    "GridFactor",
    "Huber",
    "NoiseLevel",
    "Real",
    "ResidualFactor",
    "RobustLoss",
    "SegmentFactor",
    "Slope",
    "TableFactor",
    "Topology",
    "Tukey",
    "Variables",
    "at_noise",
    "noise_block",
    "noise_levels",
    "potts_table",
    "tabulate",
    "union",
]
