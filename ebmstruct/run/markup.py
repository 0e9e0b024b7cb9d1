"""Pieces of the report's HTML: text, numbers, tables, lists of facts. Everything is escaped here."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from ebmstruct.extend.task import Table

MAX_ROWS = 400
_MAX_TEXT = 2_000
_NUMBER = re.compile(r"[-+\N{MINUS SIGN}]?\d[\d,.\u202f]*(e[-+]?\d+)?\s?%?")


def text(value: object) -> str:
    """Any value as text that is safe in HTML: escaped, control characters replaced."""
    shown = "".join(
        c if c in "\n\t" or c.isprintable() or _joins(c) else "\N{REPLACEMENT CHARACTER}" for c in str(value)
    )
    return html.escape(shown, quote=True)


def number(value: object) -> str:
    """A number for a reader: four significant digits, thin groups of thousands, a true minus sign."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return text(value)
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}").replace("-", "\N{MINUS SIGN}")
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else ("∞" if value > 0 else "\N{MINUS SIGN}∞")
    size = abs(value)
    if value == 0:
        return "0"
    if 1e-3 <= size < 1e5:
        digits = 4 if size < 1 else max(0, 3 - int(math.log10(size)))
        shown = f"{value:,.{digits}f}".replace(",", "\N{NARROW NO-BREAK SPACE}")
    else:
        shown = f"{value:.2e}"
    return shown.replace("-", "\N{MINUS SIGN}")


def words(name: str) -> str:
    """A key as words."""
    return name.replace("_", " ")


def upper(title: str) -> str:
    """A title with its first letter a capital."""
    return title[:1].upper() + title[1:]


def duration(seconds: float) -> str:
    """Seconds as a reader says them."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a number and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def facts_list(facts: Mapping[str, Any]) -> str:
    """A list of facts: names on the left, values on the right; nothing where there are none."""
    rows = "".join(f"<dt>{text(words(k))}</dt><dd>{cell_of(v)}</dd>" for k, v in facts.items())
    return f'<dl class="facts">{rows}</dl>' if rows else ""


def table_of(table: Table) -> str:
    """A table; columns of numbers are aligned, matrices of counts are shaded."""
    rows = [list(row) for row in table.rows[:MAX_ROWS]]
    numeric = [_numbers([row[i] for row in rows if i < len(row)]) for i in range(len(table.columns))]
    matrix = _is_matrix(table, rows)
    if matrix:
        numeric = [i > 0 for i in range(len(numeric))]
    head = "".join(f"<th{' class=n' if n else ''}>{text(c)}</th>" for c, n in zip(table.columns, numeric, strict=True))
    body = []
    for row in rows:
        if matrix:
            body.append(_matrix_row(table, row))
            continue
        cells = zip(row, numeric, strict=False)
        body.append(
            "<tr>" + "".join(f"<td{' class=n' if n else ''}>{cell_of(cell)}</td>" for cell, n in cells) + "</tr>"
        )
    more = len(table.rows) - len(rows)
    tail = f'<p class="note">{number(more)} more rows are not shown.</p>' if more > 0 else ""
    kind = ' class="matrix"' if matrix else ""
    inner = f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody>"
    return f'<div class="scroll"><table{kind}>{inner}</table></div>{tail}'


def cell_of(value: Any) -> str:
    """A value inside a cell; long texts are cut, and say so."""
    if value is None:
        return ""
    if is_number(value):
        return number(value)
    shown = str(value)
    if len(shown) > _MAX_TEXT:
        shown = f"{shown[:_MAX_TEXT]}… ({len(shown) - _MAX_TEXT:,} more characters)"
    return f"<bdi>{text(shown)}</bdi>"


def widest(table: Table) -> int:
    """The number of characters of the longest row."""
    return max((sum(len(str(cell)) for cell in row) for row in table.rows), default=0)


def _numbers(cells: Sequence[Any]) -> bool:
    """Whether a column holds numbers, or texts that are numbers, and nothing else."""
    filled = [cell for cell in cells if cell not in ("", None)]
    return bool(filled) and all(is_number(c) or (isinstance(c, str) and _NUMBER.fullmatch(c)) for c in filled)


def _is_matrix(table: Table, rows: Sequence[Sequence[Any]]) -> bool:
    """Whether a table holds counts of row labels against the same column labels, but for one: its cells are shaded."""
    labels, columns = {str(row[0]) for row in rows if row}, {str(c) for c in table.columns[1:]}
    if len(labels & columns) < 2 or len(labels ^ columns) > 2:
        return False
    cells = [cell for row in rows for cell in row[1:] if cell not in ("", None)]
    return all(isinstance(cell, int) and cell >= 0 for cell in cells)


def _matrix_row(table: Table, row: Sequence[Any]) -> str:
    """A row of counts, each shaded by its share of the row; the diagonal has its own colour."""
    total = sum(v for v in row if is_number(v))
    cells = [f"<td>{cell_of(row[0])}</td>"]
    for column, cell in zip(table.columns[1:], row[1:], strict=False):
        share = f' style="--share:{cell / total:.3f}"' if total and is_number(cell) else ""
        cells.append(f'<td class="n{"" if str(column) == str(row[0]) else " off"}"{share}>{cell_of(cell)}</td>')
    return f"<tr>{''.join(cells)}</tr>"


def _joins(char: str) -> bool:
    """Characters that are not printable by themselves but that scripts and emoji need."""
    return char in "\u200c\u200d\u00a0\u3000\u202f"
