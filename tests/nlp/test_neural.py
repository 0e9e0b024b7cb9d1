"""The neural tagging energy: no padding to leak, noise from torch's generator alone, it learns, it joins the sparse one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import ebmstruct as es
from ebmstruct.energies.encoders import neighbours, packed_order
from ebmstruct_nlp import NeuralChain, SparseChain
from ebmstruct_nlp.encoding import encode_tags
from ebmstruct_nlp.schemes import BIO
from ebmstruct_nlp.tag_chain import BLOCK, TagSchema

WORDS = ("Ada", "lived", "in", "London", "and", "Paris", "with", "Grace", "x1", "!")


def schema() -> TagSchema:
    """Two types of entity in BIO, with the statistics of the ten words."""
    from ebmstruct_nlp.features import FeatureTemplate

    tags = BIO.tagset(["LOC", "PER"])
    allowed = BIO.allowed(tags)
    counts = FeatureTemplate(("word",)).statistics([WORDS] * 3).to_arrays()
    rules = (torch.from_numpy(a) for a in (allowed.start, allowed.transition, allowed.end))
    return TagSchema(tags, "bio", *rules, *(torch.from_numpy(counts[k]) for k in ("hashes", "counts")))


def sentences(count: int, seed: int = 0) -> list[tuple[str, ...]]:
    """Random sentences of one to six of the words."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 7, (count,), generator=generator).tolist()
    return [tuple(WORDS[k] for k in torch.randint(0, 10, (n,), generator=generator).tolist()) for n in lengths]


def gold(x: tuple[str, ...]) -> tuple[str, ...]:
    """A capitalised word is a place after "in" or "and", and a person elsewhere."""
    places = [i > 0 and x[i - 1] in ("in", "and") for i in range(len(x))]
    return tuple(("B-LOC" if p else "B-PER") if w[0].isupper() else "O" for w, p in zip(x, places, strict=True))


def model(context: Any = "convolution", **more: Any) -> NeuralChain:
    """A small one with random output weights."""
    torch.manual_seed(0)
    net = NeuralChain(schema(), context=context, width=16, depth=2, embedding=8, **more)
    torch.nn.init.normal_(net.output.weight)
    return net


class Teacher:
    """Targets, and no cost."""

    def encode(self, ys: Any, graph: es.FactorGraph, tags: Any) -> es.Assignment:
        return encode_tags(ys, tags)

    def cost(self, graph: es.FactorGraph, target: es.Assignment, tags: Any) -> tuple[es.Factor, ...]:
        return ()


@pytest.mark.parametrize("context", ["convolution", "recurrent"])
def test_a_sentence_does_not_see_its_neighbours(context: Any) -> None:
    """Scores of each sentence are the same alone and in a batch; an empty batch and long words are fine."""
    net, xs = model(context).eval(), sentences(12)
    together = net.scores(net.prepare(xs)).split([len(x) for x in xs])
    for x, scores in zip(xs, together, strict=True):
        assert torch.allclose(net.scores(net.prepare([x])), scores, atol=1e-5)
    assert net.graph([]).energy({BLOCK: torch.zeros(0, dtype=torch.long)}).shape == (0,)


def test_selected_inputs_are_those_sentences() -> None:
    """A selection of prepared inputs scores as the sentences prepared afresh, in the order asked for."""
    net, xs = model().eval(), sentences(9)
    some = net.prepare(xs).select([7, 2, 2])
    assert len(some) == 3
    assert torch.allclose(net.scores(some), net.scores(net.prepare([xs[7], xs[2], xs[2]])), atol=1e-5)


def test_noise_comes_from_torchs_generator() -> None:
    """In training two passes differ unless the seed is the same; in evaluation they never do."""
    net, xs = model().train(), sentences(5)
    inputs = net.prepare(xs)

    def scores(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return net.scores(inputs)

    assert torch.equal(scores(1), scores(1))
    assert not torch.equal(scores(1), scores(2))
    net.eval()
    assert torch.equal(scores(1), scores(2))


@pytest.mark.parametrize("context", ["convolution", "recurrent"])
def test_it_learns_from_context(context: Any) -> None:
    """What a capitalised word is depends on the word before it, and unseen sentences are tagged right."""
    net, tags = model(context, dropout=0.1, word_dropout=0.1, attribute_dropout=0.1), schema()
    pairs = [es.Example(x, gold(x)) for x in sentences(80)]
    options = es.TrainingOptions(epochs=12, batch_size=16, lr=0.02)
    es.fit(net, Teacher(), tags, pairs, es.NegativeLogLikelihood(), options)
    xs = sentences(60, seed=9)
    found = es.minimize(net.graph(xs)).assignment[BLOCK]
    assert float((found == encode_tags([gold(x) for x in xs], tags)[BLOCK]).double().mean()) > 0.95


def test_it_joins_the_sparse_energy() -> None:
    """Both train together as one sum, each by its own optimiser, and both move."""
    tags = schema()
    both = es.SumOfEnergies([SparseChain(tags, buckets_log2=12), model()], [1.0, 1.0], ["sparse", "neural"])
    before = {k: v.clone() for k, v in both.state_dict().items()}
    pairs = [es.Example(x, gold(x)) for x in sentences(40)]
    options = es.TrainingOptions(epochs=2, batch_size=16, lr=0.01, sparse_lr=0.1)
    es.fit(both, Teacher(), tags, pairs, es.SoftmaxMargin(), options)
    moved = {k.split(".")[1] for k, v in both.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"0", "1"}
    assert {f.label for f in both.graph(sentences(2)).factors} >= {"sparse/word", "neural/context"}


def test_neighbours_by_hand() -> None:
    """Sentences of 2, 0 and 1 tokens: a site sees its own sentence only; 3 stands for no neighbour."""
    found = neighbours(torch.tensor([0, 2, 2, 3]), 1)
    assert found.tolist() == [[3, 0, 1], [0, 1, 3], [3, 2, 3]]


def test_packed_order_by_hand() -> None:
    """Sentences of 1, 0 and 3 tokens: first words of the longest first, then second words, then third."""
    order, sizes = packed_order(torch.tensor([0, 1, 1, 4]))
    assert order.tolist() == [1, 0, 2, 3]
    assert sizes.tolist() == [2, 1, 1]


def test_scores_are_negated_once() -> None:
    """The energies of the factor "context" are the scores with the other sign."""
    net = model().eval()
    inputs = net.prepare(sentences(3))
    (factor,) = (f for f in net(inputs).factors if f.label == "context")
    assert torch.equal(factor.values()[0], -net.scores(inputs))


def test_frozen_vectors_are_an_input(tmp_path: Path) -> None:
    """A word's vector changes its scores, is no parameter, and is looked up anew for unseen words."""
    path = tmp_path / "v.txt"
    path.write_text("ada 1 0\nnewcomer 0 5\n")
    net = model(vectors=str(path)).eval()
    inputs = net.prepare([("Ada", "stranger", "newcomer")])
    assert inputs.vectors.tolist() == [[1, 0], [0, 0], [0, 5]]
    blind = replace(inputs, vectors=torch.zeros_like(inputs.vectors))
    words, without = (net.words(i.ids, i.vectors) for i in (inputs, blind))
    assert [bool((a != b).any()) for a, b in zip(words, without, strict=True)] == [True, False, True]
    assert all(p.shape != inputs.vectors.shape for p in net.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width: found 0; at least 1"),
        ({"dropout": 1.0}, r"dropout: found 1.0; legal is a rate in \[0, 1\)"),
        ({"context": "recurrent", "width": 7}, "width: found 7; .* even"),
        ({"attributes": ["word", "colour"]}, "names 'colour'; legal are"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    """Each fault names the option, what was found and what is legal."""
    with pytest.raises(es.ConfigError, match=message):
        NeuralChain(schema(), **options)
