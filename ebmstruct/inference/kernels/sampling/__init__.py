"""Loops of samplers of continuous blocks."""
