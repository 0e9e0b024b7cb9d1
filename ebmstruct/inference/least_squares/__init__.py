"""Sums of squares: derivatives, normal equations, the loop, and what Gaussians are made of."""
