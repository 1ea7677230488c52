"""Functions of list columns: their lengths, and one item of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalops.algebra.expressions import Call
from scalops.engine.columns import arrow_type, blank
from scalops.engine.kernels.nulls import Nullable
from scalops.engine.storage.arrow import to_column

Step = Callable[..., Any]


def _length(call: Call, flags: Sequence[bool], parameters: Any) -> Step:
    def step(column: pa.Array) -> Any:
        lengths = pc.fill_null(pc.list_value_length(column), 0)
        return lengths.to_numpy(zero_copy_only=False).astype(np.int64)

    return step


def _item(call: Call, flags: Sequence[bool], parameters: Any) -> Step:
    kind, list_type = call.type, arrow_type(call.arguments[0].type)

    def step(column: Any, index: Any) -> Any:
        if not isinstance(column, pa.Array):  # one list for all records
            rows = len(index)
            column = pa.array([column], list_type).take(pa.array(np.zeros(rows, np.int64)))
        offsets = column.offsets.to_numpy().astype(np.int64)
        lengths = np.diff(offsets)
        index = np.asarray(index)
        if index.dtype == np.uint64:
            index = np.minimum(index, np.uint64(2**62))
        index = index.astype(np.int64)
        at = np.where(index < 0, index + lengths, index)
        known = (at >= 0) & (at < lengths)
        if column.null_count:
            known &= column.is_valid().to_numpy(zero_copy_only=False)
        positions = np.where(known, offsets[:-1] + at, 0)
        if kind.is_arrow:
            return column.values.take(pa.array(positions, mask=~known))
        if not len(column.values):
            return Nullable(blank(kind, len(column)), known)
        values, valid = to_column(column.values.take(pa.array(positions)), kind, "a list's item")
        return Nullable(values, known if valid is None else known & valid)

    return step


LIST_STEPS: dict[str, Callable[[Call, Sequence[bool], dict[str, Any]], Step]] = {
    "list_length": _length,
    "list_item": _item,
}
