"""The meaning of folds by a small integer key, one record at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from scalops.algebra.folds import Fold
from scalops.algebra.functions.scatter import one_hot
from scalops.algebra.segment_folds import Segment
from scalops.engine.table_errors import bad_index


def segmented(fold: Segment, records: list[list[Any]], *, sampling: bool) -> Any:
    """The array of the folds by key, or which keys there are; None where over nothing.

    Each record is the key and the fold's arguments. A sample's wrong keys are passed over.
    """
    if fold.over:
        return _over_one_hot(fold, records)
    by_key: dict[int, list[list[Any]]] = {}
    for what in ("null", "outside"):
        for key, *_ in [] if sampling else records:
            if key is None if what == "null" else key is not None and not 0 <= key < fold.size:
                raise bad_index(fold.key, key, fold.size, what, fold.location)
    for key, *values in records:
        if key is not None and 0 <= key < fold.size:
            by_key.setdefault(int(key), []).append(values)
    if fold.output == 1:
        return np.array([k in by_key for k in range(fold.size)], bool)
    made = np.zeros(fold.type.shape, fold.type.numpy)
    for key in sorted(by_key):
        value = _of_one(fold, by_key[key])
        if value is None and not sampling:
            raise bad_index(fold.key, key, fold.size, "value", fold.location)
        made[key] = 0 if value is None else value
    return made


def _of_one(fold: Segment, values: list[list[Any]]) -> Any:
    """The fold of one group's records; null where it has no value."""
    from scalops.engine.witness import folds as plain

    one = Fold(fold.name, fold.of, fold.arguments[1:])
    state: Any = None
    for given in values:
        state = plain._step(one, state, given)
    if state is None:
        return 0 if one.kind == "count" else one.empty
    return plain.as_numpy(plain._result(one, state), one.type)


def _over_one_hot(fold: Segment, records: list[list[Any]]) -> Any:
    total: Any = None
    count = 0
    for key, *values in records:
        if key is not None:
            try:
                made = one_hot(key, fold.size)
            except Exception as error:
                error.location = fold.key_location  # type: ignore[attr-defined]
                raise
        if key is None or any(v is None for v in values):
            continue
        with np.errstate(all="ignore"):
            for value in map(np.asarray, values):
                made = np.multiply.outer(made, value)
        total, count = made if total is None else total + made, count + 1
    return total / count if total is not None and fold.over == "mean" else total
