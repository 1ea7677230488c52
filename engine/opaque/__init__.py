"""Opaque functions: users' Python called as it is, over records, batches, groups of states."""
