"""Reusable torch modules that make factor graphs."""

from ebmstruct.energies.model import Additions, EnergyModel, InputList, Inputs, SumOfEnergies
from ebmstruct.energies.rules import Rules

__all__ = ["Additions", "EnergyModel", "InputList", "Inputs", "Rules", "SumOfEnergies"]
