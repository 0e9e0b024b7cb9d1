"""Samples for ArviZ, which draws the plots and tables that the field is used to."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from ebmstruct.errors import SolverRefusal
from ebmstruct.inference.diagnostics.report import by_chain
from ebmstruct.inference.result import Samples


def to_arviz(samples: Samples) -> Any:
    """An ``arviz.InferenceData``: a variable of the posterior for each block, and sample_stats where they are known.

    Variables have the dimensions chain, draw, and the block's sites (and coordinates). sample_stats: ``energy`` of each
    instance, and ``acceptance_rate`` and ``diverging`` where the sampler tells them draw by draw (stats
    ``acceptance_by_draw`` and ``diverging``, (S, B) each); what is known for a whole run is in the attributes.
    Errors: SolverRefusal where ArviZ is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # ArviZ tells of its own next version at import
        try:
            import arviz
        except ImportError as fault:
            reason = f"ArviZ cannot be imported ({fault}); install the extra: pip install 'ebmstruct[arviz]'"
            raise SolverRefusal(f"samples cannot be exported: {reason}", {"arviz": reason}) from fault
    posterior = {name: _chain_first(samples, value) for name, value in samples.values.items()}
    stats = {"energy": _chain_first(samples, samples.energy)}
    for key, name in (("acceptance_by_draw", "acceptance_rate"), ("diverging", "diverging")):
        if key in samples.stats:
            stats[name] = _chain_first(samples, torch.as_tensor(samples.stats[key]))
    known = {k: torch.as_tensor(samples.stats[k]).tolist() for k in ("acceptance", "divergences") if k in samples.stats}
    attributes = {"inference_library": "ebmstruct", "solver": samples.solver, **known}
    return arviz.from_dict(posterior=posterior, sample_stats=stats, posterior_attrs=attributes)


def _chain_first(samples: Samples, draws: torch.Tensor) -> Any:
    return by_chain(samples, draws).transpose(0, 1).detach().cpu().numpy()
