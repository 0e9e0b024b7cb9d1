"""Grids of pixels: messages, bounds, labellings and lines."""
