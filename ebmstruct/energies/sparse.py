"""Sparse linear energies: each site has a few of many features, and its energies are sums of their weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ebmstruct.errors import GraphError


def _gather(weight: Tensor, ids: Tensor) -> Tensor:
    """Sums (n, K) of the weight rows (H, K) named by ids (n, F); id 0 is nothing."""
    from ebmstruct.energies.sparse_numba import gather_sum

    out = torch.empty((ids.shape[0], weight.shape[1]), dtype=weight.dtype)
    gather_sum(ids.numpy(), weight.detach().contiguous().numpy(), out.numpy())
    return out


def _gather_fake(weight: Tensor, ids: Tensor) -> Tensor:
    return weight.new_empty((ids.shape[0], weight.shape[1]))


def _scatter(gradient: Tensor, ids: Tensor, num_buckets: int) -> tuple[Tensor, Tensor]:
    """The adjoint of the gather: the distinct ids (t,) in ascending order and their gradient rows (t, K)."""
    from ebmstruct.energies.sparse_numba import mark, scatter_rows

    bits = np.zeros(num_buckets // 64 + 1, dtype=np.uint64)
    before = np.empty(len(bits), dtype=np.int32)
    count = mark(ids.numpy(), bits, before)
    rows = torch.empty(count, dtype=torch.int64)
    values = torch.zeros((count, gradient.shape[1]), dtype=gradient.dtype)
    scatter_rows(ids.numpy(), gradient.contiguous().numpy(), bits, before, rows.numpy(), values.numpy())
    return rows, values


def _scatter_fake(gradient: Tensor, ids: Tensor, num_buckets: int) -> tuple[Tensor, Tensor]:
    count = torch.library.get_ctx().new_dynamic_size()
    return gradient.new_empty(count, dtype=torch.int64), gradient.new_empty((count, gradient.shape[1]))


def _scatter_dense(gradient: Tensor, ids: Tensor, num_buckets: int) -> Tensor:
    """The adjoint of the gather as a dense table (H, K)."""
    from ebmstruct.energies.sparse_numba import scatter_all

    values = torch.zeros((num_buckets, gradient.shape[1]), dtype=gradient.dtype)
    scatter_all(ids.numpy(), gradient.contiguous().numpy(), values.numpy())
    return values


def _scatter_dense_fake(gradient: Tensor, ids: Tensor, num_buckets: int) -> Tensor:
    return gradient.new_empty((num_buckets, gradient.shape[1]))


# Defined one by one rather than by ``torch.library.custom_op``, whose wrapper imports torch's compiler at its first
# call: a second that every prediction from the command line would wait for.
_library = torch.library.Library("ebmstruct", "FRAGMENT")
for _signature, _kernel, _fake in (
    ("sparse_gather(Tensor weight, Tensor ids) -> Tensor", _gather, _gather_fake),
    ("sparse_scatter(Tensor gradient, Tensor ids, int num_buckets) -> (Tensor, Tensor)", _scatter, _scatter_fake),
    (
        "sparse_scatter_dense(Tensor gradient, Tensor ids, int num_buckets) -> Tensor",
        _scatter_dense,
        _scatter_dense_fake,
    ),
):
    _name = _signature.partition("(")[0]
    _library.define(_signature)
    _library.impl(_name, _kernel, "CPU")
    torch.library.register_fake(f"ebmstruct::{_name}", _fake, lib=_library)
_ops = torch.ops.ebmstruct


class _GatherSum(torch.autograd.Function):
    """The gather with its gradient; the gradient is a sparse tensor of the touched rows, or dense."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, sparse: bool) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.num_buckets = weight.shape[0]
        ctx.sparse = sparse
        out: Tensor = _ops.sparse_gather.default(weight, ids)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None]:
        (ids,) = ctx.saved_tensors
        if not ctx.needs_input_grad[0]:
            return None, None, None
        if not ctx.sparse:
            return _ops.sparse_scatter_dense.default(gradient, ids, ctx.num_buckets), None, None
        rows, values = _ops.sparse_scatter.default(gradient, ids, ctx.num_buckets)
        shape = (ctx.num_buckets, gradient.shape[1])
        table = torch.sparse_coo_tensor(rows[None], values, shape, is_coalesced=True, check_invariants=False)
        return table, None, None


def gather_sum(weight: Tensor, ids: Tensor, *, sparse: bool = True) -> Tensor:
    """Energies (n, K): row i is the sum of weight[ids[i, f]] over the features f with ids[i, f] > 0.

    weight: (H, K). ids: (n, F) int32 or int64 in [0, H). sparse: the gradient for weight is a coalesced sparse tensor
    of the touched rows, for optimisers that take one (`RowAdaGrad`, torch's Adagrad, SparseAdam, SGD).
    Double backward is refused. Cost O(n F K); on a CPU compiled loops, elsewhere torch's own.
    """
    if weight.device.type == "cpu":
        out: Tensor = _GatherSum.apply(weight, ids, sparse)
        return out
    return gather_sum_reference(weight, ids)


def gather_sum_reference(weight: Tensor, ids: Tensor) -> Tensor:
    """The same by plain torch, with a dense gradient: for other devices, and the twin that tests compare with."""
    present = (ids > 0).to(weight.dtype)
    return torch.nn.functional.embedding_bag(ids.long(), weight, mode="sum", per_sample_weights=present)


def drop_features(ids: Tensor, rates: Tensor | float, generator: torch.Generator | None = None) -> Tensor:
    """A copy of ids (n, F) in which feature f of each token is 0 with probability rates[f], independently.

    rates: (F,) or one number, in [0, 1). One draw is taken from the generator (left out: torch's own, as its
    dropout does); the rest is hashed from it.
    """
    seed = torch.randint(1 << 62, (1,), generator=generator, device=generator.device if generator else "cpu")
    rate = torch.as_tensor(rates, dtype=torch.float64).expand(ids.shape[1])
    if ids.device.type != "cpu":
        noise = torch.rand(ids.shape, generator=torch.Generator(ids.device).manual_seed(int(seed)), device=ids.device)
        return ids * (noise >= rate.to(noise))
    from ebmstruct.energies.sparse_numba import drop

    thresholds = (rate.numpy() * 2.0**64).astype(np.uint64)
    out = torch.empty_like(ids)
    drop(ids.numpy(), thresholds, np.uint64(int(seed)), out.numpy())
    return out


class SparseLinear(nn.Module):
    """Energies of K states as sums of weight rows, one row per hashed feature.

    weight: (H, K), zero at first, which is right for a convex loss and leaves unseen features silent; row 0 stays
    unused. dropout: in training each feature of each token is left out with this probability (one number, or one
    per feature column); weights are not rescaled, so a model meets more evidence in use than in
    training. This keeps words from explaining everything, which costs recall on words never seen (Sutton,
    Sindelar and McCallum 2006 on weight undertraining). sparse: of the gradient, see `gather_sum`; False for L-BFGS.
    """

    def __init__(
        self, num_buckets: int, num_states: int, *, dropout: float | list[float] = 0.0, sparse: bool = True
    ) -> None:
        super().__init__()
        rates = torch.as_tensor(dropout, dtype=torch.float64)
        if num_buckets < 1 or num_states < 1:
            raise GraphError(f"a sparse linear energy needs buckets and states; found {num_buckets} and {num_states}")
        if rates.ndim > 1 or bool(((rates < 0) | (rates >= 1)).any()):
            raise GraphError(f"dropout: found {dropout}; legal is a rate in [0, 1), or one per feature column")
        self.weight = nn.Parameter(torch.zeros(num_buckets, num_states))
        self.dropout = dropout
        self.sparse = sparse

    def forward(self, ids: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Energies (n, K) of tokens with feature ids (n, F); the generator is for the dropout in training."""
        if ids.ndim != 2 or ids.dtype not in (torch.int32, torch.int64):
            raise GraphError(f"feature ids must be (n, F) int32 or int64; found {tuple(ids.shape)} {ids.dtype}")
        if self.training and self.dropout:
            ids = drop_features(ids, torch.as_tensor(self.dropout), generator)
        return gather_sum(self.weight, ids.contiguous(), sparse=self.sparse)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]} buckets, {self.weight.shape[1]} states, dropout={self.dropout}"
