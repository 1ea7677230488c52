"""Functions of string columns, which stay Arrow arrays, and casts from and to strings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalops.algebra.expressions import Call
from scalops.algebra.functions import casts, strings
from scalops.algebra.functions.hashes import bucketed
from scalops.algebra.functions.hashing import hash_strings

Step = Callable[..., Any]
Maker = Callable[[Call, Sequence[bool], dict[str, Any]], Step]


def _numbers(column: pa.Array, otherwise: Any) -> Any:
    """Arrow's numbers or bools as NumPy's; at a null the value does not matter."""
    return pc.fill_null(column, otherwise).to_numpy(zero_copy_only=False)


def _comparison(compare: Callable[..., Any]) -> Maker:
    return lambda *_: lambda left, right: _numbers(compare(left, right), False)


def _to_strings(kernel: Callable[..., Any]) -> Maker:
    return lambda call, flags, parameters: lambda column: kernel(column, **parameters)


def _to_numbers(kernel: Callable[..., Any], otherwise: Any) -> Maker:
    return lambda call, flags, parameters: (
        lambda column: _numbers(kernel(column, **parameters), otherwise)
    )


def _concatenation(call: Call, flags: Sequence[bool], parameters: Any) -> Step:
    return strings.concatenate


def _cast(call: Call, flags: Sequence[bool], parameters: Any) -> Step:
    kind = call.type
    if not call.arguments[0].type.is_string:
        return casts.texts
    return (lambda column: column) if kind.is_string else lambda column: casts.read(column, kind)


STRING_STEPS: dict[str, Maker] = {
    "equal": _comparison(pc.equal),
    "not_equal": _comparison(pc.not_equal),
    "less": _comparison(pc.less),
    "less_equal": _comparison(pc.less_equal),
    "greater": _comparison(pc.greater),
    "greater_equal": _comparison(pc.greater_equal),
    "str_lower": _to_strings(strings.lower),
    "str_upper": _to_strings(strings.upper),
    "str_strip": _to_strings(strings.strip),
    "str_split": _to_strings(strings.split),
    "str_replace": _to_strings(strings.replace),
    "str_contains": _to_numbers(strings.contains, False),
    "str_is_in": _to_numbers(strings.is_in, False),
    "str_length": _to_numbers(strings.length, np.int64(0)),
    "str_concatenate": _concatenation,
    "cast": _cast,
    "hash": lambda call, flags, given: lambda column: bucketed(hash_strings(column), **given),
}
