"""`flat_map`: row functions that give any number of records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from scalops.algebra import operators as op
from scalops.algebra.dtypes import ArrayType, list_of
from scalops.algebra.errors import TraceError, user_location
from scalops.algebra.expressions import Expression, call, constant
from scalops.algebra.functions import elementwise, function
from scalops.algebra.operators import Named, Operator
from scalops.capture import capture_opaque
from scalops.engine.opaque.flat_results import Collected, Flattened, Listed
from scalops.engine.opaque.records import take_all_apart
from scalops.rows import (
    RowFunction,
    Udf,
    common_type,
    declared_types,
    opaque_rows,
    sampled_results,
    trace_rows,
    void_reason,
)

_HINT = "declare one record: so.udf(f, returns=...)"


def flat_rows(f: Callable[..., Any], source: Operator) -> Operator:
    """The operators of `source.flat_map(f)`."""
    from scalops.table_refusals import require_parameters

    require_parameters(f, 1, "flat_map", "one, the record")
    if isinstance(f, Udf):
        return _opaque(f.function, source, "is marked by so.udf", None, f.returns)
    if not callable(f):
        raise TraceError(
            f"flat_map needs a function of a record; it got a {type(f).__name__}",
            location=user_location(),
        )
    void = void_reason(Flattened(f), (source,), "flat_map")
    if void is not None:
        return _opaque(f, source, *void)
    made = trace_rows(Flattened(f), (source,), "flat_map")
    if made.names is None:
        return _exploded(source, trace_rows(f, (source,), "flat_map"))
    return _expanded(source, made)


def _exploded(source: Operator, made: RowFunction) -> Operator:
    """The items of a list expression, or of list columns that go together."""
    location = user_location()
    kind = made.outputs[0].type
    if not (kind.is_list or kind.shape):
        raise TraceError(
            f"the function of flat_map returns one {kind}; expected a list of records",
            location=made.location,
            hint="put it into a list: [value]",
        )
    bare = made.names is None
    lists = op.Project(source, made.named, bare, label="flat_map", origin=made, location=location)
    return op.Explode(lists, lists.schema.names, label="flat_map", location=location)


def _expanded(source: Operator, made: RowFunction) -> Operator:
    """As many records for each as the function's list has."""
    records: dict[str, dict[str, Expression]] = {}
    for label, e in made.named:
        number, _, name = label.partition(" ")
        records.setdefault(number, {})[name] = e
    first, *others = records.values()
    for other in others:
        if list(other) != list(first):
            raise TraceError(
                f"the function of flat_map returns records of {_words(first)} and of"
                f" {_words(other)}",
                location=made.location,
                hint="give all of them the same columns, in one order",
            )
    bare = list(first) == [""]
    rows = list(records.values())
    kinds = {n: _common(n, [r[n] for r in rows], made) for n in first}
    expanded = tuple(tuple(_typed(n, e, kinds[n]) for n, e in r.items()) for r in rows)
    return op.Expand(
        source, expanded, bare, label="flat_map", origin=made, location=user_location()
    )


def _words(names: Any) -> str:
    return "bare values" if list(names) == [""] else str(list(names))


def _common(name: str, found: Sequence[Expression], made: RowFunction) -> ArrayType:
    """One type for a column, as np.where would find it."""
    chosen = found[0]
    for e in found[1:]:
        if e.type.strong() == chosen.type.strong():
            continue
        both = _either(chosen, e)
        if both is None:
            raise TraceError(
                f"the function of flat_map returns {name or 'a value'} as {found[0].type} and as"
                f" {e.type}",
                location=made.location,
                hint="give all records the same types",
            )
        chosen = both
    return chosen.type.strong()


def _either(a: Expression, b: Expression) -> Expression | None:
    """One or the other, in a type for both; None where there is none."""
    if a.type.shape != b.type.shape or not (a.type.is_plain and b.type.is_plain):
        return None
    try:
        return call(elementwise.WHERE, constant(True), a, b)
    except TraceError:
        return None


def _typed(name: str, e: Expression, kind: ArrayType) -> Named:
    if e.type.strong() != kind:
        e = call(function("cast"), e, dtype=kind.name)
    return (name or "value", e)


def _opaque(
    f: Callable[..., Any], source: Operator, reason: str, location: Any, returns: Any = None
) -> Operator:
    """The items of list columns, which the function fills record by record."""
    if returns is not None:
        names, kinds = declared_types(returns)
    else:
        names, kinds = _discovered(f, source, reason)
    lists = tuple(list_of(k) for k in kinds)
    declared: Any = lists[0] if names is None else dict(zip(names, lists, strict=True))
    made = opaque_rows(Collected(f, names), (source,), reason, location, declared)
    return _exploded(source, made)


def _discovered(
    f: Callable[..., Any], source: Operator, reason: str
) -> tuple[tuple[str, ...] | None, tuple[ArrayType, ...]]:
    """Names and types of the records, from those that the first records of the source give."""
    captured, slots = capture_opaque(Listed(f), reason, None)
    found = [
        take_all_apart(item)
        for _, (items,) in sampled_results(captured, slots, (source,))
        for item in items
    ]
    if not found:
        raise TraceError(
            f"{captured.name} gives no record for the first records of its sources, so that their"
            " type is not known",
            location=captured.location,
            hint=_HINT,
        )
    names, first = found[0]
    alike = [values for own, values in found if own == names]
    columns = [[values[i] for values in alike] for i in range(len(first))]
    return names, tuple(common_type(c, captured, _HINT) for c in columns)
