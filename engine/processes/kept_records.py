"""Records that a worker process keeps from one pass over a table to the next."""

from __future__ import annotations

import gc
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from scalops.engine.columns import SparseColumn
from scalops.engine.opaque.arguments import Argument, Column

_RECORD_BYTES, _VALUE_BYTES, _ARRAY_BYTES = 64, 40, 128  # of Python's objects, about
_PASSES = 4  # what was not asked for in so many is no longer of use


class Kept(Protocol):
    """What a worker may keep: `bytes` that it takes, and when it was `used` last."""

    bytes: int
    used: int

    def settle(self) -> None:
        """Hold no more than is of use."""


class Missing(Exception):
    """What is asked for is not kept, or not in this form."""


class Records:
    """The arguments of a task: columns, and the records made of them."""

    def __init__(self, arguments: list[Argument], rows: int) -> None:
        self._arguments: list[Argument] | None = arguments
        self._rows = rows
        self._made: dict[bool, list[list[Any]]] = {}
        self.bytes = sum(map(_bytes, arguments)) + rows * _RECORD_BYTES * len(arguments)
        self.used = 0

    def made(self, text: bool) -> list[list[Any]]:
        """The records of each argument. Raises Missing."""
        if text not in self._made:
            arguments = self.arguments()
            # Hundreds of thousands of objects that stay: nothing to look through for garbage.
            gc.disable()
            try:
                self._made[text] = [a.records(self._rows, text) for a in arguments]
            finally:
                gc.enable()
        return self._made[text]

    def arguments(self) -> list[Argument]:
        """The columns. Raises Missing."""
        if self._arguments is None:
            raise Missing
        return self._arguments

    def settle(self) -> None:
        """Hold no columns whose records are held, and no records that a function can change."""
        if any(_has_lists(a) for a in self._arguments or ()):
            self._made.clear()
        elif self._made:
            self._arguments = None
            gc.freeze()


class KeptRecords:
    """Records by what tells their contents apart, within a number of bytes.

    A table that does not fit is kept in part: records that came first stay, as long as they are
    asked for in every pass.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._records: dict[str, Kept] = {}
        self._bytes = 0
        self._clock = 0

    def find(self, key: str) -> Kept:
        """Raises Missing."""
        if key not in self._records:
            raise Missing
        return self._records[key]

    def keep(self, key: str | None, records: Kept) -> dict[str, Any]:
        """Keep records if there is room; what the driver is to know of it."""
        if key is None:
            return {}
        self._clock += 1
        records.used = self._clock
        if key in self._records:
            if self._records[key] is records:
                records.settle()
                return {"kept": True}
            self._bytes -= self._records.pop(key).bytes
        dropped = self._make_room(records.bytes)
        if self._bytes + records.bytes > self._limit:
            return {"kept": False, "dropped": [*dropped, key]}
        records.settle()
        self._records[key] = records
        self._bytes += records.bytes
        return {"kept": True, "dropped": dropped}

    def _make_room(self, size: int) -> list[str]:
        dropped = []
        stale = self._clock - _PASSES * (len(self._records) + 1)
        for key in [k for k, r in self._records.items() if r.used < stale]:
            if self._bytes + size <= self._limit:
                break
            self._bytes -= self._records.pop(key).bytes
            dropped.append(key)
        return dropped


def _has_lists(argument: Argument) -> bool:
    values = (c.values for c in argument.columns if isinstance(c, Column))
    return any(isinstance(v, pa.Array) and not pa.types.is_string(v.type) for v in values)


def _bytes(argument: Argument) -> int:
    """Bytes that an argument takes as Python objects, about."""
    total = 0
    for item in argument.columns:
        if not isinstance(item, Column):
            continue
        values, rows = item.values, len(item.values)
        each = _VALUE_BYTES
        if isinstance(values, SparseColumn) or (isinstance(values, np.ndarray) and values.ndim > 1):
            each = _ARRAY_BYTES
        elif isinstance(values, pa.Array) and not pa.types.is_string(values.type):
            each = _ARRAY_BYTES + _VALUE_BYTES * len(values.flatten()) // max(1, rows)
        total += rows * each + int(values.nbytes)
    return total
