"""The diagnostics of one sample: figures by block and by instance, and what is wrong, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ebmstruct.graph import FactorGraph
from ebmstruct.inference.diagnostics.reals import Figures, e_bfmi, figures
from ebmstruct.inference.diagnostics.states import R_HAT_FINE, state_figures
from ebmstruct.inference.result import Samples

ENOUGH = 100.0
"""Effective draws below which a warning is given. Vehtari et al. (2021) ask for 400 before quantiles are published."""
E_BFMI_LOW = 0.3
"""Below this momenta do not reach all levels of energy (Betancourt 2016)."""
ACCEPTANCE_LOW = 0.02
"""Below this share of accepted proposals chains are called stuck."""


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """How far a sample can be believed; printed, it is a table and the warnings.

    r_hat, ess_bulk, ess_tail, mcse: block name to (n,) for a discrete block, (n, d) for a continuous one: the potential
    scale reduction, effective draws for the middle and for the tails, and the standard error of the mean. For a
    discrete block they are those of the indicator of each site's commonest state. NaN where they cannot be told.
    energy: (D, C, B), the trace.  acceptance, divergences: (B,), where the sampler tells them.
    e_bfmi: (C, B), where the sampler tells its Hamiltonian energies.  warnings: a sentence each, none where all is well.
    """

    r_hat: Mapping[str, Tensor]
    ess_bulk: Mapping[str, Tensor]
    ess_tail: Mapping[str, Tensor]
    mcse: Mapping[str, Tensor]
    energy: Tensor
    acceptance: Tensor | None = None
    divergences: Tensor | None = None
    e_bfmi: Tensor | None = None
    warnings: tuple[str, ...] = field(default=())
    solver: str = ""

    @property
    def worst_r_hat(self) -> float:
        """The largest R-hat of all; NaN where none is known, 1 where there is nothing."""
        parts = [r.reshape(-1) for r in self.r_hat.values() if r.numel()]
        if not parts:
            return 1.0
        known = torch.cat(parts)
        known = known[~known.isnan()]
        return float(known.max()) if known.numel() else float("nan")

    def __str__(self) -> str:
        draws, chains, instances = self.energy.shape
        lines = [f"{draws} draws of each of {chains} chains, {instances} instances, by {self.solver or 'a sampler'}"]
        lines.append(f"{'block':<16}{'sites':>8}{'R-hat':>10}{'bulk ESS':>10}{'tail ESS':>10}{'MCSE':>11}")
        for name, rows in self.r_hat.items():
            shown = (_most(rows), _least(self.ess_bulk[name]), _least(self.ess_tail[name]), _most(self.mcse[name]))
            lines.append(
                f"{name:<16}{rows.shape[0]:>8}{shown[0]:>10.4f}{shown[1]:>10.0f}{shown[2]:>10.0f}{shown[3]:>11.3g}"
            )
        if self.acceptance is not None and self.acceptance.numel():
            low, high = float(self.acceptance.min()), float(self.acceptance.max())
            lines.append(f"acceptance {low:.3f} to {high:.3f}")
        if self.divergences is not None:
            lines.append(f"divergences {int(self.divergences.sum())}")
        if self.e_bfmi is not None:
            lines.append(f"least E-BFMI {_least(self.e_bfmi):.3f}")
        return "\n".join([*lines, *(f"warning: {sentence}" for sentence in self.warnings)])


def diagnose(samples: Samples, graph: FactorGraph | None = None, *, enough: float = ENOUGH) -> Diagnostics:
    """The diagnostics of a sample, block by block and instance by instance.

    graph: whose sample it is; with it warnings name the instance too.  enough: effective draws to ask for.
    Of ``samples.stats`` these are read: ``acceptance`` (B,), ``divergences`` (B,), ``hamiltonian`` (S, B) total energies,
    ``distinct`` (draws that are not repeats), ``chains`` where ``samples.chains`` is 1.
    Manifold blocks are looked at in their ambient coordinates. Clamped sites never change: R-hat 1, all draws count.
    Cost: a few sorts and Fourier transforms of every coordinate's draws, in bounded memory.
    """
    found = {name: _figures(by_chain(samples, value)) for name, value in samples.values.items()}
    energy = by_chain(samples, samples.energy)
    acceptance, divergences, total = (_stat(samples, k) for k in ("acceptance", "divergences", "hamiltonian"))
    missing = None if total is None else e_bfmi(by_chain(samples, total))
    out = Diagnostics(
        {k: f.r_hat for k, f in found.items()},
        {k: f.ess_bulk for k, f in found.items()},
        {k: f.ess_tail for k, f in found.items()},
        {k: f.mcse for k, f in found.items()},
        energy,
        acceptance,
        divergences,
        missing,
        solver=samples.solver,
    )
    sentences = () if samples.exact else _sentences(out, found, graph, enough)
    return Diagnostics(**{**out.__dict__, "warnings": sentences})


def chains_of(samples: Samples) -> int:
    """C, the chains of a sample."""
    return samples.chains if samples.chains > 1 else max(1, int(samples.stats.get("chains", 1)))


def by_chain(samples: Samples, draws: Tensor) -> Tensor:
    """(D, C, ...): draws (S, ...) chain by chain, without repeats and without a last round that is not whole."""
    chains = chains_of(samples)
    distinct = min(draws.shape[0], int(samples.stats.get("distinct", draws.shape[0])))
    if distinct < chains:
        return draws[:distinct].reshape(1, distinct, *draws.shape[1:])
    whole = distinct // chains
    return draws[: whole * chains].reshape(whole, chains, *draws.shape[1:])


def _figures(draws: Tensor) -> Figures:
    return figures(draws) if draws.is_floating_point() else state_figures(draws)


def _stat(samples: Samples, key: str) -> Tensor | None:
    value = samples.stats.get(key)
    return None if value is None else torch.as_tensor(value).detach()


def largest(rows: Tensor) -> float:
    """The largest figure that is known; 1 where there is none to know, NaN where none is known."""
    return _most(rows) if rows.numel() else 1.0


def _most(rows: Tensor) -> float:
    known = rows[~rows.isnan()]
    return float(known.max()) if known.numel() else float("nan")


def _least(rows: Tensor) -> float:
    known = rows[~rows.isnan()]
    return float(known.min()) if known.numel() else float("nan")


def _sentences(
    found: Diagnostics, by_block: Mapping[str, Figures], graph: FactorGraph | None, enough: float
) -> tuple[str, ...]:
    draws, chains, _ = found.energy.shape
    if draws < 4:
        return (
            f"{draws} draws of each of {chains} chains are too few to tell whether the chains agree; take at least four "
            f"a chain (num_samples {4 * chains} or more)",
        )
    out = [*_stuck(found), *_not_finite(found, by_block, graph)]
    for name, rows in by_block.items():
        out += _disagreement(name, rows.r_hat, graph)
    for name, rows in by_block.items():
        if not _most(rows.r_hat) > R_HAT_FINE:  # where chains disagree the number of draws means nothing
            out += _too_few(name, rows, graph, enough, draws * chains)
    return tuple([*out, *_divergences(found, draws * chains), *_low_e_bfmi(found)])


def _stuck(found: Diagnostics) -> list[str]:
    """Chains that accept nothing, and chains whose energy never changes while others have another one."""
    if found.acceptance is not None:
        low = (found.acceptance < ACCEPTANCE_LOW).nonzero()[:, 0].tolist()
        if low:
            return [
                f"the chains are stuck: instance {low[0]} accepts {100 * float(found.acceptance[low[0]]):.2g} % of its "
                f"proposals ({len(low)} instances below {100 * ACCEPTANCE_LOW:.0f} %); take smaller steps, or start "
                "elsewhere (init)"
            ]
    still = (found.energy == found.energy[:1]).all(0)
    apart = found.energy[0].amax(0) > found.energy[0].amin(0)
    where = (still & apart).nonzero().tolist()
    if not where:
        return []
    chain, instance = where[0]
    return [
        f"the chains are stuck: chain {chain} of instance {instance} never changed its energy, and other chains have "
        f"another ({len(where)} such chains); use a sampler that crosses valleys (parallel_tempering), or start elsewhere"
    ]


def _not_finite(found: Diagnostics, by_block: Mapping[str, Figures], graph: FactorGraph | None) -> list[str]:
    out = []
    bad = (~found.energy.isfinite()).any(0).any(0).nonzero()[:, 0].tolist()
    if bad:
        out.append(
            f"instance {bad[0]} met energies that are not finite ({len(bad)} such instances); its draws mean nothing"
        )
    for name, rows in by_block.items():
        unknown = rows.r_hat.isnan()
        if bool(unknown.any()) and not bad:
            out.append(f"draws of {_where(name, unknown.double(), graph)} are not finite; they mean nothing")
    return out


def _disagreement(name: str, r_hat: Tensor, graph: FactorGraph | None) -> list[str]:
    high = r_hat > R_HAT_FINE
    if not bool(high.any()):
        return []
    figure = _most(r_hat)
    what = "infinite: chains stand still in different places" if figure == float("inf") else f"{figure:.3g}"
    return [
        f"the chains disagree: R-hat of {_where(name, r_hat, graph)} is {what} ({int(high.sum())} of "
        f"{r_hat.numel()} figures of this block are above {R_HAT_FINE}); run longer (burn_in, "
        "num_samples), or use a sampler that crosses valleys (tempering)"
    ]


def _too_few(name: str, rows: Figures, graph: FactorGraph | None, enough: float, drawn: int) -> list[str]:
    for kind, worth in (("the middle", rows.ess_bulk), ("the tails", rows.ess_tail)):
        low = worth < enough
        if bool(low.any()):
            least, times = _least(worth), enough / max(_least(worth), 1e-6)
            return [
                f"too few effective draws: the {drawn} draws of {_where(name, -worth, graph)} are worth {least:.0f} for "
                f"{kind} ({int(low.sum())} of {worth.numel()} figures of this block are below {enough:.0f}); take about "
                f"{times:.1f} times as many (num_samples), or thin more"
            ]
    return []


def _divergences(found: Diagnostics, drawn: int) -> list[str]:
    if found.divergences is None or not int(found.divergences.sum()):
        return []
    worst = int(found.divergences.argmax())
    return [
        f"{int(found.divergences.sum())} divergences, {int(found.divergences[worst])} of them among the {drawn} draws of "
        f"instance {worst}: the steps are too long where the energy is steep, and draws avoid that region; take smaller "
        "steps (a higher target acceptance), or scale the variables"
    ]


def _low_e_bfmi(found: Diagnostics) -> list[str]:
    if found.e_bfmi is None or not _least(found.e_bfmi) < E_BFMI_LOW:
        return []
    low = torch.where(found.e_bfmi.isnan(), torch.inf, found.e_bfmi)
    chain, instance = divmod(int(low.argmin()), low.shape[1])
    return [
        f"E-BFMI of chain {chain} of instance {instance} is {float(low.min()):.2g}, below {E_BFMI_LOW}: momenta do "
        "not reach all levels of energy, and the tails are seen too seldom; run longer, or give the model lighter tails"
    ]


def _where(name: str, rows: Tensor, graph: FactorGraph | None) -> str:
    """The site, and the coordinate, of the largest entry of ``rows``."""
    flat = torch.where(rows.isnan(), -torch.inf, rows).reshape(-1)
    at = int(flat.argmax())
    width = rows[0].numel() if rows.dim() > 1 else 1
    site, coordinate = divmod(at, width)
    out = f"block {name!r}, site {site}" + (f", coordinate {coordinate}" if rows.dim() > 1 and width > 1 else "")
    if graph is not None and graph.num_instances > 1:
        out += f" (instance {int(graph.variables[name].instance[site])})"
    return out
