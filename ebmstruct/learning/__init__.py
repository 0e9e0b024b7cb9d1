"""How energies are shaped: losses and the training loop."""

from ebmstruct.learning.losses import (
    Loss,
    LossValue,
    NegativeLogLikelihood,
    NoiseContrastiveEstimation,
    Perceptron,
    PseudoLikelihood,
    RatioMatching,
    ScoreMatching,
    Setting,
    SoftmaxMargin,
    StructuredHinge,
)
from ebmstruct.learning.options import TrainingOptions
from ebmstruct.learning.precision import resolve_device
from ebmstruct.learning.tracing import TrainingEvent, TrainingTrace
from ebmstruct.learning.training import fit

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
    "TrainingEvent",
    "TrainingOptions",
    "TrainingTrace",
    "fit",
    "resolve_device",
]
