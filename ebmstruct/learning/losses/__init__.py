"""Learning objectives: one file a family."""

from ebmstruct.learning.losses.base import Loss, LossValue, Setting
from ebmstruct.learning.losses.likelihood import NegativeLogLikelihood, PseudoLikelihood, SoftmaxMargin
from ebmstruct.learning.losses.margin import Perceptron, StructuredHinge
from ebmstruct.learning.losses.noise_contrastive import NoiseContrastiveEstimation
from ebmstruct.learning.losses.ratio_matching import RatioMatching
from ebmstruct.learning.losses.score_matching import ScoreMatching

__all__ = [
    "Loss",
    "LossValue",
    "NegativeLogLikelihood",
    "NoiseContrastiveEstimation",
    "Perceptron",
    "PseudoLikelihood",
    "RatioMatching",
    "ScoreMatching",
    "Setting",
    "SoftmaxMargin",
    "StructuredHinge",
]
