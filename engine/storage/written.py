"""A table on its way to files, part by part, in order.

What a file holds, and where its row groups and batches end, follows from the records and their
blocks alone. At most one file is open, and one row group waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any, BinaryIO, TypeAlias
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import ExecutionError, PlanError, SchemaError
from scalops.algebra.schema import Schema
from scalops.engine.blocks import Array, Block
from scalops.engine.kernels.keys import record_codes
from scalops.engine.storage.arrow import block_to_batch, schema_to_arrow, to_arrow
from scalops.engine.storage.destinations import Destination, named
from scalops.engine.storage.writers import FileWriter, Format

NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"  # Hive's name for a null
_UNNAMED = "part"  # of files in a folder

# Takes consecutive records, again and again.
Take: TypeAlias = Callable[[Iterable[Block]], None]


class TableFiles:
    """Writes one table; what takes the blocks is made by `begin`, which may be asked again."""

    def __init__(
        self,
        schema: Schema,
        form: Format,
        destination: Callable[[], Destination],
        partition_by: Sequence[str] = (),
        max_rows_per_file: int | None = None,
        is_folder: bool = False,
    ) -> None:
        """`destination` gives a new one at each call; with `partition_by` the records come in
        the order of these columns. Raises: SchemaError, PlanError for what cannot be written.
        """
        self._keys = _checked_keys(schema, partition_by)
        fields = tuple((n, k) for n, k in schema if n not in partition_by)
        if not fields:
            raise SchemaError(
                f"all columns are in partition_by={list(partition_by)}: nothing is left to write"
                " into the files",
                hint="a column of the files can be added by with_columns()",
            )
        self._schema = Schema(fields)
        self._whole = Schema((*fields, *self._keys))
        form.check(self._schema)
        self._form, self._new = form, destination
        self._most = max_rows_per_file
        self._is_folder = is_folder
        self._destination = destination()
        self._files: _Files | None = None

    def begin(self) -> Take:
        """Nothing has been written: what takes all records, from the first on."""
        if self._files is not None:
            self.abort()
            self._destination = self._new()
        files = self._files = _Files(
            self._schema, self._form, self._destination, self._most, self._is_folder
        )

        def take(blocks: Iterable[Block]) -> None:
            with named(self._destination.title):
                for block in blocks:
                    for folder, part in self._by_folder(block):
                        files.add(folder, part)

        return take

    def commit(self) -> None:
        """Put the files in place. Raises: ExecutionError, naming what the system refuses."""
        assert self._files is not None
        with named(self._destination.title):
            self._files.close(self._whole)
            self._destination.commit()

    def abort(self) -> None:
        """Leave nothing behind."""
        if self._files is not None:
            self._files.abort()
        self._destination.abort()

    def _by_folder(self, block: Block) -> Iterator[tuple[str, Block]]:
        """Runs of equal keys, with the folder of each."""
        if not self._keys or not block.rows:
            yield "", block
            return
        keys = [((block.columns[n], block.valid.get(n)), k) for n, k in self._keys]
        codes = record_codes(keys, block.rows)
        starts = [0, *(np.flatnonzero(codes[1:] != codes[:-1]) + 1).tolist(), block.rows]
        texts = [_texts(block, n, k, np.array(starts[:-1])) for n, k in self._keys]
        names = [_encoded(n) for n, _ in self._keys]
        for i, (start, stop) in enumerate(pairwise(starts)):
            parts = [f"{name}={own[i]}/" for name, own in zip(names, texts, strict=True)]
            yield "".join(parts), block.slice(start, stop)


class _Files:
    """Files one after the other, of which at most one is open."""

    def __init__(
        self,
        schema: Schema,
        form: Format,
        destination: Destination,
        most: int | None,
        is_folder: bool,
    ) -> None:
        self._schema, self._arrow = schema, schema_to_arrow(schema)
        self._form, self._destination, self._most = form, destination, most
        self._is_folder = is_folder
        self._folder: str | None = None
        self._number = 0  # of the file in its folder
        self._rows = 0  # of the open file, those that wait included
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = self._waiting_bytes = 0
        self._open: tuple[FileWriter, BinaryIO] | None = None

    def add(self, folder: str, block: Block) -> None:
        """Records that follow, in a folder within."""
        if not block.rows:
            return
        if folder != self._folder:
            self._close()
            self._folder, self._number = folder, 0
        at = 0
        while at < block.rows:
            left = block.rows - at
            if self._most is not None:
                if self._rows == self._most:
                    self._close()
                    self._number += 1
                left = min(left, self._most - self._rows)
            part = block if left == block.rows else block.slice(at, at + left)
            self._wait(block_to_batch(part, self._schema))
            at += left

    def _wait(self, batch: pa.RecordBatch) -> None:
        self._waiting.append(batch)
        self._rows += batch.num_rows
        self._waiting_rows += batch.num_rows
        self._waiting_bytes += sum(map(_data_bytes, batch.columns))
        form = self._form
        if self._waiting_rows >= form.rows or self._waiting_bytes >= form.bytes:
            self._write()

    def _write(self) -> None:
        writer, _ = self._opened()
        if self._waiting:
            table = pa.Table.from_batches(self._waiting, self._arrow)
            self._waiting = []
            self._waiting_rows = self._waiting_bytes = 0
            writer.write(table)

    def _opened(self) -> tuple[FileWriter, BinaryIO]:
        if self._open is None:
            name = ""
            if self._is_folder:
                name = f"{self._folder or ''}{_UNNAMED}-{self._number:05d}.{self._form.suffix}"
            stream = self._destination.open(name)
            try:
                writer = self._form.open(stream, name or self._destination.title, self._arrow)
            except BaseException:
                stream.close()
                raise
            self._open = writer, stream
        return self._open

    def _close(self) -> None:
        """End the open file, if there is one."""
        if self._waiting:
            self._write()
        if self._open is not None:
            writer, stream = self._open
            writer.close()
            stream.close()
            self._open = None
        self._rows = 0

    def close(self, columns: Schema) -> None:
        """End the last file. If there was no record, one file without any tells the columns."""
        if self._folder is None:
            self._schema, self._arrow = columns, schema_to_arrow(columns)
            self._opened()
        self._close()

    def abort(self) -> None:
        """Let go of the open file, whatever it is worth."""
        self._waiting.clear()
        if self._open is not None:
            writer, stream = self._open
            self._open = None
            for close in (writer.close, stream.close):
                with suppress(Exception):
                    close()


def _data_bytes(column: pa.Array) -> int:
    """Bytes of a column's values: not those of masks, which a column without nulls may have."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    kind = column.type
    if pa.types.is_struct(kind):
        return sum(_data_bytes(column.field(i)) for i in range(kind.num_fields))
    if pa.types.is_fixed_size_list(kind):
        size = kind.list_size
        return _data_bytes(column.values.slice(column.offset * size, len(column) * size))
    if pa.types.is_list(kind):
        offsets = column.offsets
        first, last = (offsets[0].as_py(), offsets[-1].as_py()) if len(column) else (0, 0)
        return 4 * len(column) + _data_bytes(column.values.slice(first, last - first))
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return 4 * len(column) + int(pc.sum(pc.binary_length(column)).as_py() or 0)
    return -(-len(column) * kind.bit_width // 8) if hasattr(kind, "bit_width") else 0


# Folders by keys.


def _checked_keys(schema: Schema, names: Sequence[str]) -> list[tuple[str, ArrayType]]:
    found = []
    for name in names:
        if name not in schema.columns:
            raise SchemaError(
                f"partition_by reads [{name!r}]; the table has {list(schema.columns)}",
            )
        if schema.holds_records(name):
            raise SchemaError(f"partition_by: the column {name!r} holds records, not single values")
        kind = schema[name]
        if kind.shape or kind.is_list or kind.is_sparse:
            raise SchemaError(
                f"partition_by: the column {name!r} of {kind} does not hold single values"
            )
        if not name or name.startswith((".", "_")):
            raise SchemaError(
                f"partition_by: no folder can be named after the column {name!r}: readers pass"
                " over names that begin with '.' or '_'"
                if name
                else "partition_by: no folder can be named after the column '', which has no name",
                hint="give it another name: rename()",
            )
        found.append((name, kind))
    if len(set(names)) < len(names):
        raise PlanError(f"partition_by={list(names)} names a column twice")
    return found


def _texts(block: Block, name: str, kind: ArrayType, rows: Array) -> list[str]:
    """The names of folders for some records' values of a column."""
    part = block.only([name]).take(rows)
    values: Any = part.columns[name]
    if isinstance(values, np.ndarray) and values.dtype.kind == "f":
        values = values + values.dtype.type(0)  # -0.0 + 0.0 is 0.0
    column = to_arrow(values, part.valid.get(name), kind)
    if pa.types.is_duration(column.type):
        column = column.cast(pa.int64())
    elif pa.types.is_float16(column.type):
        column = column.cast(pa.float32())
    return [_segment(name, text) for text in column.cast(pa.string()).to_pylist()]


def _segment(name: str, text: str | None) -> str:
    if text is None:
        return NULL_FOLDER
    if text in ("", NULL_FOLDER):  # which readers take for a null
        raise ExecutionError(
            f"partition_by: the column {name!r} holds {text!r}, of which a folder's name cannot"
            " tell a null",
            hint="replace it by another text, or by null, before the table is written",
        )
    return _encoded(text)


def _encoded(text: str) -> str:
    return quote(text, safe="")
