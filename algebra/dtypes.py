"""Types of single-record values: arrays, lists, sparse vectors, and tuples of such.

A type says nothing of how many records there are: the engine adds the block axis.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod

import numpy as np

STRING = "string"
_NUMPY_KINDS = "biuf"


class Type:
    """Base of all types; compared by value."""


@dataclass(frozen=True)
class ArrayType(Type):
    """An array of fixed shape; a scalar has the shape ().

    `name` is NumPy's name of the scalar type, or "string", "timestamp[us]", "duration[us]".
    A `weak` number takes the type of its partner, as a Python number does in NumPy (NEP 50).
    """

    name: str
    shape: tuple[int, ...] = ()
    weak: bool = False

    @cached_property
    def numpy(self) -> np.dtype[np.generic]:
        """NumPy's type; strings have none here, they stay Arrow arrays."""
        if self.name == STRING:
            return np.dtype(object)
        if self.name.startswith("timestamp"):
            return np.dtype(f"M8{self.name[9:]}")
        if self.name.startswith("duration"):
            return np.dtype(f"m8{self.name[8:]}")
        return np.dtype(self.name)

    @property
    def is_numeric(self) -> bool:
        return self.name != STRING and self.numpy.kind in _NUMPY_KINDS

    @property
    def is_string(self) -> bool:
        return self.name == STRING

    @property
    def is_list(self) -> bool:
        return False

    @property
    def is_sparse(self) -> bool:
        return False

    @property
    def is_object(self) -> bool:
        return False

    @property
    def is_arrow(self) -> bool:
        """Whether a column of it stays an Arrow array: strings and lists."""
        return self.is_string or self.is_list

    @property
    def is_plain(self) -> bool:
        """Whether a column of it is a NumPy array [rows, *shape]."""
        return not (self.is_arrow or self.is_sparse)

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of one record's value; a string is taken as 32."""
        return self.size * (32 if self.is_string else self.numpy.itemsize)

    @property
    def python(self) -> type:
        """The Python type that stands for a weak number of this type."""
        return {"b": bool, "i": int, "u": int}.get(self.numpy.kind, float)

    def strong(self) -> ArrayType:
        """The same type with a definite width."""
        return replace(self, weak=False) if self.weak else self

    def with_shape(self, *shape: int) -> ArrayType:
        return ArrayType(self.name, shape)

    def dense(self) -> ArrayType:
        """The type of the same numbers with every element stored."""
        return self

    def __str__(self) -> str:
        return self.name + (f"[{','.join(map(str, self.shape))}]" if self.shape else "")


@dataclass(frozen=True)
class ListType(ArrayType):
    """A list whose length differs from record to record; its items are of one type, or null.

    A column of it stays an Arrow array; one record's value is a Python list.
    """

    name: str = "list"
    item: ArrayType = field(default=ArrayType("float64"), kw_only=True)

    @property
    def numpy(self) -> np.dtype[np.generic]:
        return np.dtype(object)

    @property
    def is_numeric(self) -> bool:
        return False

    @property
    def is_list(self) -> bool:
        return True

    @property
    def bytes(self) -> int:
        """Bytes of one record's value, taken as eight items."""
        return 8 * self.item.bytes

    def __str__(self) -> str:
        return f"list[{self.item}]"


@dataclass(frozen=True)
class SparseType(ArrayType):
    """A sparse vector of float64 of the shape (dimension,): what is not stored is 0."""

    name: str = "float64"

    @property
    def dimension(self) -> int:
        return self.shape[0]

    @property
    def is_sparse(self) -> bool:
        return True

    @property
    def bytes(self) -> int:
        """Bytes of one record's value, taken as 85 stored elements."""
        return 1024

    def dense(self) -> ArrayType:
        return ArrayType(self.name, self.shape)

    def __str__(self) -> str:
        return f"sparse[{self.dimension}]"


@dataclass(frozen=True)
class ObjectType(ArrayType):
    """A Python value with no fixed form: a dict whose keys come from the data, say.

    Only a driver value can have this type, and only functions that run as they are can read it.
    """

    name: str = "object"

    @property
    def is_object(self) -> bool:
        return True

    @property
    def is_numeric(self) -> bool:
        return False

    @property
    def is_plain(self) -> bool:
        return False

    @property
    def bytes(self) -> int:
        return 1024

    def __str__(self) -> str:
        return "object"


def list_of(item: ArrayType) -> ListType:
    """The type of lists of `item`."""
    return ListType(item=item.strong())


def sparse(dimension: int) -> SparseType:
    """The type of sparse vectors of this dimension."""
    return SparseType(shape=(dimension,))


@dataclass(frozen=True)
class TupleType(Type):
    """Several values at once: what an opaque function or a multi-output function returns."""

    items: tuple[ArrayType, ...]

    def __str__(self) -> str:
        return f"({', '.join(map(str, self.items))})"


def name_of(dtype: np.dtype[np.generic]) -> str | None:
    """Our name of a NumPy scalar type, or None where there is none (complex, structured, void)."""
    if dtype.kind in _NUMPY_KINDS and dtype.itemsize <= 8:
        return dtype.newbyteorder("=").name
    if dtype.kind in "OUT":
        return STRING
    if dtype.kind in "Mm":
        unit, count = np.datetime_data(dtype)  # type: ignore[arg-type]
        if unit in ("s", "ms", "us", "ns") and count == 1:
            return f"{'timestamp' if dtype.kind == 'M' else 'duration'}[{unit}]"
    return None


def type_of(value: object) -> ArrayType | None:
    """The type of a NumPy or Python value; Python's own numbers are weak. None: no such type."""
    if isinstance(value, bool):
        return ArrayType("bool")
    if isinstance(value, (int, float)) and not isinstance(value, np.generic):
        return ArrayType("int64" if isinstance(value, int) else "float64", weak=True)
    if isinstance(value, str):
        return ArrayType(STRING)
    if isinstance(value, (np.ndarray, np.generic)):
        name = name_of(value.dtype)
        return None if name is None else ArrayType(name, value.shape)
    from scalops.algebra.sparse import SparseVector  # which reads this module

    return value.type if isinstance(value, SparseVector) else None


OBJECT = ObjectType()
BOOL = ArrayType("bool")
INT64 = ArrayType("int64")
FLOAT64 = ArrayType("float64")
