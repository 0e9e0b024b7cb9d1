"""Patches of photographs: where they come from, how they are whitened, and what filters learn of them."""
