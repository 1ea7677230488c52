"""Arrow streams as sources: what is in memory stays there, what is produced batch by batch is
kept once, in memory where it is small, else in a spill file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from scalops.algebra.errors import DataError, ScalopsError, text_of
from scalops.algebra.schema import Schema
from scalops.engine.blocks import Block
from scalops.engine.storage.arrow import block_of, schema_from_arrow, to_column
from scalops.engine.storage.arrow_records import flat_schema, flattened
from scalops.engine.storage.memory_source import MemorySource
from scalops.engine.storage.spooled_source import SpooledSource

# A numeric decision: what makes a plan's numbers is not the same over memory and over a file.
MOST_IN_MEMORY = 16 << 20  # bytes of a stream

_TRACEBACK = ". Detail: Python exception"  # what Arrow adds of a producer in Python
# The last line of it, for what ends programs. Arrow's C streams keep the text alone.
_ENDING = re.compile(r"(KeyboardInterrupt|SystemExit)(?:: (.*))?")


def is_lazy(data: Any) -> bool:
    """Whether its batches may be made one by one while they are read, so that not all are there.

    Tables, batches and frames of pyarrow, Polars and pandas are in memory already.
    """
    if hasattr(data, "__dataframe__") or hasattr(data, "__arrow_c_array__"):
        return False
    kind = type(data)
    return (kind.__module__.partition(".")[0], kind.__name__) != ("polars", "DataFrame")


def source_of_stream(data: Any, folder: str | None = None) -> MemorySource | SpooledSource:
    """The records of a lazy stream, read now: more than 16 MiB go to a spill file in `folder`.

    Raises: SchemaError for types that no column may have, DataError where the producer fails,
    SpillError where the disk is full.
    """
    name = type(data).__name__
    # One of Arrow's raises what its producer does; through a C stream, all becomes text.
    reader = (
        data
        if isinstance(data, pa.RecordBatchReader)
        else _told(name, lambda: pa.RecordBatchReader.from_stream(data))
    )
    flat = flat_schema(reader.schema, "memory")
    schema = schema_from_arrow(flat, "memory")
    batches = _batches(reader, name)
    first: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        first.append(batch)
        size += batch.nbytes
        if size > MOST_IN_MEMORY:
            break
    else:
        return MemorySource.of_arrow(pa.Table.from_batches(first, reader.schema))
    return SpooledSource.of_blocks(
        _blocks(_drained(first, batches), schema), schema, f"stream of {name}", folder
    )


def _drained(first: list[pa.RecordBatch], rest: Iterator[pa.RecordBatch]) -> Iterator[Any]:
    """All batches, of which none is held when the next one is made."""
    first.reverse()
    while first:
        yield first.pop()
    yield from rest


def _batches(reader: pa.RecordBatchReader, name: str) -> Iterator[pa.RecordBatch]:
    number = 0
    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return
        except ScalopsError:
            raise
        except Exception as error:
            raise unreadable_stream(name, error, number) from error
        yield batch
        number += 1


def _told(name: str, make: Any) -> Any:
    try:
        return make()
    except ScalopsError:
        raise
    except Exception as error:
        raise unreadable_stream(name, error) from error


def unreadable_stream(name: str, error: Exception, batches: int = 0) -> BaseException:
    """What to raise for a stream of a `name` that fails after some batches.

    A DataError; but a KeyboardInterrupt or SystemExit of a producer in Python is one again.
    """
    _, hidden, detail = text_of(error).partition(_TRACEBACK)
    ending = _ENDING.fullmatch(detail.strip().rpartition("\n")[2]) if hidden else None
    if ending is not None:
        return KeyboardInterrupt() if ending[1] == "KeyboardInterrupt" else _exit(ending[2])
    where = f" after {batches} batch{'es' * (batches > 1)}" if batches else ""
    return DataError(
        f"the Arrow stream of a {name} cannot be read{where}: {type(error).__name__}:"
        f" {text_of(error).partition(_TRACEBACK)[0]}"
    )


def _exit(text: str | None) -> SystemExit:
    """What `sys.exit` raises for a code that has become text."""
    return SystemExit(int(text) if text and re.fullmatch(r"-?\d+", text) else text)


def _blocks(batches: Iterator[pa.RecordBatch], schema: Schema) -> Iterator[Block]:
    for batch in batches:
        flat = flattened(batch)
        yield block_of(
            {name: to_column(flat.column(name), kind, f"column {name!r}") for name, kind in schema},
            len(batch),
        )
