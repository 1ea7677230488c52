"""Tests of types, expressions, nodes and plan text."""
