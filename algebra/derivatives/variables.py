"""What stands for a value while a function of it is differentiated."""

from __future__ import annotations

from itertools import count
from typing import Any

from scalops.algebra.derivatives.rules import Gradients, Site, rule
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.expressions import Call, Expression, call
from scalops.algebra.functions.table import Function, register

_numbers = count(1)


def _itself(kind: ArrayType, number: int) -> ArrayType:
    return kind


def _value(value: Any, number: int) -> Any:
    return value


VARIABLE = register(Function("variable", _itself, _value, flops=0.0, sparse=_itself))


@rule("variable")
def _of_itself(site: Site) -> Gradients:
    yield site.call.arguments[0], site.g


def variable(value: Expression) -> Call:
    """A value under a name of its own: equal to nothing else in the function's result."""
    return call(VARIABLE, value, number=next(_numbers))
