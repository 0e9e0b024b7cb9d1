"""The forest kernel against enumeration and against its twin in plain torch."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ebmstruct.errors import GraphError
from ebmstruct.inference.kernels.chains import chain
from ebmstruct.inference.kernels.forests import forest, forest_torch

INF = math.inf
MODULES = [pytest.param(forest, id="kernel"), pytest.param(forest_torch, id="twin")]


class Forest(NamedTuple):
    unary: Tensor
    tables: Tensor
    num_states: Tensor
    starts: Tensor
    parent: Tensor
    order: Tensor
    table_start: Tensor
    transposed: Tensor
    instance: Tensor
    num_instances: int

    def table(self, site: int) -> Tensor:
        """(states, states of the parent) of a site with a parent, differentiable."""
        rows, columns = int(self.num_states[site]), int(self.num_states[self.parent[site]])
        begin = int(self.table_start[site])
        flat = self.tables[begin : begin + rows * columns]
        return flat.view(columns, rows).T if self.transposed[site] else flat.view(rows, columns)

    def own(self, site: int) -> Tensor:
        return self.unary[int(self.starts[site]) : int(self.starts[site + 1])]


def make(
    seed: int,
    sizes: tuple[int, ...] = (4, 0, 1, 6),
    *,
    scale: float = 1.0,
    forbid: float = 0.0,
    dtype: torch.dtype = torch.float64,
    most: int = 3,
) -> Forest:
    """Random forests of the given numbers of sites, in mixed order, with 1 to ``most`` states and shared tables."""
    generator = torch.Generator().manual_seed(seed)

    def below(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    n = sum(sizes)
    owner = [b for b, size in enumerate(sizes) for _ in range(size)]
    names = torch.randperm(n, generator=generator).tolist()
    num_states = torch.tensor([1 + below(most) for _ in range(n)], dtype=torch.long)
    parent, instance, order = [-1] * n, [0] * n, []
    for j in range(n):
        site = names[j]
        instance[site] = owner[j]
        earlier = [names[q] for q in range(j) if owner[q] == owner[j]]
        if earlier and below(5):
            parent[site] = earlier[below(len(earlier))]
        order.insert(0, site)
    table_start, transposed, shared, total = [0] * n, [False] * n, {}, 0
    for i in range(n):
        if parent[i] < 0:
            continue
        shape = (int(num_states[i]), int(num_states[parent[i]]))
        turned = bool(below(2))
        key = shape[::-1] if turned else shape
        if key not in shared or below(2):
            shared[key] = total
            total += shape[0] * shape[1]
        table_start[i], transposed[i] = shared[key], turned

    def draw(size: int) -> Tensor:
        values = torch.randn(size, generator=generator, dtype=torch.float64) * scale
        return values.masked_fill(torch.rand(size, generator=generator) < forbid, INF).to(dtype)

    return Forest(
        draw(int(num_states.sum())),
        draw(total),
        num_states,
        torch.cat([torch.zeros(1, dtype=torch.long), num_states.cumsum(0)]),
        torch.tensor(parent, dtype=torch.long),
        torch.tensor(order, dtype=torch.long),
        torch.tensor(table_start, dtype=torch.long),
        torch.tensor(transposed, dtype=torch.bool),
        torch.tensor(instance, dtype=torch.long),
        len(sizes),
    )


def energy(f: Forest, sites: list[int], states: dict[int, int]) -> float:
    value = sum(f.own(i)[states[i]].item() for i in sites)
    return value + sum(f.table(i)[states[i], states[int(f.parent[i])]].item() for i in sites if f.parent[i] >= 0)


def enumerate_energies(f: Forest, b: int) -> list[tuple[float, tuple[int, ...]]]:
    """All configurations of an instance, as states of its sites in rising order of site, by energy."""
    sites = (f.instance == b).nonzero()[:, 0].tolist()
    ranges = [range(int(f.num_states[i])) for i in sites]
    found = [(energy(f, sites, dict(zip(sites, y, strict=True))), y) for y in itertools.product(*ranges)]
    return sorted(found)


CASES = [pytest.param({"scale": s, "forbid": f}, id=f"{s}-{f}") for s, f in [(1.0, 0.0), (1.0, 0.2), (30.0, 0.3)]]


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_log_partition_and_marginals_equal_enumeration(module, case, seed):
    """log Z is the log of the sum, and a marginal the share, of exp(-energy) over all configurations."""
    f = make(seed, **case)
    unary, edges, log_z = module.marginals(*f)
    assert torch.equal(module.log_partition(*f).isneginf(), log_z.isneginf())
    wanted = torch.zeros_like(f.unary)
    joints = {i: torch.zeros_like(f.table(i)) for i in range(len(f.parent)) if f.parent[i] >= 0}
    for b in range(f.num_instances):
        sites = (f.instance == b).nonzero()[:, 0].tolist()
        ranked = enumerate_energies(f, b)
        total = torch.tensor([-value for value, _ in ranked], dtype=torch.float64).logsumexp(0).item()
        assert log_z[b].item() == pytest.approx(total, abs=1e-9)
        for value, y in ranked if total > -INF else ():
            states = dict(zip(sites, y, strict=True))
            for i in sites:
                wanted[int(f.starts[i]) + states[i]] += math.exp(-value - total)
                if f.parent[i] >= 0:
                    joints[i][states[i], states[int(f.parent[i])]] += math.exp(-value - total)
    torch.testing.assert_close(unary, wanted, atol=1e-9, rtol=0)
    flat = torch.cat([torch.zeros(0, dtype=torch.float64), *(joints[i].reshape(-1) for i in sorted(joints))])
    torch.testing.assert_close(edges, flat, atol=1e-9, rtol=0)


def proven_bound(f: Forest, messages: Tensor) -> Tensor:
    """The bound that messages prove, by the definition in ForestMinimum alone; fails if they prove nothing."""
    sizes = [int(f.num_states[p]) if p >= 0 else 0 for p in f.parent.tolist()]
    parts = messages.split(sizes)
    bound = torch.zeros(f.num_instances, dtype=torch.float64)
    for i, p in enumerate(f.parent.tolist()):
        below = f.own(i) + sum(parts[c] for c in range(len(parts)) if f.parent[c] == i)
        if p < 0:
            bound[f.instance[i]] += below.amin()
        else:
            most = (below[:, None] + f.table(i)).amin(0)
            assert (parts[i] <= most + 1e-9).all()
    return bound


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", [3, 4, 5])
def test_minimum_and_k_best_equal_sorted_enumeration(module, case, seed):
    """The k best are the first k of all, distinct, +inf where there are fewer; the messages prove the least."""
    f = make(seed, **case)
    best = forest.ForestMinimum(*module.minimize(*f))
    states, energies = module.k_best(*f, k=5)
    torch.testing.assert_close(proven_bound(f, best.messages), best.lower_bound)
    for b in range(f.num_instances):
        sites = (f.instance == b).nonzero()[:, 0].tolist()
        ranked = enumerate_energies(f, b)
        assert best.energy[b].item() == pytest.approx(ranked[0][0])
        assert energy(f, sites, dict(enumerate(best.states.tolist()))) == pytest.approx(ranked[0][0])
        wanted = [value for value, _ in ranked[:5]] + [INF] * (5 - len(ranked[:5]))
        assert energies[:, b].tolist() == pytest.approx(wanted)
        real = [y for y, value in zip(states.tolist(), wanted, strict=True) if value < INF]
        assert len({tuple(y[i] for i in sites) for y in real}) == len(real)
        for y, value in zip(real, wanted, strict=False):
            assert energy(f, sites, dict(enumerate(y))) == pytest.approx(value)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_equal_those_of_the_twin(case, dtype):
    """A different incoming gradient for each instance reaches unary energies and shared tables as in plain torch."""
    f = make(6, dtype=dtype, **case)
    inputs = [f.unary.requires_grad_(), f.tables.requires_grad_()]
    weight = torch.tensor([1.0, 2.0, -0.5, 3.0], dtype=torch.float64)
    found = []
    for module in (forest, forest_torch):
        log_z = module.log_partition(*f)
        value = (torch.where(log_z.isinf(), 0.0, log_z) * weight).sum()
        found.append(torch.autograd.grad(value, inputs, allow_unused=True, materialize_grads=True))
    for ours, twins in zip(*found, strict=True):
        torch.testing.assert_close(ours, twins)


def test_gradients_equal_finite_differences():
    """gradcheck and gradgradcheck for the kernel, gradgradcheck for the twin; create_graph changes no gradient."""
    f = make(7, (3, 2))
    inputs = [f.unary.requires_grad_(), f.tables.requires_grad_()]
    assert torch.autograd.gradcheck(lambda *x: forest.log_partition(*x, *f[2:]), inputs)
    for module in (forest, forest_torch):
        assert torch.autograd.gradgradcheck(lambda *x, m=module: m.log_partition(*x, *f[2:]), inputs)
    quick = torch.autograd.grad(forest.log_partition(*f).sum(), inputs)
    slow = torch.autograd.grad(forest.log_partition(*f).sum(), inputs, create_graph=True)
    for a, b in zip(quick, slow, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("bad", [math.nan, -INF, "infeasible"])
def test_a_bad_instance_does_not_harm_its_neighbours(module, bad):
    """NaN and -inf answer NaN, no configuration answers -inf and zeros, and the other instances do not change."""
    f = make(8, (3, 4, 2))
    clean = module.marginals(*f), module.minimize(*f), module.k_best(*f, k=2)
    site = int((f.instance == 1).nonzero()[0])
    f.own(site)[:] = INF if bad == "infeasible" else bad
    marginals, best, many = module.marginals(*f), module.minimize(*f), module.k_best(*f, k=2)
    others = f.instance != 1
    states = others.repeat_interleave(f.num_states)
    assert torch.equal(marginals[2][[0, 2]], clean[0][2][[0, 2]])
    assert torch.equal(marginals[0][states], clean[0][0][states])
    assert torch.equal(best[1][[0, 2]], clean[1][1][[0, 2]])
    assert torch.equal(best[0][others], clean[1][0][others])
    assert torch.equal(many[1][:, [0, 2]], clean[2][1][:, [0, 2]])
    drawn = module.sample(*f, num_samples=2, uniforms=torch.full((2, 9), 0.5, dtype=torch.float64))
    assert (drawn >= 0).all() and (drawn < f.num_states).all()
    if bad == "infeasible":
        assert marginals[2][1] == -INF and best[1][1] == INF and (many[1][:, 1] == INF).all()
        assert (marginals[0][~states] == 0).all() and (drawn[:, ~others] == 0).all()
    else:
        assert marginals[2][1].isnan() and best[1][1].isnan() and many[1][:, 1].isnan().all()
        assert marginals[0][~states].isnan().all()


def test_an_instance_of_weight_zero_leaves_shared_gradients_clean():
    """A NaN instance that the loss leaves out does not spoil the gradient of shared tables."""
    f = make(9, (4, 3))
    f.own(int((f.instance == 1).nonzero()[0]))[:] = math.nan
    inputs = [f.unary.requires_grad_(), f.tables.requires_grad_()]
    for gradient in torch.autograd.grad(forest.log_partition(*f)[:1].sum(), inputs):
        assert gradient.isfinite().all()


def test_sample_frequencies_equal_the_marginals_and_the_twin_draws_the_same():
    """Ten thousand samples: each frequency within five standard errors of its marginal."""
    f = make(10, (3, 0, 4), forbid=0.1)
    count, n = 10_000, 7
    uniforms = torch.rand(count, n, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    drawn = forest.sample(*f, num_samples=count, uniforms=uniforms)
    unary, edges, log_z = forest.marginals(*f)
    assert log_z.isfinite().all()
    begin = 0
    for i in range(n):
        share = unary[int(f.starts[i]) : int(f.starts[i + 1])]
        seen = torch.nn.functional.one_hot(drawn[:, i], int(f.num_states[i])).double().mean(0)
        assert ((seen - share).abs() <= 5 * (share * (1 - share)).clamp(min=0).sqrt() / 100 + 1e-9).all()
        if f.parent[i] >= 0:
            columns = int(f.num_states[f.parent[i]])
            joint = edges[begin : begin + f.num_states[i] * columns]
            pair = drawn[:, i] * columns + drawn[:, f.parent[i]]
            seen = torch.nn.functional.one_hot(pair, len(joint)).double().mean(0)
            assert ((seen - joint).abs() <= 5 * (joint * (1 - joint)).clamp(min=0).sqrt() / 100 + 1e-9).all()
            begin += len(joint)
    few = uniforms[:50]
    assert torch.equal(drawn[:50], forest_torch.sample(*f, num_samples=50, uniforms=few))


def test_a_chain_is_a_forest():
    """A chain of 300 sites laid out as a forest, all edges sharing one table, answers as the chain kernel does."""
    n, k = 300, 4
    generator = torch.Generator().manual_seed(11)
    emission = torch.randn(n, k, generator=generator, dtype=torch.float64)
    table = torch.randn(k, k, generator=generator, dtype=torch.float64)
    sites = torch.arange(n)
    f = Forest(
        emission.reshape(-1), table.reshape(-1), torch.full((n,), k), torch.arange(n + 1) * k, sites - 1, sites.flip(0),
        torch.zeros(n, dtype=torch.long), torch.ones(n, dtype=torch.bool), torch.zeros(n, dtype=torch.long), 1,
    )  # fmt: skip
    line = emission, table, None, None, torch.tensor([0, n])
    torch.testing.assert_close(forest.log_partition(*f), chain.log_partition(*line))
    torch.testing.assert_close(forest.marginals(*f).unary.view(n, k), chain.marginals(*line).unary)
    assert torch.equal(forest.minimize(*f).states, chain.viterbi(*line).states)
    torch.testing.assert_close(forest.k_best(*f, k=4)[1], chain.k_best(*line, k=4)[1])


@given(
    sizes=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    most=st.integers(1, 4),
    scale=st.sampled_from([0.1, 1.0, 100.0]),
    forbid=st.sampled_from([0.0, 0.3]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_any_small_forest_agrees_with_enumeration(sizes, most, scale, forbid, dtype, seed):
    """Whatever the shape, scale and forbidden entries: log Z and least energy are those of enumeration."""
    f = make(seed, tuple(sizes), most=most, scale=scale, forbid=forbid, dtype=dtype)
    log_z, best = forest.log_partition(*f), forest.minimize(*f)
    for b in range(len(sizes)):
        values = torch.tensor([-value for value, _ in enumerate_energies(f, b)], dtype=torch.float64)
        assert log_z[b].item() == pytest.approx(values.logsumexp(0).item(), abs=1e-6)
        assert best.energy[b].item() == pytest.approx(-values.max().item(), abs=1e-6)


def test_operators_agree_with_their_fake_rules():
    """torch's own opcheck of shapes and types."""
    f = make(12)
    checks = ("test_schema", "test_faketensor")
    ops = torch.ops.ebmstruct
    record = ops.forest_forward(*f)
    torch.library.opcheck(ops.forest_forward.default, tuple(f), test_utils=checks)
    for edges in (False, True):
        arguments = (*f, *record, torch.ones_like(record[0]), 1.0, edges)
        torch.library.opcheck(ops.forest_backward.default, arguments, test_utils=checks)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_unusual_types_take_the_twin(dtype):
    """Half precision is computed in float64, and gradients come back in the type of the input."""
    f = make(13, dtype=dtype)
    wide = f._replace(unary=f.unary.double(), tables=f.tables.double())
    torch.testing.assert_close(forest.log_partition(*f), forest.log_partition(*wide))
    f.unary.requires_grad_()
    assert torch.autograd.grad(forest.log_partition(*f).sum(), f.unary)[0].dtype == dtype


def test_faulty_arguments_are_named():
    """Whatever a loop would use as an index is checked first."""
    f = make(14, (4, 2))
    child = int((f.parent >= 0).nonzero()[0])
    faults = {
        "starts": f._replace(starts=f.starts + 1),
        "instance": f._replace(instance=f.instance + 5),
        "parent": f._replace(parent=f.parent.index_fill(0, torch.tensor([child]), 77)),
        "table_start": f._replace(table_start=f.table_start + 1000),
        "order": f._replace(order=f.order.flip(0)),
        "transposed": f._replace(transposed=f.transposed.long()),
        "unary": f._replace(unary=f.unary.float()),
    }
    for name, broken in faults.items():
        with pytest.raises(GraphError, match=name):
            forest.log_partition(*broken)
    with pytest.raises(GraphError, match="at least 1"):
        forest.k_best(*f, k=0)
