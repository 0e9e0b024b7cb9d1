"""How sure an energy is of each tag or entity, whatever its states are: tags, pairs of tags, or segments."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ebmstruct import Assignment, ChainFactor, FactorGraph, SegmentFactor, marginals
from ebmstruct_nlp.encoding import add_confidence, continuations
from ebmstruct_nlp.tag_chain import BLOCK, TagSchema
from ebmstruct_nlp.tag_pairs import PAIRS, TagPairs


def add_confidences(outputs: list[dict[str, Any]], y: Assignment, graph: FactorGraph, schema: TagSchema) -> None:
    """Give each token's tag, or each entity, the probability that the model gives it."""
    plain = schema.scheme == "plain"
    label = next(f.label for f in graph.factors if isinstance(f, ChainFactor | SegmentFactor))
    found = marginals(graph, factors=() if plain else (label,))
    if PAIRS not in graph.variables:
        if any(isinstance(f, SegmentFactor) for f in graph.factors):
            whole = found.factor_beliefs[label].numpy(force=True)
            _of_segments(outputs, whole, graph.variables[BLOCK].offsets.tolist(), schema)
        else:
            add_confidence(outputs, y, graph, schema, found, label)
        return
    pairs = TagPairs.of(schema)
    beliefs = found.beliefs[PAIRS].double()
    offsets = graph.variables[PAIRS].offsets.tolist()
    states = y[PAIRS].numpy(force=True)
    if plain:
        of_tags = beliefs.new_zeros(len(beliefs), len(schema.tags)).index_add(1, pairs.tag, beliefs)
        sure = of_tags.gather(1, pairs.tag[y[PAIRS]][:, None])[:, 0].clamp(0.0, 1.0).tolist()
        for output, a, b in zip(outputs, offsets, offsets[1:], strict=False):
            output["confidence"] = sure[a:b]
        return
    steps = found.factor_beliefs[label].numpy(force=True)
    goes_on = torch.from_numpy(continuations(schema))
    inner = torch.cat([goes_on, torch.zeros_like(goes_on[:1])])[pairs.before, pairs.tag].numpy()
    of_pairs = beliefs.numpy(force=True)
    for output, a, b in zip(outputs, offsets, offsets[1:], strict=False):
        for entity in output["entities"]:
            span = a + entity["start"], a + entity["end"], b
            entity["confidence"] = _of_pairs(states, span, of_pairs, steps, inner, pairs)


def _of_segments(outputs: list[dict[str, Any]], whole: NDArray[Any], offsets: list[int], schema: TagSchema) -> None:
    """An entity is a segment, and its probability that of the segment."""
    types = {tag[2:]: k for k, tag in enumerate((t for t in schema.tags if t.startswith("B-")), 1)}
    for output, a in zip(outputs, offsets, strict=False):
        for entity in output["entities"]:
            length = entity["end"] - entity["start"]
            p = float(whole[a + entity["start"], length - 1, types[entity["label"]]])
            entity["confidence"] = min(max(p, 0.0), 1.0)


def _of_pairs(
    states: NDArray[np.int64], span: tuple[int, int, int], beliefs: NDArray[Any], steps: NDArray[Any],
    inner: NDArray[np.bool_], pairs: TagPairs,
) -> float:  # fmt: skip
    """The probability of a span's tags and of ending there, whatever the tag before it.

    A pair of the span's first two tags sums over that tag; from there on the pairs are a chain.
    """
    first, last, stop = span
    tag = pairs.tag.numpy()
    if last - first == 1:
        here = tag[states[first]]
        p = float(beliefs[first][tag == here].sum())
        if last < stop:
            p -= float(beliefs[last][inner & (pairs.before.numpy() == here)].sum())
        return min(max(p, 0.0), 1.0)
    p = float(beliefs[first + 1, states[first + 1]])
    for t in range(first + 2, last):
        p *= float(steps[t, states[t - 1], states[t]]) / max(float(beliefs[t - 1, states[t - 1]]), 1e-300)
    if last < stop:
        further = float(steps[last, states[last - 1], inner].sum())
        p *= 1.0 - min(further / max(float(beliefs[last - 1, states[last - 1]]), 1e-300), 1.0)
    return min(max(p, 0.0), 1.0)
