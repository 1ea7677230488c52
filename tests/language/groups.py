"""Groups in plain Python: the witness of the tests of groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

import scalops as so
from scalops.engine.witness.interpreter import Interpreter

Row = dict[str, Any]


def hashable(value: Any) -> Any:
    """Equal for values that are one key: null and NaN are, 0.0 is -0.0."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return tuple(map(hashable, value))
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    return value + 0.0 if isinstance(value, float) else value


def grouped(rows: Iterable[Row], key: Callable[[Row], Any]) -> list[tuple[Any, list[Row]]]:
    """Keys by first appearance, with their rows in order."""
    groups: dict[Any, tuple[Any, list[Row]]] = {}
    for row in rows:
        own = key(row)
        groups.setdefault(hashable(own), (own, []))[1].append(row)
    return list(groups.values())


def rows_of(columns: Mapping[str, Any]) -> list[Row]:
    """Columns as records."""
    lists = {n: v.tolist() if isinstance(v, np.ndarray) else list(v) for n, v in columns.items()}
    return [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]


def assert_rows(found: pa.Table, expected: list[Row], rtol: float = 1e-9) -> None:
    """The same records in the same order, numbers up to rounding."""
    made = found.to_pylist()
    assert len(made) == len(expected)
    for own, row in zip(made, expected, strict=True):
        assert own.keys() == row.keys()
        for name, value in row.items():
            assert_value(own[name], value, rtol)


def assert_value(found: Any, expected: Any, rtol: float = 1e-9) -> None:
    if expected is None or isinstance(expected, (str, bool)):
        assert found == expected
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_value(found[name], value, rtol)
    elif isinstance(expected, (list, tuple)) and any(v is None for v in expected):
        assert list(found) == list(expected)
    else:
        assert found is not None
        np.testing.assert_allclose(np.asarray(found, float), np.asarray(expected, float), rtol)


def collected(table: so.Table, threads: int = 2) -> pa.Table:
    """The records, of which the interpreter of plans says the same as the engine."""
    with so.session(threads=threads):
        made = table.collect()
    meant = [{n: plain(v) for n, v in row.items()} for row in Interpreter().records(table.plan)]
    flat = flattened(made)
    assert [list(r) for r in flat] == [list(r) for r in meant]
    for own, row in zip(flat, meant, strict=True):
        for name, value in row.items():
            assert_value(own[name], value)
    return made


def flattened(table: pa.Table) -> list[Row]:
    """Records whose columns of records are columns of their own, as plans name them."""
    rows: list[Row] = table.to_pylist()
    while any(isinstance(v, dict) for row in rows for v in row.values()):
        rows = [
            {
                (n if inner is None else f"{n}\u2024{inner}"): w
                for n, v in row.items()
                for inner, w in (v.items() if isinstance(v, dict) else [(None, v)])
            }
            for row in rows
        ]
    return rows


def plain(value: Any) -> Any:
    """A value of the interpreter's as Python has it."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, str) else value
