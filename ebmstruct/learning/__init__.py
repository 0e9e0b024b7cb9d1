"""How energies are shaped: losses and the training loop."""

from ebmstruct.learning.losses import (
    BoundedLikelihood,
    ContrastiveDivergence,
    ExpectationMaximisation,
    Loss,
    LossValue,
    NegativeLogLikelihood,
    Perceptron,
    PersistentContrastiveDivergence,
    PseudoLikelihood,
    SampledLikelihood,
    Setting,
    SoftmaxMargin,
    StructuredHinge,
)
from ebmstruct.learning.options import TrainingOptions
from ebmstruct.learning.training import TrainingEvent, TrainingTrace, fit, resolve_device

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
    "TrainingEvent",
    "TrainingOptions",
    "TrainingTrace",
    "fit",
    "resolve_device",
]
