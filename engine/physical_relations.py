"""The physical plan's sinks that relate records: each leaves a stored table behind."""

from __future__ import annotations

from dataclasses import dataclass

from scalops.algebra.folds import Fold
from scalops.algebra.schema import Schema
from scalops.engine.physical_plan import StoreSink


@dataclass(frozen=True, eq=False, repr=False)
class HoldTable(StoreSink):
    """Hold the records in memory as they come, all of them."""


@dataclass(frozen=True, eq=False, repr=False)
class HoldColumns(StoreSink):
    """Hold the records in whole columns, for positions to point into.

    `settled` are columns that are taken for the same in each iteration: where they are equal to
    those of the table `state`, they are those.
    """

    settled: tuple[str, ...] = ()
    state: int | None = None


@dataclass(frozen=True, eq=False, repr=False)
class IndexJoin(StoreSink):
    """Pairs of records of tables `left` and `right` with equal keys, as positions.

    The positions are computed when the keys are first seen, and again only if they change.
    """

    left: int
    right: int
    left_keys: tuple[str, ...]
    right_keys: tuple[str, ...]
    kind: str
    outputs: tuple[tuple[str, int, str], ...]
    made: Schema
    nulls_equal: bool = False


@dataclass(frozen=True, eq=False, repr=False)
class IndexFilter(StoreSink):
    """The records of table `table` for which the stage's column "@kept" is true, as positions."""

    table: int
    made: Schema


@dataclass(frozen=True, eq=False, repr=False)
class IndexGroup(StoreSink):
    """Groups by the stage's columns `keys`, found when they are first seen; folds over them."""

    keys: tuple[str, ...]
    names: tuple[str, ...]
    folds: tuple[Fold, ...]
    made: Schema
