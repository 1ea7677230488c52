"""Users' functions of driver values: `so.call`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from scalops.algebra.dtypes import ArrayType, name_of
from scalops.algebra.errors import ScalopsError, UserFunctionError
from scalops.algebra.expressions import DriverCall
from scalops.engine.opaque.calls import bind, python_value, user_error
from scalops.engine.opaque.records import take_apart
from scalops.engine.opaque.results import as_array


class DriverFunction:
    """One call, compiled: `function(*arguments, *slots)` gives the outputs in their types.

    The user's function gets Python scalars and read-only arrays, as every opaque one. What it
    returns is copied: it may write into its own array the next time.
    """

    def __init__(self, node: DriverCall) -> None:
        self._node = node
        # With no slots it is loaded once, and may keep what it likes from call to call.
        self._bound = bind(node.function, ()) if not node.slots else None

    def __call__(self, *values: Any) -> tuple[Any, ...]:
        node = self._node
        given = [python_value(v) for v in values]
        arguments, slots = given[: len(node.arguments)], given[len(node.arguments) :]
        function: Callable[..., Any] = self._bound or bind(node.function, slots)
        try:
            result = function(*arguments)
        except (ScalopsError, KeyboardInterrupt):
            raise
        except BaseException as error:  # SystemExit too: a function cannot end the program
            shown = "its arguments are"
            raise user_error(node.function, error, tuple(arguments), shown) from error
        return self._checked(result)

    def _checked(self, result: Any) -> tuple[Any, ...]:
        """The outputs; UserFunctionError where they are not what `like` says."""
        node = self._node
        parts = parts_of(result, node.names)
        if parts is not None:
            made = [cast(p, k) for p, k in zip(parts, node.outputs, strict=True)]
            if all(m is not None for m in made):
                return tuple(made)
        raise UserFunctionError(
            f"{node.function.name} gives {described(result)}; expected"
            f" {expected(node.names, node.outputs)}, as like= says",
            location=node.location,
            hint="return what like= shows: its shape, and a type that can be cast to its own",
        )


def parts_of(result: Any, names: tuple[str, ...] | None) -> list[Any] | None:
    """The result's parts in the order of the names, or None where it has others."""
    if names is None:
        return None if isinstance(result, (tuple, dict)) else [result]
    if isinstance(result, list) and names == tuple(f"_{i}" for i in range(len(names))):
        result = tuple(result)
    own, values = take_apart(result)
    if own is None or len(own) != len(names) or set(own) != set(names):
        return None
    named = dict(zip(own, values, strict=True))
    return [named[n] for n in names]


def cast(value: Any, kind: ArrayType) -> Any:
    """A copy of the value in the type, or None where NumPy's in-place rule forbids it."""
    if kind.is_object:
        return value
    if kind.is_string:
        return str(value) if isinstance(value, str) else None
    if value is None or isinstance(value, str):
        return None
    array = as_array(value)
    if array.shape != kind.shape or name_of(array.dtype) in (None, "string"):
        return None
    if not np.can_cast(array.dtype, kind.numpy, "same_kind"):
        return None
    return np.array(array, dtype=kind.numpy)[()]


def described(result: Any) -> str:
    """What a result is, in the words of types."""
    if result is None or isinstance(result, dict) or hasattr(result, "_fields"):
        if result is None:
            return "None"
        names, values = take_apart(result)
        shown = [f"{n}: {described(v)}" for n, v in zip(names or (), values, strict=True)]
        return f"{{{', '.join(shown)}}}" if len(shown) <= 8 else f"a dict of {list(names or ())}"
    if isinstance(result, tuple):
        return f"({', '.join(map(described, result))})"
    if isinstance(result, str):
        return "string"
    array = as_array(result)
    name = name_of(array.dtype)
    if name in (None, "string"):
        return f"a {type(result).__name__}"
    return str(ArrayType(str(name), array.shape))


def expected(names: tuple[str, ...] | None, kinds: Sequence[ArrayType]) -> str:
    if names is None:
        return str(kinds[0])
    if names == tuple(f"_{i}" for i in range(len(names))):
        return f"({', '.join(map(str, kinds))})"
    return f"{{{', '.join(f'{n}: {k}' for n, k in zip(names, kinds, strict=True))}}}"
