"""How energies are shaped: losses and the training loop."""

from ebmstruct.learning.losses import (
    Amortisation,
    FenchelYoung,
    Implicit,
    InferenceNetwork,
    Loss,
    LossValue,
    NegativeLogLikelihood,
    NoiseContrastiveEstimation,
    Perceptron,
    PerturbAndMap,
    PseudoLikelihood,
    RatioMatching,
    ScoreMatching,
    Seal,
    Setting,
    SoftmaxMargin,
    StructuredHinge,
    Unrolled,
)
from ebmstruct.learning.options import TrainingOptions
from ebmstruct.learning.precision import resolve_device
from ebmstruct.learning.tracing import TrainingEvent, TrainingTrace
from ebmstruct.learning.training import fit

__all__ = [
    "FenchelYoung",
    "Implicit",
    "Amortisation",
    "InferenceNetwork",
    "Loss",
    "LossValue",
    "NegativeLogLikelihood",
    "NoiseContrastiveEstimation",
    "Perceptron",
    "PerturbAndMap",
    "PseudoLikelihood",
    "RatioMatching",
    "ScoreMatching",
    "Seal",
    "Setting",
    "SoftmaxMargin",
    "StructuredHinge",
    "TrainingEvent",
    "TrainingOptions",
    "TrainingTrace",
    "Unrolled",
    "fit",
    "resolve_device",
]
