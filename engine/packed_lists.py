"""Lists of numbers taken record by record, as byte strings.

Arrow takes lists by the indices of all their items, byte strings by copying each whole: with 20
numbers of 32 bits a record the latter takes a quarter of the time, in random order and in table
order alike. So lists of numbers are seen as byte strings, without copying them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

Array = np.ndarray[Any, np.dtype[Any]]

_MOST = np.iinfo(np.int32).max


class PackedLists:
    """A column of lists, as byte strings `packed` of the same records."""

    def __init__(self, packed: pa.Array, kind: pa.DataType) -> None:
        self.packed, self.kind = packed, kind

    @classmethod
    def of(cls, column: pa.Array) -> PackedLists | None:
        """The column's lists; None for items of no fixed width, or if one is null."""
        kind = column.type
        if not is_list(column):
            return None
        width = _bytes_of(kind.value_type)
        if width is None or not len(column):
            return None
        wide = pa.types.is_large_list(kind)
        offsets = np.frombuffer(
            column.buffers()[1], np.int64 if wide else np.int32, len(column) + 1,
            column.offset * (8 if wide else 4),
        ).astype(np.int64)  # fmt: skip
        first, last = int(offsets[0]), int(offsets[-1])
        items = column.values.slice(first, last - first)
        if items.null_count:
            return None
        offsets = (offsets - first) * width
        data = items.buffers()[1]
        # Of no items there may be no buffer, or one that is nowhere, which Arrow refuses.
        data = data if data is not None and data.size else pa.py_buffer(b"")
        data = data.slice(items.offset * width, (last - first) * width)
        packed = pa.Array.from_buffers(
            pa.large_binary(), len(column), [_validity(column), pa.py_buffer(offsets), data]
        )
        return cls(packed, kind)

    def take(self, rows: pa.Array) -> pa.Array:
        """The lists of these numbers; null for a null."""
        return self._lists(self.packed.take(rows))

    def filter(self, mask: pa.Array) -> pa.Array:
        """The lists where the mask is true."""
        return self._lists(self.packed.filter(mask))

    def _lists(self, packed: pa.Array) -> pa.Array:
        item = self.kind.value_type
        width = _bytes_of(item)
        assert width is not None
        if not len(packed):
            return pa.array([], self.kind)
        buffers = packed.buffers()
        ends = np.frombuffer(buffers[1], np.int64, len(packed) + 1, packed.offset * 8)
        first, last = int(ends[0]), int(ends[-1])
        offsets = (ends - first) // width
        if pa.types.is_list(self.kind):
            if offsets[-1] > _MOST:
                raise pa.ArrowInvalid(f"{offsets[-1]} items in one column of lists")
            offsets = offsets.astype(np.int32)
        data = buffers[2].slice(first, last - first) if last > first else pa.py_buffer(b"")
        items = pa.Array.from_buffers(item, (last - first) // width, [None, data])
        bounds = [_validity(packed), pa.py_buffer(offsets)]
        return pa.Array.from_buffers(self.kind, len(packed), bounds, children=[items])


def is_list(column: pa.Array) -> bool:
    """Whether an Arrow array is one of lists."""
    return bool(pa.types.is_list(column.type) or pa.types.is_large_list(column.type))


def taken_lists(column: pa.Array, rows: Array) -> pa.Array:
    """The lists of these numbers, int64[...], in this order."""
    # Seeing all as byte strings is not worth it for few.
    packed = PackedLists.of(column) if 8 * len(rows) >= len(column) else None
    return (column if packed is None else packed).take(pa.array(rows))


def filtered_lists(column: pa.Array, mask: Array) -> pa.Array:
    """The lists for which `mask`, bool[rows], is true."""
    packed = PackedLists.of(column)
    return (column if packed is None else packed).filter(pa.array(mask))


def _bytes_of(item: pa.DataType) -> int | None:
    if not pa.types.is_primitive(item) or item.bit_width % 8:
        return None
    return int(item.bit_width) // 8


def _validity(column: pa.Array) -> pa.Buffer | None:
    """The bitmap of what is not null, from bit 0 on; None where nothing is null."""
    if not column.null_count:
        return None
    return pa.array(column.is_valid().to_numpy(zero_copy_only=False)).buffers()[1]
