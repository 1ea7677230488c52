"""What a function of a group's records means: one group after the other, by comparing keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from scalops.algebra import expressions as ex
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import ExecutionError
from scalops.algebra.relations import GroupApply, RowsArgument
from scalops.algebra.schema import Schema
from scalops.engine.opaque.arguments import Column
from scalops.engine.opaque.calls import bind, python_value
from scalops.engine.opaque.group_functions import (
    GroupedTable,
    GroupFunction,
    Groups,
    Place,
    call_groups,
)
from scalops.engine.opaque.results import column_of
from scalops.engine.storage.arrow import block_of
from scalops.engine.witness.interpreter import Interpreter, Row, as_numpy, block_rows, stand_in
from scalops.engine.witness.tables import key_of


def applied(interpreter: Interpreter, node: GroupApply) -> Iterator[Row]:
    """The records that the function gives, group by group.

    A function that is to give one record is not called for a sample: it may take long, and its
    result's types are known. One that gives tables may find too little in a sample.
    """
    tables = [list(interpreter.records(s)) for s in node.sources]
    keys_of = [interpreter.evaluator(k) for k in node.keys]
    table_keys = [
        [tuple(map(key_of, keys((row,)))) for row in rows]
        for rows, keys in zip(tables, keys_of, strict=True)
    ]
    group_keys = interpreter.evaluator(node.group_keys)
    values = [python_value(interpreter.value(s)) for s in node.slots]
    bound = bind(node.function, values)
    for group in interpreter.records(node.groups):
        kept = {n: group[n] for n in node.kept}
        if interpreter.sampling and node.single:
            yield kept | {n: stand_in(k) for n, k in node.declared}
            continue
        found = group_keys((group,))
        key = tuple(map(key_of, found))
        given: list[Any] = []
        places: list[Place] = []
        for e in node.arguments:
            if isinstance(e, RowsArgument):
                places.append(("rows", e.number))
            else:
                places.append(("value", len(given)))
                given.append(python_value(interpreter.evaluator([e])((group,))[0]))
        own = Groups(
            1,
            tuple(
                _table([r for r, k in zip(rows, keys, strict=True) if k == key], source.schema)
                for rows, keys, source in zip(tables, table_keys, node.sources, strict=True)
            ),
            _keys(found, node.group_keys),
            (),
        )
        function = GroupFunction(node.function, tuple(places), node.declared, node.single)
        try:
            made = call_groups(function, bound, own, given)
        except ExecutionError:
            if interpreter.sampling:
                continue
            raise
        for row in block_rows(made, node.declared.types):
            yield kept | {n: row[n] for n in node.declared.names}


def _table(rows: list[Row], schema: Schema) -> GroupedTable:
    """Records as the one group of a table."""
    handed = Schema(tuple((n, k) for n, k in schema if not n.startswith("@")))
    columns = {n: column_of([python_value(row[n]) for row in rows], k) for n, k in handed}
    return GroupedTable(handed, block_of(columns, len(rows)), np.array([0, len(rows)]))


def _keys(values: Sequence[Any], keys: Sequence[ex.Expression]) -> tuple[Column, ...]:
    def column(value: Any, kind: ArrayType) -> Column:
        own = python_value(None if value is None else as_numpy(value, kind))
        return Column(*column_of([own], kind))

    return tuple(column(v, e.type.strong()) for v, e in zip(values, keys, strict=True))
