"""Frozen word vectors: each format gives the same numbers, and a faulty file says what is wrong and where."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from ebmstruct.errors import DataError
from ebmstruct_nlp.vectors import open_vectors

TEXT = "Paris 1.0 2.0 3.0\nlived 0.5 -1.5 2.5\n. 0 0 1\n"
WORDS = ["Paris", "LIVED", "unseen", "."]
WANTED = np.array([[1, 2, 3], [0.5, -1.5, 2.5], [0, 0, 0], [0, 0, 1]], dtype=np.float32)


def written(folder: Path, kind: str) -> Path:
    """The three vectors in a file of that kind."""
    path = folder / {"glove": "v.txt", "word2vec": "v.vec", "gzip": "v.txt.gz", "npz": "v.npz"}[kind]
    if kind == "npz":
        np.savez(path, words=np.array(["Paris", "lived", "."]), vectors=WANTED[[0, 1, 3]])
    elif kind == "gzip":
        path.write_bytes(gzip.compress(TEXT.encode()))
    else:
        path.write_text(("3 3\n" if kind == "word2vec" else "") + TEXT)
    return path


@pytest.mark.parametrize("kind", ["glove", "word2vec", "gzip", "npz"])
def test_formats_agree(tmp_path: Path, kind: str) -> None:
    """Exact spelling first, then lower case, then zeros; asking twice gives the same."""
    vectors = open_vectors(str(written(tmp_path, kind)))
    assert vectors.size == 3
    assert np.array_equal(vectors.of(WORDS), WANTED)
    assert np.array_equal(vectors.of(WORDS[::-1]), WANTED[::-1])


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "is empty"), ("only words here\n", "no word with its numbers"), ("a 1 2\nb 1\n", r"v\.txt:2: .* 2 numbers")],
)
def test_faulty_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    """Each fault is one sentence with the file and, where there is one, the line."""
    path = tmp_path / "v.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        open_vectors(str(path)).of(["b"])


def test_missing_sources_are_named(tmp_path: Path) -> None:
    """A path that does not exist, and a broken archive, say what is legal."""
    with pytest.raises(DataError, match="vectors: "):
        open_vectors(str(tmp_path / "nothing.txt"))
    (tmp_path / "v.npz").write_bytes(b"rubbish")
    with pytest.raises(DataError, match="no readable"):
        open_vectors(str(tmp_path / "v.npz"))


def test_a_spacy_package_serves(tmp_path: Path) -> None:
    """The folder of a spaCy package gives the vectors that it holds; one without vectors is refused."""
    spacy = pytest.importorskip("spacy")
    language = spacy.blank("en")
    language.to_disk(tmp_path / "bare")
    with pytest.raises(DataError, match="has no word vectors"):
        open_vectors(str(tmp_path / "bare"))
    for word, vector in zip(("Paris", "lived", "."), WANTED[[0, 1, 3]], strict=True):
        language.vocab.set_vector(word, vector)
    language.to_disk(tmp_path / "rich")
    vectors = open_vectors(str(tmp_path / "rich"))
    assert vectors.size == 3
    assert np.array_equal(vectors.of(WORDS), WANTED)


def test_words_with_blanks_are_stepped_over(tmp_path: Path) -> None:
    """A line whose word holds a blank is no fault, and does not pass for its first part."""
    path = tmp_path / "v.txt"
    path.write_text("a 1 2\nParis at 3 4\nParis 5 6\n")
    assert open_vectors(str(path)).of(["Paris"]).tolist() == [[5, 6]]


def test_archives_must_hold_both_arrays(tmp_path: Path) -> None:
    """Missing arrays and wrong types are named, and nothing in an archive is executed."""
    path = tmp_path / "v.npz"
    np.savez(path, tokens=np.array(["a"]))
    with pytest.raises(DataError, match="holds tokens; it must hold words"):
        open_vectors(str(path))
    np.savez(path, words=np.array(["a"]), vectors=np.array([[1, 2]]))
    with pytest.raises(DataError, match="floating-point numbers are needed"):
        open_vectors(str(path))
    np.savez(path, words=np.array(["a"], dtype=object), vectors=np.ones((1, 2)))
    with pytest.raises(DataError, match="no readable"):
        open_vectors(str(path))
