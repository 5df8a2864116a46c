"""Benchmarks: each prints what it measured; none of them is a test (see README.md)."""
