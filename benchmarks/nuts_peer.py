"""A peer's NUTS on one density, in the peers' own environment: ``python -m benchmarks.nuts_peer PEER TARGET SEED OUT``.

Imports nothing of ours but ``densities``. Prints CPU seconds, those of compilation, and gradients as JSON; draws go to OUT.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.densities import CHAINS, DIM, STEP, jax_energy, starts, torch_energy

DRAWS, WARM_UP, DEPTH = 50, 50, 6


def ebmkit(name: str, seed: int) -> tuple[np.ndarray, float, float, int]:
    """50 draws after 50 of warm-up, which is counted; chains go in lockstep."""
    import ebm
    import torch

    torch.set_num_threads(1)
    energy, calls = torch_energy(name), 0

    def counted(x: Any) -> Any:
        nonlocal calls
        calls += x.shape[0]
        return energy(x)

    x = torch.tensor(starts(name))
    torch.manual_seed(seed)
    ebm.NUTS(step_size=STEP[name], max_depth=2, warmup=2).sample(energy, x, steps=2)
    sampler = ebm.NUTS(step_size=STEP[name], max_depth=DEPTH, warmup=WARM_UP)
    begun = time.process_time()
    found = sampler.sample(counted, x, steps=DRAWS, return_trajectory=True)
    seconds = time.process_time() - begun
    return found[1:].transpose(0, 1).numpy(), seconds, 0.0, calls


def blackjax(name: str, seed: int) -> tuple[np.ndarray, float, float, int]:
    """50 draws with the step size given and no warm-up, one jit of all chains; compilation told apart."""
    import blackjax as library
    import jax
    import jax.numpy as jnp

    energy = jax_energy(name)
    algorithm = library.nuts(lambda x: -energy(x), STEP[name], jnp.ones(DIM[name]), max_num_doublings=DEPTH)

    def chain(key: Any, state: Any) -> Any:
        def body(state: Any, key: Any) -> Any:
            state, info = algorithm.step(key, state)
            return state, (state.position, info.num_integration_steps)

        return jax.lax.scan(body, state, jax.random.split(key, DRAWS))[1]

    run: Callable[..., Any] = jax.jit(jax.vmap(chain))
    state = jax.vmap(algorithm.init)(jnp.asarray(starts(name)))
    keys = jax.random.split(jax.random.key(seed), CHAINS)
    begun = time.process_time()
    jax.block_until_ready(run(keys, state))
    first = time.process_time() - begun
    begun = time.process_time()
    draws, steps = jax.block_until_ready(run(keys, state))
    seconds = time.process_time() - begun
    return np.asarray(draws), seconds, first - seconds, int(steps.sum())


if __name__ == "__main__":
    peer, target, seed, out = sys.argv[1:]
    draws, seconds, compiling, gradients = {"ebmkit": ebmkit, "blackjax": blackjax}[peer](target, int(seed))
    np.save(out, draws)
    sys.stdout.write(json.dumps({"cpu": seconds, "compiling": compiling, "gradients": gradients}) + "\n")
