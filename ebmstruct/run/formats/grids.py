"""Grids of pixels in .npz files: unary energies, weights of neighbours, Potts or one table for all pairs."""

from __future__ import annotations

import hashlib
import io
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch

from ebmstruct.errors import DataError
from ebmstruct.graph import Discrete, FactorGraph, GridFactor, TableFactor, Variables, potts_table
from ebmstruct.run.formats.model import Model, only_instance
from ebmstruct.run.formats.source import FREE_BYTES, MAX_RATIO, open_file
from ebmstruct.storage import write_bytes

MAX_ENTRIES = 1 << 27
"""No array may have more entries; in float64 that is a gigabyte."""
EXACT = 1 << 24
"""float32 holds whole numbers up to this one exactly."""

_POTTS = ("wh", "wv")
_TABLE = ("w_right", "w_down", "V")


def read_grid(path: Path | str) -> Model:
    """A grid model: E(y) = sum of unary[r, c, y] + w [y != y'] over neighbours (Potts), or + w V[y, y'].

    unary: (H, W, K).  Potts: wh (H, W - 1), wv (H - 1, W).  Table: w_right, w_down (both (H, W); what has no neighbour
    is not used) or of the Potts shapes, and V (K, K). Other arrays in the file are not looked at.
    Sites are the pixels row after row, block ``y``. The numbers are float32 where all are whole and small enough
    that every energy of a pair is exact in it, else float64. An infinite unary energy forbids.
    Errors: DataError with file, array, entry and fault. Nothing is unpickled, and an array is loaded only after its
    header has been held against its size.
    """
    path = Path(path)
    with open_file(path) as file:
        arrays = _arrays(path, file)
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    grid = _checked(path, arrays)
    height, width, states = grid.unary.shape
    exact = grid.exact
    kind = torch.float32 if exact else torch.float64

    def tensor(values: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.array(values, dtype=np.float32 if exact else np.float64, order="C"))

    right, down = np.zeros((height, width)), np.zeros((height, width))
    right[:, : width - 1] = grid.right
    down[: height - 1] = grid.down
    block = Variables.of_lengths("y", Discrete(states), [height * width])
    table = potts_table(states, kind) if grid.table is None else tensor(grid.table)
    factor = GridFactor(
        ("y",), "grid", table, tensor(right).reshape(-1), tensor(down).reshape(-1), torch.tensor([width])
    )
    unary = TableFactor(("y",), "unary", tensor(grid.unary).reshape(height * width, states))
    return Model(FactorGraph([block], [unary, factor]), "grid", path=path, sha256=digest)


@dataclass(frozen=True, eq=False)
class _Grid:
    """unary (H, W, K), right (H, W - 1), down (H - 1, W), table (K, K) or None for Potts."""

    unary: np.ndarray
    right: np.ndarray
    down: np.ndarray
    table: np.ndarray | None

    @property
    def exact(self) -> bool:
        """Whether float32 holds every unary and every weight times table entry exactly."""
        parts = [self.unary, self.right, self.down, *([] if self.table is None else [self.table])]
        if not all(p.dtype.kind in "iub" or bool((np.isinf(p) | (p == np.rint(p))).all()) for p in parts):
            return False
        unary, right, down, *table = (_largest(p) for p in parts)
        return max(unary, max(right, down) * max([1.0, *table])) <= EXACT


def _largest(values: np.ndarray) -> float:
    """The largest finite size of an entry."""
    if not values.size:
        return 0.0
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    return max(abs(float(values.max())), abs(float(values.min()))) if values.size else 0.0


def _checked(path: Path, arrays: dict[str, np.ndarray]) -> _Grid:
    """The arrays, whose shapes fit and whose numbers are legal; weights cut to the pairs that exist."""
    unary = arrays["unary"]
    if unary.ndim != 3 or 0 in unary.shape:
        raise DataError(f"{path}: unary has shape {unary.shape}; (height, width, states) is needed, none of them 0")
    height, width, states = unary.shape
    names = _POTTS if "wh" in arrays else _TABLE
    table = arrays.get("V")
    right, down = arrays[names[0]], arrays[names[1]]
    shapes = {names[0]: (height, width - 1), names[1]: (height - 1, width)}
    for name in names[:2]:
        whole = names is _TABLE and arrays[name].shape == (height, width)
        if arrays[name].shape != shapes[name] and not whole:
            raise DataError(
                f"{path}: {name} has shape {arrays[name].shape}; beside unary of {unary.shape}, {shapes[name]} is needed"
            )
    if table is not None and table.shape != (states, states):
        raise DataError(
            f"{path}: V has shape {table.shape}; beside unary of {unary.shape}, {(states, states)} is needed"
        )
    for name in ("unary", *names):
        _check_numbers(path, name, arrays[name])
    return _Grid(unary, right[:, : width - 1], down[: height - 1], table)


def _check_numbers(path: Path, name: str, values: np.ndarray) -> None:
    if values.dtype.kind != "f":
        return
    wrong = ~np.isfinite(values) if name != "unary" else np.isnan(values) | np.isneginf(values)
    if wrong.any():
        where = tuple(int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape))
        legal = "finite numbers" if name != "unary" else "finite numbers, or inf to forbid"
        raise DataError(f"{path}: {name}[{', '.join(map(str, where))}] is {values[where]}; legal are {legal}")


def _arrays(path: Path, file: io.BufferedReader) -> dict[str, np.ndarray]:
    """The arrays that make a grid, each loaded only when its header fits its size."""
    try:
        with zipfile.ZipFile(file) as archive:
            there = {i.filename.removesuffix(".npy"): i for i in archive.infolist()}
            if "unary" not in there:
                raise DataError(f"{path}: has no array unary; there: {', '.join(sorted(there)[:8]) or 'nothing'}")
            names = _POTTS if "wh" in there else _TABLE
            for name in names:
                if name not in there:
                    raise DataError(f"{path}: has no array {name}; a grid has unary and wh, wv, or w_right, w_down, V")
            out = {"unary": _array(path, "unary", archive, there["unary"], MAX_ENTRIES)}
            states = out["unary"].shape[-1] if out["unary"].ndim else 0
            most = min(MAX_ENTRIES, max(out["unary"].size, states**2))
            return out | {name: _array(path, name, archive, there[name], most) for name in names}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise DataError(f"{path}: is damaged, or is no .npz file ({_said(error)})") from None


def _said(error: Exception) -> str:
    """A library's message on one short line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 100 else text[:100] + "..."


def _array(path: Path, name: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int) -> np.ndarray:
    """An array of at most ``most`` entries."""
    with archive.open(member) as stream:
        shape, fortran, dtype = _header(path, name, stream)
        if dtype.kind not in "iufb" or dtype.itemsize > 8:
            kind = "pickled objects, which are never loaded" if dtype.hasobject else f"{dtype}"[:60]
            raise DataError(f"{path}: {name} holds {kind}; a grid holds whole or floating-point numbers")
        entries = 1
        for length in shape:
            entries *= length
        if entries > most or min(shape, default=0) < 0:
            raise DataError(f"{path}: {name} promises the shape {str(shape)[:80]}, which is beyond {most:,} entries")
        size = entries * dtype.itemsize
        if size > max(FREE_BYTES, MAX_RATIO * member.compress_size) and name == "unary":
            raise DataError(f"{path}: {name} unpacks to more than {MAX_RATIO} times its size, which no real grid does")
        data = stream.read(size)
        if len(data) < size or stream.read(1):
            have = f"{len(data):,}" if len(data) < size else "more"
            raise DataError(f"{path}: {name} needs {size:,} bytes for shape {shape}; it has {have}")
    values = np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran else "C")
    return values.astype(np.float64) if dtype.kind == "f" and dtype.itemsize == 2 else values


def _header(path: Path, name: str, stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, whether columns come first, and type. Only version 1.0 is read, whose header is under 64 KiB."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of headers that Python 2 wrote
            version = np.lib.format.read_magic(stream)
            if version != (1, 0):
                raise ValueError(f"its format has version {version}; 1.0 is read")
            header: tuple[tuple[int, ...], bool, np.dtype] = np.lib.format.read_array_header_1_0(stream)
            return header
    except Exception as error:  # numpy evaluates and tokenises the text of the header, which fails in many ways
        raise DataError(f"{path}: {name} is no array of numpy ({_said(error)})") from None


def write_grid(path: Path | str, model: Model) -> None:
    """Replace a file by a grid model as .npz: whole numbers as integers, others as float64.

    The graph has one table for each site and one GridFactor; its Potts table is written as ``wh`` and ``wv``, any other
    as ``w_right``, ``w_down`` and ``V``. Errors: DataError for other graphs.
    """
    path = Path(path)
    graph = model.graph
    only_instance(graph, path)
    tables = [f for f in graph.factors if isinstance(f, TableFactor) and f.arity == 1 and f.index is None]
    grids = [f for f in graph.factors if isinstance(f, GridFactor)]
    if len(grids) != 1 or len(tables) + 1 != len(graph.factors) or any(t.starts is not None for t in tables):
        raise DataError(f"{path}: .npz holds one grid and tables over single sites; the graph is {graph}")
    (grid,), block = grids, graph.variables[grids[0].scope[0]]
    if graph.constant is not None and bool(graph.constant.any()):
        raise DataError(f"{path}: the graph has a constant energy of {float(graph.constant):.6g}; .npz cannot hold it")
    width, states = int(grid.widths[0]), block.discrete.largest
    height = block.num_sites // width
    unary = torch.zeros(block.num_sites, states, dtype=torch.float64)
    for factor in tables:
        unary = unary + factor.tables.detach().double()
    right, down = (w.detach().double().reshape(height, width).numpy() for w in (grid.right, grid.down))
    arrays = {"unary": unary.reshape(height, width, states).numpy()}
    if torch.equal(grid.table.double(), potts_table(states, torch.float64)):
        arrays |= {"wh": right[:, : width - 1], "wv": down[: height - 1]}
    else:
        arrays |= {"w_right": right, "w_down": down, "V": grid.table.detach().double().numpy()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: _smallest(values) for name, values in arrays.items()})  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())


def _smallest(values: np.ndarray) -> np.ndarray:
    whole = bool(np.isfinite(values).all()) and bool((values == np.rint(values)).all())
    return values.astype(np.int32) if whole and _largest(values) < 1 << 31 else values
