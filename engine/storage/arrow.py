"""Arrow at the edges: types, columns and batches, to blocks and back, copied only where needed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalops.algebra.dtypes import ArrayType, ListType, SparseType
from scalops.algebra.errors import DataError
from scalops.algebra.schema import Schema
from scalops.engine.block_memory import MEMORY
from scalops.engine.blocks import Array, Block, ColumnData
from scalops.engine.columns import SparseColumn, arrow_type
from scalops.engine.storage.arrow_nested import (
    lists_to_arrow,
    plain_lists,
    sparse_to_arrow,
    to_sparse,
)
from scalops.engine.storage.arrow_records import nested_arrays
from scalops.engine.storage.arrow_types import (
    schema_from_arrow,
    schema_to_arrow,
    tensor_axes,
    type_from_arrow,
    type_to_arrow,
)

__all__ = [
    "block_of",
    "block_to_batch",
    "blocks_to_table",
    "schema_from_arrow",
    "schema_to_arrow",
    "to_arrow",
    "to_column",
    "type_from_arrow",
    "type_to_arrow",
]


def to_column(
    data: pa.Array | pa.ChunkedArray | Sequence[pa.Array], kind: ArrayType, where: str
) -> tuple[ColumnData, Array | None]:
    """A block's column (see `columns.py`) and valid bool[rows] or None.

    Shares memory where one chunk without nulls allows it (never for bools, which Arrow packs).
    At a null the value is 0; strings and lists keep their nulls. Chunks may differ in encoding.

    Raises: DataError for a null in a column of fixed-shape arrays or of sparse vectors; `where`
    names the column.
    """
    chunks = [data] if isinstance(data, pa.Array) else getattr(data, "chunks", data)
    if isinstance(kind, SparseType):
        return to_sparse(chunks, kind, where), None
    if kind.is_arrow:
        return _joined([_plain(chunk, kind, where) for chunk in chunks], kind, where)
    chunks = [_decoded(chunk, where) for chunk in chunks]
    parts = [_values(chunk, kind, where) for chunk in chunks]
    masks = [_mask(chunk) if chunk.null_count else None for chunk in chunks]
    valid: Array | None = None
    if any(mask is not None for mask in masks):
        whole = (
            np.ones(len(chunk), bool) if mask is None else mask
            for chunk, mask in zip(chunks, masks, strict=True)
        )
        valid = np.concatenate(list(whole))
    if len(parts) == 1:
        return parts[0], valid
    return _in_one(parts, kind), valid


def _in_one(parts: Sequence[Array], kind: ArrayType) -> Array:
    """The numbers of consecutive records, in memory that is used again."""
    rows = sum(map(len, parts))
    if not all(part.flags.c_contiguous for part in parts):  # a tensor with its axes exchanged
        return np.concatenate([np.empty((0, *kind.shape), kind.numpy), *parts])
    made = MEMORY.take(rows * kind.size * kind.numpy.itemsize).view(kind.numpy)
    whole: Array = made.reshape(rows, *kind.shape)
    return np.concatenate(parts, out=whole) if rows else whole


def _plain(chunk: pa.Array, kind: ArrayType, where: str) -> pa.Array:
    if isinstance(kind, ListType):
        return plain_lists(chunk, kind, where, to_column)
    try:
        return _plain_string(chunk)
    except pa.ArrowIndexError as error:
        raise _damaged_dictionary(where) from error
    except pa.ArrowInvalid as error:
        raise _too_much_text(where) from error


def _joined(parts: list[pa.Array], kind: ArrayType, where: str) -> tuple[pa.Array, Array | None]:
    try:
        empty = pa.array([], arrow_type(kind))
        whole = parts[0] if len(parts) == 1 else pa.concat_arrays([empty, *parts])
    except pa.ArrowInvalid as error:
        raise _too_much_text(where) from error
    return whole, _mask(whole) if whole.null_count else None


def _too_much_text(where: str) -> DataError:
    return DataError(
        f"{where} has more than 2 GiB of text in one block of records",
        hint="split the texts into shorter records",
    )


def _plain_string(chunk: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(chunk.type):
        texts = _plain_string(chunk.dictionary)
        chunk = pa.DictionaryArray.from_arrays(chunk.indices, texts).dictionary_decode()
    return chunk if chunk.type == pa.string() else chunk.cast(pa.string())


def _decoded(chunk: pa.Array, where: str) -> pa.Array:
    """Without a dictionary, whose values may hold nulls too."""
    if not pa.types.is_dictionary(chunk.type):
        return chunk
    try:
        return chunk.dictionary_decode()
    except pa.ArrowIndexError as error:
        raise _damaged_dictionary(where) from error


def _damaged_dictionary(where: str) -> DataError:
    return DataError(
        f"{where} has an index outside of its dictionary", hint="the data are damaged: write again"
    )


def _mask(chunk: pa.Array) -> Array:
    mask: Array = chunk.is_valid().to_numpy(zero_copy_only=False)
    return mask


def _values(chunk: pa.Array, kind: ArrayType, where: str) -> Array:
    if isinstance(chunk, pa.ExtensionArray):
        axes = tensor_axes(chunk.type)
        stored = kind.with_shape(*(chunk.type.shape))
        values = _values(chunk.storage, stored, where)
        return values.transpose(0, *(axis + 1 for axis in axes))
    if kind.shape:
        rows = len(chunk)
        while pa.types.is_fixed_size_list(chunk.type):
            _refuse_nulls(chunk, where)
            size = chunk.type.list_size
            chunk = chunk.values.slice(chunk.offset * size, len(chunk) * size)
        _refuse_nulls(chunk, where)
        return _scalars(chunk, kind.numpy, where).reshape(rows, *kind.shape)
    return _scalars(chunk, kind.numpy, where)


def _refuse_nulls(chunk: pa.Array, where: str) -> None:
    if chunk.null_count:
        raise DataError(
            f"{where} holds a null; fixed-shape arrays refuse nulls",
            hint="fill the nulls or drop these records first",
        )


def _scalars(chunk: pa.Array, dtype: np.dtype[Any], where: str) -> Array:
    if len(chunk) == 0:
        return np.empty(0, dtype)
    if dtype == np.bool_:
        plain = pc.fill_null(chunk, False) if chunk.null_count else chunk
        bools: Array = plain.to_numpy(zero_copy_only=False)
        return bools
    if dtype.kind == "M":
        chunk = _in_unit(chunk, np.datetime_data(dtype)[0], where)
    # The buffer itself: to_numpy would turn integers with nulls into floats.
    whole = np.frombuffer(chunk.buffers()[1], dtype, chunk.offset + len(chunk))
    values: Array = whole[chunk.offset :]
    if chunk.null_count:
        values = np.where(_mask(chunk), values, np.zeros((), dtype))
    return values


def _in_unit(chunk: pa.Array, unit: str, where: str) -> pa.Array:
    """Dates and times as timestamps of this unit: Parquet has no seconds."""
    if not pa.types.is_date(chunk.type) and chunk.type.unit == unit:
        return chunk
    try:
        return chunk.cast(pa.timestamp(unit))
    except pa.ArrowInvalid as error:  # a date64 has milliseconds, which should make whole days
        raise DataError(
            f"{where} cannot be read as timestamp[{unit}]: {error}",
            hint='cast it to pa.timestamp("ms") first',
        ) from error


def to_arrow(values: ColumnData, valid: Array | None, kind: ArrayType) -> pa.Array:
    """The Arrow array of a column; null where `valid` is false, and for NaT scalars."""
    if isinstance(values, SparseColumn):
        return sparse_to_arrow(values, valid)
    target = type_to_arrow(kind)
    if kind.is_arrow:
        made = values if isinstance(values, pa.Array) else pa.array(values, arrow_type(kind))
        if valid is not None:
            made = pc.if_else(pa.array(valid), made, pa.scalar(None, made.type))
        return lists_to_arrow(made, kind) if isinstance(kind, ListType) else _plain_string(made)
    array = np.asarray(values, kind.numpy)
    if not kind.shape:
        return pa.array(array, target, mask=None if valid is None else ~valid)
    flat = np.ascontiguousarray(array).reshape(-1)
    bitmap = None if valid is None else pa.array(valid).buffers()[1]
    stored = pa.list_(pa.from_numpy_dtype(kind.numpy), kind.size)
    # from_buffers, because it is told the length: rows of no elements have one too.
    lists = pa.Array.from_buffers(stored, len(array), [bitmap], children=[_flat_to_arrow(flat)])
    return lists if len(kind.shape) == 1 else pa.ExtensionArray.from_storage(target, lists)


def _flat_to_arrow(flat: Array) -> pa.Array:
    kind = pa.from_numpy_dtype(flat.dtype)
    if flat.dtype == np.bool_:
        return pa.array(flat, kind)
    # Not pa.array: it would make a null of NaT, which an array of fixed shape may hold.
    return pa.Array.from_buffers(kind, len(flat), [None, pa.py_buffer(flat)])


def blocks_to_table(blocks: Iterable[Block], schema: Schema) -> pa.Table:
    """The blocks' columns of `schema`, in its order, each block one chunk; see `block_to_batch`."""
    made = schema_to_arrow(schema)
    return pa.Table.from_batches([_to_batch(b, schema, made) for b in blocks], made)


def block_to_batch(block: Block, schema: Schema) -> pa.RecordBatch:
    """The block's columns of `schema`, in its order; one that holds records is a struct."""
    return _to_batch(block, schema, schema_to_arrow(schema))


def _to_batch(block: Block, schema: Schema, made: pa.Schema) -> pa.RecordBatch:
    arrays = [to_arrow(block.columns[name], block.valid.get(name), kind) for name, kind in schema]
    if schema.columns != schema.names:
        arrays = nested_arrays(schema.names, arrays, list(made))
    return pa.RecordBatch.from_arrays(arrays, schema=made)


def block_of(columns: dict[str, tuple[ColumnData, Array | None]], rows: int) -> Block:
    """A block of what `to_column` gave."""
    return Block(
        rows,
        {name: values for name, (values, _) in columns.items()},
        {name: valid for name, (_, valid) in columns.items() if valid is not None},
    )
