"""Threads over the instances of a batch, for loops that let go of the interpreter lock.

What is written for an instance never depends on the threads, nor do sums over instances: a large batch is cut
into the same parts whether one thread takes them all or several share them, and the parts are added in their order.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

PARTS = 8
LARGE = 50_000_000  # additions, a few milliseconds: below that, handing out work costs more than it gains
SITE = 1_000  # what a site costs beside its table


def parts(offsets: np.ndarray, work_per_site: int) -> list[tuple[int, int]]:
    """Ranges of instances of about the same number of sites; one range unless the batch is large."""
    instances = offsets.size - 1
    sites = offsets.item(instances)
    if sites * (work_per_site + SITE) < LARGE or instances < 2:
        return [(0, instances)]
    wanted = np.linspace(0, sites, PARTS + 1)
    edges = np.unique(np.searchsorted(offsets[:-1], wanted[1:-1]))
    bounds = [0, *(int(b) for b in edges if 0 < b < instances), instances]
    return list(zip(bounds[:-1], bounds[1:], strict=True))


def run(task: Callable[[int, int, int], None], ranges: list[tuple[int, int]]) -> None:
    """task(part, first, stop) for each range, by as many threads as torch may use."""
    threads = min(torch.get_num_threads(), len(ranges))
    if threads < 2:
        for part, (first, stop) in enumerate(ranges):
            task(part, first, stop)
        return
    for done in [_pool(threads).submit(task, part, *span) for part, span in enumerate(ranges)]:
        done.result()


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="ebmstruct-kernel")


# Threads do not survive a fork: a child process makes its own.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)
