"""Answers by deadlines of 1 to 100 ms while another process keeps one core busy: ``python -m benchmarks.deadlines``.

Every kind of question that continuous, mixed and latent variables bring is asked in turn, each of a problem that
would take longer than the deadline allows, or nearly so. Printed for each: how often it was asked, how far past the
deadline the answers came (p50, p99, worst, and the share within 2 ms or 10 % of the deadline, whichever is more),
exceptions, and in how many of nine steps from one tenth of the deadlines to the next longer tenth the median energy rose.
"""

from __future__ import annotations

import argparse
import gc
import logging
import math
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import ebmstruct as es
from benchmarks.timing import table

Call = Callable[[es.Budget], Any]


def busy(stop: Any) -> None:
    """Keep one core busy until told to stop."""
    x = 1.0
    while not stop.is_set():
        for _ in range(100_000):
            x = math.sqrt(x + 1.0)


def trajectory() -> es.FactorGraph:
    """64 waypoints in the plane around circles: smooth, and clear of what is in the way."""
    n, step = 64, 1.0 / 63
    block = es.Variables.of_lengths("x", es.Real(2), [n])
    inner = torch.arange(n - 2)
    generator = torch.Generator().manual_seed(3)
    centre = torch.rand(12, 2, generator=generator, dtype=torch.float64) * 2 - 1

    def bend(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return (a - 2 * b + c) * (math.sqrt(0.02 * step) / step**2)

    def near(a: torch.Tensor) -> torch.Tensor:
        clearance = (a[:, None] - centre).square().sum(-1).add(1e-12).sqrt().amin(1) - 0.2
        return ((0.05 - clearance).clamp(min=0) * math.sqrt(1e4 * step))[:, None]

    graph = es.FactorGraph(
        [block],
        [
            es.ResidualFactor(("x",) * 3, "bend", bend, torch.stack([inner, inner + 1, inner + 2])),
            es.ResidualFactor(("x",), "near", near, torch.arange(n)[None]),
        ],
    )
    line = torch.linspace(-1.2, 1.2, n, dtype=torch.float64)[:, None].expand(n, 2).clone()
    ends = torch.zeros(n, dtype=torch.bool)
    ends[[0, -1]] = True
    return graph.condition(es.Assignment({"x": line}, {"x": ends}))


def network(instances: int) -> es.FactorGraph:
    """A random energy of two hidden layers over 16 numbers, in float32."""
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(a, 64, generator=generator) * 2 / math.sqrt(a) for a in (16, 64))
    last = torch.randn(64, generator=generator) / 4
    block = es.Variables.of_lengths("x", es.Real(16), [1] * instances)

    def energy(x: torch.Tensor, offsets: Any) -> torch.Tensor:
        hidden = torch.nn.functional.silu(torch.nn.functional.silu(x @ first) @ second)
        return hidden @ last + 0.25 * x.square().sum(-1)

    return es.FactorGraph([block], [es.BlockFactor(("x",), "network", energy)])


def switching(length: int) -> es.FactorGraph:
    """A chain of three modes, each of which moves a point in the plane its own way, seen through noise."""
    generator = torch.Generator().manual_seed(1)
    seen = torch.randn(length, 2, generator=generator, dtype=torch.float64).cumsum(0)
    drift = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    modes = es.Variables.of_lengths("mode", es.Discrete(3), [length])
    state = es.Variables.of_lengths("x", es.Real(2), [length])
    later = torch.arange(1, length)
    return es.FactorGraph(
        [modes, state],
        [
            es.ChainFactor(("mode",), "stay", 2.0 * (1 - torch.eye(3, dtype=torch.float64))),
            es.ResidualFactor(("x",), "seen", lambda x, z: x - z, torch.arange(length)[None], (seen,), linear=True),
            es.ResidualFactor(
                ("mode", "x", "x"), "move", lambda m, a, b: 2.0 * (b - a - drift[m]),
                torch.stack([later, later - 1, later]), linear=True,
            ),
        ],
    )  # fmt: skip


def mixture(points: int) -> es.FactorGraph:
    """Points in the plane around three unknown centres: which centre is whose is latent."""
    generator = torch.Generator().manual_seed(2)
    true = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 3.0]], dtype=torch.float64)
    who = torch.randint(0, 3, (points,), generator=generator)
    seen = true[who] + 0.5 * torch.randn(points, 2, generator=generator, dtype=torch.float64)
    centre = es.Variables.of_lengths("centre", es.Real(6), [1])
    label = es.Variables.of_lengths("label", es.Discrete(3), [points])

    def off(c: torch.Tensor, k: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return 2.0 * (x - c.reshape(-1, 3, 2)[torch.arange(k.numel()), k])

    index = torch.stack([torch.zeros(points, dtype=torch.long), torch.arange(points)])
    return es.FactorGraph([centre, label], [es.ResidualFactor(("centre", "label"), "off", off, index, (seen,))])


def constrained() -> es.FactorGraph:
    """A chain of 40 links of fixed length between two points, that must stay above a floor, pulled down by weight."""
    n = 41
    block = es.Variables.of_lengths("x", es.Real(2), [n])
    t = torch.linspace(0, 1, n, dtype=torch.float64)
    start = torch.stack([t * 2.0, 1.0 - 0.1 * torch.sin(torch.pi * t)], 1)
    links = torch.stack([torch.arange(n - 1), torch.arange(1, n)])
    graph = es.FactorGraph(
        [block],
        [
            es.ResidualFactor(("x",), "weight", lambda x: 0.3 * (x[:, 1:] + 2.0), torch.arange(n)[None]),
            es.ResidualFactor(
                ("x", "x"), "link", lambda a, b: ((a - b).square().sum(1, keepdim=True) - 0.07**2) * 10, links,
                constraint="equality",
            ),
            es.ResidualFactor(("x",), "floor", lambda x: 0.4 - x[:, 1:], torch.arange(n)[None], constraint="inequality"),
        ],
    )  # fmt: skip
    ends = torch.zeros(n, dtype=torch.bool)
    ends[[0, -1]] = True
    return graph.condition(es.Assignment({"x": start}, {"x": ends}))


def grid(side: int) -> es.FactorGraph:
    """A Potts grid of four labels with random unaries."""
    from ebmstruct.testing import random_grid

    return random_grid([(side, side)], 4, torch.Generator().manual_seed(0))


def calls() -> dict[str, Call]:
    """Name to the question; energies are compared for those that minimise."""
    path, net, modes, mix, links, image = (
        trajectory(), network(16), switching(60), mixture(200), constrained(), grid(40)
    )  # fmt: skip
    seed = lambda: torch.Generator().manual_seed(0)  # noqa: E731
    image_init = es.Assignment({"x": torch.randn(16, 16, generator=seed())})
    return {
        "minimize trajectory": lambda b: es.minimize(path, budget=b),
        "minimize trajectory, adam": lambda b: es.minimize(path, es.Adam(), budget=b),
        "minimize network": lambda b: es.minimize(net, es.LBFGS(), init=image_init, budget=b),
        "minimize constrained": lambda b: es.minimize(links, budget=b),
        "minimize mixed": lambda b: es.minimize(modes, budget=b, generator=seed()),
        "minimize, labels summed out": lambda b: es.minimize(mix, sum_out=("label",), budget=b, generator=seed()),
        "minimize relaxed grid": lambda b: es.minimize(image, es.MirrorDescent(), budget=b),
        "sample network, nuts": lambda b: es.sample(net, es.NUTS(), num_samples=5000, budget=b, generator=seed()),
        "sample network, hmc": lambda b: es.sample(net, es.HMC(), num_samples=5000, budget=b, generator=seed()),
        "sample network, langevin": lambda b: es.sample(
            net, es.Langevin(step_size=0.01), num_samples=5000, budget=b, generator=seed()
        ),
        "sample mixed": lambda b: es.sample(modes, num_samples=5000, budget=b, generator=seed()),
        "log partition, annealed": lambda b: es.bound_log_partition(
            net, es.AnnealedImportanceSampling(), budget=b, generator=seed()
        ),
    }


def measure(name: str, call: Call, times: int) -> list[Any]:
    """One row of the table for one question."""
    generator = torch.Generator().manual_seed(7)
    deadlines = (1e-3 * 100.0 ** torch.rand(times, generator=generator, dtype=torch.float64)).sort().values.tolist()
    for _ in range(3):
        call(es.Budget.after(0.3))
    over, within, failed, energies = [], 0, 0, []
    gc.collect()
    for deadline in deadlines:
        begin = time.monotonic()
        try:
            answer = call(es.Budget.after(deadline))
        except Exception as fault:
            failed += 1
            sys.stderr.write(f"{name}: {type(fault).__name__}: {fault}\n")
            continue
        late = time.monotonic() - begin - deadline
        over.append(max(0.0, late) * 1e3)
        within += late <= max(2e-3, 0.1 * deadline)
        if isinstance(answer, es.Result):
            energies.append(float(answer.energy.sum()))
    tenth = max(1, len(energies) // 10)
    medians = [statistics.median(energies[i : i + tenth]) for i in range(0, len(energies) - tenth + 1, tenth)]
    rises = sum(b > a + 1e-6 * max(1.0, abs(a)) for a, b in zip(medians, medians[1:], strict=False))
    order = sorted(over)
    pick = lambda q: order[min(len(order) - 1, int(q * len(order)))] if order else math.nan  # noqa: E731
    rise = rises if energies else "-"
    return [name, times, pick(0.5), pick(0.99), order[-1] if order else math.nan, within / times, failed, rise]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--times", type=int, default=840, help="how often each question is asked (default 840)")
    parser.add_argument("--only", nargs="*", help="names of questions, all by default")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    stop = multiprocessing.Event()
    other = multiprocessing.Process(target=busy, args=(stop,), daemon=True)
    other.start()
    try:
        rows = [
            measure(name, call, chosen.times)
            for name, call in calls().items()
            if not chosen.only or any(part in name for part in chosen.only)
        ]
    finally:
        stop.set()
        other.join()
    print(table(["question", "calls", "p50 ms over", "p99 ms over", "worst", "within", "exceptions", "rises"], rows))


if __name__ == "__main__":
    main()
