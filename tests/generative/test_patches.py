"""Patches of photographs: cutting, whitening, Gabor fits, and a run from the task file to the report."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("skimage")
pytest.importorskip("sklearn")

from ebmstruct.errors import DataError, RunFolderError
from ebmstruct.run.config import load_config
from ebmstruct.run.predictor import load
from ebmstruct.run.runner import run
from ebmstruct_generative.components import Components
from ebmstruct_generative.patches.cutting import cut, log_contrast
from ebmstruct_generative.patches.gabor import fitted
from ebmstruct_generative.patches.rendering import arranged, columns, sheet
from ebmstruct_generative.patches.schema import PatchSchema
from ebmstruct_generative.patches.sources import Photograph
from ebmstruct_generative.patches.task import PatchTask
from ebmstruct_generative.records import RECORD

TASKS = Path(__file__).parents[2] / "tasks"


@pytest.fixture(scope="module")
def small() -> PatchTask:
    """A task of few small patches of the photographs that need no download."""
    return PatchTask(size=6, count=600, held_out=200, components=20)


def test_splits_share_no_pixel() -> None:
    """Patches of a picture whose pixels are numbered come from bands of columns that no two splits share."""
    grey = np.tile(np.arange(200.0), (40, 1))
    seen = {}
    for split in ("train", "dev", "test"):
        found = cut([Photograph("numbered", grey)], 5, 300, split, 0)
        lefts = {int(name.rpartition(",")[2]) for name in found.names}
        seen[split] = {left + j for left in lefts for j in range(5)}
        expected = log_contrast(grey[None, :5, min(lefts) : min(lefts) + 5])[0]
        match = next(e.y for e in found if e.source.endswith(f",{min(lefts)}"))
        np.testing.assert_allclose(match, expected, atol=1e-5)
    assert not seen["train"] & seen["dev"] and not seen["train"] & seen["test"] and not seen["dev"] & seen["test"]


def test_whitened_patches_come_back(small: PatchTask) -> None:
    """Components have unit covariance, and with all of them a patch comes back; the same seed, the same patches."""
    train = small.examples("train")
    schema = small.fit(train)
    z = schema.encoded([e.y for e in train])
    torch.testing.assert_close(torch.cov(z.T), torch.eye(20), atol=2e-3, rtol=0)
    whole = PatchTask(size=6, count=600, components=35)
    everything = whole.fit(train)
    back = everything.decoded(everything.encoded(list(train.values[:5])))
    np.testing.assert_allclose(back, train.values[:5], atol=1e-4)
    np.testing.assert_array_equal(small.examples("train").values, train.values)
    with pytest.raises(DataError, match="1 to 35 are legal"):
        PatchTask(size=6, count=600, components=36).fit(train)


def test_gabor_functions_are_found() -> None:
    """Filters that are Gabor functions are fitted whole, with their frequency and orientation; noise is not."""
    random = np.random.default_rng(0)
    ys, xs = np.mgrid[0:12, 0:12].astype(float)
    made, waves, turns = [], [], []
    for _ in range(30):
        x, y = random.uniform(4, 8, 2)
        turn, wave, phase = random.uniform(0, math.pi), random.uniform(0.12, 0.3), random.uniform(0, 2 * math.pi)
        a, b = random.uniform(1.8, 2.5, 2)
        u = (xs - x) * np.cos(turn) + (ys - y) * np.sin(turn)
        v = (ys - y) * np.cos(turn) - (xs - x) * np.sin(turn)
        made.append(np.exp(-0.5 * (u / a) ** 2 - 0.5 * (v / b) ** 2) * np.cos(2 * math.pi * wave * u + phase))
        waves.append(wave)
        turns.append((math.degrees(turn) + 90) % 180)
    found = fitted(torch.tensor(np.array(made)))
    assert float(found.r2.min()) > 0.99
    np.testing.assert_allclose(found.frequency.numpy(), waves, atol=0.06)
    apart = np.abs(found.orientation.numpy() - turns)
    assert float(np.median(np.minimum(apart, 180 - apart))) < 1.0
    noise = fitted(torch.tensor(random.normal(size=(20, 12, 12))))
    assert float(noise.r2.max()) < 0.6
    assert sorted(arranged(found).tolist()) == list(range(30))


def test_sheets_hold_every_tile() -> None:
    """A sheet has one tile for each filter, with lines between them, and full contrast in each."""
    tiles = np.stack([np.full((4, 4), float(i)) for i in range(1, 8)])
    pixels = sheet(tiles, columns(7))
    high = -(-7 // columns(7))
    assert pixels.shape == (high * 5 + 1, columns(7) * 5 + 1, 3)
    assert int((pixels == 255).sum()) == 7 * 16 * 3  # every tile is at its own largest value, white
    assert int((sheet(-tiles, columns(7)) == 1).sum()) == 7 * 16 * 3
    assert [columns(n) for n in (200, 100, 1)] == [20, 14, 1] or columns(200) == 20


def test_nothing_is_given_of_a_patch(small: PatchTask) -> None:
    """Conditions are refused in a sentence, and an unknown patch is encoded as unknown."""
    schema = small.fit(small.examples("train"))
    with pytest.raises(DataError, match="mix all pixels"):
        small.given(["pixel=3"], schema)
    graph = Components(schema, filters=30).graph([{}, {}])
    target = small.encode([None, small.examples("train")[0].y], graph, schema)
    assert target.known[RECORD].tolist() == [False, True]


def test_pictures_of_a_folder(tmp_path: Path) -> None:
    """Pictures are read from a folder; what is no picture, or too small, is named in one sentence."""
    from PIL import Image

    random = np.random.default_rng(0)
    for name in ("a.png", "b.jpg"):
        Image.fromarray(random.integers(0, 255, (80, 90, 3), dtype=np.uint8)).save(tmp_path / name)
    task = PatchTask(data=str(tmp_path), size=6, count=50, held_out=20, components=5)
    assert len(task.examples("dev")) == 20 and set(task.provenance()["files"]) == {
        str(tmp_path / n) for n in ("a.png", "b.jpg")
    }
    with pytest.raises(DataError, match="no photograph has room"):
        PatchTask(data=str(tmp_path), size=40).examples("dev")
    (tmp_path / "c.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"c\.png: is no picture"):
        PatchTask(data=str(tmp_path)).examples("train")
    with pytest.raises(DataError, match="no such file or folder"):
        PatchTask(data=str(tmp_path / "nowhere")).examples("train")


def test_patches_are_written(small: PatchTask, tmp_path: Path) -> None:
    """As one array or as a folder of pictures; a folder that is there is not touched."""
    from PIL import Image

    train = small.examples("train")
    schema, records = small.fit(train), [e.y.tolist() for e in train[:3]]
    small.write(records, tmp_path / "new.npz", schema)
    np.testing.assert_allclose(np.load(tmp_path / "new.npz")["patches"], train.values[:3], atol=1e-6)
    small.write(iter(records), tmp_path / "folder", schema)
    files = sorted((tmp_path / "folder").iterdir())
    assert [f.name for f in files] == ["000001.png", "000002.png", "000003.png"]
    with Image.open(files[0]) as picture:
        assert picture.size == (6, 6)
    with pytest.raises(RunFolderError, match="is there already"):
        small.write(records, tmp_path / "folder", schema)
    assert len(small.show({}, records[0]).splitlines()) == 6


def test_a_run_from_the_task_file(tmp_path: Path) -> None:
    """tasks/ica.yaml, made small, trains, draws, and reports sheets of filters; latents of patches have their shapes."""
    sets = (
        "task.size=6 task.count=1000 task.held_out=100 task.components=16 energy.filters=24 train.epochs=3 "
        "train.batch_size=100 solver.burn_in=5 train.evaluate_every=3"
    )
    config = load_config(TASKS / "ica.yaml", [*sets.split(), f"output={tmp_path / 'run'}"])
    summary = run(config)
    figures = summary.metrics["splits"]["test"]
    assert math.isfinite(figures["held_out"]) and figures["contrast_ratio"] > 0
    page = summary.report.read_text(encoding="utf-8")
    for title in ("What the filters stand for", "Excess kurtosis of each filter", "real on the left"):
        assert title in page
    predictor = load(summary.folder)
    assert isinstance(predictor.model, Components) and isinstance(predictor.schema, PatchSchema)
    z = predictor.schema.encoded([e.y for e in list(predictor.task.examples("test"))[:5]])
    found = predictor.model.latents_of(z, num_samples=2, generator=torch.Generator().manual_seed(0))
    assert {k: tuple(v.samples.shape) for k, v in found.items()} == {"answer": (2, 5, 24), "precision": (2, 5, 24)}
