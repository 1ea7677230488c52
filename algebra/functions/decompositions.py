"""Decompositions and powers of one record's matrices."""

from __future__ import annotations

from typing import Any

import numpy as np

from scalops.algebra.dtypes import ArrayType, TupleType
from scalops.algebra.functions.linear import promoted
from scalops.algebra.functions.table import Function, register


def _matrix(kind: ArrayType, what: str, square: bool = False) -> tuple[str, int, int]:
    """The type of the results' numbers, rows and columns."""
    name = "float32" if promoted(kind) == "float32" else "float64"
    if kind.name == "float16" or len(kind.shape) < 2:
        raise TypeError(f"{what} needs a matrix, not {kind}")
    rows, columns = kind.shape[-2:]
    if square and rows != columns:
        raise ValueError(f"{what} needs a square matrix, not {kind}")
    return name, rows, columns


def _pinv_type(kind: ArrayType) -> ArrayType:
    name, rows, columns = _matrix(kind, "pinv")
    return ArrayType(name, (*kind.shape[:-2], columns, rows))


def _qr_type(kind: ArrayType) -> TupleType:
    name, rows, columns = _matrix(kind, "qr")
    stack, k = kind.shape[:-2], min(rows, columns)
    return TupleType((ArrayType(name, (*stack, rows, k)), ArrayType(name, (*stack, k, columns))))


def _svd_type(kind: ArrayType, full_matrices: bool) -> TupleType:
    name, rows, columns = _matrix(kind, "svd")
    stack, k = kind.shape[:-2], min(rows, columns)
    left, right = (rows, columns) if full_matrices else (k, k)
    shapes = ((rows, left), (k,), (right, columns))
    return TupleType(tuple(ArrayType(name, (*stack, *s)) for s in shapes))


def _svdvals_type(kind: ArrayType) -> ArrayType:
    name, rows, columns = _matrix(kind, "svdvals")
    return ArrayType(name, (*kind.shape[:-2], min(rows, columns)))


def _eigvalsh_type(kind: ArrayType) -> ArrayType:
    name, rows, _ = _matrix(kind, "eigvalsh", square=True)
    return ArrayType(name, (*kind.shape[:-2], rows))


def _rank_type(kind: ArrayType) -> ArrayType:
    _matrix(kind, "matrix_rank")
    return ArrayType("int64", kind.shape[:-2])


def _power_type(kind: ArrayType, n: int) -> ArrayType:
    name, *_ = _matrix(kind, "matrix_power", square=True)
    return ArrayType(name, kind.shape) if n < 0 else kind.strong()


def _power(matrix: Any, n: int) -> Any:
    return np.linalg.matrix_power(matrix, n)


def _cube(kind: ArrayType, **_: Any) -> float:
    return 10.0 * kind.size * min(kind.shape[-2:])


def _entry(name: str, infer: Any, evaluate: Any) -> Function:
    return register(Function(name, infer, evaluate, flops_of=_cube, can_fail=True))


PINV = _entry("pinv", _pinv_type, np.linalg.pinv)
QR = _entry("qr", _qr_type, np.linalg.qr)
SVD = _entry("svd", _svd_type, lambda a, full_matrices: np.linalg.svd(a, full_matrices))
SVDVALS = _entry("svdvals", _svdvals_type, np.linalg.svdvals)
EIGVALSH = _entry("eigvalsh", _eigvalsh_type, np.linalg.eigvalsh)
MATRIX_RANK = _entry("matrix_rank", _rank_type, np.linalg.matrix_rank)
MATRIX_POWER = _entry("matrix_power", _power_type, _power)
