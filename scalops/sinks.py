"""Tables to files: each writer runs the plan and puts complete files in place, or none.

Records go to the files as they are computed; the table is never in memory as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any

from scalops.algebra.errors import PlanError, ScalopsError, TraceError, user_location
from scalops.engine.storage import writers
from scalops.engine.storage.destinations import destination
from scalops.engine.storage.written import TableFiles
from scalops.tracing import current, refuse_to_run

if TYPE_CHECKING:
    from scalops.table import Table

Path = str | PathLike[str]
Columns = str | Sequence[str] | None


class TableWriters:
    """A base of Table: what puts it into files.

    All of them take `partition_by`, columns whose values name folders ("year=2024/"),
    `max_rows_per_file`, `overwrite`, which lets a folder that is not empty be replaced, and
    `filesystem`, one of pyarrow.fs or fsspec for paths that are not local.
    """

    __slots__ = ()

    def write_parquet(
        self,
        path: Path,
        compression: str | None = "zstd",
        *,
        partition_by: Columns = None,
        max_rows_per_file: int | None = None,
        overwrite: bool = False,
        filesystem: Any = None,
    ) -> None:
        """Run the plan and write a Parquet file, or a folder of them, whole or not at all.

        `compression`: zstd, snappy, gzip, brotli, lz4 or None.
        """
        files = partition_by, max_rows_per_file, overwrite, filesystem
        _write(self, path, "write_parquet", lambda: writers.parquet_format(compression), *files)

    def write_ipc(
        self,
        path: Path,
        compression: str | None = None,
        *,
        partition_by: Columns = None,
        max_rows_per_file: int | None = None,
        overwrite: bool = False,
        filesystem: Any = None,
    ) -> None:
        """Run the plan and write an Arrow IPC file (Feather 2), or a folder of them, whole or not.

        It holds every column. `compression`: lz4, zstd or None.
        """
        files = partition_by, max_rows_per_file, overwrite, filesystem
        _write(self, path, "write_ipc", lambda: writers.ipc_format(compression), *files)

    def write_csv(
        self,
        path: Path,
        delimiter: str = ",",
        header: bool = True,
        *,
        partition_by: Columns = None,
        max_rows_per_file: int | None = None,
        overwrite: bool = False,
        filesystem: Any = None,
    ) -> None:
        """Run the plan and write a CSV file of scalar columns, or a folder, whole or not at all.

        A file is compressed if its name ends in `.gz`.
        """
        files = partition_by, max_rows_per_file, overwrite, filesystem
        _write(self, path, "write_csv", lambda: writers.csv_format(delimiter, header), *files)

    def write_json(
        self,
        path: Path,
        *,
        partition_by: Columns = None,
        max_rows_per_file: int | None = None,
        overwrite: bool = False,
        filesystem: Any = None,
    ) -> None:
        """Run the plan and write JSON objects, one on each line, to a file or folder, or nothing.

        A file is compressed if its name ends in `.gz`.
        """
        files = partition_by, max_rows_per_file, overwrite, filesystem
        _write(self, path, "write_json", writers.json_format, *files)


def _write(
    writing: TableWriters,
    path: Path,
    name: str,
    make: Callable[[], writers.Format],
    partition_by: Columns,
    max_rows_per_file: int | None,
    overwrite: bool,
    filesystem: Any,
) -> None:
    """What can be refused is refused before the plan runs."""
    from scalops.session import current_session

    table: Table = writing  # type: ignore[assignment]
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
        keys = _keys(partition_by)
        _check_rows(max_rows_per_file)
        is_folder = bool(keys) or max_rows_per_file is not None or _names_folder(path)
        places = partial(destination, path, filesystem, is_folder, overwrite)
        files = TableFiles(table.schema, make(), places, keys, max_rows_per_file, is_folder)
        # In the order of the keys no file is opened twice, however many there are.
        plan = table.sort(*keys).plan if keys else table.plan
        try:
            current_session().run((plan,), begin=files.begin)
            files.commit()
        except BaseException:  # an interrupt too
            files.abort()
            raise
    except ScalopsError as error:
        error.location = error.location or location
        raise


def _keys(partition_by: Columns) -> tuple[str, ...]:
    if partition_by is None:
        return ()
    keys = (partition_by,) if isinstance(partition_by, str) else tuple(partition_by)
    if not keys or not all(isinstance(k, str) for k in keys):
        raise PlanError(
            f"partition_by={partition_by!r} is no name of a column, nor some of them",
            hint='write partition_by="year", or partition_by=["year", "month"]',
        )
    return keys


def _check_rows(count: int | None) -> None:
    if count is None:
        return
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise PlanError(f"max_rows_per_file={count!r} must be a whole number of 1 or more")


def _names_folder(path: Path) -> bool:
    """Whether a path ends as that of a folder does."""
    text = os.fspath(path) if isinstance(path, PathLike) else path
    return isinstance(text, str) and text.endswith("/")
