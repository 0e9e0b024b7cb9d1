"""The report: one page that loads nothing, runs nothing, and escapes everything."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ebmstruct.extend import Cases, Chart, Table
from ebmstruct.run.charts import chart, ticks
from ebmstruct.run.config import parse_config
from ebmstruct.run.markup import cell_of, number, table_of, text
from ebmstruct.run.page import sections_of
from ebmstruct.run.runner import run

EVIL = "<script>alert('x')</script>\" onload=\"y & \u202e\x00\ud800"
VOID = {"meta"}


class Balanced(HTMLParser):
    """Checks that tags close in order, and collects tags and attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.words = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture
def page(toy: Path) -> str:
    """The report of a run whose config holds hostile text."""
    config = parse_config(
        'task: {name: toy.letters, partial: true, title: "<img src=x onerror=alert(1)>"}\ntrain: {epochs: 3}', "t.yaml"
    )
    return run(config).report.read_text(encoding="utf-8")


def test_self_contained(page: str) -> None:
    """No script, no outside address, no event handler; a policy forbids all of them besides."""
    parsed = Balanced(page)
    assert not parsed.tags & {"script", "img", "link", "iframe", "object", "embed", "form", "base"}
    assert not {a for a in parsed.attributes if a.startswith("on") or a in ("src", "srcset", "xlink:href")}
    assert set(re.findall(r'href="([^"]*)"', page)) <= {f"#{i}" for i in re.findall(r'id="([^"]*)"', page)}
    assert "url(" not in page and "@import" not in page and "http" not in page.replace("http-equiv", "")
    assert "default-src 'none'" in page and "&lt;img src=x onerror=alert(1)&gt;" in page


def test_what_it_shows(page: str) -> None:
    """Headline, curves, energies, certainty, the task's sections, data, configuration and environment are there."""
    words = Balanced(page).words
    for said in (
        *("toy.letters", "Accuracy on dev", "E(correct) \N{MINUS SIGN} E(predicted) on test", "OPTIMAL", "Confusion"),
        *("Mistakes", "generator", "examples_count: 40", "torch", "was best on dev", "Correct against predicted"),
    ):
        assert said in words, said
    assert page.count("<svg") >= 6 and "prefers-color-scheme: dark" in page and "width=device-width" in page


def test_hostile_content() -> None:
    """Hostile text in every place of every kind of section stays text."""
    sections = [
        Table(EVIL, [EVIL, "n"], [[EVIL, 1], [EVIL]], EVIL),
        Chart(EVIL, {EVIL: [1, 2], "b": [2, 3]}, [EVIL, "y"], EVIL, EVIL, "bar", EVIL),
        Chart(EVIL, {EVIL: [1, 2]}, [EVIL, "y"], EVIL, EVIL, "line", EVIL),
        Chart(EVIL, {EVIL: [1, 2]}, (), EVIL, EVIL, "histogram", EVIL),
        Cases(EVIL, [{EVIL: EVIL, "t": Table("", [EVIL], [[EVIL]])}], EVIL),
    ]
    page = sections_of(sections)
    parsed = Balanced(page)
    assert "script" not in parsed.tags and "onload" not in parsed.attributes
    assert "\x00" not in page and "\ud800" not in page and "\u202e" not in page
    page.encode("utf-8")


@pytest.mark.parametrize("kind", ["line", "bar", "histogram"])
def test_odd_charts(kind: str) -> None:
    """Empty, constant, huge, non-finite and single values are drawn or told, always with finite coordinates."""
    odd = [
        *({}, {"a": []}, {"a": [math.nan]}, {"a": [1.0]}, {"a": [3, 3, 3]}, {"a": [math.inf, 1, -math.inf, 2]}),
        *({"a": [1e-300, 2e-300]}, {"a": [-1e200, 1e200]}, {"a": [None, "x", 2]}, {"a": range(5000)}, {"a": [0, 0]}),
        *({"a": [1, 2, 3], "b": [1]}, {"a": [1e15, 1e15 + 1]}),
    ]
    for series in odd:
        drawn = chart(Chart("t", series, kind=kind))  # type: ignore[arg-type]
        Balanced(drawn)
        assert "nan" not in drawn.lower().replace("finance", "") and "inf" not in drawn
        for found in re.findall(r' (?:x|y|cx|cy|x1|x2|y1|y2|width|height)="([^"]*)"', drawn):
            assert math.isfinite(float(found)) and abs(float(found)) < 10_000


def test_numbers() -> None:
    """Four significant digits, grouped thousands, a true minus sign."""
    shown = [number(v) for v in (0, 0.0, 0.85149, 12.3456, 1234.5, 1234567, -3, -0.5, 1e-9, math.inf, math.nan)]
    assert shown == [
        *("0", "0", "0.8515", "12.35", "1\u202f234", "1\u202f234\u202f567", "\u22123", "\u22120.5000", "1.00e\u221209"),
        *("∞", "not a number"),
    ]
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0]) and ticks(3, 3)[0] < 3 < ticks(3, 3)[-1]


def test_tables() -> None:
    """Columns of numbers are aligned, a square of counts is shaded, long tables and texts are cut and say so."""
    assert "class=n" in table_of(Table("", ["a", "b"], [["x", 1.5], ["y", None]]))
    assert "--share:0.750" in table_of(Table("", ["", "A", "B"], [["A", 3, 1], ["B", 0, 2]]))
    assert "100 more rows are not shown" in table_of(Table("", ["a"], [["x"]] * 500))
    assert "(1,000 more characters)" in cell_of("y" * 3000)
    assert text("a\u200db 字 \x1b[0m") == "a\u200db 字 \N{REPLACEMENT CHARACTER}[0m"
