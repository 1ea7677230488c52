"""What an opaque aggregate gives: its parts, in the types that its first results had."""

from __future__ import annotations

from typing import Any

import numpy as np

from scalops.algebra.captured import Captured
from scalops.algebra.errors import UserFunctionError
from scalops.algebra.folds import OpaqueAggregate
from scalops.engine.opaque.records import take_apart
from scalops.engine.opaque.results import Unfit, column_of


def typed_part(fold: OpaqueAggregate, whole: Any) -> Any:
    """The part of an opaque aggregate's result that the fold stands for.

    Raises UserFunctionError where it is not what the sampled records' was.
    """
    captured = fold.finalize or fold.merge
    value = whole
    if fold.fields:
        names, parts = take_apart(whole)
        if names is None or set(names) != set(fold.fields):
            expected = ", ".join(fold.fields)
            raise _drift(captured, names or type(whole).__name__, f"the parts {expected}")
        value = parts[names.index(fold.fields[fold.output])]
    kind = fold.type
    if kind.is_object:
        return value
    if value is None:
        raise _drift(captured, "None", str(kind))
    try:
        column, _ = column_of([value], kind)
    except Unfit:
        raise _drift(captured, f"the {type(value).__name__} {value!r}", str(kind)) from None
    return np.array(column[0])[()] if isinstance(column, np.ndarray) else column[0].as_py()


def _drift(captured: Captured, found: object, expected: str) -> UserFunctionError:
    shown = str(found)
    return UserFunctionError(
        f"the aggregate's result by {captured.name} is"
        f" {shown if len(shown) <= 100 else shown[:100] + '...'}; expected {expected}, as over the"
        " first records",
        location=captured.location,
        hint="make every result one type",
    )
