"""Placeholder."""
def execute(job, options, listen=None): raise RuntimeError
