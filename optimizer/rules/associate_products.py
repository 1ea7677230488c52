"""Products of matrices are computed in the order that costs least for one record."""

from __future__ import annotations

from typing import TypeGuard

from scalops.algebra.expressions import Call, Expression, call, columns
from scalops.algebra.functions import function
from scalops.algebra.tree import Node

_FLOATS = ("float32", "float64")


def associate_products(node: Node) -> Node | None:
    """B @ (A @ x) -> (B @ A) @ x  and  (x @ A) @ B -> x @ (A @ B), for A and B of no record;

    outer(a, b) @ v -> (b @ v)·a  and  v @ outer(a, b) -> (v @ a)·b;
    sum(a * b) -> a @ b over the last axis.

    Matrices that are the same for all records meet each other once an iteration, where that
    leaves less to do for a record; no outer product is made only to be multiplied; a sum of an
    elementwise product is a dot product, which makes no array of it. B @ A costs at most what as
    many records cost as it has rows or columns. Sound by associativity and distributivity, up to
    rounding: float32 and float64 only, and where what meets first has the result's type.
    """
    if not isinstance(node, Call) or not columns([node]) or not _is_float(node):
        return None
    if node.function.name == "matmul":
        made = _of_outer(*node.arguments) or _associated(*node.arguments)
        return made if made is not None and _in_its_type(made, node) else None
    if node.function.name == "sum":
        return _dot(node)
    return None


def _in_its_type(made: Call, node: Call) -> bool:
    first = [a for a in made.arguments if isinstance(a, Call) and a.function.name == "matmul"]
    return all(m.type.name == node.type.name for m in (made, *first))


def _associated(left: Expression, right: Expression) -> Call | None:
    if _is_product(right) and not columns([left]) and len(left.type.shape) > 0:
        a, x = right.arguments
        if not columns([a]) and len(a.type.shape) == 2 and len(x.type.shape) == 1:
            made = _product(_product(left, a), x)
            return made if _work(made) < _work(_product(left, right)) else None
    if _is_product(left) and not columns([right]) and len(right.type.shape) > 0:
        x, a = left.arguments
        if not columns([a]) and len(a.type.shape) == 2 and len(x.type.shape) == 1:
            made = _product(x, _product(a, right))
            return made if _work(made) < _work(_product(left, right)) else None
    return None


def _of_outer(left: Expression, right: Expression) -> Call | None:
    if _is_outer(left) and len(right.type.shape) == 1:
        a, b = left.arguments
        return call(function("multiply"), _product(b, right), a)
    if _is_outer(right) and len(left.type.shape) == 1:
        a, b = right.arguments
        return call(function("multiply"), _product(left, a), b)
    return None


def _dot(node: Call) -> Call | None:
    """Of a matrix and a vector, or of two different vectors; squares are a norm's."""
    (argument,) = node.arguments
    parameters = dict(node.parameters)
    rank = len(argument.type.shape)
    if parameters.get("keepdims") or parameters.get("axis") not in _last_axis(rank):
        return None
    if not isinstance(argument, Call) or argument.function.name != "multiply":
        return None
    a, b = argument.arguments
    if a == b or not (_is_float(a) and _is_float(b)):
        return None
    if a.type.is_sparse or b.type.is_sparse:
        return None
    shapes = a.type.shape, b.type.shape
    if rank == 2 and len(shapes[0]) == 1:  # a matrix of the record's has no kernel on this side
        a, b = b, a
    if rank not in (1, 2) or not a.type.shape or a.type.shape[-1:] != b.type.shape:
        return None
    made = _product(a, b)
    return made if made.type == node.type else None


def _last_axis(rank: int) -> tuple[object, ...]:
    return (None, 0, -1, (0,), (-1,)) if rank == 1 else (rank - 1, -1, (rank - 1,), (-1,))


def _product(a: Expression, b: Expression) -> Call:
    return call(function("matmul"), a, b)


def _is_product(e: Expression) -> TypeGuard[Call]:
    return isinstance(e, Call) and e.function.name == "matmul" and _is_float(e)


def _is_outer(e: Expression) -> TypeGuard[Call]:
    if not isinstance(e, Call) or e.function.name != "outer":
        return False
    return all(len(a.type.shape) == 1 and _is_float(a) for a in e.arguments)


def _is_float(e: Expression) -> bool:
    kind = e.any_type
    return getattr(kind, "name", "") in _FLOATS and not getattr(kind, "is_sparse", True)


def _work(e: Expression) -> float:
    """Multiplications for one record: products of what no record changes are free."""
    if not isinstance(e, Call) or e.function.name != "matmul" or not columns([e]):
        return 0.0
    left, right = e.arguments
    inner = left.type.shape[-1]
    return _work(left) + _work(right) + e.type.size * inner
