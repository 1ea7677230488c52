"""Folds compiled just in time: one loop over a block, by numba. Nothing here is imported unless a
plan asks for it.
"""
