"""The task ``generative.images``: learn what pictures look like, draw new ones, fill in parts, tell what is unlike them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Generator

from ebmstruct import Assignment, Budget, EnergyModel, Example, FactorGraph, Solver, marginals
from ebmstruct.errors import DataError, SolverRefusal
from ebmstruct.extend import Evaluation, Generative, Inference, Section
from ebmstruct.storage import file_sha256
from ebmstruct_generative.images import given as parts
from ebmstruct_generative.images.files import ENDINGS, read_picture
from ebmstruct_generative.images.layout import all_known, record_block
from ebmstruct_generative.images.novelty import HELD_OUT, energies_of, picture_energies, quantiles
from ebmstruct_generative.images.pictures import Pictures, Sizing
from ebmstruct_generative.images.schema import (
    CLASS,
    CLASS_PART,
    FILE_PART,
    IMAGE_PART,
    ImageSchema,
    fitted,
    in_units,
    stacked,
)
from ebmstruct_generative.images.scores import LEAST, Judge, drawn_scores
from ebmstruct_generative.images.sources import DIGITS, Source, read_source
from ebmstruct_generative.images.splits import split_up
from ebmstruct_generative.images.writing import written
from ebmstruct_generative.quality import quality_report

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Images(Generative):
    """Pictures, grey or in colour, with or without classes.

    data: ``digits`` (scikit-learn's, 8 x 8), a folder of pictures (subfolders are classes, or train, dev and test), a
    folder of MNIST files or one of them, or NPZ arrays.
    size: a number or [height, width] to which pictures are brought; none: they have one size.  colour: true or false; none:
    as most of the data.  crop: cut centrally to the shape wanted; false: stretched.
    hold_out: classes that are kept out of training and serve as other data.  ood: data to tell apart by energy in the
    report: ``noise``, ``patches`` (of a photograph), ``held_out``, or paths.
    conditional: the class is given to energies that take it as an input.
    dev_fraction, test_fraction, split_seed: what is drawn for dev and test where the data do not say.
    """

    name: ClassVar[str] = "generative.images"
    metric: ClassVar[str] = "fidelity"
    suffix: ClassVar[str] = ""
    reads_paths: ClassVar[bool] = True
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "energy": {"name": "generative.joint_classifier"},
        "solver": {"name": "langevin", "step_size": 0.01},
        "loss": {"name": "hybrid_likelihood", "given": "record"},
        "train": {"optimizer": "adam", "lr": 1e-3, "epochs": 100, "batch_size": 128, "schedule": "cosine", "ema": 0.999,
                  "clip": 10.0, "evaluate_every": 50},
    }  # fmt: skip

    data: str = DIGITS
    size: int | tuple[int, int] | None = None
    colour: bool | None = None
    crop: bool = True
    hold_out: tuple[str, ...] = ()
    ood: tuple[str, ...] = ("noise",)
    conditional: bool = True
    dev_fraction: float = 0.1
    test_fraction: float = 0.2
    split_seed: int = 0

    def __post_init__(self) -> None:
        for name in ("dev_fraction", "test_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be from 0 up to, but not, 1; found {getattr(self, name)}")
        if self.dev_fraction + self.test_fraction >= 1:
            raise ValueError("dev_fraction and test_fraction must leave some pictures to train on")
        wanted = (self.size,) if isinstance(self.size, int) else self.size or ()
        if any(n < 1 or n > 4096 for n in wanted):
            raise ValueError(f"size must be from 1 to 4096 pixels; found {self.size}")

    @property
    def sizing(self) -> Sizing:
        """How pictures are brought to one size."""
        return Sizing(self.size, self.colour, self.crop)

    @cached_property
    def source(self) -> Source:
        """What the option ``data`` names, read at the first use."""
        return read_source(self.data, self.sizing)

    @cached_property
    def pictures(self) -> dict[str, Pictures]:
        """The splits, and ``held_out`` where classes are."""
        found = split_up(self.source.parts, dev=self.dev_fraction, test=self.test_fraction, seed=self.split_seed)
        if not self.hold_out:
            return found
        missing = set(map(str, self.hold_out)) - {c for p in found.values() for c in p.classes}
        if missing:
            raise DataError(f"hold_out names {sorted(missing)}, and the pictures have no such class")
        parted = {s: p.without([str(c) for c in self.hold_out]) for s, p in found.items()}
        out = {s: kept for s, (kept, _) in parted.items()}
        if not len(out["train"]):
            raise DataError("hold_out leaves no training picture")
        pixels = np.concatenate([left.pixels for _, left in parted.values()])
        return {**out, HELD_OUT: Pictures(pixels, (), ("",) * len(pixels))}

    def splits(self) -> Sequence[str]:
        return tuple(s for s in self.pictures if s != HELD_OUT)

    def examples(self, split: str) -> Sequence[Example]:
        if split not in self.pictures:
            raise DataError(f"there is no split {split!r}; there are {', '.join(self.splits())}")
        return self._examples(self.pictures[split])

    def _examples(self, found: Pictures) -> list[Example]:
        out = []
        for i, source in enumerate(found.sources):
            own = {CLASS_PART: found.classes[i]} if found.classes else {}
            out.append(Example(own if self.conditional else {}, {"pixels": found.pixels[i], **own}, source))
        return out

    def examples_from(self, path: Path, split: str = "test") -> Sequence[Example]:
        """All pictures of a path, or its part that is named ``split``, at the size and in the units of the data."""
        train = self.pictures["train"]
        size: Any = self.sizing.size if self.sizing.size is not None else train.size[:2]
        found = read_source(str(path), replace(self.sizing, size=size, colour=len(train.size) == 3)).parts
        part = found.get(split, next(iter(found.values())))
        part = replace(part, pixels=in_units(part.pixels, train.pixels))
        return self._examples(part)

    def fit(self, train: Sequence[Example]) -> ImageSchema:
        return fitted(stacked([e.y for e in train]), [e.y[CLASS_PART] for e in train if CLASS_PART in e.y])

    def encode(self, ys: Sequence[Any], graph: FactorGraph, schema: Any) -> Assignment:
        """Pixels from -1 to 1, unknown where they are NaN or missing; the class where the graph has a block of it."""
        rows = self._rows(ys, schema)
        found = schema.values(graph, rows.to(graph.variables[record_block(graph)].offsets.device))
        values, masks = dict(found.values), dict(found.known)
        if CLASS in graph.variables:
            device = graph.variables[CLASS].offsets.device
            names = [None if y is None else y.get(CLASS_PART) for y in ys]
            places = [schema.classes.index(n) if n in schema.classes else -1 for n in names]
            states = torch.tensor(places, device=device)
            values[CLASS] = states.clamp(min=0)
            if -1 in places:
                masks[CLASS] = states >= 0
        return Assignment(values, masks)

    def _rows(self, ys: Sequence[Any], schema: ImageSchema) -> torch.Tensor:
        """(B, dim) vectors, NaN where nothing is known."""
        pixels = [None if y is None else y.get("pixels") for y in ys]
        if any(p is None for p in pixels):
            nothing = np.full(schema.size, np.nan, np.float32)
            pixels = [nothing if p is None else p for p in pixels]
        if not pixels:
            return torch.zeros(0, schema.dim)
        wrong = next((np.asarray(p).shape for p in pixels if np.asarray(p).shape != schema.size), None)
        if wrong is not None:
            raise DataError(f"a picture of shape {wrong}, and the model's have {schema.size}; set size: when reading")
        return torch.from_numpy(schema.to_vectors(np.stack([np.asarray(p) for p in pixels])))

    def decode(self, y: Assignment, graph: FactorGraph, schema: Any) -> list[Any]:
        """Pixels in the data's own units, at the levels that the data have, and the class where the graph has it."""
        pixels = schema.to_pixels(schema.vectors(graph, y).detach().cpu().numpy())
        records: list[dict[str, Any]] = [{"pixels": p.tolist()} for p in pixels]
        if CLASS in graph.variables and CLASS in y:
            for record, state in zip(records, y[CLASS].tolist(), strict=True):
                record[CLASS_PART] = schema.classes[state]
        return records

    def given(self, texts: Sequence[str], schema: Any) -> Mapping[str, Any]:
        return parts.parsed(texts, schema, self.sizing)

    def inputs(self, x: Mapping[str, Any], count: int, schema: Any, generator: Generator) -> list[Any]:
        """Classes that are left open are drawn as often as the training pictures have them."""
        if not self.conditional or not schema.classes or CLASS_PART in x:
            return [x] * count
        weight = torch.tensor(schema.class_counts, dtype=torch.float64)
        drawn = torch.multinomial(weight, count, replacement=True, generator=generator) if count else weight[:0].long()
        return [{**x, CLASS_PART: schema.classes[k]} for k in drawn.tolist()]

    def inputs_of(self, records: Sequence[Any], schema: Any) -> list[Any]:
        found = [r.get(CLASS_PART) for r in records]
        return [{CLASS_PART: c} if self.conditional and c in schema.classes else {} for c in found]

    def has(self, record: Any, x: Mapping[str, Any], schema: Any) -> bool:
        """Of the class that is given; no picture of the data has the pixels that are."""
        return (
            IMAGE_PART not in x
            and FILE_PART not in x
            and (CLASS_PART not in x or record.get(CLASS_PART) == x[CLASS_PART])
        )

    def partial(self, x: Any, schema: Any) -> Any:
        out = {"pixels": x[IMAGE_PART]} if IMAGE_PART in x else {}
        if FILE_PART in x:
            out = {"pixels": parts.fitting(x[FILE_PART], schema, self.sizing)}
        return {**out, CLASS_PART: x[CLASS_PART]} if CLASS_PART in x else out

    def evidence(self, xs: Sequence[Any], graph: FactorGraph, schema: Any) -> Assignment | None:
        found = super().evidence(xs, graph, schema)
        if found is None:
            return None
        open_ = [n for n, mask in found.known.items() if not bool(mask.any())]
        values = {n: v for n, v in found.values.items() if n not in open_}
        return Assignment(values, {n: m for n, m in found.known.items() if n in values}) if values else None

    def with_given(self, records: Sequence[Any], xs: Sequence[Any], schema: Any) -> list[Any]:
        pairs = zip(records, xs, strict=True)
        return [{**r, CLASS_PART: x[CLASS_PART]} if CLASS_PART in x else r for r, x in pairs]

    def write(self, records: Iterable[Any], path: Path, schema: Any) -> None:
        written(records, path, schema)

    def infer(
        self,
        graph: FactorGraph,
        schema: Any,
        *,
        solver: Solver | None = None,
        budget: Budget | None = None,
        detail: bool = False,
    ) -> Inference:
        """What is missing by the least energy; of whole pictures the class, its probability, and how unusual they are."""
        found = super().infer(graph, schema, budget=budget, detail=detail)
        outputs = found.outputs
        if all_known(graph, record_block(graph)):
            energy = energies_of(graph).tolist()
            strange = schema.out_of_distribution(energy)
            outputs = [{k: v for k, v in o.items() if k != "pixels"} for o in outputs]
            for output, e, s in zip(outputs, energy, strange, strict=True):
                output |= {"energy": e, "out_of_distribution": s}
        if detail and CLASS in graph.variables and all_known(graph, record_block(graph)):
            outputs = _with_probabilities(outputs, graph)
        return Inference(found.result, outputs)

    def tune(self, model: EnergyModel, schema: Any, dev: Sequence[Example], *, solver: Solver | None = None) -> Any:
        """The schema with quantiles of the energies of dev pictures, by which others are held unusual or not."""
        rows = schema.to_vectors(stacked([e.y for e in dev]))
        return replace(schema, energies=quantiles(picture_energies(model, schema, rows)))

    @cached_property
    def judge(self) -> Judge | None:
        """A classifier that has nothing to do with the model; None without classes."""
        train, other = self.pictures["train"], self.pictures.get("test", self.pictures["train"])
        schema = fitted(train.pixels, train.classes)
        return Judge.of(schema.to_vectors(train.pixels), train.classes, schema.to_vectors(other.pixels), other.classes)

    def score(self, examples: Sequence[Example], outputs: Sequence[Any]) -> dict[str, Any]:
        """Measures of ``drawn_scores``, and the share of pictures drawn with a class that the judge gives this class."""
        train = self.pictures["train"]
        schema = fitted(train.pixels, ())
        drawn = schema.to_vectors(stacked(outputs).astype(np.float32))
        real = schema.to_vectors(stacked([e.y for e in examples]))
        found: dict[str, Any] = drawn_scores(real, drawn, schema.to_vectors(train.pixels))
        classes = [o.get(CLASS_PART) for o in outputs]
        if self.judge is not None and None not in classes:
            found["class_accuracy"] = float(self.judge.right(drawn, [str(c) for c in classes]).mean())
            found["class_accuracy_of_real"] = self.judge.accuracy
        return found

    def quality(
        self, examples: Sequence[Example], records: Sequence[Any], like: Callable[[Any], bool] | None = None
    ) -> dict[str, Any]:
        """The report of ``quality_report``, with the training pictures among what it compares."""
        train = self.pictures["train"]
        schema = fitted(train.pixels, ())
        if like is not None and train.classes:
            own = [i for i, name in enumerate(train.classes) if like({CLASS_PART: name})]
            train = train.take(own) if len(own) >= LEAST else train
        real, drawn = (schema.to_vectors(stacked(r).astype(np.float32)) for r in ([e.y for e in examples], records))
        return quality_report(real, drawn, schema.to_vectors(train.pixels))

    def render(self, evaluation: Evaluation, model: EnergyModel, schema: Any) -> list[Section]:
        from ebmstruct_generative.images.rendering import sections

        return sections(self, evaluation, model, schema)

    def strip(self, drawn: Mapping[int, Sequence[Any]], schema: Any) -> list[Section]:
        from ebmstruct_generative.images.rendering import strip_of

        return strip_of(drawn, schema)

    def read(self, raw: str) -> list[Any]:
        """The pictures of a file or a folder, by its path."""
        path = Path(raw.strip())
        try:
            there = bool(raw.strip()) and path.exists()
        except (OSError, ValueError):  # a long text, or one with a NUL, is no path
            there = False
        if not there:
            shown = raw.strip() if len(raw) < 200 else raw.strip()[:200] + " ..."
            raise DataError(f"{shown!r}: there is no such picture; give the path of a file or a folder of them")
        if not path.is_dir():
            return [{FILE_PART: read_picture(path), "name": path.name}]
        files = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in ENDINGS)
        if not files:
            raise DataError(f"{path}: the folder holds no picture; legal are files {', '.join(ENDINGS)}")
        return [{FILE_PART: read_picture(p), "name": str(p.relative_to(path))} for p in files]

    def record(self, x: Any, output: Any) -> dict[str, Any]:
        return {"name": x["name"], "output": output} if "name" in x else {"output": output}

    def show(self, x: Any, output: Any) -> str:
        """``class 3 (98 %), energy -12.3, less usual than 97 % of held-out pictures``."""
        told = [f"{x['name']}:"] if "name" in x else []
        if CLASS_PART in output:
            chance = output.get("probability")
            told.append(f"class {output[CLASS_PART]}" + ("" if chance is None else f" ({100 * chance:.1f} %)"))
        if "energy" in output:
            told.append(f"energy {output['energy']:.4g}")
        strange = output.get("out_of_distribution")
        if strange is not None:
            told.append(f"less usual than {100 * strange:.1f} % of the held-out pictures")
        if "pixels" in output:
            told.append("completed")
        return ", ".join(told).replace(":,", ":", 1) or "a picture"

    def provenance(self) -> dict[str, Any]:
        files = self.source.files
        if len(files) > 1000:
            return {"data": self.data, "pictures": len(files), "skipped": list(self.source.skipped[:100])}
        sums = {str(f): file_sha256(f) for f in files}
        return {"data": self.data, "files": sums, "skipped": list(self.source.skipped[:100])}


def _with_probabilities(outputs: list[Any], graph: FactorGraph) -> list[Any]:
    """The outputs with the probability of the class, where sums over classes are exact."""
    try:
        beliefs = marginals(graph).beliefs[CLASS]
    except SolverRefusal:
        return outputs
    return [{**o, "probability": float(b.max())} for o, b in zip(outputs, beliefs, strict=True)]
