"""Expressions over scalars and small arrays as lines of Python, for a loop over records.

A scalar of float64, int64 or bool is a Python number between the lines: their arithmetic is a
few times quicker than NumPy's on single numbers, and gives the same where it is used here
(no division by zero raises, int64 wraps around, NaN goes through minima).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from scalops.algebra import expressions as ex
from scalops.algebra.dtypes import ArrayType
from scalops.algebra.tree import Node

_NATIVE = ("float64", "int64", "bool")
_INT64 = 1 << 63


def is_native(kind: ArrayType) -> bool:
    """Whether a value of this type is a Python number between the lines."""
    return kind.name in _NATIVE and not kind.shape and kind.is_plain


def native(value: Any) -> Any:
    """A value as a Python number."""
    return value.item() if isinstance(value, (np.generic, np.ndarray)) else value


def _wrapped(value: int) -> int:
    """An int in the range of int64, as NumPy's additions leave it."""
    return (value + _INT64) % (2 * _INT64) - _INT64


def _divided(a: float, b: float) -> float:
    return float(np.float64(a) / np.float64(b))


_COMPARISONS = {
    "less": "<", "less_equal": "<=", "greater": ">", "greater_equal": ">=",
    "equal": "==", "not_equal": "!=",
}  # fmt: skip
_ARITHMETIC = {"add": "+", "subtract": "-", "multiply": "*"}
_TO_PYTHON = {"float64": "float", "int64": "int", "bool": "bool"}


class Source:
    """Lines of a function being written; `leaves` gives columns their names by (name, record)."""

    def __init__(self, leaves: Mapping[tuple[str, int], str]) -> None:
        self.lines: list[str] = []
        self._leaves = leaves
        self._names: dict[Node, str] = {}
        self._count = 0
        self._globals: dict[str, Any] = {
            "_wrapped": _wrapped,
            "_divided": _divided,
            "_float64": np.float64,
            "_int64": np.int64,
            "_bool": np.bool_,
        }

    def function(self, parameters: Sequence[str], lines: Sequence[str]) -> Callable[..., Any]:
        """The function of these lines."""
        text = "\n".join([f"def function({', '.join(parameters)}):", *(f"    {n}" for n in lines)])
        exec(text, self._globals)
        made: Callable[..., Any] = self._globals["function"]
        return made

    def name(self, root: ex.Expression, kind: ArrayType) -> str:
        """What holds the expression's value, in the type `kind` of the same scalar type."""
        stack: list[tuple[Node, bool]] = [(root, False)]
        while stack:
            node, entered = stack.pop()
            if node in self._names or not isinstance(node, ex.Expression):
                continue
            if entered:
                self._names[node] = self._made(node)
            else:
                stack.append((node, True))
                stack.extend((c, False) for c in reversed(node.children))
        return self._as(root, kind.name) if is_native(kind) else self._names[root]

    def _line(self, text: str) -> str:
        self._count += 1
        name = f"t{self._count}"
        self.lines.append(f"{name} = {text}")
        return name

    def _made(self, node: ex.Expression) -> str:
        if isinstance(node, ex.Column):
            return self._leaves[node.name, node.record]
        if isinstance(node, ex.Item):
            return self._line(f"{self._names[node.source]}[{node.index}]")
        assert isinstance(node, ex.Call), type(node).__name__
        text = self._scalar(node) or self._called(node)
        return self._line(text)

    def _as(self, node: ex.Expression, name: str) -> str:
        """A native argument as a Python number of another type."""
        own = self._names[node]
        if node.type.name == name or (name != "float64" and node.type.name != "float64"):
            return own
        return f"{_TO_PYTHON[name]}({own})"

    # Python's own arithmetic.

    def _scalar(self, node: ex.Call) -> str | None:
        """An expression of Python numbers, where that means what NumPy's does."""
        kinds = [node.any_type, *(a.any_type for a in node.arguments)]
        if not all(isinstance(k, ArrayType) and is_native(k) for k in kinds):
            return None
        name, result = node.function.name, node.type.name
        types = {a.type.name for a in node.arguments}
        common = "float64" if "float64" in types else "int64" if "int64" in types else "bool"
        given = [self._as(a, common) for a in node.arguments]
        if name in _COMPARISONS:
            return f"{given[0]} {_COMPARISONS[name]} {given[1]}"
        if name == "where":
            chosen = [self._as(a, result) for a in node.arguments[1:]]
            return f"{chosen[0]} if {self._names[node.arguments[0]]} else {chosen[1]}"
        if name == "cast":
            return f"float({given[0]})" if result == "float64" else None
        if name in ("logical_and", "logical_or", "logical_not", "invert") and types == {"bool"}:
            a, b = given[0], given[-1]
            word = {"logical_and": f"{a} and {b}", "logical_or": f"{a} or {b}"}
            return word.get(name, f"not {a}")
        if name in ("bitwise_and", "bitwise_or", "bitwise_xor") and types <= {"bool", "int64"}:
            sign = {"bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^"}[name]
            return f"{given[0]} {sign} {given[1]}"
        if result == "bool":
            return f"{given[0]} != {given[0]}" if name == "isnan" and common == "float64" else None
        if name in ("minimum", "maximum"):
            a, b, sign = given[0], given[1], "<=" if name == "minimum" else ">="
            return f"{a} if {a} {sign} {b} or {a} != {a} else {b}"
        if name == "divide":
            a, b = (self._as(e, "float64") for e in node.arguments)
            return f"{a} / {b} if {b} else _divided({a}, {b})"
        return self._float(name, given) if result == "float64" else self._integer(name, given)

    def _float(self, name: str, given: list[str]) -> str | None:
        a, b = given[0], given[-1]
        if name in _ARITHMETIC:
            return f"{a} {_ARITHMETIC[name]} {b}"
        match name:
            case "negative":
                return f"-{a}"
            case "absolute":
                return f"abs({a})"
            case "square":
                return f"{a} * {a}"
        return None

    def _integer(self, name: str, given: list[str]) -> str | None:
        a, b = given[0], given[-1]
        if name in _ARITHMETIC:
            made = self._line(f"{a} {_ARITHMETIC[name]} {b}")
            return f"{made} if -{_INT64} <= {made} < {_INT64} else _wrapped({made})"
        return None

    # NumPy's functions.

    def _called(self, node: ex.Call) -> str:
        function = f"f{len(self._globals)}"
        evaluate = node.function.evaluate
        if node.parameters:
            evaluate = partial(evaluate, **dict(node.parameters))
        self._globals[function] = evaluate
        kinds = [a.type for a in node.arguments]
        given = [self._names[a] for a in node.arguments]
        if not {k.name for k in kinds} <= set(_NATIVE) or node.function.ufunc is None:
            # Beside other types a Python number would count as weakly typed.
            given = [
                f"_{k.name}({g})" if is_native(k) and not k.weak else g
                for g, k in zip(given, kinds, strict=True)
            ]
        text = f"{function}({', '.join(given)})"
        vectors = all(len(k.shape) == 1 and k.name == kinds[0].name for k in kinds)
        if node.function.name == "matmul" and vectors:
            text = f"{given[0]}.dot({given[1]})"  # without a ufunc's overhead
        kind = node.any_type
        if isinstance(kind, ArrayType) and is_native(kind):
            return f"{_TO_PYTHON[kind.name]}({text})"
        return text
