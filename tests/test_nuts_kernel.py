"""The compiled no-U-turn sampler does what its plain twin does, draw for draw, and adaptation what its papers say.

The twin keeps every leaf and sums every subtree anew: the same random numbers, none of the bookkeeping.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

import ebmstruct as es
from ebmstruct.graph import FactorGraph
from ebmstruct.inference.result import Budget, Status
from ebmstruct.inference.sampling.adaptation import (
    DualAveraging,
    Windows,
    dual_averaging,
    initial_step,
    inverse_mass,
    seen,
    spread,
    updated,
    windows,
)
from ebmstruct.inference.sampling.chain_rows import ChainRows
from ebmstruct.inference.sampling.trajectories import Plan, Trajectories
from ebmstruct.inference.smooth_energy import SmoothEnergy

Vector = np.ndarray
MASK = (1 << 64) - 1


class Xorshift:
    """xorshift64* (Vigna 2016), as the kernels have it."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def uniform(self) -> float:
        """A number in [0, 1)."""
        s = self.state
        s ^= s >> 12
        s = (s ^ (s << 25)) & MASK
        s ^= s >> 27
        self.state = s
        return ((s * 2685821657736338717 & MASK) >> 11) / 9007199254740992.0

    def normals(self, count: int) -> Vector:
        """Standard normal numbers, two at a time, by the polar method."""
        out: list[float] = []
        while len(out) < count:
            a, b = 2 * self.uniform() - 1, 2 * self.uniform() - 1
            length = a * a + b * b
            if 0 < length < 1:
                factor = math.sqrt(-2 * math.log(length) / length)
                out += [a * factor, b * factor]
        return np.array(out[:count])


@dataclass
class Leaf:
    """A place in phase space: position, momentum, energy and gradient."""

    q: Vector
    p: Vector
    energy: float
    gradient: Vector


@dataclass
class Twin:
    """One chain. energy: position to energy and gradient.  draws: (position, depth, steps, diverged) of each."""

    energy: Callable[[Vector], tuple[float, Vector]]
    random: Xorshift
    step: float
    variance: Vector
    max_depth: int
    lower: float = -math.inf
    upper: float = math.inf
    draws: list[tuple[Vector, int, int, bool]] = field(default_factory=list)
    acceptance: float = 0.0

    def leapfrog(self, at: Leaf, direction: int) -> Leaf:
        """One step, with mirrors at the bounds."""
        step = direction * self.step
        p = at.p - 0.5 * step * at.gradient
        q = at.q + step * self.variance * p
        for i in range(q.size):
            while not self.lower <= q[i] <= self.upper:
                q[i] = 2 * (self.lower if q[i] < self.lower else self.upper) - q[i]
                p[i] = -p[i]
        energy, gradient = self.energy(q)
        return Leaf(q, p - 0.5 * step * gradient, energy, gradient)

    def total(self, leaf: Leaf) -> float:
        """The Hamiltonian."""
        return leaf.energy + 0.5 * float((leaf.p**2 * self.variance).sum())

    def turns(self, leaves: list[Leaf]) -> bool:
        """Whether a path, given by its leaves from one end to the other, goes back on itself."""
        first, last = leaves[0].p, leaves[-1].p
        along = self.variance * (np.sum([leaf.p for leaf in leaves], 0) - 0.5 * (first + last))
        return bool((first * along).sum() <= 0 or (last * along).sum() <= 0)

    def transition(self, start: Leaf) -> Leaf:
        """The next draw."""
        momentum = self.random.normals(start.q.size) / np.sqrt(self.variance)
        path = [Leaf(start.q, momentum, start.energy, start.gradient)]
        begin, draw, weight = self.total(path[0]), path[0], 0.0
        accepted, steps, depth = 0.0, 0, 0
        while depth < self.max_depth:
            direction = -1 if self.random.uniform() < 0.5 else 1
            at, grown, chosen, inner = path[0] if direction < 0 else path[-1], [], None, -math.inf
            ended, diverged = False, False
            for leaf in range(1 << depth):
                at = self.leapfrog(at, direction)
                steps += 1
                gain = begin - self.total(at)
                if not -1000 < gain < math.inf:
                    ended = diverged = True
                    break
                accepted += min(1.0, math.exp(min(gain, 0.0)))
                grown.append(at)
                inner = float(np.logaddexp(inner, gain)) if grown[1:] else gain
                if not grown[1:] or self.random.uniform() < math.exp(gain - inner):
                    chosen = at
                sizes = [2**k for k in range(1, depth + 1) if (leaf + 1) % 2**k == 0]
                if any(self.turns(grown[-size:]) for size in sizes):
                    ended = True
                    break
            if ended:
                break
            assert chosen is not None
            if self.random.uniform() < math.exp(min(0.0, inner - weight)):
                draw = chosen
            weight = float(np.logaddexp(weight, inner))
            path = grown[::-1] + path if direction < 0 else path + grown
            depth += 1
            if self.turns(path):
                break
        self.acceptance = accepted / steps
        self.draws.append((draw.q, depth, steps, depth < self.max_depth and ended and diverged))
        return draw

    def warm_up(self, start: Leaf, count: int, plan: Windows, averaging: DualAveraging, target: float) -> Leaf:
        """``count`` transitions, in which a chain by itself learns as ``adaptation`` says."""
        known, at = spread(start.q.size), start
        for draw in range(1, count + 1):
            self.step = float(averaging.step)
            at = self.transition(at)
            averaging = updated(averaging, torch.tensor([self.acceptance], dtype=torch.float64), target=target)
            if plan.ends and plan.first < draw <= plan.ends[-1]:
                known = seen(known, torch.from_numpy(at.q)[None])
                if draw in plan.ends:
                    new, known = inverse_mass(known), spread(start.q.size)
                    change = 0.5 * (torch.from_numpy(self.variance) / new).log().mean()
                    log = averaging.log_average + change
                    averaging = DualAveraging(log, log, 0 * log, log, 0 * log)
                    self.variance = new.numpy()
        self.step = float(averaging.average)
        return at


SCALES = torch.tensor([1.0, 0.3, 2.0], dtype=torch.float64)


def banana(x: torch.Tensor) -> torch.Tensor:
    """(...,) an energy with a curved valley, steep where x is large."""
    z = x / SCALES
    return 0.5 * (z**2).sum(-1) + 0.3 * (z[..., 1] - z[..., 0] ** 2) ** 2 + 0.02 * z[..., 2] ** 4


def graph_of(instances: int, lower: float | None = None, upper: float | None = None) -> FactorGraph:
    """Instances of three coordinates each under the banana."""
    block = es.Variables.of_lengths("x", es.Real(3, lower, upper), [1] * instances)
    return FactorGraph([block], [es.BlockFactor(("x",), "e", lambda x, offsets: banana(x))])


def begun(graph: FactorGraph, x: torch.Tensor, plan: Plan) -> Trajectories:
    """A run from given positions, seeded."""
    smooth = SmoothEnergy.of(graph, {"x": x})
    rows = ChainRows.of(smooth, (x,))
    energy, _ = smooth.with_gradient((x,))
    return Trajectories.begin(rows, plan, energy, torch.Generator().manual_seed(3))


def plan_of(**changes: object) -> Plan:
    """A plan of one chain an instance, without warm-up."""
    fields: dict[str, object] = {
        "chains": 1,
        "warm_up": 0,
        "draws": 40,
        "max_depth": 6,
        "target_acceptance": 0.8,
        "temperature": 1.0,
        "step_size": 0.3,
        "learn_mass": False,
        "pooled": False,
        "full": False,
        "windows": windows(0),
    }
    return Plan(**{**fields, **changes})  # type: ignore[arg-type]


def energy_of(x: np.ndarray) -> tuple[float, np.ndarray]:
    """The banana and its gradient, by torch."""
    leaf = torch.tensor(x, requires_grad=True)
    energy = banana(leaf)
    (gradient,) = torch.autograd.grad(energy, leaf)
    return float(energy.detach()), gradient.numpy()


@pytest.mark.parametrize(
    ("step", "depth", "walls"),
    [(0.3, 6, None), (0.05, 3, None), (3.0, 6, None), (0.4, 6, (-0.5, 0.8)), (2.5, 4, (-0.5, 0.8))],
    ids=["usual", "cut at the largest depth", "divergent", "walls", "many reflections"],
)
def test_kernel_equals_twin(step: float, depth: int, walls: tuple[float, float] | None) -> None:
    """Eight chains, which end their trajectories at different times, are each the twin's: draws, depths, divergences."""
    lower, upper = walls or (None, None)
    x = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = x if walls is None else x.clamp(*walls)
    run = begun(graph_of(8, lower, upper), x, plan_of(step_size=step, max_depth=depth))
    seeds = run.state.random[:, 0].tolist()
    assert run.go(Budget()) is Status.CONVERGED
    for chain in range(8):
        twin = Twin(energy_of, Xorshift(seeds[chain]), step, np.ones(3), depth, *(walls or ()))
        at = Leaf(x[chain].numpy(), np.zeros(3), *energy_of(x[chain].numpy()))
        for _ in range(40):
            at = twin.transition(at)
        drawn = run.state.draws.reshape(40, 8, 3)[:, chain]
        same = 40 if step < 1 else 12  # reflections and long steps multiply rounding from draw to draw
        np.testing.assert_allclose(drawn[:same], [d[0] for d in twin.draws[:same]], rtol=1e-6, atol=1e-8)
        counts = [[d[1], d[2], int(d[3])] for d in twin.draws]
        assert run.state.record_wholes[:same, chain].tolist() == counts[:same]
        if step == 3.0:
            assert any(d[3] for d in twin.draws)


def test_warm_up_equals_twin() -> None:
    """Step size and inverse mass after 40 draws alone are those of the functions of ``adaptation``."""
    x = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    plan = plan_of(step_size=None, warm_up=40, draws=3, learn_mass=True, windows=windows(40))
    run = begun(graph_of(3), x, plan)
    seeds, first = run.state.random[:, 0].tolist(), run.state.learnt[:, 0].copy()
    run.go(Budget())
    for chain in range(3):
        twin = Twin(energy_of, Xorshift(seeds[chain]), 1.0, np.ones(3), 6)
        at = Leaf(x[chain].numpy(), np.zeros(3), *energy_of(x[chain].numpy()))
        state = dual_averaging(torch.tensor([math.exp(first[chain])], dtype=torch.float64))
        at = twin.warm_up(at, 40, windows(40), state, 0.8)
        np.testing.assert_allclose(run.state.reals[chain, 0], twin.step, rtol=1e-6)
        np.testing.assert_allclose(run.state.spread[2].reshape(3, 3)[chain], twin.variance, rtol=1e-6)


def test_pooled_chains_keep_one_step() -> None:
    """Chains of an instance that learn together end with the same inverse mass, near the variances, and like steps."""
    x = torch.randn(16, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    plan = plan_of(
        chains=16, step_size=None, warm_up=80, draws=1, learn_mass=True, pooled=True, windows=windows(80, 16)
    )
    run = begun(graph_of(16), x, plan)
    run.go(Budget())
    steps = run.state.reals[:, 0]
    assert steps.max() / steps.min() < 1.5
    assert run.state.spread.shape == (3, 3)
    assert 0.2 < run.state.spread[2, 0] < 1.5 and run.state.spread[2, 1] < run.state.spread[2, 2]


def test_full_mass_is_the_twin_in_other_coordinates() -> None:
    """With the factor L a chain is the twin's under E(L z), mapped back by L."""
    factor = np.array([[0.9, 0.0, 0.0], [0.4, 0.5, 0.0], [-0.7, 0.3, 1.1]])
    x = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    plan = plan_of(chains=8, learn_mass=True, pooled=True, full=True, windows=Windows(0, (10,)))
    run = begun(graph_of(8), x, plan)
    assert run.state.window[0, 3] == 1 and run.state.factors.shape == (9,)
    run.state.factors[:] = factor.reshape(-1)
    run.state.wholes[:, 6] = 1
    seeds = run.state.random[:, 0].tolist()
    run.go(Budget())

    def turned(z: np.ndarray) -> tuple[float, np.ndarray]:
        energy, gradient = energy_of(factor @ z)
        return energy, factor.T @ gradient

    for chain in range(8):
        twin = Twin(turned, Xorshift(seeds[chain]), 0.3, np.ones(3), 6)
        z = np.linalg.solve(factor, x[chain].numpy())
        at = Leaf(z, np.zeros(3), *turned(z))
        for _ in range(40):
            at = twin.transition(at)
        drawn = run.state.draws.reshape(40, 8, 3)[:, chain]
        np.testing.assert_allclose(drawn, [factor @ d[0] for d in twin.draws], rtol=1e-6, atol=1e-8)


def test_full_mass_is_the_covariance() -> None:
    """The last factor of 32 chains in a turned Gaussian of condition number 400: L L^T is its covariance, about."""
    turn, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(5)))
    scale = torch.logspace(-2.6, 0, 5, dtype=torch.float64)
    precision, covariance = (turn / scale) @ turn.T, (turn * scale) @ turn.T
    block = es.Variables.of_lengths("x", es.Real(5), [1] * 32)
    function = es.BlockFactor(("x",), "e", lambda x, offsets: 0.5 * ((x @ precision) * x).sum(-1))
    plan = plan_of(
        chains=32,
        step_size=None,
        warm_up=120,
        draws=1,
        learn_mass=True,
        pooled=True,
        full=True,
        windows=windows(120, 32),
    )
    run = begun(FactorGraph([block], [function]), torch.zeros(32, 5, dtype=torch.float64), plan)
    assert run.go(Budget()) is Status.CONVERGED
    factor = torch.from_numpy(run.state.factors[-25:].reshape(5, 5))
    alike = torch.linalg.eigvalsh(torch.linalg.solve(factor, torch.linalg.solve(factor, covariance).T))
    assert float(alike.min()) > 0.7 and float(alike.max()) < 1.4
    assert int(run.state.record_wholes[0, :, 0].max()) <= 3  # a few steps cross it


def test_dual_averaging_finds_its_target() -> None:
    """Where acceptance is exp(-step), the averaged step goes to log(1 / 0.8), in two groups from far away."""
    state = dual_averaging(torch.tensor([1e-3, 1e2]))
    for _ in range(2000):
        state = updated(state, (-state.step).exp(), target=0.8)
    torch.testing.assert_close(
        state.average, torch.full((2,), math.log(1.25), dtype=torch.float64), rtol=0.05, atol=0.0
    )
    still = updated(state, torch.zeros(2), where=torch.tensor([False, True]))
    assert float(still.step[0]) == float(state.step[0]) and float(still.step[1]) < float(state.step[1])


def test_first_step_is_near_its_target() -> None:
    """Where acceptance is exp(-step^2), the step found is accepted 0.8 on one side and not on the other."""
    crossing = math.sqrt(math.log(1.25))
    for begin in (1e-4, 1.0, 1e4):
        found = float(initial_step(lambda s: -(s**2), torch.tensor([begin])))
        assert crossing / 2 <= found <= 2 * crossing
    stuck = initial_step(lambda s: torch.full_like(s, torch.nan), torch.tensor([1.0]), tries=5)
    assert float(stuck) == 1 / 32


def test_windows() -> None:
    """Stan's windows for 1000 draws: 75, then 25, 50, 100, 200 and the rest, then 50; fewer where chains share."""
    assert windows(1000) == windows(1000, 1)
    assert (windows(1000).first, windows(1000).ends) == (75, (100, 150, 250, 450, 950))
    assert windows(19).ends == ()
    for warm_up in (20, 50, 149, 150, 400):
        for chains in (1, 4, 64):
            found = windows(warm_up, chains)
            assert list(found.ends) == sorted(set(found.ends)) and found.first < found.ends[0]
            assert found.ends[-1] < warm_up


def test_variances_in_any_portions() -> None:
    """Draws seen one at a time or all at once give the variance of all, drawn a little towards 0.001."""
    draws = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * SCALES + 5.0
    alone = spread(3)
    for row in draws:
        alone = seen(alone, row[None])
    together = seen(seen(spread(3), draws[:20]), draws[20:])
    truth = draws.var(0) * 50 / 55 + 1e-3 * 5 / 55
    torch.testing.assert_close(inverse_mass(alone), truth)
    torch.testing.assert_close(inverse_mass(together), truth)
