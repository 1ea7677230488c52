"""Records that come once, as of a query's result: kept in a spill file, read from there.

Block by block and column by column, so that columns which a plan does not read are not read. The
bounds of blocks and partitions are those of the same records in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.schema import Schema
from scalops.engine.blocks import (
    Array,
    Block,
    block_rows,
    concatenate,
    partition_bounds,
    reblock,
)
from scalops.engine.storage.partitions import Partition

if TYPE_CHECKING:
    from scalops.engine.spill import Batch, SpillFile

_TOKENS = count(1)
_COLUMN = "column"


class _Format(NamedTuple):
    """What reading it again costs like."""

    name: str = "ipc"


class ColumnFiles:
    """Columns in spill files, one for each type among them."""

    def __init__(self, schema: Schema, folder: str | None) -> None:
        """Raises: SpillError where no file can be made."""
        from scalops.engine.spill import SpillFile  # which reads what `storage` has made

        self._schema = schema
        kinds: dict[ArrayType, SpillFile] = {}
        for _, kind in schema:
            if kind not in kinds:
                kinds[kind] = SpillFile(Schema(((_COLUMN, kind),)), folder)
        self._files = kinds

    def write(self, block: Block) -> dict[str, Batch]:
        """Append a block's columns. Raises: SpillError where the disk is full."""
        found = {}
        for name, kind in self._schema:
            column = Block(block.rows, {_COLUMN: block.columns[name]})
            if name in block.valid:
                column.valid[_COLUMN] = block.valid[name]
            found[name] = self._files[kind].write(column)
        return found

    def read(self, name: str, batch: Batch) -> Block:
        """A block of one column, under its name. Raises: SpillError for a damaged file."""
        return self._files[self._schema[name]].read(batch).chosen({name: _COLUMN})


@dataclass(frozen=True, eq=False, repr=False)
class SpooledSource:
    """`blocks` of `block_rows(schema)` records, the last one shorter, in `files`, which go with
    the source. `token` is unique in this process."""

    schema: Schema
    title: str
    rows: int
    blocks: tuple[dict[str, Batch], ...]
    files: ColumnFiles
    may_hold_null: bool
    token: int

    in_memory: ClassVar[bool] = False
    format: ClassVar[_Format] = _Format()

    @classmethod
    def of_blocks(
        cls, blocks: Iterable[Block], schema: Schema, title: str, folder: str | None = None
    ) -> SpooledSource:
        """Write blocks of any lengths. Raises: SpillError."""
        files = ColumnFiles(schema, folder)
        written, rows, nulls = [], 0, False
        for block in reblock(blocks, schema):
            written.append(files.write(block))
            rows += block.rows
            nulls = nulls or bool(block.valid) or _holds_null(block)
        return cls(schema, title, rows, tuple(written), files, nulls, next(_TOKENS))

    def __repr__(self) -> str:
        return f"SpooledSource({self.token}, {self.stamp})"

    @property
    def likely_rows(self) -> float:
        """The number of records."""
        return self.rows

    @cached_property
    def bytes(self) -> int:
        """In the files."""
        return sum(batch.size for block in self.blocks for batch in block.values())

    @cached_property
    def stamp(self) -> str:
        """A digest of the records."""
        sums = [[block[name].checksum for name in self.schema.names] for block in self.blocks]
        text = f"{self.schema}|{self.rows}|{sums}"
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def partitions(self) -> list[Partition]:
        """Row ranges."""
        bounds = partition_bounds(self.rows, self.schema)
        return [Partition(i, a, b, rows=b - a) for i, (a, b) in enumerate(bounds)]

    def read(self, partition: Partition, columns: tuple[str, ...]) -> Iterator[Block]:
        """Blocks, of which the wanted columns are read. Raises: SpillError for a damaged file."""
        step = block_rows(self.schema)
        for start in range(partition.start, partition.stop, step):
            yield self._block(start // step, columns)

    def head(self, rows: int, columns: tuple[str, ...]) -> Block:
        """The first `rows` records, or all if there are fewer."""
        return self._records(0, min(rows, self.rows), columns)

    def sample_runs(
        self, runs: int, rows: int, columns: tuple[str, ...]
    ) -> tuple[dict[str, tuple[Array, Array | None]], Array]:
        """Up to `rows` records from the beginning of each of `runs` equal parts, always the same
        ones, and the part that each is from: of columns of numbers, times, strings and arrays of
        fixed shape the values, strings as objects, and which of them are not null."""
        names = tuple(
            n for n in columns if not (self.schema[n].is_list or self.schema[n].is_sparse)
        )
        chosen = Schema(tuple((n, self.schema[n]) for n in names))
        part = max(1, -(-self.rows // runs))
        begins = range(0, self.rows, part)
        found = [self._records(a, min(a + min(rows, part), self.rows), names) for a in begins]
        together = concatenate(found, chosen)
        made = {n: _as_arrays(together, n) for n in names}
        return made, np.repeat(np.arange(len(found)), [b.rows for b in found])

    def check_unchanged(self) -> None:
        """Nobody else can write to the files; what is read is compared with its checksum."""

    def _records(self, start: int, stop: int, columns: tuple[str, ...]) -> Block:
        step = block_rows(self.schema)
        chosen = Schema(tuple((n, self.schema[n]) for n in columns))
        parts = [self._block(i, columns) for i in range(start // step, -(-stop // step))]
        first = start // step * step
        return concatenate(parts, chosen).slice(start - first, stop - first)

    def _block(self, index: int, columns: tuple[str, ...]) -> Block:
        batches = self.blocks[index]
        block = Block(next(iter(batches.values())).rows, {})
        for name in columns:
            column = self.files.read(name, batches[name])
            block.columns |= column.columns
            block.valid |= column.valid
        return block


def _holds_null(block: Block) -> bool:
    """Strings and lists keep their nulls themselves."""
    return any(getattr(column, "null_count", 0) > 0 for column in block.columns.values())


def _as_arrays(block: Block, name: str) -> tuple[Array, Array | None]:
    """Values as an array, strings as objects, and which are not null (None: all)."""
    column, valid = block.columns[name], block.valid.get(name)
    if isinstance(column, np.ndarray):
        return column, valid
    if column.null_count:
        valid = column.is_valid().to_numpy(zero_copy_only=False)
    return np.asarray(column.fill_null("").to_numpy(zero_copy_only=False), object), valid
