"""The folds of `reduce(f)`: well-known ones by field, else one fold by the user's function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from scalops.algebra import operators as op
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import TraceError, UserFunctionError, user_location
from scalops.algebra.expressions import Call, Column, Expression, call
from scalops.algebra.folds import Fold
from scalops.algebra.functions import function
from scalops.algebra.operators import Named, Operator
from scalops.rows import Associative, RowFunction, known_combiner, trace_rows
from scalops.table_refusals import require_parameters

Folds = tuple[Operator, tuple[Fold, ...], tuple[str, ...] | None]  # names: None for one value


def reduce_folds(source: Operator, f: Callable[..., Any]) -> Folds:
    """What `reduce(f)` folds: the table, the folds, and the names of the result's parts."""
    location = user_location()
    schema = source.schema
    names = None if schema.bare else schema.names
    assumed = isinstance(f, Associative)
    combine = f.function if isinstance(f, Associative) else f
    known = known_combiner(combine)
    if known == "add" and schema.bare and schema.types["value"].is_string:
        known = None  # strings are added by a function of the table, not by a fold
    if known is not None:
        folds = tuple(
            Fold(n if names else "reduce", known, (Column(n, k),), location=location)
            for n, k in schema
        )
        return source, folds, names
    require_parameters(combine, 2, "reduce", "two, both records")
    for _ in range(3):
        made = _traced_pair(combine, source)
        made = replace(made, assumed_associative=assumed)
        if made.names != names:
            raise TraceError(
                f"reduce's function returns {_listed(made.names)};"
                f" it takes and must return {_listed(names)}",
                location=made.location,
                hint="combine two records into one of the same columns",
            )
        widened = _widened(source, made, location)
        if widened is source:
            break
        source = widened
    arguments = tuple(Column(n, k) for n, k in source.schema)
    kinds = [_recognised(e, c.name) for e, c in zip(made.outputs, arguments, strict=True)]
    if all(k is not None for k in kinds):
        folds = tuple(
            Fold(c.name if names else "reduce", k or "", (c,), origin=made, location=location)
            for k, c in zip(kinds, arguments, strict=True)
        )
    else:
        folds = tuple(
            Fold(
                c.name if names else "reduce", "reduce", arguments, made.outputs,
                tuple(a.name for a in arguments), i, origin=made, location=location,
            )
            for i, c in enumerate(arguments)
        )  # fmt: skip
    return source, folds, names


def _traced_pair(combine: Callable[..., Any], source: Operator) -> RowFunction:
    try:
        return trace_rows(combine, (source, source), "reduce")
    except UserFunctionError as error:
        if isinstance(error.__cause__, TypeError) and "'Record'" in str(error.__cause__):
            error.hint = (
                "records have no operators: map to one column first, or combine by field:"
                ' lambda a, b: {"x": a.x + b.x, ...}'
            )
        raise


def _listed(names: tuple[str, ...] | None) -> str:
    return "one bare value" if names is None else f"the columns {list(names)}"


def _widened(source: Operator, made: RowFunction, location: Any) -> Operator:
    """The source with columns in the types that the function gives, so that it can repeat."""
    outputs: list[Named] = []
    changed = False
    for (name, kind), result in zip(source.schema, made.outputs, strict=True):
        wanted: ArrayType = result.type.strong()
        if wanted.shape != kind.shape:
            raise TraceError(
                f"reduce's function turns {name!r} from {kind} into {wanted}",
                location=made.location,
                hint="a reduce keeps the shape",
            )
        expression: Expression = Column(name, kind)
        if wanted.name != kind.name:
            expression = call(function("cast"), expression, dtype=wanted.name)
            changed = True
        outputs.append((name, expression))
    if not changed:
        return source
    return op.Project(source, tuple(outputs), source.schema.bare, label="cast", location=location)


RECOGNISED = {
    "add", "multiply", "minimum", "maximum", "logical_and", "logical_or",
    "bitwise_and", "bitwise_or",
}  # fmt: skip


def _recognised(expression: Expression, name: str) -> str | None:
    """The fold of `a.name ∘ b.name` for a well-known ∘."""
    if isinstance(expression, Call) and expression.function.name in RECOGNISED:
        match expression.arguments:
            case (Column(name=a, record=0), Column(name=b, record=1)) if a == b == name:
                return expression.function.name
            case (Column(name=a, record=1), Column(name=b, record=0)) if a == b == name:
                # Swapped operands: only where the operation commutes may order be given up.
                return expression.function.name
    return None
