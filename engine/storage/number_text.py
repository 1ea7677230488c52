"""Numbers in text files: tokens of a part as Arrow numbers, and single ones with their errors."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from scalops.engine.blocks import Array
from scalops.engine.storage.bad_records import Unreadable

_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|inf(inity)?|nan)", re.I)
_SHOWN_BYTES = 40
_CACHED_BYTES = 1 << 19  # of text that is taken apart at once: it stays in the processor's caches


def cached_parts(data: bytes) -> Iterator[bytes]:
    """The text in parts of whole lines that stay in the processor's caches."""
    start = 0
    while start < len(data):
        stop = data.find(b"\n", min(start + _CACHED_BYTES, len(data))) + 1 or len(data)
        yield data[start:stop]
        start = stop


def token_texts(data: bytes | bytearray, lengths: Array, separators: bytes) -> pa.Array:
    """The tokens of these lengths that lie between separators, as strings of any bytes."""
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    text = data.translate(None, separators)
    return pa.StringArray.from_buffers(len(lengths), pa.py_buffer(offsets), pa.py_buffer(text))


def cast_tokens(texts: pa.Array, which: Array, kind: pa.DataType) -> Array:
    """The chosen tokens as numbers. Raises: pa.ArrowInvalid if one of them is none."""
    numbers: Array = texts.filter(pa.array(which)).cast(kind).to_numpy()
    return numbers if numbers.flags.writeable else numbers.copy()


def number_of(text: bytes, what: str) -> float:
    """The number that a text is. Raises: Unreadable, which calls it `what`."""
    if not _NUMBER.fullmatch(text):
        raise Unreadable(f": the {what} is no number")
    return float(text)


def shown(text: bytes) -> str:
    """A token in quotes, cut where it is long."""
    found = text[:_SHOWN_BYTES].decode("utf-8", "backslashreplace")
    return repr(found + ("..." if len(text) > _SHOWN_BYTES else ""))
