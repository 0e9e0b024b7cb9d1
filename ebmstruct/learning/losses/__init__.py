"""Learning objectives: one file a family."""

from ebmstruct.learning.losses.base import Loss, LossValue, Setting
from ebmstruct.learning.losses.bounded import BoundedLikelihood
from ebmstruct.learning.losses.contrastive import ContrastiveDivergence, PersistentContrastiveDivergence
from ebmstruct.learning.losses.likelihood import NegativeLogLikelihood, PseudoLikelihood, SoftmaxMargin
from ebmstruct.learning.losses.margin import Perceptron, StructuredHinge
from ebmstruct.learning.losses.sampled import ExpectationMaximisation, SampledLikelihood

__all__ = [
    "BoundedLikelihood",
    "ContrastiveDivergence",
    "ExpectationMaximisation",
    "Loss",
    "LossValue",
    "NegativeLogLikelihood",
    "Perceptron",
    "PersistentContrastiveDivergence",
    "PseudoLikelihood",
    "SampledLikelihood",
    "Setting",
    "SoftmaxMargin",
    "StructuredHinge",
]
