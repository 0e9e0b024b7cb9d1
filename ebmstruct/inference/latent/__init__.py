"""Latent variables: the free energy that is left of a graph when some blocks are summed out."""
