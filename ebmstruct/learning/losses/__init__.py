"""Learning objectives: one file a family."""

from ebmstruct.learning.losses.base import Loss, LossValue, Setting
from ebmstruct.learning.losses.bounded import BoundedLikelihood
from ebmstruct.learning.losses.concave_convex import ConcaveConvex
from ebmstruct.learning.losses.contrastive import ContrastiveDivergence, PersistentContrastiveDivergence
from ebmstruct.learning.losses.denoising import DenoisingScoreMatching
from ebmstruct.learning.losses.fenchel_young import FenchelYoung
from ebmstruct.learning.losses.hybrid import HybridLikelihood
from ebmstruct.learning.losses.implicit import Implicit
from ebmstruct.learning.losses.incorrect_answer import (
    LVQ2,
    GeneralizedHinge,
    LogLoss,
    MinimumClassificationError,
    SquareExponential,
    SquareSquare,
)
from ebmstruct.learning.losses.inference_network import Amortisation, InferenceNetwork, Seal
from ebmstruct.learning.losses.likelihood import NegativeLogLikelihood, PseudoLikelihood, SoftmaxMargin
from ebmstruct.learning.losses.margin import EnergyLoss, Perceptron, StructuredHinge
from ebmstruct.learning.losses.noise_contrastive import NoiseContrastiveEstimation
from ebmstruct.learning.losses.perturbed import PerturbAndMap
from ebmstruct.learning.losses.ratio_matching import RatioMatching
from ebmstruct.learning.losses.sampled import ExpectationMaximisation, SampledLikelihood
from ebmstruct.learning.losses.score_matching import ScoreMatching
from ebmstruct.learning.losses.unrolled import Unrolled
from ebmstruct.learning.losses.value_matching import ValueMatching

__all__ = [
    "Amortisation",
    "BoundedLikelihood",
    "ConcaveConvex",
    "ContrastiveDivergence",
    "EnergyLoss",
    "ExpectationMaximisation",
    "FenchelYoung",
    "GeneralizedHinge",
    "HybridLikelihood",
    "Implicit",
    "InferenceNetwork",
    "LVQ2",
    "LogLoss",
    "Loss",
    "LossValue",
    "MinimumClassificationError",
    "NegativeLogLikelihood",
    "NoiseContrastiveEstimation",
    "Perceptron",
    "PersistentContrastiveDivergence",
    "PerturbAndMap",
    "PseudoLikelihood",
    "RatioMatching",
    "SampledLikelihood",
    "DenoisingScoreMatching",
    "ScoreMatching",
    "Seal",
    "Setting",
    "SoftmaxMargin",
    "SquareExponential",
    "SquareSquare",
    "StructuredHinge",
    "Unrolled",
    "ValueMatching",
]
