"""Numbers in text files: tokens of a chunk as Arrow numbers, and single ones with their errors."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa

from scalops.engine.blocks import Array
from scalops.engine.storage.bad_records import Unreadable

_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?|inf(inity)?|nan)", re.I)
_SHOWN_BYTES = 40


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
