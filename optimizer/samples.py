"""What a few records of a source tell: how many differ, which share a predicate keeps.

A source in memory is asked for up to 1,000 of its records, always the same ones; a Parquet file
has the least and greatest values of its columns in its footer. Nothing else is read. Functions
that are not elementwise tell nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from scalops.algebra import operators as op
from scalops.algebra.expressions import Call, Column, Constant, Expression, arguments_first

SAMPLE_ROWS = 1000
Values = npt.NDArray[Any]
Sampled = Mapping[str, tuple[Values, Values | None]]


@runtime_checkable
class SampledSource(Protocol):
    """A source of which some records can be had at no cost.

    `sample(n, columns)` gives n records spread over all of them, or all if there are fewer: for
    each column of single values, and of `arrays` if they are asked for, its values, and which of
    them are not null (None: all). Others are left out.
    """

    def sample(self, rows: int, columns: tuple[str, ...], arrays: bool = False) -> Sampled: ...


@runtime_checkable
class RangedSource(Protocol):
    """A source whose metadata tell the least and the greatest value of some columns."""

    def range_of(self, column: str) -> tuple[float, float] | None: ...


class Unknown(Exception):
    """The sample does not tell."""


@dataclass
class Sample:
    """Records of a source, column by column as they are asked for."""

    source: SampledSource
    rows: int  # of the source
    columns: dict[str, tuple[Values, Values | None]] = field(default_factory=dict)

    def column(self, name: str) -> tuple[Values, Values | None]:
        """Values and mask of a column. Raises: Unknown."""
        if name not in self.columns:
            self.columns.update(self.source.sample(SAMPLE_ROWS, (name,)))
        if name not in self.columns:
            raise Unknown(name)
        return self.columns[name]

    def share(self, predicates: Sequence[Expression]) -> float:
        """The share of the records that all of them keep. Raises: Unknown."""
        kept: Values | None = None
        for p in predicates:
            values, valid = self._evaluate(p)
            own = values if valid is None else values & valid
            kept = own if kept is None else kept & own
        if kept is None or not kept.ndim:
            raise Unknown
        if not len(kept):
            return 1.0
        if len(kept) == self.rows:
            return float(kept.mean())
        return max(float(kept.mean()), 0.5 / len(kept))  # what was not seen is rare

    def distinct(self, keys: Sequence[Expression]) -> float:
        """How many different values the keys have together over the whole source.

        The first-order jackknife of Haas, Naughton, Seshadri and Stokes (VLDB 1995), as
        PostgreSQL has it: n·d / (n - f1 + f1·n/N), where d values are seen in n of N records and
        f1 of them once. Raises: Unknown.
        """
        codes: Values | None = None
        for key in keys:
            values, valid = self._evaluate(key)
            if not values.ndim:
                continue  # the same for all
            own = np.unique(values, return_inverse=True)[1].reshape(-1) + 1
            if valid is not None:
                own = np.where(valid, own, 0)
            if codes is not None:
                own = codes * (int(own.max(initial=0)) + 1) + own
            codes = np.unique(own, return_inverse=True)[1].reshape(-1)
        if codes is None:
            return 1.0
        n = len(codes)
        if not n:
            return 0.0
        counts = np.bincount(codes)
        d, once = len(counts), int((counts == 1).sum())
        if n >= self.rows:
            return float(d)
        return float(min(self.rows, n * d / (n - once + once * n / self.rows)))

    def _evaluate(self, root: Expression) -> tuple[Values, Values | None]:
        done: dict[Expression, tuple[Values, Values | None]] = {}
        with np.errstate(all="ignore"):
            for e in arguments_first(root):
                done[e] = self._own(e, done)
        return done[root]

    def _own(
        self, e: Expression, done: Mapping[Expression, tuple[Values, Values | None]]
    ) -> tuple[Values, Values | None]:
        match e:
            case Column(name=name, record=0):
                return self.column(name)
            case Constant(value=value) if not e.type.shape and not e.type.is_arrow:
                return np.asarray(value), None
            case Constant(value=str(value)):
                return np.asarray(str(value), object), None
            case Call():
                return _called(e, [done[a] for a in e.arguments])
        raise Unknown(type(e).__name__)


def _called(e: Call, given: list[tuple[Values, Values | None]]) -> tuple[Values, Values | None]:
    name = e.function.name
    values, valid = [v for v, _ in given], [m for _, m in given]
    if name == "is_null":
        (mask,) = valid
        return (np.zeros(values[0].shape, bool) if mask is None else ~mask), None
    known = [m for m in valid if m is not None]
    both: Values | None = np.logical_and.reduce(known) if known else None
    if name in ("bitwise_or", "logical_or") and both is not None and e.type.name == "bool":
        # One of them may be a number that is the same for all records.
        sure = reduce(np.logical_or, [v if m is None else v & m for v, m in given])
        return sure, both | sure
    if name == "cast" and values[0].dtype != object and not e.type.is_arrow:
        return values[0].astype(e.type.numpy), both
    if e.function.ufunc is None or any(a.type.shape for a in e.arguments):
        raise Unknown(name)
    try:
        # A weak number is Python's own: NumPy then keeps the column's type.
        own = [
            a.value if isinstance(a, Constant) else v
            for a, v in zip(e.arguments, values, strict=True)
        ]
        return np.asarray(e.function.evaluate(*own, **dict(e.parameters))), both
    except Exception as error:  # as for a column of records that has none: it tells nothing
        raise Unknown(name) from error


_samples: WeakKeyDictionary[Any, Sample] = WeakKeyDictionary()


def sample_of(scan: op.Scan) -> Sample | None:
    """The records of a source that are looked at; None where none can be had at no cost."""
    source = scan.source
    if not isinstance(source, SampledSource) or source.rows is None:
        return None
    if source not in _samples:
        _samples[source] = Sample(source, source.rows)
    return _samples[source]


def share_in_range(scan: op.Scan, p: Expression) -> float | None:
    """The share of a file's records that a comparison of a column with a number keeps.

    As if the values lay evenly between the least and the greatest, which the metadata tell.
    """
    if (
        not isinstance(p, Call)
        or len(p.arguments) != 2
        or not isinstance(scan.source, RangedSource)
    ):
        return None
    (left, right), name = p.arguments, p.function.name
    if isinstance(left, Constant):
        left, right, name = right, left, _MIRRORED.get(name, name)
    if not (isinstance(left, Column) and isinstance(right, Constant) and not right.type.is_arrow):
        return None
    found = scan.source.range_of(left.name)
    if found is None or right.type.shape:
        return None
    low, high = found
    at = (float(right.value) - low) / (high - low) if high > low else 0.5
    if name in ("less", "less_equal"):
        return min(1.0, max(0.0, at))
    if name in ("greater", "greater_equal"):
        return min(1.0, max(0.0, 1.0 - at))
    return None


def distinct_in_range(scan: op.Scan, keys: Sequence[Expression]) -> float | None:
    """At most how many different keys a file has: whole numbers between least and greatest."""
    many = 1.0
    for key in keys:
        if not isinstance(key, Column) or key.type.shape or key.type.is_arrow:
            return None
        if key.type.numpy.kind not in "iu" or not isinstance(scan.source, RangedSource):
            return None
        found = scan.source.range_of(key.name)
        if found is None:
            return None
        many *= found[1] - found[0] + 1
    return many


_MIRRORED = {
    "less": "greater",
    "less_equal": "greater_equal",
    "greater": "less",
    "greater_equal": "less_equal",
}
