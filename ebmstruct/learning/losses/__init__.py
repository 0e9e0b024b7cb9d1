"""Learning objectives: one file a family."""

from ebmstruct.learning.losses.base import Loss, LossValue, Setting
from ebmstruct.learning.losses.concave_convex import ConcaveConvex
from ebmstruct.learning.losses.incorrect_answer import (
    LVQ2,
    GeneralizedHinge,
    LogLoss,
    MinimumClassificationError,
    SquareExponential,
    SquareSquare,
)
from ebmstruct.learning.losses.likelihood import NegativeLogLikelihood, PseudoLikelihood, SoftmaxMargin
from ebmstruct.learning.losses.margin import EnergyLoss, Perceptron, StructuredHinge
from ebmstruct.learning.losses.value_matching import ValueMatching

__all__ = [
    "LVQ2",
    "ConcaveConvex",
    "EnergyLoss",
    "GeneralizedHinge",
    "LogLoss",
    "Loss",
    "LossValue",
    "MinimumClassificationError",
    "NegativeLogLikelihood",
    "Perceptron",
    "PseudoLikelihood",
    "Setting",
    "SoftmaxMargin",
    "SquareExponential",
    "SquareSquare",
    "StructuredHinge",
    "ValueMatching",
]
