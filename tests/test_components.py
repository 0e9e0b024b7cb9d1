"""Filters as experts: closed forms against autograd, finite differences and integrals; latents against quadrature."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import ebmstruct as es
from ebmstruct.energies import FilterExpert
from ebmstruct.errors import GraphError
from ebmstruct.learning.losses import score_matching

F64 = torch.float64
EXPERTS = [es.StudentTExpert, es.LogCoshExpert]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Random numbers in double precision."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def expert(kind: type[FilterExpert], dim: int, count: int, **options: bool) -> FilterExpert:
    """An expert in double precision with random parameters."""
    made = kind(dim, count, **options).double()
    for i, p in enumerate(made.parameters()):
        p.data = 0.7 * numbers(*p.shape, seed=i)
    return made


@pytest.mark.parametrize("options", [{}, {"unit_rows": True}, {"unit_rows": True, "tied": True}], ids=str)
@pytest.mark.parametrize("kind", EXPERTS)
def test_slopes_and_laplacians_are_finite_differences(kind: type[FilterExpert], options: dict[str, bool]) -> None:
    """The closed gradient and the trace of the Hessian equal central differences of the energy."""
    e, x, h = expert(kind, 3, 5, **options), 2 * numbers(4, 3, seed=9), 1e-4
    slope, curvature = (t.detach() for t in e.slope_and_laplacian(x))
    with torch.no_grad():
        ends = [(e(x + h * step), e(x - h * step)) for step in torch.eye(3, dtype=F64)]
        torch.testing.assert_close(slope, torch.stack([(a - b) / (2 * h) for a, b in ends], 1), rtol=1e-6, atol=1e-7)
        bent = sum((a + b - 2 * e(x)) / h**2 for a, b in ends)
    torch.testing.assert_close(curvature, bent, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("kind", EXPERTS)
def test_closed_score_matching_is_that_of_autograd(
    kind: type[FilterExpert], temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Value and gradient by the parameters equal those of the general form, for sums, spreads and weighted energies."""
    model = es.ProductOfExperts(4, [expert(kind, 4, 6), expert(kind, 4, 3, unit_rows=True)], spread=1.5).double()
    graph = es.SumOfEnergies([model, es.ProductOfExperts(4, [], spread=0.7)], [0.5, 2.0]).graph([None] * 5)
    target, loss = es.Assignment({"x": numbers(5, 4, seed=3)}), es.ScoreMatching(form="exact", temperature=temperature)

    def found() -> tuple[Tensor, list[Tensor]]:
        value = loss(graph, target).value
        inside = (value * torch.arange(1.0, 6.0)).sum()
        return value.detach(), list(torch.autograd.grad(inside, [p for p in model.parameters()]))

    closed = found()
    monkeypatch.setattr(score_matching, "closed_objective", lambda energy, values: None)
    for a, b in zip((closed[0], *closed[1]), (lambda v: (v[0], *v[1]))(found()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_what_has_no_closed_form_falls_back() -> None:
    """A factor without closed derivatives, or a bounded block, leaves the general form as it was."""
    plain = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Softplus(), torch.nn.Linear(3, 1), torch.nn.Flatten(0))
    model = es.ProductOfExperts(2, [es.StudentTExpert(2, 3), plain]).double()
    value = es.ScoreMatching(form="exact")(model.graph([None] * 3), es.Assignment({"x": numbers(3, 2)})).value
    assert bool(value.isfinite().all()) and value.requires_grad
    spread = model.graph([None]).factors[0].scaled(torch.ones(1))
    assert spread.slope_and_laplacian([numbers(1, 2)], [model.graph([None]).variables["x"]]) is None


@pytest.mark.parametrize("shape", ["log_cosh", "student_t"])
def test_square_models_know_their_partition_function(shape: str) -> None:
    """In one and two dimensions the integral of exp(-E) of a normalised model is 1, and so says the engine's own bound."""
    for dim, width, steps in ((1, 4000.0, 400001), (2, 30.0, 1201)):
        model = es.IndependentComponents(dim, shape=shape, power=3.0, normalised=True).double()  # type: ignore[arg-type]
        for i, p in enumerate(model.parameters()):
            p.data = p.data + 0.3 * numbers(*p.shape, seed=i)
        axis = torch.linspace(-width, width, steps, dtype=F64)
        x = torch.cartesian_prod(*[axis] * dim).reshape(-1, dim)
        with torch.no_grad():
            density = torch.exp(-model.graph([None] * len(x)).energy({"x": x}))
        assert float(density.sum() * float(axis[1] - axis[0]) ** dim) == pytest.approx(1, abs=2e-3)


def test_partition_functions_that_are_not_known_are_said_to_be() -> None:
    """Overcomplete models refuse to be normalised, in a sentence that names what to do."""
    with pytest.raises(ValueError, match="learn by score_matching"):
        es.IndependentComponents(2, 3, normalised=True)
    with pytest.raises(GraphError, match="annealed_importance_sampling"):
        es.IndependentComponents(2, 3).log_partition()


@pytest.mark.parametrize("shape", ["log_cosh", "student_t"])
def test_an_expert_is_a_scale_mixture(shape: str) -> None:
    """The mean latent precision is f'(s) / s times a, its spread that of quadrature, and draws have both moments."""
    model = es.IndependentComponents(2, 3, shape=shape, power=1.7).double()  # type: ignore[arg-type]
    x = torch.cat([numbers(6, 2), 20 * numbers(2, 2, seed=1), torch.zeros(1, 2, dtype=F64)])
    found = model.latents_of(x, num_samples=4000, generator=torch.Generator().manual_seed(0))
    s = model.expert.answers(x).detach()
    u, mean = found["precision"], 1.7 * model.expert.derivatives(s)[0] / s
    torch.testing.assert_close(u.mean[:-1], mean[:-1].detach())
    # the second moment by the curvature of log p(s): E[u^2] - E[u]^2 = (a f'(s) / s - a f''(s)) / s^2
    first, second = (1.7 * d.detach() for d in model.expert.derivatives(s))
    variance = (first / s - second) / s.square()
    torch.testing.assert_close(u.spread[:6].square(), variance[:6], rtol=1e-4, atol=1e-6)
    error = u.spread / math.sqrt(4000)
    assert bool(((u.samples.mean(0) - u.mean).abs() < 5 * error).all())
    assert bool(((u.samples.std(0) / u.spread - 1).abs() < 0.1).all())
    torch.testing.assert_close(
        found["answer"].map, x @ (model.expert.weight / model.expert.weight.norm(dim=1)[:, None]).T
    )
    assert bool((found["answer"].spread == 0).all()) and found["answer"].samples.shape == (4000, 9, 3)
