"""A look at draws that costs next to nothing, for every sample: do the chains agree, and do they move?"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ebmstruct.inference.diagnostics.reals import split_r_hat
from ebmstruct.inference.diagnostics.report import ACCEPTANCE_LOW, largest
from ebmstruct.inference.diagnostics.states import R_HAT_FINE

DRAWS = 128
"""Draws of a chain that are looked at, evenly spaced: R-hat needs no more to see chains that disagree."""
NUMBERS = 1 << 14
"""Numbers of a block that are looked at: less than a millisecond's work."""


def glance(
    values: Mapping[str, Tensor],
    acceptance: Tensor | None,
    divergences: Tensor | None,
    known: Mapping[str, float],
) -> tuple[dict[str, float], tuple[str, ...]]:
    """Each block's largest R-hat, and what is plainly wrong, a sentence each.

    values: block name to draws (D, C, n) or (D, C, n, d).  known: the figures of discrete blocks. Of continuous blocks a
    part of the coordinates and of the draws is looked at; ``diagnose`` looks at all. With fewer than 16 draws a chain
    nothing is said of agreement.
    """
    figures, out = dict(known), []
    if acceptance is not None and bool((acceptance < ACCEPTANCE_LOW).any()):
        worst = int(acceptance.argmin())
        out.append(
            f"the chains are stuck: instance {worst} accepts {100 * float(acceptance[worst]):.2g} % of its proposals; take "
            "smaller steps, or start elsewhere (init)"
        )
    if divergences is not None and int(divergences.sum()):
        worst = int(divergences.argmax())
        out.append(
            f"{int(divergences.sum())} divergences, {int(divergences[worst])} of them in instance {worst}: steps are too "
            "long where the energy is steep, and draws avoid that region; take smaller steps, or scale the variables"
        )
    for name, draws in values.items():
        if name not in figures:
            figures[name] = largest(split_r_hat(_some(draws)))
        if draws.shape[0] >= 16 and figures[name] > R_HAT_FINE:
            out.append(
                f"the chains disagree: R-hat of block {name!r} reaches {figures[name]:.3g}, above {R_HAT_FINE}; run longer "
                "(burn_in, num_samples), or use a sampler that crosses valleys (tempering); diagnose(samples) says where"
            )
    return figures, tuple(out)


def _some(draws: Tensor) -> Tensor:
    """(D', C, N'): evenly spaced draws and coordinates."""
    count, chains = draws.shape[:2]
    if count > DRAWS:
        draws = draws[torch.linspace(0, count - 1, DRAWS).long()]
    flat = draws.flatten(2) if draws.dim() > 3 else draws
    most = max(1, NUMBERS // max(1, flat.shape[0] * chains))
    return flat[:, :, :: -(-flat.shape[2] // most)] if flat.shape[2] > most else flat
