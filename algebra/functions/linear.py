"""Linear algebra of one record's vectors and matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from scalops.algebra import sparse_rules
from scalops.algebra.dtypes import ArrayType, TupleType, name_of
from scalops.algebra.functions.table import Function, register


def promoted(*types: ArrayType) -> str:
    """NumPy's result type of a product of these."""
    for t in types:
        if not t.is_numeric:
            raise TypeError(f"linear algebra has no meaning for {t}")
    name = name_of(np.result_type(*(t.numpy for t in types)))
    assert name is not None
    return name


def _inexact(*types: ArrayType) -> str:
    promoted(*types)
    return "float32" if all(t.name == "float32" for t in types) else "float64"


def _matmul_type(a: ArrayType, b: ArrayType) -> ArrayType:
    name = promoted(a, b)
    if not a.shape or not b.shape:
        raise ValueError(f"matmul needs vectors or matrices, not {a} and {b}")
    inner = b.shape[-2] if len(b.shape) > 1 else b.shape[0]
    if a.shape[-1] != inner:
        raise ValueError(f"matmul cannot multiply {a} by {b}: {a.shape[-1]} is not {inner}")
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    rows = a.shape[-2:-1] if len(a.shape) > 1 else ()
    columns = b.shape[-1:] if len(b.shape) > 1 else ()
    return ArrayType(name, (*batch, *rows, *columns))


def _outer_type(a: ArrayType, b: ArrayType) -> ArrayType:
    return ArrayType(promoted(a, b), (a.size, b.size))


def _square(kind: ArrayType, what: str) -> None:
    if len(kind.shape) < 2 or kind.shape[-1] != kind.shape[-2]:
        raise ValueError(f"{what} needs a square matrix, not {kind}")


def _solve_type(a: ArrayType, b: ArrayType) -> ArrayType:
    _square(a, "solve")
    if not b.shape or (b.shape[0] if len(b.shape) == 1 else b.shape[-2]) != a.shape[-1]:
        raise ValueError(f"solve cannot use {a} with a right side {b}")
    if len(b.shape) == 1:  # one right side for every matrix
        return ArrayType(_inexact(a, b), a.shape[:-1])
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return ArrayType(_inexact(a, b), (*batch, *b.shape[-2:]))


def _same_square(what: str) -> Callable[[ArrayType], ArrayType]:
    def infer(a: ArrayType) -> ArrayType:
        _square(a, what)
        return ArrayType(_inexact(a), a.shape)

    return infer


def _det_type(a: ArrayType) -> ArrayType:
    _square(a, "det")
    return ArrayType(_inexact(a), a.shape[:-2])


def _slogdet_type(a: ArrayType) -> TupleType:
    kind = _det_type(a)
    return TupleType((kind, kind))


def _eigh_type(a: ArrayType) -> TupleType:
    _square(a, "eigh")
    name = _inexact(a)
    return TupleType((ArrayType(name, a.shape[:-1]), ArrayType(name, a.shape)))


def _norm_type(
    a: ArrayType, ord: Any = None, axis: Any = None, keepdims: bool = False
) -> ArrayType:
    promoted(a)
    ones = np.broadcast_to(np.ones((), a.numpy), a.shape)
    result = np.asarray(np.linalg.norm(ones, ord, axis, keepdims))
    return ArrayType(result.dtype.name, result.shape)


def _cube(a: ArrayType, *_: ArrayType) -> float:
    return float(a.shape[-1]) ** 3


MATMUL = register(
    Function(
        "matmul",
        _matmul_type,
        np.matmul,
        flops_of=lambda a, b: 2.0 * a.size * (b.shape[-1] if len(b.shape) > 1 else 1),
        form="@",
        sparse=sparse_rules.matmul_type,
    )
)
OUTER = register(Function("outer", _outer_type, np.outer, sparse=sparse_rules.outer_type))
NORM = register(
    Function(
        "norm",
        _norm_type,
        np.linalg.norm,
        flops_of=lambda a, **_: 2.0 * a.size,
        sparse=sparse_rules.norm_type,
    )
)
SOLVE = register(
    Function("solve", _solve_type, np.linalg.solve, flops_of=lambda a, b: _cube(a), can_fail=True)
)
INV = register(Function("inv", _same_square("inv"), np.linalg.inv, flops_of=_cube, can_fail=True))
CHOLESKY = register(
    Function(
        "cholesky", _same_square("cholesky"), np.linalg.cholesky, flops_of=_cube, can_fail=True
    )
)
DET = register(Function("det", _det_type, np.linalg.det, flops_of=_cube))
SLOGDET = register(Function("slogdet", _slogdet_type, np.linalg.slogdet, flops_of=_cube))
EIGH = register(Function("eigh", _eigh_type, np.linalg.eigh, flops_of=_cube, can_fail=True))
