"""A hundred odd or broken tables: each ends in an answer or in one clear sentence, and nothing is left half-written."""

from __future__ import annotations

import gzip
import random
from pathlib import Path

import pytest

from ebmstruct.cli import main

NUMBERS = random.Random(0)
GOOD = "a,b,c\n" + "".join(f"{i % 7},{NUMBERS.random():.3f},{'xyz'[i % 3]}\n" for i in range(60))


def _column(cells: list[str], other: bool = True) -> str:
    """A table of one column of interest, and a plain one beside it."""
    if not other:
        return "v\n" + "".join(f"{c}\n" for c in cells)
    return "v,w\n" + "".join(f"{c},{i % 5}\n" for i, c in enumerate(cells))


def _of(cells: str, times: int = 20) -> str:
    return _column(cells.split() * times)


ANSWERS: dict[str, str | bytes] = {
    "plain": GOOD,
    "semicolons": GOOD.replace(",", ";"),
    "tabs": GOOD.replace(",", "\t"),
    "bars": GOOD.replace(",", "|"),
    "crlf": GOOD.replace("\n", "\r\n"),
    "old mac line ends": GOOD.replace("\n", "\r"),
    "byte order mark": b"\xef\xbb\xbf" + GOOD.encode(),
    "gzip": gzip.compress(GOOD.encode()),
    "no end of the last line": GOOD.rstrip("\n"),
    "blank lines": GOOD.replace("\n", "\n\n"),
    "blanks around cells": GOOD.replace(",", " , "),
    "quoted cells": GOOD.replace(",x", ',"x, or more"'),
    "quoted line ends": GOOD.replace(",x", ',"x\nsecond line"'),
    "doubled quotes": GOOD.replace(",x", ',"the ""x"""'),
    "quoted names": GOOD.replace("a,b,c", '"a, first","b","c"'),
    "one column": _column([str(i % 9) for i in range(50)], other=False),
    "one column of categories": _column(list("abc") * 20, other=False),
    "two rows": "a,b\n1,x\n2,y\n",
    "three rows": "a,b\n1,x\n2,y\n3,x\n",
    "constant number": _of("5"),
    "constant category": _of("same"),
    "constant all": "a,b\n" + "1,x\n" * 30,
    "column all missing": _column([""] * 40),
    "all cells missing": "a,b\n" + ",\n" * 30,
    "all cells NA": "a,b\n" + "NA,?\n" * 30,
    "missing marks mixed": _of("1 NA ? nan 2 3"),
    "half missing": _of("1 NA 2 NA"),
    "one value, else missing": _column([""] * 39 + ["3"]),
    "truth values": _of("true false true"),
    "yes and no": _of("yes no no"),
    "zeros and ones": _of("0 1 1"),
    "dates": _column([f"2020-{1 + i % 12:02d}-{1 + i % 28:02d}" for i in range(60)]),
    "dates with times": _column([f"2020-01-{1 + i % 28:02d} 12:{i % 60:02d}:00" for i in range(60)]),
    "German dates": _column([f"{1 + i % 28:02d}.{1 + i % 12:02d}.2020" for i in range(60)]),
    "American dates": _column([f"{1 + i % 12:02d}/{1 + i % 28:02d}/2020" for i in range(60)]),
    "dates, some missing": _column([f"2020-01-{1 + i % 28:02d}" if i % 3 else "" for i in range(60)]),
    "dates before 1900": _column([f"18{10 + i % 80}-01-01" for i in range(60)]),
    "impossible dates": _of("2020-02-30 2020-02-31"),
    "huge integers": _column([str(10**17 + i * 10**13) for i in range(60)]),
    "integers beyond floats": _column([str(10**30 + i) for i in range(60)]),
    "tiny numbers": _column([f"{(i + 1) * 1e-300}" for i in range(60)]),
    "huge numbers": _column([f"{(i + 1) * 1e300}" for i in range(60)]),
    "exponents": _of("1e3 2.5E-2 3e0"),
    "infinities": _of("inf 1 2 -inf 3"),
    "all infinite": _of("inf"),
    "negative numbers": _of("-1 -2 3"),
    "plus signs": _of("+1 +2 3"),
    "minus zero": _of("-0 0 1"),
    "per cent": _of("10% 20.5% 3%"),
    "thousands": _column(['"1,000"', '"25,300"', '"1,234,567"'] * 20),
    "decimal commas": "v;w\n" + "".join(f"{i},{i % 10}5;x\n" for i in range(40)),
    "leading zeros": _of("001 002 010"),
    "hexadecimal": _of("0x1F 0x2A"),
    "underscores": _of("1_000 2_000"),
    "zero inflated": _column(["0"] * 50 + [str(i) for i in range(1, 30)]),
    "heavy tails": _column([str(10 ** (i % 9)) for i in range(60)]),
    "10,000 categories": _column([f"k{i}" for i in range(10000)] * 2 + ["k1"] * 1000),
    "two different cells": _of("a b"),
    "long text": _column([("word " * 300).strip(), "short"] * 20),
    "letters of all languages": _column(["Zürich", "香港", "Ελλάδα", "🙂"] * 10),
    "names with blanks and signs": GOOD.replace("a,b,c", "first name,b-2,c (%)"),
    "name of a Python word": GOOD.replace("a,b,c", "class,import,lambda"),
    "names that differ in case": GOOD.replace("a,b,c", "A,a,b"),
    "quote within a cell": _of("5'10\" 6'00\""),
    "many columns": ",".join(f"c{i}" for i in range(60)) + "\n" + "\n".join(
        ",".join(str((i * j) % 7) for j in range(60)) for i in range(40)
    ) + "\n",
    "comments as rows": _of("#1 #2"),
    "equal rows": "a,b\n" + "1,x\n" * 50,
    "two values of a number": _of("1.5 2.5"),
    "columns that are copies": "a,b\n" + "".join(f"{i},{i}\n" for i in range(60)),
    "columns that sum": "a,b,c\n" + "".join(f"{i % 7},{i % 5},{i % 7 + i % 5}\n" for i in range(60)),
}  # fmt: skip
"""Tables that are learned from."""

FAULTS: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "is empty"),
    "blank": ("\n\n  \n", "is empty"),
    "byte order mark only": (b"\xef\xbb\xbf", "is empty"),
    "header only": ("a,b,c\n", "no row"),
    "one row": ("a,b\n1,x\n", "has 1 row"),
    "latin-1": (GOOD.replace("z", "\xe9").encode("latin-1"), "is not utf-8"),
    "a bad byte late": (GOOD.encode() * 1 + b"1,2,\xff\n", "is not utf-8"),
    "UTF-16": (GOOD.encode("utf-16"), "UTF-16"),
    "UTF-32": (GOOD.encode("utf-32"), "U"),
    "binary": (bytes(range(256)) * 20, "NUL"),
    "NUL byte": (GOOD.replace("x", "\0", 1), "NUL"),
    "PNG": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(200), "NUL"),
    "zip": (b"PK\x03\x04\x14\0\0\0" + bytes(range(200)), "NUL"),
    "gzip cut short": (gzip.compress(GOOD.encode())[:-20], "damaged"),
    "gzip of noise": (b"\x1f\x8b" + bytes(range(100)), "damaged"),
    "gzip with a wrong sum": (gzip.compress(GOOD.encode())[:-8] + b"\1\2\3\4\5\6\7\x08", "damaged"),
    "gzip of nothing": (gzip.compress(b""), "is empty"),
    "a cell too few": (GOOD + "1,2\n", "line 62 has 2"),
    "a cell too many": (GOOD + "1,2,3,4\n", "line 62 has 4"),
    "ragged throughout": ("a,b,c\n" + "1,2\n1,2,3\n1\n" * 20, "40 of 60 rows"),
    "commas at the ends": (GOOD.replace("a,b,c", "a,b,c,"), "column 4 of 4 has no name"),
    "name missing": (GOOD.replace("a,b", ",b"), "has no name"),
    "name given twice": (GOOD.replace("a,b", "a,a"), "given twice"),
    "names of blanks": (GOOD.replace("a,b", "a,  "), "has no name"),
    "no names": ("1,2.5,x\n2,3.5,y\n" * 20, "looks like a row"),
    "quote never closed": (GOOD + '1,2,"x\n' + GOOD[6:], "never closed"),
    "text after a quote": (GOOD + '1,2,"x" y\n', "closing quote"),
    "huge cell": (GOOD + '1,2,"' + "x" * 200_000 + '"\n', "never closed"),
    "all texts differ": (_column([f"name {i}" for i in range(200)]), "different texts"),
    "a number mistyped": (_column([str(i) for i in range(100)] + ["1O"]), "holds numbers, but also '1O'"),
    "a sentence": ("This is no table at all but a letter.\n", "no row"),
}
"""Tables that are refused, with what the sentence says."""


def _run(tmp_path: Path, content: str | bytes, *options: str) -> int:
    path = tmp_path / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    task = tmp_path / "task.yaml"
    task.write_text(
        "task: {name: generative.table}\nenergy: {name: generative.table_mixture, passes: 3, clusters: 2}\n"
    )
    sets = [f"task.data={path}", "train.epochs=1", f"output={tmp_path / 'run'}", *options]
    return main(["--quiet", "run", str(task), *[part for s in sets for part in ("--set", s)]])


def test_there_are_a_hundred() -> None:
    """There are a hundred tables."""
    assert len(ANSWERS) + len(FAULTS) >= 100


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ANSWERS))
def test_odd_tables_are_learned(name: str, tmp_path: Path) -> None:
    """An odd table ends in a finished run."""
    assert _run(tmp_path, ANSWERS[name]) == 0
    assert (tmp_path / "run" / "run.json").is_file()


@pytest.mark.parametrize("name", list(FAULTS))
def test_broken_tables_are_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A broken table ends in one sentence and exit code 2, without a run folder."""
    content, said = FAULTS[name]
    assert _run(tmp_path, content) == 2
    error = capsys.readouterr().err.strip()
    assert said in error and len(error.splitlines()) == 1 and "Traceback" not in error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["table.csv", "task.yaml"]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("task.data=nowhere.csv", "no such file"),
        ("task.data=win", "did you mean wine"),
        ("task.types={b: categoricl}", "did you mean categorical"),
        ("task.types={d: real}", "no column 'd'"),
        ("task.drop=[a, b, c]", "leaves no column"),
        ("task.encoding=utf-9", "not known"),
        ("task.delimiter=two", "one character"),
        ("task.target=d", "no column 'd'"),
        ("task.range={c: [1, 2]}", "numbers or dates"),
        ("task.range={a: [2, 1]}", "least and the greatest"),
        ('task.rules=["a < d"]', "no column 'd'"),
        ('task.rules=["a <"]', "is needed here"),
        ("task.columns=[a, b]", "has 3 cells"),
        ("task.types={c: integer}", "holds numbers, but also"),
        ("task.dev_fraction=1.5", "fraction"),
    ],
)
def test_wrong_options_are_told(option: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An option that does not fit the table is told in a sentence, and nothing is written."""
    assert _run(tmp_path, GOOD, option) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
