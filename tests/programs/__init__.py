"""The programs that must run unchanged."""
