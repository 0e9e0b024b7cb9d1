"""Bayesian use of energy models: draws of their weights, and predictions averaged over them."""

from ebmstruct.learning.posterior.averaging import AveragedModel
from ebmstruct.learning.posterior.options import PosteriorOptions
from ebmstruct.learning.posterior.potential import likelihood_refusal
from ebmstruct.learning.posterior.sampling import sample_posterior
from ebmstruct.learning.posterior.weights import WeightDraws, WeightLayout

__all__ = ["AveragedModel", "PosteriorOptions", "WeightDraws", "WeightLayout", "likelihood_refusal", "sample_posterior"]
