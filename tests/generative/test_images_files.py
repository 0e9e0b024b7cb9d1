"""Pictures read from files of every kind, and what is said of those that cannot be."""

from __future__ import annotations

import gzip
import logging
import struct
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")
pytest.importorskip("PIL")

from PIL import Image

from ebmstruct.errors import DataError
from ebmstruct_generative.images.files import read_idx, read_npz, read_picture
from ebmstruct_generative.images.pictures import Sizing, gathered
from ebmstruct_generative.images.sources import read_source
from ebmstruct_generative.images.splits import split_up

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def idx(array: np.ndarray) -> bytes:
    """An idx file of bytes."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def test_depths_and_colour_spaces_become_grey_or_colour(tmp_path: Path) -> None:
    """8 and 16 bit grey, one bit, floating point, CMYK, a palette: all as bytes (H, W) or (H, W, 3)."""
    colour = np.stack([GREY, GREY[::-1], GREY // 2], 2)
    cases = {
        "grey.png": (Image.fromarray(GREY), GREY),
        "deep.png": (Image.fromarray(GREY.astype(np.uint16) * 257), GREY),
        "bits.png": (Image.fromarray(GREY > 100), np.where(GREY > 100, 255, 0)),
        "float.tif": (Image.fromarray((GREY / 255).astype(np.float32)), GREY),
        "colour.png": (Image.fromarray(colour), colour),
        "white.tif": (Image.new("CMYK", (8, 6)), np.full((6, 8, 3), 255)),
        "palette.gif": (Image.fromarray(np.repeat(GREY[:, :, None], 3, 2)).quantize(64), None),
    }
    for name, (image, wanted) in cases.items():
        image.save(tmp_path / name)
        found = read_picture(tmp_path / name)
        assert found.dtype == np.uint8 and found.shape[:2] == (6, 8), name
        if wanted is not None:
            assert np.array_equal(found, wanted), name


def test_transparency_lies_on_white(tmp_path: Path) -> None:
    """Half transparent black is grey 128 on white; asked for, the opacity comes last."""
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[0, :, 3], pixels[1, :, 3] = 255, 127
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png")[:, 0, 0].tolist() == [0, 128]
    assert read_picture(tmp_path / "a.png", transparent=True)[:, 0, 3].tolist() == [255, 127]
    Image.fromarray(GREY).save(tmp_path / "b.png")
    assert read_picture(tmp_path / "b.png", transparent=True)[:, :, 1].min() == 255


def test_bad_pictures_are_told_in_a_sentence(tmp_path: Path) -> None:
    """Cut short, empty, a text, missing, a folder."""
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)).save(tmp_path / "whole.png")
    raw = (tmp_path / "whole.png").read_bytes()
    for name, data, told in (
        ("cut.png", raw[: len(raw) // 2], "damaged"),
        ("empty.png", b"", "is no picture"),
        ("text.png", b"hello", "is no picture"),
        ("missing.png", None, "no such file"),
    ):
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=told) as fault:
            read_picture(tmp_path / name)
        assert "\n" not in str(fault.value)
    with pytest.raises(DataError):
        read_picture(tmp_path)


def test_folders_have_classes_and_leave_bad_files_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Subfolders are classes; a damaged file is left out with a warning; of 1 x 1 pixels all goes well."""
    for i, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((1, 1), 50 + i, np.uint8)).save(tmp_path / name / "a.png")
    (tmp_path / "cat" / "bad.png").write_bytes(b"nothing")
    with caplog.at_level(logging.WARNING):
        found = read_source(str(tmp_path), Sizing())
    assert found.parts["all"].classes == ("cat", "dog") and found.parts["all"].pixels.tolist() == [[[50]], [[51]]]
    assert len(found.skipped) == 1 and "left out" in caplog.text and len(found.files) == 2


def test_folders_without_pictures_are_refused(tmp_path: Path) -> None:
    """An empty folder, one of bad files, a path that is not there, a file of another kind, sizes that differ."""
    with pytest.raises(DataError, match="holds no picture"):
        read_source(str(tmp_path), Sizing())
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match="none of the 1 pictures"):
        read_source(str(tmp_path), Sizing())
    with pytest.raises(DataError, match="no such file or folder"):
        read_source(str(tmp_path / "nowhere"), Sizing())
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(DataError, match="pictures come as"):
        read_source(str(tmp_path / "a.txt"), Sizing())
    with pytest.raises(DataError, match="set size"):
        gathered([GREY, GREY[:3]], [], ["a", "b"], Sizing(), "here")


def test_named_folders_are_splits(tmp_path: Path) -> None:
    """train and val beside each other are train and dev; a test part is drawn from train."""
    for split, count in (("train", 6), ("val", 2)):
        (tmp_path / split).mkdir()
        for i in range(count):
            Image.fromarray(GREY).save(tmp_path / split / f"{i}.png")
    found = read_source(str(tmp_path), Sizing())
    parts = split_up(found.parts, dev=0.5, test=1 / 3, seed=0)
    assert {s: len(p) for s, p in parts.items()} == {"train": 4, "dev": 2, "test": 2}


def test_sizes_are_means_of_what_is_covered() -> None:
    """4 x 4 to 2 x 2 are means of four; 3 to 2 shares the middle; the crop is central; enlarging repeats."""
    pixels = np.arange(16, dtype=np.float32).reshape(4, 4)
    assert Sizing(2).sized(pixels).tolist() == [[2.5, 4.5], [10.5, 12.5]]
    row = np.array([[0.0, 3.0, 6.0]] * 3, np.float32)
    assert np.allclose(Sizing(2).sized(row)[0], [1.0, 5.0])
    wide = np.tile(np.arange(6, dtype=np.float32), (2, 1))
    assert Sizing((2, 2)).sized(wide).tolist() == [[2, 3], [2, 3]]
    assert np.allclose(Sizing((2, 2), crop=False).sized(wide)[0], [1.0, 4.0])
    assert Sizing(4).sized(np.array([[7]], np.uint8)).tolist() == [[7] * 4] * 4


def test_colour_and_grey() -> None:
    """Grey as colour has equal channels; colour as grey is its luminance: 0.587 of pure green."""
    assert Sizing().coloured(GREY, True).shape == (6, 8, 3)
    green = np.zeros((1, 1, 3), np.uint8)
    green[0, 0, 1] = 255
    assert Sizing().coloured(green, False).tolist() == [[150]]


def test_idx_files_with_labels(tmp_path: Path) -> None:
    """MNIST's names: pictures and labels together, gzip or not, splits by the beginnings of the names."""
    images = np.arange(48).reshape(3, 4, 4)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.array([1, 0, 7])))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(images[:1]))
    found = read_source(str(tmp_path), Sizing())
    assert set(found.parts) == {"train", "test"} and found.parts["train"].classes == ("1", "0", "7")
    assert found.parts["test"].classes == () and np.array_equal(found.parts["train"].pixels, images)


def test_bad_idx_and_npz_files_are_told(tmp_path: Path) -> None:
    """A wrong beginning, a body that is cut short, labels of another number, objects, no pictures among the arrays."""
    good = idx(np.zeros((2, 3, 3)))
    for name, data, told in (
        ("a-idx3-ubyte", b"hello", "is no idx file"),
        ("b-idx3-ubyte", good[:-1], "fetch or copy it again"),
        ("c-idx3-ubyte", good[:6], "ends within its header"),
        ("d-idx3-ubyte", gzip.compress(good)[:-9], "damaged"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=told):
            read_idx(tmp_path / name)
    (tmp_path / "images-idx3-ubyte").write_bytes(good)
    (tmp_path / "labels-idx1-ubyte").write_bytes(idx(np.zeros(5)))
    with pytest.raises(DataError, match="labels of shape"):
        read_source(str(tmp_path / "images-idx3-ubyte"), Sizing())
    np.savez(tmp_path / "o.npz", images=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="numbers are needed"):
        read_npz(tmp_path / "o.npz")
    (tmp_path / "z.npz").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="NPZ"):
        read_npz(tmp_path / "z.npz")
    for arrays, told in (
        ({"faces": np.zeros((2, 3, 3))}, "looked for under"),
        ({"images": np.zeros((2, 9))}, "pictures are"),
        ({"images": np.full((2, 3, 3), np.nan)}, "NaN"),
        ({"images": np.array([[["a"]]])}, "pictures are numbers"),
    ):
        np.savez(tmp_path / "x.npz", **arrays)  # type: ignore[arg-type]
        with pytest.raises(DataError, match=told):
            read_source(str(tmp_path / "x.npz"), Sizing())


def test_npz_arrays(tmp_path: Path) -> None:
    """images and labels; or x_train, y_train, x_test, y_test as splits; channels first or last."""
    np.savez(tmp_path / "a.npz", images=np.zeros((4, 3, 5, 5), np.uint8), labels=np.arange(4))
    part = read_source(str(tmp_path / "a.npz"), Sizing()).parts["all"]
    assert part.size == (5, 5, 3) and part.classes == ("0", "1", "2", "3")
    np.savez(tmp_path / "b.npz", x_train=np.zeros((4, 5, 5)), y_train=np.array(["a"] * 4), x_test=np.zeros((2, 5, 5)))
    found = read_source(str(tmp_path / "b.npz"), Sizing(size=3)).parts
    assert {s: len(p) for s, p in found.items()} == {"train": 4, "test": 2} and found["train"].size == (3, 3)


def test_splits_are_drawn_by_the_seed() -> None:
    """The same seed gives the same parts, which do not overlap and are all; too few pictures are refused."""
    found = read_source("digits", Sizing()).parts
    first, again = (split_up(found, dev=0.1, test=0.2, seed=3) for _ in range(2))
    assert [p.sources for p in first.values()] == [p.sources for p in again.values()]
    assert sorted(s for p in first.values() for s in p.sources) == sorted(found["all"].sources)
    assert split_up(found, dev=0.1, test=0.2, seed=4)["test"].sources != first["test"].sources
    with pytest.raises(DataError, match="too few"):
        split_up({"all": found["all"].take([0, 1])}, dev=0.1, test=0.2, seed=0)
