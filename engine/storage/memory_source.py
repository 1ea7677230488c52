"""Tables in memory: arrays, records and Arrow tables as a source."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import Any

import numpy as np
import pyarrow as pa

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import DataError, SchemaError
from scalops.algebra.schema import Schema
from scalops.engine.blocks import (
    Array,
    Block,
    ColumnData,
    block_rows,
    partition_bounds,
)
from scalops.engine.columns import SparseColumn, arrow_type, concatenated, sliced
from scalops.engine.storage.arrow import block_of, schema_from_arrow, schema_to_arrow, to_column
from scalops.engine.storage.arrow_records import flattened, require_plain_name
from scalops.engine.storage.checksum import checksum
from scalops.engine.storage.memory_columns import (
    MemoryColumn,
    NumberChunks,
    column_name,
    column_of,
    column_of_values,
    number_chunks,
    type_of_column,
    unwrapped,
    without_views,
)
from scalops.engine.storage.partitions import Partition

_TOKENS = count(1)
_SAMPLE_SEED = 1975


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
        """Columns of arrays, lists, Arrow arrays or sparse matrices: the first axis counts the
        records.

        None in a list or an array of objects, NaT, and the masked elements of a masked array
        are nulls. A SciPy matrix is a column of sparse vectors, lists of several lengths one of
        lists.

        Raises: SchemaError for unequal lengths and for types that no column may have.
        """
        if not columns:
            raise SchemaError("a table needs at least one column", hint='pass {"x": array}')
        named = {column_name(name): column_of(name, value) for name, value in columns.items()}
        return cls._of_columns(named, title)

    @classmethod
    def of_records(
        cls, records: Sequence[Mapping[str, Any]], title: str = "memory"
    ) -> MemorySource:
        """Columns from a list of dicts: numbers widen, a missing key is null.

        Lists and arrays of numbers of one shape become columns of that shape, other lists
        columns of lists.

        Raises: SchemaError for no records, for values without a common type or shape.
        """
        names = _names(records)
        named = {name: column_of_values(name, [r.get(name) for r in records]) for name in names}
        return cls._of_columns(named, title)

    @classmethod
    def of_arrow(cls, table: pa.Table, title: str = "memory") -> MemorySource:
        """The columns of an Arrow table; a struct's fields are columns of records.

        Raises: SchemaError for types that no column may have.
        """
        for name in table.column_names:
            require_plain_name(name, title)
        table = flattened(table)
        schema = schema_from_arrow(table.schema, title)
        columns = [
            without_views(name, column, schema[name])
            for name, column in zip(table.column_names, table.columns, strict=True)
        ]
        return cls._of_columns(dict(zip(table.column_names, columns, strict=True)), title, schema)

    @classmethod
    def of_nothing(cls, schema: Schema, title: str = "empty") -> MemorySource:
        """No records of these columns."""
        return cls.of_arrow(schema_to_arrow(schema).empty_table(), title)

    @classmethod
    def _of_columns(
        cls, named: Mapping[str, MemoryColumn], title: str, schema: Schema | None = None
    ) -> MemorySource:
        lengths = {name: len(column) for name, column in named.items()}
        if len(set(lengths.values())) > 1:
            found = ", ".join(f"{name!r} has {length}" for name, length in lengths.items())
            raise SchemaError(
                f"columns of unequal length: {found}", hint="the first axis counts the records"
            )
        if schema is None:
            schema = Schema(tuple((n, type_of_column(n, column)) for n, column in named.items()))
        held = {name: unwrapped(name, named[name], kind) for name, kind in schema}
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

    @cached_property
    def _numbers(self) -> dict[str, NumberChunks]:
        """Columns of Arrow chunks that arrays show, which are cut far faster than the chunks."""
        found = ((n, number_chunks(c, self.schema[n])) for n, c in self.columns.items())
        return {name: chunks for name, chunks in found if chunks is not None}

    def partitions(self) -> list[Partition]:
        """Row ranges."""
        bounds = partition_bounds(self.rows, self.schema)
        return [Partition(i, a, b, rows=b - a) for i, (a, b) in enumerate(bounds)]

    def read(self, partition: Partition, columns: tuple[str, ...]) -> Iterator[Block]:
        """Blocks that share memory with the columns, except where Arrow data must be unpacked."""
        step = block_rows(self.schema)
        for start in range(partition.start, partition.stop, step):
            yield self._block(start, min(start + step, partition.stop), columns)

    def whole(self, name: str) -> tuple[ColumnData, Array | None] | None:
        """A column in one piece, if it lies so in memory."""
        column = self.columns[name]
        if isinstance(column, pa.ChunkedArray):
            kind = self.schema[name]
            if column.num_chunks != 1 or not kind.is_arrow or column.type != arrow_type(kind):
                return None
        elif not (isinstance(column, SparseColumn) or _lies_in_order(column)):
            return None
        return self._values(name, 0, self.rows)

    def head(self, rows: int, columns: tuple[str, ...]) -> Block:
        """The first `rows` records, or all if there are fewer."""
        return self._block(0, min(rows, self.rows), columns)

    def sample(
        self, rows: int, columns: tuple[str, ...], arrays: bool = False
    ) -> dict[str, tuple[Array, Array | None]]:
        """`rows` records, the same ones each time, in their order, or all if there are fewer.

        Of columns of single values, and of `arrays` if they are asked for, the values and which of
        them are not null; strings are objects. Other columns are left out.
        """
        if self.rows <= rows:
            at = np.arange(self.rows)
        else:
            generator = np.random.default_rng(_SAMPLE_SEED)
            at = np.sort(generator.choice(self.rows, rows, replace=False, shuffle=False))
        found: dict[str, tuple[Array, Array | None]] = {}
        for name in columns:
            column, kind = self.columns[name], self.schema[name]
            if kind.is_list or isinstance(column, SparseColumn) or (kind.shape and not arrays):
                continue
            if isinstance(column, np.ndarray):
                values = column[at]
                missing = np.isnat(values) if values.dtype.kind in "mM" else np.zeros(0, bool)
                found[name] = (values, ~missing if missing.any() else None)
                continue
            some, valid = to_column(column.take(pa.array(at)), kind, f"column {name!r}")
            if not isinstance(some, np.ndarray):  # strings
                some = np.asarray(some.fill_null("").to_numpy(zero_copy_only=False), object)
            found[name] = (some, valid)
        return found

    def ranges(self, ranges: Sequence[tuple[int, int]]) -> MemorySource:
        """The records start..stop-1 of each range, one range after the other, copied."""
        named = {n: _joined(column, self.schema[n], ranges) for n, column in self.columns.items()}
        return self._of_columns(named, self.title, self.schema)

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
        if isinstance(column, SparseColumn):
            return column.slice(start, stop), None
        if not isinstance(column, np.ndarray):
            chunks = self._numbers.get(name)
            if chunks is not None:
                return chunks.slice(start, stop), None
            where = f"column {name!r} of {self.title}"
            return to_column(column.slice(start, stop - start), kind, where)
        values = column[start:stop]
        if values.dtype.kind in "mM" and not kind.shape:
            missing = np.isnat(values)
            if missing.any():
                return np.where(missing, np.zeros((), values.dtype), values), ~missing
        return values, None


def _joined(
    column: MemoryColumn, kind: ArrayType, ranges: Sequence[tuple[int, int]]
) -> MemoryColumn:
    """Ranges of a column as one; an array keeps the order of its axes in memory."""
    if isinstance(column, pa.ChunkedArray):
        chunks = [c for a, b in ranges for c in column.slice(a, b - a).chunks]
        return pa.chunked_array(chunks, column.type)
    made = concatenated([sliced(column, a, b) for a, b in ranges], kind)
    if isinstance(column, np.ndarray) and column.flags.fnc:
        return np.asfortranarray(made)
    return made


def _lies_in_order(column: Array) -> bool:
    return bool(column.flags.c_contiguous and column.flags.aligned)


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
                hint='name the column: so.table({"x": numbers})'
                if isinstance(record, (int, float, np.number, np.ndarray, list, tuple))
                else 'pass records such as {"id": 1}',
            )
        names.update(dict.fromkeys(map(column_name, record)))
    if not names:
        raise SchemaError("the records have no keys", hint='pass records such as {"id": 1}')
    return list(names)
