"""Elimination along an order: orders, tables, sums, and the split buckets of a table budget."""
