"""Comparison of traced expressions with the plain functions they came from.

A trace that runs through is not yet right: a function may look at a clock, ask `x is None`, or
look a symbol up in a dictionary. So before a traced function's results are used, its expression
is compared with the plain Python function on a few real records.
"""

from __future__ import annotations

import dis
from collections.abc import Iterator, MutableMapping
from functools import partial
from itertools import islice, pairwise
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any

import numpy as np

from scalops.algebra.errors import ScalopsError, TraceError
from scalops.algebra.expressions import Captured
from scalops.algebra.folds import Fold
from scalops.algebra.operators import Aggregate, Job, Loop, Operator, Scan
from scalops.algebra.tree import Node, find, walk
from scalops.engine.interpreter import Interpreter, Starts, same_value
from scalops.engine.opaque import Text, bind
from scalops.engine.records import Record, take_apart
from scalops.rows import RowFunction, Udf, sample_arguments
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
    starts: Starts = {n.token: dict(n.start) for n in reversed(order) if isinstance(n, Loop)}
    interpreter = Interpreter(CHECK_ROWS, starts)
    for node, inputs, function in waiting:
        _compare(function, inputs, interpreter)
        first = isinstance(node, Fold) and node.kind == "reduce" and node.output == 0
        if first and not function.assumed_associative:
            _associate(function, inputs[0], interpreter)
        checked[node] = True


def _row_functions(
    order: list[Node],
) -> Iterator[tuple[Node, tuple[Operator, ...], RowFunction]]:
    for node in order:
        if isinstance(node, Aggregate):
            for fold in node.folds:
                if isinstance(fold.origin, RowFunction):
                    yield fold, (node.source, node.source), fold.origin
        elif isinstance(node, Operator) and not isinstance(node, Loop):
            origins = node.origin if isinstance(node.origin, tuple) else (node.origin,)
            for origin in origins:
                if isinstance(origin, RowFunction):
                    yield node, node.inputs, origin


def _compare(function: RowFunction, inputs: tuple[Operator, ...], interpreter: Interpreter) -> None:
    if function.captured is None:
        return
    slots = [interpreter.value(s) for s in function.slots]
    plain = bind(function.captured, slots)
    evaluate = interpreter.evaluator(function.outputs)
    samples = sample_arguments(interpreter, inputs, CHECK_ROWS, lambda v: v)
    if _may_hold_null(inputs[0]) and _asks_for_none(plain):
        # The first null may come after the sample, and `is None` cannot be seen in a trace.
        samples = [*samples, *_with_nulls(samples[:1], inputs[0])]
    for arguments in samples:
        records = tuple(
            dict(a._values) if isinstance(a, Record) else {"value": a} for a in arguments
        )
        nulls = any(v is None for r in records for v in r.values())
        if nulls and not _asks_for_none(plain):
            continue  # plain Python has no null
        try:
            traced = evaluate(records)
        except ScalopsError:
            raise
        except Exception:
            continue  # the run itself says what is wrong
        try:
            names, values = _plain(plain, _apart(arguments), function, interpreter)
        except TraceError:
            if nulls:
                continue  # None where a number is wanted
            raise
        if names != function.names or len(values) != len(traced):
            raise _differs(function, names or "one value", function.names or "one value", records)
        for mine, theirs in zip(traced, values, strict=True):
            if not same_value(mine, theirs):
                raise _differs(function, theirs, mine, records)


def _apart(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments of a plain call: NumPy's scalars, and arrays that it may change unseen."""
    return tuple(
        Record({n: _one_apart(v) for n, v in a._values.items()})
        if isinstance(a, Record)
        else _one_apart(a)
        for a in arguments
    )


def _one_apart(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.copy()
    return _Text(value) if isinstance(value, str) else value


class _Text(Text):
    """A string whose comparisons give NumPy's booleans, as a traced one's do: ~ negates them."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> Any:
        return _numpy(str.__eq__(self, other))

    def __ne__(self, other: object) -> Any:
        return _numpy(str.__ne__(self, other))

    def __lt__(self, other: str) -> Any:
        return _numpy(str.__lt__(self, other))

    def __le__(self, other: str) -> Any:
        return _numpy(str.__le__(self, other))

    def __gt__(self, other: str) -> Any:
        return _numpy(str.__gt__(self, other))

    def __ge__(self, other: str) -> Any:
        return _numpy(str.__ge__(self, other))


def _numpy(answer: Any) -> Any:
    """NumPy's boolean; with no string, the other side is asked."""
    return answer if answer is NotImplemented else np.bool_(answer)


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
                made.append((Record({**first._values, name: None}), *rest))
            else:
                made.append((None, *rest))
    return made


def _associate(function: RowFunction, source: Operator, interpreter: Interpreter) -> None:
    """Compare f(f(a, b), c) with f(a, f(b, c)) on neighbouring records; TraceError if they differ.

    Where one of them is not finite, nothing can be said.
    """
    evaluate = interpreter.evaluator(function.outputs)
    names = function.names or ("value",)

    def combine(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
        return dict(zip(names, evaluate((left, right)), strict=True))

    rows = list(islice(interpreter.records(source), CHECK_ROWS))
    for a, b, c in zip(rows, rows[1:], rows[2:], strict=False):
        if any(v is None for r in (a, b, c) for v in r.values()):
            continue
        ab, bc = combine(a, b), combine(b, c)
        first, second = combine(ab, c), combine(a, bc)
        for name, left in first.items():
            right = second[name]
            # Rounding is judged by the largest number on the way: a sum may cancel.
            scale = max(_size(r[name]) for r in (a, b, c, ab, bc, first, second))
            if _is_finite(left) and _is_finite(right) and not _close(left, right, scale):
                raise TraceError(
                    f"reduce needs an associative function, f(f(a, b), c) = f(a, f(b, c)); this one"
                    f" gives {left!r} and {right!r} for the records {_shown((a, b, c))}",
                    location=function.location,
                    hint="map first, then reduce by a sum, a product, a least or a greatest;"
                    " so.assume_associative(f) silences this",
                )


_ROUNDING = 1e-6


def _size(value: Any) -> float:
    array = np.asarray(value)
    numeric = array.dtype.kind in "biuf"
    return float(np.max(np.abs(array.astype(np.float64)), initial=0.0)) if numeric else 0.0


def _close(left: Any, right: Any, scale: float) -> bool:
    a, b = np.asarray(left), np.asarray(right)
    if a.dtype.kind not in "biuf":
        return bool(np.array_equal(a, b))
    return _size(a.astype(np.float64) - b.astype(np.float64)) <= _ROUNDING * scale


def _is_finite(value: Any) -> bool:
    array = np.asarray(value)
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())


def _asks_for_none(function: Any) -> bool:
    """Whether a function, or one of the user's that it calls by name, holds `x is None`."""
    waiting, seen = [function], set()
    while waiting:
        found: Any = waiting.pop()
        if isinstance(found, (partial, Udf)):
            found = found.func if isinstance(found, partial) else found.function
        if isinstance(found, MethodType):
            found = found.__func__
        if isinstance(found, FunctionType) and not (found.__module__ or "").startswith("scalops."):
            code = found.__code__
            waiting.extend(found.__globals__.get(name) for name in code.co_names)
            waiting.extend(c.cell_contents for c in found.__closure__ or () if _is_filled(c))
        elif isinstance(found, CodeType):
            code = found
        else:
            continue
        if code in seen:
            continue
        seen.add(code)
        steps = list(dis.get_instructions(code))
        if any("JUMP" in s.opname and s.opname.endswith("NONE") for s in steps):
            return True
        if any(a.argval is None and b.opname == "IS_OP" for a, b in pairwise(steps)):
            return True
        waiting.extend(code.co_consts)
    return False


def _is_filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _plain(
    plain: Any, arguments: tuple[Any, ...], function: RowFunction, interpreter: Interpreter
) -> Any:
    try:
        with np.errstate(all="ignore"):
            names, values = take_apart(plain(*arguments))
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
    text = ", ".join(repr(r._values) if isinstance(r, Record) else repr(r) for r in records)
    return text if len(text) <= 300 else text[:300] + "..."
