"""From frozen dataclasses to msgpack and back, checked against their annotations.

A message is an array: the number of its class, the sizes of the buffers that follow it, its
fields. Both ends check the same things, so that what one can send the other takes. Nothing is
looked up by name, called or unpickled: a number leads to a class, and each field must be what
its annotation says.

Annotations: int, float, bool, str, bytes; `X | None`, `tuple[X, ...]`, `tuple[X, Y]`,
`dict[str, X]`; Any for what msgpack holds (None, numbers, strings, bytes, lists, dicts with
strings for keys; tuples arrive as lists). `Annotated[int, Between(0, 9)]` gives the range of
a number, `Annotated[str, Most(80)]` the greatest length of a string, bytes, tuple or dict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from operator import attrgetter, call
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    NamedTuple,
    TypeAlias,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import msgpack

MOST_BYTES = 4 << 20  # of an encoded message, its buffers aside
MOST_ITEMS = 1 << 17  # of one list, tuple or dict, and of buffers
MOST_DEPTH = 32  # of lists and dicts in an Any
SMALLEST, GREATEST = -(1 << 63), (1 << 63) - 1

Check: TypeAlias = Callable[[Any], Any]


class MalformedMessage(ValueError):
    """A message that no well-behaved end sends: what was found, and what was expected."""


class Between(NamedTuple):
    """The range of a number, both bounds included."""

    least: float
    most: float


class Most(NamedTuple):
    """The greatest length: characters, bytes or items."""

    length: int


class Codec:
    """Encodes and decodes messages of the classes given; a class is told by its number."""

    def __init__(self, classes: dict[int, type]) -> None:
        self._layouts = {number: _Layout(number, kind) for number, kind in classes.items()}
        self._by_class = {layout.kind: layout for layout in self._layouts.values()}

    def encode(self, message: Any, sizes: Sequence[int] = ()) -> bytes:
        """A message, and the sizes in bytes of the buffers that go with it.

        Raises: MalformedMessage where a field is not what its annotation says, or where the
        whole takes more than MOST_BYTES.
        """
        layout = self._by_class.get(type(message))
        if layout is None:
            raise MalformedMessage(f"{type(message).__name__} is no message")
        values = layout.checked(layout.values(message))
        try:
            # Text may hold half a surrogate pair: file names do, and what users raise.
            data: bytes = msgpack.packb(
                (layout.number, _SIZES(sizes) if sizes else (), *values),
                unicode_errors="surrogatepass",
            )
        except (ValueError, TypeError, OverflowError) as error:
            raise MalformedMessage(f"{layout.kind.__name__} cannot be encoded: {error}") from error
        if len(data) > MOST_BYTES:
            raise MalformedMessage(
                f"{layout.kind.__name__} takes {len(data):,} bytes; at most {MOST_BYTES:,}"
                " are allowed beside its buffers"
            )
        return data

    def decode(self, data: bytes | bytearray | memoryview) -> tuple[Any, Sequence[int]]:
        """The message, and the sizes in bytes of its buffers.

        Raises: MalformedMessage for anything that `encode` does not give.
        """
        if len(data) > MOST_BYTES:
            raise MalformedMessage(f"{len(data):,} bytes; at most {MOST_BYTES:,} are allowed")
        try:
            # The greatest lengths count before memory is taken for what is claimed.
            found = msgpack.unpackb(
                data,
                unicode_errors="surrogatepass",
                max_array_len=MOST_ITEMS,
                max_map_len=MOST_ITEMS,
                max_ext_len=0,
            )
        except (ValueError, TypeError, RecursionError) as error:
            raise MalformedMessage(f"not msgpack of a message: {error!r}") from error
        if type(found) is not list or len(found) < 2 or type(found[0]) is not int:
            raise MalformedMessage("not an array of a number, sizes and fields")
        number, sizes, *values = found
        layout = self._layouts.get(number)
        if layout is None:
            raise MalformedMessage(f"there is no message {number}")
        return layout.kind(*layout.checked(values)), _SIZES(sizes) if sizes != [] else ()


class _Layout:
    """What the fields of a class must be."""

    def __init__(self, number: int, kind: type) -> None:
        self.number, self.kind = number, kind
        hints = get_type_hints(kind, include_extras=True)
        self._names = [field.name for field in fields(kind)]
        self._checks = [_check_of(hints[name]) for name in self._names]
        self.values = _getter(self._names)

    def checked(self, values: Sequence[Any]) -> list[Any]:
        if len(values) != len(self._checks):
            raise MalformedMessage(
                f"{self.kind.__name__} has {len(self._checks)} fields, not {len(values)}"
            )
        try:
            return list(map(call, self._checks, values))
        except MalformedMessage as error:
            name = self._name_of_wrong(values)
            raise MalformedMessage(f"{self.kind.__name__}.{name}: {error}") from error

    def _name_of_wrong(self, values: Iterable[Any]) -> str:
        for name, check, value in zip(self._names, self._checks, values, strict=True):
            try:
                check(value)
            except MalformedMessage:
                return name
        raise AssertionError("one of the fields was wrong")


def _getter(names: Sequence[str]) -> Callable[[Any], tuple[Any, ...]]:
    """The values of the attributes named, as a tuple; the quick way where there are several."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda message: tuple(getattr(message, name) for name in names)


def _check_of(annotation: Any) -> Check:
    """The check for an annotation: gives the value, lists made tuples, or MalformedMessage."""
    limit: Any = None
    if get_origin(annotation) is Annotated:
        annotation, limit = get_args(annotation)
    if annotation is Any:
        return _checked_plain
    if annotation is bool:
        return _checked_bool
    if annotation in (int, float):
        return _number_check(annotation, limit or Between(SMALLEST, GREATEST))
    most = Most(MOST_BYTES) if limit is None else limit
    if annotation in (str, bytes):
        return _text_check(annotation, most)
    items = Most(min(most.length, MOST_ITEMS))
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType) and arguments[1:] == (NoneType,):
        return _optional_check(_check_of(arguments[0]))
    if origin is tuple and arguments[-1] is Ellipsis:
        return _tuple_check(_check_of(arguments[0]), items)
    if origin is tuple:
        return _row_check([_check_of(argument) for argument in arguments])
    if origin is dict and arguments[0] is str:
        return _dict_check(_check_of(arguments[1]), items)
    raise TypeError(f"a message cannot have a field of {annotation}")


def _wrong(value: Any, expected: str) -> MalformedMessage:
    shown = repr(value)[:60] if type(value) in (int, float, bool) else type(value).__name__
    return MalformedMessage(f"{shown}, not {expected}")


def _checked_bool(value: Any) -> Any:
    if type(value) is not bool:
        raise _wrong(value, "a bool")
    return value


def _number_check(kind: type, limit: Between) -> Check:
    least, most = limit

    def checked_int(value: Any) -> Any:
        if type(value) is not int or not least <= value <= most:
            raise _wrong(value, f"an int from {least} to {most}")
        return value

    def checked_float(value: Any) -> Any:
        if type(value) not in (int, float) or not least <= value <= most:
            raise _wrong(value, f"a number from {least} to {most}")
        return float(value)

    return checked_int if kind is int else checked_float


def _text_check(kind: type[str] | type[bytes], limit: Most) -> Check:
    most = limit.length

    def checked(value: Any) -> Any:
        if type(value) is not kind or len(value) > most:
            raise _wrong(value, f"{kind.__name__} of at most {most}")
        return value

    return checked


def _optional_check(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def _tuple_check(check: Check, limit: Most) -> Check:
    most = limit.length

    def checked(value: Any) -> Any:
        if not isinstance(value, (list, tuple)) or len(value) > most:
            raise _wrong(value, f"a tuple of at most {most} items")
        return tuple(map(check, value))

    return checked


def _row_check(checks: Sequence[Check]) -> Check:
    def checked(value: Any) -> Any:
        if not isinstance(value, (list, tuple)) or len(value) != len(checks):
            raise _wrong(value, f"a tuple of {len(checks)}")
        return tuple(check(item) for check, item in zip(checks, value, strict=True))

    return checked


def _dict_check(check: Check, limit: Most) -> Check:
    most = limit.length

    def checked(value: Any) -> Any:
        if type(value) is not dict or len(value) > most:
            raise _wrong(value, f"a dict of at most {most} items")
        if not all(type(key) is str for key in value):
            raise _wrong(value, "a dict with strings for keys")
        return {key: check(item) for key, item in value.items()}

    return checked


_SCALARS = frozenset({int, float, str, bytes, bool, NoneType})


def _checked_plain(value: Any) -> Any:
    """Any: types, nesting, lengths and keys."""
    if type(value) in _SCALARS:
        return value
    level = [value]
    for _ in range(MOST_DEPTH):
        # Level by level, scalars left out at once: the quick way through long lists.
        deeper: list[Any] = []
        for item in level:
            items = item if type(item) is list and len(item) <= MOST_ITEMS else _items_of(item)
            for x in items:
                if type(x) not in _SCALARS:
                    deeper.append(x)
        if not deeper:
            return value
        level = deeper
    raise MalformedMessage(f"lists and dicts in each other, more than {MOST_DEPTH} deep")


def _items_of(value: Any) -> Iterable[Any]:
    if isinstance(value, (list, tuple)) and type(value) is not msgpack.ExtType:
        if len(value) > MOST_ITEMS:
            raise _wrong(value, f"a list of at most {MOST_ITEMS} items")
        return value
    if isinstance(value, dict):
        if len(value) > MOST_ITEMS:
            raise _wrong(value, f"a dict of at most {MOST_ITEMS} items")
        if not all(isinstance(key, str) for key in value):
            raise _wrong(value, "a dict with strings for keys")
        return value.values()
    if not isinstance(value, (int, float, str, bytes)):
        raise _wrong(value, "None, a number, a string, bytes, a list or a dict")
    return ()


_SIZES = _tuple_check(_number_check(int, Between(0, 1 << 48)), Most(MOST_ITEMS))
