"""Loops over sets of labels."""
