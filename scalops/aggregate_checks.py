"""Comparison of traced aggregates with their plain functions, and the test of their laws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice, pairwise
from typing import Any

import numpy as np

from scalops.aggregate_tracing import Traced
from scalops.algebra.errors import ScalopsError, TraceError
from scalops.algebra.folds import OpaqueAggregate
from scalops.algebra.operators import Aggregate, Operator
from scalops.engine.opaque.calls import bind
from scalops.engine.opaque.records import nested_record, take_apart
from scalops.engine.witness.interpreter import Interpreter, as_numpy, same_value
from scalops.law_checks import check_merge, check_opaque_merge, few_records, sampled_states, shown
from scalops.opaque_aggregates import Laws, Running
from scalops.plain_values import MetNull, apart
from scalops.rows import RowFunction

COMPARED = 8
TESTED = 24  # records; fewer states than triples, which are drawn from them
_CAUSES = (
    "usual causes: random numbers, a clock, `is None`, isinstance, looking a symbol up in a"
    " dictionary, a change of what the function closes over"
)
Row = dict[str, Any]


def check_aggregate(node: Aggregate, interpreter: Interpreter) -> None:
    """Check the user's functions behind an aggregate's folds, if there are any."""
    fold = node.folds[0]
    if isinstance(fold.origin, Traced):
        _check_traced(fold.origin, node.source, interpreter)
    elif isinstance(fold, OpaqueAggregate) and fold.origin == Laws(sampled=True):
        running = Running(fold.functions, fold.slots, interpreter)
        records = few_records(interpreter, node.source)[:TESTED]
        check_opaque_merge(running, records, fold.merge.location)


def _check_traced(traced: Traced, source: Operator, interpreter: Interpreter) -> None:
    kinds = traced.types
    zero = {
        n: as_numpy(interpreter.value(e), k)
        for (n, k), e in zip(kinds.items(), traced.zero, strict=True)
    }
    evaluate = interpreter.evaluator(traced.transition.outputs)

    def step(state: Row, row: Row) -> Row:
        made = zip(kinds.items(), evaluate((state, row)), strict=True)
        return {n: state[n] if v is None else as_numpy(v, k) for (n, k), v in made}

    rows = list(islice(interpreter.records(source), TESTED))
    states = sampled_states(step, zero, rows)
    _compare(traced, source, interpreter, zero, rows[:COMPARED], states)
    if traced.sampled_laws:
        check_merge(traced.merge, zero, states, interpreter)


def _compare(
    traced: Traced,
    source: Operator,
    interpreter: Interpreter,
    zero: Row,
    rows: Sequence[Row],
    states: Sequence[Row],
) -> None:
    bare = source.schema.bare
    known = [r for r in rows if all(v is not None for v in r.values())]
    transition = _Comparison(traced, traced.transition, interpreter)
    for state, row in zip([zero, *states], known, strict=False):
        record = row["value"] if bare else nested_record(row)
        transition.check([state], [record], (state, row))
    merge = _Comparison(traced, traced.merge, interpreter)
    for a, b in pairwise(states[: COMPARED + 1]):
        merge.check([a, b], [], (a, b))
    if traced.finalize is not None:
        finalize = _Comparison(traced, traced.finalize, interpreter)
        for state in states[:COMPARED]:
            finalize.check([state], [], (state,))


class _Comparison:
    """One function, traced and plain."""

    def __init__(self, traced: Traced, function: RowFunction, interpreter: Interpreter) -> None:
        self._traced, self._function = traced, function
        self._evaluate = interpreter.evaluator(function.outputs)
        self._plain: Callable[..., Any] | None = None
        if function.captured is not None:
            slots = [interpreter.value(s) for s in function.slots]
            self._plain = bind(function.captured, slots)

    def check(self, states: Sequence[Row], records: Sequence[Any], rows: tuple[Row, ...]) -> None:
        """TraceError where the plain call differs from the traced one."""
        if self._plain is None:
            return
        traced = self._evaluate(rows)
        shape, function = self._traced.shape, self._function
        given = [shape.make(dict(zip(s, apart(tuple(s.values())), strict=True))) for s in states]
        try:
            with np.errstate(all="ignore"):
                result = self._plain(*given, *apart(tuple(records)))
        except (ScalopsError, MetNull):
            return  # the run itself says what is wrong
        except Exception as error:
            raise TraceError(
                f"a plain call of an aggregate's function raises {type(error).__name__}: {error},"
                f" where its traced form gives a value; it was called with {shown(rows)}",
                location=function.location,
                hint=_CAUSES,
            ) from error
        names, values = take_apart(result)
        if names != function.names and set(names or ()) == set(function.names or ()):
            values = [values[(names or ()).index(n)] for n in function.names or ()]
            names = function.names
        same = names == function.names and all(map(same_value, traced, values))
        if not same:
            captured = function.captured
            raise TraceError(
                f"{captured.name if captured else 'a function'} gives {result!r} when called"
                f" plainly and {_shown_as(function, traced)} when traced; it was called with"
                f" {shown(rows)}",
                location=function.location,
                hint=_CAUSES,
            )


def _shown_as(function: RowFunction, values: Sequence[Any]) -> str:
    if function.names is None:
        return repr(values[0])
    return repr(dict(zip(function.names, values, strict=True)))
