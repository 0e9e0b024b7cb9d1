"""``ebmstruct generate``: new records from a finished run, and how good they are beside records of the data."""

from __future__ import annotations

import argparse
import itertools
import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ebmstruct import storage
from ebmstruct.errors import DataError, EbmstructError
from ebmstruct.extend.generative import Generative
from ebmstruct.extend.task import Evaluation, Example
from ebmstruct.run.commands import scores, stoppable
from ebmstruct.run.drawing import MOST, Drawn, at_length_of, draws, energies, generative, some_of
from ebmstruct.run.folder import GENERATED
from ebmstruct.run.predictor import Predictor, load
from ebmstruct.run.progress import display
from ebmstruct.run.quality_page import write_quality
from ebmstruct.run.runner import Progress

if TYPE_CHECKING:
    from ebmstruct.run.runner import OnProgress

logger = logging.getLogger(__name__)

FEWEST = 20
"""Fewer records than this, drawn or held out, are too few to be judged."""


@dataclass(frozen=True)
class Generated:
    """What was written: the file or folder of records, how many, their quality, and the page that shows it.

    quality: the task's measures against held-out records; empty where they could not be taken, and why says why.
    """

    path: Path
    count: int
    quality: Mapping[str, Any] = field(default_factory=dict)
    report: Path | None = None
    why: str = ""


def command(arguments: argparse.Namespace) -> None:
    """Draw records as the command line asks."""
    quiet = getattr(arguments, "quiet", False)
    with stoppable(), display(quiet=quiet) as shown:
        found = generate(
            arguments.run,
            arguments.num,
            given=arguments.given,
            seed=arguments.seed,
            output=Path(arguments.output) if arguments.output else None,
            judge=not arguments.no_quality,
            device=arguments.device,
            on_progress=shown,
        )
    if arguments.json:
        told = {"records": found.count, "path": str(found.path), "quality": dict(found.quality), "why_not": found.why}
        sys.stdout.write(_json(told))
    elif not quiet:
        sys.stdout.write(f"{found.count} records: {found.path}\n")
        if found.quality:
            sys.stdout.write(f"{scores('against held-out records', found.quality)}\nquality report: {found.report}\n")
        elif found.why:
            sys.stdout.write(f"no quality report: {found.why}\n")


def generate(
    run: Path | str,
    count: int,
    *,
    given: Sequence[str] = (),
    seed: int = 0,
    output: Path | None = None,
    judge: bool = True,
    device: str = "cpu",
    on_progress: OnProgress | None = None,
) -> Generated:
    """Draw ``count`` records from a finished run and write them, in the format that its data came in.

    given: texts ``PART=VALUE``: what every record has; the rest is drawn.  seed: the same one gives the same file.
    output: a file or folder; by default one in the run folder.  judge: also hold them against held-out records.
    The records are drawn and written piece by piece, so that memory does not grow with their number.
    Errors: any EbmstructError, before anything is written or with nothing left of it.
    """
    tell = on_progress or (lambda progress: None)
    predictor = load(run, device=device)
    task = generative(predictor)
    if count < 1:
        raise DataError(f"--num asks for {count} records; at least 1 is needed")
    x = task.given(given, predictor.schema)
    path = output if output is not None else _own_path(Path(run) / GENERATED, seed, given, task.suffix)
    if not path.parent.exists():
        if output is not None:
            raise DataError(f"there is no folder {path.parent} for --output {path}; make it, or choose another")
        _make(path.parent)
    kept: list[Any] = []
    energy: list[float] = []
    parts = _told(_drawn(predictor, x, count, seed), count, tell)
    task.write(_keeping(parts, kept, energy), path, predictor.schema)
    if path.is_file() or path.is_dir():
        for ending in ("html", "json"):  # the report of records that stood there before
            path.with_name(f"{path.stem}.quality.{ending}").unlink(missing_ok=True)
    if not judge:
        return Generated(path, count)
    tell(Progress("measuring quality"))
    try:
        found, why = _judged(predictor, task, x, kept)
    except (EbmstructError, OSError) as error:
        found, why = None, str(error)
    if found is None:
        return Generated(path, count, why=why)
    page = _page(Path(run), path, seed)
    sections = task.render(found, predictor.model, predictor.schema)
    said = f"{count} records drawn from {Path(run).name}" + (f", given {', '.join(given)}" if given else "")
    numbers = {k: v for k, v in found.metrics.items() if k != "quality"}
    figures = {"metrics": numbers, **found.metrics.get("quality", {})}
    write_quality(page, page.with_suffix(".json"), figures, sections, said)
    return Generated(path, count, found.metrics, page)


def _own_path(folder: Path, seed: int, given: Sequence[str], suffix: str) -> Path:
    """A path named by what makes the records; where it would be a folder that is there already, one with a number."""
    parts = [re.sub(r"[^\w=.+-]+", "_", text.replace(".", "_"))[:40] for text in given]
    stem = "-".join([f"seed-{seed}", *parts])[:120]
    if suffix:
        return folder / f"{stem}{suffix}"
    names = itertools.chain([stem], (f"{stem}-{i}" for i in itertools.count(2)))
    return next(folder / name for name in names if not (folder / name).exists())


def _page(run: Path, path: Path, seed: int) -> Path:
    """Where the quality report goes: beside the records; into the run folder where these went into a pipe or a device."""
    if path.is_file() or path.is_dir():
        return path.with_name(f"{path.stem}.quality.html")
    _make(run / GENERATED)
    return run / GENERATED / f"seed-{seed}.quality.html"


def _make(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise storage.cannot_write(folder, error) from error


def _drawn(predictor: Predictor, x: Mapping[str, Any], count: int, seed: int) -> Iterator[Drawn]:
    import torch

    return draws(predictor, x, count, torch.Generator().manual_seed(seed))


def _told(parts: Iterator[Drawn], count: int, tell: Callable[[Progress], None]) -> Iterator[Drawn]:
    """The same parts; progress is told after each."""
    done = 0
    tell(Progress("drawing records", 0, count))
    for part in parts:
        yield part
        done += len(part.records)
        tell(Progress("drawing records", done, count))


def _keeping(parts: Iterator[Drawn], kept: list[Any], energy: list[float]) -> Iterator[Any]:
    """The records one by one; the first MOST are kept, with their energies."""
    for part in parts:
        room = MOST - len(kept)
        kept += part.records[:room]
        energy += part.energy[:room]
        yield from part.records


def _judged(
    predictor: Predictor, task: Generative, x: Mapping[str, Any], records: list[Any]
) -> tuple[Evaluation | None, str]:
    """The records held against held-out ones that have what was given; or None, and why."""
    split = next((s for s in ("test", "dev", "train") if s in task.splits()), "train")
    examples = task.examples(split)

    def like(record: Any) -> bool:
        return task.has(record, x, predictor.schema)

    found = (e for e in examples if like(e.y))
    real: list[Example] = some_of(list(itertools.islice(found, 20 * MOST)), MOST)
    if min(len(real), len(records)) < FEWEST:
        what = f"{len(real)} held-out records have what is given" if x else f"{len(real)} records are held out"
        return None, f"{what} and {len(records)} were drawn; at least {FEWEST} of each are needed to compare"
    at_length = at_length_of(task, real, records, like if x else None)
    metrics = {"examples": len(records), **task.score(real, records), **at_length}
    seen = some_of([Example({}, r) for r in records], len(real))
    own = some_of(real, len(seen))
    made, there = energies(predictor, [e.y for e in seen]), energies(predictor, [e.y for e in own])
    nothing = [float("inf")] * len(own)
    return Evaluation(split, own, [e.y for e in seen], made, there, nothing, ["DRAWN"] * len(own), metrics), ""


def _json(value: Any) -> str:
    import json

    return json.dumps(storage.plain(value), ensure_ascii=False, indent=2) + "\n"
