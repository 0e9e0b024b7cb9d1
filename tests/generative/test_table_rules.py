"""Rules: what they say, what is no rule, missing cells, and that they are checked against the schema."""

from __future__ import annotations

import numpy as np
import pytest

from ebmstruct.errors import DataError
from ebmstruct_generative.tables.columns import CATEGORICAL, DATE, INTEGER, REAL, Column
from ebmstruct_generative.tables.grammar import RuleFault, columns_of, parsed
from ebmstruct_generative.tables.rules import Rule, broken, told
from ebmstruct_generative.tables.schema import TableSchema, fitted
from ebmstruct_generative.tables.table import Table
from ebmstruct_generative.tables.values import Format

TABLE = Table(
    (
        Column("a", INTEGER, np.array([1.0, 2.0, 3.0, np.nan]), (), Format(0)),
        Column("b", REAL, np.array([0.5, 2.0, 9.0, 1.0]), (), Format(1)),
        Column("sex", CATEGORICAL, np.array([0, 1, 2, -1], np.int32), ("F", "I", "M")),
        Column("whole weight", REAL, np.array([1.0, 2.0, 3.0, 4.0]), (), Format(1)),
        Column("day", DATE, np.array([0.0, 31.0, 60.0, np.nan]), (), Format(0, date="%Y-%m-%d")),
    )
)


def _schema(*rules: str) -> TableSchema:
    return fitted(TABLE, ranges={}, target="a", rules=rules, class_part="")


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("a < 3", [1, 1, 0, 1]),
        ("a + 1 <= 2 * b", [0, 1, 1, 1]),
        ("not a == 2", [1, 0, 1, 1]),
        ("a == 1 or a == 3", [1, 0, 1, 1]),
        ("a > 1 and b > 2", [0, 0, 1, 0]),
        ("sex == 'I' implies a <= 1", [1, 0, 1, 1]),
        ("sex in ['F', 'M']", [1, 0, 1, 1]),
        ("sex not in ['F', 'M']", [0, 1, 0, 1]),
        ("a in [1, 3]", [1, 0, 1, 1]),
        ("1 <= a < 3", [1, 1, 0, 1]),
        ("`whole weight` > b", [1, 0, 0, 1]),
        ("a is missing", [0, 0, 0, 1]),
        ("a is not missing", [1, 1, 1, 0]),
        ("sex is missing implies b < 1", [1, 1, 1, 0]),
        ("day >= '1970-02-01'", [0, 1, 1, 1]),
        ("a / (b - 2) > 0", [0, 1, 1, 1]),
        ("-a < -1", [0, 1, 1, 1]),
        ("a * 0.1 + 0.2 <= 0.3", [1, 0, 0, 1]),
        ("a == 1 implies sex == 'F' implies b < 1", [1, 1, 1, 1]),
    ],
)
def test_rules_say_what_they_say(rule: str, expected: list[int]) -> None:
    """Which of four rows obey a rule; where a missing cell leaves it open, a row does."""
    Rule(rule).check(_schema())
    assert Rule(rule).obeyed(TABLE).astype(int).tolist() == expected


@pytest.mark.parametrize(
    "rule",
    [
        *("a <", "a", "a < b <", "(a < b", "a < b)", "a and b", "a in []", "a in 3", "not a", "a == 'x", "a ; b"),
        *("__import__('os')", "a.b < 1", "a < 1 or", "(a < b) + 1 > 2", "a not b", "", "lambda: 1", "a ** 2 > 1"),
        "(" * 100 + "a < 1" + ")" * 100,
    ],
)
def test_what_is_no_rule_is_told(rule: str) -> None:
    """Anything else ends in a sentence that shows the rule."""
    with pytest.raises(RuleFault):
        parsed(rule)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("aa < 1", "did you mean a"),
        ("sex == 'X'", "no category 'X'"),
        ("sex < 'M'", "no order"),
        ("a < 'M'", "cannot be compared"),
        ("sex + 1 > 2", "no number"),
        ("day > 'tomorrow'", "no date"),
        ("sex in ['F', 'N']", "no category 'N'"),
    ],
)
def test_rules_must_fit_the_table(rule: str, said: str) -> None:
    """A column or a category that there is not, or a comparison that has no sense, is told."""
    with pytest.raises(DataError, match=said):
        Rule(rule).check(_schema())


def test_broken_rules_are_told_with_counts_and_an_example() -> None:
    """The sentence has the rule, how many rows break it, and the cells of the first."""
    (sentence,) = told(TABLE, _schema("a < 2", "b > 0"))
    assert "2 of 4 rows" in sentence and "row 2 (a=2)" in sentence
    assert broken(TABLE, _schema("a < 2", "b > 0")).tolist() == [False, True, True, False]


def test_columns_of_a_rule() -> None:
    """Each once, in order."""
    assert columns_of(parsed("a < b implies `whole weight` in [1] or a is missing")) == ["a", "b", "whole weight"]
