"""The chain kernel against the CRF layers of other packages: log Z with its gradients, and decoding.

usage: python benchmarks/chain_kernel.py [--seconds 4] [--json]

Every layer that can be imported takes part: pytorch-crf, torch-struct, torchlatent (0.4.3 with torchrua 0.5.0) and
python-crfsuite for decoding. One thread, float32. Each round gives every layer its turn, so that a busy machine slows
all of them. A turn lasts at least 10 ms of CPU and at least one run; its figure is the CPU time of a run, the first
apart. The first run of a turn, which finds the caches full of the layer before, is reported beside it. Figures are
medians over rounds; a ratio is the fastest other layer's figure over ours.

Training is what one step asks of the layer: ``x = emission.clone().requires_grad_()``, log Z of each instance, their
sum, backward into x, the transitions, the start and the end. Decoding goes from scores that lie in memory to
lists of states, python-crfsuite's scores as one indicator feature per tag (its model is trained on a toy set;
only its time matters here).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from ebmstruct.inference.kernels.chains import chain, chain_torch

SHAPES = [(32, 40, 9), (32, 128, 17), (8, 512, 32), (1, 2000, 9)]
TURN_MS = 10
Step = Callable[[], Any]


class Ours:
    """This package's kernel."""

    name = "ebmstruct"

    def __init__(self, scores: Tensor, transition: Tensor, start: Tensor, end: Tensor) -> None:
        instances, length, _ = scores.shape
        self.emission = -scores.flatten(0, 1)
        self.tables = [(-x).requires_grad_() for x in (transition, start, end)]
        self.offsets = torch.arange(instances + 1) * length
        self.lengths = [length] * instances

    def log_z(self) -> Tensor:
        return chain.log_partition(self.emission, *self.tables, self.offsets)

    def train(self) -> None:
        x = self.emission.clone().requires_grad_()
        for table in self.tables:
            table.grad = None
        chain.log_partition(x, *self.tables, self.offsets).sum().backward()

    def decode(self) -> Any:
        with torch.no_grad():
            states = chain.viterbi(self.emission, *self.tables, self.offsets).states
        return [path.tolist() for path in states.split(self.lengths)]


class PytorchCrf:
    """pytorch-crf: a Python loop over sites."""

    name = "pytorch-crf"

    def __init__(self, scores: Tensor, transition: Tensor, start: Tensor, end: Tensor) -> None:
        from torchcrf import CRF

        self.crf = CRF(scores.shape[2], batch_first=True)
        self.crf.transitions.data[:] = transition
        self.crf.start_transitions.data[:] = start
        self.crf.end_transitions.data[:] = end
        self.scores, self.mask = scores, torch.ones(scores.shape[:2], dtype=torch.bool)

    def log_z(self, x: Tensor | None = None) -> Tensor:
        x = self.scores if x is None else x
        return self.crf._compute_normalizer(x.transpose(0, 1), self.mask.transpose(0, 1))

    def train(self) -> None:
        x = self.scores.clone().requires_grad_()
        self.crf.zero_grad()
        self.log_z(x).sum().backward()

    def decode(self) -> Any:
        return self.crf.decode(self.scores, mask=self.mask)


class TorchStruct:
    """torch-struct: a tree of products of edge tables. The start goes onto an extra first edge out of tag 0."""

    name = "torch-struct"

    def __init__(self, scores: Tensor, transition: Tensor, start: Tensor, end: Tensor) -> None:
        import torch_struct

        self.chain = torch_struct.LinearChainCRF
        self.scores = scores
        self.tables = [x.clone().requires_grad_() for x in (transition, start, end)]

    def distribution(self, x: Tensor) -> Any:
        instances, length, tags = x.shape
        transition, start, end = self.tables
        last = torch.zeros(length, 1)
        last[-1] = 1
        unary = x + last * end
        first = torch.full((instances, 1, tags, tags), -1e5)
        first[:, 0, :, 0] = unary[:, 0] + start
        edges = torch.cat([first, (unary[..., None] + transition.t())[:, 1:]], 1)
        return self.chain(edges, lengths=torch.full((instances,), length + 1))

    def log_z(self) -> Tensor:
        return self.distribution(self.scores).partition

    def train(self) -> None:
        x = self.scores.clone().requires_grad_()
        for table in self.tables:
            table.grad = None
        self.distribution(x).partition.sum().backward()

    def decode(self) -> Any:
        found = self.distribution(self.scores)
        path, _ = found.struct.from_parts(found.argmax)
        return path[:, 1:].tolist()


class TorchLatent:
    """torchlatent: packed sequences."""

    name = "torchlatent"

    def __init__(self, scores: Tensor, transition: Tensor, start: Tensor, end: Tensor) -> None:
        from torchlatent import CrfDecoder
        from torchrua import C

        instances, length, tags = scores.shape
        self.crf = CrfDecoder(num_targets=tags)
        self.crf.transitions.data[:] = transition
        self.crf.head_transitions.data[:] = start
        self.crf.last_transitions.data[:] = end
        self.scores = scores.flatten(0, 1)
        self.pack = lambda x: C(data=x, token_sizes=torch.full((instances,), length))

    def log_z(self) -> Tensor:
        return self.crf(self.pack(self.scores)).log_partitions

    def train(self) -> None:
        x = self.scores.clone().requires_grad_()
        self.crf.zero_grad()
        self.crf(self.pack(x)).log_partitions.sum().backward()

    def decode(self) -> Any:
        return self.crf(self.pack(self.scores.clone().requires_grad_())).argmax.data.tolist()


class CrfSuite:
    """python-crfsuite, decoding only: its log Z cannot be asked for with gradients."""

    name = "python-crfsuite"

    def __init__(self, scores: Tensor, transition: Tensor, start: Tensor, end: Tensor) -> None:
        import pycrfsuite

        tags = [str(i) for i in range(scores.shape[2])]
        trainer = pycrfsuite.Trainer(verbose=False)
        for a in tags:
            for b in tags:
                trainer.append([{"e" + a: 1.0}, {"e" + b: 1.0}], [a, b])
        trainer.set_params({"max_iterations": 5})
        self.model = tempfile.NamedTemporaryFile(suffix=".crfsuite")  # noqa: SIM115 - the tagger maps it while it lives
        trainer.train(self.model.name)
        self.tagger = pycrfsuite.Tagger()
        self.tagger.open(self.model.name)
        rows = [[{"e" + t: v for t, v in zip(tags, row, strict=True)} for row in one] for one in scores.tolist()]
        self.items = [pycrfsuite.ItemSequence(one) for one in rows]

    def decode(self) -> Any:
        return [self.tagger.tag(item) for item in self.items]


PEERS = (PytorchCrf, TorchStruct, TorchLatent, CrfSuite)


def cpu_ms(step: Step, runs: int = 1) -> float:
    """CPU milliseconds of a run, the mean of several."""
    start = time.process_time()
    for _ in range(runs):
        step()
    return 1000 * (time.process_time() - start) / runs


def measure(shape: tuple[int, int, int], seconds: float) -> list[dict[str, Any]]:
    """One row per layer: median CPU milliseconds of training and decoding, and the error of log Z."""
    generator = torch.Generator().manual_seed(0)
    instances, length, tags = shape
    scores = torch.randn(shape, generator=generator)
    tables = [torch.randn(size, generator=generator) for size in ((tags, tags), (tags,), (tags,))]
    offsets = torch.arange(instances + 1) * length
    wide = [-x.double() for x in tables]
    wanted = chain_torch.log_partition(-scores.flatten(0, 1).double(), *wide, offsets)
    steps: dict[tuple[str, str], Step] = {}
    rows: dict[str, dict[str, Any]] = {}
    for make in (Ours, *PEERS):
        try:
            layer = make(scores, *tables)
            rows[layer.name] = {"shape": shape, "layer": layer.name}
            if hasattr(layer, "log_z"):
                error = (layer.log_z().detach().double() - wanted).abs().max() / wanted.abs().max()
                rows[layer.name]["log_z_relative_error"] = error.item()
                steps[layer.name, "train"] = layer.train
            steps[layer.name, "decode"] = layer.decode
        except ImportError as error:
            print(f"{make.name} is left out: {error}", file=sys.stderr)
    times: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
    first: dict[tuple[str, str], list[float]] = {key: [] for key in steps}
    for step in steps.values():
        step()
    begun = time.process_time()
    while time.process_time() - begun < seconds or min(map(len, times.values())) < 3:
        for key, step in steps.items():
            first[key].append(cpu_ms(step))
            times[key].append(cpu_ms(step, max(1, round(TURN_MS / first[key][-1]))))
    for key, values in times.items():
        name, what = key
        rows[name][f"{what}_ms"] = statistics.median(values)
        rows[name][f"{what}_first_ms"] = statistics.median(first[key])
    ours = rows[Ours.name]
    for figure in [key for key in ours if key.endswith("_ms")]:
        others = [row[figure] for name, row in rows.items() if name != Ours.name and figure in row]
        if others:
            ours[figure.replace("_ms", "_ratio")] = min(others) / ours[figure]
    return list(rows.values())


def overhead() -> dict[str, float]:
    """Median CPU microseconds of calls on one chain of 5 sites and 3 states, where the loops cost next to nothing."""
    emission, transition, offsets = torch.randn(5, 3), torch.randn(3, 3), torch.tensor([0, 5])
    learned = emission.clone().requires_grad_()
    calls: dict[str, Step] = {
        "log Z": lambda: chain.log_partition(emission, transition, None, None, offsets),
        "log Z, gradient recorded": lambda: chain.log_partition(learned, transition, None, None, offsets),
        "log Z and backward": lambda: chain.log_partition(learned, transition, None, None, offsets).sum().backward(),
        "marginals": lambda: chain.marginals(emission, transition, None, None, offsets),
        "viterbi": lambda: chain.viterbi(emission, transition, None, None, offsets),
    }
    return {name: 1000 * statistics.median(cpu_ms(call) for _ in range(2000)) for name, call in calls.items()}


def table(rows: list[dict[str, Any]]) -> str:
    def cell(row: dict[str, Any], key: str, form: str) -> str:
        return format(row[key], form) if key in row else ""

    figures = ("train", "train_first", "decode", "decode_first")
    names = ("log Z + backward", "its first run", "decoding", "its first run")
    lines = ["| shape (B, T, K) | layer | " + " | ".join(f"{n}, ms | ratio" for n in names) + " | log Z error |"]
    lines.append("|---|---|" + "---:|" * 9)
    for row in rows:
        cells = [str(row["shape"]), row["layer"]]
        for figure in figures:
            cells += [cell(row, f"{figure}_ms", ".3f"), cell(row, f"{figure}_ratio", ".1f")]
        cells.append(cell(row, "log_z_relative_error", ".0e"))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="CPU seconds of rounds for each shape")
    parser.add_argument("--json", action="store_true", help="one JSON object a line instead of the table")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    chain.warm()
    rows = [row for shape in SHAPES for row in measure(shape, arguments.seconds)]
    small = overhead()
    if arguments.json:
        for row in (*rows, {"overhead_us": small}):
            print(json.dumps(row))
        return
    print(table(rows))
    print("\n| call on a (1, 5, 3) chain | µs |\n|---|---:|")
    for name, value in small.items():
        print(f"| {name} | {value:.0f} |")


if __name__ == "__main__":
    main()
