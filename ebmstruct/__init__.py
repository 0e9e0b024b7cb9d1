"""Structured prediction by energy minimisation.

Public names are resolved when they are first used, so that importing ebmstruct is quick and the command's help
does not wait for torch. Plugins are never looked for by an import.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "ebmstruct.errors": (
        "ConfigError",
        "DataError",
        "EbmstructError",
        "GraphError",
        "InferenceFailed",
        "LossRefusal",
        "PluginError",
        "RunFolderError",
        "SolverRefusal",
        "TrainingDiverged",
    ),
    "ebmstruct.graph": (
        "Assignment",
        "BilinearFactor",
        "BlockFactor",
        "ChainFactor",
        "CountFactor",
        "Discrete",
        "Factor",
        "FactorGraph",
        "FunctionTableFactor",
        "GridFactor",
        "NoiseLevel",
        "Real",
        "ResidualFactor",
        "SegmentFactor",
        "TableFactor",
        "Variables",
        "Cauchy",
        "Continuous",
        "GaussianFactor",
        "GemanMcClure",
        "Huber",
        "RobustLoss",
        "SE2",
        "SE3",
        "SO2",
        "SO3",
        "Tukey",
        "tabulate",
        "potts_table",
        "union",
    ),
    "ebmstruct.inference": (
        "AugmentedLagrangian",
        "MirrorDescent",
        "AnnealedLangevin",
        "Adam",
        "MixedGibbs",
        "MixedEnumeration",
        "Alternating",
        "AlphaExpansion",
        "AmortisedInference",
        "AnnealedImportanceSampling",
        "Annealing",
        "BeliefPropagation",
        "BlockGibbs",
        "BranchAndBound",
        "Budget",
        "CPSAT",
        "Cardinality",
        "ConditionalGaussian",
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
        "ICM",
        "IntegerProgram",
        "JunctionTree",
        "LBFGS",
        "LevenbergMarquardt",
        "LinearProgram",
        "MarginalElimination",
        "Langevin",
        "MALA",
        "MarginalSearch",
        "Marginals",
        "MeanField",
        "MiniBucket",
        "NUTS",
        "ParallelTempering",
        "Query",
        "RelaxedMeanField",
        "ReplicaExchange",
        "Result",
        "RoofDuality",
        "SemiMarkovElimination",
        "Samples",
        "Solver",
        "Status",
        "SubgraphSearch",
        "Threshold",
        "Toulbar2",
        "SGLD",
        "UnderdampedLangevin",
        "VariableElimination",
        "bound_log_partition",
        "explain",
        "gap_calibration",
        "log_partition",
        "marginals",
        "minimize",
        "sample",
    ),
    "ebmstruct.energies": (
        "Amortised",
        "AttentionEnergy",
        "BoltzmannMachine",
        "ChainEnergy",
        "ConvolutionalEnergy",
        "DeepBoltzmannMachine",
        "DenoisingEnergy",
        "EnergyModel",
        "GaussianBoltzmannMachine",
        "GraphNetworkEnergy",
        "GridEnergy",
        "IndependentComponents",
        "JointClassifier",
        "LabelSetEnergy",
        "LogCoshExpert",
        "MixtureEnergy",
        "NodeGraph",
        "ProductOfExperts",
        "SecondOrderChainEnergy",
        "SegmentEnergy",
        "SkipChainEnergy",
        "StudentTExpert",
        "SumOfEnergies",
        "TreeEnergy",
        "UniGaussExpert",
        "graph_network",
    ),
    "ebmstruct.learning": (
        "AveragedModel",
        "PosteriorOptions",
        "WeightDraws",
        "sample_posterior",
        "ConcaveConvex",
        "EnergyLoss",
        "GeneralizedHinge",
        "LogLoss",
        "FenchelYoung",
        "HybridLikelihood",
        "Implicit",
        "Amortisation",
        "InferenceNetwork",
        "BoundedLikelihood",
        "ContrastiveDivergence",
        "ExpectationMaximisation",
        "Loss",
        "LVQ2",
        "MinimumClassificationError",
        "NegativeLogLikelihood",
        "NoiseContrastiveEstimation",
        "Perceptron",
        "PerturbAndMap",
        "PseudoLikelihood",
        "RatioMatching",
        "ScoreMatching",
        "DenoisingScoreMatching",
        "Seal",
        "PersistentContrastiveDivergence",
        "SampledLikelihood",
        "SoftmaxMargin",
        "SquareExponential",
        "SquareSquare",
        "StructuredHinge",
        "TrainingOptions",
        "TrainingTrace",
        "ValueMatching",
        "Unrolled",
        "fit",
    ),
    "ebmstruct.extend": ("Example", "Schema", "Task", "hookimpl"),
    "ebmstruct.run": ("Predictor", "load"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted([*_HOME_OF, "__version__"])

if TYPE_CHECKING:
    from ebmstruct.energies import Amortised as Amortised
    from ebmstruct.energies import AttentionEnergy as AttentionEnergy
    from ebmstruct.energies import BoltzmannMachine as BoltzmannMachine
    from ebmstruct.energies import ChainEnergy as ChainEnergy
    from ebmstruct.energies import ConvolutionalEnergy as ConvolutionalEnergy
    from ebmstruct.energies import DeepBoltzmannMachine as DeepBoltzmannMachine
    from ebmstruct.energies import DenoisingEnergy as DenoisingEnergy
    from ebmstruct.energies import EnergyModel as EnergyModel
    from ebmstruct.energies import GaussianBoltzmannMachine as GaussianBoltzmannMachine
    from ebmstruct.energies import GraphNetworkEnergy as GraphNetworkEnergy
    from ebmstruct.energies import GridEnergy as GridEnergy
    from ebmstruct.energies import IndependentComponents as IndependentComponents
    from ebmstruct.energies import JointClassifier as JointClassifier
    from ebmstruct.energies import LabelSetEnergy as LabelSetEnergy
    from ebmstruct.energies import LogCoshExpert as LogCoshExpert
    from ebmstruct.energies import MixtureEnergy as MixtureEnergy
    from ebmstruct.energies import NodeGraph as NodeGraph
    from ebmstruct.energies import ProductOfExperts as ProductOfExperts
    from ebmstruct.energies import SecondOrderChainEnergy as SecondOrderChainEnergy
    from ebmstruct.energies import SegmentEnergy as SegmentEnergy
    from ebmstruct.energies import SkipChainEnergy as SkipChainEnergy
    from ebmstruct.energies import StudentTExpert as StudentTExpert
    from ebmstruct.energies import SumOfEnergies as SumOfEnergies
    from ebmstruct.energies import TreeEnergy as TreeEnergy
    from ebmstruct.energies import UniGaussExpert as UniGaussExpert
    from ebmstruct.energies import graph_network as graph_network
    from ebmstruct.errors import ConfigError as ConfigError
    from ebmstruct.errors import DataError as DataError
    from ebmstruct.errors import EbmstructError as EbmstructError
    from ebmstruct.errors import GraphError as GraphError
    from ebmstruct.errors import InferenceFailed as InferenceFailed
    from ebmstruct.errors import LossRefusal as LossRefusal
    from ebmstruct.errors import PluginError as PluginError
    from ebmstruct.errors import RunFolderError as RunFolderError
    from ebmstruct.errors import SolverRefusal as SolverRefusal
    from ebmstruct.errors import TrainingDiverged as TrainingDiverged
    from ebmstruct.extend import Example as Example
    from ebmstruct.extend import Schema as Schema
    from ebmstruct.extend import Task as Task
    from ebmstruct.extend import hookimpl as hookimpl
    from ebmstruct.graph import SE2 as SE2
    from ebmstruct.graph import SE3 as SE3
    from ebmstruct.graph import SO2 as SO2
    from ebmstruct.graph import SO3 as SO3
    from ebmstruct.graph import Assignment as Assignment
    from ebmstruct.graph import BilinearFactor as BilinearFactor
    from ebmstruct.graph import BlockFactor as BlockFactor
    from ebmstruct.graph import Cauchy as Cauchy
    from ebmstruct.graph import ChainFactor as ChainFactor
    from ebmstruct.graph import Continuous as Continuous
    from ebmstruct.graph import CountFactor as CountFactor
    from ebmstruct.graph import Discrete as Discrete
    from ebmstruct.graph import Factor as Factor
    from ebmstruct.graph import FactorGraph as FactorGraph
    from ebmstruct.graph import FunctionTableFactor as FunctionTableFactor
    from ebmstruct.graph import GaussianFactor as GaussianFactor
    from ebmstruct.graph import GemanMcClure as GemanMcClure
    from ebmstruct.graph import GridFactor as GridFactor
    from ebmstruct.graph import Huber as Huber
    from ebmstruct.graph import NoiseLevel as NoiseLevel
    from ebmstruct.graph import Real as Real
    from ebmstruct.graph import ResidualFactor as ResidualFactor
    from ebmstruct.graph import RobustLoss as RobustLoss
    from ebmstruct.graph import SegmentFactor as SegmentFactor
    from ebmstruct.graph import TableFactor as TableFactor
    from ebmstruct.graph import Tukey as Tukey
    from ebmstruct.graph import Variables as Variables
    from ebmstruct.graph import potts_table as potts_table
    from ebmstruct.graph import tabulate as tabulate
    from ebmstruct.graph import union as union
    from ebmstruct.inference import CPSAT as CPSAT
    from ebmstruct.inference import HMC as HMC
    from ebmstruct.inference import ICM as ICM
    from ebmstruct.inference import LBFGS as LBFGS
    from ebmstruct.inference import MALA as MALA
    from ebmstruct.inference import NUTS as NUTS
    from ebmstruct.inference import SGLD as SGLD
    from ebmstruct.inference import Adam as Adam
    from ebmstruct.inference import AlphaExpansion as AlphaExpansion
    from ebmstruct.inference import Alternating as Alternating
    from ebmstruct.inference import AmortisedInference as AmortisedInference
    from ebmstruct.inference import AnnealedImportanceSampling as AnnealedImportanceSampling
    from ebmstruct.inference import AnnealedLangevin as AnnealedLangevin
    from ebmstruct.inference import Annealing as Annealing
    from ebmstruct.inference import AugmentedLagrangian as AugmentedLagrangian
    from ebmstruct.inference import BeliefPropagation as BeliefPropagation
    from ebmstruct.inference import BlockGibbs as BlockGibbs
    from ebmstruct.inference import BranchAndBound as BranchAndBound
    from ebmstruct.inference import Budget as Budget
    from ebmstruct.inference import Cardinality as Cardinality
    from ebmstruct.inference import ConditionalGaussian as ConditionalGaussian
    from ebmstruct.inference import DualAscent as DualAscent
    from ebmstruct.inference import Exhaustive as Exhaustive
    from ebmstruct.inference import ExpectedF1 as ExpectedF1
    from ebmstruct.inference import FreeEnergyDescent as FreeEnergyDescent
    from ebmstruct.inference import Gaussian as Gaussian
    from ebmstruct.inference import GaussianMixture as GaussianMixture
    from ebmstruct.inference import GaussNewton as GaussNewton
    from ebmstruct.inference import GibbsWithGradients as GibbsWithGradients
    from ebmstruct.inference import GraphCut as GraphCut
    from ebmstruct.inference import IntegerProgram as IntegerProgram
    from ebmstruct.inference import JunctionTree as JunctionTree
    from ebmstruct.inference import Langevin as Langevin
    from ebmstruct.inference import LevenbergMarquardt as LevenbergMarquardt
    from ebmstruct.inference import LinearProgram as LinearProgram
    from ebmstruct.inference import MarginalElimination as MarginalElimination
    from ebmstruct.inference import Marginals as Marginals
    from ebmstruct.inference import MarginalSearch as MarginalSearch
    from ebmstruct.inference import MeanField as MeanField
    from ebmstruct.inference import MiniBucket as MiniBucket
    from ebmstruct.inference import MirrorDescent as MirrorDescent
    from ebmstruct.inference import MixedEnumeration as MixedEnumeration
    from ebmstruct.inference import MixedGibbs as MixedGibbs
    from ebmstruct.inference import ParallelTempering as ParallelTempering
    from ebmstruct.inference import Query as Query
    from ebmstruct.inference import RelaxedMeanField as RelaxedMeanField
    from ebmstruct.inference import ReplicaExchange as ReplicaExchange
    from ebmstruct.inference import Result as Result
    from ebmstruct.inference import RoofDuality as RoofDuality
    from ebmstruct.inference import Samples as Samples
    from ebmstruct.inference import SemiMarkovElimination as SemiMarkovElimination
    from ebmstruct.inference import Solver as Solver
    from ebmstruct.inference import Status as Status
    from ebmstruct.inference import SubgraphSearch as SubgraphSearch
    from ebmstruct.inference import Threshold as Threshold
    from ebmstruct.inference import Toulbar2 as Toulbar2
    from ebmstruct.inference import UnderdampedLangevin as UnderdampedLangevin
    from ebmstruct.inference import VariableElimination as VariableElimination
    from ebmstruct.inference import bound_log_partition as bound_log_partition
    from ebmstruct.inference import explain as explain
    from ebmstruct.inference import gap_calibration as gap_calibration
    from ebmstruct.inference import log_partition as log_partition
    from ebmstruct.inference import marginals as marginals
    from ebmstruct.inference import minimize as minimize
    from ebmstruct.inference import sample as sample
    from ebmstruct.learning import LVQ2 as LVQ2
    from ebmstruct.learning import Amortisation as Amortisation
    from ebmstruct.learning import AveragedModel as AveragedModel
    from ebmstruct.learning import BoundedLikelihood as BoundedLikelihood
    from ebmstruct.learning import ConcaveConvex as ConcaveConvex
    from ebmstruct.learning import ContrastiveDivergence as ContrastiveDivergence
    from ebmstruct.learning import DenoisingScoreMatching as DenoisingScoreMatching
    from ebmstruct.learning import EnergyLoss as EnergyLoss
    from ebmstruct.learning import ExpectationMaximisation as ExpectationMaximisation
    from ebmstruct.learning import FenchelYoung as FenchelYoung
    from ebmstruct.learning import GeneralizedHinge as GeneralizedHinge
    from ebmstruct.learning import HybridLikelihood as HybridLikelihood
    from ebmstruct.learning import Implicit as Implicit
    from ebmstruct.learning import InferenceNetwork as InferenceNetwork
    from ebmstruct.learning import LogLoss as LogLoss
    from ebmstruct.learning import Loss as Loss
    from ebmstruct.learning import MinimumClassificationError as MinimumClassificationError
    from ebmstruct.learning import NegativeLogLikelihood as NegativeLogLikelihood
    from ebmstruct.learning import NoiseContrastiveEstimation as NoiseContrastiveEstimation
    from ebmstruct.learning import Perceptron as Perceptron
    from ebmstruct.learning import PersistentContrastiveDivergence as PersistentContrastiveDivergence
    from ebmstruct.learning import PerturbAndMap as PerturbAndMap
    from ebmstruct.learning import PosteriorOptions as PosteriorOptions
    from ebmstruct.learning import PseudoLikelihood as PseudoLikelihood
    from ebmstruct.learning import RatioMatching as RatioMatching
    from ebmstruct.learning import SampledLikelihood as SampledLikelihood
    from ebmstruct.learning import ScoreMatching as ScoreMatching
    from ebmstruct.learning import Seal as Seal
    from ebmstruct.learning import SoftmaxMargin as SoftmaxMargin
    from ebmstruct.learning import SquareExponential as SquareExponential
    from ebmstruct.learning import SquareSquare as SquareSquare
    from ebmstruct.learning import StructuredHinge as StructuredHinge
    from ebmstruct.learning import TrainingOptions as TrainingOptions
    from ebmstruct.learning import TrainingTrace as TrainingTrace
    from ebmstruct.learning import Unrolled as Unrolled
    from ebmstruct.learning import ValueMatching as ValueMatching
    from ebmstruct.learning import WeightDraws as WeightDraws
    from ebmstruct.learning import fit as fit
    from ebmstruct.learning import sample_posterior as sample_posterior
    from ebmstruct.run import Predictor as Predictor
    from ebmstruct.run import load as load


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = globals()[name] = getattr(importlib.import_module(_HOME_OF[name]), name)
        return value
    raise AttributeError(f"module 'ebmstruct' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
