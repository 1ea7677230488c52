"""Data types, expressions, logical operators and plan text: what a program means, and nothing of how it runs."""
