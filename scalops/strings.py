"""`.str` and `.list`: the methods of Values and columns that are strings or lists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from scalops.algebra.errors import TraceError, user_location
from scalops.algebra.expressions import call
from scalops.algebra.functions import lists, strings
from scalops.tracing import refuse

if TYPE_CHECKING:
    from scalops.value import Value

METHODS = "lower, upper, strip, split, contains, replace, length"


class StringMethods:
    """Methods of a string: Python's meaning, patterns literal unless `regex=True`."""

    def __init__(self, value: Value) -> None:
        if not value.type.is_string or value.shape:
            raise TraceError(
                f"`.str` is of strings; this is {value.type}",
                location=user_location(),
                hint='so.cast(v, "string") makes one',
            )
        self._value = value

    def lower(self) -> Value:
        """As str.lower."""
        return self._apply(strings.LOWER)

    def upper(self) -> Value:
        """As str.upper."""
        return self._apply(strings.UPPER)

    def strip(self) -> Value:
        """Without the whitespace at both ends."""
        return self._apply(strings.STRIP)

    def split(self, pattern: str | None = None, *, regex: bool = False) -> Value:
        """A list of the parts between the pattern, or between runs of whitespace."""
        return self._apply(strings.SPLIT, "split", pattern=pattern, regex=regex)

    def contains(self, pattern: str, *, regex: bool = False) -> Value:
        """Whether the pattern occurs."""
        return self._apply(strings.CONTAINS, "contains", pattern=pattern, regex=regex)

    def replace(self, pattern: str, replacement: str, *, regex: bool = False) -> Value:
        """With each occurrence replaced; with `regex`, \\1 in the replacement is a group."""
        given = {"pattern": pattern, "replacement": replacement, "regex": regex}
        return self._apply(strings.REPLACE, "replace", **given)

    def length(self) -> Value:
        """Code points."""
        return self._apply(strings.LENGTH)

    def _apply(self, entry: Any, name: str = "", **given: Any) -> Value:
        from scalops.value import Value

        if any(isinstance(v, Value) for v in given.values()):
            raise TraceError(
                f"{name} takes Python strings as patterns, not Values",
                location=user_location(),
                hint="collect() the Value first, or use so.udf",
            )
        return Value(call(entry, self._value.expression, location=user_location(), **given))

    def __getattr__(self, name: str) -> NoReturn:
        _unknown("str", name, f"it has {METHODS}; so.udf(f) runs f as it is", hasattr(str, name))


class ListMethods:
    """Methods of a list."""

    def __init__(self, value: Value) -> None:
        if not value.type.is_list:
            raise TraceError(f"`.list` is of lists; this is {value.type}", location=user_location())
        self._value = value

    def length(self) -> Value:
        """How many items it has."""
        from scalops.value import Value

        return Value(call(lists.LENGTH, self._value.expression, location=user_location()))

    def __getattr__(self, name: str) -> NoReturn:
        hint = "index the list itself: r.items[0]" if name in ("get", "first") else None
        _unknown("list", name, hint or "it has length; index the list itself", False)


def _unknown(accessor: str, name: str, hint: str, is_pythons: bool) -> NoReturn:
    """A method that is Python's alone makes a row function opaque, any other is an error."""
    if name.startswith("__"):
        raise AttributeError(name)
    if is_pythons:
        refuse(f".{accessor}.{name}", hint)
    if name in ("len", "size", "count", "len_chars"):
        hint = f"did you mean length()? {hint}"
    raise TraceError(f"`.{accessor}` has no method {name!r}", location=user_location(), hint=hint)
