"""The chain kernel against enumeration, against its twin in plain torch, and against itself one instance at a time."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ebmstruct.errors import GraphError
from ebmstruct.inference.kernels import parallel
from ebmstruct.inference.kernels.chains import chain, chain_torch

INF = math.inf
LENGTHS = (0, 5, 1, 4, 0, 2, 3)


class Chain(NamedTuple):
    emission: Tensor
    transition: Tensor
    start: Tensor | None
    end: Tensor | None
    offsets: Tensor

    def instance(self, b: int) -> Chain:
        """Instance b as a batch of its own."""
        first, last = int(self.offsets[b]), int(self.offsets[b + 1])
        tables = self.transition if self.transition.dim() == 2 else self.transition[first:last]
        return Chain(self.emission[first:last], tables, self.start, self.end, torch.tensor([0, last - first]))

    def learned(self) -> list[Tensor]:
        return [x.requires_grad_() for x in self[:4] if x is not None]


def make(
    seed: int,
    lengths: tuple[int, ...] = LENGTHS,
    states: int = 3,
    *,
    per_edge: bool = False,
    ends: bool = True,
    scale: float = 1.0,
    forbid: float = 0.0,
    dtype: torch.dtype = torch.float64,
) -> Chain:
    """A random ragged batch; forbid is the share of infinite entries."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        values = torch.randn(*shape, generator=generator, dtype=torch.float64) * scale
        return values.masked_fill(torch.rand(*shape, generator=generator) < forbid, INF).to(dtype)

    sites = sum(lengths)
    return Chain(
        draw(sites, states),
        draw(sites, states, states) if per_edge else draw(states, states),
        draw(states) if ends else None,
        draw(states) if ends else None,
        torch.tensor([0, *itertools.accumulate(lengths)]),
    )


def enumerate_energies(one: Chain) -> list[tuple[float, tuple[int, ...]]]:
    """All configurations of one instance with their energies, in rising order."""
    length, states = one.emission.shape
    found = []
    for y in itertools.product(range(states), repeat=length):
        value = sum(one.emission[t, y[t]].item() for t in range(length))
        for t in range(1, length):
            table = one.transition if one.transition.dim() == 2 else one.transition[t]
            value += table[y[t - 1], y[t]].item()
        if length and one.start is not None and one.end is not None:
            value += one.start[y[0]].item() + one.end[y[-1]].item()
        found.append((value, y))
    return sorted(found)


def oracle_log_partition(one: Chain) -> float:
    return torch.tensor([-value for value, _ in enumerate_energies(one)], dtype=torch.float64).logsumexp(0).item()


CASES = [
    pytest.param({"per_edge": p, "ends": e, "forbid": f, "states": k, "scale": s}, id=f"{p}-{e}-{f}-{k}-{s}")
    for p in (False, True)
    for e, f, k, s in [(True, 0.0, 3, 1.0), (False, 0.25, 4, 1.0), (True, 0.4, 2, 30.0), (True, 0.0, 1, 1.0)]
]
MODULES = [pytest.param(chain, id="kernel"), pytest.param(chain_torch, id="twin")]


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_partition_and_marginals_equal_enumeration(module, case, dtype):
    """log Z is the log of the sum, and a marginal the share, of exp(-energy) over all configurations."""
    batch = make(1, dtype=dtype, **case)
    unary, pairwise, log_z = module.marginals(*batch, pairwise=True)
    assert torch.equal(module.log_partition(*batch).isneginf(), log_z.isneginf())
    for b in range(len(LENGTHS)):
        first, last = int(batch.offsets[b]), int(batch.offsets[b + 1])
        wanted = oracle_log_partition(batch.instance(b))
        assert log_z[b].item() == pytest.approx(wanted, rel=1e-6, abs=1e-5)
        share = torch.zeros(last - first, batch.emission.shape[1], dtype=torch.float64)
        joint = torch.zeros(last - first, *batch.emission.shape[1:] * 2, dtype=torch.float64)
        for value, y in enumerate_energies(batch.instance(b)) if wanted > -INF else ():
            for t in range(last - first):
                share[t, y[t]] += math.exp(-value - wanted)
                if t:
                    joint[t, y[t - 1], y[t]] += math.exp(-value - wanted)
        torch.testing.assert_close(unary[first:last].double(), share, atol=2e-5, rtol=0)
        torch.testing.assert_close(pairwise[first:last].double(), joint, atol=2e-5, rtol=0)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("case", CASES)
def test_viterbi_and_k_best_equal_sorted_enumeration(module, case):
    """The k best energies are the first k of all, +inf where there are fewer, and the states have those energies."""
    batch = make(2, **case)
    best = module.viterbi(*batch)
    best = chain.ChainMinimum(*best)
    states, energies = module.k_best(*batch, k=5)
    assert best.finished.all()
    for b in range(len(LENGTHS)):
        one = batch.instance(b)
        first, last = int(batch.offsets[b]), int(batch.offsets[b + 1])
        ranked = enumerate_energies(one)
        assert best.energy[b].item() == pytest.approx(ranked[0][0])
        assert best.lower_bound[b].item() == pytest.approx(ranked[0][0])
        wanted = [value for value, _ in ranked[:5]] + [INF] * (5 - len(ranked[:5]))
        assert energies[:, b].tolist() == pytest.approx(wanted)
        found = [tuple(y) for y, value in zip(states[:, first:last].tolist(), wanted, strict=True) if value < INF]
        assert len(set(found)) == len(found)
        for y, value in zip(found, energies[:, b].tolist(), strict=False):
            assert module.energy(torch.tensor(y, dtype=torch.long), *one).item() == pytest.approx(value)


def proven_bound(batch: Chain, messages: Tensor) -> Tensor:
    """The bound that messages prove, by the definition in ChainMinimum alone; fails if they prove nothing."""
    bounds = []
    for b in range(len(batch.offsets) - 1):
        one = batch.instance(b)
        first = int(batch.offsets[b])
        bound = 0.0
        for t in range(len(one.emission)):
            if t == 0:
                most = one.emission[0] + (0 if one.start is None else one.start)
            else:
                table = one.transition if one.transition.dim() == 2 else one.transition[t]
                most = (messages[first + t - 1][:, None] + table).amin(0) + one.emission[t]
            assert (messages[first + t] <= most + 1e-9 * (1 + most.abs().nan_to_num(posinf=0))).all()
            bound = (messages[first + t] + (0 if one.end is None else one.end)).amin().item()
        bounds.append(bound)
    return torch.tensor(bounds, dtype=torch.float64)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("slices", [0, 1, 2, 3, 100])
def test_deadline_leaves_a_bound_below_and_an_energy_above_the_optimum(module, case, slices, monkeypatch):
    """After any number of slices: proven bound = stated bound <= optimum <= energy, feasible where anything is."""
    batch = make(3, **case)
    ticks = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: next(ticks))
    monkeypatch.setattr(chain, "SLICE", 1)
    best = chain.ChainMinimum(*module.viterbi(*batch, deadline=float(slices)))
    exact = chain.viterbi(*batch)
    torch.testing.assert_close(best.energy[best.finished], exact.energy[best.finished])
    assert slices < 100 or best.finished.all()
    assert (best.lower_bound <= exact.energy + 1e-9).all()
    assert (exact.energy <= best.energy + 1e-9).all()
    assert torch.equal(best.energy.isinf(), exact.energy.isinf())
    torch.testing.assert_close(module.energy(best.states, *batch), best.energy)
    torch.testing.assert_close(torch.minimum(proven_bound(batch, best.messages), best.energy), best.lower_bound)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_equal_those_of_the_twin(case, dtype):
    """A different incoming gradient for each instance reaches every input as it does in plain torch."""
    weight = torch.linspace(-1, 2, len(LENGTHS), dtype=torch.float64)
    found = []
    for module in (chain, chain_torch):
        batch = make(4, dtype=dtype, **case)
        learned = batch.learned()
        log_z = module.log_partition(*batch)
        states = torch.arange(len(batch.emission)) % batch.emission.shape[1]
        value = module.energy(states, *batch)
        some = torch.where(log_z.isinf(), 0.0, log_z) + torch.where(value.isinf(), 0.0, value)
        found.append(torch.autograd.grad((some * weight).sum(), learned))
    for ours, twins in zip(*found, strict=True):
        torch.testing.assert_close(ours, twins, atol=1e-4 if dtype == torch.float32 else 1e-9, rtol=1e-4)


@pytest.mark.parametrize("per_edge", [False, True])
def test_gradients_equal_finite_differences(per_edge):
    """torch's gradcheck in float64, for log Z and for the energy of given states."""
    batch = make(5, lengths=(3, 0, 1, 4), per_edge=per_edge)
    inputs = [x.detach().requires_grad_() for x in batch[:4]]
    states = torch.arange(8) % 3
    assert torch.autograd.gradcheck(lambda *x: chain.log_partition(*x, batch.offsets), inputs)
    assert torch.autograd.gradcheck(lambda *x: chain.energy(states, *x, batch.offsets), inputs)


def test_second_derivatives():
    """gradgradcheck passes for the kernel and for its twin; with create_graph, gradients are the same as without."""
    batch = make(6, lengths=(3, 1))
    inputs = [x.detach().requires_grad_() for x in batch[:4]]
    for module in (chain, chain_torch):
        assert torch.autograd.gradgradcheck(lambda *x, m=module: m.log_partition(*x, batch.offsets), inputs)
    states = torch.arange(4) % 3
    assert torch.autograd.gradgradcheck(lambda *x: chain.energy(states, *x, batch.offsets), inputs)
    quick = torch.autograd.grad(chain.log_partition(*inputs, batch.offsets).sum(), inputs)
    slow = torch.autograd.grad(chain.log_partition(*inputs, batch.offsets).sum(), inputs, create_graph=True)
    for a, b in zip(quick, slow, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("states", [3, 17, 40])
@pytest.mark.parametrize(("scale", "forbid"), [(1.0, 0.0), (3.0, 0.2), (30.0, 0.2)])
@pytest.mark.parametrize("per_edge", [False, True])
def test_batch_equals_loop_bit_for_bit(dtype, states, scale, forbid, per_edge):
    """What is computed for an instance does not depend on its neighbours."""
    batch = make(7, (7, 0, 1, 70, 12), states, scale=scale, forbid=forbid, dtype=dtype, per_edge=per_edge)
    unary, pairwise, log_z = chain.marginals(*batch, pairwise=True)
    best = chain.viterbi(*batch)
    uniforms = torch.rand(2, len(unary), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn = chain.sample(*batch, num_samples=2, uniforms=uniforms)
    assert torch.equal(chain.log_partition(*batch), log_z)
    for b in range(5):
        one = batch.instance(b)
        sites = slice(int(batch.offsets[b]), int(batch.offsets[b + 1]))
        alone = chain.marginals(*one, pairwise=True)
        assert torch.equal(alone.unary, unary[sites])
        assert torch.equal(alone.pairwise, pairwise[sites])
        assert torch.equal(alone.log_partition, log_z[b : b + 1])
        assert torch.equal(chain.viterbi(*one).states, best.states[sites])
        assert torch.equal(chain.sample(*one, num_samples=2, uniforms=uniforms[:, sites]), drawn[:, sites])


@pytest.mark.parametrize(("scale", "forbid"), [(1.0, 0.0), (1.0, 0.2), (5.0, 0.1), (30.0, 0.0), (30.0, 0.2)])
@pytest.mark.parametrize("shape", [((600,), 9), ((30, 1, 200), 17), ((60, 60), 33)])
def test_float32_agrees_with_float64(scale, forbid, shape):
    """log Z within 1e-4 relative and marginals within 1e-4 of the twin in float64, peaked and constrained too."""
    batch = make(8, *shape, scale=scale, forbid=forbid, dtype=torch.float32)
    wide = Chain(*(x.double() for x in batch[:4]), batch.offsets)
    unary, pairwise, log_z = chain.marginals(*batch, pairwise=True)
    wanted = chain_torch.marginals(*wide, pairwise=True)
    torch.testing.assert_close(log_z, wanted[2], rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(unary.double(), wanted[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(pairwise.double(), wanted[1], rtol=0, atol=1e-4)


def test_a_hundred_thousand_sites_keep_their_digits():
    """log Z, the least energy and the marginals of a long float32 chain are those of float64."""
    batch = make(9, (100_000,), 9, dtype=torch.float32)
    wide = Chain(*(x.double() for x in batch[:4]), batch.offsets)
    unary, _, log_z = chain.marginals(*batch)
    wanted, _, wide_log_z = chain.marginals(*wide)
    assert log_z.item() == pytest.approx(wide_log_z.item(), rel=1e-6)
    torch.testing.assert_close(unary.double(), wanted, rtol=0, atol=1e-4)
    best, exact = chain.viterbi(*batch), chain.viterbi(*wide)
    assert torch.equal(best.states, exact.states)
    assert best.energy.item() == pytest.approx(best.lower_bound.item(), rel=1e-12)


def test_weights_that_vanish_and_matter_are_found():
    """Two worlds with no way between them, one dear early, one late, both of energy 300: Z is 2 exp(-300).

    Every single step is harmless in float32, so only the check of vanishing weights can notice.
    """
    emission = torch.zeros(13, 2)
    emission[:6, 0] = 50.0
    emission[6:12, 1] = 50.0
    transition = torch.tensor([[0.0, INF], [INF, 0.0]])
    log_z = chain.log_partition(emission, transition, None, None, torch.tensor([0, 13]))
    assert log_z.item() == pytest.approx(math.log(2) - 300, abs=1e-6)
    unary = chain.marginals(emission, transition, None, None, torch.tensor([0, 13])).unary
    torch.testing.assert_close(unary, torch.full((13, 2), 0.5))


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("bad", [math.nan, -INF, "infeasible"])
@pytest.mark.parametrize("per_edge", [False, True])
def test_a_bad_instance_does_not_harm_its_neighbours(module, bad, per_edge):
    """NaN and -inf answer NaN, no configuration answers -inf and zeros, and the other instances do not change."""
    batch = make(10, (4, 3, 5), per_edge=per_edge, dtype=torch.float32)
    clean = module.marginals(*batch, pairwise=True)
    lowest = chain.ChainMinimum(*module.viterbi(*batch))
    best = module.k_best(*batch, k=2)
    emission = batch.emission.clone()
    if bad == "infeasible":
        emission[5] = INF
    else:
        emission[5, 1] = bad
    batch = batch._replace(emission=emission)
    unary, pairwise, log_z = module.marginals(*batch, pairwise=True)
    found = chain.ChainMinimum(*module.viterbi(*batch))
    many = module.k_best(*batch, k=2)
    others = [0, 2]
    sites = [0, 1, 2, 3, 7, 8, 9, 10, 11]
    assert torch.equal(log_z[others], clean[2][others])
    assert torch.equal(unary[sites], clean[0][sites])
    assert torch.equal(pairwise[sites], clean[1][sites])
    assert torch.equal(found.energy[others], lowest.energy[others])
    assert torch.equal(found.states[sites], lowest.states[sites])
    assert torch.equal(many[1][:, others], best[1][:, others])
    drawn = module.sample(*batch, num_samples=2, uniforms=torch.full((2, 12), 0.5, dtype=torch.float64))
    assert ((drawn >= 0) & (drawn < 3)).all()
    if bad == "infeasible":
        assert log_z[1] == -INF and found.energy[1] == INF and (many[1][:, 1] == INF).all()
        assert (unary[4:7] == 0).all() and (pairwise[4:7] == 0).all() and (drawn[:, 4:7] == 0).all()
        emission.requires_grad_()
        (grad,) = torch.autograd.grad(module.log_partition(*batch).sum(), emission)
        assert grad.isfinite().all() and (grad[4:7] == 0).all()
    else:
        assert log_z[1].isnan() and found.energy[1].isnan() and found.lower_bound[1].isnan()
        assert many[1][:, 1].isnan().all()


def test_an_instance_of_weight_zero_leaves_shared_gradients_clean():
    """A NaN instance that the loss leaves out does not spoil the gradient of the shared table."""
    batch = make(11, (4, 3), dtype=torch.float32)
    batch.emission[5, 0] = math.nan
    learned = batch.learned()
    chain.log_partition(*batch)[:1].sum().backward()
    assert all(x.grad is not None and x.grad.isfinite().all() for x in learned)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_sample_frequencies_equal_the_marginals(module, scale):
    """Ten thousand samples: each frequency within five standard errors; the same uniforms give the same draws."""
    batch = make(12, (3, 0, 1, 2), scale=scale, forbid=0.2)
    count = 10_000
    uniforms = torch.rand(count, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    drawn = module.sample(*batch, num_samples=count, uniforms=uniforms)
    assert torch.equal(drawn, module.sample(*batch, num_samples=count, uniforms=uniforms))
    unary, pairwise, log_z = chain.marginals(*batch, pairwise=True)
    assert log_z.isfinite().all()
    seen = torch.nn.functional.one_hot(drawn, 3).double().mean(0)
    assert ((seen - unary).abs() <= 5 * (unary * (1 - unary).clamp(min=0) / count).sqrt() + 1e-9).all()
    pairs = torch.nn.functional.one_hot(drawn[:, 1] * 3 + drawn[:, 2], 9).double().mean(0).view(3, 3)
    joint = pairwise[2]
    assert ((pairs - joint).abs() <= 5 * (joint * (1 - joint).clamp(min=0) / count).sqrt() + 1e-9).all()


def test_kernel_and_twin_draw_the_same_states_from_the_same_uniforms():
    """Both invert the same cumulative sums."""
    batch = make(13, (20, 3), 4)
    uniforms = torch.rand(50, 23, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    ours = chain.sample(*batch, num_samples=50, uniforms=uniforms)
    assert torch.equal(ours, chain_torch.sample(*batch, num_samples=50, uniforms=uniforms))


@given(
    lengths=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    states=st.integers(1, 4),
    per_edge=st.booleans(),
    ends=st.booleans(),
    scale=st.sampled_from([0.1, 1.0, 10.0, 100.0]),
    forbid=st.sampled_from([0.0, 0.1, 0.5]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_any_small_batch_agrees_with_enumeration(lengths, states, per_edge, ends, scale, forbid, dtype, seed):
    """Whatever the shape, scale and forbidden entries: log Z and least energy are those of enumeration."""
    lengths = tuple(lengths)
    batch = make(seed, lengths, states, per_edge=per_edge, ends=ends, scale=scale, forbid=forbid, dtype=dtype)
    log_z = chain.log_partition(*batch)
    best = chain.viterbi(*batch)
    marginals = chain.marginals(*batch)
    for b in range(len(lengths)):
        ranked = enumerate_energies(batch.instance(b))
        assert log_z[b].item() == pytest.approx(oracle_log_partition(batch.instance(b)), rel=1e-5, abs=1e-4)
        assert best.energy[b].item() == pytest.approx(ranked[0][0], rel=1e-6, abs=1e-9)
        rows = marginals.unary[int(batch.offsets[b]) : int(batch.offsets[b + 1])].sum(1)
        torch.testing.assert_close(rows, torch.full_like(rows, float(log_z[b] > -INF)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_unusual_types_take_the_twin(dtype):
    """Half precision is computed in float32, and gradients come back in the type of the input."""
    batch = make(14, dtype=dtype)
    learned = batch.learned()
    log_z = chain.log_partition(*batch)
    wanted = chain.log_partition(*(x.detach().float() for x in batch[:4]), batch.offsets)
    torch.testing.assert_close(log_z, wanted)
    log_z.sum().backward()
    assert all(x.grad is not None and x.grad.dtype == dtype for x in learned)
    assert chain.viterbi(*batch).finished.all()


def test_operators_trace_with_fake_tensors():
    """The registered fake rules agree with the operators: shapes and types under torch's own opcheck."""
    batch = make(15, dtype=torch.float32)
    ops = torch.ops.ebmstruct
    log_z, kept = ops.chain_forward(*batch, True)
    checks = ("test_schema", "test_faketensor")
    torch.library.opcheck(ops.chain_forward.default, (*batch, True), test_utils=checks)
    for pairs in (0, 1, 2):
        arguments = (*batch, kept, torch.ones_like(log_z), -1.0, pairs)
        torch.library.opcheck(ops.chain_backward.default, arguments, test_utils=checks)
    states = torch.zeros(len(batch.emission), dtype=torch.long)
    torch.library.opcheck(ops.chain_energy.default, (states, *batch), test_utils=checks)
    arguments = (states, batch.emission, batch.transition, batch.offsets, torch.ones_like(log_z))
    torch.library.opcheck(ops.chain_energy_backward.default, arguments, test_utils=checks)


def test_faulty_arguments_are_named():
    """Shapes, types, offsets and states that do not fit raise a sentence, and no memory is read beyond them."""
    batch = make(16)
    with pytest.raises(GraphError, match="transition has shape"):
        chain.log_partition(*batch._replace(transition=torch.zeros(2, 2, dtype=torch.float64)))
    with pytest.raises(GraphError, match="start is torch"):
        chain.viterbi(*batch._replace(start=torch.zeros(3)))
    with pytest.raises(GraphError, match="offsets"):
        chain.log_partition(*batch._replace(offsets=torch.tensor([0, 9, 4, 15])))
    with pytest.raises(GraphError, match="state 3 at site 0"):
        chain.energy(torch.full((15,), 3), *batch)
    with pytest.raises(GraphError, match="uniforms"):
        chain.sample(*batch, num_samples=2, uniforms=torch.zeros(1, 15, dtype=torch.float64))
    with pytest.raises(GraphError, match="at least 1"):
        chain.k_best(*batch, k=0)


@pytest.mark.parametrize("per_edge", [False, True])
def test_threads_change_nothing(per_edge, monkeypatch):
    """A large batch gives the same bits, gradients of shared tables included, by one thread and by two."""
    monkeypatch.setattr(parallel, "LARGE", 0)
    answers = []
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            batch = make(17, (5, 0, 30, 2, 9, 1, 1, 40, 3, 12), 5, per_edge=per_edge, dtype=torch.float32)
            best = chain.viterbi(*batch)
            learned = batch.learned()
            log_z = chain.log_partition(*batch)
            answers.append([*best, log_z, *torch.autograd.grad(log_z.sum(), learned)])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))
    monkeypatch.setattr(parallel, "LARGE", 10**12)
    log_z = chain.log_partition(*batch)
    assert torch.equal(log_z, answers[0][5])
    for whole, parted in zip(torch.autograd.grad(log_z.sum(), learned), answers[0][6:], strict=True):
        torch.testing.assert_close(whole, parted)


def test_many_callers_at_once():
    """The loops hold no state: eight threads asking at the same time get what one gets."""
    batch = make(18, (40, 3, 100), 9, dtype=torch.float32)
    wanted = chain.marginals(*batch).unary
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: chain.marginals(*batch).unary, range(64)))
    assert all(torch.equal(unary, wanted) for unary in found)


def test_numba_waits_for_the_first_use_of_a_kernel():
    """Importing the kernels' modules must not pay for numba."""
    modules = "ebmstruct.inference.kernels.chains.chain, ebmstruct.inference.kernels.forests.forest"
    code = f"import sys, {modules}; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_cache_that_cannot_be_written_is_done_without(monkeypatch):
    """numba raises at decoration when it finds no folder for its cache; the loop is then compiled in memory."""
    numba = pytest.importorskip("numba")
    from ebmstruct.inference.kernels.compiler import kernel

    real = numba.njit

    def njit(*arguments, **options):
        if options.pop("cache", False):
            raise RuntimeError("cannot cache function: no locator available")
        return real(*arguments, **options)

    monkeypatch.setattr(numba, "njit", njit)
    assert kernel(lambda x: x + 1)(2) == 3
