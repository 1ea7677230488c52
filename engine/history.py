"""What happened in each iteration of a loop: its scalar fields and seconds, as columns."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np

from scalops.algebra.dtypes import ArrayType
from scalops.engine.outcome import SECONDS

_CODES = {"f": "d", "i": "q", "u": "Q", "b": "b"}


class History:
    """One number per iteration for each scalar field, and SECONDS.

    Typed arrays: a number is 8 bytes, and nothing is kept per iteration beside it.
    """

    def __init__(self, kinds: Mapping[str, ArrayType]) -> None:
        self._kinds = {n: k for n, k in kinds.items() if not (k.shape or k.is_object)}
        self._columns: dict[str, Any] = {}
        for name, kind in self._kinds.items():
            code = _CODES.get(kind.numpy.kind) if kind.is_numeric else None
            self._columns[name] = array(code) if code else []
        self._columns[SECONDS] = array("d")

    @property
    def names(self) -> tuple[str, ...]:
        """The scalar fields."""
        return tuple(self._kinds)

    def append(self, scalars: Mapping[str, Any], seconds: float) -> None:
        """The scalar fields after an iteration."""
        for name, value in scalars.items():
            self._columns[name].append(value.item() if isinstance(value, np.bool_) else value)
        self._columns[SECONDS].append(seconds)

    def columns(self) -> dict[str, Any]:
        """Each column in the type of its field: an array, for strings a list."""
        made: dict[str, Any] = {SECONDS: np.array(self._columns[SECONDS], dtype=np.float64)}
        for name, kind in self._kinds.items():
            numbers = self._columns[name]
            made[name] = list(numbers) if kind.is_string else np.array(numbers, dtype=kind.numpy)
        return made

    def extend(self, columns: Mapping[str, Any]) -> None:
        """Take over the columns of an earlier run."""
        for name, numbers in columns.items():
            own = self._columns[name]
            plain = isinstance(own, array) and not isinstance(numbers, list)
            own.extend(numbers.tolist() if plain else list(numbers))
