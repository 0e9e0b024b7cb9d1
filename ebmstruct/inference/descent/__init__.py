"""Descents by gradients: on points, on weights over states, and under constraints."""
