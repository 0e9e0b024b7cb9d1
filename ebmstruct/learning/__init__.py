"""How energies are shaped: losses and the training loop."""

from ebmstruct.learning.losses import (
    LVQ2,
    ConcaveConvex,
    EnergyLoss,
    GeneralizedHinge,
    LogLoss,
    Loss,
    LossValue,
    MinimumClassificationError,
    NegativeLogLikelihood,
    Perceptron,
    PseudoLikelihood,
    Setting,
    SoftmaxMargin,
    SquareExponential,
    SquareSquare,
    StructuredHinge,
    ValueMatching,
)
from ebmstruct.learning.options import TrainingOptions
from ebmstruct.learning.training import TrainingEvent, TrainingTrace, fit, resolve_device

__all__ = [
    "ValueMatching",
    "SquareSquare",
    "SquareExponential",
    "MinimumClassificationError",
    "LogLoss",
    "GeneralizedHinge",
    "EnergyLoss",
    "ConcaveConvex",
    "LVQ2",
    "Loss",
    "LossValue",
    "NegativeLogLikelihood",
    "Perceptron",
    "PseudoLikelihood",
    "Setting",
    "SoftmaxMargin",
    "StructuredHinge",
    "TrainingEvent",
    "TrainingOptions",
    "TrainingTrace",
    "fit",
    "resolve_device",
]
