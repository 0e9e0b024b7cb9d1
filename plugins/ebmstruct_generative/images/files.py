"""Picture files of every kind, idx files and NPZ arrays, read with one sentence for whatever is wrong with them."""

from __future__ import annotations

import gzip
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ebmstruct.errors import DataError, PluginError

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm")
"""Files that are taken for pictures, by the endings of their names."""
MOST_PIXELS = 50_000_000
_IDX: dict[int, np.dtype[Any]] = {
    8: np.dtype("u1"),
    9: np.dtype("i1"),
    11: np.dtype(">i2"),
    12: np.dtype(">i4"),
    13: np.dtype(">f4"),
    14: np.dtype(">f8"),
}
_IMAGE_KEYS = ("images", "x", "data", "pixels", "arr_0")
_LABEL_KEYS = ("labels", "y", "classes", "target", "arr_1")


def read_picture(path: Path, *, transparent: bool = False) -> np.ndarray:
    """(H, W) or (H, W, 3) bytes of a picture file, turned upright; a file with several has its first one read.

    16-bit pictures keep their upper eight bits, other depths and colour spaces are brought to grey or RGB, and what is
    transparent lies on white.  transparent: (H, W, 2) or (H, W, 4) with the opacity last instead.
    Errors: DataError, a sentence, where there is no such file, or it is no picture, is cut short or too large.
    """
    image_module = _pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with image_module.open(path) as file:
                if file.width * file.height > MOST_PIXELS:
                    raise DataError(f"{path}: {file.width} x {file.height} pixels are more than {MOST_PIXELS:,}")
                return _pixels(file, transparent)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; check the path") from None
    except image_module.DecompressionBombError:
        raise DataError(f"{path}: the picture has more than {MOST_PIXELS:,} pixels") from None
    except image_module.UnidentifiedImageError:
        raise DataError(f"{path}: is no picture that can be read; legal are {', '.join(ENDINGS)}") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, MemoryError, KeyError) as fault:
        raise DataError(f"{path}: the picture is damaged ({fault or type(fault).__name__}); fetch it again") from None


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise PluginError("pictures are read by pillow; pip install 'ebmstruct[generative]' brings it") from None
    return Image


def _pixels(file: Any, transparent: bool) -> np.ndarray:
    from PIL import ImageOps

    image = ImageOps.exif_transpose(file)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        whole = np.asarray(image.convert("LA" if image.mode in ("LA", "La") else "RGBA"))
        return whole if transparent else _on_white(whole)
    if image.mode == "F" or image.mode.startswith("I"):
        plain = _deep(np.nan_to_num(np.asarray(image, dtype=np.float64)), image.mode)
    else:
        plain = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    return np.dstack([plain, np.full(plain.shape[:2], 255, np.uint8)]) if transparent else plain


def _deep(raw: np.ndarray, mode: str) -> np.ndarray:
    """Bytes of grey in 16 or 32 bits, or in floating point from 0 to 1."""
    top = float(raw.max(initial=0))
    factor = 255.0 if mode == "F" and top <= 1 else 1.0 if top <= 255 and not mode.startswith("I;16") else 1 / 257
    return np.rint(np.clip(raw * factor, 0, 255)).astype(np.uint8)


def _on_white(whole: np.ndarray) -> np.ndarray:
    """(H, W) or (H, W, 3) of pictures with opacity."""
    opacity = whole[:, :, -1:].astype(np.float64) / 255
    out = np.rint(whole[:, :, :-1] * opacity + 255 * (1 - opacity)).astype(np.uint8)
    return out[:, :, 0] if out.shape[2] == 1 else out


def read_idx(path: Path) -> np.ndarray:
    """The array of an idx file (LeCun's MNIST format), gzip or plain. Errors: DataError, a sentence."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; check the path") from None
    except OSError as fault:
        raise DataError(f"{path}: cannot be read ({fault.strerror or fault})") from None
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as fault:
            raise DataError(f"{path}: the gzip file is damaged ({fault}); fetch or copy it again") from None
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _IDX or not raw[3]:
        raise DataError(f"{path}: is no idx file: it begins with {raw[:4].hex(' ') or 'nothing'}, not with 00 00 08 03")
    kind, dims = _IDX[raw[2]], raw[3]
    if len(raw) < 4 + 4 * dims:
        raise DataError(f"{path}: the idx file ends within its header")
    shape = struct.unpack(f">{dims}I", raw[4 : 4 + 4 * dims])
    wanted = kind.itemsize
    for length in shape:
        wanted *= length
    if len(raw) - 4 - 4 * dims != wanted:
        raise DataError(
            f"{path}: an idx file of shape {shape} holds {wanted:,} bytes of data, and this one "
            f"{len(raw) - 4 - 4 * dims:,}; fetch or copy it again"
        )
    return np.frombuffer(raw, kind, offset=4 + 4 * dims).reshape(shape)


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an NPZ file by name; nothing pickled is read. Errors: DataError, a sentence."""
    if not path.exists():
        raise DataError(f"{path}: there is no such file; check the path")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: is no NPZ file, or one that is cut short; fetch or copy it again")
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except ValueError:
        raise DataError(f"{path}: holds Python objects or damaged arrays, and arrays of numbers are needed") from None
    except (OSError, EOFError, KeyError, zlib.error, struct.error, zipfile.BadZipFile, NotImplementedError) as fault:
        raise DataError(f"{path}: the NPZ file is damaged ({fault}); fetch or copy it again") from None


def arrays_of(path: Path, found: dict[str, np.ndarray], suffix: str = "") -> tuple[np.ndarray, np.ndarray | None]:
    """The pictures and the labels among named arrays; suffix: ``_train`` and the like behind the names."""
    images = next((found[k + suffix] for k in _IMAGE_KEYS if k + suffix in found), None)
    if images is None:
        legal = ", ".join(k + suffix for k in _IMAGE_KEYS)
        raise DataError(f"{path}: the arrays are {', '.join(found) or 'none'}; pictures are looked for under {legal}")
    return images, next((found[k + suffix] for k in _LABEL_KEYS if k + suffix in found), None)


def checked_images(images: np.ndarray, path: Path) -> np.ndarray:
    """(N, H, W) or (N, H, W, 3), bytes or float32, of an array of pictures, channels first or last. Errors: DataError."""
    if images.dtype.kind not in "uifb":
        raise DataError(f"{path}: pictures are numbers, and these are {images.dtype}")
    if images.ndim == 4 and images.shape[3] not in (1, 3) and images.shape[1] in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[:, :, :, 0]
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3) or not images.size:
        raise DataError(
            f"{path}: pictures are (N, H, W) or (N, H, W, 3), with at least one pixel; found shape {images.shape}"
        )
    if images.dtype == np.uint8:
        return np.ascontiguousarray(images)
    made = images.astype(np.float32)
    if not np.isfinite(made).all():
        bad = int((~np.isfinite(made.reshape(len(made), -1)).all(1)).argmax())
        raise DataError(f"{path}: picture {bad} holds NaN or infinite pixels; mend it or leave it out")
    return made
