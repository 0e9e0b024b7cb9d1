"""Reusable torch modules that make factor graphs."""

from ebmstruct.energies.amortised import Amortised
from ebmstruct.energies.model import EnergyModel, InputList, Inputs, SumOfEnergies

__all__ = ["Amortised", "EnergyModel", "InputList", "Inputs", "SumOfEnergies"]
