"""String columns stay Arrow arrays; comparisons and choices are Arrow's kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalops.algebra.expressions import Call

_COMPARISONS: dict[str, Callable[..., Any]] = {
    "equal": pc.equal,
    "not_equal": pc.not_equal,
    "less": pc.less,
    "less_equal": pc.less_equal,
    "greater": pc.greater,
    "greater_equal": pc.greater_equal,
}


def reads_strings(call: Call) -> bool:
    """Whether a function has a string among its arguments."""
    return any(getattr(a.any_type, "is_string", False) for a in call.arguments)


def string_step(call: Call) -> Callable[..., Any]:
    """A comparison of strings to bool[rows], or a choice between strings."""
    if call.function.name == "where":
        return _choose
    compare = _COMPARISONS[call.function.name]

    def step(left: Any, right: Any) -> Any:
        result = pc.fill_null(compare(left, right), False)
        return result.to_numpy(zero_copy_only=False)

    return step


def _choose(condition: Any, left: Any, right: Any) -> Any:
    if not isinstance(condition, np.ndarray) or condition.ndim == 0:
        count = max(len(x) for x in (left, right) if isinstance(x, pa.Array))
        condition = np.full(count, bool(condition))
    return pc.if_else(pa.array(condition), left, right).cast(pa.string())
