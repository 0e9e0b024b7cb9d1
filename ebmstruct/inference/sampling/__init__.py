"""Chains: how they move, adapt, are compiled, and how a run of several is collected."""
