"""The tagging energy of a small neural network: hashed embeddings of words, and a network that looks around."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from ebmstruct import ConfigError, EnergyModel, FactorGraph
from ebmstruct.energies.encoders import RecurrentEncoder, WindowEncoder, maxout, neighbours
from ebmstruct_nlp.features import FeatureTemplate
from ebmstruct_nlp.tag_chain import BLOCK, TagSchema, tag_chain
from ebmstruct_nlp.vectors import WordVectors, open_vectors

HASH_BITS = 30
ROWS_LOG2: Mapping[str, int] = {
    **{"word": 14, "form": 14, "normal": 14, "shape": 10, "short_shape": 8},
    **{"prefix2": 10, "prefix3": 12, "prefix4": 13, "prefix5": 13},
    **{"suffix2": 10, "suffix3": 12, "suffix4": 13, "suffix5": 13},
}
"""Rows of a column's embedding table, as a power of two; other columns take few values and get 256."""
WORD_COLUMNS = ("word", "form", "prefix2", "prefix3", "suffix2", "suffix3", "suffix4", "shape", "case")
COUNTED_COLUMNS = ("frequency", "truecase")
ATTRIBUTES: Mapping[str, tuple[str, ...]] = {
    "words": WORD_COLUMNS + COUNTED_COLUMNS,
    "characters": ("form", "type", "frequency"),
}
LEXICAL = ("word", "form", "normal")


@dataclass(frozen=True)
class WordInputs:
    """The distinct words of B sentences, and which of them each token is.

    ids: (V, A) long, the hash of each attribute, 0 where a word has none.  vectors: (V, D) frozen vectors, D may be 0.
    tokens: (n,) long in [0, V).  offsets: (B + 1,) long, where each sentence begins.
    """

    ids: Tensor
    vectors: Tensor
    tokens: Tensor
    offsets: Tensor

    def __len__(self) -> int:
        return self.offsets.numel() - 1

    def select(self, positions: Sequence[int]) -> WordInputs:
        """Some sentences, in the order given, with the words that they hold. O(t log t) in their tokens t."""
        starts = self.offsets.numpy()
        picked = np.asarray(positions, dtype=np.int64).reshape(-1)
        sizes = starts[picked + 1] - starts[picked]
        offsets = np.zeros(len(picked) + 1, dtype=np.int64)
        np.cumsum(sizes, out=offsets[1:])
        sites = np.repeat(starts[picked] - offsets[:-1], sizes) + np.arange(offsets[-1])
        words, tokens = np.unique(self.tokens.numpy()[sites], return_inverse=True)
        kept = torch.from_numpy(words)
        return WordInputs(
            self.ids[kept], self.vectors[kept], torch.from_numpy(tokens.reshape(-1)), torch.from_numpy(offsets)
        )


class NeuralChain(EnergyModel):
    """A linear chain over tags whose word energies come from a neural network.

    A word is the sum of what embedding tables say of its hashed attributes (word, affixes, shape ...), once per distinct
    word; a network then mixes each token with its neighbours, and a linear layer gives the energies of its tags
    (Collobert et al. 2011; hashed tables as in Weinberger et al. 2009).

    context: ``convolution``, residual layers that see ``window`` tokens on either side; or ``recurrent``, one LSTM in
    either direction (Huang, Xu and Yu 2015), three to five times as slow.  width: of the layers.  depth: how many.
    pieces: linear pieces of a maxout unit (Goodfellow et al. 2013).
    attributes: ``words``, ``characters``, or a list of columns (see ``features.COLUMNS``).  embedding: width of a table.
    dropout: of units between layers.  word_dropout, attribute_dropout: in training, how often a distinct word of the
    batch loses its form, or any other attribute, which is what an unknown word looks like.
    vectors: a file of word vectors or an installed spaCy package that has some; they are frozen and needed
    again at prediction.
    """

    def __init__(
        self,
        schema: TagSchema,
        *,
        context: Literal["convolution", "recurrent"] = "convolution",
        width: int = 64,
        depth: int = 3,
        window: int = 1,
        pieces: int = 2,
        attributes: Literal["words", "characters"] | list[str] = "words",
        embedding: int = 32,
        dropout: float = 0.5,
        word_dropout: float = 0.5,
        attribute_dropout: float = 0.3,
        vectors: str | None = None,
    ) -> None:
        super().__init__()
        _check(width=width, depth=depth, window=window, pieces=pieces, embedding=embedding)
        _check_rates(dropout=dropout, word_dropout=word_dropout, attribute_dropout=attribute_dropout)
        columns = ATTRIBUTES[attributes] if isinstance(attributes, str) else tuple(attributes)
        self.template = FeatureTemplate(columns, HASH_BITS)
        self.statistics = schema.statistics
        self.source: WordVectors | None = None if vectors is None else open_vectors(vectors)
        rates = [word_dropout if c in LEXICAL else attribute_dropout for c in columns]
        size = 0 if self.source is None else self.source.size
        self.words = WordEncoder(columns, embedding, width, pieces, rates, size)
        self.dropout = nn.Dropout(dropout)
        self.layers: nn.ModuleList | RecurrentEncoder
        if context == "recurrent":
            if width % 2:
                said = "a recurrent context needs an even one, half for each direction"
                raise ConfigError([f"width: found {width}; {said}"])
            self.layers = RecurrentEncoder(width, depth=depth, dropout=dropout)
        else:
            self.layers = nn.ModuleList(WindowEncoder(width, window, pieces, dropout) for _ in range(depth))
        self.window = window
        self.output = nn.Linear(width, len(schema.tags))
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)
        self.chain = tag_chain(schema)

    def prepare(self, xs: Sequence[Any]) -> WordInputs:
        flat = list(chain.from_iterable(xs))
        place = {word: v for v, word in enumerate(dict.fromkeys(flat))}
        tokens = np.fromiter(map(place.__getitem__, flat), dtype=np.int64, count=len(flat))
        offsets = np.zeros(len(xs) + 1, dtype=np.int64)
        np.cumsum(np.fromiter(map(len, xs), dtype=np.int64, count=len(xs)), out=offsets[1:])
        # The words stand in one row as if they were a sentence; no attribute looks at its neighbours.
        ids = self.template.features([tuple(place)], self.statistics, counted=self.training).ids.astype(np.int64)
        vectors = np.zeros((len(place), 0), dtype=np.float32) if self.source is None else self.source.of(list(place))
        return WordInputs(*map(torch.from_numpy, (ids, vectors, tokens, offsets)))

    def forward(self, inputs: WordInputs) -> FactorGraph:
        device = self.output.weight.device
        offsets = inputs.offsets.to(device)
        # The only place where a score becomes an energy.
        return self.chain.graph(-self.scores(inputs), offsets, BLOCK, label="context")

    def scores(self, inputs: WordInputs) -> Tensor:
        """(n, K) scores of each token's tags; high is good."""
        device = self.output.weight.device
        words = self.words(inputs.ids.to(device), inputs.vectors.to(device))
        x = self.dropout(embedding(inputs.tokens.to(device), words))
        if isinstance(self.layers, RecurrentEncoder):
            x = self.layers(x, inputs.offsets.to(device))
        else:
            around = neighbours(inputs.offsets, self.window).to(device)
            for layer in self.layers:
                x = layer.mixed(x, around)  # type: ignore[operator]
        scores: Tensor = self.output(x)
        return scores


class WordEncoder(nn.Module):
    """A vector for each distinct word: embeddings of its attributes side by side, mixed by one maxout layer.

    rates: how often each attribute is left out in training.  extra: width of the frozen vectors.
    All tables are one matrix, each with its own range of rows.
    """

    shift: Tensor
    first: Tensor
    rates: Tensor

    def __init__(
        self, columns: Sequence[str], size: int, width: int, pieces: int, rates: Sequence[float], extra: int
    ) -> None:
        super().__init__()
        bits = np.array([ROWS_LOG2.get(column, 8) for column in columns])
        rows = 1 << bits
        self.register_buffer("shift", torch.from_numpy(HASH_BITS - bits), persistent=False)
        self.register_buffer("first", torch.from_numpy(np.cumsum(rows) - rows), persistent=False)
        self.register_buffer("rates", torch.tensor(rates), persistent=False)
        self.table = nn.Embedding(int(rows.sum()), size)
        nn.init.normal_(self.table.weight, std=0.3)
        self.mix = nn.Linear(size * len(columns), width * pieces)
        self.frozen = nn.Linear(extra, width * pieces, bias=False) if extra else None
        self.norm = nn.LayerNorm(width)
        self.pieces = pieces

    def forward(self, ids: Tensor, vectors: Tensor) -> Tensor:
        """(V, width) of attributes (V, A) and frozen vectors (V, D)."""
        present = ids > 0
        if self.training:
            present = present & (torch.rand(ids.shape, device=ids.device) >= self.rates)
        x = self.table((ids >> self.shift) + self.first) * present[:, :, None]
        h = self.mix(x.flatten(1))
        if self.frozen is not None:
            h = h + self.frozen(vectors)
        out: Tensor = self.norm(maxout(h, self.pieces))
        return out


def _check(**numbers: int) -> None:
    wrong = [f"{name}: found {value}; at least 1 is needed" for name, value in numbers.items() if value < 1]
    if wrong:
        raise ConfigError(wrong)


def _check_rates(**rates: float) -> None:
    wrong = [f"{name}: found {rate}; legal is a rate in [0, 1)" for name, rate in rates.items() if not 0 <= rate < 1]
    if wrong:
        raise ConfigError(wrong)
