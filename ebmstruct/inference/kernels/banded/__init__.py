"""Symmetric matrices whose entries lie near the diagonal: normal equations, factors, and what follows from them."""
