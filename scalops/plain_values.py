"""Arguments of the plain call that a traced expression is compared with.

They are NumPy's scalars and arrays that the function may change unseen, and strings and lists
that answer as traced ones do.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, SupportsIndex

import numpy as np

from scalops.engine.opaque.records import Record
from scalops.engine.opaque.text import Items, Text, TextMethods


class HasNoPlainForm(BaseException):
    """A function of symbols alone, such as so.grad of a loss, was called with plain values."""


class _Comparing(threading.local):
    now = False


_comparing = _Comparing()


@contextmanager
def comparing() -> Iterator[None]:
    """Meanwhile a function is called plainly, to be compared with its trace."""
    before, _comparing.now = _comparing.now, True
    try:
        yield
    finally:
        _comparing.now = before


def is_comparing() -> bool:
    """Whether this is such a call."""
    return _comparing.now


class MetNull(BaseException):
    """A plain call has come upon a null, of which plain Python knows nothing."""


def apart(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments for one plain call."""
    return tuple(_one(a) for a in arguments)


def _one(value: Any) -> Any:
    if isinstance(value, Record):
        return Record({n: _one(v) for n, v in value._values.items()})
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, list):
        return _Items(map(_one, value))
    return _Text(value) if isinstance(value, str) else value


class _Text(Text):
    """A string whose comparisons give NumPy's booleans, as a traced one's do: ~ negates them."""

    __slots__ = ()
    __hash__ = str.__hash__

    @property
    def str(self) -> TextMethods:
        return _TextMethods(self)

    def __add__(self, other: Any) -> Any:
        return _Text(str.__add__(self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: Any) -> Any:
        return _Text(str.__add__(other, self)) if isinstance(other, str) else NotImplemented

    def __eq__(self, other: object) -> Any:
        return _numpy(str.__eq__(self, other))

    def __ne__(self, other: object) -> Any:
        return _numpy(str.__ne__(self, other))

    def __lt__(self, other: Any) -> Any:
        return _numpy(str.__lt__(self, other))

    def __le__(self, other: Any) -> Any:
        return _numpy(str.__le__(self, other))

    def __gt__(self, other: Any) -> Any:
        return _numpy(str.__gt__(self, other))

    def __ge__(self, other: Any) -> Any:
        return _numpy(str.__ge__(self, other))


def _numpy(answer: Any) -> Any:
    """NumPy's boolean; with no string, the other side is asked."""
    return answer if answer is NotImplemented else np.bool_(answer)


class _Items(Items):
    """A list that has null outside, and may hold nulls."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, SupportsIndex) and not -len(self) <= index.__index__() < len(self):
            raise MetNull
        item = super().__getitem__(index)
        if item is None:
            raise MetNull
        return item


class _TextMethods(TextMethods):
    __slots__ = ()
    made = _Text
    listed = _Items
