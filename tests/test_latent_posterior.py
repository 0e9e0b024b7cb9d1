"""What is latent given what is known, against enumeration and against the Gaussians that were planted."""

from __future__ import annotations

import itertools

import pytest
import torch

import ebmstruct as es
from ebmstruct.inference.latent.posterior import latent_posterior


def test_hidden_units() -> None:
    """Hidden units given the visible ones: probabilities, entropies, modes and draws are exact."""
    torch.manual_seed(0)
    model = es.BoltzmannMachine(5, 4, weight_spread=1.0)
    v = torch.randint(0, 2, (3, 5))
    found = latent_posterior(model.graph([None] * 3), es.Assignment({"v": v.reshape(-1)}), num_samples=2000)
    assert list(found) == ["h"] and found["h"].exact and found["h"].sampled_exactly
    chance = torch.sigmoid(v.float() @ model.weight.detach()[:, 0]).reshape(-1)
    mine = found["h"]
    torch.testing.assert_close(mine.mean[:, 1].float(), chance)
    assert torch.equal(mine.map, (chance > 0.5).long())
    entropy = torch.distributions.Bernoulli(chance).entropy()
    torch.testing.assert_close(mine.spread.float(), entropy, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(mine.samples.float().mean(0), chance, atol=0.05, rtol=0)


def test_two_layers() -> None:
    """Two hidden layers are sampled, near enumeration, and say that they are; no layer of the mode can be improved."""
    torch.manual_seed(0)
    graph = deep(torch.Generator().manual_seed(1))
    v = es.Assignment({"v": torch.tensor([1, 0, 1])})
    found = latent_posterior(graph, v, num_samples=10)
    assert list(found) == ["h", "g"] and not found["h"].exact and not found["g"].sampled_exactly
    states = torch.tensor(list(itertools.product((0, 1), repeat=4)))
    many = graph.repeat(len(states))
    energy = many.energy({"v": v["v"].repeat(len(states)), "h": states[:, :2].flatten(), "g": states[:, 2:].flatten()})
    weights = torch.softmax(-energy, 0)
    torch.testing.assert_close(found["h"].mean[:, 1], weights @ states[:, :2].double(), atol=0.02, rtol=0)
    torch.testing.assert_close(found["g"].mean[:, 1], weights @ states[:, 2:].double(), atol=0.02, rtol=0)
    best = states[energy.argmin()]
    assert torch.equal(torch.cat([found["h"].map, found["g"].map]), best)


def deep(generator: torch.Generator) -> es.FactorGraph:
    """Three visible units, and two layers of two hidden ones."""
    blocks = [es.Variables.of_lengths(n, es.Discrete(2), [s]) for n, s in (("v", 3), ("h", 2), ("g", 2))]
    first, second = (torch.randn(a, 1, 2, 1, generator=generator, dtype=torch.float64) for a in (3, 2))
    return es.FactorGraph(
        blocks, [es.BilinearFactor(("v", "h"), "first", first), es.BilinearFactor(("h", "g"), "second", second)]
    )


def test_mixture() -> None:
    """The component of a point has the posterior of Bayes' rule; with a coordinate missing it is still latent alone."""
    torch.manual_seed(0)
    model = es.MixtureEnergy(2, 3, sites=True)
    x = torch.tensor([[0.3], [1.0], [0.0], [-1.0]])
    known = torch.tensor([True, True, True, False])
    found = latent_posterior(model.graph([None] * 2), es.Assignment({"x": x}, {"x": known}), num_samples=4)
    assert list(found) == ["z"] and found["z"].exact and found["z"].samples.shape == (4, 2)
    parts = torch.distributions.Normal(model.mean.detach(), model.log_spread.detach().exp())
    log = parts.log_prob(torch.tensor([0.3, 1.0])).sum(1)
    torch.testing.assert_close(found["z"].mean[0].float(), torch.softmax(log, 0))
    log = torch.distributions.Normal(model.mean.detach()[:, 0], 1.0).log_prob(torch.tensor(0.0))
    torch.testing.assert_close(found["z"].mean[1].float(), torch.softmax(log, 0))


def test_continuous_latents() -> None:
    """Gaussian latents have exact means and standard deviations; without anything latent the answer is empty."""
    block = es.Variables.of_lengths("x", es.Real(1), [1, 1])
    y = es.Variables.of_lengths("y", es.Real(1), [1, 1])
    rows = torch.arange(2)
    graph = es.FactorGraph([block, y], [
        es.ResidualFactor(("x",), "prior", lambda x: x, rows[None], linear=True),
        es.ResidualFactor(("x", "y"), "seen", lambda x, y: 2.0 * (x - y), torch.stack([rows, rows]), linear=True),
    ])  # fmt: skip
    seen = es.Assignment({"y": torch.tensor([[1.0], [2.0]], dtype=torch.float64)})
    found = latent_posterior(graph, seen)["x"]
    assert found.exact and found.samples.shape == (0, 2, 1)
    torch.testing.assert_close(found.mean, 0.8 * seen["y"])
    torch.testing.assert_close(found.map, 0.8 * seen["y"])
    assert found.spread.flatten().tolist() == pytest.approx([5**-0.5] * 2)
    assert latent_posterior(graph, es.Assignment({**seen.values, "x": seen["y"]})) == {}
