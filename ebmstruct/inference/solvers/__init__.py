"""How questions are answered: one file a method, none of which knows another."""

from ebmstruct.inference.solver import Solver
from ebmstruct.inference.solvers.annealing import Annealing
from ebmstruct.inference.solvers.belief_propagation import BeliefPropagation
from ebmstruct.inference.solvers.cp_sat import CPSAT
from ebmstruct.inference.solvers.dual_ascent import DualAscent
from ebmstruct.inference.solvers.elimination import VariableElimination
from ebmstruct.inference.solvers.exhaustive import Exhaustive
from ebmstruct.inference.solvers.gibbs import BlockGibbs
from ebmstruct.inference.solvers.gibbs_with_gradients import GibbsWithGradients
from ebmstruct.inference.solvers.graph_cut import GraphCut
from ebmstruct.inference.solvers.icm import ICM
from ebmstruct.inference.solvers.junction_tree import JunctionTree
from ebmstruct.inference.solvers.lbfgs import LBFGS
from ebmstruct.inference.solvers.linear_program import IntegerProgram, LinearProgram
from ebmstruct.inference.solvers.mean_field import MeanField
from ebmstruct.inference.solvers.mini_bucket import MiniBucket
from ebmstruct.inference.solvers.move_making import AlphaExpansion
from ebmstruct.inference.solvers.roof_duality import RoofDuality
from ebmstruct.inference.solvers.semi_markov import SemiMarkovElimination
from ebmstruct.inference.solvers.subgraph_search import SubgraphSearch
from ebmstruct.inference.solvers.tempering import ParallelTempering
from ebmstruct.inference.solvers.toulbar2 import Toulbar2

SOLVERS: dict[str, type[Solver]] = {
    cls.name: cls
    for cls in (
        VariableElimination,
        SemiMarkovElimination,
        JunctionTree,
        GraphCut,
        RoofDuality,
        DualAscent,
        SubgraphSearch,
        AlphaExpansion,
        ICM,
        Annealing,
        ParallelTempering,
        BlockGibbs,
        GibbsWithGradients,
        BeliefPropagation,
        MeanField,
        MiniBucket,
        LinearProgram,
        IntegerProgram,
        Toulbar2,
        CPSAT,
        Exhaustive,
        LBFGS,
    )
}
"""Every method by the name that task files and the command know."""

__all__ = [
    "SOLVERS",
    "AlphaExpansion",
    "Annealing",
    "BeliefPropagation",
    "BlockGibbs",
    "CPSAT",
    "DualAscent",
    "Exhaustive",
    "GibbsWithGradients",
    "GraphCut",
    "ICM",
    "IntegerProgram",
    "JunctionTree",
    "LBFGS",
    "LinearProgram",
    "MeanField",
    "MiniBucket",
    "ParallelTempering",
    "RoofDuality",
    "SemiMarkovElimination",
    "SubgraphSearch",
    "Toulbar2",
    "VariableElimination",
]
