"""How energies are shaped: losses and the training loop."""

from ebmstruct.learning.losses import (
    Amortisation,
    InferenceNetwork,
    Loss,
    LossValue,
    NegativeLogLikelihood,
    Perceptron,
    PseudoLikelihood,
    Seal,
    Setting,
    SoftmaxMargin,
    StructuredHinge,
)
from ebmstruct.learning.options import TrainingOptions
from ebmstruct.learning.training import TrainingEvent, TrainingTrace, fit, resolve_device

__all__ = [
    "Amortisation",
    "InferenceNetwork",
    "Loss",
    "LossValue",
    "NegativeLogLikelihood",
    "Perceptron",
    "PseudoLikelihood",
    "Seal",
    "Setting",
    "SoftmaxMargin",
    "StructuredHinge",
    "TrainingEvent",
    "TrainingOptions",
    "TrainingTrace",
    "fit",
    "resolve_device",
]
