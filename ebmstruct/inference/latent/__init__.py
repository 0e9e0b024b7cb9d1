"""Latent variables: the free energy that is left of a graph when some blocks are summed out."""

from ebmstruct.inference.latent.free_energy import CopySum, FreeEnergy, TableSum, free_energy, free_energy_refusal

__all__ = ["CopySum", "FreeEnergy", "TableSum", "free_energy", "free_energy_refusal"]
