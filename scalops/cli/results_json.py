"""Results as one JSON document.

A scalar is a number, a string or true and false; an array nested lists; a table a list of
records; an environment an object by field (a tuple a list); a loop the object
`{"env": ..., "iterations": ..., "converged": ..., "seconds": ...}`. What JSON has no number for is
one of the strings "NaN", "Infinity", "-Infinity"; a null of a table is null.
"""

from __future__ import annotations

import base64
import json
import math
from typing import Any

import numpy as np
import pyarrow as pa

from scalops.algebra.sparse import SparseVector
from scalops.environment import Environment, field_names
from scalops.loop import LoopResult


def to_json(result: Any) -> str:
    """The document, in one line."""
    return json.dumps(plain(result), ensure_ascii=False, allow_nan=False)


def plain(value: Any) -> Any:
    """The value in what JSON has: objects, lists, strings, numbers, true, false, null.

    >>> plain({"w": np.array([0.5, np.nan]), "n": np.int64(3)})
    {'w': [0.5, 'NaN'], 'n': 3}
    """
    if isinstance(value, LoopResult):
        return {
            "env": plain(value.env),
            "iterations": value.iterations,
            "converged": bool(value.converged),
            "seconds": loop_seconds(value),
        }
    if isinstance(value, pa.Table):
        return [plain(record) for record in records(value)]
    fields = named_fields(value)
    if fields is not None:
        return {name: plain(field) for name, field in fields.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, SparseVector):  # as a table's cell
        pairs = zip(value.indices.tolist(), value.values.tolist(), strict=True)
        return [{"index": i, "value": plain(v)} for i, v in pairs]
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "biu" or (value.dtype.kind == "f" and np.isfinite(value).all()):
            return value.tolist()
        return [plain(item) for item in value] if value.ndim else plain(value[()])
    return _scalar(value)


def _scalar(value: Any) -> Any:
    if isinstance(value, (np.datetime64, np.timedelta64)):
        return str(value)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def named_fields(value: Any) -> dict[str, Any] | None:
    """The fields of an environment, a dict or a named tuple; None for anything else."""
    if isinstance(value, Environment):
        return {name: getattr(value, name) for name in field_names(type(value))}
    if isinstance(value, dict):
        return {str(name): field for name, field in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return dict(zip(value._fields, value, strict=True))
    return None


def records(table: pa.Table) -> list[dict[str, Any]]:
    """The rows of a table; arrays of higher rank as nested lists."""
    columns = {name: _cells(table.column(name)) for name in table.column_names}
    return [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]


def _cells(column: pa.ChunkedArray) -> list[Any]:
    if isinstance(column.type, pa.FixedShapeTensorType) and not column.null_count:
        chunks = [chunk for chunk in column.chunks if len(chunk)]
        return [cell for chunk in chunks for cell in chunk.to_numpy_ndarray().tolist()]
    cells: list[Any] = column.to_pylist()
    return cells


def loop_seconds(result: LoopResult) -> float:
    """The seconds of the whole loop; those of its iterations where no total is known."""
    if "total" in result.profile:
        return float(result.profile["total"])
    return float(np.sum(result.history.column("seconds").to_numpy()))
