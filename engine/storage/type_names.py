"""Types as text: what `str` of a type gives, read back."""

from __future__ import annotations

import re

from scalops.algebra.dtypes import STRING, ArrayType, list_of, sparse

_UNITS = ("s", "ms", "us", "ns")
SCALAR_NAMES = (
    "bool",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    "float16",
    "float32",
    "float64",
    STRING,
    *(f"{name}[{unit}]" for name in ("timestamp", "duration") for unit in _UNITS),
)
FORMS = f"{', '.join(SCALAR_NAMES)}, float64[3] (a vector), list[string], sparse[1000]"


def type_named(text: str) -> ArrayType | None:
    """The type that is written so, None where there is none.

    >>> str(type_named("list[float64[2,3]]")), type_named("integer")
    ('list[float64[2,3]]', None)
    """
    if text in SCALAR_NAMES:
        return ArrayType(text)
    inside = re.fullmatch(r"(\w+(?:\[\w+\])?|list)\[(.*)\]", text)
    if inside is None:
        return None
    outer, inner = inside.groups()
    if outer == "list":
        item = type_named(inner)
        return None if item is None or item.is_sparse else list_of(item)
    if not re.fullmatch(r"\d+(,\d+)*", inner):
        return None
    shape = tuple(map(int, inner.split(",")))
    if outer == "sparse":
        return sparse(shape[0]) if len(shape) == 1 else None
    return ArrayType(outer, shape) if outer in SCALAR_NAMES and outer != STRING else None
