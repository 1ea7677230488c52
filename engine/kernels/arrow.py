"""Steps whose arguments or results are Arrow columns: strings and lists.

A step's column holds a null wherever an argument does; its mask is made from the column
(`nulls.py`). An argument that is the same for all records is a Python string or list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.expressions import Call
from scalops.engine.columns import arrow_type
from scalops.engine.kernels.lists import LIST_STEPS
from scalops.engine.kernels.strings import STRING_STEPS

Step = Callable[..., Any]


def touches_arrow(call: Call) -> bool:
    """Whether a function takes or gives strings or lists."""
    kinds = (call.any_type, *(a.any_type for a in call.arguments))
    return any(isinstance(k, ArrayType) and k.is_arrow for k in kinds)


def arrow_step(call: Call, flags: Sequence[bool]) -> Step | None:
    """The step of such a function; None for any other."""
    if not touches_arrow(call):
        return None
    if call.function.name in ("where", "coalesce"):
        return _choice(call)
    maker = STRING_STEPS.get(call.function.name) or LIST_STEPS.get(call.function.name)
    return None if maker is None else maker(call, flags, dict(call.parameters))


def _choice(call: Call) -> Step:
    """One column's value or the other's, by bool[rows]."""
    kind = arrow_type(call.type)

    def step(condition: Any, left: Any, right: Any) -> pa.Array:
        if not isinstance(condition, np.ndarray) or condition.ndim == 0:
            count = next(len(x) for x in (left, right) if isinstance(x, pa.Array))
            condition = np.full(count, bool(condition))
        sides = (x if isinstance(x, pa.Array) else pa.scalar(x, kind) for x in (left, right))
        return pc.if_else(pa.array(condition), *sides)

    return step
