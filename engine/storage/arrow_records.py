"""Columns of records at the edges: Arrow's struct columns here, a column for each field within.

A struct that is null has null fields within; on the way out a record is never null itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import pyarrow as pa

from scalops.algebra.errors import SchemaError
from scalops.algebra.schema import FIELD

Arrow = TypeVar("Arrow", pa.Table, pa.RecordBatch)


def flat_schema(schema: pa.Schema, where: str) -> pa.Schema:
    """A field for each field of a struct, named as `algebra.schema` has it.

    Raises: SchemaError for a struct without fields, and for a name with the separator in it.
    """
    for name in schema.names:
        require_plain_name(name, where)
    fields = list(schema)
    while any(pa.types.is_struct(f.type) for f in fields):
        fields = [inner for field in fields for inner in _inner(field, where)]
    return pa.schema(fields, schema.metadata)


def _inner(field: pa.Field, where: str) -> list[pa.Field]:
    kind = field.type
    if not pa.types.is_struct(kind):
        return [field]
    inner = [kind.field(i) for i in range(kind.num_fields)]
    if not inner:
        raise SchemaError(
            f"{where}: column {_shown(field.name)} is of structs without fields",
            hint="leave it out",
        )
    for child in inner:
        require_plain_name(child.name, where)
    return [child.with_name(field.name + FIELD + child.name) for child in inner]


def require_plain_name(name: str, where: str) -> None:
    """Raise SchemaError for a name that reads as a record's field."""
    if FIELD in name:
        raise SchemaError(
            f"{where} has a column {name!r}; the character {FIELD!r} stands between a column that"
            " holds records and their fields",
            hint="rename it",
        )


def _shown(name: str) -> str:
    return repr(name.replace(FIELD, "."))


def flattened(data: Arrow) -> Arrow:
    """The table or batch with a column for each field of a struct; null where the struct is."""
    names, columns = list(data.schema.names), list(data.columns)
    while any(pa.types.is_struct(c.type) for c in columns):
        made = []
        for name, column in zip(names, columns, strict=True):
            if not pa.types.is_struct(column.type):
                made.append((name, column))
                continue
            inner = [column.type.field(i).name for i in range(column.type.num_fields)]
            parts = zip(inner, column.flatten(), strict=True)
            made += [(name + FIELD + n, part) for n, part in parts]
        names, columns = [n for n, _ in made], [c for _, c in made]
    if names == data.schema.names:
        return data
    fields = [f for f in flat_schema(data.schema, "the table") if f.name in names]
    return type(data).from_arrays(columns, schema=pa.schema(fields))


def nested_fields(fields: Sequence[pa.Field]) -> list[pa.Field]:
    """The fields of flat names, those of records together as structs."""
    made: list[pa.Field] = []
    for column, inner in _by_column(tuple(f.name for f in fields)):
        own = [fields[i].with_name(name) for i, name in inner]
        is_record = fields[inner[0][0]].name != column
        made.append(pa.field(column, pa.struct(nested_fields(own))) if is_record else own[0])
    return made


def nested_arrays(
    names: Sequence[str], arrays: Sequence[pa.Array], fields: Sequence[pa.Field]
) -> list[pa.Array]:
    """The columns of flat names as those of `fields`, which `nested_fields` gave."""
    made: list[pa.Array] = []
    for (column, inner), field in zip(_by_column(tuple(names)), fields, strict=True):
        own = [arrays[i] for i, _ in inner]
        if names[inner[0][0]] == column:
            made.append(own[0])
            continue
        parts = list(field.type)
        children = nested_arrays([n for _, n in inner], own, parts)
        made.append(pa.StructArray.from_arrays(children, fields=parts))
    return made


def _by_column(names: tuple[str, ...]) -> list[tuple[str, list[tuple[int, str]]]]:
    """By column, the positions of its fields and what they are called within it."""
    found: dict[str, list[tuple[int, str]]] = {}
    for i, name in enumerate(names):
        column, _, inner = name.partition(FIELD)
        found.setdefault(column, []).append((i, inner or column))
    return list(found.items())
