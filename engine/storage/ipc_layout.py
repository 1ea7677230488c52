"""Where the buffers of an Arrow file lie, from its FlatBuffers tables.

Arrow's own reader gives a batch as a whole, in memory or mapped; to read a range of its rows one
must know where each buffer is. https://arrow.apache.org/docs/format/Columnar.html
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from scalops.engine.columns import Array

_RECORD_BATCH = 3  # of the union of messages
_CONTINUES = b"\xff\xff\xff\xff"
_BLOCK = np.dtype([("at", "<i8"), ("header", "<i4"), ("padding", "<i4"), ("body", "<i8")])


@dataclass(frozen=True)
class Place:
    """Where a column, or one within it, stands in the lists of a batch: at `node` its length and
    nulls, from `buffer` on its buffers."""

    kind: pa.DataType
    node: int
    buffer: int
    children: tuple[Place, ...] = ()


@dataclass(frozen=True)
class Layout:
    """A batch. `nodes`: int64[columns, 2], length and nulls; `buffers`: int64[buffers, 2], where
    each begins in the file and its size."""

    rows: int
    compressed: bool
    nodes: Array
    buffers: Array


def batch_places(footer: bytes, size: int) -> list[tuple[int, int]]:
    """Of each batch where its header begins in a file of `size` bytes, and its length.

    Raises: OSError for a footer that is damaged.
    """
    with _damaged("footer"):
        blocks = _vector(footer, _at(footer, 0), 3, _BLOCK)
        found = [(int(b["at"]), int(b["header"])) for b in blocks]
        if any(at < 0 or length < 8 or at + length > size for at, length in found):
            raise ValueError
    return found


def is_little_endian(footer: bytes) -> bool:
    """Whether the numbers are as this machine has them; else they must be turned around."""
    with _damaged("footer"):
        place = _field(footer, _at(footer, 0), 1)
        place = _field(footer, _at(footer, place), 0) if place else 0
        return not place or footer[place] == 0


def layout_of(header: bytes, at: int, size: int) -> Layout:
    """Of the header of a batch, which begins at byte `at` of a file of `size` bytes.

    Raises: OSError for one that is damaged.
    """
    body = at + len(header)
    with _damaged("header of a batch"):
        flat = header[8:] if header[:4] == _CONTINUES else header[4:]
        message = _at(flat, 0)
        place = _field(flat, message, 1)
        if not place or flat[place] != _RECORD_BATCH:
            raise ValueError
        batch = _at(flat, _field(flat, message, 2))
        place = _field(flat, batch, 0)
        rows = struct.unpack_from("<q", flat, place)[0] if place else 0
        nodes = _vector(flat, batch, 1, np.dtype("<i8")).reshape(-1, 2)
        buffers = _vector(flat, batch, 2, np.dtype("<i8")).reshape(-1, 2)
        ends = buffers.sum(axis=1) + body
        if rows < 0 or (nodes < 0).any() or (buffers < 0).any() or (ends > size).any():
            raise ValueError
        buffers = buffers + np.array([body, 0])
    return Layout(rows, _field(flat, batch, 3) > 0, nodes, buffers)


@contextmanager
def _damaged(what: str) -> Iterator[None]:
    try:
        yield
    except (struct.error, ValueError, IndexError) as error:
        raise OSError(f"the {what} is damaged") from error


def _at(buffer: bytes, place: int) -> int:
    """The place of the table that an offset at `place` leads to."""
    return place + int(struct.unpack_from("<I", buffer, place)[0])


def _field(buffer: bytes, table: int, number: int) -> int:
    """Where a field of a table lies; 0 if the table has it not."""
    vtable = table - struct.unpack_from("<i", buffer, table)[0]
    if vtable < 0:
        raise ValueError
    if 4 + 2 * number >= struct.unpack_from("<H", buffer, vtable)[0]:
        return 0
    offset = int(struct.unpack_from("<H", buffer, vtable + 4 + 2 * number)[0])
    return table + offset if offset else 0


def _vector(buffer: bytes, table: int, number: int, kind: np.dtype[Any]) -> Array:
    """A field that holds structs of one kind, or pairs of numbers."""
    place = _field(buffer, table, number)
    if not place:
        return np.empty(0, kind)
    place = _at(buffer, place)
    count = int(struct.unpack_from("<I", buffer, place)[0])
    pair = 1 if kind.names else 2
    return np.frombuffer(buffer, kind, count * pair, place + 4) if count else np.empty(0, kind)


@dataclass(frozen=True)
class Places:
    """Of the columns of a file, by name, and how many nodes and buffers each batch has."""

    columns: dict[str, Place]
    nodes: int
    buffers: int

    def fit(self, layout: Layout) -> bool:
        """Whether a batch is as the schema says; there were other rules before version 5."""
        return len(layout.nodes) == self.nodes and len(layout.buffers) == self.buffers


def places_of(schema: pa.Schema) -> Places | None:
    """None where it takes the batch to tell how many buffers come before a column."""
    found: dict[str, Place] = {}
    node = buffer = 0
    for field in schema:
        place, node, buffer = _place(field.type, node, buffer)
        if buffer < 0:
            return None
        found[field.name] = place
    return Places(found, node, buffer)


def _place(kind: pa.DataType, node: int, buffer: int) -> tuple[Place, int, int]:
    """With the numbers of the node and of the buffer that follow; -1 if these cannot be told."""
    stored = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    own, inner = _buffers(stored)
    next_node, next_buffer = node + 1, buffer + own if own >= 0 else -1
    children = []
    for child in inner:
        if next_buffer < 0:
            break
        place, next_node, next_buffer = _place(child, next_node, next_buffer)
        children.append(place)
    return Place(kind, node, buffer, tuple(children)), next_node, next_buffer


def _buffers(kind: pa.DataType) -> tuple[int, list[pa.DataType]]:
    """How many buffers are the type's own (-1: it depends), and the types within it."""
    types = pa.types
    if types.is_null(kind):
        return 0, []
    if types.is_dictionary(kind) or types.is_primitive(kind) or types.is_boolean(kind):
        return 2, []
    if types.is_decimal(kind) or types.is_fixed_size_binary(kind):
        return 2, []
    if types.is_string(kind) or types.is_binary(kind):
        return 3, []
    if types.is_large_string(kind) or types.is_large_binary(kind):
        return 3, []
    if types.is_list(kind) or types.is_large_list(kind):
        return 2, [kind.value_type]
    if types.is_map(kind):
        return 2, [pa.struct([kind.key_field, kind.item_field])]
    if types.is_list_view(kind) or types.is_large_list_view(kind):
        return 3, [kind.value_type]
    if types.is_fixed_size_list(kind):
        return 1, [kind.value_type]
    if types.is_struct(kind):
        return 1, [kind.field(i).type for i in range(kind.num_fields)]
    return -1, []  # views, unions, run-end encoded
