"""Squared distances of a block's records from vectors that all of them share.

"expanded" is one product of matrices for each piece of a block (`algebra/distance_bounds.py` has
the equation and the bound), in buffers of each thread; what c and the weights make is made once
for an iteration. What the bound does not cover is computed again in the direct form: of the
nearest the records where another comes as near as rounding may reach, of distances those that lost
digits. "direct" is that form for all, a few records at a time. Neither makes records x k x d.

Measured on one thread (AVX2), 50 vectors of 50: the nearest takes 170 ns a record, of which the
product 105; distances in the direct form 2,860 ns.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from scalops.algebra.distance_bounds import TOLERANCE, Expansion, direct, expand
from scalops.algebra.expressions import Call
from scalops.algebra.functions.distances import EXPANDED
from scalops.engine.blocks import Array
from scalops.engine.kernels.buffers import into

Step = Callable[..., Any]

# Version 1 of numeric constants: of a piece's buffers, of the arrays of the direct form, and
# the share of a piece's distances at risk from which on all are computed directly.
PIECE_BYTES, LEAST_PIECE = 840_000, 64
DIRECT_BYTES = 256_000
_SHARE = 0.25


def distances(call: Call, flags: Sequence[bool], parameters: dict[str, Any]) -> Step | None:
    """`squared_distances(x, c)` and `weighted_squared_distances(x, c, a)` over blocks."""
    return _made(call, flags, parameters, _Distances)


def nearest(call: Call, flags: Sequence[bool], parameters: dict[str, Any]) -> Step | None:
    """`nearest(x, c)` and `weighted_nearest(x, c, a)` over blocks."""
    return _made(call, flags, parameters, _Nearest)


def _made(
    call: Call, flags: Sequence[bool], parameters: dict[str, Any], form: type[_Blocks]
) -> Step | None:
    if not flags[0] or any(flags[1:]):
        return None
    made = form(call, parameters)
    if parameters["form"] != EXPANDED or not made.expands:
        return made.direct

    def step(x: Array, c: Array, a: Array | None = None, out: Array | None = None) -> Array:
        return made.step(x, c, a, out)

    return into(step)


class _Own(threading.local):
    """One thread's buffers, and what it has made of which c and weights."""

    def __init__(self) -> None:
        self.of: tuple[Any, ...] = ()
        self.expansion: Expansion | None = None
        self.rooms: dict[str, Array] = {}

    def room(self, name: str, rows: int, columns: int, dtype: Any) -> Array:
        """[rows, columns] of any content, one piece of memory."""
        held = self.rooms.get(name)
        if held is None or held.size < rows * columns or held.dtype != dtype:
            held = self.rooms[name] = np.empty(rows * columns, dtype)
        return held[: rows * columns].reshape(rows, columns)


class _Blocks:
    """What both kinds of steps share. x [rows, d], c [k, d] or [d], a of a shape below c's."""

    def __init__(self, call: Call, parameters: dict[str, Any]) -> None:
        kinds = [a.type for a in call.arguments]
        self._dtype = np.result_type(*(k.numpy for k in kinds))
        self._weight = parameters.get("weight", "times")
        self._root = parameters.get("root", False)
        self._vector = len(kinds[1].shape) == 1
        self._d = kinds[1].shape[-1]
        self._k = 1 if self._vector else kinds[1].shape[0]
        self._result = call.type.numpy
        # As NumPy adds up squares: narrow integers in wide ones.
        x, c, *a = (np.ones(1, k.numpy) for k in kinds)
        self._sums = direct(x, c, a[0] if a else None, self._weight).dtype
        self._own = _Own()
        # A difference in a narrower type than its weight has larger errors than the bound.
        same = self._dtype == np.result_type(*(k.numpy for k in kinds[:2]))
        self.expands = self._dtype.name in TOLERANCE and same and not self._vector

    def step(self, x: Array, c: Array, a: Array | None = None, out: Array | None = None) -> Array:
        raise NotImplementedError

    def direct(self, x: Array, c: Array, a: Array | None = None) -> Array:
        raise NotImplementedError

    def _expansion(self, c: Array, a: Array | None) -> Expansion | None:
        """That of c and a; made once for an iteration, in which they are the same arrays."""
        own = self._own
        if not own.of or own.of[0] is not c or own.of[1] is not a:
            own.expansion = expand(c, a, self._weight, self._dtype)
            own.of = (c, a)
        return own.expansion

    def _pieces(self, rows: int, width: int) -> Iterator[slice]:
        fitting = max(1, PIECE_BYTES // (width * self._dtype.itemsize))
        size = max(LEAST_PIECE, 1 << (fitting.bit_length() - 1))
        for start in range(0, rows, size):
            yield slice(start, min(start + size, rows))

    def _moved(self, x: Array, expansion: Expansion) -> Array:
        """y of the expansion; x itself where it can be."""
        if expansion.centre is None:
            return x if x.dtype == self._dtype else x.astype(self._dtype)
        out = self._own.room("moved", len(x), self._d, self._dtype)
        return np.subtract(x, expansion.centre, out=out)

    def _add_squares(self, made: Array, y: Array, factors: Array) -> None:
        """made += y² factors, in the layout that `made` has."""
        rows, own = len(y), self._own
        squares = np.square(y, out=own.room("squares", rows, self._d, self._dtype))
        if made.strides[0] == made.itemsize:
            more = own.room("more", self._k, rows, self._dtype).T
        else:
            more = own.room("more", rows, self._k, self._dtype)
        made += np.matmul(squares, factors, out=more)

    def _all_direct(self, x: Array, c: Array, a: Array | None) -> Array:
        """[rows, k] in the direct form, a few records (and vectors, if they are many) at a time."""
        if self._vector:
            c = c[None]
        a = None if a is None else np.broadcast_to(a, c.shape)
        per = max(1, self._d * self._dtype.itemsize)
        vectors = min(self._k, max(1, DIRECT_BYTES // per))
        some = max(1, DIRECT_BYTES // (per * max(1, vectors)))
        made: Array = np.empty((len(x), self._k), self._sums)
        for start in range(0, len(x), some):
            part = x[start : start + some, None]
            for k in range(0, self._k, vectors):
                own = slice(k, k + vectors)
                weights = None if a is None else a[own]
                made[start : start + some, own] = direct(part, c[own], weights, self._weight)
        return made


class _Distances(_Blocks):
    """[rows, k]; [rows] from one vector."""

    def step(self, x: Array, c: Array, a: Array | None = None, out: Array | None = None) -> Array:
        made = np.empty((len(x), self._k), self._dtype) if out is None else out
        expansion = self._expansion(c, a)
        if expansion is None:
            made[...] = self.direct(x, c, a)
            return made
        d, factors, last = self._d, expansion.factors[:, :-1].T, expansion.factors[:, -1]
        for piece in self._pieces(len(x), len(factors)):
            y, part = self._moved(x[piece], expansion), made[piece]
            np.matmul(y, factors[-d:], out=part)
            part += last
            if expansion.squares:
                self._add_squares(part, y, factors[:d])
            else:
                part += np.vecdot(y, y)[:, None]
            self._repair(part, x[piece], c, a, expansion)
        return made

    def _repair(
        self, part: Array, x: Array, c: Array, a: Array | None, expansion: Expansion
    ) -> None:
        """Compute in the direct form what has lost digits, or may have overflowed on its way."""
        low, high = np.minimum.reduce(part, axis=0), np.maximum.reduce(part, axis=0)
        if (low >= expansion.least).all() and (high < np.inf).all():
            return
        record, vector = np.nonzero(~((part >= expansion.least) & (part < np.inf)))
        if len(record) > _SHARE * part.size:
            part[...] = self._all_direct(x, c, a)
            return
        a = None if a is None else np.broadcast_to(a, c.shape)
        some = max(1, DIRECT_BYTES // (self._d * self._dtype.itemsize))
        for start in range(0, len(record), some):
            i, k = record[start : start + some], vector[start : start + some]
            part[i, k] = direct(x[i], c[k], None if a is None else a[k], self._weight)

    def direct(self, x: Array, c: Array, a: Array | None = None) -> Array:
        if not self._vector:
            return self._all_direct(x, c, a)
        if self._dtype.name not in TOLERANCE or self._sums != self._dtype:
            return self._all_direct(x, c, a)[:, 0]
        made: Array = np.empty(len(x), self._result)
        ones = np.ones(self._d, self._dtype)
        for piece in self._pieces(len(x), self._d):
            y = self._own.room("apart", len(x[piece]), self._d, self._dtype)
            np.subtract(x[piece], c, out=y)
            if a is None:
                np.vecdot(y, y, out=made[piece])
                continue
            if self._weight.endswith("squared"):
                self._weigh(y, a)
            np.square(y, out=y)
            if not self._weight.endswith("squared"):
                self._weigh(y, a)
            np.matmul(y, ones, out=made[piece])
        return made

    def _weigh(self, y: Array, a: Array) -> None:
        (np.multiply if self._weight.startswith("times") else np.divide)(y, a, out=y)


class _Nearest(_Blocks):
    """int64[rows]: exactly what the direct form gives."""

    def step(self, x: Array, c: Array, a: Array | None = None, out: Array | None = None) -> Array:
        found = np.empty(len(x), self._result) if out is None else out
        expansion = self._expansion(c, a)
        if expansion is None:
            found[...] = self.direct(x, c, a)
            return found
        small = np.dtype(np.uint8 if self._k < 256 else np.uint32)
        numbers = np.arange(self._k, dtype=small)[:, None]
        k, own = self._k, self._own
        d, factors, last = self._d, expansion.factors[:, :-1], expansion.factors[:, -1:]
        for piece in self._pieces(len(x), k + factors.shape[1]):
            part = x[piece]
            rows, y = len(part), self._moved(part, expansion)
            scores = own.room("scores", k, rows, self._dtype)
            np.matmul(factors[:, -d:], y.T, out=scores)
            scores += last
            if expansion.squares:
                self._add_squares(scores.T, y, factors[:, :d].T)
            best = np.minimum.reduce(scores, axis=0)
            norms = None if expansion.squares else np.vecdot(y, y)
            best += expansion.margins(norms, best)
            near = np.less_equal(scores, best, out=own.room("near", k, rows, np.bool_))
            seen = near.view(np.uint8)
            many = np.add.reduce(seen, axis=0, dtype=small)
            # Of a record with one candidate, the sum of its candidates' numbers.
            placed = np.multiply(seen, numbers, out=own.room("placed", k, rows, small))
            found[piece] = np.add.reduce(placed, axis=0, dtype=small)
            unsure = np.flatnonzero(many != 1)
            if len(unsure):
                found[piece.start + unsure] = self.direct(part[unsure], c, a)
        return found

    def direct(self, x: Array, c: Array, a: Array | None = None) -> Array:
        found: Array = np.empty(len(x), self._result)
        some = max(1, DIRECT_BYTES // max(1, self._k * self._dtype.itemsize))
        for start in range(0, len(x), some):
            made = self._all_direct(x[start : start + some], c, a)
            if self._root:
                made = np.sqrt(made)
            found[start : start + some] = np.argmin(made, axis=1)
        return found
