"""Learning objectives: one file a family."""

from ebmstruct.learning.losses.base import Loss, LossValue, Setting
from ebmstruct.learning.losses.inference_network import Amortisation, InferenceNetwork, Seal
from ebmstruct.learning.losses.likelihood import NegativeLogLikelihood, PseudoLikelihood, SoftmaxMargin
from ebmstruct.learning.losses.margin import Perceptron, StructuredHinge

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
]
