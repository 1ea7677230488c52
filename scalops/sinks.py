"""Tables to files: each writer runs the plan and puts a complete file in place, or none."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import TYPE_CHECKING

from scalops.algebra.errors import ScalopsError, TraceError, user_location
from scalops.engine.storage import writers
from scalops.tracing import current, refuse_to_run

if TYPE_CHECKING:
    from scalops.table import Table

Path = str | PathLike[str]


def write_parquet(table: Table, path: Path, compression: str | None = "zstd") -> None:
    """A Parquet file. `compression`: zstd, snappy, gzip, brotli, lz4 or None."""
    schema = table.schema
    _write(table, path, "write_parquet", lambda _: writers.parquet_writer(schema, compression))


def write_ipc(table: Table, path: Path, compression: str | None = None) -> None:
    """An Arrow IPC file (Feather 2), which holds every column. `compression`: lz4, zstd or None."""
    _write(table, path, "write_ipc", lambda _: writers.ipc_writer(compression))


def write_csv(table: Table, path: Path, delimiter: str = ",", header: bool = True) -> None:
    """A file of delimited text, of scalar columns; compressed if the name ends in `.gz`."""
    _write(
        table,
        path,
        "write_csv",
        lambda target: writers.csv_writer(table.schema, target, delimiter, header),
    )


def write_json(table: Table, path: Path) -> None:
    """A file of JSON objects, one on each line; compressed if the name ends in `.gz`."""
    _write(table, path, "write_json", writers.json_writer)


def _write(table: Table, path: Path, name: str, make: Callable[[str], writers.Writer]) -> None:
    """What can be refused is refused before the plan runs."""
    from scalops.session import collect

    location = user_location()
    refuse_to_run(f"{name}(), which runs a plan", "write the table after the loop")
    trace = current()
    if trace is not None:
        raise TraceError(
            f"{trace.what} calls {name}(), which runs a plan",
            location=location,
            hint="write the table before or after",
        )
    try:
        target = writers.destination(path)
        writer = make(target)
        writers.write(collect(table), target, writer)
    except ScalopsError as error:
        error.location = error.location or location
        raise
