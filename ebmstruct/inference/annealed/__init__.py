"""Annealed importance sampling: paths from a density that is known to the one that is asked."""
