"""The tagging tasks: encoding, confidences, partial and forced tags, both energies, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import ebmstruct as es
from ebmstruct.testing import oracle
from ebmstruct_nlp import Ner, Pos, Sentence, SparseChain
from ebmstruct_nlp.encoding import add_confidence, cost_matrix, decode_states, encode_tags
from ebmstruct_nlp.schemes import BIO, scheme_named
from ebmstruct_nlp.tag_chain import BLOCK, TagSchema

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
FILES = ("train", "dev", "test")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the same little text as train, dev and test."""
    for split in FILES:
        (tmp_path / f"{split}.conll").write_text(TEXT * 4)
    return tmp_path


def schema_for(scheme: str = "bio") -> TagSchema:
    """Two types of entity in a scheme."""
    found = scheme_named(scheme)
    tags = found.tagset(["LOC", "PER"])
    allowed = found.allowed(tags)
    rules = (torch.from_numpy(a) for a in (allowed.start, allowed.transition, allowed.end))
    return TagSchema(tags, scheme, *rules, torch.zeros(0, dtype=torch.long), torch.zeros(0, 4, dtype=torch.int32))


def random_graph(schema: TagSchema, lengths: list[int], seed: int) -> es.FactorGraph:
    """Random energies with the scheme's rules inside."""
    generator = torch.Generator().manual_seed(seed)
    k = len(schema.tags)
    block = es.Variables.of_lengths(BLOCK, es.Discrete(k), lengths)
    chain = es.ChainFactor(
        (BLOCK,),
        "transition",
        torch.randn(k, k, generator=generator).masked_fill(~schema.transition, torch.inf),
        torch.randn(k, generator=generator).masked_fill(~schema.start, torch.inf),
        torch.randn(k, generator=generator).masked_fill(~schema.end, torch.inf),
    )
    word = es.TableFactor((BLOCK,), "word", 2 * torch.randn(sum(lengths), k, generator=generator))
    return es.FactorGraph([block], [word, chain])


@pytest.mark.parametrize("scheme", ["bio", "bioes"])
@pytest.mark.parametrize("seed", range(4))
def test_confidence_is_the_probability_of_the_span(scheme: str, seed: int) -> None:
    """An entity's confidence equals the summed probability of all tag sequences that hold exactly this span."""
    schema, spelling = schema_for(scheme), scheme_named(scheme)
    graph = random_graph(schema, [4, 3], seed)
    result = es.minimize(graph)
    outputs = decode_states(result.assignment, graph, schema)
    found = es.marginals(graph, factors=("transition",))
    add_confidence(outputs, result.assignment, graph, schema, found, "transition")
    for truth, output in zip(oracle(graph), outputs, strict=True):
        log_z = truth.log_partition()
        for entity in output["entities"]:
            span = (entity["start"], entity["end"], entity["label"])
            total = sum(
                float(torch.tensor(-energy - log_z).exp())
                for states, energy in zip(truth.states, truth.energies, strict=True)
                if energy < float("inf") and span in spelling.spans([schema.tags[s] for s in states])
            )
            assert entity["confidence"] == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize("scheme", ["bio", "bioes"])
def test_tags_survive_encoding(scheme: str) -> None:
    """BIO tags become states of the chain's scheme and come back as they were."""
    schema = schema_for(scheme)
    ys = [("B-PER", "I-PER", "O", "B-LOC"), ("O",), ("B-LOC", "B-LOC", "I-LOC")]
    target = encode_tags(ys, schema)
    graph = random_graph(schema, [4, 1, 3], 0)
    assert [tuple(o["tags"]) for o in decode_states(target, graph, schema)] == ys
    assert bool(graph.energy(target).isfinite().all())


def test_unknown_tags_are_latent() -> None:
    """None is an unknown site; in BIOES a span beside one is unknown too."""
    target = encode_tags([("B-PER", None, "O", "B-LOC")], schema_for("bio"))
    assert target.known[BLOCK].tolist() == [True, False, True, True]
    target = encode_tags([("O", "B-PER", None, "O")], schema_for("bioes"))
    assert target.known[BLOCK].tolist() == [True, False, False, True]


def test_a_tag_that_the_model_lacks_cannot_be_right() -> None:
    """The energy of a sentence with a type never seen in training is infinite, and its neighbour's is not."""
    schema = schema_for("bio")
    graph = random_graph(schema, [2, 2], 0)
    target = encode_tags([("B-ORG", "O"), ("B-PER", "O")], schema)
    assert es.minimize(graph.condition(target)).energy.isfinite().tolist() == [False, True]


def test_the_cost_of_confusions() -> None:
    """Missing an entity's token costs 3, inventing one 2, another type 1.5; being right nothing."""
    matrix = cost_matrix(("O", "B-LOC", "I-LOC"), "bio", 3.0, 2.0, 1.5)
    assert matrix.tolist() == [[0.0, 2.0, 2.0], [3.0, 0.0, 1.5], [3.0, 1.5, 0.0]]


def trained(task: Any, model: es.EnergyModel, schema: Any, **options: Any) -> es.Predictor:
    """A predictor trained on the task's own training data."""
    train = list(task.examples("train"))
    settings = {"optimizer": "adagrad", "lr": 0.3, "epochs": 15, "batch_size": 4} | options
    es.fit(model, task, schema, train, es.SoftmaxMargin(), es.TrainingOptions(**settings))
    return es.Predictor(task, schema, model)


@pytest.mark.parametrize("scheme", ["bio", "bioes"])
def test_entities_come_back_as_pieces_of_the_text(folder: Path, scheme: Any) -> None:
    """Trained on three sentences, the tagger finds their entities in raw text, with characters and confidence."""
    task = Ner(data=str(folder), scheme=scheme)
    schema = task.fit(list(task.examples("train")))
    predictor = trained(task, SparseChain(schema, buckets_log2=14), schema)
    (answer,) = predictor.predict_text("Ada Lovelace lived in London.")
    record = task.record(answer.x, answer.output)
    assert [(e["text"], e["label"]) for e in record["entities"]] == [("Ada Lovelace", "PER"), ("London", "LOC")]
    assert record["text"][record["entities"][1]["start"] : record["entities"][1]["end"]] == "London"
    assert all(0.5 < e["confidence"] <= 1.0 for e in record["entities"])
    assert answer.status == "OPTIMAL" and answer.gap == 0.0
    assert "London" in task.show(answer.x, answer.output)


def test_forced_tags_are_kept(folder: Path) -> None:
    """What the input forces is in the answer, whatever the model thinks, and wrong demands are refused."""
    task = Ner(data=str(folder))
    schema = task.fit(list(task.examples("train")))
    predictor = trained(task, SparseChain(schema, buckets_log2=14), schema)
    line = json.dumps({"tokens": ["Paris", "saw", "Grace"], "tags": ["B-PER", None, "O"]})
    (answer,) = predictor.predict_text(line)
    assert answer.output["tags"][0] == "B-PER" and answer.output["tags"][2] == "O"
    for tags, message in ((("B-XYZ", None), "not among the model's"), (("O",), "1 forced tags for 2 tokens")):
        with pytest.raises(es.DataError, match=message):
            predictor(Sentence(["a", "b"], forced=tags))
    with pytest.raises(es.DataError, match="line 1"):
        predictor.predict_text('{"tokens": 3}')


def test_partly_annotated_text_teaches_too(folder: Path) -> None:
    """With half of the tags taken away training still finds the entities: the rest is summed out."""
    lines = TEXT.splitlines()
    partial = [line.rsplit(" ", 1)[0] + " _" if line.endswith(" O") else line for line in lines]
    (folder / "train.conll").write_text("\n".join(partial + [""] + lines) + "\n")
    task = Ner(data=str(folder))
    train = list(task.examples("train"))
    assert any(tag is None for e in train for tag in e.y)
    schema = task.fit(train)
    predictor = trained(task, SparseChain(schema, buckets_log2=14), schema, epochs=20)
    (answer,) = predictor.predict_text("Grace Hopper lived in Paris.")
    assert {e["label"] for e in answer.output["entities"]} == {"PER", "LOC"}


def test_parts_of_speech(folder: Path) -> None:
    """A plain tag set has no constraints; each tag has its probability."""
    task = Pos(data=str(folder), tokenizer="whitespace")
    schema = task.fit(list(task.examples("train")))
    assert bool(schema.transition.all())
    predictor = trained(task, SparseChain(schema, buckets_log2=14), schema)
    answers = predictor([e.x for e in task.examples("test")])
    metrics = task.score(list(task.examples("test")), [a.output for a in answers])
    assert metrics["accuracy"] > 0.95
    assert all(0 < p <= 1 for a in answers for p in a.output["confidence"])


def test_a_sum_of_energies_adds_up(folder: Path) -> None:
    """Two sparse energies with weights 1 and 0.5 give the weighted sum of their energies for any tags."""
    task = Ner(data=str(folder))
    train = list(task.examples("train"))
    schema = task.fit(train)
    parts = [SparseChain(schema, buckets_log2=10) for _ in range(2)]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in parts:
            part.words.weight.copy_(torch.randn(part.words.weight.shape, generator=generator))
            part.chain.transition.copy_(torch.randn(part.chain.transition.shape, generator=generator))
    total = es.SumOfEnergies(parts, [1.0, 0.5]).eval()
    xs = [e.x for e in train[:3]]
    target = encode_tags([e.y for e in train[:3]], schema)
    separate = [p.eval().graph(xs).energy(target) for p in parts]
    assert torch.allclose(total.graph(xs).energy(target), separate[0] + 0.5 * separate[1])


def test_a_batch_equals_the_loop(folder: Path) -> None:
    """Sentences tagged together and one by one get the same answers and energies."""
    task = Ner(data=str(folder))
    schema = task.fit(list(task.examples("train")))
    predictor = trained(task, SparseChain(schema, buckets_log2=14), schema)
    xs = [e.x for e in task.examples("test")]
    together, alone = predictor(xs), [predictor(x) for x in xs]
    assert [a.output for a in together] == [a.output for a in alone]
    assert [a.energy for a in together] == pytest.approx([a.energy for a in alone], rel=1e-6)


def test_data_that_teach_nothing_are_refused(tmp_path: Path) -> None:
    """No entity at all, or no tag at all, is a sentence before any training."""
    for text, message in (("a O\nb O\n\n", "every tag is O"), ("a _\nb _\n\n", "no tags|tag")):
        (tmp_path / "train.conll").write_text(text)
        task = Ner(data={"train": str(tmp_path / "train.conll")})
        with pytest.raises(es.DataError, match=message):
            task.fit(list(task.examples("train")))


def test_the_report_names_what_decided(folder: Path) -> None:
    """A wrong answer is listed with the features and factors whose energies differ."""
    from ebmstruct_nlp.rendering import reasons

    task = Ner(data=str(folder))
    schema = task.fit(list(task.examples("train")))
    predictor = trained(task, SparseChain(schema, buckets_log2=14), schema)
    x = next(iter(task.examples("train"))).x
    assert isinstance(predictor.model, SparseChain)
    found = reasons(predictor.model, schema, x, ("O",) * len(x), BIO.tags([(0, 2, "PER")], len(x)))
    terms = [row[0] for row in found.rows]
    assert any(t.startswith("feature ") for t in terms) and found.columns == ["term", "at", "difference"]


def test_a_mapping_that_matches_nothing_is_told(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A misspelt label in ``labels`` is named in a warning; one that is there is not."""
    task = Ner(data=str(folder), labels={"LOC": "O", "NOPE": "O"})
    assert not any(tag == "B-LOC" for e in task.examples("train") for tag in e.y)
    assert [r.getMessage() for r in caplog.records if r.levelname == "WARNING"] == [
        "labels: NOPE is in none of the files, so mapping it changed nothing"
    ]
