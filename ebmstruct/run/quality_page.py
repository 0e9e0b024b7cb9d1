"""The quality report of generated records as a page and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import ebmstruct
from ebmstruct.extend.task import Section, Table
from ebmstruct.run.markup import is_number, number, table_of, text, upper, words
from ebmstruct.run.page import page, sections_of
from ebmstruct.storage import write_json, write_text

_CARDS = (
    "classifier_accuracy",
    "coverage",
    "nearest_ratio",
    "column_shapes",
    "pair_trends",
    "train_on_synthetic",
)
"""The measures shown large, in this order, where the figures have them."""
_MOST_CARDS = 6


def write_quality(
    path_html: Path, path_json: Path, figures: Mapping[str, Any], sections: Iterable[Section], title: str
) -> None:
    """Write the figures of generated records as JSON, and a standalone page of them with the sections.

    figures: JSON values. Of these the page knows ``verdicts`` (a list of ``level``: good, warn or bad, and ``text``),
    ``measures`` (name to ``value``, ``reference``, ``best`` and ``meaning``, each of which may be missing) and
    ``records`` (numbers of records by what they are); whatever else stands there is in the JSON file alone.
    """
    write_json(path_json, figures)
    write_text(path_html, quality_html(figures, sections, title))


def quality_html(figures: Mapping[str, Any], sections: Iterable[Section], title: str) -> str:
    """The page: verdicts and the chief figures first, then every measure, then what they look like."""
    parts = [
        ("verdicts", "In words", verdicts_of(figures.get("verdicts", ())) + _cards(figures.get("measures", {}))),
        ("measures", "Every measure", measures_of(figures.get("measures", {}))),
        ("closer", "A closer look", sections_of(sections)),
    ]
    when = datetime.now().astimezone().strftime("%d %B %Y, %H:%M %Z")
    footer = f"Written by ebmstruct {text(ebmstruct.__version__)} on {text(when)}."
    return page(title, _header(figures, title), parts, footer)


def _header(figures: Mapping[str, Any], title: str) -> str:
    counts = [f"{number(count)} {text(words(name))}" for name, count in figures.get("records", {}).items()]
    said = f'<p class="lede">Records: {", ".join(counts)}.</p>' if counts else ""
    return f'<p class="eyebrow">ebmstruct generate · quality</p><h1>{text(title)}</h1>{said}'


def verdicts_of(found: Iterable[Mapping[str, str]]) -> str:
    """Verdicts as a list, each with its level."""
    names = {"good": "Good", "warn": "Look", "bad": "Bad"}
    rows = "".join(
        f'<li><b class="{text(one["level"])}">{names.get(one["level"], "")}</b> <span>{text(one["text"])}</span></li>'
        for one in found
    )
    return f'<ul class="verdicts">{rows}</ul>' if rows else ""


def _cards(measures: Mapping[str, Mapping[str, Any]]) -> str:
    names = [name for name in _CARDS if name in measures] or list(measures)
    cards = []
    for name in names[:_MOST_CARDS]:
        entry = measures[name]
        beside = [
            f"{said} {_shown(entry[key])}"
            for key, said in (("reference", "training records:"), ("best", "best:"))
            if entry.get(key) is not None
        ]
        cards.append(
            f'<div class="card"><p class="split">{text(upper(words(name)))}</p>'
            f'<p class="big">{_shown(entry.get("value"))}</p><p class="beside">{"; ".join(beside)}</p></div>'
        )
    return f'<div class="headline small">{"".join(cards)}</div>' if cards else ""


def measures_of(measures: Mapping[str, Mapping[str, Any]]) -> str:
    """Every measure with what it means, in a table."""
    if not measures:
        return ""
    rows = [
        [words(name), *(entry.get(key) for key in ("value", "reference", "best")), entry.get("meaning", "")]
        for name, entry in measures.items()
    ]
    lead = (
        "Beside each figure stands what the training records reach when they are taken for generated ones: two samples of "
        "one distribution never agree in full, so that this is as good as it gets."
    )
    heads = ["measure", "generated records", "training records", "best", "what it is"]
    return f"<p>{lead}</p><div class='wraps told'>{table_of(Table('', heads, rows))}</div>"


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}") if is_number(value) else text(value)
