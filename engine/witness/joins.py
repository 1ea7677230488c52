"""What a join means, record by record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from scalops.algebra.expressions import Expression
from scalops.algebra.relations import LEFT, RIGHT, Join
from scalops.engine.witness.samples import meeting
from scalops.engine.witness.tables import key_of

if TYPE_CHECKING:
    from scalops.engine.witness.interpreter import Interpreter, Row

SAMPLE = 10_000  # records of a side that are looked at for partners of a few of the other
ONE_BY_ONE = 256  # the same, where they are made record by record


def joined(interpreter: Interpreter, node: Join) -> Iterator[Row]:
    """The records of a join.

    Where the interpreter sees but the heads of its sources, partners are looked for among more
    records of the other side; and if none is found, among more of both.
    """
    if not interpreter.sampling:
        left, right = (list(interpreter.records(side)) for side in node.sides)
        yield from _joined(interpreter, node, left, right)
        return
    most = interpreter.most or SAMPLE
    for left, right in _sampled(interpreter, node, most):
        rows = list(islice(_joined(interpreter, node, left, right), most))
        if rows:
            yield from rows
            return


def _sampled(
    interpreter: Interpreter, node: Join, most: int
) -> Iterator[tuple[list[Row], list[Row]]]:
    """Records of both sides that may meet; more, as long as none do."""
    from scalops.engine.witness.interpreter import block_rows

    blocks = None if node.kind == "cross" else meeting(node, SAMPLE, most)
    if blocks is not None:
        left, right = (
            list(block_rows(block, side.schema.types))
            for block, side in zip(blocks, node.sides, strict=True)
        )
        yield left, right
        return
    readers = [interpreter, interpreter]
    for i in (LEFT, RIGHT) if node.kind == "right" else (RIGHT, LEFT):
        if node.kind != "cross":
            readers[i] = interpreter.wider(ONE_BY_ONE)
        left, right = (list(r.records(s)) for r, s in zip(readers, node.sides, strict=True))
        yield left, right


def _joined(
    interpreter: Interpreter, node: Join, left: list[Row], right: list[Row]
) -> Iterator[Row]:
    if node.kind == "right":
        for led, partner in _pairs(interpreter, node, RIGHT, right, left):
            yield _made(node, partner, led)
        return
    for own, theirs in _pairs(interpreter, node, LEFT, left, right):
        yield _made(node, own, theirs)
    if node.kind == "full":
        found = {id(theirs) for _, theirs in _pairs(interpreter, node, LEFT, left, right)}
        for theirs in right:
            if id(theirs) not in found:
                yield _made(node, None, theirs)


def _pairs(
    interpreter: Interpreter, node: Join, side: int, rows: list[Row], others: list[Row]
) -> Iterator[tuple[Row, Row | None]]:
    """The records of one side, in order, with each partner; with None as the kind wants it."""
    keys = (node.left_keys, node.right_keys)
    known: dict[Any, list[Row]] = {}
    for other, key in zip(others, _keys(interpreter, node, keys[1 - side], others), strict=True):
        known.setdefault(key, []).append(other)
    known.pop(None, None)
    for row, key in zip(rows, _keys(interpreter, node, keys[side], rows), strict=True):
        found = known.get(key, []) if key is not None else []
        if node.kind == "semi" or node.kind == "anti":
            if bool(found) == (node.kind == "semi"):
                yield row, None
        elif found:
            for other in found:
                yield row, other
        elif node.kind not in ("inner", "cross"):
            yield row, None


def _keys(
    interpreter: Interpreter, node: Join, keys: Sequence[Expression], rows: Iterable[Row]
) -> Iterator[Any]:
    """Something hashable that is equal where keys are; None for a key that matches none."""
    by = interpreter.evaluator(keys)
    for row in rows:
        values = [None if _is_null(v) else v for v in by((row,))]
        missing = any(v is None for v in values)
        yield None if missing and not node.nulls_equal else tuple(map(key_of, values))


def _is_null(value: Any) -> bool:
    times = (np.datetime64, np.timedelta64)
    return value is None or (isinstance(value, times) and bool(np.isnat(value)))


def _made(node: Join, left: Row | None, right: Row | None) -> Row:
    made: Row = {}
    for name, side, column in node.outputs:
        row = left if side == LEFT else right
        made[name] = None if row is None else row[column]
    return made
