"""Tables that need no file: one that is drawn here, and those that come with scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ebmstruct_generative.tables.columns import CATEGORICAL, DATE, INTEGER, REAL, Column, narrowed
from ebmstruct_generative.tables.table import Table
from ebmstruct_generative.tables.values import Format

MADE = "made"
"""The table drawn here."""
SHIPPED = ("wine", "diabetes", "iris", "breast_cancer")
"""Tables that come with scikit-learn."""


def table_of_name(name: str) -> Table:
    """The table of one of these names."""
    return customers() if name == MADE else shipped(name)


def customers(rows: int = 3000, seed: int = 0) -> Table:
    """Customers of a telephone company: each has a plan, an age, an income that some do not tell, when they joined, minutes
    and roaming, which most never use. Who is under 18 has the plan ``youth``, and a bill is at least the plan's fee.
    """
    r = np.random.default_rng(seed)
    plans = ("basic", "family", "pro", "youth")
    plan = r.choice(4, rows, p=[0.45, 0.25, 0.2, 0.1])
    grown = r.normal(np.array([38, 44, 41, 40])[plan], 12).clip(18, 90)
    age = np.where(plan == 3, r.integers(12, 26, rows), grown).round()
    income = np.exp(r.normal(np.array([10.1, 10.5, 10.9, 8.5])[plan] + 0.008 * (age - 40), 0.35)).round(-2)
    minutes = np.exp(r.normal(np.array([4.8, 5.4, 6.0, 5.2])[plan], 0.6)).round()
    roaming = np.where(
        r.random(rows) < np.array([0.05, 0.1, 0.4, 0.02])[plan], np.exp(r.normal(2.5, 0.8, rows)), 0
    ).round(2)
    fee = np.array([9.9, 24.9, 39.9, 6.9])[plan]
    bill = (fee + 0.02 * minutes + roaming + np.exp(r.normal(0, 0.5, rows))).round(2)
    joined = (16000 + 2600 * r.random(rows) ** 0.7 - 4 * np.maximum(0, 40 - age)).round()
    active = (r.random(rows) < 1 / (1 + np.exp(-(1.5 - 0.03 * (bill - 25))))).astype(int)
    income = np.where(r.random(rows) < 0.08 + 0.1 * (plan == 3), np.nan, income)
    return Table(
        (
            _categories("plan", plan, plans),
            _numbers("age", INTEGER, age, 0),
            _numbers("income", INTEGER, income, 0),
            Column("joined", DATE, joined, (), Format(0, date="%Y-%m-%d")),
            _numbers("minutes", INTEGER, minutes, 0),
            _numbers("roaming", REAL, roaming, 2),
            _numbers("bill", REAL, bill, 2),
            _categories("active", active, ("no", "yes")),
        ),
        name=MADE,
    )


def shipped(name: str) -> Table:
    """One of scikit-learn's tables; a class is a column ``target`` of names."""
    from sklearn import datasets

    found = getattr(datasets, f"load_{name}")()
    columns = [_numbers_as_written(n, found.data[:, i]) for i, n in enumerate(found.feature_names)]
    if hasattr(found, "target_names"):
        columns.append(_categories("target", found.target, [str(t) for t in found.target_names]))
    else:
        columns.append(_numbers("target", INTEGER, found.target.astype(float), 0))
    return Table(tuple(columns), name=name)


def _numbers_as_written(name: Any, values: np.ndarray[Any, Any]) -> Column:
    texts = [repr(float(v)) for v in values]
    decimals = max(len(t) - t.find(".") - 1 for t in texts) if not any("e" in t for t in texts) else 12
    decimals = min(decimals, 6)
    whole = bool((values == np.rint(values)).all())
    return _numbers(str(name), INTEGER if whole else REAL, values.round(decimals), 0 if whole else decimals)


def _numbers(name: str, kind: str, values: np.ndarray[Any, Any], decimals: int) -> Column:
    form = Format(decimals, min(decimals, 1))
    return Column(name, kind, narrowed(values.astype(np.float64), form), (), form)


def _categories(name: str, codes: np.ndarray[Any, Any], texts: Sequence[str]) -> Column:
    return Column(name, CATEGORICAL, codes.astype(np.int32), tuple(texts))
