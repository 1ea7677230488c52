"""Functions of a group: the group's records as pyarrow Tables, and what comes back.

Both in this process and in workers, which get the same: records in the order of their groups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from scalops.algebra.captured import Captured
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import ScalopsError, UserFunctionError
from scalops.algebra.schema import Schema
from scalops.engine.blocks import Array, Block, concatenate
from scalops.engine.columns import arrow_type, empty
from scalops.engine.opaque.arguments import Column, rows_of
from scalops.engine.opaque.calls import python_value, user_error
from scalops.engine.opaque.driver_calls import cast, described, expected, parts_of
from scalops.engine.opaque.results import column_of
from scalops.engine.opaque.table_functions import blocks_of
from scalops.engine.progress import calling, seconds_for_call
from scalops.engine.storage.arrow import block_to_batch
from scalops.engine.threads import Stopped, check_stopped

BATCH_BYTES = 1 << 26  # of records that go to a worker at once, about

Place = tuple[Literal["rows", "column", "value"], int]


@dataclass(frozen=True)
class GroupFunction:
    """A captured function of groups.

    `places` say what each argument is: a group's records of a table, its value in a column, or
    one value for all groups, each by number. With `single` the function gives one record of
    `declared`, else a table of that schema.
    """

    captured: Captured
    places: tuple[Place, ...]
    declared: Schema
    single: bool


@dataclass(frozen=True)
class GroupedTable:
    """Records in the order of their groups: group i has those from offsets[i] to offsets[i + 1].

    `offsets`: int64[groups + 1], from 0 on.
    """

    schema: Schema
    block: Block
    offsets: Array

    def slice(self, start: int, stop: int) -> GroupedTable:
        """The groups start..stop-1."""
        first, last = int(self.offsets[start]), int(self.offsets[stop])
        own = self.offsets[start : stop + 1] - first
        return GroupedTable(self.schema, self.block.slice(first, last), own)

    def table(self, group: int) -> pa.Table:
        """A group's records."""
        block = self.block.slice(int(self.offsets[group]), int(self.offsets[group + 1]))
        for name, kind in self.schema:
            if kind.is_list:  # a slice would show the others' items in its `.values`
                whole = [pa.array([], arrow_type(kind)), block.columns[name]]
                block.columns[name] = pa.concat_arrays(whole)
        return pa.Table.from_batches([block_to_batch(block, self.schema)])

    @property
    def bytes(self) -> int:
        return self.block.bytes + int(self.offsets.nbytes)


@dataclass(frozen=True)
class Groups:
    """Consecutive groups: their records, their keys, and further columns that they have."""

    count: int
    tables: tuple[GroupedTable, ...]
    keys: tuple[Column, ...]
    columns: tuple[Column, ...]

    def slice(self, start: int, stop: int) -> Groups:
        """The groups start..stop-1."""
        return Groups(
            stop - start,
            tuple(t.slice(start, stop) for t in self.tables),
            _sliced(self.keys, start, stop),
            _sliced(self.columns, start, stop),
        )

    def key(self, group: int) -> Any:
        """A group's key, for a message; a tuple where there are several."""
        own = _sliced(self.keys, group, group + 1)
        values = [rows_of(c.values, c.mask, text=False)[0] for c in own]
        return values[0] if len(values) == 1 else tuple(values)


def _sliced(columns: Sequence[Column], start: int, stop: int) -> tuple[Column, ...]:
    block = block_of(columns).slice(start, stop) if columns else Block(0, {})
    return columns_of(block)


def block_of(columns: Sequence[Column]) -> Block:
    """Columns, of which there is one, as a block that names them by number."""
    named = {str(i): c for i, c in enumerate(columns)}
    masks = {n: c.mask for n, c in named.items() if c.mask is not None}
    return Block(len(columns[0].values), {n: c.values for n, c in named.items()}, masks)


def columns_of(block: Block) -> tuple[Column, ...]:
    """A block's columns in order."""
    return tuple(Column(v, block.valid.get(n)) for n, v in block.columns.items())


def call_groups(
    function: GroupFunction, bound: Callable[..., Any], groups: Groups, values: Sequence[Any]
) -> Block:
    """What the function gives for the groups, in their order, in one block.

    Raises: UserFunctionError for the first group for which the function raises, or gives what
    is not as declared.
    """
    if seconds_for_call() is not None and groups.count > 1:  # the time is that of each
        alone = [groups.slice(g, g + 1) for g in range(groups.count)]
        return concatenate(
            [call_groups(function, bound, own, values) for own in alone], function.declared
        )
    with calling(function.captured, lambda: _over(groups)):
        return _called(function, bound, groups, values)


def _over(groups: Groups) -> str:
    if not groups.count:
        return ""
    if groups.count == 1:
        return f", over the group whose key is {groups.key(0)!r}"
    first, last = groups.key(0), groups.key(groups.count - 1)
    return f", over {groups.count} groups with keys from {first!r} to {last!r}"


def _called(
    function: GroupFunction, bound: Callable[..., Any], groups: Groups, values: Sequence[Any]
) -> Block:
    columns = [rows_of(c.values, c.mask) for c in groups.columns]
    records: list[list[Any]] = []
    tables: list[Block] = []
    for group in range(groups.count):
        check_stopped()
        given: list[Any] = []
        for kind, number in function.places:
            match kind:
                case "rows":
                    given.append(groups.tables[number].table(group))
                case "column":
                    given.append(columns[number][group])
                case _:
                    given.append(python_value(values[number]))
        try:
            result = bound(*given)
        except (ScalopsError, KeyboardInterrupt, Stopped):
            raise
        except BaseException as error:  # SystemExit too: a function cannot end the program
            shown = "the group's key is"
            raise user_error(function.captured, error, groups.key(group), shown) from error
        if function.single:
            records.append(_record(function, result, groups, group))
        else:
            tables.extend(_table(function, result, groups, group))
    if function.single:
        return _gathered(records, function.declared)
    blank = Block(0, {n: empty(k) for n, k in function.declared})
    return concatenate(tables, function.declared) if tables else blank


def _record(function: GroupFunction, result: Any, groups: Groups, group: int) -> list[Any]:
    """The values of a group's one record, in their types."""
    declared = function.declared
    names = None if declared.bare else declared.names
    parts = parts_of(result, names)
    if parts is not None:
        made = [_typed(p, k) for p, (_, k) in zip(parts, declared, strict=True)]
        if all(m is not None for m in made):
            return made
    kinds = [k for _, k in declared]
    raise UserFunctionError(
        f"{function.captured.name} gives {described(result)}; expected"
        f" {expected(names, kinds)}, as declared; the group's key is {groups.key(group)!r}",
        location=function.captured.location,
        hint="return what like= shows for every group: its shape, and a type that can be cast"
        " to its own",
    )


def _typed(value: Any, kind: ArrayType) -> Any:
    return cast(value, kind) if kind.is_plain or kind.is_string else None


def _gathered(records: Sequence[Sequence[Any]], declared: Schema) -> Block:
    made = Block(len(records), {})
    for i, (name, kind) in enumerate(declared):
        values = [r[i] for r in records]
        if kind.is_string:
            made.columns[name] = column_of(values, kind)[0]
        else:
            column: Array = np.empty((len(values), *kind.shape), kind.numpy)
            for row, value in enumerate(values):
                column[row] = value
            made.columns[name] = column
    return made


def _table(function: GroupFunction, result: Any, groups: Groups, group: int) -> list[Block]:
    def wrong(what: str) -> UserFunctionError:
        return UserFunctionError(
            f"{function.captured.name} {what}; the group's key is {groups.key(group)!r}",
            location=function.captured.location,
            hint="the schema that is declared for the function names its result's columns and"
            " types, for every group",
        )

    return list(blocks_of(function.captured, result, function.declared, wrong))


def batches(groups: Groups, count: int, most: int = BATCH_BYTES) -> list[tuple[int, int]]:
    """At most `count` runs of groups, or more where they have more than `most` bytes each, with
    about as many records.

    Which groups go together does not matter to what any of them gives.
    """
    size = sum(t.bytes for t in groups.tables)
    count = max(count, -(-size // most))
    if count >= groups.count:
        return [(i, i + 1) for i in range(groups.count)]
    ends = np.arange(1, groups.count + 1) + sum(t.offsets[1:] for t in groups.tables)
    wanted = ends[-1] * np.arange(1, count) // count
    cuts = np.unique(np.searchsorted(ends, wanted, side="left") + 1)
    bounds = [0, *(c for c in cuts.tolist() if c < groups.count), groups.count]
    return list(pairwise(bounds))
