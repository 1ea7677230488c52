"""Types as users write them: ours, their names, NumPy's, Python's and Arrow's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from scalops.algebra.dtypes import ArrayType, name_of
from scalops.algebra.errors import ScalopsError
from scalops.engine.storage.arrow import type_from_arrow
from scalops.engine.storage.type_names import FORMS, type_named

EXPECTED = f"types are so.float64 and the like, int, np.int64, or their names: {FORMS}"


def written_type(kind: Any) -> ArrayType | None:
    """The type that is written so, None where there is none.

    >>> str(written_type("list[string]")), str(written_type(np.int32)), str(written_type(float))
    ('list[string]', 'int32', 'float64')
    """
    if isinstance(kind, ArrayType):
        return kind.strong()
    if isinstance(kind, pa.DataType):
        try:
            return type_from_arrow(kind)
        except ScalopsError:
            return None
    if not isinstance(kind, (str, type, np.dtype)):
        return None
    known = type_named(kind) if isinstance(kind, str) else None
    if known is not None:
        return known
    try:
        dtype = np.dtype(kind)
    except (TypeError, ValueError):
        return None
    if dtype.kind == "O" and not isinstance(kind, np.dtype):
        return None  # NumPy takes any class for an object
    name = name_of(dtype)
    return None if name is None else ArrayType(name)


def readable(written: Any) -> str:
    """What was given for a type, for messages."""
    if isinstance(written, Mapping):
        return "{" + ", ".join(f"{k!r}: {readable(v)}" for k, v in written.items()) + "}"
    if isinstance(written, (list, tuple)):
        inside = ", ".join(map(readable, written))
        return f"[{inside}]" if isinstance(written, list) else f"({inside})"
    if isinstance(written, ArrayType):
        return str(written)
    return written.__name__ if isinstance(written, type) else repr(written)
