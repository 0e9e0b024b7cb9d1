"""Learning objectives: one file a family."""

from ebmstruct.learning.losses.base import Loss, LossValue, Setting
from ebmstruct.learning.losses.bounded import BoundedLikelihood
from ebmstruct.learning.losses.contrastive import ContrastiveDivergence, PersistentContrastiveDivergence
from ebmstruct.learning.losses.fenchel_young import FenchelYoung
from ebmstruct.learning.losses.implicit import Implicit
from ebmstruct.learning.losses.inference_network import Amortisation, InferenceNetwork, Seal
from ebmstruct.learning.losses.likelihood import NegativeLogLikelihood, PseudoLikelihood, SoftmaxMargin
from ebmstruct.learning.losses.margin import Perceptron, StructuredHinge
from ebmstruct.learning.losses.noise_contrastive import NoiseContrastiveEstimation
from ebmstruct.learning.losses.perturbed import PerturbAndMap
from ebmstruct.learning.losses.ratio_matching import RatioMatching
from ebmstruct.learning.losses.sampled import ExpectationMaximisation, SampledLikelihood
from ebmstruct.learning.losses.score_matching import ScoreMatching
from ebmstruct.learning.losses.unrolled import Unrolled

__all__ = [
    "Amortisation",
    "BoundedLikelihood",
    "ContrastiveDivergence",
    "ExpectationMaximisation",
    "FenchelYoung",
    "Implicit",
    "InferenceNetwork",
    "Loss",
    "LossValue",
    "NegativeLogLikelihood",
    "NoiseContrastiveEstimation",
    "Perceptron",
    "PersistentContrastiveDivergence",
    "PerturbAndMap",
    "PseudoLikelihood",
    "RatioMatching",
    "SampledLikelihood",
    "ScoreMatching",
    "Seal",
    "Setting",
    "SoftmaxMargin",
    "StructuredHinge",
    "Unrolled",
]
