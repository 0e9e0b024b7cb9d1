"""Semi-Markov and second-order tagging: energies by hand, confidences by enumeration, and training on a little text."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ebmstruct as es
from ebmstruct.testing import oracle
from ebmstruct_nlp import Ner, Pos, SecondOrderChain, SemiMarkov, Sentence
from ebmstruct_nlp.confidences import add_confidences
from ebmstruct_nlp.encoding import decode_states, encode, encode_tags
from ebmstruct_nlp.schemes import scheme_named
from ebmstruct_nlp.segment_features import FEATURES, segment_rows
from ebmstruct_nlp.tag_chain import BLOCK, TagSchema
from ebmstruct_nlp.tag_pairs import PAIRS, TagPairs

TEXT = """\
Ada B-PER
Lovelace I-PER
lived O
in O
London B-LOC
. O

Paris B-LOC
saw O
Grace B-PER
Hopper I-PER

Nobody O
came O
"""
ENERGIES: dict[str, Any] = {
    "semi_markov": lambda schema: SemiMarkov(schema, buckets_log2=14, segment_buckets_log2=12, max_length=3),
    "second_order": lambda schema: SecondOrderChain(schema, buckets_log2=14),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the same little text as train, dev and test."""
    for split in ("train", "dev", "test"):
        (tmp_path / f"{split}.conll").write_text(TEXT * 4)
    return tmp_path


def schema_for(scheme: str = "bio", labels: tuple[str, ...] = ("LOC", "PER")) -> TagSchema:
    """Two types of entity in a scheme."""
    found = scheme_named(scheme)
    tags = found.tagset(labels)
    allowed = found.allowed(tags)
    rules = (torch.from_numpy(a) for a in (allowed.start, allowed.transition, allowed.end))
    return TagSchema(tags, scheme, *rules, torch.zeros(0, dtype=torch.long), torch.zeros(0, 4, dtype=torch.int32))


def shuffled(model: es.EnergyModel, seed: int = 0) -> es.EnergyModel:
    """The model with normal weights, in evaluation mode."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=draw))
    return model.eval()


def trained(
    task: Any, model: es.EnergyModel, schema: Any, loss: es.Loss | None = None, epochs: int = 15
) -> es.Predictor:
    """A predictor trained on the task's own training data."""
    options = es.TrainingOptions(optimizer="adagrad", lr=0.3, epochs=epochs, batch_size=4)
    es.fit(model, task, schema, list(task.examples("train")), loss or es.SoftmaxMargin(), options)
    return es.Predictor(task, schema, model)


def test_segments_are_told_apart() -> None:
    """Ids past the end of a sentence are 0; the same words are the same segment wherever they stand; order counts."""
    rows = segment_rows([("a", "b", "c"), ("x", "b", "c"), ("c", "b")], tuple(FEATURES), 2, 20)
    ids = rows.ids.reshape(8, 2, len(FEATURES))
    assert ids[2, 1].tolist() == [0] * len(FEATURES) and (ids[:2] > 0).all()
    text = list(FEATURES).index("text")
    assert ids[1, 1, text] == ids[4, 1, text] != ids[6, 1, text]
    assert len(np.unique(ids[0, 1])) == len(FEATURES)
    with pytest.raises(es.ConfigError, match=r"(?s)found 'colour'; legal are text.*feature_length"):
        segment_rows([], ("colour",), 0, 20)


@torch.no_grad()
def test_the_energy_of_an_entity() -> None:
    """[PER PER] O adds the tokens' tags, the length, the segment's features, and the steps between types."""
    schema = schema_for()
    model = shuffled(SemiMarkov(schema, buckets_log2=10, segment_buckets_log2=10, max_length=3))
    assert isinstance(model, SemiMarkov)
    words = Sentence(("Ada", "Lovelace", "left"))
    graph = model.graph([words])
    found = graph.energy(encode_tags([("B-PER", "I-PER", "O")], schema))
    inputs = model.prepare([words])
    tags = model.words(torch.from_numpy(inputs.rows.ids))
    ids = torch.from_numpy(inputs.segments.ids).reshape(3, 3, -1)[0, 1]
    expected = tags[0, 3] + tags[1, 4] + tags[2, 0] + model.lengths[1, 1] + model.segments.weight[ids.long()].sum(0)[1]
    expected = expected + model.start[2] + model.transition[2, 0] + model.end[0]
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    assert math.isinf(float(graph.energy(encode_tags([("B-PER", "I-LOC", "O")], schema))))
    with pytest.raises(es.ConfigError, match="an entity of the training text has 4 tokens"):
        SemiMarkov(dataclasses.replace(schema, longest=4), max_length=3)
    with pytest.raises(es.ConfigError, match="segments are spelt in bio"):
        SemiMarkov(schema_for("bioes"))


@pytest.mark.parametrize(("scheme", "pairs"), [("bio", 38), ("bioes", 68)])
def test_pairs_are_the_legal_ones(scheme: str, pairs: int) -> None:
    """Three types need 38 pairs in BIO and 68 in BIOES; each tag sequence has one sequence of pairs, and it comes back."""
    schema = schema_for(scheme, ("LOC", "ORG", "PER"))
    of = TagPairs.of(schema)
    assert len(of.tag) == pairs == len(of.before)
    offsets = torch.tensor([0, 3, 3, 5])
    target = encode_tags([("B-PER", "I-PER", "O"), (), ("O", "B-LOC")], schema)
    found = of.encode(target, offsets)
    assert found.complete((PAIRS,)) and torch.equal(of.tag[found[PAIRS]], target[BLOCK])
    assert of.known_tags(found)[1] is None
    partial = of.encode(encode_tags([("O", None, "O"), (), ("O", "B-XYZ")], schema), offsets)
    assert partial.known[PAIRS][:3].tolist() == [True, False, False]  # the tag of the third is known, its pair is not
    tags, known = of.known_tags(partial)
    assert known is not None and known.tolist() == [True, False, True, True, False] and int(tags[2]) == 0
    assert not partial.allowed[PAIRS][4].any()  # a tag that the model does not have


@torch.no_grad()
def test_the_energy_of_three_tags_in_a_row() -> None:
    """A second-order chain adds a token's tag, the step between two tags, and one for each three; the rest is infinite."""
    schema = schema_for()
    model = shuffled(SecondOrderChain(schema, buckets_log2=10))
    assert isinstance(model, SecondOrderChain)
    words = Sentence(("Ada", "Lovelace", "left"))
    graph = model.graph([words])
    found = graph.energy(encode([("B-PER", "I-PER", "O")], graph, schema))
    tags = model.words(torch.from_numpy(model.prepare([words]).rows.ids))
    of = TagPairs.of(schema)
    first, second, third = int(of.state[5, 3]), int(of.state[3, 4]), int(of.state[4, 0])
    steps = {pair: m for m, pair in enumerate(zip(*(x.tolist() for x in of.steps), strict=True))}
    expected = tags[0, 3] + tags[1, 4] + tags[2, 0] + model.start[3] + model.end[0]
    expected = expected + model.transition[3, 4] + model.transition[4, 0]
    expected = expected + model.triple[steps[first, second]] + model.triple[steps[second, third]]
    assert float(found) == pytest.approx(float(expected), rel=1e-5)
    finite = [e for e in oracle(graph)[0].energies if e < math.inf]
    assert len(finite) == sum(
        not scheme_named("bio").violations(y)
        for y in ((a, b, c) for a in schema.tags for b in schema.tags for c in schema.tags)
    )


@pytest.mark.parametrize("name", ENERGIES)
def test_confidences_are_probabilities_of_spans(name: str) -> None:
    """An entity's confidence is the summed probability of all taggings that have exactly that span."""
    schema = schema_for()
    model = shuffled(ENERGIES[name](schema), 3)
    words = Sentence(("Ada", "of", "Paris"))
    task = Ner(data="nowhere")
    graph = model.graph([words])
    truth = oracle(graph)[0]
    log_z = truth.log_partition()
    pairs = TagPairs.of(schema)
    chance: dict[tuple[int, int, str], float] = {}
    for states, energy in zip(truth.states, truth.energies, strict=True):
        if energy < math.inf:
            tags = [schema.tags[int(pairs.tag[s]) if name == "second_order" else s] for s in states]
            for span in scheme_named("bio").spans(tags):
                chance[span] = chance.get(span, 0.0) + math.exp(-energy - log_z)
    seen = 0
    for forced in (
        ("B-PER", "I-PER", "I-PER"),
        ("B-PER", "I-PER", "O"),
        ("O", "B-LOC", "O"),
        ("B-PER", "B-LOC", "I-LOC"),
    ):
        y = encode([forced], graph, schema)
        outputs = decode_states(y, graph, schema)
        add_confidences(outputs, y, graph, schema)
        for e in outputs[0]["entities"]:
            seen += 1
            assert e["confidence"] == pytest.approx(chance[e["start"], e["end"], e["label"]], rel=1e-4)
    assert seen == 5 and task.encoding == "bio"


@pytest.mark.parametrize("name", ENERGIES)
def test_trained_on_a_little_text(folder: Path, name: str) -> None:
    """Trained on three sentences, either energy finds their entities in raw text; forced tags are kept."""
    task = Ner(data=str(folder))
    schema = task.fit(list(task.examples("train")))
    predictor = trained(task, ENERGIES[name](schema), schema)
    (answer,) = predictor.predict_text("Ada Lovelace lived in London.")
    record = task.record(answer.x, answer.output)
    assert [(e["text"], e["label"]) for e in record["entities"]] == [("Ada Lovelace", "PER"), ("London", "LOC")]
    assert all(0.5 < e["confidence"] <= 1.0 for e in record["entities"]) and answer.status == "OPTIMAL"
    line = json.dumps({"tokens": ["Paris", "saw", "Grace"], "tags": ["B-PER", None, "O"]})
    (answer,) = predictor.predict_text(line)
    assert answer.output["tags"][0] == "B-PER" and answer.output["tags"][2] == "O"


@pytest.mark.parametrize("name", ENERGIES)
def test_partly_annotated_text_teaches_too(folder: Path, name: str) -> None:
    """With half of the tags taken away training still finds the entities: the rest is summed out."""
    lines = TEXT.splitlines()
    partial = [line.rsplit(" ", 1)[0] + " _" if line.endswith(" O") else line for line in lines]
    (folder / "train.conll").write_text("\n".join(partial + [""] + lines) + "\n")
    task = Ner(data=str(folder))
    schema = task.fit(list(task.examples("train")))
    predictor = trained(task, ENERGIES[name](schema), schema, epochs=20)
    (answer,) = predictor.predict_text("Grace Hopper lived in Paris.")
    assert {e["label"] for e in answer.output["entities"]} == {"PER", "LOC"}


@pytest.mark.parametrize("loss", [es.Perceptron(), es.StructuredHinge(), es.NegativeLogLikelihood()])
@pytest.mark.parametrize("name", ENERGIES)
def test_every_loss_trains_them(folder: Path, name: str, loss: es.Loss) -> None:
    """Losses by minima and by sums alike learn the little text."""
    task = Ner(data=str(folder))
    schema = task.fit(list(task.examples("train")))
    predictor = trained(task, ENERGIES[name](schema), schema, loss)
    test = list(task.examples("test"))
    assert task.score(test, [a.output for a in predictor([e.x for e in test])])["f1"] == 1.0


def test_second_order_parts_of_speech(folder: Path) -> None:
    """A plain tag set has no constraints; each tag has its probability."""
    task = Pos(data=str(folder), tokenizer="whitespace")
    schema = task.fit(list(task.examples("train")))
    predictor = trained(task, SecondOrderChain(schema, buckets_log2=14), schema)
    answers = predictor([e.x for e in task.examples("test")])
    assert task.score(list(task.examples("test")), [a.output for a in answers])["accuracy"] > 0.95
    assert all(0 < p <= 1 for a in answers for p in a.output["confidence"])


@pytest.mark.parametrize("name", ENERGIES)
def test_the_report_names_what_decided(folder: Path, name: str) -> None:
    """A wrong answer is listed with the features and factors whose energies differ."""
    from ebmstruct_nlp.rendering import reasons

    task = Ner(data=str(folder))
    schema = task.fit(list(task.examples("train")))
    predictor = trained(task, ENERGIES[name](schema), schema)
    x = next(iter(task.examples("train"))).x
    tags = scheme_named("bio").tags([(0, 2, "LOC")], len(x))
    assert any(row[0].startswith("feature ") for row in reasons(predictor.model, schema, x, ("O",) * len(x), tags).rows)
