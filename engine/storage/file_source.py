"""Tables in files: one source for all formats, which differ in what reads the bytes.

A new format is a class that fulfils `FileFormat`, a function and an entry in `readers.py`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from scalops.algebra.conditions import Condition
from scalops.algebra.errors import SchemaError
from scalops.algebra.schema import Schema
from scalops.engine.blocks import Array, Block, ColumnData, block_rows, concatenate
from scalops.engine.columns import SparseColumn
from scalops.engine.storage.files import File, Paths, check_unchanged, find_files
from scalops.engine.storage.hive import HiveRows, hive_columns, hive_keys, in_folders
from scalops.engine.storage.parquet_format import ParquetContents
from scalops.engine.storage.partitions import Partition
from scalops.engine.storage.pruning import Pruning, pruned
from scalops.engine.storage.text_contents import TextContents


class FileContents(Protocol):
    """What a format found in the heads and footers of files laid end to end.

    `digest` depends on what was found there, not on path or time.
    """

    @property
    def schema(self) -> Schema: ...
    @property
    def rows(self) -> int | None: ...
    @property
    def likely_rows(self) -> float: ...
    @property
    def any_order(self) -> bool: ...
    @property
    def digest(self) -> str: ...

    def partitions(self, schema: Schema) -> list[Partition]:
        """All, for a table of these columns."""
        ...

    def read(
        self, partition: Partition, columns: tuple[str, ...], block_rows: int
    ) -> Iterator[Block]:
        """Stream blocks of `block_rows` records; any range, not only those of `partitions`."""
        ...

    def heads(self, rows: int) -> Iterator[Partition]:
        """Ever longer ranges from the first record on, the last one all; the first that holds
        `rows` records is enough."""
        ...


class FileFormat(Protocol):
    """A format with its options; its `repr` shows them all."""

    @property
    def name(self) -> str: ...
    @property
    def suffixes(self) -> tuple[str, ...]: ...

    def inspect(
        self, files: tuple[File, ...], columns: Sequence[str] | None = None
    ) -> FileContents:
        """Read heads or footers. Of `columns`, where given, others may have types that no column
        may have: they are left out.

        Raises: DataError and SchemaError, naming the file.
        """
        ...


@dataclass(frozen=True)
class Told:
    """What a format found in heads and footers, by which files are known again."""

    digest: str
    schema: Schema


@dataclass(frozen=True, eq=False, repr=False)
class FileSource:
    """Files of one format as one table, in path order; only `columns`, where given."""

    format: FileFormat
    files: tuple[File, ...]
    title: str
    contents: FileContents
    columns: tuple[str, ...] | None = None
    told: Told | None = None  # by the files alone; None: what `contents` has
    pruning: Pruning | None = None

    @classmethod
    def open(
        cls,
        format: FileFormat,
        paths: Paths,
        columns: Sequence[str] | None = None,
        hive_partitioning: bool | None = None,
        hive_schema: Mapping[str, str] | None = None,
        filesystem: Any = None,
    ) -> FileSource:
        """Find the files and read their heads or footers.

        `hive_partitioning`, `hive_schema`: see `hive.hive_columns`.

        Raises: DataError for what cannot be read, SchemaError for files that do not fit
        together and for columns that are not there, PlanError for filesystems that there are not.
        """
        if isinstance(columns, str):
            raise SchemaError(
                f"columns={columns!r} is one string, not a list", hint=f"write [{columns!r}]"
            )
        files, title = find_files(paths, format.suffixes, filesystem)
        contents, told = _inspected(format, files, columns, hive_partitioning, hive_schema)
        if columns is None:
            return cls(format, files, title, contents, told=told)
        missing = [name for name in columns if name not in contents.schema.columns]
        if missing or len(set(columns)) < len(columns) or not columns:
            raise SchemaError(
                f"columns={list(columns)} of {title}, which has {list(contents.schema.columns)}",
                hint="name each wanted column once",
            )
        read = tuple(field for name in columns for field in contents.schema.fields_of(name))
        return cls(format, files, title, contents, read, told)

    def __repr__(self) -> str:
        found = [(file.path, file.size, file.mtime, file.sample) for file in self.files]
        digest = _digest(found, self.format, self.columns, self._apart)
        return f"FileSource({self.format.name}, {self.title}, {digest})"

    @cached_property
    def schema(self) -> Schema:
        full = self.contents.schema
        if self.columns is None:
            return full
        return Schema(tuple((name, full[name]) for name in self.columns))

    @property
    def rows(self) -> int | None:
        return self.contents.rows

    @property
    def any_order(self) -> bool:
        """Whether partitions are read in any order at the same cost: nothing before them is."""
        return self.contents.any_order

    @property
    def likely_rows(self) -> float:
        """The number of records, estimated from the head where no metadata tell it."""
        return self.contents.likely_rows

    @property
    def bytes(self) -> int:
        """Size on disk of what is read."""
        size = sum(file.size for file in self.files)
        return size if self.pruning is None else int(size * self.pruning.share)

    @property
    def in_memory(self) -> bool:
        """Reading again means decoding again."""
        return False

    @property
    def may_hold_null(self) -> bool:
        """Not known before it is read."""
        return True

    @cached_property
    def stamp(self) -> str:
        sizes = [file.size for file in self.files]
        return _digest(sizes, self.format, str(self.schema), self.contents.digest, self._apart)

    @property
    def _apart(self) -> object:
        """What tells the source from others of the same files."""
        left = None if self.pruning is None else self.pruning.digest
        return self.contents.digest, left

    @property
    def inspected(self) -> Told:
        """What the heads and footers of the files tell, without their folders."""
        return self.told or Told(self.contents.digest, self.contents.schema)

    @property
    def pruned_text(self) -> str | None:
        """What of the files is not read, and why; None where all is."""
        return None if self.pruning is None else self.pruning.text

    def pruned(self, conditions: tuple[Condition, ...]) -> FileSource | None:
        """The source without files and row groups where, as folders and footers tell, one of the
        conditions holds for no record; None where that leaves nothing out."""
        return pruned(self, conditions)

    def range_of(self, column: str) -> tuple[float, float] | None:
        """The least and greatest value of a column of numbers, where the metadata tell them."""
        if not isinstance(self.contents, ParquetContents | HiveRows) or column not in self.schema:
            return None
        return self.contents.range_of(column)

    def partitions(self) -> list[Partition]:
        """Ranges of rows (Parquet) or bytes (text) over the files laid end to end."""
        return self.contents.partitions(self.schema)

    def read(self, partition: Partition, columns: tuple[str, ...]) -> Iterator[Block]:
        """Stream the records of a partition.

        Raises: DataError, naming the file, for what cannot be read or does not fit the schema.
        """
        return self.contents.read(partition, columns, block_rows(self.schema))

    def head(self, rows: int, columns: tuple[str, ...]) -> Block:
        """The first `rows` records, or all if there are fewer."""
        schema = Schema(tuple((name, self.schema[name]) for name in columns))
        size = max(1, min(rows, block_rows(self.schema)))
        blocks: list[Block] = []
        for partition in self.contents.heads(rows):
            blocks, found = [], 0
            for block in self.contents.read(partition, columns, size):
                blocks.append(block.slice(0, min(block.rows, rows - found)))
                found += blocks[-1].rows
                if found == rows:
                    return concatenate(blocks, schema)
        return concatenate(blocks, schema)

    def sample_runs(
        self, runs: int, rows: int, columns: tuple[str, ...]
    ) -> tuple[dict[str, tuple[Array, Array | None]], Array]:
        """Up to `rows` records from the beginning of each of `runs` equal parts, always the same
        ones, and the part that each is from.

        Of columns of numbers, times, strings and arrays of fixed shape the values, strings as
        objects, and which of them are not null. Other columns are left out.
        """
        chosen = {n: self.schema[n] for n in columns if not self.schema[n].is_list}
        names = tuple(n for n, kind in chosen.items() if not kind.is_sparse)
        blocks: list[Block] = []
        from_run: list[int] = []
        for run, partition in enumerate(self._parts(runs, rows)):
            found = 0
            for block in self.contents.read(partition, names, rows):
                blocks.append(block.slice(0, min(block.rows, rows - found)))
                found += blocks[-1].rows
                if found == rows:
                    break
            from_run.extend([run] * found)
        self.forget_bad_records()  # the run that follows counts its own
        together = concatenate(blocks, Schema(tuple((n, chosen[n]) for n in names)))
        made = {n: _as_arrays(together.columns[n], together.valid.get(n)) for n in names}
        return made, np.array(from_run, np.int64)

    def _parts(self, count: int, rows: int) -> list[Partition]:
        """The beginnings of so many equal parts, each of about `rows` records."""
        partitions = self.partitions()
        start, stop = partitions[0].start, partitions[-1].stop
        part = -(-(stop - start) // count)
        size = min(part, max(1, math.ceil((stop - start) * rows / max(1.0, self.likely_rows))))
        begins = range(start, stop, max(1, part))
        return [Partition(i, a, min(stop, a + size)) for i, a in enumerate(begins)]

    def forget_bad_records(self) -> None:
        """A run begins: what was passed over before counts no more."""
        if isinstance(self.contents, TextContents):
            self.contents.bad.clear()

    def bad_records(self) -> str | None:
        """What was passed over since, None if nothing was."""
        return self.contents.bad_records() if isinstance(self.contents, TextContents) else None

    def check_unchanged(self) -> None:
        """Raise DataError, naming the file, if one is gone or changed in size or time."""
        check_unchanged(self.files)


def _inspected(
    format: FileFormat,
    files: tuple[File, ...],
    columns: Sequence[str] | None,
    hive_partitioning: bool | None,
    hive_schema: Mapping[str, str] | None,
) -> tuple[FileContents, Told | None]:
    """What the files hold with what their folders' names hold, and what the files alone do."""
    keys = hive_keys(files, hive_partitioning)
    unknown = [name for name in hive_schema or {} if name not in keys]
    if unknown:
        raise SchemaError(
            f"hive_schema names {unknown}; the folders of {files[0].path} hold {list(keys)}"
        )
    wanted = [name for name in columns or () if name not in keys]
    contents = format.inspect(files, wanted or None)  # of none JSON could not infer anything
    if not keys:
        return contents, None
    hive = hive_columns(files, keys, contents.schema, hive_schema or {})
    return in_folders(contents, hive), Told(contents.digest, contents.schema)


def _as_arrays(column: ColumnData, valid: Array | None) -> tuple[Array, Array | None]:
    """Values as an array, strings as objects, and which are not null (None: all)."""
    if isinstance(column, np.ndarray):
        return column, valid
    assert not isinstance(column, SparseColumn)
    if column.null_count:
        valid = column.is_valid().to_numpy(zero_copy_only=False)
    return np.asarray(column.fill_null("").to_numpy(zero_copy_only=False), object), valid


def _digest(*parts: object) -> str:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()
