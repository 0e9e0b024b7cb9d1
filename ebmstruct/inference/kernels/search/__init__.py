"""Local search and sampling: sweeps, descent, and re-optimised subgraphs."""
