"""The language as a user meets it: what each construct gives, with NumPy as the witness."""
