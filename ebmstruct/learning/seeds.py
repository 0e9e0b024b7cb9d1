"""Seeds of the noise of a training: each step's own, from where it stands and nothing else."""

from __future__ import annotations

import torch


def seeded(*parts: int) -> torch.Generator:
    """A generator whose seed is mixed from several numbers."""
    generator = torch.Generator()
    generator.manual_seed(mixed(*parts))
    return generator


def mixed(*parts: int) -> int:
    """One seed from several numbers, so that each step's noise depends on where it stands and on nothing else."""
    value = 0x9E3779B97F4A7C15
    for part in parts:
        value = ((value ^ (part + 0x7F4A7C15)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        value ^= value >> 31
    return value & 0x7FFFFFFFFFFFFFFF
