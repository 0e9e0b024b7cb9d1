"""Solvers of other projects, run in processes of their own: what is said to them, and how their answers are read."""
