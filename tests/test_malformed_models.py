"""Malformed model files: one line with file, place and fault, code 2, in bounded memory."""

from __future__ import annotations

import gzip
import io
import os
import random
import re
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from ebmstruct.cli import main
from ebmstruct.errors import DataError
from ebmstruct.run.formats import read_evidence, read_model, source

UAI = "MARKOV\n3\n2 2 3\n2\n1 0\n2 1 2\n\n2\n 0.5 1.5\n\n6\n 1 2 3\n 4 5 6\n"
BIF = """network unknown {
}
variable A { type discrete [ 2 ] { a0, a1 }; }
variable B { type discrete [ 2 ] { b0, b1 }; }
probability ( A ) { table 0.2, 0.8; }
probability ( B | A ) {
  (a0) 0.1, 0.9;
  (a1) 0.3, 0.7;
}
"""
GRID = {"unary": np.arange(12).reshape(2, 3, 2), "wh": np.ones((2, 2)), "wv": np.ones((1, 3))}


def fault(path: Path, *arguments: str) -> str:
    """The one line that reading the file gives, without the folder."""
    with pytest.raises(DataError) as caught:
        read_model(path)
    said = str(caught.value)
    assert "\n" not in said and said.startswith(str(path)), said
    assert said.isprintable(), said
    return said.removeprefix(str(path))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("MARKOV", "MARKOW", ":1: begins with 'MARKOW'; a UAI file begins with MARKOV or BAYES"),
        ("MARKOV\n3", "MARKOV\n-3", ":2: number 1 is -3: a number in a UAI file is finite and not negative"),
        ("MARKOV\n3", "MARKOV\n3.5", ":2: number 1 is 3.5: the number of variables belongs here"),
        ("MARKOV\n3", "MARKOV\n4000000000", ":2: number 1 is 4000000000: promises 4,000,000,000 variables, but only"),
        ("MARKOV\n3", "MARKOV\n1e300", ":2: number 1 is 1e300: promises"),
        ("2 2 3", "2 0 3", ":3: number 3 is 0: variable 1 needs a whole number of states, at least 1"),
        ("2 2 3", "2 2 3.5", ":3: number 4 is 3.5: variable 2 needs a whole number of states"),
        ("2 2 3", "2 2 3000000000", ":3: number 4 is 3000000000: variable 2 needs"),
        ("2 2 3", "2 2 2000000000", ":11: number 14 is 6: table 1 has 2 x 2000000000 = 4,000,000,000 entries"),
        ("\n2\n1 0", "\n1000000\n1 0", ":4: number 5 is 1000000: promises 1,000,000 tables, but only"),
        ("1 0\n", "1 3\n", ":5: number 7 is 3: table 0 needs variables from 0 to 2"),
        ("1 0\n", "1 0.5\n", ":5: number 7 is 0.5: table 0 needs variables from 0 to 2"),
        ("1 0\n", "4 0\n", ":5: number 6 is 4: table 0 cannot have so many variables; the model has 3"),
        ("2 1 2\n", "2 1 1\n", ":6: number 10 is 1: table 1 names this variable twice"),
        ("\n2\n 0.5", "\n3\n 0.5", ":8: number 11 is 3: table 0 has 2 = 2 entries, and says so first"),
        ("0.5", "-0.5", ":9: number 12 is -0.5: a number in a UAI file is finite and not negative"),
        ("0.5", "nan", ":9: number 12 is nan: a number in a UAI file is finite and not negative"),
        ("0.5", "inf", ":9: number 12 is inf: a number in a UAI file is finite and not negative"),
        ("0.5", "1e999", ":9: number 12 is 1e999: a number in a UAI file is finite and not negative"),
        ("0.5", "half", ":9: 'half' where number 12 belongs"),
        ("0.5", "0,5", ":9: '0,5' where number 12 belongs"),
        ("0.5", "1_0", ":9: '1_0' where number 12 belongs"),
        (" 4 5 6\n", " 4 5 6\n\n7 8", ":15: number 21 is 7: 2 numbers follow the last table"),
        (
            " 4 5 6\n",
            " 4 5\n",
            ":13: the file ends here, after 19 numbers; table 1 needs 6 entries and has 5, of 2 tables",
        ),
        (" 1 2 3\n 4 5 6\n", "", ":11: the file ends here, after 14 numbers; table 1 needs 6 entries and has 0"),
        (UAI[UAI.index("\n\n2") :], "", ":4: number 5 is 2: promises 2 tables, but only 5 numbers follow"),
        (UAI[UAI.index("\n2 1 2") :], "", ":4: number 5 is 2: promises 2 tables, but only 2 numbers follow"),
        (
            UAI[UAI.index("\n2\n1 0") :],
            "",
            ":3: the file ends here, after 4 numbers; the number of tables belongs here",
        ),
        (UAI[UAI.index("\n3") :], "", ":1: the file ends here; the number of variables belongs next"),
    ],
)
def test_uai_faults(tmp_path: Path, old: str, new: str, said: str) -> None:
    """Each fault of a UAI file is told with its line, the number of the token, and what belongs there."""
    assert old in UAI
    path = tmp_path / "m.uai"
    path.write_text(UAI.replace(old, new, 1))
    assert said in fault(path)
    (tmp_path / "m.uai.gz").write_bytes(gzip.compress(UAI.replace(old, new, 1).encode()))
    assert said in fault(tmp_path / "m.uai.gz")


def test_uai_overflow(tmp_path: Path) -> None:
    """A table over a thousand variables promises more entries than any number can count."""
    n = 2000
    scope = " ".join(map(str, range(n)))
    (tmp_path / "m.uai").write_text(f"MARKOV {n}\n{'9 ' * n}\n1\n{n} {scope}\n3 1 2 3")
    assert "table 0 has 9 x 9 x 9" in fault(tmp_path / "m.uai") and "= inf entries" in fault(tmp_path / "m.uai")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("variable A", "variabel A", ":3: 'variabel' where 'network', 'variable' or 'probability' belongs"),
        ("variable B", "variable A", ":4: variable 'A' is declared twice"),
        ("discrete [ 2 ] { a0", "continuous [ 2 ] { a0", ":3: variable 'A' is of type 'continuous'; only 'discrete'"),
        ("[ 2 ] { a0", "[ 3 ] { a0", ":3: variable 'A' promises '3' states and lists 2"),
        ("[ 2 ] { a0, a1 }", "[ 0 ] { }", ":3: variable 'A' promises '0' states and lists 0"),
        ("a0, a1 }", "a0, a0 }", ":3: state 'a0' of variable 'A' is listed twice"),
        ("type discrete [ 2 ] { a0, a1 };", "", ":3: variable 'A' has no type"),
        ("( A ) {", "( C ) {", ":5: variable 'C' is not declared before its use"),
        ("B | A", "B | B", ":6: the table of 'B' names a variable twice"),
        ("B | A", "A | B", ":6: variable 'A' has two probability tables"),
        ("0.2, 0.8", "0.2", ":5: 1 numbers for 'A' where 2 belong"),
        ("0.2, 0.8", "", ":5: 0 numbers for 'A' where 2 belong"),
        ("0.2, 0.8", "0.2, 0.8, 0.1", ":5: 3 numbers for 'A' where 2 belong"),
        ("0.2, 0.8", "-0.2, 0.8", ":5: '-0.2' is no probability"),
        ("0.2, 0.8", "nan, 0.8", ":5: 'nan' is no probability"),
        ("0.2, 0.8", "inf, 0.8", ":5: 'inf' is no probability"),
        ("0.2, 0.8", "0.2, much", ":5: 'much' is no probability"),
        ("(a0)", "(b0)", ":7: 'b0' is no state of 'A'; there: a0, a1"),
        ("(a0)", "(a0, a1)", ":7: 'a1' is a state too many; 'B' has 1 parents"),
        ("(a0)", "()", ":7: a row names 0 states; 'B' has 1 parents"),
        ("(a0)", "(a1)", ":8: a second row for the same states of the parents of 'B'"),
        ("  (a1) 0.3, 0.7;\n", "", ":8: the table of 'B' has 1 of 2 rows, and no 'default'"),
        ("probability ( A ) { table 0.2, 0.8; }\n", "", ": variable 'A' has no probability table"),
        ("0.7;\n}\n", "0.7;\n", ":8: the file ends here; an entry or '}' belongs next"),
        ("0.7;\n}\n", "0.7", ":8: the file ends before the ';' of these numbers"),
        ("table 0.2", '"table 0.2', ":5: '\"table 0.2, 0.8; }\\nproba...' where an entry or '}' belongs"),
        (BIF[BIF.index("variable A") :], "", ": declares no variable"),
    ],
)
def test_bif_faults(tmp_path: Path, old: str, new: str, said: str) -> None:
    """Each fault of a BIF file is told with its line and what belongs there."""
    assert old in BIF
    path = tmp_path / "m.bif"
    path.write_text(BIF.replace(old, new, 1))
    assert said in fault(path)


def test_bif_promises(tmp_path: Path) -> None:
    """A table of 10 ** 12 entries from a ``default`` is refused before it is made."""
    states = ", ".join(f"s{i}" for i in range(1000))
    names = [f"V{i}" for i in range(4)]
    text = "".join(f"variable {n} {{ type discrete [ 1000 ] {{ {states} }}; }}\n" for n in names)
    row = ", ".join(["0.001"] * 1000)
    text += f"probability ( V0 | V1, V2, V3 ) {{ default {row}; }}\n"
    (tmp_path / "m.bif").write_text(text)
    assert "would have 1,000,000,000 rows of 1000, more than can be held" in fault(tmp_path / "m.bif")


def npy(header: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    """An array's file with any header."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2 if version[0] == 1 else 4, "little") + text + data


def archive(path: Path, **members: bytes) -> Path:
    """An .npz of raw members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name + ".npy", data)
    return path


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"unary": np.ones((2, 6))}, "unary has shape (2, 6); (height, width, states) is needed"),
        ({"unary": np.ones((2, 0, 2))}, "unary has shape (2, 0, 2); (height, width, states) is needed"),
        ({"unary": np.ones((2, 3, 2), complex)}, "unary holds complex128; a grid holds whole or floating-point"),
        ({"unary": np.array([[["a", "b"]]])}, "unary holds <U1; a grid holds"),
        ({"unary": np.full((2, 3, 2), np.nan)}, "unary[0, 0, 0] is nan; legal are finite numbers, or inf to forbid"),
        ({"unary": np.full((2, 3, 2), -np.inf)}, "unary[0, 0, 0] is -inf; legal are finite numbers"),
        ({"wh": np.ones((2, 3))}, "wh has shape (2, 3); beside unary of (2, 3, 2), (2, 2) is needed"),
        ({"wv": np.ones((2, 3))}, "wv has shape (2, 3); beside unary of (2, 3, 2), (1, 3) is needed"),
        ({"wh": np.array([[1.0, np.inf], [1.0, 1.0]])}, "wh[0, 1] is inf; legal are finite numbers"),
        ({"wh": np.array([[1.0, np.nan], [1.0, 1.0]])}, "wh[0, 1] is nan; legal are finite numbers"),
        ({"wh": None}, "has no array w_right; a grid has unary and wh, wv, or w_right, w_down, V"),
        ({"wv": None}, "has no array wv; a grid has"),
        ({"unary": None}, "has no array unary; there: wh, wv"),
        (
            {"wh": None, "w_right": np.ones((2, 2)), "w_down": np.ones((1, 3)), "V": np.ones((3, 3))},
            "V has shape (3, 3)",
        ),
    ],
)
def test_grid_faults(tmp_path: Path, changed: dict[str, np.ndarray | None], said: str) -> None:
    """Each fault of a grid is told with the array, the entry and what is legal."""
    arrays = {name: values for name, values in {**GRID, **changed}.items() if values is not None}
    np.savez(tmp_path / "g.npz", **arrays)  # type: ignore[arg-type]
    assert fault(tmp_path / "g.npz").startswith(f": {said}")


def test_grids_are_never_unpickled(tmp_path: Path) -> None:
    """An array of objects is refused by its header; nothing in it runs."""
    objects = np.empty((2, 3, 2), dtype=object)
    np.savez(tmp_path / "g.npz", **{**GRID, "unary": objects})  # type: ignore[arg-type]
    assert fault(tmp_path / "g.npz") == (
        ": unary holds pickled objects, which are never loaded; a grid holds whole or floating-point numbers"
    )


@pytest.mark.parametrize(
    ("member", "said"),
    [
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (100000, 100000, 2)}"), "promises the shape"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-2, 3, 2)}"), "promises the shape"),
        (npy(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({'9' * 3000},)}}"), "promises the shape"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3, 2)}", b"\0" * 95), "needs 96 bytes"),
        (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3, 2)}", b"\0" * 97), "has more"),
        (npy("{'descr': '|O', 'fortran_order': False, 'shape': (1, 1, 1)}", b"cos\nsystem\n."), "never loaded"),
        (npy("(" * 9000), "is no array of numpy"),
        (npy("[" * 9000 + "]" * 9000), "is no array of numpy"),
        (npy("{'descr': '<f8'}"), "is no array of numpy"),
        (npy("nonsense("), "is no array of numpy"),
        (npy("{}", version=b"\x02\x00"), "has version (2, 0)"),
        (b"garbage", "is no array of numpy"),
        (b"", "is no array of numpy"),
    ],
)
def test_grid_headers(tmp_path: Path, member: bytes, said: str) -> None:
    """What an array's header promises is held against what is there before anything of that size is made."""
    parts = {}
    for name in ("wh", "wv"):
        buffer = io.BytesIO()
        np.save(buffer, GRID[name])
        parts[name] = buffer.getvalue()
    assert said in fault(archive(tmp_path / "g.npz", unary=member, **parts))


def test_damaged_grids(tmp_path: Path) -> None:
    """Truncated archives, wrong check sums and plain garbage are told as damage."""
    np.savez(tmp_path / "g.npz", **GRID)  # type: ignore[arg-type]
    whole = (tmp_path / "g.npz").read_bytes()
    for data in (whole[:200], whole[:100] + b"xxxx" + whole[104:], b"PK\x03\x04" + b"\xff" * 99, b"MARKOV 0 0"):
        (tmp_path / "h.npz").write_bytes(data)
        assert "damaged" in fault(tmp_path / "h.npz") or "no array" in fault(tmp_path / "h.npz")


def test_what_is_no_file(tmp_path: Path) -> None:
    """A folder, no such file, an empty file, a pipe, garbage: each its own sentence, in every format."""
    (tmp_path / "pipe.uai").unlink(missing_ok=True)
    os.mkfifo(tmp_path / "pipe.uai")
    assert fault(tmp_path / "pipe.uai") == ": is not a regular file; save it as one first"
    for suffix in (".uai", ".uai.gz", ".bif", ".npz", ""):
        path = tmp_path / f"m{suffix}"
        assert fault(path) == ": no such file"
        path.write_bytes(b"")
        assert fault(path) == ": is empty"
        path.unlink()
        path.mkdir()
        assert fault(path) == ": is a folder, not a model file"
        path.rmdir()
        path.write_bytes(bytes(range(255, -1, -1)) * 8)
        assert fault(path).startswith((":1: ", ":2: ", ": is damaged"))
        path.unlink()
    for data in (gzip.compress(b""), b" \n\t "):
        (tmp_path / "m.uai").write_bytes(data)
        assert fault(tmp_path / "m.uai") == ": is empty"
    (tmp_path / "m").write_text("graph { a -- b }")
    assert fault(tmp_path / "m").startswith(":1: begins with 'graph { a --'; a model is a .uai")
    (tmp_path / "m.uai").write_bytes(UAI.encode() + b"\0\0")
    assert fault(tmp_path / "m.uai") == ":14: holds a zero byte, so it is not text"
    (tmp_path / "m.bif").write_bytes(BIF.encode() + b"\xff")
    assert fault(tmp_path / "m.bif") == ":10: is not UTF-8 text (byte 0xff)"


def test_damaged_packing(tmp_path: Path) -> None:
    """Packed files that break off or were changed are told as damaged."""
    packed = gzip.compress(UAI.encode() * 50)
    for data in (packed[:-20], packed[: len(packed) // 2], packed[:-6] + b"abcdef", packed + b"tail", packed[:12]):
        (tmp_path / "m.uai.gz").write_bytes(data)
        assert fault(tmp_path / "m.uai.gz").startswith(": is damaged: its gzip data break off")


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files beyond the limit, packed or not, and files that grow without measure are refused as they are read."""
    monkeypatch.setattr(source, "FREE_BYTES", 10_000)
    (tmp_path / "m.uai.gz").write_bytes(gzip.compress(UAI.encode() + b" " * 1_000_000))
    assert "unpacks to more than 200 times its" in fault(tmp_path / "m.uai.gz")
    with pytest.raises(DataError, match="has more than 100 bytes, the most that a model file may have"):
        (tmp_path / "n.uai.gz").write_bytes(gzip.compress(os.urandom(200)))
        source.read_source(tmp_path / "n.uai.gz", limit=100)
    monkeypatch.setattr(source, "MAX_BYTES", 50)
    (tmp_path / "m.uai").write_text(UAI)
    assert f"has {len(UAI)} bytes; a model file may have 50" in fault(tmp_path / "m.uai")


BOMBS = """
import gzip, sys, zipfile
from pathlib import Path
def bomb(path, head, piece, times):
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(head)
        for _ in range(times):
            file.write(piece)
bomb("a.uai.gz", b"MARKOV\\n", b"1 " * (1 << 19), 300)
bomb("b.uai.gz", b"", b"\\0" * (1 << 20), 300)
bomb("c.bif.gz", b"network unknown {", b" " * (1 << 20), 300)
Path("d.uai").write_text("MARKOV 2\\n100000 100000\\n1\\n2 0 1\\n10000000000 1 2 3")
head = b"\\x93NUMPY\\x01\\x00" + (78).to_bytes(2, "little")
head += b"{'descr': '|i1', 'fortran_order': False, 'shape': (1000, 100, 1000)}".ljust(77) + b"\\n"
with zipfile.ZipFile("e.npz", "w", zipfile.ZIP_DEFLATED) as archive:
    with archive.open("unary.npy", "w", force_zip64=True) as file:
        file.write(head)
        for _ in range(100):
            file.write(b"\\0" * 1000000)
    for name in ("wh", "wv"):
        archive.writestr(name + ".npy", b"")
"""


def test_bounded_memory(tmp_path: Path) -> None:
    """Bombs of 300 MB and more, and promises of 10 GB, end with code 2, and take under 250 MB of memory."""
    subprocess.run([sys.executable, "-c", BOMBS], cwd=tmp_path, check=True)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    code = "import resource, sys\nimport ebmstruct.run.solving\nfrom ebmstruct.cli import main\n"
    code += "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
    code += "for name in sys.argv[1:]:\n"
    code += "    code = main(['solve', name, '--quiet'])\n"
    code += "    print(code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    names = ["a.uai.gz", "b.uai.gz", "c.bif.gz", "d.uai", "e.npz"]
    found = subprocess.run(
        [sys.executable, "-c", code, *names], cwd=tmp_path, capture_output=True, text=True, check=True, env=environment
    )
    for name, out, err in zip(names, found.stdout.splitlines(), found.stderr.splitlines(), strict=True):
        exit_code, kilobytes = map(int, out.split())
        assert exit_code == 2 and kilobytes < 250_000, (name, out)
        assert err.startswith(f"ebmstruct: {name}"), err


def test_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command says the line and ends with code 2."""
    (tmp_path / "m.uai").write_text(UAI.replace("0.5", "-1"))
    for command in (["solve"], ["explain"]):
        assert main([*command, str(tmp_path / "m.uai"), "--quiet"]) == 2
        out, err = capsys.readouterr()
        assert (
            out == ""
            and err.startswith(f"ebmstruct: {tmp_path / 'm.uai'}:9: number 12 is -1: ")
            and err.count("\n") == 1
        )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ": is empty"),
        ("2 0 1", ": holds 3 numbers, but 2 observations 'k v s v s ...' are 5, and '1 k v s ...' are 2"),
        ("1 0 x", ":1: 'x' is no number from 0"),
        ("1 0 -1", ":1: '-1' is no number from 0"),
        ("1\n0 1.5", ":2: '1.5' is no number from 0"),
        ("1\n3 0", ":2: variable 3 is observed; the model has 3, numbered from 0"),
        ("1 0\n2", ":2: variable 0 is observed in state 2; it has states 0 to 1"),
        ("2 0 1\n0 0", ":2: variable 0 is observed in states 1 and 0"),
        ("2 1 0 1 1 0 0", ": has 2 samples of evidence"),
        ("3 1 0 1", ": says that it has 3 samples; one is wanted"),
        ("A = a0", ":1: names variables, and the model has numbers only"),
        ("\0", ":1: holds a zero byte"),
        ("99999999999999999999999 1 2", ":1: '9999"),
    ],
)
def test_evidence_faults(tmp_path: Path, text: str, said: str) -> None:
    """Each fault of a file of evidence is told with its line."""
    (tmp_path / "m.uai").write_text(UAI)
    (tmp_path / "m.evid").write_text(text)
    with pytest.raises(DataError) as caught:
        read_evidence(tmp_path / "m.evid", read_model(tmp_path / "m.uai"))
    assert str(caught.value).startswith(str(tmp_path / "m.evid") + said)


PIECES = [
    "-1",
    "nan",
    "1e400",
    "9999999999",
    "x",
    "\0",
    "0",
    "",
    "1.5",
    "inf",
    "{",
    "}",
    ";",
    '"',
    "//",
    "\n",
    ",",
    "(",
    ")",
]


@pytest.mark.parametrize("name", ["m.uai", "m.bif", "m.uai.gz", "m.npz"])
def test_mutations(tmp_path: Path, name: str) -> None:
    """200 random changes of a good file: it loads, or ends in one line; nothing else ever happens."""
    rng = random.Random(sum(name.encode()))
    if name.endswith(".npz"):
        np.savez(tmp_path / name, **GRID)  # type: ignore[arg-type]
        good = (tmp_path / name).read_bytes()
    else:
        good = (BIF if "bif" in name else UAI).encode()
        good = gzip.compress(good, mtime=0) if name.endswith(".gz") else good
    refused = 0
    for _ in range(200):
        data = good
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(data) + 1)
            length = rng.choice([0, 1, 1, 2, 8])
            data = data[:at] + rng.choice(PIECES).encode() + data[at + length :]
            if rng.random() < 0.1:
                data = data[: rng.randrange(len(data) + 1)]
        (tmp_path / name).write_bytes(data)
        try:
            read_model(tmp_path / name)
        except DataError as error:
            refused += 1
            assert re.match(r".*/m\.\S+?: ?\S", str(error)) and "\n" not in str(error) and len(str(error)) < 600, error
    assert refused > 50


def test_few_resources_are_asked(tmp_path: Path) -> None:
    """A file that promises much is refused without delay: a thousand of them take under two seconds of CPU."""
    (tmp_path / "m.uai").write_text("MARKOV 100000\n" + "2 " * 1000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    for _ in range(1000):
        with pytest.raises(DataError):
            read_model(tmp_path / "m.uai")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_utime - before < 2.0
