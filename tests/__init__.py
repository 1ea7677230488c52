"""Tests of behaviour, against independent references."""
