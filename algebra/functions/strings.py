"""Functions of strings: over one string, and over an Arrow column of them with the same results.

The meaning is Python's: `str.lower`, `upper`, `strip`, `split`, `replace`, `in` and `len`, which
counts code points. Regular expressions are RE2's, whose time is linear in the text; they are
Arrow's kernels for one string too. A column's nulls stay null.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scalops.algebra.dtypes import BOOL, INT64, STRING, ArrayType, list_of
from scalops.algebra.functions.table import Function, register

TEXT = ArrayType(STRING)


# Over columns: pa.Array of strings to pa.Array.


def lower(column: pa.Array) -> pa.Array:
    """`str.lower` of each."""
    return _cased(column, pc.ascii_lower, str.lower)


def upper(column: pa.Array) -> pa.Array:
    """`str.upper` of each."""
    return _cased(column, pc.ascii_upper, str.upper)


def _cased(
    column: pa.Array, kernel: Callable[[pa.Array], pa.Array], method: Callable[[str], str]
) -> pa.Array:
    """Arrow's kernel for ASCII, Python's method for other texts.

    Arrow maps one code point to one: it knows neither that "ß" is "SS" in capitals nor that a
    sigma at a word's end has another form.
    """
    made = kernel(column)
    other = pc.fill_null(pc.invert(pc.string_is_ascii(column)), False)
    if not pc.any(other, min_count=0).as_py():
        return made
    texts = pa.array([method(s) for s in column.filter(other).to_pylist()], pa.string())
    return pc.replace_with_mask(made, other, texts)


def strip(column: pa.Array) -> pa.Array:
    """`str.strip` of each."""
    return pc.utf8_trim_whitespace(column)


def split(column: pa.Array, pattern: str | None = None, regex: bool = False) -> pa.Array:
    """`str.split` of each, or the parts between the matches of an expression."""
    if pattern is None:
        return _words(column)
    if regex:
        # Arrow's own split takes each rest for a new text, and does not end at empty matches.
        mark = _absent(column)
        column = pc.replace_substring_regex(column, pattern, mark)
        pattern = mark
    return pc.split_pattern(column, pattern)


def _words(column: pa.Array) -> pa.Array:
    """The parts between runs of whitespace; of a text with nothing else, none."""
    trimmed = strip(column)
    parts = pc.utf8_split_whitespace(trimmed)
    empty = pc.equal(trimmed, "")
    if not pc.any(empty, min_count=0).as_py():
        return parts
    # Arrow gives [""] for "". Trimmed texts have no other empty part.
    items = parts.flatten()
    lengths = pc.fill_null(pc.list_value_length(parts), 0).to_numpy(zero_copy_only=False)
    lengths = lengths - pc.fill_null(empty, False).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)])
    mask = parts.is_null() if parts.null_count else None
    return pa.ListArray.from_arrays(
        pa.array(offsets), items.filter(pc.not_equal(items, "")), mask=mask
    )


def _absent(column: pa.Array) -> str:
    """A mark that occurs in no text: of Unicode's 32 noncharacters, one, or two together."""
    candidates = [chr(c) for c in range(0xFDD0, 0xFDF0)]
    marks: Iterator[str] = iter([*candidates, *map("".join, permutations(candidates, 2))])
    return next(m for m in marks if not pc.any(pc.match_substring(column, m), min_count=0).as_py())


def contains(column: pa.Array, pattern: str, regex: bool = False) -> pa.Array:
    """Whether the pattern occurs in each."""
    match = pc.match_substring_regex if regex else pc.match_substring
    return match(column, pattern)


def is_in(column: pa.Array, items: tuple[str, ...]) -> pa.Array:
    """Whether each is one of `items`; null for null."""
    return pc.if_else(column.is_valid(), pc.is_in(column, pa.array(items, pa.string())), None)


def replace(column: pa.Array, pattern: str, replacement: str, regex: bool = False) -> pa.Array:
    """Each with all occurrences replaced; in an expression's replacement, \\1 is a group."""
    if regex:
        return pc.replace_substring_regex(column, pattern, replacement)
    return pc.replace_substring(column, pattern, replacement)


def length(column: pa.Array) -> pa.Array:
    """Code points of each: int64."""
    return pc.utf8_length(column).cast(pa.int64())


def concatenate(*columns: Any) -> pa.Array:
    """Texts one after the other; columns and single strings."""
    return pc.binary_join_element_wise(*columns, "")


# Of one string.


def _one(column_function: Callable[..., pa.Array], text: str, *args: Any, **kwargs: Any) -> Any:
    return column_function(pa.array([text], pa.string()), *args, **kwargs)[0].as_py()


def _lower(text: str) -> str:
    return str.lower(text)


def _upper(text: str) -> str:
    return str.upper(text)


def _strip(text: str) -> str:
    return str.strip(text)


def _split(text: str, pattern: str | None = None, regex: bool = False) -> list[str]:
    if regex:
        made: list[str] = _one(split, text, pattern, regex)
        return made
    return str.split(text, pattern)


def _contains(text: str, pattern: str, regex: bool = False) -> np.bool_:
    return np.bool_(_one(contains, text, pattern, regex) if regex else str(pattern) in str(text))


def _is_in(text: str, items: tuple[str, ...]) -> np.bool_:
    return np.bool_(str(text) in items)


def _replace(text: str, pattern: str, replacement: str, regex: bool = False) -> str:
    if regex:
        made: str = _one(replace, text, pattern, replacement, regex)
        return made
    return str.replace(text, pattern, replacement)


def _length(text: str) -> np.int64:
    return np.int64(str.__len__(text))


def _concatenate(*texts: str) -> str:
    return str.__add__(*texts)


# Types; patterns are tried when the function is written.


def _needs_text(name: str, *kinds: ArrayType) -> None:
    for kind in kinds:
        if not kind.is_string or kind.shape:
            listed = " and ".join(map(str, kinds))
            raise TypeError(f"{name} needs a string, not {listed}")


def _plain_type(name: str, result: ArrayType) -> Callable[..., ArrayType]:
    def infer(*kinds: ArrayType) -> ArrayType:
        _needs_text(name, *kinds)
        return result

    return infer


def _try(name: str, kernel: Callable[..., Any], *args: Any) -> None:
    for text in args:
        if not isinstance(text, str):
            raise TypeError(f"{name} takes Python strings as patterns, not {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{name} got half a character in {text!r}: {error.reason}") from None
    try:
        kernel(pa.array([""], pa.string()), *args, regex=True)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{name} got {args[0]!r}, which RE2 refuses: {error}") from None


def _split_type(kind: ArrayType, pattern: str | None = None, regex: bool = False) -> ArrayType:
    _needs_text("split", kind)
    if pattern is not None:
        _checked("split", contains, regex, pattern)
    elif regex:
        raise ValueError("split(regex=True) needs an expression")
    return list_of(TEXT)


def _contains_type(kind: ArrayType, pattern: str, regex: bool = False) -> ArrayType:
    _needs_text("contains", kind)
    _checked("contains", contains, regex, pattern, may_be_empty=True)
    return BOOL


def _is_in_type(kind: ArrayType, items: tuple[str, ...]) -> ArrayType:
    _needs_text("isin", kind)
    return BOOL


def _replace_type(
    kind: ArrayType, pattern: str, replacement: str, regex: bool = False
) -> ArrayType:
    _needs_text("replace", kind)
    _checked("replace", replace, regex, pattern, replacement)
    return TEXT


def _checked(
    name: str, kernel: Callable[..., Any], regex: bool, *args: Any, may_be_empty: bool = False
) -> None:
    if regex:
        _try(name, kernel, *args)
        return
    _try(name, lambda *_, **__: None, *args)
    if not args[0] and not may_be_empty:
        raise ValueError(f"{name} needs a pattern that is not empty")


LOWER = register(Function("str_lower", _plain_type("lower", TEXT), _lower, flops=50.0))
UPPER = register(Function("str_upper", _plain_type("upper", TEXT), _upper, flops=50.0))
STRIP = register(Function("str_strip", _plain_type("strip", TEXT), _strip, flops=20.0))
LENGTH = register(Function("str_length", _plain_type("length", INT64), _length, flops=10.0))
SPLIT = register(Function("str_split", _split_type, _split, flops=200.0))
CONTAINS = register(Function("str_contains", _contains_type, _contains, flops=50.0))
IS_IN = register(Function("str_is_in", _is_in_type, _is_in, flops=50.0))
REPLACE = register(Function("str_replace", _replace_type, _replace, flops=100.0))
CONCATENATE = register(
    Function("str_concatenate", _plain_type("+", TEXT), _concatenate, flops=20.0, form="+")
)
