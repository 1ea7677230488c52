"""Elementwise functions as lines of a compiled loop, with NumPy's types and meaning.

Arithmetic gives NumPy's bits (the sign of a zero among minima apart): types are those that NumPy
itself resolves, integers wrap around, and nothing is contracted or reassociated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scalops.algebra import expressions as ex

TYPES = ("float64", "float32", "int64", "int32", "bool")
# Columns of these are read as 64-bit integers, for steps that take them as a wider type.
NARROW = ("int8", "int16", "uint8", "uint16", "uint32")
FLOATS = ("float64", "float32")
# Of which a loop holds few: long bodies with many of them run out of registers.
HEAVY = ("exp", "expm1", "log", "log1p", "tanh", "sigmoid", "logaddexp")
_POWERS: dict[Any, str] = {
    1: "{0}", 2: "{0} * {0}", 3: "{0} * {0} * {0}", -1: "np.{1}(1) / {0}", 0.5: "sqrt({0})",
}  # fmt: skip


class Refused(Exception):
    """An expression or fold that has no compiled form; the message says which and why."""


def converted(text: str, given: str, wanted: str) -> str:
    """A value of the type `given` in the type `wanted`."""
    if given == wanted:
        return text
    if wanted == "bool":
        return f"({text} != 0)"
    if given in FLOATS and wanted == "int32":
        raise Refused(f"a cast of {given} to int32")
    return f"np.{wanted}({text})"


_COMPARISONS = {
    "less": "<", "less_equal": "<=", "greater": ">", "greater_equal": ">=",
    "equal": "==", "not_equal": "!=",
}  # fmt: skip
_ARITHMETIC = {"add": "+", "subtract": "-", "multiply": "*"}
_LOGICAL = {"logical_and": "{0} & {1}", "logical_or": "{0} | {1}", "logical_xor": "{0} != {1}"}
_BITWISE = {"bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^"}
_OF_FLOATS = {
    "floor": "floor({0})",
    "ceil": "ceil({0})",
    "trunc": "trunc({0})",
    "rint": "rint({0})",
    "sqrt": "sqrt({0})",
    "fabs": "abs({0})",
    "absolute": "abs({0})",
    "negative": "-{0}",
    "positive": "{0}",
    "square": "{0} * {0}",
    "divide": "{0} / {1}",
    "isnan": "{0} != {0}",
    "isinf": "abs({0}) == np.inf",
    "isfinite": "abs({0}) < np.inf",
    # NaN among the two is the result; fmin and fmax pass it over.
    "minimum": "{0} if ({0} <= {1}) | ({0} != {0}) else {1}",
    "maximum": "{0} if ({0} >= {1}) | ({0} != {0}) else {1}",
    "fmin": "{0} if ({0} <= {1}) | ({1} != {1}) else {1}",
    "fmax": "{0} if ({0} >= {1}) | ({1} != {1}) else {1}",
}
# numba takes it that signed numbers never overflow; these wrap around.
_WRAPPING = {"add": "wrapped_add", "subtract": "wrapped_subtract", "multiply": "wrapped_multiply"}
_OF_INTEGERS = {
    "negative": "wrapped_subtract(np.int64(0), np.int64({0}))",
    "positive": "{0}",
    "absolute": "{0} if {0} >= 0 else wrapped_subtract(np.int64(0), np.int64({0}))",
    "sign": "(1 if {0} > 0 else 0) - (1 if {0} < 0 else 0)",
    "square": "wrapped_multiply(np.int64({0}), np.int64({0}))",
    "minimum": "{0} if {0} <= {1} else {1}",
    "maximum": "{0} if {0} >= {1} else {1}",
    "fmin": "{0} if {0} <= {1} else {1}",
    "fmax": "{0} if {0} >= {1} else {1}",
    "invert": "~{0}",
    "floor_divide": "floor_divide(np.int64({0}), np.int64({1}))",
    "remainder": "remainder(np.int64({0}), np.int64({1}))",
}


def is_elementwise(call: ex.Call) -> bool:
    """Whether the function is one of each element."""
    return call.function.ufunc is not None or call.function.name in ("where", "cast")


def formula(call: ex.Call, names: Sequence[str]) -> str:
    """The call over scalars called `names`, of its arguments' types. Raises Refused."""
    name, kinds = call.function.name, [a.type for a in call.arguments]
    result = call.type.name
    if name == "cast":
        return converted(names[0], kinds[0].name, result)
    if name == "where":
        sides = [converted(n, k.name, result) for n, k in zip(names[1:], kinds[1:], strict=True)]
        return f"{sides[0]} if {converted(names[0], kinds[0].name, 'bool')} else {sides[1]}"
    if name in _LOGICAL or name == "logical_not":
        truths = [converted(n, k.name, "bool") for n, k in zip(names, kinds, strict=True)]
        return f"not {truths[0]}" if name == "logical_not" else _LOGICAL[name].format(*truths)
    loop, made = _loop(call)
    if name == "power":
        return converted(_power(call, converted(names[0], kinds[0].name, loop), loop), made, result)
    given = [converted(n, k.name, loop) for n, k in zip(names, kinds, strict=True)]
    text = _of_type(name, loop, given)
    if text is None:
        raise Refused(f"{name} of {loop}")
    if loop == "int32" and made == "int32":
        return f"np.int32({text})"  # between its operations numba counts in 64 bits
    return converted(f"({text})", made, result)


def _loop(call: ex.Call) -> tuple[str, str]:
    """The types in which NumPy computes the function: of its arguments, and of its result."""
    ufunc = call.function.ufunc
    assert ufunc is not None
    kinds = [a.type for a in call.arguments]
    weak = all(k.weak for k in kinds)
    given: list[Any] = [k.python if k.weak and not weak else k.numpy for k in kinds]
    resolved = ufunc.resolve_dtypes((*given, *[None] * ufunc.nout))
    taken = {d.name for d in resolved[: ufunc.nin]}
    if len(taken) != 1 or not taken <= {*TYPES} or ufunc.nout != 1:
        raise Refused(f"{call.function.name} of {' and '.join(str(k) for k in kinds)}")
    return taken.pop(), resolved[-1].name


def _of_type(name: str, loop: str, given: Sequence[str]) -> str | None:
    """The function of values of one type; None where it has no form here."""
    if name in HEAVY:
        if loop == "float64":
            return f"{name}({', '.join(given)})"
        wide = ", ".join(f"np.float64({g})" for g in given)
        return f"np.float32({name}({wide}))" if loop == "float32" else None
    if name in _COMPARISONS and (loop != "bool" or name in ("equal", "not_equal")):
        return f"{given[0]} {_COMPARISONS[name]} {given[1]}"
    if loop == "bool":
        form = {
            "add": "{0} | {1}", "multiply": "{0} & {1}", "invert": "not {0}",
            "maximum": "{0} | {1}", "minimum": "{0} & {1}",
        }.get(name)  # fmt: skip
        if name in _BITWISE:
            form = f"{{0}} {'!=' if name == 'bitwise_xor' else _BITWISE[name]} {{1}}"
        return None if form is None else form.format(*given)
    if loop in FLOATS:
        if name in _ARITHMETIC:
            return f"{given[0]} {_ARITHMETIC[name]} {given[1]}"
        if name == "sign":
            one, none = f"np.{loop}(1)", f"np.{loop}(0)"
            a = given[0]
            return f"{a} if {a} != {a} else ({one} if {a} > 0 else (-{one} if {a} < 0 else {none}))"
        if name == "reciprocal":
            return f"np.{loop}(1) / {given[0]}"
        form = _OF_FLOATS.get(name)
        return None if form is None else form.format(*given)
    if name in _WRAPPING:
        return f"{_WRAPPING[name]}(np.int64({given[0]}), np.int64({given[1]}))"
    if name in _BITWISE:
        return f"{given[0]} {_BITWISE[name]} {given[1]}"
    form = _OF_INTEGERS.get(name)
    return None if form is None else form.format(*given)


def _power(call: ex.Call, base: str, loop: str) -> str:
    """A power whose exponent is a small number of the program."""
    exponent = call.arguments[1]
    value = exponent.value if isinstance(exponent, ex.Constant) else None
    if isinstance(value, (int, float, np.number)):
        if loop in FLOATS and value in _POWERS:
            return f"({_POWERS[value].format(base, loop)})"
        if loop in ("int64", "int32") and value in (1, 2, 3):
            made = wide = f"np.int64({base})"
            for _ in range(1, int(value)):
                made = f"wrapped_multiply({made}, {wide})"
            return f"np.{loop}({made})"
    raise Refused("a power whose exponent is not 0.5, 1, 2, 3 or -1")
