"""The physical plan's sinks that relate records: each leaves a stored table behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scalops.algebra.captured import Captured
from scalops.algebra.expressions import Expression
from scalops.algebra.folds import Fold
from scalops.algebra.schema import Schema
from scalops.engine.physical_plan import Multiply, StoredTable, StoreSink


@dataclass(frozen=True, eq=False, repr=False)
class HoldTable(StoreSink):
    """Hold the records in memory as they come, all of them."""


@dataclass(frozen=True, eq=False, repr=False)
class BuildIndex(StoreSink):
    """Hold the columns `kept` whole, with an index over the columns `keys`, for joins to probe.

    An index by hash is built in `parts`, on all threads.
    """

    keys: tuple[str, ...]
    kept: tuple[str, ...]
    nulls_equal: bool = False
    parts: int = 1


@dataclass(frozen=True, eq=False, repr=False)
class MeetIndexed(StoreSink):
    """Pairs of records of table `left`, held with an index, and the stage's, in left order.

    A few records are looked up in the index over the left `left_keys`, which outlives them; of
    more an index is made, which is probed with those. `outputs` as of `Probe`.
    """

    left: int
    left_keys: tuple[str, ...]
    keys: tuple[str, ...]
    kind: Literal["inner", "semi"]
    outputs: tuple[tuple[str, int, str], ...]
    made: Schema
    nulls_equal: bool = False

    @property
    def other_tables(self) -> tuple[int, ...]:
        return (self.left,)


@dataclass(frozen=True, eq=False, repr=False)
class Probe(Multiply):
    """Records of `source` with those of the held side `number` whose keys equal their `keys`.

    In the order of `source`, matches in the held side's order. `outputs`: (name, side, column),
    side 0 being `source`. Of a record without a match, `left` and `anti` give the other side's
    columns as null.
    """

    number: int
    keys: tuple[str, ...]
    kind: Literal["inner", "left", "semi", "anti", "cross"]
    outputs: tuple[tuple[str, int, str], ...]


@dataclass(frozen=True, eq=False, repr=False)
class HoldColumns(StoreSink):
    """Hold the records in whole columns, for positions to point into.

    `settled` are columns that are taken for the same in each iteration: where they are equal to
    those of the table `state`, they are those.
    """

    settled: tuple[str, ...] = ()
    state: int | None = None

    @property
    def other_tables(self) -> tuple[int, ...]:
        return () if self.state is None else (self.state,)


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

    @property
    def other_tables(self) -> tuple[int, ...]:
        return (self.left, self.right)


@dataclass(frozen=True, eq=False, repr=False)
class IndexFilter(StoreSink):
    """The records of table `table` for which the stage's column "@kept" is true, as positions."""

    table: int
    made: Schema

    @property
    def other_tables(self) -> tuple[int, ...]:
        return (self.table,)


@dataclass(frozen=True, eq=False, repr=False)
class IndexGroup(StoreSink):
    """Groups by the stage's columns `keys`, found when they are first seen; folds over them."""

    keys: tuple[str, ...]
    names: tuple[str, ...]
    folds: tuple[Fold, ...]
    made: Schema


@dataclass(frozen=True, eq=False, repr=False)
class ApplyGroups(StoreSink):
    """Call a captured function for each record of the stage's table: a group.

    Its records of a table are those whose `table_keys` equal the group's `keys`; the function
    gets the columns without "@". `arguments` are `RowsArgument` leaves, columns, slots and
    constants; `closed_over` fills the captured function's slots. The function gives one record
    of `declared`, if `single`, before which stand the group's columns `kept`; else a
    pyarrow.Table.
    """

    tables: tuple[StoredTable, ...]
    keys: tuple[str, ...]
    table_keys: tuple[tuple[str, ...], ...]
    function: Captured
    arguments: tuple[Expression, ...]
    closed_over: tuple[Expression, ...]
    declared: Schema
    single: bool
    kept: tuple[str, ...]
    made: Schema

    @property
    def calls_functions(self) -> bool:
        return True


@dataclass(frozen=True, eq=False, repr=False)
class HoldState(HoldColumns):
    """Hold a table of a loop's state: how it lies follows from its rows alone.

    Of the columns `computed` it is found out whether they hold NaN or an infinity.
    """

    computed: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, repr=False)
class GroupRows(StoreSink):
    """Groups by the stage's columns `keys`, by first appearance; the folds over each.

    A record of a group has the keys' values as `names`, then the folds'. With few groups each
    block is folded by group, and what leaves of blocks give is merged in a tree; with many, all
    records are held and each group is folded in table order. The first
    records decide which.
    """

    keys: tuple[str, ...]
    names: tuple[str, ...]
    folds: tuple[Fold, ...]
    made: Schema
