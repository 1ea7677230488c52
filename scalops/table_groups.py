"""Tables by key: groups of records, and arrays whose elements a key places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scalops.algebra import operators as op
from scalops.algebra.errors import Location, TraceError, user_location
from scalops.algebra.expressions import Column, Expression, Subquery, call
from scalops.algebra.folds import Fold
from scalops.algebra.functions import arrays, elementwise
from scalops.algebra.operators import Operator
from scalops.algebra.schema import Schema
from scalops.value import Value, expression_of, is_record_symbol

if TYPE_CHECKING:
    from scalops.grouping import Groups
    from scalops.rows import RowFunction
    from scalops.table import RowLike, Table


class TableGroups:
    """A base of Table: what goes by keys."""

    __slots__ = ()
    if TYPE_CHECKING:
        plan: Operator

        @property
        def schema(self) -> Schema: ...
        def _row_function(self, f: RowLike, what: str) -> RowFunction: ...

    def group_by(self, *keys: RowLike, **named: RowLike) -> Groups:
        """Groups of the records with equal keys: `agg`, `map` and `apply` make tables of them.

        A key is a column's name or a function, whose value is called `key` or by the name that
        it is passed as; a function that gives a dict or tuple gives several keys.
        """
        from scalops.grouping import Groups, keys_of

        table: Table = self  # type: ignore[assignment]
        return Groups(table, keys_of(table, keys, named, "group_by"))

    def to_array(self, column: RowLike, index: RowLike, size: int, fill: Any = 0.0) -> Value:
        """The array of shape (size, ...) with each record's value at its index, else `fill`.

        `fill` is a number, an array of the value's or the whole shape, or a Value. An index that
        is null, outside 0..size-1 or there twice is a DataError when the plan runs; so is a null
        among the values.
        """
        location = user_location()
        length = _size(size, location)
        value, index_value = (
            _one(self._row_function(f, "to_array"), what, location)
            for f, what in ((column, "column"), (index, "index"))
        )
        outputs = (("index", index_value.outputs[0]), ("value", value.outputs[0]))
        source, arguments = self.plan, tuple(e for _, e in outputs)
        if not all(isinstance(a, Column) for a in arguments):
            source = op.Project(
                source, outputs, label="map", origin=(value, index_value), location=location
            )
            arguments = tuple(Column(n, k) for n, k in source.schema)
        parameters = (("size", length),)
        array, present = (
            Fold(n, "to_array", arguments, output=i, parameters=parameters, location=location)
            for i, n in enumerate(("array", "present"))
        )
        made = op.Aggregate(source, (array, present), location=location)
        values = Subquery(made, "array", location=location)
        there: Expression = Subquery(made, "present", location=location)
        filled = _fill(fill, values, location)
        rank = len(values.type.shape) - 1
        if rank:
            there = call(arrays.RESHAPE, there, shape=(length, *[1] * rank), location=location)
        return Value(call(elementwise.WHERE, there, values, filled, location=location))


def _one(made: RowFunction, what: str, location: Location | None) -> RowFunction:
    if made.names is not None:
        raise TraceError(
            f"to_array's {what} gives the columns {list(made.names)}; expected one value for each"
            " record",
            location=made.location or location,
        )
    return made


def _size(size: Any, location: Location | None) -> int:
    try:
        known = None if isinstance(size, (bool, Value)) else size.__index__()
    except (AttributeError, TypeError):
        known = None
    if known is None or not 0 <= known < 2**62:
        found = "a Value" if isinstance(size, Value) else repr(size)
        raise TraceError(
            f"to_array needs its size, which is {found}; expected a Python int of 0 or more",
            location=location,
            hint="sizes that make shapes are Python ints: collect() it first",
        )
    return int(known)


def _fill(fill: Any, values: Expression, location: Location | None) -> Expression:
    """What stands where no record is; TraceError where its type or shape does not fit."""
    filled = expression_of(fill, "to_array's fill")
    if isinstance(fill, Value) and is_record_symbol(fill):
        raise TraceError(
            "to_array's fill reads the record of a row function",
            location=location,
            hint="it is one number or array, or a Value of one",
        )
    whole = values.type.shape
    if not filled.type.is_plain:
        raise TraceError(
            f"to_array's fill is {filled.type}; expected a number or an array", location=location
        )
    try:
        fits = np.broadcast_shapes(filled.type.shape, whole) == whole
    except ValueError:
        fits = False
    if not fits:
        shapes = "one number" if len(whole) == 1 else f"one number, an array of {whole[1:]}"
        raise TraceError(
            f"to_array's fill has the shape {filled.type.shape}; expected {shapes} or one of"
            f" {whole}",
            location=location,
        )
    return filled
