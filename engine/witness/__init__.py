"""What plans mean, record by record, in plain Python: slow, obvious, and asked by every test."""
