"""Arrow's types and ours."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pyarrow as pa

from scalops.algebra.dtypes import STRING, ArrayType, ListType, SparseType, list_of, sparse
from scalops.algebra.errors import SchemaError
from scalops.algebra.schema import FIELD, Schema
from scalops.engine.storage.arrow_records import nested_fields

# The key, in a field's metadata, of a sparse vector's dimension.
DIMENSION = b"scalops:dimension"
SPARSE_ITEM = pa.struct([("index", pa.int32()), ("value", pa.float64())])

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

    A timestamp in UTC loses its zone, one in another zone has no type here. A date is the
    timestamp[s] at which it begins.
    """
    if kind in _NUMBERS:
        return ArrayType(_NUMBERS[kind])
    if is_string(kind):
        return ArrayType(STRING)
    if pa.types.is_dictionary(kind):
        return type_from_arrow(kind.value_type)
    if pa.types.is_timestamp(kind):
        utc = kind.tz is None or kind.tz.lower() in _UTC
        return ArrayType(f"timestamp[{kind.unit}]") if utc else None
    if pa.types.is_date(kind):
        return ArrayType("timestamp[s]")
    if pa.types.is_duration(kind):
        return ArrayType(f"duration[{kind.unit}]")
    if pa.types.is_fixed_size_list(kind):
        return _array_of(kind.value_type, (kind.list_size,))
    if isinstance(kind, pa.FixedShapeTensorType):
        return _array_of(kind.value_type, tuple(kind.shape[axis] for axis in tensor_axes(kind)))
    if is_list(kind):
        item = type_from_arrow(kind.value_type)
        return None if item is None else list_of(item)
    return None


def type_from_field(field: pa.Field) -> ArrayType | None:
    """Our type of an Arrow field, whose metadata tell a sparse vector's dimension."""
    dimension = (field.metadata or {}).get(DIMENSION)
    if dimension is not None and is_sparse(field.type) and dimension.isdigit():
        return sparse(int(dimension))
    return type_from_arrow(field.type)


def _array_of(value_type: pa.DataType, shape: tuple[int, ...]) -> ArrayType | None:
    item = type_from_arrow(value_type)
    if item is None or not item.is_plain:
        return None
    return item.with_shape(*shape, *item.shape)


def is_string(kind: pa.DataType) -> bool:
    """Whether it is one of Arrow's forms of a string."""
    types = pa.types
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether it is one of Arrow's forms of a list of any length."""
    types = pa.types
    views = types.is_list_view(kind) or types.is_large_list_view(kind)
    return bool(types.is_list(kind) or types.is_large_list(kind) or views)


def is_sparse(kind: pa.DataType) -> bool:
    """Whether it is a list of (index, value)."""
    if not is_list(kind) or not pa.types.is_struct(kind.value_type):
        return False
    item = kind.value_type
    names = [item.field(i).name for i in range(item.num_fields)]
    return (
        names == ["index", "value"]
        and pa.types.is_integer(item.field(0).type)
        and (pa.types.is_floating(item.field(1).type) or pa.types.is_integer(item.field(1).type))
    )


def tensor_axes(kind: Any) -> list[int]:
    """A tensor's physical axes in logical order."""
    return list(kind.permutation or range(len(kind.shape)))


def schema_from_arrow(
    schema: pa.Schema, where: str, columns: Collection[str] | None = None
) -> Schema:
    """The columns of an Arrow schema; of those not among `columns` only what has a type of ours.

    Raises: SchemaError for a type that no column may have yet, or a name that occurs twice;
    `where` says what has the schema.
    """
    fields: dict[str, ArrayType] = {}
    for field in schema:
        kind = type_from_field(field)
        if kind is None and columns is not None and field.name.split(FIELD)[0] not in columns:
            continue
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
    if is_sparse(kind):
        return (
            "it would be a sparse vector if its field's metadata told its dimension: "
            f'{{"{DIMENSION.decode()}": "1000"}}'
        )
    if is_list(kind):
        return "lists may hold numbers, strings, timestamps, vectors and such lists"
    if types.is_decimal(kind):
        return "cast it to float64"
    if types.is_timestamp(kind):
        return "cast it to a timestamp without zone"
    if types.is_null(kind):
        return "it holds nulls only: give it a type"
    if types.is_struct(kind):
        return "flatten it to one column per field"
    if types.is_binary(kind) or types.is_large_binary(kind):
        return "cast it to string"
    return "leave it out with columns=, or cast it"


def type_to_arrow(kind: ArrayType) -> pa.DataType:
    """The Arrow type of a column: vectors are fixed-size lists, higher ranks tensors.

    A sparse vector is a list of (index, value); `field_to_arrow` adds its dimension.
    """
    if isinstance(kind, SparseType):
        return pa.list_(SPARSE_ITEM)
    if isinstance(kind, ListType):
        return pa.list_(_item_to_arrow(kind.item))
    if kind.is_string and kind.shape:
        raise SchemaError(f"a column of {kind} is not supported yet", hint="use one column each")
    if len(kind.shape) > 1:
        return pa.fixed_shape_tensor(pa.from_numpy_dtype(kind.numpy), kind.shape)
    return _item_to_arrow(kind)


def _item_to_arrow(kind: ArrayType) -> pa.DataType:
    """The type of a list's items; matrices are fixed-size lists of such, which all readers know."""
    if isinstance(kind, ListType):
        return type_to_arrow(kind)
    item = pa.string() if kind.is_string else pa.from_numpy_dtype(kind.numpy)
    for size in reversed(kind.shape):
        item = pa.list_(item, size)
    return item


def field_to_arrow(name: str, kind: ArrayType) -> pa.Field:
    """The Arrow field of a column."""
    metadata = {DIMENSION: str(kind.shape[0])} if kind.is_sparse else None
    return pa.field(name, type_to_arrow(kind), metadata=metadata)


def schema_to_arrow(schema: Schema) -> pa.Schema:
    """The Arrow schema of a table with these columns; one that holds records is a struct."""
    return pa.schema(nested_fields([field_to_arrow(name, kind) for name, kind in schema]))
