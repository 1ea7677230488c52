"""Comparison of traced expressions with the plain functions they came from.

A trace that runs through is not yet right: a function may look at a clock, ask `x is None`, or
look a symbol up in a dictionary. So before a traced function's results are used, its expression
is compared with the plain Python function on a few real records.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import numpy as np

from scalops.aggregate_checks import check_aggregate
from scalops.algebra.errors import ScalopsError, TraceError
from scalops.algebra.expressions import Captured
from scalops.algebra.operators import Aggregate, Job, Loop, Operator, Scan
from scalops.algebra.tree import Node, find, walk
from scalops.branches import KeyFunction
from scalops.engine.opaque.calls import bind, describe
from scalops.engine.opaque.records import Record, flat_values, nested_record, take_all_apart
from scalops.engine.witness.interpreter import Interpreter, Starts, same_value
from scalops.group_maps import GroupTrace
from scalops.law_checks import TRIPLES, check_reduce
from scalops.null_questions import asks_for_none
from scalops.plain_values import HasNoPlainForm, MetNull, apart, comparing
from scalops.rows import RowFunction, sample_arguments
from scalops.value import Value

CHECK_ROWS = 8
_CAUSES = (
    "usual causes: random numbers, a clock, `is None`, isinstance, looking a symbol up in a"
    " dictionary; so.udf(f) runs it as it is"
)


def check_traces(job: Job, checked: MutableMapping[Node, bool]) -> None:
    """Compare every traced row function of the job once; TraceError where they differ."""
    order = list(walk(job))
    waiting = [(n, i, f) for n, i, f in _row_functions(order) if n not in checked]
    if not waiting:
        return
    # Outer loops first: an inner loop may start from an outer one's state.
    starts: Starts = {
        n.token: dict((*n.start, *n.tables)) for n in reversed(order) if isinstance(n, Loop)
    }
    interpreter = Interpreter(CHECK_ROWS, starts)
    more = Interpreter(TRIPLES, starts)
    for node, inputs, function in waiting:
        if isinstance(function, RowFunction):
            _compare(function, inputs, interpreter)
            if _combines(node) and not function.assumed_associative:
                check_reduce(function, inputs[0], more)
        else:
            check_aggregate(function, more)
        checked[node] = True


def _combines(node: Node) -> bool:
    return isinstance(node, Aggregate) and node.folds[0].kind == "reduce"


def _row_functions(
    order: list[Node],
) -> Iterator[tuple[Node, tuple[Operator, ...], RowFunction | Aggregate]]:
    for node in order:
        if isinstance(node, Aggregate):
            origin = node.folds[0].origin  # of all its folds: each method makes its own aggregate
            if isinstance(origin, RowFunction):
                yield node, (node.source, node.source), origin
            elif origin is not None:
                yield node, (node.source,), node
        elif isinstance(node, Operator) and not isinstance(node, Loop):
            origins = node.origin if isinstance(node.origin, tuple) else (node.origin,)
            for origin in origins:
                if isinstance(origin, RowFunction):
                    yield node, node.inputs, origin
                elif isinstance(origin, KeyFunction):
                    yield node, (origin.source,), origin.function
                elif isinstance(origin, GroupTrace):
                    yield from _row_functions(list(walk(*origin.nodes)))


def _compare(function: RowFunction, inputs: tuple[Operator, ...], interpreter: Interpreter) -> None:
    if function.captured is None:
        return
    slots = [interpreter.value(s) for s in function.slots]
    plain = bind(function.captured, slots)
    evaluate = interpreter.evaluator(function.outputs)
    samples = sample_arguments(interpreter, inputs, CHECK_ROWS, lambda v: v)
    if _may_hold_null(inputs[0]) and asks_for_none(plain):
        # The first null may come after the sample, and `is None` cannot be seen in a trace.
        samples = [*samples, *_with_nulls(samples[:1], inputs[0])]
    for arguments in samples:
        records = tuple(
            flat_values(a) if isinstance(a, Record) else {"value": a} for a in arguments
        )
        nulls = any(v is None for v in (*slots, *(v for r in records for v in r.values())))
        if nulls and not asks_for_none(plain):
            continue  # plain Python has no null
        try:
            traced = evaluate(records)
        except ScalopsError:
            raise
        except Exception:
            continue  # the run itself says what is wrong
        try:
            names, values = _plain(plain, apart(arguments), function, interpreter)
        except (MetNull, HasNoPlainForm):
            continue
        except TraceError:
            if nulls:
                continue  # None where a number is wanted
            raise
        if names != function.names or len(values) != len(traced):
            raise _differs(function, names or "one value", function.names or "one value", records)
        for mine, theirs in zip(traced, values, strict=True):
            if not same_value(mine, theirs):
                raise _differs(function, theirs, mine, records)


def _may_hold_null(table: Operator) -> bool:
    """Whether a null may come from the sources, as far as they know."""
    return any(scan.source.may_hold_null for scan in find((table,), Scan))


def _with_nulls(samples: list[tuple[Any, ...]], table: Operator) -> list[tuple[Any, ...]]:
    """The sampled arguments with each scalar column of the first record null in turn."""
    made: list[tuple[Any, ...]] = []
    for first, *rest in samples:
        for name, kind in table.schema:
            if kind.shape:
                continue
            if isinstance(first, Record):
                made.append((nested_record({**flat_values(first), name: None}), *rest))
            else:
                made.append((None, *rest))
    return made


def _plain(
    plain: Any, arguments: tuple[Any, ...], function: RowFunction, interpreter: Interpreter
) -> Any:
    try:
        with np.errstate(all="ignore"), comparing():
            names, values = take_all_apart(plain(*arguments))
        # so.lit("x") is lazy wherever it is called.
        return names, [
            interpreter.value(v.expression) if isinstance(v, Value) else v for v in values
        ]
    except ScalopsError:
        raise
    except Exception as error:
        raise TraceError(
            f"the plain function raises {type(error).__name__}: {error}, where its traced form"
            f" gives a value; the record is {_shown(arguments)}",
            location=function.location,
            hint=_CAUSES,
        ) from error


def _differs(function: RowFunction, plain: Any, traced: Any, records: Any) -> TraceError:
    captured = function.captured
    assert isinstance(captured, Captured)
    return TraceError(
        f"{captured.name} gives {plain!r} when called plainly and {traced!r} when traced;"
        f" the record is {_shown(records)}",
        location=function.location,
        hint=_CAUSES,
    )


def _shown(records: Any) -> str:
    nested = [nested_record(r) if isinstance(r, dict) else r for r in records]
    text = ", ".join(repr(describe(r)) for r in nested)
    return text if len(text) <= 300 else text[:300] + "..."
