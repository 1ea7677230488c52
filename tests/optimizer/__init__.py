"""Tests of the optimizer: rules one by one, then all phases together."""
