"""Whether to believe a sample: how well chains agree, what their draws are worth, and what to do where they are not."""

from ebmstruct.inference.diagnostics.export import to_arviz
from ebmstruct.inference.diagnostics.glance import glance
from ebmstruct.inference.diagnostics.reals import (
    Figures,
    e_bfmi,
    ess_bulk,
    ess_mean,
    ess_tail,
    figures,
    mcse_mean,
    rank_r_hat,
    split_r_hat,
)
from ebmstruct.inference.diagnostics.report import ENOUGH, Diagnostics, by_chain, diagnose, largest
from ebmstruct.inference.diagnostics.states import R_HAT_FINE, effective_samples, r_hat, site_r_hat, state_figures

__all__ = [
    "ENOUGH",
    "R_HAT_FINE",
    "Diagnostics",
    "Figures",
    "by_chain",
    "diagnose",
    "e_bfmi",
    "effective_samples",
    "ess_bulk",
    "ess_mean",
    "ess_tail",
    "figures",
    "glance",
    "largest",
    "mcse_mean",
    "r_hat",
    "rank_r_hat",
    "site_r_hat",
    "split_r_hat",
    "state_figures",
    "to_arviz",
]
