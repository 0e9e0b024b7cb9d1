"""A graph's values laid out for solvers and kernels: chains and forests, tables of any kind, grids of pixels."""
