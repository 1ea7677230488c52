"""Calls of constants become constants."""

from __future__ import annotations

import numpy as np

from scalops.algebra.dtypes import ArrayType
from scalops.algebra.errors import DataError
from scalops.algebra.expressions import Call, Constant, constant
from scalops.algebra.sparse import SparseVector
from scalops.algebra.tree import Node

_LARGEST_BYTES = 1 << 16


def fold_constants(node: Node) -> Node | None:
    """f(c1, c2, ...) -> c, where c is f's value.

    Sound because functions of the table are pure. Not where the result is larger than 64 KiB
    and than its inputs (a plan is not the place to store a broadcast array), nor where the
    function raises: that error belongs to the run, with its line.
    """
    if not isinstance(node, Call) or not node.arguments:
        return None
    values = [a.value for a in node.arguments if isinstance(a, Constant)]
    kind = node.any_type
    if len(values) != len(node.arguments) or not isinstance(kind, ArrayType) or kind.is_arrow:
        return None
    if kind.bytes > max(_LARGEST_BYTES, *(_bytes(v) for v in values)):
        return None
    try:
        with np.errstate(all="ignore"):
            value = node.function.evaluate(*values, **dict(node.parameters))
    except (ArithmeticError, LookupError, ValueError, np.linalg.LinAlgError, DataError):
        return None
    if kind.weak and kind.shape:
        return None
    if kind.weak:
        return Constant(kind.python(value), location=node.location)
    if kind.is_sparse:
        return constant(value)
    return constant(np.asarray(value, dtype=kind.numpy)[()])


def _bytes(value: object) -> int:
    return value.nbytes if isinstance(value, SparseVector) else np.asarray(value).nbytes
