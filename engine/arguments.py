"""Arguments of an opaque function over a block: columns until the function is called."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from scalops.engine.blocks import Array, ColumnData
from scalops.engine.opaque import rows_of
from scalops.engine.records import Record


class Column(NamedTuple):
    """A value for each record; `mask` tells which are not null."""

    values: ColumnData
    mask: Array | None


class Uniform(NamedTuple):
    """One value for all records, as an opaque function receives it."""

    value: Any


@dataclass(frozen=True)
class Argument:
    """One argument: a record's columns, or, without names, one bare value."""

    names: tuple[str, ...] | None
    columns: tuple[Column | Uniform, ...]

    def slice(self, start: int, stop: int) -> Argument:
        """The argument for the records start..stop-1."""
        return Argument(self.names, tuple(_sliced(c, start, stop) for c in self.columns))

    def records(self, rows: int) -> list[Any]:
        """The argument for each record."""
        items = [
            [c.value] * rows if isinstance(c, Uniform) else rows_of(c.values, c.mask)
            for c in self.columns
        ]
        if self.names is None:
            return items[0]
        made = zip(*items, strict=True) if items else [()] * rows
        return [Record(dict(zip(self.names, r, strict=True))) for r in made]


def column(values: ColumnData, mask: Array | None) -> Column:
    """A column whose arrays are contiguous: a function may add up what it finds in them."""
    if isinstance(values, np.ndarray):
        values = np.ascontiguousarray(values)
    return Column(values, mask)


def _sliced(item: Column | Uniform, start: int, stop: int) -> Column | Uniform:
    if isinstance(item, Uniform):
        return item
    values, mask = item
    is_array = isinstance(values, np.ndarray)
    part = values[start:stop] if is_array else values.slice(start, stop - start)
    return Column(part, None if mask is None else mask[start:stop])


def concatenated(parts: Sequence[Column]) -> Column:
    """Columns of consecutive records as one; at least one."""
    if len(parts) == 1:
        return parts[0]
    values = [p.values for p in parts]
    mask = None
    if any(p.mask is not None for p in parts):
        masks = [np.ones(len(p.values), bool) if p.mask is None else p.mask for p in parts]
        mask = np.concatenate(masks)
    if isinstance(values[0], np.ndarray):
        return Column(np.concatenate(values), mask)
    import pyarrow as pa

    return Column(pa.concat_arrays(values), mask)
