"""One rule a file: a function from a node to its replacement, or None."""
