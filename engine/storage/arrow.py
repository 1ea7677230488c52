"""Arrow at the edges: types, columns and batches, to blocks and back, copied only where needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalops.algebra.dtypes import STRING, ArrayType
from scalops.algebra.errors import DataError, SchemaError
from scalops.algebra.schema import Schema
from scalops.engine.blocks import Array, Block, ColumnData

_UTC = frozenset({"utc", "etc/utc", "z", "+00:00", "etc/universal", "universal", "zulu"})
_NUMBERS = {
    pa.bool_(): "bool",
    pa.float16(): "float16",
    pa.float32(): "float32",
    pa.float64(): "float64",
    **{
        getattr(pa, name)(): name
        for bits in (8, 16, 32, 64)
        for name in (f"int{bits}", f"uint{bits}")
    },
}


def type_from_arrow(kind: pa.DataType) -> ArrayType | None:
    """Our type of an Arrow type; None where there is none yet.

    A timestamp in UTC loses its zone, one in another zone has no type here.
    """
    if kind in _NUMBERS:
        return ArrayType(_NUMBERS[kind])
    if _is_string(kind) or (pa.types.is_dictionary(kind) and _is_string(kind.value_type)):
        return ArrayType(STRING)
    if pa.types.is_timestamp(kind):
        utc = kind.tz is None or kind.tz.lower() in _UTC
        return ArrayType(f"timestamp[{kind.unit}]") if utc else None
    if pa.types.is_duration(kind):
        return ArrayType(f"duration[{kind.unit}]")
    if pa.types.is_fixed_size_list(kind):
        return _array_of(kind.value_type, (kind.list_size,))
    if isinstance(kind, pa.FixedShapeTensorType):
        return _array_of(kind.value_type, tuple(kind.shape[axis] for axis in _axes(kind)))
    return None


def _array_of(value_type: pa.DataType, shape: tuple[int, ...]) -> ArrayType | None:
    item = type_from_arrow(value_type)
    if item is None or item.is_string:
        return None
    return item.with_shape(*shape, *item.shape)


def _is_string(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _axes(kind: Any) -> list[int]:
    """A tensor's physical axes in logical order."""
    return list(kind.permutation or range(len(kind.shape)))


def schema_from_arrow(schema: pa.Schema, where: str) -> Schema:
    """The columns of an Arrow schema.

    Raises: SchemaError for a type that no column may have yet, or a name that occurs twice;
    `where` says what has the schema.
    """
    fields: dict[str, ArrayType] = {}
    for field in schema:
        kind = type_from_arrow(field.type)
        if kind is None:
            raise SchemaError(
                f"{where}: column {field.name!r} has the Arrow type {field.type}, "
                "which is not supported yet",
                hint=_way_out(field.type),
            )
        if field.name in fields:
            raise SchemaError(f"{where} has two columns {field.name!r}", hint="rename one")
        fields[field.name] = kind
    return Schema(tuple(fields.items()))


def _way_out(kind: pa.DataType) -> str:
    types = pa.types
    if types.is_decimal(kind):
        return "cast it to float64"
    if types.is_date(kind) or types.is_timestamp(kind):
        return "cast it to a timestamp without zone"
    if types.is_null(kind):
        return "it holds nulls only: give it a type"
    if types.is_list(kind) or types.is_large_list(kind):
        return "lists of one length can be cast to a fixed-size list of numbers"
    if types.is_struct(kind):
        return "flatten it to one column per field"
    if types.is_binary(kind) or types.is_large_binary(kind):
        return "cast it to string"
    return "leave it out with columns=, or cast it"


def type_to_arrow(kind: ArrayType) -> pa.DataType:
    """The Arrow type of a column: vectors are fixed-size lists, higher ranks tensors."""
    item = pa.string() if kind.is_string else pa.from_numpy_dtype(kind.numpy)
    if not kind.shape:
        return item
    if kind.is_string:
        raise SchemaError(f"a column of {kind} is not supported yet", hint="use one column each")
    if len(kind.shape) == 1:
        return pa.list_(item, kind.shape[0])
    return pa.fixed_shape_tensor(item, kind.shape)


def schema_to_arrow(schema: Schema) -> pa.Schema:
    """The Arrow schema of a table with these columns."""
    return pa.schema([pa.field(name, type_to_arrow(kind)) for name, kind in schema])


def to_column(
    data: pa.Array | pa.ChunkedArray | Sequence[pa.Array], kind: ArrayType, where: str
) -> tuple[ColumnData, Array | None]:
    """Values of a column, an array [rows, *shape] or Arrow strings, and valid bool[rows] or None.

    Shares memory where one chunk without nulls allows it (never for bools, which Arrow packs).
    At a null the value is 0; a string array keeps its nulls. Chunks may differ in encoding.

    Raises: DataError for a null in a column of fixed-shape arrays; `where` names the column.
    """
    chunks = [data] if isinstance(data, pa.Array) else getattr(data, "chunks", data)
    if kind.is_string:
        return _strings(chunks, where)
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
    return np.concatenate([np.empty((0, *kind.shape), kind.numpy), *parts]), valid


def _strings(chunks: Sequence[pa.Array], where: str) -> tuple[pa.Array, Array | None]:
    try:
        parts = [_plain_string(chunk) for chunk in chunks]
        whole = (
            parts[0] if len(parts) == 1 else pa.concat_arrays([pa.array([], pa.string()), *parts])
        )
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{where} has more than 2 GiB of text in one block of records",
            hint="split the texts into shorter records",
        ) from error
    return whole, _mask(whole) if whole.null_count else None


def _plain_string(chunk: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(chunk.type):
        chunk = chunk.dictionary_decode()
    return chunk if chunk.type == pa.string() else chunk.cast(pa.string())


def _mask(chunk: pa.Array) -> Array:
    mask: Array = chunk.is_valid().to_numpy(zero_copy_only=False)
    return mask


def _values(chunk: pa.Array, kind: ArrayType, where: str) -> Array:
    if isinstance(chunk, pa.ExtensionArray):
        axes = _axes(chunk.type)
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
        return _scalars(chunk, kind.numpy).reshape(rows, *kind.shape)
    return _scalars(chunk, kind.numpy)


def _refuse_nulls(chunk: pa.Array, where: str) -> None:
    if chunk.null_count:
        raise DataError(
            f"{where} holds a null; fixed-shape arrays refuse nulls",
            hint="fill the nulls or drop these records first",
        )


def _scalars(chunk: pa.Array, dtype: np.dtype[Any]) -> Array:
    if len(chunk) == 0:
        return np.empty(0, dtype)
    if dtype == np.bool_:
        plain = pc.fill_null(chunk, False) if chunk.null_count else chunk
        bools: Array = plain.to_numpy(zero_copy_only=False)
        return bools
    # The buffer itself: to_numpy would turn integers with nulls into floats.
    whole = np.frombuffer(chunk.buffers()[1], dtype, chunk.offset + len(chunk))
    values: Array = whole[chunk.offset :]
    if chunk.null_count:
        values = np.where(_mask(chunk), values, np.zeros((), dtype))
    return values


def to_arrow(values: ColumnData, valid: Array | None, kind: ArrayType) -> pa.Array:
    """The Arrow array of a column; null where `valid` is false, and for NaT scalars."""
    target = type_to_arrow(kind)
    if kind.is_string:
        strings = values if isinstance(values, pa.Array) else pa.array(values, pa.string())
        strings = _plain_string(strings)
        return strings if valid is None else pc.if_else(pa.array(valid), strings, None)
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


def block_to_batch(block: Block, schema: Schema) -> pa.RecordBatch:
    """The block's columns of `schema`, in its order."""
    arrays = [to_arrow(block.columns[name], block.valid.get(name), kind) for name, kind in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema_to_arrow(schema))


def block_of(columns: dict[str, tuple[ColumnData, Array | None]], rows: int) -> Block:
    """A block of what `to_column` gave."""
    return Block(
        rows,
        {name: values for name, (values, _) in columns.items()},
        {name: valid for name, (_, valid) in columns.items() if valid is not None},
    )
