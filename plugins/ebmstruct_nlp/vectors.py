"""Word vectors made elsewhere: from text files (GloVe, word2vec), NumPy archives and spaCy packages."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import numpy as np

from ebmstruct.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEGAL = (
    "legal are a text file with a word and its numbers on each line (GloVe, word2vec; .gz too), an .npz archive "
    "with the arrays words and vectors, and an installed spaCy package, or the folder of one, that has vectors"
)


class WordVectors(ABC):
    """Vectors of words, looked up as they are needed. size: numbers in a vector."""

    size: int

    @abstractmethod
    def find(self, words: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """The vectors (size,) of those words that have one, by exact spelling."""

    def of(self, words: Sequence[str]) -> NDArray[np.float32]:
        """(V, size): each word's vector, else that of its lower-case form, else zeros."""
        lowered = {word: word.lower() for word in words}
        found = self.find(list(dict.fromkeys([*lowered, *lowered.values()])))
        out = np.zeros((len(words), self.size), dtype=np.float32)
        for row, word in zip(out, words, strict=True):
            vector = found.get(word, found.get(lowered[word]))
            if vector is not None:
                row[:] = vector
        return out


def open_vectors(source: str) -> WordVectors:
    """The word vectors of a file or of a spaCy package; DataError where there are none."""
    path = Path(source).expanduser()
    if path.is_file():
        return ArchiveVectors(path) if path.suffix == ".npz" else TextVectors(path)
    if not path.is_dir() and (len(path.parts) > 1 or path.suffix in (".txt", ".vec", ".gz", ".npz")):
        raise DataError(f"vectors: there is no file {source}; {LEGAL}")
    return SpacyVectors(source)


class TextVectors(WordVectors):
    """Vectors in a text file; the first line may count words and numbers, as word2vec writes it.

    A file is read whenever words are asked for that have not been asked for before; only their vectors are kept.
    Ask for many words at once: a reading costs about a second for 100 MB, more for .gz.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = self._measure()
        self._known: dict[str, NDArray[np.float32] | None] = {}

    def find(self, words: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        new = {word.encode("utf-8", "surrogatepass"): word for word in words if word not in self._known}
        if new:
            self._known.update(dict.fromkeys(new.values()))
            self._read(new)
        known = self._known
        return {word: vector for word in words if (vector := known[word]) is not None}

    def _read(self, wanted: dict[bytes, str]) -> None:
        for number, line in self._lines():
            name, _, rest = line.partition(b" ")
            if name not in wanted or (number == 1 and _is_header(line)):
                continue
            vector = _numbers(rest)
            if vector is None or len(vector) != self.size:
                vector = self._spaced(line, number)
                name = b" ".join(line.split(b" ")[: -self.size])
            if name in wanted and self._known[wanted[name]] is None:
                self._known[wanted[name]] = vector

    def _spaced(self, line: bytes, number: int) -> NDArray[np.float32]:
        """The vector of a line whose word holds blanks, as some files have them; DataError where that is not it."""
        cells = line.split(b" ")
        vector = _numbers(b" ".join(cells[-self.size :])) if len(cells) > self.size else None
        if vector is None or len(vector) != self.size:
            shown = line[:40].decode("utf-8", "replace")
            raise DataError(
                f"{self.path}:{number}: vectors: a word and {self.size} numbers are needed, as on the lines before; "
                f"found {len(cells) - 1} values after {shown!r}; correct the line or remove it"
            )
        return vector

    def _measure(self) -> int:
        """How many numbers a vector has, by the first lines."""
        head = [line for _, line in zip(range(2), self._lines(), strict=False)]
        if not head:
            raise DataError(f"{self.path}: vectors: the file is empty; {LEGAL}")
        line = head[0][1]
        if _is_header(line):
            return int(line.split()[1])
        vector = _numbers(line.partition(b" ")[2])
        if vector is None or not len(vector):
            shown = line[:40].decode("utf-8", "replace")
            raise DataError(f"{self.path}:1: vectors: found {shown!r}, which is no word with its numbers; {LEGAL}")
        return len(vector)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        try:
            with _opened(self.path) as lines:
                for number, line in enumerate(lines, start=1):
                    if line := line.rstrip(b" \r\n").replace(b"\t", b" "):
                        yield number, line
        except (OSError, EOFError, zlib.error) as fault:
            raise DataError(f"{self.path}: vectors: the file cannot be read ({fault}); {LEGAL}") from None


class ArchiveVectors(WordVectors):
    """Vectors in a NumPy archive: words (V,) of text and vectors (V, size). They are all held in memory."""

    def __init__(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as archive:
                names = set(archive.files)
                words = archive["words"] if "words" in names else None
                vectors = archive["vectors"] if "vectors" in names else None
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as fault:
            raise DataError(f"{path}: vectors: no readable .npz archive ({fault}); {LEGAL}") from None
        if words is None or vectors is None:
            found = ", ".join(sorted(names)) or "no array"
            raise DataError(
                f"{path}: vectors: the archive holds {found}; it must hold words (V,) and vectors (V, size)"
            )
        if words.ndim != 1 or words.dtype.kind != "U" or vectors.ndim != 2 or len(words) != len(vectors):
            raise DataError(
                f"{path}: vectors: found words {words.shape} {words.dtype} and vectors {vectors.shape}; legal are text "
                "(V,) and numbers (V, size)"
            )
        if vectors.dtype.kind != "f" or not vectors.shape[1]:
            raise DataError(
                f"{path}: vectors: found {vectors.shape} {vectors.dtype}; floating-point numbers are needed"
            )
        self.size = vectors.shape[1]
        self._vectors = vectors.astype(np.float32, copy=False)
        self._rows = {word: row for row, word in enumerate(words.tolist())}

    def find(self, words: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        return {word: self._vectors[self._rows[word]] for word in words if word in self._rows}


class SpacyVectors(WordVectors):
    """The vectors that an installed spaCy package, or its folder, brings."""

    def __init__(self, name: str) -> None:
        try:
            import spacy
        except ImportError:
            raise DataError(f"vectors: {name!r} is no file, and spaCy is not installed; {LEGAL}") from None
        try:
            self._vocab: Any = spacy.load(name, exclude=["tagger", "parser", "ner", "lemmatizer"]).vocab
        except (OSError, ValueError) as fault:
            reason = str(fault).strip().splitlines()[0]
            raise DataError(f"vectors: {name!r} is no file, and no spaCy package either ({reason}); {LEGAL}") from None
        self.size = int(self._vocab.vectors_length)
        if not self.size:
            raise DataError(
                f"vectors: the spaCy package {name!r} has no word vectors; take one that ends in _md or _lg"
            )

    def find(self, words: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        vocab = self._vocab
        return {word: np.asarray(vocab.get_vector(word), np.float32) for word in words if vocab.has_vector(word)}


def _opened(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _is_header(line: bytes) -> bool:
    """Whether a first line counts words and numbers rather than giving a vector of one number."""
    cells = line.split()
    return len(cells) == 2 and all(cell.isdigit() for cell in cells)


def _numbers(text: bytes) -> NDArray[np.float32] | None:
    """The numbers of a line, or None where some cell is none."""
    try:
        vector = np.array(text.split(), dtype=np.float32)
    except ValueError:
        return None
    return vector if np.isfinite(vector).all() else None
