"""The exact mixture of rows: energies, sums and draws against enumeration and closed forms."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from ebmstruct import Assignment, NegativeLogLikelihood, log_partition, marginals, minimize, sample
from ebmstruct_generative.tables.clusters import Clusters
from ebmstruct_generative.tables.columns import CATEGORICAL, REAL, Column
from ebmstruct_generative.tables.expectation import Observed, log_joint, maximised
from ebmstruct_generative.tables.gaussians import Gaussians
from ebmstruct_generative.tables.layout import CATEGORY, CLUSTER, NUMBERS
from ebmstruct_generative.tables.mixture import TableMixture
from ebmstruct_generative.tables.schema import TableSchema, fitted
from ebmstruct_generative.tables.table import Table
from ebmstruct_generative.tables.values import Format


def _schema(numbers: int = 2) -> TableSchema:
    r = np.random.default_rng(0)
    columns = [
        Column("a", CATEGORICAL, r.integers(0, 2, 50).astype(np.int32), ("p", "q")),
        Column("b", CATEGORICAL, r.integers(0, 3, 50).astype(np.int32), ("u", "v", "w")),
    ]
    columns += [Column(f"x{i}", REAL, r.normal(size=50), (), Format(None)) for i in range(numbers)]
    return fitted(Table(tuple(columns)), ranges={}, target="a", rules=(), class_part="")


def _model(numbers: int = 2, clusters: int = 3, learned: bool = False) -> TableMixture:
    torch.manual_seed(0)
    model = TableMixture(_schema(numbers), clusters=clusters, passes=0)
    with torch.no_grad():
        model.logit.normal_()
        model.lower.normal_(std=0.5)
        model.log_diagonal.normal_(std=0.3)
        for table in model.states:
            table.normal_()
    return model.requires_grad_(learned)


def _joint(model: TableMixture, count: int, states: Any, x: Any) -> torch.Tensor:
    """(K, count) energies for every cluster, of the same states and numbers in each."""
    graph = model.graph([{}] * count)
    out = []
    for z in range(len(model.logit)):
        values = {CLUSTER: torch.full((count,), z), CATEGORY: states}
        out.append(graph.energy(values | ({NUMBERS: x} if x is not None else {})))
    return torch.stack(out)


def test_the_energy_is_a_normalised_density() -> None:
    """The log partition without evidence is (d / 2) log 2 pi: each cluster's density integrates to one."""
    for numbers in (0, 2):
        graph = _model(numbers).graph([{}, {}])
        expected = 0.5 * numbers * math.log(2 * math.pi)
        assert torch.allclose(
            log_partition(graph, Clusters()), torch.full((2,), expected, dtype=torch.float64), atol=1e-5
        )


def test_a_full_row_sums_over_clusters() -> None:
    """With all cells known the log partition is that of the energies of the clusters, listed one by one."""
    model = _model()
    states, x = torch.tensor([0, 2, 1, 0]), torch.randn(4, 1)
    graph = model.graph([{}, {}]).condition(Assignment({CATEGORY: states, NUMBERS: x}))
    expected = (-_joint(model, 2, states, x)).logsumexp(0)
    assert torch.allclose(log_partition(graph, Clusters()), expected, atol=1e-5)


def test_what_is_missing_is_summed_out() -> None:
    """One number and one category missing: the sum over the category of the integral over the number, on a fine grid."""
    model = _model()
    known = Assignment(
        {CATEGORY: torch.tensor([0, 1]), NUMBERS: torch.tensor([[0.3], [0.0]])},
        {CATEGORY: torch.tensor([False, True]), NUMBERS: torch.tensor([True, False])},
    )
    found = log_partition(model.graph([{}]).condition(known), Clusters())
    grid = torch.linspace(-15, 15, 6001)
    total = []
    for state in range(2):
        count = len(grid)
        x = torch.stack([torch.full((count,), 0.3), grid], 1).reshape(-1, 1)
        total.append((-_joint(model, count, torch.tensor([state, 1] * count), x)).logsumexp(0))
    step = math.log(30 / 6000)
    assert float(found) == pytest.approx(float(torch.stack(total).logsumexp((0, 1))) + step, abs=1e-4)


def test_allowed_states_restrict() -> None:
    """A site that may take two of three states has the sum of both; rows with and without restriction share a batch."""
    model = _model(0)
    allowed = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    graph = model.graph([{}, {}]).condition(Assignment({}, {}, {CATEGORY: allowed}))
    found = log_partition(graph, Clusters())
    for b, choices in enumerate((((0, 1), (1, 2)), ((0, 1), (2,)))):
        rows = [-_joint(model, 1, torch.tensor(s), None)[:, 0] for s in itertools.product(*choices)]
        assert float(found[b]) == pytest.approx(float(torch.stack(rows).logsumexp((0, 1))), abs=1e-5)
    drawn = sample(graph, Clusters(), num_samples=200, generator=torch.Generator().manual_seed(0)).values[CATEGORY]
    assert bool((drawn[:, 1] > 0).all()) and bool((drawn[:, 3] == 2).all())


def test_the_gradient_is_right() -> None:
    """The gradient of the likelihood of a row with a missing number agrees with finite differences."""
    model = _model(learned=True).double()
    target = Assignment(
        {CATEGORY: torch.tensor([0, 1]), NUMBERS: torch.tensor([[0.3], [0.0]], dtype=torch.float64)},
        {NUMBERS: torch.tensor([True, False])},
    )

    def value() -> torch.Tensor:
        return NegativeLogLikelihood()(model.graph([{}]), target, solver=Clusters()).value.sum()

    value().backward()
    for parameter in (model.mean, model.lower, model.log_diagonal, model.logit, model.states[1]):
        flat = parameter.data.reshape(-1)
        place = flat.numel() // 2
        assert parameter.grad is not None
        slope = float(parameter.grad.reshape(-1)[place])
        kept, step, ends = float(flat[place]), 1e-5, []
        for sign in (1, -1):
            flat[place] = kept + sign * step
            ends.append(float(value().detach()))
        flat[place] = kept
        assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-6)


def test_draws_have_the_model_s_moments() -> None:
    """Given one number, 20,000 draws of the other have its conditional mean, and clusters and categories their beliefs."""
    model = _model()
    known = Assignment({NUMBERS: torch.tensor([[0.5], [0.0]])}, {NUMBERS: torch.tensor([True, False])})
    graph = model.graph([{}]).condition(known)
    expected = marginals(graph, Clusters())
    drawn = sample(graph, Clusters(), num_samples=20_000, generator=torch.Generator().manual_seed(0))
    assert drawn.exact and bool((drawn.values[NUMBERS][:, 0] == 0.5).all())
    assert float(drawn.values[NUMBERS][:, 1].mean()) == pytest.approx(float(expected.means[NUMBERS][1]), abs=0.03)
    for name, site, width in ((CLUSTER, 0, 3), (CATEGORY, 0, 2), (CATEGORY, 1, 3)):
        counts = torch.bincount(drawn.values[name][:, site], minlength=width).double() / 20_000
        assert torch.allclose(counts, expected.beliefs[name][site, :width].double(), atol=0.015)


def test_the_least_energy_is_least() -> None:
    """With one number known the answer has the least energy over all clusters and categories, its own number optimal."""
    model = _model()
    known = Assignment({NUMBERS: torch.tensor([[0.5], [0.0]])}, {NUMBERS: torch.tensor([True, False])})
    graph = model.graph([{}])
    found = minimize(graph.condition(known), Clusters())
    best = math.inf
    grid = torch.linspace(-6, 6, 4001)
    for states in itertools.product(range(2), range(3)):
        x = torch.stack([torch.full_like(grid, 0.5), grid], 1).reshape(-1, 1)
        best = min(best, float(_joint(model, len(grid), torch.tensor(states * len(grid)), x).min()))
    assert float(found.energy) == pytest.approx(best, abs=1e-4)
    assert float(found.assignment[NUMBERS][0]) == 0.5


def test_marginals_are_those_of_the_engine() -> None:
    """Means, variances and beliefs agree with sums over clusters of Gaussian integrals, which the core computes too."""
    model = _model()
    states, known = torch.tensor([1, 2, 0, 1]), torch.tensor([True, False, True, True])
    numbers = torch.tensor([[0.3], [0.0], [0.2], [0.1]])
    for seen in (Assignment({CATEGORY: states, NUMBERS: numbers}, {NUMBERS: known}), Assignment({CATEGORY: states})):
        graph = model.graph([{}, {}]).condition(seen)
        ours, theirs = marginals(graph, Clusters()), marginals(graph)
        assert theirs.solver != ours.solver and theirs.exact
        torch.testing.assert_close(ours.beliefs[CLUSTER], theirs.beliefs[CLUSTER], atol=1e-5, rtol=0)
        for name in ("means", "covariances"):
            one, other = (getattr(m, name)[NUMBERS].double() for m in (ours, theirs))
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_batch_equals_loop() -> None:
    """Rows with different cells missing give the same log partitions together as one by one."""
    model = _model()
    torch.manual_seed(1)
    states, x = torch.tensor([0, 2, 1, 0, 1, 1]), torch.randn(6, 1)
    known = torch.tensor([1, 1, 1, 0, 0, 0], dtype=torch.bool)
    together = Assignment({CATEGORY: states, NUMBERS: x}, {NUMBERS: known, CATEGORY: known.flip(0)})
    found = log_partition(model.graph([{}] * 3).condition(together), Clusters())
    for b in range(3):
        own = slice(2 * b, 2 * b + 2)
        one = Assignment({CATEGORY: states[own], NUMBERS: x[own]}, {NUMBERS: known[own], CATEGORY: known.flip(0)[own]})
        alone = log_partition(model.graph([{}]).condition(one), Clusters())
        assert float(found[b]) == pytest.approx(float(alone), abs=1e-9)


def _planted(missing: float) -> Observed:
    g = torch.Generator().manual_seed(0)
    z = (torch.rand(2000, generator=g) < 0.3).long()
    noise = torch.randn(2000, 2, generator=g, dtype=torch.float64)
    noise[:, 1] = 0.8 * noise[:, 0] + 0.6 * noise[:, 1]
    x = 0.5 * noise + torch.tensor([[-1.0, 0.0], [2.0, 1.0]], dtype=torch.float64)[z]
    states = (torch.rand(2000, 1, generator=g) < torch.tensor([0.1, 0.9])[z][:, None]).long()
    known = torch.rand(2000, 2, generator=g) >= missing
    return Observed(states, x.masked_fill(~known, torch.nan), known, (2,))


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_expectation_maximisation_finds_planted_clusters(missing: float) -> None:
    """Two clusters, a third of the numbers missing or none: shares, means, covariances and tables are found."""
    rows = _planted(missing)
    found = maximised(rows, 2, torch.full((2,), 1e-6, dtype=torch.float64), 80, torch.Generator().manual_seed(1))
    order = found.mean[:, 0].argsort()
    assert torch.allclose(found.share[order], torch.tensor([0.7, 0.3], dtype=torch.float64), atol=0.03)
    assert torch.allclose(found.mean[order], torch.tensor([[-1.0, 0.0], [2.0, 1.0]], dtype=torch.float64), atol=0.08)
    cov = 0.25 * torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.float64)
    assert torch.allclose(found.covariance[order], cov.expand(2, 2, 2), atol=0.05)
    assert torch.allclose(found.tables[0][order][:, 1], torch.tensor([0.1, 0.9], dtype=torch.float64), atol=0.03)


def test_passes_never_lower_the_likelihood() -> None:
    """More passes give no lower likelihood, but for the small weight of the priors."""
    rows, blur = _planted(0.2), torch.full((2,), 1e-6, dtype=torch.float64)
    values = []
    for passes in (1, 3, 10, 30):
        found = maximised(rows, 3, blur, passes, torch.Generator().manual_seed(1))
        values.append(float(log_joint(found, rows).logsumexp(1).mean()))
    assert all(later >= earlier - 0.01 for earlier, later in itertools.pairwise(values))


def test_conditional_draws_of_gaussians_agree_with_the_formula() -> None:
    """Means moved to known coordinates are the regression on them."""
    g = torch.Generator().manual_seed(0)
    whitening = torch.randn(1, 3, 3, generator=g, dtype=torch.float64).tril() + 2 * torch.eye(3, dtype=torch.float64)
    mean = torch.randn(1, 3, generator=g, dtype=torch.float64)
    gaussians = Gaussians(mean, whitening)
    x, known = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64), torch.tensor([[True, False, True]])
    moved = gaussians.corrected(x, mean, torch.tensor([0]), known)[0]
    c = torch.linalg.inv(whitening[0].T @ whitening[0])
    own = torch.tensor([0, 2])
    expected = mean[0, 1] + c[1, own] @ torch.linalg.solve(c[own][:, own], (x[0] - mean[0])[own])
    assert float(moved[1]) == pytest.approx(float(expected), abs=1e-9)


def test_other_graphs_are_refused() -> None:
    """A graph of another energy is refused in a sentence."""
    from ebmstruct import MixtureEnergy
    from ebmstruct.inference import Query

    reason = Clusters().refuse(MixtureEnergy(2, 3).graph([{}]), Query())
    assert reason is not None and "generative.table_mixture" in reason
