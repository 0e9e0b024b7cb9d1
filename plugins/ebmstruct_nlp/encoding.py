"""From tags to states of the chain and back, and how sure the chain is of each span."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ebmstruct import Assignment, FactorGraph, Marginals
from ebmstruct_nlp.schemes import BIO, OUTSIDE, Scheme, Tag, convert, scheme_named
from ebmstruct_nlp.tag_chain import BLOCK, TagSchema
from ebmstruct_nlp.tag_pairs import PAIRS, TagPairs, tags_of

UNKNOWN, FOREIGN = -1, -2


@lru_cache(maxsize=16)
def index_of(tags: tuple[str, ...]) -> dict[str, int]:
    """The state of each tag."""
    return {tag: state for state, tag in enumerate(tags)}


def encode(ys: Sequence[Sequence[Tag]], graph: FactorGraph, schema: TagSchema) -> Assignment:
    """Tags (BIO, or plain) of sentences as values of the graph's block, whose states are tags or pairs of tags."""
    found = encode_tags(ys, schema)
    return TagPairs.of(schema).encode(found, graph.variables[PAIRS].offsets) if PAIRS in graph.variables else found


def encode_tags(ys: Sequence[Sequence[Tag]], schema: TagSchema) -> Assignment:
    """Tags (BIO, or plain) of sentences as states; a tag of None is unknown.

    A tag that the model does not have is allowed no state, so that no assignment agrees with it.
    In a scheme that marks the ends of spans, a span next to an unknown token is unknown too, since nobody says
    where it ends.
    """
    if schema.scheme not in ("bio", "plain"):
        ys = [_respelt(y, scheme_named(schema.scheme)) for y in ys]
    index: dict[Tag, int] = {None: UNKNOWN} | {tag: state for state, tag in enumerate(schema.tags)}
    try:
        rows = np.fromiter(map(index.__getitem__, chain.from_iterable(ys)), np.int64)
    except KeyError:
        rows = np.array([index.get(tag, FOREIGN) for y in ys for tag in y], dtype=np.int64)
    states = torch.from_numpy(rows)
    known = states >= 0
    if bool(known.all()):
        return Assignment({BLOCK: states})
    allowed = {}
    if bool((states == FOREIGN).any()):
        allowed[BLOCK] = (states != FOREIGN)[:, None].repeat(1, len(schema.tags))
    return Assignment({BLOCK: states.clamp(min=0)}, known={BLOCK: known}, allowed=allowed)


def _respelt(y: Sequence[Tag], scheme: Scheme) -> Sequence[Tag]:
    if None not in y:
        return convert(y, BIO, scheme)
    out: list[Tag] = list(convert(y, BIO, scheme))
    for start, end, _ in BIO.spans(y):
        if (start > 0 and y[start - 1] is None) or (end < len(y) and y[end] is None):
            out[start:end] = [None] * (end - start)
    return out


def decode_states(y: Assignment, graph: FactorGraph, schema: TagSchema) -> list[dict[str, Any]]:
    """For each sentence its tags (BIO or plain) and, for schemes of spans, its entities in tokens."""
    found, begins = tags_of(y, graph, schema)
    states, offsets = found.numpy(force=True), begins.tolist()
    names = np.array(schema.tags, dtype=object)[states].tolist()
    if schema.scheme == "plain":
        return [{"tags": names[a:b]} for a, b in zip(offsets, offsets[1:], strict=False)]
    scheme = scheme_named(schema.scheme)
    inside = np.concatenate([[0], np.cumsum(states != index_of(schema.tags)[OUTSIDE])])
    out = []
    for a, b in zip(offsets, offsets[1:], strict=False):
        tags = names[a:b]
        spans = scheme.spans(tags) if inside[b] > inside[a] else []
        entities = [{"start": s, "end": e, "label": label} for s, e, label in spans]
        out.append({"tags": tags if scheme is BIO else list(convert(tags, scheme, BIO)), "entities": entities})
    return out


def add_confidence(
    outputs: list[dict[str, Any]], y: Assignment, graph: FactorGraph, schema: TagSchema, found: Marginals, label: str
) -> None:
    """Give each token's tag, or each entity, the probability that the model gives it.

    An entity's is that of its tags and of ending where it does: along a chain the product of conditionals
    p(tag t | tag t - 1), read off the beliefs of single tokens and of neighbours.
    label: of the chain factor, whose pair beliefs are in ``found`` (plain schemes need none).
    """
    beliefs = found.beliefs[BLOCK].numpy(force=True).astype(np.float64)
    offsets = graph.variables[BLOCK].offsets.tolist()
    states = y[BLOCK].numpy(force=True)
    if schema.scheme == "plain":
        sure = np.take_along_axis(beliefs, states[:, None], 1)[:, 0].clip(0.0, 1.0).tolist()
        for output, a, b in zip(outputs, offsets, offsets[1:], strict=False):
            output["confidence"] = sure[a:b]
        return
    pairs = found.factor_beliefs[label].numpy(force=True)
    goes_on = continuations(schema)
    for output, a, b in zip(outputs, offsets, offsets[1:], strict=False):
        for entity in output["entities"]:
            first, last = a + entity["start"], a + entity["end"]
            entity["confidence"] = _span_probability(states, first, last, b, beliefs, pairs, goes_on)


def _span_probability(
    states: NDArray[np.int64],
    first: int,
    last: int,
    stop: int,
    beliefs: NDArray[np.float64],
    pairs: NDArray[Any],
    goes_on: NDArray[np.bool_],
) -> float:
    p = float(beliefs[first, states[first]])
    for t in range(first + 1, last):
        p *= float(pairs[t, states[t - 1], states[t]]) / max(float(beliefs[t - 1, states[t - 1]]), 1e-300)
    if last < stop:
        tag = states[last - 1]
        further = float(pairs[last, tag, goes_on[tag]].sum()) / max(float(beliefs[last - 1, tag]), 1e-300)
        p *= 1.0 - min(further, 1.0)
    return min(max(p, 0.0), 1.0)


def continuations(schema: TagSchema) -> NDArray[np.bool_]:
    """(K, K) whether the later tag continues the span in which the earlier one stands."""
    return _goes_on(schema.tags, schema.scheme)


@lru_cache(maxsize=16)
def _goes_on(tags: tuple[str, ...], name: str) -> NDArray[np.bool_]:
    """(K, K) whether the later tag continues the span in which the earlier one stands."""
    scheme = scheme_named(name)
    return np.array([[len(spans := scheme.spans((a, b))) == 1 and spans[0][:2] == (0, 2) for b in tags] for a in tags])


@lru_cache(maxsize=16)
def cost_matrix(tags: tuple[str, ...], scheme: str, missed: float, spurious: float, confused: float) -> Tensor:
    """(K, K) the cost of predicting the column's tag where the row's is correct.

    missed: a token of an entity called outside.  spurious: the reverse.  confused: any other wrong tag.
    """
    wrong = torch.full((len(tags), len(tags)), confused)
    if scheme != "plain":
        outside = index_of(tags)[OUTSIDE]
        wrong[:, outside] = missed
        wrong[outside, :] = spurious
    return wrong.fill_diagonal_(0.0)
