"""ARFF files, dense and sparse, with labels as Mulan and MEKA mark them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ebmstruct import DataError
from ebmstruct.extend.components import near_miss
from ebmstruct_multilabel.files import Content, read_text
from ebmstruct_multilabel.rows import Builder, Labelled

NUMERIC = ("numeric", "real", "integer")
OFF, ON = ("0", "false", "no", "n", "f"), ("1", "true", "yes", "y", "t")
_QUOTED = re.compile(r"""\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^,]*?)\s*(?:,|$)""")
_NAME = re.compile(r"""\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\S+)\s*(.*)""", re.DOTALL)
_LABEL = re.compile(r"""<\s*label\b[^>]*?\bname\s*=\s*("[^"]*"|'[^']*')""")
_COUNT = re.compile(r"-C\s+(-?\d+)")
ENTITIES = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&amp;": "&"}

Labels = str | int | Sequence[str] | None
"""Which attributes are labels: a Mulan XML file, how many at the end (negative: at the beginning), names, or unsaid."""


@dataclass(eq=False)
class Attribute:
    """One attribute: numeric where ``states`` is empty, else nominal.

    cells: what each state writes into the row, column to value; for a label ``on`` has the states that mean "in".
    """

    name: str
    states: tuple[str, ...] = ()
    label: bool = False
    column: int = -1
    cells: dict[str, tuple[int, float]] = field(default_factory=dict)
    on: tuple[str, ...] = ()


def read_arff(content: Content, labels: Labels) -> Labelled:
    """The rows of an ARFF file; a DataError names file and line. O(size) time and memory; nothing is executed."""
    attributes, relation, first = _header(content)
    marked = label_names(content.path, [a.name for a in attributes], labels, relation)
    builder = Builder()
    for attribute in attributes:
        _prepare(attribute, attribute.name in marked, builder, content)
    usual = [a for a in attributes if _omitted(a)]
    lines = content.text.split("\n")
    for number in range(first, len(lines)):
        line = lines[number].strip()
        if not line or line[0] == "%":
            continue
        where = f"{content.name}:{number + 1}"
        if line[0] == "{":
            pairs = _sparse(line, attributes, where)
            if usual:
                seen = {id(a) for a, _ in pairs}
                pairs += [(a, a.states[0]) for a in usual if id(a) not in seen]
        else:
            pairs = _dense(line, attributes, where)
        _add(pairs, builder, where)
    return builder.done([a.name for a in attributes if a.label])


def label_names(path: Path, names: Sequence[str], labels: Labels, relation: str = "") -> tuple[str, ...]:
    """The attributes that are labels. Unsaid, they are those of the XML file beside, or MEKA's ``-C`` in the relation."""
    if labels is None:
        beside = sorted(path.parent.glob("*.xml"))
        own = [p for p in beside if p.stem == path.name.partition(".")[0]]
        chosen = own or beside
        count = _COUNT.search(relation)
        if len(chosen) == 1:
            labels = str(chosen[0])
        elif count:
            labels = -int(count[1])  # MEKA counts labels at the beginning as positive
        else:
            raise DataError(
                f"{path}: which attributes are labels is not said: no XML file of labels is beside it, and no -C is "
                "in the relation; set task.labels to such a file, to how many are last (negative: first), or to names"
            )
    if isinstance(labels, str) and (labels.endswith(".xml") or Path(labels).is_file()):
        wanted = _xml_names(Path(labels))
    elif isinstance(labels, int):
        if not 0 < abs(labels) < len(names):
            raise DataError(f"{path}: task.labels is {labels}; legal are 1 to {len(names) - 1}, negative for the first")
        wanted = tuple(names[-labels:] if labels > 0 else names[:-labels])
    else:
        wanted = (labels,) if isinstance(labels, str) else tuple(labels)
    missing = [name for name in wanted if name not in set(names)]
    if missing:
        raise DataError(
            f"{path}: there is no attribute {missing[0]!r}, which should be a label{near_miss(missing[0], names)}"
        )
    return wanted


def _xml_names(path: Path) -> tuple[str, ...]:
    """Names of ``<label name="...">``, whatever the nesting; read as text, so that no entity is ever expanded."""
    found = []
    for match in _LABEL.finditer(read_text(path).text):
        name = match[1][1:-1]
        for entity, character in ENTITIES.items():
            name = name.replace(entity, character)
        found.append(name)
    if not found:
        raise DataError(f'{path}: no <label name="..."> is in it; a Mulan file of labels is needed')
    return tuple(found)


def _header(content: Content) -> tuple[list[Attribute], str, int]:
    """The attributes, the relation, and the number of the first line after ``@data``."""
    attributes: list[Attribute] = []
    relation = ""
    for number, raw in enumerate(content.text.split("\n")):
        line = raw.strip()
        if not line or line[0] == "%":
            continue
        word, _, rest = line.partition(" ") if " " in line else line.partition("\t")
        where = f"{content.name}:{number + 1}"
        if word.lower() == "@relation":
            relation = rest
        elif word.lower() == "@attribute":
            attributes.append(_attribute(rest, where))
        elif word.lower() == "@data":
            if not attributes:
                raise DataError(
                    f"{where}: @data comes before any @attribute; an ARFF file declares its attributes first"
                )
            seen: set[str] = set()
            for attribute in attributes:
                if attribute.name in seen:
                    raise DataError(f"{content.name}: the attribute {attribute.name!r} is declared twice; rename one")
                seen.add(attribute.name)
            return attributes, relation, number + 1
        else:
            raise DataError(
                f"{where}: found {line[:40]!r}; legal before @data are @relation, @attribute and % comments"
            )
    raise DataError(f"{content.name}: there is no @data; an ARFF file has its rows behind that line")


def _attribute(rest: str, where: str) -> Attribute:
    match = _NAME.fullmatch(rest)
    if not match or not match[2]:
        raise DataError(f"{where}: an attribute needs a name and a type; found {rest[:60]!r}")
    name, kind = _unquoted(match[1]), match[2].strip()
    if kind.startswith("{"):
        if not kind.endswith("}"):
            raise DataError(f"{where}: the values of {name!r} begin with {{ and never end with }}")
        states = tuple(_split(kind[1:-1]))
        if not states:
            raise DataError(f"{where}: the nominal attribute {name!r} has no value")
        return Attribute(name, states)
    if kind.split()[0].lower() not in NUMERIC:
        raise DataError(
            f"{where}: the attribute {name!r} is of type {kind[:30]!r}; legal are numeric, real, integer and values "
            "in braces; texts go into JSONL or CSV"
        )
    return Attribute(name)


def _prepare(attribute: Attribute, label: bool, builder: Builder, content: Content) -> None:
    """Say what each state of an attribute writes into a row."""
    attribute.label = label
    if label:
        legal = attribute.states or ("0", "1")
        attribute.on = tuple(s for s in legal if s.lower() in ON)
        if any(s.lower() not in (*ON, *OFF) for s in legal):
            raise DataError(
                f"{content.name}: the label {attribute.name!r} has the values {', '.join(legal[:6])}; a label is declared "
                "as {0,1}, or {false,true}, or {no,yes}"
            )
        return
    if all(_number(s) is not None for s in attribute.states):
        attribute.column = builder.column(attribute.name)
        attribute.cells = {s: (attribute.column, _number(s) or 0.0) for s in attribute.states}
    else:
        attribute.cells = {s: (builder.column(f"{attribute.name}={s}"), 1.0) for s in attribute.states}


def _omitted(attribute: Attribute) -> bool:
    """Whether a value left out of a sparse row writes something: the first of a nominal attribute is what it means."""
    if not attribute.states:
        return False
    first = attribute.states[0]
    return first in attribute.on if attribute.label else attribute.cells[first][1] != 0


def _add(pairs: list[tuple[Attribute, str]], builder: Builder, where: str) -> None:
    cells: dict[int, float] = {}
    chosen: list[str] = []
    for attribute, value in pairs:
        if attribute.label:
            lowered = value.lower()
            if value in attribute.on or (not attribute.states and _number(value) == 1):
                chosen.append(attribute.name)
            elif lowered not in OFF and _number(value) != 0:
                raise DataError(f"{where}: the label {attribute.name!r} is {value!r}; legal are 0 and 1")
        elif value == "?":
            for column in {attribute.column, *(c for c, _ in attribute.cells.values())} - {-1}:
                cells[column] = float("nan")
        elif attribute.states:
            if value not in attribute.cells:
                legal = ", ".join(attribute.states[:8])
                raise DataError(f"{where}: {attribute.name!r} is {value!r}; its values are declared as {legal}")
            column, number = attribute.cells[value]
            cells[column] = number
        else:
            found = _number(value)
            if found is None:
                raise DataError(
                    f"{where}: {attribute.name!r} is {value!r}; a number is needed, or ? where it is missing"
                )
            cells[attribute.column] = found
    builder.add(cells, tuple(chosen), where)


def _sparse(line: str, attributes: list[Attribute], where: str) -> list[tuple[Attribute, str]]:
    if not line.endswith("}"):
        raise DataError(f"{where}: a sparse row begins with {{ and must end with }}")
    out = []
    for item in _split(line[1:-1], raw=True):
        number, _, value = item.strip().partition(" ")
        if not number.isdigit() or not value.strip():
            raise DataError(
                f"{where}: found {item[:40]!r} in a sparse row; legal is an attribute's number and its value"
            )
        if int(number) >= len(attributes):
            raise DataError(f"{where}: attribute {number} does not exist; they are numbered 0 to {len(attributes) - 1}")
        out.append((attributes[int(number)], _unquoted(value.strip())))
    return out


def _dense(line: str, attributes: list[Attribute], where: str) -> list[tuple[Attribute, str]]:
    values = _split(line)
    if len(values) != len(attributes):
        raise DataError(f"{where}: the row has {len(values)} values, and {len(attributes)} attributes are declared")
    return list(zip(attributes, values, strict=True))


def _split(text: str, raw: bool = False) -> list[str]:
    """Values between commas; raw: with their quotes."""
    if "'" not in text and '"' not in text:
        return [part.strip() for part in text.split(",")] if text.strip() else []
    out, at = [], 0
    while at < len(text):
        match = _QUOTED.match(text, at)
        if match is None or match.end() == at:
            out.append(text[at:].strip())
            break
        out.append(match[1] if raw else _unquoted(match[1]))
        at = match.end()
    return out


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None
