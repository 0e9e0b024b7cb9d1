"""The free energy of what is left when latent blocks are summed out, as a function with a gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ebmstruct.graph import Assignment, Continuous, Discrete, Factor, FactorGraph, Real, ResidualFactor, tabulate
from ebmstruct.graph.tabulation import tabulation_refusal
from ebmstruct.inference.latent.configurations import Configurations, configurations, fits, log_configurations
from ebmstruct.inference.latent.integrals import LatentIntegral, is_quadratic
from ebmstruct.inference.latent.linear_integral import LinearIntegral
from ebmstruct.inference.result import Ask, Marginals, Query
from ebmstruct.inference.sampling.markov import default_generator
from ebmstruct.inference.smooth_energy import clamped, starting_point
from ebmstruct.inference.solver import Solver

Values = Mapping[str, Tensor]
LISTED = 4096
"""Joint states of discrete latents that are listed where no exact solver sums their tables."""
DENSE = 24
"""Coordinates of linear latents that hang together beyond which their band is factorised instead of dense matrices."""


@dataclass(frozen=True, eq=False)
class TableSum:
    """F by the log partition of the tables that are left when everything but discrete latents is given.

    Exact by an exact solver. By MeanField it is the least mean energy less T times the entropy of independent latents,
    which is no less than F (Jordan and others 1999); its derivative is that of the mean energy, the beliefs held fixed.
    """

    graph: FactorGraph
    sum_out: tuple[str, ...]
    temperature: float
    solver: Solver

    def tables(self, given: Values) -> FactorGraph:
        """The graph of tables over the latents."""
        names = [n for n, v in self.graph.variables.items() if isinstance(v.domain, Discrete) and n not in self.sum_out]
        left = tabulate(self.graph, {n: v for n, v in given.items() if n not in names})
        return left.condition(Assignment({n: given[n] for n in names})) if names else left

    def __call__(self, given: Values) -> Tensor:
        """(B,) the free energy; +inf where nothing is feasible."""
        left = self.tables(given)
        if self.exact:
            return -self.temperature * self.solver.log_partition(left, self.temperature)
        query = Query(Ask.MARGINALS, temperature=self.temperature)
        with torch.no_grad():
            found = self.solver.solve(left.with_values(_detached(left)), query)
        assert isinstance(found, Marginals)
        free = left.relaxed_energy(found.beliefs)
        for name, belief in found.beliefs.items():
            each = torch.special.entr(belief.double()).sum(1)
            free = free - self.temperature * free.new_zeros(free.shape).index_add(
                0, left.variables[name].instance, each
            )
        return torch.where(torch.isneginf(found.log_partition), torch.inf, free)

    @property
    def exact(self) -> bool:
        """Whether the sum is exact."""
        return self.integration == "exact"

    @property
    def integration(self) -> str:
        """How the latents are summed out."""
        return "mean_field" if self.solver.name == "mean_field" else "exact"

    def latents(self, given: Values) -> dict[str, Tensor]:
        """The latent states of least energy."""
        from ebmstruct.inference.engine import minimize

        found = minimize(self.tables({n: v.detach() for n, v in given.items()}))
        return {n: found.assignment[n] for n in self.sum_out}


@dataclass(frozen=True, eq=False)
class CopySum:
    """F by a copy of the graph for each joint state of the discrete latents, the continuous ones integrated in each.

    anchor: values of the continuous latents in each copy, near which modes are looked for.
    """

    graph: FactorGraph
    sum_out: tuple[str, ...]
    temperature: float
    states: Configurations
    integral: LatentIntegral | LinearIntegral
    anchor: dict[str, Tensor]

    @property
    def exact(self) -> bool:
        """Whether the integrals are Gaussian ones, or there is none."""
        return self.integral.exact

    @property
    def integration(self) -> str:
        """How the latents are summed out."""
        return "exact" if self.exact else "laplace"

    @property
    def drawable(self) -> bool:
        """Whether Laplace's method can be corrected by draws: some integral is not exact, and all are over vectors."""
        flat = all(isinstance(self.graph.variables[n].domain, Real) for n in self.anchor)
        return not self.exact and flat

    def spread(self, given: Values) -> dict[str, Tensor]:
        """The values of the other blocks in every copy, with each copy's latent states."""
        count = self.states.count
        out = {n: v.repeat(count, *[1] * (v.dim() - 1)) for n, v in given.items() if n not in self.sum_out}
        return {**out, **self.states.flat()}

    def modes(self, given: Values) -> dict[str, Tensor]:
        """The modes of the continuous latents in every copy."""
        return self.integral.mode({n: v.detach() for n, v in self.spread(given).items()}, self.anchor)

    def each(self, given: Values, modes: Values | None = None) -> Tensor:
        """(C, B) the free energy of each joint state of the discrete latents."""
        spread = self.spread(given)
        found = self.integral.free(spread, self.modes(given) if modes is None else modes)
        return found.reshape(self.states.count, -1).masked_fill(~self.states.real, torch.inf)

    def __call__(self, given: Values) -> Tensor:
        """(B,) the free energy; +inf where nothing is feasible, NaN where an integral diverges."""
        return soft_minimum(self.each(given), self.temperature)

    def latents(self, given: Values) -> dict[str, Tensor]:
        """The latent values of least energy: the best joint state, and its mode."""
        with torch.no_grad():
            modes = self.modes(given)
            energy = self.integral.graph.energy({**self.spread(given), **modes})
        energy = energy.reshape(self.states.count, -1).masked_fill(~self.states.real, torch.inf)
        best = energy.nan_to_num(nan=torch.inf, posinf=torch.inf).argmin(0)
        out = {}
        for name, value in {**self.states.flat(), **modes}.items():
            block = self.graph.variables[name]
            parts = value.reshape(self.states.count, block.num_sites, *value.shape[1:])
            out[name] = parts[best[block.instance], torch.arange(block.num_sites)]
        return out


FreeEnergy = TableSum | CopySum
"""F(y) = -T log of the sum over h of exp(-E(y, h) / T), integrals where h is continuous; called with values of y."""


def free_energy_refusal(graph: FactorGraph, sum_out: Sequence[str], max_states: int, max_dimension: int) -> str | None:
    """Why there is no free energy of a graph with these blocks summed out, in a sentence; None where there is."""
    continuous = latent_blocks(graph, sum_out)[1]
    for factor in graph.factors:
        if isinstance(factor, ResidualFactor) and factor.constraint and set(factor.scope) & set(continuous):
            return f"factor {factor.label!r} is a constraint on blocks to integrate, whose integral is not computed"
    if table_solver(graph, sum_out) is not None:
        return None
    if not fits(graph, latent_blocks(graph, sum_out)[0], max_states):
        return f"its discrete blocks to sum out have more than {max_states:,} joint states and do not become tables"
    if continuous and not is_linear(graph, continuous) and (widest := _widest(graph, continuous)) > max_dimension:
        return f"{widest} coordinates to integrate hang together, more than {max_dimension}"
    return None


def latent_blocks(graph: FactorGraph, sum_out: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The discrete and the continuous blocks to sum out, without those that the evidence clamps whole."""
    discrete = tuple(n for n in sum_out if isinstance(graph.variables[n].domain, Discrete))
    continuous = tuple(
        n for n in sum_out if isinstance(graph.variables[n].domain, Continuous) and not clamped(graph, n)
    )
    return discrete, continuous


def latent_states(graph: FactorGraph, sum_out: Sequence[str]) -> int:
    """How many copies of the graph a free energy takes: 1 where tables are summed by elimination."""
    if table_solver(graph, sum_out) is not None:
        return 1
    return round(math.exp(min(40.0, log_configurations(graph, latent_blocks(graph, sum_out)[0]))))


def _widest(graph: FactorGraph, names: tuple[str, ...]) -> int:
    from ebmstruct.inference.latent.components import components

    return components(graph, names).largest


def table_solver(graph: FactorGraph, sum_out: Sequence[str]) -> Solver | None:
    """What sums discrete latents out once everything else is given; None where they do not become tables.

    Exact where a solver can be, or where the joint states may be listed, for which it gives None too; else mean field.
    """
    from ebmstruct.inference.solvers import JunctionTree, MeanField, VariableElimination

    if latent_blocks(graph, sum_out)[1] or tabulation_refusal(graph) is not None:
        return None
    with torch.no_grad():
        left = tabulate(graph, starting_point(graph, None))
    others = {n: v for n, v in first_states(graph).items() if n not in sum_out}
    left = left.condition(Assignment(others)) if others else left
    query = Query(Ask.LOG_PARTITION)
    for solver in (VariableElimination(), JunctionTree()):
        if solver.refuse(left, query) is None:
            return solver
    return None if fits(graph, latent_blocks(graph, sum_out)[0], LISTED) else MeanField()


def _detached(graph: FactorGraph) -> dict[str, list[Tensor | None]]:
    """Every factor's values without their record."""
    out: dict[str, list[Tensor | None]] = {}
    for factor in graph.factors:
        values = [v for v in factor.values() if v is None or isinstance(v, Tensor)]
        out[factor.label] = [None if v is None else v.detach() for v in values]
    return out


def first_states(graph: FactorGraph) -> dict[str, Tensor]:
    """Discrete block to (n,) the first state that the evidence allows each site, as far as it allows any."""
    out = {}
    for name, block in graph.variables.items():
        if isinstance(block.domain, Discrete):
            allowed = graph.allowed(name)
            nothing = torch.zeros(block.num_sites, dtype=torch.long)
            out[name] = nothing if allowed is None or not allowed.shape[1] else allowed.long().argmax(1)
    return out


def free_energy(
    graph: FactorGraph,
    sum_out: Sequence[str],
    temperature: float = 1.0,
    *,
    given: Values | None = None,
    latent: Values | None = None,
    dense: bool = False,
) -> FreeEnergy:
    """The free energy as a function of the other blocks: ``f(values)`` is (B,), differentiable in continuous values.

    Discrete latents are summed exactly; an integral over continuous ones is exact where the energy is quadratic in
    them (residuals that are linear in them), which is found by comparing curvatures at scattered points about
    ``given``, and Laplace's approximation elsewhere (``CopySum.exact`` says which).
    latent: where modes are looked for.  dense: no band, however long linear latents are.
    Call ``free_energy_refusal`` first.
    """
    solver = table_solver(graph, sum_out)
    if solver is not None:
        return TableSum(graph, tuple(sum_out), temperature, solver)
    discrete, continuous = latent_blocks(graph, sum_out)
    states = configurations(graph, discrete)
    copies = graph.repeat(states.count) if states.count > 1 else graph
    start = {**starting_point(graph, None), **(latent or {})}
    anchor = {n: start[n].repeat(states.count, 1) for n in continuous}
    if continuous and is_linear(graph, continuous) and _widest(graph, continuous) > DENSE and not dense:
        wide = LinearIntegral.of(copies, continuous, temperature)
        return CopySum(graph, tuple(sum_out), temperature, states, wide, anchor)
    integral = LatentIntegral.of(copies, continuous, temperature, True)
    found = CopySum(graph, tuple(sum_out), temperature, states, integral, anchor)
    if continuous and not is_linear(graph, continuous):
        values = {**start, **first_states(graph), **(given or {})}
        generator = default_generator(None)
        for name, value in values.items():
            domain = graph.variables[name].domain
            if name not in sum_out and isinstance(domain, Continuous) and not clamped(graph, name):
                step = torch.randn(value.shape[0], domain.tangent_dim, generator=generator, dtype=value.dtype)
                values[name] = domain.project(domain.retract(value, 0.1 * step))
        if not is_quadratic(integral, found.spread(values), anchor, generator):
            integral = LatentIntegral(copies, temperature, integral.parts, False)
            found = CopySum(graph, tuple(sum_out), temperature, states, integral, anchor)
    return found


def is_linear(graph: FactorGraph, continuous: Sequence[str]) -> bool:
    """Whether every factor that looks at some blocks is a residual whose author says that it is linear."""
    flat = all(isinstance(d := graph.variables[n].domain, Real) and not d.bounded for n in continuous)
    return flat and all(_affine(f) for f in graph.factors if set(f.scope) & set(continuous))


def _affine(factor: Factor) -> bool:
    return isinstance(factor, ResidualFactor) and factor.linear and factor.loss is None and not factor.constraint


def is_convex(graph: FactorGraph, sum_out: Sequence[str]) -> bool:
    """Whether the free energy is convex in the continuous outputs, those that are discrete being given.

    So it is where latents are continuous and every factor over a continuous block is a linear residual; the author's word
    is taken for that.
    """
    discrete, _ = latent_blocks(graph, sum_out)
    if any(graph.variables[n].num_sites for n in discrete):
        return False
    open_blocks = [n for n, v in graph.variables.items() if isinstance(v.domain, Continuous) and not clamped(graph, n)]
    flat = all(isinstance(graph.variables[n].domain, Real) for n in open_blocks)
    return flat and all(_affine(f) for f in graph.factors if set(f.scope) & set(open_blocks))


def soft_minimum(energy: Tensor, temperature: float) -> Tensor:
    """-T log sum exp(-energy / T) over axis 0; infinite where all entries are, without a NaN gradient there."""
    dead = torch.isposinf(energy).all(0)
    safe = torch.where(dead, 0.0, energy)
    return torch.where(dead, torch.inf, -temperature * (-safe / temperature).logsumexp(0))
