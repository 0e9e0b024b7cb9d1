"""The report of a model of pictures: real beside drawn ones, copies, completions, and what the energy holds unusual."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ebmstruct import Budget, EnergyModel, SolverRefusal, marginals
from ebmstruct.errors import EbmstructError
from ebmstruct.extend import Chart, Evaluation, Picture, Section, Table
from ebmstruct_generative.images.novelty import HELD_OUT, auroc, name_of, other_pictures, picture_energies
from ebmstruct_generative.images.schema import CLASS, CLASS_PART, IMAGE_PART, ImageSchema, stacked
from ebmstruct_generative.images.scores import LEAST, calibration_error
from ebmstruct_generative.quality import nearest_record
from ebmstruct_generative.sheets import PAPER, grid, in_rows, scale_of, side_by_side

if TYPE_CHECKING:
    from ebmstruct_generative.images.task import Images

log = logging.getLogger(__name__)

EACH = 10
"""Pictures of a class in a row."""
CLASSES = 20
"""Classes on a sheet; more do not fit a page."""
ACROSS = 16
SECONDS = 10.0
"""That completing pictures for the report may take."""


def sections(task: Images, evaluation: Evaluation, model: EnergyModel, schema: ImageSchema) -> list[Section]:
    """All sections of one split; what looks beyond it is in the last one's alone."""
    real = [e.y for e in evaluation.examples]
    train = schema.to_vectors(task.pictures["train"].pixels)
    drawn = schema.to_vectors(stacked(evaluation.outputs).astype(np.float32))
    out: list[Section] = [_sheet(real, evaluation.outputs, schema)]
    out += _copies(drawn, schema.to_vectors(stacked(real)), train, schema)
    out += _by_class(task, evaluation.outputs, drawn, schema)
    makers = [_classification]
    if evaluation.split == task.splits()[-1]:
        makers += [_unusual, _completed, _filters]
    for make in makers:
        try:
            out += make(task, evaluation, model, schema)
        except EbmstructError as fault:  # a report without one section is better than none
            log.warning("a section of the report was left out: %s", fault)
    return out


def _sheet(real: Sequence[Mapping[str, Any]], drawn: Sequence[Mapping[str, Any]], schema: ImageSchema) -> Picture:
    """Real ones on the left, drawn ones on the right; a class in each row, where there are classes."""
    there = {r[CLASS_PART] for r in (*real, *drawn) if CLASS_PART in r}
    names = tuple(n for n in schema.classes if n in there)[:CLASSES] if all(CLASS_PART in r for r in drawn) else ()
    parts = []
    for records in (real, drawn):
        if names:
            rows = [[r for r in records if r.get(CLASS_PART) == n][:EACH] for n in names]
        else:
            rows = [list(records[i * EACH : (i + 1) * EACH]) for i in range(min(EACH, max(1, len(records) // EACH)))]
        blank = np.full((1, *schema.size), PAPER, np.uint8)
        parts.append(in_rows([schema.bytes_of(stacked(r)) if r else blank for r in rows]))
    pixels = side_by_side(parts)
    note = "Left: pictures that the model has not seen. Right: drawn ones, none chosen by hand."
    if names:
        note += f" {'Class' if len(names) == 1 else 'Rows'}: {', '.join(names)}."
    return Picture("Real and drawn", pixels, scale_of(pixels), note)


def _copies(drawn: np.ndarray, real: np.ndarray, train: np.ndarray, schema: ImageSchema) -> list[Section]:
    """Drawn ones above the training pictures that are nearest to them, and the distances."""
    drawn = drawn[np.isfinite(drawn).all(1)]
    if min(len(drawn), len(real), len(train)) < LEAST:
        return []
    found = nearest_record(drawn, real, train)
    some = slice(0, ACROSS)
    rows = [schema.bytes_of(schema.to_pixels(v)) for v in (drawn[some], train[found.index[some]])]
    pixels = in_rows(rows)
    told = (
        "they lie nearer to the training pictures than unseen ones do: the model has begun to copy; train for fewer epochs"
        if found.ratio < 0.9
        else "no nearer to the training pictures than unseen real ones are"
    )
    note = (
        "Above drawn ones, below the training pictures that are nearest to them. Median distance, over that of unseen "
        f"real pictures: {found.ratio:.2f}; {told}."
    )
    series = {"unseen real": found.held_out.tolist(), "drawn": found.generated.tolist()}
    return [
        Picture("The nearest training pictures", pixels, scale_of(pixels), note),
        Chart("Distance to the nearest training picture", series, x_label="distance", kind="histogram"),
    ]


def _by_class(
    task: Images, outputs: Sequence[Mapping[str, Any]], drawn: np.ndarray, schema: ImageSchema
) -> list[Section]:
    """How often the judge sees in a picture what it was drawn to be."""
    classes = [str(o.get(CLASS_PART)) for o in outputs]
    if task.judge is None or "None" in classes:
        return []
    right, names = task.judge.right(drawn, classes), np.asarray(classes)
    rows: list[list[Any]] = [
        [n, int((names == n).sum()), f"{100 * right[names == n].mean():.1f} %"]
        for n in schema.classes
        if (names == n).any()
    ]
    rows.append(["all", len(right), f"{100 * right.mean():.1f} %"])
    note = (
        "The judge is a support vector machine on the training pictures, which knows nothing of the model. Of unseen real "
        f"pictures it gets {100 * task.judge.accuracy:.1f} % right."
    )
    return [
        Table(
            "Drawn pictures that are classified as what they were drawn to be", ["class", "drawn", "right"], rows, note
        )
    ]


def _classification(task: Images, evaluation: Evaluation, model: EnergyModel, schema: ImageSchema) -> list[Section]:
    """Accuracy and calibration of p(class | picture), where the energy is one of both."""
    known = [e.y for e in evaluation.examples if e.y.get(CLASS_PART) in schema.classes]
    if not known:
        return []
    graph = model.graph([{}] * len(known))
    if CLASS not in graph.variables:
        return []
    rows_of_it = torch.from_numpy(schema.to_vectors(stacked(known)))
    with torch.no_grad():
        belief = marginals(graph.condition(schema.values(graph, rows_of_it))).beliefs[CLASS].cpu().numpy()
    right = belief.argmax(1) == np.array([schema.classes.index(y[CLASS_PART]) for y in known])
    rows: list[list[Any]] = [
        ["pictures", len(known)],
        ["accuracy", f"{100 * right.mean():.2f} %"],
        ["expected calibration error", f"{calibration_error(belief.max(1), right):.4f}"],
        ["mean probability of the answer", f"{100 * belief.max(1).mean():.2f} %"],
    ]
    return [Table("The model as a classifier", ["figure", "value"], rows)]


def _unusual(task: Images, evaluation: Evaluation, model: EnergyModel, schema: ImageSchema) -> list[Section]:
    """Energies of unseen real pictures and of other data, and how well they part."""
    names = [*task.ood]
    held = task.pictures.get(HELD_OUT)
    if held is not None and HELD_OUT not in names:
        names.append(HELD_OUT)
    if not names:
        return []
    own = picture_energies(model, schema, schema.to_vectors(stacked([e.y for e in evaluation.examples])))
    series, rows = {"unseen real": own.tolist()}, []
    for name in names:
        rows_of_it = other_pictures(name, schema, task.crop, None if held is None else held.pixels)
        if not len(rows_of_it):
            continue
        found = picture_energies(model, schema, rows_of_it)
        series[name_of(name)] = found.tolist()
        rows.append([name_of(name), len(found), f"{auroc(own, found):.3f}", f"{np.median(found):.4g}"])
    if not rows:
        return []
    note = (
        "The probability that one of the other pictures has a higher energy than an unseen real one: 0.5 is no difference, "
        f"1 parts them all. The median energy of unseen real ones is {np.median(own):.4g}."
    )
    cut = float(np.quantile(np.concatenate([np.asarray(v) for v in series.values()]), 0.98))
    shown = {k: [e for e in v if e <= cut] for k, v in series.items()}
    return [
        Table("Other data, told apart by energy", ["data", "pictures", "AUROC", "median energy"], rows, note),
        Chart("Energies", {k: v for k, v in shown.items() if v}, x_label="energy", kind="histogram",
              note="The highest 2 % are left out."),
    ]  # fmt: skip


def _completed(task: Images, evaluation: Evaluation, model: EnergyModel, schema: ImageSchema) -> list[Section]:
    """The upper half of some pictures given, the rest drawn."""
    height = schema.size[0]
    some = [e.y for e in evaluation.examples[:ACROSS]]
    if height < 2 or not some:
        return []
    xs = []
    for record in some:
        pixels = np.asarray(record["pixels"], dtype=np.float32).copy()
        pixels[height // 2 :] = np.nan
        own = {CLASS_PART: record[CLASS_PART]} if task.conditional and CLASS_PART in record else {}
        xs.append({IMAGE_PART: pixels, **own})
    with torch.no_grad():
        graph = model.graph(xs)
        fixed = task.evidence(xs, graph, schema)
        graph = graph if fixed is None else graph.condition(fixed)
        try:
            budget = Budget.after(SECONDS)
            _, records = task.draw(graph, schema, budget=budget, generator=torch.Generator().manual_seed(0))
        except SolverRefusal as fault:
            log.info("no completion in the report: %s", fault)
            return []
    known = schema.bytes_of(np.nan_to_num(np.stack([x[IMAGE_PART] for x in xs]), nan=schema.low))
    known[:, height // 2 :] = 128
    pixels = in_rows([schema.bytes_of(stacked(some)), known, schema.bytes_of(stacked(records))])
    note = "Above unseen pictures, in the middle what is given of them, below what is drawn given that."
    return [Picture("Completed", pixels, scale_of(pixels), note)]


def _filters(task: Images, evaluation: Evaluation, model: EnergyModel, schema: ImageSchema) -> list[Section]:
    """What a model's units look for, where it can tell: ``filters`` gives (M, dim)."""
    maker = getattr(model, "filters", None)
    if maker is None:
        return []
    found = maker() if callable(maker) else maker
    rows = np.asarray(found.detach().cpu() if isinstance(found, torch.Tensor) else found, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != schema.dim or not len(rows):
        return []
    rows = rows[:256]
    largest = np.maximum(np.abs(rows).max(1, keepdims=True), 1e-12)
    channels, height, width = schema.shape
    tiles = ((rows / largest + 1) * 127.5).reshape(-1, channels, height, width)
    tiles = tiles[:, 0] if channels == 1 else tiles.transpose(0, 2, 3, 1)
    pixels = grid(np.rint(tiles).astype(np.uint8), min(ACROSS, len(rows)))
    return [Picture("Filters", pixels, scale_of(pixels), "Each scaled by its own largest weight; grey is 0.")]


def strip_of(drawn: Mapping[int, Sequence[Any]], schema: ImageSchema) -> list[Section]:
    """Rows of what was drawn after some of the epochs, all from one seed."""
    epochs = sorted(e for e, records in drawn.items() if records)
    if not epochs:
        return []
    if len(epochs) > ACROSS:
        epochs = [epochs[(i * (len(epochs) - 1)) // (ACROSS - 1)] for i in range(ACROSS)]
    pixels = in_rows([schema.bytes_of(stacked(drawn[e][:ACROSS])) for e in epochs])
    note = f"A row after each of the epochs {', '.join(map(str, epochs))}; the same seed every time."
    return [Picture("Drawn while it was trained", pixels, scale_of(pixels), note)]
