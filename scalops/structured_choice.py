"""`so.where` between structures, environments and loops of one schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import Location, SchemaError, user_location
from scalops.algebra.functions import elementwise
from scalops.environment import BARE, Environment, describe
from scalops.loop import Loop
from scalops.structured import StructuredValue
from scalops.table import Table
from scalops.table_operators import choose_table
from scalops.value import Value, apply, lift

Fields = dict[str, Value | Table]
Rebuild = Callable[[Mapping[str, Any]], Any]


def is_structured(value: Any) -> bool:
    """Whether it has named parts of its own."""
    return isinstance(value, (StructuredValue, Environment, Loop))


def choose_structure(condition: Any, x: Any, y: Any) -> Any:
    """x's fields where the condition holds, else y's, in the form of the structured one.

    Raises SchemaError unless both have the same fields and types.
    """
    location = user_location()
    chosen = lift(condition)
    if chosen is None or chosen.type.shape or chosen.type.name != "bool":
        found = type(condition).__name__ if chosen is None else str(chosen.type)
        raise SchemaError(
            f"so.where between structures has the condition {found}; expected true or false",
            location=location,
        )
    left, rebuild = _taken_apart(x, location)
    right, own = _taken_apart(y, location)
    kinds = [{n: _kind(v) for n, v in fields.items()} for fields in (left, right)]
    if kinds[0] != kinds[1]:
        shown = [", ".join(f"{n}: {k}" for n, k in found.items()) for found in kinds]
        raise SchemaError(
            f"so.where between structures of different fields: ({shown[0]}) and ({shown[1]})",
            location=location,
            hint="give both the same fields, types and shapes",
        )
    named = {
        n: choose_table(condition, v, right[n])
        if isinstance(v, Table)
        else apply(elementwise.WHERE, condition, v, right[n])
        for n, v in left.items()
    }
    return (rebuild if is_structured(x) else own)(named)


def _kind(field: Value | Table) -> ArrayType | str:
    if isinstance(field, Table):
        return f"table ({field.schema})"
    return field.type.strong()


def _taken_apart(value: Any, location: Location | None) -> tuple[Fields, Rebuild]:
    if isinstance(value, Loop):
        return {n: value[n] for n in value.structure.names}, value.structure.rebuild
    if isinstance(value, StructuredValue):
        return {**value.flat}, StructuredValue
    structure, fields = describe(value, location)
    made: Fields = {}
    for name, field in fields.items():
        if isinstance(field, Table) and structure.kind != BARE:
            made[name] = field
            continue
        expression = lift(field)
        if expression is None or structure.kind == BARE:
            raise SchemaError(
                f"so.where chooses between a structure and a {type(value).__name__}",
                location=location,
                hint="give both the same fields, types and shapes",
            )
        made[name] = Value(expression)
    return made, structure.rebuild
