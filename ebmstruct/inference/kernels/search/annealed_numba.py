"""Particles of annealed importance sampling over tables: heat-bath sweeps, each instance at its own temperature."""

from __future__ import annotations

import numpy as np

from ebmstruct.inference.kernels.compiler import kernel
from ebmstruct.inference.kernels.search.sweeps_numba import conditional, heat_bath, instance_energies, uniform


@kernel
def sweep_particles(problem, x, instance, temperatures, random, sweeps, energy, energies):
    """``sweeps`` sweeps of every particle in place, and their energies after that.

    x: (P, n).  temperatures: (B,); infinite where nothing is to weigh.  random: (P, 1).  energy: scratch.
    energies: (P, B), out, without the constants.
    """
    for particle in range(x.shape[0]):
        own, source = x[particle], random[particle]
        for _ in range(sweeps):
            for site in range(own.size):
                count = conditional(problem, own, site, energy)
                temperature = temperatures[instance[site]]
                if count == 2:
                    gap = (energy[1] - energy[0]) / temperature
                    if gap > 700.0:
                        own[site] = 0
                    elif gap < -700.0:
                        own[site] = 1
                    else:
                        own[site] = 1 if uniform(source) * (1.0 + np.exp(gap)) < 1.0 else 0
                else:
                    own[site] = heat_bath(energy, count, temperature, uniform(source))
        instance_energies(problem, own, instance, energies[particle])
