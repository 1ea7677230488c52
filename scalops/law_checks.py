"""The laws of `reduce` and of aggregates, tested on a few records: combining is associative.

Well-known operations are not tested. What differs by no more than rounding is taken as equal:
rounding is judged by the largest number on the way, since a sum may cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from time import perf_counter
from typing import Any

import numpy as np

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import Location, TraceError
from scalops.algebra.expressions import Expression, in_record, within
from scalops.algebra.operators import Operator
from scalops.algebra.tree import Node
from scalops.engine.opaque.packed import unpack
from scalops.engine.witness.interpreter import Interpreter
from scalops.opaque_aggregates import Running
from scalops.rows import RowFunction, sample_arguments

TRIPLES = 64
LAW_SECONDS = 1.0  # a slow function is tested on fewer
ROUNDING = 1e-6
Row = dict[str, Any]
Combine = Callable[[Any, Any], tuple[Any, Any]]  # a state, and the largest numbers on the way


def check_reduce(function: RowFunction, source: Operator, interpreter: Interpreter) -> None:
    """TraceError where f(f(a, b), c) is not f(a, f(b, c)) for real or random values."""
    rows = [
        r
        for r in islice(interpreter.records(source), TRIPLES)
        if all(v is not None for v in r.values())
    ]
    names = function.names or ("value",)
    combine = _traced_combine(names, function.outputs, interpreter)
    found = _broken(combine, rows, _differing_field)
    if found is None and not function.is_opaque:
        random = _random_rows(rows, dict(source.schema.types))
        found = _broken(combine, random, _differing_field)
    if found is not None:
        left, right, records = found
        raise TraceError(
            "reduce needs an associative function, f(f(a, b), c) = f(a, f(b, c)); this one"
            f" gives {shown([left])} and {shown([right])} for the records {shown(records)}",
            location=function.location,
            hint="map first, then reduce by a sum, a product, a least or a greatest;"
            " so.assume_associative(f) silences this",
        )


def check_merge(
    merge: RowFunction, zero: Row, states: Sequence[Row], interpreter: Interpreter
) -> None:
    """TraceError where a traced merge is not associative, or its zero has an effect."""
    combine = _traced_combine(tuple(zero), merge.outputs, interpreter)
    _check_states(combine, zero, states, _differing_field, merge.location)


def check_opaque_merge(running: Running, records: Iterable[Any], location: Location | None) -> None:
    """TraceError where an opaque merge is not associative, or its zero has an effect."""
    zero = running.zero()
    states: list[bytes] = []
    for i, (record,) in enumerate(records):
        # Of one record, of two and of three.
        state = zero if i % 3 == 0 or not states else states[-1]
        states.append(running.after(state, record))

    def combine(a: bytes, b: bytes) -> tuple[bytes, Any]:
        return running.merged(a, b), None

    _check_states(combine, zero, states, _differing_object, location, unpack)


def _check_states(
    combine: Combine,
    zero: Any,
    states: Sequence[Any],
    differing: Callable[..., Any],
    location: Location | None,
    show: Callable[[Any], Any] = lambda state: state,
) -> None:
    silence = "so.assume_associative(A()), or so.assume_associative(merge), silences this"
    found = _broken(combine, states, differing)
    if found is not None:
        left, right, three = found
        raise TraceError(
            "aggregate needs an associative merge, merge(merge(a, b), c) = merge(a, merge(b, c));"
            f" this one gives {shown([left])} and {shown([right])} for the states"
            f" {shown(map(show, three))}",
            location=location,
            hint=f"weight what is averaged by how many records it stands for; {silence}",
        )
    for state in states:
        for order, pair in (("zero, s", (zero, state)), ("s, zero", (state, zero))):
            made, way = combine(*pair)
            found = differing(made, state, [way], [zero, state, made])
            if found is not None:
                raise TraceError(
                    "merging with the first state, zero, must change nothing:"
                    f" merge({order}) gives {shown(found[:1])} in place of {shown(found[1:])} for"
                    f" the states {shown(map(show, (zero, state)))}",
                    location=location,
                    hint="every run of records starts from it: 0 for a sum, a count of 0 for a"
                    f" mean; {silence}",
                )


def _broken(
    combine: Combine, values: Sequence[Any], differing: Callable[..., Any]
) -> tuple[Any, Any, tuple[Any, ...]] | None:
    """Two results that should be equal, and the three values that they come from."""
    begin = perf_counter()
    for i, (a, b, c) in enumerate(_triples(values)):
        if i >= 8 and perf_counter() - begin > LAW_SECONDS:
            break
        with np.errstate(all="ignore"):
            (ab, w1), (bc, w2) = combine(a, b), combine(b, c)
            (first, w3), (second, w4) = combine(ab, c), combine(a, bc)
        found = differing(first, second, [w1, w2, w3, w4], [a, b, c, ab, bc, first, second])
        if found is not None:
            return found[0], found[1], (a, b, c)
    return None


def _triples(values: Sequence[Any]) -> Iterator[tuple[Any, Any, Any]]:
    """Neighbours, and any in a fixed random order, by turns."""
    count = len(values)
    if count == 0:
        return
    random = np.random.default_rng(0)
    for i in range(TRIPLES):
        first, rest = divmod(i, 2)
        near = rest == 0 and first + 2 < count
        a, b, c = range(first, first + 3) if near else random.integers(0, count, 3).tolist()
        yield values[a], values[b], values[c]


def _random_rows(rows: Sequence[Row], types: dict[str, ArrayType]) -> list[Row]:
    """Values between the least and the greatest of the real ones: outside them the function may
    have no meaning."""
    if not rows or not all(k.is_numeric and k.is_plain for k in types.values()):
        return []
    random = np.random.default_rng(0)
    columns: dict[str, Any] = {}
    for name, kind in types.items():
        values = np.array([r[name] for r in rows])
        if kind.name == "bool":
            columns[name] = random.random((TRIPLES, *kind.shape)) < 0.5
            continue
        low, high = values.min(axis=0), values.max(axis=0)
        if kind.numpy.kind == "f":
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                return []
            share = random.random((TRIPLES, *kind.shape))
            columns[name] = (low * (1 - share) + high * share).astype(kind.numpy)
        else:
            size = (TRIPLES, *kind.shape)
            columns[name] = random.integers(low, high, size, kind.numpy, endpoint=True)
    return [{n: c[i] for n, c in columns.items()} for i in range(TRIPLES)]


# Traced functions: fields, each with its own numbers on the way.


def _traced_combine(
    names: tuple[str, ...], outputs: Sequence[Expression], interpreter: Interpreter
) -> Combine:
    """A function of two records that also gives, by field, the largest number on the way."""
    below = [[n for n in within([e]) if in_record(n) and _is_number(n)] for e in outputs]
    order: dict[Node, int] = {}
    for node in (n for own in [list(outputs), *below] for n in own):
        order.setdefault(node, len(order))
    evaluate = interpreter.evaluator([n for n in order if isinstance(n, Expression)])
    kinds = [e.type.strong() for e in outputs]

    def combine(left: Row, right: Row) -> tuple[Row, Row]:
        values = evaluate((left, right))
        made = {
            n: _cast(values[order[e]], k) for n, e, k in zip(names, outputs, kinds, strict=True)
        }
        way = {
            n: max((_size(values[order[b]]) for b in own), default=0.0)
            for n, own in zip(names, below, strict=True)
        }
        return made, way

    return combine


def _cast(value: Any, kind: ArrayType) -> Any:
    return value if value is None or not kind.is_plain else np.asarray(value, kind.numpy)[()]


def _is_number(node: Expression) -> bool:
    kind = node.any_type
    return isinstance(kind, ArrayType) and kind.is_numeric


def _differing_field(
    first: Row, second: Row, ways: Sequence[Row], values: Sequence[Row]
) -> tuple[Any, Any] | None:
    for name, left in first.items():
        right = second[name]
        scale = max(_size(v[name]) for v in (*ways, *values))
        if not _agree(left, right, scale):
            return left, right
    return None


# Opaque functions: states of any structure.


def _differing_object(
    first: bytes, second: bytes, ways: Sequence[Any], values: Sequence[bytes]
) -> tuple[Any, Any] | None:
    if first == second:
        return None
    left, right = unpack(first), unpack(second)
    scale = max(_largest(unpack(v)) for v in values)
    return None if _alike(left, right, scale) else (left, right)


def _largest(value: Any) -> float:
    if isinstance(value, dict):
        return max(map(_largest, value.values()), default=0.0)
    if isinstance(value, (list, tuple)):
        return max(map(_largest, value), default=0.0)
    return _size(value)


def _alike(left: Any, right: Any, scale: float) -> bool:
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(
            _alike(v, right[k], scale) for k, v in left.items()
        )
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        pairs = zip(left, right, strict=False)
        return len(left) == len(right) and all(_alike(a, b, scale) for a, b in pairs)
    return _agree(left, right, scale)


# Numbers.


def _size(value: Any) -> float:
    """The largest finite number in a value, by its absolute value."""
    try:
        array = np.asarray(value)
    except ValueError:
        return 0.0
    if array.dtype.kind not in "biuf" or not array.size:
        return 0.0
    sizes = np.abs(array.astype(np.float64))
    return float(np.max(sizes, initial=0.0, where=np.isfinite(sizes)))


def _agree(left: Any, right: Any, scale: float) -> bool:
    """Whether two values are equal up to rounding; of what is not finite nothing can be said."""
    if left is None or right is None:
        return left is right
    a, b = np.asarray(left), np.asarray(right)
    if a.shape != b.shape:
        return False
    if a.dtype.kind not in "biuf" or b.dtype.kind not in "biuf":
        return bool(np.array_equal(a, b))
    apart = np.abs(a.astype(np.float64) - b.astype(np.float64))
    known = np.isfinite(a.astype(np.float64)) & np.isfinite(b.astype(np.float64))
    coarse = max((float(np.finfo(x.dtype).eps) for x in (a, b) if x.dtype.kind == "f"), default=0.0)
    return not bool((known & (apart > max(ROUNDING, 16 * coarse) * scale)).any())


def _plain(value: Any) -> Any:
    """A value without the names of NumPy's types."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value


def shown(values: Iterable[Any]) -> str:
    """Values for a message, shortened."""
    text = ", ".join(repr(_plain(v)) for v in values)
    return text if len(text) <= 300 else text[:300] + "..."


def sampled_states(
    evaluate: Callable[[Row, Row], Row], zero: Row, rows: Sequence[Row]
) -> list[Row]:
    """States of runs of one, two and three records."""
    states: list[Row] = []
    for i, row in enumerate(rows):
        states.append(evaluate(zero if i % 3 == 0 else states[-1], row))
    return states


def few_records(interpreter: Interpreter, source: Operator) -> list[tuple[Any, ...]]:
    """Records as an opaque function receives them."""
    from scalops.engine.opaque.calls import python_value

    return sample_arguments(interpreter, (source,), TRIPLES, python_value)
