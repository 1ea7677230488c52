"""Names for what rules add to a plan."""

from __future__ import annotations


def fresh_name(prefix: str, taken: set[str]) -> str:
    """The first of prefix1, prefix2, ... that is free; it is taken from now on."""
    number = 1
    while f"{prefix}{number}" in taken:
        number += 1
    taken.add(f"{prefix}{number}")
    return f"{prefix}{number}"
