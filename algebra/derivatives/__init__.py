"""Derivatives: vector-Jacobian products of the table's functions and folds, in reverse mode."""
