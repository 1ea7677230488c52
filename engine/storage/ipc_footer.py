"""The footer and the headers of an Arrow file, with errors that say what it is instead."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pyarrow as pa

from scalops.algebra.errors import DataError
from scalops.engine.storage.files import File, reading
from scalops.engine.storage.ipc_layout import batch_places, layout_of

_MAGIC = b"ARROW1"
_TRAILER_BYTES = 4 + len(_MAGIC)  # the footer's length and the magic bytes


def footer_of(file: File) -> bytes:
    """The footer as it stands in the file: schema and places of the batches."""
    with reading(file.path, "an Arrow file"), file.open() as stream:
        start = stream.read(len(_MAGIC))
        if start != _MAGIC:
            raise DataError(f"{file.path} is not an Arrow file", hint=_way_out(start))
        stream.seek(-min(file.size, _TRAILER_BYTES), os.SEEK_END)
        trailer = stream.read()
        if trailer[4:] != _MAGIC or file.size < 2 * _TRAILER_BYTES:
            raise DataError(
                f"{file.path} is an Arrow file without its end",
                hint="it was cut, or is still being written",
            )
        length = int.from_bytes(trailer[:4], "little")
        stream.seek(max(0, file.size - _TRAILER_BYTES - length))
        return stream.read(length)


def _way_out(start: bytes) -> str:
    if start[:4] == b"FEA1":
        return "it is of the first version of Feather: write it again with a later one"
    if start[:4] == b"\xff\xff\xff\xff":
        return "it is an Arrow stream: read it with pyarrow.ipc.open_stream and so.from_arrow"
    if start[:4] == b"PAR1":
        return "it is a Parquet file: use read_parquet"
    return "read_csv and read_text read text"


def check_sizes(schema: pa.Schema) -> None:
    """Raise OSError for arrays of a negative size, which Arrow takes from a damaged footer."""
    for field in schema:
        waiting = [field.type]
        while waiting:
            kind = waiting.pop()
            sizes = [kind.list_size] if pa.types.is_fixed_size_list(kind) else []
            if isinstance(kind, pa.BaseExtensionType):
                sizes += getattr(kind, "shape", [])
                waiting.append(kind.storage_type)
            if min(sizes, default=0) < 0:
                raise OSError(f"the footer is damaged: column {field.name!r} is of type {kind}")
            waiting += [kind.field(i).type for i in range(kind.num_fields)]


def headers_of(file: File, footer: bytes) -> Iterator[tuple[int, int, int, bool]]:
    """Of each batch where its header begins and its length, the rows, and whether it is
    compressed. The footer has not the rows, and Arrow would decompress the batch to tell.
    """
    with reading(file.path, "an Arrow file"), file.open() as stream:
        for at, length in batch_places(footer, file.size):
            stream.seek(at)
            layout = layout_of(stream.read(length), at, file.size)
            yield at, length, layout.rows, layout.compressed
