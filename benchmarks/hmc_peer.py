"""One run of blackjax's HMC for ``benchmarks.samplers``: in an environment of its own, without ebmstruct."""

from __future__ import annotations

import json
import sys
import time

import numpy as np
from densities import CHAINS, DIM, STEP, jax_energy, starts

DRAWS, LEAPFROG = 200, 10


def main() -> None:
    """Write the draws, and print the CPU seconds of a run without compiling."""
    import blackjax
    import jax
    import jax.numpy as jnp

    name, seed, out = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    energy = jax_energy(name)
    algorithm = blackjax.hmc(lambda x: -energy(x), STEP[name], jnp.ones(DIM[name]), LEAPFROG)

    def chain(key: jax.Array, state: object) -> jax.Array:
        def body(state: object, key: jax.Array) -> tuple[object, jax.Array]:
            state, _ = algorithm.step(key, state)
            return state, state.position

        return jax.lax.scan(body, state, jax.random.split(key, DRAWS))[1]

    run = jax.jit(jax.vmap(chain))
    state = jax.vmap(algorithm.init)(jnp.asarray(starts(name)))
    keys = jax.random.split(jax.random.key(seed), CHAINS)
    jax.block_until_ready(run(keys, state))
    begun = time.process_time()
    draws = jax.block_until_ready(run(keys, state))
    seconds = time.process_time() - begun
    np.save(out, np.asarray(draws))
    sys.stdout.write(json.dumps({"cpu": seconds}) + "\n")


if __name__ == "__main__":
    main()
