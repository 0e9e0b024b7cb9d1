"""One token a line: CoNLL columns, CoNLL-U and the UNER form of IOB2."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ebmstruct.errors import DataError
from ebmstruct_nlp.files import Content
from ebmstruct_nlp.schemes import Tag

CONLLU_NAMES = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
CONLL2003_NAMES = ("form", "pos", "chunk", "ner")
GLOBAL_COLUMNS = "# global.columns ="


@dataclass(frozen=True, slots=True)
class ColumnLayout:
    """Which of a line's cells are the token and its tag.

    kind: conll, conllu or iob2. separator: a tab, or None for any run of blanks. widths: the legal numbers of
    cells. token, tag: cells counted from 0. names: of the columns, where known.
    """

    kind: str
    separator: str | None
    widths: tuple[int, ...]
    token: int
    tag: int
    names: tuple[str, ...] = ()

    def describe(self) -> str:
        """The layout in one clause."""
        title = {"conll": "CoNLL columns", "conllu": "CoNLL-U", "iob2": "UNER IOB2"}[self.kind]
        widths = " or ".join(map(str, self.widths))
        separated = "tab" if self.separator else "blank"
        named = [f" ({self.names[cell]})" if cell < len(self.names) else "" for cell in (self.token, self.tag)]
        return (
            f"{title}, {separated}-separated, {widths} columns, "
            f"token in column {self.token + 1}{named[0]}, tag in column {self.tag + 1}{named[1]}"
        )


@dataclass(slots=True)
class Rows:
    """What the lines of a file hold, sentence by sentence, before the tags are looked at.

    numbers: line number of each token, flat over all sentences. dropped: lines skipped, by reason.
    """

    tokens: list[tuple[str, ...]] = field(default_factory=list)
    tags: list[list[Tag]] = field(default_factory=list)
    texts: list[str | None] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


def read_rows(content: Content, layout: ColumnLayout) -> Rows:
    """The sentences of a column file; a line that does not fit the layout is a DataError. O(size)."""
    rows = Rows()
    forms: list[str] = []
    tags: list[Tag] = []
    text: str | None = None
    separator, widths, token, tag = layout.separator, layout.widths, layout.token, layout.tag
    indexed = layout.kind != "conll"
    numbers = rows.numbers
    for number, line in enumerate(content.text.split("\n"), start=1):
        if not line or line.isspace():
            if forms:
                _close(rows, forms, tags, text)
                forms, tags = [], []
            text = None
            continue
        cells = line.split(separator)
        if indexed:
            if line[0] == "#":
                text = line[9:] if line.startswith("# text = ") else text
                continue
            if not cells[0].isdigit() and len(cells) in widths and (reason := _not_a_word(cells[0])):
                rows.dropped[reason] += 1
                continue
        elif line[0] in "#-" and len(cells) > 0 and (reason := _not_a_row(line, cells, layout)):
            rows.dropped[reason] += 1
            if forms and reason.startswith("-DOC"):
                _close(rows, forms, tags, text)
                forms, tags = [], []
            continue
        if len(cells) not in widths or not cells[token] or not cells[tag]:
            raise DataError(f"{content.path}:{number}: {_row_fault(line, cells, layout)}")
        if indexed and not cells[0].isdigit():
            raise DataError(f"{content.path}:{number}: {cells[0]!r} is no token number; column 1 counts tokens from 1")
        forms.append(cells[token])
        tags.append(cells[tag])
        numbers.append(number)
    if forms:
        _close(rows, forms, tags, text)
    return rows


def _close(rows: Rows, forms: list[str], tags: list[Tag], text: str | None) -> None:
    rows.tokens.append(tuple(forms))
    rows.tags.append(tags)
    rows.texts.append(text)


def _not_a_word(index: str) -> str:
    """Why a CoNLL-U line is no token: a range of a multiword token, or an empty node; else an empty string."""
    if all(part.isdigit() for part in index.split("-")):
        return "multiword token lines"
    return "empty nodes" if all(part.isdigit() for part in index.split(".")) else ""


def _not_a_row(line: str, cells: Sequence[str], layout: ColumnLayout) -> str:
    """Why a line of a CoNLL file is no token; a token may well begin with # or -, as hashtags do."""
    if cells[0] == "-DOCSTART-":
        return "-DOCSTART- lines"
    return "comment lines" if line.startswith("# ") and len(cells) not in layout.widths else ""


def _row_fault(line: str, cells: Sequence[str], layout: ColumnLayout) -> str:
    """What is wrong with a line whose cells do not fit the layout."""
    legal = " or ".join(map(str, layout.widths))
    separator = "tabs" if layout.separator else "blanks"
    if len(cells) not in layout.widths:
        return (
            f"{len(cells)} column{'s' * (len(cells) != 1)} separated by {separator} in {line[:60]!r}; {legal} are "
            "needed, as in the rest of the file; correct the line, or end the sentence with an empty line"
        )
    what, cell = ("token", layout.token) if not cells[layout.token] else ("tag", layout.tag)
    return f"the {what} in column {cell + 1} is empty in {line[:60]!r}; fill it, or remove the line"


def sniff_columns(content: Content, token: int | str | None, tag: int | str | None) -> ColumnLayout:
    """The layout of a column file by its first hundred token lines; a DataError when it has none."""
    lines, names = _head(content)
    separator = "\t" if sum("\t" in line for line in lines) * 2 > len(lines) else None
    cells = [line.split(separator) for line in lines]
    width, usual = Counter(len(row) for row in cells).most_common(1)[0]
    if width < 2:
        raise DataError(
            f"{content.path}: most lines have one column, e.g. {lines[0][:60]!r}; legal are columns of tokens and tags "
            "separated by tabs or blanks, CoNLL-U, UNER IOB2 and JSON records, one a line"
        )
    # Most lines decide, not all: one broken line among the first must be named as broken when the file is read.
    indexed = separator is not None and sum(row[0][:1].isdigit() for row in cells) * 2 > len(cells)
    uner = indexed and width in (3, 5) and sum(len(row) in (3, 5) for row in cells) * 2 > len(cells)
    if usual * 2 <= len(cells) and not uner:
        raise DataError(
            f"{content.path}: its lines have no common number of columns (the most frequent, {width}, is that of "
            f"{usual} of the first {len(cells)}), so it holds no tagged tokens; plain text can only be predicted on"
        )
    layout: tuple[str, tuple[int, ...], tuple[str, ...], int, int]
    if indexed and width == 10 and not names:
        layout = ("conllu", (10,), CONLLU_NAMES, 1, 3)
    elif uner and not names and _counts_up(cells):
        layout = ("iob2", (3, 5), ("ID", "FORM", "TAG"), 1, 2)
    else:
        docstart = content.text.startswith("-DOCSTART-") and width == len(CONLL2003_NAMES)
        kind = "conllu" if names[:1] == ("ID",) else "conll"
        form = names.index("FORM") if "FORM" in names else 0
        layout = (kind, (width,), names or (CONLL2003_NAMES if docstart else ()), form, width - 1)
    kind, widths, names, form, last = layout
    return ColumnLayout(
        kind,
        separator,
        widths,
        form if token is None else _column(content.path, "token_column", token, names, min(widths)),
        last if tag is None else _column(content.path, "tag_column", tag, names, min(widths)),
        names,
    )


def _head(content: Content) -> tuple[list[str], tuple[str, ...]]:
    """The first hundred token lines, and the names of the columns where the file gives them."""
    head = content.text[:200_000].split("\n")[: -1 if len(content.text) > 200_000 else None]
    names: tuple[str, ...] = ()
    lines: list[str] = []
    for line in head:
        if line.startswith(GLOBAL_COLUMNS):
            names = tuple(line[len(GLOBAL_COLUMNS) :].split())
        elif line.strip() and not line.startswith(("# ", "-DOCSTART-", "#\t")) and len(lines) < 100:
            lines.append(line)
    if not lines:
        raise DataError(f"{content.path}: there are only comments and empty lines; one token a line is needed")
    return lines, names


def _counts_up(cells: Sequence[Sequence[str]]) -> bool:
    """Whether the first cells count the tokens of a sentence, as the first two lines show."""
    return cells[0][0] == "1" and (len(cells) == 1 or cells[1][0] in ("1", "2"))


def _column(path: str, option: str, wanted: int | str, names: Sequence[str], width: int) -> int:
    """A column asked for by number (from 1, or negative from the end) or by name, counted from 0."""
    if isinstance(wanted, str):
        folded = [name.lower() for name in names]
        if wanted.lower() in folded:
            return folded.index(wanted.lower())
        known = f"legal are {', '.join(names)}, or a" if names else "its columns have no names; give a"
        raise DataError(f"{path}: there is no column {wanted!r} ({option}); {known} number from 1 to {width}")
    if wanted == 0 or not -width <= wanted <= width:
        raise DataError(
            f"{path}: there is no column {wanted} ({option}); the file has {width} columns, counted from 1 "
            "(or from -1, the last)"
        )
    return wanted - 1 if wanted > 0 else width + wanted


def render_columns(
    kind: str,
    sentences: Sequence[tuple[Sequence[str], Sequence[Tag], str | None]],
    *,
    separator: str = "\t",
    tag_column: str = "UPOS",
    unannotated: str = "_",
) -> str:
    """(tokens, tags, text) of each sentence as a column file; None is written as the unannotated tag."""
    blocks = []
    cell = {name: place for place, name in enumerate(CONLLU_NAMES)}
    if kind == "conllu" and tag_column not in ("UPOS", "XPOS", "FEATS"):
        raise DataError(f"tag_column {tag_column!r} cannot be written to CoNLL-U; legal are UPOS, XPOS, FEATS")
    for tokens, tags, text in sentences:
        lines = [f"# text = {text}"] if kind != "conll" and text is not None and "\n" not in text else []
        for index, (token, tag) in enumerate(zip(tokens, tags, strict=True), start=1):
            breaking = ("\n", "\r", "\t", separator) if separator == " " else ("\n", "\r", separator)
            if not token or any(sign in token for sign in breaking):
                raise DataError(
                    f"token {token!r} cannot be written to columns, which it would break; write JSONL instead"
                )
            written = unannotated if tag is None else tag
            if kind == "conllu":
                row = ["_"] * 10
                row[0], row[1], row[cell[tag_column]] = str(index), token, written
            else:
                row = [token, written] if kind == "conll" else [str(index), token, written, "-", "-"]
            lines.append(separator.join(row))
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks) + ("\n" if blocks else "")


def sources(path: str, rows: Rows) -> list[str]:
    """``file:line`` of each sentence's first token."""
    name = Path(path).name
    out = []
    place = 0
    for tokens in rows.tokens:
        out.append(f"{name}:{rows.numbers[place]}")
        place += len(tokens)
    return out


def default_labels(kind: str, stray: Mapping[str, str | None]) -> Mapping[str, str | None]:
    """The label mapping of a format when none is given: UNER files carry OTH, which its benchmark leaves out."""
    return {**stray, "OTH": "O"} if kind == "iob2" else stray
