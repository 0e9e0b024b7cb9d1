"""Benchmarks against peers: ``python -m benchmarks [NAME ...]``; tables that were measured are kept beside them."""
