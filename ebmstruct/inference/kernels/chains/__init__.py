"""Chains: log partition, marginals, least energies, k best, samples."""
