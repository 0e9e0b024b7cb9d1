"""Train, dev and test of pictures, drawn by a seed where the data do not say."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ebmstruct.errors import DataError
from ebmstruct_generative.images.pictures import Pictures


def split_up(parts: Mapping[str, Pictures], *, dev: float, test: float, seed: int) -> dict[str, Pictures]:
    """The three splits. What the data name stays; a test and a dev part are drawn from what is left.

    dev, test: fractions of all pictures; a split of 0 is left out. Errors: DataError where too few pictures are there.
    """
    sizes = {p.size for p in parts.values()}
    if len(sizes) > 1:
        raise DataError(f"the splits hold pictures of different sizes, {sorted(sizes)}; set size: to bring all to one")
    out = {s: p for s, p in parts.items() if s in ("dev", "test")}
    rest = parts.get("train", parts.get("all"))
    if rest is None:
        (only,) = list(parts)[:1]
        rest = out.pop(only)
    order = np.random.default_rng(seed).permutation(len(rest))
    wanted = {s: round(f * len(rest)) for s, f in (("test", test), ("dev", dev)) if s not in out and f > 0}
    begin = 0
    for split, count in wanted.items():
        out[split] = rest.take(order[begin : begin + count])
        begin += count
    out["train"] = rest.take(order[begin:]) if wanted else rest
    for split in ("train", *wanted):
        if not len(out[split]):
            raise DataError(
                f"{len(rest)} pictures are too few for a train, a dev and a test part; add some, or set dev_fraction "
                "and test_fraction to 0"
            )
    return {s: out[s] for s in ("train", "dev", "test") if s in out}
