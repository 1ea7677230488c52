"""Capture of a user's function at the moment its operator is written.

The function is pickled at once. Every Value, environment field and loop result that it can
reach, and every large array, becomes a numbered slot: a later assignment in the user's program
changes nothing, and running it binds the slots to an iteration's numbers.
"""

from __future__ import annotations

import io
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import cloudpickle
import numpy as np

from scalops.algebra.errors import Location, TraceError, user_location
from scalops.algebra.expressions import Captured, Expression, constant
from scalops.value import Value, is_record_symbol, lift

_LARGE_ARRAY_BYTES = 4096
_WRAPPED = ("func", "__func__", "function")  # a partial's, a method's, a marked function's own


class CannotCapture(Exception):
    """Why a function cannot be captured."""


class _Capturer(cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=5)
        self.slots: list[Expression] = []
        self._numbers: dict[int, int] = {}
        self._kept: list[Any] = []

    def persistent_id(self, obj: Any) -> Any:
        if isinstance(obj, Value):
            if is_record_symbol(obj):
                raise CannotCapture("it keeps the symbol of another record")
            return self._slot(obj, obj.expression)
        if (
            isinstance(obj, np.ndarray)
            and obj.nbytes >= _LARGE_ARRAY_BYTES
            and not obj.dtype.hasobject
        ):
            return self._slot(obj, None)
        refusal = getattr(type(obj), "_capture_refusal", None)
        if refusal is not None:
            raise CannotCapture(refusal)
        if getattr(type(obj), "_as_value", None) is not None:
            lifted = lift(obj)
            if lifted is not None:
                return self._slot(obj, lifted)
        return None

    def _slot(self, obj: Any, expression: Expression | None) -> int:
        number = self._numbers.get(id(obj))
        if number is None:
            number = self._numbers[id(obj)] = len(self.slots)
            self._kept.append(obj)  # keeps the id taken
            self.slots.append(expression if expression is not None else constant(obj))
        return number


def _user_modules() -> Iterator[ModuleType]:
    """Loaded modules that are the user's own: outside the standard library and site-packages."""
    installed = _installed()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file is None or name == "__main__" or name.partition(".")[0] == "scalops":
            continue
        if not file.startswith(installed):
            yield module


@cache
def _installed() -> tuple[str, ...]:
    return tuple({sysconfig.get_path(p) for p in ("stdlib", "platstdlib", "purelib", "platlib")})


@contextmanager
def _modules_by_value() -> Iterator[None]:
    registered = []
    before = cloudpickle.list_registry_pickle_by_value()
    for module in _user_modules():
        if module.__name__ not in before and sys.modules.get(module.__name__) is module:
            cloudpickle.register_pickle_by_value(module)
            registered.append(module)
    try:
        yield
    finally:
        for module in registered:
            cloudpickle.unregister_pickle_by_value(module)


def function_location(function: Any) -> Location | None:
    """Where a function was defined; else the user's current line."""
    code = getattr(function, "__code__", None)
    inner = next(filter(None, (getattr(function, n, None) for n in _WRAPPED)), None)
    if code is None and inner is not None:
        return function_location(inner)
    package = (getattr(function, "__module__", None) or "").partition(".")[0]
    if code is None or package == "scalops":
        return user_location()
    return Location(code.co_filename, code.co_firstlineno)


def function_name(function: Any) -> str:
    """What to call a function in a message."""
    name = getattr(function, "__name__", None)
    inner = next(filter(None, (getattr(function, n, None) for n in _WRAPPED)), None)
    if name is None and inner is not None:
        return function_name(inner)
    if name == "<lambda>":
        return "the lambda"
    return f"{name}()" if name else type(function).__name__


def capture(
    function: Callable[..., Any], reason: str | None = None, location: Location | None = None
) -> tuple[Captured, tuple[Expression, ...]]:
    """The function's pickle and the expressions of its slots. Raises CannotCapture."""
    file = io.BytesIO()
    pickler = _Capturer(file)
    try:
        with _modules_by_value():
            pickler.dump(function)
    except CannotCapture:
        raise
    except Exception as error:
        raise CannotCapture(_culprit(function, error)) from error
    where = location or function_location(function)
    captured = Captured(file.getvalue(), function_name(function), where, reason)
    return captured, tuple(pickler.slots)


def capture_opaque(
    function: Callable[..., Any], reason: str, location: Location | None
) -> tuple[Captured, tuple[Expression, ...]]:
    """Capture a function that must run as it is; TraceError names what stands in the way."""
    try:
        return capture(function, reason, location)
    except CannotCapture as error:
        raise TraceError(
            f"{function_name(function)} must run record by record, because it {reason},"
            f" and cannot be captured: {error}",
            location=function_location(function),
            hint="create what it needs inside the function, or pass numbers and arrays",
        ) from None


def _culprit(function: Callable[..., Any], error: Exception) -> str:
    """Which of a function's free variables cannot be pickled."""
    inner = getattr(function, "func", function)
    inner = getattr(inner, "__func__", inner)
    code = getattr(inner, "__code__", None)
    if code is not None:
        named = dict(zip(code.co_freevars, inner.__closure__ or (), strict=False))
        candidates = {}
        for name, cell in named.items():
            try:
                candidates[name] = cell.cell_contents
            except ValueError:
                continue
        scope = getattr(inner, "__globals__", {})
        candidates.update({n: scope[n] for n in code.co_names if n in scope})
        for name, value in candidates.items():
            try:
                _Capturer(io.BytesIO()).dump(value)
            except Exception as cause:
                return f"its variable {name!r} ({type(value).__name__}): {cause}"
    return f"{type(error).__name__}: {error}"
