"""The task of pictures: schema, values of a graph, what is given, files, answers about pictures, and a whole run."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("PIL")

from PIL import Image

import ebmstruct as es
from ebmstruct.errors import DataError, RunFolderError
from ebmstruct_generative import Images, ImageSchema, JointClassifier
from ebmstruct_generative.images.files import read_idx, read_npz, read_picture
from ebmstruct_generative.images.novelty import auroc, energies_of, other_pictures, quantiles
from ebmstruct_generative.images.pictures import Sizing
from ebmstruct_generative.images.schema import fitted
from ebmstruct_generative.images.scores import calibration_error, drawn_scores
from ebmstruct_generative.images.sources import read_source
from ebmstruct_generative.records import CLASS, RECORD

TASK = Images()
SCHEMA = TASK.fit(TASK.examples("train"))


def model() -> JointClassifier:
    """A joint classifier of digits that has learnt nothing."""
    torch.manual_seed(0)
    return JointClassifier(SCHEMA, hidden=(16,)).eval()


def some(count: int = 4) -> list[dict[str, Any]]:
    """A few records of the data."""
    return [e.y for e in TASK.examples("test")[:count]]


def test_digits_have_seventeen_greys() -> None:
    """Pixels from 0 to 16 in steps of 1, ten classes in order, statistics of each pixel, and a fixed split."""
    assert (SCHEMA.low, SCHEMA.high, SCHEMA.greys, SCHEMA.shape) == (0.0, 16.0, 17, (1, 8, 8))
    assert SCHEMA.classes == tuple("0123456789") and sum(SCHEMA.class_counts) == 1258
    assert SCHEMA.levels[0] == -1 and SCHEMA.levels[1] == pytest.approx(-0.875) and len(SCHEMA.levels) == 17
    assert SCHEMA.mean.shape == (64,) and float(SCHEMA.mean[0]) == -1.0
    assert [len(TASK.examples(s)) for s in TASK.splits()] == [1258, 180, 359]
    back = ImageSchema.from_parts(*SCHEMA.parts())
    assert back.classes == SCHEMA.classes and torch.equal(back.mean, SCHEMA.mean)


def test_levels_of_other_data() -> None:
    """Bytes have 256, halves three, any numbers none; a single value is a picture too."""
    assert fitted(np.zeros((2, 2, 2), np.uint8), ()).greys == 256
    assert fitted(np.array([[[0.0, 0.5]], [[1.0, 0.5]]], np.float32), ()).greys == 3
    rng = np.random.default_rng(0)
    assert fitted(rng.random((9, 8, 8)).astype(np.float32), ()).greys == 0
    flat = fitted(np.full((2, 1, 1), 7.0, np.float32), ())
    assert flat.to_pixels(flat.to_vectors(np.full((1, 1, 1), 7.0))).tolist() == [[[7.0]]]


def test_records_go_into_values_and_back() -> None:
    """Encoded and decoded records are the same; draws between two levels are rounded to the nearer."""
    graph = model().graph([{}] * 4)
    values = TASK.encode(some(), graph, SCHEMA)
    assert float(values[RECORD].min()) >= -1 and float(values[RECORD].max()) <= 1
    for record, back in zip(some(), TASK.decode(values, graph, SCHEMA), strict=True):
        assert np.array_equal(record["pixels"], back["pixels"]) and record["class"] == back["class"]
        json.dumps(back)
    moved = es.Assignment({RECORD: values[RECORD] + 0.05, CLASS: values[CLASS]})
    assert np.array_equal(TASK.decode(moved, graph, SCHEMA)[0]["pixels"], np.minimum(some()[0]["pixels"], 16))


def test_colour_is_channel_after_channel() -> None:
    """A red picture has its first third at 1, the others at -1, and comes back."""
    red = np.zeros((1, 2, 2, 3), np.uint8)
    red[..., 0] = 255
    schema = fitted(red, ())
    assert schema.shape == (3, 2, 2) and schema.to_vectors(red).tolist() == [[1] * 4 + [-1] * 8]
    assert np.array_equal(schema.to_pixels(schema.to_vectors(red)), red)


def test_missing_parts_are_unknown() -> None:
    """Without class or pixels nothing is known of them; NaN pixels are unknown, one by one."""
    graph = model().graph([{}] * 2)
    pixels = np.array(some()[0]["pixels"], np.float32)
    pixels[4:] = np.nan
    values = TASK.encode([{"pixels": pixels}, {"class": "3"}], graph, SCHEMA)
    assert values.known[RECORD].reshape(2, 8, 8)[0].sum() == 32 and not values.known[RECORD].reshape(2, 64)[1].any()
    assert values.known[CLASS].tolist() == [False, True] and values[CLASS].tolist() == [0, 3]
    assert TASK.evidence([{}, {}], graph, SCHEMA) is None
    given = TASK.evidence([{"class": "3"}] * 2, graph, SCHEMA)
    assert given is not None and list(given.values) == [CLASS]
    with pytest.raises(DataError, match="shape"):
        TASK.encode([{"pixels": np.zeros((3, 3))}], model().graph([{}]), SCHEMA)


def test_classes_are_drawn_as_often_as_the_data_have_them() -> None:
    """Inputs without a class get one, by the training counts and the seed; a class that is given stays."""
    generator = torch.Generator().manual_seed(0)
    found = TASK.inputs({}, 5000, SCHEMA, generator)
    share = sum(x["class"] == "4" for x in found) / 5000
    assert abs(share - SCHEMA.class_counts[4] / 1258) < 0.02
    assert TASK.inputs({"class": "7"}, 2, SCHEMA, generator) == [{"class": "7"}] * 2
    assert TASK.with_given([{"pixels": []}], [{"class": "7"}], SCHEMA) == [{"pixels": [], "class": "7"}]
    assert TASK.has({"class": "7"}, {"class": "7"}, SCHEMA) and not TASK.has({"class": "7"}, {"class": "1"}, SCHEMA)


def test_what_is_given_is_parsed(tmp_path: Path) -> None:
    """A class; rows and columns of a picture; transparent pixels are unknown; a mask, light where known."""
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(tmp_path / "white.png")
    x = TASK.given(["class=3", f"image={tmp_path}/white.png", "rows=0:4", "columns=2:"], SCHEMA)
    assert x["class"] == "3" and np.nansum(x["image"]) == 16 * 24 and np.isnan(x["image"][4:]).all()
    clear = np.full((8, 8, 2), 255, np.uint8)
    clear[:, 4:, 1] = 0
    Image.fromarray(clear, "LA").save(tmp_path / "clear.png")
    assert np.isnan(TASK.given([f"pixels={tmp_path}/clear.png"], SCHEMA)["image"]).sum() == 32
    Image.fromarray(np.tril(np.full((8, 8), 255, np.uint8))).save(tmp_path / "mask.png")
    masked = TASK.given([f"image={tmp_path}/white.png", f"mask={tmp_path}/mask.png"], SCHEMA)
    assert np.isnan(masked["image"]).sum() == 28


@pytest.mark.parametrize(
    ("texts", "told"),
    [
        (["class=x"], "classes are 0, 1"),
        (["colour=red"], "class=NAME"),
        (["class"], "class=NAME"),
        (["class=1", "class=2"], "given twice"),
        (["rows=0:4"], "add image=FILE"),
        (["image=WHITE", "rows=5:99"], "lies outside"),
        (["image=WHITE", "rows=a:b"], "is no range"),
        (["image=missing.png"], "no such file"),
    ],
)
def test_what_cannot_be_given_is_told(texts: list[str], told: str, tmp_path: Path) -> None:
    """Each in a sentence that says what is legal."""
    Image.fromarray(np.full((8, 8), 255, np.uint8)).save(tmp_path / "white.png")
    with pytest.raises(DataError, match=told):
        TASK.given([t.replace("WHITE", str(tmp_path / "white.png")) for t in texts], SCHEMA)


def test_records_are_written_in_every_format(tmp_path: Path) -> None:
    """A folder by class, NPZ, idx with labels, a sheet; what is read back is what was written."""
    records = TASK.decode(TASK.encode(some(), model().graph([{}] * 4), SCHEMA), model().graph([{}] * 4), SCHEMA)
    TASK.write(iter(records), tmp_path / "folder", SCHEMA)
    names = sorted(str(p.relative_to(tmp_path / "folder")) for p in (tmp_path / "folder").rglob("*.png"))
    assert names == sorted(f"{r['class']}/{i:06d}.png" for i, r in enumerate(records))
    again = read_source(str(tmp_path / "folder"), Sizing()).parts["all"]
    assert sorted(again.classes) == sorted(r["class"] for r in records)
    with pytest.raises(RunFolderError, match="there already"):
        TASK.write(records, tmp_path / "folder", SCHEMA)
    TASK.write(records, tmp_path / "a.npz", SCHEMA)
    arrays = read_npz(tmp_path / "a.npz")
    assert np.array_equal(arrays["images"][0], records[0]["pixels"]) and arrays["labels"].dtype.kind == "i"
    TASK.write(records, tmp_path / "made-images-idx3-ubyte.gz", SCHEMA)
    assert gzip.decompress((tmp_path / "made-labels-idx1-ubyte.gz").read_bytes())[:4] == b"\0\0\x08\x01"
    assert np.array_equal(read_idx(tmp_path / "made-images-idx3-ubyte.gz")[1], records[1]["pixels"])
    TASK.write(records, tmp_path / "sheet.png", SCHEMA)
    assert read_picture(tmp_path / "sheet.png").shape[0] > 64
    TASK.write([{"pixels": records[0]["pixels"]}], tmp_path / "bare", SCHEMA)
    assert [p.name for p in (tmp_path / "bare").iterdir()] == ["000000.png"]
    assert not list(tmp_path.glob(".*tmp"))


def test_picture_files_are_read_in_the_units_of_the_data(tmp_path: Path) -> None:
    """Digits written as PNG, NPZ and idx come back with their 17 greys, larger pictures at the size of the data."""
    records = TASK.decode(TASK.encode(some(), model().graph([{}] * 4), SCHEMA), model().graph([{}] * 4), SCHEMA)
    for name in ("folder", "a.npz", "made-images-idx3-ubyte"):
        TASK.write(records, tmp_path / name, SCHEMA)
        again = [np.asarray(e.y["pixels"]) for e in TASK.examples_from(tmp_path / name)]
        expected = [np.asarray(r["pixels"]) for r in records]
        assert all(any(np.array_equal(a, b) for b in expected) for a in again) and len(again) == 4, name
    (tmp_path / "large").mkdir()
    Image.fromarray(np.full((32, 32), 255, np.uint8)).save(tmp_path / "large" / "white.png")
    white = TASK.examples_from(tmp_path / "large")[0].y["pixels"]
    assert white.shape == (8, 8) and (white == 16).all()


def test_classes_that_are_held_out_are_other_data() -> None:
    """Digits 8 and 9 are in no split, and all of them are kept to compare with; a class that is not there is told."""
    task = Images(hold_out=("8", "9"))
    assert not {e.y["class"] for s in task.splits() for e in task.examples(s)} & {"8", "9"}
    assert len(task.pictures["held_out"]) == 354 and "held_out" not in task.splits()
    with pytest.raises(DataError, match="no such class"):
        _ = Images(hold_out=("z",)).pictures
    with pytest.raises(DataError, match="no split"):
        task.examples("held_out_too")


def test_unusual_pictures_have_high_shares() -> None:
    """Energies by hand: F(x) of the classifier; the share of dev pictures below; AUROC counts pairs, ties one half."""
    energy = model()
    schema = TASK.tune(energy, SCHEMA, TASK.examples("dev"))
    assert bool((schema.energies.diff() >= 0).all()) and schema.energies.numel() == 401
    x = torch.from_numpy(schema.to_vectors(np.stack([r["pixels"] for r in some()])))
    graph = energy.graph([{}] * 4)
    found = energies_of(graph.condition(schema.values(graph, x)))
    wanted = -energy.scores.network(x).logsumexp(1) + x.square().sum(1) / 2
    assert torch.allclose(found, wanted.double(), atol=1e-4)
    assert schema.out_of_distribution([-1e9, 1e9]) == [0.0, 1.0] and SCHEMA.out_of_distribution([0.0]) == [None]
    assert auroc(np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0])) == pytest.approx((1.5 + 3) / 6)
    assert np.isnan(auroc(np.zeros(0), np.ones(2))) and quantiles([np.nan]).numel() == 0


def test_other_data_fit_the_model(tmp_path: Path) -> None:
    """Noise, patches and files at the size and in the units of the data; of classes held out all."""
    Image.fromarray(np.full((20, 30), 255, np.uint8)).save(tmp_path / "a.png")
    assert other_pictures(str(tmp_path / "a.png"), SCHEMA, True, None).tolist() == [[1.0] * 64]
    assert other_pictures("noise", SCHEMA, True, None).shape == (500, 64)
    assert other_pictures("held_out", SCHEMA, True, np.zeros((3, 8, 8))).shape == (3, 64)
    pytest.importorskip("skimage")
    assert other_pictures("patches", SCHEMA, True, None).shape == (500, 64)


def test_pictures_are_answered_about(tmp_path: Path) -> None:
    """A file of any size: class, its probability, energy and how unusual it is; a folder: one answer a picture."""
    schema = TASK.tune(model(), SCHEMA, TASK.examples("dev"))
    predictor = es.Predictor(TASK, schema, model())
    big = np.kron(np.asarray(some()[0]["pixels"]) * 15.9, np.ones((4, 4))).astype(np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(big).save(tmp_path / name)
    answer = predictor.predict_text(str(tmp_path / "a.png"))[0]
    assert set(answer.output) == {"class", "probability", "energy", "out_of_distribution"}
    told = TASK.show(answer.x, answer.output)
    assert told.startswith("a.png: class ") and "less usual than" in told and "%" in told
    assert [p.x["name"] for p in predictor.predict_text(str(tmp_path))] == ["a.png", "b.png"]
    assert set(TASK.record(answer.x, answer.output)) == {"name", "output"}
    with pytest.raises(DataError, match="no such picture"):
        TASK.read("nowhere.png")


def test_measures_of_draws() -> None:
    """Held-out pictures themselves are good draws; training pictures are copies and count less; noise counts nothing."""
    parts = {s: SCHEMA.to_vectors(TASK.pictures[s].pixels) for s in ("train", "dev", "test")}
    noise = np.random.default_rng(0).uniform(-1, 1, (180, 64))
    good, copies, bad = (
        drawn_scores(parts["test"][:180], drawn, parts["train"])
        for drawn in (parts["dev"], parts["train"][:180], noise)
    )
    assert good["fidelity"] > 0.8 and copies["fidelity"] < 0.1 and bad["fidelity"] < 0.05
    assert copies["nearest_ratio"] == 0.0 and good["nearest_ratio"] > 0.8
    assert drawn_scores(parts["test"][:3], noise, parts["train"]) == {"fidelity": 0.0}
    judge = TASK.judge
    assert judge is not None and judge.accuracy > 0.98
    assert calibration_error(np.array([1.0, 1.0]), np.array([True, False])) == pytest.approx(0.5)


def test_energies_that_do_not_fit_are_told() -> None:
    """A joint classifier needs classes; convolutions need pictures."""
    with pytest.raises(DataError, match="at least two classes"):
        JointClassifier(fitted(np.zeros((2, 3, 3), np.uint8), ()))
    with pytest.raises(DataError, match="odd kernel"):
        JointClassifier(SCHEMA, filters=(4,), kernel=2)
    graph = JointClassifier(SCHEMA, filters=(4, 8), hidden=()).graph([{}])
    assert graph.variables[CLASS].num_sites == 1
    for options, told in (
        ({"dev_fraction": 1.0}, "from 0 up to"),
        ({"size": 0}, "size must be"),
        ({"dev_fraction": 0.5, "test_fraction": 0.5}, "must leave some"),
    ):
        with pytest.raises(ValueError, match=told):
            Images(**options)  # type: ignore[arg-type]


def test_a_whole_run(tmp_path: Path) -> None:
    """A folder of forty small pictures of two classes: trained, drawn, judged, and a report with its sheets."""
    from ebmstruct.run.config import parse_config
    from ebmstruct.run.runner import run

    rng = np.random.default_rng(0)
    for i in range(40):
        name = "dark" if i % 2 else "light"
        (tmp_path / "data" / name).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 120, (4, 4)) + (130 if name == "light" else 0)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / name / f"{i}.png")
    text = f"""
task: {{name: generative.images, data: {tmp_path}/data, hold_out: [], ood: [noise], dev_fraction: 0.3, test_fraction: 0.35}}
energy: {{name: generative.denoiser, width: 16, depth: 1}}
solver: {{name: annealed_langevin, levels: 5}}
loss: {{name: denoising}}
train: {{epochs: 2, batch_size: 4}}
output: {tmp_path}/run
"""
    summary = run(parse_config(text, "images.yaml"))
    assert set(summary.metrics["splits"]) == {"dev", "test"}
    page = (tmp_path / "run" / "report.html").read_text()
    titles = (
        "Real and drawn",
        "The nearest training pictures",
        "Completed",
        "Drawn while it was trained",
        "told apart",
    )
    for title in titles:
        assert title in page, title
    assert "could not be drawn" not in page
    predictor = es.load(tmp_path / "run")
    assert (
        predictor.predict_text(str(tmp_path / "data" / "dark" / "1.png"))[0].output["out_of_distribution"] is not None
    )
