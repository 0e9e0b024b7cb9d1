"""What a run is on disk: its files, how they are written, and how they are read back with every check."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebmstruct import storage
from ebmstruct.errors import PluginError, RunFolderError
from ebmstruct.extend.task import Schema, Task

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are then the user's own care
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = 1
CONFIG, SCHEMA, MODEL, MANIFEST = "config.yaml", "schema.json", "model.safetensors", "run.json"
SCHEMA_TENSORS, CHECKPOINT, METRICS = "schema.safetensors", "checkpoint.safetensors", "metrics.json"
TRACE_CSV, TRACE_LINES, ENVIRONMENT, DATA = "trace.csv", "trace.jsonl", "environment.json", "data.json"
STEPS, TENSORBOARD = "steps.csv", "tensorboard"
POSTERIOR, POSTERIOR_FACTS = "posterior.safetensors", "posterior.json"
REPORT, LOG, PREDICTIONS, DRAWN, GENERATED = "report.html", "run.log", "predictions", "drawn", "generated"
LOCK = ".lock"
_OURS = (
    *(CONFIG, SCHEMA, MODEL, MANIFEST, SCHEMA_TENSORS, METRICS, TRACE_CSV, TRACE_LINES, ENVIRONMENT, DATA, REPORT),
    *(STEPS, LOG, PREDICTIONS, TENSORBOARD, DRAWN, GENERATED, LOCK, POSTERIOR, POSTERIOR_FACTS),
)
_FOLDERS = (PREDICTIONS, TENSORBOARD, DRAWN, GENERATED)


class RunFolder:
    """The folder of one run. ``run.json``, with the hash of every other file, is written last and marks the end."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def finished(self) -> bool:
        """Whether a run ended here."""
        return (self.path / MANIFEST).is_file()

    @property
    def begun(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / CONFIG).is_file()

    @property
    def checkpoint(self) -> Path:
        """Where the training loop keeps its checkpoint."""
        return self.path / CHECKPOINT

    def claim(self, *, resume: bool, force: bool) -> None:
        """Find out, before any work and without a change, whether a run may be written here.

        RunFolderError where the place cannot be written, where a run is already, or where foreign files are.
        """
        self._check_writable()
        if resume:
            if not self.begun:
                raise RunFolderError(f"there is no run in {self.path} to resume; run without --resume")
            if self.finished:
                raise RunFolderError(f"the run in {self.path} is finished; --force runs it again from the start")
            return
        if not self.begun and not self._foreign():
            return
        if not self.begun:
            raise RunFolderError(f"{self.path} holds files that are not a run's; choose another folder with --output")
        if not force:
            state = "a finished" if self.finished else "an unfinished"
            way_out = "" if self.finished else "--resume continues it, "
            raise RunFolderError(
                f"there is {state} run in {self.path}; {way_out}--force replaces it, --output DIR writes elsewhere"
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from running in the folder meanwhile; a folder that stays empty is taken away again."""
        path = self.path / LOCK
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = path.open("a")
        except OSError as error:
            raise storage.cannot_write(self.path, error) from error
        with file:
            if fcntl is not None:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    raise RunFolderError(
                        f"another process is running in {self.path}; wait for it, or choose another folder"
                    ) from error
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    path.unlink()
                    self.path.rmdir()

    def begin(self, config_text: str, schema: Schema, data: Mapping[str, Any]) -> None:
        """Make the folder, take away what an earlier run left, and write schema, facts of the data and, last, config."""
        try:
            (self.path / PREDICTIONS).mkdir(parents=True, exist_ok=True)
            for name in (MANIFEST, *(n for n in _OURS if n != MANIFEST)):  # the mark of a finished run goes first
                if name not in (*_FOLDERS, LOCK):
                    (self.path / name).unlink(missing_ok=True)
            made = [p for name in (TENSORBOARD, DRAWN, GENERATED) for p in self.path.glob(name)]
            for file in (*self.path.glob("checkpoint*"), *made, *self.path.glob(".*.tmp")):
                shutil.rmtree(file) if file.is_dir() else file.unlink()
            for file in (self.path / PREDICTIONS).glob("*.jsonl"):
                file.unlink()
        except OSError as error:
            raise storage.cannot_write(self.path, error) from error
        self.write_schema(schema)
        self.write_json(DATA, data)
        storage.write_text(self.path / CONFIG, config_text)  # last: with it the run has begun, and can be resumed

    def write_schema(self, schema: Schema) -> None:
        """Write what the task has learned from the data apart from the weights."""
        values, tensors = schema.parts()
        self._check_schema(schema, values)
        storage.write_json(self.path / SCHEMA, values)
        if tensors:
            self._write_tensors(SCHEMA_TENSORS, tensors)

    def sweep(self) -> None:
        """Take away what a killed run was about to write."""
        for place in (self.path, self.path / PREDICTIONS):
            if place.is_dir():
                storage.sweep(place)

    def write_json(self, name: str, value: Any) -> None:
        """Write one of the run's JSON files."""
        storage.write_json(self.path / name, value)

    def write_text(self, name: str, text: str) -> None:
        """Write one of the run's text files."""
        storage.write_text(self.path / name, text)

    def write_model(self, model: nn.Module) -> None:
        """Write the weights."""
        self._write_tensors(MODEL, model.state_dict())

    def write_draws(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write draws of the weights; the facts come first, so that draws that are there are whole."""
        storage.write_json(self.path / POSTERIOR_FACTS, facts)
        self._write_tensors(POSTERIOR, tensors)

    def finish(self, **facts: Any) -> None:
        """Write the manifest: facts, and the hash of every file of the run. The checkpoint goes once that is done."""
        checkpoints = set(self.path.glob("checkpoint*"))
        others = {self.path / name for name in (MANIFEST, LOG, LOCK)}
        files = sorted(p for p in self.path.rglob("*") if p.is_file() and p not in checkpoints | others)
        hashes = {p.relative_to(self.path).as_posix(): storage.file_sha256(p) for p in files}
        self.write_json(MANIFEST, {"format": FORMAT, **facts, "files": hashes})
        for path in checkpoints:
            path.unlink(missing_ok=True)

    def manifest(self) -> dict[str, Any]:
        """The manifest of a finished run; RunFolderError where it is none, unfinished or of a later format."""
        if not self.path.is_dir():
            raise RunFolderError(f"there is no run folder {self.path}")
        if not self.finished:
            word = "is unfinished; continue it with --resume" if self.begun else f"is not here: {MANIFEST} is missing"
            raise RunFolderError(f"{self.path}: the run {word}")
        manifest = storage.read_json(self.path / MANIFEST)
        if manifest.get("format") != FORMAT:
            raise RunFolderError(
                f"{self.path} was written in format {manifest.get('format')!r}; this version reads {FORMAT}"
            )
        if not isinstance(manifest.get("files"), dict):
            raise RunFolderError(f"{self.path / MANIFEST} lists no files; the run is damaged")
        return manifest

    def checked(self, name: str, manifest: Mapping[str, Any]) -> bytes:
        """The bytes of a file of a finished run, once their hash has been found right."""
        data = storage.read_bytes(self.path / name, storage.MAX_JSON_BYTES if name.endswith(".json") else None)
        wanted = manifest["files"].get(name)
        if storage.sha256(data) != wanted:
            word = "is not in its manifest" if wanted is None else "is not the file that the run wrote"
            raise RunFolderError(f"{self.path / name} {word} (its hash differs); restore it or run again")
        return data

    def read_schema(self, task: Task, manifest: Mapping[str, Any] | None = None) -> Schema:
        """The schema of a run; with a manifest, only if the files' hashes are right."""
        cls = schema_type(task)
        path = self.path / SCHEMA
        limit = storage.MAX_JSON_BYTES
        data = self.checked(SCHEMA, manifest) if manifest is not None else storage.read_bytes(path, limit)
        values = storage.parse_json(data, path)
        tensors: dict[str, Tensor] = {}
        written = manifest is not None and SCHEMA_TENSORS in manifest.get("files", {})
        if written or (self.path / SCHEMA_TENSORS).is_file():
            name = SCHEMA_TENSORS
            raw = self.checked(name, manifest) if manifest is not None else storage.read_bytes(self.path / name)
            tensors = parse_tensors(raw, self.path / name)
        try:
            return cls.from_parts(values, tensors)
        except Exception as error:
            raise RunFolderError(
                f"{path} does not fit {cls.__name__}: {error}; it was written by another version of the plugin"
            ) from error

    def load_weights(self, model: nn.Module, manifest: Mapping[str, Any]) -> None:
        """Fill the model with the run's weights, after names, shapes and types have been found to agree."""
        path = self.path / MODEL
        fill(model, parse_tensors(self.checked(MODEL, manifest), path), path)

    def _write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        from safetensors.torch import save

        # clones: tied weights share memory, which the format does not hold
        storage.write_bytes(
            self.path / name, save({k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()})
        )

    def _check_schema(self, schema: Schema, values: Mapping[str, Any]) -> None:
        """A schema must come back from its files as it was; a plugin's author should hear of it at the first run."""
        for key, value in values.items():
            if storage.plain(value) != _listed(value):
                raise PluginError(
                    f"the field {key} of {type(schema).__name__} is not made of JSON values, so a run cannot save it"
                )

    def _foreign(self) -> bool:
        """Whether the folder holds anything that no run writes."""
        names = [p.name for p in self.path.iterdir()] if self.path.is_dir() else []
        return any(n not in _OURS and not n.startswith("checkpoint") and not n.endswith(".tmp") for n in names)

    def _check_writable(self) -> None:
        """Write and delete a file in the folder, or in the nearest folder above that exists."""
        place = self.path
        while not place.exists():
            if place.is_symlink() or place == place.parent:
                break
            place = place.parent
        try:
            if not place.is_dir():
                raise NotADirectoryError(None, f"{place} is a file, not a folder")
            with contextlib.closing(tempfile.TemporaryFile(dir=place)) as file:
                file.write(b"x")
                file.flush()
            if not os.access(place, os.W_OK):
                raise PermissionError(None, "the folder is read-only")
        except OSError as error:
            raise storage.cannot_write(self.path, error) from error


def schema_type(task: Task) -> type[Schema]:
    """The Schema subclass that a task's ``fit`` says it returns; PluginError where the annotation does not tell."""
    name = getattr(task, "name", type(task).__name__)
    try:
        cls = typing.get_type_hints(type(task).fit).get("return")
    except Exception:
        cls = None
    if not (isinstance(cls, type) and issubclass(cls, Schema)):
        raise PluginError(
            f"task {name}: annotate the return type of {type(task).__name__}.fit with its Schema subclass, imported "
            f"at run time, so that a run can be loaded again"
        )
    return cls


def parse_tensors(data: bytes, path: Path) -> dict[str, Tensor]:
    """The tensors in safetensors bytes; RunFolderError where they are anything else. Nothing in them is executed."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return dict(load(data))
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        said = " ".join(str(error).split())
        raise RunFolderError(f"{path} is not a whole safetensors file ({said}); restore it or run again") from error


def fill(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy tensors into a model; RunFolderError, and an untouched model, unless names, shapes and types all agree."""
    import torch

    state = model.state_dict()
    missing, extra = sorted(state.keys() - tensors.keys()), sorted(tensors.keys() - state.keys())
    if missing or extra:
        parts = [f"lacks {', '.join(missing[:3])}"] * bool(missing) + [f"has also {', '.join(extra[:3])}"] * bool(extra)
        raise RunFolderError(f"{path} does not fit the model of its config: it {' and '.join(parts)}")
    for name, wanted in state.items():
        found = tensors[name]
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            raise RunFolderError(
                f"{path} does not fit the model of its config: {name} has shape {tuple(found.shape)} and type "
                f"{found.dtype}, the model has {tuple(wanted.shape)} and {wanted.dtype}"
            )
        if found.is_floating_point() and bool(torch.isnan(found).any()):
            raise RunFolderError(f"{path}: {name} holds values that are not numbers; train again")
    model.load_state_dict(dict(tensors))


def _listed(value: Any) -> Any:
    """Tuples as lists, all the way down: the only change that JSON may make."""
    if isinstance(value, (list, tuple)):
        return [_listed(child) for child in value]
    if isinstance(value, Mapping):
        return {key: _listed(child) for key, child in value.items()}
    return value
