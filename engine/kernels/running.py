"""Running aggregates over consecutive records: how each kind goes on from a carry.

After Boehm, Evfimievski and Reinwald, "Efficient Data-Parallel Cumulative Aggregates for
Large-Scale Machine Learning" (BTW 2019): a *summary* of each partition, a scan over the summaries
that gives every partition its *carry*, and a pass over the records that starts from it.

A carry is [groups, *shape] in the result's type: the running aggregate before the partition. A
summary is a list of such arrays, of the partition taken by itself. `join` leads a carry over a
summary; where rounding, overflow or underflow would make that differ from the record by record
meaning, it says so, and the partition's records are gone through once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np
from scipy.linalg.blas import dtbsv, stbsv

from scalops.algebra.dtypes import ArrayType
from scalops.engine.blocks import Array

Summary = list[Array]
_LONG = 4_096  # records of a sum that are worth a few calls more
_SHORT = 64  # records of a group that are not worth a scan of their own


class Form:
    """One kind of running aggregate in one type.

    Records are given as the arguments' arrays, [rows, *shape]; of several groups those of each
    stand together, in table order, and begin at `starts`, int[groups].
    """

    arguments = 1

    def __init__(self, kind: ArrayType) -> None:
        self.dtype, self.shape = kind.numpy, kind.shape
        self.is_float = self.dtype.kind == "f"

    @property
    def identity(self) -> Any:
        """What leaves the first record as it is."""
        return 0

    def start(self, groups: int) -> Array:
        """The carry before any record."""
        return np.full((groups, *self.shape), self.identity, self.dtype)

    def summary(self, groups: int) -> Summary:
        """The summary of no records."""
        return [self.start(groups)]

    def scan(self, given: Sequence[Array], carry: Array, out: Array | None = None) -> Array:
        """The running aggregate of consecutive records, one or more, after `carry`.

        In `out` where it is given, else in a fresh array.
        """
        raise NotImplementedError

    def step(self, before: Array, given: Sequence[Array]) -> Array:
        """That of one more record of each group: [groups, *shape]."""
        raise NotImplementedError

    def extend(
        self, summary: Summary, groups: Array, given: Sequence[Array], starts: Array
    ) -> None:
        """Lead the summary of `groups`, int[groups], over more of their records."""
        raise NotImplementedError

    def join(self, carry: Array, summary: Summary) -> tuple[Array, Array]:
        """The carry behind a partition, and bool[...]: where it is what the records would give."""
        raise NotImplementedError

    def carries(self, summaries: Sequence[Summary]) -> Array | None:
        """The carries into partitions that follow one another, and behind the last, at once.

        [partitions + 1, groups, *shape], as `join` gives them one by one. None where it would
        ask for records, or where nothing is won.
        """
        return None

    def scan_groups(
        self, given: Sequence[Array], starts: Array, carry: Array, out: Array | None = None
    ) -> Array:
        """The running aggregates of several groups, each after its carry: [rows, *shape].

        Long groups one by one; of the short ones all first records together, then all second
        ones, and so on.
        """
        if len(starts) == 1:
            return self.scan(given, carry[0], out)
        rows = len(given[0])
        made = np.empty((rows, *self.shape), self.dtype) if out is None else out
        lengths = np.diff(starts, append=rows)
        for i in np.flatnonzero(lengths > _SHORT):
            own = slice(starts[i], starts[i] + lengths[i])
            made[own] = self.scan([g[own] for g in given], carry[i])
        short = np.flatnonzero(lengths <= _SHORT)
        short = short[np.argsort(-lengths[short], kind="stable")]
        longest_first, first, before = lengths[short], starts[short], carry[short]
        for j in range(int(longest_first[0]) if len(short) else 0):
            there = int(np.searchsorted(-longest_first, -j))  # groups of more than j records
            at = first[:there] + j
            before = made[at] = self.step(before[:there], [g[at] for g in given])
        return made


class _Ufunc(Form):
    ufunc: np.ufunc

    def scan(self, given: Sequence[Array], carry: Array, out: Array | None = None) -> Array:
        values = np.array(given[0], self.dtype)
        values[0] = self.ufunc(carry, values[0])
        made: Array = self.ufunc.accumulate(values, axis=0, out=out)
        return made

    def step(self, before: Array, given: Sequence[Array]) -> Array:
        made: Array = self.ufunc(before, given[0].astype(self.dtype, copy=False))
        return made

    def extend(
        self, summary: Summary, groups: Array, given: Sequence[Array], starts: Array
    ) -> None:
        own = summary[0]
        own[groups] = self.ufunc(own[groups], _reduced(self.ufunc, given[0], starts, self.dtype))

    def join(self, carry: Array, summary: Summary) -> tuple[Array, Array]:
        made = self.ufunc(carry, summary[0])
        return made, np.ones(made.shape, bool)


def _reduced(ufunc: np.ufunc, values: Array, starts: Array, dtype: np.dtype[Any]) -> Array:
    """The reduction of each group: [groups, *shape]."""
    made: Array
    if len(starts) == 1:
        made = np.asarray(ufunc.reduce(values, axis=0, dtype=dtype))[None]
    else:
        made = ufunc.reduceat(values, starts, axis=0, dtype=dtype)
    return made


class CumSum(_Ufunc):
    """Sums; each block by itself, then the carry added, which loses less than adding it first."""

    ufunc = np.add

    def scan(self, given: Sequence[Array], carry: Array, out: Array | None = None) -> Array:
        if self.is_float and not self.shape and len(given[0]) >= _LONG:
            made = _by_fours(given[0], np.empty(len(given[0]), self.dtype) if out is None else out)
        else:
            made = np.add.accumulate(given[0], dtype=self.dtype, out=out)
        # A sum that is no longer finite stays so: the last one tells.
        last = made[-1]
        if self.is_float and not (np.isfinite(last).all() if self.shape else isfinite(last)):
            return super().scan(given, carry, out)  # inf and -inf may not meet in table order
        made += carry
        return made

    def join(self, carry: Array, summary: Summary) -> tuple[Array, Array]:
        made = carry + summary[0]
        if not self.is_float:
            return made, np.ones(made.shape, bool)
        return made, np.isfinite(summary[0]) | np.isnan(carry)

    def carries(self, summaries: Sequence[Summary]) -> Array | None:
        sums = np.array([self.start(1), *(s[0] for s in summaries)])
        if self.is_float and not np.isfinite(sums).all():
            return None
        made: Array = np.add.accumulate(sums, dtype=self.dtype)
        return made if not self.is_float or np.isfinite(made).all() else None


def _by_fours(values: Array, out: Array) -> Array:
    """Cumulative sums in `out`, float[rows]: those within four records, then before the four.

    Each addition of a chain waits for the one before it; of four chains a quarter as many do. A
    four's last sum is what the next four begin with, so that sums of what is not negative never
    fall.
    """
    whole = len(values) // 4 * 4
    fours = np.empty((4, whole // 4), out.dtype)
    np.copyto(fours, values[:whole].reshape(-1, 4).T)
    for i in range(1, 4):
        np.add(fours[i - 1], fours[i], out=fours[i])
    before = np.empty(whole // 4 + 1, out.dtype)
    before[0] = 0
    np.add.accumulate(fours[3], out=before[1:])
    np.add(fours, before[:-1], out=out[:whole].reshape(-1, 4).T)
    for i in range(whole, len(values)):
        out[i] = out[i - 1] + values[i]
    return out


class CumProd(_Ufunc):
    """Products. A float summary holds the least and greatest size of a running product too."""

    ufunc = np.multiply

    @property
    def identity(self) -> Any:
        return 1

    def summary(self, groups: int) -> Summary:
        return [self.start(groups) for _ in range(3 if self.is_float else 1)]

    def extend(
        self, summary: Summary, groups: Array, given: Sequence[Array], starts: Array
    ) -> None:
        if not self.is_float:
            super().extend(summary, groups, given, starts)
            return
        product, least, greatest = summary
        made = self.scan_groups(given, starts, product[groups])
        product[groups] = made[_ends(starts, len(made))]
        size = np.abs(made)
        low = _reduced(np.minimum, size, starts, self.dtype)
        high = _reduced(np.maximum, size, starts, self.dtype)
        least[groups] = np.minimum(least[groups], low)
        greatest[groups] = np.maximum(greatest[groups], high)

    def join(self, carry: Array, summary: Summary) -> tuple[Array, Array]:
        made = carry * summary[0]
        if not self.is_float:
            return made, np.ones(made.shape, bool)
        _, least, greatest = summary
        info, size = np.finfo(self.dtype.type), np.abs(carry)  # type: ignore[type-var]
        inside = (least >= info.tiny) & (greatest <= info.max)
        # None of the running products leaves the range in which factors may be regrouped.
        regrouped = inside & (size * least >= info.tiny) & (size * greatest <= info.max)
        nothing = (carry == 0) & np.isfinite(greatest)  # 0 times finite numbers
        endless = np.isinf(carry) & (least > 0)  # infinity times what is not 0
        return made, regrouped | nothing | endless | np.isnan(carry)


class _Extreme(_Ufunc):
    @property
    def identity(self) -> Any:
        least = self.ufunc is np.maximum
        if self.is_float:
            return -np.inf if least else np.inf
        if self.dtype.kind == "b":
            return not least
        info = np.iinfo(self.dtype.type)  # type: ignore[type-var]
        return info.min if least else info.max


class CumMin(_Extreme):
    """The least so far; NaN once one was NaN."""

    ufunc = np.minimum


class CumMax(_Extreme):
    """The greatest so far; NaN once one was NaN."""

    ufunc = np.maximum


def _ends(starts: Array, rows: int) -> Array:
    """The last record of each group."""
    return np.append(starts[1:], rows) - 1


class CumSumProd(Form):
    """z = a + b z', a summary being the affine map z' -> z: (z from 0, product of b)."""

    arguments = 2

    def summary(self, groups: int) -> Summary:
        return [self.start(groups), np.ones((groups, *self.shape), self.dtype)]

    def scan(self, given: Sequence[Array], carry: Array, out: Array | None = None) -> Array:
        a, b = given
        made = np.empty((len(a), *self.shape), self.dtype) if out is None else out
        made[...] = a
        made[0] = self.step(carry, (a[0], b[0]))
        for place in np.ndindex(self.shape):
            own = (slice(None), *place)
            made[own] = _recurrence(made[own], b[own])
        return made

    def step(self, before: Array, given: Sequence[Array]) -> Array:
        a, b = given
        made: Array = np.asarray(b, self.dtype) * before
        made += a
        return made

    def extend(
        self, summary: Summary, groups: Array, given: Sequence[Array], starts: Array
    ) -> None:
        z, product = summary
        made = self.scan_groups(given, starts, z[groups])
        z[groups] = made[_ends(starts, len(made))]
        product[groups] *= _reduced(np.multiply, given[1], starts, self.dtype)

    def join(self, carry: Array, summary: Summary) -> tuple[Array, Array]:
        z, product = summary
        made = np.where(carry == 0, z, z + product * carry)
        known = np.isfinite(z) & np.isfinite(product) & np.isfinite(carry)
        return made, known | (carry == 0) | np.isnan(carry)


def _recurrence(a: Array, b: Array) -> Array:
    """float[rows]: z_0 = a_0, z_i = a_i + b_i z_{i-1}, in order.

    It is the solution of a triangular system with 1 on the diagonal and -b below it.
    """
    kind, solve = (np.float64, dtbsv) if a.dtype == np.float64 else (np.float32, stbsv)
    band = np.empty((2, len(a)), kind, order="F")
    band[0] = 1
    band[1, :-1] = b[1:]
    band[1, -1] = 0
    band[1] *= -1
    made: Array = solve(1, band, a, lower=1, diag=1)
    return made


FORMS: dict[str, type[Form]] = {
    "cumsum": CumSum,
    "cummin": CumMin,
    "cummax": CumMax,
    "cumprod": CumProd,
    "cumsumprod": CumSumProd,
}
