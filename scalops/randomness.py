"""`so.random`: random numbers that are pure functions of a seed and keys."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np

from scalops.algebra.errors import TraceError, user_location
from scalops.algebra.functions import hashes
from scalops.algebra.functions import randomness as table
from scalops.algebra.functions.table import Function
from scalops.value import Value, apply, holds_value

_KEYS = 16
_INTEGERS = "so.random.integers(seed, *keys, low=0, high=10)"
# What NumPy's generators call it, and how it is written here.
_NUMPY_WORDS = {
    "size": "the sizes are shape=: so.random.{0}(seed, *keys, shape=10)",
    "loc": "write loc + scale * so.random.{0}(seed, *keys, shape=10)",
    "scale": "write loc + scale * so.random.{0}(seed, *keys, shape=10)",
    "endpoint": "high is never drawn: write high=last + 1",
}


class Random:
    """Random numbers by seed and keys: the same arguments always give the same numbers.

    Seed and keys are integers, keys strings too: Python's, Values or columns. Numbers with
    different seeds or keys, and those of different methods, are independent.
    """

    def uniform(self, seed: Any, *keys: Any, shape: Any = (), **unknown: Any) -> Any:
        """float64 in [0, 1), all multiples of 2**-53."""
        _refuse("uniform", unknown)
        return _drawn(table.UNIFORM, seed, keys, shape=_shape(shape))

    def normal(self, seed: Any, *keys: Any, shape: Any = (), **unknown: Any) -> Any:
        """float64 of mean 0 and variance 1."""
        _refuse("normal", unknown)
        return _drawn(table.NORMAL, seed, keys, shape=_shape(shape))

    def integers(
        self,
        seed: Any,
        *keys: Any,
        high: Any = None,
        low: Any = 0,
        shape: Any = (),
        **unknown: Any,
    ) -> Any:
        """int64 from `low` to below `high`, each equally likely."""
        _refuse("integers", unknown)
        if high is None:
            raise TraceError(
                "random integers without high=: what is given by position is the seed and keys",
                location=user_location(),
                hint=f"write {_INTEGERS}",
            )
        given = _shape(shape)
        if holds_value((low, high)):
            words = _drawn(table.INTEGER_BITS, seed, keys, shape=given)
            return apply(table.WITHIN, words, low, high)
        low, high = _bound("low", low), _bound("high", high)
        if low >= high:
            raise TraceError(
                f"random integers from {low} to below {high}: there are none",
                location=user_location(),
                hint="low must be below high, which is not itself drawn",
            )
        return _drawn(table.INTEGERS, seed, keys, low=low, high=high, shape=given)

    def __repr__(self) -> str:
        return "so.random"

    def __reduce__(self) -> str:
        return "random"


random = Random()


def _refuse(method: str, unknown: dict[str, Any]) -> None:
    for name in unknown:
        form = _INTEGERS if method == "integers" else f"so.random.{method}(seed, *keys, shape=10)"
        raise TraceError(
            f"so.random.{method} has no argument {name!r}",
            location=user_location(),
            hint=_NUMPY_WORDS.get(name, f"write {form}").format(method),
        )


def _drawn(entry: Function, seed: Any, keys: tuple[Any, ...], **parameters: Any) -> Any:
    if len(keys) > _KEYS:
        raise TraceError(f"{len(keys)} keys; expected {_KEYS} at most", location=user_location())
    given = [_integer("seed", seed), *(_integer("key", k) for k in keys)]
    if holds_value(given):
        return apply(entry, *given, **parameters)
    if any(g is None for g in given):
        return None
    return entry.evaluate(*given, **parameters)


def _integer(what: str, value: Any) -> Any:
    """A seed or key as what the table's functions take: a 64-bit integer."""
    if isinstance(value, str):
        return int(np.uint64(hashes.HASH.evaluate(value)).view(np.int64))
    if isinstance(value, (bool, np.bool_)):
        return int(value)
    if isinstance(value, int):
        return (value + 2**63) % 2**64 - 2**63
    if holds_value(value) and getattr(value, "type", None) is not None and value.type.is_string:
        return apply(hashes.HASH, value)
    if value is None or holds_value(value):
        return value
    if isinstance(value, np.integer) or (
        isinstance(value, np.ndarray) and not value.shape and value.dtype.kind in "iu"
    ):
        return value
    raise TraceError(
        f"a {what} of random numbers is a {type(value).__name__}; expected an integer",
        location=user_location(),
        hint="so.hash makes one of other values",
    )


def _shape(shape: Any) -> tuple[int, ...]:
    sizes = shape if isinstance(shape, (tuple, list)) else (shape,)
    try:
        made = tuple(map(operator.index, (s for s in sizes if not isinstance(s, Value))))
    except TypeError:
        made = ()
    if len(made) != len(sizes) or any(s < 0 for s in made):
        raise TraceError(
            f"shape={shape!r}; sizes that make shapes are Python ints",
            location=user_location(),
        )
    return made


def _bound(what: str, value: Any) -> int:
    try:
        bound = operator.index(value)
    except TypeError:
        bound = None
    if bound is None or not -(2**63) <= bound < 2**63:
        raise TraceError(
            f"{what}={value!r} of random integers; expected an integer of 64 bits",
            location=user_location(),
        )
    return bound
