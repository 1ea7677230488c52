"""Hive partitions: columns whose values are the names of folders, one value for each file.

A folder `year=2024` gives its files the column `year`. Types are found over all values: int64, else
float64, else timestamps (`2024-01-31`, also with a time, of the unit that its digits need), else
string; whole numbers beyond int64
stay strings, because float64 would make different ones equal. The value
`__HIVE_DEFAULT_PARTITION__`, and an empty one, is null.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from scalops.algebra.dtypes import STRING, ArrayType
from scalops.algebra.errors import SchemaError
from scalops.algebra.schema import Schema
from scalops.engine.blocks import Array, Block, ColumnData
from scalops.engine.columns import taken
from scalops.engine.storage.arrow import to_column, type_to_arrow
from scalops.engine.storage.bad_records import Sifted
from scalops.engine.storage.files import File
from scalops.engine.storage.hive_keys import keys_of
from scalops.engine.storage.partitions import Partition, pieces
from scalops.engine.storage.text_contents import LineParser, Sifter, TextContents
from scalops.engine.storage.type_names import SCALAR_NAMES

NULL = "__HIVE_DEFAULT_PARTITION__"
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_WHOLE = re.compile(r"[-+]?\d+")
_TIME = r"\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}(:\d{2}%s)?)?"
_FRACTIONS = (("ms", 3), ("us", 6), ("ns", 9))  # the most digits of each unit
_FORMS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("int64", _WHOLE),
    ("float64", _NUMBER),
    ("timestamp[s]", re.compile(_TIME % "")),
    *(
        (f"timestamp[{unit}]", re.compile(_TIME % rf"(\.\d{{1,{digits}}})?"))
        for unit, digits in _FRACTIONS
    ),
)


@dataclass(frozen=True, eq=False)
class HiveColumns:
    """`texts[name][i]`: what the folders of file i say, None for null."""

    schema: Schema
    texts: Mapping[str, tuple[str | None, ...]]

    @cached_property
    def values(self) -> dict[str, tuple[ColumnData, Array | None]]:
        """By column a value for each file, and which are not null (None: all)."""
        made = {}
        for name, kind in self.schema:
            converted = _converted(self.texts[name], kind)
            assert converted is not None  # the type was chosen so
            made[name] = to_column(converted, kind, f"column {name!r}")
        return made

    @property
    def digest(self) -> str:
        """Of the values of all files."""
        return hashlib.blake2b(repr(self.texts).encode(), digest_size=16).hexdigest()

    def columns(
        self, names: Sequence[str], runs: Sequence[tuple[int, int]]
    ) -> dict[str, tuple[ColumnData, Array | None]]:
        """The columns of records of which the next `count` lie in file `file`, for each run
        (file, count)."""
        files = np.array([file for file, _ in runs], np.int64)
        counts = np.array([count for _, count in runs], np.int64)
        return {name: _repeated(*self.values[name], files, counts) for name in names}

    def added(self, block: Block, columns: Sequence[str], runs: Sequence[tuple[int, int]]) -> Block:
        """The block with those of the columns that are the folders'; `runs` as in `columns`."""
        found = self.columns([n for n in columns if n in self.schema], runs)
        valid = {n: mask for n, (_, mask) in found.items() if mask is not None}
        own = {n: values for n, (values, _) in found.items()}
        return Block(block.rows, {**block.columns, **own}, {**block.valid, **valid})


def _repeated(
    values: ColumnData, valid: Array | None, files: Array, counts: Array
) -> tuple[ColumnData, Array | None]:
    if len(files) == 1 and isinstance(values, pa.Array):
        made: ColumnData = pa.repeat(values[int(files[0])], int(counts[0]))
    else:
        made = taken(values, np.repeat(files, counts))
    mask = None if valid is None else np.repeat(valid[files], counts)
    return made, None if mask is None or mask.all() else mask


def hive_keys(files: Sequence[File], wanted: bool | None) -> dict[str, tuple[str | None, ...]]:
    """By key what the files' folders say, None for null.

    `wanted`: None takes the folders below a given folder or pattern, True all of the paths',
    False none.

    Raises: SchemaError where a file has other keys than the first.
    """
    if wanted is False:
        return {}
    found = [keys_of(file.path) if wanted else file.keys for file in files]
    names = [name for name, _ in found[0]]
    for file, pairs in zip(files, found, strict=True):
        if [name for name, _ in pairs] != names or len(set(names)) < len(names):
            raise SchemaError(
                f"{file.path} lies in folders of the keys {[name for name, _ in pairs]}, "
                f"{files[0].path} in those of {names}",
                hint="read folders of the same keys together, or give hive_partitioning=False",
            )
    columns = zip(*found, strict=True) if names else ()
    return {
        name: tuple(None if text in (NULL, "") else text for _, text in column)
        for name, column in zip(names, columns, strict=True)
    }


def hive_columns(
    files: Sequence[File],
    texts: Mapping[str, tuple[str | None, ...]],
    own: Schema,
    types: Mapping[str, str],
) -> HiveColumns:
    """The columns that the files' folders hold; `texts` as `hive_keys` gives them.

    A column that the files hold too, among `own`, has their type and the folders' values; `types`
    are the user's.

    Raises: SchemaError where a value has not the type.
    """
    fields = []
    for name, given in texts.items():
        if name not in types and own.holds_records(name):
            raise SchemaError(
                f"{files[0].path} lies in a folder {name}={given[0]}; the file's own column "
                f"{name!r} holds records",
                hint=f'give hive_partitioning=False, or hive_schema={{"{name}": "string"}}',
            )
        kind = _written(name, types[name]) if name in types else own.types.get(name)
        fields.append((name, _inferred(given) if kind is None else kind))
        if kind is not None:
            _check_type(files, name, given, kind, in_file=name not in types)
    return HiveColumns(Schema(tuple(fields)), texts)


def _written(name: str, kind: str) -> ArrayType:
    if kind not in SCALAR_NAMES:
        raise SchemaError(
            f"hive_schema gives {name!r} the type {kind!r}",
            hint=f"the types are {', '.join(SCALAR_NAMES)}",
        )
    return ArrayType(kind)


def _inferred(texts: Sequence[str | None]) -> ArrayType:
    """The first type that fits all values."""
    given = set(texts) - {None}
    for name, form in _FORMS:
        whole = all(_WHOLE.fullmatch(str(text)) for text in given)
        if not given or not all(form.fullmatch(str(text)) for text in given):
            continue
        if name == "float64" and whole:  # too large for int64
            continue
        if _converted(tuple(given), ArrayType(name)) is not None:
            return ArrayType(name)
    return ArrayType(STRING)


def _check_type(
    files: Sequence[File], name: str, texts: Sequence[str | None], kind: ArrayType, in_file: bool
) -> None:
    by_text = {text: file for file, text in zip(files, texts, strict=True)}
    for text, file in by_text.items():
        if kind.shape or kind.is_list or _converted((text,), kind) is None:
            whose = f"the file's own column {name!r} is {kind}" if in_file else f"expected {kind}"
            raise SchemaError(
                f"{file.path} lies in a folder {name}={text}; {whose}",
                hint=f'give hive_partitioning=False, or hive_schema={{"{name}": "string"}}',
            )


def _converted(texts: Sequence[str | None], kind: ArrayType) -> pa.Array | None:
    """The values in a type; None where one has no such value."""
    stored = pa.array(texts, pa.string())
    if kind.is_string:
        return stored
    try:
        return stored.cast(type_to_arrow(kind))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


@dataclass(frozen=True)
class HiveParser:
    """Parses lines of files; adds what the files' folders say."""

    parser: LineParser
    hive: HiveColumns

    def parse(self, file: int, data: bytes, columns: tuple[str, ...]) -> Block:
        """As the inner parser does. Raises: Unreadable."""
        return self._with(file, columns, lambda own: self.parser.parse(file, data, own))

    def rescue(self, file: int, line: bytes, columns: tuple[str, ...]) -> Block:
        """The one record of a bad line: the folders' values are known."""
        return self._with(file, columns, lambda own: self.parser.rescue(file, line, own))

    def lines(self, data: bytes) -> list[bytes]:
        """The lines with their ends."""
        return self.parser.lines(data)

    def sift(
        self, file: int, lines: Sequence[bytes], columns: tuple[str, ...], fill: bool
    ) -> Sifted | None:
        """As the inner parser does, if it does."""
        own = tuple(n for n in columns if n not in self.hive.schema)
        return self.parser.sift(file, lines, own, fill) if isinstance(self.parser, Sifter) else None

    def _with(
        self, file: int, columns: tuple[str, ...], make: Callable[[tuple[str, ...]], Block]
    ) -> Block:
        own = tuple(n for n in columns if n not in self.hive.schema)
        block = make(own)
        return block if own == columns else self.hive.added(block, columns, [(file, block.rows)])


@dataclass(frozen=True, eq=False)
class HiveRows:
    """Files that know their rows, with the columns of their folders after their own."""

    contents: Any  # ParquetContents or IpcContents
    hive: HiveColumns
    schema: Schema
    digest: str

    @property
    def rows(self) -> int:
        found: int = self.contents.rows
        return found

    @property
    def likely_rows(self) -> float:
        return self.rows

    def partitions(self, schema: Schema) -> list[Partition]:
        """Those of the files, for records of all columns."""
        found: list[Partition] = self.contents.partitions(schema)
        return found

    def heads(self, rows: int) -> Iterator[Partition]:
        """The first rows."""
        found: Iterator[Partition] = self.contents.heads(rows)
        return found

    def read(
        self, partition: Partition, columns: tuple[str, ...], block_rows: int
    ) -> Iterator[Block]:
        """The files' own columns, read, beside the folders'."""
        own = tuple(n for n in columns if n not in self.hive.schema)
        start = partition.start
        for block in self.contents.read(partition, own, block_rows):
            runs = [
                (file, last - first)
                for file, first, last in pieces(self.contents.offsets, start, start + block.rows)
            ]
            start += block.rows
            yield block if own == columns else self.hive.added(block, columns, runs)

    def range_of(self, column: str) -> tuple[float, float] | None:
        """The least and greatest value of a column of numbers, as far as metadata tell."""
        if column not in self.hive.schema:
            ranges = getattr(self.contents, "range_of", None)
            return None if ranges is None else ranges(column)
        values, valid = self.hive.values[column]
        if isinstance(values, pa.Array) or values.dtype.kind not in "if":
            return None
        known = values if valid is None else values[valid]
        return (known.min().item(), known.max().item()) if len(known) else None


def in_folders(contents: Any, hive: HiveColumns) -> Any:
    """The contents of files with the columns that their folders hold, behind their own."""
    hidden = {n for name in hive.schema.names for n in contents.schema.fields_of(name)}
    own = tuple(field for field in contents.schema if field[0] not in hidden)
    schema = Schema((*own, *hive.schema))
    digest = hashlib.blake2b(f"{contents.digest} {hive.digest}".encode(), digest_size=16)
    if isinstance(contents, TextContents):
        return replace(
            contents,
            parser=HiveParser(contents.parser, hive),
            schema=schema,
            digest=digest.hexdigest(),
        )
    return HiveRows(contents, hive, schema, digest.hexdigest())
