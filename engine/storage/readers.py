"""A reader for each format of files, and which suffix means which.

`of_files` are options of where files lie, the same for all formats: see `FileSource.open`.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scalops.algebra.errors import PlanError
from scalops.engine.storage.file_source import FileSource
from scalops.engine.storage.files import Paths, find_files
from scalops.engine.storage.lines import COMPRESSED
from scalops.engine.storage.masking import without_secrets


def read_parquet(path: Paths, columns: Sequence[str] | None = None, **of_files: Any) -> FileSource:
    """Parquet files: a path, a list of paths, a pattern or a folder."""
    from scalops.engine.storage.parquet_format import ParquetFormat

    return FileSource.open(ParquetFormat(), path, columns, **of_files)


def read_ipc(path: Paths, columns: Sequence[str] | None = None, **of_files: Any) -> FileSource:
    """Arrow IPC files (Feather 2), mapped into memory."""
    from scalops.engine.storage.ipc_format import IpcFormat

    return FileSource.open(IpcFormat(), path, columns, **of_files)


def read_csv(
    path: Paths,
    column_names: Sequence[str] | None = None,
    delimiter: str = ",",
    has_header: bool | None = None,
    column_types: Mapping[str, str] | None = None,
    columns: Sequence[str] | None = None,
    on_error: str = "raise",
    **of_files: Any,
) -> FileSource:
    """Delimited text in UTF-8: a path, a list of paths, a pattern or a folder.

    By default the first line is a header unless `column_names` are given; with neither the
    columns are called f0, f1, .... Types are found in the first MiB, `column_types` overrules
    them ({"f0": "float64"}). An empty field is null in a column of numbers, "" in one of strings.
    """
    from scalops.engine.storage.csv_format import CsvFormat

    form = CsvFormat.of_options(column_names, delimiter, has_header, column_types, on_error)
    return FileSource.open(form, path, columns, **of_files)


def read_tsv(path: Paths, **options: Any) -> FileSource:
    """Text delimited by tabs."""
    return read_csv(path, **{"delimiter": "\t", **options})


def read_json(
    path: Paths,
    column_types: Mapping[str, str] | None = None,
    columns: Sequence[str] | None = None,
    on_error: str = "raise",
    **of_files: Any,
) -> FileSource:
    """JSON objects, one on each line, in UTF-8.

    Columns and types are found in the first MiB; `column_types` overrules and adds some. A key
    that an object lacks is null there.
    """
    from scalops.engine.storage.json_format import JsonFormat

    return FileSource.open(JsonFormat.of_options(column_types, on_error), path, columns, **of_files)


def read_text(
    path: Paths, columns: Sequence[str] | None = None, on_error: str = "raise", **of_files: Any
) -> FileSource:
    """Lines of text in UTF-8 in the column `line`, without their ends."""
    from scalops.engine.storage.text_format import TextFormat

    return FileSource.open(TextFormat.of_options(on_error), path, columns, **of_files)


def read_libsvm(
    path: Paths,
    n_features: int | None = None,
    zero_based: bool = False,
    columns: Sequence[str] | None = None,
    on_error: str = "raise",
    **of_files: Any,
) -> FileSource:
    """Labels `y` and sparse vectors `x` in the format of libsvm and SVMlight."""
    from scalops.engine.storage.libsvm_format import LibsvmFormat

    form = LibsvmFormat.of_options(n_features, zero_based, on_error)
    return FileSource.open(form, path, columns, **of_files)


def read_vw(
    path: Paths,
    bits: int | None = None,
    n_features: int | None = None,
    constant: bool = False,
    columns: Sequence[str] | None = None,
    on_error: str = "raise",
    **of_files: Any,
) -> FileSource:
    """Labels, weights, tags and sparse vectors `x` in Vowpal Wabbit's text format."""
    from scalops.engine.storage.vw_format import VwFormat

    form = VwFormat.of_options(bits, n_features, constant, on_error)
    return FileSource.open(form, path, columns, **of_files)


READERS: Mapping[str, Callable[..., FileSource]] = {
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
    ".pq": read_parquet,
    ".ipc": read_ipc,
    ".arrow": read_ipc,
    ".feather": read_ipc,
    ".json": read_json,
    ".jsonl": read_json,
    ".ndjson": read_json,
    ".txt": read_text,
    ".libsvm": read_libsvm,
    ".svm": read_libsvm,
    ".svmlight": read_libsvm,
    ".vw": read_vw,
}
_BINARY = (read_parquet, read_ipc)


def reader_of(paths: Paths, filesystem: Any = None) -> Callable[..., FileSource]:
    """The reader that the suffix of the files asks for; text may be compressed.

    Raises: PlanError for an unknown suffix and for files of several formats.
    """
    found: dict[Callable[..., FileSource], str] = {}
    for name in _names(paths, filesystem):
        suffix = Path(name.lower().removesuffix(COMPRESSED)).suffix
        reader = READERS.get(suffix)
        if reader is None or (reader in _BINARY and name.lower().endswith(COMPRESSED)):
            raise PlanError(
                f"no reader for {without_secrets(name)}:"
                f" {Path(name).suffix or 'a name without suffix'!r} is not known",
                hint=f"known are {', '.join(READERS)}, those of text also with {COMPRESSED}",
            )
        found.setdefault(reader, name)
    if len(found) > 1:
        raise PlanError(
            f"files of several formats: {' and '.join(found.values())}",
            hint="name the files of one format by a pattern",
        )
    return next(iter(found))


def _names(paths: Paths, filesystem: Any) -> list[str]:
    """Names that tell the format: the path itself, or what a pattern or folder finds."""
    if isinstance(paths, (str, os.PathLike)):
        text = str(paths)
        is_known = Path(text.lower().removesuffix(COMPRESSED)).suffix in READERS
        if filesystem is not None or "://" in text:
            is_name = is_known  # another filesystem would have to be asked
        else:
            is_name = not os.path.isdir(text) and (is_known or not glob.has_magic(text))
        if is_name:
            return [text]
    known = tuple(suffix + end for suffix in READERS for end in ("", COMPRESSED))
    return [file.path for file in find_files(paths, known, filesystem)[0]]
