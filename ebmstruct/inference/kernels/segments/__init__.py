"""Exact inference over segmentations of sequences."""
