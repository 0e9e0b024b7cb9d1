"""Mixed graphs whose continuous blocks are clamped are asked as the tables that are left, through every entry."""

from __future__ import annotations

import torch

import ebmstruct as es
from ebmstruct.inference import bound
from ebmstruct.testing import oracle


def mixed(lengths: list[int], seed: int = 0) -> es.FactorGraph:
    """A chain of three states, each with a point that a residual ties to its state and to the point before."""
    n = sum(lengths)
    generator = torch.Generator().manual_seed(seed)
    state = es.Variables.of_lengths("z", es.Discrete(3), lengths)
    point = es.Variables.of_lengths("x", es.Real(1), lengths)
    later = (point.instance.diff(prepend=torch.tensor([-1])) == 0).nonzero()[:, 0]
    target = torch.randn(later.numel(), 1, generator=generator, dtype=torch.float64)
    return es.FactorGraph(
        [state, point],
        [
            es.ResidualFactor(
                ("z", "x", "z"), "tie", lambda z, x, w, t: x + z[:, None] - w[:, None] * t,
                torch.stack([later, later, later - 1]), (target,),
            ),
            es.TableFactor(("z",), "unary", torch.randn(n, 3, generator=generator, dtype=torch.float64)),
        ],
    )  # fmt: skip


def test_every_entry() -> None:
    """Minimum, bound, alternatives, marginals, log partition and samples are those of the enumeration."""
    graph = mixed([4, 2])
    x = torch.randn(6, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    clamped = graph.condition(es.Assignment({"x": x}))
    truth = oracle(es.tabulate(graph, {"x": x}))
    result = es.minimize(clamped, k=2)
    torch.testing.assert_close(result.energy, torch.tensor([o.minimum for o in truth], dtype=torch.float64))
    torch.testing.assert_close(bound(clamped, result), result.energy)
    assert result.statuses == [es.Status.OPTIMAL] * 2 and torch.equal(result.alternatives[1]["x"], x)
    torch.testing.assert_close(
        es.log_partition(clamped), torch.tensor([o.log_partition() for o in truth], dtype=torch.float64)
    )
    beliefs = es.marginals(clamped).beliefs["z"]
    assert abs(float(beliefs[1, 2]) - truth[0].marginal(1, 2)) < 1e-10
    drawn = es.sample(clamped, num_samples=5, generator=torch.Generator().manual_seed(0))
    assert drawn.values["x"].shape == (5, 6, 1)
    for s in range(5):
        torch.testing.assert_close(graph.energy({n: v[s] for n, v in drawn.values.items()}), drawn.energy[s])
    assert str(es.explain(clamped)).count("variable_elimination") == 1


def test_deep_energies_stay() -> None:
    """Where a function of whole blocks joins both kinds, the graph is enumerated as it is."""
    graph = mixed([3]).add(es.BlockFactor(("z", "x"), "deep", lambda z, x, o: (z * x[:, 0]).reshape(-1, 3).sum(1)))
    x = torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64)
    result = es.minimize(graph.condition(es.Assignment({"x": x})))
    assert result.solver == "exhaustive" and result.statuses == [es.Status.OPTIMAL]
