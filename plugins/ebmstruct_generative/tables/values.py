"""What the text of a cell may mean: a number, a date, or nothing; and the way back to text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Self

import numpy as np

MISSING = ("", "NA", "N/A", "?", "nan", "NaN", "null", "NULL")
"""Cells that say that a value is missing, where the user lists no others."""
DATE_FORMATS = (
    *("%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%SZ"),
    *("%Y/%m/%d", "%Y/%m/%d %H:%M:%S", "%Y.%m.%d", "%d.%m.%Y", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S"),
    *("%m/%d/%Y", "%d/%m/%Y", "%m/%d/%Y %H:%M", "%d/%m/%Y %H:%M", "%m/%d/%Y %H:%M:%S", "%d/%m/%Y %H:%M:%S"),
    *("%d-%b-%Y", "%d %b %Y", "%b %d, %Y", "%d %B %Y", "%B %d, %Y"),
)
"""The forms of dates that are recognised; where several fit all cells, the first does."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_GROUPED = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
_COMMA = re.compile(r"[+-]?\d+,\d+")
_INFINITE = {"inf", "+inf", "-inf", "infinity", "+infinity", "-infinity"}
_CODE = re.compile(r"[+-]?0\d")


@dataclass(frozen=True)
class Format:
    """How the values of a column are written.

    decimals: the most digits behind the point; None writes the shortest text of 7 digits.  least: the fewest; zeros beyond
    them are left out at the end.  grouped: thousands are set apart by commas.
    comma: the decimal point is a comma.  percent: a per cent sign follows.  date: a strptime format, or "".
    missing: how a missing value is written.
    """

    decimals: int | None = 0
    least: int = 0
    grouped: bool = False
    comma: bool = False
    percent: bool = False
    date: str = ""
    missing: str = ""

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Self:
        """From what ``stored`` gave."""
        return cls(**stored)

    def stored(self) -> dict[str, Any]:
        """As a JSON value."""
        return asdict(self)

    def number(self, text: str) -> float:
        """The number that a cell means; ValueError where it is none. Dates: days, or seconds where there are times."""
        if self.date:
            return _since_epoch(text, self.date)
        plain = text[:-1].rstrip() if self.percent and text.endswith("%") else text
        plain = (
            plain.replace(",", "." if self.comma else "") if "," in plain and (self.comma or self.grouped) else plain
        )
        value = float(plain) if "_" not in plain else math.nan
        if math.isnan(value):
            raise ValueError(text)
        return value

    def text(self, value: float) -> str:
        """The cell of a number."""
        if self.date:
            return _written(value, self.date)
        if math.isinf(value):
            return "inf" if value > 0 else "-inf"
        plain = f"{value:.7g}" if self.decimals is None else f"{value:{',' if self.grouped else ''}.{self.decimals}f}"
        if self.decimals is not None and self.least < self.decimals:
            plain = _shortened(plain, self.decimals - self.least)
        if plain.startswith("-") and not plain.strip("-0.,"):
            plain = plain[1:]
        return (plain.replace(".", ",") if self.comma else plain) + ("%" if self.percent else "")


def number_format(texts: Sequence[str], comma: bool = True) -> Format | None:
    """The format under which all of these cells are numbers; None where one is none.

    comma: whether ``7,4`` may be a decimal comma, which it is not in a file whose delimiter is one.
    Cells such as ``007`` are codes, not numbers.
    """
    bare = [t[:-1].rstrip() if t.endswith("%") else t for t in texts]
    percent = any(t.endswith("%") for t in texts)
    if percent and not all(t.endswith("%") for t in texts):
        return None
    commas = [t for t in bare if "," in t]
    grouped = bool(commas) and all(_GROUPED.fullmatch(t) for t in commas)
    decimal_comma = bool(commas) and not grouped and comma and all(_COMMA.fullmatch(t) for t in commas)
    if (commas and not grouped and not decimal_comma) or any(_CODE.match(t) for t in bare):
        return None
    form = Format(None, 0, grouped, decimal_comma, percent)
    try:
        for t in texts:
            form.number(t)
    except ValueError:
        return None
    least, most = decimals_of(bare, "," if decimal_comma else ".")
    return Format(most, least, grouped, decimal_comma, percent)


def decimals_of(texts: Sequence[str], point: str = ".") -> tuple[int, int | None]:
    """The fewest and the most digits behind the point; the most is None where some cell is written with an exponent.

    A cell of more than 9 digits is what binary rounding left of a shorter one, and counts as its first 7 digits.
    """
    least, most = 99, 0
    for text in texts:
        if text.lower() in _INFINITE:
            continue
        if "e" in text or "E" in text:
            return 0, None
        own = len(text) - text.find(point) - 1 if point in text else 0
        if own and sum(c.isdigit() for c in text) > 9:
            short = f"{float(text.replace(point, '.').replace(',', '')):.7g}"
            own = len(short) - short.find(".") - 1 if "." in short and "e" not in short else min(own, 12)
        least, most = min(least, own), max(most, own)
    return min(least, most), most


def _shortened(text: str, most: int) -> str:
    """Without the zeros at the end, of which so many may go, nor a point with nothing behind it."""
    kept = text[: len(text) - most] + text[len(text) - most :].rstrip("0")
    return kept.rstrip(".")


def date_format(texts: Sequence[str]) -> str | None:
    """The first of the known formats in which all of these cells are dates; None where there is none."""
    if not texts or not any(c.isdigit() for c in texts[0]) or len(texts[0]) < 8:
        return None
    for form in DATE_FORMATS:
        try:
            for text in texts:
                _since_epoch(text, form)
        except ValueError:
            continue
        return form
    return None


def _has_time(form: str) -> bool:
    return "%H" in form


def _since_epoch(text: str, form: str) -> float:
    moment = datetime.strptime(text, form).replace(tzinfo=UTC)  # the zone only makes the difference well defined
    since = moment - EPOCH
    return since.total_seconds() if _has_time(form) else float(since.days)


def _written(value: float, form: str) -> str:
    step = timedelta(seconds=round(value)) if _has_time(form) else timedelta(days=round(value))
    first, last = datetime.min.replace(tzinfo=UTC) - EPOCH, datetime.max.replace(tzinfo=UTC) - EPOCH
    moment = EPOCH + min(max(step, first), last)
    return moment.strftime(form.replace("%Y", f"{moment.year:04d}"))


def iso_number(text: str, form: Format) -> float:
    """A date given by hand in the column's own format or as year-month-day; ValueError otherwise."""
    try:
        return form.number(text)
    except ValueError:
        days = date.fromisoformat(text).toordinal() - date(1970, 1, 1).toordinal()
        return days * (86400.0 if _has_time(form.date) else 1.0)


def texts_of(values: np.ndarray[Any, Any], form: Format) -> list[str]:
    """The cells of many numbers; NaN is written as missing."""
    finite = np.isfinite(values)
    if not form.date and bool(finite.all()) and form.decimals == 0 and not (form.grouped or form.comma or form.percent):
        return [str(int(v)) for v in np.rint(values).tolist()]
    return [form.missing if math.isnan(v) else form.text(v) for v in values.tolist()]
