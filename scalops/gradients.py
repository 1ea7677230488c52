"""`so.grad` and `so.value_and_grad`: derivatives of losses by what they read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from scalops.algebra.derivatives.reverse import gradient
from scalops.algebra.derivatives.terms import Term, dense, full, zeros
from scalops.algebra.derivatives.variables import VARIABLE, variable
from scalops.algebra.errors import PlanError, TraceError, user_location
from scalops.algebra.expressions import Call, Constant, Expression, columns, constant
from scalops.algebra.operators import Operator
from scalops.algebra.printing import text
from scalops.algebra.tree import Node, substitute, walk
from scalops.branches import KeyFunction
from scalops.differentiating import differentiating
from scalops.environment import Environment, field_names
from scalops.plain_values import HasNoPlainForm, is_comparing
from scalops.rows import RowFunction
from scalops.structured import StructuredValue
from scalops.table import Table
from scalops.value import Value, holds_value, lift


def grad(f: Any, wrt: Any) -> Any:
    """The gradient of a number by `wrt`, in the structure of `wrt`.

    `f` is a Value of one float, or a function that makes it of `wrt`. `wrt` is a Value, a field
    of an environment, a column of the record, or a dict, list, tuple or environment of them; for
    a function also numbers and arrays. What a loss has of `wrt` only in comparisons, filters and
    keys has no gradient.
    """
    return _value_and_grad(f, wrt, "so.grad")[1]


def value_and_grad(f: Any, wrt: Any) -> tuple[Value, Any]:
    """The loss and its gradient by `wrt`, as so.grad gives it: (value, gradient), of one pass."""
    return _value_and_grad(f, wrt, "so.value_and_grad")


def _value_and_grad(f: Any, wrt: Any, what: str) -> tuple[Value, Any]:
    leaves: list[Expression] = []
    if not callable(f) or isinstance(f, Value):
        if is_comparing() and not holds_value([f]) and not isinstance(f, (StructuredValue, Table)):
            raise HasNoPlainForm  # of a number nobody can tell what it was made of
        _mapped(wrt, lambda v, name: leaves.append(_variable(v, name, what)), what)
        loss = _loss(f, what)
        found = _gradients(loss, leaves, what)
    else:
        own: list[Expression] = []

        def stand_in(value: Any, name: str) -> Value:
            own.append(_variable(value, name, what, of_function=True))
            leaves.append(variable(own[-1]))
            return Value(leaves[-1])

        given = _mapped(wrt, stand_in, what)
        with differentiating(what, leaves):
            made_of = f(given)
        loss = _loss(made_of, what)
        found = _gradients(loss, leaves, what)
        back: dict[Node, Node] = dict(zip(leaves, own, strict=True))
        loss, found = substitute(loss, back), [substitute(g, back) for g in found]
    made = iter(found)
    return Value(loss), _mapped(wrt, lambda *_: Value(next(made)), what)


# What is differentiated, and by what.


def _loss(f: Any, what: str) -> Expression:
    location = user_location()
    loss = None if isinstance(f, Table) else lift(f)
    if loss is None:
        raise TraceError(
            f"{what} needs a loss, one number; it got a {type(f).__name__}",
            location=location,
            hint="fold the table: table.map(loss).sum()"
            if isinstance(f, Table)
            else "give a Value, or a function of wrt that returns one",
        )
    kind = loss.type
    if kind.shape or not kind.is_numeric or kind.numpy.kind != "f":
        raise TraceError(
            f"{what} needs a loss, one float; it got {kind}",
            location=location,
            hint="sum it, or take its elements one by one"
            if kind.shape
            else "only floats have derivatives; cast it if that is meant",
        )
    return loss


def _variable(value: Any, name: str, what: str, of_function: bool = False) -> Expression:
    """The expression that a gradient is taken by; PlanError for what none can be taken by."""
    location, shown = user_location(), name or "wrt"
    e = None if isinstance(value, Table) else lift(value)
    if e is None:
        raise TraceError(
            f"{what} by {shown}, a {type(value).__name__}; expected floats",
            location=location,
            hint="give the fields that it is by: {'w': env.w}" if name else None,
        )
    if not e.type.is_numeric or e.type.numpy.kind != "f":
        raise TraceError(
            f"{what} by {shown}, which is {e.type}: only floats have derivatives",
            location=location,
            hint=_instead_of_integers(e, name, of_function),
        )
    if e.type.is_sparse:
        raise TraceError(
            f"{what} by {shown}, a sparse vector",
            location=location,
            hint="take it by x = so.dense(r.x), and compute the loss of x",
        )
    if isinstance(e, Constant):
        if not of_function:
            raise PlanError(
                f"{what} by {shown}, a constant: the loss does not tell it from equal ones",
                location=location,
                hint=f"give a function of it: {what}(lambda w: loss(w), w)",
            )
        return constant(e.type.numpy.type(e.value)) if e.type.weak else e
    return e


def _instead_of_integers(e: Expression, name: str, of_function: bool) -> str:
    start = "start it as a float, or cast it"
    if not name:
        return start
    if of_function and isinstance(e, Constant) and e.type.is_numeric:
        start = f"start {name} as {float(e.value)}" if not e.type.shape else start
        return f"{start}; or give the fields that are floats: {{'w': env.w}}"
    return "give the fields that are floats: {'w': env.w}"


def _mapped(wrt: Any, change: Callable[[Any, str], Any], what: str, name: str = "") -> Any:
    """`wrt` with each value changed, given the name of its place."""

    def inner(value: Any, place: str) -> Any:
        return _mapped(value, change, what, place)

    if isinstance(wrt, Environment):
        kind = type(wrt)
        fields = field_names(kind)
        return kind(**{n: inner(getattr(wrt, n), f"{name}.{n}" if name else n) for n in fields})
    if isinstance(wrt, StructuredValue):
        wrt = wrt.parts
    if isinstance(wrt, Mapping):
        return {k: inner(v, f"{name}[{k!r}]" if name else str(k)) for k, v in wrt.items()}
    if isinstance(wrt, (list, tuple)):
        made = [inner(v, f"{name}[{i}]") for i, v in enumerate(wrt)]
        if hasattr(wrt, "_fields"):
            return type(wrt)(*made)
        return made if isinstance(wrt, list) else tuple(made)
    return change(wrt, name)


# The gradients.


def _gradients(loss: Expression, leaves: list[Expression], what: str) -> list[Expression]:
    found = gradient(loss, list(dict.fromkeys(leaves)), _origins)
    if not found:
        raise _no_gradient(loss, leaves, what)
    return [_finished(found.get(v), v) for v in leaves]


def _finished(g: Term | None, variable: Expression) -> Expression:
    """The gradient in its variable's shape and type; zeros where there is none."""
    kind = variable.type.strong()
    if g is None:
        return zeros(kind)
    if g.type.is_sparse and not columns([g.e]):
        g = dense(g)
    if isinstance(g.e, Constant):
        g = Term(constant(np.asarray(g.e.value, kind.numpy)[()]))
    whole = full(g, kind)
    return whole.e if whole.type.name == kind.name else whole.cast(kind.name).e


def _no_gradient(loss: Expression, leaves: Sequence[Expression], what: str) -> PlanError:
    wanted = set(leaves)
    names = ", ".join(dict.fromkeys(_shown(v) for v in leaves)) or "nothing"
    if wanted.isdisjoint(walk(loss)):
        found = f"{what}: the loss does not depend on {names}: it does not read it"
        hint = "give what the loss reads, or a function of it: so.grad(lambda w: loss(w), w)"
    else:
        found = (
            f"{what}: the loss does not depend on {names} smoothly: it reads it in comparisons,"
            " roundings, filters or keys alone, where small changes change nothing"
        )
        hint = "differentiate a smooth loss in its place: a margin, a logistic loss"
    return PlanError(found, location=user_location(), hint=hint)


def _shown(variable: Expression) -> str:
    if isinstance(variable, Call) and variable.function is VARIABLE:
        return "the function's argument"
    return text(variable)


def _origins(replaced: Sequence[Operator]) -> Any:
    """The row functions behind operators, to be compared with plain calls as theirs are."""
    found: list[KeyFunction] = []
    for node in replaced:
        for origin in node.origin if isinstance(node.origin, tuple) else (node.origin,):
            if isinstance(origin, RowFunction) and node.inputs:
                found.append(KeyFunction(node.inputs[0], origin))
            elif isinstance(origin, KeyFunction):
                found.append(origin)
    return tuple(found)
