"""What the operators of tables mean, one record at a time: the interpreter's part of them.

Nothing here is fast. Each function takes the records of its input and gives those of the output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from scalops.algebra import operators as op
from scalops.algebra.errors import OptimizerError
from scalops.algebra.relations import Cumulate, GroupAggregate, GroupApply, GroupRows, Join
from scalops.algebra.schema import Schema
from scalops.engine.blocks import Block
from scalops.engine.opaque.calls import bind, python_value
from scalops.engine.opaque.results import column_of
from scalops.engine.opaque.table_functions import call_with_table
from scalops.engine.storage.arrow import block_of
from scalops.engine.table_errors import negative_number, unequal_lists
from scalops.engine.witness.folds import fold_records
from scalops.engine.witness.interpreter import Interpreter, Row, as_numpy, block_rows
from scalops.engine.witness.running import cumulated

Values = Callable[[Row], list[Any]]


def records(interpreter: Interpreter, node: op.Operator, rows: Iterable[Row]) -> Iterator[Row]:
    """The records of an operator, from those of its source.

    Where the interpreter sees but the heads of its sources, a slice passes on what there is:
    any record tells a type, and those that are asked for may come later.
    """
    match node:
        case op.Union(sources=sources):
            for source in sources:
                yield from interpreter.records(source)
        case Join():
            from scalops.engine.witness.joins import joined  # which reads this module

            yield from joined(interpreter, node)
        case op.Slice(start=start, length=length):
            if interpreter.sampling:
                yield from rows
            else:
                many = None if length is None else interpreter.value(length)
                yield from sliced(node, rows, interpreter.value(start), many)
        case op.Distinct(columns=columns):
            yield from distinct(rows, columns)
        case GroupAggregate():
            yield from grouped(interpreter, node, rows)
        case op.Sort(keys=keys):
            by = interpreter.evaluator(keys)
            yield from sorted_rows(node, rows, lambda row: by((row,)))
        case op.WithRowIndex(name=name):
            for i, row in enumerate(rows):
                yield {name: np.int64(i), **row}
        case GroupRows():  # a sample of any groups shows what a group's function is traced to
            yield from rows
        case Cumulate():
            yield from cumulated(interpreter, node, rows)
        case GroupApply():
            from scalops.engine.witness import group_functions  # which reads this module

            yield from group_functions.applied(interpreter, node)
        case op.Explode():
            yield from exploded(node, rows)
        case op.Expand(records=made):
            evaluators = [interpreter.evaluator([e for _, e in record]) for record in made]
            names, kinds = node.schema.names, node.schema.types
            for row in rows:
                for evaluator in evaluators:
                    values = map(as_numpy, evaluator((row,)), kinds.values())
                    yield dict(zip(names, values, strict=True))
        case op.MapBatches(source=source, slots=slots):
            given = [python_value(interpreter.value(s)) for s in slots]
            yield from _mapped_batches(node, given, list(rows), source.schema)
        case _:
            raise OptimizerError(f"{type(node).__name__} is no table of records")


def _mapped_batches(
    node: op.MapBatches, slots: list[Any], rows: list[Row], schema: Schema
) -> Iterator[Row]:
    """All records as one batch."""
    if rows:
        columns = {n: column_of([python_value(row[n]) for row in rows], kind) for n, kind in schema}
        block = block_of(columns, len(rows))
        for made in _called(node, slots, block, schema):
            yield from block_rows(made, node.schema.types)


def _called(node: op.MapBatches, slots: list[Any], block: Block, schema: Schema) -> Iterator[Block]:
    bound = bind(node.function, slots)
    return call_with_table(node.function, bound, block, schema, node.declared)


def sliced(node: op.Slice, rows: Iterable[Row], start: Any, length: Any) -> Iterator[Row]:
    """The records from a number on."""
    for name, number in (("start", start), ("length", length)):
        if number is not None and number < 0:
            raise negative_number(node.label or "slice", name, int(number), node.location)
    yield from islice(rows, int(start), None if length is None else int(start) + int(length))


def grouped(interpreter: Interpreter, node: GroupAggregate, rows: Iterable[Row]) -> Iterator[Row]:
    """The groups by first appearance, the folds over the records of each."""
    names, kinds = [n for n, _ in node.keys], [e.type.strong() for _, e in node.keys]
    keys = interpreter.evaluator([e for _, e in node.keys])
    groups: dict[Any, tuple[Row, list[Row]]] = {}
    for row in rows:
        values = list(map(as_numpy, keys((row,)), kinds))
        key = tuple(map(key_of, values))
        groups.setdefault(key, (dict(zip(names, values, strict=True)), []))[1].append(row)
    types = node.schema.types
    for key_values, own in groups.values():
        folded = fold_records(interpreter, node.folds, own, in_group=True)
        yield key_values | {n: as_numpy(v, types[n]) for n, v in folded.items()}


def distinct(rows: Iterable[Row], columns: Sequence[str] = ()) -> Iterator[Row]:
    """The first of the records that are equal in these columns; without any, in all."""
    seen: set[Any] = set()
    for row in rows:
        key = tuple(map(key_of, [row[n] for n in columns] if columns else row.values()))
        if key not in seen:
            seen.add(key)
            yield row


def key_of(value: Any) -> Any:
    """Something hashable that is equal for values that are one value."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return tuple(map(key_of, value))
    if hasattr(value, "indices") and hasattr(value, "values"):
        pairs = zip(value.indices, value.values, strict=True)
        return tuple((int(i), key_of(v)) for i, v in pairs if v != 0)
    if isinstance(value, np.ndarray) and value.ndim:
        return tuple(map(key_of, value))
    if isinstance(value, (float, np.floating)):
        return "NaN" if np.isnan(value) else float(value) + 0.0
    if isinstance(value, (np.datetime64, np.timedelta64)) and np.isnat(value):
        return None
    return value.item() if isinstance(value, np.generic) and value.dtype.kind not in "mM" else value


def sorted_rows(node: op.Sort, rows: Iterable[Row], keys: Values) -> list[Row]:
    """The records by their keys, the least important first, as Python's stable sort allows."""
    keyed = [(keys(row), row) for row in rows]
    for i in reversed(range(len(node.keys))):
        last = [(k, r) for k, r in keyed if _rank(k[i])]
        last.sort(key=lambda pair: _rank(pair[0][i]))
        known = [(k, r) for k, r in keyed if not _rank(k[i])]
        known.sort(key=lambda pair: _plain(pair[0][i]), reverse=node.descending[i])
        keyed = known + last
    return [row for _, row in keyed]


def _rank(value: Any) -> int:
    """0 for what has a place among the others, 1 for NaN, 2 for null."""
    if value is None or (isinstance(value, (np.datetime64, np.timedelta64)) and np.isnat(value)):
        return 2
    return 1 if isinstance(value, (float, np.floating)) and np.isnan(value) else 0


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return str(value)
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return int(value.astype(np.int64))
    return value.item() if isinstance(value, (np.generic, np.ndarray)) else value


def exploded(node: op.Explode, rows: Iterable[Row]) -> Iterator[Row]:
    """One record for each item."""
    for row in rows:
        columns = {n: items_of(row[n]) for n in node.names}
        lengths = {len(items) for _, items in columns.values()}
        if len(lengths) > 1:
            found = [len(items) for _, items in columns.values()]
            raise unequal_lists(node.names, found, node.location)
        places = next(iter(columns.values()))[0]
        for j, place in enumerate(places):
            made = {n: columns[n][1][j] if n in columns else v for n, v in row.items()}
            yield made if node.index is None else made | {node.index: np.int64(place)}


def items_of(value: Any) -> tuple[Sequence[int], Sequence[Any]]:
    """Positions and items of a list, a vector or a sparse vector; none of null."""
    if value is None:
        return (), ()
    if hasattr(value, "indices") and hasattr(value, "values"):
        return list(value.indices), list(value.values)
    return range(len(value)), list(value)
