"""BIF, the Bayesian network interchange format: named variables and states, conditional probability tables."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ebmstruct.errors import DataError
from ebmstruct.run.formats.bif_writing import bif_text
from ebmstruct.run.formats.model import Model, graph_of
from ebmstruct.run.formats.packing import write_packed
from ebmstruct.run.formats.source import Source, shown, text_fault

MAX_DEFAULTS = 1 << 24
"""Entries that tables may have beyond the characters of their file, where a ``default`` fills them."""

_COMMENT = re.compile(r'"[^"\n]*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
_TOKEN = re.compile(r'\s*("[^"\n]*"|[{}()\[\];,|]|[^\s{}()\[\];,|"]+)')
_MARKS = frozenset("{}()[];,|")


def parse_bif(source: Source) -> Model:
    """The Bayesian network in the content of a .bif file.

    The table of a variable is laid out over its parents, in their order, and then itself. Entries of ``table`` with
    parents run over the variable's own states first and fastest over the last parent, as the format says. Rows need
    not add up to 1, so that rounded tables load. Energies are -log of the entries.
    Errors: DataError with file, line and fault.
    """
    reader = _Reader(source.path, _without_comments(source.text()))
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # what older numpy says of a word that is no number
        reader.read()
    names = tuple(reader.states)
    for name in names:
        if name not in reader.tables:
            raise DataError(f"{source.path}: variable {shown(name, 60)} has no probability table")
    counts = np.array([len(reader.states[name]) for name in names], dtype=np.int64)
    number = {name: i for i, name in enumerate(names)}
    scopes = [reader.parents[name] + (name,) for name in names]
    members = np.array([number[name] for scope in scopes for name in scope], dtype=np.int64)
    arity = np.array([len(scope) for scope in scopes], dtype=np.int64)
    graph = graph_of(counts, arity, members, [reader.tables[name].reshape(-1) for name in names])
    states = tuple(tuple(reader.states[name]) for name in names)
    return Model(graph, "bif", names, states, source.path, source.sha256)


def _without_comments(text: str) -> str:
    """The text with blanks in place of comments, so that places and lines stay what they are."""
    if "//" not in text and "/*" not in text:
        return text
    return _COMMENT.sub(lambda m: m[0] if m[0][0] == '"' else re.sub(r"[^\n]", " ", m[0]), text)


@dataclass(eq=False)
class _Reader:
    """Reads declarations one after the other; at: the character that comes next."""

    path: Path
    text: str
    at: int = 0
    states: dict[str, dict[str, int]] = field(default_factory=dict)
    parents: dict[str, tuple[str, ...]] = field(default_factory=dict)
    tables: dict[str, np.ndarray] = field(default_factory=dict)
    entries: int = 0

    def fault(self, said: str, at: int | None = None) -> DataError:
        return text_fault(self.path, self.text, min(self.at if at is None else at, len(self.text)), said)

    def next(self, what: str) -> str:
        """The next token, whose name for messages is ``what``; a fault at the end of the file."""
        match = _TOKEN.match(self.text, self.at)
        if match is None:
            rest = self.text[self.at :].lstrip()
            said = f"{shown(rest)} where {what} belongs" if rest else f"the file ends here; {what} belongs next"
            raise self.fault(said, len(self.text) - len(rest) if rest else None)
        self.at = match.end()
        return match[1]

    def expect(self, mark: str) -> None:
        found = self.next(repr(mark))
        if found != mark:
            raise self.fault(f"{shown(found)} where {mark!r} belongs")

    def name(self, what: str) -> str:
        found = self.next(what)
        if found in _MARKS:
            raise self.fault(f"{found!r} where {what} belongs")
        return found.strip('"')

    def read(self) -> None:
        while _TOKEN.match(self.text, self.at) or self.text[self.at :].strip():
            word = self.next("'variable' or 'probability'")
            if word == "network":
                self.network()
            elif word == "variable":
                self.variable()
            elif word == "probability":
                self.probability()
            elif word == "property":
                self.property()
            else:
                raise self.fault(f"{shown(word)} where 'network', 'variable' or 'probability' belongs")
        if not self.states:
            raise DataError(f"{self.path}: declares no variable")

    def property(self) -> None:
        """Skip a property, whose value may be any words."""
        while self.next("';'") != ";":
            pass

    def network(self) -> None:
        while self.next("'{'") != "{":
            pass
        while self.next("'}'") != "}":
            pass

    def variable(self) -> None:
        name = self.name("the name of a variable")
        if name in self.states:
            raise self.fault(f"variable {shown(name, 60)} is declared twice")
        self.expect("{")
        states: dict[str, int] | None = None
        while (word := self.next("'type' or '}'")) != "}":
            if word == "property":
                self.property()
            elif word == "type" and states is None:
                states = self.type(name)
            else:
                raise self.fault(f"{shown(word)} where 'type', 'property' or '}}' belongs")
        if states is None:
            raise self.fault(f"variable {shown(name, 60)} has no type")
        self.states[name] = states

    def type(self, name: str) -> dict[str, int]:
        kind = self.next("'discrete'")
        if kind != "discrete":
            raise self.fault(f"variable {shown(name, 60)} is of type {shown(kind)}; only 'discrete' can be read")
        self.expect("[")
        promised = self.next("a number of states")
        self.expect("]")
        self.expect("{")
        states: dict[str, int] = {}
        while (word := self.next("a state or '}'")) != "}":
            state = word.strip('"')
            if word == ",":
                continue
            if word in _MARKS or state in states:
                said = "belongs to no name" if word in _MARKS else "is listed twice"
                raise self.fault(f"state {shown(state)} of variable {shown(name, 60)} {said}")
            states[state] = len(states)
        if promised != str(len(states)) or not states:
            raise self.fault(f"variable {shown(name, 60)} promises {shown(promised)} states and lists {len(states)}")
        self.expect(";")
        return states

    def probability(self) -> None:
        self.expect("(")
        child = self.known("a variable")
        parents: list[str] = []
        word = self.next("'|' or ')'")
        if word == "|":
            while (word := self.next("a parent or ')'")) != ")":
                if word != ",":
                    self.at -= len(word)
                    parents.append(self.known("a parent"))
        if word != ")":
            raise self.fault(f"{shown(word)} where ')' belongs")
        if child in self.tables:
            raise self.fault(f"variable {shown(child, 60)} has two probability tables")
        if child in parents or len(set(parents)) < len(parents):
            raise self.fault(f"the table of {shown(child, 60)} names a variable twice")
        self.expect("{")
        self.parents[child] = tuple(parents)
        self.tables[child] = self.body(child, parents)

    def known(self, what: str) -> str:
        name = self.name(what)
        if name not in self.states:
            raise self.fault(f"variable {shown(name, 60)} is not declared before its use")
        return name

    def body(self, child: str, parents: list[str]) -> np.ndarray:
        """(K_parents..., K) entries, from ``table``, from rows, or from rows and a ``default``."""
        shape = [len(self.states[p]) for p in parents]
        own = len(self.states[child])
        rows = 1
        for size in shape:
            rows *= size
        given: dict[int, np.ndarray] = {}
        whole: np.ndarray | None = None
        default: np.ndarray | None = None
        while (word := self.next("an entry or '}'")) != "}":
            if word == "property":
                self.property()
            elif word == "table" and whole is None and not given:
                whole = self.numbers(child, rows * own)
            elif word == "default" and default is None:
                default = self.numbers(child, own)
            elif word == "(" and whole is None:
                row = self.row(child, parents)
                if row in given:
                    raise self.fault(f"a second row for the same states of the parents of {shown(child, 60)}")
                given[row] = self.numbers(child, own)
            else:
                raise self.fault(f"{shown(word)} where a row, 'table', 'default' or '}}' belongs")
        if whole is not None:
            return whole.reshape(own, rows).T
        if len(given) < rows and default is None:
            raise self.fault(f"the table of {shown(child, 60)} has {len(given):,} of {rows:,} rows, and no 'default'")
        self.entries += rows * own
        if self.entries > len(self.text) + MAX_DEFAULTS:
            raise self.fault(
                f"the table of {shown(child, 60)} would have {rows:,} rows of {own}, more than can be held"
            )
        table = np.empty((rows, own)) if default is None else np.tile(default, (rows, 1))
        for row, values in given.items():
            table[row] = values
        return table

    def row(self, child: str, parents: list[str]) -> int:
        """The number of the row that the states of the parents, up to ``)``, name."""
        number, count = 0, 0
        while (word := self.next("a state or ')'")) != ")":
            if word == ",":
                continue
            state = word.strip('"')
            if count >= len(parents):
                raise self.fault(f"{shown(state)} is a state too many; {shown(child, 60)} has {len(parents)} parents")
            legal = self.states[parents[count]]
            if state not in legal:
                said = f"{shown(state)} is no state of {shown(parents[count], 60)}; there: {', '.join(list(legal)[:8])}"
                raise self.fault(said)
            number = number * len(legal) + legal[state]
            count += 1
        if count < len(parents):
            raise self.fault(f"a row names {count} states; {shown(child, 60)} has {len(parents)} parents")
        return number

    def numbers(self, child: str, count: int) -> np.ndarray:
        """The numbers up to ``;``, which must be so many, finite and not negative."""
        begin, end = self.at, self.text.find(";", self.at)
        if end < 0:
            raise self.fault("the file ends before the ';' of these numbers", len(self.text))
        piece = self.text[begin:end]
        self.at = end + 1
        try:
            found = np.fromstring(piece.replace(",", " "), sep=" ")
        except (ValueError, DeprecationWarning):
            raise self._number_fault(piece, begin) from None
        if found.size != count or not piece.strip():
            have = found.size if piece.strip() else 0
            raise self.fault(f"{have:,} numbers for {shown(child, 60)} where {count:,} belong", begin + 1)
        if not (found >= 0).all() or found.max() == np.inf:
            raise self._number_fault(piece, begin)
        return found

    def _number_fault(self, piece: str, begin: int) -> DataError:
        for match in re.finditer(r"[^\s,]+", piece):
            try:
                fine = 0 <= float(match[0]) < np.inf and "_" not in match[0]
            except ValueError:
                fine = False
            if not fine:
                return self.fault(f"{shown(match[0])} is no probability", begin + match.start())
        return self.fault("these are no numbers", begin)


def write_bif(path: Path | str, model: Model) -> None:
    """Replace a file by a Bayesian network as BIF, gzip where its name ends in .gz.

    Each variable needs exactly one table whose last variable it is and whose rows add up to 1 (to 1e-6): a graph read
    from BIF has those. Without names, variables become x0, x1, ... and states s0, s1, ...
    Errors: DataError where the graph is no such network; write it as UAI.
    """
    write_packed(Path(path), bif_text(Path(path), model))
