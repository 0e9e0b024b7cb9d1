"""A page: one self-contained HTML file of titled parts, and the sections that tasks give as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ebmstruct.extend.task import Cases, Chart, Picture, Section, Table
from ebmstruct.run.charts import chart
from ebmstruct.run.markup import MAX_ROWS, cell_of, table_of, text, widest
from ebmstruct.run.pictures import picture
from ebmstruct.run.style import CSS

_NARROW = 430
"""The width in pixels up to which a picture fits half of the page."""


def page(title: str, header: str, parts: Sequence[tuple[str, str, str]], footer: str) -> str:
    """The page. It loads nothing from anywhere and runs no script.

    title: plain text.  header, footer: HTML.  parts: anchor, heading and HTML of each; those without content are left out.
    The first part stands under the header without a heading, the others are linked from it.
    """
    parts = [part for part in parts if part[2]]
    links = "".join(f'<a href="#{text(anchor)}">{text(name)}</a>' for anchor, name, _ in parts[1:])
    body = "".join(
        f'<section id="{text(anchor)}">{f"<h2>{text(name)}</h2>" if i else ""}{content}</section>'
        for i, (anchor, name, content) in enumerate(parts)
    )
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{CSS}</style></head><body><main>"
        f"<header>{header}<nav>{links}</nav></header>{body}"
        f"<footer>{footer}</footer></main></body></html>\n"
    )


def sections_of(sections: Iterable[Section]) -> str:
    """Report sections: small charts and tables side by side, cases below each other."""
    out: list[str] = []
    row: list[str] = []
    for section in sections:
        if isinstance(section, Cases):
            if row:
                out.append(f'<div class="figures">{"".join(row)}</div>')
                row = []
            out.append(_cases(section))
        else:
            row.append(figure_of(section))
    if row:
        out.append(f'<div class="figures">{"".join(row)}</div>')
    return "".join(out)


def figure_of(section: Table | Chart | Picture) -> str:
    """A chart, a table or a picture with its title and its note, on a card."""
    if isinstance(section, Picture):
        inner = f'<div class="scroll">{picture(section)}</div>'
        wide = section.pixels.shape[1] * section.scale > _NARROW
    elif isinstance(section, Table):
        inner = table_of(section)
        wide = len(section.columns) > 9 or widest(section) > 60
    else:
        inner, wide = chart(section), False
    note = f"<figcaption>{text(section.note)}</figcaption>" if section.note else ""
    return f'<figure class="figure{" wide" if wide else ""}"><h3>{text(section.title)}</h3>{inner}{note}</figure>'


def _cases(section: Cases) -> str:
    cards = []
    for case in section.cases[:MAX_ROWS]:
        rows = "".join(
            f"<dt>{text(key)}</dt><dd>{table_of(value) if isinstance(value, Table) else cell_of(value)}</dd>"
            for key, value in case.items()
        )
        cards.append(f'<article class="case"><dl>{rows}</dl></article>')
    note = f'<p class="note">{text(section.note)}</p>' if section.note else ""
    empty = '<p class="empty">There are none.</p>' if not cards else ""
    return f'<h3>{text(section.title)}</h3>{note}{empty}<div class="cases">{"".join(cards)}</div>'
