"""How questions are answered: one file a method, none of which knows another."""

from ebmstruct.inference.solver import Solver
from ebmstruct.inference.solvers.adam import Adam
from ebmstruct.inference.solvers.alternating import Alternating
from ebmstruct.inference.solvers.amortised import AmortisedInference
from ebmstruct.inference.solvers.annealed_importance_sampling import AnnealedImportanceSampling
from ebmstruct.inference.solvers.annealed_langevin import AnnealedLangevin
from ebmstruct.inference.solvers.annealing import Annealing
from ebmstruct.inference.solvers.augmented_lagrangian import AugmentedLagrangian
from ebmstruct.inference.solvers.belief_propagation import BeliefPropagation
from ebmstruct.inference.solvers.branch_and_bound import BranchAndBound
from ebmstruct.inference.solvers.cardinality import Cardinality
from ebmstruct.inference.solvers.conditional_gaussian import ConditionalGaussian
from ebmstruct.inference.solvers.cp_sat import CPSAT
from ebmstruct.inference.solvers.dual_ascent import DualAscent
from ebmstruct.inference.solvers.elimination import VariableElimination
from ebmstruct.inference.solvers.exhaustive import Exhaustive
from ebmstruct.inference.solvers.expected_f1 import ExpectedF1
from ebmstruct.inference.solvers.free_energy_descent import FreeEnergyDescent
from ebmstruct.inference.solvers.gauss_newton import GaussNewton
from ebmstruct.inference.solvers.gaussian import Gaussian
from ebmstruct.inference.solvers.gaussian_mixture import GaussianMixture
from ebmstruct.inference.solvers.gibbs import BlockGibbs
from ebmstruct.inference.solvers.gibbs_with_gradients import GibbsWithGradients
from ebmstruct.inference.solvers.graph_cut import GraphCut
from ebmstruct.inference.solvers.hmc import HMC
from ebmstruct.inference.solvers.icm import ICM
from ebmstruct.inference.solvers.junction_tree import JunctionTree
from ebmstruct.inference.solvers.langevin import Langevin
from ebmstruct.inference.solvers.lbfgs import LBFGS
from ebmstruct.inference.solvers.levenberg_marquardt import LevenbergMarquardt
from ebmstruct.inference.solvers.linear_program import IntegerProgram, LinearProgram
from ebmstruct.inference.solvers.mala import MALA
from ebmstruct.inference.solvers.marginal_elimination import MarginalElimination
from ebmstruct.inference.solvers.marginal_search import MarginalSearch
from ebmstruct.inference.solvers.mean_field import MeanField
from ebmstruct.inference.solvers.mini_bucket import MiniBucket
from ebmstruct.inference.solvers.mirror_descent import MirrorDescent
from ebmstruct.inference.solvers.mixed_enumeration import MixedEnumeration
from ebmstruct.inference.solvers.mixed_gibbs import MixedGibbs
from ebmstruct.inference.solvers.move_making import AlphaExpansion
from ebmstruct.inference.solvers.nuts import NUTS
from ebmstruct.inference.solvers.relaxed_mean_field import RelaxedMeanField
from ebmstruct.inference.solvers.replica_exchange import ReplicaExchange
from ebmstruct.inference.solvers.roof_duality import RoofDuality
from ebmstruct.inference.solvers.semi_markov import SemiMarkovElimination
from ebmstruct.inference.solvers.sgld import SGLD
from ebmstruct.inference.solvers.subgraph_search import SubgraphSearch
from ebmstruct.inference.solvers.tempering import ParallelTempering
from ebmstruct.inference.solvers.threshold import Threshold
from ebmstruct.inference.solvers.toulbar2 import Toulbar2
from ebmstruct.inference.solvers.underdamped_langevin import UnderdampedLangevin

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
        ReplicaExchange,
        AnnealedImportanceSampling,
        Langevin,
        MALA,
        HMC,
        NUTS,
        BeliefPropagation,
        MeanField,
        MiniBucket,
        LinearProgram,
        IntegerProgram,
        Toulbar2,
        CPSAT,
        Gaussian,
        GaussianMixture,
        LevenbergMarquardt,
        GaussNewton,
        Exhaustive,
        LBFGS,
        Adam,
        MirrorDescent,
        AnnealedLangevin,
        AugmentedLagrangian,
        ConditionalGaussian,
        MarginalElimination,
        FreeEnergyDescent,
        MarginalSearch,
        SGLD,
        UnderdampedLangevin,
        Alternating,
        MixedEnumeration,
        MixedGibbs,
        BranchAndBound,
        AmortisedInference,
        ExpectedF1,
        Threshold,
        RelaxedMeanField,
        Cardinality,
    )
}
"""Every method by the name that task files and the command know."""

__all__ = [
    "UnderdampedLangevin",
    "SGLD",
    "MixedEnumeration",
    "Alternating",
    "AugmentedLagrangian",
    "AnnealedLangevin",
    "MirrorDescent",
    "CPSAT",
    "ICM",
    "LBFGS",
    "SOLVERS",
    "Adam",
    "MixedGibbs",
    "AlphaExpansion",
    "AmortisedInference",
    "AnnealedImportanceSampling",
    "Annealing",
    "BeliefPropagation",
    "BlockGibbs",
    "Cardinality",
    "ConditionalGaussian",
    "BranchAndBound",
    "DualAscent",
    "Exhaustive",
    "ExpectedF1",
    "FreeEnergyDescent",
    "GaussNewton",
    "Gaussian",
    "GaussianMixture",
    "GibbsWithGradients",
    "GraphCut",
    "HMC",
    "IntegerProgram",
    "JunctionTree",
    "LevenbergMarquardt",
    "LinearProgram",
    "MarginalElimination",
    "Langevin",
    "MALA",
    "MarginalSearch",
    "MeanField",
    "MiniBucket",
    "NUTS",
    "ParallelTempering",
    "RelaxedMeanField",
    "ReplicaExchange",
    "RoofDuality",
    "SemiMarkovElimination",
    "SubgraphSearch",
    "Threshold",
    "Toulbar2",
    "VariableElimination",
]
