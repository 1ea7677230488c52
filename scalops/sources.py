"""Tables from files and from memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import pyarrow as pa

from scalops.algebra.errors import ScalopsError, SchemaError, user_location
from scalops.algebra.operators import Scan
from scalops.engine import storage
from scalops.not_yet import refuse
from scalops.table import Table

Paths = str | PathLike[str] | Sequence[str | PathLike[str]]


def _scan(make: Any, *args: Any, **kwargs: Any) -> Table:
    location = user_location()
    try:
        source = make(*args, **kwargs)
    except ScalopsError as error:
        if error.location is None:
            error.location = location
        raise
    return Table(Scan(source, location=location))


def _local(filesystem: Any) -> None:
    if filesystem is not None:
        refuse("a reader's filesystem=")


def table(data: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Table:
    """A table of arrays by column name, or of records.

    A 2-D array is a vector column. Arrays are not copied: changing one between making the
    table and collecting is a DataError.
    """
    if isinstance(data, Mapping):
        if any(type(v).__module__.startswith("scipy.sparse") for v in data.values()):
            refuse("a sparse vector column")
        return _scan(storage.MemorySource.of_arrays, dict(data))
    if isinstance(data, Sequence) and not isinstance(data, str):
        return _scan(storage.MemorySource.of_records, list(data))
    raise SchemaError(
        f"so.table takes a dict of arrays or a list of records, not a {type(data).__name__}",
        location=user_location(),
        hint="so.from_arrow takes Arrow, Polars and pandas tables",
    )


def from_arrow(data: Any) -> Table:
    """A table of anything that speaks Arrow's C stream (pyarrow, Polars, DuckDB, pandas)."""
    if not hasattr(data, "__arrow_c_stream__"):
        raise SchemaError(
            f"so.from_arrow takes an object with __arrow_c_stream__, not a {type(data).__name__}",
            location=user_location(),
        )
    arrow = data if isinstance(data, pa.Table) else pa.table(data)
    return _scan(storage.MemorySource.of_arrow, arrow)


def read_csv(
    path: Paths,
    column_names: Sequence[str] | None = None,
    delimiter: str = ",",
    has_header: bool | None = None,
    columns: Sequence[str] | None = None,
    column_types: Mapping[str, Any] | None = None,
    on_error: str = "raise",
    filesystem: Any = None,
) -> Table:
    """A table of CSV files: a path, a list, a glob or a folder.

    Without `column_names` the first line names the columns. Types are inferred from the head
    of the first file; `column_types` fixes those that it gets wrong.
    """
    _local(filesystem)
    if on_error != "raise":
        refuse(f"read_csv(on_error={on_error!r})")
    types = {n: getattr(t, "name", t) for n, t in (column_types or {}).items()}
    return _scan(
        storage.read_csv,
        path,
        column_names=list(column_names) if column_names is not None else None,
        delimiter=delimiter,
        has_header=has_header,
        columns=columns,
        column_types=types or None,
    )


def read_parquet(
    path: Paths, columns: Sequence[str] | None = None, filesystem: Any = None
) -> Table:
    """A table of Parquet files: a path, a list, a glob or a folder."""
    _local(filesystem)
    return _scan(storage.read_parquet, path, columns=columns)
