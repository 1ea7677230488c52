"""Functions of lists: a record's length and its items, which may be none."""

from __future__ import annotations

from typing import Any

import numpy as np

from scalops.algebra.dtypes import INT64, ArrayType, ListType
from scalops.algebra.functions.table import Function, register


def _list_type(name: str, kind: ArrayType) -> ListType:
    if not isinstance(kind, ListType):
        raise TypeError(f"{name} needs a list, not {kind}")
    return kind


def _length_type(kind: ArrayType) -> ArrayType:
    _list_type("length", kind)
    return INT64


def _item_type(kind: ArrayType, index: ArrayType) -> ArrayType:
    if index.shape or not index.is_plain or index.numpy.kind not in "iu":
        raise TypeError(f"a list is indexed by one integer, not {index}")
    return _list_type("indexing", kind).item


def _length(items: list[Any]) -> np.int64:
    return np.int64(len(items))


def _item(items: list[Any], index: Any) -> Any:
    """The item, from the end for a negative index; None outside."""
    at = int(index)
    return list.__getitem__(items, at) if -len(items) <= at < len(items) else None


LENGTH = register(Function("list_length", _length_type, _length))
ITEM = register(Function("list_item", _item_type, _item))
