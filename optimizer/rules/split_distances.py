"""What all records share is no part of a distance."""

from __future__ import annotations

from functools import reduce
from typing import Any

from scalops.algebra.expressions import Call, Expression, call
from scalops.algebra.functions import function
from scalops.algebra.products import in_type
from scalops.algebra.tree import Node
from scalops.optimizer.invariance import is_uniform
from scalops.optimizer.quadratics import quadratic

_FLOATS = ("float32", "float64")
_Term = tuple[Expression, bool]


def split_distances(node: Node) -> Node | None:
    """Σ_j (q_kj + u_kj) -> Σ_j q_kj + Σ_j u_kj, where q alone makes a distance.

    q is a weighted square of differences from vectors that all records share
    (`optimizer/quadratics.py`); u is the same for all records, as the log(2π·variance) of a
    normal density, and is added up once. Also q - u, several u, a mean, and a scalar factor
    around q + u. Sound by associativity and commutativity of addition, up to rounding: a numeric
    decision, after which `contract_distances` takes its own. float32 and float64 only, where q
    and the whole are of one type.
    """
    if not isinstance(node, Call) or node.function.name not in ("sum", "mean"):
        return None
    (argument,) = node.arguments
    if argument.type.name not in _FLOATS or not argument.type.is_plain:
        return None
    split = _split(argument)
    if split is None:
        return None
    summands, around = split
    parts: list[_Term] = []
    for e, negative in summands:
        part = _folded(node, e, argument)
        if not is_uniform(e) and quadratic(part) is None:
            more = split_distances(part)
            if more is None:
                return None
            assert isinstance(more, Expression)
            part = more
        parts.append((part, negative))
    made = _around(_total(parts), around, node)
    return made if made.type == node.type else None


def _split(whole: Expression) -> tuple[list[_Term], list[tuple[Expression, str]]] | None:
    """Several summands, of which one is the record's own, and the scalar factors around them."""
    around: list[tuple[Expression, str]] = []
    e = whole
    while isinstance(e, Call):
        match e.function.name, e.arguments:
            case "negative", (a,):
                around.append((e, "negative"))
                e = a
            case "multiply", (a, b) if not (a.type.shape and b.type.shape):
                factor, e = (b, a) if a.type.shape else (a, b)
                around.append((factor, "multiply"))
            case "divide", (a, b) if a.type.shape and not b.type.shape:
                around.append((b, "divide"))
                e = a
            case _:
                break
    terms = _terms(e)
    own = [t for t, _ in terms if not is_uniform(t)]
    if len(terms) < 2 or len(own) != 1:
        return None
    return (terms, around) if own[0].type == e.type == whole.type else None


def _terms(e: Expression) -> list[_Term]:
    """What is added up, with whether it is subtracted; one that all records share stays whole."""
    found: list[_Term] = []
    negative = False
    after: list[_Term] = []
    while isinstance(e, Call) and e.function.name in ("add", "subtract", "negative"):
        if e.function.name == "negative":
            (e,) = e.arguments
            negative = not negative
            continue
        a, b = e.arguments
        minus = e.function.name == "subtract"
        if is_uniform(b):
            after.append((b, negative != minus))
            e = a
        elif is_uniform(a):
            found.append((a, negative))
            e, negative = b, negative != minus
        else:
            break
    return [*found, (e, negative), *reversed(after)]


def _folded(node: Call, e: Expression, whole: Expression) -> Expression:
    """The sum or mean of one summand, of the whole's type and width."""
    if not is_uniform(e):
        return call(node.function, e, location=node.location, **dict(node.parameters))
    if e.type.name != whole.type.name or e.type.weak:
        if e.type.shape:
            e = call(function("cast"), e, dtype=whole.type.name)
        else:
            e = in_type(e, whole.type.name)
    if e.type.shape != whole.type.shape:
        e = call(function("broadcast_to"), e, shape=whole.type.shape)
    return call(node.function, e, location=node.location, **dict(node.parameters))


def _total(parts: list[_Term]) -> Expression:
    def joined(left: _Term, right: _Term) -> _Term:
        if left[1] and not right[1]:
            return call(function("subtract"), right[0], left[0]), False
        if left[1]:
            return call(function("add"), left[0], right[0]), True
        return call(function("subtract" if right[1] else "add"), left[0], right[0]), False

    made, negative = reduce(joined, parts)
    return call(function("negative"), made) if negative else made


def _around(made: Expression, around: list[tuple[Expression, str]], node: Call) -> Expression:
    for factor, name in reversed(around):
        given: tuple[Any, ...] = (made,) if name == "negative" else (made, factor)
        made = call(function(name), *given, location=node.location)
    return made
