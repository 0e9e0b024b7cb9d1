"""Results of ``ebmstruct solve`` as JSON: numbers without NaN or infinities, witnesses with checksums."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from ebmstruct.errors import DataError
from ebmstruct.inference.result import (
    Claim,
    EliminationOrder,
    QuadraticMinimum,
    Reparametrization,
    Several,
    SumOfSquares,
    Witness,
)
from ebmstruct.run.formats.packing import write_packed
from ebmstruct.run.formats.source import read_source

FORMAT = "ebmstruct.result/1"
MAX_BYTES = 256 << 20
"""The largest file of a result, unpacked."""

_TYPES = {"float64": "<f8", "int64": "<i8"}


def finite(value: float | Tensor) -> float | None:
    """A number as JSON holds it: None where it is infinite or NaN."""
    number = float(value) + 0.0  # no -0.0
    return number if math.isfinite(number) else None


def dumped(record: Mapping[str, Any]) -> str:
    """A record as one line of JSON."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False)


def write_result(path: Path, record: Mapping[str, Any]) -> None:
    """Replace a file by a record, with its format and a checksum of all that it says; gzip where the name ends in .gz."""
    whole = {"format": FORMAT, **record}
    write_packed(path, dumped({**whole, "checksum": checksum(whole)}) + "\n")


def read_result(path: Path | str) -> dict[str, Any]:
    """The record in a file, whose checksum fits; DataError says in a line why there is none."""
    path = Path(path)
    source = read_source(path, "result", MAX_BYTES)
    try:
        record = json.loads(source.text(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        said = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise DataError(f"{path}: is not JSON ({said})") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise DataError(f"{path}: is no result of 'ebmstruct solve -o' (its format is not {FORMAT!r})")
    if record.get("checksum") != checksum(record):
        raise DataError(f"{path}: was changed after it was written: its checksum does not fit")
    return record


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def checksum(record: Mapping[str, Any]) -> str:
    """The hash of everything that a record says, its own checksum excepted."""
    rest = {key: value for key, value in record.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def pack_tensor(tensor: Tensor) -> dict[str, Any]:
    """A tensor as JSON: little-endian float64 or int64 in base64, with shape and hash."""
    kind = "float64" if tensor.is_floating_point() else "int64"
    data = np.ascontiguousarray(tensor.detach().cpu().numpy(), dtype=_TYPES[kind]).tobytes()
    return {
        "dtype": kind,
        "shape": list(tensor.shape),
        "sha256": hashlib.sha256(data).hexdigest(),
        "data": base64.b64encode(data).decode(),
    }


def unpack_tensor(record: Any, what: str) -> Tensor:
    """The tensor in a record; DataError where its size, shape or hash does not fit. what: its name for messages."""
    if not isinstance(record, dict) or record.get("dtype") not in _TYPES or not isinstance(record.get("data"), str):
        raise DataError(f"{what} is no tensor with dtype (float64 or int64), shape, sha256 and data")
    shape = record.get("shape")
    if not isinstance(shape, list) or not all(type(s) is int and s >= 0 for s in shape) or len(shape) > 8:
        raise DataError(f"{what} has the shape {str(shape)[:60]}, which is none")
    try:
        data = base64.b64decode(record["data"], validate=True)
    except (binascii.Error, ValueError):
        raise DataError(f"{what} has data that are not base64") from None
    if len(data) != 8 * math.prod(shape):
        raise DataError(f"{what} has {len(data)} bytes of data; its shape {shape} needs {8 * math.prod(shape)}")
    if hashlib.sha256(data).hexdigest() != record.get("sha256"):
        raise DataError(f"{what} was changed: its checksum does not fit")
    values = np.frombuffer(data, dtype=_TYPES[record["dtype"]]).reshape(shape)
    return torch.from_numpy(values.astype(values.dtype.newbyteorder("="), copy=True))


def pack_witness(witness: Witness | None) -> dict[str, Any] | None:
    """A witness as JSON."""
    if witness is None:
        return None
    if isinstance(witness, Reparametrization):
        return {"type": "reparametrization", "kind": witness.kind, "messages": pack_tensor(witness.messages)}
    if isinstance(witness, EliminationOrder):
        return {"type": "elimination_order", "sites": pack_tensor(witness.sites)}
    if isinstance(witness, Several):
        return {"type": "several", "parts": [pack_witness(part) for part in witness.parts]}
    if isinstance(witness, SumOfSquares):
        return {"type": "sum_of_squares"}
    if isinstance(witness, QuadraticMinimum):
        return {"type": "quadratic_minimum"}
    return {"type": "claim", "by": witness.by}


def unpack_witness(record: Any, inside: bool = False) -> Witness | None:
    """The witness in a record; DataError where it is none. inside: whether it is part of another one."""
    if record is None and not inside:
        return None
    kind = record.get("type") if isinstance(record, dict) else None
    if kind == "reparametrization" and record.get("kind") in ("chain", "forest", "tables"):
        messages = unpack_tensor(record.get("messages"), "the witness's messages")
        if not messages.is_floating_point() or bool(messages.isnan().any()):
            raise DataError("the witness's messages are not all numbers in float64")
        return Reparametrization(record["kind"], messages)
    if kind == "elimination_order":
        sites = unpack_tensor(record.get("sites"), "the witness's order")
        if sites.is_floating_point() or sites.dim() != 1 or sites.unique().numel() < sites.numel():
            raise DataError("the witness's order is no list of different sites")
        return EliminationOrder(sites)
    if kind == "sum_of_squares":
        return SumOfSquares()
    if kind == "quadratic_minimum":
        return QuadraticMinimum()
    if kind == "claim" and isinstance(record.get("by"), str):
        return Claim(record["by"])
    if kind == "several" and isinstance(record.get("parts"), list) and not inside:
        parts = [unpack_witness(part, inside=True) for part in record["parts"]]
        return Several(tuple(p for p in parts if p is not None and not isinstance(p, Several)))
    raise DataError(f"the witness is of no known type: {str(kind)[:40]!r}")


def claims_of(witness: Witness | None) -> list[str]:
    """Who vouches in a witness without a record that could be re-checked."""
    if isinstance(witness, Several):
        return [name for part in witness.parts for name in claims_of(part)]
    return [witness.by] if isinstance(witness, Claim) else []
