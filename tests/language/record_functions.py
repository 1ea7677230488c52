"""Random functions of a record, which run on plain records and on symbols alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np

import scalops as so

Function = Callable[[Any], Any]

MOST_ITEMS = 48


@dataclass(frozen=True)
class Made:
    """A function with what it gives for a sample record.

    `exact` where no rounding is in it, so that it may be compared or floored.
    """

    apply: Function
    sample: Any
    exact: bool
    text: str

    @property
    def shape(self) -> tuple[int, ...]:
        return np.shape(self.sample)

    @property
    def is_float(self) -> bool:
        return np.asarray(self.sample).dtype.kind == "f"


def columns(random: Random, rows: int) -> dict[str, Any]:
    """A table's columns of many types and shapes, with a few extreme values."""
    rng = np.random.default_rng(random.randrange(1 << 30))

    def floats(*shape: int) -> Any:
        return np.round(rng.normal(0, 2, (rows, *shape)), 2)

    odd = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-300])
    return {
        "a": floats(),
        "b": floats().astype(np.float32),
        "odd": odd[rng.integers(0, len(odd), rows)],
        "i": rng.integers(-9, 10, rows),
        "j": rng.integers(-128, 128, rows).astype(np.int8),
        "k": rng.integers(0, 256, rows).astype(np.uint8),
        "l": rng.integers(-(2**31), 2**31, rows).astype(np.int32),
        "t": rng.random(rows) < 0.5,
        "x": floats(3),
        "y": floats(3).astype(np.float32),
        "n": rng.integers(-4, 5, (rows, 3)),
        "m": floats(2, 3),
        "one": floats(1),
    }


def records(given: dict[str, Any]) -> list[Any]:
    """The plain records of columns."""
    rows = len(next(iter(given.values())))
    return [SimpleNamespace(**{n: c[i] for n, c in given.items()}) for i in range(rows)]


_UNARY: dict[str, Function] = {
    "-": lambda a: -a,
    "abs": np.abs,
    "square": np.square,
    "tanh": np.tanh,
    "sin": np.sin,
    "exp": lambda a: np.exp(np.minimum(a, 3)),
    "log1p": lambda a: np.log1p(np.abs(a)),
    "sqrt": lambda a: np.sqrt(np.abs(a)),
    "sigmoid": so.sigmoid,
    "2 *": lambda a: 2 * a,
    "1.5 +": lambda a: a + 1.5,
    "3 -": lambda a: 3 - a,
    "clip": lambda a: np.clip(a, -1, 2),
    "** 2": lambda a: a**2,
    "float32": lambda a: so.cast(a, so.float32),
}
_ROUNDED: dict[str, Function] = {
    "floor": np.floor,
    "sign": np.sign,
    "rint": np.rint,
    "isnan": np.isnan,
    "isfinite": np.isfinite,
}
_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / (np.abs(b) + 1),
    "minimum": np.minimum,
    "maximum": np.maximum,
    "hypot": np.hypot,
}
_COMPARED: dict[str, Callable[[Any, Any], Any]] = {
    "<": lambda a, b: a < b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "//": lambda a, b: a // (np.abs(b) + 1),
    "%": lambda a, b: a % (np.abs(b) + 1),
}
_OF_ARRAYS: dict[str, Function] = {
    "sum": lambda a: a.sum(),
    "mean": lambda a: a.mean(),
    "max": lambda a: a.max(),
    "min(-1)": lambda a: a.min(axis=-1),
    "sum(0)": lambda a: a.sum(axis=0),
    "prod": lambda a: a.prod(),
    "[0]": lambda a: a[0],
    "[::2]": lambda a: a[::2],
    "[None]": lambda a: a[None],
    "T": lambda a: a.T,
    "flat": lambda a: a.reshape(-1),
    "cumsum": lambda a: np.cumsum(a),
    "softmax": lambda a: so.softmax(a),
    "logsumexp": lambda a: so.logsumexp(a),
    "norm": lambda a: np.linalg.norm(a),
    "var": lambda a: a.var(),
    "flip": np.flip,
}
_OF_TWO_ARRAYS: dict[str, Callable[[Any, Any], Any]] = {
    "@": lambda a, b: a @ b,
    "outer": np.outer,
    "concatenate": lambda a, b: np.concatenate([a, b]),
    "stack": lambda a, b: np.stack([a, b]),
}


class Functions:
    """A source of random functions of a record like `sample`."""

    def __init__(self, random: Random, sample: Any, state: dict[str, Any]) -> None:
        self._random = random
        self._sample = sample
        self._leaves = [self._leaf(n) for n in vars(sample)]
        self._leaves += [self._value(n, v) for n, v in state.items()]

    def _leaf(self, name: str) -> Made:
        return Made(lambda r: getattr(r, name), getattr(self._sample, name), True, name)

    @staticmethod
    def _value(name: str, value: Any) -> Made:
        return Made(lambda r: value, value, True, name)

    def make(self, depth: int) -> Made:
        """A function, of at most that many steps one over the other."""
        if depth == 0:
            return self._random.choice(self._leaves)
        for _ in range(30):
            made = self._step(depth)
            if made is not None:
                return made
        return self._random.choice(self._leaves)

    def _step(self, depth: int) -> Made | None:
        random = self._random
        a = self.make(depth - 1)
        kind = random.random()
        if a.shape and kind < 0.3:
            name = random.choice(list(_OF_ARRAYS))
            return self._called(name, _OF_ARRAYS[name], a)
        if a.exact and kind < 0.4:
            name = random.choice(list(_ROUNDED))
            return self._called(name, _ROUNDED[name], a, exact=True)
        if kind < 0.6:
            name = random.choice(list(_UNARY))
            return self._called(name, _UNARY[name], a)
        b = self.make(random.randrange(depth))
        if a.shape and b.shape and kind < 0.75:
            name = random.choice(list(_OF_TWO_ARRAYS))
            return self._called(name, _OF_TWO_ARRAYS[name], a, b)
        if a.exact and b.exact and kind < 0.85:
            name = random.choice(list(_COMPARED))
            return self._called(name, _COMPARED[name], a, b, exact=True)
        if kind < 0.9:
            c = random.choice([v for v in self._leaves if v.shape == ()])
            return self._called("where", lambda t, u, v: so.where(t != 0, u, v), c, a, b)
        name = random.choice(list(_BINARY))
        return self._called(name, _BINARY[name], a, b)

    def _called(
        self, name: str, function: Callable[..., Any], *given: Made, exact: bool = False
    ) -> Made | None:
        try:
            with np.errstate(all="ignore"):
                sample = function(*(g.sample for g in given))
        except (TypeError, ValueError, IndexError):
            return None
        found = np.asarray(sample)
        if found.size == 0 or found.size > MOST_ITEMS or found.dtype.kind not in "biuf":
            return None
        if found.dtype == np.float16:
            return None
        # Integers and bools are exact whatever is done to them.
        whole = exact or (found.dtype.kind != "f" and all(g.exact for g in given))
        text = f"{name}({', '.join(g.text for g in given)})"
        applied = [g.apply for g in given]
        return Made(lambda r: function(*(f(r) for f in applied)), sample, whole, text)


def agree(expected: Any, found: Any) -> bool:
    """Whether two values are the same up to rounding; integers and bools exactly."""
    expected, found = np.asarray(expected), np.asarray(found)
    if expected.dtype.kind != "f":
        return bool((expected.reshape(-1) == found.reshape(-1)).all())
    tolerance = 1e-9 if expected.dtype == np.float64 else 1e-3
    with np.errstate(all="ignore"):
        return np.allclose(
            found.reshape(-1).astype(float),
            expected.reshape(-1).astype(float),
            rtol=tolerance,
            atol=tolerance,
            equal_nan=True,
        )
