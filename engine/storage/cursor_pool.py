"""Idle cursors over the parts of files: consecutive partitions are read on where one ended."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any, Generic, Protocol, TypeVar

# One for each thread that may read at once; more would only hold memory.
MAX_CURSORS = max(2, os.cpu_count() or 2)
Taken = TypeVar("Taken")
Given = TypeVar("Given", covariant=True)


class Span(Protocol):
    """Rows of the whole table that lie together in a file, up to `stop`."""

    @property
    def stop(self) -> int: ...


class Cursor(Protocol[Given]):
    """Reads some columns forward from `position`; used by one reader at a time."""

    columns: tuple[str, ...]
    batch_rows: int
    position: int

    def distance(self, row: int) -> int | None:
        """What it takes to get to `row`; None if another cursor may as well begin there."""
        ...

    def move(self, row: int) -> None:
        """Go to a row."""
        ...

    def take(self, rows: int) -> Iterable[Given]:
        """The next `rows` records, in parts to be used one by one; there must be as many."""
        ...

    def check(self) -> None:
        """Raise DataError if the file has changed since the table was made."""
        ...

    def close(self) -> None: ...


class CursorPool(Generic[Taken]):
    """The idle cursors of one source, shared by all threads.

    Who asks for a partition gets the cursor that stands at its first row, whichever thread left
    it there; else the one that gets there soonest; else a new one. Each cursor is one
    reader's at a time, so that two readers never disturb each other. Which one it is changes
    the time alone, never the records.
    """

    def __init__(
        self,
        spans: Sequence[Span],
        make: Callable[[Any, tuple[str, ...], int], Cursor[Taken]],
    ) -> None:
        """`make` is given the spans, the columns and the rows of a block."""
        self._spans, self._make = spans, make
        self._idle: list[Cursor[Taken]] = []
        self._lent = 0
        self._lock = Lock()

    def __reduce__(self) -> tuple[object, ...]:
        return (CursorPool, (self._spans, self._make))

    @contextmanager
    def cursor(
        self, row: int, columns: tuple[str, ...], batch_rows: int
    ) -> Iterator[Cursor[Taken]]:
        """A cursor at `row`, given back at the end; one that failed is closed."""
        cursor = self._borrow(row, columns, batch_rows)
        intact = False
        try:
            if self._spans:
                cursor.move(row)
            yield cursor
            intact = True
        except GeneratorExit:
            intact = True  # the reader stopped early, between two blocks
            raise
        finally:
            self._give_back(cursor, intact)

    def _borrow(self, row: int, columns: tuple[str, ...], batch_rows: int) -> Cursor[Taken]:
        with self._lock:
            self._lent += 1
            fitting = [
                (distance, number)
                for number, cursor in enumerate(self._idle)
                if cursor.columns == columns
                and cursor.batch_rows == batch_rows
                and (distance := cursor.distance(row)) is not None
            ]
            if fitting:
                return self._idle.pop(min(fitting)[1])
            surplus = self._surplus()
        for cursor in surplus:
            cursor.close()
        return self._make(self._spans, columns, batch_rows)

    def _give_back(self, cursor: Cursor[Taken], intact: bool) -> None:
        is_done = not intact or not self._spans or cursor.position == self._spans[-1].stop
        with self._lock:
            self._lent -= 1
            if not is_done:
                self._idle.append(cursor)
            surplus = self._surplus()
        for other in surplus:
            other.close()
        if is_done:
            cursor.close()

    def _surplus(self) -> list[Cursor[Taken]]:
        """Take out the idle ones that were given back first, as many as there are too many."""
        count = min(len(self._idle), max(0, len(self._idle) + self._lent - MAX_CURSORS))
        taken = self._idle[:count]
        del self._idle[:count]
        return taken
