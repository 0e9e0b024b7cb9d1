"""The report's sections on where a run came from: data, configuration, environment."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ebmstruct.extend.task import Table
from ebmstruct.run.markup import MAX_ROWS, facts_list, number, table_of, text, upper, words


def data_section(data: Mapping[str, Any]) -> str:
    """Numbers of examples, where the data come from, and the hash of every file."""
    files, counts = (found if isinstance(found := data.get(k), Mapping) else {} for k in ("files", "examples"))
    tables = {key: value for key, value in data.items() if _is_grid(value) and key != "files"}
    others = {k: v for k, v in data.items() if k not in ("files", "examples", *tables)}
    out = [f'<div class="columns"><div><h3>Examples</h3>{facts_list(counts)}</div>']
    if others:
        out.append(f"<div><h3>Where they come from</h3>{facts_list(dict(_flat(others)))}</div>")
    out.append("</div>")
    for key, value in tables.items():
        names = dict.fromkeys(name for column in value.values() for name in column)
        grid = [[words(name), *(_brief(column.get(name)) for column in value.values())] for name in names]
        inner = table_of(Table("", ["", *value], grid))
        out.append(f'<h3>{text(upper(words(key)))}</h3><div class="wraps">{inner}</div>')
    if files:
        rows = "".join(
            f"<tr><td><bdi>{text(name)}</bdi></td>"
            f'<td><code title="{text(digest)}">{text(str(digest)[:16])}…</code></td></tr>'
            for name, digest in list(files.items())[:MAX_ROWS]
        )
        head = "<thead><tr><th>file</th><th>sha256</th></tr></thead>"
        out.append(f'<h3>Files</h3><div class="scroll"><table>{head}<tbody>{rows}</tbody></table></div>')
    return "".join(out)


def setup_section(config_text: str, environment: Mapping[str, Any]) -> str:
    """The resolved config, and what the run stood on."""
    facts = dict(_flat(environment))
    return (
        f'<div class="columns"><div><h3>Configuration</h3><pre>{text(config_text)}</pre></div>'
        f"<div><h3>Environment</h3>{facts_list(facts)}</div></div>"
        '<p class="note">The configuration is complete: saved as a file it runs again as it is.</p>'
    )


def _is_grid(value: Any) -> bool:
    """Whether a value is a mapping of mappings, which reads best as a table."""
    return isinstance(value, Mapping) and bool(value) and all(isinstance(column, Mapping) for column in value.values())


def _brief(value: Any) -> Any:
    """A value of the provenance in one cell."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {number(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return f"{value[:16]}…" if isinstance(value, str) and re.fullmatch(r"[0-9a-f]{40,}", value) else value


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key} ")
        else:
            yield f"{prefix}{key}", ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
