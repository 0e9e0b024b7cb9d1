"""Shared by the solvers of mixed graphs: parts of such graphs, and copies of them that are solved side by side."""
