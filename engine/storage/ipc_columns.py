"""Rows of an uncompressed batch in an Arrow file, read buffer by buffer into memory of our own.

Only what belongs to the wanted rows is read, at most seven rows more: bits begin at whole bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pyarrow as pa

from scalops.algebra.schema import FIELD
from scalops.engine.block_memory import MEMORY
from scalops.engine.columns import Array
from scalops.engine.storage.arrow_types import tensor_axes
from scalops.engine.storage.ipc_layout import Layout, Place
from scalops.engine.storage.read_ahead import RangeReader

CHUNK_BYTES = 256 << 10  # of a buffer, read at once where a block needs less of it
CHUNKS_BYTES = 16 << 20  # of all buffers of a batch together

Read = Callable[[int, int, int], Array]  # (buffer, start, stop), in bytes within the buffer


def is_ranged(place: Place) -> bool:
    """Whether rows of a column can be read without all of it: not if it has a dictionary, or
    items that lie anywhere."""
    types = pa.types
    kind = _stored(place.kind)
    if types.is_boolean(kind) or _width(kind) or _offsets(kind) is not None:
        return all(map(is_ranged, place.children))
    inner = types.is_fixed_size_list(kind) or types.is_struct(kind)
    return bool(inner) and all(map(is_ranged, place.children))


def only(place: Place, name: str, wanted: Collection[str]) -> Place:
    """The column without those of its fields that none of the `wanted` names needs."""
    if not pa.types.is_struct(place.kind):
        return place
    kept = [
        (place.kind.field(i), only(child, inner, wanted))
        for i, child in enumerate(place.children)
        if (inner := name + FIELD + place.kind.field(i).name) in wanted
        or any(n.startswith(inner + FIELD) for n in wanted)
    ]
    kind = pa.struct([field.with_type(child.kind) for field, child in kept])
    return replace(place, kind=kind, children=tuple(child for _, child in kept))


@dataclass(frozen=True)
class Numbers:
    """Numbers without nulls, one or an array of fixed shape in each row, as they lie in a file."""

    buffer: int
    row_bytes: int


def numbers_of(place: Place, layout: Layout) -> Numbers | None:
    """Where those of a column lie in this batch; None for other columns."""
    items, kind = 1, place.kind
    while True:
        if layout.nodes[place.node, 1]:
            return None
        if isinstance(kind, pa.FixedShapeTensorType):
            if tensor_axes(kind) != list(range(len(kind.shape))):
                return None
            kind = kind.storage_type
        if not pa.types.is_fixed_size_list(kind):
            break
        items *= kind.list_size
        (place,) = place.children
        kind = place.kind
    width = 0 if pa.types.is_date(kind) else _width(kind)  # dates are converted to timestamps
    return Numbers(place.buffer + 1, width * items) if width and items else None


class BatchReader:
    """The buffers of one batch; small parts of a buffer are read ahead, and kept."""

    def __init__(self, file: RangeReader, layout: Layout) -> None:
        self.layout = layout
        self._file = file
        self._chunks: dict[int, tuple[int, Array]] = {}
        share = CHUNKS_BYTES // max(1, len(layout.buffers))
        self._chunk_bytes = min(CHUNK_BYTES, share)

    def fill(self, into: Array, buffer: int, start: int) -> None:
        """Read `into`, uint8[n], from byte `start` of a buffer on. Raises: EOFError, OSError."""
        at, size = (int(n) for n in self.layout.buffers[buffer])
        stop = start + len(into)
        if stop > size:
            raise OSError(f"a buffer has {size} bytes where its column needs {stop}")
        if len(into) >= self._chunk_bytes:
            self._file.fill(into, at + start, size - stop)
            return
        begin, chunk = self._chunks.get(buffer, (0, into[:0]))
        if not begin <= start <= stop <= begin + len(chunk):
            begin, chunk = start, np.empty(min(self._chunk_bytes, size - start), np.uint8)
            self._file.fill(chunk, at + start)
            self._chunks[buffer] = begin, chunk
        into[:] = chunk[start - begin : stop - begin]

    def _read(self, buffer: int, start: int, stop: int) -> Array:
        into = MEMORY.take(stop - start)
        self.fill(into, buffer, start)
        return into

    def array(self, place: Place, first: int, last: int) -> pa.Array:
        """The rows first..last-1 of a column for which `is_ranged`.

        Raises: EOFError and OSError for a file that is cut or cannot be read, Arrow's errors for
        what is damaged.
        """
        length, nulls = (int(n) for n in self.layout.nodes[place.node])
        if not 0 <= first <= last <= length:
            raise OSError(f"a column has {length} values where {last} are needed")
        if isinstance(place.kind, pa.BaseExtensionType):
            stored = replace(place, kind=place.kind.storage_type)
            return pa.ExtensionArray.from_storage(place.kind, self.array(stored, first, last))
        base = first - first % 8
        bits = self._read(place.buffer, base // 8, -(-last // 8)) if nulls else None
        children: list[pa.Array] | None = None
        own: list[Array] = []
        kind = place.kind
        offset_kind = _offsets(kind)
        if pa.types.is_struct(kind):
            children = [self.array(child, base, last) for child in place.children]
        elif pa.types.is_fixed_size_list(kind):
            bounds = base * kind.list_size, last * kind.list_size
            children = [self.array(place.children[0], *bounds)]
        elif pa.types.is_boolean(kind):
            own = [self._read(place.buffer + 1, base // 8, -(-last // 8))]
        elif offset_kind is None:
            width = _width(kind)
            own = [self._read(place.buffer + 1, base * width, last * width)]
        else:
            starts = self._starts(place.buffer + 1, offset_kind, base, last)
            begin, end = int(starts[0]), int(starts[-1])
            if not 0 <= begin <= end:
                raise OSError("the offsets of a column are damaged")
            own = [starts - starts[0]]
            if place.children:
                children = [self.array(place.children[0], begin, end)]
            else:
                own.append(self._read(place.buffer + 2, begin, end))
        buffers = [None if bits is None else pa.py_buffer(bits), *map(pa.py_buffer, own)]
        made = pa.Array.from_buffers(
            kind, last - first, buffers, -1 if nulls else 0, first - base, children
        )
        least = nulls if len(made) == length else 0
        if nulls and not least <= made.null_count <= nulls:
            raise OSError(f"a column is told to have {nulls} nulls, and has others")
        return made

    def _starts(self, buffer: int, kind: np.dtype[Any], base: int, last: int) -> Array:
        """Where the values of the rows base..last-1 begin, and the end of the last one.

        A column of no rows may have no offsets.
        """
        if base == last:
            return np.zeros(1, kind)
        width = kind.itemsize
        return self._read(buffer, base * width, (last + 1) * width).view(kind)


def _stored(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _width(kind: pa.DataType) -> int:
    """Bytes of a number, or a time; 0 for other types."""
    types = pa.types
    plain = types.is_integer(kind) or types.is_floating(kind) or types.is_temporal(kind)
    return cast(int, kind.bit_width // 8) if plain else 0


def _offsets(kind: pa.DataType) -> np.dtype[Any] | None:
    """The type of the offsets of strings and lists."""
    types = pa.types
    if types.is_string(kind) or types.is_list(kind):
        return np.dtype(np.int32)
    if types.is_large_string(kind) or types.is_large_list(kind):
        return np.dtype(np.int64)
    return None
