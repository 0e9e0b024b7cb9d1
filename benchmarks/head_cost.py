"""What the chain costs in a training step of the neural tagger, against a softmax over each token alone.

Both steps do the same work up to the scores, on the same batch of 32 sentences, with the same optimiser; one then takes
the likelihood of the chain through the engine, the other torch's cross entropy. One thread. The sentences are those of
HKCanCor as words, or of ``--data``, a folder with a train file.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

import ebmstruct as es
from benchmarks.timing import interleaved, table
from ebmstruct.learning.optimizing import make_optimizer
from ebmstruct_nlp import Ner, Pos
from ebmstruct_nlp.neural import NeuralChain
from ebmstruct_nlp.tag_chain import BLOCK

BATCH = 32


def measure(task: Ner | Pos, context: Any) -> tuple[float, float]:
    """CPU milliseconds of a step with the softmax and of one with the chain."""
    train = [e for e in task.examples("train") if len(e.x) > 1]
    schema = task.fit(train)
    torch.manual_seed(0)
    models = [NeuralChain(schema, context=context) for _ in range(2)]
    optimizers = [make_optimizer(m, es.TrainingOptions(optimizer="adamw")) for m in models]
    inputs = models[0].train().prepare([e.x for e in train])
    loss = es.NegativeLogLikelihood()
    turn = iter(range(0, 10**9, BATCH))

    def step(kind: str) -> None:
        begin = next(turn) % (len(train) - BATCH)
        some, ys = inputs.select(range(begin, begin + BATCH)), [e.y for e in train[begin : begin + BATCH]]
        which = 0 if kind == "softmax" else 1
        model, optimizer = models[which].train(), optimizers[which]
        optimizer.zero_grad()
        if kind == "softmax":
            scores = model.scores(some)
            target = task.encode(ys, None, schema)[BLOCK]  # type: ignore[arg-type]
            value = torch.nn.functional.cross_entropy(scores, target, reduction="sum")
        else:
            graph = model(some)
            value = loss(graph, task.encode(ys, graph, schema)).value.sum()
        (value / BATCH).backward()
        optimizer.step()

    found = interleaved({"softmax": lambda: step("softmax"), "chain": lambda: step("chain")}, seconds=6.0)
    return found["softmax"], found["chain"]


def main() -> None:
    """Print a row for entities and one for parts of speech, for either context."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="hkcancor", help="of the entities; parts of speech are always HKCanCor's")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for task in (Ner(data=arguments.data, tokenizer="characters"), Pos()):
        for context in ("convolution", "recurrent"):
            softmax, chain = measure(task, context)
            rows.append([task.name, context, softmax, chain, chain / softmax])
    print(table(["task", "encoder", "softmax step ms", "chain step ms", "ratio"], rows))


if __name__ == "__main__":
    main()
