"""The tasks ``nlp.ner`` and ``nlp.pos``: tagged text in, tags or entities out."""

from __future__ import annotations

import json
import logging
import math
import re
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from ebmstruct import (
    Assignment,
    Budget,
    DataError,
    EnergyModel,
    Example,
    Factor,
    FactorGraph,
    Solver,
    TableFactor,
    Task,
)
from ebmstruct.extend import Evaluation, Inference, Section
from ebmstruct_nlp.confidences import add_confidences
from ebmstruct_nlp.corpora import (
    CORPORA,
    CorpusSplits,
    corpus_named,
    find_splits,
    hkcancor_ner,
    hkcancor_pos,
    read_splits,
)
from ebmstruct_nlp.encoding import cost_matrix, decode_states, encode
from ebmstruct_nlp.features import FeatureTemplate
from ebmstruct_nlp.inputs import Sentence
from ebmstruct_nlp.metrics import calibration, span_confusion, span_scores, tag_confusion, tag_scores
from ebmstruct_nlp.schemes import OUTSIDE, scheme_named
from ebmstruct_nlp.sentences import ReadOptions
from ebmstruct_nlp.tag_chain import BLOCK, TagSchema
from ebmstruct_nlp.tag_pairs import PAIRS, TagPairs
from ebmstruct_nlp.tokenizing import Tokenizer, character_spans

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaggingTask(Task):
    """What both tasks share.

    data: ``hkcancor`` (in the pycantonese package), a corpus to download (``uner_en_ewt``, ``ud_en_ewt``), a folder
    whose files are recognised as train, dev and test by their names, or those three by name.
    fold: which of five splits of HKCanCor by conversation.
    token_column, tag_column, labels, misaligned: how files are read, see ``ReadOptions``.
    tokenizer, language: how raw text is cut into tokens: spacy, characters or whitespace.
    """

    data: str | dict[str, str] = "hkcancor"
    fold: int = 1
    token_column: int | str | None = None
    tag_column: int | str | None = None
    labels: dict[str, str | None] | None = None
    misaligned: Literal["unannotated", "expand", "error"] = "unannotated"
    tokenizer: Literal["spacy", "characters", "whitespace"] = "spacy"
    language: str = "en"

    @property
    @abstractmethod
    def encoding(self) -> str:
        """The scheme of the chain's own tags."""

    @abstractmethod
    def hkcancor(self) -> CorpusSplits:
        """HKCanCor as this task sees it."""

    @cached_property
    def corpus(self) -> CorpusSplits:
        """All splits, read at the first use; what was read is logged."""
        corpus = self._read()
        for split, report in corpus.reports.items():
            log.info("%s: %s", split, report.describe())
        found = {name for report in corpus.reports.values() for pair in report.mapped for name in _names(pair)}
        idle = sorted(set(self.labels or ()) - found)
        if idle and self.data != "hkcancor":
            log.warning("labels: %s is in none of the files, so mapping it changed nothing", ", ".join(idle))
        return corpus

    def _read(self) -> CorpusSplits:
        if self.data == "hkcancor":
            return self.hkcancor()
        options = ReadOptions(
            token_column=self.token_column,
            tag_column=self.tag_column,
            labels=self.labels,
            misaligned=self.misaligned,
            tokenizer=Tokenizer(self.tokenizer, self.language),
        )
        if isinstance(self.data, str) and self.data in CORPORA and not Path(self.data).exists():
            return read_splits({k: str(v) for k, v in corpus_named(self.data).fetch().items()}, options)
        return read_splits(self.data, options)

    def examples(self, split: str) -> Sequence[Example]:
        return [Example(Sentence(s.tokens, s.placed()), s.tags, s.source) for s in self.corpus[split]]

    def splits(self) -> Sequence[str]:
        return tuple(self.corpus.sentences)

    def examples_from(self, path: Path, split: str = "test") -> Sequence[Example]:
        """The examples of a file, or of a folder's file for ``split``; columns and labels are read as in training."""
        file = find_splits(path, required=(split,))[split] if path.is_dir() else path
        return replace(self, data={split: str(file)}).examples(split)

    def fit(self, train: Sequence[Example]) -> TagSchema:
        scheme = scheme_named(self.encoding)
        seen = Counter(tag for e in train for tag in e.y if tag is not None)
        if not seen:
            raise DataError("the training data has no tags; at least some tokens must be annotated")
        if self.encoding == "plain":
            labels = sorted(seen)
        else:
            labels = sorted({tag.partition("-")[2] for tag in seen if tag != OUTSIDE})
        if self.encoding != "plain" and not labels:
            raise DataError("the training data has no entity: every tag is O, so there is nothing to learn")
        tags = scheme.tagset(labels)
        allowed = scheme.allowed(tags)
        words = FeatureTemplate(("word",)).statistics([e.x for e in train]).to_arrays()
        return TagSchema(
            tags,
            scheme.name,
            torch.from_numpy(allowed.start),
            torch.from_numpy(allowed.transition),
            torch.from_numpy(allowed.end),
            torch.from_numpy(words["hashes"]),
            torch.from_numpy(words["counts"]),
            longest=1 if self.encoding == "plain" else _longest(e.y for e in train),
        )

    def encode(self, ys: Sequence[Any], graph: FactorGraph, schema: Any) -> Assignment:
        return encode(ys, graph, schema)

    def decode(self, y: Assignment, graph: FactorGraph, schema: Any) -> list[Any]:
        return decode_states(y, graph, schema)

    def evidence(self, xs: Sequence[Any], graph: FactorGraph, schema: Any) -> Assignment | None:
        """The tags that a sentence's own ``forced`` demands."""
        if any(isinstance(x, str) for x in xs):
            raise DataError(
                "an input is a tuple of tokens, and this one is a text; use predict_text, or Sentence and a Tokenizer"
            )
        if not any(getattr(x, "forced", ()) for x in xs):
            return None
        forced = [getattr(x, "forced", ()) or (None,) * len(x) for x in xs]
        for x, tags in zip(xs, forced, strict=True):
            if len(tags) != len(x):
                raise DataError(f"{len(tags)} forced tags for {len(x)} tokens; give one for each, None where free")
        legal = schema.tags
        if schema.scheme not in ("bio", "plain"):
            legal = scheme_named("bio").tagset(sorted({t.partition("-")[2] for t in legal if t != OUTSIDE}))
        unknown = sorted({t for tags in forced for t in tags if t is not None and t not in legal})
        if unknown:
            raise DataError(f"forced tags {', '.join(unknown)} are not among the model's: {', '.join(legal)}")
        return encode(forced, graph, schema)

    def infer(
        self,
        graph: FactorGraph,
        schema: Any,
        *,
        solver: Solver | None = None,
        budget: Budget | None = None,
        detail: bool = False,
    ) -> Inference:
        """Minimise and decode; with ``detail`` every entity, or every tag, gets its probability."""
        found = super().infer(graph, schema, solver=solver, budget=budget)
        if detail:
            add_confidences(found.outputs, found.result.assignment, graph, schema)
        return found

    def read(self, raw: str) -> list[Any]:
        """One sentence a line, cut by the tokenizer; or JSON lines with ``tokens`` and, to force tags, ``tags``."""
        tokenize = Tokenizer(self.tokenizer, self.language)
        out: list[Any] = []
        for number, line in enumerate(raw.split("\n"), 1):
            if re.match(r'\s*\{\s*"tokens"', line):
                out.append(_forced_sentence(line, number))
            elif line.strip():
                placed = tokenize(line)
                out.append(Sentence(placed.tokens, placed))
        return out

    def provenance(self) -> dict[str, Any]:
        reports = self.corpus.reports
        return {
            "data": self.data,
            "splits": {split: report.to_json() for split, report in reports.items()},
            "files": {r.path: digest(Path(r.path)) for r in reports.values() if Path(r.path).is_file()},
        }

    def render(self, evaluation: Evaluation, model: EnergyModel, schema: Any) -> list[Section]:
        from ebmstruct_nlp.rendering import sections

        return sections(evaluation, model, schema, self)


@dataclass(frozen=True)
class Ner(TaggingTask):
    """Named entities: spans of tokens with a type, by a chain of BIO or BIOES tags.

    encoding: bio or bioes.  missed, spurious, confused: what one wrong token costs in losses with a margin: an
    entity's token called outside, the reverse, and any other confusion.
    kin: of HKCanCor, count foreign, abbreviated and partial names too.
    """

    name: ClassVar[str] = "nlp.ner"
    metric: ClassVar[str] = "f1"
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "energy": {"name": "nlp.sparse_chain"},
        "loss": {"name": "softmax_margin"},
        "train": {"optimizer": "adagrad", "lr": 0.2, "epochs": 10},
    }

    scheme: Literal["bio", "bioes"] = "bio"
    missed: float = 2.0
    spurious: float = 1.0
    confused: float = 1.0
    kin: bool = False

    def __post_init__(self) -> None:
        for name in ("missed", "spurious", "confused"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0 and finite; found {getattr(self, name)}")

    @property
    def encoding(self) -> str:
        return self.scheme

    def hkcancor(self) -> CorpusSplits:
        return hkcancor_ner(fold=self.fold, kin=self.kin)

    def cost(self, graph: FactorGraph, target: Assignment, schema: Any) -> Sequence[Factor]:
        return _cost(target, schema, self.missed, self.spurious, self.confused)

    def score(self, examples: Sequence[Example], outputs: Sequence[Any]) -> dict[str, Any]:
        """Strict span scores (exact ends and type), token accuracy, confusion of types, calibration of confidences."""
        gold, guess = [e.y for e in examples], [o["tags"] for o in outputs]
        spans, tokens = span_scores(gold, guess), tag_scores(gold, guess)
        metrics: dict[str, Any] = {
            **{k: spans["micro"][k] for k in ("f1", "precision", "recall")},
            "macro_f1": spans["macro"]["f1"],
            "accuracy": tokens["accuracy"],
            "tokens": tokens["tokens"],
            "types": spans["types"],
            "confusion": span_confusion(gold, guess),
        }
        sure = [(e["confidence"], _is_right(e, y)) for o, y in zip(outputs, gold, strict=True) for e in _sure(o)]
        if sure:
            metrics["calibration"] = calibration(*zip(*sure, strict=True))
        return metrics

    def record(self, x: Any, output: Any) -> dict[str, Any]:
        placed = x.placed if isinstance(x, Sentence) else Sentence(x).placed
        spans = [(e["start"], e["end"], e["label"]) for e in output["entities"]]
        found = []
        for span, entity in zip(character_spans(placed.text, placed.offsets, spans), output["entities"], strict=True):
            row = {"start": span.start, "end": span.end, "label": span.label, "text": span.text}
            found.append(row | ({"confidence": entity["confidence"]} if "confidence" in entity else {}))
        return {"text": placed.text, "entities": found, "tokens": list(x), "tags": output["tags"]}

    def show(self, x: Any, output: Any) -> str:
        record = self.record(x, output)
        lines = [record["text"]]
        for e in record["entities"]:
            sure = f"  {e['confidence']:.2f}" if "confidence" in e else ""
            lines.append(f"  {e['label']:<8}{sure}  {e['text']}  [{e['start']}:{e['end']}]")
        return "\n".join(lines if record["entities"] else [*lines, "  no entity"])


@dataclass(frozen=True)
class Pos(TaggingTask):
    """Part-of-speech tags, one a token."""

    name: ClassVar[str] = "nlp.pos"
    metric: ClassVar[str] = "accuracy"
    defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "energy": {"name": "nlp.sparse_chain"},
        "loss": {"name": "negative_log_likelihood"},
        "train": {"optimizer": "adagrad", "lr": 0.2, "epochs": 10},
    }
    encoding_name: ClassVar[str] = "plain"

    @property
    def encoding(self) -> str:
        return self.encoding_name

    def hkcancor(self) -> CorpusSplits:
        return hkcancor_pos(fold=self.fold)

    def cost(self, graph: FactorGraph, target: Assignment, schema: Any) -> Sequence[Factor]:
        return _cost(target, schema, 1.0, 1.0, 1.0)

    def score(self, examples: Sequence[Example], outputs: Sequence[Any]) -> dict[str, Any]:
        """Token and sentence accuracy, scores and confusion of tags, calibration of confidences."""
        gold, guess = [e.y for e in examples], [o["tags"] for o in outputs]
        metrics = {**tag_scores(gold, guess), "confusion": tag_confusion(gold, guess)}
        sure = [
            (p, tag == true)
            for o, y in zip(outputs, gold, strict=True)
            for p, tag, true in zip(o.get("confidence", ()), o["tags"], y, strict=False)
            if true is not None
        ]
        if sure:
            metrics["calibration"] = calibration(*zip(*sure, strict=True))
        return metrics

    def record(self, x: Any, output: Any) -> dict[str, Any]:
        return {"tokens": list(x), **output}

    def show(self, x: Any, output: Any) -> str:
        return " ".join(f"{token}/{tag}" for token, tag in zip(x, output["tags"], strict=True))


def _cost(
    target: Assignment, schema: TagSchema, missed: float, spurious: float, confused: float
) -> tuple[TableFactor, ...]:
    matrix = cost_matrix(schema.tags, schema.scheme, missed, spurious, confused)
    if PAIRS in target:
        pairs = TagPairs.of(schema)
        tags, known = pairs.known_tags(target)
        rows = matrix[:, pairs.tag][tags]
    else:
        rows, known = matrix[target[BLOCK]], target.known.get(BLOCK)
    if known is not None:
        rows = rows * known[:, None]
    return (TableFactor((PAIRS if PAIRS in target else BLOCK,), "cost", rows),)


def _longest(ys: Iterable[Sequence[Any]]) -> int:
    """Tokens of the longest entity; at least 1."""
    bio = scheme_named("bio")
    return max((end - start for y in ys for start, end, _ in bio.spans(y)), default=1)


def _names(pair: str) -> tuple[str, str]:
    """The tag and the type that a report's ``B-OTH -> O`` is about."""
    tag = pair.partition(" -> ")[0]
    return tag, tag.partition("-")[2]


def _sure(output: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [e for e in output["entities"] if "confidence" in e]


def _is_right(entity: Mapping[str, Any], y: Sequence[Any]) -> bool:
    spans = scheme_named("bio").spans(y)
    return (entity["start"], entity["end"], entity["label"]) in spans


def _forced_sentence(line: str, number: int) -> Sentence:
    try:
        record = json.loads(line)
        tokens, tags = record["tokens"], record.get("tags", ())
        if not all(isinstance(t, str) for t in tokens) or (tags and len(tags) != len(tokens)):
            raise ValueError("tokens must be texts, and tags one for each (null where free)")
    except (ValueError, KeyError, TypeError) as fault:
        raise DataError(f'line {number}: not {{"tokens": [...], "tags": [null, "B-PER", ...]}} ({fault})') from None
    return Sentence(tokens, forced=tags)


def digest(path: Path) -> str:
    """The sha256 of a file."""
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
