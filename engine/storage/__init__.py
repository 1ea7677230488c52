"""Where records come from: memory and files, in partitions read as blocks; and Arrow's forms."""

from scalops.engine.storage.arrow import block_to_batch, schema_from_arrow, schema_to_arrow
from scalops.engine.storage.arrow_streams import is_lazy, source_of_stream, unreadable_stream
from scalops.engine.storage.file_source import FileSource
from scalops.engine.storage.memory_source import MemorySource
from scalops.engine.storage.partitions import Partition, ReadableSource
from scalops.engine.storage.readers import (
    READERS,
    read_csv,
    read_ipc,
    read_json,
    read_libsvm,
    read_parquet,
    read_text,
    read_vw,
    reader_of,
)

__all__ = [
    "READERS",
    "FileSource",
    "MemorySource",
    "Partition",
    "ReadableSource",
    "block_to_batch",
    "is_lazy",
    "read_csv",
    "read_ipc",
    "read_json",
    "read_libsvm",
    "read_parquet",
    "read_text",
    "read_vw",
    "reader_of",
    "schema_from_arrow",
    "schema_to_arrow",
    "source_of_stream",
    "unreadable_stream",
]
