"""Run folders: whole files or none, nothing overwritten in silence, and hostile files told in one sentence."""

from __future__ import annotations

import json
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ebmstruct import storage
from ebmstruct.errors import RunFolderError
from ebmstruct.run import load
from ebmstruct.run.config import parse_config
from ebmstruct.run.folder import RunFolder
from ebmstruct.run.runner import run

TASK = "task: {name: toy.letters, examples_count: 12}\ntrain: {epochs: 1}\noutput: run\n"


@pytest.fixture
def finished(toy: Path) -> Path:
    """A finished run."""
    return toy / run(parse_config(TASK, "t.yaml")).folder


def rehash(folder: Path) -> None:
    """Make the manifest agree with the files again, as an attacker would."""
    manifest = json.loads((folder / "run.json").read_text())
    for name in manifest["files"]:
        if (folder / name).is_file():
            manifest["files"][name] = storage.file_sha256(folder / name)
    (folder / "run.json").write_text(json.dumps(manifest))


def test_a_run_is_complete(finished: Path) -> None:
    """All files are there, the manifest has the hash of each, and no temporary file stays."""
    names = {p.relative_to(finished).as_posix() for p in finished.rglob("*") if p.is_file()}
    assert names == {
        *("config.yaml", "schema.json", "schema.safetensors", "model.safetensors", "metrics.json", "trace.csv"),
        "steps.csv",
        *("trace.jsonl", "environment.json", "data.json", "report.html", "run.log", "run.json"),
        *("predictions/dev.jsonl", "predictions/test.jsonl"),
    }
    manifest = json.loads((finished / "run.json").read_text())
    assert set(manifest["files"]) == names - {"run.json", "run.log"}
    assert all(storage.file_sha256(finished / n) == h for n, h in manifest["files"].items())
    environment = json.loads((finished / "environment.json").read_text())
    assert {"ebmstruct", "plugins", "packages", "python", "platform", "threads", "seed"} <= set(environment)
    assert environment["plugins"] == {"toy": "ebmstruct-toy 1.2"}
    assert "12 examples" in (finished / "run.log").read_text()


def test_atomic_write(tmp_path: Path) -> None:
    """A write that fails half-way leaves the old file and nothing else."""
    path = tmp_path / "f.json"
    storage.write_json(path, {"a": (1, 2.5, float("nan"))})
    assert json.loads(path.read_text()) == {"a": [1, 2.5, None]}

    def lines():  # type: ignore[no-untyped-def]
        yield 1
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        storage.write_json_lines(path, lines())
    assert json.loads(path.read_text()) == {"a": [1, 2.5, None]} and os.listdir(tmp_path) == ["f.json"]


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    """What is no file stays what it is: a pipe gets the bytes, and so does a link to it; a link to a file is followed."""
    pipe, link, file = tmp_path / "pipe", tmp_path / "link", tmp_path / "file"
    os.mkfifo(pipe)
    for name, target in ((link, pipe), (tmp_path / "other", file)):
        name.symlink_to(target)
    for path in (pipe, link):
        end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        storage.write_text(path, "some text")
        assert os.read(end, 100) == b"some text" and pipe.is_fifo() and link.is_symlink()
        os.close(end)
    storage.write_text(tmp_path / "other", "more")
    assert file.read_text() == "more" and (tmp_path / "other").is_symlink()


def test_nothing_is_overwritten_in_silence(finished: Path) -> None:
    """A finished run needs --force, an unfinished one --resume or --force, foreign files another folder."""
    folder = RunFolder(finished)
    with pytest.raises(
        RunFolderError, match=r"finished run in .*run; --force replaces it, --output DIR writes elsewhere"
    ):
        folder.claim(resume=False, force=False)
    with pytest.raises(RunFolderError, match="is finished; --force runs it again"):
        folder.claim(resume=True, force=False)
    folder.claim(resume=False, force=True)
    (finished / "run.json").unlink()
    with pytest.raises(RunFolderError, match=r"unfinished run in .*--resume continues it, --force"):
        folder.claim(resume=False, force=False)
    folder.claim(resume=True, force=False)
    with pytest.raises(RunFolderError, match="is unfinished; continue it with --resume"):
        load(finished)
    foreign = finished.parent / "foreign"
    foreign.mkdir()
    RunFolder(foreign).claim(resume=False, force=False)
    (foreign / "thesis.tex").write_text("do not lose me")
    for force in (False, True):
        with pytest.raises(RunFolderError, match="holds files that are not a run's"):
            RunFolder(foreign).claim(resume=False, force=force)
    with pytest.raises(RunFolderError, match=r"no run in .*new to resume"):
        RunFolder(finished.parent / "new").claim(resume=True, force=False)


def test_unwritable_output(toy: Path) -> None:
    """A place that cannot be written is told before any work, and nothing is made there."""
    (toy / "file").write_text("x")
    places = [toy / "file", toy / "file" / "run", Path("/proc/run")]
    if os.geteuid() != 0:
        locked = toy / "locked"
        locked.mkdir(mode=0o500)
        places.append(locked / "run")
    before = sorted(toy.rglob("*"))
    for place in places:
        with pytest.raises(RunFolderError, match=r"cannot write .*choose another folder with --output"):
            run(parse_config(TASK, "t.yaml").with_output(place))
    assert sorted(toy.rglob("*")) == before


def test_loaded_run_predicts_the_same(finished: Path) -> None:
    """A loaded run gives the predictions that the run wrote."""
    predictor = load(finished)
    rows = [json.loads(line) for line in (finished / "predictions" / "test.jsonl").read_text().splitlines()]
    found = predictor([example.x for example in predictor.task.examples("test")])
    assert [p.output for p in found] == [row["output"] for row in rows]
    assert [p.energy for p in found] == pytest.approx([row["energy"] for row in rows], rel=1e-6)


def _pickled() -> bytes:
    class Evil:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            return (os.system, ("touch pwned",))

    return pickle.dumps(Evil())


def _header(header: dict[str, object], body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "one byte short": lambda data: data[:-1],
    "longer": lambda data: data + b"x",
    "pickle": lambda data: _pickled(),
    "torch zip": lambda data: b"PK\x03\x04" + data,
    "huge header": lambda data: struct.pack("<Q", 2**63 - 1) + data,
    "header is a list": lambda data: struct.pack("<Q", 2) + b"[]",
    "offsets outside": lambda data: _header({"unary": {"dtype": "F32", "shape": [8, 2], "data_offsets": [0, 10**12]}}),
    "shape overflows": lambda data: _header({"unary": {"dtype": "F32", "shape": [2**62, 8], "data_offsets": [0, 4]}}),
    "unknown type": lambda data: _header({"unary": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}, b"1234"),
    "nested header": lambda data: struct.pack("<Q", 200_000) + b"[" * 200_000,
    "random": lambda data: bytes(range(256)) * 9,
}


@pytest.mark.parametrize("how", HOSTILE)
@pytest.mark.parametrize("name", ["model.safetensors", "schema.safetensors"])
def test_hostile_tensors(finished: Path, name: str, how: str) -> None:
    """A hostile or damaged tensor file does nothing and gives one sentence, whether or not its hash was adapted."""
    path = finished / name
    path.write_bytes(HOSTILE[how](path.read_bytes()))
    with pytest.raises(RunFolderError, match="is not the file that the run wrote"):
        load(finished)
    rehash(finished)
    with pytest.raises(RunFolderError, match="is not a whole safetensors file") as caught:
        load(finished)
    assert "\n" not in str(caught.value)
    assert not (finished.parent / "pwned").exists() and not Path("pwned").exists()


def test_wrong_tensors(finished: Path) -> None:
    """Weights that do not fit the model are told by name: missing, extra, shape, type, not a number."""
    path = finished / "model.safetensors"
    right = load_file(path)
    cases = {
        "lacks unary": {"transition": right["transition"]},
        "has also extra": {**right, "extra": torch.zeros(1)},
        r"unary has shape \(3, 2\)": {**right, "unary": torch.zeros(3, 2)},
        "type torch.float64": {**right, "unary": right["unary"].double()},
        "not numbers": {**right, "unary": right["unary"] * float("nan")},
    }
    for said, tensors in cases.items():
        save_file(tensors, path)
        rehash(finished)
        with pytest.raises(RunFolderError, match=said):
            load(finished)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("run.json", "", "is not JSON"),
        ("run.json", "[]", "holds list where a JSON object belongs"),
        ("run.json", "[" * 100_000, "is not JSON"),
        ("run.json", "{}", "was written in format None; this version reads 1"),
        ("run.json", '{"format": 1, "files": 3}', "lists no files"),
        ("run.json", '{"format": 1, "files": {}}', "is not in its manifest"),
        ("schema.json", '{"format": NaN', "is not JSON"),
        ("schema.json", "\x00\x01", "is not JSON"),
        ("schema.json", '{"labels": []}', "does not fit ToySchema"),
        ("schema.json", '{"labels": [], "letters": [], "__class__": "os.system"}', "does not fit ToySchema"),
    ],
)
def test_hostile_json(finished: Path, name: str, content: str, said: str) -> None:
    """JSON files that are not what a run writes give one sentence."""
    (finished / name).write_text(content)
    if name != "run.json":
        rehash(finished)
    with pytest.raises(RunFolderError, match=said):
        load(finished)


def test_hostile_config(finished: Path) -> None:
    """A config with a tag is refused even when its hash was adapted; nothing is executed."""
    (finished / "config.yaml").write_text("task: !!python/object/apply:os.system ['touch pwned']\n")
    rehash(finished)
    with pytest.raises(ValueError, match="nothing is executed"):
        load(finished)
    assert not Path("pwned").exists()


def test_missing_files(finished: Path) -> None:
    """A file that is gone, or a folder that never was, is named."""
    (finished / "model.safetensors").unlink()
    with pytest.raises(RunFolderError, match=r"model\.safetensors cannot be read: No such file"):
        load(finished)
    with pytest.raises(RunFolderError, match="there is no run folder nowhere"):
        load("nowhere")
    (finished.parent / "empty").mkdir()
    with pytest.raises(RunFolderError, match=r"run is not here: run\.json is missing"):
        load(finished.parent / "empty")


def test_two_processes_one_folder(toy: Path) -> None:
    """While a run is in a folder a second one is refused; the lock leaves nothing behind."""
    folder = RunFolder(toy / "run")
    with folder.locked(), pytest.raises(RunFolderError, match="another process is running in"), folder.locked():
        pass
    assert not (toy / "run").exists()
