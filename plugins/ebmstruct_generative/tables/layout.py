"""Between rows and the values of a graph: discrete states and normal scores, or one vector a row."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebmstruct import Assignment, FactorGraph
from ebmstruct_generative.records import RECORD
from ebmstruct_generative.tables.columns import CATEGORICAL, Array, Column
from ebmstruct_generative.tables.schema import MISSING_STATE, ColumnSchema, TableSchema
from ebmstruct_generative.tables.table import Table

CLUSTER, CATEGORY, NUMBERS = "cluster", "category", "number"
"""Blocks of an energy over mixed rows: the latent cluster (one site), one discrete site for each column that has states,
and one real site for each column of numbers, which holds its normal score."""


def states_and_scores(table: Table, schema: TableSchema) -> tuple[Array, Array]:
    """(n, c) long states, -1 where unknown, and (n, d) normal scores, NaN where unknown, of a table's rows.

    A cell that is missing has the missing state, or is unknown where the table is open or training had no missing cell. A
    category that training did not have is unknown.
    """
    count = len(table)
    states = np.full((count, len(schema.discrete)), -1, np.int64)
    scores = np.full((count, len(schema.numbers)), np.nan)
    site = number = 0
    for own in schema.parts_of:
        column = table.by_name.get(own.name)
        if own.states and column is not None:
            states[:, site] = _states(column, own, table.open)
        if own.quantiles is not None and column is not None and column.kind != CATEGORICAL:
            known = np.isfinite(column.values)
            known &= ~np.isin(column.values.astype(np.float64), own.spikes)
            scores[known, number] = own.quantiles.scores(column.values[known].astype(np.float64))
        site += bool(own.states)
        number += own.number
    return states, scores


def _states(column: Column, own: ColumnSchema, open_cells: bool) -> Array:
    out: Array
    missing = -1 if open_cells else own.place.get(MISSING_STATE, -1)
    if own.kind == CATEGORICAL:
        if column.kind != CATEGORICAL:
            return np.full(len(column.values), -1, np.int64)
        return np.append(_numbers_of(column.texts, own.states), missing)[column.values]
    values = column.values.astype(np.float64)
    out = np.where(np.isfinite(values), 0 if own.number else -1, -1)
    for place, spike in enumerate(own.spikes, int(own.number)):
        out[values == spike] = place
    out[np.isnan(values)] = missing
    return out


@lru_cache(maxsize=256)
def _numbers_of(texts: tuple[str, ...], states: tuple[str, ...]) -> Array:
    place = {s: i for i, s in enumerate(states)}
    return np.array([place.get(t, -1) for t in texts], dtype=np.int64)


def table_of(states: Array, scores: Array, schema: TableSchema) -> Table:
    """The rows that states (n, c) and normal scores (n, d) mean, with every number as it would be written."""
    columns = []
    site = number = 0
    for own in schema.parts_of:
        mine = states[:, site] if own.states else np.zeros(len(states), np.int64)
        values = own.quantiles.numbers(scores[:, number]) if own.quantiles is not None else np.full(len(states), np.nan)
        site += bool(own.states)
        number += own.number
        if own.kind == CATEGORICAL:
            codes = np.where(mine >= len(own.texts), -1, mine).astype(np.int32)
            columns.append(Column(own.name, own.kind, codes, own.texts, own.form))
            continue
        for place, spike in enumerate(own.spikes, int(own.number)):
            values = np.where(mine == place, spike, values)
        if own.states and own.states[-1] == MISSING_STATE:
            values = np.where(mine == len(own.states) - 1, np.nan, values)
        rounded = values if own.form.decimals is None else np.round(values, own.form.decimals)
        columns.append(Column(own.name, own.kind, rounded, (), own.form))
    return Table(tuple(columns), schema.delimiter, name="drawn")


def encoded(table: Table, graph: FactorGraph, schema: TableSchema) -> Assignment:
    """Rows as values of the blocks that a graph has: states and scores, or vectors; one row an instance."""
    states, scores = states_and_scores(table, schema)
    device = next(iter(graph.variables.values())).offsets.device
    if RECORD in graph.variables:
        return _vectors(torch.from_numpy(states), torch.from_numpy(scores), schema, graph)
    values, known, allowed = {}, {}, {}
    for name, found, unknown in ((CATEGORY, states, states < 0), (NUMBERS, scores, np.isnan(scores))):
        if name not in graph.variables:
            continue
        flat = torch.from_numpy(np.where(unknown, 0, found)).reshape(-1).to(device)
        values[name] = flat if name == CATEGORY else flat.float()[:, None]
        if unknown.any():
            known[name] = torch.from_numpy(~unknown).reshape(-1).to(device)
    if table.open and CATEGORY in values:
        allowed[CATEGORY] = _without_missing(schema).repeat(len(table), 1).to(device)
    return Assignment(values, known, allowed)


def _without_missing(schema: TableSchema) -> Tensor:
    """(c, K) bool: every state but the missing ones, since an open cell is to be filled."""
    widths = torch.tensor(schema.widths)
    out = torch.arange(int(widths.max())) < widths[:, None]
    for site, column in enumerate(schema.discrete):
        if column.states[-1] == MISSING_STATE and len(column.states) > 1:
            out[site, len(column.states) - 1] = False
    return out


def _vectors(states: Tensor, scores: Tensor, schema: TableSchema, graph: FactorGraph) -> Assignment:
    """Vectors: the d scores, then 1 and -1 for the states of each site.

    A score is 0, the mean, where a column's own state says that it is no ordinary number; else what is unknown is unknown:
    by coordinate, or the whole row, as the block has its sites.
    """
    known = ~scores.isnan()
    for place, column in enumerate(schema.numbers):
        if column.states:
            known[:, place] |= states[:, schema.discrete.index(column)] > 0
    parts, masks = [scores.nan_to_num(0.0)], [known]
    for site, width in enumerate(schema.widths):
        mine = states[:, site]
        signs = 2.0 * torch.nn.functional.one_hot(mine.clamp(min=0), width).double() - 1.0
        parts.append(torch.where((mine >= 0)[:, None], signs, 0.0))
        masks.append((mine >= 0)[:, None].expand(-1, width))
    block = graph.variables[RECORD]
    value, sure = torch.cat(parts, 1).float().to(block.offsets.device), torch.cat(masks, 1).to(block.offsets.device)
    if block.num_sites == graph.num_instances:
        sure = sure.all(1)
    else:
        value, sure = value.reshape(-1, 1), sure.reshape(-1)
    return Assignment({RECORD: value}, {} if bool(sure.all()) else {RECORD: sure})


def decoded(y: Mapping[str, Tensor] | Assignment, count: int, schema: TableSchema) -> Table:
    """The rows that values of a graph's blocks mean, one for each of ``count`` instances."""
    if RECORD in y:
        return table_of(
            *_parts_of_vectors(y[RECORD].detach().cpu().double().reshape(count, schema.dim), schema), schema
        )
    c, d = len(schema.discrete), len(schema.numbers)
    states: Any = y[CATEGORY].reshape(count, c).cpu().numpy() if c else np.zeros((count, 0), np.int64)
    scores: Any = y[NUMBERS].reshape(count, d).cpu().double().numpy() if d else np.zeros((count, 0))
    return table_of(states, scores, schema)


def _parts_of_vectors(vectors: Tensor, schema: TableSchema) -> tuple[Array, Array]:
    begin = len(schema.numbers)
    states = np.zeros((len(vectors), len(schema.widths)), np.int64)
    for site, width in enumerate(schema.widths):
        states[:, site] = vectors[:, begin : begin + width].argmax(1).numpy()
        begin += width
    return states, vectors[:, : len(schema.numbers)].numpy()
