"""Sparse linear energies and the optimiser of touched rows: against plain torch, and to the bit where promised."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from ebmstruct.energies.sparse import SparseLinear, drop_features, gather_sum, gather_sum_reference
from ebmstruct.errors import GraphError
from ebmstruct.learning.optimizers import RowAdaGrad


def some_ids(n: int, width: int, buckets: int, seed: int = 0) -> Tensor:
    """Random ids, a third of them nothing, with repetitions within a token."""
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, buckets, (n, width), generator=g, dtype=torch.int32)
    return ids * (torch.rand(n, width, generator=g) > 1 / 3)


def weights(buckets: int, states: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """A leaf of normal weights."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(buckets, states, generator=g, dtype=dtype).requires_grad_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize(("n", "width", "buckets", "states"), [(7, 5, 40, 3), (50, 9, 1 << 10, 17), (0, 4, 8, 2)])
def test_gather_sum_equals_its_twin(
    n: int, width: int, buckets: int, states: int, sparse: bool, dtype: torch.dtype
) -> None:
    """Values and gradients of the loops equal embedding_bag's; id 0 adds nothing although row 0 is not zero."""
    ids = some_ids(n, width, buckets)
    ours, twin = weights(buckets, states, dtype=dtype), weights(buckets, states, dtype=dtype)
    out, expected = gather_sum(ours, ids, sparse=sparse), gather_sum_reference(twin, ids)
    torch.testing.assert_close(out, expected)
    scale = torch.arange(out.numel(), dtype=dtype).reshape(out.shape).sin()
    (out * scale).sum().backward()
    (expected * scale).sum().backward()
    assert ours.grad is not None and ours.grad.is_sparse == sparse
    torch.testing.assert_close(ours.grad.to_dense(), twin.grad)


def test_the_sparse_gradient_lists_each_touched_row_once() -> None:
    """Rows are the distinct ids above 0 in ascending order, so nothing needs sorting."""
    ids = torch.tensor([[5, 0, 900], [5, 5, 64]])
    w = weights(1000, 2)
    gather_sum(w, ids).sum().backward()
    assert w.grad is not None
    assert w.grad._indices().tolist() == [[5, 64, 900]]
    assert w.grad._values().tolist() == [[3.0, 3.0], [1.0, 1.0], [1.0, 1.0]]


@pytest.mark.parametrize("sparse", [True, False])
def test_operators_are_well_formed(sparse: bool) -> None:
    """torch's own check of custom operators passes: schema, fake tensors, no hidden mutation."""
    ids, w = some_ids(4, 3, 50), weights(50, 2).detach()
    torch.library.opcheck(torch.ops.ebmstruct.sparse_gather.default, (w, ids), test_utils=CHECKS)
    name = "sparse_scatter" if sparse else "sparse_scatter_dense"
    scatter = getattr(torch.ops.ebmstruct, name).default
    torch.library.opcheck(scatter, (torch.ones(4, 2), ids, 50), test_utils=CHECKS)


CHECKS = ("test_schema", "test_faketensor")


def test_gradient_by_finite_differences() -> None:
    """gradcheck agrees in float64."""
    ids = some_ids(6, 4, 12)
    w = weights(12, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda w: gather_sum(w, ids, sparse=False).sin(), (w,))


def test_double_backward_is_refused() -> None:
    """The gradient of a gradient would be wrong in silence; it is an error."""
    w = weights(10, 2)
    (g,) = torch.autograd.grad(gather_sum(w, some_ids(3, 2, 10), sparse=False).square().sum(), w, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()


def test_dropping_features() -> None:
    """Each column is dropped at its own rate, the rest stays, and the same seed drops the same."""
    ids = torch.ones(20_000, 3, dtype=torch.int32) * 7
    rates = torch.tensor([0.0, 0.25, 0.9])
    first, second = (drop_features(ids, rates, torch.Generator().manual_seed(s)) for s in (1, 2))
    again = drop_features(ids, rates, torch.Generator().manual_seed(1))
    assert (first == again).all() and (first != second).any()
    assert set(first.unique().tolist()) == {0, 7}
    # Standard error of a share of 20,000 is 0.0035 at most; the bound is four of them.
    assert torch.allclose((first == 0).float().mean(0), rates, atol=0.014)
    together = ((first[:, 1] == 0) & (first[:, 2] == 0)).float().mean()
    assert abs(together - 0.225) < 0.014, "columns are dropped independently"
    assert (ids == 7).all()


def test_the_module_drops_only_in_training() -> None:
    """eval() uses every feature; training depends on the generator alone."""
    m = SparseLinear(64, 2, dropout=0.5)
    with torch.no_grad():
        m.weight.fill_(1.0)
    ids = torch.full((10, 4), 3)
    m.eval()
    assert (m(ids) == 4).all()
    m.train()
    a, b = (m(ids, torch.Generator().manual_seed(5)) for _ in range(2))
    assert (a == b).all() and (a < 4).any()


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: SparseLinear(0, 3), "buckets and states"),
        (lambda: SparseLinear(8, 3, dropout=1.0), "legal is a rate"),
        (lambda: SparseLinear(8, 3)(torch.zeros(3)), r"must be \(n, F\)"),
    ],
)
def test_misuse_is_told(build, words: str) -> None:  # type: ignore[no-untyped-def]
    """Wrong sizes, rates and shapes are refused in a sentence."""
    with pytest.raises(GraphError, match=words):
        build()


OPTIONS = [{}, {"weight_decay": 0.1}, {"l1": 0.05}, {"weight_decay": 0.1, "l1": 0.05}]


def by_hand(w: Tensor, total: Tensor, g: Tensor, lr: float, weight_decay: float = 0.0, l1: float = 0.0) -> None:
    """One step of AdaGrad on touched entries, written out entry by entry."""
    for i in range(w.shape[0]):
        for k in range(w.shape[1]):
            if not bool(g[i].any()):
                continue
            slope = float(g[i, k] + weight_decay * w[i, k])
            total[i, k] += slope * slope
            step = lr / (float(total[i, k]) ** 0.5 + 1e-10)
            moved = float(w[i, k]) - step * slope
            w[i, k] = max(abs(moved) - step * l1, 0.0) * (1 if moved > 0 else -1) if l1 else moved


@pytest.mark.parametrize("options", OPTIONS)
def test_row_adagrad_by_hand(options: dict[str, float]) -> None:
    """Three steps on sparse gradients equal the rule written out; untouched rows keep every bit."""
    w = weights(30, 3)
    expected, total = w.detach().clone(), torch.full((30, 3), 0.5)
    start = w.detach().clone()
    optimizer = RowAdaGrad([w], lr=0.3, initial_accumulator=0.5, **options)
    touched: set[int] = set()
    for step in range(3):
        ids = some_ids(4, 3, 30, seed=step)
        optimizer.zero_grad()
        gather_sum(w, ids).square().sum().backward()
        assert w.grad is not None
        by_hand(expected, total, w.grad.to_dense(), 0.3, **options)
        optimizer.step()
        touched |= set(ids.flatten().tolist()) - {0}
    torch.testing.assert_close(w.detach(), expected)
    rest = sorted(set(range(30)) - touched)
    assert rest and torch.equal(w.detach()[rest], start[rest])


def test_row_adagrad_equals_torch_on_dense_gradients() -> None:
    """Without l1 a dense step is torch.optim.Adagrad's."""
    ours, theirs = weights(5, 4), weights(5, 4)
    a = RowAdaGrad([ours], lr=0.2, initial_accumulator=0.1, weight_decay=0.01)
    b = torch.optim.Adagrad([theirs], lr=0.2, initial_accumulator_value=0.1, weight_decay=0.01)
    for _ in range(4):
        for w, o in ((ours, a), (theirs, b)):
            o.zero_grad()
            w.square().sum().backward()
            o.step()
    torch.testing.assert_close(ours, theirs)


def test_rows_listed_twice_are_added_first() -> None:
    """A gradient summed from two batches counts each row once, as AdaGrad is not linear in the gradient."""
    one, two = weights(20, 2), weights(20, 2)
    a, b = (RowAdaGrad([w], lr=0.1) for w in (one, two))
    first, second = some_ids(3, 3, 20, seed=1), some_ids(3, 3, 20, seed=2)
    gather_sum(one, first).sum().backward()
    gather_sum(one, second).sum().backward()
    gather_sum(two, torch.cat([first, second])).sum().backward()
    a.step()
    b.step()
    torch.testing.assert_close(one, two)


def test_resumed_training_is_bit_identical() -> None:
    """Six steps equal three, a copy of the state, and three more."""

    def steps(w: Tensor, o: RowAdaGrad, which: range) -> None:
        for step in which:
            o.zero_grad()
            gather_sum(w, some_ids(8, 4, 50, seed=step)).square().sum().backward()
            o.step()

    whole = weights(50, 3)
    through = RowAdaGrad([whole], lr=0.1, l1=1e-3)
    steps(whole, through, range(3))
    part = whole.detach().clone().requires_grad_()
    resumed = RowAdaGrad([part], lr=0.1, l1=1e-3)
    resumed.load_state_dict(copy.deepcopy(through.state_dict()))
    steps(whole, through, range(3, 6))
    steps(part, resumed, range(3, 6))
    assert torch.equal(whole, part)


def test_optimizer_options_are_checked() -> None:
    """A negative option is refused with all of them shown."""
    with pytest.raises(ValueError, match="at least 0"):
        RowAdaGrad([weights(2, 2)], lr=0.1, l1=-1.0)
