"""Where records come from: memory and files, in partitions read as blocks."""

from scalops.engine.storage.file_source import READERS, FileSource, read_csv, read_parquet
from scalops.engine.storage.memory_source import MemorySource
from scalops.engine.storage.partitions import Partition, ReadableSource

__all__ = [
    "READERS",
    "FileSource",
    "MemorySource",
    "Partition",
    "ReadableSource",
    "read_csv",
    "read_parquet",
]
