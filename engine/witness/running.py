"""What running aggregates mean, one record at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from scalops.algebra.relations import Cumulate, Running
from scalops.engine.witness.interpreter import Interpreter, Row

_STEPS: dict[str, Callable[..., Any]] = {
    "cumsum": np.add,
    "cumprod": np.multiply,
    "cummin": np.minimum,
    "cummax": np.maximum,
}


def cumulated(interpreter: Interpreter, node: Cumulate, rows: Iterable[Row]) -> Iterator[Row]:
    """The records with their new columns."""
    held = list(rows)
    made = [_column(interpreter, column, held) for column in node.columns]
    for i, row in enumerate(held):
        yield row | {c.name: own[i] for c, own in zip(node.columns, made, strict=True)}


def _column(interpreter: Interpreter, column: Running, rows: list[Row]) -> list[Any]:
    from scalops.engine.witness.tables import key_of  # which reads this module

    arguments = interpreter.evaluator(column.arguments)
    keys = interpreter.evaluator(column.over)
    dtype, zero = column.type.numpy, np.zeros(column.type.shape, column.type.numpy)
    before: dict[Any, Any] = {}
    made: list[Any] = [None] * len(rows)
    places = range(len(rows))
    for i in reversed(places) if column.reverse else places:
        values = arguments((rows[i],))
        if any(v is None for v in values):
            continue
        key = tuple(map(key_of, keys((rows[i],))))
        given = [np.asarray(v, dtype) for v in values]
        with np.errstate(all="ignore"):
            if column.kind == "cumsumprod":
                made[i] = given[0] + given[1] * before.get(key, zero)
            elif key in before:
                made[i] = _STEPS[column.kind](before[key], given[0])
            else:
                made[i] = given[0][()]
        before[key] = made[i]
    return made
