"""Calibration: short runs that measure what this machine does in a second."""
