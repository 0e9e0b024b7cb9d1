"""Hot loops: numba on the CPU, plain torch elsewhere."""
