"""Sequences of symbols: lines of text, letter by letter or word by word."""
