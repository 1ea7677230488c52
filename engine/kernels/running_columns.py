"""A running aggregate of a block's columns: nulls passed over, groups sorted out, ends turned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from scalops.algebra.expressions import Column, Expression
from scalops.algebra.relations import Running
from scalops.engine.blocks import Array, Block
from scalops.engine.kernels.kernel import Vector
from scalops.engine.kernels.running import FORMS, Summary
from scalops.engine.output_memory import OutputMemory

_FIRST: Array = np.zeros(1, np.intp)  # the only group, and where its records begin


def names_of(columns: Iterable[Expression]) -> tuple[str, ...]:
    """The names of expressions that are columns."""
    return tuple(e.name for e in columns if isinstance(e, Column))


class RunningColumn:
    """One `Running` whose arguments are columns of the blocks.

    With groups, `ids` is uint[rows], the group of each record; without them, None: all records
    are those of group 0.
    """

    def __init__(self, running: Running) -> None:
        self.name, self.reverse, self.over = running.name, running.reverse, running.over
        self.form = FORMS[running.kind](running.type)
        self.arguments = names_of(running.arguments)
        # Sums and extremes of a partition are the same from either end, up to rounding.
        self.needs_order = self.reverse and running.kind in ("cumprod", "cumsumprod")

    def extend(self, summary: Summary, block: Block, ids: Array | None) -> None:
        """Lead a partition's summary over a block's records."""
        given = self._as_they_are(block, ids)
        if given is not None:
            self.form.extend(summary, _FIRST, given, _FIRST)
            return
        run = _Run(self, block, ids)
        if run.rows:
            self.form.extend(summary, run.groups, run.given, run.starts)

    def scan(
        self, block: Block, ids: Array | None, carry: Array, memory: OutputMemory | None = None
    ) -> Vector:
        """The column of a block; `carry`, [groups, *shape], moves on behind it."""
        given = self._as_they_are(block, ids)
        if given is not None:
            out = None
            if memory is not None:
                out = memory.take(block.rows, self.form.shape, self.form.dtype)
            made = self.form.scan(given, carry[0], out)
            carry[0] = made[-1]
            return made, None
        run = _Run(self, block, ids)
        if not run.rows:
            return np.zeros((block.rows, *self.form.shape), self.form.dtype), run.mask
        made = self.form.scan_groups(run.given, run.starts, carry[run.groups])
        carry[run.groups] = made[np.append(run.starts[1:], run.rows) - 1]
        return run.in_place(made, block.rows), run.mask

    def _as_they_are(self, block: Block, ids: Array | None) -> list[Any] | None:
        """A block's arguments, if its records run on as they stand: one group, none null."""
        if ids is not None or self.reverse or not block.rows:
            return None
        if block.valid and not block.valid.keys().isdisjoint(self.arguments):
            return None
        return [block.columns[name] for name in self.arguments]

    def in_order(
        self, blocks: Sequence[Block], ids: Array | None
    ) -> Iterator[tuple[int, Block, Array | None]]:
        """A partition's blocks as the aggregate runs, each with its number and its records' ids."""
        ends = np.cumsum([0, *(b.rows for b in blocks)])
        numbers = range(len(blocks))
        for i in reversed(numbers) if self.reverse else numbers:
            yield i, blocks[i], None if ids is None else ids[ends[i] : ends[i + 1]]


class _Run:
    """A block's known arguments as the aggregate runs, the records of each group together."""

    def __init__(self, column: RunningColumn, block: Block, ids: Array | None) -> None:
        self.mask = _mask(block, column.arguments)
        self._kept = self.mask
        self._reverse = column.reverse
        given = [block.columns[name] for name in column.arguments]
        if self._kept is not None:
            given = [g[self._kept] for g in given]
            ids = None if ids is None else ids[self._kept]
        if self._reverse:
            given = [g[::-1] for g in given]
            ids = None if ids is None else ids[::-1]
        self.rows = len(given[0])
        self._order: Array | None = None
        self.groups, self.starts = np.zeros(1, np.intp), np.zeros(1, np.intp)
        if ids is not None and self.rows:
            self._order = np.argsort(ids, kind="stable")
            ids = ids[self._order]
            self.starts = np.flatnonzero(np.append(True, ids[1:] != ids[:-1]))
            self.groups = ids[self.starts]
            given = [g[self._order] for g in given]
        self.given = given

    def in_place(self, made: Array, rows: int) -> Array:
        """The results where their records are among the block's; 0 where one is null."""
        if self._order is not None:
            sorted_out = made
            made = np.empty_like(made)
            made[self._order] = sorted_out
        if self._reverse:
            made = np.ascontiguousarray(made[::-1])
        if self._kept is None:
            return made
        whole = np.zeros((rows, *made.shape[1:]), made.dtype)
        whole[self._kept] = made
        return whole


def _mask(block: Block, names: Sequence[str]) -> Array | None:
    """Where none of the columns is null; None where none ever is."""
    mask: Array | None = None
    for name in names:
        own = block.valid.get(name)
        if own is not None:
            mask = own if mask is None else mask & own
    return mask
