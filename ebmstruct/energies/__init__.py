"""Reusable torch modules that make factor graphs."""

from ebmstruct.energies.model import EnergyModel, InputList, Inputs, SumOfEnergies

__all__ = ["EnergyModel", "InputList", "Inputs", "SumOfEnergies"]
