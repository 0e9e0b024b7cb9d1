"""Symmetric matrices whose entries lie near the diagonal: normal equations, Cholesky factors, and what follows from them."""
