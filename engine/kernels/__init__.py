"""Kernels: expressions compiled once to steps over blocks of records."""
