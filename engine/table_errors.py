"""Errors that the engine and its witness raise alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from scalops.algebra.errors import DataError, Location
from scalops.algebra.expressions import Column
from scalops.algebra.folds import Fold

Wrong = Literal["null", "outside", "twice", "value"]


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


def bad_index(
    column: str,
    index: int | None,
    size: int,
    what: Wrong,
    location: Location | None,
) -> DataError:
    """A record that `to_array` cannot place.

    Its index is null, outside 0..size-1 or there `twice`, or its `value` is null. `column` is the
    index's name.
    """
    within = f"0 to {size - 1}" if size else "none, as the size is 0"
    if what == "null":
        found, hint = f"a null in {column!r}; expected {within}", "filter the nulls out first"
    elif what == "outside":
        found = f"{index} in {column!r}; expected {within}"
        hint = "filter such records out first, or pass a larger size="
    elif what == "twice":
        found, hint = f"{index} twice in {column!r}", "group_by it first, so that it is a key"
    else:
        found = f"a null as the value at {index}; an array holds none"
        hint = "filter the nulls out first, so that fill= stands there, or use so.coalesce"
    return DataError(f"to_array found {found}", location=location, hint=hint)


def wrong_index(fold: Fold, index: int | None, what: Wrong) -> DataError:
    """The error for what the fold to_array cannot place."""
    column = fold.arguments[0]
    name = column.name if isinstance(column, Column) else "index"
    return bad_index(name, index, dict(fold.parameters)["size"], what, fold.location)
