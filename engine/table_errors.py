"""Errors that the engine and its witness raise alike."""

from __future__ import annotations

from collections.abc import Sequence

from scalops.algebra.errors import DataError, Location


def unequal_lists(
    names: Sequence[str], lengths: Sequence[int], location: Location | None
) -> DataError:
    """Lists that are exploded together and do not go together."""
    return DataError(
        f"explode of {list(names)}: a record holds lists of {list(lengths)} items",
        location=location,
        hint="lists that are exploded together have one length in each record",
    )


def negative_number(word: str, name: str, number: int, location: Location | None) -> DataError:
    """A negative start or length of a slice."""
    return DataError(f"{word} got {name} {number}; expected 0 or more", location=location)
