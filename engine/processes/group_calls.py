"""Functions of groups in worker processes: requests, replies and what a worker keeps.

A task is consecutive groups. Records that are the same in each iteration of a loop have a name
by which a worker that has got them once knows them again; the columns and values that change are
sent each time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scalops.algebra.captured import Captured
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.schema import Schema
from scalops.engine.blocks import Block
from scalops.engine.column_codec import add
from scalops.engine.columns import Array
from scalops.engine.opaque.arguments import Argument, Column
from scalops.engine.opaque.group_functions import (
    GroupedTable,
    GroupFunction,
    Groups,
    call_groups,
    columns_of,
)
from scalops.engine.processes.calls import Call, Task, described
from scalops.engine.processes.messages import (
    decode_arguments,
    decode_results,
    encode_arguments,
    encode_results,
)

Kind = Callable[[Any], ArrayType]


@dataclass
class GroupsCall(Call):
    """A function of each group."""

    groups: Groups = field(kw_only=True)
    applied: GroupFunction = field(kw_only=True)
    results: dict[int, Block] = field(default_factory=dict)

    def request(self, task: Task, buffers: list[Array], *, known: bool) -> dict[str, Any]:
        own = self.groups.slice(task.start, task.stop)
        applied = self.applied
        header: dict[str, Any] = {
            "task": "groups",
            "data": task.data,
            "places": applied.places,
            "declared": _schema(applied.declared),
            "bare": applied.declared.bare,
            "single": applied.single,
            "columns": encode_arguments([Argument(None, own.columns)], buffers),
        }
        if not known:
            header["groups"] = own.count
            header["keys"] = encode_arguments([Argument(None, own.keys)], buffers)
            header["tables"] = [_encode_table(t, buffers) for t in own.tables]
        return header

    def take(self, task: Task, header: dict[str, Any], buffers: Sequence[Array]) -> None:
        rows, declared = int(header["rows"]), self.applied.declared
        if rows < 0 or (self.applied.single and rows != task.stop - task.start):
            raise ValueError(f"{rows} records for {task.stop - task.start} groups")
        kinds = [k for _, k in declared]
        columns = decode_results(header["columns"], buffers, rows, kinds)
        made = Block(rows, {})
        for name, (values, mask) in zip(declared.names, columns, strict=True):
            made.columns[name] = values
            if mask is not None:
                made.valid[name] = mask
        self.results[task.start] = made

    def blocks(self) -> list[Block]:
        """All results, in the order of the groups."""
        return [self.results[t.start] for t in self.tasks]

    def place(self, task: Task) -> str:
        if task.stop - task.start == 1:
            return f", over the group whose key is {self.groups.key(task.start)!r}"
        return f", over groups {task.start} to {task.stop - 1}"


def _schema(schema: Schema) -> list[list[Any]]:
    return [[name, described(kind)] for name, kind in schema]


def _encode_table(table: GroupedTable, buffers: list[Array]) -> list[Any]:
    names = table.schema.names
    columns = tuple(Column(table.block.columns[n], table.block.valid.get(n)) for n in names)
    offsets = add(table.offsets, buffers)
    return [_schema(table.schema), encode_arguments([Argument(names, columns)], buffers), offsets]


# In the worker.


class KeptGroups:
    """Groups that a worker holds."""

    def __init__(self, groups: Groups) -> None:
        self.groups = groups
        self.bytes = sum(t.bytes for t in groups.tables)
        self.used = 0

    def settle(self) -> None:
        """They are held as they came: the tables that functions get share their memory."""


def decode_groups(header: dict[str, Any], buffers: Sequence[Array], kind: Kind) -> Groups:
    """The groups of a request that has them; `kind` reads a type."""
    tables = []
    for schema, encoded, number in header["tables"]:
        (argument,) = decode_arguments(encoded, buffers)
        offsets = buffers[number].view(np.int64)
        named = Schema(tuple((name, kind(k)) for name, k in schema))
        tables.append(GroupedTable(named, _block(argument, int(offsets[-1])), offsets))
    keys = _columns(header["keys"], buffers)
    return Groups(int(header["groups"]), tuple(tables), keys, ())


def called(
    header: dict[str, Any],
    buffers: list[Array],
    groups: Groups,
    captured: Captured,
    bound: Callable[..., Any],
    values: Sequence[Any],
    kind: Kind,
) -> tuple[int, list[Any], list[Array]]:
    """How many records the function gives, their columns encoded, and the columns' buffers."""
    declared = Schema(tuple((name, kind(k)) for name, k in header["declared"]), header["bare"])
    places = tuple((word, number) for word, number in header["places"])
    applied = GroupFunction(captured, places, declared, header["single"])
    columns = _columns(header["columns"], buffers)
    own = Groups(groups.count, groups.tables, groups.keys, columns)
    made = call_groups(applied, bound, own, values)
    reply: list[Array] = []
    return made.rows, encode_results(columns_of(made), reply), reply


def _columns(encoded: Sequence[Any], buffers: Sequence[Array]) -> tuple[Column, ...]:
    (argument,) = decode_arguments(encoded, buffers)
    return tuple(c for c in argument.columns if isinstance(c, Column))


def _block(argument: Argument, rows: int) -> Block:
    made = Block(rows, {})
    for name, item in zip(argument.names or (), argument.columns, strict=True):
        assert isinstance(item, Column)
        made.columns[name] = item.values
        if item.mask is not None:
            made.valid[name] = item.mask
    return made
