"""Arguments of an opaque function over a block: columns until the function is called."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from scalops.engine.columns import Array, ColumnData, SparseColumn, sliced
from scalops.engine.kernels.sparse import vectors_of
from scalops.engine.opaque.calls import Text
from scalops.engine.opaque.packed import pack
from scalops.engine.opaque.rows import make_nested_rows
from scalops.engine.opaque.text import Items


class Column(NamedTuple):
    """A value for each record; `mask` tells which are not null."""

    values: ColumnData
    mask: Array | None


class Uniform(NamedTuple):
    """One value for all records, as an opaque function receives it."""

    value: Any


@dataclass(frozen=True)
class Argument:
    """One argument: a record's columns, or, without names, one bare value."""

    names: tuple[str, ...] | None
    columns: tuple[Column | Uniform, ...]

    def slice(self, start: int, stop: int) -> Argument:
        """The argument for the records start..stop-1."""
        return Argument(self.names, tuple(_sliced(c, start, stop) for c in self.columns))

    def records(self, rows: int, text: bool = True) -> list[Any]:
        """The argument for each record; strings have `.str` if `text` says so."""
        items = [
            [_spelt(c.value, text)] * rows
            if isinstance(c, Uniform)
            else rows_of(c.values, c.mask, text)
            for c in self.columns
        ]
        return items[0] if self.names is None else make_nested_rows(self.names, items, rows)

    def arrays(self, rows: int) -> Any:
        """The argument for all records at once: a record of arrays, or an array."""
        items = [batch_of(c, rows) for c in self.columns]
        if self.names is None:
            return items[0]
        return make_nested_rows(self.names, [[i] for i in items], 1)[0]


def column(values: ColumnData, mask: Array | None) -> Column:
    """A column whose arrays are contiguous: a function may add up what it finds in them."""
    if isinstance(values, np.ndarray):
        values = np.ascontiguousarray(values)
    return Column(values, mask)


def _sliced(item: Column | Uniform, start: int, stop: int) -> Column | Uniform:
    if isinstance(item, Uniform):
        return item
    values, mask = item
    return Column(sliced(values, start, stop), None if mask is None else mask[start:stop])


# Record by record.


def rows_of(values: ColumnData, valid: Array | None, text: bool = True) -> list[Any]:
    """A column's values one by one, as an opaque function receives them."""
    if isinstance(values, np.ndarray):
        items = _items(values)
    elif isinstance(values, SparseColumn):
        items = vectors_of(values)
    else:
        items = _arrow_items(values, text)
    if valid is None or valid.all():
        return items
    held = np.empty(len(items), object)
    held[:] = items if values_are_scalar(values) else _boxed(items)
    held[~valid] = None
    return list(held)


def values_are_scalar(values: ColumnData) -> bool:
    """Whether NumPy would not look into the values of this column."""
    return isinstance(values, np.ndarray) and values.ndim == 1


def _boxed(items: list[Any]) -> Array:
    box = np.empty(len(items), object)
    for i, item in enumerate(items):
        box[i] = item
    return box


def _items(values: Array) -> list[Any]:
    if values.ndim > 1:
        values = values.view()
        values.setflags(write=False)  # and so are the views of its records
        return list(values)
    if values.dtype.kind in "Mm":  # Python's own times count microseconds
        values = values.astype(f"{values.dtype.kind}8[us]")
    items: list[Any] = values.tolist()
    return items


def _spelt(value: Any, text: bool) -> Any:
    return str(value) if isinstance(value, Text) and not text else value


_SHARED = 4  # values that are this many times fewer than the records are made once each


def _strings(values: pa.Array, text: bool) -> list[Any]:
    encoded = values.dictionary_encode()
    if len(encoded.dictionary) * _SHARED > len(values):
        items: list[Any] = values.to_numpy(zero_copy_only=False).tolist()
        return [v if v is None else Text(v) for v in items] if text else items
    known = encoded.dictionary.to_numpy(zero_copy_only=False).tolist()
    distinct = np.empty(len(known) + 1, object)
    distinct[:-1] = [Text(v) for v in known] if text else known
    numbers = encoded.indices
    if numbers.null_count:
        numbers = numbers.fill_null(len(known))
    made: list[Any] = distinct[numbers.to_numpy(zero_copy_only=False)].tolist()
    return made


def _arrow_items(values: pa.Array, text: bool) -> list[Any]:
    kind = values.type
    items: list[Any]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _strings(values, text)
    if pa.types.is_list(kind):
        offsets = values.offsets.to_numpy()
        first = int(offsets[0])
        inner = _arrow_items(values.values[first : int(offsets[-1])], text)
        at = (offsets - first).tolist()
        items = [inner[a:b] for a, b in pairwise(at)]
        if text:
            items = list(map(Items, items))
    elif pa.types.is_fixed_size_list(kind):
        items = _items(np.asarray(values.flatten()).reshape(-1, kind.list_size))
        if values.null_count:  # flatten leaves them out
            known = iter(items)
            items = [next(known) if ok else None for ok in values.is_valid().to_pylist()]
        return items
    elif values.null_count or pa.types.is_temporal(kind):
        items = values.to_pylist()
        return items
    else:
        items = values.to_numpy(zero_copy_only=False).tolist()
        return items
    if values.null_count:
        valid = values.is_valid().to_pylist()
        items = [v if ok else None for v, ok in zip(items, valid, strict=True)]
    return items


# Several records at once.


def batch_of(item: Column | Uniform, rows: int) -> Any:
    """A column as a function of several records receives it.

    Numbers, bools and times are arrays [rows, *shape], masked where there are nulls; strings
    and lists arrays of Python objects, None for null; sparse vectors a scipy.sparse.csr_array.
    """
    if isinstance(item, Uniform):
        one = np.asarray(item.value)
        return _read_only(np.broadcast_to(one, (rows, *one.shape)))
    values, mask = item
    if isinstance(values, np.ndarray):
        values = _read_only(values)
        if mask is None or mask.all():
            return values
        missing = ~mask
        if values.ndim > 1:
            missing = np.broadcast_to(missing.reshape(-1, *[1] * (values.ndim - 1)), values.shape)
        return np.ma.MaskedArray(values, missing)
    if isinstance(values, SparseColumn):
        from scipy import sparse

        return sparse.csr_array(
            (values.values, values.indices, values.indptr), shape=(rows, values.dimension)
        )
    return _read_only(_boxed(rows_of(values, mask, text=False)))


def _read_only(values: Array) -> Array:
    view = values.view()
    view.setflags(write=False)
    return view


# Contents.


def digest(arguments: Sequence[Argument]) -> str:
    """Tells contents apart, names included."""
    found = hashlib.sha256()
    for argument in arguments:
        found.update(repr(argument.names).encode())
        for item in argument.columns:
            if isinstance(item, Uniform):
                found.update(pack(item.value))
                continue
            if item.mask is not None:
                found.update(np.ascontiguousarray(item.mask).data)
            for part in _parts(item.values):
                found.update(repr((part.dtype.str, part.shape)).encode())
                found.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _parts(values: ColumnData) -> list[Array]:
    if isinstance(values, np.ndarray):
        return [values]
    if isinstance(values, SparseColumn):
        return [values.indptr, values.indices, values.values]
    return [np.asarray(values.is_valid()), *_arrow_parts(values)]


def _arrow_parts(values: pa.Array) -> list[Array]:
    """What a slice holds, wherever in its buffers it begins."""
    kind = values.type
    if pa.types.is_fixed_size_list(kind):
        return _parts(values.flatten())
    if not (pa.types.is_string(kind) or pa.types.is_list(kind)):
        return [np.asarray(values.fill_null(0) if values.null_count else values)]
    if pa.types.is_list(kind):
        offsets = values.offsets.to_numpy()
        inner = _parts(values.values[int(offsets[0]) : int(offsets[-1])])
        return [offsets - offsets[0], *inner]
    _, ends, data = values.buffers()
    if len(values) == 0 or ends is None or data is None:
        return []
    offsets = np.frombuffer(ends, np.int32)[values.offset : values.offset + len(values) + 1]
    texts = np.frombuffer(data, np.uint8)[int(offsets[0]) : int(offsets[-1])]
    return [offsets - offsets[0], texts]


def concatenated(parts: Sequence[Column], kind: Any) -> Column:
    """Columns of consecutive records as one; at least one."""
    from scalops.engine import columns

    if len(parts) == 1:
        return parts[0]
    mask = None
    if any(p.mask is not None for p in parts):
        masks = [np.ones(len(p.values), bool) if p.mask is None else p.mask for p in parts]
        mask = np.concatenate(masks)
    return Column(columns.concatenated([p.values for p in parts], kind), mask)
