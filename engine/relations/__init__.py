"""What makes a stored table of a stage's records, sink by sink."""
