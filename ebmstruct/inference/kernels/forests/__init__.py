"""Forests of pairs: the same as for chains."""
