"""Pipelines: what a stage does to each partition, block by block."""
