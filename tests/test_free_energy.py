"""Free energies: gradients, bad instances, batches, budgets, evidence, bounds and manifolds."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ebmstruct.errors import SolverRefusal
from ebmstruct.graph import (
    SO2,
    Assignment,
    BlockFactor,
    Discrete,
    FactorGraph,
    Real,
    ResidualFactor,
    TableFactor,
    Variables,
)
from ebmstruct.inference import (
    Budget,
    FreeEnergyDescent,
    JunctionTree,
    MarginalElimination,
    MarginalSearch,
    MeanField,
    Status,
    minimize,
)
from ebmstruct.inference.latent.free_energy import CopySum, TableSum, free_energy

NUMBER = torch.float64


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=NUMBER)


def model(lengths: list[int], kind: str, data: Tensor | None = None, dtype: torch.dtype = NUMBER) -> FactorGraph:
    """An output y of two numbers an instance, and latents: ``tables``, ``gaussian``, ``mixed`` or ``curved``."""
    y = Variables.of_lengths("y", Real(2), [1] * len(lengths))
    domain = Discrete(2) if kind == "tables" else Real(2)
    h = Variables.of_lengths("h", domain, lengths)
    index = torch.stack([h.instance, torch.arange(h.num_sites)])
    data = normal(1, h.num_sites, 2) if data is None else data
    data = data.to(dtype)
    blocks = [y, h]
    pull = ResidualFactor(("y",), "weak", lambda v: 0.5 * v, torch.arange(len(lengths))[None])
    if kind == "tables":
        seen = ResidualFactor(("y", "h"), "seen", lambda v, s, t: v * (1 + s[:, None]) - t, index, (data,))
        return FactorGraph(blocks, [pull, seen])
    prior = ResidualFactor(("h",), "prior", lambda x: x, torch.arange(h.num_sites)[None])
    if kind == "curved":

        def bent(v: Tensor, x: Tensor, t: Tensor) -> Tensor:
            return x + 0.2 * torch.tanh(v) * x.flip(-1) ** 2 - t

        return FactorGraph(blocks, [pull, prior, ResidualFactor(("y", "h"), "seen", bent, index, (data,))])
    if kind == "gaussian":
        seen = ResidualFactor(("y", "h"), "seen", lambda v, x, t: v * x - t, index, (data,))
        return FactorGraph(blocks, [pull, prior, seen])
    z = Variables.of_lengths("z", Discrete(2), [1] * len(lengths))
    both = torch.stack([h.instance, torch.arange(h.num_sites), h.instance])
    switched = ResidualFactor(("y", "h", "z"), "seen", lambda v, x, s, t: v * x + s[:, None] - t, both, (data,))
    return FactorGraph([*blocks, z], [pull, prior, switched])


LATENT = {"tables": ("h",), "gaussian": ("h",), "curved": ("h",), "mixed": ("h", "z")}


@pytest.mark.parametrize("kind", LATENT)
def test_gradients(kind: str) -> None:
    """The gradient by the outputs is that of finite differences, determinants and moving modes included."""
    graph = model([2, 1], kind)
    free = free_energy(graph, LATENT[kind], 0.7)
    assert isinstance(free, TableSum if kind == "tables" else CopySum)
    point = normal(2, 2, 2)

    def value(v: Tensor) -> Tensor:
        return free({"y": v})

    leaf = point.clone().requires_grad_(True)
    (found,) = torch.autograd.grad(value(leaf).sum(), leaf)
    for i in range(2):
        for j in range(2):
            step = torch.zeros_like(point)
            step[i, j] = 1e-5
            rise = (value(point + step) - value(point - step)).sum() / 2e-5
            assert abs(float(rise.detach() - found[i, j])) < 1e-7


@pytest.mark.parametrize("kind", LATENT)
def test_a_bad_instance_harms_nobody(kind: str) -> None:
    """An instance with a NaN ends NONFINITE; its neighbours end as they do alone, an empty one included."""
    lengths = [2, 1, 0, 3]
    data = normal(3, 6, 2)
    data[2] = torch.nan
    solver = FreeEnergyDescent(starts=3)
    found = minimize(model(lengths, kind, data), solver, sum_out=LATENT[kind])
    assert found.statuses[1] is Status.NONFINITE
    for i, (begin, size) in enumerate(zip((0, 2, 3, 3), lengths, strict=True)):
        if i == 1:
            continue
        alone = minimize(model([size], kind, data[begin : begin + size]), solver, sum_out=LATENT[kind])
        assert (found.statuses[i] is Status.CONVERGED and found.integration == alone.integration) or size == 0
        torch.testing.assert_close(found.energy[i], alone.energy[0], atol=1e-7, rtol=1e-7)
        torch.testing.assert_close(found.assignment["y"][i], alone.assignment["y"][0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", LATENT)
def test_single_precision(kind: str) -> None:
    """Models in float32 are answered as those in float64, to what single precision tells."""
    exact = minimize(model([2, 1], kind), FreeEnergyDescent(), sum_out=LATENT[kind])
    single = minimize(model([2, 1], kind, dtype=torch.float32), FreeEnergyDescent(), sum_out=LATENT[kind])
    torch.testing.assert_close(single.energy, exact.energy, atol=1e-3, rtol=1e-3)
    assert (single.status <= int(Status.CONVERGED)).all() and single.integration == exact.integration


def test_a_divergent_integral() -> None:
    """A latent that nothing holds has no free energy: NONFINITE and a sentence; its neighbour is proven."""
    y, h = Variables.of_lengths("y", Discrete(2), [1, 1]), Variables.of_lengths("h", Real(1), [1, 1])
    hold = torch.tensor([[0.0], [1.0]], dtype=NUMBER)
    index = torch.arange(2).expand(2, -1)
    tie = ResidualFactor(("y", "h"), "tie", lambda s, x, w: w * (x - s[:, None]), index, (hold,), linear=True)
    graph = FactorGraph([y, h], [tie])
    for solver in (FreeEnergyDescent(), MarginalSearch()):
        found = minimize(graph, solver, sum_out=("h",))
        assert found.statuses[0] is Status.NONFINITE and found.statuses[1] <= Status.CONVERGED
        assert abs(float(found.energy[1]) + 0.5 * math.log(2 * math.pi)) < 1e-12
        assert "diverges" in found.stats["reason"]


def test_nothing_is_feasible() -> None:
    """An instance without a finite configuration ends INFEASIBLE, the other as it should."""
    y, h = Variables.of_lengths("y", Discrete(2), [1, 1]), Variables.of_lengths("h", Discrete(2), [1, 1])
    table = torch.zeros(2, 2, 2, dtype=NUMBER)
    table[0] = torch.inf
    graph = FactorGraph([y, h], [TableFactor(("y", "h"), "pair", table, index=torch.arange(2).expand(2, -1))])
    for solver in (MarginalElimination(), FreeEnergyDescent(), MarginalSearch()):
        found = minimize(graph, solver, sum_out=("h",))
        assert found.statuses[0] is Status.INFEASIBLE and found.statuses[1] <= Status.CONVERGED
        assert found.energy[0] == torch.inf and abs(float(found.energy[1]) + math.log(2)) < 1e-12


def test_clamped_sites_stay() -> None:
    """Outputs and latents that the evidence clamps keep their values and are not integrated."""
    graph = model([2, 2], "gaussian")
    known = {"h": torch.tensor([True, False, False, False]), "y": torch.tensor([True, False])}
    values = {"h": torch.full((4, 2), 0.3, dtype=NUMBER), "y": torch.full((2, 2), 0.8, dtype=NUMBER)}
    fixed = graph.condition(Assignment(values, known))
    found = minimize(fixed, FreeEnergyDescent(), sum_out=("h",))
    assert (found.assignment["y"][0] == 0.8).all() and (found.assignment["h"][0] == 0.3).all()
    at = {"y": found.assignment["y"], "h": found.assignment["h"]}
    pairs = found.assignment["y"][[0]].square() + 1  # the curvature of the one latent that is left
    log_det = 0.5 * (pairs.log().sum() - 2 * math.log(2 * math.pi))
    assert abs(float(found.energy[0] - graph.energy(at)[0] - log_det)) < 1e-10


def test_a_latent_in_bounds() -> None:
    """A Gaussian cut off by bounds is no Gaussian integral: weighted draws find it within their error."""
    y, h = Variables.of_lengths("y", Discrete(2), [1]), Variables.of_lengths("h", Real(1, lower=0.0), [1])
    index = torch.zeros(2, 1, dtype=torch.long)
    tie = ResidualFactor(("y", "h"), "tie", lambda s, x: x - 1.0 - s[:, None], index, linear=True)
    found = minimize(FactorGraph([y, h], [tie]), FreeEnergyDescent(samples=4000), sum_out=("h",))
    truth = -math.log(math.sqrt(2 * math.pi) * 0.5 * (1 + math.erf(2 / math.sqrt(2))))
    assert found.integration == "importance_weighted"
    assert abs(float(found.energy[0]) - truth) < 5 * float(found.stats["error"][0]) < 0.1


def test_a_latent_on_a_circle() -> None:
    """Latents on a manifold get Laplace's approximation about their mode, which is good where they are well known."""
    y, h = Variables.of_lengths("y", Real(1), [1]), Variables.of_lengths("h", SO2(), [1])

    def energy(v: Tensor, x: Tensor, offsets: object) -> Tensor:
        return 0.5 * v[:, 0].square() - 40 * x[:, 0] + (v[:, 0] - 1).square()

    graph = FactorGraph([y, h], [BlockFactor(("y", "h"), "circle", energy)])
    found = minimize(graph, FreeEnergyDescent(), sum_out=("h",))
    bessel = float(torch.special.i0e(torch.tensor(40.0, dtype=NUMBER)).log()) + 40 + math.log(2 * math.pi)
    assert found.integration == "laplace"
    assert abs(float(found.energy[0]) - (1 / 3 - bessel)) < 5e-3


def test_batches() -> None:
    """A batch is answered as its instances are one by one."""
    parts = [model([2], "tables", normal(s, 2, 2)) for s in (5, 6)]
    whole = FactorGraph(
        list(model([2, 2], "tables").variables.values()),
        list(model([2, 2], "tables", torch.cat([normal(5, 2, 2), normal(6, 2, 2)])).factors),
    )
    found = minimize(whole, FreeEnergyDescent(), sum_out=("h",))
    each = [minimize(p, FreeEnergyDescent(), sum_out=("h",)) for p in parts]
    torch.testing.assert_close(found.energy, torch.cat([e.energy for e in each]), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("kind", LATENT)
def test_budgets(kind: str) -> None:
    """A deadline that has passed and a budget of steps end with a whole answer, its free energy and its status."""
    graph = model([2, 1], kind)
    late = minimize(graph, FreeEnergyDescent(), sum_out=LATENT[kind], budget=Budget.after(0.0))
    assert set(late.statuses) == {Status.DEADLINE} and late.energy.isfinite().all()
    assert set(late.assignment) == set(graph.variables)
    short = minimize(graph, FreeEnergyDescent(), sum_out=LATENT[kind], budget=Budget(max_steps=2))
    assert set(short.statuses) == {Status.MAX_STEPS} and (short.energy <= late.energy + 1e-6).all()


def test_refusals_are_sentences() -> None:
    """What cannot be summed out is refused with the reason."""
    graph = model([2], "gaussian")
    wide = FreeEnergyDescent(max_dimension=1)
    for solver, sum_out, told in (
        (FreeEnergyDescent(), ("nobody",), "does not exist"),
        (FreeEnergyDescent(), (), "names none"),
        (MarginalElimination(), ("h",), "needs discrete"),
        (MarginalSearch(), ("h",), "no discrete block"),
        (wide, ("h",), "hang together"),
    ):
        with pytest.raises(SolverRefusal, match=told):
            minimize(graph, solver, sum_out=sum_out)


def test_wide_discrete_latents() -> None:
    """Latents that no table holds get the mean field bound: no less than F, and with the gradient that it has."""
    y, h = Variables.of_lengths("y", Real(1), [1]), Variables.of_lengths("h", Discrete(2), [14])
    pairs = torch.combinations(torch.arange(14)).T
    seen = ResidualFactor(
        ("y", "h"),
        "seen",
        lambda v, s, t: v + s[:, None] - t,
        torch.stack([torch.zeros(14).long(), torch.arange(14)]),
        (normal(9, 14, 1),),
    )
    graph = FactorGraph([y, h], [seen, TableFactor(("h", "h"), "pairs", 0.2 * normal(10, 91, 2, 2), index=pairs)])
    bound = TableSum(graph, ("h",), 1.0, MeanField(tolerance=1e-13, max_iterations=5000))
    exact = TableSum(graph, ("h",), 1.0, JunctionTree())
    assert bound.integration == "mean_field" and exact.exact
    point = torch.tensor([[0.4]], dtype=NUMBER, requires_grad=True)
    value = bound({"y": point})
    (found,) = torch.autograd.grad(value.sum(), point)
    at = point.detach()
    rise = bound({"y": at + 1e-4}) - bound({"y": at - 1e-4})
    assert abs(float(rise.detach()) / 2e-4 - float(found)) < 1e-5
    assert float(exact({"y": at})) - 1e-9 <= value.item() < float(exact({"y": at})) + 0.2
