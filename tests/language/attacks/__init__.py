"""Hostile and ill-formed programs, by what they attack; test_attacks.py runs them."""
