"""Strings and lists as plain Python functions get them: with `.str` and `.list` as symbols have.

So one function serves traced and opaque. What `.str` gives has the language's methods, and those
of Python's strings beside them.
"""

from __future__ import annotations

import builtins
from typing import Any, ClassVar

import numpy as np

from scalops.algebra.functions import lists, strings


class Text(builtins.str):
    """A string with `.str`."""

    __slots__ = ()

    @property
    def str(self) -> TextMethods:
        """The language's methods of strings."""
        return TextMethods(self)


class TextMethods(Text):
    """The string again; its methods are the language's, and what they give has `.str`."""

    __slots__ = ()
    made: ClassVar[type[Text]] = Text
    listed: ClassVar[type[Items]]

    def lower(self) -> Text:
        return self.made(strings.LOWER.evaluate(self))

    def upper(self) -> Text:
        return self.made(strings.UPPER.evaluate(self))

    def strip(self) -> Text:  # type: ignore[override]
        return self.made(strings.STRIP.evaluate(self))

    def split(  # type: ignore[override]
        self, pattern: builtins.str | None = None, *, regex: bool = False
    ) -> Items:
        strings.SPLIT.infer(strings.TEXT, pattern=pattern, regex=regex)
        parts = strings.SPLIT.evaluate(self, pattern=pattern, regex=regex)
        return self.listed(map(self.made, parts))

    def contains(self, pattern: builtins.str, *, regex: bool = False) -> np.bool_:
        strings.CONTAINS.infer(strings.TEXT, pattern=pattern, regex=regex)
        found: np.bool_ = strings.CONTAINS.evaluate(self, pattern=pattern, regex=regex)
        return found

    def replace(  # type: ignore[override]
        self, pattern: builtins.str, replacement: builtins.str, *, regex: bool = False
    ) -> Text:
        given = {"pattern": pattern, "replacement": replacement, "regex": regex}
        strings.REPLACE.infer(strings.TEXT, **given)
        return self.made(strings.REPLACE.evaluate(self, **given))

    def length(self) -> np.int64:
        length: np.int64 = strings.LENGTH.evaluate(self)
        return length


class Items(list[Any]):
    """A list with `.list`."""

    __slots__ = ()

    @property
    def list(self) -> ListMethods:
        """The language's methods of lists."""
        return ListMethods(self)


TextMethods.listed = Items


class ListMethods:
    """The language's methods of lists."""

    def __init__(self, items: Any) -> None:
        self._items = items

    def length(self) -> np.int64:
        length: np.int64 = lists.LENGTH.evaluate(self._items)
        return length


def with_methods(value: Any) -> Any:
    """A string or list, nested ones too, with the language's methods; anything else as it is."""
    if isinstance(value, builtins.str):
        return value if isinstance(value, Text) else Text(value)
    if isinstance(value, builtins.list):
        return Items(map(with_methods, value))
    return value
