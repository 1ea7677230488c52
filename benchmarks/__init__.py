"""Benchmarks: each prints our time beside a hand-written NumPy loop's, from one run, as a ratio."""
