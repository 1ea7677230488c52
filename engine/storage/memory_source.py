"""Tables in memory: arrays, records and Arrow tables as a source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from scalops.algebra.dtypes import ArrayType, name_of
from scalops.algebra.errors import DataError, SchemaError
from scalops.algebra.schema import Schema
from scalops.engine.blocks import (
    Array,
    Block,
    ColumnData,
    block_rows,
    partition_bounds,
)
from scalops.engine.storage.arrow import block_of, schema_from_arrow, to_column
from scalops.engine.storage.checksum import checksum
from scalops.engine.storage.partitions import Partition

_TOKENS = count(1)
# What Arrow and NumPy raise when values of a column have no common type.
_NO_COMMON_TYPE = (pa.ArrowException, OverflowError, TypeError, ValueError)

# pyarrow has no types of its own, so that an alias of this union would not be one.
MemoryColumn: TypeAlias = "Array | pa.ChunkedArray"


@dataclass(frozen=True, eq=False, repr=False)
class MemorySource:
    """Columns held by reference: the caller's arrays, not copies.

    Strings, and what must be converted, are held as Arrow data. `token` is unique in this
    process, `checksums` are those of the columns when the table was made.
    """

    schema: Schema
    title: str
    rows: int
    columns: Mapping[str, MemoryColumn]
    checksums: Mapping[str, str]
    token: int

    @classmethod
    def of_arrays(cls, columns: Mapping[str, Any], title: str = "memory") -> MemorySource:
        """Columns of arrays, lists or Arrow arrays: the first axis counts the records.

        None in a list or an array of objects, NaT, and the masked elements of a masked array
        are nulls.

        Raises: SchemaError for unequal lengths and for types that no column may have.
        """
        if not columns:
            raise SchemaError("a table needs at least one column", hint='pass {"x": array}')
        named = {_column_name(name): _column(name, value) for name, value in columns.items()}
        return cls._of_columns(named, title)

    @classmethod
    def of_records(
        cls, records: Sequence[Mapping[str, Any]], title: str = "memory"
    ) -> MemorySource:
        """Columns from a list of dicts: numbers widen, a missing key is null.

        Lists and arrays of numbers of one shape become columns of that shape.

        Raises: SchemaError for no records, for values without a common type or shape.
        """
        names = _names(records)
        named = {name: _of_values(name, [r.get(name) for r in records]) for name in names}
        return cls._of_columns(named, title)

    @classmethod
    def of_arrow(cls, table: pa.Table, title: str = "memory") -> MemorySource:
        """The columns of an Arrow table.

        Raises: SchemaError for types that no column may have.
        """
        schema_from_arrow(table.schema, title)
        columns = (
            c.cast(pa.string()) if pa.types.is_string_view(c.type) else c for c in table.columns
        )
        return cls._of_columns(dict(zip(table.column_names, columns, strict=True)), title)

    @classmethod
    def _of_columns(cls, named: Mapping[str, MemoryColumn], title: str) -> MemorySource:
        lengths = {name: len(column) for name, column in named.items()}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{name!r} has {length}" for name, length in lengths.items())
            raise SchemaError(
                f"columns of unequal length: {found}", hint="the first axis counts the records"
            )
        schema = Schema(tuple((name, _type_of(name, column)) for name, column in named.items()))
        held = {name: _unwrapped(name, named[name], kind) for name, kind in schema}
        return cls(
            schema=schema,
            title=title,
            rows=next(iter(lengths.values()), 0),
            columns=held,
            checksums={name: checksum(held[name], kind) for name, kind in schema},
            token=next(_TOKENS),
        )

    def __repr__(self) -> str:
        return f"MemorySource({self.token}, {self.stamp})"

    @property
    def in_memory(self) -> bool:
        """Reading them again costs nothing."""
        return True

    @property
    def may_hold_null(self) -> bool:
        """Whether some column holds one; NumPy's numbers have none."""
        return any(getattr(column, "null_count", 0) > 0 for column in self.columns.values())

    @property
    def likely_rows(self) -> float:
        """The number of records."""
        return self.rows

    @property
    def bytes(self) -> int:
        return sum(int(column.nbytes) for column in self.columns.values())

    @cached_property
    def stamp(self) -> str:
        text = f"{self.schema}|{self.rows}|{list(self.checksums.values())}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def partitions(self) -> list[Partition]:
        """Row ranges."""
        bounds = partition_bounds(self.rows, self.schema)
        return [Partition(i, a, b, rows=b - a) for i, (a, b) in enumerate(bounds)]

    def read(self, partition: Partition, columns: tuple[str, ...]) -> Iterator[Block]:
        """Blocks that share memory with the columns, except where Arrow data must be unpacked."""
        step = block_rows(self.schema)
        for start in range(partition.start, partition.stop, step):
            yield self._block(start, min(start + step, partition.stop), columns)

    def head(self, rows: int, columns: tuple[str, ...]) -> Block:
        """The first `rows` records, or all if there are fewer."""
        return self._block(0, min(rows, self.rows), columns)

    def check_unchanged(self) -> None:
        """Raise DataError if a sampled element differs from what it was."""
        for name, kind in self.schema:
            if checksum(self.columns[name], kind) != self.checksums[name]:
                raise DataError(
                    f"column {name!r} of {self.title} changed after the table was made",
                    hint="make a new table, or pass a copy of the array",
                )

    def _block(self, start: int, stop: int, columns: tuple[str, ...]) -> Block:
        found = {name: self._values(name, start, stop) for name in columns}
        return block_of(found, stop - start)

    def _values(self, name: str, start: int, stop: int) -> tuple[ColumnData, Array | None]:
        column, kind = self.columns[name], self.schema[name]
        if not isinstance(column, np.ndarray):
            where = f"column {name!r} of {self.title}"
            return to_column(column.slice(start, stop - start), kind, where)
        values = column[start:stop]
        if values.dtype.kind in "mM" and not kind.shape:
            missing = np.isnat(values)
            if missing.any():
                return np.where(missing, np.zeros((), values.dtype), values), ~missing
        return values, None


def _column_name(name: object) -> str:
    if not isinstance(name, str):
        raise SchemaError(f"column names are strings, found {name!r}")
    return name


def _column(name: str, value: Any) -> MemoryColumn:
    """A column in one of the two forms that are held; no copy where the array can stay as is."""
    if isinstance(value, (pa.Array, pa.ChunkedArray)):
        return pa.chunked_array([value]) if isinstance(value, pa.Array) else value
    if hasattr(value, "tocsr"):
        raise SchemaError(
            f"column {name!r} is a sparse matrix, which is not supported yet",
            hint="pass x.toarray() if it fits in memory",
        )
    if isinstance(value, (list, tuple)):
        return _of_values(name, value)
    if isinstance(value, np.ma.MaskedArray):
        return _of_masked(name, value)
    return _of_array(name, np.asarray(value))


def _of_array(name: str, array: Array) -> MemoryColumn:
    if array.ndim == 0:
        raise SchemaError(
            f"column {name!r} is a single {array.dtype} value, not one value per record",
            hint="pass an array or a list",
        )
    if array.dtype.kind in "mM":
        array = _plain_time(name, array)
    kind = name_of(array.dtype)
    if kind is None:
        raise SchemaError(
            f"column {name!r} has the NumPy type {array.dtype}, which no column may have",
            hint="use bool, integers, float16 to float64, datetime64, timedelta64 or strings",
        )
    if kind == "string":
        return _of_strings(name, array)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _plain_time(name: str, array: Array) -> Array:
    """Days, hours and minutes as seconds; multiples such as 25 s as their unit."""
    unit, multiple = np.datetime_data(array.dtype)
    if unit in ("W", "D", "h", "m"):
        return array.astype(f"{array.dtype.kind}8[s]")
    return array if multiple == 1 else array.astype(f"{array.dtype.kind}8[{unit}]")


def _of_strings(name: str, array: Array) -> pa.ChunkedArray:
    if array.ndim > 1:
        raise SchemaError(
            f"column {name!r} is an array of {array.ndim} axes that holds no numbers",
            hint="use one column of strings each, or convert to numbers with .astype(float)",
        )
    try:
        strings = pa.array(array.astype(object), pa.string(), from_pandas=True)
    except _NO_COMMON_TYPE as error:
        odd = next((v for v in array if v is not None and not isinstance(v, str)), None)
        raise SchemaError(
            f"column {name!r} is an array of objects that holds {odd!r} of type "
            f"{type(odd).__name__}; such arrays may hold strings and None only",
            hint="convert it, for numbers with .astype(float)",
        ) from error
    return strings if isinstance(strings, pa.ChunkedArray) else pa.chunked_array([strings])


def _of_masked(name: str, array: Any) -> MemoryColumn:
    plain = np.ma.getdata(array)
    if not np.ma.is_masked(array):
        return _of_array(name, plain)
    if array.ndim > 1:
        raise DataError(
            f"column {name!r} has masked elements; fixed-shape arrays refuse nulls",
            hint="fill them with .filled(value)",
        )
    held = _of_array(name, plain)
    if not isinstance(held, np.ndarray):
        raise SchemaError(f"column {name!r} is a masked array of strings; use None for nulls")
    return pa.chunked_array([pa.array(held, mask=np.ma.getmaskarray(array))])


def _of_values(name: str, values: Sequence[Any]) -> MemoryColumn:
    """A column of a list: arrays of one shape, or scalars among which None is null."""
    first = next((v for v in values if v is not None), None)
    try:
        if isinstance(first, (list, tuple, np.ndarray)):
            return _of_rows(name, values)
        if first is None and values:
            raise SchemaError(f"column {name!r} holds only None", hint="use an array with a type")
        array = np.asarray(values)  # NumPy's widening: Arrow has none from bool to int
        if array.dtype.kind in "biuf":
            return _of_array(name, array)
        found = pa.array(values)
    except _NO_COMMON_TYPE as error:
        types = sorted({type(v).__name__ for v in values if v is not None})
        raise SchemaError(
            f"column {name!r} holds values without a common type: {', '.join(types)} ({error})"
        ) from error
    return found if isinstance(found, pa.ChunkedArray) else pa.chunked_array([found])


def _of_rows(name: str, values: Sequence[Any]) -> MemoryColumn:
    if any(v is None for v in values):
        raise DataError(
            f"column {name!r} holds None among its arrays; fixed-shape arrays refuse nulls",
            hint="fill the missing ones or drop these records",
        )
    shapes = sorted({np.shape(v) for v in values})
    if len(shapes) > 1:
        raise SchemaError(
            f"column {name!r} holds arrays of different shapes: {shapes}",
            hint="lists of varying length are not supported yet; pad them to one length",
        )
    return _of_array(name, np.asarray(values))


def _names(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys of all records by first appearance."""
    if not records:
        raise SchemaError(
            "no records, so no column has a type", hint="use arrays, or a table with a schema"
        )
    names: dict[str, None] = {}
    for row, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise SchemaError(
                f"record {row} is a {type(record).__name__}, not a dict of columns",
                hint='pass records such as {"id": 1}',
            )
        names.update(dict.fromkeys(map(_column_name, record)))
    if not names:
        raise SchemaError("the records have no keys", hint='pass records such as {"id": 1}')
    return list(names)


def _type_of(name: str, column: MemoryColumn) -> ArrayType:
    if isinstance(column, np.ndarray):
        kind = name_of(column.dtype)
        assert kind is not None  # _of_array and _of_rows let nothing else through
        return ArrayType(kind, column.shape[1:])
    return schema_from_arrow(pa.schema([pa.field(name, column.type)]), "the table")[name]


def _unwrapped(name: str, column: MemoryColumn, kind: ArrayType) -> MemoryColumn:
    """An array in place of Arrow data that can be seen as one without a copy.

    Raises: DataError for a null in a column of fixed-shape arrays.
    """
    if isinstance(column, np.ndarray) or kind.is_string or kind.name == "bool":
        return column
    where = f"column {name!r}"
    if column.num_chunks == 1 and (kind.shape or not column.null_count):
        values, _ = to_column(column, kind, where)
        assert isinstance(values, np.ndarray)
        return values
    if kind.shape:
        for chunk in column.chunks:
            to_column(chunk, kind, where)
    return column
