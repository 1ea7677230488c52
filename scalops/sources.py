"""Tables from files and from memory.

Readers take `filesystem`, an object of pyarrow.fs or of fsspec in which their paths lie; without
it a path is a local one or a URI.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from os import PathLike
from typing import Any

import numpy as np
import pyarrow as pa

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import (
    PlanError,
    ScalopsError,
    SchemaError,
    user_location,
)
from scalops.algebra.operators import Scan
from scalops.algebra.schema import Schema
from scalops.engine import storage
from scalops.engine.storage.arrow_records import flat_schema
from scalops.table import Table
from scalops.written_types import EXPECTED, readable, written_type

Paths = str | PathLike[str] | Sequence[str | PathLike[str]]
# Arrow reads ahead as if memory had no end.
_READ_AHEAD = {"batch_readahead": 2, "fragment_readahead": 1}
HiveSchema = Mapping[str, Any] | Schema | None


def _scan(make: Any, *args: Any, **kwargs: Any) -> Table:
    location = user_location()
    try:
        source = make(*args, **kwargs)
    except ScalopsError as error:
        if error.location is None:
            error.location = location
        raise
    return Table(Scan(source, location=location))


def table(data: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Table:
    """A table of arrays by column name, or of records.

    A 2-D array is a vector column, a SciPy sparse matrix one of sparse vectors, lists of several
    lengths one of lists. Arrays are not copied: changing one between making the table and
    collecting is a DataError.
    """
    if isinstance(data, Mapping):
        return _scan(storage.MemorySource.of_arrays, dict(data))
    if isinstance(data, Sequence) and not isinstance(data, str):
        return _scan(storage.MemorySource.of_records, list(data))
    raise SchemaError(
        f"so.table takes a dict of arrays or a list of records, not a {type(data).__name__}",
        location=user_location(),
        hint='name its column: so.table({"x": X})'
        if isinstance(data, np.ndarray)
        else "so.from_arrow takes Arrow, Polars and pandas tables",
    )


def from_arrow(data: Any) -> Table:
    """A table of anything that speaks Arrow's C stream (pyarrow, Polars, DuckDB, pandas), or of a
    `pyarrow.dataset` Dataset or Scanner.

    Tables and frames in memory stay where they are; numbers are not copied. What is produced batch
    by batch (a RecordBatchReader, a DuckDB relation, a dataset) is read now, once; more than
    16 MiB of it go to a spill file.
    """
    location = user_location()
    stream = _stream(data)
    if not hasattr(stream, "__arrow_c_stream__"):
        raise SchemaError(
            f"so.from_arrow takes an object with __arrow_c_stream__, not a {type(data).__name__}",
            location=location,
            hint=_way_to_arrow(data),
        )
    if storage.is_lazy(stream):
        from scalops.session import current_session

        return _scan(storage.source_of_stream, stream, current_session().options.spill)
    try:
        arrow = stream if isinstance(stream, pa.Table) else pa.table(stream)
    except ScalopsError:
        raise
    except Exception as error:
        failed = storage.unreadable_stream(type(data).__name__, error)
        if isinstance(failed, ScalopsError):
            failed.location = location
        raise failed from error
    return _scan(storage.MemorySource.of_arrow, arrow)


def _way_to_arrow(data: Any) -> str | None:
    """What makes an Arrow stream of an object that has none."""
    if type(data).__module__.startswith("polars") and hasattr(data, "collect"):
        return "a lazy frame has no records yet: collect() it first"
    return None


def _stream(data: Any) -> Any:
    """What can be read of a dataset, a few batches ahead; all else as it is."""
    if not type(data).__module__.startswith("pyarrow._dataset"):
        return data
    if hasattr(data, "to_reader"):
        return data.to_reader()
    return data.scanner(**_READ_AHEAD).to_reader() if hasattr(data, "scanner") else data


def empty(schema: Any) -> Table:
    """A table of no records.

    `schema`: a dict of names to types (`so.float64`, `so.vector(3)`, "int64", "list[string]"),
    a `pyarrow.Schema`, or another table's `.schema`.
    """
    location = user_location()
    if isinstance(schema, pa.Schema):
        found = _scan_schema(schema, location)
    elif isinstance(schema, (Schema, Mapping)):
        pairs = schema.items() if isinstance(schema, Mapping) else schema
        found = Schema(tuple((name, _type(name, kind)) for name, kind in pairs))
    else:
        raise SchemaError(
            f"so.empty takes a dict of types by column name, not a {type(schema).__name__}",
            location=location,
            hint='write so.empty({"id": so.int64}), or pass a pyarrow.Schema or a table\'s schema',
        )
    if not len(found):
        raise SchemaError("so.empty needs at least one column", location=location)
    return _scan(storage.MemorySource.of_nothing, found)


def _scan_schema(schema: pa.Schema, location: Any) -> Schema:
    try:
        return storage.schema_from_arrow(flat_schema(schema, "so.empty"), "so.empty")
    except SchemaError as error:
        error.location = location
        raise


def _type(name: object, kind: Any) -> ArrayType:
    """A type as it may be written. Raises: SchemaError."""
    found = written_type(kind)
    if not isinstance(name, str) or found is None:
        raise SchemaError(
            f"the column {name!r} has the type {readable(kind)}",
            location=user_location(),
            hint=EXPECTED,
        )
    return found


def _types(given: Any, option: str = "column_types") -> dict[str, str] | None:
    """`column_types=` as names of types."""
    if given is None:
        return None
    if not isinstance(given, (Mapping, Schema)):
        raise SchemaError(
            f"{option}={given!r} must be a dict of types by column name",
            location=user_location(),
        )
    pairs = given.items() if isinstance(given, Mapping) else given
    return {name: str(_type(name, kind)) for name, kind in pairs} or None


def load(
    path: Paths, columns: Sequence[str] | None = None, filesystem: Any = None, **options: Any
) -> Table:
    """A table of files in the format that their suffix names; `options` are those of its reader.

    .csv .tsv .parquet .pq .ipc .arrow .feather .json .jsonl .ndjson .txt .libsvm .svm .svmlight
    .vw; text also with .gz behind. As for every reader, paths are local ones or URIs (file, s3, gs,
    hdfs, abfs, and what fsspec knows), or lie in `filesystem`, one of pyarrow.fs or fsspec.
    """
    location = user_location()
    try:
        name = storage.reader_of(path, filesystem).__name__
    except ScalopsError as error:
        error.location = location
        raise
    if name == "read_tsv":
        name, options = "read_csv", {"delimiter": "\t", **options}
    reader = _READERS[name]
    known = [n for n in signature(reader).parameters if n not in ("path", "columns", "filesystem")]
    unknown = [option for option in options if option not in known]
    if unknown:
        raise PlanError(
            f"load(..., {unknown[0]}=...) reads with so.{name}, which has no such option",
            location=location,
            hint=f"it has {', '.join(known) or 'none beyond columns='}",
        )
    return reader(path, columns=columns, filesystem=filesystem, **options)


def read_csv(
    path: Paths,
    column_names: Sequence[str] | None = None,
    delimiter: str = ",",
    has_header: bool | None = None,
    columns: Sequence[str] | None = None,
    column_types: Mapping[str, Any] | Schema | None = None,
    on_error: str = "raise",
    filesystem: Any = None,
    hive_partitioning: bool | None = None,
    hive_schema: HiveSchema = None,
) -> Table:
    """A table of CSV files: a path, a list, a glob or a folder.

    Without `column_names` the first line names the columns. Types are inferred from the head
    of the first file; `column_types` fixes those that it gets wrong. `on_error="skip"` leaves
    out the lines that cannot be read, "null" the fields; a warning counts them.
    """
    return _scan(
        storage.read_csv,
        path,
        column_names=list(column_names) if isinstance(column_names, tuple) else column_names,
        delimiter=delimiter,
        has_header=has_header,
        columns=columns,
        column_types=_types(column_types),
        on_error=on_error,
        filesystem=filesystem,
        hive_partitioning=hive_partitioning,
        hive_schema=_types(hive_schema, "hive_schema"),
    )


def read_json(
    path: Paths,
    columns: Sequence[str] | None = None,
    column_types: Mapping[str, Any] | Schema | None = None,
    on_error: str = "raise",
    filesystem: Any = None,
    hive_partitioning: bool | None = None,
    hive_schema: HiveSchema = None,
) -> Table:
    """A table of files of JSON objects, one on each line.

    Columns and types are those of the head of the first file; `column_types` overrules and adds
    some. `on_error` as in `read_csv`.
    """
    types = _types(column_types)
    return _scan(
        storage.read_json,
        path,
        types,
        columns=columns,
        on_error=on_error,
        filesystem=filesystem,
        hive_partitioning=hive_partitioning,
        hive_schema=_types(hive_schema, "hive_schema"),
    )


def read_text(
    path: Paths,
    columns: Sequence[str] | None = None,
    on_error: str = "raise",
    filesystem: Any = None,
    hive_partitioning: bool | None = None,
    hive_schema: HiveSchema = None,
) -> Table:
    """A table of the lines of text files in the column `line`, without their ends.

    `on_error` is for lines that are not UTF-8: "skip" leaves them out, "null" makes them null.
    """
    return _scan(
        storage.read_text,
        path,
        columns=columns,
        on_error=on_error,
        filesystem=filesystem,
        hive_partitioning=hive_partitioning,
        hive_schema=_types(hive_schema, "hive_schema"),
    )


def read_libsvm(
    path: Paths,
    n_features: int | None = None,
    zero_based: bool = False,
    columns: Sequence[str] | None = None,
    on_error: str = "raise",
    filesystem: Any = None,
    hive_partitioning: bool | None = None,
    hive_schema: HiveSchema = None,
) -> Table:
    """A table of files in libsvm's format: labels `y` (float64) and sparse vectors `x`.

    Indices count from 1, or from 0 if `zero_based`. Without `n_features` a pass over the files
    finds the dimension now. With `on_error="null"` a bad line has no label and no features.
    """
    return _scan(
        storage.read_libsvm,
        path,
        n_features=n_features,
        zero_based=zero_based,
        columns=columns,
        on_error=on_error,
        filesystem=filesystem,
        hive_partitioning=hive_partitioning,
        hive_schema=_types(hive_schema, "hive_schema"),
    )


def read_vw(
    path: Paths,
    bits: int | None = None,
    n_features: int | None = None,
    constant: bool = False,
    columns: Sequence[str] | None = None,
    on_error: str = "raise",
    filesystem: Any = None,
    hive_partitioning: bool | None = None,
    hive_schema: HiveSchema = None,
) -> Table:
    """A table of files in Vowpal Wabbit's text format: `y`, `weight`, `base`, `tag`, and `x`.

    The label `y` is null where there is none, the importance `weight` then 1, `base` 0, `tag` "".
    The sparse vectors `x` have 2**`bits` elements (18), in which features stand where Vowpal
    Wabbit puts them by hashing; with `n_features` the names are indices from 0 on. Features that
    meet are added up. `constant` adds Vowpal Wabbit's constant feature. With `on_error="null"` a
    bad line has no features, and null in the other columns.
    """
    return _scan(
        storage.read_vw,
        path,
        bits=bits,
        n_features=n_features,
        constant=constant,
        columns=columns,
        on_error=on_error,
        filesystem=filesystem,
        hive_partitioning=hive_partitioning,
        hive_schema=_types(hive_schema, "hive_schema"),
    )


def read_ipc(
    path: Paths,
    columns: Sequence[str] | None = None,
    filesystem: Any = None,
    hive_partitioning: bool | None = None,
    hive_schema: HiveSchema = None,
) -> Table:
    """A table of Arrow IPC files (Feather 2)."""
    return _scan(
        storage.read_ipc,
        path,
        columns=columns,
        filesystem=filesystem,
        hive_partitioning=hive_partitioning,
        hive_schema=_types(hive_schema, "hive_schema"),
    )


def read_parquet(
    path: Paths,
    columns: Sequence[str] | None = None,
    filesystem: Any = None,
    hive_partitioning: bool | None = None,
    hive_schema: HiveSchema = None,
) -> Table:
    """A table of Parquet files: a path, a list, a glob or a folder.

    Folders named key=value below the one given, or below the fixed part of a glob, give columns of
    these values behind the files' own: of all files, if they lie in folders of the same keys.
    `hive_partitioning=True` takes all folders of the paths, False none; `hive_schema` gives
    columns their types. All readers of files do so.
    """
    return _scan(
        storage.read_parquet,
        path,
        columns=columns,
        filesystem=filesystem,
        hive_partitioning=hive_partitioning,
        hive_schema=_types(hive_schema, "hive_schema"),
    )


_READERS = {
    reader.__name__: reader
    for reader in (read_csv, read_ipc, read_json, read_libsvm, read_parquet, read_text, read_vw)
}
