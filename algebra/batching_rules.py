"""How each function of the table is stacked: see `batching.py`.

A rule takes a call of one member that has a value for each record, its arguments stacked or the
same for all members, and the number of members k; it gives an expression of the shape
(k, *shape of the call). A function without one is not stacked: multi-output functions, those that
may fail on some members' values alone, those of strings and lists, random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from scalops.algebra.dtypes import ArrayType, Type, name_of
from scalops.algebra.expressions import Call, Expression, call
from scalops.algebra.functions import function


class NoRule(Exception):
    """These expressions cannot be stacked."""


@dataclass(frozen=True)
class Operand:
    """An argument: the same for all members, or `batched`, with their axis in front.

    `any_type` is one member's type. `per_record`: its value differs from record to record.
    """

    expression: Expression
    any_type: Type
    batched: bool
    per_record: bool

    @property
    def kind(self) -> ArrayType:
        """One member's type; NoRule where it is no array of numbers."""
        if not isinstance(self.any_type, ArrayType) or not self.any_type.is_plain:
            raise NoRule
        return self.any_type

    @property
    def rank(self) -> int:
        return len(self.kind.shape)

    def aligned(self, count: int, rank: int) -> Expression:
        """With axes of length 1 behind the members', so that one member has this rank."""
        if not self.batched or self.rank == rank:
            return self.expression
        return reshaped(self.expression, count, *(1,) * (rank - self.rank), *self.kind.shape)

    def flat(self, count: int) -> Expression:
        """As one vector: of all members, one after the other, where they differ."""
        size = self.kind.size * (count if self.batched else 1)
        return reshaped(self.expression, size)

    def spread(self, count: int) -> Expression:
        """With the members' axis, also where they are alike."""
        if self.batched:
            return self.expression
        return _call("broadcast_to", self.expression, shape=(count, *self.kind.shape))


class Made(NamedTuple):
    """A stacked expression, and how many products with matrices are new in it."""

    expression: Expression
    products: int = 0


Rule = Callable[[Call, Sequence[Operand], int], Made]


def rule_of(node: Call) -> Rule:
    """The function's rule; raises NoRule."""
    entry = node.function
    if entry.ufunc is not None and entry.ufunc.nout == 1:
        return _elementwise
    if entry.name not in RULES:
        raise NoRule
    return RULES[entry.name]


def _call(name: str, *arguments: Expression, **parameters: Any) -> Call:
    return call(function(name), *arguments, **parameters)


def _again(node: Call, *arguments: Expression, **parameters: Any) -> Made:
    """The same function of other arguments."""
    return Made(call(node.function, *arguments, location=node.location, **parameters))


def reshaped(e: Expression, *shape: int) -> Expression:
    """The expression in this shape."""
    return e if e.type.shape == shape else _call("reshape", e, shape=shape)


# Elementwise functions.


def _elementwise(node: Call, operands: Sequence[Operand], count: int) -> Made:
    """Broadcasting: members of lower rank get axes behind the members' own."""
    ufunc = node.function.ufunc
    assert ufunc is not None
    kinds = [o.kind for o in operands]
    if all(k.weak for k in kinds):
        names: list[str | None] = [None] * len(kinds)
    else:
        given = [k.python if k.weak else k.numpy for k in kinds]
        resolved = ufunc.resolve_dtypes((*given, *[None] * ufunc.nout))
        names = [name_of(dtype) for dtype in resolved[: ufunc.nin]]
    rank = len(node.type.shape)
    return _again(
        node, *(_definite(o, n, count, rank) for o, n in zip(operands, names, strict=True))
    )


def _definite(operand: Operand, name: str | None, count: int, rank: int) -> Expression:
    """An aligned operand. Python's numbers take their partner's type, which an array does not."""
    made = operand.aligned(count, rank)
    if not (operand.batched and operand.kind.weak) or name is None or made.type.name == name:
        return made
    if not name.startswith("float"):  # where a number that is too large is an error
        raise NoRule
    return _call("cast", made, dtype=name)


def _where(node: Call, operands: Sequence[Operand], count: int) -> Made:
    rank = len(node.type.shape)
    condition, *sides = operands
    both_weak = all(s.kind.weak for s in sides)
    name = None if both_weak else node.type.name
    return _again(
        node, condition.aligned(count, rank), *(_definite(s, name, count, rank) for s in sides)
    )


def _aligned(node: Call, operands: Sequence[Operand], count: int) -> Made:
    """A function that broadcasts as an elementwise one does, with its parameters."""
    if any(o.batched and o.kind.weak for o in operands):
        raise NoRule
    rank = len(node.type.shape)
    return _again(node, *(o.aligned(count, rank) for o in operands), **dict(node.parameters))


# Linear algebra.


def _matmul(node: Call, operands: Sequence[Operand], count: int) -> Made:
    """One product of a record's vector x with all members' vectors or matrices.

        x[d] @ w_i[d] -> W[k,d] @ x,  A_i[m,d] @ x -> [A_1; ..; A_k] @ x,
        x @ B_i[d,m] -> x @ [B_1, .., B_k]

    Any other would be many small products, one for each record and member.
    """
    left, right = operands
    x, other = (left, right) if right.batched else (right, left)
    if x.batched or other.per_record or x.rank != 1 or other.rank > 2:
        raise NoRule
    if other.rank == 1:
        return Made(_call("matmul", other.expression, x.expression), 1)
    if other is left:
        (m, d) = other.kind.shape
        product = _call("matmul", reshaped(left.expression, count * m, d), x.expression)
    else:
        (d, m) = other.kind.shape
        beside = reshaped(_call("transpose", right.expression, axes=(1, 0, 2)), d, count * m)
        product = _call("matmul", x.expression, beside)
    return Made(reshaped(product, count, m), 1)


def _squared_distances(node: Call, operands: Sequence[Operand], count: int) -> Made:
    """Of a record's vector from the vectors of all members, one after the other."""
    x, other = operands
    if x.batched or other.per_record:
        raise NoRule
    flat = reshaped(other.expression, count * other.kind.size // x.kind.size, x.kind.size)
    made = call(node.function, x.expression, flat, location=node.location, **dict(node.parameters))
    return Made(reshaped(made, count, *node.type.shape), 1)


def _outer(node: Call, operands: Sequence[Operand], count: int) -> Made:
    left, right = operands
    (m, n) = node.type.shape
    if not right.batched:
        product = _call("outer", left.flat(count), right.flat(count))
        return Made(reshaped(product, count, m, n))
    u = reshaped(left.expression, *((count, m, 1) if left.batched else (m, 1)))
    return Made(_call("multiply", u, reshaped(right.expression, count, 1, n)))


def _norm(node: Call, operands: Sequence[Operand], count: int) -> Made:
    (a,), parameters = operands, dict(node.parameters)
    axis = parameters.pop("axis", None)
    if axis is not None:
        return _again(node, a.expression, axis=_shifted(axis, a.rank), **parameters)
    if parameters.get("keepdims"):
        raise NoRule
    if a.rank == 1 or parameters.get("ord") is None:
        flat = reshaped(a.expression, count, a.kind.size)
        return _again(node, flat, axis=1, **parameters)
    return _again(node, a.expression, axis=(1, 2), **parameters)


# Axes.


def _shifted(axis: Any, rank: int) -> Any:
    """An axis of one member's array of this rank, or several, as those of all members'."""
    if isinstance(axis, tuple):
        return tuple(_shifted(a, rank) for a in axis)
    return axis % rank + 1


def _along(several: bool = True, whole: Any = None) -> Rule:
    """A function along axes; without one it takes all (`several` at once), else the flat array.

    `whole` is the default where that is none of the two.
    """

    def rule(node: Call, operands: Sequence[Operand], count: int) -> Made:
        (a,), parameters = operands, dict(node.parameters)
        axis = parameters.pop("axis", whole)
        if a.rank == 0:
            raise NoRule
        if axis is not None:
            return _again(node, a.expression, axis=_shifted(axis, a.rank), **parameters)
        if several:
            axes = tuple(range(1, a.rank + 1))
            return _again(node, a.expression, axis=axes, **parameters)
        if parameters.get("keepdims"):
            raise NoRule
        return _again(node, reshaped(a.expression, count, a.kind.size), axis=1, **parameters)

    return rule


def _index(node: Call, operands: Sequence[Operand], count: int) -> Made:
    (a,) = operands
    key = (("slice", None, None, None), *dict(node.parameters)["key"])
    return _again(node, a.expression, key=key)


def _take(node: Call, operands: Sequence[Operand], count: int) -> Made:
    """An index that is outside fails for all members alike, if it is the same.

    One for each record is a search by members and records, for which there is no product.
    """
    a, indices = operands
    if indices.batched or indices.per_record:
        raise NoRule
    axis = dict(node.parameters).get("axis", 0)
    return _again(node, a.expression, indices.expression, axis=_shifted(axis, a.rank))


def _reshape(node: Call, operands: Sequence[Operand], count: int) -> Made:
    return Made(reshaped(operands[0].expression, count, *node.type.shape))


def _transpose(node: Call, operands: Sequence[Operand], count: int) -> Made:
    (a,) = operands
    axes = dict(node.parameters)["axes"]
    return _again(node, a.expression, axes=(0, *(x % a.rank + 1 for x in axes)))


def _broadcast_to(node: Call, operands: Sequence[Operand], count: int) -> Made:
    shape = node.type.shape
    return _again(node, operands[0].aligned(count, len(shape)), shape=(count, *shape))


def _joined(node: Call, operands: Sequence[Operand], count: int) -> Made:
    if any(o.batched and o.kind.weak for o in operands):
        raise NoRule
    axis = dict(node.parameters).get("axis", 0)
    made = (o.spread(count) for o in operands)
    return _again(node, *made, axis=_shifted(axis, len(node.type.shape)))


def _unchanged(node: Call, operands: Sequence[Operand], count: int) -> Made:
    """Element by element, or over the last axes, whatever stands before them."""
    return _again(node, operands[0].expression, **dict(node.parameters))


_FOLDS = (
    "sum", "prod", "mean", "max", "min", "any", "all", "var", "std", "ptp", "count_nonzero",
    "median", "nansum", "nanprod", "nanmean", "nanmin", "nanmax", "nanmedian", "logsumexp",
)  # fmt: skip
RULES: dict[str, Rule] = {
    "where": _where,
    "isclose": _aligned,
    "cast": _unchanged,
    "round": _unchanged,
    "nan_to_num": _unchanged,
    "matmul": _matmul,
    "squared_distances": _squared_distances,
    "outer": _outer,
    "norm": _norm,
    "tril": _unchanged,
    "triu": _unchanged,
    "index": _index,
    "take": _take,
    "reshape": _reshape,
    "transpose": _transpose,
    "broadcast_to": _broadcast_to,
    "stack": _joined,
    "concatenate": _joined,
    **dict.fromkeys(_FOLDS, _along()),
    **dict.fromkeys(("argmax", "argmin", "cumsum", "cumprod"), _along(several=False)),
    **dict.fromkeys(("sort", "argsort", "softmax"), _along(whole=-1)),
    "flip": _along(),
}
