"""Rules about the cells of a row: checked against the schema, evaluated on tables, and hard factors of a graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ebmstruct import BlockFactor, FactorGraph
from ebmstruct.errors import DataError
from ebmstruct_generative.records import RECORD
from ebmstruct_generative.tables.columns import CATEGORICAL, DATE, Array
from ebmstruct_generative.tables.grammar import (
    COMPARISONS,
    Listed,
    Missing,
    Name,
    Node,
    Number,
    Operation,
    RuleFault,
    Text,
    columns_of,
    parsed,
)
from ebmstruct_generative.tables.layout import CATEGORY, NUMBERS, decoded
from ebmstruct_generative.tables.reading import near_miss
from ebmstruct_generative.tables.schema import TableSchema
from ebmstruct_generative.tables.table import Row, Table
from ebmstruct_generative.tables.values import Format, iso_number

_COMPARE: dict[str, Any] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "==": np.equal,
    "!=": np.not_equal,
}
_ARITHMETIC: dict[str, Any] = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide}
CLOSE = 1e-9
"""Relative difference below which numbers are equal, so that 0.1 + 0.2 <= 0.3 holds."""


@dataclass(frozen=True)
class Rule:
    """One rule. text: as the user wrote it."""

    text: str

    @cached_property
    def tree(self) -> Node:
        """What it says."""
        return parsed(self.text)

    def check(self, schema: TableSchema) -> None:
        """DataError where it names a column or a category that there is not, or compares what cannot be compared."""
        try:
            tree = self.tree
        except RuleFault as fault:
            raise DataError(f"rule {fault}") from None
        for name in columns_of(tree):
            if name not in schema.names:
                raise DataError(f"rule {self.text!r}: there is no column {name!r}{near_miss(name, schema.names)}")
        self._check_types(tree, schema)

    def _check_types(self, node: Node, schema: TableSchema) -> None:
        if isinstance(node, Listed):
            for value in node.values:
                self._check_pair("==", node.part, value, schema)
        elif isinstance(node, Operation):
            for part in node.parts:
                self._check_types(part, schema)
            if node.sign in COMPARISONS:
                self._check_pair(node.sign, node.parts[0], node.parts[1], schema)
            elif node.sign in _ARITHMETIC or node.sign == "minus":
                for part in node.parts:
                    if self._form(part, schema) is not None:
                        raise DataError(
                            f"rule {self.text!r}: {_shown(part)} is no number, so nothing is computed with it"
                        )

    def _form(self, node: Node, schema: TableSchema) -> str | None:
        """ "category", "date" or "text" of a part that is one; None of a number."""
        if isinstance(node, Text):
            return "text"
        if isinstance(node, Name):
            kind = schema.column(node.value).kind
            return {CATEGORICAL: "category", DATE: "date"}.get(kind)
        return None

    def _check_pair(self, sign: str, left: Node, right: Node, schema: TableSchema) -> None:
        forms = [self._form(left, schema), self._form(right, schema)]
        if "category" in forms and sign not in ("==", "!="):
            raise DataError(f"rule {self.text!r}: categories have no order; compare them by ==, != or in [...]")
        for own, other in ((left, right), (right, left)):
            if not isinstance(own, Name) or not isinstance(other, (Text, Number)):
                continue
            column = schema.column(own.value)
            if column.kind == CATEGORICAL and _category(other) not in column.texts:
                raise DataError(
                    f"rule {self.text!r}: column {own.value!r} has no category {_category(other)!r}"
                    f"{near_miss(_category(other), column.texts)}"
                )
            if column.kind == DATE and isinstance(other, Text):
                _date(self.text, other.value, column.form)
        if set(forms) in ({None, "text"}, {None, "category"}) and not _is_code(left, right, forms):
            raise DataError(f"rule {self.text!r}: {_shown(left)} and {_shown(right)} cannot be compared")

    def obeyed(self, table: Table) -> Array:
        """(n,) bool: where the rule holds, or cannot be told because of a missing cell."""
        with np.errstate(all="ignore"):
            return np.asarray(_truth(self.tree, table, self.text) != 0.0)


def _is_code(left: Node, right: Node, forms: Sequence[str | None]) -> bool:
    """Whether a category is compared with a number that is the name of one."""
    number = right if forms[0] == "category" else left
    return "category" in forms and isinstance(number, Number)


def _shown(node: Node) -> str:
    return repr(node.value) if isinstance(node, (Text, Name, Number)) else "what is computed"


def _category(node: Text | Number) -> str:
    """The text that a category is compared with."""
    return node.value if isinstance(node, Text) else f"{node.value:.15g}"


def _date(rule: str, text: str, form: Format) -> float:
    try:
        return iso_number(text, form)
    except ValueError:
        raise DataError(f"rule {rule!r}: {text!r} is no date like {form.date} or 2020-12-31") from None


def _truth(node: Node, table: Table, rule: str) -> Array:
    """(n,) 1.0 true, 0.0 false, NaN unknown (Kleene's logic)."""
    if isinstance(node, Missing):
        gone = (
            np.isnan(_value(node.part, table, rule))
            if not _is_category(node.part, table)
            else _codes(node.part, table) < 0
        )
        return (gone != node.negated).astype(float)
    if isinstance(node, Listed):
        parts = [_compared("==", node.part, v, table, rule) for v in node.values]
        found = np.fmax.reduce(parts)  # a missing cell makes all of them unknown
        return 1.0 - found if node.negated else np.asarray(found)
    assert isinstance(node, Operation)
    if node.sign in COMPARISONS:
        return _compared(node.sign, node.parts[0], node.parts[1], table, rule)
    parts = [_truth(p, table, rule) for p in node.parts]
    if node.sign == "not":
        return 1.0 - parts[0]
    if node.sign == "implies":
        parts, sign = [1.0 - parts[0], parts[1]], "or"
    else:
        sign = node.sign
    decisive = 1.0 if sign == "or" else 0.0
    decided = np.any([p == decisive for p in parts], axis=0)
    unknown = np.any([np.isnan(p) for p in parts], axis=0)
    return np.where(decided, decisive, np.where(unknown, np.nan, 1.0 - decisive))


def _is_category(node: Node, table: Table) -> bool:
    return isinstance(node, Name) and table.by_name[node.value].kind == CATEGORICAL


def _codes(node: Node, table: Table) -> Array:
    assert isinstance(node, Name)
    return table.by_name[node.value].values


def _compared(sign: str, left: Node, right: Node, table: Table, rule: str) -> Array:
    if _is_category(left, table) or _is_category(right, table):
        return _compared_categories(sign, left, right, table)
    for own, other in ((left, right), (right, left)):
        if isinstance(own, Text) and isinstance(other, Name):
            number = Number(_date(rule, own.value, table.by_name[other.value].form))
            left, right = (number, right) if own is left else (left, number)
    a, b = _value(left, table, rule), _value(right, table, rule)
    unknown = np.isnan(a) | np.isnan(b)
    near = np.isclose(a, b, rtol=CLOSE, atol=1e-12)
    found = np.where(near, sign in ("<=", ">=", "=="), _COMPARE[sign](a, b))
    return np.where(unknown, np.nan, found.astype(float))


def _compared_categories(sign: str, left: Node, right: Node, table: Table) -> Array:
    texts: list[Array] = []
    unknown = np.zeros(len(table), bool)
    for node in (left, right):
        if isinstance(node, Name):
            column = table.by_name[node.value]
            unknown |= column.values < 0
            texts.append(np.array([*column.texts, ""], dtype=object)[column.values])
        else:
            assert isinstance(node, (Text, Number))
            texts.append(np.full(len(table), _category(node), dtype=object))
    found = (texts[0] == texts[1]) if sign == "==" else (texts[0] != texts[1])
    return np.where(unknown, np.nan, found.astype(float))


def _value(node: Node, table: Table, rule: str) -> Array:
    """(n,) numbers; NaN where missing, or divided by 0."""
    if isinstance(node, Number):
        return np.full(len(table), node.value)
    if isinstance(node, Name):
        column = table.by_name[node.value]
        digits = column.form.decimals
        values = column.values.astype(np.float64)
        return values if digits is None else np.round(values, digits)
    if isinstance(node, Operation) and node.sign == "minus":
        return -_value(node.parts[0], table, rule)
    if isinstance(node, Operation) and node.sign in _ARITHMETIC:
        found = _ARITHMETIC[node.sign](*(_value(p, table, rule) for p in node.parts))
        return np.where(np.isfinite(found), found, np.nan) if node.sign == "/" else np.asarray(found)
    raise DataError(f"rule {rule!r}: {_shown(node)} is no number")


def broken(table: Table, schema: TableSchema) -> Array:
    """(n,) bool: rows that break a rule, or leave a range."""
    out = np.zeros(len(table), bool)
    for text in schema.rules:
        out |= ~Rule(text).obeyed(table)
    for own in schema.parts_of:
        if own.kind != CATEGORICAL:
            values = table.by_name[own.name].values
            out |= np.isfinite(values) & ((values < own.low - _slack(own.low)) | (values > own.high + _slack(own.high)))
    return out


def _slack(value: float) -> float:
    return 1e-6 * abs(value) if np.isfinite(value) else 0.0


def told(table: Table, schema: TableSchema) -> list[str]:
    """A sentence for each rule that rows of a table break, with how many and one of them."""
    out = []
    for text in schema.rules:
        rule = Rule(text)
        wrong = np.flatnonzero(~rule.obeyed(table))
        if wrong.size:
            row = Row(table, int(wrong[0]))
            cells = ", ".join(f"{name}={row[name]}" for name in columns_of(rule.tree))
            out.append(
                f"rule {text!r}: {wrong.size:,} of {len(table):,} rows of {table.name} break it, such as row "
                f"{int(wrong[0]) + 1} ({cells})"
            )
    return out


def rule_factor(graph: FactorGraph, schema: TableSchema) -> BlockFactor:
    """The rules and ranges as a factor of a graph: an energy of 0 where a row obeys them, else infinite."""
    scope = tuple(n for n in (CATEGORY, NUMBERS, RECORD) if n in graph.variables)

    def energy(*given: Any) -> Tensor:
        values, offsets = given[: len(scope)], given[-1]
        table = decoded(dict(zip(scope, values, strict=True)), len(offsets[0]) - 1, schema)
        return torch.where(torch.from_numpy(broken(table, schema)), torch.inf, 0.0).to(values[0].device)

    return BlockFactor(scope, "rules", energy)
